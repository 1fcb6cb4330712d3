"""VRFs: route targets, names, totals, and the removal of a VRF's prefixes."""

from __future__ import annotations

import pytest
from contract_faces import Face

RT_TEXT = 'Invalid input for column rt, should be ASN:id (123:456) or IP:id (1.3.3.7:456)'


@pytest.mark.parametrize(
    ('given', 'stored'),
    [
        ('65000:1', '65000:1'),
        ('  65000:1 ', '65000:1'),
        ('007:0008', '7:8'),
        ('0:0', '0:0'),
        ('4294967295:4294967295', '4294967295:4294967295'),
        ('10.20.30.40:0', '10.20.30.40:0'),
        ('255.255.255.255:4294967295', '255.255.255.255:4294967295'),
        ('1.3.3.7:0456', '1.3.3.7:456'),
    ],
)
def test_route_target_forms(api: Face, given: str, stored: str) -> None:
    assert api.add_vrf(given, 'v')['rt'] == stored


NO_ROUTE_TARGETS = [
    '',
    ' ',
    '65000',
    '65000:',
    ':1',
    '65000 :1',
    '65000: 1',
    '65000:1 2',
    '-1:1',
    '1:-1',
    '+1:1',
    '4294967296:1',
    '1:4294967296',
    '256.1.1.1:1',
    '1.2.3:1',
    '1.2.3.4:4294967296',
    '1.2.3.4.5:1',
    '1:2:3',
    '0x10:1',
    '1.5:1',
    '１:1',  # a full-width digit
]


def test_route_targets_refused(api: Face) -> None:
    for given in NO_ROUTE_TARGETS:
        fault = api.fault('add_vrf', attr={'rt': given, 'name': 'v'})
        assert (fault.code, fault.text) == (1200, RT_TEXT), given


def test_only_vrf_0_is_without_route_target(api: Face) -> None:
    assert api.fault('add_vrf', attr={'rt': None, 'name': 'v'}).code in (1110, 1200)


def test_route_targets_that_pack_to_the_same_number_stay_distinct(api: Face) -> None:
    """Deliberate difference 7."""
    dotted = api.add_vrf('1.3.3.7:456', 'dotted')
    plain = api.add_vrf('16974599:456', 'plain')
    later = api.add_vrf('16974599:455', 'lower')
    listed = api.call('list_vrf', vrf={})
    assert [vrf['id'] for vrf in listed] == [0, later['id'], dotted['id'], plain['id']]
    assert [vrf['name'] for vrf in api.call('list_vrf', vrf={'rt': '16974599:456'})] == ['plain']
    assert [vrf['name'] for vrf in api.call('list_vrf', vrf={'rt': '1.3.3.7:456'})] == ['dotted']


def test_order_is_vrf_0_then_route_target_as_numbers(api: Face) -> None:
    for rt in ('65000:10', '65000:9', '9:1', '4294967295:1', '10.0.0.0:7', '100:1'):
        api.add_vrf(rt, f'v {rt}')
    expected = [None, '9:1', '100:1', '65000:9', '65000:10', '10.0.0.0:7', '4294967295:1']
    assert [vrf['rt'] for vrf in api.call('list_vrf', vrf={})] == expected
    assert [vrf['rt'] for vrf in api.call('search_vrf', query={})['result']] == expected
    assert [vrf['rt'] for vrf in api.call('smart_search_vrf', query_string='')['result']] == expected


def test_names_are_unique_without_case_and_selected_with_it(api: Face) -> None:
    api.add_vrf('1:1', 'Öresund')
    assert api.fault('add_vrf', attr={'rt': '1:2', 'name': 'öRESUND'}).code == 1400
    assert api.call('list_vrf', vrf={'name': 'öresund'}) == []
    assert len(api.call('list_vrf', vrf={'name': 'Öresund'})) == 1
    other = api.add_vrf('1:2', 'other')
    assert api.fault('edit_vrf', vrf={'id': other['id']}, attr={'name': 'ÖRESUND'}).code == 1400
    assert api.fault('edit_vrf', vrf={'id': other['id']}, attr={'rt': '1:1'}).code == 1400


