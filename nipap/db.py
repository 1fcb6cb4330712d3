"""The only place that opens connections, owns transactions and catches errors of psycopg2.

A :class:`Database` belongs to one process: it connects on first use, so nothing is shared across a fork. Work is a
function of a :class:`Transaction`; it is run again when PostgreSQL says that running it again may help (deadlock,
serialization failure) or when the connection was lost before COMMIT was sent.
"""

from __future__ import annotations

import itertools
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol, TypeVar

import psycopg2
import psycopg2.extensions
from psycopg2.sql import SQL, Composable

from nipap import connecting, errors, tracer, waiting
from nipap.connecting import Asking, NoAnswerError, RefusedError, TooLongError
from nipap.meter import SILENT, Meter
from nipap.session import Session
from nipap.sqlstates import RETRY, is_away, is_without_room, translate, unavailable

log = logging.getLogger('nipap.db')
T = TypeVar('T')
Row = tuple[Any, ...]
Statement = str | bytes | Composable
Expression = psycopg2.extensions.AsIs  # SQL in the place of an argument

ATTEMPTS = 20
PATIENCE_S = 8.0
LATER_PATIENCE_S = 1.0  # once PostgreSQL has been away for that long
ANSWER_GRACE_S = 5.0  # in which a search that was stopped should have said so
MOST_SESSIONS = 8
OUTCOME_UNKNOWN = (
    'The connection to the database was lost while the change was being committed: its outcome is unknown.'
)
# Plans of functions and prepared statements are kept. Made while a table is small they must serve it when it is big, so
# they are made without scans of whole tables wherever there is an index.
CHANGING = 'SET LOCAL statement_timeout = 0; SET LOCAL enable_seqscan = off'
THAT_SESSION = 'FROM pg_stat_activity WHERE pid = %s AND backend_start = %s::timestamptz'
MOST_PREPARED = 100
MOST_PARAMETERS = 1000
READ_TIMEOUT_S = 20.0  # a regular expression can keep PostgreSQL busy for minutes
# A process that stands still in a transaction (stopped, swapped out) keeps its locks, and keeps every version of a row
# from being removed that its snapshot might see. What we do between two statements takes moments.
IDLE_TIMEOUT_S = 60.0


class Readable(Protocol):
    """What rows are read from."""

    def read(self, size: int = ..., /) -> bytes: ...

    def readline(self, size: int = ..., /) -> bytes: ...


