"""The programs of examples/ do against a daemon what their README describes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from talking import Configured, call

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).resolve().parent.parent.parent / 'examples'
SHARED = 'rest.py'

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(configured: Configured, tmp_path: Path) -> Run:
    """Return a function that runs a program against a daemon with a pool and some prefixes."""
    running = configured()
    call(
        running,
        'add_pool',
        attr={'name': 'links', 'description': 'x', 'default_type': 'assignment', 'ipv4_default_prefix_length': 30},
    )
    for attr in (
        {'prefix': '10.0.0.0/28', 'type': 'reservation', 'description': 'Links', 'pool_name': 'links'},
        {'prefix': '192.0.2.0/24', 'type': 'reservation', 'description': 'Offices'},
        {'prefix': '192.0.2.0/27', 'type': 'assignment', 'description': 'Office in Malmö'},
    ):
        call(running, 'add_prefix', attr=attr)
    environment = {**os.environ, 'NIPAP_URL': running.url(*running.admin()).rstrip('/'), 'PYTHONIOENCODING': 'utf-8'}

    def program(name: str, *args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(EXAMPLES / name), *args]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, encoding='utf-8', timeout=60
        )

    return program


def test_the_readme_lists_the_programs() -> None:
    listed = re.findall(r'^\| `(\w+\.py)', (EXAMPLES / 'README.md').read_text(), re.MULTILINE)
    assert sorted([*listed, SHARED]) == sorted(path.name for path in EXAMPLES.glob('*.py'))


def test_who_has(run: Run) -> None:
    done = run('who_has.py', '192.0.2.9')
    assert [line.split() for line in done.stdout.splitlines()] == [
        ['192.0.2.0/24', 'reservation', 'Offices'],
        ['192.0.2.0/27', 'assignment', 'Office', 'in', 'Malmö'],
    ], done.stderr
    assert (done.returncode, run('who_has.py', '203.0.113.1').returncode) == (0, 1)


def test_blocks_are_taken_once_reported_and_given_back(run: Run) -> None:
    for order, block in (('A1', '10.0.0.0/30'), ('A2', '10.0.0.4/30'), ('A1', '10.0.0.0/30')):
        assert run('take_block.py', 'links', order).stdout == f'{block}\n'
    assert run('fill_report.py').stdout.split() == ['50.0%', '2', 'of', '4', 'links']
    assert run('give_back.py', 'A1').stdout == '10.0.0.0/30\n'
    assert run('fill_report.py').stdout.split() == ['25.0%', '1', 'of', '4', 'links']
    for order in ('A3', 'A4', 'A5'):
        assert run('take_block.py', 'links', order).returncode == 0
    full = run('take_block.py', 'links', 'A6')
    assert (full.returncode, json.loads(full.stderr)['code']) == (1, 1300)


def test_changes_are_followed_and_none_is_missed(run: Run) -> None:
    first = run('follow_changes.py', '2')
    assert [json.loads(line)['object']['kind'] for line in first.stdout.splitlines()] == ['pool', 'prefix'], (
        first.stderr
    )
    second = run('follow_changes.py', '2')
    assert [json.loads(line)['after']['prefix'] for line in second.stdout.splitlines()] == [
        '192.0.2.0/24',
        '192.0.2.0/27',
    ]
