"""Smart search: a text is read as a query, the answer has the interpretation, and no text is ever a fault."""

from __future__ import annotations

from typing import Any

import pytest
from contract_faces import CALLS, Face
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

NET, OFFICE, HOST, LAB, V6, CUSTOMER = (
    '10.0.0.0/8',
    '10.1.1.0/24',
    '10.1.1.1/32',
    '10.2.0.0/16',
    '2001:db8::/32',
    '192.0.2.0/24',
)
ALL = [NET, OFFICE, HOST, LAB, V6, CUSTOMER]


@pytest.fixture
def plan(api: Face) -> Face:
    """Return a face with six prefixes. `ALL` is their order."""
    api.add_vrf('65000:1', 'customer')
    api.add_pool('loopbacks', ipv4_default_prefix_length=32)
    api.add_prefix(NET, description='Private Space', tags=['rfc1918'], comment='10 for ever')
    api.add_prefix(OFFICE, 'assignment', description='Office LAN', tags=['office'], country='se', vlan=100)
    api.add_prefix(HOST, 'host', description='printer (old)', node='sw1', avps={'site': 'Stockholm'})
    api.add_prefix(LAB, description='oracle *lab*', pool_name='loopbacks', vlan=7, comment='android')
    api.add_prefix(V6, description="office v6 isn't", customer_id='c-1')
    api.add_prefix(CUSTOMER, 'assignment', description='Or else', vrf_rt='65000:1', order_id='o-1')
    return api


FINDS: list[tuple[str, list[str]]] = [
    # words, in any of the five text attributes, without regard to case
    ('office', [OFFICE, V6]),
    ('OFFICE lan', [OFFICE]),
    ('sw1', [HOST]),
    ('c-1', [V6]),
    ('o-1', [CUSTOMER]),
    ('10', [NET]),
    ('10.1.1', [OFFICE, HOST]),
    ('1.2.3', []),
    ('', ALL),
    ('   ', ALL),
    # joined
    ('office or printer', [OFFICE, HOST, V6]),
    ('office OR printer', [OFFICE, HOST, V6]),
    ('office and lan', [OFFICE]),
    ('office AND lan', [OFFICE]),
    ('Or else', [CUSTOMER]),
    ('And else', []),
    ('printer or office and lan', [OFFICE]),  # (printer or office) and lan
    ('office and lan or printer', [OFFICE, HOST]),
    ('printer or office lan', [OFFICE]),
    ('office and', [OFFICE, V6]),
    ('office or', [OFFICE, V6]),
    # grouped
    ('(office)', [OFFICE, V6]),
    ('(office or printer) and type=host', [HOST]),
    ('printer or (office and lan)', [OFFICE, HOST]),
    ('((office) (lan))', [OFFICE]),
    ('type=host and (office or printer)', [HOST]),
    # quoted
    ('"Office LAN"', [OFFICE]),
    ("'office lan'", [OFFICE]),
    ('"LAN Office"', []),
    ('"else"', [CUSTOMER]),
    ('"office v6"', [V6]),
    # words that begin like operators
    ('oracle', [LAB]),
    ('android', [LAB]),
    ('oracle android', [LAB]),
    # addresses and prefixes
    ('10.1.1.1', [NET, OFFICE, HOST]),
    ('2001:db8::1', [V6]),
    ('192.0.2.77', [CUSTOMER]),
    ('10/8', [NET, OFFICE, HOST, LAB]),
    ('10.1/16', [OFFICE, HOST]),
    ('10.1.1.1/24', [OFFICE, HOST]),
    ('2001:DB8::/32', [V6]),
    ('2001:db8::1/32', [V6]),
    ('10.1.1.1 printer', [HOST]),
    ('10/8 or 192.0.2.0/24', [NET, OFFICE, HOST, LAB, CUSTOMER]),
    # tags and route targets
    ('#office', [OFFICE, HOST]),
    ('#OFFICE', [OFFICE, HOST]),
    ('#rfc1918 #office', [OFFICE, HOST]),
    ('#rfc1918 printer', [HOST]),
    ('#none', []),
    ('65000:1', [CUSTOMER]),
    ('65000:2', []),
    # comparisons
    ('vlan=100', [OFFICE]),
    ('vlan = 100', [OFFICE]),
    ('vlan>7', [OFFICE]),
    ('vlan >= 7', [OFFICE, LAB]),
    ('vlan<100', [LAB]),
    ('vlan<=7', [LAB]),
    ('vlan!=7', [NET, OFFICE, HOST, V6, CUSTOMER]),
    ('type=host', [HOST]),
    ('type!=reservation and family=4', [OFFICE, HOST, CUSTOMER]),
    ('prefix_length>=24', [OFFICE, HOST, V6, CUSTOMER]),
    ('description~^Off', [OFFICE]),
    ('description~*^off', [OFFICE, V6]),
    ('node="sw1"', [HOST]),
    ('description="Office LAN"', [OFFICE]),
    ('country=SE', [OFFICE]),
    ('pool=loopbacks', [LAB]),
    ('vrf=65000:1', [CUSTOMER]),
    ('tags=office', [OFFICE]),
    ('tags=OFFICE', [OFFICE]),
    ('inherited_tags=office', [HOST]),
    ('prefix<<10.0.0.0/8', [OFFICE, HOST, LAB]),
    ('prefix <<= 10.0.0.0/8', [NET, OFFICE, HOST, LAB]),
    ('prefix>>10.1.1.1', [NET, OFFICE]),
    ('prefix>>=10.1.1.1', [NET, OFFICE, HOST]),
    ('avps.site=Stockholm', [HOST]),
    ('avps.site~*stock', [HOST]),
    ('indent=2', [HOST]),
    ('children>1', [NET]),
    ('used_addresses>0', [NET, OFFICE, HOST]),
    ('customer_id=c-1 or order_id=o-1', [V6, CUSTOMER]),
]


