"""The Python examples of the README and of the pages about XML-RPC and the past, run as printed."""

from __future__ import annotations

import itertools
import lzma
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parent.parent.parent
DATA = 'tests/data/internet-prefixes.csv.xz'
ADDRESS = 'http://admin:PASSWORD@127.0.0.1:1337'
# Enough for the look-ups; the duration with the whole file does not matter here.
ROWS = 100


def examples(*names: str) -> list[tuple[str, str]]:
    """Return the programs of some documents, each with the output in its final comment."""
    pattern = r'^```python\n((?:(?!```).*\n)*?)((?:# .*\n)+)```$'
    text = ''.join((REPOSITORY / name).read_text() for name in names)
    blocks = re.findall(pattern, text, re.MULTILINE)
    return [(program, re.sub('^# ', '', comment, flags=re.MULTILINE)) for program, comment in blocks]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return a directory in which the examples find the beginning of their data."""
    (tmp_path / DATA).parent.mkdir(parents=True)
    with lzma.open(REPOSITORY / DATA) as whole, lzma.open(tmp_path / DATA, 'w') as part:
        part.writelines(itertools.islice(whole, ROWS + 1))
    return tmp_path


def test_the_examples_do_what_the_readme_says(daemon: Callable[..., Any], directory: Path) -> None:
    running = daemon()
    url = running.url(*running.admin())
    found = examples('README.md', 'docs/xmlrpc.md')
    assert len(found) == 4
    for program, output in found:
        assert ADDRESS in program
        command = [sys.executable, '-c', program.replace(ADDRESS, url)]
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, output), done.stderr


@pytest.mark.parametrize('page', ['docs/history.md', 'docs/time-travel.md'])
def test_the_examples_about_the_past_do_what_the_how_to_says(daemon: Callable[..., Any], page: str) -> None:
    """All blocks are one program: each block continues the previous one."""
    running = daemon()
    programs, outputs = zip(*examples(page), strict=True)
    program = '\n'.join(programs).replace(ADDRESS, running.url(*running.admin()))
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ''.join(outputs)), done.stderr
