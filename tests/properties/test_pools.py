"""Test the figures of pools: after each change of members and the prefixes inside them, every number is exact.

The examples have several pools, and members of both families, inside each other, at both ends of the address space,
full, without room for a single block, and so large that their number of blocks passes 64 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from .choices import (
    A_POOL,
    A_POOL_OR_NONE,
    A_PREFIX,
    WITH_MEMBERS,
    WITH_POOLS,
    WITH_PREFIXES,
    one_of_the,
    pools_with_members,
)
from .oracle import (
    DUPLICATE,
    FULL,
    VALUE,
    Answers,
    Model,
    Prefix,
    Refused,
    attempt,
    count_blocks,
    net,
    network_order,
)
from .playground import Playground, differences, searching
from .test_tree import default_lengths, shown

pytestmark = pytest.mark.slow

# Three places at which prefixes nest: the whole of IPv6 down to its last address, a LAN, and the last addresses of
# IPv4.
PLACES = {
    4: (
        *('0.0.0.0/0', '0.0.0.0/1', '128.0.0.0/1', '0.0.0.0/32'),
        *('10.0.0.0/22', '10.0.0.0/23', '10.0.0.0/24', '10.0.1.0/24', '10.0.0.0/26', '10.0.0.64/26', '10.0.0.128/25'),
        *('10.0.0.0/31', '10.0.0.0/32', '10.0.0.1/32', '10.0.0.2/32', '10.0.0.97/32', '10.0.0.128/30', '10.0.0.255/32'),
        *('255.255.255.0/24', '255.255.255.252/30', '255.255.255.254/31', '255.255.255.254/32', '255.255.255.255/32'),
    ),
    6: (
        *('::/0', '::/1', '8000::/1', '::/16', '::/64', '::/127', '::/128', '::1/128', 'ffff::/16', 'ffff::/63'),
        *('2001:db8::/32', '2001:db8::/62', '2001:db8::/63', '2001:db8::/64', '2001:db8:0:1::/64', '2001:db8:0:2::/63'),
        *('2001:db8::/65', '2001:db8:0:0:8000::/65', '2001:db8::/66', '2001:db8::/127', '2001:db8::/128'),
        *('2001:db8::1/128', '2001:db8::7/128', '2001:db8:0:1:8000::/128', '2001:db8:0:1:ffff:ffff:ffff:ffff/128'),
        *('ffff:ffff:ffff:ffff::/64', 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127'),
        'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128',
    ),
}
EVERYWHERE = (*PLACES[4], *PLACES[6])
LENGTHS = {4: (24, 32, 26, 30, 31, 25, 22, 8, 2, 1, None), 6: (64, 128, 65, 63, 127, 66, 48, 16, 17, 2, 1, None)}
# Beginnings of examples: a pool's member each, the second with another member inside. The last two are full.
BEGINNINGS = (
    (('::/0', 'reservation'),),
    (('10.0.0.0/22', 'reservation'), ('10.0.0.0/24', 'reservation')),
    (('2001:db8::/32', 'reservation'), ('2001:db8::/64', 'assignment')),
    (('255.255.255.0/24', 'assignment'), ('ffff::/16', 'reservation')),
    (('10.0.0.0/31', 'assignment'), ('10.0.0.0/32', 'host'), ('10.0.0.1/32', 'host')),
    (('2001:db8::1/128', 'assignment'), ('255.255.255.255/32', 'assignment')),
)
POOLS = ('alpha', 'beta', 'gamma')
A_PLACE = st.one_of(st.sampled_from(PLACES[4]), st.sampled_from(PLACES[6]))
A_LENGTH = {family: st.sampled_from(LENGTHS[family]) for family in FULL}
TYPE = st.sampled_from(['reservation', 'reservation', 'assignment', 'assignment', 'host'])
FREE_BLOCKS = 'SELECT id, free_blocks FROM prefix WHERE pool_id IS NOT NULL OR free_blocks IS NOT NULL ORDER BY id'


class PoolMachine(RuleBasedStateMachine):
    """A machine that changes pools and prefixes in the model and in the daemon, and compares every figure."""

    def __init__(self, playground: Playground) -> None:
        super().__init__()
        self.playground = playground
        self.model = Model()
        self.ids: dict[int, int] = {}  # handle of the model: id in the daemon
        self.agreed = True  # whether the result of the last step has been compared
        playground.reset()

    def play(self, operation: Any, method: str, *members: Any) -> tuple[Any, Any]:
        """Run an operation in the model and a call in the daemon. Return both answers, or None if both refuse."""
        self.agreed = False
        expected, codes = attempt(operation)
        answer, error = self.playground.call(method, *members)
        if error is None:
            assert not codes, f'{method}{members} must be refused with {sorted(codes)}'
            return expected, answer
        assert error.code in codes, f'{method}{members}: {error.code} ({error}) instead of {sorted(codes)}'
        return None, None

    def pool_id(self, pool: int | None) -> int | None:
        """Return the daemon's id of a pool."""
        return None if pool is None else self.ids[pool]

    # ------------------------------------------------------------------------------------------------------ pools

    @initialize(
        chosen=st.lists(st.sampled_from(BEGINNINGS), min_size=1, max_size=3, unique=True),
        v4=A_LENGTH[4],
        v6=A_LENGTH[6],
        in_one=st.booleans(),
    )
    def begin(self, chosen: list[tuple[tuple[str, str], ...]], v4: int | None, v6: int | None, in_one: bool) -> None:
        self.add_pool('alpha', v4, v6)
        self.add_pool('beta', 26, 65)
        first, second = sorted(self.model.pools)
        for beginning in chosen:
            for number, (text, type_) in enumerate(beginning):
                pool = first if in_one or not number else second
                self.add(text, type_, None if type_ == 'host' else pool)

    @rule(name=st.sampled_from(POOLS), v4=A_LENGTH[4], v6=A_LENGTH[6])
    def add_pool(self, name: str, v4: int | None, v6: int | None) -> None:
        attr = {'name': name, 'description': 'd', 'default_type': 'assignment'} | default_lengths(v4, v6)
        pool, answer = self.play(lambda: self.model.add_pool(name, 'assignment', {4: v4, 6: v6}), 'add_pool', attr)
        if pool is not None:
            self.ids[pool.handle] = answer['id']

    @WITH_POOLS
    @rule(pool=A_POOL, lengths=st.tuples(A_LENGTH[4], A_LENGTH[6]), families=st.sampled_from([(4,), (6,), (4, 6)]))
    def edit_lengths(self, pool: int, lengths: tuple[int | None, ...], families: tuple[int, ...]) -> None:
        wanted = {family: length for family, length in zip(FULL, lengths, strict=True) if family in families}
        attr = {f'ipv{family}_default_prefix_length': length for family, length in wanted.items()}
        spec = {'id': self.ids[pool]}
        self.play(lambda: self.model.edit_pool(pool, lengths=wanted), 'edit_pool', spec, attr)

    @WITH_POOLS
    @rule(pool=A_POOL)
    def remove_pool(self, pool: int) -> None:
        self.play(lambda: self.model.remove_pool(pool), 'remove_pool', {'id': self.ids[pool]})

    # ----------------------------------------------------------------------------------------- members and prefixes

    @rule(text=A_PLACE, type_=TYPE, pool=A_POOL_OR_NONE)
    def add(self, text: str, type_: str, pool: int | None) -> None:
        attr = self.attr(text, type_, pool)
        prefix, answer = self.play(lambda: self.model.add_prefix(0, net(text), type_, pool=pool), 'add_prefix', attr)
        if prefix is not None:
            self.ids[prefix.handle] = answer['id']

    def attr(self, text: str, type_: str, pool: int | None) -> dict[str, Any]:
        """Return the attributes of a new prefix."""
        return {'prefix': text, 'type': type_, 'description': None, 'pool_id': self.pool_id(pool)}

    @rule(family=st.sampled_from([4, 6]), data=st.data())
    def add_batch(self, family: int, data: st.DataObject) -> None:
        """Add many prefixes at once, some perhaps members.

        Some batches take the path of bulk additions, others may not.
        """
        some = st.tuples(st.sampled_from(PLACES[family]), TYPE, st.sampled_from([None, None, *self.model.pools]))
        items = data.draw(st.lists(some, min_size=2, max_size=8, unique_by=lambda item: item[0]))
        # A prefix that cannot stand there would have the whole batch refused nearly always.
        fitting = [item for item in self.in_order(items) if not attempt(partial(self.try_item, item))[1]]
        self.batch(data.draw(st.permutations(fitting)) if data.draw(st.booleans()) else items)

    def in_order(self, items: Sequence[tuple[str, str, int | None]]) -> list[tuple[str, str, int | None]]:
        """Return items with outer prefixes before inner ones."""
        return sorted(items, key=lambda item: network_order(net(item[0])))

    def try_item(self, item: tuple[str, str, int | None]) -> None:
        """Add an item to the model and take it back. Raises Refused if the model does not accept it."""
        before = dict(self.model.prefixes)
        try:
            self.model.add_prefix(0, net(item[0]), item[1], pool=item[2])
        finally:
            self.model.prefixes = before

    def batch(self, items: Sequence[tuple[str, str, int | None]]) -> None:
        """Add all or none. The order of the items does not matter."""
        operations = [{'method': 'add_prefix', 'args': {'attr': self.attr(*item)}} for item in items]
        added, answers = self.play(lambda: self.add_all(items), 'batch', operations)
        for text, prefix in (added or {}).items():
            (number,) = (n for n, item in enumerate(items) if item[0] == text)
            self.ids[prefix.handle] = answers[number]['id']

    def add_all(self, items: Sequence[tuple[str, str, int | None]]) -> dict[str, Prefix]:
        """Add all items to the model, or none."""
        before = dict(self.model.prefixes)
        try:
            return {
                text: self.model.add_prefix(0, net(text), type_, pool=pool)
                for text, type_, pool in self.in_order(items)
            }
        except Refused:
            self.model.prefixes = before
            raise Refused({VALUE, DUPLICATE}) from None

    @WITH_MEMBERS
    @rule(
        pool=one_of_the(pools_with_members),
        family=st.sampled_from([4, 6]),
        longest=st.sampled_from([None, None, 0, 1, 63]),
        times=st.integers(1, 4),
    )
    def allocate(self, pool: int, family: int, longest: int | None, times: int) -> None:
        length = None if longest is None else FULL[family] - min(longest, FULL[family])
        args = {'from-pool': {'id': self.ids[pool]}, 'family': family, 'prefix_length': length}
        for _ in range(times):
            prefix, answer = self.play(
                lambda: self.model.add_from_pool(pool, family, length, None), 'add_prefix', {'description': None}, args
            )
            if prefix is not None:
                self.ids[prefix.handle] = answer['id']

    @WITH_PREFIXES
    @rule(prefix=A_PREFIX, pool=A_POOL_OR_NONE)
    def join_or_leave(self, prefix: int, pool: int | None) -> None:
        spec, attr = {'id': self.ids[prefix]}, {'pool_id': self.pool_id(pool)}
        self.play(lambda: self.model.edit_prefix(prefix, pool=pool), 'edit_prefix', spec, attr)

    @rule(type_=st.sampled_from(['reservation', 'assignment']), pool=A_POOL_OR_NONE)
    def all_join_or_leave(self, type_: str, pool: int | None) -> None:
        chosen = [p.handle for p in self.model.ordered() if p.type == type_]
        spec, attr = {'type': type_}, {'pool_id': self.pool_id(pool)}
        self.play(lambda: self.model.edit_prefixes(chosen, pool=pool), 'edit_prefix', spec, attr)

    @WITH_PREFIXES
    @rule(prefix=A_PREFIX, text=A_PLACE, pool=st.one_of(st.just('as it is'), A_POOL_OR_NONE))
    def move(self, prefix: int, text: str, pool: Any) -> None:
        changes: dict[str, Any] = {'network': net(text)}
        attr: dict[str, Any] = {'prefix': text}
        if pool != 'as it is':
            changes |= {'pool': pool}
            attr |= {'pool_id': self.pool_id(pool)}
        spec = {'id': self.ids[prefix]}
        self.play(lambda: self.model.edit_prefix(prefix, **changes), 'edit_prefix', spec, attr)

    @WITH_PREFIXES
    @rule(prefix=A_PREFIX, recursive=st.sampled_from([False, False, True]))
    def remove(self, prefix: int, recursive: bool) -> None:
        spec = {'id': self.ids[prefix]}
        self.play(lambda: self.model.remove_prefix(prefix, recursive), 'remove_prefix', spec, recursive)

    # ------------------------------------------------------------------------------------------ after every step

    @invariant()
    def every_figure_is_exact(self) -> None:
        answers = self.model.answers()
        self.compare_members(answers)
        for method in ('list_pool', 'search_pool'):
            found, error = self.playground.ask(method, {})
            assert error is None
            self.compare_pools(answers, found if isinstance(found, list) else found['result'])
        self.agreed = True

    def compare_pools(self, answers: Answers, found: list[dict[str, Any]]) -> None:
        """Compare all pools, ordered by name."""
        pools = sorted(self.model.pools.values(), key=lambda p: p.name)
        assert [pool['name'] for pool in found] == [pool.name for pool in pools]
        for pool, row in zip(pools, found, strict=True):
            view = answers.pool_view(pool)
            problems = differences(view | {'prefixes': set(view['prefixes'])}, shown(row))
            assert not problems, f'pool {pool.name}: {"; ".join(problems)}'

    def compare_members(self, answers: Answers) -> None:
        """Compare the stored number of each member: errors of two members could cancel out in a sum."""
        expected = {
            self.ids[p.handle]: self.free_blocks(answers, p) for p in self.model.prefixes.values() if p.pool is not None
        }
        assert dict(self.playground.db.read(lambda tx: tx.all(FREE_BLOCKS))) == expected

    def free_blocks(self, answers: Answers, member: Prefix) -> int | None:
        """Return the number of free blocks of the pool's default length in a member."""
        family = member.network.version
        length = self.model.pools[member.pool].lengths[family] if member.pool is not None else None
        if length is None:
            return None
        return sum(count_blocks(low, high, length, family) for low, high in answers.free_ranges(member))

    def teardown(self) -> None:
        if self.agreed:
            assert self.playground.problems() == []


def test_figures_of_pools(playground: Playground) -> None:
    run_state_machine_as_test(lambda: PoolMachine(playground), settings=searching(30, soak=3000))
