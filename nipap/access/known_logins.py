"""Successful logins, in memory that all handlers of a daemon share.

A login is stored as a keyed digest of back end, name and password, and is valid as long as the account is unchanged.
So a login at one handler saves the other handlers a hash, and a change of one account does not affect other accounts.
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
    """A successful login: the state of its account, and its time on the monotonic clock, which all processes share."""

    state: bytes
    proved_at: float


class KnownLogins:
    """Successful logins of a day, in memory of a fixed size; `shared` by all processes that are forked later.

    When there are too many, the oldest are forgotten first. The memory holds no names and no passwords. Passwords
    cannot be guessed from it without the secret, which no process writes anywhere.
    """

    def __init__(self, shared: bool = False) -> None:
        self._secret = secrets.token_bytes(32)
        self._memory = LockedMemory(_SIZE, shared)

    def close(self) -> None:
        """Close the file of the lock in this process."""
        self._memory.close()

    def digest(self, backend_name: str, username: str, password: str) -> bytes:
        """Return the digest under which a login is stored.

        :raises UnicodeEncodeError: name or password cannot be encoded, so no account has them.
        """
        text = f'{len(backend_name)}:{backend_name}{len(username)}:{username}{password}'
        return hmac.digest(self._secret, text.encode(), 'sha256')

    def find(self, digest: bytes) -> KnownLogin | None:
        """Return a login of the last day by its digest, or None."""
        with self._memory.locked():
            for place in _places(digest):
                found, state, proved_at = _ENTRY.unpack_from(self._memory.bytes, place)
                if found == digest:
                    return KnownLogin(state, proved_at) if time.monotonic() - proved_at < KEPT_S else None
        return None

    def note(self, digest: bytes, state: bytes) -> None:
        """Store a login that was successful for an account in this state."""

        def age(place: int) -> tuple[bool, float]:
            found, _, proved_at = _ENTRY.unpack_from(self._memory.bytes, place)
            return found != digest, proved_at

        with self._memory.locked():
            _ENTRY.pack_into(self._memory.bytes, min(_places(digest), key=age), digest, state, time.monotonic())


def state_of(values: tuple[object, ...]) -> bytes:
    """Return a digest of all stored values of an account, which differs after any change of the account."""
    return hashlib.blake2b(repr(values).encode('utf-8', 'surrogatepass'), digest_size=STATE_SIZE).digest()


def _places(digest: bytes) -> range:
    """Return the offsets of the entries that may hold a login. Which logins share entries depends on the secret."""
    first = int.from_bytes(digest[:4]) % _SETS * _WAYS * _ENTRY.size
    return range(first, first + _WAYS * _ENTRY.size, _ENTRY.size)
