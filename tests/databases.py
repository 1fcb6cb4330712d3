"""Databases for tests: made from a template, emptied for the next test, and used again."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import psycopg2
import psycopg2.extensions
from flask import Flask
from psycopg2.sql import SQL, Identifier

from nipap.postgres.database import Database
from nipapd.embedded import OWNER, SERVICE, SUPERUSER, EmbeddedPostgres

TABLES = (
    'prefix, prefix_words, pool, vrf, vrf_total, free_range, asn, audit_log, idempotency, event, event_state, '
    'webhook, dead_letter, change_set, change_order, change_state, audit_span, sign_in, last_version, audit_detached, '
    'past_vrf, past_pool, past_prefix, past_asn, past_words, past_state'
)
LOCK = f"SET lock_timeout = '500ms'; LOCK {TABLES}"
# TRUNCATE makes dozens of files and removes as many, which takes 100 ms; deleting a few rows takes less than 1 ms.
MOST_LEFT = 3_000_000
SIZE = """SELECT sum(pg_total_relation_size(oid)) FROM pg_class
    WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"""
TRUNCATE = f'TRUNCATE {TABLES} RESTART IDENTITY'
DELETE = f"""SET session_replication_role = replica;
{'; '.join(f'DELETE FROM {table}' for table in TABLES.split(', '))};
SET session_replication_role = origin;
SELECT setval(seqrelid, seqstart, false) FROM pg_sequence"""
CATALOGS = ('pg_class', 'pg_proc', 'pg_namespace', 'pg_trigger', 'pg_constraint', 'pg_type')
MARKS = 'SELECT ' + ', '.join(f'(SELECT max(oid)::bigint FROM {catalog})' for catalog in CATALOGS)
FIRST_ROWS = """
INSERT INTO event_state DEFAULT VALUES;
INSERT INTO change_state (older_entries) VALUES (0);
INSERT INTO past_state DEFAULT VALUES;
INSERT INTO vrf (id, rt_rank, name, description) VALUES (0, -1, 'default', 'The default VRF, typically the Internet.');
INSERT INTO free_range VALUES
    (-1, '0.0.0.0', '255.255.255.255', 0), (-2, '::', 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff', 0);
"""


def administer(server: EmbeddedPostgres, statement: str, *names: str) -> None:
    """Run a statement with the names of databases on the server, outside of a transaction."""
    with connected(server.dsn('postgres')) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(SQL(statement).format(*map(Identifier, names)))


def admit(server: EmbeddedPostgres, account: str | None) -> None:
    """Admit every role to every database, and an account to every role.

    account: the account of handlers, whose daemon has only one role on a configured server.
    """
    with open(server.home / 'pg_hba.conf', 'a', encoding='utf-8') as file:
        file.write(f'local all {SERVICE},{OWNER} peer map=nipapd\n')
    if account:
        with open(server.home / 'pg_ident.conf', 'a', encoding='utf-8') as file:
            file.write(''.join(f'nipapd "{account}" {role}\n' for role in (SUPERUSER, OWNER)))
    administer(server, 'SELECT pg_reload_conf()')


def create(server: EmbeddedPostgres, name: str, template: str) -> None:
    """Create a database by copying the files of the template, which costs half of writing them to the log."""
    # PostgreSQL 14 has no other strategy.
    copying = server.installation is None or server.installation.major >= 15
    administer(server, f'CREATE DATABASE {{}} TEMPLATE {{}}{" STRATEGY file_copy" * copying}', name, template)


def drop(server: EmbeddedPostgres, name: str) -> None:
    administer(server, 'DROP DATABASE {} WITH (FORCE)', name)


@contextlib.contextmanager
def copied(server: EmbeddedPostgres, dsn: str, name: str) -> Iterator[str]:
    """Copy a database that has no sessions; yield the copy and drop it at the end."""
    create(server, name, psycopg2.extensions.parse_dsn(dsn)['dbname'])
    yield server.dsn(name)
    drop(server, name)


@contextlib.contextmanager
def connected(dsn: str) -> Iterator[psycopg2.extensions.connection]:
    """Connect to a database and close the connection at the end."""
    with contextlib.closing(psycopg2.connect(dsn)) as connection:
        yield connection


def empty(connection: psycopg2.extensions.connection) -> bool:
    """Reset a database to its state after installation; return False when another session still holds locks in it."""
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(LOCK)
            cursor.execute(SIZE)
            cursor.execute(TRUNCATE if cursor.fetchone()[0] > MOST_LEFT else DELETE)
            cursor.execute(FIRST_ROWS)
        return True
    except psycopg2.Error:
        return False


@functools.cache
def marks(server: EmbeddedPostgres, template: str) -> tuple[int, ...]:
    """Return the marks of the template."""
    with connected(server.dsn(template)) as connection, connection.cursor() as cursor:
        cursor.execute(MARKS)
        return tuple(cursor.fetchone())


def is_as_made(connection: psycopg2.extensions.connection, expected: tuple[int, ...]) -> bool:
    """Return whether a database has the tables, functions and schemas of its template, and no others."""
    with connection, connection.cursor() as cursor:
        cursor.execute(MARKS)
        return tuple(cursor.fetchone()) == expected


def reused(server: EmbeddedPostgres, used: list[str], template: str) -> str | None:
    """Take an unused database and empty it; return its name, or None when there is none.

    A database in which a test has left a table, a function or a schema is dropped.
    """
    expected = marks(server, template)
    while used:
        name = used.pop()
        with connected(server.dsn(name)) as connection:
            usable = is_as_made(connection, expected) and empty(connection)
        if usable:
            return name
        drop(server, name)
    return None


class Standing:
    """A database with the schema and with sessions that outlive a test; the sessions have the role of handlers.

    A new session reads the catalogue and compiles every function that it calls: 25 ms of CPU, more than the calls of
    most tests take.
    """

    def __init__(self, server: EmbeddedPostgres, name: str) -> None:
        self.name = name
        self.dsn = server.dsn(name, role=SERVICE)
        self.db = Database(self.dsn)
        self.applications: dict[str, Flask] = {}
        self._connection = psycopg2.connect(server.dsn(name))
        self._mark_when_empty = self._mark()

    def _mark(self) -> int:
        """Return a number that grows with each transaction of the server that writes."""
        with self._connection, self._connection.cursor() as cursor:
            cursor.execute('SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint')
            return int(cursor.fetchone()[0])

    def is_untouched(self) -> bool:
        """Return whether nothing was written since the database was empty."""
        return self._mark() == self._mark_when_empty

    def empty(self) -> bool:
        """Reset the database to its state after installation; return False when it can no longer be used."""
        if self.db.in_use > 0 or not (self.is_untouched() or empty(self._connection)):
            return False
        self._mark_when_empty = self._mark()
        return True

    def close(self) -> None:
        self.db.close()
        self._connection.close()
