"""Faces of one daemon: the Backend called directly, the same calls over XML-RPC and, in `contract_rest`, over REST.

All answer in one form, so that a scenario is independent of its face: numbers that can be big are decimal strings,
timestamps are aware datetimes in UTC with whole seconds, and an error is a ``Fault``.
"""

from __future__ import annotations

import base64
import datetime as dt
import re
import xmlrpc.client
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from nipap import calls
from nipap.access.authentication import Actor, Credentials, make_actor
from nipap.backend import Backend
from nipap.calls import Request
from nipap.errors import NipapError

SOURCE = 'nipap'
#: The password, full name, read-only right and trust of each user.
USERS: Mapping[str, tuple[str, str, bool, bool]] = {
    'alice': ('alice-secret', 'Alice Smith', False, False),
    'readonly': ('readonly-secret', 'Rita Reader', True, False),
    'gateway': ('gateway-secret', 'The web front', False, True),
}
BIG_NUMBER = re.compile(r'_addresses|_prefixes_')
WIRE_TIME = re.compile(r'\d{8}T\d\d:\d\d:\d\d')
MAX_INT = 2**31 - 1

#: For scenarios that REST has no form for. `test_face_differences.py` shows the answers of REST.
CALLS = pytest.mark.parametrize(
    'api', ['backend_face', pytest.param('xmlrpc_face', marks=pytest.mark.slow)], indirect=True
)

#: The arguments are path, body and headers of a request; the result is the HTTP status and the body of the answer.
Post = Callable[[str, bytes, Mapping[str, str]], tuple[int, bytes]]


class Fault(Exception):
    """An error as a client sees it: a permanent code and a text."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text


class Face:
    """A way to make the calls of the contract. Subclasses define `call`."""

    name: str

    def call(self, method: str, /, **members: Any) -> Any:
        """Make one call and return its answer. Raises ``Fault``."""
        raise NotImplementedError

    def as_user(self, user: str, **auth: Any) -> Face:
        """Return the same face for one of ``USERS``; `auth` are further members of the auth struct."""
        raise NotImplementedError

    def fault(self, method: str, /, **members: Any) -> Fault:
        """Make a call that must fail and return its fault."""
        with pytest.raises(Fault) as caught:
            self.call(method, **members)
        return caught.value

    def outcome(self, method: str, /, **members: Any) -> Any:
        """Make one call and return its result, or code and text of its fault, for tables of many calls."""
        try:
            return self.call(method, **members)
        except Fault as fault:
            return fault.code, fault.text

    # The few calls at the beginning of every scenario.

    def add_vrf(self, rt: str, name: str, **attr: Any) -> dict[str, Any]:
        return self.call('add_vrf', attr={'rt': rt, 'name': name, **attr})

    def add_pool(self, name: str, default_type: str = 'assignment', **attr: Any) -> dict[str, Any]:
        fixed = {'name': name, 'description': f'pool {name}', 'default_type': default_type}
        return self.call('add_pool', attr={**fixed, **attr})

    def add_prefix(self, prefix: str, type_: str = 'reservation', **attr: Any) -> dict[str, Any]:
        return self.call('add_prefix', attr={'prefix': prefix, 'type': type_, 'description': f'net {prefix}', **attr})

    def allocate(self, args: Mapping[str, Any], **attr: Any) -> dict[str, Any]:
        return self.call('add_prefix', attr={'description': 'allocated', **attr}, args=dict(args))

    def prefix(self, object_id: int) -> dict[str, Any]:
        """Return the one prefix with this id."""
        (found,) = self.call('list_prefix', prefix={'id': object_id})
        return found

    def stored(self, **spec: Any) -> list[str]:
        """Return the prefixes that satisfy the specification, as strings in the order of the answer."""
        return [row['prefix'] for row in self.call('list_prefix', prefix=spec)]

    def found(self, query: Mapping[str, Any], **options: Any) -> list[str]:
        """Return the prefixes that a search finds, as strings in the order of the answer."""
        return [
            row['prefix'] for row in self.call('search_prefix', query=query, search_options=dict(options))['result']
        ]

    def smart(self, text: str, **options: Any) -> list[str]:
        """Return the prefixes that a smart search finds. The text must be understood."""
        answer = self.call('smart_search_prefix', query_string=text, search_options=dict(options))
        assert answer['error'] is False, answer['interpretation']
        return [row['prefix'] for row in answer['result']]


class BackendFace(Face):
    """The Backend, called as a transport calls it: missing members are None, unknown members are dropped."""

    name = 'backend'

    def __init__(self, backend: Backend, actor: Actor | None = None) -> None:
        self.backend = backend
        self.actor = actor or actor_of('alice')

    def call(self, method: str, /, **members: Any) -> Any:
        wanted = calls.find(method).known(members)
        key = members.get('idempotency_key')
        try:
            result = self.backend.perform(self.actor, Request(method, wanted, key))
        except NipapError as exc:
            raise Fault(exc.code, str(exc)) from exc
        return as_client_sees(result)

    def as_user(self, user: str, **auth: Any) -> BackendFace:
        return BackendFace(self.backend, actor_of(user, **auth))


class XmlRpcFace(Face):
    """XML-RPC requests in the standard library's encoding, sent by `post`."""

    name = 'xmlrpc'

    def __init__(self, post: Post, authorization: str | None = None, auth: Mapping[str, Any] | None = None) -> None:
        self.post = post
        self.authorization = basic('alice', USERS['alice'][0]) if authorization is None else authorization
        self.auth: Mapping[str, Any] = {'authoritative_source': SOURCE} if auth is None else auth

    def call(self, method: str, /, **members: Any) -> Any:
        return self.send(method, {'auth': dict(self.auth), **members})

    def send(self, method: str, *params: Any, path: str = '/XMLRPC') -> Any:
        """Send exactly these parameters and return the answer."""
        body = xmlrpc.client.dumps(params, method, allow_none=True).encode()
        return self.send_body(body, path)

    def send_body(self, body: bytes, path: str = '/XMLRPC') -> Any:
        """Send a request body unchanged and decode the answer."""
        headers = {'Content-Type': 'text/xml'}
        if self.authorization:
            headers['Authorization'] = self.authorization
        status, answer = self.post(path, body, headers)
        assert status == 200, (status, answer[:500])
        try:
            (result,), _ = xmlrpc.client.loads(answer)
        except xmlrpc.client.Fault as exc:
            raise Fault(exc.faultCode, exc.faultString) from exc
        return as_client_sees(result)

    def as_user(self, user: str, **auth: Any) -> XmlRpcFace:
        return XmlRpcFace(self.post, basic(user, USERS[user][0]), {'authoritative_source': SOURCE, **auth})


