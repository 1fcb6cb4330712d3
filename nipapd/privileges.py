"""The choice between root and an account without privileges for the handlers, where root starts the daemon.

Handlers of former versions ran as root unless `user` named an account. Their installations go on working: the parent,
which stays root, opens ports and keys, and gives the local accounts to the account of handlers. Where that account
cannot do the work, handlers run as root as before, with a warning.
"""

from __future__ import annotations

import importlib
import logging
import os
import pwd
from collections.abc import Callable, Iterator
from pathlib import Path

import tornado

from nipap import backend
from nipapd import accounts, databases
from nipapd.config import Config
from nipapd.databases import database_problem
from nipapd.identity import Identity

log = logging.getLogger('nipapd')

HINT = 'set user in [nipapd] to another account (docs/security.md)'
MOST_TEXT = 4096
LATER = ('_strptime', 'encodings.idna', 'encodings.utf_8_sig', 'importlib.readers', 'tornado.simple_httpclient')


def settled(config: Config, identity: Identity | None, dsn: str) -> Identity | None:
    """Return the account of handlers, after giving it the files that it needs; None: they run as this process does.

    dsn: the database as the handlers reach it.
    """
    if os.geteuid() != 0:
        return None
    if identity is None:
        log.warning('handlers run as root: the host has no other suitable account; %s', HINT)
        return None
    if identity.uid == 0:
        log.warning(
            'handlers run as root, since user = %s is configured: an intruder in a handler controls this host',
            identity.name,
        )
        return identity
    if config.nipapd.forks < 0 and config.embedded:
        log.warning('calls are served by root: with forks = -1 the process that manages PostgreSQL serves them')
        return None if identity.by_default else identity
    if not identity.by_default:
        return identity
    load_what_is_used_later()
    problem = obstacle(config, identity, dsn)
    if problem is None:
        accounts.hand_over(config, identity)
        problem = accounts.unreadable_by(config, identity)
    if problem:
        log.warning('handlers run as root: %s; %s', problem, HINT)
        return None
    backups = [Path(directory) for directory in (config.nipapd.backup_dir,) if directory]
    if problem := told_by(identity, lambda: unreadable(backups)):
        log.warning('metrics lack the time of the newest backup: %s', problem)
    return identity


def load_what_is_used_later() -> None:
    """Import the modules that handlers would import later: their account may be unable to read Python's directory."""
    for name in LATER:
        importlib.import_module(name)


def parent_stays_root(config: Config, identity: Identity | None) -> bool:
    """Return whether the parent of the handlers must stay root, because its work needs root."""
    return config.embedded or (identity is not None and identity.by_default and config.nipapd.forks >= 0)


def obstacle(config: Config, identity: Identity, dsn: str) -> str | None:
    """Return why an account cannot do the work of handlers; None when it can, or this process cannot either."""
    if problem := missing(config, identity):
        return problem
    problem = told_by(identity, lambda: no_database(dsn))
    if problem is None or database_problem(dsn) is not None:
        return None
    return f'{identity.name} cannot reach the database: {problem}'


def missing(config: Config, identity: Identity) -> str | None:
    """Return a message about a file that handlers need and the account cannot read; None when there is no such file."""
    needed = [Path(str(module.__file__)) for module in (backend, databases, tornado)]
    if config.kafka.enabled and config.kafka.ssl_cafile:
        needed.append(Path(config.kafka.ssl_cafile))
    if config.kafka.enabled or config.tracing.is_on:
        needed.append(Path(os.__file__))  # these libraries import modules of Python while they work
    return told_by(identity, lambda: unreadable(needed))


def unreadable(paths: list[Path]) -> Iterator[str]:
    """Yield a message for each file that this process may not read."""
    for path in paths:
        if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
            yield f'{path} cannot be read by {pwd.getpwuid(os.geteuid()).pw_name}'


def no_database(dsn: str) -> Iterator[str]:
    """Yield why this process reaches no server, if so."""
    if problem := database_problem(dsn):
        yield ' '.join(str(problem).split())


def told_by(identity: Identity, look: Callable[[], Iterator[str]]) -> str | None:
    """Return the first problem that `look` yields in a child process of that account; None without problems."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            identity.assume()
            text = next(look(), '')
        except BaseException as error:
            text = f'a process cannot switch to {identity.name}, or cannot work under that account: {error}'
        os.write(sending, text.encode(errors='replace')[:MOST_TEXT])
        os._exit(0)
    os.close(sending)
    with open(receiving, 'rb') as pipe:
        text = pipe.read().decode(errors='replace')
    os.waitpid(child, 0)
    return text or None
