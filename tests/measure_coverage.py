"""Run tests and report the lines and branches of the program that they never reach: `make coverage`.

Daemons in processes of their own are measured too, with their forks and the greenlets of requests. Options are passed
on to pytest: `python tests/measure_coverage.py tests/unit`. `--html DIR` writes the report as pages as well.

A line that no test can reach gives the reason: `# pragma: no cover - REASON`, or `# pragma: no branch - REASON` for a
branch.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(argv: Sequence[str]) -> int:
    arguments = list(argv)
    pages = None
    if '--html' in arguments:
        place = arguments.index('--html')
        pages = arguments[place + 1]
        del arguments[place : place + 2]
    with tempfile.TemporaryDirectory(prefix='nipapd-coverage-', dir='/tmp') as directory:
        os.chmod(directory, 0o1777)  # handlers without root write their figures as well
        environment = {**os.environ, 'COVERAGE_FILE': str(Path(directory, 'coverage'))}

        def coverage(*command: str) -> int:
            return subprocess.run([sys.executable, '-m', 'coverage', *command], cwd=ROOT, env=environment).returncode

        failed = coverage('run', '-m', 'pytest', *(arguments or ['-n', '2']))
        coverage('combine', '--quiet')
        if pages is not None:
            coverage('html', '--directory', pages)
        return coverage('report') or failed


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
