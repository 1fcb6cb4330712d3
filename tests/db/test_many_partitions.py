"""An audit log of ten years has 120 partitions: no change, and nothing that follows changes, reads the old ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import AUDIT_ENTRIES, Plan, explained

from nipap.access.authentication import Actor
from nipap.backend import Backend
from nipap.calls import Request
from nipap.history import events, past
from nipap.history.change_order import ChangeSequencer
from nipap.history.spans import SPAN, Spans
from nipap.objects.prefix import get_added_by
from nipap.postgres import schema
from nipap.postgres.database import _COMMITTED, Database

pytestmark = pytest.mark.slow

SIZE, MANY = 10_000_000, 120
EACH = 200  # entries of a partition
NEWEST = {f'audit_log_{MANY - 1}', f'audit_log_{MANY}', 'audit_log_rest'}

FILL = f"""SELECT new_partition('audit_log_' || n, 'A partition of audit_log.'),
    attach_range('audit_log_' || n, (n - 1) * {SIZE}::bigint, n * {SIZE}::bigint) FROM generate_series(3, {MANY}) n;
INSERT INTO change_set (id, username, authenticated_as, authoritative_source, call, entries_after)
SELECT n, 'u', 'u', 's', n, (n - 1) / {EACH} * {SIZE}::bigint FROM generate_series(1, {MANY - 1} * {EACH}) n;
INSERT INTO audit_log (id, username, authenticated_as, authoritative_source, object_type, object_id, action, change_set)
SELECT (n - 1) / {EACH} * {SIZE}::bigint + n, 'u', 'u', 's', 'prefix', 1000000 + n, 'edit', n
FROM generate_series(1, {MANY - 1} * {EACH}) n;
INSERT INTO change_order SELECT n, n, now() - interval '1 day' + n * interval '1 second'
FROM generate_series(1, {MANY - 1} * {EACH}) n;
UPDATE change_state SET (position, settled) = ({MANY - 1} * {EACH}, {MANY - 1} * {EACH});
SELECT setval('audit_log_id_seq', {MANY - 2} * {SIZE}::bigint + {MANY} * {EACH}),
    setval('change_set_id_seq', {MANY - 1} * {EACH});
