"""Write requirements.lock, the libraries of the daemon with their hashes: `make lock`. Needs uv and PyPI.

uv chooses the newest versions that setup.py allows. Then, for each version of Python and each machine in TARGETS, pip
reports the files that it would install from the lock alone. The names and hashes of these files go to
tests/data/locked-files.json. With that file a test without a network verifies that every target is served.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
LOCK = REPOSITORY / 'requirements.lock'
FILES = REPOSITORY / 'tests' / 'data' / 'locked-files.json'
INDEX = 'https://pypi.org/simple'
PYTHONS = ('3.11', '3.12', '3.13')
MACHINES = ('x86_64', 'aarch64')
LIBC = ('manylinux_2_28', 'manylinux_2_17', 'manylinux2014')
TARGETS = [f'{python} {machine}' for python in PYTHONS for machine in MACHINES]
# Ignore the settings of this host: neither its own index nor a directory with wheels may decide.
ENVIRONMENT = {**os.environ, 'PIP_CONFIG_FILE': os.devnull, 'PIP_FIND_LINKS': '', 'PIP_EXTRA_INDEX_URL': ''}


def compile_lock() -> None:
    """Have uv choose versions and write the lock."""
    command = [sys.executable, '-m', 'uv', '--no-config', 'pip', 'compile', 'setup.py', '--universal', '--upgrade']
    command += ['--python-version', PYTHONS[0], '--default-index', INDEX, '--no-emit-index-url', '--generate-hashes']
    command += ['--custom-compile-command', 'make lock', '--output-file', str(LOCK)]
    subprocess.run(command, cwd=REPOSITORY, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)


def files_for(target: str) -> dict[str, str]:
    """Return the files that pip would install, with their SHA-256."""
    python, machine = target.split()
    with tempfile.TemporaryDirectory(prefix='nipap-lock-') as directory:
        report = Path(directory, 'report.json')
        command = [sys.executable, '-m', 'pip', 'install', '--dry-run', '--quiet', '--ignore-installed', '--no-deps']
        command += ['--require-hashes', '--requirement', str(LOCK), '--index-url', INDEX, '--report', str(report)]
        command += ['--target', directory, '--python-version', python, '--implementation', 'cp']
        command += [part for libc in LIBC for part in ('--platform', f'{libc}_{machine}')]
        subprocess.run(command, env=ENVIRONMENT, check=True)
        found: list[dict[str, Any]] = json.loads(report.read_text())['install']
    return {
        item['download_info']['url'].rpartition('/')[2]: item['download_info']['archive_info']['hashes']['sha256']
        for item in found
    }


def main() -> int:
    """Write both files."""
    compile_lock()
    FILES.write_text(json.dumps({target: files_for(target) for target in TARGETS}, indent=1, sort_keys=True) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
