"""The only place that takes connections and owns transactions, and says when one is run again.

A :class:`Database` belongs to one process: it connects on first use, so nothing is shared across a fork. Work is a
function of a :class:`Transaction`; it is run again when PostgreSQL says that running it again may help (deadlock,
serialization failure) or when the connection was lost before COMMIT was sent.
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
LockNotAvailable = psycopg2.errors.LockNotAvailable  # 55P03: after lock_timeout, where a transaction has set one
T = TypeVar('T')

ATTEMPTS = 20
PATIENCE_S = 8.0
LATER_PATIENCE_S = 1.0  # once PostgreSQL has been away for that long
MOST_SESSIONS = 8
OUTCOME_UNKNOWN = (
    'The connection to the database was lost while the change was being committed: its outcome is unknown.'
)
THAT_SESSION = 'FROM pg_stat_activity WHERE pid = %s AND backend_start = %s::timestamptz'
READ_TIMEOUT_S = 20.0  # a regular expression can keep PostgreSQL busy for minutes
# A process that stands still in a transaction (stopped, swapped out) keeps its locks, and keeps every version of a row
# from being removed that its snapshot might see. What we do between two statements takes moments.
IDLE_TIMEOUT_S = 60.0


class Database:
    """The connections of one process to PostgreSQL, named by a libpq connection string.

    most_sessions: so many are opened when as many calls run at once. One more waits for one of them.
    share: the number of sessions that one party may use while others wait. A quarter of all is kept for parties that
    use fewer. None: parties do not matter. note_waiting: called with a party that waits because of its share.
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
        share: int | None = None,
        note_waiting: Callable[[Party], None] = lambda _: None,
    ) -> None:
        self._dsn = dsn
        self._settings = (
            "SET timezone = 'UTC'; SET jit = off; SET standard_conforming_strings = on; "
            # Whatever is prepared is a look-up by key, here and in our SQL functions: planned once, not again
            # and again because a guess with the values at hand looks cheaper.
            'SET plan_cache_mode = force_generic_plan; '
            f'SET statement_timeout = {int(read_timeout_s * 1000):d}; '
            f'SET idle_in_transaction_session_timeout = {int(idle_timeout_s * 1000):d}; '
            f'{migrations.search_path()}'
        )
        self._change_limit_s = change_limit_s
        self._idle: list[Session] = []  # the one that was used last is the one to use next
        self.most_sessions = most_sessions
        kept = 0 if share is None else most_sessions // 4
        self._places = Places(most_sessions - kept, share or most_sessions, kept, reached=note_waiting)
        self._meter = meter
        self._read_timeout_s = read_timeout_s
        self._read_limit_s = read_timeout_s + ANSWER_GRACE_S
        self._target = ''  # where the last session was opened: tried first, others may be gone and take their time
        self._away_since: float | None = None
        self._back_since = 0.0
        self._asking: dict[str | None, Asking] = {}  # whether it answers: there, or (None) anywhere
        self._joining: Joining[Addition[Any], Any] = Joining(self._add_alone, self._add_together)

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
        self._places.drop_all()

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
            self._away_since, self._back_since = None, time.monotonic()

    @property
    def in_use(self) -> int:
        """How many sessions are taken at the moment."""
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
        """Run work in one transaction and commit it; all of it or, when it raises, nothing."""
        call = new_number()
        return self._attempt(lambda session: _transaction(session, work, call, outcome), self._change_limit_s)

    def run_at_once(
        self,
        work: Callable[[Transaction], T],
        answer: Callable[[Transaction, int], T],
        outcome: Outcome | None = None,
    ) -> T:
        """As `run`, for work that changes by one message: by what runs `ahead` of its last statement.

        PostgreSQL runs a message in a transaction of its own, which saves the round trips of BEGIN and COMMIT and holds
        locks for half as long. Work may read before, and not as a part of it.

        When the connection is lost before its answer comes, the audit log tells whether it was committed: if not, it is
        run again, else `answer` is asked, with the id of the object that was changed.

        :raises NipapOutcomeUnknownError: because PostgreSQL does not come back in time.
        """
        call, told = new_number(), outcome or Outcome()
        return self._again(lambda: self._at_once(work, answer, call, told))

    def add_joined(self, key: Hashable, addition: Addition[T], outcome: Outcome | None = None) -> T:
        """Add an object as `run_at_once` does; those that come while one with the same key is added, in one message.

        The key stands for what they lock: alone they would wait for one another in PostgreSQL, each for the commit of
        the one before. When PostgreSQL refuses one of them, each is added alone.
        """
        addition.outcome = outcome or addition.outcome
        return self._joining.run(key, addition)  # type: ignore[no-any-return]  # of an addition with any result

    def read(self, work: Callable[[Transaction], T]) -> T:
        """Run work whose statements only read, each on its own: one round trip a statement, none longer than the limit.

        :raises NipapTimeoutError: a statement took longer than ``read_timeout_s``.
        """
        return self._attempt(lambda session: self._statements(session, work), self._read_limit_s)

    def _statements(self, session: Session, work: Callable[[Transaction], T]) -> T:
        with session.connection.cursor() as cursor:
            return work(Reading(cursor, session, self.snapshot))

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
                self._statements(session, lambda tx: tx.execute(end, former.identity))

    def _again(self, once: Callable[[], T], began: float | None = None) -> T:
        """Run once, again while the failure is one that running again may cure, and translate what is left."""
        began = time.monotonic() if began is None else began
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
                # Whoever was in the way needs a moment; not the same one for everybody.
                waiting.sleep(random.uniform(0, 0.002 * 2 ** min(attempt, 7)))
        raise AssertionError('unreachable')

    def _patient_until(self, began: float) -> float:
        """Who comes when PostgreSQL has been away for long has waited for it, as it were: else calls would pile up."""
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
        """The answer that never came; raises what lost it when the change was not committed."""
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
        except (psycopg2.Error, errors.NipapError):  # which of them it was, each finds out
            pass
        finally:
            self._give_back(session)
        return None

    def _changed(self, former: Session, call: int, lost: psycopg2.Error) -> tuple[int, int] | None:
        """The change set of a call whose answer never came, and the id of the object that the call has changed.

        None: it was not committed.
        """

        def look(tx: Transaction) -> tuple[int, int] | None:
            # As long as its session is there it may still be committed.
            tx.execute(f'SELECT pg_terminate_backend(pid, 5000) {THAT_SESSION}', former.identity)
            if tx.value(f'SELECT 1 {THAT_SESSION}', former.identity):
                raise errors.NipapOutcomeUnknownError(OUTCOME_UNKNOWN)
            found = tx.one(_COMMITTED, (call,))
            return None if found is None else (found[0], found[1])

        try:
            return self.read(look)
        except (psycopg2.Error, errors.NipapUnavailableError):
            raise errors.NipapOutcomeUnknownError(OUTCOME_UNKNOWN) from lost


_COMMITTED = """SELECT s.id, a.object_id FROM change_set s JOIN audit_log a ON a.change_set = s.id
WHERE s.call = %s ORDER BY a.id LIMIT 1"""


class _AnswerLostError(Exception):
    """The connection ended behind a change and before its answer."""

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
        # The answer to an edit has told it already.
        asks = outcome is not None and tx.change_set is None
        _commit(session, cursor, asked=f'; SELECT {CHANGE_SET}' if asks else '')
        if asks:
            tx.note((cursor.fetchone() or ('',))[0])
        if outcome is not None:
            outcome.change_set = tx.change_set
        return result


def _commit(session: Session, cursor: psycopg2.extensions.cursor, asked: str) -> None:
    """Commit, and ask for something behind it in the same message, as a round trip takes longer."""
    if session.connection.info.transaction_status == psycopg2.extensions.TRANSACTION_STATUS_INERROR:
        # PostgreSQL would roll back, without an error, what a failed statement has spoilt.
        raise RuntimeError('the transaction has failed, and whoever ran it has not said so')
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
    """Whether the connection ended before the answer; PostgreSQL may have said that it ends it (57P01, 57P02)."""
    ended = exc.pgcode is None or is_away(exc)
    return ended and bool(session.connection.closed)
