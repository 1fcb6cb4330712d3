"""Fixtures: a real PostgreSQL for the run, a fresh database for each test, a real nipapd for those that ask."""

from __future__ import annotations

import itertools
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from configparser import RawConfigParser
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2
import psycopg2.extensions
import pytest
from hypothesis import HealthCheck, settings
from psycopg2.sql import SQL, Identifier

# How long an example takes is the machine's business.
settings.register_profile('patient', deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile('patient')

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [path for path in (str(REPOSITORY), str(REPOSITORY / 'tests')) if path not in sys.path]

from daemon_process import Daemon, free_port  # noqa: E402
from support import DATABASE_OPTIONS, FAST, DaemonFactory, open_directories  # noqa: E402

from nipapd.embedded import EmbeddedPostgres, Installation, find_installations, inspect  # noqa: E402

if TYPE_CHECKING:
    from nipap.authlib import Actor
    from nipap.backend import Backend
    from nipap.db import Database

pytest_plugins = ['skip_rules']

KINDS = ('wheel', 'system')
TEMPLATE = 'nipap_template'


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        '--postgres',
        default='wheel',
        help='run against the PostgreSQL of the "wheel" (default), of the "system", "all" of these in turn, or the '
        'one whose programs are in this directory',
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if 'cluster' in metafunc.fixturenames and metafunc.config.getoption('postgres') == 'all':
        metafunc.parametrize('cluster', KINDS, indirect=True, scope='session')


def installation(kind: str) -> Installation:
    """Return the programs that `kind` names, or those in that directory; skip the test when this host has none."""
    if kind not in KINDS:
        found = inspect(Path(kind))
        if found is None:
            raise pytest.UsageError(f'--postgres: there is no working PostgreSQL in {kind}')
        return found
    for found in find_installations():
        if (found.wheel is not None) == (kind == 'wheel'):
            return found
    pytest.skip(f'no PostgreSQL of the {kind} on this host')


@pytest.fixture
def make_dir() -> Iterator[Callable[[], Path]]:
    """Makes directories for this test that any account may enter."""
    with open_directories() as make:
        yield make


@pytest.fixture(scope='session')
def cluster(request: pytest.FixtureRequest) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL server of this run's own; with pytest-xdist, of this worker's own."""
    option = str(request.config.getoption('postgres'))
    binaries = installation(getattr(request, 'param', option))
    with open_directories() as make:
        server = EmbeddedPostgres(make() / 'postgres', bindir=str(binaries.bindir), settings=FAST)
        server.start()
        yield server
        server.stop()


@pytest.fixture(scope='session')
def template(cluster: EmbeddedPostgres) -> str:
    """The name of a database with the schema and nothing in it."""
    from nipap import schema

    _administer(cluster, 'CREATE DATABASE {}', TEMPLATE)
    schema.install(cluster.dsn(TEMPLATE))
    return TEMPLATE


@pytest.fixture(scope='session')
def _numbers() -> Iterator[int]:
    return itertools.count(1)


@pytest.fixture
def empty_dsn(cluster: EmbeddedPostgres, _numbers: Iterator[int]) -> Iterator[str]:
    """A database without a schema, the test's own."""
    yield from _database(cluster, f'test_{next(_numbers)}', 'template1')


@pytest.fixture(scope='session')
def _emptied(cluster: EmbeddedPostgres) -> list[str]:
    """Databases that earlier tests have left behind, empty again: emptying costs a tenth of making one."""
    return []


@pytest.fixture
def dsn(cluster: EmbeddedPostgres, template: str, _numbers: Iterator[int], _emptied: list[str]) -> Iterator[str]:
    """A database with the schema and nothing in it, the test's own."""
    if _emptied:
        name = _emptied.pop()
    else:
        name = f'test_{next(_numbers)}'
        _administer(cluster, 'CREATE DATABASE {} TEMPLATE {}', name, template)
    yield cluster.dsn(name)
    if _empty(cluster.dsn(name)):
        _emptied.append(name)
    else:
        _administer(cluster, 'DROP DATABASE {} WITH (FORCE)', name)


def _empty(dsn: str) -> bool:
    """Bring a database back to what an installation makes; False when somebody still holds locks in it."""
    connection = psycopg2.connect(dsn)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(LOCK)
            cursor.execute(SIZE)
            cursor.execute(TRUNCATE if cursor.fetchone()[0] > MOST_LEFT else DELETE)
            cursor.execute(FIRST_ROWS)
        return True
    except psycopg2.Error:
        return False
    finally:
        connection.close()


TABLES = (
    'prefix, prefix_words, pool, vrf, vrf_total, free_range, asn, audit_log, idempotency, event, event_state, '
    'webhook, dead_letter'
)
LOCK = f"SET lock_timeout = '500ms'; LOCK {TABLES}"
# To truncate makes dozens of files and removes as many: 100 ms, where to delete a few rows takes less than one.
MOST_LEFT = 1_000_000  # bytes with all indexes; half of them are there when nothing is stored
SIZE = """SELECT sum(pg_total_relation_size(oid)) FROM pg_class
    WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"""
TRUNCATE = f'TRUNCATE {TABLES} RESTART IDENTITY'
DELETE = f"""SET session_replication_role = replica;
{'; '.join(f'DELETE FROM {table}' for table in TABLES.split(', '))};
SET session_replication_role = origin;
SELECT setval(seqrelid, seqstart, false) FROM pg_sequence"""
FIRST_ROWS = """
INSERT INTO event_state DEFAULT VALUES;
INSERT INTO vrf (id, rt_rank, name, description) VALUES (0, -1, 'default', 'The default VRF, typically the Internet.');
INSERT INTO free_range VALUES
    (-1, '0.0.0.0', '255.255.255.255', 0), (-2, '::', 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff', 0);
"""


def _database(cluster: EmbeddedPostgres, name: str, template: str) -> Iterator[str]:
    _administer(cluster, 'CREATE DATABASE {} TEMPLATE {}', name, template)
    yield cluster.dsn(name)
    _administer(cluster, 'DROP DATABASE {} WITH (FORCE)', name)


def _administer(cluster: EmbeddedPostgres, statement: str, *names: str) -> None:
    connection = psycopg2.connect(cluster.dsn('postgres'))
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(SQL(statement).format(*map(Identifier, names)))
    finally:
        connection.close()


@pytest.fixture
def db(dsn: str) -> Iterator[Database]:
    from nipap.db import Database

    database = Database(dsn)
    yield database
    database.close()


@pytest.fixture
def backend(db: Database) -> Backend:
    from nipap.backend import Backend

    return Backend(db)


@pytest.fixture
def actor() -> Actor:
    """Someone who may change everything."""
    from nipap.authlib import Actor

    return Actor(
        username='test',
        full_name='Test User',
        authenticated_as='test',
        authoritative_source='test',
        readonly=False,
    )


@pytest.fixture
def database_options(dsn: str) -> dict[str, str]:
    """What the section [nipapd] of a configuration says so that the daemon uses the test's database."""
    parts = psycopg2.extensions.parse_dsn(dsn)
    return {f'db_{ours}': parts[libpq] for ours, libpq in DATABASE_OPTIONS.items()}


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    """The root logger, as it was before once the test is over."""
    from nipapd import logs

    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    quiet = {name: logging.getLogger(name).level for name in logs.QUIET}
    yield root
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, former in quiet.items():
        logging.getLogger(name).setLevel(former)


@pytest.fixture
def daemon(make_dir: Callable[[], Path]) -> Iterator[DaemonFactory]:
    """Makes running daemons: `daemon(*args, config={section: {key: value}}, data_dir=…, env=…, start=True)`.

    Each listens on a free port of 127.0.0.1 and has a data directory of its own unless the arguments say
    otherwise. At the end each must stop when asked and leave no process behind, or the test fails.
    """
    daemons: list[Daemon] = []

    def make(
        *args: str,
        config: Mapping[str, Mapping[str, str]] | None = None,
        data_dir: Path | None = None,
        env: Mapping[str, str] | None = None,
        start: bool = True,
    ) -> Daemon:
        command = [
            '--data-dir',
            str(data_dir or make_dir()),
            '-l',
            '127.0.0.1',
            '-p',
            str(free_port()),
            '--admin-port',
            'off',
        ]
        if config is not None:
            command += ['-c', str(_write_configuration(make_dir(), config))]
        made = Daemon([*command, *args], env)
        daemons.append(made)
        return made.start() if start else made

    yield make
    _close_all(daemons)


def _write_configuration(directory: Path, config: Mapping[str, Mapping[str, str]]) -> Path:
    parser = RawConfigParser()
    parser.read_dict(config)
    path = directory / 'nipap.conf'
    with open(path, 'w', encoding='utf-8') as file:
        parser.write(file)
    return path


def _close_all(daemons: list[Daemon]) -> None:
    problems = []
    for made in daemons:
        try:
            made.close()
        except AssertionError as exc:
            problems.append(str(exc))
    if problems:
        pytest.fail('\n'.join(problems), pytrace=False)
