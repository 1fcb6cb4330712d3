"""The whole daemon: real processes, real signals, real sockets, a real database."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import pwd
import re
import signal
import socket
import ssl
import threading
import xmlrpc.client
from pathlib import Path
from typing import Any

import pytest
from daemon_process import Daemon, free_port
from support import DaemonFactory
from talking import (
    Client,
    Configured,
    answers,
    as_root,
    await_that,
    call,
    client,
    connections,
    handlers,
    postgres,
    user_id,
)

from nipap import __version__
from nipapd.server import Container, Server

pytestmark = pytest.mark.slow

# replaced handlers


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
    """Adds prefixes one after the other and records the acknowledged ones."""

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
            # The standard client resends a call when its connection ends: then the first call may have been done.
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


# the end of the daemon


@pytest.mark.parametrize(('forks', 'number'), [('2', signal.SIGTERM), ('2', signal.SIGINT), ('-1', signal.SIGINT)])
def test_a_running_request_is_finished(configured: Configured, number: signal.Signals, forks: str) -> None:
    running = configured(forks=forks)
    with connections(running) as (connection,):
        connection.send('echo', message='finished', sleep=0.8)
        await_that(connection.was_read, 'request read')
        running.send(signal.SIGHUP)  # is ignored
        running.send(number)
        response = connection.response()
        assert response.headers['Connection'] == 'close' or response.version == 11
        assert b'finished' in response.read()
        assert running.wait() == 0
    running.await_no_children()


def test_requests_behind_a_running_one_are_answered_too(configured: Configured) -> None:
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
    """Return whether the signal was sent and not yet delivered."""
    status = Path(f'/proc/{pid}/status').read_text()
    masks = re.findall(r'^(?:SigPnd|ShdPnd):\s*([0-9a-f]+)$', status, re.MULTILINE)
    return any(int(mask, 16) >> number - 1 & 1 for mask in masks)


@pytest.mark.parametrize('forks', ['1', '-1'])
def test_the_deadline_ends_longer_calls(configured: Configured, forks: str) -> None:
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


# the private PostgreSQL


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
    # The server of the test admits this account besides root.
    owner = 'postgres'
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
def test_handlers_and_their_own_database_run_as_two_accounts(daemon: DaemonFactory, new_data_dir: Path) -> None:
    config = {'nipapd': {'forks': '2', 'user': 'daemon', 'postgres_user': 'nobody'}}
    running = daemon(config=config, data_dir=new_data_dir)
    assert user_id(postgres(running)) == pwd.getpwnam('nobody').pw_uid
    others = {user_id(process) for process in running.children()} - {user_id(postgres(running))}
    assert others == {pwd.getpwnam('daemon').pw_uid}
    assert answers(running)


# TLS


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


# the server


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
