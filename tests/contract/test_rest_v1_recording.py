"""The recorded dialogue with the older endpoint is played again: statuses, content types and bodies as they were."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from contract_faces import USERS, basic
from flask import Flask
from flask.testing import FlaskClient

from nipap.access.authentication import Authenticator
from nipap.backend import Backend
from nipap.postgres.database import Database
from nipap.rest import v1 as flask_rest_v1

STEPS = json.loads((Path(__file__).parent.parent / 'data' / 'rest-session.json').read_text())
WRONG_PASSWORD = 'Incorrect username or password'
VARYING = ('added', 'last_modified')


@pytest.fixture
def client(backend: Backend, sound: None, authenticator: Authenticator) -> FlaskClient:
    app = Flask('test', static_folder=None)
    flask_rest_v1.add_to(app, backend, authenticator)
    return app.test_client()


def authorization(step: dict[str, Any]) -> dict[str, str]:
    """Who sent it; the recording does not say, but it shows."""
    if not step['request']['auth']:
        return {}
    text = json.dumps(step['body'])
    user = 'readonly' if 'read-only user' in text else 'alice'
    return {'Authorization': basic(user, 'wrong' if WRONG_PASSWORD in text else USERS[user][0])}


def without_times(value: Any) -> Any:
    """The body of an answer; times that vary must be times."""
    if isinstance(value, list):
        return [without_times(item) for item in value]
    for name in VARYING:
        if name in value:
            assert datetime.fromisoformat(value[name]).utcoffset() is not None
            assert value[name].endswith('+00:00')
    return {name: item for name, item in value.items() if name not in VARYING}


def test_the_endpoint_answers_as_recorded(client: FlaskClient) -> None:
    for number, step in enumerate(STEPS):
        asked = step['request']
        headers = {**asked['headers'], **authorization(step)}
        answer = client.open(
            asked['path'], method=asked['method'], query_string=asked['params'], json=asked['json'], headers=headers
        )
        told = f'step {number}: {asked}\n{answer.data!r}'
        assert (answer.status_code, answer.content_type) == (step['status'], step['content_type']), told
        assert without_times(answer.json) == without_times(step['body']), told
        assert answer.status_code != 401 or answer.headers['WWW-Authenticate'].startswith('Basic ')


def test_the_recording_is_whole() -> None:
    assert len(STEPS) == 20
    assert {step['request']['method'] for step in STEPS} == {'GET', 'POST', 'PUT', 'DELETE'}


def test_on_whose_behalf(client: FlaskClient, db: Database) -> None:
    """A trusted user says so in headers, in UTF-8; from others they mean nothing."""
    named = {'NIPAP-Username': 'eve', 'NIPAP-Full-Name': 'Éve', 'NIPAP-Authoritative-Source': 'dépôt'}
    sent = {name: value.encode().decode('latin-1') for name, value in named.items()}
    for number, user in enumerate(('gateway', 'alice')):
        body = {'prefix': f'10.{number}.0.0/16', 'type': 'reservation', 'description': 'x'}
        authorized = sent | {'Authorization': basic(user, USERS[user][0])}
        answer = client.post('/rest/v1/prefixes', json=body, headers=authorized)
        assert (answer.status_code, answer.json['authoritative_source']) == (200, 'dépôt')
    columns = 'username, authenticated_as, full_name, authoritative_source'
    assert db.run(lambda tx: tx.all(f'SELECT {columns} FROM audit_log ORDER BY id')) == [
        ('eve', 'gateway', 'Éve', 'dépôt'),
        ('alice', 'alice', 'Alice Smith', 'dépôt'),
    ]


def test_nothing_that_is_sent_is_a_fault_of_ours(client: FlaskClient) -> None:
    headers = {'Authorization': basic('alice', USERS['alice'][0]), 'NIPAP-Authoritative-Source': 'x'}
    for body in (b'', b'{', b'[]', b'7', b'null'):
        for method in ('POST', 'PUT'):
            answer = client.open('/rest/v1/prefixes?id=1', method=method, data=body, headers=headers)
            assert answer.status_code in (200, 500)
            if answer.status_code == 500:
                assert answer.json['error']['code'] > 1000
    for query in ('fromPrefix=x', 'fromPoolId=x&family=9', 'fromPoolName=&fromPrefix='):
        answer = client.post(f'/rest/v1/prefixes?{query}', json={'description': 'x'}, headers=headers)
        assert answer.json['error']['code'] > 1000
    assert client.delete('/rest/v1/prefixes?id=99', headers=headers).json['error']['code'] == 1300
    assert client.get('/rest/v1/prefixes?max_result=x&id=1', headers=headers).json['error']['code'] == 1200
