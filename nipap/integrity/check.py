"""The check of the invariants: recompute all derived data from the facts and compare it with the stored rows.

The check is one pass over the prefixes in tree order, with a stack of open ancestors. It runs in one snapshot, so that
a busy database can be checked. It is written against the documentation of the columns, not with the SQL functions that
maintain them. Each problem carries the row as it must be: `nipap.integrity.repair` writes that row and computes nothing
itself.
"""

from __future__ import annotations

import socket
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from nipap.addresses import WIDTH, parse_route_target
from nipap.errors import NipapValueError
from nipap.postgres.database import Database
from nipap.postgres.transaction import Row, Transaction

Ranges = list[tuple[int, int, int]]


# ---- correct rows, a class for each kind of derived row


class Rank(NamedTuple):
    """The rank of a VRF."""

    vrf_id: int
    rt_rank: int


class Place(NamedTuple):
    """The derived columns of a prefix."""

    id: int
    parent_id: int | None
    children: int
    used_addresses: int
    free_blocks: int | None


class FreeRanges(NamedTuple):
    """All free ranges of an owner in order: first and last address as numbers of a width, and fit."""

    owner: int
    width: int
    ranges: Ranges


class Totals(NamedTuple):
    """The totals of a VRF in one family."""

    vrf_id: int
    family: int
    num_prefixes: int
    total_addresses: int
    used_addresses: int


class Words(NamedTuple):
    """A prefix with a wrong text, or a text without its prefix. Only the SQL function `words_of` computes the text."""

    prefix_id: int


class PastState(NamedTuple):
    """A state of the past that differs from the audit log. All states are built again from there."""

    kind: str
    id: int
    position: int


Right = Rank | Place | FreeRanges | Totals | Words | PastState


class Problem(NamedTuple):
    """A violated invariant, described in a sentence.

    kind: the derived figure that is wrong; None for a fact that breaks a rule. A wrong fact cannot be repaired.
    right: the row as it must be; None for a fact, and if an earlier problem of the row carries it.
    """

    text: str
    kind: str | None = None
    right: Right | None = None


# ---- the pass


class Stored(NamedTuple):
    """A prefix as it is stored in the database."""

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
    default_length: int | None


_PREFIXES = """SELECT p.id, p.vrf_id, family(p.prefix), host(p.prefix), masklen(p.prefix), p.type, p.parent_id,
    p.children, p.used_addresses, p.pool_id, p.free_blocks,
    CASE family(p.prefix) WHEN 4 THEN o.ipv4_default_prefix_length ELSE o.ipv6_default_prefix_length END
    FROM prefix p LEFT JOIN pool o ON o.id = p.pool_id ORDER BY p.vrf_id, p.prefix"""

# The types that may enclose a type. None stands for the top level.
_AROUND = {
    'host': ('assignment',),
    'assignment': (None, 'reservation'),
    'reservation': (None, 'reservation'),
}


@dataclass
class _Open:
    """A prefix, or the address space of a VRF, while its children are read."""

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
class _Sums:
    prefixes: int = 0
    total: int = 0
    used: int = 0


def problems(db: Database) -> list[str]:
    """Return every difference between the stored data and the facts, a sentence each; [] if all is well."""

    def work(tx: Transaction) -> list[str]:
        tx.execute('SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY')
        return [problem.text for problem in examine(tx)]

    return db.run(work)


def examine(tx: Transaction) -> Iterator[Problem]:
    """Yield every problem as it is found. The transaction must not see changes of other sessions.

    A caller may repair a problem before it asks for the next one: no row is read twice.
    """
    return _Examination(tx).run()


