"""The HTTP server of a handler: shares connections fairly with siblings, and stops without cutting off responses."""

from __future__ import annotations

import asyncio
import logging
import mmap
import re
import resource
import select
import socket
import ssl
import struct
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

import tornado.platform.asyncio  # noqa: F401  (Tornado imports it late, when our account may not be able to read it)
from greenlet import GreenletExit
from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerRequest,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import IOStream, StreamClosedError
from tornado.netutil import ssl_wrap_socket
from tornado.wsgi import WSGIContainer

from nipap.errors import NipapError, NipapInputError, NipapTooLargeError, NipapUnavailableError
from nipap.rest.problems import told
from nipap.runtime import tracer
from nipap.runtime.places import ClientGoneError, Party, Room, Turn
from nipapd.fibers import Fibers
from nipapd.proxies import Proxies
from nipapd.shares import Parties
from nipapd.streams import REQUEST_ID, SAFE, Stream, TlsStream, last_answer
from nipapd.tls import HSTS

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

log = logging.getLogger(__name__)

ERROR_PAUSE_S = 0.1
UNBUFFERED = ('X-Accel-Buffering', 'no')  # the header of a response whose parts are sent one by one as they arise
COURTESY_S = 0.002
AT_ONCE = 2**20  # the most bytes of a response that are written in one piece
RETRY_AFTER = ('Retry-After', '1')
WITHOUT_BODY = frozenset({204, 304})
MAX_BODY = 10 * 2**20
REQUEST_TIMEOUT_S = 30.0
BUFFER = 2**20  # must hold the headers of a request; bodies are read in pieces
MOST_HEADERS = 2**16  # bytes of a request before its body
HEADERS_TOO_LARGE = '431 Request Header Fields Too Large'
TOO_LONG = b'The headers of the request are too large, %d bytes are accepted.\n' % MOST_HEADERS
UNLIMITED = 2**62  # for Tornado, which would close without a response; `Server` refuses larger requests itself
ACCEPTS = 16  # most connections in one turn of the loop, while no sibling has fewer
LOOKS = 8  # checks of a slow connection within the time that it has
SMALL_BODY = 2**16  # the bytes of a body that are read from every client, and are not counted
HALF_OPEN_S = 1.0  # a request that has been arriving for longer may be closed for another connection
ABSOLUTE = re.compile(r'https?://([^/?#@]*)((?:[/?#].*)?)', re.IGNORECASE)
SPARE_DESCRIPTORS = 128  # for PostgreSQL, files of long answers, accounts; half of the limit if that is less
PORT = re.compile('[0-9]{1,5}')
ONLY_ONCE = (
    'Nipap-',
    'Idempotency-Key',
)  # beginnings of header names that may occur once; several headers joined would have another meaning
READING_S = 0.01
LINGER_S = 10  # for so long the rest of a refused request is read and thrown away, so that the client reads the reason


class Shares:
    """The number of open connections of each handler, in memory shared by all processes that are forked later."""

    def __init__(self, handlers: int) -> None:
        self._counts = memoryview(mmap.mmap(-1, 4 * handlers)).cast('i')

    def of(self, slot: int) -> Share:
        """Return the share of one handler, set to no connections."""
        self._counts[slot] = 0
        return Share(self._counts, slot)


class Share:
    """The number of open connections of one handler, comparable with those of the others."""

    def __init__(self, counts: memoryview[int], slot: int) -> None:
        self._counts = counts
        self._slot = slot

    @property
    def open(self) -> int:
        return self._counts[self._slot]

    def change(self, by: int) -> None:
        self._counts[self._slot] += by

    def is_smallest(self) -> bool:
        """Return whether no other handler has fewer connections."""
        return self.open <= min(self._counts)


@dataclass(frozen=True)
class Guards:
    """The limits of a server for parties, and its callbacks to the rest of the daemon.

    admit: checks the credentials of a request with more than a small body, given its path, its headers and its address;
    returns the response that refuses the request, or None. note: called with the name of a limit and the party that has
    reached it.
    """

    parties: Parties = field(default_factory=Parties)
    admit: Callable[[str, HTTPHeaders, str], Awaitable[bytes | None]] | None = None
    note: Callable[[str, Party], None] = lambda *_: None
    most_bodies: int = 128 * 2**20
    bodies_of_one: int = 128 * 2**20
    connection_share: float = 1.0
    min_rate: int = 2**10


