"""The audit log as a file of JSON lines or CSV, with a chain of digests that shows every later change of the file.

A file has a head, an entry a line, and an end. Each of them carries a digest: SHA-256 of the digest before it, in
hexadecimal, and of its own canonical JSON: sorted keys, no blanks, UTF-8. The head repeats the digest before it, which
is that of the end of the file that this one continues. Both formats have the same digests.

A file covers a range of entry ids, ``after`` < id <= ``through``. All transactions that could add an entry to the range
have ended, so the next file begins exactly where this one ends. `verify` accepts a file only if it is, byte for byte,
the file that this module would have written.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Any, NamedTuple

from nipap import __version__
from nipap.errors import NipapError, NipapUnavailableError
from nipap.history.partitions import NAME
from nipap.history.sequencing import IS_OVER, next_transaction
from nipap.postgres.database import Database
from nipap.postgres.transaction import Row, Transaction
from nipap.runtime import waiting

Object = dict[str, Any]
Note = Callable[[str], None]  # takes the text of a problem

FORMAT = 'nipap-audit'
VERSION = 1
FORMATS = ('jsonl', 'csv')
FIRST = '0' * 64  # the digest before the first file of a chain
COLUMNS = (
    *('id', 'change_set', 'at', 'username', 'authenticated_as', 'full_name', 'authoritative_source'),
    *('method', 'request_id', 'reason', 'group', 'kind', 'object_id', 'action', 'before', 'after'),
)
NUMBERS = frozenset({'id', 'change_set', 'object_id'})
STRUCTS = frozenset({'before', 'after'})
LARGEST = 2**63 - 2
LONGEST = 2**27  # bytes of a line
TAIL = 2**16
PATIENCE_S = 60.0
POLL_S = 0.1
AT_ONCE = 500  # entries in memory

_ENTRY, _END = frozenset(COLUMNS), frozenset({'count', 'last_digest'})
_DIGEST = re.compile('[0-9a-f]{64}')
# The first characters of a cell that spreadsheets take for a formula, and the apostrophe that guards them.
_FORMULA = ('=', '+', '-', '@', '\t', '\r', '\n', '\uff1d', '\uff0b', '\uff0d', '\uff20', "'")
_QUOTED = re.compile('[",\r\n]')
_encode = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(',', ':')).encode

_LAST_ID = 'SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM audit_log_id_seq'
_ENTRIES = """SELECT a.id,
    CASE WHEN a.change_set IS NULL THEN change_set_of(ROW(a.*)::audit_log) ELSE a.change_set END,
    a.at, a.username, a.authenticated_as, a.full_name, a.authoritative_source, s.method, s.request_id, s.reason,
    s.change_group, a.object_type, a.object_id, a.action, a.before, a.after
FROM {} a LEFT JOIN change_set s ON s.id = a.change_set
WHERE a.id >= %s AND a.id <= %s ORDER BY a.id"""
_DETACHED = """SELECT name, greatest(coalesce(first_id, 0), %s + 1), least(end_id - 1, %s),
    to_regclass(quote_ident(name)) IS NOT NULL
