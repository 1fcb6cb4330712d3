"""The blows of the long run.

They hit the daemon, its handlers and PostgreSQL's processes, which are found anew before every blow.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
from daemon_process import HANDLER, Daemon, DaemonError, free_port, poll

START_TIMEOUT_S = STOP_TIMEOUT_S = 120
ATTEMPTS = 3
MOST_OF_TRACEBACK = 6000  # characters
PAGE = resource.getpagesize()


class Site:
    """A daemon with a data directory of its own, which is started again after it was killed."""

    def __init__(self, data_dir: Path, forks: int) -> None:
        self.data_dir = data_dir
        self.problems: list[str] = []
        config = data_dir.parent / 'nipap.conf'
        config.write_text(f'[nipapd]\nforks = {forks}\n')
        place = ['--config', str(config), '--data-dir', str(data_dir), '--listen', '127.0.0.1']
        self._args = [*place, '--port', str(free_port())]
        self.daemons = [Daemon(self._args)]
        self.daemon.start()
        self.url = self.daemon.url(*self.daemon.admin())

    @property
    def daemon(self) -> Daemon:
        return self.daemons[-1]

    def start_again(self) -> None:
        """Start another daemon at the same place and wait until it is ready.

        A failed start is a problem.
        """
        for attempts_left in reversed(range(ATTEMPTS)):
            self.daemons.append(Daemon(self._args))
            try:
                self.daemon.start(START_TIMEOUT_S)
                return
            except DaemonError as error:
                self.problems.append(f'a start of the daemon failed: {str(error)[-1000:]}')
                if not attempts_left:
                    raise

    def log(self) -> str:
        """Return the output of all daemons and the log of PostgreSQL."""
        parts = [daemon.log() for daemon in self.daemons]
        with contextlib.suppress(FileNotFoundError):
            parts.append((self.data_dir / 'postgresql.log').read_text(errors='replace'))
        return '\n'.join(parts)

    def close(self) -> None:
        """Stop all processes and remove everything.

        A process that had to be killed is a problem, and so is every traceback in the log.
        """
        self._try(lambda: self.daemon.stop(STOP_TIMEOUT_S))
        self.problems += [f'a traceback in the log: {one}' for one in tracebacks(self.log())]
        for daemon in self.daemons:
            self._try(daemon.close)

    def _try(self, end: Callable[[], object]) -> None:
        try:
            end()
        except DaemonError as error:
            self.problems.append(f'an end had to be forced: {str(error)[:300]}')

    # ------------------------------------------------------------------------------------------ the processes

    def handlers(self) -> list[int]:
        """Return the request handlers, also those that are not ready yet."""
        return [pid for pid, line in children(self.daemon.pid) if line.split()[1].startswith(('python', HANDLER))]

    def postmaster(self) -> int | None:
        lines = self._postmaster_file()
        return int(lines[0]) if lines else None

    def backends(self) -> list[int]:
        """Return PostgreSQL's processes that serve our handlers."""
        pid = self.postmaster()
        return [] if pid is None else [child for child, args in children(pid) if ' nipap ' in args]

    def dsn(self) -> str:
        """Return a DSN of the database for its owner."""
        lines = self._postmaster_file()
        if len(lines) < 5:
            raise FileNotFoundError('PostgreSQL does not run')
        return f'host={lines[4]} port={lines[3]} user=postgres dbname=nipap'

    def _postmaster_file(self) -> list[str]:
        try:
            return (self.data_dir / 'data' / 'postmaster.pid').read_text().splitlines()
        except FileNotFoundError:
            return []


def tracebacks(log: str) -> list[str]:
    """Return the text after each beginning of a traceback, up to MOST_OF_TRACEBACK characters."""
    return [part[:MOST_OF_TRACEBACK] for part in log.split('Traceback (most recent call last):')[1:]]


def children(pid: int) -> list[tuple[int, str]]:
    """Return the children of a process, each with a line of its number, name and command."""
    listed = subprocess.run(['ps', '-o', 'pid=,comm=,args=', '--ppid', str(pid)], capture_output=True, text=True).stdout
    return [(int(line.split()[0]), line) for line in listed.splitlines()]


# The number of blows of each kind in a round.
DECK = Counter(
    {
        'handler KILL': 3,
        'handler TERM': 2,
        'handler STOP': 2,
        'session terminated': 3,
        'session KILL': 2,
        'PostgreSQL KILL': 1,
        'daemon HUP': 2,
        'daemon KILL': 1,
    }
)


