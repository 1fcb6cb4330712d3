"""The partitions of the audit log: ranges of entry ids, each a table of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from nipap.postgres.transaction import Transaction

REST = 'audit_log_rest'  # for entries without another partition
NAME = re.compile(r'audit_log_(?:[1-9][0-9]{0,9}|rest)')


class Bound(NamedTuple):
    """A partition with its ids: from `first`, or from the beginning if None, to below `end`."""

    name: str
    first: int | None
    end: int


# The text of a bound is "FOR VALUES FROM ('1') TO ('2')", or "FOR VALUES FROM (MINVALUE) TO ('2')", or DEFAULT.
_BOUNDS = r"""SELECT relname, substring(bound, 'FROM \(''(-?\d+)''\)')::bigint,
    substring(bound, 'TO \(''(-?\d+)''\)')::bigint
FROM (SELECT relname, pg_get_expr(relpartbound, c.oid) AS bound FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid
    WHERE inhparent = to_regclass('audit_log')) b
WHERE bound <> 'DEFAULT' ORDER BY 3"""


def bounds(tx: Transaction) -> list[Bound]:
    """Return the partitions in the order of their ids, without the default one; none of a log without partitions."""
    return [Bound(*row) for row in tx.all(_BOUNDS)]


def parse(listed: object) -> list[Bound]:
    """Return partitions from the manifest of a dump.

    :raises ValueError: the names or ids cannot be those of partitions.
    """
    if not isinstance(listed, list):
        raise ValueError('no list')
    found = [Bound(*each) for each in listed if isinstance(each, list) and len(each) == 3]
    before = 0
    for n, (name, first, end) in enumerate(found):
        begins = (type(first) is int and first >= before) or (first is None and n == 0)
        if not (begins and type(end) is int and max(before, first or 0) < end < 2**63):
            raise ValueError(f'impossible range {first} to {end}')
        if not isinstance(name, str) or not NAME.fullmatch(name) or name == REST:
            raise ValueError(f'impossible name {name}')
        before = end
    if len({each.name for each in found}) < len(listed):
        raise ValueError('no partitions, or two of one name')
    return found


def replace(tx: Transaction, wanted: Sequence[Bound]) -> None:
    """Replace the partitions of an empty log, except the default one."""
    for each in bounds(tx):
        tx.execute(f'DROP TABLE {each.name}')
    for each in wanted:
        first = 'MINVALUE' if each.first is None else f'{each.first:d}'
        tx.execute(f'CREATE TABLE {each.name} PARTITION OF audit_log FOR VALUES FROM ({first}) TO ({each.end:d})')
        tx.execute(f"COMMENT ON TABLE {each.name} IS 'A partition of audit_log.'")
