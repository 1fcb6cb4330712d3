"""Clients that call all the time and accept no refused connection, no broken connection and no fault."""

from __future__ import annotations

import base64
import contextlib
import http.client
import ssl
import threading
import xmlrpc.client
from collections.abc import Iterator, Sequence
from configparser import RawConfigParser
from pathlib import Path
from urllib.parse import urlsplit

from daemon_process import HANDLER, Daemon, Process, poll


class Caller(threading.Thread):
    """Calls over one connection as long as the server keeps it, or over a new connection each time; never retries.

    tls: the port for TLS, and the certificate to trust.
    """

    def __init__(
        self, daemon: Daemon, keep: bool, credentials: tuple[str, str], tls: tuple[int, Path] | None = None
    ) -> None:
        super().__init__()
        self.calls = 0
        self.problem: BaseException | None = None
        self._keep = keep
        self._done = threading.Event()
        self._address = urlsplit(daemon.address).netloc
        self._tls = tls
        user = base64.b64encode(':'.join(credentials).encode()).decode()
        self._headers = {'Authorization': f'Basic {user}', 'Content-Type': 'text/xml'}

    def run(self) -> None:
        connection = self._connection()
        try:
            while not self._done.wait(0.005):
                self._call(connection)
                if not self._keep:
                    connection.close()
        except BaseException as problem:
            self.problem = problem
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection(self._address, timeout=40)
        port, certificate = self._tls
        trusting = ssl.create_default_context(cafile=certificate)
        return http.client.HTTPSConnection('127.0.0.1', port, timeout=40, context=trusting)

    def _ask(self, connection: http.client.HTTPConnection, method: str, **members: object) -> bytes:
        """Return the body of an answer."""
        arguments = {'auth': {'authoritative_source': 'test'}, **members}
        connection.request('POST', '/XMLRPC', xmlrpc.client.dumps((arguments,), method), self._headers)
        return connection.getresponse().read()

    def _call(self, connection: http.client.HTTPConnection) -> None:
        (answer,), _ = xmlrpc.client.loads(self._ask(connection, 'echo', message=str(self.calls)))
        if answer != str(self.calls):
            raise AssertionError(f'{answer!r} is no echo of {self.calls}')
        self.calls += 1

    def end(self) -> None:
        self._done.set()
        self.join()


class Changer(Caller):
    """Adds a host in `network`, a /16, and reads all prefixes, in place of an echo."""

    network = '10.0'

    def _call(self, connection: http.client.HTTPConnection) -> None:
        prefix = f'{self.network}.{self.calls >> 8}.{self.calls & 255}/32'
        attr = {'prefix': prefix, 'type': 'assignment', 'description': 'added'}
        for answer in (self._ask(connection, 'add_prefix', attr=attr), self._ask(connection, 'list_prefix')):
            if f'<string>{prefix}</string>'.encode() not in answer:
                raise AssertionError(f'{prefix} is not in {answer[:1000]!r}')
        self.calls += 1


@contextlib.contextmanager
def calling(
    daemon: Daemon, credentials: tuple[str, str] | None = None, others: Sequence[Caller] = ()
) -> Iterator[list[Caller]]:
    """Run clients of both kinds, and others, during the block; every call of theirs must succeed."""
    callers = [Caller(daemon, keep, credentials or daemon.admin()) for keep in (True, False, True, False)]
    callers += others
    for caller in callers:
        caller.start()
    try:
        await_calls(callers)
        yield callers
        await_calls(callers)
    finally:
        for caller in callers:
            caller.end()
    assert [caller.problem for caller in callers] == [None] * len(callers)


def await_calls(callers: list[Caller], more: int = 10) -> None:
    """Wait until each client has had `more` answers, or a client has failed."""
    aims = [caller.calls + more for caller in callers]

    def reached() -> bool:
        enough = all(caller.calls >= aim for caller, aim in zip(callers, aims, strict=True))
        return enough or any(caller.problem for caller in callers)

    poll(reached, 60, lambda: f'{[caller.calls for caller in callers]} calls')


def handlers(daemon: Daemon) -> set[Process]:
    return {process for process in daemon.children() if process.command == HANDLER}


def change(daemon: Daemon, **settings: str) -> None:
    """Write values of [nipapd] into the configuration file of a daemon."""
    path = Path(daemon.args[daemon.args.index('-c') + 1])
    parser = RawConfigParser()
    parser.read(path)
    parser['nipapd'].update(settings)
    with open(path, 'w') as file:
        parser.write(file)
