"""Idempotency keys: a changing call that is sent again gets the answer it got first, and changes nothing.

A client that has seen no answer cannot know whether its call was carried out. With a key of its own choice it may send
the call again until it is answered: what was answered is stored under the key, in the transaction of the change. So the
two are there or not there together, whatever dies, and any process that has the database can answer.

Keys belong to the user who proved their identity, and are forgotten when the account is removed. One is good for one
call: a fingerprint tells whether acting user, method and arguments are the same; the rest of the ``auth`` struct is not
part of it.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from nipap.attributes import shown
from nipap.errors import NipapKeyReusedError, NipapValueError
from nipap.postgres import advisory
from nipap.postgres.transaction import Transaction
from nipap.runtime import packed

LONGEST_KEY = 255
HOURS = 24
LARGEST_ANSWER = 8 * 2**20  # compressed; some 100,000 prefixes with all their attributes
EXPIRED_AT_ONCE = 2  # more than one comes with each call, so there is an end to them

_FIND = """SELECT fingerprint, answer, change_set FROM idempotency
WHERE authenticated_as = %s AND key = %s AND created > now() - %s * interval '1 hour'"""
_KEEP = """INSERT INTO idempotency (authenticated_as, key, fingerprint, answer, change_set)
VALUES (%s, %s, %s, %s, current_change_set()) ON CONFLICT (authenticated_as, key) DO UPDATE SET
    fingerprint = excluded.fingerprint, answer = excluded.answer, created = excluded.created,
    change_set = excluded.change_set"""
# An array is computed once: a list of an IN might be computed again for each row, and then lock and remove more.
_EXPIRE = """DELETE FROM idempotency WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM idempotency WHERE created <= now() - %s * interval '1 hour'
    ORDER BY created LIMIT %s FOR UPDATE SKIP LOCKED))"""


class KeyedCall(NamedTuple):
    """A call with a key: whose, which, and what identifies its content.

    predecessors: accounts of the same name that were removed before.
    """

    authenticated_as: str
    key: str
    fingerprint: bytes
    predecessors: int = 0

    @property
    def owner(self) -> str:
        """Return the user as the index on keys can hold it. A token may name anybody.

        The owner of a later account of one name is another, so what was kept for the former one is not found.
        """
        name = f'{self.authenticated_as}\n{self.predecessors}' if self.predecessors else self.authenticated_as
        return name if len(name) <= LONGEST_KEY else f'sha256 {hashlib.sha256(name.encode()).hexdigest()}'


class KeptAnswer(NamedTuple):
    """What was answered, it may be None; and the number of the change set that the call has written, if any.

    The number is not known of calls that a version without change sets has answered.
    """

    value: Any
    change_set: int | None


def read_key(value: object) -> str:
    """Check a key.

    :raises NipapValueError: saying what is accepted.
    """
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_KEY or not value.isprintable():
        raise NipapValueError(
            f'Invalid idempotency key ({shown(value)}), must be a string of 1 to {LONGEST_KEY} printable characters'
        )
    return value


def fingerprint(username: str, method: str, members: Mapping[str, object]) -> bytes:
    """What identifies the content of a call. Neither the order in a struct nor a member that is nil is part of it.

    :raises NipapInputError: they nest too deeply.
    """
    given = {name: member for name, member in members.items() if member is not None}
    return hashlib.sha256(packed.encoded([username, method, given], sort_keys=True)).digest()


# ---------------------------------------------------------------- storage


def find(tx: Transaction, call: KeyedCall, hours: int) -> KeptAnswer | None:
    """What was answered to the same call within that time; None: it is to be carried out, in this transaction.

    Others that come with the key wait until the transaction ends.

    :raises NipapKeyReusedError: the key was used for another call.
    """
    # First of all and alone of its kind, so nobody waits in a circle. The statement after it sees what its holder did.
    number = zlib.crc32(f'{call.owner}\0{call.key}'.encode()) - 2**31
    tx.ahead('SELECT pg_advisory_xact_lock(%s, %s)', (advisory.KEYS, number))
    found = tx.one(_FIND, (call.owner, call.key, hours))
    if found is None:
        return None
    if bytes(found[0]) != call.fingerprint:
        raise NipapKeyReusedError(
            f"The idempotency key '{call.key}' was used for another call, with another method or other arguments"
        )
    return KeptAnswer(packed.decode(bytes(found[1])), found[2])


def keep(tx: Transaction, call: KeyedCall, answer: object, hours: int) -> None:
    """Store what is answered to a call that was not found, and remove a little of what has expired.

    :raises NipapError: it cannot be stored, so the call must not be carried out.
    """
    # In this order, as whoever stores under a key that somebody else removes waits for them.
    tx.ahead(_KEEP, (call.owner, call.key, call.fingerprint, encode(answer)))
    tx.execute(_EXPIRE, (hours, EXPIRED_AT_ONCE))


# ---------------------------------------------------------------- values


def encode(answer: object) -> bytes:
    """Any answer as bytes that `packed.decode` reads.

    :raises NipapError: it nests too deeply or is too large.
    """
    size = packed.size_of(answer)
    if size <= LARGEST_ANSWER:
        found = packed.encode(answer)
        if len(found) <= LARGEST_ANSWER:
            return found
        size = len(found)
    raise NipapValueError(
        f'The answer is too large to be kept for an idempotency key ({size} bytes compressed, at most '
        f'{LARGEST_ANSWER}): ask for less at once, or of a batch for ids'
    )
