"""The records of a CSV file from any program: its encoding, its separator, and unclosed quotes.

A record is parsed strictly. A missing or surplus quote makes one record of many lines. Such a record is a fault of its
first line, and the following lines are parsed again, so that each of them is imported or reported.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import re
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

SEPARATORS = ',;\t|'

_MARKS = (
    (codecs.BOM_UTF8, 'utf-8'),
    (codecs.BOM_UTF32_LE, 'utf-32'),  # before UTF-16, since it begins with the mark of UTF-16
    (codecs.BOM_UTF32_BE, 'utf-32'),
    (codecs.BOM_UTF16_LE, 'utf-16'),
    (codecs.BOM_UTF16_BE, 'utf-16'),
)
_WORKBOOKS = (b'PK\x03\x04', b'\xd0\xcf\x11\xe0')  # xlsx and ods, xls
_names_separator = re.compile(r'"?sep=([^\w"\r\n])"?\s*', re.IGNORECASE).fullmatch


class FileError(Exception):
    """A file cannot be used. The message names the file."""


class Record(NamedTuple):
    """A record: the number of its first line, its cells, and its fault; an empty fault means a good record."""

    line: int
    cells: list[str]
    fault: str = ''


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading it more than once. A file that can be read only once, such as a pipe, is copied first."""
    with open(path, 'rb') as file:
        if file.seekable():
            yield file
            return
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(file, copy)
            copy.seek(0)
            yield copy


def digest_of(file: BinaryIO) -> hashlib._Hash:
    """Return the SHA-256 digest of an open file, and rewind the file."""
    digest = hashlib.file_digest(file, 'sha256')  # type: ignore[arg-type]  # any binary file will do
    file.seek(0)
    return digest


def check_encoding(name: str) -> str:
    """Return the name of an encoding if the encoding exists.

    :raises ValueError: there is no encoding of that name.
    """
    try:
        'prefix'.encode(name)
    except (LookupError, ValueError):
        raise ValueError(f'{name!r}: not the name of an encoding, such as utf-8, utf-16 or cp1252') from None
    return name


@contextmanager
def decoded(path: Path, file: BinaryIO, encoding: str | None) -> Iterator[io.TextIOWrapper]:
    """Decode a file in the given encoding, else in the one that its first bytes indicate, else in UTF-8.

    :raises FileError: the file cannot be decoded, or is no text.
    """
    start = file.read(4)
    file.seek(0)
    if start.startswith(_WORKBOOKS):
        raise FileError(f'{path}: a workbook or an archive: save the sheet as CSV')
    name = encoding or _encoding_of(start)
    text = io.TextIOWrapper(file, encoding=name, newline='')
    try:
        yield text
    except UnicodeError as exc:
        raise FileError(f'{path}: {_undecodable(file, name, exc)}') from None
    finally:
        text.detach()


def _encoding_of(start: bytes) -> str:
    for mark, name in _MARKS:
        if start.startswith(mark):
            return name
    # Without a mark, UTF-16 shows in a header: of each ASCII letter one byte is zero.
    zeros = ''.join('.0'[not byte] for byte in start)
    return {'.0.0': 'utf-16-le', '0.0.': 'utf-16-be'}.get(zeros, 'utf-8')


def _undecodable(file: BinaryIO, name: str, exc: UnicodeError) -> str:
    where = ''
    if codecs.lookup(name).name == 'utf-8':
        file.seek(0)
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as inside:
                where = f' (line {number} has the byte 0x{line[inside.start]:02X})'
                break
    reason = where or f' ({getattr(exc, "reason", exc)})'
    return f'not in {name.upper()}{reason}: save it as UTF-8, or name its encoding, such as --encoding cp1252'


class _Lines:
    """The lines of a file with their numbers. Lines can be given back, to be read again."""

    def __init__(self, text: Iterator[str]) -> None:
        self._text = text
        self._again: deque[str] = deque()
        self.taken: list[str] = []
        self.number = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._text)
        if not self.number:
            line = line.removeprefix('\ufeff')
        self.number += 1
        self.taken.append(line)
        return line

    def begin(self) -> int:
        """Begin a record; return the number of its first line."""
        self.taken = []
        return self.number + 1

    def give_back(self, count: int) -> None:
        """Give back the last `count` lines of the record, to be read again."""
        if count:
            self._again.extendleft(reversed(self.taken[-count:]))
            self.number -= count


class Records:
    """The records of a text: the names in its header, then each record that is not blank, as wide as the header.

    The header must contain the name `key`. The separator is the first of `SEPARATORS` that splits the header into
    cells with that name, unless the first line names a separator, such as ``sep=;``. is_key: returns whether a cell
    below that name is plausible.
    """

    def __init__(self, text: Iterator[str], key: str, is_key: Callable[[str], object]) -> None:
        """Read the header.

        :raises ValueError: the header cannot be parsed.
        """
        self._lines = _Lines(text)
        self._separator = self._find_separator(key)
        self._is_key = is_key
        self.names: list[str] = []
        header = next(self._records(), None)
        if header is not None and header.fault:
            raise ValueError(header.fault)
        self.names = [name.strip() for name in header.cells] if header else []
        self._key = self.names.index(key) if key in self.names else 0

    def __iter__(self) -> Iterator[Record]:
        return self._records()

    def _find_separator(self, key: str) -> str:
        lines = self._lines
        for line in lines:
            named = _names_separator(line) if lines.number == 1 else None
            if named:
                return named[1]
            if line.strip():
                lines.give_back(1)
                return next((each for each in SEPARATORS if key in map(str.strip, _split(line, each))), SEPARATORS[0])
        return SEPARATORS[0]

    def _records(self) -> Iterator[Record]:
        lines = self._lines
        reader = csv.reader(lines, delimiter=self._separator, strict=True)
        while True:
            number = lines.begin()
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as exc:
                cells, fault = [], str(exc)
            else:
                if not any(map(str.strip, cells)):
                    continue
                fault = self._fit(cells) if self.names else ''
            if len(lines.taken) > 1:
                fault = self._fault_of_many(number, fault)
            yield Record(number, cells, fault)

    def _fit(self, cells: list[str]) -> str:
        """Drop blank cells beyond the header. Return a fault if the number of cells is wrong, else an empty text."""
        width = len(self.names)
        if len(cells) > width and not any(map(str.strip, cells[width:])):
            del cells[width:]
        return '' if len(cells) == width else f'{len(cells)} cells, the header has {width}'

    def _fault_of_many(self, number: int, fault: str) -> str:
        """Return the fault of a record of several lines, or an empty text.

        In case of a fault, all lines but the first are given back, to be read again.
        """
        lines = self._lines
        last = number + len(lines.taken) - 1
        if not fault:
            inside = next((place for place in range(1, len(lines.taken)) if self._is_whole(lines.taken[place])), None)
            if inside is None:
                return ''
            fault = f'line {number + inside} looks like a row of its own'
        lines.give_back(len(lines.taken) - 1)
        return f'a quote that begins here goes on to line {last}: {fault}'

    def _is_whole(self, line: str) -> bool:
        """Return whether a line inside a quoted cell looks like a record of its own."""
        if not self.names:
            return False
        cells = _split(line, self._separator)
        return not self._fit(cells) and bool(self._is_key(cells[self._key]))


def _split(line: str, separator: str) -> list[str]:
    """Return the cells of a line, or none if the line cannot be parsed as a record."""
    try:
        return next(csv.reader([line], delimiter=separator), [])
    except csv.Error:
        return []