def test_texts_and_their_matches(plan: Face) -> None:
    found = {}
    for text, _ in FINDS:
        answer = plan.outcome('smart_search_prefix', query_string=text)
        understood = isinstance(answer, dict) and not answer['error']
        found[text] = [row['prefix'] for row in answer['result']] if understood else answer
    assert found == dict(FINDS)


def test_misspelt_names_of_the_old_grammar(plan: Face) -> None:
    """Deliberate difference 12."""
    for text in ('used_addreses>0', 'free_addreses=255', 'used_addresses>0', 'free_addresses=255'):
        assert OFFICE in plan.smart(text), text


def test_a_word_that_is_no_regular_expression_is_literal(plan: Face) -> None:
    """Deliberate difference 6."""
    for word in ('*lab*', *'+[]{}\\^$?.|%_&;', '[a', '{2', '+46', 'a**', 'a{2,1}', '--', '[z-a]', '\\x'):
        found = plan.smart(word)
        assert word != '*lab*' or found == [LAB]


SIGNS = ('=', '!=', '<', '>', '<=', '>=', '~', '!~', '~*', '!~*', '<<', '>>', '<<=', '>>=', '!', '==')
FORMS = ('{}', 'a {}', '{} a', 'a{}', '{}a', 'name{}', 'name {}', '{0}{0}', 'name {0} {0}', 'a {} b')


@pytest.mark.parametrize('kind', ['prefix', 'vrf', 'pool', 'asn'])
def test_an_unpaired_sign_never_faults(backend_face: Face, kind: str) -> None:
    """Deliberate difference 6."""
    for sign in SIGNS:
        for form in FORMS:
            answer = backend_face.call(f'smart_search_{kind}', query_string=form.format(sign))
            assert isinstance(answer['error'], bool)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('bogus=1', 'unknown attribute'),
        ('vlan=abc', 'invalid value'),
        ('vlan>x', 'invalid value'),
        ('type=bogus', 'invalid value'),
        ('status=bogus', 'invalid value'),
        ('alarm_priority=bogus', 'invalid value'),
        ('"unclosed', 'unclosed quote'),
        ('(unclosed', 'unclosed parentheses'),
        ('((a)', 'unclosed parentheses'),
    ],
)
def test_texts_that_are_not_understood(plan: Face, text: str, message: str) -> None:
    options = {'max_result': 3, 'whatever': 'x'}
    answer = plan.call('smart_search_prefix', query_string=text, search_options=options)
    assert answer['error'] is True
    assert answer['error_message'] == 'query interpretation failed'
    assert answer['result'] == []
    assert answer['search_options'] == options
    part = answer['interpretation']['interpretation']
    assert (part['error'], part['error_message']) == (True, message)


def test_the_part_concerned_is_marked(plan: Face) -> None:
    answer = plan.call('smart_search_prefix', query_string='office and bogus=1')
    assert answer['error'] is True
    whole = answer['interpretation']
    assert whole['operator'] == 'and'
    assert whole['val1']['interpretation']['error'] is False
    assert whole['val2']['interpretation']['error_message'] == 'unknown attribute'


def test_interpretation_of_a_comparison_keeps_sign_and_text(plan: Face) -> None:
    answer = plan.call('smart_search_prefix', query_string='vlan >= 07')
    assert answer['interpretation'] == {
        'operator': '>=',
        'val1': 'vlan',
        'val2': '07',
        'interpretation': {
            'string': 'vlan>=07',
            'interpretation': 'expression',
            'attribute': 'vlan',
            'operator': '>=',
            'error': False,
        },
    }


