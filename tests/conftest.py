"""Fixtures: a PostgreSQL server for the run, a fresh database for each test, nipapd daemons for the tests that ask."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from configparser import RawConfigParser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

# Write bytecode: else each of hundreds of processes would compile the same modules again.
os.environ.pop('PYTHONDONTWRITEBYTECODE', None)
sys.dont_write_bytecode = False

# No deadline for a single example: its duration depends on the machine.
settings.register_profile('patient', deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile('patient')

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [path for path in (str(REPOSITORY), str(REPOSITORY / 'tests')) if path not in sys.path]

import databases  # noqa: E402
from daemon_process import Daemon, free_port  # noqa: E402
from support import FAST, DaemonFactory, cheap_hashes, open_directories, options_of  # noqa: E402

from nipap.access.local_users import LocalUser, LocalUsers  # noqa: E402
from nipapd.binaries import account_named  # noqa: E402
from nipapd.embedded import EmbeddedPostgres, Installation, find_installations, inspect  # noqa: E402

if TYPE_CHECKING:
    from nipap.access.authentication import Actor
    from nipap.backend import Backend
    from nipap.postgres.database import Database

pytest_plugins = ['skip_rules', 'sharing']

KINDS = ('wheel', 'system')
TEMPLATE = 'nipap_template'
SMALL = {'max_wal_size': '256MB'}  # the directory may be in memory
FIRST_USER = 'admin', 'secret-of-the-first-user'


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
    """Return the PostgreSQL that `kind` names, or that of the directory `kind`; skip the test when there is none."""
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
    """Yield a function that makes directories for this test, accessible to every account."""
    with open_directories() as make:
        yield make


@pytest.fixture(scope='session')
def cluster(request: pytest.FixtureRequest) -> Iterator[EmbeddedPostgres]:
    """Yield a PostgreSQL server for this run; with pytest-xdist, for this worker."""
    option = str(request.config.getoption('postgres'))
    binaries = installation(getattr(request, 'param', option))
    with open_directories() as make:
        # Handlers of daemons that root starts run under this account.
        client = account_named('nobody') if os.geteuid() == 0 else None
        home, bindir = make() / 'postgres', str(binaries.bindir)
        server = EmbeddedPostgres(home, bindir=bindir, settings=FAST | SMALL, client=client)
        server.start()
        databases.admit(server, client.name if client else None)
        yield server
        server.stop()


@pytest.fixture(scope='session')
def template(cluster: EmbeddedPostgres) -> str:
    """Return the name of a database with the schema and no data."""
    from nipap.postgres import schema
    from nipapd import roles

    databases.create(cluster, TEMPLATE, 'template1')
    schema.install(cluster.dsn(TEMPLATE))
    roles.prepare(cluster.dsn(TEMPLATE))
    return TEMPLATE


@pytest.fixture(scope='session')
def _numbers() -> Iterator[int]:
    return itertools.count(1)


@pytest.fixture
def empty_dsn(cluster: EmbeddedPostgres, _numbers: Iterator[int]) -> Iterator[str]:
    """Yield a fresh database without a schema for this test."""
    name = f'test_{next(_numbers)}'
    databases.create(cluster, name, 'template1')
    yield cluster.dsn(name)
    databases.drop(cluster, name)


@pytest.fixture(scope='session')
def _used(cluster: EmbeddedPostgres) -> list[str]:
    """Return the list of databases that earlier tests used: emptying a database costs a tenth of making one."""
    return []


@pytest.fixture
def dsn(cluster: EmbeddedPostgres, template: str, _numbers: Iterator[int], _used: list[str]) -> Iterator[str]:
    """Yield a database with the schema and no data for this test."""
    name = databases.reused(cluster, _used, template)
    if name is None:
        name = f'test_{next(_numbers)}'
        databases.create(cluster, name, template)
    yield cluster.dsn(name)
    # The next test empties this database: a daemon of this test may still be running and would write to it.
    _used.append(name)


@pytest.fixture
def db(dsn: str) -> Iterator[Database]:
    from nipap.postgres.database import Database

    database = Database(dsn)
    yield database
    database.close()


@pytest.fixture
def backend(db: Database) -> Backend:
    from nipap.backend import Backend

    return Backend(db)


@pytest.fixture
def actor() -> Actor:
    """Return an actor that may change everything."""
    from nipap.access.authentication import Actor

    return Actor(
        username='test',
        full_name='Test User',
        authenticated_as='test',
        authoritative_source='test',
        readonly=False,
    )


@pytest.fixture
def database_options(dsn: str) -> dict[str, str]:
    """Return the settings of the section [nipapd] that make a daemon use the database of this test."""
    return options_of(dsn)


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    """Yield the root logger; restore its handlers and levels after the test."""
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
def daemon(make_dir: Callable[[], Path], accounts: Path, started_once: Callable[[], Path]) -> Iterator[DaemonFactory]:
    """Yield a factory of daemons.

    `daemon(*args, config={section: {key: value}}, data_dir=…, env=…, start=True)` returns a running daemon. Unless the
    arguments say otherwise, each daemon listens on a free port of 127.0.0.1 and has a data directory of its own, with
    the first user already in it, and PostgreSQL where the daemon runs its own. A test of the first start names a new
    directory as `data_dir`. After the test every daemon must stop on request and leave no process behind; otherwise the
    test fails.
    """
    with _daemons(make_dir, accounts, started_once) as make:
        yield make


@pytest.fixture(scope='session')
def accounts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of local accounts with the user that a first start creates; its password takes little to hash."""
    path = tmp_path_factory.mktemp('accounts') / 'local_auth.db'
    users = LocalUsers(path)
    users.create()
    with cheap_hashes():
        users.add(LocalUser(FIRST_USER[0], trusted=True), FIRST_USER[1])
    return path


