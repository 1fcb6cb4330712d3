"""The modules that NIPAP's web client imports from an environment shared with us, called as that client calls them."""

from __future__ import annotations

import configparser
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from test_layering import MODULES, imports_of

from nipap import authlib, nipapconfig
from nipap.access.local_users import LocalUser, LocalUsers
from nipap.authlib import AuthError, AuthFactory
from nipap.nipapconfig import NipapConfig, NipapConfigError

CONF = """
[auth]
default_backend = local       ; who is meant without '@'
auth_cache_timeout = 3600

[auth.backends.local]
type = SqliteAuth
db_path = {path}              ; absolute

[auth.backends.relative]
type = SqliteAuth
db_path = local_auth.db

[auth.backends.gone]
type = SqliteAuth
db_path = /nowhere/local_auth.db

[auth.backends.ldap1]
type = LdapAuth
uri = ldaps://ldap.test.com

[www]
xmlrpc_uri = http://www@local:secret%%21@127.0.0.1:1337
debug = true
"""


@pytest.fixture(autouse=True)
def _unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NipapConfig, '_made', None)


@pytest.fixture
def accounts(tmp_path: Path) -> LocalUsers:
    users = LocalUsers(tmp_path / 'local_auth.db', legacy=True)
    users.create()
    users.add(LocalUser('ann@example.com', 'Ann Example'), 'p@ss:word/ü')
    users.add(LocalUser('look', 'Only Looks', readonly=True), 'look')
    users.add(LocalUser('www', 'Web UI', trusted=True), 'secret')
    return users


@pytest.fixture
def config(tmp_path: Path, accounts: LocalUsers) -> NipapConfig:
    path = tmp_path / 'nipap.conf'
    path.write_text(CONF.format(path=accounts.path))
    return NipapConfig(str(path))


def test_the_configuration_is_read_once_and_shared(config: NipapConfig, tmp_path: Path) -> None:
    again = NipapConfig()
    assert again is config
    assert again.get('www', 'xmlrpc_uri') == 'http://www@local:secret%21@127.0.0.1:1337'
    assert again.getboolean('www', 'debug') is True
    assert again.getint('auth', 'auth_cache_timeout') == 3600
    assert again.has_section('www')
    assert not again.has_option('www', 'welcome_message')
    with pytest.raises(configparser.NoOptionError):
        again.get('www', 'welcome_message')
    again.set('www', 'welcome_message', 'hi')
    assert NipapConfig(str(tmp_path / 'other.conf')).get('www', 'welcome_message') == 'hi'


def test_a_configuration_may_be_named_later_and_must_be_there(tmp_path: Path) -> None:
    assert NipapConfig().sections() == []
    with pytest.raises(NipapConfigError, match='No such file'):
        NipapConfig(str(tmp_path / 'none.conf'))


def test_logins(config: NipapConfig) -> None:
    """Log in as the form of the web client does, with a new object for each login."""
    auth = AuthFactory().get_auth('ann@example.com@local', 'p@ss:word/ü', 'nipap')
    assert auth.authenticate() is True
    assert (auth.username, auth.full_name) == ('ann@example.com', 'Ann Example')
    assert (auth.authenticated_as, auth.authoritative_source) == ('ann@example.com', 'nipap')
    assert (auth.readonly, auth.trusted, auth.authorize()) == (False, False, True)
    auth = AuthFactory().get_auth('look', 'look', 'nipap')
    assert auth.authenticate()
    assert (auth.readonly, auth.authorize()) == (True, False)
    for username, password in (('look', 'wrong'), ('nobody', 'look'), ('look', '')):
        refused = AuthFactory().get_auth(username, password, 'nipap')
        assert refused.authenticate() is False
        assert not refused.authorize()
        assert refused.full_name is None


def test_a_trusted_user_acts_for_another(config: NipapConfig) -> None:
    options = {'username': 'kim', 'full_name': 'Kim Example', 'readonly': True}
    auth = AuthFactory().get_auth('www@local', 'secret', 'nipap', options)
    assert auth.authenticate()
    assert (auth.username, auth.full_name, auth.authenticated_as) == ('kim', 'Kim Example', 'www')
    assert (auth.trusted, auth.readonly) == (True, True)
    auth = AuthFactory().get_auth('look', 'look', 'nipap', options)
    assert auth.authenticate()
    assert (auth.username, auth.trusted) == ('look', False)


def test_invalid_back_ends_and_sources(config: NipapConfig) -> None:
    factory = AuthFactory()
    with pytest.raises(AuthError, match="Invalid auth backend 'nowhere' specified"):
        factory.get_auth('look@nowhere', 'look', 'nipap')
    with pytest.raises(AuthError, match='Missing authoritative_source'):
        factory.get_auth('look', 'look', None)  # type: ignore[arg-type]  # as a caller might
    for backend, said in (('gone', 'is not available'), ('ldap1', 'not supported'), ('relative', 'absolute path')):
        with pytest.raises(AuthError, match=said):
            factory.get_auth(f'look@{backend}', 'look', 'nipap').authenticate()
    assert AuthError.error_code == 1500
    assert authlib.AuthenticationFailed.error_code == 1510


def test_a_login_leaves_the_hash_that_the_older_client_reads(config: NipapConfig, accounts: LocalUsers) -> None:
    assert AuthFactory().get_auth('look', 'look', 'nipap').authenticate()
    with closing(sqlite3.connect(accounts.path)) as connection:
        found = connection.execute("SELECT length(pwd_hash) FROM user WHERE username = 'look'").fetchone()
    assert found == (40,)


def test_nothing_of_ours_uses_them() -> None:
    names = {nipapconfig.__name__, authlib.__name__}
    users = {module for module, path in MODULES.items() if imports_of(path.read_text()) & names}
    assert users == {authlib.__name__}
