"""Passwords that were right: which account each was right for, in memory that all handlers of a daemon share.

A login is known by a keyed digest of back end, name and password, and counts as long as the account is as it was then.
So a user who has logged in at one handler need not prove anything to another, and a change of one account is none of
the others.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
import time
from typing import NamedTuple

from nipap.access.shared_memory import LockedMemory

KEPT_S = 86400.0
STATE_SIZE = 16

_ENTRY = struct.Struct(f'=32s{STATE_SIZE}sd')  # the digest of a login, the state of its account, when it was proved
_SETS, _WAYS = 1024, 8
_SIZE = _SETS * _WAYS * _ENTRY.size


class KnownLogin(NamedTuple):
    """A password that was right: the state of its account, and the moment, on the clock that all processes share."""

    state: bytes
    proved_at: float


class KnownLogins:
    """Logins that were right within a day, in memory of a fixed size; `shared` by all processes that are forked later.

    Those that were proved longest ago are forgotten first when there are too many. Nothing in it tells a name or a
    password, and without the secret, which no process writes anywhere, nobody can try passwords with it.
    """

    def __init__(self, shared: bool = False) -> None:
        self._secret = secrets.token_bytes(32)
        self._memory = LockedMemory(_SIZE, shared)

    def close(self) -> None:
        """Let go of what is open in this process."""
        self._memory.close()

    def digest(self, backend_name: str, username: str, password: str) -> bytes:
        """Return what a login is found by.

        :raises UnicodeEncodeError: name or password cannot be encoded, so no account has them.
        """
        text = f'{len(backend_name)}:{backend_name}{len(username)}:{username}{password}'
        return hmac.digest(self._secret, text.encode(), 'sha256')

    def find(self, digest: bytes) -> KnownLogin | None:
        """Return what is known of a login, or None."""
        with self._memory.locked():
            for place in _places(digest):
                found, state, proved_at = _ENTRY.unpack_from(self._memory.bytes, place)
                if found == digest:
                    return KnownLogin(state, proved_at) if time.monotonic() - proved_at < KEPT_S else None
        return None

    def note(self, digest: bytes, state: bytes) -> None:
        """Note that a login was right for an account in this state."""

        def age(place: int) -> tuple[bool, float]:
            found, _, proved_at = _ENTRY.unpack_from(self._memory.bytes, place)
            return found != digest, proved_at

        with self._memory.locked():
            _ENTRY.pack_into(self._memory.bytes, min(_places(digest), key=age), digest, state, time.monotonic())


def state_of(values: tuple[object, ...]) -> bytes:
    """Return what tells an account, by all that is stored of it, from itself after a change."""
    return hashlib.blake2b(repr(values).encode('utf-8', 'surrogatepass'), digest_size=STATE_SIZE).digest()


def _places(digest: bytes) -> range:
    """Return where the entries are among which a login's is; the secret decides which logins meet."""
    first = int.from_bytes(digest[:4]) % _SETS * _WAYS * _ENTRY.size
    return range(first, first + _WAYS * _ENTRY.size, _ENTRY.size)
