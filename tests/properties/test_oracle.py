"""Test the oracle itself against examples worked out by hand and against plain enumeration."""

from __future__ import annotations

import ipaddress
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from .oracle import Model, Network, Prefix, Refused, count_blocks, gaps, net

pytestmark = pytest.mark.slow


def add(model: Model, text: str, type_: str = 'reservation', vrf: int = 0, **attributes: Any) -> Prefix:
    """Add a prefix by its text."""
    return model.add_prefix(vrf, net(text), type_, **attributes)


def refusal(operation: Any, *arguments: Any, **named: Any) -> set[int]:
    """Return the codes with which an operation is refused."""
    with pytest.raises(Refused) as caught:
        operation(*arguments, **named)
    return set(caught.value.codes)


@pytest.fixture
def model() -> Model:
    """Return a model with 10/8 > 10.1/16 > 10.1.1/24 with a host, as in the recorded session."""
    made = Model()
    add(made, '10.0.0.0/8', tags=('a', 'b'))
    add(made, '10.1.0.0/16', tags=('b', 'c'))
    add(made, '10.1.1.0/24', 'assignment', tags=('d',))
    add(made, '10.1.1.10/32', 'host', node='sw1')
    return made


def at(model: Model, text: str, vrf: int = 0) -> Prefix:
    """Return the stored prefix with that text."""
    found = model.at(vrf, net(text))
    assert found is not None
    return found


def test_derived_values(model: Model) -> None:
    answers = model.answers()
    host = answers.search_view(at(model, '10.1.1.10/32'))
    assert host['indent'] == 3
    assert host['inherited_tags'] == {'a', 'b', 'c', 'd'}
    assert host['display_prefix'] == '10.1.1.10/24'
    assert (host['total_addresses'], host['used_addresses'], host['free_addresses']) == (1, 1, 0)
    lan = answers.search_view(at(model, '10.1.1.0/24'))
    assert (lan['children'], lan['used_addresses'], lan['free_addresses']) == (1, 1, 255)
    top = answers.vrf_view(model.vrfs[0])
    assert (top['num_prefixes_v4'], top['total_addresses_v4'], top['used_addresses_v4']) == (4, 2**24, 2**16)


@pytest.mark.parametrize(
    ('text', 'type_', 'attributes', 'codes'),
    [
        ('10.2.0.0/24', 'host', {}, {1200}),
        ('192.0.2.1/32', 'host', {}, {1200}),
        ('10.1.200.1/32', 'host', {}, {1200}),
        ('10.1.1.128/25', 'assignment', {}, {1200}),
        ('10.1.1.128/25', 'reservation', {}, {1200}),
        ('10.1.0.0/20', 'assignment', {}, {1200}),
        ('10.2.0.0/24', 'assignment', {'node': 'r1'}, {1200}),
        ('10.2.0.0/16', 'reservation', {'node': 'r1'}, {1200}),
        ('10.1.0.0/16', 'reservation', {}, {1400}),
        ('10.1.0.0/16', 'assignment', {}, {1200, 1400}),
    ],
)
def test_refused_additions(model: Model, text: str, type_: str, attributes: dict[str, Any], codes: set[int]) -> None:
    assert refusal(add, model, text, type_, **attributes) == codes
    assert len(model.prefixes) == 4


def test_a_prefix_moves_alone(model: Model) -> None:
    add(model, '10.1.2.7/32', 'assignment')
    lan = at(model, '10.1.1.0/24')
    assert refusal(model.edit_prefix, lan.handle, network=net('10.2.0.0/24')) == {1200}
    assert refusal(model.edit_prefix, lan.handle, network=net('10.1.0.0/22')) == {1200}
    model.edit_prefix(lan.handle, network=net('10.1.0.0/23'))
    assert model.answers().display_prefix(at(model, '10.1.1.10/32')) == '10.1.1.10/23'
    middle = at(model, '10.1.0.0/16')
    model.edit_prefix(middle.handle, network=net('2001:db8::/32'))
    assert model.answers().prefix_view(at(model, '10.1.0.0/23'))['indent'] == 1


def test_types(model: Model) -> None:
    assert refusal(model.edit_prefix, at(model, '10.1.1.0/24').handle, type='reservation') == {1200}
    assert refusal(model.edit_prefix, at(model, '10.1.1.10/32').handle, type='assignment') == {1200}
    empty = add(model, '10.2.0.0/16')
    assert model.edit_prefix(empty.handle, type='assignment').type == 'assignment'


def test_removal(model: Model) -> None:
    assert refusal(model.remove_prefix, at(model, '10.1.1.0/24').handle) == {1200}
    model.remove_prefix(at(model, '10.1.0.0/16').handle)
    assert model.answers().prefix_view(at(model, '10.1.1.0/24'))['indent'] == 1
    model.remove_prefix(at(model, '10.0.0.0/8').handle, recursive=True)
    assert not model.prefixes


