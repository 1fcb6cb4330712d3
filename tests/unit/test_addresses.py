"""Networks as people write them."""

from __future__ import annotations

import ipaddress

import IPy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nipap.addresses import Network, first_address, parse_network
from nipap.errors import NipapValueError

GROUPS = st.lists(st.sampled_from((0, 0, 0, 1, 0xFFFF)) | st.integers(0, 0xFFFF), min_size=8, max_size=8)


def number_of(groups: list[int]) -> int:
    number = 0
    for group in groups:
        number = number << 16 | group
    return number


def spellings(groups: list[int]) -> set[str]:
    """Return the ways to write one address (RFC 4291, 2.2)."""
    address = ipaddress.IPv6Address(number_of(groups))
    dotted = '.'.join(map(str, address.packed[-4:]))
    return {
        str(address),
        str(address).upper(),
        address.exploded,
        ':'.join(f'{group:x}' for group in groups),
        ':'.join(f'{group:x}' for group in groups[:6]) + f':{dotted}',
    }


@given(GROUPS)
def test_ipv6_is_written_as_ipy_does(groups: list[int]) -> None:
    written = IPy.IP(number_of(groups), ipversion=6).strCompressed()
    for text in spellings(groups):
        assert parse_network(text) == Network(f'{written}/128', 6, 128), text
        assert first_address(text) == number_of(groups), text


def test_the_first_address_of_a_network_is_a_number() -> None:
    assert first_address('10.0.0.0/8') == first_address('10.0.0.0') == 10 << 24
    assert first_address('2001:db8::/32') == 0x20010DB8 << 96


@pytest.mark.parametrize(
    ('text', 'network'),
    [
        ('::1.2.3.4', '::102:304/128'),
        ('::ffff:1.2.3.4', '::ffff:1.2.3.4/128'),
        ('::1.2.0.0/112', '::102:0/112'),
        ('::01.2.3.4', '::102:304/128'),
        ('0001::/16', '1::/16'),
        ('::', '::/128'),
        (' 10.0.0.0/8 ', '10.0.0.0/8'),
    ],
)
def test_networks_are_written_in_one_form(text: str, network: str) -> None:
    assert parse_network(text).text == network


@pytest.mark.parametrize(
    'text', ['10', '10/8', '1234', '0', 'ff', '0x0a000000', '1-2', '10.1/16', '::1.2.3', '1:', ':', '1::2::3', '::g']
)
def test_numbers_and_parts_of_addresses_are_no_networks(text: str) -> None:
    """IPy reads 1234 as 0.0.4.210, and 10 as 10.0.0.0."""
    with pytest.raises(NipapValueError, match='Invalid syntax for prefix'):
        parse_network(text)


@pytest.mark.parametrize(('value', 'shown'), [({'a': 1}, 'a struct'), ([1], 'an array'), (5, '5'), (True, 'True')])
def test_other_values_are_named_in_the_error(value: object, shown: str) -> None:
    with pytest.raises(NipapValueError, match=rf'Invalid syntax for prefix \({shown}\)'):
        parse_network(value)


def test_a_value_that_nests_deeply_is_refused_like_any_other() -> None:
    """The representation of such a value exceeds the recursion limit of Python."""
    deep: object = '10.0.0.0/8'
    for _ in range(50_000):
        deep = [deep]
    with pytest.raises(NipapValueError, match='an array'):
        parse_network(deep)
