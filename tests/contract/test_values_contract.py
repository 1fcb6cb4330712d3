"""Values: a stored value is found by itself, invalid values are refused, and old rows of NIPAP may stay."""

from __future__ import annotations

import datetime as dt
import json
import unicodedata
from typing import Any
from urllib.parse import urlencode

import pytest
from contract_faces import CALLS, USERS, BackendFace, Face, basic
from contract_rest import RestFace
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nipap.attributes import ASN, LONGEST_KEY, POOL, PREFIX, VRF, Attribute
from nipap.postgres.database import Database
from nipap.postgres.transaction import Transaction

COMPOSED, DECOMPOSED = 'Malmö', 'Malmo\u0308'
RESERVATION = {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'd'}


# ---------------------------------------------------------------- stored values, and searches for them

# Most texts that can be stored. Quotes of both kinds cannot be written in a smart search.
TEXTS = st.text(
    st.characters(exclude_categories=('Cs', 'Cc'), exclude_characters='\ufffe\uffff"'), min_size=1, max_size=20
)
NAMES = TEXTS.filter(lambda text: text.strip())
WRITABLE: dict[str, st.SearchStrategy[Any]] = {
    'text': TEXTS,
    'integer': st.integers(1, 32),
    'boolean': st.booleans(),
    'enum': st.nothing(),
    'network': st.sampled_from(['10.0.0.0/8', ' 10.0.0.0/8', '2001:DB8:0::/32', '10.0.0.1']),
    'expires': st.sampled_from(
        ['2031-12-31', '31.12.2031 12:00', 'Wed, 31 Dec 2031 12:00:00 +0100', '2031-12-31T12:00:00.5Z']
    ),
    'rt': st.sampled_from(['65000:1', ' 65000:01 ', '1.2.3.4:5']),
    'asn': st.sampled_from([64500, '64500', 'AS64500', 'as 64500', '1.10', ' 7 ']),
    'tags': st.lists(NAMES, min_size=1, max_size=3),
    'avps': st.dictionaries(NAMES.filter(lambda text: ' ' not in text), TEXTS, min_size=1, max_size=2),
}
KINDS = {'vrf': VRF, 'pool': POOL, 'prefix': PREFIX, 'asn': ASN}
BASES: dict[str, dict[str, Any]] = {
    'vrf': {'rt': '65000:9', 'name': 'base'},
    'pool': {'name': 'base', 'description': None, 'default_type': 'assignment'},
    'prefix': {'prefix': '10.0.0.1/32', 'type': 'assignment', 'description': 'd'},
    'asn': {'asn': 1},
}
ATTRIBUTES = [
    (kind, name)
    for kind, table in KINDS.items()
    for name, attribute in table.items()
    if (attribute.writable or name == 'asn') and name not in ('vrf_id', 'vrf_rt', 'vrf_name', 'pool_id', 'pool_name')
]


def values_of(attribute: Attribute) -> st.SearchStrategy[Any]:
    if attribute.name == 'country':
        return st.sampled_from(['se', 'Se', 'SE', 'de'])
    if attribute.name == 'name':
        return NAMES
    if attribute.name == 'type':
        return st.sampled_from(['assignment', 'reservation'])
    return st.sampled_from(attribute.choices) if attribute.choices else WRITABLE[attribute.kind]


@pytest.mark.parametrize(('kind', 'name'), ATTRIBUTES)
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_stored_value_is_found_by_itself(api: Face, kind: str, name: str, data: st.DataObject) -> None:
    value = data.draw(values_of(KINDS[kind][name]))
    added = api.call(f'add_{kind}', attr={**BASES[kind], name: value})
    key = 'asn' if kind == 'asn' else 'id'
    try:
        for query in queries(name, value):
            found = api.call(f'search_{kind}', query=query)['result']
            assert added[key] in [row[key] for row in found], (query, added[name])
        text = smart(name, value)
        if text is not None:
            answer = api.call(f'smart_search_{kind}', query_string=text)
            assert added[key] in [row[key] for row in answer['result']], (text, answer['interpretation'], added[name])
        if isinstance(api, RestFace) and name not in ('tags', 'avps'):
            filters = '?' + '&'.join(api_filter(name, value))
            found = api.ask('GET', f'/{kind if kind != "prefix" else "prefixe"}s{filters}')['result']
            assert added[key] in [row[key] for row in found], filters
        for spec in [{name: value}] if kind == 'prefix' or name in ('name', 'rt', 'asn') else []:
            assert added[key] in [row[key] for row in api.call(f'list_{kind}', **{kind: spec})], spec
    finally:
        api.call(f'remove_{kind}', **{kind: {key: added[key]}})