class _Examination:
    def __init__(self, tx: Transaction) -> None:
        self.tx = tx
        self.spaces: dict[tuple[int, int], _Open] = {}
        self.sums: dict[tuple[int, int], _Sums] = defaultdict(_Sums)
        self.free: dict[int, Ranges] = defaultdict(list)

    def run(self) -> Iterator[Problem]:
        yield from self._vrfs()
        self._read_free_ranges()
        yield from self._tree()
        for owner, ranges in self.free.items():
            text = f'free ranges of owner {owner}, which has no children or does not exist: {len(ranges)}'
            yield Problem(text, 'free ranges', FreeRanges(owner, 0, []))
        yield from self._vrf_totals()
        yield from self._pools()
        yield from self._words()
        yield from self._past()
        yield from self._change_sets()

    def _vrfs(self) -> Iterator[Problem]:
        for i, rt, rank in self.tx.all('SELECT id, rt, rt_rank FROM vrf ORDER BY id'):
            for family, width in WIDTH.items():
                self.spaces[i, family] = _Open(None, -1 - 2 * i - (family == 6), 0, 2**width - 1, width)
            try:
                wanted = parse_route_target(rt)[1] if rt is not None else -1
            except NipapValueError:
                yield Problem(f'VRF {i}: {rt!r} is not a route target')
                continue
            if rank != wanted:
                yield Problem(f'VRF {i}: rt_rank is {rank}, must be {wanted}', 'rt_rank', Rank(i, wanted))
        if (0, 4) not in self.spaces:
            yield Problem('VRF 0 is missing')

    def _read_free_ranges(self) -> None:
        sql = """SELECT owner, abbrev(first_address), abbrev(last_address), fit FROM free_range
            ORDER BY owner, last_address"""
        for owner, first, last, fit in self.tx.stream(sql):
            self.free[owner].append((_number(first), _number(last), fit))

    def _tree(self) -> Iterator[Problem]:
        stack: list[_Open] = []
        for row in self.tx.stream(_PREFIXES):
            p = Stored(*row)
            width = WIDTH[p.family]
            bits = width - p.length
            address = _number(p.text)
            first = address >> bits << bits
            last = first + (1 << bits) - 1
            while stack and not _around(stack[-1], p, first, last):
                if found := self._close(stack):
                    yield from found
            parent = stack[-1] if stack else self._space(p)
            if found := self._rules(parent, p, address):
                yield from found
            _take(parent, first, last)
            stack.append(_Open(p, p.id, first, last, width, next_free=first))
        while stack:
            yield from self._close(stack)
        for (vrf, family), space in self.spaces.items():
            self.sums[vrf, family].total = space.used
            yield from self._ranges(space, f'VRF {vrf} IPv{family}')

    def _space(self, p: Stored) -> _Open:
        """Return the address space of a prefix without a parent. If its VRF does not exist, return a throwaway one."""
        width = WIDTH[p.family]
        return self.spaces.get((p.vrf_id, p.family)) or _Open(None, 0, 0, 2**width - 1, width)

    def _rules(self, parent: _Open, p: Stored, address: int) -> Sequence[Problem]:
        """Return the rules that a prefix breaks."""
        above = parent.stored.type if parent.stored else None
        wrong = []
        if above not in _AROUND.get(p.type, ()):
            wrong.append(f'a {p.type} inside {above or "no prefix"}')
        if p.type == 'host' and p.length != parent.width:
            wrong.append('a host that is not full length')
        if address & ((1 << parent.width - p.length) - 1):
            wrong.append('has bits set beyond its length')
        if parent.stored and parent.stored.length == p.length:
            wrong.append(f'the same network as id {parent.owner}')
        if (p.vrf_id, p.family) not in self.spaces:
            wrong.append('its VRF does not exist')
        return [Problem(f'{_name(p)}: {text}') for text in wrong] if wrong else ()

    def _close(self, stack: list[_Open]) -> Sequence[Problem]:
        """Pop the innermost prefix, of which every descendant has been read, and check its derived data."""
        node = stack.pop()
        p = node.stored
        if p is None:  # never on the stack
            return ()
        parent_id = stack[-1].owner if stack else None
        used = node.used if node.children or p.length != node.width else 1
        sums = self.sums[p.vrf_id, p.family]
        sums.prefixes += 1
        if parent_id is None:
            sums.used += used
        found: list[Problem] = []
        if node.children:
            found.extend(self._ranges(node, _name(p)))
        elif p.length != node.width:
            node.ranges = [(node.first, node.last, p.length)]
        free = None
        if p.default_length is not None:
            free = sum(_blocks(first, last, node.width - p.default_length) for first, last, _ in node.ranges)
        if (p.parent_id, p.children, p.used, p.free_blocks) != (parent_id, node.children, used, free):
            found.extend(_misplaced(p, Place(p.id, parent_id, node.children, used, free)))
        return found

    def _ranges(self, node: _Open, name: str) -> Sequence[Problem]:
        if node.next_free <= node.last:
            node.ranges.append((node.next_free, node.last, _fit(node.next_free, node.last, node.width)))
        stored = self.free.pop(node.owner, [])
        if stored == node.ranges:
            return ()
        text = f'{name}: its free ranges are {_show(stored)}, must be {_show(node.ranges)}'
        return (Problem(text, 'free ranges', FreeRanges(node.owner, node.width, node.ranges)),)

    def _vrf_totals(self) -> Iterator[Problem]:
        sql = """SELECT vrf_id, family, sum(num_prefixes), sum(total_addresses), sum(used_addresses)
            FROM vrf_total GROUP BY vrf_id, family"""
        stored: dict[tuple[int, int], Row] = {(row[0], row[1]): row[2:] for row in self.tx.all(sql)}
        for key in sorted({*stored, *self.spaces}):
            found = self.sums[key]
            wanted = (found.prefixes, found.total, found.used)
            if stored.get(key, (0, 0, 0)) != wanted:
                text = f'VRF {key[0]} IPv{key[1]}: totals are {stored.get(key, (0, 0, 0))}, must be {wanted}'
                yield Problem(text, 'totals of VRFs', Totals(*key, *wanted))

    def _pools(self) -> Iterator[Problem]:
        sql = """SELECT pool_id, count(DISTINCT vrf_id) FROM prefix WHERE pool_id IS NOT NULL
            GROUP BY pool_id ORDER BY pool_id"""
        for pool, vrfs in self.tx.all(sql):
            if vrfs != 1:
                yield Problem(f'pool {pool} has members in {vrfs} VRFs')

    def _words(self) -> Iterator[Problem]:
        sql = """SELECT coalesce(p.id, w.prefix_id) FROM prefix p FULL JOIN prefix_words w ON w.prefix_id = p.id
            WHERE p.id IS NULL OR w.words IS DISTINCT FROM words_of(p)"""
        for (i,) in self.tx.stream(sql):
            text = f'prefix {i}: its text in prefix_words differs from its attributes'
            yield Problem(text, 'prefix_words', Words(i))

    def _past(self) -> Iterator[Problem]:
        if self.tx.value("SELECT to_regprocedure('wrong_states()')") is None:
            return  # a later program has dropped the functions of this version
        for kind, i, position, why in self.tx.all('SELECT kind, id, position, why FROM wrong_states()'):
            yield Problem(f'{kind} {i} at position {position}: {why}', 'the past', PastState(kind, i, position))

    def _change_sets(self) -> Iterator[Problem]:
        """Check that audit entries have a change set with their actor and moment, and change sets a position."""
        for sql, text in _OF_CHANGE_SETS.items():
            for row in self.tx.stream(sql):
                yield Problem(text.format(*row))


