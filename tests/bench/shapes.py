"""Blocks in which prefixes are used in different ways, and the lowest free block of each, found by looking at all gaps.

The blocks lie in 10.0.0.0/8 and in space for documentation. `dataset.py --shapes` writes them. The free blocks are
computed here, from the written prefixes and with integers alone.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_network, summarize_address_range

Used = tuple[int, int]  # the first address of a used prefix, as an offset into its block, and the prefix length
Layout = Callable[['Shape', int], list[Used]]


@dataclass(frozen=True)
class Shape:
    """A block, the layout of its prefixes, and the requested lengths, from easy to hard to find."""

    name: str
    block: str
    layout: Layout
    asked: tuple[int, ...]

    @property
    def size(self) -> int:
        return ip_network(self.block).num_addresses

    @property
    def family_bits(self) -> int:
        return ip_network(self.block).max_prefixlen

    def prefix(self, first: int, length: int) -> str:
        """Return the prefix at an offset, in addresses, into the block."""
        network = ip_network(self.block)
        return str(ip_network((int(network.network_address) + first, length)))

    def used(self, count: int) -> list[Used]:
        """Return about `count` used prefixes, in order, or none for 0."""
        return self.layout(self, count) if count else []


@functools.cache
def lowest_free(shape: Shape, count: int, length: int) -> str | None:
    """Return the lowest free prefix of a length in a block with `count` used prefixes."""
    size = 1 << shape.family_bits - length
    # The first and the last address of a block are not allocated as single addresses.
    at, end = (1, shape.size - 1) if size == 1 else (0, shape.size)
    for first, taken in shape.used(count):
        if at + size <= first:
            break
        behind = first + (1 << shape.family_bits - taken)
        at = max(at, -(-behind // size) * size)
    return shape.prefix(at, length) if at + size <= end else None


def rows(count: int) -> Iterator[tuple[str, ...]]:
    """Yield all blocks with `count` used prefixes in each, as rows of the data set."""
    for shape in SHAPES:
        yield (shape.block, 'reservation', shape.name, '')
        for first, length in shape.used(count):
            yield (shape.prefix(first, length), 'assignment', 'used', '')


# ------------------------------------------------------------------------------------------------ layouts


def _at_the_front(shape: Shape, count: int) -> list[Used]:
    length = shape.asked[0]
    size = 1 << shape.family_bits - length
    return [(n * size, length) for n in range(count)]


def _in_the_middle(shape: Shape, count: int) -> list[Used]:
    """Use `count` addresses so that a third of the free space lies in front of them."""
    first = (shape.size - count) // 3
    return [(first + n, shape.family_bits) for n in range(count)]


def _at_random(shape: Shape, count: int) -> list[Used]:
    choose = random.Random(shape.name)
    return [(n, shape.family_bits) for n in sorted(choose.sample(range(shape.size), count))]


def _all_but_one(shape: Shape, count: int) -> list[Used]:
    """Use `count` addresses, then larger prefixes, and the last address: only the address before it is free."""
    block = ip_network(shape.block)
    rest = [*summarize_address_range(block[count], block[-3]), ip_network(block[-1])]
    filled = [(int(one.network_address) - int(block[0]), one.prefixlen) for one in rest]
    return [(n, shape.family_bits) for n in range(count)] + filled


def _mixed(shape: Shape, count: int) -> list[Used]:
    """Use lengths from /24 to /32, each at its next possible place. Some small places are left free, no /24."""
    choose, at = random.Random(shape.name), 0
    used: list[Used] = []
    while len(used) < count:
        size = 1 << choose.randrange(9)
        at = -(-at // size) * size
        if at % 256 == 0 or size > 16 or choose.random() < 0.8:
            used.append((at, 33 - size.bit_length()))
        at += size
    return used


def _in_half(shape: Shape, count: int) -> list[Used]:
    """Use addresses at random: half of the addresses in front of the last one."""
    choose = random.Random(shape.name)
    return [(n, shape.family_bits) for n in sorted(choose.sample(range(2 * count), count))]


# 60,000 at the front of a /15 leave its first half free for a prefix that would cover them.
FRONT = Shape('/32s at the front', '10.6.0.0/15', _at_the_front, (32, 24))
SHAPES = (
    FRONT,
    Shape('/32s in the middle', '10.8.0.0/16', _in_the_middle, (32, 21)),
    Shape('/32s at random', '10.9.0.0/16', _at_random, (32, 31)),
    Shape('/32s with one hole at the far end', '10.10.0.0/16', _all_but_one, (32,)),
    Shape('mixed lengths', '10.128.0.0/9', _mixed, (32, 28, 24)),
    Shape('/64s in a /32', '2001:db8::/32', _at_the_front, (64, 48)),
    Shape('/128s in a /48', '3fff:db8::/48', _in_half, (128, 120)),
)
