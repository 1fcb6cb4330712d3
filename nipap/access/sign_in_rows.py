"""The table of sign-ins: its rows are written, listed and removed."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from nipap.access.sign_ins import INTERFACES, OUTCOMES, Row
from nipap.attributes import LARGEST_NUMBER, read_from, read_text, shown
from nipap.errors import NipapExtraneousInputError, NipapInputError, NipapValueError
from nipap.moments import read_moment
from nipap.postgres.transaction import Transaction

Object = dict[str, Any]
Filter = tuple[str, Any]  # a condition in SQL, and its value

MOST = 1000
DEFAULT = 50
REMOVED_AT_ONCE = 5000

NAMES = ('id', 'at', 'last', 'count', 'authenticated_as', 'backend', 'address', 'interface', 'outcome')
FILTERS = ('user', 'address', 'outcome', 'interface')


# ---------------------------------------------------------------- rows

_WRITE = """INSERT INTO sign_in (at, last, count, authenticated_as, backend, address, interface, outcome)
SELECT * FROM unnest(%s::timestamptz[], %s::timestamptz[], %s::bigint[], %s::text[], %s::text[], %s::inet[],
    %s::text[], %s::text[])"""
_REMOVE = """DELETE FROM sign_in WHERE id IN (
    SELECT id FROM sign_in WHERE last < now() - %s * interval '1 day' AND at < now() - %s * interval '1 day'
    ORDER BY at LIMIT %s)"""


def write(tx: Transaction, rows: Sequence[Row]) -> None:
    """Write sign-ins by one statement."""
    keys = [row.key for row in rows]
    columns = (
        [datetime.fromtimestamp(row.first, UTC) for row in rows],
        [datetime.fromtimestamp(row.last, UTC) for row in rows],
        [row.times for row in rows],
        *map(list, zip(*keys, strict=True)),
    )
    tx.execute(_WRITE, columns)


def remove_old(tx: Transaction, days: int) -> int:
    """Remove some sign-ins that are older than `days`; return their number."""
    return tx.execute(_REMOVE, (days, days, REMOVED_AT_ONCE))


# ---------------------------------------------------------------- the list


def read_spec(spec: object) -> list[Filter]:
    """Parse a spec: an object of ``user``, ``address``, ``outcome`` and ``interface``. Every member must match.

    :raises NipapError: naming the member.
    """
    if spec is None:
        return []
    if not isinstance(spec, Mapping):
        raise NipapInputError('sign_in specification must be a dict')
    for name in spec:
        if name not in FILTERS:
            accepted = ', '.join(FILTERS)
            raise NipapExtraneousInputError(f'extraneous specification key {name}, accepted: {accepted}')
    return [_READERS[name](name, value) for name, value in spec.items()]


def _read_user(name: str, value: object) -> Filter:
    if not isinstance(value, str):
        raise NipapValueError(f'Invalid value {shown(value)} for {name}, must be a string').about(name)
    return 'authenticated_as = %s', read_text(value)


def _read_address(name: str, value: object) -> Filter:
    try:
        if not isinstance(value, str):
            raise ValueError
        network = ipaddress.ip_network(value.strip())
        if network.version == 6 and (network.network_address.scope_id or '%' in value):
            raise ValueError
    except ValueError:
        text = f'Invalid value {shown(value)} for {name}, must be an IP address or a network'
        raise NipapValueError(text).about(name) from None
    return 'address <<= %s', str(network)


def _read_one_of(name: str, value: object) -> Filter:
    accepted = OUTCOMES if name == 'outcome' else INTERFACES
    if not isinstance(value, str) or value not in accepted:
        text = f'Invalid value {shown(value)} for {name}, must be one of: {", ".join(accepted)}'
        raise NipapValueError(text).about(name)
    return f'{name} = %s', value


_READERS = {'user': _read_user, 'address': _read_address, 'outcome': _read_one_of, 'interface': _read_one_of}


def read_since(value: object) -> Filter | None:
    """Parse the moment from which sign-ins are listed."""
    moment = _moment('since', value)
    return None if moment is None else ('last >= %s', moment)


def read_until(value: object) -> Filter | None:
    """Parse the moment before which the listed sign-ins began."""
    moment = _moment('until', value)
    return None if moment is None else ('at < %s', moment)


def _moment(name: str, value: object) -> datetime | None:
    if value is None:
        return None
    try:
        return read_moment(value, compared=True)
    except NipapValueError as error:
        raise NipapValueError(f'{error}: {shown(value)} for {name}').about(name) from None


def read_after(after: object) -> int | None:
    """Parse the id after which a page begins: the id of the last row of the page before."""
    return None if after is None else read_from('after', after, 0, LARGEST_NUMBER)


def read_most(most: object) -> int:
    """Parse the largest number of rows."""
    return DEFAULT if most is None else read_from('max_result', most, 1, MOST)


Members = tuple[list[Filter], Filter | None, Filter | None, int | None, int]


def find(tx: Transaction, _caller: object, members: Members) -> list[Object]:
    """Return a page of sign-ins, newest first."""
    filters, since, until, after, most = members
    wanted = [*filters, *(each for each in (since, until) if each), *([] if after is None else [('id < %s', after)])]
    condition = ' AND '.join(sql for sql, _ in wanted) or 'true'
    sql = f'SELECT {", ".join(NAMES)} FROM sign_in WHERE {condition} ORDER BY id DESC LIMIT %s'
    rows = tx.all(sql, (*(value for _, value in wanted), most))
    return [dict(zip(NAMES, row, strict=True)) for row in rows]
