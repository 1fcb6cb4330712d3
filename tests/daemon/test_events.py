"""Events of a running daemon: in streams, and to webhooks that fail, are slow or lose their sender."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import socketserver
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import jwt
import psycopg2
import pytest
from daemon_process import Daemon, poll
from support import AUDIT_ENTRIES, DaemonFactory

from nipap.access.local_users import LocalUser, LocalUsers
from nipap.postgres import migrations
from nipap.postgres.database import Database
from nipapd.senders import signature

pytestmark = pytest.mark.slow

SECRET = 'a secret of a webhook'
PATIENCE_S = 40.0


def basic(user: str, password: str) -> str:
    """Return the value of a header `Authorization`."""
    return 'Basic ' + base64.b64encode(f'{user}:{password}'.encode()).decode()


class Client:
    """Calls the REST interface of a daemon."""

    def __init__(self, daemon: Daemon, authorization: str | None = None) -> None:
        self.address = daemon.address.removeprefix('http://')
        self.daemon = daemon
        self._auth = authorization or basic(*daemon.admin())

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """Return the answer as JSON, None without one; raise HTTPError when the call is refused."""
        request = urllib.request.Request(
            f'http://{self.address}/api/v1{path}',
            None if body is None else json.dumps(body).encode(),
            {'Authorization': self._auth, 'Content-Type': 'application/json', **headers},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return json.loads(answer.read() or b'null')

    def add(self, number: int, **attr: Any) -> int:
        """Add a prefix; return its id."""
        item = {'prefix': f'10.{number // 256}.{number % 256}.0/24', 'type': 'assignment', 'description': 'x', **attr}
        return int(self.ask('POST', '/prefixes', item)['id'])

    def open_stream(self, path: str = '/events', **headers: str) -> Stream:
        """Return a stream after its request was sent."""
        return Stream(self.address, path, {'Authorization': self._auth, **headers})

    def stream(self, path: str = '/events', **headers: str) -> Stream:
        """Return a stream after its beginning was read."""
        return self.open_stream(path, **headers).begin()

    def hook(self, url: str, **attr: Any) -> int:
        return int(self.ask('POST', '/webhooks', {'url': url, 'secret': SECRET, **attr})['id'])


class Stream:
    """Reads server-sent events."""

    def __init__(self, address: str, path: str, headers: dict[str, str]) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=PATIENCE_S)
        self._connection.request('GET', f'/api/v1{path}', headers=headers)

    def begin(self) -> Self:
        """Read the beginning of the answer."""
        self.response = self._connection.getresponse()
        assert self.response.status == 200, self.response.read()
        assert self.message() == {'retry': '2000'}
        return self

    def status(self) -> int:
        """Return the status of the answer, whose body is not read."""
        with contextlib.closing(self._connection):
            return self._connection.getresponse().status

    def message(self) -> dict[str, str]:
        """Return the next message other than a comment; an empty one at the end."""
        found: dict[str, str] = {}
        deadline = time.monotonic() + PATIENCE_S
        while line := self.response.readline().decode():
            assert time.monotonic() < deadline, 'nothing comes but comments'
            if line == '\n' and found:
                return found
            name, colon, value = line.rstrip('\n').partition(':')
            if name and colon:
                found[name] = value.removeprefix(' ')
        return found

    def next(self) -> dict[str, Any]:
        """Return the next event."""
        message = self.message()
        event: dict[str, Any] = json.loads(message['data'])
        assert (message['id'], message['event']) == (str(event['id']), event['action'])
        return event

    def close(self) -> None:
        self.response.close()
        self._connection.close()


def printed(name: str) -> Any:
    """Return a function that docs/events.md prints for authors of receivers."""
    text = (Path(__file__).resolve().parent.parent.parent / 'docs' / 'events.md').read_text()
    (block,) = (code for code in re.findall(r'```python\n(.*?)```', text, re.DOTALL) if f'def {name}(' in code)
    names: dict[str, Any] = {}
    exec(block, names)
    return names[name]


is_genuine = printed('is_genuine')


def test_forged_and_old_events_are_noticed() -> None:
    now = int(time.time())

    def signed(sent: int) -> str:
        return f't={sent},v1={signature(SECRET, sent, b"{}")}'

    assert is_genuine(SECRET, signed(now), b'{}')
    assert not is_genuine('another secret', signed(now), b'{}')
    assert not is_genuine(SECRET, signed(now), b'[]')
    assert not is_genuine(SECRET, signed(now - 400), b'{}')


class Receiver:
    """A server that takes events, or treats them as the test defines."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.attempts = 0
        self.problems: list[str] = []
        self.status: Callable[[int], int] = lambda _: 204
        # A body in place of a good answer.
        self.answer: Callable[[int], bytes | None] = lambda _: None
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers['Content-Length']))
                receiver.check(self.headers, body)
                receiver.attempts += 1
                if answer := receiver.answer(receiver.attempts):
                    self.wfile.write(answer)
                    self.close_connection = True
                    return
                status = receiver.status(receiver.attempts)
                if 200 <= status < 300:
                    receiver.got.append(json.loads(body))
                try:
                    self.send_response(status)
                    self.send_header('Location', '/elsewhere')
                    self.send_header('Content-Length', '0')
                    self.end_headers()
                except OSError:
                    pass  # the sender was killed

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self._server.server_address[1]}/hook'
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={'poll_interval': 0.02})
        self._thread.start()

    def check(self, headers: Any, body: bytes) -> None:
        """Check signature and id of an event as docs/events.md describes."""
        if not is_genuine(SECRET, headers['NIPAP-Signature'], body):
            self.problems.append('signature')
        if headers['NIPAP-Event-Id'] != str(json.loads(body)['id']):
            self.problems.append('id')

    def ids(self) -> list[int]:
        """Return the ids of events in the order of their arrival."""
        return [event['id'] for event in self.got]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        assert self.problems == []


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def start(daemon: DaemonFactory, database_options: dict[str, str]) -> Callable[..., Client]:
    def make(**options: str) -> Client:
        return Client(daemon(config={'nipapd': {**database_options, 'forks': '2', **options}}))

    return make


