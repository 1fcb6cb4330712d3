"""Hostile clients of the whole daemon: they are refused or cut off, others are served, and nothing is changed."""

from __future__ import annotations

import base64
import contextlib
import http.client
import re
import socket
import threading
import time
import xmlrpc.client
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from daemon_process import Daemon
from support import DaemonFactory, facts

from nipap import __version__, check
from nipap.db import Database

MB = 2**20
MAX_BODY = 10 * MB
REQUEST_TIMEOUT_S = 1.0
AT_ONCE_S = 5  # far more than a call takes, far less than anybody's patience
SLOW_MACHINE_S = 20
PIECE = b'x' * 65536
CHUNK = b'%x\r\n%b\r\n' % (len(PIECE), PIECE)


class Target:
    """A daemon to be hostile to."""

    def __init__(self, daemon: Daemon) -> None:
        parts = urlsplit(daemon.address)
        self.address = parts.hostname, parts.port
        self.authorization = 'Basic ' + base64.b64encode(':'.join(daemon.admin()).encode()).decode()
        self.handlers = [process.pid for process in daemon.children() if process.command.startswith('python')]

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=SLOW_MACHINE_S)

    def head(self, *headers: str, method: str = 'POST', path: str = '/XMLRPC') -> bytes:
        """The beginning of a request; the caller says how long its body is."""
        lines = [f'{method} {path} HTTP/1.1', 'Host: test', f'Authorization: {self.authorization}', *headers]
        return '\r\n'.join([*lines, '', '']).encode('latin-1')

    def request(self, body: bytes, *headers: str) -> bytes:
        return self.head(f'Content-Length: {len(body)}', *headers) + body

    def say(self, *parts: bytes) -> bytes:
        """Send these on a connection of their own, no more after that; everything that is answered until it ends."""
        with self.connect() as client:
            return exchange(client, *parts)

    def call(self, method: str, **members: object) -> object:
        return self.call_body(call_body(method, **members))

    def call_body(self, body: bytes) -> object:
        """The answer to a call, as a value or a Fault."""
        with self.connect() as client:
            client.sendall(self.request(body))
            response = http.client.HTTPResponse(client)
            response.begin()
            assert response.status == 200
            try:
                return xmlrpc.client.loads(response.read())[0][0]
            except xmlrpc.client.Fault as fault:
                return fault

    def await_served(self) -> None:
        """Every handler answers a normal call at once: as many connections as there are, each with a handler."""
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(self.connect()) for _ in self.handlers]
            began = time.monotonic()
            for client in clients:
                client.sendall(self.request(call_body('version')))
            for client in clients:
                response = http.client.HTTPResponse(client)
                response.begin()
                assert __version__.encode() in response.read()
            assert time.monotonic() - began < AT_ONCE_S


def call_body(method: str, **members: object) -> bytes:
    arguments = {'auth': {'authoritative_source': 'test'}, **members}
    return xmlrpc.client.dumps((arguments,), method, allow_none=True).encode()


def raw_call(method: str, members: bytes) -> bytes:
    """A call whose struct has these members beside ``auth``, as they are."""
    auth = '<member><name>auth</name><value><struct/></value></member>'
    auth = auth.replace(
        '<struct/>', '<struct><member><name>authoritative_source</name><value>t</value></member></struct>'
    )
    return (
        f'<methodCall><methodName>{method}</methodName><params><param><value><struct>{auth}'.encode()
        + members
        + b'</struct></value></param></params></methodCall>'
    )


def exchange(client: socket.socket, *parts: bytes) -> bytes:
    """Send parts while what is answered is read; a server may refuse to take them all."""

    def send() -> None:
        with contextlib.suppress(OSError):
            for part in parts:
                client.sendall(part)

    sender = threading.Thread(target=send)
    sender.start()
    answer = received(client)
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_RDWR)
    sender.join()
    return answer


def received(client: socket.socket) -> bytes:
    """Everything until the other side closes the connection."""
    answer = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while piece := client.recv(65536):
            answer += piece
    return bytes(answer)


def is_refused(answer: bytes) -> bool:
    head, _, text = answer.partition(b'\r\n\r\n')
    return (
        head.startswith(b'HTTP/1.1 413 ')
        and b'\r\nConnection: close\r\n' in head
        and text == b'The request is too large, %d bytes are accepted.\n' % MAX_BODY
    )


def most_memory_mb(pid: int) -> int:
    """The most that a process has had in memory since it was last asked."""
    status = Path(f'/proc/{pid}/status').read_text()
    Path(f'/proc/{pid}/clear_refs').write_text('5')
    (kb,) = re.findall(r'^VmHWM:\s+(\d+) kB', status, re.MULTILINE)
    return int(kb) >> 10


@pytest.fixture
def target(daemon: DaemonFactory, database_options: dict[str, str], db: Database) -> Iterator[Target]:
    """A daemon with two handlers, both of which serve in the end, and a database that is then as it was."""
    timeout = {'request_timeout': str(REQUEST_TIMEOUT_S)}
    made = Target(daemon(config={'nipapd': {'forks': '2', **timeout, **database_options}}))
    assert len(made.handlers) == 2
    made.await_served()
    before, handlers = facts(db), list(made.handlers)
    yield made
    made.await_served()
    assert facts(db) == before
    assert check.problems(db) == []
    assert all(Path(f'/proc/{pid}').exists() for pid in handlers), 'a handler has died'


# too much


def test_a_large_body_is_refused_as_it_is_read(target: Target) -> None:
    for pid in target.handlers:
        most_memory_mb(pid)
    target.await_served()
    before = {pid: most_memory_mb(pid) for pid in target.handlers}
    pieces = 200 * MB // len(PIECE)
    declared = target.head(f'Content-Length: {200 * MB}')
    chunked = target.head('Transfer-Encoding: chunked')
    for parts in (
        [declared, *[PIECE] * pieces],
        [chunked, *[CHUNK] * pieces, b'0\r\n\r\n'],
        [chunked, b'%x\r\n' % (200 * MB), *[PIECE] * pieces],
    ):
        assert is_refused(target.say(*parts))
    assert {pid: most for pid in target.handlers if (most := most_memory_mb(pid)) - before[pid] >= 30} == {}


@pytest.mark.parametrize('expect', [(), ('Expect: 100-continue',)])
def test_a_large_body_need_not_be_sent_to_be_refused(target: Target, expect: tuple[str, ...]) -> None:
    assert is_refused(target.say(target.head(f'Content-Length: {MAX_BODY + 1}', *expect)))


def test_an_ordinary_client_learns_that_its_request_is_too_large(target: Target) -> None:
    connection = http.client.HTTPConnection(*target.address, timeout=SLOW_MACHINE_S)
    with contextlib.closing(connection):
        connection.request('POST', '/XMLRPC', b' ' * (3 * MAX_BODY), {'Authorization': target.authorization})
        assert connection.getresponse().status == 413


@pytest.mark.parametrize('chunked', [False, True])
def test_the_largest_body_is_read(target: Target, chunked: bool) -> None:
    body = call_body('version').ljust(MAX_BODY)
    if not chunked:
        assert target.call_body(body) == __version__
        return
    parts = [b'%x\r\n%b\r\n' % (len(part), part) for part in (body[:100], body[100:])]
    head = target.head('Transfer-Encoding: chunked', 'Connection: close')
    assert __version__.encode() in target.say(head, *parts, b'0\r\n\r\n')
    assert is_refused(target.say(head, *parts, b'1\r\n \r\n'))
