"""The watch of a file of accounts misses no change, made in any way and with any time on the file."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from nipap.access.local_users import FileWatch

SETTLED_S = 0.05


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / 'accounts.db'
    with closing(sqlite3.connect(path)) as connection:
        connection.execute('CREATE TABLE user (name text)')
        connection.commit()
    return path


@pytest.fixture
def watch(file: Path) -> Iterator[FileWatch]:
    watch = FileWatch(str(file), SETTLED_S)
    yield watch
    watch.close()


def add(file: Path, name: str = 'x') -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute('INSERT INTO user VALUES (?)', (name,))
        connection.commit()


def settle(file: Path) -> None:
    """Wait until the last change of the file no longer counts as recent."""
    while time.time_ns() - os.stat(file).st_ctime_ns < 2e9 * SETTLED_S:
        time.sleep(0.005)


def use_wal(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute('PRAGMA journal_mode = wal')


def add_and_set_back_the_time(file: Path) -> None:
    status = os.stat(file)
    add(file)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def put_another_in_its_place(file: Path) -> None:
    shutil.copy2(file, file.with_suffix('.new'))
    os.replace(file.with_suffix('.new'), file)


def copy_over_it(file: Path) -> None:
    shutil.copy2(file, file.with_suffix('.new'))
    shutil.copyfile(file.with_suffix('.new'), file)


CHANGES = [add, add_and_set_back_the_time, put_another_in_its_place, copy_over_it, use_wal]


@pytest.mark.parametrize('change', CHANGES)
def test_a_change_after_a_long_rest_is_seen(file: Path, watch: FileWatch, change: Callable[[Path], None]) -> None:
    for number in range(3):
        settle(file)
        before = watch.revision()
        assert watch.revision() == before
        if change is not use_wal or number == 0:
            change(file)
            assert watch.revision() > before


def test_no_change_of_many_within_one_tick_is_missed(file: Path, watch: FileWatch) -> None:
    settle(file)
    seen = watch.revision()
    for number in range(100):
        add(file, str(number))
        before, seen = seen, watch.revision()
        assert seen > before


def test_commits_in_another_file_are_seen(file: Path, watch: FileWatch) -> None:
    use_wal(file)
    with closing(sqlite3.connect(file)):  # while another connection has the file open, commits stay in the other file
        for number in range(20):
            settle(file)
            before = watch.revision()
            assert watch.revision() == before
            add(file, str(number))
            assert watch.revision() > before


def test_a_file_at_rest_is_not_read(file: Path, watch: FileWatch, monkeypatch: pytest.MonkeyPatch) -> None:
    watch.revision()
    settle(file)
    watch.revision()
    statements: list[str] = []
    assert watch._connection is not None
    watch._connection.set_trace_callback(statements.append)
    watch.revision()
    assert statements == []


def test_a_closed_watch_has_no_file_open(file: Path, watch: FileWatch) -> None:
    """A watch is closed so that another file can take the place, or the data directory can be removed."""

    def is_open() -> bool:
        return any(os.path.realpath(entry) == str(file) for entry in Path('/proc/self/fd').iterdir())

    watch.revision()
    assert is_open()
    watch.close()
    assert not is_open()
    assert watch.revision() > 0
