"""Outages of PostgreSQL of every kind: faults with a code of their own within seconds, and no dead handler."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import xmlrpc.client
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extensions
import pytest
from callers import handlers
from daemon_process import Daemon, descendants_of, free_port, poll
from support import FAST, DaemonFactory, open_directories, options_of

from nipap.postgres import schema
from nipap.postgres.database import Database
from nipapd.embedded import EmbeddedPostgres

pytestmark = pytest.mark.slow

AUTH = {'authoritative_source': 'test'}
AWAY, UNKNOWN = 1010, 1020
# Calls wait for eight seconds, then for the attempt under way; add some time for a busy machine.
LONGEST_S = 14.0
LONGEST_UNKNOWN_S = 20.0
BACK_WITHIN_S = 2.0
EVENTS_WITHIN_S = 15

Call = Callable[[xmlrpc.client.ServerProxy], Any]
MakeServer = Callable[..., EmbeddedPostgres]


def read(server: xmlrpc.client.ServerProxy) -> Any:
    return server.list_vrf({'auth': AUTH})


def change(server: xmlrpc.client.ServerProxy) -> Any:
    """Change a prefix in one message; the change can be repeated."""
    prefix = {'auth': AUTH, 'prefix': {'id': 1}, 'attr': {'comment': os.urandom(4).hex()}}
    return server.edit_prefix(prefix)


def change_in_transaction(server: xmlrpc.client.ServerProxy) -> Any:
    return server.edit_vrf({'auth': AUTH, 'vrf': {'id': 0}, 'attr': {'description': os.urandom(4).hex()}})


EVERY_KIND = (read, change, change_in_transaction)


@contextlib.contextmanager
def proxy(daemon: Daemon) -> Iterator[xmlrpc.client.ServerProxy]:
    with xmlrpc.client.ServerProxy(daemon.url(*daemon.admin()), allow_none=True) as server:
        yield server


class Made(threading.Thread):
    """A call in a thread, with the code of its fault, or 0, and its duration."""

    def __init__(self, daemon: Daemon, call: Call) -> None:
        super().__init__()
        self.code: int | None = None
        self.took_s = 0.0
        self._daemon, self._call = daemon, call
        self.start()

    def run(self) -> None:
        began = time.monotonic()
        with proxy(self._daemon) as server:
            try:
                self._call(server)
                self.code = 0
            except xmlrpc.client.Fault as fault:
                self.code = fault.faultCode
        self.took_s = time.monotonic() - began


def made(daemon: Daemon, *calls: Call) -> list[Made]:
    """Make calls concurrently; return them when all have ended."""
    threads = [Made(daemon, call) for call in calls]
    for thread in threads:
        thread.join()
    return threads


def codes(calls: list[Made]) -> list[int | None]:
    return [call.code for call in calls]


def assert_back(daemon: Daemon) -> None:
    """Check that every kind of call works, and quickly."""
    calls = made(daemon, *EVERY_KIND)
    assert codes(calls) == [0] * len(calls), daemon.log()
    assert max(call.took_s for call in calls) < BACK_WITHIN_S


@contextlib.contextmanager
def undisturbed(daemon: Daemon) -> Iterator[None]:
    """Check that no handler dies during the block, and that no outage is logged as an error of ours."""
    before = handlers(daemon)
    yield
    assert handlers(daemon) == before
    assert 'Traceback' not in daemon.log()


def ask(dsn: str, statement: str) -> Any:
    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchone() if cursor.description else None
    finally:
        connection.close()


@contextlib.contextmanager
def stopped(*roots: int) -> Iterator[None]:
    """Stop these processes, and all their descendants, during the block."""
    pids = [*roots, *(process.pid for root in roots for process in descendants_of(root))]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def locked(dsn: str) -> Iterator[Callable[[], bool]]:
    """Make `change` wait for a lock during the block; yield a function that returns whether it waits."""
    waits = 'SELECT EXISTS (SELECT FROM pg_stat_activity WHERE cardinality(pg_blocking_pids(pid)) > 0)'
    holder = psycopg2.connect(dsn)
    try:
        with holder.cursor() as cursor:
            cursor.execute('SELECT FROM prefix WHERE id = 1 FOR UPDATE')
        yield lambda: bool(ask(dsn, waits)[0])
    finally:
        holder.close()


@pytest.fixture(scope='module')
def make_server(cluster: EmbeddedPostgres) -> Iterator[MakeServer]:
    """Yield a factory of servers that these tests may stop."""
    servers = []
    installation = cluster.installation
    assert installation is not None

    def make(home: Path | None = None, **settings: str) -> EmbeddedPostgres:
        given = {**FAST, **settings}
        server = EmbeddedPostgres(home or make_dir() / 'pg', bindir=str(installation.bindir), settings=given)
        servers.append(server)
        return server.start()

    with open_directories() as make_dir:
        yield make
        for server in servers:
            server.stop()


@pytest.fixture(scope='module')
def server(make_server: MakeServer) -> EmbeddedPostgres:
    """Return a server with the schema."""
    server = make_server()
    schema.install(server.dsn())
    return server


@pytest.fixture
def serve(daemon: DaemonFactory) -> Callable[[Mapping[str, str]], Daemon]:
    """Return a function that runs a daemon with one handler and a prefix to edit, and makes one call of every kind."""

    def start(database: Mapping[str, str]) -> Daemon:
        # Without events: log lines of the process that delivers events are not counted here.
        running = daemon(config={'nipapd': {'forks': '1', 'events': 'false', **database}})
        # Another test may have added the prefix.
        with proxy(running) as server, contextlib.suppress(xmlrpc.client.Fault):
            block = {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'd'}
            server.add_prefix({'auth': AUTH, 'attr': block})
        assert_back(running)
        return running

    return start


Serve = Callable[[Mapping[str, str]], Daemon]


@pytest.fixture
def serve_by_default(daemon: DaemonFactory) -> Serve:
    """Return a function that runs a daemon as `serve` does, with all processes of the default configuration."""

    def start(database: Mapping[str, str]) -> Daemon:
        running = daemon('--admin-port', str(free_port()), config={'nipapd': dict(database)})
        with proxy(running) as server, contextlib.suppress(xmlrpc.client.Fault):
            block = {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'd'}
            server.add_prefix({'auth': AUTH, 'attr': block})
        assert_back(running)
        return running

    return start


def postmaster(server: EmbeddedPostgres) -> int:
    assert server.proc is not None
    return server.proc.pid


# ---------------------------------------------------------------- stopped servers


def test_stopped_it_is_away_and_back_by_itself(server: EmbeddedPostgres, serve: Serve) -> None:
    running = serve(options_of(server.dsn()))
    with undisturbed(running):
        server.stop()
        calls = made(running, *EVERY_KIND)
        assert codes(calls) == [AWAY] * 3
        assert max(call.took_s for call in calls) < LONGEST_S
        # A call that begins after a long outage fails early: calls do not pile up.
        assert [(call.code, call.took_s < 4) for call in made(running, *EVERY_KIND * 5)] == [(AWAY, True)] * 15
        server.start()
        assert_back(running)
    told_by = re.findall(r'\[(\d+)\] INFO \S+ PostgreSQL is away', running.log())
    assert told_by
    assert len(told_by) == len(set(told_by))  # one line for each process that has noticed the outage


def test_sign_ins_of_an_outage_are_logged_afterwards(server: EmbeddedPostgres, serve: Serve) -> None:
    running = serve(options_of(server.dsn()))
    server.stop()
    for name in ('ann', 'bob', 'bob'):
        with (
            xmlrpc.client.ServerProxy(running.url(name, 'wrong')) as wrong,
            pytest.raises(xmlrpc.client.Fault) as refused,
        ):
            wrong.version({'auth': AUTH})
        assert refused.value.faultCode == 1510
    server.start()
    sql = "SELECT sum(count)::int FROM sign_in WHERE outcome = 'unknown_user'"
    with contextlib.closing(Database(server.dsn())) as db:
        poll(lambda: db.read(lambda tx: tx.value(sql)) == 3, 30, running.log)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGKILL], ids=['restarted', 'killed'])
def test_calls_wait_for_a_restart(server: EmbeddedPostgres, serve: Serve, number: signal.Signals) -> None:
    running = serve(options_of(server.dsn()))
    with undisturbed(running):
        os.kill(postmaster(server), number)
        assert server.proc is not None
        server.proc.wait()
        threads = [Made(running, call) for call in EVERY_KIND]
        server.start()
        came_back = time.monotonic()
        for thread in threads:
            thread.join()
        assert codes(threads) == [0] * 3
        assert time.monotonic() - came_back < BACK_WITHIN_S


def test_cut_connections_are_nobodys_business(dsn: str, serve: Serve) -> None:
    cut = 'SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> '
    running = serve(options_of(dsn))
    with undisturbed(running):
        for _ in range(3):
            ask(dsn, f'{cut} pg_backend_pid()')
            assert_back(running)


# ---------------------------------------------------------------- servers that do not answer


def test_hung_it_is_given_up(server: EmbeddedPostgres, serve: Serve) -> None:
    running = serve(options_of(server.dsn()))
    with undisturbed(running), locked(server.dsn()) as is_waited_for:
        sent = Made(running, change)
        poll(is_waited_for, 10, lambda: 'no change has come to PostgreSQL')
        with stopped(postmaster(server)):
            threads = [Made(running, read), sent, Made(running, change_in_transaction)]
            with proxy(running) as other:  # calls without the database go on meanwhile
                for _ in range(20):
                    began = time.monotonic()
                    other.echo({'auth': AUTH, 'message': 'm'})
                    assert time.monotonic() - began < 0.5
                    time.sleep(0.1)  # a part of the time of the outage
            for thread in threads:
                thread.join()
        assert codes(threads) == [AWAY, UNKNOWN, AWAY]
        assert [thread.took_s < LONGEST_UNKNOWN_S for thread in threads] == [True] * 3
        assert threads[0].took_s < LONGEST_S
    assert_back(running)


def test_a_long_change_is_no_hung_one(dsn: str, serve: Serve) -> None:
    running = serve(options_of(dsn))
    with undisturbed(running):
        with locked(dsn):
            thread = Made(running, change)
            thread.join(7)  # longer than the time until the probe
            assert thread.is_alive()
        thread.join()
        assert thread.code == 0


def test_an_unreachable_host_is_given_up(serve: Serve, server: EmbeddedPostgres) -> None:
    """A listener that accepts no more connections looks like a missing host."""
    running = serve(options_of(server.dsn()))
    path = psycopg2.extensions.parse_dsn(server.dsn())['host'] + '/.s.PGSQL.5432'
    with undisturbed(running):
        server.stop()
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(path)
            os.chmod(path, 0o777)
            silent.listen()
            calls = made(running, *EVERY_KIND * 4)
        os.unlink(path)
        assert codes(calls) == [AWAY] * 12
        assert max(call.took_s for call in calls) < LONGEST_S
        server.start()
        assert_back(running)


# ---------------------------------------------------------------- servers that refuse


def test_out_of_connections(make_server: MakeServer, serve: Serve) -> None:
    server = make_server(max_connections='12', superuser_reserved_connections='1', max_wal_senders='0')
    schema.install(server.dsn())
    running = serve(options_of(server.dsn()))
    with undisturbed(running), contextlib.ExitStack() as held:
        ask(server.dsn(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'nipap' "
            'AND pid <> pg_backend_pid()')  # fmt: skip
        with contextlib.suppress(psycopg2.OperationalError):
            while True:
                held.callback(psycopg2.connect(server.dsn()).close)
        calls = made(running, *EVERY_KIND)
        assert codes(calls) == [AWAY] * 3
        assert max(call.took_s for call in calls) < LONGEST_S
        held.close()
        assert_back(running)
    assert 'too many clients' in running.log()


def test_read_only_it_is_read(server: EmbeddedPostgres, serve: Serve) -> None:
    running = serve(options_of(server.dsn()))
    with undisturbed(running):
        ask(server.dsn(), 'ALTER DATABASE nipap SET default_transaction_read_only = on')
        ask(server.dsn('postgres'), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'nipap'")
        calls = made(running, *EVERY_KIND)
        assert codes(calls) == [0, AWAY, AWAY]
        assert max(call.took_s for call in calls) < LONGEST_S
        ask(server.dsn('postgres'), 'ALTER DATABASE nipap RESET default_transaction_read_only')
        assert_back(running)


FILLING = """CREATE TABLE filled (t text);
CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN INSERT INTO filled VALUES ('x'); RETURN NULL; END $$;
CREATE TRIGGER fill AFTER INSERT ON audit_log FOR EACH STATEMENT EXECUTE FUNCTION fill();
CHECKPOINT"""


def test_without_space_changes_are_refused_at_once(server: EmbeddedPostgres, serve: Serve) -> None:
    """A table that each change writes to lies on a device that is always full."""
    running = serve(options_of(server.dsn()))
    for statement in FILLING.split(';\n'):
        ask(server.dsn(), statement)
    file = server.data / ask(server.dsn(), "SELECT pg_relation_filepath('filled')")[0]
    server.stop()
    kept = file.rename(file.with_suffix('.kept'))
    file.symlink_to('/dev/full')
    server.start()
    with undisturbed(running):
        calls = made(running, *EVERY_KIND)
        assert codes(calls) == [0, AWAY, AWAY], running.log()
        assert max(call.took_s for call in calls) < BACK_WITHIN_S
        server.stop()
        file.unlink()
        kept.rename(file)
        server.start()
        assert_back(running)
    assert 'No space left on device' in running.log()
    ask(server.dsn(), 'DROP TABLE filled; DROP FUNCTION fill CASCADE')


@contextlib.contextmanager
def small_wal(server: EmbeddedPostgres) -> Iterator[Path]:
    """Put the write-ahead log on a file system of its own during the block, with room for a few segments."""
    server.stop()
    wal = server.data / 'pg_wal'
    kept = wal.rename(server.data / 'pg_wal.kept')
    owner = kept.stat()
    wal.mkdir()
    mount = ['mount', '-t', 'tmpfs', '-o', f'size=64m,mode=700,uid={owner.st_uid},gid={owner.st_gid}', 'none', str(wal)]
    subprocess.run(mount, check=True)
    try:
        shutil.copytree(kept, wal, dirs_exist_ok=True, copy_function=copy_owned)
        server.start()
        yield wal
        server.stop()
    finally:
        subprocess.run(['umount', '--lazy', str(wal)], check=True)


def copy_owned(source: str, target: str) -> None:
    shutil.copy2(source, target)
    os.chown(target, os.stat(source).st_uid, os.stat(source).st_gid)


@pytest.mark.skipif(os.geteuid() != 0, reason='only root can mount a small file system')
def test_without_space_for_the_write_ahead_log(make_server: MakeServer, serve: Serve) -> None:
    """PostgreSQL ends itself then, and may not start again; with space it starts, and has all acknowledged changes."""
    server = make_server(synchronous_commit='on')
    schema.install(server.dsn())
    with small_wal(server) as wal:
        running = serve(options_of(server.dsn()))
        with undisturbed(running):
            sent = [ask(server.dsn(), 'SELECT comment FROM prefix WHERE id = 1')[0]]
            with open(wal / 'big', 'wb', buffering=0) as big, contextlib.suppress(OSError):
                while True:
                    big.write(bytes(2**16))
            # Each comment is a megabyte, since random bytes cannot be compressed to less.
            while len(sent) < 50:
                sent.append(os.urandom(10**6).hex())
                attr = {'comment': sent[-1]}
                (call,) = made(
                    running, lambda c, attr=attr: c.edit_prefix({'auth': AUTH, 'prefix': {'id': 1}, 'attr': attr})
                )
                if call.code:
                    break
            assert call.code in (AWAY, UNKNOWN), running.log()
            assert call.took_s < LONGEST_UNKNOWN_S
            calls = made(running, *EVERY_KIND)
            assert set(codes(calls)) <= {0, AWAY, UNKNOWN}, running.log()
            assert max(call.took_s for call in calls) < LONGEST_UNKNOWN_S
            (wal / 'big').unlink()
            server.start()
            kept = ask(server.dsn(), 'SELECT comment FROM prefix WHERE id = 1')[0]
            assert kept in sent[-2:] or calls[1].code != AWAY
            assert_back(running)
    assert 'No space left on device' in (server.home / 'postgresql.log').read_text()


# ---------------------------------------------------------------- all processes of the default configuration


@contextlib.contextmanager
def down(server: EmbeddedPostgres) -> Iterator[list[int]]:
    """Stop the server during the block; yield the expected codes of `EVERY_KIND`."""
    server.stop()
    yield [AWAY, AWAY, AWAY]
    server.start()


@contextlib.contextmanager
def read_only(server: EmbeddedPostgres) -> Iterator[list[int]]:
    ask(server.dsn(), 'ALTER DATABASE nipap SET default_transaction_read_only = on')
    ask(server.dsn('postgres'), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'nipap'")
    yield [0, AWAY, AWAY]
    ask(server.dsn('postgres'), 'ALTER DATABASE nipap RESET default_transaction_read_only')


def assert_events(server: EmbeddedPostgres, running: Daemon) -> None:
    """Check that changes become events soon: a change that may have been looked for already, and a later one."""
    last = 'SELECT EXISTS (SELECT FROM event WHERE audit_id = (SELECT max(id) FROM audit_log))'
    for _ in range(2):
        assert codes(made(running, change)) == [0]
        poll(lambda: ask(server.dsn(), last)[0], EVENTS_WITHIN_S, lambda: f'no events:\n{running.log()}')


@pytest.mark.parametrize('outage', [down, read_only])
def test_no_process_dies(
    server: EmbeddedPostgres,
    serve_by_default: Serve,
    outage: Callable[[EmbeddedPostgres], contextlib.AbstractContextManager[list[int]]],
) -> None:
    """There are a handler for each core, the admin port and the delivery of events, which continues where it was."""
    running = serve_by_default(options_of(server.dsn()))
    before = running.children()
    assert len(before) == (os.cpu_count() or 1) + 2, before
    with outage(server) as expected:
        for _ in range(2):
            calls = made(running, *EVERY_KIND * 2)
            assert codes(calls) == expected * 2, running.log()
            assert max(call.took_s for call in calls) < LONGEST_S
    assert_back(running)
    assert_events(server, running)
    assert running.children() == before
    assert 'Traceback' not in running.log()


def test_events_go_on_soon_after_an_outage_that_calls_wait_for(
    server: EmbeddedPostgres, serve_by_default: Serve
) -> None:
    running = serve_by_default(options_of(server.dsn()))
    assert_events(server, running)
    server.stop()
    threads = [Made(running, call) for call in EVERY_KIND]
    threads[0].join(5)
    server.start()
    for thread in threads:
        thread.join()
    assert codes(threads) == [0] * 3, running.log()
    assert_events(server, running)


# ---------------------------------------------------------------- another server takes over


def test_a_promoted_standby_is_followed(make_server: MakeServer, make_dir: Callable[[], Path], serve: Serve) -> None:
    """The primary hangs and its standby is promoted: the daemon uses the standby, with all acknowledged changes."""
    primary = make_server()
    schema.install(primary.dsn())
    standby = make_standby(primary, make_dir() / 'pg', make_server)
    hosts = ','.join(psycopg2.extensions.parse_dsn(each.dsn())['host'] for each in (standby, primary))
    running = serve({'db_host': hosts, 'db_name': 'nipap', 'db_user': 'postgres'})
    with undisturbed(running), proxy(running) as client:
        client.add_vrf({'auth': AUTH, 'attr': {'name': 'kept', 'rt': '1:1'}})
        position = ask(primary.dsn(), 'SELECT pg_current_wal_insert_lsn()')[0]
        poll(lambda: ask(standby.dsn(), f"SELECT pg_last_wal_replay_lsn() >= '{position}'")[0], 20, lambda: 'not there')
        with stopped(postmaster(primary)):
            ask(standby.dsn(), 'SELECT pg_promote()')
            calls = made(running, *EVERY_KIND)
            assert codes(calls) == [0] * 3, running.log()
            assert max(call.took_s for call in calls) < LONGEST_S
            assert_back(running)
            names = [vrf['name'] for vrf in read(client)]
        assert 'kept' in names


def test_a_switchover_is_followed(make_server: MakeServer, make_dir: Callable[[], Path], serve: Serve) -> None:
    """The primary is stopped, its standby is promoted, and the former primary returns at its address as a standby."""
    former = make_server()
    schema.install(former.dsn())
    standby = make_standby(former, make_dir() / 'pg', make_server)
    hosts = [psycopg2.extensions.parse_dsn(each.dsn())['host'] for each in (former, standby)]
    running = serve({'db_host': ','.join(hosts), 'db_name': 'nipap', 'db_user': 'postgres'})
    with undisturbed(running), proxy(running) as client:
        client.add_vrf({'auth': AUTH, 'attr': {'name': 'kept', 'rt': '1:1'}})
        allow_replication(standby)
        # The stop waits until the standby has received everything.
        former.stop()
        threads = [Made(running, call) for call in EVERY_KIND]
        ask(standby.dsn(), 'SELECT pg_promote()')
        follow(former, hosts[1])
        for thread in threads:
            thread.join()
        assert codes(threads) == [0] * 3, running.log()
        assert max(thread.took_s for thread in threads) < LONGEST_S
        assert_back(running)
        assert 'kept' in [vrf['name'] for vrf in read(client)]
        client.add_vrf({'auth': AUTH, 'attr': {'name': 'later', 'rt': '1:2'}})
        has_it = "SELECT pg_is_in_recovery() AND EXISTS (SELECT FROM vrf WHERE name = 'later')"
        poll(lambda: ask(former.dsn(), has_it)[0], 20, lambda: 'it does not follow')


def follow(server: EmbeddedPostgres, host: str) -> None:
    """Start a server as the standby of another."""
    (server.data / 'standby.signal').touch()
    with open(server.data / 'postgresql.auto.conf', 'a') as settings:
        settings.write(f"primary_conninfo = 'host={host} user=postgres'\n")
    server.start()


def allow_replication(server: EmbeddedPostgres) -> None:
    with open(server.home / 'pg_hba.conf', 'a') as rules:
        rules.write('local replication all peer map=nipapd\n')
    ask(server.dsn(), 'SELECT pg_reload_conf()')


def make_standby(primary: EmbeddedPostgres, home: Path, make_server: MakeServer) -> EmbeddedPostgres:
    """Return a running copy of a server that follows it."""
    assert primary.installation is not None
    home.mkdir()
    owner = primary.data.stat()
    os.chown(home, owner.st_uid, owner.st_gid)
    parts = psycopg2.extensions.parse_dsn(primary.dsn())
    command = [str(primary.installation.bindir / 'pg_basebackup'), '-D', str(home / 'data'), '-R', '-X', 'stream']
    command += ['--checkpoint=fast', '-h', parts['host'], '-p', parts['port'], '-U', 'postgres']
    account = {'user': owner.st_uid, 'group': owner.st_gid, 'extra_groups': []} if os.geteuid() == 0 else {}
    allow_replication(primary)
    subprocess.run(command, check=True, capture_output=True, cwd='/', **account)  # type: ignore[call-overload]
    shutil.copy(primary.home / 'postgresql.conf', home)
    return make_server(home, hot_standby='on')
