"""Pools: values implied by members, free prefixes, and the rules for members."""

from __future__ import annotations

from typing import Any

import pytest
from contract_faces import Face


def pool_named(api: Face, name: str) -> dict[str, Any]:
    (pool,) = api.call('list_pool', pool={'name': name})
    return pool


def test_members_imply_the_vrf(api: Face) -> None:
    vrf = api.add_vrf('65000:1', 'customer')
    pool = api.add_pool('p')
    assert (pool['vrf_id'], pool['vrf_rt'], pool['vrf_name'], pool['prefixes']) == (None, None, None, [])
    member = api.add_prefix('10.0.0.0/24', vrf_rt='65000:1', pool_name='p')
    pool = pool_named(api, 'p')
    assert (pool['vrf_id'], pool['vrf_rt'], pool['vrf_name']) == (vrf['id'], '65000:1', 'customer')
    api.call('edit_prefix', prefix={'id': member['id']}, attr={'pool_id': None})
    assert pool_named(api, 'p')['vrf_id'] is None


def test_members_are_sorted(api: Face) -> None:
    api.add_pool('p')
    for prefix in ('2001:db8::/48', '10.10.0.0/16', '10.9.0.0/16', '192.0.2.0/24', '10.9.0.0/24'):
        api.add_prefix(prefix, pool_name='p')
    expected = ['10.9.0.0/16', '10.9.0.0/24', '10.10.0.0/16', '192.0.2.0/24', '2001:db8::/48']
    assert pool_named(api, 'p')['prefixes'] == expected


def test_all_members_live_in_one_vrf(api: Face) -> None:
    api.add_vrf('1:1', 'v')
    pool = api.add_pool('p')
    api.add_prefix('10.0.0.0/24', pool_id=pool['id'])
    text = 'Change not allowed. All member prefixes of a pool must be in a the same VRF.'
    attr = {'prefix': '10.0.0.0/24', 'type': 'reservation', 'description': 'd', 'vrf_rt': '1:1', 'pool_id': pool['id']}
    fault = api.fault('add_prefix', attr=attr)
    assert (fault.code, fault.text) == (1200, text)
    other = api.add_prefix('10.0.0.0/24', vrf_rt='1:1')
    fault = api.fault('edit_prefix', prefix={'id': other['id']}, attr={'pool_name': 'p'})
    assert (fault.code, fault.text) == (1200, text)
    assert pool_named(api, 'p')['prefixes'] == ['10.0.0.0/24']


def test_free_prefixes_counts_whole_aligned_blocks(api: Face) -> None:
    """Deliberate difference 16: the rest of a partly used block is not a fraction of a block."""
    api.add_pool('p', ipv4_default_prefix_length=26)
    api.add_prefix('10.0.0.0/24', pool_name='p')
    assert pool_named(api, 'p')['free_prefixes_v4'] == '4'
    api.add_prefix('10.0.0.5/32', 'assignment')
    pool = pool_named(api, 'p')
    assert (pool['used_prefixes_v4'], pool['free_prefixes_v4'], pool['total_prefixes_v4']) == ('1', '3', '4')
    api.add_prefix('10.0.0.112/28', 'assignment')
    api.add_prefix('10.0.0.128/27', 'assignment')
    assert pool_named(api, 'p')['free_prefixes_v4'] == '1'


def test_network_and_broadcast_addresses_count_as_free(api: Face) -> None:
    api.add_pool('p', ipv4_default_prefix_length=32, ipv6_default_prefix_length=128)
    api.add_prefix('10.0.0.0/30', pool_name='p')
    api.add_prefix('2001:db8::/126', pool_name='p')
    for family in (4, 6):
        for _ in range(2):
            api.allocate({'from-pool': {'name': 'p'}, 'family': family})
        assert (
            api.fault('add_prefix', attr={'description': 'x'}, args={'from-pool': {'name': 'p'}, 'family': family}).code
            == 1300
        )
    pool = pool_named(api, 'p')
    assert (pool['free_prefixes_v4'], pool['free_prefixes_v6']) == ('2', '2')


def test_free_prefixes_is_nil_without_a_member_or_a_default_length(api: Face) -> None:
    api.add_pool('p', ipv4_default_prefix_length=24)
    api.add_prefix('2001:db8::/48', pool_name='p')
    pool = pool_named(api, 'p')
    assert (pool['free_prefixes_v4'], pool['total_prefixes_v4']) == (None, None)  # no member
    assert (pool['free_prefixes_v6'], pool['total_prefixes_v6']) == (None, None)  # no default length
    assert (pool['member_prefixes_v4'], pool['member_prefixes_v6'], pool['used_prefixes_v6']) == ('0', '1', '0')
    (pool,) = api.call('edit_pool', pool={'name': 'p'}, attr={'ipv6_default_prefix_length': 64})
    assert (pool['free_prefixes_v6'], pool['total_prefixes_v6']) == ('65536', '65536')
    (pool,) = api.call('edit_pool', pool={'name': 'p'}, attr={'ipv6_default_prefix_length': None})
    assert (pool['ipv6_default_prefix_length'], pool['free_prefixes_v6']) == (None, None)


