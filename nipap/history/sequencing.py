"""Positions for rows that transactions add: an order that readers can follow although some transactions commit late.

Ids are drawn before a transaction commits, so a reader that followed ids would miss rows that are committed late. A
`Sequencer` gives each row a position once it is committed. Positions grow: a reader that sees a position sees all
positions before it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from nipap.postgres.database import Database
from nipap.postgres.transaction import Transaction

IS_OVER = 'SELECT pg_snapshot_xmin(pg_current_snapshot()) >= %s::text::xid8'

# Return whether this session holds an advisory lock. The session takes the lock when nobody holds it.
_LEAD = """SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND granted
    AND classid = 0 AND objid = %s::bigint AND objsubid = 1) OR pg_try_advisory_lock(%s::bigint)"""


def lead(tx: Transaction, lock: int) -> bool:
    """Take the advisory lock of a number unless another session holds it; return whether this session holds it."""
    return bool(tx.value(_LEAD, (lock, lock)))


class Sequencer(ABC):
    """The base of sequencers, which give positions to committed rows.

    Several sequencers of the same rows do no harm, for they wait for each other.

    Rows up to the id `settled` need no further check. To advance `settled`, a sequencer notes the last drawn id, and
    then the running transactions. When all of these have ended, no transaction is left that may add a row up to that
    id, since a transaction that draws an id has written something before. Rows above `settled` get their positions as
    they become visible.

    look: SQL that reads `settled`, the last position and the last id. has_new: SQL that tells whether there are rows
    without a position above an id; the id is passed twice.
    """

    look = ''
    has_new = ''

    def __init__(self) -> None:
        self.last_position = 0
        self._noted: tuple[int, int] | None = None  # the last id, and a transaction number drawn after it

    def step(self, db: Database) -> int:
        """Give positions to new rows; return their number. While nothing has changed, this only reads."""
        settled, self.last_position, last = db.read(lambda tx: tx.one(self.look) or (0, 0, 0))
        if last == settled:
            self._noted = None
            return 0
        if self._noted is None or self._noted[0] <= settled:
            self._noted = last, next_transaction(db)  # the id is read first, then the number is drawn
        noted = self._noted
        fresh = db.read(lambda tx: tx.value(self.has_new, (settled, settled)))
        if not fresh and not db.read(lambda tx: tx.value(IS_OVER, (noted[1],))):
            return 0
        given, self.last_position = db.run(lambda tx: self.sequence(tx, noted))
        return given

    @abstractmethod
    def sequence(self, tx: Transaction, noted: tuple[int, int]) -> tuple[int, int]:
        """Give positions to new rows; return their number, and the highest position.

        noted: an id, and the number of a transaction that began later. The rows up to the id are settled once
        `IS_OVER` is true for the number, which means that all transactions before it have ended.
        """


def next_transaction(db: Database) -> int:
    """Return a number above the numbers of all transactions that have begun to write.

    The number has to be drawn: the end of a snapshot (xmax) follows the last ended transaction, and running
    transactions may have numbers above it.
    """
    return int(db.run(lambda tx: tx.value('SELECT pg_current_xact_id()::text::bigint')))
