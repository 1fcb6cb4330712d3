"""The stored answer of an idempotency key is given to the same account only, while it may make the call."""

from __future__ import annotations

import sqlite3
import xmlrpc.client
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from contract_faces import basic

from nipap import app
from nipap.access.authentication import Authenticator, AuthSettings, BackendSettings
from nipap.access.local_users import LocalUser, LocalUsers
from nipap.backend import Backend

ANN = LocalUser('ann', trusted=True)
ADDITION = {'attr': {'asn': 1, 'name': 'of the first ann'}}
HOOK = {'attr': {'url': 'https://hooks.example.net/x', 'secret': 'a secret of sixteen or more'}}
PARTS = [{'method': 'add_asn', 'args': ADDITION}, {'method': 'add_webhook', 'args': HOOK}]

Ask = Callable[..., Any]


@pytest.fixture
def users(tmp_path: Path) -> LocalUsers:
    local = LocalUsers(tmp_path / 'accounts.db')
    local.create()
    local.add(ANN, 'first password')
    return local


@pytest.fixture
def ask(backend: Backend, users: LocalUsers) -> Iterator[Ask]:
    """Yield a function that makes a call over XML-RPC under the key k, and returns the answer or the fault."""
    accounts = {'local': BackendSettings('local', 'SqliteAuth', {'db_path': users.path})}
    authenticator = Authenticator(AuthSettings('local', 3600, accounts))
    client = app.create(backend, authenticator).test_client()

    def make(password: str, method: str, **members: Any) -> Any:
        given = {'auth': {'authoritative_source': 'test'}, **members}
        body = xmlrpc.client.dumps((given,), method, allow_none=True)
        headers = {'Authorization': basic('ann', password), 'Content-Type': 'text/xml', 'Idempotency-Key': 'k'}
        try:
            return xmlrpc.client.loads(client.post('/XMLRPC', data=body, headers=headers).data)[0][0]
        except xmlrpc.client.Fault as fault:
            return fault

    yield make
    authenticator.close()


def test_a_demoted_user_gets_no_answer_to_a_change(ask: Ask, users: LocalUsers) -> None:
    first = ask('first password', 'add_asn', **ADDITION)
    assert ask('first password', 'add_asn', **ADDITION) == first
    users.modify('ann', readonly=True)
    assert ask('first password', 'add_asn', **ADDITION).faultCode == 1520


def test_a_demoted_user_gets_no_answer_to_a_batch_with_what_is_forbidden_now(ask: Ask, users: LocalUsers) -> None:
    first = ask('first password', 'batch', operations=PARTS)
    assert ask('first password', 'batch', operations=PARTS) == first
    users.modify('ann', trusted=False)
    fault = ask('first password', 'batch', operations=PARTS)
    assert (fault.faultCode, fault.faultString.partition(':')[0]) == (1520, 'operation 1 (add_webhook)')
    users.modify('ann', trusted=True)
    assert ask('first password', 'batch', operations=PARTS) == first


def remove(users: LocalUsers) -> None:
    users.delete('ann')


def remove_from_outside(users: LocalUsers) -> None:
    """Remove the user as a program does that knows only the table of users."""
    with closing(sqlite3.connect(users.path)) as connection, connection:
        connection.execute("DELETE FROM user WHERE username = 'ann'")


@pytest.mark.parametrize('remove', [remove, remove_from_outside])
def test_a_new_person_under_an_old_name_gets_no_answer(
    ask: Ask, users: LocalUsers, remove: Callable[[LocalUsers], None]
) -> None:
    ask('first password', 'add_asn', **ADDITION)
    for again in (1, 2):
        remove(users)
        users.add(ANN, 'second password')
        assert users.get('ann').predecessors == again
        assert ask('second password', 'add_asn', **ADDITION).faultCode == 1400
        other = {'attr': {'asn': again + 1, 'name': 'of another ann'}}
        first = ask('second password', 'add_asn', **other)
        assert first == ask('second password', 'add_asn', **other) == {**other['attr'], 'version': 1}


def test_a_file_of_an_earlier_version_remembers_from_the_first_removal_on(ask: Ask, users: LocalUsers) -> None:
    with closing(sqlite3.connect(users.path)) as connection, connection:
        connection.executescript('DROP TRIGGER user_removed; DROP TABLE former_user')
    first = ask('first password', 'add_asn', **ADDITION)
    users.modify('ann', full_name='Ann')
    assert ask('first password', 'add_asn', **ADDITION) == first
    users.delete('ann')
    users.add(ANN, 'second password')
    assert ask('second password', 'add_asn', **ADDITION).faultCode == 1400
