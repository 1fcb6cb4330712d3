"""The addresses that webhooks may be sent to."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from typing import Any

from tornado.netutil import Resolver

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class TargetRefusedError(OSError):
    """All addresses of a host are refused. The text names one, and the reason."""


class Targets:
    """The networks that are allowed (none: all) and denied. Denied networks take precedence."""

    def __init__(self, allow: Iterable[str] = (), deny: Iterable[str] = ()) -> None:
        self._allow: list[Network] = [ipaddress.ip_network(network) for network in allow]
        self._deny: list[Network] = [ipaddress.ip_network(network) for network in deny]

    def __bool__(self) -> bool:
        return bool(self._allow or self._deny)

    def problem(self, text: str) -> str | None:
        """Return why an address may not be connected to; None when it may.

        An IPv4 address inside IPv6 (::ffff:192.0.2.1) counts as that IPv4 address.
        """
        address = ipaddress.ip_address(text.partition('%')[0])
        address = getattr(address, 'ipv4_mapped', None) or address
        if any(address in network for network in self._deny):
            return f'webhook_deny has {address}'
        if self._allow and not any(address in network for network in self._allow):
            return f'webhook_allow does not have {address}'
        return None


class CheckedResolver(Resolver):
    """Looks up hosts for connections, and leaves out addresses that are not allowed.

    A connection goes to one of the returned addresses without another look-up. So a name that changes its address later
    does not get around the check. Hosts that are written as addresses are looked up as well.
    """

    def initialize(self, targets: Targets, resolver: Resolver | None = None) -> None:
        self._targets = targets
        self._resolver = resolver or Resolver()

    def close(self) -> None:
        self._resolver.close()

    async def resolve(
        self, host: str, port: int, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[tuple[int, Any]]:
        """Return the allowed addresses of a host.

        :raises TargetRefusedError: all its addresses are refused.
        """
        found = await self._resolver.resolve(host, port, family)
        problems = [self._targets.problem(address[0]) for _, address in found]
        allowed = [item for item, problem in zip(found, problems, strict=True) if problem is None]
        if found and not allowed:
            raise TargetRefusedError(problems[0])
        return allowed
