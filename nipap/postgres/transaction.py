"""Transactions: an open one, one that is a single message, and work as a part of another transaction.

This module neither opens connections nor commits: `nipap.postgres.database` does.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import psycopg2
import psycopg2.extensions
from psycopg2.sql import SQL, Composable

from nipap.errors import NipapError
from nipap.postgres.session import Session
from nipap.postgres.sqlstates import translate
from nipap.runtime import tracer

T = TypeVar('T')
Row = tuple[Any, ...]
Statement = str | bytes | Composable
Expression = psycopg2.extensions.AsIs  # SQL in the place of an argument

ANSWER_GRACE_S = 5.0  # for PostgreSQL to report that it stopped a search
# PostgreSQL keeps the plans of functions and prepared statements. A plan made while a table is small must serve when
# the table is big. So plans are made without scans of whole tables wherever there is an index.
CHANGING = 'SET LOCAL statement_timeout = 0; SET LOCAL enable_seqscan = off'
# The last call that changed something and its change set, as ``call/number``.
CHANGE_SET = "current_setting('nipap.change_set', true)"
SET_CALL = 'SET LOCAL nipap.change = %d'
MOST_PREPARED = 100
MOST_PARAMETERS = 1000


@dataclass
class Outcome:
    """The change set of a call, known once the call is answered; None if nothing was changed.

    `Database.run` and its siblings fill in the given outcome.
    """

    change_set: int | None = None


class Readable(Protocol):
    """A file-like source of rows."""

    def read(self, size: int = ..., /) -> bytes: ...

    def readline(self, size: int = ..., /) -> bytes: ...


class Transaction:
    """An open transaction. Statements run on it, and rows are returned as tuples.

    sees_one_state: all statements see the same state of the database.
    shows_past: the tables are views of a state of the past, which have computed columns in place of stored ones.
    each_statement_alone: a failed statement does not affect other statements.
    call: the number under which the database records changes from now on; None if nothing is changed.
    """

    sees_one_state = False
    shows_past = False
    each_statement_alone = False

    def __init__(self, cursor: psycopg2.extensions.cursor, session: Session, call: int | None = None) -> None:
        self._cursor = cursor
        self._session = session
        self.call = call
        self._change_sets: dict[int, int] = {}  # change sets by call
        self._prepared = session.prepared
        self._ahead: list[bytes] = []
        self._parts = 0  # the number of open parts
        # The time limit of each statement: the wanted one, and the one that PostgreSQL has.
        self._limit_s = self._limited_s = 0.0

    @property
    def change_set(self) -> int | None:
        """The number of the call's change set; None if nothing was changed, or PostgreSQL has not reported it yet."""
        return None if self.call is None else self._change_sets.get(self.call)

    def change_set_of(self, call: int) -> int | None:
        """Return the number of the change set of a call of this transaction; None if it is not known."""
        return self._change_sets.get(call)

    def note(self, told: str | None) -> None:
        """Note the change sets of calls: ``call/number`` as `CHANGE_SET` reads it, or several with blanks between."""
        for each in (told or '').split():
            call, _, number = each.partition('/')
            if call.isdigit():
                self._change_sets[int(call)] = int(number)

    @contextmanager
    def snapshot(self) -> Iterator[Transaction]:
        """Yield this transaction to read a long answer. Its statements then have the time limit of reads."""
        with self.limited():
            yield self

    @contextmanager
    def part(self) -> Iterator[None]:
        """Undo the work in the context if it raises an error of the client. The transaction goes on."""
        before, limited_s = len(self._ahead), self._limited_s
        # Each depth has its own name: the release of an inner part may still be queued when this one is undone.
        name = b'part_%d' % self._parts
        begin = b'SAVEPOINT ' + name
        self._ahead.append(begin)
        self._parts += 1
        try:
            yield
            self.flush()
        except NipapError:
            if any(statement is begin for statement in self._ahead):  # nothing was sent
                del self._ahead[before:]
            else:
                self._ahead.clear()
                self.execute(b'ROLLBACK TO SAVEPOINT %b; RELEASE SAVEPOINT %b' % (name, name))
            self._limited_s = limited_s
            raise
        finally:
            self._parts -= 1
        self._ahead.append(b'RELEASE SAVEPOINT ' + name)

    def briefly(self, work: Callable[[Transaction], T], limit_s: float) -> T:
        """Run work that reads, with a time limit for each statement. A timeout does not abort the transaction."""
        self.execute(f'SAVEPOINT briefly; {limit(limit_s)}')
        try:
            return work(self)
        # The rollback restores the former limit, too.
        finally:
            self.execute('ROLLBACK TO SAVEPOINT briefly; RELEASE SAVEPOINT briefly')

    @contextmanager
    def limited(self) -> Iterator[None]:
        """Give each statement in the context the time limit of `Database.read`."""
        self._limit_s = self._session.read_timeout_s
        connection = self._session.connection
        former_s, connection.limit_s = connection.limit_s, self._limit_s + ANSWER_GRACE_S
        try:
            yield
        finally:
            self._limit_s, connection.limit_s = 0.0, former_s

    def ahead(self, statement: Statement, args: Sequence[Any] = ()) -> None:
        """Queue a statement to run just before the next one, in the same round trip. Its answer is dropped."""
        self._know_limit()
        self._ahead.append(self._cursor.mogrify(statement, args or None))

    def change(self, statement: Statement, args: Sequence[Any] = ()) -> None:
        """Run a statement that changes something, after all queued statements. Note the `CHANGE_SET` it returns."""
        self.ahead(statement, args)
        found = self._run(self._ahead.pop(), ()).fetchone()
        self.note(found[0] if found else None)

    def flush(self) -> None:
        """Run all queued statements now."""
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
        """Run a statement; return the number of rows it touched."""
        return self._run(statement, args).rowcount

    def all(self, statement: Statement, args: Sequence[Any] = ()) -> list[Row]:
        """Run a statement; return all rows of its answer."""
        return self._run(statement, args).fetchall()

    def all_prepared(self, statement: str, args: Sequence[Any]) -> list[Row]:
        """Run a frequent statement, which PostgreSQL plans only a few times; return all rows of its answer.

        Planning takes longer than a look-up of a row by key. The best plan of the statement must not depend on its
        arguments. An argument may be an `Expression`, computed when the statement begins.
        """
        name = self._prepared.get(statement)
        if name is None:
            if len(args) > MOST_PARAMETERS:
                return self.all(statement, args)
            if len(self._prepared) >= MOST_PREPARED:  # statements in use are prepared again
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
        """Run a prepared statement for the first time. PostgreSQL makes the plan then."""
        idle = self._cursor.connection.info.transaction_status == psycopg2.extensions.TRANSACTION_STATUS_IDLE
        if self._ahead or not idle:
            # The beginning of a transaction has set how plans are made.
            return self._execution(name, args)
        self._run('SET enable_seqscan = off', ())
        try:
            return self._execution(name, args)
        finally:
            with suppress(psycopg2.Error):
                self._run('RESET enable_seqscan', ())

    def _execution(self, name: str, args: Sequence[Any]) -> list[Row]:
        return self.all(f'EXECUTE {name} ({", ".join(["%s"] * len(args))})' if args else f'EXECUTE {name}', args)

    def one(self, statement: Statement, args: Sequence[Any] = ()) -> Row | None:
        """Run a statement; return the first row of its answer, None without a row."""
        return self._run(statement, args).fetchone()

    def value(self, statement: Statement, args: Sequence[Any] = ()) -> Any:
        """Run a statement; return the first column of the first row, None without a row."""
        row = self.one(statement, args)
        return row[0] if row else None

    def copy_in(self, statement: str, rows: Readable) -> None:
        """Run a ``COPY … FROM stdin`` with these rows, in the text format of PostgreSQL."""
        self.flush()
        with _blocking():
            self._cursor.copy_expert(statement, rows)

    def stream(self, statement: str | Composable, args: Sequence[Any] = (), *, chunk: int = 5000) -> Iterator[Row]:
        """Yield the rows of a large answer, fetched in chunks.

        A transaction must be open (`Database.run`), and can have only one stream at a time.
        """
        self._run(SQL('DECLARE stream NO SCROLL CURSOR FOR ') + _composable(statement), args)
        try:
            while rows := self.all(f'FETCH {chunk:d} FROM stream'):
                yield from rows
        # The caller stopped early, perhaps because the transaction has failed. The cursor is closed already then.
        except GeneratorExit:
            with suppress(psycopg2.Error):
                self.execute('CLOSE stream')
            raise
        self.execute('CLOSE stream')


