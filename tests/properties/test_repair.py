"""Test the repair: with any damage to derived values, in any tree, it restores the oracle's values and keeps the facts.

The tree goes on growing after each repair, so repaired values are also used.
"""

from __future__ import annotations

import pytest
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test
from support import facts

from nipap.integrity import repair

from .playground import Playground, searching
from .test_tree import TreeMachine

pytestmark = pytest.mark.slow

ANY_RANGE = (
    '(owner, last_address) IN (SELECT owner, last_address FROM free_range ORDER BY 1, 2 LIMIT {many} OFFSET {at})'
)
ANY_PREFIX = 'id IN (SELECT id FROM prefix ORDER BY vrf_id, prefix LIMIT {many} OFFSET {at})'
ANY_TOTAL = 'ctid = ANY (ARRAY(SELECT ctid FROM vrf_total ORDER BY vrf_id, family, slot LIMIT {many} OFFSET {at}))'
ANY_WORDS = 'prefix_id IN (SELECT prefix_id FROM prefix_words ORDER BY 1 LIMIT {many} OFFSET {at})'
BREAKS = (
    f'UPDATE prefix SET parent_id = NULL WHERE {ANY_PREFIX}',
    f'UPDATE prefix SET parent_id = (SELECT max(id) FROM prefix) WHERE {ANY_PREFIX}',
    f'UPDATE prefix SET children = children + {{at}} - 3 WHERE {ANY_PREFIX}',
    f'UPDATE prefix SET used_addresses = 2 * used_addresses + 1 WHERE {ANY_PREFIX}',
    f'UPDATE prefix SET free_blocks = CASE WHEN free_blocks IS NULL THEN {{at}} END WHERE {ANY_PREFIX}',
    f'DELETE FROM free_range WHERE {ANY_RANGE}',
    f'UPDATE free_range SET fit = fit + 1 WHERE {ANY_RANGE}',
    f'UPDATE free_range SET first_address = last_address WHERE {ANY_RANGE}',
    f'UPDATE free_range SET owner = owner + 1000000 WHERE {ANY_RANGE}',
    f"""INSERT INTO free_range SELECT id, set_masklen(prefix, 32), set_masklen(prefix, 32), 32 FROM prefix
        WHERE {ANY_PREFIX} AND family(prefix) = 4 ON CONFLICT DO NOTHING""",
    "INSERT INTO free_range VALUES (-1, '10.0.0.5/24', '10.0.0.6/24', 30) ON CONFLICT DO NOTHING",
    f'UPDATE vrf_total SET total_addresses = total_addresses - 1, num_prefixes = {{at}} WHERE {ANY_TOTAL}',
    f'DELETE FROM vrf_total WHERE {ANY_TOTAL}',
    'INSERT INTO vrf_total SELECT id, 6, 99, {at}, {at}, {many} FROM vrf ON CONFLICT DO NOTHING',
    f"UPDATE prefix_words SET words = '' WHERE {ANY_WORDS}",
    f'DELETE FROM prefix_words WHERE {ANY_WORDS}',
    "INSERT INTO prefix_words VALUES (-{at}, 'nobody') ON CONFLICT DO NOTHING",
    'UPDATE vrf SET rt_rank = rt_rank + {at} WHERE id = (SELECT id FROM vrf ORDER BY id OFFSET {many} LIMIT 1)',
)
BREAK = st.tuples(st.sampled_from(BREAKS), st.integers(0, 12), st.sampled_from([1, 2, 100]))


class RepairMachine(TreeMachine):
    """The machine for trees, with damage to the database and a repair now and then."""

    @rule(breaks=st.lists(BREAK, min_size=1, max_size=6))
    def break_and_repair(self, breaks: list[tuple[str, int, int]]) -> None:
        db = self.playground.db
        before = facts(db)
        for statement, at, many in breaks:
            made = statement.format(at=at, many=many)
            note(f'    {made}')
            db.run(lambda tx, made=made: tx.execute(made))
        found = self.playground.problems()
        outcome = repair.repair(db, most_found=len(found))
        assert outcome.found == found
        assert outcome.left == []
        assert self.playground.problems() == []
        assert facts(db) == before


def test_whatever_is_broken_is_repaired(playground: Playground) -> None:
    run_state_machine_as_test(lambda: RepairMachine(playground), settings=searching(25, soak=2000))
