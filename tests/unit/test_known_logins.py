"""Logins that are known to all handlers: no hash and no limit, while the account is unchanged."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nipap.access import known_logins, local_users
from nipap.access.authentication import Authenticator, AuthSettings, BackendSettings
from nipap.access.known_logins import STATE_SIZE, KnownLogins
from nipap.access.local_users import LocalUser, LocalUsers
from nipap.access.login_limits import LoginCounts
from nipap.errors import AuthenticationFailedError

HERE = '192.0.2.1'
STATE = b's' * STATE_SIZE
Make = Callable[..., Authenticator]


@pytest.fixture(autouse=True)
def _cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_users, '_LOG2_N', 4)


@pytest.fixture
def users(tmp_path: Path) -> LocalUsers:
    local = LocalUsers(tmp_path / 'accounts.db')
    local.create()
    for name in ('ann', 'bob'):
        local.add(LocalUser(name), f'password of {name}')
    return local


@pytest.fixture
def make(users: LocalUsers) -> Iterator[Make]:
    """Yield a maker of authenticators with shared memory, like the handlers of one daemon."""
    counts, known = LoginCounts(), KnownLogins()
    made: list[Authenticator] = []

    def maker(cache_timeout_s: int = 3600) -> Authenticator:
        backends = {'local': BackendSettings('local', 'SqliteAuth', {'db_path': users.path})}
        settings = AuthSettings('local', cache_timeout_s, backends, failed_logins=4, failed_logins_window_s=10_000)
        made.append(Authenticator(settings, counts, known))
        return made[-1]

    yield maker
    for authenticator in made:
        authenticator.close()


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that collects the users whose passwords are hashed."""
    found: list[str] = []
    authenticate = LocalUsers.authenticate

    def noting(self: LocalUsers, username: str, password: str, rehash: bool = True) -> LocalUser | None:
        found.append(username)
        return authenticate(self, username, password, rehash)

    monkeypatch.setattr(LocalUsers, 'authenticate', noting)
    return found


def is_heard(authenticator: Authenticator, name: str, password: str | None = None) -> bool:
    try:
        return authenticator.login(name, password or f'password of {name}', HERE).username == name
    except AuthenticationFailedError:
        return False


def use_up(authenticator: Authenticator) -> None:
    """Fail logins until the address is refused."""
    for number in range(4):
        assert not is_heard(authenticator, f'nobody {number}')
    with pytest.raises(AuthenticationFailedError, match='too many failed logins'):
        authenticator.login('nobody', 'x', HERE)


def test_a_login_at_one_handler_is_known_to_the_others(make: Make, hashed: list[str]) -> None:
    first, second = make(), make()
    assert is_heard(first, 'ann')
    assert is_heard(second, 'ann')
    assert hashed == ['ann']
    use_up(second)
    third = make()
    assert all(is_heard(each, 'ann') for each in (first, second, third) * 3)
    assert hashed.count('ann') == 1
    assert not is_heard(third, 'bob')  # never logged in before
    assert not is_heard(third, 'ann', 'password of bob')


def test_a_user_who_logged_in_within_a_day_is_not_refused(
    make: Make, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The password is checked again, once `auth_cache_timeout` is over."""
    authenticator = make(60)
    assert is_heard(authenticator, 'ann')
    use_up(authenticator)
    hashed.clear()
    later = time.monotonic() + 61
    monkeypatch.setattr(time, 'monotonic', lambda: later)
    assert authenticator.known_login('ann', 'password of ann') is None
    assert is_heard(authenticator, 'ann')
    assert hashed == ['ann']
    later += known_logins.KEPT_S
    assert make(60).known_login('ann', 'password of ann') is None


def test_a_change_of_one_account_is_none_of_the_others(make: Make, users: LocalUsers, hashed: list[str]) -> None:
    first, second = make(), make()
    assert is_heard(first, 'ann')
    assert is_heard(first, 'bob')
    use_up(first)
    hashed.clear()
    users.add(LocalUser('new'), 'password of new')
    users.modify('bob', readonly=True)
    for authenticator in (first, second):
        assert is_heard(authenticator, 'ann')
        assert not is_heard(authenticator, 'bob')
    users.delete('bob')
    users.modify('ann', password='another password')
    for authenticator in (first, second):
        assert not is_heard(authenticator, 'ann')
        assert not is_heard(authenticator, 'bob')
    assert hashed == []


def test_a_change_back_is_known_again(make: Make, users: LocalUsers, hashed: list[str]) -> None:
    authenticator = make()
    assert is_heard(authenticator, 'ann')
    users.modify('ann', readonly=True)
    users.modify('ann', readonly=False)
    assert is_heard(authenticator, 'ann')
    assert hashed == ['ann']


# -------------------------------------------------------------------------------------------------------------- memory


def test_nothing_is_told_by_the_memory() -> None:
    known = KnownLogins()
    assert not any(known._memory.bytes)
    digest = known.digest('local', 'ann', 'a password')
    known.note(digest, STATE)
    assert any(known._memory.bytes)
    for word in (b'ann', b'password', b'local'):
        assert word not in known._memory.bytes
    assert digest != KnownLogins().digest('local', 'ann', 'a password')


def test_logins_are_told_apart() -> None:
    known = KnownLogins()
    logins = [('local', 'ann', 'pass'), ('local', 'annp', 'ass'), ('other', 'ann', 'pass'), ('loca', 'lann', 'pass')]
    assert len({known.digest(*login) for login in logins}) == len(logins)


def test_processes_know_together() -> None:
    known = KnownLogins(shared=True)
    digest = known.digest('local', 'ann', 'x')
    child = os.fork()
    if child == 0:
        try:
            known.note(digest, STATE)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    found = known.find(digest)
    known.close()
    assert found is not None
    assert found.state == STATE


def test_the_oldest_are_forgotten_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_logins, '_SETS', 1)
    known = KnownLogins()
    digests = [known.digest('local', f'user {number}', 'x') for number in range(known_logins._WAYS + 1)]
    moments = iter(range(1, 100))
    monkeypatch.setattr(time, 'monotonic', lambda: float(next(moments)))
    for digest in digests[:-1]:
        known.note(digest, STATE)
    known.note(digests[0], STATE)  # proved again
    known.note(digests[-1], STATE)
    assert [known.find(digest) is not None for digest in digests] == [True, False, *[True] * 7]
