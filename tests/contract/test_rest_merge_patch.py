"""A body of type ``application/merge-patch+json`` is merged as RFC 7396 says, or is refused with 415."""

from __future__ import annotations

import json
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
from nipap.rest.openapi import describe

pytestmark = pytest.mark.slow

AUTH = {'Authorization': basic('gateway', USERS['gateway'][0])}
MERGE = 'application/merge-patch+json'
ROUTES = [(verb.upper(), path) for path, its in describe('/api/v1')['paths'].items() for verb in its]
MERGING = {('PATCH', f'/{plural}/{{key}}') for plural in ('vrfs', 'pools', 'prefixes', 'asns')}


@pytest.fixture
def client(standing: Standing, sound: None, authenticator: Authenticator) -> FlaskClient:
    return rest_application(standing, authenticator, max_body=100_000).test_client()


def send(client: FlaskClient, method: str, path: str, body: Any, kind: str = MERGE, **headers: str) -> TestResponse:
    named = AUTH | {'Content-Type': kind} | {name.replace('_', '-'): value for name, value in headers.items()}
    return client.open(f'/api/v1{path}', method=method, data=json.dumps(body), headers=named)


def merge_patch(target: Any, patch: Any) -> Any:
    """Merge a patch by the algorithm of RFC 7396, section 2."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def added(client: FlaskClient, plural: str, attr: dict[str, Any]) -> str:
    answer = send(client, 'POST', f'/{plural}', attr, 'application/json')
    assert answer.status_code == 201, answer.data
    return f'/{plural}/{answer.json["id"]}'


FACTS = ('description', 'tags', 'avps', 'comment', 'vlan')
keys = st.sampled_from(('a', 'b', 'c', 'ö', 'o\u0308'))
patches = st.fixed_dictionaries(
    {},
    optional={
        'description': st.sampled_from(('x', 'y', None)),
        'comment': st.sampled_from(('x', '', None)),
        'tags': st.lists(st.sampled_from(('t', 'u')), max_size=2) | st.none(),
        'avps': st.dictionaries(keys, st.sampled_from(('1', '2', '', None)), max_size=4) | st.none(),
        'vlan': st.sampled_from((1, 2, None)),
    },
)


def test_patches_are_merged_as_the_standard_says(client: FlaskClient) -> None:
    path = added(client, 'prefixes', {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'd'})

    @settings(max_examples=60, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(patches)
    def check(patch: dict[str, Any]) -> None:
        before = {name: client.get(f'/api/v1{path}', headers=AUTH).json[name] for name in FACTS}
        answer = send(client, 'PATCH', path, patch)
        assert answer.status_code == 200, answer.data
        if isinstance(patch.get('avps'), dict):  # letters are stored in one form
            patch = {**patch, 'avps': {name.replace('o\u0308', 'ö'): value for name, value in patch['avps'].items()}}
        merged = merge_patch(before, patch)
        unset = {'description': None, 'tags': [], 'avps': {}, 'comment': None, 'vlan': None}
        assert {name: answer.json[name] for name in FACTS} == unset | merged

    check()


@pytest.mark.parametrize(
    ('plural', 'attr'),
    [
        ('vrfs', {'rt': '1:1', 'name': 'v'}),
        ('pools', {'name': 'p', 'description': 'd', 'default_type': 'assignment'}),
        ('prefixes', {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'd'}),
    ],
)
def test_pairs(client: FlaskClient, plural: str, attr: dict[str, Any]) -> None:
    path = added(client, plural, {**attr, 'avps': {'a': '1', 'b': '2'}, 'tags': ['t']})
    item = send(client, 'PATCH', path, {'avps': {'b': None, 'c': '3', 'nothing': None}}).json
    assert (item['avps'], item['tags'], item['description']) == ({'a': '1', 'c': '3'}, ['t'], attr.get('description'))
    for patch in ({}, {'avps': {}}, {'avps': {'x': None}}, item):
        answer = send(client, 'PATCH', path, patch)
        assert (answer.status_code, answer.json) == (200, item), answer.data
    assert send(client, 'PATCH', path, {'avps': None, 'tags': None}).json['avps'] == {}
    # With the other content type a body sets all pairs, and none of them may be null.
    assert send(client, 'PATCH', path, {'avps': {'a': '1'}}, 'application/json').json['avps'] == {'a': '1'}
    assert send(client, 'PATCH', path, {'avps': {'b': '2'}}, 'application/json').json['avps'] == {'b': '2'}
    assert send(client, 'PATCH', path, {'avps': {'b': None}}, 'application/json').status_code == 422
    before = client.get(f'/api/v1{path}', headers=AUTH).json
    for bad, status, about in (
        ({'avps': {'k': {'deeper': '1'}}}, 422, 'avps'),
        ({'avps': {'': '1'}}, 422, 'avps'),
        ({'avps': {'k': 7}}, 422, 'avps'),
        ({'avps': 'x'}, 422, 'avps'),
        ({'avps': {'k': 'v'}, 'id': None}, 400, 'id'),
        ({'avps': {'k': 'v'}, 'bogus': None}, 400, 'bogus'),
    ):
        answer = send(client, 'PATCH', path, bad)
        assert (answer.status_code, answer.json['attribute']) == (status, about), (bad, answer.data)
    assert send(client, 'PATCH', path, [1]).status_code == 400
    assert send(client, 'PATCH', f'/{plural}/99999', {'avps': {}}).status_code == 404
    assert client.get(f'/api/v1{path}', headers=AUTH).json == before


def test_a_patch_with_conditions_and_keys(client: FlaskClient) -> None:
    path = added(client, 'vrfs', {'rt': '1:1', 'name': 'v', 'avps': {'a': '1'}})
    tag = client.get(f'/api/v1{path}', headers=AUTH).headers['ETag']
    first = send(client, 'PATCH', path, {'avps': {'b': '2'}}, If_Match=tag, Idempotency_Key='k')
    assert first.json['avps'] == {'a': '1', 'b': '2'}
    assert send(client, 'PATCH', path, {'avps': {'c': '3'}}, If_Match=tag).status_code == 412
    assert send(client, 'PATCH', path, {'avps': {'c': '3'}}).status_code == 200
    assert send(client, 'PATCH', path, {'avps': {'b': '2'}}, Idempotency_Key='k').data == first.data
    replaced = send(client, 'PATCH', path, {'avps': {'b': '2'}}, 'application/json', Idempotency_Key='k')
    assert (replaced.status_code, replaced.json['code']) == (422, 1410)


READING = [
    (verb.upper(), path)
    for path, its in describe('/api/v1')['paths'].items()
    for verb in its
    if verb in ('post', 'patch') and 'requestBody' in its[verb]
]


@pytest.mark.parametrize(('method', 'path'), READING)
def test_elsewhere_it_is_no_type_that_is_read(client: FlaskClient, method: str, path: str) -> None:
    answer = send(client, method, path.replace('{key}', '1'), {})
    assert (answer.status_code == 415) == ((method, path) not in MERGING), answer.data
    if answer.status_code == 415:
        assert 'application/json is' in answer.json['detail']
    other = send(client, method, path.replace('{key}', '1'), {}, 'application/json-patch+json')
    assert other.status_code == 415
    content = describe('/api/v1')['paths'][path][method.lower()]['requestBody']['content']
    assert (MERGE in content) == ((method, path) in MERGING)
