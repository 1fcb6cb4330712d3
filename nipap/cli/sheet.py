"""A CSV file of prefixes: read whole, each line checked as far as that can be done without the daemon, put in order."""

from __future__ import annotations

import csv
import hashlib
import re
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from nipap.addresses import WIDTH, parse_network
from nipap.attributes import LONGEST_KEY, PREFIX, Attribute, check_text, read_value
from nipap.errors import NipapError

VRF_NAMES = ('vrf_id', 'vrf_rt', 'vrf_name')
_AVPS = 'avps.'
_separators = re.compile(r'[\s,]+')


class FileError(Exception):
    """A file that cannot be used; the message names it."""


class Row(NamedTuple):
    """A line of the file. `key` orders by family, address and length, so parents come before what is in them."""

    key: bytes
    line: int
    cells: tuple[str, ...]

    @property
    def family(self) -> int:
        return self.key[0]


@dataclass(frozen=True)
class Sheet:
    """What a file says: its good lines in order, the bad ones with the reason, and a digest of all that."""

    columns: Columns
    rows: list[Row]
    bad: list[tuple[int, str]]
    digest: str


class Columns:
    """The header of a file, and what is taken for granted in rows that do not say: the VRF and the type."""

    def __init__(self, names: Sequence[str], vrf: Mapping[str, str], default_type: str | None) -> None:
        """:raises ValueError: naming the column that is unknown, there twice or missing."""
        self.names = [name.strip() for name in names]
        self.vrf = dict(vrf)
        self.type = default_type
        for place, name in enumerate(self.names):
            _check_name(name)
            if name in self.names[:place]:
                raise ValueError(f'the column {name} is there twice')
        self._check_required()
        self.prefix = self.names.index('prefix')
        self._vrf_places = [(name, self.names.index(name)) for name in VRF_NAMES if name in self.names]
        self._checked = [
            (place, PREFIX[name]) for place, name in enumerate(self.names) if name in PREFIX and place != self.prefix
        ]
        self._type = self.names.index('type') if 'type' in self.names else None

    def _check_required(self) -> None:
        if 'prefix' not in self.names:
            raise ValueError('there is no column prefix')
        if 'description' not in self.names and 'node' not in self.names:
            raise ValueError('there is neither a column description nor a column node')
        if 'type' not in self.names and self.type is None:
            raise ValueError('there is no column type, and no --type')

    def vrf_of(self, row: Row) -> dict[str, str]:
        """What names the VRF of a row; nothing: VRF 0."""
        return {name: row.cells[place] for name, place in self._vrf_places if row.cells[place]} or self.vrf

    def attr(self, row: Row) -> dict[str, object]:
        """The attributes of a row, as the daemon takes them. Empty cells are absent, an empty description is nil."""
        attr: dict[str, object] = dict(self.vrf_of(row)) if self.vrf else {}
        avps = {}
        for name, cell in zip(self.names, row.cells, strict=True):
            if name.startswith(_AVPS):
                if cell:
                    avps[name.removeprefix(_AVPS)] = cell
            elif name == 'description':
                attr[name] = cell or None
            elif cell:
                attr[name] = _separators.split(cell.strip(', ')) if name == 'tags' else cell
        if self.type is not None:
            attr.setdefault('type', self.type)
        if avps:
            attr['avps'] = avps
        return attr

    def row(self, line: int, cells: Sequence[str]) -> Row:
        """Read a line.

        :raises ValueError, NipapError: saying what is wrong with it.
        """
        if len(cells) != len(self.names):
            raise ValueError(f'{len(cells)} cells, the header has {len(self.names)}')
        stripped = tuple(sys.intern(cell.strip()) for cell in cells)
        if not stripped[self.prefix]:
            raise ValueError('no prefix')
        if self.type is None and self._type is not None and not stripped[self._type]:
            raise ValueError('no type')
        key = _key(stripped[self.prefix])
        for cell in stripped:
            check_text(cell)
        for place, attribute in self._checked:
            cell = stripped[place]
            if attribute.kind == 'tags':
                if len(cell) > LONGEST_KEY:
                    read_value(attribute, _separators.split(cell))
            elif cell and (attribute.kind != 'text' or attribute.longest or attribute.refuse):
                _check(attribute, cell)
        return Row(key, line, stripped)


