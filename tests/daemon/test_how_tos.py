"""The shell commands of the how-tos, run as printed, page by page, against a daemon of this test."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parent.parent.parent
DOCS = REPOSITORY / 'docs'
PLAYED = (  # in this order
    'index',
    'history',
    'time-travel',
    'importing',
    'planning',
    'users',
    'configuring',
    'operating',
    'auditing',
    'backups',
)
# Pages whose commands no test of this file runs, with the reason.
ELSEWHERE = {
    'differences': 'its command is SQL for a database of a former version, which tests/daemon/test_dump.py makes',
    'events': 'streams do not end, and the webhook has no receiver; tests/daemon/test_events.py has both',
    'measuring': 'benchmarks that take minutes to hours',
    'production': 'needs root and systemd; test_in_front.py plays the proxies, test_backup.py the timer',
    'rest': 'tests/daemon/test_rest_guide.py plays it',
    'tracing': 'installs libraries that the tests have; tests/daemon/test_tracing.py has the collector',
    'upgrading': 'takes two versions of the program; tests/daemon/test_going_back.py plays the way there and back',
}
BLOCK = re.compile(r'(<!-- not played: \w[^>]*-->\n)?```sh\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[str]:
    """Return the commands of a page, without blocks that carry a reason for not being run."""
    found = BLOCK.findall((DOCS / f'{page}.md').read_text())
    return [commands for excuse, commands in found if not excuse]


def test_each_page_with_commands_is_played_or_says_why_not() -> None:
    pages = {path.stem for path in DOCS.glob('*.md') if BLOCK.search(path.read_text())}
    assert pages == {*PLAYED, *ELSEWHERE}
    assert all(blocks(page) for page in PLAYED)


@pytest.fixture
def directory(make_dir: Callable[[], Path]) -> Path:
    """Return a directory as the commands expect it: with `.venv` and the tests of the repository."""
    made = make_dir()
    (made / '.venv').symlink_to(sys.prefix)
    (made / 'tests').symlink_to(REPOSITORY / 'tests')
    return made


def test_the_commands_succeed(daemon: Callable[..., Any], data_dir: Path, directory: Path) -> None:
    """All pages are run on one daemon. A comment behind a command is a part of the expected output."""
    if shutil.which('curl') is None:
        pytest.skip('no curl on this host')
    running = daemon(data_dir=data_dir)
    _, password = running.admin()
    address = running.url().rstrip('/')
    for page in PLAYED:
        commands = '\n'.join(blocks(page))
        printed = re.findall(r'^# (.*)$', commands, re.MULTILINE)
        for old, new in (
            ('http://127.0.0.1:1337', address),
            ('PASSWORD', password),
            ('_' + password, '_PASSWORD'),  # in the name of a variable
            ('~/.local/share/nipap', str(data_dir)),
            ('~/', f'{directory}/'),
            ('bin/nipap import', f'bin/nipap --host {address} import'),
        ):
            commands = commands.replace(old, new)
        # The commands use the data directory of the account; this daemon has one of its own.
        admin = re.compile(r'(bin/nipap-(?:passwd|admin) (?!.*--data-dir).*)$', re.MULTILINE)
        commands = admin.sub(rf'\1 --data-dir {data_dir}', commands)
        command = ['bash', '-e', '-c', commands]
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, (page, done.stdout, done.stderr)
        assert [line for line in printed if line not in done.stdout] == [], (page, done.stdout)
