"""Attributes of prefixes: the accepted values of each, and their form in answers."""

from __future__ import annotations

import datetime as dt
import time
import xmlrpc.client
from typing import Any

import pytest
from contract_faces import CALLS, Face, XmlRpcFace

UTC = dt.UTC


def test_everything_the_client_library_sends(api: Face) -> None:
    """The library saves all attributes that it knows, most of them nil, and sends them all again with every edit."""
    attr = {
        'description': 'd',
        'comment': None,
        'tags': [],
        'node': None,
        'type': 'reservation',
        'country': None,
        'order_id': None,
        'customer_id': None,
        'external_key': None,
        'alarm_priority': None,
        'monitor': None,
        'vlan': None,
        'avps': {},
        'expires': None,
        'prefix': '10.0.0.0/8',
        'pool_id': None,
    }
    added = api.call('add_prefix', attr=attr, args={})
    assert {name: added[name] for name in attr} == attr
    everything = {**attr, 'vrf_id': 0, 'status': 'assigned', 'authoritative_source': 'nipap', 'comment': 'new'}
    (edited,) = api.call('edit_prefix', prefix={'id': added['id']}, attr=everything)
    assert edited['comment'] == 'new'
    assert {name: edited[name] for name in everything} == everything


def test_an_edit_may_change_the_attribute_that_selects_the_prefix(api: Face) -> None:
    added = api.call('add_prefix', attr={'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'old'})
    for spec, attr in (
        ({'prefix': '10.0.0.0/8', 'description': 'old'}, {'description': 'new'}),
        ({'prefix': '10.0.0.0/8', 'vrf_rt': None, 'status': 'assigned'}, {'status': 'reserved'}),
        ({'prefix': '10.0.0.0/8', 'vrf_name': 'default', 'status': 'reserved'}, {'vlan': 7}),
    ):
        (edited,) = api.call('edit_prefix', prefix=spec, attr=attr)
        assert edited['id'] == added['id']
        assert attr.items() <= edited.items()
    assert api.call('edit_prefix', prefix={'prefix': '10.0.0.0/8', 'description': 'old'}, attr={'vlan': 8}) == []


def test_description_or_node_is_required_but_may_be_nil(api: Face) -> None:
    """An attribute that may be empty counts as present if it is nil."""
    fault = api.fault('add_prefix', attr={'prefix': '10.0.0.0/24', 'type': 'assignment'})
    assert (fault.code, fault.text) == (1110, 'Either description or node must be specified.')
    assert api.add_prefix('10.0.0.0/24', 'assignment', description=None)['description'] is None
    row = api.call('add_prefix', attr={'prefix': '10.0.1.0/24', 'type': 'assignment', 'node': None})
    assert (row['description'], row['node']) == (None, None)


def test_defaults(api: Face) -> None:
    row = api.call('add_prefix', attr={'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'd'})
    for name in ('vrf_rt', 'node', 'comment', 'pool_id', 'country', 'monitor', 'vlan', 'expires', 'alarm_priority'):
        assert row[name] is None, name
    assert (row['vrf_id'], row['vrf_name'], row['status'], row['tags'], row['avps']) == (
        0,
        'default',
        'assigned',
        [],
        {},
    )
    assert row['added'] == row['last_modified']


@pytest.mark.parametrize('member', ['vrf_id', 'vrf_rt', 'vrf_name'])
def test_the_vrf_may_be_named_in_three_ways(api: Face, member: str) -> None:
    vrf = api.add_vrf('65000:1', 'customer')
    value = {'vrf_id': vrf['id'], 'vrf_rt': '65000:1', 'vrf_name': 'customer'}[member]
    assert api.add_prefix('10.0.0.0/8', **{member: value})['vrf_id'] == vrf['id']
    assert api.add_prefix('10.0.0.0/8', **{member: None})['vrf_id'] == 0
    unknown = {'vrf_id': 12345, 'vrf_rt': '9:9', 'vrf_name': 'nope'}[member]
    attr = {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'd', member: unknown}
    fault = api.fault('add_prefix', attr=attr)
    assert (fault.code, fault.text) == (1300, 'No matching VRF found.')


@pytest.mark.parametrize(
    ('given', 'stored'),
    [
        ('77', 77),
        (0, 0),
        (4095, 4095),
        ('0', 0),
        (None, None),
    ],
)
def test_vlan(api: Face, given: object, stored: object) -> None:
    assert api.add_prefix('10.0.0.0/8', vlan=given)['vlan'] == stored


@pytest.mark.parametrize('given', [-1, 4096, '4096', '-1', 2147483647, '99999999999999999999'])
def test_vlan_out_of_bounds(api: Face, given: object) -> None:
    """Deliberate difference 5."""
    fault = api.fault(
        'add_prefix', attr={'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'd', 'vlan': given}
    )
    assert fault.code == 1200
    assert str(given) in fault.text
    assert '4095' in fault.text
    row = api.add_prefix('10.0.0.0/8')
    assert api.fault('edit_prefix', prefix={'id': row['id']}, attr={'vlan': given}).code == 1200


def test_a_vlan_that_is_no_number(api: Face) -> None:
    attr = {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'd', 'vlan': 'x'}
    fault = api.fault('add_prefix', attr=attr)
    assert (fault.code, fault.text) == (1200, 'Invalid syntax for integer (x)')


@pytest.mark.parametrize(
    ('given', 'stored'),
    [
        (True, True),
        ('true', True),
        ('yes', True),
        (1, True),
        (False, False),
        ('false', False),
        ('no', False),
        (None, None),
    ],
)
def test_monitor(api: Face, given: object, stored: object) -> None:
    assert api.add_prefix('10.0.0.0/8', monitor=given)['monitor'] is stored
    row = api.add_prefix('10.1.0.0/16')
    (row,) = api.call('edit_prefix', prefix={'id': str(row['id'])}, attr={'monitor': given})
    assert row['monitor'] is stored


def test_a_monitor_that_is_no_boolean(api: Face) -> None:
    attr = {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'd', 'monitor': 'perhaps'}
    assert api.fault('add_prefix', attr=attr).code == 1200


@pytest.mark.parametrize(
    ('name', 'allowed'),
    [
        ('type', ('reservation', 'assignment', 'host')),
        ('status', ('assigned', 'reserved', 'quarantine')),
        ('alarm_priority', ('warning', 'low', 'medium', 'high', 'critical')),
    ],
)
def test_a_bad_word_is_named_together_with_what_is_allowed(api: Face, name: str, allowed: tuple[str, ...]) -> None:
    """Deliberate difference 1."""
    attr: dict[str, Any] = {'prefix': '10.1.0.0/16', 'type': 'reservation', 'description': 'd'}
    row = api.add_prefix('10.0.0.0/8')
    for fault in (
        api.fault('add_prefix', attr={**attr, name: 'bogus'}),
        api.fault('edit_prefix', prefix={'id': row['id']}, attr={name: 'bogus'}),
    ):
        assert fault.code == 1200
        assert [word for word in ('bogus', *allowed) if word not in fault.text] == []


def test_each_allowed_word(api: Face) -> None:
    row = api.add_prefix('10.0.0.0/8')
    for name, words in (
        ('status', ('reserved', 'quarantine', 'assigned')),
        ('alarm_priority', ('warning', 'low', 'medium', 'high', 'critical', None)),
    ):
        for word in words:
            (edited,) = api.call('edit_prefix', prefix={'id': row['id']}, attr={name: word})
            assert edited[name] == word


def test_country_is_two_letters(api: Face) -> None:
    text = ' Please enter a two letter country code according to ISO 3166-1 alpha-2'
    for given in ('S', 'SWE', '12', 'S1', '', 'å1'):
        attr = {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'd', 'country': given}
        fault = api.fault('add_prefix', attr=attr)
        assert (fault.code, fault.text) == (1200, text), given


def test_country_is_upper_cased(api: Face) -> None:
    row = api.add_prefix('10.0.0.0/8', country='sE')
    assert row['country'] == 'SE'
    (row,) = api.call('edit_prefix', prefix={'id': row['id']}, attr={'country': 'no'})
    assert row['country'] == 'NO'


def test_tags_keep_order_and_duplicates(api: Face) -> None:
    row = api.add_prefix('10.0.0.0/8', tags=['b', 'a', 'b', 'B'])
    assert row['tags'] == ['b', 'a', 'b', 'B']
    (row,) = api.call('edit_prefix', prefix={'id': row['id']}, attr={'tags': None})
    assert row['tags'] == []


@pytest.mark.parametrize('avps', [{'k': 1}, {'k': None}, {'k': False}, {'': 'v'}])
def test_avps_map_non_empty_names_to_strings(api: Face, avps: dict[str, object]) -> None:
    attr = {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'd', 'avps': avps}
    assert api.fault('add_prefix', attr=attr).code == 1200
    row = api.add_prefix('10.0.0.0/8', avps={'a key': 'vé', 'b.c': ''})
    assert row['avps'] == {'a key': 'vé', 'b.c': ''}
    (row,) = api.call('edit_prefix', prefix={'id': row['id']}, attr={'avps': None})
    assert row['avps'] == {}


NEVER = [None, 'never', 'infinity', 'Never']
DATES: list[tuple[object, dt.datetime]] = [
    ('2030-01-02', dt.datetime(2030, 1, 2, tzinfo=UTC)),
    ('2030-01-02 03:04:05', dt.datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)),
    ('2030-01-02T03:04:05', dt.datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)),
    ('2030-01-02T03:04:05Z', dt.datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)),
    ('2030-01-02T03:04:05+02:00', dt.datetime(2030, 1, 2, 1, 4, 5, tzinfo=UTC)),
    ('2030-01-02 03:04:05+00:00', dt.datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)),
]


@pytest.mark.parametrize('given', NEVER)
def test_expires_never(api: Face, given: object) -> None:
    row = api.add_prefix('10.0.0.0/8', expires=given)
    assert row['expires'] is None
    (row,) = api.call('edit_prefix', prefix={'id': row['id']}, attr={'expires': '2030-01-02'})
    assert row['expires'] is not None
    (row,) = api.call('edit_prefix', prefix={'id': row['id']}, attr={'expires': given})
    assert row['expires'] is None


@pytest.mark.parametrize(('given', 'stored'), DATES)
def test_expires_at_a_date(api: Face, given: object, stored: dt.datetime) -> None:
    assert api.add_prefix('10.0.0.0/8', expires=given)['expires'] == stored


def test_expires_as_a_date_of_the_wire(api: Face) -> None:
    """A dateTime.iso8601 has no zone: it is UTC."""
    moment = dt.datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
    given = xmlrpc.client.DateTime('20310506T07:08:09') if isinstance(api, XmlRpcFace) else moment
    assert api.add_prefix('10.0.0.0/8', expires=given)['expires'] == moment


@pytest.mark.parametrize(
    ('given', 'days'),
    [('in 2 days', (1.9, 2.1)), ('1 month', (27, 32)), ('3 weeks', (20.9, 21.1)), ('1 year', (360, 370))],
)
def test_expires_in_english(api: Face, given: str, days: tuple[float, float]) -> None:
    now = dt.datetime.now(UTC)
    expires = api.add_prefix('10.0.0.0/8', expires=given)['expires']
    assert days[0] <= (expires - now) / dt.timedelta(days=1) <= days[1]


def test_expires_tomorrow_is_nine_in_the_morning(api: Face) -> None:
    before = dt.datetime.now(UTC).date()
    expires = api.add_prefix('10.0.0.0/8', expires='tomorrow')['expires']
    after = dt.datetime.now(UTC).date()
    assert expires.timetz() == dt.time(9, tzinfo=UTC)
    assert before < expires.date() <= after + dt.timedelta(days=1)


@pytest.mark.parametrize('given', ['ago ' * 25, '1 ago ' * 16, 'NEXT 1 ' * 14, 'end of ' * 14])
def test_a_date_takes_no_time_to_read(api: Face, given: str) -> None:
    began = time.process_time()
    fault = api.fault('add_prefix', attr={'expires': given, 'prefix': '10.0.0.0/8', 'type': 'host'})
    assert fault.code in (1110, 1200)
    api.call('smart_search_prefix', query_string=f'expires>"{given}"')
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize(
    'given',
    [
        *('gibberish', '2030-13-01', '2030-02-30', '', 'not a date at all', 'xyzzy 99'),
        *('10000-01-01', '10000-01-01 00:00:00', '0000-01-01', '2030-02-30 12:00'),
    ],
)
def test_expires_that_cannot_be_read(api: Face, given: str) -> None:
    """Deliberate difference 5."""
    attr = {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'd', 'expires': given}
    fault = api.fault('add_prefix', attr=attr)
    assert (fault.code, fault.text) == (1200, 'Invalid date specification for expires')
    row = api.add_prefix('10.0.0.0/8')
    assert api.fault('edit_prefix', prefix={'id': row['id']}, attr={'expires': given}).code == 1200


def test_comparisons_treat_never_as_later_than_any_date(api: Face) -> None:
    api.add_prefix('10.0.0.0/8', expires='2030-01-02')
    api.add_prefix('11.0.0.0/8', expires='2040-01-02')
    api.add_prefix('12.0.0.0/8')

    def found(operator: str, value: object) -> list[str]:
        return api.found({'operator': operator, 'val1': 'expires', 'val2': value})

    assert found('less', '2035-01-01') == ['10.0.0.0/8']
    assert found('greater', '2035-01-01') == ['11.0.0.0/8', '12.0.0.0/8']
    assert found('>=', '2040-01-02') == ['11.0.0.0/8', '12.0.0.0/8']
    assert found('equals', '2040-01-02') == ['11.0.0.0/8']
    assert found('equals', None) == ['12.0.0.0/8']
    assert found('not_equals', None) == ['10.0.0.0/8', '11.0.0.0/8']


def test_authoritative_source(api: Face) -> None:
    row = api.as_user('alice', authoritative_source='provisioning').add_prefix('10.0.0.0/8')
    assert row['authoritative_source'] == 'provisioning'
    (row,) = api.call('edit_prefix', prefix={'id': row['id']}, attr={'description': 'x'})
    assert row['authoritative_source'] == 'provisioning'  # an edit changes only the attributes that it names
    (row,) = api.call('edit_prefix', prefix={'id': row['id']}, attr={'authoritative_source': 'manual'})
    assert row['authoritative_source'] == 'manual'


def test_read_only_attributes_are_refused(api: Face) -> None:
    for name in ('id', 'family', 'display_prefix', 'indent', 'inherited_tags', 'total_addresses', 'added', 'children'):
        attr = {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'd', name: 1}
        fault = api.fault('add_prefix', attr=attr)
        assert (fault.code, fault.text) == (1120, f'extraneous attribute {name}')


def test_the_attributes_must_be_a_struct_with_something_in_it(api: Face) -> None:
    row = api.add_prefix('10.0.0.0/8')
    fault = api.fault('edit_prefix', prefix={'id': row['id']}, attr='x')
    assert (fault.code, fault.text) == (1100, "'attr' must be a dict")
    fault = api.fault('edit_prefix', prefix={'id': row['id']}, attr={})
    assert (fault.code, fault.text) == (1100, "'attr' must not be empty.")
    assert api.fault('add_prefix', attr='x').code == 1100
    assert api.fault('add_prefix').code == 1100


@pytest.mark.parametrize(
    ('given', 'stored'),
    [
        ('10.0.0.0/8', '10.0.0.0/8'),
        ('10.0.0.1', '10.0.0.1/32'),
        ('2001:DB8:0:0::/48', '2001:db8::/48'),
        ('2001:db8::1', '2001:db8::1/128'),
        ('0.0.0.0/0', '0.0.0.0/0'),
        ('::/0', '::/0'),
        ('255.255.255.255/32', '255.255.255.255/32'),
        ('ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128', 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128'),
    ],
)
def test_forms_of_a_prefix(api: Face, given: str, stored: str) -> None:
    row = api.add_prefix(given, 'assignment')
    assert (row['prefix'], row['family']) == (stored, 6 if ':' in stored else 4)
    assert api.stored(prefix=given) == [stored]


def test_texts_that_are_no_prefix(api: Face) -> None:
    for given in ('', 'x', '10.0.0.0/33', '10.0.0/24/8', '1.2.3.256', '::/129', '2001:db8:::/32', '10.0.0.0/-1'):
        fault = api.fault('add_prefix', attr={'prefix': given, 'type': 'assignment', 'description': 'd'})
        assert (fault.code, fault.text) == (1200, f'Invalid syntax for prefix ({given})')


@pytest.mark.parametrize(
    ('given', 'network'),
    [('10.1.2.3/16', '10.1.0.0/16'), ('2001:db8::1/64', '2001:db8::/64'), ('255.255.255.255/31', '255.255.255.254/31')],
)
def test_host_bits_are_refused_with_the_network_address(api: Face, given: str, network: str) -> None:
    text = f'Invalid prefix ({given}); bits set to right of mask. Network address for current mask: {network}'
    fault = api.fault('add_prefix', attr={'prefix': given, 'type': 'assignment', 'description': 'd'})
    assert (fault.code, fault.text) == (1200, text)
    row = api.add_prefix('192.0.2.0/24')
    fault = api.fault('edit_prefix', prefix={'id': row['id']}, attr={'prefix': given})
    assert (fault.code, fault.text) == (1200, text)


@CALLS
def test_display_prefix(api: Face) -> None:
    """A full-length prefix that is no host is a bare address in list and add, and has its length in searches."""
    assert api.add_prefix('10.0.0.0/24', 'assignment')['display_prefix'] == '10.0.0.0/24'
    assert api.add_prefix('10.0.0.1/32', 'host')['display_prefix'] == '10.0.0.1/24'
    loopback = api.add_prefix('10.1.0.1/32', 'assignment')
    assert loopback['display_prefix'] == '10.1.0.1'
    assert api.prefix(loopback['id'])['display_prefix'] == '10.1.0.1'
    v6 = api.add_prefix('2001:db8::1/128', 'reservation')
    assert v6['display_prefix'] == '2001:db8::1'
    query = {'operator': 'equals', 'val1': 'prefix_length', 'val2': 32}
    rows = api.call('search_prefix', query=query)['result']
    assert [row['display_prefix'] for row in rows] == ['10.0.0.1/24', '10.1.0.1/32']
    rows = api.call('smart_search_prefix', query_string='2001:db8::1')['result']
    assert [row['display_prefix'] for row in rows] == ['2001:db8::1/128']
    (edited,) = api.call('edit_prefix', prefix={'id': loopback['id']}, attr={'description': 'x'})
    assert edited['display_prefix'] == '10.1.0.1/32'


def test_used_addresses(api: Face) -> None:
    """Only direct children count. A full-length prefix uses itself, with or without prefixes below it."""
    net = api.add_prefix('10.0.0.0/22')
    api.add_prefix('10.0.0.0/24')
    api.add_prefix('10.0.0.0/25', 'assignment')
    api.add_prefix('10.0.0.1/32', 'host')
    row = api.prefix(net['id'])
    assert (row['total_addresses'], row['used_addresses'], row['free_addresses']) == ('1024', '256', '768')
    host = api.stored(type='host')
    (row,) = api.call('list_prefix', prefix={'prefix': host[0]})
    assert (row['total_addresses'], row['used_addresses'], row['free_addresses']) == ('1', '1', '0')
    row = api.add_prefix('::/0')
    assert (row['total_addresses'], row['free_addresses']) == (str(2**128), str(2**128))


def test_inherited_tags_are_those_of_all_ancestors_each_once(api: Face) -> None:
    api.add_prefix('10.0.0.0/8', tags=['a', 'b', 'b'])
    api.add_prefix('10.0.0.0/16', tags=['b', 'c'])
    row = api.add_prefix('10.0.0.0/24', 'assignment', tags=['own', 'a'])
    assert sorted(row['inherited_tags']) == ['a', 'b', 'c']
    host = api.add_prefix('10.0.0.1', 'host')
    assert sorted(host['inherited_tags']) == ['a', 'b', 'c', 'own']
    api.call('edit_prefix', prefix={'prefix': '10.0.0.0/8'}, attr={'tags': ['new']})
    assert sorted(api.prefix(host['id'])['inherited_tags']) == ['a', 'b', 'c', 'new', 'own']


def test_indent_is_the_number_of_ancestors(api: Face) -> None:
    rows = [api.add_prefix(prefix) for prefix in ('10.0.0.0/24', '10.0.0.0/8', '10.0.0.0/16')]
    assert [api.prefix(row['id'])['indent'] for row in rows] == [2, 0, 1]


def test_characters_that_xml_forbids_are_refused(api: Face) -> None:
    """Deliberate difference 11. Over XML-RPC a request with such a character is not even XML."""
    codes = (1100, 1200) if isinstance(api, XmlRpcFace) else (1200,)
    for name in ('description', 'comment', 'node', 'order_id', 'customer_id', 'external_key'):
        for bad in ('\x00', '\x01', '\x0b', '\x1f', '\ufffe', '\uffff'):
            attr = {'prefix': '10.0.0.1/32', 'type': 'assignment', 'description': 'd', name: f'before{bad}after'}
            assert api.fault('add_prefix', attr=attr).code in codes, (name, bad)
    assert api.stored() == []


@pytest.mark.parametrize('attr', [{'tags': ['\x01']}, {'avps': {'k': '\x01'}}, {'avps': {'\x01': 'v'}}])
def test_characters_that_xml_forbids_are_refused_inside_lists_and_structs(
    backend_face: Face, attr: dict[str, Any]
) -> None:
    """Deliberate difference 11."""
    given = {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'd', **attr}
    assert backend_face.fault('add_prefix', attr=given).code == 1200


def test_text_of_any_script_is_kept(api: Face) -> None:
    text = 'åäö <&> "quoted" \'single\' \\ % \t\n 漢字 🙂 \x7f ]]>'
    row = api.add_prefix('10.0.0.0/8', description=text, tags=[text], avps={text: text})
    row = api.prefix(row['id'])
    assert (row['description'], row['tags'], row['avps']) == (text, [text], {text: text})
