"""The account of the host that the daemon becomes when root starts it."""

from __future__ import annotations

import ctypes
import grp
import logging
import os
import pwd
import sys
from dataclasses import dataclass

from nipapd.config import DaemonSettings

log = logging.getLogger('nipapd')

PR_SET_NO_NEW_PRIVS = 38


@dataclass(frozen=True)
class Identity:
    """The account that serves, when root starts the daemon."""

    name: str
    uid: int
    gid: int

    @classmethod
    def configured(cls, settings: DaemonSettings) -> Identity | None:
        """The account to become; None when none is configured or this process may not change."""
        if settings.user is None and settings.group is None:
            return None
        if os.geteuid() != 0:
            log.warning('not started by root: user and group stay as they are')
            return None
        account = find_user(settings.user) if settings.user else pwd.getpwuid(0)
        gid = find_group(settings.group) if settings.group else account.pw_gid
        return cls(account.pw_name, account.pw_uid, gid)

    def assume(self) -> None:
        """Become this account, for good: with its groups alone, no id to return to, and no program that gives one."""
        os.initgroups(self.name, self.gid)
        os.setgid(self.gid)  # by root: the saved one too, as below
        os.setuid(self.uid)
        gain_no_privileges()


def gain_no_privileges() -> None:
    """Have the kernel ignore set-user-ID bits and file capabilities for this process and all below. Linux only."""
    if sys.platform == 'linux' and ctypes.CDLL(None, use_errno=True).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), 'privileges cannot be given up')


def find_user(text: str) -> pwd.struct_passwd:
    return pwd.getpwuid(int(text)) if text.isdecimal() else pwd.getpwnam(text)


def find_group(text: str) -> int:
    return int(text) if text.isdecimal() else grp.getgrnam(text).gr_gid
