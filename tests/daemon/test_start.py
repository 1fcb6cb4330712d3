"""The start of the daemon, or its refusal: files, addresses and messages."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import urllib.error
import urllib.request
import xmlrpc.client
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from daemon_process import READY, REPOSITORY, Daemon, free_port
from support import FAST, DaemonFactory, options_of
from talking import (
    AT_TERMINAL,
    Configured,
    await_that,
    call,
    client,
    connections,
    handlers,
)

from nipap import __version__
from nipap.access.local_users import LocalUser, LocalUsers
from nipap.postgres import schema
from nipapd import logs
from nipapd.embedded import EmbeddedPostgres

pytestmark = pytest.mark.slow


def test_without_configuration_it_has_a_database_and_a_user_of_its_own(
    daemon: DaemonFactory, new_data_dir: Path
) -> None:
    running = daemon(data_dir=new_data_dir)
    user, password = running.admin()
    assert user == 'admin'
    assert len(password) >= 16
    assert call(running, 'version') == __version__
    assert call(running, 'db_version') == schema.latest()
    call(running, 'add_prefix', attr={'prefix': '192.0.2.0/24', 'type': 'assignment', 'description': 'kept'})
    assert running.stop() == 0
    running.await_no_children()

    again = daemon(data_dir=new_data_dir)
    assert 'created user' not in again.log()
    with client(running, url=again.address) as ask:
        assert [prefix['description'] for prefix in ask('list_prefix', prefix={})] == ['kept']


def test_the_first_password_is_in_a_file_that_its_change_removes(configured: Configured, make_dir: Any) -> None:
    home = make_dir()
    running = configured('--debug', data_dir=home)
    file = home / 'first-password'
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    password = file.read_text().rstrip('\n')
    assert running.admin() == ('admin', password)
    assert call(running, 'version') == __version__
    assert running.stop() == 0
    assert password not in running.log()
    assert sorted(each.name for each in home.glob('*password*')) == ['first-password']
    first = configured(data_dir=home)
    assert 'password' not in first.log()
    passwd = [sys.executable, '-m', 'nipapd.passwd', '--data-dir', str(home), '-u', 'admin']
    for args, is_kept in ((['modify', '-n', 'Admin'], True), (['modify', '-p', 'a better password'], False)):
        done = subprocess.run([*passwd, *args], cwd=REPOSITORY, capture_output=True, text=True)
        assert (done.returncode, done.stderr, file.exists()) == (0, '', is_kept)


def test_the_first_password_is_shown_at_a_terminal(configured: Configured, make_dir: Any) -> None:
    home = make_dir()
    running = configured(start=False, data_dir=home)
    running.through = [sys.executable, '-c', AT_TERMINAL]
    running.start()
    assert f"created user 'admin' with password '{running.admin()[1]}' (shown only this once" in running.log()
    assert call(running, 'version') == __version__
    assert list(home.glob('first-password*')) == []


def test_it_listens_where_it_says_and_on_the_local_host_only(
    make_dir: Callable[[], Path], database_options: dict[str, str]
) -> None:
    file = make_dir() / 'nipap.conf'
    lines = ''.join(f'{key} = {value}\n' for key, value in database_options.items())
    file.write_text(f'[nipapd]\nforks = 1\n{lines}')
    port = free_port()
    running = Daemon(['-c', str(file), '--data-dir', str(make_dir()), '-p', str(port)])
    try:
        running.start()
        assert running.address == f'http://127.0.0.1:{port}'
        rows = [line.split() for line in Path('/proc/net/tcp').read_text().splitlines()[1:]]
        listening = [row[1] for row in rows if row[3] == '0A' and row[1].endswith(f':{port:04X}')]
        assert listening == [f'0100007F:{port:04X}']
    finally:
        running.close()


def test_several_addresses(configured: Configured) -> None:
    running = configured('-l', '127.0.0.1,127.0.0.2', '-p', '0')
    urls = re.findall(r'serving on (\S+)', running.log())
    assert [url.rpartition(':')[0] for url in urls] == ['http://127.0.0.1', 'http://127.0.0.2']
    for url in urls:
        with client(running, url=url) as ask:
            assert ask('version') == __version__


def test_handlers_share_the_connections(configured: Configured) -> None:
    running = configured()
    with connections(running, 8):
        served = re.findall(r'nipapd\[(\d+)\] INFO nipap\.request: version ', running.log())
    assert len(served) == 8
    assert {int(pid) for pid in served} == {process.pid for process in handlers(running)}


def test_eight_daemons_install_one_database_at_once(daemon: DaemonFactory, empty_dsn: str) -> None:
    config = {'nipapd': {'forks': '1', **options_of(empty_dsn)}}
    started = [daemon('--auto-install-db', config=config, start=False).spawn() for _ in range(8)]
    for running in started:
        await_that(lambda running=running: READY.search(running.log()), 'serving', 60)
        running.address = READY.findall(running.log())[0]
        assert call(running, 'db_version') == schema.latest()
    for running in started:
        running.send(signal.SIGTERM)


def test_a_database_without_schema_needs_permission_to_install(daemon: DaemonFactory, empty_dsn: str) -> None:
    config = {'nipapd': {'forks': '1', **options_of(empty_dsn)}}
    refused = daemon(config=config, start=False).spawn()
    assert refused.wait() == 1
    assert refused.log() == (
        'nipapd: the database has no schema: create it with --auto-install-db or with nipap-admin migrate\n'
    )
    daemon('--auto-install-db', config=config)


def install_changed(dsn: str, statement: str) -> None:
    """Install the schema, then run a statement that changes its bookkeeping."""
    schema.install(dsn)
    with contextlib.closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement)


def test_an_older_schema_needs_permission_to_upgrade(daemon: DaemonFactory, empty_dsn: str) -> None:
    install_changed(empty_dsn, f'DROP SCHEMA public_v{schema.latest()} CASCADE')
    config = {'nipapd': {'forks': '1', **options_of(empty_dsn)}}
    refused = daemon(config=config, start=False).spawn()
    assert refused.wait() == 1
    assert '--auto-upgrade-db or with nipap-admin migrate' in refused.log()
    daemon('--auto-upgrade-db', config=config)


LATER = 'INSERT INTO schema_migration (version, name, oldest_program) VALUES (9999, $$later$$, {})'


def admin(*args: str) -> subprocess.CompletedProcess[str]:
    """Run nipap-admin to its end."""
    command = [sys.executable, '-m', 'nipapd.maintenance', *args]
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd='/', timeout=120)


def test_a_database_of_the_predecessor_is_left_alone_by_everything(
    daemon: DaemonFactory, empty_dsn: str, dsn: str, make_dir: Any
) -> None:
    """The daemon with every option, and each command of nipap-admin, refuse it and name the way to migrate."""
    tables = 'CREATE TABLE ip_net_vrf (id int); CREATE TABLE ip_net_plan (prefix cidr)'
    with contextlib.closing(psycopg2.connect(empty_dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(f"{tables}; INSERT INTO ip_net_plan VALUES ('192.0.2.0/24')")
    before = contents(empty_dsn)
    home, dumped = make_dir(), make_dir() / 'dump'
    config = {'nipapd': {'forks': '1', **options_of(dsn)}}
    ours = daemon(config=config, data_dir=home, start=False)
    assert admin('dump', str(dumped), *ours.args[-2:], '--data-dir', str(home)).returncode == 0
    said = []
    config = {'nipapd': {'forks': '1', **options_of(empty_dsn)}}
    for options in ([], ['--auto-install-db'], ['--auto-upgrade-db', '--auto-install-db'], ['--db-version']):
        refused = daemon(*options, config=config, data_dir=home, start=False).spawn()
        assert refused.wait() == 1
        said.append(refused.log())
    where = [*refused.args[refused.args.index('-c') :][:2], '--data-dir', str(home)]
    for command in (['migrate'], ['check'], ['check', '--repair'], ['restore', str(dumped)]):
        done = admin(*command, *where)
        assert done.returncode == 1
        said.append(done.stderr)
    done = admin('restore', '--replace', str(dumped), *where)
    assert done.returncode == 1
    for text in (*said, done.stderr):
        (line,) = text.splitlines()
        assert 'this is a database of NIPAP (public.ip_net_plan, public.ip_net_vrf)' in line
        assert 'nothing was changed: docs/migrating.md' in line
    assert contents(empty_dsn) == before


def contents(dsn: str) -> list[tuple[Any, ...]]:
    """Return the names of all tables and functions, and the prefixes of the predecessor."""
    query = """SELECT relname::text FROM pg_class WHERE oid >= 16384
    UNION ALL SELECT proname FROM pg_proc WHERE oid >= 16384
    UNION ALL SELECT extname FROM pg_extension UNION ALL SELECT prefix::text FROM ip_net_plan ORDER BY 1"""
    with contextlib.closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchall()


def test_tables_of_the_predecessor_beside_our_own_are_told(daemon: DaemonFactory, dsn: str, empty_dsn: str) -> None:
    install_changed(empty_dsn, 'CREATE SCHEMA former; CREATE TABLE former.ip_net_plan (prefix cidr)')
    running = daemon(config={'nipapd': {'forks': '1', **options_of(empty_dsn)}})
    assert (
        'WARNING nipapd: the database holds tables of NIPAP too, which are not served: former.ip_net_plan'
        in running.log()
    )


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        ('DELETE FROM schema_migration WHERE version = (SELECT max(version) FROM schema_migration)', 'up to date'),
        (LATER.format(9998), 'upgrade the program'),
    ],
)
def test_a_check_of_another_schema_says_so(daemon: DaemonFactory, empty_dsn: str, change: str, said: str) -> None:
    install_changed(empty_dsn, change)
    made = daemon(config={'nipapd': options_of(empty_dsn)}, start=False)
    where = made.args[made.args.index('-c') :][:2]
    for command in (['check'], ['check', '--repair']):
        done = admin(*command, *where)
        assert (done.returncode, done.stdout) == (1, '')
        assert re.fullmatch(rf'nipap-admin: the schema of the database has version \d+, .*{said}\n', done.stderr)


def test_a_newer_schema_is_left_alone(daemon: DaemonFactory, empty_dsn: str) -> None:
    install_changed(empty_dsn, LATER.format(9998))
    config = {'nipapd': {'forks': '1', **options_of(empty_dsn)}}
    for options in ((), ('--auto-upgrade-db',)):
        refused = daemon(*options, config=config, start=False).spawn()
        assert refused.wait() == 1
        assert 'version 9999, which takes a program of version 9998 or later' in refused.log()


def test_a_newer_schema_is_served_when_that_is_allowed(daemon: DaemonFactory, empty_dsn: str) -> None:
    install_changed(empty_dsn, LATER.format(schema.latest()))
    daemon(config={'nipapd': {'forks': '1', **options_of(empty_dsn)}})
    daemon('--auto-upgrade-db', config={'nipapd': {'forks': '1', **options_of(empty_dsn)}})


# refused starts


def test_a_bad_configuration_is_one_line_and_nothing_is_started(daemon: DaemonFactory, make_dir: Any) -> None:
    data_dir = make_dir()
    refused = daemon(config={'nipapd': {'port': 'many'}}, data_dir=data_dir, start=False).spawn()
    assert refused.wait() == 2
    assert re.fullmatch(r'nipapd: .*\[nipapd\] port = many.*\n', refused.log())
    assert list(data_dir.iterdir()) == []


def test_a_used_port_is_one_line_and_nothing_is_started(daemon: DaemonFactory, make_dir: Any) -> None:
    data_dir = make_dir()
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = daemon('-p', str(port), data_dir=data_dir, start=False).spawn()
        assert refused.wait() == 1
    assert refused.log() == f'nipapd: cannot listen on 127.0.0.1 port {port}: Address already in use\n'
    assert list(data_dir.iterdir()) == []


def test_a_database_that_does_not_answer_is_one_line(daemon: DaemonFactory, make_dir: Any) -> None:
    settings = {'db_host': str(make_dir()), 'db_name': 'nipap', 'db_user': 'nipap', 'db_pass': 'SECRET-db-pass'}
    refused = daemon(config={'nipapd': {'database_wait': '0', **settings}}, start=False).spawn()
    assert refused.wait() == 1
    said = refused.log().splitlines()[-1]  # the line before it is a warning: everybody can read the file
    assert re.fullmatch('nipapd: the database cannot be used: .*No such file or directory.*', said)
    assert 'SECRET' not in refused.log()


def test_a_database_that_comes_up_later_is_waited_for(daemon: DaemonFactory, make_dir: Any) -> None:
    """The daemon waits, nipap-admin migrate waits, and TERM ends the wait."""
    server = EmbeddedPostgres(make_dir() / 'postgres', settings=FAST).start()
    settings = options_of(server.dsn())
    server.stop()
    try:
        starting = daemon('--auto-install-db', config={'nipapd': {'forks': '1', **settings}}, start=False).spawn()
        stopped = daemon(config={'nipapd': {'forks': '1', **settings}}, start=False).spawn()
        for each in (starting, stopped):
            await_that(
                lambda each=each: 'WARNING nipapd: waiting for the database, up to 60 s: ' in each.log(), 'a line'
            )
        command = [
            sys.executable,
            '-m',
            'nipapd.maintenance',
            'migrate',
            *starting.args[starting.args.index('-c') :][:2],
        ]
        migrating = subprocess.Popen(command, cwd='/', env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)})
        stopped.send(signal.SIGTERM)
        assert stopped.wait() == 0
        assert migrating.poll() is None
        server.start()
        await_that(lambda: READY.search(starting.log()), 'serving')
        starting.address = READY.findall(starting.log())[0]
        assert call(starting, 'db_version') == schema.latest()
        assert starting.log().count('waiting for the database') == 1
        assert migrating.wait(60) == 0
        assert starting.stop() == 0
    finally:
        server.stop()


@pytest.mark.parametrize('wrong', [{'db_name': 'none'}, {'db_user': 'nobody-of-that-name'}])
def test_a_database_that_lets_nobody_in_is_not_waited_for(
    daemon: DaemonFactory, dsn: str, wrong: dict[str, str]
) -> None:
    refused = daemon(config={'nipapd': {'forks': '1', **options_of(dsn), **wrong}}, start=False).spawn()
    assert refused.wait() == 1
    assert 'waiting' not in refused.log()


def test_a_system_log_that_is_not_there_is_one_line(daemon: DaemonFactory) -> None:
    if logs.SYSLOG_SOCKET.exists():
        pytest.skip('this host has a system log')
    refused = daemon(config={'nipapd': {'syslog': 'true'}}, start=False).spawn()
    assert refused.wait() == 1
    assert refused.log() == 'nipapd: syslog is configured, but there is no /dev/log on this host\n'


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_it_can_be_stopped_while_it_starts(daemon: DaemonFactory, make_dir: Any, number: signal.Signals) -> None:
    data_dir = make_dir()
    starting = daemon(data_dir=data_dir, start=False).spawn()
    await_that(lambda: (data_dir / 'lock').exists(), 'starting PostgreSQL')
    starting.send(number)
    assert starting.wait() == 0
    starting.await_no_children()


# configurations of the predecessor, and mistakes in a configuration

OF_THE_PREDECESSOR = """
[DEFAULT]
shared = {directory}

