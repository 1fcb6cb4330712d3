"""Allocation: the lowest free block of a pool or of given prefixes, looked up or added in one locked section."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nipap import pool, prefix, rows, vrf
from nipap.addresses import WIDTH, parse_network
from nipap.attributes import POOL, read_integer, shown
from nipap.audit import Who
from nipap.db import Transaction
from nipap.errors import (
    NipapError,
    NipapExtraneousInputError,
    NipapInputError,
    NipapMissingInputError,
    NipapNonExistentError,
    NipapValueError,
)

MAX_COUNT = 1000


@dataclass(frozen=True)
class Request:
    """Checked arguments: a pool (as spec) and family, or networks; the length may be the pool's business."""

    pool_spec: object
    networks: tuple[str, ...]
    family: int
    length: int | None
    count: int


def read_args(args: object) -> Request:
    """Check the ``args`` of an allocation.

    :raises NipapInputError, NipapMissingInputError, NipapExtraneousInputError, NipapValueError:
    """
    if not isinstance(args, Mapping):
        raise NipapInputError('invalid input, please provide dict as args')
    count = _count(args.get('count'))
    from_pool, from_prefix = args.get('from-pool') is not None, args.get('from-prefix') is not None
    if from_pool == from_prefix:
        raise NipapInputError("specify 'from-pool' OR 'from-prefix'")
    if from_pool:
        family = _family(args)
        networks: tuple[str, ...] = ()
    else:
        family, networks = _networks(args)
    length = None if args.get('prefix_length') is None else _length(args['prefix_length'], family)
    return Request(args.get('from-pool'), networks, family, length, count)


def _count(value: object) -> int:
    if value is None:
        return 1
    number = read_integer(value)
    if number > MAX_COUNT:
        raise NipapValueError('count over the maximum result size')
    if number < 1:
        raise NipapValueError(f'Invalid value {shown(value)} for count, must be 1 to {MAX_COUNT}')
    return number


def _family(args: Mapping[str, Any]) -> int:
    if 'family' not in args:
        raise NipapMissingInputError("'family' must be specified with 'from-pool' mode")
    try:
        family = read_integer(args['family'])
    except NipapValueError:
        family = 0
    if family not in WIDTH:
        raise NipapValueError('incorrect family specified, must be 4 or 6')
    return family


def _networks(args: Mapping[str, Any]) -> tuple[int, tuple[str, ...]]:
    sources = args['from-prefix']
    if not isinstance(sources, list | tuple):
        raise NipapInputError('from-prefix should be a list')
    if args.get('prefix_length') is None:
        raise NipapMissingInputError("'prefix_length' must be specified with 'from-prefix'")
    if args.get('family') is not None:
        raise NipapExtraneousInputError("'family' is superfluous when in 'from-prefix' mode")
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
        raise NipapValueError('prefix length must be integer') from None
    if not 0 <= length <= WIDTH[family]:
        raise NipapValueError(
            f'the specified wanted prefix length argument must be between 0 and {WIDTH[family]} for ipv{family}'
        )
    return length


@dataclass(frozen=True)
class Sources:
    """Where to look: networks in order, in one VRF, and how long the block is to be."""

    vrf_id: int
    networks: list[str]
    length: int
    pool_id: int | None = None
    default_type: str | None = None


def _pool_sources(tx: Transaction, request: Request, vrf_names: Mapping[str, object], missing: NipapError) -> Sources:
    condition = pool.require_spec(request.pool_spec)
    sql = f"""SELECT o.id, o.default_type, {POOL[f'ipv{request.family}_default_prefix_length'].sql},
        m.vrf_id, m.members, m.of_family FROM pool o CROSS JOIN LATERAL (
            SELECT min(q.vrf_id) AS vrf_id, count(*) AS members,
                coalesce(array_agg(q.prefix::text ORDER BY q.prefix) FILTER (WHERE family(q.prefix) = %s), '{{}}')
                    AS of_family
            FROM prefix q WHERE q.pool_id = o.id) m
        WHERE {condition.sql}"""
    found = tx.all_prepared(sql, (request.family, *condition.params))
    if not found:
        raise missing
    i, default_type, default_length, vrf_id, members, networks = found[0]
    if not members:
        raise NipapInputError('No prefixes in pool')
    if not networks:
        raise NipapInputError(f'No prefixes of family {request.family} in pool')
    if vrf_names and vrf.resolve(tx, vrf_names) != vrf_id:
        raise NipapInputError('VRF must be the same as the pools implied VRF')
    length = default_length if request.length is None else request.length
    if length is None:
        raise NipapMissingInputError(
            f"'prefix_length' must be specified, the pool has no default prefix length for IPv{request.family}"
        )
    return Sources(vrf_id, networks, length, i, default_type)


def find_free(tx: Transaction, vrf_names: Mapping[str, object], request: Request) -> list[str]:
    """The lowest free blocks, as text; full-length ones without length.

    :raises NipapNonExistentError: there is no such pool or VRF.
    """
    if request.pool_spec is not None:
        missing = NipapNonExistentError('Non-existent pool specified')
        sources = _pool_sources(tx, request, {}, missing)
    else:
        sources = Sources(vrf.resolve(tx, vrf_names), list(request.networks), _known(request.length))
    found = tx.all(
        'SELECT abbrev(b::inet) FROM find_free(%s, %s::cidr[], %s, %s) b',
        (sources.vrf_id, sources.networks, sources.length, request.count),
    )
    return [row[0] for row in found]


def _known(length: int | None) -> int:
    if length is None:
        raise NipapMissingInputError("'prefix_length' must be specified with 'from-prefix'")
    return length


def add(tx: Transaction, attr: Mapping[str, object], request: Request, who: Who) -> None:
    """Find the lowest free block and add it as a prefix: `prefix.get_added` shows it.

    :raises NipapNonExistentError: there is no room.
    """
    names = vrf.named_by(attr)
    if request.pool_spec is not None:
        sources = _pool_sources(tx, request, names, NipapInputError('non-existing pool specified'))
        if attr.get('type') is None:
            attr = {**attr, 'type': sources.default_type}
    else:
        sources = Sources(vrf.resolve(tx, names), list(request.networks), _known(request.length))
    stored = rows.facts(prefix.new_facts(tx, attr, who))
    tx.ahead(
        'SELECT prefix_allocate(%s, %s, %s::cidr[], %s, %s, %s::actor)',
        (sources.vrf_id, sources.pool_id, sources.networks, sources.length, stored, who),
    )
