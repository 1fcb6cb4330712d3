"""Connections to PostgreSQL: opened without blocking other calls, given up when the server does not answer.

A server that refuses a connection says so at once. A hung or vanished server says nothing, so every wait here has a
limit. Looking up host names may take `OPENING_S`. Opening a connection may take as long for each address. A statement
may take as long as it needs, or as its caller allows. If a statement takes longer than `DOUBT_S`, the server is probed
on another connection.
"""

from __future__ import annotations

import ipaddress
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar

import psycopg2
import psycopg2.extensions

from nipap.runtime import waiting
from nipap.runtime.runtime import Runtime

Wait = Callable[['Connection', float | None], bool]

OPENING_S = 3.0
DOUBT_S = 3.0
LOOK_UP_POLL_S = 0.01
MOMENT_S = 0.1  # the result of a probe stays valid for this long
# A host that has vanished from the network is given up, unless the connection string sets other limits.
PROMPT = (
    f'connect_timeout={OPENING_S:.0f} keepalives_idle=10 keepalives_interval=3 keepalives_count=3 '
    'tcp_user_timeout=15000'
)
# libpq has no error code for a failed connection. A reason in another language does not match and is retried.
REFUSED = re.compile(r'FATAL: .*(authentication failed|does not exist|no pg_hba\.conf entry)|no password supplied')


class NoAnswerError(psycopg2.OperationalError):
    """PostgreSQL does not answer at all."""


class TooLongError(NoAnswerError):
    """PostgreSQL answers other connections, but a statement exceeds its time limit."""


class RefusedError(psycopg2.OperationalError):
    """PostgreSQL answers, but refuses the user, the password or the database."""


class Connection(psycopg2.extensions.connection):
    """A connection that waits by the method of the runtime, and checks the server while it waits.

    doubt: called every `DOUBT_S` while a statement runs; raises a `NoAnswerError` if the server does not answer a
        probe.
    """

    def __init__(self, dsn: str, **options: Any) -> None:
        self.doubt: Callable[[], None] = lambda: None
        self.limit_s: float | None = None  # of a statement, even if its server answers probes
        self.takes_long = False  # whether an answer may be slow, because a commit waits for the disk
        self._opened_by: float | None = time.monotonic() + _opening_s(dsn)
        super().__init__(dsn, **options)

    def opened(self) -> None:
        """End the time limit of opening the connection."""
        self._opened_by = None

    def has_input(self) -> bool:
        """Return whether PostgreSQL has sent data that was not read yet."""
        # poll, unlike select, accepts descriptors beyond 1023.
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def wait(self, wait: Wait) -> None:
        """Wait for the answer.

        :raises NoAnswerError: the server does not answer, and psycopg2 closes the connection.
        :raises TooLongError: only this statement exceeds its time limit.
        """
        if self._opened_by is not None:
            if not wait(self, max(0.0, self._opened_by - time.monotonic())):
                raise NoAnswerError('PostgreSQL does not answer')
            return
        ends = time.monotonic() + self.limit_s if self.limit_s is not None else None
        while not wait(self, DOUBT_S):
            self.doubt()
            if ends is not None and time.monotonic() >= ends and not wait(self, 0.0):
                raise TooLongError('PostgreSQL still runs a statement that should have ended at its time limit')


def use(runtime: Runtime) -> None:
    """Run this process in a runtime from now on. Every statement waits for PostgreSQL by the method of the runtime."""
    runtime.enter()
    wait = runtime.wait_for_postgresql
    psycopg2.extensions.set_wait_callback(None if wait is None else partial(_wait, wait))


def _wait(wait: Wait, connection: Any) -> None:
    if isinstance(connection, Connection):
        connection.wait(wait)
    else:
        wait(connection, None)


def connect(target: str) -> Connection:
    """Open a connection to one of the `targets`."""
    try:
        return psycopg2.connect(target, connection_factory=Connection)
    except psycopg2.OperationalError as exc:
        if REFUSED.search(str(exc)):
            raise RefusedError(*exc.args) from exc
        raise


