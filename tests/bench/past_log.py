"""Make an audit log of millions of entries by SQL: an import, then three years of changes by 200 users.

Prefixes that the log is about are not stored, as no question about the past reads them. Some parts of the tree have
entries in a known pattern, see PLACES.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass

import psycopg2.extensions
from bench import dataset

PARTITION = 10_000_000  # ids
REAL = 790_000
SOME = 10_000_000  # entries of the full log; a shorter one has all of its parts in proportion
USERS = 200
BULK = '10.16.0.0/12'  # one change set added all of it
BULK_ENTRIES = 100_000
BULK_SET = 1000  # those of the import are before it, all others after it
SPREAD, RECENT, LEFT, DENSE, LESS_DENSE = '10.2.0.0/16', '10.3.0.0/16', '10.5.0.0/16', '10.4.0.0/16', '10.6.0.0/16'
GONE_VRF = 5  # not used for two years
BUSY, RARE, FORMER = 'user-1', 'rare', 'former'
HOT_OBJECT, HOT_EVERY = 1_000_001, 211
# The part of the tree of entry n, the first match, where `total` is the number of entries.
PLACES = f"""
    WHEN n <= imported THEN NULL
    WHEN n <= imported + bulk THEN '10.16.0.0'::inet + (n - imported)
    WHEN n % greatest(total / 2000, 1) = 7 THEN '10.2.0.0'::inet + n % 65536
    WHEN n > total - 100000 AND n % 333 = 5 THEN '10.3.0.0'::inet + n % 65536
    WHEN n < total / 3 AND n % 700 = 11 THEN '10.5.0.0'::inet + n % 65536
    WHEN n % 100 = 3 THEN '10.4.0.0'::inet + n % 65536
    WHEN n % 333 = 4 THEN '10.6.0.0'::inet + n % 65536
    WHEN n < total / 3 AND n % 5 = 1 THEN '10.1.0.0'::inet + 1 + abs(hashint8(n)) % 65535
    WHEN n % {HOT_EVERY} = 9 THEN '10.1.0.0'::inet"""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Size:
    """The size of a log. The numbers of entries count from 1, ids depend on partitions."""

    entries: int
    partitions: int

    @property
    def imported(self) -> int:
        return REAL * self.entries // SOME

    @property
    def bulk(self) -> int:
        return BULK_ENTRIES * self.entries // SOME

    @property
    def per_partition(self) -> int:
        return -(-self.entries // self.partitions)

    def id_of(self, n: int) -> int:
        """Return the id of an entry."""
        part, within = divmod(n - 1, self.per_partition)
        return part * PARTITION + within + 1

    @property
    def sql_id(self) -> str:
        return f'(n - 1) / {self.per_partition} * {PARTITION} + (n - 1) % {self.per_partition} + 1'

    @property
    def last_id(self) -> int:
        return self.id_of(self.entries)


# The values of a prefix that edits do not change.
TEMPLATE = """{"type": "assignment", "status": "assigned", "country": "SE", "vlan": 1742, "order_id": "ORD-117305",
    "comment": "moved from rack 17 in the room behind the stairs, see the ticket of the customer",
    "customer_id": "CUST-1411", "node": "sw-711", "tags": ["office", "se", "managed"],
    "avps": {"cost": "711", "site": "lund"},
    "added": "2023-11-22T19:14:49.123456+00:00", "expires": "infinity", "monitor": false, "external_key": "KEY-1131742",
    "authoritative_source": "nipap"}"""
FORM = """{"id": %s, "vrf_id": %s, "prefix": "%s", "description": "Office LAN %s, in the second building",
    "last_modified": "2024-01-01T00:00:00.%s+00:00"}"""
# Nine of ten sets have one entry. The mean is five.
SETS = """
CREATE TEMP TABLE made AS
SELECT k, CASE WHEN h < 900 THEN 1 WHEN h < 980 THEN 2 + k % 9 WHEN h < 998 THEN 20 + k % 160
        ELSE 500 + k % 501 END AS size,
    abs(hashint8(k + 77)) % 1000 AS who
