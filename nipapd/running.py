"""The parts of a running daemon: its service, its supervisor, and the processes beside the handlers."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable

from nipap.access.known_logins import KnownLogins
from nipap.access.login_limits import LoginCounts
from nipap.access.sign_ins import SignInMarks
from nipapd import senders
from nipapd.config import Config, DaemonSettings
from nipapd.launch import Launch
from nipapd.metrics import Board
from nipapd.server import Shares
from nipapd.worker import Listeners, Service

log = logging.getLogger('nipapd')

SUPERVISOR_GRACE_S = 1.0


def service_of(
    config: Config,
    dsn: str,
    listeners: Listeners,
    login_counts: LoginCounts,
    known_logins: KnownLogins,
    sign_in_marks: SignInMarks,
    board: Board | None,
) -> Service:
    settings = config.nipapd
    shares = Shares(handlers(settings))
    sending = senders.Sending(dsn, settings, config.kafka)
    alone = sending if settings.forks < 0 else None
    logins = login_counts, known_logins, sign_in_marks
    return Service(dsn, config.auth, settings, listeners, shares, *logins, board, config.tracing, alone)


def serving_lines(listeners: Listeners) -> list[str]:
    urls = [url(listener, 'http') for listener in listeners.plain]
    urls += [url(listener, 'https') for listener in listeners.tls]
    watched = [f'health and metrics on {url(listener, "http")}' for listener in listeners.admin]
    return [f'serving on {address}' for address in urls] + watched


def refusing_hangups(watch: Callable[[], None] | None, launch: Launch) -> Callable[[], None]:
    """Return `watch`, extended to reopen the log at a HUP. A daemon with `forks = -1` cannot replace its handler."""
    hangups: list[int] = []
    signal.signal(signal.SIGHUP, lambda number, _frame: hangups.append(number))

    def look() -> None:
        if hangups:
            hangups.clear()
            launch.reopen_log()
            log.info('SIGHUP is ignored: restart nipapd to apply a changed configuration')
        if watch is not None:
            watch()

    return look


def handlers(settings: DaemonSettings) -> int:
    """Return the number of handlers: one for each core that this process may use, unless configured."""
    if settings.forks:
        return abs(settings.forks)
    if sys.platform == 'linux':
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def url(listener: socket.socket, scheme: str) -> str:
    host, port = listener.getsockname()[:2]
    return f'{scheme}://[{host}]:{port}' if ':' in host else f'{scheme}://{host}:{port}'
