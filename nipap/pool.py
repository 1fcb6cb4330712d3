"""Pools: named sets of prefixes to allocate from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nipap import rows
from nipap.attributes import POOL, check_names, comparable_text, read_integer, shown
from nipap.audit import Who
from nipap.errors import (
    NipapInputError,
    NipapMissingInputError,
    NipapValueError,
)
from nipap.paging import POOLS, Page
from nipap.query import EVERYTHING, Condition, equals
from nipap.transaction import Transaction

_SPEC = ('id', 'name')
LARGEST_ID, NO_ID = 2**31 - 1, -1
# Each address counts once, also an address of a member inside a member. The free addresses of members are distinct, and
# the used ones are the rest.
_TOTAL = 'coalesce(sum(prefix_size(q.prefix)) FILTER (WHERE {0} AND q.outermost), 0)'
_FREE = 'coalesce(sum(prefix_size(q.prefix) - q.used_addresses) FILTER (WHERE {0}), 0)'
_MEMBER_SUMS = {
    'member_prefixes': 'count(*) FILTER (WHERE {0})',
    'used_prefixes': 'coalesce(sum(q.children) FILTER (WHERE {0}), 0)',
    'total_addresses': _TOTAL,
    'used_addresses': f'{_TOTAL} - {_FREE}',
    # nil without a member of the family, and members know no number without a default length
    'free_prefixes': 'sum(q.free_blocks) FILTER (WHERE {0})',
}
# In the order of the tree a member that lies inside another does not end behind all members before it.
_MEMBERS = """SELECT q.vrf_id, q.prefix, q.children, q.used_addresses, q.free_blocks,
    coalesce(addr_last(q.prefix) > max(addr_last(q.prefix))
        OVER (ORDER BY q.prefix ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), true) AS outermost
    FROM prefix q WHERE q.pool_id = o.id"""
_SOURCE = """pool o LEFT JOIN LATERAL (
    SELECT min(q.vrf_id) AS vrf_id, coalesce(array_agg(q.prefix::text ORDER BY q.prefix), '{{}}') AS prefixes, {}
    FROM ({}) q) m ON true LEFT JOIN vrf v ON v.id = m.vrf_id""".format(
    ', '.join(
        f'{figure.format(f"family(q.prefix) = {family}")} AS {name}_v{family}'
        for name, figure in _MEMBER_SUMS.items()
        for family in (4, 6)
    ),
    _MEMBERS,
)


def read_spec(spec: object) -> Condition:
    """The condition of a pool spec, ``id`` or ``name``; EVERYTHING for nil and ``{}``.

    :raises NipapInputError, NipapExtraneousInputError, NipapValueError:
    """
    found = _named(spec)
    return EVERYTHING if found is None else equals(POOL[found[0]], found[1])


def read_one(spec: object) -> tuple[int | None, str | None]:
    """The id or the name that a pool spec gives.

    :raises NipapMissingInputError: neither. And what `read_spec` raises.
    """
    found = _named(spec)
    if found is None:
        raise _missing()
    key, value = found
    if key == 'name':
        return None, value
    return value if 0 <= value <= LARGEST_ID else NO_ID, None  # which the column of ids cannot hold


def _named(spec: object) -> tuple[str, Any] | None:
    found = rows.named(spec, _SPEC, 'pool', "pool specification with 'id' should not contain anything else")
    if found is None:
        return None
    key, value = found
    if key == 'id':
        try:
            value = read_integer(value)
        except NipapValueError:
            raise NipapValueError("pool specification key 'id' must be an integer") from None
    elif not isinstance(value, str):
        raise NipapValueError(f"pool specification key 'name' must be a string, not {shown(value)}")
    else:
        value = comparable_text(POOL['name'], value)
    return key, value


def _missing() -> NipapMissingInputError:
    return NipapMissingInputError("pool spec must contain either 'id' or 'name'")


def require_spec(spec: object) -> Condition:
    """As `read_spec`, but something must be named.

    :raises NipapMissingInputError: when the spec is empty.
    """
    condition = read_spec(rows.given(spec, 'pool'))
    if condition is EVERYTHING:
        raise _missing()
    return condition


def find(tx: Transaction, condition: Condition, page: Page | None = None) -> list[dict[str, Any]]:
    """The pools for which a condition holds, by name."""
    return rows.select(tx, POOL, _SOURCE, condition, POOLS, page)


def find_ids(tx: Transaction, condition: Condition) -> list[int]:
    """The ids of the pools that a spec means."""
    return rows.find_keys(tx, f'SELECT o.id FROM pool o WHERE {condition.sql} ORDER BY o.id', condition)


def resolve(tx: Transaction, attr: Mapping[str, object]) -> int | None:
    """The id of the pool that ``pool_id`` and ``pool_name`` of an attr mean; None when they are nil.

    :raises NipapInputError: there is no such pool.
    """
    names = {key: attr[f'pool_{key}'] for key in _SPEC if attr.get(f'pool_{key}') is not None}
    if not names:
        return None
    found = [set(find_ids(tx, read_spec({key: value}))) for key, value in names.items()]
    common = set.intersection(*found)
    if not common:
        raise NipapInputError('non-existing pool specified').about(f'pool_{next(iter(names))}')
    return common.pop()


def add(tx: Transaction, attr: Mapping[str, object], who: Who) -> int:
    """Add a pool; returns its id."""
    attr = rows.without_nil(attr, 'name')
    check_names(attr, POOL, required=('name', 'description', 'default_type'))
    values = {'tags': [], 'avps': {}, **rows.read_values(attr, POOL)}
    return int(tx.value('SELECT pool_add(%s, %s::actor)', (rows.facts(values), who)))


def edit(tx: Transaction, condition: Condition, attr: Mapping[str, object], who: Who) -> list[int]:
    """Edit the pools for which a condition holds; returns their ids."""
    check_names(attr, POOL)
    changes = rows.facts(rows.read_values(rows.without_nil(attr, 'name'), POOL))
    return [i for i in find_ids(tx, condition) if tx.value('SELECT pool_edit(%s, %s, %s::actor)', (i, changes, who))]


def remove(tx: Transaction, condition: Condition, who: Who) -> None:
    """Remove the pools for which a condition holds; their members stay."""
    for i in find_ids(tx, condition):
        tx.execute('SELECT pool_remove(%s, %s::actor)', (i, who))