def actor_of(user: str, **auth: Any) -> Actor:
    """Return the actor that authentication makes from a user of ``USERS`` and the auth struct of a call."""
    _, full_name, readonly, trusted = USERS[user]
    return make_actor(Credentials(user, full_name, readonly, trusted), {'authoritative_source': SOURCE, **auth})


def basic(user: str, password: str) -> str:
    """Return the Authorization header of HTTP Basic (RFC 7617)."""
    return 'Basic ' + base64.b64encode(f'{user}:{password}'.encode()).decode()


def as_client_sees(result: Any) -> Any:
    """Return a result in the common form.

    The walk has its own stack, since interpretations nest as deep as queries.
    """
    box = [result]
    todo: list[tuple[Any, Any]] = [(box, 0)]
    while todo:
        container, key = todo.pop()
        value = as_leaf(key, container[key])
        if isinstance(value, dict | list | tuple):
            value = dict(value) if isinstance(value, dict) else list(value)
            todo.extend((value, inner) for inner in keys_of(value))
        container[key] = value
    return box[0]


def keys_of(container: dict[str, Any] | list[Any]) -> Iterator[Any]:
    return iter(list(container)) if isinstance(container, dict) else iter(range(len(container)))


def as_leaf(key: object, value: Any) -> Any:
    """Return one value in the common form. `key` is the name or the index of the value in its container."""
    if isinstance(value, xmlrpc.client.DateTime):
        assert WIRE_TIME.fullmatch(value.value), value.value
        return dt.datetime.strptime(value.value, '%Y%m%dT%H:%M:%S').replace(tzinfo=dt.UTC)
    if isinstance(value, dt.datetime):
        assert value.tzinfo is not None, f'{key} has no time zone'
        return value.astimezone(dt.UTC).replace(microsecond=0)
    if isinstance(value, int) and not isinstance(value, bool):
        big = isinstance(key, str) and BIG_NUMBER.search(key)
        return str(value) if big or value > MAX_INT else value
    return value
