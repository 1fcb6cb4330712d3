"""XML-RPC over HTTP: a table of methods, a codec, and one function between the two.

`create_app` makes the WSGI application that serves a backend at ``/XMLRPC`` and ``/RPC2``. Every answer to a POST is
HTTP 200 with an XML-RPC value or fault: clients of XML-RPC libraries see faults, but not HTTP status codes.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Callable, Iterator
from functools import partial

from flask import Flask, Request, Response
from flask.globals import request_ctx
from flask_xmlrpcre.xmlrpcre import XMLRPCHandler

from nipap import calls, controls
from nipap.access.authentication import Authenticator, Credentials, make_actor
from nipap.backend import Backend
from nipap.calls import CALLS
from nipap.calls import Request as CallRequest
from nipap.errors import AuthenticationFailedError, NipapError, NipapInputError, NipapUnavailableError
from nipap.http import requests as http_calls
from nipap.http.bodies import (
    MAX_BODY,
    WORTH_COMPRESSING,
    check_xml,
    compressed,
    giving_way,
    kept,
    read_body,
    takes_gzip,
)
from nipap.http.credentials import auth_options, change_group, change_reason, credentials_from_request, idempotency_key
from nipap.http.origins import refuse_other_sites, require_xml
from nipap.runtime import waiting
from nipap.runtime.meter import SILENT, Meter
from nipap.runtime.spool import Spool
from nipap.runtime.tracer import CallRecord
from nipap.xmlrpc.codec import (
    array_parts,
    decode_request,
    encode_fault,
    fault_value,
    only_item_parts,
    response_parts,
)

PATHS = ('/XMLRPC', '/RPC2')
INTROSPECTION = ('system.listMethods', 'system.methodHelp', 'system.methodSignature')
MULTICALL = 'system.multicall'
SYSTEM = (*INTROSPECTION, MULTICALL)

MOST_CALLS = 1000  # in one request
MOST_ANSWERS = 2**28  # bytes of the answers of one request, after which no further call is made

_log = logging.getLogger(__name__)


def create_app(
    backend: Backend, authenticator: Authenticator, *, max_body: int = MAX_BODY, meter: Meter = SILENT
) -> Flask:
    """Return the WSGI application that serves `backend` to the users of `authenticator`.

    max_body: most bytes in the body of a request, also after decompression. meter: counts every call.
    """
    app = Flask('nipap', static_folder=None, template_folder=None)
    # A body of unknown length is cut off after one byte too many, so that `read_body` sees that it is too long.
    app.config['MAX_CONTENT_LENGTH'] = max_body + 1
    http_calls.stamp_answers(app)
    handler = _Handler(backend, authenticator, max_body, meter)
    for path in PATHS:
        handler.connect(app, path, endpoint_name=path.strip('/'))
    return app


class _Handler(XMLRPCHandler):  # type: ignore[misc]  # the library has no annotations
    """The handler of XML-RPC requests. It uses the routing of the library and replaces parsing and dispatch."""

    def __init__(self, backend: Backend, authenticator: Authenticator, max_body: int, meter: Meter) -> None:
        super().__init__(introspection=False)
        self._backend = backend
        self._authenticator = authenticator
        self._max_body = max_body
        self._meter = meter
        functions = self._list_methods, self._method_help, self._method_signature
        self._introspection: dict[str, Callable[[list[object]], object]] = dict(
            zip(INTROSPECTION, functions, strict=True)
        )

    def handle_request(self) -> Response:
        """Answer the current request of Flask."""
        request: Request = request_ctx.request
        return http_calls.answer(
            request, self._meter, lambda record: _respond(request, self._marshaled_dispatch(request, record))
        )

    def _marshaled_dispatch(self, request: Request, record: CallRecord) -> list[bytes] | Spool:
        """Authenticate a request, decode it, make its call or calls, and return the encoded answer."""

        def parts() -> Iterator[bytes]:
            refuse_other_sites(request)
            require_xml(request)
            credentials = credentials_from_request(request, self._authenticator)
            record.user = credentials.authenticated_as
            method, parameters = decode_request(check_xml(read_body(request, self._max_body)))
            if method == MULTICALL:
                record.method = method
                return self._multicall(request, credentials, parameters)
            return response_parts(self._call(request, credentials, method, parameters, record))

        return _kept(record, parts, encode_fault)

    def _multicall(self, request: Request, credentials: Credentials, parameters: list[object]) -> Iterator[bytes]:
        """Make several calls, one after the other, each as if it was sent alone.

        Takes an array of structs of methodName and params. Returns an array that has for each call an array of its
        only result, or a struct of faultCode and faultString. A call that fails undoes no other one.
        """
        wanted = _several(parameters)
        if 'HTTP_IDEMPOTENCY_KEY' in request.environ:
            raise NipapInputError(
                f'{MULTICALL} takes no header Idempotency-Key: each call in it may have an idempotency_key of its own'
            )
        answers = _Answers()

        def make(item: object) -> Iterator[bytes]:
            def respond(record: CallRecord) -> list[bytes] | Spool:
                def parts() -> Iterator[bytes]:
                    method, inner = _one_of_several(item)
                    if not credentials.are_valid():
                        raise AuthenticationFailedError('The credentials are not valid any more.')
                    answers.check()
                    return only_item_parts(self._call(request, credentials, method, inner, record))

                return _kept(record, parts, fault_value)

            answer = http_calls.part(request, self._meter, respond)
            waiting.give_way()
            return answers.taken(answer)

        return array_parts(map(make, wanted))

    def _call(
        self, request: Request, credentials: Credentials, method: str, parameters: list[object], record: CallRecord
    ) -> object:
        introspect = self._introspection.get(method)
        if introspect is not None:
            record.method = method
            return introspect(parameters)
        call = calls.find(method)
        record.method = method
        arguments = _only_struct(parameters)
        actor = make_actor(credentials, auth_options(arguments))
        http_calls.note_caller(record, credentials, actor)
        members = call.known(arguments)
        if arguments.keys() - members.keys() - {'auth'}:
            controls.refuse_misspelt(arguments, (*members, 'auth'))
        dry_run, plan = controls.read_dry_run(arguments.get('dry_run')), controls.read_plan(arguments.get('plan'))
        if not call.changes:
            asked = CallRequest(method, members, request_id=record.request_id, dry_run=dry_run, plan=plan)
            return self._backend.perform(actor, asked)
        asked = CallRequest(
            method,
            members,
            idempotency_key(request, arguments),
            request_id=record.request_id,
            reason=change_reason(request, arguments),
            group=change_group(request),
            dry_run=dry_run,
            plan=plan,
        )
        return http_calls.performed(record, partial(self._backend.perform, actor, asked))

    def _list_methods(self, _: list[object]) -> list[str]:
        """List the names of all methods."""
        return sorted((*CALLS, *SYSTEM))

    def _method_help(self, parameters: list[object]) -> str:
        """Describe a method, given its name."""
        if len(parameters) != 1 or not isinstance(parameters[0], str):
            raise NipapInputError('system.methodHelp takes exactly 1 argument, the name of a method')
        name = parameters[0]
        if name == MULTICALL:
            return inspect.getdoc(self._multicall) or ''
        if name in self._introspection:
            return inspect.getdoc(self._introspection[name]) or ''
        return calls.find(name).doc.strip()

    def _method_signature(self, _: list[object]) -> str:
        """Return 'signatures not supported', for every method takes one struct."""
        return 'signatures not supported'


class _Answers:
    """The answers to the calls of one `MULTICALL`, with a limit on their bytes."""

    def __init__(self) -> None:
        self._size = 0

    def check(self) -> None:
        """Refuse a further call when the answers so far are too long.

        :raises NipapInputError: naming the limit.
        """
        if self._size > MOST_ANSWERS:
            raise NipapInputError(
                f'This call was not made: the answers before it have more than {MOST_ANSWERS} bytes together'
            )

    def taken(self, answer: list[bytes] | Spool) -> Iterator[bytes]:
        """Count an answer and yield its parts. A spool is closed after them."""
        if isinstance(answer, Spool):
            self._size += answer.size
            with contextlib.closing(answer):
                yield from answer.plain()
        else:
            self._size += sum(map(len, answer))
            yield from answer


def _kept(
    record: CallRecord, parts: Callable[[], Iterator[bytes]], fault: Callable[[int, str], bytes]
) -> list[bytes] | Spool:
    """Return all parts of an answer. Every exception becomes a fault here."""
    try:
        return kept(giving_way(parts()))
    except NipapError as exc:
        record.fault = exc.code
        if isinstance(exc, NipapUnavailableError):
            _log.error('the database cannot be used: %s, request id %s', exc.why, record.request_id)
        return [fault(exc.code, str(exc))]
    except Exception:
        record.fault = NipapError.code
        _log.exception('internal error in %s, request id %s', record.method, record.request_id)
        return [fault(record.fault, f'Internal error, request id {record.request_id}')]


def _several(parameters: list[object]) -> list[object]:
    """Return the calls that are the only parameter of `MULTICALL`."""
    wanted = parameters[0] if len(parameters) == 1 else None
    if not isinstance(wanted, list):
        raise NipapInputError(f'{MULTICALL} takes exactly 1 argument, an array of calls')
    if len(wanted) > MOST_CALLS:
        raise NipapInputError(f'Too many calls ({len(wanted)}), at most {MOST_CALLS} in one {MULTICALL}')
    return wanted


def _one_of_several(item: object) -> tuple[str, list[object]]:
    """Return the name of the method and the parameters of one call in a `MULTICALL`."""
    if not isinstance(item, dict):
        raise NipapInputError(f'a call in {MULTICALL} must be a struct of methodName and params')
    method, parameters = item.get('methodName'), item.get('params')
    if not isinstance(method, str):
        raise NipapInputError(f'a call in {MULTICALL} must have a methodName, a string')
    if not isinstance(parameters, list):
        raise NipapInputError(f'a call in {MULTICALL} must have params, an array')
    if method == MULTICALL:
        raise NipapInputError(f'{MULTICALL} must not be called by {MULTICALL}')
    return method, parameters


_KINDS = {
    list: 'array',
    str: 'string',
    bool: 'boolean',
    int: 'int',
    type(None): 'nil',
    float: 'double',
    bytes: 'base64',
}


def _only_struct(parameters: list[object]) -> dict[str, object]:
    if len(parameters) != 1:
        raise NipapError(f'NIPAP API functions take exactly 1 argument ({len(parameters)} given)')
    (arguments,) = parameters
    if not isinstance(arguments, dict):
        kind = _KINDS.get(type(arguments), 'dateTime.iso8601')
        raise NipapError(f'NIPAP API functions take a struct as their argument ({kind} given)')
    return arguments


def _respond(request: Request, answer: list[bytes] | Spool) -> Response:
    """Return the response for the parts of an answer, compressed if the client accepts that and it is worth it.

    The parts stay separate so that a big answer is joined only once, by the server.
    """
    size = answer.size if isinstance(answer, Spool) else sum(map(len, answer))
    compress = size > WORTH_COMPRESSING and takes_gzip(request)
    if isinstance(answer, Spool):
        response = Response(answer.packed() if compress else answer.plain(), content_type='text/xml')
        response.headers['Content-Length'] = str(answer.packed_size if compress else size)
        response.call_on_close(answer.close)
    else:
        response = Response(compressed(answer) if compress else answer, content_type='text/xml')
    if compress:
        response.headers['Content-Encoding'] = 'gzip'
        response.headers['Vary'] = 'Accept-Encoding'
    return response