class Chaos:
    """Blows in random order: each kind once, then round after round."""

    def __init__(self, site: Site, seed: int) -> None:
        self.site = site
        self.random = random.Random(seed)
        self.dealt: Counter[str] = Counter()
        self.stopped: dict[int, float] = {}  # stopped handlers, and the time to continue each
        self._deck: list[str] = []

    def strike(self) -> str | None:
        """Deal the next blow. Return its name, or None when there is nothing to hit at the moment."""
        if not self._deck:
            self._deck = list(DECK.elements() if self.dealt else DECK)
            self.random.shuffle(self._deck)
        name = self._deck[-1]
        try:
            done = self._blows()[name]()
        except (ProcessLookupError, FileNotFoundError, psycopg2.Error):  # the target is gone already
            done = False
        if not done:
            return None
        self.dealt[self._deck.pop()] += 1
        return name

    def wake(self, everybody: bool = False) -> bool:
        """Continue stopped handlers whose time is over, or all. Return whether there were any."""
        due = [pid for pid, until in self.stopped.items() if everybody or time.monotonic() >= until]
        for pid in due:
            del self.stopped[pid]
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        return bool(due)

    def _blows(self) -> dict[str, Callable[[], bool]]:
        site = self.site
        return {
            'handler KILL': lambda: self._signal_one(site.handlers(), signal.SIGKILL),
            'handler TERM': lambda: self._signal_one(site.handlers(), signal.SIGTERM),
            'handler STOP': self._stop_handler,
            'session terminated': self._terminate,
            'session KILL': lambda: self._signal_one(site.backends(), signal.SIGKILL),
            'PostgreSQL KILL': lambda: self._signal_one([pid for pid in [site.postmaster()] if pid], signal.SIGKILL),
            'daemon HUP': self._hang_up,
            'daemon KILL': self._kill_daemon,
        }

    def _signal_one(self, pids: list[int], number: signal.Signals) -> bool:
        if pids:
            os.kill(self.random.choice(pids), number)
        return bool(pids)

    def _stop_handler(self) -> bool:
        pids = self.site.handlers()
        if pids:
            pid = self.random.choice(pids)
            os.kill(pid, signal.SIGSTOP)
            self.stopped[pid] = time.monotonic() + self.random.uniform(0.3, 3)
        return bool(pids)

    def _terminate(self) -> bool:
        pids = self.site.backends()
        if not pids:
            return False
        connection = psycopg2.connect(self.site.dsn(), connect_timeout=5)
        try:
            with connection.cursor() as cursor:
                cursor.execute('SELECT pg_terminate_backend(%s)', (self.random.choice(pids),))
                return bool(cursor.fetchall()[0][0])
        finally:
            connection.close()

    def _hang_up(self) -> bool:
        self.site.daemon.send(signal.SIGHUP)
        return True

    def _kill_daemon(self) -> bool:
        self.wake(everybody=True)  # a stopped handler would hold a port for a while
        killed = self.site.daemon
        killed.kill()
        # A service manager starts a service again when all its processes have ended.
        poll(lambda: all(each.command == 'postgres' for each in killed.children()), START_TIMEOUT_S, killed.log)
        self.site.start_again()
        return True


@dataclass(frozen=True)
class Sample:
    """One process at one moment."""

    at: float
    role: str
    pid: int
    resident_mb: float
    descriptors: int
    answered: int


def samples(site: Site, answered: int) -> Iterator[Sample]:
    """Yield samples of the daemon and its handlers."""
    at = time.monotonic()
    for role, pid in (('daemon', site.daemon.pid), *(('handler', pid) for pid in site.handlers())):
        with contextlib.suppress(OSError, IndexError):  # the process has just ended
            pages = int(Path(f'/proc/{pid}/statm').read_text().split()[1])
            count = len(os.listdir(f'/proc/{pid}/fd'))
            yield Sample(at, role, pid, pages * PAGE / 1e6, count, answered)


def stored(dsn: str) -> dict[tuple[str, int], dict[str, Any]]:
    """Return every object in the database but VRF 0."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    connection = psycopg2.connect(dsn)
    try:
        with connection.cursor() as cursor:
            for kind, statement in STORED.items():
                cursor.execute(statement)
                names = [column[0] for column in cursor.description or ()][1:]
                for number, *values in cursor.fetchall():
                    found[kind, number] = dict(zip(names, values, strict=True))
    finally:
        connection.close()
    return found


STORED = {
    'prefix': 'SELECT id, prefix::text, vrf_id, type::text, pool_id, description, comment, tags FROM prefix',
    'vrf': 'SELECT id, rt, name, description FROM vrf WHERE id <> 0',
    'pool': 'SELECT id, name, description, ipv4_default_prefix_length, ipv6_default_prefix_length FROM pool',
    'asn': 'SELECT asn, name FROM asn',
}
