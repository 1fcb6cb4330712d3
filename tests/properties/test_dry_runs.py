"""A dry run says what the same call does when it is made next, and changes nothing.

The machine of the tree plays each change twice: first as a dry run, then for good. A digest of all tables is the same
before and after the dry run. What the dry run said is compared with what the change did to every object.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, note
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

from nipap import calls
from nipap.access.authentication import Actor
from nipap.batch import Operation
from nipap.calls import Request
from nipap.errors import NipapError
from nipap.postgres.database import Database
from nipap.postgres.transaction import Outcome

from .conftest import SHRINKING_S
from .playground import Playground, brief, searching
from .test_tree import TreeMachine

pytestmark = pytest.mark.slow

Object = dict[str, Any]

REFERENCES = {'vrf_id': 'vrf', 'pool_id': 'pool'}
NewIds = dict[tuple[str, int], int]  # kind of an object and its id in the dry run: its id in the change
VARIES = ('id', 'added', 'last_modified')
FIGURES = {
    'prefix': ('children', 'total_addresses', 'used_addresses', 'free_addresses'),
    'pool': tuple(
        f'{name}_v{family}'
        for name in (
            *('member_prefixes', 'used_prefixes', 'free_prefixes', 'total_prefixes'),
            *('total_addresses', 'used_addresses', 'free_addresses'),
        )
        for family in (4, 6)
    ),
    'vrf': tuple(
        f'{name}_v{family}'
        for name in ('num_prefixes', 'total_addresses', 'used_addresses', 'free_addresses')
        for family in (4, 6)
    ),
}
ENTRIES = 'SELECT object_type, object_id, action, before, after FROM audit_log WHERE change_set = %s ORDER BY id'
PARENTS = 'SELECT p.id, q.id, q.prefix::text FROM prefix p LEFT JOIN prefix q ON q.id = p.parent_id'


class Planning(Playground):
    """A playground in which each change is a dry run first."""

    def __init__(self, dsn: str, db: Database, actor: Actor) -> None:
        super().__init__(dsn, db, actor)
        self.rehearsed = 0

    def ask(self, method: str, *members: Any) -> tuple[Any, NipapError | None]:
        call = calls.find(method)
        if not call.changes:
            return super().ask(method, *members)
        names = list(inspect.signature(getattr(self.backend, method)).parameters)[1:]
        return self.rehearse(method, dict(zip(names, members, strict=False)))

    def rehearse(self, method: str, members: Object) -> tuple[Any, NipapError | None]:
        """Make a dry run and then the change, compare them, and return the outcome of the change."""
        before = self.digest()
        told = self.backend.perform(self.actor, Request(method, members, dry_run=True))
        note(f'    dry run of {method}({members}) -> {told["errors"] or brief(told["answer"])}')
        assert self.digest() == before
        state, parents = self.state(), self.parents()
        outcome = Outcome()
        try:
            answer = self.backend.perform(self.actor, Request(method, members), outcome)
        except NipapError as error:
            self.compare_errors(told, error)
            return None, error
        self.rehearsed += 1
        assert told['errors'] == []
        entries = self.rows(ENTRIES, outcome.change_set)
        new = compare_changes(told['changes'], entries)
        assert same_for_all(told['answer'], new) == same_for_all(answer)
        assert told['events']['number'] == len(entries)
        compare_counters(told['counters'], state, self.state())
        compare_parents(told['moved'], parents, self.parents())
        return answer, None

    def compare_errors(self, told: Object, error: NipapError) -> None:
        """Compare what a dry run said about errors with the error of the call."""
        assert told['errors'], f'the dry run had no error, the call had {error}'
        assert 'plan' not in told
        found = [(each['code'], each['position'], without_ids(each['message'])) for each in told['errors']]
        text = without_ids(str(error))
        if error.position is not None and text.startswith('operation '):
            text = text.partition('): ')[2]
        assert (error.code, error.position, text) in found

    def digest(self) -> list[Any]:
        """Return a digest of every table."""
        whole = 'SELECT md5(string_agg(t::text, chr(10) ORDER BY t::text)) FROM public'
        return self.rows(f'SELECT {", ".join(f"({whole}.{name} t)" for name in self._tables)}')

    def state(self) -> dict[tuple[str, int], Object]:
        """Return the counters of all objects."""
        found = {
            'prefix': self.backend.search_prefix(self.actor, {}, {'max_result': False})['result'],
            'pool': self.backend.list_pool(self.actor),
            'vrf': self.backend.list_vrf(self.actor),
        }
        return {
            (kind, item['id']): {name: text_of(item[name]) for name in FIGURES[kind]}
            for kind, items in found.items()
            for item in items
        }

    def parents(self) -> dict[int, tuple[int, str] | None]:
        """Return the parent of each prefix."""
        return {i: None if parent is None else (parent, prefix) for i, parent, prefix in self.rows(PARENTS)}

    def rows(self, statement: str, *args: Any) -> list[Any]:
        return self.db.read(lambda tx: tx.all(statement, args))


def without_ids(text: str) -> str:
    return re.sub(r'\bid \d+', 'id', text)


def text_of(value: Any) -> Any:
    return None if value is None else str(value)


def same_for_all(answer: Any, new: NewIds | None = None) -> Any:
    """Return an answer without ids of new objects and times. References to new objects get their ids of the change."""
    if isinstance(answer, list):
        return [same_for_all(item, new) for item in answer]
    if isinstance(answer, dict):
        same = {name: value for name, value in answer.items() if name not in VARIES}
        return {**same, **{name: refer(same, name, new or {}) for name in REFERENCES if name in same}}
    return answer


def refer(item: Object, name: str, new: NewIds) -> Any:
    """Return the id that an object refers to, for an object of the dry run as it is in the change."""
    return new.get((REFERENCES[name], item.get(name)), item.get(name))


def compare_changes(told: list[Object], entries: list[Any]) -> NewIds:
    """Compare the changes of a dry run with the audit entries of the change; return the ids of new objects."""
    assert len(told) == len(entries)
    new: NewIds = {}
    for change, (kind, key, action, before, after) in zip(told, entries, strict=True):
        if action == 'add':
            new[kind, change['id']] = key
        assert (change['kind'], change['action']) == (kind, action)
        assert new.get((kind, change['id']), change['id']) == key
        for said, done in ((change['before'], before), (change['after'], after)):
            if done is None or said is None:
                assert said is done
                continue
            assert same_for_all(said, new) == same_for_all(done)
    return new


def compare_counters(
    told: list[Object], before: dict[tuple[str, int], Object], after: dict[tuple[str, int], Object]
) -> None:
    """Compare the counters of a dry run with those of all objects that exist before and after the change."""
    done = {}
    for key in before.keys() & after.keys():
        differ = [name for name in before[key] if before[key][name] != after[key][name]]
        if differ:
            done[key] = ({name: before[key][name] for name in differ}, {name: after[key][name] for name in differ})
    said = {
        (item['kind'], item['id']): tuple(
            {name: text_of(value) for name, value in item[side].items()} for side in ('before', 'after')
        )
        for item in told
    }
    assert said == done


def compare_parents(told: list[Object], before: dict[int, Any], after: dict[int, Any]) -> None:
    """Compare the prefixes that a dry run moved with those that the change moved."""

    def place(parent: Any) -> Any:
        return None if parent is None else parent[1]

    done = {
        i: (place(before[i]), place(after[i]))
        for i in before.keys() & after.keys()
        if (before[i] and before[i][0]) != (after[i] and after[i][0])
    }
    said = {
        item['id']: tuple(item[side] and item[side]['prefix'] for side in ('parent_before', 'parent_after'))
        for item in told
    }
    assert said == done


@pytest.fixture
def planning(dsn: str, db: Database, actor: Actor, monkeypatch: pytest.MonkeyPatch) -> Iterator[Planning]:
    limit = 'hypothesis.internal.conjecture.engine.MAX_SHRINKING_SECONDS'
    monkeypatch.setattr(limit, SHRINKING_S, raising=False)
    made = Planning(dsn, db, actor)
    yield made
    made.close()


def test_a_dry_run_says_what_the_call_does(planning: Planning) -> None:
    run_state_machine_as_test(lambda: TreeMachine(planning), settings=searching(8, soak=2000, steps=12))
    assert planning.rehearsed


# ---------------------------------------------------------------- batches

PLACES = (
    '10.0.0.0/8',
    '10.0.0.0/16',
    '10.0.0.0/24',
    '10.0.0.0/25',
    '10.0.0.1/32',
    '10.0.1.0/24',
    '10.0.1.1/32',
    '::/0',
)


@st.composite
def operations(draw: st.DrawFn) -> list[Object]:
    """Return operations of a batch, some of which fail, and some of which refer to others."""
    found: list[Object] = []
    for n in range(draw(st.integers(1, 12))):
        kind = draw(st.sampled_from(['add', 'add', 'add', 'add', 'edit', 'remove', 'vrf', 'pool', 'asn']))
        number = st.integers(0, max(0, n - 1)).map(lambda k: {'$result': [k, 'id']}) if n else st.just(1)
        if kind == 'add':
            type_ = draw(st.sampled_from(['reservation', 'reservation', 'assignment', 'host', 'none']))
            attr: Object = {'prefix': draw(st.sampled_from(PLACES)), 'type': type_, 'description': 'd'}
            if draw(st.integers(0, 4)) == 0:
                attr[draw(st.sampled_from(['pool_id', 'vrf_id']))] = draw(number)
            found.append({'method': 'add_prefix', 'args': {'attr': attr}})
        elif kind in ('edit', 'remove'):
            args: Object = {'prefix': {'id': draw(number)}}
            if kind == 'edit':
                args['attr'] = draw(st.sampled_from([{'comment': 'c'}, {'prefix': '10.0.0.0/23'}, {'vlan': 9999}]))
            else:
                args['recursive'] = draw(st.booleans())
            found.append({'method': f'{kind}_prefix', 'args': args})
        elif kind == 'vrf':
            rt = draw(st.sampled_from(['1:1', '1:2']))
            found.append({'method': 'add_vrf', 'args': {'attr': {'rt': rt, 'name': f'v{rt}'}}})
        elif kind == 'pool':
            pool = {'name': draw(st.sampled_from('pq')), 'description': 'd', 'default_type': 'assignment'}
            found.append({'method': 'add_pool', 'args': {'attr': pool}})
        else:
            found.append({'method': 'add_asn', 'args': {'attr': {'asn': draw(st.sampled_from([1, 2, 'x']))}}})
    return found


def test_a_batch_without_its_failing_operations_does_what_its_dry_run_said(planning: Planning) -> None:
    @searching(50, soak=10_000)
    @given(operations())
    def play(asked: list[Object]) -> None:
        planning.reset()
        told = planning.backend.perform(planning.actor, Request('batch', {'operations': asked}, dry_run=True))
        _, error = planning.rehearse('batch', {'operations': asked})
        failed = {each['position'] for each in told['errors']}
        assert bool(failed) == (error is not None)
        for each in told['errors']:
            needed = each['depends_on']
            assert needed is None or needed in failed
        if not failed:
            return
        # Additions that run together are noted in another order than apart. So between two of them an operation that
        # does nothing takes the place of a failing one. References name the operations by new numbers.
        asked = [
            {'method': 'echo', 'args': {}} if n in failed and not is_addition(each) else each
            for n, each in enumerate(asked)
        ]
        left = [n for n, each in enumerate(asked) if n not in failed or not is_addition(each)]
        kept = [renumbered(asked[n], {old: new for new, old in enumerate(left)}) for n in left]
        outcome = Outcome()
        planning.backend.perform(planning.actor, Request('batch', {'operations': kept}), outcome)
        compare_changes(told['changes'], planning.rows(ENTRIES, outcome.change_set))

    play()


def is_addition(operation: Object) -> bool:
    """Return whether an operation may be run together with its neighbours."""
    return Operation(**operation, paths=()).is_plain_add() and '$result' not in str(operation)


def renumbered(value: Any, numbers: dict[int, int]) -> Any:
    """Return an operation with other numbers in its references."""
    if isinstance(value, dict):
        if '$result' in value:
            number, *path = value['$result']
            return {'$result': [numbers[number], *path]}
        return {name: renumbered(item, numbers) for name, item in value.items()}
    return value
