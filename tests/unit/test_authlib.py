"""Test actors, logins and tokens, and the cache of logins and its expiry."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import jwt
import pytest
from flask import Request
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.test import EnvironBuilder

from nipap.access import local_users, login_limits
from nipap.access.authentication import (
    Actor,
    Authenticator,
    AuthSettings,
    BackendSettings,
    Credentials,
    LocalUsers,
    identity_of,
    make_actor,
    to_bool,
)
from nipap.access.local_users import LocalUser
from nipap.errors import AuthenticationFailedError, AuthenticationMissingError, NipapError, NipapValueError
from nipap.http.credentials import auth_options, credentials_from_request
from nipap.runtime import waiting
from nipap.runtime.runtime import Runtime

T = TypeVar('T')
REPOSITORY = Path(__file__).resolve().parents[2]
SECRET = 'k3y-of-thirty-two-bytes-or-more!!'
SOURCE = {'authoritative_source': 'tests'}
INCORRECT = r'^Incorrect username or password\.$'


@pytest.fixture(autouse=True)
def _cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_users, '_LOG2_N', 4)


@pytest.fixture
def users(tmp_path: Path) -> LocalUsers:
    """Return a file with joe (password 'right'), a user with the usual rights only."""
    local = LocalUsers(tmp_path / 'local_auth.db')
    local.create()
    local.add(LocalUser('joe', 'Joe Doe'), 'right')
    return local


@pytest.fixture
def make(users: LocalUsers) -> Iterator[Callable[..., Authenticator]]:
    """Yield a maker of authenticators for that file, and for tokens if there are options."""
    made: list[Authenticator] = []

    def maker(cache_timeout_s: int = 3600, **token_options: str) -> Authenticator:
        backends = {'local': BackendSettings('local', 'SqliteAuth', {'db_path': users.path})}
        if token_options:
            backends['sso'] = BackendSettings('sso', 'JwtAuth', token_options)
        made.append(Authenticator(AuthSettings('local', cache_timeout_s, backends)))
        return made[-1]

    yield maker
    for authenticator in made:
        authenticator.close()


# -------------------------------------------------------------------------------------------------------------- actors


def test_the_actor_of_an_ordinary_user() -> None:
    options = {**SOURCE, 'username': 'boss', 'full_name': 7, 'readonly': 'gibberish'}
    actor = make_actor(Credentials('joe', 'Joe Doe'), options)
    assert actor == Actor('joe', 'Joe Doe', 'joe', 'tests', readonly=False, trusted=False)


def test_a_trusted_user_acts_for_others() -> None:
    trusted = Credentials('web', 'Web UI', trusted=True)
    assert make_actor(trusted, SOURCE) == Actor('web', 'Web UI', 'web', 'tests', False, True)
    options = {**SOURCE, 'username': 'ann', 'full_name': 'Ann B'}
    assert make_actor(trusted, options) == Actor('ann', 'Ann B', 'web', 'tests', False, True)
    assert make_actor(trusted, {**SOURCE, 'username': 'ann'}).full_name is None
    assert make_actor(trusted, {**SOURCE, 'username': None, 'full_name': None}).full_name == 'Web UI'


def test_users_of_different_backends_have_different_names() -> None:
    """A name in the default backend may read like the name of a user in another backend."""
    names = ('local', 'ldap', 'sso')
    settings = AuthSettings('local', 60, {name: BackendSettings(name, 'SqliteAuth') for name in names})
    users = [(name, user) for name in names for user in ('ann', 'ann@ldap', 'ann@ldap@local', 'ann@local', 'ann@x.org')]
    found = [identity_of(settings, name, user) or user for name, user in users]
    assert len(set(found)) == len(users)
    assert found[:6] == ['ann', 'ann@ldap@local', 'ann@ldap@local@local', 'ann@local@local', 'ann@x.org', 'ann@ldap']
    actor = make_actor(Credentials('ann', 'Ann', identity='ann@ldap', trusted=True), SOURCE)
    assert actor == Actor('ann', 'Ann', 'ann@ldap', 'tests', False, True)


def test_a_token_names_a_user_of_its_backend(make: Callable[..., Authenticator]) -> None:
    claims = {'sub': 'joe', 'exp': int(time.time()) + 60}
    credentials = make(signing_key=SECRET).login_token(jwt.encode(claims, SECRET))
    assert (credentials.username, credentials.authenticated_as) == ('joe', 'joe@sso')


@pytest.mark.parametrize('value', [True, 1, 'true', 'yes', 'True', 'YES', '1'])
def test_a_trusted_user_may_give_up_writing(value: object) -> None:
    assert make_actor(Credentials('web', trusted=True), {**SOURCE, 'readonly': value}).readonly


@pytest.mark.parametrize('value', [False, 0, 'false', 'no', '', None, '0'])
@pytest.mark.parametrize('trusted', [False, True])
def test_nobody_gains_the_right_to_write(value: object, trusted: bool) -> None:
    options = {**SOURCE, 'readonly': value, 'username': 'ann'}
    assert make_actor(Credentials('web', readonly=True, trusted=trusted), options).readonly
    assert not make_actor(Credentials('web', trusted=trusted), options).readonly


@pytest.mark.parametrize('options', [{}, {'authoritative_source': None}, {'authoritative_source': 7}])
def test_the_authoritative_source_is_mandatory(options: dict[str, object]) -> None:
    with pytest.raises(NipapError, match=r'^Missing authoritative source in auth options\.$') as error:
        make_actor(Credentials('joe'), options)
    assert error.value.code == 1000


@pytest.mark.parametrize(
    ('option', 'value', 'code'),
    [('username', 7, 1100), ('full_name', ['x'], 1100), ('username', 'a\0b', 1200), ('readonly', 'perhaps', 1200)],
)
def test_options_of_the_wrong_type(option: str, value: object, code: int) -> None:
    with pytest.raises(NipapError, match=f"'{option}' in auth options") as error:
        make_actor(Credentials('web', trusted=True), {**SOURCE, option: value})
    assert error.value.code == code


@pytest.mark.parametrize('option', ['authoritative_source', 'username', 'full_name'])
@pytest.mark.parametrize(
    'value', ['x\x08', 'a\nb', 'a\tb', 'a\x7f', 'a\u2028', 'a\u202eb', 'a\u2066b', 'x' * 256, 'x' * 2**20]
)
def test_no_name_is_stored_that_breaks_lines_or_is_long(option: str, value: str) -> None:
    with pytest.raises(NipapValueError, match=f"^'{option}' in auth options has "):
        make_actor(Credentials('joe', trusted=True), {**SOURCE, option: value})


@given(value=st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.lists(st.integers())))
def test_any_value_is_true_or_false_or_neither(value: object) -> None:
    assert to_bool(value) in (True, False, None)
    assert to_bool(value) == to_bool(str(value)) or value is None


# -------------------------------------------------------------------------------------------------------------- logins


def test_login(make: Callable[..., Authenticator]) -> None:
    authenticator = make()
    assert authenticator.login('joe', 'right') == Credentials('joe', 'Joe Doe', False, False)
    assert authenticator.login('joe@local', 'right') == Credentials('joe', 'Joe Doe', False, False)


@pytest.mark.parametrize(
    ('username', 'password'),
    [
        ('joe', 'wrong'),
        ('joe', ''),
        ('Joe', 'right'),
        ('', ''),
        ('nobody', 'right'),
        ('joe\0', 'right'),
        ('joe', '\ud800'),
        ('\ud800', 'right'),
    ],
)
def test_wrong_logins(make: Callable[..., Authenticator], username: str, password: str) -> None:
    authenticator = make()
    for _ in range(2):
        with pytest.raises(AuthenticationFailedError, match=INCORRECT):
            authenticator.login(username, password)
        assert authenticator.known_login(username, password) is None


@pytest.mark.parametrize('username', ['joe@nosuch', 'joe@', 'a@local@x\n', 'joe@sso', 'joe@ldap', 'joe@local', 'joe'])
def test_backends_cannot_be_listed(
    make: Callable[..., Authenticator], users: LocalUsers, hashes: list[dict[str, int]], username: str
) -> None:
    """Logins at an unknown backend fail like wrong ones: with the same text, after as many hashes, and as often."""
    backends = {
        'local': BackendSettings('local', 'SqliteAuth', {'db_path': users.path}),
        'sso': BackendSettings('sso', 'JwtAuth', {'signing_key': SECRET}),
        'ldap': BackendSettings('ldap', 'LdapAuth', refusal='type = LdapAuth is not supported'),
    }
    authenticator = Authenticator(AuthSettings('local', 3600, backends, failed_logins=4))
    for attempt in (1, 2):
        with pytest.raises(AuthenticationFailedError, match=INCORRECT):
            authenticator.login(username, 'wrong', '192.0.2.1')
        assert hashes == [{'n': 16, 'r': 8, 'p': 1, 'maxmem': hashes[0]['maxmem'], 'dklen': 32}] * attempt
    with pytest.raises(AuthenticationFailedError, match='too many failed logins'):
        authenticator.login(username, 'wrong', '192.0.2.1')
    authenticator.close()


def test_without_local_accounts_every_backend_takes_as_long(hashes: list[dict[str, int]]) -> None:
    backends = {'sso': BackendSettings('sso', 'JwtAuth', {'signing_key': SECRET})}
    authenticator = Authenticator(AuthSettings('sso', 3600, backends))
    for number, username in enumerate(('joe', 'joe@sso', 'joe@nosuch'), 1):
        with pytest.raises(AuthenticationFailedError, match=INCORRECT):
            authenticator.login(username, 'right')
        assert len(hashes) == number


def test_a_user_of_a_backend_that_is_none_is_nobody(make: Callable[..., Authenticator], users: LocalUsers) -> None:
    """The user has the very name that is looked up to keep the time constant."""
    with sqlite3.connect(users.path) as connection:
        connection.execute("UPDATE user SET username = 'joe:'")
    connection.close()
    with pytest.raises(AuthenticationFailedError, match=INCORRECT):
        make().login('joe@nosuch', 'right')


def test_a_missing_file_is_a_fault_without_its_path(make: Callable[..., Authenticator], users: LocalUsers) -> None:
    authenticator = make()
    authenticator.login('joe', 'right')
    os.rename(users.path, f'{users.path}.away')
    with pytest.raises(NipapError, match=r'^The auth backend is not available\.$') as error:
        authenticator.login('joe', 'right')
    assert error.value.code == 1010
    os.rename(f'{users.path}.away', users.path)
    assert authenticator.login('joe', 'right')


def test_a_damaged_file_is_a_fault(make: Callable[..., Authenticator], users: LocalUsers) -> None:
    authenticator = make()
    authenticator.login('joe', 'right')
    Path(users.path).write_bytes(b'nonsense' * 1000)
    with pytest.raises(NipapError, match='is not available'):
        authenticator.login('joe', 'right')


# --------------------------------------------------------------------------------------------------------------- cache


def test_right_answers_are_remembered_and_wrong_ones_are_not(make: Callable[..., Authenticator]) -> None:
    authenticator = make()
    assert authenticator.known_login('joe', 'right') is None
    credentials = authenticator.login('joe', 'right')
    assert authenticator.known_login('joe', 'right') is credentials
    assert authenticator.login('joe', 'right') is credentials
    assert authenticator.known_login('joe', 'righ') is None
    assert authenticator.known_login('joer', 'ight') is None


def test_no_password_is_kept(make: Callable[..., Authenticator]) -> None:
    authenticator = make()
    authenticator.login('joe', 'right')
    digest, *others = authenticator._local['local']._cache._entries
    assert others == []
    assert b'right' not in digest
    assert len(digest) == 32


def test_answers_are_forgotten_after_a_while(
    make: Callable[..., Authenticator], monkeypatch: pytest.MonkeyPatch
) -> None:
    authenticator, never = make(60), make(0)
    authenticator.login('joe', 'right')
    never.login('joe', 'right')
    assert never.known_login('joe', 'right') is None
    later = time.monotonic() + 59
    monkeypatch.setattr(time, 'monotonic', lambda: later)
    assert authenticator.known_login('joe', 'right')
    monkeypatch.setattr(time, 'monotonic', lambda: later + 1)
    assert authenticator.known_login('joe', 'right') is None


def test_a_change_holds_at_once(make: Callable[..., Authenticator], users: LocalUsers) -> None:
    authenticator = make()
    assert not authenticator.login('joe', 'right').readonly
    users.modify('joe', readonly=True)
    assert authenticator.known_login('joe', 'right') is None
    assert authenticator.login('joe', 'right').readonly
    users.modify('joe', password='other')
    with pytest.raises(AuthenticationFailedError):
        authenticator.login('joe', 'right')
    assert authenticator.login('joe', 'other')
    users.delete('joe')
    with pytest.raises(AuthenticationFailedError):
        authenticator.login('joe', 'other')


def test_a_change_that_leaves_the_times_alone_holds_at_once(
    make: Callable[..., Authenticator], users: LocalUsers
) -> None:
    authenticator = make()
    authenticator.login('joe', 'right')
    before = os.stat(users.path)
    users.modify('joe', readonly=True)
    os.utime(users.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert authenticator.login('joe', 'right').readonly


@pytest.mark.parametrize('put', [os.replace, shutil.copyfile])
def test_a_file_put_in_its_place_holds_at_once(
    make: Callable[..., Authenticator], users: LocalUsers, put: Callable[[str, str], object]
) -> None:
    other = LocalUsers(f'{users.path}.other')
    other.create()
    other.add(LocalUser('joe', 'Another', trusted=True), 'right')
    authenticator = make()
    assert not authenticator.login('joe', 'right').trusted
    put(other.path, users.path)
    assert authenticator.login('joe', 'right').trusted


def test_a_file_in_wal_mode_works_too(make: Callable[..., Authenticator], users: LocalUsers) -> None:
    connection = sqlite3.connect(users.path)
    assert connection.execute('PRAGMA journal_mode = wal').fetchone() == ('wal',)
    connection.close()
    authenticator = make()
    authenticator.login('joe', 'right')
    assert authenticator.known_login('joe', 'right')
    users.modify('joe', readonly=True)
    assert authenticator.login('joe', 'right').readonly


def test_an_answer_from_before_a_change_is_not_kept(
    make: Callable[..., Authenticator], users: LocalUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    authenticator = make()
    authenticate = LocalUsers.authenticate

    def slow(self: LocalUsers, username: str, password: str, rehash: bool) -> LocalUser | None:
        found = authenticate(self, username, password, rehash)
        users.modify('joe', password='other')
        assert authenticator.known_login('joe', 'right') is None
        return found

    monkeypatch.setattr(LocalUsers, 'authenticate', slow)
    assert authenticator.login('joe', 'right')
    monkeypatch.setattr(LocalUsers, 'authenticate', authenticate)
    with pytest.raises(AuthenticationFailedError):
        authenticator.login('joe', 'right')


@pytest.fixture
def hashes(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, int]]:
    """Return a list that collects the parameters of each scrypt hash."""
    made: list[dict[str, int]] = []
    scrypt = hashlib.scrypt

    def noting(password: bytes, *, salt: bytes, **parameters: int) -> bytes:
        made.append(parameters)
        return scrypt(password, salt=salt, **parameters)

    monkeypatch.setattr(hashlib, 'scrypt', noting)
    return made


def test_a_remembered_login_takes_no_hash(make: Callable[..., Authenticator], hashes: list[dict[str, int]]) -> None:
    authenticator = make()
    for _ in range(100):
        authenticator.login('joe', 'right')
        assert len(hashes) == 1


def test_unknown_users_and_old_hashes_cost_the_same(
    make: Callable[..., Authenticator], users: LocalUsers, hashes: list[dict[str, int]]
) -> None:
    with sqlite3.connect(users.path) as connection:
        digest = hashlib.sha1(b'saltright').hexdigest()
        connection.execute("INSERT INTO user VALUES ('old', 'salt', ?, NULL, 0, 0)", (digest,))
    connection.close()
    authenticator = make()

    def cost(username: str) -> list[dict[str, int]]:
        hashes.clear()
        with pytest.raises(AuthenticationFailedError):
            authenticator.login(username, 'wrong')
        return list(hashes)

    known = cost('joe')
    assert len(known) == 1
    assert cost('nobody') == cost('old') == known


class Aside(waiting.Blocking):
    """A wait that counts the calls of `aside`."""

    def __init__(self) -> None:
        self.times = 0

    def aside(self, work: Callable[[], T]) -> T:
        self.times += 1
        return work()


@pytest.fixture
def aside() -> Iterator[Aside]:
    waiter = Aside()
    Runtime(waiter).enter()
    yield waiter
    Runtime().enter()


@pytest.mark.parametrize('username', ['joe', 'nobody'])
def test_passwords_are_hashed_aside(make: Callable[..., Authenticator], aside: Aside, username: str) -> None:
    with pytest.raises(AuthenticationFailedError):
        make().login(username, 'wrong')
    assert aside.times == 1


def test_many_at_once_with_one_password_cost_one_hash(
    make: Callable[..., Authenticator], users: LocalUsers, aside: Aside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_users, '_LOG2_N', 14)
    users.modify('joe', password='right')
    authenticator = make()
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(lambda _: authenticator.login('joe', 'right', '192.0.2.1'), range(20)))
    assert set(found) == {Credentials('joe', 'Joe Doe')}
    assert aside.times <= 3  # Threads may look up the login before the hash of another thread is stored.


def test_failed_logins_are_limited_by_address(
    make: Callable[..., Authenticator], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login_limits, 'MOST_DELAY_S', 0.001)
    authenticator = make()
    authenticator.login('joe', 'right', '192.0.2.1')
    answers = set()
    for number in range(10):
        with pytest.raises(AuthenticationFailedError) as error:
            authenticator.login('joe' if number % 2 else 'joe@local', f'wrong {number}', '192.0.2.1')
        answers.add(str(error.value))
    assert answers == {'Incorrect username or password.'}
    with pytest.raises(AuthenticationFailedError, match='too many failed logins, try again in'):
        authenticator.login('joe', 'another', '192.0.2.1')
    assert authenticator.login('joe', 'right', '192.0.2.1') == authenticator.login('joe', 'right')
    assert authenticator.login('joe@local', 'right', '198.51.100.7')


def test_a_child_process_opens_the_file_anew(make: Callable[..., Authenticator], users: LocalUsers) -> None:
    code = f"""
