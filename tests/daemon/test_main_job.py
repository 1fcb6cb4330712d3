"""The main job of the daemon, done once on real data: store networks, find the holder of an address, allocate.

A daemon without configuration runs its own PostgreSQL here. All calls use XML-RPC. At the end the audit log and the
invariants of the database are examined from outside.
"""

from __future__ import annotations

import csv
import ipaddress
import itertools
import lzma
import subprocess
import sys
import xmlrpc.client
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from nipapd.embedded import EmbeddedPostgres

pytestmark = pytest.mark.slow

DATA = Path(__file__).parent.parent / 'data' / 'internet-prefixes.csv.xz'
ROWS = 5000
REPOSITORY = Path(__file__).parent.parent.parent
AUTH = {'authoritative_source': 'main-job'}


@pytest.fixture
def data_dir(make_dir: Callable[[], Path]) -> Path:
    return make_dir()


@pytest.fixture
def running(daemon: Callable[..., Any], data_dir: Path) -> Any:
    return daemon(data_dir=data_dir)


@pytest.fixture
def call(running: Any) -> Iterator[Callable[..., Any]]:
    """Yield a function that makes calls as the user of the first start, all on one connection."""
    url = f'{running.url(*running.admin())}/XMLRPC'
    with xmlrpc.client.ServerProxy(url, allow_none=True, use_builtin_types=True) as proxy:

        def call(method: str, /, **members: Any) -> Any:
            return getattr(proxy, method)({'auth': AUTH, **members})

        yield call


def networks() -> list[dict[str, str]]:
    with lzma.open(DATA, 'rt', newline='', encoding='utf-8') as file:
        return list(itertools.islice(csv.DictReader(file), ROWS))


def test_the_main_job(call: Callable[..., Any], data_dir: Path, running: Any) -> None:
    rows = networks()
    load(call, rows)
    check_totals(call, rows)
    find_who_holds_an_address(call, rows)
    allocated = allocate(call)
    check_audit(data_dir, len(rows), allocated)
    check_invariants(data_dir)


def load(call: Callable[..., Any], rows: list[dict[str, str]]) -> None:
    for row in rows:
        attr = {**row, 'country': row['country'] or None}
        added = call('add_prefix', attr=attr)
        assert added['prefix'] == row['prefix']


def check_totals(call: Callable[..., Any], rows: list[dict[str, str]]) -> None:
    tops: list[ipaddress.IPv4Network] = []
    for network in sorted(ipaddress.IPv4Network(row['prefix']) for row in rows):
        if not tops or not network.subnet_of(tops[-1]):
            tops.append(network)
    (vrf,) = call('list_vrf', vrf={'id': 0})
    assert vrf['num_prefixes_v4'] == str(len(rows))
    assert vrf['total_addresses_v4'] == str(sum(network.num_addresses for network in tops))


def find_who_holds_an_address(call: Callable[..., Any], rows: list[dict[str, str]]) -> None:
    """Check that a search for an address returns the networks around it, from the outermost to the innermost."""
    held = {ipaddress.IPv4Network(row['prefix']): row for row in rows}
    for network in list(held)[7::500]:
        address = network[network.num_addresses // 2]
        holders = [
            held[net] for length in range(33) if (net := ipaddress.IPv4Network((int(address), length), False)) in held
        ]
        answer = call('smart_search_prefix', query_string=str(address), search_options={})
        assert [(found['prefix'], found['description']) for found in answer['result']] == [
            (row['prefix'], row['description']) for row in holders
        ]
        assert answer['interpretation']['interpretation']['interpretation'] == 'IPv4 address'


def allocate(call: Callable[..., Any]) -> list[str]:
    """Make a pool of an unused block and allocate from it in every possible way; return the networks."""
    attr = {'name': 'customers', 'description': 'links', 'default_type': 'assignment', 'ipv4_default_prefix_length': 30}
    pool = call('add_pool', attr=attr)
    block = {'prefix': '100.64.0.0/24', 'type': 'reservation', 'description': 'shared', 'pool_id': pool['id']}
    member = call('add_prefix', attr=block)
    from_pool = {'from-pool': {'name': 'customers'}, 'family': 4}
    assert call('find_free_prefix', vrf={}, args={**from_pool, 'count': 2}) == ['100.64.0.0/30', '100.64.0.4/30']
    taken = [call('add_prefix', attr={'description': f'customer {n}'}, args=from_pool)['prefix'] for n in range(10)]
    assert taken == [f'100.64.0.{4 * n}/30' for n in range(10)]
    attr = {'description': 'a bigger one', 'type': 'assignment'}
    bigger = call('add_prefix', attr=attr, args={'from-prefix': ['100.64.0.0/24'], 'prefix_length': 26})['prefix']
    assert bigger == '100.64.0.64/26'
    (pool,) = call('list_pool', pool={'name': 'customers'})
    assert (pool['used_prefixes_v4'], pool['free_prefixes_v4'], pool['used_addresses_v4']) == ('11', '38', '104')
    return [member['prefix'], *taken, bigger]


def check_audit(data_dir: Path, loaded: int, allocated: list[str]) -> None:
    """Check that every change is in the audit log, in order, with its user and source."""
    server = EmbeddedPostgres(data_dir).start()  # shares the server that the daemon runs there
    connection = psycopg2.connect(server.dsn())
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                'SELECT action, object_type, username, authenticated_as, authoritative_source, count(*)'
                ' FROM audit_log GROUP BY 1, 2, 3, 4, 5 ORDER BY 2'
            )
            who = ('admin', 'admin', 'main-job')
            assert cursor.fetchall() == [
                ('add', 'pool', *who, 1),
                ('add', 'prefix', *who, loaded + len(allocated)),
            ]
            cursor.execute("SELECT after ->> 'prefix' FROM audit_log WHERE object_type = 'prefix' ORDER BY id")
            assert [prefix for (prefix,) in cursor.fetchall()][loaded:] == allocated
    finally:
        connection.close()


def check_invariants(data_dir: Path) -> None:
    """Check that every counter, free range and tree rule matches the facts."""
    command = [sys.executable, '-m', 'nipapd.maintenance', 'check', '--data-dir', str(data_dir)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
