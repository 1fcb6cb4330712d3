"""Attacks by one client on the daemon: another user is answered in time and never refused; the log names the limit."""

from __future__ import annotations

import contextlib
import gzip
import random
import resource
import socket
import time
import xmlrpc.client
from collections.abc import Callable
from pathlib import Path

import psycopg2
import pytest
from attacks import GUEST, PATIENCE_S, Site, body_of, holding
from daemon_process import poll
from talking import Configured
from test_admin import samples

from nipap.postgres.database import Database

pytestmark = pytest.mark.slow

# This pattern keeps PostgreSQL busy until the search is stopped.
SLOW = r'^(.+)(.+)(.+)\3\2\1!$'
TEXT = ''.join(random.Random(1).choices('abcdefgh', k=2000)) + '!'

Make = Callable[..., Site]


@pytest.fixture
def site(configured: Configured, make_dir: Callable[[], Path]) -> Make:
    """Return a factory of daemons with one handler and an account to attack from: `site(**settings of [nipapd])`."""

    def make(descriptors: int | None = None, **settings: str) -> Site:
        data_dir = make_dir()
        settings = {'forks': '1', 'drain_timeout': '1', **settings}
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors or soft, hard))
        try:
            running = configured('--admin-port', '0', data_dir=data_dir, **settings)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return Site(running, data_dir)

    return make


def test_calls_that_sleep_take_no_places(site: Make) -> None:
    """The places are free even though the clients of some calls have left."""
    target = site(most_running='4')
    with holding(lambda _: target.connect(), 100) as clients:
        for client in clients:
            client.sendall(target.post(body_of('echo', message='m', sleep=9)))
        poll(lambda: samples(target.daemon)['nipap_running_requests'] >= 100, PATIENCE_S, target.daemon.log)
        target.work()
        for client in clients[::2]:
            client.close()
        target.work()


