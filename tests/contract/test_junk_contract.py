"""For any arguments, the answer is a result or a fault of the contract, never an unexpected exception."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from contract_faces import BackendFace
from contract_recording import INTERNALS
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nipap.attributes import ASN, POOL, PREFIX, VRF
from nipap.calls import CALLS

pytestmark = pytest.mark.slow

KNOWN_CODES = {1100, 1110, 1120, 1130, 1200, 1220, 1300, 1400, 1600, 1620}
OPERATORS = (
    *('equals', 'not_equals', 'less', 'greater_or_equal', 'like', 'regex_match', '~', '!~*', 'contains'),
    *('contained_within_equals', 'equals_any', 'is', 'is_not', 'and', 'or', 'bogus'),
)
NAMES = sorted({*VRF, *POOL, *PREFIX, *ASN, 'avps.k', 'avps.', 'bogus', ''})
OPTIONS = (
    *('max_result', 'offset', 'parents_depth', 'children_depth', 'parent_prefix'),
    *('include_all_parents', 'include_all_children', 'include_neighbors'),
)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, 4, 6, -1, 24, 33, 128, 2**31, 2**63, 2**64, -(2**63) - 1, 10**40]),
    st.sampled_from([1.5, -0.0, 1e300]),
    st.sampled_from(
        ['', ' ', '0', '1', '7', '-1', '10' * 20, 'true', 'x', 'never', 'tomorrow', 'host', 'default', 'p']
    ),
    st.sampled_from(
        ['10.0.0.0/8', '10.0.0.0/24', '10.0.0.1', '10.0.0.1/8', '::/0', '::1/64', '0.0.0.0/0', '1:1', '%', '(']
    ),
    st.sampled_from([dt.datetime(2030, 1, 1, tzinfo=dt.UTC), dt.datetime.max.replace(tzinfo=dt.UTC), b'bytes']),
    st.text(max_size=5),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(NAMES), inner, max_size=3)),
    max_leaves=5,
)
attributes = st.dictionaries(st.sampled_from(NAMES), values, max_size=4)
queries = st.recursive(
    st.fixed_dictionaries({'operator': st.sampled_from(OPERATORS), 'val1': st.sampled_from(NAMES), 'val2': values}),
    lambda inner: st.fixed_dictionaries({'operator': st.sampled_from(('and', 'or')), 'val1': inner, 'val2': inner}),
    max_leaves=3,
)
allocation = st.dictionaries(
    st.sampled_from(('from-pool', 'from-prefix', 'family', 'prefix_length', 'count', 'bogus')), values, max_size=4
)
likely: dict[str, st.SearchStrategy[Any]] = {
    'attr': attributes,
    'args': allocation,
    'query': queries,
    'extra_query': queries,
    'search_options': st.dictionaries(st.sampled_from(OPTIONS), scalars, max_size=3),
    'query_string': st.text(max_size=10),
    'sleep': st.just(None),  # a number would make the call sleep
    **dict.fromkeys(('vrf', 'pool', 'prefix', 'asn'), attributes),
    'webhook': st.one_of(st.just({'id': 1}), values),
    'if_version': st.sampled_from((None, None, 1, 2)),
    'partial': st.booleans(),
}


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    method = draw(st.sampled_from(sorted(CALLS)))
    members = {}
    for member in (member.name for member in CALLS[method].members):
        junk = member != 'sleep' and draw(st.integers(0, 5)) == 0
        members[member] = draw(values if junk else likely.get(member, values))
    return method, members


@pytest.fixture
def stocked(backend_face: BackendFace) -> BackendFace:
    """Return the face of a trusted user, after adding an object of each kind for arguments to hit."""
    backend_face.add_vrf('1:1', 'v')
    backend_face.add_pool('p', ipv4_default_prefix_length=26)
    backend_face.add_prefix('10.0.0.0/8', pool_name='p')
    backend_face.add_prefix('10.0.0.0/24', 'assignment', avps={'k': 'x'})
    backend_face.add_prefix('10.0.0.1/32', 'host')
    backend_face.call('add_asn', attr={'asn': 1, 'name': 'x'})
    trusted = backend_face.as_user('gateway')  # this user has all rights
    trusted.call('add_webhook', attr={'url': 'http://127.0.0.1:1/', 'secret': 's' * 16, 'enabled': False})
    return trusted


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(call=('search_prefix', {'query': 1}))
@example(call=('list_prefix', {'prefix': {'id': 2**63}}))
@example(call=('list_asn', {'asn': {'asn': 2**63}}))
@example(call=('edit_vrf', {'vrf': {'id': 2**31}, 'attr': {'name': 'x'}}))
@example(call=('search_pool', {'query': {'operator': '=', 'val1': 'id', 'val2': 10**40}}))
@example(call=('smart_search_vrf', {'query_string': 'a\x00b'}))
@example(call=('smart_search_pool', {'query_string': 'x', 'extra_query': True}))
@example(call=('list_prefix', {'prefix': {'inherited_tags': ['x']}}))
@example(call=('search_prefix', {'query': {'operator': '=', 'val1': 'inherited_tags', 'val2': []}}))
@given(call=calls())
def test_no_arguments_are_an_unexpected_exception(stocked: BackendFace, call: tuple[str, dict[str, Any]]) -> None:
    method, members = call
    answer = stocked.outcome(method, **members)
    if isinstance(answer, tuple):
        code, text = answer
        assert code in KNOWN_CODES, answer
        assert not INTERNALS.search(text), answer
