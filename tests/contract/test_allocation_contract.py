"""Allocation: the lowest free block, and the valid arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from contract_faces import Face


def free(api: Face, *sources: str, length: Any, vrf: Any = None, **args: Any) -> list[str]:
    args = {'from-prefix': list(sources), 'prefix_length': length, **args}
    return api.call('find_free_prefix', vrf={} if vrf is None else vrf, args=args)


def refused(api: Face, args: dict[str, Any], **attr: Any) -> tuple[tuple[int, str], tuple[int, str]]:
    """Return code and text of the faults of add and find for the same arguments."""
    add = api.fault('add_prefix', attr={'description': 'd', 'type': 'assignment', **attr}, args=args)
    find = api.fault('find_free_prefix', vrf={}, args=args)
    return (add.code, add.text), (find.code, find.text)


def take(api: Face, *sources: str, length: int, type_: str = 'assignment') -> str:
    return api.allocate({'from-prefix': list(sources), 'prefix_length': length}, type=type_)['prefix']


def test_the_lowest_free_block_fills_holes_first(api: Face) -> None:
    api.add_prefix('10.0.0.0/24')
    assert [take(api, '10.0.0.0/24', length=26) for _ in range(3)] == ['10.0.0.0/26', '10.0.0.64/26', '10.0.0.128/26']
    api.call('remove_prefix', prefix={'prefix': '10.0.0.64/26'})
    assert take(api, '10.0.0.0/24', length=28) == '10.0.0.64/28'
    assert take(api, '10.0.0.0/24', length=26) == '10.0.0.192/26'
    assert take(api, '10.0.0.0/24', length=27) == '10.0.0.96/27'
    fault = api.fault(
        'add_prefix',
        attr={'description': 'd', 'type': 'assignment'},
        args={'from-prefix': ['10.0.0.0/24'], 'prefix_length': 27},
    )
    assert (fault.code, fault.text) == (1300, 'no free prefix found')


def test_sources_are_tried_in_the_order_given(api: Face) -> None:
    api.add_prefix('10.1.0.0/24')
    api.add_prefix('10.2.0.0/24')
    assert take(api, '10.2.0.0/24', '10.1.0.0/24', length=25) == '10.2.0.0/25'
    assert take(api, '10.2.0.0/24', '10.1.0.0/24', length=25) == '10.2.0.128/25'
    assert take(api, '10.2.0.0/24', '10.1.0.0/24', length=25) == '10.1.0.0/25'
    assert free(api, '10.2.0.0/24', '10.1.0.0/24', length=26, count=5) == ['10.1.0.128/26', '10.1.0.192/26']


def test_find_answers_over_all_sources_in_order(api: Face) -> None:
    assert free(api, '10.2.0.0/31', '10.1.0.0/31', length=32, count=3) == ['10.2.0.0', '10.2.0.1', '10.1.0.0']


def test_pool_members_are_searched_in_prefix_order(api: Face) -> None:
    api.add_pool('p', ipv4_default_prefix_length=25)
    for member in ('10.9.0.0/24', '10.10.0.0/24', '9.0.0.0/24'):
        api.add_prefix(member, pool_name='p')
    args = {'from-pool': {'name': 'p'}, 'family': 4}
    assert [api.allocate(args)['prefix'] for _ in range(5)] == [
        '9.0.0.0/25',
        '9.0.0.128/25',
        '10.9.0.0/25',
        '10.9.0.128/25',
        '10.10.0.0/25',
    ]
    found = api.call('find_free_prefix', vrf={}, args={**args, 'count': 9})
    assert found == ['10.10.0.128/25']


def test_a_source_need_not_be_stored(api: Face) -> None:
    api.add_prefix('10.0.0.0/8')
    api.add_prefix('10.5.5.0/24', 'assignment')
    assert free(api, '10.5.4.0/22', length=24, count=9) == ['10.5.4.0/24', '10.5.6.0/24', '10.5.7.0/24']
    assert take(api, '10.5.4.0/22', length=23, type_='reservation') == '10.5.6.0/23'
    assert free(api, '192.0.2.0/24', length=25) == ['192.0.2.0/25']  # outside all stored prefixes
    assert free(api, '0.0.0.0/0', length=8, count=12)[9:] == ['9.0.0.0/8', '11.0.0.0/8', '12.0.0.0/8']


def test_the_source_itself_is_free_when_it_is_not_stored_and_empty(api: Face) -> None:
    assert free(api, '10.5.4.0/22', length=22) == ['10.5.4.0/22']
    api.add_prefix('10.5.4.0/22')
    assert free(api, '10.5.4.0/22', length=22) == []


def test_a_block_inside_another_stored_prefix_is_not_free(api: Face) -> None:
    """A block is free only if no stored prefix stands between the block and the source."""
    api.add_prefix('10.0.0.0/16')
    api.add_prefix('10.0.0.0/24', 'assignment')
    api.add_prefix('10.0.1.0/24')
    assert free(api, '10.0.0.0/16', length=26) == ['10.0.2.0/26']
    assert free(api, '10.0.1.0/24', length=26) == ['10.0.1.0/26']
    # A prefix that covers the source does not matter, whether or not the source is stored.
    assert free(api, '10.0.0.0/25', length=26) == ['10.0.0.0/26']


def test_a_block_with_something_inside_is_not_free(api: Face) -> None:
    api.add_prefix('10.0.0.0/16')
    api.add_prefix('10.0.0.255/32', 'assignment')
    assert free(api, '10.0.0.0/16', length=24) == ['10.0.1.0/24']
    assert free(api, '10.0.0.0/16', length=25) == ['10.0.0.0/25']


@pytest.mark.parametrize(
    ('source', 'length', 'addresses'),
    [
        ('10.0.0.0/30', 32, ['10.0.0.1', '10.0.0.2']),
        ('10.0.0.0/29', 32, ['10.0.0.1', '10.0.0.2', '10.0.0.3', '10.0.0.4', '10.0.0.5', '10.0.0.6']),
        ('10.0.0.0/31', 32, ['10.0.0.0', '10.0.0.1']),
        ('10.0.0.7/32', 32, ['10.0.0.7']),
        ('10.0.0.0/30', 31, ['10.0.0.0/31', '10.0.0.2/31']),
        ('2001:db8::/126', 128, ['2001:db8::1', '2001:db8::2']),
        ('2001:db8::/127', 128, ['2001:db8::', '2001:db8::1']),
        ('2001:db8::7/128', 128, ['2001:db8::7']),
    ],
)
def test_network_and_broadcast_addresses_are_not_handed_out(
    api: Face, source: str, length: int, addresses: list[str]
) -> None:
    assert free(api, source, length=length, count=1000) == addresses
    for address in addresses:
        added = api.allocate({'from-prefix': [source], 'prefix_length': length}, type='assignment')
        assert added['prefix'].split('/')[0] == address.split('/')[0]
    assert free(api, source, length=length) == []


def test_network_and_broadcast_are_those_of_the_source(api: Face) -> None:
    """The addresses of a stored prefix around the source, or of the free range, do not matter."""
    api.add_prefix('10.0.0.0/24')
    assert free(api, '10.0.0.64/26', length=32) == ['10.0.0.65']
    assert free(api, '10.0.0.0/24', length=32, count=1000)[-1] == '10.0.0.254'
    api.add_prefix('10.0.0.1/32', 'assignment')
    assert free(api, '10.0.0.0/24', length=32) == ['10.0.0.2']
    assert free(api, '10.0.0.0/23', length=32) == ['10.0.1.0']  # inside no stored prefix, and not the first of the /23
    assert free(api, '10.0.0.254/31', length=32) == ['10.0.0.254']


@pytest.mark.parametrize(
    ('source', 'length', 'first', 'last', 'count'),
    [
        ('255.255.255.0/24', 32, '255.255.255.1', '255.255.255.254', 254),
        ('255.255.255.0/24', 28, '255.255.255.0/28', '255.255.255.240/28', 16),
        ('255.255.255.254/31', 32, '255.255.255.254', '255.255.255.255', 2),
        ('255.255.255.255/32', 32, '255.255.255.255', '255.255.255.255', 1),
        ('255.0.0.0/8', 9, '255.0.0.0/9', '255.128.0.0/9', 2),
        (
            'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff00/120',
            128,
            'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff01',
            'ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe',
            254,
        ),
        (
            'ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127',
            128,
            'ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe',
            'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff',
            2,
        ),
        ('ffff::/16', 17, 'ffff::/17', 'ffff:8000::/17', 2),
    ],
)
def test_the_very_end_of_the_address_space(
    api: Face, source: str, length: int, first: str, last: str, count: int
) -> None:
    """Deliberate difference 8."""
    found = free(api, source, length=length, count=1000)
    assert (found[0], found[-1], len(found)) == (first, last, count)
    if count > 16:
        api.add_prefix(source)
        api.add_prefix(first, 'assignment')
        assert free(api, source, length=length, count=1000) == found[1:]
        return
    for expected in found:
        assert take(api, source, length=length).split('/')[0] == expected.split('/')[0]
    assert free(api, source, length=length) == []


def test_the_pools_vrf_and_default_type_are_used(api: Face) -> None:
    vrf = api.add_vrf('1:1', 'v')
    api.add_pool('p', 'reservation', ipv4_default_prefix_length=26)
    api.add_prefix('10.0.0.0/24', vrf_rt='1:1', pool_name='p')
    row = api.allocate({'from-pool': {'name': 'p'}, 'family': 4})
    assert (row['vrf_id'], row['type'], row['prefix'], row['pool_id']) == (
        vrf['id'],
        'reservation',
        '10.0.0.0/26',
        None,
    )
    row = api.allocate({'from-pool': {'name': 'p'}, 'family': '4'}, type='assignment', vrf_id=vrf['id'])
    assert (row['vrf_id'], row['type'], row['prefix']) == (vrf['id'], 'assignment', '10.0.0.64/26')


def test_a_nil_type_counts_as_not_given(api: Face) -> None:
    """Deliberate difference 13."""
    api.add_pool('p', 'assignment', ipv4_default_prefix_length=26)
    api.add_prefix('10.0.0.0/24', pool_name='p')
    everything = {'type': None, 'node': None, 'comment': None, 'tags': [], 'pool_id': None, 'avps': {}, 'expires': None}
    assert api.allocate({'from-pool': {'name': 'p'}, 'family': 4}, **everything)['type'] == 'assignment'


def test_hosts_are_allocated_from_an_assignment(api: Face) -> None:
    api.add_pool('p', 'host', ipv4_default_prefix_length=32)
    api.add_prefix('10.0.0.0/24', 'assignment', pool_name='p')
    row = api.allocate({'from-pool': {'name': 'p'}, 'family': 4}, node='sw1')
    assert (row['prefix'], row['type'], row['display_prefix']) == ('10.0.0.1/32', 'host', '10.0.0.1/24')


def test_a_rule_of_the_tree_holds_for_allocated_prefixes_too(api: Face) -> None:
    api.add_prefix('10.0.0.0/24', 'assignment')
    fault = api.fault(
        'add_prefix',
        attr={'type': 'assignment', 'description': 'd'},
        args={'from-prefix': ['10.0.0.0/24'], 'prefix_length': 28},
    )
    text = "Parent prefix (10.0.0.0/24) is of type assignment but must be of type 'reservation'"
    assert (fault.code, fault.text) == (1200, text)
    assert api.stored() == ['10.0.0.0/24']


def test_from_pool_searches_use_the_pools_vrf_whatever_vrf_says(api: Face) -> None:
    """Deliberate difference 16."""
    api.add_vrf('1:1', 'v')
    api.add_pool('p', ipv4_default_prefix_length=26)
    api.add_prefix('10.0.0.0/24', pool_name='p')
    api.add_prefix('10.0.0.0/26', 'assignment')
    for vrf in ({}, None, {'rt': '1:1'}, {'id': 0}, {'name': 'default'}):
        args = {'from-pool': {'name': 'p'}, 'family': 4}
        assert api.call('find_free_prefix', vrf=vrf, args=args) == ['10.0.0.64/26']


def test_the_vrf_of_a_search_by_prefix(api: Face) -> None:
    vrf = api.add_vrf('1:1', 'v')
    api.add_prefix('10.0.0.0/24')
    api.add_prefix('10.0.0.0/26', 'assignment')
    for spec in ({'rt': '1:1'}, {'id': vrf['id']}, {'name': 'v'}):
        assert free(api, '10.0.0.0/24', length=26, vrf=spec) == ['10.0.0.0/26']
    for spec in ({}, {'id': 0}, {'name': 'default'}):
        assert free(api, '10.0.0.0/24', length=26, vrf=spec) == ['10.0.0.64/26']
    args = {'from-prefix': ['10.0.0.0/24'], 'prefix_length': 26}
    assert api.call('find_free_prefix', vrf=None, args=args) == ['10.0.0.64/26']
    assert api.fault('find_free_prefix', vrf={'rt': '9:9'}, args=args).code == 1300
    assert api.allocate(args, type='reservation', vrf_rt='1:1')['prefix'] == '10.0.0.0/26'


def test_count(api: Face) -> None:
    assert len(free(api, '10.0.0.0/16', length=30)) == 1
    assert len(free(api, '10.0.0.0/16', length=30, count=1000)) == 1000
    assert len(free(api, '10.0.0.0/16', length='30', count='3')) == 3
    args = {'from-prefix': ['10.0.0.0/16'], 'prefix_length': 30, 'count': 1001}
    fault = api.fault('find_free_prefix', vrf={}, args=args)
    assert (fault.code, fault.text) == (1200, 'count over the maximum result size')
    for count in ('x', '1001', '9' * 12):
        assert api.fault('find_free_prefix', vrf={}, args={**args, 'count': count}).code == 1200, count


@pytest.mark.parametrize(
    ('source', 'length'), [('10.0.0.0/24', 33), ('10.0.0.0/24', -1), ('2001:db8::/32', 129), ('2001:db8::/32', '-1')]
)
def test_a_length_out_of_bounds(api: Face, source: str, length: Any) -> None:
    bounds = '0 and 32 for ipv4' if '.' in source else '0 and 128 for ipv6'
    expected = (1200, f'the specified wanted prefix length argument must be between {bounds}')
    assert refused(api, {'from-prefix': [source], 'prefix_length': length}) == (expected, expected)
    api.add_pool('p')
    api.add_prefix(source, pool_name='p')
    family = 4 if '.' in source else 6
    args = {'from-pool': {'name': 'p'}, 'family': family, 'prefix_length': length}
    assert refused(api, args) == (expected, expected)


def test_a_length_that_is_no_number(api: Face) -> None:
    expected = (1200, 'prefix length must be integer')
    assert refused(api, {'from-prefix': ['10.0.0.0/8'], 'prefix_length': 'a'}) == (expected, expected)


def test_no_length_and_no_default_length(api: Face) -> None:
    api.add_pool('p')
    api.add_prefix('10.0.0.0/24', pool_name='p')
    add, find = refused(api, {'from-pool': {'name': 'p'}, 'family': 4})
    assert (add[0], find[0]) == (1110, 1110)
    expected = (1110, "'prefix_length' must be specified with 'from-prefix'")
    assert refused(api, {'from-prefix': ['10.0.0.0/24']}) == (expected, expected)


def test_an_empty_list_of_sources(api: Face) -> None:
    add, find = refused(api, {'from-prefix': [], 'prefix_length': 24})
    assert (add[0], find[0]) == (1110, 1110)


def test_sources_that_are_no_list_of_prefixes(api: Face) -> None:
    expected = (1100, 'from-prefix should be a list')
    assert refused(api, {'from-prefix': '10.0.0.0/8', 'prefix_length': 24}) == (expected, expected)
    for bad in ('x', '10.0.0.0/33'):
        add, find = refused(api, {'from-prefix': [bad], 'prefix_length': 24})
        assert (add[0], find[0]) == (1200, 1200)


def test_a_source_with_host_bits(api: Face) -> None:
    """Deliberate difference 16."""
    add, find = refused(api, {'from-prefix': ['10.0.0.1/24'], 'prefix_length': 26})
    assert (add[0], find[0]) == (1200, 1200)
    assert '10.0.0.0/24' in find[1]


def test_two_families_do_not_mix(api: Face) -> None:
    expected = (1100, "mixing of address-family is not allowed for 'from-prefix' arg")
    sources = ['10.0.0.0/8', '2001:db8::/32']
    assert refused(api, {'from-prefix': sources, 'prefix_length': 32}) == (expected, expected)


def test_pool_or_prefix(api: Face) -> None:
    args = {'from-pool': {'name': 'p'}, 'family': 4, 'from-prefix': ['10.0.0.0/8'], 'prefix_length': 24}
    find = api.fault('find_free_prefix', vrf={}, args=args)
    assert (find.code, find.text) == (1100, "specify 'from-pool' OR 'from-prefix'")
    assert 1100 <= api.fault('add_prefix', attr={'description': 'd'}, args=args).code < 1200


def test_faults_of_from_pool(api: Face) -> None:
    api.add_pool('p', ipv4_default_prefix_length=32, ipv6_default_prefix_length=128)
    fault = api.fault('find_free_prefix', vrf={}, args={'from-pool': {'name': 'nope'}, 'family': 4})
    assert (fault.code, fault.text) == (1300, 'Non-existent pool specified')
    fault = api.fault('add_prefix', attr={'description': 'd'}, args={'from-pool': {'name': 'nope'}, 'family': 4})
    assert (fault.code, fault.text) == (1100, 'non-existing pool specified')
    api.add_prefix('10.0.0.0/24', pool_name='p')
    expected = (1100, 'No prefixes of family 6 in pool')
    add, find = refused(api, {'from-pool': {'name': 'p'}, 'family': 6}, type=None)
    assert (add, find) == (expected, expected)
    expected = (1110, "'family' must be specified with 'from-pool' mode")
    assert refused(api, {'from-pool': {'name': 'p'}}) == (expected, expected)
    expected = (1200, 'incorrect family specified, must be 4 or 6')
    for family in (5, 'x', None):
        assert refused(api, {'from-pool': {'name': 'p'}, 'family': family}) == (expected, expected)


def test_a_prefix_and_a_source_exclude_each_other(api: Face) -> None:
    expected = (1120, "specify 'prefix' or 'from-prefix' or 'from-pool'")
    both = {'from-prefix': ['10.0.0.0/8'], 'prefix_length': 24}
    attr = {'prefix': '10.0.0.0/24', 'type': 'assignment', 'description': 'd'}
    for fault in (
        api.fault('add_prefix', attr=attr, args=both),
        api.fault('add_prefix', attr={'type': 'assignment', 'description': 'd'}),
        api.fault('add_prefix', attr={'type': 'assignment', 'description': 'd'}, args={}),
    ):
        assert (fault.code, fault.text) == expected


def test_description_or_node_is_required_of_an_allocation_too(api: Face) -> None:
    fault = api.fault(
        'add_prefix', attr={'type': 'assignment'}, args={'from-prefix': ['10.0.0.0/8'], 'prefix_length': 24}
    )
    assert (fault.code, fault.text) == (1110, 'Either description or node must be specified.')


def test_allocation_without_type_from_a_prefix(api: Face) -> None:
    fault = api.fault(
        'add_prefix', attr={'description': 'd'}, args={'from-prefix': ['10.0.0.0/8'], 'prefix_length': 24}
    )
    assert (fault.code, fault.text) == (1200, 'Unknown prefix type')


def test_length_zero(api: Face) -> None:
    assert free(api, '0.0.0.0/0', length=0) == ['0.0.0.0/0']
    assert free(api, '::/0', length=0) == ['::/0']
    api.add_prefix('10.0.0.0/8')
    assert free(api, '0.0.0.0/0', length=0) == []
    assert free(api, '10.0.0.0/8', length=0) == []


def test_mixed_sizes_fill_a_source_without_overlap(api: Face) -> None:
    api.add_prefix('10.0.0.0/26')
    expected = ['0/28', '16/30', '20/31', '24/29', '32/28', '48/30', '22/31', '56/29', '52/30']
    lengths: Sequence[int] = [int(block.split('/')[1]) for block in expected]
    taken = [take(api, '10.0.0.0/26', length=length) for length in lengths]
    assert taken == [f'10.0.0.{block}' for block in expected]
    assert free(api, '10.0.0.0/26', length=32) == []
    (row,) = api.call('list_prefix', prefix={'prefix': '10.0.0.0/26'})
    assert (row['used_addresses'], row['free_addresses']) == ('64', '0')


@pytest.mark.parametrize('number', [2**31 - 1, str(2**31), str(2**63), -1, str(10**30)])
def test_a_pool_that_no_id_can_be(api: Face, number: Any) -> None:
    args = {'from-pool': {'id': number}, 'family': 4, 'prefix_length': 30}
    fault = api.fault('add_prefix', attr={'description': 'd'}, args=args)
    assert (fault.code, fault.text) == (1100, 'non-existing pool specified')
    assert api.fault('find_free_prefix', vrf={}, args=args).code == 1300
