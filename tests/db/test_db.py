"""The storage: retries of transactions, lost and replaced connections, translated errors."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import psycopg2.errors
import psycopg2.extensions
import pytest
from support import connection_of

from nipap import errors
from nipap.postgres import database as storage
from nipap.postgres import sqlstates
from nipap.postgres.database import Database
from nipap.postgres.transaction import Transaction

PATIENCE_S = 30.0
PID = 'SELECT pg_backend_pid()'
SCRATCH = """
CREATE SCHEMA scratch;
CREATE TABLE scratch.t (id int PRIMARY KEY, n int);
INSERT INTO scratch.t VALUES (1, 0), (2, 0);
"""


@pytest.fixture
def scratch(dsn: str) -> Iterator[str]:
    """Yield a DSN with a schema of the test before ours in the search path, and in it a table of two rows."""
    keeper = Database(dsn)
    keeper.run(lambda tx: tx.execute(SCRATCH))
    yield psycopg2.extensions.make_dsn(dsn, options='-csearch_path=scratch')
    keeper.run(lambda tx: tx.execute('DROP SCHEMA scratch CASCADE'))
    keeper.close()


@pytest.fixture
def blank(scratch: str) -> Iterator[Database]:
    """Yield a connection to the scratch database."""
    database = Database(scratch)
    yield database
    database.close()


@pytest.fixture
def other(scratch: str) -> Iterator[Database]:
    """Yield a second connection to the scratch database."""
    database = Database(scratch)
    yield database
    database.close()


def add_one(tx: Transaction, i: int) -> None:
    """Make a change that shows how often it was made."""
    tx.execute('UPDATE t SET n = n + 1 WHERE id = %s', (i,))


def numbers(db: Database) -> list[int]:
    """Return the stored numbers."""
    return [row[0] for row in db.read(lambda tx: tx.all('SELECT n FROM t ORDER BY id'))]


def kill(killer: Database, pid: int) -> None:
    """Have PostgreSQL end a connection, and wait for the end."""
    assert killer.read(lambda tx: tx.value('SELECT pg_terminate_backend(%s, 10000)', (pid,)))


def wait_for_end(db: Database, pid: int) -> None:
    """Wait until a server process has ended by itself."""
    deadline = time.monotonic() + PATIENCE_S
    while db.read(lambda tx: tx.value('SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = %s)', (pid,))):
        assert time.monotonic() < deadline
        time.sleep(0.01)


# ---------------------------------------------------------------- all or nothing


def test_a_transaction_that_raises_leaves_nothing(blank: Database) -> None:
    def work(tx: Transaction) -> None:
        add_one(tx, 1)
        raise errors.NipapValueError('no')

    with pytest.raises(errors.NipapValueError, match='no'):
        blank.run(work)
    assert numbers(blank) == [0, 0]


def test_an_interrupted_transaction_leaves_nothing(blank: Database) -> None:
    def work(tx: Transaction) -> None:
        add_one(tx, 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        blank.run(work)
    assert numbers(blank) == [0, 0]


def test_a_failed_statement_leaves_nothing_and_is_not_run_again(blank: Database) -> None:
    attempts = []

    def work(tx: Transaction) -> None:
        attempts.append(tx.value(PID))
        add_one(tx, 1)
        tx.execute('SELECT 1 / 0')

    with pytest.raises(psycopg2.errors.DivisionByZero):
        blank.run(work)
    assert len(attempts) == 1
    assert numbers(blank) == [0, 0]


def test_the_result_of_the_work_is_returned(blank: Database) -> None:
    assert blank.run(lambda tx: tx.value('SELECT 7')) == 7
    assert blank.read(lambda tx: tx.one('SELECT 1, 2')) == (1, 2)
    assert blank.read(lambda tx: tx.one('SELECT 1 WHERE false')) is None
    assert blank.read(lambda tx: tx.value('SELECT 1 WHERE false')) is None
    assert blank.run(lambda tx: tx.execute('UPDATE t SET n = 5')) == 2


# ---------------------------------------------------------------- retries


def test_a_deadlock_is_resolved_by_running_again(blank: Database, other: Database) -> None:
    both_hold_one = threading.Barrier(2)
    attempts: dict[int, int] = {1: 0, 2: 0}
    failures: list[BaseException] = []

    def client(db: Database, first: int, second: int) -> None:
        def work(tx: Transaction) -> None:
            attempts[first] += 1
            add_one(tx, first)
            if attempts[first] == 1:
                both_hold_one.wait(PATIENCE_S)
            add_one(tx, second)

        try:
            db.run(work)
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=client, args=args) for args in ((blank, 1, 2), (other, 2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert failures == []
    assert sum(attempts.values()) >= 3
    assert numbers(blank) == [2, 2]


def test_a_serialization_failure_is_resolved_by_running_again(blank: Database, other: Database) -> None:
    seen = []

    def work(tx: Transaction) -> None:
        tx.execute('SET TRANSACTION ISOLATION LEVEL REPEATABLE READ')
        seen.append(tx.value('SELECT n FROM t WHERE id = 1'))
        if len(seen) == 1:
            other.run(lambda theirs: add_one(theirs, 1))
        add_one(tx, 1)

    blank.run(work)
    assert seen == [0, 1]
    assert numbers(blank) == [2, 0]


# Fails at each run until the number of runs in its argument is reached: sequences are not rolled back.
FAIL_AT_COMMIT = """
CREATE SEQUENCE tries;
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF nextval('tries') < TG_ARGV[0]::int THEN RAISE EXCEPTION 'not yet' USING ERRCODE = '40001'; END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER fail AFTER UPDATE ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail({})
"""


def test_a_serialization_failure_at_commit_is_resolved_by_running_again(blank: Database) -> None:
    blank.run(lambda tx: tx.execute(FAIL_AT_COMMIT.format(3)))
    attempts = []

    def work(tx: Transaction) -> None:
        attempts.append(tx.value(PID))
        add_one(tx, 1)

    blank.run(work)
    assert len(attempts) == 3
    assert numbers(blank) == [1, 0]


def test_running_again_has_an_end(blank: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, 'ATTEMPTS', 4)
    blank.run(lambda tx: tx.execute(FAIL_AT_COMMIT.format(100)))
    with pytest.raises(psycopg2.errors.SerializationFailure):
        blank.run(lambda tx: add_one(tx, 1))
    assert blank.read(lambda tx: tx.value('SELECT last_value FROM tries')) == 4
    assert numbers(blank) == [0, 0]


def test_a_function_of_ours_can_ask_to_be_run_again(blank: Database) -> None:
    asked = "DO $$ BEGIN RAISE EXCEPTION 'moved' USING ERRCODE = '40001'; END $$"
    attempts = []

    def work(tx: Transaction) -> None:
        attempts.append(1)
        add_one(tx, 1)
        if len(attempts) < 3:
            tx.execute(asked)

    blank.run(work)
    assert len(attempts) == 3
    assert numbers(blank) == [1, 0]


# ---------------------------------------------------------------- lost connections


def test_a_connection_lost_before_commit_is_replaced(blank: Database, other: Database) -> None:
    pids = []

    def work(tx: Transaction) -> None:
        pids.append(tx.value(PID))
        add_one(tx, 1)
        if len(pids) == 1:
            kill(other, pids[0])
        add_one(tx, 2)

    blank.run(work)
    assert len(set(pids)) == len(pids) == 2
    assert numbers(blank) == [1, 1]


def test_a_transaction_that_stands_still_is_ended_and_run_again(scratch: str, other: Database) -> None:
    pids = []
    still = Database(scratch, idle_timeout_s=0.05)

    def work(tx: Transaction) -> None:
        pids.append(tx.value(PID))
        add_one(tx, 1)
        if len(pids) == 1:
            wait_for_end(other, pids[0])
        add_one(tx, 2)

    still.run(work)
    still.close()
    assert len(set(pids)) == len(pids) == 2
    assert numbers(other) == [1, 1]


@pytest.mark.parametrize('how', ['run', 'run_at_once', 'read'])
def test_a_connection_lost_while_idle_is_replaced(blank: Database, other: Database, how: str) -> None:
    def ask(work: Callable[[Transaction], Any]) -> Any:
        return blank.run_at_once(work, no_answer) if how == 'run_at_once' else getattr(blank, how)(work)

    former = ask(lambda tx: tx.value(PID))
    kill(other, former)
    assert ask(lambda tx: tx.value(PID)) != former


def test_a_lost_connection_is_replaced_as_soon_as_that_is_possible(
    blank: Database, other: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A PostgreSQL that starts up again refuses connections at first."""
    kill(other, blank.read(lambda tx: tx.value(PID)))
    refusals = iter(range(3))

    def connect(dsn: str, connection_factory: Callable[[str], Any]) -> Any:
        if next(refusals, None) is not None:
            raise psycopg2.OperationalError('the database system is starting up')
        return connection_factory(dsn)

    monkeypatch.setattr(storage.psycopg2, 'connect', connect)
    assert blank.read(lambda tx: tx.value('SELECT 1')) == 1
    assert next(refusals, None) is None


