"""Events: positions in an order that readers can follow, even when transactions commit late."""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import psycopg2
import pytest
from support import AUDIT_ENTRIES

from nipap.access.authentication import Actor
from nipap.backend import Backend
from nipap.errors import NipapError
from nipap.history import events, webhook
from nipap.history.events import EventSequencer, Filter
from nipap.history.sequencing import lead
from nipap.postgres import advisory, migrations
from nipap.postgres.database import Database

pytestmark = pytest.mark.slow

Prefix = dict[str, Any]


def read_all(db: Database, after: int = 0) -> list[events.Event]:
    """Return every event as a reader with a cursor sees the events."""
    found: list[events.Event] = []
    while some := db.read(partial(events.read, after=found[-1]['id'] if found else after, limit=7)):
        found += some
    return found


def settled(db: Database) -> int:
    return int(db.read(lambda tx: tx.value('SELECT settled FROM event_state')))


def audit_ids(db: Database) -> set[int]:
    return {row[0] for row in db.read(lambda tx: tx.all('SELECT id FROM audit_log'))}


def sequenced(db: Database) -> list[int]:
    return [row[0] for row in db.read(lambda tx: tx.all('SELECT audit_id FROM event ORDER BY position'))]


@pytest.fixture
def sequencer(db: Database) -> EventSequencer:
    """Return a sequencer that has made its first step."""
    made = EventSequencer()
    assert made.step(db) == 0
    return made


@pytest.fixture
def add(backend: Backend, actor: Actor) -> Callable[..., Prefix]:
    def make(prefix: str, **attr: Any) -> Prefix:
        return backend.add_prefix(actor, {'prefix': prefix, 'type': 'reservation', 'description': 'x', **attr})

    return make


@pytest.fixture
def late(dsn: str) -> Iterator[psycopg2.extensions.connection]:
    """Yield a connection; the test ends its transactions."""
    connection = psycopg2.connect(dsn)
    with connection, connection.cursor() as cursor:
        cursor.execute(migrations.search_path())
    yield connection
    connection.close()


LATE = """INSERT INTO asn (asn, name) VALUES (%s, 'late');
SELECT record_change(('late', 'late', NULL, 'test', NULL, NULL, NULL, NULL, NULL)::actor, 'asn', 'add', %s, NULL,
    '{"name": "late"}')"""


def test_a_change_becomes_an_event(
    db: Database, backend: Backend, actor: Actor, sequencer: EventSequencer, add: Callable[..., Prefix]
) -> None:
    item = add('10.0.0.0/8', tags=['a'])
    backend.edit_prefix(actor, {'id': item['id']}, {'description': 'y'})
    backend.remove_prefix(actor, {'id': item['id']})
    assert sequencer.step(db) == 3
    first, second, third = read_all(db)
    assert [event['id'] for event in (first, second, third)] == [1, 2, 3]
    assert [event['action'] for event in (first, second, third)] == ['add', 'edit', 'remove']
    assert second['object'] == {'kind': 'prefix', 'id': item['id']}
    assert second['actor'] == {
        'username': 'test',
        'authenticated_as': 'test',
        'full_name': 'Test User',
        'authoritative_source': 'test',
    }
    assert (second['before']['description'], second['after']['description']) == ('x', 'y')
    assert second['changes']['description'] == {'before': 'x', 'after': 'y'}
    assert set(second['changes']) <= {'description', 'last_modified'}
    assert (first['before'], third['after']) == (None, None)
    assert first['at'].endswith('Z')


def test_changes_before_the_first_step_are_no_events(db: Database, add: Callable[..., Prefix]) -> None:
    add('10.0.0.0/8')
    sequencer = EventSequencer()
    assert sequencer.step(db) == 0
    add('11.0.0.0/8')
    assert sequencer.step(db) == 1
    assert [event['after']['prefix'] for event in read_all(db)] == ['11.0.0.0/8']


