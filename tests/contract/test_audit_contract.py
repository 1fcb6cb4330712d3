"""The audit log: every change has exactly its entries, and a failed call has none."""

from __future__ import annotations

from typing import Any

import psycopg2
import pytest
from contract_faces import Face


class Audit:
    """The entries of the audit log since the last look."""

    def __init__(self, dsn: str) -> None:
        self.connection = psycopg2.connect(dsn)
        self.connection.autocommit = True
        self.seen = 0

    def new(self) -> list[dict[str, Any]]:
        names = ('id', 'object_type', 'object_id', 'action', 'before', 'after')
        with self.connection.cursor() as cursor:
            cursor.execute(f'SELECT {", ".join(names)} FROM audit_log WHERE id > %s ORDER BY id', [self.seen])
            rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        self.seen = rows[-1]['id'] if rows else self.seen
        return rows

    def what(self) -> list[tuple[str, str, int]]:
        return [(row['action'], row['object_type'], row['object_id']) for row in self.new()]


@pytest.fixture
def audit(dsn: str) -> Any:
    log = Audit(dsn)
    yield log
    log.connection.close()


def test_a_vrf(api: Face, audit: Audit) -> None:
    vrf = api.add_vrf('1:1', 'v', tags=['t'])
    (entry,) = audit.new()
    assert (entry['action'], entry['object_type'], entry['object_id'], entry['before']) == (
        'add',
        'vrf',
        vrf['id'],
        None,
    )
    assert (entry['after']['name'], entry['after']['rt'], entry['after']['tags']) == ('v', '1:1', ['t'])
    api.call('edit_vrf', vrf={'id': vrf['id']}, attr={'name': 'w'})
    (entry,) = audit.new()
    assert (entry['action'], entry['before']['name'], entry['after']['name']) == ('edit', 'v', 'w')
    api.call('remove_vrf', vrf={'id': vrf['id']})
    (entry,) = audit.new()
    assert (entry['action'], entry['before']['name'], entry['after']) == ('remove', 'w', None)


def test_a_pool(api: Face, audit: Audit) -> None:
    pool = api.add_pool('p')
    api.call('edit_pool', pool={'name': 'p'}, attr={'description': 'x'})
    api.call('remove_pool', pool={'name': 'p'})
    assert audit.what() == [(action, 'pool', pool['id']) for action in ('add', 'edit', 'remove')]


def test_an_as_number(api: Face, audit: Audit) -> None:
    api.call('add_asn', attr={'asn': '4294967295', 'name': 'n'})
    api.call('edit_asn', asn={'asn': '4294967295'}, attr={'name': 'm'})
    api.call('remove_asn', asn={'name': 'm'})
    assert audit.what() == [(action, 'asn', 4294967295) for action in ('add', 'edit', 'remove')]


def test_a_prefix(api: Face, audit: Audit) -> None:
    row = api.add_prefix('10.0.0.0/8', tags=['t'], vlan=7)
    (entry,) = audit.new()
    assert (entry['action'], entry['object_id'], entry['before']) == ('add', row['id'], None)
    after = entry['after']
    assert (after['prefix'], after['type'], after['vlan'], after['tags']) == ('10.0.0.0/8', 'reservation', 7, ['t'])
    api.call('edit_prefix', prefix={'id': row['id']}, attr={'vlan': 8, 'comment': 'c'})
    (entry,) = audit.new()
    assert (entry['action'], entry['before']['vlan'], entry['after']['vlan']) == ('edit', 7, 8)
    assert 'comment' not in entry['before']  # stored without nulls
    api.call('remove_prefix', prefix={'id': row['id']})
    (entry,) = audit.new()
    assert (entry['action'], entry['before']['comment'], entry['after']) == ('remove', 'c', None)


