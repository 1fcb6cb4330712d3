"""Replace the contents of a database by the data of a dump, in the transaction of the caller.

Only data is read from a dump: the rows of our tables and the positions of our sequences. The schema comes from our own
migrations, so that no constraint, function, trigger, view, comment or operator of a dump ever reaches the database, and
nothing in a dump is executed. Rows are written with the rights of a role that can do nothing else.

``pg_restore --single-transaction --clean`` cannot do that, and commits before anything could be migrated or checked.
Restoring into a second database and renaming it takes the right to create databases, which the role of a configured
server rarely has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from nipap.errors import NipapError
from nipap.history import partitions
from nipap.history.partitions import Layout
from nipap.postgres import schema
from nipap.postgres.transaction import Transaction

# Tables of ours that are not restored: their rows say which migrations and functions this database has.
LOG = 'audit_log'
PARTITIONED = 19  # since this version the audit log has partitions
BOOKKEEPING = frozenset({'schema_migration', 'schema_functions'})
CUT_OFF = 'The dump ends within the rows of a table'
UNKNOWN_FORM = 'The dump has data of an unknown form'

_NAME = r'([a-z_][a-z0-9_]*|"(?:[^"]|"")+")'
_COPY = re.compile(rf'COPY {_NAME}\.{_NAME} \((.+)\) FROM stdin;\n')
_COLUMNS = re.compile(rf'{_NAME}(?:, |$)')
_SETVAL = re.compile(r"SELECT pg_catalog\.setval\('((?:[^']|'')+)', (-?[0-9]{1,19}), (true|false)\);\n")
_SEQUENCE = re.compile(rf'{_NAME}\.{_NAME}')
_NOISE = re.compile(r'\s*$|--|SET |SELECT pg_catalog\.set_config\(|\\(un)?restrict ')

_HELD = """SELECT 'prefixes', count(*) FROM prefix UNION ALL SELECT 'pools', count(*) FROM pool
UNION ALL SELECT 'VRFs', count(*) FROM vrf WHERE id <> 0 UNION ALL SELECT 'AS numbers', count(*) FROM asn
UNION ALL SELECT 'audit entries', count(*) FROM audit_log"""

_OURS = """{0} = current_setting('nipap.home')::regnamespace AND NOT EXISTS (
    SELECT FROM pg_depend WHERE classid = '{1}'::regclass AND objid = {1}.oid AND deptype = 'e')"""
_RELATIONS = f"""SELECT CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE'
    WHEN 'f' THEN 'FOREIGN TABLE' WHEN 'c' THEN 'TYPE' ELSE 'TABLE' END, oid::regclass::text FROM pg_class
WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c') AND {_OURS.format('relnamespace', 'pg_class')}
ORDER BY relkind = 'S'"""  # sequences last: a table takes the sequences of its columns with it
_ROUTINES = f"""SELECT 'ROUTINE', oid::regprocedure::text FROM pg_proc
WHERE prokind <> 'a' AND {_OURS.format('pronamespace', 'pg_proc')}"""
_TYPES = f"""SELECT 'TYPE', oid::regtype::text FROM pg_type
WHERE typtype IN ('d', 'e', 'r') AND {_OURS.format('typnamespace', 'pg_type')}"""
_ELSEWHERE = """SELECT (SELECT count(*) FROM pg_class WHERE relnamespace <> current_setting('nipap.home')::regnamespace
        AND relkind IN ('r', 'p', 'v', 'm', 'f') AND relpersistence <> 't')
    + (SELECT count(*) FROM pg_proc WHERE pronamespace <> current_setting('nipap.home')::regnamespace)
    + (SELECT count(*) FROM pg_constraint WHERE connamespace <> current_setting('nipap.home')::regnamespace)"""
_OTHERS = """SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND usename IS NOT NULL"""


def others(tx: Transaction) -> int:
    """Return how many other sessions have the database open."""
    return int(tx.value(_OTHERS))


def held(tx: Transaction) -> list[str]:
    """Return the number of objects of each kind in the database, without the objects of a new installation."""
    if tx.value("SELECT to_regclass('schema_migration')") is None:
        found = len(tx.all(_RELATIONS))
        return [f'{found} tables of another program'] if found else []
    if tx.value("SELECT to_regclass('prefix')") is None:
        return []
    return [f'{count} {kind}' for kind, count in tx.all(_HELD) if count]


def namespace(tx: Transaction) -> str:
    """Return the schema of PostgreSQL that holds all our objects except the functions."""
    return schema.home(tx)


def extensions(tx: Transaction) -> list[str]:
    """Return the extensions that are installed in our schema."""
    found = tx.all(
        "SELECT extname FROM pg_extension WHERE extnamespace = current_setting('nipap.home')::regnamespace ORDER BY 1"
    )
    return [str(name) for (name,) in found]


def last_change(tx: Transaction) -> int | None:
    """Return the id of the last audit entry. A caller compares it later to detect changes."""
    found: int | None = tx.value('SELECT max(id) FROM audit_log')
    return found


def clear(tx: Transaction) -> None:
    """Drop our functions and everything in our schema except extensions.

    :raises NipapError: objects outside our schema would be dropped too.
    """
    for version in schema.function_versions(tx):
        schema.drop_functions(tx, version)
    before = tx.value(_ELSEWHERE)
    for query in (_RELATIONS, _ROUTINES, _TYPES):
        for kind, name in tx.all(query):
            # The objects may refer to each other, so an earlier CASCADE may have dropped this one already.
            tx.execute(f'DROP {kind} IF EXISTS {name} CASCADE')
    if tx.value(_ELSEWHERE) != before:
        raise NipapError(
            'Other schemas of the database have views, functions or keys that refer to objects to be replaced'
        )


@dataclass(frozen=True)
class Table:
    """A table of ours, with the columns that a dump may fill, by name. `sql` and the values are quoted for SQL."""

    sql: str
    columns: dict[str, str]


# The schema and the name of a table or sequence.
Name = tuple[str, str]


def create(tx: Transaction, version: int, layout: Layout | None = None) -> None:
    """Create the empty tables of a schema version by our own migrations.

    layout: the partitions of the audit log. Without it the log has the partitions of a new database.

    The database must be empty (`clear`). Later migrations are applied to the restored rows, by `schema.migrate`.
    """
    schema.create_tables(tx, version)
    tx.execute(f'TRUNCATE {", ".join(table.sql for table in _tables(tx).values())}')
    if layout and version >= PARTITIONED:
        partitions.replace(tx, layout)


def load(tx: Transaction, data: IO[bytes]) -> list[str]:
    """Fill the empty tables with the rows of a dump. Return the names of skipped tables, which are none of ours.

    Rows of a partition are written through its table, except those of a detached one.

    :raises NipapError: the dump has anything but rows and positions of sequences, or lacks a table.
    """
    tables = _tables(tx)
    left_out: list[str] = []
    with _without_indexes(tx), _as_unprivileged(tx, list(tables.values())):
        positions = _copy(tx, data, tables, left_out)
    if tx.value("SELECT to_regclass('audit_detached')"):  # a dump by an older program has no layout
        tx.execute('DELETE FROM audit_detached WHERE to_regclass(name) IS NULL')
    for sequence, position, is_called in positions:
        _set_position(tx, sequence, position, is_called)
    if tables:
        raise NipapError(f'The dump lacks tables: {", ".join(sorted(name for _, name in tables))}')
    return left_out


def analyze(tx: Transaction) -> None:
    """Collect the planner's statistics, so that the first query after the restore has a good plan."""
    for table in _tables(tx, bookkeeping=True).values():
        tx.execute(f'ANALYZE {table.sql}')


_TABLES = """SELECT nspname, relname, format('%%I.%%I', nspname, relname),
    array_agg(attname::text), array_agg(quote_ident(attname))
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace JOIN pg_attribute ON attrelid = c.oid
WHERE relkind IN ('r', 'p') AND NOT relispartition AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
    AND relname <> ALL (%s)
    AND nspname = current_setting('nipap.home')
GROUP BY 1, 2"""