# Each query finds violations. Its text describes one row of the result.
_SAME = """s.at = a.at AND s.username = a.username AND s.authenticated_as = a.authenticated_as
    AND s.authoritative_source = a.authoritative_source AND s.full_name IS NOT DISTINCT FROM a.full_name"""
_OF_CHANGE_SETS = {
    """SELECT id FROM audit_log WHERE change_set IS NULL AND id > (SELECT older_entries FROM change_state)""":
        'audit entry {}: it belongs to no change set',
    f"""SELECT id FROM audit_log a WHERE change_set IS NULL AND id <= (SELECT older_entries FROM change_state)
        AND NOT EXISTS (SELECT FROM change_set s WHERE {_SAME} AND a.id BETWEEN s.id AND s.last_older_entry)""":
        'audit entry {}, older than change sets: there is no change set with its moment and actor',
    f"""SELECT a.id, a.change_set FROM audit_log a WHERE a.change_set IS NOT NULL
        AND NOT EXISTS (SELECT FROM change_set s WHERE s.id = a.change_set AND {_SAME})""":
        'audit entry {}: there is no change set {} with its moment and actor',
    """SELECT s.id FROM change_set s WHERE s.last_older_entry IS NULL
        AND s.entries_after >= coalesce((SELECT max(end_id) FROM audit_detached WHERE attached IS NULL), 0)
        AND NOT EXISTS (SELECT FROM audit_log a WHERE a.change_set = s.id)""":
        'change set {}: it has no audit entry',
    """SELECT s.id FROM change_set s WHERE s.id <= (SELECT settled FROM change_state)
        AND NOT EXISTS (SELECT FROM change_order o WHERE o.change_set = s.id)""":
        'change set {}: it has no position',
    """SELECT o.position, o.change_set FROM change_order o
        WHERE NOT EXISTS (SELECT FROM change_set s WHERE s.id = o.change_set)""":
        'position {}: there is no change set {}',
    """SELECT position FROM (
            SELECT position, moment, lag(position, 1, 0::bigint) OVER w AS before, lag(moment) OVER w AS earlier
            FROM change_order WINDOW w AS (ORDER BY position)) o
        WHERE position <> before + 1 OR moment <= earlier""":
        'position {}: it does not follow the previous position, or its moment is not later',
    """SELECT s.position FROM change_state s
        LEFT JOIN (SELECT position, moment FROM change_order ORDER BY position DESC LIMIT 1) o ON true
        WHERE s.position <> coalesce(o.position, 0) OR s.moment <> o.moment""":
        'change_state: position {} is not the last one, or its moment differs',
}  # fmt: skip


