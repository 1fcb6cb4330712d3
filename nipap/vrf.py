"""VRFs: address spaces beside each other, told apart by route target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nipap import rows
from nipap.addresses import parse_route_target
from nipap.attributes import VRF, check_names, read_integer, shown
from nipap.audit import Who
from nipap.errors import (
    NipapError,
    NipapMissingInputError,
    NipapNonExistentError,
    NipapValueError,
)
from nipap.paging import VRFS, Page
from nipap.query import EVERYTHING, Condition, equals
from nipap.transaction import Transaction

_SPEC = ('id', 'rt', 'name')
_SOURCE = """vrf v LEFT JOIN LATERAL (SELECT {} FROM vrf_total t WHERE t.vrf_id = v.id) t ON true""".format(
    ', '.join(
        f'coalesce(sum(t.{column}) FILTER (WHERE t.family = {family}), 0) AS {column}_v{family}'
        for column in ('num_prefixes', 'total_addresses', 'used_addresses')
        for family in (4, 6)
    )
)


def read_spec(spec: object) -> Condition:
    """The condition of a VRF spec, one of ``id``, ``rt``, ``name``; EVERYTHING for nil and ``{}``.

    :raises NipapInputError, NipapExtraneousInputError, NipapValueError:
    """
    found = rows.named(spec, _SPEC, 'vrf', 'VRF specification contains too many keys, specify VRF id, vrf or name.')
    if found is None:
        return EVERYTHING
    key, value = found
    if key == 'id':
        try:
            value = read_integer(value)
        except NipapValueError:
            raise NipapValueError("VRF specification key 'id' must be an integer.") from None
    elif value is not None and not isinstance(value, str):
        raise NipapValueError(f"VRF specification key '{key}' must be a string, not {shown(value)}.")
    return equals(VRF[key], value)


def require_spec(spec: object) -> Condition:
    """As `read_spec`, but something must be named.

    :raises NipapMissingInputError: when the spec is empty.
    """
    condition = read_spec(rows.given(spec, 'vrf'))
    if condition is EVERYTHING:
        raise NipapMissingInputError("vrf spec must contain either 'id', 'rt' or 'name'")
    return condition


def find(tx: Transaction, condition: Condition, page: Page | None = None) -> list[dict[str, Any]]:
    """The VRFs for which a condition holds, in order."""
    return rows.select(tx, VRF, _SOURCE, condition, VRFS, page)


def _values(attr: Mapping[str, object]) -> dict[str, Any]:
    values = rows.read_values({name: value for name, value in attr.items() if name != 'rt'}, VRF)
    if 'rt' in attr:
        values['rt'], values['rt_rank'] = parse_route_target(attr['rt'])
    return values


def _ids(tx: Transaction, condition: Condition) -> list[int]:
    return rows.find_keys(tx, f'SELECT v.id FROM vrf v WHERE {condition.sql} ORDER BY v.id', condition)


def add(tx: Transaction, attr: Mapping[str, object], who: Who) -> int:
    """Add a VRF; returns its id."""
    present = rows.without_nil(attr, 'rt', 'name')
    check_names(present, VRF, required=('rt', 'name'))
    values = {'tags': [], 'avps': {}, **_values(present)}
    return int(tx.value('SELECT vrf_add(%s, %s::actor)', (rows.facts(values), who)))


def edit(tx: Transaction, condition: Condition, attr: Mapping[str, object], who: Who) -> list[int]:
    """Edit the VRFs for which a condition holds; returns their ids."""
    ids = _ids(tx, condition)
    check_names(attr, VRF)
    present = rows.without_nil(attr, 'name')
    return [i for i in ids if tx.value('SELECT vrf_edit(%s, %s, %s::actor)', (i, _changes(i, present), who))]


def _changes(i: int, attr: Mapping[str, object]) -> str:
    """What an edit stores in VRF i. VRF 0 has no route target, and clients send what they were given: nil."""
    if i != 0 or 'rt' not in attr:
        return rows.facts(_values(attr))
    if attr['rt'] is not None:
        raise NipapError('Invalid input for column rt, must be NULL for VRF id 0').about('rt')
    return rows.facts(_values({name: value for name, value in attr.items() if name != 'rt'}))


def remove(tx: Transaction, condition: Condition, who: Who) -> None:
    """Remove the VRFs for which a condition holds, with their prefixes.

    :raises NipapValueError: for VRF 0.
    """
    ids = _ids(tx, condition)
    if 0 in ids:
        raise NipapValueError('Prohibited delete of default VRF (id=0).')
    for i in ids:
        tx.execute('SELECT vrf_remove(%s, %s::actor)', (i, who))


def named_by(attr: Mapping[str, object], prefix: str = 'vrf_') -> dict[str, object]:
    """The members of an attr or spec that name a VRF, those that are nil left out; without their prefix."""
    return {key: attr[prefix + key] for key in _SPEC if attr.get(prefix + key) is not None}


def resolve(tx: Transaction, names: Mapping[str, object]) -> int:
    """The id of the VRF that all of the names mean; VRF 0 when there are none.

    :raises NipapNonExistentError: there is no such VRF.
    """
    if not names:
        return 0
    if set(names) == {'id'}:
        number = _vrf_id(names['id'])
        if number == 0:
            return 0
    conditions = [read_spec({key: value}) for key, value in names.items()]
    sql = ' AND '.join(condition.sql for condition in conditions)
    params = tuple(param for condition in conditions for param in condition.params)
    found = tx.all_prepared(f'SELECT v.id FROM vrf v WHERE {sql}', params)
    if not found:
        raise NipapNonExistentError('No matching VRF found.').about(f'vrf_{next(iter(names))}')
    return int(found[0][0])


def _vrf_id(value: object) -> int:
    try:
        return read_integer(value)
    except NipapValueError:
        raise NipapValueError(f'Invalid value {shown(value)} for vrf_id, must be an integer').about('vrf_id') from None
