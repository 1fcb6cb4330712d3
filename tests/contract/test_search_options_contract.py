"""Search options: pages, relatives of matches, and the options in the answer."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from contract_faces import Face

DEFAULTS = {
    'include_all_parents': False,
    'include_all_children': False,
    'parents_depth': 0,
    'children_depth': 0,
    'include_neighbors': False,
    'max_result': 50,
    'offset': 0,
    'parent_prefix': None,
}
TREE = [
    '10.0.0.0/8',
    '10.1.0.0/16',
    '10.1.1.0/24',
    '10.1.1.1/32',
    '10.1.1.2/32',
    '10.1.1.3/32',
    '10.1.2.0/24',
    '10.9.0.0/16',
]
EVERYTHING: dict[str, Any] = {}


def is_prefix(prefix: str) -> dict[str, Any]:
    return {'operator': 'equals', 'val1': 'prefix', 'val2': prefix}


@pytest.fixture
def plan(api: Face) -> Face:
    """Return a face with `TREE`: three levels below one root, the last full of hosts."""
    for prefix in TREE:
        length = prefix.split('/')[1]
        api.add_prefix(prefix, {'24': 'assignment', '32': 'host'}.get(length, 'reservation'))
    return api


def matches(api: Face, query: dict[str, Any], **options: Any) -> dict[str, bool]:
    """Return `match` of each prefix in the answer."""
    rows = api.call('search_prefix', query=query, search_options=options)['result']
    return {row['prefix']: row['match'] for row in rows}


def test_defaults_are_filled_in(plan: Face) -> None:
    for options in ({}, None):
        answer = plan.call('search_prefix', query=EVERYTHING, search_options=options)
        assert answer['search_options'] == DEFAULTS
    answer = plan.call('search_prefix', query=EVERYTHING, search_options={'max_result': '3', 'parents_depth': '1'})
    assert answer['search_options'] == {**DEFAULTS, 'max_result': 3, 'parents_depth': 1}
    answer = plan.call('smart_search_prefix', query_string='', search_options={'include_all_parents': 'true'})
    assert answer['search_options'] == {**DEFAULTS, 'include_all_parents': True}


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        ({}, TREE),
        ({'max_result': 2}, TREE[:2]),
        ({'max_result': '2', 'offset': '1'}, TREE[1:3]),
        ({'offset': 6}, TREE[6:]),
        ({'offset': 99}, []),
        ({'max_result': 0}, []),
        ({'max_result': False}, TREE),
        ({'max_result': None}, TREE),
        ({'max_result': False, 'offset': 7}, TREE[7:]),
    ],
)
def test_pages(plan: Face, options: dict[str, Any], expected: list[str]) -> None:
    assert plan.found(EVERYTHING, **options) == expected
    assert plan.smart('', **options) == expected


def test_no_limit_is_more_than_the_default(api: Face) -> None:
    for number in range(60):
        api.add_prefix(f'10.0.{number}.0/24', 'assignment')
    assert len(api.found({})) == 50
    assert len(api.found({}, max_result=False)) == 60
    assert len(api.found({}, max_result=None)) == 60
    assert len(api.found({}, max_result=1000)) == 60


@pytest.mark.parametrize('name', ['max_result', 'offset'])
@pytest.mark.parametrize('method', ['search_prefix', 'search_vrf', 'search_pool', 'search_asn', 'search_tag'])
def test_negative_or_no_number(api: Face, method: str, name: str) -> None:
    assert api.fault(method, query=EVERYTHING, search_options={name: -1}).code == 1200
    fault = api.fault(method, query=EVERYTHING, search_options={name: 'x'})
    assert (fault.code, fault.text) == (1200, f"Invalid value for option '{name}'. Only integer values allowed.")


@pytest.mark.parametrize('kind', ['vrf', 'pool', 'asn'])
def test_pages_of_the_other_objects(api: Face, kind: str) -> None:
    for number in range(1, 5):
        api.add_vrf(f'1:{number}', f'{number}')
        api.add_pool(f'{number}')
        api.call('add_asn', attr={'asn': number, 'name': f'{number}'})

    def names(**options: Any) -> list[str]:
        plain = api.call(f'search_{kind}', query=EVERYTHING, search_options=options)
        smart = api.call(f'smart_search_{kind}', query_string='', search_options=options)
        assert plain['result'] == smart['result']
        assert plain['search_options'] == smart['search_options']
        return [row['name'] for row in plain['result'] if row['name'] != 'default']

    skip = 1 if kind == 'vrf' else 0
    assert names() == ['1', '2', '3', '4']
    assert names(max_result=0) == []
    assert names(max_result=2, offset=skip + 1) == ['2', '3']
    assert names(max_result='1', offset=str(skip)) == ['1']
    assert names(offset=99) == []


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        ({}, [3]),
        ({'parents_depth': 0}, [3]),
        ({'parents_depth': 1}, [2, 3]),
        ({'parents_depth': 2}, [1, 2, 3]),
        ({'parents_depth': 9}, [0, 1, 2, 3]),
        ({'parents_depth': '-1'}, [0, 1, 2, 3]),
        ({'include_all_parents': True}, [0, 1, 2, 3]),
        ({'include_all_parents': 'true'}, [0, 1, 2, 3]),
        ({'include_neighbors': True}, [3, 4, 5]),
        ({'include_neighbors': True, 'parents_depth': 1}, [2, 3, 4, 5]),
        ({'children_depth': -1}, [3]),
    ],
)
def test_relatives_of_a_host(plan: Face, options: dict[str, Any], expected: list[int]) -> None:
    found = matches(plan, is_prefix('10.1.1.1/32'), **options)
    assert found == {TREE[index]: index == 3 for index in expected}
    assert list(found) == [TREE[index] for index in expected]


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        ({'children_depth': 1}, [1, 2, 6]),
        ({'children_depth': '2'}, [1, 2, 3, 4, 5, 6]),
        ({'children_depth': -1}, [1, 2, 3, 4, 5, 6]),
        ({'include_all_children': True}, [1, 2, 3, 4, 5, 6]),
        ({'include_all_children': True, 'include_all_parents': True}, [0, 1, 2, 3, 4, 5, 6]),
        ({'children_depth': 1, 'parents_depth': 1}, [0, 1, 2, 6]),
        ({'include_neighbors': True}, [1]),  # a reservation has no neighbors
    ],
)
def test_relatives_of_a_reservation(plan: Face, options: dict[str, Any], expected: list[int]) -> None:
    assert matches(plan, is_prefix('10.1.0.0/16'), **options) == {TREE[index]: index == 1 for index in expected}


def test_relatives_that_match_themselves_are_matches(plan: Face) -> None:
    query = {'operator': 'contained_within_equals', 'val1': 'prefix', 'val2': '10.1.1.0/24'}
    found = matches(plan, query, parents_depth=1, include_neighbors=True, children_depth=1)
    assert found == {prefix: prefix != '10.1.0.0/16' for prefix in TREE[1:6]}


def test_relatives_stay_in_the_vrf(plan: Face) -> None:
    plan.add_vrf('1:1', 'v')
    plan.add_prefix('10.1.1.0/24', 'assignment', vrf_rt='1:1')
    plan.add_prefix('10.1.1.2/32', 'host', vrf_rt='1:1')
    rows = plan.call(
        'search_prefix',
        query={'operator': 'equals', 'val1': 'vrf_rt', 'val2': '1:1'},
        search_options={'include_all_parents': True, 'include_all_children': True, 'include_neighbors': True},
    )['result']
    assert [(row['vrf_rt'], row['prefix']) for row in rows] == [('1:1', '10.1.1.0/24'), ('1:1', '10.1.1.2/32')]


def test_pages_count_the_added_rows(plan: Face) -> None:
    """`max_result` and `offset` apply to the merged list."""
    query = is_prefix('10.1.1.2/32')
    merged = [TREE[index] for index in (0, 1, 2, 4)]
    for offset in range(5):
        for size in range(1, 5):
            page = plan.found(query, include_all_parents=True, max_result=size, offset=offset)
            assert page == merged[offset : offset + size]


def test_pages_are_parts_of_the_whole(plan: Face) -> None:
    query = {'operator': 'equals', 'val1': 'prefix_length', 'val2': 24}
    options = {'include_all_children': True, 'parents_depth': 1}
    whole = plan.found(query, **options)
    assert whole == TREE[1:7]
    pages = [plan.found(query, **options, max_result=2, offset=offset) for offset in (0, 2, 4, 6)]
    assert [prefix for page in pages for prefix in page] == whole


def test_parent_prefix_is_that_prefix_and_its_direct_children(plan: Face) -> None:
    """The rows need not satisfy the query. `match` tells whether they do."""
    (parent,) = plan.call('list_prefix', prefix={'prefix': '10.1.0.0/16'})
    hosts = {'operator': 'equals', 'val1': 'type', 'val2': 'assignment'}
    found = matches(plan, hosts, parent_prefix=parent['id'])
    assert found == {'10.1.0.0/16': False, '10.1.1.0/24': True, '10.1.2.0/24': True}
    assert matches(plan, EVERYTHING, parent_prefix=str(parent['id'])) == dict.fromkeys(found, True)
    nothing = {'operator': 'equals', 'val1': 'family', 'val2': 6}
    assert matches(plan, nothing, parent_prefix=parent['id']) == dict.fromkeys(found, False)
    assert list(matches(plan, hosts, parent_prefix=parent['id'], max_result=1, offset=1)) == ['10.1.1.0/24']
    answer = plan.call('search_prefix', query=hosts, search_options={'parent_prefix': parent['id']})
    assert answer['search_options'] == {**DEFAULTS, 'parent_prefix': parent['id']}


def test_an_unknown_parent_prefix(plan: Face) -> None:
    fault = plan.fault('search_prefix', query=EVERYTHING, search_options={'parent_prefix': 12345})
    assert (fault.code, fault.text) == (1300, 'Parent prefix 12345 can not be found')


@pytest.mark.parametrize('name', ['parents_depth', 'children_depth'])
def test_bad_depths(plan: Face, name: str) -> None:
    fault = plan.fault('search_prefix', query=EVERYTHING, search_options={name: -2})
    assert (fault.code, fault.text) == (1200, f"Invalid value for option '{name}'. Only integer values > -1 allowed.")
    assert plan.fault('search_prefix', query=EVERYTHING, search_options={name: 'x'}).code == 1200


@pytest.mark.parametrize('name', ['include_all_parents', 'include_all_children', 'include_neighbors'])
def test_bad_booleans(plan: Face, name: str) -> None:
    fault = plan.fault('search_prefix', query=EVERYTHING, search_options={name: 'x'})
    text = f"Invalid value for option '{name}'. Only true and false valid. Supplied value :'x'"
    assert (fault.code, fault.text) == (1200, text)


def test_order_is_vrf_0_then_route_target_as_numbers_then_prefix(api: Face) -> None:
    for rt in ('65000:10', '65000:9', '10.0.0.0:1', '7:1'):
        api.add_vrf(rt, rt)
        for prefix in ('2001:db8::/32', '10.0.0.0/9', '9.0.0.0/8', '10.0.0.0/8', '100.0.0.0/8'):
            api.add_prefix(prefix, vrf_rt=rt)
    api.add_prefix('192.0.2.0/24')
    prefixes = ['9.0.0.0/8', '10.0.0.0/8', '10.0.0.0/9', '100.0.0.0/8', '2001:db8::/32']
    ordered = ('7:1', '65000:9', '65000:10', '10.0.0.0:1')
    expected = [(None, '192.0.2.0/24'), *((rt, prefix) for rt in ordered for prefix in prefixes)]
    listed = api.call('list_prefix', prefix={})
    assert [(row['vrf_rt'], row['prefix']) for row in listed] == expected
    found = api.call('search_prefix', query={})['result']
    assert [(row['vrf_rt'], row['prefix']) for row in found] == expected
    page = api.call('search_prefix', query={}, search_options={'max_result': 4, 'offset': 4})['result']
    assert [(row['vrf_rt'], row['prefix']) for row in page] == expected[4:8]


def test_edit_answers_in_the_same_shape_and_order(plan: Face) -> None:
    rows = plan.call('edit_prefix', prefix={'type': 'host'}, attr={'comment': 'x'})
    assert [row['prefix'] for row in rows] == TREE[3:6]
    (found, *_) = plan.call('search_prefix', query=is_prefix('10.1.1.1/32'))['result']
    assert found == rows[0]


def test_few_answers_and_many_have_one_order(api: Face) -> None:
    """The order is the same for one statement that sorts and for few rows that are sorted on arrival."""
    for rt in ('65000:9', '65000:10', '1.2.3.4:1'):
        api.call('add_vrf', attr={'rt': rt, 'name': rt})
    for rt in ('1.2.3.4:1', '65000:10', None, '65000:9'):
        for prefix in ('2001:db8::/32', '10.0.0.0/9', '9.0.0.0/8', '10.0.0.0/8', '::/0'):
            api.add_prefix(prefix, vrf_rt=rt)
    expected = [(row['vrf_rt'], row['prefix']) for row in api.call('list_prefix', prefix={})]
    assert [rt for rt, _ in expected[::5]] == [None, '65000:9', '65000:10', '1.2.3.4:1']
    for spec in ({'prefix': '10.0.0.0/8', 'vrf_id': None}, {'vrf_rt': '65000:10'}, {'prefix': '::/0'}, {}):
        listed = [(row['vrf_rt'], row['prefix']) for row in api.call('list_prefix', prefix=spec)]
        assert listed == [key for key in expected if key in listed]
    edited = api.call('edit_prefix', prefix={'vrf_rt': '65000:10'}, attr={'comment': 'x'})
    assert [(row['vrf_rt'], row['prefix']) for row in edited] == expected[10:15]


def test_pages_with_a_cursor(plan: Face) -> None:
    seen: list[str] = []
    after: Any = ''
    for method, members in (('search_prefix', {'query': {}}), ('smart_search_prefix', {'query_string': ''})) * 2:
        answer = plan.call(method, **members, search_options={'max_result': 3, 'after': after})
        assert answer['search_options'] == {**DEFAULTS, 'max_result': 3, 'after': after}
        seen += [row['prefix'] for row in answer['result']]
        after = answer['after']
        if after is None:
            break
    assert seen == TREE
    assert 'after' not in plan.call('search_prefix', query={}, search_options={'max_result': 3})


def test_a_page_that_ends_the_list_exactly_leads_to_an_empty_one(plan: Face) -> None:
    first = plan.call('search_prefix', query={}, search_options={'max_result': len(TREE), 'after': None})
    last = plan.call('search_prefix', query={}, search_options={'max_result': len(TREE), 'after': first['after']})
    assert (len(first['result']), last['result'], last['after']) == (len(TREE), [], None)


def test_changes_between_pages_double_and_miss_no_row(plan: Face) -> None:
    first = plan.call('search_prefix', query={}, search_options={'max_result': 2, 'after': ''})
    plan.call('remove_prefix', prefix={'prefix': '10.1.0.0/16'})  # the last prefix of the page
    plan.add_prefix('10.0.0.0/16', 'reservation')
    rest = plan.call('search_prefix', query={}, search_options={'max_result': 50, 'after': first['after']})
    assert [row['prefix'] for row in rest['result']] == TREE[2:]


def place(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    'after',
    [
        *('x', 'bm90aGluZw==', 'LTEgMA==', 7, ['', ''], 'å'),
        *map(place, ('-1 2147483648 ::/0', '-1 -1 ::/0', '-2 0 ::/0', f'{2**64} 1 ::/0', f'{"9" * 4000} 1 ::/0')),
    ],
)
def test_no_cursor(plan: Face, after: Any) -> None:
    fault = plan.fault('search_prefix', query={}, search_options={'after': after})
    assert fault.code == 1200
    assert fault.text.startswith('Invalid value ')
    assert fault.text.endswith(
        "for option 'after', must be the 'after' of the previous answer, or '' for the first page"
    )


@pytest.mark.parametrize('max_result', [None, False, 10_001])
def test_a_cursor_needs_a_limit(plan: Face, max_result: Any) -> None:
    fault = plan.fault('search_prefix', query={}, search_options={'after': '', 'max_result': max_result})
    assert (fault.code, fault.text) == (1200, "Option 'after' needs a 'max_result' of at most 10000")


@pytest.mark.parametrize('smart', [False, True])
def test_pages_of_other_objects_with_a_cursor(api: Face, smart: bool) -> None:
    for number in range(4):
        api.add_vrf(f'65000:{number}', f'v{number}', tags=[f'vt{number}'])
        api.add_pool(f'v{number}')
        api.call('add_asn', attr={'asn': number + 1, 'name': f'v{number}'})
    for kind, key in (('vrf', 'name'), ('pool', 'name'), ('asn', 'name'), ('tag', 'name')):
        if smart and kind == 'tag':
            continue
        method = f'smart_search_{kind}' if smart else f'search_{kind}'
        pattern = {'operator': 'regex_match', 'val1': key, 'val2': '^v'}
        asked = {'query_string': 'v[0-9]'} if smart else {'query': pattern}
        found: list[Any] = []
        after: Any = ''
        while after is not None:
            answer = api.call(method, **asked, search_options={'max_result': 3, 'after': after})
            assert answer['search_options'] == {'max_result': 3, 'offset': 0, 'after': after}
            found.append([item[key] for item in answer['result']])
            after = answer['after']
        t = 't' if kind == 'tag' else ''
        assert found == [[f'v{t}0', f'v{t}1', f'v{t}2'], [f'v{t}3']]
        plain = api.call(method, **asked, search_options={'max_result': 3})
        assert plain['search_options'] == {'max_result': 3, 'offset': 0}
        assert 'after' not in plain
