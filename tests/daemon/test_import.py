"""`nipap import` against a running daemon: everything arrives once, whatever comes in between."""

from __future__ import annotations

import csv
import itertools
import lzma
import os
import signal
import subprocess
import sys
import xmlrpc.client
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from daemon_process import Daemon, poll

from nipap.integrity import check
from nipap.postgres.database import Database

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parent.parent.parent
DATA = REPOSITORY / 'tests/data/internet-prefixes.csv.xz'
AUTH = {'authoritative_source': 'test'}


@dataclass
class Importer:
    """The command, with a daemon of the test's own."""

    daemon: Daemon
    directory: Path

    @property
    def file(self) -> Path:
        return self.directory / 'prefixes.csv'

    def write(self, text: str) -> None:
        self.file.write_text(text)

    def environment(self) -> Mapping[str, str]:
        name, password = self.daemon.admin()
        port = str(urlsplit(self.daemon.address).port)
        ours = {'NIPAP_PORT': port, 'NIPAP_USERNAME': name, 'NIPAP_PASSWORD': password, 'HOME': str(self.directory)}
        return {**os.environ, 'PYTHONPATH': str(REPOSITORY), **ours}

    def start(self, *args: str) -> subprocess.Popen[str]:
        command = [sys.executable, '-m', 'nipap.cli.main', 'import', str(self.file), *args]
        return subprocess.Popen(
            command, env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, *args: str) -> tuple[int, str]:
        """The exit code, and what is printed."""
        with self.start(*args) as process:
            out, err = process.communicate(timeout=120)
        return process.returncode, out + err

    def call(self, method: str, **members: Any) -> Any:
        url = f'{self.daemon.url(*self.daemon.admin())}/XMLRPC'
        with xmlrpc.client.ServerProxy(url, allow_none=True) as proxy:
            return getattr(proxy, method)({'auth': AUTH, **members})

    def stored(self) -> dict[str, dict[str, Any]]:
        found = self.call('list_prefix')
        by_prefix = {prefix['prefix']: prefix for prefix in found}
        assert len(by_prefix) == len(found)
        return by_prefix


@pytest.fixture
def importer(daemon: Callable[..., Daemon], database_options: dict[str, str], tmp_path: Path) -> Importer:
    return Importer(daemon(config={'nipapd': {**database_options, 'forks': '2'}}), tmp_path)


def rows(count: int) -> list[dict[str, str]]:
    with lzma.open(DATA, 'rt', newline='') as file:
        return list(itertools.islice(csv.DictReader(file), count))


def write(path: Path, lines: list[dict[str, str]]) -> None:
    with open(path, 'w', newline='') as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def test_a_file_arrives_once_and_whole(importer: Importer, db: Database) -> None:
    lines = rows(1500)
    write(importer.file, lines[::-1])
    code, printed = importer.run('--dry-run', '--chunk', '400')
    assert (code, importer.stored()) == (0, {})
    assert 'would add 1500 prefixes (1500 IPv4, 0 IPv6) in 4 transactions' in printed
    code, printed = importer.run('--chunk', '400')
    assert (code, printed.splitlines()[-1]) == (0, '1500 prefixes added, 0 were there already, 0 refused')
    stored = importer.stored()
    assert {(row['prefix'], row['type'], row['description'], row['country'] or None) for row in lines} == {
        (name, item['type'], item['description'], item['country']) for name, item in stored.items()
    }
    assert list(importer.directory.glob('*.progress*')) == []
    assert check.problems(db) == []

    code, printed = importer.run('--chunk', '400')
    assert (code, printed.splitlines()[-1]) == (0, '0 prefixes added, 1500 were there already, 0 refused')
    assert importer.stored() == stored


def test_a_killed_import_goes_on(importer: Importer, db: Database) -> None:
    lines = rows(1500)
    write(importer.file, lines)
    with importer.start('--chunk', '3') as process:
        poll(
            lambda: process.poll() is not None or importer.call('list_prefix', prefix={'prefix': lines[20]['prefix']}),
            60,
            lambda: 'nothing is imported',
        )
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert importer.directory.joinpath('prefixes.csv.progress').exists()
    code, printed = importer.run('--chunk', '500')
    assert code == 0
    assert 'going on after ' in printed
    assert set(importer.stored()) == {row['prefix'] for row in lines}
    assert check.problems(db) == []


