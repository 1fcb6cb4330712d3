"""The differences of REST, each beside the answer of the other faces. docs/rest.md tells users the same."""

from __future__ import annotations

from typing import Any

import pytest
from contract_faces import BackendFace, Face, Fault, XmlRpcFace
from contract_rest import PLURALS, Problem, RestFace

NOTHING = 99_999
ATTR = {'prefix': '10.0.0.0/24', 'type': 'assignment', 'description': 'd'}


@pytest.fixture(params=['backend_face', 'xmlrpc_face'])
def calls(request: pytest.FixtureRequest) -> Face:
    found: Face = request.getfixturevalue(request.param)
    return found


def refused(rest: RestFace, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, int]:
    """Return status and code of the problem in the answer to a request."""
    with pytest.raises(Problem) as caught:
        rest.ask(method, path, body, **headers)
    return caught.value.members['status'], caught.value.code


@pytest.mark.parametrize('kind', ['vrf', 'pool', 'prefix', 'asn'])
def test_a_number_of_nothing(calls: Face, rest_face: RestFace, kind: str) -> None:
    """In a call it selects nothing, which is no error except for the removal of a prefix. As a resource it is 404."""
    spec = {kind: {'asn' if kind == 'asn' else 'id': NOTHING}}
    attr = {'description': 'x'} if kind in ('pool', 'prefix') else {'name': 'x'}
    assert calls.call(f'list_{kind}', **spec) == []
    assert calls.call(f'edit_{kind}', **spec, attr=attr) == []
    if kind == 'prefix':
        assert calls.fault('remove_prefix', **spec).code == 1300
    else:
        assert calls.call(f'remove_{kind}', **spec) is None
    path = f'/{PLURALS[kind]}/{NOTHING}'
    for method, body in (('GET', None), ('PATCH', attr), ('DELETE', None)):
        assert refused(rest_face, method, path, body) == (404, 1300)
    operations = [{'method': f'edit_{kind}', 'args': {**spec, 'attr': attr}}]
    assert rest_face.call('batch', operations=operations) == [[]]


def test_a_prefix_is_shown_whole(calls: Face, rest_face: RestFace) -> None:
    """Every request shows a prefix as searches do, so that one ETag is valid for all of them."""
    api, attr = calls, {'prefix': '10.1.0.1/32', 'type': 'assignment', 'description': 'd'}
    added = api.call('add_prefix', attr=attr)
    assert added['display_prefix'] == '10.1.0.1'
    assert added.keys().isdisjoint({'children', 'prefix_length', 'match', 'display'})
    (found,) = api.call('search_prefix', query={})['result']
    assert {'children', 'prefix_length', 'match', 'display'} <= found.keys()
    place = f'/prefixes/{added["id"]}'
    shown = rest_face.ask('GET', place)
    assert shown == {name: value for name, value in found.items() if name not in ('match', 'display')}
    assert shown['display_prefix'] == '10.1.0.1/32'
    (listed,) = rest_face.ask('GET', '/prefixes')['result']
    assert listed == {**shown, 'match': True}
    (by_call,) = rest_face.call('list_prefix', prefix={})
    assert by_call == shown
    edited = rest_face.ask('PATCH', place, {'description': 'e'})
    assert edited.keys() == shown.keys()


def test_a_page_says_where_the_next_begins_and_repeats_no_options(calls: Face, rest_face: RestFace) -> None:
    assert calls.call('search_vrf', query={}).keys() == {'search_options', 'result'}
    assert rest_face.ask('POST', '/vrfs/search', {'query': {}}).keys() == {'after', 'result'}


def nested(depth: int) -> dict[str, Any]:
    query: dict[str, Any] = {'operator': '=', 'val1': 'name', 'val2': 'x'}
    for _ in range(depth):
        query = {'operator': 'or', 'val1': query, 'val2': {}}
    return query


def test_json_nests_less_deeply(backend_face: BackendFace, rest_face: RestFace) -> None:
    """Calls nest as deep as needed. A request in JSON may nest 1,000 deep, an answer 250."""
    words = ' '.join(['word'] * 300)
    deep = '[' * 1100 + ']' * 1100
    assert backend_face.call('search_vrf', query=nested(1100))['result']
    assert backend_face.call('smart_search_vrf', query_string=words)['error'] is False
    status, answer = rest_face.exchange('POST', '/vrfs/search', f'{{"query":{deep}}}'.encode(), sent_as_json(rest_face))
    assert (status, b'"code":1100' in answer) == (400, True)
    assert rest_face.ask('POST', '/vrfs/search', {'query': nested(900)})['result']
    assert refused(rest_face, 'POST', '/vrfs/search', {'q': words}) == (422, 1200)
    assert rest_face.ask('POST', '/vrfs/search', {'q': ' '.join(['word'] * 200)})['error'] is False


def sent_as_json(rest: RestFace) -> dict[str, str]:
    captured: dict[str, str] = {}

    def exchange(method: str, path: str, body: bytes | None, headers: Any) -> tuple[int, bytes]:
        captured.update(headers)
        return rest.exchange(method, path, body, headers)

    RestFace(exchange).ask('POST', '/vrfs/search', {'query': {}})
    return captured


def test_unknown_members_are_refused(calls: Face, rest_face: RestFace) -> None:
    """Calls ignore members beside those of a method. A REST request with such a member is refused."""
    assert calls.call('search_vrf', query={}, bogus=1)['result']
    assert refused(rest_face, 'POST', '/vrfs/search', {'query': {}, 'bogus': 1}) == (400, 1100)
    assert refused(rest_face, 'GET', '/vrfs?bogus=1') == (400, 1100)
    assert refused(rest_face, 'POST', '/batch', {'operations': [], 'bogus': 1}) == (400, 1100)


def test_a_vrf_goes_with_its_prefixes(calls: Face, rest_face: RestFace) -> None:
    """A call removes them unless `recursive` is false, REST only if it is true."""
    vrf = calls.add_vrf('1:1', 'v')
    calls.add_prefix('10.0.0.0/8', vrf_id=vrf['id'])
    assert refused(rest_face, 'DELETE', f'/vrfs/{vrf["id"]}') == (422, 1200)
    assert calls.fault('remove_vrf', vrf={'id': vrf['id']}, recursive=False).code == 1200
    assert calls.stored() == ['10.0.0.0/8']
    assert calls.call('remove_vrf', vrf={'id': vrf['id']}) is None
    assert calls.stored() == []


def test_a_key_is_a_header(xmlrpc_face: XmlRpcFace, rest_face: RestFace) -> None:
    """On other faces the key is a member of the call. A body in JSON is the object itself."""
    first = xmlrpc_face.call('add_prefix', attr=ATTR, idempotency_key='k')
    assert xmlrpc_face.call('add_prefix', attr=ATTR, idempotency_key='k') == first
    again = rest_face.call('add_prefix', attr=ATTR, idempotency_key='k')  # the key is the same over both faces
    assert {name: again[name] for name in first} == first
    with pytest.raises(Fault) as caught:
        rest_face.ask('POST', '/prefixes', {**ATTR, 'prefix': '10.0.1.0/24', 'idempotency_key': 'k'})
    assert (caught.value.code, caught.value.text) == (1120, 'extraneous attribute idempotency_key')


def test_values_that_xml_lacks_are_values_in_json(xmlrpc_face: XmlRpcFace, rest_face: RestFace) -> None:
    attr = {**ATTR, 'description': '\x01'}
    assert xmlrpc_face.fault('add_prefix', attr=attr).code == 1100
    assert refused(rest_face, 'POST', '/prefixes', attr) == (422, 1200)
