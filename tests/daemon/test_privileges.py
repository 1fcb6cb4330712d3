"""The privileges of the processes of a daemon, and the access rights of the files that it makes."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import random
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
import xmlrpc.client
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from callers import await_calls, calling, change
from callers import handlers as handler_processes
from daemon_process import REPOSITORY, Daemon, poll
from forked import Forking
from keep_today import ACCOUNTS, KEPT
from programs import unpack_kept
from support import FAST, DaemonFactory, options_of
from upgrading import private_database

from nipap.access.local_users import LocalUser, LocalUsers
from nipap.postgres import schema
from nipapd import accounts, roles
from nipapd.binaries import account_named
from nipapd.config import load
from nipapd.embedded import OWNER, SERVICE, EmbeddedPostgres
from nipapd.identity import Identity

pytestmark = pytest.mark.slow

as_root = pytest.mark.skipif(os.geteuid() != 0, reason='only root can become another account')


def status(pid: int) -> dict[str, str]:
    """Return the status of a process in the kernel."""
    lines = Path(f'/proc/{pid}/status').read_text().splitlines()
    return {name: ' '.join(value.split()) for name, _, value in (line.partition(':') for line in lines)}


def handlers(daemon: Daemon) -> list[int]:
    return [process.pid for process in handler_processes(daemon)]


def data_directory(daemon: Daemon) -> Path:
    """Return the data directory of a daemon."""
    return Path(daemon.args[daemon.args.index('--data-dir') + 1])


def check_powerless(pid: int, uid: int, gid: int, groups: set[int]) -> None:
    """Check that all ids are those given, that no way leads back to root, and that no capability is left."""
    found = status(pid)
    assert found['Uid'] == ' '.join([str(uid)] * 4)
    assert found['Gid'] == ' '.join([str(gid)] * 4)
    assert set(map(int, found['Groups'].split())) == groups
    assert [int(found[name], 16) for name in ('CapInh', 'CapPrm', 'CapEff', 'CapAmb')] == [0, 0, 0, 0]
    assert found['NoNewPrivs'] == '1'


@as_root
def test_handlers_beside_their_own_database_have_no_privileges(daemon: DaemonFactory) -> None:
    running = daemon(config={'nipapd': {'forks': '2', 'user': 'nobody'}})
    account = pwd.getpwnam('nobody')
    groups = set(os.getgrouplist('nobody', account.pw_gid))
    assert len(handlers(running)) == 2
    for pid in handlers(running):
        check_powerless(pid, account.pw_uid, account.pw_gid, groups)


@as_root
def test_beside_a_configured_database_nobody_has(daemon: DaemonFactory, database_options: dict[str, str]) -> None:
    config = {'nipapd': {'forks': '2', 'user': 'postgres', 'group': 'nogroup', **database_options}}
    running = daemon(config=config)
    account, gid = pwd.getpwnam('postgres'), 65534
    groups = set(os.getgrouplist('postgres', gid))
    for pid in [running.pid, *handlers(running)]:
        check_powerless(pid, account.pw_uid, gid, groups)


FIRST_UNPRIVILEGED = int(Path('/proc/sys/net/ipv4/ip_unprivileged_port_start').read_text())


def privileged_ports() -> Iterator[int]:
    """Yield ports of 127.0.0.1 that only root can bind and that are unused at the moment."""
    for port in random.sample(range(512, FIRST_UNPRIVILEGED), FIRST_UNPRIVILEGED - 512):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(('127.0.0.1', port))
            yield port


@as_root
@pytest.mark.skipif(FIRST_UNPRIVILEGED < 1024, reason='anybody may bind any port here')
def test_a_privileged_port_is_bound_before_root_is_given_up(
    daemon: DaemonFactory, database_options: dict[str, str]
) -> None:
    """The account `nobody` serves the port and keeps it over a HUP, but could not bind it."""
    first, second = itertools.islice(privileged_ports(), 2)
    running = daemon(config={'nipapd': {'forks': '2', 'user': 'nobody', **database_options}}, start=False)
    del running.args[2:6]  # -l and -p
    change(running, listen='127.0.0.1', port=str(first))
    running.start()
    assert running.address == f'http://127.0.0.1:{first}'
    account = pwd.getpwnam('nobody')
    groups = set(os.getgrouplist('nobody', account.pw_gid))
    with calling(running) as callers:
        before = handler_processes(running)
        running.send(signal.SIGHUP)
        poll(lambda: not before & handler_processes(running), 40, running.log)
        await_calls(callers)
        for pid in [running.pid, *handlers(running)]:
            check_powerless(pid, account.pw_uid, account.pw_gid, groups)
        change(running, port=str(second))
        running.send(signal.SIGHUP)
        refused = f'the configuration in use stays: cannot listen on 127.0.0.1 port {second}: Permission denied'
        poll(lambda: refused in running.log(), 40, running.log)


@pytest.fixture
def outside_memory() -> Iterator[Path]:
    """Yield a directory for every account where set-user-ID bits work; in memory they may not."""
    with tempfile.TemporaryDirectory(prefix='nipap-test-', dir='/tmp') as name:
        os.chmod(name, 0o755)
        yield Path(name)


@as_root
def test_a_handler_cannot_become_root_again(outside_memory: Path) -> None:
    """A process without root, as handlers are, tries it, and so does a program with the set-user-ID bit."""
    program = outside_memory / 'id'
    program.write_bytes(Path('/usr/bin/id').read_bytes())
    program.chmod(0o4755)
    code = f"""
