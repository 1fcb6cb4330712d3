"""The SQL functions on addresses and ranges against `ipaddress` and plain integers."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nipap.postgres import migrations

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Range = tuple[Address, Address]

KINDS = {4: (ipaddress.IPv4Address, ipaddress.IPv4Network, 32), 6: (ipaddress.IPv6Address, ipaddress.IPv6Network, 128)}
QUICK = settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def cursor(dsn: str) -> Iterator[Any]:
    """Yield a cursor on a database with the functions."""
    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    try:
        with connection.cursor() as opened:
            opened.execute(migrations.search_path())
            yield opened
    finally:
        connection.close()


def ask(cursor: Any, expression: str, *arguments: Any) -> Any:
    """Return the value of an SQL expression; addresses are passed as texts."""
    cursor.execute(f'SELECT {expression}', arguments)
    return cursor.fetchone()[0]


def near_edges(family: int) -> st.SearchStrategy[int]:
    """Return numbers of addresses: any, near both ends, and near powers of two, where alignment changes."""
    bits = KINDS[family][2]
    powers = st.integers(0, bits - 1).flatmap(lambda n: st.integers(-2, 2).map(lambda d: (1 << n) + d))
    top = (1 << bits) - 1
    return st.one_of(st.integers(0, top), st.integers(0, 300), st.integers(top - 300, top), powers).filter(
        lambda n: 0 <= n <= top
    )


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Return any network of either family."""
    family = draw(st.sampled_from([4, 6]))
    address, _, bits = KINDS[family]
    number, length = draw(near_edges(family)), draw(st.integers(0, bits))
    return ipaddress.ip_network((address(number), length), strict=False)


@st.composite
def ranges(draw: st.DrawFn) -> Range:
    """Return any range of either family, as its first and last address; often a short range."""
    family = draw(st.sampled_from([4, 6]))
    address, _, bits = KINDS[family]
    one = draw(near_edges(family))
    other = draw(st.one_of(near_edges(family), st.integers(0, 600).map(lambda n: min(one + n, (1 << bits) - 1))))
    return address(min(one, other)), address(max(one, other))


def lengths(range_: Range) -> st.SearchStrategy[int]:
    """Return prefix lengths of the family of a range."""
    return st.integers(0, KINDS[range_[0].version][2])


RANGES_AND_LENGTHS = ranges().flatmap(lambda r: st.tuples(st.just(r), lengths(r)))


