"""Dry runs and plans over every face: what would happen, without any change, and a change that is made as planned."""

from __future__ import annotations

import json
import xmlrpc.client
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from contract_faces import USERS, as_client_sees, basic
from databases import TABLES
from flask import Flask
from flask.testing import FlaskClient

from nipap.access.authentication import Authenticator
from nipap.backend import Backend
from nipap.flask_xmlrpc import create_app
from nipap.postgres.database import Database
from nipap.rest import api as flask_rest
from nipap.rest import v1 as flask_rest_v1

Object = dict[str, Any]
Rpc = Callable[..., Any]
Rest = Callable[..., tuple[int, Any]]

HEADERS = {'Authorization': basic('alice', USERS['alice'][0]), 'NIPAP-Authoritative-Source': 'test'}
NET = {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'net'}
INNER = {'prefix': '10.1.0.0/16', 'type': 'reservation', 'description': 'inner'}
EDGE = {'prefix': '10.1.1.0/24', 'type': 'assignment', 'description': 'edge'}


@pytest.fixture
def client(backend: Backend, authenticator: Authenticator) -> FlaskClient:
    app: Flask = create_app(backend, authenticator)
    flask_rest.add_to(app, backend, authenticator)
    flask_rest_v1.add_to(app, backend, authenticator)
    return app.test_client()


@pytest.fixture
def rpc(client: FlaskClient) -> Rpc:
    """Make a call over XML-RPC and return its answer, or code and text of its fault."""

    def make(method: str, user: str = 'alice', **members: Any) -> Any:
        body = xmlrpc.client.dumps(({'auth': {'authoritative_source': 'test'}, **members},), method, allow_none=True)
        headers = {'Authorization': basic(user, USERS[user][0]), 'Content-Type': 'text/xml'}
        try:
            (answer,), _ = xmlrpc.client.loads(client.post('/XMLRPC', data=body, headers=headers).data)
        except xmlrpc.client.Fault as fault:
            return fault.faultCode, fault.faultString
        return as_client_sees(answer)

    return make


@pytest.fixture
def rest(client: FlaskClient) -> Rest:
    """Make a request and return the status and the body of the answer."""

    def make(method: str, path: str, body: Any = None, user: str = 'alice', **headers: str) -> tuple[int, Any]:
        given = {name.replace('_', '-'): value for name, value in headers.items()}
        given |= {'Authorization': basic(user, USERS[user][0]), 'NIPAP-Authoritative-Source': 'test'}
        if body is not None:
            given |= {'Content-Type': 'application/json'}
        answer = client.open(path, method=method, data=None if body is None else json.dumps(body), headers=given)
        return answer.status_code, answer.get_json(silent=True)

    return make


def digest(db: Database) -> list[Any]:
    """Return a digest of every table."""

    def read(tx: Any) -> list[Any]:
        names = sorted({*(name.strip() for name in TABLES.split(',')), 'plan_key'})
        return [
            (name, tx.value(f'SELECT md5(string_agg(t::text, chr(10) ORDER BY t::text)) FROM {name} t'))
            for name in names
        ]

    return db.read(read)


def without(item: Mapping[str, Any], *names: str) -> Object:
    return {name: value for name, value in item.items() if name not in ('id', 'added', 'last_modified', *names)}


def test_a_dry_run_says_what_would_happen_and_changes_nothing(rpc: Rpc, db: Database) -> None:
    net, edge = rpc('add_prefix', attr=NET), rpc('add_prefix', attr=EDGE)
    before = digest(db)
    told = rpc('add_prefix', attr=INNER, dry_run=True)
    assert digest(db) == before
    (change,) = told['changes']
    assert (change['kind'], change['action'], change['before']) == ('prefix', 'add', None)
    assert change['after']['prefix'] == '10.1.0.0/16'
    assert (told['dry_run'], told['right'], told['errors']) == (True, 'allocate', [])
    (moved,) = told['moved']
    assert (moved['id'], moved['parent_before']) == (edge['id'], {'id': net['id'], 'prefix': '10.0.0.0/8'})
    assert moved['parent_after']['prefix'] == '10.1.0.0/16'
    around = {(item['kind'], item['name']): (item['before'], item['after']) for item in told['counters']}
    assert around['prefix', '10.0.0.0/8'][1]['used_addresses'] == '65536'
    assert around['vrf', 'default'][0]['num_prefixes_v4'] == '2'
    assert told['events'] == {'number': 1, 'kinds': {'prefix': 1}}
    assert told['webhooks'] == {'number': 0}
    made = rpc('add_prefix', attr=INNER)
    assert without(told['answer']) == without(made)


def test_a_change_with_its_plan_is_made(rpc: Rpc) -> None:
    rpc('add_prefix', attr=NET)
    plan = rpc('add_prefix', attr=INNER, dry_run=True)['plan']
    made = rpc('add_prefix', attr=INNER, plan=plan)
    assert made['prefix'] == '10.1.0.0/16'
    assert [item['id'] for item in rpc('list_prefix')][1:] == [made['id']]


