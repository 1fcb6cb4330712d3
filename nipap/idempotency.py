"""Idempotency keys: a changing call that is sent again gets the answer it got first, and changes nothing.

A client that has seen no answer cannot know whether its call was carried out. With a key of its own choice it may send
the call again until it is answered: what was answered is stored under the key, in the transaction of the change. So the
two are there or not there together, whatever dies, and any process that has the database can answer.

Keys belong to the user who proved their identity. One is good for one call: a fingerprint tells whether acting user,
method and arguments are the same; the rest of the ``auth`` struct is not part of it.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple

from nipap import waiting
from nipap.attributes import shown
from nipap.db import Transaction
from nipap.errors import NipapInputError, NipapKeyReusedError, NipapValueError

LONGEST_KEY = 255
HOURS = 24
LARGEST_ANSWER = 8 * 2**20  # compressed; some 100,000 prefixes with all their attributes
DEEPEST = 200
EXPIRED_AT_ONCE = 2  # more than one comes with each call, so there is an end to them

_LOCKS = 5_466_128  # the first half of the keys of our advisory locks; any number that nobody else uses
_WORTH_ASIDE = 2**16

_FIND = """SELECT fingerprint, answer FROM idempotency
WHERE authenticated_as = %s AND key = %s AND created > now() - %s * interval '1 hour'"""
_KEEP = """INSERT INTO idempotency (authenticated_as, key, fingerprint, answer) VALUES (%s, %s, %s, %s)
ON CONFLICT (authenticated_as, key)
DO UPDATE SET fingerprint = excluded.fingerprint, answer = excluded.answer, created = excluded.created"""
# An array is computed once: a list of an IN might be computed again for each row, and then lock and remove more.
_EXPIRE = """DELETE FROM idempotency WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM idempotency WHERE created <= now() - %s * interval '1 hour'
    ORDER BY created LIMIT %s FOR UPDATE SKIP LOCKED))"""


class Call(NamedTuple):
    """A call with a key: whose, which, and what identifies its content."""

    authenticated_as: str
    key: str
    fingerprint: bytes


class Answer(NamedTuple):
    """What was answered; it may be None."""

    value: Any


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
    return hashlib.sha256(_encoded([username, method, given], sort_keys=True)).digest()


# ---------------------------------------------------------------- storage


def find(tx: Transaction, call: Call, hours: int) -> Answer | None:
    """What was answered to the same call within that time; None: it is to be carried out, in this transaction.

    Others that come with the key wait until the transaction ends.

    :raises NipapKeyReusedError: the key was used for another call.
    """
    # First of all and alone of its kind, so nobody waits in a circle. The statement after it sees what its holder did.
    number = zlib.crc32(f'{call.authenticated_as}\0{call.key}'.encode()) - 2**31
    tx.ahead('SELECT pg_advisory_xact_lock(%s, %s)', (_LOCKS, number))
    found = tx.one(_FIND, (call.authenticated_as, call.key, hours))
    if found is None:
        return None
    if bytes(found[0]) != call.fingerprint:
        raise NipapKeyReusedError(
            f"The idempotency key '{call.key}' was used for another call, with another method or other arguments"
        )
    return Answer(decode(bytes(found[1])))


def keep(tx: Transaction, call: Call, answer: object, hours: int) -> None:
    """Store what is answered to a call that was not found, and remove a little of what has expired.

    :raises NipapError: it cannot be stored, so the call must not be carried out.
    """
    # In this order, as whoever stores under a key that somebody else removes waits for them.
    tx.ahead(_KEEP, (call.authenticated_as, call.key, call.fingerprint, encode(answer)))
    tx.execute(_EXPIRE, (hours, EXPIRED_AT_ONCE))


# ---------------------------------------------------------------- values

# What JSON has not is a struct with this name, which no client can send and PostgreSQL cannot store.
_MARK = '\0'
_WRITTEN: dict[type, tuple[str, Callable[[Any], str]]] = {
    datetime: ('datetime', datetime.isoformat),
    Decimal: ('decimal', str),
    bytes: ('bytes', lambda value: binascii.b2a_base64(value, newline=False).decode()),
}
_READ: dict[str, Callable[[str], object]] = {
    'datetime': datetime.fromisoformat,
    'decimal': Decimal,
    'bytes': binascii.a2b_base64,
}


def encode(value: object) -> bytes:
    """Any answer as bytes that `decode` reads.

    :raises NipapError: it nests too deeply or is too large.
    """
    packed = _aside(partial(zlib.compress, plain := _encoded(value), 1), len(plain))
    if len(packed) > LARGEST_ANSWER:
        raise NipapValueError(
            f'The answer is too large to be kept for an idempotency key ({len(packed)} bytes compressed, at most '
            f'{LARGEST_ANSWER}): ask for less at once, or of a batch for ids'
        )
    return packed


def decode(packed: bytes) -> Any:
    """The answer, equal to the one that was encoded; a tuple has become a list."""
    return json.loads(_aside(partial(zlib.decompress, packed), len(packed)), object_hook=_unmarked)


def _aside(work: Callable[[], bytes], size: int) -> bytes:
    return waiting.aside(work) if size > _WORTH_ASIDE else work()


def _encoded(value: object, *, sort_keys: bool = False) -> bytes:
    _check_depth(value)
    return json.dumps(value, default=_marked, sort_keys=sort_keys, separators=(',', ':')).encode()


def _check_depth(value: object) -> None:
    """Refuse what JSON, which recurses, might write but not read again."""
    level = [value]
    for _ in range(DEEPEST):
        level = [item for container in level for item in _items(container) if isinstance(item, dict | list | tuple)]
        if not level:
            return
    raise NipapInputError(f'With an idempotency key, arguments and answers may nest {DEEPEST} deep')


def _items(container: object) -> Iterable[object]:
    if isinstance(container, dict):
        return container.values()
    return container if isinstance(container, list | tuple) else ()


def _marked(value: object) -> dict[str, list[str]]:
    for kind, (name, write) in _WRITTEN.items():
        if isinstance(value, kind):
            return {_MARK: [name, write(value)]}
    raise TypeError(f'{type(value).__name__} cannot be kept')


def _unmarked(struct: dict[str, Any]) -> Any:
    if _MARK not in struct:
        return struct
    name, text = struct[_MARK]
    return _READ[name](text)
