"""Choices of the tree machine: few addresses at many lengths, and places related to stored prefixes."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition

from .oracle import FULL, TYPES, Model, Network, block_at, first, last, net

# These prefixes nest, collide and touch both ends of the address space.
ADDRESSES = {
    4: (
        *('10.0.0.0', '10.0.0.1', '10.0.0.2', '10.0.0.3', '10.0.0.5', '10.0.0.8', '10.0.0.16', '10.0.0.64'),
        *('10.0.0.128', '10.0.1.0', '10.1.0.0', '0.0.0.0', '0.0.0.1', '128.0.0.0', '255.255.255.0'),
        *('255.255.255.128', '255.255.255.252', '255.255.255.254', '255.255.255.255'),
    ),
    6: (
        *('2001:db8::', '2001:db8::1', '2001:db8::2', '2001:db8::3', '2001:db8:0:1::', '2001:db8:1::', '::', '::1'),
        *('8000::', 'ffff:ffff:ffff:ffff::', 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe'),
        'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff',
    ),
}
LENGTHS = {
    4: (24, 32, 16, 8, 30, 31, 28, 25, 29, 26, 23, 7, 1, 0),
    6: (64, 128, 48, 32, 127, 126, 124, 112, 63, 65, 47, 1, 0),
}
UNIVERSE = {
    family: list(
        dict.fromkeys(
            str(ipaddress.ip_network(f'{address}/{length}', strict=False))
            for length in LENGTHS[family]
            for address in ADDRESSES[family]
        )
    )
    for family in FULL
}
# The beginnings of examples: chains of prefixes, some of them members of a pool. The rest grows on them.
SKELETONS: tuple[tuple[tuple[str, str, bool], ...], ...] = (
    (
        ('10.0.0.0/8', 'reservation', False),
        ('10.0.0.0/16', 'reservation', False),
        ('10.0.0.0/23', 'reservation', True),
        ('10.0.0.0/24', 'reservation', False),
        ('10.0.0.0/25', 'assignment', False),
        ('10.0.0.1/32', 'host', False),
    ),
    (
        ('2001:db8::/32', 'reservation', False),
        ('2001:db8::/48', 'reservation', True),
        ('2001:db8::/64', 'assignment', False),
        ('2001:db8::1/128', 'host', False),
    ),
    (('0.0.0.0/0', 'reservation', False), ('255.255.255.0/24', 'reservation', True)),
    (('::/0', 'reservation', False), ('ffff:ffff:ffff:ffff::/64', 'assignment', False)),
    (('255.255.255.0/24', 'assignment', False), ('0.0.0.0/24', 'reservation', True)),
    (('10.0.0.0/24', 'reservation', True), ('10.0.0.0/31', 'assignment', False), ('10.0.0.8/29', 'assignment', False)),
)
# Requests for free blocks. A few are made after every step.
PROBES = (
    ('10.0.0.0/8', 16),
    ('10.0.0.0/24', 30),
    ('10.0.0.0/24', 32),
    ('10.0.0.0/31', 32),
    ('10.0.0.0/30', 32),
    ('0.0.0.0/0', 1),
    ('0.0.0.0/0', 32),
    ('255.255.255.0/24', 32),
    ('255.255.255.0/24', 25),
    ('255.255.255.255/32', 32),
    ('2001:db8::/32', 48),
    ('2001:db8::/64', 128),
    ('2001:db8::/127', 128),
    ('::/0', 128),
    ('8000::/1', 2),
    ('ffff:ffff:ffff:ffff::/64', 66),
)
RTS = ('9:10', '10:1', '1.3.3.7:456', '16974599:456')
POOL_NAMES = ('alpha', 'beta', 'gamma')


def one_of_the(collection: Callable[[Model], Sequence[Any]]) -> st.SearchStrategy[Any]:
    """Choose among objects that the model has when the rule runs."""
    return st.runner().flatmap(lambda machine: st.sampled_from(collection(machine.model)))


def stored_networks(model: Model) -> list[str]:
    """Return the networks that are stored in any VRF, or `UNIVERSE[4]` if there are none."""
    return sorted({str(p.network) for p in model.prefixes.values()}) or UNIVERSE[4]


def relatives(model: Model) -> list[str]:
    """Return networks next to, around and in the corners of stored networks."""
    found: dict[str, None] = {}
    for text in stored_networks(model):
        network = net(text)
        whole = FULL[network.version]
        if network.prefixlen:
            found[str(network.supernet())] = None
        for longer in {1, 2, 5, whole - network.prefixlen}:
            if network.prefixlen + longer <= whole:
                found |= dict.fromkeys(map(str, corners(network, network.prefixlen + longer)))
    return list(found)


def corners(network: Network, length: int) -> list[Network]:
    """Return the first, second and last block of a length."""
    step = 1 << (FULL[network.version] - length)
    starts = {first(network), min(first(network) + step, last(network) + 1 - step), last(network) + 1 - step}
    return [block_at(start, length, network.version) for start in sorted(starts)]


def pools_with_members(model: Model) -> list[int]:
    """Return the pools with members."""
    return sorted({p.pool for p in model.prefixes.values() if p.pool is not None})


NETWORKS = st.one_of(
    st.sampled_from(UNIVERSE[4]),
    st.sampled_from(UNIVERSE[6]),
    one_of_the(relatives),
    one_of_the(relatives),
)
TAGS = st.lists(st.sampled_from(['a', 'b', 'c']), max_size=3)
# Most of the tree is in VRF 0.
A_VRF = st.one_of(st.just(0), one_of_the(lambda model: sorted(model.vrfs)))
A_POOL = one_of_the(lambda model: sorted(model.pools))
A_POOL_OR_NONE = one_of_the(lambda model: [None, *sorted(model.pools)])
A_PREFIX = one_of_the(lambda model: sorted(model.prefixes))
# The sources of a call are of one family nearly always.
A_SOURCE = st.one_of(one_of_the(stored_networks), NETWORKS)
SOURCES = st.one_of(
    A_SOURCE.map(lambda text: [text]),
    st.lists(st.sampled_from(UNIVERSE[4]), min_size=1, max_size=3),
    st.lists(A_SOURCE, max_size=3),
)
# The difference between the lengths of a block and its source. 'full' is a single address, 'over' is longer than that.
LONGER = st.sampled_from([1, 2, 0, 4, 8, -1, 'full', 'full', 'over'])
# 'fit …' is a type that the tree allows at the place, if possible the named one.
KINDS = st.sampled_from(['fit reservation', 'fit assignment', 'fit assignment', *TYPES])
FORMS = st.integers(0, 4)
WITH_PREFIXES = precondition(lambda machine: machine.model.prefixes)
WITH_POOLS = precondition(lambda machine: machine.model.pools)
WITH_MEMBERS = precondition(lambda machine: pools_with_members(machine.model))
