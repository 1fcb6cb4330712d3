"""Fixtures of the tests of the whole daemon: daemons, data directories, certificates, upgrades."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from daemon_process import Daemon
from forked import Forking
from programs import MIGRATION, make_next
from support import FAST, DaemonFactory, open_directories
from talking import Configured
from upgrading import Site

from nipap.postgres import schema
from nipapd.embedded import EmbeddedPostgres


@pytest.fixture
def configured(daemon: DaemonFactory, database_options: dict[str, str]) -> Configured:
    """Return a factory of daemons on the database of the test.

    `configured(*args, start=True, **settings)` takes settings of [nipapd].
    """

    def make(*args: str, start: bool = True, data_dir: Path | None = None, **settings: str) -> Daemon:
        config = {'nipapd': {'forks': '2', **database_options, **settings}}
        return daemon(*args, config=config, start=start, data_dir=data_dir)

    return make


QUICK = 'fsync = off\nfull_page_writes = off\n'  # the data of a test need not survive a power cut


@pytest.fixture(scope='session')
def prepared(cluster: EmbeddedPostgres) -> Iterator[Path]:
    """Yield a data directory with an installed database, made once."""
    assert cluster.installation is not None
    with open_directories() as make:
        home = make()
        home.joinpath('postgresql.conf').write_text(QUICK)
        server = EmbeddedPostgres(home, bindir=str(cluster.installation.bindir), settings=FAST).start()
        try:
            schema.install(server.dsn())
        finally:
            server.stop()
        yield home


@pytest.fixture
def data_dir(prepared: Path, make_dir: Callable[[], Path]) -> Path:
    """Return a data directory for this test, with an installed database."""
    directory = make_dir()
    for source in prepared.iterdir():
        how = '-al' if source.name.startswith('binaries-') else '-a'
        subprocess.run(['cp', how, source, directory], check=True)
    return directory


@pytest.fixture
def new_data_dir(make_dir: Callable[[], Path]) -> Path:
    """Return a data directory with a configuration in which PostgreSQL does not wait for the disk, and nothing else."""
    directory = make_dir()
    directory.joinpath('postgresql.conf').write_text(QUICK)
    return directory


@pytest.fixture(scope='module')
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Return the paths of a certificate for 127.0.0.1 and of its key, readable by the owner alone."""
    directory = tmp_path_factory.mktemp('certificate')
    paths = str(directory / 'cert.pem'), str(directory / 'key.pem')
    command = ['openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', '/CN=localhost']
    command += ['-addext', 'subjectAltName=IP:127.0.0.1', '-out', paths[0], '-keyout', paths[1]]
    subprocess.run(command, check=True, capture_output=True)
    os.chmod(paths[1], 0o600)
    return paths


# ---- upgrades


@pytest.fixture(scope='session')
def forking() -> Iterator[Forking]:
    """Yield processes of the code under test."""
    with open_directories() as make, Forking(make()) as made:
        yield made


@pytest.fixture(scope='session')
def next_program() -> Iterator[Path]:
    """Yield the directory of a program that is a migration ahead of the code under test."""
    with open_directories() as make:
        yield make_next(make(), MIGRATION)


@pytest.fixture(scope='session')
def forking_next(next_program: Path) -> Iterator[Forking]:
    """Yield processes of the next program."""
    with open_directories() as make, Forking(make(), next_program) as made:
        yield made


@pytest.fixture
def site(empty_dsn: str, make_dir: Callable[[], Path]) -> Site:
    """Return an empty site."""
    return Site(empty_dsn, make_dir())


@pytest.fixture
def other_site(cluster: EmbeddedPostgres, make_dir: Callable[[], Path]) -> Iterator[Site]:
    """Yield a site for a copy of another database; the database exists once it has been copied."""
    made = Site(cluster.dsn('kept_copy'), make_dir())
    yield made
    made.drop()
