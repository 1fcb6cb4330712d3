"""Hostile clients of the whole daemon are refused or cut off; other clients are served, and nothing is changed."""

from __future__ import annotations

import base64
import contextlib
import gzip
import http.client
import json
import os
import re
import socket
import threading
import time
import xmlrpc.client
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from daemon_process import HANDLER, Daemon, poll
from support import DaemonFactory, facts

from nipap import __version__
from nipap.integrity import check
from nipap.postgres.database import Database

pytestmark = pytest.mark.slow

MB = 2**20
MAX_BODY = 10 * MB
REQUEST_TIMEOUT_S = 1.0
AT_ONCE_S = 5  # far more than a call takes, far less than any client waits
SLOW_MACHINE_S = 20
# The most memory that a body may take, as a multiple of its size.
ROOM = 16
PIECE = b'x' * 65536
CHUNK = b'%x\r\n%b\r\n' % (len(PIECE), PIECE)


class Target:
    """A daemon to attack."""

    def __init__(self, daemon: Daemon) -> None:
        parts = urlsplit(daemon.address)
        self.running = daemon
        self.address = parts.hostname, parts.port
        self.authorization = 'Basic ' + base64.b64encode(':'.join(daemon.admin()).encode()).decode()
        self.handlers = [process.pid for process in daemon.children() if process.command == HANDLER]

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=SLOW_MACHINE_S)

    def head(self, *headers: str, method: str = 'POST', path: str = '/XMLRPC') -> bytes:
        """Return the beginning of a request; `headers` must include the length of its body."""
        lines = [f'{method} {path} HTTP/1.1', 'Host: test', f'Authorization: {self.authorization}', *headers]
        return '\r\n'.join([*lines, '', '']).encode('latin-1')

    def request(self, body: bytes, *headers: str) -> bytes:
        return self.head(f'Content-Length: {len(body)}', *headers) + body

    def say(self, *parts: bytes) -> bytes:
        """Send these parts, and no more, on a new connection; return all answers until the connection ends."""
        with self.connect() as client:
            return exchange(client, *parts)

    def call(self, method: str, **members: object) -> object:
        return self.call_body(call_body(method, **members))

    def status_of(self, body: bytes) -> int:
        """Return the status of the answer to a request."""
        with self.connect() as client:
            client.sendall(self.request(body))
            return int(client.recv(12).split()[1])

    def call_body(self, body: bytes) -> object:
        """Return the answer to a call, as a value or a Fault."""
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
        """Wait until every handler answers a normal call at once: one connection for each handler."""
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
    """Return a call whose struct has these members beside ``auth``, unchanged."""
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
    """Send parts while reading the answer, as the server may refuse to take all parts; return the answer."""

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
    """Return everything until the other side closes the connection."""
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
    """Return the highest memory use of a process since the last call of this function."""
    status = Path(f'/proc/{pid}/status').read_text()
    Path(f'/proc/{pid}/clear_refs').write_text('5')
    (kb,) = re.findall(r'^VmHWM:\s+(\d+) kB', status, re.MULTILINE)
    return int(kb) >> 10


def cpu_s(target: Target) -> float:
    """Return the CPU time of all handlers so far; on a busy machine this is more reliable than a clock."""
    stats = (Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split() for pid in target.handlers)
    return sum(int(ticks) for fields in stats for ticks in fields[11:13]) / os.sysconf('SC_CLK_TCK')


@contextlib.contextmanager
def growing_less_than(target: Target, limit_mb: int, what: str = '') -> Iterator[None]:
    """Check that no handler uses this much more memory at any time during the block than before."""
    for pid in target.handlers:
        most_memory_mb(pid)
    target.await_served()
    before = {pid: most_memory_mb(pid) for pid in target.handlers}
    yield
    grown = {pid: most_memory_mb(pid) - before[pid] for pid in target.handlers}
    assert max(grown.values()) < limit_mb, (what, grown)


@pytest.fixture
def target(
    request: pytest.FixtureRequest, daemon: DaemonFactory, database_options: dict[str, str], db: Database
) -> Iterator[Target]:
    """Yield a daemon with two handlers; check afterwards that both serve and the database is unchanged."""
    timeout = {'request_timeout': str(getattr(request, 'param', REQUEST_TIMEOUT_S))}
    made = Target(daemon(config={'nipapd': {'forks': '2', **timeout, **database_options}}))
    assert len(made.handlers) == 2
    made.await_served()
    before, handlers = facts(db), list(made.handlers)
    yield made
    made.await_served()
    assert facts(db) == before
    assert check.problems(db) == []
    assert all(Path(f'/proc/{pid}').exists() for pid in handlers), 'a handler has died'


# requests that are too large


