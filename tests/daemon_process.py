"""A real nipapd process for tests: start it, call it, signal it, and find the processes that it leaves behind."""

from __future__ import annotations

import atexit
import functools
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import quote, urlsplit

from forked import Forked, Forking

REPOSITORY = Path(__file__).resolve().parent.parent
MARKER = 'NIPAPD_TEST_PROCESS'
READY = re.compile(r'^nipapd: serving on (http://\S+)$', re.MULTILINE)
FIRST = re.compile(
    r"^nipapd: created user '([^']+)'(?: with password '([^']+)'|, whose password is in (.+) \(to)", re.M
)
POLL_S = 0.02
HANDLER = 'nipapd-handler'  # name of the process of a ready handler

# Run the program in the arguments, with descriptors from 3 on as sd_listen_fds(3) expects them.
ACTIVATE = """
import fcntl, os, sys
names, numbers, *command = sys.argv[1:]
copies = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 100) for number in numbers.split(',')]
for target, copy in enumerate(copies, 3):
    os.dup2(copy, target)
    os.close(copy)
os.environ |= {'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': str(len(copies)), 'LISTEN_FDNAMES': names}
os.execv(command[0], command)
"""


@functools.cache
def preloaded() -> Forking:
    """Return the process that forks daemons for this one until this one ends."""
    made = Forking(REPOSITORY)
    atexit.register(made.close)
    return made


class DaemonError(AssertionError):
    """The process did not behave as expected; the message ends with its output."""


@dataclass(frozen=True)
class Process:
    """A process of this host; the start time distinguishes it from a later process with the same id."""

    pid: int
    started: int
    command: str

    def alive(self) -> bool:
        return _look_up(self.pid) == self


