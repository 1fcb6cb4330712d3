"""The third face: every call of the contract over REST, with the results and faults of the other faces.

A call uses its resource if there is one, or is the only operation of a batch. A reading call is made both ways, and
both answers must be equal. The differences in docs/rest.md are differences here too, with tests of their own:
`test_face_differences.py`.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

from contract_faces import SOURCE, USERS, Face, Fault, as_client_sees, basic
from databases import Standing
from flask import Flask

from nipap.access.authentication import Authenticator
from nipap.backend import Backend
from nipap.rest import api as flask_rest

Object = dict[str, Any]
#: Method, path below the root, body and headers of a request; the result is the HTTP status and the body.
Exchange = Callable[[str, str, bytes | None, Mapping[str, str]], tuple[int, bytes]]

PLURALS = {
    **{'vrf': 'vrfs', 'pool': 'pools', 'prefix': 'prefixes', 'asn': 'asns', 'tag': 'tags', 'webhook': 'webhooks'},
    **{'audit': 'audit', 'change_set': 'changes'},
}
MOMENTS = ('added', 'last_modified', 'expires', 'at')
SIGNED_IN = ('at', 'last')
AROUND = ('parents_depth', 'children_depth', 'include_all_parents', 'include_all_children', 'include_neighbors')
ALLOCATING = {'prefix_length', 'family', 'count'}
HEADERS = {
    'authoritative_source': 'NIPAP-Authoritative-Source',
    'username': 'NIPAP-Username',
    'full_name': 'NIPAP-Full-Name',
    'readonly': 'NIPAP-Read-Only',
}
MOST = 10_000
ABSENT = (1300, 'There is ')  # the beginning of the problem of a missing resource
LONGEST_NUMBER = 18  # digits of a number in a path


class RestFace(Face):
    """REST requests, sent by `exchange`."""

    name = 'rest'

    def __init__(self, exchange: Exchange, user: str = 'alice', auth: Mapping[str, Any] | None = None) -> None:
        self.exchange = exchange
        self.user = user
        self.auth = {'authoritative_source': SOURCE, **(auth or {})}

    def as_user(self, user: str, **auth: Any) -> RestFace:
        return RestFace(self.exchange, user, auth)

    def call(self, method: str, /, **members: Any) -> Any:
        key = members.pop('idempotency_key', None)
        headers = {} if key is None else {'Idempotency-Key': quoted(key)}
        if method == 'batch':
            return self.ask('POST', '/batch', members, **headers)['result']
        if method in ('undo', 'restore', 'list_removed'):
            return getattr(self, f'_{method}')(members, headers)
        change, _, kind = method.partition('_')
        if change in ('add', 'edit', 'remove'):
            return getattr(self, f'_{change}')(kind, method, members, headers)
        answer = self._attempt(self.as_batch, method, members)
        natural = self._attempt(self._look, method, members, answer)
        assert natural is None or told(natural) == told(answer), (method, members, natural, answer)
        if isinstance(answer, Fault):
            raise answer
        return answer

    def ask(self, method: str, path: str, body: Any = None, /, **headers: str) -> Any:
        """Make one request and return its decoded answer. Raises ``Fault`` if the answer is a problem."""
        sent = {'Authorization': basic(self.user, USERS[self.user][0]), **self._headers(), **headers}
        content = None if body is None else json.dumps(body, default=dt.datetime.isoformat).encode()
        if content is not None:
            sent['Content-Type'] = 'application/json'
        status, answer = self.exchange(method, path, content, sent)
        value = json.loads(answer, object_hook=with_moments) if answer else None
        if status >= 400:
            assert (value['status'], value['type']) == (status, 'about:blank'), value
            raise Problem(value)
        return as_client_sees(value)

    def as_batch(self, method: str, members: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Any:
        """Return the answer of a call as the only operation of a batch, in the shape of the call alone."""
        body = {'operations': [{'method': method, 'args': members}]}
        try:
            (answer,) = self.ask('POST', '/batch', body, **(headers or {}))['result']
        except Problem as problem:
            if 'position' not in problem.members:  # a problem of the whole batch: its credentials, its key
                raise
            begin, text = f'operation {problem.members["position"]} ({method}): ', problem.text
            raise Fault(problem.code, text[len(begin) :] if text.startswith(begin) else f'unnamed: {text}') from None
        return without_match(answer) if method in ('add_prefix', 'list_prefix') else answer

    # changes

    def _add(self, kind: str, method: str, members: Object, headers: Mapping[str, str]) -> Any:
        attr, args = members.get('attr'), members.get('args')
        if attr is not None and not args:
            return self.ask('POST', f'/{PLURALS[kind]}', attr, **headers)
        source = self._source(args, attr) if isinstance(attr, dict) and not ALLOCATING & attr.keys() else None
        if source is None:
            return self.as_batch(method, members, headers)
        # REST refuses these members, and does not ignore them.
        if source.startswith('/pools') and any(name.startswith('vrf_') for name in attr):
            return self.as_batch(method, members, headers)
        wanted = {name: value for name, value in args.items() if name in ALLOCATING}
        placed = attr if source.startswith('/pools') else {k: v for k, v in attr.items() if not k.startswith('vrf_')}
        (added,) = self.ask('POST', f'{source}/allocations', {**placed, **wanted}, **headers)['result']
        return added

    def _edit(self, kind: str, method: str, members: Object, headers: Mapping[str, str]) -> Any:
        place, attr = self._place(kind, members.get(kind)), members.get('attr')
        if place is None or attr is None or 'if_version' in members:
            return self.as_batch(method, members, headers)
        try:
            return [self.ask('PATCH', place, attr, **headers)]
        except Fault as fault:
            return self._unless_absent(fault, method, members)

    def _undo(self, members: Object, headers: Mapping[str, str]) -> Any:
        number = members.get('change_set')
        if number is None or members.get('group') is not None or not str(number).isdecimal():
            return self.ask(
                'POST', '/change-groups/undo', {k: v for k, v in members.items() if v is not None}, **headers
            )
        partial = written({'partial': members.get('partial')})
        return self.ask('POST', f'/changes/{number}/undo{partial}', **headers)

    def _restore(self, members: Object, headers: Mapping[str, str]) -> Any:
        partial = written({'partial': members.get('partial')})
        return self.ask('POST', f'/{PLURALS[members["kind"]]}/{members["id"]}/restore{partial}', **headers)

    def _list_removed(self, members: Object, headers: Mapping[str, str]) -> Any:
        options = {name: members.get(name) for name in ('days', 'after')} | {'limit': members.get('max_result')}
        kinds = '&'.join(f'kind={kind}' for kind in members.get('kinds') or ())
        return self.ask('GET', '/removed' + (written(options) or '?') + f'&{kinds}', **headers)

    def _remove(self, kind: str, method: str, members: Object, headers: Mapping[str, str]) -> Any:
        if kind == 'vrf' and members.get('recursive') is None:  # over REST the removal of prefixes must be explicit
            members = {**members, 'recursive': True}
        place, recursive = self._place(kind, members.get(kind)), members.get('recursive')
        if place is None or members.keys() - {kind, 'recursive'}:
            return self.as_batch(method, members, headers)
        try:
            return self.ask('DELETE', place + written({'recursive': recursive}), **headers)
        except Fault as fault:
            return self._unless_absent(fault, method, members)

    def _unless_absent(self, fault: Fault, method: str, members: Object) -> Any:
        """Make a call as a batch after a 404. Otherwise raise the fault.

        A missing resource is a 404, but a call that selects nothing has an answer, which the batch returns.
        """
        if (fault.code, fault.text[:9]) != ABSENT:
            raise fault
        return self.as_batch(method, members)

    # reads

    def _look(self, method: str, members: Object, answer: Any) -> Any:
        """Return the answer of a resource, to compare with the answer of the batch.

        The result is None if there is no resource for the call.
        """
        kind = next((kind for kind in PLURALS if method.endswith(f'_{kind}')), '')
        verb = method.removesuffix(f'_{kind}')
        if method in ('version', 'db_version'):
            return self.ask('GET', '/version')[method]
        if method == 'find_free_prefix':
            return self._free(members)
        if method == 'list_sign_in':
            return self._sign_ins(answer, **members)
        if verb == 'list':
            place = None if kind == 'audit' else self._place(kind, members.get(kind))
            return None if place is None else self._listed(place)
        return self._found(verb, kind, members, answer) if verb in ('search', 'smart_search') else None

    def _sign_ins(self, other: Any, sign_in: Any = None, max_result: Any = None, **rest: Any) -> Any:
        spec = {} if sign_in is None else sign_in
        asked = {'limit': max_result, **rest}
        if not isinstance(spec, dict) or spec.keys() - {'user', 'address', 'outcome', 'interface'}:
            return None
        texts = all(isinstance(value, str | None) for value in (*spec.values(), *asked.values()))
        if not texts and isinstance(other, Fault):  # the texts of faults show a number without quotation marks
            return None
        return self.ask('GET', f'/sign-ins{written({**spec, **asked})}')['result']

    def _listed(self, place: str) -> list[Any]:
        try:
            return [self.ask('GET', place)]
        except Fault as fault:
            if (fault.code, fault.text[:9]) != ABSENT:
                raise
            return []

    def _found(self, verb: str, kind: str, members: Object, other: Any) -> Any:
        """Return the answer of a search, with the options that the other faces repeat."""
        options = members.get('search_options') or {}
        size = options.get('max_result', 50)
        more = {'prefix': (*AROUND, 'parent_prefix', 'after'), 'audit': ('after',)}
        known = {'max_result', *more.get(kind, ())}
        plain = all(isinstance(value, str | int) for value in options.values())
        if options.keys() - known or not plain or isinstance(size, bool | str) or not 1 <= size <= MOST:
            return None
        query, text = members.get('query' if verb == 'search' else 'extra_query'), members.get('query_string')
        if not isinstance(query, dict | None) or (query is None and verb == 'search'):
            return None
        if verb == 'smart_search' and not isinstance(text, str):
            return None
        body = {name: value for name, value in (('query', query), ('q', text)) if value is not None}
        if not isinstance(options.get('after', ''), str):  # a parameter is text
            return None
        asked = {'limit': size, **{name: value for name, value in options.items() if name != 'max_result'}}
        if 'q' in body:
            asked['lenient'] = True
        answer = self.ask('POST', f'/{PLURALS[kind]}/search{written(asked)}', body)
        if 'after' not in options:
            del answer['after']
        return {**answer, 'search_options': other['search_options']} if isinstance(other, dict) else answer

    def _free(self, members: Object) -> Any:
        args, vrf = members.get('args'), members.get('vrf')
        named = {f'vrf_{name}': value for name, value in vrf.items()} if isinstance(vrf, dict) else {}
        source = self._source(args, named)
        if source is None or any(value is None for value in args.values()):
            return None
        if source.startswith('/prefixes') and 'family' in args:  # a search inside a prefix has no such parameter
            return None
        return self.ask('GET', f'{source}/free{written({k: v for k, v in args.items() if k in ALLOCATING})}')['result']

    # names

    def _place(self, kind: str, spec: Any) -> str | None:
        """Return the path of the object that a spec names by its number, or None."""
        name = 'asn' if kind == 'asn' else 'id'
        number = str(spec[name]) if isinstance(spec, dict) and spec.keys() == {name} else ''
        usable = number.isascii() and number.isdecimal() and len(number) <= LONGEST_NUMBER
        return f'/{PLURALS[kind]}/{number}' if usable else None

    def _source(self, args: Any, attr: Mapping[str, Any]) -> str | None:
        """Return the path of the source of an allocation, or None.

        There is a path if the source is one pool or one stored prefix, without other arguments.
        """
        if not isinstance(args, dict) or args.keys() - ALLOCATING not in ({'from-pool'}, {'from-prefix'}):
            return None
        if 'from-pool' in args:
            spec: Any = args['from-pool']
            kind = 'pool'
        else:
            networks = args['from-prefix']
            vrf = {k: v for k, v in attr.items() if k in ('vrf_id', 'vrf_rt', 'vrf_name')} or {'vrf_id': 0}
            spec = {'prefix': networks[0], **vrf} if isinstance(networks, list) and len(networks) == 1 else None
            kind = 'prefix'
        found = self._attempt(self.as_batch, f'list_{kind}', {kind: spec}) if isinstance(spec, dict) else []
        return f'/{PLURALS[kind]}/{found[0]["id"]}' if isinstance(found, list) and len(found) == 1 else None

    def _attempt(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return the result of a function, or its fault."""
        try:
            return function(*args)
        except Fault as fault:
            return fault

    def _headers(self) -> dict[str, str]:
        given = {HEADERS[name]: value for name, value in self.auth.items() if name in HEADERS and value is not None}
        return {name: str(value).encode().decode('latin-1') for name, value in given.items()}


