"""The schema: that it says what it is, how it is installed and upgraded, and that sql/schema.sql shows it."""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.errors
import pytest
from dump_schema import SCHEMA, dump, dump_fresh

from nipap import schema
from nipap.db import Database
from nipap.errors import NipapError
from nipap.schema import Migration
from nipapd.embedded import EmbeddedPostgres, Installation, find_installations

# Processes of their own, forked from a server that has neither connections nor threads.
CONTEXT = multiprocessing.get_context('forkserver')
CONTEXT.set_forkserver_preload(['pytest', 'nipap.schema'])
PATIENCE_S = 60.0
INSTALLERS = 8

# Whatever the schema `public` holds, by kind: its name, and its comment.
OBJECTS = {
    'table': """SELECT relname, obj_description(oid, 'pg_class') FROM pg_class
        WHERE relkind IN ('r', 'p', 'v', 'm') AND relnamespace = 'public'::regnamespace""",
    'column': """SELECT attrelid::regclass || '.' || attname, col_description(attrelid, attnum) FROM pg_attribute
        JOIN pg_class c ON c.oid = attrelid
        WHERE relkind IN ('r', 'p', 'v', 'm') AND relnamespace = 'public'::regnamespace AND attnum > 0
        AND NOT attisdropped""",
    # What a constraint makes for itself says what it is by the constraint.
    'index': """SELECT relname, obj_description(c.oid, 'pg_class') FROM pg_class c
        WHERE relkind = 'i' AND relnamespace = 'public'::regnamespace
        AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = c.oid)""",
    'function': """SELECT oid::regprocedure::text, obj_description(oid, 'pg_proc') FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace
        AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_proc.oid AND deptype = 'e')""",
    'type': """SELECT typname, obj_description(t.oid, 'pg_type') FROM pg_type t LEFT JOIN pg_class c ON c.oid = typrelid
        WHERE typnamespace = 'public'::regnamespace AND (typtype IN ('d', 'e', 'r') OR relkind = 'c')""",
}


def ask(dsn: str, statement: str) -> list[tuple[Any, ...]]:
    """The rows of a statement, on a connection of its own."""
    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def bindir(cluster: EmbeddedPostgres) -> Path:
    """Where the programs of the running PostgreSQL are."""
    assert cluster.installation is not None
    return cluster.installation.bindir


def source() -> str:
    """All that creates tables, as it is written."""
    return '\n'.join([schema.BOOKKEEPING, *(step.text for step in schema.migrations())])


# ---------------------------------------------------------------- what is there


@pytest.mark.parametrize('kind', OBJECTS)
def test_everything_is_commented(dsn: str, kind: str) -> None:
    found = dict(ask(dsn, OBJECTS[kind]))
    assert found, f'there is no {kind}'
    assert [name for name, comment in found.items() if not comment] == []


@pytest.mark.parametrize('kind', OBJECTS)
def test_comments_are_sentences(dsn: str, kind: str) -> None:
    comments = dict(ask(dsn, OBJECTS[kind]))
    assert [f'{name}: {text}' for name, text in comments.items() if not text.endswith('.')] == []


def test_every_constraint_has_a_chosen_name(dsn: str) -> None:
    # NOT NULL is left out: from version 18 on it is a constraint too, and PostgreSQL names it.
    names = [
        row[0]
        for row in ask(
            dsn, "SELECT conname FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n'"
        )
    ]
    chosen = set(re.findall(r'\bCONSTRAINT (\w+)', source()))
    assert len(names) > 20
    assert sorted(set(names) - chosen) == []


def test_every_index_has_a_chosen_name(dsn: str) -> None:
    names = {row[0] for row in ask(dsn, "SELECT indexname FROM pg_indexes WHERE schemaname = 'public'")}
    assert sorted(names - set(re.findall(r'\b(?:CONSTRAINT|INDEX) (\w+)', source()))) == []


def test_no_name_is_cut(dsn: str) -> None:
    text = source() + schema.functions()
    assert [name for name in re.findall(r'\b(?:CONSTRAINT|INDEX|FUNCTION|TABLE) (\w+)', text) if len(name) > 63] == []


def test_migrations_are_numbered_without_gaps() -> None:
    steps = schema.migrations()
    assert [step.version for step in steps] == list(range(1, len(steps) + 1))
    assert schema.latest() == len(steps)
    assert all(re.fullmatch(r'[a-z0-9_]+', step.name) for step in steps)


# ---------------------------------------------------------------- databases that do not get it

EVERYTHING = """SELECT 'relation', oid, xmin::text, relname::text FROM pg_class WHERE oid >= 16384
UNION ALL SELECT 'function', oid, xmin::text, proname FROM pg_proc WHERE oid >= 16384
UNION ALL SELECT 'extension', oid, xmin::text, extname FROM pg_extension
UNION ALL SELECT 'namespace', oid, xmin::text, nspname FROM pg_namespace ORDER BY 1, 2"""


