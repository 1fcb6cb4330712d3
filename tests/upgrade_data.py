"""The contents of databases of earlier schemas, and the way they were made: tests/data/schemas/N.sql.xz has schema N.

The program of schema N runs this file, installed beside a PostgreSQL:

    git archive COMMIT | tar x -C /tmp/old && cd /tmp/old && python3 -m venv .venv && .venv/bin/pip install .
    .venv/bin/python REPOSITORY/tests/upgrade_data.py | xz -9e > REPOSITORY/tests/data/schemas/N.sql.xz

`fill` makes calls that every version has had. A later program must find the rows in the tables of this file.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from ipaddress import ip_network
from pathlib import Path
from typing import Any

Attributes = dict[str, Any]
Listed = dict[Any, Attributes]

VRFS: list[Attributes] = [
    {
        'rt': '65000:10',
        'name': 'Customer ACME',
        'description': 'L3VPN of ACME',
        'tags': ['l3vpn'],
        'avps': {'sla': 'gold'},
    },
    {'rt': '65000:20', 'name': 'Management', 'description': 'Out of band', 'tags': [], 'avps': {}},
    {'rt': '192.0.2.1:7', 'name': 'Übung', 'description': 'Schulung — ☃', 'tags': ['lab', 'lab'], 'avps': {}},
]
POOLS: list[Attributes] = [
    {
        'name': 'core-links',
        'description': 'Links between routers',
        'default_type': 'assignment',
        'ipv4_default_prefix_length': 31,
        'ipv6_default_prefix_length': 127,
        'tags': ['core'],
        'avps': {'owner': 'backbone team'},
    },
    {
        'name': 'customers',
        'description': 'Customer assignments',
        'default_type': 'assignment',
        'ipv4_default_prefix_length': 28,
        'ipv6_default_prefix_length': 48,
    },
    {'name': 'empty', 'description': 'Nothing is in it', 'default_type': 'reservation'},
]
ASNS: list[Attributes] = [
    {'asn': 64500, 'name': 'Example backbone'},
    {'asn': 4200000001, 'name': 'Private, 32 bits'},
]
# In this order: parents come before their children, except the two prefixes that are added around existing ones.
PREFIXES: list[Attributes] = [
    {'prefix': '198.51.100.0/24', 'type': 'assignment', 'description': 'Office Berlin', 'country': 'DE', 'vlan': 100},
    {'prefix': '198.51.0.0/16', 'type': 'reservation', 'description': 'Offices', 'tags': ['office']},
    {'prefix': '198.51.100.1/32', 'type': 'host', 'description': 'Gateway', 'node': 'ber-gw1'},
    {'prefix': '198.51.100.80/32', 'type': 'host', 'description': 'Printer', 'node': 'ber-prn1', 'monitor': True},
    {
        'prefix': '10.0.0.0/8',
        'type': 'reservation',
        'description': 'RFC 1918',
        'alarm_priority': 'low',
        'monitor': False,
    },
    {'prefix': '10.1.0.0/16', 'type': 'reservation', 'description': 'Links', 'pool_name': 'core-links'},
    {'prefix': '10.2.0.0/22', 'type': 'reservation', 'description': 'Customers', 'pool_name': 'customers'},
    {'prefix': '10.3.0.0/24', 'type': 'reservation', 'description': 'Customers, more', 'pool_name': 'customers'},
    {'prefix': '2001:db8::/32', 'type': 'reservation', 'description': 'Documentation', 'tags': ['doc', 'v6']},
    {'prefix': '2001:db8:1::/48', 'type': 'reservation', 'description': 'Links', 'pool_name': 'core-links'},
    {'prefix': '2001:db8:8000::/33', 'type': 'reservation', 'description': 'Customers', 'pool_name': 'customers'},
    {
        'prefix': '2001:db8:2:3::/64',
        'type': 'assignment',
        'description': 'Servers',
        'comment': 'Two lines\nand a \\backslash',
        'status': 'reserved',
        'order_id': 'O-2024-17',
        'customer_id': 'C-1',
        'external_key': 'cmdb:77',
        'avps': {'rack': 'B4', 'ключ': 'значение'},
    },
    {'prefix': '2001:db8:2:3::53/128', 'type': 'host', 'description': 'Resolver', 'node': 'ns1'},
    {'vrf_rt': '65000:10', 'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'ACME as they wish'},
    {'vrf_rt': '65000:10', 'prefix': '10.0.0.0/24', 'type': 'assignment', 'description': 'ACME headquarters'},
    {'vrf_rt': '65000:20', 'prefix': '172.16.0.0/12', 'type': 'reservation', 'description': 'Management'},
    {'vrf_rt': '65000:20', 'prefix': 'fd00:1::/48', 'type': 'assignment', 'description': 'Management'},
    {'prefix': '0.0.0.0/0', 'type': 'reservation', 'description': 'The Internet'},
]
# Requests to the pools, with the lowest free blocks.
ALLOCATED: list[tuple[Attributes, int, list[str]]] = [
    ({'name': 'core-links'}, 4, [f'10.1.0.{2 * number}/31' for number in range(40)]),
    ({'name': 'core-links'}, 6, [str(ip_network((0x20010DB80001 << 80 | 2 * number, 127))) for number in range(20)]),
    ({'name': 'customers'}, 4, [f'10.2.{number // 16}.{number % 16 * 16}/28' for number in range(64)]),
    ({'name': 'customers'}, 4, ['10.3.0.0/28', '10.3.0.16/28']),
    ({'name': 'customers'}, 6, [f'2001:db8:{number:x}::/48' for number in range(0x8000, 0x8010)]),
]
EDITED = {'prefix': '198.51.100.1/32'}
CHANGES: Attributes = {'description': 'Gateway, moved', 'tags': ['router'], 'comment': 'see O-9'}
REMOVED = ['10.1.0.10/31', '10.2.1.0/28', '2001:db8:8003::/48', '198.51.100.80/32']


def fill(backend: Any, actor: Any) -> None:
    """Make everything by calls of a backend."""
    for attr in VRFS:
        backend.add_vrf(actor, attr)
    for attr in POOLS:
        backend.add_pool(actor, attr)
    for attr in ASNS:
        backend.add_asn(actor, attr)
    for attr in PREFIXES:
        backend.add_prefix(actor, attr)
    for pool, family, blocks in ALLOCATED:
        args = {'from-pool': pool, 'family': family}
        for number, block in enumerate(blocks):
            added = backend.add_prefix(actor, {'description': f'Number {number}'}, args)
            assert added['prefix'] == block, (added['prefix'], block)
    backend.edit_prefix(actor, EDITED, CHANGES)
    for prefix in REMOVED:
        backend.remove_prefix(actor, {'prefix': prefix})


def _differing(found: Listed, wanted: Listed) -> dict[Any, Any]:
    """Return the objects that are missing, surplus, or have wrong attributes."""
    keys = dict.fromkeys(wanted.keys() - found.keys(), 'missing')
    keys |= dict.fromkeys(found.keys() - wanted.keys(), 'surplus')
    both = wanted.keys() & found.keys()
    shown = {key: {name: found[key][name] for name in wanted[key]} for key in both}
    return keys | {key: shown[key] for key in both if shown[key] != wanted[key]}


def _wanted_prefixes() -> Listed:
    """Return the expected prefixes by VRF and prefix, with the given attributes and those that follow from the pool."""
    types = {pool['name']: pool['default_type'] for pool in POOLS}
    prefixes = {(attr.get('vrf_rt'), attr['prefix']): dict(attr) for attr in PREFIXES}
    for pool, family, blocks in ALLOCATED:
        for number, block in enumerate(blocks):
            given = {'description': f'Number {number}', 'type': types[pool['name']], 'family': family}
            prefixes[None, block] = given
    prefixes[None, EDITED['prefix']] |= CHANGES
    for removed in REMOVED:
        del prefixes[None, removed]
    return prefixes


def check(backend: Any, actor: Any) -> None:
    """Check that calls return the data of this file and that every change has its entry in the audit log."""
    prefixes = {(each['vrf_rt'], each['prefix']): each for each in backend.list_prefix(actor)}
    assert _differing(prefixes, _wanted_prefixes()) == {}
    vrfs = {each['rt']: each for each in backend.list_vrf(actor) if each['id'] != 0}
    assert _differing(vrfs, {vrf['rt']: vrf for vrf in VRFS}) == {}
    pools = {each['name']: each for each in backend.list_pool(actor)}
    assert _differing(pools, {pool['name']: pool for pool in POOLS}) == {}
    asns = {each['asn']: each for each in backend.list_asn(actor)}
    assert _differing(asns, {asn['asn']: asn for asn in ASNS}) == {}
    assert {each['prefix'] for each in _found(backend, actor, 'ns1')} == {'2001:db8:2:3::53/128'}
    log = 'SELECT object_type, action, username, authoritative_source FROM audit_log'
    added = len(PREFIXES) + sum(len(blocks) for _, _, blocks in ALLOCATED)
    assert Counter(backend.db.read(lambda tx: tx.all(log))) == {
        ('vrf', 'add', 'ann', 'web'): len(VRFS),
        ('pool', 'add', 'ann', 'web'): len(POOLS),
        ('asn', 'add', 'ann', 'web'): len(ASNS),
        ('prefix', 'add', 'ann', 'web'): added,
        ('prefix', 'edit', 'ann', 'web'): 1,
        ('prefix', 'remove', 'ann', 'web'): len(REMOVED),
    }


def _found(backend: Any, actor: Any, text: str) -> list[dict[str, Any]]:
    answer: list[dict[str, Any]] = backend.smart_search_prefix(actor, text)['result']
    return answer


def main() -> None:
    """Print a database of the first program on the path, as its pg_dump writes it."""
    from nipap.access.authentication import Actor
    from nipap.backend import Backend
    from nipap.postgres import schema
    from nipap.postgres.database import Database
    from nipapd.embedded import EmbeddedPostgres

    with tempfile.TemporaryDirectory(dir='/tmp') as directory:
        Path(directory).chmod(0o755)  # as root, the server runs under another account
        server = EmbeddedPostgres(Path(directory) / 'postgres').start()
        try:
            schema.install(server.dsn())
            database = Database(server.dsn())
            fill(Backend(database), Actor('ann', 'Ann Example', 'ann', 'web', readonly=False))
            database.close()
            assert server.installation is not None
            command = [server.installation.bindir / 'pg_dump', '--no-owner', '--inserts', '--rows-per-insert=100']
            subprocess.run([*command, '--dbname', server.dsn()], check=True, stdout=sys.stdout)
        finally:
            server.stop()


if __name__ == '__main__':
    main()
