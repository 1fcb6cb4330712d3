"""The whole daemon: real processes, real signals, real sockets, a real database."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import logging
import os
import pwd
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import xmlrpc.client
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from daemon_process import READY, Daemon, Process, free_port, poll
from psycopg2.extensions import parse_dsn
from support import DATABASE_OPTIONS, FAST, DaemonFactory, open_directories

from nipap import __version__, schema
from nipapd import logs
from nipapd.embedded import EmbeddedPostgres
from nipapd.server import Container, Server

as_root = pytest.mark.skipif(os.geteuid() != 0, reason='only root can become another account')

# Without a database of its own it starts in a fraction of the time; most tests do not care which one it is.
Configured = Callable[..., Daemon]


@pytest.fixture
def configured(daemon: DaemonFactory, database_options: dict[str, str]) -> Configured:
    """Makes daemons on the test's database: `configured(*args, start=True, **settings of [nipapd])`."""

    def make(*args: str, start: bool = True, data_dir: Path | None = None, **settings: str) -> Daemon:
        config = {'nipapd': {'forks': '2', **database_options, **settings}}
        return daemon(*args, config=config, start=start, data_dir=data_dir)

    return make


QUICK = 'fsync = off\nfull_page_writes = off\n'  # a test's data need not survive a power cut


@pytest.fixture(scope='module')
def prepared() -> Iterator[Path]:
    """A data directory with an installed database, made once."""
    with open_directories() as make:
        home = make()
        home.joinpath('postgresql.conf').write_text(QUICK)
        server = EmbeddedPostgres(home, settings=FAST).start()
        try:
            schema.install(server.dsn())
        finally:
            server.stop()
        yield home


@pytest.fixture
def data_dir(prepared: Path, make_dir: Callable[[], Path]) -> Path:
    """A data directory of the test's own with an installed database."""
    directory = make_dir()
    for source in prepared.iterdir():
        how = '-al' if source.name.startswith('binaries-') else '-a'
        subprocess.run(['cp', how, source, directory], check=True)
    return directory


@pytest.fixture
def new_data_dir(make_dir: Callable[[], Path]) -> Path:
    """A data directory in which PostgreSQL will not wait for the disk, and nothing else."""
    directory = make_dir()
    directory.joinpath('postgresql.conf').write_text(QUICK)
    return directory


def database_settings(dsn: str) -> dict[str, str]:
    parts = parse_dsn(dsn)
    return {f'db_{ours}': parts[libpq] for ours, libpq in DATABASE_OPTIONS.items()}


# speaking to it


class Client:
    """Calls over one connection, with the credentials of the first user."""

    def __init__(self, daemon: Daemon, context: ssl.SSLContext | None = None, url: str | None = None) -> None:
        user, password = daemon.admin()
        address = url or daemon.address
        address = address.replace('://', f'://{user}:{password}@', 1)
        self._proxy = xmlrpc.client.ServerProxy(f'{address}/XMLRPC', allow_none=True, context=context)

    def __call__(self, method: str, **members: object) -> Any:
        arguments = {'auth': {'authoritative_source': 'test'}, **members}
        return getattr(self._proxy, method)(arguments)

    def close(self) -> None:
        self._proxy('close')()


@contextlib.contextmanager
def client(daemon: Daemon, context: ssl.SSLContext | None = None, url: str | None = None) -> Iterator[Client]:
    made = Client(daemon, context, url)
    try:
        yield made
    finally:
        made.close()


def call(daemon: Daemon, method: str, **members: object) -> Any:
    with client(daemon) as ask:
        return ask(method, **members)


def answers(daemon: Daemon) -> bool:
    try:
        return bool(call(daemon, 'version') == __version__ and call(daemon, 'list_vrf', vrf={'id': 0}))
    except (OSError, http.client.HTTPException, xmlrpc.client.Error):
        return False