def test_a_large_body_is_refused_as_it_is_read(target: Target) -> None:
    pieces = 200 * MB // len(PIECE)
    declared = target.head(f'Content-Length: {200 * MB}')
    chunked = target.head('Transfer-Encoding: chunked')
    with growing_less_than(target, 30):
        for parts in (
            [declared, *[PIECE] * pieces],
            [chunked, *[CHUNK] * pieces, b'0\r\n\r\n'],
            [chunked, b'%x\r\n' % (200 * MB), *[PIECE] * pieces],
        ):
            assert is_refused(target.say(*parts))


@pytest.mark.parametrize('expect', [(), ('Expect: 100-continue',)])
def test_a_large_body_need_not_be_sent_to_be_refused(target: Target, expect: tuple[str, ...]) -> None:
    assert is_refused(target.say(target.head(f'Content-Length: {MAX_BODY + 1}', *expect)))


def test_an_ordinary_client_learns_that_its_request_is_too_large(target: Target) -> None:
    connection = http.client.HTTPConnection(*target.address, timeout=SLOW_MACHINE_S)
    with contextlib.closing(connection):
        connection.request('POST', '/XMLRPC', b' ' * (3 * MAX_BODY), {'Authorization': target.authorization})
        assert connection.getresponse().status == 413


@pytest.mark.parametrize('length', [f'Content-Length: {MAX_BODY + 1}', 'Transfer-Encoding: chunked'])
def test_rest_clients_learn_it_as_a_problem(target: Target, length: str) -> None:
    head = target.head(length, path='/api/v1/prefixes')
    answer = target.say(head, *[CHUNK] * (2 * MAX_BODY // len(PIECE))) if 'chunked' in length else target.say(head)
    said, _, body = answer.partition(b'\r\n\r\n')
    assert said.startswith(b'HTTP/1.1 413 ')
    assert b'\r\nContent-Type: application/problem+json\r\n' in said
    problem = json.loads(body)
    assert (problem['status'], problem['code'], problem['type']) == (413, 1100, 'about:blank')
    assert problem['detail'] == f'The request is too large, {MAX_BODY} bytes are accepted.'


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


@pytest.mark.parametrize('target', [SLOW_MACHINE_S], indirect=True)
def test_bodies_that_do_not_end_have_their_limit_together(target: Target) -> None:
    body = call_body('version').ljust(9 * MB)
    head = target.head(f'Content-Length: {len(body) + 1}')
    chunked = target.head('Transfer-Encoding: chunked') + b'%x\r\n' % (len(body) + 1)
    with growing_less_than(target, 200), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(target.connect()) for _ in range(60)]
        for number, client in enumerate(clients):
            client.sendall((chunked if number % 2 else head) + body)
        target.await_served()
        refused = 0
        for client in clients:
            client.settimeout(0)
            with contextlib.suppress(BlockingIOError):
                answer = client.recv(65536)
                assert answer.startswith(b'HTTP/1.1 503 ')
                assert b'\r\nRetry-After: 1\r\n' in answer
                refused += 1
        assert 60 - 2 * 15 <= refused <= 60 - 14
    poll(lambda: target.status_of(body) == 200, SLOW_MACHINE_S, target.running.log)  # clients that left make room
    for _ in range(60):  # answered requests make room
        assert target.call_body(body) == __version__


# requests that are too slow


def drip(client: socket.socket, begin: bytes, every: bytes) -> float:
    """Send the beginning, then `every` again and again, slowly; return the time until the other side closes."""
    began = time.monotonic()
    client.sendall(begin)
    client.settimeout(REQUEST_TIMEOUT_S / 10)
    while time.monotonic() - began < SLOW_MACHINE_S:
        try:
            if not client.recv(65536):
                break
        except TimeoutError:
            with contextlib.suppress(OSError):
                client.sendall(every)
        except ConnectionResetError:
            break
    return time.monotonic() - began


def test_slow_clients_are_given_up(target: Target) -> None:
    whole = target.request(call_body('version'))
    slow = {
        'headers': (b'POST /XMLRPC HT', b'x'),
        'headers of a second request': (whole + b'POST /XML', b'x'),
        'header lines': (b'POST /XMLRPC HTTP/1.1\r\n', b'A: b\r\n'),
        'nothing after the first byte': (b'P', b''),
        'a body': (target.head('Content-Length: 1000'), b' '),
        'a body in chunks': (target.head('Transfer-Encoding: chunked'), b'1\r\n \r\n'),
        'nothing of a body': (target.head('Content-Length: 1000'), b''),
    }
    took: dict[str, float] = {}

    def attack(name: str) -> None:
        with target.connect() as client:
            took[name] = drip(client, *slow[name])

    with target.connect() as patient:  # a client that has sent nothing yet may wait
        attackers = [threading.Thread(target=attack, args=(name,)) for name in slow]
        for attacker in attackers:
            attacker.start()
        target.await_served()
        for attacker in attackers:
            attacker.join()
        patient.sendall(target.request(call_body('version'), 'Connection: close'))
        assert __version__.encode() in received(patient)
    assert set(took) == set(slow)
    assert {name: s for name, s in took.items() if not REQUEST_TIMEOUT_S <= s < 5 * REQUEST_TIMEOUT_S} == {}


def test_idle_connections_cost_nobody_anything(target: Target) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(target.connect()) for _ in range(300)]
        target.await_served()
        for client in clients[::2]:
            client.sendall(b'POST /XMLRPC HTTP/1.1\r\n')
        target.await_served()


