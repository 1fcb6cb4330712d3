"""Pools: named sets of prefixes to allocate from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nipap.attributes import POOL, check_names, comparable_text, given, named, read_integer, shown
from nipap.errors import (
    NipapInputError,
    NipapMissingInputError,
    NipapValueError,
)
from nipap.history.audit import Who
from nipap.objects import rows
from nipap.postgres.transaction import Transaction
from nipap.search.paging import POOLS, Page
from nipap.search.query import EVERYTHING, Condition, equals

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
    # nil without a member of the family, and without a default length (free_blocks is NULL then)
    'free_prefixes': 'sum(q.free_blocks) FILTER (WHERE {0})',
}
# In tree order, a member inside another member does not end after all earlier members.
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
    """Return the condition of a pool spec, ``id`` or ``name``; EVERYTHING for nil and ``{}``.

    :raises NipapInputError, NipapExtraneousInputError, NipapValueError:
    """
    found = _named(spec)
    return EVERYTHING if found is None else equals(POOL[found[0]], found[1])


@dataclass(frozen=True)
class PoolName:
    """The pool that an allocation names, by id or by name."""

    id: int | None
    name: str | None


def read_one(spec: object) -> PoolName:
    """Read a pool spec that must name a pool.

    :raises NipapMissingInputError: the spec is empty.
    :raises NipapInputError, NipapExtraneousInputError, NipapValueError:
    """
    found = _named(spec)
    if found is None:
        raise _missing()
    key, value = found
    if key == 'name':
        return PoolName(None, value)
    return PoolName(value if 0 <= value <= LARGEST_ID else NO_ID, None)  # other ids do not fit the column


def _named(spec: object) -> tuple[str, Any] | None:
    found = named(spec, _SPEC, 'pool', "pool specification with 'id' should not contain anything else")
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
    """Return the condition of a spec (`read_spec`) that must name a pool.

    :raises NipapMissingInputError: when the spec is empty.
    """
    condition = read_spec(given(spec, 'pool'))
    if condition is EVERYTHING:
        raise _missing()
    return condition


def find(tx: Transaction, condition: Condition, page: Page | None = None) -> list[dict[str, Any]]:
    """Return the pools for which a condition holds, by name."""
    return rows.select(tx, POOL, _SOURCE, condition, POOLS, page)


def find_ids(tx: Transaction, condition: Condition) -> list[int]:
    """Return the ids of the pools for which a condition holds, in order."""
    return rows.find_keys(tx, f'SELECT o.id FROM pool o WHERE {condition.sql} ORDER BY o.id', condition)


@dataclass(frozen=True)
class Membership:
    """The pool that ``pool_id`` and ``pool_name`` of an attr name; no pool if there are no conditions."""

    key: str = 'id'  # the first name given
    conditions: tuple[Condition, ...] = ()


def read_membership(attr: Mapping[str, object]) -> Membership:
    """Read ``pool_id`` and ``pool_name`` of an attr. A member that is nil counts as absent.

    :raises NipapValueError: naming the value.
    """
    names = {key: attr[f'pool_{key}'] for key in _SPEC if attr.get(f'pool_{key}') is not None}
    return Membership(next(iter(names), 'id'), tuple(read_spec({key: value}) for key, value in names.items()))


def resolve(tx: Transaction, membership: Membership) -> int | None:
    """Return the id of the pool that a membership names; None for no pool.

    :raises NipapInputError: there is no such pool.
    """
    if not membership.conditions:
        return None
    found = [set(find_ids(tx, condition)) for condition in membership.conditions]
    common = set.intersection(*found)
    if not common:
        raise NipapInputError('non-existing pool specified').about(f'pool_{membership.key}')
    return common.pop()


@dataclass(frozen=True)
class PoolDraft:
    """The attributes of a pool that a call sets, as columns."""

    values: Mapping[str, Any]


def read_draft(attr: object, *, new: bool = False) -> PoolDraft:
    """Read the ``attr`` of a call.

    :raises NipapError: naming the attribute; further errors are attached.
    """
    present = rows.without_nil(attr, 'name')
    check_names(present, POOL, required=('name', 'description', 'default_type') if new else ())
    values = rows.read_values(present, POOL)
    return PoolDraft({'tags': [], 'avps': {}, **values} if new else values)


def add(tx: Transaction, draft: PoolDraft, who: Who) -> int:
    """Add a pool and return its id."""
    return int(tx.value('SELECT pool_add(%s, %s::actor)', (rows.facts(draft.values), who)))


def edit(tx: Transaction, condition: Condition, draft: PoolDraft, who: Who) -> list[int]:
    """Edit the pools that satisfy a condition and return their ids."""
    changes = rows.facts(draft.values)
    return [i for i in find_ids(tx, condition) if tx.value('SELECT pool_edit(%s, %s, %s::actor)', (i, changes, who))]


def remove(tx: Transaction, condition: Condition, who: Who) -> None:
    """Remove the pools for which a condition holds; their members stay."""
    for i in find_ids(tx, condition):
        tx.execute('SELECT pool_remove(%s, %s::actor)', (i, who))
