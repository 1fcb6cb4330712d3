"""Programs of two versions serve one database side by side, in either order of start, and no call fails meanwhile.

The older program is the kept wheel of schema 8: it has its functions in the schema of the tables. The next program is
the code under test with another migration and another text of a function.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import shutil
import threading
import time
import xmlrpc.client
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from daemon_process import REPOSITORY, Daemon, poll
from forked import Forking
from support import DaemonFactory, open_directories, options_of

from nipap.history.change_order import ChangeSequencer
from nipap.integrity import check
from nipap.postgres import schema
from nipap.postgres.database import Database

pytestmark = pytest.mark.slow

KEPT = REPOSITORY / 'tests' / 'data' / 'kept'
AUTH = {'authoritative_source': 'test'}
BLOCK = {'type': 'reservation', 'description': 'block'}
POOL = {'name': 'p', 'description': 'd', 'default_type': 'assignment', 'ipv4_default_prefix_length': 28}
MEMBERS = 4
CALLS = 40  # calls of each client before the main event, and after it
CLIENTS = 2  # of each daemon
SOON_S = 120.0
KILLS = 5

Serve = Callable[..., Daemon]


@pytest.fixture(scope='module')
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of the program of schema 8."""
    directory = tmp_path_factory.mktemp('older')
    (wheel,) = KEPT.glob('*.whl')
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory)
    return directory


@pytest.fixture(scope='module')
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a copy of the code under test, which does not change while the tests run."""
    return copied(tmp_path_factory.mktemp('program'))


@pytest.fixture(scope='module')
def following(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a program of the next version.

    The program has one more column, and writes its version into the reason of its change sets.
    """
    directory = copied(tmp_path_factory.mktemp('following'))
    add_migration(directory, 1, 'ALTER TABLE asn ADD COLUMN next_text text;')
    record = directory / 'nipap' / 'sql' / 'functions' / '025_record.sql'
    text = record.read_text(encoding='utf-8')
    changed = text.replace('who.idempotency_key, who.reason,', "who.idempotency_key, 'next version',")
    assert changed != text
    record.write_text(changed, encoding='utf-8')
    return directory


def copied(directory: Path) -> Path:
    shutil.copytree(REPOSITORY / 'nipap', directory / 'nipap', ignore=shutil.ignore_patterns('sql'))
    shutil.copytree(REPOSITORY / 'nipapd', directory / 'nipapd')
    shutil.copytree(REPOSITORY / 'sql', directory / 'nipap' / 'sql')
    return directory


def add_migration(program: Path, n: int, text: str) -> None:
    number = schema.latest() + n
    (program / 'nipap' / 'sql' / 'migrations' / f'{number:04}_next.sql').write_text(f'-- Next.\n{text}\n')


@pytest.fixture(scope='module')
def forking() -> Iterator[Callable[[Path], Forking]]:
    """Yield a function that returns a process that has imported a program; the starts of a daemon are forks of it."""
    with contextlib.ExitStack() as stack:
        make = stack.enter_context(open_directories())
        yield functools.cache(lambda program: stack.enter_context(Forking(make(), program)))


@pytest.fixture
def serve(daemon: DaemonFactory, empty_dsn: str, forking: Callable[[Path], Forking]) -> Serve:
    """Return a function that starts a daemon of a program on the database of the test."""

    def start(program: Path, *args: str, start: bool = True) -> Daemon:
        config = {'nipapd': {'forks': '1', **options_of(empty_dsn)}}
        made = daemon(*args, config=config, env={'PYTHONPATH': str(program)}, start=False)
        made.forking = forking(program)
        return made.start() if start else made

    return start


def refused(serve: Serve, program: Path, *args: str) -> str:
    """Return the log of a daemon that refuses to start."""
    made = serve(program, *args, start=False).spawn()
    assert made.wait(SOON_S) == 1
    return made.log()