def test_a_default_length_shorter_than_the_members_leaves_nothing_free(api: Face) -> None:
    api.add_pool('p', ipv4_default_prefix_length=16)
    api.add_prefix('10.0.0.0/24', pool_name='p')
    assert pool_named(api, 'p')['free_prefixes_v4'] == '0'


def test_a_new_default_length_recounts(api: Face) -> None:
    api.add_pool('p', ipv4_default_prefix_length=26)
    api.add_prefix('10.0.0.0/24', pool_name='p')
    api.add_prefix('10.0.0.5/32', 'assignment')
    (pool,) = api.call('edit_pool', pool={'name': 'p'}, attr={'ipv4_default_prefix_length': 32})
    assert (pool['free_prefixes_v4'], pool['total_prefixes_v4']) == ('255', '256')


def test_sums_over_several_members(api: Face) -> None:
    api.add_pool('p', ipv4_default_prefix_length=25)
    api.add_prefix('10.0.0.0/24', pool_name='p')
    api.add_prefix('10.9.0.0/23', pool_name='p')
    api.add_prefix('10.9.0.0/24', 'assignment')
    api.add_prefix('10.9.0.1/32', 'host')
    pool = pool_named(api, 'p')
    assert pool['member_prefixes_v4'] == '2'
    assert pool['used_prefixes_v4'] == '1'  # direct children only
    assert (pool['total_addresses_v4'], pool['used_addresses_v4'], pool['free_addresses_v4']) == ('768', '256', '512')
    assert (pool['free_prefixes_v4'], pool['total_prefixes_v4']) == ('4', '5')


def test_addresses_of_a_member_inside_a_member_count_once(api: Face) -> None:
    api.add_pool('p', ipv4_default_prefix_length=26)
    api.add_prefix('10.0.0.0/24', pool_name='p')
    api.add_prefix('10.0.0.0/25', pool_name='p')
    api.add_prefix('10.0.0.0/26', 'assignment')
    pool = pool_named(api, 'p')
    assert (pool['member_prefixes_v4'], pool['used_prefixes_v4']) == ('2', '2')
    assert (pool['total_addresses_v4'], pool['used_addresses_v4']) == ('256', '64')
    assert pool['free_prefixes_v4'] == '3'  # two in the outer, one in the inner


@pytest.mark.parametrize('method', ['search_pool', 'edit_pool', 'smart_search_pool', 'list_pool', 'add_pool'])
def test_prefixes_is_always_a_list(api: Face, method: str) -> None:
    """Deliberate difference 9."""
    api.add_pool('empty')
    members: dict[str, dict[str, Any]] = {
        'search_pool': {'query': {'operator': 'equals', 'val1': 'name', 'val2': 'empty'}},
        'edit_pool': {'pool': {'name': 'empty'}, 'attr': {'description': 'x'}},
        'smart_search_pool': {'query_string': 'empty'},
        'list_pool': {'pool': {}},
        'add_pool': {'attr': {'name': 'another', 'description': 'd', 'default_type': 'host'}},
    }
    answer = api.call(method, **members[method])
    rows = answer if isinstance(answer, list) or 'result' not in answer else answer['result']
    assert [row['prefixes'] for row in (rows if isinstance(rows, list) else [rows])] == [[]]


def test_removing_a_pool_leaves_its_members(api: Face) -> None:
    pool = api.add_pool('p', ipv4_default_prefix_length=24)
    member = api.add_prefix('10.0.0.0/16', pool_id=pool['id'])
    assert api.call('remove_pool', pool={'name': 'p'}) is None
    row = api.prefix(member['id'])
    assert (row['prefix'], row['pool_id'], row['pool_name']) == ('10.0.0.0/16', None, None)
    assert api.call('remove_pool', pool={'id': pool['id']}) is None


def test_names_are_unique_without_case_and_selected_with_it(api: Face) -> None:
    api.add_pool('Loopbacks')
    fault = api.fault('add_pool', attr={'name': 'LOOPBACKS', 'description': 'd', 'default_type': 'host'})
    assert (fault.code, fault.text) == (
        1400,
        "Duplicate value for 'pool name', the value 'loopbacks' is already in use.",
    )
    assert api.call('list_pool', pool={'name': 'loopbacks'}) == []
    other = api.add_pool('other')
    assert api.fault('edit_pool', pool={'id': other['id']}, attr={'name': 'loopbackS'}).code == 1400


