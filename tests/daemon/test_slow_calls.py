"""Slow calls delay no others; calls beyond the limits are refused in time."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import statistics
import time
import xmlrpc.client
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import pytest
from daemon_process import Daemon, poll
from support import DaemonFactory
from talking import Configured
from test_admin import samples

from nipap.postgres.database import Database

pytestmark = pytest.mark.slow

NOISE_MS = 2
AUTH = {'authoritative_source': 'test'}


def url(running: Daemon) -> str:
    return running.url(*running.admin()) + '/XMLRPC'


def call(address: str, method: str, **members: object) -> Any:
    with xmlrpc.client.ServerProxy(address, allow_none=True) as server:
        return getattr(server, method)({'auth': AUTH, **members})


@contextlib.contextmanager
def under_way(running: Daemon, *calls: tuple[str, dict[str, object]]) -> Iterator[list[Future[Any]]]:
    """Send calls and yield their futures; at the end all answers are there."""
    parts = urlsplit(running.address)
    login = base64.b64encode(':'.join(running.admin()).encode()).decode()
    with ThreadPoolExecutor(len(calls)) as pool:

        def send(method: str, members: dict[str, object]) -> object:
            connection = http.client.HTTPConnection(str(parts.hostname), parts.port)
            with contextlib.closing(connection):
                body = xmlrpc.client.dumps(({'auth': AUTH, **members},), method, allow_none=True)
                connection.request('POST', '/XMLRPC', body, {'Authorization': f'Basic {login}'})
                answer = connection.getresponse()
                content = answer.read()
                return answer.status, answer.headers.get('Retry-After'), content

        yield [pool.submit(send, *each) for each in calls]


@contextlib.contextmanager
def slow_search(dsn: str) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield a search that is stopped after 20 s and not before: a lock blocks it until the end of the block."""
    with contextlib.closing(psycopg2.connect(dsn)) as blocker, blocker.cursor() as cursor:
        cursor.execute('LOCK TABLE asn')
        yield 'search_asn', {'query': {}}


def took_ms(address: str, method: str, **members: object) -> float:
    began = time.perf_counter()
    call(address, method, **members)
    return (time.perf_counter() - began) * 1000


