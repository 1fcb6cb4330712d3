"""Exports of the audit log: complete, in two formats with the same digests, and every change of a file is found."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import random
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extensions
import pytest

from nipap.access.authentication import Actor
from nipap.backend import Backend
from nipap.calls import Request
from nipap.errors import NipapUnavailableError
from nipap.history import export
from nipap.history.export import FIRST, End, ExportError, Range
from nipap.postgres import schema
from nipap.postgres.database import Database
from nipapd import maintenance

TEXTS = (
    '=1+1',
    '+1',
    '-1',
    '@x',
    "'=1",
    '"quoted", with commas',
    'two\r\nlines',
    '\ttab',
    'Zürich ☃',
    '\uff1dwide',
    "'",
)
BOTH = pytest.mark.parametrize('form', export.FORMATS)


@pytest.fixture
def log(db: Database, backend: Backend, actor: Actor) -> Database:
    """Return a database with some changes, with texts that a file must quote or guard."""
    for number, text in enumerate(TEXTS):
        attr = {'prefix': f'10.{number}.0.0/16', 'type': 'reservation', 'description': text}
        asked = Request('add_prefix', {'attr': attr}, request_id=f'r-{number}', reason=text, group='+group')
        backend.perform(actor, asked)
    backend.edit_prefix(actor, {'prefix': '10.0.0.0/16'}, {'comment': 'x' * 200_000})
    backend.add_asn(actor, {'asn': 4_294_967_295, 'name': 'last'})
    backend.remove_vrf(actor, {'id': backend.add_vrf(actor, {'rt': '1:1', 'name': 'v'})['id']})
    return db


def exported(db: Database, form: str, **wanted: Any) -> bytes:
    out = io.BytesIO()
    found = export.range_of(db, **wanted)
    with db.snapshot() as tx:
        export.write(out, export.entries(tx, found.after, found.through), found, form)
    return out.getvalue()


def problems(content: bytes, db: Database | None = None, continues: End | None = None) -> list[str]:
    """Return the problems of a file, compared with a database if one is given."""
    found: list[str] = []
    try:
        if db is None:
            export.verify(io.BytesIO(content), found.append, None, continues)
        else:
            with db.snapshot() as tx:
                stored = lambda after, through: export.entries(tx, after, through)  # noqa: E731
                export.verify(io.BytesIO(content), found.append, stored, continues)
    except ExportError as error:
        found.append(str(error))
    return found


def records(content: bytes, form: str) -> list[bytes]:
    """Return the lines of a file, from the head to the end."""
    return list(export._LAYOUTS[form].lines(io.BytesIO(content)))[len(export._LAYOUTS[form].begin()) > 0 :]


@BOTH
def test_an_export_has_every_entry_and_no_problem(log: Database, form: str) -> None:
    content = exported(log, form)
    assert problems(content, log) == problems(content) == []
    assert len(records(content, form)) == log.read(lambda tx: tx.value('SELECT count(*) FROM audit_log')) + 2


def test_lines_are_json_objects_with_the_change_set_of_each_entry(log: Database) -> None:
    head, *lines, end = map(json.loads, exported(log, 'jsonl').splitlines())
    assert (head['format'], head['version'], head['previous'], head['after']) == ('nipap-audit', 1, FIRST, 0)
    assert (end['count'], end['last_digest']) == (len(lines), lines[-1]['digest'])
    sql = 'SELECT id, change_set, object_id, at FROM audit_log ORDER BY id'
    rows = log.read(lambda tx: tx.all(sql))
    assert [(line['id'], line['change_set'], line['object_id']) for line in lines] == [row[:3] for row in rows]
    assert [datetime.fromisoformat(line['at']) for line in lines] == [row[3] for row in rows]
    first = lines[0]
    assert set(first) == {*export.COLUMNS, 'digest'}
    assert (first['kind'], first['action'], first['before']) == ('prefix', 'add', None)
    assert (first['method'], first['request_id'], first['reason'], first['group']) == (
        *('add_prefix', 'r-0', '=1+1', '+group'),
    )
    assert first['after']['description'] == '=1+1'


def test_reading_a_row_leaves_the_limit_of_other_readers_alone() -> None:
    former = csv.field_size_limit()
    for line in (b'# \r\n', b'"x\r\n', b'"' + b'x' * 2 * former + b'"\r\n'):
        with pytest.raises(ValueError, match=r'.+'):
            export._LAYOUTS['csv'].read(line)
    assert csv.field_size_limit() == former


@pytest.fixture
def long_fields() -> Iterator[None]:
    """Let the CSV reader of this process read long fields during a test."""
    former = csv.field_size_limit(2**27)
    yield
    csv.field_size_limit(former)


@pytest.mark.usefixtures('long_fields')
def test_the_csv_is_that_of_rfc_4180_and_has_no_formulas(log: Database) -> None:
    content = exported(log, 'csv')
    rows = list(csv.reader(io.StringIO(content.decode(), newline=''), strict=True))
    assert rows[0] == [*export.COLUMNS, 'digest']
    assert {len(row) for row in rows} == {len(export.COLUMNS) + 1}
    assert [cell for row in rows for cell in row if cell.startswith(('=', '+', '-', '@', '\t', '\r', '\uff1d'))] == []
    reasons = [row[9] for row in rows[2 : 2 + len(TEXTS)]]
    assert reasons[0] == "'=1+1"
    assert reasons[4] == "''=1"
    assert reasons[5] == '"quoted", with commas'
    assert [json.loads(row[15])['description'] for row in rows[2 : 2 + len(TEXTS)]] == list(TEXTS)
    assert all(line.endswith(b'\r\n') for line in content.splitlines(keepends=True))


def test_an_empty_text_is_not_null(log: Database) -> None:
    log.run(lambda tx: tx.execute("UPDATE audit_log SET full_name = '' WHERE id = 1"))
    log.run(lambda tx: tx.execute('UPDATE audit_log SET full_name = NULL WHERE id = 2'))
    for form in export.FORMATS:
        content = exported(log, form)
        assert problems(content, log) == []
        log.run(lambda tx: tx.execute("UPDATE audit_log SET full_name = '' WHERE id = 2"))
        assert problems(content, log) == ['entry 2 differs from the database: full_name']
        log.run(lambda tx: tx.execute('UPDATE audit_log SET full_name = NULL WHERE id = 2'))


def test_both_formats_have_the_same_digests(log: Database) -> None:
    """The head has the time of the export, so it is the same one here."""
    found = {}
    for form in export.FORMATS:
        with log.snapshot() as tx:
            layout = export._LAYOUTS[form]
            out = io.BytesIO()
            export.write(out, export.entries(tx, 0, 100), Range(0, 100), form)
        head, *lines, _ = (layout.read(line) for line in records(out.getvalue(), form))
        digest, digests = head['digest'], []
        for line in lines:
            stated = line.pop('digest')
            assert export.link(digest, export.canonical(line)) == stated
            digest = stated
            digests.append(export.canonical(line))
        found[form] = digests
    assert found['csv'] == found['jsonl']


# ---------------------------------------------------------------- changed files


@BOTH
def test_a_change_of_any_byte_is_found(db: Database, backend: Backend, actor: Actor, form: str) -> None:
    backend.add_asn(actor, {'asn': 1, 'name': '=a "b"'})
    backend.add_asn(actor, {'asn': 2, 'name': 'c\n'})
    content = exported(db, form)
    chosen = random.Random(7)
    unnoticed = []
    for place in range(len(content)):
        for byte in {content[place] ^ 1, content[place] ^ 32, chosen.randrange(256), 32} - {content[place]}:
            if not problems(content[:place] + bytes([byte]) + content[place + 1 :]):
                unnoticed.append((place, byte))
        if not problems(content[:place] + content[place + 1 :]):
            unnoticed.append((place, -1))
        if not problems(content[:place] + b' ' + content[place:]):
            unnoticed.append((place, 256))
    assert unnoticed == []


@BOTH
def test_lines_that_are_removed_moved_doubled_or_cut_off_are_found(log: Database, form: str) -> None:
    content = exported(log, form)
    lines = records(content, form)
    begin = export._LAYOUTS[form].begin()

    def found(*changed: bytes) -> list[str]:
        return problems(begin + b''.join(changed))

    assert found(*lines) == []
    for place in range(1, len(lines) - 1):
        assert any('the digest is wrong' in text for text in found(*lines[:place], *lines[place + 1 :]))
        swapped = [*lines[:place], lines[place + 1], lines[place], *lines[place + 2 :]]
        assert any('the digest is wrong' in text for text in found(*swapped))
        assert any('not in order' in text for text in found(*lines[: place + 1], *lines[place:]))
    for place in range(1, len(lines)):
        assert found(*lines[:place]) == ['the end is missing: the file is not complete']
    assert 'something follows the end' in found(*lines, lines[1])[-1]
    assert found(*lines[1:]) != []
    assert found(lines[0], lines[-1]) != []
    assert problems(content[:-1]) != []
    assert problems(b'') == ['the file is no export of the audit log: it has no head']
    assert problems(b'{}\n') == ['the file is no export of the audit log: it has no head']
    assert problems(os.urandom(5000)) != []


@BOTH
def test_one_change_is_one_problem(log: Database, form: str) -> None:
    """The chain goes on with the stated digest, so a problem does not make every following line one."""
    content = exported(log, form).replace(b'r-3', b'r-4', 1)
    (problem,) = problems(content)
    assert 'the digest is wrong' in problem
    assert len(problems(content, log)) == 2


@BOTH
def test_a_file_written_anew_differs_from_the_database(log: Database, form: str) -> None:
    """A forger may compute all digests anew. The database shows the difference."""
    with log.snapshot() as tx:
        entries = list(export.entries(tx, 0, 10))
    entries[3]['username'] = 'nobody'
    del entries[5:7]
    entries.append({**entries[-1], 'id': 11})
    out = io.BytesIO()
    export.write(out, entries, Range(0, 13), form)
    assert problems(out.getvalue()) == []
    found = sorted(problems(out.getvalue(), log))
    assert found[0].startswith('entry 11 differs from the database: change_set, at, ')
    assert found[1:] == [
        'entry 4 differs from the database: username',
        'in the database only: entries 12 to 13',
        'in the database only: entries 6 to 7',
    ]


@BOTH
@pytest.mark.parametrize(
    ('damage', 'found'),
    [
        ('DELETE FROM audit_log WHERE id BETWEEN 2 AND 4', 'not in the database: entries 2 to 4'),
        ('DELETE FROM audit_log', 'not in the database: entries 1 to 15'),
        ("UPDATE audit_log SET after = after - 'status' WHERE id = 3", 'entry 3 differs from the database: after'),
        ("UPDATE audit_log SET at = at + '1 microsecond' WHERE id = 3", 'entry 3 differs from the database: at'),
        ('UPDATE change_set SET reason = NULL WHERE id = 3', 'entry 3 differs from the database: reason'),
    ],
)
def test_a_database_that_has_other_entries(log: Database, form: str, damage: str, found: str) -> None:
    content = exported(log, form)
    log.run(lambda tx: tx.execute(damage))
    assert problems(content, log) == [found]


class Sink(io.BytesIO):
    """A file that forgets its contents, and counts them."""

    size = 0

    def write(self, content: Any) -> int:
        self.size += len(content)
        return len(content)


@BOTH
def test_the_memory_does_not_grow_with_the_number_of_entries(form: str, tmp_path: Path) -> None:
    entry = dict.fromkeys(export.COLUMNS) | {'object_id': 1, 'after': {'comment': 'x' * 10_000}}

    def entries(_after: int = 0, _through: int = 0) -> Iterator[dict[str, Any]]:
        return ({**entry, 'id': number} for number in range(1, 2001))

    path = tmp_path / 'audit'
    with path.open('wb') as file:
        export.write(file, entries(), Range(0, 2000), form)
    tracemalloc.start()
    try:
        sink = Sink()
        export.write(sink, entries(), Range(0, 2000), form)
        found: list[str] = []
        with path.open('rb') as file:
            export.verify(file, found.append, entries)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == []
    assert sink.size > 20_000_000
    assert peak < 1_000_000


# ---------------------------------------------------------------- one file after another


@BOTH
def test_exports_continue_one_another_without_a_gap(log: Database, backend: Backend, actor: Actor, form: str) -> None:
    first = exported(log, form)
    end = export.end_of(io.BytesIO(first))
    backend.add_asn(actor, {'asn': 7})
    second = exported(log, 'csv' if form == 'jsonl' else 'jsonl', continues=end)
    third = exported(log, form, continues=export.end_of(io.BytesIO(second)))
    assert problems(second, log, end) == []
    assert problems(second, log) == []
    assert problems(third, log, export.end_of(io.BytesIO(second))) == []
    assert export.end_of(io.BytesIO(second)).count == 1
    assert export.end_of(io.BytesIO(third)).count == 0
    assert problems(third, log, end) == ['the file does not continue the file before it']
    with pytest.raises(ExportError, match='not complete'):
        export.end_of(io.BytesIO(first[:-3]))
    with pytest.raises(ExportError, match='no export'):
        export.end_of(io.BytesIO(b'a,b\r\n1,2\r\n'))


def test_a_file_of_another_database_is_not_continued(log: Database) -> None:
    with pytest.raises(ExportError, match='ends at entry 1000, but this database has'):
        export.range_of(log, continues=End(0, 1000, 1000, FIRST))


@pytest.fixture
def running(dsn: str) -> Iterator[psycopg2.extensions.connection]:
    """Yield a session with a transaction that adds an entry and is not committed yet."""
    connection = psycopg2.connect(dsn)
    with connection.cursor() as cursor:
        cursor.execute(
            """INSERT INTO audit_log (change_set, username, authenticated_as, authoritative_source, object_type,
            object_id, action) VALUES (1, 'slow', 'slow', 'test', 'asn', 1, 'add')"""
        )
    yield connection
    connection.close()


def test_no_entry_is_left_out_that_is_committed_late(
    log: Database, backend: Backend, actor: Actor, running: psycopg2.extensions.connection
) -> None:
    backend.add_asn(actor, {'asn': 7})  # its entry has a higher id and is visible
    with pytest.raises(NipapUnavailableError, match='still add entries is running for more than'):
        export.settled(log, 0.3)
    running.commit()
    content = exported(log, 'jsonl')
    assert b'"slow"' in content
    assert problems(content, log) == []


@BOTH
def test_exports_of_a_time(log: Database, form: str) -> None:
    """A range of ids: from the first entry of a moment to the last entry before another one."""
    sql = "UPDATE audit_log SET at = '2026-01-01T00:00:00Z'::timestamptz + id * interval '1 day'"
    log.run(lambda tx: tx.execute(sql))
    moment = lambda day: datetime(2026, 1, day, tzinfo=UTC)  # noqa: E731

    def ids(**wanted: Any) -> list[int]:
        content = exported(log, form, **wanted)
        assert problems(content, log) == []
        layout = export._LAYOUTS[form]
        return [layout.read(line)['id'] for line in records(content, form)[1:-1]]

    assert ids(until=moment(5)) == [1, 2, 3]
    assert ids(since=moment(3), until=moment(6)) == [2, 3, 4]
    assert ids(since=moment(3))[0] == 2
    assert ids(since=datetime(2027, 1, 1, tzinfo=UTC)) == []
    assert ids(until=moment(1)) == []
    end = export.end_of(io.BytesIO(exported(log, form, until=moment(5))))
    assert ids(continues=end, until=moment(6)) == [4]
    assert ids(continues=end, until=moment(2)) == []


def test_entries_older_than_change_sets_have_theirs(log: Database) -> None:
    older = """WITH entry AS (INSERT INTO audit_log (at, username, authenticated_as, authoritative_source, object_type,
        object_id, action) VALUES ('2020-01-01', 'old', 'old', 'old', 'asn', 1, 'add') RETURNING *)
        SELECT id FROM entry"""
    with contextlib.closing(psycopg2.connect(log._dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute('SET session_replication_role = replica')
        cursor.execute(older)
        key = cursor.fetchone()[0]
        cursor.execute(
            """INSERT INTO change_set (id, at, username, authenticated_as, authoritative_source, last_older_entry)
            OVERRIDING SYSTEM VALUE VALUES (%s, '2020-01-01', 'old', 'old', 'old', %s)""",
            (key, key),
        )
    *_, last, _ = map(json.loads, exported(log, 'jsonl').splitlines())
    assert (last['id'], last['change_set'], last['username'], last['method']) == (key, key, 'old', None)


# ---------------------------------------------------------------- the command


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(database_options: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs `nipap-admin audit` and returns its exit code and output."""
    config = tmp_path / 'nipap.conf'
    lines = [f'{name} = {value}' for name, value in database_options.items()]
    config.write_text('\n'.join(['[nipapd]', *lines]))
    config.chmod(0o600)

    def command(*args: object) -> tuple[int, str]:
        try:
            code = maintenance.main(['audit', *map(str, args), '--config', str(config)])
        except SystemExit as ended:
            code = int(str(ended.code))
        said = capsys.readouterr()
        return code, said.out + said.err

    return command


