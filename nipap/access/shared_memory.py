"""Memory of a fixed size, with a lock that the operating system releases when a process dies."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import tempfile
import threading
from collections.abc import Iterator


class LockedMemory:
    """Bytes, all 0 at first; `shared` by all processes that are forked later."""

    def __init__(self, size: int, shared: bool = False) -> None:
        self.bytes: mmap.mmap | bytearray = mmap.mmap(-1, size) if shared else bytearray(size)
        self._threads = threading.Lock()
        self._file = -1
        if shared:
            # Processes lock this file. The operating system releases the lock of a process that dies.
            with tempfile.TemporaryFile() as file:
                self._file = os.dup(file.fileno())

    def close(self) -> None:
        """Close the file of the lock in this process."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the bytes for a few microseconds. The block must not wait for anything."""
        with self._threads:
            if self._file >= 0:
                fcntl.lockf(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                if self._file >= 0:
                    fcntl.lockf(self._file, fcntl.LOCK_UN)
