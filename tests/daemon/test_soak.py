"""A short form of the long run: everything dies once while clients work, and nothing is lost, doubled or wrong."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import xmlrpc.client
from pathlib import Path

import psycopg2
import pytest
from bench.soak_chaos import DECK, Site
from bench.soak_clients import Wire
from support import open_directories

pytestmark = pytest.mark.slow

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
    # Each kind of kill happens once before any kind repeats, as far as a busy machine gets.
    assert set(figures['blows']) <= set(DECK)
    assert len(figures['blows']) >= min(len(DECK), sum(figures['blows'].values())) > 2
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


def test_a_traceback_in_the_log_is_a_problem() -> None:
    with open_directories() as make:
        site = Site(make() / 'data', 1)
        wire = Wire(site.url)
        try:
            with contextlib.closing(psycopg2.connect(site.dsn())) as connection, connection:
                connection.cursor().execute('ALTER TABLE asn RENAME TO gone')
            with pytest.raises(xmlrpc.client.Fault, match='Internal error'):
                wire.call('list_asn', {})
        finally:
            wire.close()
            site.close()
        (problem,) = site.problems
        assert problem.startswith('a traceback in the log')
        assert 'UndefinedTable' in problem
