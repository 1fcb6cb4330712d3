"""Two people with one user name in two back ends are two users: in audit, keys, logs and caches."""

from __future__ import annotations

import json
import logging
import xmlrpc.client
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from contract_faces import basic
from flask.testing import FlaskClient

from nipap import app
from nipap.access.authentication import Authenticator, AuthSettings, BackendSettings
from nipap.access.local_users import LocalUser, LocalUsers
from nipap.backend import Backend
from nipap.postgres.database import Database

PASSWORDS = {'local': 'of the first ann', 'other': 'of the second ann'}
ANN, ANOTHER = basic('ann', PASSWORDS['local']), basic('ann@other', PASSWORDS['other'])
NET = {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'net'}

Ask = Callable[..., Any]


@pytest.fixture(scope='module')
def authenticator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authenticator]:
    backends = {}
    for name, password in PASSWORDS.items():
        path = str(tmp_path_factory.mktemp('accounts') / f'{name}.db')
        users = LocalUsers(path)
        users.create()
        users.add(LocalUser('ann', f'Ann of {name}', trusted=name == 'other'), password)
        backends[name] = BackendSettings(name, 'SqliteAuth', {'db_path': path})
    made = Authenticator(AuthSettings('local', 3600, backends))
    yield made
    made.close()


@pytest.fixture
def client(backend: Backend, authenticator: Authenticator) -> FlaskClient:
    return app.create(backend, authenticator).test_client()


@pytest.fixture
def rpc(client: FlaskClient) -> Ask:
    """Return a function that makes a call over XML-RPC and returns the answer or the fault."""

    def ask(authorization: str, method: str, auth: dict[str, Any] | None = None, **members: Any) -> Any:
        given = {'auth': {'authoritative_source': 'test', **(auth or {})}, **members}
        body = xmlrpc.client.dumps((given,), method, allow_none=True)
        headers = {'Authorization': authorization, 'Content-Type': 'text/xml'}
        try:
            return xmlrpc.client.loads(client.post('/XMLRPC', data=body, headers=headers).data)[0][0]
        except xmlrpc.client.Fault as fault:
            return fault

    return ask


def changes(db: Database) -> list[tuple[str, str, str]]:
    """Return the users of all changes, by the audit log."""
    sql = 'SELECT username, authenticated_as, full_name FROM audit_log ORDER BY id'
    return [(name, proved, full_name) for name, proved, full_name in db.read(lambda tx: tx.all(sql))]


def test_the_audit_tells_them_apart(rpc: Ask, client: FlaskClient, db: Database) -> None:
    for authorization in (ANN, ANOTHER):
        rpc(authorization, 'add_asn', attr={'asn': 1})
        rpc(authorization, 'remove_asn', asn={'asn': 1})
    both = [('ann', 'ann', 'Ann of local')] * 2 + [('ann', 'ann@other', 'Ann of other')] * 2
    assert changes(db) == both
    for authorization, path in ((ANN, '/api/v1/prefixes'), (ANOTHER, '/rest/v1/prefixes')):
        headers = {'Authorization': authorization, 'NIPAP-Authoritative-Source': 'test'}
        body = {**NET, 'prefix': '10.0.0.0/8' if authorization == ANN else '11.0.0.0/8'}
        answer = client.post(path, data=json.dumps(body), headers=headers, content_type='application/json')
        assert answer.status_code < 300, answer.text
    assert changes(db)[4:] == [both[0], both[2]]


def test_the_audit_names_the_back_end_of_a_user_who_acts_for_another(rpc: Ask, db: Database) -> None:
    rpc(ANOTHER, 'add_asn', {'username': 'bob'}, attr={'asn': 1})
    assert changes(db) == [('bob', 'ann@other', None)]


def test_each_has_keys_of_their_own(rpc: Ask) -> None:
    first = rpc(ANN, 'add_asn', attr={'asn': 1}, idempotency_key='k')
    assert rpc(ANN, 'add_asn', attr={'asn': 1}, idempotency_key='k') == first
    second = rpc(ANOTHER, 'add_asn', attr={'asn': 1}, idempotency_key='k')
    assert second.faultCode == 1400


def test_the_log_tells_them_apart(rpc: Ask, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, 'nipap.request'):
        rpc(ANN, 'version')
        rpc(ANN, 'version', {'username': 'bob'})
        rpc(ANOTHER, 'version')
        rpc(ANOTHER, 'version', {'username': "bob' by='eve"})
    said = [record.getMessage().split(' ms ')[0].rpartition(' ')[0] for record in caplog.records]
    assert said == [
        "version user='ann'",
        "version user='ann'",
        "version user='ann@other'",
        "version user=\"bob' by='eve\" by='ann@other'",
    ]
