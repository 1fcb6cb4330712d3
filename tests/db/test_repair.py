"""The repair corrects the derived values that the check reports, keeps facts, and does all of it or nothing."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support import facts
from test_check import BITS_SET, CORRUPTIONS, PATIENCE_S, WRONG_NETWORKS, changed, populate, without_ids, writing

from nipap.access.authentication import Actor
from nipap.backend import Backend
from nipap.errors import NipapError
from nipap.integrity import check, repair
from nipap.postgres.database import Database
from nipap.postgres.transaction import Inside, Row, Transaction
from nipapd import maintenance

pytestmark = pytest.mark.slow

# The problems of facts among the corruptions.
OF_FACTS = re.compile(r'.*: a \w+ inside |pool \d+ has members in|.* is not a route target')


@pytest.fixture
def populated(db: Database, backend: Backend, actor: Actor) -> Database:
    """Return a database without problems."""
    populate(backend, actor)
    return db


def do(db: Database, *statements: str) -> None:
    for statement in statements:
        db.run(partial(Transaction.execute, statement=statement))


def versions(db: Database) -> dict[str, set[Row]]:
    """Return the version of every row of every table."""
    tables = ('vrf', 'pool', 'prefix', 'free_range', 'vrf_total', 'prefix_words', 'asn', 'audit_log')
    sql = 'SELECT tableoid::regclass::text, ctid::text, xmin::text FROM {}'
    return db.run(lambda tx: {table: set(tx.all(sql.format(table))) for table in tables})


# ---------------------------------------------------------------- repaired values


def test_where_all_is_well_nothing_is_written(populated: Database) -> None:
    before = versions(populated)
    outcome = repair.repair(populated)
    assert (outcome.repaired, outcome.found, outcome.left) == ({}, [], [])
    assert versions(populated) == before


@pytest.mark.parametrize('corruption', CORRUPTIONS)
def test_derived_values_are_repaired_and_facts_are_left(populated: Database, corruption: str) -> None:
    do(populated, CORRUPTIONS[corruption][0])
    before, found = facts(populated), check.problems(populated)
    outcome = repair.repair(populated)
    assert outcome.found == [problem for problem in found if not OF_FACTS.match(problem)]
    assert sum(outcome.repaired.values()) == len(outcome.found)
    assert outcome.left == [problem for problem in found if OF_FACTS.match(problem)]
    assert check.problems(populated) == outcome.left
    assert facts(populated) == before


def test_everything_derived_is_built_anew(populated: Database) -> None:
    before = facts(populated)
    do(
        populated,
        'UPDATE prefix SET parent_id = id, children = -1, used_addresses = -1, free_blocks = -1',
        'UPDATE vrf SET rt_rank = 5',
        'TRUNCATE free_range, vrf_total, prefix_words',
    )
    kinds = {'rt_rank', 'parent_id', 'children', 'used_addresses', 'free_blocks', 'free ranges', 'totals of VRFs'}
    outcome = repair.repair(populated, most_found=3)
    assert set(outcome.repaired) == {*kinds, 'prefix_words'}
    assert outcome.repaired['prefix_words'] == len(before[0])
    assert len(outcome.found) == 3
    assert check.problems(populated) == []
    assert facts(populated) == before


def test_many_rows_are_written_in_parts(populated: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repair, 'AT_ONCE', 3)
    do(populated, 'UPDATE prefix SET parent_id = 7, children = 5', 'TRUNCATE free_range, prefix_words')
    repair.repair(populated)
    assert check.problems(populated) == []


def test_only_rows_that_are_wrong_are_written(populated: Database) -> None:
    do(
        populated,
        changed('10.0.0.0/24', 'children', '3'),
        "UPDATE free_range SET fit = 30 WHERE owner = -1 AND first_address = '0.0.0.0'",
        'DELETE FROM prefix_words WHERE prefix_id = (SELECT min(prefix_id) FROM prefix_words)',
    )
    before = versions(populated)
    repair.repair(populated)
    after = versions(populated)
    written = {table: len(after[table] - before[table]) for table in after if after[table] != before[table]}
    assert written == {'prefix': 1, 'free_range': 1, 'prefix_words': 1}
    assert check.problems(populated) == []


def test_an_owner_of_many_ranges_is_repaired_at_once(db: Database) -> None:
    do(
        db,
        """INSERT INTO prefix (vrf_id, prefix, type) SELECT 0, set_masklen(cidr '10.0.0.0' + 512 * g, 24), 'assignment'
        FROM generate_series(0, 9999) g""",
    )
    repair.repair(db)
    assert check.problems(db) == []
    do(db, "DELETE FROM free_range WHERE first_address = '10.0.9.0'")
    before = versions(db)['free_range']
    repair.repair(db)
    assert len(versions(db)['free_range'] - before) == 1


def test_invalid_networks_are_left(populated: Database) -> None:
    do(populated, *BITS_SET)
    before = facts(populated)
    outcome = repair.repair(populated)
    assert sorted(map(without_ids, outcome.left)) == sorted(WRONG_NETWORKS)
    assert check.problems(populated) == outcome.left
    assert facts(populated) == before


def test_a_missing_default_vrf_is_left(db: Database) -> None:
    do(db, 'DELETE FROM vrf WHERE id = 0')
    assert repair.repair(db).left == ['VRF 0 is missing']
    assert check.problems(db) == ['VRF 0 is missing']


# ---------------------------------------------------------------- all or nothing


def test_nothing_is_changed_when_a_repair_fails(populated: Database) -> None:
    do(
        populated,
        changed('10.0.0.0/24', 'children', '3'),
        'TRUNCATE free_range, prefix_words',
        """CREATE FUNCTION pg_temp.fail() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'no more room' USING ERRCODE = 'NP200'; END $$""",
        'CREATE TRIGGER fails BEFORE INSERT ON prefix_words EXECUTE FUNCTION pg_temp.fail()',
    )
    before, found = versions(populated), check.problems(populated)
    with pytest.raises(NipapError, match='no more room'):
        repair.repair(populated)
    assert (versions(populated), check.problems(populated)) == (before, found)
    do(populated, 'DROP TRIGGER fails ON prefix_words')


def test_a_repair_that_does_not_last_is_undone(populated: Database) -> None:
    do(
        populated,
        changed('10.0.0.0/24', 'children', '3'),
        'TRUNCATE free_range, prefix_words',
        'CREATE FUNCTION pg_temp.keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN OLD; END $$',
        'CREATE TRIGGER keeps BEFORE UPDATE ON prefix FOR EACH ROW EXECUTE FUNCTION pg_temp.keep()',
    )
    before, found = versions(populated), check.problems(populated)
    with pytest.raises(NipapError, match=r'would leave a problem: 10\.0\.0\.0/24 .*: children is 3, must be 2'):
        repair.repair(populated)
    assert [len(rows) for rows in versions(populated).values()] == [len(rows) for rows in before.values()]
    assert check.problems(populated) == found
    do(populated, 'DROP TRIGGER keeps ON prefix')


# ---------------------------------------------------------------- concurrent changes


@pytest.fixture
def other(dsn: str) -> Iterator[Database]:
    """Yield a connection of another client."""
    database = Database(dsn)
    yield database
    database.close()


Change = Callable[[Backend, Actor], Any]
CHANGES: dict[str, Change] = {
    'inside a prefix': lambda b, a: b.add_prefix(
        a, {'prefix': '10.0.7.0/24', 'type': 'assignment', 'description': 'd'}
    ),
    'at the top': lambda b, a: b.add_prefix(a, {'prefix': '99.0.0.0/24', 'type': 'assignment', 'description': 'd'}),
    'around others': lambda b, a: b.add_prefix(a, {'prefix': '10.0.0.0/9', 'type': 'reservation', 'description': 'd'}),
    'a VRF': lambda b, a: b.add_vrf(a, {'rt': '7:7', 'name': 'new'}),
    'a VRF removed': lambda b, a: b.remove_vrf(a, {'name': 'vrf 1'}),
    'a pool': lambda b, a: b.edit_pool(a, {'name': 'members'}, {'ipv4_default_prefix_length': 28}),
    'a text': lambda b, a: b.edit_prefix(a, {'prefix': '10.0.0.0/8'}, {'description': 'new'}),
}


def until(true: Callable[[], bool]) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


BLOCKED = """SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0"""


def waiting(db: Database) -> bool:
    """Return whether a session waits for a lock."""
    return bool(db.read(lambda tx: tx.value(BLOCKED)))


@pytest.mark.parametrize('change', CHANGES)
def test_a_change_under_way_is_waited_for(
    populated: Database, other: Database, dsn: str, actor: Actor, change: str
) -> None:
    do(populated, 'TRUNCATE vrf_total', 'UPDATE prefix_words SET words = words || 1')
    before = facts(populated)
    repairing = threading.Thread(target=repair.repair, args=(populated,))

    def work(tx: Transaction) -> None:
        CHANGES[change](Backend(Inside(tx)), actor)
        repairing.start()
        until(lambda: waiting(observer))

    observer = Database(dsn)
    try:
        other.run(work)
        repairing.join(PATIENCE_S)
    finally:
        observer.close()
    assert not repairing.is_alive()
    assert check.problems(populated) == []
    assert facts(populated) != before, 'the change is there'


def test_a_transaction_that_locks_in_another_order_goes_first(populated: Database, other: Database, dsn: str) -> None:
    do(populated, 'UPDATE prefix_words SET words = words || 1')
    repairing = threading.Thread(target=repair.repair, args=(populated,))
    observer = Database(dsn)
    begun = []

    def work(tx: Transaction) -> None:
        begun.append(True)
        tx.execute("SELECT FROM prefix WHERE prefix = '8.8.8.8' FOR NO KEY UPDATE")
        repairing.start()
        until(lambda: waiting(observer))
        tx.execute('SELECT lock_vrf(0)')

    try:
        other.run(work)
        repairing.join(PATIENCE_S)
    finally:
        observer.close()
    assert begun == [True], 'no deadlock has made it start again'
    assert not repairing.is_alive()
    assert check.problems(populated) == []


def test_changes_wait_for_a_repair(populated: Database, other: Database, dsn: str, actor: Actor) -> None:
    backend = Backend(other)
    changes = [threading.Thread(target=backend_call, args=(dsn, actor, change)) for change in CHANGES.values()]

    def work(tx: Transaction) -> None:
        tx.execute(repair._LOCK)
        for change in changes:
            change.start()
        until(lambda: other.read(lambda read: read.value(BLOCKED)) == len(changes))
        assert backend.list_vrf(actor), 'readers do not'

    populated.run(work)
    for change in changes:
        change.join(PATIENCE_S)
    assert check.problems(populated) == []
    assert backend.list_vrf(actor, {'name': 'new'})
    assert backend.list_prefix(actor, {'prefix': '99.0.0.0/24'})


def backend_call(dsn: str, actor: Actor, change: Change) -> None:
    """Make a change on a connection of its own."""
    database = Database(dsn)
    try:
        change(Backend(database), actor)
    finally:
        database.close()


def test_a_database_that_is_being_changed_is_repaired(populated: Database, dsn: str, actor: Actor) -> None:
    with writing(dsn, actor):
        for _ in range(8):
            # Corrupt values that no change reads: changes move the totals by deltas.
            do(populated, 'UPDATE vrf_total SET used_addresses = used_addresses + 1', 'DELETE FROM prefix_words')
            outcome = repair.repair(populated)
            assert (set(outcome.repaired) <= {'totals of VRFs', 'prefix_words'}, outcome.left) == (True, [])
            assert check.problems(populated) == []
    assert check.problems(populated) == []


# ---------------------------------------------------------------- the command


@pytest.fixture
def command(
    make_dir: Callable[[], Path], database_options: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, list[str]]]:
    """Return a function that runs nipap-admin on the database of the test; its result: exit code and printed lines."""
    path = make_dir() / 'nipap.conf'
    path.write_text('[nipapd]\n' + ''.join(f'{key} = {value}\n' for key, value in database_options.items()))

    def run(*args: str) -> tuple[int, list[str]]:
        code = maintenance.main([*args, '--config', str(path)])
        return code, capsys.readouterr().out.splitlines()

    return run


def test_the_command_says_what_it_repaired(populated: Database, command: Callable[..., tuple[int, list[str]]]) -> None:
    assert command('check', '--repair') == (0, ['no problems left'])
    do(populated, changed('10.0.0.0/24', 'children', '3'), 'DELETE FROM vrf_total WHERE vrf_id = 1')
    code, said = command('check')
    assert (code, len(said), said[-1]) == (1, 4, '3 problems found')
    code, repaired = command('check', '--repair')
    assert (code, repaired[:3]) == (0, said[:3])
    assert repaired[3:] == ['repaired children: 1', 'repaired totals of VRFs: 2', 'no problems left']
    assert command('check') == (0, ['no problems found'])


def test_the_command_says_what_it_cannot_repair(
    populated: Database, command: Callable[..., tuple[int, list[str]]]
) -> None:
    do(
        populated,
        changed('10.0.0.0/24', 'type', "'reservation'"),
        'UPDATE prefix_words SET words = words || 1',
        'UPDATE prefix SET children = children + 1, used_addresses = 3, parent_id = 4, free_blocks = 5',
    )
    code, said = command('check', '--repair')
    assert code == 1
    assert re.fullmatch(r'… and \d+ more', said[maintenance.MOST_SHOWN]) or len(said) < maintenance.MOST_SHOWN
    assert [line.partition(' in VRF')[0] for line in said[-3:]] == [
        'not repaired, the facts are wrong: 10.0.0.1/32',
        'not repaired, the facts are wrong: 10.0.0.9/32',
        '2 problems left',
    ]
    assert [line.partition(':')[0] for line in said[-8:-3]] == [
        'repaired parent_id',
        'repaired children',
        'repaired used_addresses',
        'repaired free_blocks',
        'repaired prefix_words',
    ]
    assert command('check') == (1, [*(line.partition('wrong: ')[2] for line in said[-3:-1]), '2 problems found'])
