"""Undeclared parameters and members of a route are refused, and nothing changes. Requests follow the description."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from contract_faces import USERS, basic
from contract_rest import rest_application
from databases import Standing
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from nipap.access.authentication import Authenticator
from nipap.calls import CALLS
from nipap.postgres.database import Database
from nipap.rest.openapi import describe

pytestmark = pytest.mark.slow

DESCRIPTION: dict[str, Any] = describe('/api/v1')
# This user has all rights.
AUTH = {'Authorization': basic('gateway', USERS['gateway'][0])}
ROUTES = [(verb.upper(), path) for path, its in DESCRIPTION['paths'].items() for verb in its]
# Names that scripts send in the belief that they have an effect, and slight misspellings.
LIKELY = ('dry_run', 'dry-run', 'dryRun', 'force', 'purge', 'if_version', 'sort', 'page', 'offset', 'max_result')

# Bodies of changing requests, each sent with one extra member.
PREFIX = {'prefix': '10.9.0.0/24', 'type': 'assignment', 'description': 'd'}
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ('POST', '/vrfs'): {'rt': '65000:9', 'name': 'nine'},
    ('POST', '/pools'): {'name': 'nine', 'description': 'd', 'default_type': 'host'},
    ('POST', '/prefixes'): PREFIX,
    ('POST', '/asns'): {'asn': 9, 'name': 'nine'},
    ('PATCH', '/vrfs/{key}'): {'description': 'other'},
    ('PATCH', '/pools/{key}'): {'description': 'other'},
    ('PATCH', '/prefixes/{key}'): {'description': 'other'},
    ('PATCH', '/asns/{key}'): {'name': 'other'},
    ('POST', '/pools/{key}/allocations'): {'family': 4, 'prefix_length': 26, 'description': 'd'},
    ('POST', '/prefixes/{key}/allocations'): {'prefix_length': 26, 'type': 'assignment', 'description': 'd'},
    ('POST', '/batch'): {'operations': [{'method': 'add_prefix', 'args': {'attr': PREFIX}}]},
    ('POST', '/webhooks'): {'url': 'https://example.net/', 'secret': 'x' * 40},
    ('PATCH', '/webhooks/{key}'): {'description': 'other'},
    ('POST', '/webhooks/{key}/dead-letters/resend'): {'ids': []},
    **{
        ('POST', f'/{plural}/search'): {'query': {'operator': 'equals', 'val1': 'name', 'val2': 'x'}}
        for plural in ('vrfs', 'pools', 'asns', 'tags')
    },
    ('POST', '/prefixes/search'): {'query': {'operator': 'equals', 'val1': 'vlan', 'val2': 1}, 'q': 'x'},
    ('POST', '/audit/search'): {'query': {'operator': 'equals', 'val1': 'kind', 'val2': 'vrf'}, 'q': 'x'},
    ('POST', '/changes/search'): {'query': {'operator': 'equals', 'val1': 'method', 'val2': 'add_vrf'}, 'q': 'x'},
    ('POST', '/change-groups/undo'): {'group': 'g'},
}


@pytest.fixture
def client(standing: Standing, sound: None, authenticator: Authenticator) -> FlaskClient:
    """Return a client of the interface over a database with one object of each kind."""
    made = rest_application(standing, authenticator, max_body=100_000).test_client()
    for plural, attr in (
        ('vrfs', {'rt': '65000:1', 'name': 'one'}),
        ('pools', {'name': 'one', 'description': 'd', 'default_type': 'assignment'}),
        ('prefixes', {'prefix': '10.0.0.0/16', 'type': 'reservation', 'description': 'd', 'pool_name': 'one'}),
        ('asns', {'asn': 1, 'name': 'one'}),
        ('webhooks', {'url': 'http://127.0.0.1:9/', 'secret': 'x' * 40}),
    ):
        assert made.post(f'/api/v1/{plural}', json=attr, headers=AUTH).status_code == 201
    return made


def resolved(parameter: dict[str, Any]) -> dict[str, Any]:
    place = parameter.get('$ref')
    return DESCRIPTION['components']['parameters'][place.rpartition('/')[2]] if place else parameter


def declared(method: str, path: str) -> set[str]:
    """Return the names of the parameters in the query."""
    parameters = map(resolved, DESCRIPTION['paths'][path][method.lower()]['parameters'])
    return {parameter['name'] for parameter in parameters if parameter['in'] == 'query'}


EVERY_NAME = sorted({name for route in ROUTES for name in declared(*route)})


def changes(db: Database) -> Any:
    """Return figures that differ after any change of the database."""
    return db.run(lambda tx: (tx.value('SELECT count(*) FROM audit_log'), tx.value('SELECT count(*) FROM webhook')))


def place(client: FlaskClient, path: str) -> str:
    """Return the path of an existing object."""
    plural = path.split('/')[1]
    if '{key}' not in path:
        return f'/api/v1{path}'
    found = client.get(f'/api/v1/{plural}', headers=AUTH).json['result'][-1]
    return f'/api/v1{path}'.replace('{key}', str(found['asn' if plural == 'asns' else 'id']))


def send(client: FlaskClient, method: str, url: str, query: Any = None, body: Any = None) -> TestResponse:
    return client.open(url, method=method, query_string=query, json=body, headers=AUTH)


def is_refused(answer: TestResponse, name: str) -> bool:
    told = answer.json
    return (answer.status_code, told['attribute']) == (400, name) and told['code'] in (1100, 1120)


@pytest.mark.parametrize(('method', 'path'), ROUTES)
def test_a_parameter_that_a_route_does_not_declare_is_refused(
    client: FlaskClient, db: Database, method: str, path: str
) -> None:
    url, body = place(client, path), BODIES.get((method, path))
    known = declared(method, path)
    before = changes(db)
    for name in (*LIKELY, *EVERY_NAME, 'x' * 300, 'ä', ''):
        if name not in known:
            answer = send(client, method, url, {name: 'true'}, body)
            assert is_refused(answer, name), (name, answer.data)
            detail = answer.json['detail']
            assert all(one in detail for one in known), detail
    for name in {'Limit', 'RECURSIVE', 'recursive ', 'avps.', 'avps'} - known:
        assert is_refused(send(client, method, url, {name: '1'}, body), name)
    assert changes(db) == before


@pytest.mark.parametrize(('method', 'path'), ROUTES)
def test_names_of_parameters_that_nobody_has_thought_of(
    client: FlaskClient, db: Database, method: str, path: str
) -> None:
    url, body = place(client, path), BODIES.get((method, path))
    known = declared(method, path)
    before = changes(db)

    @settings(max_examples=10, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.text(st.characters(codec='utf-8'), min_size=1, max_size=20).filter(lambda name: name not in known))
    def check(name: str) -> None:
        if not name.startswith('avps.'):
            assert is_refused(send(client, method, url, {name: '1'}, body), name)

    check()
    assert changes(db) == before


@pytest.mark.parametrize(('method', 'path'), ROUTES)
def test_a_single_parameter_is_there_once(client: FlaskClient, db: Database, method: str, path: str) -> None:
    url, body = place(client, path), BODIES.get((method, path))
    before = changes(db)
    for name in declared(method, path) & {'q', 'limit', 'after', 'fields', 'recursive', 'parents_depth', 'count'}:
        answer = send(client, method, url, [(name, '1'), (name, '2')], body)
        assert is_refused(answer, name), answer.data
        assert 'more than once' in answer.json['detail']
    assert changes(db) == before


@pytest.mark.parametrize(
    ('method', 'path'), [route for route in ROUTES if route[0] != 'GET' and not route[1].endswith('/search')]
)
def test_a_condition_that_is_not_looked_at_is_refused(
    client: FlaskClient, db: Database, method: str, path: str
) -> None:
    """A client that sends If-Match relies on it."""
    url, body = place(client, path), BODIES.get((method, path))
    parameters = [resolved(one)['name'] for one in DESCRIPTION['paths'][path][method.lower()]['parameters']]
    before = changes(db)
    for tag in ('"other"', '*'):
        answer = client.open(url, method=method, json=body, headers={**AUTH, 'If-Match': tag})
        if 'If-Match' not in parameters:
            assert (answer.status_code, answer.json['code']) == (400, 1100), answer.data
            assert 'If-Match' in answer.json['detail']
        elif tag != '*':
            assert (answer.status_code, answer.json['code']) == (412, 1600), answer.data
    if 'If-Match' not in parameters:
        assert changes(db) == before


def test_every_route_with_a_body_is_tried() -> None:
    with_body = {
        (verb.upper(), path) for path, its in DESCRIPTION['paths'].items() for verb in its if 'requestBody' in its[verb]
    }
    assert with_body == set(BODIES)


@pytest.mark.parametrize(('method', 'path'), list(BODIES))
def test_a_member_that_a_body_does_not_have_is_refused(
    client: FlaskClient, db: Database, method: str, path: str
) -> None:
    url, body = place(client, path), BODIES[method, path]
    before = changes(db)
    for name in (*LIKELY, 'Description', 'id ', 'ä', ''):
        answer = send(client, method, url, None, {**body, name: True})
        assert is_refused(answer, name), (name, answer.data)
    assert changes(db) == before


@pytest.mark.parametrize(('method', 'path'), [route for route in ROUTES if route not in BODIES])
def test_a_body_that_is_not_read_is_refused(client: FlaskClient, db: Database, method: str, path: str) -> None:
    if path == '/events':  # the answer has no end
        return
    url = place(client, path)
    before = changes(db)
    for body in (b'{"dry_run": true}', b'{"recursive": true}', b'x', b'[]'):
        answer = client.open(url, method=method, data=body, headers=AUTH)
        assert (answer.status_code, answer.json['code']) == (400, 1100), answer.data
    assert changes(db) == before
    if method == 'DELETE':
        assert client.open(url, method=method, data=b' {}', headers=AUTH).status_code == 204
        assert changes(db) != before


def operations() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every call with the example members of its description."""
    for name, call in CALLS.items():
        if name != 'batch':
            yield name, {member.name: member.example for member in call.members if member.required}


