"""HUP: the daemon takes another configuration while clients call all the time."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
import xmlrpc.client
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from callers import Changer, await_calls, calling, change, handlers
from daemon_process import Daemon, free_port, poll
from support import DaemonFactory, options_of

from nipap.access.authentication import Actor
from nipap.backend import Backend
from nipap.postgres import schema

pytestmark = pytest.mark.slow

Configured = Callable[..., Daemon]
LONG = 1500  # prefixes: more than are answered as one list
TAKEN_OVER = ' INFO nipapd: serving on '


@pytest.fixture
def configured(daemon: DaemonFactory, database_options: dict[str, str]) -> Configured:
    """Return a factory of daemons on the database of the test: `configured(*args, **settings of [nipapd])`."""

    def make(*args: str, start: bool = True, **settings: str) -> Daemon:
        return daemon(*args, config={'nipapd': {'forks': '2', **database_options, **settings}}, start=start)

    return make


def reload(running: Daemon) -> None:
    """Send HUP and wait until all handlers have the new configuration."""
    before = running.log().count(TAKEN_OVER)
    running.send(signal.SIGHUP)
    poll(lambda: running.log().count(TAKEN_OVER) > before, 40, lambda: f'is not reloaded:\n{running.log()}')


def refuse(running: Daemon) -> str:
    """Send HUP and wait until the configuration is refused; return the reason."""
    said = 'ERROR nipapd: the configuration in use stays: '
    before = running.log().count(said)
    running.send(signal.SIGHUP)
    poll(lambda: running.log().count(said) > before, 40, lambda: f'is not refused:\n{running.log()}')
    return running.log().rpartition(said)[2].partition('\n')[0]


def call(running: Daemon, method: str, address: str | None = None, **members: object) -> Any:
    user, password = running.admin()
    url = (address or running.address).replace('://', f'://{user}:{password}@')
    with xmlrpc.client.ServerProxy(f'{url}/XMLRPC', allow_none=True) as server:
        return getattr(server, method)({'auth': {'authoritative_source': 'test'}, **members})


# replaced handlers


def test_no_call_is_refused_or_broken(configured: Configured) -> None:
    running = configured()
    with calling(running) as callers:
        for _ in range(4):
            before = handlers(running)
            reload(running)
            await_calls(callers)
            poll(lambda before=before: not before & handlers(running), 20, running.log)
    assert len(handlers(running)) == 2
    assert ' WARNING ' not in running.log()


def test_no_change_and_no_long_answer_is_broken_with_or_without_tls(
    configured: Configured, make_dir: Callable[[], Path], backend: Backend, actor: Actor
) -> None:
    """Changes are made once, and answers that take long to read and to encode are complete."""
    directory, port = make_dir(), free_port()
    make_certificate(directory, 'test')
    hosts = [{'prefix': f'10.0.{i >> 8}.{i & 255}/32', 'type': 'assignment', 'description': 'd'} for i in range(LONG)]
    backend.add_prefixes(actor, hosts, ids=True)
    certificate = directory / 'cert.pem'
    running = configured(
        '-s', str(port), ssl_cert_file=str(certificate), ssl_key_file=str(directory / 'key.pem'), drain_timeout='60'
    )
    clear, secure = (
        Changer(running, False, running.admin()),
        Changer(running, True, running.admin(), (port, certificate)),
    )
    clear.network, secure.network = '10.1', '10.2'
    with calling(running, others=(clear, secure)) as callers:
        for _ in range(2):
            before = handlers(running)
            reload(running)
            await_calls(callers, 3)
            poll(lambda before=before: not before & handlers(running), 40, running.log)
    for changer in (clear, secure):
        spec = {'operator': 'contained_within', 'val1': 'prefix', 'val2': f'{changer.network}.0.0/16'}
        assert len(backend.search_prefix(actor, spec, {'max_result': None})['result']) == changer.calls
    assert ' WARNING ' not in running.log()


def test_several_hangups_in_quick_succession(configured: Configured) -> None:
    running = configured()
    before = handlers(running)
    with calling(running):
        for forks in ('3', '1', '3'):
            change(running, forks=forks)
            running.send(signal.SIGHUP)
            poll(lambda forks=forks: f'SIGHUP: {forks} handlers' in running.log(), 20, running.log)
        poll(lambda: len(handlers(running)) == 3 and not before & handlers(running), 40, running.log)
    assert running.stop() == 0


def test_a_call_that_runs_is_finished_by_its_handler(configured: Configured) -> None:
    running = configured(forks='1')
    (before,) = handlers(running)
    with calling(running), socket.create_connection(('127.0.0.1', int(running.address.rpartition(':')[2]))) as slow:
        slow.sendall(b'POST /XMLRPC HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\n')
        slow.sendall(b'Expect: 100-continue\r\n\r\n')
        assert slow.recv(100).startswith(b'HTTP/1.1 100 ')  # the request has begun
        reload(running)
        assert before.alive()
        slow.sendall(b'<nothing>')
        assert slow.recv(100).startswith(b'HTTP/1.1 ')
        poll(lambda: not before.alive(), 20, running.log)


def test_the_number_of_handlers(configured: Configured) -> None:
    running = configured(forks='1')
    for count in (3, 2):
        change(running, forks=str(count))
        reload(running)
        poll(lambda count=count: len(handlers(running)) == count, 20, running.log)


def test_a_daemon_that_serves_alone_says_that_it_takes_a_restart(configured: Configured) -> None:
    running = configured(forks='-1')
    running.send(signal.SIGHUP)
    poll(lambda: 'SIGHUP is ignored: restart nipapd' in running.log(), 20, running.log)
    assert call(running, 'version')


# changed settings


def test_a_configuration_that_cannot_be_used_changes_nothing(configured: Configured) -> None:
    running = configured()
    before = handlers(running)
    with calling(running):
        change(running, forks='many')
        assert '[nipapd] forks = many: not a number of handlers' in refuse(running)
        with socket.socket() as taken:
            taken.bind(('127.0.0.1', 0))
            taken.listen()
            port = taken.getsockname()[1]
            change(running, forks='1', listen='127.0.0.1', ssl_port=str(port), ssl_cert_file='/nowhere')
            assert '[nipapd] ssl_cert_file = /nowhere: No such file or directory' in refuse(running)
    assert handlers(running) == before


def test_limits_and_levels(configured: Configured) -> None:
    running = configured()
    change(running, max_body='1k', debug='true', drain_timeout='7')
    reload(running)
    with pytest.raises(xmlrpc.client.ProtocolError) as refused:
        call(running, 'echo', message='x' * 2000)
    assert refused.value.errcode == 413
    assert ' DEBUG ' in running.log()
    running.send(signal.SIGTERM)
    assert running.wait() == 0
    assert 'handlers have 8 s to finish' in running.log()


def test_settings_that_take_a_restart_are_named_and_ignored(
    configured: Configured, make_dir: Callable[[], Path]
) -> None:
    running = configured()
    change(running, pid_file=str(make_dir() / 'pid'), postgres_user='root', forks='-1', db_host='', db_name='')
    change(running, db_port='', db_user='')
    reload(running)
    for key in ('pid_file', 'postgres_user', 'forks', 'db_host', 'db_name'):
        assert f'[nipapd] {key}: the changed value is ignored until a restart' in running.log()
    poll(lambda: len(handlers(running)) == 2, 20, running.log)
    assert call(running, 'list_vrf', vrf={'id': 0})


def test_accounts_of_another_file(configured: Configured) -> None:
    running = configured()
    path = Path(running.args[running.args.index('-c') + 1])
    path.write_text(f'{path.read_text()}\n[auth.backends.local]\ndb_path = other.db\n')
    reload(running)
    with pytest.raises((xmlrpc.client.Fault, xmlrpc.client.ProtocolError)):
        call(running, 'version')
    data_dir = Path(running.args[running.args.index('--data-dir') + 1])
    (data_dir / 'local_auth.db').rename(data_dir / 'other.db')
    assert call(running, 'version')


def test_another_database(configured: Configured, empty_dsn: str) -> None:
    running = configured()
    assert call(running, 'add_vrf', attr={'rt': '65000:1', 'name': 'there'})
    change(running, **options_of(empty_dsn))
    assert 'the database has no schema' in refuse(running)
    assert len(call(running, 'list_vrf', vrf={})) == 2
    schema.install(empty_dsn)
    reload(running)
    poll(lambda: len(handlers(running)) == 2, 20, running.log)
    assert len(call(running, 'list_vrf', vrf={})) == 1


def test_a_configuration_that_is_named_relatively_in_the_background(
    daemon: DaemonFactory, database_options: dict[str, str], make_dir: Callable[[], Path]
) -> None:
    directory, pid_file = make_dir(), make_dir() / 'pid'
    lines = ''.join(f'{key} = {value}\n' for key, value in database_options.items())
    (directory / 'own.conf').write_text(f'[nipapd]\nforks = 1\nforeground = false\n{lines}')
    relative = os.path.relpath(directory / 'own.conf', '/')  # tests start daemons in /
    data_dir = make_dir()
    caller = daemon('-c', relative, '-P', str(pid_file), data_dir=data_dir)
    assert caller.wait() == 0
    try:
        os.kill(int(pid_file.read_text()), signal.SIGHUP)
        log = data_dir / 'nipapd.log'
        poll(lambda: log.read_text().count(TAKEN_OVER) == 2, 20, log.read_text)
    finally:
        os.kill(int(pid_file.read_text()), signal.SIGTERM)
        caller.await_no_children()


# addresses and certificates


def refuses(port: int) -> bool:
    try:
        socket.create_connection(('127.0.0.1', port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_other_ports_and_addresses(daemon: DaemonFactory, database_options: dict[str, str]) -> None:
    first, second = free_port(), free_port()
    running = daemon(config={'nipapd': {'forks': '2', **database_options}}, start=False)
    del running.args[running.args.index('-l') :][:4]
    running.args = [*running.args[:2], '-c', running.args[-1]]
    change(running, port=str(first))
    running.start()
    assert running.address == f'http://127.0.0.1:{first}'
    change(running, listen='127.0.0.1, 127.0.0.2')
    with calling(running):
        reload(running)
        assert call(running, 'version', f'http://127.0.0.2:{first}')
    change(running, port=str(second), listen='127.0.0.1')
    reload(running)
    assert call(running, 'version', f'http://127.0.0.1:{second}')
    poll(lambda: refuses(first), 20, lambda: f'{first} is still open')
    with socket.socket() as taken:
        taken.bind(('127.0.0.2', 0))
        taken.listen()
        change(running, listen='127.0.0.1, 127.0.0.2', port=str(taken.getsockname()[1]))
        assert refuse(running).startswith('cannot listen on 127.0.0.2 port ')
        assert refuses(taken.getsockname()[1])
    assert call(running, 'version', f'http://127.0.0.1:{second}')


def make_certificate(directory: Path, name: str) -> None:
    command = ['openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes']
    command += ['-days', '2', '-subj', f'/CN={name}', '-addext', 'subjectAltName=IP:127.0.0.1']
    command += ['-out', str(directory / 'cert.pem'), '-keyout', str(directory / 'key.pem')]
    subprocess.run(command, check=True, capture_output=True)


def test_a_renewed_certificate(configured: Configured, make_dir: Callable[[], Path]) -> None:
    directory, port = make_dir(), free_port()
    make_certificate(directory, 'first')
    files = {'ssl_cert_file': str(directory / 'cert.pem'), 'ssl_key_file': str(directory / 'key.pem')}
    running = configured('-s', str(port), **files)
    former = ssl.get_server_certificate(('127.0.0.1', port))
    make_certificate(directory, 'second')
    reload(running)
    poll(lambda: len(handlers(running)) == 2, 20, running.log)
    renewed = ssl.get_server_certificate(('127.0.0.1', port))
    assert renewed != former
    assert renewed.split() == (directory / 'cert.pem').read_text().split()
    trusting = ssl.create_default_context(cafile=str(directory / 'cert.pem'))
    with (
        pytest.raises(urllib.error.HTTPError) as answered,
        urllib.request.urlopen(f'https://127.0.0.1:{port}/nothing', context=trusting, timeout=20),
    ):
        pass
    answered.value.close()


@pytest.mark.skipif(os.geteuid() != 0, reason='only root can become another account')
def test_handlers_of_another_account_beside_their_own_database(
    daemon: DaemonFactory, make_dir: Callable[[], Path]
) -> None:
    running = daemon(config={'nipapd': {'forks': '1', 'user': 'nobody'}}, data_dir=make_dir())
    before = handlers(running)
    with calling(running):
        reload(running)
        poll(lambda: not before & handlers(running), 20, running.log)
    nobody = pwd.getpwnam('nobody').pw_uid
    assert {os.stat(f'/proc/{process.pid}').st_uid for process in running.children()} == {nobody}
    assert call(running, 'list_vrf', vrf={'id': 0})


def can_mount() -> bool:
    """Return whether this account may mount a file system that no other process sees."""
    command = ['unshare', '--mount', 'mount', '-t', 'tmpfs', 'none', '/mnt']
    return bool(shutil.which('unshare')) and not subprocess.run(command, capture_output=True).returncode


@pytest.mark.skipif(not can_mount(), reason='this account may not mount a file system')
def test_a_daemon_that_has_given_up_root_keeps_its_accounts(configured: Configured) -> None:
    """Without --data-dir a daemon that root starts keeps its accounts in /var/lib/nipap, unlike other users."""
    running = daemon_without_data_dir(configured, user='postgres')
    running.through = ['unshare', '--mount', 'sh', '-c', 'mount -t tmpfs none /var/lib && exec "$@"', 'sh']
    running.start()
    # The directory is on a file system that this process does not see.
    running.user = 'admin', Path(f'/proc/{running.pid}/root/var/lib/nipap/first-password').read_text().rstrip('\n')
    assert call(running, 'version')
    reload(running)
    assert call(running, 'version')
    assert 'cannot be read' not in running.log()


def daemon_without_data_dir(configured: Configured, **settings: str) -> Daemon:
    made = configured(start=False, **settings)
    position = made.args.index('--data-dir')
    del made.args[position : position + 2]
    return made
