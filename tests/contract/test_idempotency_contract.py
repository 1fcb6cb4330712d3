"""A changing call with an idempotency key: a repeated call gets the first answer and changes nothing."""

from __future__ import annotations

import uuid
import xmlrpc.client
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import psycopg2
import pytest
from contract_faces import CALLS, BackendFace, Face, XmlRpcFace, actor_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nipap.backend import Backend
from nipap.calls import Request
from nipap.errors import NipapOutcomeUnknownError
from nipap.history import idempotency
from nipap.postgres.database import Database
from nipap.postgres.transaction import Transaction
from nipapd.embedded import SUPERUSER

BLOCK = {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'd', 'tags': ['a'], 'avps': {'k': 'v'}}
POOL = {'name': 'p', 'description': 'd', 'default_type': 'assignment', 'ipv4_default_prefix_length': 24}
FROM_POOL = {'from-pool': {'name': 'p'}, 'family': 4}
REUSED = "The idempotency key 'k' was used for another call, with another method or other arguments"


def allocate(api: Face, key: str = 'k', description: str = 'customer') -> Any:
    return api.call('add_prefix', attr={'description': description}, args=FROM_POOL, idempotency_key=key)


@pytest.fixture
def pool(api: Face) -> Face:
    """Return the face, with a pool to allocate from."""
    api.call('add_pool', attr=POOL)
    api.call('add_prefix', attr={**BLOCK, 'pool_name': 'p'})
    return api


def audit(db: Database) -> int:
    return int(db.read(lambda tx: tx.value('SELECT count(*) FROM audit_log')))


def kept(db: Database) -> list[str]:
    return [key for (key,) in db.read(lambda tx: tx.all('SELECT key FROM idempotency ORDER BY key'))]


def test_the_same_call_has_the_same_answer(pool: Face, db: Database) -> None:
    first = allocate(pool)
    entries = audit(db)
    assert [allocate(pool) for _ in range(3)] == [first] * 3
    assert audit(db) == entries
    assert allocate(pool, 'l')['prefix'] != first['prefix']
    assert pool.allocate(FROM_POOL, description='customer')['prefix'] == '10.0.2.0/24'


def test_the_kept_answer_survives_later_changes(pool: Face) -> None:
    first = allocate(pool)
    pool.call('edit_prefix', prefix={'id': first['id']}, attr={'description': 'other'})
    assert allocate(pool) == first
    pool.call('remove_prefix', prefix={'id': first['id']})
    assert allocate(pool) == first
    assert pool.stored(prefix=first['prefix']) == []


ALLOCATION = {'method': 'add_prefix', 'args': {'attr': {'description': 'x'}, 'args': FROM_POOL}}
CHANGES: list[tuple[str, dict[str, Any]]] = [
    ('add_vrf', {'attr': {'rt': '65000:1', 'name': 'one', 'tags': ['b', 'a'], 'avps': {}}}),
    ('edit_vrf', {'vrf': {'rt': '65000:1'}, 'attr': {'name': 'two'}}),
    ('add_pool', {'attr': POOL}),
    ('edit_pool', {'pool': {'name': 'p'}, 'attr': {'description': 'e'}}),
    ('add_asn', {'attr': {'asn': '4200000000', 'name': 'big'}}),
    ('edit_asn', {'asn': {'asn': '4200000000'}, 'attr': {'name': 'bigger'}}),
    ('add_prefix', {'attr': {**BLOCK, 'pool_name': 'p', 'expires': '2040-01-01 00:00:00'}}),
    ('add_prefix', {'attr': {**BLOCK, 'prefix': '2001:db8::/32', 'vrf_rt': '65000:1'}}),
    ('add_prefix', {'attr': {'description': 'allocated'}, 'args': FROM_POOL}),
    ('edit_prefix', {'prefix': {'prefix': '10.0.0.0/24'}, 'attr': {'vlan': 4, 'node': None}}),
    ('batch', {'operations': [ALLOCATION] * 2}),
    ('batch', {'operations': [{'method': 'list_prefix', 'args': {'prefix': {}}}], 'return': 'ids'}),
    ('remove_prefix', {'prefix': {'prefix': '10.0.0.0/24'}}),
    ('remove_asn', {'asn': {'asn': '4200000000'}}),
    ('remove_pool', {'pool': {'name': 'p'}}),
    ('remove_vrf', {'vrf': {'rt': '65000:1'}}),
]


