"""`nipap import` against a running daemon: every row arrives once, in spite of interruptions."""

from __future__ import annotations

import csv
import io
import itertools
import lzma
import os
import re
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
    """The command, with a daemon of the test."""

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

    def start(self, *args: str, before: tuple[str, ...] = (), **environ: str) -> subprocess.Popen[str]:
        command = [sys.executable, '-m', 'nipap.cli.main', *before, 'import', str(self.file), *args]
        environment = {**self.environment(), **environ}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, *args: str, before: tuple[str, ...] = (), **environ: str) -> tuple[int, str]:
        """Return the exit code and the output."""
        with self.start(*args, before=before, **environ) as process:
            out, err = process.communicate(timeout=120)
        return process.returncode, out + err

    def call(self, method: str, **members: Any) -> Any:
        url = f'{self.daemon.url(*self.daemon.admin())}/XMLRPC'
        with xmlrpc.client.ServerProxy(url, allow_none=True) as proxy:
            return getattr(proxy, method)({'auth': AUTH, **members})

    def says(self, counts: str) -> str:
        """Return the last line of an import, which names the daemon."""
        return f'127.0.0.1:{urlsplit(self.daemon.address).port}: {counts}'

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
    assert (code, printed.splitlines()[-1]) == (
        0,
        importer.says('1500 prefixes added, 0 were there already, 0 differ, 0 refused'),
    )
    stored = importer.stored()
    assert {(row['prefix'], row['type'], row['description'], row['country'] or None) for row in lines} == {
        (name, item['type'], item['description'], item['country']) for name, item in stored.items()
    }
    assert list(importer.directory.glob('*.progress*')) == []
    assert check.problems(db) == []

    code, printed = importer.run('--chunk', '400')
    assert (code, printed.splitlines()[-1]) == (
        0,
        importer.says('0 prefixes added, 1500 were there already, 0 differ, 0 refused'),
    )
    assert importer.stored() == stored


def test_the_daemon_of_options_before_the_command_is_imported_into(importer: Importer) -> None:
    importer.write('prefix,type,description\n10.0.0.0/8,reservation,x\n')
    port = str(urlsplit(importer.daemon.address).port)
    for before in (('--port', port), ('--host', f'http://127.0.0.1:{port}')):
        code, printed = importer.run(before=before, NIPAP_PORT='9')
        assert (code, printed.splitlines()[-1].startswith(importer.says(''))) == (0, True), printed
    assert set(importer.stored()) == {'10.0.0.0/8'}


def test_the_standard_input_is_imported(importer: Importer) -> None:
    """A pipe can be read only once, and has no place for a progress file beside it."""
    importer.write('prefix;type;description\r\n10.0.0.0/8;reservation;ö\r\n;;\r\n')
    for name, counts in (('-', '1 prefixes added, 0'), ('/dev/stdin', '0 prefixes added, 1')):
        command = [sys.executable, '-m', 'nipap.cli.main', 'import', name]
        done = subprocess.run(
            command, env=importer.environment(), input=importer.file.read_bytes(), capture_output=True, timeout=120
        )
        assert (done.returncode, counts in done.stderr.decode()) == (0, True), done.stderr
    assert importer.stored()['10.0.0.0/8']['description'] == 'ö'


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


def test_the_outcome_of_the_last_chunk_is_found_out(importer: Importer) -> None:
    """The daemon has added the rows, but the progress was never noted."""
    lines = rows(60)
    write(importer.file, lines)
    write(importer.directory / 'first.csv', lines[:30])
    first = Importer(importer.daemon, importer.directory)
    text = importer.file.read_text()
    importer.write((importer.directory / 'first.csv').read_text())
    assert first.run()[0] == 0
    importer.write(text)
    code, printed = importer.run('--chunk', '20')
    assert (code, printed.splitlines()[-1]) == (
        0,
        importer.says('30 prefixes added, 30 were there already, 0 differ, 0 refused'),
    )


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
    differs = "type is 'assignment', not 'reservation'; description is 'other', not 'fine'"
    assert refused[7].endswith(f': 10.3.0.0/16: is there already, and differs: {differs}')
    assert 'operation' not in printed
    assert '2 prefixes added, 0 were there already, 1 differ, 3 refused' in printed
    assert set(importer.stored()) == {'10.1.0.0/16', '10.1.2.3/32', '10.3.0.0/16'}