class Reading(Transaction):
    """Statements that read, each on its own, outside a transaction.

    snapshots: opens a snapshot of the database for answers that are read after this object is closed.
    """

    each_statement_alone = True

    def __init__(
        self,
        cursor: psycopg2.extensions.cursor,
        session: Session,
        snapshots: Callable[[], AbstractContextManager[Transaction]],
    ) -> None:
        super().__init__(cursor, session)
        self._snapshots = snapshots

    @contextmanager
    def snapshot(self) -> Iterator[Transaction]:
        """Yield a transaction that sees one state of the database, to read a long answer."""
        with self._snapshots() as tx:
            yield tx

    def briefly(self, work: Callable[[Transaction], T], limit_s: float) -> T:
        """Run work of one statement, with a time limit."""
        self.ahead(limit(limit_s))
        return work(self)


class OneMessage(Transaction):
    """A transaction in one message: the queued statements and the next one. Earlier statements are not part of it."""

    call: int

    def __init__(self, cursor: psycopg2.extensions.cursor, session: Session, call: int) -> None:
        super().__init__(cursor, session, call)
        self.sent = False

    def ahead(self, statement: Statement, args: Sequence[Any] = ()) -> None:
        """Queue a statement that is a part of the change."""
        if self.sent:
            raise RuntimeError('the message was sent: a later statement would not be part of its transaction')
        if not self._ahead:
            self._ahead.append(CHANGING.encode())
        self._ahead.append(SET_CALL.encode() % self.call)
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


