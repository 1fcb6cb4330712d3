"""The client address of a request through proxies: never an address that only the client claims."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nipapd.proxies import Proxies

PROXIES = Proxies(['127.0.0.1/32', '10.0.0.0/8', '2001:db8:1::/64'])


@pytest.mark.parametrize(
    ('peer', 'forwarded', 'client'),
    [
        ('127.0.0.1', '', '127.0.0.1'),
        ('127.0.0.1', '192.0.2.7', '192.0.2.7'),
        ('127.0.0.1', ' 192.0.2.7 ', '192.0.2.7'),
        ('127.0.0.1', '198.51.100.1, 192.0.2.7', '192.0.2.7'),  # the first address is a claim of 192.0.2.7
        ('127.0.0.1', '192.0.2.7, 10.1.2.3', '192.0.2.7'),  # through two proxies
        ('127.0.0.1', '10.9.9.9, 10.1.2.3', '10.9.9.9'),  # a client in the network of the proxies
        ('192.0.2.9', '192.0.2.7', '192.0.2.9'),  # this peer is not one of our proxies
        ('127.0.0.1', '192.0.2.7:4711', '192.0.2.7'),
        ('127.0.0.1', '[2001:db8::7]:4711', '2001:db8::7'),
        ('127.0.0.1', '2001:db8::7', '2001:db8::7'),
        ('2001:db8:1::1', '192.0.2.7', '192.0.2.7'),
        ('::ffff:127.0.0.1', '192.0.2.7', '192.0.2.7'),
        ('127.0.0.1', '::ffff:192.0.2.7', '192.0.2.7'),
        ('127.0.0.1', 'unknown', '127.0.0.1'),
        ('127.0.0.1', '192.0.2.7, unknown', '127.0.0.1'),
        ('127.0.0.1', '192.0.2.7,', '127.0.0.1'),
        ('127.0.0.1', '192.0.2.777', '127.0.0.1'),
        ('127.0.0.1', '192.0.2.7\r\nX: y', '127.0.0.1'),
        ('fe80::1%eth0', '192.0.2.7', 'fe80::1%eth0'),
    ],
)
def test_the_client(peer: str, forwarded: str, client: str) -> None:
    assert PROXIES.client_of(peer, forwarded) == client


@pytest.mark.parametrize(
    ('forwarded_for', 'forwarded', 'client'),
    [
        ('', 'for=192.0.2.7', '192.0.2.7'),
        ('', 'For="192.0.2.7:4711";proto=https;by=10.0.0.1', '192.0.2.7'),
        ('', 'proto=https; for="[2001:db8::7]:4711"', '2001:db8::7'),
        ('', 'for=198.51.100.1, for=192.0.2.7', '192.0.2.7'),  # the first address is a claim of 192.0.2.7
        ('', 'for=192.0.2.7, for=10.1.2.3', '192.0.2.7'),  # through two proxies
        ('', 'for=_hidden', '127.0.0.1'),
        ('', 'for=unknown', '127.0.0.1'),
        ('', 'proto=https', '127.0.0.1'),
        ('192.0.2.7', 'for=192.0.2.7', '192.0.2.7'),
        ('192.0.2.7', 'for=198.51.100.1', '127.0.0.1'),  # the client has sent one of the headers itself
    ],
)
def test_the_client_by_the_standard_header(forwarded_for: str, forwarded: str, client: str) -> None:
    assert PROXIES.client_of('127.0.0.1', forwarded_for, forwarded) == client


def test_the_standard_header_means_nothing_from_others() -> None:
    assert PROXIES.client_of('192.0.2.9', '', 'for=192.0.2.7') == '192.0.2.9'


def test_nobody_is_believed_unless_configured() -> None:
    assert not Proxies()
    assert Proxies().client_of('127.0.0.1', '192.0.2.7') == '127.0.0.1'


@given(claimed=st.lists(st.one_of(st.ip_addresses().map(str), st.text(max_size=20)), max_size=5))
def test_claims_of_a_client_do_not_matter(claimed: list[str]) -> None:
    forwarded = ','.join([*claimed, '192.0.2.7'])
    assert PROXIES.client_of('127.0.0.1', forwarded) == '192.0.2.7'
    assert PROXIES.client_of('192.0.2.7', ','.join(claimed)) == '192.0.2.7'