def rest_application(standing: Standing, authenticator: Authenticator, **options: Any) -> Flask:
    """Return the REST application over a database. Its routes, which take 11 ms to compile, are compiled once."""
    name = f'REST {options}'
    if name not in standing.applications:
        app = standing.applications[name] = Flask('test', static_folder=None)
        flask_rest.add_to(app, Backend(standing.db), authenticator, **options)
    return standing.applications[name]


def told(answer: Any) -> Any:
    """Return an answer, or code and text of a fault, for comparison."""
    return (answer.code, answer.text) if isinstance(answer, Fault) else answer


class Problem(Fault):
    """A problem of REST."""

    def __init__(self, members: Object) -> None:
        super().__init__(members['code'], members['detail'])
        self.members = members


def with_moments(item: Object) -> Object:
    """Return an object of an answer with its timestamps parsed."""
    # The facts of an audit entry are as they are stored: an object without an indent.
    known = 'indent' in item or 'authenticated_as' in item
    names = SIGNED_IN if 'outcome' in item else MOMENTS if known else ()
    item |= {name: dt.datetime.fromisoformat(item[name]) for name in names if item.get(name) is not None}
    return item


def without_match(answer: Any) -> Any:
    """Return an answer without `match`, which only searches give."""
    for item in answer if isinstance(answer, list) else [answer]:
        item.pop('match', None)
    return answer


def quoted(key: Any) -> str:
    assert isinstance(key, str), 'a header is text'
    return '"' + key.replace('\\', '\\\\').replace('"', '\\"') + '"'


def written(options: Mapping[str, Any]) -> str:
    """Return options as the query of a URL. Options without a value are left out."""
    given = {name: str(value).lower() if isinstance(value, bool) else value for name, value in options.items()}
    text = urlencode({name: value for name, value in given.items() if value is not None})
    return f'?{text}' if text else ''
