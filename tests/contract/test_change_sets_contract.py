"""Every changing call is one change set.

A header of the answer has its number, and its row has the user, the method and the reason.
"""

from __future__ import annotations

import json
import xmlrpc.client
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from contract_faces import USERS, basic
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from nipap.access.authentication import Authenticator
from nipap.backend import Backend
from nipap.flask_xmlrpc import create_app
from nipap.postgres.database import Database
from nipap.rest import api as flask_rest
from nipap.rest import v1 as flask_rest_v1

HEADERS = {'Authorization': basic('alice', USERS['alice'][0]), 'NIPAP-Authoritative-Source': 'test'}
NET = {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'net'}

Make = Callable[..., TestResponse]


@pytest.fixture
def client(backend: Backend, authenticator: Authenticator) -> FlaskClient:
    app: Flask = create_app(backend, authenticator)
    flask_rest.add_to(app, backend, authenticator)
    flask_rest_v1.add_to(app, backend, authenticator)
    return app.test_client()


@pytest.fixture
def rpc(client: FlaskClient) -> Make:
    def make(method: str, headers: Mapping[str, str] = {}, **members: Any) -> TestResponse:
        body = xmlrpc.client.dumps(({'auth': {'authoritative_source': 'test'}, **members},), method, allow_none=True)
        return client.post('/XMLRPC', data=body, headers={**HEADERS, 'Content-Type': 'text/xml', **headers})

    return make


@pytest.fixture
def rest(client: FlaskClient) -> Make:
    def make(method: str, path: str, body: Any = None, **headers: str) -> TestResponse:
        given = {**HEADERS, **{name.replace('_', '-'): value for name, value in headers.items()}}
        data = None if body is None else json.dumps(body)
        return client.open(path, method=method, data=data, headers={**given, 'Content-Type': 'application/json'})

    return make


def number(answer: TestResponse) -> int:
    assert answer.status_code < 300, answer.text
    return int(answer.headers['NIPAP-Change-Set'])


def stored(db: Database, i: int) -> dict[str, Any]:
    columns = ('username', 'authoritative_source', 'method', 'request_id', 'idempotency_key', 'reason', 'change_group')
    row = db.read(lambda tx: tx.one(f'SELECT {", ".join(columns)} FROM change_set WHERE id = %s', (i,)))
    assert row is not None
    return dict(zip(columns, row, strict=True))


def entries(db: Database, i: int) -> list[tuple[str, str]]:
    sql = 'SELECT object_type, action FROM audit_log WHERE change_set = %s ORDER BY id'
    return db.read(lambda tx: [(kind, action) for kind, action in tx.all(sql, (i,))])


def test_a_call_says_which_change_set_it_is(rpc: Make, db: Database) -> None:
    headers = {'X-Request-ID': 'r-1', 'NIPAP-Reason': 'ticket 7', 'NIPAP-Group': 'tidying'}
    first = number(rpc('add_prefix', headers, attr=NET))
    assert stored(db, first) == {
        'username': 'alice',
        'authoritative_source': 'test',
        'method': 'add_prefix',
        'request_id': 'r-1',
        'idempotency_key': None,
        'reason': 'ticket 7',
        'change_group': 'tidying',
    }
    assert entries(db, first) == [('prefix', 'add')]
    second = number(rpc('edit_prefix', prefix={'prefix': '10.0.0.0/8'}, attr={'description': 'x'}, reason='because'))
    assert second > first
    assert stored(db, second)['reason'] == 'because'


