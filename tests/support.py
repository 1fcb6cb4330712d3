"""Helpers that fixtures and tests share."""

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
import pytest
import yaml
from daemon_process import Daemon
from forked import CHEAP_LOG2_N

from nipap.access import local_users
from nipap.postgres import connecting
from nipap.runtime.runtime import Runtime

if TYPE_CHECKING:
    from nipap.postgres.database import Database
    from nipapd.fibers import Fibers

DATABASE_OPTIONS = {'host': 'host', 'port': 'port', 'user': 'user', 'name': 'dbname'}
# The data of a test need not survive a power cut.
FAST = {'fsync': 'off', 'full_page_writes': 'off', 'synchronous_commit': 'off'}

# Stored facts, without derived values: a query for each table, one text for each row.
FACTS = (
    "SELECT (to_jsonb(p) - '{parent_id,children,used_addresses,free_blocks}'::text[])::text FROM prefix p ORDER BY id",
    "SELECT (to_jsonb(v) - 'rt_rank')::text FROM vrf v ORDER BY id",
    'SELECT pool::text FROM pool ORDER BY id',
    'SELECT asn::text FROM asn ORDER BY asn',
    'SELECT audit_log::text FROM audit_log ORDER BY id',
    'SELECT webhook_facts(w)::text, secret FROM webhook w ORDER BY id',
    'SELECT idempotency::text FROM idempotency ORDER BY authenticated_as, key',
)

# Keep handlers under the account of the test, which may then change their limits.
SAME_ACCOUNT = {'user': 'root'} if os.geteuid() == 0 else {}

DaemonFactory = Callable[..., Daemon]


def options_of(dsn: str) -> dict[str, str]:
    """Return the settings of [nipapd] with which a daemon uses this database."""
    parts = psycopg2.extensions.parse_dsn(dsn)
    return {f'db_{ours}': parts[libpq] for ours, libpq in DATABASE_OPTIONS.items() if libpq in parts}


def facts(db: Database) -> list[list[tuple[Any, ...]]]:
    """Return every fact in a database, as text. Planning these statements takes longer than running them."""
    return db.run(lambda tx: [tx.all_prepared(sql, ()) for sql in FACTS])


# ---------------------------------------------------------------- queries of Prometheus

ETC = Path(__file__).resolve().parent.parent / 'etc'
ALERTS = ETC / 'prometheus-alerts.yml'
DASHBOARD = ETC / 'grafana-dashboard.json'


def expressions() -> list[str]:
    """Return every expression of the alert rules and the dashboard, as Prometheus receives it."""
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
    """Return the metrics that an expression names, each with the labels of its matchers.

    Raise ValueError when the expression is no PromQL.
    """
    found: list[tuple[str, set[str]]] = []

    def visit(node: Any) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            found.append((node.name, {matcher.name for matcher in node.matchers.matchers}))
        return True

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


# ---------------------------------------------------------------- plans of PostgreSQL

Plan = dict[str, Any]

EXPLAIN = """LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_analyze = on;
SET auto_explain.log_format = json; SET auto_explain.log_level = notice; SET auto_explain.log_nested_statements = %s"""


# Writes the given number of entries into the audit log.
AUDIT_ENTRIES = """SELECT count(record_change(jsonb_populate_record(NULL::actor,
    '{"username": "many", "authenticated_as": "many", "authoritative_source": "test"}'), 'asn', 'add', n, NULL, '{}'))
FROM generate_series(1, %s) n"""


def connection_of(db: Database) -> psycopg2.extensions.connection:
    """Return the connection that the next call uses."""
    return db.read(lambda tx: tx._cursor.connection)


@contextlib.contextmanager
def explained(db: Database, *, inside: bool = False) -> Iterator[list[Plan]]:
    """Yield a list that at the end holds the nodes of all plans that PostgreSQL ran in the block.

    These are the plans that were really run, prepared statements included. inside: also the plans of statements in
    functions.
    """
    connection = connection_of(db)
    nodes: list[Plan] = []
    with connection.cursor() as cursor:
        cursor.execute(EXPLAIN, (inside,))
    # The list of psycopg2 keeps only 50 notices.
    connection.notices = notices = []
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


@contextlib.contextmanager
def cheap_hashes() -> Iterator[None]:
    """Hash passwords with little work, like the daemons of tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_users, '_LOG2_N', CHEAP_LOG2_N)
        yield


def run_fibers(
    fibers: Fibers, *works: Callable[[], None], settled: Callable[[], bool] = lambda: True, timeout_s: float = 20
) -> list[bool]:
    """Start works on a loop of their own and wait until all have ended; return whether each was accepted."""

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
    """Make all waits in this process, for PostgreSQL too, wait as fibers do until the end of the block."""
    connecting.use(Runtime(fibers, wait_for_postgresql=fibers.wait_for_postgresql))
    try:
        yield
    finally:
        connecting.use(Runtime())


@contextlib.contextmanager
def open_directories() -> Iterator[Callable[[], Path]]:
    """Yield a function that makes directories accessible to every account; remove them at the end.

    Directories of pytest are not accessible to other accounts.
    """
    with contextlib.ExitStack() as stack:

        def make() -> Path:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix='nipap-test-', dir=_place()))
            os.chmod(directory, 0o755)
            return Path(directory)

        yield make


IN_MEMORY = '/dev/shm'
ENOUGH_MEMORY = 3 * 2**30  # bytes; a run takes a third of this


def _place() -> str:
    """Return the parent of test directories: in memory, if there is enough and programs can be run there.

    PostgreSQL makes and removes thousands of files, which takes several times as long on a disk with its file system.
    """
    with contextlib.suppress(OSError):
        found, memory = os.statvfs(IN_MEMORY), Path('/proc/meminfo').read_text()
        available = int(re.findall(r'^MemAvailable: +(\d+) kB$', memory, re.MULTILINE)[0]) * 1024
        room = min(found.f_bavail * found.f_frsize, available)
        if room > ENOUGH_MEMORY and not found.f_flag & os.ST_NOEXEC:
            return IN_MEMORY
    return '/tmp'
