"""AS numbers."""

from __future__ import annotations

from typing import Any

import pytest
from contract_faces import Face


def add(api: Face, asn: Any, name: str | None = None) -> dict[str, Any]:
    return api.call('add_asn', attr={'asn': asn, 'name': name})


@pytest.mark.parametrize(
    ('given', 'answered'),
    [
        (1, 1),
        ('65535', 65535),
        (2147483647, 2147483647),
        ('2147483648', '2147483648'),
        ('4294967295', '4294967295'),
    ],
)
def test_numbers_to_32_bits(api: Face, given: object, answered: object) -> None:
    """Deliberate difference 7: an integer if it fits the wire's integer, otherwise a decimal string."""
    assert add(api, given, 'x') == {'asn': answered, 'name': 'x', 'version': 1}
    assert api.call('list_asn', asn={'asn': given}) == [{'asn': answered, 'name': 'x', 'version': 1}]
    query = {'operator': 'equals', 'val1': 'asn', 'val2': given}
    assert api.call('search_asn', query=query)['result'] == [{'asn': answered, 'name': 'x', 'version': 1}]
    assert api.call('edit_asn', asn={'asn': given}, attr={'name': 'y'}) == [
        {'asn': answered, 'name': 'y', 'version': 2}
    ]
    assert api.call('remove_asn', asn={'asn': given}) is None
    assert api.call('list_asn', asn={}) == []


@pytest.mark.parametrize('given', [0, -1, '4294967296', 'abc', '', '65536.1', '1.65536', 'AS', '1.5.2', 'AS64500x'])
def test_bad_numbers_name_the_value_and_what_is_allowed(api: Face, given: object) -> None:
    """Deliberate difference 1."""
    fault = api.fault('add_asn', attr={'asn': given})
    assert fault.code == 1200
    assert str(given) in fault.text
    assert '4294967295' in fault.text


def test_order_is_by_number(api: Face) -> None:
    for asn in (64512, '4200000001', 9, 100):
        add(api, asn, f'AS{asn}')
    expected = [9, 100, 64512, '4200000001']
    assert [row['asn'] for row in api.call('list_asn', asn={})] == expected
    assert [row['asn'] for row in api.call('search_asn', query={})['result']] == expected
    assert [row['asn'] for row in api.call('smart_search_asn', query_string='')['result']] == expected


def test_specifications(api: Face) -> None:
    add(api, 1, 'one')
    add(api, 2, 'two')
    assert api.call('list_asn', asn={'name': 'one'}) == [{'asn': 1, 'name': 'one', 'version': 1}]
    assert api.call('list_asn', asn={'name': 'three'}) == []
    assert api.call('list_asn', asn={'asn': 3}) == []
    fault = api.fault('list_asn', asn='one')
    assert (fault.code, fault.text) == (1100, 'asn specification must be a dict')
    assert api.fault('list_asn', asn={'bogus': 1}).code == 1120


def test_edit(api: Face) -> None:
    """Deliberate differences 9 and 15."""
    add(api, 1, 'one')
    assert api.call('edit_asn', asn={'name': 'one'}, attr={'name': None}) == [{'asn': 1, 'name': None, 'version': 2}]
    assert api.call('edit_asn', asn={'asn': 2}, attr={'name': 'x'}) == []
    fault = api.fault('edit_asn', asn={'asn': 1}, attr={})
    assert (fault.code, fault.text) == (1100, "'attr' must not be empty.")
    fault = api.fault('edit_asn', asn={'asn': 1}, attr='x')
    assert (fault.code, fault.text) == (1100, "'attr' must be a dict")


def test_a_duplicate_is_refused(api: Face) -> None:
    add(api, '4294967295')
    assert api.fault('add_asn', attr={'asn': '4294967295'}).code == 1400


def test_smart_search_never_faults(api: Face) -> None:
    add(api, 64512, 'private')
    for text in ('64512', '9' * 20, '0', '-1', '64512 64513', 'AS 1', '(', '*', '#x', '"x'):
        answer = api.call('smart_search_asn', query_string=text)
        assert answer['result'] == (
            [{'asn': 64512, 'name': 'private', 'version': 1}] if text in ('64512', '*') else []
        ), text


def test_smart_search_with_a_further_query(api: Face) -> None:
    add(api, 64512, 'private')
    add(api, 64513, 'private too')
    extra = {'operator': '>', 'val1': 'asn', 'val2': 64512}
    answer = api.call('smart_search_asn', query_string='private', extra_query=extra)
    assert [row['asn'] for row in answer['result']] == [64513]
    assert (answer['interpretation']['operator'], answer['interpretation']['val2']) == ('and', extra)


def test_an_empty_query_finds_every_number(api: Face) -> None:
    """Deliberate difference 15."""
    add(api, 1)
    assert api.call('search_asn', query={})['result'] == [{'asn': 1, 'name': None, 'version': 1}]
    assert api.fault('search_asn').code == 1110
    assert api.fault('smart_search_asn').code == 1110