class Client(threading.Thread):
    """Allocates, edits, adds many and removes all the time; a failed call ends the client."""

    def __init__(self, url: str, number: int) -> None:
        super().__init__()
        self.calls = 0
        self.problem: BaseException | None = None
        self.over = threading.Event()
        self._number = number
        self._chance = random.Random(number)
        self._server = xmlrpc.client.ServerProxy(url, allow_none=True)

    def call(self, method: str, **members: Any) -> Any:
        answer = getattr(self._server, method)({'auth': AUTH, **members})
        self.calls += 1
        return answer

    def run(self) -> None:
        try:
            with self._server:
                for turn in itertools.count():
                    if self.over.is_set():
                        return
                    self._turn(turn)
        except BaseException as problem:
            self.problem = problem

    def _turn(self, turn: int) -> None:
        args = {'from-pool': {'name': 'p'}, 'family': 4}
        added = self.call('add_prefix', attr={'description': f'{self._number}.{turn}'}, args=args)
        self.call('edit_prefix', prefix={'id': added['id']}, attr={'description': 'edited'})
        if turn % 5 == 0:
            vrf = self.call('add_vrf', attr={'rt': f'{self._number}:{turn}', 'name': f'{self._number}.{turn}'})['id']
            blocks = ({'prefix': f'10.{n}.0.0/16', 'vrf_id': vrf, **BLOCK} for n in range(10))
            operations = [{'method': 'add_prefix', 'args': {'attr': block}} for block in blocks]
            self.call('batch', operations=operations)
            self.call('remove_vrf', vrf={'id': vrf})
        if self._chance.random() < 0.5:
            self.call('remove_prefix', prefix={'id': added['id']})


