"""Traces of clients: ``POST /v1/traces`` is passed on to the collector of the daemon's own traces.

The command line of NIPAP sends its traces there when no collector is configured. Every user may send traces.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from flask import Flask, Request, Response
from flask.globals import request_ctx

from nipap.access.authentication import Authenticator
from nipap.errors import AuthorizationFailedError, NipapError, NipapUnavailableError
from nipap.http.credentials import credentials_from_request
from nipap.http.origins import refuse_other_sites

PATHS = ('/v1/traces', '/v1/traces/')
RETRY_S = '5'  # after which a client retries
PASSED_ON = ('Content-Type', 'Content-Encoding')  # the other headers, such as credentials, are not passed on


class Heard(NamedTuple):
    """The answer of a collector."""

    status: int
    content_type: str
    body: bytes


class Collector(Protocol):
    """The destination of traces."""

    def send(self, body: bytes, headers: Mapping[str, str]) -> Heard:
        """Send the traces of a client and return the answer."""


def add_to(app: Flask, authenticator: Authenticator, collector: Collector) -> None:
    """Add a route that passes traces on for every user of `authenticator`."""

    def pass_on() -> Response:
        request: Request = request_ctx.request
        try:
            refuse_other_sites(request)
            credentials_from_request(request, authenticator)
        except AuthorizationFailedError as exc:
            return Response(f'{exc}\n', 403, content_type='text/plain')
        except NipapUnavailableError as exc:
            return Response(f'{exc}\n', 503, {'Retry-After': RETRY_S}, content_type='text/plain')
        except NipapError as exc:
            challenge = {'WWW-Authenticate': 'Basic realm="nipap", charset="UTF-8"'}
            return Response(f'{exc}\n', 401, challenge, content_type='text/plain')
        body = request.get_data(cache=False, parse_form_data=False)
        headers = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
        status, content_type, answer = collector.send(body, headers)
        return Response(answer, status, content_type=content_type)

    for path in PATHS:
        app.add_url_rule(path, f'POST {path}', pass_on, methods=['POST'], strict_slashes=True)
