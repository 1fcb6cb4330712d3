"""The management of webhooks: each change has its audit entry, and no answer ever contains a secret."""

from __future__ import annotations

import json
from typing import Any

import pytest
from contract_faces import Face

from nipap.history import webhook
from nipap.history.audit import Who
from nipap.postgres.database import Database

URL = 'https://receiver.example.com/nipap'
SECRET = 'a secret of sixteen or more'
NEW_SECRET = 'another secret of sixteen or more'
FACTS = {
    **{'url': URL, 'kinds': ['prefix'], 'vrf_ids': [], 'pool_ids': [], 'tags': ['dns'], 'enabled': True},
    'owner': 'gateway',
}
LOG = """SELECT username, authenticated_as, authoritative_source, object_id, action, before, after
FROM audit_log WHERE object_type = 'webhook' ORDER BY id"""


@pytest.fixture
def trusted(api: Face) -> Face:
    return api.as_user('gateway', username='bob', authoritative_source='portal')


def log(db: Database) -> list[tuple[Any, ...]]:
    return db.read(lambda tx: tx.all(LOG))


def plant(trusted: Face, **attr: Any) -> dict[str, Any]:
    return trusted.call(
        'add_webhook', attr={'url': URL, 'secret': SECRET, 'kinds': ['prefix'], 'tags': ['dns'], **attr}
    )


def letters(db: Database, hook: int, number: int) -> None:
    """Give up `number` events of a webhook."""
    given_up = [(n + 1, json.dumps({'id': n + 1}).encode()) for n in range(number)]
    db.run(lambda tx: webhook.give_up(tx, hook, given_up, number, 'HTTP 500'))


def test_the_life_of_a_webhook(trusted: Face) -> None:
    hook = plant(trusted)
    assert {name: hook[name] for name in FACTS} == FACTS
    assert trusted.call('list_webhook') == trusted.call('list_webhook', webhook={}) == [hook]
    assert trusted.call('list_webhook', webhook={'id': hook['id']}) == [hook]
    assert trusted.call('list_webhook', webhook={'id': str(10**12)}) == []
    (edited,) = trusted.call('edit_webhook', webhook={'id': hook['id']}, attr={'enabled': False, 'kinds': []})
    assert edited == {**hook, 'enabled': False, 'kinds': []}
    assert trusted.call('remove_webhook', webhook={'id': hook['id']}) is None
    assert trusted.call('list_webhook') == []


def test_every_change_is_audited_without_the_secret(trusted: Face, db: Database) -> None:
    hook = plant(trusted)
    spec = {'id': hook['id']}
    trusted.call('edit_webhook', webhook=spec, attr={'enabled': False})
    trusted.call('edit_webhook', webhook=spec, attr={'secret': NEW_SECRET})
    trusted.call('edit_webhook', webhook=spec, attr={'secret': NEW_SECRET, 'enabled': True})
    letters(db, hook['id'], 2)
    assert trusted.call('resend_dead_letter', webhook=spec, ids=[1, 99]) == 1
    assert trusted.call('resend_dead_letter', webhook=spec, ids=[99]) == 0
    assert trusted.call('resend_dead_letter', webhook=spec) == 2
    trusted.call('remove_webhook', webhook=spec)
    entries = log(db)
    assert {entry[:4] for entry in entries} == {('bob', 'gateway', 'portal', hook['id'])}
    told = [(entry[4], *map(facts_in, entry[5:])) for entry in entries]
    off = {**FACTS, 'enabled': False}
    assert told == [
        ('add', None, FACTS),
        ('edit', FACTS, off),
        ('edit', off, {**off, 'secret_changed': True}),
        ('edit', off, FACTS),
        ('resend', FACTS, {**FACTS, 'dead_letters': [1]}),
        ('resend', FACTS, {**FACTS, 'dead_letters': [1, 2]}),
        ('remove', FACTS, None),
    ]
    assert not any(secret in json.dumps(entry[5:]) for entry in entries for secret in (SECRET, NEW_SECRET))