CHANGES: dict[str, dict[str, Any]] = {
    'add_vrf': {'attr': {'rt': '1:1', 'name': 'v'}},
    'edit_vrf': {'vrf': {'name': 'v'}, 'attr': {'description': 'x'}},
    'add_pool': {'attr': {'name': 'p', 'description': 'd', 'default_type': 'assignment'}},
    'edit_pool': {'pool': {'name': 'p'}, 'attr': {'description': 'x'}},
    'add_asn': {'attr': {'asn': 1, 'name': 'a'}},
    'edit_asn': {'asn': {'asn': 1}, 'attr': {'name': 'b'}},
    'add_prefix': {'attr': {**NET, 'pool_name': 'p'}},
    'add_prefix by allocation': {
        'attr': {'description': 'allocated'},
        'args': {'from-pool': {'name': 'p'}, 'family': 4, 'prefix_length': 24},
    },
    'edit_prefix': {'prefix': {'prefix': '10.0.0.0/24'}, 'attr': {'description': 'x'}},
    'edit_prefix of many': {'prefix': {'vrf_id': 0}, 'attr': {'comment': 'x'}},
    'remove_prefix': {'prefix': {'prefix': '10.0.0.0/24'}},
    'remove_prefix of many': {'prefix': {'prefix': '10.0.0.0/8'}, 'recursive': True},
    'remove_pool': {'pool': {'name': 'p'}},
    'remove_vrf': {'vrf': {'name': 'v'}},
    'remove_asn': {'asn': {'asn': 1}},
    'batch': {'operations': [{'method': 'add_asn', 'args': {'attr': {'asn': n}}} for n in (5, 6)]},
}


def test_every_changing_call_is_one_change_set(rpc: Make, db: Database) -> None:
    seen = []
    for name, members in CHANGES.items():
        i = number(rpc(name.partition(' ')[0], **members))
        assert stored(db, i)['method'] == name.partition(' ')[0]
        assert entries(db, i), name
        seen.append(i)
    assert seen == sorted(set(seen))
    assert entries(db, seen[-1]) == [('asn', 'add')] * 2
    assert db.read(lambda tx: tx.value('SELECT count(*) FROM audit_log WHERE change_set IS NULL')) == 0


def test_a_replayed_call_has_the_number_of_the_first(rpc: Make, rest: Make, db: Database) -> None:
    first, again = (number(rpc('add_prefix', attr=NET, idempotency_key='k')) for _ in range(2))
    assert first == again
    assert stored(db, first)['idempotency_key'] == 'k'
    body = {'asn': 1, 'name': 'a'}
    first, again = (number(rest('POST', '/api/v1/asns', body, Idempotency_Key='other')) for _ in range(2))
    assert first == again


def test_rest_says_it_too(rest: Make, db: Database) -> None:
    added = rest('POST', '/api/v1/prefixes', NET, NIPAP_Reason='Größe', NIPAP_Group='g')
    assert stored(db, number(added))['method'] == 'add_prefix'
    assert stored(db, number(added))['change_group'] == 'g'
    path = f'/api/v1/prefixes/{added.json["id"]}'
    edited = rest('PATCH', path, {'description': 'x'}, If_Match=added.headers['ETag'])
    assert entries(db, number(edited)) == [('prefix', 'edit')]
    allocated = rest(
        'POST', f'{path}/allocations', {'prefix_length': 24, 'type': 'assignment', 'description': 'a', 'count': 3}
    )
    assert entries(db, number(allocated)) == [('prefix', 'add')] * 3
    older = rest('POST', '/rest/v1/prefixes', {**NET, 'prefix': '11.0.0.0/8'})
    assert entries(db, number(older)) == [('prefix', 'add')]
    removed = rest('DELETE', f'{path}?recursive=true')
    assert len(entries(db, number(removed))) == 4


@pytest.mark.parametrize('method', ['version', 'list_prefix'])
def test_a_call_without_a_change_is_no_change_set(rpc: Make, db: Database, method: str) -> None:
    assert 'NIPAP-Change-Set' not in rpc(method).headers
    edited = rpc('edit_prefix', prefix={'prefix': '10.0.0.0/8'}, attr={'description': 'x'})
    assert 'NIPAP-Change-Set' not in edited.headers
    refused = rpc('add_prefix', attr={**NET, 'type': 'nothing'})
    assert 'NIPAP-Change-Set' not in refused.headers
    assert db.read(lambda tx: tx.value('SELECT count(*) FROM change_set')) == 0


@pytest.mark.parametrize('reason', ['x' * 1001, 'two\nlines', 7, ['x']])
def test_a_reason_is_a_short_text(rpc: Make, reason: Any) -> None:
    answer = rpc('add_prefix', attr=NET, reason=reason)
    with pytest.raises(xmlrpc.client.Fault, match='Invalid reason') as caught:
        xmlrpc.client.loads(answer.data)
    assert caught.value.faultCode == 1200
