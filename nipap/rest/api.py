"""REST over HTTP: resources at ``/api/v1``. Each request is one call of the backend.

`add_to` adds the paths of this interface to an application. A request is unpacked into the members of a call, and the
answer is written as JSON. Errors are ``application/problem+json``. `nipap.rest.openapi` describes the interface.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial, reduce
from typing import Any, cast
from urllib.parse import urlencode

from flask import Flask, Request, Response
from flask.globals import request_ctx
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.routing import BaseConverter, ValidationError

from nipap.access.authentication import Actor, Authenticator, make_actor
from nipap.attributes import PREFIX, Attribute, read_asn, read_integer, read_value, shown
from nipap.backend import Backend, authorize
from nipap.batch import REFERENCE
from nipap.calls import CALLS, Expectation
from nipap.calls import Request as CallRequest
from nipap.controls import read_plan
from nipap.errors import (
    AuthError,
    NipapBusyError,
    NipapError,
    NipapInputError,
    NipapMediaTypeError,
    NipapNonExistentError,
    NipapOutcomeUnknownError,
    NipapTooLargeError,
    NipapUnavailableError,
    NipapValueError,
    at_operation,
)
from nipap.http import requests as http_calls
from nipap.http.bodies import (
    MAX_BODY,
    WORTH_COMPRESSING,
    check_json,
    compressed,
    giving_way,
    kept,
    read_body,
    takes_gzip,
)
from nipap.http.credentials import (
    change_group,
    change_reason,
    credentials_from_request,
    header_options,
    header_text,
    idempotency_key,
)
from nipap.http.origins import refuse_other_sites
from nipap.objects.allocate import read_count
from nipap.postgres.database import Database
from nipap.rest import events as flask_events
from nipap.rest import openapi as rest_openapi
from nipap.rest import parameters, sign_ins
from nipap.rest import undo as rest_undo
from nipap.rest.objects import (
    AUDIT_ENTRIES,
    CHANGE_SETS,
    PAST,
    RESOURCES,
    TAGS,
    Object,
    Resource,
    alone,
    cut,
    decode,
    digest,
    edition,
    encode,
    marked,
    merged,
    parts_of,
    plain_many,
    read_fields,
    refuse_unknown,
    sent_back,
    settable,
    tag_of,
    without_sent_back,
)
from nipap.rest.parameters import DEFAULT_LIMIT, LARGEST_LIMIT, Args, check_members, read_flag
from nipap.rest.problems import http_problem, internal_problem, not_understood, problem
from nipap.rest.routes import MERGE, RECURSIVE, ROUTES, Route
from nipap.runtime import waiting
from nipap.runtime.meter import SILENT, Meter
from nipap.runtime.packed import whole
from nipap.runtime.spool import Spool
from nipap.runtime.tracer import CallRecord

ROOT = '/api/v1'
DEFAULT_SOURCE = 'nipap-rest'
# This is {key} in `ROUTES`, in the form of a path of Flask.
KEY = '<number:key>'
FREE = ('prefix_length', 'family', 'count')

_AT_ONCE = 1000  # objects in memory at the same time
_JSON = 'application/json'
_WITH_BODY = ('POST', 'PATCH')
_VRF = ('vrf_id', 'vrf_rt', 'vrf_name')
_TREE_OPTIONS = tuple(parameter.name for parameter in parameters.TREE)

# Errors that a dry run does not report as errors of the change: the request itself is refused.
_NOT_OF_THE_CHANGE = (
    AuthError,
    NipapUnavailableError,
    NipapOutcomeUnknownError,
    NipapBusyError,
    NipapTooLargeError,
    NipapMediaTypeError,
)

_log = logging.getLogger(__name__)

View = Callable[..., Response]


def add_to(
    app: Flask, backend: Backend, authenticator: Authenticator, *, max_body: int = MAX_BODY, meter: Meter = SILENT
) -> None:
    """Add the paths of `backend` to an application at `ROOT`. `meter` counts the calls."""
    app.url_map.converters['number'] = _Number
    api = _Api(backend, authenticator, max_body, meter)
    for resource in RESOURCES:
        _Collection(api, resource).connect(app)
    _Collection(api, TAGS).connect_list(app)
    for resource in PAST:
        _Past(api, resource).connect(app)
    for resource in RESOURCES:
        _Past(api, AUDIT_ENTRIES).connect_history(app, _Collection(api, resource), resource)
    _Calls(api).connect(app)
    flask_events.add_to(app, api, cast(Database, backend.db))  # an interface is not built inside a transaction
    sign_ins.add_to(app, api)
    rest_undo.add_to(app, api)
    rest_openapi.add_to(app, ROOT)
    app.register_error_handler(HTTPException, _refused)


def names() -> list[str]:
    """Return the names of all requests, as they are in logs and metrics."""
    return [f'{method} {path.replace("{key}", KEY)}' for (method, path), route in ROUTES.items() if route.served]


def _refused(error: HTTPException) -> Response | HTTPException:
    """Answer an error of Flask itself. Below ``/api`` the answer is a problem."""
    return http_problem(error) if request_ctx.request.path.startswith('/api') else error


class _Number(BaseConverter):
    """The number of an object in a path. Other text does not match, so `search` is not read as an object.

    A number in a notation for AS numbers is a `_Notation`. Only paths of AS numbers accept it.
    """

    regex = '[0-9]{1,18}|[Aa][Ss][0-9]{1,10}|(?:[Aa][Ss])?[0-9]{1,5}[.][0-9]{1,5}'

    def to_python(self, value: str) -> int:
        if value.isdecimal():
            return int(value)
        try:
            return _Notation(read_asn(value))
        except NipapValueError:
            raise ValidationError from None


class _Notation(int):
    """An AS number written as ``AS64500`` or in asdot."""


class _Api:
    """The common part of all requests: authentication, the body, the answer and errors."""

    def __init__(self, backend: Backend, authenticator: Authenticator, max_body: int, meter: Meter) -> None:
        self.backend = backend.showing_alike()
        self._meter = meter
        self._authenticator = authenticator
        self._max_body = max_body

    def connect(self, app: Flask, method: str, path: str, view: View) -> None:
        """Answer requests to a path by a view. The view is called with the actor and the parts of the path."""
        route = ROUTES[method, path.replace(KEY, '{key}')]
        if not route.served:
            return

        takes_notations = path.startswith('/asns/')

        def answer(**parts: int) -> Response:
            if not takes_notations and isinstance(parts.get('key'), _Notation):
                raise NotFound
            return self._answer(f'{method} {path}', route, view, parts)

        app.add_url_rule(f'{ROOT}{path}', f'{method} {path}', answer, methods=[method])

    def _answer(self, name: str, route: Route, view: View, parts: Mapping[str, int]) -> Response:
        def respond(call: CallRecord) -> Response:
            call.method = name
            return self._respond(call, route, view, parts)

        return http_calls.answer(request_ctx.request, self._meter, respond)

    def _respond(self, call: CallRecord, route: Route, view: View, parts: Mapping[str, int]) -> Response:
        try:
            request: Request = request_ctx.request
            if request.method not in ('GET', 'HEAD'):
                refuse_other_sites(request)
            actor = self._actor(request, call)
            if route.call is not None:
                authorize(actor, CALLS[route.call])  # a refusal does not depend on the body and the parameters
            parameters.check(request.args, route.parameters, pairs=route.pairs)
            if 'HTTP_IF_MATCH' in request.environ and route.changes and not route.conditional:
                raise NipapInputError(
                    'The header If-Match is not supported here, only by PATCH and DELETE of an object'
                )
            if request.method not in _WITH_BODY:
                self._check_no_body(request)
            return self._made(actor, route, view, parts)
        except NipapError as exc:
            call.fault = exc.code
            if isinstance(exc, NipapUnavailableError):
                _log.error('the database cannot be used: %s, request id %s', exc.why, call.request_id)
            return problem(exc)
        except Exception:
            call.fault = NipapError.code
            _log.exception('internal error in %s, request id %s', call.method, call.request_id)
            return internal_problem(call.request_id)

    def _made(self, actor: Actor, route: Route, view: View, parts: Mapping[str, int]) -> Response:
        """Return the response of a view; in a dry run the plan, with any error of the change in it."""
        request: Request = request_ctx.request
        try:
            return view(actor, **parts)
        except _PlannedError as planned:
            told = planned.told
        except _NOT_OF_THE_CHANGE:
            raise
        except NipapError as exc:
            if route.call is None or not (route.changes and read_flag(request.args, 'dry_run')):
                raise
            told = self.backend.refused(actor, route.call, exc)
        return _respond(request, kept(giving_way(_plan_parts(told))))

    def _actor(self, request: Request, call: CallRecord) -> Actor:
        credentials = credentials_from_request(request, self._authenticator)
        source = header_text(request, 'NIPAP-Authoritative-Source') or DEFAULT_SOURCE
        actor = make_actor(credentials, header_options(request, source))
        http_calls.note_caller(call, credentials, actor)
        return actor

    def _check_no_body(self, request: Request) -> None:
        """Refuse a body for a request without one: its members would be ignored.

        An empty object is accepted, because some clients send it.

        :raises NipapInputError: there is a body.
        """
        if not request.content_length and request.environ.get('HTTP_TRANSFER_ENCODING') is None:
            return
        body = read_body(request, self._max_body).strip()
        if body not in (b'', b'{}', b'null'):
            raise NipapInputError(f'A {request.method} has no body here, its parameters are in the URL')

    def refuse_body(self) -> None:
        """Refuse a body for a POST without one.

        :raises NipapInputError: there is a body.
        """
        self._check_no_body(request_ctx.request)

    def body(self, types: Collection[str] = (_JSON,)) -> Any:
        """Return the value of the request's body.

        :raises NipapInputError: the body is not valid JSON.
        :raises NipapMediaTypeError: the body is of another type than `types`.
        """
        request: Request = request_ctx.request
        body = read_body(request, self._max_body)
        if request.mimetype not in types:
            accepted = f'{" and ".join(types)} {"is" if len(types) == 1 else "are"}'
            raise NipapMediaTypeError(f'Content-Type {shown(request.mimetype)} is not supported, {accepted}')
        return decode(check_json(body))

    def struct(self) -> dict[str, Any]:
        """Return the object in the request's body."""
        value = self.body()
        if not isinstance(value, dict):
            raise NipapInputError(f'Invalid body ({shown(value)}), must be an object')
        return value

    def change(
        self,
        actor: Actor,
        method: str,
        members: Mapping[str, Any],
        expectation: Expectation | None = None,
        planned: Callable[[Any], Any] = lambda answer: answer,
    ) -> Any:
        """Make a call that changes something. With an idempotency key the change is made only once.

        planned: returns the body of the response for the answer of the call.

        :raises _PlannedError: with the answer of a dry run.
        """
        request: Request = request_ctx.request
        record = http_calls.record_of(request)
        asked = CallRequest(
            method,
            members,
            idempotency_key(request, {}),
            expectation,
            record.request_id,
            change_reason(request, {}),
            change_group(request),
            read_flag(request.args, 'dry_run'),
            read_plan(request.args.get('plan')),
        )
        answer = http_calls.performed(record, partial(self.backend.perform, actor, asked))
        if not asked.dry_run:
            return answer
        raise _PlannedError(answer if answer['errors'] else {**answer, 'answer': planned(answer['answer'])})

    @property
    def is_dry_run(self) -> bool:
        """Return whether the request is a dry run."""
        return read_flag(request_ctx.request.args, 'dry_run')

    def look(self, actor: Actor, method: str, members: Mapping[str, Any] | None = None) -> Any:
        """Make a call that reads, of the state that the request names. All calls of a request read the same state."""
        request: Request = request_ctx.request
        shows = http_calls.record_of(request).as_of
        as_of = request.args.get('as_of') if shows is None else shows.change_set
        asked = {**(members or {}), **({} if as_of is None else {'as_of': as_of})}
        return self.backend.perform(actor, CallRequest(method, asked))


