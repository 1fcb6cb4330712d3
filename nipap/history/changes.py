"""The past, read from the audit log: entries and change sets, newest first.

A page is made in two steps. The ids of its entries come first, from the newest part of the log to the oldest; then the
entries are read. So a search reads no part of the log that it does not need, and PostgreSQL plans a statement for few
partitions. A search in a part of the tree takes turns: it collects the entries of that part by its index, or walks the
log from its end, whichever ends first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from nipap.attributes import AUDIT, CHANGE_SET, Table, shown
from nipap.errors import NipapExtraneousInputError, NipapInputError
from nipap.history.sentences import differences, sentence
from nipap.postgres.transaction import Transaction
from nipap.search import running
from nipap.search.condition import EVERYTHING, Condition, InTime, OfSet, Place, all_of
from nipap.search.entries import FORMER, MOVED, PLACE, inside
from nipap.search.paging import Page
from nipap.search.query import equals

Entry = dict[str, Any]

PARTITION = 10_000_000  # ids in a partition of the audit log
FEW = 3_000  # entries of a place that are collected at once
MANY = 400_000
WALKED = 20_000  # ids at the end of the log that are looked through before many entries are collected
AT_ONCE = 1_000
MOST_ENTRIES = 1_000  # of one change set in an answer
FIRST_ENTRIES = 10  # of each change set in a list

_SET = 'LEFT JOIN LATERAL (SELECT * FROM change_set z WHERE z.id = change_set_of(a)) s ON true'
_FROM = f'audit_log a {_SET}'
# Webhooks are known to those who may manage them.
NO_WEBHOOKS = Condition("a.object_type <> 'webhook'")
_OTHER_ENTRIES = """EXISTS (SELECT FROM audit_log a WHERE a.change_set = s.id AND a.id > s.entries_after
    AND a.object_type <> 'webhook')"""
NO_SETS_OF_WEBHOOKS = Condition(f'(s.last_older_entry IS NOT NULL OR {_OTHER_ENTRIES})')


# ---------------------------------------------------------------- specs


def read_spec(table: Table, noun: str, spec: object) -> Condition:
    """Return the condition of a spec, whose members must all be equal; everything for nil and ``{}``.

    :raises NipapInputError, NipapExtraneousInputError, NipapValueError:
    """
    if spec is None:
        return EVERYTHING
    if not isinstance(spec, dict):
        raise NipapInputError(f'{noun} specification must be a dict')
    for name in spec:
        if name not in table:
            raise NipapExtraneousInputError(f'extraneous specification key {shown(name)}').about(str(name))
    return all_of([equals(table[name], value) for name, value in spec.items()])


# ---------------------------------------------------------------- entries


@dataclass(frozen=True)
class _Range:
    """Ids of entries, from the first to the last."""

    first: int
    last: int

    def parts(self) -> Iterator[_Range]:
        """Yield the range in parts, the newest first: one partition, then two, four and so on."""
        last, partitions = self.last, 1
        while last >= self.first:
            first = max(self.first, (last // PARTITION - partitions + 1) * PARTITION)
            yield _Range(first, last)
            last, partitions = first - 1, partitions * 2


def find(tx: Transaction, condition: Condition, page: Page | None = None) -> list[Entry]:
    """Return the audit entries for which a condition holds, the newest first. All of them if page is None."""
    limit = page.max_result if page is not None else None
    offset = page.offset if page is not None else 0
    wanted = None if limit is None else offset + limit
    before = page.after[0] if page is not None and page.after else None
    ids = _ids(tx, condition, before, wanted)[offset:]
    return _read(tx, ids)


def find_all(tx: Transaction, condition: Condition, page: Page | None = None) -> Iterator[list[Entry]]:
    """Yield the audit entries for which a condition holds, the newest first, some at a time."""
    if page is not None and page.max_result is not None:
        yield find(tx, condition, page)
        return
    before = None
    skip = page.offset if page is not None else 0
    while True:
        found = find(tx, condition, Page(AT_ONCE, skip, before))
        if found:
            yield found
        if len(found) < AT_ONCE:
            return
        before, skip = (found[-1]['id'],), 0


def _ids(tx: Transaction, condition: Condition, before: int | None, wanted: int | None) -> list[int]:
    """Return the ids of the first matching entries, all of them if `wanted` is None, below an id."""
    if wanted == 0:
        return []
    of_set = condition.hint(OfSet)
    ranges = _ranges(tx, condition, before) if of_set is None else _ranges_of_set(tx, of_set.number, before)
    if of_set is not None and ranges and not _is_older(ranges):
        condition = all_of([condition, Condition('a.change_set = %s', (of_set.number,))])
    place = condition.hint(Place)
    found: list[int] = []
    if place is not None and wanted is not None:
        for within in ranges:
            found += _ids_in_place(tx, condition, place, within, wanted - len(found))
            if len(found) >= wanted:
                break
        return found
    for within in ranges:
        for part in within.parts():
            found += _walk(tx, condition, part, None if wanted is None else wanted - len(found))
            if wanted is not None and len(found) >= wanted:
                return found
    return found


def _ranges(tx: Transaction, condition: Condition, before: int | None) -> list[_Range]:
    """Return the ids among which a condition can hold, the newest first."""
    time = condition.hint(InTime) or InTime(None, None)
    newest, tail, first, last = tx.all_prepared(
        'SELECT * FROM audit_range(%s::timestamptz, %s::timestamptz)', (time.since, time.until)
    )[0]
    ends = [_Range(tail, newest), _Range(first, last)] if time.until is not None else [_Range(first, newest)]
    if before is not None:
        ends = [_Range(each.first, min(each.last, before - 1)) for each in ends]
    return [each for each in ends if each.first <= each.last]


def _ranges_of_set(tx: Transaction, number: int, before: int | None) -> list[_Range]:
    """Return the ids among which the entries of a change set are."""
    found = tx.all_prepared(
        "SELECT entries_after, last_older_entry, coalesce(pg_sequence_last_value('audit_log_id_seq'), 0) "
        'FROM change_set WHERE id = %s',
        (number,),
    )
    if not found:
        return []
    after, last_older, newest = found[0]
    first, last = (after + 1, newest) if last_older is None else (number, last_older)
    last = last if before is None else min(last, before - 1)
    return [_SetRange(first, last, last_older is not None)] if first <= last else []


@dataclass(frozen=True)
class _SetRange(_Range):
    older: bool = False


def _is_older(ranges: list[_Range]) -> bool:
    return any(isinstance(each, _SetRange) and each.older for each in ranges)


def _walk(tx: Transaction, condition: Condition, within: _Range, wanted: int | None) -> list[int]:
    """Look through entries from the newest to the oldest, until enough of them match."""
    source = _FROM if 's.' in condition.sql else 'audit_log a'
    sql = f"""SELECT a.id FROM {source} WHERE {condition.sql} AND a.id BETWEEN {within.first:d} AND {within.last:d}
        ORDER BY a.id DESC"""
    found = running.run_search(tx, sql if wanted is None else f'{sql} LIMIT {wanted:d}', condition, condition.params)
    return [row[0] for row in found]


def _ids_in_place(tx: Transaction, condition: Condition, place: Place, within: _Range, wanted: int) -> list[int]:
    """Return the ids of the first matching entries of a part of the tree.

    The cost follows the cheaper of two ways: the entries of that part by their index, or the entries from the end on.
    """
    if (found := _collected(tx, condition, place, within, wanted, FEW)) is not None:
        return found
    end = _Range(max(within.first, within.last - WALKED + 1), within.last)
    walked = _walk(tx, condition, end, wanted)
    if len(walked) >= wanted or end.first == within.first:
        return walked
    rest, left = _Range(within.first, end.first - 1), wanted - len(walked)
    found = _collected(tx, condition, place, rest, left, MANY)
    return walked + (_walk(tx, condition, rest, left) if found is None else found)


def _collected(
    tx: Transaction, condition: Condition, place: Place, within: _Range, wanted: int, most: int
) -> list[int] | None:
    """Return the ids of the first matches among all entries of a place; None if there are more entries than `most`."""
    found: list[int] = []
    last = within.last
    while True:
        hits, params = _in_place(place, _Range(within.first, last), most + 1)
        number, ids = tx.all(
            f"""WITH hits AS MATERIALIZED ({hits}) SELECT (SELECT count(*) FROM hits),
            ARRAY(SELECT id FROM hits ORDER BY id DESC LIMIT {FEW})""",
            params,
        )[0]
        if number > most:
            return None
        found += _among(tx, condition, list(dict.fromkeys(ids)), wanted - len(found)) if ids else []
        if len(found) >= wanted or len(ids) < FEW:
            return found
        last = ids[-1] - 1


def _in_place(place: Place, within: _Range, most: int) -> tuple[str, tuple[Any, ...]]:
    """Return SQL for the ids of at most so many entries of prefixes in a place, now or formerly.

    A prefix that was moved inside the place has its id twice. Without a network, the entries of the VRF are among them.
    """
    vrf = '= %s' if place.vrf_id is not None else f'= ANY (ARRAY(SELECT generate_series(0, {_LAST_VRF})))'
    params: tuple[Any, ...] = () if place.vrf_id is None else (place.vrf_id,)
    ids = f'a.id BETWEEN {within.first:d} AND {within.last:d}'
    parts, every = [], ()
    for columns, which in ((PLACE, "a.object_type = 'prefix'"), (FORMER, MOVED)):
        sql, more = inside(columns.format('prefix', 'cidr'), *place.network) if place.network else ('true', ())
        in_vrf = f'{columns.format("vrf_id", "int")} {vrf}'
        parts.append(f'SELECT a.id FROM audit_log a WHERE {which} AND {in_vrf} AND {sql} AND {ids}')
        every += (*params, *more)
    if place.network is None:
        parts.append(f"SELECT a.id FROM audit_log a WHERE a.object_type = 'vrf' AND a.object_id = %s AND {ids}")
        every += params
    return f'SELECT id FROM ({" UNION ALL ".join(parts)}) q LIMIT {most:d}', every


_LAST_VRF = "coalesce(pg_sequence_last_value('vrf_id_seq'), 0)::int"


def _among(tx: Transaction, condition: Condition, ids: list[int], wanted: int) -> list[int]:
    """Return the first of these ids whose entries match, the newest first."""
    source = _FROM if 's.' in condition.sql else 'audit_log a'
    sql = f'SELECT a.id FROM {source} WHERE a.id = ANY (%s) AND {condition.sql} ORDER BY a.id DESC LIMIT {wanted:d}'
    return [row[0] for row in running.run_search(tx, sql, condition, (ids, *condition.params))]


# ---------------------------------------------------------------- the form of entries


_COLUMNS = ', '.join(attribute.sql for attribute in AUDIT.values())


def _read(tx: Transaction, ids: list[int]) -> list[Entry]:
    """Return audit entries by id, in this order, as clients see them."""
    found: list[Entry] = []
    for first in range(0, len(ids), AT_ONCE):
        some = ids[first : first + AT_ONCE]
        sql = f'SELECT {_COLUMNS}, a.before, a.after FROM {_FROM} WHERE a.id = ANY (%s) ORDER BY a.id DESC'
        found += [dict(zip((*AUDIT, 'before', 'after'), row, strict=True)) for row in tx.all(sql, (some,))]
    _complete(tx, found)
    return found


def _complete(tx: Transaction, entries: list[Entry]) -> None:
    """Add the differences and the sentence to entries, in place."""
    names = _Names.of(tx, entries)
    for entry in entries:
        entry['changes'] = differences(entry['before'], entry['after'])
        entry['sentence'] = sentence(entry, partial(names.at, entry['id']))


_RENAMES = """SELECT a.object_type, a.object_id, a.id, a.before ->> 'name', a.after ->> 'name' FROM audit_log a
WHERE (a.object_type = 'vrf' AND a.object_id = ANY (%s) OR a.object_type = 'pool' AND a.object_id = ANY (%s))
    AND a.before ->> 'name' IS DISTINCT FROM a.after ->> 'name' ORDER BY a.id"""
_PRESENT = """SELECT 'vrf', id, name FROM vrf WHERE id = ANY (%s::bigint[])
UNION ALL SELECT 'pool', id, name FROM pool WHERE id = ANY (%s::bigint[])"""


class _Names:
    """The names of VRFs and pools at any time."""

    def __init__(self) -> None:
        self._present: dict[tuple[str, int], str] = {}
        self._renames: dict[tuple[str, int], list[tuple[int, str | None, str | None]]] = {}

    @classmethod
    def of(cls, tx: Transaction, entries: list[Entry]) -> _Names:
        """Return the names of the VRFs and pools of entries of prefixes."""
        names = cls()
        facts = [side for entry in entries for side in (entry['before'], entry['after']) if entry['kind'] == 'prefix']
        wanted = [sorted({side[name] for side in facts if side and name in side}) for name in ('vrf_id', 'pool_id')]
        if any(wanted):
            for kind, key, name in tx.all_prepared(_PRESENT, wanted):
                names._present[kind, key] = name
            for kind, key, at, before, after in tx.all_prepared(_RENAMES, wanted):
                names._renames.setdefault((kind, key), []).append((at, before, after))
        return names

    def at(self, entry: int, kind: str, key: int) -> str | None:
        """Return the name that an object had when an entry was written; None if it is not known."""
        name = None
        renames = self._renames.get((kind, key), [])
        for at, before, after in renames:
            if at > entry:
                return name if name is not None else before
            name = after if after is not None else before
        return name if name is not None else self._present.get((kind, key))


# ---------------------------------------------------------------- change sets


def find_sets(tx: Transaction, condition: Condition, page: Page | None = None) -> list[Entry]:
    """Return the change sets for which a condition holds, the newest first, each with its first entries."""
    columns = ', '.join(attribute.sql for attribute in CHANGE_SET.values())
    if page is not None:
        condition = running.behind(condition, page)
    time = condition.hint(InTime)
    if time is not None and time.since is not None:
        condition = all_of([condition, Condition(_SETS_SINCE, (time.since,))])
    sql = f'SELECT {columns} FROM change_set s WHERE {condition.sql} ORDER BY s.id DESC{running.limit(page)}'
    found = [
        dict(zip(CHANGE_SET, row, strict=True)) for row in running.run_search(tx, sql, condition, condition.params)
    ]
    return found


# Change sets of a time have numbers above those that were committed before it.
_SETS_SINCE = """s.id > coalesce((SELECT o.change_set FROM change_order o WHERE o.moment < %s::timestamptz
    ORDER BY o.moment DESC LIMIT 1), 0)"""


_FIRST_ENTRIES = """SELECT s.id, e.id FROM change_set s CROSS JOIN LATERAL (
    SELECT a.id FROM audit_log a WHERE a.change_set = s.id AND a.id > s.entries_after
        AND (a.object_type <> 'webhook' OR %s) ORDER BY a.id LIMIT %s) e
WHERE s.id = ANY (%s::bigint[]) AND s.last_older_entry IS NULL
UNION ALL SELECT s.id, e.id FROM change_set s CROSS JOIN LATERAL (
    SELECT a.id FROM entries_of(s.id) a WHERE a.object_type <> 'webhook' OR %s ORDER BY a.id LIMIT %s) e
WHERE s.id = ANY (%s::bigint[]) AND s.last_older_entry IS NOT NULL"""


def add_entries(tx: Transaction, sets: list[Entry], most: int, *, webhooks: bool) -> None:
    """Add to each change set, in place, its first entries in the order of the changes, and whether it has more."""
    args = (webhooks, most + 1, [one['id'] for one in sets])
    ids: dict[int, list[int]] = {one['id']: [] for one in sets}
    for number, entry in tx.all_prepared(_FIRST_ENTRIES, args + args):
        ids[number].append(entry)
    wanted = sorted((entry for some in ids.values() for entry in sorted(some)[:most]), reverse=True)
    entries = {entry['id']: entry for entry in _read(tx, wanted)}
    for one in sets:
        own = sorted(ids[one['id']])
        one['entries'] = [entries[entry] for entry in own[:most]]
        one['more'] = len(own) > most
