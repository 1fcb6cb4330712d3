"""A model of VRFs, pools and prefixes that shares no code with the daemon: plain dicts, `ipaddress` and integers.

It is deliberately brute force. A change is judged by building the resulting tree and checking every prefix in it.
Derived values are computed anew from the list of prefixes each time. A refused operation raises `Refused` with every
fault code that would be right, and changes nothing.

Objects are known by handles, small numbers in the order of creation. A test maps them to the ids of the daemon.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Range = tuple[int, int]
T = TypeVar('T')

GENERAL, INPUT, MISSING, VALUE, NON_EXISTENT, DUPLICATE = 1000, 1100, 1110, 1200, 1300, 1400

FULL = {4: 32, 6: 128}
TYPES = ('reservation', 'assignment', 'host')
MAX_COUNT = 1000


class Refused(Exception):
    """The operation breaks a rule. `codes` are the acceptable fault codes, usually one."""

    def __init__(self, codes: Iterable[int]) -> None:
        self.codes = frozenset(codes)
        super().__init__(f'refused with {sorted(self.codes)}')


@dataclasses.dataclass
class Vrf:
    """A VRF. Handle 0 is the default VRF, without route target."""

    handle: int
    rt: str | None
    name: str


@dataclasses.dataclass
class Pool:
    """A pool. `lengths` are its default prefix lengths by family."""

    handle: int
    name: str
    default_type: str
    lengths: dict[int, int | None]


@dataclasses.dataclass
class Prefix:
    """A stored prefix: the facts only. Everything else is derived."""

    handle: int
    vrf: int
    network: Network
    type: str
    tags: tuple[str, ...] = ()
    description: str | None = None
    node: str | None = None
    pool: int | None = None


# ------------------------------------------------------------------------------------------------ addresses and ranges


def net(text: str) -> Network:
    """Return a network from its text. Host bits are an error."""
    return ipaddress.ip_network(text)


def full(network: Network) -> bool:
    """Return whether a network is a single address."""
    return network.prefixlen == FULL[network.version]


def first(network: Network) -> int:
    """Return the first address of a network as a number."""
    return int(network.network_address)


def last(network: Network) -> int:
    """Return the last address of a network as a number."""
    return int(network.broadcast_address)


def size(network: Network) -> int:
    """Return the number of addresses in a network."""
    return last(network) - first(network) + 1


def covers(outer: Network, inner: Network) -> bool:
    """Return whether `inner` lies in `outer` and is not equal to it."""
    if inner.version != outer.version or inner.prefixlen <= outer.prefixlen:
        return False
    return first(outer) <= first(inner) and last(inner) <= last(outer)


def overlap(one: Network, other: Network) -> bool:
    """Return whether two networks share an address."""
    return one.version == other.version and first(one) <= last(other) and first(other) <= last(one)


def block_at(address: int, length: int, family: int) -> Network:
    """Return the network of a length at an address, which must be aligned."""
    kind = ipaddress.IPv4Network if family == 4 else ipaddress.IPv6Network
    return kind((address, length))


def align_up(address: int, block_size: int) -> int:
    """Return the lowest multiple of a block's size at or above an address."""
    return (address + block_size - 1) // block_size * block_size


