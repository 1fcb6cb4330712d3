"""Test If-Match under contention: one of many concurrent changes of the same version is made, and none is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from nipap.access.authentication import Actor
from nipap.backend import Backend
from nipap.calls import Expectation, Request
from nipap.errors import NipapChangedError, NipapNonExistentError
from nipap.integrity import check
from nipap.postgres.database import Database

pytestmark = pytest.mark.slow

CLIENTS = 6
ROUNDS = 5


def at_once(dsn: str, number: int, work: Callable[[Backend, int], Any]) -> list[Any]:
    """Return the answers or errors of `number` concurrent clients, each on a connection of its own."""
    barrier = threading.Barrier(number)
    got: list[Any] = [None] * number

    def run(n: int) -> None:
        db = Database(dsn)
        try:
            backend = Backend(db, alike=True)
            db.read(lambda tx: tx.value('SELECT 1'))
            barrier.wait(timeout=60)
            got[n] = work(backend, n)
        except (NipapChangedError, NipapNonExistentError) as exc:
            got[n] = exc
        finally:
            db.close()

    threads = [threading.Thread(target=run, args=(n,)) for n in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    return got


def objects(backend: Backend, actor: Actor) -> dict[str, dict[str, Any]]:
    """Add one object of each kind and return them by kind."""
    pool = backend.add_pool(actor, {'name': 'p', 'description': 'd', 'default_type': 'assignment'})
    prefix = {'prefix': '10.0.0.0/16', 'type': 'reservation', 'description': 'x', 'pool_id': pool['id']}
    return {
        'vrf': backend.add_vrf(actor, {'rt': '1:1', 'name': 'v'}),
        'asn': backend.add_asn(actor, {'asn': 1, 'name': 'a'}),
        'prefix': backend.add_prefix(actor, prefix),
        'pool': backend.list_pool(actor, {'id': pool['id']})[0],
    }


@pytest.mark.parametrize('kind', ['vrf', 'pool', 'asn', 'prefix'])
def test_one_of_many_concurrent_edits_of_a_version_is_made(dsn: str, db: Database, actor: Actor, kind: str) -> None:
    backend = Backend(db, alike=True)
    number = objects(backend, actor)[kind]['asn' if kind == 'asn' else 'id']
    key = 'asn' if kind == 'asn' else 'id'
    name = 'description' if kind == 'prefix' else 'name'
    for round_ in range(ROUNDS):
        seen = getattr(backend, f'list_{kind}')(actor, {key: number})[0][name]

        def change(client: Backend, n: int, seen: str = seen, round_: int = round_) -> Any:
            expected = Expectation(kind, number, lambda item: item[name] == seen)
            members = {kind: {key: number}, 'attr': {name: f'client {n} in round {round_}'}}
            return client.perform(actor, Request(f'edit_{kind}', members, expectation=expected))

        got = at_once(dsn, CLIENTS, change)
        done = [answer for answer in got if isinstance(answer, list)]
        assert len(done) == 1
        assert sum(isinstance(answer, NipapChangedError) for answer in got) == CLIENTS - 1
        assert getattr(backend, f'list_{kind}')(actor, {key: number})[0][name] == done[0][0][name]


def test_expectations_beside_allocations(dsn: str, db: Database, actor: Actor) -> None:
    """Remove and edit with expectations about a prefix and its pool, while others allocate in it: no deadlock."""
    backend = Backend(db, alike=True)
    found = objects(backend, actor)
    pool, prefix = found['pool']['id'], found['prefix']['id']

    def work(client: Backend, n: int) -> int:
        for i in range(20):
            if n % 3 == 0:
                attr = {'description': f'{n} {i}'}
                added = client.add_prefix(actor, attr, {'from-pool': {'id': pool}, 'family': 4, 'prefix_length': 28})
                spec = {'prefix': {'id': added['id']}, 'recursive': None}
                client.perform(
                    actor,
                    Request('remove_prefix', spec, expectation=Expectation('prefix', added['id'], lambda _: True)),
                )
            elif n % 3 == 1:
                members = {'prefix': {'id': prefix}, 'attr': {'description': f'{n} {i}'}}
                client.perform(
                    actor, Request('edit_prefix', members, expectation=Expectation('prefix', prefix, lambda _: True))
                )
            else:
                members = {'pool': {'id': pool}, 'attr': {'ipv4_default_prefix_length': 24 + i % 4}}
                client.perform(
                    actor, Request('edit_pool', members, expectation=Expectation('pool', pool, lambda _: True))
                )
        return n

    assert at_once(dsn, CLIENTS, work) == list(range(CLIENTS))
    assert check.problems(db) == []
