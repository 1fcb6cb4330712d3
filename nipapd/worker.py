"""One request handler: what a process does between the fork and its end.

The handler opens its own database connections, builds the application and answers on listening sockets that it
shares with its siblings. Requests run on the event loop, one at a time: no executor, no thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
import signal
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from tornado.concurrent import dummy_executor
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPConnection, HTTPHeaders, HTTPMessageDelegate, RequestStartLine, ResponseStartLine
from tornado.iostream import IOStream, SSLIOStream
from tornado.netutil import ssl_wrap_socket
from tornado.wsgi import WSGIContainer

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

from nipap.authlib import Authenticator, AuthSettings
from nipap.backend import Backend
from nipap.db import Database
from nipap.flask_xmlrpc import create_app
from nipapd.prefork import EXIT_CUT_OFF

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 16 << 20
MAX_BUFFER_BYTES = MAX_BODY_BYTES + (1 << 20)
BODY_TIMEOUT_S = 30
IDLE_TIMEOUT_S = 600
ACCEPT_PAUSE_S = 0.1
ALARM_GRACE_S = 1.0

SignalHandler = Callable[[int, FrameType | None], None]


@dataclass(frozen=True)
class Listeners:
    """The sockets that were bound before the fork, and how those for TLS encrypt."""

    plain: Sequence[socket.socket] = ()
    tls: Sequence[socket.socket] = ()
    tls_context: ssl.SSLContext | None = field(default=None, repr=False)


class ServerConnection(Protocol):
    """What Tornado passes for a connection, as far as it is used here."""

    stream: IOStream


class Server(HTTPServer):
    """An HTTPServer that can stop without cutting off an answer.

    It accepts one connection per turn of the loop, so that siblings which share the listening socket share the
    connections too; Tornado's own accept handler takes all that wait.
    """

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        super().initialize(*args, **kwargs)
        self._listening: list[socket.socket] = []
        self._waiting: set[ServerConnection] = set()
        self._open = 0
        self._draining = False
        self._drained = asyncio.Event()

    # accepting

    def listen_on(self, sockets: Sequence[socket.socket], tls: ssl.SSLContext | None = None) -> None:
        """Accept connections on sockets that are bound and not blocking; encrypted ones when `tls` is given."""
        for listener in sockets:
            self._listening.append(listener)
            self._resume(listener, tls)

    def _resume(self, listener: socket.socket, tls: ssl.SSLContext | None) -> None:
        if listener in self._listening:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener, tls)

    def _accept(self, listener: socket.socket, tls: ssl.SSLContext | None) -> None:
        try:
            connection, address = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # a sibling was faster, or the client has gone
        except OSError as error:
            log.error('cannot accept a connection: %s', error.strerror)
            loop = asyncio.get_running_loop()
            loop.remove_reader(listener)
            loop.call_later(ACCEPT_PAUSE_S, self._resume, listener, tls)
            return
        with contextlib.suppress(ssl.SSLError, OSError):  # gone before the handshake
            self.handle_stream(self._stream(connection, tls), address)

    def _stream(self, connection: socket.socket, tls: ssl.SSLContext | None) -> IOStream:
        if tls is None:
            return IOStream(connection, max_buffer_size=MAX_BUFFER_BYTES)
        wrapped = ssl_wrap_socket(connection, tls, server_side=True, do_handshake_on_connect=False)
        return SSLIOStream(wrapped, max_buffer_size=MAX_BUFFER_BYTES)

    # knowing which connections wait for a request

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        self._open += 1
        super().handle_stream(stream, address)

    def start_request(self, server_conn: Any, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        self._waiting.add(server_conn)
        if self._draining:
            close_unless_asked(server_conn)
        delegate = super().start_request(server_conn, request_conn)
        return _Request(delegate, lambda: self._waiting.discard(server_conn))

    def on_close(self, server_conn: Any) -> None:
        super().on_close(server_conn)
        self._waiting.discard(server_conn)
        self._open -= 1
        self._note_drained()

    # stopping

    @property
    def open_connections(self) -> int:
        return self._open

    async def drain(self) -> None:
        """Accept nothing more, close what is idle, and return when every request that was begun is answered.

        A request that has arrived but was not read yet counts as begun.
        """
        loop = asyncio.get_running_loop()
        for listener in self._listening:
            loop.remove_reader(listener)
            listener.close()
        self._listening.clear()
        self._draining = True
        self.conn_params.no_keep_alive = True  # answers say "Connection: close" from now on
        for connection in list(self._waiting):
            close_unless_asked(connection)
        self._note_drained()
        await self._drained.wait()

    def _note_drained(self) -> None:
        if self._draining and self._open == 0:
            self._drained.set()


class _Request(HTTPMessageDelegate):
    """Passes a request on, and says when its headers are there."""

    def __init__(self, delegate: HTTPMessageDelegate, begun: Callable[[], None]) -> None:
        self._begun = begun
        self._delegate = delegate
        self.data_received = delegate.data_received  # type: ignore[method-assign]
        self.finish = delegate.finish  # type: ignore[method-assign]
        self.on_connection_close = delegate.on_connection_close  # type: ignore[method-assign]

    def headers_received(self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders) -> Any:
        self._begun()
        return self._delegate.headers_received(start_line, headers)


def close_unless_asked(connection: ServerConnection) -> None:
    """Close a connection on which nothing has arrived that was not read yet."""
    stream = connection.stream
    if stream.closed() or has_input(stream.socket):
        return
    stream.close()


def has_input(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


async def serve(
    application: WSGIApplication,
    listeners: Listeners,
    stop: asyncio.Event,
    ready: Callable[[], None],
    drain_timeout_s: float,
) -> int:
    """Answer requests until `stop` is set, then finish what was begun.

    Returns 0, or EXIT_CUT_OFF when the deadline passed before every answer was sent.
    """
    # Named because Tornado 7 changes the default to a thread pool.
    container = WSGIContainer(application, executor=dummy_executor)
    server = Server(
        container,
        max_body_size=MAX_BODY_BYTES,
        max_buffer_size=MAX_BUFFER_BYTES,
        body_timeout=BODY_TIMEOUT_S,
        idle_connection_timeout=IDLE_TIMEOUT_S,
    )
    server.listen_on(listeners.plain)
    server.listen_on(listeners.tls, listeners.tls_context)
    ready()
    await stop.wait()
    try:
        await asyncio.wait_for(server.drain(), drain_timeout_s)
    except TimeoutError:
        log.warning('%d connections still busy after %g s are cut off', server.open_connections, drain_timeout_s)
        return EXIT_CUT_OFF
    return 0


@dataclass(frozen=True)
class Service:
    """What every handler of a daemon needs to know, fixed before the first fork."""

    dsn: str = field(repr=False)  # it may hold a password
    auth: AuthSettings
    listeners: Listeners
    drain_timeout_s: float

    def run_supervised(self, _slot: int, ready: Callable[[], None]) -> int:
        """Serve as a child of the supervisor, until TERM; returns the exit code."""
        return self._run(ready, (signal.SIGTERM,), self._end_by_alarm, None)

    def run_alone(self, ready: Callable[[], None], watch: Callable[[], None]) -> int:
        """Serve in the process that started everything, until TERM or INT; returns the exit code.

        A second signal, or the deadline, ends it by SystemExit even while a request runs. `watch` is called once a
        second, between requests.
        """
        return self._run(ready, (signal.SIGTERM, signal.SIGINT), self._end_by_exception, watch)

    def _run(
        self,
        ready: Callable[[], None],
        numbers: Sequence[signal.Signals],
        limit: Callable[[], SignalHandler],
        watch: Callable[[], None] | None,
    ) -> int:
        database = Database(self.dsn)
        try:
            application = create_app(Backend(database), Authenticator(self.auth))
            return asyncio.run(self._main(application, ready, numbers, limit(), watch))
        finally:
            database.close()

    async def _main(
        self,
        application: WSGIApplication,
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
        try:
            return await serve(application, self.listeners, stop, ready, self.drain_timeout_s)
        finally:
            if watching:
                watching.cancel()

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
