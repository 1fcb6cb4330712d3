"""Answers of a WSGI application on their way to clients: complete, as fast as clients read, or visibly broken."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.client
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from daemon_process import poll

from nipap.access.authentication import Authenticator, AuthSettings
from nipap.errors import AuthenticationFailedError, NipapError, NipapUnavailableError, TooManyLoginsError
from nipapd import server
from nipapd.admission import Admission, refusal
from nipapd.fibers import Fibers
from nipapd.server import Container, Guards, Server
from nipapd.shares import Parties

PART = b'0123456789abcdef' * 4096  # 64 KB
LONG = 512  # parts, far more than sockets buffer
Address = tuple[str, int]


class Application:
    """Answers each request with the `parts` of the test, and counts the parts taken."""

    def __init__(self) -> None:
        self.parts: Callable[[], Iterator[bytes]] = lambda: iter([b'short'])
        self.status = '200 OK'
        self.headers: list[tuple[str, str]] = [('Content-Type', 'text/plain')]
        self.given = 0
        self.closed = 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Application:
        if environ['PATH_INFO'] == '/other':
            start_response('200 OK', [])
            return [b'other']  # type: ignore[return-value]  # WSGI takes any iterable
        start_response(self.status, list(self.headers))
        return self

    def __iter__(self) -> Iterator[bytes]:
        self.given = 0
        for part in self.parts():
            self.given += 1
            yield part

    def close(self) -> None:
        self.closed += 1

    def await_closed(self, times: int = 1) -> None:
        """Wait until that many answers were closed, and no more."""
        poll(lambda: self.closed >= times, 20, lambda: f'{self.closed} answers were closed')
        assert self.closed == times


@pytest.fixture
def application() -> Application:
    return Application()


@pytest.fixture
def address(application: Application, request: pytest.FixtureRequest) -> Iterator[Address]:
    """Yield the address of a server in a thread of its own; the parameter of the fixture is the request timeout."""
    ready = threading.Event()
    stop: list[Callable[[], object]] = []

    async def serve(listener: socket.socket) -> None:
        made = Server(Container(application), request_timeout_s=getattr(request, 'param', 30.0))
        made.listen_on([listener])
        done = asyncio.Event()
        loop = asyncio.get_running_loop()
        stop.append(lambda: loop.call_soon_threadsafe(done.set))
        ready.set()
        await done.wait()
        made.stop_accepting()
        await asyncio.wait_for(made.drained(), 20)

    with socket.create_server(('127.0.0.1', 0)) as listener:
        listener.setblocking(False)
        where = listener.getsockname()
        thread = threading.Thread(target=asyncio.run, args=(serve(listener),))
        thread.start()
        assert ready.wait(20)
        yield where
        stop[0]()
        thread.join()


@contextlib.contextmanager
def asking(address: Address, path: str = '/', method: str = 'GET', headers: str = '', version: str = '1.1') -> Any:
    """Yield a connection with a small receive buffer, on which a request was sent."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        client.settimeout(20)
        client.connect(address)
        client.sendall(f'{method} {path} HTTP/{version}\r\nHost: test\r\n{headers}\r\n'.encode())
        yield client


def answer_on(client: socket.socket, method: str = 'GET') -> http.client.HTTPResponse:
    response = http.client.HTTPResponse(client, method=method)
    response.begin()
    return response


def two_answers(client: socket.socket) -> tuple[bytes, bytes]:
    return answer_on(client).read(), answer_on(client).read()


def read_to_the_end(client: socket.socket) -> None:
    while client.recv(65536):
        pass


def other(address: Address) -> bytes:
    """Return the answer to another request."""
    with asking(address, '/other') as client:
        return answer_on(client).read()


def long() -> Iterator[bytes]:
    for _ in range(LONG):
        yield PART


def broken() -> Iterator[bytes]:
    yield from long()
    raise KeyError('no more')


# complete answers


@pytest.mark.parametrize('parts', [[], [b'short'], [b'in ', b'', b'parts'], [PART] * 16])
def test_a_short_answer_has_a_length(application: Application, address: Address, parts: list[bytes]) -> None:
    application.parts = lambda: iter(parts)
    with asking(address) as client:
        for _ in range(2):  # the connection is kept
            response = answer_on(client)
            assert response.status == 200
            assert int(response.headers['Content-Length']) == len(b''.join(parts))
            assert response.read() == b''.join(parts)
            client.sendall(b'GET / HTTP/1.1\r\nHost: test\r\n\r\n')
        answer_on(client).read()
    application.await_closed(3)


