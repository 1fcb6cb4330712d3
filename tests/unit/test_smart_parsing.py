"""Smart search: the interpretation of texts."""

from __future__ import annotations

import doctest
import ipaddress
import json
import re
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from nipap.search import patterns, smart_parsing
from nipap.search.smart_parsing import (
    LONGEST_TEXT,
    LONGEST_WORD,
    MISSPELT,
    MOST_WORDS,
    SmartQuery,
    mark_invalid,
    parse_asn_query,
    parse_pool_query,
    parse_prefix_query,
    parse_vrf_query,
    patterns_of,
    replace_words,
    words,
)

SESSION = Path(__file__).parents[1] / 'data' / 'session.json'
PARSERS = {'asn': parse_asn_query, 'pool': parse_pool_query, 'prefix': parse_prefix_query, 'vrf': parse_vrf_query}
NUMBERS = {'id', 'vlan', 'prefix_length', 'ipv4_default_prefix_length', 'ipv6_default_prefix_length', 'total_addresses'}
TEXTS = {
    *('prefix', 'type', 'description', 'comment', 'node', 'country', 'order_id', 'customer_id', 'tags'),
    *('inherited_tags', 'pool_name', 'vrf_rt', 'rt', 'name', 'authoritative_source', 'asn'),
}
BLANKS = [' ', '\t', '\n', '  ', '\u00a0', '\u3000']
SIGNS = ['=', '!=', '<', '<=', '>', '>=', '~', '!~', '~*', '!~*', '<<', '<<=', '>>', '>>=']


def attribute_ok(name: str) -> bool:
    return name in NUMBERS | TEXTS or (name.startswith('avps.') and len(name) > 5)


def value_ok(name: str, operator: str, value: str) -> bool:
    if name == 'type':
        return value in ('reservation', 'assignment', 'host')
    if name in NUMBERS:
        return re.fullmatch('[0-9]{1,9}', value) is not None
    if name == 'asn':
        return re.fullmatch('[0-9]{1,20}', value) is not None and 1 <= int(value) <= 4294967295
    if name in ('vrf_rt', 'rt'):
        return all(len(number) < 20 and int(number) <= 4294967295 for number in re.findall('[0-9]+', value))
    return True


def parse(text: str, kind: str = 'prefix') -> SmartQuery:
    return PARSERS[kind](text, attribute_ok, value_ok)


