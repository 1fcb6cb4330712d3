"""Rows read to answer a question: as many as the answer needs, not as many as are stored."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import databases
import pytest
from support import AUDIT_ENTRIES, Plan, explained

from nipap.access.authentication import Actor
from nipap.backend import Backend
from nipap.history import events
from nipap.integrity import check
from nipap.objects import prefix_search
from nipap.objects.prefix import get_added_by
from nipap.postgres.database import Database
from nipapd.embedded import EmbeddedPostgres

pytestmark = pytest.mark.slow

CHILDREN = 60_000
# As many children as in a big pool; derived values only as far as these questions read them.
MEMBER = """
INSERT INTO prefix (vrf_id, prefix, type, parent_id, used_addresses, description)
SELECT 0, set_masklen('10.0.0.0'::inet + n, 32), 'assignment', {member}, 1, 'child'
FROM generate_series(0, {children} - 1) n;
UPDATE prefix SET children = {children}, used_addresses = {children}, free_blocks = 2 ^ 24 - {children}
WHERE id = {member};
ANALYZE
"""


# PostgreSQL reports the mean of several runs of a node, rounded.
FEW = 10


def rows_read(nodes: list[Plan], *tables: str) -> float:
    """Return the approximate number of rows read from some tables."""
    return sum(
        (node['Actual Rows'] + sum(node.get(f'Rows Removed by {why}', 0) for why in ('Filter', 'Index Recheck')))
        * node['Actual Loops']
        for node in nodes
        if node.get('Relation Name') in tables
    )


def brief(nodes: list[Plan]) -> str:
    """Return a description of the scans of tables."""
    return '; '.join(
        f'{node["Node Type"]} of {node["Relation Name"]} by {node.get("Index Name")}: {node["Actual Rows"]} rows'
        for node in nodes
        if 'Relation Name' in node
    )


def equal(name: str, value: object) -> dict[str, Any]:
    return {'operator': 'equals', 'val1': name, 'val2': value}


@pytest.fixture
def big_pool(db: Database, backend: Backend, actor: Actor) -> dict[str, Any]:
    """Return one of several pools, with a member that has 60,000 children."""
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


TREE = ('prefix', 'free_range', 'vrf_total')
WATCH = """CREATE TABLE made (what text);
CREATE FUNCTION note_made() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO made VALUES (TG_OP || ' ' || TG_TABLE_NAME); RETURN NULL; END $$"""
WATCH_ONE = (
    'CREATE TRIGGER watch AFTER INSERT OR UPDATE OR DELETE ON {} FOR EACH STATEMENT EXECUTE FUNCTION note_made()'
)
UNWATCH = 'DROP FUNCTION note_made() CASCADE; DROP TABLE made'


@contextlib.contextmanager
def statements(db: Database) -> Iterator[list[str]]:
    """Yield a list that at the end holds each statement that has changed the tree, also in functions."""
    db.run(lambda tx: tx.execute('; '.join([WATCH, *map(WATCH_ONE.format, TREE)])))
    made: list[str] = []
    try:
        yield made
        made += [row[0] for row in db.run(lambda tx: tx.all('SELECT what FROM made'))]
    finally:
        db.run(lambda tx: tx.execute(UNWATCH))


@pytest.mark.parametrize('inside', [True, False], ids=['in a block', 'at the top level'])
def test_children_move_by_one_statement(db: Database, backend: Backend, actor: Actor, inside: bool) -> None:
    """Adding a prefix above 300 prefixes, and removing it, takes as many statements as for 3."""
    made: dict[int, list[str]] = {}
    for number, count in ((0, 3), (1, 300)):
        networks = [f'10.{number}.{n // 128}.{n * 2 % 256}/32' for n in range(count)]
        networks += [f'10.{number}.0.0/16'] * inside
        attr = {'type': 'reservation', 'description': 'd'}
        backend.add_prefixes(actor, [{'prefix': network, **attr} for network in networks])
        with statements(db) as made[count]:
            cover = backend.add_prefix(actor, {'prefix': f'10.{number}.0.0/17', **attr})
            backend.remove_prefix(actor, {'id': cover['id']})
    assert made[3] == made[300]
    assert made[300].count('UPDATE prefix') >= 2
    assert check.problems(db) == []


NUMBER = 400
LOOKED_UP = """
INSERT INTO vrf (id, rt, rt_rank, name) SELECT n, '1:' || n, 4294967296 + n, 'Name ' || n
FROM generate_series(1, {n}) n;
INSERT INTO pool (name, default_type) SELECT 'Name ' || n, 'host' FROM generate_series(1, {n}) n;
INSERT INTO asn SELECT n, 'Name ' || n FROM generate_series(1, {n}) n;
ANALYZE
"""


def test_look_ups_by_key_read_only_their_rows(db: Database, backend: Backend, actor: Actor) -> None:
    """Names in another case are different names, but the index on names ignores case."""
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


@pytest.mark.parametrize('kind', ['vrf', 'pool', 'asn'])
def test_a_page_far_along_reads_no_more_than_the_first(db: Database, backend: Backend, actor: Actor, kind: str) -> None:
    db.run(lambda tx: tx.execute(LOOKED_UP.format(n=5000)))
    search = getattr(backend, f'search_{kind}')
    along = search(actor, {}, {'max_result': 4500, 'after': ''})['after']
    read = []
    for after in ('', along):
        with explained(db) as nodes:
            assert len(search(actor, {}, {'max_result': 5, 'after': after})['result']) == 5
        read.append(rows_read(nodes, kind))
        assert read[-1] <= FEW, brief(nodes)
    assert read[0] == read[1]


def test_look_ups_by_key_are_prepared_once_for_all_pages(backend: Backend, db: Database, actor: Actor) -> None:
    backend.add_vrf(actor, {'rt': '1:1', 'name': 'v'})
    before = prepared(db)
    for size in range(5):
        found = backend.search_vrf(actor, equal('name', 'v'), {'max_result': size, 'offset': size // 4})['result']
        assert len(found) == (1 if 0 < size < 4 else 0)
    assert prepared(db) == before + 1
    assert [row['name'] for row in backend.list_vrf(actor, {'name': 'v'})] == ['v']


def prepared(db: Database) -> int:
    """Return the number of prepared statements of the connection."""
    return int(db.read(lambda tx: tx.value('SELECT count(*) FROM pg_prepared_statements')))


ROWS = 100_000
# A tree of assignments with hosts, some of them with the values in the queries below; all text is different.
STORED = """
INSERT INTO prefix (id, vrf_id, prefix, type, parent_id, description, node, order_id, customer_id, external_key, vlan,
    expires, tags, avps)
