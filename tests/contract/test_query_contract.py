"""The query language: every operator by word and by sign, every attribute, and invalid queries."""

from __future__ import annotations

from typing import Any

import pytest
from contract_faces import CALLS, SOURCE, Face, XmlRpcFace, as_client_sees

from nipap.attributes import PREFIX
from nipap.search.query import MOST_CONDITIONS, compile_query

Query = dict[str, Any]

NET, OFFICE, HOST, LAB, V6, CUSTOMER = (
    '10.0.0.0/8',
    '10.1.1.0/24',
    '10.1.1.1/32',
    '10.2.0.0/16',
    '2001:db8::/32',
    '192.0.2.0/24',
)
ALL = [NET, OFFICE, HOST, LAB, V6, CUSTOMER]


def q(operator: str, val1: Any, val2: Any) -> Query:
    return {'operator': operator, 'val1': val1, 'val2': val2}


@pytest.fixture
def plan(api: Face) -> Face:
    """Return a face with six prefixes that differ in every kind of attribute. `ALL` is their order."""
    api.add_vrf('65000:1', 'customer')
    api.add_pool('loopbacks', ipv4_default_prefix_length=32)
    api.add_prefix(NET, description='Private Space', tags=['rfc1918', 'Top'], comment='one')
    more: dict[str, Any] = {'vlan': 100, 'monitor': True, 'avps': {'site': 'Stockholm', 'a.b c': 'x'}}
    api.add_prefix(OFFICE, 'assignment', description='Office LAN', tags=['office'], country='se', **more)
    api.add_prefix(HOST, 'host', description=None, node='sw1', vlan=7, monitor=False)
    api.add_prefix(LAB, description='laboratory', status='reserved', pool_name='loopbacks', vlan=4095)
    api.add_prefix(V6, description='office v6', avps={'site': 'oslo'})
    api.add_prefix(CUSTOMER, 'assignment', description='Customer_1', vrf_rt='65000:1', order_id='o-1')
    return api


