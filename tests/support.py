"""What fixtures and tests share and what is no fixture."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon_process import Daemon

if TYPE_CHECKING:
    from nipap.db import Database

DATABASE_OPTIONS = {'host': 'host', 'port': 'port', 'user': 'user', 'name': 'dbname'}
# A test's data need not survive a power cut.
FAST = {'fsync': 'off', 'full_page_writes': 'off', 'synchronous_commit': 'off'}

# What is stored and derived from nothing: a query for each table, one text a row.
FACTS = (
    "SELECT (to_jsonb(p) - '{parent_id,children,used_addresses,free_blocks}'::text[])::text FROM prefix p ORDER BY id",
    "SELECT (to_jsonb(v) - 'rt_rank')::text FROM vrf v ORDER BY id",
    'SELECT pool::text FROM pool ORDER BY id',
    'SELECT asn::text FROM asn ORDER BY asn',
    'SELECT audit_log::text FROM audit_log ORDER BY id',
)

DaemonFactory = Callable[..., Daemon]


def facts(db: Database) -> list[list[tuple[Any, ...]]]:
    """Every fact in a database, as text."""
    return db.run(lambda tx: [tx.all(sql) for sql in FACTS])


@contextlib.contextmanager
def open_directories() -> Iterator[Callable[[], Path]]:
    """Makes directories that any account may enter, which pytest's own are not; removes them at the end."""
    with contextlib.ExitStack() as stack:

        def make() -> Path:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix='nipap-test-', dir='/tmp'))
            os.chmod(directory, 0o755)
            return Path(directory)

        yield make