def _around(node: _Open, p: Stored, first: int, last: int) -> bool:
    above = node.stored
    return (
        above is not None
        and above.vrf_id == p.vrf_id
        and above.family == p.family
        and node.first <= first
        and last <= node.last
    )


def _take(parent: _Open, first: int, last: int) -> None:
    if parent.next_free < first:
        parent.ranges.append((parent.next_free, first - 1, _fit(parent.next_free, first - 1, parent.width)))
    parent.next_free = last + 1
    parent.children += 1
    parent.used += last - first + 1


def _misplaced(p: Stored, right: Place) -> Iterator[Problem]:
    """Yield a problem for each derived column that is wrong. The first problem carries the row as it must be."""
    stored = Place(p.id, p.parent_id, p.children, p.used, p.free_blocks)
    row: Place | None = right
    for column, is_now, must_be in zip(Place._fields, stored, right, strict=True):
        if is_now != must_be:
            yield Problem(f'{_name(p)}: {column} is {is_now}, must be {must_be}', column, row)
            row = None


def _name(p: Stored) -> str:
    return f'{p.text}/{p.length} in VRF {p.vrf_id} (id {p.id})'


def _number(address: str) -> int:
    """Return an address as a number; -1 for a network with a mask."""
    if '/' in address:
        return -1
    if ':' in address:
        return int.from_bytes(socket.inet_pton(socket.AF_INET6, address), 'big')
    return int.from_bytes(socket.inet_aton(address), 'big')


def _blocks(first: int, last: int, bits: int) -> int:
    """Return the number of aligned blocks of 2^bits addresses that lie wholly in a range."""
    return max(0, ((last + 1) >> bits) - ((first + (1 << bits) - 1) >> bits)) if bits >= 0 else 0


def _fit(first: int, last: int, width: int) -> int:
    """Return the prefix length of the largest aligned block in a range."""
    bits = (last - first + 1).bit_length() - 1
    while not _blocks(first, last, bits):
        bits -= 1
    return width - bits


def _show(ranges: Ranges) -> str:
    shown = ', '.join(f'{first}-{last} /{fit}' for first, last, fit in ranges[:5])
    return f'[{shown}{", …" if len(ranges) > 5 else ""}]'
