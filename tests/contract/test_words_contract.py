"""Words of smart searches with a meaning beyond text: beginnings of addresses, MAC addresses, parentheses."""

from __future__ import annotations

from typing import Any

import pytest
from contract_faces import Face
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

MAC = '001a2b3c4d5e'
NOTATIONS = [
    *('00:1a:2b:3c:4d:5e', '00-1A-2B-3C-4D-5E', '001a.2b3c.4d5e', '001a2b3c4d5e', '001A2B-3C4D5E'),
    *('001a-2b3c-4d5e', '00.1a.2b.3c.4d.5e', '001a:2b3c:4d5e'),
]


def interpretation(api: Face, text: str) -> dict[str, Any]:
    return api.call('smart_search_prefix', query_string=text)['interpretation']['interpretation']


def test_the_beginning_of_an_address_finds_what_begins_with_it(api: Face) -> None:
    api.add_vrf('65000:1', 'v')
    for prefix in ('10.0.0.0/8', '10.4.0.0/16', '10.4.7.0/24', '10.40.0.0/16', '198.51.100.0/24', '2001:db8:11::/48'):
        api.add_prefix(prefix, description='d')
    api.add_prefix('10.4.8.0/24', vrf_rt='65000:1', description='d')
    api.add_prefix('192.0.2.0/24', description='the 10.4 of old')
    four = ['10.4.0.0/16', '10.4.7.0/24', '192.0.2.0/24', '10.4.8.0/24']
    for text, network, expected in (
        ('10.4', '10.4.0.0/16', four),
        ('10.4.', '10.4.0.0/16', four),
        ('10.4.7', '10.4.7.0/24', ['10.4.7.0/24']),
        ('198.51', '198.51.0.0/16', ['198.51.100.0/24']),
        ('2001:db8:11', '2001:db8:11::/48', ['2001:db8:11::/48']),
        ('2001:DB8:', '2001:db8::/32', ['2001:db8:11::/48']),
    ):
        assert api.smart(text) == expected, text
        shown = interpretation(api, text)
        assert (shown['interpretation'], shown['string'], shown['expanded']) == ('text', text, network)
        assert api.smart(f'{text} and type=reservation') == expected
        assert api.smart(text, include_all_parents=True) != []
    assert api.smart('10.4 old') == ['192.0.2.0/24']
    assert api.smart('"10.4"') == ['192.0.2.0/24']
    assert 'expanded' not in interpretation(api, '"10.4"')
    for text in ('10', '300.4', '10.4.7.1.', '10.04', '2001:db8:xyz', '10.4-7'):
        assert 'expanded' not in interpretation(api, text), text


def test_a_mac_address_finds_itself_in_every_notation(api: Face) -> None:
    api.add_prefix('10.0.0.0/8')
    written = {}
    for n, notation in enumerate(NOTATIONS):
        for attr in (
            {'description': f'port {notation}, up'},
            {'avps': {'mac': notation}},
            {'comment': notation.upper()},
        ):
            prefix = f'10.{len(written)}.0.0/16'
            api.add_prefix(prefix, **attr)
            written[prefix] = attr
        api.add_prefix(f'11.{n}.0.0/16', description='00:1a:2b:3c:4d:5f', avps={'mac': '00:1a:2b:3c:4d:5f', 'x': 'y'})
    for notation in NOTATIONS:
        assert api.smart(notation) == list(written), notation
        assert interpretation(api, notation)['mac_address'] == MAC
        same = [prefix for prefix, attr in written.items() if 'avps' in attr]
        assert api.smart(f'avps.mac={notation}') == same
        assert api.found({'operator': 'equals', 'val1': 'avps.mac', 'val2': notation}) == same
        assert api.found({'operator': 'equals_any', 'val1': 'avps', 'val2': notation}) == same
        others = api.found({'operator': 'not_equals', 'val1': 'avps.mac', 'val2': notation}, max_result=100)
        assert set(others).isdisjoint(same)
        assert len(others) == 1 + len(written) - len(same) + len(NOTATIONS)
    assert len(api.found({'operator': 'equals_any', 'val1': 'avps', 'val2': 'Y'})) == len(NOTATIONS)
    api.add_vrf('1:1', 'v', avps={'mac': NOTATIONS[1]})
    api.add_pool('p', description=NOTATIONS[2])
    for kind, name in (('vrf', 'v'), ('pool', 'p')):
        found = api.call(f'smart_search_{kind}', query_string=NOTATIONS[0])['result']
        assert [row['name'] for row in found] == [name]


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text('0123456789abcdef', min_size=12, max_size=12), st.data())
def test_any_mac_address_in_any_two_notations(backend_face: Face, digits: str, data: st.DataObject) -> None:
    forms = [notation_of(digits, sign, width) for sign, width in ((':', 2), ('-', 2), ('.', 4), ('', 12), ('-', 6))]
    stored, sought = data.draw(st.permutations(forms))[:2]
    row = backend_face.add_prefix('10.0.0.0/8', avps={'mac': stored, 'text': f'at {stored}'}, description=stored)
    assert backend_face.smart(sought) == backend_face.smart(f'avps.mac="{sought}"') == ['10.0.0.0/8']
    backend_face.call('edit_prefix', prefix={'id': row['id']}, attr={'description': None})
    assert backend_face.smart(sought) == ['10.0.0.0/8']
    backend_face.call('remove_prefix', prefix={'id': row['id']})


def notation_of(digits: str, sign: str, width: int) -> str:
    return sign.join(digits[n : n + width] for n in range(0, 12, width))


@pytest.mark.parametrize('kind', ['prefix', 'vrf', 'pool', 'asn'])
@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('(', 'unclosed parentheses'),
        ('foo (', 'unclosed parentheses'),
        ('(foo', 'unclosed parentheses'),
        (')', 'unopened parentheses'),
        ('foo)', 'unopened parentheses'),
        ('foo ) bar', 'unopened parentheses'),
        ('(foo))', 'unopened parentheses'),
    ],
)
def test_parentheses_without_a_partner(api: Face, kind: str, text: str, message: str) -> None:
    answer = api.call(f'smart_search_{kind}', query_string=text)
    assert (answer['error'], answer['error_message']) == (True, 'query interpretation failed')
    assert message in str(answer['interpretation'])
    assert answer['result'] == []


def test_parentheses_inside_words(api: Face) -> None:
    api.add_prefix('10.0.0.0/8', description='foo(bar fo)o')
    for text in ('foo(bar', 'fo)o', 'foo(bar fo)o', '"fo)"'):
        assert api.smart(text) == ['10.0.0.0/8'], text
