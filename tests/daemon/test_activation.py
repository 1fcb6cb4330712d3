"""Activation by a service manager, which holds the sockets and receives notifications; the test is the manager."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from callers import await_calls, calling, handlers
from daemon_process import REPOSITORY, Daemon, poll
from support import DaemonFactory

from nipapd import systemd

pytestmark = pytest.mark.slow

Activated = Callable[..., Daemon]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Yield a listening socket that stays open when the daemon ends."""
    with socket.create_server(('127.0.0.1', 0), backlog=512) as made:
        yield made


@pytest.fixture
def activated(
    daemon: DaemonFactory, database_options: dict[str, str], make_dir: Callable[[], Path], listener: socket.socket
) -> Activated:
    """Return a factory of daemons on one data directory; the daemons receive the listener."""
    data_dir = make_dir()

    def make(name: str = '', env: dict[str, str] | None = None) -> Daemon:
        config = {'nipapd': {'forks': '2', **database_options}}
        made = daemon(config=config, data_dir=data_dir, env=env, start=False)
        made.passed = [(name, listener)]
        return made

    return make


def test_a_restart_refuses_no_connection(activated: Activated, listener: socket.socket) -> None:
    running = activated().start()
    assert running.address == f'http://127.0.0.1:{listener.getsockname()[1]}'
    with calling(running) as callers:
        for _ in range(2):
            await_calls(callers)
            assert running.stop() == 0
            running = activated().start()
        before = handlers(running)
        running.send(signal.SIGHUP)
        poll(lambda: len(handlers(running)) == 2 and not before & handlers(running), 40, running.log)


def test_a_passed_socket_for_tls_needs_a_certificate(activated: Activated) -> None:
    refused = activated('https').spawn()
    assert refused.wait() == 1
    assert refused.log() == (
        'nipapd: a socket named https was passed, for which ssl_port and ssl_cert_file are needed\n'
    )


def test_sockets_that_were_passed_to_somebody_else_are_left_alone(daemon: DaemonFactory, database_options: Any) -> None:
    env = {'LISTEN_PID': '1', 'LISTEN_FDS': '1'}
    running = daemon(config={'nipapd': {'forks': '1', **database_options}}, env=env)
    assert running.address.rpartition(':')[2] == running.args[running.args.index('-p') + 1]


def test_a_passed_descriptor_must_be_a_listening_socket(activated: Activated) -> None:
    refused = activated()
    with socket.socket() as idle:
        refused.passed = [('', idle)]
        refused.spawn()
        assert refused.wait() == 1
    assert refused.log() == 'nipapd: descriptor 3 was passed, which is no listening TCP socket\n'


def test_the_service_manager_is_told(activated: Activated, make_dir: Callable[[], Path]) -> None:
    path = make_dir() / 'notify'
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(40)
        running = activated(env={'NOTIFY_SOCKET': str(path)}).spawn()
        assert manager.recv(100) == b'READY=1'
        running.send(signal.SIGHUP)
        state, _, when = manager.recv(100).partition(b'\n')
        assert state == b'RELOADING=1'
        assert when.removeprefix(b'MONOTONIC_USEC=').isdigit()
        assert manager.recv(100) == b'READY=1'
        assert running.stop() == 0
        assert manager.recv(100) == b'STOPPING=1'


def test_notifications_to_an_abstract_and_to_a_missing_socket(caplog: pytest.LogCaptureFixture) -> None:
    name = f'@nipapd-test-{os.getpid()}'
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name.replace('@', '\0'))
        manager.settimeout(20)
        systemd.notify('READY=1', {'NOTIFY_SOCKET': name})
        assert manager.recv(100) == b'READY=1'
    systemd.notify('READY=1', {'NOTIFY_SOCKET': name})
    assert 'cannot send READY=1 to the service manager' in caplog.text


# ---- the units

UNITS = ('nipapd.service', 'nipapd.socket', 'nipap-backup.service', 'nipap-backup.timer')


