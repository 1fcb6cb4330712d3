"""Allocation: find the lowest free block of a pool or of given prefixes, or add it in one locked section."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from nipap.addresses import WIDTH, parse_network
from nipap.attributes import read_integer, shown
from nipap.errors import (
    NipapExtraneousInputError,
    NipapInputError,
    NipapMissingInputError,
    NipapValueError,
)
from nipap.history.audit import Who
from nipap.objects import pool, prefix, rows, vrf
from nipap.objects.prefix_view import Shape
from nipap.postgres.transaction import Addition, Transaction

MAX_COUNT = 1000


@dataclass(frozen=True)
class Allocation:
    """The checked arguments of an allocation: a pool and a family, or networks. A pool may provide the length."""

    pool: pool.PoolName | None
    networks: tuple[str, ...]
    family: int
    length: int | None
    count: int


def read_args(args: object) -> Allocation:
    """Check the ``args`` of an allocation.

    :raises NipapInputError, NipapMissingInputError, NipapExtraneousInputError, NipapValueError:
    """
    if not isinstance(args, Mapping):
        raise NipapInputError('invalid input, please provide dict as args')
    count = read_count(args.get('count'))
    from_pool, from_prefix = args.get('from-pool') is not None, args.get('from-prefix') is not None
    if from_pool == from_prefix:
        raise NipapInputError("specify 'from-pool' OR 'from-prefix'")
    if from_pool:
        family = _family(args)
        networks: tuple[str, ...] = ()
    else:
        family, networks = _networks(args)
    length = None if args.get('prefix_length') is None else _length(args['prefix_length'], family)
    return Allocation(pool.read_one(args['from-pool']) if from_pool else None, networks, family, length, count)


def read_count(value: object) -> int:
    """Return the number of requested blocks; 1 for nil.

    :raises NipapValueError: the number is not an integer from 1 to `MAX_COUNT`.
    """
    if value is None:
        return 1
    try:
        number = read_integer(value)
    except NipapValueError as exc:
        raise exc.about('count') from None
    if number > MAX_COUNT:
        raise NipapValueError('count over the maximum result size').about('count')
    if number < 1:
        raise NipapValueError(f'Invalid value {shown(value)} for count, must be 1 to {MAX_COUNT}').about('count')
    return number


def _family(args: Mapping[str, Any]) -> int:
    if 'family' not in args:
        raise NipapMissingInputError("'family' must be specified with 'from-pool' mode").about('family')
    try:
        family = read_integer(args['family'])
    except NipapValueError:
        family = 0
    if family not in WIDTH:
        raise NipapValueError('incorrect family specified, must be 4 or 6').about('family')
    return family


def _networks(args: Mapping[str, Any]) -> tuple[int, tuple[str, ...]]:
    sources = args['from-prefix']
    if not isinstance(sources, list | tuple):
        raise NipapInputError('from-prefix should be a list')
    if args.get('prefix_length') is None:
        raise NipapMissingInputError("'prefix_length' must be specified with 'from-prefix'").about('prefix_length')
    if args.get('family') is not None:
        raise NipapExtraneousInputError("'family' is superfluous when in 'from-prefix' mode").about('family')
    if not sources:
        raise NipapMissingInputError("'from-prefix' must name at least one prefix")
    networks = [parse_network(source) for source in sources]
    if len({network.family for network in networks}) > 1:
        raise NipapInputError("mixing of address-family is not allowed for 'from-prefix' arg")
    return networks[0].family, tuple(network.text for network in networks)


def _length(value: object, family: int) -> int:
    try:
        length = read_integer(value)
    except NipapValueError:
        raise NipapValueError('prefix length must be integer').about('prefix_length') from None
    if not 0 <= length <= WIDTH[family]:
        raise NipapValueError(
            f'the specified wanted prefix length argument must be between 0 and {WIDTH[family]} for ipv{family}'
        ).about('prefix_length')
    return length


def find_free(tx: Transaction, name: vrf.VrfName, wanted: Allocation) -> list[str]:
    """Return the lowest free blocks as text; blocks of full length without the length.

    :raises NipapNonExistentError: there is no such pool or VRF.
    """
    if wanted.pool is not None:
        sql = 'pool_find_free(%s, %s, %s, %s, %s)'
        args: tuple[Any, ...] = (wanted.pool.id, wanted.pool.name, wanted.family, wanted.length, wanted.count)
    else:
        sql = 'find_free(%s, %s::cidr[], %s, %s)'
        args = (vrf.resolve(tx, name), list(wanted.networks), wanted.length, wanted.count)
    return [row[0] for row in tx.all(f'SELECT abbrev(b::inet) FROM {sql} b', args)]


def place(draft: prefix.PrefixDraft, wanted: Allocation) -> Hashable:
    """Return a key that is equal for allocations that take the same locks."""
    return wanted.pool or wanted.networks, wanted.family, wanted.length, draft.vrf


def addition(draft: prefix.PrefixDraft, wanted: Allocation, who: Who, shape: Shape) -> Addition[dict[str, Any]]:
    """Return the addition of the lowest free block as a prefix.

    Running it raises NipapNonExistentError when there is no room.
    """
    return Addition(
        statement=lambda tx: _statement(tx, draft, wanted, who),
        added=lambda tx, changes: prefix.get_added_by(tx, changes, shape),
        answer=lambda tx, i: prefix.get_by_id(tx, i, shape),
    )


def _statement(tx: Transaction, draft: prefix.PrefixDraft, wanted: Allocation, who: Who) -> tuple[str, tuple[Any, ...]]:
    args: tuple[Any, ...]
    if wanted.pool is not None:
        v = vrf.resolve(tx, draft.vrf) if draft.vrf.given else None
        stored = rows.facts(prefix.new_facts(tx, draft, who))
        args = (wanted.pool.id, wanted.pool.name, wanted.family, v, wanted.length, stored, who)
        return 'SELECT pool_allocate(%s, %s, %s, %s, %s, %s, %s::actor)', args
    v = vrf.resolve(tx, draft.vrf)
    stored = rows.facts(prefix.new_facts(tx, draft, who))
    args = (v, list(wanted.networks), wanted.length, stored, who)
    return 'SELECT prefix_allocate(%s, NULL, %s::cidr[], %s, %s, %s::actor)', args
