"""Many client processes allocate at once: no fault, no overlap, nothing lost, exact counters."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from .aftermath import Scene, assert_nothing_is_lost, disjoint
from .clients import DUPLICATE, INPUT, MISSING, NON_EXISTENT, VALUE, Client, Job
from .rounds import ROUNDS, allocate_from_each, change_each, rounds, succeeded

pytestmark = pytest.mark.slow

Added = list[tuple[int, str]]
Outcome = tuple[Added, list[int]]


# ------------------------------------------------------------------------------------------------------------- scripts


def allocate_from_pool(client: Client, pool: int, lengths: list[int | None], times: int) -> Outcome:
    """Take blocks of mixed lengths, and give back one of the client's own blocks in every fifth turn."""
    added: Added = []
    removed: list[int] = []
    for turn in range(times):
        length = client.random.choice(lengths)
        args = {'from-pool': {'id': pool}, 'family': 4}
        answer = client.call(
            'add_prefix',
            {'description': f'client {client.number}'},
            args if length is None else args | {'prefix_length': length},
            refusals=[NON_EXISTENT, MISSING],
        )
        if isinstance(answer, dict):
            added.append((answer['id'], answer['prefix']))
        if turn % 5 == 4 and added:
            removed.append(remove_one(client, added, removed))
    return added, [r for r in removed if r]


def remove_one(client: Client, added: Added, removed: list[int]) -> int:
    """Remove one of the prefixes that this client added. Return its id, or 0 if there is none."""
    mine = [number for number, _ in added if number not in removed]
    if not mine:
        return 0
    chosen = client.random.choice(mine)
    client.call('remove_prefix', {'id': chosen})
    return chosen


def allocate_from_sources(client: Client, sources: list[str], length: int, times: int) -> Outcome:
    """Take blocks from several sources."""
    added: Added = []
    for _ in range(times):
        answer = client.call(
            'add_prefix',
            {'description': f'client {client.number}', 'type': 'assignment'},
            {'from-prefix': sources, 'prefix_length': length},
            refusals=[NON_EXISTENT],
        )
        if isinstance(answer, dict):
            added.append((answer['id'], answer['prefix']))
    return added, []


def add_by_hand(client: Client, parent: str, times: int) -> Outcome:
    """Add blocks at places that may be taken or inside another prefix, and remove some."""
    added: Added = []
    removed: list[int] = []
    for turn in range(times):
        answer = client.try_add(some_block(client, parent), 'assignment', refusals=[VALUE, DUPLICATE])
        if isinstance(answer, dict):
            added.append((answer['id'], answer['prefix']))
        if turn % 4 == 3 and added:
            removed.append(remove_one(client, added, removed))
    return added, [r for r in removed if r]


def some_block(client: Client, parent: str) -> str:
    """Return an aligned block of a /25 to /30 at a random place in a parent."""
    network = ipaddress.ip_network(parent)
    length = client.random.randint(25, 30)
    inside = network[client.random.randrange(network.num_addresses)]
    return str(ipaddress.ip_network(f'{inside}/{length}', strict=False))


def move_about(client: Client, parent: str, times: int) -> Outcome:
    """Add one block, and move and resize it repeatedly."""
    added: Added = []
    for _ in range(times):
        place = some_block(client, parent)
        if not added:
            answer = client.try_add(place, 'assignment', refusals=[VALUE, DUPLICATE])
            added += [(answer['id'], answer['prefix'])] if isinstance(answer, dict) else []
        else:
            client.call('edit_prefix', {'id': added[0][0]}, {'prefix': place}, refusals=[VALUE, DUPLICATE])
    return added, []


def edit_members(client: Client, members: list[int], times: int) -> Outcome:
    """Change attributes of the members. Allocation locks the rows of the members."""
    for turn in range(times):
        spec = {'id': client.random.choice(members)}
        assert len(client.call('edit_prefix', spec, {'tags': [f'turn {turn}']})) == 1
    return [], []