def test_every_change_takes_a_key(api: Face, db: Database) -> None:
    for number, (method, members) in enumerate(CHANGES):
        first = api.call(method, **members, idempotency_key=f'key {number}')
        entries = audit(db)
        assert api.call(method, **members, idempotency_key=f'key {number}') == first, method
        assert audit(db) == entries, method


@pytest.mark.parametrize(
    ('method', 'members'),
    [
        ('add_prefix', {'attr': {'description': 'else'}, 'args': FROM_POOL}),
        ('add_prefix', {'attr': {'description': 'customer'}, 'args': {**FROM_POOL, 'prefix_length': 25}}),
        ('add_vrf', {'attr': {'description': 'customer'}}),
        ('batch', {'operations': []}),
    ],
)
def test_a_key_is_good_for_one_call(pool: Face, method: str, members: dict[str, Any]) -> None:
    first = allocate(pool)
    fault = pool.fault(method, **members, idempotency_key='k')
    assert (fault.code, fault.text) == (1410, REUSED)
    assert pool.stored() == ['10.0.0.0/8', first['prefix']]


@pytest.mark.parametrize('key', ['', 'k' * 256])
def test_invalid_keys_are_refused(api: Face, key: str) -> None:
    check_refused(api, key)


@CALLS
@pytest.mark.parametrize('key', ['a\nb', 7, ['k']])
def test_keys_that_no_header_can_hold_are_refused(api: Face, key: Any) -> None:
    check_refused(api, key)


def check_refused(api: Face, key: Any) -> None:
    fault = api.fault('add_prefix', attr=BLOCK, idempotency_key=key)
    assert fault.code == 1200
    assert 'must be a string of 1 to 255 printable characters' in fault.text
    assert api.stored() == []


def test_each_user_has_keys_of_their_own(pool: Face) -> None:
    first = allocate(pool)
    other = pool.as_user('gateway')
    assert allocate(other)['prefix'] != first['prefix']
    assert allocate(pool) == first


def test_on_whose_behalf_a_call_is_made_belongs_to_it_and_the_rest_of_auth_does_not(pool: Face) -> None:
    first = allocate(pool.as_user('gateway', username='carol'))
    again = pool.as_user('gateway', username='carol', full_name='Carol', authoritative_source='elsewhere')
    assert allocate(again) == first
    with pytest.raises(Exception, match='was used for another call'):
        allocate(pool.as_user('gateway', username='dave'))


def test_a_fault_is_not_kept(pool: Face, db: Database) -> None:
    members = {'attr': {'prefix': '10.1.0.0/16', 'type': 'host', 'description': 'd'}, 'idempotency_key': 'k'}
    first = pool.fault('add_prefix', **members)
    second = pool.fault('add_prefix', **members)
    assert (second.code, second.text) == (first.code, first.text) != (1410, REUSED)
    assert kept(db) == []
    assert allocate(pool)['prefix'] == '10.0.0.0/24'


def test_what_was_refused_may_work_later(pool: Face) -> None:
    args = {'from-pool': {'name': 'q'}, 'family': 4}
    members = {'attr': {'description': 'd'}, 'args': args, 'idempotency_key': 'k'}
    assert pool.fault('add_prefix', **members).code == 1100
    pool.call('edit_pool', pool={'name': 'p'}, attr={'name': 'q'})
    assert pool.call('add_prefix', **members) == pool.call('add_prefix', **members)


def test_a_batch_faults_at_the_same_place(pool: Face, db: Database) -> None:
    bad = {'method': 'add_prefix', 'args': {'attr': {**BLOCK, 'prefix': 'x'}}}
    plain = pool.fault('batch', operations=[ALLOCATION, bad])
    keyed = pool.fault('batch', operations=[ALLOCATION, bad], idempotency_key='k')
    assert (keyed.code, keyed.text) == (plain.code, plain.text)
    assert kept(db) == []


def test_where_nothing_can_be_changed_a_key_means_nothing(pool: Face, db: Database) -> None:
    assert pool.call('list_pool', pool={}, idempotency_key='')[0]['name'] == 'p'
    reader = pool.as_user('readonly')
    fault = reader.fault('add_prefix', attr=BLOCK, idempotency_key='k')
    assert fault.code == 1520
    listing = [{'method': 'list_pool', 'args': {'pool': {}}}]
    assert reader.call('batch', operations=listing, idempotency_key='k')[0][0]['name'] == 'p'
    assert kept(db) == []


