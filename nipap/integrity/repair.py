"""The repair: write the derived rows that `check` reports as wrong. Facts are never touched.

The repair is one transaction that blocks all other changes to the tree. It writes only the wrong rows, checks again,
and is committed only if all derived data is right. Derived rows are not facts, so nothing enters the audit log.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from nipap.errors import NipapError
from nipap.integrity.check import FreeRanges, PastState, Place, Problem, Rank, Right, Totals, Words, examine
from nipap.postgres.database import Database
from nipap.postgres.transaction import Transaction

# The approximate number of rows that one statement writes.
AT_ONCE = 5000

# All sessions lock VRFs first, then prefixes. A change to a pool or to derived data holds one of these locks. VRFs are
# locked row by row, as other sessions lock them. The table lock on vrf is compatible with these row locks and keeps new
# VRFs out: a VRF added meanwhile could be seen without its ranges.
# A table lock is coarser than the row locks: a session that locked a prefix, or only searched for one to lock, before a
# VRF waits for us while we wait for the table. So an attempt gives up after half of deadlock_timeout, before PostgreSQL
# would report a deadlock and cancel one of the sessions. All these locks belong to a subtransaction: its end releases
# them. After 10 attempts the repair waits without a limit.
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
    """The result of a repair: the repaired problems by kind, the texts of the first of them, and all wrong facts."""

    repaired: Counter[str] = field(default_factory=Counter)
    found: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def note(self, problem: Problem, most_found: int) -> None:
        """Count a problem."""
        if problem.kind is None:
            self.left.append(problem.text)
            return
        self.repaired[problem.kind] += 1
        if len(self.found) < most_found:
            self.found.append(problem.text)


def repair(db: Database, *, most_found: int = 100) -> Outcome:
    """Repair all derived data, or nothing if anything fails. Wait for changes that are in progress.

    most_found: how many of the repaired problems the outcome describes in words.

    :raises NipapError: the second check still finds wrong derived data.
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
                raise NipapError(f'The repair was undone, since it would leave a problem: {problem.text}')
    return outcome


class _Writer:
    """A buffer of rows, written many by one statement. Even if all rows are wrong, they are never in memory at once."""

    def __init__(self, tx: Transaction) -> None:
        self.tx = tx
        self.waiting: dict[type[Right], list[Any]] = {kind: [] for kind in _WRITERS}
        self.sizes: Counter[type[Right]] = Counter()

    def add(self, right: Right) -> None:
        """Add a row, and write the rows of its kind if they are enough for a statement."""
        kind = type(right)
        self.waiting[kind].append(right)
        self.sizes[kind] += 1 + len(right.ranges) if isinstance(right, FreeRanges) else 1
        if self.sizes[kind] >= AT_ONCE:
            self._write(kind)

    def finish(self) -> None:
        """Write the remaining rows."""
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
    """Write the free ranges of owners. Correct ranges of these owners stay untouched."""
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
    """Replace all rows of a total, which may be spread over several slots, by one row."""
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


def _forget_past(tx: Transaction, _rows: Sequence[PastState]) -> None:
    """Empty the tables of the past. The daemon builds them again from the audit log."""
    tx.execute('SELECT forget_past()')


_WRITERS: dict[type[Right], Callable[[Transaction, Any], None]] = {
    Rank: _write_ranks,
    Place: _write_places,
    FreeRanges: _write_free_ranges,
    Totals: _write_totals,
    Words: _write_words,
    PastState: _forget_past,
}


def _columns(rows: Sequence[tuple[Any, ...]]) -> tuple[list[Any], ...]:
    """Return rows as columns, for unnest."""
    return tuple(map(list, zip(*rows, strict=True)))


def _address(number: int, width: int) -> str:
    family = socket.AF_INET if width == 32 else socket.AF_INET6
    return socket.inet_ntop(family, number.to_bytes(width // 8, 'big'))
