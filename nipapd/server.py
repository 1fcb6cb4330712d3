"""The HTTP server of a handler: shares connections fairly with its siblings, stops without cutting off an answer."""

from __future__ import annotations

import asyncio
import logging
import mmap
import select
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import tornado.platform.asyncio  # noqa: F401  (Tornado imports it late, when our account may not be able to read it)
from tornado.concurrent import dummy_executor
from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerRequest,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import IOStream, SSLIOStream
from tornado.netutil import ssl_wrap_socket
from tornado.wsgi import WSGIContainer

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

log = logging.getLogger(__name__)

ERROR_PAUSE_S = 0.1
COURTESY_S = 0.002


class Shares:
    """How many connections each handler has open, in memory that is shared by all processes forked later."""

    def __init__(self, handlers: int) -> None:
        self._counts = memoryview(mmap.mmap(-1, 4 * handlers)).cast('i')

    def of(self, slot: int) -> Share:
        """The share of one handler, which begins with nothing."""
        self._counts[slot] = 0
        return Share(self._counts, slot)


class Share:
    """The number of open connections of one handler, beside those of the others."""

    def __init__(self, counts: memoryview[int], slot: int) -> None:
        self._counts = counts
        self._slot = slot

    @property
    def open(self) -> int:
        return self._counts[self._slot]

    def change(self, by: int) -> None:
        self._counts[self._slot] += by

    def is_smallest(self) -> bool:
        """Whether no other handler has fewer."""
        return self.open <= min(self._counts)


class ServerConnection(Protocol):
    """What Tornado passes for a connection, as far as it is used here."""

    stream: IOStream


class Server(HTTPServer):
    """An HTTPServer that can stop without cutting off an answer.

    It accepts one connection per turn of the loop, and gives way for a moment to siblings who have fewer: clients
    keep their connections, so one that takes all that wait, as Tornado's own accept handler does, would do all the
    work while the others idle.
    """

    def initialize(self, *args: Any, share: Share | None = None, **kwargs: Any) -> None:
        super().initialize(*args, **kwargs)
        self._share = share or Shares(1).of(0)
        self._listening: list[socket.socket] = []
        self._waiting: set[ServerConnection] = set()
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
            asyncio.get_running_loop().add_reader(listener, self._on_waiting, listener, tls)

    def _on_waiting(self, listener: socket.socket, tls: ssl.SSLContext | None) -> None:
        """A connection waits: for us, unless a sibling with fewer takes it within a moment."""
        if self._share.is_smallest():
            self._accept(listener, tls)
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)
        loop.call_later(COURTESY_S, self._accept_late, listener, tls)

    def _accept_late(self, listener: socket.socket, tls: ssl.SSLContext | None) -> None:
        if listener in self._listening:
            self._resume(listener, tls)
            self._accept(listener, tls)

    def _accept(self, listener: socket.socket, tls: ssl.SSLContext | None) -> None:
        try:
            connection, address = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # a sibling was faster, or the client has gone
        except OSError as error:
            log.error('cannot accept a connection: %s', error.strerror)
            loop = asyncio.get_running_loop()
            loop.remove_reader(listener)
            loop.call_later(ERROR_PAUSE_S, self._resume, listener, tls)
            return
        try:
            stream = self._stream(connection, tls)
        except OSError:  # ssl.SSLError is one: the client has gone before the handshake
            connection.close()
        else:
            self.handle_stream(stream, address)

    def _stream(self, connection: socket.socket, tls: ssl.SSLContext | None) -> IOStream:
        if tls is None:
            return IOStream(connection, max_buffer_size=self.max_buffer_size)
        wrapped = ssl_wrap_socket(connection, tls, server_side=True, do_handshake_on_connect=False)
        return SSLIOStream(wrapped, max_buffer_size=self.max_buffer_size)

    # knowing which connections wait for a request

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        self._share.change(+1)
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
        self._share.change(-1)
        self._note_drained()

    # stopping

    @property
    def open_connections(self) -> int:
        return self._share.open

    def stop_accepting(self) -> None:
        """Accept nothing more, close what is idle, and close the rest as it is answered.

        A request that has arrived but was not read yet is answered too.
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

    async def drained(self) -> None:
        """Return when, after stop_accepting, every connection is closed."""
        await self._drained.wait()

    def _note_drained(self) -> None:
        if self._draining and self._share.open == 0:
            self._drained.set()


class Container(WSGIContainer):
    """Runs a WSGI application on the event loop, one request at a time; the client always gets an answer."""

    def __init__(self, application: WSGIApplication) -> None:
        # Named because Tornado 7 changes the default to a thread pool.
        super().__init__(application, executor=dummy_executor)

    async def handle_request(self, request: HTTPServerRequest) -> None:
        try:
            await super().handle_request(request)
        except Exception:
            log.exception('a request failed')
            if request.connection is not None:
                headers = HTTPHeaders({'Content-Length': '0'})
                request.connection.write_headers(ResponseStartLine('HTTP/1.1', 500, 'Internal Server Error'), headers)
                request.connection.finish()


class _Request(HTTPMessageDelegate):
    """Passes a request on, and says when its headers are there."""

    def __init__(self, delegate: HTTPMessageDelegate, begun: Callable[[], None]) -> None:
        self._begun = begun
        self._delegate = delegate
        # Passed on as they are, without a call in between; mypy knows methods only as written.
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