def sender_of(daemon: Daemon) -> int:
    """Return the id of the process that delivers."""
    found: list[int] = []

    def there() -> bool:
        found[:] = [process.pid for process in daemon.children() if process.command == 'nipapd-events']
        return len(found) == 1

    poll(there, PATIENCE_S, lambda: f'{len(found)} processes deliver')
    return found[0]


def until(condition: Callable[[], object], what: str) -> None:
    poll(condition, PATIENCE_S, lambda: what)


def test_a_stream_has_changes_in_order_and_goes_on_where_it_was(start: Callable[..., Client]) -> None:
    client = start()
    stream = client.stream()
    i = client.add(1)
    client.ask('PATCH', f'/prefixes/{i}', {'description': 'y'})
    client.ask('DELETE', f'/prefixes/{i}')
    first, second, third = stream.next(), stream.next(), stream.next()
    assert [event['action'] for event in (first, second, third)] == ['add', 'edit', 'remove']
    assert {event['object']['id'] for event in (first, second, third)} == {i}
    assert second['changes']['description'] == {'before': 'x', 'after': 'y'}
    stream.close()
    for path, headers in ((f'/events?after={first["id"]}', {}), ('/events', {'Last-Event-ID': str(first['id'])})):
        again = client.stream(path, **headers)
        assert [again.next(), again.next()] == [second, third]
        again.close()
    only = client.stream(f'/events?after={first["id"] - 1}&kind=asn&kind=vrf')
    client.ask('POST', '/asns', {'asn': 1, 'name': 'one'})
    assert only.next()['object'] == {'kind': 'asn', 'id': 1}
    only.close()


def test_events_beyond_the_retention_are_removed_and_a_stream_reports_the_gap(
    start: Callable[..., Client], dsn: str
) -> None:
    """The daemon removes old events each minute, and when it begins to deliver."""
    client = start(event_retention_hours='2')
    stream = client.stream()
    for number in range(3):
        client.add(number)
    positions = [stream.next()['id'] for _ in range(3)]
    stream.close()
    with contextlib.closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        connection.autocommit = True

        def kept() -> list[int]:
            cursor.execute('SELECT position FROM event WHERE position = ANY (%s) ORDER BY position', (positions,))
            return [position for (position,) in cursor]

        def settled() -> bool:
            """Return whether all events are settled: an event that is not yet settled is not removed."""
            cursor.execute('SELECT settled >= (SELECT max(audit_id) FROM event) FROM event_state')
            return bool(cursor.fetchone() == (True,))

        until(settled, 'the events are not settled')
        cursor.execute("UPDATE event SET created = now() - interval '3 hours' WHERE position < %s", (positions[2],))
        os.kill(sender_of(client.daemon), signal.SIGTERM)
        until(lambda: kept() == positions[2:], 'what is old is not removed')
    again = client.stream(f'/events?after={positions[0]}')
    assert again.message() == {'event': 'gap', 'id': str(positions[1]), 'data': '{}'}
    assert again.next()['id'] == positions[2]
    again.close()
    whole = client.stream(f'/events?after={positions[1]}')
    assert whole.next()['id'] == positions[2]
    whole.close()