def count_blocks(low: int, high: int, length: int, family: int) -> int:
    """Return the number of aligned blocks of a length that lie wholly in low..high."""
    block_size = 1 << (FULL[family] - length)
    return max(0, (high + 1) // block_size - align_up(low, block_size) // block_size)


def gaps(network: Network, inside: Iterable[Network]) -> list[Range]:
    """Return the maximal ranges of a network that none of the disjoint networks inside it use."""
    found: list[Range] = []
    cursor = first(network)
    for child in sorted(inside, key=first):
        if cursor < first(child):
            found.append((cursor, first(child) - 1))
        cursor = last(child) + 1
    if cursor <= last(network):
        found.append((cursor, last(network)))
    return found


def network_order(network: Network) -> tuple[int, int, int]:
    """Return the key of prefix order: family, then address, then the shorter prefix first."""
    return network.version, first(network), network.prefixlen


def rt_order(rt: str | None) -> tuple[int, int]:
    """Return a route target as numbers. VRF 0 has no route target and comes before all others."""
    if rt is None:
        return -1, -1
    administrator, number = rt.rsplit(':', 1)
    return int(ipaddress.ip_address(int(administrator) if administrator.isdigit() else administrator)), int(number)


def bare(network: Network) -> str:
    """Return a block as find_free_prefix writes it: a single address has no length."""
    return str(network.network_address) if full(network) else str(network)


def spelled(text: str) -> str:
    """Return an address or network as `ipaddress` writes it: PostgreSQL writes ::0.1.0.0 for ::1:0."""
    address, slash, length = text.partition('/')
    return f'{ipaddress.ip_address(address)}{slash}{length}'


# ------------------------------------------------------------------------------------------------------------ the rules


def parent_in(prefix: Prefix, others: Iterable[Prefix]) -> Prefix | None:
    """Return the longest of the other prefixes in the same VRF that covers a prefix."""
    around = [o for o in others if o.vrf == prefix.vrf and covers(o.network, prefix.network)]
    return max(around, key=lambda o: o.network.prefixlen, default=None)


def stands_alone(prefix: Prefix) -> bool:
    """Return whether a prefix keeps the rules that concern only itself."""
    if prefix.type not in TYPES or (prefix.type == 'host' and not full(prefix.network)):
        return False
    return prefix.node is None or (prefix.type != 'reservation' and full(prefix.network))


def nests(prefix: Prefix, others: Iterable[Prefix]) -> bool:
    """Return whether a prefix may stand below its parent: reservation > reservation > assignment > host."""
    parent = parent_in(prefix, others)
    if prefix.type == 'host':
        return parent is not None and parent.type == 'assignment'
    return parent is None or parent.type == 'reservation'


def sound(tree: Sequence[Prefix]) -> bool:
    """Return whether every prefix of a tree keeps every rule."""
    return all(stands_alone(p) and nests(p, tree) for p in tree)


# ------------------------------------------------------------------------------------------------------------ the model


class Model:
    """All stored objects, the operations on them and the values that answers derive from them."""

    def __init__(self) -> None:
        self.vrfs: dict[int, Vrf] = {0: Vrf(0, None, 'default')}
        self.pools: dict[int, Pool] = {}
        self.prefixes: dict[int, Prefix] = {}
        self._handles = iter(range(1, 1 << 62))

    # ---------------------------------------------------------------------------------------------------- finding

    def at(self, vrf: int, network: Network) -> Prefix | None:
        """Return the stored prefix of a VRF with exactly this network, or None."""
        return next((p for p in self.prefixes.values() if p.vrf == vrf and p.network == network), None)

    def descendants(self, prefix: Prefix) -> list[Prefix]:
        """Return all prefixes that a prefix covers."""
        return [o for o in self.prefixes.values() if o.vrf == prefix.vrf and covers(prefix.network, o.network)]

    def members(self, pool: int, family: int | None = None) -> list[Prefix]:
        """Return the members of a pool in prefix order."""
        found = [p for p in self.prefixes.values() if p.pool == pool and family in (None, p.network.version)]
        return sorted(found, key=lambda p: network_order(p.network))

    def pool_vrf(self, pool: int) -> int | None:
        """Return the VRF of a pool's members, or None if the pool has no members."""
        return next((p.vrf for p in self.members(pool)), None)

    def ordered(self) -> list[Prefix]:
        """Return all prefixes in the order of answers."""
        return sorted(self.prefixes.values(), key=lambda p: (self._vrf_order(p.vrf), network_order(p.network)))

    def ordered_vrfs(self) -> list[Vrf]:
        """Return all VRFs in the order of answers."""
        return sorted(self.vrfs.values(), key=lambda v: self._vrf_order(v.handle))

    def _vrf_order(self, vrf: int) -> tuple[tuple[int, int], int]:
        return rt_order(self.vrfs[vrf].rt), vrf

    # ------------------------------------------------------------------------------------------------------- VRFs

    def add_vrf(self, rt: str, name: str) -> Vrf:
        """Add a VRF. The route target and the name are unique."""
        self._judge_vrf(None, rt, name)
        vrf = Vrf(next(self._handles), rt, name)
        self.vrfs[vrf.handle] = vrf
        return vrf

    def edit_vrf(self, vrf: int, rt: str | None = None, name: str | None = None) -> Vrf:
        """Change the route target or the name of a VRF. The route target of VRF 0 cannot be changed."""
        found = self.vrfs[vrf]
        if vrf == 0 and rt is not None:
            raise Refused({GENERAL})
        self._judge_vrf(vrf, rt, name)
        found.rt, found.name = rt or found.rt, name or found.name
        return found

    def remove_vrf(self, vrf: int) -> None:
        """Remove a VRF and all its prefixes."""
        if vrf == 0:
            raise Refused({VALUE})
        del self.vrfs[vrf]
        self.prefixes = {h: p for h, p in self.prefixes.items() if p.vrf != vrf}

    def _judge_vrf(self, vrf: int | None, rt: str | None, name: str | None) -> None:
        others = [v for v in self.vrfs.values() if v.handle != vrf]
        if any((rt is not None and v.rt == rt) or v.name.lower() == (name or '').lower() for v in others):
            raise Refused({DUPLICATE})

    # ------------------------------------------------------------------------------------------------------ pools

    def add_pool(self, name: str, default_type: str, lengths: dict[int, int | None]) -> Pool:
        """Add a pool without members."""
        self._judge_pool(None, name, lengths, default_type)
        pool = Pool(next(self._handles), name, default_type, {4: lengths.get(4), 6: lengths.get(6)})
        self.pools[pool.handle] = pool
        return pool

    def edit_pool(self, pool: int, name: str | None = None, lengths: dict[int, int | None] | None = None) -> Pool:
        """Change the name or the default lengths of a pool. A length of None removes that default."""
        found = self.pools[pool]
        self._judge_pool(pool, name, {**found.lengths, **(lengths or {})}, found.default_type)
        found.name = name or found.name
        found.lengths.update(lengths or {})
        return found

    def remove_pool(self, pool: int) -> None:
        """Remove a pool. Its members stay as prefixes without a pool."""
        del self.pools[pool]
        for prefix in self.prefixes.values():
            prefix.pool = None if prefix.pool == pool else prefix.pool

    def _judge_pool(
        self, pool: int | None, name: str | None, lengths: dict[int, int | None], default_type: str
    ) -> None:
        wrong = set()
        if default_type == 'host' and any(lengths.get(family) not in (None, bits) for family, bits in FULL.items()):
            wrong.add(VALUE)
        if any(p.handle != pool and p.name.lower() == (name or '').lower() for p in self.pools.values()):
            wrong.add(DUPLICATE)
        if any(length is not None and not 1 <= length <= FULL[family] for family, length in lengths.items()):
            wrong.add(VALUE)
        if wrong:
            raise Refused(wrong)

    # --------------------------------------------------------------------------------------------------- prefixes

    def add_prefix(self, vrf: int, network: Network, type_: str, **attributes: Any) -> Prefix:
        """Add a prefix at a given place."""
        prefix = Prefix(0, vrf, network, type_, **attributes)
        self._judge_add(prefix)
        return self._store(prefix)

    def add_from_prefix(
        self, vrf: int, sources: Sequence[Network], length: int | None, type_: str, **attributes: Any
    ) -> Prefix:
        """Add the lowest free block of a length in the first source with room."""
        return self._allocate(vrf, self._sources(sources, length), length, type_, attributes)

    def add_from_pool(
        self, pool: int, family: int, length: int | None, type_: str | None, vrf: int | None = None, **attributes: Any
    ) -> Prefix:
        """Add the lowest free block in the first member of a pool with room.

        `vrf` is the VRF that the caller expects.
        """
        wrong = set()
        if vrf is not None and vrf != self.pool_vrf(pool):
            wrong.add(INPUT)
        try:
            members, length = self._pool_sources(pool, family, length)
        except Refused as refused:
            raise Refused(refused.codes | wrong) from None
        if wrong:
            raise Refused(wrong)
        return self._allocate(members[0].vrf, members, length, type_ or self.pools[pool].default_type, attributes)

    def edit_prefix(self, prefix: int, **changes: Any) -> Prefix:
        """Change attributes of a prefix.

        A new network moves that prefix alone, and the parents of all others are derived anew.
        """
        old = self.prefixes[prefix]
        new = dataclasses.replace(old, **changes)
        rest = [p for p in self.prefixes.values() if p is not old]
        wrong = set()
        if any(p.vrf == new.vrf and p.network == new.network for p in rest):
            wrong.add(DUPLICATE)
        if not stands_alone(new) or not sound([*rest, new]) or not self._may_become(old, new):
            wrong.add(VALUE)
        if not self._may_join(new, rest):
            wrong.add(VALUE)
        if wrong:
            raise Refused(wrong)
        self.prefixes[prefix] = new
        return new

    def edit_prefixes(self, chosen: Iterable[int], **changes: Any) -> list[Prefix]:
        """Change attributes of all of several prefixes, or of none."""
        before = dict(self.prefixes)
        try:
            for prefix in chosen:
                self.edit_prefix(prefix, **changes)
        except Refused:
            self.prefixes = before
            raise
        return [p for p in self.ordered() if p.handle in chosen]

    def remove_prefix(self, prefix: int, recursive: bool = False) -> None:
        """Remove a prefix, and with `recursive` all inside it. Otherwise the prefixes inside move up one level."""
        found = self.prefixes[prefix]
        gone = [found, *(self.descendants(found) if recursive else ())]
        rest = {h: p for h, p in self.prefixes.items() if p not in gone}
        if not sound(list(rest.values())):
            raise Refused({VALUE})
        self.prefixes = rest

    def _store(self, prefix: Prefix) -> Prefix:
        stored = dataclasses.replace(prefix, handle=next(self._handles))
        self.prefixes[stored.handle] = stored
        return stored

    def _judge_add(self, prefix: Prefix) -> None:
        taken = self.at(prefix.vrf, prefix.network)
        # The other rules judge the place as if it were free.
        rest = [p for p in self.prefixes.values() if p is not taken]
        wrong = set()
        if taken is not None:
            wrong.add(DUPLICATE)
        if not sound([*rest, prefix]) or not self._may_join(prefix, rest):
            wrong.add(VALUE)
        if wrong:
            raise Refused(wrong)

    def _may_become(self, old: Prefix, new: Prefix) -> bool:
        if old.type == new.type:
            return True
        return 'host' not in (old.type, new.type) and not self.descendants(old)

    def _may_join(self, prefix: Prefix, rest: Iterable[Prefix]) -> bool:
        return prefix.pool is None or all(p.vrf == prefix.vrf for p in rest if p.pool == prefix.pool)

    # ------------------------------------------------------------------------------------------------- allocation

    def _allocate(
        self, vrf: int, sources: list[Prefix] | list[Network], length: int | None, type_: str, attributes: Any
    ) -> Prefix:
        networks = [s.network if isinstance(s, Prefix) else s for s in sources]
        block = next(self.free_blocks(vrf, networks, length), None) if length is not None else None
        if block is None:
            impossible = type_ == 'host' and length != FULL[networks[0].version]
            raise Refused({NON_EXISTENT, VALUE} if impossible else {NON_EXISTENT})
        return self.add_prefix(vrf, block, type_, **attributes)

    def find_free(
        self,
        vrf: int,
        sources: Sequence[Network] | None = None,
        pool: int | None = None,
        family: int | None = None,
        length: int | None = None,
        count: int = 1,
    ) -> list[str]:
        """Return the answer of find_free_prefix, either for sources in a VRF or for a pool and a family."""
        if count > MAX_COUNT or count < 1:
            raise Refused({VALUE})
        if pool is not None:
            assert family is not None
            members, length = self._pool_sources(pool, family, length)
            vrf, networks = members[0].vrf, [m.network for m in members]
        else:
            networks = self._sources(sources or (), length)
        found: list[str] = []
        for block in self.free_blocks(vrf, networks, length or 0):
            if bare(block) not in found:  # sources may overlap, and each block is named once
                found.append(bare(block))
            if len(found) == count:
                break
        return found

    def free_blocks(self, vrf: int, sources: Iterable[Network], length: int) -> Iterator[Network]:
        """Yield free blocks of a length, lowest first within each source, the sources in order."""
        for source in sources:
            yield from self._free_in(vrf, source, length)

    def _free_in(self, vrf: int, source: Network, length: int) -> Iterator[Network]:
        """Yield the free blocks among the aligned blocks of a source, and skip past each stored prefix in the way.

        Prefixes inside the source are in the way, and so is the source itself if the block would be equal to it.
        """
        family, whole = source.version, FULL[source.version]
        block_size = 1 << (whole - length)
        inside = [p.network for p in self.prefixes.values() if p.vrf == vrf and covers(source, p.network)]
        if self.at(vrf, source) and length == source.prefixlen:
            return
        never = {first(source), last(source)} if length == whole and source.prefixlen < whole - 1 else set()
        address = align_up(first(source), block_size)
        while address + block_size - 1 <= last(source):
            block = block_at(address, length, family)
            touched = next((n for n in inside if overlap(n, block)), None)
            if touched is not None:
                address = align_up(last(touched) + 1, block_size)
                continue
            if address not in never:
                yield block
            address += block_size

    def _sources(self, sources: Sequence[Network], length: int | None) -> list[Network]:
        wrong = set()
        if not sources or length is None:
            wrong.add(MISSING)
        if len({s.version for s in sources}) > 1:
            wrong.add(INPUT)
        if sources and length is not None and not 0 <= length <= FULL[sources[0].version]:
            wrong.add(VALUE)
        if wrong:
            raise Refused(wrong)
        return list(sources)

    def _pool_sources(self, pool: int, family: int, length: int | None) -> tuple[list[Prefix], int]:
        wrong = set()
        members = self.members(pool, family)
        if not members:
            wrong.add(INPUT)
        if length is None:
            length = self.pools[pool].lengths[family]
        if length is None:
            wrong.add(MISSING)
        elif not 0 <= length <= FULL[family]:
            wrong.add(VALUE)
        if wrong or length is None:
            raise Refused(wrong)
        return members, length

    def answers(self) -> Answers:
        """Return the values derived from the present state."""
        return Answers(self)


class Answers:
    """The derived values of answers for one state of the model, which must not change meanwhile.

    Parents are computed once, by comparing all pairs. All other values follow from them.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        stored = list(model.prefixes.values())
        self.parents = {p.handle: parent_in(p, stored) for p in stored}
        self.children: dict[int, list[Prefix]] = {p.handle: [] for p in stored}
        for prefix in model.ordered():
            parent = self.parents[prefix.handle]
            if parent is not None:
                self.children[parent.handle].append(prefix)

    def ancestors(self, prefix: Prefix) -> list[Prefix]:
        """Return all prefixes that cover a prefix, the closest first."""
        parent = self.parents[prefix.handle]
        return [] if parent is None else [parent, *self.ancestors(parent)]

    def used(self, prefix: Prefix) -> int:
        """Return the number of addresses of a prefix's direct children. A single address uses itself."""
        return 1 if full(prefix.network) else sum(size(c.network) for c in self.children[prefix.handle])

    def free_ranges(self, prefix: Prefix) -> list[Range]:
        """Return the maximal ranges that are free directly inside a prefix. A single address has none."""
        return [] if full(prefix.network) else gaps(prefix.network, [c.network for c in self.children[prefix.handle]])

    def prefix_view(self, prefix: Prefix) -> dict[str, Any]:
        """Return a prefix as list_prefix shows it. `vrf_id` and `pool_id` are handles, `inherited_tags` is a set."""
        ancestors, vrf = self.ancestors(prefix), self.model.vrfs[prefix.vrf]
        return {
            'vrf_id': prefix.vrf,
            'vrf_rt': vrf.rt,
            'vrf_name': vrf.name,
            'family': prefix.network.version,
            'prefix': str(prefix.network),
            'display_prefix': self.display_prefix(prefix),
            'type': prefix.type,
            'description': prefix.description,
            'node': prefix.node,
            'tags': list(prefix.tags),
            'pool_id': prefix.pool,
            'pool_name': None if prefix.pool is None else self.model.pools[prefix.pool].name,
            'indent': len(ancestors),
            'inherited_tags': {tag for a in ancestors for tag in a.tags},
            'total_addresses': size(prefix.network),
            'used_addresses': self.used(prefix),
            'free_addresses': size(prefix.network) - self.used(prefix),
        }

    def search_view(self, prefix: Prefix) -> dict[str, Any]:
        """Return a prefix as searches and edits show it."""
        shown = self.display_prefix(prefix) if prefix.type == 'host' else str(prefix.network)
        return self.prefix_view(prefix) | {
            'display_prefix': shown,
            'prefix_length': prefix.network.prefixlen,
            'children': len(self.children[prefix.handle]),
        }

    def display_prefix(self, prefix: Prefix) -> str:
        """Return a host with the length of the assignment around it, and any other single address without a length."""
        parent = self.parents[prefix.handle]
        if prefix.type == 'host' and parent is not None:
            return f'{prefix.network.network_address}/{parent.network.prefixlen}'
        return bare(prefix.network)

    def pool_view(self, pool: Pool) -> dict[str, Any]:
        """Return a pool as list_pool shows it, with `prefixes` in prefix order."""
        vrf = self.model.pool_vrf(pool.handle)
        shown: dict[str, Any] = {
            'name': pool.name,
            'default_type': pool.default_type,
            'ipv4_default_prefix_length': pool.lengths[4],
            'ipv6_default_prefix_length': pool.lengths[6],
            'vrf_id': vrf,
            'vrf_rt': None if vrf is None else self.model.vrfs[vrf].rt,
            'vrf_name': None if vrf is None else self.model.vrfs[vrf].name,
            'prefixes': [str(m.network) for m in self.model.members(pool.handle)],
        }
        for family in FULL:
            shown |= {f'{key}_v{family}': value for key, value in self._pool_numbers(pool, family).items()}
        return shown

    def _pool_numbers(self, pool: Pool, family: int) -> dict[str, int | None]:
        members, length = self.model.members(pool.handle, family), pool.lengths[family]
        used_prefixes = sum(len(self.children[m.handle]) for m in members)
        ranges = [r for m in members for r in self.free_ranges(m)]
        counted = bool(members) and length is not None
        free = sum(count_blocks(low, high, length or 0, family) for low, high in ranges) if counted else None
        # Count each address once: the addresses of a member inside a member are those of the outer one.
        inside = [m for m in members if any(o is not m and covers(o.network, m.network) for o in members)]
        total = sum(size(m.network) for m in members) - sum(size(m.network) for m in inside)
        used = total - sum(size(m.network) - self.used(m) for m in members)
        return {
            'member_prefixes': len(members),
            'used_prefixes': used_prefixes,
            'free_prefixes': free,
            'total_prefixes': None if free is None else used_prefixes + free,
            'total_addresses': total,
            'used_addresses': used,
            'free_addresses': total - used,
        }

    def vrf_view(self, vrf: Vrf) -> dict[str, Any]:
        """Return a VRF as list_vrf shows it."""
        shown: dict[str, Any] = {'rt': vrf.rt, 'name': vrf.name}
        for family in FULL:
            stored = self.model.prefixes.values()
            there = [p for p in stored if p.vrf == vrf.handle and p.network.version == family]
            top = [p for p in there if self.parents[p.handle] is None]
            total, used = sum(size(p.network) for p in top), sum(self.used(p) for p in top)
            shown |= {
                f'num_prefixes_v{family}': len(there),
                f'total_addresses_v{family}': total,
                f'used_addresses_v{family}': used,
                f'free_addresses_v{family}': total - used,
            }
        return shown


def attempt(operation: Callable[[], T]) -> tuple[T | None, frozenset[int]]:
    """Return the result of an operation on the model and no codes, or None and the acceptable codes of its refusal."""
    try:
        return operation(), frozenset()
    except Refused as refused:
        return None, refused.codes
