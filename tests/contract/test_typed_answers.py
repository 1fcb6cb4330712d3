"""Every answer of the recorded dialogue has the keys and types of `nipap.answers`, and the recorded keys."""

from __future__ import annotations

import datetime as dt
import types
from collections.abc import Iterator, Mapping
from typing import Any, NotRequired, Required, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

import pytest
from contract_faces import actor_of, as_client_sees
from contract_recording import NOT_RECORDED, read_session, with_ids

from nipap.answers import LongList
from nipap.backend import Backend
from nipap.calls import CALLS, Request
from nipap.errors import NipapError
from nipap.runtime.packed import whole

#: Keys that the recorded program did not have.
ADDED = frozenset({NOT_RECORDED})
OBJECTS = frozenset({'vrf', 'pool', 'prefix', 'asn'})


def problems(value: Any, wanted: Any, where: str) -> Iterator[str]:
    """Compare a value with a type, member by member. Similar types are different."""
    origin, arguments = get_origin(wanted), get_args(wanted)
    if wanted is Any or wanted is object or isinstance(wanted, TypeVar):
        return
    if origin in (NotRequired, Required):
        yield from problems(value, arguments[0], where)
    elif origin in (Union, types.UnionType):
        found = [list(problems(value, one, where)) for one in arguments]
        if all(found):
            yield min(found, key=len)[0]
    elif is_typeddict(origin or wanted):
        yield from of_struct(value, origin or wanted, dict(zip(parameters(origin), arguments, strict=True)), where)
    elif origin is list:
        if not isinstance(value, list):
            yield f'{where}: {type(value).__name__} instead of list'
        else:
            for n, item in enumerate(value):
                yield from problems(item, arguments[0], f'{where}[{n}]')
    elif origin is dict or origin is not None:
        if not isinstance(value, Mapping) or (arguments[1] is str and not all(type(v) is str for v in value.values())):
            yield f'{where}: {value!r} instead of {wanted}'
    elif type(value) is not wanted and not (wanted in (dt.datetime, LongList) and isinstance(value, wanted)):
        yield f'{where}: {type(value).__name__} instead of {wanted.__name__}'


def parameters(origin: Any) -> tuple[Any, ...]:
    return getattr(origin, '__parameters__', ())


def of_struct(value: Any, wanted: Any, given: Mapping[Any, Any], where: str) -> Iterator[str]:
    extras = get_type_hints(wanted, include_extras=True)
    required = {key for key, hint in extras.items() if get_origin(hint) is not NotRequired}
    hints = get_type_hints(wanted)
    if not isinstance(value, Mapping):
        yield f'{where}: {type(value).__name__} instead of {wanted.__name__}'
        return
    yield from (f'{where}: {key} is missing' for key in sorted(required - value.keys()))
    yield from (f'{where}: {key} is not known' for key in sorted(value.keys() - hints.keys()))
    for key in value.keys() & hints.keys():
        yield from problems(value[key], replaced(hints[key], given), f'{where}.{key}')


def replaced(wanted: Any, given: Mapping[Any, Any]) -> Any:
    """Return a type with the parameters of a generic struct replaced by its arguments."""
    if get_origin(wanted) is list and get_args(wanted)[0] in given:
        return list[given[get_args(wanted)[0]]]  # type: ignore[misc]  # a type that is known when the test runs
    return wanted


def test_answers_have_the_types_that_are_promised(backend: Backend) -> None:
    saved: dict[str, int] = {}
    promised = {name: get_type_hints(getattr(Backend, name))['return'] for name in CALLS}
    failures: list[str] = []
    compared: set[str] = set()
    for step in read_session():
        members = with_ids(dict(step.members), saved)
        try:
            answer = whole(backend.perform(actor_of('alice'), Request(step.method, members)))
        except NipapError:
            continue
        compared.add(step.method)
        failures += [f'{step}: {line}' for line in problems(answer, promised[step.method], step.method)]
        if step.fault is None:
            failures += [f'{step}: {line}' for line in other_keys(as_client_sees(answer), step.result)]
        if step.save_id_as and isinstance(answer, dict):
            saved[step.save_id_as] = answer['id']
    for kind, key in (('audit', 'kind'), ('change_set', 'method')):
        query = {'operator': 'is_not', 'val1': key, 'val2': None}
        calls = {
            f'list_{kind}': {kind: {'authoritative_source': 'nipap'}},
            f'search_{kind}': {'query': query},
            f'smart_search_{kind}': {'query_string': 'source=nipap'},
        }
        for method, members in calls.items():
            answer = whole(backend.perform(actor_of('alice'), Request(method, members)))
            assert answer['result'] if isinstance(answer, dict) else answer
            failures += [f'{method}: {line}' for line in problems(answer, promised[method], method)]
    assert not failures, '\n'.join(failures[:40])
    assert {
        f'{verb}_{kind}' for verb in ('add', 'list', 'edit', 'search', 'smart_search') for kind in OBJECTS
    } <= compared


def other_keys(answer: Any, recorded: Any) -> Iterator[str]:
    """Compare the keys of an answer with the recorded keys, where both have an object in the same place."""
    if isinstance(answer, list) and isinstance(recorded, list):
        for ours, theirs in zip(answer, recorded, strict=False):
            yield from other_keys(ours, theirs)
    elif isinstance(answer, Mapping) and isinstance(recorded, Mapping):
        if isinstance(answer.get('result'), list):
            yield from other_keys(answer['result'], recorded.get('result'))
        elif answer.keys() - ADDED != recorded.keys():
            yield f'keys differ from those recorded: {sorted(answer.keys() ^ recorded.keys())}'


@pytest.mark.parametrize(
    ('value', 'wanted', 'number'),
    [
        ([1, 'a'], list[int], 1),
        ({'a': 1}, dict[str, str], 1),
        (True, int, 1),
        (None, int | None, 0),
        ('1', int | None, 1),
    ],
)
def test_a_wrong_type_is_seen(value: Any, wanted: Any, number: int) -> None:
    assert len(list(problems(value, wanted, 'x'))) == number