class ServerConnection(Protocol):
    """The part of Tornado's object for a connection that is used here."""

    stream: IOStream


class Server(HTTPServer):
    """An HTTPServer that can stop without cutting off a response.

    The server accepts some connections per turn of the loop, and leaves the next ones for a moment to siblings with
    fewer connections. Clients keep their connections: a handler that accepts all waiting connections, as Tornado's own
    accept handler does, would do all the work while the others idle.

    A body of more than `max_body` bytes is refused with HTTP 413, and not kept. The bodies of unanswered requests have
    limits in `guards`; a body beyond them is refused with HTTP 503. A connection is closed when the headers of a
    request take longer than `request_timeout_s`, and when the client then sends a body, or takes a response, at less
    than `guards.min_rate` bytes a second. With `most_connections` connections, or as many as descriptors allow, a
    connection that waits for a request, or whose request has been arriving for a while, is closed to make room for the
    next. Connections of the networks with the most connections are closed first.

    With `hsts`, every response over TLS makes browsers use TLS only for a year. `proxies` are trusted for the addresses
    of their clients.
    """

    def initialize(
        self,
        *args: Any,
        share: Share | None = None,
        max_body: int = MAX_BODY,
        guards: Guards | None = None,
        request_timeout_s: float = REQUEST_TIMEOUT_S,
        most_connections: int | None = None,
        hsts: bool = False,
        proxies: Proxies | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs |= {'max_body_size': UNLIMITED, 'max_buffer_size': BUFFER}
        kwargs['max_header_size'] = MOST_HEADERS
        super().initialize(*args, **kwargs)
        self._max_body = max_body
        self._guards = guards = guards or Guards()
        # A client that declares a large body and stops costs only the bytes sent until it is given up. A client with an
        # unanswered request costs the whole body.
        self._bodies = Room(max(guards.most_bodies, max_body), max(guards.bodies_of_one, max_body))
        self._of_network: dict[str, int] = {}  # number of connections
        # The time of the last check of a slow reader, the bytes taken by then, and the bytes written by then.
        self._writing: dict[ServerConnection, tuple[float, int, int]] = {}
        self._requests: dict[ServerConnection, _Request] = {}  # the latest of each connection
        self._request_timeout_s = request_timeout_s
        self._slow: dict[ServerConnection, float] = {}  # when a part of a request's headers was first seen
        self._most_connections = most_connections or descriptors_for_connections()
        # Extra connections, accepted for networks with less than their share.
        self._kept = min(self._most_connections // 4, SPARE_DESCRIPTORS // 4)
        self._parked: deque[tuple[socket.socket, tuple[Any, ...], ssl.SSLContext | None]] = deque()
        self._hsts = hsts
        self._proxies = proxies
        self._share = share or Shares(1).of(0)
        self._listening: list[socket.socket] = []
        self._waiting: dict[ServerConnection, None] = {}  # the longest waiting first
        self._is_full = False
        self._draining = False
        self._grace_s = 0.0
        self._drained = asyncio.Event()
        self._clock: asyncio.TimerHandle | None = None

    # accepting

    def listen_on(self, sockets: Sequence[socket.socket], tls: ssl.SSLContext | None = None) -> None:
        """Accept connections on bound, non-blocking sockets; with TLS when `tls` is given."""
        for listener in sockets:
            self._listening.append(listener)
            self._resume(listener, tls)
        if self._clock is None:
            self._look_for_slow()

    def _resume(self, listener: socket.socket, tls: ssl.SSLContext | None) -> None:
        if listener in self._listening:
            asyncio.get_running_loop().add_reader(listener, self._on_waiting, listener, tls)

    def _on_waiting(self, listener: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Accept waiting connections, unless a sibling with fewer takes them within COURTESY_S."""
        if self._share.is_smallest():
            # One at a time, the last of many would wait for as many turns of the loop.
            for _ in range(ACCEPTS):
                if not self._accept(listener, tls) or not self._share.is_smallest():
                    break
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)
        loop.call_later(COURTESY_S, self._accept_late, listener, tls)

    def _accept_late(self, listener: socket.socket, tls: ssl.SSLContext | None) -> None:
        if listener in self._listening:
            self._resume(listener, tls)
            self._accept(listener, tls)

    def _accept(self, listener: socket.socket, tls: ssl.SSLContext | None) -> bool:
        """Accept a connection; return whether to try another one."""
        is_full = self.open_connections >= self._most_connections and not self._make_room()
        if is_full and self.open_connections + len(self._parked) >= self._most_connections + self._kept:
            if not self._parked:
                self._pause(listener, tls, self._all_in_use())
                return False
            self._parked.popleft()[0].close()
        try:
            connection, address = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False  # a sibling was faster, or the client has gone
        except OSError as error:
            self._pause(listener, tls, str(error.strerror))
            return False
        if is_full and self._has_too_many(address):
            self._park(connection, address, tls)
        else:
            self._is_full = is_full
            self._begin(connection, address, tls)
        return True

    def _begin(self, connection: socket.socket, address: tuple[Any, ...], tls: ssl.SSLContext | None) -> None:
        try:
            stream = self._stream(connection, tls)
        except OSError:  # including ssl.SSLError: the client has gone before the handshake
            connection.close()
        else:
            self.handle_stream(stream, address)

    def _pause(self, listener: socket.socket, tls: ssl.SSLContext | None, why: str) -> None:
        """Stop accepting for ERROR_PAUSE_S: connections wait, or a sibling accepts them."""
        self._say_full(why)
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)
        loop.call_later(ERROR_PAUSE_S, self._resume, listener, tls)

    def _say_full(self, why: str) -> None:
        if not self._is_full:  # log it once
            log.error('cannot accept a connection: %s', why)
        self._is_full = True

    def _all_in_use(self) -> str:
        return f'there are {self.open_connections} connections, and all are in use'

    def _has_too_many(self, address: tuple[Any, ...]) -> bool:
        """Return whether a network has its share of all connections, or more."""
        network = self._party_at(address).group
        return self._of_network.get(network, 0) >= self._guards.connection_share * self._most_connections

    def _party_at(self, address: tuple[Any, ...]) -> Party:
        return self._guards.parties.stranger(str(address[0]) if address else '')

    def _park(self, connection: socket.socket, address: tuple[Any, ...], tls: ssl.SSLContext | None) -> None:
        """Keep a connection unserved until there is room, while other networks are served."""
        self._guards.note('connections', self._party_at(address))
        self._say_full(self._all_in_use())
        self._parked.append((connection, address, tls))
        if len(self._parked) == 1:
            asyncio.get_running_loop().call_later(ERROR_PAUSE_S, self._serve_parked)

    def _serve_parked(self) -> None:
        while self._parked and (self.open_connections < self._most_connections or self._make_room()):
            self._begin(*self._parked.popleft())
        if self._parked:
            asyncio.get_running_loop().call_later(ERROR_PAUSE_S, self._serve_parked)

    def _make_room(self) -> bool:
        """Close the connection that has waited longest for a request, else the one whose request has arrived longest.

        Only networks with the most connections, or at least half as many, lose one. Return whether a connection was
        closed.
        """
        most = max(self._of_network.values(), default=0)

        def is_of_most(connection: ServerConnection) -> bool:
            return 2 * self._of_network.get(network_of(connection), 0) >= most

        for connection in self._waiting:
            if is_of_most(connection) and not is_arriving(connection.stream) and close_unless_asked(connection):
                return True
        now = asyncio.get_running_loop().time()
        since = {one: request.began for one, request in self._requests.items() if request.is_arriving}
        since |= {one: self._slow.setdefault(one, now) for one in self._waiting if is_arriving(one.stream)}
        late = [one for one in since if now - since[one] > HALF_OPEN_S and is_of_most(one)]
        if not late:
            return False
        oldest = min(late, key=since.__getitem__)
        self._guards.note('connections', self._guards.parties.stranger(address_of(oldest)))
        oldest.stream.close()
        return True

    def _stream(self, connection: socket.socket, tls: ssl.SSLContext | None) -> Stream | TlsStream:
        if tls is None:
            return Stream(connection, max_buffer_size=self.max_buffer_size)
        wrapped = ssl_wrap_socket(connection, tls, server_side=True, do_handshake_on_connect=False)
        stream = TlsStream(wrapped, max_buffer_size=self.max_buffer_size)
        stream.hsts = self._hsts
        return stream

    # connections that wait for a request

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        self._share.change(+1)
        network = self._party_at(address).group
        stream.network = network  # type: ignore[attr-defined]  # it is a Stream
        self._of_network[network] = self._of_network.get(network, 0) + 1
        super().handle_stream(stream, address)

    def start_request(self, server_conn: Any, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        self._waiting[server_conn] = None
        stream_of(request_conn).given_id = None
        if self._draining:  # the last response may have lacked "Connection: close"
            asyncio.get_running_loop().call_later(self._grace_s, self._close_waiting, [server_conn])
        delegate = super().start_request(server_conn, request_conn)
        self._let_go(server_conn)
        begun = partial(self._note_begun, server_conn)
        request = _Request(delegate, request_conn, begun, self._max_body, self._bodies, self._proxies, self._guards)
        self._requests[server_conn] = request
        return request

    def _let_go(self, server_conn: ServerConnection) -> None:
        """Release the body of the last request, which was answered or whose connection is closed."""
        request = self._requests.pop(server_conn, None)
        if request is not None:
            request.release()

    def _note_begun(self, server_conn: ServerConnection) -> None:
        self._waiting.pop(server_conn, None)
        self._slow.pop(server_conn, None)

    def _look_for_slow(self) -> None:
        """Close connections on which a request or a response makes no progress, and schedule the next check.

        Tornado has only one limit for both, waiting for a request and reading its headers.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection, request in list(self._requests.items()):
            late_s = now - request.began
            is_late = request.is_arriving and late_s > self._request_timeout_s
            if is_late and request.received < self._guards.min_rate * late_s:
                self._guards.note('rate', request.find_party())
                connection.stream.close()
        for connection in list(self._requests):
            if self._takes_too_little(connection, now):
                self._guards.note('rate', self._requests[connection].find_party())
                reset(connection.stream)
        for connection in [one for one in self._waiting if is_arriving(one.stream)]:
            if now - self._slow.setdefault(connection, now) > self._request_timeout_s:
                log.info('closing a connection, the headers of a request take too long')
                connection.stream.close()
        self._clock = loop.call_later(self._request_timeout_s / LOOKS, self._look_for_slow)

    def _takes_too_little(self, connection: ServerConnection, now: float) -> bool:
        """Return whether the client has taken too little, since the last check, of the bytes written by then."""
        stream = connection.stream
        if stream.closed() or not stream.writing():
            self._writing.pop(connection, None)
            return False
        done, written = stream._total_write_done_index, stream._total_write_index
        since, before, target = self._writing.setdefault(connection, (now, done, written))
        if now - since < self._request_timeout_s:
            return False
        self._writing[connection] = now, done, written
        return done < target and done - before < self._guards.min_rate * (now - since)

    def on_close(self, server_conn: Any) -> None:
        super().on_close(server_conn)
        self._writing.pop(server_conn, None)
        network = network_of(server_conn)
        self._of_network[network] -= 1
        if not self._of_network[network]:
            del self._of_network[network]
        self._let_go(server_conn)
        self._note_begun(server_conn)
        self._share.change(-1)
        self._note_drained()

    # stopping

    @property
    def open_connections(self) -> int:
        return self._share.open

    def stop_accepting(self, grace_s: float = 0.0) -> None:
        """Stop accepting, and close each connection after its response, or when it is idle after `grace_s`.

        A client between two requests may have sent the next one, or be about to: within `grace_s` it is answered. A
        request that has arrived but was not read by then is answered as well.
        """
        loop = asyncio.get_running_loop()
        for listener in self._listening:
            loop.remove_reader(listener)
            listener.close()
        self._listening.clear()
        while self._parked:
            self._parked.popleft()[0].close()
        self._draining = True
        self._grace_s = grace_s
        self.conn_params.no_keep_alive = True  # responses have "Connection: close" from now on
        if grace_s:
            loop.call_later(grace_s, self._close_waiting)
        else:
            self._close_waiting()
        self._note_drained()

    def _close_waiting(self, connections: Iterable[ServerConnection] | None = None) -> None:
        for connection in [*self._waiting] if connections is None else connections:
            if connection in self._waiting:
                close_unless_asked(connection)

    async def drained(self) -> None:
        """Return when, after stop_accepting, every connection is closed."""
        await self._drained.wait()

    async def cut_off(self) -> None:
        """Close every connection, even a busy one, and return when the loop has no tasks of connections left.

        A loop that ends cancels its tasks, and Tornado would log that as an error.
        """
        for connection in [*self._requests]:
            connection.stream.close()
        await self.close_all_connections()

    def _note_drained(self) -> None:
        if self._draining and self._share.open == 0:
            self._drained.set()
            if self._clock is not None:
                self._clock.cancel()


class Container(WSGIContainer):
    """Runs a WSGI application, each request in a fiber. The client gets a complete response, or a reset connection.

    A short response is written at once. Each part of a long one is produced after the client has taken the last part.
    """

    def __init__(
        self, application: WSGIApplication, fibers: Fibers | None = None, parties: Parties | None = None
    ) -> None:
        super().__init__(application)
        self._fibers = fibers or Fibers()
        self._parties = parties or Parties()

    def __call__(self, request: HTTPServerRequest) -> None:
        if request.connection is None:
            return
        answer = _Answer(request, request.connection, self._fibers)
        fibers = self._fibers
        authorization = request.headers.get('Authorization')
        turn = self._parties.turn(authorization, request.remote_ip, is_urgent=fibers.is_full)
        request.connection.set_close_callback(turn.vanish)  # type: ignore[attr-defined]  # HTTP/1 has it
        if not fibers.start(lambda: self._serve(request, answer, turn), turn, answer.refuse):
            log.warning('too many requests wait, one is refused')
            answer.refuse()

    def _serve(self, request: HTTPServerRequest, answer: _Answer, turn: Turn) -> None:
        if turn.is_abandoned:
            log.debug('a client disconnected before its request was processed')
            return
        try:
            answer.begin(self.wsgi_application, self.environ(request))
            if answer.is_stream:
                answer.send_stream()
            elif answer.rest is not None:
                answer.send_rest()
        except (StreamClosedError, ClientGoneError):
            log.debug('a client disconnected before its answer was complete')
        except GreenletExit:  # the handler ends
            answer.fail()
        except Exception:
            log.exception('a request failed')
            answer.fail()
        finally:
            try:
                answer.close()
            except Exception:
                log.exception('closing an answer failed')


class _Answer:
    """A response on its way from a WSGI application to a client."""

    def __init__(self, request: HTTPServerRequest, connection: HTTPConnection, fibers: Fibers) -> None:
        self._fibers = fibers
        self.rest: Iterator[bytes] | None = None  # parts not produced yet; None: everything is written
        self._request = request
        self._connection = connection
        self._parts: list[bytes] = []  # produced, but not written yet
        self._head: tuple[str, list[tuple[str, str]]] | None = None
        self._begun = False
        self._ends_with_connection = False
        self._close: Callable[[], object] | None = None
        self.is_stream = False

    def begin(self, application: WSGIApplication, environ: dict[str, Any]) -> None:
        """Run the application and write its response, or the beginning of a long one (about AT_ONCE bytes)."""
        body = application(environ, self._start_response)
        self._close = getattr(body, 'close', None)
        parts = iter(body)
        if self._head is not None and UNBUFFERED in self._head[1]:
            self._begin_stream(parts)
            return
        size = 0
        for part in parts:
            self._parts.append(part)
            size += len(part)
            if size > AT_ONCE:
                self.rest = parts
                break
        self._write()

    def _begin_stream(self, parts: Iterator[bytes]) -> None:
        if not self._fibers.become_stream():
            log.warning('too many streams, one is refused')
            self.refuse()
            return
        self.rest = parts
        self._write()
        self.is_stream = self.rest is not None

    def send_stream(self) -> None:
        """Write each part as it arises, until the last or until the server stops. Empty parts allow a stop in between.

        :raises StreamClosedError: the client has left, or taken nothing for a long time.
        """
        stream, params = stream_of(self._connection), self._connection.params  # type: ignore[attr-defined]  # as `stream`
        for part in self.rest or ():
            if stream.closed():
                raise StreamClosedError
            if params.no_keep_alive:  # set by `Server.stop_accepting`
                break
            if part:
                self._await_flushed()
                self._written = self._connection.write(part)
        self._end()

    def _start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        if self._begun and exc_info is not None:
            raise exc_info[1]
        self._head = status, headers
        return self._parts.append

    def _write(self) -> None:
        if self._head is None:
            raise RuntimeError('the application has not called start_response')
        status, given = self._head
        code, _, reason = status.partition(' ')
        headers = HTTPHeaders()
        for name, value in given:
            headers.add(name, value)
        if stream_of(self._connection).hsts:
            headers.add(*HSTS)
        body = b''.join(self._parts)
        self._parts.clear()
        bare = int(code) in WITHOUT_BODY
        if 'Content-Length' not in headers and not bare and self.rest is None:
            headers['Content-Length'] = str(len(body))
        if bare or self._request.method == 'HEAD':
            body, self.rest = b'', None
        elif 'Content-Length' not in headers and self._request.version == 'HTTP/1.0':
            self._ends_with_connection = True
            self._request.headers.pop('Connection', None)  # Tornado would grant a request for keep-alive
            headers['Connection'] = 'close'
        start = ResponseStartLine('HTTP/1.1', int(code), reason)
        self._written = self._connection.write_headers(start, headers, body)
        self._begun = True
        if self.rest is None:
            self._connection.finish()

    def send_rest(self) -> None:
        """Write the remaining parts, each after the client has taken the last one.

        :raises StreamClosedError: the client has left, or taken nothing for a long time.
        """
        for part in self.rest or ():
            self._await_flushed()
            self._fibers.give_way()  # else a fast client would block the others
            if part:
                self._written = self._connection.write(part)
        self._end()

    def _end(self) -> None:
        self._await_flushed()
        self._connection.finish()
        if self._ends_with_connection:
            stream_of(self._connection).close()

    def _await_flushed(self) -> None:
        self._fibers.for_client(self._written)  # `Server` closes the connection of a slow reader

    def refuse(self) -> None:
        """Respond with 503: too many requests wait."""
        self._write_bare(NipapUnavailableError('Too many requests wait, ask again later'), [RETRY_AFTER])

    def fail(self) -> None:
        """Respond with an error. If the response has begun, reset the connection so that it does not look complete."""
        if self._begun:
            abort(self._connection)
            return
        self._write_bare(None)

    def _write_bare(self, error: NipapError | None, headers: Iterable[tuple[str, str]] = ()) -> None:
        call = tracer.current()
        request_id = call.request_id if call else tracer.request_id(self._request.headers.get(REQUEST_ID))
        code, kind, body = told(self._request.path, error, request_id)
        named = {'Content-Type': kind, 'Content-Length': str(len(body)), REQUEST_ID: request_id, **dict(SAFE)}
        named |= dict(headers)
        if stream_of(self._connection).hsts:
            named[HSTS[0]] = HSTS[1]
        start = ResponseStartLine('HTTP/1.1', code, HTTPStatus(code).phrase)
        self._connection.write_headers(start, HTTPHeaders(named), b'' if self._request.method == 'HEAD' else body)
        self._connection.finish()

    def close(self) -> None:
        """Close the application's response, as WSGI requires at its end."""
        close, self._close = self._close, None
        if close is not None:
            close()


class _Request(HTTPMessageDelegate):
    """Passes a request on to Tornado, and refuses it when its body is too large or exceeds a limit of bodies."""

    def __init__(
        self,
        delegate: HTTPMessageDelegate,
        connection: HTTPConnection,
        begun: Callable[[], None],
        max_body: int,
        bodies: Room,
        proxies: Proxies | None,
        guards: Guards,
    ) -> None:
        self._begun = begun
        self._guards = guards
        self._headers = HTTPHeaders()
        self.party = guards.parties.stranger('')
        self.began = 0.0  # when the headers were complete
        self.is_arriving = False  # whether the body is
        self._is_admitted = guards.admit is None
        self._counted = 0
        self._proxies = proxies
        self._connection = connection
        self._delegate = delegate
        self._max_body = max_body
        self._bodies = bodies
        self.received = 0
        self._is_refused = False
        self._path = ''
        # Assigned, to save a call in between; mypy does not accept assignments to methods.
        self.on_connection_close = delegate.on_connection_close  # type: ignore[method-assign]  # see above

    def headers_received(self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders) -> Any:
        self._begun()
        stream = stream_of(self._connection)
        if stream.has_long_headers:
            return self._refuse_with(last_answer(HEADERS_TOO_LARGE, TOO_LONG))
        stream.given_id = headers.get(REQUEST_ID)
        if self._proxies:
            # Tornado makes one context for a connection, on which a proxy sends requests of many clients.
            context = self._connection.context  # type: ignore[attr-defined]  # HTTP/1 has one, as its stream
            told_by = headers.get('X-Forwarded-For', ''), headers.get('Forwarded', '')
            context.remote_ip = self._proxies.client_of(context.address[0], *told_by)
        if isinstance(start_line, RequestStartLine) and not start_line.path.startswith('/'):
            start_line = in_origin_form(start_line, headers)
        leave_out_port(headers)
        leave_out_underscores(headers)
        self._path = getattr(start_line, 'path', '')  # only requests have a path
        if repeated := repeated_header(headers):
            return self._refuse(NipapInputError(f'The header {repeated} is there more than once.'))
        passed_on = self._delegate.headers_received(start_line, headers)
        if 'Transfer-Encoding' not in headers and declared_length(headers) > self._max_body:
            return self._refuse(too_large(self._max_body))
        self._headers = headers
        self.began = asyncio.get_running_loop().time()
        self.is_arriving = True
        return passed_on

    def finish(self) -> None:
        self.is_arriving = False
        self._delegate.finish()

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        if self._is_refused:  # a chunk that was being read at the refusal
            return None
        received = self.received + len(chunk)
        if received > self._max_body:
            return self._refuse(too_large(self._max_body))
        if received > SMALL_BODY:
            if not self._is_admitted:
                return self._admit(chunk)
            if not self._hold(received - SMALL_BODY - self._counted):
                self._guards.note('bodies', self.party)
                return self._refuse(NipapUnavailableError('Too many large requests are on their way.'), RETRY_AFTER)
        self.received = received
        return self._delegate.data_received(chunk)

    async def _admit(self, chunk: bytes) -> None:
        """Check the credentials, then go on with the body or refuse the request."""
        self._is_admitted = True
        if self._guards.admit is not None:
            refusal = await self._guards.admit(self._path, self._headers, self._address())
            if refusal is not None:
                await self._refuse_with(refusal)
                return
        if (passed_on := self.data_received(chunk)) is not None:
            await passed_on

    def _hold(self, size: int) -> bool:
        if not self._counted:
            self.party = self.find_party()
        if not self._bodies.hold(size, self.party):
            return False
        self._counted += size
        return True

    def find_party(self) -> Party:
        """Return the party of the request."""
        authorization = self._headers.get('Authorization')
        return self._guards.parties.turn(authorization, self._address(), is_urgent=True).party

    def _address(self) -> str:
        return str(self._connection.context.remote_ip)  # type: ignore[attr-defined]  # HTTP/1 has one, as its stream

    def release(self) -> None:
        """Stop counting the body."""
        self._bodies.release(self._counted, self.party)
        self._counted = 0

    async def _refuse(self, error: NipapError, *headers: tuple[str, str]) -> None:
        await self._refuse_with(refused(self._path, error, *headers))

    async def _refuse_with(self, answer: bytes) -> None:
        """Send the `last_answer`, and close the connection after the client has closed it or had time to read."""
        self._is_refused = True
        self._delegate.on_connection_close()  # frees the part of the body that was read
        self.release()
        self.is_arriving = False
        self.on_connection_close = lambda: None  # type: ignore[method-assign]  # the same
        self.finish = lambda: None  # type: ignore[method-assign]  # the same
        stream = stream_of(self._connection)
        try:
            await asyncio.wait_for(_end_with(stream, stream.refusal(answer)), LINGER_S)
        except (OSError, TimeoutError):  # including StreamClosedError
            log.debug('a refused client disconnected, or is still sending')
        finally:
            stream.close()


async def _end_with(stream: Stream | TlsStream, answer: bytes) -> None:
    """Write the last response, then read and discard input: closing over unread input would lose the response.

    :raises StreamClosedError: the client has closed the connection.
    """
    await stream.write(answer)
    if not isinstance(stream, TlsStream):
        stream.socket.shutdown(socket.SHUT_WR)
    while stream.reading():  # Tornado asks for the next part of a chunked body before it passes one on
        await asyncio.sleep(READING_S)
    while True:
        await stream.read_bytes(AT_ONCE // 16, partial=True)
        await asyncio.sleep(0)  # else a fast client would block the others


def refused(path: str, error: NipapError, *headers: tuple[str, str]) -> bytes:
    """Return the last response on a connection, to a request that was not read completely."""
    code, kind, body = told(path, error, '')
    return last_answer(f'{code} {HTTPStatus(code).phrase}', body, kind, *headers)


def too_large(max_body: int) -> NipapError:
    """Return the error for a body of more than `max_body` bytes."""
    return NipapTooLargeError(f'The request is too large, {max_body} bytes are accepted.')


def in_origin_form(start_line: RequestStartLine, headers: HTTPHeaders) -> RequestStartLine:
    """Replace a whole URL, as proxies send it, by its path. The host of the URL replaces the header Host."""
    url = ABSOLUTE.fullmatch(start_line.path)
    if url is None:
        return start_line
    headers['Host'] = url[1]
    return start_line._replace(path=url[2] if url[2].startswith('/') else f'/{url[2]}')


def leave_out_port(headers: HTTPHeaders) -> None:
    """Remove an invalid port from the header Host, since Tornado would fail to parse it."""
    host, colon, port = headers.get('Host', '').rpartition(':')
    if colon and not port.endswith(']') and not PORT.fullmatch(port):
        headers['Host'] = host


def leave_out_underscores(headers: HTTPHeaders) -> None:
    """Remove headers with an underscore in their name: WSGI would confuse NIPAP_Username with NIPAP-Username.

    Proxies that set or remove the latter leave the former alone.
    """
    for name in [name for name in headers if '_' in name]:
        del headers[name]


def repeated_header(headers: HTTPHeaders) -> str | None:
    """Return the name of a header that may occur once and occurs more often, or None."""
    return next((str(name) for name in headers if name.startswith(ONLY_ONCE) and len(headers.get_list(name)) > 1), None)


def descriptors_for_connections() -> int:
    """Return the most connections of this process that leave descriptors for its other work."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return sys.maxsize
    return max(limit - SPARE_DESCRIPTORS, limit // 2, 1)


def declared_length(headers: HTTPHeaders) -> int:
    """Return the value of Content-Length; 0 for an invalid one, which Tornado refuses itself."""
    text = headers.get('Content-Length', '').partition(',')[0]
    try:
        return int(text) if text.isdecimal() else 0
    except ValueError:  # more digits than Python reads
        return 0


def abort(connection: HTTPConnection) -> None:
    """Reset a connection: without a Content-Length, clients would take an orderly end for the end of the response."""
    reset(stream_of(connection))


def reset(stream: IOStream) -> None:
    """Close a connection with a reset, so that the client notices that the response is incomplete."""
    if not stream.closed():
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        stream.close()


def stream_of(connection: HTTPConnection) -> Stream | TlsStream:
    stream: Stream | TlsStream = connection.stream  # type: ignore[attr-defined]  # HTTP/1 has one, the interface does not say so
    return stream


def network_of(connection: ServerConnection) -> str:
    """Return the network of the connection's client."""
    return str(getattr(connection.stream, 'network', ''))


def address_of(connection: ServerConnection) -> str:
    return network_of(connection).removeprefix('\0')


def is_arriving(stream: IOStream) -> bool:
    """Return whether a part of a request, or of a TLS handshake, has been read."""
    return stream._read_buffer_size > 0 or getattr(stream, '_ssl_accepting', False)


def close_unless_asked(connection: ServerConnection) -> bool:
    """Close a connection unless it has unread input; return whether it was closed."""
    stream = connection.stream
    if stream.closed() or has_input(stream.socket):
        return False
    stream.close()
    return True


def has_input(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))
