"""Events: the entries of the audit log in an order that receivers can follow.

An entry is written in the transaction of its change. The order of ids is not the order of commits, so a receiver that
followed ids would miss entries that are committed late. Therefore the `EventSequencer` gives each entry a position
once it is committed (`nipap.history.sequencing`). The entries of one object are in the order of its changes, because
changes of one object wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from nipap.history.sequencing import IS_OVER, Sequencer
from nipap.postgres.database import Database
from nipap.postgres.transaction import Row, Transaction

Event = dict[str, Any]

KINDS = ('vrf', 'pool', 'prefix', 'asn')
AT_ONCE = 500
SEQUENCED_AT_ONCE = 2000
REMOVED_AT_ONCE = 5000
DEAD_LETTER_DAYS = 30

_LAST_ID = '(SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM audit_log_id_seq)'
# Audit entries about other kinds of objects are no events.
_KINDS = ', '.join(f"'{kind}'" for kind in KINDS)
# The id is compared on both sides. Otherwise a merge join of the two tables reads all events.
_NEW = f"""a.id > %s AND a.object_type IN ({_KINDS})
    AND NOT EXISTS (SELECT FROM event e WHERE e.audit_id = a.id AND e.audit_id > %s)"""
_LOOK = f'SELECT s.settled, s.last_position, {_LAST_ID} FROM event_state s'
_HAS_NEW = f'SELECT EXISTS (SELECT FROM audit_log a WHERE {_NEW})'
_SEQUENCE = f"""WITH given AS (INSERT INTO event (position, audit_id)
SELECT %s + row_number() OVER (ORDER BY id), id
FROM (SELECT a.id FROM audit_log a WHERE {_NEW} ORDER BY a.id LIMIT {SEQUENCED_AT_ONCE}) new RETURNING audit_id)
SELECT count(*), max(audit_id) FROM given"""
# OFFSET makes PostgreSQL look up each entry by its key: a join could read the whole log.
_READ = """SELECT e.position, a.at, a.username, a.authenticated_as, a.full_name, a.authoritative_source,
    a.object_type, a.object_id, a.action, a.before, a.after
FROM (SELECT position, audit_id FROM event WHERE position > %s ORDER BY position LIMIT %s) e
CROSS JOIN LATERAL (SELECT * FROM audit_log WHERE id = e.audit_id OFFSET 0) a ORDER BY e.position"""

# The oldest events have the lowest positions, so only the first events are checked for their age.
_REMOVE = """WITH gone AS (DELETE FROM event WHERE position IN (
    SELECT position FROM (SELECT * FROM event ORDER BY position LIMIT %s) first WHERE position <= %s AND audit_id <= %s
    AND created < now() - %s * interval '1 hour') RETURNING position)
UPDATE event_state SET removed = (SELECT max(position) FROM gone) WHERE EXISTS (SELECT FROM gone)"""


# ---------------------------------------------------------------- the order


class EventSequencer(Sequencer):
    """The sequencer of events. It gives at most `SEQUENCED_AT_ONCE` positions at a time."""

    look = _LOOK
    has_new = _HAS_NEW

    def step(self, db: Database) -> int:
        """Give positions to new entries; return their number. Entries from before the first step ever are no events."""
        begin(db)
        return super().step(db)

    def sequence(self, tx: Transaction, noted: tuple[int, int]) -> tuple[int, int]:
        """Give positions to new entries; return their number, and the highest position."""
        settled, last_position = tx.one('SELECT settled, last_position FROM event_state FOR UPDATE') or (0, 0)
        # This statement comes before the next one, so that the snapshot of the next one has all settled entries.
        is_over = tx.value(IS_OVER, (noted[1],))
        given, highest = tx.one(_SEQUENCE, (last_position, settled, settled)) or (0, None)
        if is_over:
            # Entries above the highest that got a position may still have none. `settled` has to advance even while
            # entries arrive faster than they get positions, because each step reads all entries above it.
            settled = max(settled, noted[0] if given < SEQUENCED_AT_ONCE else min(highest, noted[0]))
        tx.execute('UPDATE event_state SET settled = %s, last_position = last_position + %s', (settled, given))
        return given, last_position + given


def begin(db: Database) -> None:
    """Make later changes become events, unless an earlier call has done so."""
    if db.read(lambda tx: tx.value('SELECT settled FROM event_state')) is None:
        db.run(lambda tx: tx.execute(f'UPDATE event_state SET settled = {_LAST_ID} WHERE settled IS NULL'))


@dataclass(frozen=True)
class Bounds:
    """The positions between which events can be read.

    removed: the highest removed position. oldest: the position before the first kept event. newest: the highest
    position given so far.
    """

    removed: int
    oldest: int
    newest: int


_BOUNDS = """SELECT removed, coalesce((SELECT min(position) - 1 FROM event), last_position), last_position
FROM event_state"""


def bounds(tx: Transaction) -> Bounds:
    """Return the bounds of the kept events."""
    return Bounds(*(tx.one(_BOUNDS) or (0, 0, 0)))


def last_position(tx: Transaction) -> int:
    """Return the highest position given so far."""
    return int(tx.value('SELECT last_position FROM event_state') or 0)


def remove_old(tx: Transaction, hours: int, *, kafka: bool) -> int:
    """Remove some events that are older than `hours` and delivered to all receivers; return 1 if there were any.

    Dead letters are removed after `DEAD_LETTER_DAYS`. kafka: whether Kafka is a receiver.
    """
    waiting_for = 'SELECT min(cursor) FROM webhook WHERE enabled'
    settled, last, kafka_cursor, hooks = tx.one(
        f'SELECT settled, last_position, kafka_cursor, ({waiting_for}) FROM event_state FOR UPDATE'
    ) or (0, 0, 0, 0)
    floor = min([last, *(cursor for cursor in (hooks, kafka_cursor if kafka else None) if cursor is not None)])
    tx.execute("DELETE FROM dead_letter WHERE added < now() - %s * interval '1 day'", (DEAD_LETTER_DAYS,))
    return tx.execute(_REMOVE, (REMOVED_AT_ONCE, floor, settled, hours))


# ---------------------------------------------------------------- reading


def read(tx: Transaction, after: int, limit: int = AT_ONCE) -> list[Event]:
    """Return events after a position, in order, at most `limit`."""
    return [_event(row) for row in tx.all(_READ, (after, limit))]


def _event(row: Row) -> Event:
    position, at, username, authenticated_as, full_name, source, kind, key, action, before, after = row
    drop_versions(before, after)
    return {
        'id': position,
        'at': at.isoformat().replace('+00:00', 'Z'),
        'actor': {
            'username': username,
            'authenticated_as': authenticated_as,
            'full_name': full_name,
            'authoritative_source': source,
        },
        'action': action,
        'object': {'kind': kind, 'id': key},
        'before': before,
        'after': after,
        'changes': changes(before or {}, after or {}),
    }


def drop_versions(*states: dict[str, Any] | None) -> None:
    """Remove the version from stored states, in place. Programs before versions write the whole row."""
    for state in states:
        if state is not None:
            state.pop('version', None)


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the attributes that differ, each with its value before and after. A missing value is None."""
    found = {}
    for name, old in before.items():
        new = after.get(name)
        if old != new:
            found[name] = {'before': old, 'after': new}
    for name, new in after.items():
        if new is not None and name not in before:
            found[name] = {'before': None, 'after': new}
    return found