COMPARISONS: list[tuple[tuple[str, ...], str, Any, list[str]]] = [
    (('equals', '='), 'prefix', '10.1.1.0/24', [OFFICE]),
    (('equals', '='), 'prefix', '10.1.1.1', [HOST]),
    (('equals', '='), 'description', 'Office LAN', [OFFICE]),
    (('equals', '='), 'description', 'office lan', []),
    (('equals', '='), 'vlan', 100, [OFFICE]),
    (('equals', '='), 'vlan', '100', [OFFICE]),
    (('equals', '='), 'type', 'host', [HOST]),
    (('equals', '='), 'monitor', True, [OFFICE]),
    (('equals', '='), 'monitor', 'false', [HOST]),
    (('equals', '='), 'vrf_rt', '65000:1', [CUSTOMER]),
    (('equals', '='), 'vrf_name', 'customer', [CUSTOMER]),
    (('equals', '='), 'pool_name', 'loopbacks', [LAB]),
    (('equals', '='), 'family', 6, [V6]),
    (('equals', '='), 'prefix_length', '16', [LAB]),
    (('equals', '='), 'indent', 1, [OFFICE, LAB]),
    (('equals', '='), 'children', 2, [NET]),
    (('equals', '='), 'total_addresses', str(2**96), [V6]),
    (('equals', '='), 'used_addresses', 65792, [NET]),
    (('equals', '='), 'display_prefix', '10.1.1.1/24', [HOST]),
    (('not_equals', '!='), 'type', 'reservation', [OFFICE, HOST, CUSTOMER]),
    (('not_equals', '!='), 'family', 4, [V6]),
    (('not_equals', '!='), 'prefix', NET, [OFFICE, HOST, LAB, V6, CUSTOMER]),
    (('less', '<'), 'prefix_length', 16, [NET]),
    (('less', '<'), 'vlan', 100, [HOST]),
    (('less_or_equal', '<='), 'vlan', '100', [OFFICE, HOST]),
    (('less_or_equal', '<='), 'prefix_length', 16, [NET, LAB]),
    (('greater', '>'), 'vlan', 100, [LAB]),
    (('greater', '>'), 'total_addresses', str(2**32), [V6]),
    (('greater_or_equal', '>='), 'vlan', 100, [OFFICE, LAB]),
    (('greater_or_equal', '>='), 'indent', '1', [OFFICE, HOST, LAB]),
    (('greater', '>'), 'added', '2000-01-01', ALL),
    (('less', '<'), 'last_modified', '2000-01-01 00:00:00', []),
    (('like',), 'description', 'Off%', [OFFICE]),
    (('like',), 'description', '%a%', [NET, LAB]),
    (('like',), 'description', 'Customer__', [CUSTOMER]),
    (('like',), 'node', 'sw_', [HOST]),
    (('~',), 'description', '^Off', [OFFICE]),
    (('~',), 'description', '^off', [V6]),
    (('!~',), 'description', '[oO]ff', [NET, HOST, LAB, CUSTOMER]),
    (('regex_match', '~*'), 'description', '^off', [OFFICE, V6]),
    (('regex_match', '~*'), 'description', 'lab|LAN', [OFFICE, LAB]),
    (('regex_match', '~*'), 'comment', '^$', [OFFICE, HOST, LAB, V6, CUSTOMER]),  # NULL counts as ''
    (('regex_not_match', '!~*'), 'comment', 'ONE', ALL[1:]),
    (('contains', '>>'), 'prefix', '10.1.1.0/24', [NET]),
    (('contains', '>>'), 'prefix', '10.1.1.1', [NET, OFFICE]),
    (('contains_equals', '>>='), 'prefix', '10.1.1.0/24', [NET, OFFICE]),
    (('contains_equals', '>>='), 'prefix', '2001:db8::1', [V6]),
    (('contains_equals', '>>='), 'prefix', '192.0.2.1', [CUSTOMER]),
    (('contained_within', '<<'), 'prefix', '10.0.0.0/8', [OFFICE, HOST, LAB]),
    (('contained_within', '<<'), 'prefix', '0.0.0.0/0', [NET, OFFICE, HOST, LAB, CUSTOMER]),
    (('contained_within_equals', '<<='), 'prefix', '10.0.0.0/8', [NET, OFFICE, HOST, LAB]),
    (('contained_within_equals', '<<='), 'prefix', '10.1.1.1', [HOST]),
    (('contained_within_equals', '<<='), 'prefix', '::/0', [V6]),
    (('equals_any',), 'tags', 'TOP', [NET]),
    (('equals_any',), 'tags', 'to', []),
    (('equals_any',), 'inherited_tags', 'RFC1918', [OFFICE, HOST, LAB]),
    (('equals_any',), 'inherited_tags', 'office', [HOST]),
    (('is',), 'vlan', None, [NET, V6, CUSTOMER]),
    (('is_not',), 'vlan', None, [OFFICE, HOST, LAB]),
    (('is_not',), 'pool_id', None, [LAB]),
    (('equals', '='), 'vlan', None, [NET, V6, CUSTOMER]),
    (('not_equals', '!='), 'order_id', None, [CUSTOMER]),
    (('equals', '='), 'vrf_rt', None, [NET, OFFICE, HOST, LAB, V6]),
    (('equals', '='), 'vrf_id', None, [NET, OFFICE, HOST, LAB, V6]),
    (('equals', '='), 'avps.site', 'Stockholm', [OFFICE]),
    (('equals', '='), 'avps.site', 'stockholm', []),
    (('regex_match', '~*'), 'avps.site', '^s', [OFFICE]),
    (('like',), 'avps.site', '%o%', [OFFICE, V6]),
    (('equals', '='), 'avps.a.b c', 'x', [OFFICE]),
    (('equals', '='), 'avps.nothing', 'x', []),
    (('is_not',), 'avps.site', None, [OFFICE, V6]),
    (('equals', '='), 'avps.site', None, [NET, HOST, LAB, CUSTOMER]),
    (('equals', '='), 'expires', None, ALL),
    (('equals', '='), 'authoritative_source', SOURCE, ALL),
]


def test_comparisons(plan: Face) -> None:
    found, expected = {}, {}
    for operators, attribute, value, prefixes in COMPARISONS:
        for operator in operators:
            case = f'{attribute} {operator} {value!r}'
            answer = plan.outcome('search_prefix', query=q(operator, attribute, value))
            found[case] = [row['prefix'] for row in answer['result']] if isinstance(answer, dict) else answer
            expected[case] = prefixes
    assert found == expected