SELECT n, 0, CASE WHEN n % 250 = 0 THEN set_masklen(a, 24) ELSE set_masklen(a, 32) END::cidr,
    CASE WHEN n % 250 = 0 THEN 'assignment' ELSE 'host' END, nullif(n - n % 250, n),
    'description ' || n, 'node-' || n, 'order ' || n, 'customer ' || n, 'key-' || n,
    CASE WHEN n % 100 = 0 THEN n % 4000 END,
    CASE WHEN n % 1000 = 0 THEN timestamptz '2030-01-01' + n * interval '1 minute' ELSE 'infinity' END,
    CASE WHEN n % 1000 = 7 THEN ARRAY['Tag-' || n] ELSE '{{}}' END,
    CASE WHEN n % 100 = 0 THEN jsonb_build_object('serial', 'S' || n, 'quote"d', 'v') ELSE '{{}}' END
FROM (SELECT n, '10.0.0.0'::inet + n / 250 * 256 + n % 250 AS a FROM generate_series(0, {rows} - 1) n) s;
INSERT INTO prefix (id, vrf_id, prefix, type, comment, description, node, order_id, customer_id) VALUES
    (-1, 0, '::1:0/112', 'assignment', 'c1', 'd', 'n%', 'o\\1', E'z\\nz'),
    (-2, 0, '::2/128', 'assignment', '', '', '', '', '');