@dataclass(frozen=True)
class Filter:
    """A filter of events. For each condition that is not empty, the object must have one of the values.

    The object matches in its state before or after the change, so a receiver that follows a pool also gets the event
    of a prefix that leaves the pool.
    """

    kinds: frozenset[str] = frozenset()
    vrf_ids: frozenset[int] = frozenset()
    pool_ids: frozenset[int] = frozenset()
    tags: frozenset[str] = frozenset()

    @classmethod
    def of(cls, item: Mapping[str, Iterable[Any]]) -> Filter:
        """Return the filter with the values in a struct."""
        return cls(*(frozenset(item[name]) for name in ('kinds', 'vrf_ids', 'pool_ids', 'tags')))

    def wants(self, event: Event) -> bool:
        """Return whether an event passes the filter."""
        kind = event['object']['kind']
        states = [state for state in (event['before'], event['after']) if state]
        if self.kinds and kind not in self.kinds:
            return False
        if self.tags and not any(self.tags.intersection(state.get('tags') or ()) for state in states):
            return False
        return _concerns(event, states, 'vrf', self.vrf_ids) and _concerns(event, states, 'pool', self.pool_ids)


def _concerns(event: Event, states: list[dict[str, Any]], kind: str, wanted: frozenset[int]) -> bool:
    """Return whether the object of an event is one of the wanted objects of a kind, or belongs to one."""
    if not wanted or (event['object']['kind'] == kind and event['object']['id'] in wanted):
        return True
    return any(state.get(f'{kind}_id') in wanted for state in states)


def seconds_of(event: Event) -> float:
    """Return the time of an event, in seconds since 1970."""
    return datetime.fromisoformat(event['at']).timestamp()


# ---------------------------------------------------------------- progress of receivers


def kafka_cursor(tx: Transaction) -> int:
    """Return the position up to which Kafka has the events. Kafka begins with the events after its first use."""
    tx.execute('UPDATE event_state SET kafka_cursor = last_position WHERE kafka_cursor IS NULL')
    return int(tx.value('SELECT kafka_cursor FROM event_state'))


def note_kafka(tx: Transaction, position: int | None, delivered: int, *, failed: bool) -> None:
    """Note the progress of Kafka: the last confirmed position, if any, a number of delivered events, and a failure."""
    tx.execute(
        'UPDATE event_state SET kafka_cursor = greatest(kafka_cursor, %s), kafka_delivered = kafka_delivered + %s, '
        'kafka_failed = kafka_failed + %s',
        (position, delivered, int(failed)),
    )


_RECEIVERS = """SELECT 'kafka', kafka_cursor, kafka_delivered, kafka_failed, last_position FROM event_state
WHERE kafka_cursor IS NOT NULL AND %s
UNION ALL SELECT 'webhook-' || id, cursor, delivered, failed, last_position FROM webhook, event_state WHERE enabled
ORDER BY 1"""


def receivers(tx: Transaction, *, kafka: bool) -> list[dict[str, Any]]:
    """Return the receivers with their numbers of pending events, delivered events and failures.

    Receivers are the enabled webhooks, and Kafka if `kafka` is true.
    """
    return [
        {'name': name, 'pending': max(0, last - cursor), 'delivered': delivered, 'failed': failed}
        for name, cursor, delivered, failed, last in tx.all(_RECEIVERS, (kafka,))
    ]