def queries(name: str, value: Any) -> list[dict[str, Any]]:
    found = [{'operator': operator, 'val1': name, 'val2': value} for operator in ('equals', 'is')]
    if name == 'tags':
        found += [{'operator': 'equals_any', 'val1': 'tags', 'val2': tag} for tag in value]
    if name == 'avps':
        found += [{'operator': 'equals', 'val1': f'avps.{key}', 'val2': item} for key, item in value.items()]
    return found


def smart(name: str, value: Any) -> str | None:
    """Return a smart search that compares the attribute with the stored value, or None."""
    if name == 'tags':
        return ' '.join(f'#"{tag}"' for tag in value)
    if name == 'avps':
        return ' '.join(f'avps."{key}"="{item}"' for key, item in value.items())
    return f'{name}="{value}"'


def api_filter(name: str, value: Any) -> list[str]:
    return [urlencode({name: str(value).lower() if isinstance(value, bool) else value})]


@pytest.mark.parametrize(('stored', 'sought'), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_both_forms_of_unicode_find_each_other(api: Face, stored: str, sought: str) -> None:
    api.add_vrf('65000:1', stored)
    pool = api.add_pool(stored)
    row = api.add_prefix('10.0.0.0/8', comment=stored, tags=[stored], avps={stored: stored}, pool_name=sought)
    assert row['comment'] == row['tags'][0] == row['avps'][COMPOSED] == row['pool_name'] == COMPOSED
    for text in (sought, f'#{sought}', f'avps.{sought}={sought}', f'comment~{sought}', f'pool={sought}'):
        assert api.smart(text) == ['10.0.0.0/8'], text
    assert [row['id'] for row in api.call('list_pool', pool={'name': sought})] == [pool['id']]
    assert len(api.call('list_vrf', vrf={'name': sought})) == 1
    assert api.fault('add_vrf', attr={'rt': '65000:2', 'name': sought}).code == 1400
    args = {'from-pool': {'name': sought}, 'family': 4, 'prefix_length': 24}
    assert api.allocate(args, type='assignment')['prefix'] == '10.0.0.0/24'
    assert api.call('search_tag', query={'operator': 'equals', 'val1': 'name', 'val2': sought})['result']
    avps = {COMPOSED: '1', DECOMPOSED: '2'}
    assert api.fault('add_prefix', attr={**RESERVATION, 'prefix': '11.0.0.0/8', 'avps': avps}).code == 1200


@CALLS
def test_a_filter_of_events_has_the_form_of_tags(api: Face) -> None:
    attr = {'url': 'http://127.0.0.1:9/x', 'secret': 's' * 16, 'tags': [DECOMPOSED]}
    assert api.as_user('gateway').call('add_webhook', attr=attr)['tags'] == [COMPOSED]


@pytest.mark.parametrize('kind', ['vrf', 'pool'])
def test_names_have_no_blanks_around_them(api: Face, kind: str) -> None:
    base = {**BASES[kind], 'name': ' x\u00a0'}
    assert api.call(f'add_{kind}', attr=base)['name'] == 'x'
    assert [row['name'] for row in api.call(f'list_{kind}', **{kind: {'name': 'x '}})] == ['x']
    other = {**base, 'name': 'X '} | ({'rt': '1:1'} if kind == 'vrf' else {})
    assert api.fault(f'add_{kind}', attr=other).code == 1400
    for name in ('', ' ', '\u3000'):
        assert api.fault(f'add_{kind}', attr={**base, 'name': name}).code == 1200
        assert api.fault(f'edit_{kind}', **{kind: {'name': 'x'}}, attr={'name': name}).code == 1200


# ---------------------------------------------------------------- limits

LONG = ''.join(chr(0x10400 + n % 40) for n in range(LONGEST_KEY))  # four bytes each, in both cases
INDEXED = [
    ('vrf', 'name'),
    ('pool', 'name'),
    ('prefix', 'external_key'),
    ('prefix', 'tags'),
    ('vrf', 'tags'),
    ('pool', 'tags'),
]


@pytest.mark.parametrize(('kind', 'name'), INDEXED)
def test_values_at_the_limit_of_an_index(api: Face, kind: str, name: str) -> None:
    def form(text: str) -> Any:
        return [text] if name == 'tags' else text

    added = api.call(f'add_{kind}', attr={**BASES[kind], name: form(LONG)})
    assert added[name] == form(LONG)
    query = {'operator': 'equals', 'val1': name, 'val2': form(LONG)}
    assert len(api.call(f'search_{kind}', query=query)['result']) == 1
    fault = api.fault(f'edit_{kind}', **{kind: {'id': added['id']}}, attr={name: form(LONG + 'x')})
    assert fault.code == 1200
    assert str(LONGEST_KEY) in fault.text
    beyond = {'operator': 'equals', 'val1': name, 'val2': form(LONG * 6)}
    assert api.call(f'search_{kind}', query=beyond)['result'] == []


# The indexes of text columns, and the attribute that bounds each of them.
BOUNDED = {
    'pool_name_key': 'name',
    'vrf_name_key': 'name',
    'prefix_external_key_idx': 'external_key',
    'prefix_tags_idx': 'tags',
    'vrf_rt_key': 'two numbers',
    'prefix_words_idx': 'trigrams',
    'past_words_idx': 'trigrams',
    'prefix_avps_idx': 'hashes',
    'idempotency_pkey': 'test_a_long_user_name_with_a_key',
    'audit_log_object_idx': 'the kind of an object',
    'audit_log_user_idx': 'LONGEST_OPTION in nipap.access.authentication',
    'change_set_user_idx': 'LONGEST_OPTION in nipap.access.authentication',
    'change_set_request_idx': 'tracer.request_id',
    'last_version_pkey': 'the kind of an object',
    'audit_detached_pkey': 'the name of a table',
    'sign_in_user_idx': 'LONGEST_NAME in nipap.access.sign_ins',
    'change_set_group_idx': 'LONGEST_GROUP in nipap.controls',
    'prefix_macs_idx': 'twelve digits',
}


def test_every_index_of_texts_has_a_bound(db: Database) -> None:
    sql = """SELECT DISTINCT i.indexrelid::regclass::text
        FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indexrelid
        JOIN pg_class c ON c.oid = i.indexrelid AND c.relnamespace = 'public'::regnamespace AND NOT c.relispartition
        JOIN pg_type t ON t.oid = a.atttypid JOIN pg_am m ON m.oid = c.relam
        WHERE t.typcategory = 'S' OR m.amname <> 'btree'"""
    found = {row[0] for row in db.read(lambda tx: tx.all(sql))}
    assert found <= BOUNDED.keys(), 'say what bounds the texts of this index'


# ---------------------------------------------------------------- numbers for texts


@pytest.mark.parametrize('number', [1.10, 8.9460123456789e19, 1e300])
def test_a_number_that_loses_digits_is_no_text(api: Face, number: float) -> None:
    for name in ('customer_id', 'order_id', 'description'):
        fault = api.fault('add_prefix', attr={**RESERVATION, name: number})
        assert fault.code == 1200
        assert 'must be a string' in fault.text
    assert api.call('add_prefix', attr={**RESERVATION, 'customer_id': 1946012345})['customer_id'] == '1946012345'


def test_digits_of_json_are_kept_or_refused(rest_face: RestFace) -> None:
    for digits, stored in (('18446744073709551615', True), ('19460123456789012345', False), ('1.10', False)):
        body = json.dumps(RESERVATION).replace('}', f', "customer_id": {digits}}}')
        headers = {'Authorization': rest_face_authorization(rest_face), 'Content-Type': 'application/json'}
        status, answer = rest_face.exchange('POST', '/prefixes', body.encode(), headers)
        assert (status == 201, digits.encode() in answer) == (stored, stored), answer
        if stored:
            rest_face.call('remove_prefix', prefix={'prefix': '10.0.0.0/8'})


def rest_face_authorization(face: RestFace) -> str:
    return basic(face.user, USERS[face.user][0])


# ---------------------------------------------------------------- other texts with a meaning


@CALLS
def test_a_duration_is_read_as_a_whole(api: Face) -> None:
    assert api.call('echo', message='m', sleep=' 0.01 ') == 'm'
    for text in ('0_1', '1e-3', 'nan', '-1', '1 s', '', '٠', True, [], '99999'):
        assert api.fault('echo', message='m', sleep=text).code == 1200, text


# ---------------------------------------------------------------- null over REST


def test_null_of_a_mandatory_attribute_is_refused(rest_face: RestFace) -> None:
    vrf, pool = rest_face.add_vrf('65000:1', 'v'), rest_face.add_pool('p')
    row = rest_face.add_prefix('10.0.0.0/8', vrf_id=vrf['id'])
    refused = {
        f'/prefixes/{row["id"]}': ('status', 'type', 'prefix', 'authoritative_source', 'vrf_id', 'vrf_name', 'vrf_rt'),
        f'/vrfs/{vrf["id"]}': ('name', 'rt'),
        f'/pools/{pool["id"]}': ('name',),
    }
    for path, names in refused.items():
        for name in names:
            with pytest.raises(Exception, match='1200') as caught:
                rest_face.ask('PATCH', path, {name: None})
            assert caught.value.members.get('attribute', name) in (name, 'vrf_id'), name
    for name in ('status', 'authoritative_source', 'type'):
        with pytest.raises(Exception, match='1200'):
            rest_face.ask('POST', '/prefixes', {**RESERVATION, name: None})
    unset = {'description': None, 'country': None, 'vlan': None, 'pool_id': None, 'expires': None, 'tags': None}
    assert rest_face.ask('PATCH', f'/prefixes/{row["id"]}', unset)['country'] is None
    assert rest_face.ask('PATCH', f'/pools/{pool["id"]}', {'default_type': None})['default_type'] is None
    other = rest_face.add_prefix('10.0.0.0/8')
    assert rest_face.ask('PATCH', f'/prefixes/{other["id"]}', {'vrf_rt': None, 'vrf_id': 0})['vrf_rt'] is None


# ---------------------------------------------------------------- AS numbers


@pytest.mark.parametrize(('written', 'number'), [('AS64500', 64500), ('as 64500', 64500), ('1.10', 65546), ('0.5', 5)])
def test_as_numbers_as_people_write_them(api: Face, written: str, number: int) -> None:
    assert api.call('add_asn', attr={'asn': written, 'name': 'x'})['asn'] == number
    assert api.call('list_asn', asn={'asn': written}) == [{'asn': number, 'name': 'x', 'version': 1}]
    for text in (f'asn="{written}"', *([] if ' ' in written else [written])):
        answer = api.call('smart_search_asn', query_string=text)
        assert [row['asn'] for row in answer['result']] == [number], text
    assert api.call('remove_asn', asn={'asn': written}) is None


# ---------------------------------------------------------------- pools


def test_a_pool_that_can_never_allocate_is_refused(api: Face) -> None:
    for family, length, full in ((4, 30, 32), (6, 64, 128)):
        name = f'ipv{family}_default_prefix_length'
        base = {'name': 'p', 'description': 'd', 'default_type': 'host'}
        fault = api.fault('add_pool', attr={**base, name: length})
        assert (fault.code, str(full) in fault.text, str(length) in fault.text) == (1200, True, True)
        pool = api.call('add_pool', attr={**base, name: full})
        assert api.fault('edit_pool', pool={'id': pool['id']}, attr={name: length}).code == 1200
        (pool,) = api.call('edit_pool', pool={'id': pool['id']}, attr={'default_type': 'assignment', name: length})
        assert api.fault('edit_pool', pool={'id': pool['id']}, attr={'default_type': 'host'}).code == 1200
        api.call('remove_pool', pool={'id': pool['id']})


def test_a_pool_of_former_times_that_can_never_allocate_can_be_edited(api: Face, db: Database) -> None:
    sql = "INSERT INTO pool (name, default_type, ipv4_default_prefix_length) VALUES ('old', 'host', 30)"
    db.run(lambda tx: Transaction.execute(tx, sql))
    attr = {'name': 'old', 'description': 'new', 'default_type': 'host', 'ipv4_default_prefix_length': 30}
    (pool,) = api.call('edit_pool', pool={'name': 'old'}, attr=attr)
    assert pool['description'] == 'new'


def test_each_address_of_a_pool_counts_once(api: Face) -> None:
    api.add_pool('p', ipv4_default_prefix_length=24)
    api.add_prefix('10.0.0.0/8', pool_name='p')
    api.add_prefix('10.0.0.0/16')
    api.add_prefix('10.0.0.0/20', pool_name='p')
    api.add_prefix('10.0.0.0/24', 'assignment')
    api.add_prefix('11.0.0.0/24', 'reservation', pool_name='p')
    api.add_prefix('2001:db8::/32', pool_name='p')
    api.add_prefix('2001:db8::/48', pool_name='p')
    (pool,) = api.call('list_pool', pool={'name': 'p'})
    free = (2**24 - 2**16) + (2**12 - 2**8) + 2**8
    total = 2**24 + 2**8
    figures = [pool[f'{name}_addresses_v4'] for name in ('total', 'used', 'free')]
    assert figures == [str(total), str(total - free), str(free)]
    assert pool['member_prefixes_v4'] == '3'
    assert (pool['total_addresses_v6'], pool['used_addresses_v6']) == (str(2**96), '0')


def test_a_pool_without_default_type(api: Face) -> None:
    pool = api.call('add_pool', attr={'name': 'p', 'description': 'd', 'default_type': None})
    assert pool['default_type'] is None
    api.add_prefix('10.0.0.0/8', pool_name='p')
    args = {'from-pool': {'name': 'p'}, 'family': 4, 'prefix_length': 24}
    for attr in ({'description': 'x'}, {'description': 'x', 'type': None}):
        fault = api.fault('add_prefix', attr=attr, args=args)
        assert (fault.code, fault.text) == (1200, 'Unknown prefix type')
    assert api.allocate(args, type='assignment')['type'] == 'assignment'
    (pool,) = api.call('edit_pool', pool={'name': 'p'}, attr={'default_type': 'assignment'})
    assert api.allocate(args)['type'] == 'assignment'
    (pool,) = api.call('edit_pool', pool={'name': 'p'}, attr={'default_type': None})
    assert pool['default_type'] is None
    assert api.fault('add_pool', attr={'name': 'q', 'description': 'd'}).text == 'missing attribute default_type'


# ---------------------------------------------------------------- negated searches


def test_negation_includes_unset_values(api: Face) -> None:
    api.add_prefix('10.0.0.0/8', vlan=50, country='SE', node=None, expires='2031-12-31', avps={'k': 'v'})
    api.add_prefix('11.0.0.0/8')
    for name, value in (('vlan', 50), ('country', 'SE'), ('expires', '2031-12-31'), ('avps.k', 'v'), ('vlan', '50')):
        for operator in ('not_equals', '!=', 'is_not'):
            assert api.found({'operator': operator, 'val1': name, 'val2': value}) == ['11.0.0.0/8'], (name, operator)
    for operator in ('!~', '!~*', 'regex_not_match'):
        assert api.found({'operator': operator, 'val1': 'country', 'val2': 'SE'}) == ['11.0.0.0/8'], operator
    assert api.smart('vlan!=50') == ['11.0.0.0/8']
    api.add_pool('one', description='x')
    api.add_pool('two', description=None)
    for operator in ('not_equals', '!=', 'is_not', '!~', '!~*', 'regex_not_match'):
        query = {'operator': operator, 'val1': 'description', 'val2': 'x'}
        assert [row['name'] for row in api.call('search_pool', query=query)['result']] == ['two'], operator


def test_nil_is_the_empty_text_in_searches_for_prefixes_only(api: Face) -> None:
    api.add_vrf('65000:1', 'v')
    api.add_pool('one', description=None)
    api.add_prefix('10.0.0.0/8', comment=None)

    def rts(pattern: str, operator: str = 'regex_match') -> list[Any]:
        query = {'operator': operator, 'val1': 'rt', 'val2': pattern}
        return [row['rt'] for row in api.call('search_vrf', query=query)['result']]

    assert rts('') == rts('^') == rts('.*') == rts('%', 'like') == ['65000:1']
    assert [row['rt'] for row in api.call('smart_search_vrf', query_string='')['result']] == [None, '65000:1']
    query = {'operator': 'regex_match', 'val1': 'description', 'val2': ''}
    assert api.call('search_pool', query=query)['result'] == []
    for pattern in ('', '^$'):
        assert api.found({'operator': 'regex_match', 'val1': 'comment', 'val2': pattern}) == ['10.0.0.0/8']


# ---------------------------------------------------------------- moves


def test_a_move_that_leaves_hosts_behind_names_host_and_move(api: Face) -> None:
    api.add_prefix('10.0.0.0/8')
    for inside in (True, False):
        place = '10.1.0.0/24' if inside else '192.0.2.0/24'
        row = api.add_prefix(place, 'assignment')
        host = place.replace('.0/24', '.5/32')
        api.add_prefix(host, 'host')
        fault = api.fault('edit_prefix', prefix={'id': row['id']}, attr={'prefix': '10.9.0.0/24'})
        text = f'Moving {place} to 10.9.0.0/24 would leave host {host} without an assignment around it'
        assert (fault.code, fault.text) == (1200, text)


# ---------------------------------------------------------------- rows that NIPAP stored


def test_rows_of_nipap_can_be_edited(api: Face, db: Database) -> None:
    first, second = api.add_prefix('10.0.0.0/24', 'assignment'), api.add_prefix('11.0.0.0/8')
    for row in (first, second):
        sql = f"UPDATE prefix SET node = 'router', vlan = 5000 WHERE id = {row['id']}"
        db.run(lambda tx, sql=sql: Transaction.execute(tx, sql))
        whole = api.prefix(row['id'])
        assert (whole['node'], whole['vlan']) == ('router', 5000)
        attr = {name: whole[name] for name in ('type', 'node', 'vlan', 'tags', 'avps', 'pool_id', 'vrf_id', 'status')}
        for more in ({'description': 'new'}, {'description': 'moved', 'prefix': whole['prefix']}):
            (edited,) = api.call('edit_prefix', prefix={'id': row['id']}, attr={**attr, **more})
            assert (edited['node'], edited['vlan'], edited['description']) == ('router', 5000, more['description'])
        only = api.call('edit_prefix', prefix={'id': row['id']}, attr={'node': 'router', 'vlan': 5000, 'comment': 'c'})
        assert only[0]['comment'] == 'c'
        for attr in ({'node': 'other'}, {'vlan': 5001}, {'vlan': 5001, 'type': whole['type']}):
            assert api.fault('edit_prefix', prefix={'id': row['id']}, attr=attr).code == 1200
        (edited,) = api.call('edit_prefix', prefix={'id': row['id']}, attr={'node': None, 'vlan': 4095})
        assert (edited['node'], edited['vlan']) == (None, 4095)
        for attr in ({'node': 'router'}, {'vlan': 5000}, {'vlan': str(2**40)}):
            assert api.fault('edit_prefix', prefix={'id': row['id']}, attr=attr).code == 1200
    attr = {**RESERVATION, 'prefix': '12.0.0.0/8'}
    assert api.fault('add_prefix', attr={**attr, 'vlan': 5000}).code == 1200
    assert api.fault('add_prefix', attr={**attr, 'node': 'x'}).code == 1200


# ---------------------------------------------------------------- missing and wrong values


@CALLS
def test_wrong_values_are_named_before_missing_ones(api: Face) -> None:
    bad = {'avps': {'': 'v'}}
    for kind, attr in (
        ('vrf', {}),
        ('vrf', {'name': 'x'}),
        ('pool', {'name': 'x'}),
        ('prefix', {'prefix': '10.0.0.0/8'}),
    ):
        fault = api.fault(f'add_{kind}', attr={**attr, **bad})
        assert (fault.code, fault.text) == (1200, 'AVP with empty name is not allowed'), kind
    assert api.fault('add_pool', attr={'name': 'x', 'bogus': 1, **bad}).code == 1120


@CALLS
@pytest.mark.parametrize('kind', ['vrf', 'pool', 'asn'])
def test_a_change_without_specification(api: Face, kind: str) -> None:
    for fault in (api.fault(f'edit_{kind}', attr={'name': 'x'}), api.fault(f'remove_{kind}')):
        assert (fault.code, fault.text) == (1100, f'{kind} specification must be a dict')
    assert api.fault(f'edit_{kind}', **{kind: {}}, attr={'name': 'x'}).code == 1110


def test_inherited_tags_come_from_the_top_of_the_tree_down(api: Face) -> None:
    api.add_prefix('10.0.0.0/8', tags=['z', 'y'])
    api.add_prefix('10.0.0.0/16', tags=['x', 'z'])
    api.add_prefix('10.0.0.0/24', 'assignment', tags=['a', 'x'])
    host = api.add_prefix('10.0.0.1', 'host', tags=['own'])
    assert host['inherited_tags'] == ['z', 'y', 'x', 'a']
    rows = api.call('search_prefix', query={})['result']
    assert [row['inherited_tags'] for row in rows] == [[], ['z', 'y'], ['z', 'y', 'x'], ['z', 'y', 'x', 'a']]


# ---------------------------------------------------------------- comparisons with moments


def test_postgresqls_words_in_comparisons(api: Face) -> None:
    now = dt.datetime.now(dt.UTC)
    api.add_prefix('10.0.0.0/8', expires=(now - dt.timedelta(days=2)).isoformat())
    api.add_prefix('11.0.0.0/8', expires=(now + dt.timedelta(days=2)).isoformat())
    api.add_prefix('12.0.0.0/8')
    for word in ('Now()', 'now', 'today', 'tomorrow', 'yesterday'):
        assert api.found({'operator': 'less_or_equal', 'val1': 'expires', 'val2': word}) == ['10.0.0.0/8'], word
        assert api.smart(f'expires<="{word}"') == ['10.0.0.0/8'], word
    assert len(api.found({'operator': '<=', 'val1': 'expires', 'val2': 'infinity'})) == 3
    assert api.found({'operator': '<=', 'val1': 'expires', 'val2': '-infinity'}) == []
    for operator in ('<=', '>', '='):
        fault = api.fault('search_prefix', query={'operator': operator, 'val1': 'expires', 'val2': 'tomorrow-ish'})
        assert (fault.code, fault.text) == (1200, 'Invalid date specification for expires')
    fault = api.fault('add_prefix', attr={**RESERVATION, 'prefix': '13.0.0.0/8', 'expires': '01.02.2030'})
    assert (fault.code, '2030-02-01' in fault.text, '2030-01-02' in fault.text) == (1200, True, True)


# ---------------------------------------------------------------- options, and texts that find everything


@CALLS
@pytest.mark.parametrize('kind', ['vrf', 'pool', 'prefix', 'asn', 'tag'])
def test_unknown_options_are_given_back(api: Face, kind: str) -> None:
    options = {'query_id': 7, 'max_result': '5', 'unknown': {'deep': [1, None, 'x']}}
    searches = [('search', {'query': {}})]
    if kind != 'tag':
        searches += [('smart_search', {'query_string': text}) for text in ('', 'x', 'nope=1')]
    for search, members in searches:
        answer = api.call(f'{search}_{kind}', **members, search_options=options)
        given_back = answer['search_options']
        assert {name: given_back[name] for name in ('query_id', 'unknown')} == {
            'query_id': 7,
            'unknown': options['unknown'],
        }
        assert given_back['max_result'] in (5, '5')  # as it was sent, if the text was not understood


@pytest.mark.parametrize('kind', ['vrf', 'pool', 'prefix', 'asn'])
def test_an_asterisk_alone_finds_everything(api: Face, kind: str) -> None:
    api.call(f'add_{kind}', attr=BASES[kind])
    everything = api.call(f'search_{kind}', query={})['result']
    for text in ('*', ' * '):
        assert api.call(f'smart_search_{kind}', query_string=text)['result'] == everything != []


def test_a_list_by_an_invalid_network_is_empty(api: Face) -> None:
    api.add_prefix('10.0.0.0/30', 'assignment')
    for prefix in ('10.0.0.1/30', '2001:db8::1/64'):
        assert api.call('list_prefix', prefix={'prefix': prefix}) == []
        assert api.fault('edit_prefix', prefix={'prefix': prefix}, attr={'description': 'x'}).code == 1200
        assert api.fault('remove_prefix', prefix={'prefix': prefix}).code == 1200
    assert api.fault('list_prefix', prefix={'prefix': 'nonsense'}).code == 1200


def test_a_long_user_name_with_a_key(backend_face: BackendFace) -> None:
    """A token may name any user."""
    for name in ('u' * 3000, ''.join(chr(0x10400 + n % 40) for n in range(3000))):
        face = BackendFace(
            backend_face.backend, type(backend_face.actor)(**{**vars(backend_face.actor), 'authenticated_as': name})
        )
        first = face.call('add_asn', attr={'asn': 7}, idempotency_key='k')
        assert face.call('add_asn', attr={'asn': 7}, idempotency_key='k') == first
        face.call('remove_asn', asn={'asn': 7})


assert unicodedata.normalize('NFC', DECOMPOSED) == COMPOSED
