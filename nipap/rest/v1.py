"""The older REST endpoint, ``/rest/v1/prefixes``: frozen, for clients that were written for it.

Answers are those that were recorded: HTTP 200 or, whatever is wrong with a call, 500 with the code and text of the
fault; 401 for who proves nothing. New clients use `nipap.rest.api`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import orjson
from flask import Flask, Request, Response
from flask.globals import request_ctx

from nipap.access.authentication import Actor, Authenticator, make_actor
from nipap.answers import LongList, Prefix
from nipap.attributes import PREFIX
from nipap.backend import Backend
from nipap.calls import Request as CallRequest
from nipap.errors import (
    AuthenticationFailedError,
    AuthenticationMissingError,
    NipapError,
    NipapMissingInputError,
)
from nipap.http import requests as http_calls
from nipap.http.bodies import MAX_BODY, read_body
from nipap.http.credentials import credentials_from_request, header_text
from nipap.rest.objects import COUNTERS, decode
from nipap.runtime.meter import SILENT, Meter
from nipap.runtime.tracer import CallRecord

PATH = '/rest/v1/prefixes'

_OPTIONS = ('max_result', 'offset', 'include_all_parents', 'include_all_children', 'parents_depth', 'children_depth')
_ALLOCATION = {'fromPoolName', 'fromPoolId', 'fromPrefix', 'prefixLength', 'family'}
_WITHOUT_PROOF = {'message': 'Unauthorized'}

_log = logging.getLogger(__name__)


NAMES = tuple(f'{method} {PATH}' for method in ('GET', 'POST', 'PUT', 'DELETE'))  # in logs and metrics


def add_to(
    app: Flask, backend: Backend, authenticator: Authenticator, *, max_body: int = MAX_BODY, meter: Meter = SILENT
) -> None:
    """Have an application offer the endpoint; `meter` hears of calls."""
    endpoint = _Endpoint(backend, authenticator, max_body, meter)
    for name, answer in zip(NAMES, (endpoint.search, endpoint.add, endpoint.edit, endpoint.remove), strict=True):
        app.add_url_rule(PATH, f'rest v1 {name}', endpoint.view(name, answer), methods=[name.partition(' ')[0]])


class _Endpoint:
    """Its four methods; what selects is in the query string, what is set in the body."""

    def __init__(self, backend: Backend, authenticator: Authenticator, max_body: int, meter: Meter) -> None:
        self._meter = meter
        self._backend = backend
        self._authenticator = authenticator
        self._max_body = max_body

    def view(self, name: str, call: Callable[[Actor, dict[str, str]], object]) -> Callable[[], Response]:
        """A method with authentication before it, whose answer or error is written as JSON."""

        def respond(record: CallRecord) -> Response:
            record.method = name
            return self._answer(call, record)

        def answer() -> Response:
            return http_calls.answer(request_ctx.request, self._meter, respond)

        return answer

    def _answer(self, call: Callable[[Actor, dict[str, str]], object], record: CallRecord) -> Response:
        request: Request = request_ctx.request
        try:
            actor = self._actor(request)
            record.user, record.source = actor.username, actor.authoritative_source
            return _json(200, _plain(call(actor, request.args.to_dict())))
        except AuthenticationMissingError as exc:
            record.fault = exc.code
            return _challenge(_WITHOUT_PROOF)
        except _UnauthorizedError as exc:
            record.fault = AuthenticationFailedError.code
            return _challenge(_error(401, str(exc)))
        except NipapError as exc:
            record.fault = exc.code
            return _json(500, _error(exc.code, str(exc)))
        except Exception:
            record.fault = NipapError.code
            _log.exception('internal error in %s, request id %s', PATH, record.request_id)
            return _json(500, _error(NipapError.code, f'Internal error, request id {record.request_id}'))

    def _actor(self, request: Request) -> Actor:
        source = header_text(request, 'NIPAP-Authoritative-Source')
        try:
            credentials = credentials_from_request(request, self._authenticator)
        except AuthenticationFailedError as exc:
            raise _UnauthorizedError(str(exc).rstrip('.')) from exc
        if source is None:
            raise _UnauthorizedError('Missing/invalid authentication options in request.')
        options = {
            'authoritative_source': source,
            'username': header_text(request, 'NIPAP-Username'),
            'full_name': header_text(request, 'NIPAP-Full-Name'),
        }
        return make_actor(credentials, options)

    def _body(self) -> Any:
        body = read_body(request_ctx.request, self._max_body)
        return decode(body) if body else None

    def search(self, actor: Actor, args: dict[str, str]) -> list[Prefix]:
        """Return the prefixes for which every parameter holds."""
        options = {name: args.pop(name) for name in _OPTIONS if name in args}
        if not args:
            raise NipapMissingInputError("'val1' must be specified")
        return _whole(self._backend.search_prefix(actor, _query(args), options)['result'])

    def add(self, actor: Actor, args: dict[str, str]) -> Prefix:
        """Add the prefix of the body, or allocate one as the parameters say."""
        sent = self._body()
        members = {'attr': sent, 'args': _allocation(args) if _ALLOCATION & args.keys() else None}
        added: Prefix = self._change(actor, 'add_prefix', members)
        return added

    def edit(self, actor: Actor, args: dict[str, str]) -> list[Prefix]:
        """Edit the prefixes that the parameters select."""
        return _whole(self._change(actor, 'edit_prefix', {'prefix': args, 'attr': self._body()}))

    def remove(self, actor: Actor, args: dict[str, str]) -> object:
        """Remove the prefix that the parameters name; what is answered tells which."""
        recursive = args.pop('recursive', None)
        named: object = args
        if 'id' in args:
            found = _whole(self._backend.list_prefix(actor, args))
            named = {name: found[0][name] for name in ('prefix', 'vrf_id')} if found else args
        self._change(actor, 'remove_prefix', {'prefix': args, 'recursive': recursive})
        return named

    def _change(self, actor: Actor, call: str, members: dict[str, Any]) -> Any:
        record = http_calls.record_of(request_ctx.request)
        asked = CallRequest(call, members, request_id=record.request_id)
        return http_calls.performed(record, partial(self._backend.perform, actor, asked))


class _UnauthorizedError(Exception):
    """Why somebody is not let in."""


def _query(args: dict[str, str]) -> dict[str, Any]:
    """Text is matched as a pattern, without regard to case; anything else must be equal."""
    query: dict[str, Any] = {}
    for name, value in args.items():
        text = name in PREFIX and PREFIX[name].kind == 'text' and name != 'display_prefix'
        one = {'operator': 'regex_match' if text else 'equals', 'val1': name, 'val2': value}
        query = {'operator': 'and', 'val1': query, 'val2': one} if query else one
    return query


def _allocation(args: dict[str, str]) -> dict[str, Any]:
    names = {'prefixLength': 'prefix_length', 'family': 'family'}
    asked: dict[str, Any] = {ours: args[theirs] for theirs, ours in names.items() if theirs in args}
    if 'fromPoolName' in args or 'fromPoolId' in args:
        by_name = 'fromPoolName' in args
        asked['from-pool'] = {'name': args['fromPoolName']} if by_name else {'id': args['fromPoolId']}
    if 'fromPrefix' in args:
        asked['from-prefix'] = [args['fromPrefix']]
    return asked


def _whole(answer: list[Prefix] | LongList) -> list[Prefix]:
    """Return a long list as one that is in memory: answers of this endpoint are."""
    return answer if isinstance(answer, list) else [item for some in answer for item in some]


def _plain(answer: object) -> object:
    items: list[Any] = answer if isinstance(answer, list) else [answer]
    for item in items:
        item.update({name: str(item[name]) for name in COUNTERS & item.keys() if item[name] is not None})
    return answer


def _error(code: int, text: str) -> dict[str, object]:
    return {'error': {'code': code, 'message': text}}


def _challenge(content: object) -> Response:
    response = _json(401, content)
    response.headers['WWW-Authenticate'] = 'Basic realm="nipap", charset="UTF-8"'
    return response


def _json(status: int, content: object) -> Response:
    return Response(orjson.dumps(content), status, content_type='application/json')