def test_a_read_whose_connection_is_lost_is_read_again_from_the_start(blank: Database, other: Database) -> None:
    seen = []

    def work(tx: Transaction) -> int:
        seen.append(tx.value(PID))
        if len(seen) == 1:
            kill(other, seen[0])
        return int(tx.value('SELECT n FROM t WHERE id = 2'))

    assert blank.read(work) == 0
    assert len(seen) == 2


DIE_AT_COMMIT = """
CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    PERFORM pg_terminate_backend(pg_backend_pid());
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER die AFTER UPDATE ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION die()
"""


def test_a_connection_lost_during_commit_has_an_unknown_outcome(blank: Database) -> None:
    blank.run(lambda tx: tx.execute(DIE_AT_COMMIT))
    attempts = []

    def work(tx: Transaction) -> None:
        attempts.append(1)
        add_one(tx, 1)

    with pytest.raises(errors.NipapError, match='outcome is unknown') as refused:
        blank.run(work)
    assert refused.value.code == 1020
    assert len(attempts) == 1
    assert numbers(blank) == [0, 0]


@pytest.mark.parametrize('wrong', [{'user': 'stranger'}, {'dbname': 'nowhere'}])
def test_a_refused_login_fails_at_once(dsn: str, wrong: dict[str, str]) -> None:
    database = Database(psycopg2.extensions.make_dsn(dsn, **wrong))
    began = time.monotonic()
    with pytest.raises(errors.NipapUnavailableError) as refused:
        database.read(lambda tx: tx.value('SELECT 1'))
    assert time.monotonic() - began < storage.PATIENCE_S / 2
    assert 'FATAL' in refused.value.why