import os, pwd, subprocess
from nipapd.identity import Identity
account = pwd.getpwnam('nobody')
Identity(account.pw_name, account.pw_uid, account.pw_gid).assume()
for name in ('setuid', 'seteuid', 'setgid', 'setegid'):
    try:
        getattr(os, name)(0)
    except PermissionError:
        continue
    raise SystemExit(name)
print(subprocess.run([{str(program)!r}, '-u'], capture_output=True, text=True, check=True).stdout)
"""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(write, 1)
        os.environ['PYTHONPATH'] = str(REPOSITORY)
        os.execv(sys.executable, [sys.executable, '-c', code])
    os.close(write)
    with open(read) as output:
        printed = output.read()
    assert os.waitpid(child, 0)[1] == 0
    assert int(printed) == pwd.getpwnam('nobody').pw_uid


# ---- root without a configured user


def account_of(daemon: Daemon) -> set[str]:
    """Return the accounts of the handlers."""
    return {pwd.getpwuid(int(status(pid)['Uid'].split()[0])).pw_name for pid in handlers(daemon)}


def logs_in(daemon: Daemon, user: str, password: str) -> bool:
    """Return whether a call with that password is answered."""
    url = f'{daemon.url(user, password)}/XMLRPC'
    try:
        with xmlrpc.client.ServerProxy(url, allow_none=True) as proxy:
            return bool(proxy.list_vrf({'auth': {'authoritative_source': 'test'}, 'vrf': {'id': 0}}))
    except xmlrpc.client.Fault:
        return False


@as_root
def test_handlers_of_root_are_not_root(daemon: DaemonFactory) -> None:
    """The parent stays root and gives the file of accounts to the account of the handlers."""
    running = daemon(config={'nipapd': {'forks': '2'}})
    account = pwd.getpwnam('nobody')
    assert len(handlers(running)) == 2
    for pid in handlers(running):
        check_powerless(pid, account.pw_uid, account.pw_gid, set(os.getgrouplist('nobody', account.pw_gid)))
    file = data_directory(running) / 'local_auth.db'
    assert (file.owner(), mode(file)) == ('nobody', 0o600)
    assert logs_in(running, *running.admin())
    assert 'WARNING' not in running.log()


@as_root
def test_the_first_user_of_root_can_log_in(daemon: DaemonFactory, make_dir: Callable[[], Path]) -> None:
    running = daemon(data_dir=make_dir() / 'new', config={'nipapd': {'forks': '1'}})
    assert account_of(running) == {'nobody'}
    assert (data_directory(running) / 'local_auth.db').owner() == 'nobody'
    assert logs_in(running, *running.admin())
    users = LocalUsers(data_directory(running) / 'local_auth.db')
    users.add(LocalUser('ann'), 'added by root')
    users.modify('admin', password='changed by root')
    assert logs_in(running, 'ann', 'added by root')
    assert logs_in(running, 'admin', 'changed by root')


@as_root
def test_accounts_that_root_puts_in_place_are_read(daemon: DaemonFactory, make_dir: Callable[[], Path]) -> None:
    """Root may put another file under the same name, without a HUP, as in the days when handlers were root."""
    running = daemon(config={'nipapd': {'forks': '2'}})
    other = LocalUsers(make_dir() / 'other.db')
    other.create()
    other.add(LocalUser('ann'), 'another file')
    os.rename(other.path, data_directory(running) / 'local_auth.db')
    poll(lambda: logs_in(running, 'ann', 'another file'), 40, running.log)
    assert not logs_in(running, *running.admin())
    assert (data_directory(running) / 'local_auth.db').owner() == 'nobody'


@as_root
@pytest.mark.skipif(FIRST_UNPRIVILEGED < 1024, reason='anybody may bind any port here')
def test_root_reads_keys_and_binds_ports_at_a_hup(
    daemon: DaemonFactory, make_dir: Callable[[], Path], certificate: tuple[str, str]
) -> None:
    """Keys lie in a directory of root, ports are below 1024, and handlers could use neither."""
    secrets = make_dir()
    secrets.chmod(0o700)
    first, second = itertools.islice(privileged_ports(), 2)
    files = {}
    for key, source in zip(('ssl_cert_file', 'ssl_key_file'), certificate, strict=True):
        files[key] = str(shutil.copy(source, secrets))
        os.chmod(files[key], 0o600)
    running = daemon(config={'nipapd': {'forks': '2', 'ssl_port': str(first), **files}})
    trusting = ssl.create_default_context(cafile=certificate[0])
    for port in (first, second):
        change(running, ssl_port=str(port))
        if port == second:
            before = handler_processes(running)
            running.send(signal.SIGHUP)
            poll(lambda before=before: not before & handler_processes(running), 40, running.log)
        assert account_of(running) == {'nobody'}
        with (
            socket.create_connection(('127.0.0.1', port)) as plain,
            trusting.wrap_socket(plain, server_hostname='127.0.0.1') as encrypted,
        ):
            encrypted.sendall(b'GET / HTTP/1.0\r\n\r\n')
            assert encrypted.recv(12).startswith(b'HTTP/1.')


@as_root
def test_root_may_be_wanted(daemon: DaemonFactory) -> None:
    running = daemon(config={'nipapd': {'forks': '1', 'user': 'root'}})
    assert account_of(running) == {'root'}
    warning = 'handlers run as root, since user = root is configured: an intruder in a handler controls this host'
    assert running.log().count(warning) == 1


@as_root
def test_accounts_that_cannot_be_handed_over_leave_handlers_as_they_were(
    daemon: DaemonFactory, make_dir: Callable[[], Path]
) -> None:
    """The file is in a directory that only root may enter."""
    closed = make_dir()
    file = closed / 'accounts.db'
    LocalUsers(file).create()
    LocalUsers(file).add(LocalUser('ann'), 'a password')
    closed.chmod(0o700)
    config = {'nipapd': {'forks': '1'}, 'auth.backends.local': {'type': 'SqliteAuth', 'db_path': str(file)}}
    running = daemon(config=config)
    assert account_of(running) == {'root'}
    assert f'WARNING nipapd: handlers run as root: {file}: cannot be read by nobody' in running.log()
    assert logs_in(running, 'ann', 'a password')


@as_root
def test_a_database_that_lets_only_root_in_leaves_handlers_as_they_were(
    daemon: DaemonFactory, cluster: EmbeddedPostgres, make_dir: Callable[[], Path]
) -> None:
    """The file of accounts stays with root, too."""
    server = EmbeddedPostgres(make_dir(), bindir=str(cluster.installation.bindir), settings=FAST)
    with stopping(server):
        schema.install(server.dsn())
        running = daemon(config={'nipapd': {'forks': '1', **options_of(server.dsn())}})
        assert account_of(running) == {'root'}
        assert 'WARNING nipapd: handlers run as root: nobody cannot reach the database: ' in running.log()
        assert (data_directory(running) / 'local_auth.db').owner() == 'root'
        assert logs_in(running, *running.admin())
        assert running.stop() == 0


@as_root
def test_handlers_of_root_beside_a_configured_database_are_not_root(
    daemon: DaemonFactory, cluster: EmbeddedPostgres, make_dir: Callable[[], Path]
) -> None:
    """The parent stays root for the next HUP. A daemon without a parent gives root up."""
    account = account_named('nobody')
    server = EmbeddedPostgres(make_dir(), bindir=str(cluster.installation.bindir), settings=FAST, client=account)
    with stopping(server):
        schema.install(server.dsn())
        roles.prepare(server.dsn())
        options = options_of(server.dsn(role=SERVICE))
        running = daemon(config={'nipapd': {'forks': '2', **options}})
        assert account_of(running) == {'nobody'}
        assert status(running.pid)['Uid'].split()[0] == '0'
        assert logs_in(running, *running.admin())
        alone = daemon(config={'nipapd': {'forks': '-1', **options}})
        assert status(alone.pid)['Uid'] == ' '.join([str(account.uid)] * 4)
        assert logs_in(alone, *alone.admin())
        assert (running.stop(), alone.stop()) == (0, 0)


@as_root
def test_a_hup_does_not_lead_handlers_where_they_cannot_work(
    daemon: DaemonFactory, cluster: EmbeddedPostgres, make_dir: Callable[[], Path], database_options: dict[str, str]
) -> None:
    """A HUP names a database for root only, or accounts in a directory of root: the configuration in use stays."""
    server = EmbeddedPostgres(make_dir(), bindir=str(cluster.installation.bindir), settings=FAST)
    closed = make_dir()
    LocalUsers(closed / 'accounts.db').create()
    closed.chmod(0o700)
    with stopping(server):
        schema.install(server.dsn())
        running = daemon(config={'nipapd': {'forks': '1', **database_options}})
        assert account_of(running) == {'nobody'}
        change(running, **options_of(server.dsn()))
        running.send(signal.SIGHUP)
        stays = 'the configuration in use stays: nobody cannot reach the database: '
        poll(lambda: stays in running.log(), 40, running.log)
        change(running, **database_options)
        path = Path(running.args[running.args.index('-c') + 1])
        path.write_text(
            f'{path.read_text()}[auth.backends.local]\ntype = SqliteAuth\ndb_path = {closed / "accounts.db"}\n'
        )
        running.send(signal.SIGHUP)
        stays = f'the configuration in use stays: {closed / "accounts.db"}: cannot be read by nobody'
        poll(lambda: stays in running.log(), 40, running.log)
        assert logs_in(running, *running.admin())


@as_root
def test_a_backup_directory_of_root_is_warned_of(daemon: DaemonFactory, make_dir: Callable[[], Path]) -> None:
    backups = make_dir()
    backups.chmod(0o700)
    running = daemon(config={'nipapd': {'forks': '1', 'backup_dir': str(backups)}})
    problem = f'metrics lack the time of the newest backup: {backups} cannot be read by nobody'
    assert f'WARNING nipapd: {problem}' in running.log()
    assert account_of(running) == {'nobody'}


@contextlib.contextmanager
def stopping(server: EmbeddedPostgres) -> Iterator[None]:
    """Run the server, and stop it afterwards."""
    server.start()
    try:
        yield
    finally:
        server.stop()


@as_root
@pytest.mark.parametrize('trap', ['hard link', 'directory of another', 'symbolic link', 'link of another'])
def test_files_that_another_account_could_put_in_place_are_not_given_away(
    make_dir: Callable[[], Path], trap: str
) -> None:
    """Otherwise an account would get a file of root by naming it like the file of accounts."""
    home, secret = make_dir(), make_dir() / 'secret'
    secret.write_text('of root')
    secret.chmod(0o600)
    file = home / 'local_auth.db'
    if trap == 'hard link':
        os.link(secret, file)
    elif trap == 'directory of another':
        shutil.copy(secret, file)
    else:
        file.symlink_to(secret)
    if trap == 'link of another':
        os.chown(file, 1, 1, follow_symlinks=False)
    elif trap != 'hard link':
        shutil.chown(home, 'daemon')
    accounts.hand_over(load(['--data-dir', str(home), '-c', '/dev/null']), Identity('nobody', 65534, 65534, True))
    assert (secret.owner(), file.owner()) == ('root', 'root')


# ---- the kept installation of root without a configured user


@as_root
@pytest.mark.timeout(1800)
@pytest.mark.skipif(FIRST_UNPRIVILEGED < 1024, reason='anybody may bind any port here')
def test_an_installation_of_root_goes_on_after_the_upgrade(
    daemon: DaemonFactory, make_dir: Callable[[], Path], certificate: tuple[str, str]
) -> None:
    """Nothing in its configuration changes: accounts and keys for root alone, a port below 1024, HUPs."""
    home = make_dir() / 'nipap'
    secrets, program = make_dir(), unpack_kept(make_dir())
    with Forking(make_dir(), program) as kept:
        dump = KEPT / 'root' / 'nipap.dump'
        kept.run('nipap-admin', 'restore', '-c', '/dev/null', '--data-dir', home, '--keep-webhooks', dump)
    accounts_file = home / 'local_auth.db'
    assert (accounts_file.owner(), mode(accounts_file)) == ('root', 0o600)
    secrets.chmod(0o700)
    cert, key = (str(shutil.copy(path, secrets)) for path in certificate)
    os.chmod(key, 0o600)
    port, tls = next(privileged_ports()), {'ssl_cert_file': cert, 'ssl_key_file': key}
    running = daemon(data_dir=home, config={'nipapd': {'forks': '2', 'ssl_port': str(port), **tls}})
    for _ in range(2):
        assert account_of(running) == {'nobody'}
        assert 'handlers run as root' not in running.log()
        for name, (password, _) in ACCOUNTS.items():
            assert logs_in(running, name, password), name
        before = handler_processes(running)
        running.send(signal.SIGHUP)
        poll(lambda before=before: not before & handler_processes(running), 60, running.log)
    assert running.stop() == 0
    assert mode(accounts_file) == 0o600
    with private_database(home) as database:
        assert database.read(lambda tx: tx.all(roles.STRANGERS)) == []
        owners = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'"
        assert database.read(lambda tx: tx.all(owners)) == [(OWNER,)]


# ---- files


@pytest.fixture
def no_umask() -> Iterator[None]:
    """Clear the umask: files get exactly the rights that their maker asks for."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_nobody_else_may_write_anything(no_umask: None, daemon: DaemonFactory, make_dir: Callable[[], Path]) -> None:
    home = make_dir() / 'data'
    pid_file = make_dir() / 'nipapd.pid'
    caller = daemon('--background', '-P', str(pid_file), data_dir=home)
    try:
        assert caller.wait() == 0
        found = [home, *home.rglob('*')]
        open_to_all = [path for path in found if not stat.S_ISSOCK(path.lstat().st_mode) and mode(path) & 0o022]
        assert open_to_all == []
        assert mode(home) == (0o755 if os.geteuid() == 0 else 0o700)
        for name in ('local_auth.db', 'serving', 'lock'):
            assert mode(home / name) == 0o600
        assert mode(home / 'nipapd.log') == 0o640
        assert mode(home / 'postgresql.log') == 0o640
        assert mode(home / 'data') == 0o700
        assert mode(home / 'run') == (0o710 if os.geteuid() == 0 else 0o700)  # the group of the handlers
    finally:
        os.kill(int(pid_file.read_text()), signal.SIGTERM)
        caller.await_no_children()