# requests that are not HTTP


def last_status(answer: bytes) -> int | None:
    """Return the status of the last of several answers; None when there is none."""
    found = re.findall(rb'^HTTP/1\.1 (\d{3}) ', answer, re.MULTILINE)
    return int(found[-1]) if found else None


def test_requests_that_are_not_http_end_the_connection(target: Target) -> None:
    whole = target.request(call_body('version'))
    head = target.head()[:-2]  # more headers may follow
    chunked = target.head('Transfer-Encoding: chunked')
    for said in (
        b'\x00\xff' * 1000 + b'\r\n\r\n',
        b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03' + b'\r\n\r\n',  # the beginning of TLS
        b'garbage\r\n\r\n',
        b'POST /XMLRPC\r\n\r\n',
        b'POST /XMLRPC HTTP/9.9\r\n\r\n',
        b'POST /XMLRPC HTTP/1.1\r\nno colon\r\n\r\n',
        b'x' * 100_000,
        head + b'X: ' + b'x' * 100_000 + b'\r\n\r\n',
        head + b'X: x\r\n' * 20_000 + b'\r\n',
        head + b'X: \x00\r\n\r\n',
        head + b'Content-Length: -1\r\n\r\n',
        head + b'Content-Length: +5\r\n\r\n12345',
        head + b'Content-Length: 0x5\r\n\r\n12345',
        head + b'Content-Length: 5 5\r\n\r\n12345',
        head + b'Content-Length: \xb2\r\n\r\n12',
        head + b'Content-Length: ' + b'9' * 5000 + b'\r\n\r\n12',
        head + b'Content-Length: 5\r\nContent-Length: 6\r\n\r\n123456',
        head + b'Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
        head + b'Transfer-Encoding: gzip\r\n\r\n',
        head + b'Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n',
        head + b'Transfer-Encoding: identity\r\n\r\n',
        chunked + b'-1\r\n',
        chunked + b'zz\r\n',
        chunked + b'1\r\nxx\r\n',
        chunked + b'f' * 1000 + b'\r\n',
        chunked + b'0\r\nmore',
        target.head('Content-Length: 1000') + b'less',
        target.request(b'more', 'Content-Length: 1'),
        whole + b'\x00\xff garbage\r\n\r\n',
        whole + b'<methodCall/>\r\n\r\n',
        target.head('Content-Length: 6') + whole,
    ):
        assert last_status(target.say(said)) in (400, 431, None), said[:200]
        target.await_served()


def test_a_length_beyond_all_numbers_is_too_large(target: Target) -> None:
    for digits in (19, 20, 4000):
        assert is_refused(target.say(target.head(f'Content-Length: {"9" * digits}')))
    assert is_refused(target.say(target.head('Transfer-Encoding: chunked'), b'7fffffff\r\n', *[PIECE] * 200))


def test_many_headers_are_read(target: Target) -> None:
    headers = [f'X-{number}: x' for number in range(3000)]
    assert __version__.encode() in target.say(target.request(call_body('version'), 'Connection: close', *headers))


# requests that are not XML-RPC


def attr(members: bytes, prefix: str = '10.0.0.0/8') -> bytes:
    """Return a call of add_prefix, which would succeed without these members."""
    valid = ''.join(
        f'<member><name>{name}</name><value>{value}</value></member>'
        for name, value in {'prefix': prefix, 'type': 'assignment', 'description': 'd'}.items()
    ).encode()
    return raw_call(
        'add_prefix', b'<member><name>attr</name><value><struct>%b</struct></value></member>' % (valid + members)
    )


def attr_value(name: str, value: bytes) -> bytes:
    return attr(b'<member><name>%b</name><value>%b</value></member>' % (name.encode(), value))


def nested(begin: bytes, end: bytes, times: int) -> bytes:
    return begin * times + b'<value/>' + end * times