def test_each_host_is_tried(dsn: str) -> None:
    host = psycopg2.extensions.parse_dsn(dsn)['host']
    several = psycopg2.extensions.make_dsn(dsn, host=f'/nowhere,{host}', target_session_attrs='read-write')
    database = Database(several)
    assert database.read(lambda tx: tx.value('SELECT 1')) == 1
    database.close()


def test_a_connection_lost_in_a_snapshot_is_told(blank: Database, other: Database) -> None:
    def read() -> None:
        with blank.snapshot() as tx:
            kill(other, tx.value(PID))
            tx.value('SELECT 1')

    with pytest.raises(errors.NipapUnavailableError):
        read()


# ---------------------------------------------------------------- one message


ADD = 'UPDATE t SET n = n + 1 WHERE id = %s'
LOG = """CREATE TABLE audit_log (id int GENERATED ALWAYS AS IDENTITY, object_id bigint, change_set bigint);
    CREATE TABLE change_set (id int GENERATED ALWAYS AS IDENTITY, call bigint, entries_after int DEFAULT 0);"""
ENTRY = """WITH s AS (INSERT INTO change_set (call) VALUES (current_setting('nipap.change')::bigint) RETURNING id)
    INSERT INTO audit_log (object_id, change_set) SELECT 77, id FROM s"""


def no_answer(_tx: Transaction, _i: int) -> Any:
    raise AssertionError('the answer of the work was there')


def test_one_message_is_one_transaction(blank: Database) -> None:
    def work(tx: Transaction) -> Any:
        tx.ahead(ADD, (1,))
        tx.ahead(ADD, (2,))
        return tx.all('SELECT n FROM t ORDER BY id')

    assert blank.run_at_once(work, no_answer) == [(1,), (1,)]
    assert numbers(blank) == [1, 1]

    def fails(tx: Transaction) -> None:
        tx.ahead(ADD, (1,))
        tx.value('SELECT 1 / 0')

    with pytest.raises(psycopg2.errors.DivisionByZero):
        blank.run_at_once(fails, no_answer)
    assert numbers(blank) == [1, 1]


def test_one_message_needs_no_answer(blank: Database) -> None:
    blank.run_at_once(lambda tx: tx.ahead(ADD, (1,)), no_answer)
    assert numbers(blank) == [1, 0]


