"""Long answers are read in another way than short answers, with the same content."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import orjson
import pytest
from daemon_process import poll
from support import connection_of

from nipap import batch as batches
from nipap.access.authentication import Actor
from nipap.backend import Backend
from nipap.calls import Request
from nipap.errors import NipapError, NipapInputError, NipapTimeoutError, NipapValueError
from nipap.history import idempotency
from nipap.objects import prefix, prefix_search
from nipap.postgres.database import Database
from nipap.postgres.transaction import Transaction
from nipap.rest.objects import parts_of
from nipap.runtime.chunks import Chunks
from nipap.runtime.packed import whole
from nipap.xmlrpc.codec import encode_response

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
    """Add a tree of three levels in two VRFs, partly tagged."""
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
    """Return a backend for which more than three prefixes are a long list."""
    monkeypatch.setattr(prefix_search, 'AT_ONCE', 4)
    monkeypatch.setattr(prefix, 'AT_ONCE', 4)
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


def test_only_long_answers_come_in_chunks(in_chunks: Backend, actor: Actor) -> None:
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


# ---------------------------------------------------------------- batches, and changes of many

EVERY_CALL = [{'method': method, 'args': members} for method, members in CALLS.values()]
ADDITIONS = [
    {
        'method': 'add_prefix',
        'args': {'attr': {'prefix': f'192.0.2.{n}/32', 'type': 'reservation', 'description': 'added'}},
    }
    for n in range(9)
]
REFERENCES = [
    {'method': 'echo', 'args': {'message': [{'$result': [0, 29, 'prefix']}, {'$result': [1, 'result', 5, 'id']}]}},
    {'method': 'echo', 'args': {'message': {'$result': [2, 7, 'prefix']}}},
]
EDIT = {'prefix': {'type': 'host'}, 'attr': {'comment': 'edited'}}


@pytest.fixture
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reduce the objects that a batch handles at once to three."""
    monkeypatch.setattr(batches, '_AT_ONCE', 3)


@pytest.mark.parametrize('wanted', ['all', 'ids'])
@pytest.mark.parametrize('reader', [False, True])
def test_a_batch_answers_the_same(
    backend: Backend, in_chunks: Backend, actor: Actor, few_at_once: None, wanted: str, reader: bool
) -> None:
    operations = [*EVERY_CALL, *EVERY_CALL]
    if reader:
        actor = replace(actor, readonly=True)
    expected = [getattr(backend, method)(actor, **members) for method, members in CALLS.values()] * 2
    if wanted == 'ids':
        expected = batches.only_ids(expected)
    answer = in_chunks.batch(actor, operations, **{'return': wanted})
    assert isinstance(answer, Chunks)
    assert encode_response(answer) == encode_response(expected)
    assert backend.batch(actor, operations, **{'return': wanted}) == expected
    pieces = [orjson.loads(b''.join(parts_of({'result': some}))) for some in (answer, expected)]
    assert pieces[0] == pieces[1]


def test_a_long_answer_can_be_referred_to(in_chunks: Backend, actor: Actor, few_at_once: None) -> None:
    everything = {'method': 'search_prefix', 'args': {'query': {}, 'search_options': {'max_result': None}}}
    listing = {'method': 'list_prefix', 'args': {}}
    ids = whole(in_chunks.batch(actor, [listing, everything], **{'return': 'ids'}))
    for wanted in ('all', 'ids'):
        operations = [listing, everything, listing, *REFERENCES, *ADDITIONS]
        answers = whole(in_chunks.batch(actor, operations, **{'return': wanted}))
        assert answers[3] == ['2001:db8::/32', ids[1][5]]
        assert answers[4] == '10.1.1.5/32'
        assert len(answers) == len(operations)
        in_chunks.remove_prefix(actor, {'prefix': '192.0.2.0/32'})
        for n in range(1, 9):
            in_chunks.remove_prefix(actor, {'prefix': f'192.0.2.{n}/32'})
    with pytest.raises(NipapInputError, match=r'operation 1 \(echo\): \$result \[0\]: the list is too long'):
        in_chunks.batch(actor, [listing, {'method': 'echo', 'args': {'message': {'$result': [0]}}}])


def test_additions_are_answered_in_their_order(in_chunks: Backend, actor: Actor, few_at_once: None) -> None:
    refer = {'method': 'echo', 'args': {'message': {'$result': [7, 'prefix']}}}
    answers = whole(in_chunks.batch(actor, [*reversed(ADDITIONS), refer]))
    assert [answer['prefix'] for answer in answers[:-1]] == [f'192.0.2.{n}/32' for n in reversed(range(9))]
    assert answers[-1] == '192.0.2.1/32'


