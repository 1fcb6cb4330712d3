"""Prefixes: their specs, and how to add, edit and remove them. The tree itself is maintained by sql/functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nipap.addresses import has_host_bits
from nipap.attributes import EDITED, PREFIX, Table, check_names, read_integer, read_value
from nipap.errors import (
    NipapError,
    NipapExtraneousInputError,
    NipapInputError,
    NipapMissingInputError,
    NipapNonExistentError,
    NipapValueError,
    Problems,
)
from nipap.history.audit import Who
from nipap.objects import pool, rows, vrf
from nipap.objects.prefix_search import AT_ONCE, IDS, read_named
from nipap.objects.prefix_view import FROM, Shape, as_found, as_listed, read_few, read_page, source
from nipap.postgres.transaction import Expression, Transaction
from nipap.search.condition import ByKey
from nipap.search.query import EVERYTHING, NOTHING, Condition, all_of, bigint, equals

# ---------------------------------------------------------------- specs


def read_spec(spec: object, *, default_vrf: bool = False) -> Condition:
    """Return the condition of a prefix spec: any prefix attributes, ANDed, or ``id`` alone.

    default_vrf: look up a ``prefix`` without a VRF in VRF 0 only.

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
    try:
        conditions = [_equals(key, value) for key, value in spec.items()]
    except NipapValueError:
        # A list for a prefix with host bits is empty. A change must name its prefixes correctly.
        if default_vrf or not has_host_bits(spec.get('prefix')):
            raise
        return NOTHING
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
    """Return the condition of the spec of a change, which must not be empty. VRF 0 is the default VRF of a ``prefix``.

    :raises NipapMissingInputError: when the spec is empty.
    """
    condition = read_spec(spec, default_vrf=True)
    if condition is EVERYTHING:
        raise NipapMissingInputError('missing prefix or id of prefix')
    return condition


# ---------------------------------------------------------------- changing

_ELSEWHERE = frozenset({'vrf_id', 'vrf_rt', 'vrf_name', 'pool_id', 'pool_name', 'prefix'})
_PLACING = frozenset({*_ELSEWHERE, 'type'})
# nil counts as absent, because these attributes must not be empty.
_DEFAULTED = ('type', 'status', 'authoritative_source')


@dataclass(frozen=True)
class PrefixDraft:
    """The attributes of a prefix that a call sets.

    network: the place; None if the prefix stays in its place or is allocated.
    pool: None if membership stays.
    values: the other attributes as columns.
    in_place: neither place, VRF, pool nor type is set.
    """

    network: str | None
    vrf: vrf.VrfName
    pool: pool.Membership | None
    values: Mapping[str, Any]
    in_place: bool = False


def check_attr(attr: object) -> None:
    """Refuse an attr with members that cannot be set.

    :raises NipapInputError, NipapExtraneousInputError:
    """
    check_names(attr, PREFIX)


def read_draft(attr: Mapping[str, object]) -> PrefixDraft:
    """Read the ``attr`` of an edit. The caller has checked the names of its members.

    :raises NipapError: naming the attribute; further errors are attached.
    """
    problems = Problems()
    values = problems.read(_read_values, attr, EDITED)
    membership = problems.read(_read_membership, attr)
    network = problems.read(_read_network, attr)
    name = problems.read(vrf.read_name, attr)
    problems.check()
    return PrefixDraft(network, name, membership, values, _PLACING.isdisjoint(attr))


def read_new(attr: Mapping[str, object], *, typed: bool = True) -> PrefixDraft:
    """Read the ``attr`` of an addition. The caller has checked the names of its members.

    typed: refuse an attr without a type; else the pool may provide the type.

    :raises NipapMissingInputError: there is neither a description nor a node.
    :raises NipapValueError: there is no type, or a value is invalid.
    """
    problems = Problems()
    network = problems.read(_read_network, attr)
    name = problems.read(vrf.read_name, attr)
    values = problems.read(_read_values, attr, PREFIX, default={})
    if 'description' not in attr and 'node' not in attr:
        problems.note(
            NipapMissingInputError('Either description or node must be specified.').about('description'),
        )
    membership = problems.read(_read_membership, attr)
    if typed and attr.get('type') is None:
        problems.note(NipapValueError('Unknown prefix type').about('type'))
    problems.check()
    return PrefixDraft(network, name, membership, values)


def _read_network(attr: Mapping[str, object]) -> str | None:
    network: str | None = None if attr.get('prefix') is None else read_value(PREFIX['prefix'], attr['prefix'])
    return network


def _read_membership(attr: Mapping[str, object]) -> pool.Membership | None:
    return pool.read_membership(attr) if 'pool_id' in attr or 'pool_name' in attr else None


def _read_values(attr: Mapping[str, object], table: Table) -> dict[str, Any]:
    """Return the members of an attr that are columns of a prefix, without place, VRF and pool."""
    return rows.read_values(
        {
            name: value
            for name, value in attr.items()
            if name not in _ELSEWHERE and (value is not None or name not in _DEFAULTED)
        },
        table,
    )