def test_pools_are_ordered_by_name(api: Face) -> None:
    for name in ('beta', 'alpha', 'gamma'):
        api.add_pool(name)
    expected = ['alpha', 'beta', 'gamma']
    assert [pool['name'] for pool in api.call('list_pool', pool={})] == expected
    assert [pool['name'] for pool in api.call('search_pool', query={})['result']] == expected
    assert [pool['name'] for pool in api.call('smart_search_pool', query_string='')['result']] == expected


@pytest.mark.parametrize('missing', ['name', 'description', 'default_type'])
def test_required_attributes(api: Face, missing: str) -> None:
    attr = {'name': 'n', 'description': 'd', 'default_type': 'host'}
    del attr[missing]
    fault = api.fault('add_pool', attr=attr)
    assert (fault.code, fault.text) == (1110, f'missing attribute {missing}')


def test_a_nil_description_is_there(api: Face) -> None:
    """The client library sends nil for a missing value."""
    pool = api.add_pool('p', description=None, ipv4_default_prefix_length=None, ipv6_default_prefix_length=None)
    assert pool['description'] is None


def test_integers_may_be_text(api: Face) -> None:
    pool = api.add_pool('p', ipv4_default_prefix_length='24', ipv6_default_prefix_length='64')
    assert (pool['ipv4_default_prefix_length'], pool['ipv6_default_prefix_length']) == (24, 64)
    assert api.call('list_pool', pool={'id': str(pool['id'])}) == [pool]


@pytest.mark.parametrize(
    ('name', 'value', 'bounds'),
    [
        ('ipv4_default_prefix_length', 0, 'IPv4 prefix length must be an integer between 1 and 32.'),
        ('ipv4_default_prefix_length', 33, 'IPv4 prefix length must be an integer between 1 and 32.'),
        ('ipv4_default_prefix_length', 'x', 'IPv4 prefix length must be an integer between 1 and 32.'),
        ('ipv6_default_prefix_length', 0, 'IPv6 prefix length must be an integer between 1 and 128.'),
        ('ipv6_default_prefix_length', 129, 'IPv6 prefix length must be an integer between 1 and 128.'),
    ],
)
def test_bounds_of_default_lengths(api: Face, name: str, value: object, bounds: str) -> None:
    attr = {'name': 'n', 'description': 'd', 'default_type': 'host'}
    fault = api.fault('add_pool', attr={**attr, name: value})
    assert (fault.code, fault.text) == (1200, f'Default {bounds}')
    api.add_pool('n')
    assert api.fault('edit_pool', pool={'name': 'n'}, attr={name: value}).code == 1200


def test_a_bad_default_type_names_the_value_and_what_is_allowed(api: Face) -> None:
    """Deliberate difference 1."""
    api.add_pool('p')
    for fault in (
        api.fault('add_pool', attr={'name': 'n', 'description': 'd', 'default_type': 'bogus'}),
        api.fault('edit_pool', pool={'name': 'p'}, attr={'default_type': 'bogus'}),
    ):
        assert fault.code == 1200
        assert all(word in fault.text for word in ('bogus', 'reservation', 'assignment', 'host'))


def test_edit_of_nothing_and_with_nothing(api: Face) -> None:
    """Deliberate differences 9 and 15."""
    pool = api.add_pool('p')
    assert api.call('edit_pool', pool={'name': 'nope'}, attr={'description': 'x'}) == []
    fault = api.fault('edit_pool', pool={'id': pool['id']}, attr={})
    assert (fault.code, fault.text) == (1100, "'attr' must not be empty.")


def test_edit_moves_nothing_but_what_is_named(api: Face) -> None:
    pool = api.add_pool('p', tags=['x'], avps={'k': 'v'}, ipv4_default_prefix_length=24)
    (edited,) = api.call('edit_pool', pool={'id': pool['id']}, attr={'name': 'q', 'default_type': 'reservation'})
    assert edited == {**pool, 'name': 'q', 'default_type': 'reservation', 'version': 2}


def test_searches_by_every_attribute(api: Face) -> None:
    """Deliberate difference 12."""
    api.add_pool('p', tags=['t'], avps={'k': 'v'}, ipv4_default_prefix_length=24, ipv6_default_prefix_length=64)
    api.add_prefix('10.0.0.0/16', pool_name='p')
    api.add_prefix('2001:db8::/48', pool_name='p')
    pool = pool_named(api, 'p')
    for name, value in pool.items():
        if name not in ('tags', 'avps', 'prefixes'):
            query = {'operator': 'equals', 'val1': name, 'val2': value}
            assert api.call('search_pool', query=query)['result'] == [pool], name
    for query in (
        {'operator': 'equals_any', 'val1': 'tags', 'val2': 'T'},
        {'operator': 'equals', 'val1': 'avps.k', 'val2': 'v'},
    ):
        assert api.call('search_pool', query=query)['result'] == [pool], query


