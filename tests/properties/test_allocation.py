"""Test allocation alone: under any parent, the oracle and the daemon find the same lowest free block."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from .oracle import FULL, Model, Network, Prefix, attempt, bare, block_at, first, net, overlap, spelled
from .playground import Playground, searching

pytestmark = pytest.mark.slow

PARENTS = (
    '10.0.0.0/24',
    '255.255.255.0/24',
    '0.0.0.0/25',
    '10.0.0.32/27',
    '2001:db8::/120',
    'ffff::ff00/120',
    '::/121',
)
WIDE_PARENTS = ('2001:db8::/32', 'ffff:ffff::/32', '::/32')
SUBNET_LENGTHS = st.integers(1, 8)


class Board:
    """The model and the daemon side by side, both empty at first."""

    def __init__(self, playground: Playground) -> None:
        playground.reset()
        self.playground = playground
        self.model = Model()
        self.ids: dict[int, int] = {}

    def add(self, network: Network, type_: str = 'reservation', **named: Any) -> None:
        """Add a prefix that both must accept."""
        self.both(
            lambda: self.model.add_prefix(0, network, type_, **named),
            {'prefix': str(network), 'type': type_, 'description': 'd'},
        )

    def allocate(self, sources: Iterable[Network], length: int, type_: str) -> Prefix | None:
        """Add the lowest free block. Return None if there is no room, or if the type is not allowed there."""
        networks = list(sources)
        return self.both(
            lambda: self.model.add_from_prefix(0, networks, length, type_),
            {'type': type_, 'description': 'd'},
            {'from-prefix': list(map(str, networks)), 'prefix_length': length},
        )

    def both(self, operation: Any, attr: dict[str, Any], args: dict[str, Any] | None = None) -> Prefix | None:
        """Add a prefix to both, and assert that they agree on the result or the refusal."""
        prefix, codes = attempt(operation)
        answer, error = self.playground.call('add_prefix', attr, args)
        if prefix is None:
            assert error, f'{attr} {args} must be refused with {sorted(codes)}, but {answer["prefix"]} was added'
            assert error.code in codes, f'{attr} {args}: {error.code} ({error}) instead of {sorted(codes)}'
        else:
            assert error is None, f'{attr} {args} must add {prefix.network}, but was refused with {error}'
            assert spelled(answer['prefix']) == str(prefix.network), (
                f'{attr} {args}: {answer["prefix"]}, not {prefix.network}'
            )
            self.ids[prefix.handle] = answer['id']
        return prefix

    def remove(self, prefix: Prefix) -> None:
        """Remove a prefix that both must give up."""
        self.model.remove_prefix(prefix.handle)
        self.playground.call('remove_prefix', {'id': self.ids[prefix.handle]})

    def find(self, sources: Iterable[Network], length: int, count: int) -> list[str]:
        """Return the free blocks, and assert that both find the same ones."""
        networks = list(sources)
        args = {'from-prefix': list(map(str, networks)), 'prefix_length': length, 'count': count}
        answer, error = self.playground.call('find_free_prefix', {}, args)
        assert error is None, f'{args}: {error}'
        found = list(map(spelled, answer))
        assert found == self.model.find_free(0, networks, length=length, count=count), args
        return found

    def close(self) -> None:
        """Assert that the daemon's own check finds nothing."""
        assert self.playground.problems() == []


def disjoint(networks: Iterable[Network]) -> list[Network]:
    """Return the networks that do not overlap an earlier one."""
    kept: list[Network] = []
    for network in networks:
        if not any(overlap(network, other) for other in kept):
            kept.append(network)
    return kept


@st.composite
def parents_with_children(draw: st.DrawFn) -> tuple[Network, list[Network]]:
    """Draw a parent and disjoint networks inside it."""
    parent = net(draw(st.sampled_from(PARENTS)))
    room = FULL[parent.version] - parent.prefixlen
    cuts = draw(st.lists(st.tuples(st.integers(1, room), st.integers(0, 255)), max_size=14))
    return parent, disjoint(cut(parent, longer, number) for longer, number in cuts)


def cut(parent: Network, longer: int, number: int) -> Network:
    """Return network `number` of those that are `longer` bits longer than a parent."""
    length = parent.prefixlen + longer
    step = 1 << (FULL[parent.version] - length)
    return block_at(first(parent) + number % (1 << longer) * step, length, parent.version)


@searching(60, soak=3000)
@given(parents_with_children(), st.integers(1, 8), st.booleans())
def test_a_fragmented_parent(
    playground: Playground, case: tuple[Network, list[Network]], longer: int, whole: bool
) -> None:
    parent, children = case
    board = Board(playground)
    board.add(parent)
    for child in children:
        board.add(child)
    length = FULL[parent.version] if whole else min(parent.prefixlen + longer, FULL[parent.version])
    announced = board.find([parent], length, 6)
    taken = [board.allocate([parent], length, 'assignment') for _ in announced]
    assert [bare(p.network) for p in taken if p] == announced
    around = parent.supernet()
    for source in (around, *parent.subnets(prefixlen_diff=2)):
        board.find([source], min(length, FULL[parent.version]), 3)
    board.close()


