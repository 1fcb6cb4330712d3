"""Prefixes: reading, adding, editing, removing. The tree itself is kept by sql/functions.

What is derived from ancestors (indent, inherited tags, the display form of hosts) is computed when a page is read,
from the ancestors of the page, which come along with it in the same statement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from nipap import pool, rows, vrf
from nipap.addresses import WIDTH
from nipap.attributes import PREFIX, check_names, read_integer, read_value
from nipap.audit import Who
from nipap.db import Expression, Row, Transaction
from nipap.errors import (
    NipapError,
    NipapExtraneousInputError,
    NipapInputError,
    NipapMissingInputError,
    NipapNonExistentError,
    NipapValueError,
)
from nipap.query import EVERYTHING, TAGGED, Condition, Cursor, Page, Surroundings, all_of, equals

ORDER = 'v.rt_rank, v.id, p.prefix'
_FROM = 'prefix p JOIN vrf v ON v.id = p.vrf_id LEFT JOIN pool o ON o.id = p.pool_id'

# ---------------------------------------------------------------- reading

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
    'used_addresses',
    'avps',
]
_READ = (
    *(PREFIX[name].sql for name in _PLAIN),
    'family(p.prefix)',
    'masklen(p.prefix)',
    'p.prefix::text',
    'p.parent_id',
    'p.children',
    "nullif(p.expires, 'infinity')",
)
_COLUMNS = ', '.join(_READ)
# The ancestors of a page as {id: [parent, length, tags]}, on its first row: one statement sees one state of the tree.
# LATERAL with OFFSET 0 is a look-up by primary key for sure; as a join the planner, who takes the recursion for far too
# many rows, would read the whole table.
_BY_ID = 'CROSS JOIN LATERAL (SELECT * FROM prefix WHERE id = {} OFFSET 0)'
_ANCESTORS = f"""above AS (
        SELECT q.id, q.parent_id FROM (SELECT DISTINCT parent_id FROM page) f {_BY_ID.format('f.parent_id')} q
        UNION SELECT q.id, q.parent_id FROM above {_BY_ID.format('above.parent_id')} q)"""
_ANCESTORS_OF_FIRST = f"""CASE row_number() OVER () WHEN 1 THEN (
        SELECT jsonb_object_agg(q.id, jsonb_build_array(q.parent_id, masklen(q.prefix), q.tags))
        FROM above {_BY_ID.format('above.id')} q) END"""


def _read(
    tx: Transaction, page_sql: str, condition: Condition, params: Iterable[Any], shape: Shape
) -> list[dict[str, Any]]:
    """The prefixes that a statement names by id, parent and whether they match, in order."""
    sql = f"""WITH RECURSIVE page (id, parent_id, matches) AS MATERIALIZED ({page_sql}), {_ANCESTORS}
        SELECT {_COLUMNS}, page.matches, {_ANCESTORS_OF_FIRST}
        FROM page {_BY_ID.format('page.id')} p
        JOIN vrf v ON v.id = p.vrf_id LEFT JOIN pool o ON o.id = p.pool_id
        ORDER BY {ORDER}"""
    return _objects(rows.run_search(tx, sql, condition, params, by_key=condition.ordered), shape)


Ancestors = Mapping[str, tuple[int | None, int, list[str]]]
Shape = Callable[[dict[str, Any], Row], dict[str, Any]]


def _objects(found: list[Row], shape: Shape) -> list[dict[str, Any]]:
    above: Ancestors = next((row[-1] for row in found if row[-1] is not None), {})
    lineages: dict[int | None, tuple[int, list[str], int]] = {None: (0, [], 0)}
    plain = len(_PLAIN)
    result = []
    for row in found:
        item = dict(zip(_PLAIN, row, strict=False))
        family, length, prefix, parent, children, expires, matches = row[plain:-1]
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
        item['free_addresses'] = total - item['used_addresses']
        item['expires'] = expires
        result.append(shape(item, (length, children, matches)))
    return result


def _lineage(parent: int | None, above: Ancestors) -> tuple[int, list[str], int]:
    """Number of ancestors, their tags (each once, the closest first) and the length of the closest."""
    depth = 0
    tags: dict[str, None] = {}
    length = 0
    while parent is not None and str(parent) in above:
        grandparent, own_length, own_tags = above[str(parent)]
        length = length or own_length
        depth += 1
        tags.update(dict.fromkeys(own_tags))
        parent = grandparent
    return depth, list(tags), length


def _as_listed(item: dict[str, Any], _: Row) -> dict[str, Any]:
    """The shape of list and add: a full-length prefix that is no host is shown as a bare address."""
    if item['total_addresses'] == 1 and item['type'] != 'host':
        item['display_prefix'] = item['prefix'].partition('/')[0]
    return item


def _as_found(item: dict[str, Any], extra: Row) -> dict[str, Any]:
    """The shape of searches and edits."""
    item['prefix_length'], item['children'], item['match'] = extra
    item['display'] = True
    return item


def _ordered_sql(condition: Condition, page: Page | None) -> str:
    """Ids of matching prefixes in order, when the order of the tree serves the condition.

    VRF by VRF along the index on (vrf_id, prefix), so that a page stops early: without the inner LIMIT everything
    would be sorted. The planner adds an incremental sort on top, of no more than a page a VRF.
    """
    source = 'prefix p LEFT JOIN pool o ON o.id = p.pool_id' if 'o.' in condition.sql else 'prefix p'
    inner = ''
    if page is not None and page.max_result is not None:
        inner = f'ORDER BY p.prefix LIMIT {page.max_result + page.offset:d}'
    return f"""SELECT p.id, p.parent_id, true FROM vrf v CROSS JOIN LATERAL (
        SELECT p.id, p.parent_id, p.prefix FROM {source} WHERE p.vrf_id = v.id AND {condition.sql} {inner}) p
        ORDER BY {ORDER} {rows.limit(page)}"""


WALKS = (200, 2000)


def _walk_sql(condition: Condition, page: Page, steps: int) -> tuple[str, tuple[Any, ...]]:
    """Ids of matching prefixes in order among the first ones: a few ms, and enough for whatever is common."""
    sql, params = condition.within
    return (
        f"""SELECT p.id, p.parent_id, true FROM (
        SELECT p.*, v.rt_rank FROM vrf v CROSS JOIN LATERAL (
            SELECT * FROM prefix p WHERE p.vrf_id = v.id AND {sql} ORDER BY p.prefix LIMIT {steps:d}) p
        ORDER BY {ORDER} LIMIT {steps:d}) p
        JOIN vrf v ON v.id = p.vrf_id LEFT JOIN pool o ON o.id = p.pool_id
        WHERE {condition.sql} ORDER BY {ORDER} {rows.limit(page)}""",
        (*params, *condition.params),
    )


def _index_sql(condition: Condition, page: Page | None) -> tuple[str, tuple[Any, ...]]:
    """Ids of matching prefixes by whatever index finds them, sorted afterwards.

    Materialized: with ORDER BY and LIMIT in sight the planner would walk along the order instead, believing that what
    is rare lies everywhere alike.
    """
    sql, params = condition.guarded()
    return (
        f"""SELECT p.id, p.parent_id, true FROM (
        WITH found AS MATERIALIZED (SELECT p.id, p.parent_id, p.vrf_id, p.prefix FROM {_FROM} WHERE {sql})
        SELECT * FROM found) p JOIN vrf v ON v.id = p.vrf_id ORDER BY {ORDER} {rows.limit(page)}""",
        params,
    )


def _tagged_sql(condition: Condition, page: Page) -> tuple[str, tuple[Any, ...]]:
    """Ids of matching prefixes in order, of those that carry or inherit a tag: from the tagged ones down."""
    most = (page.max_result or 0) + page.offset
    return (
        f"""SELECT p.id, p.parent_id, true FROM (
        SELECT DISTINCT p.id, p.parent_id, p.vrf_id, p.prefix FROM (SELECT p.* FROM prefix p WHERE {TAGGED}) q
        CROSS JOIN LATERAL (
            SELECT p.* FROM {_FROM} WHERE p.vrf_id = q.vrf_id AND p.prefix >= q.prefix
            AND p.prefix <= addr_last(q.prefix)::cidr AND {condition.sql} ORDER BY p.prefix LIMIT {most:d}) p) p
        JOIN vrf v ON v.id = p.vrf_id ORDER BY {ORDER} {rows.limit(page)}""",
        (condition.tag, *condition.params),
    )


def _page(tx: Transaction, condition: Condition, page: Page | None) -> tuple[str, tuple[Any, ...]]:
    """The statement that names the prefixes of a page: the plan chosen by ourselves.

    The planner cannot see that what a text matches lies close together, and is wrong by a factor of a hundred either
    way. What is common is found by a short walk in order; what is not, by its index.
    """
    if condition.ordered:
        return _ordered_sql(condition, page), condition.params
    if page is not None and page.max_result is not None:
        for steps in WALKS:
            sql, params = _walk_sql(condition, page, steps)
            found = rows.run_search(tx, sql, condition, params)
            if len(found) == page.max_result:
                return _IDS, ([row[0] for row in found],)
        if condition.tag is not None:
            return _tagged_sql(condition, page)
    return _index_sql(condition, page)


_ID = 'SELECT p.id, p.parent_id, true FROM prefix p WHERE p.id = %s'
_IDS = f'SELECT p.id, p.parent_id, true FROM {_FROM} WHERE p.id = ANY (%s) ORDER BY {ORDER}'


def find(tx: Transaction, condition: Condition) -> list[dict[str, Any]]:
    """All prefixes for which a condition holds, as list and add show them."""
    sql, params = _page(tx, condition, None)
    return _read(tx, sql, condition, params, _as_listed)


def get_edited(tx: Transaction, ids: list[int]) -> list[dict[str, Any]]:
    """Prefixes by id, as an edit shows them."""
    return _read(tx, _IDS, EVERYTHING, (ids,), _as_found)


def search(tx: Transaction, condition: Condition, page: Page, around: Surroundings) -> list[dict[str, Any]]:
    """A page of the prefixes for which a condition holds and what is asked for around them, in order."""
    sql, params = _search_sql(tx, condition, page, around)
    return _read(tx, sql, condition, params, _as_found)


def _search_sql(tx: Transaction, condition: Condition, page: Page, around: Surroundings) -> tuple[str, tuple[Any, ...]]:
    """The statement that names the prefixes of such a page."""
    if around.parent_prefix is not None:
        return _family_sql(tx, condition, page, around.parent_prefix)
    if not around.wanted:
        return _page(tx, _behind(condition, page), page)
    matches, added = _surroundings(tx, condition, page, around)
    behind = _behind(EVERYTHING, page)
    sql = f"""SELECT p.id, p.parent_id, p.id = ANY (%s) FROM {_FROM} WHERE p.id = ANY (%s) AND {behind.sql}
        ORDER BY {ORDER} {rows.limit(page)}"""
    return sql, (matches, matches + added, *behind.params)


def _behind(condition: Condition, page: Page) -> Condition:
    return condition if page.after is None else all_of([condition, page.after.behind()])


def _family_sql(tx: Transaction, condition: Condition, page: Page, parent: int) -> tuple[str, tuple[Any, ...]]:
    """A prefix and its children: these along their index, no more of them than the page needs."""
    if tx.value('SELECT 1 FROM prefix WHERE id = %s', (parent,)) is None:
        raise NipapNonExistentError(f'Parent prefix {parent} can not be found')
    behind = _behind(EVERYTHING, page)
    sql = f"""SELECT p.id, p.parent_id, coalesce({condition.sql}, false) FROM (
        SELECT %s::bigint AS id UNION ALL {_children_sql('m.id = %s', _bound(page))}) q
        JOIN prefix p ON p.id = q.id JOIN vrf v ON v.id = p.vrf_id LEFT JOIN pool o ON o.id = p.pool_id
        WHERE {behind.sql} ORDER BY {ORDER} {rows.limit(page)}"""
    return sql, (*condition.params, parent, *_place(page), parent, *behind.params)


def _bound(page: Page) -> int | None:
    """How many rows in order can be in a page or before it."""
    return None if page.max_result is None else page.max_result + page.offset


def _place(page: Page) -> tuple[int, str]:
    """The VRF and the prefix behind which a page begins; no VRF has the number -1."""
    return (-1, '0.0.0.0/0') if page.after is None else (page.after.vrf_id, page.after.prefix)


def _children_sql(parents: str, bound: int | None, only: str = 'true') -> str:
    """Ids of the children of each of the prefixes m that lie behind a place, the first ones where there is a bound.

    Its parameters are the place, then those of parents.
    """
    cut = '' if bound is None else f'LIMIT {bound:d}'
    return f"""SELECT d.id FROM prefix m CROSS JOIN LATERAL (
        SELECT q.id FROM prefix q WHERE q.parent_id = m.id AND q.vrf_id = m.vrf_id AND {only}
        AND q.prefix > CASE WHEN m.vrf_id = %s THEN greatest(m.prefix, %s::cidr) ELSE m.prefix END
        ORDER BY q.vrf_id, q.prefix {cut}) d WHERE {parents}"""


# ---------------------------------------------------------------- reading more than should be in memory at once

AT_ONCE = 500
_NAMED = 'SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::boolean[])'


def find_at_most(tx: Transaction, condition: Condition, most: int) -> list[dict[str, Any]] | None:
    """As `find`; None when there are more."""
    page = Page(most + 1, 0)
    if condition.ordered:
        sql, params = _ordered_sql(condition, page), condition.params
    else:
        sql, params = _index_sql(condition, page)
    found = _read(tx, sql, condition, params, _as_listed)
    return found if len(found) <= most else None


def find_all(tx: Transaction, condition: Condition) -> Iterator[list[dict[str, Any]]]:
    """What `find` returns, some at a time; in a transaction that sees one state of the tree (`Database.snapshot`)."""
    sql, params = _page(tx, condition, None)
    yield from _read_named(tx, sql, params, _as_listed)


def search_all(
    tx: Transaction, condition: Condition, page: Page, around: Surroundings
) -> Iterator[list[dict[str, Any]]]:
    """What `search` returns, in the same way."""
    rows.check_patterns(tx, condition)
    sql, params = _search_sql(tx, condition, page, around)
    yield from _read_named(tx, sql, params, _as_found)


def _read_named(tx: Transaction, page_sql: str, params: Iterable[Any], shape: Shape) -> Iterator[list[dict[str, Any]]]:
    """As `_read`: the statement only names the prefixes; each few hundred are looked up, with their own ancestors."""
    named = tx.stream(page_sql, tuple(params), chunk=AT_ONCE)
    while some := list(islice(named, AT_ONCE)):
        yield _read(tx, _NAMED, EVERYTHING, [list(column) for column in zip(*some, strict=True)], shape)


# ---------------------------------------------------------------- what is around the matches


def _surroundings(
    tx: Transaction, condition: Condition, page: Page, around: Surroundings
) -> tuple[list[int], list[int]]:
    """Ids of the matches and of what is added around them, as far as they can appear in the page.

    The merged list is in preorder. Its first N rows never need more than the first N matches: descendants and
    neighbors sort after a match among these, ancestors contain the last of these. Only an ancestor of the last one
    that is added for a later match alone, with a limited depth, is looked for separately. Of the matches before the
    place where the page begins only those around it have descendants or neighbors behind it.
    """
    bound = _bound(page)
    sql, params = _page(tx, _behind(condition, page), None if bound is None else Page(bound, 0))
    found = rows.run_search(tx, sql, condition, params)
    matches = [row[0] for row in found]
    around_place = [] if page.after is None else _covering(tx, condition, page.after)
    added: set[int] = set()
    if around.parents_depth and matches:
        added |= _ancestors(tx, matches, around.parents_depth)
        if bound is not None and around.parents_depth > 0:
            added |= _ancestors_of_later(tx, condition, matches[-1], around.parents_depth)
    if around.children_depth:
        added |= _descendants(tx, matches + around_place, around.children_depth, page)
    if around.neighbors:
        added |= _neighbors(tx, condition, matches, page)
    return matches, list(added.difference(matches))


def _covering(tx: Transaction, condition: Condition, place: Cursor) -> list[int]:
    """Ids of the matches that a place lies in, or is."""
    sql = f"""SELECT p.id FROM {_FROM} WHERE p.vrf_id = %s AND p.prefix = ANY (supernets(%s) || %s::cidr)
        AND {condition.sql}"""
    return [row[0] for row in tx.all(sql, (place.vrf_id, place.prefix, place.prefix, *condition.params))]


def _ancestors(tx: Transaction, ids: list[int], depth: int) -> set[int]:
    found: set[int] = set()
    level = ids
    while level and depth != 0:
        sql = 'SELECT DISTINCT parent_id FROM prefix WHERE id = ANY (%s) AND parent_id IS NOT NULL'
        parents = {row[0] for row in tx.all(sql, (level,))}
        # With a limited depth a known ancestor may still lead to new ones: go on from all of them.
        level = list(parents - found if depth < 0 else parents)
        found |= parents
        depth -= 1
    return found


def _ancestors_of_later(tx: Transaction, condition: Condition, last: int, depth: int) -> set[int]:
    """Ancestors of a match that a later match within depth below them brings in."""
    sql = f"""SELECT up.id FROM prefix m
        JOIN prefix up ON up.vrf_id = m.vrf_id AND up.prefix = ANY (supernets(m.prefix))
        WHERE m.id = %s AND EXISTS (
            SELECT FROM {_FROM} WHERE p.vrf_id = m.vrf_id AND p.prefix > m.prefix
            AND p.prefix <= addr_last(up.prefix)::cidr AND {condition.sql}
            AND (SELECT count(*) FROM prefix q WHERE q.vrf_id = p.vrf_id AND q.prefix = ANY (supernets(p.prefix))
                 AND q.prefix >= up.prefix) <= %s)"""
    return {row[0] for row in tx.all(sql, (last, *condition.params, depth))}


def _descendants(tx: Transaction, ids: list[int], depth: int, page: Page) -> set[int]:
    """Descendants of each id down to a depth that can be in a page: the first ones behind the place where it begins."""
    place = _place(page)
    bound = _bound(page)
    cut = '' if bound is None else f'LIMIT {bound:d}'
    found: set[int] = set()
    if depth < 0:
        sql = f"""SELECT d.id FROM prefix m CROSS JOIN LATERAL (
            SELECT q.id FROM prefix q WHERE q.vrf_id = m.vrf_id AND q.prefix <= addr_last(m.prefix)::cidr
            AND q.prefix > CASE WHEN m.vrf_id = %s THEN greatest(m.prefix, %s::cidr) ELSE m.prefix END
            ORDER BY q.prefix {cut}) d WHERE m.id = ANY (%s)"""
        return {row[0] for row in tx.all(sql, (*place, ids))}
    sql = _children_sql('m.id = ANY (%s)', bound)
    if page.after is not None:
        # What the place is or lies in does not come behind it, but its children may.
        around = 'parent_id = ANY (%s) AND vrf_id = %s AND prefix = ANY (supernets(%s) || %s::cidr)'
        sql += f' UNION SELECT id FROM prefix WHERE {around}'
    level = ids
    while level and depth:
        more = () if page.after is None else (level, *place, page.after.prefix)
        level = [row[0] for row in tx.all(sql, (*place, level, *more))]
        found.update(level)
        depth -= 1
    return found


def _neighbors(tx: Transaction, condition: Condition, ids: list[int], page: Page) -> set[int]:
    """The other hosts of the assignments in which matching hosts are, those among the ids or before the page."""
    sql = "SELECT DISTINCT parent_id FROM prefix WHERE id = ANY (%s) AND type = 'host'"
    assignments = [row[0] for row in tx.all(sql, (ids,))]
    if page.after is not None:
        sql = f"""SELECT a.id FROM prefix a WHERE a.vrf_id = %s AND a.prefix = ANY (supernets(%s))
            AND EXISTS (SELECT FROM {_FROM} WHERE p.parent_id = a.id AND p.type = 'host' AND {condition.sql})"""
        assignments += [row[0] for row in tx.all(sql, (page.after.vrf_id, page.after.prefix, *condition.params))]
    sql = _children_sql('m.id = ANY (%s)', _bound(page), "q.type = 'host'")
    return {row[0] for row in tx.all(sql, (*_place(page), assignments))}


# ---------------------------------------------------------------- specs


def read_spec(spec: object, *, default_vrf: bool = False) -> Condition:
    """The condition of a prefix spec: any prefix attributes, ANDed, or ``id`` alone.

    default_vrf: a ``prefix`` without a VRF means the one in VRF 0.

    :raises NipapInputError, NipapExtraneousInputError, NipapValueError:
    """
    if spec is None:
        return EVERYTHING
    if not isinstance(spec, Mapping):
        raise NipapInputError('prefix specification must be a dict')
    for key in spec:
        if key not in PREFIX:
            raise NipapExtraneousInputError(f"Key '{key}' not allowed in prefix spec.")
    if 'id' in spec and len(spec) > 1:
        raise NipapExtraneousInputError("If 'id' specified, no other keys are allowed.")
    conditions = [_equals(key, value) for key, value in spec.items()]
    if (
        default_vrf
        and 'prefix' in spec
        and not any(spec.get(key) is not None for key in ('vrf_id', 'vrf_rt', 'vrf_name'))
    ):
        conditions.append(equals(PREFIX['vrf_id'], 0))
    return all_of(conditions)


def _equals(key: str, value: object) -> Condition:
    if key in ('vrf_rt', 'vrf_name') and value is None:
        return equals(PREFIX['vrf_id'], 0)  # no VRF named: VRF 0
    return equals(PREFIX[key], value)


def require_spec(spec: object) -> Condition:
    """As `read_spec` for what is to be changed: something must be named, and VRF 0 is meant unless another is.

    :raises NipapMissingInputError: when the spec is empty.
    """
    condition = read_spec(spec, default_vrf=True)
    if condition is EVERYTHING:
        raise NipapMissingInputError('missing prefix or id of prefix')
    return condition


# ---------------------------------------------------------------- changing

_ELSEWHERE = frozenset({'vrf_id', 'vrf_rt', 'vrf_name', 'pool_id', 'pool_name', 'prefix'})
_DEFAULTED = ('type', 'status', 'authoritative_source')  # may not be empty: nil is absent


def check_attr(attr: object) -> None:
    """Refuse an attr with members that cannot be set.

    :raises NipapInputError, NipapExtraneousInputError:
    """
    check_names(attr, PREFIX)


def read_facts(tx: Transaction, attr: Mapping[str, object]) -> dict[str, Any]:
    """The members of an attr as columns; place and VRF are not among them.

    :raises NipapValueError: naming the value. NipapInputError: there is no such pool.
    """
    values = rows.read_values(
        {
            name: value
            for name, value in attr.items()
            if name not in _ELSEWHERE and (value is not None or name not in _DEFAULTED)
        },
        PREFIX,
    )
    if 'country' in values:
        values['country'] = _country(values['country'])
    if 'pool_id' in attr or 'pool_name' in attr:
        values['pool_id'] = pool.resolve(tx, attr)
    return values


def _country(value: str | None) -> str | None:
    if value is None:
        return None
    if len(value) != 2 or not value.isascii() or not value.isalpha():
        raise NipapValueError(' Please enter a two letter country code according to ISO 3166-1 alpha-2')
    return value.upper()


def new_facts(tx: Transaction, attr: Mapping[str, object], who: Who, *, typed: bool = True) -> dict[str, Any]:
    """What is stored for a new prefix, with defaults; unless ``typed``, its type may be left to its pool.

    :raises NipapMissingInputError: neither description nor node. NipapValueError: no type.
    """
    if 'description' not in attr and 'node' not in attr:
        raise NipapMissingInputError('Either description or node must be specified.')
    values = {
        'status': 'assigned',
        'tags': [],
        'avps': {},
        'expires': read_value(PREFIX['expires'], None),
        'authoritative_source': who.authoritative_source,
        **read_facts(tx, attr),
    }
    if typed and values.get('type') is None:
        raise NipapValueError('Unknown prefix type')
    return values


def add(tx: Transaction, attr: Mapping[str, object], who: Who) -> None:
    """Add the prefix that an attr names: `get_added` shows it."""
    network = read_value(PREFIX['prefix'], attr['prefix'])
    v = vrf.resolve(tx, vrf.named_by(attr))
    stored = rows.facts(new_facts(tx, attr, who))
    tx.ahead('SELECT prefix_add(%s, %s::cidr, %s, %s::actor)', (v, network, stored, who))


def get_added(tx: Transaction) -> dict[str, Any]:
    """The prefix that was added last, as add shows it."""
    return _read(tx, _ID, EVERYTHING, (Expression("currval('prefix_id_seq')"),), _as_listed)[0]


def add_many(tx: Transaction, attrs: Sequence[Mapping[str, object]], who: Who) -> list[int]:
    """Add the prefixes that many attrs name; returns their ids, in the same order.

    :raises NipapError: with the ``position`` of the one that is refused; none is added then.
    """
    items = []
    vrfs: dict[str, int] = {}
    for position, attr in enumerate(attrs):
        try:
            network = read_value(PREFIX['prefix'], attr['prefix'])
            names = vrf.named_by(attr)
            if repr(names) not in vrfs:
                vrfs[repr(names)] = vrf.resolve(tx, names)
            items.append({**new_facts(tx, attr, who), 'vrf_id': vrfs[repr(names)], 'prefix': network})
        except NipapError as error:
            error.position = position
            raise
    return list(tx.value('SELECT prefix_add_many(%s, %s::actor)', (rows.facts(items), who)))


def get_many(tx: Transaction, ids: list[int]) -> list[dict[str, Any]]:
    """Prefixes by id, as add shows them, in the order of the ids."""
    found = {item['id']: item for item in _read(tx, _IDS, EVERYTHING, (ids,), _as_listed)}
    return [found[i] for i in ids]


def only_id(spec: object) -> int | None:
    """The id that a spec, one that `read_spec` has accepted, selects by; None when it selects otherwise."""
    if not isinstance(spec, Mapping) or spec.get('id') is None:
        return None
    i = read_integer(spec['id'])
    return i if abs(i) < 2**63 else None


def edit(
    tx: Transaction, condition: Condition, attr: Mapping[str, object], who: Who, *, i: int | None = None
) -> list[int]:
    """Edit the prefixes for which a condition holds, perhaps no other than that with id i; returns their ids.

    :raises NipapValueError: a rule of the tree would be broken, or the VRF changed.
    """
    changes = read_facts(tx, attr)
    if attr.get('prefix') is not None:
        changes['prefix'] = read_value(PREFIX['prefix'], attr['prefix'])
    names = vrf.named_by(attr)
    wanted_vrf = vrf.resolve(tx, names) if names else None
    stored = rows.facts(changes)
    # What changes place, type or pool is locked top down, one by one; the others in one statement.
    moving = {name: changes[name] for name in ('prefix', 'type', 'pool_id') if name in changes}
    if i is not None and not moving and wanted_vrf is None:
        tx.ahead('SELECT prefix_edit_many(ARRAY[%s]::bigint[], %s, %s::actor)', (i, stored, who))
        return [i]
    differs = ' OR '.join(f'p.{name} IS DISTINCT FROM %s{_CASTS[name]}' for name in moving) or 'false'
    sql = f"""SELECT p.id, p.vrf_id, p.prefix::text, {differs} FROM {_FROM} WHERE {condition.sql}
        ORDER BY p.vrf_id, p.prefix"""
    if 'prefix' not in moving:
        # Locked in order before anything else, and only those for which the condition still holds then.
        sql += ' FOR NO KEY UPDATE OF p'
    found = tx.all(sql, (*moving.values(), *condition.params))
    if wanted_vrf is not None and any(row[1] != wanted_vrf for row in found):
        raise NipapValueError('Changing VRF is not allowed')
    stored = rows.facts(changes)
    in_place = [row[0] for row in found if not row[3]]
    if in_place:
        tx.ahead('SELECT prefix_edit_many(%s, %s, %s::actor)', (in_place, stored, who))
    for i, _, place, _ in (row for row in found if row[3]):
        tx.execute('SELECT prefix_edit(%s, %s::cidr, %s, %s::actor)', (i, place, stored, who))
    return [row[0] for row in found]


_CASTS = {'prefix': '::cidr', 'type': '', 'pool_id': '::int'}


def remove(tx: Transaction, spec: object, who: Who, *, recursive: bool) -> None:
    """Remove the prefix that a spec names by ``id`` or ``prefix``; recursive: with everything inside.

    :raises NipapMissingInputError: it names none. NipapNonExistentError: there is no prefix with that id.
    """
    if spec is not None and not isinstance(spec, Mapping):
        raise NipapInputError('prefix specification must be a dict')
    if not spec or (spec.get('id') is None and spec.get('prefix') is None):
        raise NipapMissingInputError('missing prefix or id of prefix')
    condition = read_spec(spec, default_vrf=True)
    i = only_id(spec)
    if i is not None:
        found: list[Row] = [(i, None)]
    else:
        found = tx.all_prepared(f'SELECT p.id, p.prefix::text FROM {_FROM} WHERE {condition.sql}', condition.params)
    removed = [tx.value('SELECT prefix_remove(%s, %s::cidr, %s, %s::actor)', (*row, recursive, who)) for row in found]
    if 'id' in spec and not any(removed):
        raise NipapNonExistentError(f'No prefix with id {read_integer(spec["id"])} found.')


__all__ = [
    'add',
    'add_many',
    'check_attr',
    'edit',
    'find',
    'find_all',
    'find_at_most',
    'get_added',
    'get_edited',
    'get_many',
    'new_facts',
    'only_id',
    'read_spec',
    'remove',
    'require_spec',
    'search',
    'search_all',
]
