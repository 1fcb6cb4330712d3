"""Install and upgrade the schema: numbered migrations, then the functions of this program's version.

Each migration is one transaction and runs once. All migrations run under one advisory lock, so any number of daemons
may start at once. Functions of other versions stay as they are: programs of several versions serve one database side by
side. A migration that removes objects needed by older programs names the oldest program that may still serve, and drops
the functions of older versions.
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from nipap.errors import NipapError
from nipap.postgres import advisory, migrations
from nipap.postgres.database import Database, LockNotAvailable
from nipap.postgres.transaction import Inside, Transaction
from nipap.runtime import waiting

log = logging.getLogger('nipap.postgres.schema')

# Up to this version all functions were in the schema of the tables, and only one version of them existed.
UNVERSIONED = 8
LOCK_PATIENCE_S = 2.0  # calls may queue for this long behind a migration that waits for a lock
PAUSE_S = 1.0  # at most, until the migration tries again

ENCODING = 'UTF8'
MIGRATING = 'docs/migrating.md'

# Tables of NIPAP, a program with another schema, anywhere in the database.
_PREDECESSOR = """SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relname IN ('ip_net_plan', 'ip_net_vrf', 'ip_net_pool', 'ip_net_asn', 'ip_net_log')
ORDER BY 1"""

BOOKKEEPING = """
CREATE TABLE IF NOT EXISTS schema_migration (
    version integer CONSTRAINT schema_migration_pkey PRIMARY KEY,
    name text NOT NULL,
    applied timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE schema_migration IS 'The migrations applied to this database.';
COMMENT ON COLUMN schema_migration.version IS 'Number of the migration; the highest is the version of the schema.';
COMMENT ON COLUMN schema_migration.name IS 'Name of the migration.';
COMMENT ON COLUMN schema_migration.applied IS 'When the migration was applied.';
DO $$ BEGIN
    -- The first schema did not note which functions are in place. It had none but those, and what extensions bring.
    IF to_regclass('schema_functions') IS NOT NULL AND NOT EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = to_regclass('schema_functions') AND attname = 'signatures'
    ) THEN
        ALTER TABLE schema_functions ADD signatures text[] NOT NULL DEFAULT '{}';
        ALTER TABLE schema_functions ALTER signatures DROP DEFAULT;
        UPDATE schema_functions SET signatures = ARRAY(
            SELECT oid::regprocedure::text FROM pg_proc f WHERE pronamespace = current_schema()::regnamespace
            AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = f.oid AND deptype = 'e'))
        WHERE (SELECT max(version) FROM schema_migration) = 1;
    END IF;
