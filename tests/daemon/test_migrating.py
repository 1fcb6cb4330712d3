"""The program of docs/migrating.md copies everything from one daemon to another, and later only missing objects."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from daemon_process import REPOSITORY, Daemon
from support import DaemonFactory, options_of
from talking import Client, client

from nipap.postgres import schema

pytestmark = pytest.mark.slow

KINDS = ('vrf', 'pool', 'asn', 'prefix')
VARYING = {'id', 'vrf_id', 'pool_id', 'added', 'last_modified', 'version'}


def shown(ask: Client, kind: str) -> list[dict[str, Any]]:
    """Return the objects of a kind, without attributes that differ in a copy."""
    return [{name: value for name, value in item.items() if name not in VARYING} for item in ask(f'list_{kind}')]


def copied(program: Path, old: Daemon, new: Daemon) -> str:
    addresses = [each.url(*each.admin()) for each in (old, new)]
    done = subprocess.run([sys.executable, str(program), *addresses], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, '')
    return done.stdout


def test_the_program_copies_everything(daemon: DaemonFactory, dsn: str, empty_dsn: str, tmp_path: Path) -> None:
    schema.install(empty_dsn)
    old, new = (daemon(config={'nipapd': {'forks': '1', **options_of(each)}}) for each in (dsn, empty_dsn))
    (text,) = re.findall(r'^```python\n(.*?)^```$', (REPOSITORY / 'docs/migrating.md').read_text(), re.M | re.S)
    program = tmp_path / 'copy.py'
    program.write_text(text)
    with client(old) as ask, client(new) as ask_new:
        ask(
            'add_vrf',
            attr={'rt': '65000:7', 'name': 'Kundnät', 'description': 'å', 'tags': ['a', 'b'], 'avps': {'x': 'y'}},
        )
        ask(
            'add_pool',
            attr={'name': 'links', 'description': '', 'default_type': 'assignment', 'ipv4_default_prefix_length': 30},
        )
        ask('add_asn', attr={'asn': 64500, 'name': 'Example'})
        add = [
            {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'all', 'tags': ['outer']},
            {
                'prefix': '10.1.0.0/16',
                'type': 'reservation',
                'description': 'links',
                'pool_name': 'links',
                'country': 'SE',
            },
            {'prefix': '10.1.2.0/24', 'type': 'assignment', 'description': 'LAN', 'vlan': 7, 'status': 'reserved'},
            {
                'prefix': '10.1.2.3/32',
                'type': 'host',
                'node': 'r1',
                'expires': datetime(2050, 1, 2, 3, 4, 5, tzinfo=UTC),
            },
            {'prefix': '2001:db8::/32', 'type': 'reservation', 'description': 'six', 'vrf_rt': '65000:7'},
            {
                'prefix': '2001:db8::1/128',
                'type': 'assignment',
                'description': 'loopback',
                'vrf_rt': '65000:7',
                'avps': {'k': 'v'},
            },
        ]
        for attr in add:
            ask('add_prefix', attr=attr, auth={'authoritative_source': 'other'})
        assert copied(program, old, new).splitlines() == [
            'vrf: 2 in the old system, 1 added',
            'pool: 1 in the old system, 1 added',
            'asn: 1 in the old system, 1 added',
            'prefix: 6 in the old system, 6 added',
        ]
        for kind in KINDS:
            assert shown(ask_new, kind) == shown(ask, kind)
        ask('add_prefix', attr={'prefix': '10.1.2.4/32', 'type': 'host', 'node': 'r2'})
        assert copied(program, old, new).splitlines()[-1] == 'prefix: 7 in the old system, 1 added'
        for kind in KINDS:
            assert shown(ask_new, kind) == shown(ask, kind)
