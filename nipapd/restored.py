"""The accounts of a restore: they replace those of the daemon if, and only if, the restored database is committed.

No transaction covers both. So the accounts of the dump are first written to a file beside the file of accounts, with
the number of PostgreSQL's transaction in its name. Once the transaction is committed, they replace the accounts. After
a kill in between, the next start, dump or restore asks PostgreSQL for the outcome of the transaction, and then replaces
the accounts or removes the file.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from pathlib import Path

from nipap.access.local_users import RESTORED, LocalUsers
from nipap.postgres.database import Database
from nipap.postgres.transaction import Transaction
from nipapd import archive
from nipapd.launch import StartError

log = logging.getLogger(__name__)

PATIENCE_S = 30.0  # within this time PostgreSQL notices that a client was killed, and rolls back
POLL_S = 0.1

_DATABASE = """SELECT system_identifier || '-' || (SELECT oid FROM pg_database WHERE datname = current_database())
FROM pg_control_system()"""
_COMMIT = 'SET LOCAL synchronous_commit = on; CREATE TEMPORARY TABLE nipap_restore () ON COMMIT DROP'
# `keep` has committed a later transaction. So the counter is below the number only on a server that was put back to an
# earlier state: a transaction that is in progress is below the end of the snapshot.
_OUTCOME = """SELECT CASE WHEN %s::text::xid8 < pg_snapshot_xmax(pg_current_snapshot())
THEN coalesce(pg_xact_status(%s::text::xid8), 'unknown') ELSE 'aborted' END"""


def keep(tx: Transaction, db: Database, users: LocalUsers, accounts: LocalUsers) -> None:
    """Write accounts to a file beside the file of `users`, to replace it after the transaction is committed.

    db: the database of the transaction, for another session.
    """
    path = Path(f'{users.path}{RESTORED}{tx.value(_DATABASE)}-{tx.value("SELECT pg_current_xact_id()::text")}')
    # The number of the transaction has to be on the disk, else PostgreSQL might use it again after a power cut. The
    # commit of another transaction writes everything before it to the disk.
    db.run(lambda other: other.execute(_COMMIT))
    owner = os.stat(users.path if os.path.exists(users.path) else path.parent)
    with archive.replacing(path) as out, open(accounts.path, 'rb') as source:
        shutil.copyfileobj(source, out)
        if os.geteuid() == 0:
            os.fchown(out.fileno(), owner.st_uid, owner.st_gid)


def remove_partial(users: LocalUsers) -> None:
    """Remove incomplete files of `keep`, left by a killed restore. No other restore may run."""
    path = Path(users.path)
    for left in path.parent.glob(f'*{RESTORED}*.new'):
        if left.name.startswith(path.name + RESTORED):
            left.unlink(missing_ok=True)


def settle(db: Database, users: LocalUsers, owner: str | None = None) -> None:
    """Replace the accounts by those of a committed restore, and remove the files of restores that were rolled back.

    owner: the account of the host that a new file of accounts belongs to, when this process is root.
    :raises StartError: a restore is under way, or PostgreSQL no longer knows its outcome.
    """
    for path in users.of_restores():
        settle_one(path, db, users, owner)


def settle_one(path: Path, db: Database, users: LocalUsers, owner: str | None) -> None:
    """Settle the accounts of one restore, see `settle`."""
    where, _, number = path.name.rpartition(RESTORED)[2].rpartition('-')
    if db.read(lambda tx: tx.value(_DATABASE)) != where:
        log.warning(
            '%s was written by a restore into another database; remove the file if that restore was abandoned', path
        )
        return
    outcome = _outcome(db, number)
    if outcome == 'committed':
        put_in_place(path, users, owner)
    elif outcome != 'aborted':
        reason = 'a restore is under way' if outcome == 'in progress' else 'the outcome of its restore is unknown'
        raise StartError(f'{path}: {reason}; otherwise remove the file, and restore again')
    path.unlink(missing_ok=True)


def _outcome(db: Database, number: str) -> str:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = str(db.read(lambda tx: tx.value(_OUTCOME, (number, number))))
        if found != 'in progress' or time.monotonic() >= deadline:
            return found
        time.sleep(POLL_S)


def put_in_place(path: Path, users: LocalUsers, owner: str | None) -> None:
    """Replace the accounts by those in another file, which is kept."""
    if os.path.lexists(users.path):
        LocalUsers(path).copy_to(users.path)
        return
    partial = LocalUsers(f'{users.path}.new')
    Path(partial.path).unlink(missing_ok=True)
    partial.create_file(owner)
    LocalUsers(path).copy_to(partial.path)
    os.rename(partial.path, users.path)