import os, sys
from nipap.access.authentication import Authenticator, AuthSettings, BackendSettings
settings = AuthSettings('local', 60, {{'local': BackendSettings('local', 'SqliteAuth', {{'db_path': {users.path!r}}})}})
authenticator = Authenticator(settings)
authenticator.login('joe', 'right')
watch = authenticator._local['local']._watch
connection = watch._connection
if child := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
assert authenticator.known_login('joe', 'right') is None
assert authenticator.login('joe', 'right').username == 'joe'
assert watch._connection is not connection
os._exit(0)
"""
    subprocess.run([sys.executable, '-W', 'error', '-c', code], cwd=REPOSITORY, check=True, timeout=60)


def test_threads_may_log_in_together(make: Callable[..., Authenticator], users: LocalUsers) -> None:
    authenticator = make()
    seen: list[bool] = []

    def log_in() -> None:
        seen.extend(authenticator.login('joe', 'right').readonly for _ in range(200))

    threads = [threading.Thread(target=log_in) for _ in range(4)]
    for thread in threads:
        thread.start()
    users.modify('joe', readonly=True)
    for thread in threads:
        thread.join()
    assert len(seen) == 800
    assert authenticator.login('joe', 'right').readonly


def test_credentials_are_valid_while_the_account_is_as_it_was(
    make: Callable[..., Authenticator], users: LocalUsers
) -> None:
    authenticator = make()
    credentials = authenticator.login('joe', 'right')
    users.add(LocalUser('ann'), 'secret')
    users.modify('joe', full_name='Joe D.')
    assert credentials.are_valid()
    users.delete('ann')
    assert make_actor(credentials, SOURCE).is_valid()


@pytest.mark.parametrize(
    'change',
    [
        lambda users: users.delete('joe'),
        lambda users: users.modify('joe', readonly=True),
        lambda users: users.modify('joe', password='another'),
        lambda users: os.remove(users.path),
    ],
    ids=['removed', 'demoted', 'another password', 'no file'],
)
def test_credentials_of_an_account_that_is_changed_are_not_valid(
    make: Callable[..., Authenticator], users: LocalUsers, change: Callable[[LocalUsers], None]
) -> None:
    authenticator = make()
    first, remembered = authenticator.login('joe', 'right'), authenticator.login('joe', 'right')
    assert first.are_valid()
    change(users)
    assert not first.are_valid()
    assert not remembered.are_valid()


def test_a_trusted_user_who_is_trusted_no_more_has_no_valid_credentials(
    make: Callable[..., Authenticator], users: LocalUsers
) -> None:
    users.modify('joe', trusted=True)
    actor = make_actor(make().login('joe', 'right'), {**SOURCE, 'username': 'ann'})
    assert actor.is_valid()
    users.modify('joe', trusted=False)
    assert not actor.is_valid()


@pytest.mark.parametrize('rehash', [True, False])
def test_a_hash_that_a_login_replaces_leaves_its_credentials_valid(users: LocalUsers, rehash: bool) -> None:
    LocalUsers(users.path, legacy=True).modify('joe', password='right')
    backends = {'local': BackendSettings('local', 'SqliteAuth', {'db_path': users.path})}
    with closing(Authenticator(AuthSettings('local', 3600, backends, rehash=rehash))) as authenticator:
        credentials = authenticator.login('joe', 'right')
        assert credentials.are_valid()
        assert authenticator.login('joe', 'right').are_valid()
        users.modify('joe', password='another')
        assert not credentials.are_valid()


# -------------------------------------------------------------------------------------------------------------- tokens


def token(key: str = SECRET, algorithm: str = 'HS256', **claims: object) -> str:
    return jwt.encode({'sub': 'ann', 'exp': time.time() + 60, **claims}, key, algorithm)


def test_tokens(make: Callable[..., Authenticator]) -> None:
    authenticator = make(signing_key=SECRET)
    assert authenticator.login_token(token()) == Credentials('ann', identity='ann@sso')
    claims = {'username': 'bob', 'full_name': 'Bob C', 'readonly': True, 'trusted': 'yes'}
    assert authenticator.login_token(token(**claims)) == Credentials('bob', 'Bob C', True, True, 'bob@sso')


@pytest.mark.parametrize('form', [int, float, str])
def test_credentials_of_a_token_are_valid_until_it_expires(
    make: Callable[..., Authenticator], monkeypatch: pytest.MonkeyPatch, form: Callable[[int], object]
) -> None:
    ends = int(time.time()) + 60
    credentials = make(signing_key=SECRET).login_token(token(exp=form(ends)))
    assert credentials.are_valid()
    monkeypatch.setattr(time, 'time', lambda: ends - 0.1)
    assert credentials.are_valid()
    monkeypatch.setattr(time, 'time', lambda: float(ends))
    assert not credentials.are_valid()


def claims_that_are_refused() -> list[dict[str, object]]:
    return [
        {'exp': None},
        {'exp': 'tomorrow'},
        {'exp': float('inf')},
        {'iat': 'yesterday'},
        {'iat': time.time() + 60},
        {'sub': None},
        {'sub': ''},
        {'sub': 7},
        {'sub': 'a\nb'},
        {'sub': 'x' * 256},
        {'full_name': 'A\u2028'},
        {'full_name': 'A\u202e'},
        {'full_name': 'x' * 256},
        {'username': ['x']},
        {'full_name': 7},
        {'readonly': 'perhaps'},
        {'trusted': [1]},
        {'username': 'a\0'},
        {'aud': 'elsewhere'},
        {'nbf': time.time() + 60},
    ]


@pytest.mark.parametrize('number', range(len(claims_that_are_refused())))
def test_tokens_that_claim_nonsense(make: Callable[..., Authenticator], number: int) -> None:
    claims = {'sub': 'ann', 'exp': time.time() + 60, **claims_that_are_refused()[number]}
    # A token is built as text, since jwt.encode refuses some of these claims itself.
    parts = [jwt.utils.base64url_encode(text.encode()) for text in ('{"alg":"HS256"}', jwt.api_jwt.json.dumps(claims))]
    signature = jwt.get_algorithm_by_name('HS256').sign(b'.'.join(parts), SECRET.encode())
    forged = b'.'.join([*parts, jwt.utils.base64url_encode(signature)]).decode()
    with pytest.raises(AuthenticationFailedError, match=r'^Invalid token\.$'):
        make(signing_key=SECRET).login_token(forged)


HOUR, YEAR = 3600, 8760 * 3600


@pytest.mark.parametrize(
    ('options', 'exp', 'iat', 'is_accepted'),
    [
        ({}, YEAR, None, True),
        ({}, YEAR + 2 * HOUR, None, False),
        ({}, 100 * YEAR, None, False),
        ({}, 2**62, None, False),
        ({}, HOUR, -YEAR + 2 * HOUR, True),
        ({}, HOUR, -YEAR, False),  # nearly over, but its lifetime was longer
        ({}, 100 * YEAR, -1, False),
        ({'max_token_hours': '12'}, 12 * HOUR, -1, True),
        ({'max_token_hours': '12'}, 13 * HOUR, -1, False),
        ({'max_token_hours': '12'}, 11 * HOUR, -2 * HOUR, False),
        ({'max_token_hours': '876000'}, 99 * YEAR, None, True),
    ],
)
def test_a_token_has_a_longest_lifetime(
    make: Callable[..., Authenticator], options: dict[str, str], exp: int, iat: int | None, is_accepted: bool
) -> None:
    now = int(time.time())
    claims = {'exp': now + exp} if iat is None else {'exp': now + exp, 'iat': now + iat}
    authenticator = make(signing_key=SECRET, **options)
    if is_accepted:
        assert authenticator.login_token(token(**claims)).username == 'ann'
        return
    hours = options.get('max_token_hours', '8760')
    with pytest.raises(AuthenticationFailedError, match=rf'valid for too long: at most {hours} hours are accepted\.$'):
        authenticator.login_token(token(**claims))


def test_expired_and_forged_tokens(make: Callable[..., Authenticator]) -> None:
    authenticator = make(signing_key=SECRET)
    with pytest.raises(AuthenticationFailedError, match=r'^The token has expired\.$'):
        authenticator.login_token(token(exp=time.time() - 1))
    unsigned = jwt.encode({'sub': 'ann', 'exp': time.time() + 60}, '', 'none')
    other_key = token('another key of thirty-two bytes or more')
    other_algorithm = token(SECRET * 2, 'HS512')
    expired_and_forged = token('another key of thirty-two bytes or more', exp=time.time() - 1)
    deep = base64.urlsafe_b64encode(b'[' * 20000).decode().rstrip('=')
    for wrong in (unsigned, other_key, other_algorithm, expired_and_forged, '', 'x', 'a.b.c', '\ud800', f'{deep}.e30.'):
        with pytest.raises(AuthenticationFailedError, match=r'^Invalid token\.$'):
            authenticator.login_token(wrong)


@given(st.text())
def test_any_text_is_no_token(text: str) -> None:
    settings = BackendSettings('sso', 'JwtAuth', {'signing_key': SECRET})
    with pytest.raises(AuthenticationFailedError):
        Authenticator(AuthSettings('sso', 0, {'sso': settings})).login_token(text)


def test_audience_and_issuer(make: Callable[..., Authenticator]) -> None:
    authenticator = make(signing_key=SECRET, audience='nipap', issuer='sso')
    assert authenticator.login_token(token(aud='nipap', iss='sso'))
    assert authenticator.login_token(token(aud=['x', 'nipap'], iss='sso'))
    for claims in ({}, {'aud': 'nipap'}, {'iss': 'sso'}, {'aud': 'x', 'iss': 'sso'}, {'aud': 'nipap', 'iss': 'x'}):
        with pytest.raises(AuthenticationFailedError):
            authenticator.login_token(token(**claims))


def test_tokens_without_a_backend_for_them(make: Callable[..., Authenticator]) -> None:
    with pytest.raises(AuthenticationFailedError, match='no auth backend of type JwtAuth is configured'):
        make().login_token(token())


def test_a_token_whose_header_nests_without_end_is_refused(make: Callable[..., Authenticator]) -> None:
    """PyJWT reads the header before it checks the signature; until 2.13 it raises a RecursionError."""
    depth = 100_000
    header = jwt.utils.base64url_encode(b'{"alg":' + b'[' * depth + b']' * depth + b'}').decode()
    with pytest.raises(AuthenticationFailedError):
        make(signing_key=SECRET).login_token(f'{header}.{token().partition(".")[2]}')


@pytest.mark.parametrize(('algorithm', 'kind'), [('RS256', 'rsa'), ('ES256', 'EC')])
def test_tokens_signed_with_a_private_key(make: Callable[..., Authenticator], algorithm: str, kind: str) -> None:
    option = 'rsa_keygen_bits:2048' if kind == 'rsa' else 'ec_paramgen_curve:P-256'
    private = openssl('genpkey', '-algorithm', kind, '-pkeyopt', option)
    public = openssl('pkey', '-pubout', stdin=private)
    authenticator = make(public_key=public)
    assert authenticator.login_token(token(private, algorithm)) == Credentials('ann', identity='ann@sso')
    # This token is signed with the public key as if it were a shared secret.
    parts = token().rpartition('.')[0]
    signature = jwt.get_algorithm_by_name('HS256').sign(parts.encode(), public.encode())
    forged = f'{parts}.{jwt.utils.base64url_encode(signature).decode()}'
    with pytest.raises(AuthenticationFailedError):
        authenticator.login_token(forged)
    with pytest.raises(ValueError, match='P-256'):
        make(public_key=openssl('pkey', '-pubout', stdin=openssl('genpkey', '-algorithm', 'ed25519')))


def openssl(*args: str, stdin: str = '') -> str:
    return subprocess.run(['openssl', *args], input=stdin, capture_output=True, text=True, check=True).stdout


# ---------------------------------------------------------------------------------------------------------------- HTTP


def request(authorization: str | None = None, address: str = '192.0.2.1') -> Request:
    headers = {} if authorization is None else {'Authorization': authorization}
    return Request({**EnvironBuilder(headers=headers).get_environ(), 'REMOTE_ADDR': address})


@pytest.mark.parametrize(
    ('authorization', 'line'),
    [
        ('joe:SECRET', "failed login from 192.0.2.1 user='joe'"),
        ('jo e@x.org@local:SECRET', "failed login from 192.0.2.1 user='jo e@x.org@local'"),
        ("x' user='y:SECRET", 'failed login from 192.0.2.1 user="x\' user=\'y"'),
        (
            'x\nfailed login from 192.0.2.9 :SECRET',
            r"failed login from 192.0.2.1 user='x\nfailed login from 192.0.2.9 '",
        ),
        (f'{"x" * 5000}:SECRET', f"failed login from 192.0.2.1 user='{'x' * 99}…"),
        (b'Basic SECRET', 'failed login from 192.0.2.1 malformed'),
        (b'Bearer SECRET', 'failed login from 192.0.2.1 token'),
    ],
)
def test_a_failed_login_is_logged_with_address_and_name(
    make: Callable[..., Authenticator],
    caplog: pytest.LogCaptureFixture,
    authorization: str | bytes,
    line: str,
) -> None:
    header = basic(authorization) if isinstance(authorization, str) else authorization.decode()
    with pytest.raises(AuthenticationFailedError):
        credentials_from_request(request(header), make())
    assert [(record.name, record.levelname, record.getMessage()) for record in caplog.records] == [
        ('nipap.login', 'WARNING', line)
    ]


def test_a_login_that_is_refused_for_others_is_logged_too(
    make: Callable[..., Authenticator], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login_limits, 'MOST_DELAY_S', 0.001)
    authenticator = make()
    for _ in range(11):
        with pytest.raises(AuthenticationFailedError):
            credentials_from_request(request(basic('joe:wrong')), authenticator)
    lines = [f"{what} login from 192.0.2.1 user='joe'" for what in (*['failed'] * 10, 'refused')]
    assert [record.getMessage() for record in caplog.records] == lines
    credentials_from_request(request(basic('joe:right'), '192.0.2.2'), authenticator)
    assert len(caplog.records) == 11


def basic(text: str, encoding: str = 'utf-8') -> str:
    return f'Basic {base64.b64encode(text.encode(encoding)).decode()}'


def test_basic_authentication(make: Callable[..., Authenticator], users: LocalUsers) -> None:
    users.add(LocalUser('åsa'), 'a:b ö:')
    authenticator = make()
    for _ in range(2):  # the second time from the cache
        assert credentials_from_request(request(basic('åsa:a:b ö:')), authenticator) == Credentials('åsa')
    assert credentials_from_request(request(basic('joe@local:right').replace('Basic', 'bASIC ')), authenticator)
    with pytest.raises(AuthenticationFailedError, match=INCORRECT):
        credentials_from_request(request(basic('joe:')), authenticator)


@pytest.mark.parametrize(
    'header',
    ['Basic', 'Basic x', 'Basic ====', basic('joe'), basic('å:x', 'latin-1'), 'Basic j\u00f6', 'Bearer', 'Bearer x'],
)
def test_malformed_credentials(make: Callable[..., Authenticator], header: str) -> None:
    with pytest.raises(AuthenticationFailedError) as error:
        credentials_from_request(request(header), make(signing_key=SECRET))
    assert error.value.code == 1510


@pytest.mark.parametrize('header', [None, '', 'Digest username="joe"', 'joe:right'])
def test_missing_credentials(make: Callable[..., Authenticator], header: str | None) -> None:
    with pytest.raises(AuthenticationMissingError, match=r'^Missing authentication method$') as error:
        credentials_from_request(request(header), make())
    assert error.value.code == 1500


def test_bearer_tokens(make: Callable[..., Authenticator]) -> None:
    header = f'Bearer {token(readonly=True)}'
    assert credentials_from_request(request(header), make(signing_key=SECRET)) == Credentials(
        'ann', readonly=True, identity='ann@sso'
    )


def test_the_options_of_a_call() -> None:
    assert auth_options({'auth': SOURCE, 'attr': {}}) == SOURCE
    for arguments in ({}, {'auth': None}, {'auth': 'x'}, {'auth': [SOURCE]}):
        with pytest.raises(NipapError, match=r'^Missing/invalid authentication options in request\.$') as error:
            auth_options(arguments)
        assert error.value.code == 1000
    with pytest.raises(NipapError, match=r'^Missing authoritative source in auth options\.$') as error:
        auth_options({'auth': {}})
    assert error.value.code == 1000


@pytest.mark.parametrize(('kind', 'what'), [('LdapAuth', 'type = LdapAuth'), ('JwtAuth', 'jwk_url')])
def test_a_backend_that_is_not_supported_lets_nobody_in_and_says_so(kind: str, what: str) -> None:
    refusal = f'{what} is not supported by this version of nipapd'
    settings = AuthSettings('later', 60, {'later': BackendSettings('later', kind, refusal=refusal)})
    authenticator = Authenticator(settings)
    with pytest.raises(
        AuthenticationFailedError, match=rf'^The default auth backend refuses every login: {refusal}\.$'
    ):
        authenticator.login('joe', 'right')
    with pytest.raises(AuthenticationFailedError, match=INCORRECT):  # as for a backend that does not exist
        authenticator.login('joe@later', 'right')
    tokens = refusal if kind == 'JwtAuth' else 'no auth backend of type JwtAuth is configured'
    with pytest.raises(AuthenticationFailedError, match=rf'^Tokens are not accepted: {tokens}\.$'):
        authenticator.login_token('x.y.z')


@pytest.mark.parametrize('rehash', [True, False])
def test_whether_a_login_replaces_an_older_hash(tmp_path: Path, rehash: bool) -> None:
    path = str(tmp_path / 'accounts.db')
    users = LocalUsers(path, legacy=True)
    users.create()
    users.add(LocalUser('joe'), 'right')
    older = stored_hash(path)
    assert re.fullmatch('[0-9a-f]{40}', older)
    backends = {'local': BackendSettings('local', 'SqliteAuth', {'db_path': path})}
    authenticator = Authenticator(AuthSettings('local', 60, backends, rehash=rehash))
    assert authenticator.login('joe', 'right').username == 'joe'
    authenticator.close()
    assert (stored_hash(path) == older) == (not rehash)
    users.modify('joe', password='other')
    with closing(sqlite3.connect(path)) as connection:
        ((salt, digest),) = connection.execute('SELECT pwd_salt, pwd_hash FROM user')
    assert re.fullmatch('[0-9A-Za-z]{8}', salt)
    assert digest == hashlib.sha1(f'{salt}other'.encode()).hexdigest()


def stored_hash(path: str) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return str(connection.execute('SELECT pwd_hash FROM user').fetchone()[0])