def cover_and_uncover(client: Client, parent: str, times: int) -> Outcome:
    """Put a reservation over a part of a parent and remove it again."""
    added: Added = []
    removed: list[int] = []
    subnets = list(ipaddress.ip_network(parent).subnets(prefixlen_diff=2))
    for _ in range(times):
        place = client.random.choice(subnets)
        answer = client.try_add(str(place), 'reservation', refusals=[VALUE, DUPLICATE])
        if isinstance(answer, dict):
            added.append((answer['id'], answer['prefix']))
            client.call('remove_prefix', {'id': answer['id']})
            removed.append(answer['id'])
    return added, removed


def change_default_length(client: Client, pool: int, times: int) -> Outcome:
    """Change the default length of a pool."""
    for _ in range(times):
        length = client.random.choice([None, 26, 28, 30, 32])
        assert client.call('edit_pool', {'id': pool}, {'ipv4_default_prefix_length': length})
    return [], []


def change_membership(client: Client, member: int, pools: list[int | None], times: int) -> Outcome:
    """Move a member from pool to pool."""
    for turn in range(times):
        assert client.call('edit_prefix', {'id': member}, {'pool_id': pools[turn % len(pools)]})
    return [], []


def replace_pools(client: Client, member: int, times: int) -> Outcome:
    """Make a pool of a prefix and remove the pool again."""
    attr = {'description': 'd', 'default_type': 'assignment', 'ipv4_default_prefix_length': 29}
    for turn in range(times):
        pool = client.call('add_pool', attr | {'name': f'client {client.number} turn {turn}'})
        client.call('edit_prefix', {'id': member}, {'pool_id': pool['id']}, refusals=[INPUT])
        client.call('remove_pool', {'id': pool['id']})
    return [], []


def allocate_in_a_changing_pool(client: Client, pool: int, times: int) -> Outcome:
    """Take blocks from a pool that may have no member or no default length at the moment."""
    added: Added = []
    for _ in range(times):
        args = {'from-pool': {'id': pool}, 'family': 4}
        answer = client.call(
            'add_prefix', {'description': f'client {client.number}'}, args, refusals=[INPUT, MISSING, NON_EXISTENT]
        )
        if isinstance(answer, dict):
            added.append((answer['id'], answer['prefix']))
    return added, []


def cut_connections(client: Client, times: int) -> Outcome:
    """End the sessions of the other clients, in the middle of their calls or not."""
    others = "FROM pg_stat_activity WHERE datname = current_database() AND application_name = '' AND pid <> %s"
    mine = client.backend.db.read(lambda tx: tx.value('SELECT pg_backend_pid()'))
    for _ in range(times):
        client.backend.db.read(lambda tx: tx.all(f'SELECT pg_terminate_backend(pid), pg_sleep(0.01) {others}', (mine,)))
    return [], []


# --------------------------------------------------------------------------------------------------------------- tests


def gathered(outcomes: list[Outcome]) -> Outcome:
    """Return the additions and removals of all clients."""
    return [a for added, _ in outcomes for a in added], [r for _, removed in outcomes for r in removed]


def members_of(scene: Scene, pool: int, texts: list[str]) -> list[int]:
    """Add members of a pool and return their ids."""
    return [int(scene.add(text, pool_id=pool)['id']) for text in texts]


def test_24_clients_allocate_from_one_pool_while_others_change_it(scene: Scene) -> None:
    pool = scene.add_pool('p', 30)
    scene.add('10.0.0.0/8')
    texts = ['10.0.0.0/23', '10.0.4.0/22', '10.1.0.0/21']
    members = members_of(scene, pool, texts)
    own = [(number, text) for number, text in zip(members, texts, strict=True)]
    jobs = [Job(allocate_from_pool, (pool, [None, 24, 26, 27, 28, 29, 31, 32], 20)) for _ in range(16)]
    jobs += [Job(add_by_hand, (text, 20)) for text in texts]
    jobs += [Job(move_about, (text, 20)) for text in texts[1:]]
    jobs += [Job(edit_members, (members, 20)), Job(cover_and_uncover, (texts[2], 20))]
    jobs += [Job(change_default_length, (pool, 15))]
    assert len(jobs) == 24
    added, removed = gathered(scene.run(*jobs))
    assert len(added) > 100
    assert_nothing_is_lost(scene, added, removed)
    left = scene.stored()
    assert set(left) - {number for number, _ in added} - {number for number, _ in own} == {
        number for number, text in left.items() if text == '10.0.0.0/8'
    }
    assert disjoint(text for number, text in left.items() if number in {n for n, _ in added})


