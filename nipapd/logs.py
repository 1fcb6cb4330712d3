"""The destination and the format of log lines: one line a record, text or JSON, to stderr or to the system log."""

from __future__ import annotations

import json
import logging
import logging.handlers
import re
import socket
import sys
import time
from pathlib import Path
from typing import Any

from nipap.runtime import tracer

SYSLOG_SOCKET = Path('/dev/log')
CONTROL = re.compile(r'[\x00-\x1f\x7f-\x9f\u2028\u2029]')
ACCESS = 'nipap.request'  # the logger of the line for each call
# Libraries whose lines at lower levels repeat our own.
QUIET = {'tornado.access': logging.WARNING, 'asyncio': logging.WARNING}


class LogError(Exception):
    """The configured log cannot be written to; the message is one line."""


class LineFormatter(logging.Formatter):
    """Formats a record as one line, with control characters, which values from clients may hold, escaped.

    Only the traceback of an unexpected exception adds lines. These are indented, so that no text of an exception looks
    like a record. Times are UTC.
    """

    converter = staticmethod(time.gmtime)
    default_time_format = '%Y-%m-%dT%H:%M:%S'
    default_msec_format = '%s.%03dZ'

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the name is logging's)
        return escape(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 (as above)
        return '\n'.join(f'  {escape(line)}' for line in super().formatException(ei).split('\n'))


class JsonFormatter(logging.Formatter):
    """Formats a record as one line: a JSON object after a prefix, if there is one."""

    def __init__(self, prefix: str = '') -> None:
        super().__init__()
        self._prefix = prefix

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))
        members: dict[str, object] = {
            'time': f'{seconds}.{int(record.created % 1 * 1000):03d}Z',
            'level': record.levelname,
            'logger': record.name,
            'process': record.process,
            'message': record.getMessage(),
            **_of_call(record),
        }
        if record.exc_info:
            members['exception'] = self.formatException(record.exc_info)
        return self._prefix % {'process': record.process} + json.dumps(members)


def _of_call(record: logging.LogRecord) -> dict[str, object]:
    """Return the members about the call of a record, or about the call under way; none without a call."""
    about: tracer.CallRecord | None = getattr(record, 'call', None)
    call = about or tracer.current()
    if call is None:
        return {}
    members: dict[str, object] = {'request_id': call.request_id}
    if call.trace_id is not None:
        members['trace_id'] = call.trace_id
    if about is not None:
        members |= {'method': about.method, 'user': about.user, 'duration_ms': round(about.seconds * 1e3, 3)}
        members |= {'fault': about.fault or 0, 'peer': about.peer}
        if about.authenticated_as is not None:
            members['authenticated_as'] = about.authenticated_as
    return members


def escape(text: str) -> str:
    """Replace control characters and line separators by their Python escapes."""
    return CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def configure(
    *, debug: bool, use_syslog: bool, as_json: bool = False, level: str = 'info', access: bool | None = None
) -> None:
    """Send the records of this process and its children to one destination, from `level` on.

    debug: log from the debug level on, regardless of `level`.
    access: whether calls are logged, regardless of `level`. None: `level` decides.

    :raises LogError: the system log is wanted, and this host has none or it does not answer.
    """
    handler = _syslog(as_json) if use_syslog else _stderr(as_json)
    root = logging.getLogger()
    for former in list(root.handlers):
        root.removeHandler(former)
    root.addHandler(handler)
    root.setLevel('DEBUG' if debug else level.upper())
    calls = {None: logging.NOTSET, True: logging.INFO, False: logging.WARNING}
    logging.getLogger(ACCESS).setLevel(logging.NOTSET if debug else calls[access])
    for name, least in QUIET.items():
        logging.getLogger(name).setLevel(least)


def _stderr(as_json: bool) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    text = LineFormatter('%(asctime)s nipapd[%(process)d] %(levelname)s %(name)s: %(message)s')
    handler.setFormatter(JsonFormatter() if as_json else text)
    return handler


def _syslog(as_json: bool) -> logging.Handler:
    if not SYSLOG_SOCKET.is_socket():
        raise LogError(f'syslog is configured, but there is no {SYSLOG_SOCKET} on this host')
    if problem := _no_answer(SYSLOG_SOCKET):
        raise LogError(f'syslog is configured, but {SYSLOG_SOCKET} does not answer: {problem}')
    facility = logging.handlers.SysLogHandler.LOG_DAEMON
    handler = logging.handlers.SysLogHandler(str(SYSLOG_SOCKET), facility)
    text = LineFormatter('nipapd[%(process)d]: %(levelname)s %(name)s: %(message)s')
    handler.setFormatter(JsonFormatter('nipapd[%(process)d]: ') if as_json else text)
    return handler


def _no_answer(path: Path) -> str | None:
    """Return why no socket answers at a path, of either kind; None when one does. The library hides such errors."""
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