def _tables(tx: Transaction, *, bookkeeping: bool = False) -> dict[Name, Table]:
    """Return the tables to restore, or all of them. Partitions are left out."""
    return {
        (home, name): Table(sql, dict(zip(columns, quoted, strict=True)))
        for home, name, sql, columns, quoted in tx.all(_TABLES, ([] if bookkeeping else list(BOOKKEEPING),))
    }


# ---------------------------------------------------------------- indexes, keys and triggers

_KEYS = """SELECT conrelid::regclass::text, quote_ident(conname), pg_get_constraintdef(oid),
    obj_description(oid, 'pg_constraint')
FROM pg_constraint WHERE contype = 'f' AND conparentid = 0
    AND connamespace = current_setting('nipap.home')::regnamespace"""
# Those of partitions come first: their table takes them over.
_INDEXES = """SELECT indexrelid::regclass::text, i.relispartition,
    replace(pg_get_indexdef(indexrelid), ' ON ONLY ', ' ON '), obj_description(indexrelid, 'pg_class')
FROM pg_index JOIN pg_class t ON t.oid = indrelid JOIN pg_class i ON i.oid = indexrelid
WHERE t.relnamespace = current_setting('nipap.home')::regnamespace AND t.relkind IN ('r', 'p')
    AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid AND contype IN ('p', 'u', 'x'))
ORDER BY i.relispartition DESC"""


@contextmanager
def _without_indexes(tx: Transaction) -> Iterator[None]:
    """Drop indexes and foreign keys and disable triggers, then restore them.

    A dump has rows in any order, and derived rows too. Building an index is faster than maintaining it row by row.
    """
    tables = [name for kind, name in tx.all(_RELATIONS) if kind == 'TABLE']
    keys, indexes = tx.all(_KEYS), tx.all(_INDEXES)
    for table, name, _, _ in keys:
        tx.execute(f'ALTER TABLE {table} DROP CONSTRAINT {name}')
    for index, follows, _, _ in indexes:
        if not follows:
            tx.execute(f'DROP INDEX {index}')
    for table in tables:
        tx.execute(f'ALTER TABLE {table} DISABLE TRIGGER USER')
    yield
    for table in tables:
        tx.execute(f'ALTER TABLE {table} ENABLE TRIGGER USER')
    for index, _, definition, comment in indexes:
        tx.execute(definition)
        if comment is not None:
            tx.execute(f'COMMENT ON INDEX {index} IS %s', (comment,))
    for table, name, definition, comment in keys:
        tx.execute(f'ALTER TABLE {table} ADD CONSTRAINT {name} {definition}')
        if comment is not None:
            tx.execute(f'COMMENT ON CONSTRAINT {name} ON {table} IS %s', (comment,))


@contextmanager
def _as_unprivileged(tx: Transaction, tables: Sequence[Table]) -> Iterator[None]:
    """Restrict the session of a superuser to inserting into these tables, by a role without other rights.

    The role exists in this transaction alone. The session of any other role stays as it is.
    """
    if not tx.value('SELECT rolsuper FROM pg_roles WHERE rolname = current_user'):
        yield
        return
    role = f'nipap_restore_{tx.value("SELECT pg_current_xact_id()::text")}'
    home = tx.value("SELECT quote_ident(current_setting('nipap.home'))")
    tx.execute(f'CREATE ROLE {role} NOLOGIN')
    tx.execute(f'GRANT USAGE ON SCHEMA {home} TO {role}')
    tx.execute(f'GRANT INSERT ON {", ".join(table.sql for table in tables)} TO {role}')
    former = tx.value('SHOW role')
    tx.execute(f'SET LOCAL ROLE {role}')
    yield
    tx.execute("SELECT set_config('role', %s, true)", (former,))
    tx.execute(f'DROP OWNED BY {role}; DROP ROLE {role}')


# ---------------------------------------------------------------- the text of the dump

# The name of a sequence, its last value, and whether that value was used.
Position = tuple[Name, int, bool]


