"""Filters of lists: unset attributes, repeated filters, impossible values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args, get_type_hints
from urllib.parse import urlencode

import pytest
from contract_faces import USERS, basic
from contract_rest import rest_application
from databases import Standing

from nipap import answers
from nipap.access.authentication import Authenticator
from nipap.rest.objects import RESOURCES, Resource

pytestmark = pytest.mark.slow

AUTH = {'Authorization': basic('alice', USERS['alice'][0])}
Ask = Callable[..., Any]
RESOURCE = pytest.mark.parametrize('resource', RESOURCES, ids=lambda resource: resource.plural)


@pytest.fixture
def ask(standing: Standing, sound: None, authenticator: Authenticator) -> Ask:
    client = rest_application(standing, authenticator, max_body=100_000).test_client()

    def send(method: str, path: str, body: Any = None, status: int = 200) -> Any:
        answer = client.open(f'/api/v1{path}', method=method, json=body, headers=AUTH)
        assert answer.status_code == status, (path, answer.data)
        return answer.json

    return send


def keys(ask: Ask, resource: Resource, *parameters: tuple[str, Any]) -> list[int]:
    """Return the numbers of the objects that a list and a search with these parameters find."""
    query = urlencode(parameters)
    found = ask('GET', f'/{resource.plural}?{query}')['result']
    assert ask('POST', f'/{resource.plural}/search?{query}', {'query': {}})['result'] == found
    return [item[resource.key] for item in found]


def shown(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


def stock(ask: Ask) -> None:
    """Add objects with every attribute, with none, and with empty texts."""
    vrf = ask('POST', '/vrfs', {'rt': '1:1', 'name': 'v', 'description': 'd', 'tags': ['t'], 'avps': {'k': 'v'}}, 201)
    ask('POST', '/vrfs', {'rt': '1:2', 'name': 'w', 'description': '', 'avps': {'k': ''}}, 201)
    lengths = {'ipv4_default_prefix_length': 26, 'ipv6_default_prefix_length': 64}
    pool = {'name': 'p', 'description': 'd', 'default_type': 'assignment', 'tags': ['t'], **lengths}
    number = ask('POST', '/pools', pool, 201)['id']
    ask('POST', '/pools', {'name': 'q', 'description': '', 'default_type': None}, 201)
    ask('POST', '/asns', {'asn': 4200000001, 'name': 'x'}, 201)
    ask('POST', '/asns', {'asn': 2, 'name': None}, 201)
    ask('POST', '/asns', {'asn': 3, 'name': ''}, 201)
    texts = ('comment', 'order_id', 'customer_id', 'external_key')
    for prefix, attr in (
        ('10.0.0.0/16', {'type': 'reservation', 'pool_id': number, 'tags': ['t', 'u'], 'vrf_id': vrf['id']}),
        ('10.0.0.0/24', {'type': 'assignment', 'vrf_id': vrf['id'], **dict.fromkeys(texts, 'x'), **EVERYTHING}),
        ('10.0.0.1/32', {'type': 'host', 'vrf_id': vrf['id'], 'node': 'n'}),
        ('10.0.0.0/16', {'type': 'reservation', **dict.fromkeys(texts, '')}),
        ('10.0.0.1/32', {'type': 'assignment', 'node': '', 'description': ''}),
        ('2001:db8::/48', {'type': 'reservation'}),
    ):
        ask('POST', '/prefixes', {'prefix': prefix, 'description': 'd', **attr}, 201)


EVERYTHING = {
    'status': 'reserved',
    'country': 'SE',
    'alarm_priority': 'high',
    'monitor': True,
    'vlan': 7,
    'expires': '2031-05-06T07:08:09Z',
}
NOTHING: tuple[Any, ...] = (None, '', [])


@RESOURCE
def test_an_empty_filter_finds_unset_values_and_empty_texts(ask: Ask, resource: Resource) -> None:
    stock(ask)
    items = ask('GET', f'/{resource.plural}')['result']
    for name, attribute in resource.table.items():
        if attribute.never_nil and name != 'vrf_id':
            told = ask('GET', f'/{resource.plural}?{name}=', None, 422)
            assert (told['code'], told['attribute']) == (1200, name)
            assert f'{name}, which always has a value' in told['detail']
        elif name == 'vrf_id' and resource.kind == 'prefix':
            assert keys(ask, resource, (name, '')) == [item['id'] for item in items if item['vrf_id'] == 0]
        else:
            expected = [item[resource.key] for item in items if item[name] in (*NOTHING, {})]
            assert keys(ask, resource, (name, '')) == expected, name


@RESOURCE
def test_one_filter_twice_means_either(ask: Ask, resource: Resource) -> None:
    """For lists such as tags it means both, since an object can have both."""
    stock(ask)
    items = ask('GET', f'/{resource.plural}')['result']
    for name, attribute in resource.table.items():
        if attribute.kind in ('tags', 'networks', 'avps'):
            continue
        values = sorted({shown(item[name]) for item in items if item[name] not in NOTHING}, key=str)
        for value in values:
            either = [item[resource.key] for item in items if shown(item[name]) in (values[0], value)]
            assert keys(ask, resource, (name, values[0]), (name, value)) == either, (name, value)
        if values and not attribute.never_nil:
            either = [item[resource.key] for item in items if item[name] in NOTHING or shown(item[name]) == values[-1]]
            assert keys(ask, resource, (name, ''), (name, values[-1])) == either, name


def test_tags_twice_means_both(ask: Ask) -> None:
    stock(ask)
    (prefixes,) = (resource for resource in RESOURCES if resource.kind == 'prefix')
    (tagged,) = keys(ask, prefixes, ('tags', 't'), ('tags', 'u'))
    assert keys(ask, prefixes, ('tags', 't'), ('tags', 'x')) == []
    assert keys(ask, prefixes, ('inherited_tags', 't'), ('inherited_tags', 'u'), ('type', 'host')) != []
    assert keys(ask, prefixes, ('tags', 't')) == [tagged]


def test_pairs(ask: Ask) -> None:
    stock(ask)
    (vrfs,) = (resource for resource in RESOURCES if resource.kind == 'vrf')
    by_name = {item['name']: item['id'] for item in ask('GET', '/vrfs')['result']}
    assert keys(ask, vrfs, ('avps.k', 'v')) == [by_name['v']]
    assert keys(ask, vrfs, ('avps.k', '')) == [by_name['default'], by_name['w']]
    assert keys(ask, vrfs, ('avps.k', ''), ('avps.k', 'v')) == [by_name['default'], by_name['v'], by_name['w']]
    assert keys(ask, vrfs, ('avps', '')) == [by_name['default']]
    assert keys(ask, vrfs, ('avps.k', 'v'), ('avps.k', 'x'), ('name', 'w'), ('name', 'v')) == [by_name['v']]


@RESOURCE
def test_an_attribute_can_be_unset_where_the_answer_says_so(resource: Resource) -> None:
    hints = get_type_hints(getattr(answers, resource.kind.capitalize()))
    for name, attribute in resource.table.items():
        if attribute.kind not in ('tags', 'networks', 'avps') and name in hints:
            assert attribute.never_nil == (type(None) not in get_args(hints[name])), name


@pytest.mark.parametrize('name', ['kind', 'vrf_id', 'pool_id', 'tag'])
def test_a_filter_of_events_needs_a_value(ask: Ask, name: str) -> None:
    """An empty value is no kind of object, and a stream of everything is not meant."""
    assert ask('GET', f'/events?{name}=', None, 422)['attribute'] == name


@pytest.mark.parametrize('number', [10**24, -(10**24), 2**63, -(2**63)])
@RESOURCE
def test_a_number_that_no_column_holds_finds_nothing_or_is_refused(
    standing: Standing, sound: None, authenticator: Authenticator, resource: Resource, number: int
) -> None:
    """The filter beside a text is tried too, since it is another statement."""
    client = rest_application(standing, authenticator, max_body=100_000).test_client()
    for attribute in resource.table.values():
        for query in (f'{attribute.name}={number}', f'{attribute.name}={number}&q=d'):
            for method, path, body in (('GET', '', None), ('POST', '/search', {'query': {}})):
                path = f'/api/v1/{resource.plural}{path}?{query}'
                answer = client.open(path, method=method, json=body, headers=AUTH)
                assert answer.status_code in (200, 400, 422), (method, path, answer.data)