class Daemon:
    """`python -m nipapd` with the given arguments; the output goes to a file, and its descendants are remembered."""

    def __init__(self, args: Sequence[str] = (), env: Mapping[str, str] | None = None) -> None:
        self.args = list(args)
        self.address = ''
        self.user: tuple[str, str] | None = None  # name and password; None: the first start creates the user
        self.passed: list[tuple[str, socket.socket]] = []  # sockets of a service manager, by name
        self.through: list[str] = []  # a command that executes the command behind it
        self.python = sys.executable
        self._mark = uuid.uuid4().hex
        self._env = {**os.environ, 'PYTHONPATH': str(REPOSITORY), **(env or {}), MARKER: self._mark}
        self._has_own_env = bool(env)
        self.forking: Forking | None = None  # has imported the program that `env` names
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the daemon)
        self._proc: subprocess.Popen[bytes] | Forked | None = None
        self._seen: dict[int, int] = {}  # process number -> start time
        self._others: set[int] = set()
        self._first_started = 0

    def start(self, timeout_s: float = 60) -> Self:
        """Start the process and wait until its address is known and all its handlers are ready."""
        self.spawn()
        poll(self._settled, timeout_s, lambda: self._say('is not ready'))
        if not self._ready():
            raise DaemonError(self._say(f'ended with {self.returncode} before it was ready'))
        poll(self._complete, timeout_s, lambda: self._say('has handlers that are not ready'))
        return self

    def spawn(self) -> Self:
        """Start the process and return at once."""
        command = [*self.through, self.python, '-m', 'nipapd', *self.args]
        if self.passed:
            names = ':'.join(name for name, _ in self.passed)
            numbers = [str(each.fileno()) for _, each in self.passed]
            command = [sys.executable, '-c', ACTIVATE, names, ','.join(numbers), *command]
        output = self._output.fileno()
        if self._may_be_forked():
            path = Path(f'/proc/{os.getpid()}/fd/{output}')
            self._proc = (self.forking or preloaded()).start_as_is('nipapd', self.args, self._env, path)
            self._note_start()
            return self
        self._proc = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=self._env,
            cwd='/',
            start_new_session=True,
            pass_fds=[each.fileno() for _, each in self.passed],
        )
        self._note_start()
        return self

    def _may_be_forked(self) -> bool:
        """Return whether a process that has imported everything can become the daemon.

        A daemon in the background is told from other processes by the environment that it was started with.
        """
        in_background = '--background' in self.args or 'foreground' in self._configuration()
        as_usual = self.python == sys.executable and not self.through and not self.passed
        is_imported = self.forking is not None or not self._has_own_env
        return as_usual and is_imported and not in_background and 'COVERAGE_FILE' not in os.environ

    def _configuration(self) -> str:
        """Return the text of the configuration that the arguments name."""
        files = [Path('/', value) for flag, value in itertools.pairwise(self.args) if flag in ('-c', '--config')]
        return ''.join(file.read_text(errors='replace') for file in files if file.exists())

    def _note_start(self) -> None:
        fields = _stat(self.pid)
        self._first_started = self._first_started or int(fields[19] if fields else 0)

    @property
    def pid(self) -> int:
        return self._process().pid

    @property
    def returncode(self) -> int | None:
        """The exit code (negative: the signal that ended the process), or None while it runs."""
        return self._process().poll()

    def url(self, user: str | None = None, password: str | None = None) -> str:
        """Return the address of the daemon as pynipap takes it: with credentials when given, without a path."""
        if user is None:
            return self.address
        parts = urlsplit(self.address)
        return f'{parts.scheme}://{quote(user, safe="")}:{quote(password or "", safe="")}@{parts.netloc}'

    def admin(self) -> tuple[str, str]:
        """Return name and password of the user that may change everything."""
        if self.user is not None:
            return self.user
        created = FIRST.search(self.log())
        if created is None:
            raise DaemonError(self._say('created no user'))
        self.user = created[1], created[2] or Path(created[3]).read_text().rstrip('\n')
        return self.user

    def log(self) -> str:
        """Return all output so far."""
        size = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), size, 0).decode('utf-8', 'replace')

    def send(self, number: signal.Signals) -> None:
        self.children()
        self._process().send_signal(number)

    def wait(self, timeout_s: float = 30) -> int:
        """Wait for the process to end; return its exit code."""
        poll(lambda: self.returncode is not None, timeout_s, lambda: self._say('does not end'))
        return self._process().wait()

    def stop(self, timeout_s: float = 30) -> int:
        """Send SIGTERM and return the exit code; do nothing when the process has ended."""
        if self.returncode is None:
            self.send(signal.SIGTERM)
        return self.wait(timeout_s)

    def kill(self) -> None:
        """Kill this process only, with SIGKILL."""
        self.send(signal.SIGKILL)
        self.wait()

    def children(self) -> list[Process]:
        """Return the living descendants, including orphans (PostgreSQL among them).

        Examine only processes that no earlier call has found to be unrelated: descent never changes. A reused process
        id of a new descendant would be missed, so `await_no_children` ends with an examination of all processes.
        """
        running = _numbers()
        alive = {pid: process for pid, started in self._seen.items() if (process := _look_up(pid, started))}
        new = running - alive.keys() - self._others
        for process in self._descendants(new, {self.pid, *alive}):
            self._seen[process.pid] = process.started
            alive[process.pid] = process
        self._others = running - self._seen.keys()
        return sorted(alive.values(), key=lambda process: process.pid)

    def await_no_children(self, timeout_s: float = 15) -> None:
        """Wait until no descendant is alive; kill and report the survivors at the deadline."""
        try:
            poll(self._nothing_left, timeout_s, lambda: self._say(f'left behind {self.children()}'))
        except DaemonError:
            for process in self.children():
                os.kill(process.pid, signal.SIGKILL)
            raise

    def close(self) -> None:
        """End the process and its descendants; raise DaemonError if that took force."""
        try:
            if self._proc is not None:
                self._end()
                self.await_no_children()
        finally:
            self._output.close()

    def _end(self) -> None:
        try:
            self.stop()
        except DaemonError:
            self.kill()
            self.await_no_children()
            raise

    def _process(self) -> subprocess.Popen[bytes] | Forked:
        if self._proc is None:
            raise DaemonError('nipapd has not been started')
        return self._proc

    def _settled(self) -> bool:
        ended = self.returncode is not None
        # Look the descendants up while their parent lives: later they could not be told from other orphans.
        self.children()
        return ended or self._ready()

    def _ready(self) -> bool:
        found = READY.search(self.log())
        if found:
            self.address = found[1]
        return found is not None

    def _complete(self) -> bool:
        """Return whether all handlers are ready. Those of former versions do not tell; forks = -1 has none."""
        if 'forks = -1' in self._configuration():
            return True
        if self.python != sys.executable or str(REPOSITORY) not in self._env['PYTHONPATH'].split(os.pathsep):
            return True
        children = self.children()
        parents = {int(fields[1]) for process in children if (fields := _stat(process.pid))}
        return not any(each.command.startswith('python') and each.pid not in parents for each in children)

    def _nothing_left(self) -> bool:
        if self.children():
            return False
        self._others.clear()
        return not self.children()

    def _descendants(self, among: set[int], roots: set[int]) -> Iterator[Process]:
        """Yield the processes that are below the roots or have inherited the environment or session of the daemon."""
        younger = {pid: fields for pid in among if (fields := _stat(pid)) and int(fields[19]) >= self._first_started}
        session = str(self.pid)
        in_session = {pid for pid, fields in younger.items() if fields[3] == session}
        marked = {pid for pid in younger.keys() - {self.pid} if pid in in_session or self._marked(pid)}
        yield from _existing(marked | _below(roots | marked, younger) - roots)

    def _marked(self, pid: int) -> bool:
        try:
            environment = Path('/proc', str(pid), 'environ').read_bytes()
        except OSError:
            return False
        return f'{MARKER}={self._mark}'.encode() in environment

    def _say(self, what: str) -> str:
        return f'nipapd {" ".join(self.args)} {what}; its output:\n{self.log()}'


