"""Puts what ``pg_dump`` has written in the place of what a database holds, in a transaction that is given.

Not by ``pg_restore --single-transaction --clean``: that leaves what is not in the file, such as the tables of a newer
schema, and commits before anything could be migrated or checked. Not by a second database that is renamed either: that
takes the right to create databases, which the role of a configured server rarely has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO

from nipap.errors import NipapError
from nipap.postgres import schema
from nipap.postgres.transaction import Transaction

MARK = '-- Name: '  # begins the comment before each object in the text that pg_restore writes
END = '-- PostgreSQL database dump complete'

_HELD = """SELECT 'prefixes', count(*) FROM prefix UNION ALL SELECT 'pools', count(*) FROM pool
UNION ALL SELECT 'VRFs', count(*) FROM vrf WHERE id <> 0 UNION ALL SELECT 'AS numbers', count(*) FROM asn
UNION ALL SELECT 'audit entries', count(*) FROM audit_log"""

_OURS = """{0} = current_setting('nipap.home')::regnamespace AND NOT EXISTS (
    SELECT FROM pg_depend WHERE classid = '{1}'::regclass AND objid = {1}.oid AND deptype = 'e')"""
_RELATIONS = f"""SELECT CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE'
    WHEN 'f' THEN 'FOREIGN TABLE' WHEN 'c' THEN 'TYPE' ELSE 'TABLE' END, oid::regclass::text FROM pg_class
WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c') AND {_OURS.format('relnamespace', 'pg_class')}
ORDER BY relkind = 'S'"""  # those of columns go with their table
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
    """How many other sessions have the database open."""
    return int(tx.value(_OTHERS))


def held(tx: Transaction) -> list[str]:
    """What the database holds beside what an installation puts there, by kind and number."""
    if tx.value("SELECT to_regclass('schema_migration')") is None:
        found = len(tx.all(_RELATIONS))
        return [f'{found} tables that are none of ours'] if found else []
    if tx.value("SELECT to_regclass('prefix')") is None:
        return []
    return [f'{count} {kind}' for kind, count in tx.all(_HELD) if count]


def namespace(tx: Transaction) -> str:
    """The schema of PostgreSQL that everything of ours is in, but the functions."""
    return schema.home(tx)


def extensions(tx: Transaction) -> list[str]:
    """The extensions that were installed beside it."""
    found = tx.all(
        "SELECT extname FROM pg_extension WHERE extnamespace = current_setting('nipap.home')::regnamespace ORDER BY 1"
    )
    return [str(name) for (name,) in found]


def last_change(tx: Transaction) -> int | None:
    """Return the id of the last entry of the audit log, which tells later whether anything was changed since."""
    found: int | None = tx.value('SELECT max(id) FROM audit_log')
    return found


def clear(tx: Transaction) -> None:
    """Drop everything in our schema, extensions aside, and our functions.

    :raises NipapError: something outside of it would go too.
    """
    for version in schema.function_versions(tx):
        schema.drop_functions(tx, version)
    before = tx.value(_ELSEWHERE)
    for query in (_RELATIONS, _ROUTINES, _TYPES):
        for kind, name in tx.all(query):
            tx.execute(f'DROP {kind} IF EXISTS {name} CASCADE')  # they refer to each other
    if tx.value(_ELSEWHERE) != before:
        raise NipapError('Other schemas of the database have views, functions or keys that refer to what is replaced')


def load(tx: Transaction, needed: list[str], before_data: str, data: IO[bytes], after_data: str) -> None:
    """Create what the three parts of a dump describe; where objects are looked up is afterwards as it was."""
    path = tx.value('SHOW search_path')
    for name in needed:
        tx.execute(f'CREATE EXTENSION IF NOT EXISTS {name}')
    tx.execute("SET LOCAL search_path = ''; SET LOCAL check_function_bodies = off")
    tx.execute(_body(before_data))
    _copy(tx, data)
    tx.execute(_body(after_data))
    tx.execute("SELECT set_config('search_path', %s, true)", (path,))
    tx.execute('SET LOCAL check_function_bodies = on')


def analyze(tx: Transaction) -> None:
    """Tell the planner what is there: queries are planned for it from the first one on."""
    for kind, name in tx.all(_RELATIONS):
        if kind == 'TABLE':
            tx.execute(f'ANALYZE {name}')


def _body(text: str) -> str:
    """The text without what surrounds the objects: settings that older servers do not know, and commands of psql."""
    _, mark, rest = text.partition(MARK)
    return f'{mark}{rest.rpartition(END)[0]}' or 'SELECT'


def _copy(tx: Transaction, data: IO[bytes]) -> None:
    """Run the part with the data, in which rows follow the COPY that they belong to."""
    for line in data:
        if line.startswith(b'COPY '):
            if not line.endswith(b' FROM stdin;\n'):
                raise NipapError('The dump has data of an unknown form')
            _copy_rows(tx, line.decode(), Rows(data))
        elif line.startswith(b'SELECT pg_catalog.setval('):
            tx.execute(line.decode())
        elif not re.match(rb'\s*$|--|SET |SELECT pg_catalog\.set_config\(|\\(un)?restrict ', line):
            raise NipapError('The dump has data of an unknown form')


def _copy_rows(tx: Transaction, statement: str, rows: Rows) -> None:
    """Send the rows of one table.

    :raises NipapError: the file is cut off. psycopg2 then cancels the statement, and tells of that alone.
    """
    try:
        tx.copy_in(statement, rows)
    except Exception as error:
        if rows.is_cut_off:
            raise NipapError('The dump ends amid the rows of a table') from error
        raise


class Rows:
    """The rows that follow a COPY, up to the line that ends them, as a file."""

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
        """The next bytes, none at the end."""
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

    def readline(self, _size: int = -1) -> bytes:
        """The next row."""
        rest, self._rest = self._rest, b''
        return rest or next(self._lines, b'')
