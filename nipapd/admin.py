"""The admin port: a process of its own serves `/live`, `/ready` and `/metrics`.

The process runs beside the handlers and the parent, so it still reports on handlers that are busy, hung or gone.
It queries the database in a thread, because the database may not answer at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import os
import re
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from nipap.history import events
from nipap.objects import pool, vrf
from nipap.postgres import schema
from nipap.postgres.database import Database
from nipap.search.query import EVERYTHING
from nipapd import signals
from nipapd.config import DaemonSettings
from nipapd.fibers import Fibers
from nipapd.metrics import Board, State, exposition
from nipapd.prefork import die_with, fork, name_process
from nipapd.server import Container, Server
from nipapd.streams import SAFE
from nipapd.values import is_address

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

log = logging.getLogger(__name__)
T = TypeVar('T')

PATIENCE_S = 2.0  # how long an answer waits for the database
STATEMENT_S = 5.0
FRESH_S = 1.0  # how long the state of the database is cached
INVENTORY_S = 5.0  # how long the figures of pools and VRFs are cached
# A parent without a heartbeat for so long supervises nothing any more. A shorter gap may be a start of PostgreSQL.
PARENT_S = 60.0
MOST_BODY = 2**16
REQUEST_S = 10.0
FINISH_S = 1.0
NAME = b'nipapd-admin'  # the name in ps
PAUSE_S = 1.0  # the shortest pause before an ended process is replaced
MOST_PAUSE_S = 30.0
PROBE = b'HEAD /api/docs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n'
BACKUP = '.dump'  # nipap-admin dump uses another name until the file is complete
PLAIN = 'text/plain; charset=utf-8'
MISDIRECTED = '421 Misdirected Request'
UNAUTHORIZED = '401 Unauthorized'
HOST = re.compile(r'(?:\[([^\]]*)\]|([^:]*))(?::[0-9]*)?')
EXPOSITION = 'text/plain; version=0.0.4; charset=utf-8'

Answer = tuple[str, str, bytes]


@dataclass(frozen=True)
class Served:
    """The place where handlers serve calls: the address of one of their sockets, and whether it expects TLS."""

    address: tuple[Any, ...]
    is_encrypted: bool

    @classmethod
    def by(cls, plain: Sequence[socket.socket], tls: Sequence[socket.socket]) -> Served | None:
        """Return the first of these sockets, one without TLS if there is any; None without sockets."""
        for listener in (*plain, *tls):
            return cls(listener.getsockname(), listener not in plain)
        return None

    async def problem(self) -> str:
        """Return why no handler answers, or an empty text.

        The probe requests a page that needs neither credentials nor the database, but takes the whole path of a call.
        """
        try:
            async with asyncio.timeout(PATIENCE_S):
                return '' if await self._answer() else 'a handler answers with an error'
        except TimeoutError:
            return f'no handler answers within {PATIENCE_S:g} s'
        except ssl.SSLError:
            return ''  # the handler asks for a client certificate, so it is alive
        except OSError as error:
            return f'no handler answers: {error.strerror or error}'

    async def _answer(self) -> bool:
        reader, writer = await self._connect()
        try:
            writer.write(PROBE)
            await writer.drain()
            return (await reader.readline()).startswith(b'HTTP/1.1 200 ')
        finally:
            writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = self.address[:2]
        if not self.is_encrypted:
            return await asyncio.open_connection(reachable(host), port)
        trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without loading authorities, which takes 25 ms
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE  # the server is this daemon
        return await asyncio.open_connection(reachable(host), port, ssl=trusting)


def reachable(host: str) -> str:
    """Return an address that reaches a socket bound to `host`: loopback when the socket is bound to every address."""
    return {'0.0.0.0': '127.0.0.1', '::': '::1'}.get(host, host)  # noqa: S104  (nothing is bound here)


@dataclass(frozen=True)
class Admin:
    """The admin port as a task of a helper process: its inputs, fixed before the process is forked."""

    dsn: str = field(repr=False)  # it may hold a password
    board: Board
    handlers: int
    sockets: Sequence[socket.socket]
    kafka: bool  # whether events are delivered to Kafka
    settings: DaemonSettings
    certificate_end: float | None
    served: Served | None = None  # where handlers serve calls

    @property
    def wanted(self) -> bool:
        return bool(self.sockets)

    def run(self) -> None:
        """Serve until SIGTERM."""
        asyncio.run(self._main())

    async def _main(self) -> None:
        fibers = Fibers()
        view = View(
            *(self.dsn, self.board, self.handlers, self.settings, self.certificate_end),
            kafka=self.kafka,
            served=self.served,
        )
        server = Server(
            Container(Application(view, fibers, self.settings), fibers), max_body=MOST_BODY, request_timeout_s=REQUEST_S
        )
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        server.listen_on(self.sockets)
        await stop.wait()
        server.stop_accepting(FINISH_S / 2)  # clients that are connected already may still send a request
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(server.drained(), FINISH_S)
        fibers.end()
        await server.cut_off()
        signals.ignore((signal.SIGTERM,))


class Application:
    """The three pages, read with GET, as a WSGI application that runs in fibers.

    A page of another host could read them with a local user's browser, if the name of that host resolves to an address
    of this one (DNS rebinding). Such a request carries the other host's name, so only names of this host are answered.
    """

    def __init__(self, view: View, fibers: Fibers, settings: DaemonSettings) -> None:
        self._fibers = fibers
        self._hosts = {'localhost', socket.gethostname().lower(), *map(str.lower, settings.admin_hosts)}
        self._hosts |= {name.lower() for name in settings.admin_listen}
        self._token = settings.metrics_token
        self._pages: dict[str, Callable[[], Answer]] = {
            '/live': lambda: told(view.not_live()),
            '/ready': lambda: told(self._awaited(view.not_ready())),
            '/metrics': lambda: ('200 OK', EXPOSITION, self._awaited(view.metrics())),
        }

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        status, kind, body = self._answer(environ)
        challenge = [('WWW-Authenticate', 'Bearer realm="nipap metrics"')] if status == UNAUTHORIZED else []
        start_response(status, [('Content-Type', kind), *SAFE, *challenge])
        return [body]

    def _answer(self, environ: WSGIEnvironment) -> Answer:
        path, method = environ.get('PATH_INFO', ''), environ['REQUEST_METHOD']
        host = environ.get('HTTP_HOST')
        if host is not None and not self._is_ours(host):
            return (
                MISDIRECTED,
                PLAIN,
                b'The Host header names another host; admin_hosts in [nipapd] lists the accepted names.\n',
            )
        page = self._pages.get(path)
        if page is None:
            return '404 Not Found', PLAIN, f'Not found. The pages are {", ".join(self._pages)}.\n'.encode()
        if method not in ('GET', 'HEAD'):
            return '405 Method Not Allowed', PLAIN, b'Only GET and HEAD are allowed.\n'
        if path == '/metrics' and not self._may_see_metrics(environ.get('HTTP_AUTHORIZATION', '')):
            return UNAUTHORIZED, PLAIN, b'Send the metrics_token of [nipapd] as Authorization: Bearer TOKEN.\n'
        return page()

    def _is_ours(self, host: str) -> bool:
        found = HOST.fullmatch(host)
        name = (found[1] or found[2]).rstrip('.').lower() if found else ''
        return name in self._hosts or is_address(name)

    def _may_see_metrics(self, authorization: str) -> bool:
        if self._token is None:
            return True
        scheme, _, given = authorization.partition(' ')
        return scheme.lower() == 'bearer' and hmac.compare_digest(given.strip().encode(), self._token.encode())

    def _awaited(self, work: Any) -> Any:
        return self._fibers.result_of(asyncio.get_running_loop().create_task(work))


def told(problem: str) -> Answer:
    """Return a response with the problem, or with `ok` when the problem is empty."""
    if problem:
        return '503 Service Unavailable', PLAIN, f'{problem}\n'.encode()
    return '200 OK', PLAIN, b'ok\n'


class View:
    """The state of the daemon, as seen by the admin process."""

    def __init__(
        self,
        dsn: str,
        board: Board,
        handlers: int,
        settings: DaemonSettings,
        certificate_end: float | None,
        *,
        kafka: bool,
        served: Served | None = None,
    ) -> None:
        self._served = served
        self._asking: asyncio.Task[str] | None = None
        self._asked = -1e9
        self._certificate_end = certificate_end
        self._backup_dir = settings.backup_dir
        names = settings.metrics_names
        self._names = settings.metrics_token is not None if names is None else names
        self._board = board
        self._handlers = handlers
        database = Database(dsn, most_sessions=1, read_timeout_s=STATEMENT_S)
        threads = ThreadPoolExecutor(1, thread_name_prefix='database')
        self._due = Asked(threads, lambda: schema_problem(database), FRESH_S)
        # Disks have a thread of their own: a disk may not answer while the database does.
        disks = ThreadPoolExecutor(1, thread_name_prefix='disk')
        self._backup = Asked(disks, Backups(str(self._backup_dir)).newest, INVENTORY_S)
        self._inventory = Asked(threads, lambda: inventory(database, kafka=kafka), INVENTORY_S)

    def not_live(self) -> str:
        """Return why the daemon cannot recover by itself, or an empty text."""
        if not self._board.draining and self._board.parent_age_s > PARENT_S:
            return 'the supervisor of the handlers gives no sign of life'
        return ''

    async def not_ready(self) -> str:
        """Return why this daemon should get no calls, or an empty text."""
        return self._own_problem() or await self._database_problem() or await self._calls_problem()

    def _own_problem(self) -> str:
        if self._board.draining:
            return 'the daemon stops'
        return '' if self._board.ready_handlers() else 'no handler is ready'

    async def _database_problem(self) -> str:
        problem = await self._due.answer()
        return 'the database does not answer' if problem is None else problem

    async def _calls_problem(self) -> str:
        """Probe a handler, one probe at a time and at most one per FRESH_S; return the problem or an empty text."""
        if self._served is None:
            return ''
        now = time.monotonic()
        if self._asking is None or (self._asking.done() and now - self._asked >= FRESH_S):
            self._asked = now
            self._asking = asyncio.create_task(self._served.problem())
        return await asyncio.shield(self._asking)

    async def metrics(self) -> bytes:
        """Return every metric; those of pools and VRFs only while the database answers."""
        problem = await self._due.answer()
        ready = not (problem is None or problem or self._own_problem())
        found = None if problem is None or problem else await self._inventory.answer()
        pools, vrfs, receivers = found or ([], [], [])
        if not self._names:
            pools, vrfs = numbered(pools), numbered(vrfs)
        backup = (await self._backup.answer() or 0.0) if self._backup_dir else None
        state = State(
            *(ready, problem is not None, self._handlers, pools, vrfs, receivers),
            certificate_end=self._certificate_end,
            newest_backup=backup,
        )
        return exposition(self._board, state)


class Asked:
    """The result of slow work, cached for `fresh_s` seconds. At most one run is under way."""

    def __init__(self, threads: ThreadPoolExecutor, ask: Callable[[], T], fresh_s: float) -> None:
        self._threads = threads
        self._ask = ask
        self._fresh_s = fresh_s
        self._last: Any = None
        self._asked = -1e9  # when the pending run was begun, or the last one ended
        self._pending: asyncio.Future[Any] | None = None

    async def answer(self) -> Any:
        """Return the result; None when the work failed, or does not end within PATIENCE_S."""
        now = time.monotonic()
        if self._pending is None:
            if now - self._asked < self._fresh_s:
                return self._last
            self._asked = now
            self._pending = asyncio.get_running_loop().run_in_executor(self._threads, self._ask)
            self._pending.add_done_callback(self._note)
        if (left_s := self._asked + PATIENCE_S - now) > 0:
            await asyncio.wait([self._pending], timeout=left_s)
        return None if self._pending else self._last

    def _note(self, done: asyncio.Future[Any]) -> None:
        self._pending, self._last = None, None
        self._asked = time.monotonic()
        if done.exception():
            log.debug('a query for /ready or /metrics failed: %s', done.exception())
        else:
            self._last = done.result()


def schema_problem(database: Database) -> str:
    """Return why this program cannot work with the schema, or an empty text.

    :raises NipapError: the database does not answer.
    """
    return schema.state(database).problem


class Backups:
    """The dumps in a directory. A directory that cannot be read is logged once, until it can be read again."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._warned = False

    def newest(self) -> float:
        """Return the time at which the newest complete dump was written, in seconds since 1970; 0 without dumps."""
        try:
            with os.scandir(self._directory) as entries:
                found = [written(entry) for entry in entries if entry.name.endswith(BACKUP)]
        except OSError as error:
            if not self._warned:
                log.warning('%s: cannot list backups: %s', self._directory, error.strerror)
            self._warned = True
            return 0.0
        self._warned = False
        return max(found, default=0.0)


