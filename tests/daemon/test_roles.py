"""The roles of the private PostgreSQL: rights of handlers, the owner of the database, accounts of the superuser."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest
from daemon_process import REPOSITORY, poll
from forked import Forking
from support import FAST, DaemonFactory, open_directories, options_of
from talking import call
from upgrading import serve, stop

from nipap.access.authentication import Actor
from nipap.backend import Backend
from nipap.integrity import check
from nipap.postgres import schema
from nipap.postgres.database import Database
from nipapd import roles
from nipapd.binaries import account_named
from nipapd.embedded import OWNER, SERVICE, SUPERUSER, EmbeddedPostgres

pytestmark = pytest.mark.slow

as_root = pytest.mark.skipif(os.geteuid() != 0, reason='only root can become another account')


@contextlib.contextmanager
def running(server: EmbeddedPostgres) -> Iterator[EmbeddedPostgres]:
    """Run the server during the block."""
    try:
        yield server.start()
    finally:
        server.stop()


@contextlib.contextmanager
def connected(dsn: str) -> Iterator[psycopg2.extensions.cursor]:
    """Yield a cursor in a session that commits each statement."""
    with contextlib.closing(psycopg2.connect(dsn)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            yield cursor


@pytest.fixture
def made(data_dir: Path) -> Iterator[EmbeddedPostgres]:
    """Yield a server with a database as made by programs that used the superuser alone."""
    with running(EmbeddedPostgres(data_dir, settings=FAST)) as server:
        yield server


def owners(server: EmbeddedPostgres) -> set[str]:
    """Return the owners of the database, and of tables, functions and types that belong to no extension."""
    with connected(server.dsn()) as cursor:
        cursor.execute(
            """SELECT DISTINCT owner::regrole::text FROM (
            SELECT datdba FROM pg_database WHERE datname = current_database() UNION ALL
            SELECT nspowner FROM pg_namespace WHERE nspname LIKE 'public\\_v%' UNION ALL
            SELECT relowner FROM pg_class c WHERE relnamespace = 'public'::regnamespace UNION ALL
            SELECT typowner FROM pg_type t WHERE typnamespace = 'public'::regnamespace AND NOT EXISTS (
                SELECT FROM pg_depend d WHERE d.objid = coalesce(nullif(t.typelem, 0), t.oid) AND d.deptype = 'e')
            UNION ALL
            SELECT proowner FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace WHERE nspname LIKE 'public%'
                AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')) o (owner)"""
        )
        return {name for (name,) in cursor.fetchall()}


def test_a_database_of_a_former_program_is_given_to_its_owner(made: EmbeddedPostgres) -> None:
    assert owners(made) == {SUPERUSER}
    roles.prepare(made.dsn())
    assert owners(made) == {OWNER}
    with contextlib.closing(Database(made.dsn(role=OWNER))) as database:
        assert schema.migrate(database) == []
        assert check.problems(database) == []


def test_a_second_time_nothing_is_written(made: EmbeddedPostgres) -> None:
    roles.prepare(made.dsn())
    rows = """SELECT array_agg(xmin::text ORDER BY oid), (SELECT array_agg(xmin::text) FROM pg_authid),
        (SELECT array_agg(xmin::text) FROM pg_default_acl), (SELECT array_agg(xmin::text) FROM pg_namespace),
        (SELECT array_agg(xmin::text) FROM pg_db_role_setting), (SELECT array_agg(xmin::text) FROM pg_database)
        FROM pg_class"""
    with connected(made.dsn()) as cursor:
        cursor.execute(rows)
        before = cursor.fetchone()
        roles.prepare(made.dsn())
        cursor.execute(rows)
        assert cursor.fetchone() == before


def test_several_prepare_at_once(made: EmbeddedPostgres) -> None:
    problems: list[BaseException] = []

    def prepare() -> None:
        try:
            roles.prepare(made.dsn())
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=prepare) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert owners(made) == {OWNER}


