"""Calls to a daemon, and the processes of a daemon."""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import ssl
import xmlrpc.client
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon_process import HANDLER, Daemon, Process, poll

from nipap import __version__

as_root = pytest.mark.skipif(os.geteuid() != 0, reason='only root can become another account')

# Without a database of its own a daemon starts in a fraction of the time; most tests work with either database.
Configured = Callable[..., Daemon]

# Runs a program at a terminal of its own, and copies the output of the terminal.
AT_TERMINAL = """
import os, pty, signal, sys
child, terminal = pty.fork()
if child == 0:
    os.execv(sys.argv[1], sys.argv[1:])
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, _: os.kill(child, number))
while True:
    try:
        os.write(1, os.read(terminal, 65536).replace(b'\\r\\n', b'\\n'))
    except OSError:
        break
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


class Client:
    """Calls over one connection, with the credentials of the first user."""

    def __init__(self, daemon: Daemon, context: ssl.SSLContext | None = None, url: str | None = None) -> None:
        user, password = daemon.admin()
        address = url or daemon.address
        address = address.replace('://', f'://{user}:{password}@', 1)
        self._proxy = xmlrpc.client.ServerProxy(f'{address}/XMLRPC', allow_none=True, context=context)

    def __call__(self, method: str, **members: object) -> Any:
        arguments = {'auth': {'authoritative_source': 'test'}, **members}
        return getattr(self._proxy, method)(arguments)

    def close(self) -> None:
        self._proxy('close')()


@contextlib.contextmanager
def client(daemon: Daemon, context: ssl.SSLContext | None = None, url: str | None = None) -> Iterator[Client]:
    made = Client(daemon, context, url)
    try:
        yield made
    finally:
        made.close()


def call(daemon: Daemon, method: str, **members: object) -> Any:
    with client(daemon) as ask:
        return ask(method, **members)


def answers(daemon: Daemon) -> bool:
    try:
        return bool(call(daemon, 'version') == __version__ and call(daemon, 'list_vrf', vrf={'id': 0}))
    except (OSError, http.client.HTTPException, xmlrpc.client.Error):
        return False


class Connection:
    """One HTTP connection, with separate methods to send a request and to read its answer."""

    def __init__(self, daemon: Daemon) -> None:
        user, password = daemon.admin()
        self._credentials = base64.b64encode(f'{user}:{password}'.encode()).decode()
        self._port = int(daemon.address.rpartition(':')[2])
        self._http = http.client.HTTPConnection('127.0.0.1', self._port, timeout=30)

    def send(self, method: str, **members: object) -> None:
        arguments = {'auth': {'authoritative_source': 'test'}, **members}
        body = xmlrpc.client.dumps((arguments,), method, allow_none=True)
        headers = {'Authorization': f'Basic {self._credentials}', 'Content-Type': 'text/xml'}
        self._http.request('POST', '/XMLRPC', body, headers)

    def response(self) -> http.client.HTTPResponse:
        return self._http.getresponse()

    def result(self) -> Any:
        (value,), _ = xmlrpc.client.loads(self.response().read())
        return value

    def call(self, method: str, **members: object) -> Any:
        self.send(method, **members)
        return self.result()

    def was_read(self) -> bool:
        """Return whether the server has read everything that was sent: the request runs, or is about to run."""
        mine = f'{self._http.sock.getsockname()[1]:04X}'
        for line in Path('/proc/net/tcp').read_text().splitlines()[1:]:
            _, local, remote, state, queues, *_ = line.split()
            if local.endswith(f':{self._port:04X}') and remote.endswith(f':{mine}') and state == '01':
                return queues.split(':')[1] == '00000000'
        return False

    def close(self) -> None:
        self._http.close()


@contextlib.contextmanager
def connections(daemon: Daemon, count: int = 1) -> Iterator[list[Connection]]:
    """Yield connections that are known to a handler: each has made a call."""
    made = [Connection(daemon) for _ in range(count)]
    try:
        for connection in made:
            assert connection.call('version') == __version__
        yield made
    finally:
        for connection in made:
            connection.close()


def handlers(daemon: Daemon) -> list[Process]:
    return [process for process in daemon.children() if process.command == HANDLER]


def postgres(daemon: Daemon) -> Process:
    """Return the first process of the private PostgreSQL of a daemon."""
    return next(process for process in daemon.children() if process.command == 'postgres')


def await_that(condition: Callable[[], object], what: str, timeout_s: float = 40) -> None:
    poll(condition, timeout_s, lambda: f'in {timeout_s} s not: {what}')


def user_id(process: Process) -> int:
    return os.stat(f'/proc/{process.pid}').st_uid