class Connection:
    """One HTTP connection, on which sending a request and reading its answer are two things."""

    def __init__(self, daemon: Daemon) -> None:
        user, password = daemon.admin()
        self._credentials = base64.b64encode(f'{user}:{password}'.encode()).decode()
        self._port = int(daemon.address.rpartition(':')[2])
        self._http = http.client.HTTPConnection('127.0.0.1', self._port, timeout=30)

    def send(self, method: str, **members: object) -> None:
        arguments = {'auth': {'authoritative_source': 'test'}, **members}
        body = xmlrpc.client.dumps((arguments,), method, allow_none=True)
        headers = {'Authorization': f'Basic {self._credentials}', 'Content-Type': 'text/xml'}
        self._http.request('POST', '/XMLRPC', body, headers)

    def response(self) -> http.client.HTTPResponse:
        return self._http.getresponse()

    def result(self) -> Any:
        (value,), _ = xmlrpc.client.loads(self.response().read())
        return value

    def call(self, method: str, **members: object) -> Any:
        self.send(method, **members)
        return self.result()

    def was_read(self) -> bool:
        """Whether the server has read everything that was sent: a request that runs, or is about to."""
        mine = f'{self._http.sock.getsockname()[1]:04X}'
        for line in Path('/proc/net/tcp').read_text().splitlines()[1:]:
            _, local, remote, state, queues, *_ = line.split()
            if local.endswith(f':{self._port:04X}') and remote.endswith(f':{mine}') and state == '01':
                return queues.split(':')[1] == '00000000'
        return False

    def close(self) -> None:
        self._http.close()


@contextlib.contextmanager
def connections(daemon: Daemon, count: int = 1) -> Iterator[list[Connection]]:
    """Connections that are established and known to a handler: each has made a call."""
    made = [Connection(daemon) for _ in range(count)]
    try:
        for connection in made:
            assert connection.call('version') == __version__
        yield made
    finally:
        for connection in made:
            connection.close()


def handlers(daemon: Daemon) -> list[Process]:
    return [process for process in daemon.children() if process.command.startswith('python')]


def postgres(daemon: Daemon) -> Process:
    """The first process of the daemon's own PostgreSQL."""
    return next(process for process in daemon.children() if process.command == 'postgres')


def await_that(condition: Callable[[], object], what: str, timeout_s: float = 40) -> None:
    poll(condition, timeout_s, lambda: f'in {timeout_s} s not: {what}')


def user_id(process: Process) -> int:
    return os.stat(f'/proc/{process.pid}').st_uid


# it starts


def test_without_configuration_it_has_a_database_and_a_user_of_its_own(
    daemon: DaemonFactory, new_data_dir: Path
) -> None:
    running = daemon(data_dir=new_data_dir)
    user, password = running.admin()
    assert user == 'admin'
    assert len(password) >= 16
    assert call(running, 'version') == __version__
    assert call(running, 'db_version') == schema.latest()
    call(running, 'add_prefix', attr={'prefix': '192.0.2.0/24', 'type': 'assignment', 'description': 'kept'})
    assert running.stop() == 0
    running.await_no_children()

    again = daemon(data_dir=new_data_dir)
    assert 'created user' not in again.log()
    with client(running, url=again.address) as ask:
        assert [prefix['description'] for prefix in ask('list_prefix', prefix={})] == ['kept']


def test_it_listens_where_it_says_and_on_the_local_host_only(
    make_dir: Callable[[], Path], database_options: dict[str, str]
) -> None:
    file = make_dir() / 'nipap.conf'
    lines = ''.join(f'{key} = {value}\n' for key, value in database_options.items())
    file.write_text(f'[nipapd]\nforks = 1\n{lines}')
    port = free_port()
    running = Daemon(['-c', str(file), '--data-dir', str(make_dir()), '-p', str(port)])
    try:
        running.start()
        assert running.address == f'http://127.0.0.1:{port}'
        rows = [line.split() for line in Path('/proc/net/tcp').read_text().splitlines()[1:]]
        listening = [row[1] for row in rows if row[3] == '0A' and row[1].endswith(f':{port:04X}')]
        assert listening == [f'0100007F:{port:04X}']
    finally:
        running.close()


