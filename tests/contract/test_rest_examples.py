"""The proposals on the page of the REST interface work: each request with the body of its description."""

from __future__ import annotations

from typing import Any

import pytest
from contract_faces import USERS, basic
from contract_rest import rest_application
from databases import Standing
from flask.testing import FlaskClient

from nipap.access.authentication import Authenticator
from nipap.rest.openapi import describe

AUTH = {'Authorization': basic('gateway', USERS['gateway'][0])}  # this user has all rights
BODIES: dict[str, tuple[str, str, Any]] = {
    operation['operationId']: (method, path, operation['requestBody']['content']['application/json']['example'])
    for path, item in describe('/api/v1')['paths'].items()
    for method, operation in item.items()
    if 'requestBody' in operation
}


@pytest.fixture
def client(standing: Standing, sound: None, authenticator: Authenticator) -> FlaskClient:
    return rest_application(standing, authenticator, max_body=100_000).test_client()


def test_every_request_that_is_proposed_is_done(client: FlaskClient) -> None:
    """The requests run in a new database, with the numbers of objects that were added before."""
    left = set(BODIES)
    keys: dict[str, Any] = {}

    def propose(name: str, status: int, key: Any = None) -> Any:
        left.discard(name)
        method, path, body = BODIES[name]
        answer = client.open(f'/api/v1{path.format(key=key)}', method=method.upper(), json=body, headers=AUTH)
        assert answer.status_code == status, (name, body, answer.json)
        return answer.json

    for kind, number in (('vrf', 'id'), ('pool', 'id'), ('prefix', 'id'), ('asn', 'asn'), ('webhook', 'id')):
        keys[kind] = propose(f'add_{kind}', 201)[number]
    for kind in ('vrf', 'pool', 'prefix', 'asn', 'webhook'):
        propose(f'edit_{kind}', 200, keys[kind])
    for kind in ('vrf', 'pool', 'prefix', 'asn', 'tag', 'audit', 'change_set'):
        assert 'error' not in propose(f'search_{kind}', 200)
    propose('allocate_from_prefix', 201, keys['prefix'])
    member = f'/api/v1/prefixes/{keys["prefix"]}'
    assert client.patch(member, json={'pool_id': keys['pool']}, headers=AUTH).status_code == 200
    propose('allocate_from_pool', 201, keys['pool'])
    assert client.delete(f'/api/v1/asns/{keys["asn"]}', headers=AUTH).status_code == 204
    propose('batch', 200)
    propose('resend_dead_letter', 202, keys['webhook'])
    grouped = {**AUTH, 'NIPAP-Group': BODIES['undo_group'][2]['group']}
    added = client.post('/api/v1/asns', json={'asn': 64999, 'name': 'grouped'}, headers=grouped)
    assert added.status_code == 201
    assert len(propose('undo_group', 200)['change_sets']) == 1
    assert left == set()