BOMB = '<!ENTITY a0 "ha">' + ''.join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
SURPLUS = b''.join(b'<member><name>%x</name><value/></member>' % number for number in range(200_000))
NEGATIONS = nested(
    b'<value><struct><member><name>operator</name><value>and</value></member><member><name>val2</name><value>x</value>'
    b'</member><member><name>val1</name>',
    b'</member></struct></value>',
    40_000,
)
BODIES = {
    'as many members as there is room for': attr(SURPLUS),
    'deep arrays': attr_value('tags', nested(b'<value><array><data>', b'</data></array></value>', 100_000)[7:-8]),
    'deep structs': attr_value(
        'avps', nested(b'<value><struct><member><name>a</name>', b'</member></struct></value>', 100_000)[7:-8]
    ),
    'deep queries': raw_call('search_prefix', b'<member><name>query</name>%b</member>' % NEGATIONS),
    'deep elements of no meaning': b'<a>' * 1_000_000,
    'beginnings': b'<' * MAX_BODY,
    'ends': b'<methodCall>' + b'>' * (MAX_BODY - 20),
    'nothing': b'',
    'bytes that are not UTF-8': attr_value('comment', b'\xff\xfe\xc3\x28'),
    'a surrogate in UTF-8': attr_value('comment', b'\xed\xa0\x80'),
    'an overlong slash': attr_value('comment', b'\xc0\xaf'),
    'a lone surrogate': attr_value('comment', b'&#xD800;'),
    'a pair of surrogates': attr_value('comment', b'&#xD83D;&#xDE00;'),
    'a NUL': attr_value('comment', b'a\x00b'),
    'a NUL by number': attr_value('comment', b'a&#0;b'),
    'a control character': attr_value('comment', b'a\x01b'),
    'a control character by number': attr_value('comment', b'a&#1;b'),
    'a name with a control character': attr(b'<member><name>a\x02</name><value/></member>'),
    'an int of more than 64 bits': attr_value('vlan', b'<int>9223372036854775808</int>'),
    'an i8 of more than 64 bits': attr_value('vlan', b'<i8>-9223372036854775809</i8>'),
    'an int of a million digits': attr_value('vlan', b'<int>%b</int>' % (b'9' * 1_000_000)),
    'an int that is none': attr_value('vlan', b'<int>1e5</int>'),
    'an id of more than 64 bits': attr_value('pool_id', b'<i8>9223372036854775808</i8>'),
    'a double that is none': attr_value('vlan', b'<double>nan</double>'),
    'a double too large': attr_value('vlan', b'<double>1e999</double>'),
    'a date out of range': attr_value('expires', b'<dateTime.iso8601>99999999T99:99:99</dateTime.iso8601>'),
    'the year 0': attr_value('expires', b'<dateTime.iso8601>00000101T00:00:00</dateTime.iso8601>'),
    'the year 10000 as text': attr_value('expires', b'10000-01-01 00:00:00'),
    'a date far away': attr_value('expires', b'+99999999999999 years'),
    'base64 that is none': attr_value('comment', b'<base64>!!!</base64>'),
    'a bomb of entities': f'<?xml version="1.0"?><!DOCTYPE m [{BOMB}]>'.encode() + attr_value('comment', b'&a9;'),
    'a bomb in UTF-16': (
        f'<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE m [{BOMB}]>'
        + attr_value('comment', b'&a9;').decode()
    ).encode('utf-16'),
    'an external entity': b'<!DOCTYPE m [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + attr_value('comment', b'&x;'),
    'an external DTD': b'<!DOCTYPE m SYSTEM "http://127.0.0.1:1/x.dtd">' + attr(b''),
    'a parameter entity': b'<!DOCTYPE m [<!ENTITY % x SYSTEM "file:///etc/passwd"> %x;]>' + attr(b''),
    'an unknown encoding': b'<?xml version="1.0" encoding="EBCDIC-X"?>' + attr(b''),
    'UTF-7': b'<?xml version="1.0" encoding="UTF-7"?>' + attr(b''),
}  # fmt: skip


def is_our_fault(answer: object) -> bool:
    return (
        isinstance(answer, xmlrpc.client.Fault)
        and answer.faultCode in range(1100, 1500)
        and len(answer.faultString) < 1000
        and 'Internal' not in answer.faultString
    )


def test_unacceptable_calls_are_faults(target: Target) -> None:
    for name, body in BODIES.items():
        with growing_less_than(target, 10 + ROOM * len(body) // MB, name):
            began = cpu_s(target)
            answer = target.call_body(body)
        assert cpu_s(target) - began < AT_ONCE_S, name
        assert is_our_fault(answer), (name, answer)
        target.await_served()


def test_a_million_members_in_little_room(target: Target) -> None:
    member = b'<member><name>a</name><value/></member>'
    body = attr(member * 1_000_000)
    assert is_refused(target.say(target.request(body)))
    packed = gzip.compress(body, 1)
    assert len(packed) < MB
    with growing_less_than(target, 60):
        answer = target.say(target.request(packed, 'Content-Encoding: gzip', 'Connection: close'))
    assert b'<int>1100</int>' in answer
    assert b'too large' in answer