def test_a_change_that_is_not_as_planned_is_refused_with_the_difference(rpc: Rpc, db: Database) -> None:
    net = rpc('add_prefix', attr=NET)
    plan = rpc('edit_prefix', prefix={'id': net['id']}, attr={'comment': 'mine'}, dry_run=True)['plan']
    rpc('edit_prefix', prefix={'id': net['id']}, attr={'description': 'theirs'})
    before = digest(db)
    code, text = rpc('edit_prefix', prefix={'id': net['id']}, attr={'comment': 'mine'}, plan=plan)
    assert code == 1610
    assert "edit of prefix 10.0.0.0/8: description was 'net', now 'theirs'" in text
    assert digest(db) == before


def test_plans_over_rest(rest: Rest, db: Database) -> None:
    _, net = rest('POST', '/api/v1/prefixes', NET)
    before = digest(db)
    status, told = rest('POST', '/api/v1/prefixes?dry_run=true', INNER)
    assert (status, told['errors'], digest(db)) == (200, [], before)
    place = f'/api/v1/prefixes/{net["id"]}'
    status, edit = rest('PATCH', f'{place}?dry_run=true', {'comment': 'mine'})
    assert (status, edit['answer']['comment'], edit['right']) == (200, 'mine', 'write')
    assert edit['changes'][0]['changes']['comment'] == {'before': None, 'after': 'mine'}
    assert rest('PATCH', place, {'description': 'theirs'})[0] == 200
    status, problem = rest('PATCH', f'{place}?plan={edit["plan"]}', {'comment': 'mine'})
    assert (status, problem['code'], problem['attribute']) == (409, 1610, 'plan')
    assert problem['differences'] == ["edit of prefix 10.0.0.0/8: description was 'net', now 'theirs'"]
    status, removal = rest('DELETE', f'{place}?dry_run=true')
    assert (status, removal['answer'], removal['changes'][0]['action']) == (200, None, 'remove')
    assert rest('DELETE', f'{place}?plan={removal["plan"]}')[0] == 204


def test_every_error_of_a_batch_is_listed(rpc: Rpc, rest: Rest, db: Database) -> None:
    rpc('add_prefix', attr=NET)
    before = digest(db)
    operations = [
        {'method': 'add_prefix', 'args': {'attr': INNER}},
        {'method': 'add_prefix', 'args': {'attr': NET}},
        {'method': 'edit_prefix', 'args': {'prefix': {'id': {'$result': [1, 'id']}}, 'attr': {'comment': 'x'}}},
        {'method': 'add_asn', 'args': {'attr': {'asn': 'none'}}},
        {'method': 'add_prefix', 'args': {'attr': EDGE}},
    ]
    told = rpc('batch', operations=operations, dry_run=True)
    _, over_rest = rest('POST', '/api/v1/batch?dry_run=true', {'operations': operations})
    for answer in (told, over_rest):
        found = [(each['position'], each['method'], each['code'], each['depends_on']) for each in answer['errors']]
        assert found == [(1, 'add_prefix', 1400, None), (2, 'edit_prefix', 1100, 1), (3, 'add_asn', 1200, None)]
        assert [change['after']['prefix'] for change in answer['changes']] == ['10.1.0.0/16', '10.1.1.0/24']
        assert (answer['answer'], 'plan' in answer, answer['errors_not_shown']) == (None, False, 0)
    assert digest(db) == before


@pytest.mark.parametrize(
    'name', ['dryrun', 'dry-run', 'Dry_Run', 'dry_rum', 'dry_runs', 'ry_run', 'plans', 'if-version']
)
def test_a_misspelt_control_member_is_refused(rpc: Rpc, name: str) -> None:
    code, text = rpc('add_prefix', attr=NET, **{name: True})
    assert code == 1120
    assert repr(name) in text
    assert rpc('list_prefix') == []
    assert rpc('list_prefix', **{name: True})[0] == 1120


def test_other_unknown_members_are_ignored(rpc: Rpc) -> None:
    assert rpc('add_prefix', attr=NET, colour='red', dry=True, plant_id=3)['prefix'] == '10.0.0.0/8'


@pytest.mark.parametrize('member', [{'dry_run': True}, {'plan': 'x'}])
def test_calls_that_read_refuse_plans(rpc: Rpc, rest: Rest, member: Object) -> None:
    (name,) = member
    code, text = rpc('list_prefix', **member)
    assert (code, name in text) == (1120, True)
    status, problem = rest('GET', f'/api/v1/prefixes?{name}=1')
    assert (status, problem['code'], problem['attribute']) == (400, 1120, name)


@pytest.mark.parametrize('name', ['dry_run', 'as_of', 'plan'])
@pytest.mark.parametrize('method', ['GET', 'POST', 'PUT', 'DELETE'])
def test_the_frozen_endpoint_refuses_plans(rest: Rest, rpc: Rpc, method: str, name: str) -> None:
    rpc('add_prefix', attr=NET)
    body = INNER if method in ('POST', 'PUT') else None
    status, answer = rest(method, f'/rest/v1/prefixes?id=1&{name}=1', body)
    assert (status, answer['error']['code']) == (500, 1120)
    assert name in answer['error']['message']
    assert [item['description'] for item in rpc('list_prefix')] == ['net']