def test_a_long_answer_is_chunked(application: Application, address: Address) -> None:
    application.parts = long
    with asking(address) as client:
        response = answer_on(client)
        assert response.headers['Transfer-Encoding'] == 'chunked'
        assert response.headers['Content-Type'] == 'text/plain'
        assert response.read() == PART * LONG
        application.await_closed()
        client.sendall(b'GET /other HTTP/1.1\r\nHost: test\r\n\r\n')
        assert answer_on(client).read() == b'other'


def test_a_long_answer_of_known_length_is_sent_as_it_is(application: Application, address: Address) -> None:
    application.parts = long
    application.headers = [('Content-Length', str(LONG * len(PART)))]
    for version in ('1.0', '1.1'):
        with asking(address, version=version, headers='Connection: keep-alive\r\n') as client:
            response = answer_on(client)
            assert 'Transfer-Encoding' not in response.headers
            assert response.read() == PART * LONG
            client.sendall(b'GET /other HTTP/1.1\r\nHost: test\r\n\r\n')
            assert answer_on(client).read() == b'other'


@pytest.mark.parametrize('headers', ['', 'Connection: keep-alive\r\n'])
def test_an_old_client_reads_a_long_answer_to_its_end(application: Application, address: Address, headers: str) -> None:
    application.parts = long
    with asking(address, version='1.0', headers=headers) as client:
        response = answer_on(client)
        assert response.headers['Connection'] == 'close'
        assert 'Transfer-Encoding' not in response.headers
        assert response.read() == PART * LONG
    application.await_closed()


@pytest.mark.parametrize('parts', [lambda: iter([b'short']), long])
def test_head_has_no_body(application: Application, address: Address, parts: Any) -> None:
    application.parts = parts
    application.status = '404 Not Here'
    with asking(address, method='HEAD') as client:
        response = answer_on(client, 'HEAD')
        assert (response.status, response.reason) == (404, 'Not Here')
        client.sendall(b'GET /other HTTP/1.1\r\nHost: test\r\n\r\n')
        assert answer_on(client).read() == b'other'
    application.await_closed()


@pytest.mark.parametrize('status', ['204 No Content', '304 Not Modified'])
def test_some_answers_have_no_body(application: Application, address: Address, status: str) -> None:
    application.status = status
    application.headers = [('X-One', '1'), ('Set-Cookie', 'a'), ('Set-Cookie', 'b')]
    application.parts = lambda: iter([])
    with asking(address) as client:
        response = answer_on(client)
        assert response.status == int(status[:3])
        assert response.headers.get_all('Set-Cookie') == ['a', 'b']
        assert 'Content-Length' not in response.headers
        client.sendall(b'GET /other HTTP/1.1\r\nHost: test\r\n\r\n')
        assert answer_on(client).read() == b'other'


# readers of any speed


def test_a_slow_reader_holds_up_nobody_and_is_not_read_ahead_for(application: Application, address: Address) -> None:
    application.parts = long
    with asking(address) as client:
        response = answer_on(client)
        assert response.read(10) == PART[:10]
        for _ in range(20):
            assert other(address) == b'other'
        assert application.given < LONG / 2
        assert response.read() == (PART * LONG)[10:]
    application.await_closed()


def test_a_fast_reader_holds_up_nobody(application: Application, address: Address) -> None:
    asked = threading.Event()

    def endless() -> Iterator[bytes]:
        while not asked.is_set():
            yield PART

    application.parts = endless
    with asking(address) as client:
        response = answer_on(client)
        reader = threading.Thread(target=response.read)
        reader.start()
        assert other(address) == b'other'
        asked.set()
        reader.join(20)
    application.await_closed()


@pytest.mark.parametrize('address', [0.2], indirect=True)
def test_a_reader_that_takes_nothing_is_given_up(application: Application, address: Address) -> None:
    application.parts = long
    with asking(address) as client:
        application.await_closed()
        with pytest.raises(ConnectionResetError):
            read_to_the_end(client)
    assert other(address) == b'other'


# visibly broken answers


@pytest.mark.parametrize('reset', [True, False])
def test_a_client_that_leaves_early_leaves_nothing_behind(
    application: Application, address: Address, caplog: pytest.LogCaptureFixture, reset: bool
) -> None:
    application.parts = long
    with asking(address) as client:
        answer_on(client).read(10)
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    application.await_closed()
    assert application.given < LONG
    assert other(address) == b'other'
    assert [record for record in caplog.records if record.levelname == 'ERROR'] == []