@pytest.fixture(scope='session')
def started_once(accounts: Path) -> Iterator[Callable[[], Path]]:
    """Yield a function that returns the data directory of a daemon with a PostgreSQL of its own, after a first start.

    A copy of the directory takes a tenth of the time that a first start takes.
    """
    with open_directories() as make_dir:

        @functools.cache
        def get() -> Path:
            home = make_dir()
            shutil.copy(accounts, home)
            made = Daemon(['--data-dir', str(home), '-l', '127.0.0.1', '-p', str(free_port()), '--admin-port', 'off'])
            made.start().close()
            return home

        yield get


@pytest.fixture(scope='module')
def shared_dsn(cluster: EmbeddedPostgres, template: str, _numbers: Iterator[int]) -> Iterator[str]:
    """Yield a database with the schema, shared by the tests of a module."""
    name = f'test_{next(_numbers)}'
    databases.create(cluster, name, template)
    yield cluster.dsn(name)
    databases.drop(cluster, name)


@pytest.fixture(scope='module')
def shared_daemon(shared_dsn: str, accounts: Path, started_once: Callable[[], Path]) -> Iterator[Callable[..., Daemon]]:
    """Yield a function that returns the daemon on `shared_dsn` with the given arguments and settings.

    `shared_daemon(*args, forks='1')` starts each such daemon once for all tests of a module. Tests may call the daemon.
    A test that signals the daemon, or reads everything that the daemon has done or holds, uses a daemon of its own.
    """
    running: dict[object, Daemon] = {}
    with open_directories() as make_dir, _daemons(make_dir, accounts, started_once) as make:

        def get(*args: str, users_file: Path | None = None, **settings: str) -> Daemon:
            which = args, users_file, tuple(sorted(settings.items()))
            if which not in running:
                config = {'nipapd': {'forks': '2', **options_of(shared_dsn), **settings}}
                if users_file is not None:
                    config['auth.backends.local'] = {'type': 'SqliteAuth', 'db_path': str(users_file)}
                running[which] = make(*args, config=config)
            return running[which]

        yield get


@contextlib.contextmanager
def _daemons(make_dir: Callable[[], Path], accounts: Path, started_once: Callable[[], Path]) -> Iterator[DaemonFactory]:
    """Yield the factory of the fixture `daemon`; end all its daemons afterwards."""
    daemons: list[Daemon] = []

    def make(
        *args: str,
        config: Mapping[str, Mapping[str, str]] | None = None,
        data_dir: Path | None = None,
        env: Mapping[str, str] | None = None,
        start: bool = True,
    ) -> Daemon:
        home = data_dir or make_dir()
        settings = (config or {}).get('nipapd', {})
        is_prepared = data_dir is None and settings.get('user', 'root') == 'root'
        if is_prepared and start and not any(key.startswith(('db_', 'postgres_')) for key in settings):
            subprocess.run(['cp', '-a', f'{started_once()}/.', str(home)], check=True)
        elif is_prepared:
            shutil.copy(accounts, home)
        command = [
            '--data-dir',
            str(home),
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
        made.user = FIRST_USER if is_prepared else None
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