def test_a_pool_is_used_up_exactly(scene: Scene) -> None:
    """Make 96 requests with room for 64. Every block is given once, and the remaining requests are refused."""
    pool = scene.add_pool('p', 28)
    members_of(scene, pool, ['10.0.0.0/23', '10.0.4.0/23'])
    added, _ = gathered(scene.run(*[Job(allocate_in_a_changing_pool, (pool, 12)) for _ in range(8)]))
    expected = {str(n) for m in ('10.0.0.0/23', '10.0.4.0/23') for n in ipaddress.ip_network(m).subnets(new_prefix=28)}
    assert {text for _, text in added} == expected
    assert len(added) == 64
    assert_nothing_is_lost(scene, added, [])


def test_sources_in_opposite_orders(scene: Scene) -> None:
    """Use stored and unstored sources. No source is skipped while the clients fill them up."""
    sources = ['10.0.0.0/26', '10.0.1.0/26', '10.0.2.0/26', '10.0.3.0/26']
    for text in sources[:2]:
        scene.add(text)
    jobs = [Job(allocate_from_sources, (sources if n % 2 else sources[::-1], 30, 12)) for n in range(6)]
    added, _ = gathered(scene.run(*jobs))
    assert len(added) == 64
    assert disjoint(text for _, text in added)
    assert_nothing_is_lost(scene, added, [])


def test_connections_are_cut_again_and_again(scene: Scene) -> None:
    """A call under way is done once, and answered as without an interruption."""
    pool = scene.add_pool('p', 28)
    member = members_of(scene, pool, ['10.0.0.0/18'])[0]
    jobs = [Job(allocate_from_pool, (pool, [28, None, 30], 40)) for _ in range(3)]
    outcomes = scene.run(*jobs, Job(edit_members, ([member], 60)), Job(cut_connections, (25,)))
    added, removed = gathered(outcomes)
    assert len(added) == 120
    assert disjoint(text for number, text in added if number not in removed)
    assert_nothing_is_lost(scene, added, removed)


def test_default_length_against_allocations(scene: Scene) -> None:
    pool = scene.add_pool('p', 28)
    members_of(scene, pool, ['10.0.0.0/22', '10.8.0.0/22'])
    jobs = [Job(allocate_in_a_changing_pool, (pool, 25)) for _ in range(4)]
    jobs += [Job(change_default_length, (pool, 25)) for _ in range(2)]
    added, _ = gathered(scene.run(*jobs))
    assert added
    assert disjoint(text for _, text in added)
    assert_nothing_is_lost(scene, added, [])


def test_a_new_default_length_and_an_allocation_at_once(scene: Scene) -> None:
    """Allocations and an edit change the number of free blocks of the same member, in another pool in each round."""
    pools = [scene.add_pool(f'pool {n}', 28) for n in range(ROUNDS)]
    for pool, text in zip(pools, rounds('10.{}.0.0/22'), strict=True):
        scene.add(text, pool_id=pool)
    edits = [({'id': pool}, {'ipv4_default_prefix_length': 27}) for pool in pools]
    one, two, edited = scene.run(
        Job(allocate_from_each, (pools, 26, [])),
        Job(allocate_from_each, (pools, 29, [])),
        Job(change_each, ('edit_pool', edits, [])),
    )
    assert edited == [None] * ROUNDS
    assert_nothing_is_lost(scene, succeeded(one) + succeeded(two), [])