def read(path: Path, vrf: Mapping[str, str], default_type: str | None) -> Sheet:
    """Read a file.

    :raises FileError: when it cannot be read at all, or its header makes no sense.
    """
    try:
        with open(path, 'rb') as raw:
            digest = hashlib.file_digest(raw, 'sha256')
        digest.update(repr((sorted(vrf.items()), default_type)).encode())
        with open(path, encoding='utf-8-sig', newline='') as file:
            lines = _lines(csv.reader(file, strict=True))
            _, names = next(lines, (1, []))
            if isinstance(names, csv.Error):
                raise ValueError(names)
            columns = Columns(names, vrf, default_type)
            rows, bad = _rows(columns, lines)
    except UnicodeDecodeError as exc:
        raise FileError(f'{path}: not in UTF-8: {exc.reason}') from None
    except (OSError, ValueError) as exc:
        raise FileError(f'{path}: {exc.strerror if isinstance(exc, OSError) else exc}') from None
    return Sheet(columns, rows, bad, digest.hexdigest())


def _lines(reader: Iterator[list[str]]) -> Iterator[tuple[int, list[str] | csv.Error]]:
    """Every line that is not empty, or what is wrong with it, and its number: the first one of several."""
    while True:
        number = reader.line_num + 1  # type: ignore[attr-defined]  # csv.reader has no name as a type
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as exc:
            yield number, exc
        else:
            if cells:
                yield number, cells


def _rows(
    columns: Columns, lines: Iterator[tuple[int, list[str] | csv.Error]]
) -> tuple[list[Row], list[tuple[int, str]]]:
    rows: list[Row] = []
    bad: list[tuple[int, str]] = []
    seen: dict[object, int] = {}
    for number, cells in lines:
        if isinstance(cells, csv.Error):
            bad.append((number, str(cells)))
            continue
        try:
            row = columns.row(number, cells)
        except (ValueError, NipapError) as exc:
            bad.append((number, str(exc)))
            continue
        vrf = columns.vrf_of(row)
        first = seen.setdefault((row.key, *vrf.items()) if vrf else row.key, number)
        if first == number:
            rows.append(row)
        else:
            bad.append((number, f'{row.cells[columns.prefix]} is in line {first} already'))
    rows.sort()
    return rows, bad


def _check_name(name: str) -> None:
    if name.startswith(_AVPS) and name != _AVPS:
        return
    if name not in PREFIX or not PREFIX[name].writable or name == 'avps':
        accepted = ', '.join(key for key, attribute in PREFIX.items() if attribute.writable and key != 'avps')
        raise ValueError(f'the column {name!r} is no attribute of prefixes that can be set: {accepted}, avps.KEY')


def _key(text: str) -> bytes:
    return _quick_key(text) or _packed_key(parse_network(text).text)


def _quick_key(text: str) -> bytes | None:
    """The key of a network that is written as nearly all are; None for the rest, and for what is wrong."""
    try:
        return _packed_key(text)
    except (OSError, ValueError):
        return None


def _packed_key(text: str) -> bytes:
    address, _, length_text = text.partition('/')
    family = 6 if ':' in address else 4
    packed = socket.inet_pton(socket.AF_INET6 if family == 6 else socket.AF_INET, address)
    if not (length_text.isascii() and length_text.isdecimal() and len(length_text) <= 3):
        raise ValueError(length_text)
    length = int(length_text)
    if length > WIDTH[family] or int.from_bytes(packed) & ((1 << (WIDTH[family] - length)) - 1):
        raise ValueError(text)
    return bytes((family, *packed, length))


def _check(attribute: Attribute, cell: str) -> None:
    reason = _reason(attribute.name, cell)
    if reason:
        raise ValueError(reason)


@lru_cache(maxsize=65536)
def _reason(name: str, cell: str) -> str | None:
    """Why an attribute cannot have a value; None: it can."""
    try:
        read_value(PREFIX[name], cell)
    except NipapError as exc:
        return str(exc)
    return None
