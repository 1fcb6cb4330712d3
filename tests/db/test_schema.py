"""The schema: comments and names, installation and upgrades, and sql/schema.sql as its copy."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.errors
import pytest
from clean_processes import context
from dump_schema import SCHEMA, dump, dump_fresh, dump_tables

from nipap.errors import NipapError
from nipap.postgres import migrations, schema
from nipap.postgres.database import Database
from nipap.postgres.migrations import Migration
from nipapd.embedded import EmbeddedPostgres, Installation, find_installations

PATIENCE_S = 60.0
INSTALLERS = 8

# All objects of our schemas, by kind: name and comment. The parts of a partition follow those of its table.
OURS = f"IN ('public'::regnamespace, 'public_v{schema.latest()}'::regnamespace)"
PAST = f"= 'public_v{schema.latest()}_past'::regnamespace"
OBJECTS = {
    'view of the past': f"""SELECT relname, obj_description(oid, 'pg_class') FROM pg_class
        WHERE relkind = 'v' AND relnamespace {PAST}""",
    'function of the past': f"""SELECT oid::regprocedure::text, obj_description(oid, 'pg_proc') FROM pg_proc
        WHERE pronamespace {PAST}""",
    'table': f"""SELECT relname, obj_description(oid, 'pg_class') FROM pg_class
        WHERE relkind IN ('r', 'p', 'v', 'm') AND relnamespace {OURS}""",
    'column': f"""SELECT attrelid::regclass || '.' || attname, col_description(attrelid, attnum) FROM pg_attribute
        JOIN pg_class c ON c.oid = attrelid
        WHERE relkind IN ('r', 'p', 'v', 'm') AND NOT relispartition AND relnamespace {OURS} AND attnum > 0
        AND NOT attisdropped""",
    # An index that a constraint makes is described by the comment of the constraint.
    'index': f"""SELECT relname, obj_description(c.oid, 'pg_class') FROM pg_class c
        WHERE relkind IN ('i', 'I') AND NOT relispartition AND relnamespace {OURS}
        AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = c.oid)""",
    'function': f"""SELECT oid::regprocedure::text, obj_description(oid, 'pg_proc') FROM pg_proc
        WHERE pronamespace {OURS}
        AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_proc.oid AND deptype = 'e')""",
    'type': f"""SELECT typname, obj_description(t.oid, 'pg_type') FROM pg_type t
        WHERE typnamespace {OURS} AND (typtype IN ('d', 'e', 'r')
        OR EXISTS (SELECT FROM pg_class c WHERE c.oid = typrelid AND relkind = 'c'))""",
}


def ask(dsn: str, statement: str) -> list[tuple[Any, ...]]:
    """Return the rows of a statement, run on a connection of its own."""
    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def bindir(cluster: EmbeddedPostgres) -> Path:
    """Return the directory with the programs of the running PostgreSQL."""
    assert cluster.installation is not None
    return cluster.installation.bindir


def source() -> str:
    """Return the source text of everything that creates tables."""
    return '\n'.join([schema.BOOKKEEPING, *(step.text for step in migrations.steps())])


# ---------------------------------------------------------------- comments and names


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
    # NOT NULL is left out: from version 18 on it is a constraint too, with a name that PostgreSQL chooses.
    names = [
        row[0]
        for row in ask(
            dsn,
            "SELECT conname FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n' "
            'AND conparentid = 0',
        )
    ]
    chosen = set(re.findall(r'\bCONSTRAINT (\w+)', source()))
    assert len(names) > 20
    assert sorted(set(names) - chosen) == []


def test_every_index_has_a_chosen_name(dsn: str) -> None:
    of_tables = "relkind IN ('i', 'I') AND NOT relispartition AND relnamespace = 'public'::regnamespace"
    names = {row[0] for row in ask(dsn, f'SELECT relname FROM pg_class WHERE {of_tables}')}
    assert sorted(names - set(re.findall(r'\b(?:CONSTRAINT|INDEX) (\w+)', source()))) == []


def test_no_name_is_cut(dsn: str) -> None:
    text = source() + migrations.functions()
    assert [name for name in re.findall(r'\b(?:CONSTRAINT|INDEX|FUNCTION|TABLE) (\w+)', text) if len(name) > 63] == []


def test_migrations_are_numbered_without_gaps() -> None:
    steps = migrations.steps()
    assert [step.version for step in steps] == list(range(1, len(steps) + 1))
    assert schema.latest() == len(steps)
    assert all(re.fullmatch(r'[a-z0-9_]+', step.name) for step in steps)


# ---------------------------------------------------------------- refused databases

EVERYTHING = """SELECT 'relation', oid, xmin::text, relname::text FROM pg_class WHERE oid >= 16384
UNION ALL SELECT 'function', oid, xmin::text, proname FROM pg_proc WHERE oid >= 16384
UNION ALL SELECT 'extension', oid, xmin::text, extname FROM pg_extension
UNION ALL SELECT 'namespace', oid, xmin::text, nspname FROM pg_namespace ORDER BY 1, 2"""


def refused(dsn: str) -> str:
    """Return the reason why migrate refuses a database; check that nothing changes in the database."""
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


def test_the_committed_dump_matches_an_installation(cluster: EmbeddedPostgres, dsn: str) -> None:
    assert dump(bindir(cluster), dsn) == SCHEMA.read_text(encoding='utf-8'), UPDATE


def test_the_committed_dump_is_complete(cluster: EmbeddedPostgres, empty_dsn: str, empty_db: Database) -> None:
    text = SCHEMA.read_text(encoding='utf-8')
    ask(empty_dsn, text)
    empty_db.run(schema.put_functions)
    assert dump(bindir(cluster), empty_dsn) == text


@pytest.mark.parametrize('installation', find_installations(), ids=lambda found: f'PostgreSQL {found.version}')
def test_every_postgresql_of_this_host_makes_the_same_schema(installation: Installation) -> None:
    assert dump_fresh(installation) == SCHEMA.read_text(encoding='utf-8'), UPDATE


# ---------------------------------------------------------------- installing


@pytest.fixture
def empty_db(empty_dsn: str) -> Iterator[Database]:
    """Yield a database without a schema."""
    database = Database(empty_dsn)
    yield database
    database.close()


@pytest.fixture
def own_dsn(empty_dsn: str) -> str:
    """Return a database with the schema that the test may change: no later test uses it."""
    schema.install(empty_dsn)
    return empty_dsn


@pytest.fixture
def own_db(own_dsn: str) -> Iterator[Database]:
    """Yield a connection to the database of `own_dsn`."""
    database = Database(own_dsn)
    yield database
    database.close()


def contents(dsn: str) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of every table, with the transaction that wrote the row."""
    names = [row[0] for row in ask(dsn, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
    return {name: ask(dsn, f'SELECT xmin::text, t::text FROM {name} t ORDER BY 2') for name in names}


def test_a_database_without_a_schema_has_version_0(empty_db: Database) -> None:
    assert schema.version(empty_db) == 0
    assert schema.due(empty_db)


def test_installing_applies_every_migration_in_order(empty_db: Database, empty_dsn: str) -> None:
    known = migrations.steps()
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
    """Install the schema in a process of its own, at the same time as the other installers."""
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
    barrier = context().Barrier(INSTALLERS)
    started = []
    for _ in range(INSTALLERS):
        ours, theirs = context().Pipe(duplex=False)
        process = context().Process(target=_install, args=(theirs, empty_dsn, barrier), daemon=True)
        process.start()
        theirs.close()
        started.append((process, ours))
    answers = [ours.recv() if ours.poll(PATIENCE_S) else 'no answer' for _, ours in started]
    for process, ours in started:
        process.join(PATIENCE_S)
        ours.close()
    assert [answer for answer in answers if not isinstance(answer, list)] == []
    assert sorted(version for answer in answers for version in answer) == [s.version for s in migrations.steps()]
    assert dump(bindir(cluster), empty_dsn) == SCHEMA.read_text(encoding='utf-8')


# ---------------------------------------------------------------- upgrading

Extend = Callable[[str], Migration]


@pytest.fixture
def extend(monkeypatch: pytest.MonkeyPatch) -> Extend:
    """Return a function that adds a migration to the known ones for this test; a second call replaces the migration."""
    known = migrations.steps()

    def add(text: str) -> Migration:
        step = Migration(known[-1].version + 1, 'extra', text)
        monkeypatch.setattr(migrations, 'steps', lambda: (*known, step))
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
    before = dump_tables(bindir(cluster), own_dsn), contents(own_dsn)
    extend('CREATE TABLE extra (n integer); UPDATE vrf SET name = name; SELECT 1 / 0')
    with pytest.raises(psycopg2.errors.DivisionByZero):
        schema.migrate(own_db)
    assert (dump_tables(bindir(cluster), own_dsn), contents(own_dsn)) == before

    step = extend('CREATE TABLE extra (n integer)')
    assert schema.migrate(own_db) == [step.version]


def with_answer(number: int) -> str:
    """Return the text of the functions with one more function, which returns the number."""
    function = f'CREATE FUNCTION answer() RETURNS int LANGUAGE sql RETURN {number};'
    return f'{function}\n{migrations.functions()}'  # the last file changes the search path


def answer_of(dsn: str, version: int) -> int:
    return int(ask(dsn, f'SELECT public_v{version}.answer()')[0][0])


def test_functions_of_a_version_are_replaced_while_it_is_developed(
    own_db: Database, own_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in [with_answer(41), with_answer(42)]:
        monkeypatch.setattr(migrations, 'functions', lambda text=text: text)
        assert schema.due(own_db)
        assert schema.migrate(own_db) == []
        assert not schema.due(own_db)
        assert schema.state(own_db).fingerprint == migrations.fingerprint()
    assert answer_of(own_dsn, schema.latest()) == 42


def test_functions_that_fail_leave_the_former_ones(
    own_db: Database, own_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    former = schema.state(own_db)
    broken = 'CREATE FUNCTION exp2(n int) RETURNS numeric LANGUAGE sql RETURN 0; SELECT 1 / 0'
    monkeypatch.setattr(migrations, 'functions', lambda: broken)
    with pytest.raises(psycopg2.errors.DivisionByZero):
        schema.migrate(own_db)
    assert own_db.read(lambda tx: tx.value('SELECT exp2(4)')) == 16
    assert schema.state(own_db) == former


# ---------------------------------------------------------------- programs of two versions

FINGERPRINTS = Path(__file__).resolve().parent.parent / 'data' / 'functions.json'


def test_no_function_is_changed_without_a_migration() -> None:
    noted = json.loads(FINGERPRINTS.read_text(encoding='utf-8'))
    assert noted.get(str(schema.latest())) == migrations.fingerprint(), (
        'The text of sql/functions has changed. Programs of two versions serve one database side by side, each with '
        'the functions of its version: add a migration, which may consist of a comment, and to '
        f'{FINGERPRINTS} its number: "{migrations.fingerprint()}". Only a version that was never released may get '
        'another fingerprint.'
    )


def test_functions_of_two_versions_stand_side_by_side(
    own_db: Database, own_dsn: str, extend: Extend, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = schema.latest()
    former, other = with_answer(41), with_answer(42)
    monkeypatch.setattr(migrations, 'functions', lambda: former)
    schema.migrate(own_db)
    extend('-- Another answer.')
    monkeypatch.setattr(migrations, 'functions', lambda: other)
    assert schema.migrate(own_db) == [ours + 1]
    assert (answer_of(own_dsn, ours), answer_of(own_dsn, ours + 1)) == (41, 42)
    assert own_db.read(schema.function_versions).keys() == {ours, ours + 1}
    newer = Database(own_dsn)  # its sessions use the search path of the latest program
    assert newer.read(lambda tx: tx.value('SELECT answer()')) == 42
    assert own_db.read(lambda tx: tx.value('SELECT answer()')) == 41, 'a session of the older program has its own'
    newer.close()


def test_a_program_that_may_serve_a_newer_schema_leaves_it_alone(
    cluster: EmbeddedPostgres, own_db: Database, own_dsn: str, extend: Extend, monkeypatch: pytest.MonkeyPatch
) -> None:
    extend('ALTER TABLE asn ADD COLUMN extra text')
    schema.migrate(own_db)
    monkeypatch.undo()
    before = dump_tables(bindir(cluster), own_dsn), contents(own_dsn)
    found = schema.state(own_db)
    assert (found.version, found.oldest_program, found.problem) == (schema.latest() + 1, schema.UNVERSIONED, '')
    assert not schema.due(own_db)
    assert schema.migrate(own_db) == []
    assert (dump_tables(bindir(cluster), own_dsn), contents(own_dsn)) == before


def test_a_program_that_may_not_serve_a_newer_schema_says_which_version_it_takes(
    cluster: EmbeddedPostgres, own_db: Database, own_dsn: str, extend: Extend, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = schema.latest()
    step = extend(f'-- Oldest program: {ours + 1}\nALTER TABLE asn DROP COLUMN name')
    assert step.oldest_program == step.version
    schema.migrate(own_db)
    assert own_db.read(schema.function_versions).keys() == {ours + 1}, 'nobody needs those of the older version'
    monkeypatch.undo()
    before = dump_tables(bindir(cluster), own_dsn), contents(own_dsn)
    with pytest.raises(NipapError) as refused:
        schema.migrate(own_db)
    assert str(refused.value) == (
        f'the schema of the database has version {ours + 1}, which takes a program of version {ours + 1} or later; '
        f'this one has version {ours}: upgrade the program'
    )
    assert (dump_tables(bindir(cluster), own_dsn), contents(own_dsn)) == before


def test_a_program_never_puts_functions_into_a_newer_schema(
    own_db: Database, extend: Extend, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = schema.latest()
    extend('-- Nothing.')
    schema.migrate(own_db)
    monkeypatch.undo()
    own_db.run(lambda tx: schema.drop_functions(tx, ours))
    with pytest.raises(NipapError, match=f'has version {ours + 1} and no functions for this program'):
        schema.migrate(own_db)
    assert own_db.read(schema.function_versions).keys() == {ours + 1}


def test_a_contracting_migration_drops_the_functions_without_a_version(
    own_db: Database, own_dsn: str, extend: Extend
) -> None:
    ask(own_dsn, 'CREATE FUNCTION former(a actor) RETURNS int LANGUAGE sql RETURN 1')
    ask(own_dsn, 'CREATE TABLE schema_functions (fingerprint text NOT NULL, signatures text[] NOT NULL)')
    ask(own_dsn, "INSERT INTO schema_functions VALUES ('former', ARRAY['former(actor)', 'words_of(prefix)'])")
    extend('-- Expands.')
    schema.migrate(own_db)
    assert ask(own_dsn, "SELECT to_regproc('public.former') IS NULL") == [(False,)]
    extend(f'-- Oldest program: {schema.latest()}')
    ask(own_dsn, f'DELETE FROM schema_migration WHERE version = {schema.latest()}')
    schema.migrate(own_db)
    gone = "SELECT to_regproc('public.former') IS NULL, to_regclass('public.schema_functions') IS NULL"
    assert ask(own_dsn, f"{gone}, to_regproc('public.words_of') IS NULL") == [(True, True, False)]


def test_a_migration_waits_for_a_lock_and_calls_do_not_wait_for_it(
    own_db: Database, own_dsn: str, extend: Extend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All other sessions would queue behind a waiting lock: the migration gives up after a moment, and tries again."""
    monkeypatch.setattr(schema, 'LOCK_PATIENCE_S', 0.1)
    monkeypatch.setattr(schema, 'PAUSE_S', 0.01)
    step = extend('ALTER TABLE asn ADD COLUMN extra text')
    holder = psycopg2.connect(own_dsn)
    with holder.cursor() as cursor:
        cursor.execute('SELECT count(*) FROM asn')
        with ThreadPoolExecutor(1) as thread:
            migrating = thread.submit(schema.migrate, own_db)
            for _ in range(20):
                ask(own_dsn, "SET statement_timeout = '30s'; SELECT count(*) FROM asn")
            assert not migrating.done()
            holder.rollback()
            assert migrating.result(PATIENCE_S) == [step.version]
    holder.close()


def test_a_database_newer_than_the_program_is_refused(own_db: Database, own_dsn: str) -> None:
    newer = schema.latest() + 1
    note = 'INSERT INTO schema_migration (version, name, oldest_program)'
    ask(own_dsn, f"{note} VALUES ({newer}, 'of a later program', {newer})")
    before = contents(own_dsn)
    with pytest.raises(NipapError) as refused:
        schema.migrate(own_db)
    text = str(refused.value)
    assert str(newer) in text
    assert str(schema.latest()) in text
    assert 'upgrade the program' in text
    assert contents(own_dsn) == before
    assert schema.version(own_db) == newer
