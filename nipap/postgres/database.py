"""The only module that takes connections, owns transactions and decides on retries.

A :class:`Database` belongs to one process: it connects on first use, so nothing is shared across a fork. Work is a
function of a :class:`Transaction`. It is retried when PostgreSQL reports an error that a retry may cure (deadlock,
serialization failure), or when the connection was lost before COMMIT was sent.
"""

from __future__ import annotations

import itertools
import logging
import random
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import psycopg2
import psycopg2.errors
import psycopg2.extensions

from nipap import errors
from nipap.postgres import connecting, migrations
from nipap.postgres.connecting import Asking, NoAnswerError, RefusedError, TooLongError
from nipap.postgres.joining import Joining
from nipap.postgres.session import Session
from nipap.postgres.sqlstates import RETRY, is_away, is_without_room, translate, unavailable
from nipap.postgres.transaction import (
    ANSWER_GRACE_S,
    CHANGE_SET,
    CHANGING,
    SET_CALL,
    Addition,
    OneMessage,
    Outcome,
    Reading,
    Transaction,
    new_number,
    send,
)
from nipap.runtime import places, tracer, waiting
from nipap.runtime.meter import SILENT, Meter
from nipap.runtime.places import Party, Places

log = logging.getLogger('nipap.postgres.database')
# 55P03: a lock was not available within lock_timeout, where a transaction has set one.
LockNotAvailable = psycopg2.errors.LockNotAvailable
T = TypeVar('T')

ATTEMPTS = 20
PATIENCE_S = 8.0
LATER_PATIENCE_S = 1.0  # for a call that begins when PostgreSQL has been away for `PATIENCE_S`
MOST_SESSIONS = 8
OUTCOME_UNKNOWN = (
    'The connection to the database was lost while the change was being committed: its outcome is unknown.'
)
THAT_SESSION = 'FROM pg_stat_activity WHERE pid = %s AND backend_start = %s::timestamptz'
LOCK_PATIENCE_S = 2.0  # for each lock of a dry run
BUSY = (
    f'Another change holds a lock that this dry run needs, and did not end within {LOCK_PATIENCE_S:g} seconds. '
    'The call can be made again.'
)
READ_TIMEOUT_S = 20.0  # a regular expression can keep PostgreSQL busy for minutes
# A process that is stopped or swapped out in a transaction keeps its locks. It also prevents the removal of all row
# versions that its snapshot might see. Our code between two statements takes moments.
IDLE_TIMEOUT_S = 60.0


