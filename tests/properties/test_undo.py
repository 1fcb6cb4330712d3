"""Undo beside the oracle: the former state after any change, conflicts where a former state is gone, undo of undo.

The machine plays the random changes of `TreeMachine` and keeps the state of the oracle around each change set.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test

from .oracle import sound
from .playground import Playground, searching
from .test_tree import TreeMachine

pytestmark = pytest.mark.slow

State = dict[tuple[str, int], Any]  # objects of the oracle by kind and handle


@dataclass
class Change:
    """A change set, with the objects of the oracle before and after it."""

    number: int
    before: State
    after: State


class UndoMachine(TreeMachine):
    """A machine that undoes change sets between other changes."""

    def __init__(self, playground: Playground) -> None:
        super().__init__(playground)
        self.changes_made: list[Change] = []
        self.known = 0

    def play(self, operation: Callable[[], Any], method: str, *members: Any) -> tuple[Any, Any]:
        before = self.state()
        answers = super().play(operation, method, *members)
        self.keep(before)
        return answers

    def keep(self, before: State) -> None:
        """Keep the change set that the last call has written, if any."""
        number = self.last_change()
        if number != self.known:
            self.known = number
            self.changes_made.append(Change(number, before, self.state()))

    def last_change(self) -> int:
        number: int = self.playground.db.read(lambda tx: tx.value('SELECT coalesce(max(id), 0) FROM change_set'))
        return number

    def state(self) -> State:
        model = self.model
        kinds = {'vrf': model.vrfs, 'pool': model.pools, 'prefix': model.prefixes}
        return {(kind, handle): copy.deepcopy(item) for kind, items in kinds.items() for handle, item in items.items()}

    def set_state(self, state: State) -> None:
        model = self.model
        for kind, items in (('vrf', model.vrfs), ('pool', model.pools), ('prefix', model.prefixes)):
            items.clear()
            items.update({handle: copy.deepcopy(item) for (of, handle), item in state.items() if of == kind})

    @precondition(lambda self: self.changes_made)
    @rule(number=st.integers(1, 4))
    def undo_the_last(self, number: int) -> None:
        """Undo the last change sets, which may be undos. Nothing is in the way."""
        for change in self.changes_made[-number:][::-1]:
            before = self.state()
            answer, error = self.playground.call('undo', change.number)
            if error is not None and 'was undone by' in str(error):
                continue
            assert error is None, f'undo of {change.number} was refused: {error}'
            assert answer['conflicts'] == []
            self.set_state(change.before)
            self.keep(before)

    @precondition(lambda self: self.changes_made)
    @rule(which=st.integers(0, 30), partial=st.booleans())
    def undo_any(self, which: int, partial: bool) -> None:
        """Undo an earlier change set. Each object that another change has touched is a conflict."""
        change = self.changes_made[which % len(self.changes_made)]
        before = self.state()
        answer, error = self.playground.call('undo', change.number, None, partial)
        if error is not None:
            assert error.code == 1620, error
            assert not partial
            assert self.last_change() == self.known, 'a refused undo has changed something'
            return
        ids = {(kind, self.ids[handle]): (kind, handle) for kind, handle in {**change.before, **change.after}}
        refused = {ids[each['kind'], each['id']] for each in answer['conflicts']}
        assert partial or not refused
        wanted = dict(before)
        for key in {*change.before, *change.after}:
            former, latter, present = (state.get(key) for state in (change.before, change.after, before))
            if former == latter or key in refused:
                continue
            assert present in (former, latter), f'{key} was changed since, and the undo was not refused'
            if former is None:
                wanted.pop(key, None)
            else:
                wanted[key] = former
        assert sound([item for (kind, _), item in wanted.items() if kind == 'prefix'])
        note(f'    undone: {answer}')
        self.set_state(wanted)
        self.keep(before)


def test_an_undo_leads_to_the_state_that_the_oracle_keeps(playground: Playground) -> None:
    run_state_machine_as_test(lambda: UndoMachine(playground), settings=searching(30, soak=2000))
