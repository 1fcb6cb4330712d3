"""Questions about the past to a running daemon, which builds it in the background."""

from __future__ import annotations

import json
import urllib.request
import xmlrpc.client
from base64 import b64encode
from typing import Any

import pytest
from daemon_process import Daemon
from support import DaemonFactory
from talking import await_that

from nipap.integrity import check
from nipap.postgres.database import Database

pytestmark = pytest.mark.slow

AUTH = {'authoritative_source': 'test'}


class Client:
    """A client of both interfaces of a daemon."""

    def __init__(self, running: Daemon) -> None:
        user, password = running.admin()
        self._address = running.address
        self._login = b64encode(f'{user}:{password}'.encode()).decode()
        self._url = running.url(user, password)

    def call(self, name: str, **members: Any) -> Any:
        with xmlrpc.client.ServerProxy(f'{self._url}/XMLRPC', allow_none=True) as proxy:
            return getattr(proxy, name)({'auth': AUTH, **members})

    def get(self, path: str) -> tuple[Any, str | None]:
        """Return the body of an answer, and its header `NIPAP-As-Of`."""
        headers = {'Authorization': f'Basic {self._login}', 'NIPAP-Authoritative-Source': 'test'}
        request = urllib.request.Request(f'{self._address}/api/v1{path}', headers=headers)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer), answer.headers['NIPAP-As-Of']


def test_a_change_set_can_be_asked_for_at_once(
    daemon: DaemonFactory, database_options: dict[str, str], db: Database
) -> None:
    running = daemon(config={'nipapd': {'forks': '2', **database_options}})
    client = Client(running)
    block = {'prefix': '192.0.2.0/24', 'type': 'assignment', 'description': 'first owner'}
    key = client.call('add_prefix', attr=block)['id']
    # A question about a change set waits until it has its place in the order.
    added = client.call('search_change_set', query={}, search_options={'max_result': 1})['result'][0]['id']
    shown = client.call('search_prefix', query={}, as_of=added)
    assert (shown['result'][0]['description'], shown['as_of']['change_set']) == ('first owner', added)
    client.call('edit_prefix', prefix={'id': key}, attr={'description': 'second owner'})
    client.call('remove_prefix', prefix={'id': key})
    removed = client.call('search_change_set', query={}, search_options={'max_result': 1})['result'][0]['id']
    assert client.call('list_prefix', as_of=removed) == []
    found = client.call('smart_search_prefix', query_string='192.0.2.7', as_of=added)
    assert [item['description'] for item in found['result']] == ['first owner']
    body, header = client.get(f'/prefixes/{key}?as_of={removed - 1}')
    assert (body['description'], header and f'change-set={removed - 1}' in header) == ('second owner', True)
    body, _ = client.get(f'/prefixes?q=192.0.2.7&as_of={added}')
    assert [item['description'] for item in body['result']] == ['first owner']
    assert check.problems(db) == []


def test_history_is_built_back_after_an_upgrade(
    daemon: DaemonFactory, database_options: dict[str, str], db: Database
) -> None:
    """The tables of the past are as empty as after the migration, and the daemon finds a log."""
    running = daemon(config={'nipapd': {'forks': '1', **database_options}})
    client = Client(running)
    for number in range(10):
        client.call('add_asn', attr={'asn': number + 1, 'name': 'x'})
    last = client.call('search_change_set', query={}, search_options={'max_result': 1})['result'][0]['id']
    assert len(client.call('list_asn', as_of=last)) == 10
    running.stop()
    db.run(lambda tx: tx.execute('SELECT forget_past()'))
    assert db.read(lambda tx: tx.value('SELECT position FROM past_state')) is None
    running.start()
    await_that(lambda: db.read(lambda tx: tx.value('SELECT ends_at FROM past_state')) is not None, 'built')
    assert [len(client.call('list_asn', as_of=last - n)) for n in range(10)] == list(range(10, 0, -1))
    assert check.problems(db) == []
