"""The repair: what `check` finds to be derived wrongly is written as it must be; facts are never touched.

One transaction that keeps everybody else from changing the tree, writes the rows that are wrong and no others, looks
again, and is committed only when everything derived is right. Derived rows are no facts: nothing enters the audit log.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from nipap.errors import NipapError
from nipap.integrity.check import FreeRanges, Place, Problem, Rank, Right, Totals, Words, examine
from nipap.postgres.database import Database
from nipap.postgres.transaction import Transaction

AT_ONCE = 5000  # rows that are written by one statement, more or less

# Everybody's order: VRFs, then prefixes; who changes a pool or anything derived holds one of these. VRFs are locked row
# by row, as others lock them; their table in a mode that goes with that and keeps new ones out: a VRF that is added
# meanwhile could be seen without its ranges.
# The lock of a table is coarser than those of its rows: who locked, or only looked for, a prefix before a VRF waits for
# us while we wait for the table. So we let go of everything, as all these locks are those of a subtransaction, before
# PostgreSQL would call it a deadlock and end one of us. Who lasts longer than a few such attempts is waited for.
_LOCK = """DO $$
DECLARE
    usual text := current_setting('lock_timeout');
    patience int := (SELECT greatest(setting::int / 2, 1) FROM pg_settings WHERE name = 'deadlock_timeout');
    attempts int := 0;
    locked int[];
BEGIN
    LOOP
        BEGIN
            attempts := attempts + 1;
            PERFORM set_config('lock_timeout', CASE WHEN attempts <= 10 THEN patience ELSE 0 END::text, true);
            locked := ARRAY(SELECT id FROM vrf ORDER BY id FOR NO KEY UPDATE);
            LOCK TABLE vrf IN SHARE MODE;
            LOCK TABLE prefix IN EXCLUSIVE MODE;
            EXIT WHEN NOT EXISTS (SELECT FROM vrf WHERE NOT id = ANY (locked));
            RAISE lock_not_available;
        EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
            PERFORM pg_sleep(0.05);
        END;
    END LOOP;
    PERFORM set_config('lock_timeout', usual, true);
    -- The daemon never waits for these now; this is for who writes past it.
    LOCK TABLE free_range, vrf_total, prefix_words IN SHARE ROW EXCLUSIVE MODE;