@BOTH
def test_the_command_exports_continues_and_verifies(
    log: Database, run: Run, backend: Backend, actor: Actor, tmp_path: Path, form: str
) -> None:
    first, second = tmp_path / 'first', tmp_path / 'second'
    code, said = run('export', '--format', form, first)
    assert (code, said.startswith(f'{first}: ')) == (0, True), said
    assert first.stat().st_mode & 0o777 == 0o600
    backend.add_asn(actor, {'asn': 7})
    assert run('export', '--format', form, '--after-file', first, second)[0] == 0
    code, said = run('verify', first, second)
    assert (code, said.splitlines()[-1]) == (0, 'no problems found')
    assert 'digest' in said
    code, said = run('verify', second, first)
    assert (code, f'{first}: the file does not continue the file before it' in said) == (1, True)
    second.write_bytes(second.read_bytes().replace(b'"asn":7', b'"asn":8').replace(b'""asn"":7', b'""asn"":8'))
    code, said = run('verify', second)
    assert code == 1
    assert 'the digest is wrong' in said
    assert 'differs from the database: after' in said
    code, said = run('verify', '--chain-only', second)
    assert (code, 'differs' in said) == (1, False)
    log.run(lambda tx: tx.execute('DELETE FROM audit_log WHERE id <= 150'))
    assert run('verify', first)[0] == 1
    assert run('verify', '--chain-only', first)[0] == 0