@pytest.mark.parametrize(
    ('text', 'network', 'member'),
    [('10.1/16', '10.1.0.0/16', 'expanded'), ('10.1.1.9/24', '10.1.1.0/24', 'strict_prefix')],
)
def test_the_network_that_is_used_is_named(plan: Face, text: str, network: str, member: str) -> None:
    answer = plan.call('smart_search_prefix', query_string=text)
    assert answer['interpretation']['val2'] == network
    assert answer['interpretation']['interpretation'][member] == network


def test_a_further_query(plan: Face) -> None:
    extra = {'operator': 'equals', 'val1': 'type', 'val2': 'assignment'}
    answer = plan.call('smart_search_prefix', query_string='office', extra_query=extra)
    assert [row['prefix'] for row in answer['result']] == [OFFICE]
    alone = plan.call('smart_search_prefix', query_string='office')
    assert answer['interpretation'] == {'operator': 'and', 'val1': alone['interpretation'], 'val2': extra}
    assert plan.call('smart_search_prefix', query_string='office', extra_query=None) == alone
    assert (
        plan.fault(
            'smart_search_prefix', query_string='office', extra_query={'operator': 'bogus', 'val1': 'type', 'val2': 'x'}
        ).code
        == 1130
    )


def test_a_missing_text(api: Face) -> None:
    """Deliberate difference 2."""
    for kind in ('vrf', 'pool', 'prefix', 'asn'):
        assert api.fault(f'smart_search_{kind}').code == 1110
        assert api.fault(f'smart_search_{kind}', query_string=None).code == 1110


def test_options_are_checked(api: Face) -> None:
    fault = api.fault('smart_search_prefix', query_string='x', search_options={'max_result': 'many'})
    assert (fault.code, fault.text) == (1200, "Invalid value for option 'max_result'. Only integer values allowed.")


VRFS = {
    'customer': ['customer-a', 'Customer B'],
    'customer b': ['Customer B'],
    '65000': ['customer-a', 'Customer B'],
    '65000:2': ['Customer B'],
    '#vpn': ['customer-a'],
    'name=customer-a': ['customer-a'],
    'rt=65000:2': ['Customer B'],
    'tags=VPN': ['customer-a'],
    'avps.k=v': ['Customer B'],
    'num_prefixes_v4>0': ['customer-a'],
    'default or customer-a': ['default', 'customer-a'],
    '10.0.0.0/8': [],
}


def test_vrfs(api: Face) -> None:
    api.add_vrf('65000:1', 'customer-a', tags=['vpn'])
    api.add_vrf('65000:2', 'Customer B', avps={'k': 'v'})
    api.add_prefix('10.0.0.0/8', vrf_rt='65000:1')
    answers = {text: api.call('smart_search_vrf', query_string=text) for text in VRFS}
    assert {text: [vrf['name'] for vrf in answer['result']] for text, answer in answers.items()} == VRFS
    assert not any(answer['error'] for answer in answers.values())


POOLS = {
    'loop': ['loopbacks'],
    'nets': ['linknets'],
    'POOL': ['linknets', 'loopbacks'],
    '#core': ['loopbacks'],
    'default_type=reservation': ['linknets'],
    'ipv4_default_prefix_length=31': ['linknets'],
    'ipv4_default_prefix_length>=31': ['linknets', 'loopbacks'],
    'member_prefixes_v4>0': ['loopbacks'],
    'vrf=65000:1': ['loopbacks'],
    'avps.site=sto': ['loopbacks'],
}


def test_pools(api: Face) -> None:
    api.add_vrf('65000:1', 'v')
    api.add_pool('loopbacks', tags=['core'], ipv4_default_prefix_length=32, avps={'site': 'sto'})
    api.add_pool('linknets', 'reservation', ipv4_default_prefix_length=31)
    api.add_prefix('10.0.0.0/8', vrf_rt='65000:1', pool_name='loopbacks')
    answers = {text: api.call('smart_search_pool', query_string=text) for text in POOLS}
    assert {text: [pool['name'] for pool in answer['result']] for text, answer in answers.items()} == POOLS
    assert not any(answer['error'] for answer in answers.values())


PIECES = st.sampled_from(
    [
        *'()"\'#=<>!~*[]{}\\|&%$.:;,/+-? ',
        *('and', 'or', 'AND', 'Or', 'vlan', 'prefix', 'type', 'tags', 'avps.', 'vrf', 'pool', 'name', 'rt', 'asn'),
        *('10', '10/8', '10.1.1.1', '1.2.3.4/33', '::', '::1/129', '1:2', '65000:', ':1', '99999999999999999999'),
        *('expires', 'added', 'monitor', 'tomorrow', 'true', 'host', 'office', 'é', '🙂', '\t', '\n'),
    ]
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(PIECES, max_size=12), glue=st.sampled_from(['', ' ']))
def test_no_text_is_ever_a_fault(backend_face: Face, pieces: list[str], glue: str) -> None:
    text = glue.join(pieces)
    for kind in ('vrf', 'pool', 'prefix', 'asn'):
        answer: dict[str, Any] = backend_face.call(f'smart_search_{kind}', query_string=text)
        assert {'search_options', 'result', 'interpretation', 'error'} <= answer.keys()
        assert ('error_message' in answer) is answer['error']


