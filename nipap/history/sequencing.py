"""Positions for rows that transactions add: an order in which readers can follow, whoever commits late.

Ids are drawn before a transaction commits, so a reader who followed them would miss rows that are committed late. A
`Sequencer` gives each row a position once it is committed. Positions grow; a reader who sees one sees all before it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from nipap.postgres.database import Database
from nipap.postgres.transaction import Transaction

IS_OVER = 'SELECT pg_snapshot_xmin(pg_current_snapshot()) >= %s::text::xid8'

# Whether this session holds an advisory lock; it takes the lock when nobody holds it.
_LEAD = """SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND granted
    AND classid = 0 AND objid = %s::bigint AND objsubid = 1) OR pg_try_advisory_lock(%s::bigint)"""


def lead(tx: Transaction, lock: int) -> bool:
    """Whether this session holds the advisory lock of that number; it takes the lock when no other session has it."""
    return bool(tx.value(_LEAD, (lock, lock)))


class Sequencer(ABC):
    """Gives positions to what was committed. Several do no harm, they wait for each other.

    Everything up to an id called `settled` needs no look any more. To move that on, the last id that was drawn is
    noted, then the transactions that run: when all of those have ended, no transaction is left that may add a row up to
    that id, since a transaction that draws an id has written something before. Rows above get their positions as they
    become visible.

    look: reads `settled`, the last position and the last id. has_new: whether there are rows without a position above
    an id, which is given twice.
    """

    look = ''
    has_new = ''

    def __init__(self) -> None:
        self.last_position = 0
        self._noted: tuple[int, int] | None = None  # the last id, and a transaction number that came after it

    def step(self, db: Database) -> int:
        """Give positions to what has none; returns to how many. Looks only, while nothing has changed."""
        settled, self.last_position, last = db.read(lambda tx: tx.one(self.look) or (0, 0, 0))
        if last == settled:
            self._noted = None
            return 0
        if self._noted is None or self._noted[0] <= settled:
            self._noted = last, _next_transaction(db)  # in this order
        noted = self._noted
        fresh = db.read(lambda tx: tx.value(self.has_new, (settled, settled)))
        if not fresh and not db.read(lambda tx: tx.value(IS_OVER, (noted[1],))):
            return 0
        given, self.last_position = db.run(lambda tx: self.sequence(tx, noted))
        return given

    @abstractmethod
    def sequence(self, tx: Transaction, noted: tuple[int, int]) -> tuple[int, int]:
        """Give positions; returns to how many, and the highest there is.

        noted: an id, and the number of a transaction that began later. The rows up to the id are settled once
        `IS_OVER` says of the number that all transactions before it have ended.
        """


def _next_transaction(db: Database) -> int:
    """A number above those of all transactions that have begun to write.

    It has to be drawn: the end of a snapshot is behind the last that is over, and others that run may be behind that.
    """
    return int(db.run(lambda tx: tx.value('SELECT pg_current_xact_id()::text::bigint')))