class Database:
    """The connections of one process to PostgreSQL, named by a libpq connection string.

    most_sessions: the limit of open sessions. Sessions are opened as concurrent calls need them; further calls wait for
        one.
    share: the number of sessions that one party may use while other parties wait. A quarter of all sessions is kept for
        parties that use fewer. None: parties do not matter.
    note_waiting: called with a party that waits because of its share.
    read_timeout_s: the time limit of a statement of `read`.
    change_limit_s: the time limit of a statement of `run` or `run_at_once`. After it the session is given up, and
        terminated if possible. None: no limit while PostgreSQL answers other connections.
    idle_timeout_s: how long a transaction may wait for its next statement. After it PostgreSQL ends the transaction,
        and work that can be retried is retried.
    meter: counts retries and sessions.
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
        share: int | None = None,
        note_waiting: Callable[[Party], None] = lambda _: None,
    ) -> None:
        self._dsn = dsn
        self._settings = (
            "SET timezone = 'UTC'; SET jit = off; SET standard_conforming_strings = on; "
            # Every prepared statement is a look-up by key, here and in our SQL functions. It is planned once, instead
            # of each time a plan for the actual values looks cheaper.
            'SET plan_cache_mode = force_generic_plan; '
            f'SET statement_timeout = {int(read_timeout_s * 1000):d}; '
            f'SET idle_in_transaction_session_timeout = {int(idle_timeout_s * 1000):d}; '
            f'{migrations.search_path()}'
        )
        self._change_limit_s = change_limit_s
        self._idle: list[Session] = []  # last in, first out
        self.most_sessions = most_sessions
        kept = 0 if share is None else most_sessions // 4
        self._places = Places(most_sessions - kept, share or most_sessions, kept, reached=note_waiting)
        self._meter = meter
        self._read_timeout_s = read_timeout_s
        self._read_limit_s = read_timeout_s + ANSWER_GRACE_S
        # The server of the last session. It is tried first, because other servers may be down and slow to time out.
        self._target = ''
        self._away_since: float | None = None
        self._back_since = 0.0
        # The probes: of a server, or (None) of all servers in turn.
        self._asking: dict[str | None, Asking] = {}
        self._joining: Joining[Addition[Any], Any] = Joining(self._add_alone, self._add_together)

    def __repr__(self) -> str:
        return 'Database()'  # the connection string may hold a password

    def close(self) -> None:
        """Close the connections that are not in use. The next use opens a new connection."""
        for session in self._idle:
            if session.is_ours:
                session.close()
        self._idle.clear()

    def _take(self) -> Session:
        """Take an idle session, or open one. Wait while all permitted sessions are in use or PostgreSQL is away."""
        party = places.current()
        while self._away_since is not None or not (self._places.take(party) or self._places.await_place(party)):
            if self._away_since is not None:
                self._ask(None)
        try:
            session = self._idle_session() or self._open()
        except BaseException:
            self._places.give_back(party)
            raise
        session.party = party
        return session

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
        """Open a session with the first server that accepts it."""
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
        """Mark PostgreSQL as unavailable and wake every caller that waits for a session."""
        if self._away_since is None:
            log.log(
                logging.INFO if self._target else logging.DEBUG, 'PostgreSQL is away: %s', ' '.join(str(exc).split())
            )
            self._away_since = time.monotonic()
        self._places.drop_all()

    def _ask(self, target: str | None) -> None:
        """Probe PostgreSQL, and raise an error if it is unavailable.

        target: the server of a session, which is unavailable only if it does not answer at all. None: all servers.

        One call runs the probe. Calls that arrive during the probe, or up to `MOMENT_S` later, get the same result.
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
            self._away_since, self._back_since = None, time.monotonic()

    @property
    def in_use(self) -> int:
        """Return the number of sessions in use."""
        return self._places.taken

    def _give_back(self, session: Session) -> None:
        if not session.connection.closed:
            self._idle.append(session)
        self._places.give_back(session.party)

    def _idle_session(self) -> Session | None:
        while self._idle:
            session = self._idle.pop()
            if session.is_ours:
                if not session.is_gone():
                    return session
                session.close()
        return None

    def run(self, work: Callable[[Transaction], T], outcome: Outcome | None = None) -> T:
        """Run work in one transaction and commit it. If the work raises an error, nothing is changed."""
        call = new_number()
        return self._attempt(lambda session: _transaction(session, work, call, outcome), self._change_limit_s)

    def rehearse(self, work: Callable[[Transaction], T], ready: str) -> T:
        """Run work in one transaction, and roll the transaction back.

        ready: a statement that each session runs once, before its first such transaction.

        :raises NipapBusyError: a lock was not free within `LOCK_PATIENCE_S`.
        """
        call = new_number()
        try:
            return self._attempt(lambda session: _rehearsal(session, work, call, ready), self._change_limit_s)
        except LockNotAvailable as exc:
            raise errors.NipapBusyError(BUSY) from exc

    def run_at_once(
        self,
        work: Callable[[Transaction], T],
        answer: Callable[[Transaction, int], T],
        outcome: Outcome | None = None,
    ) -> T:
        """Run work that makes its change by one message: its last statement with all statements `ahead` of it.

        PostgreSQL runs a message in a transaction of its own. This saves the round trips of BEGIN and COMMIT and holds
        locks for half as long. Work may read before the message, outside its transaction.

        If the connection is lost before the answer arrives, the audit log shows whether the change was committed. If it
        was not, the work is run again. If it was, `answer` is called with the id of the changed object.

        :raises NipapOutcomeUnknownError: PostgreSQL does not come back in time.
        """
        call, told = new_number(), outcome or Outcome()
        return self._again(lambda: self._at_once(work, answer, call, told))

    def add_joined(self, key: Hashable, addition: Addition[T], outcome: Outcome | None = None) -> T:
        """Add an object as `run_at_once` does. Additions that arrive while one with the same key runs share a message.

        The key stands for the locks of an addition. Alone, additions with one key would wait for one another in
        PostgreSQL, each for the commit of the one before. If PostgreSQL refuses one addition of a message, each is
        added alone.
        """
        addition.outcome = outcome or addition.outcome
        return self._joining.run(key, addition)  # type: ignore[no-any-return]  # of an addition with any result

    def read(self, work: Callable[[Transaction], T]) -> T:
        """Run work that only reads. Each statement is a transaction and one round trip, with the limit of reads.

        :raises NipapTimeoutError: a statement took longer than ``read_timeout_s``.
        """
        return self._attempt(lambda session: self._statements(session, work), self._read_limit_s)

    def _statements(self, session: Session, work: Callable[[Transaction], T]) -> T:
        with session.connection.cursor() as cursor:
            return work(Reading(cursor, session, self.snapshot))

    @contextmanager
    def snapshot(self) -> Iterator[Transaction]:
        """Yield a read-only transaction in which all statements see one state of the database.

        Each statement has the time limit of `read`. A session lost before the snapshot begins is replaced. A snapshot
        lost later is not retried.
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
        """Run `once` on a session, with the retries of `_again`."""

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
        """Terminate a session that was given up as soon as PostgreSQL can, so that its locks are released."""
        end = f'SELECT pg_terminate_backend(pid) {THAT_SESSION}'
        with suppress(psycopg2.Error, errors.NipapError):
            session = self._take()
            session.connection.limit_s = self._read_limit_s
            with self._using(session):
                self._statements(session, lambda tx: tx.execute(end, former.identity))

    def _again(self, once: Callable[[], T], began: float | None = None) -> T:
        """Run `once`, retry while a retry may cure the failure, and translate the final error."""
        began = time.monotonic() if began is None else began
        for attempt in itertools.count(1):
            try:
                return once()
            except psycopg2.Error as exc:
                error = translate(exc)
                if error is not None:
                    raise error from exc
                # A conflict is retried up to `ATTEMPTS` times. Without PostgreSQL a call is retried for the time that a
                # restart takes.
                if exc.pgcode in RETRY:
                    if attempt >= ATTEMPTS:
                        raise
                elif is_away(exc):
                    self.close()  # all sessions: with a server that has become read-only they are useless
                    is_back = self._away_since is None and self._back_since > began and attempt < ATTEMPTS
                    impatient = time.monotonic() > self._patient_until(began) and not is_back
                    if isinstance(exc, RefusedError) or impatient:
                        raise unavailable(exc) from exc
                elif is_without_room(exc):
                    raise unavailable(exc) from exc
                else:
                    raise
                log.debug('attempt %d failed (%s), trying again', attempt, exc.pgcode or 'connection lost')
                self._meter.retry()
                # Give the conflicting transaction time to end. The delay is random, so that retries do not collide
                # again.
                waiting.sleep(random.uniform(0, 0.002 * 2 ** min(attempt, 7)))
        raise AssertionError('unreachable')

    def _patient_until(self, began: float) -> float:
        """Return the time until which a call is retried while PostgreSQL is away.

        A call that begins when PostgreSQL has been away for more than `PATIENCE_S` waits for `LATER_PATIENCE_S` only;
        else calls would pile up.
        """
        is_old = self._away_since is not None and began - self._away_since > PATIENCE_S
        return began + (LATER_PATIENCE_S if is_old else PATIENCE_S)

    def _at_once(
        self, work: Callable[[OneMessage], T], answer: Callable[[Transaction, int], T], call: int, outcome: Outcome
    ) -> T:
        session = self._take()
        session.connection.limit_s = self._change_limit_s
        try:
            return _message(session, work, call, outcome)
        except _AnswerLostError as lost:
            exc = lost.error
        finally:
            self._give_back(session)
        return self._answered(session, exc, answer, call, outcome)

    def _answered(
        self,
        former: Session,
        lost: psycopg2.Error,
        answer: Callable[[Transaction, int], T],
        call: int,
        outcome: Outcome,
    ) -> T:
        """Return the answer to a call whose answer was lost. Raise `lost` if the change was not committed."""
        changed = self._changed(former, call, lost)
        if changed is None:
            raise lost
        outcome.change_set, object_id = changed
        try:
            return self.read(lambda tx: answer(tx, object_id))
        except (psycopg2.Error, errors.NipapUnavailableError):
            raise errors.NipapOutcomeUnknownError(OUTCOME_UNKNOWN) from lost

    def _add_alone(self, addition: Addition[T]) -> T:
        def once() -> T:
            lost, addition.lost = addition.lost, None
            if lost is not None:
                return self._answered(*lost, addition.answer, addition.number, addition.outcome)
            found = self._at_once(
                lambda tx: send(tx, [addition])[0], addition.answer, addition.number, addition.outcome
            )
            if isinstance(found, Exception):
                raise found
            return found

        return self._again(once, addition.began)

    def _add_together(self, additions: list[Addition[T]]) -> list[T | Exception] | None:
        try:
            session = self._take()
        except psycopg2.Error:
            return None
        session.connection.limit_s = self._change_limit_s
        try:
            return _message(session, lambda tx: send(tx, additions), additions[0].number, Outcome())
        except _AnswerLostError as lost:
            for addition in additions:
                addition.lost = session, lost.error
        except (psycopg2.Error, errors.NipapError):  # each addition, added alone, then reports its own error
            pass
        finally:
            self._give_back(session)
        return None

    def _changed(self, former: Session, call: int, lost: psycopg2.Error) -> tuple[int, int] | None:
        """Return the change set of a call whose answer was lost, and the id of the object that the call has changed.

        None: the change was not committed.
        """

        def look(tx: Transaction) -> tuple[int, int] | None:
            # The change may still be committed while the former session exists.
            tx.execute(f'SELECT pg_terminate_backend(pid, 5000) {THAT_SESSION}', former.identity)
            if tx.value(f'SELECT 1 {THAT_SESSION}', former.identity):
                raise errors.NipapOutcomeUnknownError(OUTCOME_UNKNOWN)
            found = tx.one(_COMMITTED, (call,))
            return None if found is None else (found[0], found[1])

        try:
            return self.read(look)
        except (psycopg2.Error, errors.NipapUnavailableError):
            raise errors.NipapOutcomeUnknownError(OUTCOME_UNKNOWN) from lost


_COMMITTED = """SELECT s.id, a.object_id FROM change_set s
JOIN audit_log a ON a.change_set = s.id AND a.id > s.entries_after
WHERE s.call = %s ORDER BY a.id LIMIT 1"""


class _AnswerLostError(Exception):
    """The connection was lost after a change was sent and before its answer arrived."""

    def __init__(self, error: psycopg2.Error) -> None:
        super().__init__(str(error))
        self.error = error


def _transaction(session: Session, work: Callable[[Transaction], T], call: int, outcome: Outcome | None) -> T:
    with session.connection.cursor() as cursor:
        tx = Transaction(cursor, session, call)
        tx.ahead(f'BEGIN; {CHANGING}; {SET_CALL % call}')
        try:
            result = work(tx)
            tx.flush()
        except BaseException:
            if session.connection.info.transaction_status != psycopg2.extensions.TRANSACTION_STATUS_IDLE:
                with suppress(psycopg2.Error):
                    tracer.execute(cursor, 'ROLLBACK')
            raise
        # The answer to an edit already contains the change set.
        asks = outcome is not None and tx.change_set is None
        _commit(session, cursor, asked=f'; SELECT {CHANGE_SET}' if asks else '')
        if asks:
            tx.note((cursor.fetchone() or ('',))[0])
        if outcome is not None:
            outcome.change_set = tx.change_set
        return result


def _rehearsal(session: Session, work: Callable[[Transaction], T], call: int, ready: str) -> T:
    with session.connection.cursor() as cursor:
        if not session.is_ready:
            tracer.execute(cursor, ready)
            session.is_ready = True
        tx = Transaction(cursor, session, call)
        tx.ahead(f'BEGIN; {CHANGING}; SET LOCAL lock_timeout = {int(LOCK_PATIENCE_S * 1000):d}; {SET_CALL % call}')
        try:
            result = work(tx)
            tx.flush()
            return result
        finally:
            if session.connection.info.transaction_status != psycopg2.extensions.TRANSACTION_STATUS_IDLE:
                with suppress(psycopg2.Error):
                    tracer.execute(cursor, 'ROLLBACK')


def _commit(session: Session, cursor: psycopg2.extensions.cursor, asked: str) -> None:
    """Commit. Run the statements of `asked` after COMMIT in the same message, which saves a round trip."""
    if session.connection.info.transaction_status == psycopg2.extensions.TRANSACTION_STATUS_INERROR:
        # COMMIT of a failed transaction rolls back without an error.
        raise RuntimeError('the transaction has failed, but its error was not raised')
    try:
        tracer.execute(cursor, f'COMMIT{asked}')
    except psycopg2.Error as exc:
        if not _is_lost(session, exc):
            raise
        raise errors.NipapOutcomeUnknownError(OUTCOME_UNKNOWN) from exc


def _message(session: Session, work: Callable[[OneMessage], T], call: int, outcome: Outcome) -> T:
    with session.connection.cursor() as cursor:
        tx = OneMessage(cursor, session, call)
        try:
            result = work(tx)
            tx.flush()
        except psycopg2.Error as exc:
            if tx.sent and _is_lost(session, exc):
                raise _AnswerLostError(exc) from exc
            raise
        outcome.change_set = tx.change_set_of(call)
        return result


def _is_lost(session: Session, exc: psycopg2.Error) -> bool:
    """Return whether the connection ended before the answer. PostgreSQL may have announced the end (57P01, 57P02)."""
    ended = exc.pgcode is None or is_away(exc)
    return ended and bool(session.connection.closed)