def poll(condition: Callable[[], object], timeout_s: float, complaint: Callable[[], str]) -> None:
    """Return once `condition` holds; raise DaemonError with the complaint after the timeout."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise DaemonError(complaint())
        time.sleep(POLL_S)


def free_port() -> int:
    """Return a free TCP port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return int(probe.getsockname()[1])


def processes() -> Iterator[Process]:
    """Yield every process of this host that has not ended; a zombie has ended."""
    yield from _existing(_numbers())


def descendants_of(pid: int) -> set[Process]:
    """Return every living process below `pid`."""
    return set(_existing(_below({pid}, {each: fields for each in _numbers() if (fields := _stat(each))})))


def _numbers() -> set[int]:
    return {int(entry) for entry in os.listdir('/proc') if entry.isdecimal()}


def _existing(pids: Iterable[int]) -> Iterator[Process]:
    yield from (process for pid in pids if (process := _look_up(pid)))


def _below(roots: set[int], processes: Mapping[int, list[str]]) -> set[int]:
    """Return the numbers of the processes below the roots; `processes` has the fields of /proc/PID/stat."""
    parents = {pid: int(fields[1]) for pid, fields in processes.items()}
    below: set[int] = set()
    while new := {pid for pid, parent in parents.items() if parent in roots | below} - below - roots:
        below |= new
    return below


def _look_up(pid: int, started: int | None = None) -> Process | None:
    """Return the process with this number, unless it has ended or started at another time."""
    fields = _stat(pid)
    if fields is None or fields[0] in 'ZX' or started not in (None, int(fields[19])):
        return None
    try:
        command = Path('/proc', str(pid), 'comm').read_text(errors='replace').strip()
    except OSError:
        return None
    return Process(pid, int(fields[19]), command)


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat that follow the command: state, parent and so on."""
    try:
        text = Path('/proc', str(pid), 'stat').read_text(errors='replace')
    except OSError:
        return None
    return text.rpartition(')')[2].split()
