"""Checks of ratios of timings.

A busy machine breaks these checks, so `make bench` runs them. The ordinary tests count calls instead.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from nipap.access import local_users
from nipap.access.authentication import Authenticator, AuthSettings, BackendSettings, LocalUsers
from nipap.access.local_users import LocalUser
from nipap.errors import AuthenticationFailedError

Make = Callable[[int], Authenticator]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Return a maker of an authenticator with two users.

    The password of joe is hashed with the given `log2_n`. The user old has an older hash.
    """
    made: list[Authenticator] = []

    def maker(log2_n: int) -> Authenticator:
        monkeypatch.setattr(local_users, '_LOG2_N', log2_n)
        users = LocalUsers(tmp_path / 'local_auth.db')
        users.create()
        users.add(LocalUser('joe'), 'right')
        with closing(sqlite3.connect(users.path)) as connection, connection:
            digest = hashlib.sha1(b'saltright').hexdigest()
            connection.execute("INSERT INTO user VALUES ('old', 'salt', ?, NULL, 0, 0)", (digest,))
        backends = {'local': BackendSettings('local', 'SqliteAuth', {'db_path': users.path})}
        made.append(Authenticator(AuthSettings('local', 3600, backends)))
        return made[-1]

    yield maker
    for authenticator in made:
        authenticator.close()


def timed(call: Callable[[], object], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


def test_a_remembered_login_is_cheap(make: Make) -> None:
    authenticator = make(14)
    first_s = timed(lambda: authenticator.login('joe', 'right'), 1)
    best_s = min(timed(lambda: authenticator.login('joe', 'right'), 100) for _ in range(20))
    assert best_s < first_s / 100


def test_unknown_users_and_old_hashes_cost_the_same_time(make: Make) -> None:
    authenticator = make(13)

    def cost_s(username: str) -> float:
        start = time.process_time()
        with pytest.raises(AuthenticationFailedError):
            authenticator.login(username, 'wrong')
        return time.process_time() - start

    known_s, unknown_s, old_s = (min(cost_s(name) for _ in range(5)) for name in ('joe', 'nobody', 'old'))
    assert known_s / 2 < unknown_s < known_s * 2
    assert known_s / 2 < old_s < known_s * 2
