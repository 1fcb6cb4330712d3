"""Replay the recorded dialogue with the older endpoint: the same statuses, content types and bodies."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from contract_faces import USERS, basic
from flask import Flask
from flask.testing import FlaskClient

from nipap.access.authentication import Actor, Authenticator
from nipap.backend import Backend
from nipap.postgres.database import Database
from nipap.rest import v1 as flask_rest_v1
from nipapd.worker import LONGEST_LIST

STEPS = json.loads((Path(__file__).parent.parent / 'data' / 'rest-session.json').read_text())
WRONG_PASSWORD = 'Incorrect username or password'
VARYING = ('added', 'last_modified')


@pytest.fixture
def client(backend: Backend, sound: None, authenticator: Authenticator) -> FlaskClient:
    app = Flask('test', static_folder=None)
    flask_rest_v1.add_to(app, backend, authenticator)
    return app.test_client()


def authorization(step: dict[str, Any]) -> dict[str, str]:
    """Return the credentials of a step. The recording does not contain them, but its answers imply them."""
    if not step['request']['auth']:
        return {}
    text = json.dumps(step['body'])
    user = 'readonly' if 'read-only user' in text else 'alice'
    return {'Authorization': basic(user, 'wrong' if WRONG_PASSWORD in text else USERS[user][0])}


def without_times(value: Any) -> Any:
    """Return the body of an answer without the varying times, which must be times."""
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


def test_a_trusted_user_names_the_person_in_headers(client: FlaskClient, db: Database) -> None:
    """A trusted user names the person in headers, in UTF-8. The headers of other users have no effect."""
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


# ---- behaviour beyond the recording

HEADERS = {'Authorization': basic('alice', USERS['alice'][0]), 'NIPAP-Authoritative-Source': 'x'}
PATH = '/rest/v1/prefixes'


@pytest.fixture
def as_daemon(db: Database, sound: None, authenticator: Authenticator) -> FlaskClient:
    """Return the endpoint as in the handlers of the daemon, where a thousand prefixes are a long list."""
    app = Flask('test', static_folder=None)
    flask_rest_v1.add_to(app, Backend(db, longest_list=LONGEST_LIST), authenticator)
    return app.test_client()


def stock(db: Database, number: int) -> None:
    attrs = [
        {'prefix': f'10.{n // 250}.{n % 250}.0/24', 'type': 'assignment', 'description': 'd'} for n in range(number)
    ]
    actor = Actor('alice', None, 'alice', 'x', readonly=False)
    Backend(db).add_prefixes(actor, attrs, ids=True)


def changes(db: Database) -> tuple[int, int]:
    found: tuple[int, int] = db.run(lambda tx: tx.one('SELECT count(*), count(DISTINCT change_set) FROM audit_log'))
    return found


def test_long_answers(as_daemon: FlaskClient, db: Database) -> None:
    """The answer has more prefixes than a handler keeps in memory.

    It is complete, and the answered changes were made.
    """
    number = LONGEST_LIST + 100
    stock(db, number)
    by_pages = []
    for offset in range(0, number, 400):
        query = f'?type=assignment&max_result=400&offset={offset}'
        by_pages += as_daemon.get(PATH + query, headers=HEADERS).json
    assert len(by_pages) == number
    for most in (LONGEST_LIST, LONGEST_LIST + 1, 10 * number):
        answer = as_daemon.get(f'{PATH}?type=assignment&max_result={most}', headers=HEADERS)
        assert (answer.status_code, answer.content_type) == (200, 'application/json')
        assert answer.json == by_pages[:most]
    assert as_daemon.get(f'{PATH}?type=host&max_result={number}', headers=HEADERS).data == b'[]'
    entries, sets = changes(db)
    edited = as_daemon.put(f'{PATH}?type=assignment', json={'comment': 'c'}, headers=HEADERS)
    assert (edited.status_code, len(edited.json)) == (200, number)
    assert {item['comment'] for item in edited.json} == {'c'}
    assert [item['id'] for item in edited.json] == [item['id'] for item in by_pages]
    assert edited.json[0].keys() == by_pages[0].keys()
    assert changes(db) == (entries + number, sets + 1)


def test_a_removal_is_one_transaction(as_daemon: FlaskClient, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is read in the transaction of the removal, under its lock."""
    stock(db, 3)
    ids = [item['id'] for item in as_daemon.get(f'{PATH}?type=assignment', headers=HEADERS).json]
    entries, sets = changes(db)

    def no_other(*_: object, **__: object) -> None:
        raise AssertionError('read on its own')

    monkeypatch.setattr(Backend, 'list_prefix', no_other)
    assert as_daemon.delete(f'{PATH}?id={ids[0]}', headers=HEADERS).json == {'prefix': '10.0.0.0/24', 'vrf_id': 0}
    assert as_daemon.delete(f'{PATH}?id={ids[0]}', headers=HEADERS).json == {
        'error': {'code': 1300, 'message': f'No prefix with id {ids[0]} found.'}
    }
    assert as_daemon.delete(f'{PATH}?prefix=10.0.1.0/24', headers=HEADERS).json == {'prefix': '10.0.1.0/24'}
    for query, code in (('id=x', 1200), (f'id={ids[2]}&vrf_id=0', 1120), ('id=-1', 1300), (f'id={10**30}', 1300)):
        assert as_daemon.delete(f'{PATH}?{query}', headers=HEADERS).json['error']['code'] == code, query
    assert changes(db) == (entries + 2, sets + 2)
    made = db.run(lambda tx: tx.all('SELECT DISTINCT method FROM change_set ORDER BY 1'))
    assert ('remove_prefix',) in made