UPDATE prefix SET tags = '{{Net}}' WHERE id = 50000;
INSERT INTO prefix_words SELECT id, words_of(p) FROM prefix p;
ANALYZE
"""
# Queries, each with the number of prefixes that it finds.
INDEXED: tuple[tuple[str, object, int], ...] = (
    ('avps.serial', 'S5000', 1),
    ('avps.serial', 'S1', 0),
    ('avps.quote"d', 'w', 0),
    ('avps', {'serial': 'S5000', 'quote"d': 'v'}, 1),
    ('avps', {'serial': 'S5000'}, 0),
    ('tags', 'tag-50007', 1),
    ('tags', ['Tag-50007'], 1),
    ('tags', ['Tag-50007', 'other'], 0),
    ('inherited_tags', 'tag-50007', 0),
    ('display_prefix', '10.0.200.0/24', 1),
    ('display_prefix', '10.0.200.7/24', 1),
    ('display_prefix', '10.0.200.7/32', 0),
    ('display_prefix', '10.0.200.7', 0),
    ('display_prefix', '::0.1.0.0/112', 1),
    ('display_prefix', '::2/128', 1),
    ('display_prefix', '::2%1/128', 0),
    ('display_prefix', 'nonsense', 0),
    ('external_key', 'key-77777', 1),
    ('vlan', 3300, 25),
    ('expires', '2030-02-04T17:20:00Z', 1),
    ('customer_id', 'customer 77777', 1),
    ('order_id', 'order 77777', 1),
    ('node', 'node-77777', 1),
    ('node', 'r1', 0),
    *(
        (name, text, 1)
        for name, text in (('comment', 'c1'), ('description', 'd'), ('node', 'n%'), ('order_id', 'o\\1'))
    ),
    ('customer_id', 'z\nz', 1),
    ('description', 'description 77777', 1),
    ('prefix', '10.0.200.7/32', 1),
)

# Queries for text other than equality: operator, attribute, value, number of prefixes found.
PATTERNS: tuple[tuple[str, str, str, int], ...] = (
    ('like', 'description', '%ption 7777%', 11),
    ('like', 'node', 'node-77777', 1),
    ('like', 'comment', '%nowhere%', 0),
    ('~', 'description', 'tion 7777[0-9]$', 10),
    ('~', 'customer_id', '^customer 77777$', 1),
    ('~', 'order_id', 'ORDER 7777', 0),
    ('~*', 'description', 'TION 7777[0-9]$', 10),
    ('regex_match', 'node', 'NODE-7777[0-9]', 10),
    ('equals_any', 'tags', 'tag-50007', 1),
    ('equals_any', 'inherited_tags', 'net', 249),
    ('equals', 'inherited_tags', 'Net', 249),
    ('equals_any', 'inherited_tags', 'tag-50007', 0),
)
WORDS = (
    ('77777', 1),
    ('node-7777 order', 11),
    ('NODE-77777', 1),
    ('"customer 77777"', 1),
    ('#net', 250),
    ('nowhere', 0),
)


@pytest.fixture(scope='module')
def stored(shared_dsn: str) -> str:
    """Return a database with the rows of STORED. No test connects to it: inserting takes a hundred times a copy."""
    with contextlib.closing(Database(shared_dsn)) as database:
        database.run(lambda tx: tx.execute(STORED.format(rows=ROWS)))
    return shared_dsn


@pytest.fixture
def stored_db(stored: str, cluster: EmbeddedPostgres, _numbers: Iterator[int]) -> Iterator[Database]:
    """Yield a copy of the database with the rows of STORED."""
    copy = databases.copied(cluster, stored, f'test_{next(_numbers)}')
    with copy as dsn, contextlib.closing(Database(dsn)) as database:
        yield database


@pytest.fixture
def stored_backend(stored_db: Database) -> Backend:
    return Backend(stored_db)


def test_patterns_words_and_tags_use_an_index(stored_db: Database, stored_backend: Backend, actor: Actor) -> None:
    page = {'max_result': 1000}
    wrong = []
    for operator, name, value, found in PATTERNS:
        query = {'operator': operator, 'val1': name, 'val2': value}
        with explained(stored_db) as nodes:
            assert len(stored_backend.search_prefix(actor, query, page)['result']) == found, query
        wrong += [f'{query}: {brief(nodes)}'] * reads_everything(nodes)
    for text, found in WORDS:
        with explained(stored_db) as nodes:
            assert len(stored_backend.smart_search_prefix(actor, text, page)['result']) == found, text
        wrong += [f'smart search {text}: {brief(nodes)}'] * reads_everything(nodes)
    assert not wrong, '\n'.join(wrong)


def test_of_many_that_have_a_word_a_page_is_compared(
    stored_db: Database, stored_backend: Backend, actor: Actor
) -> None:
    """10,000 prefixes contain the word, late in the order, beyond the reach of any walk.

    The word is in the attribute of the query or in another attribute.
    """
    for name, size, found in (('description', 50, 50), ('order_id', 50, 0), ('description', None, 10_000)):
        query = {'operator': 'regex_match', 'val1': name, 'val2': 'tion 9[0-9][0-9][0-9][0-9]$'}
        with explained(stored_db) as nodes:
            answer = stored_backend.search_prefix(actor, query, {'max_result': size or 20_000})['result']
        first = [f'description {n}' for n in range(90_000, 90_000 + found)]
        assert [row['description'] for row in answer] == first, (name, size)
        if found == size:
            compared = [node for node in nodes if '~*' in node.get('Filter', '')]
            assert sum(node['Actual Rows'] * node['Actual Loops'] for node in compared) == size, brief(nodes)
            removed = sum(node.get('Rows Removed by Filter', 0) * node['Actual Loops'] for node in compared)
            assert removed <= sum(prefix_search.WALKS), brief(nodes)


def test_parents_of_a_page_are_looked_for_where_the_page_is(
    stored_db: Database, stored_backend: Backend, actor: Actor
) -> None:
    """Nothing else below the parents is read. The word is rare or common, and the page full, short or exact."""
    stored_db.run(lambda tx: tx.execute(ROOT))
    rare = {'operator': 'regex_match', 'val1': 'description', 'val2': 'tion 7777[0-9]$'}
    common = {'operator': 'regex_match', 'val1': 'description', 'val2': 'description'}
    for query, size in ((rare, 50), (rare, 10), (rare, 5), (common, 50)):
        for depth in (1, 2):
            with explained(stored_db) as nodes:
                found = stored_backend.search_prefix(actor, query, {'max_result': size, 'parents_depth': depth})[
                    'result'
                ]
            assert sum(not row['match'] for row in found) == (depth if query is rare else 1), (query, size, depth)
            assert not reads_everything(nodes), f'{query} {size} {depth}: {brief(nodes)}'


ROOT = """
INSERT INTO prefix (id, vrf_id, prefix, type, description) VALUES (-3, 0, '10.0.0.0/8', 'reservation', 'root');
INSERT INTO prefix_words SELECT id, words_of(p) FROM prefix p WHERE id = -3;
UPDATE prefix SET parent_id = -3 WHERE type = 'assignment' AND family(prefix) = 4;
ANALYZE
"""


def test_equality_uses_an_index(stored_db: Database, stored_backend: Backend, actor: Actor) -> None:
    """Equality in searches and in specs uses an index, whatever the size of the table."""
    wrong = []
    for name, value, found in INDEXED:
        with explained(stored_db) as nodes:
            assert len(stored_backend.search_prefix(actor, equal(name, value))['result']) == found, (name, value)
        wrong += [f'search {name} {value}: {brief(nodes)}'] * reads_everything(nodes)
        if name.startswith('avps.'):
            continue
        with explained(stored_db) as nodes:
            assert len(stored_backend.list_prefix(actor, {name: value})) == found, (name, value)
        wrong += [f'list {name} {value}: {brief(nodes)}'] * reads_everything(nodes)
    with explained(stored_db) as nodes:
        assert len(stored_backend.search_tag(actor, {}, {'max_result': 1000})['result']) == ROWS // 1000 + 1
    wrong += [f'search_tag: {brief(nodes)}'] * reads_everything(nodes)
    assert not wrong, '\n'.join(wrong)


def test_words_that_are_more_than_text_use_an_index(stored_db: Database, stored_backend: Backend, actor: Actor) -> None:
    mac = 'UPDATE prefix SET avps = \'{"mac": "00:1a:2b:3c:4d:5e"}\' WHERE id = 60000; ANALYZE'
    stored_db.run(lambda tx: tx.execute(mac))
    wrong = []
    for text, found in (('10.1.100.', 50), ('10.1.100', 50), ('10.1.100. node-89001', 1), ('001a.2b3c.4d5e', 1)):
        with explained(stored_db) as nodes:
            assert len(stored_backend.smart_search_prefix(actor, text)['result']) == found, text
        wrong += [f'{text}: {brief(nodes)}'] * reads_everything(nodes)
    assert not wrong, '\n'.join(wrong)


def reads_everything(nodes: list[Plan]) -> bool:
    """Return whether a table of prefixes is scanned, or most of it is read in some other way."""
    tables = ('prefix', 'prefix_words')
    scanned = any(node['Node Type'] == 'Seq Scan' and node.get('Relation Name') in tables for node in nodes)
    return scanned or rows_read(nodes, *tables) > ROWS / 10


AUDITED = """
INSERT INTO change_set (username, authenticated_as, authoritative_source, call)
SELECT 'u', 'u', 's', n FROM generate_series(1, 20000) n;
INSERT INTO audit_log (username, authenticated_as, authoritative_source, object_type, object_id, action, change_set)
SELECT 'u', 'u', 's', 'prefix', n, 'add', n FROM generate_series(1, 20000) n; ANALYZE
"""


CALL_OF = """SELECT s.call FROM audit_log a JOIN change_set s ON s.id = a.change_set
WHERE a.object_id = %s AND a.username <> 'u'"""


def test_prefixes_of_several_changes_are_found_by_their_numbers(db: Database, backend: Backend, actor: Actor) -> None:
    """The allocations of one message are found in the order of the changes, however long the audit log is."""
    db.run(lambda tx: tx.execute(AUDITED))
    prefixes = [f'10.{n}.0.0/16' for n in (3, 1, 2)]
    ids = [
        backend.add_prefix(actor, {'prefix': prefix, 'type': 'assignment', 'description': 'd'})['id']
        for prefix in prefixes
    ]
    changes = [db.read(lambda tx, i=i: tx.value(CALL_OF, (i,))) for i in ids]
    for _ in range(2):  # the first run prepares the statement
        with explained(db) as nodes:
            found = db.read(lambda tx: get_added_by(tx, changes))
        assert [item['prefix'] for item in found] == prefixes
        assert rows_read(nodes, 'audit_log', 'change_set', 'prefix') <= 4 * len(prefixes), brief(nodes)


def test_the_events_there_are_are_not_read_to_find_new_ones(db: Database) -> None:
    """Even when there are so many new entries that PostgreSQL merges new and old ones."""
    old, new = 20_000, 1500
    sequencer = events.EventSequencer()
    assert sequencer.step(db) == 0
    db.run(lambda tx: tx.execute(AUDIT_ENTRIES, (old + new,)))
    db.run(lambda tx: tx.execute('INSERT INTO event SELECT n, n FROM generate_series(1, %s) n', (old,)))
    db.run(lambda tx: tx.execute('UPDATE event_state SET settled = %s, last_position = %s', (old, old)))
    db.run(lambda tx: tx.execute('ANALYZE event, audit_log'))
    with explained(db) as nodes:
        assert sequencer.step(db) == new
    assert rows_read(nodes, 'event') <= new, brief(nodes)
    assert rows_read(nodes, 'audit_log') <= 2 * new, brief(nodes)
    assert db.read(lambda tx: tx.value('SELECT count(*) FROM event')) == old + new


SPARSE = """
INSERT INTO prefix (vrf_id, prefix, type, used_addresses, description)
SELECT 0, set_masklen('10.0.0.0'::inet + 2 * n, 32), 'reservation', 1, 'd' FROM generate_series(0, 19999) n;
ANALYZE prefix
"""


def test_many_additions_do_not_read_all_prefixes(db: Database, backend: Backend, actor: Actor) -> None:
    """Reading everything that is stored would happen some hundred times in an import."""
    attr = {'type': 'reservation', 'description': 'd'}
    many = [{'prefix': f'192.0.{n // 256}.{n % 256}/32', **attr} for n in range(300)]
    db.run(lambda tx: tx.execute(SPARSE))
    with explained(db, inside=True) as nodes:
        backend.add_prefixes(actor, many)
    assert rows_read(nodes, 'prefix') <= 10 * len(many), brief(nodes)


def test_events_are_not_read_to_find_old_ones(db: Database) -> None:
    """The look-up runs once a minute, over all events of a day."""
    db.run(lambda tx: tx.execute('INSERT INTO event SELECT n, n FROM generate_series(1, 20000) n'))
    db.run(lambda tx: tx.execute('UPDATE event_state SET settled = 20000, last_position = 20000'))
    db.run(lambda tx: tx.execute('ANALYZE event'))
    with explained(db) as nodes:
        assert db.run(lambda tx: events.remove_old(tx, 1, kafka=False)) == 0
    assert rows_read(nodes, 'event') <= events.REMOVED_AT_ONCE, brief(nodes)