def changes(tx: Transaction, draft: PrefixDraft) -> dict[str, Any]:
    """Return the columns that a draft sets, without the place.

    :raises NipapInputError: there is no such pool.
    """
    return {**draft.values, 'pool_id': pool.resolve(tx, draft.pool)} if draft.pool else {**draft.values}


_NEW = {'status': 'assigned', 'tags': [], 'avps': {}, 'expires': read_value(PREFIX['expires'], None)}


def new_facts(tx: Transaction, draft: PrefixDraft, who: Who) -> dict[str, Any]:
    """Return the columns of a new prefix, with defaults but without the place."""
    return {**_NEW, 'authoritative_source': who.authoritative_source, **changes(tx, draft)}


def add(tx: Transaction, draft: PrefixDraft, who: Who) -> None:
    """Queue the addition of a draft's prefix. `get_added` runs it and returns the prefix."""
    v = vrf.resolve(tx, draft.vrf)
    stored = rows.facts(new_facts(tx, draft, who))
    tx.ahead('SELECT prefix_add(%s, %s::cidr, %s, %s::actor)', (v, draft.network, stored, who))


def get_added(tx: Transaction, shape: Shape = as_listed) -> dict[str, Any]:
    """Return the prefix that this session added last, in the shape of an addition."""
    return read_few(tx, Condition('p.id = %s', (Expression("currval('prefix_id_seq')"),)), shape)[0]


def get_added_by(tx: Transaction, changes: list[int], shape: Shape = as_listed) -> list[dict[str, Any]]:
    """Return the prefixes that these changes of this transaction have added, by id."""
    if len(changes) == 1:
        return [get_added(tx, shape)]
    # The array subqueries are evaluated first: the statement looks up by index, then by primary key. The ids are in the
    # order of the changes.
    of_set = 'a.change_set = s.id AND a.id > s.entries_after'
    ids = f'ARRAY(SELECT a.object_id FROM change_set s JOIN audit_log a ON {of_set} WHERE s.call = ANY (%s))'
    told = "(SELECT string_agg(call || '/' || id, ' ') FROM change_set WHERE call = ANY (%s))"
    found = read_few(tx, Condition(f'p.id = ANY ({ids})', (changes,)), shape, Condition(told, (changes,)))
    return sorted(found, key=lambda item: item['id'])


def get_by_id(tx: Transaction, i: int, shape: Shape = as_listed) -> dict[str, Any]:
    """Return a prefix in the shape of an addition.

    :raises NipapNonExistentError: the prefix was added, and has been removed since.
    """
    found = read_few(tx, Condition('p.id = %s', (i,)), shape)
    if not found:
        raise NipapNonExistentError(f'Prefix {i} was added, and removed by somebody else.')
    return found[0]


def add_many(tx: Transaction, drafts: Sequence[PrefixDraft], who: Who) -> list[int]:
    """Add the prefixes of many drafts; return their ids in the same order.

    :raises NipapError: a draft is refused and nothing is added; ``position`` is the index of that draft.
    """
    items = []
    vrfs: dict[vrf.VrfName, int] = {}
    for position, draft in enumerate(drafts):
        try:
            name = draft.vrf
            if name is not vrf.DEFAULT and name not in vrfs:
                vrfs[name] = vrf.resolve(tx, name)
            in_vrf = 0 if name is vrf.DEFAULT else vrfs[name]
            items.append({**new_facts(tx, draft, who), 'vrf_id': in_vrf, 'prefix': draft.network})
        except NipapError as error:
            error.position = position
            raise
    return list(tx.value('SELECT prefix_add_many(%s, %s::actor)', (rows.facts(items), who)))


def get_many(tx: Transaction, ids: list[int], shape: Shape = as_listed) -> list[dict[str, Any]]:
    """Return prefixes in the shape of an addition, in the order of the ids."""
    found = {item['id']: item for item in read_page(tx, IDS, EVERYTHING, (ids,), shape, by_key=True)}
    return [found[i] for i in ids]


def get_many_apart(tx: Transaction, ids: list[int], shape: Shape = as_listed) -> Iterator[list[dict[str, Any]]]:
    """Yield prefixes in the shape of an addition, in the order of the ids, `AT_ONCE` at a time."""
    for first in range(0, len(ids), AT_ONCE):
        yield get_many(tx, ids[first : first + AT_ONCE], shape)


def get_edited(tx: Transaction, ids: list[int]) -> list[dict[str, Any]]:
    """Return prefixes by id in the shape of an edit."""
    if len(ids) <= FEW:
        return read_few(tx, Condition('p.id = ANY (%s)', (ids,)), as_found)
    return read_page(tx, IDS, EVERYTHING, (ids,), as_found, by_key=True)


