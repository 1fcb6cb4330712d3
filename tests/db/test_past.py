"""The state of the past: how its tables are built and kept, and the plans of questions about it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from nipap.access.authentication import Actor
from nipap.backend import Backend
from nipap.calls import Request
from nipap.errors import NipapError
from nipap.history.change_order import ChangeSequencer
from nipap.history.past import Builder
from nipap.integrity import check
from nipap.integrity.repair import repair
from nipap.postgres.database import Database

FOREVER = 2**63 - 1
STATES = 'SELECT since, until, prefix::text, description, version FROM past_prefix ORDER BY past_prefix.prefix, until'


def build(db: Database) -> None:
    """Give positions to all change sets and build the past, forwards and back."""
    sequencer, builder = ChangeSequencer(), Builder()
    sequencer.step(db)
    while builder.step(db):
        pass


def ask(backend: Backend, actor: Actor, call: str, as_of: Any, **members: Any) -> Any:
    return backend.perform(actor, Request(call, {**members, 'as_of': as_of}))


def add(backend: Backend, actor: Actor, prefix: str, type_: str = 'reservation', **attr: Any) -> Any:
    return backend.add_prefix(actor, {'prefix': prefix, 'type': type_, 'description': 'd', **attr})


@pytest.fixture
def changed(backend: Backend, db: Database, actor: Actor) -> Backend:
    """Return a backend after an addition, another one inside, an edit and a removal."""
    add(backend, actor, '10.0.0.0/8')
    add(backend, actor, '10.0.0.0/24', 'assignment')
    backend.edit_prefix(actor, {'prefix': '10.0.0.0/8'}, {'description': 'e'})
    backend.remove_prefix(actor, {'prefix': '10.0.0.0/24'})
    return backend


BOTH_WAYS = [(1, 3, '10.0.0.0/8', 'd', 1), (3, FOREVER, '10.0.0.0/8', 'e', 2), (2, 4, '10.0.0.0/24', 'd', 1)]


def test_states_are_built_forwards(backend: Backend, db: Database, actor: Actor) -> None:
    build(db)
    add(backend, actor, '10.0.0.0/8')
    add(backend, actor, '10.0.0.0/24', 'assignment')
    backend.edit_prefix(actor, {'prefix': '10.0.0.0/8'}, {'description': 'e'})
    backend.remove_prefix(actor, {'prefix': '10.0.0.0/24'})
    build(db)
    assert db.read(lambda tx: tx.all(STATES)) == BOTH_WAYS


def test_states_are_built_back_to_the_first_position(changed: Backend, db: Database) -> None:
    """The first state began at the first position or before: nothing older can be asked for."""
    build(db)
    assert db.read(lambda tx: tx.all(STATES)) == [(0, *BOTH_WAYS[0][1:]), *BOTH_WAYS[1:]]
    assert db.read(lambda tx: tx.one('SELECT * FROM past_state')) == (1, 4, 1)


def test_a_change_without_a_position_is_not_in_the_first_state(backend: Backend, db: Database, actor: Actor) -> None:
    """The tables begin with the present, which may have changes that get their positions later."""
    add(backend, actor, '10.0.0.0/8')
    ChangeSequencer().step(db)
    backend.edit_prefix(actor, {'prefix': '10.0.0.0/8'}, {'description': 'e'})
    add(backend, actor, '10.0.0.0/24', 'assignment')
    Builder().step(db)
    assert db.read(lambda tx: tx.all(STATES)) == [(0, FOREVER, '10.0.0.0/8', 'd', 1)]
    build(db)
    assert db.read(lambda tx: tx.all(STATES)) == [
        (0, 2, '10.0.0.0/8', 'd', 1),
        (2, FOREVER, '10.0.0.0/8', 'e', 2),
        (3, FOREVER, '10.0.0.0/24', 'd', 1),
    ]


def test_versions_of_objects_that_were_changed_before_their_positions(
    backend: Backend, db: Database, actor: Actor
) -> None:
    for number in range(5):
        backend.edit_vrf(actor, {'id': 0}, {'name': f'v{number}'})
        if number == 3:
            ChangeSequencer().step(db)
    Builder().step(db)
    build(db)
    assert [ask(backend, actor, 'list_vrf', number)[0]['version'] for number in range(1, 6)] == [2, 3, 4, 5, 6]


def test_a_restored_number_goes_on_from_its_highest_version(backend: Backend, db: Database, actor: Actor) -> None:
    build(db)
    for change in (
        lambda: backend.add_asn(actor, {'asn': 1, 'name': 'x'}),
        lambda: backend.edit_asn(actor, {'asn': 1}, {'name': 'y'}),
        lambda: backend.remove_asn(actor, {'asn': 1}),
        lambda: backend.add_asn(actor, {'asn': 1, 'name': 'z'}),
        lambda: backend.remove_asn(actor, {'asn': 1}),
        lambda: backend.undo(actor, 5),
    ):
        change()
        build(db)
    (present,) = backend.list_asn(actor)
    assert ask(backend, actor, 'list_asn', 6) == [present]
    assert (present['version'], check.problems(db)) == (3, [])


def test_counters_and_free_blocks_are_those_of_then(changed: Backend, db: Database, actor: Actor) -> None:
    build(db)
    free = {'from-prefix': ['10.0.0.0/8'], 'prefix_length': 24}
    told = []
    for number in range(1, 5):
        (block, *_), (vrf,) = (
            ask(changed, actor, 'search_prefix', number, query={})['result'],
            ask(changed, actor, 'list_vrf', number),
        )
        found = ask(changed, actor, 'find_free_prefix', number, vrf={'id': 0}, args=free)
        told.append(
            (block['children'], block['used_addresses'], vrf['num_prefixes_v4'], vrf['used_addresses_v4'], found)
        )
    assert told == [
        (0, 0, 1, 0, ['10.0.0.0/24']),
        (1, 256, 2, 256, ['10.0.1.0/24']),
        (1, 256, 2, 256, ['10.0.1.0/24']),
        (0, 0, 1, 0, ['10.0.0.0/24']),
    ]


def test_a_moment_shows_the_state_after_the_last_change_set_before_it(
    changed: Backend, db: Database, actor: Actor
) -> None:
    build(db)
    moments = [moment for (moment,) in db.read(lambda tx: tx.all('SELECT moment FROM change_order ORDER BY position'))]
    for position, moment in enumerate(moments, 1):
        shown = ask(changed, actor, 'search_prefix', moment, query={})['as_of']
        assert shown == {'position': position, 'change_set': position, 'moment': moment}
        text = (moment + timedelta(microseconds=0)).isoformat()
        assert ask(changed, actor, 'search_prefix', text, query={})['as_of'] == shown
    between = moments[2] - timedelta(microseconds=1)
    assert ask(changed, actor, 'search_prefix', between, query={})['as_of']['position'] == 2
    now = datetime.now(UTC)
    assert ask(changed, actor, 'search_prefix', now, query={})['as_of']['position'] == 4


@pytest.mark.parametrize(
    ('as_of', 'code', 'text'),
    [
        ('2001-01-01', 1310, 'The history begins after 2001-01-01T00:00:00+00:00'),
        ('2999-01-01', 1200, 'Invalid value 2999-01-01T00:00:00+00:00 for as_of, it lies in the future'),
        (99, 1200, 'There is no change set 99'),
        (0, 1200, 'Invalid value 0 for as_of, must be 1 to 9223372036854775807'),
        (True, 1200, None),
        ('x', 1200, "Invalid value 'x' for as_of, must be a moment or the number of a change set"),
        ([], 1200, 'Invalid value an array for as_of, must be a moment or the number of a change set'),
        ('', 1200, "Invalid value '' for as_of, must be a moment or the number of a change set"),
    ],
)
def test_bad_moments(changed: Backend, db: Database, actor: Actor, as_of: Any, code: int, text: str | None) -> None:
    build(db)
    with pytest.raises(NipapError) as told:
        ask(changed, actor, 'list_prefix', as_of)
    assert told.value.code == code
    assert text is None or str(told.value) == text


def test_what_is_not_built_is_not_answered(backend: Backend, db: Database, actor: Actor) -> None:
    add(backend, actor, '10.0.0.0/8')
    with pytest.raises(NipapError, match='the history up to change set 1 is not built yet, try again soon') as told:
        ask(backend, actor, 'list_prefix', 1)
    assert told.value.code == 1010


def test_what_is_not_built_back_is_not_answered(changed: Backend, db: Database, actor: Actor) -> None:
    ChangeSequencer().step(db)
    Builder().step(db)
    assert ask(changed, actor, 'list_prefix', 4)[0]['description'] == 'e'
    with pytest.raises(NipapError, match=r'the history before .* is still being built, try again later') as told:
        ask(changed, actor, 'list_prefix', 3)
    assert told.value.code == 1010
    assert db.run(lambda tx: tx.value('SELECT go_back(1)')) == 3
    assert len(ask(changed, actor, 'list_prefix', 3)) == 2


def test_a_batch_reads_the_past_and_goes_on_in_the_present(changed: Backend, db: Database, actor: Actor) -> None:
    build(db)
    then, added, now = changed.batch(
        actor,
        [
            {'method': 'list_prefix', 'args': {'as_of': 2}},
            {'method': 'add_asn', 'args': {'attr': {'asn': 1, 'name': 'x'}}},
            {'method': 'list_prefix', 'args': {}},
        ],
    )
    assert ([item['prefix'] for item in then], added['asn'], [item['prefix'] for item in now]) == (
        ['10.0.0.0/8', '10.0.0.0/24'],
        1,
        ['10.0.0.0/8'],
    )


def test_a_long_answer_of_the_past_does_not_keep_a_batch_there(changed: Backend, db: Database, actor: Actor) -> None:
    build(db)
    short = Backend(db, longest_list=1)
    asked = {'query': {}, 'search_options': {'max_result': False}, 'as_of': 2}
    short.batch(
        actor,
        [
            {'method': 'search_prefix', 'args': asked},
            {'method': 'list_prefix', 'args': {'as_of': 2}},
            {'method': 'add_pool', 'args': {'attr': {'name': 'p', 'description': 'd', 'default_type': 'host'}}},
            {'method': 'remove_prefix', 'args': {'prefix': {'prefix': '10.0.0.0/8'}}},
        ],
    )
    assert changed.list_prefix(actor) == []
    assert check.problems(db) == []


def test_a_long_answer_is_of_the_past_to_its_end(changed: Backend, db: Database, actor: Actor) -> None:
    build(db)
    short = Backend(db, longest_list=1)
    answer = short.perform(actor, Request('list_prefix', {'as_of': 2}))
    assert not isinstance(answer, list)
    assert [item['prefix'] for some in answer for item in some] == ['10.0.0.0/8', '10.0.0.0/24']


# ---------------------------------------------------------------- check and repair


@pytest.fixture
def varied(backend: Backend, db: Database, actor: Actor) -> Backend:
    """Return a backend after changes of objects of each kind, some of them built forwards and some back."""
    backend.add_vrf(actor, {'rt': '1:1', 'name': 'v'})
    backend.add_pool(actor, {'name': 'p', 'description': 'd', 'default_type': 'assignment'})
    backend.add_asn(actor, {'asn': 1, 'name': 'x'})
    add(backend, actor, '10.0.0.0/8', pool_name='p')
    for n in range(2):
        backend.edit_vrf(actor, {'rt': '1:1'}, {'name': f'v{n}', 'tags': [str(n)]})
        backend.edit_pool(actor, {'name': 'p'}, {'description': f'd{n}', 'ipv4_default_prefix_length': 24 + n})
        backend.edit_asn(actor, {'asn': 1}, {'name': f'x{n}'})
        backend.edit_prefix(actor, {'prefix': '10.0.0.0/8'}, {'description': f'd{n}', 'avps': {'k': str(n)}})
        add(backend, actor, f'10.{n}.0.0/16')
        build(db)
    backend.remove_prefix(actor, {'prefix': '10.0.0.0/16'})
    backend.remove_asn(actor, {'asn': 1})
    build(db)
    return backend


def test_the_check_finds_nothing_wrong(varied: Backend, db: Database, actor: Actor) -> None:
    assert check.problems(db) == []
    add(varied, actor, '11.0.0.0/8')  # without a position
    varied.edit_prefix(actor, {'prefix': '10.0.0.0/8'}, {'description': 'later'})
    assert check.problems(db) == []
    ChangeSequencer().step(db)  # with a position that is not built
    assert check.problems(db) == []


@pytest.mark.parametrize(
    'damage',
    [
        "UPDATE past_prefix SET description = 'wrong' WHERE until < 9223372036854775807",
        "UPDATE past_prefix SET avps = '{}' WHERE description = 'd1'",
        "UPDATE past_vrf SET name = 'wrong' WHERE id <> 0 AND until < 9223372036854775807",
        'UPDATE past_vrf SET rt_rank = 7 WHERE id <> 0',
        'UPDATE past_pool SET ipv4_default_prefix_length = 9 WHERE until < 9223372036854775807',
        "UPDATE past_asn SET name = 'wrong'",
        'DELETE FROM past_prefix WHERE until < 9223372036854775807',
        'DELETE FROM past_prefix WHERE until = 9223372036854775807',
        'DELETE FROM past_asn',
        'UPDATE past_prefix SET until = until - 1 WHERE until < 9223372036854775807 AND until - 1 > since',
        'UPDATE past_vrf SET until = 9000 WHERE id <> 0 AND until = 9223372036854775807',
        'INSERT INTO past_asn VALUES (2, 3, 77, NULL, 1)',
        'UPDATE past_prefix SET version = 9 WHERE until = 9223372036854775807',
    ],
)
def test_damage_is_found_and_repaired(varied: Backend, db: Database, actor: Actor, damage: str) -> None:
    before = states(db)
    assert db.run(lambda tx: tx.execute(damage)) > 0
    assert any('position' in problem for problem in check.problems(db))
    outcome = repair(db)
    assert (list(outcome.repaired), outcome.left) == (['the past'], [])
    build(db)
    assert check.problems(db) == []
    assert states(db) == before


def states(db: Database) -> list[list[Any]]:
    """Return the rows of the past. The first states of objects began before the history, or at their positions."""
    return [
        db.read(lambda tx, kind=kind: tx.all(f'SELECT t::text FROM past_{kind} t ORDER BY 1'))
        for kind in ('vrf', 'pool', 'prefix', 'asn')
    ]


# ---------------------------------------------------------------- detached partitions


def test_states_from_before_a_detached_partition_are_built_when_it_is_attached(
    backend: Backend, db: Database, actor: Actor
) -> None:
    add(backend, actor, '10.0.0.0/8')
    backend.edit_prefix(actor, {'prefix': '10.0.0.0/8'}, {'description': 'e'})
    end = db.read(lambda tx: tx.value('SELECT max(id) + 1 FROM audit_log'))
    backend.edit_prefix(actor, {'prefix': '10.0.0.0/8'}, {'description': 'f'})
    detached = 'INSERT INTO audit_detached (name, first_id, end_id) VALUES (%s, 0, %s)'
    db.run(lambda tx: tx.execute(detached, ('audit_log_0', end)))
    build(db)
    assert ask(backend, actor, 'list_prefix', 2)[0]['description'] == 'e'
    assert check.problems(db) == []
    with pytest.raises(NipapError, match='The history begins at') as told:
        ask(backend, actor, 'list_prefix', 1)
    assert told.value.code == 1310
    db.run(lambda tx: tx.execute('DELETE FROM audit_detached'))
    db.run(lambda tx: tx.execute('UPDATE past_state SET ends_at = NULL WHERE lowest > 1'))
    build(db)
    assert ask(backend, actor, 'list_prefix', 1)[0]['description'] == 'd'