def test_several_addresses(configured: Configured) -> None:
    running = configured('-l', '127.0.0.1,127.0.0.2', '-p', '0')
    urls = re.findall(r'serving on (\S+)', running.log())
    assert [url.rpartition(':')[0] for url in urls] == ['http://127.0.0.1', 'http://127.0.0.2']
    for url in urls:
        with client(running, url=url) as ask:
            assert ask('version') == __version__


def test_handlers_share_the_connections(configured: Configured) -> None:
    running = configured()
    with connections(running, 8):
        served = re.findall(r'nipapd\[(\d+)\] INFO nipap\.request: version ', running.log())
    assert len(served) == 8
    assert {int(pid) for pid in served} == {process.pid for process in handlers(running)}


def test_eight_daemons_install_one_database_at_once(daemon: DaemonFactory, empty_dsn: str) -> None:
    config = {'nipapd': {'forks': '1', **database_settings(empty_dsn)}}
    started = [daemon('--auto-install-db', config=config, start=False).spawn() for _ in range(8)]
    for running in started:
        await_that(lambda running=running: READY.search(running.log()), 'serving', 60)
        running.address = READY.findall(running.log())[0]
        assert call(running, 'db_version') == schema.latest()
    for running in started:
        running.send(signal.SIGTERM)


def test_a_database_without_schema_needs_permission_to_install(daemon: DaemonFactory, empty_dsn: str) -> None:
    config = {'nipapd': {'forks': '1', **database_settings(empty_dsn)}}
    refused = daemon(config=config, start=False).spawn()
    assert refused.wait() == 1
    assert refused.log() == (
        'nipapd: the database has no schema: create it with --auto-install-db or with nipap-admin migrate\n'
    )
    daemon('--auto-install-db', config=config)