SAID = {
    'type': ('assignment', 'reservation'),
    'description': ('LAN  ö', 'LAN'),
    'comment': ('said "so"', 'so'),
    'status': ('reserved', 'assigned'),
    'country': ('se', 'no'),
    'order_id': ('007', '7'),
    'customer_id': ('1.10', '1.1'),
    'external_key': ('key', 'KEY'),
    'alarm_priority': ('high', 'low'),
    'monitor': ('yes', 'no'),
    'vlan': ('017', '18'),
    'expires': ('31 Dec 2031 12:00:00.5', '2031-12-31'),
    'tags': ('b,a b', 'a'),
    'avps.site': ('lab', 'attic'),
    'pool_name': ('links ', 'spare'),
    'authoritative_source': ('erp', 'nipap'),
}


def test_another_value_of_any_attribute_is_a_difference(importer: Importer) -> None:
    for name in ('links', 'spare'):
        importer.call('add_pool', attr={'name': name, 'description': '', 'default_type': 'assignment'})
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(['prefix', *SAID, 'node'])
    writer.writerow(['10.0.0.0/24', *(said for said, _ in SAID.values()), ''])
    importer.write(text.getvalue())
    for counts in ('1 prefixes added, 0', '0 prefixes added, 1'):
        code, printed = importer.run()
        assert (code, printed.splitlines()[-1]) == (
            0,
            importer.says(f'{counts} were there already, 0 differ, 0 refused'),
        )
    stored = importer.stored()
    for name, (_, other) in SAID.items():
        writer.writerow(['10.0.0.0/24', *(other if name == one else said for one, (said, _) in SAID.items()), ''])
        header, *_, last = text.getvalue().splitlines()
        importer.write(f'{header}\n{last}\n')
        code, printed = importer.run()
        counts = printed.splitlines()[-1]
        assert (code, counts) == (4, importer.says('0 prefixes added, 0 were there already, 1 differ, 0 refused'))
        assert re.search(f':2: 10.0.0.0/24: is there already, and differs: {name} is [^;\n]+\n', printed), printed
    assert importer.stored() == stored


def test_differences_are_all_named_and_empty_cells_say_nothing(importer: Importer) -> None:
    importer.write('prefix,type,description,vlan,customer_id,expires\n10.0.0.0/8,reservation,x,1,A,\n')
    assert importer.run()[0] == 0
    importer.write('prefix,type,description,vlan,customer_id,expires\n10.0.0.0/8,reservation,,,,tomorrow\n')
    assert importer.run()[0] == 0
    importer.write('prefix,type,description,vlan,customer_id\n10.0.0.0/8,reservation,y,,B\n10.0.0.1/32,host,x,,\n')
    code, printed = importer.run()
    assert code == 1  # a row is refused as well
    assert "differs: description is 'x', not 'y'; customer_id is 'A', not 'B'\n" in printed


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
    assert importer.run('--vrf-name', 'vrf 1')[1].endswith(
        '0 prefixes added, 2 were there already, 0 differ, 0 refused\n'
    )
    assert sorted(prefix['vrf_rt'] for prefix in importer.call('list_prefix')) == ['65000:1', '65000:2']
    code, printed = importer.run('--vrf', '65000:3')
    assert (code, 'there is no VRF with rt 65000:3, the VRF for rows' in printed) == (2, True)


def test_every_row_in_a_vrf_that_is_not_there_is_named(importer: Importer) -> None:
    importer.call('add_vrf', attr={'rt': '65000:1', 'name': 'one'})
    importer.write(
        'prefix,type,description,vrf_rt,vrf_name,vrf_id\n'
        '10.0.0.0/8,reservation,fine,65000:1,one,\n'
        '10.1.0.0/16,reservation,,65000:1,two,\n'
        '10.2.0.0/16,reservation,,65000:2,,\n'
        '10.3.0.0/16,reservation,,,,99999999999999999999\n'
        '10.0.0.0/8,reservation,as line 2,,one,\n'
        '10.4.0.0/16,reservation,fine,,,0\n'
    )
    for more in ((), ('--dry-run',)):
        code, printed = importer.run(*more)
        assert (code, importer.stored()) == (2, {})
        assert named(printed) == [
            '3: there is no VRF with rt 65000:1, name two',
            '4: there is no VRF with rt 65000:2',
            '5: there is no VRF with id 99999999999999999999',
            '6: 10.0.0.0/8 is in line 2 already, in the same VRF',
        ]
    code, printed = importer.run('--skip-bad')
    assert (code, set(importer.stored())) == (1, {'10.0.0.0/8', '10.4.0.0/16'})


def named(printed: str) -> list[str]:
    """Return the lines of a file that have complaints, by number, with the reasons."""
    return sorted(
        re.findall(r'^\S+\.csv:([0-9]+: .*)', printed, re.MULTILINE), key=lambda line: int(line.split(':')[0])
    )