FROM (SELECT k, abs(hashint8(k)) % 1000 AS h FROM generate_series(1, {most}) k) q;
CREATE TEMP TABLE numbered AS
SELECT k + {others} AS k, last - size + 1 + {before} AS first_n, least(size, {rest} - last + size) AS size, who
FROM (SELECT k, size, who, sum(size) OVER (ORDER BY k) AS last FROM made) q WHERE last - size < {rest};
INSERT INTO change_set (id, at, username, authenticated_as, authoritative_source, method, request_id, entries_after)
SELECT k, {at}, username, username, 'nipap', method, 'request-' || k, {id} - 1
FROM (
    SELECT k, first_n AS n, CASE
        WHEN k % {rare} = 7 THEN 'rare' WHEN k % 97 = 5 AND k < {others} + {former} THEN 'former'
        ELSE 'user-' || 1 + ({users} * (who / 1000.0) ^ 3)::int END AS username, 'edit_prefix' AS method
    FROM numbered
    UNION ALL SELECT 1 + k, 1 + k * 1000, 'importer', 'batch' FROM generate_series(0, ({imported} - 1) / 1000) k
    UNION ALL SELECT {others}, {imported} + 1, 'importer', 'add_prefixes'
) q;
INSERT INTO numbered SELECT 1 + k, 1 + k * 1000, least(1000, {imported} - k * 1000), 0
FROM generate_series(0, ({imported} - 1) / 1000) k;
INSERT INTO numbered SELECT {others}, {imported} + 1, {bulk}, 0 WHERE {bulk} > 0;
CREATE UNIQUE INDEX ON numbered (first_n);
ANALYZE numbered
"""
ENTRIES = """
INSERT INTO audit_log (
    id, at, username, authenticated_as, authoritative_source, object_type, object_id, action, before, after, change_set)
SELECT {id}, {at}, username, username, 'nipap', 'prefix', object_id, action,
    CASE WHEN action <> 'add' THEN template || format(form, object_id, vrf, former, n, n - 9)::jsonb END,
    CASE WHEN action <> 'remove' THEN template || format(form, object_id, vrf, network, n + 1, n)::jsonb END, k
FROM (SELECT {template}::jsonb AS template, {form} AS form) t, (
    SELECT n, k, username, CASE
            WHEN place IS NULL THEN p.number WHEN place = '10.1.0.0' THEN {hot}
            ELSE 2000000 + (place - '10.0.0.0') END AS object_id,
        coalesce(host(place) || '/32', p.prefix) AS network, CASE
            WHEN place IS NULL AND n % 150 = 1 AND n > {imported} THEN '172.16.' || n % 256 || '.0/24'
            ELSE coalesce(host(place) || '/32', p.prefix) END AS former,
        CASE WHEN n <= {imported} + {bulk} THEN 'add' WHEN n % 19 = 1 THEN 'remove' WHEN n % 19 = 2 THEN 'add'
            ELSE 'edit' END AS action,
        CASE WHEN place << '10.1.0.0/16' AND place <> '10.1.0.0' THEN {gone} ELSE 0 END AS vrf
    FROM (
        SELECT n, m.k, s.username, CASE {places} END AS place,
            CASE WHEN n <= {imported} THEN n ELSE 1 + abs(hashint8(n + 5)) % {imported} END AS which
        FROM (SELECT * FROM numbered WHERE first_n > {first} - 100001 AND first_n <= {last} ORDER BY first_n) m
        CROSS JOIN LATERAL generate_series(greatest(m.first_n, {first}), least(m.first_n + m.size - 1, {last})) n
        JOIN change_set s ON s.id = m.k
    ) q LEFT JOIN real p ON p.number = which
) q ORDER BY n
"""
SPANS = """INSERT INTO audit_span
SELECT least((id / 5000 + 1) * 5000 - 1, {last}), id / 5000 * 5000, min(at), max(at)
FROM audit_log GROUP BY id / 5000"""
STATES = """
SELECT setval('audit_log_id_seq', {last}), setval('change_set_id_seq', (SELECT max(id) FROM change_set));
UPDATE event_state SET settled = {last};
UPDATE change_state SET settled = (SELECT max(id) FROM change_set), position = (SELECT count(*) FROM change_set),
    moment = now();