def targets(dsn: str) -> list[str]:
    """Return the connection strings, one for each address of each host, in the order in which to try them.

    libpq would try the addresses itself, each for the same time, but it would block the thread. It would block the
    thread while it looks up names, too.

    :raises psycopg2.OperationalError: no host has an address.
    :raises NoAnswerError: the resolver does not answer for any host.
    """
    dsn = f'{PROMPT} {dsn}'
    parts = psycopg2.extensions.parse_dsn(dsn)
    if not parts.get('host') or 'hostaddr' in parts:
        return [dsn]
    hosts, ports = parts['host'].split(','), parts.get('port', '').split(',')
    each_port = ports if len(ports) == len(hosts) else ports[:1] * len(hosts)
    look_ups = {host: LookUp.begin(host) for host in hosts if _is_name(host)}
    found, problems = [], []
    for host, port in zip(hosts, each_port, strict=True):
        try:
            for address in look_ups[host].addresses() if host in look_ups else [{}]:
                found.append(psycopg2.extensions.make_dsn(dsn, host=host, port=port or None, **address))
        except psycopg2.OperationalError as exc:
            problems.append(exc)
    if not found:
        raise together(problems)
    return found


class LookUp:
    """The look-up of a host name in a thread of its own: only the resolver can end a look-up.

    Only one look-up runs at a time for each name. If a look-up has already timed out, further callers fail at once.
    """

    _running: ClassVar[dict[str, LookUp]] = {}

    def __init__(self, host: str) -> None:
        self._host = host
        self._gives_up = time.monotonic() + OPENING_S
        self._outcome: list[str] | OSError | None = None
        self._thread = threading.Thread(target=self._run, name='look-up', daemon=True)
        self._thread.start()

    @classmethod
    def begin(cls, host: str) -> LookUp:
        running = cls._running.get(host)
        # A forked process inherits the entry but not the thread.
        if running is None or not running._thread.is_alive():
            running = cls._running[host] = cls(host)
        return running

    def _run(self) -> None:
        try:
            found = socket.getaddrinfo(self._host, None, type=socket.SOCK_STREAM)
            self._outcome = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        except OSError as exc:
            self._outcome = exc
        except UnicodeError as exc:
            self._outcome = OSError(str(exc))

    def addresses(self) -> Iterator[dict[str, str]]:
        """Return the addresses as parameters of a connection string, so that libpq need not look them up."""
        self._thread.join(LOOK_UP_POLL_S / 10)
        while self._outcome is None and time.monotonic() < self._gives_up:
            waiting.sleep(LOOK_UP_POLL_S)
        if self._outcome is None:
            raise NoAnswerError(f'the look-up of the host {self._host} has timed out')
        if isinstance(self._outcome, OSError):
            raise psycopg2.OperationalError(f'the host {self._host} has no address: {self._outcome.strerror}')
        return iter([{'hostaddr': address} for address in self._outcome])


def _is_name(host: str) -> bool:
    return bool(host) and not host.startswith(('/', '@')) and not _is_address(host)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _opening_s(dsn: str) -> float:
    """Return the time limit as libpq reads ``connect_timeout``: infinite for 0, otherwise 2 s or more."""
    given = int(psycopg2.extensions.parse_dsn(dsn).get('connect_timeout', OPENING_S))
    return max(given, 2) if given > 0 else float('inf')


def together(problems: list[psycopg2.OperationalError]) -> psycopg2.OperationalError:
    """Return one error for the errors of all targets, of their class if all have the same class."""
    kinds = {type(problem) for problem in problems}
    kind = kinds.pop() if len(kinds) == 1 else psycopg2.OperationalError
    return kind('; '.join(dict.fromkeys(str(problem).strip() for problem in problems)))


class Asking:
    """A probe whose result is shared by all callers."""

    def __init__(self) -> None:
        self._waiting: list[Callable[[], None]] = []
        self._exc: psycopg2.OperationalError | None = None
        self._ended: float | None = None

    def run(self, find_out: Callable[[], None]) -> None:
        try:
            find_out()
        except psycopg2.OperationalError as exc:
            self._exc = exc
        finally:
            self._ended = time.monotonic()
            for go_on in self._waiting:
                go_on()

    def is_over(self) -> bool:
        return self._ended is not None and time.monotonic() > self._ended + MOMENT_S

    def outcome(self) -> psycopg2.OperationalError | None:
        """Wait for the end of the probe; return its error, None if it succeeded."""
        if self._ended is None:
            waiting.until(self._waiting.append)
        return self._exc
