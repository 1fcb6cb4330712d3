"""One side of a comparison: the daemon of a revision with a database of its own, and a cheap client."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
import xmlrpc.client
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench.revisions import Program
from bench.sites import AUTH, Failed, Members, Site
from bench.upkeep import settle
from daemon_process import Daemon, free_port

START_TIMEOUT_S, STOP_TIMEOUT_S = 300, 120
REST_TIMEOUT_S = 300
REST_POLL_S = 1.0
REST_SHARE = 0.05  # of one processor: a daemon that uses no more is idle
UNAVAILABLE, UNAVAILABLE_TIMEOUT_S, UNAVAILABLE_POLL_S = 1010, 60, 0.5
WORKER = Path(__file__).resolve().parent / 'codec_worker.py'
_HEAD_END = b'\r\n\r\n'
_LAST_CHUNK = b'0\r\n\r\n'


class Refused(Exception):
    """A side does not know the call of a row, or answers it wrongly."""


# ------------------------------------------------------------------------------------------------ the client


class Caller(Site):
    """A site that is called over one connection, so by one handler, with as little work in the client as possible."""

    def __init__(self, url: str, siblings: int) -> None:
        super().__init__(url, siblings)
        self._socket: socket.socket | None = None

    def ask(self, method: str, members: Members) -> bytes:
        """Return the answer to an XML-RPC call."""
        return self.exchange(self.request(method, members))[1]

    def call(self, method: str, **members: Any) -> Any:
        """Return the value of an answer. Retry while PostgreSQL is unavailable, on a machine that is too busy."""
        deadline = time.monotonic() + UNAVAILABLE_TIMEOUT_S
        while True:
            try:
                return super().call(method, **members)
            except xmlrpc.client.Fault as fault:
                if fault.faultCode != UNAVAILABLE or time.monotonic() > deadline:
                    raise
                time.sleep(UNAVAILABLE_POLL_S)

    def request(self, method: str, members: Members) -> bytes:
        """Return the HTTP request of an XML-RPC call."""
        body = xmlrpc.client.dumps(({'auth': AUTH, **members},), method, allow_none=True)
        return self.http_request('POST', '/XMLRPC', 'text/xml', body.encode())

    def rest_request(self, verb: str, path: str, body: object = None) -> bytes:
        """Return the HTTP request of a REST call."""
        return self.http_request(verb, f'/api/v1{path}', 'application/json', json.dumps(body).encode() if body else b'')

    def http_request(self, verb: str, path: str, content_type: str, body: bytes) -> bytes:
        heads = {**self._headers, 'Host': 'localhost', 'Content-Type': content_type, 'Content-Length': len(body)}
        lines = [f'{verb} {path} HTTP/1.1', *(f'{name}: {value}' for name, value in heads.items()), '', '']
        return '\r\n'.join(lines).encode() + body

    def exchange(self, request: bytes) -> tuple[int, bytes]:
        """Send a request, read its answer to the last byte, and return the status and the body, unparsed."""
        connection = self._connected()
        connection.sendall(request)
        got = bytearray()
        while (end := got.find(_HEAD_END)) < 0:
            _receive(connection, got)
        head, body = bytes(got[:end]).lower(), end + len(_HEAD_END)
        _, found, length = head.partition(b'content-length:')
        if found:
            last = body + int(length.partition(b'\r')[0])
            while len(got) < last:
                _receive(connection, got)
        elif b'chunked' in head:
            while not got.endswith(_LAST_CHUNK, body):
                _receive(connection, got)
        return int(head.split(None, 2)[1]), bytes(got[body:])

    def another(self) -> Caller:
        """Return a site for another connection, with a copy of the ids and cursors of this site."""
        other = Caller(self.url, self.siblings)
        other._ids, other._cursors = dict(self._ids), dict(self._cursors)
        return other

    def close(self) -> None:
        """Close the connection. The next call opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connected(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.create_connection((self.http.host, self.http.port), timeout=self.http.timeout)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._socket


def _receive(connection: socket.socket, into: bytearray) -> None:
    got = connection.recv(1 << 18)
    if not got:
        raise ConnectionError('the daemon closed the connection in the middle of an answer')
    into += got


# ------------------------------------------------------------------------------------------------ processor time


def processes_of(pid: int) -> list[int]:
    """Return the ids of a process and all its descendants."""
    found, waiting = [], [pid]
    while waiting:
        found.append(waiting.pop())
        with contextlib.suppress(OSError):
            for task in Path('/proc', str(found[-1]), 'task').iterdir():
                waiting += map(int, (task / 'children').read_text().split())
    return found


def is_autovacuum(pid: int) -> bool:
    """Return whether a process is PostgreSQL's autovacuum, which works by its own schedule and not for a call."""
    with contextlib.suppress(OSError):
        return b'autovacuum' in Path('/proc', str(pid), 'cmdline').read_bytes()
    return False


def processor_ns(pids: Iterable[int]) -> dict[int, int]:
    """Return the processor time of each process in nanoseconds, as the kernel's clock of the process shows it."""
    found = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            found[pid] = time.clock_gettime_ns(~pid << 3 | 2)  # clock_getcpuclockid(3) of Linux
    return found


def used_s(before: Mapping[int, int], after: Mapping[int, int]) -> float:
    """Return the seconds of the processes that existed both before and after."""
    return sum(after[pid] - before[pid] for pid in before.keys() & after.keys()) / 1e9


# ------------------------------------------------------------------------------------------------ the daemon


class Side:
    """A revision to compare: its program, its daemon and its data."""

    def __init__(self, program: Program, home: Path, siblings: int) -> None:
        self.program, self.home = program, home
        self.name = program.name
        self.data_dir = home / 'data'
        self._siblings = siblings
        self._args = ['--config', '/dev/null', '--data-dir', str(self.data_dir), '--listen', '127.0.0.1']
        self._args += ['--port', str(free_port()), '--admin-port', 'off']
        self._daemon: Daemon | None = None
        self._site: Caller | None = None
        self.import_s = 0.0
        self.methods: frozenset[str] = frozenset()

    @property
    def daemon(self) -> Daemon:
        if self._daemon is None:
            raise Failed(f'{self.name}: the daemon does not run')
        return self._daemon

    @property
    def site(self) -> Caller:
        if self._site is None:
            raise Failed(f'{self.name}: the daemon has never run')
        return self._site

    def start(self) -> None:
        """Start the daemon, with processes and a connection that no earlier row has used."""
        self._daemon = Daemon(self._args, self.program.environment)
        self._daemon.python = str(self.program.python)
        self._daemon.start(START_TIMEOUT_S)
        if self._site is None:
            self._site = Caller(self._daemon.url(*self._daemon.admin()), self._siblings)
            self.methods = frozenset(self._site.call('system.listMethods'))

    def stop(self) -> None:
        """Stop all processes of this side."""
        if self._site:
            self._site.close()
        if self._daemon:
            daemon, self._daemon = self._daemon, None
            with contextlib.closing(daemon):
                daemon.stop(STOP_TIMEOUT_S)

    def fill(self, file: Path) -> None:
        """Import a file with this side's command, and wait until the database is at rest."""
        start = time.monotonic()
        self.command('nipap.cli.main', 'import', '--state', str(self.home / 'progress'), str(file))
        self.import_s = time.monotonic() - start
        self.site.make_pools()
        self.await_rest()
        settle(self.data_dir)

    def command(self, module: str, *args: str) -> str:
        """Run one of this side's commands, logged in at its daemon, and return its output."""
        address = urlsplit(self.site.url)
        return self.program.run(
            *('-m', module, *args),
            NIPAP_USERNAME=self.site.username,
            NIPAP_PASSWORD=self.site.password,
            NIPAP_HOST=str(address.hostname),
            NIPAP_PORT=str(address.port),
            HOME=str(self.home),
        )

    def maintain(self, *args: str) -> str:
        """Run a command of this side's nipap-admin."""
        place = ('--config', '/dev/null', '--data-dir', str(self.data_dir))
        return self.command('nipapd.maintenance', *args, *place)

    def await_rest(self) -> None:
        """Wait until the daemon is idle: after an import a process still numbers events."""
        deadline = time.monotonic() + REST_TIMEOUT_S
        before, start = processor_ns(self.processes()), time.monotonic()
        while time.monotonic() < deadline:
            time.sleep(REST_POLL_S)
            now = processor_ns(self.processes())
            if used_s(before, now) <= REST_SHARE * (time.monotonic() - start):
                return
            before, start = now, time.monotonic()
        raise Failed(f'{self.name}: the daemon is still busy {REST_TIMEOUT_S} s after an import')

    def processes(self) -> list[int]:
        """Return the processes of the daemon and its PostgreSQL, without autovacuum."""
        return [pid for pid in processes_of(self.daemon.pid) if not is_autovacuum(pid)]

    def handler_mb(self) -> float:
        """Return the resident memory of the daemon's largest process, PostgreSQL apart."""
        return max(map(_resident_mb, self.processes()))

    def counts(self) -> tuple[str, str]:
        """Return how many prefixes of each family are stored."""
        (vrf,) = self.site.call('list_vrf', vrf={'id': 0})
        return vrf['num_prefixes_v4'], vrf['num_prefixes_v6']


def _resident_mb(pid: int) -> float:
    with contextlib.suppress(OSError):
        if Path('/proc', str(pid), 'comm').read_text().strip() != 'postgres':
            return int(Path('/proc', str(pid), 'statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 1e6
    return 0


# ------------------------------------------------------------------------------------------------ code alone


class Worker:
    """A process that imports a side's code and times parts of it: `codec_worker.py`."""

    def __init__(self, program: Program) -> None:
        self._process = subprocess.Popen(
            [str(program.python), str(WORKER)],
            cwd='/',
            env=program.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def time(self, name: str) -> tuple[float, float]:
        """Run a part once and return the seconds and the seconds of processor time. Raises Refused if it is unknown."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f'{name}\n')
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline() or '{"problem": "the process has ended"}')
        if 'problem' in answer:
            raise Refused(answer['problem'])
        return answer['seconds'], answer['processor_seconds']

    def close(self) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()


@contextlib.contextmanager
def running(sides: Iterable[Side]) -> Iterator[None]:
    """Start the daemons of sides and stop them at the end."""
    with contextlib.ExitStack() as stack:
        for side in sides:
            stack.callback(side.stop)
            side.start()
        yield
