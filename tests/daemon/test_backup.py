"""The dump before an upgrade: when the dump is written and when not, its contents, and its fate through kills.

The upgrade is to a program that is a migration ahead of the code under test (`programs.make_next`).
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import upgrade_data
from daemon_process import poll
from forked import Forking
from programs import MIGRATION, make_next, next_version
from support import facts, open_directories
from upgrading import SOON_S, Kills, Site, private_database, serve, stop

from nipap.access.authentication import Actor
from nipap.access.local_users import LocalUser, LocalUsers
from nipap.backend import Backend
from nipap.postgres import schema
from nipapd import archive, dump

pytestmark = pytest.mark.slow

NAME = f'before-{next_version():04}.dump'
ANN = Actor('ann', 'Ann Example', 'ann', 'web', readonly=False)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason='only root can become another account')


def can_mount() -> bool:
    """Return whether this account may mount a file system that no other process sees."""
    command = ['unshare', '--mount', 'mount', '-t', 'tmpfs', 'none', '/mnt']
    return bool(shutil.which('unshare')) and not subprocess.run(command, capture_output=True).returncode


may_mount = pytest.mark.skipif(not can_mount(), reason='this account may not mount a file system')


@pytest.fixture(scope='module')
def filled(prepared: Path) -> Iterator[Path]:
    """Yield a data directory with some of everything."""
    with open_directories() as make:
        data_dir = copy_of(prepared, make())
        with private_database(data_dir) as database:
            upgrade_data.fill(Backend(database), ANN)
        users = LocalUsers(data_dir / 'local_auth.db')
        users.create()
        users.add(LocalUser('ann', trusted=True), 'a password')
        yield data_dir


@pytest.fixture
def full_dir(filled: Path, make_dir: Callable[[], Path]) -> Path:
    """Return a copy of the filled data directory for this test."""
    return copy_of(filled, make_dir())


def copy_of(data_dir: Path, target: Path) -> Path:
    """Copy an unused data directory into an empty directory."""
    for source in data_dir.iterdir():
        how = '-al' if source.name.startswith('binaries-') else '-a'
        subprocess.run(['cp', how, source, target], check=True)
    return target


def state(data_dir: Path) -> list[Any]:
    """Return the schema version and every fact in the database of a data directory."""
    with private_database(data_dir) as database:
        return [schema.version(database), *facts(database)]


def dumps(data_dir: Path) -> list[str]:
    """Return the dumps in a data directory, and the remains of attempts to write a dump."""
    return sorted(path.name for path in data_dir.iterdir() if 'before' in path.name)


def manifest(file: Path) -> dict[str, Any]:
    """Return the manifest of a complete dump."""
    with file.open('rb') as content:
        return archive.read(content, None, (dump.DATABASE, dump.USERS))


def written(file: Path) -> tuple[int, int, int]:
    """Return values that change when a file is written again."""
    found = file.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def migrate(forking: Forking, data_dir: Path, *args: object) -> str:
    return forking.run('nipap-admin', 'migrate', '-c', '/dev/null', '--data-dir', data_dir, *args)


def test_an_upgraded_daemon_has_written_the_database_as_it_was(
    full_dir: Path, site: Site, forking: Forking, forking_next: Forking
) -> None:
    """The former program restores the dump."""
    before = state(full_dir)
    said = stop(serve(forking_next, full_dir))
    file = full_dir / NAME
    assert dumps(full_dir) == [NAME]
    assert file.stat().st_mode & 0o777 == 0o600
    assert f'writing the database to {file} before it is upgraded' in said
    assert said.index('before it is upgraded') < said.index(f'applying migration {next_version()}')
    assert 'no problems found' in forking.run('nipap-admin', 'restore', *site.where, file)
    with site.database() as database:
        assert [schema.version(database), *facts(database)] == before
    assert LocalUsers(site.directory / 'local_auth.db').authenticate('ann', 'a password')


def test_the_dump_is_written_once(full_dir: Path, forking_next: Forking) -> None:
    said = migrate(forking_next, full_dir)
    assert said == (
        f'{full_dir / NAME}: the database before the upgrade\n'
        f'the schema has version {next_version()}, it had {schema.latest()}\n'
    )
    first = written(full_dir / NAME)
    assert 'serving on' in stop(serve(forking_next, full_dir))
    migrate(forking_next, full_dir)
    assert dumps(full_dir) == [NAME]
    assert written(full_dir / NAME) == first


def test_an_upgrade_without_a_dump_when_asked(full_dir: Path, forking_next: Forking) -> None:
    assert f'applying migration {next_version()}' in stop(serve(forking_next, full_dir, '--no-backup'))
    assert dumps(full_dir) == []


def test_a_migration_without_a_dump_when_asked(full_dir: Path, forking_next: Forking) -> None:
    assert f'version {next_version()}' in migrate(forking_next, full_dir, '--no-backup')
    assert dumps(full_dir) == []


def test_an_installation_from_nothing_writes_none(new_data_dir: Path, forking_next: Forking) -> None:
    assert f'applying migration {next_version()}' in stop(serve(forking_next, new_data_dir))
    assert dumps(new_data_dir) == []


def test_other_functions_alone_write_none(full_dir: Path) -> None:
    with program_with() as forking:
        stop(serve(forking, full_dir))
    with private_database(full_dir) as database:
        assert database.read(lambda tx: tx.value('SELECT next_function()')) == 'next'
    assert dumps(full_dir) == []


@pytest.mark.parametrize('command', ['migrate', 'serve'])
def test_a_configured_database_is_not_dumped(site: Site, forking_next: Forking, command: str) -> None:
    schema.install(site.dsn)
    if command == 'migrate':
        forking_next.run('nipap-admin', 'migrate', *site.where)
    else:
        with site.config.open('a') as file:
            file.write('forks = -1\n')
        process = forking_next.start('nipapd', *site.where, '-p', 0, '--auto-upgrade-db')
        poll(lambda: 'serving on' in process.said() or not process.runs(), SOON_S, process.said)
        stop(process)
    assert site.query('SELECT max(version) FROM schema_migration') == [(next_version(),)]
    assert dumps(site.directory) == []


# ---- upgrades that fail, are killed, or are not the first


@contextmanager
def program_with(*migrations: str) -> Iterator[Forking]:
    """Yield processes of a program that has these migrations after those of the code under test."""
    with open_directories() as make, Forking(make(), make_next(make(), *migrations)) as made:
        yield made


@pytest.fixture(scope='module')
def failed_once(filled: Path) -> Iterator[Path]:
    """Yield a data directory after a failed upgrade that has written the dump."""
    with open_directories() as make, program_with('SELECT 1 / 0') as forking:
        data_dir = copy_of(filled, make())
        before = state(data_dir)
        process = forking.start('nipap-admin', 'migrate', '-c', '/dev/null', '--data-dir', data_dir)
        assert process.wait() == 1
        assert 'division by zero' in process.said()
        assert dumps(data_dir) == [NAME]
        assert state(data_dir) == before
        yield data_dir


@pytest.fixture
def failed(failed_once: Path, make_dir: Callable[[], Path]) -> Path:
    """Return a copy of the data directory of the failed upgrade for this test."""
    return copy_of(failed_once, make_dir())


def test_a_failed_upgrade_is_retried_without_another_dump(failed: Path, forking_next: Forking) -> None:
    first = written(failed / NAME)
    said = stop(serve(forking_next, failed))
    assert f'{failed / NAME} has the database as it was before the upgrade' in said
    assert f'applying migration {next_version()}' in said
    assert dumps(failed) == [NAME]
    assert written(failed / NAME) == first


def test_an_incomplete_dump_is_written_again(failed: Path, forking_next: Forking) -> None:
    file = failed / NAME
    whole = manifest(file)
    file.write_bytes(file.read_bytes()[:-20_000])
    assert f'{file} is no dump' in migrate(forking_next, failed)
    assert dumps(failed) == [NAME]
    assert {**manifest(file), 'time': ''} == {**whole, 'time': '', 'files': manifest(file)['files']}


def test_after_changes_another_is_written_beside_the_former(failed: Path, forking_next: Forking) -> None:
    """After going back and working on, the next way back leads to the newer state."""
    former = manifest(failed / NAME)
    with private_database(failed) as database:
        Backend(database).add_asn(ANN, {'asn': 65010, 'name': 'Added since'})
    migrate(forking_next, failed)
    time = re.sub(r'\D', '', former['time'])[:14]
    assert dumps(failed) == [f'{NAME.removesuffix(".dump")}-{time}.dump', NAME]
    assert manifest(failed / dumps(failed)[0]) == former
    assert manifest(failed / NAME)['last_change'] == former['last_change'] + 1


def test_after_changes_of_accounts_another_is_written_too(failed: Path, forking_next: Forking) -> None:
    users = LocalUsers(failed / 'local_auth.db')
    users.modify('ann', password='another')
    migrate(forking_next, failed)
    assert len(dumps(failed)) == 2


@pytest.fixture(scope='module')
def forking_after_next() -> Iterator[Forking]:
    """Yield processes of a program that is two migrations ahead of the code under test."""
    with program_with(MIGRATION, 'CREATE TABLE after_next ()') as made:
        yield made


def test_an_upgrade_that_was_killed_between_two_migrations_goes_on_with_its_dump(
    full_dir: Path, forking_after_next: Forking
) -> None:
    with program_with(MIGRATION, 'SELECT pg_sleep(600)') as forking:
        process = forking.start('nipap-admin', 'migrate', '-c', '/dev/null', '--data-dir', full_dir)
        poll(lambda: sleeps(full_dir) or not process.runs(), SOON_S, process.said)
        assert process.kill() == -signal.SIGKILL
    first = written(full_dir / NAME)
    assert f'version {next_version() + 1}' in migrate(forking_after_next, full_dir)
    assert dumps(full_dir) == [NAME]
    assert written(full_dir / NAME) == first
    assert manifest(full_dir / NAME)['schema'] == schema.latest()


def sleeps(data_dir: Path) -> bool:
    """Return whether a migration of the private database sleeps."""
    try:
        connection = psycopg2.connect(host=data_dir / 'run', user='postgres', dbname='nipap')
    except psycopg2.OperationalError:  # the server does not run yet
        return False
    with closing(connection), connection.cursor() as cursor:
        cursor.execute("SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
        return cursor.rowcount == 1


def test_the_dump_of_a_later_upgrade_has_its_own_number(
    full_dir: Path, forking_next: Forking, forking_after_next: Forking
) -> None:
    """The numbers differ although nothing was changed since the earlier upgrade."""
    migrate(forking_next, full_dir)
    migrate(forking_after_next, full_dir)
    assert dumps(full_dir) == [NAME, f'before-{next_version() + 1:04}.dump']


def test_the_dump_is_whole_whenever_an_upgrade_is_killed(
    full_dir: Path, make_dir: Callable[[], Path], site: Site, forking: Forking, forking_next: Forking
) -> None:
    """The dump is complete or missing, and a complete dump stays."""
    undisturbed = copy_of(full_dir, make_dir())
    _, whole_s = forking_next.timed('nipap-admin', 'migrate', '-c', '/dev/null', '--data-dir', undisturbed)
    before = state(full_dir)
    file, first = full_dir / NAME, None
    kills = Kills(forking_next, 6, whole_s)
    while kills.left:
        kills.kill('migrate', '-c', '/dev/null', '--data-dir', full_dir)
        if file.exists():
            assert manifest(file)['schema'] == schema.latest()
            first = first or written(file)
            assert written(file) == first
    migrate(forking_next, full_dir)
    assert dumps(full_dir) == [NAME]
    assert 'no problems found' in forking.run('nipap-admin', 'restore', *site.where, file)
    with site.database() as database:
        assert [schema.version(database), *facts(database)] == before
    check = forking_next.run('nipap-admin', 'check', '-c', '/dev/null', '--data-dir', full_dir)
    assert check.endswith('no problems found\n')


# ---- too little disk


# A file system of its own for the data directory $1, whose files come from $2, with $3 bytes free. The other arguments
# are for the daemon.
SMALL_DISK = """
mount -t tmpfs -o size=4g none "$1" && cp -a "$2"/. "$1" || exit 99
used=$(stat -f -c '(%b - %f) * %S' "$1")
mount -o remount,size=$(( $used + $3 )) "$1" || exit 99
where=$1
shift 3
"$@"
code=$?
ls -A "$where" | sed 's/^/left: /'
exit $code
"""


def on_small_disk(program: Path, data_dir: Path, free: int) -> subprocess.CompletedProcess[str]:
    """Start a daemon whose data directory is on a file system of its own with `free` bytes free."""
    where = data_dir.with_name(f'{data_dir.name}.disk')
    where.mkdir()
    command = ['unshare', '--mount', 'sh', '-c', SMALL_DISK, 'sh', str(where), str(data_dir), str(free)]
    command += [sys.executable, '-m', 'nipapd', '-c', '/dev/null', '-p', '0', '--data-dir', str(where)]
    env = {**os.environ, 'PYTHONPATH': str(program)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=env, cwd='/', stdout=pipe, stderr=pipe, text=True, start_new_session=True) as sh:
        try:
            said = sh.communicate(timeout=SOON_S)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(sh.pid, signal.SIGTERM)  # a daemon that has started all the same
    where.rmdir()
    return subprocess.CompletedProcess(command, sh.returncode, *said)


def check_not_started(ended: subprocess.CompletedProcess[str], problem: str) -> None:
    """Check that the daemon names the problem and the way out, has upgraded nothing and leaves nothing behind."""
    assert ended.returncode == 1, ended.stderr + ended.stdout
    last = ended.stderr.splitlines()[-1]
    assert re.fullmatch(f'nipapd: {problem}.*', last), ended.stderr
    assert '--no-backup' in last
    assert 'applying migration' not in ended.stderr
    assert 'left: data\n' in ended.stdout
    assert 'before' not in ended.stdout


# PostgreSQL may need 16 MB for a segment of its log before anything is dumped. The sizes leave room for the segment.
@may_mount
def test_with_too_little_disk_the_daemon_does_not_start(full_dir: Path, next_program: Path) -> None:
    fill_table(full_dir, b'x' * 1_000_000, 60)
    ended = on_small_disk(next_program, full_dir, 20_000_000)
    check_not_started(ended, rf'too little disk: \S+/{NAME}, .* may take 3\d\.\d MB and [12]?\d\.\d MB are free')


@may_mount
def test_with_a_disk_that_gets_full_the_daemon_does_not_start(full_dir: Path, next_program: Path) -> None:
    """A dump of incompressible data is larger than estimated."""
    fill_table(full_dir, os.urandom(1_000_000), 20)
    ended = on_small_disk(next_program, full_dir, 30_000_000)
    check_not_started(ended, rf'cannot write \S+/{NAME}: .*No space left on device')


def fill_table(data_dir: Path, value: bytes, rows: int) -> None:
    """Make a table with `rows` rows."""
    with private_database(data_dir) as database:
        database.run(lambda tx: tx.execute('CREATE UNLOGGED TABLE public.large (bytes bytea)'))
        database.run(lambda tx: tx.execute('ALTER TABLE public.large ALTER bytes SET STORAGE EXTERNAL'))
        insert = 'INSERT INTO public.large SELECT %s FROM generate_series(1, %s)'
        database.run(lambda tx: tx.execute(insert, (psycopg2.Binary(value), rows)))


# ---- accounts of the host


@as_root
def test_the_dump_belongs_to_the_account_that_upgrades(full_dir: Path, forking_next: Forking) -> None:
    subprocess.run(['chown', '-R', 'nobody:nogroup', full_dir], check=True)
    upgrade = ('nipap-admin', 'migrate', '-c', '/dev/null', '--data-dir', full_dir)
    forking_next.run(*upgrade, account='nobody')
    file = full_dir / NAME
    assert (file.owner(), file.stat().st_mode & 0o777) == ('nobody', 0o600)
    assert manifest(file)['schema'] == schema.latest()