def test_nothing_is_taken_from_a_prefix_that_has_left_the_pool(scene: Scene) -> None:
    pools = [scene.add_pool(f'pool {n}', 28) for n in range(ROUNDS)]
    members = [scene.add(text, pool_id=p)['id'] for text, p in zip(rounds('10.{}.0.0/22'), pools, strict=True)]
    leaving = [({'id': member}, {'pool_id': None}) for member in members]
    taken, left = scene.run(
        Job(allocate_from_each, (pools, 28, [INPUT, NON_EXISTENT])),
        Job(change_each, ('edit_prefix', leaving, [])),
    )
    assert left == [None] * ROUNDS
    # The addition and the edit are done and logged under the lock of the member, so the log has their true order.
    order = {(number, action): entry for entry, number, action in scene.audit_log('prefix')}
    late = [
        answer
        for member, answer in zip(members, taken, strict=True)
        if isinstance(answer, tuple) and order[answer[0], 'add'] > order[member, 'edit']
    ]
    assert not late, f'taken from a prefix that was no member any more: {late}'


def test_a_member_that_moves_still_has_room(scene: Scene) -> None:
    """The only member has room before the move and after it, so no allocation is refused."""
    pools = [scene.add_pool(f'pool {n}', 28) for n in range(ROUNDS)]
    members = [scene.add(text, pool_id=p)['id'] for text, p in zip(rounds('10.{}.0.0/22'), pools, strict=True)]
    moves = [({'id': member}, {'prefix': f'11.{n}.0.0/22'}) for n, member in enumerate(members)]
    taken, moved = scene.run(
        Job(allocate_from_each, (pools, 28, [INPUT, NON_EXISTENT])),
        Job(change_each, ('edit_prefix', moves, [])),
    )
    assert moved == [None] * ROUNDS
    refused = [(number, answer) for number, answer in enumerate(taken) if isinstance(answer, int)]
    assert not refused, f'rounds in which allocation was refused: {refused}'


def test_membership_against_allocations(scene: Scene) -> None:
    one, other = scene.add_pool('one', 28), scene.add_pool('other', 30)
    scene.add('10.0.0.0/8')
    moving, shared = members_of(scene, one, ['10.0.0.0/22', '10.8.0.0/22'])
    jobs: list[Job] = [Job(allocate_in_a_changing_pool, (pool, 25)) for pool in (one, other, one, other)]
    jobs += [
        Job(change_membership, (moving, [other, None, one], 25)),
        Job(change_membership, (shared, [None, one], 25)),
    ]
    jobs += [Job(replace_pools, (int(scene.add('10.16.0.0/24')['id']), 15))]
    added, _ = gathered(scene.run(*jobs))
    assert disjoint(text for _, text in added)
    assert_nothing_is_lost(scene, added, [])


def test_nested_members_in_two_pools(scene: Scene) -> None:
    """Prefixes below the inner member count there alone.

    Prefixes that cover the inner member count in the outer one.
    """
    outer, inner = scene.add_pool('outer', 26), scene.add_pool('inner', 28)
    members_of(scene, outer, ['10.0.0.0/20'])
    members_of(scene, inner, ['10.0.4.0/22'])
    jobs = [Job(allocate_from_pool, (pool, [None, 26, 27, 28], 20)) for pool in (outer, inner, outer, inner)]
    jobs += [Job(cover_and_uncover, ('10.0.0.0/20', 20)), Job(move_about, ('10.0.4.0/22', 20))]
    added, removed = gathered(scene.run(*jobs))
    assert_nothing_is_lost(scene, added, removed)


@pytest.mark.parametrize('text', ['255.255.255.192/26', '2001:db8::/122'])
def test_single_addresses_are_handed_out_once(scene: Scene, text: str) -> None:
    network: Any = ipaddress.ip_network(text)
    scene.add(text, 'reservation')
    jobs = [Job(allocate_from_sources, ([text], network.max_prefixlen, 10)) for _ in range(8)]
    added, _ = gathered(scene.run(*jobs))
    assert sorted(t.split('/')[0] for _, t in added) == sorted(str(a) for a in list(network)[1:-1])
