"""The local accounts at the start of the daemon: check their files, and create the first account."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shlex
import stat
import sys
from pathlib import Path

from nipap.access.local_users import LocalUser, LocalUsers, UserFileMissingError
from nipapd.binaries import only_root_leads_to
from nipapd.config import DEFAULT_FILE, Config, data_directory
from nipapd.identity import Identity
from nipapd.inifile import everybody_can_read
from nipapd.launch import StartError, say

log = logging.getLogger('nipapd')

PASSWORD_BYTES = 15
FIRST_USER = 'admin'
FIRST_FILE = 'first-password'


def check(config: Config, identity: Identity | None) -> None:
    """Refuse files of accounts that are damaged or cannot be read: nobody could log in.

    A missing file is a warning. The file of the default backend may be missing: the first user is created in it.

    identity: the account that reads the files; None for the account of this process.
    :raises UserFileError: a file is damaged, has no table of users, or cannot be read.
    :raises StartError: `identity` cannot read a file.
    """
    for name, backend in config.auth.backends.items():
        if 'db_path' not in backend.options:
            continue
        users = LocalUsers(backend.options['db_path'])
        try:
            users.users()
        except UserFileMissingError as error:
            if name != config.auth.default_backend:
                log.warning('auth backend %s refuses every login: %s', name, error)
            continue
        if identity and not _can_read(identity, users):
            raise StartError(_unreadable(users, identity))
        if everybody_can_read(Path(users.path)):
            log.warning('%s: everybody on this host can read it, and it holds password hashes: chmod o-r', users.path)


def unreadable_by(config: Config, identity: Identity) -> str | None:
    """Return a message about the first file of accounts that `identity` cannot read; None when it can read them all."""
    for backend in config.auth.backends.values():
        path = backend.options.get('db_path')
        if path and os.path.exists(path) and not _can_read(identity, LocalUsers(path)):
            return _unreadable(LocalUsers(path), identity)
    return None


def _unreadable(users: LocalUsers, identity: Identity) -> str:
    return f'{users.path}: cannot be read by {identity.name}, the account of the request handlers'


def hand_over(config: Config, identity: Identity) -> None:
    """Give the files of accounts that belong to root to the account of handlers.

    A file that another account than root could replace keeps its owner. The group and the mode never change.
    """
    for backend in config.auth.backends.values():
        if path := backend.options.get('db_path'):
            with contextlib.suppress(OSError):
                _give(Path(path), identity)


def _give(path: Path, identity: Identity) -> None:
    if os.stat(path).st_uid != 0 or not only_root_leads_to(path):
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_uid == 0 and status.st_nlink == 1:
            os.fchown(descriptor, identity.uid, -1)
            log.info('changed the owner of %s to %s, the account of the request handlers', path, identity.name)
    finally:
        os.close(descriptor)


def _can_read(identity: Identity, users: LocalUsers) -> bool:
    """Return whether the account can read the file, tried in a child process that becomes the account."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    code = 1
    try:
        identity.assume()
        users.users()
        code = 0
    finally:
        os._exit(code)


def create_first_user(config: Config, identity: Identity | None) -> None:
    """Create the file of local accounts with one user, unless there is such a file.

    The password is shown at a terminal. Without a terminal, messages end in a journal or a file that other people
    read. So the password goes to a file beside the accounts, which only its owner can read.
    """
    backend = config.auth.backends[config.auth.default_backend]
    if backend.type != 'SqliteAuth':
        return
    path = Path(backend.options['db_path'])
    if os.path.lexists(path):
        return
    password = secrets.token_urlsafe(PASSWORD_BYTES)
    said, change = f"created user '{FIRST_USER}'", f'{passwd_command(config)} modify -u {FIRST_USER}'
    if sys.stderr.isatty():
        if create_accounts(path, password, identity):
            say(f"{said} with password '{password}' (shown only this once; to change it: {change})")
        return
    partial = _write_private(path.with_name(f'{FIRST_FILE}.{os.getpid()}.new'), f'{password}\n')
    try:
        if create_accounts(path, password, identity):
            kept = first_password_of(path)
            partial.replace(kept)
            say(f'{said}, whose password is in {kept} (to change it and remove the file: {change})')
    finally:
        partial.unlink(missing_ok=True)


def first_password_of(path: str | os.PathLike[str]) -> Path:
    """Return the path of the file with the password of the first user, beside the file of accounts."""
    return Path(path).with_name(FIRST_FILE)


def _write_private(path: Path, text: str) -> Path:
    """Write a new file that only its owner can read, and return its path.

    :raises StartError: the file cannot be created.
    """
    try:
        path.unlink(missing_ok=True)
        with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), 'w') as file:
            file.write(text)
    except OSError as error:
        raise StartError(f'cannot create {path}: {error.strerror}') from error
    return path


def passwd_command(config: Config) -> str:
    """Return the command line of nipap-passwd that works on the accounts of this daemon."""
    program = Path(sys.argv[0]).with_name('nipap-passwd')
    words = [str(program) if program.exists() else program.name]
    if config.path not in (None, DEFAULT_FILE):
        words += ['-c', str(config.path)]
    if config.data_dir != data_directory(None, os.environ):
        words += ['--data-dir', str(config.data_dir)]
    return shlex.join(words)


def create_accounts(path: Path, password: str, identity: Identity | None) -> bool:
    """Create a complete file of accounts in one step; return False when another process has created the file.

    :raises StartError: the file cannot be created.
    """
    partial = path.with_name(f'{path.name}.{os.getpid()}.new')
    partial.unlink(missing_ok=True)
    users = LocalUsers(partial)
    try:
        users.create()
        users.add(LocalUser(FIRST_USER, trusted=True), password)
        if identity:
            os.chown(partial, identity.uid, identity.gid)
        os.link(partial, path)
    except FileExistsError:
        return False
    except OSError as error:
        raise StartError(f'cannot create {path}: {error.strerror}') from error
    finally:
        partial.unlink(missing_ok=True)
    return True
