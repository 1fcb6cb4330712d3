"""A transaction as those see it who run statements in it: one that is open, one that is a message, a part of another.

Nobody here opens a connection or commits: `nipap.postgres.database` does.
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

from nipap.postgres.session import Session
from nipap.postgres.sqlstates import translate
from nipap.runtime import tracer

T = TypeVar('T')
Row = tuple[Any, ...]
Statement = str | bytes | Composable
Expression = psycopg2.extensions.AsIs  # SQL in the place of an argument

ANSWER_GRACE_S = 5.0  # in which a search that was stopped should have said so
# Plans of functions and prepared statements are kept. Made while a table is small they must serve it when it is big, so
# they are made without scans of whole tables wherever there is an index.
CHANGING = 'SET LOCAL statement_timeout = 0; SET LOCAL enable_seqscan = off'
# The call that has changed something last, and its change set.
CHANGE_SET = "current_setting('nipap.change_set', true)"
SET_CALL = 'SET LOCAL nipap.change = %d'
MOST_PREPARED = 100
MOST_PARAMETERS = 1000


@dataclass
class Outcome:
    """What a call has changed: the number of its change set, known once the call is answered; None: nothing.

    `Database.run` and its siblings fill in the one that they are given.
    """

    change_set: int | None = None


class Readable(Protocol):
    """What rows are read from."""

    def read(self, size: int = ..., /) -> bytes: ...

    def readline(self, size: int = ..., /) -> bytes: ...


class Transaction:
    """One open transaction; statements run on it, rows come back as tuples.

    sees_one_state: all statements see the same state of the database. each_statement_alone: a statement that fails
    spoils no other. call: the number by which the database knows what is changed from now on; None: nothing is changed.
    """

    sees_one_state = False
    each_statement_alone = False

    def __init__(self, cursor: psycopg2.extensions.cursor, session: Session, call: int | None = None) -> None:
        self._cursor = cursor
        self._session = session
        self.call = call
        self._change_sets: dict[int, int] = {}  # by call
        self._prepared = session.prepared
        self._ahead: list[bytes] = []
        self._limit_s = self._limited_s = 0.0  # of each statement: what it is to be, and what PostgreSQL knows

    @property
    def change_set(self) -> int | None:
        """The number of the call's change set, once PostgreSQL has told it; None: nothing was changed, or not yet."""
        return None if self.call is None else self._change_sets.get(self.call)

    def change_set_of(self, call: int) -> int | None:
        """The same for another call of this transaction."""
        return self._change_sets.get(call)

    def note(self, told: str | None) -> None:
        """Note the change sets of calls: ``call/number``, as `CHANGE_SET` reads it, or several with blanks between."""
        for each in (told or '').split():
            call, _, number = each.partition('/')
            if call.isdigit():
                self._change_sets[int(call)] = int(number)

    @contextmanager
    def snapshot(self) -> Iterator[Transaction]:
        """Read a long answer: yield this transaction, whose statements then have the time limit of reads."""
        with self.limited():
            yield self

    def briefly(self, work: Callable[[Transaction], T], limit_s: float) -> T:
        """Run work that reads, with a time limit for each statement. A statement that times out spoils nothing."""
        self.execute(f'SAVEPOINT briefly; {limit(limit_s)}')
        try:
            return work(self)
        finally:  # the former limit comes back, too
            self.execute('ROLLBACK TO SAVEPOINT briefly; RELEASE SAVEPOINT briefly')

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

    def change(self, statement: Statement, args: Sequence[Any] = ()) -> None:
        """Run a statement that changes something, with what waits for it, and note the `CHANGE_SET` that it returns."""
        self.ahead(statement, args)
        found = self._run(self._ahead.pop(), ()).fetchone()
        self.note(found[0] if found else None)

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


class Reading(Transaction):
    """Statements that read, each on its own, outside a transaction.

    snapshots: opens a snapshot of the database for answers that are read after this ends.
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
        """Read a long answer: yield a transaction that sees one state of the database."""
        with self._snapshots() as tx:
            yield tx

    def briefly(self, work: Callable[[Transaction], T], limit_s: float) -> T:
        """Run work of one statement, with a time limit."""
        self.ahead(limit(limit_s))
        return work(self)


class OneMessage(Transaction):
    """A transaction that is one message: what waits and the statement after it. What runs before is not part of it."""

    call: int

    def __init__(self, cursor: psycopg2.extensions.cursor, session: Session, call: int) -> None:
        super().__init__(cursor, session, call)
        self.sent = False

    def ahead(self, statement: Statement, args: Sequence[Any] = ()) -> None:
        """As in any transaction: it is what changes."""
        if self.sent:
            raise RuntimeError('a change behind the message is not part of its transaction')
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
    """A new number for a call. Chosen so that the index in which it is looked for grows at its end."""
    return time.time_ns() // 1000 << 11 | random.getrandbits(11)


@dataclass
class Addition(Generic[T]):
    """An object that a call adds by one statement, in a message of its own or together with others.

    statement: what it sends, with arguments; it may read before. added: what several, by their numbers, have added, in
    their order, read behind them. answer: the same for one, later, by the id of the object.
    """

    statement: Callable[[Transaction], tuple[str, Sequence[Any]]]
    added: Callable[[Transaction, list[int]], list[T]]
    answer: Callable[[Transaction, int], T]
    number: int = field(default_factory=new_number)
    began: float = field(default_factory=time.monotonic)
    outcome: Outcome = field(default_factory=Outcome)
    lost: tuple[Session, psycopg2.Error] | None = None  # whose answer never came, for a message that it was a part of


# The first waits for whoever is in the way. Another that has to wait as well, since it finds its place elsewhere, may
# wait for somebody who waits for the first.
NO_MORE_WAITING = "SET LOCAL lock_timeout = '50ms'"


def send(tx: OneMessage, additions: Sequence[Addition[T]]) -> list[T | Exception]:
    """Add these objects by one message; returns each, or what is wrong with what was to be sent for it."""
    outcomes: dict[int, T | Exception] = {}
    sent: list[tuple[int, tuple[str, Sequence[Any]]]] = []
    for place, addition in enumerate(additions):
        try:
            sent.append((place, addition.statement(tx)))
        except psycopg2.Error:
            raise
        except Exception as exc:  # nothing was sent: it is about this one alone
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
    """Runs work inside a transaction that is open already, in place of a `Database`."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    def run(self, work: Callable[[Transaction], T], _outcome: Outcome | None = None) -> T:
        """Run work as a part of the transaction: all of it, so that what fails is not taken for what comes next.

        The outcome is known where the transaction ends.
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
        """The same."""
        return self.run(work)

    def add_joined(self, _key: Hashable, addition: Addition[T], _outcome: Outcome | None = None) -> T:
        """The same; nobody joins."""

        def work(tx: Transaction) -> T:
            tx.ahead(*addition.statement(tx))
            return addition.added(tx, [addition.number])[0]

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


def limit(limit_s: float) -> str:
    """The statement by which those behind it, in the transaction, get so many seconds each."""
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
