"""VRFs: separate address spaces, told apart by route target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nipap.addresses import parse_route_target
from nipap.attributes import VRF, check_names, given, named, read_integer, read_value, shown
from nipap.errors import (
    NipapError,
    NipapMissingInputError,
    NipapNonExistentError,
    NipapValueError,
    Problems,
)
from nipap.history.audit import Who
from nipap.objects import rows
from nipap.postgres.transaction import Transaction
from nipap.search.paging import VRFS, Page
from nipap.search.query import EVERYTHING, Condition, equals

_SPEC = ('id', 'rt', 'name')
_SOURCE = """vrf v LEFT JOIN LATERAL (SELECT {} FROM vrf_total t WHERE t.vrf_id = v.id) t ON true""".format(
    ', '.join(
        f'coalesce(sum(t.{column}) FILTER (WHERE t.family = {family}), 0) AS {column}_v{family}'
        for column in ('num_prefixes', 'total_addresses', 'used_addresses')
        for family in (4, 6)
    )
)


def read_spec(spec: object) -> Condition:
    """Return the condition of a VRF spec, one of ``id``, ``rt``, ``name``; EVERYTHING for nil and ``{}``.

    :raises NipapInputError, NipapExtraneousInputError, NipapValueError:
    """
    found = named(spec, _SPEC, 'vrf', 'VRF specification contains too many keys, specify VRF id, vrf or name.')
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
    """Return the condition of a spec (`read_spec`) that must name a VRF.

    :raises NipapMissingInputError: when the spec is empty.
    """
    condition = read_spec(given(spec, 'vrf'))
    if condition is EVERYTHING:
        raise NipapMissingInputError("vrf spec must contain either 'id', 'rt' or 'name'")
    return condition


def find(tx: Transaction, condition: Condition, page: Page | None = None) -> list[dict[str, Any]]:
    """Return the VRFs for which a condition holds, in order."""
    return rows.select(tx, VRF, _SOURCE, condition, VRFS, page)


@dataclass(frozen=True)
class VrfDraft:
    """The attributes of a VRF that a call sets, as columns. A route target is None when it is not set or set to nil."""

    values: Mapping[str, Any]
    route_target: tuple[str, int] | None
    sets_route_target: bool


def read_draft(attr: object, *, new: bool = False) -> VrfDraft:
    """Read the ``attr`` of a call.

    :raises NipapError: naming the attribute; further errors are attached.
    """
    present = rows.without_nil(attr, *(('rt', 'name') if new else ('name',)))
    check_names(present, VRF, required=('rt', 'name') if new else ())
    problems = Problems()
    route_target = None
    values: dict[str, Any] = {'tags': [], 'avps': {}} if new else {}
    for name, value in present.items():
        if name != 'rt':
            values[name] = problems.read(read_value, VRF[name], value)
        elif value is not None:
            route_target = problems.read(parse_route_target, value)
    problems.check()
    return VrfDraft(values, route_target, 'rt' in present)


def _ids(tx: Transaction, condition: Condition) -> list[int]:
    return rows.find_keys(tx, f'SELECT v.id FROM vrf v WHERE {condition.sql} ORDER BY v.id', condition)


def add(tx: Transaction, draft: VrfDraft, who: Who) -> int:
    """Add a VRF and return its id."""
    return int(tx.value('SELECT vrf_add(%s, %s::actor)', (_facts(draft), who)))


def edit(tx: Transaction, condition: Condition, draft: VrfDraft, who: Who) -> list[int]:
    """Edit the VRFs that satisfy a condition and return their ids."""
    ids = _ids(tx, condition)
    return [i for i in ids if tx.value('SELECT vrf_edit(%s, %s, %s::actor)', (i, _changes(i, draft), who))]


def _facts(draft: VrfDraft) -> str:
    values = dict(draft.values)
    if draft.sets_route_target:
        # parse_route_target refuses nil with an error that describes the form of route targets.
        values['rt'], values['rt_rank'] = draft.route_target or parse_route_target(None)
    return rows.facts(values)


def _changes(i: int, draft: VrfDraft) -> str:
    """Return the columns that an edit stores in VRF i. VRF 0 has no route target, and clients send back nil for it."""
    if i != 0 or not draft.sets_route_target:
        return _facts(draft)
    if draft.route_target is not None:
        raise NipapError('Invalid input for column rt, must be NULL for VRF id 0').about('rt')
    return rows.facts(draft.values)


def remove(tx: Transaction, condition: Condition, who: Who, *, recursive: bool = True) -> None:
    """Remove the VRFs for which a condition holds, with their prefixes.

    :raises NipapValueError: for VRF 0, and for a VRF that has prefixes unless `recursive`.
    """
    ids = _ids(tx, condition)
    if 0 in ids:
        raise NipapValueError('Prohibited delete of default VRF (id=0).')
    for i in ids:
        if not recursive:
            _refuse_prefixes(tx, i)
        tx.execute('SELECT vrf_remove(%s, %s::actor)', (i, who))


def _refuse_prefixes(tx: Transaction, i: int) -> None:
    # Adding a first prefix takes this lock, so no prefix can be added before the removal.
    rows.lock(tx, 'vrf', i)
    if tx.value('SELECT EXISTS (SELECT FROM prefix WHERE vrf_id = %s)', (i,)):
        name = tx.value('SELECT name FROM vrf WHERE id = %s', (i,))
        raise NipapValueError(
            f"Prohibited delete, VRF {shown(name)} contains prefixes; 'recursive' removes them too."
        ).about('recursive')


@dataclass(frozen=True)
class VrfName:
    """The VRF that a call names by ``id``, ``rt`` or ``name``, or by several of them; VRF 0 if the call names none."""

    key: str = 'id'  # the first name given
    value: object = 0
    conditions: tuple[Condition, ...] = ()

    @property
    def is_default(self) -> bool:
        """Return whether VRF 0 is meant without a look-up."""
        return self.value == 0 and self.key == 'id' and len(self.conditions) <= 1

    @property
    def given(self) -> bool:
        """Return whether the call names a VRF."""
        return bool(self.conditions)


DEFAULT = VrfName()
_MEMBERS = frozenset(f'vrf_{key}' for key in _SPEC)


def read_name(attr: Mapping[str, object]) -> VrfName:
    """Read ``vrf_id``, ``vrf_rt`` and ``vrf_name`` of an attr. A member that is nil counts as absent.

    :raises NipapValueError: naming the value.
    """
    if _MEMBERS.isdisjoint(attr):
        return DEFAULT
    return _name({key: attr[f'vrf_{key}'] for key in _SPEC if attr.get(f'vrf_{key}') is not None})


def read_spec_name(spec: object) -> VrfName:
    """Read a VRF spec that names one VRF. nil, ``{}`` and a value of nil stand for VRF 0.

    :raises NipapInputError, NipapExtraneousInputError, NipapValueError:
    """
    read_spec(spec)
    return _name({key: value for key, value in spec.items() if value is not None} if isinstance(spec, Mapping) else {})


def _name(names: Mapping[str, object]) -> VrfName:
    if not names:
        return DEFAULT
    key, value = next(iter(names.items()))
    if 'id' in names:
        number = _vrf_id(names['id'])
        value = number if key == 'id' else value
    return VrfName(key, value, tuple(read_spec({key: value}) for key, value in names.items()))


def resolve(tx: Transaction, name: VrfName) -> int:
    """Return the id of the VRF that a call names.

    :raises NipapNonExistentError: there is no such VRF.
    """
    if name.is_default:
        return 0
    sql = ' AND '.join(condition.sql for condition in name.conditions)
    params = tuple(param for condition in name.conditions for param in condition.params)
    found = tx.all_prepared(f'SELECT v.id FROM vrf v WHERE {sql}', params)
    if not found:
        raise NipapNonExistentError('No matching VRF found.').about(f'vrf_{name.key}')
    return int(found[0][0])


def _vrf_id(value: object) -> int:
    try:
        return read_integer(value)
    except NipapValueError:
        raise NipapValueError(f'Invalid value {shown(value)} for vrf_id, must be an integer').about('vrf_id') from None
