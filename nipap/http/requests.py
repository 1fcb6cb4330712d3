"""The frame of every call over HTTP in any format: an id, a line in the log, metrics and a trace.

All transports share this module, so that they report a call alike.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from flask import Flask, Request, Response
from flask.globals import request_ctx

from nipap.access.authentication import Actor, Credentials
from nipap.postgres.transaction import Outcome
from nipap.runtime import tracer
from nipap.runtime.meter import Meter
from nipap.runtime.tracer import CallRecord

REQUEST_ID = 'X-Request-ID'
CHANGE_SET = 'NIPAP-Change-Set'  # the number of the change set, in answers to changes
_CALL = 'nipap.call'

T = TypeVar('T')

_log = logging.getLogger('nipap.request')


def stamp_answers(app: Flask) -> None:
    """Add the id of the request to every answer of an application, and the headers that browsers need.

    An answer without Cache-Control gets ``no-store``, because it may hold data for its reader alone.
    """
    app.after_request(_stamp)


def _stamp(response: Response) -> Response:
    environ = request_ctx.request.environ
    headers = response.headers
    given = {name for name, _ in headers}
    if 'Cache-Control' not in given:
        headers.add('Cache-Control', 'no-store')
    if 'X-Content-Type-Options' not in given:
        headers.add('X-Content-Type-Options', 'nosniff')
    call: CallRecord | None = environ.get(_CALL)
    if call is None:  # the path is unknown
        headers[REQUEST_ID] = tracer.request_id(environ.get('HTTP_X_REQUEST_ID'))
        return response
    headers[REQUEST_ID] = call.request_id
    if call.change_set is not None:
        headers[CHANGE_SET] = str(call.change_set)
    if call.trace_id is not None and (header := tracer.header()):
        headers[header] = call.trace_id
    return response


def record_of(request: Request) -> CallRecord:
    """Return the record of the call that a request makes."""
    call: CallRecord = request.environ[_CALL]
    return call


def note_caller(call: CallRecord, credentials: Credentials, actor: Actor) -> None:
    """Note the caller of a call for the log.

    The user is the name among the users of all back ends. If a user acts for another, it is the name of the other, and
    the name of the logged-in user is noted beside it.
    """
    acts_for_another = actor.username != credentials.username
    call.user = actor.username if acts_for_another else actor.authenticated_as
    call.authenticated_as = actor.authenticated_as if acts_for_another else None
    call.source = actor.authoritative_source


def performed(call: CallRecord, perform: Callable[..., T]) -> T:
    """Make a changing call and note the number of its change set, which the answer carries."""
    outcome = Outcome()
    result = perform(outcome=outcome)
    call.change_set = outcome.change_set
    return result


def answer(request: Request, meter: Meter, respond: Callable[[CallRecord], Response]) -> Response:
    """Return the answer of `respond` to a call; then trace, count and log the call.

    `respond` gets the record of the call and completes it.
    """
    started = time.perf_counter()
    call = request.environ[_CALL] = tracer.begin(request.environ)
    status = 500
    try:
        response = respond(call)
        status = response.status_code
        if call.as_of is not None:
            response.headers['NIPAP-As-Of'] = str(call.as_of)
    finally:
        call.seconds = time.perf_counter() - started
        tracer.end(call, status)
    _count(call, meter)
    return response


def part(request: Request, meter: Meter, respond: Callable[[CallRecord], T]) -> T:
    """Return the answer of `respond` to one of the calls of a request. It counts and is logged as a call of its own."""
    whole = record_of(request)
    call = CallRecord(whole.request_id, whole.peer)
    call.user, call.trace_id = whole.user, whole.trace_id
    started = time.perf_counter()
    found = respond(call)
    call.seconds = time.perf_counter() - started
    _count(call, meter)
    return found


def _count(call: CallRecord, meter: Meter) -> None:
    """Count an answered call and log it."""
    meter.call(call.method, call.fault or 0, call.seconds)
    if _log.isEnabledFor(logging.INFO):
        outcome = 'ok' if call.fault is None else f'fault {call.fault}'
        by = '' if call.authenticated_as is None else f' by={call.authenticated_as!r}'
        _log.info(
            '%s user=%r%s %.1f ms %s request=%s',
            *(call.method, call.user, by, call.seconds * 1e3, outcome, call.request_id),
            extra={'call': call},
        )
