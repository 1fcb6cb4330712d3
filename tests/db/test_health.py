"""The database keeps its size while prefixes are added and removed. The long run is tests/bench/health.py."""

from __future__ import annotations

import random
from collections import deque

import pytest
from bench import health

from nipap.access.authentication import Actor
from nipap.backend import Backend
from nipap.integrity import check
from nipap.postgres.database import Database

pytestmark = pytest.mark.slow

ROUNDS, CYCLES, KEPT = 4, 500, 40
PAGE = 8192
LEAST_HOT = 0.9
UPDATES = """SELECT relname, n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables
    WHERE relname IN ('prefix', 'vrf_total', 'free_range')"""
POOL = {'from-pool': {'name': 'churn'}, 'family': 4}
BLOCK = {'from-prefix': ['2001:db8::/32'], 'prefix_length': 64}


@pytest.fixture
def filled(backend: Backend, actor: Actor) -> Backend:
    """Return a backend with a pool of one member, and a block outside the pool."""
    lengths = {'default_type': 'assignment', 'ipv4_default_prefix_length': 28}
    backend.add_pool(actor, {'name': 'churn', 'description': 'churn', **lengths})
    common = {'type': 'reservation', 'description': 'churn'}
    backend.add_prefix(actor, {'prefix': '10.0.0.0/12', 'pool_name': 'churn', **common})
    backend.add_prefix(actor, {'prefix': '2001:db8::/32', **common})
    return backend


def allocate(backend: Backend, actor: Actor, args: dict[str, object]) -> int:
    return int(backend.add_prefix(actor, {'type': 'assignment', 'description': 'customer'}, args)['id'])


def updates(backend: Backend) -> dict[str, tuple[int, int]]:
    """Return for each table the number of updates, and the number of updates within the page."""
    backend.db.read(lambda tx: tx.execute('SELECT pg_stat_force_next_flush()'))
    return {name: (every, hot) for name, every, hot in backend.db.read(lambda tx: tx.all(UPDATES))}


def test_tables_and_indexes_keep_their_size(filled: Backend, db: Database, actor: Actor) -> None:
    choose = random.Random(1)
    kept = deque(allocate(filled, actor, choose.choice((POOL, BLOCK))) for _ in range(KEPT))
    sizes = []
    for _ in range(ROUNDS):
        for _ in range(CYCLES):
            kept.append(allocate(filled, actor, choose.choice((POOL, BLOCK))))
            kept.rotate(choose.choice((0, 1, choose.randrange(KEPT))))
            filled.remove_prefix(actor, {'id': kept.popleft()})
        filled.db.read(lambda tx: tx.execute('VACUUM'))
        sizes.append(dict(filled.db.read(lambda tx: tx.all(health.SIZES))))
    grown = {
        name: (sizes[1][name], size)
        for name, size in sizes[-1].items()
        if not name.startswith(health.GROWS_BY_DESIGN) and size > sizes[1][name] * 1.25 + 4 * PAGE
    }
    assert grown == {}
    assert sizes[-1]['audit_log_1'] > sizes[1]['audit_log_1']
    assert check.problems(db) == []


def test_counters_and_ranges_are_updated_within_their_pages(filled: Backend, actor: Actor) -> None:
    before = updates(filled)
    for _ in range(200):
        allocate(filled, actor, POOL)
        allocate(filled, actor, BLOCK)
    after = updates(filled)
    for table, (every, hot) in after.items():
        made = every - before[table][0]
        # The first change in each table inserts a row.
        assert made >= 398, table
        assert hot - before[table][1] > LEAST_HOT * made, table


def test_text_is_never_updated_within_its_page_and_leaves_no_room_for_that(backend: Backend) -> None:
    sql = "SELECT reloptions FROM pg_class WHERE relname = 'prefix_words'"
    assert 'fillfactor=100' in backend.db.read(lambda tx: tx.value(sql))