@pytest.mark.parametrize('chunk', ['1', '2', '3', '2000'])
def test_a_dry_run_says_what_an_import_does(importer: Importer, db: Database, chunk: str) -> None:
    """Rows may need stored objects and rows of earlier transactions; a dry run keeps nothing."""
    for number in (1, 2):
        importer.call('add_vrf', attr={'rt': f'65000:{number}', 'name': f'vrf {number}'})
    importer.call('add_pool', attr={'name': 'links', 'description': '', 'default_type': 'assignment'})
    for prefix, kind in (('10.0.0.0/8', 'reservation'), ('10.9.0.0/24', 'assignment'), ('10.7.1.0/24', 'assignment')):
        importer.call('add_prefix', attr={'prefix': prefix, 'type': kind, 'description': 'x', 'vlan': 5})
    # Small transactions overtake one another: none of them may decide the VRF of the pool.
    member = {'prefix': '10.19.0.0/24', 'type': 'reservation', 'description': 'x', 'vrf_rt': '65000:1'}
    importer.call('add_prefix', attr={**member, 'pool_name': 'links'})
    importer.write(
        'prefix,type,description,vrf_rt,vlan,pool_name\n'
        '10.0.0.0/8,reservation,x,,5,\n'  # line 2 is there already
        '10.1.0.0/16,assignment,new,,,\n'
        '10.1.0.1,host,in a row,,,\n'
        '10.1.0.1,host,without an assignment,65000:1,,\n'  # 5 refused
        '10.1.2.0/24,assignment,in an assignment,,,\n'  # 6 refused
        '10.1.2.1,host,in a row before,,,\n'
        '10.7.0.0/16,assignment,around one,,,\n'  # 8 refused
        '10.7.0.1,host,its assignment is refused,,,\n'  # 9 refused
        '10.9.0.0/24,assignment,x,,6,\n'  # 10 differs
        '10.9.0.1,host,in one that is stored,,,\n'
        '10.20.0.0/24,reservation,second member,65000:1,,links\n'
        '10.21.0.0/24,reservation,member in another,65000:2,,links\n'  # 13 refused
        '10.22.0.0/24,reservation,third member,65000:1,,links\n'
        '2001:db8::/32,reservation,v6,,,\n'
        '2001:db8::/64,assignment,v6,,,\n'
        '2001:db8::1,host,v6,,,\n'
    )
    before = importer.stored()
    code, printed = importer.run('--dry-run', '--chunk', chunk)
    assert code == 1
    assert importer.call('list_prefix', prefix={'type': 'host'}) == []
    assert importer.stored() == before
    assert check.problems(db) == []
    foreseen = named(printed)
    assert [int(line.partition(': ')[0]) for line in foreseen] == [5, 6, 8, 9, 10, 13]
    summary = f'would add 9 prefixes (6 IPv4, 3 IPv6) in {-(-16 // int(chunk))} transactions'
    assert f'{importer.says(summary)}, 1 are there already, 1 differ, 5 would be refused\n' in printed
    assert list(importer.directory.glob('*.progress*')) == []

    # Use one transaction: with concurrent transactions, either of two rows that exclude each other may come first.
    code, printed = importer.run()
    assert (code, named(printed)) == (1, foreseen)
    assert printed.splitlines()[-1] == importer.says('9 prefixes added, 1 were there already, 1 differ, 5 refused')
    assert check.problems(db) == []
    code, printed = importer.run('--dry-run', '--chunk', chunk)
    assert '10 are there already, 1 differ, 5 would be refused' in printed


def test_a_dry_run_has_the_exit_code_of_the_import(importer: Importer) -> None:
    importer.call('add_prefix', attr={'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'x'})
    importer.write('prefix,type,description\n10.0.0.0/8,reservation,x\n')
    assert importer.run('--dry-run')[0] == 0
    importer.write('prefix,type,description\n10.0.0.0/8,reservation,y\n')
    assert importer.run('--dry-run')[0] == 4
    importer.write('prefix,type,description\n11.0.0.1/32,host,y\n')
    assert importer.run('--dry-run')[0] == 1


def test_tags_and_avps(importer: Importer) -> None:
    importer.write('prefix,type,node,tags,avps.site,vlan,monitor\n10.0.0.1,assignment,r1,"a b, c",lab,17,yes\n')
    assert importer.run()[0] == 0
    (stored,) = importer.stored().values()
    wanted = {'tags': ['a', 'b', 'c'], 'avps': {'site': 'lab'}, 'vlan': 17, 'monitor': True, 'node': 'r1'}
    assert {name: stored[name] for name in wanted} == wanted
