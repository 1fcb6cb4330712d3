"""The dump that is written before the first migration of an upgrade, into the data directory: `before-NNNN.dump`.

NNNN is the number of that migration. The file is what ``nipap-admin dump`` writes, so the former program restores it
with ``nipap-admin restore``. Only the private PostgreSQL is dumped: a configured server has backups of its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nipap.integrity import restore
from nipap.postgres import migrations, schema
from nipap.postgres.database import Database
from nipap.postgres.transaction import Transaction
from nipapd import archive, dump
from nipapd.config import Config
from nipapd.databases import database
from nipapd.dump import DumpError

log = logging.getLogger(__name__)

NAME = re.compile(r'before-(\d{4,})\.dump')
# Of the size of the tables. A dump is compressed (tests/data/kept: 17.6 MB of tables, 1.0 MB), and is on the disk twice
# until it is complete.
SHARE = 0.5
WITHOUT = 'start with --no-backup to upgrade without it'

_SIZE = """SELECT sum(pg_table_size(oid)) FROM pg_class
    WHERE relkind IN ('r', 'm') AND relnamespace = current_setting('nipap.home')::regnamespace"""


def before_upgrade(config: Config, dsn: str) -> Path | None:
    """Write the dump, unless an earlier attempt at the same upgrade has; returns where it is.

    None: there is none to write, since no migration is due, or it is not wanted, or the database is not private.

    :raises DumpError: it cannot be written; the database must not be upgraded then.
    """
    if not config.embedded or config.no_backup:
        return None
    with _alone(config.data_dir):
        with database(dsn) as db:
            found = schema.version(db)
            first = next((step.version for step in migrations.steps() if step.version > found), None)
            if not found or first is None:
                return None
            path = config.data_dir / f'before-{first:04}.dump'
            if earlier := _of_this_state(config, db):
                log.info('%s has the database as it was before the upgrade', earlier)
                return earlier
            _require_space(db, path)
        log.info('writing the database to %s before it is upgraded', path)
        try:
            _put_aside(path)
            dump.write(config, dsn, path, 'nipapd')
        except (DumpError, OSError) as error:
            problem = error.strerror if isinstance(error, OSError) else error
            raise DumpError(f'cannot write {path}: {problem}; {WITHOUT}') from error
        return path


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Let one process at a time write dumps, and remove what a killed one has left."""
    # PostgreSQL's own directory: other users can open the one around it, and would hold the lock.
    descriptor = os.open(directory / 'data', os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        for left in directory.glob('.before-*.dump.*'):
            shutil.rmtree(left)
        for left in directory.glob('before-*.dump.new'):
            left.unlink()
        yield
    finally:
        os.close(descriptor)


def _of_this_state(config: Config, db: Database) -> Path | None:
    """Return a complete dump that an earlier attempt at the same upgrade has written.

    That attempt was killed, or has failed, and may have applied some migrations. Nobody has changed anything since, or
    there was another entry in the audit log. No program has completed an upgrade since, or its functions were in place.
    """
    users = dump.accounts(config, 'nipapd')
    changed = os.stat(users.path).st_mtime if users and os.path.exists(users.path) else 0.0
    last_change, newest_functions = db.read(_read_state)
    version = schema.version(db)
    for path in sorted(config.data_dir.glob('before-*.dump')):
        if not NAME.fullmatch(path.name) or path.stat().st_mtime < changed:
            continue
        manifest = _manifest(path)  # reads all of it
        if (
            manifest
            and manifest.get('last_change') == last_change
            and newest_functions <= manifest.get('schema', 0) <= version
        ):
            return path
    return None


def _read_state(tx: Transaction) -> tuple[int | None, int]:
    return restore.last_change(tx), max(schema.function_versions(tx), default=0)


def _manifest(path: Path) -> dict[str, Any] | None:
    """Return the manifest of a dump; None when it is not whole."""
    try:
        with path.open('rb') as file:
            return archive.read(file, None, (dump.DATABASE, dump.USERS))
    except archive.ArchiveError as error:
        log.warning('%s is no dump: %s', path, error)
        return None


def _put_aside(path: Path) -> None:
    """Rename a dump that an earlier upgrade has written before the same migration; one that is damaged is replaced."""
    manifest = _manifest(path) if path.exists() else None
    if manifest:
        time = re.sub(r'\D', '', str(manifest.get('time')))[:14]
        path.rename(path.with_name(f'{path.stem}-{time}.dump'))


def _require_space(db: Database, path: Path) -> None:
    needed = SHARE * float(db.read(lambda tx: tx.value(_SIZE)))
    status = os.statvfs(path.parent)
    free = status.f_bavail * status.f_frsize
    if free < needed:
        raise DumpError(
            f'too little disk: {path}, which is written before the database is upgraded, may take '
            f'{needed / 1e6:,.1f} MB and {free / 1e6:,.1f} MB are free there: make room, or {WITHOUT}'
        )
