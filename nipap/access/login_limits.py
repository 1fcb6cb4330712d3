"""How many wrong passwords are tried: failed logins make later ones wait, and then be refused unheard.

Failures are counted for a while by client address (of IPv6 the /64, which one customer has), by user at that address,
and by user wherever they come from. The first two end in a refusal, which passes with the time; the last one only
slows down, so that nobody locks out others by failing in their name. What is refused is not counted.
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
MOST_DELAYED = 100  # requests of one process that wait to be slowed down
MOST_DELAYED_OF_ONE = 4  # of them from one address
PATIENCE_S = 10.0  # how long is waited for others whose outcome decides
POLL_S = 0.05

_ENTRY = struct.Struct('=QdII')  # whose it is, until when it counts, failures, attempts without an outcome yet
_SETS, _WAYS = 2048, 8
_SIZE = _SETS * _WAYS * _ENTRY.size
_NOBODY = (0, 0.0, 0, 0)


@dataclass(frozen=True)
class _Count:
    """What is known about one key; `place` is where it is kept, None when nothing is."""

    place: int | None
    until: float
    failed: int
    pending: int


class LoginCounts:
    """Counts of failed logins, in memory of a fixed size; `shared` by all processes that are forked later.

    An entry is found by a hash with a secret key: clients cannot choose which ones meet. When too many do, those with
    the fewest failures are forgotten first. Nothing in it tells a name or a password.
    """

    def __init__(self, shared: bool = False) -> None:
        self._secret = secrets.token_bytes(32)
        self._memory = LockedMemory(_SIZE, shared)

    def close(self) -> None:
        """Let go of what is open in this process."""
        self._memory.close()

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Lock the counts for a few microseconds. The block must not wait for anything."""
        return self._memory.locked()

    def look(self, key: str, now: float) -> _Count:
        """What is known about a key at this moment."""
        first, owner = self._place(key)
        for place in range(first, first + _WAYS * _ENTRY.size, _ENTRY.size):
            found, until, failed, pending = _ENTRY.unpack_from(self._memory.bytes, place)
            if found == owner and until > now:
                return _Count(place, until, failed, pending)
        return _Count(None, now, 0, 0)

    def change(self, key: str, now: float, window_s: float, failed: int, pending: int) -> None:
        """Add to both counts, which are forgotten `window_s` after the first that was added."""
        count = self.look(key, now)
        first, owner = self._place(key)
        place = self._room(first, now) if count.place is None else count.place
        until = now + window_s if count.place is None else count.until
        values = max(0, count.failed + failed), max(0, count.pending + pending)
        _ENTRY.pack_into(self._memory.bytes, place, *((owner, until, *values) if any(values) else _NOBODY))

    def _place(self, key: str) -> tuple[int, int]:
        """Where the entries begin among which the key's is, and what is written into it."""
        digest = hashlib.blake2b(key.encode('utf-8', 'surrogatepass'), key=self._secret, digest_size=16).digest()
        number, owner = struct.unpack('=QQ', digest)
        return number % _SETS * _WAYS * _ENTRY.size, owner

    def _room(self, first: int, now: float) -> int:
        """The entry that is given up: one that counts no longer, or else least."""

        def worth(place: int) -> tuple[int, float]:
            _, until, failed, pending = _ENTRY.unpack_from(self._memory.bytes, place)
            return (failed + pending, until) if until > now else (-1, 0.0)

        return min(range(first, first + _WAYS * _ENTRY.size, _ENTRY.size), key=worth)


class LoginLimits:
    """Lets a login be tried, later or not at all, depending on how many have failed.

    After `failed_logins` within `window_s` an address is refused, and one user at one address after half of them: a
    program with a wrong password does not spend what others on its host are allowed. Delays begin at a quarter.
    0 means no limits. `counts` are those of this process alone unless they are given.
    """

    def __init__(self, failed_logins: int, window_s: float, counts: LoginCounts | None = None) -> None:
        self._of_address, self._of_user_there = failed_logins, max(1, failed_logins // 2)
        self._undelayed = max(1, failed_logins // 4)
        self._window_s = window_s
        self._counts = (counts or LoginCounts()) if failed_logins else None
        self._delayed: dict[str, int] = {}

    def guarded(self, address: str | None, user: str, check: Callable[[], T | None]) -> T | None:
        """The result of `check`, None counting as a failure; without an address it is neither limited nor counted.

        :raises AuthenticationFailedError: it is refused, and `check` was not called.
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
        """Wait as long as the failures so far demand; refuse when they are too many, or too many wait so."""
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
            return  # it is others who have failed: nobody is locked out for that
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
        """Count an attempt whose outcome is open. Should those that are open all fail, the limit still holds."""
        give_up = time.monotonic() + PATIENCE_S
        while not self._has_begun(there):
            if time.monotonic() > give_up:
                raise refusal(POLL_S)
            waiting.sleep(POLL_S)

    def _has_begun(self, there: dict[str, int]) -> bool:
        """Count it; False when others must have their outcome first. Refused when the failures are too many."""
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
            raise RuntimeError('there are no limits')
        with self._counts.locked():
            yield self._counts


def refusal(seconds: float) -> AuthenticationFailedError:
    """What a client is told that failed too often: the code of a wrong password, and when to come back."""
    whole = max(1, -int(-seconds // 1))
    return TooManyLoginsError(
        'Incorrect username or password: '
        f'too many failed logins, try again in {whole} second{"s" if whole > 1 else ""}.',
        whole,
    )


def network(address: str, length: int = 64) -> str:
    """Return what an address counts for: itself, its /64 if it is IPv6, the IPv4 address that it stands for if any.

    length: of the network of IPv6; providers give a /64 or as much as a /48 to one customer.
    """
    try:
        parsed = ipaddress.ip_address(address.partition('%')[0])
    except ValueError:
        return address
    if parsed.version == 6 and parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, length), strict=False)) if parsed.version == 6 else str(parsed)
