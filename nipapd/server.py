"""The HTTP server of a handler: shares connections fairly with its siblings, stops without cutting off an answer."""

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
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
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
from nipapd.fibers import Fibers
from nipapd.proxies import Proxies
from nipapd.streams import REQUEST_ID, SAFE, Stream, TlsStream, last_answer
from nipapd.tls import HSTS

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

log = logging.getLogger(__name__)

ERROR_PAUSE_S = 0.1
UNBUFFERED = ('X-Accel-Buffering', 'no')  # the header of an answer each part of which is passed on as it comes
COURTESY_S = 0.002
AT_ONCE = 2**20  # what an answer may be to be written in one piece
RETRY_AFTER = ('Retry-After', '1')
STALLED_S = 300  # after which a client that takes nothing of its answer is taken for gone
WITHOUT_BODY = frozenset({204, 304})
MAX_BODY = 10 * 2**20
REQUEST_TIMEOUT_S = 30.0
BUFFER = 2**20  # bodies are read in pieces, so this need only be more than headers are
MOST_HEADERS = 2**16  # bytes of a request before its body
HEADERS_TOO_LARGE = '431 Request Header Fields Too Large'
TOO_LONG = b'The headers of the request are too large, %d bytes are accepted.\n' % MOST_HEADERS
UNLIMITED = 2**62  # for Tornado, which would refuse without an answer what we refuse with one
LOOKS = 8  # at connections that are slow, within the time they are given
MOST_BODIES = 128 * 2**20  # bytes of bodies, in one handler, that are not answered yet
ABSOLUTE = re.compile(r'https?://([^/?#@]*)((?:[/?#].*)?)', re.IGNORECASE)
SPARE_DESCRIPTORS = 128  # for PostgreSQL, files of long answers, accounts; of few, half
PORT = re.compile('[0-9]{1,5}')
ONLY_ONCE = (
    'Nipap-',
    'Idempotency-Key',
)  # how names of headers begin that may be there once; joined, they would say something else
READING_S = 0.01
LINGER_S = 10  # how long what a refused client goes on to send is thrown away, so that it comes to read why


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


