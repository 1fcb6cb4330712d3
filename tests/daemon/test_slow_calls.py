"""Slow calls hold up nobody; what is too much is refused in time."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import random
import xmlrpc.client
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from daemon_process import Daemon
from support import DaemonFactory

AUTH = {'authoritative_source': 'test'}
SLOW = r'^(.+)(.+)(.+)\3\2\1!$'  # of the patterns that PostgreSQL takes for ever for, a plain one
TEXT = ''.join(random.Random(1).choices('abcdefgh', k=2000)) + '!'


def url(running: Daemon) -> str:
    return running.url(*running.admin()) + '/XMLRPC'


def call(address: str, method: str, **members: object) -> Any:
    with xmlrpc.client.ServerProxy(address, allow_none=True) as server:
        return getattr(server, method)({'auth': AUTH, **members})


@contextlib.contextmanager
def under_way(running: Daemon, *calls: tuple[str, dict[str, object]]) -> Iterator[list[Future[Any]]]:
    """Calls that have begun, by the word of the kernel: their requests were taken from the sockets."""
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


def prepare_slow_search(address: str) -> dict[str, object]:
    """A search that is stopped after 20 s and not before."""
    call(address, 'add_prefix', attr={'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': TEXT})
    return {'query': {'operator': 'regex_match', 'val1': 'description', 'val2': SLOW}}


def test_slow_calls_hold_up_nobody(daemon: DaemonFactory) -> None:
    running = daemon(config={'nipapd': {'forks': '2'}})
    address = url(running)
    search = prepare_slow_search(address)
    sleep = {'message': 'slept', 'sleep': 15}
    with under_way(running, *[('echo', sleep)] * 16, ('search_prefix', search)) as slow:
        # Connections, and so the slow calls, are shared out between the handlers: this one is served by either.
        for number in range(50):
            assert call(address, 'list_prefix', prefix={'prefix': '10.0.0.0/8'})[0]['prefix'] == '10.0.0.0/8'
            assert call(address, 'echo', message=number) == number
        assert [each.result() for each in slow if each.done()] == []
        slept = [each.result() for each in slow[:-1]]
        assert [(status, b'slept' in content) for status, _, content in slept] == [(200, True)] * 16
        status, _, content = slow[-1].result()
    assert (status, b'<int>1210</int>' in content) == (200, True)
    assert running.stop() == 0


def test_a_password_that_is_hashed_holds_up_nobody(daemon: DaemonFactory) -> None:
    """Hashing takes a tenth of a second; with one at a time, ten of them a second."""
    running = daemon(config={'nipapd': {'forks': '1'}, 'auth': {'failed_logins': '0'}})
    wrong = running.url(running.admin()[0], 'wrong') + '/XMLRPC'
    with ThreadPoolExecutor(4) as pool:
        refused = [pool.submit(call, wrong, 'version') for _ in range(20)]
        call(url(running), 'version')
        for _ in range(50):
            call(url(running), 'version')
        assert not refused[-1].done()
        assert {each.exception().faultCode for each in refused} == {1510}  # type: ignore[union-attr]  # it is a Fault


def test_what_is_too_much_is_refused(daemon: DaemonFactory) -> None:
    running = daemon(config={'nipapd': {'forks': '1', 'most_running': '2', 'most_waiting': '1'}})
    sleep = {'message': 'slept', 'sleep': 2}
    with under_way(running, *[('echo', sleep)] * 5) as calls:
        answers = [each.result() for each in calls]
    assert sorted(status for status, _, _ in answers) == [200, 200, 200, 503, 503]
    assert {retry for status, retry, _ in answers if status == 503} == {'1'}
    assert call(url(running), 'echo', message='as before') == 'as before'


def test_what_is_too_much_is_a_problem_in_rest(daemon: DaemonFactory) -> None:
    running = daemon(config={'nipapd': {'forks': '1', 'most_running': '2', 'most_waiting': '1'}})
    login = base64.b64encode(':'.join(running.admin()).encode()).decode()
    headers = {'Authorization': f'Basic {login}', 'Content-Type': 'application/json'}
    sleep = {'operations': [{'method': 'echo', 'args': {'message': 'slept', 'sleep': 2}}]}

    def send(_: int) -> tuple[int, str | None, str, dict[str, Any]]:
        connection = http.client.HTTPConnection(urlsplit(running.address).netloc)
        with contextlib.closing(connection):
            connection.request('POST', '/api/v1/batch', json.dumps(sleep), headers)
            answer = connection.getresponse()
            said = answer.headers
            return answer.status, said.get('Retry-After'), said.get_content_type(), json.load(answer)

    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(send, range(5)))
    refused = [answer for answer in answers if answer[0] != 200]
    assert [answer[:3] for answer in refused] == [(503, '1', 'application/problem+json')] * 2
    assert [(problem['status'], problem['code']) for *_, problem in refused] == [(503, 1010)] * 2


def test_more_calls_than_connections_take_turns(daemon: DaemonFactory) -> None:
    running = daemon(config={'nipapd': {'forks': '1', 'db_connections': '2'}})
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


def test_a_stop_waits_for_slow_calls(daemon: DaemonFactory) -> None:
    running = daemon(config={'nipapd': {'forks': '1'}})
    with under_way(running, *[('echo', {'message': 'slept', 'sleep': 2})] * 8) as slow:
        call(url(running), 'version')  # behind them, as they were sent before
        assert running.stop() == 0
        assert [each.result()[0] for each in slow] == [200] * 8
    assert not any(each.alive() for each in running.children())
