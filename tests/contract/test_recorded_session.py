"""Replay the recorded dialogue: the daemon must answer as recorded, except for deliberate differences.

The dialogue is played three times: to the Backend, to the XML-RPC application in this process, and to a running daemon.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from contract_faces import USERS, BackendFace, Face, Fault, XmlRpcFace, basic
from contract_recording import (
    INTERNALS,
    Comparison,
    Difference,
    Step,
    check_version,
    deliberate_differences,
    read_session,
    with_ids,
)

STEPS = read_session()
DIFFERENCES = deliberate_differences(STEPS)

#: These steps are about the credentials of a request, which a transport checks before any backend call.
TRANSPORT_ONLY = {
    3: 'no auth struct at all',
    4: 'auth struct without authoritative_source',
    250: 'wrong password',
    251: 'no credentials',
    252: 'unknown auth backend',
}
#: These steps were sent by a read-only user.
BY_READONLY_USER = range(245, 250)


@pytest.fixture(params=['backend_face', 'xmlrpc_face', 'daemon_face'])
def face(request: pytest.FixtureRequest) -> Face:
    return request.getfixturevalue(request.param)


def test_the_daemon_answers_as_recorded(face: Face) -> None:
    saved: dict[str, int] = {}
    comparison = Comparison()
    failures = []
    for step in STEPS:
        if isinstance(face, BackendFace) and step.number in TRANSPORT_ONLY:
            continue
        answer = play(face, step, with_ids(dict(step.members), saved))
        failures += [f'{step}\n    {line}' for line in disagreements(step, answer, comparison)]
        if step.save_id_as and isinstance(answer, dict):
            saved[step.save_id_as] = answer['id']
    assert not failures, f'{len(failures)} disagreements\n' + '\n'.join(failures)


def test_the_session_is_the_whole_recording() -> None:
    assert len(STEPS) == 253
    assert sum(step.fault is not None for step in STEPS) == 101


def play(face: Face, step: Step, members: dict[str, Any]) -> Any:
    """Make the call of one step as it was recorded, and return its result or its Fault."""
    try:
        if isinstance(face, XmlRpcFace) and step.number in TRANSPORT_ONLY:
            return call_without_proof(face, step, members)
        if step.number in BY_READONLY_USER:
            face = face.as_user('readonly')
        return face.call(step.method, **members)
    except Fault as fault:
        return fault
    except Exception as exc:  # the Backend should have raised an error of its own; the dialogue goes on
        return Fault(-1, f'{type(exc).__name__}: {exc}')


def call_without_proof(face: XmlRpcFace, step: Step, members: dict[str, Any]) -> Any:
    if step.number == 3:
        return face.send(step.method, members)
    if step.number == 4:
        return face.send(step.method, {'auth': {}, **members})
    password = USERS['alice'][0]
    authorization = {250: basic('alice', 'wrong'), 251: '', 252: basic('alice@nosuch', password)}[step.number]
    return XmlRpcFace(face.post, authorization).call(step.method, **members)


def disagreements(step: Step, answer: Any, comparison: Comparison) -> Iterator[str]:
    difference = DIFFERENCES.get(step.number)
    if isinstance(answer, Fault):
        if internals := INTERNALS.search(answer.text):
            yield f'internals in the fault text: {internals[0]!r} of {answer.text!r}'
        yield from of_faults(step, answer, difference)
    elif (difference and difference.code) or (step.fault and not difference):
        yield f'expected fault {difference or step.fault}, got the result {answer!r}'
    elif step.method == 'version':
        yield from check_version(answer)
    else:
        yield from comparison.differences(difference.result if difference else step.result, answer)


def of_faults(step: Step, fault: Fault, difference: Difference | None) -> Iterator[str]:
    got = f'got {fault.code} {fault.text!r}'
    if difference and difference.code:
        if fault.code != difference.code:
            yield f'expected code {difference.code} (difference {difference.reason}), {got}'
        if difference.text is not None and fault.text != difference.text:
            yield f'expected text {difference.text!r} (difference {difference.reason}), {got}'
        missing = [word for word in difference.mentions if word not in fault.text]
        if missing:
            yield f'the text must name {missing} (difference {difference.reason}), {got}'
    elif difference:
        yield f'expected a result (difference {difference.reason}), {got}'
    elif (fault.code, fault.text) != step.fault:
        yield f'recorded {step.fault}, {got}'
