"""The past: the state of all objects after a change set, for calls with ``as_of``.

Positions are those of `nipap.history.change_order`. A change set counts as a whole, and the state at a position is the
same for ever. `Builder` fills the tables of the past from the audit log; `at` makes a transaction read them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from nipap.attributes import LARGEST_NUMBER, read_from, shown
from nipap.errors import NipapNoPastError, NipapUnavailableError, NipapValueError
from nipap.moments import read_moment
from nipap.postgres import migrations
from nipap.postgres.database import Database
from nipap.postgres.transaction import Reading, Row, Transaction
from nipap.runtime import tracer, waiting

PATIENCE_S = 2.0  # the time for a position that is not built yet
LOOK_S = 0.05
AT_ONCE = 500  # positions that one transaction stores
BACK_AT_ONCE = 200

NOT_YET = 'the history up to {} is not built yet, try again soon'
NOT_BUILT_BACK = 'the history before {} is still being built, try again later'


@dataclass(frozen=True)
class Shown:
    """The state that an answer shows: after the change set `change_set`, which was committed at `moment`."""

    position: int
    change_set: int
    moment: datetime

    @property
    def members(self) -> dict[str, Any]:
        """The state as a member of an answer."""
        return {'position': self.position, 'change_set': self.change_set, 'moment': self.moment}

    def __str__(self) -> str:
        """Return the state as text, for a header."""
        moment = self.moment.astimezone(UTC).isoformat().replace('+00:00', 'Z')
        return f'position={self.position}, change-set={self.change_set}, moment={moment}'

    def note(self) -> None:
        """Note that the current call shows this state."""
        call = tracer.current()
        if call is not None:
            call.as_of = self


AsOf = int | datetime  # a change set or a moment


def read_as_of(value: object) -> AsOf | None:
    """Parse ``as_of``: the number of a change set, or a moment; None for nil.

    :raises NipapValueError: naming the value.
    """
    if value is None:
        return None
    text = value.strip() if isinstance(value, str) else value
    if isinstance(text, int) or (isinstance(text, str) and text.isascii() and text.isdecimal()):
        return read_from('as_of', text, 1, LARGEST_NUMBER)
    try:
        return read_moment(text, compared=True)
    except NipapValueError:
        accepted = 'must be a moment or the number of a change set'
        raise NipapValueError(f'Invalid value {shown(value)} for as_of, {accepted}').about('as_of') from None


# ---------------------------------------------------------------- the position of a moment or a change set

# The row lock waits for positions that are being given, whose moments may lie before now.
_LAST = 'SELECT moment FROM change_state'
_LAST_FOR_SURE = 'SELECT moment FROM change_state FOR SHARE'
_AT = 'SELECT position, change_set, moment FROM change_order WHERE moment <= %s ORDER BY moment DESC LIMIT 1'
_OF = 'SELECT position, change_set, moment FROM change_order WHERE change_set = %s'
_BUILT = 'SELECT lowest, position, ends_at FROM past_state'


def find(tx: Transaction, asked: AsOf) -> Shown:
    """Return the state that is asked for. It has been built.

    :raises NipapValueError: the moment lies in the future, or there is no such change set.
    :raises NipapNoPastError: the state is older than the history.
    :raises NipapUnavailableError: the state is not built yet.
    """
    patient_until = time.monotonic() + PATIENCE_S
    while True:
        found = _of_change_set(tx, asked) if isinstance(asked, int) else _at_moment(tx, asked)
        if found is not None:
            lowest, built, ends_at = tx.one(_BUILT) or (None, None, None)
            if lowest is not None and found.position < lowest:
                _refuse_older(tx, lowest, ends_at)
            if built is not None and found.position <= built:
                return found
        if time.monotonic() > patient_until:
            raise NipapUnavailableError(NOT_YET.format(f'change set {asked}' if isinstance(asked, int) else asked))
        waiting.sleep(LOOK_S)


def _of_change_set(tx: Transaction, number: int) -> Shown | None:
    """Return the state after a change set; None while it has no position."""
    row = tx.one(_OF, (number,))
    if row is not None:
        return Shown(*row)
    if not tx.value('SELECT EXISTS (SELECT FROM change_set WHERE id = %s)', (number,)):
        raise NipapValueError(f'There is no change set {number}').about('as_of')
    if tx.value('SELECT last_older_entry IS NOT NULL FROM change_set WHERE id = %s', (number,)):
        raise NipapNoPastError(f'Change set {number} is older than the history').about('as_of')
    return None


def _at_moment(tx: Transaction, moment: datetime) -> Shown:
    if moment > tx.value('SELECT clock_timestamp()'):
        raise NipapValueError(f'Invalid value {moment.isoformat()} for as_of, it lies in the future').about('as_of')
    if moment > tx.value(_LAST):
        tx.one(_LAST_FOR_SURE)
    row = tx.one(_AT, (moment,))
    if row is None:
        raise NipapNoPastError(f'The history begins after {moment.isoformat()}').about('as_of')
    return Shown(*row)


def _refuse_older(tx: Transaction, lowest: int, ends_at: int | None) -> None:
    begins = tx.value('SELECT moment FROM change_order WHERE position = %s', (lowest,))
    told = begins.isoformat() if begins is not None else f'position {lowest}'
    if ends_at is None:
        raise NipapUnavailableError(NOT_BUILT_BACK.format(told))
    raise NipapNoPastError(f'The history begins at {told}').about('as_of')


# ---------------------------------------------------------------- reading

# The schema with the views of the past comes first on the search path. Plans are kept, so they must serve when the
# tables are big.
_ENTER = """SELECT set_config('search_path', quote_ident(current_setting('nipap.home') || %s) || ', '
    || current_setting('search_path'), true), set_config('nipap.position', %s, true),
    set_config('enable_seqscan', 'off', true)"""


_LEAVE = "SELECT set_config('search_path', %s, true), set_config('enable_seqscan', %s, true)"


def _enter(tx: Transaction, position: int) -> None:
    tx.execute(_ENTER, (f'_v{migrations.latest()}_past', str(position)))


class _Past(Reading):
    """Statements that read the state at a position, in one transaction that reads nothing else."""

    each_statement_alone = False
    shows_past = True

    def __init__(self, inner: Transaction, outer: Transaction, position: int) -> None:
        super().__init__(inner._cursor, inner._session, lambda: at(outer, position))
        self.sees_one_state = True

    def all_prepared(self, statement: str, args: Sequence[Any]) -> list[Row]:
        """Run a frequent statement as `Transaction` does.

        PostgreSQL would plan it anew whenever the search path is another one. So the past has statements of its own.
        """
        return super().all_prepared(f'{statement} /* of the past */', args)


@contextmanager
def at(tx: Transaction, position: int) -> Iterator[Transaction]:
    """Yield a transaction that reads the state at a position. It reads nothing else.

    Inside a transaction that changes something, the present comes back afterwards.
    """
    if isinstance(tx, Reading):
        with tx.snapshot() as inner:
            _enter(inner, position)
            yield _Past(inner, tx, position)
        return
    former = tx.one("SELECT current_setting('search_path'), current_setting('enable_seqscan')") or ()
    _enter(tx, position)
    try:
        yield _Past(tx, tx, position)
    except GeneratorExit:  # the caller wants no more of a long answer
        tx.execute(_LEAVE, former)
        raise
    # After an error the transaction, or a part of it, is rolled back, and the settings with it.
    tx.execute(_LEAVE, former)


# ---------------------------------------------------------------- building

_PROGRESS = 'SELECT p.position, c.position, p.ends_at IS NULL FROM past_state p, change_state c'


class Builder:
    """Builds the tables of the past. Several builders do no harm, for they wait for each other."""

    def step(self, db: Database) -> bool:
        """Build what is due next; return whether there may be more."""
        built, position, goes_back = db.read(lambda tx: tx.one(_PROGRESS) or (None, 0, True))
        if built is None:
            return self._begin(db)
        if built < position:
            stored = db.run(lambda tx: int(tx.value('SELECT follow_past(%s)', (AT_ONCE,))))
            return bool(stored < position or goes_back)
        if goes_back:
            lowest = db.run(lambda tx: tx.value('SELECT go_back(%s)', (BACK_AT_ONCE,)))
            return lowest is not None
        return False

    def _begin(self, db: Database) -> bool:
        def begin(tx: Transaction) -> None:
            tx.execute('SET TRANSACTION ISOLATION LEVEL REPEATABLE READ')
            tx.execute('SELECT begin_past()')

        db.run(begin)
        return True
