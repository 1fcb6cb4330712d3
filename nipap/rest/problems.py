"""Errors over HTTP: one table of statuses, and ``application/problem+json`` (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from flask import Response
from werkzeug.exceptions import HTTPException

from nipap import errors
from nipap.attributes import shown
from nipap.calls import objections
from nipap.rest.objects import encode

CONTENT_TYPE = 'application/problem+json'
RETRY_AFTER_S = 5
CHALLENGES = ('Basic realm="nipap", charset="UTF-8"', 'Bearer realm="nipap"')

# The status of an error is the status of its class, or of its closest base class in this table.
STATUSES: Mapping[type[errors.NipapError], int] = {
    errors.NipapError: 400,
    errors.NipapUnavailableError: 503,
    errors.NipapOutcomeUnknownError: 504,
    errors.NipapBusyError: 503,
    errors.NipapInputError: 400,
    errors.NipapMissingInputError: 400,
    errors.NipapExtraneousInputError: 400,
    errors.NipapNoSuchOperatorError: 400,
    errors.NipapTooLargeError: 413,
    errors.NipapMediaTypeError: 415,
    errors.NipapValueError: 422,
    errors.NipapTimeoutError: 422,
    errors.NipapPlanError: 409,
    errors.NipapNonExistentError: 404,
    errors.NipapNoPastError: 410,
    errors.NipapDuplicateError: 409,
    errors.NipapKeyReusedError: 422,
    errors.AuthError: 401,
    errors.AuthenticationMissingError: 401,
    errors.AuthenticationFailedError: 401,
    errors.TooManyLoginsError: 429,
    errors.AuthorizationFailedError: 403,
    errors.NipapChangedError: 412,
    errors.NipapPlanChangedError: 409,
    errors.NipapConflictError: 409,
}


def not_understood(text: str, interpretation: dict[str, Any]) -> errors.NipapError:
    """Return the error for a search text that was not understood: each such part, with the reason."""
    parts = ', '.join(f'{why} {shown(part)}' for part, why in objections(interpretation))
    error = errors.NipapValueError(f'Invalid q ({shown(text)}), {parts}; with lenient=1 the answer is an empty list')
    error.interpretation = interpretation
    return error.about('q')


def status_of(error: errors.NipapError) -> int:
    """Return the HTTP status of an error."""
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


def problem(error: errors.NipapError) -> Response:
    """Return the response that reports an error."""
    status = status_of(error)
    members: dict[str, object] = {'detail': str(error), 'code': error.code}
    if isinstance(error, errors.NipapConflictError) and error.conflicts:
        members |= {'detail': str(error.args[0]), 'conflicts': list(error.conflicts)}
        members |= {'number_of_conflicts': error.number}
    if error.attribute is not None:
        members['attribute'] = error.attribute
    if error.position is not None:
        members['position'] = error.position
    if error.interpretation is not None:
        members['interpretation'] = error.interpretation
    if isinstance(error, errors.NipapPlanChangedError) and error.differences:
        members['differences'] = list(error.differences)
    response = _response(status, members)
    if status == 401:
        for challenge in CHALLENGES:
            response.headers.add('WWW-Authenticate', challenge)
    if isinstance(error, errors.TooManyLoginsError):
        response.headers['Retry-After'] = str(error.retry_after_s)
    elif status in (503, 504):
        response.headers['Retry-After'] = str(RETRY_AFTER_S)
    return response


def internal_problem(request_id: str) -> Response:
    """Return the response for an internal error, with only a request id to search the log for."""
    members = {'detail': f'Internal error, request id {request_id}', 'code': errors.NipapError.code}
    return _response(500, members)


def told(path: str, error: errors.NipapError | None, request_id: str) -> tuple[int, str, bytes]:
    """Return status, content type and body of an error that the server itself reports. None is an internal error.

    The body is text, but a problem below ``/api/``.
    """
    answer = internal_problem(request_id) if error is None else problem(error)
    if path.startswith('/api/'):
        return answer.status_code, CONTENT_TYPE, answer.get_data()
    text = f'Internal error, request id {request_id}' if error is None else error
    return answer.status_code, 'text/plain', f'{text}\n'.encode()


def http_problem(error: HTTPException) -> Response:
    """Return the response to a request without a call: an unknown path, or a method that a path does not have."""
    status = error.code or 500
    code = errors.NipapNonExistentError.code if status == 404 else errors.NipapInputError.code
    response = _response(status, {'detail': error.description or HTTPStatus(status).phrase, 'code': code})
    for name, value in error.get_headers():
        if name in ('Allow', 'Location'):
            response.headers[name] = value
    return response


def _response(status: int, members: Mapping[str, object]) -> Response:
    body = {'type': 'about:blank', 'title': HTTPStatus(status).phrase, 'status': status, **members}
    return Response(encode(body), status, content_type=CONTENT_TYPE)