def test_specification_and_attributes_must_be_structs(api: Face) -> None:
    fault = api.fault('list_vrf', vrf='default')
    assert (fault.code, fault.text) == (1100, 'vrf specification must be a dict')
    fault = api.fault('edit_vrf', vrf={'id': 0}, attr='nope')
    assert (fault.code, fault.text) == (1100, "'attr' must be a dict")


def test_each_specification_selects_the_vrf(api: Face) -> None:
    vrf = api.add_vrf('65000:1', 'one')
    for spec in ({'id': vrf['id']}, {'id': str(vrf['id'])}, {'rt': '65000:1'}, {'name': 'one'}):
        (edited,) = api.call('edit_vrf', vrf=spec, attr={'description': f'by {sorted(spec)}'})
        assert edited['description'] == f'by {sorted(spec)}'
    assert api.call('remove_vrf', vrf={'rt': '65000:1'}) is None
    assert api.call('list_vrf', vrf={'id': vrf['id']}) == []


def test_tags_keep_order_and_duplicates_and_nil_means_none(api: Face) -> None:
    vrf = api.add_vrf('1:1', 'v', tags=['b', 'a', 'b'], avps={'k': 'v'}, description=None)
    assert (vrf['tags'], vrf['avps']) == (['b', 'a', 'b'], {'k': 'v'})
    (vrf,) = api.call('edit_vrf', vrf={'id': vrf['id']}, attr={'tags': None, 'avps': None})
    assert (vrf['tags'], vrf['avps']) == ([], {})


@pytest.mark.parametrize('avps', [{'k': 1}, {'k': None}, {'k': True}, {'k': ['v']}, {'k': {'v': 'w'}}, {'': 'v'}])
def test_avps_map_non_empty_names_to_strings(api: Face, avps: dict[str, object]) -> None:
    assert api.fault('add_vrf', attr={'rt': '1:1', 'name': 'v', 'avps': avps}).code == 1200
    assert len(api.call('list_vrf', vrf={})) == 1


def test_edit_moves_nothing_but_what_is_named(api: Face) -> None:
    vrf = api.add_vrf('1:1', 'v', description='d', tags=['t'], avps={'k': 'v'})
    (edited,) = api.call('edit_vrf', vrf={'id': vrf['id']}, attr={'rt': '2:2', 'name': 'w'})
    assert edited == {**vrf, 'rt': '2:2', 'name': 'w', 'version': 2}
    assert api.call('list_vrf', vrf={'id': vrf['id']}) == [edited]


def test_unchanged_attributes_may_be_sent_with_every_edit(api: Face) -> None:
    """The client library saves every attribute that it knows, also for VRF 0 with its missing route target."""
    everything = {'rt': None, 'name': 'default', 'description': 'd', 'tags': [], 'avps': {}}
    (vrf,) = api.call('edit_vrf', vrf={'id': 0}, attr=everything)
    assert (vrf['rt'], vrf['name'], vrf['description']) == (None, 'default', 'd')


def test_edit_of_nothing_and_with_nothing(api: Face) -> None:
    """Deliberate differences 9 and 15."""
    assert api.call('edit_vrf', vrf={'name': 'nope'}, attr={'description': 'x'}) == []
    fault = api.fault('edit_vrf', vrf={'id': 0}, attr={})
    assert (fault.code, fault.text) == (1100, "'attr' must not be empty.")


def test_read_only_attributes_are_refused(api: Face) -> None:
    for name in ('id', 'num_prefixes_v4', 'total_addresses_v6'):
        fault = api.fault('edit_vrf', vrf={'id': 0}, attr={name: 1})
        assert fault.code == 1120
        # Over REST a read-only attribute may be sent back as it is stored.
        texts = f'extraneous attribute {name}', f'read-only attributes differ from the stored ones: {name} (1, stored: '
        assert fault.text.startswith(texts)


