"""Rows of a dump: text in another form than that of `pg_restore` stops the restore, and nothing is changed."""

from __future__ import annotations

import io
from collections.abc import Iterator

import psycopg2
import pytest

from nipap.errors import NipapError
from nipap.integrity import restore
from nipap.integrity.restore import Rows
from nipap.postgres import schema
from nipap.postgres.database import Database
from nipap.postgres.transaction import Transaction

HEADER = b"--\n-- Data\n--\n\nSET statement_timeout = 0;\nSELECT pg_catalog.set_config('search_path', '', false);\n"
ROWS = b'COPY public.asn (asn, name) FROM stdin;\n1\tone\n2\ttwo\n\\.\n'
POOL_7 = b"SELECT pg_catalog.setval('public.pool_id_seq', 7, true);\n"


def names(db: Database) -> list[str]:
    return [row[0] for row in db.run(lambda tx: tx.all('SELECT name FROM asn ORDER BY asn'))]


def load(db: Database, data: bytes) -> list[str]:
    """Load the data, with an empty entry appended for each table that is not in the data."""

    def work(tx: Transaction) -> list[str]:
        restore.clear(tx)
        restore.create(tx, schema.latest())
        rest = b''.join(
            f'COPY {home}.{name} ({", ".join(table.columns.values())}) FROM stdin;\n\\.\n'.encode()
            for (home, name), table in sorted(restore._tables(tx).items())
            if f'COPY {home}.{name} '.encode() not in data
        )
        left_out = restore.load(tx, io.BytesIO(HEADER + data + rest))
        schema.put_functions(tx)
        return left_out

    return db.run(work)


def test_rows_follow_the_table_that_they_belong_to(db: Database) -> None:
    assert load(db, ROWS + POOL_7) == []
    assert names(db) == ['one', 'two']
    assert db.run(lambda tx: tx.value("SELECT nextval('pool_id_seq')")) == 8


def test_rows_of_other_tables_and_positions_of_other_sequences_are_left_out(db: Database) -> None:
    db.run(lambda tx: tx.execute('CREATE SCHEMA other; CREATE SEQUENCE other.s'))
    other = b'COPY public."o""ther" (a, "B c") FROM stdin;\n1\tx\n\\.\nCOPY other.asn (asn) FROM stdin;\n\\.\n'
    assert load(db, other + ROWS + b"SELECT pg_catalog.setval('other.s', 9, true);\n") == ['public.o"ther', 'other.asn']
    assert names(db) == ['one', 'two']
    assert db.run(lambda tx: tx.value("SELECT nextval('other.s')")) == 1
    db.run(lambda tx: tx.execute('DROP SCHEMA other CASCADE'))


def test_the_lists_of_migrations_and_functions_are_not_restored(db: Database) -> None:
    """The names of functions become SQL when the functions are dropped."""
    before = db.run(lambda tx: tx.all('SELECT version, name FROM schema_migration ORDER BY 1'))
    migration = b'COPY public.schema_migration (version, name) FROM stdin;\n99\tx\n\\.\n'
    functions = b'COPY public.schema_functions (signatures) FROM stdin;\n{x(); DROP TABLE prefix}\n\\.\n'
    assert load(db, migration + functions) == []
    assert db.run(lambda tx: tx.all('SELECT version, name FROM schema_migration ORDER BY 1')) == before


def test_rows_are_written_with_the_rights_of_a_role_that_has_no_others(db: Database) -> None:
    """A hostile domain of ours could not run a command; the role is gone afterwards."""
    former = db.run(lambda tx: tx.value('SELECT current_user'))
    seen: list[str] = []

    def work(tx: Transaction) -> None:
        tables = restore._tables(tx)
        with restore._as_unprivileged(tx, list(tables.values())):
            seen.append(tx.value('SELECT current_user'))
            assert not tx.value('SELECT rolsuper OR rolcanlogin FROM pg_roles WHERE rolname = current_user')
            tx.execute('INSERT INTO asn (asn) VALUES (1)')
            for statement in (
                'SELECT * FROM asn',
                'DELETE FROM asn',
                "COPY asn FROM PROGRAM 'true'",
                'CREATE TABLE t ()',
            ):
                tx.execute('SAVEPOINT s')
                with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                    tx.execute(statement)
                tx.execute('ROLLBACK TO s')
        assert tx.value('SELECT current_user') == former

    db.run(work)
    assert seen[0] != former
    assert db.run(lambda tx: tx.all("SELECT rolname FROM pg_roles WHERE rolname LIKE 'nipap_restore%%'")) == []


