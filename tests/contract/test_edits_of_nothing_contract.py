"""An edit that changes no fact writes nothing: no row, no last_modified, no audit log, no event."""

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nipap.access.authentication import Actor
from nipap.backend import Backend
from nipap.calls import Request
from nipap.postgres.database import Database
from nipap.postgres.transaction import Outcome

NET = {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'net'}
FULL: dict[str, Any] = {
    **NET,
    'comment': 'two\nlines',
    'country': 'SE',
    'node': None,
    'order_id': 'o-1',
    'customer_id': 'c-1',
    'external_key': 'e-1',
    'alarm_priority': 'low',
    'monitor': True,
    'vlan': 17,
    'tags': ['b', 'a'],
    'avps': {'key': 'value', 'empty': ''},
    'expires': datetime.datetime(2100, 1, 1, 12, 30, 15, 250000),
    'status': 'reserved',
    'authoritative_source': 'elsewhere',
    'pool_name': 'p',
}

ADDED: dict[str, dict[str, Any]] = {
    'vrf': {'rt': '1:1', 'name': 'v', 'description': 'd', 'tags': ['x'], 'avps': {'a': 'b'}},
    'pool': {'name': 'q', 'description': 'd', 'default_type': 'assignment', 'ipv4_default_prefix_length': 30},
    'asn': {'asn': 64500, 'name': 'a'},
    'prefix': FULL,
}


@pytest.fixture
def stock(backend: Backend, actor: Actor) -> None:
    backend.add_pool(actor, {'name': 'p', 'description': 'd', 'default_type': 'assignment'})
    for kind, attr in ADDED.items():
        backend.perform(actor, Request(f'add_{kind}', {'attr': attr}))


def traces(db: Database) -> Any:
    """Return all rows that an edit could have written."""
    tables = ('prefix', 'pool', 'vrf', 'asn', 'webhook', 'audit_log', 'change_set')
    rows = ', '.join(f'(SELECT jsonb_agg(to_jsonb(t) ORDER BY to_jsonb(t)) FROM {table} t)' for table in tables)
    return db.read(lambda tx: tx.one(f'SELECT {rows}'))


def edit(backend: Backend, actor: Actor, kind: str, spec: object, attr: object) -> tuple[Any, int | None]:
    """Return the answer to an edit and its change set."""
    outcome = Outcome()
    answer = backend.perform(actor, Request(f'edit_{kind}', {kind: spec, 'attr': attr}), outcome)
    return answer, outcome.change_set


SPECS: dict[str, dict[str, Any]] = {
    'vrf': {'name': 'v'},
    'pool': {'name': 'q'},
    'asn': {'asn': 64500},
    'prefix': {'prefix': '10.0.0.0/8'},
}
# Edits of clients that save an object with all its attributes, and with one attribute at a time.
SAVES = [
    pytest.param(kind, attr, id=f'{kind}-{"-".join(attr) if len(attr) == 1 else "all"}')
    for kind, whole in ADDED.items()
    for attr in (*({name: value} for name, value in whole.items() if (kind, name) != ('asn', 'asn')), whole)
    if (kind, attr) != ('asn', whole)
]


@pytest.mark.parametrize(('kind', 'attr'), SAVES)
@pytest.mark.usefixtures('stock')
def test_an_edit_with_the_stored_values_changes_nothing(
    backend: Backend, actor: Actor, db: Database, kind: str, attr: dict[str, Any]
) -> None:
    before = traces(db)
    answer, change_set = edit(backend, actor, kind, SPECS[kind], attr)
    assert traces(db) == before
    assert change_set is None
    assert len(answer) == 1, 'the answer is the object, as after any edit'
    assert all(answer[0][name] == value for name, value in attr.items() if name not in ('tags', 'expires'))


@pytest.mark.usefixtures('stock')
def test_of_many_only_those_are_touched_that_change(backend: Backend, actor: Actor, db: Database) -> None:
    added = [
        backend.add_prefix(actor, {'prefix': f'10.0.{n}.0/24', 'type': 'assignment', 'description': f'd{n % 2}'})
        for n in range(10)
    ]
    answer, change_set = edit(backend, actor, 'prefix', {'type': 'assignment'}, {'description': 'd1'})
    assert [row['prefix'] for row in answer] == [row['prefix'] for row in added]
    moved = {row['id'] for row, former in zip(answer, added, strict=True) if row['last_modified'] > former['added']}
    assert moved == {row['id'] for row in added if row['description'] == 'd0'}
    sql = 'SELECT object_id FROM audit_log WHERE change_set = %s'
    assert {row[0] for row in db.read(lambda tx: tx.all(sql, (change_set,)))} == moved


@pytest.mark.usefixtures('stock')
def test_a_move_to_where_it_is_and_a_pool_that_it_is_in(backend: Backend, actor: Actor, db: Database) -> None:
    """These edits look at the tree first."""
    before = traces(db)
    for attr in ({'prefix': '10.0.0.0/8', 'type': 'reservation'}, {'pool_name': 'p', 'vrf_id': 0}):
        assert edit(backend, actor, 'prefix', {'description': 'net'}, attr)[1] is None
    assert traces(db) == before


@pytest.mark.usefixtures('stock')
def test_a_batch_of_edits_of_nothing_is_no_change_set(backend: Backend, actor: Actor, db: Database) -> None:
    before = traces(db)
    operations = [
        {'method': f'edit_{kind}', 'args': {kind: SPECS[kind], 'attr': {'name': attr['name']}}}
        for kind, attr in ADDED.items()
        if 'name' in attr
    ]
    outcome = Outcome()
    backend.perform(actor, Request('batch', {'operations': operations}), outcome)
    assert (traces(db), outcome.change_set) == (before, None)


def test_a_webhook_that_stays_as_it_is(backend: Backend, actor: Actor, db: Database) -> None:
    actor = replace(actor, trusted=True)
    attr = {'url': 'http://127.0.0.1:9/', 'secret': 's' * 16}
    hook = backend.add_webhook(actor, attr)
    before = traces(db)
    backend.perform(actor, Request('edit_webhook', {'webhook': {'id': hook['id']}, 'attr': attr}))
    assert traces(db) == before


VALUES = st.fixed_dictionaries(
    {},
    optional={
        'description': st.sampled_from(['a', 'é', 'e\u0301']),
        'comment': st.sampled_from([None, '', ' x ']),
        'country': st.sampled_from([None, 'se', 'SE']),
        'vlan': st.sampled_from([None, 5, '5']),
        'alarm_priority': st.sampled_from([None, 'low', 'warning']),
        'monitor': st.booleans(),
        'tags': st.sampled_from([[], ['a', 'b'], ['b', 'a', 'a']]),
        'avps': st.sampled_from([{}, {'a': '1', 'b': '2'}, {'b': '2', 'a': '1'}]),
        'expires': st.sampled_from([None, '2100-01-01', '2100-01-01T00:00:00Z']),
        'type': st.sampled_from(['reservation', 'assignment']),
        'status': st.sampled_from(['assigned', 'quarantine']),
    },
).filter(bool)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(VALUES)
def test_an_edit_made_again_changes_nothing(backend: Backend, actor: Actor, db: Database, attr: dict[str, Any]) -> None:
    spec = {'prefix': '10.0.0.0/8'}
    if backend.list_prefix(actor, spec):
        backend.remove_prefix(actor, spec)
    backend.add_prefix(actor, NET)
    edit(backend, actor, 'prefix', spec, attr)
    before = traces(db)
    assert edit(backend, actor, 'prefix', spec, attr)[1] is None
    assert traces(db) == before