[nipapd]
listen =
foreground = true
debug = false
forks = 1
syslog = false
db_sslmode = disable
db_pass = pa%%pin
{database}

[auth]
default_backend = ldap1
auth_cache_timeout = 3600

[auth.backends.local]
type = SqliteAuth
db_path = %(shared)s/accounts.db

[auth.backends.ldap1]
type = LdapAuth
basedn = dc=test,dc=com
uri = ldaps://ldap.test.com
binddn_fmt = uid={{}},ou=people,dc=test,dc=com
search = uid={{}}
search_binddn = cn=admin
search_password = secret
rw_group = cn=nipap

[auth.backends.jwt]
type = JwtAuth
jwk_url = https://id.example.net/jwks.json

[kafka]
enabled = false
brokers = kafka:9092
security_protocol = PLAINTEXT

[tracing]
otlp_http_endpoint = http://127.0.0.1:9/v1/traces
otel_traces_sampler = parentbased_traceidratio

[www]
xmlrpc_uri = http://www@local:secret@127.0.0.1:1337
welcome_message = Welcome!
"""


def test_a_configuration_of_the_predecessor_starts(daemon: DaemonFactory, dsn: str, make_dir: Any) -> None:
    """OpenTelemetry is not installed. Unsupported backends are reported, and logins that name them are refused."""
    home = make_dir()
    accounts = LocalUsers(home / 'accounts.db', legacy=True)
    accounts.create()
    accounts.add(LocalUser('cli', 'Command line'), 'secret')
    options = '\n'.join(f'{name} = {value}' for name, value in options_of(dsn).items())
    file = make_dir() / 'nipap.conf'
    file.write_text(OF_THE_PREDECESSOR.format(database=options, directory=home))
    hidden = make_dir() / 'opentelemetry'
    hidden.mkdir()
    (hidden / '__init__.py').write_text("raise ImportError('No module named opentelemetry')\n")
    path = os.pathsep.join([str(hidden.parent), os.fspath(REPOSITORY)])
    running = daemon('-c', str(file), env={'PYTHONPATH': path}, data_dir=home)
    told = running.log()
    for warning in (
        '[auth.backends.ldap1] type = LdapAuth: is not supported by this version, logins with it are refused',
        '[auth.backends.jwt] jwk_url: is not supported by this version, logins with it are refused',
        '[www]: this section belongs to the web client of NIPAP',
        'OpenTelemetry is not installed (No module named opentelemetry), so nothing is traced',
        f'{file}: everybody can read it, and it holds db_pass, search_password, xmlrpc_uri',
    ):
        assert warning in told
    assert len(re.findall(' WARNING ', told)) == 5

    def version(user: str, password: str) -> object:
        with xmlrpc.client.ServerProxy(f'{running.url(user, password)}/XMLRPC') as nipap:
            return nipap.version({'auth': {'authoritative_source': 'test'}})

    assert version('cli@local', 'secret') == __version__
    with pytest.raises(
        xmlrpc.client.Fault, match=r'1510.*default auth backend refuses every login: type = LdapAuth is not supported'
    ):
        version('cli', 'secret')
    with pytest.raises(xmlrpc.client.Fault, match=r'1510.*Incorrect username or password'):
        version('cli@ldap1', 'secret')
    assert 'INFO nipap.access.authentication: auth backend ldap1 refuses every login: type = LdapAuth' in running.log()
    token = urllib.request.Request(f'{running.address}/api/v1/vrfs', headers={'Authorization': 'Bearer x.y.z'})
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(token)
    with refusal.value as answer:
        assert (answer.code, b'jwk_url is not supported' in answer.read()) == (401, True)
    with contextlib.closing(sqlite3.connect(accounts.path)) as connection:
        assert len(connection.execute('SELECT pwd_hash FROM user').fetchone()[0]) == 40  # the form that [www] needs


def test_variables_of_libpq_decide_nothing(daemon: DaemonFactory, dsn: str) -> None:
    settings = options_of(dsn)
    port = settings.pop('db_port')
    assert port == '5432'
    env = {
        'PGPORT': '1',
        'PGHOST': '/nowhere',
        'PGDATABASE': 'x',
        'PGUSER': 'x',
        'PGSERVICE': 'x',
        'PGSSLMODE': 'require',
    }
    env |= {'PGOPTIONS': '-c search_path=nowhere', 'PGTARGETSESSIONATTRS': 'standby', 'PGCLIENTENCODING': 'latin1'}
    running = daemon(config={'nipapd': {'forks': '1', **settings}}, env=env)
    assert call(running, 'list_vrf', vrf={'id': 0})
    where = running.args[running.args.index('-c') :][:2]
    command = [sys.executable, '-m', 'nipapd.maintenance', 'check', *where]
    environment = {**os.environ, **env, 'PYTHONPATH': os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd='/', timeout=120)
    assert (done.returncode, done.stdout) == (0, 'no problems found\n')


BROKEN = {
    'is not a SQLite file': b'username:password\n' * 100,
    'has no table of users (create it with create-database)': b'',
}


@pytest.mark.parametrize('problem', BROKEN)
def test_a_broken_file_of_accounts_ends_the_start(
    daemon: DaemonFactory, database_options: dict[str, str], make_dir: Any, problem: str
) -> None:
    """This holds for every backend; a HUP does not take such a configuration either."""
    file = make_dir() / 'accounts.db'
    file.write_bytes(BROKEN[problem])
    file.chmod(0o600)
    config: dict[str, dict[str, str]] = {'nipapd': {'forks': '1', **database_options}}
    running = daemon(config=config)
    for name in ('local', 'other'):
        section = {f'auth.backends.{name}': {'type': 'SqliteAuth', 'db_path': str(file)}}
        refused = daemon(config={**config, **section}, start=False).spawn()
        assert refused.wait() == 1
        assert refused.log() == f'nipapd: {file}: {problem}\n'
        checked = run('--check-config', *refused.args)
        assert (checked.returncode, checked.stderr, checked.stdout) == (2, f'nipapd: {file}: {problem}\n', '')
    Path(running.args[running.args.index('-c') + 1]).write_text(
        Path(refused.args[refused.args.index('-c') + 1]).read_text()
    )
    running.send(signal.SIGHUP)
    await_that(lambda: f'the configuration in use stays: {file}: {problem}' in running.log(), 'a refusal')
    file.unlink()
    running.send(signal.SIGHUP)
    await_that(lambda: f'auth backend other refuses every login: {file}: no such file' in running.log(), 'a warning')


def test_accounts_that_break_later_are_a_fault_that_can_be_tried_again(
    daemon: DaemonFactory, database_options: dict[str, str], make_dir: Any
) -> None:
    home = make_dir()
    running = daemon(config={'nipapd': {'forks': '1', **database_options}}, data_dir=home)
    login = base64.b64encode(':'.join(running.admin()).encode()).decode()
    (home / 'local_auth.db').write_text('something else\n' * 100)
    with pytest.raises(xmlrpc.client.Fault, match=r'1010: .The auth backend is not available') as fault:
        call(running, 'version')
    assert fault.value.faultCode == 1010
    request = urllib.request.Request(f'{running.address}/api/v1/vrfs', headers={'Authorization': f'Basic {login}'})
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(request)
    with refusal.value as answer:
        assert (answer.code, 'Retry-After' in answer.headers) == (503, True)


@pytest.mark.skipif(os.geteuid() != 0, reason='only root can become another account')
@pytest.mark.parametrize('own', [True, False], ids=['own database', 'configured database'])
def test_accounts_that_handlers_cannot_read_end_the_start(
    daemon: DaemonFactory, database_options: dict[str, str], make_dir: Any, own: bool
) -> None:
    file = make_dir() / 'accounts.db'
    LocalUsers(file).create()
    config = {
        'nipapd': {'forks': '1', 'user': 'postgres', **({} if own else database_options)},
        'auth.backends.local': {'type': 'SqliteAuth', 'db_path': str(file)},
    }
    os.chown(file, 0, 0)
    refused = daemon(config=config, start=False).spawn()
    assert refused.wait() == 1
    assert refused.log() == f'nipapd: {file}: cannot be read by postgres, the account of the request handlers\n'
    os.chmod(file, 0o644)
    running = daemon(config=config)
    assert f'WARNING nipapd: {file}: everybody on this host can read it, and it holds password hashes' in running.log()


def test_a_configuration_can_be_checked(make_dir: Any) -> None:
    home, file = make_dir() / 'none', make_dir() / 'nipap.conf'
    file.write_text('[nipapd]\nprot = 1\ndb_host = 192.0.2.1\n')
    done = run('--check-config', '-c', str(file), '--data-dir', str(home))
    assert (done.returncode, done.stdout) == (0, f'{file}: the configuration can be used\n')
    assert done.stderr == f'nipapd: {file}: [nipapd] prot: unknown key, ignored, did you mean port?\n'
    assert not home.exists()
    file.write_text('[nipapd]\nport = many\n')
    done = run('--check-config', '-c', str(file))
    assert (done.returncode, done.stdout) == (2, '')
    assert done.stderr == f'nipapd: {file}: [nipapd] port = many: not a port (0 to 65535)\n'
    assert run('--check-config', '-c', '/dev/null').stdout == '/dev/null: the configuration can be used\n'


# commands that print and exit


def run(*args: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    command = [sys.executable, '-m', 'nipapd', *args]
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd='/', timeout=60)


def test_the_version() -> None:
    assert run('--version').stdout == f'nipapd version: {__version__}\n'  # scripts read this format


def test_the_version_of_the_schema(daemon: DaemonFactory, data_dir: Path) -> None:
    assert run('--db-version', '--data-dir', str(data_dir)).stdout == f'nipap db schema: {schema.latest()}\n'
    daemon(data_dir=data_dir, config={'nipapd': {'forks': '1'}})
    assert run('--db-version', '--data-dir', str(data_dir)).stdout == f'nipap db schema: {schema.latest()}\n'


def test_there_is_no_version_of_no_schema(make_dir: Any) -> None:
    directory = make_dir()
    none = run('--db-version', '--data-dir', str(directory))
    assert (none.returncode, none.stdout) == (1, '')
    assert none.stderr == f'nipapd: there is no database in {directory} yet\n'
    assert list(directory.iterdir()) == []
