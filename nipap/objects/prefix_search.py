"""The search for prefixes: the matches of a condition, page by page, and the prefixes added around the matches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from nipap.errors import NipapNonExistentError
from nipap.objects.prefix_view import (
    FROM,
    ORDER,
    Shape,
    as_found,
    as_listed,
    naming,
    read_few,
    read_page,
    source,
    stream_page,
)
from nipap.postgres.transaction import Transaction
from nipap.search import running
from nipap.search.condition import EVERYTHING, ByTag, ByText, Compared, Condition, InTreeOrder
from nipap.search.paging import Page, Place, Surroundings
from nipap.search.query import TAGGED


def _ordered_sql(condition: Condition, page: Page | None) -> str:
    """Return a statement that lists matching prefixes in order, for a condition that the order of the tree serves.

    The statement reads VRF by VRF along the index on (vrf_id, prefix), so that a page stops early. Without the inner
    LIMIT PostgreSQL would sort all matches. The planner adds an incremental sort on top, of no more than a page per
    VRF.
    """
    joined = 'prefix p LEFT JOIN pool o ON o.id = p.pool_id' if 'o.' in condition.sql else 'prefix p'
    inner = ''
    if page is not None and page.max_result is not None:
        inner = f'ORDER BY p.prefix LIMIT {page.max_result + page.offset:d}'
    return f"""SELECT p.id, p.parent_id, true FROM vrf v CROSS JOIN LATERAL (
        SELECT p.id, p.parent_id, p.prefix FROM {joined} WHERE p.vrf_id = v.id AND {condition.sql} {inner}) p
        ORDER BY {ORDER} {running.limit(page)}"""


WALKS: tuple[int, ...] = (200, 2000)


def _walk_sql(condition: Condition, page: Page, steps: int) -> tuple[str, tuple[Any, ...]]:
    """Return a statement that lists matches among the first `steps` prefixes: a few ms, enough for common matches."""
    sql, params = condition.within
    return (
        f"""SELECT p.id FROM (
        SELECT p.*, v.rt_rank FROM vrf v CROSS JOIN LATERAL (
            SELECT * FROM prefix p WHERE p.vrf_id = v.id AND {sql} ORDER BY p.prefix LIMIT {steps:d}) p
        ORDER BY {ORDER} LIMIT {steps:d}) p
        JOIN vrf v ON v.id = p.vrf_id LEFT JOIN pool o ON o.id = p.pool_id
        WHERE {condition.sql} ORDER BY {ORDER} {running.limit(page)}""",
        (*params, *condition.params),
    )


def _index_sql(condition: Condition, page: Page | None) -> tuple[str, tuple[Any, ...]]:
    """Return a statement that finds matching prefixes by any index and sorts them afterwards.

    OFFSET 0 hides ORDER BY and LIMIT from the planner. It would walk along the order instead, assuming that rare
    matches are spread evenly. Tables that the condition does not need are not joined: with 69,000 matches among 1.3
    million rows, such joins and a CTE, which is materialized before it is read, took 50 of 171 ms.
    """
    sql, params = condition.guarded()
    return (
        f"""SELECT p.id, p.parent_id, true FROM (
        SELECT p.id, p.parent_id, p.vrf_id, p.prefix FROM {source(sql)} WHERE {sql} OFFSET 0) p
        JOIN vrf v ON v.id = p.vrf_id ORDER BY {ORDER} {running.limit(page)}""",
        params,
    )


def _candidates_sql(condition: Condition, candidates: Compared, page: Page) -> tuple[str, tuple[Any, ...]]:
    """Return a statement for a page of candidates that nearly all match: sort, then compare until the page is full.

    Comparing all of 64,000 candidates took 50 of 140 ms. Sorting all of them takes 5 ms.
    """
    sql, params = candidates
    return (
        f"""SELECT p.id, p.parent_id, true FROM (
        SELECT p.id, p.prefix, v.id AS vrf_id, v.rt_rank FROM (
            SELECT p.id, p.prefix, p.vrf_id FROM {source(sql)} WHERE {sql} OFFSET 0) p
        JOIN vrf v ON v.id = p.vrf_id ORDER BY {ORDER} OFFSET 0) q CROSS JOIN LATERAL (
        SELECT p.id, p.parent_id FROM {source(condition.sql)} WHERE p.id = q.id AND {condition.sql} OFFSET 0) p
        ORDER BY q.rt_rank, q.vrf_id, q.prefix {running.limit(page)}""",
        (*params, *condition.params),
    )


def _tagged_sql(condition: Condition, tag: str, page: Page | None) -> tuple[str, tuple[Any, ...]]:
    """Return a statement that lists matches that carry or inherit a tag, by a walk down from tagged prefixes."""
    most = None if page is None else _bound(page)
    cut = '' if most is None else f'ORDER BY p.prefix LIMIT {most:d}'
    return (
        f"""SELECT p.id, p.parent_id, true FROM (
        SELECT DISTINCT p.id, p.parent_id, p.vrf_id, p.prefix FROM (SELECT p.* FROM prefix p WHERE {TAGGED}) q
        CROSS JOIN LATERAL (
            SELECT p.* FROM {FROM} WHERE p.vrf_id = q.vrf_id AND p.prefix >= q.prefix
            AND p.prefix <= addr_last(q.prefix)::cidr AND {condition.sql} {cut}) p) p
        JOIN vrf v ON v.id = p.vrf_id ORDER BY {ORDER} {running.limit(page)}""",
        (tag, *condition.params),
    )


def _plan(condition: Condition, page: Page | None) -> tuple[str, tuple[Any, ...], bool]:
    """Return the statement that names the prefixes of a page, and whether one plan serves all its parameters.

    The plan is chosen here, from the hints of the condition: PostgreSQL cannot see that the rows with a text lie close
    together, and its own choice is wrong by a factor of a hundred either way. docs/search-plans.md has the table.
    """
    match condition.best:
        case InTreeOrder():
            return _ordered_sql(condition, page), condition.params, True
        case ByTag(tag):
            return *_tagged_sql(condition, tag, page), False
        case ByText(guard, rewritten):
            candidates = condition.candidates()
            # A single look-up in the index on text has the same plan for all texts.
            by_key = guard is not None and rewritten is None
            if candidates is not None and page is not None and page.max_result is not None:
                return *_candidates_sql(condition, candidates, page), by_key
            return *_index_sql(condition, page), by_key
        case _:
            return *_index_sql(condition, page), False


def _page(tx: Transaction, condition: Condition, page: Page | None) -> tuple[str, tuple[Any, ...], bool]:
    """Return the statement that names the prefixes of a page, and whether one plan serves all its parameters.

    Before `_plan`, try short walks in order: a few steps find a page of common matches. No walk is tried if the page
    has no limit, or if the order of the tree serves the whole condition.
    """
    ordered = isinstance(condition.best, InTreeOrder)
    if not ordered and page is not None and page.max_result is not None:
        for steps in WALKS:
            sql, params = _walk_sql(condition, page, steps)
            found = running.run_search(tx, sql, condition, params, by_key=True)
            if len(found) == page.max_result:
                return IDS, ([row[0] for row in found],), True
    return _plan(condition, page)


IDS = f'SELECT p.id, p.parent_id, true FROM {FROM} WHERE p.id = ANY (%s) ORDER BY {ORDER}'


def find(
    tx: Transaction, condition: Condition, page: Page | None = None, shape: Shape = as_listed
) -> list[dict[str, Any]]:
    """Return the prefixes for which a condition holds, all of them or a page."""
    if condition.unique:
        return read_few(tx, condition, shape)
    sql, params, by_key = _plan(condition, page)
    return read_page(tx, sql, condition, params, shape, by_key=by_key)


def search(tx: Transaction, condition: Condition, page: Page, around: Surroundings) -> list[dict[str, Any]]:
    """Return a page of the prefixes for which a condition holds and of the prefixes around them, in order."""
    sql, params, by_key = _search_sql(tx, condition, page, around)
    return read_page(tx, sql, condition, params, as_found, by_key=by_key)


def _search_sql(
    tx: Transaction, condition: Condition, page: Page, around: Surroundings
) -> tuple[str, tuple[Any, ...], bool]:
    """Return the statement that names the prefixes of a page, and whether one plan serves all its parameters."""
    if around.parent_prefix is not None:
        return *_family_sql(tx, condition, page, around.parent_prefix), False
    if not around.wanted:
        return _page(tx, running.behind(condition, page), page)
    matches, added = _surroundings(tx, condition, page, around)
    behind = running.behind(EVERYTHING, page)
    sql = f"""SELECT p.id, p.parent_id, p.id = ANY (%s) FROM {FROM} WHERE p.id = ANY (%s) AND {behind.sql}
        ORDER BY {ORDER} {running.limit(page)}"""
    return sql, (matches, matches + added, *behind.params), True


def _family_sql(tx: Transaction, condition: Condition, page: Page, parent: int) -> tuple[str, tuple[Any, ...]]:
    """Return a statement for a prefix and its children.

    It reads the children along their index, only as many as the page needs.
    """
    if tx.value('SELECT 1 FROM prefix WHERE id = %s', (parent,)) is None:
        raise NipapNonExistentError(f'Parent prefix {parent} can not be found')
    behind = running.behind(EVERYTHING, page)
    sql = f"""SELECT p.id, p.parent_id, coalesce({condition.sql}, false) FROM (
        SELECT %s::bigint AS id UNION ALL {_children_sql(tx, 'm.id = %s', _bound(page))}) q
        JOIN prefix p ON p.id = q.id JOIN vrf v ON v.id = p.vrf_id LEFT JOIN pool o ON o.id = p.pool_id
        WHERE {behind.sql} ORDER BY {ORDER} {running.limit(page)}"""
    return sql, (*condition.params, parent, *_place(page), parent, *behind.params)


def _bound(page: Page) -> int | None:
    """Return how many rows can be in a page or before it; None if there is no limit."""
    return None if page.max_result is None else page.max_result + page.offset


def _place(page: Page) -> tuple[int, str]:
    """Return the VRF and the prefix after which a page begins. VRF -1 does not exist: it stands for the first page."""
    if page.after is None:
        return -1, '0.0.0.0/0'
    _, vrf, prefix = page.after
    return vrf, prefix


def _is_child(tx: Transaction, child: str, parent: str) -> str:
    """Return the condition that a prefix is a direct child of another one, given by the aliases of their rows.

    The past has no column for it: there the children are found by a walk in the order of the tree.
    """
    if tx.shows_past:
        return f'{child}.vrf_id = {parent}.vrf_id AND {child}.prefix = ANY (ARRAY(SELECT children_by_id({parent}.id)))'
    return f'{child}.parent_id = {parent}.id'


def _children_sql(tx: Transaction, parents: str, bound: int | None, only: str = 'true') -> str:
    """Return a statement for the children of each prefix m after a place, at most `bound` for each prefix.

    Its parameters are the place, then the parameters of `parents`. only: holds for all children or none.
    """
    cut = '' if bound is None else f'LIMIT {bound:d}'
    behind = 'CASE WHEN m.vrf_id = %s THEN greatest(m.prefix, %s::cidr) ELSE m.prefix END'
    if tx.shows_past:
        children = f"""SELECT q.id FROM (SELECT c FROM children_by_id(m.id) c WHERE c > {behind} ORDER BY c {cut}) c
        JOIN prefix q ON q.vrf_id = m.vrf_id AND q.prefix = c.c AND {only}"""
    else:
        children = f"""SELECT q.id FROM prefix q WHERE q.parent_id = m.id AND q.vrf_id = m.vrf_id AND {only}
        AND q.prefix > {behind} ORDER BY q.vrf_id, q.prefix {cut}"""
    return f'SELECT d.id FROM prefix m CROSS JOIN LATERAL ({children}) d WHERE {parents}'


# ---------------------------------------------------------------- answers too long for memory

AT_ONCE = 500
_NAMED = 'SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::boolean[])'


def find_at_most(
    tx: Transaction, condition: Condition, most: int, shape: Shape = as_listed
) -> list[dict[str, Any]] | None:
    """Return all prefixes for which a condition holds; None if there are more than `most`."""
    found = find(tx, condition, Page(most + 1, 0), shape)
    return found if len(found) <= most else None


def find_all(tx: Transaction, condition: Condition, shape: Shape = as_listed) -> Iterator[list[dict[str, Any]]]:
    """Yield the prefixes for which a condition holds, some at a time. The transaction must be open until the end."""
    sql, params, _ = _plan(condition, None)
    yield from read_named(tx, sql, params, shape)


def search_all(
    tx: Transaction, condition: Condition, page: Page, around: Surroundings
) -> Iterator[list[dict[str, Any]]]:
    """Yield the page of `search`, some prefixes at a time. The transaction must be open until the end."""
    sql, params, _ = _search_sql(tx, condition, page, around)
    yield from read_named(tx, sql, params, as_found)


def read_named(tx: Transaction, page_sql: str, params: Iterable[Any], shape: Shape) -> Iterator[list[dict[str, Any]]]:
    """Yield the prefixes that a statement names, `AT_ONCE` at a time.

    If the transaction sees one state of the tree, each part reads its own ancestors. Otherwise one statement reads all
    parts.
    """
    if not tx.sees_one_state:
        yield from stream_page(tx, page_sql, params, shape, AT_ONCE)
        return
    named = tx.stream(naming(tx, page_sql), tuple(params), chunk=AT_ONCE)
    while some := list(islice(named, AT_ONCE)):
        columns = [list(column) for column in zip(*some, strict=True)]
        yield read_page(tx, _NAMED, EVERYTHING, columns, shape, by_key=True)


# ---------------------------------------------------------------- prefixes around the matches


def _surroundings(
    tx: Transaction, condition: Condition, page: Page, around: Surroundings
) -> tuple[list[int], list[int]]:
    """Return the ids of the matches and of the prefixes added around them, as far as they can appear in the page.

    The merged list is in preorder. Its first N rows never need more than the first N matches: descendants and neighbors
    sort after one of these matches, and ancestors contain the last of them. One case is looked up separately: with a
    limited depth, a later match alone may add an ancestor of the last match. Among the matches before the start of the
    page, only matches that contain the start have descendants or neighbors after it.
    """
    bound = _bound(page)
    # Whether to look up one match more than the page holds.
    later = bound is not None and around.parents_depth > 0
    sql, params, by_key = _page(tx, running.behind(condition, page), None if bound is None else Page(bound + later, 0))
    found = [row[0] for row in running.run_search(tx, naming(tx, sql), condition, params, by_key=by_key)]
    matches = found[:bound]
    around_place = [] if page.after is None else _covering(tx, condition, page.after)
    added: set[int] = set()
    if around.parents_depth and matches:
        added |= _ancestors(tx, matches, around.parents_depth)
        if later and len(found) > len(matches):
            by_index = not isinstance(condition.best, InTreeOrder | ByTag) and sql is not IDS
            added |= _ancestors_of_later(tx, condition, found[-2:], around.parents_depth, by_index=by_index)
    if around.children_depth:
        added |= _descendants(tx, matches + around_place, around.children_depth, page)
    if around.neighbors:
        added |= _neighbors(tx, condition, matches, page)
    return matches, list(added.difference(matches))


def _covering(tx: Transaction, condition: Condition, after: Place) -> list[int]:
    """Return the ids of the matches that equal or contain a place."""
    sql = f"""SELECT p.id FROM {FROM} WHERE p.vrf_id = %s AND p.prefix = ANY (supernets(%s) || %s::cidr)
        AND {condition.sql}"""
    _, vrf, prefix = after
    return [row[0] for row in tx.all(sql, (vrf, prefix, prefix, *condition.params))]


def _ancestors(tx: Transaction, ids: list[int], depth: int) -> set[int]:
    found: set[int] = set()
    level = ids
    while level and depth != 0:
        sql = 'SELECT DISTINCT parent_id FROM prefix WHERE id = ANY (%s) AND parent_id IS NOT NULL'
        parents = {row[0] for row in tx.all(sql, (level,))}
        # With a limited depth a known ancestor may still lead to new ancestors, so continue from all of them.
        level = list(parents - found if depth < 0 else parents)
        found |= parents
        depth -= 1
    return found


# _SHARED lists the common ancestors of the last match and the next match, with their distance from the next match. An
# ancestor of the last match that does not contain the next match contains no later match either. Other matches are
# looked up only if the next match lies too deep. MATERIALIZED and OFFSET 0 prevent a hash join that reads all rows:
# among 300,000 siblings that took 120 ms and 6,400 buffers for each page. Now a page with a rare word takes 5 ms and a
# page with a common word 4 ms.
_SHARED = """SELECT up.id, (SELECT count(*) FROM prefix q WHERE q.vrf_id = l.vrf_id
        AND q.prefix = ANY (supernets(l.prefix)) AND q.prefix >= up.prefix)
    FROM prefix m JOIN prefix l ON l.vrf_id = m.vrf_id JOIN prefix up ON up.vrf_id = m.vrf_id
        AND up.prefix = ANY (supernets(m.prefix)) AND up.prefix = ANY (supernets(l.prefix))
    WHERE m.id = %s AND l.id = %s"""
# Descend level by level until the first later match. The levels include prefixes that contain the last match: these are
# no later matches, but later matches may lie in them.
_BELOW = """WITH RECURSIVE below AS (SELECT up.id, up.vrf_id, 0 AS depth UNION ALL
        SELECT q.id, q.vrf_id, below.depth + 1 FROM below CROSS JOIN LATERAL (
            SELECT c.id, c.vrf_id FROM prefix c WHERE {is_child} AND c.vrf_id = l.vrf_id
            AND addr_last(c.prefix)::cidr > l.prefix OFFSET 0) q WHERE below.depth < %s)
    SELECT 1 FROM below CROSS JOIN LATERAL (
        SELECT p.id FROM {source} WHERE p.id = below.id AND p.prefix > l.prefix AND {condition} OFFSET 0) p LIMIT 1"""


def _ancestors_of_later(
    tx: Transaction, condition: Condition, neighbors: list[int], depth: int, *, by_index: bool
) -> set[int]:
    """Return the ancestors of a match that a later match adds because it lies at most `depth` levels below them.

    neighbors: the ids of the match and the next match.
    by_index: an index finds all matches as fast as it found the page.
    """
    shared = tx.all_prepared(_SHARED, neighbors)
    found = {up for up, distance in shared if distance <= depth}
    left = [up for up, distance in shared if distance > depth]
    if not left:
        return found
    if by_index:
        sql, params = condition.guarded()
        sql = f"""WITH found AS MATERIALIZED (SELECT p.vrf_id, p.prefix FROM {FROM} WHERE {sql})
            SELECT DISTINCT up.id FROM prefix l JOIN found p ON p.vrf_id = l.vrf_id AND p.prefix > l.prefix
            JOIN prefix up ON up.id = ANY (%s) AND p.prefix <= addr_last(up.prefix)::cidr
            WHERE l.id = %s AND (SELECT count(*) FROM prefix q WHERE q.vrf_id = p.vrf_id
                AND q.prefix = ANY (supernets(p.prefix)) AND q.prefix >= up.prefix) <= %s"""
        args = (*params, left, neighbors[-1], depth)
    else:
        below = _BELOW.format(source=FROM, condition=condition.sql, is_child=_is_child(tx, 'c', 'below'))
        sql = f"""SELECT up.id FROM prefix l JOIN prefix up ON up.id = ANY (%s) CROSS JOIN LATERAL ({below}) x
            WHERE l.id = %s"""
        args = (left, depth, *condition.params, neighbors[-1])
    return found | {row[0] for row in tx.all(sql, args)}


def _descendants(tx: Transaction, ids: list[int], depth: int, page: Page) -> set[int]:
    """Return the descendants of each id, down to a depth, that can be in a page: the first ones after its start."""
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
    sql = _children_sql(tx, 'm.id = ANY (%s)', bound)
    if page.after is not None:
        # A prefix that equals or contains the place is not after it, but its children may be.
        around = 'parent_id = ANY (%s) AND vrf_id = %s AND prefix = ANY (supernets(%s) || %s::cidr)'
        sql += f' UNION SELECT id FROM prefix WHERE {around}'
    level = ids
    while level and depth:
        more = () if page.after is None else (level, *place, place[1])
        level = [row[0] for row in tx.all(sql, (*place, level, *more))]
        found.update(level)
        depth -= 1
    return found


def _neighbors(tx: Transaction, condition: Condition, ids: list[int], page: Page) -> set[int]:
    """Return the hosts of the assignments with a matching host, which is among the ids or before the page."""
    sql = "SELECT DISTINCT parent_id FROM prefix WHERE id = ANY (%s) AND type = 'host'"
    assignments = [row[0] for row in tx.all(sql, (ids,))]
    if page.after is not None:
        sql = f"""SELECT a.id FROM prefix a WHERE a.vrf_id = %s AND a.prefix = ANY (supernets(%s))
            AND EXISTS (SELECT FROM {FROM} WHERE {_is_child(tx, 'p', 'a')} AND p.type = 'host' AND {condition.sql})"""
        assignments += [row[0] for row in tx.all(sql, (*_place(page), *condition.params))]
    sql = _children_sql(tx, 'm.id = ANY (%s)', _bound(page), "q.type = 'host'")
    return {row[0] for row in tx.all(sql, (*_place(page), assignments))}
