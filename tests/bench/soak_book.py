"""Books of the acknowledged changes of the long run, and their comparison with the database.

A `Book` belongs to one client. It holds the facts of acknowledged changes, and the possible results of unanswered ones.
Every object carries a name that is given to it once and never changed, so that a doubled object is recognized.
"""

from __future__ import annotations

import ipaddress
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Key = tuple[str, int]  # a kind of object, and its id
Facts = dict[str, Any]

# The member that is unique and never edited.
NAMED_BY = {'prefix': 'description', 'vrf': 'name', 'pool': 'name', 'asn': 'name'}
KEPT = {
    'prefix': ('prefix', 'vrf_id', 'type', 'pool_id', 'description', 'comment', 'tags'),
    'vrf': ('rt', 'name', 'description'),
    'pool': ('name', 'description', 'ipv4_default_prefix_length', 'ipv6_default_prefix_length'),
    'asn': ('name',),
}


@dataclass(frozen=True)
class Lease:
    """An allocation from the shared pool, with the time of the answer and the time of the request for removal."""

    prefix: str
    owner: str
    begin: float
    end: float


@dataclass
class Book:
    """The knowledge of one client about its changes."""

    facts: dict[Key, Facts] = field(default_factory=dict)
    gone: set[Key] = field(default_factory=set)
    perhaps_added: set[str] = field(default_factory=set)  # names
    perhaps_gone: set[Key] = field(default_factory=set)
    perhaps_changed: dict[Key, Facts] = field(default_factory=dict)  # the facts if the change was made
    leases: list[Lease] = field(default_factory=list)

    def add(self, kind: str, answer: Mapping[str, Any]) -> Key:
        """Note an object as the daemon has answered with it."""
        key = (kind, int(answer['asn' if kind == 'asn' else 'id']))
        self.facts[key] = {name: answer[name] for name in KEPT[kind]}
        return key

    def change(self, key: Key, changes: Facts) -> None:
        self.facts[key] = self.facts[key] | changes

    def remove(self, key: Key) -> None:
        del self.facts[key]
        self.gone.add(key)

    def lose_sight(self, key: Key) -> None:
        """Note that the outcome of a removal is unknown."""
        self.perhaps_gone.add(key)

    @property
    def unknown(self) -> int:
        return len(self.perhaps_added) + len(self.perhaps_gone) + len(self.perhaps_changed)


@dataclass
class Findings:
    """All differences between the books and the database, a line each."""

    lost: list[str] = field(default_factory=list)  # acknowledged, and missing
    doubled: list[str] = field(default_factory=list)  # stored more often than it was asked for
    back: list[str] = field(default_factory=list)  # stored although its removal was acknowledged
    strange: list[str] = field(default_factory=list)  # stored although no client asked for it
    wrong: list[str] = field(default_factory=list)  # stored, but not as it was acknowledged
    overlaps: list[str] = field(default_factory=list)  # in the shared pool

    def lines(self) -> list[str]:
        return [f'{name}: {line}' for name, some in vars(self).items() for line in some]


def reconcile(books: Iterable[Book], stored: Mapping[Key, Facts]) -> Findings:
    """Compare all books with all stored objects but VRF 0."""
    books = list(books)
    found = Findings()
    for book in books:
        for key, facts in book.facts.items():
            _compare(found, book, key, facts, stored.get(key))
    _look_for_more(found, books, stored)
    return found


def _compare(found: Findings, book: Book, key: Key, facts: Facts, row: Facts | None) -> None:
    if row is None:
        if key not in book.perhaps_gone:
            found.lost.append(f'{key} {facts}')
        return
    if row not in (facts, book.perhaps_changed.get(key, facts)):
        found.wrong.append(f'{key} {row} instead of {facts}')


def _look_for_more(found: Findings, books: list[Book], stored: Mapping[Key, Facts]) -> None:
    """Find objects that are stored and in no book. An object that may have been added is allowed once."""
    known = {key for book in books for key in book.facts}
    gone = {key for book in books for key in book.gone}
    names = {(key[0], facts[NAMED_BY[key[0]]]) for book in books for key, facts in book.facts.items()}
    allowed = {('prefix', name) for book in books for name in book.perhaps_added}
    times: Counter[tuple[str, str]] = Counter()
    for key in sorted(stored.keys() - known):
        name = key[0], stored[key][NAMED_BY[key[0]]]
        times[name] += 1
        if key in gone:
            found.back.append(f'{key} {stored[key]}')
        elif name in names or times[name] > 1:
            found.doubled.append(f'{key} {stored[key]}')
        elif name not in allowed:
            found.strange.append(f'{key} {stored[key]}')


def held_twice(leases: Iterable[Lease]) -> list[str]:
    """Return the allocations of one prefix that two clients had at the same time."""
    by_prefix: defaultdict[str, list[Lease]] = defaultdict(list)
    for lease in leases:
        by_prefix[lease.prefix].append(lease)
    found = []
    for prefix, some in by_prefix.items():
        some.sort(key=lambda lease: lease.begin)
        last = some[0]
        for lease in some[1:]:
            if lease.begin < last.end:
                found.append(f'{prefix} was allocated to {last.owner} and at the same time to {lease.owner}')
            last = max(last, lease, key=lambda one: one.end)
    return found


def overlapping(prefixes: Iterable[str]) -> list[str]:
    """Return the networks that share addresses with another network."""
    found = []
    widest: dict[int, Any] = {}
    for network in sorted(
        map(ipaddress.ip_network, prefixes), key=lambda n: (n.version, n.network_address, n.prefixlen)
    ):
        before = widest.get(network.version)
        if before is not None and network.network_address <= before.broadcast_address:
            found.append(f'{before} and {network}')
        if before is None or network.broadcast_address > before.broadcast_address:
            widest[network.version] = network
    return found
