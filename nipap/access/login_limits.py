"""Limits on failed logins: failures delay later logins, and then have them refused without checking the password.

Failures are counted for a while by client address (of IPv6 the /64, which one customer has), by user at that address,
and by user from any address. The first two counts lead to refusals until the counts expire. The third count leads
only to delays, so that nobody can lock a user out by failing in the user's name. Refused logins are not counted.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import secrets
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from nipap.access.shared_memory import LockedMemory
from nipap.errors import AuthenticationFailedError, TooManyLoginsError
from nipap.runtime import waiting
from nipap.runtime.places import ClientGoneError

T = TypeVar('T')

FIRST_DELAY_S = 0.1
MOST_DELAY_S = 4.0
MOST_DELAYED = 100  # requests of one process that are being delayed
MOST_DELAYED_OF_ONE = 4  # delayed requests from one address
PATIENCE_S = 10.0  # the longest wait for the outcomes of concurrent attempts
POLL_S = 0.05

_ENTRY = struct.Struct('=QdII')  # digest of the key, when it expires, failures, attempts without an outcome yet
_SETS, _WAYS = 2048, 8
_SIZE = _SETS * _WAYS * _ENTRY.size
_NOBODY = (0, 0.0, 0, 0)


@dataclass(frozen=True)
class _Count:
    """The counts of one key. place: the offset of the entry in memory, None when there is no entry."""

    place: int | None
    until: float
    failed: int
    pending: int


class LoginCounts:
    """Counts of failed logins, in memory of a fixed size; `shared` by all processes that are forked later.

    An entry is found by a hash with a secret key, so clients cannot choose which keys collide. When too many collide,
    the entries with the fewest failures are forgotten first. The memory holds no names and no passwords.
    """

    def __init__(self, shared: bool = False) -> None:
        self._secret = secrets.token_bytes(32)
        self._memory = LockedMemory(_SIZE, shared)

    def close(self) -> None:
        """Close the file of the lock in this process."""
        self._memory.close()

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Lock the counts for a few microseconds. The block must not wait for anything."""
        return self._memory.locked()

    def look(self, key: str, now: float) -> _Count:
        """Return the counts of a key that have not expired."""
        first, owner = self._place(key)
        for place in range(first, first + _WAYS * _ENTRY.size, _ENTRY.size):
            found, until, failed, pending = _ENTRY.unpack_from(self._memory.bytes, place)
            if found == owner and until > now:
                return _Count(place, until, failed, pending)
        return _Count(None, now, 0, 0)

    def change(self, key: str, now: float, window_s: float, failed: int, pending: int) -> None:
        """Add to both counts of a key. They expire `window_s` seconds after the first addition."""
        count = self.look(key, now)
        first, owner = self._place(key)
        place = self._room(first, now) if count.place is None else count.place
        until = now + window_s if count.place is None else count.until
        values = max(0, count.failed + failed), max(0, count.pending + pending)
        _ENTRY.pack_into(self._memory.bytes, place, *((owner, until, *values) if any(values) else _NOBODY))

    def _place(self, key: str) -> tuple[int, int]:
        """Return the offset of the first entry that may hold a key, and the digest that is stored in the entry."""
        digest = hashlib.blake2b(key.encode('utf-8', 'surrogatepass'), key=self._secret, digest_size=16).digest()
        number, owner = struct.unpack('=QQ', digest)
        return number % _SETS * _WAYS * _ENTRY.size, owner

    def _room(self, first: int, now: float) -> int:
        """Return the offset of the entry to overwrite: an expired entry, or else the one with the smallest counts."""

        def worth(place: int) -> tuple[int, float]:
            _, until, failed, pending = _ENTRY.unpack_from(self._memory.bytes, place)
            return (failed + pending, until) if until > now else (-1, 0.0)

        return min(range(first, first + _WAYS * _ENTRY.size, _ENTRY.size), key=worth)


