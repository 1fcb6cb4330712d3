"""The log of sign-ins, good and bad: gathered in memory, written about once a second.

Credentials come with every request, so the log combines sign-ins. A good sign-in is logged once for each user,
address, interface and hour. Bad sign-ins are counted by name, address, interface and outcome: the first is written
within a second, the following ones after a minute and at the end of an hour. A handler keeps `MOST_KEYS` such counts,
`MOST_OF_NETWORK` from one network. Above these limits bad sign-ins are counted without a name. So the memory, and the
rows that attackers can cause in an hour, are limited. No password and no token is kept.
"""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
import struct
import time
from collections import Counter
from typing import NamedTuple

from nipap.access.login_limits import network
from nipap.access.shared_memory import LockedMemory

OK = 'ok'
WRONG = 'wrong_password'
UNKNOWN_USER = 'unknown_user'
LIMITED = 'limited'
REFUSED = 'refused'
INVALID = 'invalid_token'
EXPIRED = 'expired_token'
MALFORMED = 'malformed'
UNAVAILABLE = 'unavailable'
OUTCOMES = (
    *(OK, WRONG, UNKNOWN_USER, LIMITED, REFUSED),
    *(INVALID, EXPIRED, MALFORMED, UNAVAILABLE),
)
INTERFACES = ('xmlrpc', 'rest', 'rest_v1', 'traces')

LONGEST_NAME = 100
MOST_KEYS = 1000
MOST_OF_NETWORK = 100
MOST_SEEN = 10_000
MOST_ADDRESSES = 1000  # of one user in an hour; further addresses share a row
HOUR_S = 3600
AGAIN_S = 60

_ENTRY = struct.Struct('=QQ')  # digest of the key, number of the hour
_SETS, _WAYS = 2048, 8
_SIZE = _SETS * _WAYS * _ENTRY.size


class Key(NamedTuple):
    """The properties that sign-ins of one row have in common. name: the user, or the name tried."""

    name: str | None
    backend: str | None
    address: str | None
    interface: str
    outcome: str


class Row(NamedTuple):
    """Sign-ins to be written as one row. first, last: seconds since 1970."""

    key: Key
    first: float
    last: float
    times: int


class SignInMarks:
    """The good sign-ins of an hour, in memory of a fixed size; `shared` by all processes that are forked later.

    An entry is found by a hash with a secret key. When there are too many, earlier hours are forgotten first.
    """

    def __init__(self, shared: bool = False) -> None:
        self._secret = secrets.token_bytes(32)
        self._memory = LockedMemory(_SIZE, shared)

    def close(self) -> None:
        """Close the file of the lock in this process."""
        self._memory.close()

    def is_first(self, key: str, hour: int) -> bool:
        """Note a sign-in; return whether no process has noted the same one in this hour."""
        digest = hashlib.blake2b(key.encode('utf-8', 'surrogatepass'), key=self._secret, digest_size=16).digest()
        number, owner = struct.unpack('=QQ', digest)
        first = number % _SETS * _WAYS * _ENTRY.size
        places = range(first, first + _WAYS * _ENTRY.size, _ENTRY.size)
        with self._memory.locked():
            entries = {place: _ENTRY.unpack_from(self._memory.bytes, place) for place in places}
            if (owner, hour) in entries.values():
                return False
            oldest = min(places, key=lambda place: (entries[place][0] != owner, entries[place][1]))
            _ENTRY.pack_into(self._memory.bytes, oldest, owner, hour)
        return True


class _Tally:
    """Bad sign-ins with one key: their count since the last row, and when the next row is due."""

    __slots__ = ('count', 'due', 'ends', 'first', 'last', 'network')

    def __init__(self, now: float, network: str | None) -> None:
        self.count = 0
        self.first = self.last = now
        self.due, self.ends = now, now + HOUR_S
        self.network = network