FROM audit_detached WHERE attached IS NULL AND coalesce(first_id, 0) <= %s AND end_id > %s + 1 ORDER BY end_id"""
_LOG = 'audit_log'


class ExportError(NipapError):
    """A file cannot be used as an export; the text gives the reason."""


@dataclass(frozen=True)
class Range:
    """The entries of an export: those with ids above `after`, up to `through`. previous: the digest before the head."""

    after: int
    through: int
    previous: str = FIRST
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class End:
    """The end of a file: the range of ids, the number of entries, and the digest of the end."""

    after: int
    through: int
    count: int
    digest: str


# ---------------------------------------------------------------- the database


def settled(db: Database, patience_s: float = PATIENCE_S) -> int:
    """Return an id up to which no transaction can add an entry any more, namely the last id drawn so far.

    Wait for the running transactions for `patience_s` at most.

    :raises NipapUnavailableError: a transaction is still running.
    """
    last = int(db.read(lambda tx: tx.value(_LAST_ID)))
    number = next_transaction(db)  # drawn after the id was read
    give_up = time.monotonic() + patience_s
    while not db.read(lambda tx: tx.value(IS_OVER, (number,))):
        if time.monotonic() > give_up:
            raise NipapUnavailableError(
                f'a transaction that may still add entries is running for more than {patience_s:g} s: export later'
            )
        waiting.sleep(POLL_S)
    return last


def first_since(db: Database, moment: datetime) -> int | None:
    """Return the lowest id of an entry whose transaction began at a moment or later; None without such an entry."""

    def look(tx: Transaction) -> int | None:
        every = [*(part.table for part in _detached(tx, 0, LARGEST) if part.exists), _LOG]
        found = [tx.value(f'SELECT min(id) FROM {table} WHERE at >= %s', (moment,)) for table in every]
        return min((first for first in found if first is not None), default=None)

    return db.run(look)


def range_of(
    db: Database, since: datetime | None = None, until: datetime | None = None, continues: End | None = None
) -> Range:
    """Return the range of an export.

    since: begin with the first entry of this moment or later. until: end before the first entry of this moment or
    later. continues: the end of the file to continue.

    :raises ExportError: that file is of another database.
    """
    through = settled(db)
    after = 0
    if continues is not None:
        after = continues.through
        if after > through:
            raise ExportError(f'the file to continue ends at entry {after}, but this database has {through} only')
    if since is not None:
        first = first_since(db, since)
        after = through if first is None else first - 1
    if until is not None and (first := first_since(db, until)) is not None:
        through = max(after, min(through, first - 1))
    return Range(after, through, FIRST if continues is None else continues.digest, since, until)


def entries(tx: Transaction, after: int, through: int) -> Iterator[Object]:
    """Yield the entries of a range of ids in order, `AT_ONCE` in memory.

    Entries of detached partitions are included while the tables of these exist.
    """
    for part in _parts(tx, after, through):
        if part.exists:
            for row in tx.stream(_ENTRIES.format(part.table), (part.first, part.last), chunk=AT_ONCE):
                yield _entry(row)


def require_tables(tx: Transaction, wanted: Range) -> None:
    """Refuse a range with entries in a detached partition that was taken out of the database.

    :raises ExportError: naming the partition and the ids.
    """
    for part in _detached(tx, wanted.after, wanted.through):
        if not part.exists:
            raise ExportError(
                f'the detached partition {part.table} is not in the database any more, with entries {part.first} to '
                f'{part.last}: begin after them with --from'
            )


class _Part(NamedTuple):
    """A part of a range, in one table. exists: whether the table is in the database."""

    table: str
    first: int
    last: int
    exists: bool = True


def _detached(tx: Transaction, after: int, through: int) -> list[_Part]:
    parts = [_Part(*row) for row in tx.all(_DETACHED, (after, through, through, after))]
    return [part for part in parts if NAME.fullmatch(part.table)]


def _parts(tx: Transaction, after: int, through: int) -> Iterator[_Part]:
    """Yield the parts of a range in the order of ids: detached partitions, and the log between them."""
    begin = after + 1
    for part in _detached(tx, after, through):
        if part.first > begin:
            yield _Part(_LOG, begin, part.first - 1)
        yield part
        begin = part.last + 1
    if begin <= through:
        yield _Part(_LOG, begin, through)


def _entry(row: Row) -> Object:
    entry = dict(zip(COLUMNS, row, strict=True))
    entry['at'] = _moment(entry['at'])
    return entry


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec='microseconds').replace('+00:00', 'Z')


# ---------------------------------------------------------------- writing


def canonical(value: Object) -> str:
    """Return the canonical JSON of a head, an entry or an end."""
    return _encode(value)


def link(previous: str, text: str) -> str:
    """Return the digest of canonical JSON that follows another digest."""
    return hashlib.sha256(f'{previous}{text}'.encode()).hexdigest()


def write(out: IO[bytes], entries: Iterable[Object], wanted: Range, form: str) -> End:
    """Write an export and return its end. form: one of `FORMATS`."""
    layout = _LAYOUTS[form]
    head = canonical(
        {
            'format': FORMAT,
            'version': VERSION,
            'program': f'nipapd {__version__}',
            'exported': _moment(datetime.now(UTC)),
            'previous': wanted.previous,
            'after': wanted.after,
            'through': wanted.through,
            'from': None if wanted.since is None else _moment(wanted.since),
            'until': None if wanted.until is None else _moment(wanted.until),
        }
    )
    digest = link(wanted.previous, head)
    out.write(layout.begin() + layout.mark(head, digest))
    count = 0
    for entry in entries:
        text = canonical(entry)
        digest = link(digest, text)
        out.write(layout.entry(entry, text, digest))
        count += 1
    end = canonical({'count': count, 'last_digest': digest})
    digest = link(digest, end)
    out.write(layout.mark(end, digest))
    return End(wanted.after, wanted.through, count, digest)


def _with_digest(text: str, digest: str) -> str:
    return f'{text[:-1]},"digest":"{digest}"}}'


class _Jsonl:
    """JSON lines: the head, entries and the end are objects, with the digest as the last member."""

    def begin(self) -> bytes:
        return b''

    def mark(self, text: str, digest: str) -> bytes:
        return f'{_with_digest(text, digest)}\n'.encode()

    def entry(self, _entry: Object, text: str, digest: str) -> bytes:
        return self.mark(text, digest)

    def lines(self, file: IO[bytes]) -> Iterator[bytes]:
        while line := file.readline(LONGEST + 1):
            yield line

    def read(self, line: bytes) -> Object:
        """Return the object of a line. Raise ValueError for anything else."""
        found = json.loads(line)
        if not isinstance(found, dict):
            raise ValueError('not an object')
        return found


class _Csv:
    """CSV as in RFC 4180: names of columns, the head, entries and the end, each with the same number of cells.

    The first cell of the head and of the end is ``#`` and their JSON. A text that a spreadsheet might take for a
    formula begins with an apostrophe more; an apostrophe alone is an empty text, and an empty cell is null.
    """

    names = (*COLUMNS, 'digest')

    def begin(self) -> bytes:
        return self._row(self.names)

    def mark(self, text: str, digest: str) -> bytes:
        return self._row([f'# {_with_digest(text, digest)}', *[''] * (len(self.names) - 1)])

    def entry(self, entry: Object, _text: str, digest: str) -> bytes:
        return self._row([*(_cell(name, entry[name]) for name in COLUMNS), digest])

    def _row(self, cells: Iterable[str]) -> bytes:
        quoted = ('"{}"'.format(cell.replace('"', '""')) if _QUOTED.search(cell) else cell for cell in cells)
        return f'{",".join(quoted)}\r\n'.encode()

    def lines(self, file: IO[bytes]) -> Iterator[bytes]:
        row: list[bytes] = []
        quotes = size = 0
        while line := file.readline(LONGEST + 1):
            row.append(line)
            quotes += line.count(b'"')
            size += len(line)
            if quotes % 2 == 0 or size > LONGEST:  # line breaks within quotation marks belong to the row
                yield b''.join(row)
                row, quotes, size = [], 0, 0
        if row:
            yield b''.join(row)

    def read(self, line: bytes) -> Object:
        """Return the object of a row. Raise ValueError for anything else."""
        former = csv.field_size_limit(LONGEST)  # of the whole process
        try:
            (cells,) = csv.reader([line.decode()], strict=True)
        except csv.Error as error:
            raise ValueError(str(error)) from None
        finally:
            csv.field_size_limit(former)
        if cells and cells[0].startswith('# '):
            found = json.loads(cells[0][2:])
            if not isinstance(found, dict):
                raise ValueError('not an object')
            return found
        *cells, digest = cells  # a row without cells is a ValueError too
        entry = {name: _value(name, cell) for name, cell in zip(COLUMNS, cells, strict=True)}
        return {**entry, 'digest': digest}


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ''
    if name in NUMBERS:
        return str(value)
    text = _encode(value) if name in STRUCTS else str(value)
    return f"'{text}" if not text or text.startswith(_FORMULA) else text


def _value(name: str, cell: str) -> Any:
    if cell == '':
        return None
    if name in NUMBERS:
        return int(cell)
    text = cell.removeprefix("'")
    return json.loads(text) if name in STRUCTS else text


_LAYOUTS: dict[str, _Jsonl | _Csv] = {'jsonl': _Jsonl(), 'csv': _Csv()}


# ---------------------------------------------------------------- reading


def end_of(file: IO[bytes]) -> End:
    """Return the end of a complete file, to continue it. Only the head and the end are read.

    :raises ExportError: the file is no export, or has no end.
    """
    layout = _layout_of(file)
    lines = layout.lines(file)
    if layout.begin():
        next(lines, None)
    head = _read_head(layout, next(lines, b''))
    file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
    last = file.read().removesuffix(b'\n').rpartition(b'\n')[2] + b'\n'
    try:
        end = layout.read(last)
        digest, text = _taken(end)
        count = end['count']
        if layout.mark(text, digest) != last or link(end['last_digest'], text) != digest or type(count) is not int:
            raise ValueError('differs')
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ExportError('the file has no proper end: it is not complete, or was changed') from None
    return End(head['after'], head['through'], count, digest)


def _layout_of(file: IO[bytes]) -> _Jsonl | _Csv:
    begin = file.read(1)
    file.seek(0)
    return _LAYOUTS['jsonl' if begin == b'{' else 'csv']


def _read_head(layout: _Jsonl | _Csv, line: bytes) -> Object:
    """Return the head of a file without its digest.

    :raises ExportError: the line is no head of this version.
    """
    try:
        head = layout.read(line)
        digest, text = _taken(head)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ExportError('the file is no export of the audit log: it has no head') from None
    if head.get('format') != FORMAT or head.get('version') != VERSION:
        raise ExportError(f'the head of the file is not {FORMAT} of version {VERSION}')
    numbers = [head.get('after'), head.get('through')]
    if any(type(number) is not int for number in numbers) or not isinstance(head.get('previous'), str):
        raise ExportError('the head of the file has no range of entries, or no previous digest')
    return {**head, 'digest': digest, 'text': text, 'whole': layout.mark(text, digest) == line}


def _taken(found: Object) -> tuple[str, str]:
    """Take the digest out of an object; return it and the canonical JSON of the rest."""
    digest = found.pop('digest')
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise ValueError('no digest')
    return digest, canonical(found)


def verify(
    file: IO[bytes],
    note: Note,
    stored: Callable[[int, int], Iterable[Object]] | None = None,
    continues: End | None = None,
) -> End:
    """Check a file, note each problem, and return its end as the file states it.

    stored: returns the entries of the database in a range of ids, to compare the file with. continues: the end of the
    file before.

    :raises ExportError: the file is no export.
    """
    layout = _layout_of(file)
    reader = _Reader(layout, layout.lines(file), note)
    head = reader.head()
    if continues is not None and (head['previous'], head['after']) != (continues.digest, continues.through):
        note('the file does not continue the file before it')
    found = reader.entries(head)
    if stored is None:
        for _ in found:
            pass
    else:
        _compare(found, stored(head['after'], head['through']), note)
    return End(head['after'], head['through'], reader.count, reader.digest)


class _Reader:
    """Reads a file line by line, and notes each break of the chain once."""

    def __init__(self, layout: _Jsonl | _Csv, lines: Iterator[bytes], note: Note) -> None:
        self._layout = layout
        self._lines = enumerate(lines, 1)
        self._note = note
        self.count = 0
        self.digest = ''

    def head(self) -> Object:
        begin = self._layout.begin()
        has_names = not begin or next(self._lines, (0, b''))[1] == begin
        number, line = next(self._lines, (1, b''))
        head = _read_head(self._layout, line)
        if not has_names:
            self._note('line 1: the names of the columns were changed')
        self.digest = head['digest']
        if not head['whole'] or link(head['previous'], head['text']) != self.digest:
            self._note(f'line {number}: the head was changed')
        return head

    def entries(self, head: Object) -> Iterator[Object]:
        """Yield each entry that can be read, and check the end of the file."""
        last, through = head['after'], head['through']
        has_end = False
        for number, line in self._lines:
            if has_end:
                self._note(f'line {number}: something follows the end')
                return
            try:
                found = self._layout.read(line)
                digest, text = _taken(found)
                has_end = found.keys() == _END
                if not has_end and found.keys() != _ENTRY:
                    raise ValueError('other members')
                whole = self._layout.mark(text, digest) if has_end else self._layout.entry(found, text, digest)
            except (ValueError, KeyError, TypeError, RecursionError):
                self._note(f'line {number}: cannot be read')
                continue
            if link(self.digest, text) != digest:
                self._note(
                    f'line {number}: the digest is wrong: the line was changed, or lines before it were changed, '
                    'removed, added or moved'
                )
            elif whole != line:
                self._note(f'line {number}: the line was changed')
            if has_end:
                if found['count'] != self.count or found.get('last_digest') != self.digest:
                    self._note(f'line {number}: the end counts {found["count"]} entries, the file has {self.count}')
            else:
                if type(found['id']) is not int or not last < found['id'] <= through:
                    self._note(f'line {number}: entry {found["id"]} is not in order, or outside the range of the file')
                else:
                    last = found['id']
                    yield found
                self.count += 1
            self.digest = digest
        if not has_end:
            self._note('the end is missing: the file is not complete')


def _compare(found: Iterator[Object], stored: Iterable[Object], note: Note) -> None:
    """Compare the entries of a file with those of the database, both in the order of ids."""
    missing, additional = _Runs('not in the database', note), _Runs('in the database only', note)
    rest = iter(stored)
    other = next(rest, None)
    for entry in found:
        while other is not None and other['id'] < entry['id']:
            additional.add(other['id'])
            other = next(rest, None)
        if other is None or other['id'] > entry['id']:
            missing.add(entry['id'])
            continue
        if other != entry:
            names = [name for name in COLUMNS if entry.get(name) != other[name]]
            note(f'entry {entry["id"]} differs from the database: {", ".join(names) or "other members"}')
        other = next(rest, None)
    while other is not None:
        additional.add(other['id'])
        other = next(rest, None)
    missing.end()
    additional.end()


class _Runs:
    """Notes entries that follow one another as one problem."""

    def __init__(self, what: str, note: Note) -> None:
        self._what = what
        self._note = note
        self._first = self._last = 0

    def add(self, entry: int) -> None:
        if self._last and entry != self._last + 1:
            self.end()
        self._first = self._first or entry
        self._last = entry

    def end(self) -> None:
        if self._last:
            ids = f'entry {self._first}' if self._first == self._last else f'entries {self._first} to {self._last}'
            self._note(f'{self._what}: {ids}')
        self._first = self._last = 0
