"""The partitions of the audit log: ranges of entry ids, each a table of its own."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from nipap.attributes import shown
from nipap.errors import NipapNonExistentError, NipapValueError
from nipap.postgres.database import Database, LockNotAvailable
from nipap.postgres.transaction import Transaction
from nipap.runtime import waiting

LOCK_PATIENCE_MS = 500
PAUSE_S = 0.5

REST = 'audit_log_rest'  # for entries without another partition
NAME = re.compile(r'audit_log_(?:[1-9][0-9]{0,9}|rest)')


class Bound(NamedTuple):
    """A partition with its ids: from `first`, or from the beginning if None, to below `end`."""

    name: str
    first: int | None
    end: int


class Layout(NamedTuple):
    """The tables of an audit log: the partitions in the order of their ids, and the names of detached ones."""

    attached: list[Bound]
    detached: list[str]


# The text of a bound is "FOR VALUES FROM ('1') TO ('2')", or "FOR VALUES FROM (MINVALUE) TO ('2')", or DEFAULT.
_BOUNDS = r"""SELECT relname, substring(bound, 'FROM \(''(-?\d+)''\)')::bigint,
    substring(bound, 'TO \(''(-?\d+)''\)')::bigint
FROM (SELECT relname, pg_get_expr(relpartbound, c.oid) AS bound FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid
    WHERE inhparent = to_regclass('audit_log')) b
WHERE bound <> 'DEFAULT' ORDER BY 3"""
_DETACHED = 'SELECT name FROM audit_detached WHERE attached IS NULL ORDER BY 1'


def layout(tx: Transaction) -> Layout:
    """Return the layout of the log, without the default partition; an empty one of a log without partitions."""
    detached = tx.value("SELECT to_regclass('audit_detached')") and tx.all(_DETACHED)
    return Layout([Bound(*row) for row in tx.all(_BOUNDS)], [name for (name,) in detached or []])


def parse(listed: object, names: object) -> Layout:
    """Return a layout from the manifest of a dump: the partitions, and the names of detached ones.

    :raises ValueError: the names or ids cannot be those of partitions.
    """
    attached = _parse_bounds(listed)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError('no list of names')
    every = [*(each.name for each in attached), *names]
    if len(set(every)) < len(every) or not all(NAME.fullmatch(name) and name != REST for name in every):
        raise ValueError('impossible names')
    return Layout(attached, names)


def _parse_bounds(listed: object) -> list[Bound]:
    if not isinstance(listed, list):
        raise ValueError('no list')
    found = [Bound(*each) for each in listed if isinstance(each, list) and len(each) == 3]
    before = 0
    for n, (name, first, end) in enumerate(found):
        begins = (type(first) is int and first >= before) or (first is None and n == 0)
        if not (begins and type(end) is int and max(before, first or 0) < end < 2**63):
            raise ValueError(f'impossible range {first} to {end}')
        if not isinstance(name, str):
            raise ValueError('a name is no text')
        before = end
    if len(found) < len(listed):
        raise ValueError('something else than partitions')
    return found


def replace(tx: Transaction, wanted: Layout) -> None:
    """Replace the partitions of an empty log, except the default one."""
    for name in wanted.detached:
        tx.execute(f'CREATE TABLE {name} (LIKE audit_log INCLUDING ALL)')
        tx.execute(f"COMMENT ON TABLE {name} IS 'A partition of audit_log.'")
    if not wanted.attached:
        return
    for each in layout(tx).attached:
        tx.execute(f'DROP TABLE {each.name}')
    for each in wanted.attached:
        first = 'MINVALUE' if each.first is None else f'{each.first:d}'
        tx.execute(f'CREATE TABLE {each.name} PARTITION OF audit_log FOR VALUES FROM ({first}) TO ({each.end:d})')
        tx.execute(f"COMMENT ON TABLE {each.name} IS 'A partition of audit_log.'")


# ---------------------------------------------------------------- upkeep


def keep(db: Database, months: int) -> str | None:
    """Take the next step of the upkeep that is due; return a description, or None when nothing is due.

    months: partitions whose entries are all older are detached; 0: none.

    :raises LockNotAvailable: other sessions have held locks that the step needs. Try again later.
    """
    done: str | None = db.run(lambda tx: tx.value('SELECT keep_partitions(%s)', (months,)))
    return done


def may_keep(tx: Transaction) -> bool:
    """Return whether this session may call `keep`."""
    return bool(tx.value("SELECT has_function_privilege('keep_partitions(integer)', 'EXECUTE')"))


def detached_before(tx: Transaction) -> datetime | None:
    """Return the time of the newest entry in a detached partition; None if no partition is detached.

    The history up to this time is incomplete.
    """
    found: datetime | None = tx.value('SELECT detached_before()')
    return found


class Partition(NamedTuple):
    """A partition as `listed` returns it.

    last: the last id that it may have. oldest and newest: the times of its entries, as far as they are known.
    state: ``attached``, ``ahead`` (no entry can be in it yet), ``rest`` (the default partition) or ``detached``.
    """

    name: str
    state: str
    first: int | None
    last: int | None
    oldest: datetime | None
    newest: datetime | None
    size: int


_LISTED = f"""WITH parts AS (
    SELECT name, first_id, end_id, CASE WHEN first_id > coalesce(pg_sequence_last_value('audit_log_id_seq'), 0)
        THEN 'ahead' ELSE 'attached' END AS state FROM audit_partitions()
    UNION ALL SELECT '{REST}', NULL, NULL, 'rest'
    UNION ALL SELECT name, coalesce(first_id, 0), end_id, 'detached' FROM audit_detached WHERE attached IS NULL
)
SELECT p.name, p.state, p.first_id, p.end_id - 1, coalesce(d.oldest, s.oldest), coalesce(d.newest, s.newest),
    pg_total_relation_size(audit_table(p.name)::regclass)