INSERT INTO change_order SELECT row_number() OVER (ORDER BY at, id), id, at + id * interval '1 us' FROM change_set;
SELECT setval('vrf_id_seq', 20);
INSERT INTO vrf (id, rt_rank, name, rt) SELECT n, n, 'vrf-' || n, '1:' || n FROM generate_series(1, 20) n;
SELECT setval('prefix_id_seq', 3000000)
"""


def make(connection: psycopg2.extensions.connection, size: Size, say: Say) -> None:
    """Fill an empty database. Its server should neither sync nor vacuum meanwhile."""
    began = time.monotonic()
    total, imported, bulk = size.entries, size.imported, size.bulk
    at = f"now() - interval '3 years' * (1 - n / {total + 1}.0)"
    rest = total - imported - bulk
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(
            "SET work_mem = '256MB'; SET maintenance_work_mem = '1GB'; SET max_parallel_workers_per_gather = 0"
        )
        cursor.execute('CREATE TEMP TABLE real (number bigint, prefix text)')
        rows = ''.join(f'{n}\t{row[0]}\n' for n, row in enumerate(dataset.real(imported), 1))
        cursor.copy_expert('COPY real FROM stdin', io.StringIO(rows))
        cursor.execute('CREATE UNIQUE INDEX ON real (number); ANALYZE real')
        indexes = _indexes(cursor)
        for name in indexes:
            cursor.execute(f'DROP INDEX {name}')
        for part in range(2, size.last_id // PARTITION + 1):
            first = part * PARTITION
            bounds = f'FOR VALUES FROM ({first}) TO ({first + PARTITION})'
            cursor.execute(f'CREATE TABLE IF NOT EXISTS audit_log_{part + 1} PARTITION OF audit_log {bounds}')
        sets = {'most': rest // 4 + 100, 'before': imported + bulk, 'rest': rest, 'at': at, 'id': size.sql_id}
        rare, former = max(rest // 5 // 80, 10), rest // 20
        some = {
            'users': USERS - 3,
            'rare': rare,
            'former': former,
            'imported': imported,
            'bulk': bulk,
            'others': BULK_SET,
        }
        cursor.execute(SETS.format(**sets, **some))
        say(f'change sets: {time.monotonic() - began:.0f} s')
        step = 500_000
        places = PLACES.replace('imported', str(imported)).replace('bulk', str(bulk)).replace('total', str(total))
        for first in range(1, total + 1, step):
            values = {'first': first, 'last': min(first + step - 1, total), 'hot': HOT_OBJECT, 'gone': GONE_VRF}
            cursor.execute(
                ENTRIES.format(
                    id=size.sql_id,
                    at=at,
                    places=places,
                    template=f"'{TEMPLATE}'",
                    form=f"'{FORM}'",
                    imported=imported,
                    bulk=bulk,
                    **values,
                )
            )
            say(f'{values["last"]:,} entries: {time.monotonic() - began:.0f} s')
        cursor.execute('SET max_parallel_maintenance_workers = 2')
        for name, definition in indexes.items():
            cursor.execute(definition)
            say(f'{name}: {time.monotonic() - began:.0f} s')
        cursor.execute(SPANS.format(last=size.last_id))
        cursor.execute(STATES.format(last=size.last_id))
        cursor.execute('VACUUM (FREEZE, ANALYZE)')
        cursor.execute('CHECKPOINT')
    say(f'made in {time.monotonic() - began:.0f} s')


def _indexes(cursor: psycopg2.extensions.cursor) -> dict[str, str]:
    """Return the definitions of the indexes of the log, the primary key apart."""
    cursor.execute(
        "SELECT indexrelid::regclass::text, replace(pg_get_indexdef(indexrelid), ' ON ONLY ', ' ON ') FROM pg_index "
        "WHERE indrelid = 'audit_log'::regclass AND NOT indisprimary"
    )
    return dict(cursor.fetchall())
