"""Files for locks."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def open_lock(path: Path) -> int:
    """Open a file, or create it, for its owner alone, since any process that can open a file can lock it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with contextlib.suppress(PermissionError):  # a file of another account, open to its group
        os.fchmod(descriptor, 0o600)
    return descriptor