def test_pool_of_the_recorded_session(model: Model) -> None:
    pool = model.add_pool('loopbacks', 'assignment', {4: 32, 6: 128}).handle
    assert refusal(model.add_from_pool, pool, 4, None, None) == {1100}
    add(model, '10.10.0.0/24', pool=pool)
    taken = [str(model.add_from_pool(pool, 4, length, None).network) for length in (None, None, 28)]
    taken.append(str(model.add_from_prefix(0, [net('10.10.0.0/24')], 26, 'assignment').network))
    assert taken == ['10.10.0.1/32', '10.10.0.2/32', '10.10.0.16/28', '10.10.0.64/26']
    view = model.answers().pool_view(model.pools[pool])
    keys = ('member_prefixes', 'used_prefixes', 'free_prefixes', 'total_prefixes', 'total_addresses', 'used_addresses')
    assert [view[f'{key}_v4'] for key in keys] == [1, 4, 174, 178, 256, 82]
    assert view['free_prefixes_v6'] is None
    assert model.find_free(0, [net('10.10.0.0/24')], length=26, count=3) == ['10.10.0.128/26', '10.10.0.192/26']
    assert model.find_free(0, [net('10.10.0.0/24'), net('10.1.0.0/16')], length=24, count=2) == [
        '10.1.0.0/24',
        '10.1.2.0/24',
    ]
    assert model.find_free(0, pool=pool, family=4, count=2) == ['10.10.0.3', '10.10.0.4']


def test_members_of_a_pool_share_a_vrf(model: Model) -> None:
    pool, vrf = model.add_pool('p', 'assignment', {}).handle, model.add_vrf('1:2', 'other').handle
    model.edit_prefix(at(model, '10.1.0.0/16').handle, pool=pool)
    assert refusal(add, model, '10.1.0.0/16', vrf=vrf, pool=pool) == {1200}
    assert refusal(model.add_from_pool, pool, 4, 24, None, vrf=vrf) == {1100}
    assert refusal(model.add_from_pool, pool, 4, None, None) == {1110}
    assert refusal(model.add_from_pool, pool, 4, 15, None) == {1300}
    model.remove_prefix(at(model, '10.1.0.0/16').handle)
    assert add(model, '10.1.0.0/16', vrf=vrf, pool=pool).vrf == vrf


def test_sources_need_not_be_stored(model: Model) -> None:
    assert model.find_free(0, [net('10.1.1.0/30')], length=32, count=9) == ['10.1.1.1', '10.1.1.2']
    assert model.find_free(0, [net('10.1.1.0/31')], length=32, count=9) == ['10.1.1.0', '10.1.1.1']
    assert model.find_free(0, [net('10.1.1.128/25')], length=25) == ['10.1.1.128/25']
    assert model.find_free(0, [net('10.1.0.0/20')], length=24, count=2) == ['10.1.0.0/24', '10.1.2.0/24']
    assert model.find_free(0, [net('10.1.0.0/16')], length=16) == []
    assert model.find_free(0, [net('11.0.0.0/32')], length=32) == ['11.0.0.0']
    assert model.find_free(0, [net('255.255.255.0/24')], length=25, count=3) == [
        '255.255.255.0/25',
        '255.255.255.128/25',
    ]
    assert model.find_free(0, [net('::/0')], length=128) == ['::1']


def test_order_is_by_route_target_as_numbers() -> None:
    model = Model()
    for rt in ('16974599:456', '10:1', '9:10', '9:9', '1.3.3.7:456'):
        model.add_vrf(rt, f'vrf {rt}')
    assert [v.rt for v in model.ordered_vrfs()] == [None, '9:9', '9:10', '10:1', '16974599:456', '1.3.3.7:456']


SMALL = [n for length in range(24, 33) for n in ipaddress.ip_network('10.0.0.0/24').subnets(new_prefix=length)]


@given(st.integers(0, 300), st.integers(0, 300), st.integers(23, 32))
def test_counting_against_enumeration(one: int, other: int, length: int) -> None:
    low, high, step = min(one, other), max(one, other), 2 ** (32 - length)
    starts = [a for a in range(low, high + 1) if a % step == 0 and a + step - 1 <= high]
    assert count_blocks(low, high, length, 4) == len(starts)


@given(st.lists(st.sampled_from(SMALL), max_size=12), st.sampled_from(SMALL))
def test_gaps_against_enumeration(candidates: list[Network], around: Network) -> None:
    inside: list[Network] = []
    for candidate in candidates:
        if candidate.subnet_of(around) and not any(candidate.overlaps(o) for o in inside):
            inside.append(candidate)
    used = {int(a) for n in inside for a in n}
    found = gaps(around, inside)
    assert [a for low, high in found for a in range(low, high + 1)] == [int(a) for a in around if int(a) not in used]
    assert all(high + 1 < low for (_, high), (low, _) in itertools.pairwise(found))


@given(st.sets(st.sampled_from(SMALL), max_size=12), st.sampled_from(SMALL), st.integers(24, 32))
def test_free_blocks_against_enumeration(stored: set[Network], source: Network, length: int) -> None:
    model = Model()
    for handle, network in enumerate(stored, 1):
        model.prefixes[handle] = Prefix(handle, 0, network, 'reservation')
    expected = []
    for block in source.subnets(new_prefix=length) if length >= source.prefixlen else []:
        in_the_way = [n for n in stored if n.overlaps(block) and not source.subnet_of(n)]
        edge = length == 32 and source.prefixlen < 31 and block[0] in (source[0], source[-1])
        if not in_the_way and block not in stored and not edge:
            expected.append(block)
    assert list(model.free_blocks(0, [source], length)) == expected
