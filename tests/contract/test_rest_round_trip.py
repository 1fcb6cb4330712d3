"""Answers can be sent back: read-only attributes are ignored if unchanged, and refused if changed."""

from __future__ import annotations

from typing import Any

import pytest
from contract_faces import USERS, basic
from contract_rest import rest_application
from databases import Standing
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from nipap.access.authentication import Authenticator
from nipap.postgres.database import Database
from nipap.rest.objects import RESOURCES, TAGS, Resource

pytestmark = pytest.mark.slow

AUTH = {'Authorization': basic('gateway', USERS['gateway'][0])}
(PREFIXES,) = (resource for resource in RESOURCES if resource.kind == 'prefix')
RESOURCE = pytest.mark.parametrize('resource', RESOURCES, ids=lambda resource: resource.plural)


class Rest:
    """Requests by a user with all rights."""

    def __init__(self, client: FlaskClient) -> None:
        self._client = client

    def ask(self, method: str, path: str, body: Any = None, /, **headers: str) -> TestResponse:
        named = AUTH | {name.replace('_', '-'): value for name, value in headers.items()}
        return self._client.open(f'/api/v1{path}', method=method, json=body, headers=named)

    def __call__(self, method: str, path: str, body: Any = None, /, **headers: str) -> Any:
        answer = self.ask(method, path, body, **headers)
        assert answer.status_code < 300, answer.data
        return answer.json

    def refused(self, method: str, path: str, body: Any, /, **headers: str) -> Any:
        answer = self.ask(method, path, body, **headers)
        assert (answer.status_code, answer.json['code']) == (400, 1120), answer.data
        return answer.json


@pytest.fixture
def rest(standing: Standing, sound: None, authenticator: Authenticator) -> Rest:
    """Return the interface over objects of each kind, some with every attribute, some with none."""
    made = Rest(rest_application(standing, authenticator, max_body=100_000).test_client())
    vrf = made('POST', '/vrfs', {'rt': '1:1', 'name': 'v', 'tags': ['t'], 'avps': {'k': 'v'}})['id']
    made('POST', '/pools', {'name': 'empty', 'description': 'd', 'default_type': None})
    lengths = {'ipv4_default_prefix_length': 26, 'ipv6_default_prefix_length': 64}
    pool = made('POST', '/pools', {'name': 'p', 'description': 'd', 'default_type': 'assignment', **lengths})['id']
    made('POST', '/asns', {'asn': 4200000001, 'name': None})
    for prefix, attr in (
        ('10.0.0.0/16', {'type': 'reservation', 'pool_id': pool, 'tags': ['t', 'u'], 'vrf_id': vrf}),
        ('10.0.0.0/24', {'type': 'assignment', 'vrf_id': vrf, 'vlan': 7, 'expires': '2031-05-06T07:08:09Z'}),
        ('10.0.0.1/32', {'type': 'host', 'vrf_id': vrf, 'node': 'n'}),
        ('2001:db8::/48', {'type': 'reservation'}),
        ('2001:db8::1/128', {'type': 'assignment'}),
    ):
        made('POST', '/prefixes', {'prefix': prefix, 'description': 'd', **attr})
    return made


def paths(rest: Rest, resource: Resource) -> list[str]:
    plural = resource.plural
    return [f'/{plural}/{item[resource.key]}' for item in rest('GET', f'/{plural}')['result']]


def entries(db: Database) -> int:
    found: int = db.run(lambda tx: tx.value('SELECT count(*) FROM audit_log'))
    return found


@RESOURCE
def test_an_answer_is_sent_back(rest: Rest, resource: Resource) -> None:
    for path in paths(rest, resource):
        if path == '/vrfs/0':
            continue
        item = rest('GET', path)
        name = 'comment' if resource.kind == 'prefix' else 'name'
        assert rest('PATCH', path, item)[resource.key] == item[resource.key]
        answer = rest.ask('PATCH', path, {**item, name: f'other {path}'})
        assert answer.status_code == 200, answer.data
        volatile = dict.fromkeys(('last_modified', 'version', name))
        assert {**answer.json, **volatile} == {**item, **volatile}
        assert answer.json[name] == f'other {path}'
        tag = answer.headers['ETag']
        assert rest('PATCH', path, {**answer.json, name: f'third {path}'}, If_Match=tag)[name] == f'third {path}'
        assert rest.ask('PATCH', path, {**answer.json, name: f'fourth {path}'}, If_Match=tag).status_code == 412


@RESOURCE
def test_an_item_of_a_list_is_sent_back(rest: Rest, resource: Resource) -> None:
    for item in rest('GET', f'/{resource.plural}')['result']:
        path = f'/{resource.plural}/{item[resource.key]}'
        assert rest('PATCH', path, item).keys() == item.keys() - {'match'}