def test_no_change_follows_the_one_message(blank: Database) -> None:
    def work(tx: Transaction) -> None:
        # Any read is allowed before the message.
        assert tx.value('SELECT n FROM t WHERE id = 1') == 0
        tx.ahead(ADD, (1,))
        tx.value('SELECT 1')
        tx.ahead(ADD, (2,))

    with pytest.raises(RuntimeError, match='would not be part of its transaction'):
        blank.run_at_once(work, no_answer)


def test_preparing_a_statement_is_not_part_of_the_message(blank: Database) -> None:
    def work(tx: Transaction) -> Any:
        tx.ahead(ADD, (1,))
        return tx.all_prepared('SELECT n FROM t WHERE id = %s', (1,))

    assert [blank.run_at_once(work, no_answer) for _ in range(2)] == [[(1,)], [(2,)]]


def test_a_change_has_the_time_it_needs(scratch: str, blank: Database) -> None:
    hasty = Database(scratch, read_timeout_s=0.05)
    hasty.run_at_once(lambda tx: tx.ahead(f'{ADD} AND pg_sleep(0.2) IS NOT NULL', (1,)), no_answer)
    with pytest.raises(errors.NipapTimeoutError):
        hasty.read(lambda tx: tx.execute('SELECT pg_sleep(0.2)'))
    hasty.close()
    assert numbers(blank) == [1, 0]


def test_one_message_that_was_not_committed_is_sent_again(blank: Database) -> None:
    blank.run(lambda tx: tx.execute(f'{LOG} CREATE SEQUENCE lives'))
    once = "SELECT CASE WHEN nextval('lives') = 1 THEN pg_terminate_backend(pg_backend_pid()) END"

    def work(tx: Transaction) -> Any:
        tx.ahead(ADD, (1,))
        tx.ahead(once)
        return tx.value('SELECT n FROM t WHERE id = 1')

    assert blank.run_at_once(work, no_answer) == 1
    assert numbers(blank) == [1, 0]


@pytest.mark.parametrize('delay_s', [0, 0.3])
def test_one_message_that_was_cut_off_is_done_once(blank: Database, other: Database, delay_s: float) -> None:
    """PostgreSQL may still be working, or may have committed when we look: the change is made and acknowledged once."""
    blank.run(lambda tx: tx.execute(LOG))
    attempts = []

    def work(tx: Transaction) -> Any:
        attempts.append(1)
        tx.ahead(ADD, (1,))
        tx.ahead(ENTRY)
        if len(attempts) == 1:
            cut_off(connection_of(blank), after_sending=delay_s == 0)
            tx.ahead('SELECT pg_sleep(%s)', (delay_s,))
        return tx.value('SELECT 0')

    assert blank.run_at_once(work, lambda _tx, i: i) in (0, 77)
    assert numbers(other) == [1, 0]
    assert other.read(lambda tx: tx.value('SELECT count(*) FROM audit_log JOIN change_set s ON s.id = change_set')) == 1


def cut_off(connection: Any, *, after_sending: bool) -> None:
    """Cut off the incoming bytes of a connection; cut off the outgoing bytes too unless they are to arrive."""
    with socket.socket(fileno=os.dup(connection.fileno())) as copy:
        copy.shutdown(socket.SHUT_RD if after_sending else socket.SHUT_RDWR)


def test_a_closed_database_opens_again(blank: Database) -> None:
    former = blank.read(lambda tx: tx.value(PID))
    blank.close()
    blank.close()
    assert blank.read(lambda tx: tx.value(PID)) != former


def test_nothing_is_connected_before_it_is_used() -> None:
    Database('host=/nowhere dbname=nothing').close()


def test_a_connection_string_is_not_shown() -> None:
    assert 'secret' not in repr(Database('host=db password=secret'))


# ---------------------------------------------------------------- fork