class Transaction:
    """One open transaction; statements run on it, rows come back as tuples.

    sees_one_state: all statements see the same state of the database.
    """

    sees_one_state = False

    def __init__(self, cursor: psycopg2.extensions.cursor, session: Session) -> None:
        self._cursor = cursor
        self._session = session
        self._prepared = session.prepared
        self._ahead: list[bytes] = []
        self._limit_s = self._limited_s = 0.0  # of each statement: what it is to be, and what PostgreSQL knows

    @contextmanager
    def limited(self) -> Iterator[None]:
        """Meanwhile no statement takes longer than those of `Database.read` may."""
        self._limit_s = self._session.read_timeout_s
        connection = self._session.connection
        former_s, connection.limit_s = connection.limit_s, self._limit_s + ANSWER_GRACE_S
        try:
            yield
        finally:
            self._limit_s, connection.limit_s = 0.0, former_s

    def ahead(self, statement: Statement, args: Sequence[Any] = ()) -> None:
        """Have a statement run just before the next one, in the same round trip; its answer is dropped."""
        self._know_limit()
        self._ahead.append(self._cursor.mogrify(statement, args or None))

    def flush(self) -> None:
        """Run now what waits for a next statement."""
        self._know_limit()
        if self._ahead:
            self._run(self._ahead.pop(), ())

    def _know_limit(self) -> None:
        if self._limited_s != self._limit_s:
            self._limited_s = self._limit_s
            self._ahead.append(b'SET LOCAL statement_timeout = %d' % (self._limit_s * 1000))

    def _run(self, statement: Statement, args: Sequence[Any]) -> psycopg2.extensions.cursor:
        self._know_limit()
        if self._ahead:
            statement = b';'.join((*self._ahead, self._cursor.mogrify(statement, args or None)))
            args = ()
            self._ahead.clear()
        try:
            tracer.execute(self._cursor, statement, args or None, self._prepared)
        except psycopg2.Error as exc:
            error = translate(exc)
            if error is None:
                raise
            raise error from exc
        return self._cursor

    def execute(self, statement: Statement, args: Sequence[Any] = ()) -> int:
        """Run a statement; returns the number of rows it touched."""
        return self._run(statement, args).rowcount

    def all(self, statement: Statement, args: Sequence[Any] = ()) -> list[Row]:
        """Every row of the answer."""
        return self._run(statement, args).fetchall()

    def all_prepared(self, statement: str, args: Sequence[Any]) -> list[Row]:
        """As `all`, for a statement that comes again and again: PostgreSQL plans it a few times only.

        Planning takes longer than running what looks up a row by key. Nothing else may be given to this whose best plan
        depends on its arguments. An argument may be an `Expression`, computed when the
        statement begins.
        """
        name = self._prepared.get(statement)
        if name is None:
            if len(args) > MOST_PARAMETERS:
                return self.all(statement, args)
            if len(self._prepared) >= MOST_PREPARED:  # those that are in use come again
                tracer.execute(self._cursor, 'DEALLOCATE ALL')
                self._prepared.clear()
            name = f'prepared_{len(self._prepared)}'
            pieces = statement.split('%s')
            numbered = ''.join(f'{piece}${n}' for n, piece in enumerate(pieces[:-1], 1)) + pieces[-1]
            tracer.execute(self._cursor, f'PREPARE {name} AS {numbered}')
            self._prepared[statement] = name
            return self._first_execution(name, args)
        return self._execution(name, args)

    def _first_execution(self, name: str, args: Sequence[Any]) -> list[Row]:
        """The one that makes the plan."""
        idle = self._cursor.connection.info.transaction_status == psycopg2.extensions.TRANSACTION_STATUS_IDLE
        if self._ahead or not idle:
            return self._execution(name, args)  # the beginning of a transaction says how plans are made
        self._run('SET enable_seqscan = off', ())
        try:
            return self._execution(name, args)
        finally:
            with suppress(psycopg2.Error):
                self._run('RESET enable_seqscan', ())

    def _execution(self, name: str, args: Sequence[Any]) -> list[Row]:
        return self.all(f'EXECUTE {name} ({", ".join(["%s"] * len(args))})' if args else f'EXECUTE {name}', args)

    def one(self, statement: Statement, args: Sequence[Any] = ()) -> Row | None:
        """The first row of the answer, if any."""
        return self._run(statement, args).fetchone()

    def value(self, statement: Statement, args: Sequence[Any] = ()) -> Any:
        """The first column of the first row; None without a row."""
        row = self.one(statement, args)
        return row[0] if row else None

    def copy_in(self, statement: str, rows: Readable) -> None:
        """Run a ``COPY … FROM stdin`` with these rows, in the text format of PostgreSQL."""
        self.flush()
        with _blocking():
            self._cursor.copy_expert(statement, rows)

    def stream(self, statement: str | Composable, args: Sequence[Any] = (), *, chunk: int = 5000) -> Iterator[Row]:
        """The rows of a large answer, fetched in chunks; inside a transaction (`Database.run`) only, one at a time."""
        self._run(SQL('DECLARE stream NO SCROLL CURSOR FOR ') + _composable(statement), args)
        try:
            while rows := self.all(f'FETCH {chunk:d} FROM stream'):
                yield from rows
        except GeneratorExit:  # left early; perhaps because the transaction has failed, and then it is closed already
            with suppress(psycopg2.Error):
                self.execute('CLOSE stream')
            raise
        self.execute('CLOSE stream')