class _Collection:
    """The paths of one kind of object."""

    def __init__(self, api: _Api, resource: Resource) -> None:
        self._api = api
        self._resource = resource
        self.kind = resource.kind

    def connect_list(self, app: Flask) -> None:
        """Add the paths of a kind of object that cannot be changed."""
        path = f'/{self._resource.plural}'
        self._api.connect(app, 'GET', path, self._list)
        self._api.connect(app, 'POST', f'{path}/search', self._search)

    def connect(self, app: Flask) -> None:
        """Add all paths."""
        self.connect_list(app)
        path = f'/{self._resource.plural}'
        self._api.connect(app, 'POST', path, self._add)
        self._api.connect(app, 'GET', f'{path}/{KEY}', self._get)
        self._api.connect(app, 'PATCH', f'{path}/{KEY}', self._edit)
        self._api.connect(app, 'DELETE', f'{path}/{KEY}', self._remove)

    # reads

    def _list(self, actor: Actor) -> Response:
        args = request_ctx.request.args
        return self._found(actor, args.get('q'), self._filter(args))

    def _search(self, actor: Actor) -> Response:
        asked = self._api.struct()
        text, query = asked.get('q'), asked.get('query')
        check_members(asked, ('query',) if self._resource is TAGS else ('q', 'query'))
        for name, value in asked.items():
            if not isinstance(value, dict if name == 'query' else str):
                kind = 'an object' if name == 'query' else 'a string'
                raise NipapInputError(f'Invalid {name} ({shown(value)}), must be {kind}').about(name)
        _check_query(query)
        filters = self._filter(request_ctx.request.args)
        if query is not None and filters:
            query = {'operator': 'and', 'val1': filters, 'val2': query}
        return self._found(actor, text, filters if query is None else query)

    def _filter(self, args: Args) -> Object:
        """Return the query of the filters, which must all hold.

        Of several values of one attribute any may match, but a list must have all of them.
        """
        query: Object = {}
        for name, values in args.lists():
            if name in self._resource.table or name.startswith(parameters.PAIR):
                attribute = self._resource.table.get(name)
                all_of_them = attribute is not None and attribute.kind in parameters.LISTS
                one = _joined('and' if all_of_them else 'or', [_equal(name, attribute, value) for value in values])
                query = _joined('and', [query, one]) if query else one
        return query

    def _found(
        self, actor: Actor, text: object, query: Object, if_empty: Callable[[], object] = lambda: None
    ) -> Response:
        """Return a page of the objects that match a text and a query. if_empty: is called when the page is empty."""
        request: Request = request_ctx.request
        fields = self._fields()
        limit = _limit(request.args.get('limit'))
        options = {name: request.args[name] for name in _TREE_OPTIONS if name in request.args}
        lenient = read_flag(request.args, 'lenient')
        page = _Page(self._api, self._resource, actor, text, query, options, lenient=lenient)
        body = kept(giving_way(page.parts(limit, request.args.get('after', ''), fields)))
        if page.is_empty:
            if_empty()
        headers = {}
        if page.after is not None:
            kept_args = [(k, v) for k, v in request.args.items(multi=True) if k not in ('after', 'as_of')]
            shows = http_calls.record_of(request).as_of  # the next page shows it, too
            args = [*kept_args, *([('as_of', shows.change_set)] if shows else []), ('after', page.after)]
            headers['Link'] = f'<{request.path}?{urlencode(args)}>; rel="next"'
        tag = None if isinstance(body, Spool) or request.method == 'POST' else digest(b''.join(body))
        return _respond(request, body, tag=tag, headers=headers)

    def _get(self, actor: Actor, key: int) -> Response:
        return self._shown(self.one(actor, key), self._fields())

    def one(self, actor: Actor, number: int) -> Object:
        """Return an object.

        :raises NipapNonExistentError: there is no such object.
        """
        found: list[Object] = self._api.look(actor, f'list_{self.kind}', {self.kind: {self._resource.key: number}})
        if not found:
            raise self._missing(number)
        return found[0]

    def _fields(self) -> list[str] | None:
        """Return the requested members. A change reads them first: a wrong name must change nothing."""
        return read_fields(request_ctx.request.args.get('fields'), self._resource)

    def _shown(self, item: Object, fields: list[str] | None, status: int = 200) -> Response:
        request: Request = request_ctx.request
        tag = tag_of(item, self._resource)
        (shown_item,) = cut([alone(item)], fields)
        headers = {'Location': self._place(item)} if status == 201 else {}
        return _respond(request, [encode(shown_item)], status, tag=tag, headers=headers)

    def _place(self, item: Object) -> str:
        return f'{ROOT}/{self._resource.plural}/{item[self._resource.key]}'

    def _missing(self, key: object) -> NipapNonExistentError:
        return NipapNonExistentError(f'There is no {self.kind} {key}')

    # changes

    def _add(self, actor: Actor) -> Response:
        fields = self._fields()
        attr = settable(self._api.body(), self._resource, new=True)
        if isinstance(attr, dict):
            refuse_unknown(attr, {*self._resource.writable, self._resource.key} - {'id'})
        item = self._api.change(
            actor, f'add_{self.kind}', {'attr': attr}, planned=lambda item: cut([alone(item)], fields)[0]
        )
        return self._shown(item, fields, 201)

    def _edit(self, actor: Actor, key: int) -> Response:
        fields = self._fields()
        attr = settable(self._api.body((_JSON, MERGE)), self._resource)
        merge = request_ctx.request.mimetype == MERGE
        # With an idempotency key, an edit of a missing object must fail before its answer is stored.
        always = idempotency_key(request_ctx.request, {}) is not None or self._api.is_dry_run
        complete = None
        if isinstance(attr, dict):
            refuse_unknown(attr, self._resource.fields)
            if merge or sent_back(attr, self._resource):
                complete = partial(self._completed, key, attr, merge=merge)
        expected = self._expectation(key, always=always or complete is not None)
        if expected is not None:
            expected = replace(expected, members=complete)
        members = self._edit_members(key, marked(attr) if merge else attr)
        edited = self._api.change(
            actor, f'edit_{self.kind}', members, expected, lambda items: cut([alone(items[0])], fields)[0]
        )
        if not edited:
            raise self._missing(key)
        return self._shown(edited[0], fields)

    def _edit_members(self, key: int, attr: Any) -> Object:
        return {self.kind: {self._resource.key: key}, 'attr': attr}

    def _completed(self, key: int, attr: Object, item: Object, *, merge: bool) -> Object:
        """Return the members of an edit for an object as it is stored.

        An empty edit sets the name, or else the description, to its stored value.
        """
        left = without_sent_back(attr, alone(dict(item)), self._resource.writable)
        left.pop('match', None)  # `match` belongs to searches
        if merge:
            left = merged(left, item)
        name = 'name' if 'name' in self._resource.writable else 'description'
        return self._edit_members(key, left or {name: item[name]})

    def _remove(self, actor: Actor, key: int) -> Response:
        args = request_ctx.request.args
        members: Object = {self.kind: {self._resource.key: key}}
        if self.kind in RECURSIVE:
            members['recursive'] = read_flag(args, 'recursive')
        # The removal of a prefix reports a missing prefix itself. Other kinds need an expectation for that.
        expected = self._expectation(key, always=self.kind != 'prefix')
        self._api.change(actor, f'remove_{self.kind}', members, expected)
        return Response(status=204)

    def _expectation(self, number: int, *, always: bool = False) -> Expectation | None:
        """Return the expectation of the header If-Match. Without it: None, or with `always` that the object exists."""
        request: Request = request_ctx.request
        if 'If-Match' not in request.headers:
            return Expectation(self.kind, number, lambda _: True) if always else None
        any_will_do = request.if_match.star_tag
        editions = {edition(tag) for tag in request.if_match.as_set() if tag}  # an empty tag is read as None

        def holds(item: Object) -> bool:
            return any_will_do or edition(tag_of(item, self._resource)) in editions

        return Expectation(self.kind, number, holds)


