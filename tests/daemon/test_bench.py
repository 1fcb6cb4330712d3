"""The benchmark at a size at which figures mean nothing: it runs through, and its tables are put where they belong."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from bench import dataset, report
from bench.operations import OPERATIONS, Limit
from bench.sites import Site
from daemon_process import Daemon

REPOSITORY = Path(__file__).parent.parent.parent
ROWS, SIBLINGS = 50, 20


def run(*command: str, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, 'PYTHONPATH': str(REPOSITORY), **env}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture
def url(daemon: Callable[..., Daemon], database_options: dict[str, str], tmp_path: Path) -> str:
    """Where a daemon serves that holds the data set, as far as it goes."""
    running = daemon(config={'nipapd': {**database_options, 'forks': '2'}})
    file = tmp_path / 'prefixes.csv'
    with open(file, 'w', newline='') as out:
        assert dataset.write(out, ROWS, SIBLINGS) == ROWS + 2 * SIBLINGS + 5
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
    site = Site(url, SIBLINGS)
    with contextlib.closing(site.http):
        (held,) = site.call('list_vrf', vrf={'id': 0})
    assert int(held['num_prefixes_v4']) == ROWS + 2 * SIBLINGS + 5, 'something that was added is left'


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
        row = report.OperationRow('version', ms, 1.0, None, '1.5 × floor', 1.5, 1.0)
        report.update(document, report.tables('About.', [row], []))
    text = document.read_text()
    assert text.startswith('before\n<!-- figures -->\n\nAbout.\n\n| operation |')
    assert text.endswith('| version | 2.00 | 2.0 | 1.5 × floor | no | 2.00 (no) |\n\n<!-- /figures -->\nafter\n')
    document.write_text('nothing')
    with pytest.raises(ValueError, match='no place'):
        report.update(document, 'tables')