def in_child(work: Callable[[], object]) -> Any:
    """Return the result of `work` in a forked process."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            text = json.dumps(work())
        except BaseException as exc:
            text = json.dumps(f'failed: {exc!r}')
        os.write(writer, text.encode())
        # The child must not clean up anything of the test run.
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answers:
        answer = answers.read()
    os.waitpid(pid, 0)
    return json.loads(answer)


def test_a_fork_has_a_connection_of_its_own(blank: Database) -> None:
    ours = blank.read(lambda tx: tx.value(PID))

    def work() -> tuple[int, list[int]]:
        blank.run(lambda tx: add_one(tx, 1))
        return blank.read(lambda tx: tx.value(PID)), numbers(blank)

    theirs, seen = in_child(work)
    assert theirs != ours
    assert seen == [1, 0]
    assert blank.read(lambda tx: tx.value(PID)) == ours


def test_closing_in_a_fork_leaves_the_parent_connected(blank: Database) -> None:
    ours = blank.read(lambda tx: tx.value(PID))
    assert in_child(blank.close) is None
    assert blank.read(lambda tx: tx.value(PID)) == ours


# ---------------------------------------------------------------- values


@pytest.mark.parametrize('number', [0, 1, -1, 2**31, 2**63, 2**64 - 1, 2**128, -(2**128)])
def test_numbers_are_integers(blank: Database, number: int) -> None:
    read = blank.read(lambda tx: tx.value(f'SELECT {number}::numeric'))
    assert read == number
    assert type(read) is int
    assert blank.read(lambda tx: tx.value('SELECT %s::numeric', (number,))) == number


def test_sums_and_counts_are_integers(blank: Database) -> None:
    row = blank.read(lambda tx: tx.one('SELECT count(*), sum(id), sum(id::numeric), sum(id::bigint), max(n) FROM t'))
    assert row == (2, 3, 3, 3, 0)
    assert {type(value) for value in row} == {int}
    assert blank.read(lambda tx: tx.value('SELECT NULL::numeric')) is None


def test_a_parameter_is_never_sql(blank: Database) -> None:
    text = '\'; DROP TABLE t; -- %s \\ " é 🙂'
    assert blank.read(lambda tx: tx.value('SELECT %s', (text,))) == text
    assert numbers(blank) == [0, 0]


def test_moments_are_in_utc(blank: Database) -> None:
    moment = blank.read(lambda tx: tx.value("SELECT timestamptz '2020-06-01 12:00+02'"))
    assert moment.isoformat() == '2020-06-01T10:00:00+00:00'


# ---------------------------------------------------------------- streams

SERIES = 'SELECT g FROM generate_series(1, %s) g'


@pytest.mark.parametrize('rows', [0, 1, 4, 5, 11])
def test_a_stream_has_every_row_in_order(blank: Database, rows: int) -> None:
    streamed = blank.run(lambda tx: list(tx.stream(SERIES, (rows,), chunk=5)))
    assert streamed == [(n,) for n in range(1, rows + 1)]


def test_other_statements_may_run_beside_a_stream(blank: Database) -> None:
    def work(tx: Transaction) -> int:
        for (n,) in tx.stream(SERIES, (9,), chunk=2):
            tx.execute('UPDATE t SET n = n + %s WHERE id = 1', (n,))
        return int(tx.value('SELECT n FROM t WHERE id = 1'))

    assert blank.run(work) == 45


def test_a_stream_that_is_left_early_makes_room_for_the_next(blank: Database) -> None:
    def work(tx: Transaction) -> list[int]:
        firsts = []
        for _ in range(2):
            stream = tx.stream(SERIES, (100,), chunk=10)
            firsts.append(next(stream)[0])
            stream.close()  # type: ignore[attr-defined]  # a generator
        return firsts

    assert blank.run(work) == [1, 1]


def test_a_stream_is_fetched_in_chunks(blank: Database) -> None:
    blank.run(lambda tx: tx.execute('CREATE SEQUENCE steps'))

    def work(tx: Transaction) -> int:
        stream = tx.stream("SELECT nextval('steps') FROM generate_series(1, 1000)", chunk=10)
        next(stream)
        stepped = int(tx.value('SELECT last_value FROM steps'))
        stream.close()  # type: ignore[attr-defined]  # a generator
        return stepped

    assert blank.run(work) == 10


def test_a_snapshot_sees_one_state(blank: Database, other: Database) -> None:
    def read(tx: Transaction) -> list[int]:
        return [row[0] for row in tx.all('SELECT n FROM t ORDER BY id')]

    with blank.snapshot() as tx:
        assert read(tx) == [0, 0]
        other.run(lambda tx: add_one(tx, 1))
        assert read(tx) == [0, 0]
    assert numbers(blank) == [1, 0]


def test_a_snapshot_changes_nothing(blank: Database) -> None:
    with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction), blank.snapshot() as tx:
        add_one(tx, 1)
    blank.run(lambda tx: add_one(tx, 2))
    assert numbers(blank) == [0, 1]


def test_a_snapshot_that_is_left_early_leaves_no_transaction(blank: Database) -> None:
    def read() -> Iterator[int]:
        with blank.snapshot() as tx:
            for row in tx.stream('SELECT generate_series(1, 100)', chunk=10):
                yield row[0]

    rows = read()
    assert [next(rows) for _ in range(15)] == list(range(1, 16))
    rows.close()
    assert connection_of(blank).info.transaction_status == psycopg2.extensions.TRANSACTION_STATUS_IDLE
    assert list(read()) == list(range(1, 101))


def test_a_snapshot_replaces_a_connection_lost_while_idle(blank: Database, other: Database) -> None:
    kill(other, blank.read(lambda tx: tx.value(PID)))
    with blank.snapshot() as tx:
        assert tx.value('SELECT 1') == 1


def test_a_connection_lost_in_a_snapshot_is_an_error_and_replaced(blank: Database, other: Database) -> None:
    with blank.snapshot() as tx:
        kill(other, tx.value(PID))
        with pytest.raises(psycopg2.OperationalError):
            tx.value('SELECT 1')
    assert numbers(blank) == [0, 0]


def test_statements_of_a_snapshot_have_the_time_of_reads(dsn: str) -> None:
    database = Database(dsn, read_timeout_s=0.05)
    with pytest.raises(errors.NipapTimeoutError), database.snapshot() as tx:
        list(tx.stream('SELECT pg_sleep(10)'))
    assert database.read(lambda tx: tx.value('SELECT 1')) == 1
    database.close()


def test_a_stream_needs_a_transaction(blank: Database) -> None:
    with pytest.raises(psycopg2.errors.NoActiveSqlTransaction):
        blank.read(lambda tx: list(tx.stream(SERIES, (3,))))


# ---------------------------------------------------------------- errors

TEN = "INSERT INTO prefix (vrf_id, prefix, type) VALUES (0, '10.0.0.0/8', 'reservation')"


def prefix(attributes: str, values: str) -> str:
    """Return a statement that inserts one prefix in VRF 0."""
    return f'INSERT INTO prefix (vrf_id, prefix, type, {attributes}) VALUES (0, {values})'


def duplicate(what: object, value: str) -> tuple[type[errors.NipapError], str]:
    """Return the error for a duplicate value."""
    return errors.NipapDuplicateError, f"Duplicate value for '{what}', the value '{value}' is already in use."


# For each constraint that clients see: a statement that violates it, and the error for the client.
Violation = tuple[str, tuple[type[errors.NipapError], str]]
UNIQUE: dict[str, Violation] = {
    'vrf_rt_key': (
        "INSERT INTO vrf (id, rt, rt_rank, name) VALUES (1, '1:2', 1, 'a'), (2, '1:2', 2, 'b')",
        duplicate('VRF RT', '1:2'),
    ),
    'vrf_name_key': (
        "INSERT INTO vrf (id, rt, rt_rank, name) VALUES (1, '1:1', 1, 'ö (x)=(y)'), (2, '1:2', 2, 'Ö (X)=(Y)')",
        duplicate('VRF name', 'ö (x)=(y)'),
    ),
    'pool_name_key': (
        "INSERT INTO pool (name, default_type) VALUES ('p', 'host'), ('P', 'host')",
        duplicate('pool name', 'p'),
    ),
    'prefix_vrf_prefix_key': (f'{TEN}; {TEN}', duplicate('prefix', '0, 10.0.0.0/8')),
    'asn_pkey': ('INSERT INTO asn (asn) VALUES (77), (77)', duplicate(None, '77')),
}
VIOLATIONS: dict[str, Violation] = {
    'vrf_default_check': (
        "UPDATE vrf SET rt = '1:2' WHERE id = 0",
        (errors.NipapValueError, 'Invalid input for column rt, must be NULL for VRF id 0'),
    ),
    'prefix_pool_id_fkey': (
        prefix('pool_id', "'10.0.0.0/8', 'reservation', 99"),
        (errors.NipapInputError, 'non-existing pool specified'),
    ),
}


def test_each_constraint_that_clients_see_is_tested() -> None:
    assert set(UNIQUE) == set(sqlstates.UNIQUE)
    assert set(VIOLATIONS) == set(sqlstates.VIOLATIONS)


@pytest.mark.parametrize('constraint', [*UNIQUE, *VIOLATIONS])
def test_a_violation_is_told_in_words(db: Database, constraint: str) -> None:
    statement, (kind, text) = {**UNIQUE, **VIOLATIONS}[constraint]
    attribute = {**sqlstates.UNIQUE, **sqlstates.VIOLATIONS}[constraint][-1]
    with pytest.raises(errors.NipapError) as refused:
        db.run(lambda tx: tx.execute(statement))
    assert type(refused.value) is kind
    assert (str(refused.value), refused.value.attribute) == (text, attribute)
    assert isinstance(refused.value.__cause__, psycopg2.Error)
    assert refused.value.__cause__.diag.constraint_name == constraint


def test_constraints_that_clients_see_exist(db: Database) -> None:
    sql = "SELECT conname FROM pg_constraint UNION SELECT indexname FROM pg_indexes WHERE schemaname = 'public'"
    names = {row[0] for row in db.read(lambda tx: tx.all(sql))}
    assert {*sqlstates.UNIQUE, *sqlstates.VIOLATIONS} <= names


@pytest.mark.parametrize('code', sqlstates.OWN_CODES)
def test_errors_of_our_functions_keep_their_text(blank: Database, code: str) -> None:
    text = 'what was wrong: % (10.0.0.0/8), «ü»'
    statement = f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{code}', MESSAGE = '{text}'; END $$"
    with pytest.raises(errors.NipapError) as refused:
        blank.run(lambda tx: tx.execute(statement))
    assert type(refused.value) is sqlstates.OWN_CODES[code]
    assert str(refused.value) == text


@pytest.mark.parametrize(
    ('column', 'position', 'attribute'),
    [(None, None, None), ('node', None, 'node'), ('3 node', 2, 'node'), ('1 ', 0, None)],
)
def test_errors_of_our_functions_name_their_attribute(
    blank: Database, column: str | None, position: int | None, attribute: str | None
) -> None:
    about = f", COLUMN = '{column}'" if column else ''
    statement = f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'NP200', MESSAGE = 'x'{about}; END $$"
    with pytest.raises(errors.NipapValueError) as refused:
        blank.run(lambda tx: tx.execute(statement))
    assert (refused.value.position, refused.value.attribute) == (position, attribute)


def test_a_bad_pattern_is_told(blank: Database) -> None:
    with pytest.raises(errors.NipapPatternError):
        blank.read(lambda tx: tx.value("SELECT '' ~ '('"))


@pytest.mark.parametrize(
    'statement',
    [
        'SELECT 1 / 0',
        'SELECT nothing',
        'INSERT INTO t VALUES (1, 1)',
        "DO $$ BEGIN RAISE EXCEPTION 'free ranges are wrong' USING ERRCODE = 'NP000'; END $$",
    ],
)
def test_errors_that_clients_did_not_cause_are_not_translated(blank: Database, statement: str) -> None:
    with pytest.raises(psycopg2.Error):
        blank.run(lambda tx: tx.execute(statement))


def test_a_search_that_takes_too_long_is_stopped(dsn: str) -> None:
    db = Database(dsn, read_timeout_s=0.2)
    try:
        with pytest.raises(errors.NipapTimeoutError) as caught:
            db.read(lambda tx: tx.value('SELECT pg_sleep(60)'))
        assert caught.value.code == 1210
        assert db.read(lambda tx: tx.value('SELECT 1')) == 1
        # The limit is for searches; a change of many rows may take longer.
        assert db.run(lambda tx: tx.value('SELECT 1 FROM pg_sleep(0.4)')) == 1
    finally:
        db.close()


def test_a_call_is_run_again_when_postgresql_came_back_while_it_looked_for_its_change(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call has waited as long as calls may, but PostgreSQL is available again."""
    monkeypatch.setattr(storage, 'PATIENCE_S', 0.0)
    lost = psycopg2.OperationalError('server closed the connection unexpectedly')
    runs: list[str] = []

    def once() -> str:
        runs.append('run')
        if len(runs) == 1:
            db._note_away(lost)
            db._find_out(None)
            raise lost
        return 'done'

    def always() -> str:
        raise lost

    assert db._again(once) == 'done'
    with pytest.raises(errors.NipapUnavailableError):  # PostgreSQL was not away
        db._again(always)
