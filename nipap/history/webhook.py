"""The rows of webhooks: their filters, the progress of their deliveries, and their dead letters."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from nipap.attributes import normal_text, read_boolean, read_integer, shown
from nipap.errors import (
    NipapError,
    NipapExtraneousInputError,
    NipapNonExistentError,
    NipapValueError,
)
from nipap.history.audit import Who
from nipap.history.events import KINDS, Event, Filter
from nipap.postgres.transaction import Transaction

Object = dict[str, Any]

LONGEST_URL = 2000
SHORTEST_SECRET, LONGEST_SECRET = 16, 500
MOST_IN_A_FILTER = 100
MOST_WEBHOOKS = 100
DEAD_LETTERS_AT_ONCE = 100

_SHOWN = (
    *('id', 'url', 'description', 'kinds', 'vrf_ids', 'pool_ids', 'tags', 'enabled', 'owner', 'added'),
    *('cursor', 'attempts', 'failing_since', 'next_attempt', 'last_error', 'delivered', 'failed'),
)
WRITABLE = ('url', 'secret', 'description', 'kinds', 'vrf_ids', 'pool_ids', 'tags', 'enabled')
_FILTERS = ('kinds', 'vrf_ids', 'pool_ids', 'tags')


# ---------------------------------------------------------------- managing


def find(tx: Transaction, key: int | None = None) -> list[Object]:
    """Return the webhook with an id, or all webhooks, without their secrets."""
    return _find(tx, _SHOWN, key)


def _find(tx: Transaction, names: Sequence[str], key: int | None) -> list[Object]:
    sql = f'SELECT {", ".join(names)} FROM webhook WHERE %s::bigint IS NULL OR id = %s::bigint ORDER BY id'
    return [dict(zip(names, row, strict=True)) for row in tx.all(sql, (key, key))]


def one(tx: Transaction, key: int) -> Object:
    """Return the webhook with an id, without its secret.

    :raises NipapNonExistentError: there is no such webhook.
    """
    found = find(tx, key)
    if not found:
        raise NipapNonExistentError(f'There is no webhook {key}')
    return found[0]


def add(tx: Transaction, values: Mapping[str, Any], who: Who) -> int:
    """Add a webhook with these columns, for events from now on; return its id.

    The owner is the account of the caller, also when the caller acts for another user.

    :raises NipapValueError: there are `MOST_WEBHOOKS` already.
    """
    tx.execute('LOCK TABLE webhook IN SHARE ROW EXCLUSIVE MODE')
    if tx.value('SELECT count(*) FROM webhook') >= MOST_WEBHOOKS:
        raise NipapValueError(f'There are {MOST_WEBHOOKS} webhooks, no more are possible')
    stored = {**values, 'owner': who.authenticated_as}
    columns = ', '.join((*stored, 'cursor'))
    places = ', '.join(['%s'] * len(stored))
    sql = f'INSERT INTO webhook ({columns}) SELECT {places}, last_position FROM event_state RETURNING id'
    key = int(tx.value(sql, tuple(stored.values())))
    _audit(tx, who, key, 'add', None, facts(tx, key))
    return key


def edit(tx: Transaction, key: int, values: Mapping[str, Any], who: Who) -> None:
    """Set columns of a webhook. Failed deliveries are retried at once."""
    before, secret = _locked(tx, key)
    changes = ''.join(f'{name} = %s, ' for name in values)
    sql = f'UPDATE webhook SET {changes}attempts = 0, failing_since = NULL, next_attempt = NULL WHERE id = %s'
    tx.execute(sql, (*values.values(), key))
    told = {'secret_changed': True} if values.get('secret', secret) != secret else {}
    after = {**facts(tx, key), **told}
    if after != before:
        _audit(tx, who, key, 'edit', before, after)


def remove(tx: Transaction, key: int, who: Who) -> None:
    """Remove a webhook with its dead letters."""
    before, _ = _locked(tx, key)
    tx.execute('DELETE FROM webhook WHERE id = %s', (key,))
    _audit(tx, who, key, 'remove', before, None)


def disable_all(tx: Transaction, who: Who) -> int:
    """Disable all enabled webhooks; return their number."""
    enabled = [int(row[0]) for row in tx.all('SELECT id FROM webhook WHERE enabled ORDER BY id')]
    for key in enabled:
        edit(tx, key, {'enabled': False}, who)
    return len(enabled)


def facts(tx: Transaction, key: int) -> Object:
    """Return the state of a webhook for the audit log: its owner and its writable attributes, without the secret."""
    found: Object = tx.value('SELECT webhook_facts(w) FROM webhook w WHERE id = %s', (key,))
    return found


def _locked(tx: Transaction, key: int) -> tuple[Object, str]:
    """Lock a webhook until the transaction ends; return its state for the audit log, and its secret.

    :raises NipapNonExistentError: there is no such webhook.
    """
    found = tx.one('SELECT webhook_facts(w), secret FROM webhook w WHERE id = %s FOR UPDATE', (key,))
    if found is None:
        raise NipapNonExistentError(f'There is no webhook {key}')
    return found[0], found[1]


def _audit(tx: Transaction, who: Who, key: int, action: str, before: Object | None, after: Object | None) -> None:
    states = [None if state is None else json.dumps(state) for state in (before, after)]
    tx.execute("SELECT record_change(%s::actor, 'webhook', %s, %s, %s::jsonb, %s::jsonb)", (who, action, key, *states))


def read(attr: Mapping[str, Any]) -> Object:
    """Parse attributes of a webhook and return them as columns.

    :raises NipapError: naming the attribute.
    """
    values: Object = {}
    for name, value in attr.items():
        if name not in WRITABLE:
            raise NipapExtraneousInputError(f'extraneous attribute {name}, known: {", ".join(WRITABLE)}').about(name)
        if name not in _FILTERS:
            try:
                values[name] = _READERS[name](value)
            except NipapError as error:
                raise error.about(name) from None
    return values | read_filter({name: attr[name] for name in _FILTERS if name in attr})


def read_filter(given: Mapping[str, Any], called: Mapping[str, str] | None = None) -> Object:
    """Parse the members of a filter. called: the names of members in error messages, where they differ.

    :raises NipapValueError: naming the member.
    """
    values: Object = {}
    for name, items in given.items():
        label = (called or {}).get(name, name)
        if not isinstance(items, list) or len(items) > MOST_IN_A_FILTER:
            raise NipapValueError(f'Invalid {label}, must be a list of at most {MOST_IN_A_FILTER}').about(label)
        reader = _read_id if name.endswith('_ids') else _read_kind if name == 'kinds' else _read_text
        try:
            values[name] = [reader(item) for item in items]
        except NipapError as error:
            raise error.about(label) from None
    return values


def _read_id(value: object) -> int:
    number = read_integer(value)
    if not 0 <= number < 2**63:
        raise NipapValueError(f'Invalid value {shown(value)}, must be an id, 0 to 2^63-1')
    return number


def _read_kind(value: object) -> str:
    if value not in KINDS:
        raise NipapValueError(f'Invalid kind of object {shown(value)}, must be one of: {", ".join(KINDS)}')
    return str(value)


def _read_text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise NipapValueError(f'Invalid value {shown(value)}, must be a string')
    return normal_text(value)


def _read_url(value: object) -> str:
    text = _read_text(value)
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ('http', 'https') and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or len(text) > LONGEST_URL or not text.isascii() or not text.isprintable() or ' ' in text:
        raise NipapValueError(f'Invalid url {shown(value)}, must begin with http:// or https:// and name a host')
    if parts.username is not None:
        raise NipapValueError(
            'Invalid url, must not contain a user name or password: all managers of webhooks could read it'
        )
    return text


def _read_secret(value: object) -> str:
    if not isinstance(value, str) or not SHORTEST_SECRET <= len(value) <= LONGEST_SECRET or not value.isprintable():
        raise NipapValueError(
            f'Invalid secret, must be a string of {SHORTEST_SECRET} to {LONGEST_SECRET} printable characters'
        )
    return value


_READERS = {
    'url': _read_url,
    'secret': _read_secret,
    'description': lambda value: None if value is None else _read_text(value),
    'enabled': read_boolean,
}


# ---------------------------------------------------------------- sending


def to_send(tx: Transaction) -> list[Object]:
    """Return the enabled webhooks with their secrets.

    wanted: the `Filter`. again: whether dead letters are due.
    """
    again = 'EXISTS (SELECT FROM dead_letter d WHERE d.webhook_id = webhook.id AND d.again)'
    names = (*_SHOWN, 'secret')
    sql = f'SELECT {", ".join(names)}, {again} FROM webhook WHERE enabled ORDER BY id'
    found = [dict(zip((*names, 'again'), row, strict=True)) for row in tx.all(sql)]
    return [{**item, 'wanted': Filter.of(item)} for item in found]


def pass_by(tx: Transaction, key: int, position: int) -> None:
    """Move the cursor of a webhook to a position without counting a delivery."""
    tx.execute('UPDATE webhook SET cursor = %s WHERE id = %s AND cursor < %s', (position, key, position))


def note_delivered(tx: Transaction, key: int, position: int) -> None:
    """Note the delivery of the event at a position."""
    tx.execute(
        'UPDATE webhook SET cursor = greatest(cursor, %s), delivered = delivered + 1, attempts = 0, '
        'failing_since = NULL, next_attempt = NULL WHERE id = %s',
        (position, key),
    )


def note_failed(tx: Transaction, key: int, error: str, pause_s: float) -> float:
    """Note a failed attempt, to be retried in `pause_s` seconds; return for how many seconds attempts have failed."""
    since = tx.value(
        'UPDATE webhook SET attempts = attempts + 1, failed = failed + 1, last_error = %s, '
        "failing_since = coalesce(failing_since, now()), next_attempt = now() + %s * interval '1 second' "
        'WHERE id = %s RETURNING extract(epoch FROM now() - failing_since)::float8',
        (error, pause_s, key),
    )
    return float(since or 0)


def give_up(tx: Transaction, key: int, given_up: Sequence[tuple[int, bytes]], position: int, error: str) -> None:
    """Turn events (position and JSON) into dead letters, and move the cursor to a position."""
    for number, body in given_up:
        tx.execute(
            'INSERT INTO dead_letter (webhook_id, position, event, error) SELECT id, %s, %s::jsonb, %s FROM webhook '
            'WHERE id = %s AND cursor < %s',
            (number, body.decode(), error, key, number),
        )
    pass_by(tx, key, position)


# ---------------------------------------------------------------- dead letters


def dead_letters(tx: Transaction, key: int, after: int) -> list[Object]:
    """Return dead letters of a webhook with ids above `after`, in order, at most `DEAD_LETTERS_AT_ONCE`."""
    names = ('id', 'event', 'error', 'added', 'again')
    sql = f'SELECT {", ".join(names)} FROM dead_letter WHERE webhook_id = %s AND id > %s ORDER BY id LIMIT %s'
    return [dict(zip(names, row, strict=True)) for row in tx.all(sql, (key, after, DEAD_LETTERS_AT_ONCE))]


def send_again(tx: Transaction, key: int, ids: Sequence[int] | None, who: Who) -> int:
    """Mark dead letters to be sent once more, all when `ids` is None; return their number."""
    before, _ = _locked(tx, key)
    these = '(%s::bigint[] IS NULL OR id = ANY (%s::bigint[]))'
    sql = f'UPDATE dead_letter SET again = true WHERE webhook_id = %s AND {these} RETURNING id'
    listed = None if ids is None else list(ids)
    marked = sorted(int(row[0]) for row in tx.all(sql, (key, listed, listed)))
    if marked:
        _audit(tx, who, key, 'resend', before, {**before, 'dead_letters': marked})
    return len(marked)


def due_again(tx: Transaction, key: int) -> list[tuple[int, Event]]:
    """Return events of dead letters that are marked to be sent once more, with the ids of the letters, in order."""
    sql = 'SELECT id, event FROM dead_letter WHERE webhook_id = %s AND again ORDER BY position, id LIMIT %s'
    return [(int(row[0]), row[1]) for row in tx.all(sql, (key, DEAD_LETTERS_AT_ONCE))]


def note_letter(tx: Transaction, key: int, letter: int, error: str | None) -> None:
    """Remove a delivered dead letter, or note the error of a failed delivery."""
    if error is None:
        tx.execute('DELETE FROM dead_letter WHERE id = %s', (letter,))
        tx.execute('UPDATE webhook SET delivered = delivered + 1 WHERE id = %s', (key,))
    else:
        tx.execute('UPDATE dead_letter SET again = false, error = %s WHERE id = %s', (error, letter))
        tx.execute('UPDATE webhook SET failed = failed + 1 WHERE id = %s', (key,))