def test_prefixes_whose_parent_changes_are_not_changed_themselves(api: Face, audit: Audit) -> None:
    api.add_prefix('10.0.0.0/24')
    api.add_prefix('10.0.1.0/24')
    audit.new()
    row = api.add_prefix('10.0.0.0/16')
    assert audit.what() == [('add', 'prefix', row['id'])]
    api.call('edit_prefix', prefix={'id': row['id']}, attr={'prefix': '10.0.0.0/23'})
    assert audit.what() == [('edit', 'prefix', row['id'])]
    api.call('remove_prefix', prefix={'id': row['id']})
    assert audit.what() == [('remove', 'prefix', row['id'])]


def test_an_allocation(api: Face, audit: Audit) -> None:
    api.add_pool('p', ipv4_default_prefix_length=32)
    member = api.add_prefix('10.0.0.0/24', pool_name='p')
    audit.new()
    rows = [
        api.allocate({'from-pool': {'name': 'p'}, 'family': 4}),
        api.allocate({'from-prefix': ['10.0.0.0/24'], 'prefix_length': 28}, type='assignment'),
    ]
    assert audit.what() == [('add', 'prefix', row['id']) for row in rows]
    api.call('find_free_prefix', vrf={}, args={'from-pool': {'name': 'p'}, 'family': 4})
    assert audit.what() == []
    assert api.prefix(member['id'])['used_addresses'] == '17'


def test_a_bulk_edit_has_an_entry_for_each(api: Face, audit: Audit) -> None:
    """Deliberate difference 10."""
    ids = [api.add_prefix(f'10.0.{number}.0/24')['id'] for number in range(5)]
    audit.new()
    api.call('edit_prefix', prefix={'type': 'reservation'}, attr={'comment': 'x'})
    assert sorted(audit.what()) == [('edit', 'prefix', object_id) for object_id in sorted(ids)]


def test_a_big_bulk_edit_is_one_change(backend_face: Face, audit: Audit) -> None:
    """Deliberate difference 10, in a size that a test can afford."""
    ids = [backend_face.add_prefix(f'10.{n // 250}.{n % 250}.0/24', 'assignment')['id'] for n in range(1000)]
    audit.new()
    rows = backend_face.call('edit_prefix', prefix={'type': 'assignment'}, attr={'comment': 'x', 'tags': ['bulk']})
    assert [row['id'] for row in rows] == ids
    entries = audit.new()
    assert sorted(entry['object_id'] for entry in entries) == ids
    assert all(entry['after']['comment'] == 'x' for entry in entries)


def test_a_recursive_removal_has_an_entry_for_each(api: Face, audit: Audit) -> None:
    ids = [
        api.add_prefix(prefix, type_)['id']
        for prefix, type_ in (('10.0.0.0/8', 'reservation'), ('10.0.0.0/24', 'assignment'), ('10.0.0.1/32', 'host'))
    ]
    audit.new()
    api.call('remove_prefix', prefix={'id': ids[0]}, recursive=True)
    assert sorted(audit.what()) == [('remove', 'prefix', object_id) for object_id in sorted(ids)]


def test_removing_a_vrf_has_an_entry_for_it_and_each_prefix(api: Face, audit: Audit) -> None:
    vrf = api.add_vrf('1:1', 'v')
    ids = [api.add_prefix(prefix, vrf_rt='1:1')['id'] for prefix in ('10.0.0.0/8', '10.0.0.0/16')]
    audit.new()
    api.call('remove_vrf', vrf={'id': vrf['id']})
    expected = [*(('remove', 'prefix', object_id) for object_id in ids), ('remove', 'vrf', vrf['id'])]
    assert sorted(audit.what()) == sorted(expected)


def test_removing_a_pool_has_an_entry_for_it_and_its_members_change_with_it(api: Face, audit: Audit) -> None:
    pool = api.add_pool('p')
    ids = [api.add_prefix(prefix, pool_name='p')['id'] for prefix in ('10.0.0.0/8', '11.0.0.0/8')]
    audit.new()
    api.call('remove_pool', pool={'id': pool['id']})
    expected = [('remove', 'pool', pool['id']), *(('edit', 'prefix', object_id) for object_id in ids)]
    assert sorted(audit.what()) == sorted(expected)