def test_a_late_commit_becomes_a_later_event_and_is_not_lost(
    db: Database, sequencer: EventSequencer, add: Callable[..., Prefix], late: psycopg2.extensions.connection
) -> None:
    with late.cursor() as cursor:
        cursor.execute(LATE, (1, 1))  # has an id, and is not committed
        add('10.0.0.0/8')
        add('11.0.0.0/8')
        before = settled(db)
        assert sequencer.step(db) == 2
        assert sequencer.step(db) == 0
        assert settled(db) == before
        late.commit()
    assert sequencer.step(db) == 1
    kinds = [event['object']['kind'] for event in read_all(db)]
    assert kinds == ['prefix', 'prefix', 'asn']
    assert sequenced(db) == [2, 3, 1]
    assert [sequencer.step(db) for _ in range(3)] == [0, 0, 0]
    assert settled(db) == max(audit_ids(db))


def test_ids_of_rolled_back_entries_are_not_waited_for(
    db: Database, sequencer: EventSequencer, add: Callable[..., Prefix], late: psycopg2.extensions.connection
) -> None:
    with late.cursor() as cursor:
        cursor.execute(LATE, (1, 1))
        late.rollback()
    for _ in range(2):
        sequencer.step(db)
    assert settled(db) == 1
    add('10.0.0.0/8')
    assert sequencer.step(db) == 1


def test_entries_are_settled_as_they_get_positions(db: Database, sequencer: EventSequencer) -> None:
    """Otherwise each step would read the entries of all steps before again."""
    many = events.SEQUENCED_AT_ONCE
    db.run(lambda tx: tx.execute(AUDIT_ENTRIES, (3 * many + 1,)))
    for n in (1, 2, 3):
        assert sequencer.step(db) == many
        assert settled(db) == n * many
    assert sequencer.step(db) == 1
    assert settled(db) == 3 * many + 1


def test_entries_are_settled_though_more_arrive_than_one_step_takes(
    db: Database, sequencer: EventSequencer, late: psycopg2.extensions.connection
) -> None:
    """An import takes minutes, and at least one transaction is always running."""
    many = events.SEQUENCED_AT_ONCE
    for n in range(8):
        db.run(lambda tx: tx.execute(AUDIT_ENTRIES, (many,)))
        with late.cursor() as cursor:
            cursor.execute(LATE, (n + 1, n + 1))
            given = sequencer.step(db)
            late.commit()
        assert given == many
        assert settled(db) >= (n - 2) * (many + 1)


def test_another_sequencer_goes_on(
    db: Database, sequencer: EventSequencer, add: Callable[..., Prefix], late: psycopg2.extensions.connection
) -> None:
    """A killed sequencer leaves nothing behind that another sequencer would need."""
    with late.cursor() as cursor:
        cursor.execute(LATE, (1, 1))
        add('10.0.0.0/8')
        sequencer.step(db)
        other = EventSequencer()
        assert other.step(db) == 0
        late.commit()
    assert other.step(db) == 1
    assert sequenced(db) == [2, 1]


@pytest.mark.parametrize('seed', range(8))
def test_with_many_writers_none_is_lost_and_objects_keep_their_order(
    dsn: str, db: Database, sequencer: EventSequencer, actor: Actor, seed: int
) -> None:
    writers, done = 4, threading.Event()
    failed: list[BaseException] = []

    def write(number: int) -> None:
        chance = random.Random(seed * 100 + number)
        connection = psycopg2.connect(dsn)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(migrations.search_path())
            for n in range(40):
                with connection.cursor() as cursor:
                    for asn in sorted(chance.sample(range(1, 6), chance.randint(1, 3))):  # in the order of locks
                        cursor.execute('UPDATE asn SET name = %s WHERE asn = %s RETURNING name', (f'{number}.{n}', asn))
                        cursor.execute(
                            "SELECT record_change(('w','w',NULL,'w',NULL,NULL,NULL,NULL,NULL)::actor, 'asn', 'edit', "
                            "%s, '{}', "
                            "jsonb_build_object('name', %s::text, 'n', (SELECT nextval('counts'))))",
                            (asn, f'{number}.{n}'),
                        )
                    (connection.rollback if chance.random() < 0.2 else connection.commit)()
        except BaseException as error:
            failed.append(error)
        finally:
            connection.close()

    db.run(lambda tx: tx.execute('CREATE SEQUENCE counts'))
    db.run(lambda tx: tx.execute("INSERT INTO asn SELECT n, 'x' FROM generate_series(1, 5) n"))
    threads = [threading.Thread(target=write, args=(n,)) for n in range(writers)]
    for thread in threads:
        thread.start()
    threading.Thread(target=lambda: ([thread.join() for thread in threads], done.set())).start()
    seen: list[events.Event] = []
    over = False
    while not over:
        over = done.is_set()
        sequencer.step(db)
        seen += read_all(db, seen[-1]['id'] if seen else 0)
    db.run(lambda tx: tx.execute('DROP SEQUENCE counts'))
    assert failed == []
    assert set(sequenced(db)) == audit_ids(db)
    assert len(seen) == len(audit_ids(db))
    assert [event['id'] for event in seen] == list(range(1, len(seen) + 1))
    for asn in range(1, 6):
        # The numbers were drawn while the object was locked, so they are in the order of its changes.
        counts = [event['after']['n'] for event in seen if event['object']['id'] == asn]
        assert counts == sorted(counts)
    for _ in range(2):
        sequencer.step(db)
    assert settled(db) >= max(audit_ids(db))