def test_a_demoted_user_gets_no_kept_answer(pool: Face) -> None:
    allocate(pool.as_user('gateway'))
    fault = pool.as_user('gateway', readonly=True).fault(
        'add_prefix', attr={'description': 'customer'}, args=FROM_POOL, idempotency_key='k'
    )
    assert fault.code == 1520


def test_keys_expire_and_go(pool: Face, db: Database) -> None:
    answers = [allocate(pool, f'k{number}') for number in range(6)]
    age(db, '23:59:00')
    assert allocate(pool, 'k0') == answers[0]
    age(db, '00:02:00')
    assert allocate(pool, 'k5', 'another call')['prefix'] not in {row['prefix'] for row in answers}
    assert kept(db) == ['k2', 'k3', 'k4', 'k5']
    allocate(pool, 'k6')
    assert kept(db) == ['k4', 'k5', 'k6']
    allocate(pool, 'k7')
    assert kept(db) == ['k5', 'k6', 'k7']


def age(db: Database, by: str) -> None:
    db.run(lambda tx: tx.execute('UPDATE idempotency SET created = created - %s::interval', (by,)))


def test_how_long_keys_are_remembered_is_configured(backend: Backend, db: Database) -> None:
    short, long = (BackendFace(Backend(db, key_hours=hours)) for hours in (1, 8760))
    first = short.call('add_pool', attr=POOL, idempotency_key='k')
    age(db, '2:00:00')
    assert long.call('add_pool', attr=POOL, idempotency_key='k') == first
    assert short.fault('add_pool', attr=POOL, idempotency_key='k').code == 1400


def test_an_answer_that_is_too_large_undoes_the_call(pool: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, 'LARGEST_ANSWER', 100)
    fault = pool.fault('add_prefix', attr={'description': 'd'}, args=FROM_POOL, idempotency_key='k')
    assert fault.code == 1200
    assert 'too large to be stored' in fault.text
    assert pool.stored() == ['10.0.0.0/8']


def test_values_that_nest_without_end_are_refused(api: Face, db: Database) -> None:
    leaf = {'operator': 'equals', 'val1': 'name', 'val2': 'x'}
    query: dict[str, Any] = leaf
    for _ in range(300):
        query = {'operator': 'and', 'val1': query, 'val2': leaf}
    fault = api.fault('batch', operations=[{'method': 'search_vrf', 'args': {'query': query}}], idempotency_key='k')
    assert (fault.code, kept(db)) == (1100, [])
    text = '(' * 400 + 'x' + ')' * 400
    smart = [{'method': 'smart_search_vrf', 'args': {'query_string': text}}]
    first, again = (api.outcome('batch', operations=smart, idempotency_key='k') for _ in range(2))
    assert first == again


# ---- over the backend: types, and a connection lost at COMMIT

TEXTS = st.text(st.characters(exclude_characters='\0'), max_size=20)
SENT = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**255), 2**255 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
    | st.binary(max_size=20)
    | st.datetimes(timezones=st.timezones()).map(lambda moment: moment.replace(fold=0)),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=5),
    max_leaves=20,
)


