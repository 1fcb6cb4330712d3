"""Change sets: all changes of one call, with its author and method; the caller receives their number."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from nipap.access.authentication import Actor
from nipap.backend import Backend
from nipap.errors import NipapError
from nipap.history import idempotency, webhook
from nipap.history.audit import Who
from nipap.integrity import check
from nipap.objects import allocate, prefix, vrf
from nipap.objects.prefix_view import as_listed
from nipap.postgres import advisory, migrations
from nipap.postgres.database import Database
from nipap.postgres.transaction import Inside, Outcome, Transaction

REPOSITORY = Path(__file__).resolve().parents[2]
WHO = Who('ann', 'portal', 'Ann Example', 'crm', 'add_prefix', 'r-1', 'k-1', 'new customer', 'import 7')
BLOCK = {'type': 'reservation', 'description': 'd'}
COLUMNS = (
    *('username', 'authenticated_as', 'full_name', 'authoritative_source'),
    *('method', 'request_id', 'idempotency_key', 'reason', 'change_group'),
)

Sets = Callable[[], dict[int, list[tuple[str, str, int]]]]


def add_vrf(tx: Transaction, number: int) -> int:
    return vrf.add(tx, vrf.read_draft({'rt': f'1:{number}', 'name': f'VRF {number}'}, new=True), WHO)


def new(network: str | None = None, description: str = 'd') -> prefix.PrefixDraft:
    place = {} if network is None else {'prefix': network}
    return prefix.read_new({**BLOCK, **place, 'description': description})


@pytest.fixture
def sets(db: Database) -> Sets:
    """Yield a function that returns the new change sets with their entries: action, kind and id of the object."""
    seen = 0

    def look() -> dict[int, list[tuple[str, str, int]]]:
        nonlocal seen
        sql = 'SELECT change_set, id, action, object_type, object_id FROM audit_log WHERE id > %s ORDER BY id'
        found: dict[int, list[tuple[str, str, int]]] = {}
        entries = db.read(lambda tx: tx.all(sql, (seen,)))
        for number, _, action, kind, key in entries:
            found.setdefault(number, []).append((action, kind, key))
        seen = entries[-1][1] if entries else seen
        return found

    return look


def rows(db: Database) -> list[tuple[Any, ...]]:
    return db.read(lambda tx: tx.all(f'SELECT id, {", ".join(COLUMNS)} FROM change_set ORDER BY id'))


# ---------------------------------------------------------------- contents of change sets


def test_a_change_set_names_its_author_and_method(db: Database) -> None:
    db.run(lambda tx: add_vrf(tx, 1))
    assert rows(db) == [(1, *WHO)]
    at = 'SELECT s.at = a.at AND s.call > 0 FROM change_set s JOIN audit_log a ON a.change_set = s.id'
    assert db.read(lambda tx: tx.all(at)) == [(True,)]


def test_each_call_is_one_change_set(backend: Backend, actor: Actor, sets: Sets) -> None:
    top = backend.add_prefix(actor, {'prefix': '10.0.0.0/8', **BLOCK})['id']
    assert sets() == {1: [('add', 'prefix', top)]}
    inner = backend.add_prefix(actor, BLOCK, {'from-prefix': ['10.0.0.0/8'], 'prefix_length': 24})['id']
    assert sets() == {2: [('add', 'prefix', inner)]}
    backend.edit_prefix(actor, {'id': inner}, {'description': 'e'})
    assert sets() == {3: [('edit', 'prefix', inner)]}
    backend.edit_prefix(actor, {'type': 'reservation'}, {'description': 'f'})
    assert sets() == {4: [('edit', 'prefix', top), ('edit', 'prefix', inner)]}
    pool = backend.add_pool(actor, {'name': 'p', 'description': 'd', 'default_type': 'assignment'})['id']
    backend.edit_prefix(actor, {'id': top}, {'pool_id': pool})
    assert sets() == {5: [('add', 'pool', pool)], 6: [('edit', 'prefix', top)]}
    backend.remove_pool(actor, {'id': pool})
    assert sets() == {7: [('edit', 'prefix', top), ('remove', 'pool', pool)]}
    backend.remove_prefix(actor, {'id': top}, recursive=True)
    assert sets() == {8: [('remove', 'prefix', inner), ('remove', 'prefix', top)]}
    assert check.problems(backend.db) == []  # type: ignore[arg-type]


def test_a_batch_is_one_change_set(backend: Backend, actor: Actor, sets: Sets) -> None:
    operations = [
        {'method': 'add_vrf', 'args': {'attr': {'rt': '1:1', 'name': 'one'}}},
        *({'method': 'add_prefix', 'args': {'attr': {'prefix': f'10.{n}.0.0/16', **BLOCK}}} for n in range(3)),
        {'method': 'remove_vrf', 'args': {'vrf': {'rt': '1:1'}}},
    ]
    backend.batch(actor, operations)
    ((number, entries),) = sets().items()
    assert number == 1
    assert [(action, kind) for action, kind, _ in entries] == [
        ('add', 'vrf'),
        *[('add', 'prefix')] * 3,
        ('remove', 'vrf'),
    ]


def test_a_call_with_a_key_is_one_change_set_and_its_replay_has_the_same(
    backend: Backend, db: Database, actor: Actor, sets: Sets
) -> None:
    call = idempotency.KeyedCall('test', 'k', b'fingerprint')

    def once(tx: Transaction) -> idempotency.KeptAnswer | None:
        kept = idempotency.find(tx, call, 1)
        if kept is None:
            inside = Backend(Inside(tx))
            inside.add_prefix(actor, {'prefix': '10.0.0.0/8', **BLOCK})
            inside.add_prefix(actor, BLOCK, {'from-prefix': ['10.0.0.0/8'], 'prefix_length': 24})
            idempotency.keep(tx, call, 'answer', 1)
        return kept

    outcome = Outcome()
    assert db.run(once, outcome) is None
    assert outcome.change_set == 1
    assert db.run(once, outcome) == ('answer', 1)
    assert outcome.change_set is None, 'the second changed nothing'
    assert {number: len(entries) for number, entries in sets().items()} == {1: 2}


def test_changes_of_webhooks_have_change_sets(db: Database, sets: Sets) -> None:
    key = db.run(lambda tx: webhook.add(tx, {'url': 'http://localhost/', 'secret': 's' * 16}, WHO))
    db.run(lambda tx: webhook.disable_all(tx, WHO))
    assert sets() == {1: [('add', 'webhook', key)], 2: [('edit', 'webhook', key)]}


def test_a_failed_call_leaves_no_change_set(backend: Backend, db: Database, actor: Actor) -> None:
    backend.add_prefix(actor, {'prefix': '10.0.0.0/8', **BLOCK})
    for _ in range(2):
        with pytest.raises(NipapError):
            backend.add_prefix(actor, {'prefix': '10.0.0.0/8', **BLOCK})
    backend.add_prefix(actor, {'prefix': '11.0.0.0/8', **BLOCK})
    assert len(rows(db)) == 2


def test_a_part_that_is_taken_back_takes_its_change_set_along(db: Database) -> None:
    """The number is noted for the rest of the call; a rolled back change set must not be taken for it."""

    def work(tx: Transaction) -> None:
        tx.execute('SAVEPOINT part')
        add_vrf(tx, 1)
        tx.execute('ROLLBACK TO SAVEPOINT part')
        add_vrf(tx, 2)

    outcome = Outcome()
    db.run(work, outcome)
    assert [row[0] for row in rows(db)] == [outcome.change_set]
    assert check.problems(db) == []


# ---------------------------------------------------------------- numbers for callers


def test_run_tells_which_change_set_was_written(db: Database) -> None:
    outcome = Outcome()
    db.run(lambda tx: add_vrf(tx, 1), outcome)
    assert outcome.change_set == 1
    db.run(lambda tx: tx.value('SELECT 1'), outcome)
    assert outcome.change_set is None
    with pytest.raises(NipapError):
        db.run(lambda tx: add_vrf(tx, 1), outcome)
    assert outcome.change_set is None


def test_one_message_tells_which_change_set_was_written(db: Database) -> None:
    def add(tx: Transaction) -> Any:
        prefix.add(tx, new('10.0.0.0/8'), WHO)
        added = prefix.get_added(tx)
        assert tx.change_set == 1
        return added

    def fail(*_: Any) -> Any:
        raise AssertionError('no answer was lost')

    outcome = Outcome()
    added = db.run_at_once(add, fail, outcome)
    assert outcome.change_set == 1
    edited = prefix.read_draft({'description': 'e'})
    condition = prefix.require_spec({'id': added['id']})
    db.run_at_once(lambda tx: prefix.edit_one(tx, condition, edited, WHO), fail, outcome)
    assert outcome.change_set == 2
    nobody = prefix.require_spec({'id': added['id'] + 1})
    db.run_at_once(lambda tx: prefix.edit_one(tx, nobody, edited, WHO), fail, outcome)
    assert outcome.change_set is None
    db.run_at_once(lambda tx: prefix.remove_one(tx, added['id'], WHO, recursive=False), fail, outcome)
    assert outcome.change_set == 3


def test_additions_tell_their_change_set_alone_and_joined(db: Database) -> None:
    db.run(lambda tx: prefix.add(tx, new('10.0.0.0/8'), WHO))
    request = allocate.read_args({'from-prefix': ['10.0.0.0/8'], 'prefix_length': 24})

    def addition(n: int) -> Any:
        return allocate.addition(new(description=str(n)), request, WHO._replace(username=f'u{n}'), as_listed)

    outcome = Outcome()
    db.add_joined('key', addition(0), outcome)
    assert outcome.change_set == 2
    several = [addition(n) for n in (1, 2, 3)]
    found = db._add_together(several)
    assert found is not None
    assert [item['description'] for item in found if isinstance(item, dict)] == ['1', '2', '3']
    assert [each.outcome.change_set for each in several] == [3, 4, 5]
    assert [row[1] for row in rows(db)] == ['ann', 'u0', 'u1', 'u2', 'u3']
    inside = db.run(lambda tx: Inside(tx).add_joined('key', addition(4)))
    assert inside['description'] == '4'
    assert check.problems(db) == []


# ---------------------------------------------------------------- one place for each purpose


def sources(*patterns: str) -> dict[str, str]:
    """Return the text of our files."""
    found = [path for pattern in patterns for path in sorted(REPOSITORY.glob(pattern))]
    assert found
    return {str(path.relative_to(REPOSITORY)): path.read_text(encoding='utf-8') for path in found}


def test_the_audit_log_is_written_in_one_place() -> None:
    texts = sources('nipap/**/*.py', 'nipapd/**/*.py', 'sql/functions/*.sql')
    found = [name for name, text in texts.items() for _ in re.findall(r'(?i)insert\s+into\s+(?:\w+\.)?audit_log', text)]
    assert found == ['sql/functions/025_record.sql']


def test_advisory_locks_have_numbers_of_their_own() -> None:
    """Every lock uses a number of `advisory`: in Python by its name, in SQL, which has no names, by its value."""
    numbers = {name: value for name, value in vars(advisory).items() if name.isupper()}
    assert len(set(numbers.values())) == len(numbers)
    for name, text in sources('nipap/**/*.py', 'nipapd/**/*.py', 'sql/functions/*.sql').items():
        if name == 'nipap/postgres/advisory.py':
            continue
        for key in re.findall(r'pg_(?:try_)?advisory_(?:xact_)?lock(?:_shared)?\(([^,)]*)', text):
            assert key.startswith('%s') or int(key) in numbers.values(), f'{name} locks {key}'
        written = [int(digits.replace('_', '')) for digits in re.findall(r'\b5_?466_?\d{3}\b', text)]
        assert name.endswith('.sql') or written == [], f'{name} says {written}: nipap/postgres/advisory.py has them'
        assert set(written) <= set(numbers.values()), f'{name} has numbers that nipap/postgres/advisory.py has not'


# ---------------------------------------------------------------- programs without change sets


@pytest.fixture
def older(dsn: str) -> Iterator[Any]:
    """Yield a cursor of a program of version 8, which writes entries by itself."""
    connection = psycopg2.connect(dsn)
    with connection.cursor() as cursor:
        yield cursor
    connection.close()


def write(cursor: Any, asn: int, name: str = 'ann', call: int | None = None) -> None:
    if call is not None:
        cursor.execute('SET LOCAL nipap.change = %s', (call,))
    cursor.execute('INSERT INTO asn (asn) VALUES (%s)', (asn,))
    cursor.execute(
        'INSERT INTO audit_log (username, authenticated_as, authoritative_source, object_type, object_id, action, '
        "after) VALUES (%s, 'portal', 'web', 'asn', %s, 'add', '{}')",
        (name, asn),
    )


def test_entries_of_a_program_without_change_sets_get_theirs(db: Database, older: Any, sets: Sets) -> None:
    write(older, 1)
    write(older, 2)
    older.connection.commit()
    write(older, 3)
    older.connection.rollback()
    write(older, 4, call=17)
    write(older, 5, 'ben', call=18)  # in one message with the previous entry
    older.connection.commit()
    write(older, 6)
    older.connection.commit()
    found = sets()
    assert [[entry[2] for entry in entries] for entries in found.values()] == [[1, 2], [4], [5], [6]]
    told = [row[1:3] for row in rows(db)]
    assert told == [('ann', 'portal'), ('ann', 'portal'), ('ben', 'portal'), ('ann', 'portal')]
    calls = db.read(lambda tx: tx.all('SELECT call FROM change_set ORDER BY id'))
    assert calls == [(None,), (17,), (18,), (None,)]
    older.execute('SELECT object_id FROM audit_log WHERE change = 18')
    assert older.fetchall() == [(5,)], 'such a program finds out here what was committed'
    assert check.problems(db) == []


def test_a_session_without_a_number_for_its_call_has_one_change_set_a_transaction(dsn: str, db: Database) -> None:
    connection = psycopg2.connect(dsn)
    with connection.cursor() as cursor:
        cursor.execute(migrations.search_path())
        for _ in range(2):
            for asn in (1, 2):
                cursor.execute("SELECT record_change(%s::actor, 'asn', 'add', %s, NULL, '{}')", (WHO, asn))
            cursor.execute('SELECT current_change_set()')
            number = cursor.fetchone()[0]
            connection.commit()
            cursor.execute('SELECT current_change_set()')
            assert cursor.fetchone() == (None,)
            assert db.read(lambda tx: tx.value('SELECT max(id) FROM change_set')) == number
    connection.close()
    assert len(rows(db)) == 2


# ---------------------------------------------------------------- the check

BROKEN = {
    'belongs to no change set': 'UPDATE audit_log SET change_set = NULL',
    'there is no change set 9': 'UPDATE audit_log SET change_set = 9',
    'there is no change set 1 with its moment': "UPDATE change_set SET username = 'somebody'",
    'change set 8: it has no audit entry': """INSERT INTO
        change_set (id, username, authenticated_as, authoritative_source) VALUES (8, 'u', 'u', 's')""",
    'change set 1: it has no position': 'UPDATE change_state SET settled = 1',
    'position 1: there is no change set 7': """INSERT INTO change_order VALUES (1, 7, now());
        UPDATE change_state SET position = 1, moment = now()""",
    'position 2: it does not follow': """INSERT INTO change_order VALUES (2, 1, now());
        UPDATE change_state SET position = 2, moment = now()""",
    'position 5 is not the last one': 'UPDATE change_state SET position = 5',
    'older than change sets: there is no change set': """UPDATE audit_log SET change_set = NULL;
        UPDATE change_state SET older_entries = 1""",
}


@pytest.mark.parametrize(('problem', 'statement'), BROKEN.items())
def test_the_check_finds_problems_of_change_sets(
    db: Database, backend: Backend, actor: Actor, problem: str, statement: str
) -> None:
    backend.add_asn(dataclasses.replace(actor, username='ann'), {'asn': 1})
    assert check.problems(db) == []
    db.run(lambda tx: tx.execute(statement))
    assert any(problem in found for found in check.problems(db)), check.problems(db)