@CALLS
def test_a_very_long_text(api: Face) -> None:
    """Deliberate difference 10."""
    words = ' or '.join(f'word{number}' for number in range(1500))
    assert api.call('smart_search_prefix', query_string=words)['error'] is False
    nested = '(' * 1500 + 'word' + ')' * 1500
    assert api.call('smart_search_prefix', query_string=nested)['error'] is False


LONG = st.tuples(
    st.one_of(
        st.text(max_size=20), st.lists(PIECES, max_size=6).map(' '.join), st.sampled_from([r'\y', '(a+)+$', 'a?'])
    ),
    st.sampled_from([1, 10, 300, 3_000, 30_000]),
    st.sampled_from(['', ' ', ' or ']),
).map(lambda form: form[2].join([form[0]] * form[1]))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.one_of(st.text(), LONG), kind=st.sampled_from(['vrf', 'pool', 'prefix', 'asn']))
@example(text='a\x00b', kind='prefix')
@example(text='\ud800', kind='vrf')
@example(text='(^|$)' * 16, kind='prefix')
@example(text='node~' + '(^|$)' * 16, kind='prefix')
@example(text='node~' + 'x' * 11_000, kind='prefix')
@example(text='x' * 10_001, kind='asn')
@example(text='?' * 1_000, kind='prefix')
@example(text='?' * 1_000 + ' ^$', kind='vrf')
@example(text='?' * 1_001, kind='pool')
@example(text='"' + '(a+)+$' * 10_000 + '"', kind='prefix')
@example(text='"(a+)+$" ' * 2_000, kind='prefix')
@example(text=''.join(chr(0x4E00 + number) for number in range(9_000)), kind='prefix')
@example(text='word ' * 30_000, kind='prefix')
def test_no_text_is_ever_a_fault_however_long(backend_face: Face, text: str, kind: str) -> None:
    answer = backend_face.call(f'smart_search_{kind}', query_string=text)
    assert answer['error'] is ('error_message' in answer)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('a\x01', 'forbidden character'),
        ('x' * 10_001, 'too long'),
        ('x' * 100_001, 'too long'),
        ('node~' + r'\y' * 900, 'invalid value'),
        ('node!~*' + r'\m' * 5_000, 'invalid value'),
        ('"' + r'\m' * 2_000 + '"', 'invalid value'),
    ],
)
def test_what_would_cost_too_much(backend_face: Face, text: str, message: str) -> None:
    answer = backend_face.call('smart_search_prefix', query_string=text)
    assert answer['error_message'] == 'query interpretation failed'
    assert answer['interpretation']['interpretation']['error_message'] == message


def test_a_word_that_costs_too_much_is_literal(plan: Face) -> None:
    """The words beside it are literal too."""
    word = r'\y' * 100
    plan.add_prefix('198.51.100.0/24', description=f'Named {word}')
    assert plan.smart(word) == ['198.51.100.0/24']
    assert plan.smart(f'{word} ^named') == ['198.51.100.0/24']
    assert plan.smart(f'{word} or ^sw[0-9]$') == [HOST, '198.51.100.0/24']


# The interpretations of these words nest deeper than JSON is written: see test_face_differences.
@CALLS
def test_hundreds_of_words(plan: Face) -> None:
    words = [f'word{number}' for number in range(700)]
    assert plan.smart(' or '.join(['office', *words, 'sw1'])) == [OFFICE, HOST, V6]
    assert plan.smart(' '.join(['office', *['lan'] * 700])) == [OFFICE]
    assert plan.smart(' '.join(['office', *words])) == []
    mixed = ' '.join(f'(office or {word}) and (lan or {word})' for word in words[:150])
    assert plan.smart(mixed) == [OFFICE]


def test_an_extra_query_that_is_none_is_refused_whatever_the_text(api: Face) -> None:
    for text in ('x', '(x'):
        fault = api.fault('smart_search_prefix', query_string=text, extra_query={'val1': 'prefix'})
        assert fault.code == 1110


@pytest.mark.parametrize('text', ['10.0.0.1', '(10.0.0.1'])
def test_options_are_looked_at_whatever_the_text(api: Face, text: str) -> None:
    """The options are checked even if the text is not understood and nothing is searched."""
    fault = api.fault('smart_search_prefix', query_string=text, search_options={'after': 'junk', 'max_result': 10})
    assert (fault.code, "for option 'after'" in fault.text) == (1200, True)
