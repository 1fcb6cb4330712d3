"""What the daemon logs, the file with its process id, and the background."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import xmlrpc.client
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import DaemonFactory
from talking import (
    Configured,
    await_that,
    call,
    handlers,
)

from nipap import __version__
from nipapd import logs


def test_a_line_for_each_request_and_no_password(configured: Configured, make_dir: Callable[[], Path]) -> None:
    running = configured('-d', db_pass='SECRET-of-the-database', data_dir=make_dir())
    password = running.admin()[1]
    told = running.log()
    call(running, 'echo', message='SECRET-message')
    with pytest.raises(xmlrpc.client.Fault):
        call(running, 'list_prefix', prefix={'id': 'nothing'})
    wrong = running.address.replace('://', '://admin:SECRET-wrong@')
    with xmlrpc.client.ServerProxy(f'{wrong}/XMLRPC') as proxy, pytest.raises(xmlrpc.client.Fault):
        proxy.version({'auth': {'authoritative_source': 'test'}})
    lines = running.log()[len(told) :].splitlines()
    requests = [line for line in lines if ' INFO nipap.request: ' in line]
    assert [re.sub(r'^.*nipap\.request: | [0-9.]+ ms| request=\S+', '', line) for line in requests] == [
        "echo user='admin' ok",
        "list_prefix user='admin' fault 1200",
        "- user='-' fault 1510",
    ]
    assert not [line for line in lines if 'tornado.access' in line]
    assert password not in running.log()[running.log().index(password) + len(password) :]
    assert 'SECRET' not in running.log()


def test_a_line_of_the_start_is_written_at_once() -> None:
    """Also by a Python without buffers, as containers run it: other processes write to the same place."""
    said, written = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with said, written:
        subprocess.run([sys.executable, '-u', '-c', 'from nipapd import launch; launch.say("word")'], stderr=written)
        assert said.recv(100) == b'nipapd: word\n'


def test_debug_is_a_switch(configured: Configured) -> None:
    running = configured('--debug')
    os.kill(handlers(running)[0].pid, signal.SIGKILL)
    await_that(lambda: ' DEBUG nipapd.prefork: handler ' in running.log(), 'a line on the loss')


def test_what_the_configuration_says_in_vain_is_logged(daemon: DaemonFactory, database_options: Any) -> None:
    running = daemon(config={'nipapd': {'forks': '1', **database_options, 'colour': 'green'}})
    assert re.search(r' WARNING nipapd: .*\[nipapd\] colour: unknown key, ignored\n', running.log())


def test_the_system_log(root_logger: logging.Logger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as system:
        system.bind(str(tmp_path / 'log'))
        monkeypatch.setattr(logs, 'SYSLOG_SOCKET', tmp_path / 'log')
        logs.configure(debug=False, use_syslog=True)
        logging.getLogger('nipap.request').debug('not this')
        logging.getLogger('nipap.request').info('version')
        expected = f'<30>nipapd[{os.getpid()}]: INFO nipap.request: version\0'
        assert system.recv(1000).decode() == expected


def test_a_system_log_that_does_not_answer(
    root_logger: logging.Logger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as system:
        system.bind(str(tmp_path / 'log'))
    monkeypatch.setattr(logs, 'SYSLOG_SOCKET', tmp_path / 'log')
    with pytest.raises(logs.LogError, match='does not answer: Connection refused'):
        logs.configure(debug=False, use_syslog=True)


def test_a_value_cannot_begin_a_line_of_the_log(
    root_logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure(debug=True, use_syslog=False)
    logging.getLogger('nipap').debug('user %s', 'eve\n2026-01-01 INFO forged\x1b[2J\u2028')
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(r' DEBUG nipap: user eve\n2026-01-01 INFO forged\x1b[2J\u2028')
    assert re.match(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z nipapd\[\d+\] ', line)


# files and background


def test_the_pid_file(configured: Configured, make_dir: Any) -> None:
    path = make_dir() / 'nipapd.pid'
    path.write_text('1\n')  # left by one that was killed
    running = configured('-P', str(path))
    assert path.read_text() == f'{running.pid}\n'
    assert running.stop() == 0
    assert not path.exists()


def test_a_pid_file_that_cannot_be_written_is_one_line(configured: Configured) -> None:
    refused = configured('-P', '/nowhere/nipapd.pid', start=False).spawn()
    assert refused.wait() == 1
    assert refused.log() == 'nipapd: cannot write the pid file /nowhere/nipapd.pid: No such file or directory\n'


def test_the_background(daemon: DaemonFactory, data_dir: Path, make_dir: Any) -> None:
    path = make_dir() / 'nipapd.pid'
    caller = daemon('--background', '-P', str(path), data_dir=data_dir)
    try:
        assert caller.wait() == 0
        pid = int(path.read_text())
        assert pid != caller.pid
        assert os.getsid(pid) not in (pid, os.getsid(0))
        assert {os.readlink(f'/proc/{pid}/fd/{number}') for number in (0, 1)} == {'/dev/null'}
        assert call(caller, 'version') == __version__
        assert ' INFO nipap.request: version ' in (data_dir / 'nipapd.log').read_text()
        assert 'nipap.request' not in caller.log()
    finally:
        os.kill(int(path.read_text()), signal.SIGTERM)
        caller.await_no_children()
    assert not path.exists()


def test_a_start_that_fails_in_the_background_is_told_to_the_caller(daemon: DaemonFactory) -> None:
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = daemon('--background', '-p', str(port), start=False).spawn()
        assert refused.wait() == 1
    assert refused.log() == f'nipapd: cannot listen on 127.0.0.1 port {port}: Address already in use\n'