def shipped(name: str) -> configparser.RawConfigParser:
    unit = configparser.RawConfigParser(strict=False)
    unit.read(REPOSITORY / 'etc' / name)
    return unit


@pytest.mark.parametrize('name', UNITS)
def test_the_units_are_shipped_and_can_be_read(name: str) -> None:
    assert 'Unit' in shipped(name)
    assert f'etc/{name}' in (REPOSITORY / 'setup.py').read_text()


@pytest.mark.skipif(shutil.which('systemd-analyze') is None, reason='only systemd knows what it understands')
def test_systemd_understands_all_of_the_units(make_dir: Callable[[], Path]) -> None:
    """Unknown settings are ignored by systemd, with a warning and exit code 0."""
    directory = make_dir()
    for name in UNITS:
        text = (REPOSITORY / 'etc' / name).read_text()
        (directory / name).write_text(text.replace('ExecStart=/usr/local/bin/nipapd', f'ExecStart={sys.executable}'))
    command = ['systemd-analyze', 'verify', '--man=no', *(str(directory / name) for name in UNITS)]
    verified = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    about_others = [line for line in verified.stderr.splitlines() if 'nipap' not in line]
    assert verified.stderr.splitlines() == about_others
    assert verified.returncode == 0, verified.stderr


def command_of(unit: str, key: str, **places: str) -> list[str]:
    """Return a command of a unit, with other paths."""
    line = shipped(unit)['Service'][key]
    for place, other in places.items():
        line = line.replace({'program': '/usr/local/bin/nipap-admin', 'backups': '/var/backups/nipap'}[place], other)
    return [word.replace('$$', '$').replace('%%', '%') for word in shlex.split(line)]


def test_the_unit_for_backups_writes_one_and_removes_old_ones(
    daemon: DaemonFactory, database_options: dict[str, str], make_dir: Callable[[], Path]
) -> None:
    backups, home = make_dir(), make_dir()
    running = daemon(config={'nipapd': {'forks': '1', **database_options}}, data_dir=home)
    where = f'-c {running.args[running.args.index("-c") + 1]} --data-dir {home}'
    program = f'{sys.executable} -m nipapd.maintenance {where}'
    for name, days in (('nipap-2020-01-01.dump', 40), ('nipap-2020-02-01.dump', 20), ('before.dump', 400)):
        (backups / name).touch()
        os.utime(backups / name, (time.time() - days * 86400,) * 2)
    for key in ('ExecStart', 'ExecStartPost'):
        command = command_of('nipap-backup.service', key, program=program, backups=str(backups))
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done
    today = {f'nipap-{time.strftime("%F", time.localtime(time.time() - ago))}.dump' for ago in (0, 60)}
    found = {path.name for path in backups.iterdir()}
    assert found - today == {'nipap-2020-02-01.dump', 'before.dump'}
    (made,) = found & today
    assert (backups / made).stat().st_size > 1000


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which('setpriv') is None, reason='only root has any to give up')
def test_the_capabilities_of_the_unit_are_enough(daemon: DaemonFactory) -> None:
    """The capabilities suffice to run PostgreSQL under another account, become an account, renew and stop handlers."""
    allowed = [
        name.removeprefix('CAP_').lower() for name in shipped(UNITS[0])['Service']['CapabilityBoundingSet'].split()
    ]
    running = daemon(config={'nipapd': {'forks': '1', 'user': 'nobody'}}, start=False)
    running.through = ['setpriv', '--no-new-privs', '--inh-caps=-all']
    running.through += ['--bounding-set=-all' + ''.join(f',+{name}' for name in allowed), '--']
    running.start()
    held = re.findall(r'^CapEff:\t(\w+)$', Path(f'/proc/{running.pid}/status').read_text(), re.MULTILINE)
    assert int(held[0], 16).bit_count() == len(allowed)
    with calling(running) as callers:
        before = handlers(running)
        running.send(signal.SIGHUP)
        poll(lambda: not before & handlers(running), 40, running.log)
        await_calls(callers)
    assert running.stop() == 0