class LoginLimits:
    """The limits on logins, which are delayed or refused depending on the number of failed logins.

    An address is refused after `failed_logins` within `window_s` seconds, and one user at one address after half of
    them, so that a program with a wrong password does not use up the attempts of other users of its host. Delays begin
    at a quarter. 0 means no limits. counts: by default the counts of this process alone.
    """

    def __init__(self, failed_logins: int, window_s: float, counts: LoginCounts | None = None) -> None:
        self._of_address, self._of_user_there = failed_logins, max(1, failed_logins // 2)
        self._undelayed = max(1, failed_logins // 4)
        self._window_s = window_s
        self._counts = (counts or LoginCounts()) if failed_logins else None
        self._delayed: dict[str, int] = {}

    def guarded(self, address: str | None, user: str, check: Callable[[], T | None]) -> T | None:
        """Return the result of `check`, which is None when the login fails.

        A login without an address is neither limited nor counted.

        :raises AuthenticationFailedError: the login is refused, and `check` was not called.
        """
        if self._counts is None or address is None:
            return check()
        place = network(address)
        there = {f'address {place}': self._of_address, f'at {place} {user}': self._of_user_there}
        anywhere = f'user {user}'
        self._delay(place, there, anywhere)
        self._begin(there)
        try:
            found = check()
        except (Exception, ClientGoneError):
            self._end(there, anywhere, failed=False)
            raise
        self._end(there, anywhere, failed=found is None)
        return found

    def _delay(self, place: str, there: dict[str, int], anywhere: str) -> None:
        """Wait as long as the failures so far demand. Refuse after too many failures, or if too many logins wait."""
        now = time.monotonic()
        with self._locked() as counts:
            known = [(counts.look(key, now), limit) for key, limit in there.items()]
            elsewhere = counts.look(anywhere, now).failed
        for count, limit in known:
            if count.failed >= limit:
                raise refusal(count.until - now)
        here = max(count.failed for count, _ in known)
        delay_s = self._delay_s(max(here, elsewhere))
        if not delay_s:
            return
        if sum(self._delayed.values()) >= MOST_DELAYED or self._delayed.get(place, 0) >= MOST_DELAYED_OF_ONE:
            if here:
                raise refusal(delay_s)
            return  # only other addresses have failed, which must not lock this one out
        self._delayed[place] = self._delayed.get(place, 0) + 1
        try:
            waiting.sleep(delay_s)
        finally:
            self._delayed[place] -= 1
            if not self._delayed[place]:
                del self._delayed[place]

    def _delay_s(self, failed: int) -> float:
        if failed < self._undelayed:
            return 0.0
        return min(MOST_DELAY_S, self._window_s, FIRST_DELAY_S * 2.0 ** min(failed - self._undelayed, 30))

    def _begin(self, there: dict[str, int]) -> None:
        """Count an attempt that has no outcome yet. The limit holds even if all such attempts fail."""
        give_up = time.monotonic() + PATIENCE_S
        while not self._has_begun(there):
            if time.monotonic() > give_up:
                raise refusal(POLL_S)
            waiting.sleep(POLL_S)

    def _has_begun(self, there: dict[str, int]) -> bool:
        """Count an attempt; return False when concurrent attempts must have their outcome first.

        :raises TooManyLoginsError: the failures are too many.
        """
        now = time.monotonic()
        with self._locked() as counts:
            known = [(counts.look(key, now), limit) for key, limit in there.items()]
            for count, limit in known:
                if count.failed >= limit:
                    raise refusal(count.until - now)
            if any(count.failed + count.pending >= limit for count, limit in known):
                return False
            for key in there:
                counts.change(key, now, self._window_s, 0, +1)
        return True

    def _end(self, there: dict[str, int], anywhere: str, failed: bool) -> None:
        now = time.monotonic()
        with self._locked() as counts:
            for key in there:
                counts.change(key, now, self._window_s, int(failed), -1)
            if failed:
                counts.change(anywhere, now, self._window_s, 1, 0)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[LoginCounts]:
        if self._counts is None:  # pragma: no cover - for mypy, as callers have looked
            raise RuntimeError('logins are not limited')
        with self._counts.locked():
            yield self._counts


def refusal(seconds: float) -> AuthenticationFailedError:
    """Return the error for a client that failed too often: the code of a wrong password, and when to retry."""
    whole = max(1, -int(-seconds // 1))
    return TooManyLoginsError(
        'Incorrect username or password: '
        f'too many failed logins, try again in {whole} second{"s" if whole > 1 else ""}.',
        whole,
    )


def network(address: str, length: int = 64) -> str:
    """Return the network for which an address is counted, as text.

    An IPv4 address counts for itself, an IPv4-mapped address for its IPv4 address, an IPv6 address for its network.
    length: the prefix length of IPv6 networks; providers give a /64 or as much as a /48 to one customer.
    """
    try:
        parsed = ipaddress.ip_address(address.partition('%')[0])
    except ValueError:
        return address
    if parsed.version == 6 and parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, length), strict=False)) if parsed.version == 6 else str(parsed)