END $$;
"""


class State(NamedTuple):
    """The schema and the functions that a program finds in a database.

    version: the version of the schema; 0 without a schema.
    oldest_program: the oldest version that may serve the database.
    fingerprint: the hash of the functions of this program's version; None if these functions are not in the database.
    """

    version: int
    oldest_program: int
    fingerprint: str | None

    @property
    def is_ours(self) -> bool:
        """Return whether the functions of this program are in the database, with the text that this program knows."""
        return self.fingerprint == migrations.fingerprint()

    @property
    def problem(self) -> str:
        """The reason why this program cannot serve the database; empty if it can."""
        ours = migrations.latest()
        if self.version < ours:
            return f'the schema of the database has version {self.version}, this program needs {ours}'
        if self.oldest_program > ours:
            return (
                f'the schema of the database has version {self.version}, which takes a program of version '
                f'{self.oldest_program} or later; this one has version {ours}'
            )
        if self.is_ours:
            return ''
        if self.version > ours:
            return (
                f'the schema of the database has version {self.version} and no functions for this program, which has '
                f'version {ours}'
            )
        return f'the functions in the database differ from those of version {ours} in this program'

    @property
    def is_newer(self) -> bool:
        """Return whether this program does not know the version of the schema."""
        return self.version > migrations.latest()


def state(db: Database | Inside) -> State:
    """Read the state of the database."""
    return db.read(_state)


def _state(tx: Transaction) -> State:
    if not _exists(tx, 'schema_migration'):
        return State(0, 0, None)
    version = int(tx.value('SELECT coalesce(max(version), 0) FROM schema_migration'))
    oldest = version
    if version > UNVERSIONED:
        oldest = int(tx.value('SELECT oldest_program FROM schema_migration WHERE version = %s', (version,)))
    return State(version, oldest, function_versions(tx).get(migrations.latest()))


def version(db: Database | Inside) -> int:
    """Return the version of the schema in the database; 0 without a schema."""
    return state(db).version


def version_in(tx: Transaction) -> int:
    """Return the version of the schema in the database; 0 without a schema."""
    return _state(tx).version


def latest() -> int:
    """Return the version of this program and of the schema that it creates."""
    return migrations.latest()


def predecessor(db: Database | Inside) -> list[str]:
    """Return the tables of NIPAP that the database holds."""
    return [str(name) for (name,) in db.read(lambda tx: tx.all(_PREDECESSOR))]


def check_database(db: Database | Inside) -> None:
    """Refuse a database that must not get the schema or cannot store every text. The database is not changed.

    :raises NipapError: its encoding is not UTF8, or it is a database of NIPAP.
    """
    encoding = db.read(lambda tx: tx.value('SHOW server_encoding'))
    if encoding != ENCODING:
        raise NipapError(
            f'the database has the encoding {encoding}, {ENCODING} is needed; nothing was changed: '
            f'make another one with createdb --encoding {ENCODING} --template template0'
        )
    tables = predecessor(db)
    if tables and version(db) == 0:
        raise NipapError(
            f'this is a database of NIPAP ({", ".join(tables)}), and its addresses would be treated as free; '
            f'nothing was changed: {MIGRATING} says how to import its contents'
        )


def due(db: Database) -> bool:
    """Return whether `migrate` would change anything."""
    found = state(db)
    return not found.is_newer and bool(found.problem)


def migrate(db: Database | Inside) -> list[int]:
    """Migrate the database to the latest version; return the versions that were applied.

    A database that is newer than this program stays as it is.

    :raises NipapError: the database is too new for this program to serve it, or must not get the schema.
    """
    check_database(db)
    applied: list[int] = []
    while True:
        try:
            step = db.run(_next_step if isinstance(db, Inside) else _impatient_step)
        except LockNotAvailable:
            # Calls that queued behind this migration can proceed now. A call that blocks the migration may take long.
            log.info('a migration waits for locks of other transactions')
            waiting.sleep(random.uniform(0.5, 1.0) * PAUSE_S)
            continue
        if step is None:
            return applied
        applied.append(step)


def install(dsn: str) -> None:
    """Migrate the database that dsn names to the latest version."""
    db = Database(dsn)
    try:
        migrate(db)
    finally:
        db.close()


def _impatient_step(tx: Transaction) -> int | None:
    """Take the next step. Fail with 55P03 if a lock is not available within `LOCK_PATIENCE_S`."""
    _lock(tx)
    tx.execute(f'SET LOCAL lock_timeout = {int(LOCK_PATIENCE_S * 1000)}')
    return _next_step(tx)


def _lock(tx: Transaction) -> None:
    tx.execute('SELECT pg_advisory_xact_lock(%s)', (advisory.SCHEMA,))


def _next_step(tx: Transaction) -> int | None:
    """Apply the next migration. If none is due, create the functions."""
    _lock(tx)
    found = _state(tx)
    if found.is_newer:
        if found.problem:
            raise NipapError(f'{found.problem}: upgrade the program')
        return None
    with _looking_up(tx, _HOME_PATH):
        tx.execute(BOOKKEEPING)
        for step in migrations.steps():
            if step.version > found.version:
                _apply(tx, step, found.oldest_program)
                return step.version
    if not found.is_ours:
        put_functions(tx)
    return None


def create_tables(tx: Transaction, version: int) -> None:
    """Create the tables of a version in a database without a schema. `migrate` continues from there.

    The functions of a program are not created.
    """
    _lock(tx)
    with _looking_up(tx, _HOME_PATH):
        tx.execute(BOOKKEEPING)
        for step in migrations.steps():
            if step.version <= version:
                _apply(tx, step, _state(tx).oldest_program)


def _apply(tx: Transaction, step: migrations.Migration, oldest: int) -> None:
    """Apply a migration to a database whose oldest permitted program has version `oldest`."""
    log.info('applying migration %d, %s', step.version, step.name)
    # A migration may consist of comments, and exist for its functions only.
    tx.execute(f'{step.text}\n; SELECT')
    note = 'INSERT INTO schema_migration (version, name'
    if step.version <= UNVERSIONED:
        tx.execute(f'{note}) VALUES (%s, %s)', (step.version, step.name))
        return
    oldest_now = step.oldest_program or oldest
    tx.execute(f'{note}, oldest_program) VALUES (%s, %s, %s)', (step.version, step.name, oldest_now))
    if oldest_now > oldest:
        drop_functions_before(tx, oldest_now)


# ---------------------------------------------------------------- functions

_COMMENT = 'SQL functions of version {} of nipapd. Fingerprint of their text: {}.'
_FUNCTIONS = r"""SELECT nspname, substring(obj_description(oid, 'pg_namespace'), 'Fingerprint of their text: (\w+)')
FROM pg_namespace WHERE obj_description(oid, 'pg_namespace') LIKE 'SQL functions of version % of nipapd.%'
AND starts_with(nspname, current_setting('nipap.home') || '_v')"""


def function_versions(tx: Transaction) -> dict[int, str]:
    """Return the versions whose functions are in the database, each with the fingerprint of its text."""
    return {int(name.rpartition('_v')[2]): fingerprint for name, fingerprint in tx.all(_FUNCTIONS)}


def home(tx: Transaction) -> str:
    """Return the schema of PostgreSQL that has our tables."""
    return str(tx.value("SELECT current_setting('nipap.home')"))


def drop_functions(tx: Transaction, version: int) -> None:
    """Drop the functions of a version."""
    tx.execute(f'DROP SCHEMA IF EXISTS {_past_schema(tx, version)} CASCADE')
    tx.execute(f'DROP SCHEMA {_functions_schema(tx, version)} CASCADE')  # the functions call each other


def _functions_schema(tx: Transaction, version: int) -> str:
    return str(tx.value('SELECT quote_ident(%s)', (f'{home(tx)}_v{version}',)))


def _past_schema(tx: Transaction, version: int) -> str:
    """Return the schema of PostgreSQL with the views of the past (sql/functions/099_past_views.sql)."""
    return str(tx.value('SELECT quote_ident(%s)', (f'{home(tx)}_v{version}_past',)))


def put_functions(tx: Transaction) -> None:
    """Create the functions of this program. Replace functions that a development version of this number has left."""
    ours, wanted = migrations.latest(), migrations.fingerprint()
    name = _functions_schema(tx, ours)
    tx.execute(f'DROP SCHEMA IF EXISTS {_past_schema(tx, ours)} CASCADE')
    tx.execute(f'DROP SCHEMA IF EXISTS {name} CASCADE; CREATE SCHEMA {name}')
    tx.execute(f'COMMENT ON SCHEMA {name} IS %s', (_COMMENT.format(ours, wanted),))
    # The functions were in the schema public before, where all roles have this right.
    tx.execute(f'GRANT USAGE ON SCHEMA {name} TO PUBLIC')
    with _looking_up(tx, f"'{name}, ' || {_HOME_PATH}"):
        tx.execute(migrations.functions())


def drop_functions_before(tx: Transaction, oldest: int) -> None:
    """Drop the functions of versions that may no longer serve."""
    for version in function_versions(tx):
        if version < oldest:
            drop_functions(tx, version)
    with _looking_up(tx, _HOME_PATH):
        if oldest > UNVERSIONED and _exists(tx, 'schema_functions'):
            kept = _created_by_migrations()
            for signature in tx.value('SELECT signatures FROM schema_functions') or []:
                if signature.partition('(')[0] not in kept:
                    tx.execute(f'DROP FUNCTION IF EXISTS {signature} CASCADE')
            tx.execute('DROP TABLE schema_functions')


def _created_by_migrations() -> set[str]:
    """Return the names of functions that tables, indexes and triggers use."""
    found = r'\bCREATE OR REPLACE FUNCTION (\w+)'
    return {name for step in migrations.steps() for name in re.findall(found, step.text)}


# ---------------------------------------------------------------- the search path

_HOME_PATH = "current_setting('nipap.path')"


@contextmanager
def _looking_up(tx: Transaction, path: str) -> Iterator[None]:
    """Use the schemas that an SQL expression lists to look up names and to create objects."""
    former = tx.value('SHOW search_path')
    tx.execute(f"SELECT set_config('search_path', {path}, true)")
    yield
    tx.execute("SELECT set_config('search_path', %s, true)", (former,))


def _exists(tx: Transaction, table: str) -> bool:
    # Reading a table makes PostgreSQL see tables that other sessions created since the transaction began; to_regclass
    # alone does not.
    return bool(tx.value('SELECT EXISTS (SELECT FROM pg_class WHERE oid = to_regclass(%s))', (table,)))
