"""The pid file: its content and place, and all files that must not be touched."""

from __future__ import annotations

import fcntl
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from nipapd.pidfile import PidFileError, pid_file

REPOSITORY = Path(__file__).resolve().parents[2]
HOLD = """
import sys
from pathlib import Path
from nipapd.pidfile import pid_file
with pid_file(Path(sys.argv[1])):
    print('held', flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / 'nipapd.pid'


def refused(path: Path, problem: str) -> None:
    with pytest.raises(PidFileError, match=rf'^cannot write the pid file {re.escape(str(path))}: {problem}$'):
        hold(path)


def hold(path: Path) -> None:
    with pid_file(path):
        assert path.read_text() == f'{os.getpid()}\n'
    assert not path.exists()


def holder(path: Path) -> subprocess.Popen[str]:
    """Return another process that holds the pid file until it reads a line."""
    pipe = subprocess.PIPE
    command = [sys.executable, '-c', HOLD, str(path)]
    made = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env={'PYTHONPATH': str(REPOSITORY)})
    assert made.stdout is not None
    assert made.stdout.readline() == 'held\n'
    return made


@pytest.mark.parametrize('former', [None, '', '1\n', '4194304', ' 77\r\n'])
def test_the_file_of_a_former_daemon_is_overwritten(path: Path, former: str | None) -> None:
    if former is not None:
        path.write_text(former)
    hold(path)


@pytest.mark.parametrize('content', ['[nipapd]\nport = 1\n', '1337 not a number', '1\n2\n', '7' * 64 + 'x', '\0'])
def test_a_file_of_other_content_is_left_alone(path: Path, content: str) -> None:
    path.write_text(content)
    refused(path, 'it must contain a process id only')
    assert path.read_text() == content


def test_links_and_other_things_are_left_alone(path: Path, tmp_path: Path) -> None:
    other = tmp_path / 'other'
    other.write_text('1\n')
    path.symlink_to(other)
    refused(path, 'Too many levels of symbolic links')
    path.unlink()
    os.link(other, path)
    refused(path, 'it must be a regular file without further hard links')
    path.unlink()
    os.mkfifo(path)
    refused(path, 'it must be a regular file without further hard links')
    path.unlink()
    path.mkdir()
    refused(path, 'Is a directory')
    assert other.read_text() == '1\n'


def test_a_directory_in_which_anybody_may_replace_it(path: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    refused(path, 'anybody may replace files in its directory')
    assert not path.exists()
    tmp_path.chmod(0o1777)
    hold(path)


@pytest.mark.skipif(os.geteuid() != 0, reason='only root can make files of others')
def test_a_file_of_somebody_else_where_anybody_may_put_one(path: Path, tmp_path: Path) -> None:
    path.write_text('1\n')
    os.chown(path, 65534, 65534)
    tmp_path.chmod(0o1777)
    refused(path, 'it belongs to another account')
    assert path.read_text() == '1\n'
    os.chown(tmp_path, 65534, 65534)
    path.unlink()
    refused(path, 'anybody may replace files in its directory')


def test_it_is_readable_by_all_and_written_by_us(path: Path) -> None:
    before = os.umask(0)
    try:
        with pid_file(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o644
    finally:
        os.umask(before)


def test_a_second_one_is_refused_while_the_first_lives(path: Path) -> None:
    with holder(path) as first:
        problem = rf'^the pid file {re.escape(str(path))} is in use by a running daemon, process {first.pid}$'
        with pytest.raises(PidFileError, match=problem):
            hold(path)
        assert path.read_text() == f'{first.pid}\n'
        first.kill()
        first.wait()
        hold(path)


def flock_says(path: Path) -> int:
    """Return the exit code of the command of init scripts: 0 if the file is not locked, 1 if it is."""
    return subprocess.run(['flock', '-xn', path, '-c', 'true']).returncode


def test_scripts_that_look_with_flock_see_that_it_is_locked(path: Path) -> None:
    with holder(path) as other:
        assert flock_says(path) == 1
        other.communicate('\n')
    path.touch()
    assert flock_says(path) == 0


def test_a_script_that_looks_at_this_moment_is_waited_for(path: Path) -> None:
    path.touch()
    script = subprocess.Popen(['flock', '-xn', path, '-c', 'echo held; sleep 0.3'], stdout=subprocess.PIPE)
    with script:
        assert script.stdout is not None
        assert script.stdout.readline() == b'held\n'
        with pid_file(path):
            assert flock_says(path) == 1


def test_a_user_with_read_access_cannot_lock_a_daemon_out(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr('nipapd.pidfile.LOOK_S', 0.1)
    path.touch()
    with path.open('rb') as reading:
        fcntl.flock(reading, fcntl.LOCK_EX)
        hold(path)
    assert 'is locked by another process: scripts that test it with flock may be wrong' in caplog.text


def test_a_child_does_not_keep_it(path: Path) -> None:
    read, write = os.pipe()
    with pid_file(path) as descriptor:
        child = os.fork()
        if child == 0:
            os.close(descriptor)
            os.close(write)
            os.read(read, 1)
            os._exit(0)
    assert not path.exists()
    path.touch()
    assert flock_says(path) == 0
    path.unlink()
    with holder(path) as other:
        other.communicate('\n')
    os.close(write)
    os.waitpid(child, 0)
    os.close(read)


def test_a_file_put_in_its_place_stays(path: Path) -> None:
    with pid_file(path):
        path.unlink()
        path.write_text('1\n')
    assert path.read_text() == '1\n'
