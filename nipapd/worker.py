"""One request handler: what a process does between the fork and its end.

The handler opens its own database connections, builds the application and answers on listening sockets that it
shares with its siblings. Requests run on the event loop, one at a time: no executor, no thread.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING

from nipap.authlib import Authenticator, AuthSettings
from nipap.backend import Backend
from nipap.db import Database
from nipap.flask_xmlrpc import create_app
from nipapd.prefork import EXIT_CUT_OFF
from nipapd.server import Container, Server, Shares

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

log = logging.getLogger(__name__)

LONGEST_LIST = 1000  # prefixes that are in memory at once
IDLE_TIMEOUT_S = 600
LEAST_DRAIN_S = 0.1  # idle connections need a turn of the loop to close
ALARM_GRACE_S = 2.0

SignalHandler = Callable[[int, FrameType | None], None]


@dataclass(frozen=True)
class Listeners:
    """The sockets that were bound before the fork, and how those for TLS encrypt."""

    plain: Sequence[socket.socket] = ()
    tls: Sequence[socket.socket] = ()
    tls_context: ssl.SSLContext | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Service:
    """What every handler of a daemon needs to know, fixed before the first fork."""

    dsn: str = field(repr=False)  # it may hold a password
    auth: AuthSettings
    listeners: Listeners
    shares: Shares
    max_body: int
    request_timeout_s: float
    drain_timeout_s: float
    idempotency_hours: int

    def run_supervised(self, slot: int, ready: Callable[[], None]) -> int:
        """Serve as a child of the supervisor, until TERM; returns the exit code."""
        return self._run(slot, ready, (signal.SIGTERM,), self._end_by_alarm, None)

    def run_alone(self, ready: Callable[[], None], watch: Callable[[], None] | None) -> int:
        """Serve in the process that started everything, until TERM or INT; returns the exit code.

        A second signal, or the deadline, ends it by SystemExit even while a request runs. `watch` is called once a
        second, between requests.
        """
        return self._run(0, ready, (signal.SIGTERM, signal.SIGINT), self._end_by_exception, watch)

    def _run(
        self,
        slot: int,
        ready: Callable[[], None],
        numbers: Sequence[signal.Signals],
        limit: Callable[[], SignalHandler],
        watch: Callable[[], None] | None,
    ) -> int:
        database, authenticator = Database(self.dsn), Authenticator(self.auth)
        try:
            backend = Backend(database, longest_list=LONGEST_LIST, key_hours=self.idempotency_hours)
            application = create_app(backend, authenticator, max_body=self.max_body)
            server = self._server(application, slot)
            return asyncio.run(self._main(server, ready, numbers, limit(), watch))
        finally:
            authenticator.close()
            database.close()

    async def _main(
        self,
        server: Server,
        ready: Callable[[], None],
        numbers: Sequence[signal.Signals],
        limit: SignalHandler,
        watch: Callable[[], None] | None,
    ) -> int:
        stop = asyncio.Event()
        for number in numbers:
            # Two effects of one signal. The loop, woken through its descriptor, sets the event once it comes round;
            # the handler put in place of the loop's idle one runs even while a request keeps the loop busy.
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
            signal.signal(number, limit)
        watching = asyncio.create_task(every_second(watch)) if watch else None
        server.listen_on(self.listeners.plain)
        server.listen_on(self.listeners.tls, self.listeners.tls_context)
        ready()
        await stop.wait()
        if watching:
            watching.cancel()
        return await self._finish(server)

    def _server(self, application: WSGIApplication, slot: int) -> Server:
        return Server(
            Container(application),
            max_body=self.max_body,
            request_timeout_s=self.request_timeout_s,
            idle_connection_timeout=IDLE_TIMEOUT_S,
            share=self.shares.of(slot),
        )

    async def _finish(self, server: Server) -> int:
        """Answer what was begun; 0, or EXIT_CUT_OFF when the deadline passes before that is done."""
        server.stop_accepting()
        try:
            await asyncio.wait_for(server.drained(), max(self.drain_timeout_s, LEAST_DRAIN_S))
        except TimeoutError:
            log.warning('%d connections are still busy and cut off', server.open_connections)
            return EXIT_CUT_OFF
        return 0

    def _end_by_alarm(self) -> SignalHandler:
        """On the first signal set an alarm that ends the process: the supervisor that would kill it may be gone."""
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        asked: list[int] = []

        def limit(number: int, _frame: FrameType | None) -> None:
            if not asked:
                signal.setitimer(signal.ITIMER_REAL, self.drain_timeout_s + ALARM_GRACE_S)
            asked.append(number)

        return limit

    def _end_by_exception(self) -> SignalHandler:
        """The first signal sets the deadline, whatever comes next ends the loop."""
        asked: list[int] = []

        def limit(number: int, _frame: FrameType | None) -> None:
            if asked:
                raise SystemExit(EXIT_CUT_OFF)
            signal.setitimer(signal.ITIMER_REAL, self.drain_timeout_s + ALARM_GRACE_S)
            asked.append(number)

        signal.signal(signal.SIGALRM, limit)
        return limit


async def every_second(watch: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(1)
        watch()
