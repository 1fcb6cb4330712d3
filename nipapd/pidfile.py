"""The pid file: holds the id of the running daemon. It has one owner at a time, and never overwrites other data."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)

LONGEST = 64
POLL_S = 0.02
LOOK_S = 1.0  # longer than scripts hold the lock to test it
NUMBER = re.compile(rb'\s*[0-9]*\s*')
FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class PidFileError(Exception):
    """The process id cannot be written; the message is one line."""


@contextlib.contextmanager
def pid_file(path: Path) -> Iterator[int]:
    """Write our process id to a file while the daemon runs, and yield the descriptor of the file.

    Only an empty file is overwritten, or a number, as left by a killed daemon. Afterwards the file is removed, or
    emptied if the account that we dropped to may not write to its directory.

    A forked process must close the descriptor: it carries a lock that lasts until the last descriptor is closed.

    :raises PidFileError: another daemon has the file, or the file cannot be written.
    """
    try:
        descriptor = _acquire(path)
    except OSError as error:
        raise PidFileError(f'cannot write the pid file {path}: {error.strerror}') from error
    text = f'{os.getpid()}\n'.encode()
    try:
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, text, 0)
        except OSError as error:
            raise PidFileError(f'cannot write the pid file {path}: {error.strerror}') from error
        _lock_for_scripts(path, descriptor)
        yield descriptor
    finally:
        with contextlib.suppress(OSError):
            if os.pread(descriptor, LONGEST, 0) == text:
                os.ftruncate(descriptor, 0)
                if _is_at(path, descriptor):
                    path.unlink()
        os.close(descriptor)


def _acquire(path: Path) -> int:
    """Return the descriptor of the file, locked while we live. The lock is a process's own: children do not have it."""
    _check_directory(path)
    while True:
        descriptor = _open(path)
        try:
            _check(path, descriptor)
            _lock(path, descriptor)
            if _is_at(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the former owner has just removed the file


def _open(path: Path) -> int:
    """Open the file, and create it unless it exists.

    An existing file is opened without O_CREAT. Linux refuses O_CREAT for files of other accounts in a sticky directory
    when fs.protected_regular is set, and the error does not tell the reason (proc(5)).
    """
    while True:
        try:
            return os.open(path, FLAGS)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                return os.open(path, FLAGS | os.O_CREAT | os.O_EXCL, 0o644)


def _check_directory(path: Path) -> None:
    """Refuse a directory in which anybody may replace the file while we run."""
    status = os.stat(path.parent)
    safe = status.st_mode & stat.S_ISVTX and status.st_uid in (0, os.geteuid())
    if status.st_mode & stat.S_IWOTH and not safe:
        raise PidFileError(f'cannot write the pid file {path}: anybody may replace files in its directory')


def _check(path: Path, descriptor: int) -> None:
    """Refuse a file that no daemon has written, or that another account created in a directory open to everybody."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        raise PidFileError(f'cannot write the pid file {path}: it must be a regular file without further hard links')
    if status.st_uid != os.geteuid() and os.stat(path.parent).st_mode & stat.S_IWOTH:
        raise PidFileError(f'cannot write the pid file {path}: it belongs to another account')
    if status.st_size > LONGEST or not NUMBER.fullmatch(os.pread(descriptor, LONGEST, 0)):
        raise PidFileError(f'cannot write the pid file {path}: it must contain a process id only')


def _lock(path: Path, descriptor: int) -> None:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        owner = os.pread(descriptor, LONGEST, 0).decode('ascii', 'replace').strip()
        raise PidFileError(f'the pid file {path} is in use by a running daemon, process {owner}') from None


def _lock_for_scripts(path: Path, descriptor: int) -> None:
    """Take the lock that flock(1) sees as well: init scripts test with ``flock -xn`` whether a daemon runs.

    Everybody who may read the file can hold this lock, so the daemon does not rely on it.
    """
    deadline = time.monotonic() + LOOK_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                log.warning('%s is locked by another process: scripts that test it with flock may be wrong', path)
                return
        except OSError as error:  # a file system without flock
            log.debug('%s cannot be locked with flock: %s', path, error.strerror)
            return
        time.sleep(POLL_S)


def _is_at(path: Path, descriptor: int) -> bool:
    """Return whether the path still names this file."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