def aligned(range_: Range, length: int) -> tuple[int, int, int]:
    """Return the number of the first aligned block in a range, the number of the first block behind it, and the size.

    Blocks of the given length are numbered from address 0. The size is in addresses.
    """
    size = 1 << (KINDS[range_[0].version][2] - length)
    return -(-int(range_[0]) // size), (int(range_[1]) + 1) // size, size


def whole(family: int) -> Range:
    """Return the whole address space of a family."""
    address, _, bits = KINDS[family]
    return address(0), address((1 << bits) - 1)


@QUICK
@given(networks())
@example(ipaddress.ip_network('0.0.0.0/0'))
@example(ipaddress.ip_network('::/0'))
@example(ipaddress.ip_network('255.255.255.255/32'))
@example(ipaddress.ip_network('ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128'))
def test_the_first_and_last_address_and_the_size(cursor: Any, network: Network) -> None:
    assert ask(cursor, 'host(addr_first(%s::inet))', str(network)) == spelled(cursor, network[0])
    assert ask(cursor, 'host(addr_last(%s::inet))', str(network)) == spelled(cursor, network[-1])
    full = KINDS[network.version][2]
    assert ask(cursor, 'masklen(addr_first(%s)) = masklen(addr_last(%s))', str(network), str(network))
    assert ask(cursor, 'masklen(addr_first(%s))', str(network)) == full
    assert ask(cursor, 'prefix_size(%s)', str(network)) == network.num_addresses


def spelled(cursor: Any, address: Address) -> str:
    """Return an address as PostgreSQL spells it."""
    return str(ask(cursor, 'host(%s::inet)', str(address)))


@QUICK
@given(networks(), st.integers(0, 2**130))
def test_host_bits_do_not_matter(cursor: Any, network: Network, number: int) -> None:
    inside = network[number % network.num_addresses]
    text = f'{inside}/{network.prefixlen}'
    assert ask(cursor, 'addr_first(%s::inet) = %s::inet', text, str(network[0]))
    assert ask(cursor, 'addr_last(%s::inet) = %s::inet', text, str(network[-1]))


@QUICK
@given(ranges())
@example(whole(4))
@example(whole(6))
def test_the_largest_aligned_block_of_a_range(cursor: Any, range_: Range) -> None:
    fits = [
        length
        for length in range(KINDS[range_[0].version][2] + 1)
        if aligned(range_, length)[0] < aligned(range_, length)[1]
    ]
    assert ask(cursor, 'range_fit(%s::inet, %s::inet)', *map(str, range_)) == min(fits)


@QUICK
@given(RANGES_AND_LENGTHS)
@example((whole(4), 0))
@example((whole(6), 0))
@example((whole(4), 32))
@example((whole(6), 128))
@example(((ipaddress.ip_address('255.255.255.1'), ipaddress.ip_address('255.255.255.255')), 24))
@example(((ipaddress.ip_address('255.255.255.255'), ipaddress.ip_address('255.255.255.255')), 31))
@example(((ipaddress.ip_address('255.255.255.255'), ipaddress.ip_address('255.255.255.255')), 32))
def test_the_lowest_block_and_the_number_of_blocks(cursor: Any, case: tuple[Range, int]) -> None:
    range_, length = case
    low, beyond, size = aligned(range_, length)
    address = KINDS[range_[0].version][0]
    expected = f'{address(low * size)}/{length}' if low < beyond else None
    texts = list(map(str, range_))
    assert ask(cursor, 'first_block(%s::inet, %s::inet, %s) IS NOT DISTINCT FROM %s::cidr', *texts, length, expected)
    assert ask(cursor, 'count_blocks(%s::inet, %s::inet, %s)', *texts, length) == max(0, beyond - low)


@QUICK
@given(near_edges(4), near_edges(6))
def test_an_address_as_a_number(cursor: Any, v4: int, v6: int) -> None:
    assert ask(cursor, 'addr_number(%s::inet)', str(ipaddress.IPv4Address(v4))) == v4
    assert ask(cursor, 'addr_number(%s::inet)', str(ipaddress.IPv6Address(v6))) == v6


@QUICK
@given(networks())
def test_everything_around_a_network(cursor: Any, network: Network) -> None:
    expected = [str(network.supernet(new_prefix=length)) for length in range(network.prefixlen - 1, -1, -1)]
    assert ask(cursor, 'supernets(%s::inet) = %s::cidr[]', str(network), expected)


@pytest.mark.parametrize('family', [4, 6])
def test_fit_count_and_first_block_agree(cursor: Any, family: int) -> None:
    """Compare exhaustively: every range of the last 32 addresses of the address space, with every length."""
    address, _, bits = KINDS[family]
    end = (1 << bits) - 1
    cursor.execute(
        """
        WITH space AS (
            SELECT a, z, %s::inet + a AS low, %s::inet + z AS high, len
            FROM generate_series(0, 31) a, generate_series(a, 31) z, generate_series(%s, %s) len)
        SELECT a, z, len, host(first_block(low, high, len)), range_fit(low, high), count_blocks(low, high, len)
        FROM space
        """,
        (str(address(end - 31)), str(address(end - 31)), bits - 5, bits),
    )
    for a, z, length, first, fit, count in cursor.fetchall():
        size = 1 << (bits - length)
        starts = [n for n in range(a, z + 1) if n % size == 0 and n + size - 1 <= z]
        assert count == len(starts), (a, z, length)
        assert first == (str(address(end - 31 + starts[0])) if starts else None), (a, z, length)
        assert (fit <= length) == bool(starts), (a, z, length, fit)
