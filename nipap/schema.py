"""Install and upgrade the schema: numbered migrations, then the functions.

Each migration is one transaction and runs once; the functions are put in place again whenever their text has changed.
Everything happens under one advisory lock, so any number of daemons may start at once.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import logging
import re
from typing import NamedTuple

from nipap.db import Database
from nipap.errors import NipapError
from nipap.transaction import Inside, Transaction

log = logging.getLogger('nipap.schema')
LOCK = 5_466_127  # the key of the advisory lock; any number that nobody else uses

BOOKKEEPING = """
CREATE TABLE IF NOT EXISTS schema_migration (
    version integer CONSTRAINT schema_migration_pkey PRIMARY KEY,
    name text NOT NULL,
    applied timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE schema_migration IS 'The migrations that this database has seen.';
COMMENT ON COLUMN schema_migration.version IS 'Number of the migration; the highest is the version of the schema.';
COMMENT ON COLUMN schema_migration.name IS 'What it is called.';
COMMENT ON COLUMN schema_migration.applied IS 'When it was applied.';
CREATE TABLE IF NOT EXISTS schema_functions (
    fingerprint text NOT NULL,
    signatures text[] NOT NULL
);
DO $$ BEGIN
    -- The first schema did not note which functions are in place. It had none but those, and what extensions bring.
    IF NOT EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = 'schema_functions'::regclass AND attname = 'signatures'
    ) THEN
        ALTER TABLE schema_functions ADD signatures text[] NOT NULL DEFAULT '{}';
        ALTER TABLE schema_functions ALTER signatures DROP DEFAULT;
        UPDATE schema_functions SET signatures = ARRAY(
            SELECT oid::regprocedure::text FROM pg_proc f WHERE pronamespace = current_schema()::regnamespace
            AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = f.oid AND deptype = 'e'))
        WHERE (SELECT max(version) FROM schema_migration) = 1;
    END IF;
END $$;
COMMENT ON TABLE schema_functions IS 'Which functions are in place; one row.';
COMMENT ON COLUMN schema_functions.signatures IS 'Their signatures: they are dropped before others are put in place.';
COMMENT ON COLUMN schema_functions.fingerprint IS 'Hash of the text.';
"""


class Migration(NamedTuple):
    """One numbered step of the schema."""

    version: int
    name: str
    text: str


def migrations() -> list[Migration]:
    """All migrations that this program knows, in order."""
    found = []
    for entry in importlib.resources.files('nipap.sql.migrations').iterdir():
        if entry.name.endswith('.sql'):
            number, _, name = entry.name.removesuffix('.sql').partition('_')
            found.append(Migration(int(number), name, entry.read_text(encoding='utf-8')))
    return sorted(found)


def functions() -> str:
    """The text of all SQL functions, in the order in which they must be created."""
    directory = importlib.resources.files('nipap.sql.functions')
    names = sorted(entry.name for entry in directory.iterdir() if entry.name.endswith('.sql'))
    return '\n'.join((directory / name).read_text(encoding='utf-8') for name in names)


def latest() -> int:
    """The version of the schema that this program works with."""
    return migrations()[-1].version


def version(db: Database | Inside) -> int:
    """The version of the schema in the database; 0 when there is none."""
    return db.read(version_in)


def version_in(tx: Transaction) -> int:
    """Return the version of the schema in the database; 0 when there is none."""
    if tx.value("SELECT to_regclass('schema_migration')") is None:
        return 0
    return int(tx.value('SELECT coalesce(max(version), 0) FROM schema_migration'))


def due(db: Database) -> bool:
    """Whether migrate would change anything."""
    if version(db) < latest():
        return True
    return bool(db.read(lambda tx: tx.value('SELECT fingerprint FROM schema_functions')) != fingerprint())


def fingerprint() -> str:
    """What identifies the text of the functions."""
    return hashlib.sha256(functions().encode()).hexdigest()


def migrate(db: Database | Inside) -> list[int]:
    """Bring the database to the latest version; returns the versions that were applied.

    :raises NipapError: when the database is newer than this program.
    """
    applied: list[int] = []
    while True:
        step = db.run(_next_step)
        if step is None:
            return applied
        applied.append(step)


def install(dsn: str) -> None:
    """Bring the database that dsn names to the latest version."""
    db = Database(dsn)
    try:
        migrate(db)
    finally:
        db.close()


def _next_step(tx: Transaction) -> int | None:
    """Apply the next migration, or put the functions in place when none is due."""
    tx.execute('SELECT pg_advisory_xact_lock(%s)', (LOCK,))
    tx.execute(BOOKKEEPING)
    current = int(tx.value('SELECT coalesce(max(version), 0) FROM schema_migration'))
    known = migrations()
    if current > known[-1].version:
        raise NipapError(
            f'The schema of the database has version {current}, this program knows {known[-1].version}: '
            'upgrade the program.'
        )
    for step in known:
        if step.version > current:
            log.info('applying migration %d, %s', step.version, step.name)
            tx.execute(step.text)
            tx.execute('INSERT INTO schema_migration (version, name) VALUES (%s, %s)', (step.version, step.name))
            return step.version
    _put_functions(tx)
    return None


def _put_functions(tx: Transaction) -> None:
    """Replace the functions when their text has changed.

    The old ones are dropped first: a parameter that got another name cannot be replaced, one that is gone would stay.
    """
    wanted = fingerprint()
    if tx.value('SELECT fingerprint FROM schema_functions') == wanted:
        return
    kept = _created_by_migrations()
    for signature in tx.value('SELECT signatures FROM schema_functions') or []:
        # CASCADE: they call each other. No table, index or trigger may use one, those use what migrations create; and
        # that may have been one of these before.
        if signature.partition('(')[0] not in kept:
            tx.execute(f'DROP FUNCTION IF EXISTS {signature} CASCADE')
    before = set(tx.all(_SIGNATURES))
    tx.execute(functions())
    created = sorted(row[0] for row in set(tx.all(_SIGNATURES)) - before)
    tx.execute('DELETE FROM schema_functions')
    tx.execute('INSERT INTO schema_functions VALUES (%s, %s)', (wanted, created))


def _created_by_migrations() -> set[str]:
    """The names of functions that tables, indexes and triggers use."""
    return {name for step in migrations() for name in re.findall(r'\bCREATE OR REPLACE FUNCTION (\w+)', step.text)}


_SIGNATURES = 'SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = current_schema()::regnamespace'