def test_streams_that_are_opened_at_once_after_a_restart_get_nothing_old(start: Callable[..., Client]) -> None:
    client = start()
    stream = client.stream()
    ids = [client.add(n) for n in range(5)]
    assert [stream.next()['object']['id'] for _ in ids] == ids
    stream.close()
    assert client.daemon.stop() == 0
    again = start(forks='1')
    streams = [again.open_stream() for _ in range(16)]
    for one in streams:
        one.begin()
    i = again.add(100)
    assert {one.next()['object']['id'] for one in streams} == {i}
    for one in streams:
        one.close()


def test_a_stream_that_is_opened_after_many_changes_gets_none_of_them(start: Callable[..., Client], dsn: str) -> None:
    client = start(forks='1')
    first = client.stream()
    client.add(0)
    position = first.next()['id']
    first.close()
    many = 5000
    with contextlib.closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(migrations.search_path())
        cursor.execute(AUDIT_ENTRIES, (many,))

    def newest() -> int:
        with contextlib.closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
            cursor.execute('SELECT last_position FROM event_state')
            return int((cursor.fetchone() or (0,))[0])

    until(lambda: newest() == position + many, 'the events have no positions')
    stream = client.stream()
    i = client.add(1)
    assert stream.next()['object'] == {'kind': 'prefix', 'id': i}
    stream.close()


def test_a_stream_with_a_position_that_was_never_given_goes_on_from_now(start: Callable[..., Client]) -> None:
    """This happens after the restore of an older copy of the database."""
    client = start()
    stream = client.stream()
    client.add(1)
    newest = stream.next()['id']
    stream.close()
    ahead = str(newest + 1000)
    for path, headers in ((f'/events?after={ahead}', {}), ('/events', {'Last-Event-ID': ahead})):
        one = client.stream(path, **headers)
        assert one.message() == {'event': 'gap', 'id': str(newest), 'data': '{}'}
        client.add(newest + 1)
        newest += 1
        assert one.next()['id'] == newest
        one.close()


def ended_within(stream: Stream, seconds: float) -> bool:
    """Return whether a stream ends within `seconds`, without an event before."""
    began = time.monotonic()
    assert stream.message() == {}
    stream.close()
    return time.monotonic() - began < seconds


def test_a_stream_ends_with_its_account(
    daemon: DaemonFactory, database_options: dict[str, str], tmp_path: Path
) -> None:
    """The account is removed, loses a right or gets another password; streams of other accounts go on."""
    users = LocalUsers(tmp_path / 'local_auth.db')
    users.create()
    names = ('removed', 'demoted', 'renewed', 'stays')
    for name in names:
        users.add(LocalUser(name, trusted=True), 'secret')
    config = {
        'nipapd': {**database_options, 'forks': '2'},
        'auth.backends.local': {'type': 'SqliteAuth', 'db_path': users.path},
    }
    made = daemon(config=config)
    removed, demoted, renewed, stays = (Client(made, basic(name, 'secret')) for name in names)
    streams = {client: client.stream() for client in (removed, demoted, renewed, stays)}
    users.delete('removed')
    assert ended_within(streams[removed], PATIENCE_S)
    users.modify('demoted', trusted=False)
    assert ended_within(streams[demoted], PATIENCE_S)
    users.modify('renewed', password='another secret')
    assert ended_within(streams[renewed], PATIENCE_S)
    for client, status in ((removed, 401), (renewed, 401), (demoted, 200)):
        assert client.open_stream().status() == status
    i = stays.add(1)
    assert streams[stays].next()['object']['id'] == i
    streams[stays].close()


def test_a_stream_ends_with_its_token(daemon: DaemonFactory, database_options: dict[str, str]) -> None:
    key = 'k3y-of-thirty-two-bytes-or-more!!'
    config = {
        'nipapd': {**database_options, 'forks': '1'},
        'auth.backends.sso': {'type': 'JwtAuth', 'signing_key': key},
    }
    made = daemon(config=config)
    short, long = (
        Client(made, 'Bearer ' + jwt.encode({'sub': 'ann', 'exp': time.time() + seconds}, key, 'HS256'))
        for seconds in (10, 600)
    )
    streams = short.stream(), long.stream()
    assert ended_within(streams[0], PATIENCE_S)
    assert short.open_stream().status() == 401
    i = long.add(1)
    assert streams[1].next()['object']['id'] == i
    streams[1].close()


