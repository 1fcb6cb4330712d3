"""The current call of a fiber or thread, and the tracer that follows calls.

A program that traces passes an object like `Tracer` to `use`. This module does not know where traces go. Each fiber and
each thread has a call of its own, so concurrent calls are not confused.
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

# The parts in which statements of one kind differ. Names in double quotes are not among them. The end of a text may be
# missing. An identifier may contain digits.
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
_LONGEST_STATEMENT = 20_000  # characters of a statement in a trace


class CallRecord:
    """The facts about a call, recorded while it is answered."""

    __slots__ = (
        *('as_of', 'authenticated_as', 'change_set', 'fault', 'method', 'peer'),
        *('request_id', 'seconds', 'source', 'span', 'trace_id', 'user'),
    )

    def __init__(self, request_id: str, peer: str = '-') -> None:
        self.request_id = request_id
        self.peer = peer
        self.method = '-'
        self.user = '-'
        self.authenticated_as: str | None = None  # the authenticated user, if it acts for another `user`
        self.source: str | None = None  # the authoritative source
        self.change_set: int | None = None
        self.as_of: Any = None  # the state of the past that the answer shows, a `nipap.history.past.Shown`
        self.fault: int | None = None
        self.seconds = 0.0
        self.trace_id: str | None = None
        self.span: Any = None  # set by the tracer


class Cursor(Protocol):
    """The part of psycopg2's cursor that runs statements."""

    @property
    def query(self) -> bytes | None:
        """Return the statement that was sent last."""

    @property
    def rowcount(self) -> int:
        """Return the number of rows touched or found; negative if there is no count."""

    def execute(self, query: Any, args: Any = None, /) -> None:
        """Run a statement."""


class Tracer:
    """An object that follows calls. This one does nothing."""

    # The header of answers with the id of the trace.
    header: str | None = None

    def begin(self, call: CallRecord, environ: Mapping[str, Any]) -> None:
        """Begin to trace a call. environ: the WSGI environment of its request."""

    def end(self, call: CallRecord, status: int) -> None:
        """End the trace of a call. status: the HTTP status of its answer."""

    def execute(  # the arguments are for subclasses
        self,
        call: CallRecord,  # noqa: ARG002
        cursor: Cursor,
        statement: Any,
        args: Any,
        prepared: Mapping[str, str],  # noqa: ARG002
    ) -> None:
        """Run a statement for a call; `prepared` maps statements to the names of their prepared form."""
        cursor.execute(statement, args)


_tracer: Tracer | None = None
_current: ContextVar[CallRecord | None] = ContextVar('call', default=None)
_numbers = itertools.count(1)
_prefix = ''


def use(tracer: Tracer | None) -> None:
    """Set the tracer of this process; None to stop tracing."""
    global _tracer
    _tracer = tracer


def current() -> CallRecord | None:
    """Return the current or the last call of this fiber or thread."""
    return _current.get()


def begin(environ: Mapping[str, Any]) -> CallRecord:
    """Begin the call of a request with this WSGI environment, and return it."""
    call = CallRecord(request_id(environ.get('HTTP_X_REQUEST_ID')), environ.get('REMOTE_ADDR') or '-')
    _current.set(call)
    if _tracer is not None:
        _tracer.begin(call, environ)
    return call


def end(call: CallRecord, status: int) -> None:
    """End a call that was answered with this HTTP status."""
    if _tracer is not None and call.span is not None:
        _tracer.end(call, status)


def header() -> str | None:
    """Return the name of the header with the id of the trace; None if answers have no such header."""
    return _tracer.header if _tracer is not None else None


def execute(cursor: Cursor, statement: Any, args: Any = None, prepared: Mapping[str, str] = {}) -> None:
    """Run a statement, and trace it if there is a current call."""
    if _tracer is not None:
        call = _current.get()
        if call is not None and call.span is not None:
            _tracer.execute(call, cursor, statement, args, prepared)
            return
    cursor.execute(statement, args)


def request_id(given: str | None) -> str:
    """Return the client's id of a request if it is valid, else a new one. The id is not secret."""
    if given is not None and _given(given):
        return given
    return f'{_prefix}-{next(_numbers):x}'


def without_values(query: bytes, prepared: Mapping[str, str]) -> str:
    """Return the text of a statement with question marks for values.

    An EXECUTE is replaced by its prepared statement.
    """
    text = query[:_LONGEST_STATEMENT].decode(errors='replace')
    shown = _VALUES.sub('?', _VALUE.sub(lambda found: found[0] if found[0][0] == '"' else '?', text))
    if not prepared or 'EXECUTE' not in shown:
        return shown
    texts = {name: statement for statement, name in prepared.items()}
    return _PREPARED.sub(lambda found: without_values(texts.get(found[1], found[0]).encode(), {}), shown)


def _renew() -> None:
    """Choose a new prefix of request ids. A forked process must not continue the numbers of its parent."""
    global _prefix
    _prefix = secrets.token_hex(5)


_renew()
os.register_at_fork(after_in_child=_renew)
