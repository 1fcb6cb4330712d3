"""Databases of earlier versions are migrated by the code of the daemon, and nothing is lost."""

from __future__ import annotations

import lzma
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest
import upgrade_data as data
from dump_schema import NOISE, SCHEMA, dump

from nipap.access.authentication import Actor
from nipap.backend import Backend
from nipap.history.change_order import ChangeSequencer
from nipap.integrity import check
from nipap.postgres import migrations, schema
from nipap.postgres.database import Database
from nipapd.embedded import EmbeddedPostgres
from nipapd.maintenance import main as admin

pytestmark = pytest.mark.slow

SCHEMAS = Path(__file__).resolve().parent.parent / 'data' / 'schemas'
KEPT = sorted(int(path.name.split('.')[0]) for path in SCHEMAS.glob('*.sql.xz'))

Load = Callable[[int], Database]


@pytest.fixture
def load(empty_dsn: str) -> Iterator[Load]:
    """Yield a function that fills the database of the test with the kept dump of a schema version."""
    database = Database(empty_dsn)

    def put(version: int) -> Database:
        text = lzma.decompress((SCHEMAS / f'{version}.sql.xz').read_bytes()).decode()
        connection = psycopg2.connect(empty_dsn)
        with connection, connection.cursor() as cursor:
            cursor.execute('SET check_function_bodies = false;' + NOISE.sub('', text))
        connection.close()
        assert schema.version(database) == version
        return database

    yield put
    database.close()


def stop_at(monkeypatch: pytest.MonkeyPatch, database: Database, version: int) -> None:
    """Migrate up to a version, like a program that is killed on its way: the functions stay the former ones."""
    known = migrations.steps()
    with monkeypatch.context() as patch:
        patch.setattr(migrations, 'steps', lambda: known[:version])
        patch.setattr(schema, 'put_functions', lambda _tx: None)
        schema.migrate(database)
    assert schema.version(database) == version


def check_use(backend: Backend, actor: Actor) -> None:
    """Check further use: allocate removed blocks first, change trees, remove objects of the former program."""
    for pool, family, block in (('core-links', 4, data.REMOVED[0]), ('customers', 6, data.REMOVED[2])):
        args = {'from-pool': {'name': pool}, 'family': family}
        assert backend.add_prefix(actor, {'description': 'again'}, args)['prefix'] == block
    around = {'prefix': '198.51.96.0/20', 'type': 'reservation', 'description': 'Around the office'}
    indent = backend.list_prefix(actor, {'prefix': '198.51.100.1/32'})[0]['indent']
    backend.add_prefix(actor, around)
    assert backend.list_prefix(actor, {'prefix': '198.51.100.1/32'})[0]['indent'] == indent + 1
    backend.edit_prefix(actor, {'prefix': '10.3.0.0/24'}, {'pool_name': None})
    backend.remove_prefix(actor, {'prefix': '2001:db8::/32'}, recursive=True)
    backend.remove_vrf(actor, {'rt': '65000:20'})
    assert check.problems(backend.db) == []


OLDER = """SELECT min(id), at, username, authenticated_as, full_name, authoritative_source, count(*)
FROM audit_log WHERE change_set IS NULL GROUP BY 2, 3, 4, 5, 6 ORDER BY max(id)"""
OLDER_SETS = """SELECT s.id, at, username, authenticated_as, full_name, authoritative_source,
    (SELECT count(*) FROM entries_of(s.id) e WHERE change_set_of(e) = s.id)
FROM change_set s JOIN change_order ON change_set = s.id ORDER BY position"""


def check_change_sets(backend: Backend) -> None:
    """Check that older entries have change sets by moment and actor, and that later change sets follow."""
    read = backend.db.read
    older = read(lambda tx: tx.all(OLDER))
    assert older
    assert read(lambda tx: tx.all(OLDER_SETS)) == older
    last = read(lambda tx: tx.value('SELECT max(id) FROM audit_log'))
    backend.add_asn(Actor('ben', None, 'ben', 'web', readonly=False), {'asn': 4_200_000_000})
    newest = 'SELECT id, username FROM change_set ORDER BY id DESC LIMIT 1'
    assert read(lambda tx: tx.one(newest)) == (last + 1, 'ben')
    assert ChangeSequencer().step(backend.db) == 1  # type: ignore[arg-type]


def test_every_schema_that_was_in_use_is_kept() -> None:
    assert KEPT[0] == 1


@pytest.mark.parametrize('version', KEPT)
def test_a_database_of_an_earlier_schema_is_migrated(
    cluster: EmbeddedPostgres, empty_dsn: str, load: Load, version: int, actor: Actor
) -> None:
    database = load(version)
    assert schema.due(database)
    assert schema.migrate(database) == list(range(version + 1, schema.latest() + 1))
    assert not schema.due(database)
    database.run(lambda tx: schema.drop_functions_before(tx, schema.latest()))
    assert cluster.installation is not None
    assert dump(cluster.installation.bindir, empty_dsn) == SCHEMA.read_text(encoding='utf-8')
    assert check.problems(database) == []
    backend = Backend(database)
    data.check(backend, actor)
    check_change_sets(backend)
    check_use(backend, actor)


@pytest.mark.parametrize('version', range(2, schema.latest()))
def test_a_migration_that_was_interrupted_goes_on(
    load: Load, version: int, actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = load(1)
    stop_at(monkeypatch, database, version)
    assert schema.migrate(database) == list(range(version + 1, schema.latest() + 1))
    assert check.problems(database) == []
    backend = Backend(database)
    data.check(backend, actor)
    check_use(backend, actor)


def test_the_commands_migrate_and_check(
    load: Load, empty_dsn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load(1).close()
    path = tmp_path / 'nipap.conf'
    parts = psycopg2.extensions.parse_dsn(empty_dsn)
    names = {'db_host': 'host', 'db_port': 'port', 'db_user': 'user', 'db_name': 'dbname'}
    path.write_text('[nipapd]\n' + ''.join(f'{ours} = {parts[name]}\n' for ours, name in names.items()))
    assert admin(['-c', str(path), 'migrate']) == 0
    assert admin(['-c', str(path), 'check']) == 0
    assert capsys.readouterr().out == f'the schema has version {schema.latest()}, it had 1\nno problems found\n'