FROM parts p LEFT JOIN audit_detached d ON d.name = p.name CROSS JOIN LATERAL (
    SELECT min(oldest) AS oldest, max(newest) AS newest FROM audit_span
    WHERE last_id >= p.first_id AND audit_span.first_id < p.end_id) s
ORDER BY p.first_id NULLS LAST"""


def listed(tx: Transaction) -> list[Partition]:
    """Return all partitions, also detached ones, in the order of their ids."""
    return [Partition(*row) for row in tx.all(_LISTED)]


def detach(db: Database, name: str) -> None:
    """Detach a partition. Its entries are no longer found, but the table keeps them.

    :raises NipapNonExistentError, NipapValueError: there is no such partition, or it is still needed.
    """

    def work(tx: Transaction) -> None:
        found = _named(tx, name)
        if found.state != 'attached':
            raise NipapValueError(f'{name} cannot be detached, it is {_STATES[found.state]}')
        if not tx.value('SELECT can_detach(%s, %s)', (found.first, (found.last or 0) + 1)):
            raise NipapValueError(
                f'{name} cannot be detached yet: entries may still be added to it, or delivery of events needs it'
            )
        _impatient(tx)
        tx.execute('SELECT detach_partition(%s)', (name,))

    _patiently(db, work)


def attach(db: Database, name: str) -> None:
    """Attach a detached partition. It stays attached until it is detached by name, whatever its age.

    :raises NipapNonExistentError, NipapValueError: there is no such partition, or it is attached.
    """

    def work(tx: Transaction) -> None:
        found = _named(tx, name)
        if found.state != 'detached':
            raise NipapValueError(f'{name} cannot be attached, it is {_STATES[found.state]}')
        _impatient(tx)
        tx.execute('SELECT attach_partition(%s)', (name,))

    # The rows are checked first, by a transaction of its own: nobody waits for that.
    db.run(lambda tx: tx.execute('SELECT check_detached(%s)', (name,)))
    _patiently(db, work)


_STATES = {'attached': 'attached', 'ahead': 'still empty', 'rest': 'the default partition', 'detached': 'detached'}


def _named(tx: Transaction, name: str) -> Partition:
    for each in listed(tx):
        if each.name == name:
            return each
    raise NipapNonExistentError(f'There is no partition {shown(name)}; nipap-admin audit partitions lists all')


def _impatient(tx: Transaction) -> None:
    tx.execute(f"SET LOCAL lock_timeout = '{LOCK_PATIENCE_MS}ms'")


def _patiently(db: Database, work: Callable[[Transaction], None]) -> None:
    """Run the work until it gets its locks. Calls wait at most LOCK_PATIENCE_MS behind it each time."""
    while True:
        try:
            return db.run(work)
        except LockNotAvailable:
            waiting.sleep(PAUSE_S)
