"""Objects as rows: the functions that VRFs, pools, prefixes and AS numbers share.

Every function takes an open transaction. None of them commits or checks permissions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from nipap.attributes import Table, read_value
from nipap.errors import NipapValueError, Problems
from nipap.moments import NEVER
from nipap.postgres.transaction import Transaction
from nipap.search.paging import Order, Page
from nipap.search.query import Condition
from nipap.search.running import behind, limit, run_search


def select(
    tx: Transaction, table: Table, source: str, condition: Condition, order: Order, page: Page | None
) -> list[dict[str, Any]]:
    """Return the objects of a table for which a condition holds, in order. All of them if page is None."""
    columns = ', '.join(attribute.sql for attribute in table.values())
    if page is not None:
        condition = behind(condition, page)
    sql = f'SELECT {columns} FROM {source} WHERE {condition.sql} ORDER BY {order.by}'
    if not condition.listed:
        rows = run_search(tx, sql + limit(page), condition, condition.params)
    elif page is None:
        rows = tx.all_prepared(sql, condition.params)
    # A prepared statement must be the same for every page.
    else:
        rows = tx.all_prepared(f'{sql} LIMIT %s OFFSET %s', (*condition.params, page.max_result, page.offset))
    names = tuple(table)
    return [dict(zip(names, row, strict=True)) for row in rows]


def find_keys(tx: Transaction, sql: str, condition: Condition) -> list[int]:
    """Return the keys that a statement with a condition selects."""
    found = tx.all_prepared(sql, condition.params) if condition.listed else tx.all(sql, condition.params)
    return [int(row[0]) for row in found]


# Each statement follows the common order of locks: a prefix after the objects above it, a pool after its members.
_LOCKS = {
    'vrf': 'SELECT 1 FROM vrf WHERE id = %s FOR NO KEY UPDATE',
    'pool': 'SELECT lock_pool_members(%s)',
    'asn': 'SELECT 1 FROM asn WHERE asn = %s FOR NO KEY UPDATE',
    'prefix': 'SELECT 1 FROM lock_with_parent(%s)',
}
# The largest keys. The keys of other objects are bigint.
_LARGEST = {'vrf': 2**31 - 1, 'pool': 2**31 - 1}


def lock(tx: Transaction, kind: str, key: int) -> None:
    """Lock an object against changes of any kind until the transaction ends. Do nothing if it does not exist."""
    if key <= _LARGEST.get(kind, 2**63 - 1):
        tx.execute(_LOCKS[kind], (key,))


def without_nil(attr: Any, *names: str) -> Any:
    """Return an attr without those named members that are nil: nil counts as absent where a value must not be empty."""
    if not isinstance(attr, Mapping):
        return attr
    return {name: value for name, value in attr.items() if value is not None or name not in names}


def read_values(attr: Mapping[str, object], table: Table) -> dict[str, Any]:
    """Return the members of an attr as they are stored.

    :raises NipapValueError: naming the first invalid value; errors of further values are attached.
    """
    try:
        return {name: read_value(table[name], value) for name, value in attr.items()}
    except NipapValueError:
        problems = Problems()
        for name, value in attr.items():
            problems.read(read_value, table[name], value)
        problems.check()
        raise


def facts(values: Mapping[str, Any] | list[dict[str, Any]]) -> str:
    """Return column values as JSON for the SQL functions."""
    return json.dumps(values, default=_moment)


def _moment(value: object) -> str:
    if not isinstance(value, datetime):
        raise TypeError(f'cannot store {type(value)}')
    return 'infinity' if value == NEVER else value.isoformat()
