"""Undo of change sets: the objects are as before, with their ids, and the undo is a change set of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from contract_faces import Face

from nipap.postgres.database import Database

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
