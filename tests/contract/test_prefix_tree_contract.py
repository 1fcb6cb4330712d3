"""The tree of prefixes: the types that nest, and the moves of relatives when a prefix is added, removed or edited."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from contract_faces import Face

IN_ASSIGNMENT = "Parent prefix (10.1.1.0/24) is of type assignment but must be of type 'reservation'"
ONLY_HOSTS = "Prefix of type 'assignment' must not have any subnets other than of type 'host'"


def tree(api: Face, **spec: Any) -> dict[str, int]:
    """Return the number of ancestors of each prefix."""
    return {row['prefix']: row['indent'] for row in api.call('list_prefix', prefix=spec)}


def edit(api: Face, target: str, /, **attr: Any) -> dict[str, Any]:
    (row,) = api.call('edit_prefix', prefix={'prefix': target}, attr=attr)
    return row


def edit_fault(api: Face, target: str, /, **attr: Any) -> tuple[int, str]:
    fault = api.fault('edit_prefix', prefix={'prefix': target}, attr=attr)
    return fault.code, fault.text


@pytest.fixture
def office(api: Face) -> Face:
    """Return a face with a small tree that has each type."""
    api.add_prefix('10.0.0.0/8')
    api.add_prefix('10.1.0.0/16')
    api.add_prefix('10.1.1.0/24', 'assignment')
    api.add_prefix('10.1.1.1/32', 'host')
    api.add_prefix('10.1.2.0/24', 'assignment')
    api.add_prefix('10.2.2.0/24', 'assignment')
    return api


def test_removing_a_reservation_moves_its_children_up(office: Face) -> None:
    assert office.call('remove_prefix', prefix={'prefix': '10.1.0.0/16'}) is None
    assert tree(office) == {
        '10.0.0.0/8': 0,
        '10.1.1.0/24': 1,
        '10.1.1.1/32': 2,
        '10.1.2.0/24': 1,
        '10.2.2.0/24': 1,
    }
    (root,) = office.call('search_prefix', query={'operator': 'equals', 'val1': 'indent', 'val2': 0})['result']
    assert (root['children'], root['used_addresses']) == (3, '768')


def test_an_assignment_with_hosts_goes_only_with_them(office: Face) -> None:
    fault = office.fault('remove_prefix', prefix={'prefix': '10.1.1.0/24'})
    assert (fault.code, fault.text) == (1200, 'Prohibited delete, prefix (10.1.1.0/24) contains hosts.')
    assert office.call('remove_prefix', prefix={'prefix': '10.1.2.0/24'}) is None
    assert office.call('remove_prefix', prefix={'prefix': '10.1.1.0/24'}, recursive='true') is None
    assert list(tree(office)) == ['10.0.0.0/8', '10.1.0.0/16', '10.2.2.0/24']


def test_recursive_removal_takes_everything_below_in_that_vrf(office: Face) -> None:
    office.add_vrf('1:1', 'v')
    office.add_prefix('10.1.0.0/16', vrf_rt='1:1')
    office.call('remove_prefix', prefix={'prefix': '10.1.0.0/16'}, recursive=True)
    assert list(tree(office)) == ['10.0.0.0/8', '10.2.2.0/24', '10.1.0.0/16']


def test_recursive_removal_of_an_unstored_prefix_removes_nothing(office: Face) -> None:
    """Deliberate difference 4."""
    before = tree(office)
    assert office.call('remove_prefix', prefix={'prefix': '10.1.0.0/17'}, recursive=True) is None
    assert office.call('remove_prefix', prefix={'prefix': '0.0.0.0/0'}, recursive=True) is None
    assert tree(office) == before


def test_removal_of_an_unknown_id_is_a_fault_and_of_anything_else_is_nil(api: Face) -> None:
    """Deliberate difference 14."""
    assert api.fault('remove_prefix', prefix={'id': 12345}).code == 1300
    assert api.fault('remove_prefix', prefix={'id': '12345'}, recursive=True).code == 1300
    assert api.call('remove_prefix', prefix={'prefix': '10.0.0.0/8'}) is None


def test_a_specification_without_vrf_means_vrf_0_when_something_changes(office: Face) -> None:
    """Deliberate difference 4."""
    vrf = office.add_vrf('1:1', 'v')
    other = office.add_prefix('10.2.2.0/24', 'assignment', vrf_id=vrf['id'])
    edit(office, '10.2.2.0/24', comment='changed')
    assert office.prefix(other['id'])['comment'] is None
    assert len(office.call('list_prefix', prefix={'prefix': '10.2.2.0/24'})) == 2  # listing searches every VRF
    office.call('remove_prefix', prefix={'prefix': '10.2.2.0/24'})
    assert [row['vrf_rt'] for row in office.call('list_prefix', prefix={'prefix': '10.2.2.0/24'})] == ['1:1']
    assert office.call('remove_prefix', prefix={'prefix': '10.2.2.0/24'}) is None
    assert office.prefix(other['id'])['id'] == other['id']


@pytest.mark.parametrize('member', ['vrf_id', 'vrf_rt', 'vrf_name'])
def test_a_specification_may_name_the_vrf_in_three_ways(office: Face, member: str) -> None:
    """Deliberate difference 4."""
    vrf = office.add_vrf('1:1', 'v')
    office.add_prefix('10.2.2.0/24', 'assignment', vrf_id=vrf['id'])
    spec = {'prefix': '10.2.2.0/24', member: {'vrf_id': vrf['id'], 'vrf_rt': '1:1', 'vrf_name': 'v'}[member]}
    (row,) = office.call('edit_prefix', prefix=spec, attr={'comment': 'changed'})
    assert (row['vrf_id'], row['comment']) == (vrf['id'], 'changed')
    assert [row['vrf_id'] for row in office.call('list_prefix', prefix=spec)] == [vrf['id']]
    assert office.call('remove_prefix', prefix=spec) is None
    assert [row['vrf_id'] for row in office.call('list_prefix', prefix={'prefix': '10.2.2.0/24'})] == [0]


def test_a_prefix_is_unique_in_its_vrf(office: Face) -> None:
    attr = {'prefix': '10.1.2.0/24', 'type': 'assignment', 'description': 'd'}
    fault = office.fault('add_prefix', attr=attr)
    assert (fault.code, fault.text) == (
        1400,
        "Duplicate value for 'prefix', the value '0, 10.1.2.0/24' is already in use.",
    )
    assert edit_fault(office, '10.2.2.0/24', prefix='10.1.2.0/24')[0] == 1400


def test_a_prefix_never_changes_vrf(office: Face) -> None:
    vrf = office.add_vrf('1:1', 'v')
    for attr in ({'vrf_id': vrf['id']}, {'vrf_rt': '1:1'}, {'vrf_name': 'v'}):
        assert edit_fault(office, '10.1.2.0/24', **attr) == (1200, 'Changing VRF is not allowed')
    for same in ({'vrf_id': 0}, {'vrf_id': '0'}, {'vrf_id': None}, {'vrf_rt': None}, {'vrf_name': 'default'}):
        assert edit(office, '10.1.2.0/24', **same)['vrf_id'] == 0


def test_types_nest(office: Face) -> None:
    for prefix, type_, text in (
        (
            '10.1.1.0/25',
            'assignment',
            "Parent prefix (10.1.1.0/24) is of type assignment but must be of type 'reservation'",
        ),
        (
            '10.1.1.0/25',
            'reservation',
            "Parent prefix (10.1.1.0/24) is of type assignment but must be of type 'reservation'",
        ),
        ('10.1.3.1/32', 'host', "Parent prefix (10.1.0.0/16) is of type reservation but must be of type 'assignment'"),
        ('192.0.2.1/32', 'host', 'Prefix of type host must have a parent (covering) prefix of type assignment'),
        ('10.1.0.0/20', 'assignment', ONLY_HOSTS),
        ('10.0.0.0/7', 'assignment', ONLY_HOSTS),
        ('10.1.1.0/31', 'host', 'Prefix of type host must have all bits set in netmask'),
    ):
        fault = office.fault('add_prefix', attr={'prefix': prefix, 'type': type_, 'description': 'd'})
        assert (fault.code, fault.text) == (1200, text), prefix


def test_a_reservation_between_an_assignment_and_its_hosts_is_refused(office: Face) -> None:
    attr = {'prefix': '10.1.1.0/28', 'type': 'reservation', 'description': 'd'}
    assert office.fault('add_prefix', attr=attr).code == 1200


def test_covered_prefixes_become_children_of_a_new_prefix(office: Face) -> None:
    row = office.add_prefix('10.0.0.0/12')
    assert tree(office) == {
        '10.0.0.0/8': 0,
        '10.0.0.0/12': 1,
        '10.1.0.0/16': 2,
        '10.1.1.0/24': 3,
        '10.1.1.1/32': 4,
        '10.1.2.0/24': 3,
        '10.2.2.0/24': 2,
    }
    assert row['used_addresses'] == str(65536 + 256)


def test_reservation_and_assignment_change_places_only_without_children(office: Face) -> None:
    assert edit(office, '10.1.2.0/24', type='reservation')['type'] == 'reservation'
    assert edit(office, '10.1.2.0/24', type='assignment')['type'] == 'assignment'
    expected = "Changing from type 'assignment' to 'reservation' requires there to be no child prefixes."
    assert edit_fault(office, '10.1.1.0/24', type='reservation') == (1200, expected)
    assert edit_fault(office, '10.1.0.0/16', type='assignment') == (1200, ONLY_HOSTS)


def test_other_changes_of_type(office: Face) -> None:
    assert edit_fault(office, '10.1.1.1/32', type='reservation')[0] == 1200
    assert edit_fault(office, '10.1.1.1/32', type='assignment')[0] == 1200
    fault = edit_fault(office, '10.1.1.1/32', type='assignment', prefix='10.3.0.0/24')
    assert fault == (1200, 'Changing type is not allowed')
    assert office.stored(type='host') == ['10.1.1.1/32']


def test_editing_the_prefix_moves_that_row_alone(office: Face) -> None:
    """Its children go to its former parent. The prefixes that its new place covers become its children."""
    row = edit(office, '10.1.0.0/16', prefix='10.2.0.0/16')
    assert (row['prefix'], row['indent'], row['children'], row['used_addresses']) == ('10.2.0.0/16', 1, 1, '256')
    assert tree(office) == {
        '10.0.0.0/8': 0,
        '10.1.1.0/24': 1,
        '10.1.1.1/32': 2,
        '10.1.2.0/24': 1,
        '10.2.0.0/16': 1,
        '10.2.2.0/24': 2,
    }


def test_shrinking_and_growing_in_place(office: Face) -> None:
    row = edit(office, '10.1.0.0/16', prefix='10.1.0.0/23')
    assert (row['children'], row['used_addresses'], row['total_addresses']) == (1, '256', '512')
    assert tree(office)['10.1.2.0/24'] == 1
    row = edit(office, '10.1.0.0/23', prefix='10.0.0.0/14')
    assert (row['children'], row['total_addresses']) == (3, str(2**18))


def test_a_parent_may_become_a_child(office: Face) -> None:
    """The former child covers the new place of its former parent."""
    assert edit(office, '10.0.0.0/8', prefix='10.1.128.0/17')['indent'] == 1
    assert tree(office) == {
        '10.1.0.0/16': 0,
        '10.1.1.0/24': 1,
        '10.1.1.1/32': 2,
        '10.1.2.0/24': 1,
        '10.1.128.0/17': 1,
        '10.2.2.0/24': 0,
    }


def test_a_move_that_breaks_a_rule_is_refused(office: Face) -> None:
    before = tree(office)
    for prefix, new in (
        ('10.1.1.0/24', '10.3.0.0/24'),  # its host would be in a reservation
        ('10.1.0.0/16', '10.1.1.0/25'),  # a reservation inside an assignment
        ('10.1.2.0/24', '10.1.0.0/20'),  # an assignment over an assignment
        ('10.1.1.1/32', '10.3.0.1/32'),  # a host outside any assignment
        ('10.1.1.1/32', '10.1.1.0/31'),  # a host without full length
    ):
        assert edit_fault(office, prefix, prefix=new)[0] == 1200, (prefix, new)
    assert tree(office) == before


def test_a_host_may_move_to_another_assignment(office: Face) -> None:
    row = edit(office, '10.1.1.1/32', prefix='10.2.2.9')
    assert (row['prefix'], row['display_prefix'], row['indent']) == ('10.2.2.9/32', '10.2.2.9/24', 2)


def test_a_move_to_the_other_family(office: Face) -> None:
    row = edit(office, '10.2.2.0/24', prefix='2001:db8::/64')
    assert (row['family'], row['indent'], row['total_addresses']) == (6, 0, str(2**64))
    (vrf,) = office.call('list_vrf', vrf={'id': 0})
    assert (vrf['num_prefixes_v4'], vrf['num_prefixes_v6'], vrf['total_addresses_v6']) == ('5', '1', str(2**64))


def test_node(office: Face) -> None:
    assert edit(office, '10.1.1.1/32', node='sw1')['node'] == 'sw1'
    assert office.add_prefix('10.3.0.1/32', 'assignment', node='r1')['node'] == 'r1'
    for_assignment = (
        "Not allowed to set 'node' value for prefixes of type 'assignment' which do not have all bits set in netmask."
    )
    assert edit_fault(office, '10.1.2.0/24', node='r1') == (1200, for_assignment)
    assert edit_fault(office, '10.1.0.0/16', node='r1') == (
        1200,
        "Not allowed to set 'node' value for prefixes of type 'reservation'.",
    )
    assert edit_fault(office, '10.3.0.1/32', prefix='10.3.0.0/31') == (1200, for_assignment)


def test_an_edit_changes_all_that_match_or_nothing(office: Face) -> None:
    rows = office.call('edit_prefix', prefix={'type': 'assignment'}, attr={'comment': 'bulk'})
    assert sorted(row['prefix'] for row in rows) == ['10.1.1.0/24', '10.1.2.0/24', '10.2.2.0/24']
    assert {row['comment'] for row in rows} == {'bulk'}
    fault = office.fault('edit_prefix', prefix={'comment': 'bulk'}, attr={'comment': 'no', 'type': 'reservation'})
    assert fault.code == 1200  # one of the three has a host
    assert len(office.stored(comment='bulk')) == 3


def test_edit_of_nothing_returns_nothing(office: Face) -> None:
    """Deliberate difference 9."""
    assert office.call('edit_prefix', prefix={'prefix': '192.0.2.0/24'}, attr={'comment': 'x'}) == []


@pytest.mark.parametrize(
    ('spec', 'expected'),
    [
        ({'type': 'host'}, ['10.1.1.1/32']),
        ({'indent': 0}, ['10.0.0.0/8']),
        ({'prefix': '10.1.1.0/24', 'type': 'assignment'}, ['10.1.1.0/24']),
        ({'prefix': '10.1.1.0/24', 'type': 'host'}, []),
        ({'family': '6'}, []),
        ({'comment': None, 'type': 'reservation'}, ['10.0.0.0/8', '10.1.0.0/16']),
    ],
)
def test_members_of_a_specification_are_anded(office: Face, spec: dict[str, Any], expected: list[str]) -> None:
    assert office.stored(**spec) == expected


def test_a_specification_by_every_attribute(api: Face) -> None:
    """Any attribute of a prefix selects it, and `id` selects alone."""
    api.add_vrf('1:1', 'v')
    api.add_pool('p')
    text = {name: f'the {name}' for name in ('description', 'comment', 'order_id', 'customer_id', 'external_key')}
    more = {'country': 'SE', 'alarm_priority': 'low', 'monitor': True, 'vlan': 7, 'status': 'reserved'}
    row = api.add_prefix('10.0.0.0/24', 'assignment', vrf_rt='1:1', pool_name='p', **text, **more)
    api.add_prefix('2001:db8::/48', status='quarantine')
    for name in (*text, *more, 'prefix', 'vrf_id', 'vrf_rt', 'vrf_name', 'pool_id', 'pool_name', 'type', 'family'):
        assert [found['id'] for found in api.call('list_prefix', prefix={name: row[name]})] == [row['id']], name


def test_a_specification_must_be_a_struct(api: Face) -> None:
    assert api.fault('list_prefix', prefix='10.0.0.0/8').code == 1100
    assert api.fault('list_prefix', prefix={'id': 'x'}).code == 1200
    assert api.call('list_prefix') == []


def test_removal_needs_a_prefix_or_an_id(office: Face) -> None:
    for spec in ({}, {'type': 'host'}, {'vrf_id': 0}):
        fault = office.fault('remove_prefix', prefix=spec)
        assert (fault.code, fault.text) == (1110, 'missing prefix or id of prefix')


def test_children_counts_direct_ones(office: Face) -> None:
    rows = office.call('search_prefix', query={})['result']
    assert {row['prefix']: row['children'] for row in rows} == {
        '10.0.0.0/8': 2,
        '10.1.0.0/16': 2,
        '10.1.1.0/24': 1,
        '10.1.1.1/32': 0,
        '10.1.2.0/24': 0,
        '10.2.2.0/24': 0,
    }


def test_the_two_families_are_two_trees(api: Face) -> None:
    """::/0 covers the IPv4-mapped block and no IPv4 prefix."""
    api.add_prefix('::/0')
    api.add_prefix('0.0.0.0/0')
    api.add_prefix('::ffff:0:0/96')
    api.add_prefix('10.0.0.0/8')
    found = {ipaddress.ip_network(prefix): indent for prefix, indent in tree(api).items()}
    expected = {'0.0.0.0/0': 0, '10.0.0.0/8': 1, '::/0': 0, '::ffff:0:0/96': 1}
    assert found == {ipaddress.ip_network(prefix): indent for prefix, indent in expected.items()}


def test_every_edit_that_changes_something_moves_last_modified(backend_face: Any) -> None:
    """The wire has whole seconds. The Backend's answers have all digits."""
    backend, actor = backend_face.backend, backend_face.actor
    row = backend.add_prefix(actor, {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'd'}, None)
    assert row['added'] == row['last_modified']
    (edited,) = backend.edit_prefix(actor, {'id': row['id']}, {'description': 'e'})
    assert edited['added'] == row['added']
    assert edited['last_modified'] > row['last_modified']
