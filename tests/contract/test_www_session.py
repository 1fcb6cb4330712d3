"""The calls of the web client of NIPAP, as they were recorded on the wire, replayed to nipapd.

The ``meta`` of tests/data/www-session.json describes the format of the recording.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from contract_faces import USERS, BackendFace, Face, XmlRpcFace, actor_of, basic

import nipap
from nipap.postgres import migrations

RECORDED = (Path(__file__).parent.parent / 'data' / 'www-session.json').read_text()
# No VLAN has the number 5000, which the client has sent once.
SESSION = json.loads(re.sub(r'("vlan": "?)5000\b', r'\g<1>4000', RECORDED))
DEFAULTS: Mapping[str, Mapping[str, Any]] = SESSION['meta']['defaults']
AUTH = {'username': 'guest', 'full_name': 'Guest', 'authoritative_source': 'nipap', 'readonly': False}
LATER = frozenset({'version'})  # a member of answers that is newer than the recording

#: The expected answer in place of the recorded one, by the number of the call. None: any answer.
INSTEAD: Mapping[int, Any] = {
    # Blocks that can be allocated count, not fractions of blocks.
    166: [{**SESSION['calls'][166]['result'][0], 'free_prefixes_v4': '16382', 'total_prefixes_v4': '16384'}],
    188: migrations.latest(),
    82: None,  # a fault of the recorded daemon: it could not search for tags and text at once
    86: None,  # the recorded daemon did not understand a quote inside a word: `it's` is a word
    178: (1110, 'missing attribute name'),
    187: nipap.__version__,
    196: (1200, 'Invalid syntax for integer ()'),
    197: (1200, 'Invalid date specification for expires'),
    198: None,  # a duplicate of what 197 added
    201: None,  # the totals of another database
    203: (1200, "Invalid value 'bogus' for type, must be one of: reservation, assignment, host"),
}


@pytest.fixture(params=['backend_face', 'xmlrpc_face'])
def face(request: pytest.FixtureRequest) -> Face:
    return request.getfixturevalue(request.param)


def test_the_web_client_is_answered_as_recorded(face: Face) -> None:
    playback = Playback()
    failures: list[str] = []
    for number, call in enumerate(SESSION['calls']):
        answer = face_of(face, call).outcome(call['method'], **playback.sent(call['args']))
        recorded = INSTEAD.get(number, tuple(call['fault']) if 'fault' in call else call.get('result'))
        if number in INSTEAD and recorded is None:
            continue
        seeding = call['step'] == 'seed'
        found = playback.differences(recorded, answer, only_recorded=seeding)
        failures += [f'call {number} ({call["step"]}), {call["method"]}: {line}' for line in found]
    assert not failures, f'{len(failures)} disagreements\n' + '\n'.join(failures)


def face_of(face: Face, call: Mapping[str, Any]) -> Face:
    """Return the face of the trusted user who sends the call, with the user for whom the call is made."""
    auth = call.get('auth') or ({'authoritative_source': 'nipap'} if call['step'] == 'seed' else AUTH)
    if isinstance(face, BackendFace):
        return BackendFace(face.backend, actor_of('gateway', **auth))
    assert isinstance(face, XmlRpcFace)
    return XmlRpcFace(face.post, basic('gateway', USERS['gateway'][0]), auth)


class Playback:
    """The values of names in the recording, and the comparison of answers with recorded ones."""

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}

    def sent(self, value: Any) -> Any:
        """Return an argument of the recording with this daemon's numbers."""
        if isinstance(value, dict):
            if '$time' in value:
                return dt.datetime.fromisoformat(value['$time'])
            value = {**DEFAULTS.get(value.get('_', ''), {}), **value}
            return {name: self.sent(item) for name, item in value.items() if name != '_'}
        if isinstance(value, list):
            return [self.sent(item) for item in value]
        if isinstance(value, str) and (match := re.fullmatch(r'(\$[a-z]+[0-9]+)(:text)?', value)):
            number = self.ids[match[1]]
            return str(number) if match[2] else number
        return value

    def differences(self, recorded: Any, actual: Any, path: str = '', *, only_recorded: bool = False) -> Iterator[str]:
        """Yield a line for each value that differs from the recorded one."""
        if isinstance(recorded, dict) and '$time' in recorded:
            if not isinstance(actual, dt.datetime) or recorded['$time'] not in ('*', written(actual)):
                yield f'{path}: recorded {recorded}, got {actual!r}'
        elif isinstance(recorded, dict) and isinstance(actual, dict):
            whole = {**DEFAULTS.get(recorded.get('_', ''), {}), **recorded}
            whole.pop('_', None)
            odd = whole.keys() - actual.keys() if only_recorded else whole.keys() ^ (actual.keys() - LATER)
            if odd:
                yield f'{path}: members {sorted(odd)} in one only'
            for name in whole.keys() & actual.keys():
                if name == 'inherited_tags':  # recorded in random order
                    whole[name], actual[name] = sorted(whole[name]), sorted(actual[name])
                yield from self.differences(whole[name], actual[name], f'{path}.{name}')
        elif isinstance(recorded, list) and isinstance(actual, list):
            if len(recorded) != len(actual):
                yield f'{path}: {len(recorded)} items recorded, got {len(actual)}: {actual!r:.300}'
            for n, (one, other) in enumerate(zip(recorded, actual, strict=False)):
                yield from self.differences(one, other, f'{path}[{n}]')
        elif isinstance(recorded, str) and recorded.startswith('$'):
            name, _, form = recorded.partition(':')
            if self.ids.setdefault(name, int(actual)) != int(actual) or isinstance(actual, str) != (form == 'text'):
                yield f'{path}: recorded {recorded} = {self.ids[name]}, got {actual!r}'
        elif recorded != actual or type(recorded) is not type(actual):
            yield f'{path}: recorded {recorded!r}, got {actual!r:.300}'


def written(moment: dt.datetime) -> str:
    return moment.strftime('%Y-%m-%d %H:%M:%S')
