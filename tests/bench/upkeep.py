"""Maintenance of the database of a running daemon: rest after an import, the check, and a repair."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg2
from bench.report import Measure

from nipapd.embedded import EmbeddedPostgres

REPOSITORY = Path(__file__).resolve().parent.parent.parent
MOST_CHECK_S, MOST_REPAIR_S = 60, 30
MOST_BEHIND_S, EVENTS_TIMEOUT_S = 5, 300
BEHIND = 'SELECT (SELECT settled FROM event_state) < (SELECT max(id) FROM audit_log)'
# Damage rows of everything that is derived and that a repair writes: counters, text, free ranges, totals.
DAMAGE = """
UPDATE prefix SET children = children + 1, used_addresses = used_addresses + 1
    WHERE id IN (SELECT id FROM prefix ORDER BY id LIMIT 1000);
DELETE FROM prefix_words WHERE prefix_id IN (SELECT id FROM prefix ORDER BY id LIMIT 1000);
DELETE FROM free_range WHERE ctid IN (SELECT ctid FROM free_range LIMIT 1000);
UPDATE vrf_total SET num_prefixes = num_prefixes + 1"""
DERIVED = """SELECT (SELECT sum(children) FROM prefix), (SELECT sum(used_addresses) FROM prefix),
    (SELECT count(*) FROM prefix_words), (SELECT count(*) FROM free_range), (SELECT sum(num_prefixes) FROM vrf_total)"""


def command(*args: str, env: Mapping[str, str] | None = None, quiet: bool = False) -> int:
    """Run one of our programs and return its exit code.

    Its output goes to our stderr. With `quiet`, only the output of a failure does.
    """
    environment = {**os.environ, 'PYTHONPATH': str(REPOSITORY), **(env or {})}
    out = subprocess.PIPE if quiet else sys.stderr
    done = subprocess.run([sys.executable, '-m', *args], env=environment, stdout=out, text=True, check=False)
    if done.returncode and done.stdout:
        print(done.stdout, file=sys.stderr, end='', flush=True)
    return done.returncode


def settle(data_dir: Path) -> None:
    """Vacuum and checkpoint now, as PostgreSQL would in the minutes after an import, during the timing."""
    with session(data_dir) as cursor:
        cursor.execute('VACUUM (ANALYZE)')
        cursor.execute('CHECKPOINT')


def time_events(data_dir: Path) -> Measure:
    """Measure the time until the events of an import are numbered; until then a process is busy with them."""
    start = time.monotonic()
    with session(data_dir) as cursor:
        while (seconds := time.monotonic() - start) < EVENTS_TIMEOUT_S:
            cursor.execute(BEHIND)
            if cursor.fetchone() == (False,):
                break
            time.sleep(0.02)
    limit, ok = f'{MOST_BEHIND_S} s', seconds <= MOST_BEHIND_S
    return Measure('events are behind the import', seconds, f'{seconds:.1f} s', limit, ok)


@contextlib.contextmanager
def session(data_dir: Path) -> Iterator[Any]:
    """Yield a cursor on the database of a daemon with that directory. Each statement is a transaction."""
    server = EmbeddedPostgres(data_dir).start()  # the same server as the daemon's
    try:
        with contextlib.closing(psycopg2.connect(server.dsn())) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                yield cursor
    finally:
        server.stop()


def maintain(data_dir: Path, *args: str) -> tuple[float, int]:
    """Return the seconds of a command of nipap-admin, and its exit code."""
    start = time.monotonic()
    place = ('--config', '/dev/null', '--data-dir', str(data_dir))
    code = command('nipapd.maintenance', *args, *place, quiet=True)
    return time.monotonic() - start, code


def time_check(data_dir: Path, where: str) -> Measure:
    """Measure the check of everything stored. A finding is a failure on every machine."""
    seconds, code = maintain(data_dir, 'check')
    limit, ok = f'no problems, {MOST_CHECK_S} s', code == 0 and seconds <= MOST_CHECK_S
    return Measure(f'nipap-admin check, {where}', seconds, f'{seconds:.1f} s', limit, ok, firm=code != 0)


def time_repair(data_dir: Path, where: str) -> Measure:
    """Measure the repair of thousands of derived rows, which must get back their values from before the damage."""
    with session(data_dir) as cursor:
        cursor.execute(DERIVED)
        before = cursor.fetchone()
        cursor.execute(DAMAGE)
        seconds, code = maintain(data_dir, 'check', '--repair')
        cursor.execute(DERIVED)
        repaired = code == 0 and cursor.fetchone() == before
    limit, ok = f'all is right, {MOST_REPAIR_S} s', repaired and seconds <= MOST_REPAIR_S
    name = f'nipap-admin check --repair, {where}'
    return Measure(name, seconds, f'{seconds:.1f} s', limit, ok, firm=not repaired)
