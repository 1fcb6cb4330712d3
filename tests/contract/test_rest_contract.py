"""The features of the REST face alone: resources, statuses, problems, tags, pages, headers."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest
from contract_faces import USERS, basic
from contract_rest import rest_application
from databases import Standing
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator, FormatChecker
from werkzeug.test import TestResponse

from nipap.access.authentication import Authenticator
from nipap.postgres.database import Database
from nipap.rest import api as flask_rest
from nipap.rest.objects import COUNTERS, RESOURCES
from nipap.rest.openapi import describe

Ask = Callable[..., TestResponse]
AUTH = {'Authorization': basic('alice', USERS['alice'][0])}


@pytest.fixture
def client(standing: Standing, sound: None, authenticator: Authenticator) -> FlaskClient:
    return rest_application(standing, authenticator, max_body=100_000).test_client()


@pytest.fixture
def ask(client: FlaskClient) -> Ask:
    """Return a function that sends a request as alice: `ask('POST', '/prefixes', {...}, Header_Name='value')`."""

    def send(method: str, path: str, body: Any = None, /, **headers: str) -> TestResponse:
        named = AUTH | {name.replace('_', '-'): value for name, value in headers.items()}
        return client.open(f'/api/v1{path}', method=method, json=body, headers=named)

    return send


def add(ask: Ask, prefix: str, **attr: Any) -> dict[str, Any]:
    answer = ask('POST', '/prefixes', {'prefix': prefix, 'type': 'reservation', 'description': 'x', **attr})
    assert answer.status_code == 201, answer.json
    return answer.json


def refused(answer: TestResponse, status: int, code: int) -> dict[str, Any]:
    """Check that an answer is a problem with this status and code, and return the problem."""
    assert (answer.status_code, answer.content_type) == (status, 'application/problem+json'), answer.data
    found: dict[str, Any] = answer.json
    assert (found['status'], found['code'], found['type']) == (status, code, 'about:blank')
    assert found['title']
    assert found['detail']
    return found


def test_the_life_of_a_prefix(ask: Ask) -> None:
    answer = ask('POST', '/prefixes', {'prefix': '2001:db8::/32', 'type': 'reservation', 'description': 'six'})
    assert answer.status_code == 201
    item = answer.json
    assert answer.headers['Location'] == f'/api/v1/prefixes/{item["id"]}'
    assert (item['total_addresses'], item['children'], item['expires']) == (str(2**96), 0, None)
    assert item['added'].endswith('Z')
    assert item['authoritative_source'] == 'nipap-rest'
    path = f'/prefixes/{item["id"]}'
    shown = ask('GET', path)
    assert (shown.status_code, shown.json, shown.headers['ETag']) == (200, item, answer.headers['ETag'])
    edited = ask('PATCH', path, {'description': 'other'})
    assert (edited.status_code, edited.json['description']) == (200, 'other')
    assert edited.headers['ETag'] != answer.headers['ETag']
    assert ask('GET', path).headers['ETag'] == edited.headers['ETag']
    listed = ask('GET', '/prefixes').json
    assert [{k: v for k, v in one.items() if k != 'match'} for one in listed['result']] == [edited.json]
    gone = ask('DELETE', path)
    assert (gone.status_code, gone.data) == (204, b'')
    refused(ask('GET', path), 404, 1300)
    refused(ask('DELETE', path), 404, 1300)
    refused(ask('PATCH', path, {'description': 'x'}), 404, 1300)


@pytest.mark.parametrize(
    ('plural', 'attr', 'key'),
    [
        ('vrfs', {'rt': '1:1', 'name': 'one'}, 'id'),
        ('pools', {'name': 'one', 'description': 'd', 'default_type': 'assignment'}, 'id'),
        ('asns', {'asn': 4200000001, 'name': 'one'}, 'asn'),
    ],
)
def test_the_life_of_other_objects(ask: Ask, plural: str, attr: dict[str, Any], key: str) -> None:
    answer = ask('POST', f'/{plural}', attr)
    item = answer.json
    path = f'/{plural}/{item[key]}'
    assert (answer.status_code, answer.headers['Location']) == (201, f'/api/v1{path}')
    assert attr.items() <= item.items()
    assert ask('GET', path).json == item
    assert item in ask('GET', f'/{plural}').json['result']
    assert ask('GET', f'/{plural}?name=one').json['result'] == [item]
    refused(ask('POST', f'/{plural}', attr), 409, 1400)
    assert ask('PATCH', path, {'name': 'two'}).json == {**item, 'name': 'two', 'version': 2}
    assert ask('DELETE', path).status_code == 204
    for method, body in (('GET', None), ('DELETE', None), ('PATCH', {'name': 'x'})):
        refused(ask(method, path, body), 404, 1300)


def test_filters_and_smart_search(ask: Ask) -> None:
    add(ask, '10.0.0.0/8', tags=['a', 'b'], avps={'k': 'v'})
    add(ask, '10.1.0.0/16', type='assignment', description='office')
    found = lambda path: [item['prefix'] for item in ask('GET', path).json['result']]  # noqa: E731
    assert found('/prefixes?type=assignment&vrf_id=0') == ['10.1.0.0/16']
    assert found('/prefixes?tags=a&tags=b') == ['10.0.0.0/8']
    assert found('/prefixes?avps.k=v') == ['10.0.0.0/8']
    assert found('/prefixes?comment=&vrf_rt=') == ['10.0.0.0/8', '10.1.0.0/16']
    answer = ask('GET', '/prefixes?q=office&type=assignment').json
    assert [item['prefix'] for item in answer['result']] == ['10.1.0.0/16']
    assert answer['interpretation']
    assert answer['error'] is False
    assert ask('GET', '/prefixes?q="&lenient=1').json['error'] is True
    query = {'operator': 'contained_within', 'val1': 'prefix', 'val2': '10.0.0.0/8'}
    assert [i['prefix'] for i in ask('POST', '/prefixes/search', {'query': query}).json['result']] == ['10.1.0.0/16']
    assert ask('POST', '/prefixes/search?type=host', {'query': query}).json['result'] == []
    tree = ask('GET', '/prefixes?type=assignment&parents_depth=-1').json['result']
    assert [(item['prefix'], item['match']) for item in tree] == [('10.0.0.0/8', False), ('10.1.0.0/16', True)]
    assert ask('GET', '/tags').json['result'] == [{'name': 'a'}, {'name': 'b'}]
    refused(ask('GET', '/prefixes?bogus=1'), 400, 1100)
    for body in (
        {'q': None},
        {'query': None},
        {'query': []},
        {'query': 'x'},
        {'q': 7},
        {'q': '', 'query': False},
        {'bogus': 1},
    ):
        refused(ask('POST', '/prefixes/search', body), 400, 1100)
    refused(ask('GET', '/prefixes?vlan=x'), 422, 1200)
    refused(ask('POST', '/prefixes/search', {'query': {'operator': '?', 'val1': 'id', 'val2': 1}}), 400, 1130)


@pytest.mark.parametrize('plural', ['vrfs', 'pools', 'prefixes', 'asns'])
def test_a_text_that_is_not_understood_is_no_empty_list(ask: Ask, plural: str) -> None:
    """Scripts take an empty list for an answer. A client that reads `error` sends `lenient`."""
    for text, part, why in (
        ('vlna=5', 'vlna=5', 'unknown attribute'),
        ('one (two vlna=5) x', 'vlna=5', 'unknown attribute'),
        ('x "one', '"one', 'unclosed quote'),
        ('(one', '(one', 'unclosed parentheses'),
        ('name~[', 'name~[', 'invalid value') if plural != 'prefixes' else ('vlan=abc', 'vlan=abc', 'invalid value'),
    ):
        for more in ('', '&lenient=0', '&name=x' if plural != 'prefixes' else '&type=host'):
            told = refused(ask('GET', f'/{plural}?{urlencode({"q": text})}{more}'), 422, 1200)
            assert refused(ask('POST', f'/{plural}/search?{more[1:]}', {'q': text}), 422, 1200) == told
            assert told['attribute'] == 'q'
            assert why in told['detail']
            assert part in told['detail']
            assert why in json.dumps(told['interpretation'])
        answer = ask('GET', f'/{plural}?{urlencode({"q": text})}&lenient=1')
        assert (answer.status_code, answer.json['error'], answer.json['result']) == (200, True, [])
        assert answer.json['interpretation'] == told['interpretation']
        assert ask('POST', f'/{plural}/search?lenient=true', {'q': text}).json == answer.json
    assert ask('GET', f'/{plural}?q=fine').json['error'] is False
    assert refused(ask('GET', f'/{plural}?q=x&lenient=perhaps'), 422, 1200)['attribute'] == 'lenient'


def test_pages(ask: Ask) -> None:
    attrs = [{'prefix': f'10.0.{n}.0/24', 'type': 'assignment', 'description': 'x'} for n in range(7)]
    operations = [{'method': 'add_prefix', 'args': {'attr': attr}} for attr in attrs]
    assert len(ask('POST', '/batch', {'operations': operations, 'return': 'ids'}).json['result']) == 7
    found = []
    path = '/prefixes?limit=3&type=assignment&fields=prefix,id'
    while path:
        answer = ask('GET', path)
        found += [item['prefix'] for item in answer.json['result']]
        assert all(item.keys() == {'prefix', 'id'} for item in answer.json['result'])
        link = answer.headers.get('Link', '')
        assert bool(link) == (answer.json['after'] is not None)
        path = link.removeprefix('</api/v1').removesuffix('>; rel="next"')
    assert found == [attr['prefix'] for attr in attrs]
    for n in range(5):
        ask('POST', '/asns', {'asn': n + 1, 'name': 'x'})
    first = ask('GET', '/asns?limit=3').json
    second = ask('GET', f'/asns?limit=3&after={first["after"]}').json
    assert [item['asn'] for item in first['result'] + second['result']] == [1, 2, 3, 4, 5]
    assert second['after'] is None
    for bad in ('limit=0', 'limit=10001', 'limit=x', 'after=x'):
        assert refused(ask('GET', f'/prefixes?{bad}'), 422, 1200)
        assert refused(ask('GET', f'/asns?{bad}'), 422, 1200)
    refused(ask('GET', '/prefixes?limit=1&limit=2'), 400, 1100)
    assert refused(ask('GET', '/prefixes?fields=bogus'), 400, 1100)['attribute'] == 'bogus'


def test_a_page_is_the_same_in_pieces(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(9):
        add(ask, f'10.{n}.0.0/16')
    whole = ask('GET', '/prefixes?limit=8')
    monkeypatch.setattr(flask_rest, '_AT_ONCE', 3)
    assert ask('GET', '/prefixes?limit=8').data == whole.data
    assert ask('GET', '/prefixes?limit=8').headers['Link'] == whole.headers['Link']
    assert ask('GET', '/vrfs?limit=8').json['after'] is None


def test_allocation(ask: Ask) -> None:
    pool = ask('POST', '/pools', {'name': 'p', 'description': 'd', 'default_type': 'assignment'}).json
    member = add(ask, '10.0.0.0/24', pool_id=pool['id'])
    path = f'/pools/{pool["id"]}'
    assert ask('GET', f'{path}/free?family=4&prefix_length=26&count=2').json == {
        'result': ['10.0.0.0/26', '10.0.0.64/26']
    }
    answer = ask('POST', f'{path}/allocations', {'family': 4, 'prefix_length': 26, 'description': 'one'})
    assert (answer.status_code, [item['prefix'] for item in answer.json['result']]) == (201, ['10.0.0.0/26'])
    assert ask('GET', answer.headers['Location'].removeprefix('/api/v1')).json == answer.json['result'][0]
    # The allocation of several blocks is all or none.
    refused(
        ask('POST', f'{path}/allocations', {'family': 4, 'prefix_length': 26, 'description': 'x', 'count': 4}),
        404,
        1300,
    )
    assert ask('GET', f'/prefixes/{member["id"]}').json['children'] == 1
    one = refused(ask('POST', f'{path}/allocations', {'family': 4, 'prefix_length': 26, 'vlan': 1}), 400, 1110)
    assert (one['detail'], 'position' in one) == ('Either description or node must be specified.', False)
    many = ask('POST', f'{path}/allocations', {'family': 4, 'prefix_length': 26, 'description': 'x', 'count': 3})
    assert [item['prefix'] for item in many.json['result']] == ['10.0.0.64/26', '10.0.0.128/26', '10.0.0.192/26']
    inner = many.json['result'][0]['id']
    got = ask('POST', f'/prefixes/{inner}/allocations', {'prefix_length': 32, 'type': 'host', 'description': 'h'})
    assert got.json['result'][0]['prefix'] == '10.0.0.65/32'
    assert ask('GET', f'/prefixes/{inner}/free?prefix_length=32').json == {'result': ['10.0.0.66']}
    for kind in ('pools', 'prefixes'):
        refused(ask('POST', f'/{kind}/99999/allocations', {'prefix_length': 32, 'family': 4}), 404, 1300)
        refused(ask('GET', f'/{kind}/99999/free?prefix_length=32'), 404, 1300)
    refused(ask('POST', f'{path}/allocations', {'family': 4, 'description': 'x', 'count': 1001}), 422, 1200)
    refused(ask('POST', f'{path}/allocations', {'family': 5, 'description': 'x'}), 422, 1200)


def test_an_allocation_in_another_vrf(ask: Ask) -> None:
    vrf = ask('POST', '/vrfs', {'rt': '1:1', 'name': 'v'}).json
    source = add(ask, '10.0.0.0/24', vrf_id=vrf['id'])
    got = ask(
        'POST',
        f'/prefixes/{source["id"]}/allocations',
        {'prefix_length': 26, 'type': 'assignment', 'node': None, 'description': 'x'},
    )
    assert [(item['prefix'], item['vrf_rt']) for item in got.json['result']] == [('10.0.0.0/26', '1:1')]
    assert ask('GET', f'/prefixes/{source["id"]}/free?prefix_length=26').json == {'result': ['10.0.0.64/26']}


def test_an_allocation_that_names_another_vrf(ask: Ask) -> None:
    """The path determines the VRF. A body may repeat it."""
    vrf = ask('POST', '/vrfs', {'rt': '1:1', 'name': 'v'}).json
    other = ask('POST', '/vrfs', {'rt': '1:2', 'name': 'w'}).json
    pool = ask('POST', '/pools', {'name': 'p', 'description': 'd', 'default_type': 'assignment'}).json
    source = add(ask, '10.0.0.0/16', vrf_id=vrf['id'], pool_id=pool['id'])
    bodies = {
        f'/pools/{pool["id"]}': {'family': 4, 'prefix_length': 26, 'description': 'd'},
        f'/prefixes/{source["id"]}': {'prefix_length': 26, 'type': 'assignment', 'description': 'd'},
    }
    for path, body in bodies.items():
        for named in (
            {'vrf_id': 99999},
            {'vrf_id': 0},
            {'vrf_id': other['id']},
            {'vrf_rt': '1:2'},
            {'vrf_rt': '9:9'},
            {'vrf_name': 'w'},
            {'vrf_name': 'default'},
            {'vrf_id': vrf['id'], 'vrf_name': 'w'},
        ):
            for more in ({}, {'count': 2}):
                told = refused(ask('POST', f'{path}/allocations', {**body, **named, **more}), 422, 1200)
                assert told['attribute'] == list(named)[-1]
                assert 'is in the VRF with' in told['detail']
                key = f'{path} {named} {more}'
                refused(ask('POST', f'{path}/allocations', {**body, **named, **more}, Idempotency_Key=key), 422, 1200)
        assert refused(ask('POST', f'{path}/allocations', {**body, 'vrf_id': 'x'}), 422, 1200)['attribute'] == 'vrf_id'
        assert ask('GET', f'/prefixes/{source["id"]}').json['children'] == 0
    for path, body in bodies.items():
        for named in (
            {'vrf_id': vrf['id']},
            {'vrf_id': str(vrf['id']), 'vrf_rt': ' 01:1', 'vrf_name': ' v'},
            {'vrf_id': None, 'vrf_rt': None, 'vrf_name': None},
        ):
            answer = ask('POST', f'{path}/allocations', {**body, **named})
            assert (answer.status_code, answer.json['result'][0]['vrf_id']) == (201, vrf['id'])
    # The VRF is a part of the call that a key stands for.
    path, body = f'/prefixes/{source["id"]}/allocations', bodies[f'/prefixes/{source["id"]}']
    assert ask('POST', path, body, Idempotency_Key='k').status_code == 201
    refused(ask('POST', path, {**body, 'vrf_id': other['id']}, Idempotency_Key='k'), 422, 1410)


@pytest.mark.parametrize('plural', ['vrfs', 'pools', 'prefixes', 'asns'])
def test_a_body_that_names_another_object_than_the_path(ask: Ask, plural: str) -> None:
    ask('POST', '/vrfs', {'rt': '1:1', 'name': 'v'})
    ask('POST', '/pools', {'name': 'p', 'description': 'd', 'default_type': 'assignment'})
    ask('POST', '/asns', {'asn': 7, 'name': 'x'})
    add(ask, '10.0.0.0/16')
    key = 'asn' if plural == 'asns' else 'id'
    item = ask('GET', f'/{plural}').json['result'][-1]
    changed = {'description': 'y'} if plural == 'prefixes' else {'name': 'y'}
    told = refused(ask('PATCH', f'/{plural}/{item[key]}', {key: 999, **changed}), 400, 1120)
    assert told['attribute'] == key
    assert ask('GET', f'/{plural}').json['result'][-1] == item


def test_notations_of_as_numbers(ask: Ask) -> None:
    """Paths take the same notations as values, for AS numbers only."""
    item = ask('POST', '/asns', {'asn': 'AS1.10', 'name': 'x'}).json
    assert item['asn'] == 65546
    for written in ('65546', 'AS65546', 'as65546', '1.10', 'AS1.10', 'as01.010'):
        answer = ask('GET', f'/asns/{written}')
        assert (answer.status_code, answer.json) == (200, item), written
        edited = ask('PATCH', f'/asns/{written}', {'name': written}).json
        assert edited == {'asn': 65546, 'name': written, 'version': 2}
        item = ask('GET', '/asns/65546').json
        assert ask('GET', f'/asns?asn={written}').json['result'] == [item]
        refused(ask('POST', '/asns', {'asn': written, 'name': 'y'}), 409, 1400)
        assert ask('DELETE', f'/asns/{written}').status_code == 204
        made = ask('POST', '/asns', {'asn': written, 'name': 'x'})
        assert made.headers['Location'] == '/api/v1/asns/65546'
        item = made.json
    for written in ('AS', 'ASx', 'AS1.', '70000.1', '1.70000', 'AS1.2.3', 'AS99999999999', 'AS-1', '1.2.3.4', 'A1'):
        told = refused(ask('GET', f'/asns/{written}'), 404, 1300)
        assert 'There is no asn' not in told['detail'], written  # the path does not exist
    refused(ask('GET', '/asns/AS64499'), 404, 1300)
    refused(ask('GET', '/asns/AS4294967296'), 422, 1200)
    for plural in ('vrfs', 'pools', 'prefixes', 'webhooks'):
        for written in ('AS0', '0.0', 'AS1'):
            for method in ('GET', 'DELETE'):
                refused(ask(method, f'/{plural}/{written}'), 404, 1300)


@pytest.mark.parametrize(
    ('text', 'fine'),
    [
        *[(text, True) for text in ('ticket 7', 'Größe', 'växel i Malmö', '日本語', 'за́явка', '€', '~')],
        *[
            (text, False)
            for text in ('a\tb', 'a\x7fb', 'a\u0085b', 'a\u00a0b', 'a\u00adb', 'a\u2028b', 'a\u200bb', '\ufeffa')
        ],
    ],
)
def test_reasons_and_groups_are_described_as_they_are_taken(ask: Ask, text: str, fine: bool) -> None:
    """Both are printable texts in UTF-8."""
    parameters = describe('/api/v1')['components']['parameters']
    for number, (name, part) in enumerate((('NIPAP-Reason', 'Reason'), ('NIPAP-Group', 'Group'))):
        assert Draft202012Validator(parameters[part]['schema']).is_valid(text) == fine
        sent = {name: text.encode().decode('latin-1')}
        answer = ask('POST', '/asns', {'asn': number + 1, 'name': 'x'}, **sent)
        assert (answer.status_code == 201) == fine, answer.data


def test_a_vrf_with_prefixes_is_removed_with_them_when_that_is_said(ask: Ask) -> None:
    vrf = ask('POST', '/vrfs', {'rt': '1:1', 'name': 'v'}).json
    path, by_name = f'/vrfs/{vrf["id"]}', {'vrf': {'name': 'v'}}
    add(ask, '10.0.0.0/8', vrf_id=vrf['id'])

    def in_batch(**args: Any) -> TestResponse:
        return ask('POST', '/batch', {'operations': [{'method': 'remove_vrf', 'args': {**by_name, **args}}]})

    for query in ('', '?recursive=false', '?recursive=0'):
        told = refused(ask('DELETE', path + query), 422, 1200)
        assert (told['attribute'], "VRF 'v' contains prefixes" in told['detail']) == ('recursive', True)
        refused(ask('DELETE', path + query, None, If_Match=ask('GET', path).headers['ETag']), 422, 1200)
        refused(ask('DELETE', path + query, None, Idempotency_Key='k'), 422, 1200)
    for args in ({}, {'recursive': None}, {'recursive': False}):
        assert refused(in_batch(**args), 422, 1200)['position'] == 0
    assert refused(ask('DELETE', f'{path}?recursive=x'), 422, 1200)['attribute'] == 'recursive'
    assert [item['prefix'] for item in ask('GET', f'/prefixes?vrf_id={vrf["id"]}').json['result']] == ['10.0.0.0/8']
    assert ask('DELETE', f'{path}?recursive=true').status_code == 204
    assert ask('GET', '/prefixes').json['result'] == []
    # The removal of an empty VRF needs no `recursive`.
    path = f'/vrfs/{ask("POST", "/vrfs", {"rt": "1:1", "name": "v"}).json["id"]}'
    assert ask('DELETE', path).status_code == 204
    vrf = ask('POST', '/vrfs', {'rt': '1:1', 'name': 'v'}).json
    assert in_batch().status_code == 200
    vrf = ask('POST', '/vrfs', {'rt': '1:1', 'name': 'v'}).json
    add(ask, '10.0.0.0/8', vrf_id=vrf['id'])
    assert in_batch(recursive=True).status_code == 200
    assert ask('GET', '/prefixes').json['result'] == []


def test_tags_of_objects(ask: Ask) -> None:
    item = add(ask, '10.0.0.0/8')
    path = f'/prefixes/{item["id"]}'
    tag = ask('GET', path).headers['ETag']
    assert ask('GET', path, If_None_Match=tag).status_code == 304
    assert ask('GET', path, If_None_Match='"other"').status_code == 200
    refused(ask('PATCH', path, {'description': 'y'}, If_Match='"other"'), 412, 1600)
    refused(ask('DELETE', path, None, If_Match='"other"'), 412, 1600)
    assert ask('GET', path).json == item
    edited = ask('PATCH', path, {'description': 'y'}, If_Match=f'"other", {tag}')
    assert edited.json['description'] == 'y'
    refused(ask('PATCH', path, {'description': 'z'}, If_Match=tag), 412, 1600)
    assert ask('PATCH', path, {'description': 'z'}, If_Match='*').status_code == 200
    refused(ask('PATCH', '/prefixes/99999', {'description': 'z'}, If_Match='*'), 404, 1300)
    refused(ask('DELETE', path, None, If_Match=edited.headers['ETag']), 412, 1600)
    assert ask('DELETE', path, None, If_Match=ask('GET', path).headers['ETag']).status_code == 204
    vrfs = ask('GET', '/vrfs')
    assert ask('GET', '/vrfs', If_None_Match=vrfs.headers['ETag']).status_code == 304


def test_an_allocation_inside_a_prefix_is_no_edit_of_it(ask: Ask) -> None:
    path = f'/prefixes/{add(ask, "10.0.0.0/24")["id"]}'
    before = ask('GET', path).headers['ETag']
    add(ask, '10.0.0.0/26')
    assert ask('GET', path, If_None_Match=before).json['used_addresses'] == '64'
    assert ask('PATCH', path, {'description': 'y'}, If_Match=before).status_code == 200
    refused(ask('PATCH', path, {'description': 'z'}, If_Match=before), 412, 1600)


@pytest.mark.parametrize(
    ('plural', 'attr'),
    [
        ('vrfs', {'rt': '1:1', 'name': 'one'}),
        ('pools', {'name': 'one', 'description': 'd', 'default_type': 'assignment'}),
        ('asns', {'asn': 1, 'name': 'one'}),
    ],
)
def test_tags_of_what_is_no_prefix(ask: Ask, plural: str, attr: dict[str, Any]) -> None:
    added = ask('POST', f'/{plural}', attr)
    path = added.headers['Location'].removeprefix('/api/v1')
    edited = ask('PATCH', path, {'name': 'two'}, If_Match=added.headers['ETag'])
    assert edited.status_code == 200
    refused(ask('PATCH', path, {'name': 'three'}, If_Match=added.headers['ETag']), 412, 1600)
    refused(ask('DELETE', path, None, If_Match=added.headers['ETag']), 412, 1600)
    assert ask('DELETE', path, None, If_Match=edited.headers['ETag']).status_code == 204


def test_idempotency_keys(ask: Ask) -> None:
    attr = {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'x'}
    first = ask('POST', '/prefixes', attr, Idempotency_Key='k1')
    again = ask('POST', '/prefixes', attr, Idempotency_Key='"k1"')
    assert (again.status_code, again.data, again.headers['Location']) == (201, first.data, first.headers['Location'])
    assert again.headers['ETag'] == first.headers['ETag']
    refused(ask('POST', '/prefixes', {**attr, 'description': 'y'}, Idempotency_Key='k1'), 422, 1410)
    path = first.headers['Location'].removeprefix('/api/v1')
    tag = first.headers['ETag']
    # The expectation held when the change was made, and the change is made once.
    for _ in range(2):
        assert ask('PATCH', path, {'description': 'z'}, Idempotency_Key='k2', If_Match=tag).status_code == 200
    refused(ask('PATCH', path, {'description': 'z'}, Idempotency_Key='k3', If_Match=tag), 412, 1600)
    for _ in range(2):
        assert ask('DELETE', path, None, Idempotency_Key='k4').status_code == 204
    pool = ask('POST', '/pools', {'name': 'p', 'description': 'd', 'default_type': 'assignment'}).json
    source = add(ask, '10.0.0.0/24', pool_id=pool['id'])
    for kind, number in (('pools', pool['id']), ('prefixes', source['id'])):
        body = {'prefix_length': 30, 'type': 'assignment', 'description': 'x', 'count': 2}
        if kind == 'pools':
            body['family'] = 4
        answers = [ask('POST', f'/{kind}/{number}/allocations', body, Idempotency_Key=f'a{kind}') for _ in range(2)]
        assert answers[0].status_code == 201
        assert answers[0].data == answers[1].data


def test_a_change_with_an_unknown_field_is_refused(ask: Ask) -> None:
    attr = {'asn': 7, 'name': 'seven'}
    refused(ask('POST', '/asns?fields=nothing', attr), 400, 1100)
    assert ask('POST', '/asns?fields=name', attr).json == {'name': 'seven'}
    refused(ask('PATCH', '/asns/7?fields=nothing', {'name': 'edited'}), 400, 1100)
    assert ask('GET', '/asns/7?fields=name').json == {'name': 'seven'}


def test_an_edit_of_a_missing_object_is_not_remembered(ask: Ask) -> None:
    send = lambda: ask('PATCH', '/asns/7', {'name': 'edited'}, Idempotency_Key='k')  # noqa: E731
    refused(send(), 404, 1300)
    assert ask('POST', '/asns', {'asn': 7, 'name': 'added'}).status_code == 201
    assert send().json['name'] == 'edited'


def test_credentials_and_rights(client: FlaskClient, ask: Ask, db: Database) -> None:
    for headers in ({}, {'Authorization': 'Digest x'}):
        answer = client.get('/api/v1/vrfs', headers=headers)
        refused(answer, 401, 1500)
        assert [value.split()[0] for value in answer.headers.getlist('WWW-Authenticate')] == ['Basic', 'Bearer']
    refused(client.get('/api/v1/vrfs', headers={'Authorization': basic('alice', 'wrong')}), 401, 1510)
    readonly = {'Authorization': basic('readonly', USERS['readonly'][0])}
    assert client.get('/api/v1/vrfs', headers=readonly).status_code == 200
    refused(client.post('/api/v1/vrfs', headers=readonly, json={}), 403, 1520)
    refused(client.delete('/api/v1/vrfs/5', headers=readonly | {'If-Match': '*'}), 403, 1520)
    gateway = {
        'Authorization': basic('gateway', USERS['gateway'][0]),
        'NIPAP-Username': 'eve',
        'NIPAP-Full-Name': 'Ève'.encode().decode('latin-1'),
        'NIPAP-Authoritative-Source': 'web',
    }
    assert client.post('/api/v1/asns', headers=gateway, json={'asn': 1, 'name': 'x'}).status_code == 201
    entry = db.run(
        lambda tx: tx.one('SELECT username, authenticated_as, full_name, authoritative_source FROM audit_log')
    )
    assert entry == ('eve', 'gateway', 'Ève', 'web')
    refused(client.post('/api/v1/asns', headers=gateway | {'NIPAP-Read-Only': 'yes'}, json={'asn': 2}), 403, 1520)


@pytest.mark.parametrize(
    ('method', 'path', 'status', 'code'),
    [
        ('GET', '/bogus', 404, 1300),
        ('GET', '', 404, 1300),
        ('GET', '/prefixes/abc', 404, 1300),
        ('GET', '/prefixes/-1', 404, 1300),
        ('GET', '/prefixes/' + '9' * 18, 404, 1300),
        ('GET', '/vrfs/' + '9' * 18, 404, 1300),
        ('DELETE', '/vrfs/' + '9' * 18, 404, 1300),
        ('DELETE', '/pools/' + '9' * 18, 404, 1300),
        ('GET', '/prefixes/' + '9' * 5000, 404, 1300),
        ('PUT', '/prefixes', 405, 1100),
        ('POST', '/prefixes/1', 405, 1100),
        ('POST', '/tags', 405, 1100),
        ('PATCH', '/prefixes/search', 405, 1100),
        ('GET', '/prefixes/search', 405, 1100),
        ('DELETE', '/vrfs/0', 422, 1200),
    ],
)
def test_paths_and_methods(ask: Ask, method: str, path: str, status: int, code: int) -> None:
    answer = ask(method, path)
    refused(answer, status, code)
    assert ('Allow' in answer.headers) == (status == 405)


@pytest.mark.parametrize('plural', ['vrfs', 'pools', 'prefixes'])
@pytest.mark.parametrize('key', [2**31 - 1, 2**31, 2**32, 10**18 - 1])
def test_a_condition_on_what_no_column_can_number(client: FlaskClient, plural: str, key: int) -> None:
    for method, body in (('DELETE', None), ('PATCH', {'description': 'x'})):
        answer = client.open(f'/api/v1/{plural}/{key}', method=method, json=body, headers=AUTH | {'If-Match': '*'})
        refused(answer, 404, 1300)


@pytest.mark.parametrize('path', ['/prefixes', '/vrfs', '/pools', '/asns', '/batch', '/prefixes/search'])
def test_bodies_that_are_none(client: FlaskClient, path: str) -> None:
    def sent(body: bytes, **headers: str) -> TestResponse:
        named = {'Content-Type': 'application/json', **{name.replace('_', '-'): v for name, v in headers.items()}}
        return client.post(f'/api/v1{path}', data=body, headers=AUTH | named)

    for body in (b'', b'{', b'\xff', b'"\\ud800"', b'[' * 5000, b'NaN', b'[]', b'7', b'null', b'"x"'):
        refused(sent(body), 400, 1100)
    refused(sent(b'{}', Content_Type='text/xml'), 415, 1100)
    refused(sent(b'{}', Content_Encoding='br'), 415, 1100)
    refused(sent(b' ' * 100_001), 413, 1100)
    refused(sent(gzip.compress(b' ' * 100_001), Content_Encoding='gzip'), 413, 1100)
    refused(sent(b'{}', Content_Encoding='gzip'), 400, 1100)


def test_problems_name_the_attribute(ask: Ask) -> None:
    attr = {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'x'}
    for name, value, status, code in (
        ('vlan', 5000, 422, 1200),
        ('type', 'bogus', 422, 1200),
        ('prefix', 'garbage', 422, 1200),
        ('bogus', 1, 400, 1120),
        ('tags', 'x', 422, 1200),
    ):
        assert refused(ask('POST', '/prefixes', {**attr, name: value}), status, code)['attribute'] == name
    assert refused(ask('POST', '/vrfs', {'rt': '1:1'}), 400, 1110)['attribute'] == 'name'
    assert refused(ask('GET', '/prefixes?bogus=1'), 400, 1100)['attribute'] == 'bogus'
    assert refused(ask('GET', '/prefixes?vlan=x'), 422, 1200)['attribute'] == 'vlan'
    bad = refused(
        ask('POST', '/batch', {'operations': [{'method': 'version'}, {'method': 'add_asn', 'args': {'attr': {}}}]}),
        400,
        1110,
    )
    assert (bad['position'], bad['attribute']) == (1, 'asn')


def test_a_refusal_of_the_database_names_the_attribute(ask: Ask) -> None:
    """Duplicates, wrong nesting and missing objects name the attribute, also for one operation among many."""
    ask('POST', '/vrfs', {'rt': '1:1', 'name': 'v'})
    ask('POST', '/pools', {'name': 'p', 'description': 'd', 'default_type': 'assignment'})
    ask('POST', '/asns', {'asn': 1, 'name': 'x'})
    for plural, attr, status, code, name in (
        ('vrfs', {'rt': '1:1', 'name': 'w'}, 409, 1400, 'rt'),
        ('vrfs', {'rt': '1:2', 'name': 'V'}, 409, 1400, 'name'),
        ('pools', {'name': 'P', 'description': 'd', 'default_type': 'host'}, 409, 1400, 'name'),
        ('asns', {'asn': 1, 'name': 'y'}, 409, 1400, 'asn'),
        ('asns', {'asn': 'x', 'name': 'y'}, 422, 1200, 'asn'),
    ):
        assert refused(ask('POST', f'/{plural}', attr), status, code)['attribute'] == name, attr
    top, low = add(ask, '10.0.0.0/8'), add(ask, '10.0.0.0/24', type='assignment')
    attr = {'prefix': '10.0.1.0/24', 'type': 'assignment', 'description': 'x'}
    fine = {'method': 'add_prefix', 'args': {'attr': {**attr, 'prefix': '192.0.2.0/24'}}}
    for changed, status, code, name in (
        ({'prefix': '10.0.0.0/24'}, 409, 1400, 'prefix'),
        ({'prefix': '10.0.0.0/28'}, 422, 1200, 'type'),
        ({'prefix': '10.1.0.1/32', 'type': 'host'}, 422, 1200, 'type'),
        ({'node': 'n'}, 422, 1200, 'node'),
        ({'country': 'SWE'}, 422, 1200, 'country'),
        ({'type': None}, 422, 1200, 'type'),
        ({'vrf_id': 99}, 404, 1300, 'vrf_id'),
        ({'vrf_rt': '9:9'}, 404, 1300, 'vrf_rt'),
        ({'pool_id': 99}, 400, 1100, 'pool_id'),
        ({'pool_name': 'nope'}, 400, 1100, 'pool_name'),
    ):
        sent = {**attr, **changed}
        assert refused(ask('POST', '/prefixes', sent), status, code)['attribute'] == name, changed
        operations = [fine, {'method': 'add_prefix', 'args': {'attr': sent}}]
        told = refused(ask('POST', '/batch', {'operations': operations}), status, code)
        assert (told['position'], told['attribute']) == (1, name), changed
    assert refused(ask('PATCH', f'/prefixes/{top["id"]}', {'type': 'assignment'}), 422, 1200)['attribute'] == 'type'
    assert refused(ask('PATCH', f'/prefixes/{low["id"]}', {'vrf_name': 'v'}), 422, 1200)['attribute'] == 'vrf_name'
    assert refused(ask('PATCH', '/vrfs/0', {'rt': '1:3'}), 400, 1000)['attribute'] == 'rt'


def test_a_refused_allocation_names_the_attribute(ask: Ask) -> None:
    pool = ask('POST', '/pools', {'name': 'p', 'description': 'd', 'default_type': 'assignment'}).json
    source = add(ask, '10.0.0.0/24', pool_id=pool['id'])
    fixed = {'description': 'x', 'type': 'assignment'}
    for path, body, status, code, name in (
        (f'/pools/{pool["id"]}', {}, 400, 1110, 'family'),
        (f'/pools/{pool["id"]}', {'family': 5}, 422, 1200, 'family'),
        (f'/pools/{pool["id"]}', {'family': 6}, 400, 1100, 'family'),
        (f'/pools/{pool["id"]}', {'family': 4}, 400, 1110, 'prefix_length'),
        (f'/pools/{pool["id"]}', {'family': 4, 'prefix_length': 33}, 422, 1200, 'prefix_length'),
        (f'/pools/{pool["id"]}', {'family': 4, 'prefix_length': 30, 'count': 'x'}, 422, 1200, 'count'),
        (f'/prefixes/{source["id"]}', {}, 400, 1110, 'prefix_length'),
        (f'/prefixes/{source["id"]}', {'prefix_length': 'x'}, 422, 1200, 'prefix_length'),
        (f'/prefixes/{source["id"]}', {'prefix_length': 30, 'family': 4}, 400, 1120, 'family'),
    ):
        code_of_free = 1100 if code == 1120 else code  # a search inside a prefix has no such parameter
        told = refused(ask('POST', f'{path}/allocations', {**fixed, **body}), status, code)
        assert (told['attribute'], 'operation' in told['detail'], 'position' in told) == (name, False, False), body
        assert refused(ask('GET', f'{path}/free?{urlencode(body)}'), status, code_of_free)['attribute'] == name, body


@pytest.mark.parametrize('plural', ['vrfs', 'pools', 'prefixes', 'asns'])
def test_every_attribute_is_a_filter(ask: Ask, plural: str) -> None:
    """The shown value finds the object. An empty value finds the objects without a value."""
    vrf = ask('POST', '/vrfs', {'rt': '1:1', 'name': 'v', 'description': 'd', 'tags': ['t', 'u']}).json
    lengths = {'ipv4_default_prefix_length': 26, 'ipv6_default_prefix_length': 64}
    pool = {'name': 'p', 'description': 'd', 'default_type': 'assignment', 'tags': ['t'], **lengths}
    number = ask('POST', '/pools', pool).json['id']
    top = add(ask, '10.0.0.0/16', vrf_id=vrf['id'], pool_id=number, tags=['t'])
    low = add(ask, '10.0.0.0/24', type='assignment', vrf_id=vrf['id'], tags=['u'], **EVERYTHING)
    add(ask, '2001:db8::/48', vrf_id=vrf['id'], pool_id=number)
    ask('POST', '/asns', {'asn': 4200000001, 'name': 'x'})
    key = {'vrfs': vrf['id'], 'pools': number, 'asns': 4200000001}
    unset = set()
    for place in [low['id'], top['id']] if plural == 'prefixes' else [key[plural]]:
        item = ask('GET', f'/{plural}/{place}').json
        for name, value in item.items():
            if name == 'avps':
                continue
            one = value[0] if isinstance(value, list) and value else None if value == [] else value
            if one is None:
                unset.add(name)
            text = '' if one is None else str(one).lower() if isinstance(one, bool) else one
            answer = ask('GET', f'/{plural}?{urlencode({name: text})}')
            assert answer.status_code == 200, (name, text, answer.json)
            found = [{k: v for k, v in other.items() if k != 'match'} for other in answer.json['result']]
            assert item in found, (name, text)
        assert item.keys() == next(resource.table for resource in RESOURCES if resource.plural == plural).keys()
    assert unset <= UNSET


EVERYTHING = {
    'status': 'reserved',
    'comment': 'c',
    'country': 'SE',
    'order_id': 'o',
    'customer_id': 'c',
    'external_key': 'e',
    'alarm_priority': 'high',
    'monitor': True,
    'vlan': 7,
    'expires': '2031-05-06T07:08:09Z',
}
UNSET = {'node', 'pool_id', 'pool_name', 'inherited_tags', *EVERYTHING} - {'status'}


def test_counters_are_texts_whatever_their_size(ask: Ask) -> None:
    """The bytes of an answer already have texts, so that no parser reads them as numbers."""
    pool = {'name': 'p', 'description': 'd', 'default_type': 'assignment'}
    lengths = {'ipv4_default_prefix_length': 32, 'ipv6_default_prefix_length': 128}
    number = ask('POST', '/pools', pool | lengths).json['id']
    empty = ask('GET', f'/pools/{number}').json
    most = add(ask, '::/0', pool_id=number)
    add(ask, '0.0.0.0/0', pool_id=number)
    full = ask('GET', f'/pools/{number}').json
    batch = [{'method': f'list_{kind}', 'args': {}} for kind in ('pool', 'prefix', 'vrf')]
    batch += [{'method': 'search_vrf', 'args': {'query': {}}}, {'method': 'add_prefix', 'args': {'attr': A_HOST}}]
    answers = ask('POST', '/batch', {'operations': batch, 'return': 'all'}).json['result']
    (vrf,) = ask('GET', '/vrfs').json['result']
    listed = [*answers[0], *answers[1], *answers[2], *answers[3]['result'], answers[4]]
    for item in (empty, most, full, vrf, *listed):
        counted = {name: value for name, value in item.items() if name in COUNTERS}
        assert counted
        assert {name: value for name, value in counted.items() if not isinstance(value, str | None)} == {}
    assert {name for item in (most, full, vrf) for name in item} >= COUNTERS
    assert (full['total_addresses_v6'], full['free_prefixes_v6'], empty['total_addresses_v6']) == (HUGE, HUGE, '0')
    assert (most['total_addresses'], most['used_addresses'], vrf['total_addresses_v6']) == (HUGE, '0', HUGE)
    assert empty['free_prefixes_v6'] is None
    plain = ask('GET', f'/prefixes/{most["id"]}').json
    assert {type(plain[name]) for name in ('id', 'vrf_id', 'family', 'prefix_length', 'indent', 'children')} == {int}


HUGE = str(2**128)
A_HOST = {'prefix': '10.0.0.0/24', 'type': 'assignment', 'description': 'x'}


def test_gzip_when_accepted(ask: Ask) -> None:
    for n in range(5):
        add(ask, f'10.{n}.0.0/16')
    plain, packed = ask('GET', '/prefixes'), ask('GET', '/prefixes', Accept_Encoding='gzip')
    assert packed.headers['Content-Encoding'] == 'gzip'
    assert gzip.decompress(packed.data) == plain.data
    assert packed.headers['ETag'] != plain.headers['ETag']
    assert ask('GET', '/prefixes', Accept_Encoding='gzip', If_None_Match=packed.headers['ETag']).status_code == 304


def test_head_is_get_without_its_body(ask: Ask) -> None:
    path = f'/prefixes/{add(ask, "10.0.0.0/8")["id"]}'
    for one in (path, '/prefixes', '/vrfs?limit=1'):
        head, get = ask('HEAD', one), ask('GET', one)
        assert (head.status_code, head.data) == (200, b'')
        assert dict(head.headers) == dict(get.headers)


def test_an_empty_tag_is_that_of_nothing(ask: Ask) -> None:
    path = f'/prefixes/{add(ask, "10.0.0.0/8")["id"]}'
    for tags in ('""', '"other", ""'):
        refused(ask('PATCH', path, {'comment': 'x'}, If_Match=tags), 412, 1600)
        refused(ask('DELETE', path, If_Match=tags), 412, 1600)


def test_a_tag_of_a_compressed_answer_is_one(ask: Ask) -> None:
    item = add(ask, '10.0.0.0/8', comment='x' * 3000)
    path = f'/prefixes/{item["id"]}'
    packed = ask('GET', path, Accept_Encoding='gzip')
    assert json.loads(gzip.decompress(packed.data)) == item
    assert ask('PATCH', path, {'comment': None}, If_Match=packed.headers['ETag']).status_code == 200


def test_answers_are_as_described(ask: Ask) -> None:
    """Each answer, and each request body, has the form of the description."""
    description = describe('/api/v1')

    def check_form(value: Any, schema: dict[str, Any]) -> None:
        whole = {**schema, 'components': description['components']}
        found = list(Draft202012Validator(whole, format_checker=FormatChecker()).iter_errors(value))
        assert not found, found

    def exchange(method: str, path: str, body: Any = None, status: int = 200, query: str = '', **parts: int) -> Any:
        operation = description['paths'][path][method.lower()]
        if body is not None:
            check_form(body, operation['requestBody']['content']['application/json']['schema'])
        answer = ask(method, path.format(**parts) + query, body)
        assert answer.status_code == status, (method, path, answer.json)
        told = operation['responses'][str(answer.status_code)]
        if '$ref' in told:
            told = description['components']['responses'][told['$ref'].rpartition('/')[2]]
        if answer.status_code != 204:
            check_form(answer.json, told['content'][answer.mimetype]['schema'])
        return answer.json

    vrf = exchange('POST', '/vrfs', {'rt': '1:1', 'name': 'v', 'tags': ['t'], 'avps': {'a': 'b'}}, 201)
    pool = exchange('POST', '/pools', {'name': 'p', 'description': 'd', 'default_type': 'assignment'}, 201)
    asn = exchange('POST', '/asns', {'asn': 4200000001, 'name': 'x'}, 201)
    attr = {'prefix': '2001:db8::/32', 'type': 'reservation', 'pool_id': pool['id'], 'vrf_id': vrf['id']}
    prefix = exchange('POST', '/prefixes', {**attr, 'description': 'd', 'expires': 'tomorrow'}, 201)
    wanted = {'prefix_length': 64, 'description': 'x'}
    exchange('POST', '/pools/{key}/allocations', {'family': 6, **wanted}, 201, key=pool['id'])
    exchange('POST', '/prefixes/{key}/allocations', {'type': 'assignment', **wanted}, 201, key=prefix['id'])
    exchange('POST', '/prefixes/{key}/allocations', {'type': 'host', **wanted}, 422, key=prefix['id'])
    methods = {'list_pool': {}, 'list_prefix': {}, 'search_vrf': {'query': {}}, 'search_tag': {'query': {}}}
    operations = [{'method': name, 'args': args} for name, args in methods.items()]
    exchange('POST', '/batch', {'operations': operations, 'return': 'all'})
    for plural, number in (
        ('vrfs', vrf['id']),
        ('pools', pool['id']),
        ('asns', asn['asn']),
        ('prefixes', prefix['id']),
    ):
        changed = {'vlan': None, 'comment': 'c'} if plural == 'prefixes' else {'name': 'new'}
        exchange('GET', f'/{plural}/{{key}}', key=number)
        exchange('GET', f'/{plural}/{{key}}', None, 404, key=99999)
        exchange('GET', f'/{plural}')
        exchange('POST', f'/{plural}/search', {'q': 'x', 'query': {}})
        exchange('PATCH', f'/{plural}/{{key}}', changed, key=number)
        exchange('PATCH', f'/{plural}/{{key}}', changed, 404, key=99999)
    for plural in ('pools', 'prefixes'):
        looked = {'pools': pool, 'prefixes': prefix}[plural]['id']
        exchange('GET', f'/{plural}/{{key}}/free', None, 400, key=looked)
    exchange('GET', '/tags')
    exchange('GET', '/version')
    for plural, number in (
        ('asns', asn['asn']),
        ('prefixes', prefix['id']),
        ('pools', pool['id']),
        ('vrfs', vrf['id']),
    ):
        exchange('DELETE', f'/{plural}/{{key}}', None, 204, '?recursive=true' if plural == 'vrfs' else '', key=number)
        exchange('DELETE', f'/{plural}/{{key}}', None, 404, key=number)