@pytest.mark.parametrize('body', [None, [], 7, 'x'])
def test_an_addition_without_attributes(client: FlaskClient, body: Any) -> None:
    for query in ('', '?fromPrefix=10.0.0.0/8&prefixLength=24'):
        sent = {} if body is None else {'json': body}
        answer = client.post(PATH + query, headers=HEADERS, **sent)
        assert (answer.status_code, answer.json) == (500, {'error': {'code': 1100, 'message': "'attr' must be a dict"}})
        reader = {**HEADERS, 'Authorization': basic('readonly', USERS['readonly'][0])}
        assert client.post(PATH + query, headers=reader, **sent).json['error']['code'] == 1520


def test_the_right_to_change_anything_is_given_up(client: FlaskClient, db: Database) -> None:
    """A trusted user gives up the right in a header. The header of other users has no effect."""
    body = {'prefix': '10.0.0.0/16', 'type': 'reservation', 'description': 'd'}
    gateway = {**HEADERS, 'Authorization': basic('gateway', USERS['gateway'][0]), 'NIPAP-Read-Only': 'true'}
    for method, query in (('POST', ''), ('PUT', '?id=1'), ('DELETE', '?id=1')):
        answer = client.open(PATH + query, method=method, json=body, headers=gateway)
        assert (answer.status_code, answer.json['error']['code']) == (500, 1520)
    assert changes(db) == (0, 0)
    assert client.get(f'{PATH}?id=1', headers=gateway).json == []
    for headers in ({**gateway, 'NIPAP-Read-Only': 'false'}, {**HEADERS, 'NIPAP-Read-Only': 'true'}):
        made = client.post(PATH, json=body, headers=headers)
        assert made.status_code == 200
        assert client.delete(f'{PATH}?id={made.json["id"]}', headers=headers).status_code == 200


def test_the_older_rest_endpoint_has_no_versions(as_daemon: FlaskClient) -> None:
    body = {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'd'}
    added = as_daemon.post(PATH, json=body, headers=HEADERS).json
    found = as_daemon.get(f'{PATH}?id={added["id"]}', headers=HEADERS).json
    edited = as_daemon.put(f'{PATH}?id={added["id"]}', json={'description': 'e'}, headers=HEADERS).json
    assert not any('version' in item for item in (added, *found, *edited))
    unknown = {'error': {'code': 1100, 'message': "Search variable 'version' unknown"}}
    assert as_daemon.get(f'{PATH}?version=1', headers=HEADERS).json == unknown
    for answer in (
        as_daemon.put(f'{PATH}?version=2', json={'description': 'f'}, headers=HEADERS),
        as_daemon.delete(f'{PATH}?prefix=10.0.0.0/8&version=2', headers=HEADERS),
    ):
        assert answer.json == {'error': {'code': 1120, 'message': "Key 'version' not allowed in prefix spec."}}
