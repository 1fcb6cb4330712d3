"""What is read to answer a question: as much as the answer needs, not as much as there is."""

from __future__ import annotations

from typing import Any

import pytest
from support import Plan, explained

from nipap.authlib import Actor
from nipap.backend import Backend
from nipap.db import Database

CHILDREN = 60_000
# As many as are stored, in the fashion of a big pool; of what is derived no more than these questions look at.
MEMBER = """
INSERT INTO prefix (vrf_id, prefix, type, parent_id, used_addresses, description)
SELECT 0, set_masklen('10.0.0.0'::inet + n, 32), 'assignment', {member}, 1, 'child'
FROM generate_series(0, {children} - 1) n;
UPDATE prefix SET children = {children}, used_addresses = {children}, free_blocks = 2 ^ 24 - {children}
WHERE id = {member};
ANALYZE
"""


# PostgreSQL tells the mean of several runs of a node, rounded.
FEW = 10


def rows_read(nodes: list[Plan], *tables: str) -> float:
    """How many rows of some tables were looked at, about."""
    return sum(
        (node['Actual Rows'] + sum(node.get(f'Rows Removed by {why}', 0) for why in ('Filter', 'Index Recheck')))
        * node['Actual Loops']
        for node in nodes
        if node.get('Relation Name') in tables
    )


def brief(nodes: list[Plan]) -> str:
    """How tables were read."""
    return '; '.join(
        f'{node["Node Type"]} of {node["Relation Name"]} by {node.get("Index Name")}: {node["Actual Rows"]} rows'
        for node in nodes
        if 'Relation Name' in node
    )


def equal(name: str, value: object) -> dict[str, Any]:
    return {'operator': 'equals', 'val1': name, 'val2': value}


@pytest.fixture
def big_pool(db: Database, backend: Backend, actor: Actor) -> dict[str, Any]:
    """One of several pools, with a member that has 60,000 children."""
    attr = {'description': 'd', 'default_type': 'assignment', 'ipv4_default_prefix_length': 32}
    for name in ('before', 'big', 'other'):
        backend.add_pool(actor, {'name': name, **attr})
    fixed = {'type': 'reservation', 'description': 'd'}
    member = backend.add_prefix(actor, {'prefix': '10.0.0.0/8', 'pool_name': 'big', **fixed})
    backend.add_prefix(actor, {'prefix': '192.0.2.0/24', 'pool_name': 'other', **fixed})
    db.run(lambda tx: tx.execute(MEMBER.format(member=member['id'], children=CHILDREN)))
    (pool,) = backend.list_pool(actor, {'name': 'big'})
    return pool


def test_figures_of_pools_come_from_counters(
    db: Database, backend: Backend, actor: Actor, big_pool: dict[str, Any]
) -> None:
    assert (big_pool['used_prefixes_v4'], big_pool['free_prefixes_v4']) == (CHILDREN, 2**24 - CHILDREN)
    asked = {
        'by id': lambda: backend.list_pool(actor, {'id': big_pool['id']}),
        'by name': lambda: backend.list_pool(actor, {'name': 'big'}),
        'all': lambda: backend.list_pool(actor, {}),
        'search': lambda: backend.search_pool(actor, equal('name', 'big'))['result'],
        'search all': lambda: backend.search_pool(actor, {})['result'],
        'smart search': lambda: backend.smart_search_pool(actor, 'big')['result'],
        'by figure': lambda: backend.search_pool(actor, equal('used_prefixes_v4', CHILDREN))['result'],
    }
    for how, ask in asked.items():
        with explained(db) as nodes:
            assert big_pool in ask(), how
        assert rows_read(nodes, 'prefix') <= FEW, f'{how}: {brief(nodes)}'
        assert rows_read(nodes, 'free_range') == 0, f'{how}: {brief(nodes)}'


NUMBER = 400
LOOKED_UP = """
INSERT INTO vrf (id, rt, rt_rank, name) SELECT n, '1:' || n, n, 'Name ' || n FROM generate_series(1, {n}) n;
INSERT INTO pool (name, default_type) SELECT 'Name ' || n, 'host' FROM generate_series(1, {n}) n;
INSERT INTO asn SELECT n, 'Name ' || n FROM generate_series(1, {n}) n;
ANALYZE
"""


def test_look_ups_by_key_read_what_they_name(db: Database, backend: Backend, actor: Actor) -> None:
    """Also in another case: names are told apart by it, their index does not know it."""
    db.run(lambda tx: tx.execute(LOOKED_UP.format(n=NUMBER)))
    spelled = [('Name 7', 1), ('name 7', 0), ('Name', 0)]
    asked = [
        *(
            (backend.list_vrf, {'id': 7}, 1),
            (backend.list_vrf, {'rt': '1:7'}, 1),
            (backend.list_vrf, {'rt': '2:7'}, 0),
        ),
        *((backend.list_vrf, {'name': name}, found) for name, found in spelled),
        *((backend.list_pool, {'name': name}, found) for name, found in spelled),
        *((backend.list_pool, {'id': '7'}, 1), (backend.list_pool, {'id': 10**12}, 0)),
        *((backend.list_asn, {'asn': '7'}, 1), (backend.list_asn, {'asn': 4294967295}, 0)),
    ]
    for method, spec, found in asked:
        with explained(db) as nodes:
            assert len(method(actor, spec)) == found, spec
        assert rows_read(nodes, 'vrf', 'pool', 'asn') <= FEW, f'{spec}: {brief(nodes)}'


def test_look_ups_by_key_are_prepared_once_for_all_pages(backend: Backend, db: Database, actor: Actor) -> None:
    backend.add_vrf(actor, {'rt': '1:1', 'name': 'v'})
    before = prepared(db)
    for size in range(5):
        found = backend.search_vrf(actor, equal('name', 'v'), {'max_result': size, 'offset': size // 4})['result']
        assert len(found) == (1 if 0 < size < 4 else 0)
    assert prepared(db) == before + 1
    assert [row['name'] for row in backend.list_vrf(actor, {'name': 'v'})] == ['v']


def prepared(db: Database) -> int:
    """How many statements the connection keeps."""
    return int(db.read(lambda tx: tx.value('SELECT count(*) FROM pg_prepared_statements')))