# Parameters of the past that compare in another way than by equality: the attribute and the operator of each.
_COMPARED = {
    'since': ('at', '>='),
    'until': ('at', '<='),
    'within': ('prefix', '<<='),
    'covering': ('prefix', '>>='),
}


class _Past(_Collection):
    """The paths of audit entries or change sets, which nobody can change."""

    def connect(self, app: Flask) -> None:
        """Add all paths."""
        self.connect_list(app)
        if self._resource is CHANGE_SETS:
            self._api.connect(app, 'GET', f'/{self._resource.plural}/{KEY}', self._get)

    def connect_history(self, app: Flask, collection: _Collection, resource: Resource) -> None:
        """Add the path for the history of an object."""
        view = partial(self._history, collection)
        self._api.connect(app, 'GET', f'/{resource.plural}/{KEY}/history', view)

    def _filter(self, args: Args) -> Object:
        query = super()._filter(args)
        for name, (attribute, operator) in _COMPARED.items():
            if name in args:
                one = {'operator': operator, 'val1': attribute, 'val2': args[name]}
                query = _joined('and', [query, one]) if query else one
        return query

    def _history(self, collection: _Collection, actor: Actor, key: int) -> Response:
        args = request_ctx.request.args
        kind = collection.kind
        own: Object = _joined('and', [_equal('kind', None, kind), _equal('object_id', None, str(key))])
        below = self._below(collection, actor, key, own) if read_flag(args, 'below') else own
        filters = self._filter(args)
        query = _joined('and', [below, filters]) if filters else below
        return self._found(actor, args.get('q'), query, lambda: self._require(collection, actor, key, own))

    def _require(self, collection: _Collection, actor: Actor, key: int, own: Object) -> None:
        """Raise an error unless an object exists, or has existed. own: the query for its entries."""
        if self._last_of(actor, own) is None:
            collection.one(actor, key)

    def _last_of(self, actor: Actor, query: Object) -> Object | None:
        """Return the last audit entry that matches a query; None without one."""
        members = {'query': query, 'search_options': {'max_result': 1}}
        found: list[Object] = self._api.look(actor, 'search_audit', members)['result']
        return found[0] if found else None

    def _below(self, collection: _Collection, actor: Actor, key: int, own: Object) -> Object:
        """Return the query for everything in a VRF, or in the place of a prefix, which may have been removed."""
        if collection.kind == 'vrf':
            return _equal('vrf_id', None, str(key))
        place = self._last_of(actor, own) or collection.one(actor, key)
        inside: Object = {'operator': '<<=', 'val1': 'prefix', 'val2': place['prefix']}
        return _joined('and', [_equal('vrf_id', None, str(place['vrf_id'])), inside])


