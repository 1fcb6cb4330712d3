"""The log of the daemon, the file with its process id, and the background."""

from __future__ import annotations

import base64
import contextlib
import gzip
import http.client
import logging
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import xmlrpc.client
from collections.abc import Callable
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from callers import change
from daemon_process import REPOSITORY
from support import DaemonFactory
from talking import (
    AT_TERMINAL,
    Configured,
    await_that,
    call,
    client,
    handlers,
)

from nipap import __version__
from nipapd import logs

pytestmark = pytest.mark.slow


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
    assert password not in running.log()
    assert 'SECRET' not in running.log()


def test_a_line_of_the_start_is_written_at_once() -> None:
    """This holds even without buffers in Python, as in containers, where other processes write to the same place."""
    said, written = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with said, written:
        subprocess.run([sys.executable, '-u', '-c', 'from nipapd import launch; launch.say("word")'], stderr=written)
        assert said.recv(100) == b'nipapd: word\n'


def test_debug_is_a_switch(configured: Configured) -> None:
    running = configured('--debug')
    os.kill(handlers(running)[0].pid, signal.SIGKILL)
    await_that(lambda: ' DEBUG nipapd.prefork: handler ' in running.log(), 'a line on the loss')


def test_ignored_settings_are_logged(daemon: DaemonFactory, database_options: Any) -> None:
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


# files and the background


def test_the_pid_file(configured: Configured, make_dir: Any) -> None:
    path = make_dir() / 'nipapd.pid'
    path.write_text('1\n')  # left by a killed daemon
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


@pytest.mark.parametrize('forks', ['2', '-1'])
def test_a_hup_opens_the_log_again(
    daemon: DaemonFactory, database_options: Any, make_dir: Any, dsn: str, forks: str
) -> None:
    """This is what logrotate needs; it also works when root was given up, and when the configuration is unusable."""
    path, home = make_dir() / 'nipapd.pid', make_dir()
    log = home / 'nipapd.log'
    user = {'user': 'postgres'} if os.geteuid() == 0 else {}
    config = {'nipapd': {'forks': forks, **user, **database_options}}
    caller = daemon('--background', '-P', str(path), config=config, data_dir=home)
    try:
        assert caller.wait() == 0
        pid = int(path.read_text())
        for number in range(2):
            log.rename(home / f'nipapd.log.{number}')
            log.touch(0o640)
            os.chown(log, *owner_of(home / f'nipapd.log.{number}'))
            os.kill(pid, signal.SIGHUP)
            await_that(lambda: 'SIGHUP' in log.read_text() or 'stays' in log.read_text(), 'a line in the new file')
            before = len((home / f'nipapd.log.{number}').read_text())

            def heard() -> bool:
                call(caller, 'version')
                return ' INFO nipap.request: version ' in log.read_text()

            await_that(heard, 'a line about a call in the new file')
            if forks == '-1':
                assert len((home / f'nipapd.log.{number}').read_text()) == before
            change(caller, port='none')
    finally:
        os.kill(int(path.read_text()), signal.SIGTERM)
        caller.await_no_children()