def test_and_or(plan: Face) -> None:
    office, host, lab = q('=', 'prefix', OFFICE), q('=', 'prefix', HOST), q('=', 'prefix', LAB)
    assert plan.found(q('or', office, host)) == [OFFICE, HOST]
    assert plan.found(q('and', office, host)) == []
    assert plan.found(q('or', q('and', office, host), lab)) == [LAB]
    assert plan.found(q('and', q('or', office, host), q('=', 'vlan', 7))) == [HOST]


def test_either_of_two_tags(plan: Face) -> None:
    """A search for one tag walks only the prefixes below that tag."""
    plan.call('edit_prefix', prefix={'prefix': V6}, attr={'tags': ['six']})
    plan.add_prefix('2001:db8:1::/48', 'assignment')
    office, six = q('equals_any', 'inherited_tags', 'office'), q('equals_any', 'inherited_tags', 'six')
    assert plan.found(q('or', office, six)) == [HOST, '2001:db8:1::/48']
    assert plan.found(q('or', six, six)) == ['2001:db8:1::/48']


def test_an_empty_query_matches_everything(plan: Face) -> None:
    """Deliberate difference 15."""
    assert plan.found({}) == ALL
    assert plan.found(q('and', {}, q('=', 'prefix', HOST))) == [HOST]


def test_searches_by_every_attribute(plan: Face) -> None:
    """Deliberate difference 12: each attribute with its own value finds the prefix."""
    (row,) = plan.call('search_prefix', query=q('=', 'prefix', OFFICE))['result']
    for name, value in row.items():
        if name in ('tags', 'inherited_tags'):
            assert OFFICE in plan.found(q('equals_any', name, value[0])), name
        elif name in ('added', 'last_modified'):
            assert OFFICE in plan.found(q('<', name, '2999-01-01')), name
        elif name not in ('avps', 'match', 'display'):
            assert OFFICE in plan.found(q('equals', name, value)), name


def test_queries_that_nest(plan: Face) -> None:
    check_depth(plan, 60)


@CALLS
def test_queries_of_any_depth(plan: Face) -> None:
    """Deliberate difference 10."""
    check_depth(plan, 5000)


def check_depth(plan: Face, depth: int) -> None:
    """Search with a query of this depth.

    The request is written by hand, since the standard client's encoder is recursive.
    """
    operators = [('or', 'and')[number % 2] for number in range(depth)]
    if not isinstance(plan, XmlRpcFace):
        query = q('=', 'prefix', HOST)
        for operator in operators:
            query = q(operator, query, q('=', 'family', 4))
        assert len(plan.found(query)) == 5
        return
    answer = as_client_sees(plan.send_body(deep_request(operators)))
    assert len(answer['result']) == 5


def deep_request(operators: list[str]) -> bytes:
    def member(name: str, value: str) -> str:
        return f'<member><name>{name}</name><value>{value}</value></member>'

    def struct(operator: str) -> tuple[str, str]:
        right = f'<struct>{member("operator", "=")}{member("val1", "family")}{member("val2", "<int>4</int>")}</struct>'
        return f'<struct>{member("operator", operator)}<member><name>val1</name><value>', (
            f'</value></member>{member("val2", right)}</struct>'
        )

    shells = [struct(operator) for operator in reversed(operators)]
    inner = f'<struct>{member("operator", "=")}{member("val1", "prefix")}{member("val2", HOST)}</struct>'
    query = ''.join(shell[0] for shell in shells) + inner + ''.join(shell[1] for shell in reversed(shells))
    auth = f'<struct>{member("authoritative_source", SOURCE)}</struct>'
    params = f'<struct>{member("auth", auth)}{member("query", query)}</struct>'
    call = f'<methodName>search_prefix</methodName><params><param><value>{params}</value></param></params>'
    return f"<?xml version='1.0'?><methodCall>{call}</methodCall>".encode()