def test_a_long_read_is_waited_for_and_holds_up_nobody(made: EmbeddedPostgres) -> None:
    """An older daemon serves beside us: it runs a long read, and short calls meanwhile."""
    with contextlib.closing(psycopg2.connect(made.dsn())) as reader, reader.cursor() as cursor:
        cursor.execute('SELECT FROM prefix')
        preparing = threading.Thread(target=roles.prepare, args=(made.dsn(),))
        preparing.start()
        with connected(made.dsn()) as other:
            for _ in range(3):
                other.execute("SET lock_timeout = '30s'; SELECT FROM prefix; SELECT pg_sleep(0.7)")
        assert preparing.is_alive()
        reader.rollback()
    preparing.join(60)
    assert not preparing.is_alive()
    assert owners(made) == {OWNER}


REFUSED = {
    'make a table': 'CREATE TABLE mine (n int)',
    'make a function': 'CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS $$ SELECT 1 $$',
    'make a schema': 'CREATE SCHEMA mine',
    'make a database': 'CREATE DATABASE mine',
    'drop a table': 'DROP TABLE asn',
    'change a table': 'ALTER TABLE asn ADD mine int',
    'empty a table': 'TRUNCATE audit_log',
    'make a trigger': 'CREATE TRIGGER mine AFTER INSERT ON asn FOR EACH ROW EXECUTE FUNCTION tsvector_update_trigger()',
    'change the audit log': "UPDATE audit_log SET username = 'somebody'",
    'shorten the audit log': 'DELETE FROM audit_log',
    'shorten a partition of the audit log': 'DELETE FROM audit_log_1',
    'add to a partition of the audit log': 'INSERT INTO audit_log_2 SELECT * FROM audit_log',
    'detach a partition': "SET search_path = public_v{0}, public; SELECT detach_partition('audit_log_1')",
    'say what time it is': "SET search_path = public_v{0}, public; SELECT keep_partitions_at('2100-01-01', 1)",
    'forget a detached partition': 'DELETE FROM audit_detached',
    'change a change set': "UPDATE change_set SET username = 'somebody'",
    'remove change sets': 'DELETE FROM change_set',
    'change the log of sign-ins': "UPDATE sign_in SET outcome = 'ok'",
    'change the version': 'UPDATE schema_migration SET version = 1',
    'replace a function': 'DROP SCHEMA public_v{0} CASCADE',
    'run a program': "COPY asn TO PROGRAM 'true'",
    'read a file': "SELECT pg_read_file('PG_VERSION')",
    'write a file': "COPY asn TO '/tmp/nipap-test-of-roles'",
    'read password hashes': 'SELECT * FROM pg_authid',
    'become the superuser': 'SET ROLE postgres',
    'become the owner': f'SET ROLE {OWNER}',
    'make a role': 'CREATE ROLE mine',
    'be superuser': f'ALTER ROLE {SERVICE} SUPERUSER',
    'change the server': "ALTER SYSTEM SET work_mem = '1MB'",
    'log less': "SET log_min_messages = 'panic'",
    'ignore triggers': 'SET session_replication_role = replica',
    'load a library': "LOAD 'auto_explain'",
}


@pytest.fixture(scope='module')
def served(prepared: Path) -> Iterator[EmbeddedPostgres]:
    """Yield a server with a prepared database; no test changes the server."""
    with open_directories() as make:
        home = make()
        subprocess.run(['cp', '-a', f'{prepared}/.', home], check=True)
        with running(EmbeddedPostgres(home, settings=FAST)) as server:
            roles.prepare(server.dsn())
            yield server


@pytest.mark.parametrize('what', REFUSED)
def test_handlers_may_not(served: EmbeddedPostgres, what: str) -> None:
    with connected(served.dsn(role=SERVICE)) as cursor, pytest.raises(psycopg2.errors.InsufficientPrivilege):
        cursor.execute(REFUSED[what].format(schema.latest()))


