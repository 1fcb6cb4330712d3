"""The addresses that webhooks may be sent to."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient
from tornado.netutil import Resolver

from nipapd.targets import CheckedResolver, TargetRefusedError, Targets


@pytest.mark.parametrize(
    ('allow', 'deny', 'address', 'problem'),
    [
        ((), (), '192.0.2.1', None),
        ((), ('192.0.2.0/24',), '192.0.2.1', 'webhook_deny has 192.0.2.1'),
        ((), ('192.0.2.0/24',), '192.0.3.1', None),
        (('192.0.2.0/24',), (), '192.0.2.1', None),
        (('192.0.2.0/24',), (), '2001:db8::1', 'webhook_allow does not have 2001:db8::1'),
        (('192.0.0.0/16',), ('192.0.2.0/24',), '192.0.2.1', 'webhook_deny has 192.0.2.1'),
        (('192.0.2.0/24',), ('192.0.0.0/16',), '192.0.2.1', 'webhook_deny has 192.0.2.1'),
        ((), ('192.0.2.0/24',), '::ffff:192.0.2.1', 'webhook_deny has 192.0.2.1'),
        (('192.0.2.0/24',), (), '::ffff:192.0.2.1', None),
        ((), ('fe80::/10',), 'fe80::1%eth0', 'webhook_deny has fe80::1'),
    ],
)
def test_an_address_is_allowed_and_not_denied(
    allow: tuple[str, ...], deny: tuple[str, ...], address: str, problem: str | None
) -> None:
    targets = Targets(allow, deny)
    assert bool(targets) is bool(allow or deny)
    assert targets.problem(address) == problem


class Changing(Resolver):
    """A resolver that answers each look-up with the next list of addresses, as a hostile name server does."""

    def initialize(self, answers: list[list[str]]) -> None:
        self.answers = answers
        self.asked = 0

    def close(self) -> None:
        pass

    async def resolve(
        self, host: str, port: int, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[tuple[int, Any]]:
        self.asked += 1
        return [(socket.AF_INET, (address, port)) for address in self.answers.pop(0)]


def test_addresses_that_are_denied_are_left_out() -> None:
    async def found(*addresses: str) -> list[str]:
        resolver = CheckedResolver(Targets(deny=['127.0.0.0/8']), Changing([list(addresses)]))
        return [address[0] for _, address in await resolver.resolve('host.example', 80)]

    assert asyncio.run(found('192.0.2.1', '127.0.0.1', '192.0.2.2')) == ['192.0.2.1', '192.0.2.2']
    assert asyncio.run(found()) == []
    with pytest.raises(TargetRefusedError, match=r'^webhook_deny has 127\.0\.0\.1$'):
        asyncio.run(found('127.0.0.1', '127.0.0.2'))


def test_a_name_that_changes_its_address_gains_nothing() -> None:
    """A connection goes to the checked address. The next connection is checked again."""

    async def ask() -> tuple[int, list[str]]:
        came: list[str] = []

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            came.append(writer.get_extra_info('sockname')[0])
            await reader.readuntil(b'\r\n\r\n')
            writer.write(b'HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n')
            writer.close()

        server = await asyncio.start_server(answer, '0.0.0.0', 0)
        port = server.sockets[0].getsockname()[1]
        names = Changing([['127.0.0.1'], ['127.0.0.2']])
        client = AsyncHTTPClient(force_instance=True, resolver=CheckedResolver(Targets(deny=['127.0.0.2']), names))
        try:
            assert (await client.fetch(f'http://host.example:{port}/')).code == 204
            assert names.asked == 1
            with pytest.raises(TargetRefusedError):
                await client.fetch(f'http://host.example:{port}/')
        finally:
            client.close()
            server.close()
            await server.wait_closed()
        return names.asked, came

    assert asyncio.run(ask()) == (2, ['127.0.0.1'])
