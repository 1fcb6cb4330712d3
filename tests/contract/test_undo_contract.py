"""Undo of change sets: the objects are as before, with their ids, and the undo is a change set of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from contract_faces import Face, actor_of

from nipap.access.authentication import Actor
from nipap.backend import Backend
from nipap.calls import Request
from nipap.errors import NipapError
from nipap.postgres.database import Database
from nipap.postgres.transaction import Outcome

Change = Callable[[Face], Any]

KINDS = ('vrf', 'pool', 'prefix', 'asn')
#: These attributes of an object are not set back.
MOVED = ('last_modified', 'version')


def state(api: Face) -> dict[str, list[dict[str, Any]]]:
    """Return all objects without the members that an undo moves on."""
    found = {kind: api.call(f'list_{kind}') for kind in KINDS}
    return {
        kind: [{name: value for name, value in item.items() if name not in MOVED} for item in items]
        for kind, items in found.items()
    }


def last_change(db: Database) -> int:
    number: int = db.read(lambda tx: tx.value('SELECT max(id) FROM change_set'))
    return number


@pytest.fixture
def stock(api: Face) -> Face:
    """Fill the database: a tree in two VRFs, pools with members, AS numbers."""
    api.add_vrf('1:1', 'v', tags=['x'], avps={'a': 'b'})
    api.add_pool('p', ipv4_default_prefix_length=30, tags=['t'])
    api.add_pool('q', 'reservation')
    api.call('add_asn', attr={'asn': 64500, 'name': 'a'})
    for vrf in ('default', 'v'):
        api.add_prefix('10.0.0.0/8', vrf_name=vrf)
        api.add_prefix('10.1.0.0/16', vrf_name=vrf, tags=['x', 'x'], expires='2099-01-01', country='SE')
        api.add_prefix('10.1.1.0/24', 'assignment', vrf_name=vrf, vlan=7)
        for n in (1, 2, 5):
            api.add_prefix(f'10.1.1.{n}/32', 'host', vrf_name=vrf, node='r')
        api.add_prefix('2001:db8::/32', vrf_name=vrf, comment='six')
    api.call('edit_prefix', prefix={'prefix': '10.1.0.0/16'}, attr={'pool_name': 'p'})
    api.allocate({'from-pool': {'name': 'p'}, 'family': 4})
    return api


def batch(*operations: tuple[str, dict[str, Any]]) -> Change:
    return lambda api: api.call('batch', operations=[{'method': m, 'args': a} for m, a in operations])


def prefix(text: str, vrf: str = 'default') -> dict[str, Any]:
    return {'prefix': text, 'vrf_name': vrf}


#: Changes of every kind. Each of them is one change set.
CHANGES: dict[str, Change] = {
    'an added prefix': lambda api: api.add_prefix('10.2.0.0/16'),
    'an added prefix around others': lambda api: api.add_prefix('10.0.0.0/12'),
    'an added prefix at the top': lambda api: api.add_prefix('0.0.0.0/0'),
    'an allocation': lambda api: api.allocate({'from-pool': {'name': 'p'}, 'family': 4}),
    'an edit': lambda api: api.call('edit_prefix', prefix=prefix('10.1.1.0/24'), attr={'vlan': None, 'comment': 'c'}),
    'an edit of many': lambda api: api.call('edit_prefix', prefix={'type': 'host'}, attr={'comment': 'c'}),
    'a move': lambda api: api.call('edit_prefix', prefix=prefix('10.1.0.0/16'), attr={'prefix': '10.0.0.0/12'}),
    'a move away': lambda api: api.call('edit_prefix', prefix=prefix('10.1.0.0/16'), attr={'prefix': '2001:db8::/48'}),
    'a member that leaves': lambda api: api.call(
        'edit_prefix', prefix=prefix('10.1.0.0/16'), attr={'pool_id': None, 'tags': []}
    ),
    'a host': lambda api: api.call('remove_prefix', prefix=prefix('10.1.1.2/32')),
    'a reservation, whose children move up': lambda api: api.call('remove_prefix', prefix=prefix('10.1.0.0/16')),
    'a tree': lambda api: api.call('remove_prefix', prefix=prefix('10.1.0.0/16'), recursive=True),
    'a tree at the top': lambda api: api.call('remove_prefix', prefix=prefix('10.0.0.0/8'), recursive=True),
    'a tree in another VRF': lambda api: api.call('remove_prefix', prefix=prefix('10.0.0.0/8', 'v'), recursive=True),
    'a removed VRF': lambda api: api.call('remove_vrf', vrf={'name': 'v'}, recursive=True),
    'an added VRF': lambda api: api.add_vrf('2:2', 'w'),
    'an edited VRF': lambda api: api.call('edit_vrf', vrf={'name': 'v'}, attr={'rt': '10.0.0.1:7', 'avps': {}}),
    'an edit of VRF 0': lambda api: api.call('edit_vrf', vrf={'id': 0}, attr={'name': 'internet'}),
    'a removed pool': lambda api: api.call('remove_pool', pool={'name': 'p'}),
    'an empty pool': lambda api: api.call('remove_pool', pool={'name': 'q'}),
    'an added pool': lambda api: api.add_pool('r'),
    'an edited pool': lambda api: api.call(
        'edit_pool', pool={'name': 'p'}, attr={'ipv4_default_prefix_length': 24, 'name': 's'}
    ),
    'a removed AS number': lambda api: api.call('remove_asn', asn={'asn': 64500}),
    'an added AS number': lambda api: api.call('add_asn', attr={'asn': 64501}),
    'an edited AS number': lambda api: api.call('edit_asn', asn={'asn': 64500}, attr={'name': None}),
    'names exchanged': batch(
        ('edit_pool', {'pool': {'name': 'p'}, 'attr': {'name': 'z'}}),
        ('edit_pool', {'pool': {'name': 'q'}, 'attr': {'name': 'p'}}),
        ('edit_pool', {'pool': {'name': 'z'}, 'attr': {'name': 'q'}}),
    ),
    'places exchanged': batch(
        ('edit_prefix', {'prefix': prefix('10.1.1.1/32'), 'attr': {'prefix': '10.1.1.9/32'}}),
        ('edit_prefix', {'prefix': prefix('10.1.1.2/32'), 'attr': {'prefix': '10.1.1.1/32'}}),
        ('edit_prefix', {'prefix': prefix('10.1.1.9/32'), 'attr': {'prefix': '10.1.1.2/32'}}),
    ),
    'a name and a place used again': batch(
        ('remove_pool', {'pool': {'name': 'p'}}),
        ('add_pool', {'attr': {'name': 'p', 'description': 'new', 'default_type': 'host'}}),
        ('remove_prefix', {'prefix': prefix('10.1.1.0/24'), 'recursive': True}),
        ('add_prefix', {'attr': {**prefix('10.1.1.0/24'), 'type': 'reservation', 'description': 'new'}}),
        ('edit_prefix', {'prefix': prefix('10.1.0.0/16'), 'attr': {'pool_name': 'p'}}),
        ('remove_asn', {'asn': {'asn': 64500}}),
        ('add_asn', {'attr': {'asn': 64500, 'name': 'new'}}),
    ),
    'what was added and edited and removed in one batch': batch(
        ('add_vrf', {'attr': {'rt': '3:3', 'name': 'new'}}),
        ('add_prefix', {'attr': {**prefix('0.0.0.0/0', 'new'), 'type': 'reservation', 'description': 'a'}}),
        ('add_prefix', {'attr': {**prefix('10.0.0.0/8', 'new'), 'type': 'assignment', 'description': 'b'}}),
        ('add_prefix', {'attr': {**prefix('10.0.0.1/32', 'new'), 'type': 'host', 'description': 'c'}}),
        ('remove_prefix', {'prefix': prefix('10.0.0.1/32', 'new')}),
        ('edit_prefix', {'prefix': prefix('10.0.0.0/8', 'new'), 'attr': {'description': 'd'}}),
    ),
}


@pytest.mark.parametrize('name', CHANGES)
def test_everything_is_as_before(stock: Face, db: Database, name: str) -> None:
    before = state(stock)
    CHANGES[name](stock)
    after = state(stock)
    assert after != before
    number = last_change(db)
    for wanted in (before, after, before):  # the undo, the undo of the undo, and so on
        answer = stock.call('undo', change_set=number)
        assert state(stock) == wanted
        assert answer['change_set'] == last_change(db) > number
        assert answer['conflicts'] == answer['left'] == []
        sql = 'SELECT method, undoes FROM change_set WHERE id = %s'
        assert db.read(lambda tx, sql=sql, n=answer['change_set']: tx.one(sql, (n,))) == ('undo', number)
        number = answer['change_set']


# ---------------------------------------------------------------- conflicts

TREE = 'a tree at the top'

#: Later changes, each with the first change, and the ids or names of the conflicts that follow.
LATER: dict[str, tuple[str, Change, str]] = {
    'changed since': (
        'an edit',
        lambda api: api.call('edit_prefix', prefix=prefix('10.1.1.0/24'), attr={'country': 'DE'}),
        'it was changed since: country',
    ),
    'removed since': (
        'an edit',
        lambda api: api.call('remove_prefix', prefix=prefix('10.1.1.0/24'), recursive=True),
        'it was removed since',
    ),
    'edited and undone': (
        'an added prefix',
        lambda api: api.call('edit_prefix', prefix=prefix('10.2.0.0/16'), attr={'description': 'mine'}),
        'it was changed since: description',
    ),
    'new children': (
        'an added prefix',
        lambda api: api.add_prefix('10.2.2.0/24'),
        'prefix 10.2.2.0/24 was added inside',
    ),
    'the place is taken': (TREE, lambda api: api.add_prefix('10.0.0.0/8'), 'its place is taken by prefix'),
    'types do not nest': (
        TREE,
        lambda api: api.add_prefix('10.0.0.0/7', 'assignment'),
        'inside 10.0.0.0/7 of type assignment',
    ),
    'what is inside does not nest': (
        'a tree',
        lambda api: api.add_prefix('10.1.1.0/25', 'assignment'),
        'prefix 10.1.1.0/25 of type assignment is inside',
    ),
    'the VRF is gone': (
        'a tree in another VRF',
        lambda api: api.call('remove_vrf', vrf={'name': 'v'}, recursive=True),
        'its VRF 1 does not exist',
    ),
    'the pool is gone': (TREE, lambda api: api.call('remove_pool', pool={'name': 'p'}), 'its pool 1 does not exist'),
    'the name is taken': ('a removed pool', lambda api: api.add_pool('P'), 'the name p is in use'),
    'the route target is taken': (
        'a removed VRF',
        lambda api: api.add_vrf('1:1', 'x'),
        'the route target 1:1 is in use',
    ),
    'the AS number exists again': (
        'a removed AS number',
        lambda api: api.call('add_asn', attr={'asn': 64500, 'name': 'b'}),
        'it exists again, and differs in name',
    ),
    'a VRF with new prefixes': (
        'an added VRF',
        lambda api: api.add_prefix('10.0.0.0/8', vrf_name='w'),
        'was added to it since',
    ),
    'a pool with new members': (
        'an added pool',
        lambda api: api.add_prefix('172.16.0.0/12', pool_name='r'),
        'prefix 172.16.0.0/12 became a member since',
    ),
}


@pytest.mark.parametrize('name', LATER)
def test_what_was_changed_since_is_a_conflict(stock: Face, db: Database, name: str) -> None:
    first, later, why = LATER[name]
    before = state(stock)
    CHANGES[first](stock)
    number = last_change(db)
    later(stock)
    present = state(stock)
    fault = stock.fault('undo', change_set=number)
    assert (fault.code, why in fault.text if stock.name != 'rest' else True) == (1620, True), fault.text
    assert state(stock) == present
    assert last_change(db) == number + 1
    answer = stock.call('undo', change_set=number, partial=True)
    assert answer['number_of_conflicts'] == len(answer['conflicts']) > 0
    assert any(why in conflict['why'] for conflict in answer['conflicts']), answer
    if first == TREE and name != 'types do not nest':
        # Everything below the conflict came back.
        assert answer['undone']['prefix'] + len(answer['conflicts']) == 7
    # Once the later change is undone, nothing is in the way any more.
    if answer['change_set'] is not None:
        stock.call('undo', change_set=answer['change_set'])
    stock.call('undo', change_set=number + 1)
    stock.call('undo', change_set=number)
    assert state(stock) == before


# ---------------------------------------------------------------- again, groups, versions


def test_an_undo_is_done_once(stock: Face, db: Database) -> None:
    CHANGES['an edit'](stock)
    number = last_change(db)
    first = stock.call('undo', change_set=number)['change_set']
    fault = stock.fault('undo', change_set=number)
    assert (fault.code, f'was undone by change set {first}' in fault.text) == (1620, True)
    answer = stock.call('undo', change_set=number, partial=True)
    assert (answer['change_set'], answer['undone'], last_change(db)) == (None, {}, first)
    stock.call('undo', change_set=first)
    assert stock.call('undo', change_set=number)['undone'] == {'prefix': 1}


def test_a_version_goes_on(stock: Face, db: Database) -> None:
    """A restored object has a version that it never had before with other content."""
    (item,) = stock.call('list_prefix', prefix={'prefix': '10.1.1.5/32', 'vrf_id': 0})
    spec = {'id': item['id']}
    for wanted in (2, 3):
        (edited,) = stock.call('edit_prefix', prefix=spec, attr={'comment': str(wanted)})
        assert edited['version'] == wanted
    for wanted in (4, 5):
        stock.call('remove_prefix', prefix=spec)
        stock.call('undo', change_set=last_change(db))
        restored = stock.prefix(item['id'])
        assert restored['version'] == wanted
        assert restored == {**item, 'comment': '3', 'version': wanted, 'last_modified': restored['last_modified']}
    stock.call('edit_prefix', prefix=spec, attr={'comment': None})
    stock.call('undo', change_set=last_change(db))
    assert stock.prefix(item['id'])['version'] == 7
    for kind, spec in (('pool', {'name': 'q'}), ('vrf', {'name': 'v'}), ('asn', {'asn': 64500})):
        stock.call(f'edit_{kind}', **{kind: spec}, attr={'name': 'n'})
        stock.call(f'remove_{kind}', **{kind: {'asn': 64500} if kind == 'asn' else {'name': 'n'}})
        stock.call('undo', change_set=last_change(db))
        (restored,) = stock.call(f'list_{kind}', **{kind: {'asn': 64500} if kind == 'asn' else {'name': 'n'}})
        assert (kind, restored['version']) == (kind, 3)
    assert db.read(lambda tx: tx.all('SELECT * FROM last_version')) == []


def test_a_group_is_undone_newest_first(backend: Backend, actor: Actor, db: Database, sound: None) -> None:
    def change(call: str, in_group: str = 'g', /, **members: Any) -> Any:
        return backend.perform(actor, Request(call, members, group=in_group))

    def find() -> list[str]:
        return [item['prefix'] for item in backend.list_prefix(actor)]

    net = {'type': 'reservation', 'description': 'd'}
    change('add_prefix', 'other', attr={'prefix': '10.0.0.0/8', **net})
    for text in ('10.1.0.0/16', '10.1.1.0/24'):
        change('add_prefix', attr={'prefix': text, **net})
    change('edit_prefix', prefix={'prefix': '10.1.1.0/24'}, attr={'prefix': '10.1.2.0/24'})
    change('remove_prefix', prefix={'prefix': '10.1.0.0/16'}, recursive=True)
    last = last_change(db)
    # A conflict in the second change set: the ones after it are undone.
    change('add_prefix', 'other', attr={'prefix': '10.1.1.0/24', **net})
    with pytest.raises(NipapError, match='1 newer change sets of the group are undone') as caught:
        change('undo', '', group='g')
    assert caught.value.code == 1620
    assert find() == ['10.0.0.0/8', '10.1.0.0/16', '10.1.1.0/24', '10.1.2.0/24']
    change('remove_prefix', 'other', prefix={'prefix': '10.1.1.0/24'})
    outcome = Outcome()
    answer = backend.perform(actor, Request('undo', {'group': 'g'}, group='g'), outcome)
    assert [each['undoes'] for each in answer['change_sets']] == [last - 1, last - 2, last - 3]
    assert (answer['group'], answer['skipped']) == ('g', [last])
    assert outcome.change_set == answer['change_sets'][-1]['change_set'] == last_change(db)
    assert find() == ['10.0.0.0/8']
    # Called again it finds nothing to do; its own change sets are no part of the group.
    answer = change('undo', 'g', group='g')
    assert (answer['change_sets'], answer['skipped']) == ([], [last, last - 1, last - 2, last - 3])
    with pytest.raises(NipapError, match='takes no idempotency key'):
        backend.perform(actor, Request('undo', {'group': 'g'}, 'key'))
    with pytest.raises(NipapError, match='Unknown method'):
        backend.batch(actor, [{'method': 'undo', 'args': {'change_set': last}}])


def test_webhooks_are_left_and_named(backend: Backend, db: Database, sound: None) -> None:
    """They belong to no change set that changes addresses. If one does, the undo leaves them alone."""
    gateway = actor_of('gateway')
    attr = {'url': 'https://example.com/', 'secret': 'a-secret-of-16-or-more'}
    operations = [
        {'method': 'add_webhook', 'args': {'attr': attr}},
        {'method': 'add_asn', 'args': {'attr': {'asn': 64500}}},
    ]
    hook, _ = backend.batch(gateway, operations)
    answer = backend.perform(gateway, Request('undo', {'change_set': last_change(db)}))
    assert answer['undone'] == {'asn': 1}
    assert answer['left'] == [{'position': 0, 'kind': 'webhook', 'id': hook['id'], 'action': 'add'}]
    assert len(backend.list_webhook(gateway)) == 1


@pytest.mark.parametrize(
    ('members', 'code'),
    [
        ({}, 1110),
        ({'change_set': 1, 'group': 'g'}, 1100),
        ({'change_set': 'x'}, 1200),
        ({'change_set': 0}, 1200),
        ({'change_set': str(10**30)}, 1200),
        ({'group': ''}, 1200),
        ({'group': 'x' * 101}, 1200),
        ({'change_set': 10**9}, 1300),
        ({'group': 'g'}, 1300),
    ],
)
def test_what_cannot_be_named(api: Face, members: dict[str, Any], code: int) -> None:
    if api.name == 'rest' and 'change_set' in members:
        return  # the number is a part of the path
    assert api.fault('undo', **members).code == code


def test_a_read_only_user_undoes_nothing(stock: Face, db: Database) -> None:
    reader = stock.as_user('readonly')
    assert reader.fault('undo', change_set=last_change(db)).code == 1520
    assert reader.fault('restore', kind='prefix', id=1).code == 1520
    assert reader.call('list_removed')['result'] == []


# ---------------------------------------------------------------- removed objects


def test_removed_objects_come_back(stock: Face, db: Database) -> None:
    before = state(stock)
    for name in ('a tree', 'a removed VRF', 'a removed pool', 'a removed AS number'):
        CHANGES[name](stock)
    found = stock.call('list_removed', days=1)
    assert found['after'] is None
    told = [(item['kind'], item['object'], item['below'], item['username']) for item in found['result']]
    assert told == [
        ('asn', 'a', 0, 'alice'),
        ('pool', 'p', 0, 'alice'),
        ('vrf', 'v', 7, 'alice'),
        ('prefix', '10.1.0.0/16', 5, 'alice'),
    ]
    assert found['result'][3]['before']['country'] == 'SE'
    assert [item['kind'] for item in stock.call('list_removed', kinds=['vrf', 'asn'])['result']] == ['asn', 'vrf']
    pages = []
    after = ''
    while after is not None:
        page = stock.call('list_removed', max_result=1, after=after)
        pages += page['result']
        after = page['after']
    assert pages == found['result']
    fault = stock.fault('restore', kind='prefix', id=found['result'][3]['id'])
    assert (fault.code, 'its pool 1 does not exist' in fault.text or stock.name == 'rest') == (1620, True)
    for item in found['result']:
        answer = stock.call('restore', kind=item['kind'], id=item['id'])
        assert answer['undone'][item['kind']] == 1 + (item['below'] if item['kind'] == 'prefix' else 0)
    assert state(stock) == before
    assert stock.call('list_removed')['result'] == []
    assert stock.fault('restore', kind='prefix', id=999).code == 1300


def test_a_removed_pool_gets_its_members_back(stock: Face) -> None:
    before = state(stock)
    CHANGES['a removed pool'](stock)
    (pool,) = stock.call('list_removed')['result']
    assert stock.call('restore', kind='pool', id=pool['id'])['undone'] == {'pool': 1, 'prefix': 1}
    assert state(stock) == before


def test_a_part_of_a_removed_tree_comes_back(stock: Face, db: Database) -> None:
    (inner,) = stock.call('list_prefix', prefix={'prefix': '10.1.1.0/24', 'vrf_id': 0})
    CHANGES[TREE](stock)
    answer = stock.call('restore', kind='prefix', id=inner['id'])
    assert answer['undone'] == {'prefix': 4}
    assert stock.stored(vrf_id=0, family=4) == ['10.1.1.0/24', '10.1.1.1/32', '10.1.1.2/32', '10.1.1.5/32']
    assert db.read(lambda tx: tx.value('SELECT undoes FROM change_set ORDER BY id DESC LIMIT 1')) is None
    assert [item['object'] for item in stock.call('list_removed')['result']] == ['10.0.0.0/8']
    assert stock.call('undo', change_set=answer['change_set'] - 1)['undone'] == {'prefix': 3}