class _Calls:
    """The paths outside collections: versions, allocations, free blocks and batches."""

    def __init__(self, api: _Api) -> None:
        self._api = api

    def connect(self, app: Flask) -> None:
        connect = self._api.connect
        connect(app, 'GET', '/version', self._version)
        connect(app, 'POST', '/batch', self._batch)
        for resource in RESOURCES:
            if resource.kind in ('pool', 'prefix'):
                collection = _Collection(self._api, resource)
                allocations = _Allocations(self._api, collection)
                connect(app, 'POST', f'/{resource.plural}/{KEY}/allocations', allocations.add)
                connect(app, 'GET', f'/{resource.plural}/{KEY}/free', allocations.look)

    def _version(self, actor: Actor) -> Response:
        versions = {name: self._api.look(actor, name) for name in ('version', 'db_version')}
        return _respond(request_ctx.request, [encode(versions)])

    def _batch(self, actor: Actor) -> Response:
        asked = self._api.struct()
        check_members(asked, ('operations', 'return'))
        operations = asked.get('operations')
        self._check_operations(actor, operations)
        operations = list(map(_cautious, operations)) if isinstance(operations, list) else operations
        members = {'operations': operations, 'return': asked.get('return')}
        answers = self._api.change(actor, 'batch', members, planned=lambda answers: {'result': answers})
        return _respond(request_ctx.request, kept(giving_way(parts_of({'result': answers}))))

    def _check_operations(self, actor: Actor, operations: object) -> None:
        """Refuse members of operations in a batch that their calls do not have. XML-RPC ignores such members.

        :raises NipapError: naming the operation and the member; or the actor may not make the call.
        """
        accepted = {name: tuple(member.name for member in call.members) for name, call in CALLS.items()}
        turns = waiting.Turns()
        for position, operation in enumerate(operations if isinstance(operations, list) else ()):
            turns.next()
            asked = operation if isinstance(operation, dict) else {}
            method, args = asked.get('method'), asked.get('args')
            if not isinstance(method, str) or method not in accepted or not isinstance(args, dict):
                continue
            if not args.keys() <= {*accepted[method], REFERENCE}:
                try:
                    authorize(actor, CALLS[method])
                    check_members(args, accepted[method])
                except NipapError as error:
                    raise at_operation(position, method, error) from None


