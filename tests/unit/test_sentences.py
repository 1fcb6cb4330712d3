"""Sentences about changes name every attribute with its value before and after."""

from __future__ import annotations

from typing import Any

import pytest

from nipap.attributes import ASN, POOL, PREFIX, VRF, Attribute
from nipap.history.sentences import UNSAID, sentence

TABLES = {'vrf': VRF, 'pool': POOL, 'prefix': PREFIX, 'asn': ASN}
NAMES = {('vrf', 0): 'default', ('vrf', 7): 'blue', ('pool', 3): 'links', ('pool', 4): 'loopbacks'}
OWN: dict[str, dict[str, Any]] = {
    'vrf': {'id': 7, 'rt': '65000:7', 'name': 'blue'},
    'pool': {'id': 3, 'name': 'links'},
    'prefix': {'id': 1, 'vrf_id': 7, 'prefix': '192.0.2.0/24', 'type': 'assignment'},
    'asn': {'asn': 64500},
}
OBJECT = {
    'vrf': 'VRF blue (65000:7)',
    'pool': 'pool links',
    'prefix': 'prefix 192.0.2.0/24 in VRF blue',
    'asn': 'AS64500',
}
# Two stored values for each kind of attribute, with their words.
VALUES: dict[str, tuple[tuple[Any, str], tuple[Any, str]]] = {
    'text': (('old', "'old'"), ('new', "'new'")),
    'rt': (('65000:7', "'65000:7'"), ('65000:8', "'65000:8'")),
    'integer': ((17, '17'), (18, '18')),
    'boolean': ((False, 'false'), (True, 'true')),
    'network': (('192.0.2.0/24', "'192.0.2.0/24'"), ('198.51.100.0/24', "'198.51.100.0/24'")),
    'tags': ((['a', 'b'], "'a' + 'b'"), (['c'], "'c'")),
    'expires': (('infinity', 'never'), ('2031-12-31T00:00:00+00:00', "'2031-12-31T00:00:00+00:00'")),
}


def written(kind: str, attribute: Attribute) -> bool:
    """Return whether the attribute is a stored fact that a sentence tells."""
    derived = ('vrf_rt', 'vrf_name', 'pool_name')
    elsewhere = attribute.name in UNSAID and attribute.name != 'prefix'
    return attribute.writable and not elsewhere and (kind == 'vrf' or attribute.name not in derived)


def values_of(attribute: Attribute) -> tuple[tuple[Any, str], tuple[Any, str]]:
    if attribute.name == 'pool_id':
        return (3, "'links'"), (4, "'loopbacks'")
    if attribute.kind == 'enum':
        first, second = attribute.choices[:2]
        return (first, f"'{first}'"), (second, f"'{second}'")
    return VALUES[attribute.kind]


ATTRIBUTES = [
    pytest.param(kind, attribute, id=f'{kind} {attribute.name}')
    for kind, table in TABLES.items()
    for attribute in table.values()
    if written(kind, attribute) and attribute.kind != 'avps'
]


def said(kind: str, action: str, before: Any, after: Any, **others: Any) -> str:
    key = (before or after).get('asn', (before or after).get('id', 1))
    entry = {
        **{'username': 'kim', 'authenticated_as': 'kim', 'action': action, 'kind': kind, 'object_id': key},
        **{'before': before, 'after': after, **others},
    }
    return sentence(entry, lambda kind, key: NAMES.get((kind, key)))


@pytest.mark.parametrize(('kind', 'attribute'), ATTRIBUTES)
def test_an_edit_names_an_attribute_with_its_value_before_and_after(kind: str, attribute: Attribute) -> None:
    (old, old_words), (new, new_words) = values_of(attribute)
    name = 'pool' if attribute.name == 'pool_id' else attribute.name
    before, after = {**OWN[kind], attribute.name: old}, {**OWN[kind], attribute.name: new}
    text = said(kind, 'edit', before, after)
    assert text.startswith('kim edited ')
    assert text.endswith(f': {name} from {old_words} to {new_words}')


CLEARED = [
    each for each in ATTRIBUTES if not each.values[1].never_nil and each.values[1].name not in OWN[each.values[0]]
]


@pytest.mark.parametrize(('kind', 'attribute'), CLEARED)
def test_an_edit_names_an_attribute_that_is_set_or_unset(kind: str, attribute: Attribute) -> None:
    _, (new, words) = values_of(attribute)
    name = 'pool' if attribute.name == 'pool_id' else attribute.name
    nothing = 'never' if attribute.kind == 'expires' else 'nothing'
    without, having = OWN[kind], {**OWN[kind], attribute.name: new}
    assert said(kind, 'edit', without, having) == f'kim edited {OBJECT[kind]}: {name} from {nothing} to {words}'
    assert said(kind, 'edit', having, without).endswith(f': {name} from {words} to {nothing}')


@pytest.mark.parametrize(('kind', 'attribute'), ATTRIBUTES)
@pytest.mark.parametrize('action', ['add', 'remove'])
def test_an_addition_and_a_removal_name_every_value(kind: str, attribute: Attribute, action: str) -> None:
    _, (value, words) = values_of(attribute)
    facts = {**OWN[kind], attribute.name: value}
    text = said(kind, action, *((None, facts) if action == 'add' else (facts, None)))
    assert text.startswith('kim added ' if action == 'add' else 'kim removed ')
    assert str(value if isinstance(value, str) and attribute.name in ('name', 'rt', 'prefix') else words) in text


def test_pairs_are_named_one_by_one() -> None:
    before, after = {**OWN['vrf'], 'avps': {'a': '1', 'b': '2'}}, {**OWN['vrf'], 'avps': {'b': '3', 'c': '4'}}
    assert said('vrf', 'edit', before, after) == (
        "kim edited VRF blue (65000:7): avps.a from '1' to nothing, avps.b from '2' to '3', avps.c from nothing to '4'"
    )
    assert said('vrf', 'add', None, before).endswith(": avps.a '1', avps.b '2'")


def test_the_former_place_of_a_moved_prefix_is_named() -> None:
    before, after = OWN['prefix'], {**OWN['prefix'], 'prefix': '198.51.100.0/24'}
    assert said('prefix', 'edit', before, after) == (
        "kim edited prefix 192.0.2.0/24 in VRF blue: prefix from '192.0.2.0/24' to '198.51.100.0/24'"
    )


def test_an_unknown_vrf_or_pool_is_named_by_its_number() -> None:
    facts = {**OWN['prefix'], 'vrf_id': 99, 'pool_id': 98}
    assert said('prefix', 'add', None, facts) == (
        "kim added prefix 192.0.2.0/24 in VRF 99: pool number 98, type 'assignment'"
    )


def test_the_account_is_named_when_it_acts_for_somebody_else() -> None:
    text = said('asn', 'add', None, OWN['asn'], authenticated_as='web')
    assert text == 'kim (signed in as web) added AS64500'


def test_webhooks_are_named_by_their_url() -> None:
    hook = {'id': 5, 'url': 'https://example.com/', 'enabled': True}
    assert said('webhook', 'edit', hook, {**hook, 'enabled': False}) == (
        'kim edited webhook 5 (https://example.com/): enabled from true to false'
    )
    assert said('webhook', 'resend', hook, {**hook, 'dead_letters': [3, 4]}) == (
        'kim resent dead letters of webhook 5 (https://example.com/): dead_letters 3 + 4'
    )


def test_long_values_are_cut() -> None:
    text = said('asn', 'edit', OWN['asn'], {**OWN['asn'], 'name': 'x' * 10_000})
    assert len(text) < 400
