"""The table of spans: ranges of audit entries with the times in them, by which an entry of a time is found.

A span says which times its entries have, so it is written when no transaction can still add an entry to it. The rule
is that of `nipap.history.sequencing`: note the last drawn id, then the running transactions, and wait for their ends.
"""

from __future__ import annotations

from nipap.history.sequencing import IS_OVER, next_transaction
from nipap.postgres.database import Database
from nipap.postgres.transaction import Transaction

SPAN = 5_000  # ids in a span; partitions begin at multiples of it
AT_ONCE = 20  # spans that one transaction writes

_LOOK = """SELECT coalesce((SELECT max(last_id) FROM audit_span), -1),
    coalesce(pg_sequence_last_value('audit_log_id_seq'), 0)"""
_WRITE = f"""INSERT INTO audit_span (last_id, first_id, oldest, newest)
SELECT (id / {SPAN} + 1) * {SPAN} - 1, greatest(id / {SPAN} * {SPAN}, %s + 1), min(at), max(at)
FROM audit_log WHERE id > %s AND id <= %s GROUP BY id / {SPAN}"""
# Unused ids after the last entry become a part of its span, so that the ids up to the last span are the settled ones.
_EXTEND = (
    """UPDATE audit_span SET last_id = %s WHERE last_id = (SELECT max(last_id) FROM audit_span) AND last_id < %s"""
)


class Spans:
    """The writer of spans. Several writers do no harm, for they wait for each other."""

    def __init__(self) -> None:
        self._noted: tuple[int, int] | None = None  # the last id, and a transaction number drawn after it

    def step(self, db: Database) -> bool:
        """Write some spans that are due, if it is certain that their entries are complete.

        Return whether more of them are due at once. While nothing is due, this only reads.
        """
        spanned, last = db.read(lambda tx: tx.one(_LOOK) or (-1, 0))
        if self._noted is None or _whole(self._noted[0]) <= spanned:
            self._noted = None
            if _whole(last) > spanned:
                self._noted = last, next_transaction(db)  # the id is read first, then the number is drawn
            return False
        last, number = self._noted
        if not db.read(lambda tx: tx.value(IS_OVER, (number,))):
            return False
        if db.run(lambda tx: write(tx, last)) < _whole(last):
            return True
        self._noted = None
        return False


def _whole(last: int) -> int:
    """Return the last id of the last whole span up to an id."""
    return (last + 1) // SPAN * SPAN - 1


def write(tx: Transaction, settled: int) -> int:
    """Write the next spans of entries up to an id; return the last id that has a span now.

    No transaction may still add an entry up to this id.
    """
    tx.execute('LOCK TABLE audit_span IN SHARE ROW EXCLUSIVE MODE')
    spanned = int(tx.value('SELECT coalesce(max(last_id), -1) FROM audit_span'))
    begin = tx.value('SELECT min(id) FROM audit_log WHERE id > %s AND id <= %s', (spanned, _whole(settled)))
    until = min(_whole(settled), (begin // SPAN + AT_ONCE) * SPAN - 1) if begin is not None else _whole(settled)
    tx.execute(_WRITE, (spanned, spanned, until))
    tx.execute(_EXTEND, (until, until))
    return until
