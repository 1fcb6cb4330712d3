"""The log of sign-ins of a running daemon."""

from __future__ import annotations

import base64
import contextlib
import http.client
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import psycopg2.extensions
import pytest
from daemon_process import Daemon
from support import DaemonFactory
from talking import await_that

from nipap.access import sign_ins
from nipap.postgres.database import Database

pytestmark = pytest.mark.slow

HANDLERS = 2
SECRET = 'a secret guess'
VERSION = (
    b'<?xml version="1.0"?><methodCall><methodName>version</methodName><params><param><value><struct><member>'
    b'<name>auth</name><value><struct><member><name>authoritative_source</name><value><string>test</string></value>'
    b'</member></struct></value></member></struct></value></param></params></methodCall>'
)
Ask = Callable[..., int]
Start = Callable[..., Daemon]


@pytest.fixture
def start(daemon: DaemonFactory, database_options: dict[str, str]) -> Start:
    """Return a factory of daemons on the database of the test. failed_logins: the limit of an address; 0: none."""

    def make(handlers: int = 1, failed_logins: int = 0, **settings: str) -> Daemon:
        nipapd = {'forks': str(handlers), **database_options, **settings}
        return daemon(config={'nipapd': nipapd, 'auth': {'failed_logins': str(failed_logins)}})

    return make


@contextlib.contextmanager
def asking(daemon: Daemon) -> Iterator[Ask]:
    """Yield a function that makes a request with credentials and returns the HTTP status."""
    port = int(daemon.address.rpartition(':')[2])
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=60)

    def ask(authorization: str, path: str = '/api/v1/version') -> int:
        body = VERSION if path in ('/XMLRPC', '/RPC2') else None
        headers = {'Authorization': authorization, 'NIPAP-Authoritative-Source': 'test', 'Content-Type': 'text/xml'}
        connection.request('POST' if body else 'GET', path, body, headers)
        response = connection.getresponse()
        response.read()
        return response.status

    try:
        yield ask
    finally:
        connection.close()


def basic(user: str, password: str = SECRET) -> str:
    return 'Basic ' + base64.b64encode(f'{user}:{password}'.encode()).decode()


def logged(db: Database) -> list[tuple[Any, ...]]:
    """Return the logged sign-ins, each kind once, with the sum of their counts."""
    sql = """SELECT authenticated_as, backend, host(address), interface, outcome, sum(count)::integer FROM sign_in
        GROUP BY 1, 2, 3, 4, 5 ORDER BY min(id)"""
    return db.read(lambda tx: tx.all(sql))


def rows(db: Database) -> int:
    return int(db.read(lambda tx: tx.value('SELECT count(*) FROM sign_in')))


def test_sign_ins_of_every_kind_are_logged_within_seconds(start: Start, db: Database) -> None:
    daemon = start(HANDLERS)
    user, password = daemon.admin()
    with asking(daemon) as ask:
        while time.time() % 3600 > 3570:  # the hour must not end meanwhile
            time.sleep(1)
        for path in ('/XMLRPC', '/RPC2', '/api/v1/version', '/api/v1/version', '/rest/v1/prefixes?prefix=192.0.2.0/24'):
            assert ask(basic(user, password), path) == 200
        assert ask(basic(user)) == 401
        assert ask(basic(f'{user}@local')) == 401
        assert ask(basic('nobody\x07')) == 401
        assert ask(basic('ann@elsewhere'), '/XMLRPC') == 200
        assert ask('Basic x') == 401
        assert ask('Bearer x.y.z') == 401
        with asking(daemon) as ask_again:  # the other handler knows of the good sign-ins
            assert ask_again(basic(user, password)) == 200
    here = '127.0.0.1'
    wanted = [
        (user, 'local', here, 'xmlrpc', 'ok', 1),
        (user, 'local', here, 'rest', 'ok', 1),
        (user, 'local', here, 'rest_v1', 'ok', 1),
        (user, 'local', here, 'rest', 'wrong_password', 2),
        (r'nobody\x07', 'local', here, 'rest', 'unknown_user', 1),
        ('ann@elsewhere', None, here, 'xmlrpc', 'unknown_user', 1),
        (None, None, here, 'rest', 'malformed', 1),
        (None, None, here, 'rest', 'refused', 1),
    ]
    await_that(lambda: sorted(logged(db), key=str) == sorted(wanted, key=str), 'the sign-ins are not logged', 10)
    with db.snapshot() as tx:
        everything = str(tx.all('SELECT s::text FROM sign_in s'))
    assert SECRET not in everything
    assert password not in everything
    assert 'x.y.z' not in everything


def test_one_who_tries_thousands_of_names_fills_nothing(start: Start, db: Database) -> None:
    daemon = start(HANDLERS, failed_logins=4)
    tries = 1000
    with asking(daemon) as ask:
        for number in range(tries):
            assert ask(basic(f'name {number}')) in (401, 429)
    assert daemon.stop() == 0
    assert sum(row[-1] for row in logged(db)) == tries
    assert rows(db) <= HANDLERS * (sign_ins.MOST_OF_NETWORK + 2 * 3)
    assert 'limited' in {row[4] for row in logged(db)}


def test_a_handler_that_ends_writes_what_it_has(start: Start, db: Database) -> None:
    daemon = start()
    with asking(daemon) as ask:
        for _ in range(3):
            ask(basic('ann'))
        await_that(lambda: rows(db) == 1, 'nothing is logged', 10)
        ask(basic('ann'))  # its row would be due in a minute
    assert daemon.stop() == 0
    assert logged(db) == [('ann', 'local', '127.0.0.1', 'rest', 'unknown_user', 4)]


@pytest.fixture
def table_lock(dsn: str) -> Iterator[psycopg2.extensions.connection]:
    """Yield a session that nobody can write sign-ins beside."""
    connection = psycopg2.connect(dsn)
    with connection.cursor() as cursor:
        cursor.execute('LOCK TABLE sign_in')
    yield connection
    connection.close()


def test_sign_ins_that_cannot_be_written_hold_up_nobody(
    start: Start, db: Database, table_lock: psycopg2.extensions.connection
) -> None:
    daemon = start()
    user, password = daemon.admin()
    with asking(daemon) as ask:
        for number in range(30):
            assert ask(basic(f'name {number % 3}')) in (401, 429)
            began = time.monotonic()
            assert ask(basic(user, password)) == 200
            assert time.monotonic() - began < 5
        table_lock.rollback()
        await_that(lambda: rows(db), 'the sign-ins are not logged', 20)
    # Bad sign-ins since the first rows would be due in a minute.
    assert daemon.stop() == 0
    assert sum(row[-1] for row in logged(db)) == 31


def test_sign_ins_that_are_lost_are_counted_in_the_log(
    start: Start, table_lock: psycopg2.extensions.connection
) -> None:
    daemon = start()
    with asking(daemon) as ask:
        ask(basic('ann'))
        ask(basic('bob'))
    daemon.stop()
    table_lock.rollback()
    assert '2 sign-ins were not logged' in daemon.log()


def test_old_sign_ins_are_removed(start: Start, db: Database) -> None:
    sql = """INSERT INTO sign_in (at, last, count, interface, outcome)
        SELECT now() - age * interval '1 day', now() - age * interval '1 day', 1, 'rest', 'ok'
        FROM unnest(ARRAY[6, 8, 8]) age"""
    db.run(lambda tx: tx.execute(sql))
    start(sign_in_days='7', events='false')
    await_that(lambda: rows(db) == 1, 'old sign-ins are still there', 20)