class _Allocations:
    """The paths for allocations and free blocks of a pool or a prefix."""

    def __init__(self, api: _Api, collection: _Collection) -> None:
        self._api = api
        self._collection = collection
        self._of_pool = collection.kind == 'pool'

    def add(self, actor: Actor, key: int) -> Response:
        """Allocate the requested number of blocks, all or none."""
        attr = self._api.struct()
        args = {name: attr.pop(name) for name in FREE if name in attr}
        count = read_count(args.pop('count', None))
        if self._api.is_dry_run:
            self._collection.one(actor, key)
        try:
            answers = self._allocated(actor, self._operations(key, attr, args, count), self._expectation(key, attr))
        except _PlannedError as planned:
            raise _PlannedError(_as_one(planned.told, count)) from None
        except NipapError as exc:
            self._collection.one(actor, key)  # a missing pool or prefix is the better error
            cause = exc.__cause__
            if exc.position is not None and isinstance(cause, NipapError):
                raise cause from None  # the client sent no batch, so it knows no operations
            raise
        added = [alone(item) for item in answers[-count:]]
        response = _respond(request_ctx.request, [encode({'result': added})], 201)
        if count == 1:
            response.headers['Location'] = f'{ROOT}/prefixes/{added[0]["id"]}'
        return response

    def _allocated(self, actor: Actor, operations: list[Object], expected: Expectation | None) -> list[Any]:
        if len(operations) == 1:
            return [self._api.change(actor, 'add_prefix', operations[0]['args'], expected)]
        members = {'operations': operations, 'return': None}
        answers: list[Any] = whole(self._api.change(actor, 'batch', members, expected))
        return answers

    def _expectation(self, key: int, attr: Object) -> Expectation | None:
        """Return the expectation that the source is in the VRF of the body; None if the body names no VRF."""
        named = {name: read_value(PREFIX[name], attr[name]) for name in _VRF if attr.get(name) is not None}

        def holds(item: Object) -> bool:
            if item['vrf_id'] is None:
                return True  # a pool without members fails in the call
            for name, value in named.items():
                if value != item[name]:
                    kind, where = self._collection.kind, shown(item[name])
                    text = (
                        f'Invalid value {shown(attr[name])} for {name}, {kind} {key} is in the VRF with {name} {where}'
                    )
                    raise NipapValueError(text).about(name)
            return True

        return Expectation(self._collection.kind, key, holds) if named else None

    def _operations(self, number: int, attr: Object, args: Object, count: int) -> list[Object]:
        if self._of_pool:
            first: list[Object] = []
            source: Object = {'from-pool': {'id': number}}
        else:
            # The prefix is looked up in the same transaction. So under an idempotency key the call is the same after a
            # move. The VRF of the body is included, because it is part of the request, though the call has no such
            # member.
            asked = {name: attr[name] for name in _VRF if attr.get(name) is not None}
            first = [{'method': 'list_prefix', 'args': {'prefix': {'id': number}, **asked}}]
            source = {'from-prefix': [{'$result': [0, 0, 'prefix']}]}
            attr = {**attr, 'vrf_id': {'$result': [0, 0, 'vrf_id']}}
        one = {'method': 'add_prefix', 'args': {'attr': attr, 'args': {**source, **args}}}
        return [*first, *[one] * count]

    def look(self, actor: Actor, key: int) -> Response:
        """Return the blocks that an allocation would take now."""
        given = request_ctx.request.args
        item = self._collection.one(actor, key)
        args: Object = {name: given[name] for name in FREE if name in given}
        vrf = None
        if self._of_pool:
            args['from-pool'] = {'id': key}
        else:
            args['from-prefix'] = [item['prefix']]
            vrf = {'id': item['vrf_id']}
        found = self._api.look(actor, 'find_free_prefix', {'vrf': vrf, 'args': args})
        return _respond(request_ctx.request, [encode({'result': found})])


