"""Undo of large changes, while other clients allocate beside them and race for the same change set."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from nipap.access.authentication import Actor
from nipap.backend import Backend
from nipap.calls import Request
from nipap.errors import NipapConflictError, NipapError
from nipap.integrity import check
from nipap.postgres.database import Database
from nipap.postgres.transaction import Outcome

pytestmark = pytest.mark.slow

NET = {'type': 'reservation', 'description': 'd'}
LANS = 500
HOSTS = 19  # in each


def fill(backend: Backend, actor: Actor) -> None:
    """Add 10.0.0.0/8 with `LANS` assignments and their hosts, and beside it the only member of a pool."""
    backend.add_pool(
        actor, {'name': 'p', 'description': 'd', 'default_type': 'assignment', 'ipv4_default_prefix_length': 28}
    )
    backend.add_prefix(actor, {'prefix': '10.0.0.0/8', **NET})
    backend.add_prefix(actor, {'prefix': '172.16.0.0/12', **NET, 'pool_name': 'p'})
    attrs: list[dict[str, Any]] = []
    for lan in range(LANS):
        place = f'10.{lan >> 8}.{lan & 255}'
        attrs.append({'prefix': f'{place}.0/24', 'type': 'assignment', 'description': f'lan {lan}', 'tags': ['x']})
        attrs += [
            {'prefix': f'{place}.{host}/32', 'type': 'host', 'node': f'r{host}', 'description': 'h'}
            for host in range(1, HOSTS + 1)
        ]
    backend.add_prefixes(actor, attrs, ids=True)


def facts(db: Database) -> list[Any]:
    columns = "to_jsonb(p) - '{last_modified,version}'::text[]"
    return db.run(lambda tx: tx.all(f"SELECT {columns} FROM prefix p WHERE prefix <<= '10.0.0.0/8' ORDER BY id"))


def change(backend: Backend, actor: Actor, call: str, **members: Any) -> int:
    outcome = Outcome()
    backend.perform(actor, Request(call, members), outcome)
    assert outcome.change_set is not None
    return outcome.change_set


def test_a_large_tree_comes_back_while_others_allocate(dsn: str, db: Database, actor: Actor) -> None:
    backend = Backend(db)
    fill(backend, actor)
    before = facts(db)
    number = change(backend, actor, 'remove_prefix', prefix={'prefix': '10.0.0.0/8'}, recursive=True)
    done = threading.Event()
    allocated: list[float] = []
    failed: list[Exception] = []

    def allocate() -> None:
        other = Backend(Database(dsn))
        try:
            while not done.is_set():
                began = time.monotonic()
                other.add_prefix(actor, {'description': 'x'}, {'from-pool': {'name': 'p'}, 'family': 4})
                allocated.append(time.monotonic() - began)
        except Exception as exc:
            failed.append(exc)

    threads = [threading.Thread(target=allocate) for _ in range(2)]
    for thread in threads:
        thread.start()
    undone = backend.perform(actor, Request('undo', {'change_set': number}))
    done.set()
    for thread in threads:
        thread.join()
    assert undone['undone'] == {'prefix': LANS * (HOSTS + 1) + 1}
    assert failed == []
    assert len(allocated) > 2, 'allocations went on'
    assert facts(db) == before
    assert check.problems(db) == []


def test_of_many_undos_of_one_change_set_one_is_made(dsn: str, db: Database, actor: Actor) -> None:
    backend = Backend(db)
    backend.add_prefix(actor, {'prefix': '10.0.0.0/8', **NET})
    for n in range(20):
        backend.add_prefix(actor, {'prefix': f'10.{n}.0.0/16', **NET})
    number = change(backend, actor, 'remove_prefix', prefix={'prefix': '10.0.0.0/8'}, recursive=True)
    answers: list[Any] = []
    start = threading.Barrier(4)

    def undo() -> None:
        other = Backend(Database(dsn))
        start.wait()
        try:
            answers.append(other.perform(actor, Request('undo', {'change_set': number}))['undone'])
        except NipapError as exc:
            answers.append(exc)

    threads = [threading.Thread(target=undo) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {'prefix': 21} in answers
    others = [answer for answer in answers if answer != {'prefix': 21}]
    assert len(others) == 3
    # Who came while the undo was under way found nothing to do.
    assert all(answer == {} or isinstance(answer, NipapConflictError) for answer in others), others
    assert len(backend.list_prefix(actor)) == 21
    assert check.problems(db) == []


def test_an_import_is_undone(db: Database, actor: Actor) -> None:
    backend = Backend(db)
    fill(backend, actor)
    number = db.run(lambda tx: tx.value('SELECT max(id) FROM change_set'))
    undone = backend.perform(actor, Request('undo', {'change_set': number}))
    assert undone['undone'] == {'prefix': LANS * (HOSTS + 1)}
    assert [item['prefix'] for item in backend.list_prefix(actor)] == ['10.0.0.0/8', '172.16.0.0/12']
    assert check.problems(db) == []
    backend.perform(actor, Request('undo', {'change_set': undone['change_set']}))
    assert check.problems(db) == []


def test_a_bulk_edit_is_undone_with_a_conflict(db: Database, actor: Actor) -> None:
    backend = Backend(db)
    fill(backend, actor)
    before = facts(db)
    number = change(backend, actor, 'edit_prefix', prefix={'type': 'host'}, attr={'node': 'other', 'comment': 'c'})
    later = change(backend, actor, 'edit_prefix', prefix={'prefix': '10.0.0.1/32'}, attr={'comment': None})
    answer = backend.perform(actor, Request('undo', {'change_set': number, 'partial': True}))
    assert (answer['undone'], answer['number_of_conflicts']) == ({'prefix': LANS * HOSTS - 1}, 1)
    backend.perform(actor, Request('undo', {'change_set': later}))
    backend.perform(actor, Request('undo', {'change_set': number, 'partial': True}))
    assert facts(db) == before
    assert check.problems(db) == []


def test_two_undos_restore_one_object_once(dsn: str, db: Database, actor: Actor) -> None:
    """The object was removed twice, so two change sets can restore it. It cannot be locked, as it does not exist."""
    backend = Backend(db)
    for _ in range(10):
        key = backend.add_vrf(actor, {'rt': '1:1', 'name': 'v'})['id']
        first = change(backend, actor, 'remove_vrf', vrf={'id': key})
        backend.undo(actor, first)
        second = change(backend, actor, 'remove_vrf', vrf={'id': key})
        answers: list[Any] = []
        both = threading.Barrier(2)

        def undo(number: int, both: threading.Barrier = both, answers: list[Any] = answers) -> None:
            other = Backend(Database(dsn))
            both.wait()
            try:
                answers.append(other.undo(actor, number, partial=True)['number_of_conflicts'])
            except Exception as exc:
                answers.append(exc)
            other.db.close()

        threads = [threading.Thread(target=undo, args=(number,)) for number in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answers) in ([0, 0], [0, 1])  # the second finds it restored, or edited since
        assert len(backend.list_vrf(actor, {'id': key})) == 1
        backend.remove_vrf(actor, {'id': key})
    assert check.problems(db) == []


def test_a_child_that_was_removed_and_came_back_was_not_added_since(db: Database, actor: Actor) -> None:
    backend = Backend(db)
    backend.add_prefix(actor, {'prefix': '10.0.1.0/24', **NET})
    around = change(backend, actor, 'add_prefix', attr={'prefix': '10.0.0.0/23', **NET})
    removed = change(backend, actor, 'remove_prefix', prefix={'prefix': '10.0.1.0/24'})
    backend.undo(actor, removed)
    assert backend.undo(actor, around)['conflicts'] == []
    assert [item['prefix'] for item in backend.list_prefix(actor)] == ['10.0.1.0/24']
    assert check.problems(db) == []
