"""The past, read from the audit log: entries and change sets, newest first.

A search goes from the newest part of the log to the oldest: one partition, then two, four and so on. So it reads no
part of the log that it does not need, and PostgreSQL plans a statement for few partitions.

The index on places has the order of the tree, not of time. A search in a part of the tree looks through the newest
entries first. If few of them match, it takes samples of the index on places. Each sample says how old a match of the
page may be at most, until all matches that are not older have been found. PostgreSQL compares ids in the index, so
entries that are too old are not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from nipap.attributes import AUDIT, CHANGE_SET, Table, shown
from nipap.errors import NipapExtraneousInputError, NipapInputError
from nipap.history import events
from nipap.history.sentences import differences, sentence
from nipap.postgres.transaction import Transaction
from nipap.search import running
from nipap.search.condition import EVERYTHING, ByKey, Condition, InTime, OfSet, Place, all_of
from nipap.search.entries import BY_INDEX, FORMER, MOVED, PLACE, inside
from nipap.search.paging import Page
from nipap.search.query import equals

Entry = dict[str, Any]

PARTITION = 10_000_000  # ids in a partition of the audit log
WALKED = 300  # ids at the end of a part of the log that are looked through first
MOST_WALKED = 5_000  # ids that are looked through, if the first ones had matches
SAMPLE = 300  # entries of a place that are read from either end of the index
ROUNDS = 12  # samples
MOST_CANDIDATES = 5_000
AT_ONCE = 1_000
MOST_ENTRIES = 1_000  # of one change set in an answer
FIRST_ENTRIES = 10  # of each change set in a list

_FROM = 'audit_log a LEFT JOIN LATERAL (SELECT * FROM change_set z WHERE z.id = change_set_of(a)) s ON true'
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
    found = _find(tx, condition, before, wanted)[offset:]
    _complete(tx, found)
    return found


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


def _find(tx: Transaction, condition: Condition, before: int | None, wanted: int | None) -> list[Entry]:
    """Return the first matching entries, all of them if `wanted` is None, below an id."""
    if wanted == 0:
        return []
    of_set = condition.hint(OfSet)
    if of_set is None:
        ranges = _ranges(tx, condition, before)
    else:
        ranges, of_new_set = _ranges_of_set(tx, of_set.number, before)
        condition = all_of([condition, of_new_set])
    place = condition.hint(Place)
    found: list[Entry] = []
    for within in ranges:
        for number, part in enumerate(within.parts()):
            left = None if wanted is None else wanted - len(found)
            if number == 1 and left is not None and _is_prepared(condition):
                rest = _Range(within.first, part.last)
                if place is None:
                    return found + _walk_prepared(tx, condition, rest, left)
                return found + _find_in_place(tx, condition, place, rest, left, prepared=True)
            if place is None or left is None:
                found += _walk(tx, condition, part, left)
            else:
                found += _find_in_place(tx, condition, place, part, left)
            if wanted is not None and len(found) >= wanted:
                return found
    return found


def _ranges(tx: Transaction, condition: Condition, before: int | None) -> list[_Range]:
    """Return the ids among which a condition can hold, the newest first."""
    time = condition.hint(InTime) or InTime(None, None)
    if before is not None and time == InTime(None, None):
        return [_Range(0, before - 1)] if before > 0 else []
    newest, tail, first, last = tx.all_prepared(
        'SELECT * FROM audit_range(%s::timestamptz, %s::timestamptz)', (time.since, time.until)
    )[0]
    ends = [_Range(tail, newest), _Range(first, last)] if time.until is not None else [_Range(first, newest)]
    if before is not None:
        ends = [_Range(each.first, min(each.last, before - 1)) for each in ends]
    return [each for each in ends if each.first <= each.last]


def _ranges_of_set(tx: Transaction, number: int, before: int | None) -> tuple[list[_Range], Condition]:
    """Return the ids among which the entries of a change set are, and a condition for which they have an index."""
    found = tx.all_prepared(
        """SELECT s.entries_after, s.last_older_entry, (
            SELECT max(a.id) FROM audit_log a WHERE a.change_set = s.id AND a.id > s.entries_after)
        FROM change_set s WHERE s.id = %s""",
        (number,),
    )
    if not found:
        return [], EVERYTHING
    after, last_older, newest = found[0]
    if last_older is None:
        first, last, condition = after + 1, newest or after, Condition('a.change_set = %s', (number,))
    else:  # its entries do not have its number
        first, last, condition = number, last_older, EVERYTHING
    last = last if before is None else min(last, before - 1)
    return [_Range(first, last)] if first <= last else [], condition


def _walk(tx: Transaction, condition: Condition, within: _Range, wanted: int | None) -> list[Entry]:
    """Return the first matching entries of a part of the log, by the index that PostgreSQL chooses."""
    sql = f"""SELECT a.*, change_set_of(a) AS set_id FROM {_source(condition)}
        WHERE {condition.sql} AND a.id BETWEEN {within.first:d} AND {within.last:d}
        ORDER BY a.id DESC{_limit(wanted)}"""
    return _entries(tx, sql, condition, condition.params)


def _walk_back(tx: Transaction, condition: Condition, within: _Range, wanted: int) -> list[Entry]:
    """Return the first matching entries of a part of the log, which is looked through from its end."""
    # PostgreSQL moves no condition into a query with OFFSET. So it cannot choose the index on places for it.
    ids = f'a.id BETWEEN {within.first:d} AND {within.last:d}'
    by_set = 's.' in condition.sql
    each = (
        f'SELECT a.*{", change_set_of(a) AS set_id" * by_set} FROM audit_log a WHERE {ids} ORDER BY a.id DESC OFFSET 0'
    )
    sql = f"""SELECT a.*, change_set_of(a) AS set_id FROM audit_log a WHERE {ids} AND a.id = ANY (ARRAY(
        SELECT a.id FROM ({each}) a {'LEFT JOIN change_set s ON s.id = a.set_id' * by_set}
        WHERE {condition.sql} ORDER BY a.id DESC{_limit(wanted)}))"""
    return _entries(tx, sql, condition, condition.params)


def _among(tx: Transaction, condition: Condition, ids: list[int], wanted: int) -> list[Entry]:
    """Return the first of these entries that match, the newest first."""
    found: list[Entry] = []
    for first in range(0, len(ids), AT_ONCE):
        some = ids[first : first + AT_ONCE]
        sql = f"""SELECT a.*, change_set_of(a) AS set_id FROM {_source(condition)}
            WHERE a.id = ANY (%s) AND {condition.sql} ORDER BY a.id DESC{_limit(wanted - len(found))}"""
        found += _entries(tx, sql, condition, (some, *condition.params))
        if len(found) >= wanted:
            break
    return found


def _is_prepared(condition: Condition) -> bool:
    """Return whether the older part of the log is searched by prepared statements.

    The plan of a prepared statement must be good for all arguments. With 100 partitions, planning takes longer than the
    look-ups.
    """
    key, place = condition.hint(ByKey), condition.hint(Place)
    if place is not None:
        return place.network is not None
    by_index = key is not None and not key.columns.isdisjoint(BY_INDEX)
    return by_index and condition.sql.count('%') == condition.sql.count('%s') and condition.hint(InTime) is None


def _walk_prepared(tx: Transaction, condition: Condition, within: _Range, wanted: int) -> list[Entry]:
    """Return the first matching entries of a part of the log with many partitions, by an index of its own."""
    sql = f"""SELECT a.id FROM {_source(condition)} WHERE {condition.sql} AND a.id BETWEEN %s AND %s
        ORDER BY a.id DESC LIMIT %s"""
    params = (*condition.params, within.first, within.last, wanted)
    ids = [row[0] for row in running.run_search(tx, sql, condition, params, by_key=True)]
    return _among(tx, EVERYTHING, ids, wanted)


def _source(condition: Condition) -> str:
    """Return the tables that a condition needs. Change sets are looked up only for a condition on them."""
    return _FROM if 's.' in condition.sql else 'audit_log a'


def _limit(wanted: int | None) -> str:
    return '' if wanted is None else f' LIMIT {wanted:d}'


def _find_in_place(
    tx: Transaction, condition: Condition, place: Place, within: _Range, wanted: int, *, prepared: bool = False
) -> list[Entry]:
    """Return the first matching entries of a part of the tree, in a part of the log."""
    found: list[Entry] = []
    last, walked = within.last, WALKED
    # The newest entries are likely to match in a large part of the tree.
    while last >= within.first and walked <= MOST_WALKED:
        first = max(within.first, last - walked + 1)
        more = _walk_back(tx, condition, _Range(first, last), wanted - len(found))
        found += more
        last = first - 1
        if len(found) >= wanted or last < within.first:
            return found
        if not more:
            break
        walked = max(walked, walked * (wanted - len(found)) * 3 // (len(more) * 2))
    rest, left = _Range(within.first, last), wanted - len(found)
    return found + _find_by_place(tx, condition, place, rest, left, prepared=prepared)


def _find_by_place(
    tx: Transaction, condition: Condition, place: Place, within: _Range, wanted: int, *, prepared: bool
) -> list[Entry]:
    """Return the first matching entries of a part of the tree, in a part of the log, by the index on places."""
    found: list[Entry] = []
    most, last = wanted, within.last
    while last >= within.first:
        ids = _newest_in_place(tx, place, _Range(within.first, last), most, prepared=prepared)
        if ids is None:
            return found + _walk_back(tx, condition, _Range(within.first, last), wanted - len(found))
        found += _among(tx, condition, ids, wanted - len(found)) if ids else []
        if len(found) >= wanted or len(ids) < most:
            return found
        last = ids[-1] - 1
        # Other parts of the condition may hold for few entries.
        key = condition.hint(ByKey)
        if most >= MOST_CANDIDATES and key is not None and not key.columns.isdisjoint(BY_INDEX):
            return found + _walk(tx, condition, _Range(within.first, last), wanted - len(found))
        most = min(most * 4, max(most, MOST_CANDIDATES))
    return found


def _newest_in_place(tx: Transaction, place: Place, within: _Range, most: int, *, prepared: bool) -> list[int] | None:
    """Return the ids of the newest entries of a place, at most so many; None if it takes too many samples.

    Each sample has the first and the last entries by the order of the tree, among those that are not too old. At least
    `most` entries are as new as the entry at that place of the sample, so no older one is among the newest.
    """
    size, first = max(SAMPLE, 2 * most), within.first
    for _ in range(ROUNDS):
        sql, params = _sample(place, _Range(first, within.last), size)
        (ends,) = tx.all_prepared(sql, params) if prepared else tx.all(sql, params)
        ids = sorted({number for end in ends for number in end or ()}, reverse=True)
        if all(end is None for end in ends[1::2]):
            return ids[:most]
        if len(ids) < most or ids[most - 1] == first:
            return None
        first = ids[most - 1]
    return None


def _sample(place: Place, within: _Range, size: int) -> tuple[str, tuple[Any, ...]]:
    """Return SQL for ids of entries in a place: the first and the last ones by the order of the tree.

    The columns come in pairs. The second one is NULL unless the first one has `size` ids. Prefixes that were moved have
    their former place as well. Without a network, the entries of the VRF itself are among them.
    """
    vrfs: tuple[Any, ...] = () if place.vrf_id is None else (place.vrf_id,)
    ids, limits = 'a.id BETWEEN %s AND %s', (within.first, within.last, size)
    parts: list[str] = []
    params: tuple[Any, ...] = ()
    for columns, which in ((PLACE, "a.object_type = 'prefix'"), (FORMER, MOVED)):
        vrf, network = columns.format('vrf_id', 'int'), columns.format('prefix', 'cidr')
        compared, values = inside(network, *place.network) if place.network else ('true', ())
        parts.append(
            f"""SELECT q.id FROM {'(VALUES (%s::int))' if vrfs else _ALL_VRFS} v (id) CROSS JOIN LATERAL (
                SELECT a.id FROM audit_log a WHERE {which} AND {vrf} = v.id AND {compared} AND {ids}
                ORDER BY {vrf} {{0}}, {network} {{0}}, a.id {{0}} LIMIT %s) q LIMIT %s"""
        )
        params += (*vrfs, *values, *limits, size)
    if place.network is None:
        parts.append(
            f"""SELECT a.id FROM audit_log a WHERE a.object_type = 'vrf' AND a.object_id = %s AND {ids}
                ORDER BY a.id {{0}} LIMIT %s"""
        )
        params += (*vrfs, *limits)
    first = ', '.join(f'ARRAY({sql.format("ASC", *_UP)}) AS first_{n}' for n, sql in enumerate(parts))
    # PostgreSQL runs a query without outer references only when its value is needed.
    both = ', '.join(
        f'first_{n}, CASE WHEN cardinality(first_{n}) = {size:d} THEN ARRAY({sql.format("DESC", *_DOWN)}) END'
        for n, sql in enumerate(parts)
    )
    return f'SELECT {both} FROM (SELECT {first} OFFSET 0) q', (*params, *params)


_LAST_VRF = "coalesce(pg_sequence_last_value('vrf_id_seq'), 0)::int"
_ALL_VRFS = 'generate_series({1}, {2}, {3})'
_UP, _DOWN = (0, _LAST_VRF, 1), (_LAST_VRF, 0, -1)


# ---------------------------------------------------------------- the form of entries


# The function behind `changed` takes ten times as long as all other columns.
_COLUMNS = ', '.join('NULL' if name == 'changed' else attribute.sql for name, attribute in AUDIT.items())


def _entries(tx: Transaction, sql: str, condition: Condition, params: tuple[Any, ...]) -> list[Entry]:
    """Return the audit entries that a statement selects, as clients see them, but not yet complete."""
    sql = f"""SELECT {_COLUMNS}, a.before, a.after FROM ({sql}) a LEFT JOIN change_set s ON s.id = a.set_id
        ORDER BY a.id DESC"""
    found = running.run_search(tx, sql, condition, params)
    return [dict(zip((*AUDIT, 'before', 'after'), row, strict=True)) for row in found]


def _read(tx: Transaction, ids: list[int]) -> list[Entry]:
    """Return audit entries by id, in this order, as clients see them."""
    found = _among(tx, Condition('true'), ids, len(ids))
    _complete(tx, found)
    return found


def _complete(tx: Transaction, entries: list[Entry]) -> None:
    """Add the differences and the sentence to entries, in place."""
    names = _Names.of(tx, entries)
    for entry in entries:
        events.drop_versions(entry['before'], entry['after'])
        entry['changes'] = differences(entry['before'], entry['after'])
        entry['changed'] = sorted(entry['changes'])
        entry['sentence'] = sentence(entry, partial(names.at, entry['id']))


# Names of today, and later changes of names, each with the names before and after.
_NAMES = """SELECT 'vrf', id, NULL::bigint AS entry, name, NULL FROM vrf WHERE id = ANY (%s::bigint[])
UNION ALL SELECT 'pool', id, NULL, name, NULL FROM pool WHERE id = ANY (%s::bigint[])
UNION ALL SELECT a.object_type, a.object_id, a.id, a.before ->> 'name', a.after ->> 'name' FROM audit_log a
WHERE (a.object_type = 'vrf' AND a.object_id = ANY (%s) OR a.object_type = 'pool' AND a.object_id = ANY (%s))
    AND a.id > %s AND a.before ->> 'name' IS DISTINCT FROM a.after ->> 'name' ORDER BY entry"""


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
            oldest = min(entry['id'] for entry in entries)
            for kind, key, at, before, after in tx.all_prepared(_NAMES, (*wanted, *wanted, oldest)):
                if at is None:
                    names._present[kind, key] = before
                else:
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
    found = running.run_search(tx, sql, condition, condition.params)
    return [dict(zip(CHANGE_SET, row, strict=True)) for row in found]


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
