"""Edits of a prefix that another session has moved meanwhile, and the answers of the functions that edit."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import psycopg2
import pytest
from daemon_process import poll

from nipap.access.authentication import Actor
from nipap.backend import Backend
from nipap.calls import Request
from nipap.integrity import check
from nipap.postgres.database import Database
from nipap.postgres.transaction import Transaction

WHO = ('test', 'test', None, 'test', None, None, None, None, None)
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


def test_an_edit_that_names_the_former_place(backend: Backend, actor: Actor, db: Database, dsn: str) -> None:
    for block in ('10.0.0.0/16', '10.9.0.0/16'):
        backend.add_prefix(actor, {'prefix': block, 'type': 'reservation', 'description': block})
    row = backend.add_prefix(actor, {'prefix': '10.0.1.0/24', 'type': 'assignment', 'description': 'old'})
    spec: dict[str, Any] = {'id': row['id']}
    mover = Database(dsn)
    with ThreadPoolExecutor() as threads:

        def move(tx: Transaction) -> Any:
            tx.execute(
                'SELECT prefix_edit(%s, %s::cidr, %s, %s::actor)',
                (row['id'], '10.0.1.0/24', '{"prefix": "10.9.1.0/24"}', WHO),
            )
            attr = {'prefix': '10.0.1.0/24', 'description': 'new'}
            running = threads.submit(backend.edit_prefix, actor, spec, attr)
            poll(lambda: db.read(lambda other: other.value(WAITING)) == 1, 20, lambda: 'nobody waits')
            return running

        (edited,) = mover.run(move).result()
    mover.close()
    assert (edited['prefix'], edited['description']) == ('10.0.1.0/24', 'new')
    assert list(check.problems(db)) == []


@pytest.mark.parametrize('kind', ['vrf', 'pool', 'asn', 'prefix'])
def test_functions_that_edit_tell_whether_there_is_such_an_object(
    backend: Backend, actor: Actor, db: Database, kind: str
) -> None:
    attr = {
        'vrf': {'name': 'customers', 'rt': '65000:1', 'description': 'old'},
        'pool': {'name': 'links', 'description': 'old', 'default_type': 'assignment'},
        'asn': {'asn': 65000, 'name': 'old'},
        'prefix': {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'old'},
    }[kind]
    key = backend.perform(actor, Request(f'add_{kind}', {'attr': attr}))['asn' if kind == 'asn' else 'id']
    place = 'NULL, ' if kind == 'prefix' else ''

    def edit(i: int, name: str) -> bool:
        changes = json.dumps({'name' if kind == 'asn' else 'description': name})
        statement = f'SELECT {kind}_edit(%s, {place}%s, %s::actor)'
        told: bool = db.run(lambda tx: tx.value(statement, (i, changes, WHO)))
        return told

    assert [edit(key, 'new'), edit(key, 'new'), edit(key + 1, 'new')] == [True, True, False]


@pytest.mark.parametrize('many', [False, True])
def test_additions_where_free_ranges_are_damaged_are_internal_errors(
    backend: Backend, actor: Actor, db: Database, many: bool
) -> None:
    for prefix, type_ in (('10.0.0.0/24', 'reservation'), ('10.0.0.0/26', 'assignment')):
        backend.add_prefix(actor, {'prefix': prefix, 'type': type_, 'description': prefix})
    damage = "UPDATE free_range SET first_address = '10.0.0.200' WHERE last_address = '10.0.0.255'"
    db.run(lambda tx: tx.execute(damage))
    attrs = [{'prefix': f'10.0.0.{i}/28', 'type': 'assignment', 'description': 'd'} for i in (64, 80)]
    add = partial(backend.add_prefixes, actor, attrs) if many else partial(backend.add_prefix, actor, attrs[0])
    with pytest.raises(psycopg2.DatabaseError, match=r'free ranges .*do not hold'):
        add()
    assert len(backend.list_prefix(actor)) == 2
