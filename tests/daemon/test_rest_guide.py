"""The examples of docs/rest.md, run as printed against a daemon; its table of errors matches the code."""

from __future__ import annotations

import base64
import contextlib
import http.client
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from talking import Configured

from nipap.rest.problems import STATUSES

GUIDE = (Path(__file__).parent.parent.parent / 'docs/rest.md').read_text()
ADDRESS = 'http://127.0.0.1:1337'


def blocks(language: str) -> list[str]:
    return re.findall(rf'^```{language}\n(.*?)^```$', GUIDE, re.MULTILINE | re.DOTALL)


def filled_in(program: str, running: Any) -> str:
    """Return a program with the address of the daemon and the password of its user."""
    _, password = running.admin()
    assert ADDRESS in program
    return program.replace(ADDRESS, running.url().rstrip('/')).replace('PASSWORD', password)


def test_the_python_examples_do_what_the_guide_says(configured: Configured) -> None:
    """All blocks are one program: each block continues the previous one."""
    running = configured()
    found = blocks('python')
    assert found
    output = ''.join(
        line.removeprefix('# ') + '\n' for block in found for line in block.splitlines() if line[:2] == '# '
    )
    command = [sys.executable, '-c', filled_in('\n'.join(found), running)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, output), done.stderr


def test_the_shell_examples_succeed(configured: Configured) -> None:
    if shutil.which('curl') is None:
        pytest.skip('no curl on this host')
    running = configured()
    command = ['bash', '-e', '-c', filled_in(''.join(blocks('sh')), running)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '{"result":[{"id":1,"prefix":"10.0.0.0/8"}]' in done.stdout


def test_the_guide_has_every_status_with_its_codes() -> None:
    rows = re.findall(r'^\| (\d{3}) \| ([\d, ]+) \|', GUIDE, re.MULTILINE)
    codes: dict[int, set[int]] = defaultdict(set)
    for error, status in STATUSES.items():
        codes[status].add(error.code)
    assert {int(status): {int(code) for code in listed.split(', ')} for status, listed in rows} == codes
    assert all(HTTPStatus(status) for status in codes)


def test_the_paths_are_served_by_the_daemon(configured: Configured) -> None:
    """A daemon serves the interface beside XML-RPC, pages and older endpoint included."""
    running = configured()
    login = 'Basic ' + base64.b64encode(':'.join(running.admin()).encode()).decode()
    for path, status in (
        ('/api/docs', 200),
        ('/api/docs/swagger-ui-bundle.js', 200),
        ('/api/v1/openapi.json', 200),
        ('/api/v1/version', 200),
        ('/rest/v1/prefixes?id=1', 200),
        ('/api/v1/bogus', 404),
    ):
        connection = http.client.HTTPConnection(urlsplit(running.url()).netloc)
        with contextlib.closing(connection):
            connection.request('GET', path, headers={'Authorization': login, 'NIPAP-Authoritative-Source': 'x'})
            assert connection.getresponse().status == status, path