@pytest.fixture
def plain_db(empty_dsn: str) -> Iterator[Database]:
    """Yield an empty database, used by its owner, a role without any other right."""
    name = psycopg2.extensions.parse_dsn(empty_dsn)['dbname']
    role = f'plain_{name}'
    admin = psycopg2.connect(empty_dsn)
    admin.autocommit = True
    with admin.cursor() as cursor:
        cursor.execute(f'CREATE ROLE {role}; ALTER DATABASE {name} OWNER TO {role}')
        database = Database(psycopg2.extensions.make_dsn(empty_dsn, options=f'-c role={role}'))
        yield database
        database.close()
        cursor.execute(f'ALTER DATABASE {name} OWNER TO CURRENT_USER; DROP OWNED BY {role} CASCADE; DROP ROLE {role}')
    admin.close()


def test_the_owner_of_a_database_restores_too(plain_db: Database) -> None:
    """Configured servers rarely grant us more."""
    rights = 'SELECT rolsuper OR rolcreaterole OR rolcreatedb FROM pg_roles WHERE rolname = current_user'
    assert not plain_db.read(lambda tx: tx.value(rights))
    assert load(plain_db, ROWS) == []
    assert names(plain_db) == ['one', 'two']
    assert schema.migrate(plain_db) == []
    assert schema.state(plain_db).problem == ''


@pytest.mark.parametrize(
    ('data', 'reason'),
    [
        (ROWS + b"DO $$BEGIN EXECUTE 'DROP TABLE prefix'; END$$;\n", 'data of an unknown form'),
        (ROWS + b"COPY public.asn (asn) FROM PROGRAM 'id';\n", 'data of an unknown form'),
        (b'COPY public.asn (asn) FROM stdin; DROP TABLE prefix;\n\\.\n', 'data of an unknown form'),
        (b'COPY public.asn (asn; x) FROM stdin;\n\\.\n', 'data of an unknown form'),
        (b'COPY public.asn (asn, nmae) FROM stdin;\n\\.\n', "columns that public.asn does not have: 'nmae'"),
        (ROWS + POOL_7.replace(b', true', b', true); DROP TABLE prefix; SELECT (1'), 'data of an unknown form'),
        (ROWS + POOL_7.replace(b'pool_id_seq', b"x''); DROP TABLE prefix; --"), 'data of an unknown form'),
        (ROWS + ROWS, 'the table asn twice'),
        (ROWS.removesuffix(b'\\.\n'), 'ends within the rows of a table'),
        (b'COPY public.other (a) FROM stdin;\n1\n', 'ends within the rows of a table'),
    ],
)
def test_another_form_is_refused_and_nothing_stays(db: Database, data: bytes, reason: str) -> None:
    with pytest.raises(NipapError, match=reason):
        db.run(lambda tx: restore.load(tx, io.BytesIO(HEADER + data)))
    assert names(db) == []


def test_a_dump_that_lacks_a_table_is_refused(db: Database) -> None:
    with pytest.raises(NipapError, match='The dump lacks tables: audit_detached, audit_log, '):
        db.run(lambda tx: restore.load(tx, io.BytesIO(HEADER + ROWS)))
    assert names(db) == []


def test_rows_are_read_as_a_file() -> None:
    """psycopg2 reads by size or by line."""
    rest = b'COPY other FROM stdin;\n'

    def rows() -> Rows:
        return Rows(io.BytesIO(b'1\tone\n2\ttwo\n\\.\n' + rest))

    assert (rows().read(), rows().read(3)) == (b'1\tone\n2\ttwo\n', b'1\to')
    by_line = rows()
    assert by_line.read(2) == b'1\t'
    assert [by_line.readline(), by_line.readline(), by_line.readline()] == [b'one\n', b'2\ttwo\n', b'']