@pytest.mark.parametrize('version', ['1.0', '1.1'])
@pytest.mark.parametrize('headers', [[], [('Content-Length', str(2 * LONG * len(PART)))]])
def test_an_answer_that_fails_in_the_middle_does_not_look_complete(
    application: Application,
    address: Address,
    caplog: pytest.LogCaptureFixture,
    version: str,
    headers: list[tuple[str, str]],
) -> None:
    application.parts = broken
    application.headers = headers
    with asking(address, version=version) as client:
        response = answer_on(client)
        assert response.status == 200
        with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
            response.read()
    application.await_closed()
    assert 'no more' in caplog.text
    assert other(address) == b'other'


@pytest.mark.parametrize('promised', [1, LONG * len(PART) - 1, LONG * len(PART) + 1])
def test_a_wrong_length_does_not_look_complete(
    application: Application, address: Address, promised: int, caplog: pytest.LogCaptureFixture
) -> None:
    application.parts = long
    application.headers = [('Content-Length', str(promised))]
    with asking(address) as client:
        client.sendall(b'GET /other HTTP/1.1\r\nHost: test\r\n\r\n')
        with pytest.raises((ConnectionResetError, http.client.HTTPException)):
            two_answers(client)
    application.await_closed()
    assert 'Tried to write' in caplog.text


def fail() -> Iterator[bytes]:
    yield b'a part'
    raise KeyError('no more')


@pytest.mark.parametrize('parts', [fail, lambda: [1], lambda: 1])
def test_a_failure_before_the_first_byte_is_answered(
    application: Application, address: Address, parts: Any, caplog: pytest.LogCaptureFixture
) -> None:
    application.parts = parts
    with asking(address) as client:
        for following in ('/', '/api/v1/vrfs'):
            response = answer_on(client)
            text = f'Internal error, request id {response.headers["X-Request-ID"]}'
            assert (response.status, response.read().decode()) == (500, f'{text}\n')
            client.sendall(f'GET {following} HTTP/1.1\r\nHost: test\r\n\r\n'.encode())
        response = answer_on(client)
        text = f'Internal error, request id {response.headers["X-Request-ID"]}'
        assert (response.status, response.headers['Content-Type']) == (500, 'application/problem+json')
        problem = json.load(response)
        assert (problem['status'], problem['code'], problem['detail']) == (500, 1000, text)
        client.sendall(b'HEAD /api/v1/vrfs HTTP/1.1\r\nHost: test\r\n\r\n')
        assert answer_on(client, 'HEAD').status == 500
        client.sendall(b'GET /other HTTP/1.1\r\nHost: test\r\n\r\n')
        assert answer_on(client).read() == b'other'
    application.await_closed(4)
    assert 'a request failed' in caplog.text


# refused requests


