"""The call that is being answered: what is known of it, and who follows it on its way.

Whoever follows calls gives an object like `Tracer` to `use`; nobody here knows where that tells of them. Each fiber and
each thread has a call of its own, so those that wait at the same time are not taken for one another.
"""

from __future__ import annotations

import itertools
import os
import re
import secrets
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Protocol

_given = re.compile('[A-Za-z0-9._-]{1,128}').fullmatch

# What differs from one statement to the next of its kind; names in double quotes do not. The end of a text may be
# missing. An identifier may hold digits.
_VALUE = re.compile(
    r"""
    "[^"]*"
    | [eE]'(?:[^'\\]|''|\\.)*+(?:'|\\?\Z)
    | (?:\b[bBxX])?'(?:[^']|'')*+(?:'|\Z)
    | (?<![\w$.])-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?
    """,
    re.VERBOSE | re.DOTALL,
)
_VALUES = re.compile(r'\?(?:\s*,\s*\?)+')
_PREPARED = re.compile(r'EXECUTE (prepared_\d+)(?: \([^)]*\))?')
_LONGEST_STATEMENT = 20_000  # characters of which a text is made


class CallRecord:
    """What is known of a call while it is answered."""

    __slots__ = (
        *('authenticated_as', 'change_set', 'fault', 'method', 'peer'),
        *('request_id', 'seconds', 'source', 'span', 'trace_id', 'user'),
    )

    def __init__(self, request_id: str, peer: str = '-') -> None:
        self.request_id = request_id
        self.peer = peer
        self.method = '-'
        self.user = '-'
        self.authenticated_as: str | None = None  # who acts for `user`, if that is another
        self.source: str | None = None  # the authoritative source
        self.change_set: int | None = None
        self.fault: int | None = None
        self.seconds = 0.0
        self.trace_id: str | None = None
        self.span: Any = None  # of whoever follows it


class Cursor(Protocol):
    """What runs statements, as psycopg2 has them."""

    @property
    def query(self) -> bytes | None:
        """What was sent last."""

    @property
    def rowcount(self) -> int:
        """How many rows that touched or found; less than 0 when there were none to count."""

    def execute(self, query: Any, args: Any = None, /) -> None:
        """Run a statement."""


class Tracer:
    """Follows calls."""

    header: str | None = None  # of answers, which has the id of the trace

    def begin(self, call: CallRecord, environ: Mapping[str, Any]) -> None:
        """A call begins, by a request with this environment of WSGI."""

    def end(self, call: CallRecord, status: int) -> None:
        """It is answered, with this status of HTTP."""

    def execute(  # these are for those who tell of it
        self,
        call: CallRecord,  # noqa: ARG002
        cursor: Cursor,
        statement: Any,
        args: Any,
        prepared: Mapping[str, str],  # noqa: ARG002
    ) -> None:
        """Run a statement for a call; `prepared` has the names of those that are prepared."""
        cursor.execute(statement, args)


_tracer: Tracer | None = None
_current: ContextVar[CallRecord | None] = ContextVar('call', default=None)
_numbers = itertools.count(1)
_prefix = ''


def use(tracer: Tracer | None) -> None:
    """Have calls of this process followed from now on; None: no more."""
    global _tracer
    _tracer = tracer


def current() -> CallRecord | None:
    """The call that is being answered here, or was answered last."""
    return _current.get()


def begin(environ: Mapping[str, Any]) -> CallRecord:
    """The call that a request with this environment of WSGI makes."""
    call = CallRecord(request_id(environ.get('HTTP_X_REQUEST_ID')), environ.get('REMOTE_ADDR') or '-')
    _current.set(call)
    if _tracer is not None:
        _tracer.begin(call, environ)
    return call


def end(call: CallRecord, status: int) -> None:
    """The call is answered, with this status of HTTP."""
    if _tracer is not None and call.span is not None:
        _tracer.end(call, status)


def header() -> str | None:
    """The header of answers that has the id of the trace; None: they have none."""
    return _tracer.header if _tracer is not None else None


def execute(cursor: Cursor, statement: Any, args: Any = None, prepared: Mapping[str, str] = {}) -> None:
    """Run a statement, for the call that is being answered here if there is one."""
    if _tracer is not None:
        call = _current.get()
        if call is not None and call.span is not None:
            _tracer.execute(call, cursor, statement, args, prepared)
            return
    cursor.execute(statement, args)


def request_id(given: str | None) -> str:
    """The id that a client has given its request, if that can be one, else a new one; it is no secret."""
    if given is not None and _given(given):
        return given
    return f'{_prefix}-{next(_numbers):x}'


def without_values(query: bytes, prepared: Mapping[str, str]) -> str:
    """The text of what was sent to the database, with question marks for values.

    Statements that were prepared are shown themselves.
    """
    text = query[:_LONGEST_STATEMENT].decode(errors='replace')
    shown = _VALUES.sub('?', _VALUE.sub(lambda found: found[0] if found[0][0] == '"' else '?', text))
    if not prepared or 'EXECUTE' not in shown:
        return shown
    texts = {name: statement for statement, name in prepared.items()}
    return _PREPARED.sub(lambda found: without_values(texts.get(found[1], found[0]).encode(), {}), shown)


def _renew() -> None:
    """Processes that are forked do not count on where their parent was."""
    global _prefix
    _prefix = secrets.token_hex(5)


_renew()
os.register_at_fork(after_in_child=_renew)
