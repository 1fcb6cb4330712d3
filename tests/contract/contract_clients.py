"""Clients of three faces with the same methods: the Backend, XML-RPC, REST.

All clients return results in one form: an object as searches show it, without the members about the match. An error is
a ``Fault`` with its code.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from contract_faces import Face, Fault, as_client_sees

Object = dict[str, Any]
PLURALS = {'vrf': 'vrfs', 'pool': 'pools', 'prefix': 'prefixes', 'asn': 'asns', 'tag': 'tags'}
KEYS = {'asn': 'asn'}
TIMES = frozenset({'added', 'last_modified', 'expires'})

#: The arguments are method, path, body and headers; the result is the status and the value of the answer.
Request = Callable[..., tuple[int, Any]]


class Client:
    """The actions of a scenario."""

    def add(self, kind: str, **attr: Any) -> Object:
        """Add an object and return it."""
        raise NotImplementedError

    def edit(self, kind: str, number: int, **attr: Any) -> Object:
        """Edit the object with this number and return it."""
        raise NotImplementedError

    def remove(self, kind: str, number: int, **options: Any) -> None:
        """Remove the object with this number."""
        raise NotImplementedError

    def search(self, kind: str, query: Object, **options: Any) -> list[Object]:
        """Return the objects that match a query."""
        raise NotImplementedError

    def smart(self, kind: str, text: str) -> tuple[list[Object], Any]:
        """Return the objects that match a text, and the interpretation of the text."""
        raise NotImplementedError

    def allocate(self, kind: str, source: Object, args: Object, **attr: Any) -> Object:
        """Allocate from a pool or a prefix, and return the new prefix."""
        raise NotImplementedError

    def free(self, kind: str, source: Object, **args: Any) -> list[str]:
        """Return the blocks that would be allocated."""
        raise NotImplementedError

    def batch(self, *operations: Object) -> list[Any]:
        """Return the ids in the answers of calls in one transaction."""
        raise NotImplementedError

    def code(self, action: str, /, *args: Any, **named: Any) -> int:
        """Return the code of the fault of an action."""
        with pytest.raises(Fault) as caught:
            getattr(self, action)(*args, **named)
        assert caught.value.text
        return caught.value.code

    def get(self, kind: str, number: int) -> Object:
        (found,) = self.search(kind, equal(KEYS.get(kind, 'id'), number))
        return found


def equal(name: str, value: Any, operator: str = 'equals') -> Object:
    return {'operator': operator, 'val1': name, 'val2': value}


class CallsClient(Client):
    """A client that calls the methods of the Backend, over a face with all methods."""

    def __init__(self, face: Face) -> None:
        self.face = face

    def as_user(self, user: str, **auth: Any) -> CallsClient:
        return CallsClient(self.face.as_user(user, **auth))

    def add(self, kind: str, **attr: Any) -> Object:
        key = KEYS.get(kind, 'id')
        return self.get(kind, self.face.call(f'add_{kind}', attr=attr)[key])

    def edit(self, kind: str, number: int, **attr: Any) -> Object:
        edited = self.face.call(f'edit_{kind}', **{kind: {KEYS.get(kind, 'id'): number}, 'attr': attr})
        return common(edited[0])

    def remove(self, kind: str, number: int, **options: Any) -> None:
        self.face.call(f'remove_{kind}', **{kind: {KEYS.get(kind, 'id'): number}}, **options)

    def search(self, kind: str, query: Object, **options: Any) -> list[Object]:
        return [common(i) for i in self.face.call(f'search_{kind}', query=query, search_options=options)['result']]

    def smart(self, kind: str, text: str) -> tuple[list[Object], Any]:
        answer = self.face.call(f'smart_search_{kind}', query_string=text)
        return [common(item) for item in answer['result']], answer['interpretation']

    def allocate(self, kind: str, source: Object, args: Object, **attr: Any) -> Object:
        place = {} if kind == 'pool' else {'vrf_id': source['vrf_id']}
        added = self.face.call('add_prefix', attr={**attr, **place}, args={**self._source(kind, source), **args})
        return self.get('prefix', added['id'])

    def free(self, kind: str, source: Object, **args: Any) -> list[str]:
        vrf = None if kind == 'pool' else {'id': source['vrf_id']}
        found: list[str] = self.face.call('find_free_prefix', vrf=vrf, args={**self._source(kind, source), **args})
        return found

    def batch(self, *operations: Object) -> list[Any]:
        found: list[Any] = self.face.call('batch', operations=list(operations), **{'return': 'ids'})
        return found

    def _source(self, kind: str, source: Object) -> Object:
        return {'from-pool': {'id': source['id']}} if kind == 'pool' else {'from-prefix': [source['prefix']]}


class RestClient(Client):
    """A client that uses resources."""

    def __init__(self, request: Request, headers: Mapping[str, str] | None = None) -> None:
        self._request = request
        self._headers = dict(headers or {})

    def as_user(self, user: str, **auth: Any) -> RestClient:
        names = {'username': 'NIPAP-Username', 'full_name': 'NIPAP-Full-Name'}
        return RestClient(self._request, {'user': user, **{names[name]: value for name, value in auth.items()}})

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        status, answer = self._request(method, path, body, self._headers)
        if status >= 400:
            assert answer['status'] == status
            raise Fault(answer['code'], answer['detail'])
        return answer

    def add(self, kind: str, **attr: Any) -> Object:
        return common(self._ask('POST', f'/{PLURALS[kind]}', attr))

    def edit(self, kind: str, number: int, **attr: Any) -> Object:
        return common(self._ask('PATCH', f'/{PLURALS[kind]}/{number}', attr))

    def remove(self, kind: str, number: int, **options: Any) -> None:
        self._ask('DELETE', f'/{PLURALS[kind]}/{number}{parameters(options)}')

    def get(self, kind: str, number: int) -> Object:
        return common(self._ask('GET', f'/{PLURALS[kind]}/{number}'))

    def search(self, kind: str, query: Object, **options: Any) -> list[Object]:
        if 'max_result' in options:
            options['limit'] = options.pop('max_result')
        answer = self._ask('POST', f'/{PLURALS[kind]}/search{parameters(options)}', {'query': query})
        return [common(item) for item in answer['result']]

    def smart(self, kind: str, text: str) -> tuple[list[Object], Any]:
        answer = self._ask('POST', f'/{PLURALS[kind]}/search?lenient=1', {'q': text})
        return [common(item) for item in answer['result']], answer['interpretation']

    def allocate(self, kind: str, source: Object, args: Object, **attr: Any) -> Object:
        body = {**args, **attr}
        return common(self._ask('POST', f'/{PLURALS[kind]}/{source["id"]}/allocations', body)['result'][0])

    def free(self, kind: str, source: Object, **args: Any) -> list[str]:
        path = f'/{PLURALS[kind]}/{source["id"]}/free{parameters(args)}'
        found: list[str] = self._ask('GET', path)['result']
        return found

    def batch(self, *operations: Object) -> list[Any]:
        found: list[Any] = self._ask('POST', '/batch', {'operations': operations, 'return': 'ids'})['result']
        return found


def parameters(options: Mapping[str, Any]) -> str:
    return '?' + '&'.join(f'{name}={value}' for name, value in options.items()) if options else ''


def common(item: Object) -> Object:
    """Return an object in the form that all clients return."""
    shown = {name: value for name, value in item.items() if name not in ('match', 'display')}
    for name in TIMES & shown.keys():
        if isinstance(shown[name], str):
            shown[name] = dt.datetime.fromisoformat(shown[name])
    return as_client_sees(shown)
