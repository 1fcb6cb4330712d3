"""Many processes send one call with one key: one process executes it, the others wait and get the same answer."""

from __future__ import annotations

from typing import Any

import pytest

from nipap.calls import Request

from .aftermath import Scene
from .clients import Client, Job

pytestmark = pytest.mark.slow

CLIENTS = 8
KEYS = 5
ARGS = {'from-pool': {'name': 'p'}, 'family': 4}


def add_keyed(client: Client, keys: list[str]) -> list[Any]:
    """Allocate once for each key, in a random order, and return the answers in the order of the keys."""
    from dataclasses import replace

    same_user = replace(client.actor, username='test', authenticated_as='test')
    answers = {}
    for key in client.random.sample(keys, len(keys)):
        members = {'attr': {'description': key}, 'args': ARGS}
        answers[key] = client.backend.perform(same_user, Request('add_prefix', members, key))
    return [answers[key] for key in keys]


def add_or_fail(client: Client, key: str) -> Any:
    """Add the same prefix as all clients, under a key. One client adds it, the others are refused."""
    members = {'attr': {'prefix': '10.0.0.0/30', 'type': 'assignment', 'description': key}, 'args': None}
    return client.call('perform', Request('add_prefix', members, key), refusals=(1400,))


def prepare(scene: Scene) -> None:
    scene.add_pool('p', 30)
    scene.add('10.0.0.0/16', pool_name='p')


def test_one_key_at_once(scene: Scene) -> None:
    prepare(scene)
    keys = [f'key {number}' for number in range(KEYS)]
    answers = scene.run(*[Job(add_keyed, (keys,))] * CLIENTS)
    assert all(answer == answers[0] for answer in answers)
    assert sorted(row['id'] for row in answers[0]) == sorted(scene.stored())[1:]
    assert len(scene.stored()) == 1 + KEYS


def test_a_client_that_waited_for_a_failed_call_makes_it(scene: Scene) -> None:
    prepare(scene)
    answers = scene.run(*[Job(add_or_fail, ('k',))] * CLIENTS)  # each client is a user of its own
    assert answers.count(1400) == CLIENTS - 1
    assert len(scene.stored()) == 2


def test_expired_keys_hold_up_nobody(scene: Scene) -> None:
    """All clients store under expired keys while others remove such keys."""
    prepare(scene)
    keys = [f'key {number}' for number in range(4 * KEYS)]
    for _ in range(2):
        scene.run(*[Job(add_keyed, (keys,))] * CLIENTS)
        scene.db.run(lambda tx: tx.execute("UPDATE idempotency SET created = created - interval '2 days'"))
    assert len(scene.stored()) == 1 + 2 * len(keys)
