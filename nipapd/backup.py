"""The dump that is written before the first migration of an upgrade, into the data directory: `before-NNNN.dump`.

NNNN is the number of that migration. The file has the format of ``nipap-admin dump``, so the former program can restore
it with ``nipap-admin restore``. Only the private PostgreSQL is dumped: a configured server has backups of its own.
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
# The share of the tables' size that a dump may take. A dump is compressed (tests/data/kept: 17.6 MB of tables, 1.0 MB),
# and is on the disk twice until it is complete.
SHARE = 0.5
WITHOUT = 'start with --no-backup to upgrade without it'

_SIZE = """SELECT sum(pg_table_size(oid)) FROM pg_class
    WHERE relkind IN ('r', 'm') AND relnamespace = current_setting('nipap.home')::regnamespace"""


def before_upgrade(config: Config, dsn: str) -> Path | None:
    """Write the dump, unless an earlier attempt at the same upgrade has written one, and return its path.

    Return None when no migration is due, when dumps are disabled, and when the database is not private.

    :raises DumpError: the dump cannot be written; the database must not be upgraded.
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
    """Let one process at a time write dumps, and remove the files of a killed process."""
    # The lock is on PostgreSQL's own directory: other users can open its parent, and could hold a lock there.
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
    """Return a complete dump that an earlier attempt at the same upgrade has written, or None.

    The earlier attempt was killed or has failed, and may have applied some migrations. A dump counts if
    nothing has changed since: else the audit log would have a newer entry, or the file of accounts would be newer. And
    no program may have completed an upgrade since: else newer functions would be in place.
    """
    users = dump.accounts(config, 'nipapd')
    changed = os.stat(users.path).st_mtime if users and os.path.exists(users.path) else 0.0
    last_change, newest_functions = db.read(_read_state)
    version = schema.version(db)
    for path in sorted(config.data_dir.glob('before-*.dump')):
        if not NAME.fullmatch(path.name) or path.stat().st_mtime < changed:
            continue
        manifest = _manifest(path)  # reads the whole dump
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
    """Return the manifest of a dump; None when the dump is damaged."""
    try:
        with path.open('rb') as file:
            return archive.read(file, None, (dump.DATABASE, dump.USERS))
    except archive.ArchiveError as error:
        log.warning('%s is no dump: %s', path, error)
        return None


def _put_aside(path: Path) -> None:
    """Rename a dump from an earlier upgrade with the same first migration. A damaged dump is overwritten later."""
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