def test_an_edit_of_many_answers_the_same(backend: Backend, in_chunks: Backend, actor: Actor) -> None:
    answer = in_chunks.edit_prefix(actor, **EDIT)
    assert isinstance(answer, Chunks)
    in_chunks.edit_prefix(actor, {'type': 'host'}, {'comment': 'later'})  # the answer keeps the state of its time
    first = encode_response(answer)
    assert first == encode_response(answer)
    expected = backend.edit_prefix(actor, **EDIT)
    assert len(expected) == 22
    # Two more edits have been made since the answer.
    assert whole(answer) == [
        {**new, 'last_modified': old['last_modified'], 'version': new['version'] - 2}
        for new, old in zip(expected, whole(answer), strict=True)
    ]


@pytest.mark.parametrize('method', ['edit_prefix', 'batch'])
def test_a_long_answer_is_kept(in_chunks: Backend, backend: Backend, actor: Actor, method: str) -> None:
    members = EDIT if method == 'edit_prefix' else {'operations': [*EVERY_CALL, *ADDITIONS]}
    first = in_chunks.perform(actor, Request(method, members, 'key'))
    in_chunks.edit_prefix(actor, {'type': 'host'}, {'comment': 'later'})
    again = in_chunks.perform(actor, Request(method, members, 'key'))
    assert isinstance(again, Chunks)
    assert encode_response(again) == encode_response(first)
    assert backend.perform(actor, Request(method, members, 'key')) == whole(first)


def test_an_answer_that_is_too_long_to_be_kept_is_refused(
    in_chunks: Backend, actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, 'LARGEST_ANSWER', 1000)
    for method, members in (('edit_prefix', EDIT), ('batch', {'operations': EVERY_CALL})):
        with pytest.raises(NipapValueError, match='too large to be stored'):
            in_chunks.perform(actor, Request(method, members, 'key'))
    assert in_chunks.list_prefix(actor, {'comment': 'edited'}) == []


# ---------------------------------------------------------------- time limits of reads

BACKREFERENCES = r'^(.+)(.+)(.+)\3\2\1!$'  # PostgreSQL takes for ever for this pattern
TEXT = ''.join(random.Random(1).choices('abcdefgh', k=2000)) + '!'
SEARCHES: dict[str, tuple[str, dict[str, Any]]] = {
    'a page': ('search_prefix', {}),
    'in chunks': ('search_prefix', {'search_options': {'max_result': None}}),
    'another kind': ('search_vrf', {}),
}


@pytest.mark.parametrize('reader', [False, True])
@pytest.mark.parametrize('keyed', [False, True])
@pytest.mark.parametrize('search', SEARCHES)
def test_reads_in_a_batch_have_the_time_that_others_have(
    dsn: str, backend: Backend, actor: Actor, search: str, keyed: bool, reader: bool
) -> None:
    attr = {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': TEXT}
    backend.add_prefix(actor, attr)
    backend.edit_vrf(actor, {'id': 0}, {'description': TEXT})
    db = Database(dsn, read_timeout_s=0.3)
    hasty = Backend(db, longest_list=3)
    method, members = SEARCHES[search]
    query = {'operator': 'regex_match', 'val1': 'description', 'val2': BACKREFERENCES}
    adding = {'method': 'add_prefix', 'args': {'attr': {**attr, 'prefix': '11.0.0.0/8'}}}
    before = {'method': 'list_prefix', 'args': {}}
    operations = [before if reader else adding, {'method': method, 'args': {**members, 'query': query}}, before]
    actor = replace(actor, readonly=reader)
    keyed_call = partial(hasty.perform, actor, Request('batch', {'operations': operations}, 'key'))
    call = keyed_call if keyed else None
    with pytest.raises(NipapTimeoutError, match=rf'^operation 1 \({method}\): The search took too long') as caught:
        (call or partial(hasty.batch, actor, operations))()
    assert caught.value.code == 1210
    assert [row['prefix'] for row in backend.list_prefix(actor)] == ['10.0.0.0/8']
    assert len(hasty.batch(actor, [before])) == 1
    assert connection_of(db).limit_s == pytest.approx(5.3)
    db.close()


def test_changes_in_a_batch_have_the_time_they_need(dsn: str, backend: Backend, actor: Actor) -> None:
    """Changes after reads in a batch have that time too: these changes wait for another session."""
    backend.add_asn(actor, {'asn': 1, 'name': 'one'})
    db = Database(dsn, read_timeout_s=0.2)
    reading = {'method': 'list_asn', 'args': {}}
    editing = {'method': 'edit_asn', 'args': {'asn': {'asn': 1}, 'attr': {'name': 'two'}}}
    with ThreadPoolExecutor(1) as pool:

        def work(tx: Transaction) -> Future[Any]:
            tx.execute('SELECT 1 FROM asn FOR UPDATE')
            running = pool.submit(Backend(db).batch, actor, [reading, editing, reading])
            poll(lambda: backend.db.read(lambda other: other.value(WAITING)) == 1, 20, lambda: 'nobody waits')
            tx.execute('SELECT pg_sleep(0.5)')
            return running

        blocker = Database(dsn)
        answers = blocker.run(work).result()
    assert [found[0]['name'] for found in answers] == ['one', 'two', 'two']
    blocker.close()
    db.close()


WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