def test_an_older_schema_needs_permission_to_upgrade(daemon: DaemonFactory, empty_dsn: str) -> None:
    schema.install(empty_dsn)
    with contextlib.closing(psycopg2.connect(empty_dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("UPDATE schema_functions SET fingerprint = 'older'")
    config = {'nipapd': {'forks': '1', **database_settings(empty_dsn)}}
    refused = daemon(config=config, start=False).spawn()
    assert refused.wait() == 1
    assert '--auto-upgrade-db or with nipap-admin migrate' in refused.log()
    daemon('--auto-upgrade-db', config=config)


def test_a_newer_schema_is_left_alone(daemon: DaemonFactory, empty_dsn: str) -> None:
    schema.install(empty_dsn)
    with contextlib.closing(psycopg2.connect(empty_dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO schema_migration (version, name) VALUES (9999, 'later')")
    config = {'nipapd': {'forks': '1', **database_settings(empty_dsn)}}
    refused = daemon('--auto-upgrade-db', config=config, start=False).spawn()
    assert refused.wait() == 1
    assert 'version 9999' in refused.log()


# it does not start


def test_a_bad_configuration_is_one_line_and_nothing_is_started(daemon: DaemonFactory, make_dir: Any) -> None:
    data_dir = make_dir()
    refused = daemon(config={'nipapd': {'port': 'many'}}, data_dir=data_dir, start=False).spawn()
    assert refused.wait() == 2
    assert re.fullmatch(r'nipapd: .*\[nipapd\] port = many.*\n', refused.log())
    assert list(data_dir.iterdir()) == []


def test_a_used_port_is_one_line_and_nothing_is_started(daemon: DaemonFactory, make_dir: Any) -> None:
    data_dir = make_dir()
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = daemon('-p', str(port), data_dir=data_dir, start=False).spawn()
        assert refused.wait() == 1
    assert refused.log() == f'nipapd: cannot listen on 127.0.0.1 port {port}: Address already in use\n'
    assert list(data_dir.iterdir()) == []


def test_a_database_that_does_not_answer_is_one_line(daemon: DaemonFactory, make_dir: Any) -> None:
    settings = {'db_host': str(make_dir()), 'db_name': 'nipap', 'db_user': 'nipap', 'db_pass': 'SECRET-db-pass'}
    refused = daemon(config={'nipapd': settings}, start=False).spawn()
    assert refused.wait() == 1
    assert re.fullmatch(r'nipapd: the database cannot be used: .*No such file or directory.*\n', refused.log())
    assert 'SECRET' not in refused.log()


def test_a_system_log_that_is_not_there_is_one_line(daemon: DaemonFactory) -> None:
    if logs.SYSLOG_SOCKET.exists():
        pytest.skip('this host has a system log')
    refused = daemon(config={'nipapd': {'syslog': 'true'}}, start=False).spawn()
    assert refused.wait() == 1
    assert refused.log() == 'nipapd: syslog is configured, but there is no /dev/log on this host\n'


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_it_can_be_stopped_while_it_starts(daemon: DaemonFactory, make_dir: Any, number: signal.Signals) -> None:
    data_dir = make_dir()
    starting = daemon(data_dir=data_dir, start=False).spawn()
    await_that(lambda: (data_dir / 'lock').exists(), 'starting PostgreSQL')
    starting.send(number)
    assert starting.wait() == 0
    starting.await_no_children()


# it says things and leaves


def run(*args: str) -> subprocess.CompletedProcess[str]:
    """The command, run to its end."""
    command = [sys.executable, '-m', 'nipapd', *args]
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd='/', timeout=60)


def test_the_version() -> None:
    assert run('--version').stdout == f'nipapd {__version__}\n'


def test_the_version_of_the_schema(daemon: DaemonFactory, data_dir: Path) -> None:
    assert run('--db-version', '--data-dir', str(data_dir)).stdout == f'{schema.latest()}\n'
    daemon(data_dir=data_dir, config={'nipapd': {'forks': '1'}})
    assert run('--db-version', '--data-dir', str(data_dir)).stdout == f'{schema.latest()}\n'


def test_there_is_no_version_of_no_schema(make_dir: Any) -> None:
    directory = make_dir()
    none = run('--db-version', '--data-dir', str(directory))
    assert (none.returncode, none.stdout) == (1, '')
    assert none.stderr == f'nipapd: there is no database in {directory} yet\n'
    assert list(directory.iterdir()) == []


# handlers come and go


def test_a_killed_handler_is_replaced(configured: Configured) -> None:
    running = configured()
    before = handlers(running)
    assert len(before) == 2
    os.kill(before[0].pid, signal.SIGKILL)
    await_that(lambda: len(handlers(running)) == 2 and before[0] not in handlers(running), 'two handlers again')
    assert before[1] in handlers(running)
    with connections(running, 8):
        pass
    assert re.search(r'WARNING nipapd\.prefork: handler [01] was killed by SIGKILL', running.log())
    assert ' DEBUG ' not in running.log()


class Writer(threading.Thread):
    """Adds prefixes one after the other and remembers those that were acknowledged."""

    def __init__(self, daemon: Daemon, number: int) -> None:
        super().__init__()
        self.acknowledged: list[str] = []
        self.refused: list[str] = []
        self._daemon = daemon
        self._number = number
        self.stop = threading.Event()

    def run(self) -> None:
        wanted = (f'10.{self._number}.{n // 256}.{n % 256}/32' for n in range(65536))
        while not self.stop.is_set():
            with client(self._daemon) as ask, contextlib.suppress(OSError, http.client.HTTPException):
                while not self.stop.is_set():
                    self._add(ask, next(wanted))

    def _add(self, ask: Client, prefix: str) -> None:
        try:
            ask('add_prefix', attr={'prefix': prefix, 'type': 'reservation', 'description': 'under load'})
        except xmlrpc.client.Fault as fault:
            # The standard client sends a call again when its connection ends: then the first may have been done.
            if fault.faultCode != 1400:
                self.refused.append(f'{prefix}: {fault.faultString}')
        else:
            self.acknowledged.append(prefix)


def test_killed_handlers_lose_no_acknowledged_change(configured: Configured) -> None:
    running = configured()
    writers = [Writer(running, number) for number in range(4)]
    for writer in writers:
        writer.start()

    def done() -> int:
        return sum(len(writer.acknowledged) for writer in writers)

    try:
        for _ in range(6):
            goal = done() + 40
            await_that(lambda goal=goal: done() >= goal, f'{goal} prefixes added', 60)
            os.kill(handlers(running)[0].pid, signal.SIGKILL)
    finally:
        for writer in writers:
            writer.stop.set()
        for writer in writers:
            writer.join()
    assert [refused for writer in writers for refused in writer.refused] == []
    with client(running) as ask:
        stored = {prefix['prefix'] for prefix in ask('list_prefix', prefix={'description': 'under load'})}
    acknowledged = {prefix.removesuffix('/32') for writer in writers for prefix in writer.acknowledged}
    assert acknowledged <= {prefix.removesuffix('/32') for prefix in stored}


# it stops


@pytest.mark.parametrize(('forks', 'number'), [('2', signal.SIGTERM), ('2', signal.SIGINT), ('-1', signal.SIGINT)])
def test_a_running_request_is_finished(configured: Configured, number: signal.Signals, forks: str) -> None:
    running = configured(forks=forks)
    with connections(running) as (connection,):
        connection.send('echo', message='finished', sleep=0.8)
        await_that(connection.was_read, 'request read')
        running.send(signal.SIGHUP)  # means nothing
        running.send(number)
        response = connection.response()
        assert response.headers['Connection'] == 'close' or response.version == 11
        assert b'finished' in response.read()
        assert running.wait() == 0
    running.await_no_children()


def test_requests_that_wait_behind_it_are_answered_too(configured: Configured) -> None:
    running = configured(forks='1')
    with connections(running, 4) as (first, *others):
        first.send('echo', message='first', sleep=0.8)
        await_that(first.was_read, 'request read')
        for number, connection in enumerate(others):
            connection.send('echo', message=f'other {number}')
        running.send(signal.SIGTERM)
        assert first.result() == 'first'
        assert [connection.result() for connection in others] == ['other 0', 'other 1', 'other 2']
        assert running.wait() == 0


def test_connections_that_wait_for_nothing_are_closed(configured: Configured) -> None:
    running = configured()
    with connections(running, 6):
        running.send(signal.SIGTERM)
        assert running.wait(15) == 0  # half of the deadline


def test_a_slow_reader_gets_the_whole_answer(configured: Configured) -> None:
    running = configured(forks='1')
    message = 'x' * 8_000_000
    with connections(running) as (connection,):
        connection.send('echo', message=message)
        response = connection.response()
        beginning = response.read(1000)
        running.send(signal.SIGTERM)
        await_that(lambda: 'stopping' in running.log(), 'stopping')
        assert message in (beginning + response.read()).decode()
    assert running.wait() == 0


@pytest.mark.parametrize('forks', ['2', '-1'])
def test_a_second_signal_ends_at_once(configured: Configured, forks: str) -> None:
    running = configured(forks=forks)
    with connections(running) as (connection,):
        connection.send('echo', sleep=100)
        await_that(connection.was_read, 'request read')
        running.send(signal.SIGTERM)
        if forks == '2':
            await_that(lambda: 'SIGTERM: stopping' in running.log(), 'stopping')
        else:
            await_that(lambda: pending(running.pid, signal.SIGTERM) is False, 'signal taken')
        running.send(signal.SIGINT)
        assert running.wait(15) == 3
    running.await_no_children()


def pending(pid: int, number: int) -> bool:
    """Whether the signal was sent and not yet delivered."""
    status = Path(f'/proc/{pid}/status').read_text()
    masks = re.findall(r'^(?:SigPnd|ShdPnd):\s*([0-9a-f]+)$', status, re.MULTILINE)
    return any(int(mask, 16) >> number - 1 & 1 for mask in masks)


@pytest.mark.parametrize('forks', ['1', '-1'])
def test_the_deadline_ends_what_takes_longer(configured: Configured, forks: str) -> None:
    running = configured(forks=forks, drain_timeout='0.5')
    with connections(running) as (connection,):
        connection.send('echo', sleep=100)
        await_that(connection.was_read, 'request read')
        running.send(signal.SIGTERM)
        assert running.wait(15) == 3
    running.await_no_children()


def test_a_killed_parent_leaves_nothing_and_the_next_start_finds_everything(
    daemon: DaemonFactory, data_dir: Path
) -> None:
    config = {'nipapd': {'forks': '2', 'drain_timeout': '0.5'}}
    running = daemon(data_dir=data_dir, config=config)
    assert call(running, 'add_vrf', attr={'rt': '65000:1', 'name': 'kept'})['name'] == 'kept'
    with connections(running) as (connection,):
        connection.send('echo', sleep=100)
        await_that(connection.was_read, 'request read')
        running.kill()
        running.await_no_children()
    again = daemon(data_dir=data_dir, config=config)
    with client(running, url=again.address) as ask:
        assert [vrf['name'] for vrf in ask('list_vrf', vrf={'rt': '65000:1'})] == ['kept']


# its PostgreSQL


@pytest.mark.parametrize('forks', ['1', '-1'])
def test_a_postgresql_that_died_is_started_again(daemon: DaemonFactory, data_dir: Path, forks: str) -> None:
    running = daemon(config={'nipapd': {'forks': forks}}, data_dir=data_dir)
    assert answers(running)
    died = postgres(running)
    os.kill(died.pid, signal.SIGKILL)
    await_that(lambda: not died.alive(), 'PostgreSQL dead')
    await_that(lambda: answers(running), 'an answer again')
    assert 'PostgreSQL has ended (status -9), starting it again' in running.log()
    assert postgres(running) != died


def test_a_daemon_that_shares_a_postgresql_takes_it_over(daemon: DaemonFactory, data_dir: Path) -> None:
    first = daemon(data_dir=data_dir)
    second = daemon(data_dir=data_dir)
    assert not any(process.command == 'postgres' for process in second.children())
    assert first.stop() == 0
    first.await_no_children()
    with client(first, url=second.address) as ask:

        def answered() -> bool:
            try:
                return bool(ask('list_vrf', vrf={'id': 0}))
            except (OSError, http.client.HTTPException, xmlrpc.client.Error):
                return False

        await_that(answered, 'an answer again')
    assert postgres(second)


# accounts of the host


@as_root
def test_handlers_run_as_the_configured_user_beside_their_own_database(
    daemon: DaemonFactory, new_data_dir: Path
) -> None:
    running = daemon(config={'nipapd': {'forks': '2', 'user': 'nobody'}}, data_dir=new_data_dir)
    nobody = pwd.getpwnam('nobody').pw_uid
    assert {user_id(process) for process in running.children()} == {nobody}
    assert answers(running)
    os.kill(postgres(running).pid, signal.SIGKILL)
    await_that(lambda: answers(running), 'an answer again')
    running.kill()
    running.await_no_children()


@as_root
def test_everything_runs_as_the_configured_user_beside_a_configured_database(
    configured: Configured, make_dir: Any, certificate: tuple[str, str]
) -> None:
    owner = 'postgres'  # the account that the test's server lets in besides root
    pid_file = make_dir() / 'nipapd.pid'
    tls = {'ssl_port': str(free_port()), 'ssl_cert_file': certificate[0], 'ssl_key_file': certificate[1]}
    running = configured('-P', str(pid_file), user=owner, group='nogroup', **tls)
    uid = pwd.getpwnam(owner).pw_uid
    everything = [running.pid, *(process.pid for process in running.children())]
    assert {os.stat(f'/proc/{pid}').st_uid for pid in everything} == {uid}
    assert answers(running)
    assert running.stop() == 0
    assert not pid_file.exists() or pid_file.read_text() == ''


@as_root
def test_an_account_that_could_not_reach_the_database_is_refused(daemon: DaemonFactory) -> None:
    config = {'nipapd': {'user': 'daemon', 'postgres_user': 'nobody'}}
    refused = daemon(config=config, start=False).spawn()
    assert refused.wait() == 1
    assert 'handlers that run as daemon cannot reach a PostgreSQL that runs as nobody' in refused.log()


# TLS


@pytest.fixture(scope='module')
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A certificate for 127.0.0.1 and its key, which only the owner can read."""
    directory = tmp_path_factory.mktemp('certificate')
    paths = str(directory / 'cert.pem'), str(directory / 'key.pem')
    command = ['openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', '/CN=localhost']
    command += ['-addext', 'subjectAltName=IP:127.0.0.1', '-out', paths[0], '-keyout', paths[1]]
    subprocess.run(command, check=True, capture_output=True)
    os.chmod(paths[1], 0o600)
    return paths


def test_tls_beside_plain_http(configured: Configured, certificate: tuple[str, str]) -> None:
    port = free_port()
    running = configured('-s', str(port), ssl_cert_file=certificate[0], ssl_key_file=certificate[1])
    assert f'nipapd: serving on https://127.0.0.1:{port}\n' in running.log()
    trusting = ssl.create_default_context(cafile=certificate[0])
    with client(running, trusting, f'https://127.0.0.1:{port}') as ask:
        assert ask('echo', message='secret') == 'secret'
        assert ask('version') == __version__
    assert call(running, 'version') == __version__
    distrusting = client(running, ssl.create_default_context(), f'https://127.0.0.1:{port}')
    with distrusting as ask, pytest.raises(ssl.SSLCertVerificationError):
        ask('version')
    with socket.create_connection(('127.0.0.1', port)) as plain:
        plain.sendall(b'GET / HTTP/1.0\r\n\r\n')
        with contextlib.suppress(ConnectionResetError):
            assert b'200' not in plain.recv(100)
    assert call(running, 'version') == __version__


def test_tls_stops_as_well(configured: Configured, certificate: tuple[str, str]) -> None:
    port = free_port()
    running = configured('-s', str(port), ssl_cert_file=certificate[0], ssl_key_file=certificate[1], forks='1')
    trusting = ssl.create_default_context(cafile=certificate[0])
    with client(running, trusting, f'https://127.0.0.1:{port}') as ask:
        assert ask('version') == __version__
        running.send(signal.SIGTERM)
        assert running.wait(15) == 0


# its server


def raising(_environ: object, _start_response: object) -> list[bytes]:
    raise RuntimeError('not even an answer')


def test_an_application_that_fails_is_answered_for(caplog: pytest.LogCaptureFixture) -> None:
    async def ask() -> bytes:
        server = Server(Container(raising))
        with socket.create_server(('127.0.0.1', 0)) as listener:
            listener.setblocking(False)
            server.listen_on([listener])
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(b'GET / HTTP/1.1\r\nHost: test\r\n\r\n')
            answer = await reader.readuntil(b'\r\n\r\n')
            server.stop_accepting()
            assert (await reader.read()).startswith(b'Internal error, request id ')
            writer.close()
            await server.drained()
        return answer

    answer = asyncio.run(ask())
    assert answer.startswith(b'HTTP/1.1 500 Internal Server Error\r\n')
    assert 'not even an answer' in caplog.text


# logs


def test_a_line_for_each_request_and_no_password(configured: Configured) -> None:
    running = configured('-d', db_pass='SECRET-of-the-database')
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
