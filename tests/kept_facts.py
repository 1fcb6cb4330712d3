"""Facts of the installations in tests/data/kept, read through the calls of the program at hand.

`keep_today.py` has the kept program read the facts. Tests have the code under test read them after a migration or a
restore. Both must find the same facts.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

Object = dict[str, Any]
Query = Callable[[str], list[tuple[Any, ...]]]

# The attributes of the kept program. The answers of a later program may have more.
ATTRIBUTES = {
    'vrf': (
        *('id', 'rt', 'name', 'description', 'tags', 'avps', 'num_prefixes_v4', 'num_prefixes_v6'),
        *('total_addresses_v4', 'total_addresses_v6', 'used_addresses_v4', 'used_addresses_v6'),
    ),
    'pool': (
        *('id', 'name', 'description', 'default_type', 'ipv4_default_prefix_length', 'ipv6_default_prefix_length'),
        *('member_prefixes_v4', 'member_prefixes_v6', 'used_prefixes_v4', 'used_prefixes_v6'),
        *('free_prefixes_v4', 'free_prefixes_v6', 'tags', 'avps', 'vrf_rt', 'prefixes'),
    ),
    'asn': ('asn', 'name'),
    'prefix': (
        *('id', 'vrf_id', 'vrf_rt', 'vrf_name', 'family', 'prefix', 'display_prefix', 'description'),
        *('comment', 'inherited_tags', 'tags', 'node', 'pool_id', 'pool_name', 'type', 'status', 'indent', 'country'),
        *('order_id', 'customer_id', 'external_key', 'authoritative_source', 'alarm_priority', 'monitor', 'vlan'),
        *('added', 'last_modified', 'total_addresses', 'used_addresses', 'free_addresses', 'avps', 'expires'),
    ),
    'webhook': (
        *('id', 'url', 'description', 'kinds', 'vrf_ids', 'pool_ids', 'tags', 'enabled', 'added', 'cursor'),
        *('last_error', 'delivered', 'failed'),
    ),
    'dead_letter': ('id', 'event', 'error', 'added', 'again'),
}
# Each query has one row, or some rows in order, of figures that are in no answer to a call.
QUERIES = {
    'audit_log': 'SELECT object_type, action, username, count(*) FROM audit_log GROUP BY 1, 2, 3 ORDER BY 1, 2, 3',
    'audit_log_facts': """SELECT md5(string_agg(concat_ws('|', id, extract(epoch FROM at), username, authenticated_as,
        full_name, authoritative_source, object_type, object_id, action, before, after), '\n' ORDER BY id))
        FROM audit_log""",
    'events': 'SELECT count(*), min(position), max(position), md5(string_agg(audit_id::text, ' + "','"
    ' ORDER BY position)) FROM event',
    'idempotency': """SELECT authenticated_as, key, encode(fingerprint, 'hex'), md5(answer) FROM idempotency
        ORDER BY authenticated_as, key""",
    'webhook_secrets': "SELECT md5(string_agg(id || secret, ',' ORDER BY id)) FROM webhook",
    'free_ranges': 'SELECT count(*), sum(fit) FROM free_range',
}
# Number of objects of a kind that are kept as a whole, spread over all objects of the kind.
SAMPLES = 12


def read(backend: Any, actor: Any, query: Query) -> Object:
    """Return the facts as JSON values: counts, sums, a digest of each attribute, whole objects as samples.

    backend and actor: as every call takes them; the actor must be trusted, or webhooks are not listed. query: runs SQL
    and returns its rows.
    """
    listed = {
        'vrf': backend.list_vrf(actor),
        'pool': backend.list_pool(actor),
        'asn': backend.list_asn(actor),
        'prefix': backend.list_prefix(actor),
        'webhook': backend.list_webhook(actor),
    }
    listed['dead_letter'] = [
        letter for hook in listed['webhook'] for letter in backend.list_dead_letter(actor, {'id': hook['id']})
    ]
    kinds = {kind: _kind(objects, ATTRIBUTES[kind]) for kind, objects in listed.items()}
    every_tag = {'operator': 'like', 'val1': 'name', 'val2': '%'}
    tags = [tag['name'] for tag in backend.search_tag(actor, every_tag, {'max_result': 1000})['result']]
    facts = {
        **kinds,
        'prefixes': _figures(listed['prefix']),
        'tags': tags,
        **{name: query(sql) for name, sql in QUERIES.items()},
    }
    return plain(facts)


def differing(found: Mapping[str, Any], expected: Mapping[str, Any], path: str = '') -> list[str]:
    """Return a line for each fact that is not as expected, so that a failed test names the fact."""
    lines = []
    for name in sorted({*found, *expected}):
        ours, theirs = found.get(name), expected.get(name)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            lines += differing(ours, theirs, f'{path}{name}.')
        elif ours != theirs:
            lines.append(f'{path}{name}: {ours!r}, expected {theirs!r}'[:500])
    return lines


def plain(value: object) -> Any:
    """Return the value as JSON returns it: moments as text in UTC, numbers of any size unchanged."""
    return json.loads(json.dumps(value, default=_text, ensure_ascii=False))


def _text(value: object) -> str:
    if isinstance(value, datetime):
        return (value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)).isoformat()
    return str(value)


def _kind(objects: list[Object], names: Iterable[str]) -> Object:
    """Return the facts of one kind of object, which has these attributes."""
    names = tuple(names)
    objects = plain([{name: _value(name, each[name]) for name in names} for each in objects])
    objects.sort(key=lambda each: each.get('id', each.get('asn')))
    digests = {}
    for name in names:
        text = json.dumps([each[name] for each in objects], sort_keys=True, ensure_ascii=False)
        digests[name] = hashlib.sha256(text.encode()).hexdigest()[:16]
    step = max(1, len(objects) // SAMPLES)
    return {'count': len(objects), 'digests': digests, 'samples': objects[::step][:SAMPLES]}


def _value(name: str, value: Any) -> Any:
    """Return the value of an attribute, without an order that another program may choose."""
    return sorted(value) if name == 'inherited_tags' else value


def _figures(prefixes: list[Object]) -> Object:
    """Return counts and sums of prefixes."""
    return {
        'by_family': _counts(prefixes, 'family'),
        'by_type': _counts(prefixes, 'type'),
        'by_status': _counts(prefixes, 'status'),
        'by_vrf': _counts(prefixes, 'vrf_rt'),
        'by_indent': _counts(prefixes, 'indent'),
        'expired': sum(each['expires'] is not None and _text(each['expires']) < '2024' for each in prefixes),
        'with_tags': sum(bool(each['tags']) for each in prefixes),
        'with_avps': sum(bool(each['avps']) for each in prefixes),
        'total_addresses': {
            str(family): str(sum(int(each['total_addresses']) for each in prefixes if each['family'] == family))
            for family in (4, 6)
        },
    }


def _counts(objects: list[Object], name: str) -> dict[str, int]:
    return dict(sorted(Counter(str(each[name]) for each in objects).items()))


def main() -> None:
    """Print the facts of the database in the first argument, read by the first program on the path."""
    import psycopg2

    from nipap.backend import Backend

    try:
        from nipap.access.authentication import Actor
        from nipap.postgres.database import Database
    except ImportError:  # a program up to schema 8
        from nipap.db import Database

        from nipap.authlib import Actor

    dsn = sys.argv[1]
    database, connection = Database(dsn), psycopg2.connect(dsn)

    def query(sql: str) -> list[tuple[Any, ...]]:
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall()

    try:
        actor = Actor('keeper', None, 'keeper', 'kept', readonly=False, trusted=True)
        print(json.dumps(read(Backend(database), actor, query), ensure_ascii=False, indent=1))
    finally:
        connection.close()
        database.close()


if __name__ == '__main__':
    main()