class Bodies:
    """How many bytes of bodies a handler holds, and how many it may.

    A client that declares a large body and stops costs what it has sent until it is given up, and one that is not
    answered yet costs all of it. Many of them together must not cost more than this.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.held = 0

    def hold(self, size: int) -> bool:
        """Count as many bytes more; False, and nothing counted, when there is no room."""
        if self.held + size > self._most:
            return False
        self.held += size
        return True

    def release(self, size: int) -> None:
        self.held -= size


class ServerConnection(Protocol):
    """What Tornado passes for a connection, as far as it is used here."""

    stream: IOStream


class Server(HTTPServer):
    """An HTTPServer that can stop without cutting off an answer.

    It accepts one connection per turn of the loop, and gives way for a moment to siblings who have fewer: clients
    keep their connections, so one that takes all that wait, as Tornado's own accept handler does, would do all the
    work while the others idle.

    A body of more than `max_body` bytes is refused with HTTP 413, and not kept. Of bodies that are not answered yet, no
    more than `most_bodies` bytes together are held, whatever comes then is refused with HTTP 503. Who takes longer than
    `request_timeout_s` for the headers of a request, or then for its body, loses the connection. When there are as many
    connections as `most_connections`, or as descriptors allow, one that waits for a request makes room for the next.

    With `hsts`, every answer over TLS tells browsers never to come without for a year. What `proxies` say of the
    addresses of their clients is believed.
    """

    def initialize(
        self,
        *args: Any,
        share: Share | None = None,
        max_body: int = MAX_BODY,
        most_bodies: int = MOST_BODIES,
        request_timeout_s: float = REQUEST_TIMEOUT_S,
        most_connections: int | None = None,
        hsts: bool = False,
        proxies: Proxies | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs |= {'max_body_size': UNLIMITED, 'max_buffer_size': BUFFER, 'body_timeout': request_timeout_s}
        kwargs['max_header_size'] = MOST_HEADERS
        super().initialize(*args, **kwargs)
        self._max_body = max_body
        self._bodies = Bodies(max(most_bodies, max_body))
        self._requests: dict[ServerConnection, _Request] = {}  # the latest of each connection
        self._request_timeout_s = request_timeout_s
        self._slow: dict[ServerConnection, float] = {}  # since when part of a request's headers was there
        self._most_connections = most_connections or descriptors_for_connections()
        self._hsts = hsts
        self._proxies = proxies
        self._share = share or Shares(1).of(0)
        self._listening: list[socket.socket] = []
        self._waiting: dict[ServerConnection, None] = {}  # who has waited longest comes first
        self._is_full = False
        self._draining = False
        self._grace_s = 0.0
        self._drained = asyncio.Event()
        self._clock: asyncio.TimerHandle | None = None

    # accepting

    def listen_on(self, sockets: Sequence[socket.socket], tls: ssl.SSLContext | None = None) -> None:
        """Accept connections on sockets that are bound and not blocking; encrypted ones when `tls` is given."""
        for listener in sockets:
            self._listening.append(listener)
            self._resume(listener, tls)
        if self._clock is None:
            self._look_for_slow()

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
        if self.open_connections >= self._most_connections and not self._make_room():
            self._pause(listener, tls, f'there are {self.open_connections} connections, and all are in use')
            return
        try:
            connection, address = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # a sibling was faster, or the client has gone
        except OSError as error:
            self._pause(listener, tls, str(error.strerror))
            return
        self._is_full = False
        try:
            stream = self._stream(connection, tls)
        except OSError:  # ssl.SSLError is one: the client has gone before the handshake
            connection.close()
        else:
            self.handle_stream(stream, address)

    def _pause(self, listener: socket.socket, tls: ssl.SSLContext | None, why: str) -> None:
        """Let connections wait, or a sibling take them, for a moment."""
        if not self._is_full:  # told once
            log.error('cannot accept a connection: %s', why)
        self._is_full = True
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)
        loop.call_later(ERROR_PAUSE_S, self._resume, listener, tls)

    def _make_room(self) -> bool:
        """Close the connection that has waited longest and on which nothing of a request has arrived."""
        for connection in self._waiting:
            if not is_arriving(connection.stream) and close_unless_asked(connection):
                return True
        return False

    def _stream(self, connection: socket.socket, tls: ssl.SSLContext | None) -> Stream | TlsStream:
        if tls is None:
            return Stream(connection, max_buffer_size=self.max_buffer_size)
        wrapped = ssl_wrap_socket(connection, tls, server_side=True, do_handshake_on_connect=False)
        stream = TlsStream(wrapped, max_buffer_size=self.max_buffer_size)
        stream.hsts = self._hsts
        return stream

    # knowing which connections wait for a request

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        self._share.change(+1)
        super().handle_stream(stream, address)

    def start_request(self, server_conn: Any, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        self._waiting[server_conn] = None
        stream_of(request_conn).given_id = None
        if self._draining:  # the last answer may not have said so yet
            asyncio.get_running_loop().call_later(self._grace_s, self._close_waiting, [server_conn])
        delegate = super().start_request(server_conn, request_conn)
        self._let_go(server_conn)
        begun = partial(self._note_begun, server_conn)
        request = _Request(delegate, request_conn, begun, self._max_body, self._bodies, self._proxies)
        self._requests[server_conn] = request
        return request

    def _let_go(self, server_conn: ServerConnection) -> None:
        """The request before is answered, or its connection is closed."""
        request = self._requests.pop(server_conn, None)
        if request is not None:
            request.release()

    def _note_begun(self, server_conn: ServerConnection) -> None:
        self._waiting.pop(server_conn, None)
        self._slow.pop(server_conn, None)

    def _look_for_slow(self) -> None:
        """Close connections whose next request has been arriving for too long; look again in a while.

        Tornado knows one limit for both, waiting for a request and reading its headers.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in [one for one in self._waiting if is_arriving(one.stream)]:
            if now - self._slow.setdefault(connection, now) > self._request_timeout_s:
                log.info('closing a connection, the headers of a request take too long')
                connection.stream.close()
        self._clock = loop.call_later(self._request_timeout_s / LOOKS, self._look_for_slow)

    def on_close(self, server_conn: Any) -> None:
        super().on_close(server_conn)
        self._let_go(server_conn)
        self._note_begun(server_conn)
        self._share.change(-1)
        self._note_drained()

    # stopping

    @property
    def open_connections(self) -> int:
        return self._share.open

    def stop_accepting(self, grace_s: float = 0.0) -> None:
        """Accept nothing more, and close each connection as it is answered, or when it is idle after `grace_s`.

        A client that is between two requests may have sent the next, or be about to: until then it is answered. So
        is, later, a request that has arrived but was not read yet.
        """
        loop = asyncio.get_running_loop()
        for listener in self._listening:
            loop.remove_reader(listener)
            listener.close()
        self._listening.clear()
        self._draining = True
        self._grace_s = grace_s
        self.conn_params.no_keep_alive = True  # answers say "Connection: close" from now on
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
        """Close every connection, whatever is on it, and return when nothing of them is left on the loop.

        A loop that ends cancels what waits on it, and Tornado would log that as an error.
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
    """Runs a WSGI application, each request in a fiber; the client gets an answer, or sees it broken.

    A short answer is written at once. Of a long one the next part is asked for when the client has taken the last.
    """

    def __init__(self, application: WSGIApplication, fibers: Fibers | None = None) -> None:
        super().__init__(application)
        self._fibers = fibers or Fibers()

    def __call__(self, request: HTTPServerRequest) -> None:
        if request.connection is None:
            return
        answer = _Answer(request, request.connection, self._fibers)
        if not self._fibers.start(lambda: self._serve(request, answer)):
            log.warning('too many requests wait, one is refused')
            answer.refuse()

    def _serve(self, request: HTTPServerRequest, answer: _Answer) -> None:
        try:
            answer.begin(self.wsgi_application, self.environ(request))
            if answer.is_stream:
                answer.send_stream()
            elif answer.rest is not None:
                answer.send_rest()
        except StreamClosedError:
            log.debug('a client has left before its answer was complete')
        except GreenletExit:  # the handler ends
            answer.fail()
        except Exception:
            log.exception('a request failed')
            answer.fail()
        finally:
            try:
                answer.close()
            except Exception:
                log.exception('the end of a request failed')


class _Answer:
    """One answer on its way from a WSGI application to a client."""

    def __init__(self, request: HTTPServerRequest, connection: HTTPConnection, fibers: Fibers) -> None:
        self._fibers = fibers
        self.rest: Iterator[bytes] | None = None  # parts that have not been asked for yet; None: everything is written
        self._request = request
        self._connection = connection
        self._parts: list[bytes] = []  # asked for, and not written yet
        self._head: tuple[str, list[tuple[str, str]]] | None = None
        self._begun = False
        self._ends_with_connection = False
        self._close: Callable[[], object] | None = None
        self.is_stream = False

    def begin(self, application: WSGIApplication, environ: dict[str, Any]) -> None:
        """Run the application and write its answer, or the beginning of a long one."""
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
        """Write each part as it comes, until the last or until the server stops; an empty one is a chance to end.

        :raises StreamClosedError: the client has left, or taken nothing for a long time.
        """
        stream, params = stream_of(self._connection), self._connection.params  # type: ignore[attr-defined]  # as `stream`
        for part in self.rest or ():
            if stream.closed():
                raise StreamClosedError
            if params.no_keep_alive:  # as `Server.stop_accepting` says
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
            self._request.headers.pop('Connection', None)  # a wish to keep it would be granted
            headers['Connection'] = 'close'
        start = ResponseStartLine('HTTP/1.1', int(code), reason)
        self._written = self._connection.write_headers(start, headers, body)
        self._begun = True
        if self.rest is None:
            self._connection.finish()

    def send_rest(self) -> None:
        """Write what is left, each part when the client has taken the last.

        :raises StreamClosedError: the client has left, or taken nothing for a long time.
        """
        for part in self.rest or ():
            self._await_flushed()
            self._fibers.give_way()  # a client that is as fast as we are is not the only one
            if part:
                self._written = self._connection.write(part)
        self._end()

    def _end(self) -> None:
        self._await_flushed()
        self._connection.finish()
        if self._ends_with_connection:
            stream_of(self._connection).close()

    def _await_flushed(self) -> None:
        """Wait until the client has taken what was written.

        :raises StreamClosedError: it has left, or taken nothing for a long time.
        """
        written = self._written
        # `asyncio.wait` raises nothing: nobody may be there to hear it when the loop ends meanwhile.
        limited = asyncio.get_running_loop().create_task(asyncio.wait((written,), timeout=STALLED_S))
        if not self._fibers.result_of(limited)[0]:
            log.warning('a client has taken nothing of its answer for %d s', STALLED_S)
            abort(self._connection)
            raise StreamClosedError
        written.result()

    def refuse(self) -> None:
        """Answer that there is too much to do."""
        self._write_bare(NipapUnavailableError('Too many requests wait, ask again later'), [RETRY_AFTER])

    def fail(self) -> None:
        """Answer that it failed or, when the answer has begun, break it off so that nobody takes it for complete."""
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
        """Tell the application that its answer is not needed any more."""
        close, self._close = self._close, None
        if close is not None:
            close()


class _Request(HTTPMessageDelegate):
    """Passes a request on, and says when its headers are there; one whose body there is no room for it refuses."""

    def __init__(
        self,
        delegate: HTTPMessageDelegate,
        connection: HTTPConnection,
        begun: Callable[[], None],
        max_body: int,
        bodies: Bodies,
        proxies: Proxies | None,
    ) -> None:
        self._begun = begun
        self._proxies = proxies
        self._connection = connection
        self._delegate = delegate
        self._max_body = max_body
        self._bodies = bodies
        self._received = 0
        self._is_refused = False
        self._path = ''
        # Passed on as it is, without a call in between; mypy knows methods only as written.
        self.finish = delegate.finish  # type: ignore[method-assign]  # see above
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
            context.remote_ip = self._proxies.client_of(context.address[0], headers.get('X-Forwarded-For', ''))
        if isinstance(start_line, RequestStartLine) and not start_line.path.startswith('/'):
            start_line = in_origin_form(start_line, headers)
        leave_out_port(headers)
        leave_out_underscores(headers)
        self._path = getattr(start_line, 'path', '')  # it is a request's
        if repeated := repeated_header(headers):
            return self._refuse(NipapInputError(f'The header {repeated} is there more than once.'))
        passed_on = self._delegate.headers_received(start_line, headers)
        if 'Transfer-Encoding' not in headers and declared_length(headers) > self._max_body:
            return self._refuse(too_large(self._max_body))
        return passed_on

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        if self._is_refused:  # what was being read when it was refused
            return None
        size = len(chunk)
        if self._received + size > self._max_body:
            return self._refuse(too_large(self._max_body))
        if not self._bodies.hold(size):
            return self._refuse(NipapUnavailableError('Too many large requests are on their way.'), RETRY_AFTER)
        self._received += size
        return self._delegate.data_received(chunk)

    def release(self) -> None:
        """Count the body as gone."""
        self._bodies.release(self._received)
        self._received = 0

    async def _refuse(self, error: NipapError, *headers: tuple[str, str]) -> None:
        await self._refuse_with(refused(self._path, error, *headers))

    async def _refuse_with(self, answer: bytes) -> None:
        """Send the `last_answer`, and close the connection when the client has gone or had time to read it."""
        self._is_refused = True
        self._delegate.on_connection_close()  # lets go of what there is of the body
        self.release()
        self.on_connection_close = lambda: None  # type: ignore[method-assign]  # the same
        self.finish = lambda: None  # type: ignore[method-assign]  # the same
        stream = stream_of(self._connection)
        try:
            await asyncio.wait_for(_end_with(stream, stream.refusal(answer)), LINGER_S)
        except (OSError, TimeoutError):  # a StreamClosedError is one
            log.debug('a client that was refused has left, or goes on sending')
        finally:
            stream.close()


async def _end_with(stream: Stream | TlsStream, answer: bytes) -> None:
    """Write the last answer and throw away what arrives: closed over unread input, a connection would lose the answer.

    :raises StreamClosedError: the client has closed it.
    """
    await stream.write(answer)
    if not isinstance(stream, TlsStream):
        stream.socket.shutdown(socket.SHUT_WR)
    while stream.reading():  # Tornado asks for the next part of a chunked body before it passes one on
        await asyncio.sleep(READING_S)
    while True:
        await stream.read_bytes(AT_ONCE // 16, partial=True)
        await asyncio.sleep(0)  # a client that is as fast as we are is not the only one


def refused(path: str, error: NipapError, *headers: tuple[str, str]) -> bytes:
    """The last answer on a connection, to a request that was not read."""
    code, kind, body = told(path, error, '')
    return last_answer(f'{code} {HTTPStatus(code).phrase}', body, kind, *headers)


def too_large(max_body: int) -> NipapError:
    """What is wrong with a request whose body has more bytes than that."""
    return NipapTooLargeError(f'The request is too large, {max_body} bytes are accepted.')


def in_origin_form(start_line: RequestStartLine, headers: HTTPHeaders) -> RequestStartLine:
    """A request for a whole URL, as proxies send them, is one for its path; its host goes before that of the header."""
    url = ABSOLUTE.fullmatch(start_line.path)
    if url is None:
        return start_line
    headers['Host'] = url[1]
    return start_line._replace(path=url[2] if url[2].startswith('/') else f'/{url[2]}')


def leave_out_port(headers: HTTPHeaders) -> None:
    """A port that is none, which Tornado would fail to read."""
    host, colon, port = headers.get('Host', '').rpartition(':')
    if colon and not port.endswith(']') and not PORT.fullmatch(port):
        headers['Host'] = host


def leave_out_underscores(headers: HTTPHeaders) -> None:
    """Remove headers with an underscore in their name: WSGI would take NIPAP_Username for NIPAP-Username.

    Proxies that set or remove the latter leave the former alone.
    """
    for name in [name for name in headers if '_' in name]:
        del headers[name]


def repeated_header(headers: HTTPHeaders) -> str | None:
    """Return the name of a header that may be there once and is there more often, or None."""
    return next((str(name) for name in headers if name.startswith(ONLY_ONCE) and len(headers.get_list(name)) > 1), None)


def descriptors_for_connections() -> int:
    """How many connections this process may have, so that it can still open what it needs."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return sys.maxsize
    return max(limit - SPARE_DESCRIPTORS, limit // 2, 1)


def declared_length(headers: HTTPHeaders) -> int:
    """What Content-Length says; 0 where it makes no sense, which Tornado refuses itself."""
    text = headers.get('Content-Length', '').partition(',')[0]
    try:
        return int(text) if text.isdecimal() else 0
    except ValueError:  # more digits than Python reads
        return 0


def abort(connection: HTTPConnection) -> None:
    """Reset a connection: an orderly end would tell clients that know no length that they have everything."""
    stream = stream_of(connection)
    if not stream.closed():
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        stream.close()


def stream_of(connection: HTTPConnection) -> Stream | TlsStream:
    stream: Stream | TlsStream = connection.stream  # type: ignore[attr-defined]  # HTTP/1 has one, the interface does not say so
    return stream


def is_arriving(stream: IOStream) -> bool:
    """Whether part of a request, or of what TLS says before, has been read."""
    return stream._read_buffer_size > 0 or getattr(stream, '_ssl_accepting', False)


def close_unless_asked(connection: ServerConnection) -> bool:
    """Close a connection on which nothing has arrived that was not read yet; whether that was so."""
    stream = connection.stream
    if stream.closed() or has_input(stream.socket):
        return False
    stream.close()
    return True


def has_input(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))
