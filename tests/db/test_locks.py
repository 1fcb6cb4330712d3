"""The rows that a change locks and their order, and the changes that are run again because others came first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import psycopg2.errors
import pytest
from daemon_process import poll
from support import connection_of

from nipap.access.authentication import Actor
from nipap.backend import Backend
from nipap.integrity import check
from nipap.postgres.database import Database
from nipap.postgres.transaction import Inside, Transaction

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
WHO = ('test', 'test', None, 'test', None, None, None, None, None)
PATIENCE_S = 20


@pytest.fixture
def other(dsn: str) -> Iterator[Database]:
    """Yield the database for a second session."""
    database = Database(dsn)
    yield database
    database.close()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as executor:
        yield executor


Start = Callable[..., Future[Any]]


@pytest.fixture
def start_waiting(threads: ThreadPoolExecutor, db: Database) -> Start:
    """Return a function that starts work in a thread, and returns once the work waits for a lock."""

    def start(work: Callable[..., Any], *args: Any) -> Future[Any]:
        running = threads.submit(work, *args)
        poll(lambda: db.read(lambda tx: tx.value(WAITING)) == 1, PATIENCE_S, lambda: 'does not wait for a lock')
        return running

    return start


@pytest.fixture
def add(backend: Backend, actor: Actor) -> Callable[..., int]:
    """Return a function that adds a reservation and returns its id."""

    def add(prefix: str, **attr: Any) -> int:
        attr = {'prefix': prefix, 'type': 'reservation', 'description': prefix, **attr}
        i: int = backend.add_prefix(actor, attr)['id']
        return i

    return add


Add = Callable[..., int]


def make_pool(backend: Backend, actor: Actor, name: str) -> int:
    attr = {'name': name, 'description': name, 'default_type': 'assignment', 'ipv4_default_prefix_length': 28}
    i: int = backend.add_pool(actor, attr)['id']
    return i


def hold(tx: Transaction, table: str, i: int) -> None:
    tx.execute(f'SELECT FROM {table} WHERE id = %s FOR NO KEY UPDATE', (i,))


def is_locked(db: Database, table: str, i: int) -> bool:
    free = f'SELECT count(*) FROM (SELECT FROM {table} WHERE id = %s FOR NO KEY UPDATE SKIP LOCKED) q'
    return db.run(lambda tx: tx.value(free, (i,))) == 0


def has_to_be_run_again(db: Database, statement: str, *params: Any) -> bool:
    """Return whether a statement fails in the way that makes the program run the call again."""
    connection = connection_of(db)
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement, params)
        return False
    except psycopg2.errors.SerializationFailure:
        return True
    finally:
        connection.rollback()


@pytest.mark.parametrize('attr', [{}, {'prefix': '10.0.1.0/24'}], ids=['in place', 'moved'])
def test_a_change_of_pool_locks_both_pools_by_id(
    backend: Backend, actor: Actor, db: Database, other: Database, start_waiting: Start, add: Add, attr: dict[str, str]
) -> None:
    first, second = (make_pool(backend, actor, name) for name in ('p', 'q'))
    member = add('10.0.0.0/24', pool_id=second)

    def work(tx: Transaction) -> Future[Any]:
        hold(tx, 'pool', second)
        running = start_waiting(backend.edit_prefix, actor, {'id': member}, {'pool_id': first, **attr})
        assert is_locked(db, 'pool', first)
        return running

    (edited,) = other.run(work).result()
    assert edited['pool_id'] == first


def test_an_addition_of_many_waits_for_a_change_below_the_same_prefix(
    backend: Backend, actor: Actor, db: Database, other: Database, start_waiting: Start, add: Add
) -> None:
    add('10.0.0.0/24')
    many = [{'prefix': f'10.0.0.{i}/28', 'type': 'assignment', 'description': 'd'} for i in (64, 80)]

    def work(tx: Transaction) -> Future[Any]:
        one = {'prefix': '10.0.0.0/26', 'type': 'assignment', 'description': 'd'}
        Backend(Inside(tx)).add_prefix(actor, one)
        return start_waiting(backend.add_prefixes, actor, many)

    assert [row['prefix'] for row in other.run(work).result()] == ['10.0.0.64/28', '10.0.0.80/28']
    assert list(check.problems(db)) == []


def test_a_recursive_removal_locks_prefixes_that_were_added_meanwhile(
    actor: Actor, db: Database, other: Database, start_waiting: Start, add: Add
) -> None:
    add('10.0.0.0/8')
    add('10.0.0.0/16')
    added: list[int] = []

    def remove(tx: Transaction) -> bool:
        tx.execute("SELECT lock_inside(0, '10.0.0.0/8')")
        return is_locked(db, 'prefix', added[0])

    def work(tx: Transaction) -> Future[Any]:
        attr = {'prefix': '10.0.1.0/24', 'type': 'reservation', 'description': 'd'}
        added.append(Backend(Inside(tx)).add_prefix(actor, attr)['id'])
        return start_waiting(other.run, remove)

    assert other.run(work).result()


def test_a_recursive_removal_waits_for_no_prefix_outside(
    backend: Backend, actor: Actor, other: Database, threads: ThreadPoolExecutor, add: Add
) -> None:
    add('10.0.0.0/8')
    add('10.0.0.0/16')
    outside = add('11.0.0.0/8')

    def work(tx: Transaction) -> None:
        hold(tx, 'prefix', outside)
        threads.submit(backend.remove_prefix, actor, {'prefix': '10.0.0.0/8'}, True).result(PATIENCE_S)

    other.run(work)
    assert [row['id'] for row in backend.list_prefix(actor)] == [outside]


def test_an_edit_of_a_pool_begins_again_with_a_member_that_was_added_meanwhile(
    backend: Backend, actor: Actor, other: Database, start_waiting: Start, add: Add
) -> None:
    pool = make_pool(backend, actor, 'p')
    add('10.0.0.0/24', pool_id=pool)
    runs: list[int] = []

    def lock(tx: Transaction) -> None:
        runs.append(pool)
        tx.execute('SELECT lock_pool_members(%s)', (pool,))

    def work(tx: Transaction) -> Future[Any]:
        attr = {'prefix': '10.9.0.0/24', 'type': 'reservation', 'description': 'd', 'pool_id': pool}
        Backend(Inside(tx)).add_prefix(actor, attr)
        return start_waiting(other.run, lock)

    other.run(work).result()
    assert len(runs) == 2


@pytest.mark.parametrize(
    'sources', [['10.0.0.0/30'], ['192.0.2.0/24']], ids=['without the new member', 'of a former member']
)
def test_an_allocation_from_members_that_have_changed_is_run_again(
    backend: Backend, actor: Actor, db: Database, add: Add, sources: list[str]
) -> None:
    pool = make_pool(backend, actor, 'p')
    for member in ('10.0.0.0/30', '10.1.0.0/16'):
        add(member, pool_id=pool)
    add('192.0.2.0/24')
    allocate = "SELECT prefix_allocate(0, %s, %s::cidr[], 28, '{}', %s::actor)"
    assert has_to_be_run_again(db, allocate, pool, sources, WHO)


def test_an_edit_of_many_that_would_move_them_is_run_again(db: Database, add: Add) -> None:
    ids = [add('10.0.0.0/8'), add('11.0.0.0/8')]
    edit = 'SELECT prefix_edit_many(%s, %s, %s::actor)'
    assert has_to_be_run_again(db, edit, ids, '{"type": "assignment"}', WHO)
    assert not has_to_be_run_again(db, edit, ids, '{"description": "new"}', WHO)