FAILING: list[tuple[str, dict[str, Any]]] = [
    ('add_vrf', {'attr': {'rt': '1:1', 'name': 'again'}}),
    ('add_vrf', {'attr': {'rt': 'x', 'name': 'y'}}),
    ('edit_vrf', {'vrf': {'name': 'v'}, 'attr': {'name': 'default'}}),
    ('remove_vrf', {'vrf': {'id': 0}}),
    ('add_pool', {'attr': {'name': 'p', 'description': 'd', 'default_type': 'host'}}),
    ('edit_pool', {'pool': {'name': 'p'}, 'attr': {'default_type': 'x'}}),
    ('add_prefix', {'attr': {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'again'}}),
    ('add_prefix', {'attr': {'prefix': '10.0.0.0/9', 'type': 'assignment', 'description': 'd'}}),
    ('add_prefix', {'attr': {'description': 'd'}, 'args': {'from-pool': {'name': 'p'}, 'family': 4}}),
    (
        'add_prefix',
        {
            'attr': {'description': 'd', 'type': 'reservation'},
            'args': {'from-prefix': ['10.0.0.0/24'], 'prefix_length': 8},
        },
    ),
    ('edit_prefix', {'prefix': {'description': 'mark'}, 'attr': {'type': 'reservation', 'comment': 'x'}}),
    ('edit_prefix', {'prefix': {'prefix': '10.0.1.0/24'}, 'attr': {'prefix': '10.0.0.0/24'}}),
    ('remove_prefix', {'prefix': {'prefix': '10.0.0.0/24'}}),
    ('remove_prefix', {'prefix': {'id': 12345}}),
    ('add_asn', {'attr': {'asn': 1}}),
]


@pytest.mark.parametrize(('method', 'members'), FAILING)
def test_a_failed_call_leaves_nothing(api: Face, audit: Audit, method: str, members: dict[str, Any]) -> None:
    """There is neither an entry nor a part of the change: a bulk edit changes nothing if one edit fails."""
    api.add_vrf('1:1', 'v')
    api.add_pool('p')
    api.add_prefix('10.0.0.0/8')
    api.add_prefix('10.0.0.0/24', 'assignment', description='mark')
    api.add_prefix('10.0.0.1/32', 'host')
    api.add_prefix('10.0.1.0/24', 'assignment', description='mark')
    api.call('add_asn', attr={'asn': 1})
    before = everything(api)
    audit.new()
    api.fault(method, **members)
    assert audit.new() == []
    assert everything(api) == before


@pytest.mark.parametrize(
    ('method', 'members'),
    [
        ('edit_vrf', {'vrf': {'name': 'nope'}, 'attr': {'description': 'x'}}),
        ('remove_vrf', {'vrf': {'id': 12345}}),
        ('edit_pool', {'pool': {'id': 12345}, 'attr': {'description': 'x'}}),
        ('remove_pool', {'pool': {'name': 'nope'}}),
        ('edit_prefix', {'prefix': {'id': 12345}, 'attr': {'description': 'x'}}),
        ('remove_prefix', {'prefix': {'prefix': '10.0.0.0/8'}, 'recursive': True}),
        ('edit_asn', {'asn': {'asn': 5}, 'attr': {'name': 'x'}}),
        ('remove_asn', {'asn': {'asn': 5}}),
    ],
)
def test_a_change_of_nothing_leaves_no_entry(api: Face, audit: Audit, method: str, members: dict[str, Any]) -> None:
    assert api.call(method, **members) in (None, [])
    assert audit.new() == []


def everything(api: Face) -> list[Any]:
    return [api.call(f'list_{kind}', **{kind: {}}) for kind in ('vrf', 'pool', 'prefix', 'asn')]
