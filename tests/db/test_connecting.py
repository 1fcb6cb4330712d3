"""Connections: name look-ups that hang, descriptors beyond the range of select, sessions that stop answering."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extensions
import pytest
from daemon_process import poll

from nipap.errors import NipapOutcomeUnknownError, NipapUnavailableError
from nipap.postgres import connecting
from nipap.postgres import database as db
from nipap.postgres.connecting import NoAnswerError
from nipap.postgres.database import Database
from nipap.runtime import waiting
from nipap.runtime.runtime import Runtime
from nipapd.fibers import Fibers

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
MANY = 1100  # descriptors; select takes at most 1024

as_root = pytest.mark.skipif(os.geteuid() != 0, reason='only root can have a name server of its own')


class Hanging:
    """A host name whose look-up blocks until `end` is set; then the name resolves to this host."""

    def __init__(self) -> None:
        self.host = f'hangs-{os.urandom(4).hex()}.invalid'
        self.end = threading.Event()
        self._look_up = socket.getaddrinfo

    def getaddrinfo(self, host: Any, *args: Any, **options: Any) -> Any:
        if host == self.host:
            self.end.wait(60)
            host = '127.0.0.1'
        return self._look_up(host, *args, **options)


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hanging]:
    made = Hanging()
    monkeypatch.setattr(socket, 'getaddrinfo', made.getaddrinfo)
    yield made
    made.end.set()


def took_s(work: Callable[[], object]) -> float:
    began = time.monotonic()
    with contextlib.suppress(psycopg2.OperationalError):
        work()
    return time.monotonic() - began


def test_a_look_up_that_hangs_is_given_up_once(hanging: Hanging) -> None:
    dsn = f'host={hanging.host} dbname=x'
    with pytest.raises(NoAnswerError, match=f'the look-up of the host {hanging.host} has timed out'):
        connecting.targets(dsn)
    before = threading.active_count()
    assert took_s(lambda: connecting.targets(dsn)) < 1  # the look-up still hangs, and this is known
    assert threading.active_count() == before
    hanging.end.set()
    poll(lambda: threading.active_count() < before, 20, lambda: 'it hangs')
    (target,) = connecting.targets(dsn)
    assert psycopg2.extensions.parse_dsn(target)['hostaddr'] == '127.0.0.1'


def test_the_next_host_is_used_though_the_first_has_no_address_in_time(hanging: Hanging, dsn: str) -> None:
    parts = psycopg2.extensions.parse_dsn(dsn)
    database = Database(psycopg2.extensions.make_dsn(dsn, host=f'{hanging.host},{parts["host"]}'))
    began = time.monotonic()
    assert database.read(lambda tx: tx.value('SELECT 1')) == 1
    assert time.monotonic() - began < 2 * connecting.OPENING_S
    database.close()


def test_a_name_without_an_address_is_said_by_us() -> None:
    with pytest.raises(psycopg2.OperationalError, match='the host no host has no address: ') as error:
        connecting.targets("host='no host' dbname=x")
    assert not isinstance(error.value, NoAnswerError)


def test_others_go_on_while_a_look_up_hangs(hanging: Hanging, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db, 'PATIENCE_S', 0.5)
    database, ticks, said = Database(f'host={hanging.host} dbname=x'), [], []
    fibers = Fibers()

    def ask() -> None:
        with pytest.raises(NipapUnavailableError) as error:
            database.read(lambda tx: tx.value('SELECT 1'))
        said.append(error.value.why)

    def tick() -> None:
        while len(said) < 8:
            began = time.monotonic()
            waiting.aside(lambda: None)  # a password to be hashed
            waiting.sleep(0.01)
            ticks.append(time.monotonic() - began)

    async def main() -> None:
        for work in (*[ask] * 8, tick):
            fibers.start(work)
        while fibers.running:
            await asyncio.sleep(0.01)

    Runtime(fibers).enter()
    try:
        asyncio.run(asyncio.wait_for(main(), 30))
    finally:
        Runtime().enter()
    assert said == [f'the look-up of the host {hanging.host} has timed out'] * 8
    assert len(ticks) > 20
    assert max(ticks) < 1


@as_root
def test_a_name_server_that_says_nothing(tmp_path: Path) -> None:
    """A real name server that never answers, for a process with a /etc/resolv.conf of its own."""
    conf = tmp_path / 'resolv.conf'
    conf.write_text('nameserver 127.0.0.53\n')
    code = """
import time
from nipap.postgres.database import Database
from nipap.errors import NipapUnavailableError
began = time.monotonic()
try:
    Database('host=db.example.net dbname=x').read(lambda tx: tx.value('SELECT 1'))
except NipapUnavailableError as error:
    print(error.why, time.monotonic() - began < 15)
"""
    command = f'mount --bind {conf} /etc/resolv.conf && exec {sys.executable} -c "$0"'
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(('127.0.0.53', 53))
        silent.settimeout(60)
        said = subprocess.run(
            ['unshare', '--mount', 'sh', '-c', command, code],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, 'PYTHONPATH': str(REPOSITORY)},
        )
        assert silent.recv(1000)
    assert said.stdout == 'the look-up of the host db.example.net has timed out True\n', said.stderr


# ---- descriptors


def test_connections_have_any_descriptor(dsn: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * MANY), hard))
    held = [os.open('/dev/null', os.O_RDONLY) for _ in range(MANY)]
    database = Database(dsn)
    try:
        # The second query uses the existing session.
        for _ in range(2):
            assert database.read(lambda tx: tx.value('SELECT 1')) == 1
    finally:
        database.close()
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# one session that stops answering


@pytest.fixture
def limited(dsn: str) -> Iterator[Database]:
    """Yield a database that gives up a statement after 0.5 s though PostgreSQL answers other sessions."""
    database = Database(dsn, most_sessions=1, change_limit_s=0.5)
    connecting.use(Runtime(wait_for_postgresql=Fibers().wait_for_postgresql))
    yield database
    connecting.use(Runtime())
    database.close()


def backend_of(database: Database) -> int:
    return int(database.read(lambda tx: tx.value('SELECT pg_backend_pid()')))


def test_a_change_that_never_ends_is_given_up_with_its_locks(limited: Database, dsn: str, db: Database) -> None:
    began = time.monotonic()
    with pytest.raises(NipapUnavailableError, match='Nothing was changed') as error:
        limited.run(lambda tx: tx.execute('LOCK TABLE vrf; SELECT pg_sleep(1000)'))
    assert 'at its time limit' in error.value.why
    assert time.monotonic() - began < 25
    assert limited.in_use == 0
    db.run(lambda tx: tx.execute("SET LOCAL lock_timeout = '10s'; LOCK TABLE vrf"))
    assert limited.read(lambda tx: tx.value('SELECT 1')) == 1


def test_a_message_to_a_stopped_session_has_an_unknown_outcome(limited: Database) -> None:
    stopped = backend_of(limited)
    os.kill(stopped, signal.SIGSTOP)
    try:
        with pytest.raises(NipapOutcomeUnknownError):
            limited.run_at_once(add_asn, lambda tx, _: None)
        assert limited.in_use == 0
        assert backend_of(limited) != stopped
    finally:
        os.kill(stopped, signal.SIGCONT)
    # PostgreSQL was asked to end the session while the session stood still.
    poll(lambda: not Path(f'/proc/{stopped}').exists(), 20, lambda: 'it is there')


def add_asn(tx: Any) -> None:
    tx.ahead("INSERT INTO asn (asn, name) VALUES (1, 'one')")
    tx.execute('SELECT 1')
