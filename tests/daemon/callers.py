"""Clients that call all the time and forgive nothing: no refused connection, no broken one, no fault."""

from __future__ import annotations

import base64
import contextlib
import http.client
import threading
import xmlrpc.client
from collections.abc import Iterator
from configparser import RawConfigParser
from pathlib import Path
from urllib.parse import urlsplit

from daemon_process import Daemon, Process, poll


class Caller(threading.Thread):
    """Calls over one connection as long as the server keeps it, or over a new one each time; never tries again."""

    def __init__(self, daemon: Daemon, keep: bool, credentials: tuple[str, str]) -> None:
        super().__init__()
        self.calls = 0
        self.problem: BaseException | None = None
        self._keep = keep
        self._done = threading.Event()
        self._address = urlsplit(daemon.address).netloc
        user = base64.b64encode(':'.join(credentials).encode()).decode()
        self._headers = {'Authorization': f'Basic {user}', 'Content-Type': 'text/xml'}

    def run(self) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=40)
        try:
            while not self._done.wait(0.005):
                self._call(connection)
                if not self._keep:
                    connection.close()
        except BaseException as problem:
            self.problem = problem
        finally:
            connection.close()

    def _call(self, connection: http.client.HTTPConnection) -> None:
        arguments = {'auth': {'authoritative_source': 'test'}, 'message': str(self.calls)}
        connection.request('POST', '/XMLRPC', xmlrpc.client.dumps((arguments,), 'echo'), self._headers)
        (answer,), _ = xmlrpc.client.loads(connection.getresponse().read())
        if answer != str(self.calls):
            raise AssertionError(f'{answer!r} is no echo of {self.calls}')
        self.calls += 1

    def end(self) -> None:
        self._done.set()
        self.join()


@contextlib.contextmanager
def calling(daemon: Daemon, credentials: tuple[str, str] | None = None) -> Iterator[list[Caller]]:
    """Clients of both kinds that call meanwhile; every call of theirs must succeed."""
    callers = [Caller(daemon, keep, credentials or daemon.admin()) for keep in (True, False, True, False)]
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
    """Until each has had some more answers, or something has gone wrong."""
    aims = [caller.calls + more for caller in callers]

    def reached() -> bool:
        enough = all(caller.calls >= aim for caller, aim in zip(callers, aims, strict=True))
        return enough or any(caller.problem for caller in callers)

    poll(reached, 60, lambda: f'{[caller.calls for caller in callers]} calls')


def handlers(daemon: Daemon) -> set[Process]:
    return {process for process in daemon.children() if process.command.startswith('python')}


def change(daemon: Daemon, **settings: str) -> None:
    """Write values of [nipapd] into the file that the daemon was started with."""
    path = Path(daemon.args[daemon.args.index('-c') + 1])
    parser = RawConfigParser()
    parser.read(path)
    parser['nipapd'].update(settings)
    with open(path, 'w') as file:
        parser.write(file)