@RESOURCE
def test_every_attribute_that_nobody_can_set_is_refused_when_it_was_changed(
    rest: Rest, db: Database, resource: Resource
) -> None:
    path = paths(rest, resource)[-1]
    item = rest('GET', path)
    fixed = [name for name in item if name not in resource.writable]
    before = entries(db)
    for name in fixed:
        for other in ('other', None, 123456789, [], '2001-02-03T04:05:06Z'):
            if other != item[name]:
                told = rest.refused('PATCH', path, {name: other, **settable_name(resource)})
                assert told['attribute'] == name
                assert name in told['detail']
    changed = dict.fromkeys(fixed, 'other')
    told = rest.refused('PATCH', path, {**item, **changed})
    assert all(f'{name} (' in told['detail'] for name in fixed)
    assert entries(db) == before


def settable_name(resource: Resource) -> dict[str, str]:
    return {'name': 'x'} if 'name' in resource.writable else {'description': 'x'}


@RESOURCE
def test_attributes_that_there_are_not_are_refused_all_at_once(rest: Rest, db: Database, resource: Resource) -> None:
    path = paths(rest, resource)[-1]
    before = entries(db)
    told = rest.refused('PATCH', path, {'one': 1, 'two': 2, **rest('GET', path)})
    assert told['detail'] == 'extraneous attributes one, two'
    told = rest.refused('POST', f'/{resource.plural}', {'one': 1, 'two': 2, **settable_name(resource)})
    assert told['detail'] == 'extraneous attributes one, two'
    assert rest.refused('PATCH', path, {'one': 1})['detail'] == 'extraneous attribute one'
    assert entries(db) == before


@RESOURCE
def test_a_body_of_read_only_attributes(rest: Rest, resource: Resource) -> None:
    """An edit of nothing changes nothing."""
    for path in paths(rest, resource):
        item = rest('GET', path)
        fixed = {name: value for name, value in item.items() if name not in resource.writable}
        assert rest('PATCH', path, fixed)[resource.key] == item[resource.key]
        assert {**rest('GET', path), 'last_modified': None} == {**item, 'last_modified': None}


def test_a_counter_that_was_moved_by_others(rest: Rest) -> None:
    """A read-only attribute must be sent as it is stored now. An edit without counters succeeds."""
    path = next(place for place in paths(rest, PREFIXES) if rest('GET', place)['prefix'] == '10.0.0.0/24')
    item = rest('GET', path)
    body = {'prefix_length': 32, 'type': 'host', 'description': 'd'}
    rest('POST', f'{path}/allocations', body)
    told = rest.refused('PATCH', path, {**item, 'description': 'e'})
    assert 'used_addresses' in told['detail']
    assert told['attribute'] == 'children'
    assert rest('PATCH', path, {**rest('GET', path), 'description': 'e'})['description'] == 'e'


def test_numbers_and_moments_written_otherwise(rest: Rest) -> None:
    path = next(place for place in paths(rest, PREFIXES) if rest('GET', place)['family'] == 4)
    item = rest('GET', path)
    assert item['added'].endswith('Z')
    same = {'added': item['added'].replace('Z', '+00:00'), 'id': str(item['id'])}
    same['total_addresses'] = int(item['total_addresses'])
    assert rest('PATCH', path, {**item, **same, 'description': 'e'})['description'] == 'e'


def test_a_change_with_a_key_is_sent_back_again(rest: Rest) -> None:
    path = paths(rest, PREFIXES)[0]
    body = {**rest('GET', path), 'description': 'e'}
    first = rest.ask('PATCH', path, body, Idempotency_Key='k')
    assert first.json['description'] == 'e'
    assert rest('DELETE', path) is None
    assert rest.ask('PATCH', path, body, Idempotency_Key='k').data == first.data
    assert rest.ask('PATCH', path, body, Idempotency_Key='l').status_code == 404


def test_a_webhook_is_sent_back(rest: Rest, db: Database) -> None:
    made = rest('POST', '/webhooks', {'url': 'http://127.0.0.1:9/', 'secret': 'x' * 40})
    path = f'/webhooks/{made["id"]}'
    item = rest('GET', path)
    assert rest('PATCH', path, item) == item
    assert rest('PATCH', path, {**item, 'description': 'd'})['description'] == 'd'
    before = entries(db)
    told = rest.refused('PATCH', path, {**item, 'id': 99, 'delivered': 5, 'url': 'http://127.0.0.1:10/'})
    assert told['detail'] == (
        f'read-only attributes differ from the stored ones: delivered (5, stored: 0), id (99, stored: {made["id"]})'
    )
    assert entries(db) == before


def test_tags_cannot_be_sent_back() -> None:
    assert TAGS.writable == frozenset()
