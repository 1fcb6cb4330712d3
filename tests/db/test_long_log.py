"""The migrations of an audit log that is in use. The long run is tests/bench/migration.py."""

from __future__ import annotations

import pytest
from bench import migration

from nipap.postgres import schema
from nipap.postgres.database import Database

pytestmark = pytest.mark.slow

LONGEST_S = 10.0  # a moment, beside other tests


@pytest.mark.parametrize('entries', [2_000, 101_000], ids=['short', 'long'])
def test_changes_go_on_while_a_log_gets_partitions(empty_dsn: str, entries: int) -> None:
    found = migration.measure(empty_dsn, entries)
    assert found.changes > 0
    assert found.longest_s < LONGEST_S
    db = Database(empty_dsn)
    try:
        assert schema.migrate(db) == list(range(migration.LAST + 1, schema.latest() + 1))
        where = dict(db.read(lambda tx: tx.all('SELECT tableoid::regclass::text, count(*) FROM audit_log GROUP BY 1')))
        assert sum(where.values()) == entries + found.changes
        assert set(where) <= {'audit_log_1', 'audit_log_2'}
        # Indexes are built on a long log, so it gets no new entries.
        assert ('audit_log_2' in where) is (entries > 100_000)
        spans = db.read(lambda tx: tx.value('SELECT count(*) FROM audit_span'))
        assert spans >= entries // 5000
    finally:
        db.close()
