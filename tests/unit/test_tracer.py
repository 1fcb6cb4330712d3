"""Tracing of calls: ids, statements without values, and the separation of concurrent calls."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg2.extensions import QuotedString, adapt

from nipap.runtime import tracer, waiting
from nipap.runtime.tracer import CallRecord, Tracer
from nipapd import logs
from nipapd.fibers import Fibers


@pytest.fixture
def _no_call() -> Iterator[None]:
    token = tracer._current.set(None)
    yield
    tracer._current.reset(token)


# ---- ids


def test_a_process_that_is_forked_makes_ids_of_its_own() -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, tracer.request_id(None).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with open(reading) as pipe:
        theirs = pipe.read()
    assert theirs.partition('-')[0] != tracer.request_id(None).partition('-')[0]


# ---- statements


@pytest.mark.parametrize(
    ('query', 'shown'),
    [
        ("SELECT * FROM vrf WHERE name = 'it''s' AND id=7", 'SELECT * FROM vrf WHERE name = ? AND id=?'),
        (r"SELECT E'a\'b\\', 'c\', e'd'", 'SELECT ?'),
        ('SELECT "a\'b7" FROM t1 WHERE x = -1.5e3', 'SELECT "a\'b7" FROM t1 WHERE x = ?'),
        ("SELECT f(ARRAY['a', 'b'], 1, NULL, true)", 'SELECT f(ARRAY[?], ?, NULL, true)'),
        ("SELECT 'begun and cut o", 'SELECT ?'),
        ("SELECT E'cut o\\", 'SELECT ?'),
        ("SELECT '10.0.0.0/8'::cidr, $1", 'SELECT ?::cidr, $1'),
        ("BEGIN; EXECUTE prepared_0 ('x', 2)", 'BEGIN; SELECT name FROM vrf WHERE id = %s'),
        ("EXECUTE prepared_1 ('x')", 'EXECUTE prepared_1 (?)'),
    ],
)
def test_a_statement_without_values(query: str, shown: str) -> None:
    prepared = {'SELECT name FROM vrf WHERE id = %s': 'prepared_0'}
    assert tracer.without_values(query.encode(), prepared) == shown


@given(st.text(st.characters(exclude_characters='\0', codec='utf-8')), st.integers(), st.integers(0, 30))
def test_no_value_is_shown(text: str, number: int, cut: int) -> None:
    secret = f'SECRET{text}SECRET'
    quoted = QuotedString(secret)
    quoted.encoding = 'utf-8'
    query = b'SELECT a FROM b WHERE c = %b AND d = %b' % (quoted.getquoted(), adapt(number).getquoted())
    shown = tracer.without_values(query, {}).replace('  ', ' ')  # psycopg2 puts a blank before negative numbers
    assert shown == 'SELECT a FROM b WHERE c = ? AND d = ?'
    assert 'SECRET' not in tracer.without_values(query[: len(query) - cut], {})


# ---- concurrent calls


class Noting(Tracer):
    """A tracer that notes the statements of each call."""

    def __init__(self) -> None:
        self.statements: list[tuple[str, str]] = []

    def begin(self, call: CallRecord, environ: Any) -> None:
        call.span = call.request_id

    def execute(self, call: CallRecord, cursor: Any, statement: Any, args: Any, prepared: Any) -> None:
        self.statements.append((call.span, statement))


def test_fibers_that_wait_have_calls_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    fibers = Fibers()
    noting = Noting()
    monkeypatch.setattr(tracer, '_tracer', noting)
    monkeypatch.setattr(waiting, '_waiter', fibers)
    seen = []

    def work(name: str) -> None:
        tracer.begin({'HTTP_X_REQUEST_ID': name})
        for number in range(3):
            waiting.give_way()
            tracer.execute(None, f'{name} {number}')  # type: ignore[arg-type]  # nothing is run
        waiting.aside(lambda: seen.append(tracer.current()))

    async def run() -> None:
        for name in ('a', 'b'):
            fibers.start(lambda name=name: work(name))
        seen.append(tracer.current())
        while fibers.running:
            await asyncio.sleep(0.001)
        fibers.end()

    outside = tracer.current()
    asyncio.run(run())
    assert [statement for _, statement in noting.statements] == ['a 0', 'b 0', 'a 1', 'b 1', 'a 2', 'b 2']
    assert all(span == statement[0] for span, statement in noting.statements)
    assert seen == [outside, None, None]


def test_nobody_follows_unless_told_to() -> None:
    class Cursor:
        ran: tuple[Any, ...] = ()

        def execute(self, *given: Any) -> None:
            self.ran = given

    cursor = Cursor()
    tracer.execute(cursor, 'SELECT 1', (1,))  # type: ignore[arg-type]
    assert cursor.ran == ('SELECT 1', (1,))
    assert tracer.header() is None


# ---- logs


@pytest.mark.usefixtures('_no_call')
def test_a_line_is_a_json_object(root_logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(debug=False, use_syslog=False, as_json=True)
    logging.getLogger('nipap').info('user %s', 'eve\n{"level": "INFO"}\u2028')
    (line,) = capsys.readouterr().err.splitlines()
    members = json.loads(line)
    assert re.fullmatch(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z', members.pop('time'))
    assert members == {
        'level': 'INFO',
        'logger': 'nipap',
        'process': os.getpid(),
        'message': 'user eve\n{"level": "INFO"}\u2028',
    }


@pytest.mark.usefixtures('_no_call')
def test_a_line_in_json_says_which_call_it_is_about(
    root_logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure(debug=False, use_syslog=False, as_json=True)
    call = tracer.begin({'HTTP_X_REQUEST_ID': 'mine', 'REMOTE_ADDR': '192.0.2.1'})
    call.trace_id = 'ab' * 16
    try:
        raise KeyError('what\never')
    except KeyError:
        logging.getLogger('nipap').exception('no')
    call.method, call.user, call.seconds, call.fault = 'echo', 'ann', 0.0123456, 1200
    logging.getLogger('nipap.request').info('done', extra={'call': call})
    error, done = map(json.loads, capsys.readouterr().err.splitlines())
    assert (error['request_id'], error['trace_id'], 'method' in error) == ('mine', 'ab' * 16, False)
    assert error['exception'].startswith('Traceback')
    about = {'request_id': 'mine', 'trace_id': 'ab' * 16, 'method': 'echo', 'user': 'ann', 'fault': 1200}
    assert done.items() >= {**about, 'duration_ms': 12.346, 'peer': '192.0.2.1'}.items()


@pytest.mark.usefixtures('_no_call')
def test_the_system_log_in_json(root_logger: logging.Logger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as system:
        system.bind(str(tmp_path / 'log'))
        monkeypatch.setattr(logs, 'SYSLOG_SOCKET', tmp_path / 'log')
        logs.configure(debug=False, use_syslog=True, as_json=True)
        logging.getLogger('nipap.request').info('version')
        tag, _, line = system.recv(1000).decode().rstrip('\0').partition(': ')
    assert tag == f'<30>nipapd[{os.getpid()}]'
    assert json.loads(line)['message'] == 'version'


def test_an_exception_cannot_begin_a_line_of_the_log(
    root_logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure(debug=False, use_syslog=False)
    try:
        raise ValueError('eve\n2026-01-01T00:00:00.000Z nipapd[1] INFO nipap: forged\x1b[2J\u2028')
    except ValueError:
        logging.getLogger('nipap').exception('no')
    _, *rest = capsys.readouterr().err.split('\n')[:-1]
    assert rest[-1] == r'  2026-01-01T00:00:00.000Z nipapd[1] INFO nipap: forged\x1b[2J\u2028'
    assert all(line.startswith('  ') for line in rest)