def test_patterns_that_keep_postgresql_busy_take_a_share_of_its_sessions(site: Make) -> None:
    target = site(db_connections='4', most_running='8')
    with target.connection() as connection:
        attr = {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': TEXT}
        target.call(connection, 'add_prefix', attr=attr)
    search = body_of('search_prefix', query={'operator': 'regex_match', 'val1': 'description', 'val2': SLOW})

    def ask(_: int) -> socket.socket:
        client = target.connect()
        client.sendall(target.post(search))
        return client

    with holding(ask, 40):
        poll(lambda: samples(target.daemon)['nipap_database_sessions'] >= 3, PATIENCE_S, target.daemon.log)
        target.work()
        target.await_reached('sessions')
        target.await_reached('running')


def test_readers_that_take_nothing_hold_no_place_and_lose_their_connection(site: Make) -> None:
    """Clients without credentials request the largest file of the daemon."""
    target = site(most_running='4', request_timeout='1')
    page = target.head(target='GET /api/docs/swagger-ui-bundle.js', credentials=None)

    def ask(_: int) -> socket.socket:
        client = target.connect('127.0.0.2', receive=4096)
        client.sendall(page * 9)  # more than the system buffers for a reader
        return client

    with holding(ask, 64):
        target.work()
        target.await_reached('rate', user=None, address='127.0.0.2')
        target.work()


def test_slow_readers_of_long_answers_hold_no_place_and_lose_their_connection(site: Make) -> None:
    """Lists, searches, batches and several calls in one, over XML-RPC and REST: each answer has 8 MB and more."""
    target = site(most_running='4', request_timeout='2')
    added = [{'prefix': '10.0.0.0/16', 'type': 'assignment', 'description': 'd'}]
    for number in range(1, 1000):
        host = f'10.0.{number // 250}.{number % 250}'
        added.append({'prefix': host, 'type': 'host', 'description': 'd', 'comment': TEXT * 4})
    with target.connection() as connection:
        target.call(
            connection, 'batch', operations=[{'method': 'add_prefix', 'args': {'attr': attr}} for attr in added]
        )
    everything = {'search_options': {'max_result': 1000}}
    listed = {'methodName': 'list_prefix', 'params': [{'auth': {'authoritative_source': 'test'}, 'prefix': {}}]}
    several = xmlrpc.client.dumps(([listed],), 'system.multicall').encode()
    asked = [
        target.post(body_of('list_prefix', prefix={})),
        target.post(body_of('search_prefix', query={'operator': 'like', 'val1': 'comment', 'val2': '%'}, **everything)),
        target.post(body_of('smart_search_prefix', query_string='10.0.0.0/16', **everything)),
        target.post(body_of('batch', operations=[{'method': 'list_prefix', 'args': {'prefix': {}}}])),
        target.post(several),
        target.head(target='GET /api/v1/prefixes?limit=1000'),
        target.head(target='GET /api/v1/prefixes?q=10.0.0.0/16&limit=1000'),
    ]

    def ask(number: int) -> socket.socket:
        client = target.connect(receive=4096)
        client.sendall(asked[number % len(asked)])
        return client

    with holding(ask, 2 * len(asked)) as clients:
        target.work()
        began = [client.recv(12) for client in clients]
        assert set(began) == {b'HTTP/1.1 200'}
        target.await_reached('rate')
        target.work()


def test_bodies_that_do_not_end_keep_nobody_from_sending_theirs(site: Make) -> None:
    target = site(most_bodies='20M', max_body='2M', request_timeout='20')
    head, part = target.head('Content-Length: 2000000', 'Content-Type: text/xml'), b' ' * 1_900_000

    def begin(_: int) -> socket.socket:
        client = target.connect()
        client.sendall(head)
        client.sendall(part)
        return client

    with holding(begin, 20), target.connection() as connection:
        target.await_reached('bodies')
        target.work(6)
        assert target.call(connection, 'echo', message='x' * 1_500_000) == 'x' * 1_500_000


def test_bodies_without_credentials_are_not_read(site: Make) -> None:
    target = site()
    head = target.head('Content-Length: 9000000', 'Content-Type: text/xml', credentials=('nobody', 'wrong'))
    with holding(lambda _: target.connect('127.0.0.2'), 4) as clients:
        for client in clients:
            client.sendall(head + b' ' * 100_000)
        answers = [client.recv(65536) for client in clients]
        assert all(b'<int>1510</int>' in answer for answer in answers), answers
        target.work(6)


def test_a_client_with_a_wrong_password_is_told_so_after_a_large_batch(site: Make) -> None:
    """The connection is not broken: the daemon reads the request to its end and discards it."""
    target = site()
    wrong = target.daemon.url('nobody', 'wrong') + '/XMLRPC'
    arguments = {'auth': {'authoritative_source': 'test'}, 'operations': ['x' * 5_000_000]}
    with xmlrpc.client.ServerProxy(wrong) as server:
        for _ in range(3):
            with pytest.raises(xmlrpc.client.Fault) as caught:
                server.batch(arguments)
            assert caught.value.faultCode == 1510


def test_requests_that_never_end_make_room_for_others(site: Make) -> None:
    target = site(descriptors=256, request_timeout='20')

    def begin(number: int) -> socket.socket:
        client = target.connect('127.0.0.2')
        with contextlib.suppress(OSError):  # the connection may be closed already
            client.sendall(b'POST /XMLRPC HT' if number % 2 else target.head('Content-Length: 9', credentials=None))
        return client

    with holding(begin, 200):
        target.work()
        target.await_reached('connections', user=None, address='127.0.0.2')


def test_wrong_logins_from_many_addresses_keep_no_user_waiting(site: Make) -> None:
    target = site(most_running='8')

    def ask(number: int) -> socket.socket:
        client = target.connect(f'127.0.1.{number % 75 + 1}')
        client.sendall(target.post(body_of('version'), credentials=(f'user-{number}', 'wrong')))
        return client

    with holding(ask, 150):
        target.work()
        target.await_reached('hashes', user=None, address='127.0.1.')
        target.work()


def test_reads_end_when_their_clients_leave(site: Make, db: Database) -> None:
    """The search ends long before PostgreSQL would stop it."""
    target = site()
    with target.connection() as connection:
        attr = {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': TEXT}
        target.call(connection, 'add_prefix', attr=attr)
    search = target.post(
        body_of('search_prefix', query={'operator': 'regex_match', 'val1': 'description', 'val2': SLOW})
    )
    active = """SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND state = 'active' AND pid <> pg_backend_pid()"""

    def busy() -> int:
        return int(db.read(lambda tx: tx.value(active)))

    with holding(lambda _: target.connect(), 3) as clients:
        for client in clients:
            client.sendall(search)
        poll(lambda: busy() >= 3, PATIENCE_S, target.daemon.log)
        began = time.monotonic()
    poll(lambda: busy() == 0, PATIENCE_S, target.daemon.log)
    assert time.monotonic() - began < 15  # a search may take 20 s
    target.await_reached('cancelled')
    target.work(4)


def test_a_change_that_has_begun_is_finished_for_a_client_that_has_left(site: Make, db: Database, dsn: str) -> None:
    target = site()
    attr = {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'kept'}
    user = target.daemon.admin()
    change = target.post(body_of('add_prefix', attr=attr, idempotency_key='k'), credentials=user)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with contextlib.closing(psycopg2.connect(dsn)) as blocker, blocker.cursor() as cursor:
        cursor.execute('SELECT 1 FROM vrf WHERE id = 0 FOR UPDATE')
        with target.connect() as client:
            client.sendall(change)
            poll(lambda: db.read(lambda tx: tx.value(waiting)) == 1, PATIENCE_S, target.daemon.log)
        target.work(4)
        blocker.rollback()
    with target.connection() as connection:
        poll(
            lambda: target.call(connection, 'list_prefix', prefix={'prefix': '10.0.0.0/8'}),
            PATIENCE_S,
            target.daemon.log,
        )
        (found,) = target.call(connection, 'list_prefix', prefix={'prefix': '10.0.0.0/8'})
        again = target.call(connection, 'add_prefix', attr=attr, idempotency_key='k')
    assert again['id'] == found['id']


def test_compressed_bodies_of_many_values_are_refused_before_they_are_parsed(site: Make) -> None:
    target = site(most_values='100000')
    many = body_of('echo', message=['x']).replace(b'<value><string>x</string></value>', b'<value/>' * 1_000_000)
    calls = {
        'POST /XMLRPC': gzip.compress(many),
        'POST /api/v1/batch': gzip.compress(b'{"operations": [' + b'[],' * 2_000_000 + b'1]}'),
    }
    for path, body in calls.items():
        described = 'Content-Encoding: gzip', f'Content-Length: {len(body)}'
        kind = 'Content-Type: text/xml' if path.endswith('XMLRPC') else 'Content-Type: application/json'
        request = target.head(*described, kind, target=path) + body
        with holding(lambda _: target.connect(), 8) as clients:
            for client in clients:
                client.sendall(request)
            target.work(4)
            answers = [client.recv(65536) for client in clients]
            assert all(b'1100' in answer for answer in answers), answers
    target.await_reached('values')


def test_streams_of_one_user_leave_room_for_other_users(site: Make) -> None:
    target = site(streams_per_user='20')

    def open_stream(credentials: tuple[str, str]) -> socket.socket:
        client = target.connect()
        client.sendall(target.head(target='GET /api/v1/events', credentials=credentials))
        return client

    with holding(lambda _: open_stream(GUEST), 30) as clients:
        began = [client.recv(12) for client in clients]
        assert sorted(began) == [b'HTTP/1.1 200'] * 20 + [b'HTTP/1.1 503'] * 10
        with open_stream(target.daemon.admin()) as other:
            assert other.recv(12) == b'HTTP/1.1 200'
        target.work(6)
        target.await_reached('streams')
