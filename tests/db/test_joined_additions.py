"""Concurrent allocations from one source become one message, and each is done once whatever goes wrong."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import pytest
from support import connection_of, run_fibers, waiting_in

from nipap import errors
from nipap.access.authentication import Actor
from nipap.backend import Backend
from nipap.integrity.check import problems
from nipap.postgres import database as storage
from nipap.postgres import transaction
from nipap.postgres.database import Database
from nipapd.fibers import Fibers

pytestmark = pytest.mark.slow

Outcomes = list[Any]


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that receives the number of allocations of each message."""
    sizes: list[int] = []
    send = transaction.send

    def counted(tx: Any, additions: Any) -> Any:
        sizes.append(len(additions))
        return send(tx, additions)

    monkeypatch.setattr(storage, 'send', counted)
    return sizes


@pytest.fixture
def at_once(backend: Backend, actor: Actor, db: Database) -> Iterator[Callable[..., Outcomes]]:
    """Yield a function that calls add_prefix concurrently, each call in a fiber.

    The function returns answers, or errors, in the order of the calls.
    """
    fibers = Fibers()

    def run(*members: tuple[Any, ...]) -> Outcomes:
        outcomes: dict[int, Any] = {}

        def call(position: int, *args: Any) -> Callable[[], None]:
            def work() -> None:
                try:
                    outcomes[position] = backend.add_prefix(actor, *args)
                except errors.NipapError as error:
                    outcomes[position] = error

            return work

        with waiting_in(fibers):
            run_fibers(fibers, *[call(position, *args) for position, args in enumerate(members)], timeout_s=60)
        return [outcomes[position] for position in range(len(members))]

    yield run
    assert problems(db) == []


@pytest.fixture
def pool(backend: Backend, actor: Actor) -> dict[str, Any]:
    """Return a pool with room for 14 hosts."""
    made = backend.add_pool(
        actor, {'name': 'p', 'description': 'x', 'default_type': 'host', 'ipv4_default_prefix_length': 32}
    )
    backend.add_prefix(actor, {'prefix': '10.0.0.0/28', 'type': 'assignment', 'description': 'x', 'pool_name': 'p'})
    return made


FROM_POOL = {'from-pool': {'name': 'p'}, 'family': 4}


def asked(description: str, **args: Any) -> tuple[Any, ...]:
    return {'description': description}, FROM_POOL | args


def test_concurrent_allocations_are_one_message_and_each_has_its_own_answer(
    backend: Backend, actor: Actor, db: Database, pool: Any, at_once: Any, messages: list[int]
) -> None:
    found = at_once(*[asked(f'number {n}') for n in range(6)])
    assert messages == [1, 5]
    assert [each['description'] for each in found] == [f'number {n}' for n in range(6)]
    assert [each['display_prefix'] for each in found] == [f'10.0.0.{n}/28' for n in range(1, 7)]
    for each in found:
        assert each == backend.list_prefix(actor, {'id': each['id']})[0]
    changes = db.read(lambda tx: tx.all('SELECT change_set, object_id FROM audit_log ORDER BY id DESC LIMIT 6'))
    assert len({change for change, _ in changes}) == 6
    assert [i for _, i in changes] == [each['id'] for each in reversed(found)]
    assert db.read(lambda tx: tx.value('SELECT count(DISTINCT call) FROM change_set WHERE call > 0')) >= 6


def test_each_allocation_keeps_its_own_source(
    backend: Backend, pool: Any, db: Database, at_once: Any, messages: list[int]
) -> None:
    found = at_once(*[({'description': 'x', 'authoritative_source': f'system {n}'}, FROM_POOL) for n in range(4)])
    assert messages == [1, 3]
    assert [each['authoritative_source'] for each in found] == [f'system {n}' for n in range(4)]


def test_allocations_with_other_sources_or_lengths_are_not_joined(
    backend: Backend, actor: Actor, pool: Any, at_once: Any, messages: list[int]
) -> None:
    backend.add_prefix(actor, {'prefix': '10.1.0.0/24', 'type': 'assignment', 'description': 'x'})
    block = {'description': 'x', 'type': 'host'}, {'from-prefix': ['10.1.0.0/24'], 'prefix_length': 32}
    found = at_once(asked('a'), block, asked('b'), block, asked('c', prefix_length=32), asked('d'))
    assert sorted(messages) == [1, 1, 1, 1, 2]
    assert [each['prefix'] for each in found if each['prefix'].startswith('10.1')] == ['10.1.0.1/32', '10.1.0.2/32']


def test_allocations_without_room_fail_and_the_others_succeed(
    backend: Backend, actor: Actor, pool: Any, at_once: Any, messages: list[int]
) -> None:
    found = at_once(*[asked(f'{n}') for n in range(18)])
    refused = [each for each in found if isinstance(each, errors.NipapError)]
    assert len(refused) == 4
    assert {type(each) for each in refused} == {errors.NipapNonExistentError}
    got = [each['prefix'] for each in found if isinstance(each, dict)]
    assert sorted(got, key=lambda prefix: int(prefix.split('.')[-1].split('/')[0])) == [
        f'10.0.0.{n}/32' for n in range(1, 15)
    ]
    assert (
        backend.list_pool(actor, {'name': 'p'})[0]['free_prefixes_v4'] == 2
    )  # the first and the last address are no hosts


