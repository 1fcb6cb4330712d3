"""Blocks in which prefixes are used in different ways, and the lowest free block of each, found by looking at all gaps.

The blocks lie in 10.0.0.0/8 and in space for documentation; `dataset.py --shapes` writes them. What is free is worked
out here, from what was written and with integers alone.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_network, summarize_address_range

Used = tuple[int, int]  # the first address of a used prefix, counted from that of its block, and the prefix length
Layout = Callable[['Shape', int], list[Used]]


@dataclass(frozen=True)
class Shape:
    """A block, how prefixes lie in it, and the lengths that are asked for, from what is easily found to what is not."""

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
        """The prefix at so many addresses behind the first of the block."""
        network = ip_network(self.block)
        return str(ip_network((int(network.network_address) + first, length)))

    def used(self, count: int) -> list[Used]:
        """About so many used prefixes, in order; none at all for 0."""
        return self.layout(self, count) if count else []


@functools.cache
def lowest_free(shape: Shape, count: int, length: int) -> str | None:
    """The lowest free prefix of a length in a block with so many used ones."""
    size = 1 << shape.family_bits - length
    # The first and the last address of a block are not handed out alone.
    at, end = (1, shape.size - 1) if size == 1 else (0, shape.size)
    for first, taken in shape.used(count):
        if at + size <= first:
            break
        behind = first + (1 << shape.family_bits - taken)
        at = max(at, -(-behind // size) * size)
    return shape.prefix(at, length) if at + size <= end else None


def rows(count: int) -> Iterator[tuple[str, ...]]:
    """All blocks with so many used prefixes in each, as rows of the data set."""
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
    """A third of what is free lies in front of them."""
    first = (shape.size - count) // 3
    return [(first + n, shape.family_bits) for n in range(count)]


def _at_random(shape: Shape, count: int) -> list[Used]:
    choose = random.Random(shape.name)
    return [(n, shape.family_bits) for n in sorted(choose.sample(range(shape.size), count))]


def _all_but_one(shape: Shape, count: int) -> list[Used]:
    """So many addresses, then larger prefixes, and the last address: the one before it is free."""
    block = ip_network(shape.block)
    rest = [*summarize_address_range(block[count], block[-3]), ip_network(block[-1])]
    filled = [(int(one.network_address) - int(block[0]), one.prefixlen) for one in rest]
    return [(n, shape.family_bits) for n in range(count)] + filled


def _mixed(shape: Shape, count: int) -> list[Used]:
    """Lengths from /24 to /32, each at the next place for it; some small places are left free, no /24."""
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
    """Addresses at random, half of those in front of the last of them."""
    choose = random.Random(shape.name)
    return [(n, shape.family_bits) for n in sorted(choose.sample(range(2 * count), count))]


# 60,000 at the front of a /15 leave its first half to be covered by a prefix that is not there yet.
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