INSERT INTO audit_span SELECT n * {SIZE}::bigint - 1, (n - 1) * {SIZE}::bigint, now(), now()
FROM generate_series(1, {MANY} - 2) n;
ANALYZE"""


@pytest.fixture(scope='module')
def many(cluster: Any, template: str) -> Iterator[str]:
    """Yield a database with a long log. Its tests add to it."""
    import databases

    databases.create(cluster, 'many_partitions', template)
    dsn: str = cluster.dsn('many_partitions')
    database = Database(dsn)
    schema.migrate(database)
    database.run(lambda tx: tx.execute(FILL))
    database.run(lambda tx: tx.execute('UPDATE event_state SET settled = %s', (_last(tx),)))
    database.close()
    yield dsn
    databases.drop(cluster, 'many_partitions')


def _last(tx: Any) -> int:
    return int(tx.value("SELECT pg_sequence_last_value('audit_log_id_seq')"))


@pytest.fixture
def db(many: str) -> Iterator[Database]:
    database = Database(many)
    yield database
    database.close()


@pytest.fixture
def backend(db: Database) -> Backend:
    return Backend(db)


def old_ones(nodes: list[Plan]) -> set[str]:
    """Return the partitions that were read beside the newest ones."""
    names = {node['Relation Name'] for node in nodes if 'Relation Name' in node and node['Actual Loops'] > 0}
    return {name for name in names if re.fullmatch(r'audit_log_(\d+|rest)', name)} - NEWEST


def full_scans(nodes: list[Plan]) -> list[str]:
    """Return the scans of whole tables with history."""
    tables = ('change_set', 'change_order', 'audit_span')
    return [
        node['Relation Name'] for node in nodes if node['Node Type'] == 'Seq Scan' and node['Relation Name'] in tables
    ]


def check(db: Database, work: Callable[[], object], *, inside: bool = True) -> None:
    """Run the work often enough for PostgreSQL to choose plans that it keeps; none may read old partitions."""
    for _ in range(7):
        with explained(db, inside=inside) as nodes:
            work()
        assert old_ones(nodes) == set()
        assert full_scans(nodes) == []


NUMBERS = iter(range(1, 60_000))


def add(backend: Backend, actor: Actor) -> dict[str, Any]:
    n = next(NUMBERS)
    attr = {'prefix': f'10.{n // 250}.{n % 250}.0/24', 'type': 'assignment', 'description': 'd'}
    return backend.add_prefix(actor, attr)


def test_changes_read_no_old_partition(db: Database, backend: Backend, actor: Actor) -> None:
    def work() -> None:
        key = {'id': add(backend, actor)['id']}
        backend.edit_prefix(actor, key, {'description': 'e'})
        backend.remove_prefix(actor, key)
        operations = [
            {'method': 'add_asn', 'args': {'attr': {'asn': next(NUMBERS)}}},
            {'method': 'add_asn', 'args': {'attr': {'asn': next(NUMBERS)}}},
        ]
        backend.perform(actor, Request('batch', {'operations': operations}))
        v = backend.add_vrf(actor, {'rt': f'65000:{next(NUMBERS)}', 'name': f'v{next(NUMBERS)}'})
        backend.remove_vrf(actor, {'id': v['id']})

    check(db, work)


def test_a_call_with_a_key_reads_no_old_partition(db: Database, backend: Backend, actor: Actor) -> None:
    def work() -> None:
        n = next(NUMBERS)
        for _ in range(2):
            backend.perform(actor, Request('add_asn', {'attr': {'asn': n}}, key=f'key-{n}'))

    check(db, work)


def test_joined_allocations_read_no_old_partition(db: Database, backend: Backend, actor: Actor) -> None:
    ids = [add(backend, actor)['id'] for _ in range(3)]
    sql = """SELECT s.call FROM audit_log a JOIN change_set s ON s.id = a.change_set
        WHERE a.object_id = ANY (%s) AND a.object_type = 'prefix'"""
    calls = [call for (call,) in db.read(lambda tx: tx.all(sql, (ids,)))]

    def work() -> None:
        found = db.read(lambda tx: get_added_by(tx, calls))
        assert [item['id'] for item in found] == ids

    check(db, work)


def test_a_lost_answer_is_looked_up_without_old_partitions(db: Database, backend: Backend, actor: Actor) -> None:
    add(backend, actor)
    call = db.read(lambda tx: tx.value('SELECT call FROM change_set ORDER BY id DESC LIMIT 1'))
    check(db, lambda: db.read(lambda tx: tx.one(_COMMITTED, (call,))))


def test_the_order_of_change_sets_is_made_without_old_partitions(db: Database, backend: Backend, actor: Actor) -> None:
    sequencer = ChangeSequencer()
    sequencer.step(db)

    def work() -> None:
        for _ in range(3):
            backend.add_asn(actor, {'asn': next(NUMBERS)})
        assert sequencer.step(db) == 3

    check(db, work)


def test_events_are_made_and_read_without_old_partitions(db: Database, backend: Backend, actor: Actor) -> None:
    sequencer = events.EventSequencer()
    while sequencer.step(db):  # other tests may have left thousands of entries
        pass

    def work() -> None:
        after = sequencer.last_position
        for _ in range(3):
            backend.add_asn(actor, {'asn': next(NUMBERS)})
        assert sequencer.step(db) == 3
        assert len(db.read(lambda tx: events.read(tx, after))) == 3

    check(db, work)


def test_the_past_is_built_without_old_partitions(db: Database, backend: Backend, actor: Actor) -> None:
    sequencer, builder = ChangeSequencer(), past.Builder()
    while sequencer.step(db):
        pass
    builder.step(db)

    def work() -> None:
        for _ in range(3):
            backend.add_asn(actor, {'asn': next(NUMBERS)})
        sequencer.step(db)
        built = db.run(lambda tx: tx.value('SELECT follow_past(1000000)'))
        assert built == db.read(lambda tx: tx.value('SELECT position FROM change_state'))

    check(db, work)


def test_the_upkeep_reads_no_old_partition(db: Database) -> None:
    spans = Spans()

    def work() -> None:
        db.run(lambda tx: tx.value(AUDIT_ENTRIES, (SPAN,)))
        with explained(db, inside=True) as nodes:
            spans.step(db)
            spans.step(db)
            assert db.run(lambda tx: tx.value('SELECT keep_partitions_at(now(), 0)')) is None
        assert old_ones(nodes) == set()

    for _ in range(3):
        work()
