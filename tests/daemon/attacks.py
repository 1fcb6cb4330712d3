"""A daemon under attack, and the calls of another user, which must stay fast."""

from __future__ import annotations

import base64
import contextlib
import http.client
import socket
import threading
import time
import xmlrpc.client
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from daemon_process import Daemon, poll
from test_admin import samples

from nipap import __version__
from nipap.access.local_users import LocalUser, LocalUsers

IN_TIME_S = 2.0
PATIENCE_S = 30.0  # on a busy machine
GUEST = ('mallory', 'a-password-to-attack-with')


class Site:
    """A daemon with an attacking user and a working user."""

    def __init__(self, daemon: Daemon, data_dir: Path) -> None:
        self.daemon = daemon
        parts = urlsplit(daemon.address)
        self.address = str(parts.hostname), int(parts.port or 0)
        LocalUsers(data_dir / 'local_auth.db').add(LocalUser(GUEST[0], 'Guest', readonly=True), GUEST[1])
        with self.connection() as connection:
            for credentials in (daemon.admin(), GUEST):  # from now on the daemon knows both
                assert self.call(connection, 'version', credentials=credentials) == __version__
        self.in_time_s = IN_TIME_S
        # On a busy machine a call takes long without any attack, too.
        self.in_time_s += 10 * self.work(4)

    # connections

    def connect(self, source: str = '127.0.0.1', receive: int | None = None) -> socket.socket:
        """Return a connection from an address of this host; `receive` sets the size of its receive buffer."""
        made = socket.socket()
        made.settimeout(PATIENCE_S)
        if receive is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        made.bind((source, 0))
        made.connect(self.address)
        return made

    @contextlib.contextmanager
    def connection(self) -> Iterator[http.client.HTTPConnection]:
        with contextlib.closing(http.client.HTTPConnection(*self.address, timeout=PATIENCE_S)) as made:
            yield made

    # requests

    def headers(self, credentials: tuple[str, str] | None = GUEST) -> dict[str, str]:
        if credentials is None:
            return {}
        return {'Authorization': 'Basic ' + base64.b64encode(':'.join(credentials).encode()).decode()}

    def head(self, *lines: str, target: str = 'POST /XMLRPC', credentials: tuple[str, str] | None = GUEST) -> bytes:
        named = [f'{name}: {value}' for name, value in self.headers(credentials).items()]
        return '\r\n'.join([f'{target} HTTP/1.1', 'Host: test', *named, *lines, '', '']).encode()

    def post(self, body: bytes, *lines: str, credentials: tuple[str, str] | None = GUEST) -> bytes:
        """Return a request over XML-RPC."""
        described = 'Content-Type: text/xml', f'Content-Length: {len(body)}'
        return self.head(*described, *lines, credentials=credentials) + body

    def call(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        credentials: tuple[str, str] | None = None,
        **members: object,
    ) -> Any:
        """Make a call of the working user, or of the user with the given credentials."""
        headers = {'Content-Type': 'text/xml', **self.headers(credentials or self.daemon.admin())}
        connection.request('POST', '/XMLRPC', body_of(method, **members), headers)
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == 200, (answer.status, content[:200])
        return xmlrpc.client.loads(content)[0][0]

    # expectations

    def work(self, calls: int = 12) -> float:
        """Make calls of the working user, on old and new connections in turns; return the time of the slowest call."""
        slowest = 0.0
        with self.connection() as kept:
            for number in range(calls):
                began = time.monotonic()
                with self.connection() as fresh:
                    connection = kept if number % 2 else fresh
                    method, members = (('version', {}), ('list_vrf', {'vrf': {'id': 0}}))[number // 2 % 2]
                    assert self.call(connection, method, **members)
                took = time.monotonic() - began
                assert took < self.in_time_s, (number, took, self.daemon.log()[-3000:])
                slowest = max(slowest, took)
        return slowest

    def reached(self, limit: str) -> float:
        """Return how often a limit was reached, according to the metrics."""
        return samples(self.daemon)[f'nipap_limits_reached_total limit={limit}']

    def await_reached(self, limit: str, user: str | None = GUEST[0], address: str = '127.0.0.1') -> None:
        """Wait until the metrics have counted a limit and the log has named the user who reached it."""
        named = f"user='{user}'" if user else 'user=-'
        poll(
            lambda: self.reached(limit) > 0, PATIENCE_S, lambda: f'{limit} is not reached\n{self.daemon.log()[-3000:]}'
        )
        lines = [line for line in self.daemon.log().splitlines() if f'limit {limit} reached' in line]
        assert any(f'{named} address={address}' in line for line in lines), lines


def body_of(method: str, **members: object) -> bytes:
    arguments = {'auth': {'authoritative_source': 'test'}, **members}
    return xmlrpc.client.dumps((arguments,), method, allow_none=True).encode()


@contextlib.contextmanager
def holding(open_one: Callable[[int], socket.socket], count: int) -> Iterator[list[socket.socket]]:
    """Keep `count` connections open during the block."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(open_one(number)) for number in range(count)]


@contextlib.contextmanager
def repeating(attack: Callable[[], object], threads: int) -> Iterator[None]:
    """Repeat an attack in threads during the block; the attack may be refused or cut off."""
    over = threading.Event()

    def repeat() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException):
                attack()

    running = [threading.Thread(target=repeat) for _ in range(threads)]
    for thread in running:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in running:
            thread.join()
