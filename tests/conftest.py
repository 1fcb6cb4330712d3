"""Fixtures: a real PostgreSQL for the run, a fresh database for each test, a real nipapd for those that ask."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from configparser import RawConfigParser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

# Else each of hundreds of processes would compile the same modules again.
os.environ.pop('PYTHONDONTWRITEBYTECODE', None)
sys.dont_write_bytecode = False

# How long an example takes is the machine's business.
settings.register_profile('patient', deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile('patient')

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [path for path in (str(REPOSITORY), str(REPOSITORY / 'tests')) if path not in sys.path]

import databases  # noqa: E402
from daemon_process import Daemon, free_port  # noqa: E402
from support import FAST, DaemonFactory, open_directories, options_of  # noqa: E402

from nipap.access.local_users import LocalUser, LocalUsers  # noqa: E402
from nipapd.binaries import account_named  # noqa: E402
from nipapd.embedded import EmbeddedPostgres, Installation, find_installations, inspect  # noqa: E402

if TYPE_CHECKING:
    from nipap.access.authentication import Actor
    from nipap.backend import Backend
    from nipap.postgres.database import Database

pytest_plugins = ['skip_rules']

KINDS = ('wheel', 'system')
TEMPLATE = 'nipap_template'
SMALL = {'max_wal_size': '256MB'}  # its directory may be in memory
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
        client = account_named('nobody') if os.geteuid() == 0 else None  # daemons that root starts answer calls as that
        home, bindir = make() / 'postgres', str(binaries.bindir)
        server = EmbeddedPostgres(home, bindir=bindir, settings=FAST | SMALL, client=client)
        server.start()
        databases.admit(server, client.name if client else None)
        yield server
        server.stop()


@pytest.fixture(scope='session')
def template(cluster: EmbeddedPostgres) -> str:
    """The name of a database with the schema and nothing in it."""
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
    """A database without a schema, the test's own."""
    name = f'test_{next(_numbers)}'
    databases.create(cluster, name, 'template1')
    yield cluster.dsn(name)
    databases.drop(cluster, name)


@pytest.fixture(scope='session')
def _used(cluster: EmbeddedPostgres) -> list[str]:
    """Databases that earlier tests have left behind: emptying one costs a tenth of making one."""
    return []


@pytest.fixture
def dsn(cluster: EmbeddedPostgres, template: str, _numbers: Iterator[int], _used: list[str]) -> Iterator[str]:
    """A database with the schema and nothing in it, the test's own."""
    name = databases.reused(cluster, _used)
    if name is None:
        name = f'test_{next(_numbers)}'
        databases.create(cluster, name, template)
    yield cluster.dsn(name)
    # It is emptied when the next test wants it: a daemon of this test may still run, and would write to it.
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
    """Someone who may change everything."""
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
    """What the section [nipapd] of a configuration says so that the daemon uses the test's database."""
    return options_of(dsn)


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
def daemon(make_dir: Callable[[], Path], accounts: Path) -> Iterator[DaemonFactory]:
    """Makes running daemons: `daemon(*args, config={section: {key: value}}, data_dir=…, env=…, start=True)`.

    Each listens on a free port of 127.0.0.1 and has a data directory of its own unless the arguments say
    otherwise; its user is there already then. At the end each must stop when asked and leave no process behind, or the
    test fails.
    """
    with _daemons(make_dir, accounts) as make:
        yield make


@pytest.fixture(scope='session')
def accounts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of local accounts with the user that a first start creates; hashing the password takes 0.1 s."""
    path = tmp_path_factory.mktemp('accounts') / 'local_auth.db'
    users = LocalUsers(path)
    users.create()
    users.add(LocalUser(FIRST_USER[0], trusted=True), FIRST_USER[1])
    return path


@pytest.fixture(scope='module')
def shared_dsn(cluster: EmbeddedPostgres, template: str, _numbers: Iterator[int]) -> Iterator[str]:
    """A database with the schema that the tests of a module share."""
    name = f'test_{next(_numbers)}'
    databases.create(cluster, name, template)
    yield cluster.dsn(name)
    databases.drop(cluster, name)


@pytest.fixture(scope='module')
def shared_daemon(shared_dsn: str, accounts: Path) -> Iterator[Callable[..., Daemon]]:
    """Returns the daemon on `shared_dsn` that has these arguments and settings: `shared_daemon(*args, forks='1')`.

    It is started once for all tests of a module. They call it; a test that signals it, or looks at all that it has
    done or holds, takes a daemon of its own.
    """
    running: dict[object, Daemon] = {}
    with open_directories() as make_dir, _daemons(make_dir, accounts) as make:

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
def _daemons(make_dir: Callable[[], Path], accounts: Path) -> Iterator[DaemonFactory]:
    """Make daemons meanwhile, as the fixture `daemon` says."""
    daemons: list[Daemon] = []

    def make(
        *args: str,
        config: Mapping[str, Mapping[str, str]] | None = None,
        data_dir: Path | None = None,
        env: Mapping[str, str] | None = None,
        start: bool = True,
    ) -> Daemon:
        home = data_dir or make_dir()
        user = (config or {}).get('nipapd', {}).get('user', 'root')
        is_prepared = data_dir is None and user == 'root'
        if is_prepared:
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