@pytest.mark.parametrize('query', ['after=x', 'kind=dog', 'vrf_id=x', 'other=1'])
def test_bad_queries_for_a_stream_are_refused(start: Callable[..., Client], query: str) -> None:
    client = start()
    with pytest.raises(urllib.error.HTTPError) as caught:
        client.ask('GET', f'/events?{query}')
    with caught.value as error:
        assert error.code in (400, 422)
        assert json.loads(error.read())['attribute'] == query.partition('=')[0]


def test_streams_end_when_the_daemon_stops_and_do_not_use_up_requests(start: Callable[..., Client]) -> None:
    client = start(most_running='2', most_waiting='1', drain_timeout='20')
    streams = [client.stream() for _ in range(20)]
    client.add(1)
    began = time.monotonic()
    assert client.daemon.stop() == 0
    assert time.monotonic() - began < 15
    for stream in streams:
        while stream.message():
            pass
        stream.close()


def test_a_webhook_gets_its_events_in_order(start: Callable[..., Client], receiver: Receiver) -> None:
    client = start()
    receiver.status = lambda attempt: 500 if attempt <= 2 else 204
    key = client.hook(receiver.url, kinds=['prefix'], tags=['t'])
    ids = [client.add(n, tags=['t']) for n in range(5)]
    client.add(100)
    until(lambda: len(receiver.got) == 5, 'not all were delivered')
    assert [event['object']['id'] for event in receiver.got] == ids
    assert receiver.attempts == 7

    def shown() -> dict[str, Any]:
        found: dict[str, Any] = client.ask('GET', f'/webhooks/{key}')
        return found

    until(lambda: shown()['delivered'] == 5, 'it is not noted')
    assert (shown()['failed'], shown()['last_error'], shown()['attempts']) == (2, 'HTTP 500', 0)
    assert 'secret' not in shown()
    client.ask('PATCH', f'/webhooks/{key}', {'enabled': False})
    until(lambda: shown()['enabled'] is False, 'it is not disabled')
    client.ask('DELETE', f'/webhooks/{key}')
    with pytest.raises(urllib.error.HTTPError) as caught:
        shown()
    caught.value.close()


def test_a_dead_receiver_holds_up_no_other_and_redirects_are_not_followed(
    start: Callable[..., Client], receiver: Receiver
) -> None:
    client = start()
    other = Receiver()
    try:
        other.status = lambda _: 302
        client.hook(other.url)
        client.hook('http://127.0.0.1:1/')
        client.hook(receiver.url)
        client.add(1)
        client.add(2)
        until(lambda: len(receiver.got) == 2 and other.attempts, 'it is held up')
        assert other.got == []
    finally:
        other.close()


def test_webhooks_are_sent_to_allowed_addresses_only(start: Callable[..., Client], receiver: Receiver) -> None:
    """The address of the connection counts, not the name."""
    client = start(webhook_allow='127.0.0.1 198.51.100.0/24', webhook_deny='127.0.0.2, 198.51.100.7')
    port = urlsplit(receiver.url).port
    refused = {
        client.hook(f'http://127.0.0.2:{port}/'): 'webhook_deny has 127.0.0.2',
        client.hook(f'http://127.2:{port}/'): 'webhook_deny has 127.0.0.2',
        client.hook(f'http://[::ffff:127.0.0.2]:{port}/'): 'webhook_deny has 127.0.0.2',
        client.hook(f'http://[::ffff:7f00:3]:{port}/'): 'webhook_allow does not have 127.0.0.3',
        client.hook(f'http://127.0.0.3:{port}/'): 'webhook_allow does not have 127.0.0.3',
        client.hook('https://198.51.100.7/'): 'webhook_deny has 198.51.100.7',
    }
    client.hook(f'http://localhost:{port}/')
    client.add(1)

    def errors() -> dict[int, str | None]:
        return {key: client.ask('GET', f'/webhooks/{key}')['last_error'] for key in refused}

    until(lambda: len(receiver.got) == 1 and errors() == refused, 'it is sent elsewhere')
    assert receiver.attempts == 1