@pytest.mark.parametrize(
    ('query', 'code', 'text'),
    [
        (q('bogus', 'prefix', 1), 1130, 'No such operator bogus'),
        (q('==', 'prefix', 1), 1130, 'No such operator =='),
        (q('equals', 'bogus', 1), 1100, "Search variable 'bogus' unknown"),
        ({'operator': 'equals', 'val2': 1}, 1110, "'val1' must be specified"),
        ({'operator': 'and', 'val1': 'prefix'}, 1110, "'val2' must be specified"),
        ({'operator': 'or', 'val1': {}}, 1110, "'val2' must be specified"),
        ({'operator': 'equals', 'val1': 'prefix'}, 1110, "Value (val2 in API) for 'prefix' must be specified"),
        (q('equals', 'vlan', 'x'), 1200, 'Invalid syntax for integer (x)'),
        (q('greater', 'prefix_length', 'x'), 1200, 'Invalid syntax for integer (x)'),
    ],
)
def test_bad_queries(plan: Face, query: Query, code: int, text: str) -> None:
    fault = plan.fault('search_prefix', query=query)
    assert (fault.code, fault.text) == (code, text)
    fault = plan.fault('search_prefix', query=q('and', q('=', 'family', 4), query))
    assert (fault.code, fault.text) == (code, text)


@pytest.mark.parametrize('query', [{'val1': 'prefix', 'val2': '10.0.0.0/8'}, None])
def test_a_missing_part(plan: Face, query: Query | None) -> None:
    assert plan.fault('search_prefix', query=query).code == 1110


NO_QUERIES: list[Any] = ['prefix', ['a'], 1, 0, -1, True, q('and', 'x', 'y'), q('and', q('=', 'family', 4), 0)]


def test_a_query_is_a_struct(plan: Face) -> None:
    answers = [(query, plan.outcome('search_prefix', query=query)) for query in NO_QUERIES]
    assert [(query, answer) for query, answer in answers if not is_input_fault(answer)] == []


def is_input_fault(answer: Any) -> bool:
    return isinstance(answer, tuple) and 1100 <= answer[0] < 1200


@pytest.mark.parametrize('value', ['10.1.1.1/24', '2001:db8::1/64', 'garbage', '10.0.0.0/33', ''])
def test_containment_of_an_invalid_network(plan: Face, value: str) -> None:
    for operator in ('contains', '>>=', '<<', 'contained_within_equals', '<<='):
        assert plan.fault('search_prefix', query=q(operator, 'prefix', value)).code == 1200, operator


@pytest.mark.parametrize('expression', ['(', '[', '*', 'a{2,1}', '\\'])
def test_a_bad_regular_expression_is_named(plan: Face, expression: str) -> None:
    """Deliberate difference 1."""
    for operator in ('regex_match', 'regex_not_match', '~', '!~', '~*', '!~*'):
        fault = plan.fault('search_prefix', query=q(operator, 'description', expression))
        assert fault.code == 1200, operator
        assert expression in fault.text


@pytest.mark.parametrize('attribute', ['type', 'status', 'alarm_priority'])
def test_an_unknown_word_finds_nothing_or_is_refused_with_what_is_allowed(plan: Face, attribute: str) -> None:
    fault = plan.fault('search_prefix', query=q('equals', attribute, 'bogus'))
    assert fault.code == 1200
    assert 'bogus' in fault.text


@pytest.mark.parametrize('method', ['search_vrf', 'search_pool', 'search_prefix', 'search_asn', 'search_tag'])
def test_the_language_is_the_same_for_every_object(api: Face, method: str) -> None:
    """Deliberate difference 15, and difference 2 for tags."""
    assert api.call(method, query={})['search_options']['max_result'] == 50
    assert api.fault(method).code == 1110
    fault = api.fault(method, query=q('bogus', 'name', 1))
    assert (fault.code, fault.text) == (1130, 'No such operator bogus')
    fault = api.fault(method, query=q('equals', 'bogus', 1))
    assert (fault.code, fault.text) == (1100, "Search variable 'bogus' unknown")


def test_quotes_and_wildcards_are_data(plan: Face) -> None:
    """A value is never SQL. Only `like` and the regular expressions have wildcards."""
    for value in ("'", "'; DROP TABLE prefix; --", '"', '%', '%s', '%(x)s', '\\', '$1', '{}', 'Off%'):
        for attribute in ('description', 'avps.site', "avps.'", 'avps.%s'):
            assert plan.found(q('equals', attribute, value)) == []
    assert plan.found({}) == ALL