# ---------------------------------------------------------------- dry runs


class _PlannedError(Exception):
    """The end of a dry run: no further request is made, and nothing is shown but the plan."""

    def __init__(self, told: Object) -> None:
        super().__init__()
        self.told = told


def _plan_parts(told: Object) -> Iterator[bytes]:
    """Yield the answer of a dry run as JSON."""
    before = b'{'
    for name, value in told.items():
        yield before + encode(name) + b':'
        yield from parts_of(value)
        before = b','
    yield b'}'


def _as_one(told: Object, count: int) -> Object:
    """Return the plan of an allocation, which may consist of operations that the client does not know."""
    errors = {(error['code'], error['message']): error for error in told['errors']}
    alone_errors = [{**error, 'position': None, 'method': None, 'depends_on': None} for error in errors.values()]
    answer = whole(told['answer'])
    answers = answer if isinstance(answer, list | None) else [answer]
    added = None if answers is None else {'result': [alone(item) for item in answers[-count:]]}
    return {**told, 'answer': added, 'errors': alone_errors}


# ---------------------------------------------------------------- pages


class _Page:
    """A page of an answer, read and written in parts. At the end, `after` is the cursor of the next page."""

    def __init__(
        self,
        api: _Api,
        resource: Resource,
        actor: Actor,
        text: object,
        query: Object,
        options: Mapping[str, Any],
        *,
        lenient: bool,
    ) -> None:
        self._lenient = lenient
        self.after: str | None = None
        self.is_empty = True
        self._api = api
        self._resource = resource
        self._actor = actor
        self._text = text
        self._query = query
        self._options = options

    def parts(self, limit: int, after: str, fields: list[str] | None) -> Iterator[bytes]:
        """Yield the page as JSON."""
        self.after = after
        rest: Object = {}
        between = b'{"result":['
        while limit and self.after is not None:
            number = min(limit, _AT_ONCE)
            answer = self._ask({**self._options, 'max_result': number, 'after': self.after})
            items = answer['result']
            rest = rest or {name: answer[name] for name in _BESIDE if name in answer}
            self.after = answer.get('after')
            limit -= number
            if items:
                self.is_empty = False
                plain_many(items, self._resource.counters)
                yield between + encode(cut(items, fields))[1:-1]
                between = b','
        beginning = b'' if between == b',' else between
        yield beginning + b'],' + encode({'after': self.after, **rest})[1:]

    def _ask(self, options: Object) -> Object:
        kind = self._resource.kind
        method = f'search_{kind}'
        members: Object = {'query': self._query, 'search_options': options}
        if self._text is not None:
            method = f'smart_search_{kind}'
            members = {'query_string': self._text, 'search_options': options, 'extra_query': self._query}
        found: Object = self._api.look(self._actor, method, members)
        if found.get('error') and not self._lenient:
            raise not_understood(str(self._text), found['interpretation'])
        return found


