"""Positions of change sets: the state behind each position has existed, and moments only grow."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator

import psycopg2
import pytest

from nipap.access.authentication import Actor
from nipap.backend import Backend
from nipap.history.change_order import ChangeSequencer
from nipap.integrity import check
from nipap.postgres import migrations
from nipap.postgres.database import Database

WHO = ('w', 'w', None, 'w', None, None, None, None, None)
EDIT = "SELECT record_change(%s::actor, 'asn', 'edit', %s, '{}', jsonb_build_object('name', %s::text))"

Open = Callable[[], psycopg2.extensions.connection]


@pytest.fixture
def sequencer() -> ChangeSequencer:
    return ChangeSequencer()


@pytest.fixture
def opened(dsn: str) -> Iterator[Open]:
    """Yield a function that opens connections; the test ends their transactions."""
    connections = []

    def open_one() -> psycopg2.extensions.connection:
        connection = psycopg2.connect(dsn)
        connections.append(connection)
        with connection, connection.cursor() as cursor:
            cursor.execute(migrations.search_path())
        return connection

    yield open_one
    for connection in connections:
        connection.close()


def edit(connection: psycopg2.extensions.connection, asn: int, name: str = 'x') -> None:
    """Change an AS number, which is locked before its entry is written, like every object."""
    with connection.cursor() as cursor:
        cursor.execute('UPDATE asn SET name = %s WHERE asn = %s', (name, asn))
        cursor.execute(EDIT, (WHO, asn, name))


def order(db: Database) -> list[int]:
    """Return the numbers of change sets in the order of their positions."""
    found = db.read(lambda tx: tx.all('SELECT position, change_set, moment FROM change_order ORDER BY position'))
    assert [position for position, _, _ in found] == list(range(1, len(found) + 1))
    moments = [moment for _, _, moment in found]
    assert moments == sorted(set(moments))
    return [number for _, number, _ in found]


def settled(db: Database) -> int:
    return int(db.read(lambda tx: tx.value('SELECT settled FROM change_state')))


def add(backend: Backend, actor: Actor, *asns: int) -> None:
    for asn in asns:
        backend.add_asn(actor, {'asn': asn})


def test_each_change_set_gets_a_position(
    db: Database, backend: Backend, actor: Actor, sequencer: ChangeSequencer
) -> None:
    assert sequencer.step(db) == 0
    add(backend, actor, 1, 2)
    assert sequencer.step(db) == 2
    add(backend, actor, 3)
    assert sequencer.step(db) == 1
    assert order(db) == [1, 2, 3]
    assert sequencer.last_position == 3
    assert sequencer.step(db) == 0
    assert settled(db) == 3
    assert check.problems(db) == []


def test_a_change_set_that_is_committed_late_comes_later(
    db: Database, backend: Backend, actor: Actor, sequencer: ChangeSequencer, opened: Open
) -> None:
    add(backend, actor, 1)
    late = opened()
    edit(late, 1)
    add(backend, actor, 2)
    assert sequencer.step(db) == 2
    assert sequencer.step(db) == 0
    assert settled(db) < 2, 'it waits for the second'
    late.commit()
    assert sequencer.step(db) == 1
    assert order(db) == [1, 3, 2]
    sequencer.step(db)
    assert settled(db) == 3


def test_numbers_of_rolled_back_change_sets_are_not_waited_for(
    db: Database, backend: Backend, actor: Actor, sequencer: ChangeSequencer, opened: Open
) -> None:
    add(backend, actor, 1)
    late = opened()
    edit(late, 1)
    late.rollback()
    for _ in range(2):
        sequencer.step(db)
    assert settled(db) == 2
    add(backend, actor, 2)
    assert sequencer.step(db) == 1
    assert order(db) == [1, 3]


def test_a_change_set_that_waited_for_another_follows_it(
    db: Database, backend: Backend, actor: Actor, sequencer: ChangeSequencer, opened: Open
) -> None:
    """Both change sets become visible at once; the later one has the lower number: its call began before the wait."""
    add(backend, actor, 1, 2)
    sequencer.step(db)
    first, second = opened(), opened()
    edit(first, 1)
    edit(second, 2)
    second.commit()
    edit(first, 2)
    first.commit()
    assert sequencer.step(db) == 2
    assert order(db) == [1, 2, 4, 3]


def test_moments_grow_whatever_the_clock_does(
    db: Database, backend: Backend, actor: Actor, sequencer: ChangeSequencer
) -> None:
    add(backend, actor, 1)
    sequencer.step(db)
    for table in ('change_state', 'change_order'):
        ahead = f"UPDATE {table} SET moment = '2100-01-01T00:00:00Z'"
        db.run(lambda tx, ahead=ahead: tx.execute(ahead))
    add(backend, actor, 2, 3)
    sequencer.step(db)
    assert order(db) == [1, 2, 3]
    last = "SELECT moment - '2100-01-01T00:00:00Z' = interval '2 microseconds' FROM change_order WHERE position = 3"
    assert db.read(lambda tx: tx.value(last))
    assert check.problems(db) == []


def test_the_moment_is_the_time_of_the_step_that_saw_the_commit(
    db: Database, backend: Backend, actor: Actor, sequencer: ChangeSequencer
) -> None:
    before = db.read(lambda tx: tx.value('SELECT clock_timestamp()'))
    add(backend, actor, 1)
    between = db.read(lambda tx: tx.value('SELECT clock_timestamp()'))
    sequencer.step(db)
    after = db.read(lambda tx: tx.value('SELECT clock_timestamp()'))
    at, moment = db.read(
        lambda tx: tx.one('SELECT at, moment FROM change_set s JOIN change_order o ON o.change_set = s.id') or (0, 0)
    )
    assert before < at < between < moment < after


@pytest.mark.parametrize('seed', range(4))
def test_with_many_writers_none_is_lost_and_objects_keep_their_order(
    db: Database, backend: Backend, actor: Actor, sequencer: ChangeSequencer, opened: Open, seed: int
) -> None:
    writers, done = 4, threading.Event()
    failed: list[BaseException] = []
    add(backend, actor, *range(1, 6))

    def write(connection: psycopg2.extensions.connection, chance: random.Random) -> None:
        try:
            for n in range(30):
                for asn in sorted(chance.sample(range(1, 6), chance.randint(1, 3))):  # in the order of locks
                    edit(connection, asn, str(n))
                (connection.rollback if chance.random() < 0.2 else connection.commit)()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(opened(), random.Random(seed * 9 + n))) for n in range(writers)]
    for thread in threads:
        thread.start()
    threading.Thread(target=lambda: ([thread.join() for thread in threads], done.set())).start()
    other = ChangeSequencer()
    over = False
    while not over:
        over = done.is_set()
        sequencer.step(db)
        other.step(db)
    assert failed == []
    sequencer.step(db)
    places = {number: position for position, number in enumerate(order(db))}
    entries = db.read(lambda tx: tx.all('SELECT object_id, change_set FROM audit_log ORDER BY id'))
    assert {number for _, number in entries} == places.keys()
    for asn in range(1, 6):
        # Entries of one object are in the order of its changes, as these changes wait for each other.
        positions = [places[number] for key, number in entries if key == asn]
        assert positions == sorted(positions)
    assert check.problems(db) == []
