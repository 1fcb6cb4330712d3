"""Clients change the same part of the tree at the same moment: in any order, the rules hold."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from .aftermath import Scene, assert_nothing_is_lost
from .clients import DUPLICATE, INPUT, NON_EXISTENT, VALUE, Client, Job
from .rounds import ROUNDS, add_each, allocate_each, change_each, exactly_one, rounds, succeeded

pytestmark = pytest.mark.slow

# ------------------------------------------------------------------------------------------------------------- scripts


def chaos(client: Client, pool: int, times: int) -> tuple[list[tuple[int, str]], list[int]]:
    """Make random changes in a small part of the address space."""
    added: list[tuple[int, str]] = []
    refusals = [INPUT, VALUE, NON_EXISTENT, DUPLICATE]
    for _ in range(times):
        action = client.random.choice([chaos_add, chaos_add, chaos_allocate, chaos_move, chaos_remove, chaos_edit])
        answer = action(client, pool, refusals)
        if isinstance(answer, dict):
            added.append((answer['id'], answer['prefix']))
    return added, []


def chaos_place(client: Client) -> str:
    """Return a network in 10.0.0.0/24, the network itself or a network around it."""
    length = client.random.choice([22, 23, 24, 25, 26, 27, 28, 30, 32, 32])
    return str(ipaddress.ip_network(f'10.0.0.{client.random.randrange(0, 256, 4)}/{length}', strict=False))


def chaos_add(client: Client, pool: int, refusals: list[int]) -> Any:
    """Add a prefix of any type."""
    place = chaos_place(client)
    types = ['host', 'host', 'assignment'] if place.endswith('/32') else ['reservation', 'reservation', 'assignment']
    member = client.random.choice([None, None, pool])
    return client.try_add(place, client.random.choice(types), refusals=refusals, pool_id=member)


def chaos_allocate(client: Client, pool: int, refusals: list[int]) -> Any:
    """Allocate from the pool or from any two networks."""
    length = client.random.choice([27, 28, 30, 32])
    sources: dict[str, Any] = {'from-prefix': [chaos_place(client), chaos_place(client)]}
    args = client.random.choice([sources, {'from-pool': {'id': pool}, 'family': 4}])
    attr = {'type': 'assignment', 'description': 'd'}
    return client.call('add_prefix', attr, args | {'prefix_length': length}, refusals=refusals)


def chaos_move(client: Client, pool: int, refusals: list[int]) -> Any:
    """Move the prefix at one place, if any, to another place."""
    spec = {'prefix': chaos_place(client)}
    client.call('edit_prefix', spec, {'prefix': chaos_place(client)}, refusals=refusals)


def chaos_edit(client: Client, pool: int, refusals: list[int]) -> Any:
    """Change the type, pool or tags of the prefix at a place, if any."""
    choices: list[dict[str, Any]] = [
        {'type': client.random.choice(['reservation', 'assignment'])},
        {'pool_id': client.random.choice([None, pool])},
        {'tags': [f'client {client.number}']},
    ]
    client.call('edit_prefix', {'prefix': chaos_place(client)}, client.random.choice(choices), refusals=refusals)


def chaos_remove(client: Client, pool: int, refusals: list[int]) -> Any:
    """Remove the prefix at a place, if any."""
    client.call('remove_prefix', {'prefix': chaos_place(client)}, client.random.random() < 0.2, refusals=refusals)


# --------------------------------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize('under', [False, True], ids=['top level', 'below a parent'])
def test_a_parent_and_its_child_at_once(scene: Scene, under: bool) -> None:
    if under:
        scene.add('10.0.0.0/8')
    parents, children = rounds('10.{}.0.0/16'), rounds('10.{}.1.0/24')
    outcome = scene.run(
        Job(add_each, (parents, 'reservation', [])),
        Job(add_each, (children, 'assignment', [])),
        Job(add_each, (rounds('10.{}.0.0/20'), 'reservation', [])),
    )
    added = [a for answers in outcome for a in succeeded(answers)]
    assert len(added) == 3 * ROUNDS
    assert_nothing_is_lost(scene, added, [])


def test_of_two_assignments_that_nest_one_is_refused(scene: Scene) -> None:
    outer, inner = scene.run(
        Job(add_each, (rounds('10.{}.0.0/16'), 'assignment', [VALUE])),
        Job(add_each, (rounds('10.{}.1.0/24'), 'assignment', [VALUE])),
    )
    assert exactly_one(outer, inner)


def test_of_equal_prefixes_one_is_added(scene: Scene) -> None:
    scene.add('10.0.0.0/8')
    texts = rounds('10.{}.0.0/16')
    assert exactly_one(*scene.run(*[Job(add_each, (texts, 'reservation', [DUPLICATE])) for _ in range(4)]))


def test_a_host_and_the_assignment_around_it_at_once(scene: Scene) -> None:
    """A host needs its assignment to exist before it."""
    around, hosts = scene.run(
        Job(add_each, (rounds('10.0.{}.0/24'), 'assignment', [])),
        Job(add_each, (rounds('10.0.{}.1/32'), 'host', [VALUE])),
    )
    assert_nothing_is_lost(scene, succeeded(around) + succeeded(hosts), [])


def test_a_host_against_the_removal_of_its_assignment(scene: Scene) -> None:
    texts = rounds('10.0.{}.0/24')
    ids = [scene.add(text, 'assignment')['id'] for text in texts]
    hosts, removals = scene.run(
        Job(add_each, (rounds('10.0.{}.1/32'), 'host', [VALUE])),
        Job(change_each, ('remove_prefix', [({'id': number},) for number in ids], [VALUE])),
    )
    assert exactly_one(hosts, removals)


def test_a_type_change_against_a_child(scene: Scene) -> None:
    texts = rounds('10.{}.0.0/16')
    for text in texts:
        scene.add(text)
    changes = [({'prefix': text}, {'type': 'assignment'}) for text in texts]
    children, edits = scene.run(
        Job(add_each, (rounds('10.{}.3.0/24'), 'assignment', [VALUE])),
        Job(change_each, ('edit_prefix', changes, [VALUE])),
    )
    assert exactly_one(children, edits)


def test_two_move_to_one_place(scene: Scene) -> None:
    one = [
        ({'id': scene.add(text)['id']}, {'prefix': f'10.{n}.0.0/16'}) for n, text in enumerate(rounds('11.{}.0.0/16'))
    ]
    two = [
        ({'id': scene.add(text)['id']}, {'prefix': f'10.{n}.0.0/16'}) for n, text in enumerate(rounds('12.{}.0.0/16'))
    ]
    outcome = scene.run(
        Job(change_each, ('edit_prefix', one, [DUPLICATE])),
        Job(change_each, ('edit_prefix', two, [DUPLICATE])),
    )
    assert exactly_one(*outcome)


def test_two_move_into_each_other(scene: Scene) -> None:
    """Each prefix moves to the former place of the other.

    Both can, one after the other, and neither is inside itself.
    """
    one, two = [], []
    for number in range(ROUNDS):
        first = scene.add(f'10.{number}.0.0/16')['id']
        second = scene.add(f'11.{number}.0.0/16')['id']
        one.append(({'id': first}, {'prefix': f'11.{number}.1.0/24'}))
        two.append(({'id': second}, {'prefix': f'10.{number}.1.0/24'}))
    scene.run(Job(change_each, ('edit_prefix', one, [])), Job(change_each, ('edit_prefix', two, [])))
    expected = {f'{net}.{number}.1.0/24' for net in (10, 11) for number in range(ROUNDS)}
    assert set(scene.stored().values()) == expected


def test_moves_against_allocations(scene: Scene) -> None:
    """A reservation moves while blocks are allocated at its place.

    The blocks belong to it or to the prefix around it.
    """
    scene.add('10.0.0.0/8')
    sources = rounds('10.{}.0.0/16')
    moves = [({'id': scene.add(t)['id']}, {'prefix': f'10.{n + 100}.0.0/16'}) for n, t in enumerate(sources)]
    one, two, moved = scene.run(
        Job(allocate_each, (sources, 24, [])),
        Job(allocate_each, (sources, 25, [])),
        Job(change_each, ('edit_prefix', moves, [])),
    )
    added = succeeded(one) + succeeded(two)
    assert len(added) == 2 * ROUNDS
    assert moved == [None] * ROUNDS
    assert_nothing_is_lost(scene, added, [])


def test_a_removal_by_place_removes_only_there(scene: Scene) -> None:
    """A removal by place does not remove a prefix that has moved away meanwhile."""
    texts = rounds('10.{}.0.0/16')
    ids = [scene.add(text)['id'] for text in texts]
    moves = [({'id': number}, {'prefix': f'11.{n}.0.0/16'}) for n, number in enumerate(ids)]
    scene.run(
        Job(change_each, ('remove_prefix', [({'prefix': text},) for text in texts], [])),
        Job(change_each, ('edit_prefix', moves, [])),
    )
    log = scene.audit_log('prefix')
    moved = {number for _, number, action in log if action == 'edit'}
    assert not moved & scene.removed(), f'moved away, and removed all the same: {moved & scene.removed()}'


def test_two_moves_by_place_move_a_prefix_once(scene: Scene) -> None:
    """Two edits name the same place. The second edit finds no prefix there."""
    texts = rounds('10.{}.0.0/16')
    for text in texts:
        scene.add(text)
    one, two = ([({'prefix': text}, {'prefix': f'{to}.{n}.0.0/16'}) for n, text in enumerate(texts)] for to in (11, 12))
    outcome = scene.run(Job(change_each, ('edit_prefix', one, [])), Job(change_each, ('edit_prefix', two, [])))
    assert exactly_one(*outcome)


def test_removing_a_parent_against_its_children(scene: Scene) -> None:
    scene.add('10.0.0.0/8')
    sources = rounds('10.{}.0.0/16')
    removals = [({'id': scene.add(text)['id']},) for text in sources]
    one, two, _ = scene.run(
        Job(allocate_each, (sources, 24, [])),
        Job(add_each, (rounds('10.{}.128.0/17'), 'reservation', [])),
        Job(change_each, ('remove_prefix', removals, [])),
    )
    assert_nothing_is_lost(scene, succeeded(one) + succeeded(two), [spec['id'] for (spec,) in removals])


def test_recursive_removal_against_adds_inside(scene: Scene) -> None:
    """Remove exactly the prefixes that were added before the removal. Later prefixes stay."""
    sources = rounds('10.{}.0.0/16')
    specs = [({'id': scene.add(text)['id']}, True) for text in sources]
    for text in rounds('10.{}.4.0/24'):
        scene.add(text)
    one, two, three, _ = scene.run(
        Job(allocate_each, (sources, 24, [])),
        Job(add_each, (rounds('10.{}.4.0/25'), 'assignment', [])),
        Job(add_each, (rounds('10.{}.0.0/18'), 'reservation', [])),
        Job(change_each, ('remove_prefix', specs, [])),
    )
    added = succeeded(one) + succeeded(two) + succeeded(three)
    gone = scene.removed()
    assert {spec['id'] for spec, _ in specs} <= gone
    assert set(scene.stored()) == {number for number, _ in added} - gone


def test_removing_a_vrf_against_adds(scene: Scene) -> None:
    vrfs = [scene.call('add_vrf', {'rt': f'65000:{n}', 'name': f'vrf {n}'})['id'] for n in range(ROUNDS)]
    for vrf in vrfs:
        scene.add('10.0.0.0/8', vrf_id=vrf)
    tops = [({'prefix': '11.0.0.0/8', 'type': 'reservation', 'description': 'd', 'vrf_id': vrf},) for vrf in vrfs]
    insides = [({'prefix': '10.1.0.0/16', 'type': 'reservation', 'description': 'd', 'vrf_id': vrf},) for vrf in vrfs]
    scene.run(
        Job(change_each, ('remove_vrf', [({'id': vrf},) for vrf in vrfs], [])),
        Job(change_each, ('add_prefix', tops, [NON_EXISTENT])),
        Job(change_each, ('add_prefix', insides, [NON_EXISTENT])),
    )
    assert scene.stored() == {}
    assert [vrf['id'] for vrf in scene.call('list_vrf', {})] == [0]


def test_removing_a_pool_against_new_members(scene: Scene) -> None:
    pools = [scene.add_pool(f'pool {n}', 28) for n in range(ROUNDS)]
    ids = [scene.add(text)['id'] for text in rounds('10.{}.0.0/16')]
    joins = [({'id': i}, {'pool_id': pool}) for i, pool in zip(ids, pools, strict=True)]
    adds = [
        ({'prefix': f'11.{n}.0.0/16', 'type': 'reservation', 'description': 'd', 'pool_id': pool},)
        for n, pool in enumerate(pools)
    ]
    scene.run(
        Job(change_each, ('remove_pool', [({'id': pool},) for pool in pools], [])),
        Job(change_each, ('edit_prefix', joins, [INPUT])),
        Job(change_each, ('add_prefix', adds, [INPUT])),
    )
    assert scene.call('list_pool', {}) == []


def test_two_vrfs_do_not_get_into_one_pool(scene: Scene) -> None:
    other = scene.call('add_vrf', {'rt': '65000:1', 'name': 'other'})['id']
    pools = [scene.add_pool(f'pool {n}', 28) for n in range(ROUNDS)]
    here = [({'id': scene.add(f'10.{n}.0.0/16')['id']}, {'pool_id': pool}) for n, pool in enumerate(pools)]
    there = [({'id': scene.add(f'10.{n}.0.0/16', vrf_id=other)['id']}, {'pool_id': p}) for n, p in enumerate(pools)]
    outcome = scene.run(
        Job(change_each, ('edit_prefix', here, [VALUE])),
        Job(change_each, ('edit_prefix', there, [VALUE])),
    )
    assert exactly_one(*outcome)


def test_edits_of_different_attributes_all_last(scene: Scene) -> None:
    ids = [scene.add(text)['id'] for text in rounds('10.{}.0.0/16')]
    pool = scene.add_pool('p', 24)
    changes: list[dict[str, Any]] = [{'description': 'new'}, {'tags': ['new']}, {'pool_id': pool}, {'comment': 'new'}]
    edits = [[({'id': number}, change) for number in ids] for change in changes]
    edits.append([({'id': number}, {'prefix': f'11.{n}.0.0/16'}) for n, number in enumerate(ids)])
    scene.run(*[Job(change_each, ('edit_prefix', calls, [])) for calls in edits])
    for number, row in enumerate(scene.call('list_prefix', {})):
        shown = {key: row[key] for key in ('description', 'tags', 'pool_id', 'comment', 'prefix')}
        assert shown == {
            'description': 'new',
            'tags': ['new'],
            'pool_id': pool,
            'comment': 'new',
            'prefix': f'11.{number}.0.0/16',
        }


@pytest.mark.parametrize('kind', ['pool', 'vrf'])
def test_edits_of_different_attributes_of_a_pool_or_vrf_all_last(scene: Scene, kind: str) -> None:
    if kind == 'pool':
        ids = [scene.add_pool(f'pool {n}', 28) for n in range(ROUNDS)]
    else:
        ids = [scene.call('add_vrf', {'rt': f'65000:{n}', 'name': f'vrf {n}'})['id'] for n in range(ROUNDS)]
    changes: list[dict[str, Any]] = [{'description': 'new'}, {'tags': ['new']}, {'avps': {'k': 'new'}}]
    edits = [[({'id': number}, change) for number in ids] for change in changes]
    scene.run(*[Job(change_each, (f'edit_{kind}', calls, [])) for calls in edits])
    for row in scene.call(f'list_{kind}', {}):
        if row['id'] in ids:
            assert (row['description'], row['tags'], row['avps']) == ('new', ['new'], {'k': 'new'})


def test_bulk_edits_against_everything_else(scene: Scene) -> None:
    """Two clients edit all prefixes in every round while others add and move. No client is refused."""
    ids = [scene.add(text)['id'] for text in rounds('10.{}.0.0/16')]
    edits = [({'type': 'reservation'}, {'tags': [f'round {n}']}) for n in range(ROUNDS)]
    moves = [({'id': i}, {'prefix': f'12.{n}.0.0/16'}) for n, i in enumerate(ids)]
    _, _, added, _ = scene.run(
        Job(change_each, ('edit_prefix', edits, [])),
        Job(change_each, ('edit_prefix', edits[::-1], [])),
        Job(add_each, (rounds('10.{}.5.0/24'), 'reservation', [])),
        Job(change_each, ('edit_prefix', moves, [])),
    )
    assert_nothing_is_lost(scene, succeeded(added), [])


def test_chaos(scene: Scene) -> None:
    pool = scene.add_pool('p', 28)
    scene.add('10.0.0.0/22', pool_id=pool)
    outcome = scene.run(*[Job(chaos, (pool, 60)) for _ in range(8)])
    added = [a for mine, _ in outcome for a in mine]
    gone = scene.removed()
    missing = [(number, text) for number, text in added if number not in scene.stored() and number not in gone]
    assert not missing, f'acknowledged, not there and not removed: {missing}'