LOCK_ALL = """
import fcntl, os, sys
from pathlib import Path
from nipapd.identity import Identity
import pwd
account = pwd.getpwnam('daemon')
Identity(account.pw_name, account.pw_uid, account.pw_gid).assume()
kept = []
for path in map(Path, sys.argv[1:]):
    for each in [path, *path.rglob('*')] if path.is_dir() else [path]:
        try:
            kept.append(os.open(each, os.O_RDONLY | os.O_NONBLOCK))
            fcntl.flock(kept[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
print(len(kept), flush=True)
sys.stdin.read()
"""


@as_root
def test_another_user_cannot_lock_the_daemon_out(
    daemon: DaemonFactory, database_options: dict[str, str], make_dir: Callable[[], Path]
) -> None:
    """Another user locks every file of a data directory, and the pid file, as far as the files can be opened."""
    home, pid_file = make_dir(), make_dir() / 'nipapd.pid'
    own = daemon('-P', str(pid_file), data_dir=home)
    assert own.stop() == 0
    for name in ('serving', 'lock'):
        (home / name).chmod(0o644)  # as earlier programs made them
    own = daemon('-P', str(pid_file), data_dir=home)
    assert own.stop() == 0
    pid_file.write_text('1\n')
    command = [sys.executable, '-c', LOCK_ALL, str(home), str(pid_file)]
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'env': {'PYTHONPATH': str(REPOSITORY)}}
    with subprocess.Popen(command, text=True, **pipes) as other:
        assert int(other.stdout.readline()) > 3
        daemon('-P', str(pid_file), data_dir=home, config={'nipapd': {'forks': '1', **database_options}})
        daemon('-P', str(make_dir() / 'pid'), data_dir=home)
        other.stdin.close()


