"""Measure the memory that PostgreSQL takes to remove a VRF with very many prefixes: it must not grow with their number.

Usage: python tests/bench/removal.py [--prefixes N]

A private PostgreSQL with default settings runs in a temporary directory; comments have 4 kB. Exit code 1: the session
of the removal takes more memory than allowed, or the check finds something. `tests/db/test_many_entries.py` runs this
program with fewer prefixes.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / 'tests')]

from support import open_directories  # noqa: E402

from nipap.access.authentication import Actor  # noqa: E402
from nipap.backend import Backend  # noqa: E402
from nipap.integrity import check  # noqa: E402
from nipap.postgres import schema  # noqa: E402
from nipap.postgres.database import Database  # noqa: E402
from nipapd.embedded import EmbeddedPostgres  # noqa: E402

PREFIXES = 1_000_000
MOST_MB = 500  # with all of the shared buffers, which are 128 MB
ACTOR = Actor('bench', None, 'bench', 'bench', readonly=False)
# These rows bypass the functions: only their removal is measured, and no row remains afterwards.
FILL = """INSERT INTO prefix (vrf_id, prefix, type, description, comment)
SELECT %s, set_masklen('10.0.0.0'::inet + n * 8, 29)::cidr, 'reservation', 'd',
    repeat('This is what there is to say of it. ', 114) || n FROM generate_series(1, %s) n;
INSERT INTO prefix_words SELECT id, '' FROM prefix;
INSERT INTO vrf_total SELECT %s, 4, 0, %s, 0, 0"""


class Removal(NamedTuple):
    """The cost of a removal: seconds, and the peak megabytes of the session in total and without shared memory."""

    seconds: float
    mb: int
    own_mb: int


def fill(db: Database, prefixes: int) -> int:
    """Make a VRF with `prefixes` prefixes and return its id."""
    number = int(Backend(db).add_vrf(ACTOR, {'rt': '1:1', 'name': 'big'})['id'])
    db.run(lambda tx: tx.execute(FILL, (number, prefixes, number, prefixes)))
    return number


def remove(dsn: str, vrf: int) -> Removal:
    """Remove a VRF in a session of its own."""
    db = Database(dsn)
    try:
        session = int(db.read(lambda tx: tx.value('SELECT pg_backend_pid()')))
        began = time.monotonic()
        Backend(db).remove_vrf(ACTOR, {'id': vrf})
        seconds = time.monotonic() - began
        text = Path(f'/proc/{session}/status').read_text(encoding='utf-8')
    finally:
        db.close()
    found = {name: int(kilobytes) // 1024 for name, kilobytes in re.findall(r'(VmHWM|RssShmem):\s+(\d+) kB', text)}
    return Removal(seconds, found['VmHWM'], found['VmHWM'] - found['RssShmem'])


def main(argv: Sequence[str] | None = None) -> int:
    """Run and print the cost. Return the exit code."""
    parser = argparse.ArgumentParser(description='Remove a VRF with very many prefixes.')
    parser.add_argument('--prefixes', type=int, default=PREFIXES)
    options = parser.parse_args(argv)
    with open_directories() as make:
        server = EmbeddedPostgres(make() / 'postgres').start()
        try:
            schema.install(server.dsn())
            db = Database(server.dsn())
            took = remove(server.dsn(), fill(db, options.prefixes))
            problems = check.problems(db)
            db.close()
        finally:
            server.stop()
    print(f'{options.prefixes} prefixes were removed in {took.seconds:.0f} s by a session of {took.mb} MB at most')
    for problem in problems[:10]:
        print(problem)
    return 1 if took.mb > MOST_MB or problems else 0


if __name__ == '__main__':
    sys.exit(main())
