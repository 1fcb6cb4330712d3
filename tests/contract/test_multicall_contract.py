"""``system.multicall``: several calls in one request of XML-RPC, each with the same result as a single call."""

from __future__ import annotations

import json
from typing import Any

import pytest
from contract_faces import SOURCE, USERS, Fault, XmlRpcFace, basic

import nipap
from nipap.flask_xmlrpc import MOST_CALLS, MULTICALL
from nipap.postgres.database import Database

AUTH = {'authoritative_source': SOURCE}

pytestmark = pytest.mark.slow


@pytest.fixture
def face(xmlrpc_face: XmlRpcFace) -> XmlRpcFace:
    return xmlrpc_face


def one(method: str, **members: Any) -> dict[str, Any]:
    """Return a call for a multicall."""
    return {'methodName': method, 'params': [{'auth': AUTH, **members}]}


def several(face: XmlRpcFace, *calls: Any) -> list[Any]:
    """Return the answers of calls that are sent together."""
    answers: list[Any] = face.send(MULTICALL, list(calls))
    return answers


def faults(answers: list[Any]) -> list[int | None]:
    """Return the code of each answer, or None if the answer is no fault."""
    for answer in answers:
        assert len(answer) == 1 if isinstance(answer, list) else answer.keys() == {'faultCode', 'faultString'}
    return [answer['faultCode'] if isinstance(answer, dict) else None for answer in answers]


def add(prefix: str, **more: Any) -> dict[str, Any]:
    return one('add_prefix', attr={'prefix': prefix, 'type': 'reservation', 'description': 'x'}, **more)


def change_sets(db: Database) -> int:
    return int(db.read(lambda tx: tx.value('SELECT count(*) FROM change_set')))


def test_each_has_its_answer_in_order(face: XmlRpcFace) -> None:
    names, version, vrfs, nothing = several(
        face,
        {'methodName': 'system.listMethods', 'params': []},
        one('version'),
        one('list_vrf', vrf={'id': 0}),
        one('remove_asn', asn={'asn': 1}),
    )
    assert MULTICALL in names[0]
    assert version == [nipap.__version__]
    assert [vrf['name'] for vrf in vrfs[0]] == ['default']
    assert nothing == [None]
    assert several(face) == []


def test_each_is_a_transaction_of_its_own(face: XmlRpcFace, db: Database) -> None:
    """A failing call undoes no other call, and each call sees the changes of the calls before."""
    before = change_sets(db)
    answers = several(
        face,
        add('10.0.0.0/8'),
        one('list_prefix', prefix={}),
        add('10.0.0.0/8'),
        add('11.0.0.0/8'),
        one('remove_prefix', prefix={'prefix': '10.0.0.0/8'}),
        one('list_prefix', prefix={}),
    )
    assert faults(answers) == [None, None, 1400, None, None, None]
    listed = [[row['prefix'] for row in answers[n][0]] for n in (1, 5)]
    assert listed == [['10.0.0.0/8'], ['11.0.0.0/8']]
    assert face.stored() == ['11.0.0.0/8']
    assert change_sets(db) - before == 3


def test_faults_are_those_of_single_calls(face: XmlRpcFace) -> None:
    wrong = [
        ('drop_vrf', [{'auth': AUTH}]),
        ('x' * 10_000, [{'auth': AUTH}]),
        ('version', []),
        ('version', [{'auth': AUTH}, {'auth': AUTH}]),
        ('version', [7]),
        ('version', [{}]),
        ('version', [{'auth': {}}]),
        ('list_vrf', [{'auth': AUTH, 'vrf': 7}]),
        ('add_asn', [{'auth': AUTH, 'attr': {'asn': -1}}]),
        ('system.methodHelp', ['nope']),
    ]
    answers = several(face, *({'methodName': method, 'params': params} for method, params in wrong))
    for (method, params), answer in zip(wrong, answers, strict=True):
        with pytest.raises(Fault) as caught:
            face.send(method, *params)
        assert answer == {'faultCode': caught.value.code, 'faultString': caught.value.text}


@pytest.mark.parametrize(
    'item',
    [
        {'methodName': MULTICALL, 'params': [[]]},
        {'methodName': MULTICALL, 'params': [[{'methodName': 'version', 'params': [{'auth': AUTH}]}]]},
        {'methodName': 7, 'params': []},
        {'methodName': 'version'},
        {'methodName': 'version', 'params': {}},
        {'methodName': 'version', 'params': None},
        {'params': []},
        {},
        [],
        None,
        'version',
    ],
    ids=json.dumps,
)
def test_a_malformed_call_is_a_fault_beside_the_others(face: XmlRpcFace, item: Any) -> None:
    answers = several(face, one('version'), item, one('version'))
    assert faults(answers) == [None, 1100, None]


@pytest.mark.parametrize(
    'params', [(), ([], []), (None,), ({},), ('version',), ([one('version')] * (MOST_CALLS + 1),)], ids=len
)
def test_a_malformed_or_too_long_list_of_calls_makes_none(face: XmlRpcFace, params: tuple[Any, ...]) -> None:
    with pytest.raises(Fault) as caught:
        face.send(MULTICALL, *params)
    assert caught.value.code == 1100
    assert MULTICALL in caught.value.text


def test_as_many_as_are_allowed(face: XmlRpcFace) -> None:
    assert several(face, *[one('version')] * MOST_CALLS) == [[nipap.__version__]] * MOST_CALLS


def test_each_is_authorized(face: XmlRpcFace, db: Database) -> None:
    reader = XmlRpcFace(face.post, basic('readonly', USERS['readonly'][0]))
    assert faults(several(reader, one('version'), add('10.0.0.0/8'), one('list_webhook'))) == [None, 1520, 1520]
    gateway = XmlRpcFace(face.post, basic('gateway', USERS['gateway'][0]))
    ann, bob = ({**AUTH, 'username': name} for name in ('ann', 'bob'))
    answers = several(
        gateway,
        add('10.0.0.0/8', auth=ann),
        add('11.0.0.0/8', auth={**bob, 'readonly': True}),
        add('12.0.0.0/8', auth=bob),
    )
    assert faults(answers) == [None, 1520, None]
    names = db.read(lambda tx: tx.all('SELECT username, authenticated_as FROM audit_log ORDER BY id'))
    assert names == [('ann', 'gateway'), ('bob', 'gateway')]


@pytest.mark.parametrize(('authorization', 'code'), [('', 1500), (basic('alice', 'wrong'), 1510)])
def test_without_credentials_there_is_one_fault(face: XmlRpcFace, authorization: str, code: int) -> None:
    with pytest.raises(Fault) as caught:
        several(XmlRpcFace(face.post, authorization), one('version'))
    assert caught.value.code == code


def test_each_may_have_its_idempotency_key(face: XmlRpcFace) -> None:
    def make() -> list[Any]:
        return several(
            face,
            add('10.0.0.0/8', idempotency_key='first'),
            add('11.0.0.0/8', idempotency_key='second'),
            add('12.0.0.0/8'),
        )

    first, again = make(), make()
    assert faults(first) == [None, None, None]
    assert faults(again) == [None, None, 1400]
    assert again[:2] == first[:2]


def test_the_header_for_one_key_is_refused(face: XmlRpcFace) -> None:
    post = face.post

    def with_key(path: str, body: bytes, headers: Any) -> tuple[int, bytes]:
        return post(path, body, {**headers, 'Idempotency-Key': 'one'})

    with pytest.raises(Fault) as caught:
        several(XmlRpcFace(with_key), add('10.0.0.0/8'))
    assert caught.value.code == 1100
    assert face.stored() == []