def new_number() -> int:
    """Return a new number for a call. Numbers ascend with time, so that their index grows at its end."""
    return time.time_ns() // 1000 << 11 | random.getrandbits(11)


@dataclass
class Addition(Generic[T]):
    """An object that a call adds by one statement, in a message of its own or shared with other additions.

    statement: returns the SQL and its arguments; may read before.
    added: reads the objects that several calls, given by number, have added. It runs after them, and keeps their order.
    answer: reads one added object later, by its id.
    """

    statement: Callable[[Transaction], tuple[str, Sequence[Any]]]
    added: Callable[[Transaction, list[int]], list[T]]
    answer: Callable[[Transaction, int], T]
    number: int = field(default_factory=new_number)
    began: float = field(default_factory=time.monotonic)
    outcome: Outcome = field(default_factory=Outcome)
    # The session and the error of a message with this addition, if its answer was lost.
    lost: tuple[Session, psycopg2.Error] | None = None


# Only the first addition may wait for locks. A later one might need a parent whose holder waits for us: a deadlock. So
# the others give up after 50 ms and are retried alone.
NO_MORE_WAITING = "SET LOCAL lock_timeout = '50ms'"


def send(tx: OneMessage, additions: Sequence[Addition[T]]) -> list[T | Exception]:
    """Add objects by one message. Return each added object, or the error that its `statement` raised."""
    outcomes: dict[int, T | Exception] = {}
    sent: list[tuple[int, tuple[str, Sequence[Any]]]] = []
    for place, addition in enumerate(additions):
        try:
            sent.append((place, addition.statement(tx)))
        except psycopg2.Error:
            raise
        except Exception as exc:  # nothing was sent: the error concerns this addition alone
            outcomes[place] = exc
    for position, (place, (statement, args)) in enumerate(sent):
        if position == 1:
            tx.ahead(NO_MORE_WAITING)
        tx.call = additions[place].number
        tx.ahead(statement, args)
    if sent:
        added = additions[0].added(tx, [additions[place].number for place, _ in sent])
        for place, _ in sent:
            additions[place].outcome.change_set = tx.change_set_of(additions[place].number)
        outcomes |= {place: item for (place, _), item in zip(sent, added, strict=True)}
    return [outcomes[place] for place in range(len(additions))]


class Inside:
    """Work inside a transaction that is already open, in place of a `Database`."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    def run(self, work: Callable[[Transaction], T], _outcome: Outcome | None = None) -> T:
        """Run work as a part of the transaction, to its end: an error must not appear in a later statement.

        The outcome is known when the transaction ends.
        """
        result = work(self._tx)
        self._tx.flush()
        return result

    def run_at_once(
        self,
        work: Callable[[Transaction], T],
        _answer: Callable[[Transaction, int], T],
        _outcome: Outcome | None = None,
    ) -> T:
        """Run work as a part of the transaction."""
        return self.run(work)

    def add_joined(self, _key: Hashable, addition: Addition[T], _outcome: Outcome | None = None) -> T:
        """Add an object as a part of the transaction, without a group."""

        def work(tx: Transaction) -> T:
            tx.ahead(*addition.statement(tx))
            return addition.added(tx, [addition.number])[0]

        return self.run(work)

    def read(self, work: Callable[[Transaction], T]) -> T:
        """Run work that only reads, with the time limit of reads for each statement."""
        with self._tx.limited():
            return work(self._tx)

    @contextmanager
    def snapshot(self) -> Iterator[Transaction]:
        """Yield the transaction to read from. Each statement may see another state of the database."""
        with self._tx.limited():
            yield self._tx


def limit(limit_s: float) -> str:
    """Return the statement that limits later statements of the transaction to so many seconds each."""
    return f'SET LOCAL statement_timeout = {max(1, int(limit_s * 1000)):d}'


def _composable(statement: str | Composable) -> Composable:
    return SQL(statement) if isinstance(statement, str) else statement


@contextmanager
def _blocking() -> Iterator[None]:
    """Let psycopg2 block the thread, for operations that support no other way of waiting."""
    wait = psycopg2.extensions.get_wait_callback()
    psycopg2.extensions.set_wait_callback(None)
    try:
        yield
    finally:
        psycopg2.extensions.set_wait_callback(wait)
