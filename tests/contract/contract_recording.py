"""The recorded dialogue: its reader, its varying values, and the deliberate differences of the daemon."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nipap

SESSION = Path(__file__).parent.parent / 'data' / 'session.json'
#: 'tomorrow', on the day of the recording.
RECORDED_TOMORROW = dt.datetime(2026, 11, 23, 9, tzinfo=dt.UTC)
#: None of these may be in a fault text: SQL, context lines, Python classes.
INTERNALS = re.compile(r'CONTEXT:|LINE \d|SELECT|PL/pgSQL|<class|Traceback|psycopg|\w+Error:|File "')
#: The kind of object of the id in a member of an answer.
ID_MEMBERS: Mapping[str, str] = {'vrf_id': 'vrf', 'pool_id': 'pool', 'parent_prefix': 'prefix'}
TIMES_THAT_VARY = frozenset({'added', 'last_modified'})
#: The only member that objects have beside the recorded ones (difference 17).
NOT_RECORDED = 'version'


@dataclass(frozen=True)
class Step:
    """One call of the dialogue with its answer: either a result or a fault."""

    number: int
    method: str
    members: Mapping[str, Any]
    result: Any = None
    fault: tuple[int, str] | None = None
    save_id_as: str | None = None

    def __str__(self) -> str:
        return f'step {self.number}: {self.method} {json.dumps(self.members, default=str)}'


@dataclass(frozen=True)
class Difference:
    """The expected answer in place of the recorded one.

    `reason` is the number of the deliberate difference in the contract. With a `code` a fault is expected, and its text
    is `text` or contains all of `mentions`. Without a `code` the expected answer is `result`.
    """

    reason: int
    code: int | None = None
    text: str | None = None
    mentions: Sequence[str] = ()
    result: Any = None


def read_session() -> list[Step]:
    """Return the steps in order. Timestamps become aware datetimes."""
    raw = json.loads(SESSION.read_text(), object_hook=with_time)
    return [
        Step(
            number=number,
            method=entry['call'],
            members=entry['args'],
            result=entry.get('result'),
            fault=tuple(entry['fault']) if 'fault' in entry else None,
            save_id_as=entry.get('save_id_as'),
        )
        for number, entry in enumerate(raw)
    ]


def with_time(value: dict[str, Any]) -> Any:
    if value.keys() == {'$datetime'}:
        return dt.datetime.fromisoformat(value['$datetime']).replace(tzinfo=dt.UTC)
    return value


PREFIX_TYPES = ('reservation', 'assignment', 'host')
ALARM_PRIORITIES = ('warning', 'low', 'medium', 'high', 'critical')


def deliberate_differences(steps: Sequence[Step]) -> dict[int, Difference]:
    """Return the differences by step number."""
    return {
        31: Difference(3, code=1000, text='Invalid input for column rt, must be NULL for VRF id 0'),
        51: Difference(1, code=1200, mentions=('bogus', *PREFIX_TYPES)),
        59: Difference(9, result=with_empty_prefixes(steps[59].result)),
        73: Difference(1, code=1200, mentions=('bogus', *PREFIX_TYPES)),
        85: Difference(1, code=1200, mentions=('huge', *ALARM_PRIORITIES)),
        131: Difference(3, code=1100, text="specify 'from-pool' OR 'from-prefix'"),
        175: Difference(1, code=1200, mentions=('(',)),
        196: Difference(6, result=grouped_search(steps)),
        211: Difference(9, result={**steps[211].result, 'result': with_empty_prefixes(steps[211].result['result'])}),
        212: Difference(2, result=tags('core', 'office', 'private', 'rfc1918', 'se', 'silver', 'stockholm')),
        213: Difference(2, result=tags('rfc1918')),
        215: Difference(7, result={'asn': '4200000001', 'name': '32 bit'}),
        219: Difference(7, result=[*steps[219].result, {'asn': '4200000001', 'name': '32 bit'}]),
        236: Difference(14, code=1300),
        252: Difference(2, code=1510),
    }


def with_empty_prefixes(pools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**pool, 'prefixes': []} for pool in pools]


def tags(*names: str) -> dict[str, Any]:
    return {'search_options': {'max_result': 50, 'offset': 0}, 'result': [{'name': name} for name in names]}


def grouped_search(steps: Sequence[Step]) -> dict[str, Any]:
    """Return the answer to '(office or printer) and type=host', combined from its recorded parts."""
    either, hosts = steps[195].result, steps[192].result
    return {
        **either,
        'result': [row for row in either['result'] if row['type'] == 'host'],
        'interpretation': {
            'operator': 'and',
            'val1': either['interpretation'],
            'val2': hosts['interpretation'],
            'interpretation': {'interpretation': 'and', 'operator': 'and', 'error': False},
        },
    }


@dataclass
class Comparison:
    """A comparison of answers with recorded answers, with a map of recorded ids to actual ids.

    The ids must correspond one to one through the whole dialogue, kind by kind.
    """

    started: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))
    ids: dict[tuple[str, int], int] = field(default_factory=lambda: {('vrf', 0): 0})

    def differences(self, recorded: Any, actual: Any, path: str = 'result') -> Iterator[str]:
        """Yield a line for each value that differs."""
        if isinstance(recorded, dict) and isinstance(actual, dict):
            yield from self.of_structs(recorded, actual, path)
        elif isinstance(recorded, list) and isinstance(actual, list):
            if len(recorded) != len(actual):
                yield f'{path}: {len(recorded)} items recorded, got {len(actual)}: {actual!r}'
            for index, (one, other) in enumerate(zip(recorded, actual, strict=False)):
                yield from self.differences(one, other, f'{path}[{index}]')
        elif type(recorded) is not type(actual) or not self.same_value(recorded, actual):
            yield f'{path}: recorded {recorded!r}, got {actual!r}'

    def of_structs(self, recorded: dict[str, Any], actual: dict[str, Any], path: str) -> Iterator[str]:
        missing, extra = recorded.keys() - actual.keys(), actual.keys() - recorded.keys()
        if is_version(actual.get(NOT_RECORDED)):
            extra -= {NOT_RECORDED}
        if missing or extra:
            yield f'{path}: members missing {sorted(missing)}, not recorded {sorted(extra)}'
        for name in recorded.keys() & actual.keys():
            one, other = recorded[name], actual[name]
            if (kind := kind_of_id(name, recorded)) and isinstance(one, int):
                same = self.same_id(kind, one, other)
            elif name == 'inherited_tags':
                same = sorted(one) == sorted(other)
            elif name in TIMES_THAT_VARY:
                same = isinstance(other, dt.datetime)
            else:
                yield from self.differences(one, other, f'{path}.{name}')
                continue
            if not same:
                yield f'{path}.{name}: recorded {one!r}, got {other!r}'

    def same_value(self, recorded: Any, actual: Any) -> bool:
        if recorded == RECORDED_TOMORROW:
            days = {self.started.date(), dt.datetime.now(dt.UTC).date()}
            nine = dt.time(9, tzinfo=dt.UTC)
            return actual in {dt.datetime.combine(day + dt.timedelta(days=1), nine) for day in days}
        return bool(recorded == actual)

    def same_id(self, kind: str, recorded: int, actual: Any) -> bool:
        known = self.ids.get((kind, recorded))
        if known is not None:
            return known == actual
        taken = {value for (of_kind, _), value in self.ids.items() if of_kind == kind}
        if not isinstance(actual, int) or actual in taken:
            return False
        self.ids[kind, recorded] = actual
        return True


def is_version(value: Any) -> bool:
    """Return whether a value is a version of an object."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def kind_of_id(name: str, owner: Mapping[str, Any]) -> str | None:
    """Return the kind of object of the id in a member, or None if the member holds no id."""
    if name != 'id':
        return ID_MEMBERS.get(name)
    if 'default_type' in owner:
        return 'pool'
    return 'prefix' if 'prefix' in owner else 'vrf'


def with_ids(value: Any, saved: Mapping[str, int]) -> Any:
    """Return arguments with ``$name`` replaced by the id that was saved under the name."""
    if isinstance(value, dict):
        return {name: with_ids(inner, saved) for name, inner in value.items()}
    if isinstance(value, list):
        return [with_ids(inner, saved) for inner in value]
    if isinstance(value, str) and value.startswith('$'):
        return saved[value[1:]]
    return value


def check_version(actual: Any) -> Iterator[str]:
    """Yield a line if the version is not the present one, since the recorded daemon had its own version."""
    if actual != nipap.__version__:
        yield f'version {actual!r}'
