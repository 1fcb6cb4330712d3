"""nipap-passwd and its file: real files, the real command, and files of older daemons."""

from __future__ import annotations

import hashlib
import io
import os
import pty
import re
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from nipap.access import local_users
from nipap.access.authentication import Authenticator, AuthSettings, BackendSettings
from nipap.access.local_users import LocalUser, LocalUsers, UserFileError
from nipapd import passwd

REPOSITORY = Path(__file__).resolve().parents[2]
OLD_LAYOUT = (
    'CREATE TABLE user (username NOT NULL PRIMARY KEY, pwd_salt NOT NULL, pwd_hash NOT NULL, full_name, trusted)'
)
NOBODY = 65534
AS_NOBODY = f"""
import os, sys
from nipapd import passwd
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
sys.exit(passwd.main(sys.argv[1:]))
"""

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / 'local_auth.db'


@pytest.fixture
def users(path: Path) -> LocalUsers:
    local = LocalUsers(path)
    local.create()
    return local


@pytest.fixture
def command(path: Path) -> Command:
    """Return a runner of nipap-passwd with -f of the test's file, unless the arguments name another."""
    return partial(run_checked, path, lambda args, stdin: run_python(['-m', 'nipapd.passwd', *args], stdin))


@pytest.fixture
def run(path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return a runner of nipap-passwd like `command`, but in this process.

    Python takes longer to start than the command takes to work.
    """

    def inside(args: Sequence[str], stdin: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, 'stdin', io.StringIO(stdin))
        capsys.readouterr()
        try:
            code = passwd.main(args)
        except SystemExit as left:
            code = int(str(left.code))
        return subprocess.CompletedProcess(args, code, *capsys.readouterr())

    return partial(run_checked, path, inside)


def run_checked(
    path: Path,
    run: Callable[[Sequence[str], str], subprocess.CompletedProcess[str]],
    /,
    *args: str,
    stdin: str = '',
    code: int = 0,
    silent: bool | None = None,
) -> subprocess.CompletedProcess[str]:
    where = [] if {'-f', '-c', '--data-dir'} & set(args) else ['-f', str(path)]
    done = run([*args, *where], stdin)
    quiet = code == 0 if silent is None else silent
    assert (done.returncode, bool(done.stderr)) == (code, not quiet), done
    return done


@pytest.fixture
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_users, '_LOG2_N', 4)


def run_python(args: Sequence[str], stdin: str = '', cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, 'PYTHONPATH': str(REPOSITORY), 'PYTHONWARNINGS': 'error'}
    command = [sys.executable, *args]
    return subprocess.run(command, input=stdin, cwd=cwd, env=env, capture_output=True, text=True, timeout=60)


def old_file(path: Path, layout: str = OLD_LAYOUT) -> None:
    """Write a file as an older daemon did, with joe and the password 'right'."""
    digest = hashlib.sha1(b'12345678right').hexdigest()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(layout)
        connection.execute(
            'INSERT INTO user (username, pwd_salt, pwd_hash, full_name, trusted) VALUES (?, ?, ?, ?, ?)',
            ('joe', '12345678', digest, 'Joe Doe', True),
        )
        connection.commit()


def stored(path: Path, username: str = 'joe') -> tuple[str, str]:
    with closing(sqlite3.connect(path)) as connection:
        found: tuple[str, str] = connection.execute(
            'SELECT pwd_salt, pwd_hash FROM user WHERE username = ?', (username,)
        ).fetchone()
    return found


# --------------------------------------------------------------------------------------------------------- the command


def test_a_life(command: Command, path: Path) -> None:
    command('create-database')
    command('add', '-u', 'joe', '-p', 'the secret', '-n', 'Joe Doe', '-t')
    command('add', '-u', 'åsa', '-p', 'hemlighet', '--readonly')
    assert command('list').stdout.splitlines() == [
        'username             real name                 trusted read only',
        '-' * 64,
        'joe                  Joe Doe                   1       0      ',
        'åsa                                            0       1      ',
    ]
    command('test-user', '-u', 'joe', '-p', 'the secret')
    command('modify', '-u', 'joe', '-p', 'the other', '-n', '', '--no-trusted', '-r')
    command('test-user', '-u', 'joe', '-p', 'the other')
    assert LocalUsers(path).get('joe') == LocalUser('joe', None, trusted=False, readonly=True)
    command('modify', '-u', 'joe', '--no-readonly')
    assert [line.split() for line in command('list', '-u', 'joe').stdout.splitlines()[2:]] == [['joe', '0', '0']]
    command('delete', '-u', 'joe')
    assert [line.split() for line in command('list').stdout.splitlines()[2:]] == [['åsa', '0', '1']]
    command('latest-version')
    command('upgrade-database')


@pytest.mark.usefixtures('cheap_hashes')
def test_options_may_come_first(run: Command) -> None:
    run('create-database')
    run('-u', 'joe', '-p', 'the secret', 'add')
    run('-u', 'joe', '-p', 'the secret', 'test-user')


def says(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line of the error."""
    (line,) = done.stderr.splitlines()
    assert line.startswith('nipap-passwd: ')
    return line.removeprefix('nipap-passwd: ')


@pytest.mark.usefixtures('cheap_hashes')
def test_errors_have_codes_of_their_own(run: Command, users: LocalUsers, path: Path) -> None:
    users.add(LocalUser('joe'), 'the secret')
    for name in ('joe', 'nobody', 'joe@other'):
        wrong = run('test-user', '-u', name, '-p', 'x', code=2, silent=True)
        assert wrong.stdout == 'The username or password seems to be wrong\n'
    assert says(run('add', '-p', 'x', code=1)) == 'Please specify user with --user'
    assert says(run('add', '-u', 'x', '-p', '', code=2)) == 'the password must not be empty'
    assert says(run('modify', '-u', 'nobody', '-n', 'x', code=4)) == "no user 'nobody'"


@pytest.mark.usefixtures('cheap_hashes')
def test_new_passwords_have_a_length_and_older_ones_go_on(run: Command, users: LocalUsers) -> None:
    users.add(LocalUser('joe'), 'x')
    refusal = 'the password must have 8 to 1000 characters'
    for password in ('x', '7 chars', 'x' * 1001):
        for action, name in (('add', 'ann'), ('modify', 'joe')):
            assert says(run(action, '-u', name, stdin=f'{password}\n', code=2)) == refusal
    assert says(run('add', '-u', 'ann', '-p', 'x' * 1001, code=2)) == refusal
    run('test-user', '-u', 'joe', '-p', 'x')
    assert [user.username for user in users.users()] == ['joe']
    run('modify', '-u', 'joe', '-n', 'Joe')
    run('test-user', '-u', 'joe', '-p', 'x')
    run('add', '-u', 'ann', '-p', '8 chars!')
    run('modify', '-u', 'joe', '-p', 'åäöåäöåä')


@pytest.mark.usefixtures('cheap_hashes')
def test_scripts_may_set_short_passwords_and_are_warned(run: Command, users: LocalUsers) -> None:
    warning = 'the password has fewer than 8 characters and is soon guessed'
    for command in (('add', '-u', 'ann', '-p', '7 chars'), ('modify', '-u', 'ann', '-p', 'x')):
        assert run(*command, silent=False).stderr == f'nipap-passwd: {warning}\n'
    run('test-user', '-u', 'ann', '-p', 'x')


def test_a_change_that_is_already_made_is_no_error(run: Command, users: LocalUsers, path: Path) -> None:
    """Scripts that set up a host run again."""
    users.add(LocalUser('joe', 'Joe'), 'the secret')
    again = run('add', '-u', 'joe', '-p', 'other', '-n', 'x', '--trusted')
    assert again.stdout == f"user 'joe' exists already in database {path}, nothing was changed\n"
    assert users.get('joe') == LocalUser('joe', 'Joe')
    run('test-user', '-u', 'joe', '-p', 'the secret')
    run('create-database')
    assert users.get('joe') == LocalUser('joe', 'Joe')
    assert run('delete', '-u', 'ann').stdout == f'User ann is not in database {path}, nothing was changed\n'


@pytest.mark.parametrize(
    ('args', 'said'),
    [
        (['add', '-u', 'ann'], 'Please specify password with --password, or as a line of the standard input'),
        (['test-user', '-u', 'joe'], 'Please specify password with --password, or as a line of the standard input'),
        (['modify', '-u', 'joe'], 'Please specify value to change'),
        (['modify'], 'Please specify user with --user'),
        (['delete'], 'Please specify user with --user'),
        (['test-user'], 'Please specify user with --user'),
    ],
)
def test_missing_arguments_are_named(run: Command, users: LocalUsers, args: list[str], said: str) -> None:
    """Standard input is empty, as in a script."""
    users.add(LocalUser('joe'), 'the secret')
    assert says(run(*args, code=1)) == said


def test_names_that_end_with_a_back_end(run: Command, users: LocalUsers, path: Path, tmp_path: Path) -> None:
    run('add', '-u', 'ann@example.com', '-p', 'the secret')
    for name in ('ann@example.com', 'ann@example.com@local'):
        run('test-user', '-u', name, '-p', 'the secret')
    run('test-user', '-u', 'ann', '-p', 'the secret', code=2, silent=True)
    conf = tmp_path / 'nipap.conf'
    conf.write_text(f'[auth]\ndefault_backend = staff\n[auth.backends.staff]\ntype = SqliteAuth\ndb_path = {path}\n')
    run('test-user', '-u', 'ann@example.com@staff', '-p', 'the secret', '-c', str(conf))
    run('test-user', '-u', 'ann@example.com@local', '-p', 'the secret', '-c', str(conf), code=2, silent=True)


def test_a_file_that_is_named_wins_over_the_configuration(run: Command, path: Path, tmp_path: Path) -> None:
    conf = tmp_path / 'nipap.conf'
    conf.write_text(f'[auth.backends.local]\ntype = SqliteAuth\ndb_path = {tmp_path}/other.db\n')
    for args in (['-c', str(conf), '-f', str(path)], ['-f', str(path), '-c', str(conf)]):
        run('create-database', *args)
        run('add', '-u', f'joe{len(args[0])}', '-p', 'the secret', *args)
    assert path.exists()
    assert not (tmp_path / 'other.db').exists()


def test_the_older_form_of_a_hash_is_asked_for_and_warned_of(
    run: Command, users: LocalUsers, path: Path, tmp_path: Path
) -> None:
    conf = tmp_path / 'nipap.conf'
    local = f'[auth.backends.local]\ntype = SqliteAuth\ndb_path = {path}\n'
    weak, kept = 'can try billions of passwords a second', 'the next login converts it to scrypt'
    done = run('add', '-u', 'joe', '-p', 'the right', '--legacy-hash', code=0, silent=False)
    assert weak in done.stderr
    assert kept in done.stderr
    salt, digest = stored(path)
    assert digest == hashlib.sha1(f'{salt}the right'.encode()).hexdigest()
    conf.write_text(f'[auth]\npassword_hash = legacy\n{local}')
    done = run('modify', '-u', 'joe', '-p', 'the other', '--legacy-hash', '-c', str(conf), silent=False)
    assert weak in done.stderr
    assert kept not in done.stderr
    salt, digest = stored(path)
    assert digest == hashlib.sha1(f'{salt}the other'.encode()).hexdigest()
    done = run('modify', '-u', 'joe', '-p', 'the third', '-c', str(conf), silent=False)
    assert done.stderr.endswith('the web client of NIPAP cannot read; for it use --legacy-hash\n')
    assert stored(path)[1].startswith('$scrypt$')
    assert run('modify', '-u', 'joe', '-n', 'Joe', '-c', str(conf)).stderr == ''


@pytest.mark.parametrize(
    'action', ['list', 'add', 'delete', 'modify', 'test-user', 'upgrade-database', 'latest-version']
)
def test_a_file_that_is_not_there(run: Command, path: Path, action: str) -> None:
    assert says(run(action, '-u', 'joe', '-p', 'x', code=5)) == f'{path}: no such file'
    assert not path.exists()


def test_a_file_that_is_something_else(run: Command, path: Path) -> None:
    path.write_text('username:password\n' * 100)
    assert says(run('list', code=6)) == f'{path}: is not a SQLite file'
    path.unlink()
    path.mkdir()
    assert 'cannot be opened' in says(run('list', code=6))
    assert 'cannot be opened' in says(run('create-database', code=6))
    with closing(sqlite3.connect(path.parent / 'other.db')) as connection:
        connection.execute('CREATE TABLE user (id)')
    done = run('list', '-f', str(path.parent / 'other.db'), code=7)
    assert 'has no table of users (create it with create-database)' in says(done)
    assert 'cannot be created' in says(run('create-database', '-f', '/nowhere/at/all.db', code=6))


@pytest.mark.usefixtures('cheap_hashes')
@pytest.mark.parametrize('name', ['', ' ', 'a:b', 'a\nb', 'a\x7fb', 'a\x85b'])
def test_names_that_could_not_log_in(run: Command, users: LocalUsers, name: str) -> None:
    assert 'the name of a user must not' in says(run('add', '-u', name, '-p', 'x', code=2))
    assert users.users() == []


def test_text_that_is_no_utf8(command: Command, users: LocalUsers) -> None:
    users.add(LocalUser('joe'), 'the secret')
    broken = os.fsdecode(b'\xff')
    for args in (['add', '-u', broken], ['delete', '-u', broken], ['modify', '-u', 'joe', '-p', broken]):
        command(*args, code=2)
    command('test-user', '-u', 'joe', '-p', broken, code=2)
    command('modify', '-u', 'joe', '-n', broken, code=2)
    command('modify', '-u', 'joe', '-n', 'two\nlines', code=2)


def test_the_wrong_usage(run: Command) -> None:
    run('rename', code=2)
    assert 'did you mean --readonly?' in run('list', '--readolny', code=2).stderr
    assert 'usage: nipap-passwd' in run().stdout


@pytest.mark.skipif(os.geteuid() != 0, reason='only root can become somebody else')
def test_a_file_of_somebody_else() -> None:
    with tempfile.TemporaryDirectory(prefix='nipap-test-', dir='/tmp') as name:
        directory = Path(name)
        directory.chmod(0o755)
        users = LocalUsers(directory / 'local_auth.db')
        users.create()
        users.add(LocalUser('joe'), 'the secret')
        as_nobody = ['-c', AS_NOBODY, '-f', users.path]
        done = run_python([*as_nobody, 'list'])
        assert (done.returncode, 'cannot be opened' in says(done)) == (6, True)
        os.chmod(users.path, 0o644)
        assert run_python([*as_nobody, 'test-user', '-u', 'joe', '-p', 'the secret']).returncode == 0
        done = run_python([*as_nobody, 'delete', '-u', 'joe'])
        assert (done.returncode, says(done)) == (6, f'{users.path}: cannot be written')
        done = run_python(['-c', AS_NOBODY, '-f', str(directory / 'new.db'), 'create-database'])
        assert (done.returncode, 'cannot be created' in says(done)) == (6, True)
        os.chmod(users.path, 0o666)
        done = run_python([*as_nobody, 'delete', '-u', 'joe'])
        assert (done.returncode, 'because its directory cannot' in says(done)) == (6, True)
        assert users.get('joe')


# ----------------------------------------------------------------------------------------------- the file and its owner


def test_the_file_of_the_configuration(run: Command, tmp_path: Path) -> None:
    conf = tmp_path / 'nipap.conf'
    conf.write_text('[nipapd]\nport = nonsense\n[auth.backends.local]\ntype = SqliteAuth\ndb_path = users.db\n')
    run('create-database', '-c', str(conf), '--data-dir', str(tmp_path))
    assert (tmp_path / 'users.db').is_file()
    run('create-database', '--data-dir', str(tmp_path))
    assert (tmp_path / 'local_auth.db').is_file()
    assert 'No such file' in says(run('list', '-c', '/nowhere/at/all.conf', code=2))
    conf.write_text('[auth]\ndefault_backend = x\n[auth.backends.x]\ntype = JwtAuth\nsigning_key = x\n')
    assert 'no auth backend of type SqliteAuth' in says(run('list', '-c', str(conf), code=2))
    backends = '[auth.backends.a]\ntype = SqliteAuth\n[auth.backends.b]\ntype = SqliteAuth\ndb_path = b.db\n'
    conf.write_text(f'[auth]\ndefault_backend = b\n{backends}')
    run('create-database', '-c', str(conf), '--data-dir', str(tmp_path))
    assert (tmp_path / 'b.db').is_file()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_only_the_owner_may_read_the_file(users: LocalUsers, path: Path) -> None:
    assert mode(path) == 0o600
    with users._change() as connection:
        connection.execute("INSERT INTO user (username, pwd_salt, pwd_hash) VALUES ('x', '', '')")
        assert mode(Path(f'{path}-journal')) == 0o600
    with closing(sqlite3.connect(path)) as connection:
        connection.execute('PRAGMA journal_mode = wal')
        connection.execute('DELETE FROM user')
        connection.commit()
        assert [mode(Path(f'{path}-{kind}')) for kind in ('wal', 'shm')] == [0o600, 0o600]


@pytest.mark.skipif(os.geteuid() != 0, reason='only root can give a file away')
def test_a_file_made_by_root_belongs_to_its_user(run: Command, tmp_path: Path) -> None:
    home = tmp_path / 'home'
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    run('create-database', '-f', str(home / 'a.db'))
    assert (home / 'a.db').stat().st_uid == NOBODY
    conf = tmp_path / 'nipap.conf'
    conf.write_text(f'[nipapd]\nuser = {NOBODY}\n')
    run('create-database', '-c', str(conf), '--data-dir', str(tmp_path))
    assert (tmp_path / 'local_auth.db').stat().st_uid == NOBODY
    with pytest.raises(UserFileError, match='cannot be created'):
        LocalUsers(tmp_path / 'c.db').create(owner='nobody-of-that-name')


def test_an_empty_file_gets_its_table(run: Command, path: Path) -> None:
    path.touch(0o640)
    run('create-database')
    run('latest-version')
    assert mode(path) == 0o640


# ----------------------------------------------------------------------------------------------------------- passwords


def test_passwords_from_a_pipe(command: Command, users: LocalUsers) -> None:
    command('add', '-u', 'joe', stdin='the secret\n')
    command('test-user', '-u', 'joe', stdin='the secret')
    command('modify', '-u', 'joe', stdin='the other\nthe other\n')
    command('test-user', '-u', 'joe', stdin='the other\n')
    command('test-user', '-u', 'joe', stdin='the secret\n', code=2, silent=True)
    assert says(command('modify', '-u', 'joe', stdin='the first\nthe second\n', code=2)) == 'the two passwords differ'
    assert says(command('modify', '-u', 'joe', stdin='\n', code=2)) == 'the password must not be empty'
    command('modify', '-u', 'joe', '-n', 'Joe')
    assert users.authenticate('joe', 'the other') == LocalUser('joe', 'Joe')


def at_terminal(path: Path, *args: str, answers: Sequence[str]) -> tuple[int, str]:
    """Run nipap-passwd at a terminal of its own, answer each prompt, and return exit code and screen."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(REPOSITORY)
        os.execv(sys.executable, [sys.executable, '-m', 'nipapd.passwd', *args, '-f', str(path)])
    screen, left = '', list(answers)
    for text in read_terminal(terminal):
        screen += text
        if left and screen.endswith(': '):
            os.write(terminal, f'{left.pop(0)}\n'.encode())
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), screen


def read_terminal(terminal: int) -> Iterator[str]:
    while True:
        try:
            data = os.read(terminal, 1000)
        except OSError:
            return
        yield data.decode()


@pytest.mark.filterwarnings('ignore:This process .* is multi-threaded:DeprecationWarning')
def test_passwords_at_a_terminal(users: LocalUsers, path: Path) -> None:
    code, screen = at_terminal(path, 'add', '-u', 'joe', answers=['the secret', 'the secret'])
    assert code == 0
    assert 'New password: ' in screen
    assert 'the secret' not in screen
    assert at_terminal(path, 'test-user', '-u', 'joe', answers=['the secret'])[0] == 0
    assert at_terminal(path, 'modify', '-u', 'joe', answers=['the first', 'the second'])[0] == 2
    assert at_terminal(path, 'test-user', '-u', 'joe', answers=['one'])[0] == 2
    assert 'exists already' in at_terminal(path, 'add', '-u', 'joe', answers=[])[1]


def test_passwords_are_stored_with_scrypt(users: LocalUsers, path: Path) -> None:
    users.add(LocalUser('joe'), 'the secret')
    users.add(LocalUser('ann'), 'the secret')
    assert re.fullmatch(r'\$scrypt\$ln=15,r=8,p=1\$[\w+/]{22}\$[\w+/]{43}', stored(path)[1])
    assert stored(path)[1] != stored(path, 'ann')[1]
    assert b'the secret' not in path.read_bytes()


def test_other_parameters_are_brought_up_to_date(users: LocalUsers, path: Path) -> None:
    users.add(LocalUser('joe'), 'the secret')
    digest = hashlib.scrypt(b'the secret', salt=b'salt', n=1024, r=4, p=2, dklen=16)
    weaker = f'$scrypt$ln=10,r=4,p=2$c2FsdA${local_users._to_base64(digest)}'
    with users._change() as connection:
        connection.execute('UPDATE user SET pwd_hash = ?', (weaker,))
    assert users.authenticate('joe', 'wrong') is None
    assert stored(path)[1] == weaker
    assert users.authenticate('joe', 'the secret')
    assert stored(path)[1].startswith('$scrypt$ln=15,r=8,p=1$')
    assert users.authenticate('joe', 'the secret')


@pytest.mark.usefixtures('cheap_hashes')
@pytest.mark.parametrize(
    'damaged',
    [
        '',
        'x',
        'the secret',
        '$2b$12$xyz',
        '$scrypt$ln=15,r=8,p=1$c$c',
        '$scrypt$ln=0,r=8,p=1$c2FsdA$c2FsdA',
        '$scrypt$ln=10,r=0,p=0$c2FsdA$c2FsdA',
        '$scrypt$ln=99,r=8,p=1$c2FsdA$c2FsdA',
        '$scrypt$ln=29,r=999,p=999$c2FsdA$c2FsdA',
    ],
)
def test_damaged_hashes_let_nobody_in(users: LocalUsers, damaged: str) -> None:
    users.add(LocalUser('joe'), 'the secret')
    with users._change() as connection:
        connection.execute('UPDATE user SET pwd_hash = ?', (damaged,))
    assert users.authenticate('joe', 'the secret') is None
    assert users.authenticate('joe', '') is None


# --------------------------------------------------------------------------------------------------------- older files


def test_older_hashes_are_replaced_at_login(path: Path) -> None:
    old_file(path)
    users = LocalUsers(path)
    assert users.authenticate('joe', 'wrong') is None
    assert users.authenticate('joe', 'right', rehash=False)
    assert stored(path)[0] == '12345678'
    assert users.authenticate('joe', 'right') == LocalUser('joe', 'Joe Doe', trusted=True)
    assert stored(path)[1].startswith('$scrypt$')
    assert users.authenticate('joe', 'right') == LocalUser('joe', 'Joe Doe', trusted=True)
    assert users.authenticate('joe', 'wrong') is None


def test_older_hashes_work_where_nothing_can_be_written(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    old_file(path)
    with closing(sqlite3.connect(path)) as lock:
        monkeypatch.setattr(sqlite3, 'connect', short_of_patience(sqlite3.connect))
        lock.execute('BEGIN IMMEDIATE')
        assert LocalUsers(path).authenticate('joe', 'right')
    assert 'cannot store a newer hash' in caplog.text
    assert 'is locked by another process' in caplog.text
    assert stored(path)[0] == '12345678'


def short_of_patience(connect: Callable[..., sqlite3.Connection]) -> Callable[..., sqlite3.Connection]:
    return lambda *args, **options: connect(*args, **{**options, 'timeout': 0})


def test_a_password_changed_meanwhile_is_not_overwritten(path: Path, users: LocalUsers) -> None:
    users.add(LocalUser('joe'), 'new')
    before = stored(path)
    users._replace_hash('joe', 'what it was', '$scrypt$newer')
    assert stored(path) == before


@pytest.mark.usefixtures('cheap_hashes')
def test_older_layouts(run: Command, path: Path) -> None:
    old_file(path)
    assert 'older layout' in says(run('latest-version', code=2))
    assert run('list').stdout.splitlines()[2].split() == ['joe', 'Joe', 'Doe', '1', '0']
    for args in (['add', '-u', 'ann', '-p', 'x'], ['modify', '-u', 'joe', '-r']):
        assert 'older layout (bring it up to date: upgrade-database)' in says(run(*args, code=7))
    run('test-user', '-u', 'joe', '-p', 'right')
    run('upgrade-database')
    run('latest-version')
    run('modify', '-u', 'joe', '-r')
    assert LocalUsers(path).get('joe') == LocalUser('joe', 'Joe Doe', trusted=True, readonly=True)


def test_the_oldest_layout(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute('CREATE TABLE user (username NOT NULL PRIMARY KEY, pwd_salt NOT NULL, pwd_hash NOT NULL)')
        connection.execute(
            "INSERT INTO user VALUES ('joe', 12345678, ?)", (hashlib.sha1(b'12345678right').hexdigest(),)
        )
        connection.commit()
    users = LocalUsers(path)
    assert users.authenticate('joe', 'right') == LocalUser('joe')
    assert users.upgrade()
    assert not users.upgrade()
    assert users.is_latest()


def test_a_file_made_by_a_newer_daemon(users: LocalUsers, path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute('ALTER TABLE user ADD COLUMN color')
    assert users.is_latest()
    users.add(LocalUser('joe'), 'the secret')
    assert users.get('joe') == LocalUser('joe')


# ------------------------------------------------------------------------------------------------------- while running


@pytest.mark.usefixtures('cheap_hashes')
def test_a_running_authenticator_sees_the_command_at_once(run: Command, users: LocalUsers) -> None:
    settings = AuthSettings('local', 3600, {'local': BackendSettings('local', 'SqliteAuth', {'db_path': users.path})})
    authenticator = Authenticator(settings)
    run('add', '-u', 'joe', '-p', 'the secret')
    assert not authenticator.login('joe', 'the secret').readonly
    run('modify', '-u', 'joe', '-r')
    assert authenticator.login('joe', 'the secret').readonly
    assert authenticator.known_login('joe', 'the secret')
    run('delete', '-u', 'joe')
    assert authenticator.known_login('joe', 'the secret') is None
    authenticator.close()


def test_every_error_has_an_exit_code() -> None:
    wanted_already = {local_users.UserExistsError, local_users.UserFileExistsError}
    assert set(UserFileError.__subclasses__()) <= {*passwd.EXIT_CODES, *wanted_already}
    assert 0 not in passwd.EXIT_CODES.values()
