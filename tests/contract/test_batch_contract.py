"""`batch`: many calls in one transaction. A run of additions has the same result as single additions."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from contract_faces import Face
from daemon_process import poll

from nipap import batch as batches
from nipap.access.authentication import Actor
from nipap.backend import Backend
from nipap.errors import NipapInputError
from nipap.integrity import check
from nipap.postgres.database import Database


def adding(prefix: str, type_: str = 'reservation', **attr: Any) -> dict[str, Any]:
    return {'method': 'add_prefix', 'args': {'attr': {'prefix': prefix, 'type': type_, 'description': 'd', **attr}}}


BAD_PATTERN = {'operator': 'regex_match', 'val1': 'description', 'val2': '('}


def batch(api: Face, *operations: dict[str, Any], **members: Any) -> Any:
    return api.call('batch', operations=list(operations), **members)


def test_answers_come_in_order(api: Face) -> None:
    vrf, prefix, listed = batch(
        api,
        {'method': 'add_vrf', 'args': {'attr': {'rt': '1:1', 'name': 'one'}}},
        adding('10.0.0.0/8', vrf_rt='1:1'),
        {'method': 'list_prefix', 'args': {'prefix': {'vrf_rt': '1:1'}}},
    )
    assert vrf['rt'] == '1:1'
    assert prefix['vrf_name'] == 'one'
    assert [item['id'] for item in listed] == [prefix['id']]


def test_an_operation_refers_to_what_another_answered(api: Face) -> None:
    pool = {'name': 'p', 'description': 'd', 'default_type': 'assignment', 'ipv4_default_prefix_length': 24}
    answers = batch(
        api,
        {'method': 'add_pool', 'args': {'attr': pool}},
        adding('10.0.0.0/16', pool_id={'$result': [0, 'id']}),
        {
            'method': 'add_prefix',
            'args': {
                'attr': {'description': 'allocated'},
                'args': {'from-pool': {'id': {'$result': [0, 'id']}}, 'family': 4},
            },
        },
    )
    assert answers[1]['pool_id'] == answers[0]['id']
    assert answers[2]['prefix'] == '10.0.0.0/24'


def test_answers_may_be_ids_only(api: Face) -> None:
    ids = batch(
        api, adding('10.0.0.0/8'), adding('10.1.0.0/16'), adding('10.1.1.0/24', 'assignment'), **{'return': 'ids'}
    )
    listed = api.call('list_prefix', prefix={})
    assert ids == [item['id'] for item in listed]


def test_a_batch_does_not_sleep_for_long(api: Face) -> None:
    """A batch sleeps after its transaction has ended, so that nobody waits for its session and its locks."""
    sleeping = {'method': 'echo', 'args': {'message': 'late', 'sleep': 0.01}}
    assert batch(api, sleeping) == ['late']
    late = {'method': 'echo', 'args': {'message': 'late', 'sleep': 10}}
    fault = api.fault('batch', operations=[adding('10.0.0.0/8'), sleeping, late])
    assert (fault.code, fault.text) == (
        1200,
        'operation 2 (echo): Invalid value 10 for sleep, a batch sleeps at most 10 seconds',
    )
    assert api.call('list_prefix', prefix={}) == []


def test_one_fault_names_the_operation_and_nothing_is_changed(api: Face) -> None:
    fault = api.fault(
        'batch', operations=[adding('10.0.0.0/8'), adding('10.1.0.0/16'), adding('10.1.0.0/16'), adding('10.2.0.0/16')]
    )
    assert fault.code == 1400
    assert (
        fault.text
        == "operation 2 (add_prefix): Duplicate value for 'prefix', the value '0, 10.1.0.0/16' is already in use."
    )
    assert api.call('list_prefix', prefix={}) == []


def test_of_equal_prefixes_the_first_is_the_parent(api: Face) -> None:
    """The second one is at fault, not a prefix inside the first."""
    fault = api.fault(
        'batch', operations=[adding('10.0.0.0/8'), adding('10.0.0.0/16'), adding('10.0.0.0/8', 'assignment')]
    )
    assert (fault.code, fault.text) == (
        1400,
        "operation 2 (add_prefix): Duplicate value for 'prefix', the value '0, 10.0.0.0/8' is already in use.",
    )
    assert api.call('list_prefix', prefix={}) == []


def test_the_outermost_prefix_that_breaks_a_rule_is_named(api: Face) -> None:
    """A prefix inside it is not at fault, although it cannot be added either."""
    fault = api.fault(
        'batch',
        operations=[adding('10.0.0.0/8'), adding('10.0.0.0/24'), adding('10.0.0.0/16', 'host'), adding('10.0.0.0/9')],
    )
    assert (fault.code, fault.text) == (
        1200,
        'operation 2 (add_prefix): Prefix of type host must have all bits set in netmask',
    )
    assert api.call('list_prefix', prefix={}) == []


@pytest.mark.parametrize(
    ('operations', 'code', 'text'),
    [
        (None, 1110, "'operations' must be specified"),
        ('x', 1100, "Invalid operations ('x'), must be an array"),
        ([1], 1100, 'operation 0: must be a struct of method and args'),
        ([{'method': 'no'}], 1100, "operation 0: Unknown method 'no'"),
        ([{'method': 'batch', 'args': {}}], 1100, "operation 0: Unknown method 'batch'"),
        ([{'method': 'version', 'args': 1}], 1100, 'operation 0 (version): args must be a struct'),
        (
            [adding('10.0.0.0/8'), adding('nonsense')],
            1200,
            'operation 1 (add_prefix): Invalid syntax for prefix (nonsense)',
        ),
        (
            [adding('10.0.0.0/8'), adding('10.0.0.1/32', 'host')],
            1200,
            'operation 1 (add_prefix): '
            "Parent prefix (10.0.0.0/8) is of type reservation but must be of type 'assignment'",
        ),
        (
            [{'method': 'list_vrf', 'args': {'vrf': {'id': {'$result': [3]}}}}],
            1100,
            'operation 0 (list_vrf): $result [3]: there is no 3 in the answer',
        ),
        (
            [adding('10.0.0.0/8'), {'method': 'list_vrf', 'args': {'vrf': {'id': {'$result': [0, 'no']}}}}],
            1100,
            "operation 1 (list_vrf): $result [0, 'no']: there is no 'no' in the answer",
        ),
        (
            [adding('10.0.0.0/8'), {'method': 'remove_prefix', 'args': {'prefix': {'id': 999}}}, adding('::/8')],
            1300,
            'operation 1 (remove_prefix): No prefix with id 999 found.',
        ),
        (
            [adding('10.0.0.0/8'), {'method': 'search_prefix', 'args': {'query': BAD_PATTERN}}],
            1200,
            'operation 1 (search_prefix): Invalid regular expression ((), see POSIX regular expressions',
        ),
        (
            [adding('10.0.0.0/8'), {'method': 'search_vrf', 'args': {'query': BAD_PATTERN}}],
            1200,
            'operation 1 (search_vrf): Invalid regular expression ((), see POSIX regular expressions',
        ),
    ],
)
def test_what_cannot_be_done_is_named(api: Face, operations: Any, code: int, text: str) -> None:
    fault = api.fault('batch', operations=operations)
    assert (fault.code, fault.text) == (code, text)
    assert api.stored() == []


def echo(message: Any) -> dict[str, Any]:
    return {'method': 'echo', 'args': {'message': message}}


def test_references_cannot_grow_without_end(api: Face) -> None:
    """Each reference stands for twice as much as the reference before."""
    doubled = [echo([{'$result': [n]}] * 2) for n in range(40)]
    fault = api.fault('batch', operations=[echo('x' * 10), *doubled])
    assert fault.code == 1200
    assert fault.text.endswith('(echo): References copy too many values, at most 1000000 in one batch')


def test_one_value_may_be_referred_to_often(api: Face) -> None:
    first = {'rt': '1:1', 'name': 'one', 'tags': ['a', 'b']}
    answers = batch(
        api,
        {'method': 'add_vrf', 'args': {'attr': first}},
        *[echo([{'$result': [0, 'tags', '1']}, {'$result': ['0', 'name']}])] * 500,
    )
    assert answers[1:] == [['b', 'one']] * 500


def test_only_references_have_a_depth(backend: Backend, actor: Actor) -> None:
    deep: Any = 'x'
    for _ in range(50_000):
        deep = [deep]
    (found,) = backend.batch(actor, [echo(deep)])
    assert found is deep
    with pytest.raises(NipapInputError, match=r'operation 1 \(echo\): .* may nest 200 deep'):
        backend.batch(actor, [echo(1), echo([deep, {'$result': [0]}])])


def listing(**spec: Any) -> dict[str, Any]:
    return {'method': 'list_prefix', 'args': {'prefix': spec}}


def test_there_is_an_end_to_what_is_answered(api: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, 'MOST_OBJECTS', 10)
    monkeypatch.setattr(batches, 'MOST_IDS', 20)
    batch(api, *(adding(f'10.{n}.0.0/16') for n in range(9)))
    assert len(batch(api, listing(), adding('11.0.0.0/8'))[0]) == 9
    fault = api.fault('batch', operations=[adding('12.0.0.0/8'), listing()])
    assert (fault.code, fault.text) == (
        1200,
        "operation 1 (list_prefix): The answers are too long, at most 10 objects (of ids, with 'return': 'ids', 20) "
        'in one batch: ask for pages',
    )
    assert len(api.stored()) == 10
    pages = {'method': 'search_prefix', 'args': {'query': {}, 'search_options': {'max_result': 5}}}
    assert [len(found['result']) for found in batch(api, pages, pages)] == [5, 5]
    assert len(batch(api, listing(), listing(), **{'return': 'ids'})[1]) == 10
    fault = api.fault('batch', operations=[listing()] * 3, **{'return': 'ids'})
    assert fault.text.endswith('at most 20 ids in one batch: ask for pages')
    edit = {'method': 'edit_prefix', 'args': {'prefix': {'vrf_id': 0}, 'attr': {'comment': 'changed'}}}
    assert api.fault('batch', operations=[edit, edit]).code == 1200
    assert api.stored(comment='changed') == []


def some_prefixes(seed: int) -> list[dict[str, Any]]:
    """Return additions of a tree in random order, with covers, hosts and both families."""
    random_ = random.Random(seed)
    items = {'10.0.0.0/8': 'reservation', '2001:db8::/32': 'reservation', '255.255.255.0/24': 'assignment'}
    for _ in range(60):
        second, third = random_.randrange(6), random_.randrange(8)
        items[f'10.{second}.0.0/16'] = 'reservation'
        items[f'10.{second}.{third}.0/24'] = 'assignment'
        items[f'10.{second}.{third}.{random_.randrange(256)}/32'] = 'host'
        items[f'2001:db8:{third + 1:x}::/48'] = 'reservation'
        items[f'2001:db8:{third + 1:x}:{second + 1:x}::/64'] = 'assignment'
    items['255.255.255.255/32'] = 'host'
    operations = [adding(prefix, type_) for prefix, type_ in items.items()]
    random_.shuffle(operations)
    return operations


@pytest.mark.parametrize('seed', range(6))
def test_together_comes_to_the_same_as_one_by_one(api: Face, db: Database, seed: int) -> None:
    api.add_pool('p', ipv4_default_prefix_length=28)
    operations = some_prefixes(seed)
    before = [item for item in operations if item['args']['attr']['type'] == 'reservation'][seed % 3 :: 3]
    for operation in before:
        api.call('add_prefix', **operation['args'])
    if seed % 2:
        api.call('edit_prefix', prefix={'vrf_id': 0, 'family': 4}, attr={'pool_name': 'p'})
    rest = [operation for operation in operations if operation not in before]
    rest.sort(key=lambda operation: operation['args']['attr']['type'] == 'host')
    half = sum(operation['args']['attr']['type'] != 'host' for operation in rest)
    ids = batch(api, *rest[:half], **{'return': 'ids'}) + [item['id'] for item in batch(api, *rest[half:])]
    assert check.problems(db) == []
    stored = {item['id']: item for item in api.call('list_prefix', prefix={})}
    assert len(stored) == len(operations)
    assert [stored[i]['prefix'] for i in ids] == [item['args']['attr']['prefix'] for item in rest]
    count = "SELECT count(*) FROM audit_log WHERE object_type = 'prefix' AND action = 'add'"
    assert db.read(lambda tx: tx.value(count)) == len(operations)


def test_a_batch_that_sleeps_holds_no_lock_meanwhile(backend: Backend, actor: Actor, db: Database) -> None:
    operations = [adding('10.0.0.0/8'), {'method': 'echo', 'args': {'message': 'late', 'sleep': 4}}]
    lock = "SELECT true FROM prefix WHERE prefix = '10.0.0.0/8' FOR UPDATE NOWAIT"
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(backend.batch, actor, operations)
        poll(lambda: db.run(lambda tx: tx.value(lock)), 30, lambda: 'the batch has added nothing')
        assert not answer.done()
        assert answer.result()[1] == 'late'