def test_handlers_have_partitions_of_the_audit_log_made(served: EmbeddedPostgres) -> None:
    """A search path, a temporary table and a function of theirs make no difference."""
    with connected(served.dsn()) as cursor:
        cursor.execute("SELECT setval('audit_log_id_seq', 10000000)")
    with connected(served.dsn(role=SERVICE)) as cursor:
        name = f'public_v{schema.latest()}.keep_partitions(0)'
        cursor.execute('CREATE TEMPORARY TABLE audit_log_rest AS SELECT 1 AS id')
        cursor.execute('SET search_path = pg_temp')
        cursor.execute(f'SELECT {name}')
        assert cursor.fetchone() == ('audit_log_3 is the next partition',)
        cursor.execute(f'SELECT {name}')
        assert cursor.fetchone() == (None,)
    with connected(served.dsn()) as cursor:
        cursor.execute("SELECT relowner::regrole::text, relispartition FROM pg_class WHERE relname = 'audit_log_3'")
        assert cursor.fetchall() == [(OWNER, True)]
        cursor.execute(
            "SELECT count(*) FROM pg_class, aclexplode(relacl) a WHERE relname = 'audit_log_3' "
            'AND a.grantee <> relowner'
        )
        assert cursor.fetchall() == [(0,)]
        cursor.execute(roles.WRONG_RIGHTS)
        assert cursor.fetchall() == []


def test_the_owner_is_no_superuser(served: EmbeddedPostgres) -> None:
    with connected(served.dsn(role=OWNER)) as cursor:
        cursor.execute(
            'SELECT rolname, rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls FROM pg_roles '
            'WHERE rolname = ANY (%s) ORDER BY 1',
            ([OWNER, SERVICE],),
        )
        assert cursor.fetchall() == [(SERVICE, False), (OWNER, False)]
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cursor.execute("COPY asn TO PROGRAM 'true'")


@pytest.mark.parametrize('role', [SERVICE, OWNER])
def test_sessions_log_no_errors(served: EmbeddedPostgres, role: str) -> None:
    """For PostgreSQL a refused change is an error, whose text contains values of the client."""
    with connected(served.dsn(role=role)) as cursor:
        cursor.execute('SHOW log_min_messages')
        assert cursor.fetchone() == ('log',)
        with pytest.raises(psycopg2.errors.InvalidTextRepresentation):
            cursor.execute("SELECT 'a secret of the client'::int")
    assert 'a secret of the client' not in served.log_path.read_text()


def test_handlers_end_their_own_sessions_and_no_others(served: EmbeddedPostgres) -> None:
    """When the answer to a call is lost, another session ends the session of the call."""
    with connected(served.dsn(role=SERVICE)) as cursor:
        for role, ends in ((SERVICE, True), (OWNER, False), (SUPERUSER, False)):
            with contextlib.closing(psycopg2.connect(served.dsn(role=role))) as other:
                end = f'SELECT pg_terminate_backend({other.get_backend_pid()}, 5000)'
                if ends:
                    cursor.execute(end)
                    assert cursor.fetchone() == (True,)
                else:
                    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                        cursor.execute(end)


def test_tables_of_a_later_migration_are_there_for_handlers(made: EmbeddedPostgres) -> None:
    """The tables are accessible at once: a daemon may serve while nipap-admin migrates."""
    roles.prepare(made.dsn())
    with connected(made.dsn(role=OWNER)) as owner, connected(made.dsn(role=SERVICE)) as service:
        owner.execute('CREATE TABLE next_thing (n int GENERATED ALWAYS AS IDENTITY, text text)')
        service.execute("INSERT INTO next_thing (text) VALUES ('new'); DELETE FROM next_thing")


def test_a_server_of_a_former_program_is_shared(made: EmbeddedPostgres) -> None:
    """Such a server knows the accounts of the superuser, and no other role."""
    lines = made.home.joinpath('pg_ident.conf').read_text().splitlines()
    former = ''.join(f'{line}\n' for line in lines if line.endswith(f' {SUPERUSER}'))
    made.home.joinpath('pg_ident.conf').write_text(former)
    with connected(made.dsn('postgres')) as cursor:
        cursor.execute('SELECT pg_reload_conf()')
    roles.prepare(made.dsn())
    poll(lambda: not lets_in(made.dsn(role=SERVICE)), 20, lambda: 'the file was not read')
    with running(EmbeddedPostgres(made.home)) as second:
        assert second.proc is None
        poll(lambda: lets_in(second.dsn(role=SERVICE)), 20, lambda: 'handlers are not let in')


