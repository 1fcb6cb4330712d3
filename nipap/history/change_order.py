"""The order of change sets: each gets one position, and the moment at which it was seen committed.

Change sets that are seen at once are ordered by their last audit entries. If two change sets have changed the same
object, or an object and its parent, the second has waited for the commit of the first, and has written an entry after
that. The second may have drawn its number before. So all rules hold in the state after each position.

Moments grow with positions, by a microsecond at least, even when a clock is set back.
"""

from __future__ import annotations

from nipap.history.sequencing import IS_OVER, Sequencer
from nipap.postgres.transaction import Transaction

_LAST_ID = '(SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM change_set_id_seq)'
# The id is compared on both sides. Otherwise a merge join of the two tables reads all rows.
_NEW = """s.id > %s AND NOT EXISTS (SELECT FROM change_order o WHERE o.change_set = s.id AND o.change_set > %s)"""
_SEQUENCE = f"""WITH fresh AS (
    SELECT s.id, row_number() OVER (ORDER BY (
        SELECT max(a.id) FROM audit_log a WHERE a.change_set = s.id AND a.id > s.entries_after)) AS n
    FROM change_set s WHERE {_NEW}
), start AS MATERIALIZED (
    SELECT position, greatest(moment + interval '1 microsecond', clock_timestamp()) AS moment FROM change_state
), given AS (
    INSERT INTO change_order (position, change_set, moment)
    SELECT start.position + n, id, start.moment + (n - 1) * interval '1 microsecond' FROM fresh, start
    RETURNING position, moment
)
UPDATE change_state SET settled = greatest(settled, %s),
    position = coalesce((SELECT max(position) FROM given), position),
    moment = coalesce((SELECT max(moment) FROM given), moment)
RETURNING (SELECT count(*) FROM given), position"""


class ChangeSequencer(Sequencer):
    """The sequencer of change sets. It gives positions to all of them at once, as the order depends on all of them."""

    look = f'SELECT settled, position, {_LAST_ID} FROM change_state'
    has_new = f'SELECT EXISTS (SELECT FROM change_set s WHERE {_NEW})'

    def sequence(self, tx: Transaction, noted: tuple[int, int]) -> tuple[int, int]:
        """Give positions to new change sets; return their number, and the highest position."""
        settled = int(tx.value('SELECT settled FROM change_state FOR UPDATE'))
        # This statement comes before the next one, so that the snapshot of the next one has all settled change sets.
        is_over = tx.value(IS_OVER, (noted[1],))
        given, position = tx.one(_SEQUENCE, (settled, settled, noted[0] if is_over else 0)) or (0, 0)
        return given, position