def test_tags_in_use(api: Face) -> None:
    """Deliberate difference 2."""
    api.add_prefix('10.0.0.0/8', tags=['b', 'a', 'a'])
    row = api.add_prefix('10.0.0.0/16', tags=['B', 'c', 'a'])
    names = [tag['name'] for tag in api.call('search_tag', query={})['result']]
    assert sorted(names) == ['B', 'a', 'b', 'c']
    answer = api.call('search_tag', query=q('regex_match', 'name', '^b$'))
    assert sorted(tag['name'] for tag in answer['result']) == ['B', 'b']
    answer = api.call('search_tag', query=q('equals', 'name', 'c'), search_options={'max_result': 1, 'offset': 0})
    assert answer == {'search_options': {'max_result': 1, 'offset': 0}, 'result': [{'name': 'c'}]}
    api.call('remove_prefix', prefix={'id': row['id']})
    names = [tag['name'] for tag in api.call('search_tag', query={})['result']]
    assert sorted(names) == ['a', 'b']


EXPENSIVE = [r'\y' * 20, '(^|$)' * 16, '(a?b?c?){0,255}' * 9, '(' * 16 + 'ab' + ')+' * 16, '.*' * 1_001, 'x' * 10_001]


# The time limit or the memory limit may end the expression, so two ways of asking may give either fault.
@CALLS
@pytest.mark.parametrize('expression', EXPENSIVE, ids=lambda expression: expression[:6])
def test_a_regular_expression_that_costs_too_much_is_refused(plan: Face, expression: str) -> None:
    for operator in ('regex_match', '!~'):
        fault = plan.fault('search_prefix', query=q('or', q('=', 'family', 4), q(operator, 'description', expression)))
        assert fault.code == 1200
        assert 'Invalid regular expression' in fault.text
        assert len(fault.text) < 500


def nested(operators: tuple[str, ...], number: int) -> Query:
    query = q('=', 'prefix', HOST)
    for n in range(number - 1):
        query = q(operators[n % len(operators)], query, q('=', 'id', -n))
    return query


def wide(number: int) -> Query:
    queries = [q('=', 'id', -n) for n in range(number - 1)] + [q('=', 'prefix', HOST)]
    while len(queries) > 1:
        pairs = zip(queries[::2], queries[1::2], strict=False)
        queries = [q('or', *pair) for pair in pairs] + queries[len(queries) // 2 * 2 :]
    return queries[0]


def test_a_query_of_many_conditions(backend_face: Face) -> None:
    backend_face.add_prefix(NET)
    backend_face.add_prefix(OFFICE, 'assignment')
    backend_face.add_prefix(HOST, 'host')
    for query in (wide(MOST_CONDITIONS), nested(('or',), MOST_CONDITIONS), nested(('and', 'or'), MOST_CONDITIONS)):
        answer = backend_face.call('search_prefix', query=query)
        assert [row['prefix'] for row in answer['result'] if row['match']] in ([HOST], [])


@pytest.mark.parametrize('operators', [('or',), ('and',), ('and', 'or')])
def test_a_query_of_too_many_conditions(backend_face: Face, operators: tuple[str, ...]) -> None:
    for number in (MOST_CONDITIONS + 1, 100_000):
        for query in (nested(operators, number), wide(number)):
            fault = backend_face.fault('search_prefix', query=query)
            assert (fault.code, fault.text) == (1200, 'The query has too many conditions, 12000 are accepted')


def test_neighbours_that_are_joined_alike_are_one_join() -> None:
    """PostgreSQL stops at the first condition that decides. The program for a stack is for alternating operators."""
    table = PREFIX
    leaf, other = q('~', 'description', 'a'), q('=', 'vlan', 1)
    chain = leaf
    for _ in range(500):
        chain = q('and', chain, q('or', leaf, other))
    assert 'holds(' not in compile_query(chain, table).sql
    two = compile_query(q('or', q('or', leaf, q('~', 'node', 'a')), q('or', q('~', 'node', 'b'), other)), table)
    assert two.guarded()[0].count('prefix_words') == 2
    assert two.sql.count(' OR ') == 3