def test_wrong_command_lines(log: Database, run: Run, tmp_path: Path) -> None:
    file = tmp_path / 'audit'
    assert run('export', file)[0] == 0
    other = tmp_path / 'other'
    for code, args, text in (
        (2, ('export', '--from', 'someday', other), "argument --from: 'someday': Invalid date specification"),
        (2, ('export', '--format', 'xml', other), 'jsonl'),
        (2, ('export', '--from', 'yesterday', '--after-file', file, other), 'exclude each other'),
        (1, ('export', '--after-file', tmp_path / 'none', other), 'none: No such file'),
        (1, ('verify', tmp_path / 'nipap.conf'), 'no export of the audit log'),
        (2, ('verify',), 'required: FILE'),
        (2, (), 'required: COMMAND'),
    ):
        found, said = run(*args)
        assert (found, text in said) == (code, True), said
    assert not other.exists()


def test_without_a_database_the_chain_alone_is_checked(
    log: Database, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / 'audit'
    assert run('export', file)[0] == 0
    where = ['--config', '/dev/null', '--data-dir', str(tmp_path / 'nothing')]
    assert maintenance.main(['audit', 'verify', str(file), *where]) == 0
    assert capsys.readouterr().out.startswith('not compared with a database: there is none in')


# ---------------------------------------------------------------- partitions


@pytest.mark.slow
@BOTH
def test_entries_of_detached_partitions_are_exported_and_compared(
    empty_dsn: str, actor: Actor, tmp_path: Path, form: str
) -> None:
    with contextlib.closing(Database(empty_dsn)) as db:
        schema.migrate(db)
        backend = Backend(db)
        for number in range(1, 4):
            backend.add_asn(actor, {'asn': number})
        whole = exported(db, form)
        db.run(lambda tx: tx.execute(DETACH))
        backend.add_asn(actor, {'asn': 4})
        assert problems(whole, db) == []
        content = exported(db, form)
        assert problems(content, db) == []
        assert len(records(content, form)) == 4 + 2
        assert export.first_since(db, datetime(2020, 1, 1, tzinfo=UTC)) == 1
        db.run(lambda tx: tx.execute("UPDATE audit_log_1 SET username = 'nobody' WHERE id = 2"))
        assert problems(content, db) == ['entry 2 differs from the database: username']
        db.run(lambda tx: tx.execute('DROP TABLE audit_log_1'))
        assert problems(content, db) == ['not in the database: entries 1 to 3']
        wanted = export.range_of(db)
        with (
            db.snapshot() as tx,
            pytest.raises(ExportError, match='audit_log_1 is not in the database'),
        ):
            export.require_tables(tx, wanted)
        later = export.range_of(db, since=datetime(2020, 1, 1, tzinfo=UTC))
        with db.snapshot() as tx:
            export.require_tables(tx, later)
            assert [entry['id'] for entry in export.entries(tx, later.after, later.through)] == [later.after + 1]


DETACH = """ALTER TABLE audit_log DETACH PARTITION audit_log_1;
INSERT INTO audit_detached (name, first_id, end_id, oldest, newest)
SELECT 'audit_log_1', 0, max(id) + 1, min(at), max(at) FROM audit_log_1;"""
