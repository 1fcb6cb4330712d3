"""Measure the migrations of a long audit log (17 to 25), and how long changes wait meanwhile.

    python tests/bench/migration.py                     10,000,000 entries
    python tests/bench/migration.py --entries 200000    fewer

The database has fsync off: the figure is the work of PostgreSQL, not of the disk. Changes are those of a program of
version 16, written by another process as fast as it can.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import psycopg2

REPOSITORY = Path(__file__).resolve().parents[2]
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))

from nipap.postgres import migrations, schema  # noqa: E402
from nipap.postgres.database import Database, LockNotAvailable  # noqa: E402
from nipapd.embedded import EmbeddedPostgres  # noqa: E402

BEFORE, FIRST, LAST = 16, 17, 25
SETTINGS = {'fsync': 'off', 'full_page_writes': 'off', 'max_wal_size': '8GB', 'shared_buffers': '512MB'}
PER_SET = 4  # entries of a change set

SETS = """INSERT INTO change_set (id, at, username, authenticated_as, authoritative_source, call, method, request_id)
SELECT n, now() - (%(sets)s - n) * interval '1 second', 'u' || n %% 50, 'u' || n %% 50, 'bench', n, 'add_prefix',
    md5(n::text) FROM generate_series(1, %(sets)s) n"""
ENTRIES = f"""INSERT INTO audit_log (at, username, authenticated_as, authoritative_source, object_type, object_id,
    action, before, after, change_set)
SELECT now() - (%(sets)s - s) * interval '1 second', 'u' || s %% 50, 'u' || s %% 50, 'bench', 'prefix',
    n %% (1 + %(sets)s / 2), CASE n %% {PER_SET} WHEN 0 THEN 'add' ELSE 'edit' END,
    CASE n %% {PER_SET} WHEN 0 THEN NULL ELSE facts END,
    facts || jsonb_build_object('description', 'Customer ' || n), s
FROM (SELECT n, 1 + n / {PER_SET} AS s, jsonb_build_object('id', n, 'vrf_id', 0, 'type', 'assignment',
    'status', 'assigned', 'prefix', host('10.0.0.0'::inet + n %% 16777216) || '/32', 'added', now(),
    'node', 'router-' || n %% 1000) AS facts
    FROM generate_series(%(first)s, %(last)s) n) f;
SELECT setval('change_set_id_seq', %(sets)s)"""
AT_ONCE = 500_000
PATIENCE_S = 60.0
CHANGE = """WITH s AS (INSERT INTO change_set (username, authenticated_as, authoritative_source, call)
    VALUES ('writer', 'writer', 'bench', 1) RETURNING id)
INSERT INTO audit_log (username, authenticated_as, authoritative_source, object_type, object_id, action, after,
    change_set)
SELECT 'writer', 'writer', 'bench', 'asn', 1, 'edit', '{}', id FROM s"""


class Measured(NamedTuple):
    """The seconds of each migration, and the number of changes made meanwhile.

    longest_s: the seconds of the longest change.
    """

    seconds: dict[int, float]
    changes: int
    longest_s: float


def measure(dsn: str, entries: int) -> Measured:
    """Fill an empty database with a log and migrate it."""
    db = Database(dsn)
    try:
        db.run(lambda tx: schema.create_tables(tx, BEFORE))
        fill(dsn, entries)
        ours, theirs = multiprocessing.Pipe()
        writer = multiprocessing.Process(target=write, args=(dsn, theirs), daemon=True)
        writer.start()
        ours.recv()
        seconds = {step.version: migrate(db, step) for step in migrations.steps() if FIRST <= step.version <= LAST}
        ours.send('stop')
        if not ours.poll(PATIENCE_S):
            raise RuntimeError('the writer has failed')
        changes, longest_s = ours.recv()
        writer.join()
        lost = db.read(lambda tx: tx.value("SELECT count(*) FROM audit_log WHERE username = 'writer'")) - changes
        if lost:
            raise RuntimeError(f'{lost} changes were lost')
        return Measured(seconds, changes, longest_s)
    finally:
        db.close()


def fill(dsn: str, entries: int) -> None:
    with contextlib.closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        sets = entries // PER_SET + 1
        cursor.execute(SETS, {'sets': sets})
        for first in range(0, entries, AT_ONCE):
            values = {'sets': sets, 'first': first, 'last': min(entries, first + AT_ONCE) - 1}
            cursor.execute(ENTRIES, values)
        cursor.execute('VACUUM ANALYZE')


def migrate(db: Database, step: migrations.Migration) -> float:
    """Apply one migration as the daemon does; return its seconds, the waits for locks included."""
    began = time.monotonic()

    def apply(tx: schema.Transaction) -> None:
        tx.execute(f'SET LOCAL lock_timeout = {int(schema.LOCK_PATIENCE_S * 1000)}')
        schema._apply(tx, step, BEFORE)

    while True:
        try:
            db.run(apply)
        except LockNotAvailable:
            continue
        return time.monotonic() - began


def write(dsn: str, connection: Connection) -> None:
    """Make changes until there is a message; send their number and the seconds of the longest one."""
    changes, longest_s = 0, 0.0
    with contextlib.closing(psycopg2.connect(dsn)) as session, session.cursor() as cursor:
        session.autocommit = True
        connection.send('ready')
        while not connection.poll():
            began = time.monotonic()
            cursor.execute(CHANGE)
            longest_s = max(longest_s, time.monotonic() - began)
            changes += 1
            time.sleep(0.002)  # several programs would not write faster
    connection.send((changes, longest_s))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description='Measure the migrations of a long audit log.')
    parser.add_argument('--entries', type=int, default=10_000_000)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix='nipap-migration-') as directory:
        Path(directory).chmod(0o755)  # as root, the server runs under another account
        server = EmbeddedPostgres(Path(directory) / 'postgres', settings=SETTINGS)
        try:
            found = measure(server.start().dsn(), options.entries)
        finally:
            server.stop()
    for version, seconds in found.seconds.items():
        print(f'migration {version}: {seconds:.1f} s')
    print(f'{options.entries} entries: {sum(found.seconds.values()):.1f} s')
    print(f'{found.changes} changes meanwhile, of which the longest took {found.longest_s * 1000:.0f} ms')
    return 0


if __name__ == '__main__':
    sys.exit(main())