def test_dead_letters_can_be_sent_again(start: Callable[..., Client], receiver: Receiver) -> None:
    client = start(webhook_give_up='0')
    receiver.status = lambda _: 503
    key = client.hook(receiver.url)
    client.add(1)

    def letters() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = client.ask('GET', f'/webhooks/{key}/dead-letters')['result']
        return found

    until(letters, 'nothing is given up')
    (letter,) = letters()
    assert letter['error'] == 'HTTP 503'
    receiver.status = lambda _: 200
    assert client.ask('POST', f'/webhooks/{key}/dead-letters/resend', {'ids': [letter['id']]}) == {'resent': 1}
    until(lambda: not letters(), 'it is not sent again')
    assert receiver.got == [letter['event']]


HEAD = b'HTTP/1.1 200 OK\r\n'
CHUNKED = HEAD + b'Transfer-Encoding: chunked\r\n\r\n'
# When there are several parts, the last one is sent again and again.
BROKEN: dict[str, list[bytes]] = {
    'one long header': [HEAD + b'X: ' + bytes(100_000).replace(b'\0', b'x') + b'\r\n\r\n'],
    'many headers': [HEAD + b'X: y\r\n' * 20_000 + b'\r\n'],
    'endless headers': [HEAD, b'X: y\r\n' * 100],
    'no status line': [b'hello\r\n\r\n'],
    'no status': [b'HTTP/1.1 abc OK\r\n\r\n'],
    'no HTTP': [bytes(range(256))],
    'no header': [HEAD + b'hello\r\n\r\n'],
    'a zero byte': [HEAD + b'X: \0\xff\r\nContent-Length: 0\r\n\r\n'],
    'nothing': [b''],
    'half a head': [HEAD + b'X: y\r\n'],
    'no length': [HEAD + b'Content-Length: abc\r\n\r\n'],
    'two lengths': [HEAD + b'Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!'],
    'a huge length': [HEAD + b'Content-Length: 99999999999\r\n\r\nhello'],
    'half a body': [HEAD + b'Content-Length: 50\r\n\r\nhello'],
    'no chunk size': [CHUNKED + b'zz\r\nhello\r\n0\r\n\r\n'],
    'a long chunk size': [CHUNKED + b'3' * 100_000],
    'no end of a chunk': [CHUNKED + b'3\r\nabcXX0\r\n\r\n'],
    'no last chunk': [CHUNKED + b'3\r\nabc\r\n'],
    'no gzip': [HEAD + b'Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc'],
    'an unknown encoding': [HEAD + b'Transfer-Encoding: gzip\r\n\r\nabc'],
    'an endless body': [HEAD + b'\r\n', b'x' * 10_000],
    'endless chunks': [CHUNKED, b'1000\r\n' + b'x' * 4096 + b'\r\n'],
    'endless patience': [b'', b'HTTP/1.1 100 Continue\r\n\r\n'],
}


class BrokenReceiver:
    """A server with endless answers, or answers that are not HTTP."""

    def __init__(self, parts: list[bytes], certificate: tuple[str, str] | None = None) -> None:
        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    connection = self.request
                    if certificate:
                        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                        context.load_cert_chain(*certificate)
                        connection = context.wrap_socket(connection, server_side=True)
                    connection.recv(2**16)
                    connection.sendall(parts[0])
                    while parts[1:]:
                        connection.sendall(parts[-1])
                    connection.shutdown(socket.SHUT_WR)
                    # If the server closed before the client has read it, the answer would be lost.
                    while connection.recv(2**16):
                        pass

        self._server = socketserver.ThreadingTCPServer(('127.0.0.1', 0), Handler)
        self.address = f'127.0.0.1:{self._server.server_address[1]}'
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={'poll_interval': 0.02})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def test_an_answer_that_is_no_http_is_a_failed_attempt(
    start: Callable[..., Client], receiver: Receiver, certificate: tuple[str, str]
) -> None:
    client = start(webhook_give_up='0')
    with contextlib.ExitStack() as stack:

        def serve(parts: list[bytes], tls: tuple[str, str] | None = None) -> str:
            made = BrokenReceiver(parts, tls)
            stack.callback(made.close)
            return made.address

        keys = {name: client.hook(f'http://{serve(parts)}/') for name, parts in BROKEN.items()}
        good = [HEAD + b'Content-Length: 0\r\n\r\n']
        keys['a certificate that nobody trusts'] = client.hook(f'https://{serve(good, certificate)}/')
        keys['no TLS'] = client.hook(f'https://{serve(good)}/')
        client.hook(receiver.url)
        client.add(1)
        until(lambda: receiver.got, 'others hold it up')

        def given_up() -> dict[str, str]:
            letters = {name: client.ask('GET', f'/webhooks/{key}/dead-letters')['result'] for name, key in keys.items()}
            return {name: each[0]['error'] for name, each in letters.items() if each}

        until(lambda: given_up().keys() == keys.keys(), f'some are asked again and again: {keys.keys() - given_up()}')
        errors = given_up()
        for name in ('one long header', 'many headers', 'endless headers'):
            assert errors[name] == 'The headers of the answer are too long'
        for hook in client.ask('GET', '/webhooks')['result']:
            if hook['id'] in keys.values():
                assert (hook['delivered'], hook['failed'] > 0) == (0, True), hook
    assert 'delivery of events is paused' not in client.daemon.log()


