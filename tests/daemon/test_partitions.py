"""The partitions of the audit log in use: a daemon makes them ahead, nipap-admin detaches them, and dumps hold all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_process import poll
from support import DaemonFactory, facts, options_of

from nipap.access.authentication import Actor
from nipap.backend import Backend
from nipap.calls import Request
from nipap.history import partitions
from nipap.history.change_order import ChangeSequencer
from nipap.history.spans import Spans
from nipap.integrity import check
from nipap.postgres import schema
from nipap.postgres.database import Database
from nipapd.maintenance import main as admin

pytestmark = pytest.mark.slow

SIZE = 10_000_000
OLD = """SET session_replication_role = replica;
UPDATE audit_log SET at = '2020-03-15 12:00:00Z'; UPDATE change_set SET at = '2020-03-15 12:00:00Z'"""


@pytest.fixture
def db(empty_dsn: str) -> Iterator[Database]:
    """Yield a database whose partitions the test may change."""
    database = Database(empty_dsn)
    schema.migrate(database)
    yield database
    database.close()


def config(dsn: str, directory: Path) -> str:
    """Write the configuration of a database; return the name of the file."""
    path = directory / 'nipap.conf'
    path.write_text('[nipapd]\n' + ''.join(f'{name} = {value}\n' for name, value in options_of(dsn).items()))
    return str(path)


def of_two_months(db: Database, backend: Backend, actor: Actor) -> None:
    """Make entries of March 2020, with a partition of their own, and entries of now."""
    backend.add_asn(actor, {'asn': 1})
    backend.add_asn(actor, {'asn': 2})
    db.run(lambda tx: tx.execute(OLD))
    db.run(lambda tx: tx.execute('SET session_replication_role = origin'))
    ChangeSequencer().step(db)
    assert db.run(lambda tx: tx.value('SELECT keep_partitions_at(now(), 0)')) == 'audit_log_1 ends with its month'
    backend.add_asn(actor, {'asn': 3})


def names(db: Database) -> list[str]:
    return [name for (name,) in db.read(lambda tx: tx.all('SELECT name FROM audit_partitions()'))]


def settle(db: Database) -> None:
    changes, spans = ChangeSequencer(), Spans()
    for _ in range(4):
        changes.step(db)
        spans.step(db)


def found(backend: Backend, actor: Actor) -> list[int]:
    return [entry['object_id'] for entry in backend.perform(actor, Request('list_audit', {'audit': {}}))]


def test_a_daemon_keeps_the_log(db: Database, empty_dsn: str, daemon: DaemonFactory, actor: Actor) -> None:
    """It ends a partition with its month, makes the next one, notes the times of entries, and detaches old ones."""
    backend = Backend(db)
    backend.add_asn(actor, {'asn': 1})
    db.run(lambda tx: tx.execute(OLD))
    db.run(lambda tx: tx.execute('SET session_replication_role = origin'))
    daemon(config={'nipapd': {'forks': '1', 'history_months': '24', **options_of(empty_dsn)}})
    poll(lambda: names(db) == ['audit_log_2', 'audit_log_3'], 90, lambda: str(db.read(partitions.listed)))
    (span,) = db.read(lambda tx: tx.all('SELECT first_id, last_id FROM audit_span'))
    assert span == (0, SIZE - 1)
    backend.add_asn(actor, {'asn': 2})
    assert found(backend, actor) == [2]
    assert check.problems(db) == []


def test_partitions_are_listed_detached_and_attached(
    db: Database, empty_dsn: str, tmp_path: Path, actor: Actor, capsys: pytest.CaptureFixture[str]
) -> None:
    backend = Backend(db)
    of_two_months(db, backend, actor)
    settle(db)
    db.run(lambda tx: tx.execute('DELETE FROM event'))
    where = ('-c', config(empty_dsn, tmp_path))
    assert admin([*where, 'audit', 'detach', 'audit_log_1']) == 0
    assert found(backend, actor) == [3]
    assert admin([*where, 'audit', 'partitions']) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == 'audit_log_1 is detached'
    assert said[1].split()[:8] == [
        'audit_log_1',
        'detached',
        '0',
        'to',
        '9999999',
        '2020-03-15T12:00Z',
        'to',
        '2020-03-15T12:00Z',
    ]
    assert [line.split()[:2] for line in said[2:]] == [
        ['audit_log_2', 'attached'],
        ['audit_log_rest', 'rest'],
    ]
    assert admin([*where, 'audit', 'attach', 'audit_log_1']) == 0
    assert found(backend, actor) == [3, 2, 1]
    assert admin([*where, 'audit', 'attach', 'audit_log_9']) == 1
    assert "There is no partition 'audit_log_9'; nipap-admin audit partitions lists all" in capsys.readouterr().err
    assert admin([*where, 'check']) == 0


@pytest.mark.parametrize('detached', [False, True])
def test_a_dump_has_every_partition(
    db: Database, empty_dsn: str, dsn: str, tmp_path: Path, actor: Actor, detached: bool
) -> None:
    """The restored log has the same partitions, so that no entry is in the default one."""
    backend = Backend(db)
    of_two_months(db, backend, actor)
    db.run(lambda tx: tx.execute("SELECT setval('audit_log_id_seq', %s)", (7 * SIZE,)))
    backend.add_asn(actor, {'asn': 4})
    while db.run(lambda tx: tx.value('SELECT keep_partitions_at(now(), 0)')):
        pass
    settle(db)
    if detached:
        partitions.detach(db, 'audit_log_1')
    layout = db.read(partitions.layout)
    assert len(layout.attached) == (3 if detached else 4)
    before = facts(db), check.problems(db), found(backend, actor)
    (tmp_path / 'other').mkdir()
    file = str(tmp_path / 'all.dump')
    assert admin(['-c', config(empty_dsn, tmp_path), 'dump', file]) == 0
    assert admin(['-c', config(dsn, tmp_path / 'other'), 'restore', file]) == 0
    other = Database(dsn)
    try:
        assert other.read(partitions.layout) == layout
        backend = Backend(other)
        assert (facts(other), check.problems(other), found(backend, actor)) == before
        assert other.read(lambda tx: tx.value('SELECT count(*) FROM audit_log_rest')) == 0
        if detached:
            partitions.attach(other, 'audit_log_1')
        assert found(backend, actor) == [4, 3, 2, 1]
        backend.add_asn(actor, {'asn': 5})
        assert found(backend, actor)[0] == 5
        assert other.run(lambda tx: tx.value('SELECT keep_partitions_at(now(), 0)')) is None
    finally:
        other.close()