def lets_in(dsn: str) -> bool:
    """Return whether a session can be opened."""
    try:
        psycopg2.connect(dsn).close()
    except psycopg2.OperationalError:
        return False
    return True


# ---- accounts of the host


CONNECT = """
import os, pwd, sys
import psycopg2
os.setgroups([])
account = pwd.getpwnam(sys.argv[1])
os.setgid(account.pw_gid)
os.setuid(account.pw_uid)
for dsn in sys.argv[2:]:
    try:
        psycopg2.connect(dsn).close()
        print('in')
    except psycopg2.OperationalError as error:
        said = str(error)
        print('out' if 'Peer authentication failed' in said else 'closed' if 'Permission denied' in said else said)
"""


def tries(account: str, server: EmbeddedPostgres) -> list[str]:
    """Return the outcome for each role that an account tries."""
    dsns = [server.dsn(role=role) for role in (SERVICE, OWNER, SUPERUSER)]
    command = [sys.executable, '-c', CONNECT, account, *dsns]
    env = {**os.environ, 'PYTHONPATH': str(REPOSITORY)}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=env, cwd='/').stdout.splitlines()


@as_root
@pytest.mark.parametrize(
    ('handlers', 'expected'),
    [
        ('nobody', {'nobody': ['in', 'out', 'out'], 'postgres': ['in'] * 3, 'root': ['in'] * 3}),
        ('postgres', {'nobody': ['closed'] * 3, 'postgres': ['in', 'out', 'out'], 'root': ['in'] * 3}),
        (None, {'nobody': ['closed'] * 3, 'postgres': ['in'] * 3, 'root': ['in'] * 3}),
    ],
)
def test_roles_that_accounts_may_use(data_dir: Path, handlers: str | None, expected: dict[str, list[str]]) -> None:
    """Handlers use their role, even with the account of the server. Other accounts do not reach the socket."""
    client = account_named(handlers) if handlers else None
    with running(EmbeddedPostgres(data_dir, settings=FAST, client=client)) as server:
        assert pwd.getpwuid(server.data.stat().st_uid).pw_name == 'postgres'
        roles.prepare(server.dsn())
        assert {account: tries(account, server) for account in expected} == expected
        assert tries('daemon', server) == ['closed'] * 3


@as_root
def test_an_account_that_may_not_look_after_a_server_is_told(data_dir: Path, make_dir: Callable[[], Path]) -> None:
    """The account of handlers owns the directory, and root has started the daemon."""
    for path in (data_dir, *data_dir.rglob('*')):
        shutil.chown(path, 'nobody')
    with running(EmbeddedPostgres(data_dir, settings=FAST, client=account_named('nobody'))) as server:
        shutil.chown(server.home / 'lock', 'nobody')
        code = f"""
import os
from pathlib import Path
from nipapd.embedded import EmbeddedPostgres, EmbeddedPostgresError
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    EmbeddedPostgres(Path({str(data_dir)!r})).start()
except EmbeddedPostgresError as error:
    print(error)
"""
        env = {**os.environ, 'PYTHONPATH': str(REPOSITORY)}
        done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=env, cwd='/')
        expected = f'the PostgreSQL in {data_dir} is running and refuses the account nobody: run the command as root'
        assert done.stdout.startswith(expected), done.stderr


# ---- the daemon


def test_a_daemon_serves_as_the_role_of_handlers(daemon: DaemonFactory, data_dir: Path) -> None:
    """This holds for every process beside the parent."""
    daemon(data_dir=data_dir, config={'nipapd': {'forks': '2'}})
    sessions = """SELECT DISTINCT usename FROM pg_stat_activity
        WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"""
    dsn = psycopg2.extensions.make_dsn(host=str(data_dir / 'run'), port=5432, user=SUPERUSER, dbname='nipap')
    with connected(dsn) as cursor:

        def connected_as() -> list[tuple[str]]:
            cursor.execute(sessions)
            return list(cursor.fetchall())

        poll(lambda: connected_as() == [(SERVICE,)], 40, lambda: str(connected_as()))