def owner_of(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_uid, status.st_gid


def test_a_log_that_cannot_be_opened_again_goes_on(daemon: DaemonFactory, database_options: Any, make_dir: Any) -> None:
    path, home = make_dir() / 'nipapd.pid', make_dir()
    log = home / 'nipapd.log'
    config = {'nipapd': {'forks': '1', **database_options}}
    caller = daemon('--background', '-P', str(path), config=config, data_dir=home)
    try:
        assert caller.wait() == 0
        log.rename(home / 'moved')
        log.symlink_to('/etc/passwd')
        os.kill(int(path.read_text()), signal.SIGHUP)
        await_that(lambda: f'{log} cannot be opened again' in (home / 'moved').read_text(), 'a complaint')
        assert call(caller, 'version') == __version__
    finally:
        os.kill(int(path.read_text()), signal.SIGTERM)
        caller.await_no_children()


LOGROTATE = shutil.which('logrotate') or shutil.which('logrotate', path='/usr/sbin')


@pytest.mark.skipif(LOGROTATE is None, reason='this host has no logrotate')
def test_the_shipped_logrotate_file(make_dir: Any) -> None:
    """The file makes logrotate move one log, empty the other, and have the daemon open its log again."""
    home = make_dir()
    told = home / 'told'
    text = (REPOSITORY / 'etc/nipapd.logrotate').read_text()
    assert '/var/lib/nipap/nipapd.log' in text
    text = (
        text.replace('/var/lib/nipap/', f'{home}/')
        .replace('/run/nipap/', f'{home}/')
        .replace('kill -HUP', f'> {told} echo')
    )
    (home / 'conf').write_text(text)
    (home / 'nipapd.pid').write_text('77\n')
    for name in ('nipapd.log', 'postgresql.log'):
        (home / name).write_text(name)
    server_log = (home / 'postgresql.log').open('a')
    with server_log:
        command = [LOGROTATE, '--force', '--state', str(home / 'state'), str(home / 'conf')]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, '', '')
        server_log.write('goes on')
    assert told.read_text() == '77\n'
    assert (home / 'nipapd.log.1').read_text() == 'nipapd.log'
    assert (home / 'nipapd.log').read_text() == ''
    assert (home / 'postgresql.log').read_text() == 'goes on'
    assert gzip.decompress((home / 'postgresql.log.1.gz').read_bytes()) == b'postgresql.log'


def ban_filter() -> re.Pattern[str]:
    """Return the shipped filter for fail2ban as an expression; fail2ban removes the time of a line before matching."""
    parser = RawConfigParser()
    parser.read(REPOSITORY / 'etc/nipapd.fail2ban')
    return re.compile(parser['Definition']['failregex'].replace('<ADDR>', r'(?P<address>[0-9.]+|[0-9a-f:]+)'))


def test_the_shipped_filter_for_fail2ban(configured: Configured) -> None:
    running = configured(access_log='true')
    port = int(running.address.rpartition(':')[2])
    told = running.log()
    fake = "nipapd[1] WARNING nipap.login: failed login from 192.0.2.9 user='x"
    for name, password in (('admin', 'wrong'), (fake, 'x'), (f'x"\'\n{fake}', 'x'), running.admin()):
        connection = http.client.HTTPConnection('127.0.0.1', port, timeout=60, source_address=('127.0.0.2', 0))
        login = base64.b64encode(f'{name.replace(":", ";")}:{password}'.encode()).decode()
        acting = {'authoritative_source': 'test', 'username': fake}
        body = xmlrpc.client.dumps(({'auth': acting},), 'version')
        connection.request('POST', '/XMLRPC', body, {'Authorization': f'Basic {login}', 'Content-Type': 'text/xml'})
        connection.getresponse().read()
        connection.close()
    lines = [line for line in running.log()[len(told) :].splitlines() if ' nipap' in line]
    assert len([line for line in lines if ' nipap.login: ' in line[:70] or ' nipap.request: ' in line[:70]]) == 7
    for line in lines:
        rest = line.partition(' ')[2]
        # The line in a file, in the journal, and in syslog.
        for shape in (f' {rest}', f'host nipapd[7]: {line}', f'host {rest.replace("] ", "]: ", 1)}'):
            found = ban_filter().search(shape)
            assert (found and found['address']) == ('127.0.0.2' if 'WARNING nipap.login' in line[:70] else None), shape
    assert len([line for line in lines if ban_filter().search(line.partition(' ')[2])]) == 3


def test_calls_are_not_logged_to_a_terminal_unless_that_is_asked_for(configured: Configured) -> None:
    running = configured(start=False, log_level='info', forks='1')
    running.through = [sys.executable, '-c', AT_TERMINAL]
    running.start()
    assert call(running, 'version') == __version__
    running.send(signal.SIGHUP)
    await_that(lambda: running.log().count('serving on') == 2, 'the HUP')
    await_that(lambda: ' INFO nipapd: SIGHUP: 1 handlers take over' in running.log(), 'the line of the HUP')
    assert 'nipap.request' not in running.log()
    change(running, access_log='true')
    running.send(signal.SIGHUP)
    await_that(lambda: running.log().count('serving on') == 3, 'the HUP')
    assert call(running, 'version') == __version__
    await_that(lambda: 'INFO nipap.request: version' in running.log(), 'the line of the call')