class OneMessage(Transaction):
    """A transaction that is one message: what waits and the statement after it. What runs before is not part of it."""

    def __init__(self, cursor: psycopg2.extensions.cursor, session: Session, change: int) -> None:
        super().__init__(cursor, session)
        self.sent = False
        self._begin = f'{CHANGING}; SET LOCAL nipap.change = {change:d}'.encode()

    def ahead(self, statement: Statement, args: Sequence[Any] = ()) -> None:
        """As in any transaction: it is what changes."""
        if self.sent:
            raise RuntimeError('a change behind the message is not part of its transaction')
        if not self._ahead:
            self._ahead.append(self._begin)
        super().ahead(statement, args)

    def _run(self, statement: Statement, args: Sequence[Any]) -> psycopg2.extensions.cursor:
        if not self._ahead:
            return super()._run(statement, args)
        self.sent = True
        self._session.connection.takes_long = True
        try:
            return super()._run(statement, args)
        finally:
            self._session.connection.takes_long = False


class Inside:
    """Runs work inside a transaction that is open already, in place of a `Database`."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    def run(self, work: Callable[[Transaction], T]) -> T:
        """Run work as a part of the transaction: all of it, so that what fails is not taken for what comes next."""
        result = work(self._tx)
        self._tx.flush()
        return result

    def read_briefly(self, work: Callable[[Transaction], T], limit_s: float) -> T:
        """The same; one that is stopped spoils nothing of the transaction."""
        self._tx.execute(f'SAVEPOINT briefly; {_limit(limit_s)}')
        try:
            return work(self._tx)
        finally:  # which brings back the former limit, too
            self._tx.execute('ROLLBACK TO SAVEPOINT briefly; RELEASE SAVEPOINT briefly')

    def run_at_once(self, work: Callable[[Transaction], T], _answer: Callable[[Transaction, int], T]) -> T:
        """The same."""
        return self.run(work)

    def read(self, work: Callable[[Transaction], T]) -> T:
        """The same for work that only reads: no statement takes longer than outside."""
        with self._tx.limited():
            return work(self._tx)

    @contextmanager
    def snapshot(self) -> Iterator[Transaction]:
        """The transaction, to read from; it may see another state with each statement."""
        with self._tx.limited():
            yield self._tx


def _limit(limit_s: float) -> str:
    return f'SET LOCAL statement_timeout = {max(1, int(limit_s * 1000)):d}'


def _composable(statement: str | Composable) -> Composable:
    return SQL(statement) if isinstance(statement, str) else statement


@contextmanager
def _blocking() -> Iterator[None]:
    """Where psycopg2 can wait in its own way only."""
    wait = psycopg2.extensions.get_wait_callback()
    psycopg2.extensions.set_wait_callback(None)
    try:
        yield
    finally:
        psycopg2.extensions.set_wait_callback(wait)


class Database:
    """The connections of one process to PostgreSQL, named by a libpq connection string.

    most_sessions: so many are opened when as many calls run at once. One more waits for one of them.
    read_timeout_s: how long a statement of `read` may take.
    change_limit_s: how long a statement of `run` or `run_at_once` may take; then its session is given up, and ended if
    that is possible. None: as long as PostgreSQL answers others.
    idle_timeout_s: how long a transaction may wait for its next statement; then PostgreSQL ends it, and what can be run
    again is.
    meter: hears of what is run again, and of sessions.
    """

    def __init__(
        self,
        dsn: str,
        *,
        most_sessions: int = MOST_SESSIONS,
        read_timeout_s: float = READ_TIMEOUT_S,
        change_limit_s: float | None = None,
        idle_timeout_s: float = IDLE_TIMEOUT_S,
        meter: Meter = SILENT,
    ) -> None:
        self._dsn = dsn
        self._settings = (
            "SET timezone = 'UTC'; SET jit = off; SET standard_conforming_strings = on; "
            # Whatever is prepared is a look-up by key, here and in our SQL functions: planned once, not again
            # and again because a guess with the values at hand looks cheaper.
            'SET plan_cache_mode = force_generic_plan; '
            f'SET statement_timeout = {int(read_timeout_s * 1000):d}; '
            f'SET idle_in_transaction_session_timeout = {int(idle_timeout_s * 1000):d}; '
        )
        self._change_limit_s = change_limit_s
        self._idle: list[Session] = []  # the one that was used last is the one to use next
        self.most_sessions = most_sessions
        self._free = most_sessions  # as many may be taken
        self._meter = meter
        self._queue: deque[Callable[[], None]] = deque()  # who waits for one
        self._read_timeout_s = read_timeout_s
        self._read_limit_s = read_timeout_s + ANSWER_GRACE_S
        self._target = ''  # where the last session was opened: tried first, others may be gone and take their time
        self._away_since: float | None = None
        self._asking: dict[str | None, Asking] = {}  # whether it answers: there, or (None) anywhere

    def __repr__(self) -> str:
        return 'Database()'  # the connection string may hold a password

    def close(self) -> None:
        """Close the connections that are not in use; the next use opens another."""
        for session in self._idle:
            if session.is_ours:
                session.close()
        self._idle.clear()

    def _take(self) -> Session:
        """A session for the time being, opened now if none is idle; waits for one when all that may be are in use."""
        while self._away_since is not None or not self._free:
            if self._away_since is not None:
                self._ask(None)
            else:
                waiting.until(self._queue.append)
        self._free -= 1
        try:
            return self._idle_session() or self._open()
        except BaseException:
            self._let_go()
            raise

    def _open(self) -> Session:
        try:
            session = self._opened()
        except psycopg2.OperationalError as exc:
            self._note_away(exc)
            raise
        self._meter.session()
        target = session.target
        session.connection.doubt = lambda: self._ask(target)
        return session

    def _opened(self) -> Session:
        """A session with the first that lets us in."""
        problems = []
        for target in sorted(connecting.targets(self._dsn), key=lambda target: target != self._target):
            try:
                session = self._session(target)
            except psycopg2.OperationalError as exc:
                problems.append(exc)
            else:
                self._target = target
                return session
        raise connecting.together(problems)

    def _session(self, target: str) -> Session:
        return Session(target, self._settings, self._read_timeout_s)

    def _note_away(self, exc: psycopg2.Error) -> None:
        """It cannot be had: let those who wait for a session know."""
        if self._away_since is None:
            log.log(
                logging.INFO if self._target else logging.DEBUG, 'PostgreSQL is away: %s', ' '.join(str(exc).split())
            )
            self._away_since = time.monotonic()
        while self._queue:
            self._queue.popleft()()

    def _ask(self, target: str | None) -> None:
        """Raise when PostgreSQL is away: all, or the one that a session is with, and then only if it does not answer.

        One call asks; those that come meanwhile, or a moment later, are told the same.
        """
        asking = self._asking.get(target)
        if asking is None or asking.is_over():
            asking = self._asking[target] = Asking()
            asking.run(lambda: self._find_out(target))
        exc = asking.outcome()
        if exc is not None and (target is None or isinstance(exc, NoAnswerError)):
            raise type(exc)(*exc.args)

    def _find_out(self, target: str | None) -> None:
        try:
            session = self._opened() if target is None else self._session(target)
        except psycopg2.OperationalError as exc:
            if target is None or isinstance(exc, NoAnswerError):
                self._note_away(exc)
            raise
        session.close()
        if target is None and self._away_since is not None:
            log.info('PostgreSQL is back after %.1f s', time.monotonic() - self._away_since)
            self._away_since = None

    @property
    def in_use(self) -> int:
        """How many sessions are taken at the moment."""
        return self.most_sessions - self._free

    def _give_back(self, session: Session) -> None:
        if not session.connection.closed:
            self._idle.append(session)
        self._let_go()

    def _let_go(self) -> None:
        self._free += 1
        if self._queue:
            self._queue.popleft()()

    def _idle_session(self) -> Session | None:
        while self._idle:
            session = self._idle.pop()
            if session.is_ours:
                if not session.is_gone():
                    return session
                session.close()
        return None

    def run(self, work: Callable[[Transaction], T]) -> T:
        """Run work in one transaction and commit it; all of it or, when it raises, nothing."""
        return self._attempt(lambda session: _transaction(session, work), self._change_limit_s)

    def run_at_once(self, work: Callable[[Transaction], T], answer: Callable[[Transaction, int], T]) -> T:
        """As `run`, for work that changes by one message: by what runs `ahead` of its last statement.

        PostgreSQL runs a message in a transaction of its own, which saves the round trips of BEGIN and COMMIT and holds
        locks for half as long. Work may read before, and not as a part of it.

        When the connection is lost before its answer comes, the audit log tells whether it was committed: if not, it is
        run again, else `answer` is asked, with the id of the object that was changed.

        :raises NipapOutcomeUnknownError: because PostgreSQL does not come back in time.
        """
        # Chosen so that the index in which it is looked for grows at its end.
        change = time.time_ns() // 1000 << 11 | random.getrandbits(11)
        return self._again(lambda: self._at_once(work, answer, change))

    def read(self, work: Callable[[Transaction], T]) -> T:
        """Run work whose statements only read, each on its own: one round trip a statement, none longer than the limit.

        :raises NipapTimeoutError: a statement took longer than ``read_timeout_s``.
        """
        return self._attempt(lambda session: _statements(session, work), self._read_limit_s)

    def read_briefly(self, work: Callable[[Transaction], T], limit_s: float) -> T:
        """The same for one statement, in less time."""

        def limited(tx: Transaction) -> T:
            tx.ahead(_limit(limit_s))
            return work(tx)

        return self.read(limited)

    @contextmanager
    def snapshot(self) -> Iterator[Transaction]:
        """A transaction in which several statements see one state of the database, and change nothing.

        Each statement has the time that those of `read` have. Unlike these, what was begun is not begun again when the
        connection is lost; one that was lost before is replaced.
        """
        session, cursor = self._again(self._begin_snapshot)
        try:
            tx = Transaction(cursor, session)
            tx.sees_one_state = True
            yield tx
        except psycopg2.Error as exc:
            if session.connection.closed or is_without_room(exc):
                raise unavailable(exc) from exc
            raise
        finally:
            with suppress(psycopg2.Error):
                tracer.execute(cursor, 'ROLLBACK')
            self._give_back(session)

    def _begin_snapshot(self) -> tuple[Session, psycopg2.extensions.cursor]:
        session = self._take()
        try:
            session.connection.limit_s = self._read_limit_s
            cursor = session.connection.cursor()
            tracer.execute(cursor, 'BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY')
        except BaseException:
            self._give_back(session)
            raise
        return session, cursor

    def _attempt(self, once: Callable[[Session], T], limit_s: float | None = None) -> T:
        """Run once on a session, again as `_again` does."""

        def with_session() -> T:
            session = self._take()
            session.connection.limit_s = limit_s
            try:
                with self._using(session):
                    return once(session)
            except TooLongError:
                self._end(session)
                raise

        return self._again(with_session)

    @contextmanager
    def _using(self, session: Session) -> Iterator[None]:
        try:
            yield
        finally:
            self._give_back(session)

    def _end(self, former: Session) -> None:
        """Have PostgreSQL end a session that was given up, with its locks, as soon as it can."""
        end = f'SELECT pg_terminate_backend(pid) {THAT_SESSION}'
        with suppress(psycopg2.Error, errors.NipapError):
            session = self._take()
            session.connection.limit_s = self._read_limit_s
            with self._using(session):
                _statements(session, lambda tx: tx.execute(end, former.identity))

    def _again(self, once: Callable[[], T]) -> T:
        """Run once, again while the failure is one that running again may cure, and translate what is left."""
        began = time.monotonic()
        for attempt in itertools.count(1):
            try:
                return once()
            except psycopg2.Error as exc:
                error = translate(exc)
                if error is not None:
                    raise error from exc
                # In somebody's way it is tried often, without PostgreSQL for the time in which it starts again.
                if exc.pgcode in RETRY:
                    if attempt >= ATTEMPTS:
                        raise
                elif is_away(exc):
                    self.close()  # of a server that has become read-only no session helps
                    if isinstance(exc, RefusedError) or time.monotonic() > self._patient_until(began):
                        raise unavailable(exc) from exc
                elif is_without_room(exc):
                    raise unavailable(exc) from exc
                else:
                    raise
                log.debug('attempt %d failed (%s), trying again', attempt, exc.pgcode or 'connection lost')
                self._meter.retry()
                # Whoever was in the way needs a moment; not the same one for everybody.
                waiting.sleep(random.uniform(0, 0.002 * 2 ** min(attempt, 7)))
        raise AssertionError('unreachable')

    def _patient_until(self, began: float) -> float:
        """Who comes when PostgreSQL has been away for long has waited for it, as it were: else calls would pile up."""
        is_old = self._away_since is not None and began - self._away_since > PATIENCE_S
        return began + (LATER_PATIENCE_S if is_old else PATIENCE_S)

    def _at_once(self, work: Callable[[Transaction], T], answer: Callable[[Transaction, int], T], change: int) -> T:
        session = self._take()
        session.connection.limit_s = self._change_limit_s
        try:
            return _message(session, work, change)
        except _AnswerLostError as lost:
            exc = lost.error
        finally:
            self._give_back(session)
        changed = self._changed(session, change, exc)
        if changed is None:
            raise exc  # lost, as far as running it again goes
        return self.read(lambda tx: answer(tx, changed))

    def _changed(self, former: Session, change: int, lost: psycopg2.Error) -> int | None:
        """The id of the object that a change has changed whose answer never came; None when it was not committed."""

        def look(tx: Transaction) -> int | None:
            # As long as its session is there it may still be committed.
            tx.execute(f'SELECT pg_terminate_backend(pid, 5000) {THAT_SESSION}', former.identity)
            if tx.value(f'SELECT 1 {THAT_SESSION}', former.identity):
                raise errors.NipapOutcomeUnknownError(OUTCOME_UNKNOWN)
            found: int | None = tx.value('SELECT object_id FROM audit_log WHERE change = %s LIMIT 1', (change,))
            return found

        try:
            return self.read(look)
        except (psycopg2.Error, errors.NipapUnavailableError):
            raise errors.NipapOutcomeUnknownError(OUTCOME_UNKNOWN) from lost


class _AnswerLostError(Exception):
    """The connection ended behind a change and before its answer."""

    def __init__(self, error: psycopg2.Error) -> None:
        super().__init__(str(error))
        self.error = error


def _transaction(session: Session, work: Callable[[Transaction], T]) -> T:
    with session.connection.cursor() as cursor:
        tx = Transaction(cursor, session)
        tx.ahead(f'BEGIN; {CHANGING}')
        try:
            result = work(tx)
            tx.flush()
        except BaseException:
            if session.connection.info.transaction_status != psycopg2.extensions.TRANSACTION_STATUS_IDLE:
                with suppress(psycopg2.Error):
                    tracer.execute(cursor, 'ROLLBACK')
            raise
        _commit(session, cursor)
        return result


def _commit(session: Session, cursor: psycopg2.extensions.cursor) -> None:
    try:
        tracer.execute(cursor, 'COMMIT')
    except psycopg2.Error as exc:
        if not _is_lost(session, exc):
            raise
        raise errors.NipapOutcomeUnknownError(OUTCOME_UNKNOWN) from exc
    if cursor.statusmessage != 'COMMIT':
        # PostgreSQL rolls back, without an error, what a failed statement has spoilt.
        raise RuntimeError(f'the transaction ended in {cursor.statusmessage}')


def _message(session: Session, work: Callable[[Transaction], T], change: int) -> T:
    with session.connection.cursor() as cursor:
        tx = OneMessage(cursor, session, change)
        try:
            result = work(tx)
            tx.flush()
        except psycopg2.Error as exc:
            if tx.sent and _is_lost(session, exc):
                raise _AnswerLostError(exc) from exc
            raise
        return result


def _statements(session: Session, work: Callable[[Transaction], T]) -> T:
    with session.connection.cursor() as cursor:
        return work(Transaction(cursor, session))


def _is_lost(session: Session, exc: psycopg2.Error) -> bool:
    """Whether the connection ended before the answer; PostgreSQL may have said that it ends it (57P01, 57P02)."""
    ended = exc.pgcode is None or is_away(exc)
    return ended and bool(session.connection.closed)
