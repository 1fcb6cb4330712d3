"""Helpers of the tests of upgrades and restores: databases of the cluster, processes and their kills."""

from __future__ import annotations

import contextlib
import lzma
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kept_facts
import psycopg2
import psycopg2.extensions
from daemon_process import poll
from dump_schema import NOISE
from forked import Forked, Forking
from psycopg2.sql import SQL, Identifier

from nipap.access.authentication import Actor
from nipap.backend import Backend
from nipap.postgres.database import Database
from nipapd.embedded import EmbeddedPostgres

SOON_S = 240.0
OTHERS = 'SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()'
TABLES = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
MOST_TRIES = 200
KEEPER = Actor('keeper', None, 'keeper', 'kept', readonly=False, trusted=True)


class Site:
    """A database of the cluster and a directory for accounts, as a daemon is configured to use them."""

    def __init__(self, dsn: str, directory: Path) -> None:
        self.dsn, self.directory = dsn, directory
        parts = psycopg2.extensions.parse_dsn(dsn)
        names = {'db_host': 'host', 'db_port': 'port', 'db_user': 'user', 'db_name': 'dbname'}
        self.config = directory / 'nipap.conf'
        self.config.write_text('[nipapd]\n' + ''.join(f'{ours} = {parts[name]}\n' for ours, name in names.items()))
        self.where = ('-c', self.config, '--data-dir', directory)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(psycopg2.connect(self.dsn)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []

    @contextlib.contextmanager
    def database(self) -> Iterator[Database]:
        database = Database(self.dsn)
        try:
            yield database
        finally:
            database.close()

    def copy_to(self, other: Site) -> None:
        """Make the other database a copy of this one."""
        other.drop()
        other.administer('CREATE DATABASE {} TEMPLATE {}', other.name, self.name)

    def make_empty(self) -> None:
        """Replace the database by an empty one."""
        self.drop()
        self.administer('CREATE DATABASE {}', self.name)

    def drop(self) -> None:
        self.administer('DROP DATABASE IF EXISTS {} WITH (FORCE)', self.name)

    @property
    def name(self) -> str:
        return str(psycopg2.extensions.parse_dsn(self.dsn)['dbname'])

    def administer(self, statement: str, *names: str) -> None:
        server = psycopg2.extensions.make_dsn(self.dsn, dbname='postgres')
        with contextlib.closing(psycopg2.connect(server)) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            cursor.execute(SQL(statement).format(*map(Identifier, names)))

    def load(self, file: Path) -> None:
        """Load a plain dump."""
        text = lzma.decompress(file.read_bytes()).decode()
        self.query('SET check_function_bodies = false;' + NOISE.sub('', text))

    def rows(self) -> dict[str, int]:
        """Return the number of rows of each table, once PostgreSQL has noticed that its clients were killed."""
        with contextlib.closing(psycopg2.connect(self.dsn)) as connection, connection.cursor() as cursor:
            connection.autocommit = True

            def others() -> bool:
                cursor.execute(OTHERS)
                return cursor.rowcount > 0

            poll(lambda: not others(), SOON_S, lambda: 'a session of a killed process is still there')
            cursor.execute(TABLES)
            counts = [f"SELECT '{name}', count(*) FROM {name}" for (name,) in cursor.fetchall()]
            cursor.execute(' UNION ALL '.join(counts) or "SELECT '', 0 WHERE false")
            return dict(cursor.fetchall())

    def facts(self) -> dict[str, Any]:
        with self.database() as database:
            return dict(kept_facts.read(Backend(database), KEEPER, self.query))


@contextlib.contextmanager
def private_server(data_dir: Path) -> Iterator[str]:
    """Yield the connection string of the database of a data directory."""
    server = EmbeddedPostgres(data_dir).start()
    try:
        yield server.dsn()
    finally:
        server.stop()


@contextlib.contextmanager
def private_database(data_dir: Path) -> Iterator[Database]:
    """Yield the database of a data directory."""
    with private_server(data_dir) as dsn, contextlib.closing(Database(dsn)) as database:
        yield database


def serve(forking: Forking, data_dir: Path, *args: object, account: str | None = None) -> Forked:
    """Start a daemon and wait until it serves."""
    config = data_dir.with_name(f'{data_dir.name}.conf')
    config.write_text('[nipapd]\nforks = -1\nport = 0\n')
    process = forking.start('nipapd', '-c', config, '--data-dir', data_dir, *args, account=account)
    try:
        poll(lambda: 'serving on' in process.said() or not process.runs(), SOON_S, process.said)
    except BaseException:
        process.kill()
        raise
    return process


def stop(process: Forked) -> str:
    """End a daemon with TERM; return its output."""
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait() == 0, process.said()
    return process.said()


class Kills:
    """Kills processes at moments of a seeded generator, and prints each kill.

    A moment is a share of the duration of the whole command. The duration is measured on this host and in this run, so
    that a slow machine kills as far on the way as a fast one. A process that ends before its moment was not killed and
    does not count.
    """

    def __init__(self, forking: Forking, wanted: int, whole_s: float) -> None:
        # pytest-randomly has seeded the generator that draws the seed.
        seed = random.randrange(2**32)
        print(f'seed {seed}, {whole_s:.2f} s are the whole')
        self._random = random.Random(seed)
        self._forking = forking
        self._whole_s = whole_s
        self.left = wanted
        self._tries = 0

    def kill(self, *command: object) -> bool:
        """Start a command of nipap-admin and kill it at some moment; return whether it was still running."""
        self._tries += 1
        assert self._tries <= MOST_TRIES, f'{self.left} kills are left after {MOST_TRIES} tries'
        moment = self._random.random()
        process = self._forking.start('nipap-admin', *command)
        time.sleep(moment * self._whole_s)
        code = process.kill()
        assert code in (0, -signal.SIGKILL), process.said()
        killed = code != 0
        self.left -= killed
        print(f'{"killed" if killed else "over"} at {moment:.3f}')
        return killed
