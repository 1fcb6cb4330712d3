"""Changes of very many objects are recorded in pieces: PostgreSQL needs no more memory for more objects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from bench import removal

from nipap.access.authentication import Actor
from nipap.backend import Backend
from nipap.integrity import check
from nipap.postgres import schema
from nipap.postgres.database import Database

PREFIXES = 50_000  # 200 MB of comments
MOST_MB = 100
MANY = 12_000
MOST_AT_ONCE = 10_000
# Notes the number of entries that each statement writes.
NOTE = """CREATE TABLE piece (entries bigint);
CREATE FUNCTION note_piece() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN INSERT INTO public.piece SELECT count(*) FROM fresh; RETURN NULL; END $$;
CREATE TRIGGER note_pieces AFTER INSERT ON audit_log REFERENCING NEW TABLE AS fresh
FOR EACH STATEMENT EXECUTE FUNCTION note_piece()"""


@pytest.fixture
def own_dsn(empty_dsn: str) -> str:
    """Return a database for this test only: it grows large."""
    schema.install(empty_dsn)
    return empty_dsn


@pytest.fixture
def own_db(own_dsn: str) -> Iterator[Database]:
    db = Database(own_dsn)
    yield db
    db.close()


def test_the_removal_of_a_vrf_takes_no_memory_for_its_prefixes(own_dsn: str, own_db: Database) -> None:
    took = removal.remove(own_dsn, removal.fill(own_db, PREFIXES))
    assert took.own_mb < MOST_MB
    sql = 'SELECT count(*), count(DISTINCT change_set), sum(length(before::text)) FROM audit_log'
    # `run` has no time limit.
    entries, change_sets, size = own_db.run(lambda tx: tx.one(sql)) or (0, 0, 0)
    assert (entries, change_sets) == (PREFIXES + 2, 2), 'the addition of the VRF, and its removal with all prefixes'
    assert size > PREFIXES * 4096
    assert check.problems(own_db) == []


def test_every_change_of_many_objects_writes_entries_in_pieces(own_db: Database, actor: Actor) -> None:
    backend = Backend(own_db)
    own_db.run(lambda tx: tx.execute(f'SET LOCAL search_path = public; {NOTE}'))
    backend.add_pool(actor, {'name': 'p', 'description': 'd', 'default_type': 'host'})
    backend.add_prefix(actor, {'prefix': '10.0.0.0/16', 'type': 'assignment', 'description': 'd'})
    hosts = ({'prefix': f'10.0.{n // 256}.{n % 256}/32', 'type': 'host', 'description': 'd'} for n in range(MANY))
    pieces(own_db)

    def changed(method: Any, *args: Any, **options: Any) -> list[int]:
        method(actor, *args, **options)
        return pieces(own_db)

    operations = [{'method': 'add_prefix', 'args': {'attr': attr}} for attr in hosts]
    assert changed(backend.batch, operations, **{'return': 'ids'}) == [MOST_AT_ONCE, MANY - MOST_AT_ONCE]
    assert changed(backend.edit_prefix, {'type': 'host'}, {'comment': 'c'}) == [MOST_AT_ONCE, MANY - MOST_AT_ONCE]
    own_db.run(lambda tx: tx.execute("UPDATE prefix SET pool_id = 1 WHERE type = 'host'"))
    assert changed(backend.remove_pool, {'id': 1}) == [MOST_AT_ONCE, MANY - MOST_AT_ONCE, 1]
    removed = changed(backend.remove_prefix, {'prefix': '10.0.0.0/16'}, recursive=True)
    assert removed == [MOST_AT_ONCE, MANY - MOST_AT_ONCE, 1]
    assert check.problems(own_db) == []


def pieces(db: Database) -> list[int]:
    """Return the number of entries of each statement since the last call."""
    return [row[0] for row in db.run(lambda tx: tx.all('DELETE FROM piece RETURNING entries'))]


def test_long_values_make_small_pieces(own_db: Database, actor: Actor) -> None:
    own_db.run(lambda tx: tx.execute(f'SET LOCAL search_path = public; {NOTE}'))
    backend = Backend(own_db)
    comment = 'x' * 2_000_000
    for n in range(20):
        attr = {'prefix': f'10.0.{n}.0/24', 'type': 'reservation', 'description': 'd'}
        backend.add_prefix(actor, {**attr, 'comment': comment})
    pieces(own_db)
    backend.edit_prefix(actor, {'type': 'reservation'}, {'description': 'e'})
    found = pieces(own_db)
    assert sum(found) == 20
    assert max(found) <= 9, 'no more than 16 MB at once, and one object'