@pytest.mark.parametrize(
    ('attr', 'code'),
    [
        ({'description': 'x', 'vlan': 'junk'}, 1200),
        ({'description': 'x', 'pool_name': 'nowhere'}, 1100),
        ({}, 1110),
        ({'description': 'x', 'vrf_rt': '1:1'}, 1300),
        ({'description': 'x', 'vrf_rt': ['junk']}, None),
    ],
)
def test_a_wrong_allocation_spoils_no_other(
    pool: Any, at_once: Any, messages: list[int], attr: dict[str, Any], code: int | None
) -> None:
    found = at_once(asked('a'), asked('b'), (attr, FROM_POOL), asked('c'))
    wrong = found.pop(2)
    assert isinstance(wrong, errors.NipapError)
    assert code in (None, wrong.code)
    if not any(name.startswith('vrf_') for name in attr):  # which is another place
        # An addition that can be refused without the database is refused before it is joined.
        assert messages == [1, 2 if code in (1110, 1200) else 3]
    assert sorted(each['prefix'] for each in found) == [f'10.0.0.{n}/32' for n in range(1, 4)]


def test_names_are_looked_up_for_each_allocation(
    backend: Backend, actor: Actor, at_once: Any, messages: list[int]
) -> None:
    """Names of pools and VRFs are looked up before the message, for every addition."""
    for name in 'abc':
        backend.add_pool(actor, {'name': name, 'description': 'x', 'default_type': 'host'})
    backend.add_prefix(actor, {'prefix': '10.1.0.0/16', 'type': 'reservation', 'description': 'x'})
    source = {'from-prefix': ['10.1.0.0/16'], 'prefix_length': 24}
    found = at_once(
        *[({'description': name, 'type': 'assignment', 'pool_name': name, 'vrf_id': 0}, source) for name in 'abc'],
    )
    assert messages == [1, 2]
    assert [each['pool_name'] for each in found] == ['a', 'b', 'c']


def test_a_message_waits_for_nobody_once_it_holds_something(
    backend: Backend, actor: Actor, at_once: Any, messages: list[int], dsn: str
) -> None:
    """The first member runs full, and the second is locked: its holder might wait for a lock of the message."""
    attr = {'name': 'p', 'description': 'x', 'default_type': 'host', 'ipv4_default_prefix_length': 32}
    backend.add_pool(actor, attr)
    for member in ('10.0.0.0/30', '10.0.1.0/24'):
        backend.add_prefix(actor, {'prefix': member, 'type': 'assignment', 'description': 'x', 'pool_name': 'p'})
    with contextlib.closing(psycopg2.connect(dsn)) as holder, holder.cursor() as cursor:
        cursor.execute("SELECT id FROM prefix WHERE prefix = '10.0.1.0/24' FOR UPDATE")

        def let_go() -> None:
            # The next addition runs alone and is answered while the others wait.
            while len(messages) < 4:
                time.sleep(0.01)
            holder.rollback()

        releasing = threading.Thread(target=let_go)
        releasing.start()
        found = at_once(*[asked(f'{n}') for n in range(4)])
        releasing.join()
    assert sorted(messages) == [1, 1, 1, 1, 3]
    assert sorted(each['prefix'] for each in found) == ['10.0.0.1/32', '10.0.0.2/32', '10.0.1.1/32', '10.0.1.2/32']


@pytest.mark.parametrize('after_sending', [True, False])
def test_a_message_whose_answer_never_comes_is_done_once(
    backend: Backend,
    actor: Actor,
    db: Database,
    pool: Any,
    at_once: Any,
    monkeypatch: pytest.MonkeyPatch,
    *,
    after_sending: bool,
) -> None:
    """Whether the message was committed or not, each call finds the outcome of its own part and is answered."""
    connection = connection_of(db)
    send = transaction.send
    cut: list[int] = []

    def cutting(tx: Any, additions: Any) -> Any:
        if len(additions) > 1 and not cut:
            cut.append(len(additions))
            with socket.socket(fileno=os.dup(tx._cursor.connection.fileno())) as copy:
                copy.shutdown(socket.SHUT_RD if after_sending else socket.SHUT_RDWR)
        return send(tx, additions)

    monkeypatch.setattr(storage, 'send', cutting)
    found = at_once(*[asked(f'number {n}') for n in range(5)])
    assert cut == [4]
    assert connection.closed
    assert [each['description'] for each in found] == [f'number {n}' for n in range(5)]
    assert len({each['prefix'] for each in found}) == 5
    assert len(backend.list_prefix(actor, {'type': 'host'})) == 5


def test_without_a_database_each_is_told(
    backend: Backend, pool: Any, db: Database, at_once: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, 'PATIENCE_S', 0.1)
    db.close()
    real, db._dsn = db._dsn, 'host=/nowhere dbname=x'
    found = at_once(*[asked(f'number {n}') for n in range(4)])
    db._dsn = real
    assert {type(each) for each in found} == {errors.NipapUnavailableError}


def test_an_answer_that_cannot_be_read_again_is_unknown(
    backend: Backend, actor: Actor, db: Database, pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change was committed: the error must not say that nothing was changed."""
    sent: list[int] = []
    message = storage._message

    def lost(session: Any, work: Any, call: int, outcome: Any) -> Any:
        message(session, work, call, outcome)
        sent.append(call)
        raise storage._AnswerLostError(storage.psycopg2.OperationalError('lost'))

    def gone(*_: Any) -> Any:
        raise errors.NipapUnavailableError('away')

    monkeypatch.setattr(storage, '_message', lost)
    monkeypatch.setattr('nipap.objects.prefix.get_by_id', gone)
    with pytest.raises(errors.NipapOutcomeUnknownError):
        backend.add_prefix(actor, *asked('a'))
    with pytest.raises(errors.NipapOutcomeUnknownError):
        backend.add_prefix(actor, {'prefix': '10.2.0.0/16', 'type': 'assignment', 'description': 'x'})
    assert len(sent) == 2