_QUERY = ('operator', 'val1', 'val2')
_BESIDE = ('interpretation', 'error', 'error_message')


# ---------------------------------------------------------------- requests and answers


def _joined(operator: str, queries: list[Object]) -> Object:
    return reduce(lambda first, second: {'operator': operator, 'val1': first, 'val2': second}, queries)


def _equal(name: str, attribute: Attribute | None, value: str) -> Object:
    """Return the query that an attribute or a pair has a value. Without a value: that it is unset, or an empty text.

    :raises NipapValueError: there is no value, and the attribute always has one.
    """
    one: Object = {'operator': 'equals', 'val1': name, 'val2': value or None}
    if value:
        return one
    # An empty vrf_id is accepted: it is VRF 0, as without a route target.
    if attribute is not None and attribute.never_nil and name != 'vrf_id':
        raise NipapValueError(f'Invalid value {shown(value)} for {name}, which always has a value').about(name)
    if attribute is None or attribute.kind == 'text':
        return _joined('or', [one, {**one, 'val2': ''}])
    return one


def _check_query(query: object) -> None:
    """Refuse unknown members of a query struct and of the queries inside it.

    :raises NipapInputError: naming the member.
    """
    turns = waiting.Turns()
    todo = [query]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            check_members(node, _QUERY)
            if node.get('operator') in ('and', 'or'):  # the value of a comparison is no query
                todo += [node.get('val1'), node.get('val2')]
            turns.next()