def test_one_session_leads(dsn: str) -> None:
    leads = partial(lead, lock=advisory.DELIVERY)
    first, second = Database(dsn, most_sessions=1), Database(dsn, most_sessions=1)
    assert first.read(leads)
    assert first.read(leads)
    assert not second.read(leads)
    first.close()
    waited = 0
    while not second.read(leads):  # the server takes its time to notice the end of a session
        waited += 1
        assert waited < 10_000
    second.close()


def test_changes_of_webhooks_are_no_events(
    db: Database, backend: Backend, actor: Actor, sequencer: EventSequencer, add: Callable[..., Prefix]
) -> None:
    """Every user may read events, and a webhook that received its own changes would never come to an end."""
    sequencer.step(db)
    trusted = dataclasses.replace(actor, trusted=True)
    hook = backend.add_webhook(trusted, {'url': 'http://localhost/', 'secret': 's' * 16})['id']
    first = add('10.0.0.0/8')['id']
    backend.edit_webhook(trusted, {'id': hook}, {'enabled': False})
    backend.remove_webhook(trusted, {'id': hook})
    for _ in range(5):
        sequencer.step(db)
    found = db.read(lambda tx: events.read(tx, 0))
    assert [(event['object']['kind'], event['object']['id'], event['id']) for event in found] == [('prefix', first, 1)]
    settled, last = db.read(lambda tx: tx.one('SELECT settled, (SELECT max(id) FROM audit_log) FROM event_state'))
    assert settled == last, 'they are not looked at for ever'


def test_old_events_are_removed_once_all_receivers_have_them(
    db: Database, sequencer: EventSequencer, actor: Actor, add: Callable[..., Prefix]
) -> None:
    hook = db.run(lambda tx: webhook.add(tx, {'url': 'http://localhost/', 'secret': 's' * 16}, actor.who))
    for n in range(3):
        add(f'{n + 10}.0.0.0/8')
    for _ in range(3):
        sequencer.step(db)
    db.run(lambda tx: tx.execute("UPDATE event SET created = now() - interval '3 hours' WHERE position < 3"))
    assert db.run(lambda tx: events.remove_old(tx, 2, kafka=False)) == 0
    db.run(lambda tx: webhook.pass_by(tx, hook, 1))
    assert db.run(lambda tx: events.remove_old(tx, 2, kafka=False)) == 1
    assert db.read(events.bounds).removed == 1
    db.run(lambda tx: webhook.pass_by(tx, hook, 3))
    assert db.run(lambda tx: events.remove_old(tx, 2, kafka=False)) == 1
    assert [event['id'] for event in read_all(db)] == [3]
    assert sequencer.step(db) == 0
    assert len(audit_ids(db)) == 4, 'the log has them, and the webhook'


