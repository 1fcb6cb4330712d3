"""Where log lines go and what they look like: one line a record, to stderr or to the system log."""

from __future__ import annotations

import logging
import logging.handlers
import re
import socket
import sys
import time
from pathlib import Path

SYSLOG_SOCKET = Path('/dev/log')
CONTROL = re.compile(r'[\x00-\x1f\x7f-\x9f\u2028\u2029]')
# Libraries that say at these levels what our own lines say already.
QUIET = {'tornado.access': logging.WARNING, 'asyncio': logging.WARNING}


class LogError(Exception):
    """Log lines cannot go where the configuration says; the message is one line."""


class LineFormatter(logging.Formatter):
    """Keeps a record on one line: control characters, which values from clients may hold, are shown escaped.

    Only the traceback of an unexpected exception adds lines. Times are UTC.
    """

    converter = staticmethod(time.gmtime)
    default_time_format = '%Y-%m-%dT%H:%M:%S'
    default_msec_format = '%s.%03dZ'

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the name is logging's)
        return escape(super().formatMessage(record))


def escape(text: str) -> str:
    """Replace control characters and line separators by their Python escapes."""
    return CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def configure(*, debug: bool, use_syslog: bool) -> None:
    """Send the records of this process and of those it forks to one place; `debug` includes the debug level.

    Raises LogError when the system log is wanted and this host has none.
    """
    handler = _syslog() if use_syslog else _stderr()
    root = logging.getLogger()
    for former in list(root.handlers):
        root.removeHandler(former)
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    for name, level in QUIET.items():
        logging.getLogger(name).setLevel(level)


def _stderr() -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter('%(asctime)s nipapd[%(process)d] %(levelname)s %(name)s: %(message)s'))
    return handler


def _syslog() -> logging.Handler:
    if not SYSLOG_SOCKET.is_socket():
        raise LogError(f'syslog is configured, but there is no {SYSLOG_SOCKET} on this host')
    if problem := _no_answer(SYSLOG_SOCKET):
        raise LogError(f'syslog is configured, but {SYSLOG_SOCKET} does not answer: {problem}')
    facility = logging.handlers.SysLogHandler.LOG_DAEMON
    handler = logging.handlers.SysLogHandler(str(SYSLOG_SOCKET), facility)
    handler.setFormatter(LineFormatter('nipapd[%(process)d]: %(levelname)s %(name)s: %(message)s'))
    return handler


def _no_answer(path: Path) -> str | None:
    """Why nobody can be reached at a UNIX socket of either kind; the handler of the library keeps that to itself."""
    problem = None
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(socket.AF_UNIX, kind) as probe:
            try:
                probe.connect(str(path))
            except OSError as error:
                problem = problem or error.strerror
            else:
                return None
    return problem