class SignInLog:
    """The sign-ins of one process that are not written yet. marks: shared with other processes."""

    def __init__(self, marks: SignInMarks | None = None) -> None:
        self._marks = marks or SignInMarks()
        self._hour = 0
        self._seen: set[tuple[str, str | None, str]] = set()
        self._addresses: Counter[str] = Counter()  # of each user in this hour
        self._good: list[Row] = []
        self._bad: dict[Key, _Tally] = {}
        self._of_network: Counter[str | None] = Counter()
        self._unwritten: list[Row] = []  # taken, but PostgreSQL was away

    def succeed(self, user: str, backend: str | None, address: str | None, interface: str) -> None:
        """Note a good sign-in. Only the first of an hour costs more than a look-up."""
        now = time.time()
        hour = int(now // HOUR_S)
        if hour != self._hour:
            self._hour = hour
            self._seen.clear()
            self._addresses.clear()
        if (user, address, interface) in self._seen:
            return
        if len(self._seen) < MOST_SEEN:
            self._seen.add((user, address, interface))
        place = _address(address)
        if self._addresses[user] >= MOST_ADDRESSES:
            place = None
        if not self._marks.is_first(f'{interface} {place} {user}', hour):
            return
        self._addresses[user] += 1
        if len(self._good) < MOST_KEYS:
            self._good.append(Row(Key(user, backend, place, interface, OK), now, now, 1))
        else:
            self._count(Key(None, None, None, interface, OK), None, now)

    def fail(self, name: str | None, backend: str | None, address: str | None, interface: str, outcome: str) -> None:
        """Note a bad sign-in. name: the name tried, as it was sent."""
        now = time.time()
        place = _address(address)
        around = None if place is None else network(place)
        key = Key(None if name is None else printable(name), backend, place, interface, outcome)
        if key not in self._bad:
            if self._of_network[around] >= MOST_OF_NETWORK:
                key = Key(None, None, around, interface, outcome)
            if len(self._bad) >= MOST_KEYS and key not in self._bad:
                key, around = Key(None, None, None, interface, outcome), None
        self._count(key, around, now)

    def _count(self, key: Key, around: str | None, now: float) -> None:
        tally = self._bad.get(key)
        if tally is None:
            tally = self._bad[key] = _Tally(now, around)
            self._of_network[around] += 1
        if not tally.count:
            tally.first = now
        tally.count += 1
        tally.last = max(now, tally.first)

    @property
    def pending(self) -> int:
        """The number of sign-ins that are not written."""
        rows = sum(row.times for row in (*self._good, *self._unwritten))
        return rows + sum(tally.count for tally in self._bad.values())

    def take(self, *, everything: bool = False) -> list[Row]:
        """Return the rows that are due, or all rows. Later calls return them again until `written` is called."""
        if self._unwritten and not everything:
            return list(self._unwritten)
        now = time.time()
        rows, self._good = self._good, []
        for key, tally in list(self._bad.items()):
            ends = now >= tally.ends or now < tally.first - HOUR_S  # the clock may have been set back
            if tally.count and (everything or ends or now >= tally.due):
                rows.append(Row(key, tally.first, tally.last, tally.count))
                tally.due = tally.ends if tally.due > tally.ends - HOUR_S else now + AGAIN_S
                tally.count = 0
            if ends:
                del self._bad[key]
                self._of_network[tally.network] -= 1
                if not self._of_network[tally.network]:
                    del self._of_network[tally.network]
        self._unwritten += rows
        return list(self._unwritten)

    def written(self, count: int) -> None:
        """Forget the first rows that `take` has returned."""
        del self._unwritten[:count]


def printable(name: str) -> str:
    """Return a name cut to `LONGEST_NAME` characters. Control characters are escaped."""
    name = name[:LONGEST_NAME]
    if not name.isprintable():
        name = ''.join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in name)
    return name[:LONGEST_NAME]


def _address(address: str | None) -> str | None:
    """Return an address without zone, an IPv4-mapped one as IPv4; None for other text."""
    try:
        parsed = ipaddress.ip_address((address or '').partition('%')[0])
    except ValueError:
        return None
    return str((parsed.version == 6 and parsed.ipv4_mapped) or parsed)