def _cautious(operation: Any) -> Any:
    """Return an operation that removes a VRF with its prefixes only if it says so, like requests for a VRF."""
    if not isinstance(operation, dict) or operation.get('method') != 'remove_vrf':
        return operation
    args = operation.get('args')
    if not isinstance(args, dict) or REFERENCE in args or args.get('recursive') is not None:
        return operation
    return {**operation, 'args': {**args, 'recursive': False}}


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    try:
        limit = read_integer(text)
    except NipapValueError:
        limit = 0
    if not 1 <= limit <= LARGEST_LIMIT:
        raise NipapValueError(f'Invalid value {shown(text)} for limit, must be 1 to {LARGEST_LIMIT}').about('limit')
    return limit


def _respond(
    request: Request,
    body: list[bytes] | Spool,
    status: int = 200,
    *,
    tag: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return a response with a body, compressed if that is worthwhile, or 304 if it has not changed."""
    size = body.size if isinstance(body, Spool) else sum(map(len, body))
    pack = size > WORTH_COMPRESSING and takes_gzip(request)
    # A strong tag identifies bytes, so the gzip form of an answer has a tag of its own.
    sent = tag and (f'{tag}-gzip' if pack else tag)
    if sent and request.method in ('GET', 'HEAD') and request.if_none_match.contains_weak(sent):
        response = Response(status=304, content_type=_JSON)
    elif isinstance(body, Spool):
        response = Response(body.packed() if pack else body.plain(), status, content_type=_JSON)
        response.headers['Content-Length'] = str(body.packed_size if pack else size)
        response.call_on_close(body.close)
    else:
        response = Response(compressed(body) if pack else body, status, content_type=_JSON)
    if sent:
        response.set_etag(sent)
    if pack and response.status_code != 304:
        response.headers['Content-Encoding'] = 'gzip'
    response.headers['Vary'] = 'Accept-Encoding, Authorization'
    response.headers['Cache-Control'] = 'private, no-cache'
    response.headers.update(headers or {})
    return response
