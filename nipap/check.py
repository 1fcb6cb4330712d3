"""The invariants: everything derived is recomputed from the facts and compared with what is stored.

One pass over the prefixes in tree order with a stack of open ancestors, in one snapshot, so that a busy database can
be checked. Written against the documentation of the columns, not with the SQL functions that keep them.
"""

from __future__ import annotations

import socket
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from nipap.addresses import WIDTH, parse_route_target
from nipap.db import Database, Row, Transaction

Ranges = list[tuple[int, int, int]]


class Stored(NamedTuple):
    """One prefix as it is in the database."""

    id: int
    vrf_id: int
    family: int
    text: str
    length: int
    type: str
    parent_id: int | None
    children: int
    used: int
    pool_id: int | None
    free_blocks: int | None
    node: str | None
    default_length: int | None


_PREFIXES = """SELECT p.id, p.vrf_id, family(p.prefix), host(p.prefix), masklen(p.prefix), p.type, p.parent_id,
    p.children, p.used_addresses, p.pool_id, p.free_blocks, p.node,
    CASE family(p.prefix) WHEN 4 THEN o.ipv4_default_prefix_length ELSE o.ipv6_default_prefix_length END
    FROM prefix p LEFT JOIN pool o ON o.id = p.pool_id ORDER BY p.vrf_id, p.prefix"""


@dataclass
class _Open:
    """A prefix, or the address space of a VRF, whose children are being read."""

    stored: Stored | None
    owner: int
    first: int
    last: int
    width: int
    children: int = 0
    used: int = 0
    next_free: int = 0
    ranges: Ranges = field(default_factory=list)


@dataclass
class _Totals:
    prefixes: int = 0
    total: int = 0
    used: int = 0


def problems(db: Database) -> list[str]:
    """Every difference between what is stored and what follows from the facts, a sentence each; none: all is well."""

    def work(tx: Transaction) -> list[str]:
        tx.execute('SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY')
        return list(_Check(tx).run())

    return db.run(work)


