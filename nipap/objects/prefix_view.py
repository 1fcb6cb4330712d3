"""The presentation of prefixes: their columns, and the members derived from their ancestors.

The derived members (indent, inherited tags, the display form of hosts) are computed when prefixes are read. The same
statement reads the prefixes and their ancestors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from itertools import chain, islice
from typing import Any

import orjson

from nipap.addresses import WIDTH, first_address
from nipap.attributes import PREFIX
from nipap.postgres.transaction import CHANGE_SET, Row, Transaction
from nipap.search import running
from nipap.search.paging import PREFIXES
from nipap.search.query import Condition

ORDER = PREFIXES.by
FROM = 'prefix p JOIN vrf v ON v.id = p.vrf_id LEFT JOIN pool o ON o.id = p.pool_id'

# A reference to the VRF or the pool of a prefix by its alias in `FROM`.
_OTHERS = re.compile(r'\b[vo]\.')


def source(condition: str) -> str:
    """Return the tables that a condition refers to, as a FROM clause."""
    return FROM if _OTHERS.search(condition) else 'prefix p'


_PLAIN = [
    'id',
    'vrf_id',
    'vrf_rt',
    'vrf_name',
    'description',
    'comment',
    'tags',
    'node',
    'pool_id',
    'pool_name',
    'type',
    'status',
    'country',
    'order_id',
    'customer_id',
    'external_key',
    'authoritative_source',
    'alarm_priority',
    'monitor',
    'vlan',
    'added',
    'last_modified',
    'avps',
    'version',
]
_READ = (
    *(PREFIX[name].sql for name in _PLAIN),
    'family(p.prefix)',
    'masklen(p.prefix)',
    'p.prefix::text',
    'p.parent_id',
    'p.children',
    "nullif(p.expires, 'infinity')",
    'p.used_addresses::text',  # Text: IPv6 counts may exceed the integers of the JSON parser.
)


def _row_sql(matches: str, parent: str = 'p.parent_id') -> str:
    """Return an SQL expression for all columns of a prefix as one JSON text. parent: the column with its parent.

    psycopg2 takes longer for thirty columns than orjson for the whole text. One prefix takes 176 us with thirty columns
    and 150 us as JSON; a thousand prefixes take 15.8 and 13.6 ms.
    """
    columns = (parent if column == 'p.parent_id' else column for column in _READ)
    return f'json_build_array({", ".join((*columns, matches))})::text'


# The ancestors are read in the same statement, which sees one state of the tree. The first row of the page carries
# them.
_ANCESTORS = 'CASE row_number() OVER ({}) WHEN 1 THEN ancestors_of(ARRAY(SELECT parent_id FROM page))::text END'
# OFFSET 0 forces a look-up by primary key. For a plain join the planner may prefer to read the whole table.
_BY_ID = 'CROSS JOIN LATERAL (SELECT * FROM prefix WHERE id = page.id OFFSET 0)'

NOTED = Condition(CHANGE_SET)
Shape = Callable[[dict[str, Any], Row], dict[str, Any]]
# Parses the timestamps of a session, which are in UTC with an offset.
_moment = datetime.fromisoformat
Ancestors = dict[str, tuple[int | None, int, list[str]]]  # by id


def read_page(
    tx: Transaction, page_sql: str, condition: Condition, params: Iterable[Any], shape: Shape, *, by_key: bool = False
) -> list[dict[str, Any]]:
    """Return the prefixes that a statement names by id, parent and match flag, in order. by_key: see `run_search`."""
    sql = _page_sql(naming(tx, page_sql), past=tx.shows_past)
    return _objects(running.run_search(tx, sql, condition, params, by_key=by_key), shape)


def naming(tx: Transaction, page_sql: str) -> str:
    """Return a statement that names prefixes as a transaction should run it.

    In the past, each parent has to be searched for. So there the statement has nil for parents: they are looked up for
    the page alone, not for all matches.
    """
    return page_sql.replace('p.id, p.parent_id,', 'p.id, NULL::bigint AS parent_id,') if tx.shows_past else page_sql


def _page_sql(page_sql: str, window: str = '', *, past: bool = False) -> str:
    named, parent = f'page (id, parent_id, matches) AS MATERIALIZED ({page_sql})', 'p.parent_id'
    if past:
        named = f"""found (id, parent_id, matches) AS MATERIALIZED ({page_sql}),
            page AS MATERIALIZED (
                SELECT f.id, (SELECT m.parent_id FROM prefix m WHERE m.id = f.id) AS parent_id, f.matches
                FROM found f)"""
        parent = 'page.parent_id'
    return f"""WITH {named}
        SELECT {_row_sql('page.matches', parent)}, {_ANCESTORS.format(window)} FROM page {_BY_ID} p
        JOIN vrf v ON v.id = p.vrf_id LEFT JOIN pool o ON o.id = p.pool_id
        ORDER BY {ORDER}"""


def stream_page(
    tx: Transaction, page_sql: str, params: Iterable[Any], shape: Shape, at_once: int
) -> Iterator[list[dict[str, Any]]]:
    """Yield the prefixes that a statement names, in order, `at_once` at a time.

    It is one statement, which sees one state of the tree in any transaction.
    """
    # The first row in this order carries the ancestors.
    sql = _page_sql(naming(tx, page_sql), f'ORDER BY {ORDER}', past=tx.shows_past)
    found = tx.stream(sql, tuple(params), chunk=at_once)
    above: Ancestors = {}
    while some := list(islice(found, at_once)):
        yield _objects(some, shape, above)


def read_few(
    tx: Transaction, condition: Condition, shape: Shape, change_sets: Condition = NOTED
) -> list[dict[str, Any]]:
    """Return the prefixes for which a condition holds, in order. The condition must select a few prefixes by key.

    change_sets: the SQL expression for the change sets of these prefixes, for the transaction to note.
    """
    # The rows are sorted here. For a single row, the usual case, PostgreSQL takes longer to set up a sort than to find
    # the row.
    sql = f"""SELECT {_row_sql('true')}, ancestors_of(ARRAY[p.parent_id])::text, v.rt_rank, {change_sets.sql}
        FROM {FROM} WHERE {condition.sql}"""
    found = tx.all_prepared(sql, (*change_sets.params, *condition.params))
    objects = _objects(found, shape)
    if found:
        tx.note(found[0][3])
    if len(found) > 1:
        ranks = {item['vrf_id']: row[2] for item, row in zip(objects, found, strict=True)}
        objects.sort(key=lambda item: _place(item, ranks))
    return objects


def _place(item: dict[str, Any], ranks: dict[int, int]) -> tuple[int, int, int, int, int]:
    """Return the sort key of a prefix, in the order of `ORDER`."""
    vrf, prefix = item['vrf_id'], item['prefix']
    return ranks[vrf], vrf, item['family'], first_address(prefix), int(prefix.rpartition('/')[2])


def _objects(found: list[Row], shape: Shape, above: Ancestors | None = None) -> list[dict[str, Any]]:
    above = {} if above is None else above
    for row in found:
        if row[1] is not None:
            above.update(orjson.loads(row[1]))
    lineages: dict[int | None, tuple[int, list[str], int]] = {None: (0, [], 0)}
    plain = len(_PLAIN)
    result = []
    for text, *_ in found:
        values = orjson.loads(text)
        item = dict(zip(_PLAIN, values, strict=False))
        family, length, prefix, parent, children, expires, used, matches = values[plain:]
        if parent not in lineages:
            lineages[parent] = _lineage(parent, above)
        indent, tags, parent_length = lineages[parent]
        total = 1 << (WIDTH[family] - length)
        item['family'] = family
        item['prefix'] = prefix
        item['display_prefix'] = f'{prefix[: prefix.index("/")]}/{parent_length}' if item['type'] == 'host' else prefix
        item['inherited_tags'] = tags
        item['indent'] = indent
        item['total_addresses'] = total
        item['used_addresses'] = int(used)
        item['free_addresses'] = total - item['used_addresses']
        item['added'] = _moment(item['added'])
        item['last_modified'] = _moment(item['last_modified'])
        item['expires'] = expires and _moment(expires)
        result.append(shape(item, (length, children, matches)))
    return result


def _lineage(parent: int | None, above: Ancestors) -> tuple[int, list[str], int]:
    """Return the number of ancestors, their tags (each once, from the top of the tree down) and the parent's length."""
    depth = 0
    length = 0
    upwards: list[list[str]] = []
    while parent is not None and str(parent) in above:
        grandparent, own_length, own_tags = above[str(parent)]
        length = length or own_length
        depth += 1
        upwards.append(own_tags)
        parent = grandparent
    return depth, list(dict.fromkeys(chain.from_iterable(reversed(upwards)))), length


def as_listed(item: dict[str, Any], _: Row) -> dict[str, Any]:
    """Shape a prefix for lists and additions: display a full-length prefix that is not a host as a bare address."""
    if item['total_addresses'] == 1 and item['type'] != 'host':
        item['display_prefix'] = item['prefix'].partition('/')[0]
    return item


def as_found(item: dict[str, Any], extra: Row) -> dict[str, Any]:
    """Shape a prefix for searches and edits."""
    item['prefix_length'], item['children'], item['match'] = extra
    item['display'] = True
    return item
