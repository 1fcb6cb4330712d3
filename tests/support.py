"""What fixtures and tests share and what is no fixture."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import promql_parser
import psycopg2.extensions
import yaml
from daemon_process import Daemon

from nipap.postgres import connecting
from nipap.runtime.runtime import Runtime

if TYPE_CHECKING:
    from nipap.postgres.database import Database
    from nipapd.fibers import Fibers

DATABASE_OPTIONS = {'host': 'host', 'port': 'port', 'user': 'user', 'name': 'dbname'}
# A test's data need not survive a power cut.
FAST = {'fsync': 'off', 'full_page_writes': 'off', 'synchronous_commit': 'off'}

# What is stored and derived from nothing: a query for each table, one text a row.
FACTS = (
    "SELECT (to_jsonb(p) - '{parent_id,children,used_addresses,free_blocks}'::text[])::text FROM prefix p ORDER BY id",
    "SELECT (to_jsonb(v) - 'rt_rank')::text FROM vrf v ORDER BY id",
    'SELECT pool::text FROM pool ORDER BY id',
    'SELECT asn::text FROM asn ORDER BY asn',
    'SELECT audit_log::text FROM audit_log ORDER BY id',
    'SELECT webhook_facts(w)::text, secret FROM webhook w ORDER BY id',
    'SELECT idempotency::text FROM idempotency ORDER BY authenticated_as, key',
)

# Settings of a daemon whose handlers a test may give other limits: they have the account of the test.
SAME_ACCOUNT = {'user': 'root'} if os.geteuid() == 0 else {}

DaemonFactory = Callable[..., Daemon]


def options_of(dsn: str) -> dict[str, str]:
    """Return the settings of [nipapd] with which a daemon uses this database."""
    parts = psycopg2.extensions.parse_dsn(dsn)
    return {f'db_{ours}': parts[libpq] for ours, libpq in DATABASE_OPTIONS.items() if libpq in parts}


def facts(db: Database) -> list[list[tuple[Any, ...]]]:
    """Every fact in a database, as text."""
    return db.run(lambda tx: [tx.all(sql) for sql in FACTS])


# ---------------------------------------------------------------- what is asked of Prometheus

ETC = Path(__file__).resolve().parent.parent / 'etc'
ALERTS = ETC / 'prometheus-alerts.yml'
DASHBOARD = ETC / 'grafana-dashboard.json'


def expressions() -> list[str]:
    """Every expression of the alert rules and the dashboard, as Prometheus gets it."""
    asked = [*_expressions(yaml.safe_load(ALERTS.read_text())), *_expressions(json.loads(DASHBOARD.read_text()))]
    return [each.replace('$__rate_interval', '1m') for each in asked]


def _expressions(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from [node['expr']] if 'expr' in node else []
        node = list(node.values())
    if isinstance(node, list):
        for part in node:
            yield from _expressions(part)


def selectors(expression: str) -> list[tuple[str, set[str]]]:
    """The metrics that an expression names, each with the labels that it picks them by.

    Raises ValueError when it is no PromQL.
    """
    found: list[tuple[str, set[str]]] = []

    def visit(node: Any) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            found.append((node.name, {matcher.name for matcher in node.matchers.matchers}))
        return True

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


# ---------------------------------------------------------------- what PostgreSQL does

Plan = dict[str, Any]

EXPLAIN = """LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_analyze = on;
SET auto_explain.log_format = json; SET auto_explain.log_level = notice; SET auto_explain.log_nested_statements = %s"""


# So many entries of the audit log.
AUDIT_ENTRIES = """SELECT count(record_change(jsonb_populate_record(NULL::actor,
    '{"username": "many", "authenticated_as": "many", "authoritative_source": "test"}'), 'asn', 'add', n, NULL, '{}'))
FROM generate_series(1, %s) n"""


def connection_of(db: Database) -> psycopg2.extensions.connection:
    """The connection that the next call uses."""
    return db.read(lambda tx: tx._cursor.connection)


@contextlib.contextmanager
def explained(db: Database, *, inside: bool = False) -> Iterator[list[Plan]]:
    """What PostgreSQL does for whatever runs meanwhile: the nodes of its plans, filled in at the end.

    The statements are those that are sent, and the plans those that are run, prepared ones among them. inside: also the
    statements of functions.
    """
    connection = connection_of(db)
    nodes: list[Plan] = []
    with connection.cursor() as cursor:
        cursor.execute(EXPLAIN, (inside,))
    connection.notices = notices = []  # psycopg2's own list keeps 50
    yield nodes
    connection.notices = []
    with connection.cursor() as cursor:
        cursor.execute('SET auto_explain.log_min_duration = -1')
    assert notices
    for notice in notices:
        nodes += _nodes(json.loads(notice.partition('plan:')[2])['Plan'])


def _nodes(plan: Plan) -> Iterator[Plan]:
    yield plan
    for part in plan.get('Plans', ()):
        yield from _nodes(part)


def run_fibers(
    fibers: Fibers, *works: Callable[[], None], settled: Callable[[], bool] = lambda: True, timeout_s: float = 20
) -> list[bool]:
    """Start works on a loop of their own and wait until all have ended; which of them were taken."""

    async def main() -> list[bool]:
        taken = [fibers.start(work) for work in works]
        deadline = time.monotonic() + timeout_s
        while fibers.running or not settled():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.001)
        return taken

    return asyncio.run(main())


@contextlib.contextmanager
def waiting_in(fibers: Fibers) -> Iterator[None]:
    """Meanwhile everything in this process waits as fibers do, also for PostgreSQL."""
    connecting.use(Runtime(fibers, wait_for_postgresql=fibers.wait_for_postgresql))
    try:
        yield
    finally:
        connecting.use(Runtime())


@contextlib.contextmanager
def open_directories() -> Iterator[Callable[[], Path]]:
    """Makes directories that any account may enter, which pytest's own are not; removes them at the end."""
    with contextlib.ExitStack() as stack:

        def make() -> Path:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix='nipap-test-', dir=_place()))
            os.chmod(directory, 0o755)
            return Path(directory)

        yield make


IN_MEMORY = '/dev/shm'
ENOUGH_MEMORY = 3 * 2**30  # bytes; a run takes one of them


def _place() -> str:
    """Return where directories are made: in memory, if there is enough and programs can be run there.

    PostgreSQL makes and removes thousands of files, which costs a disk and its file system a multiple.
    """
    with contextlib.suppress(OSError):
        found, memory = os.statvfs(IN_MEMORY), Path('/proc/meminfo').read_text()
        available = int(re.findall(r'^MemAvailable: +(\d+) kB$', memory, re.MULTILINE)[0]) * 1024
        room = min(found.f_bavail * found.f_frsize, available)
        if room > ENOUGH_MEMORY and not found.f_flag & os.ST_NOEXEC:
            return IN_MEMORY
    return '/tmp'
