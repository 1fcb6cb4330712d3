"""Long answers are read in another way than short ones; nobody can tell from what they say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from nipap import prefix_search
from nipap.authlib import Actor
from nipap.backend import Backend
from nipap.db import Database
from nipap.errors import NipapError
from nipap.wire import Chunks, encode_response

Calls = Callable[..., Any]
INSIDE = {'operator': 'contained_within', 'val1': 'prefix', 'val2': '10.0.0.0/8'}
HOSTS = {'operator': 'regex_match', 'val1': 'description', 'val2': 'host [0-9]'}

CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    'everything': ('list_prefix', {}),
    'a spec': ('list_prefix', {'prefix': {'vrf_rt': '65000:1'}}),
    'a spec that no index of the tree serves': ('list_prefix', {'prefix': {'type': 'host'}}),
    'one': ('list_prefix', {'prefix': {'prefix': '10.0.0.0/8', 'vrf_rt': None}}),
    'none': ('list_prefix', {'prefix': {'description': 'nothing'}}),
    'a page': ('search_prefix', {'query': {}, 'search_options': {'max_result': 9, 'offset': 4}}),
    'all': ('search_prefix', {'query': INSIDE, 'search_options': {'max_result': None}}),
    'a pattern': ('search_prefix', {'query': HOSTS, 'search_options': {'max_result': 100}}),
    'a tag': ('search_prefix', {'query': {'operator': 'equals_any', 'val1': 'inherited_tags', 'val2': 'top'}}),
    'no match': ('search_prefix', {'query': {'operator': 'equals', 'val1': 'node', 'val2': 'none'}}),
    'parents': ('search_prefix', {'query': HOSTS, 'search_options': {'include_all_parents': True}}),
    'children': ('search_prefix', {'query': INSIDE, 'search_options': {'children_depth': 1, 'max_result': 12}}),
    'a family': ('search_prefix', {'query': HOSTS, 'search_options': {'parent_prefix': 2}}),
    'words': ('smart_search_prefix', {'query_string': 'host #top', 'search_options': {'max_result': 50}}),
    'words and more': ('smart_search_prefix', {'query_string': 'net', 'extra_query': INSIDE}),
    'words that are not understood': ('smart_search_prefix', {'query_string': '"'}),
    'a bad word': ('smart_search_prefix', {'query_string': 'host (', 'search_options': {'max_result': 50}}),
}
FAULTS: dict[str, tuple[str, dict[str, Any]]] = {
    'a bad pattern': ('search_prefix', {'query': {**HOSTS, 'val2': 'host ('}}),
    'no such parent': ('search_prefix', {'query': {}, 'search_options': {'parent_prefix': 999}}),
}


@pytest.fixture
def filled(backend: Backend, actor: Actor) -> None:
    """A tree of three levels in two VRFs, some of it tagged."""
    backend.add_vrf(actor, {'rt': '65000:1', 'name': 'second'})
    for rt in (None, '65000:1'):
        common = {'vrf_rt': rt, 'description': 'net', 'type': 'reservation'}
        nets = [
            {**common, 'prefix': '10.0.0.0/8', 'tags': ['top']},
            {**common, 'prefix': '10.1.0.0/16', 'tags': ['middle'], 'avps': {'a': '<b>'}},
            {**common, 'prefix': '10.1.1.0/24', 'type': 'assignment'},
            {**common, 'prefix': '2001:db8::/32'},
        ]
        hosts = [
            {**common, 'prefix': f'10.1.1.{i}/32', 'type': 'host', 'description': f'host {i}', 'node': f'n{i}'}
            for i in range(1, 12)
        ]
        backend.add_prefixes(actor, nets + hosts)


@pytest.fixture
def in_chunks(db: Database, filled: None, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """A backend for which three prefixes are many."""
    monkeypatch.setattr(prefix_search, 'AT_ONCE', 4)
    return Backend(db, longest_list=3)


@pytest.mark.parametrize('name', CALLS)
def test_an_answer_in_chunks_is_the_same_to_the_byte(
    backend: Backend, in_chunks: Backend, actor: Actor, name: str
) -> None:
    method, members = CALLS[name]
    expected = getattr(backend, method)(actor, **members)
    answer = getattr(in_chunks, method)(actor, **members)
    assert encode_response(answer) == encode_response(expected)


@pytest.mark.parametrize('name', FAULTS)
def test_a_fault_is_the_same(backend: Backend, in_chunks: Backend, actor: Actor, name: str) -> None:
    method, members = FAULTS[name]
    with pytest.raises(NipapError) as expected:
        encode_response(getattr(backend, method)(actor, **members))
    with pytest.raises(NipapError) as caught:
        encode_response(getattr(in_chunks, method)(actor, **members))
    assert (caught.value.code, str(caught.value)) == (expected.value.code, str(expected.value))
    assert in_chunks.list_prefix(actor, {'id': 1})


def test_only_what_is_long_comes_in_chunks(in_chunks: Backend, actor: Actor) -> None:
    assert isinstance(in_chunks.list_prefix(actor), Chunks)
    assert isinstance(in_chunks.list_prefix(actor, {'prefix': '10.0.0.0/8'}), list)
    for most in (0, 3, 4, None):
        found = in_chunks.search_prefix(actor, {}, {'max_result': most})['result']
        assert isinstance(found, Chunks) == (most not in (0, 3))


def test_what_changes_while_chunks_are_read_is_not_among_them(in_chunks: Backend, actor: Actor, dsn: str) -> None:
    chunks = iter(in_chunks.list_prefix(actor))
    found = list(next(chunks))
    second = Database(dsn)
    Backend(second).remove_prefix(actor, {'prefix': '10.0.0.0/8', 'vrf_id': 0}, recursive=True)
    second.close()
    found += [item for chunk in chunks for item in chunk]
    assert len(found) == 30
    assert [item['indent'] for item in found[:5]] == [0, 1, 2, 3, 3]
    assert len(Backend(in_chunks.db).list_prefix(actor)) == 16


def test_a_batch_answers_with_lists(in_chunks: Backend, actor: Actor) -> None:
    (found,) = in_chunks.batch(actor, [{'method': 'list_prefix', 'args': {}}])
    assert isinstance(found, list)
    assert len(found) == 30
