"""Several calls in one request of a client of the standard library, and their effect on other clients."""

from __future__ import annotations

import contextlib
import threading
import xmlrpc.client

import psycopg2
import pytest
from daemon_process import Daemon, poll
from support import DaemonFactory

import nipap

pytestmark = pytest.mark.slow

AUTH = {'authoritative_source': 'test'}


@pytest.fixture
def running(daemon: DaemonFactory, database_options: dict[str, str]) -> Daemon:
    return daemon(config={'nipapd': {**database_options, 'forks': '1'}})


def server(running: Daemon) -> xmlrpc.client.ServerProxy:
    return xmlrpc.client.ServerProxy(running.url(*running.admin()) + '/XMLRPC', allow_none=True)


def test_the_standard_library_sends_several_calls_at_once(running: Daemon) -> None:
    with server(running) as proxy:
        calls = xmlrpc.client.MultiCall(proxy)
        calls.version({'auth': AUTH})
        calls.add_asn({'auth': AUTH, 'attr': {'asn': 1, 'name': 'one'}})
        calls.add_asn({'auth': AUTH, 'attr': {'asn': 1, 'name': 'one'}})
        calls.list_asn({'auth': AUTH, 'asn': {}})
        calls.system.methodHelp('system.multicall')
        answers = calls()
        assert answers[0] == nipap.__version__
        assert answers[1]['name'] == 'one'
        with pytest.raises(xmlrpc.client.Fault) as caught:
            answers[2]
        assert caught.value.faultCode == 1400
        assert [item['asn'] for item in answers[3]] == [1]
        assert 'methodName' in answers[4]


WAITS = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'asn'::regclass)"


def test_others_are_answered_while_several_calls_are_made(running: Daemon, dsn: str) -> None:
    """On one handler one of several calls waits for a lock; a thousand quick calls and single calls run meanwhile."""
    answers: list[object] = []

    def send() -> None:
        with server(running) as proxy:
            calls = xmlrpc.client.MultiCall(proxy)
            calls.version({'auth': AUTH})
            calls.add_asn({'auth': AUTH, 'attr': {'asn': 1, 'name': 'one'}})
            calls.version({'auth': AUTH})
            answers.extend(calls())

    waiting = threading.Thread(target=send)
    with contextlib.closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute('LOCK asn IN ACCESS EXCLUSIVE MODE')
        waiting.start()
        with contextlib.closing(psycopg2.connect(dsn)) as other, other.cursor() as look:
            other.autocommit = True

            def waits() -> bool:
                look.execute(WAITS)
                return bool(look.fetchone() == (True,))

            poll(waits, 40, lambda: 'nothing waits for the lock')
        with server(running) as proxy:
            quick = xmlrpc.client.MultiCall(proxy)
            for number in range(1000):
                quick.echo({'auth': AUTH, 'message': number})
            assert list(quick()) == list(range(1000))
            assert proxy.version({'auth': AUTH}) == nipap.__version__
        assert answers == []
        connection.rollback()
    waiting.join()
    first, added, last = answers
    assert first == last == nipap.__version__
    assert isinstance(added, dict)
    assert added['name'] == 'one'