def alike(one: Any, other: Any) -> bool:
    """Return whether two values are equal and of the same types at all levels."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(alike(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, datetime):  # a time that a zone skips or has twice equals no time of another zone
        return one.isoformat() == other.isoformat()
    return bool(one == other)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(message=SENT)
def test_whatever_is_answered_is_answered_again(backend: Backend, message: Any) -> None:
    operations = [{'method': 'echo', 'args': {'message': message}}, {'method': 'list_vrf', 'args': {}}]
    members = {'operations': operations, 'return': None}
    key = uuid.uuid4().hex
    first, again = (backend.perform(actor_of('alice'), Request('batch', members, key)) for _ in range(2))
    assert alike(first, again)


def test_answers_are_the_same_value_by_value(backend: Backend) -> None:
    for number, (method, members) in enumerate(CHANGES):
        first, again = (backend.perform(actor_of('alice'), Request(method, members, f'key {number}')) for _ in range(2))
        assert alike(first, again), method


class Forgetful(Database):
    """A database that loses its connection at COMMIT, before or after the COMMIT is done."""

    done = 0
    undone = 0

    def run(self, work: Any, outcome: Any = None) -> Any:
        def counted(tx: Transaction) -> Any:
            answer = work(tx)
            if self.undone:
                tx.flush()
                self.undone -= 1
                tx.execute('SELECT pg_terminate_backend(pg_backend_pid())')
            return answer

        answer = super().run(counted, outcome)
        if self.done:
            self.done -= 1
            raise NipapOutcomeUnknownError('unknown')
        return answer


@pytest.mark.parametrize(('undone', 'done'), [(0, 1), (0, 3), (1, 0), (2, 2)])
def test_an_unknown_outcome_does_not_reach_the_client(dsn: str, db: Database, undone: int, done: int) -> None:
    lossy = Forgetful(dsn)
    try:
        api = BackendFace(Backend(lossy))
        lossy.undone, lossy.done = undone, done
        first = api.call('add_prefix', attr=BLOCK, idempotency_key='k')
        assert (lossy.undone, lossy.done) == (0, 0)
        assert api.call('add_prefix', attr=BLOCK, idempotency_key='k') == first
    finally:
        lossy.close()
    assert audit(db) == 1


DIE_AT_COMMIT = """
CREATE SEQUENCE lives;
CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('lives') <= 2 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER die AFTER INSERT ON idempotency DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION die();
"""


def test_a_connection_lost_during_commit(backend: Backend, empty_dsn: str) -> None:
    from nipap.postgres import schema

    schema.install(empty_dsn)
    database = Database(empty_dsn)
    try:
        database.run(lambda tx: tx.execute(DIE_AT_COMMIT))
        api = BackendFace(Backend(database))
        first = api.call('add_prefix', attr=BLOCK, idempotency_key='k')
        assert api.call('add_prefix', attr=BLOCK, idempotency_key='k') == first
        assert audit(database) == 1
        assert database.read(lambda tx: tx.value('SELECT last_value FROM lives')) == 3
    finally:
        database.close()


def test_a_call_without_a_key_asks_nothing_about_keys(backend: Backend, dsn: str) -> None:
    """The call works without the table of keys."""
    api = BackendFace(backend)
    connection = psycopg2.connect(dsn, user=SUPERUSER)
    with connection, connection.cursor() as cursor:
        cursor.execute('ALTER TABLE idempotency RENAME TO elsewhere')
        connection.commit()
        try:
            assert api.call('add_prefix', attr=BLOCK)['prefix'] == '10.0.0.0/8'
        finally:
            cursor.execute('ALTER TABLE elsewhere RENAME TO idempotency')
    connection.close()


# ---- over XML-RPC and the running daemon


def test_the_header_does_what_the_member_does(xmlrpc_face: XmlRpcFace) -> None:
    check_header(xmlrpc_face)


def test_the_daemon_takes_keys(daemon_face: XmlRpcFace) -> None:
    check_header(daemon_face)


def check_header(api: XmlRpcFace) -> None:
    plain = api.post

    def send(header: str | None, **members: Any) -> Any:
        def post(path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
            return plain(path, body, {**headers, 'Idempotency-Key': header} if header else headers)

        face = XmlRpcFace(post)
        return face.outcome('add_vrf', attr={'rt': '65000:1', 'name': 'one', **members.pop('attr', {})}, **members)

    first = send('"k"')
    assert first['rt'] == '65000:1'
    for answer in (send('k'), send(None, idempotency_key='k'), send('"k"', idempotency_key='k')):
        assert answer == first
    assert send('"k"', attr={'description': 'other'}) == (1410, REUSED)
    assert send('"k"', idempotency_key='l')[0] == 1100
    assert send('"l"')[0] == 1400
    assert send('x' * 256)[0] == 1200


def test_the_bytes_of_both_answers_are_the_same(xmlrpc_face: XmlRpcFace) -> None:
    bodies = []
    plain = xmlrpc_face.post

    def post(path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        status, answer = plain(path, body, headers)
        bodies.append(answer)
        return status, answer

    face = XmlRpcFace(post)
    for number, (method, members) in enumerate(CHANGES):
        for _ in range(2):
            face.call(method, **members, idempotency_key=f'key {number}')
        assert bodies[-2] == bodies[-1], method
    assert xmlrpc.client.loads(bodies[-1], use_builtin_types=True)[0] == (None,)
