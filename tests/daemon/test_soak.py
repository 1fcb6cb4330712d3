"""The long run, short: everything dies once while clients work, and nothing is lost, doubled or wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from bench.soak_chaos import DECK

REPOSITORY = Path(__file__).parent.parent.parent
SMALL = ('--clients', '4', '--without-key', '1', '--kept', '20', '--seed', '1')


def start(*args: str) -> subprocess.Popen[str]:
    environment = {**os.environ, 'PYTHONPATH': str(REPOSITORY)}
    command = [sys.executable, str(REPOSITORY / 'tests/bench/soak.py'), *SMALL, *args]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_everything_dies_and_the_books_are_right(tmp_path: Path) -> None:
    file = tmp_path / 'figures.json'
    running = start('--minutes', '0.4', '--pause', '0.7', '--json', str(file), '--log', str(tmp_path / 'log'))
    printed, said = running.communicate(timeout=200)
    assert running.returncode == 0, printed + said
    assert 'lost: 0, doubled: 0, back: 0, strange: 0, wrong: 0, overlaps: 0, drift: 0.' in printed
    figures = json.loads(file.read_text())
    assert set(figures['blows']) == set(DECK)
    assert figures['failures'] == []
    assert figures['prefixes'] > 4 * 6
    assert sum(figures['calls'].values()) > 4 * 8


def test_a_run_that_is_stopped_still_reports() -> None:
    running = start('--minutes', '10')
    assert running.stderr is not None
    assert 'seed 1' in running.stderr.readline()
    running.send_signal(signal.SIGTERM)
    printed, said = running.communicate(timeout=100)
    assert running.returncode == 0, printed + said
    assert printed.endswith('All is well.\n')
