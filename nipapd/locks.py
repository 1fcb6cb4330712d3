"""Files that are there to be locked."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def open_lock(path: Path) -> int:
    """Open the file, for its owner alone, and make it when there is none: whoever can open a file can lock it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with contextlib.suppress(PermissionError):  # the file of another account, which its group may open
        os.fchmod(descriptor, 0o600)
    return descriptor
