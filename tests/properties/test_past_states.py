"""Questions about the past get the answers that they got in that state.

The machine plays the random changes of `UndoMachine`, and others that the oracle does not know. After each change set
the playground asks about the present and keeps the answers. The same questions with ``as_of`` must get the same answers
afterwards: all members, counters, orders and errors.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule, run_state_machine_as_test

from nipap import calls
from nipap.access.authentication import Actor
from nipap.backend import Backend
from nipap.calls import Request
from nipap.errors import NipapError, NipapNoPastError, NipapUnavailableError
from nipap.history.change_order import ChangeSequencer
from nipap.history.past import Builder
from nipap.postgres.database import Database
from nipap.postgres.transaction import Outcome
from nipap.runtime.chunks import Chunks

from .choices import A_POOL, A_PREFIX, A_VRF, PROBES, WITH_POOLS, WITH_PREFIXES
from .conftest import SHRINKING_S
from .playground import Playground, differences, searching
from .test_undo import State, UndoMachine

pytestmark = pytest.mark.slow

Members = dict[str, Any]
Question = tuple[str, Members]
Answer = tuple[str, Any]  # 'answer' and the answer, or 'error' and the code and text

LONGEST_LIST = 2  # of the backend that answers in chunks
WORDS = ('d', 'e', 'edit', 'edit 0', 'core', '#a', '10.0.0.0/8', '10.0.0.1', '2001:db8::', 'customer_id=c-7')
ASNS = (1, 65000, 4294967295)
POSITION = 'SELECT position, moment FROM change_order WHERE change_set = %s'
FIRST_MOMENT = 'SELECT min(moment) FROM change_order'
SEVERAL_LIVES = """SELECT object_id FROM audit_log WHERE object_type = %s
    GROUP BY 1 HAVING count(*) FILTER (WHERE before IS NULL) > 1"""
PROGRESS = 'SELECT lowest, position, ends_at FROM past_state'


@dataclass
class Kept:
    """The state after a change set: questions and the answers that they got when it was the present."""

    change_set: int
    answers: list[tuple[Question, Answer]] = field(default_factory=list)


class Remembering(Playground):
    """A playground that keeps the answers after each change set."""

    def __init__(self, dsn: str, db: Database, actor: Actor) -> None:
        super().__init__(dsn, db, actor)
        self.in_chunks = Backend(db, longest_list=LONGEST_LIST)
        self.compared = 0

    def reset(self) -> None:
        super().reset()
        self.states: list[Kept] = []
        self.sequencer, self.builder = ChangeSequencer(), Builder()

    def ask(self, method: str, *members: Any) -> tuple[Any, NipapError | None]:
        if not calls.find(method).changes:
            return super().ask(method, *members)
        names = list(inspect.signature(getattr(self.backend, method)).parameters)[1:]
        outcome = Outcome()
        request = Request(method, dict(zip(names, members, strict=False)))
        try:
            answer = self.backend.perform(self.actor, request, outcome)
        except NipapError as error:
            return None, error
        if outcome.change_set is not None:
            self.keep(outcome.change_set)
        return answer, None

    def chance(self) -> random.Random:
        """Return a source of random numbers that depends on the number of change sets."""
        return random.Random(len(self.states))

    # ------------------------------------------------------------------------------------------------------- answers

    def keep(self, change_set: int) -> None:
        """Keep the answers about the present, which is the state after a change set."""
        state = Kept(change_set)
        self.states.append(state)
        state.answers = [(question, self.answer(question)) for question in self.questions()]

    def questions(self) -> list[Question]:
        """Return questions about everything, and about some objects of the present."""
        chance = self.chance()
        prefixes, vrfs, pools = (self.present(f'list_{kind}') for kind in ('prefix', 'vrf', 'pool'))
        vrf, (source, length) = chance.choice(vrfs), chance.choice(PROBES)
        some = {'from-prefix': [source], 'prefix_length': length, 'count': 3}
        found: list[Question] = [
            ('search_prefix', {'query': {}, 'search_options': {'max_result': False}}),
            *((f'list_{kind}', {}) for kind in ('prefix', 'vrf', 'pool', 'asn')),
            ('search_tag', {'query': {}}),
            ('smart_search_prefix', {'query_string': chance.choice(WORDS)}),
            ('search_prefix', {'query': matching('comment', f'[{chance.randrange(4)}c]')}),
            ('find_free_prefix', {'vrf': {'id': vrf['id']}, 'args': some}),
            chance.choice(
                [
                    ('search_prefix', {'query': {}, 'search_options': {'max_result': 2, 'offset': 1}}),
                    ('search_prefix', {'query': {}, 'search_options': {'max_result': 2, 'after': ''}}),
                    ('search_vrf', {'query': equal('id', vrf['id'])}),
                    ('search_asn', {'query': {}}),
                    *((f'smart_search_{kind}', {'query_string': 'a'}) for kind in ('vrf', 'pool', 'asn')),
                ]
            ),
        ]
        if pools:
            pool = {'id': chance.choice(pools)['id']}
            args = {'from-pool': pool, 'family': chance.choice([4, 6]), 'count': 2}
            found.append(('find_free_prefix', {'vrf': {}, 'args': args}))
            found.append(('search_prefix', {'query': equal('pool_id', pool['id'])}))
        if prefixes:
            chosen = chance.choice(prefixes)
            inside = {'from-prefix': [chosen['prefix']], 'count': 2, 'prefix_length': chance.choice([30, 32, 64])}
            found.append(('find_free_prefix', {'vrf': {'id': chosen['vrf_id']}, 'args': inside}))
            found.append(('list_prefix', {'prefix': {'id': chosen['id']}}))
            for options in (
                {'include_all_parents': True},
                {'children_depth': 1},
                {'include_neighbors': True},
                {'parents_depth': 1, 'include_all_children': True, 'max_result': 3},
            ):
                found.append(('search_prefix', {'query': equal('id', chosen['id']), 'search_options': options}))
            family = {'parent_prefix': chosen['id'], 'max_result': False}
            found.append(('search_prefix', {'query': {}, 'search_options': family}))
        return found

    def present(self, method: str) -> Any:
        return self.backend.perform(self.actor, Request(method, {}))

    def answer(self, question: Question, as_of: Any = None, backend: Backend | None = None) -> Answer:
        """Return the answer or the error, in comparable form and without the member ``as_of``."""
        method, members = question
        try:
            answer = (backend or self.backend).perform(self.actor, Request(method, members | {'as_of': as_of}))
            return 'answer', comparable(answer)
        except (NipapNoPastError, NipapUnavailableError):
            raise
        except NipapError as error:
            return 'error', (error.code, str(error))

    # ---------------------------------------------------------------------------------------------------- comparison

    def compare(self, state: Kept, as_of: Any = None) -> None:
        """Ask about a state of the past. as_of: the change set by another name."""
        for question, expected in state.answers:
            found = self.answer(question, state.change_set if as_of is None else as_of)
            self.require(state, question, expected, found)
        self.compared += 1

    def compare_in_chunks(self, state: Kept) -> None:
        """Ask about a state with long lists that are read in chunks."""
        for question, expected in state.answers:
            if question[0].endswith('_prefix'):
                self.require(state, question, expected, self.answer(question, state.change_set, self.in_chunks))

    def compare_in_batch(self, state: Kept) -> None:
        """Ask about a state and about the present in turns, in one transaction that also changes something."""
        operations: list[Members] = []
        expected: list[Answer] = []
        # An error would end the transaction.
        for (method, members), then in state.answers:
            now = self.answer((method, members))
            for answer, more in ((then, {'as_of': state.change_set}), (now, {})):
                if answer[0] == 'answer':
                    operations.append({'method': method, 'args': members | more})
                    expected.append(answer)
        vrf = {'$result': [len(operations), 'id']}
        top = {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'd', 'vrf_id': vrf}
        changes = [
            {'method': 'add_vrf', 'args': {'attr': {'rt': '7:7', 'name': 'of a dry run'}}},
            {'method': 'add_prefix', 'args': {'attr': top}},
        ]
        request = Request('batch', {'operations': operations + changes}, dry_run=True)
        told = self.backend.perform(self.actor, request)
        assert told['errors'] == []
        assert [change['kind'] for change in told['changes']] == ['vrf', 'prefix']
        for operation, wanted, found in zip(operations, expected, told['answer'], strict=False):
            self.require(state, (operation['method'], operation['args']), wanted, ('answer', comparable(found)))

    def require(self, state: Kept, question: Question, expected: Answer, found: Answer) -> None:
        """Assert that two answers are the same."""
        if found != expected:
            what = '; '.join(telling(expected, found))
            raise AssertionError(f'{question} as of change set {state.change_set}: {what}')

    def compare_moments(self, state: Kept) -> None:
        """Ask about a state by the moment of its change set, and by a moment after all change sets."""
        position, moment = self.one(POSITION, state.change_set)
        as_of = {'position': position, 'change_set': state.change_set, 'moment': moment}
        question = Request('search_prefix', {'query': {}, 'as_of': moment})
        assert self.backend.perform(self.actor, question)['as_of'] == as_of
        self.compare(state, moment.isoformat())
        self.compare(self.states[-1], self.one('SELECT clock_timestamp()')[0])
        with pytest.raises(NipapNoPastError):
            self.answer(('list_vrf', {}), self.one(FIRST_MOMENT)[0] - timedelta(microseconds=1))

    def one(self, statement: str, *args: Any) -> Any:
        return self.db.read(lambda tx: tx.one(statement, args))

    # ------------------------------------------------------------------------------------------------------ building

    def give_positions(self) -> None:
        self.sequencer.step(self.db)

    def build_all(self) -> None:
        """Build all positions, the older ones too."""
        self.give_positions()
        while self.builder.step(self.db):
            pass


class Following(Remembering):
    """A playground in which each change set is built and compared at once, and an earlier one with it."""

    def keep(self, change_set: int) -> None:
        super().keep(change_set)
        self.build_all()
        last, earlier = self.states[-1], self.chance().choice(self.states)
        self.compare(last)
        form = len(self.states) % 4
        (self.compare, self.compare_in_chunks, self.compare_in_batch, self.compare_moments)[form](earlier)


class GoingBack(Remembering):
    """A playground that builds late and in small steps, back to older states and on to newer ones."""

    def build_some(self, back: int, on: int) -> None:
        """Build `back` older positions and `on` newer ones, and compare a state that is built."""
        if self.one(PROGRESS)[0] is None:
            self.builder.step(self.db)
        for statement, number in (('SELECT go_back(%s)', back), ('SELECT follow_past(%s)', on)):
            if number:
                self.db.run(lambda tx, statement=statement, number=number: tx.value(statement, (number,)))
        progress = self.one(PROGRESS)
        built = [state for state in self.states if self.is_built(state, progress)]
        note(f'    built: {progress}')
        if built:
            self.compare(self.chance().choice(built))

    def is_built(self, state: Kept, progress: tuple[int, int, int | None]) -> bool:
        lowest, highest, _ = progress
        position, _ = self.one(POSITION, state.change_set) or (-1, None)
        return bool(lowest <= position <= highest)

    def compare_all(self) -> None:
        """Build everything and compare all states."""
        self.build_all()
        for state in self.states:
            self.compare(state, str(state.change_set))

    def require(self, state: Kept, question: Question, expected: Answer, found: Answer) -> None:
        if found == expected:
            return
        # The log has no versions. Going back counts entries, which does not reach over a gap between two lives.
        kind = question[0].rpartition('_')[2]
        several = {key for (key,) in self.db.read(lambda tx: tx.all(SEVERAL_LIVES, (kind,)))}
        super().require(state, question, unversioned(expected, several), unversioned(found, several))


def unversioned(answer: Answer, ids: set[int]) -> Any:
    """Return an answer without the versions of some objects."""

    def without(value: Any) -> Any:
        if isinstance(value, list):
            return [without(item) for item in value]
        if isinstance(value, dict):
            leaves_out = {'version'} if value.get('id', value.get('asn')) in ids else set()
            return {name: without(item) for name, item in value.items() if name not in leaves_out}
        return value

    return answer[0], without(answer[1])


def equal(name: str, value: Any) -> Members:
    return {'operator': 'equals', 'val1': name, 'val2': value}


def matching(name: str, pattern: str) -> Members:
    return {'operator': 'regex_match', 'val1': name, 'val2': pattern}


def comparable(answer: Any) -> Any:
    """Return an answer as plain lists, without the member ``as_of``. Members without an order are sorted."""
    if isinstance(answer, Chunks):
        return [comparable(item) for items in answer for item in items]
    if isinstance(answer, list):
        return [comparable(item) for item in answer]
    if isinstance(answer, dict):
        made = {name: comparable(value) for name, value in answer.items() if name != 'as_of'}
        return made | {name: sorted(made[name]) for name in ('inherited_tags', 'prefixes') if name in made}
    return answer


def telling(expected: Answer, found: Answer) -> Iterator[str]:
    """Tell how two answers differ."""
    one, other = map(result_of, (expected, found))
    if not (isinstance(one, list) and isinstance(other, list) and len(one) == len(other)):
        yield f'{found} instead of {expected}'
        return
    for wanted, got in zip(one, other, strict=True):
        if wanted != got and isinstance(wanted, dict):
            yield f'{wanted.get("prefix", wanted.get("name"))}: {", ".join(differences(wanted, got))}'
        elif wanted != got:
            yield f'{got} instead of {wanted}'
    if one == other:
        yield f'{found} instead of {expected}'


def result_of(answer: Answer) -> Any:
    return answer[1].get('result', answer[1]) if isinstance(answer[1], dict) else answer[1]


# ------------------------------------------------------------------------------------------------------------ machines


class PastMachine(UndoMachine):
    """A machine that changes attributes and objects of which the oracle knows nothing, too."""

    playground: Remembering

    def __init__(self, playground: Remembering) -> None:
        super().__init__(playground)
        self.changes_of_asns: list[int] = []

    @invariant()
    def everything_is_the_same(self) -> None:
        """Leave the present to the tests of the tree."""
        self.agreed = True

    def change(self, method: str, *members: Any) -> None:
        """Make a change that the oracle does not see. It can be undone."""
        before: State = self.state()
        self.playground.call(method, *members)
        self.keep(before)

    @WITH_PREFIXES
    @rule(
        prefix=A_PREFIX,
        attr=st.sampled_from(
            [
                {'comment': 'core of the net', 'vlan': 7},
                {'order_id': 'o-1', 'customer_id': 'c-7', 'external_key': 'k', 'country': 'SE'},
                {'comment': None, 'vlan': None, 'order_id': None, 'country': None},
                {'status': 'reserved', 'expires': datetime(2040, 1, 2, 3, 4, 5, 678_901), 'monitor': True},
                {'status': 'quarantine', 'expires': None, 'monitor': False, 'alarm_priority': 'high'},
                {'avps': {'a': 'b', 'ö': '"'}},
                {'avps': {}},
            ]
        ),
    )
    def decorate(self, prefix: int, attr: Members) -> None:
        self.change('edit_prefix', {'id': self.ids[prefix]}, attr)

    @WITH_PREFIXES
    @rule(prefix=A_PREFIX, edits=st.integers(1, 3))
    def edit_and_remove(self, prefix: int, edits: int) -> None:
        for number in range(edits):
            self.decorate(prefix, {'comment': f'edit {number}'})
        self.remove(prefix, False, 4)

    @rule(vrf=A_VRF, attr=st.sampled_from([{'description': 'core'}, {'tags': ['a', 'v']}, {'avps': {'x': '1'}}]))
    def decorate_vrf(self, vrf: int, attr: Members) -> None:
        self.change('edit_vrf', {'id': self.ids[vrf]}, attr)

    @WITH_POOLS
    @rule(pool=A_POOL, attr=st.sampled_from([{'description': 'core'}, {'tags': ['a', 'p']}, {'avps': {'x': '1'}}]))
    def decorate_pool(self, pool: int, attr: Members) -> None:
        self.change('edit_pool', {'id': self.ids[pool]}, attr)

    @rule(number=st.sampled_from(ASNS), action=st.sampled_from(['add', 'edit', 'edit', 'remove', 'undo']))
    def change_asns(self, number: int, action: str) -> None:
        if action == 'add':
            self.playground.call('add_asn', {'asn': number, 'name': 'a'})
        elif action == 'edit':
            self.playground.call('edit_asn', {'asn': number}, {'name': f'a {self.steps}'})
        elif action == 'remove':
            self.playground.call('remove_asn', {'asn': number})
        elif self.changes_of_asns:
            self.playground.call('undo', self.changes_of_asns[-1])
        # The oracle cannot play an undo of these.
        if self.last_change() != self.known:
            self.known = self.last_change()
            self.changes_of_asns.append(self.known)


class LateMachine(PastMachine):
    """A machine that builds the past between changes."""

    playground: GoingBack

    @precondition(lambda self: len(self.playground.states) > 5)
    @rule(back=st.sampled_from([0, 1, 1, 2, 5]), on=st.sampled_from([0, 1, 1, 3]))
    def build(self, back: int, on: int) -> None:
        self.playground.build_some(back, on)

    @WITH_PREFIXES
    @rule(prefix=A_PREFIX)
    def build_behind(self, prefix: int) -> None:
        """Build while the last change sets have no positions yet."""
        for number in range(4):
            self.decorate(prefix, {'comment': f'build {number}'})
            if number == 1:
                self.playground.give_positions()
        self.playground.build_some(0, 1)

    def teardown(self) -> None:
        if self.agreed:
            self.playground.compare_all()
        super().teardown()


@pytest.fixture
def remembering(
    dsn: str, db: Database, actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[type[Remembering]], Remembering]]:
    """Yield a function that makes a playground."""
    limit = 'hypothesis.internal.conjecture.engine.MAX_SHRINKING_SECONDS'
    monkeypatch.setattr(limit, SHRINKING_S, raising=False)
    made: list[Remembering] = []

    def make(kind: type[Remembering]) -> Any:
        made.append(kind(dsn, db, actor))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_each_state_is_answered_as_it_was(remembering: Callable[[type[Remembering]], Any]) -> None:
    playground = remembering(Following)
    run_state_machine_as_test(lambda: PastMachine(playground), settings=searching(6, soak=1000, steps=10))
    assert playground.compared


def test_states_that_are_built_late_are_answered_as_they_were(remembering: Callable[[type[Remembering]], Any]) -> None:
    playground = remembering(GoingBack)
    run_state_machine_as_test(lambda: LateMachine(playground), settings=searching(7, soak=1000, steps=18))
    assert playground.compared
