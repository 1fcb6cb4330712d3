"""The benchmark at a size at which figures mean nothing: it runs through, and its tables are put where they belong."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_network
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from bench import dataset, report, shapes
from bench.full import time_operation
from bench.operations import BY_NAME, FLOOR, OPERATIONS, Limit, Operation
from bench.report import Comparison, Measure, OperationRow
from bench.shapes import SHAPES, Shape, lowest_free
from bench.sites import Failed, Site
from daemon_process import Daemon

REPOSITORY = Path(__file__).parent.parent.parent
ROWS, SIBLINGS = 50, 20
STORED = ROWS + 2 * SIBLINGS + 5 + len(list(shapes.rows(SIBLINGS)))


def run(*command: str, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, 'PYTHONPATH': str(REPOSITORY), **env}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture
def url(daemon: Callable[..., Daemon], database_options: dict[str, str], tmp_path: Path) -> str:
    """Where a daemon serves that holds the data set, as far as it goes."""
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


def flat(name: str, medians: float, quickest: float, ms: float = 1) -> OperationRow:
    return OperationRow(name, ms, 1, None, 'floor', 1, small=Comparison('small', medians, quickest))


def test_what_depends_on_the_machine_fails_only_a_strict_run() -> None:
    rows = [flat('flat', 1.5, 1.5), flat('noise', 2, 1), flat('dear', 1, 1, ms=2), flat('not flat', 1.6, 1.6)]
    measures = [Measure('promised', 1, '1', '2', False), Measure('firm', 1, '1', '2', False, firm=True)]
    measures += [Measure('kept', 1, '1', '2', True, firm=True), Measure('nothing promised', 1, '1')]
    assert report.failures(rows, measures, strict=False) == ['not flat', 'firm']
    assert report.failures(rows, measures, strict=True) == ['dear', 'not flat', 'promised', 'firm']


@pytest.mark.parametrize('shape', SHAPES, ids=lambda shape: shape.name)
@pytest.mark.parametrize('count', [0, 1, SIBLINGS, 300])
def test_what_is_free_is_known(shape: Shape, count: int) -> None:
    """Found once more among all blocks, one by one."""
    block = ip_network(shape.block)
    used = [ip_network(shape.prefix(*one)) for one in shape.used(count)]
    taken = [(int(one.network_address), int(one.broadcast_address)) for one in used]
    assert all(a[1] < b[0] for a, b in pairwise(taken)), 'in order and apart'
    for length in shape.asked:
        single = length == shape.family_bits
        size = 1 << shape.family_bits - length
        firsts = range(int(block.network_address) + single, int(block.broadcast_address) + 1 - single, size)
        free = (first for first in firsts if not any(first <= z and a < first + size for a, z in taken))
        assert lowest_free(shape, count, length) == shape.prefix(next(free) - int(block.network_address), length)


@pytest.mark.parametrize(
    ('limit', 'text', 'allowed'),
    [
        (Limit(floors=1.5), '1.5 × floor', 1.5),
        (Limit(floors=1, commits=5), 'floor + 5 commits', 2.25),
        (Limit(ms=45), '45 ms', 45),
    ],
)
def test_limits(limit: Limit, text: str, allowed: float) -> None:
    assert (str(limit), limit.allowed(1, 0.25)) == (text, allowed)
    assert limit.allowed(1, None) == (None if limit.commits else allowed)


def test_the_tables_replace_the_former_ones(tmp_path: Path) -> None:
    document = tmp_path / 'document.md'
    document.write_text('before\n<!-- figures -->\n<!-- /figures -->\nafter\n')
    for ms in (1.0, 2.0):
        row = OperationRow('version', ms, 1.0, 0.5, '1.5 × floor', 1.5, Comparison('small', ms, ms))
        report.update(document, report.tables('About.', [row], []))
    text = document.read_text()
    assert text.startswith('before\n<!-- figures -->\n\nAbout.\n\n| operation |')
    assert text.endswith(
        '| version | 2.00 | 1.00 | 2.0 | 4.0 | 1.5 × floor | no | 2.00 (no) |\n\n<!-- /figures -->\nafter\n'
    )
    document.write_text('nothing')
    with pytest.raises(ValueError, match='no place'):
        report.update(document, 'tables')