def written(entry: os.DirEntry[str]) -> float:
    """Return the time at which a file was written, in seconds since 1970; 0 if it is no file or has been removed."""
    try:
        return entry.stat().st_mtime if entry.is_file() else 0.0
    except OSError:
        return 0.0


def numbered(objects: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the objects with their numbers as names: readers of the admin port need not know the names."""
    return [{**each, 'name': str(each['id'])} for each in objects]


def inventory(database: Database, *, kafka: bool) -> tuple[list[dict[str, Any]], ...]:
    """Return all pools, all VRFs and all receivers of events, with their figures."""
    return database.read(
        lambda tx: (pool.find(tx, EVERYTHING), vrf.find(tx, EVERYTHING), events.receivers(tx, kafka=kafka))
    )


# ---------------------------------------------------------------- helper processes, in the parent


class Task(Protocol):
    """The work of a helper process."""

    @property
    def wanted(self) -> bool:
        """Whether the work needs a process."""

    def run(self) -> None:
        """Work until SIGTERM."""


class HelperProcess:
    """A process that the parent keeps running beside the handlers: the admin port, or the delivery of events."""

    def __init__(
        self, in_child: Callable[[], None], what: str = 'the process for health and metrics', name: bytes = NAME
    ) -> None:
        self._in_child = in_child
        self._what = what
        self._name = name
        self._task: Task | None = None
        self._prepare: Callable[[], None] = lambda: None
        self._pid = 0
        self._former: list[int] = []
        self._due = 0.0
        self._pause_s = PAUSE_S

    def use(self, task: Task, prepare: Callable[[], None]) -> None:
        """Replace the process by a new one for `task`, if the task is wanted. The new process calls `prepare` first."""
        self._task, self._prepare = task, prepare
        former, self._pid = self._pid, 0
        self._due, self._pause_s = 0.0, PAUSE_S
        self.watch()
        if former:
            self._former.append(former)
            self._signal(former, signal.SIGTERM)

    def watch(self) -> None:
        """Start the process unless it runs; to be called about once a second."""
        self._former = [pid for pid in self._former if not ended(pid)]
        if self._pid and ended(self._pid):
            log.warning('%s has ended, the next starts in %g s', self._what, self._pause_s)
            self._pid, self._due = 0, time.monotonic() + self._pause_s
            self._pause_s = min(MOST_PAUSE_S, 2 * self._pause_s)
        if not self._pid and self._task and self._task.wanted and time.monotonic() >= self._due:
            self._pid = self._fork(self._task)

    def stop(self) -> None:
        """Kill the process and its predecessors, and reap them."""
        for pid in filter(None, (*self._former, self._pid)):
            self._signal(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        self._former, self._pid, self._task = [], 0, None

    def _fork(self, task: Task) -> int:
        try:
            return fork(self._what, lambda parent: self._be(task, parent))
        except OSError as error:
            log.error('%s cannot be forked: %s', self._what, error.strerror)
            self._due = time.monotonic() + self._pause_s
            return 0

    def _be(self, task: Task, parent: int) -> None:
        name_process(self._name)
        self._prepare()
        self._in_child()
        die_with(parent)  # last: a change of account would undo it
        task.run()

    def _signal(self, pid: int, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def ended(pid: int) -> bool:
    """Return whether a child has ended, and reap an ended child."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return True