class _Check:
    def __init__(self, tx: Transaction) -> None:
        self.tx = tx
        self.totals: dict[tuple[int, int], _Totals] = defaultdict(_Totals)
        self.free: dict[int, Ranges] = defaultdict(list)

    def run(self) -> Iterator[str]:
        vrfs = []
        for i, rt, rank in self.tx.all('SELECT id, rt, rt_rank FROM vrf ORDER BY id'):
            vrfs.append(i)
            wanted = parse_route_target(rt)[1] if rt is not None else -1
            if rank != wanted:
                yield f'VRF {i}: rt_rank is {rank}, must be {wanted}'
        if 0 not in vrfs:
            yield 'VRF 0 is missing'
        sql = """SELECT owner, abbrev(first_address), abbrev(last_address), fit FROM free_range
            ORDER BY owner, last_address"""
        for owner, first, last, fit in self.tx.stream(sql):
            self.free[owner].append((_number(first), _number(last), fit))
        yield from self._tree(vrfs)
        for owner, ranges in self.free.items():
            yield f'free ranges of owner {owner}, which has no children or does not exist: {len(ranges)}'
        yield from self._vrf_totals()
        yield from self._pools()
        yield from self._words()

    def _tree(self, vrfs: list[int]) -> Iterator[str]:
        spaces = {
            (vrf, family): _Open(None, -1 - 2 * vrf - (family == 6), 0, 2 ** WIDTH[family] - 1, WIDTH[family])
            for vrf in vrfs
            for family in WIDTH
        }
        stack: list[_Open] = []
        for row in self.tx.stream(_PREFIXES):
            p = Stored(*row)
            width = WIDTH[p.family]
            first = _number(p.text)
            last = first + 2 ** (width - p.length) - 1
            while stack and not self._around(stack[-1], p, first, last):
                yield from self._close(stack.pop())
            parent = stack[-1] if stack else spaces[p.vrf_id, p.family]
            yield from self._place(parent, p)
            self._take(parent, first, last)
            stack.append(_Open(p, p.id, first, last, width, next_free=first))
        while stack:
            yield from self._close(stack.pop())
        for (vrf, family), space in spaces.items():
            self.totals[vrf, family].total = space.used
            yield from self._ranges(space, f'VRF {vrf} IPv{family}')

    @staticmethod
    def _around(node: _Open, p: Stored, first: int, last: int) -> bool:
        above = node.stored
        return (
            above is not None
            and above.vrf_id == p.vrf_id
            and above.family == p.family
            and node.first <= first
            and last <= node.last
        )

    @staticmethod
    def _take(parent: _Open, first: int, last: int) -> None:
        if parent.next_free < first:
            parent.ranges.append((parent.next_free, first - 1, _fit(parent.next_free, first - 1, parent.width)))
        parent.next_free = last + 1
        parent.children += 1
        parent.used += last - first + 1

    def _place(self, parent: _Open, p: Stored) -> Iterator[str]:
        name = f'{p.text}/{p.length} in VRF {p.vrf_id} (id {p.id})'
        above = parent.stored
        if p.parent_id != (above.id if above else None):
            yield f'{name}: parent_id is {p.parent_id}, must be {above.id if above else None}'
        wanted = {'host': ('assignment',), 'assignment': (None, 'reservation'), 'reservation': (None, 'reservation')}
        if (above.type if above else None) not in wanted[p.type]:
            yield f'{name}: a {p.type} inside {above.type if above else "no prefix"}'
        if p.type == 'host' and p.length != WIDTH[p.family]:
            yield f'{name}: a host that is not full length'
        if p.node is not None and (p.type == 'reservation' or p.length != WIDTH[p.family]):
            yield f'{name}: has a node'
        self.totals[p.vrf_id, p.family].prefixes += 1

    def _close(self, node: _Open) -> Iterator[str]:
        p = node.stored
        if p is None:
            return
        name = f'{p.text}/{p.length} in VRF {p.vrf_id} (id {p.id})'
        used = node.used if node.children or p.length != node.width else 1
        if p.children != node.children:
            yield f'{name}: children is {p.children}, must be {node.children}'
        if p.used != used:
            yield f'{name}: used_addresses is {p.used}, must be {used}'
        if p.parent_id is None:
            self.totals[p.vrf_id, p.family].used += p.used
        if node.children:
            yield from self._ranges(node, name)
        elif p.length != node.width:
            node.ranges = [(node.first, node.last, p.length)]
        free = None
        if p.default_length is not None:
            free = sum(_blocks(first, last, node.width - p.default_length) for first, last, _ in node.ranges)
        if p.free_blocks != free:
            yield f'{name}: free_blocks is {p.free_blocks}, must be {free}'

    def _ranges(self, node: _Open, name: str) -> Iterator[str]:
        if node.next_free <= node.last:
            node.ranges.append((node.next_free, node.last, _fit(node.next_free, node.last, node.width)))
        stored = self.free.pop(node.owner, [])
        if stored != node.ranges:
            yield f'{name}: its free ranges are {_show(stored)}, must be {_show(node.ranges)}'

    def _vrf_totals(self) -> Iterator[str]:
        sql = """SELECT vrf_id, family, sum(num_prefixes), sum(total_addresses), sum(used_addresses)
            FROM vrf_total GROUP BY vrf_id, family"""
        stored: dict[tuple[int, int], Row] = {(row[0], row[1]): row[2:] for row in self.tx.all(sql)}
        for key in sorted({*stored, *self.totals}):
            found = self.totals[key]
            wanted = (found.prefixes, found.total, found.used)
            if stored.get(key, (0, 0, 0)) != wanted:
                yield f'VRF {key[0]} IPv{key[1]}: totals are {stored.get(key, (0, 0, 0))}, must be {wanted}'

    def _pools(self) -> Iterator[str]:
        sql = 'SELECT pool_id, count(DISTINCT vrf_id) FROM prefix WHERE pool_id IS NOT NULL GROUP BY pool_id'
        for pool, vrfs in self.tx.all(sql):
            if vrfs != 1:
                yield f'pool {pool} has members in {vrfs} VRFs'

    def _words(self) -> Iterator[str]:
        sql = """SELECT coalesce(p.id, w.prefix_id) FROM prefix p FULL JOIN prefix_words w ON w.prefix_id = p.id
            WHERE p.id IS NULL OR w.words IS DISTINCT FROM words_of(p)"""
        for (i,) in self.tx.stream(sql):
            yield f'prefix {i}: its text in prefix_words is not what its attributes say'


def _number(address: str) -> int:
    """An address as a number; -1 for what has a mask and so is none."""
    if '/' in address:
        return -1
    if ':' in address:
        return int.from_bytes(socket.inet_pton(socket.AF_INET6, address), 'big')
    return int.from_bytes(socket.inet_aton(address), 'big')


def _blocks(first: int, last: int, bits: int) -> int:
    """Number of blocks of 2^bits addresses, aligned, that lie wholly in a range."""
    return max(0, ((last + 1) >> bits) - ((first + (1 << bits) - 1) >> bits)) if bits >= 0 else 0


def _fit(first: int, last: int, width: int) -> int:
    """Prefix length of the largest aligned block in a range."""
    bits = (last - first + 1).bit_length() - 1
    while not _blocks(first, last, bits):
        bits -= 1
    return width - bits


def _show(ranges: Ranges) -> str:
    shown = ', '.join(f'{first}-{last} /{fit}' for first, last, fit in ranges[:5])
    return f'[{shown}{", …" if len(ranges) > 5 else ""}]'