@as_root
def test_a_daemon_of_an_ordinary_user_serves_as_the_role_of_handlers(
    forking: Forking, data_dir: Path, make_dir: Callable[[], Path]
) -> None:
    """All its processes have one account of the host, which may administer the database while the daemon runs."""
    home = make_dir() / 'nipap'
    subprocess.run(['cp', '-a', f'{data_dir}/.', home], check=True)
    for path in (home.parent, home, *home.rglob('*')):
        os.chown(path, 65534, 65534, follow_symlinks=False)
    where = ('-c', '/dev/null', '--data-dir', home)
    serving = serve(forking, home, account='nobody')
    try:
        dsn = psycopg2.extensions.make_dsn(host=str(home / 'run'), port=5432, user=SUPERUSER, dbname='nipap')
        with connected(dsn) as cursor:
            names = (
                "SELECT DISTINCT usename FROM pg_stat_activity WHERE backend_type = 'client backend' "
                'AND pid <> pg_backend_pid() AND usename IS NOT NULL'
            )

            def used() -> list[tuple[str]]:
                cursor.execute(names)
                return list(cursor.fetchall())

            poll(used, 20, lambda: 'nobody uses the database')
            assert used() == [(SERVICE,)]
        assert (home / 'run').stat().st_mode & 0o777 == 0o700
        assert forking.run('nipap-admin', 'check', *where, account='nobody') == 'no problems found\n'
    finally:
        stop(serving)


def test_changes_of_handlers_are_complete(served: EmbeddedPostgres, actor: Actor) -> None:
    """The owner finds no problems in a tree that was built with the role of handlers."""
    with contextlib.closing(Database(served.dsn(role=SERVICE))) as database:
        backend = Backend(database)
        backend.add_prefix(actor, {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'all'})
        backend.add_prefix(actor, {'prefix': '10.1.0.0/16', 'type': 'assignment', 'description': 'one'})
        backend.remove_prefix(actor, {'prefix': '10.0.0.0/8'})
    with contextlib.closing(Database(served.dsn(role=OWNER))) as database:
        assert check.problems(database) == []


# ---- a configured server


def documented() -> str:
    """Return the statements of docs/security.md that make a role for handlers."""
    text = (REPOSITORY / 'docs' / 'security.md').read_text()
    section = text.partition('## A role for handlers on a configured server')[2]
    return section.partition('```postgresql\n')[2].partition('```')[0]


def test_the_documented_role_is_enough_to_serve(made: EmbeddedPostgres, daemon: DaemonFactory) -> None:
    """The server has an owner `nipap`, which has migrated the database."""
    with connected(made.dsn()) as cursor:
        cursor.execute('CREATE ROLE nipap LOGIN')
        cursor.execute(documented())
    account = pwd.getpwuid(os.geteuid()).pw_name
    with open(made.home / 'pg_hba.conf', 'a') as hba, open(made.home / 'pg_ident.conf', 'a') as ident:
        hba.write('local nipap nipap_handlers peer map=nipapd\n')
        ident.write(f'nipapd "{account}" nipap_handlers\n')
    with connected(made.dsn()) as cursor:
        cursor.execute('SELECT pg_reload_conf()')
    dsn = made.dsn(role='nipap_handlers')
    poll(lambda: lets_in(dsn), 20, lambda: 'the files were not read')
    running = daemon(config={'nipapd': {'forks': '1', **options_of(dsn)}})
    attr = {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'all'}
    many = [{'method': 'add_prefix', 'args': {'attr': {**attr, 'prefix': f'10.{n}.0.0/16'}}} for n in range(9)]
    assert call(running, 'add_prefix', attr=attr)
    assert call(running, 'batch', operations=many)
    assert call(running, 'edit_prefix', prefix={'prefix': '10.0.0.0/8'}, attr={'description': 'changed'})
    assert call(running, 'smart_search_prefix', query_string='changed')['result']
    assert len(call(running, 'list_prefix', as_of=1)) == 1
    assert call(running, 'add_webhook', attr={'url': 'http://127.0.0.1:9/', 'secret': 's' * 40})
    call(running, 'remove_prefix', prefix={'prefix': '10.3.0.0/16'})
    assert running.stop() == 0
    with connected(dsn) as cursor, pytest.raises(psycopg2.errors.InsufficientPrivilege):
        cursor.execute('DELETE FROM audit_log')
