"""The configuration: the meaning of files and command lines, and the messages about wrong ones."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import psycopg2.extensions
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nipap.access.authentication import TOKEN_HOURS
from nipapd import config
from nipapd.config import Config, ConfigError, DaemonSettings, load
from nipapd.values import OFF

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = REPOSITORY / 'etc/nipap.conf.dist'
SECRET = 'k3y-of-thirty-two-bytes-or-more!!'

Reader = Callable[..., Config]


@pytest.fixture(autouse=True)
def _no_default_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(config, 'DEFAULT_FILE', tmp_path / 'there-is-none.conf')


@pytest.fixture
def read(tmp_path: Path) -> Reader:
    """Return a loader of a file with this text and of these arguments after it."""

    def reader(text: str, *args: str) -> Config:
        path = tmp_path / 'nipap.conf'
        path.write_text(textwrap.dedent(text), 'utf-8')
        return load(['-c', str(path), '--data-dir', str(tmp_path), *args], {})

    return reader


@pytest.fixture(scope='session')
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp('tls')
    make_certificate(directory / 'cert.pem', directory / 'key.pem')
    return directory / 'cert.pem', directory / 'key.pem'


def make_certificate(cert: Path, key: Path, *options: str) -> None:
    command = ['openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-subj', '/CN=x']
    subprocess.run([*command, *(options or ['-nodes']), '-keyout', key, '-out', cert], check=True, capture_output=True)


def refused(read: Reader, text: str, *args: str) -> str:
    """Return the one line of the reason why this text is no configuration."""
    with pytest.raises(ConfigError) as error:
        read(text, *args)
    assert '\n' not in str(error.value)
    return str(error.value)


def test_nothing_given_is_all_defaults(tmp_path: Path) -> None:
    loaded = load(['--data-dir', str(tmp_path)], {})
    assert loaded.nipapd == DaemonSettings()
    assert loaded.embedded
    assert loaded.path is None
    assert loaded.warnings == ()
    assert loaded.auth.default_backend == 'local'
    assert loaded.auth.cache_timeout_s == 3600
    assert loaded.auth.backends['local'].type == 'SqliteAuth'
    assert loaded.auth.backends['local'].options == {'db_path': str(tmp_path / 'local_auth.db')}
    with pytest.raises(ValueError, match='embedded'):
        _ = loaded.dsn


def test_the_file_of_an_operator(read: Reader) -> None:
    loaded = read("""
        # -----------------------
        [nipapd]
        listen = 127.0.0.1        ; only here
        port = 1337
        foreground = false
        debug = false
        forks = 0
        syslog = true
        pid_file = /var/run/nipap/nipapd.pid
        db_host =
        db_name = nipap
        db_user = nipap
        db_pass = 50%(off)s#
        db_port =
        db_sslmode = require
        db_charset = utf8

        [auth]
        default_backend = local
        auth_cache_timeout = 7200

        [auth.backends.local]
        type = SqliteAuth
        db_path = /etc/nipap/local_auth.db

        #[auth.backends.ldap1]
        #type = LdapAuth
        [www]
        xmlrpc_uri = http://127.0.0.1:1337
        [kafka]
        enabled = false
    """)
    daemon = loaded.nipapd
    assert (daemon.listen, daemon.port, daemon.foreground, daemon.syslog) == (('127.0.0.1',), 1337, False, True)
    assert daemon.pid_file == '/var/run/nipap/nipapd.pid'
    assert daemon.db_pass == '50%(off)s#'
    assert not loaded.embedded
    assert loaded.dsn == "dbname='nipap' user='nipap' password='50%(off)s#' sslmode='require'"
    assert loaded.auth.cache_timeout_s == 7200
    assert loaded.auth.backends['local'].options == {'db_path': '/etc/nipap/local_auth.db'}
    of_the_client, unknown = (re.sub('^.*: \\[', '[', warning) for warning in loaded.warnings)
    assert of_the_client.startswith('[www]: this section belongs to the web client of NIPAP, so passwords ')
    assert unknown == '[nipapd] db_charset: unknown key, ignored'


def test_the_command_line_wins(read: Reader) -> None:
    text = '[nipapd]\nlisten = 192.0.2.1\nport = 1\nforeground = no\ndebug = no\npid_file = /run/x\n'
    assert read(text).nipapd.foreground is False
    loaded = read(text, '-l', '::1,example.net', '-p', '0', '-d', '-f', '-P', '/run/y', '--auto-install-db')
    daemon = loaded.nipapd
    assert (daemon.listen, daemon.port, daemon.debug) == (('::1', 'example.net'), 0, True)
    assert (daemon.foreground, daemon.pid_file) == (True, '/run/y')
    assert loaded.auto_install_db
    assert not loaded.auto_upgrade_db
    assert read(text, '--no-pid-file').nipapd.pid_file is None
    assert read('[nipapd]\nforeground = yes\n', '--background').nipapd.foreground is False


@pytest.mark.parametrize(
    ('key', 'value', 'expected'),
    [
        ('listen', '127.0.0.1, [::1] ,127.0.0.1,fe80::1%eth0', ('127.0.0.1', '::1', 'fe80::1%eth0')),
        ('listen', 'a.example\n  b.example', ('a.example', 'b.example')),
        ('port', '', 1337),
        ('forks', '-1', -1),
        ('debug', 'ON', True),
        ('max_body', '64k', 65536),
        ('max_body', '2M', 2 * 2**20),
        ('max_body', '500', 500),
        ('idempotency_hours', '8760', 8760),
        ('request_timeout', '0.5', 0.5),
        ('drain_timeout', '1.5', 1.5),
        ('most_running', '1', 1),
        ('db_connections', '16', 16),
        ('user', '0', '0'),
        ('db_port', '5432, 5433', '5432,5433'),
        ('db_pass', "it's #1 \\", "it's"),
        ('db_pass', 'a#b;c', 'a#b;c'),
        ('trusted_proxies', '127.0.0.1, 10.0.0.0/8,::1 10.0.0.0/8', ('127.0.0.1/32', '10.0.0.0/8', '::1/128')),
        ('trusted_proxies', '', ()),
        ('webhook_allow', '192.0.2.0/24, 2001:db8::1', ('192.0.2.0/24', '2001:db8::1/128')),
        ('webhook_deny', '', ()),
        ('metrics_token', 'abcDEF0123456789.~+/==', 'abcDEF0123456789.~+/=='),
        ('metrics_names', '', None),
        ('metrics_names', 'no', False),
        ('backup_dir', '', None),
    ],
)
def test_values(read: Reader, key: str, value: str, expected: object) -> None:
    assert getattr(read(f'[nipapd]\n{key} = {value}\n').nipapd, key) == expected


@pytest.mark.parametrize(
    ('key', 'value', 'reason'),
    [
        ('port', '65536', 'not a port (0 to 65535)'),
        ('port', 'http', 'not a port (0 to 65535)'),
        ('port', '1_0', 'not a port (0 to 65535)'),
        ('ssl_port', '-1', 'not a port (0 to 65535)'),
        ('listen', '*', "'*' is no address (every interface: 0.0.0.0 by IPv4, :: by IPv6)"),
        ('listen', '127.0.0.256', "'127.0.0.256' is no address (every interface: 0.0.0.0 by IPv4, :: by IPv6)"),
        ('listen', ',', 'no address'),
        (
            'trusted_proxies',
            'proxy',
            "not a list of addresses and networks ('proxy' does not appear to be an IPv4 or IPv6 network)",
        ),
        ('trusted_proxies', '10.0.0.1/8', 'not a list of addresses and networks (10.0.0.1/8 has host bits set)'),
        ('metrics_names', 'some', 'not a boolean (true or false)'),
        ('foreground', 'maybe', 'not a boolean (true or false)'),
        ('forks', '-2', 'not a number of handlers; 0: one per core, -1: none (-1 to 1000)'),
        ('max_body', '0', 'not a size in bytes, k or M (such as 10M)'),
        ('max_body', '1G', 'not a size in bytes, k or M (such as 10M)'),
        ('idempotency_hours', '0', 'not a number of hours (1 to 8760)'),
        ('idempotency_hours', '8761', 'not a number of hours (1 to 8760)'),
        ('request_timeout', '0', 'not a number of seconds above 0'),
        ('drain_timeout', 'inf', 'not a number of seconds'),
        ('most_waiting', '0', 'not a number (1 to 100000)'),
        ('user', 'nobody-of-that-name', 'there is no such user'),
        ('user', '99999999999999999999', 'there is no such user'),
        ('group', 'nobody-of-that-name', 'there is no such group'),
        ('postgres_user', 'nobody-of-that-name', 'there is no such user'),
        ('db_sslmode', 'yes', 'not one of disable, allow, prefer, require, verify-ca, verify-full'),
        ('db_port', '5432,x', 'not a port (1 to 65535)'),
    ],
)
def test_wrong_values(read: Reader, tmp_path: Path, key: str, value: str, reason: str) -> None:
    message = refused(read, f'[nipapd]\n{key} = {value}\n')
    assert message == f'{tmp_path}/nipap.conf: [nipapd] {key} = {value}: {reason}'


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        ('port = 1\n', 'line 1: not in a section such as [nipapd]'),
        ('[nipapd]\nport = 1\nhunter2\n', 'line 3: neither [section] nor key = value'),
        ('[nipapd]\nport = 1\nport = 2\n', 'line 3: [nipapd] port is there twice'),
        ('[nipapd]\n[auth]\n[nipapd]\n', 'line 3: section [nipapd] is there twice'),
        (
            '[nipapd]\nmetrics_token = short\n',
            '[nipapd] metrics_token: not a token (16 or more letters, digits and ._~+/-)',
        ),
        ('[nipapd]\ndb_pass = a\0b\n', '[nipapd] db_pass: has a NUL character'),
        (
            '[auth]\nauth_cache_timeout = soon\n',
            '[auth] auth_cache_timeout = soon: not a number of seconds (0 to 1000000000)',
        ),
        (
            '[auth]\ndefault_backend = ldap1\n',
            '[auth] default_backend = ldap1: there is no section [auth.backends.ldap1]',
        ),
        (
            '[auth.backends.krb]\ntype = KerberosAuth\nuri = ldaps://x\n',
            '[auth.backends.krb] type = KerberosAuth: the types of backend are SqliteAuth and JwtAuth',
        ),
        ('[auth.backends.x]\ndb_path = x\n', '[auth.backends.x] type: the types of backend are SqliteAuth and JwtAuth'),
    ],
)
def test_wrong_files(read: Reader, tmp_path: Path, text: str, reason: str) -> None:
    assert refused(read, text) == f'{tmp_path}/nipap.conf: {reason}'


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f'^{tmp_path}/x.conf: No such file or directory$'):
        load(['-c', str(tmp_path / 'x.conf')], {})
    with pytest.raises(ConfigError, match='Is a directory'):
        load(['-c', str(tmp_path)], {})
    with pytest.raises(ConfigError, match='no file name'):
        load(['-c', 'a\0b'], {})


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / 'x.conf').write_bytes(b'[nipapd]\nuser = \xff\n')
    with pytest.raises(ConfigError, match=r'is not a text in UTF-8 \(byte 16\)'):
        load(['-c', str(tmp_path / 'x.conf')], {})


def test_the_default_file_is_used_when_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / 'default.conf'
    path.write_text('[nipapd]\nport = 7\n', 'utf-8-sig')
    monkeypatch.setattr(config, 'DEFAULT_FILE', path)
    loaded = load([], {'HOME': '/home/x'})
    assert (loaded.nipapd.port, loaded.path) == (7, path)


def test_a_default_file_that_cannot_be_read_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / 'default.conf'
    path.write_text('[nipapd]\nport = 7\n')
    monkeypatch.setattr(config, 'DEFAULT_FILE', path)
    monkeypatch.setattr(config.os, 'access', lambda *_: False)
    loaded = load([], {})
    assert loaded.nipapd.port == 1337
    assert loaded.warnings == (f'{path}: cannot be read, so defaults are used',)


def test_data_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config.os, 'geteuid', lambda: 0)
    assert load([], {'HOME': '/root'}).data_dir == Path('/var/lib/nipap')
    monkeypatch.setattr(config.os, 'geteuid', lambda: 1)
    assert load([], {'HOME': '/home/x'}).data_dir == Path('/home/x/.local/share/nipap')
    assert load([], {'HOME': '/home/x', 'XDG_DATA_HOME': '/data'}).data_dir == Path('/data/nipap')
    assert load([], {'HOME': '/home/x', 'XDG_DATA_HOME': 'relative'}).data_dir == Path('/home/x/.local/share/nipap')
    assert load(['--data-dir', 'x'], {}).data_dir == Path.cwd() / 'x'
    assert load([], {}).data_dir.is_absolute()
    monkeypatch.setattr(config.os, 'geteuid', lambda: 4000000)
    with pytest.raises(ConfigError, match='--data-dir'):
        load([], {})


def test_a_daemon_that_has_become_another_account_reads_the_same_file_for_the_same_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / 'default.conf'
    path.write_text('[nipapd]\nport = 7\n')
    monkeypatch.setattr(config, 'DEFAULT_FILE', path)
    monkeypatch.setattr(config.os, 'geteuid', lambda: 0)
    first = load([], {})
    monkeypatch.setattr(config.os, 'geteuid', lambda: 1)
    path.write_text('[nipapd]\nport = 8\n')
    second = load([], {'HOME': '/home/x'}, former=first)
    assert (second.nipapd.port, second.data_dir, second.path) == (8, Path('/var/lib/nipap'), path)
    assert second.auth.backends['local'].options['db_path'] == '/var/lib/nipap/local_auth.db'
    path.unlink()
    with pytest.raises(ConfigError, match='No such file'):
        load([], {'HOME': '/home/x'}, former=first)


@pytest.mark.parametrize(
    'args', [['-p', '65536'], ['-s', 'x'], ['-l', '*'], ['-P', ''], ['--nonsense'], ['stray'], ['--back']]
)
def test_a_wrong_command_line_exits_2(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        load(args, {})
    assert end.value.code == 2
    assert 'nipapd: error: ' in capsys.readouterr().err


def test_help_names_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        load(['--help'], {})
    assert end.value.code == 0
    text = ' '.join(capsys.readouterr().out.split())
    for expected in ('127.0.0.1)', '1337)', '/var/lib/nipap for root', '--auto-upgrade-db', '(default: no HTTPS)'):
        assert expected in text


def test_version_reads_no_file() -> None:
    assert load(['--version', '-c', '/nowhere/at/all'], {'HOME': '/x'}).version
    with pytest.raises(ConfigError):
        load(['--db-version', '-c', '/nowhere/at/all'], {'HOME': '/x'})


# ----------------------------------------------------------------------------------------------------------- database


@pytest.mark.parametrize('key', ['db_host', 'db_port', 'db_name', 'db_user'])
def test_naming_a_database_means_no_embedded_one(read: Reader, key: str) -> None:
    assert not read(f'[nipapd]\n{key} = 5432\n').embedded
    assert read(f'[nipapd]\n{key} =\ndb_pass = x\ndb_sslmode = prefer\n').embedded


def test_connection_string(read: Reader) -> None:
    loaded = read("""
        [nipapd]
        db_host = a.example,b.example
        db_port = 5432,5433
        db_name = the 'db'
        db_user = back\\slash
        db_pass = p' sslmode=disable x='\\
        db_sslmode = verify-full
    """)
    assert psycopg2.extensions.parse_dsn(loaded.dsn) == {
        'host': 'a.example,b.example',
        'port': '5432,5433',
        'dbname': "the 'db'",
        'user': 'back\\slash',
        'password': "p' sslmode=disable x='\\",
        'sslmode': 'verify-full',
        'target_session_attrs': 'read-write',
    }
    assert read('[nipapd]\ndb_host = /run/postgresql\n').dsn == "host='/run/postgresql' dbname='nipap'"


@given(st.text(st.characters(exclude_characters='\0', exclude_categories=['Cs']), min_size=1))
def test_every_password_survives_in_the_connection_string(password: str) -> None:
    settings = DaemonSettings(db_host='h', db_pass=password)
    auth = load(['--version'], {}).auth
    dsn = Config(settings, auth, Path('/')).dsn
    assert psycopg2.extensions.parse_dsn(dsn) == {'host': 'h', 'dbname': 'nipap', 'password': password}


def test_secrets_are_not_shown(read: Reader) -> None:
    loaded = read(f"""
        [nipapd]
        db_name = nipap
        db_pass = hunter2
        [auth.backends.jwt]
        type = JwtAuth
        signing_key = {SECRET}
    """)
    assert loaded.nipapd.db_pass == 'hunter2'
    assert loaded.auth.backends['jwt'].options['signing_key'] == SECRET
    assert 'hunter2' not in repr(loaded)
    assert SECRET not in repr(loaded)


@pytest.mark.parametrize(
    ('written', 'read_as'),
    [
        ('100%%sure', '100%sure'),
        ('pa%%pin', 'pa%pin'),
        ('a%%%%b', 'a%%b'),
        ('50%(off)s#', '50%(off)s#'),
        ('%', '%'),
        ('x%', 'x%'),
        ('%d%(db_name)s', '%dnipap'),
        ('%(db_pass)s', '%(db_pass)s'),
        ('%%(db_name)s', '%(db_name)s'),
        ('%(shared)s', 'of all'),
    ],
)
def test_percent_signs(read: Reader, written: str, read_as: str) -> None:
    loaded = read(f'[DEFAULT]\nshared = of all\n[nipapd]\ndb_name = nipap\ndb_pass = {written}\n')
    assert loaded.nipapd.db_pass == read_as
    assert [warning for warning in loaded.warnings if '[nipapd]' in warning] == []


def test_keys_of_the_section_default_hold_in_every_section(read: Reader, tmp_path: Path) -> None:
    loaded = read("""
        [DEFAULT]
        directory = /srv/nipap
        port = 4711
        prot = 1
        [nipapd]
        pid_file = %(directory)s/pid
        [auth.backends.local]
        type = SqliteAuth
        db_path = %(directory)s/local_auth.db
    """)
    assert (loaded.nipapd.port, loaded.nipapd.pid_file) == (4711, '/srv/nipap/pid')
    assert loaded.auth.backends['local'].options == {'db_path': '/srv/nipap/local_auth.db'}
    assert [warning.removeprefix(f'{tmp_path}/nipap.conf: ') for warning in loaded.warnings] == [
        '[DEFAULT] prot: unknown key, ignored, did you mean port?'
    ]
    assert read('[DEFAULT]\nport = 4711\n').nipapd.port == 1337  # the file has no section [nipapd]


@pytest.mark.parametrize(
    ('text', 'warning'),
    [
        ('[nipapd]\nprot = 1\n', '[nipapd] prot: unknown key, ignored, did you mean port?'),
        ('[nipapd]\ndb_password = x\n', '[nipapd] db_password: unknown key, ignored, did you mean db_pass?'),
        ('[nipadp]\nport = 1\n', '[nipadp]: unknown section, ignored, did you mean nipapd?'),
        ('[kafka]\nbroker = x\n', '[kafka] broker: unknown key, ignored, did you mean brokers?'),
        ('[nipapd]\ncolour = green\n', '[nipapd] colour: unknown key, ignored'),
    ],
)
def test_a_misspelt_key_gets_a_suggestion(read: Reader, text: str, warning: str) -> None:
    (found,) = read(text).warnings
    assert found.endswith(f': {warning}')


@pytest.mark.parametrize(
    ('args', 'meant'),
    [(['--prot', '1'], '--port'), (['--no-pidfile'], '--no-pid-file'), (['--datadir=x'], '--data-dir')],
)
def test_a_misspelt_option_gets_a_suggestion(args: list[str], meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        load(args, {})
    assert end.value.code == 2
    assert capsys.readouterr().err.endswith(f', did you mean {meant}?\n')


def open_to_all(make_dir: Callable[[], Path], text: str) -> Path:
    path = make_dir() / 'nipap.conf'
    path.write_text(text)
    path.chmod(0o644)
    return path


SECRETS = {
    'metrics_token': '[nipapd]\nmetrics_token = hunter2-hunter2-hunter2\n',
    'db_pass': '[nipapd]\ndb_pass = hunter2\n',
    'signing_key': f'[auth.backends.x]\ntype = JwtAuth\nsigning_key = {SECRET}\n',
    'sasl_password': '[kafka]\nsasl_password = hunter2\n',
    'search_password': '[auth.backends.l]\ntype = LdapAuth\nsearch_password = hunter2\n',
    'xmlrpc_uri': '[www]\nxmlrpc_uri = http://www:hunter2@127.0.0.1:1337\n',
}


@pytest.mark.parametrize('key', SECRETS)
def test_a_secret_that_everybody_can_read_is_pointed_out(make_dir: Callable[[], Path], key: str) -> None:
    path = open_to_all(make_dir, SECRETS[key])
    found = [warning for warning in load(['-c', str(path)], {}).warnings if 'everybody' in warning]
    assert found == [f'{path}: everybody can read it, and it holds {key}: chmod o-r']
    path.chmod(0o640)
    assert not [warning for warning in load(['-c', str(path)], {}).warnings if 'everybody' in warning]
    path.chmod(0o644)
    path.parent.chmod(0o750)
    assert not [warning for warning in load(['-c', str(path)], {}).warnings if 'everybody' in warning]


def test_a_key_of_a_certificate_that_everybody_can_read_is_pointed_out(
    make_dir: Callable[[], Path], certificate: tuple[Path, Path]
) -> None:
    cert, key = make_dir() / 'cert.pem', make_dir() / 'key.pem'
    cert.write_bytes(certificate[0].read_bytes())
    key.write_bytes(certificate[1].read_bytes())
    key.chmod(0o644)
    path = open_to_all(make_dir, f'[nipapd]\nssl_port = 1338\nssl_cert_file = {cert}\nssl_key_file = {key}\n')
    assert load(['-c', str(path)], {}).warnings == (f'{key}: everybody can read the key of the certificate: chmod o-r',)
    key.chmod(0o600)
    assert load(['-c', str(path)], {}).warnings == ()


# ---------------------------------------------------------------------------------------------------------------- TLS


def test_tls(read: Reader, certificate: tuple[Path, Path], tmp_path: Path) -> None:
    cert, key = certificate
    text = f'[nipapd]\nssl_port = 1338\nssl_cert_file = {cert}\nssl_key_file = {key}\n'
    loaded = read(text)
    assert (loaded.nipapd.port, loaded.nipapd.ssl_port) == (1337, 1338)
    assert read(f'{text}port =\n').nipapd.port is None
    assert read(f'{text}port =\n', '-p', '80').nipapd.port == 80
    both = tmp_path / 'both.pem'
    both.write_bytes(cert.read_bytes() + key.read_bytes())
    loaded = read(f'[nipapd]\nport =\nssl_cert_file = {both}\n', '-s', '443')
    assert (loaded.nipapd.port, loaded.nipapd.ssl_port, loaded.nipapd.ssl_key_file) == (None, 443, str(both))


def test_tls_needs_a_certificate_with_its_key(read: Reader, certificate: tuple[Path, Path], tmp_path: Path) -> None:
    cert, key = certificate
    other_cert, other_key = tmp_path / 'cert.pem', tmp_path / 'key.pem'
    make_certificate(other_cert, other_key, '-passout', 'pass:x')
    base = '[nipapd]\nssl_port = 1338\n'
    assert 'ssl_cert_file: is needed for ssl_port 1338' in refused(read, base)
    assert 'ssl_cert_file: is needed for ssl_port 1338' in refused(read, '', '-s', '1338')
    missing = refused(read, f'{base}ssl_cert_file = /nowhere/cert.pem\n')
    assert missing.endswith('[nipapd] ssl_cert_file = /nowhere/cert.pem: No such file or directory')
    missing = refused(read, f'{base}ssl_cert_file = {cert}\nssl_key_file = /nowhere/key.pem\n')
    assert missing.endswith('[nipapd] ssl_key_file = /nowhere/key.pem: No such file or directory')
    for wrong in (f'{cert}', f'{cert}\nssl_key_file = {cert}', f'{other_cert}\nssl_key_file = {key}'):
        assert 'no certificate with its key' in refused(read, f'{base}ssl_cert_file = {wrong}\n')
    with_password = f'{base}ssl_cert_file = {other_cert}\nssl_key_file = {other_key}\n'
    assert 'without password' in refused(read, with_password)


# ------------------------------------------------------------------------------------------------------ auth backends


def test_token_backends(read: Reader) -> None:
    loaded = read(f"""
        [auth]
        default_backend = sso
        [auth.backends.sso]
        type = JwtAuth
        signing_key = {SECRET}
        audience = nipap
        issuer = https://sso.example
        leeway = 5
    """)
    assert loaded.auth.default_backend == 'sso'
    assert list(loaded.auth.backends) == ['sso']
    assert loaded.auth.backends['sso'].options == {
        'signing_key': SECRET,
        'audience': 'nipap',
        'issuer': 'https://sso.example',
    }
    assert [warning.partition(': ')[2] for warning in loaded.warnings] == [
        '[auth.backends.sso] leeway: unknown key, ignored'
    ]


def test_a_short_signing_key_is_a_warning(read: Reader) -> None:
    (warning,) = read('[auth.backends.x]\ntype = JwtAuth\nsigning_key = secret\n').warnings
    assert warning.endswith('[auth.backends.x] signing_key: has fewer than 32 bytes, which can be guessed')


def test_failed_logins(read: Reader) -> None:
    auth = read('').auth
    assert (auth.failed_logins, auth.failed_logins_window_s) == (20, 60)
    auth = read('[auth]\nfailed_logins = 0\nfailed_logins_window = 2.5\n').auth
    assert (auth.failed_logins, auth.failed_logins_window_s) == (0, 2.5)
    assert refused(read, '[auth]\nfailed_logins = -1\n').endswith(
        '[auth] failed_logins = -1: not a number of failed logins; 0: no limit (0 to 1000000)'
    )
    assert '[auth] failed_logins_window = 0: not a number of seconds above 0' in refused(
        read, '[auth]\nfailed_logins_window = 0\n'
    )


@pytest.mark.parametrize(
    ('text', 'rehash', 'warned'),
    [
        ('', True, False),
        ('[auth]\npassword_hash = scrypt\n', True, False),
        ('[auth]\npassword_hash = legacy\n', False, False),
        ('[www]\nwelcome_message = hi\n', False, True),
        ('[www]\n[auth]\npassword_hash = legacy\n', False, False),
        ('[www]\n[auth]\npassword_hash = scrypt\n', True, False),
    ],
)
def test_the_form_of_stored_passwords(read: Reader, text: str, rehash: bool, warned: bool) -> None:
    loaded = read(text)
    assert loaded.auth.rehash == rehash
    assert [warning for warning in loaded.warnings if 'salted SHA-1' in warning] == list(loaded.warnings)
    assert bool(loaded.warnings) == warned


@pytest.mark.parametrize(
    ('section', 'refusal'),
    [
        ('type = LdapAuth\nuri = ldaps://x\nbasedn = dc=x\nsearch_password = y', 'type = LdapAuth'),
        ('type = JwtAuth\njwk_url = https://x/jwks.json\n', 'jwk_url'),
    ],
)
def test_backends_that_come_later_are_warnings(read: Reader, section: str, refusal: str) -> None:
    loaded = read(f'[auth]\ndefault_backend = x\n[auth.backends.x]\n{section}\n')
    assert loaded.auth.backends['x'].refusal == f'{refusal} is not supported by this version of nipapd'
    (warning,) = loaded.warnings
    assert f'[auth.backends.x] {refusal}: is not supported by this version, logins with it are refused' in warning


def test_the_local_backend_needs_no_section(read: Reader, tmp_path: Path) -> None:
    loaded = read(f'[auth.backends.x]\ntype = JwtAuth\nsigning_key = {SECRET}\n[auth.backends.y]\ntype = SqliteAuth\n')
    assert sorted(loaded.auth.backends) == ['local', 'x', 'y']
    assert read('[auth.backends.local]\ndb_path = sub/x.db\n').auth.backends['local'].options == {
        'db_path': str(tmp_path / 'sub/x.db')
    }


@pytest.mark.parametrize(
    ('options', 'reason'),
    [
        ('', 'one of signing_key and public_key_file is needed, and not both'),
        *(
            (f'signing_key = {SECRET}\nmax_token_hours = {hours}', f'max_token_hours = {hours}: not a number of hours')
            for hours in ('0', 'x', '876001')
        ),
        (f'signing_key = {SECRET}\npublic_key_file = {EXAMPLE}', 'one of signing_key and public_key_file is needed'),
        ('public_key_file = /nowhere/key.pem', 'public_key_file = /nowhere/key.pem: No such file or directory'),
        ('signing_key = ssh-rsa AAAA', 'signing_key: is a public key, not a secret'),
        ('public_key_file = {key}', 'public_key_file: holds a private key'),
    ],
)
def test_wrong_token_backends(read: Reader, certificate: tuple[Path, Path], options: str, reason: str) -> None:
    options = options.replace('{key}', str(certificate[1]))
    message = refused(read, f'[auth.backends.x]\ntype = JwtAuth\n{options}\n')
    assert f'[auth.backends.x] {reason}' in message
    assert SECRET not in message


def test_public_keys(read: Reader, certificate: tuple[Path, Path], tmp_path: Path) -> None:
    public, text = tmp_path / 'public.pem', '[auth.backends.x]\ntype = JwtAuth\npublic_key_file = {}\n'
    command = ['openssl', 'pkey', '-in', certificate[1], '-pubout', '-out', public]
    subprocess.run(command, check=True, capture_output=True)
    options = read(text.format(public)).auth.backends['x'].options
    assert options == {'public_key': public.read_text()}
    assert 'no public key in PEM format' in refused(read, text.format(EXAMPLE))


def test_a_public_key_that_is_no_text_or_is_not_there(read: Reader, tmp_path: Path) -> None:
    path, text = tmp_path / 'public.der', '[auth.backends.x]\ntype = JwtAuth\npublic_key_file = {}\n'
    path.write_bytes(b'\x30\x82\xff')
    assert refused(read, text.format(path)).endswith(': holds no public key in PEM format')
    assert refused(read, text.format(tmp_path / 'none')).endswith(': No such file or directory')


def test_kafka_needs_a_package(read: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    message = refused(read, '[kafka]\nenabled = true\nbrokers = 127.0.0.1:9092\n')
    assert '[kafka] enabled = true: needs the package confluent-kafka' in message
    assert not read('[kafka]\nenabled = false\n').kafka.enabled


def test_public_keys_need_a_package(read: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> None:
        raise NotImplementedError(name)

    monkeypatch.setattr('jwt.get_algorithm_by_name', unknown)
    message = refused(read, f'[auth.backends.x]\ntype = JwtAuth\npublic_key_file = {EXAMPLE}\n')
    assert message.endswith("public_key_file: needs the Python package 'cryptography', which is not installed")


def test_where_the_accounts_are(tmp_path: Path) -> None:
    path = tmp_path / 'x.conf'
    path.write_text(
        '[nipapd]\nuser = nobody\nport = nonsense\n[auth.backends.local]\ntype = SqliteAuth\ndb_path = a.db\n'
    )
    auth, user = config.load_accounts(str(path), str(tmp_path), {})
    assert (auth.backends['local'].options['db_path'], user) == (str(tmp_path / 'a.db'), 'nobody')


# --------------------------------------------------------------------------------------------------------- the example


def test_the_example_is_all_defaults_and_no_warning(tmp_path: Path) -> None:
    loaded = load(['-c', str(EXAMPLE), '--data-dir', str(tmp_path)], {})
    assert dataclasses.replace(loaded, path=None) == load(['--data-dir', str(tmp_path)], {})


def commented_keys() -> list[tuple[str, str]]:
    """Return (section, key) of every commented key under an uncommented section."""
    section, found = '', []
    for line in EXAMPLE.read_text().splitlines():
        if header := re.fullmatch(r'(#?)\[(.*)\]', line):
            section = '' if header[1] else header[2]
        elif section and (key := re.match(r'#([a-z_]+) =', line)):
            found.append((section, key[1]))
    return found


def test_the_example_has_every_key_once() -> None:
    auth = [('auth', key) for key in config._AUTH_KEYS]
    tracing = [('tracing', key) for key in config._TRACING_KEYS]
    local = [('auth.backends.local', key) for key in config._BACKEND_KEYS['SqliteAuth']]
    kafka = [('kafka', key.name) for key in dataclasses.fields(config.KafkaSettings)]
    assert sorted(commented_keys()) == sorted(
        [('nipapd', key) for key in config._KEYS] + auth + local + tracing + kafka
    )


@pytest.mark.parametrize(('section', 'key'), commented_keys())
def test_uncommenting_a_key_of_the_example_gives_its_default(tmp_path: Path, section: str, key: str) -> None:
    before, header, after = EXAMPLE.read_text().partition(f'\n[{section}]')
    path = tmp_path / 'x.conf'
    path.write_text(before + header + after.replace(f'\n#{key} =', f'\n{key} =', 1))
    assert path.read_text() != EXAMPLE.read_text()
    loaded = load(['-c', str(path), '--data-dir', str(tmp_path)], {})
    assert dataclasses.replace(loaded, path=None) == load(['--data-dir', str(tmp_path)], {})


def test_the_example_of_a_token_backend(tmp_path: Path) -> None:
    before, header, after = EXAMPLE.read_text().partition('#[auth.backends.sso]')
    after = re.sub('(?m)^#', '', after).replace('signing_key =', f'signing_key = {SECRET}', 1)
    path = tmp_path / 'x.conf'
    path.write_text(before + header[1:] + after)
    loaded = load(['-c', str(path), '--data-dir', str(tmp_path)], {})
    assert loaded.warnings == ()
    assert loaded.auth.backends['sso'].options == {'signing_key': SECRET, 'max_token_hours': str(TOKEN_HOURS)}
    assert {key for key in config._BACKEND_KEYS['JwtAuth'] if f'\n{key} =' in path.read_text()} == set(
        config._BACKEND_KEYS['JwtAuth']
    )


# ---------------------------------------------------------------------------------------------------------- properties

names = st.sampled_from(
    ['nipapd', 'auth', 'auth.backends.local', 'auth.backends.x', 'auth.backends.', 'DEFAULT', 'www']
)
keys = st.sampled_from([*config._KEYS, *config._AUTH_KEYS, 'type', 'db_path', 'signing_key', 'public_key_file', 'x'])
values = st.one_of(
    st.text(max_size=20), st.integers().map(str), st.sampled_from(['JwtAuth', 'SqliteAuth', 'x', '/', ''])
)
lines = st.one_of(
    names.map('[{}]'.format),
    st.builds('{} = {}'.format, keys, values),
    st.builds('{}: {}'.format, keys, values),
    st.text(max_size=20),
)


def check_total(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        messages = load(['-c', str(path)], {}).warnings
    except ConfigError as exc:
        messages = (str(exc),)
    assert all(len(message.splitlines()) == 1 for message in messages)


@given(content=st.one_of(st.binary(), st.text().map(lambda text: text.encode('utf-8', 'surrogatepass'))))
def test_random_bytes_are_refused_at_most(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    check_total(tmp_path_factory.getbasetemp() / 'random.conf', content)


@given(text=st.lists(lines).map('\n'.join))
def test_random_configurations_are_refused_at_most(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    check_total(tmp_path_factory.getbasetemp() / 'random.conf', text.encode('utf-8', 'surrogatepass'))


def test_reading_the_configuration_needs_no_server_library() -> None:
    code = (
        'import sys, nipapd.config; print([name for name in ("psycopg2", "tornado", "flask") if name in sys.modules])'
    )
    done = subprocess.run([sys.executable, '-c', code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == '[]\n'


def test_the_admin_port_is_a_port_or_off(read: Reader) -> None:
    assert read('').nipapd.admin_port is None
    assert read('[nipapd]\nadmin_port = 0\n').nipapd.admin_port == 0
    assert read('[nipapd]\nadmin_port = Off\nadmin_listen = ::1\n').nipapd.admin_port == OFF
    assert read('[nipapd]\nadmin_port = off\n', '--admin-port', '99').nipapd.admin_port == 99
    with pytest.raises(ConfigError, match='admin_port = -1: not a port'):
        read('[nipapd]\nadmin_port = -1\n')


# ---- traces


def test_traces_are_off_unless_there_is_a_collector(read: Reader) -> None:
    assert not read('').tracing.is_on
    loaded = read('[tracing]\notel_traces_sampler = always_on\n')
    assert not loaded.tracing.is_on
    (warning,) = loaded.warnings
    assert warning.endswith('[tracing]: nothing is traced without otlp_grpc_endpoint or otlp_http_endpoint')


def test_a_collector(read: Reader) -> None:
    loaded = read("""
        [tracing]
        otlp_http_endpoint = http://collector.example.net:4318
        otlp_grpc_endpoint = https://collector.example.net:4317
        otel_traces_sampler = parentbased_traceidratio=0.25
        trace_id_header = yes
    """)
    assert loaded.warnings == ()
    assert loaded.tracing == config.TracingSettings(
        'https://collector.example.net:4317',
        'http://collector.example.net:4318/v1/traces',
        'parentbased_traceidratio=0.25',
        True,
    )
    given = read('[tracing]\notlp_http_endpoint = https://c.example.net/otlp/traces\n').tracing
    assert given.otlp_http_endpoint == 'https://c.example.net/otlp/traces'


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('otlp_http_endpoint', 'collector.example.net:4318'),
        ('otlp_http_endpoint', 'http://'),
        ('otlp_grpc_endpoint', 'http://[::1'),
        ('otlp_grpc_endpoint', 'ftp://collector.example.net'),
        ('otlp_grpc_endpoint', 'http://collector.example.net:99999'),
        ('otel_traces_sampler', 'sometimes'),
        ('otel_traces_sampler', 'always_on=1'),
        ('otel_traces_sampler', 'traceidratio=1.5'),
        ('otel_traces_sampler', 'parentbased_'),
        ('trace_id_header', 'perhaps'),
    ],
)
def test_invalid_settings_of_traces(read: Reader, key: str, value: str) -> None:
    assert f'[tracing] {key} = {value}: not a' in refused(read, f'[tracing]\n{key} = {value}\n')


def test_the_format_of_the_log(read: Reader) -> None:
    assert read('').nipapd.log_format == 'text'
    assert read('[nipapd]\nlog_format = json\n').nipapd.log_format == 'json'
    assert '[nipapd] log_format = xml: not one of text, json' in refused(read, '[nipapd]\nlog_format = xml\n')


# --------------------------------------------------------------------------------------------------------------- Kafka


@pytest.mark.parametrize(
    ('text', 'problem'),
    [
        ('enabled = true', 'brokers: is needed when Kafka is enabled'),
        ('enabled = perhaps', 'not a boolean'),
        ('enabled = yes\nbrokers = x\nsecurity_protocol = none', 'not one of plaintext, ssl'),
        ('enabled = yes\nbrokers = x\ntopic_prefix = a b', 'not the beginning of the name of a topic'),
    ],
)
def test_invalid_settings_of_kafka(read: Reader, text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(problem)):
        read(f'[kafka]\n{text}')


def test_invalid_settings_of_kafka_are_warnings_while_it_is_not_enabled(read: Reader) -> None:
    loaded = read('[kafka]\nenabled = false\nsecurity_protocol = none\ntopic_prefix = a b\nsasl_password = hush\n')
    assert not loaded.kafka.enabled
    assert [re.sub(r'^.*: \[', '[', warning) for warning in loaded.warnings] == [
        '[kafka] topic_prefix = a b: not the beginning of the name of a topic (letters, digits, . _ -) '
        '(not used, because enabled is false)',
        '[kafka] security_protocol = none: not one of plaintext, ssl, sasl_plaintext, sasl_ssl '
        '(not used, because enabled is false)',
    ]


def test_protocols_of_kafka_in_capitals(read: Reader) -> None:
    assert read('[kafka]\nsecurity_protocol = SASL_SSL\n').kafka.security_protocol == 'sasl_ssl'


def test_the_password_for_kafka_is_not_shown(read: Reader) -> None:
    loaded = read('[kafka]\nsasl_password = hush')
    assert loaded.kafka.sasl_password == 'hush'
    assert 'hush' not in repr(loaded)