def refused(dsn: str) -> str:
    """Why migrate refuses a database, in which nothing changes."""
    before = ask(dsn, EVERYTHING)
    db = Database(dsn)
    try:
        with pytest.raises(NipapError) as caught:
            schema.migrate(db)
    finally:
        db.close()
    assert ask(dsn, EVERYTHING) == before
    return str(caught.value)


@pytest.mark.parametrize(
    'table', ['public.ip_net_plan', 'public.ip_net_vrf', 'ipam.ip_net_pool', 'public.ip_net_log', 'public.ip_net_asn']
)
def test_a_database_of_the_predecessor_is_refused(empty_dsn: str, table: str) -> None:
    ask(empty_dsn, f'CREATE SCHEMA ipam; CREATE TABLE {table} (prefix cidr)')
    said = refused(empty_dsn)
    assert said.startswith(f'this is a database of NIPAP ({table}), ')
    assert 'docs/migrating.md' in said
    assert (Path(__file__).parents[2] / schema.MIGRATING).is_file()


def test_tables_of_the_predecessor_beside_our_own_are_no_reason_to_stop(empty_dsn: str) -> None:
    db = Database(empty_dsn)
    try:
        schema.migrate(db)
        ask(empty_dsn, 'CREATE SCHEMA former; CREATE TABLE former.ip_net_plan (prefix cidr)')
        assert schema.migrate(db) == []
        assert schema.predecessor(db) == ['former.ip_net_plan']
    finally:
        db.close()


@pytest.mark.parametrize('encoding', ['LATIN1', 'SQL_ASCII', 'EUC_JP'])
def test_a_database_in_another_encoding_is_refused(cluster: EmbeddedPostgres, encoding: str) -> None:
    name = f'encoded_{encoding.lower()}'
    provider = "LOCALE_PROVIDER 'libc'" if cluster.installation and cluster.installation.major >= 15 else ''
    ask(
        cluster.dsn('postgres'),
        f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' {provider} LOCALE 'C'",
    )
    try:
        said = refused(cluster.dsn(name))
        assert said.startswith(f'the database has the encoding {encoding}, UTF8 is needed; nothing was changed: ')
        assert 'createdb --encoding UTF8 --template template0' in said
    finally:
        ask(cluster.dsn('postgres'), f'DROP DATABASE {name} WITH (FORCE)')


# ---------------------------------------------------------------- sql/schema.sql

UPDATE = 'sql/schema.sql is out of date: run `python tests/dump_schema.py`'


def test_the_committed_dump_is_what_is_installed(cluster: EmbeddedPostgres, dsn: str) -> None:
    assert dump(bindir(cluster), dsn) == SCHEMA.read_text(encoding='utf-8'), UPDATE


def test_the_committed_dump_is_complete(cluster: EmbeddedPostgres, empty_dsn: str) -> None:
    text = SCHEMA.read_text(encoding='utf-8')
    ask(empty_dsn, text)
    assert dump(bindir(cluster), empty_dsn) == text


@pytest.mark.parametrize('installation', find_installations(), ids=lambda found: f'PostgreSQL {found.version}')
def test_every_postgresql_of_this_host_makes_the_same_schema(installation: Installation) -> None:
    assert dump_fresh(installation) == SCHEMA.read_text(encoding='utf-8'), UPDATE


# ---------------------------------------------------------------- installing


@pytest.fixture
def empty_db(empty_dsn: str) -> Iterator[Database]:
    """A database without a schema."""
    database = Database(empty_dsn)
    yield database
    database.close()


@pytest.fixture
def own_dsn(empty_dsn: str) -> str:
    """A database with the schema, to be changed: no later test gets it."""
    schema.install(empty_dsn)
    return empty_dsn


@pytest.fixture
def own_db(own_dsn: str) -> Iterator[Database]:
    """That database."""
    database = Database(own_dsn)
    yield database
    database.close()


