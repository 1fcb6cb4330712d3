"""What fixtures and tests share and what is no fixture."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from daemon_process import Daemon

DATABASE_OPTIONS = {'host': 'host', 'port': 'port', 'user': 'user', 'name': 'dbname'}
# A test's data need not survive a power cut.
FAST = {'fsync': 'off', 'full_page_writes': 'off', 'synchronous_commit': 'off'}

DaemonFactory = Callable[..., Daemon]


@contextlib.contextmanager
def open_directories() -> Iterator[Callable[[], Path]]:
    """Makes directories that any account may enter, which pytest's own are not; removes them at the end."""
    with contextlib.ExitStack() as stack:

        def make() -> Path:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix='nipap-test-', dir='/tmp'))
            os.chmod(directory, 0o755)
            return Path(directory)

        yield make