@pytest.mark.parametrize('size', [1000, 2**16, 2 * server.MAX_BODY])
def test_the_sender_of_a_chunked_body_that_is_too_large_reads_why(
    address: Address, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    """This holds even when Tornado waits for more of the body at the moment."""
    with asking(address, method='POST', headers='Transfer-Encoding: chunked\r\n') as client:
        sent = 0
        while sent <= server.MAX_BODY:
            part = min(size, server.MAX_BODY + 1 - sent)
            client.sendall(b'%x\r\n%s%s' % (size, bytes(part), b'\r\n' if part == size else b''))
            sent += part
        assert answer_on(client).status == 413
        client.sendall(bytes(2**20))
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b''
    assert other(address) == b'other'
    assert complaints(caplog) == []


# the end of the loop

TOO_LARGE = server.MAX_BODY + 1
BEGUN = {
    'nothing': b'',
    'half a head': b'GET / HTTP/1.1\r\nHost:',
    'half a body': b'POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nhello',
    'half a chunk': b'POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nhello',
    'a long answer': b'GET / HTTP/1.1\r\nHost: test\r\n\r\n',
    'a request behind another': b'GET / HTTP/1.1\r\nHost: test\r\n\r\n' * 2,
    'long headers': b'GET / HTTP/1.1\r\n' + b'X: y\r\n' * 20_000 + b'\r\n',
    'a body that is too large': b'POST / HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n' % TOO_LARGE,
    'chunks that are too large': b'POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s'
    % (TOO_LARGE, bytes(TOO_LARGE)),
}


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the errors in the log, including errors of objects without references."""
    gc.collect()
    return [record.getMessage() for record in caplog.records if record.levelname == 'ERROR']


@pytest.mark.parametrize('begun', BEGUN.values(), ids=BEGUN.keys())
def test_connections_that_are_cut_off_are_no_errors(
    application: Application, caplog: pytest.LogCaptureFixture, begun: bytes
) -> None:
    application.parts = long

    async def serve() -> None:
        fibers = Fibers()
        made = Server(Container(application, fibers))
        with socket.create_server(('127.0.0.1', 0)) as listener:
            listener.setblocking(False)
            made.listen_on([listener])
            reader, writer = await asyncio.open_connection(*listener.getsockname(), limit=2**24)
            writer.write(begun)
            if 'too large' in name or name == 'long headers' or name == 'a long answer':
                await reader.readuntil(b'\r\n\r\n')
            else:
                while not made.open_connections:
                    await asyncio.sleep(0.001)
            made.stop_accepting(10)
            fibers.end()
            await made.cut_off()
            assert made.open_connections == 0
            await made.drained()
            writer.close()

    (name,) = (each for each, sent in BEGUN.items() if sent is begun)
    asyncio.run(serve())
    assert complaints(caplog) == []


def test_an_upload_that_waits_to_be_admitted_does_not_hold_up_the_end(
    application: Application, caplog: pytest.LogCaptureFixture
) -> None:
    async def serve() -> None:
        fibers, parties = Fibers(most_running=1), Parties()
        admission = Admission(fibers, parties, Authenticator(AuthSettings('none', 0, {})))
        made = Server(Container(application, fibers), guards=Guards(parties, admission))
        fibers.start(lambda: fibers.until(lambda _: None))  # takes the only place
        with socket.create_server(('127.0.0.1', 0)) as listener:
            listener.setblocking(False)
            made.listen_on([listener])
            _, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(b'POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n' + bytes(500_000))
            while not fibers.queued:
                await asyncio.sleep(0.001)
            made.stop_accepting(10)
            fibers.end()
            await asyncio.wait_for(made.cut_off(), 20)
            await made.drained()
            writer.close()

    asyncio.run(serve())
    assert complaints(caplog) == []


@pytest.mark.parametrize('turns', range(8))
def test_an_answer_whose_client_has_left_when_the_loop_ends_is_no_error(
    application: Application, caplog: pytest.LogCaptureFixture, turns: int
) -> None:
    """The client leaves `turns` turns of the loop after a part of the answer was written."""

    async def serve() -> None:
        fibers = Fibers()
        made = Server(Container(application, fibers))
        begun, written = asyncio.Event(), asyncio.Event()

        def parts() -> Iterator[bytes]:
            begun.set()
            while made.open_connections:  # a sleep would end with the client
                fibers.until(lambda go_on: asyncio.get_running_loop().call_later(0.001, go_on) and None)
            yield PART * 32
            written.set()
            yield PART

        application.parts = parts
        with socket.create_server(('127.0.0.1', 0)) as listener:
            listener.setblocking(False)
            made.listen_on([listener])
            _, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(b'GET / HTTP/1.1\r\nHost: test\r\n\r\n')
            await begun.wait()
            writer.close()
            made.stop_accepting()
            await made.drained()
            await written.wait()
            for _ in range(turns):
                await asyncio.sleep(0)
            fibers.end()
            await made.cut_off()

    asyncio.run(serve())
    assert complaints(caplog) == []


@pytest.mark.parametrize(
    ('path', 'error', 'expected'),
    [
        ('/api/v1/batch', NipapUnavailableError('later'), [b' 503 ', b'Retry-After: 1\r\n']),
        ('/XMLRPC', NipapUnavailableError('later'), [b' 503 ', b'Retry-After: 1\r\n']),
        ('/XMLRPC', AuthenticationFailedError('no'), [b' 200 ', b'<int>1510</int>']),
        ('/api/v1/batch', AuthenticationFailedError('no'), [b' 401 ', b'WWW-Authenticate: Basic']),
        ('/api/v1/batch', TooManyLoginsError('no', 7), [b' 429 ', b'Retry-After: 7\r\n']),
    ],
)
def test_a_refused_upload_learns_why_and_when_to_come_back(path: str, error: NipapError, expected: list[bytes]) -> None:
    answer = refusal(path, error)
    assert [part for part in expected if part not in answer] == []
