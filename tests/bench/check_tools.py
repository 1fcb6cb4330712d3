"""Run the benchmark to its end, at a size at which its figures mean nothing. `make bench` begins with these tests.

The name of the file keeps these tests out of the ordinary tests: they are about the tools, and some hold ratios of
timings, which a busy machine breaks.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from bench import dataset, fiber_bench, health, report, shapes
from bench.full import time_operation
from bench.operations import BY_NAME, FLOOR, OPERATIONS, Limit, Operation
from bench.sites import Failed, Site
from daemon_process import Daemon

REPOSITORY = Path(__file__).parent.parent.parent
ROWS, SIBLINGS = 50, 20
LATENCIES = {'median of an allocation, in floors', 'quickest allocations, in floors'}
STORED = ROWS + 2 * SIBLINGS + 5 + len(list(shapes.rows(SIBLINGS)))


def run(*command: str, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, 'PYTHONPATH': str(REPOSITORY), **env}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture
def url(daemon: Callable[..., Daemon], database_options: dict[str, str], tmp_path: Path) -> str:
    """Return the URL, with credentials, of a daemon that holds a small part of the data set."""
    running = daemon(config={'nipapd': {**database_options, 'forks': '2'}})
    file = tmp_path / 'prefixes.csv'
    with open(file, 'w', newline='') as out:
        assert dataset.write(out, ROWS, SIBLINGS, with_shapes=True) == STORED
    user, password = running.admin()
    place = {'NIPAP_PORT': str(urlsplit(running.address).port), 'HOME': str(tmp_path)}
    run('-m', 'nipap.cli.main', 'import', str(file), NIPAP_USERNAME=user, NIPAP_PASSWORD=password, **place)
    return running.url(user, password)


def test_the_benchmark_runs_through(url: str, tmp_path: Path) -> None:
    file = tmp_path / 'figures.json'
    size = ['--siblings', str(SIBLINGS), '--runs', '1', '--load-seconds', '0.1']
    printed = run(str(REPOSITORY / 'tests/bench/full.py'), '--url', url, *size, '--json', str(file)).stdout
    figures = json.loads(file.read_text())
    assert [row['name'] for row in figures['operations']] == [operation.name for operation in OPERATIONS]
    assert all(row['ms'] > 0 and row['floor_ms'] > 0 for row in figures['operations'])
    assert all(f'| {one["name"]} | ' in printed for one in (*figures['operations'], *figures['measures']))
    calls = [one['shown'] for one in figures['measures'] if one['name'].startswith('calls/s')]
    assert len(calls) == 4
    assert all(', 0 failed' in shown for shown in calls)
    names = {one['name'] for one in figures['measures']}
    assert {f'{one.name} : {one.beside}' for one in OPERATIONS if one.beside} < names
    assert {f'{FLOOR}, beside slow calls : alone', 'encoding 1,000 prefixes, beside the standard library'} < names
    site = Site(url, SIBLINGS)
    with contextlib.closing(site.http):
        (held,) = site.call('list_vrf', vrf={'id': 0})
        with pytest.raises(Failed, match='nothing like that is not in the answer'):
            time_operation(replace(BY_NAME['list_vrf'], expected=lambda _site, _i: 'nothing like that'), site, None, 1)
        slow = Operation('slow', Limit(), 'echo', lambda _site, _i: {'sleep': '0.05'}, beside=FLOOR)
        row = time_operation(slow, site, None, 1)
    assert report.failures([row], [], strict=False) == ['slow']
    assert int(held['num_prefixes_v4']) + int(held['num_prefixes_v6']) == STORED, 'something that was added is left'


def test_the_benchmark_starts_its_daemons_and_repairs_them(tmp_path: Path) -> None:
    file = tmp_path / 'figures.json'
    size = ['--rows', str(ROWS), '--siblings', str(SIBLINGS), '--runs', '1', '--load-seconds', '0']
    less = ['--no-beside-slow', '--only', 'list_vrf', '--json', str(file)]
    run(str(REPOSITORY / 'tests/bench/full.py'), *size, *less)
    measures = {one['name']: one for one in json.loads(file.read_text())['measures']}
    assert f'{STORED} rows' in measures['nipap import']['shown']
    for name in ('check, small', 'check, big', 'check --repair, small', 'check --repair, big'):
        assert measures[f'nipap-admin {name}']['ok']


@pytest.mark.parametrize(('most', 'code'), [('100', 0), ('-1', 1)])
def test_the_price_of_fibers_is_measured(most: str, code: int) -> None:
    size = ['--calls', '3', '--turns', '1', '--most', most]
    printed = run(str(REPOSITORY / 'tests/bench/fiber_bench.py'), *size, code=code).stdout
    assert [line.split('  ')[0] for line in printed.splitlines()] == list(fiber_bench.QUICK)


def test_the_encoder_is_twice_as_fast_as_the_standard_library() -> None:
    run(str(REPOSITORY / 'tests/bench/codec_bench.py'), '--rows', '300', '--runs', '5')


def test_the_long_run_runs_through() -> None:
    """Expect no growth and an autovacuum. The speed may be judged wrongly, because the run is so short."""
    size = ['--cycles', '1500', '--clients', '2', '--rows', '50', '--kept', '5', '--snapshot', '50']
    command = [sys.executable, health.__file__, *size, '--setting', 'autovacuum_naptime=1']
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    found = dict(re.findall(r'^\| ([^|]+) \|.* \| (yes|no) \|$', done.stdout, re.MULTILINE))
    assert found.keys() > {*LATENCIES, 'prefix, MB', 'free_range_pkey, MB'}, done.stderr
    wrong = {name for name, ok in found.items() if ok == 'no'}
    assert wrong <= LATENCIES
    assert done.returncode == (1 if wrong else 0)
    assert 'nipap-admin check: 0 problems' in done.stdout
    vacuums = dict(re.findall(r'^\| (\w+) \|(?: [^|]+ \|){5} (\d+) \|$', done.stdout, re.MULTILINE))
    assert vacuums['prefix_words'] != '0'
    assert vacuums['free_range'] != '0'