def test_an_empty_query_finds_every_pool(api: Face) -> None:
    api.add_pool('p')
    assert [pool['name'] for pool in api.call('search_pool', query={})['result']] == ['p']
    assert api.fault('search_pool').code == 1110


def test_a_full_length_member_has_nothing_free(api: Face) -> None:
    """The member uses itself, with any default length."""
    api.add_pool('p', ipv4_default_prefix_length=32, ipv6_default_prefix_length=128)
    for prefix in ('192.0.2.1/32', '2001:db8::1/128'):
        api.add_prefix(prefix, pool_name='p')
    pool = pool_named(api, 'p')
    for family in (4, 6):
        figures = ('used_prefixes', 'free_prefixes', 'total_prefixes', 'used_addresses', 'free_addresses')
        assert [pool[f'{figure}_v{family}'] for figure in figures] == ['0', '0', '0', '1', '0']


def test_a_member_that_is_full_and_one_that_was(api: Face) -> None:
    api.add_pool('p', ipv4_default_prefix_length=31)
    api.add_prefix('10.0.0.0/30', pool_name='p')
    halves = [api.add_prefix(prefix, 'assignment') for prefix in ('10.0.0.0/31', '10.0.0.2/31')]
    pool = pool_named(api, 'p')
    assert (pool['used_prefixes_v4'], pool['free_prefixes_v4'], pool['total_prefixes_v4']) == ('2', '0', '2')
    for half, free in zip(halves, ('1', '2'), strict=True):
        api.call('remove_prefix', prefix={'id': half['id']})
        assert pool_named(api, 'p')['free_prefixes_v4'] == free


def test_counts_beyond_64_bits_are_exact(api: Face) -> None:
    api.add_pool('p', ipv6_default_prefix_length=128)
    api.add_prefix('::/0', pool_name='p')
    assert pool_named(api, 'p')['free_prefixes_v6'] == str(2**128)
    api.add_prefix('ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128', 'assignment')
    api.add_prefix('2001:db8::/32', 'assignment')
    for length, free in ((128, 2**128 - 1 - 2**96), (64, 2**64 - 1 - 2**32), (2, 2), (1, 0)):
        (pool,) = api.call('edit_pool', pool={'name': 'p'}, attr={'ipv6_default_prefix_length': length})
        assert (pool['free_prefixes_v6'], pool['total_prefixes_v6']) == (str(free), str(free + 2))
    assert (pool['total_addresses_v6'], pool['free_addresses_v6']) == (str(2**128), str(2**128 - 1 - 2**96))


def test_counts_follow_members_that_come_move_and_go(api: Face) -> None:
    for name, length in (('p', 26), ('q', 30)):
        api.add_pool(name, ipv4_default_prefix_length=length)
    member = api.add_prefix('10.0.0.0/24')
    inside = api.add_prefix('10.0.0.64/26', 'assignment')

    def free() -> tuple[Any, Any]:
        return pool_named(api, 'p')['free_prefixes_v4'], pool_named(api, 'q')['free_prefixes_v4']

    def edit(edited: dict[str, Any], **attr: Any) -> None:
        api.call('edit_prefix', prefix={'id': edited['id']}, attr=attr)

    edit(member, pool_name='p')
    assert free() == ('3', None)
    edit(member, pool_name='q')
    assert free() == (None, '48')
    edit(member, prefix='10.0.0.0/25', pool_name='p')  # a smaller prefix, in the other pool at once
    assert free() == ('1', None)
    edit(inside, prefix='10.0.0.128/26')  # out of the member
    assert free() == ('2', None)
    api.add_prefix('10.0.0.0/23', pool_name='q')  # a member around all prefixes
    assert free() == ('2', '80')
    edit(member, pool_id=None)
    assert free() == (None, '80')


def test_counts_follow_a_batch(api: Face) -> None:
    """A member and the prefixes inside are added in one call, in any order, and later more into the same member."""
    api.add_pool('p', ipv4_default_prefix_length=28)

    def add(*prefixes: str, **attr: Any) -> list[dict[str, Any]]:
        fixed = {'type': 'assignment', 'description': 'd'}
        return [{'method': 'add_prefix', 'args': {'attr': {'prefix': p, **fixed, **attr}}} for p in prefixes]

    member = add('10.0.0.0/24', type='reservation', pool_name='p')
    api.call('batch', operations=[*add('10.0.0.16/28', '10.0.0.1/32'), *member, *add('10.0.0.128/25')])
    assert pool_named(api, 'p')['free_prefixes_v4'] == '6'
    api.call('batch', operations=add('10.0.0.2/32', '10.0.0.96/27', '10.0.0.33/32'))
    pool = pool_named(api, 'p')
    assert (pool['used_prefixes_v4'], pool['free_prefixes_v4'], pool['total_prefixes_v4']) == ('6', '3', '9')