def open_files(pid: int) -> set[str]:
    """Return the names of the open files of a process."""
    found = set()
    for entry in Path(f'/proc/{pid}/fd').iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(entry))
    return found


def test_init_scripts_see_a_daemon_that_runs(
    daemon: DaemonFactory, database_options: dict[str, str], make_dir: Callable[[], Path]
) -> None:
    """`flock -xn PIDFILE` fails as long as the daemon lives, and a handler that outlives the daemon does not matter."""
    path = make_dir() / 'nipapd.pid'
    look = ['flock', '-xn', str(path), '-c', 'true']
    running = daemon('-P', str(path), config={'nipapd': {'forks': '2', **database_options}})
    for _ in range(2):
        assert subprocess.run(look).returncode == 1
        before = handler_processes(running)
        running.send(signal.SIGHUP)
        poll(lambda before=before: not before & handler_processes(running), 40, running.log)
    for pid in handlers(running):
        assert str(path) not in open_files(pid)
    running.kill()
    assert subprocess.run(look).returncode == 0


def test_a_second_daemon_leaves_the_pid_file_alone(
    daemon: DaemonFactory, database_options: dict[str, str], make_dir: Callable[[], Path]
) -> None:
    path = make_dir() / 'nipapd.pid'
    config = {'nipapd': {'forks': '2', **database_options}}
    first = daemon('-P', str(path), config=config)
    second = daemon('-P', str(path), config=config, start=False).spawn()
    assert second.wait() == 1
    assert second.log() == f'nipapd: the pid file {path} is in use by a running daemon, process {first.pid}\n'
    assert path.read_text() == f'{first.pid}\n'
    first.kill()
    third = daemon('-P', str(path), config=config)
    assert path.read_text() == f'{third.pid}\n'


def test_a_file_named_by_mistake_is_left_alone(daemon: DaemonFactory, make_dir: Callable[[], Path]) -> None:
    path = make_dir() / 'nipap.conf'
    path.write_text('[nipapd]\nport = 1338\n')
    refused = daemon('-P', str(path), start=False).spawn()
    assert refused.wait() == 1
    assert refused.log() == f'nipapd: cannot write the pid file {path}: it must contain a process id only\n'
    assert path.read_text() == '[nipapd]\nport = 1338\n'