def test_after_an_answer_that_is_no_http_the_event_is_sent_again(
    start: Callable[..., Client], receiver: Receiver
) -> None:
    receiver.answer = lambda attempt: BROKEN['one long header'][0] if attempt == 1 else None
    client = start()
    key = client.hook(receiver.url)
    i = client.add(1)
    until(lambda: receiver.got, 'it is not sent again')
    assert [event['object']['id'] for event in receiver.got] == [i]
    until(lambda: client.ask('GET', f'/webhooks/{key}')['delivered'] == 1, 'it is not noted')
    assert client.ask('GET', f'/webhooks/{key}')['failed'] == 1


def test_a_sender_that_is_killed_loses_nothing(start: Callable[..., Client], receiver: Receiver) -> None:
    client = start()
    kill_at = {3, 8, 13}

    def status(attempt: int) -> int:
        if attempt in kill_at:  # while it waits for the answer: taken, and not noted
            os.kill(sender_of(client.daemon), signal.SIGKILL)
        return 204

    receiver.status = status
    client.hook(receiver.url)
    ids = [client.add(n) for n in range(12)]
    until(lambda: len({event['object']['id'] for event in receiver.got}) == 12, 'something is lost')
    assert list(dict.fromkeys(event['object']['id'] for event in receiver.got)) == ids
    assert receiver.ids() == sorted(receiver.ids())
    assert len(receiver.got) <= 12 + len(kill_at)


def test_only_trusted_users_manage_webhooks(start: Callable[..., Client]) -> None:
    client = start()
    for attr, status in (({'url': 'http://x/'}, 400), ({'url': 'ftp://x/', 'secret': SECRET}, 422)):
        with pytest.raises(urllib.error.HTTPError) as caught:
            client.ask('POST', '/webhooks', attr)
        with caught.value as error:
            assert error.code == status
    with pytest.raises(urllib.error.HTTPError) as caught:
        client.ask('GET', '/webhooks', **{'NIPAP-Read-Only': 'true'})
    with caught.value as error:
        assert error.code == 403


@pytest.mark.parametrize('forks', ['2', '-1'])
def test_without_events_nothing_is_delivered_and_changes_have_their_order(
    start: Callable[..., Client], db: Database, forks: str
) -> None:
    client = start(events='false', forks=forks)
    client.add(1)
    places = 'SELECT count(*) FROM change_order o JOIN change_set s ON s.id = o.change_set'
    until(lambda: db.read(lambda tx: tx.value(places)) == 1, 'the change set has a position')
    assert db.read(lambda tx: tx.one('SELECT settled, last_position FROM event_state')) == (None, 0)


def test_a_daemon_of_one_process_delivers_too(start: Callable[..., Client], receiver: Receiver) -> None:
    """Slow receivers delay neither requests nor the end, and do not count as running requests."""
    client = start(forks='-1', most_running='2', drain_timeout='20')
    assert [process.command for process in client.daemon.children() if 'nipapd' in process.command] == []
    release = threading.Event()

    def slow(_: int) -> int:
        release.wait(PATIENCE_S)
        return 204

    slow_ones = [Receiver() for _ in range(4)]
    try:
        for one in slow_ones:
            one.status = slow
            client.hook(one.url)
        client.hook(receiver.url)
        stream = client.stream()
        ids = [client.add(n) for n in range(5)]
        until(lambda: len(receiver.got) == 5, 'not all were delivered')
        assert [event['object']['id'] for event in receiver.got] == ids
        assert [stream.next()['object']['id'] for _ in ids] == ids
        began = time.monotonic()
        assert client.daemon.stop() == 0
        assert time.monotonic() - began < 15
        stream.close()
    finally:
        release.set()
        for one in slow_ones:
            one.close()