def parts(query: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield all nodes that have an interpretation."""
    pending = [query]
    while pending:
        node = pending.pop()
        if 'interpretation' in node:
            yield node
        pending += [node[side] for side in ('val2', 'val1') if isinstance(node[side], dict)]


def brief(query: Any) -> str:
    """Return the tree on one line: texts in quotes, comparisons and tags as they stand, joins in parentheses."""
    interpretation = query['interpretation']
    if interpretation.get('error'):
        return f'!{interpretation["error_message"]}[{interpretation["string"]}]'
    if interpretation['interpretation'] in ('and', 'or'):
        return f'({brief(query["val1"])} {query["operator"]} {brief(query["val2"])})'
    if interpretation['interpretation'] == 'text':
        return repr(interpretation['string'])
    return f'{interpretation["interpretation"]}:{interpretation["string"]}'


RECORDED = [
    pytest.param(step, id=f'{number}-{step["call"]}')
    for number, step in enumerate(json.loads(SESSION.read_text()))
    if step['call'].startswith('smart_search_') and 'result' in step
]


@pytest.mark.parametrize('step', RECORDED)
def test_recorded_interpretations(step: dict[str, Any]) -> None:
    expected = step['result']['interpretation']
    if 'extra_query' in step['args']:
        assert expected['val2'] == step['args']['extra_query']
        expected = expected['val1']
    answer = parse(step['args']['query_string'], step['call'].removeprefix('smart_search_'))
    assert answer.query == expected
    assert answer.error is step['result']['error']
    assert answer.error_message == step['result'].get('error_message')


def test_the_session_has_smart_searches() -> None:
    assert len(RECORDED) > 30


def test_the_documented_example_runs() -> None:
    assert doctest.testmod(smart_parsing).failed == 0


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('', "''"),
        (' \t\n ', "''"),
        ('a b', "('a' and 'b')"),
        ('a\u00a0b', "('a' and 'b')"),
        ('a or b and c', "(('a' or 'b') and 'c')"),
        ('a and b or c', "(('a' and 'b') or 'c')"),
        ('a AND b OR c', "(('a' and 'b') or 'c')"),
        ('a Or b', "(('a' and 'Or') and 'b')"),
        ('order android', "('order' and 'android')"),
        ('orange or andorra', "('orange' or 'andorra')"),
        ('a and', "'a'"),
        ('a or', "'a'"),
        ('or a', "('or' and 'a')"),
        ('or', "'or'"),
        ('and and', "'and'"),
        ('and and and', "('and' and 'and')"),
        ('a and or b', "(('a' and 'or') and 'b')"),
        ('"and" b', "('and' and 'b')"),
        ('and=1 b', "('and=1' and 'b')"),
        ('a and =1', "('a' and '=1')"),
    ],
)
def test_joining(text: str, expected: str) -> None:
    assert brief(parse(text).query) == expected


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('(office or printer) and type=host', "(('office' or 'printer') and expression:type=host)"),
        ('a and (b or c)', "('a' and ('b' or 'c'))"),
        ('a or(b c)d', "(('a' or ('b' and 'c')) and 'd')"),
        ('((a))', "'a'"),
        ('(a or) b', "('a' and 'b')"),
        ('a (or b)', "('a' and ('or' and 'b'))"),
        ('()', "''"),
        ('a () b', "('a' and 'b')"),
        ('a or () b', "('a' or 'b')"),
        ('Kista(se)', "('Kista' and 'se')"),
        ('(#a)', '(inherited) tag:#a'),
        ('(node=a)', 'expression:node=a'),
        ('(10/8)', 'IPv4 prefix:10/8'),
        ('("a)")', "'a)'"),
        ('a)b', "'a)b'"),
        ('a(b', "'a(b'"),
        ('a( b', "('a(' and 'b')"),
        ('(a(b) c)', "(('a' and 'b') and 'c')"),
        ('a\\) b', "('a\\\\)' and 'b')"),
        ('node=a)', 'expression:node=a)'),
    ],
)
def test_parentheses(text: str, expected: str) -> None:
    assert brief(parse(text).query) == expected


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ("o'brien", '"o\'brien"'),
        ('17"', "'17\"'"),
        ('"a b"', "'a b'"),
        ("'a b' c", "('a b' and 'c')"),
        ('"it\'s"', '"it\'s"'),
        ('""', "''"),
        ('"a""b"', "('a' and 'b')"),
        ('"a"b', "('a' and 'b')"),
        ('"10.0.0.1"', "'10.0.0.1'"),
        ('"#a"', "'#a'"),
        ('"node=a"', "'node=a'"),
        (r'"\d+\"', r"'\\d+\\'"),
    ],
)
def test_quotes(text: str, expected: str) -> None:
    assert brief(parse(text).query) == expected


@pytest.mark.parametrize(
    'text', ['=', '!', '~*', '#', '[', ']', '{', '?', '+', '\\', '->', '=a', 'a=', '<b>', 'a!b', '#=x'[1:], 'a->b']
)
def test_unpaired_signs_are_words(text: str) -> None:
    answer = parse(text)
    assert not answer.error
    assert brief(answer.query) == repr(text)


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('= a', "('=' and 'a')"),
        ('node =', "('node' and '=')"),
        ('(node = )', "('node' and '=')"),
        ('node=(a or b)', "('node=' and ('a' or 'b'))"),
        ('a -> b', "(('a' and '->') and 'b')"),
        ('10.1.1.1=x', "'10.1.1.1=x'"),
        ('http://x/?a=b', "'http://x/?a=b'"),
        ('::=x', "'::=x'"),
    ],
)
def test_signs_without_an_attribute_or_a_value_are_text(text: str, expected: str) -> None:
    answer = parse(text)
    assert not answer.error
    assert brief(answer.query) == expected


@pytest.mark.parametrize('blanks', ['', ' ', '\t \n'])
@pytest.mark.parametrize('sign', SIGNS)
def test_every_sign_compares(sign: str, blanks: str) -> None:
    answer = parse(f'x node{blanks}{sign}{blanks}sw1 y')
    assert brief(answer.query) == f"(('x' and expression:node{sign}sw1) and 'y')"
    comparison = list(parts(answer.query))[3]
    assert (comparison['operator'], comparison['val1'], comparison['val2']) == (sign, 'node', 'sw1')
    assert comparison['interpretation']['operator'] == sign


@pytest.mark.parametrize(
    ('text', 'attribute', 'value'),
    [
        ('node="a b"', 'node', 'a b'),
        ("node = 'a b'", 'node', 'a b'),
        ('node=""', 'node', ''),
        ("node=o'brien", 'node', "o'brien"),
        ('node=a=b', 'node', 'a=b'),
        ('node==a', 'node', '=a'),
        ('node~^(sw|r)1$', 'node', '^(sw|r)1$'),
        ('node~((a)(b))', 'node', '((a)(b))'),
        ('(node~^(sw|r)1$)', 'node', '^(sw|r)1$'),
        ('avps.site=x', 'avps.site', 'x'),
        ('avps.a/b-c.d=x', 'avps.a/b-c.d', 'x'),
        ('avps."my = key" = x', 'avps.my = key', 'x'),
        ("avps.'k'=x", 'avps.k', 'x'),
        ('avps."k=x', 'avps."k', 'x'),
    ],
)
def test_attributes_and_values_of_comparisons(text: str, attribute: str, value: str) -> None:
    query = parse(text).query
    assert (query['val1'], query['val2']) == (attribute, value)


@pytest.mark.parametrize(
    ('kind', 'text', 'operator', 'attribute'),
    [
        ('prefix', 'pool=x', '=', 'pool_name'),
        ('prefix', 'vrf=1:2', '=', 'vrf_rt'),
        ('pool', 'pool~x', '~', 'name'),
        ('pool', 'vrf=1:2', '=', 'vrf_rt'),
        ('vrf', 'vrf=1:2', '=', 'rt'),
        ('prefix', 'tags=x', 'equals_any', 'tags'),
        ('prefix', 'inherited_tags=x', 'equals_any', 'inherited_tags'),
        ('prefix', 'tags!=x', '!=', 'tags'),
        ('prefix', 'cutomer_id=x', '=', 'customer_id'),
        ('pool', 'ipv4_default_prefix_lenght=30', '=', 'ipv4_default_prefix_length'),
    ],
)
def test_other_names_of_attributes(kind: str, text: str, operator: str, attribute: str) -> None:
    answer = parse(text, kind)
    typed = re.split(r'\W', text)[0]
    sign = re.sub(r'[\w:]', '', text)
    assert not answer.error
    assert (answer.query['operator'], answer.query['val1']) == (operator, attribute)
    assert answer.query['interpretation'] == {
        'string': text,
        'interpretation': 'expression',
        'attribute': typed,
        'operator': sign,
        'error': False,
    }


@pytest.mark.parametrize('wrong', sorted(MISSPELT))
def test_misspelt_names_reach_the_right_attribute(wrong: str) -> None:
    answer = parse_prefix_query(f'{wrong}=1', lambda name: name not in MISSPELT, lambda name, sign, value: True)
    assert not answer.error
    assert answer.query['val1'] == MISSPELT[wrong]


@pytest.mark.parametrize(
    ('word', 'kind', 'value', 'more'),
    [
        ('0.0.0.0', 'IPv4 address', '0.0.0.0', {}),
        ('255.255.255.255', 'IPv4 address', '255.255.255.255', {}),
        ('10/8', 'IPv4 prefix', '10.0.0.0/8', {'expanded': '10.0.0.0/8'}),
        ('0/0', 'IPv4 prefix', '0.0.0.0/0', {'expanded': '0.0.0.0/0'}),
        ('10.1.1/16', 'IPv4 prefix', '10.1.0.0/16', {'expanded': '10.1.1.0/16', 'strict_prefix': '10.1.0.0/16'}),
        ('10.0.0.0/8', 'IPv4 prefix', '10.0.0.0/8', {}),
        ('10.1.1.1/32', 'IPv4 prefix', '10.1.1.1/32', {}),
        ('::', 'IPv6 address', '::', {}),
        ('2001:DB8::1', 'IPv6 address', '2001:DB8::1', {}),
        ('::ffff:1.2.3.4', 'IPv6 address', '::ffff:1.2.3.4', {}),
        ('::/0', 'IPv6 prefix', '::/0', {}),
        ('2001:0DB8::/32', 'IPv6 prefix', '2001:0DB8::/32', {}),
        ('2001:db8::1/32', 'IPv6 prefix', '2001:db8::/32', {'strict_prefix': '2001:db8::/32'}),
        ('::1/128', 'IPv6 prefix', '::1/128', {}),
    ],
)
def test_addresses_and_prefixes(word: str, kind: str, value: str, more: dict[str, str]) -> None:
    operator = 'contained_within_equals' if '/' in word else 'contains_equals'
    assert parse(word).query == {
        'operator': operator,
        'val1': 'prefix',
        'val2': value,
        'interpretation': {
            'string': word,
            'interpretation': kind,
            'attribute': 'prefix',
            'operator': operator,
            'error': False,
            **more,
        },
    }


@pytest.mark.parametrize(
    'word',
    [
        *('10', '10.1.1', '10.1.1.1.1', '10.01.1.1', '010/8', '10.1.1.256', '10/33', '10/', '/8', '10/08', '10.1./16'),
        *('0x0a000001', '167772161', '10.1.1.1/255.0.0.0', '10.1.1.1-10.1.1.9', '١٠.1.1.1', '10.0.0.1\u0661'),
        *(':', ':::', '1::2::3', '12345::', '2001:db8', '::/129', '::/', '::/01', '::1%eth0', 'fe80::1%1/64', '1:2:3'),
        *('1:99999999999', '1.2.3.400:1', 'a:1', '1:', ':1', '1:2a', '1' * 5000 + ':1', '1' * 5000 + '/8'),
    ],
)
def test_words_that_only_look_like_addresses_are_text(word: str) -> None:
    assert brief(parse(word).query) == repr(word)


@pytest.mark.parametrize('word', ['1:2', '0:0', '4294967295:4294967295', '1.2.3.4:5'])
def test_route_targets_in_prefix_searches(word: str) -> None:
    query = parse(word).query
    assert brief(query) == f'vrf_rt:{word}'
    assert (query['operator'], query['val1'], query['val2']) == ('equals', 'vrf_rt', word)


@pytest.mark.parametrize('kind', ['vrf', 'pool', 'asn'])
@pytest.mark.parametrize('word', ['10.1.1.1', '10/8', '::1', '1:2'])
def test_addresses_are_text_elsewhere(kind: str, word: str) -> None:
    assert brief(parse(word, kind).query) == repr(word)


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('#a b', "((inherited) tag:#a and 'b')"),
        ('#a=b', '(inherited) tag:#a=b'),
        ('##', '(inherited) tag:##'),
        ('#"a b"c', "((inherited) tag:#a b and 'c')"),
        ('#""', '\'#""\''),
        ('# a', "('#' and 'a')"),
        ('a#b', "'a#b'"),
    ],
)
def test_tags(text: str, expected: str) -> None:
    assert brief(parse(text).query) == expected


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('64512', 'asn:64512'),
        ('4294967295', 'asn:4294967295'),
        ('4294967296', "'4294967296'"),
        ('"64512"', "'64512'"),
        ('as64512', "'as64512'"),
        ('#core', "'#core'"),
        ('65000 or asn>65000', '(asn:65000 or expression:asn>65000)'),
        ('asn=bogus', '!invalid value[asn=bogus]'),
    ],
)
def test_asn_searches(text: str, expected: str) -> None:
    answer = parse(text, 'asn')
    assert brief(answer.query) == expected
    for part in parts(answer.query):
        assert part['interpretation'].get('error', True) is True


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('a "b c', "('a' and !unclosed quote[\"b c])"),
        ("'tis late", "!unclosed quote['tis late]"),
        ('a or node="b c', "('a' or !unclosed quote[node=\"b c])"),
        ('#"b c', '!unclosed quote[#"b c]'),
        ('a (b c', "('a' and !unclosed parentheses[(b c])"),
        ('(', '!unclosed parentheses[(]'),
        ('a (', "('a' and !unclosed parentheses[(])"),
        (')', '!unopened parentheses[)]'),
        ('a) b', '!unopened parentheses[a) b]'),
        ('(a)b)', "('a' and !unopened parentheses[b)])"),
        ('(a) ) b', "('a' and !unopened parentheses[) b])"),
        ('a ((b) c ', "('a' and !unclosed parentheses[((b) c ])"),
        ('a or (b or (c', "('a' or !unclosed parentheses[(b or (c])"),
        ('a ("b) c', "('a' and !unclosed quote[(\"b) c])"),
        ('a or bogus=1 or b', "(('a' or !unknown attribute[bogus=1]) or 'b')"),
        ('(vlan=abc and a) or b', "((!invalid value[vlan=abc] and 'a') or 'b')"),
        ('type=bogus bogus=1', '(!invalid value[type=bogus] and !unknown attribute[bogus=1])'),
        ('avps.=1', '!unknown attribute[avps.=1]'),
        ('no-such=1', '!unknown attribute[no-such=1]'),
        ('Prefix=10/8', '!unknown attribute[Prefix=10/8]'),
    ],
)
def test_errors_stay_where_they_are(text: str, expected: str) -> None:
    answer = parse(text)
    assert brief(answer.query) == expected
    assert answer.error
    assert answer.error_message == 'query interpretation failed'


# Pieces with a meaning, and arbitrary texts.
PIECES = st.sampled_from(
    [
        *'()\'"#=~<>!*[]{}\\+?\x00\ud800🜁',
        *SIGNS,
        *BLANKS,
        *('and', 'or', 'AND', 'a', 'avps.', 'node', 'bogus', 'vlan', 'type=host', 'tags', "o'brien"),
        *('10.1.1.1', '10/8', '2001:db8::1', '::1/64', '1:2', '64512'),
    ]
)
TEXT = st.one_of(st.text(), st.lists(PIECES, max_size=30).map(''.join))
KINDS = st.sampled_from(sorted(PARSERS))


@given(TEXT, KINDS)
@example('(' * 50 + 'a' + ')' * 60, 'prefix')
def test_any_text_has_an_answer(text: str, kind: str) -> None:
    answer = parse(text, kind)
    json.dumps(answer.query)
    errors = [part['interpretation'] for part in parts(answer.query) if part['interpretation'].get('error')]
    assert answer.error is bool(errors)
    assert answer.error_message == ('query interpretation failed' if errors else None)
    assert all(error['error_message'] for error in errors)


def test_errors_are_listed_in_order() -> None:
    query = parse('vlna=5 x (type=bogus or y) z "open').query
    why = [('vlna=5', 'unknown attribute'), ('type=bogus', 'invalid value'), ('"open', 'unclosed quote')]
    assert smart_parsing.objections(query) == why
    assert smart_parsing.objections(parse('a or (b c)').query) == []


@given(TEXT, KINDS)
def test_nothing_typed_is_lost(text: str, kind: str) -> None:
    """Every character except blanks, quotes, parentheses and joining words appears in some interpretation."""
    assume(text.strip() != '*')
    shown = ''.join(part['interpretation'].get('string', part['operator']) for part in parts(parse(text, kind).query))
    for character in set(text) - set('()\'"andorANDOR'):
        assert character.isspace() or character in shown or unicodedata.normalize('NFC', character) in shown


@given(st.text(), st.sampled_from('\'"'), KINDS)
@example('\ufb2a', "'", 'asn')
def test_quoting_makes_any_text_a_word(text: str, quote: str, kind: str) -> None:
    text = text.replace(quote, '')
    query = parse(f'{quote}{text}{quote}', kind).query
    assert brief(query) == repr(text)
    assert words(query) == {unicodedata.normalize('NFC', text)}


@given(st.text(), st.sampled_from('\'"'), st.sampled_from(SIGNS), st.sampled_from(['', *BLANKS]))
def test_quoting_makes_any_text_a_value(text: str, quote: str, sign: str, blanks: str) -> None:
    text = text.replace(quote, '')
    query = parse(f'comment{blanks}{sign}{blanks}{quote}{text}{quote}').query
    stored = unicodedata.normalize('NFC', text)
    assert (query['operator'], query['val1'], query['val2']) == (sign, 'comment', stored)


@given(st.lists(st.from_regex(r'[a-z]{1,4}', fullmatch=True).filter(lambda word: word not in ('and', 'or'))), st.data())
def test_left_to_right(names: list[str], data: st.DataObject) -> None:
    text, expected = '', ''
    for name in names:
        joiner = data.draw(st.sampled_from(['and', 'or', 'AND', 'OR', ''])) if text else ''
        blank = data.draw(st.sampled_from(BLANKS))
        expected = f'({expected} {joiner.lower() or "and"} {name!r})' if expected else repr(name)
        text = f'{text}{blank}{joiner}{blank}{name}'
    assert brief(parse(text).query) == (expected or "''")


@given(st.ip_addresses())
def test_any_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    query = parse(str(address)).query
    assert (query['operator'], query['val2']) == ('contains_equals', str(address))


@given(st.ip_addresses(), st.data())
def test_any_prefix(address: ipaddress.IPv4Address | ipaddress.IPv6Address, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, address.max_prefixlen))
    network = str(ipaddress.ip_network((address, length), strict=False))
    query = parse(f'{address}/{length}').query
    assert (query['operator'], query['val2']) == ('contained_within_equals', network)
    strict = None if network == f'{address}/{length}' else network
    assert query['interpretation'].get('strict_prefix') == strict  # type: ignore[attr-defined]


HOSTILE = {
    'words': 'word ' * 100_000,
    'joined words': 'word or ' * 100_000,
    'joiners': 'and ' * 100_000,
    'opening': '(' * 100_000,
    'opening words': '(a ' * 100_000,
    'closing': ')' * 100_000,
    'nested': '(' * 100_000 + 'a' + ')' * 100_000,
    'empty groups': '()' * 100_000,
    'quotes': '"' * 100_001,
    'quotes and blanks': "' " * 100_001,
    'comparisons': 'node=a ' * 50_000,
    'no values': 'a=(' * 50_000,
    'nested values': 'a=(b' * 50_000 + ')' * 50_000,
    'keys': 'avps."' * 100_000,
    'tags': '#" ' * 100_001,
    'blanks': 'a' + ' ' * 100_000 + 'b',
    'signs': '=' * 100_000,
    'many signs': 'a !~* ' * 50_000,
    'a long name': 'a.b-' * 100_000,
    'digits': '1' * 100_000 + '/8',
    'colons': '1:' * 100_000,
    'octets': '1.' * 100_000,
}


@pytest.mark.parametrize('kind', ['prefix', 'asn'])
@pytest.mark.parametrize('longest', [LONGEST_TEXT, 10**6])
@pytest.mark.parametrize('text', HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_texts_take_little_time(text: str, longest: int, kind: str) -> None:
    started = time.process_time()
    answer = parse(text[:longest], kind)
    found = words(answer.query)
    replaced = replace_words(answer.query, {word: patterns.literal(word) for word in found})
    # The promise on an idle machine is a tenth of a second. Without bounds the time is more than a second.
    assert time.process_time() - started < 1
    assert len(words(replaced)) == len(found)
    assert len(list(parts(answer.query))) <= 2 * MOST_WORDS + 1  # parts, the last error, and the joins


def test_hundreds_of_words_are_understood() -> None:
    for text in (' '.join(['word'] * MOST_WORDS), ' or '.join(['vlan=1'] * MOST_WORDS), 'a' * LONGEST_WORD):
        assert not parse(text).error


def test_too_many_words_are_an_error_where_they_begin() -> None:
    answer = parse('word ' * MOST_WORDS + 'one more')
    assert answer.error
    errors = [part['interpretation'] for part in parts(answer.query) if part['interpretation']['error']]
    assert [(error['string'], error['error_message']) for error in errors] == [('one more', 'too many words')]


def test_a_word_that_is_too_long_is_an_error() -> None:
    long = 'x' * (LONGEST_WORD + 1)
    for text in (f'a {long}', f'a "{long}"'):
        query = parse(text).query
        assert query['val1']['interpretation']['error'] is False
        assert query['val2']['interpretation']['error_message'] == 'too long'


def test_a_text_that_is_too_long_is_one_error() -> None:
    answer = parse('a ' * LONGEST_TEXT)
    assert answer.error
    assert [part['interpretation']['error_message'] for part in parts(answer.query)] == ['too long']


def test_expressions_are_marked_where_they_stand() -> None:
    query = parse('node~[a and (node!~*[b or comment=[a) "[c" [a').query
    assert patterns_of(query)[1] == {'[a', '[b'}
    before = json.dumps(query)
    assert not mark_invalid(query, {'c', 'node'}, {'a', 'and'})
    assert json.dumps(query) == before
    assert mark_invalid(query, {'[a', '[b'}, {'[c'})
    marked = [part['interpretation'] for part in parts(query) if part['interpretation']['error']]
    assert [part['string'] for part in marked] == ['node~[a', 'node!~*[b', '[c']
    assert {part['error_message'] for part in marked} == {'invalid value'}


def test_words_are_the_texts_only() -> None:
    assert words(parse('a "b c" node~x #d 10.0.0.1 1:2 (e or f)').query) == {'a', 'b c', 'e', 'f'}
    assert words(parse('64512 or a', 'asn').query) == {'a'}
    assert words(parse('"unclosed').query) == set()


@pytest.mark.parametrize('make', [parse_prefix_query, parse_vrf_query, parse_pool_query, parse_asn_query])
def test_replacing_words(make: Callable[..., SmartQuery]) -> None:
    query = make('[a or (b name~[a)', attribute_ok, value_ok).query
    before = json.dumps(query)
    replaced = replace_words(query, {'[a': patterns.literal('[a')})
    assert json.dumps(query) == before
    assert json.dumps(replaced).replace('"val2": "***=[a"', '"val2": "[a"') == before
    assert words(replaced) == {'***=[a', 'b'}
    assert replace_words(query, {'c': 'd'}) is query