def get_edited_apart(tx: Transaction, ids: list[int]) -> Iterator[list[dict[str, Any]]]:
    """Yield prefixes by id in the shape of an edit, some at a time."""
    return read_named(tx, IDS, (ids,), as_found)


FEW = 10


def only_id(spec: object) -> int | None:
    """Return the id in a spec that `read_spec` accepts; None if the spec has no id."""
    if not isinstance(spec, Mapping) or spec.get('id') is None:
        return None
    return bigint(read_integer(spec['id']))


def edit_one(tx: Transaction, condition: Condition, draft: PrefixDraft, who: Who) -> list[dict[str, Any]]:
    """Edit the prefix that a condition names, by a draft that leaves it in its place.

    Return the prefix in a list, which is empty if there is no such prefix.
    """
    stored = rows.facts(draft.values)
    if condition.hint(ByKey) == ByKey(frozenset({'p.id'})):
        found = '[%s]::bigint[]'
    # Lock the prefix while it is looked up, so that the condition still holds for it when it is edited.
    else:
        found = f'(SELECT p.id FROM {source(condition.sql)} WHERE {condition.sql} FOR NO KEY UPDATE OF p)'
    # After the edit the condition may not hold, or hold for another prefix. So a setting of the transaction keeps the
    # ids.
    ids = f"set_config('nipap.edited', ARRAY{found}::text, true)::bigint[]"
    tx.ahead(f'SELECT prefix_edit_many({ids}, %s, %s::actor)', (*condition.params, stored, who))
    edited = Expression("current_setting('nipap.edited')::bigint[]")
    return read_few(tx, Condition('p.id = ANY (%s)', (edited,)), as_found)


def edit(tx: Transaction, condition: Condition, draft: PrefixDraft, who: Who) -> list[int]:
    """Edit the prefixes that satisfy a condition and return their ids.

    :raises NipapValueError: the edit would break a rule of the tree or change the VRF.
    """
    changed = changes(tx, draft)
    if draft.network is not None:
        changed['prefix'] = draft.network
    wanted_vrf = vrf.resolve(tx, draft.vrf) if draft.vrf.given else None
    # Prefixes that change place, type or pool are edited one by one, which locks top down; all other prefixes by one
    # statement.
    moving = {name: changed[name] for name in ('prefix', 'type', 'pool_id') if name in changed}
    differs = ' OR '.join(f'p.{name} IS DISTINCT FROM %s{_CASTS[name]}' for name in moving) or 'false'
    sql = f"""SELECT p.id, p.vrf_id, p.prefix::text, {differs} FROM {FROM} WHERE {condition.sql}
        ORDER BY p.vrf_id, p.prefix"""
    if 'prefix' not in moving:
        # Lock the prefixes in order before anything else. PostgreSQL then skips prefixes for which the condition no
        # longer holds.
        sql += ' FOR NO KEY UPDATE OF p'
    found = tx.all(sql, (*moving.values(), *condition.params))
    if wanted_vrf is not None and any(row[1] != wanted_vrf for row in found):
        raise NipapValueError('Changing VRF is not allowed').about(f'vrf_{draft.vrf.key}')
    stored = rows.facts(changed)
    in_place = [row[0] for row in found if not row[3]]
    if in_place:
        tx.ahead('SELECT prefix_edit_many(%s, %s, %s::actor)', (in_place, stored, who))
    for i, _, place, _ in (row for row in found if row[3]):
        tx.execute('SELECT prefix_edit(%s, %s::cidr, %s, %s::actor)', (i, place, stored, who))
    return [row[0] for row in found]


_CASTS = {'prefix': '::cidr', 'type': '', 'pool_id': '::int'}


def removal(spec: object) -> Condition:
    """Return the condition of the spec of a removal, which must name a prefix by ``id`` or ``prefix``.

    :raises NipapMissingInputError: the spec names no prefix.
    :raises NipapInputError, NipapExtraneousInputError, NipapValueError:
    """
    if spec is not None and not isinstance(spec, Mapping):
        raise NipapInputError('prefix specification must be a dict')
    if not spec or (spec.get('id') is None and spec.get('prefix') is None):
        raise NipapMissingInputError('missing prefix or id of prefix')
    return read_spec(spec, default_vrf=True)


def remove_one(tx: Transaction, i: int, who: Who, *, recursive: bool) -> None:
    """Remove a prefix; if recursive, with all prefixes inside.

    :raises NipapNonExistentError: there is no prefix with that id.
    """
    tx.change('SELECT prefix_remove_one(%s, %s, %s::actor)', (i, recursive, who))


def remove(tx: Transaction, condition: Condition, who: Who, *, recursive: bool) -> None:
    """Remove the prefixes for which a condition holds; if recursive, with all prefixes inside."""
    found = tx.all_prepared(f'SELECT p.id, p.prefix::text FROM {FROM} WHERE {condition.sql}', condition.params)
    for row in found:
        tx.execute('SELECT prefix_remove(%s, %s::cidr, %s, %s::actor)', (*row, recursive, who))
