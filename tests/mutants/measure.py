"""One run of the suite under coverage that separates the tests, including tests of daemons and other processes."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).resolve().parent
SETTINGS = """[run]
branch = true
parallel = true
concurrency = greenlet, thread
data_file = {into}/.coverage
context = ${{MUTANTS_TEST-}}
include =
    {root}/nipap/*
    {root}/nipapd/*
patch = fork, _exit
disable_warnings = no-data-collected, module-not-measured, module-not-imported, couldnt-parse, include-ignored
"""
# Every interpreter of this environment reads this at its start, even if a test starts it with no variables at all.
STARTUP = (
    'import sys; sys.path.append({here!r}); import coverage_startup; coverage_startup.start({into!r}); sys.path.pop()\n'
)


def measure(root: Path, into: Path, workers: int) -> None:
    """Run the suite of a tree. Write coverage data, durations and the SQL functions of each test into a directory.

    `coverage combine` and `coverage html` with the file `coveragerc` there make a report of them.
    """
    into.mkdir(parents=True, exist_ok=True)
    into.chmod(0o1777)  # daemons run under other accounts
    into.joinpath('coveragerc').write_text(SETTINGS.format(into=into, root=root))
    startup = Path(sysconfig.get_path('purelib'), 'nipap_mutants.pth')
    startup.write_text(STARTUP.format(here=str(HERE), into=str(into)))
    command = [sys.executable, '-m', 'pytest', '-p', 'watch_tests', '-p', 'no:randomly', '-q', '-n', str(workers)]
    command += ['--durations=0', '--durations-min=0.01', 'tests']
    environment = {**os.environ, 'MUTANTS_INTO': str(into), 'PYTHONPATH': str(HERE)}
    try:
        subprocess.run(command, cwd=root, env=environment, check=False)  # a slow machine may fail some tests
    finally:
        startup.unlink()
