"""The address of a client behind trusted proxies."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# The forms of an address in headers: bare, with a port, or in brackets.
WRITTEN = re.compile(r'\[([0-9A-Fa-f:.]+)\](?::[0-9]+)?|([0-9.]+)(?::[0-9]+)?|([0-9A-Fa-f:.]+)')


class Proxies:
    """The networks of trusted proxies. Headers of all other peers are ignored."""

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self._networks: list[Network] = [ipaddress.ip_network(network) for network in networks]

    def __bool__(self) -> bool:
        return bool(self._networks)

    def client_of(self, peer: str, forwarded_for: str, forwarded: str = '') -> str:
        """Return the address of the client of a request that `peer` has sent.

        forwarded_for, forwarded: its headers ``X-Forwarded-For`` and ``Forwarded`` (RFC 7239). When both are present
        and differ, the proxy has not written both, and nothing tells which one is genuine. Then the peer is the client.
        """
        if not forwarded:
            return self._client_of(peer, forwarded_for.split(','))
        client = self._client_of(peer, map(_for, forwarded.split(',')))
        return client if not forwarded_for or client == self.client_of(peer, forwarded_for) else peer

    def _client_of(self, peer: str, addresses: Iterable[str]) -> str:
        """Return the address of a client. Each proxy appends the address of its own peer.

        So the list is read from its end while the address is a trusted proxy's. Earlier entries come from untrusted
        parties.
        """
        client = peer
        for written in reversed([*addresses]):
            if not self._trusts(client):
                break
            address = _read(written.strip())
            if address is None:
                break
            client = str(address)
        return client

    def _trusts(self, text: str) -> bool:
        address = _read(text.partition('%')[0])
        return address is not None and any(address in network for network in self._networks)


def _for(element: str) -> str:
    """Return the address in an element of ``Forwarded``, as written; '' without one."""
    for pair in element.split(';'):
        name, _, value = pair.partition('=')
        if name.strip().lower() == 'for':
            return value.strip().strip('"')
    return ''


def _read(written: str) -> Address | None:
    found = WRITTEN.fullmatch(written)
    if found is None:
        return None
    try:
        address = ipaddress.ip_address(found[1] or found[2] or found[3])
    except ValueError:
        return None
    return getattr(address, 'ipv4_mapped', None) or address