@contextlib.contextmanager
def load(*daemons: Daemon, first: int = 1) -> Iterator[None]:
    """Run clients of these daemons during the block, with at least CALLS calls before and after; no call may fail."""
    numbers = itertools.count(first)
    clients = [Client(each.url(*each.admin()), next(numbers)) for each in daemons for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        await_calls(clients, CALLS)
        yield
        await_calls(clients, CALLS)
    finally:
        for client in clients:
            client.over.set()
        for client in clients:
            client.join()
    assert [client.problem for client in clients if client.problem] == []


def await_calls(clients: list[Client], calls: int) -> None:
    wanted = [client.calls + calls for client in clients]

    def enough() -> bool:
        pairs = zip(clients, wanted, strict=True)
        return any(client.problem for client in clients) or all(client.calls >= least for client, least in pairs)

    poll(enough, SOON_S, lambda: f'only {[client.calls for client in clients]} calls, not {wanted}')


def fill(running: Daemon) -> None:
    """Make the pool that clients allocate from."""
    with xmlrpc.client.ServerProxy(running.url(*running.admin()), allow_none=True) as server:
        server.add_pool({'auth': AUTH, 'attr': POOL})
        for n in range(MEMBERS):
            block = {'prefix': f'10.{n}.0.0/16', 'pool_name': 'p', **BLOCK}
            server.add_prefix({'auth': AUTH, 'attr': block})


def check_all(dsn: str) -> None:
    """Check that the database has no problems, and that each change set has its position."""
    db = Database(dsn)
    try:
        ChangeSequencer().step(db)
        assert check.problems(db) == []
        unplaced = (
            'SELECT count(*) FROM change_set s WHERE NOT EXISTS (SELECT FROM change_order WHERE change_set = s.id)'
        )
        assert db.read(lambda tx: tx.value(unplaced)) == 0
    finally:
        db.close()


def ask(dsn: str, statement: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


def contents(dsn: str) -> list[tuple[Any, ...]]:
    """Return all objects that programs make in a database, other than rows."""
    sql = """SELECT 'relation', c.oid::regclass::text, '' FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
    WHERE nspname LIKE 'public%'
    UNION ALL SELECT 'function', f.oid::regprocedure::text, md5(prosrc) FROM pg_proc f
    JOIN pg_namespace n ON n.oid = pronamespace WHERE nspname LIKE 'public%'
    UNION ALL SELECT 'schema', nspname, obj_description(oid, 'pg_namespace') FROM pg_namespace
    WHERE nspname LIKE 'public%'
    UNION ALL SELECT 'migration', version::text, name FROM schema_migration ORDER BY 1, 2"""
    return ask(dsn, sql)


# ---------------------------------------------------------------- ---- the program without versions of functions


def test_the_program_of_schema_8_goes_on_while_this_one_migrates(
    serve: Serve, older: Path, program: Path, empty_dsn: str
) -> None:
    """This program is killed on its way a few times, once while it waits for a lock in the middle of a migration."""
    former = serve(older, '--auto-install-db')
    fill(former)
    functions = [row for row in contents(empty_dsn) if row[0] == 'function']
    chance = random.Random(random.randrange(2**32))
    with load(former):
        with contextlib.closing(psycopg2.connect(empty_dsn)) as holder, holder.cursor() as cursor:
            cursor.execute('SELECT count(*) FROM audit_log')
            stopped = serve(program, '--auto-upgrade-db', start=False).spawn()
            waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'audit_log'::regclass AND NOT granted"
            poll(lambda: ask(empty_dsn, waiting) != [(0,)], SOON_S, stopped.log)
            stopped.kill()
        for _ in range(KILLS):
            stopped = serve(program, '--auto-upgrade-db', start=False).spawn()
            # Kill at a random moment: a step that was begun is then done or undone.
            time.sleep(chance.random())
            stopped.kill()
        this = serve(program, '--auto-upgrade-db')
        with load(this, first=100):
            pass
    kept = {row for row in functions if row not in contents(empty_dsn)}
    assert kept == set(), 'the functions of the former program are as they were'
    assert ask(empty_dsn, 'SELECT max(version), max(oldest_program) FROM schema_migration') == [
        (schema.latest(), schema.UNVERSIONED)
    ]
    for each in (former, this):
        assert each.stop() == 0
    check_all(empty_dsn)


def test_the_program_of_schema_8_does_not_start_beside_this_one_and_spoils_nothing(
    serve: Serve, older: Path, program: Path, empty_dsn: str
) -> None:
    this = serve(program, '--auto-install-db')
    fill(this)
    before = contents(empty_dsn)
    with load(this):
        for options in ((), ('--auto-upgrade-db',), ('--auto-install-db', '--auto-upgrade-db')):
            assert f'has version {schema.latest()}, this program knows 8' in refused(serve, older, *options)
    assert contents(empty_dsn) == before
    assert this.stop() == 0
    check_all(empty_dsn)


# ---------------------------------------------------------------- programs with versions of functions


def test_the_next_program_starts_beside_this_one(serve: Serve, program: Path, following: Path, empty_dsn: str) -> None:
    this = serve(program, '--auto-install-db')
    fill(this)
    chance = random.Random(random.randrange(2**32))
    with load(this):
        for _ in range(KILLS):
            stopped = serve(following, '--auto-upgrade-db', start=False).spawn()
            time.sleep(chance.random())
            stopped.kill()
        other = serve(following, '--auto-upgrade-db')
        with load(other, first=100):
            pass
    writers = """SELECT DISTINCT reason IS NULL, (username, authoritative_source) = ('admin', 'test') FROM change_set
        ORDER BY 1"""
    assert len(ask(empty_dsn, writers)) == 2, 'each has its own functions'
    for each in (this, other):
        assert each.stop() == 0
    check_all(empty_dsn)


def test_this_program_starts_beside_the_next_one_and_leaves_the_schema_alone(
    serve: Serve, program: Path, following: Path, empty_dsn: str
) -> None:
    serve(program, '--auto-install-db').stop()
    other = serve(following, '--auto-upgrade-db')
    fill(other)
    before = contents(empty_dsn)
    with load(other):
        for options in ((), ('--auto-upgrade-db',), ('--auto-install-db', '--auto-upgrade-db')):
            this = serve(program, *options)
            with load(this, first=100):
                pass
            assert this.stop() == 0
    assert contents(empty_dsn) == before
    reasons = ask(empty_dsn, 'SELECT DISTINCT reason FROM change_set ORDER BY 1')
    assert reasons == [('next version',), (None,)]
    assert other.stop() == 0
    check_all(empty_dsn)


def test_after_a_migration_that_contracts_this_program_says_which_one_it_takes(
    serve: Serve, program: Path, following: Path, empty_dsn: str, tmp_path: Path
) -> None:
    serve(program, '--auto-install-db').stop()
    contracting = tmp_path / 'contracting'
    shutil.copytree(following, contracting)
    oldest = schema.latest() + 1
    add_migration(contracting, 2, f'-- Oldest program: {oldest}\nDROP TRIGGER audit_log_change_set ON audit_log;')
    serve(following, '--auto-upgrade-db').stop()
    other = serve(contracting, '--auto-upgrade-db')
    fill(other)
    before = contents(empty_dsn)
    with load(other, serve(following)):
        for options in ((), ('--auto-upgrade-db',)):
            said = refused(serve, program, *options)
            assert f'has version {oldest + 1}, which takes a program of version {oldest} or later' in said
    assert contents(empty_dsn) == before
    assert [row[1] for row in before if row[0] == 'schema' and '_v' in row[1]] == [
        *(f'public_v{oldest}', f'public_v{oldest}_past'),
        *(f'public_v{oldest + 1}', f'public_v{oldest + 1}_past'),
    ]
    assert other.stop() == 0
    check_all(empty_dsn)