@pytest.mark.parametrize(('method', 'args'), list(operations()))
def test_members_of_an_operation(client: FlaskClient, db: Database, method: str, args: dict[str, Any]) -> None:
    """Extra members beside ``method`` and ``args``, and in ``args``, are refused with the number of the operation."""
    before = changes(db)
    fine = {'method': 'version'}
    members = {member.name for member in CALLS[method].members}
    for name in {*LIKELY, 'auth', 'Args', ''} - members:
        for operation in ({'method': method, 'args': args, name: True}, {'method': method, 'args': {**args, name: 1}}):
            answer = send(client, 'POST', '/api/v1/batch', None, {'operations': [fine, operation]})
            assert is_refused(answer, name), (name, answer.data)
            assert answer.json['position'] == 1
            assert answer.json['detail'].startswith('operation 1')
    assert changes(db) == before


def test_a_reference_stands_alone(client: FlaskClient, db: Database) -> None:
    before = changes(db)
    one = {'method': 'add_asn', 'args': {'attr': {'asn': 9, 'name': 'nine'}}}
    for spec in ({'asn': {'$result': [0, 'asn'], 'x': 1}}, {'$result': [0], 'dry_run': True}):
        operation = {'method': 'remove_asn', 'args': {'asn': spec}}
        answer = send(client, 'POST', '/api/v1/batch', None, {'operations': [one, operation]})
        assert (answer.status_code, answer.json['code'], answer.json['position']) == (400, 1100, 1), answer.data
    assert changes(db) == before


def test_members_of_a_query_inside_another(client: FlaskClient) -> None:
    one = {'operator': 'equals', 'val1': 'name', 'val2': 'one'}
    for query in (
        {'operator': 'and', 'val1': one, 'val2': {**one, 'limit': 1}},
        {'operator': 'or', 'val1': {'operator': 'and', 'val1': {**one, 'limit': 1}, 'val2': {}}, 'val2': {}},
    ):
        assert is_refused(send(client, 'POST', '/api/v1/vrfs/search', None, {'query': query}), 'limit')


def test_pairs_are_parameters_of_objects_with_pairs(client: FlaskClient) -> None:
    for plural in ('vrfs', 'pools', 'prefixes'):
        assert send(client, 'GET', f'/api/v1/{plural}', {'avps.key': 'x', 'avps.key.more': 'y'}).json['result'] == []
    for plural in ('asns', 'tags'):
        assert is_refused(send(client, 'GET', f'/api/v1/{plural}', {'avps.key': 'x'}), 'avps.key')
