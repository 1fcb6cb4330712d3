"""One request handler: the work of a process from the fork to its end.

The handler opens its own database connections, builds the application and serves on listening sockets that it shares
with its siblings. Requests take turns on the event loop, each in a fiber without a thread of its own.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING

from nipap import app
from nipap.access.authentication import Authenticator, AuthSettings
from nipap.access.hash_lane import HashLane
from nipap.access.known_logins import KnownLogins
from nipap.access.login_limits import LoginCounts
from nipap.access.sign_ins import SignInLog, SignInMarks
from nipap.backend import Backend
from nipap.http import traces
from nipap.http.credentials import known_user
from nipap.postgres import connecting
from nipap.postgres.database import Database
from nipap.runtime import places
from nipap.runtime.meter import SILENT
from nipap.runtime.runtime import Runtime
from nipapd import signals
from nipapd.admission import Admission
from nipapd.collector import Collector
from nipapd.config import NOT_TRACED, DaemonSettings, TracingSettings
from nipapd.fibers import Fibers
from nipapd.metrics import Board, Counter
from nipapd.prefork import EXIT_CUT_OFF, Pulse
from nipapd.proxies import Proxies
from nipapd.senders import Sending
from nipapd.server import Container, Guards, Server, Shares
from nipapd.shares import Limits, Parties, Reached
from nipapd.sign_ins import SignInWriter

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from nipapd.tracing import Tracing

log = logging.getLogger(__name__)

LONGEST_LIST = 1000  # most prefixes in memory at once
IDLE_TIMEOUT_S = 600
LEAST_DRAIN_S = 0.1  # idle connections need a turn of the loop to close
FLUSH_S = 5.0  # the time for sending the last spans to a collector
LEAST_FLUSH_S = 0.5
IDLE_GRACE_S = 1.0  # part of the drain: a client between two requests gets its second one answered
ALARM_GRACE_S = 2.0

SignalHandler = Callable[[int, FrameType | None], None]


@dataclass(frozen=True)
class Listeners:
    """The sockets that were bound before the fork, and the TLS context of the encrypted ones."""

    plain: Sequence[socket.socket] = ()
    tls: Sequence[socket.socket] = ()
    tls_context: ssl.SSLContext | None = field(default=None, repr=False)
    admin: Sequence[socket.socket] = ()
    certificate_end: float | None = None  # in seconds since 1970, for metrics


@dataclass(frozen=True)
class Service:
    """The inputs of every handler of a daemon, fixed before the first fork."""

    dsn: str = field(repr=False)  # it may hold a password
    auth: AuthSettings
    settings: DaemonSettings
    listeners: Listeners
    shares: Shares
    login_counts: LoginCounts
    known_logins: KnownLogins
    sign_in_marks: SignInMarks
    board: Board | None = None
    tracing: TracingSettings = NOT_TRACED
    sending: Sending | None = None  # the delivery of events, unless another process does it

    def run_supervised(self, slot: int, pulse: Pulse) -> int:
        """Serve as a child of the supervisor until TERM, and return the exit code."""
        return self._run(slot, pulse, (signal.SIGTERM,), self._end_by_alarm, pulse.beat, pulse.note_answer)

    def run_alone(self, ready: Callable[[], None], watch: Callable[[], None] | None) -> int:
        """Serve in the process that started everything until TERM or INT, and return the exit code.

        A second signal, or the deadline, ends the process by SystemExit even while a request runs. `watch` is called
        once a second, between requests.
        """
        return self._run(0, ready, (signal.SIGTERM, signal.SIGINT), self._end_by_exception, watch)

    def _run(
        self,
        slot: int,
        ready: Callable[[], None],
        numbers: Sequence[signal.Signals],
        limit: Callable[[], SignalHandler],
        watch: Callable[[], None] | None,
        note_answer: Callable[[], None] | None = None,
    ) -> int:
        counter = self.board.counter() if self.board else None
        meter = counter or SILENT
        limits = Limits.of(self.settings)
        reached = Reached(counter.limit) if counter else Reached()
        database = Database(
            self.dsn,
            most_sessions=limits.sessions,
            change_limit_s=self.settings.change_timeout or None,
            meter=meter,
            share=limits.sessions_of_one,
            note_waiting=reached.of('sessions'),
        )
        lane = HashLane(limits.hashes_at_once, limits.hashes_per_second, reached.of('hashes'))
        sign_ins = SignInLog(self.sign_in_marks)
        authenticator = Authenticator(self.auth, self.login_counts, self.known_logins, lane, sign_ins)
        fibers = Fibers(
            most_running=limits.running,
            most_waiting=limits.waiting,
            share=limits.running_of_one,
            streams_of_one=limits.streams_of_one,
            note=reached.note,
        )
        places.use_for_answers(places.Room(limits.spooled, limits.spooled_of_one, reached.of('spooled')))
        parties = Parties(partial(known_user, authenticator=authenticator))
        tracing = self._tracing()
        connecting.use(Runtime(fibers, tracing, fibers.wait_for_postgresql))
        try:
            backend = Backend(database, longest_list=LONGEST_LIST, key_hours=self.settings.idempotency_hours)
            application = app.create(backend, authenticator, max_body=self.settings.max_body, meter=meter)
            application.config['MOST_VALUES'] = limits.values
            application.config['NOTE_LIMIT'] = lambda name: reached.note(name, places.current())
            if endpoint := self.tracing.otlp_http_endpoint:
                traces.add_to(application, authenticator, Collector(endpoint, fibers))
            container = Container(noting(application, note_answer) if note_answer else application, fibers, parties)
            if counter is not None:
                look = looking(counter, fibers, database)
                watch = both(watch, look)
                ready = both(lambda: counter.ready(True), both(look, ready))
            guards = Guards(
                parties=parties,
                admit=Admission(fibers, parties, authenticator),
                note=reached.note,
                most_bodies=limits.bodies,
                bodies_of_one=limits.bodies_of_one,
                connection_share=limits.connection_share,
                min_rate=limits.min_rate,
            )
            server = self._server(container, slot, guards)
            writer = SignInWriter(sign_ins, database, fibers)
            return asyncio.run(self._main(server, fibers, ready, numbers, limit(), watch, counter, tracing, writer))
        finally:
            if sign_ins.pending:
                log.warning('%d sign-ins were not logged: PostgreSQL is away', sign_ins.pending)
            authenticator.close()
            database.close()

    async def _main(
        self,
        server: Server,
        fibers: Fibers,
        ready: Callable[[], None],
        numbers: Sequence[signal.Signals],
        limit: SignalHandler,
        watch: Callable[[], None] | None,
        counter: Counter | None,
        tracing: Tracing | None,
        writer: SignInWriter,
    ) -> int:
        stop = asyncio.Event()
        for number in numbers:
            # One signal has two effects. The loop is woken through its descriptor and sets the event after its present
            # callback. The signal handler, which replaces the loop's idle one, runs even while a request keeps the loop
            # busy.
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
            signal.signal(number, limit)
        watching = asyncio.create_task(every_second(watch)) if watch else None
        server.listen_on(self.listeners.plain)
        server.listen_on(self.listeners.tls, self.listeners.tls_context)
        ready()
        if self.sending:
            self.sending.begin(fibers)
        writer.begin()
        try:
            await stop.wait()
            if watching:
                watching.cancel()
            if counter:
                counter.ready(False)
            code = await self._finish(server, tracing)
            await writer.finish()
            fibers.end()
            await server.cut_off()
            return code
        finally:
            fibers.end()
            signals.ignore(numbers)

    def _server(self, container: Container, slot: int, guards: Guards) -> Server:
        return Server(
            container,
            max_body=self.settings.max_body,
            guards=guards,
            request_timeout_s=self.settings.request_timeout,
            idle_connection_timeout=IDLE_TIMEOUT_S,
            share=self.shares.of(slot),
            hsts=self.settings.ssl_hsts,
            proxies=Proxies(self.settings.trusted_proxies),
        )

    def _tracing(self) -> Tracing | None:
        """Return the tracing of calls, with threads of its own; to be called in the handler. None: tracing is off."""
        if not self.tracing.is_on:
            return None
        from nipapd.tracing import Tracing

        return Tracing(self.tracing)

    async def _finish(self, server: Server, tracing: Tracing | None) -> int:
        """Finish the requests under way; return 0, or EXIT_CUT_OFF when the deadline passes earlier."""
        deadline = time.monotonic() + self.settings.drain_timeout
        try:
            return await self._drain(server)
        finally:
            if tracing is not None:
                tracing.stop(min(FLUSH_S, max(LEAST_FLUSH_S, deadline - time.monotonic())))

    async def _drain(self, server: Server) -> int:
        server.stop_accepting(min(IDLE_GRACE_S, self.settings.drain_timeout / 2))
        try:
            await asyncio.wait_for(server.drained(), max(self.settings.drain_timeout, LEAST_DRAIN_S))
        except TimeoutError:
            log.warning('closing %d connections that are still busy', server.open_connections)
            return EXIT_CUT_OFF
        return 0

    def _end_by_alarm(self) -> SignalHandler:
        """Return a signal handler that sets an alarm to end the process, since the supervisor may be gone by then."""
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        asked: list[int] = []

        def limit(number: int, _frame: FrameType | None) -> None:
            if not asked:
                signal.setitimer(signal.ITIMER_REAL, self.settings.drain_timeout + ALARM_GRACE_S)
            asked.append(number)

        return limit

    def _end_by_exception(self) -> SignalHandler:
        """Return a signal handler that first sets an alarm as deadline. The alarm, or another signal, ends the loop."""
        asked: list[int] = []

        def limit(number: int, _frame: FrameType | None) -> None:
            if asked:
                raise SystemExit(EXIT_CUT_OFF)
            signal.setitimer(signal.ITIMER_REAL, self.settings.drain_timeout + ALARM_GRACE_S)
            asked.append(number)

        signal.signal(signal.SIGALRM, limit)
        return limit


def noting(application: WSGIApplication, note_answer: Callable[[], None]) -> WSGIApplication:
    """Return an application that calls `note_answer` after each answer."""

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        body = application(environ, start_response)
        note_answer()
        return body

    return answer


def both(first: Callable[[], None] | None, second: Callable[[], None]) -> Callable[[], None]:
    """Return a function that calls both, or the second alone if there is no first."""

    def do() -> None:
        if first is not None:
            first()
        second()

    return do


def looking(counter: Counter, fibers: Fibers, database: Database) -> Callable[[], None]:
    """Return a function that writes the present load to the counter."""
    refused = 0

    def look() -> None:
        nonlocal refused
        counter.refuse(fibers.refused - refused)
        refused = fibers.refused
        counter.look(
            running=fibers.running,
            queued=fibers.queued,
            sessions=database.in_use,
            most_sessions=database.most_sessions,
        )

    return look


async def every_second(watch: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(1)
        watch()