def facts_in(state: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if state is None else {name: value for name, value in state.items() if name not in ('id', 'added')}


def test_the_owner_is_the_account_that_added_it(trusted: Face, db: Database) -> None:
    """The owner stays the same if the account acts for somebody else, and after edits of others."""
    assert plant(trusted)['owner'] == 'gateway'
    theirs = Who('kim', 'second', None, 'portal')
    key = db.run(lambda tx: webhook.add(tx, {'url': URL, 'secret': SECRET}, theirs))
    (edited,) = trusted.call('edit_webhook', webhook={'id': key}, attr={'enabled': False})
    assert edited['owner'] == 'second'
    fault = trusted.fault('edit_webhook', webhook={'id': key}, attr={'owner': 'gateway'})
    assert (fault.code, 'owner' in fault.text) == (1120, True)
    owners = [(entry[1], entry[6]['owner']) for entry in log(db)]
    assert owners == [('gateway', 'gateway'), ('second', 'second'), ('gateway', 'second')]


def test_a_call_that_fails_leaves_no_entry(trusted: Face, db: Database) -> None:
    hook = plant(trusted)
    before = log(db)
    spec, missing = {'id': hook['id']}, {'id': hook['id'] + 1}
    for method, members, code in (
        ('add_webhook', {'attr': {'url': URL}}, 1110),
        ('add_webhook', {'attr': {'url': 'ftp://x/', 'secret': SECRET}}, 1200),
        ('add_webhook', {}, 1100),
        ('edit_webhook', {'webhook': spec, 'attr': {'kinds': ['dog']}}, 1200),
        ('edit_webhook', {'webhook': spec, 'attr': {'cursor': 1}}, 1120),
        ('add_webhook', {'attr': {'url': URL, 'secret': SECRET, 'owner': 'x'}}, 1120),
        ('edit_webhook', {'webhook': spec}, 1100),
        ('edit_webhook', {'webhook': {}, 'attr': {}}, 1110),
        ('edit_webhook', {'webhook': missing, 'attr': {}}, 1300),
        ('remove_webhook', {'webhook': missing}, 1300),
        ('remove_webhook', {'webhook': {'id': 'x'}}, 1200),
        ('remove_webhook', {'webhook': {'url': URL}}, 1120),
        ('list_dead_letter', {'webhook': missing}, 1300),
        ('list_dead_letter', {'webhook': spec, 'after': -1}, 1200),
        ('resend_dead_letter', {'webhook': missing}, 1300),
        ('resend_dead_letter', {'webhook': spec, 'ids': 1}, 1100),
        ('resend_dead_letter', {'webhook': spec, 'ids': ['x']}, 1200),
    ):
        fault = trusted.fault(method, **members)
        assert fault.code == code, (method, members, fault)
        assert SECRET not in fault.text
    assert log(db) == before


def test_dead_letters_are_listed_in_order(trusted: Face, db: Database) -> None:
    hook = plant(trusted)
    letters(db, hook['id'], 3)
    found = trusted.call('list_dead_letter', webhook={'id': hook['id']})
    assert [(letter['id'], letter['event'], letter['again']) for letter in found] == [
        (n, {'id': n}, False) for n in (1, 2, 3)
    ]
    assert trusted.call('list_dead_letter', webhook={'id': hook['id']}, after=2) == found[2:]


def test_in_a_batch_and_with_a_key(trusted: Face, db: Database) -> None:
    attr = {'url': URL, 'secret': SECRET}
    add = {'method': 'add_webhook', 'args': {'attr': attr}}
    remove = {'method': 'remove_webhook', 'args': {'webhook': {'id': {'$result': [0, 'id']}}}}
    assert trusted.call('batch', operations=[add, remove])[1] is None
    assert [entry[4] for entry in log(db)] == ['add', 'remove']
    if trusted.name == 'xmlrpc':  # the backend takes keys in a call of its own
        twice = [trusted.call('add_webhook', attr=attr, idempotency_key='k') for _ in range(2)]
        assert twice[0] == twice[1]
        assert trusted.call('list_webhook') == [twice[0]]
