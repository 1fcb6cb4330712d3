"""The partitions of the audit log: made ahead, cut with the month, detached when old, and no entry is ever lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import psycopg2
import psycopg2.errors
import pytest
from support import AUDIT_ENTRIES

from nipap.access.authentication import Actor
from nipap.backend import Backend
from nipap.calls import Request
from nipap.errors import NipapNonExistentError, NipapValueError
from nipap.history import partitions
from nipap.history.change_order import ChangeSequencer
from nipap.history.events import EventSequencer
from nipap.history.spans import SPAN, Spans
from nipap.integrity import check
from nipap.postgres import advisory, migrations, schema
from nipap.postgres.database import Database, LockNotAvailable
from nipap.postgres.transaction import Transaction

pytestmark = pytest.mark.slow

SIZE = 10_000_000


@pytest.fixture
def db(empty_dsn: str) -> Iterator[Database]:
    """Yield a database whose partitions the test may change."""
    database = Database(empty_dsn)
    schema.migrate(database)
    yield database
    database.close()


@pytest.fixture
def opened(empty_dsn: str, db: Database) -> Iterator[Callable[[], psycopg2.extensions.connection]]:
    """Yield a function that opens connections; the test ends their transactions."""
    connections = []

    def open_one() -> psycopg2.extensions.connection:
        connection = psycopg2.connect(empty_dsn)
        connections.append(connection)
        with connection, connection.cursor() as cursor:
            cursor.execute(migrations.search_path())
        return connection

    yield open_one
    for connection in connections:
        connection.close()


def now() -> datetime:
    return datetime.now(UTC)


def in_months(months: int) -> datetime:
    """Return a moment in the middle of the month that begins so many months after this one."""
    return now().replace(day=15) + timedelta(days=30.44 * months)


def write(db: Database, entries: int = 1) -> None:
    """Write some entries, all of one change set."""
    db.run(lambda tx: tx.value(AUDIT_ENTRIES, (entries,)))


def step(db: Database, moment: datetime, months: int = 0) -> str | None:
    """Take one step of the upkeep with a clock that shows this moment."""

    def work(tx: Transaction) -> str | None:
        tx.execute("SET LOCAL lock_timeout = '100ms'")
        done: str | None = tx.value('SELECT keep_partitions_at(%s, %s)', (moment, months))
        return done

    return db.run(work)


def keep(db: Database, moment: datetime, months: int = 0) -> list[str]:
    """Take all steps that are due at a moment; return their descriptions."""
    found: list[str] = []
    while done := step(db, moment, months):
        found.append(done)
        assert len(found) < 20, found
    return found


def settle(db: Database) -> None:
    """Have all entries in spans, all change sets in order, and no event that is yet to be delivered."""
    changes, spans, feed = ChangeSequencer(), Spans(), EventSequencer()
    for _ in range(3):
        changes.step(db)
        feed.step(db)
    for _ in range(2):
        while spans.step(db):
            pass
    while spans.step(db):
        pass
    db.run(lambda tx: tx.execute('DELETE FROM event'))


def places(db: Database) -> dict[str, tuple[int, int]]:
    """Return the partitions, each with its first id and the id after its last one."""
    return {
        name: (first, end)
        for name, first, end in db.read(lambda tx: tx.all('SELECT name, first_id, end_id FROM audit_partitions()'))
    }


def stored(db: Database) -> dict[str, list[int]]:
    """Return the ids of the entries by partition."""
    sql = 'SELECT tableoid::regclass::text, array_agg(id ORDER BY id) FROM audit_log GROUP BY 1'
    return dict(db.read(lambda tx: tx.all(sql)))


# ---------------------------------------------------------------- months


def test_a_month_begins_a_partition(db: Database) -> None:
    write(db, 3)
    assert keep(db, now()) == []
    assert keep(db, in_months(1)) == ['audit_log_1 ends with its month', 'audit_log_3 is the next partition']
    write(db, 2)
    assert stored(db) == {'audit_log_1': [1, 2, 3], 'audit_log_2': [SIZE, SIZE + 1]}
    assert places(db) == {
        'audit_log_1': (0, SIZE),
        'audit_log_2': (SIZE, 2 * SIZE),
        'audit_log_3': (2 * SIZE, 3 * SIZE),
    }
    assert check.problems(db) == []


def test_the_month_is_that_of_utc(db: Database) -> None:
    """The last second of a month is in it, and the first second of the next one is not, wherever the session is."""
    write(db)
    db.run(
        lambda tx: tx.execute(
            "UPDATE audit_log SET at = '2026-01-10 12:00:00Z'; UPDATE change_set SET at = '2026-01-10 12:00:00Z'"
        )
    )
    db.run(lambda tx: tx.execute("SET timezone = 'Asia/Tokyo'"))
    assert keep(db, datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC)) == []
    assert keep(db, datetime(2026, 2, 1, tzinfo=UTC))[0] == 'audit_log_1 ends with its month'


def test_a_partition_without_entries_is_not_ended(db: Database) -> None:
    assert keep(db, in_months(1)) == []
    write(db)
    assert len(keep(db, in_months(1))) == 2
    assert keep(db, in_months(2)) == []


def test_a_clock_that_was_set_back_ends_nothing(db: Database) -> None:
    write(db)
    assert keep(db, in_months(-3)) == []


def test_the_last_drawn_id_is_known_after_a_cut(db: Database, actor: Actor) -> None:
    """Otherwise questions about the past would find nothing until the next change."""
    backend = Backend(db)
    backend.add_asn(actor, {'asn': 1})
    keep(db, in_months(1))
    assert [entry['id'] for entry in audit(backend, actor)] == [1]
    backend.add_asn(actor, {'asn': 2})
    assert [entry['id'] for entry in audit(backend, actor)] == [SIZE, 1]
    assert db.read(lambda tx: tx.value('SELECT max(entries_after) FROM change_set')) == SIZE - 1


def audit(backend: Backend, actor: Actor, **spec: object) -> list[dict[str, object]]:
    found: list[dict[str, object]] = backend.perform(actor, Request('list_audit', {'audit': spec}))
    return found


WRITERS, CUTS = 3, 12


def test_cuts_among_many_writers_lose_and_double_nothing(db: Database, empty_dsn: str) -> None:
    done = threading.Event()
    written: list[list[int]] = [[] for _ in range(WRITERS)]
    problems: list[BaseException] = []

    def writer(mine: list[int]) -> None:
        own = Database(empty_dsn)
        try:
            while not done.is_set():
                write(own, 2)
                mine.append(2)
        except BaseException as problem:
            problems.append(problem)
        finally:
            own.close()

    threads = [threading.Thread(target=writer, args=(mine,)) for mine in written]
    for thread in threads:
        thread.start()
    cuts = 0
    try:
        deadline = now() + timedelta(seconds=60)
        while cuts < CUTS and now() < deadline:
            try:
                said = step(db, in_months(1))
            except LockNotAvailable:
                continue
            cuts += said is not None and said.endswith('ends with its month')
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert problems == []
    assert cuts == CUTS
    keep(db, now())
    found = stored(db)
    assert sum(map(len, found.values())) == sum(map(sum, written))
    assert 'audit_log_rest' not in found
    assert check.problems(db) == []


def test_a_cut_waits_for_no_long_transaction(
    db: Database, opened: Callable[[], psycopg2.extensions.connection]
) -> None:
    write(db)
    long = opened()
    with long.cursor() as cursor:
        cursor.execute(AUDIT_ENTRIES, (1,))
    with pytest.raises(LockNotAvailable):
        step(db, in_months(1))
    write(db)
    long.commit()
    assert step(db, in_months(1)) == 'audit_log_1 ends with its month'
    assert stored(db) == {'audit_log_1': [1, 2, 3]}


def test_a_step_that_is_rolled_back_moves_nothing(
    db: Database, opened: Callable[[], psycopg2.extensions.connection]
) -> None:
    write(db)
    other = opened()
    with other.cursor() as cursor:
        cursor.execute('SELECT keep_partitions_at(%s, 0)', (in_months(1),))
    other.rollback()
    write(db)
    assert stored(db) == {'audit_log_1': [1, 2]}


def test_one_session_keeps_the_partitions_at_a_time(
    db: Database, opened: Callable[[], psycopg2.extensions.connection]
) -> None:
    write(db)
    other = opened()
    with other.cursor() as cursor:
        cursor.execute('SELECT pg_advisory_xact_lock(%s)', (advisory.PARTITIONS,))
    assert step(db, in_months(1)) is None
    other.rollback()
    assert step(db, in_months(1)) is not None


# ---------------------------------------------------------------- ahead, and the rest


def test_one_partition_is_always_ahead(db: Database) -> None:
    for n in (1, 2, 3):
        db.run(lambda tx, n=n: tx.execute("SELECT setval('audit_log_id_seq', %s)", (n * SIZE,)))
        write(db)
        keep(db, now())
        assert max(end for _, end in places(db).values()) == (n + 2) * SIZE
    assert list(places(db)) == ['audit_log_1', 'audit_log_2', 'audit_log_3', 'audit_log_4', 'audit_log_5']


def test_new_partitions_are_like_the_first(db: Database) -> None:
    write(db)
    keep(db, in_months(1))
    sql = """SELECT (SELECT array_agg(expressions || columns ORDER BY columns, expressions)
            FROM (SELECT pg_get_expr(indexprs, indrelid) AS expressions, indkey::text AS columns
                  FROM pg_index WHERE indrelid = c.oid) i),
        (SELECT count(*) FROM pg_trigger WHERE tgrelid = c.oid), obj_description(c.oid)
        FROM pg_class c WHERE relname IN ('audit_log_2', 'audit_log_3')"""
    second, third = db.read(lambda tx: tx.all(sql))
    assert second == third


def test_entries_without_a_partition_get_one(db: Database) -> None:
    """Nobody has made partitions ahead, for years perhaps."""
    write(db, 2)
    db.run(lambda tx: tx.execute("SELECT setval('audit_log_id_seq', %s)", (5 * SIZE - 2,)))
    write(db, 3)
    ids = [5 * SIZE - 1, 5 * SIZE, 5 * SIZE + 1]
    assert stored(db) == {'audit_log_1': [1, 2], 'audit_log_rest': ids}
    said = keep(db, now())
    assert said == [
        f'audit_log_3 takes the entries up to {ids[-1]} that had no partition',
        'audit_log_4 is the next partition',
    ]
    assert stored(db) == {'audit_log_1': [1, 2], 'audit_log_3': ids}
    assert places(db)['audit_log_3'] == (2 * SIZE, 6 * SIZE)
    write(db)
    assert stored(db)['audit_log_3'] == [*ids, 5 * SIZE + 2]
    assert check.problems(db) == []


def test_entries_of_several_gaps_get_partitions(db: Database) -> None:
    """After a restore without the former partitions."""
    write(db, 1)
    db.run(lambda tx: tx.execute('DROP TABLE audit_log_2'))
    third = f'FOR VALUES FROM ({2 * SIZE}) TO ({3 * SIZE})'
    db.run(lambda tx: tx.execute(f'CREATE TABLE public.audit_log_7 PARTITION OF audit_log {third}'))
    db.run(lambda tx: tx.execute("SELECT setval('audit_log_id_seq', %s)", (SIZE + 5,)))
    write(db, 1)
    db.run(lambda tx: tx.execute("SELECT setval('audit_log_id_seq', %s)", (3 * SIZE + 5,)))
    write(db, 1)
    assert stored(db)['audit_log_rest'] == [SIZE + 6, 3 * SIZE + 6]
    keep(db, now())
    assert stored(db) == {'audit_log_1': [1], 'audit_log_8': [SIZE + 6], 'audit_log_9': [3 * SIZE + 6]}
    assert places(db)['audit_log_8'] == (SIZE, 2 * SIZE)


def test_a_reader_of_the_log_delays_a_new_partition_and_waits_for_nothing(
    db: Database, opened: Callable[[], psycopg2.extensions.connection]
) -> None:
    db.run(lambda tx: tx.execute("SELECT setval('audit_log_id_seq', %s)", (SIZE,)))
    write(db)
    reader = opened()
    with reader.cursor() as cursor:
        cursor.execute('SELECT count(*) FROM audit_log')
    with pytest.raises(LockNotAvailable):
        step(db, now())
    write(db)
    reader.rollback()
    assert step(db, now()) == 'audit_log_3 is the next partition'


# ---------------------------------------------------------------- retention


def two_months(db: Database) -> None:
    """Write entries of two months, each with its partition."""
    write(db, 3)
    keep(db, in_months(1))
    write(db, 2)
    settle(db)


def test_old_partitions_are_detached_and_attached_again(db: Database, actor: Actor) -> None:
    two_months(db)
    backend = Backend(db)
    newest = db.read(lambda tx: tx.value('SELECT max(at) FROM audit_log WHERE id < %s', (SIZE,)))
    assert keep(db, in_months(2), months=2) == ['audit_log_2 ends with its month', 'audit_log_4 is the next partition']
    assert db.read(partitions.detached_before) is None
    said = step(db, in_months(3), months=2)
    assert said == 'audit_log_1 is detached, since all its entries are older than 2 months'
    assert [entry['id'] for entry in audit(backend, actor)] == [SIZE + 1, SIZE]
    assert db.read(partitions.detached_before) == newest
    assert check.problems(db) == []
    assert db.read(lambda tx: tx.value('SELECT count(*) FROM audit_log_1')) == 3

    partitions.attach(db, 'audit_log_1')
    assert len(audit(backend, actor)) == 5
    assert db.read(partitions.detached_before) is None
    assert step(db, in_months(3), months=2) != said
    assert 'audit_log_1' in places(db)

    partitions.detach(db, 'audit_log_1')
    assert len(audit(backend, actor)) == 2
    partitions.attach(db, 'audit_log_1')
    assert check.problems(db) == []


def test_everything_is_kept_by_default(db: Database) -> None:
    two_months(db)
    assert keep(db, in_months(1000), months=0) == [
        'audit_log_2 ends with its month',
        'audit_log_4 is the next partition',
    ]
    assert 'audit_log_1' in places(db)


def test_a_partition_that_is_needed_stays(db: Database) -> None:
    write(db, 3)
    keep(db, in_months(1))
    write(db, 1)
    late = in_months(30)
    keep(db, late)
    assert keep(db, late, months=1) == []  # the times of its entries are not known yet
    spans = Spans()
    for _ in range(2):
        while spans.step(db):
            pass
    feed = EventSequencer()
    db.run(lambda tx: tx.execute('UPDATE event_state SET settled = 0'))
    assert feed.step(db) == 4
    ChangeSequencer().step(db)
    assert keep(db, late, months=1) == []  # its events are kept
    with pytest.raises(NipapValueError, match=r'^audit_log_1 cannot be detached yet: '):
        partitions.detach(db, 'audit_log_1')
    db.run(lambda tx: tx.execute('DELETE FROM event'))
    assert len(keep(db, late, months=1)) == 2


def test_names_that_cannot_be_detached_or_attached_are_refused(db: Database) -> None:
    two_months(db)
    for name, reason in (
        ('audit_log_3', 'audit_log_3 cannot be detached, it is still empty'),
        ('audit_log_rest', 'audit_log_rest cannot be detached, it is the default partition'),
        ('audit_log_2', 'audit_log_2 cannot be detached yet: '),
    ):
        with pytest.raises(NipapValueError, match=rf'^{reason}'):
            partitions.detach(db, name)
    for name in ('audit_log', 'prefix', 'audit_log_9', "audit_log_1'; DROP TABLE prefix; --"):
        for work in (partitions.detach, partitions.attach):
            with pytest.raises(NipapNonExistentError, match=r'^There is no partition '):
                work(db, name)
    with pytest.raises(NipapValueError, match=r'^audit_log_1 cannot be attached, it is attached'):
        partitions.attach(db, 'audit_log_1')


def test_partitions_are_listed(db: Database) -> None:
    two_months(db)
    partitions.detach(db, 'audit_log_1')
    listed = db.read(partitions.listed)
    assert [(each.name, each.state, each.first, each.last) for each in listed] == [
        ('audit_log_1', 'detached', 0, SIZE - 1),
        ('audit_log_2', 'attached', SIZE, 2 * SIZE - 1),
        ('audit_log_3', 'ahead', 2 * SIZE, 3 * SIZE - 1),
        ('audit_log_rest', 'rest', None, None),
    ]
    assert listed[0].oldest is not None
    assert listed[0].newest is not None
    assert listed[0].oldest <= listed[0].newest <= now()
    assert all(each.size > 0 for each in listed)


# ---------------------------------------------------------------- spans


def spans_of(db: Database) -> list[tuple[int, int, datetime, datetime]]:
    return db.read(lambda tx: tx.all('SELECT first_id, last_id, oldest, newest FROM audit_span ORDER BY 1'))


def test_an_entry_that_is_committed_late_is_found_by_its_time(
    db: Database, actor: Actor, opened: Callable[[], psycopg2.extensions.connection]
) -> None:
    """Its time is the beginning of its transaction, long before that of the entries around it."""
    late = opened()
    with late.cursor() as cursor:
        cursor.execute('SELECT now()')
        (began,) = cursor.fetchone()
        cursor.execute(AUDIT_ENTRIES, (1,))
    spans = Spans()
    write(db, 2 * SPAN)
    for _ in range(4):
        assert not spans.step(db)
    assert spans_of(db) == []
    late.commit()
    while not spans_of(db):
        spans.step(db)
    while spans.step(db):
        pass
    sql = """SELECT s.first_id, s.last_id, min(at), max(at) FROM audit_span s
        JOIN audit_log a ON a.id BETWEEN s.first_id AND s.last_id GROUP BY 1, 2"""
    assert spans_of(db) == sorted(db.read(lambda tx: tx.all(sql)))
    assert spans_of(db)[-1][1] == 2 * SPAN - 1
    query = {'operator': 'equals', 'val1': 'at', 'val2': began.isoformat()}
    found = Backend(db).perform(actor, Request('search_audit', {'query': query}))
    assert [entry['id'] for entry in found['result']] == [1]


def test_spans_are_short_and_have_every_entry(db: Database) -> None:
    for entries in (1, SPAN - 2, 1, SPAN, 3 * SPAN + 7):
        write(db, entries)
        settle(db)
    keep(db, in_months(1))
    write(db, SPAN)
    settle(db)
    found = spans_of(db)
    assert [(first, last) for first, last, _, _ in found] == [
        (0, SPAN - 1),
        (SPAN, 2 * SPAN - 1),
        (2 * SPAN, 3 * SPAN - 1),
        (3 * SPAN, 4 * SPAN - 1),
        (4 * SPAN, 5 * SPAN - 1),
        (5 * SPAN, 25 * SPAN - 1),
        (SIZE, SIZE + SPAN - 1),
    ]


def test_writers_of_spans_at_once_agree(db: Database, empty_dsn: str) -> None:
    write(db, 10 * SPAN)

    def work() -> None:
        own, spans = Database(empty_dsn), Spans()
        for _ in range(20):
            spans.step(own)
        own.close()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(first, last) for first, last, _, _ in spans_of(db)] == [(n * SPAN, (n + 1) * SPAN - 1) for n in range(10)]