def contents(dsn: str) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, with the transaction that wrote it."""
    names = [row[0] for row in ask(dsn, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
    return {name: ask(dsn, f'SELECT xmin::text, t::text FROM {name} t ORDER BY 2') for name in names}


def test_a_database_without_a_schema_has_version_0(empty_db: Database) -> None:
    assert schema.version(empty_db) == 0
    assert schema.due(empty_db)


def test_installing_applies_every_migration_in_order(empty_db: Database, empty_dsn: str) -> None:
    known = schema.migrations()
    assert schema.migrate(empty_db) == [step.version for step in known]
    assert schema.version(empty_db) == schema.latest()
    assert not schema.due(empty_db)
    noted = ask(empty_dsn, 'SELECT version, name, applied <= now() FROM schema_migration ORDER BY version')
    assert noted == [(step.version, step.name, True) for step in known]


def test_installing_again_changes_nothing(cluster: EmbeddedPostgres, own_dsn: str, own_db: Database) -> None:
    before = dump(bindir(cluster), own_dsn), contents(own_dsn)
    assert schema.migrate(own_db) == []
    schema.install(own_dsn)
    assert (dump(bindir(cluster), own_dsn), contents(own_dsn)) == before


def _install(connection: Connection, dsn: str, barrier: Barrier) -> None:
    """What one of several installers does, in a process of its own."""
    db = Database(dsn)
    try:
        schema.version(db)
        barrier.wait(PATIENCE_S)
        connection.send(schema.migrate(db))
    except BaseException as exc:
        barrier.abort()
        connection.send(repr(exc))
    finally:
        db.close()
        connection.close()


def test_processes_that_install_at_once_agree(cluster: EmbeddedPostgres, empty_dsn: str) -> None:
    barrier = CONTEXT.Barrier(INSTALLERS)
    started = []
    for _ in range(INSTALLERS):
        ours, theirs = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=_install, args=(theirs, empty_dsn, barrier), daemon=True)
        process.start()
        theirs.close()
        started.append((process, ours))
    answers = [ours.recv() if ours.poll(PATIENCE_S) else 'no answer' for _, ours in started]
    for process, ours in started:
        process.join(PATIENCE_S)
        ours.close()
    assert [answer for answer in answers if not isinstance(answer, list)] == []
    assert sorted(version for answer in answers for version in answer) == [s.version for s in schema.migrations()]
    assert dump(bindir(cluster), empty_dsn) == SCHEMA.read_text(encoding='utf-8')


# ---------------------------------------------------------------- upgrading

Extend = Callable[[str], Migration]


@pytest.fixture
def extend(monkeypatch: pytest.MonkeyPatch) -> Extend:
    """Adds a migration to those that the program knows, for this test; a second call replaces it."""
    known = schema.migrations()

    def add(text: str) -> Migration:
        step = Migration(known[-1].version + 1, 'extra', text)
        monkeypatch.setattr(schema, 'migrations', lambda: [*known, step])
        return step

    return add


def test_a_new_migration_is_applied_once(own_db: Database, own_dsn: str, extend: Extend) -> None:
    step = extend('CREATE TABLE extra AS SELECT 1 AS n')
    assert schema.due(own_db)
    assert schema.migrate(own_db) == [step.version]
    assert schema.version(own_db) == step.version
    assert not schema.due(own_db)
    assert schema.migrate(own_db) == []
    assert ask(own_dsn, 'SELECT n FROM extra') == [(1,)]


def test_a_migration_may_hold_percent_signs(own_db: Database, own_dsn: str, extend: Extend) -> None:
    extend("CREATE TABLE extra AS SELECT 7 % 4 AS n, '%s' AS s")
    schema.migrate(own_db)
    assert ask(own_dsn, 'SELECT n, s FROM extra') == [(3, '%s')]


def test_a_migration_that_fails_leaves_the_database_as_it_was(
    cluster: EmbeddedPostgres, own_db: Database, own_dsn: str, extend: Extend
) -> None:
    before = dump(bindir(cluster), own_dsn), contents(own_dsn)
    extend('CREATE TABLE extra (n integer); UPDATE vrf SET name = name; SELECT 1 / 0')
    with pytest.raises(psycopg2.errors.DivisionByZero):
        schema.migrate(own_db)
    assert (dump(bindir(cluster), own_dsn), contents(own_dsn)) == before

    step = extend('CREATE TABLE extra (n integer)')
    assert schema.migrate(own_db) == [step.version]


def test_functions_are_replaced_when_their_text_changes(
    own_db: Database, own_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = schema.functions()

    def answer(number: int) -> None:
        function = f'CREATE OR REPLACE FUNCTION answer() RETURNS int LANGUAGE sql RETURN {number};'
        monkeypatch.setattr(schema, 'functions', lambda: f'{text}\n{function}')

    for number in (41, 42):
        answer(number)
        assert schema.due(own_db)
        assert schema.migrate(own_db) == []
        assert not schema.due(own_db)
        assert ask(own_dsn, 'SELECT answer()') == [(number,)]
        assert ask(own_dsn, 'SELECT fingerprint FROM schema_functions') == [(schema.fingerprint(),)]


def test_functions_that_fail_leave_the_former_ones(
    own_db: Database, own_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    former = schema.fingerprint()
    broken = 'CREATE OR REPLACE FUNCTION exp2(n int) RETURNS numeric LANGUAGE sql RETURN 0; SELECT 1 / 0'
    monkeypatch.setattr(schema, 'functions', lambda: broken)
    with pytest.raises(psycopg2.errors.DivisionByZero):
        schema.migrate(own_db)
    assert ask(own_dsn, 'SELECT exp2(4)') == [(16,)]
    assert ask(own_dsn, 'SELECT fingerprint FROM schema_functions') == [(former,)]


def test_a_database_newer_than_the_program_is_refused(own_db: Database, own_dsn: str) -> None:
    newer = schema.latest() + 1
    ask(own_dsn, f"INSERT INTO schema_migration (version, name) VALUES ({newer}, 'of a later program')")
    before = contents(own_dsn)
    with pytest.raises(NipapError) as refused:
        schema.migrate(own_db)
    text = str(refused.value)
    assert str(newer) in text
    assert str(schema.latest()) in text
    assert 'upgrade the program' in text
    assert contents(own_dsn) == before
    assert schema.version(own_db) == newer