def test_what_became_of_the_last_chunk_is_found_out(importer: Importer) -> None:
    """The daemon has done it, but the note of that was never written."""
    lines = rows(60)
    write(importer.file, lines)
    write(importer.directory / 'first.csv', lines[:30])
    first = Importer(importer.daemon, importer.directory)
    text = importer.file.read_text()
    importer.write((importer.directory / 'first.csv').read_text())
    assert first.run()[0] == 0
    importer.write(text)
    code, printed = importer.run('--chunk', '20')
    assert (code, printed.splitlines()[-1]) == (0, '30 prefixes added, 30 were there already, 0 refused')


def test_a_daemon_that_ends_in_between(importer: Importer) -> None:
    write(importer.file, rows(1500))
    with importer.start('--chunk', '5') as process:
        poll(
            lambda: process.poll() is not None or importer.call('list_prefix', prefix={'prefix': '1.0.0.0/24'}),
            60,
            lambda: 'nothing is imported',
        )
        importer.daemon.stop()
        _, err = process.communicate(timeout=60)
    assert (process.returncode, 'Traceback' in err) == (3, False), err


def test_refused_rows_are_named_and_the_others_stored(importer: Importer) -> None:
    importer.write(
        'prefix,type,description,country\n'
        '10.0.0.1/32,host,no assignment around it,\n'
        '10.1.0.0/16,assignment,fine,se\n'
        '10.1.1.0/24,assignment,inside an assignment,\n'
        '10.1.2.3,host,fine,\n'
        '10.1.3.0/24,reservation,inside an assignment,\n'
        '10.3.0.0/16,reservation,fine,\n'
    )
    importer.call('add_prefix', attr={'prefix': '10.3.0.0/16', 'type': 'assignment', 'description': 'other'})
    code, printed = importer.run()
    assert code == 1
    refused = {int(line.split(':')[1]): line for line in printed.splitlines() if line.startswith(str(importer.file))}
    assert sorted(refused) == [2, 4, 6, 7]
    assert 'assignment' in refused[6]
    assert refused[7].endswith(': 10.3.0.0/16: is there already, with another type or description')
    assert 'operation' not in printed
    assert '2 prefixes added, 0 were there already, 4 refused' in printed
    assert set(importer.stored()) == {'10.1.0.0/16', '10.1.2.3/32', '10.3.0.0/16'}


def test_with_bad_lines_nothing_is_imported_unless_they_are_skipped(importer: Importer) -> None:
    importer.write('prefix,description,country\n10.0.0.0/8,a,se\n10.0.0.1/8,b,\nx,c,\n11.0.0.0/8,d,Sweden\n')
    code, printed = importer.run('--type', 'reservation')
    assert (code, importer.stored()) == (2, {})
    assert f'{importer.file}:3: ' in printed
    assert f'{importer.file}:4: ' in printed
    assert f'{importer.file}:5: ' in printed
    assert 'two letter country code' in printed
    code, _ = importer.run('--type', 'reservation', '--skip-bad')
    assert (code, list(importer.stored())) == (1, ['10.0.0.0/8'])


def test_vrfs(importer: Importer) -> None:
    for number in (1, 2):
        importer.call('add_vrf', attr={'rt': f'65000:{number}', 'name': f'vrf {number}'})
    importer.write('prefix,type,description,vrf_rt\n10.0.0.0/8,reservation,,\n10.0.0.0/8,reservation,,65000:2\n')
    assert importer.run('--vrf', '65000:1')[0] == 0
    assert importer.run('--vrf-name', 'vrf 1')[1].endswith('0 prefixes added, 2 were there already, 0 refused\n')
    assert sorted(prefix['vrf_rt'] for prefix in importer.call('list_prefix')) == ['65000:1', '65000:2']
    code, printed = importer.run('--vrf', '65000:3')
    assert (code, 'there is no VRF with rt 65000:3 (line 2)' in printed) == (2, True)


def test_tags_and_avps(importer: Importer) -> None:
    importer.write('prefix,type,node,tags,avps.site,vlan,monitor\n10.0.0.1,assignment,r1,"a b, c",lab,17,yes\n')
    assert importer.run()[0] == 0
    (stored,) = importer.stored().values()
    wanted = {'tags': ['a', 'b', 'c'], 'avps': {'site': 'lab'}, 'vlan': 17, 'monitor': True, 'node': 'r1'}
    assert {name: stored[name] for name in wanted} == wanted
