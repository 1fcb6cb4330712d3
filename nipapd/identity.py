"""The account of the host that the daemon becomes when root starts it."""

from __future__ import annotations

import ctypes
import grp
import logging
import os
import pwd
import sys
from dataclasses import dataclass

from nipapd.config import Config

log = logging.getLogger('nipapd')

PR_SET_NO_NEW_PRIVS = 38
DEFAULT_ACCOUNTS = ('nipap', 'nobody')


@dataclass(frozen=True)
class Identity:
    """The account of the handlers, when root starts the daemon.

    by_default: the configuration names no account, so the daemon chose it.
    """

    name: str
    uid: int
    gid: int
    by_default: bool = False

    @classmethod
    def of(cls, config: Config) -> Identity | None:
        """Return the account of handlers; None when root does not run this process, or no account is found."""
        settings = config.nipapd
        if os.geteuid() != 0:
            if settings.user or settings.group:
                log.warning('not started by root: user and group stay as they are')
            return None
        account = find_user(settings.user) if settings.user else default_account(config)
        if account is None:
            return None
        gid = find_group(settings.group) if settings.group else account.pw_gid
        return cls(account.pw_name, account.pw_uid, gid, by_default=settings.user is None)

    def assume(self) -> None:
        """Become this account permanently: with its groups only, and without any way to regain privileges."""
        os.initgroups(self.name, self.gid)
        os.setgid(self.gid)  # for root this sets the saved id as well, and so does setuid below
        os.setuid(self.uid)
        gain_no_privileges()


def gain_no_privileges() -> None:
    """Make the kernel ignore set-user-ID bits and file capabilities for this process and its children. Linux only."""
    if sys.platform == 'linux' and ctypes.CDLL(None, use_errno=True).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), 'privileges cannot be given up')


def default_account(config: Config) -> pwd.struct_passwd | None:
    """Return the account of handlers where none is configured: the owner of the local accounts, else the first found.

    So the account stays the same at every start, even when the host gets new accounts.
    """
    found = [owner_of(backend.options.get('db_path')) for backend in config.auth.backends.values()]
    return next((account for account in (*found, *map(named, DEFAULT_ACCOUNTS)) if account and account.pw_uid), None)


def owner_of(path: str | None) -> pwd.struct_passwd | None:
    """Return the account that owns a file; None when there is no such file or no such account."""
    try:
        return pwd.getpwuid(os.stat(path).st_uid) if path else None
    except (OSError, KeyError):
        return None


def named(name: str) -> pwd.struct_passwd | None:
    """Return the account of that name; None when there is none."""
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def find_user(text: str) -> pwd.struct_passwd:
    return pwd.getpwuid(int(text)) if text.isdecimal() else pwd.getpwnam(text)


def find_group(text: str) -> int:
    return int(text) if text.isdecimal() else grp.getgrnam(text).gr_gid