def test_totals_are_the_sums_over_prefixes_without_parent(api: Face) -> None:
    vrf = api.add_vrf('1:1', 'v')
    for prefix, type_ in (
        ('10.0.0.0/24', 'reservation'),
        ('10.0.0.0/25', 'assignment'),
        ('10.0.0.1/32', 'host'),
        ('10.1.0.0/30', 'assignment'),
        ('10.1.0.1/32', 'host'),
        ('2001:db8::/64', 'assignment'),
    ):
        api.add_prefix(prefix, type_, vrf_id=vrf['id'])
    api.add_prefix('10.0.0.0/8')  # in VRF 0, which must not be counted
    (vrf,) = api.call('list_vrf', vrf={'id': vrf['id']})
    v4 = {name: vrf[f'{name}_v4'] for name in ('num_prefixes', 'total_addresses', 'used_addresses', 'free_addresses')}
    assert v4 == {'num_prefixes': '5', 'total_addresses': '260', 'used_addresses': '129', 'free_addresses': '131'}
    assert (vrf['num_prefixes_v6'], vrf['total_addresses_v6'], vrf['used_addresses_v6']) == ('1', str(2**64), '0')


def test_removing_a_vrf_removes_its_prefixes_and_no_others(api: Face) -> None:
    vrf = api.add_vrf('1:1', 'v')
    api.add_prefix('10.0.0.0/8')
    for prefix, type_ in (('10.0.0.0/8', 'reservation'), ('10.0.0.0/24', 'assignment'), ('10.0.0.1/32', 'host')):
        api.add_prefix(prefix, type_, vrf_rt='1:1')
    pool = api.add_pool('p', ipv4_default_prefix_length=24)
    member = api.add_prefix('10.1.0.0/16', vrf_rt='1:1', pool_id=pool['id'])
    assert api.call('remove_vrf', vrf={'id': vrf['id']}) is None
    assert api.stored() == ['10.0.0.0/8']
    assert api.stored(id=member['id']) == []
    (pool,) = api.call('list_pool', pool={'name': 'p'})
    assert (pool['vrf_id'], pool['prefixes'], pool['free_prefixes_v4']) == (None, [], None)


def test_vrf_0_cannot_be_removed_however_it_is_named(api: Face) -> None:
    for spec in ({'id': 0}, {'name': 'default'}):
        fault = api.fault('remove_vrf', vrf=spec)
        assert (fault.code, fault.text) == (1200, 'Prohibited delete of default VRF (id=0).')


def test_removing_a_missing_vrf_returns_nil(api: Face) -> None:
    for spec in ({'id': 12345}, {'rt': '9:9'}, {'name': 'nope'}):
        assert api.call('remove_vrf', vrf=spec) is None


def test_searches_by_every_attribute(api: Face) -> None:
    """Deliberate difference 12."""
    vrf = api.add_vrf('1:1', 'v', description='d', tags=['t'], avps={'k': 'v'})
    api.add_prefix('10.0.0.0/24', vrf_id=vrf['id'])
    api.add_prefix('2001:db8::/64', vrf_id=vrf['id'])
    (vrf,) = api.call('list_vrf', vrf={'id': vrf['id']})
    for name, value in vrf.items():
        if name not in ('tags', 'avps'):
            query = {'operator': 'equals', 'val1': name, 'val2': value}
            assert vrf in api.call('search_vrf', query=query)['result'], name
    for query in (
        {'operator': 'equals_any', 'val1': 'tags', 'val2': 'T'},
        {'operator': '=', 'val1': 'avps.k', 'val2': 'v'},
        {'operator': '~*', 'val1': 'avps.k', 'val2': '^V$'},
    ):
        assert api.call('search_vrf', query=query)['result'] == [vrf], query


def test_an_empty_query_finds_every_vrf(api: Face) -> None:
    api.add_vrf('1:1', 'v')
    assert [vrf['name'] for vrf in api.call('search_vrf', query={})['result']] == ['default', 'v']
    assert api.fault('search_vrf').code == 1110
