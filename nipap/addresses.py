"""Parsers of networks, route targets and MAC addresses as people write them. All of them are pure functions."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Mapping
from typing import NamedTuple

import IPy

from nipap.errors import NipapValueError

WIDTH = {4: 32, 6: 128}

# IPy accepts more than addresses ('10', '0x0a000000', '1-2'), so it gets only text of one of these shapes.
_V4 = re.compile(r'(?:(?:0|[1-9][0-9]{0,2})\.){3}(?:0|[1-9][0-9]{0,2})')
_V6 = re.compile(r'[0-9a-fA-F]*:[0-9a-fA-F:]*(?::[0-9]{1,3}(?:\.[0-9]{1,3}){3})?')
_MAC = re.compile(
    r'[0-9a-f]{12}|[0-9a-f]{2}([-:.])(?:[0-9a-f]{2}\1){4}[0-9a-f]{2}'
    r'|[0-9a-f]{4}([-:.])[0-9a-f]{4}\2[0-9a-f]{4}|[0-9a-f]{6}[-:][0-9a-f]{6}',
    re.IGNORECASE | re.ASCII,
)
_V4_BEGINNING = re.compile(r'[0-9]{1,3}\.|[0-9]{1,3}(?:\.[0-9]{1,3}){1,2}\.?')
_V6_BEGINNING = re.compile('[0-9a-fA-F]{1,4}:|[0-9a-fA-F]{1,4}(?::[0-9a-fA-F]{1,4}){1,6}:?')
_LENGTH = re.compile(r'[0-9]{1,3}')
_RT_NUMBER = re.compile(r'[0-9]{1,20}')
_RT_HELP = 'Invalid input for column rt, should be ASN:id (123:456) or IP:id (1.3.3.7:456)'


class Network(NamedTuple):
    """A network: its text (`address/length`), family and prefix length."""

    text: str
    family: int
    length: int


def parse_network(value: object) -> Network:
    """Parse an address or a network in CIDR notation (RFC 4632, RFC 4291).

    An address without a prefix length is a full-length network.

    :raises NipapValueError: for any other value, and for host bits to the right of the mask.
    """
    text = value.strip() if isinstance(value, str) else ''
    address, slash, length_text = text.partition('/')
    if slash and not _LENGTH.fullmatch(length_text):
        raise NipapValueError(f'Invalid syntax for prefix ({_shown(value)})')
    try:
        # Half of all calls name an IPv4 network. Its address has the stored form already.
        if _V4.fullmatch(address):
            family, number, written = 4, int.from_bytes(map(int, address.split('.'))), address
        elif _V6.fullmatch(address):
            family, number, written = 6, *_read_v6(address)
        else:
            raise NipapValueError(f'Invalid syntax for prefix ({_shown(value)})')
    except ValueError:
        raise NipapValueError(f'Invalid syntax for prefix ({text})') from None
    width = WIDTH[family]
    length = int(length_text) if slash else width
    if length > width:
        raise NipapValueError(f'Invalid syntax for prefix ({text})')
    network = number >> (width - length) << (width - length)
    if network != number:
        fix = f'{IPy.IP(network, ipversion=family).strCompressed()}/{length}'
        raise NipapValueError(
            f'Invalid prefix ({text}); bits set to right of mask. Network address for current mask: {fix}'
        )
    return Network(f'{written}/{length}', family, length)


def has_host_bits(value: object) -> bool:
    """Return whether a value is an address with a prefix length that has bits set to the right of its mask."""
    address, slash, length = (value if isinstance(value, str) else '').strip().partition('/')
    if not slash or not _LENGTH.fullmatch(length):
        return False
    with contextlib.suppress(NipapValueError):
        if int(length) <= parse_network(address).length:
            try:
                parse_network(value)
            except NipapValueError:
                return True
    return False


def _read_v6(address: str) -> tuple[int, str]:
    """Parse an IPv6 address; return its number and its text (RFC 5952).

    The C library needs a thirtieth of IPy's time. IPy takes over for forms that the C library does not read, and for
    addresses that the C library writes with an IPv4 address at the end.

    :raises ValueError: the text is no IPv6 address.
    """
    with contextlib.suppress(OSError):
        packed = socket.inet_pton(socket.AF_INET6, address)
        written = socket.inet_ntop(socket.AF_INET6, packed)
        if '.' not in written:
            return int.from_bytes(packed), written
    ip = IPy.IP(address)
    return ip.int(), ip.strCompressed()


def first_address(network: str) -> int:
    """Return the first address of a network as a number. network: the network as PostgreSQL writes it."""
    address = network.partition('/')[0]
    return int.from_bytes(socket.inet_pton(socket.AF_INET6 if ':' in address else socket.AF_INET, address))


def parse_route_target(value: object) -> tuple[str, int]:
    """Parse a route target, `ASN:n` or `a.b.c.d:n`, each number 0 to 4294967295.

    Return its text without leading zeros, and its rank: administrator * 2^32 + n.

    :raises NipapValueError: for any other value.
    """
    administrator, colon, number_text = (value if isinstance(value, str) else '').strip().partition(':')
    if not colon or not _RT_NUMBER.fullmatch(number_text):
        raise NipapValueError(_RT_HELP)
    number = int(number_text)
    if _V4.fullmatch(administrator):
        try:
            first = IPy.IP(administrator).int()
        except ValueError:
            raise NipapValueError(_RT_HELP) from None
        name = administrator
    elif _RT_NUMBER.fullmatch(administrator):
        first = int(administrator)
        name = str(first)
    else:
        raise NipapValueError(_RT_HELP)
    if first > 0xFFFFFFFF or number > 0xFFFFFFFF:
        raise NipapValueError(_RT_HELP)
    return f'{name}:{number}', first << 32 | number


def read_mac(text: str) -> str | None:
    """Return the twelve digits of a MAC address in any notation, in lower case; None for any other text."""
    return re.sub('[-:.]', '', text).lower() if _MAC.fullmatch(text) else None


def mac_pattern(digits: str) -> str:
    """Return a regular expression that matches a MAC address in all notations. digits: its twelve digits."""
    forms = [digits]
    for signs, width in ((':-.', 2), ('.-:', 4), ('-:', 6)):
        parts = [digits[n : n + width] for n in range(0, 12, width)]
        forms += [f'[{sign}]'.join(parts) if sign == '.' else sign.join(parts) for sign in signs]
    return f'({"|".join(forms)})'


def read_beginning(word: str) -> str | None:
    """Return the network of all addresses that begin with a text such as ``10.4.``, ``198.51`` or ``2001:db8:11``.

    Return None for a text that begins no address.
    """
    sign = ':' if ':' in word else '.'
    parts = word.removesuffix(sign).split(sign)
    if not (_V6_BEGINNING if sign == ':' else _V4_BEGINNING).fullmatch(word):
        return None
    rest = '::' if sign == ':' else '.0' * (4 - len(parts))
    with contextlib.suppress(NipapValueError):
        return parse_network(f'{sign.join(parts)}{rest}/{len(parts) * (16 if sign == ":" else 8)}').text
    return None


def _shown(value: object) -> str:
    """Return a value of the client's for an error message, cut after 100 characters."""
    if isinstance(value, Mapping):
        return 'a struct'
    if isinstance(value, list | tuple):
        return 'an array'
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 100 else text[:100] + '…'