def _copy(tx: Transaction, data: IO[bytes], tables: dict[Name, Table], left_out: list[str]) -> list[Position]:
    """Copy the rows of the dump and remove the filled tables from `tables`. Return the positions of sequences.

    Names are looked up among ours and statements are composed anew: no statement of the dump is executed.
    """
    positions: list[Position] = []
    filled: set[Name] = set()
    ours = namespace(tx)
    of_log = tables.get((ours, LOG))
    for line in data:
        text = line.decode(errors='replace')
        if copied := _COPY.fullmatch(text):
            home, name = _unquoted(copied[1]), _unquoted(copied[2])
            if (home, name) in filled:
                raise NipapError(f'The dump has the table {name} twice')
            filled.add((home, name))
            table = tables.pop((home, name), None)
            if table is None and home == ours and partitions.NAME.fullmatch(name):
                table = of_log
                tables.pop((home, LOG), None)
            if table:
                _copy_rows(tx, _statement(table, copied[3]), Rows(data))
            else:
                Rows(data).skip()
                if name not in BOOKKEEPING:
                    left_out.append(f'{home}.{name}')
        elif found := _SETVAL.fullmatch(text):
            positions.append((_sequence(found[1].replace("''", "'")), int(found[2]), found[3] == 'true'))
        elif not _NOISE.match(text):
            raise NipapError(UNKNOWN_FORM)
    return positions


def _statement(table: Table, listed: str) -> str:
    """Compose the COPY statement for the listed columns of a table."""
    found = list(_COLUMNS.finditer(listed))
    names = [_unquoted(each[1]) for each in found]
    if ''.join(each[0] for each in found) != listed:
        raise NipapError(UNKNOWN_FORM)
    if unknown := [name for name in names if name not in table.columns]:
        raise NipapError(f'The dump has columns that {table.sql} does not have: {", ".join(map(ascii, unknown))}')
    return f'COPY {table.sql} ({", ".join(table.columns[name] for name in names)}) FROM stdin'


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def _sequence(text: str) -> Name:
    found = _SEQUENCE.fullmatch(text)
    if found is None:
        raise NipapError(UNKNOWN_FORM)
    return _unquoted(found[1]), _unquoted(found[2])


_SET = """SELECT setval(c.oid, %s, %s) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE relkind = 'S' AND nspname = current_setting('nipap.home') AND nspname = %s AND relname = %s"""


def _set_position(tx: Transaction, sequence: Name, position: int, is_called: bool) -> None:
    """Set the position of a sequence, if it is one of ours."""
    tx.execute(_SET, (position, is_called, *sequence))


def _copy_rows(tx: Transaction, statement: str, rows: Rows) -> None:
    """Send the rows of one table to the database.

    :raises NipapError: the file is cut off. psycopg2 then cancels the statement and reports only the cancellation.
    """
    try:
        tx.copy_in(statement, rows)
    except Exception as error:
        if rows.is_cut_off:
            raise NipapError(CUT_OFF) from error
        raise


class Rows:
    """The rows after a COPY statement, up to their end mark, as a file."""

    def __init__(self, data: IO[bytes]) -> None:
        self._lines = self._until_end(data)
        self._rest = b''
        self.is_cut_off = False

    def _until_end(self, data: IO[bytes]) -> Iterator[bytes]:
        for line in data:
            if line == b'\\.\n':
                return
            yield line
        self.is_cut_off = True
        raise EOFError('the rows of a table are cut off')

    def read(self, size: int = -1) -> bytes:
        """Return the next `size` bytes, all if negative; b'' at the end."""
        parts, length = [self._rest], len(self._rest)
        while size < 0 or length < size:
            line = next(self._lines, b'')
            if not line:
                break
            parts.append(line)
            length += len(line)
        found = b''.join(parts)
        if size < 0:
            size = len(found)
        self._rest = found[size:]
        return found[:size]

    def skip(self) -> None:
        """Read all rows and drop them."""
        try:
            for _ in self._lines:
                pass
        except EOFError as error:
            raise NipapError(CUT_OFF) from error

    def readline(self, _size: int = -1) -> bytes:
        """Return the next row; b'' at the end."""
        rest, self._rest = self._rest, b''
        return rest or next(self._lines, b'')
