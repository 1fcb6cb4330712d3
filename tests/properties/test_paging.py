"""Test paging with a cursor: all pages together are the whole list, with any options for the rows around matches."""

from __future__ import annotations

import contextlib
import ipaddress
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nipap.access.authentication import Actor
from nipap.backend import Backend
from nipap.errors import NipapError
from nipap.objects import prefix_search

from .playground import Playground, searching

pytestmark = pytest.mark.slow

FULL = {4: 32, 6: 128}
WORDS = ('red', 'green', 'blue')
QUERIES: dict[str, Any] = {
    'everything': {},
    'a word': {'operator': 'regex_match', 'val1': 'description', 'val2': 'red'},
    'hosts': {'operator': 'equals', 'val1': 'type', 'val2': 'host'},
    'inside': {'operator': 'contained_within', 'val1': 'prefix', 'val2': '10.0.0.0/9'},
    'around': {'operator': 'contains_equals', 'val1': 'prefix', 'val2': '10.0.0.1'},
    'one family': {'operator': 'equals', 'val1': 'family', 'val2': 6},
    'a tag': {'operator': 'equals_any', 'val1': 'inherited_tags', 'val2': 'green'},
    'nothing': {'operator': 'equals', 'val1': 'description', 'val2': 'nowhere'},
}


def plant(backend: Backend, actor: Actor, seed: int) -> None:
    """Plant a random tree in each of three VRFs, whose ids are not in the order of their route targets."""
    chance = random.Random(seed)
    vrfs = [0, *(backend.add_vrf(actor, {'rt': rt, 'name': rt})['id'] for rt in ('65000:9', '65000:1'))]
    for vrf in vrfs:
        for root in ('10.0.0.0/8', '10.128.0.0/10', '192.0.2.0/24', '2001:db8::/32'):
            grow(backend, actor, chance, vrf, ipaddress.ip_network(root), 0)


def grow(backend: Backend, actor: Actor, chance: random.Random, vrf: int, block: Any, depth: int) -> None:
    full = FULL[block.version]
    type_ = 'assignment' if depth and (depth == 4 or chance.random() < 0.4) else 'reservation'
    if chance.random() < 0.85:
        attr: dict[str, Any] = {'prefix': str(block), 'vrf_id': vrf, 'type': type_, 'description': chance.choice(WORDS)}
        if chance.random() < 0.1:
            attr['tags'] = [chance.choice(WORDS)]
        try:
            backend.add_prefix(actor, attr)
        except NipapError:  # the VRF has the block from another root already
            return
    elif type_ == 'assignment':
        return
    if type_ == 'assignment':
        for number in sorted(chance.sample(range(1, 60), chance.randrange(0, 6))):
            host = f'{block.network_address + number}/{full}'
            backend.add_prefix(
                actor, {'prefix': host, 'vrf_id': vrf, 'type': 'host', 'description': chance.choice(WORDS)}
            )
        return
    longer = min(chance.choice((2, 3)), full - 8 - block.prefixlen)
    if depth < 4 and longer > 0:
        parts = list(block.subnets(prefixlen_diff=longer))
        for part in chance.sample(parts, chance.randrange(0, min(4, len(parts)))):
            grow(backend, actor, chance, vrf, part, depth + 1)


def pages(backend: Backend, actor: Actor, query: Any, size: int, **options: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    after: str | None = ''
    while after is not None:
        asked = {**options, 'max_result': size, 'after': after}
        answer = backend.search_prefix(actor, query, asked)
        assert answer['search_options']['after'] == after
        assert len(answer['result']) == size or answer['after'] is None
        rows += answer['result']
        after = answer['after']
    return rows


@given(seed=st.integers(0, 10**6))
@searching(6, 60)
def test_pages_are_the_whole_list(playground: Playground, seed: int) -> None:
    playground.reset()
    plant(playground.backend, playground.actor, seed)
    compare(playground.backend, playground.actor, seed)


@contextlib.contextmanager
def walking(walks: tuple[int, ...]) -> Iterator[None]:
    """Search for a page among the first `walks` rows of the tree before an index is used."""
    former, prefix_search.WALKS = prefix_search.WALKS, walks
    try:
        yield
    finally:
        prefix_search.WALKS = former


def compare(backend: Backend, actor: Actor, seed: int) -> None:
    chance = random.Random(seed)
    for name, query in QUERIES.items():
        for turn in range(4):
            options: dict[str, Any] = {
                'parents_depth': chance.choice((0, 0, -1, 1, 2)),
                'children_depth': chance.choice((0, 0, -1, 1, 2)),
                'include_neighbors': chance.random() < 0.4,
            }
            whole = backend.search_prefix(actor, query, {**options, 'max_result': None})['result']
            size = chance.choice((1, 3, 7))
            # Without walks, rows are found as rare rows in a big tree.
            with walking(prefix_search.WALKS if turn % 2 else ()):
                found = pages(backend, actor, query, size, **options)
            assert [row['id'] for row in found] == [row['id'] for row in whole], (name, options, size)
            assert found == whole, (name, options, size)
    reservations = {'operator': 'equals', 'val1': 'type', 'val2': 'reservation'}
    for parent in backend.search_prefix(actor, reservations, {'max_result': 5})['result']:
        options = {'parent_prefix': parent['id']}
        whole = backend.search_prefix(actor, {}, {**options, 'max_result': None})['result']
        assert pages(backend, actor, {}, 2, **options) == whole
