"""Idempotency keys: a changing call that is sent again gets its first answer, and changes nothing.

A client without an answer cannot know whether its call was carried out. With a key of its own choice the client may
retry the call until it gets an answer: the answer is stored under the key, in the transaction of the change. So change
and answer are both stored or both missing, even after a crash, and any process with the database can answer.

Keys belong to the logged-in user, and are forgotten when the account is removed. A key is good for one call: a
fingerprint tells whether acting user, method and arguments are the same. The rest of the ``auth`` struct is not part
of the fingerprint.
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
EXPIRED_AT_ONCE = 2  # each call adds one key, so removing two bounds the number of expired keys

_FIND = """SELECT fingerprint, answer, change_set FROM idempotency
WHERE authenticated_as = %s AND key = %s AND created > now() - %s * interval '1 hour'"""
_KEEP = """INSERT INTO idempotency (authenticated_as, key, fingerprint, answer, change_set)
VALUES (%s, %s, %s, %s, current_change_set()) ON CONFLICT (authenticated_as, key) DO UPDATE SET
    fingerprint = excluded.fingerprint, answer = excluded.answer, created = excluded.created,
    change_set = excluded.change_set"""
# An array is computed once. The list of an IN might be computed again for each row, and then lock and remove more rows.
_EXPIRE = """DELETE FROM idempotency WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM idempotency WHERE created <= now() - %s * interval '1 hour'
    ORDER BY created LIMIT %s FOR UPDATE SKIP LOCKED))"""


class KeyedCall(NamedTuple):
    """A call with an idempotency key. fingerprint: identifies the content of the call.

    predecessors: the number of earlier accounts of the same name that were removed.
    """

    authenticated_as: str
    key: str
    fingerprint: bytes
    predecessors: int = 0

    @property
    def owner(self) -> str:
        """Return the user in a form that fits into the index on keys, since a token may have a name of any length.

        A later account of the same name has another form, so it does not find the answers of the former account.
        """
        name = f'{self.authenticated_as}\n{self.predecessors}' if self.predecessors else self.authenticated_as
        return name if len(name) <= LONGEST_KEY else f'sha256 {hashlib.sha256(name.encode()).hexdigest()}'


class KeptAnswer(NamedTuple):
    """A stored answer, which may be None, and the number of the change set that the call has written, if any.

    The number is unknown for calls answered by a version without change sets.
    """

    value: Any
    change_set: int | None


def read_key(value: object) -> str:
    """Check an idempotency key and return it.

    :raises NipapValueError: naming the accepted keys.
    """
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_KEY or not value.isprintable():
        raise NipapValueError(
            f'Invalid idempotency key ({shown(value)}), must be a string of 1 to {LONGEST_KEY} printable characters'
        )
    return value


def fingerprint(username: str, method: str, members: Mapping[str, object]) -> bytes:
    """Return a digest of a call's content. It ignores the order in structs, and members of the call that are nil.

    :raises NipapInputError: the members nest too deeply.
    """
    given = {name: member for name, member in members.items() if member is not None}
    return hashlib.sha256(packed.encoded([username, method, given], sort_keys=True)).digest()


# ---------------------------------------------------------------- storage


def find(tx: Transaction, call: KeyedCall, hours: int) -> KeptAnswer | None:
    """Return the answer to the same call within the last `hours`; None: carry the call out, in this transaction.

    Other calls with the key wait until the transaction ends.

    :raises NipapKeyReusedError: the key was used for another call.
    """
    # This lock comes first, and a transaction takes only one of its kind, so there is no deadlock. The next statement
    # sees the changes of the former holder of the lock.
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
    """Store the answer to a call that `find` has not found, and remove a few expired answers.

    :raises NipapError: the answer cannot be stored, so the call must not be carried out.
    """
    # Store first, then remove. Storing waits for a transaction that removes the same key, and that one must not wait
    # for us. Removing waits for nobody.
    tx.ahead(_KEEP, (call.owner, call.key, call.fingerprint, encode(answer)))
    tx.execute(_EXPIRE, (hours, EXPIRED_AT_ONCE))


# ---------------------------------------------------------------- values


def encode(answer: object) -> bytes:
    """Return any answer as bytes that `packed.decode` reads.

    :raises NipapError: the answer nests too deeply or is too large.
    """
    size = packed.size_of(answer)
    if size <= LARGEST_ANSWER:
        found = packed.encode(answer)
        if len(found) <= LARGEST_ANSWER:
            return found
        size = len(found)
    raise NipapValueError(
        f'The answer is too large to be stored for an idempotency key ({size} bytes compressed, at most '
        f'{LARGEST_ANSWER}): make smaller calls, or a batch that returns only ids'
    )
