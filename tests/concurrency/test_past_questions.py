"""Clients ask about the past while others write and the past is being built.

A state of the past is the same for ever, and keeps the rules of the tree, however the change sets met.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from typing import Any

import pytest
from properties.oracle import sound
from properties.playground import differences

from nipap.calls import Request
from nipap.calls import find as find_call
from nipap.errors import NipapUnavailableError
from nipap.history.change_order import ChangeSequencer
from nipap.history.past import Builder

from .aftermath import Scene
from .clients import DUPLICATE, INPUT, NON_EXISTENT, PATIENCE_S, VALUE, Client, Job
from .test_tree import chaos_add, chaos_allocate, chaos_edit, chaos_move, chaos_place, chaos_remove

pytestmark = pytest.mark.slow

CONFLICT = 1620
REFUSALS = [INPUT, VALUE, NON_EXISTENT, DUPLICATE, CONFLICT]
WRITERS, WRITES = 3, 40
ASKERS, QUESTIONS = 2, 20
BEGINNINGS = 20
UNORDERED = ('inherited_tags', 'prefixes')
FIRST_ASN = 64512  # of the numbers that say how many clients have finished
BUILT = """SELECT o.change_set FROM change_order o, past_state p
    WHERE o.position BETWEEN p.lowest AND p.position ORDER BY o.position"""
LATEST = 'SELECT change_set FROM change_order ORDER BY position DESC LIMIT 1'
LATEST_CHANGES = """SELECT DISTINCT change_set FROM audit_log WHERE object_type <> 'asn'
    ORDER BY change_set DESC LIMIT 5"""
PROGRESS = """SELECT p.lowest, p.position, p.ends_at, c.position, (SELECT count(*) FROM change_set)
    FROM past_state p, change_state c"""
EMPTY = """DELETE FROM past_prefix; DELETE FROM past_vrf; DELETE FROM past_pool; DELETE FROM past_asn;
    UPDATE past_state SET lowest = NULL, position = NULL, ends_at = NULL"""

Digests = dict[int, str]  # of the answers, by change set


@dataclasses.dataclass
class PastScene(Scene):
    """The state after a change set, as the calls show it."""

    change_set: int = 0

    def call(self, method: str, *members: Any) -> Any:
        """Ask about the state after the change set."""
        names = [member.name for member in find_call(method).members]
        asked = dict(zip(names, members, strict=False)) | {'as_of': self.change_set}
        return self.backend.perform(self.actor, Request(method, asked))

    def digest(self) -> str:
        """Return a digest of all prefixes, VRFs and pools with all their members."""
        answers = (
            self.call('search_prefix', {}, {'max_result': False}),
            self.call('list_vrf', {}),
            self.call('list_pool', {}),
        )
        return hashlib.sha256(repr(answers).encode()).hexdigest()

    def check(self) -> None:
        """Assert that the state keeps the rules, and that the oracle derives the same values."""
        rows = self.call('search_prefix', {}, {'max_result': False})['result']
        for places in ([row['id'] for row in rows], [(row['vrf_id'], row['prefix']) for row in rows]):
            assert len(set(places)) == len(places), f'twice in one state: {places}'
        model = self._model()
        assert len(model.prefixes) == len(rows)
        assert sound(list(model.prefixes.values())), f'the rules forbid the tree of change set {self.change_set}'
        self._compare(model)


def state_after(client: Client, change_set: int) -> PastScene:
    return PastScene('', client.backend.db, client.backend, client.actor, change_set)


# ------------------------------------------------------------------------------------------------------------- scripts


def write(client: Client, pool: int, times: int) -> None:
    """Make random changes in a small part of the address space."""
    actions = [chaos_add, chaos_add, chaos_allocate, chaos_move, chaos_remove, chaos_edit]
    for _ in range(times):
        client.random.choice([*actions, add_elsewhere, change_pool, change_vrf, change_many, undo_one])(
            client, pool, REFUSALS
        )
    finish(client)


def add_elsewhere(client: Client, _pool: int, refusals: list[int]) -> None:
    """Add a prefix to another VRF, which may not exist."""
    client.try_add(chaos_place(client), 'reservation', refusals=refusals, vrf_name='other')


def change_pool(client: Client, pool: int, refusals: list[int]) -> None:
    length = client.random.choice([27, 28, 29, 30])
    attr = {'ipv4_default_prefix_length': length, 'description': f'client {client.number}'}
    client.call('edit_pool', {'id': pool}, attr, refusals=refusals)


def change_vrf(client: Client, _pool: int, refusals: list[int]) -> None:
    """Remove, add or edit the other VRF."""
    action = client.random.choice(['remove', 'add', 'edit', 'edit'])
    if action == 'remove':
        client.call('remove_vrf', {'name': 'other'}, refusals=refusals)
    elif action == 'add':
        client.call('add_vrf', {'rt': '65000:1', 'name': 'other'}, refusals=refusals)
    else:
        attr = {'description': f'client {client.number}', 'rt': client.random.choice(['65000:1', '65000:2'])}
        client.call('edit_vrf', {'name': 'other'}, attr, refusals=refusals)


def change_many(client: Client, _pool: int, refusals: list[int]) -> None:
    """Edit all prefixes of a type, or add and move prefixes in one change set."""
    if client.random.random() < 0.5:
        client.call('edit_prefix', {'type': 'assignment'}, {'tags': [f'all {client.number}']}, refusals=refusals)
        return
    attr = {'prefix': chaos_place(client), 'type': 'reservation', 'description': 'd'}
    operations = [
        {'method': 'add_prefix', 'args': {'attr': attr}},
        {'method': 'edit_prefix', 'args': {'prefix': {'prefix': attr['prefix']}, 'attr': {'description': 'e'}}},
        {'method': 'remove_prefix', 'args': {'prefix': {'prefix': chaos_place(client)}}},
    ]
    client.call('batch', operations, refusals=refusals)


def undo_one(client: Client, _pool: int, refusals: list[int]) -> None:
    """Undo one of the latest change sets, whoever made it. One client undoes."""
    if client.number == 0:
        latest = client.backend.db.read(lambda tx: [number for (number,) in tx.all(LATEST_CHANGES)])
        client.call('undo', client.random.choice(latest), None, True, refusals=refusals)


def finish(client: Client) -> None:
    """Let the builders see that this client has finished."""
    client.call('add_asn', {'asn': FIRST_ASN + client.number, 'name': 'finished'})


def begin(client: Client, times: int) -> None:
    """Empty the tables of the past and build them at the same moment as another builder, again and again."""
    db = client.backend.db
    for _ in range(times):
        client.meet()
        if client.number == 0:
            db.run(lambda tx: tx.execute(EMPTY))
        client.meet()
        while Builder().step(db):
            pass


def build(client: Client, others: int, sequences: bool) -> int:
    """Build the past until all other clients have finished and everything is built; return the number of steps.

    sequences: give positions and build as the daemon does; else build in small steps.
    """
    sequencer, builder, db = ChangeSequencer(), Builder(), client.backend.db
    deadline, steps = time.monotonic() + PATIENCE_S, 0
    while len(client.backend.list_asn(client.actor)) < others or not is_complete(progress(client)):
        assert time.monotonic() < deadline, f'the past is not complete: {progress(client)}'
        steps += 1
        if sequences:
            sequencer.step(db)
            builder.step(db)
        elif db.read(lambda tx: tx.value('SELECT position FROM past_state')) is not None:
            statement = client.random.choice(['SELECT follow_past(1)', 'SELECT follow_past(3)', 'SELECT go_back(2)'])
            db.run(lambda tx, statement=statement: tx.value(statement))
    return steps


def progress(client: Client) -> tuple[int | None, ...]:
    return client.backend.db.read(lambda tx: tuple(tx.one(PROGRESS)))


def is_complete(progress: tuple[int | None, ...]) -> bool:
    """Return whether all change sets have positions, and all positions are built."""
    _, highest, end, last, number = progress
    return end is not None and highest == last == number


def ask(client: Client, times: int) -> Digests:
    """Ask about states that are built and about the latest, some of them again and again."""
    digests: Digests = {}
    for _ in range(times):
        change_set = draw(client, digests)
        state = state_after(client, change_set)
        try:
            digest = state.digest()
        except NipapUnavailableError:  # not built yet
            continue
        client.calls.append(f'digest as of {change_set}: {digest}')
        assert digests.setdefault(change_set, digest) == digest, f'change set {change_set} has another state now'
        state.check()
    for change_set, digest in digests.items():
        assert state_after(client, change_set).digest() == digest, f'change set {change_set} has another state now'
    finish(client)
    return digests


def draw(client: Client, known: Digests) -> int:
    """Draw a change set that is known, built or the latest. Wait until there is one."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        chance = client.random.random()
        if chance < 0.3 and known:
            return client.random.choice(sorted(known))
        if chance < 0.6:
            latest = client.backend.db.read(lambda tx: tx.value(LATEST))
            if latest is not None and known:
                return int(latest)
        built = client.backend.db.read(lambda tx: [number for (number,) in tx.all(BUILT)])
        if built:
            return int(client.random.choice(built))
    raise AssertionError('no state is built')