def test_slow_calls_hold_up_nobody(daemon: DaemonFactory, database_options: dict[str, str], dsn: str) -> None:
    """Quick calls take as long as on an idle daemon beside it, which has the same database."""
    running, idle = (daemon(config={'nipapd': {'forks': '2', **database_options}}) for _ in range(2))
    addresses = url(running), url(idle)
    call(addresses[0], 'add_prefix', attr={'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'x'})
    took: dict[tuple[str, str], list[float]] = {}
    sleep = {'message': 'slept', 'sleep': 15}
    with slow_search(dsn) as search, under_way(running, *[('echo', sleep)] * 16, search) as slow:
        # Connections, and so the slow calls, are shared out between the handlers: both handlers serve calls of this
        # loop.
        for number in range(50):
            assert call(addresses[0], 'echo', message=number) == number
            for method, members in (('list_prefix', {'prefix': {'prefix': '10.0.0.0/8'}}), ('version', {})):
                for address in addresses[:: 1 if number % 2 else -1]:
                    took.setdefault((method, address), []).append(took_ms(address, method, **members))
        assert [each.result() for each in slow if each.done()] == []
        slept = [each.result() for each in slow[:-1]]
        assert [(status, b'slept' in content) for status, _, content in slept] == [(200, True)] * 16
        status, _, content = slow[-1].result()
    assert (status, b'<int>1210</int>' in content) == (200, True)
    for method in ('list_prefix', 'version'):
        busy_ms, idle_ms = (statistics.median(took[method, address]) for address in addresses)
        assert busy_ms <= 2 * idle_ms + NOISE_MS, method
    assert running.stop() == 0


LEAF = {'operator': '~', 'val1': 'description', 'val2': 'x'}


def wide(number: int) -> object:
    """Return a query of `number` conditions, as the standard client can send it: not deep."""
    if number == 1:
        return LEAF
    return {'operator': 'or', 'val1': wide(number // 2), 'val2': wide(number - number // 2)}


COSTLY = {
    'words': ('smart_search_prefix', {'query_string': ' '.join(f'word{number}' for number in range(2_000))}),
    'too many words': ('smart_search_prefix', {'query_string': 'word ' * 19_000}),
    'comparisons': ('smart_search_prefix', {'query_string': ' or '.join(['expires>"in 2 days"'] * 1_000)}),
    'expressions': ('smart_search_vrf', {'query_string': '"(a+)+$" ' * 2_000}),
    'word boundaries': ('smart_search_pool', {'query_string': r'\m' * 5_000}),
    'many conditions': ('search_prefix', {'query': wide(2_000)}),
    'too many conditions': ('search_prefix', {'query': wide(20_000)}),
    'costly expressions': ('search_prefix', {'query': LEAF | {'val2': '(a?b?c?){0,255}'}}),
}


def test_costly_calls_let_others_have_their_turn(configured: Configured) -> None:
    """One handler serves two clients with the costliest calls, and answers a third client in between."""
    running = configured(forks='1')
    address = url(running)
    call(address, 'add_prefix', attr={'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'x'})

    def time_of_a_call() -> float:
        began = time.monotonic()
        assert call(address, 'list_prefix', prefix={'prefix': '10.0.0.0/8'})[0]['description'] == 'x'
        return time.monotonic() - began

    usual = statistics.median(time_of_a_call() for _ in range(20))
    longest = {}
    for name, (method, members) in COSTLY.items():
        with under_way(running, *[(method, members)] * 2) as costly:
            waited = [time_of_a_call()]
            while not all(each.done() for each in costly):
                waited.append(time_of_a_call())
            answers = [each.result() for each in costly]
        assert [status for status, _, _ in answers] == [200] * 2
        assert not any(b'Internal error' in content for _, _, content in answers), name
        longest[name] = max(waited)
    # A call takes some milliseconds, and ten times that in such company. This limit guards against seconds, even on a
    # machine without other load; under load, a usual call is slower too.
    assert max(longest.values()) < max(1.5, 300 * usual), longest


def test_a_password_that_is_hashed_holds_up_nobody(daemon: DaemonFactory, database_options: dict[str, str]) -> None:
    """Hashing takes a tenth of a second; with one at a time, that is ten passwords a second."""
    running = daemon(config={'nipapd': {'forks': '1', **database_options}, 'auth': {'failed_logins': '0'}})
    wrong = running.url(running.admin()[0], 'wrong') + '/XMLRPC'
    with ThreadPoolExecutor(4) as pool:
        refused = [pool.submit(call, wrong, 'version') for _ in range(20)]
        call(url(running), 'version')
        for _ in range(50):
            call(url(running), 'version')
        assert not refused[-1].done()
        assert {each.exception().faultCode for each in refused} == {1510}  # type: ignore[union-attr]  # it is a Fault


@contextlib.contextmanager
def used_up(configured: Configured, db: Database, dsn: str) -> Iterator[Daemon]:
    """Yield a daemon whose only session waits for a lock; two more calls run, and one more waits."""
    running = configured('--admin-port', '0', forks='1', most_running='2', most_waiting='1', db_connections='1')
    attr = {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'd'}
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with contextlib.closing(psycopg2.connect(dsn)) as blocker, blocker.cursor() as cursor:
        cursor.execute('SELECT 1 FROM vrf WHERE id = 0 FOR UPDATE')

        def waits() -> bool:
            return bool(db.read(lambda tx: tx.value(waiting)))

        with under_way(running, ('add_prefix', {'attr': attr})) as added:
            poll(waits, 30, running.log)
            with under_way(running, *[('list_vrf', {'vrf': {'id': 0}})] * 3) as listed:
                poll(lambda: samples(running)['nipap_waiting_requests'] == 1, 30, running.log)
                yield running
                blocker.rollback()
                assert [each.result()[0] for each in (*added, *listed)] == [200] * 4


def test_calls_beyond_the_limits_are_refused(configured: Configured, db: Database, dsn: str) -> None:
    with used_up(configured, db, dsn) as running, under_way(running, *[('version', {})] * 2) as calls:
        answers = [each.result() for each in calls]
        assert [(status, retry) for status, retry, _ in answers] == [(503, '1')] * 2
    assert call(url(running), 'echo', message='as before') == 'as before'


def test_calls_beyond_the_limits_are_a_problem_in_rest(configured: Configured, db: Database, dsn: str) -> None:
    with used_up(configured, db, dsn) as running:
        login = base64.b64encode(':'.join(running.admin()).encode()).decode()
        connection = http.client.HTTPConnection(urlsplit(running.address).netloc)
        with contextlib.closing(connection):
            connection.request('GET', '/api/v1/vrfs', headers={'Authorization': f'Basic {login}'})
            answer = connection.getresponse()
            problem = json.load(answer)
    said = answer.headers
    assert (answer.status, said.get('Retry-After'), said.get_content_type()) == (503, '1', 'application/problem+json')
    assert (problem['status'], problem['code']) == (503, 1010)


def test_more_calls_than_connections_take_turns(configured: Configured) -> None:
    running = configured(forks='1', db_connections='2')
    address = url(running)
    call(
        address,
        'add_pool',
        attr={'name': 'p', 'description': 'p', 'default_type': 'assignment', 'ipv4_default_prefix_length': 32},
    )
    call(
        address,
        'add_prefix',
        attr={'prefix': '10.0.0.0/16', 'type': 'reservation', 'description': 'r', 'pool_name': 'p'},
    )

    def allocate(number: int) -> str:
        attr = {'type': 'assignment', 'description': str(number)}
        return str(call(address, 'add_prefix', attr=attr, args={'from-pool': {'name': 'p'}, 'family': 4})['prefix'])

    with ThreadPoolExecutor(16) as pool:
        prefixes = list(pool.map(allocate, range(200)))
    assert len(set(prefixes)) == 200


def test_a_stop_waits_for_slow_calls(configured: Configured) -> None:
    running = configured(forks='1')
    with under_way(running, *[('echo', {'message': 'slept', 'sleep': 2})] * 8) as slow:
        call(url(running), 'version')  # behind the slow calls, which were sent before
        assert running.stop() == 0
        assert [each.result()[0] for each in slow] == [200] * 8
    assert not any(each.alive() for each in running.children())