@searching(30, soak=2000)
@given(
    st.sampled_from(
        ['10.0.0.0/26', '255.255.255.192/26', '2001:db8::/122', '2001:db8::/56', 'ffff:ffff:ffff:ff00::/56']
    ),
    st.lists(st.one_of(st.integers(1, 8), st.integers(-12, -1)), max_size=40),
)
def test_allocating_and_removing_in_turn(playground: Playground, text: str, moves: list[int]) -> None:
    board, parent = Board(playground), net(text)
    board.add(parent)
    taken: list[Prefix] = []
    for move in moves:
        if move > 0:
            added = board.allocate([parent], min(parent.prefixlen + move, FULL[parent.version]), 'assignment')
            taken += [added] if added else []
        elif taken:
            board.remove(taken.pop(move % len(taken)))
    board.close()


@searching(25, soak=1000)
@given(st.sampled_from(WIDE_PARENTS), st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=2, unique=True))
def test_the_only_holes_are_single_64s(playground: Playground, text: str, numbers: list[int]) -> None:
    """Take all of a /32 except one or two /64. There are 31 or more siblings, and the holes are at random places."""
    board, parent = Board(playground), net(text)
    board.add(parent)
    holes = sorted((cut(parent, 32, number) for number in numbers), key=first)
    for network in everything_but(parent, holes):
        board.add(network)
    expected = [str(hole) for hole in holes]
    assert board.find([parent], 64, 3) == expected
    assert board.find([parent], 63, 1) == joined(holes)
    assert [str(p.network) for _ in holes if (p := board.allocate([parent], 64, 'assignment'))] == expected
    assert board.allocate([parent], 64, 'assignment') is None
    board.close()


def everything_but(parent: Any, holes: list[Network]) -> list[Network]:
    """Return the fewest networks that make up a parent without some holes."""
    rest = [parent]
    for hole in holes:
        rest = [n for part in rest for n in (part.address_exclude(hole) if hole.subnet_of(part) else [part])]
    return rest


def joined(holes: list[Network]) -> list[str]:
    """Return the network of twice the size that two holes make up, if they do."""
    merged = list(ipaddress.collapse_addresses(holes))  # type: ignore[type-var]
    return [str(merged[0])] if len(merged) < len(holes) else []


@searching(25, soak=1000)
@given(st.lists(st.integers(0, 40), max_size=20, unique=True), st.booleans())
def test_single_addresses_in_a_48(playground: Playground, numbers: list[int], at_end: bool) -> None:
    board, parent = Board(playground), net('ffff:ffff:ffff::/48' if at_end else '2001:db8::/48')
    board.add(parent, 'assignment')
    for number in numbers:
        board.add(block_at(first(parent) + number, 128, 6), 'host')
    for _ in range(4):
        board.allocate([parent], 128, 'host')
    board.find([parent], 128, 5)
    board.close()


@searching(25, soak=1000)
@given(st.lists(st.tuples(st.sampled_from(PARENTS[:4]), st.booleans()), min_size=1, max_size=4), st.integers(25, 32))
def test_several_sources(playground: Playground, chosen: list[tuple[str, bool]], length: int) -> None:
    """Use stored and unstored sources, in any order, some twice. The first source with room is used."""
    board = Board(playground)
    sources = [net(text) for text, _ in chosen]
    for network in disjoint(net(text) for text, stored in chosen if stored):
        board.add(network)
    board.find(sources, length, 12)
    for _ in range(5):
        board.allocate(sources, length, 'assignment')
    board.close()


@searching(25, soak=1000)
@given(
    st.lists(
        st.sampled_from(['10.0.0.64/29', '10.0.0.0/30', '10.0.1.8/31', '10.0.0.96/32', '2001:db8::/127']), unique=True
    ),
    st.lists(st.sampled_from([None, 30, 31, 32, 127, 128]), max_size=12),
)
def test_a_pool_is_used_up_in_prefix_order(
    playground: Playground, members: list[str], lengths: list[int | None]
) -> None:
    board = Board(playground)
    pool = board.model.add_pool('p', 'assignment', {4: 32, 6: 128}).handle
    attr = {'name': 'p', 'description': 'd', 'default_type': 'assignment'}
    lengths_attr = {'ipv4_default_prefix_length': 32, 'ipv6_default_prefix_length': 128}
    made, error = playground.call('add_pool', attr | lengths_attr)
    assert error is None
    board.add(net('10.0.0.0/16'))
    for text in members:
        board.both(
            lambda text=text: board.model.add_prefix(0, net(text), 'reservation', pool=pool),
            {'prefix': text, 'type': 'reservation', 'description': 'd', 'pool_id': made['id']},
        )
    for length in lengths:
        family = 6 if length in (127, 128) else 4
        args = {'from-pool': {'id': made['id']}, 'family': family}
        board.both(
            lambda length=length, family=family: board.model.add_from_pool(pool, family, length, None),
            {'description': 'd'},
            args if length is None else args | {'prefix_length': length},
        )
    board.close()


@searching(20, soak=500)
@given(
    st.sampled_from(['255.255.255.240/28', '0.0.0.0/28', 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0/124', '::/124']),
    st.lists(st.integers(1, 3), max_size=6),
)
def test_the_ends_of_the_address_space_fill_to_the_last(playground: Playground, text: str, shorter: list[int]) -> None:
    board, parent = Board(playground), net(text)
    board.add(parent)
    whole = FULL[parent.version]
    for less in shorter:
        board.allocate([parent], whole - less, 'assignment')
    while board.allocate([parent], whole, 'assignment'):
        pass
    assert board.find([parent], whole, 1) == []
    for edge in (parent[0], parent[-1]):
        assert board.model.at(0, net(str(edge))) is None, f'{edge} was handed out'
    board.close()