# --------------------------------------------------------------------------------------------------------------- tests


def test_each_state_is_the_same_for_ever(scene: Scene) -> None:
    pool = scene.add_pool('p', 28)
    scene.add('10.0.0.0/22', pool_id=pool)
    scene.call('add_vrf', {'rt': '65000:1', 'name': 'other'})
    # The states before the first step of a builder are built backwards.
    for n in range(0, 256, 16):
        scene.add(f'10.0.0.{n}/28', 'assignment')
        scene.add(f'10.0.0.{n + 1}/32', 'host')
    for n in range(0, 256, 32):
        scene.call('remove_prefix', {'prefix': f'10.0.0.{n}/28'}, True)
    jobs = [Job(write, (pool, WRITES))] * WRITERS + [Job(ask, (QUESTIONS,))] * ASKERS
    outcome = scene.run(*jobs, Job(build, (len(jobs), True)), Job(build, (len(jobs), False)))
    seen: list[Digests] = [digests for digests in outcome if isinstance(digests, dict)]
    assert all(len(digests) > QUESTIONS // 4 for digests in seen)

    later: Digests = {}
    for (change_set,) in scene.db.read(lambda tx: tx.all('SELECT change_set FROM change_order ORDER BY position')):
        state = PastScene(scene.dsn, scene.db, scene.backend, scene.actor, change_set)
        state.check()
        later[change_set] = state.digest()
    for digests in seen:
        assert digests == {change_set: later[change_set] for change_set in digests}
    for question in (('search_prefix', {}, {'max_result': False}), ('list_vrf', {}), ('list_pool', {})):
        then, now = (comparable(one.call(*question)) for one in (state, scene))
        wrong = [text for one, other in zip(now, then, strict=True) for text in differences(one, other)]
        assert not wrong, f'{question}: {wrong}'


def comparable(answer: Any) -> list[dict[str, Any]]:
    """Return the objects of an answer; members without an order are sorted."""
    found = answer['result'] if isinstance(answer, dict) else answer
    return [{name: sorted(value) if name in UNORDERED else value for name, value in row.items()} for row in found]


def test_builders_begin_at_once(scene: Scene) -> None:
    scene.add('10.0.0.0/8')
    ChangeSequencer().step(scene.db)
    scene.run(*[Job(begin, (BEGINNINGS,))] * 2)
    assert scene.db.read(lambda tx: tx.all('SELECT prefix::text, since FROM past_prefix')) == [('10.0.0.0/8', 0)]
