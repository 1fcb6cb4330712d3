"""Several calls in one request of a client of the standard library, and what others notice of them."""

from __future__ import annotations

import threading
import xmlrpc.client

import pytest
from daemon_process import Daemon
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


def test_others_are_answered_while_several_calls_are_made(running: Daemon) -> None:
    """One handler; slow calls and many quick ones are on their way in it."""
    ended: list[str] = []

    def send(name: str, *calls: dict[str, object]) -> None:
        with server(running) as proxy:
            several = xmlrpc.client.MultiCall(proxy)
            for members in calls:
                several.echo({'auth': AUTH, **members})
            assert list(several()) == [members['message'] for members in calls]
        ended.append(name)

    slow = [{'message': n, 'sleep': 0.5} for n in range(20)]
    quick = [{'message': n} for n in range(1000)]
    threads = [
        threading.Thread(target=send, args=('slow', *slow)),
        threading.Thread(target=send, args=('quick', *quick)),
    ]
    for thread in threads:
        thread.start()
    with server(running) as proxy:
        for _ in range(20):
            assert proxy.version({'auth': AUTH}) == nipap.__version__
    ended.append('single')
    for thread in threads:
        thread.join()
    assert set(ended) == {'slow', 'quick', 'single'}
    assert ended[-1] == 'slow'