def test_dead_letters_are_kept_for_thirty_days(db: Database, actor: Actor) -> None:
    hook = db.run(lambda tx: webhook.add(tx, {'url': 'http://localhost/', 'secret': 's' * 16}, actor.who))
    ages = [1, 30 * 24 - 1, 30 * 24 + 1]
    sql = """INSERT INTO dead_letter (webhook_id, position, event, error, added)
        SELECT %s, 1, '{}', '', now() - hours * interval '1 hour' FROM unnest(%s) hours"""
    db.run(lambda tx: tx.execute(sql, (hook, ages)))
    db.run(lambda tx: events.remove_old(tx, 2, kafka=False))
    kept = 'SELECT round(extract(epoch FROM now() - added) / 3600)::int FROM dead_letter ORDER BY id'
    assert db.read(lambda tx: tx.all(kept)) == [(hours,) for hours in ages[:2]]


def test_disabled_webhooks_are_no_receivers(
    db: Database, sequencer: EventSequencer, add: Callable[..., Prefix], actor: Actor
) -> None:
    hook = db.run(lambda tx: webhook.add(tx, {'url': 'http://localhost/', 'secret': 's' * 16}, actor.who))
    db.run(events.kafka_cursor)
    add('10.0.0.0/8')
    sequencer.step(db)

    def pending(kafka: bool) -> dict[str, int]:
        told = db.read(lambda tx: events.receivers(tx, kafka=kafka))
        return {each['name']: each['pending'] for each in told}

    assert pending(True) == {'kafka': 1, f'webhook-{hook}': 1}
    assert pending(False) == {f'webhook-{hook}': 1}
    db.run(lambda tx: webhook.edit(tx, hook, {'enabled': False}, actor.who))
    assert pending(True) == {'kafka': 1}


@pytest.mark.parametrize(
    ('wanted', 'positions'),
    [
        ({}, [1, 2, 3, 4, 5]),
        ({'kinds': ['vrf', 'pool']}, [1, 2]),
        ({'tags': ['t']}, [3, 4]),
        ({'vrf_ids': [1]}, [1, 3, 4]),
        ({'pool_ids': [1]}, [2, 3, 4]),
        ({'pool_ids': [1], 'kinds': ['prefix']}, [3, 4]),
        ({'vrf_ids': [1], 'pool_ids': [2]}, []),
    ],
)
def test_filters(
    db: Database,
    backend: Backend,
    actor: Actor,
    sequencer: EventSequencer,
    add: Callable[..., Prefix],
    wanted: dict[str, Any],
    positions: list[int],
) -> None:
    vrf = backend.add_vrf(actor, {'rt': '1:1', 'name': 'one'})
    pool = backend.add_pool(actor, {'name': 'one', 'description': 'd', 'default_type': 'assignment'})
    assert (vrf['id'], pool['id']) == (1, 1)
    item = add('10.0.0.0/8', vrf_id=1, pool_id=1, tags=['t'])
    backend.edit_prefix(actor, {'id': item['id']}, {'pool_id': None, 'tags': []})
    add('11.0.0.0/8')
    sequencer.step(db)
    empty: dict[str, list[Any]] = {'kinds': [], 'vrf_ids': [], 'pool_ids': [], 'tags': []}
    chosen = Filter.of({**empty, **wanted})
    assert [event['id'] for event in read_all(db) if chosen.wants(event)] == positions


@pytest.mark.parametrize(
    ('attr', 'named'),
    [
        ({'url': 'ftp://x/'}, 'url'),
        ({'url': 'http:///x'}, 'url'),
        ({'url': 'http://a:b@x/'}, 'url'),
        ({'url': 'http://x/\n'}, 'url'),
        ({'url': 'http://[x/'}, 'url'),
        ({'url': None}, 'url'),
        ({'secret': 'short'}, 'secret'),
        ({'kinds': ['dog']}, 'kinds'),
        ({'kinds': 'vrf'}, 'kinds'),
        ({'vrf_ids': ['x']}, 'vrf_ids'),
        ({'tags': ['']}, 'tags'),
        ({'enabled': 'maybe'}, 'enabled'),
        ({'cursor': 1}, 'cursor'),
    ],
)
def test_attributes_of_a_webhook_are_checked(attr: dict[str, Any], named: str) -> None:
    with pytest.raises(NipapError) as caught:
        webhook.read(attr)
    assert caught.value.attribute == named
