"""Each scenario gives the same results and the same codes over the Backend, over XML-RPC and over REST."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from contract_clients import CallsClient, Client, RestClient, equal
from contract_faces import USERS, basic
from databases import Standing

from nipap.access.authentication import Authenticator
from nipap.attributes import ASN, POOL, PREFIX, VRF
from nipap.backend import Backend
from nipap.flask_xmlrpc import create_app
from nipap.postgres.database import Database
from nipap.rest import api as flask_rest

AnyClient = CallsClient | RestClient


@pytest.fixture
def rest_client(standing: Standing, sound: None, authenticator: Authenticator) -> RestClient:
    if 'all' not in standing.applications:
        backend = Backend(standing.db)
        standing.applications['all'] = create_app(backend, authenticator)
        flask_rest.add_to(standing.applications['all'], backend, authenticator)
    client = standing.applications['all'].test_client()

    def request(method: str, path: str, body: Any, headers: Mapping[str, str]) -> tuple[int, Any]:
        named = {'NIPAP-Authoritative-Source': 'nipap', **headers}
        user = named.pop('user', 'alice')
        sent = named | {'Authorization': basic(user, USERS[user][0])}
        with client.open(f'/api/v1{path}', method=method, json=body, headers=sent) as answer:
            return answer.status_code, answer.get_json(silent=True)

    return RestClient(request)


@pytest.fixture(
    params=[
        'backend_face',
        pytest.param('xmlrpc_face', marks=pytest.mark.slow),
        pytest.param('rest_client', marks=pytest.mark.slow),
    ]
)
def client(request: pytest.FixtureRequest) -> AnyClient:
    found = request.getfixturevalue(request.param)
    return found if isinstance(found, RestClient) else CallsClient(found)


def reservation(client: Client, prefix: str, **attr: Any) -> dict[str, Any]:
    return client.add('prefix', **{'prefix': prefix, 'type': 'reservation', 'description': 'x', **attr})


def names(items: list[dict[str, Any]]) -> list[str]:
    return [item['prefix'] for item in items]


EVERY_ATTRIBUTE = {
    'prefix': '10.0.0.0/24',
    'type': 'assignment',
    'status': 'reserved',
    'description': 'd',
    'comment': 'a\nb',
    'tags': ['b', 'a', 'b'],
    'avps': {'k': 'å<&>'},
    'country': 'se',
    'order_id': 'o',
    'customer_id': 'c',
    'external_key': 'e',
    'alarm_priority': 'high',
    'monitor': True,
    'vlan': 7,
    'expires': '2031-05-06T07:08:09+02:00',
}


def test_a_prefix_with_everything(client: AnyClient) -> None:
    item = client.add('prefix', **EVERY_ATTRIBUTE)
    for name, value in EVERY_ATTRIBUTE.items():
        if name not in ('expires', 'country'):
            assert item[name] == value, name
    assert item['country'] == 'SE'
    assert item['expires'].isoformat() == '2031-05-06T05:08:09+00:00'
    assert item['authoritative_source'] == 'nipap'
    assert (item['family'], item['prefix_length'], item['indent'], item['children']) == (4, 24, 0, 0)
    assert (item['total_addresses'], item['used_addresses'], item['free_addresses']) == ('256', '0', '256')
    assert (item['vrf_id'], item['vrf_rt'], item['vrf_name']) == (0, None, 'default')
    assert client.get('prefix', item['id']) == item


def test_the_members_are_the_same(client: AnyClient) -> None:
    assert client.add('prefix', **EVERY_ATTRIBUTE).keys() == PREFIX.keys()
    assert client.get('vrf', 0).keys() == VRF.keys()
    assert client.add('pool', name='p', description='d', default_type='host').keys() == POOL.keys()
    assert client.add('asn', asn='4200000001', name='n').keys() == ASN.keys()


def test_counters_of_ipv6(client: AnyClient) -> None:
    item = reservation(client, '::/0')
    reservation(client, '2001:db8::/32')
    item = client.get('prefix', item['id'])
    assert (item['total_addresses'], item['used_addresses']) == (str(2**128), str(2**96))
    assert client.get('vrf', 0)['total_addresses_v6'] == str(2**128)


def test_the_tree(client: AnyClient) -> None:
    top = reservation(client, '10.0.0.0/8', tags=['t'])
    low = client.add('prefix', prefix='10.0.0.0/24', type='assignment', description='x')
    middle = reservation(client, '10.0.0.0/16', tags=['m'])
    low = client.get('prefix', low['id'])
    assert (low['indent'], sorted(low['inherited_tags'])) == (2, ['m', 't'])
    host = client.add('prefix', prefix='10.0.0.5/32', type='host', node='n')
    assert host['display_prefix'] == '10.0.0.5/24'
    client.remove('prefix', middle['id'])
    assert client.get('prefix', low['id'])['indent'] == 1
    assert client.code('remove', 'prefix', low['id']) == 1200
    client.remove('prefix', top['id'], recursive=True)
    assert client.search('prefix', {}) == []


@pytest.mark.parametrize(
    ('attr', 'code'),
    [
        ({'prefix': 'x'}, 1200),
        ({'prefix': '10.0.0.1/24'}, 1200),
        ({'type': 'bogus'}, 1200),
        ({'vlan': 4096}, 1200),
        ({'vlan': 'x'}, 1200),
        ({'country': 'SWE'}, 1200),
        ({'tags': 'x'}, 1200),
        ({'avps': {'': 'x'}}, 1200),
        ({'expires': 'gibberish'}, 1200),
        ({'bogus': 1}, 1120),
        ({'id': 7}, 1120),
        ({'vrf_id': 99}, 1300),
        ({'pool_id': 99}, 1100),
        ({'description': '\x01'}, 1200),
        ({'type': 'host'}, 1200),
    ],
)
def test_refused_prefixes(client: AnyClient, attr: dict[str, Any], code: int) -> None:
    whole = {'prefix': '10.0.0.0/24', 'type': 'assignment', 'description': 'x', **attr}
    if attr.get('description') == '\x01' and isinstance(client, CallsClient) and client.face.name == 'xmlrpc':
        code = 1100  # a request with this character is no XML
    assert client.code('add', 'prefix', **whole) == code
    assert client.search('prefix', {}) == []


def test_mandatory_attributes(client: AnyClient) -> None:
    assert client.code('add', 'prefix', prefix='10.0.0.0/8', type='reservation') == 1110
    assert client.code('add', 'prefix', prefix='10.0.0.0/8', description='x') == 1200
    assert client.code('add', 'prefix', type='reservation', description='x') == 1120
    assert client.code('add', 'vrf', name='x') == 1110
    assert client.code('add', 'pool', name='x') == 1110
    assert client.code('add', 'asn', name='x') == 1110


def test_duplicates(client: AnyClient) -> None:
    for kind, attr in (
        ('prefix', {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'x'}),
        ('vrf', {'rt': '1:1', 'name': 'v'}),
        ('pool', {'name': 'p', 'description': 'd', 'default_type': 'assignment'}),
        ('asn', {'asn': 1, 'name': 'x'}),
    ):
        client.add(kind, **attr)
        assert client.code('add', kind, **attr) == 1400
    assert client.code('add', 'vrf', rt='2:2', name='V') == 1400


def test_edits(client: AnyClient) -> None:
    item = reservation(client, '10.0.0.0/8', vlan=7, tags=['a'])
    edited = client.edit('prefix', item['id'], description='new', vlan=None, tags=['b'])
    assert (edited['description'], edited['vlan'], edited['tags']) == ('new', None, ['b'])
    assert client.get('prefix', item['id']) == edited
    moved = client.edit('prefix', item['id'], prefix='11.0.0.0/8')
    assert (moved['prefix'], moved['id']) == ('11.0.0.0/8', item['id'])
    assert client.code('edit', 'prefix', item['id'], total_addresses=1) == 1120
    assert client.code('edit', 'prefix', item['id'], vlan=-1) == 1200
    assert client.code('edit', 'prefix', item['id']) == 1100
    vrf = client.add('vrf', rt='1:1', name='v')
    assert client.code('edit', 'prefix', item['id'], vrf_id=vrf['id']) == 1200
    assert client.edit('vrf', vrf['id'], rt='1:2')['rt'] == '1:2'
    assert client.code('edit', 'vrf', 0, rt='1:3') == 1000


def test_removals(client: AnyClient) -> None:
    assert client.code('remove', 'prefix', 99999) == 1300
    assert client.code('remove', 'vrf', 0) == 1200
    vrf = client.add('vrf', rt='1:1', name='v')
    reservation(client, '10.0.0.0/8', vrf_id=vrf['id'])
    client.remove('vrf', vrf['id'], recursive=True)
    assert client.search('prefix', {}) == []


def test_queries(client: AnyClient) -> None:
    for prefix in ('10.0.0.0/8', '10.1.0.0/16', '10.1.1.0/24', '192.168.0.0/16', '2001:db8::/32'):
        reservation(client, prefix, description=f'net {prefix}')
    for query, found in (
        (equal('prefix', '10.1.0.0/16', 'contains'), ['10.0.0.0/8']),
        (equal('prefix', '10.1.0.0/16', 'contained_within_equals'), ['10.1.0.0/16', '10.1.1.0/24']),
        (equal('family', 6), ['2001:db8::/32']),
        (equal('description', '^NET 192', 'regex_match'), ['192.168.0.0/16']),
        (equal('prefix_length', 16, 'less'), ['10.0.0.0/8']),
        ({'operator': 'and', 'val1': equal('indent', 0), 'val2': equal('family', 4)}, ['10.0.0.0/8', '192.168.0.0/16']),
    ):
        if found == ['10.0.0.0/8'] and query['val1'] == 'prefix_length':
            query = {'operator': 'and', 'val1': query, 'val2': equal('family', 4)}
        assert names(client.search('prefix', query)) == found, query
    assert names(client.search('prefix', {}, max_result=2)) == ['10.0.0.0/8', '10.1.0.0/16']


@pytest.mark.parametrize(
    ('query', 'code'),
    [
        (equal('bogus', 1), 1100),
        (equal('id', 1, 'bogus'), 1130),
        ({'operator': 'equals', 'val1': 'id'}, 1110),
        ({'operator': 'and', 'val1': {}}, 1110),
        (equal('vlan', 'x'), 1200),
        (equal('description', '(', 'regex_match'), 1200),
        (equal('type', 'bogus'), 1200),
    ],
)
def test_queries_that_make_no_sense(client: AnyClient, query: dict[str, Any], code: int) -> None:
    assert client.code('search', 'prefix', query) == code


def test_the_surroundings_of_matches(client: AnyClient) -> None:
    for prefix in ('10.0.0.0/8', '10.1.0.0/16', '10.1.1.0/24', '10.2.0.0/16'):
        reservation(client, prefix)
    query = equal('prefix', '10.1.0.0/16')
    assert names(client.search('prefix', query, parents_depth=1)) == ['10.0.0.0/8', '10.1.0.0/16']
    assert names(client.search('prefix', query, include_all_children='true')) == ['10.1.0.0/16', '10.1.1.0/24']
    assert client.code('search', 'prefix', query, parents_depth=-2) == 1200
    assert client.code('search', 'prefix', query, parent_prefix=99999) == 1300


def test_smart_search(client: AnyClient) -> None:
    reservation(client, '10.0.0.0/8', description='office')
    reservation(client, '10.1.0.0/16', description='printer', tags=['se'])
    found, interpretation = client.smart('prefix', 'office')
    assert names(found) == ['10.0.0.0/8']
    assert interpretation['operator'] == 'or'
    found, interpretation = client.smart('prefix', '#se')
    assert names(found) == ['10.1.0.0/16']
    assert interpretation['interpretation']['attribute'] == 'tag'
    assert [vrf['name'] for vrf in client.smart('vrf', 'default')[0]] == ['default']


def test_allocation_from_a_pool(client: AnyClient) -> None:
    pool = client.add('pool', name='p', description='d', default_type='assignment', ipv4_default_prefix_length=30)
    reservation(client, '10.0.0.0/29', pool_id=pool['id'])
    assert client.free('pool', pool, family=4, count=2) == ['10.0.0.0/30', '10.0.0.4/30']
    got = [client.allocate('pool', pool, {'family': 4}, description='x') for _ in range(2)]
    assert [(item['prefix'], item['type']) for item in got] == [
        ('10.0.0.0/30', 'assignment'),
        ('10.0.0.4/30', 'assignment'),
    ]
    assert client.code('allocate', 'pool', pool, {'family': 4}, description='x') == 1300
    assert client.code('allocate', 'pool', pool, {'family': 6}, description='x') == client.code(
        'free', 'pool', pool, family=6
    )
    assert client.code('allocate', 'pool', pool, {'family': 5}, description='x') == 1200
    assert client.code('allocate', 'pool', pool, {}, description='x') == 1110
    assert client.code('free', 'pool', pool, family=4, count=1001) == 1200
    shown = client.get('pool', pool['id'])
    assert (shown['used_prefixes_v4'], shown['free_prefixes_v4'], shown['prefixes']) == ('2', '0', ['10.0.0.0/29'])


def test_allocation_from_a_prefix(client: AnyClient) -> None:
    vrf = client.add('vrf', rt='1:1', name='v')
    source = reservation(client, '2001:db8::/32', vrf_id=vrf['id'])
    got = client.allocate('prefix', source, {'prefix_length': 48}, type='assignment', description='x')
    assert (got['prefix'], got['vrf_rt']) == ('2001:db8::/48', '1:1')
    assert client.free('prefix', source, prefix_length=48) == ['2001:db8:1::/48']
    assert client.code('allocate', 'prefix', source, {'prefix_length': 129}, type='host', description='x') == 1200
    assert client.code('allocate', 'prefix', source, {}, type='assignment', description='x') == 1110
    assert client.code('allocate', 'prefix', source, {'prefix_length': 48}, type='assignment') == 1110
    assert client.code('free', 'prefix', source) == 1110


def test_batches(client: AnyClient) -> None:
    attr = {'type': 'reservation', 'description': 'x'}
    pool = {'method': 'add_pool', 'args': {'attr': {'name': 'p', 'description': 'd', 'default_type': 'assignment'}}}
    member = {
        'method': 'add_prefix',
        'args': {'attr': {**attr, 'prefix': '10.0.0.0/8', 'pool_id': {'$result': [0, 'id']}}},
    }
    ids = client.batch(pool, member)
    assert client.get('prefix', ids[1])['pool_id'] == ids[0]
    again = {'method': 'add_prefix', 'args': {'attr': {**attr, 'prefix': '11.0.0.0/8'}}}
    assert client.code('batch', again, member) == 1100
    assert client.code('batch', again, again) == 1400
    assert client.code('batch', again, {'method': 'bogus'}) == 1100
    assert names(client.search('prefix', {})) == ['10.0.0.0/8']


def test_tags(client: AnyClient) -> None:
    reservation(client, '10.0.0.0/8', tags=['b', 'a'])
    client.add('vrf', rt='1:1', name='v', tags=['c'])
    assert client.search('tag', {}) == [{'name': 'a'}, {'name': 'b'}, {'name': 'c'}]
    assert client.search('tag', equal('name', 'B', 'equals')) == []
    assert client.search('prefix', equal('tags', 'A', 'equals_any'))[0]['tags'] == ['b', 'a']


def test_as_numbers(client: AnyClient) -> None:
    for number in (0, -1, str(2**32), 'x', None):
        assert client.code('add', 'asn', asn=number, name='x') == (1110 if number is None else 1200)
    client.add('asn', asn=65000, name='one')
    assert client.edit('asn', 65000, name='two') == {'asn': 65000, 'name': 'two', 'version': 2}
    assert client.code('edit', 'asn', 65000, asn=1) == 1120
    client.remove('asn', 65000)
    assert client.search('asn', {}) == []


def test_rights(client: AnyClient, db: Database) -> None:
    reader = client.as_user('readonly')
    assert reader.search('vrf', {})[0]['name'] == 'default'
    for action, *args in (('add', 'vrf'), ('edit', 'vrf', 0), ('remove', 'vrf', 0), ('remove', 'prefix', 1)):
        assert reader.code(action, *args) == 1520
    client.as_user('gateway', username='eve', full_name='Eve').add('asn', asn=1, name='x')
    client.as_user('alice', username='eve').add('asn', asn=2, name='x')
    log = db.run(lambda tx: tx.all('SELECT username, authenticated_as, full_name FROM audit_log ORDER BY id'))
    assert log == [('eve', 'gateway', 'Eve'), ('alice', 'alice', 'Alice Smith')]