def test_levels_and_lines_of_calls_are_two_things(configured: Configured) -> None:
    running = configured(log_level='warning', access_log='yes', forks='1', colour='green')
    assert call(running, 'version') == __version__
    lines = [line for line in running.log().splitlines() if re.match(r'\d{4}-', line)]
    assert [re.findall(r' (WARNING|INFO) (\S+): ', line)[0] for line in lines] == [
        ('WARNING', 'nipapd'),
        ('INFO', 'nipap.request'),
    ]
    change(running, log_level='info', access_log='no')
    running.send(signal.SIGHUP)
    await_that(lambda: ' INFO nipapd: serving on' in running.log(), 'the HUP')
    told = len(running.log())
    assert call(running, 'version') == __version__
    assert 'nipap.request' not in running.log()[told:]


def test_refusals_are_no_errors_of_the_database(daemon: DaemonFactory, data_dir: Path) -> None:
    """The log of the private PostgreSQL has no line about refusals, and so no values; its own activity is logged."""
    running = daemon(data_dir=data_dir, config={'nipapd': {'forks': '1'}})
    log = data_dir / 'postgresql.log'
    with client(running) as ask:
        ask('add_prefix', attr={'prefix': '192.0.2.0/24', 'type': 'assignment', 'description': 'there'})
        ask('add_vrf', attr={'rt': '1:1', 'name': 'one'})
        before = log.read_text()
        refused = [
            ('add_prefix', {'attr': {'prefix': '192.0.2.0/24', 'type': 'assignment', 'description': 'HUSH'}}),
            ('add_prefix', {'attr': {'prefix': '192.0.2.0/25', 'type': 'assignment', 'description': 'HUSH'}}),
            ('add_prefix', {'attr': {'prefix': '10.0.0.1/32', 'type': 'host', 'node': 'HUSH'}}),
            ('add_vrf', {'attr': {'rt': '1:1', 'name': 'HUSH'}}),
            ('edit_vrf', {'vrf': {'rt': '1:1'}, 'attr': {'name': 'default'}}),
            ('remove_vrf', {'vrf': {'id': 0}}),
            ('search_prefix', {'query': {'operator': 'regex_match', 'val1': 'node', 'val2': 'HUSH('}}),
            ('batch', {'operations': [{'method': 'add_asn', 'args': {'attr': {'asn': 1}}}] * 2}),
        ]
        for method, members in refused * 3:
            with pytest.raises(xmlrpc.client.Fault):
                ask(method, **members)
    assert log.read_text() == before
    other = contextlib.closing(psycopg2.connect(host=str(data_dir / 'run'), user='postgres', dbname='nipap'))
    with other as connection, connection.cursor() as cursor, pytest.raises(psycopg2.Error):
        cursor.execute('SELECT 1/0')
    assert 'division by zero' in log.read_text()[len(before) :]


def test_the_line_of_the_first_password_says_how_to_change_it(
    daemon: DaemonFactory, database_options: Any, make_dir: Any
) -> None:
    home = make_dir()
    running = daemon(data_dir=home, config={'nipapd': {'forks': '1', **database_options}})
    said = re.search(r'\(to change it and remove the file: (nipap-passwd .* modify -u admin)\)\n', running.log())
    assert said, running.log()
    words = shlex.split(said[1])[1:]
    changed = subprocess.run(
        [sys.executable, '-m', 'nipapd.passwd', *words, '-p', 'a better password'], cwd=REPOSITORY, capture_output=True
    )
    assert changed.returncode == 0, changed
    with xmlrpc.client.ServerProxy(f'{running.url("admin", "a better password")}/XMLRPC') as nipap:
        assert nipap.version({'auth': {'authoritative_source': 'test'}}) == __version__


def test_a_start_that_fails_in_the_background_is_told_to_the_caller(daemon: DaemonFactory) -> None:
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = daemon('--background', '-p', str(port), start=False).spawn()
        assert refused.wait() == 1
    assert refused.log() == f'nipapd: cannot listen on 127.0.0.1 port {port}: Address already in use\n'
