"""Requests that are nearly HTTP, and too many connections: the daemon goes on serving other clients."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest
from daemon_process import Daemon, poll
from support import SAME_ACCOUNT, DaemonFactory
from test_hostile import Target, call_body, received

from nipap import __version__

REQUEST_TIMEOUT_S = 1.5
DESCRIPTORS = 300  # descriptors of a handler; more than 60 % are for connections
ROOM = 172
ANSWER = re.compile(rb'^HTTP/1\.1 (\d{3}) .*?\r\n\r\n', re.MULTILINE | re.DOTALL)
VERSION = call_body('version')

MakeTarget = Callable[..., Target]


@pytest.fixture
def target(shared_daemon: Callable[..., Daemon]) -> Target:
    """Return a daemon with one handler that must survive every test."""
    return Target(shared_daemon(forks='1', request_timeout=str(REQUEST_TIMEOUT_S)))


@pytest.fixture
def make(daemon: DaemonFactory, database_options: dict[str, str]) -> MakeTarget:
    """Return a factory of daemons with a limit of descriptors for their handlers."""

    def start(descriptors: int | None = None, forks: int = 1) -> Target:
        config = {'forks': str(forks), 'request_timeout': str(REQUEST_TIMEOUT_S), **SAME_ACCOUNT, **database_options}
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors or soft, hard))
        try:
            running = daemon(config={'nipapd': config})
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        target = Target(running)
        assert len(target.handlers) == forks
        return target

    return start


def heads(answer: bytes) -> list[bytes]:
    """Return the heads of all answers; each must have an id, name no program, and be neither sniffed nor stored."""
    found = [match[0] for match in ANSWER.finditer(answer)]
    for head in found:
        for wanted in (
            rb'x-request-id: ',
            rb'x-content-type-options: nosniff\r',
            rb'cache-control: no-(store|cache)\r',
        ):
            assert len(re.findall(rb'\r\n' + wanted, head.lower())) == 1, head
        assert not re.search(rb'\r\nserver:|tornado|werkzeug|python', head, re.IGNORECASE), head
    return found


def statuses(answer: bytes) -> list[int]:
    return [int(head.split()[1]) for head in heads(answer)]


# ---- request lines and targets


def test_requests_that_are_nearly_http(target: Target) -> None:
    end = b' HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'
    for said, wanted in {
        b'GET /\r\n\r\n': [400],  # HTTP/0.9
        b'GET /XMLRPC\r\n\r\nGET /XMLRPC\r\n\r\n': [400],
        b'GET  / HTTP/1.1\r\nHost: x\r\n\r\n': [400],
        b' GET / HTTP/1.1\r\nHost: x\r\n\r\n': [400],
        b'GET / HTTP/2.0\r\nHost: x\r\n\r\n': [400],
        b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n': [400],
        b'GET / http/1.1\r\nHost: x\r\n\r\n': [400],
        b'GET / HTTP/1.1\r\n\r\n': [400],  # no host
        b'GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n': [400],
        b'GET / HTTP/1.1\r\nHost: a b\r\n\r\n': [400],
        b'CONNECT example.com:443' + end: [404],
        b'CONNECT /XMLRPC' + end: [405],
        b'OPTIONS *' + end: [404],
        b'TRACE /XMLRPC' + end: [405],
        b'BREW /XMLRPC' + end: [405],
        b'GET http://' + end: [200],  # the first page
        b'GET http://a:b@c/XMLRPC' + end: [404],
        b'GET ftp://x/XMLRPC' + end: [404],
        b'GET //XMLRPC' + end: [405],
        b'GET /../../etc/passwd' + end: [404],
        b'GET /%00%ff%zz' + end: [404],
        b'GET /' + b'a' * 60_000 + end: [404],
        b'GET /XMLRPC HTTP/1.0\r\n\r\n': [405],
    }.items():
        assert statuses(target.say(said)) == wanted, said[:100]
    assert 'Traceback' not in target.running.log()
    target.await_served()


@pytest.mark.parametrize('url', ['http://elsewhere:1/XMLRPC', 'HTTP://[::1]/XMLRPC', 'https://x/XMLRPC?a=b'])
def test_a_whole_url_is_asked_for_by_its_path(target: Target, url: str) -> None:
    said = target.head(f'Content-Length: {len(VERSION)}', 'Connection: close', path=url) + VERSION
    answer = target.say(said)
    assert statuses(answer) == [200]
    assert __version__.encode() in answer
    assert statuses(target.say(b'GET http://x?a HTTP/1.1\r\nHost: y\r\nConnection: close\r\n\r\n')) == [200]
    assert statuses(target.say(b'GET http://a_b:x/ HTTP/1.1\r\nHost: y\r\nConnection: close\r\n\r\n')) == [200]


@pytest.mark.parametrize('host', ['x:', 'x:0', 'x:99999', '[::1]', '[::1]:80', '[::1]:', '', f'x:{"9" * 5000}'])
def test_hosts_with_and_without_ports(target: Target, host: str) -> None:
    for path in ('/XMLRPC', '/api/docs'):
        request = f'GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n'
        (status,) = statuses(target.say(request.encode()))
        assert status in (200, 308, 400, 401, 405)
    assert 'Traceback' not in target.running.log()


# ---- headers


def added_by(target: Target, dsn: str, *headers: str) -> tuple[bytes, str | None]:
    """Return the status of an addition with these headers, and the user of the addition."""
    body = b'{"asn": 65000}'
    given = ('Content-Type: application/json', f'Content-Length: {len(body)}', 'Connection: close', *headers)
    status = target.say(target.head(*given, path='/api/v1/asns') + body).split()[1]
    with contextlib.closing(psycopg2.connect(dsn)) as session, session.cursor() as cursor:
        cursor.execute('SELECT username FROM change_set ORDER BY id DESC LIMIT 1')
        who = cursor.fetchone()
    target.call('remove_asn', asn={'asn': 65000})
    return status, who and who[0]


def test_headers_with_underscores_are_none(target: Target, shared_dsn: str) -> None:
    status, username = added_by(
        target, shared_dsn, 'NIPAP_Username: boss', 'nipap_read_only: true', 'CONTENT_TYPE: text/plain'
    )
    assert (status, username) == (b'201', target.running.admin()[0])
    assert added_by(target, shared_dsn, 'NIPAP-Username: ann', 'NIPAP_Username: boss')[1] == 'ann'


@pytest.mark.parametrize('name', ['NIPAP-Username', 'nipap-read-only', 'NIPAP-Reason', 'Idempotency-Key'])
def test_a_header_that_may_be_there_once_is_refused_when_there_are_two(target: Target, name: str) -> None:
    head = target.head(f'{name}: false', 'X-Between: x', f'{name.upper()}: false', 'Connection: close', method='GET')
    answer = target.say(head)
    assert statuses(answer) == [400]
    assert f'The header {name.title()} is there more than once.'.encode() in answer
    target.await_served()


def test_headers_that_are_too_large_are_refused(target: Target) -> None:
    whole, filling = target.request(VERSION), b'x' * 200_000
    lines = b''.join(b'X-Line-%d: %s\r\n' % (number, b'y' * 90) for number in range(2000))
    for head in (
        b'GET / HTTP/1.1\r\nHost: x\r\nCookie: ' + filling + b'\r\n\r\n',
        b'POST /api/v1/vrfs HTTP/1.1\r\nHost: x\r\n' + lines + b'\r\n',
        b'GET /' + filling + b' HTTP/1.1\r\nHost: x\r\n\r\n',
        filling * 20,
    ):
        answer = target.say(whole, head)
        assert statuses(answer) == [200, 431]
        assert answer.endswith(b'The headers of the request are too large, 65536 bytes are accepted.\n')
    fits = b'GET /XMLRPC HTTP/1.1\r\nHost: x\r\nConnection: close\r\nCookie: ' + filling[:65_000] + b'\r\n\r\n'
    assert statuses(target.say(fits)) == [405]
    assert statuses(target.say(target.head('Transfer-Encoding: chunked'), b'1;' + filling)) in ([], [400])
    assert 'Traceback' not in target.running.log()


def test_garbage_behind_requests_is_refused_by_itself(target: Target) -> None:
    whole = target.request(VERSION)
    for garbage in (b'\x00' * 50 + b'\r\n\r\n', b'}{\r\n\r\n', b'HTTP/1.1 200 OK\r\n\r\n', VERSION + b'\r\n\r\n'):
        assert statuses(target.say(whole * 5 + garbage + whole)) == [200] * 5 + [400]
    assert statuses(target.say(b'\r\n' + target.request(VERSION, 'Connection: close')))[-1] in (200, 400)


def test_the_id_of_a_request_is_told_when_it_is_broken_later(target: Target) -> None:
    first = target.request(VERSION, 'X-Request-ID: first')
    second = target.head('X-Request-ID: second', 'Transfer-Encoding: chunked') + b'zz\r\n'
    told = [re.search(rb'(?i)x-request-id: (\S+)', head) for head in heads(target.say(first + second))]
    assert [found and found[1] for found in told] == [b'first', b'second']
    nameless = heads(target.say(first + b'garbage\r\n\r\n'))[1]
    assert b'first' not in nameless
    assert 'request second is refused: That is no valid HTTP request.' in target.running.log()


# ---- more connections than there is room for


@contextlib.contextmanager
def connections(target: Target, number: int, say: bytes = b'') -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(number):
            client = stack.enter_context(target.connect())
            client.sendall(say)
            clients.append(client)
        yield clients


def descriptors(pid: int) -> int:
    return len(os.listdir(f'/proc/{pid}/fd'))


def test_a_thousand_silent_connections_keep_nobody_out(make: MakeTarget) -> None:
    target = make(DESCRIPTORS, forks=2)
    begun = {pid: descriptors(pid) for pid in target.handlers}
    for _ in range(2):
        with connections(target, 1000):
            target.await_served()
            for pid in target.handlers:
                assert descriptors(pid) <= begun[pid] + ROOM + 20
            target.await_served()
        target.await_served()
    poll(lambda: all(descriptors(pid) < begun[pid] + 20 for pid in begun), 10, lambda: 'they stay open')
    assert 'cannot accept' not in target.running.log()
    assert 'Traceback' not in target.running.log()


def test_a_connection_with_a_running_request_is_kept(make: MakeTarget) -> None:
    target = make(DESCRIPTORS)
    answers: list[object] = []
    calling = threading.Thread(target=lambda: answers.append(target.call('echo', message='slow', sleep=4)))
    calling.start()
    with connections(target, 600):
        target.await_served()
        calling.join()
    assert answers == ['slow']


def test_when_all_begin_and_none_ends_the_next_waits_until_they_are_given_up(make: MakeTarget) -> None:
    target = make(DESCRIPTORS)
    with connections(target, ROOM + 30, b'POST /XMLRPC HTTP/1.1\r\nX: '):
        assert target.call('version') == __version__
    assert target.running.log().count('cannot accept a connection: there are ') >= 1
    target.await_served()


def test_without_descriptors_open_connections_are_served(make: MakeTarget) -> None:
    target = make()
    (pid,) = target.handlers
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    with target.connect() as there:
        there.sendall(target.request(VERSION))
        assert answered(there)
        former = resource.prlimit(pid, resource.RLIMIT_NOFILE, (descriptors(pid), hard))
        with connections(target, 20):
            poll(lambda: 'cannot accept' in target.running.log(), 10, target.running.log)
            for _ in range(10):
                there.sendall(target.request(VERSION))
                assert answered(there)
            assert target.running.log().count('cannot accept a connection: Too many open files') == 1
            resource.prlimit(pid, resource.RLIMIT_NOFILE, former)
            assert target.call('version') == __version__
    assert Path(f'/proc/{pid}').exists()


def answered(client: socket.socket) -> bool:
    response = http.client.HTTPResponse(client)
    response.begin()
    return __version__.encode() in response.read()


def test_half_a_head_is_given_up(target: Target) -> None:
    head = target.head()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(target.connect()) for _ in range(1, len(head), 7)]
        for number, client in enumerate(clients):
            client.sendall(head[: 1 + 7 * number])
        target.await_served()
        assert [received(client) for client in clients] == [b''] * len(clients)
