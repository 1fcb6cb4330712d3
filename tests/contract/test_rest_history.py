"""The past over REST: the history of objects, change sets, and times as parameters."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from contract_faces import USERS, basic
from flask import Flask
from flask.testing import FlaskClient

from nipap.access.authentication import Authenticator
from nipap.backend import Backend
from nipap.flask_xmlrpc import create_app
from nipap.rest import api as flask_rest

Ask = Callable[..., Any]


@pytest.fixture
def ask(backend: Backend, authenticator: Authenticator) -> Ask:
    """Return a function that makes a request; a status that is not expected is an error."""
    app: Flask = create_app(backend, authenticator)
    flask_rest.add_to(app, backend, authenticator)
    client: FlaskClient = app.test_client()

    def make(method: str, path: str, body: Any = None, *, status: int = 200, headers: Mapping[str, str] = {}) -> Any:
        given = {'Authorization': basic('alice', USERS['alice'][0]), 'Content-Type': 'application/json', **headers}
        data = None if body is None else json.dumps(body)
        answer = client.open(f'/api/v1{path}', method=method, data=data, headers=given)
        assert answer.status_code == status, answer.text
        return answer.json

    return make


@pytest.fixture
def net(ask: Ask) -> int:
    """Return the id of a prefix that was removed, with the one inside it, after some changes."""
    attr = {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'ours'}
    net: int = ask('POST', '/prefixes', attr, status=201)['id']
    ask('POST', '/prefixes', {**attr, 'prefix': '10.1.0.0/16'}, status=201)
    ask('PATCH', f'/prefixes/{net}', {'description': 'theirs'}, headers={'NIPAP-Reason': 'sold'})
    ask('DELETE', f'/prefixes/{net}?recursive=true', status=204)
    return net


def sentences(page: Any) -> list[str]:
    return [entry['sentence'] for entry in page['result']]


def test_the_history_of_an_object_that_is_gone(ask: Ask, net: int) -> None:
    page = ask('GET', f'/prefixes/{net}/history')
    assert [entry['action'] for entry in page['result']] == ['remove', 'edit', 'add']
    assert page['after'] is None
    assert sentences(page)[1] == "alice edited prefix 10.0.0.0/8 in VRF default: description from 'ours' to 'theirs'"
    assert page['result'][1]['reason'] == 'sold'
    ask('GET', f'/prefixes/{net + 1000}/history', status=404)


def test_the_history_of_a_subtree(ask: Ask, net: int) -> None:
    page = ask('GET', f'/prefixes/{net}/history?below=1')
    assert [(entry['action'], entry['prefix']) for entry in page['result']] == [
        *(('remove', '10.0.0.0/8'), ('remove', '10.1.0.0/16'), ('edit', '10.0.0.0/8')),
        *(('add', '10.1.0.0/16'), ('add', '10.0.0.0/8')),
    ]
    assert len(ask('GET', '/vrfs/0/history?below=true')['result']) == 5
    assert ask('GET', '/vrfs/0/history')['result'] == []


@pytest.mark.parametrize('path', ['/pools/77/history', '/vrfs/77/history', '/asns/77/history'])
def test_an_object_that_never_was_has_no_history(ask: Ask, path: str) -> None:
    assert ask('GET', path, status=404)['code'] == 1300


def test_the_history_of_an_as_number_and_of_a_pool(ask: Ask) -> None:
    ask('POST', '/asns', {'asn': 64500}, status=201)
    pool = ask('POST', '/pools', {'name': 'p', 'description': 'd', 'default_type': None}, status=201)['id']
    assert sentences(ask('GET', '/asns/AS64500/history')) == ['alice added AS64500']
    assert sentences(ask('GET', f'/pools/{pool}/history')) == ["alice added pool p: description 'd'"]


def test_pages_and_parameters(ask: Ask, net: int) -> None:
    first = ask('GET', f'/prefixes/{net}/history?below=1&limit=2')
    second = ask('GET', f'/prefixes/{net}/history?below=1&limit=5&after={first["after"]}')
    assert len(first['result']) == 2
    assert len(second['result']) == 3
    assert len(ask('GET', f'/prefixes/{net}/history?action=edit')['result']) == 1
    assert ask('GET', f'/prefixes/{net}/history?until=2020-01-01')['result'] == []
    assert len(ask('GET', f'/prefixes/{net}/history?q=action%3Dremove')['result']) == 1
    cut = ask('GET', f'/prefixes/{net}/history?fields=id,sentence&limit=1')['result']
    assert [set(entry) for entry in cut] == [{'id', 'sentence'}]


def test_entries_by_place_and_time(ask: Ask, net: int) -> None:
    assert net
    assert len(ask('GET', '/audit?covering=10.1.2.3')['result']) == 5
    assert len(ask('GET', '/audit?within=10.1.0.0/16')['result']) == 2
    assert len(ask('GET', '/audit?within=10.1.0.0/16&since=1 hour ago')['result']) == 2
    assert len(ask('GET', '/audit?username=alice&changed=description&action=edit')['result']) == 1
    assert ask('GET', '/audit?within=10.1.0.0/8', status=422)['code'] == 1200
    assert ask('GET', '/audit?since=soonish', status=422)['code'] == 1200
    assert ask('GET', '/audit?colour=red', status=400)['code'] == 1100


def test_change_sets(ask: Ask, net: int) -> None:
    assert net
    (removal, edit, *others) = ask('GET', '/changes')['result']
    assert [entry['action'] for entry in removal['entries']] == ['remove', 'remove']
    assert (edit['reason'], edit['method'], len(others)) == ('sold', 'edit_prefix', 2)
    assert ask('GET', f'/changes/{edit["id"]}') == edit
    assert ask('GET', '/changes?reason=sold')['result'] == [edit]
    assert ask('GET', '/changes?q=sold')['result'] == [edit]
    assert ask('POST', '/changes/search', {'query': {'operator': '=', 'val1': 'reason', 'val2': 'sold'}})['result'] == [
        edit
    ]
    assert ask('GET', '/changes?until=2020-01-01')['result'] == []
    assert ask('GET', '/changes/123456789', status=404)['code'] == 1300
    assert ask('GET', f'/audit?change_set={removal["id"]}')['result'] == removal['entries'][::-1]


def test_change_sets_of_a_group_and_of_a_request(ask: Ask) -> None:
    ask('POST', '/asns', {'asn': 1}, status=201, headers={'NIPAP-Group': 'import'})
    ask('POST', '/asns', {'asn': 2}, status=201)
    (made,) = ask('GET', '/changes?change_group=import')['result']
    assert [entry['object_id'] for entry in made['entries']] == [1]
    for path in ('changes', 'audit'):
        (found,) = ask('GET', f'/{path}?change_group=import&request_id={made["request_id"]}')['result']
        assert found['request_id'] == made['request_id']
        ask('GET', f'/{path}?request_id=%00', status=422)