END $$"""


@dataclass
class Outcome:
    """What a repair has done: how many of each kind it put right, and what it found, of much only the first."""

    repaired: Counter[str] = field(default_factory=Counter)
    found: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)  # wrong facts, all of them

    def note(self, problem: Problem, most_found: int) -> None:
        """Count a problem."""
        if problem.kind is None:
            self.left.append(problem.text)
            return
        self.repaired[problem.kind] += 1
        if len(self.found) < most_found:
            self.found.append(problem.text)


def repair(db: Database, *, most_found: int = 100) -> Outcome:
    """Put right everything derived, all of it or, when anything fails, nothing; waits for changes that are under way.

    most_found: how many of the problems that were put right the outcome has in words.

    :raises NipapError: something derived would still be wrong afterwards.
    """
    return db.run(lambda tx: _repair(tx, most_found))


def _repair(tx: Transaction, most_found: int) -> Outcome:
    tx.execute(_LOCK)
    outcome = Outcome()
    writer = _Writer(tx)
    for problem in examine(tx):
        outcome.note(problem, most_found)
        if problem.right is not None:
            writer.add(problem.right)
    writer.finish()
    if outcome.repaired:
        for problem in examine(tx):
            if problem.kind is not None:
                raise NipapError(f'The repair was undone, it would leave this: {problem.text}')
    return outcome


class _Writer:
    """Writes rows, many by one statement: a database of which nothing is right passes through without being held."""

    def __init__(self, tx: Transaction) -> None:
        self.tx = tx
        self.waiting: dict[type[Right], list[Any]] = {kind: [] for kind in _WRITERS}
        self.sizes: Counter[type[Right]] = Counter()

    def add(self, right: Right) -> None:
        """Write a row, now or later."""
        kind = type(right)
        self.waiting[kind].append(right)
        self.sizes[kind] += 1 + len(right.ranges) if isinstance(right, FreeRanges) else 1
        if self.sizes[kind] >= AT_ONCE:
            self._write(kind)

    def finish(self) -> None:
        """Write what waits."""
        for kind in self.waiting:
            self._write(kind)

    def _write(self, kind: type[Right]) -> None:
        rows, self.waiting[kind], self.sizes[kind] = self.waiting[kind], [], 0
        if rows:
            _WRITERS[kind](self.tx, rows)


def _write_ranks(tx: Transaction, rows: Sequence[Rank]) -> None:
    tx.execute(
        """UPDATE vrf v SET rt_rank = r.rt_rank
        FROM unnest(%s::int[], %s::numeric[]) r (id, rt_rank) WHERE v.id = r.id""",
        _columns(rows),
    )


def _write_places(tx: Transaction, rows: Sequence[Place]) -> None:
    tx.execute(
        """UPDATE prefix p SET parent_id = r.parent_id, children = r.children, used_addresses = r.used_addresses,
            free_blocks = r.free_blocks
        FROM unnest(%s::bigint[], %s::bigint[], %s::int[], %s::numeric[], %s::numeric[])
            r (id, parent_id, children, used_addresses, free_blocks)
        WHERE p.id = r.id""",
        _columns(rows),
    )


def _write_free_ranges(tx: Transaction, rows: Sequence[FreeRanges]) -> None:
    """Of an owner with some wrong ranges the right ones stay as they are."""
    wanted = [
        (row.owner, _address(first, row.width), _address(last, row.width), fit)
        for row in rows
        for first, last, fit in row.ranges
    ]
    columns = _columns(wanted) or ([], [], [], [])
    ranges = 'unnest(%s::bigint[], %s::inet[], %s::inet[], %s::int[]) r (owner, first_address, last_address, fit)'
    tx.execute(
        f"""DELETE FROM free_range f WHERE owner = ANY (%s::bigint[]) AND NOT EXISTS (
            SELECT FROM {ranges} WHERE r.owner = f.owner AND r.last_address = f.last_address)""",
        ([row.owner for row in rows], *columns),
    )
    tx.execute(
        f"""INSERT INTO free_range AS f SELECT * FROM {ranges}
        ON CONFLICT ON CONSTRAINT free_range_pkey
        DO UPDATE SET first_address = excluded.first_address, fit = excluded.fit
        WHERE (f.first_address, f.fit) <> (excluded.first_address, excluded.fit)""",
        columns,
    )


def _write_totals(tx: Transaction, rows: Sequence[Totals]) -> None:
    """One row takes the place of those among which a total was spread."""
    columns = _columns(rows)
    tx.execute(
        'DELETE FROM vrf_total t USING unnest(%s::int[], %s::int[]) r (v, f) WHERE t.vrf_id = r.v AND t.family = r.f',
        columns[:2],
    )
    tx.execute(
        """INSERT INTO vrf_total (vrf_id, family, slot, num_prefixes, total_addresses, used_addresses)
        SELECT v, f, 0, n, t, u FROM unnest(%s::int[], %s::int[], %s::bigint[], %s::numeric[], %s::numeric[])
            r (v, f, n, t, u) WHERE n > 0""",
        columns,
    )


def _write_words(tx: Transaction, rows: Sequence[Words]) -> None:
    columns = _columns(rows)
    tx.execute(
        """DELETE FROM prefix_words w WHERE prefix_id = ANY (%s::bigint[])
        AND NOT EXISTS (SELECT FROM prefix p WHERE p.id = w.prefix_id)""",
        columns,
    )
    tx.execute(
        """INSERT INTO prefix_words SELECT p.id, words_of(p) FROM prefix p WHERE p.id = ANY (%s::bigint[])
        ON CONFLICT ON CONSTRAINT prefix_words_pkey DO UPDATE SET words = excluded.words""",
        columns,
    )


_WRITERS: dict[type[Right], Callable[[Transaction, Any], None]] = {
    Rank: _write_ranks,
    Place: _write_places,
    FreeRanges: _write_free_ranges,
    Totals: _write_totals,
    Words: _write_words,
}


def _columns(rows: Sequence[tuple[Any, ...]]) -> tuple[list[Any], ...]:
    """Rows as columns, for unnest."""
    return tuple(map(list, zip(*rows, strict=True)))


def _address(number: int, width: int) -> str:
    family = socket.AF_INET if width == 32 else socket.AF_INET6
    return socket.inet_ntop(family, number.to_bytes(width // 8, 'big'))
