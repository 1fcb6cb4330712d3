"""The older REST endpoint, ``/rest/v1/prefixes``: frozen, for existing clients.

Answers are identical to the recorded ones: HTTP 200, or for any error of a call 500 with the code and text of the
fault, or 401 for missing or wrong credentials. New clients use `nipap.rest.api`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import orjson
from flask import Flask, Request, Response
from flask.globals import request_ctx

from nipap.access.authentication import Actor, Authenticator, make_actor
from nipap.answers import LongList, Prefix
from nipap.attributes import PREFIX, read_integer
from nipap.backend import Backend, authorize
from nipap.calls import CALLS, Expectation
from nipap.calls import Request as CallRequest
from nipap.errors import (
    AuthenticationFailedError,
    AuthenticationMissingError,
    NipapError,
    NipapExtraneousInputError,
    NipapInputError,
    NipapMissingInputError,
    NipapNonExistentError,
    NipapValueError,
)
from nipap.http import requests as http_calls
from nipap.http.bodies import MAX_BODY, check_json, giving_way, kept, read_body
from nipap.http.credentials import credentials_from_request, header_options, header_text
from nipap.http.origins import refuse_other_sites
from nipap.rest.objects import COUNTERS, decode
from nipap.runtime.meter import SILENT, Meter
from nipap.runtime.spool import Spool
from nipap.runtime.tracer import CallRecord

PATH = '/rest/v1/prefixes'

_OPTIONS = ('max_result', 'offset', 'include_all_parents', 'include_all_children', 'parents_depth', 'children_depth')
_ALLOCATION = {'fromPoolName', 'fromPoolId', 'fromPrefix', 'prefixLength', 'family'}
_NOT_HERE = ('dry_run', 'as_of', 'plan')  # a client that sends one of them does not want what it would get
_WITHOUT_PROOF = {'message': 'Unauthorized'}
_LATER = 'version'  # an attribute that prefixes did not have when this endpoint was frozen

_log = logging.getLogger(__name__)


NAMES = tuple(f'{method} {PATH}' for method in ('GET', 'POST', 'PUT', 'DELETE'))  # names in logs and metrics


def add_to(
    app: Flask, backend: Backend, authenticator: Authenticator, *, max_body: int = MAX_BODY, meter: Meter = SILENT
) -> None:
    """Add the endpoint to an application. `meter` counts the calls."""
    endpoint = _Endpoint(backend, authenticator, max_body, meter)
    for name, answer in zip(NAMES, (endpoint.search, endpoint.add, endpoint.edit, endpoint.remove), strict=True):
        app.add_url_rule(PATH, f'rest v1 {name}', endpoint.view(name, answer), methods=[name.partition(' ')[0]])


class _Endpoint:
    """The four methods of the endpoint. The query string selects prefixes, the body sets attributes."""

    def __init__(self, backend: Backend, authenticator: Authenticator, max_body: int, meter: Meter) -> None:
        self._meter = meter
        self._backend = backend
        self._authenticator = authenticator
        self._max_body = max_body

    def view(self, name: str, call: Callable[[Actor, dict[str, str]], object]) -> Callable[[], Response]:
        """Return a view that authenticates the request, makes the call, and writes its answer or error as JSON."""

        def respond(record: CallRecord) -> Response:
            record.method = name
            return self._answer(call, record)

        def answer() -> Response:
            return http_calls.answer(request_ctx.request, self._meter, respond)

        return answer

    def _answer(self, call: Callable[[Actor, dict[str, str]], object], record: CallRecord) -> Response:
        request: Request = request_ctx.request
        try:
            if request.method != 'GET':
                refuse_other_sites(request)
            actor = self._actor(request, record)
            for name in _NOT_HERE:
                if name in request.args:
                    raise NipapExtraneousInputError(f'extraneous parameter {name}, /api/v1 has it').about(name)
            return _answered(kept(giving_way(_written(call(actor, request.args.to_dict())))))
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

    def _actor(self, request: Request, record: CallRecord) -> Actor:
        source = header_text(request, 'NIPAP-Authoritative-Source')
        try:
            credentials = credentials_from_request(request, self._authenticator)
        except AuthenticationFailedError as exc:
            raise _UnauthorizedError(str(exc).rstrip('.')) from exc
        if source is None:
            raise _UnauthorizedError('Missing/invalid authentication options in request.')
        actor = make_actor(credentials, header_options(request, source))
        http_calls.note_caller(record, credentials, actor)
        return actor

    def _body(self) -> Any:
        body = read_body(request_ctx.request, self._max_body)
        return decode(check_json(body)) if body else None

    def search(self, actor: Actor, args: dict[str, str]) -> list[Prefix] | LongList:
        """Return the prefixes for which every parameter holds."""
        options = {name: args.pop(name) for name in _OPTIONS if name in args}
        if not args:
            raise NipapMissingInputError("'val1' must be specified")
        if _LATER in args:
            raise NipapInputError(f"Search variable '{_LATER}' unknown")
        return self._backend.search_prefix(actor, _query(args), options)['result']

    def add(self, actor: Actor, args: dict[str, str]) -> Prefix:
        """Add the prefix of the body, or allocate one as the parameters say."""
        authorize(actor, CALLS['add_prefix'])
        sent = self._body()
        if not isinstance(sent, dict):
            raise NipapInputError("'attr' must be a dict")
        members = {'attr': sent, 'args': _allocation(args) if _ALLOCATION & args.keys() else None}
        added: Prefix = self._change(actor, 'add_prefix', members)
        return added

    def edit(self, actor: Actor, args: dict[str, str]) -> list[Prefix] | LongList:
        """Edit the prefixes that the parameters select."""
        _check_spec(args)
        edited: list[Prefix] | LongList = self._change(actor, 'edit_prefix', {'prefix': args, 'attr': self._body()})
        return edited

    def remove(self, actor: Actor, args: dict[str, str]) -> object:
        """Remove the prefix that the parameters name. The answer names it by prefix and VRF."""
        members = {'prefix': args, 'recursive': args.pop('recursive', None)}
        _check_spec(args)
        named: dict[str, Any] = {}

        def holds(item: Mapping[str, Any]) -> bool:
            named.update({name: item[name] for name in ('prefix', 'vrf_id')})
            return True

        key = _key(args)
        if key is not None:  # read the prefix in the transaction that removes it
            try:
                self._change(actor, 'remove_prefix', members, Expectation('prefix', key, holds))
            except NipapNonExistentError:
                named.clear()
        if not named:
            self._change(actor, 'remove_prefix', members)
        return named or args

    def _change(self, actor: Actor, call: str, members: dict[str, Any], expectation: Expectation | None = None) -> Any:
        record = http_calls.record_of(request_ctx.request)
        asked = CallRequest(call, members, request_id=record.request_id, expectation=expectation)
        return http_calls.performed(record, partial(self._backend.perform, actor, asked))


def _check_spec(args: dict[str, str]) -> None:
    """Refuse a specification with an attribute that this endpoint does not have.

    :raises NipapExtraneousInputError: naming the attribute.
    """
    if _LATER in args:
        raise NipapExtraneousInputError(f"Key '{_LATER}' not allowed in prefix spec.")


class _UnauthorizedError(Exception):
    """The reason why a request is refused with 401."""


def _query(args: dict[str, str]) -> dict[str, Any]:
    """Return the query of the parameters.

    Text is matched as a pattern, without regard to case. Other values must be equal.
    """
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


def _key(args: dict[str, str]) -> int | None:
    """Return the id in the parameters; None if there is none, or it is not a number."""
    try:
        return read_integer(args['id']) if 'id' in args else None
    except NipapValueError:
        return None


def _written(answer: object) -> Iterator[bytes]:
    """Yield an answer as JSON, a long answer in parts."""
    if not isinstance(answer, LongList):
        yield orjson.dumps(_plain(answer))
        return
    before = b'['
    for some in answer:
        if some:
            yield before + orjson.dumps(_plain(some))[1:-1]
            before = b','
    yield b']' if before == b',' else b'[]'


def _plain(answer: object) -> object:
    items: list[Any] = answer if isinstance(answer, list) else [answer]
    for item in items:
        item.pop(_LATER, None)
        item.update({name: str(item[name]) for name in COUNTERS & item.keys() if item[name] is not None})
    return answer


def _error(code: int, text: str) -> dict[str, object]:
    return {'error': {'code': code, 'message': text}}


def _challenge(content: object) -> Response:
    response = _json(401, content)
    response.headers['WWW-Authenticate'] = 'Basic realm="nipap", charset="UTF-8"'
    return response


def _answered(body: list[bytes] | Spool) -> Response:
    if not isinstance(body, Spool):
        return Response(body, 200, content_type='application/json')
    response = Response(body.plain(), 200, content_type='application/json')
    response.headers['Content-Length'] = str(body.size)
    response.call_on_close(body.close)
    return response


def _json(status: int, content: object) -> Response:
    return Response(orjson.dumps(content), status, content_type='application/json')
