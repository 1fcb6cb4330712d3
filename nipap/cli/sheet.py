"""A CSV file of prefixes: read whole, each line checked as far as possible without the daemon, and sorted."""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from nipap.addresses import WIDTH, parse_network
from nipap.attributes import LONGEST_KEY, PREFIX, Attribute, check_text, read_value
from nipap.cli.records import FileError, Record, Records, decoded, digest_of, opened
from nipap.errors import NipapError
from nipap.text import forbidden_character

VRF_NAMES = ('vrf_id', 'vrf_rt', 'vrf_name')
POOL_NAMES = ('pool_id', 'pool_name')
_AVPS = 'avps.'
_separators = re.compile(r'[\s,]+')
_like_an_address = re.compile(r'\s*[0-9A-Fa-f]*[.:][0-9A-Fa-f.:]*(?:/[0-9]*)?\s*').fullmatch


class Row(NamedTuple):
    """A line of the file. key: orders by family, address and length, so that parents come before their contents."""

    key: bytes
    line: int
    cells: tuple[str, ...]

    @property
    def family(self) -> int:
        return self.key[0]


@dataclass(frozen=True)
class Sheet:
    """The content of a file: its good lines in order, its bad lines with reasons, and a digest of file and options."""

    columns: Columns
    rows: list[Row]
    bad: list[tuple[int, str]]
    digest: str


class Columns:
    """The header of a file, and the VRF and the type of rows that name none."""

    def __init__(self, names: Sequence[str], vrf: Mapping[str, str], default_type: str | None) -> None:
        """Check the header.

        :raises ValueError: naming each column that is unknown, duplicate or missing.
        """
        self.names = list(names)
        self.vrf = dict(vrf)
        self.type = default_type
        faults = [*self._faults_of_names(), *self._missing()]
        if faults:
            raise ValueError('; '.join(faults))
        self.prefix = self.names.index('prefix')
        self._vrf_places = [(name, self.names.index(name)) for name in VRF_NAMES if name in self.names]
        self._pool_places = [(name, self.names.index(name)) for name in POOL_NAMES if name in self.names]
        self._checked = [
            (place, PREFIX[name]) for place, name in enumerate(self.names) if name in PREFIX and place != self.prefix
        ]
        self._type = self.names.index('type') if 'type' in self.names else None
        self._node = self.names.index('node') if 'description' not in self.names else None
        self._nameless = [place for place, name in enumerate(self.names) if not name]

    def _faults_of_names(self) -> list[str]:
        unknown = [name for name in dict.fromkeys(self.names) if name and not _can_be_set(name)]
        twice = [name for name in dict.fromkeys(self.names) if name and self.names.count(name) > 1]
        faults = [f'the column {name} is there twice' for name in twice]
        if unknown:
            accepted = ', '.join(key for key in PREFIX if _can_be_set(key))
            what = 'is no attribute' if len(unknown) == 1 else 'are no attributes'
            columns = ('the column ' if len(unknown) == 1 else 'the columns ') + ', '.join(map(repr, unknown))
            faults.append(f'{columns} {what} of prefixes that can be set: {accepted}, avps.KEY')
        return faults

    def _missing(self) -> list[str]:
        faults = []
        if 'prefix' not in self.names:
            faults.append('there is no column prefix')
        if 'description' not in self.names and 'node' not in self.names:
            faults.append('there is neither a column description nor a column node')
        if 'type' not in self.names and self.type is None:
            faults.append('there is no column type, and no --type')
        return faults

    def vrf_of(self, row: Row) -> dict[str, str]:
        """Return the attributes that name the VRF of a row; empty for VRF 0."""
        return {name: row.cells[place] for name, place in self._vrf_places if row.cells[place]} or self.vrf

    def pools_of(self, row: Row) -> list[tuple[str, str]]:
        """Return the attributes that name the pool of a row: none, one or more."""
        return [(name, row.cells[place]) for name, place in self._pool_places if row.cells[place]]

    def attr(self, row: Row) -> dict[str, object]:
        """Return the ``attr`` of a row for the daemon. Empty cells are left out; an empty description is nil."""
        attr: dict[str, object] = dict(self.vrf_of(row)) if self.vrf else {}
        avps = {}
        for name, cell in zip(self.names, row.cells, strict=True):
            if not name:
                continue
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

    def read(self, line: int, cells: Sequence[str]) -> tuple[Row | None, list[str]]:
        """Parse a line; return its row, or None without a valid prefix, and all its faults."""
        stripped = tuple(sys.intern(cell.strip()) for cell in cells)
        faults = []
        key = b''
        if not stripped[self.prefix]:
            faults.append('no prefix')
        else:
            try:
                key = _key(stripped[self.prefix])
            except NipapError as exc:
                faults.append(str(exc))
        if self.type is None and self._type is not None and not stripped[self._type]:
            faults.append('no type')
        if self._node is not None and not stripped[self._node]:
            faults.append('neither a description nor a node')
        bad = self._unreadable(stripped) if forbidden_character(' '.join(stripped)) else {}
        faults += bad.values()
        faults += [reason for place, reason in self._refused(stripped) if place not in bad]
        faults += [f'{stripped[place]!r} is in a column without a name' for place in self._nameless if stripped[place]]
        return Row(key, line, stripped) if key else None, faults

    def _unreadable(self, cells: Sequence[str]) -> dict[int, str]:
        """Return the indexes of cells with a character that cannot be sent in XML, and the reasons."""
        found = {}
        for place, cell in enumerate(cells):
            try:
                check_text(cell)
            except NipapError as exc:
                found[place] = f'{self.names[place]}: {exc}'
        return found

    def _refused(self, cells: Sequence[str]) -> Iterable[tuple[int, str]]:
        """Yield the index of each cell with a value that no prefix can have, and the reason."""
        for place, attribute in self._checked:
            cell = cells[place]
            if not cell:
                continue
            if attribute.kind == 'tags':
                reason = _reason_of_tags(attribute, cell) if len(cell) > LONGEST_KEY else None
            elif attribute.kind != 'text' or attribute.longest or attribute.refuse:
                reason = _reason(attribute.name, cell)
            else:
                continue
            if reason:
                yield place, reason


def read(path: Path, vrf: Mapping[str, str], default_type: str | None, encoding: str | None = None) -> Sheet:
    """Read a file.

    :raises FileError: the file cannot be read, or its header is not valid.
    """
    try:
        with opened(path) as raw:
            digest = digest_of(raw)
            digest.update(repr((sorted(vrf.items()), default_type, *([encoding] if encoding else []))).encode())
            with decoded(path, raw, encoding) as text:
                records = Records(text, 'prefix', _like_an_address)
                columns = Columns(records.names, vrf, default_type)
                rows, bad = _rows(columns, records)
    except (OSError, ValueError) as exc:
        raise FileError(f'{path}: {exc.strerror if isinstance(exc, OSError) else exc}') from None
    return Sheet(columns, rows, bad, digest.hexdigest())


def _rows(columns: Columns, records: Iterable[Record]) -> tuple[list[Row], list[tuple[int, str]]]:
    rows: list[Row] = []
    bad: list[tuple[int, str]] = []
    seen: dict[object, int] = {}
    for number, cells, fault in records:
        if fault:
            bad.append((number, fault))
            continue
        row, faults = columns.read(number, cells)
        if row is not None:
            vrf = columns.vrf_of(row)
            name = (row.key, *vrf.items()) if vrf else row.key
            first = seen.get(name) if faults else seen.setdefault(name, number)
            if first not in (None, number):
                faults.append(f'{row.cells[columns.prefix]} is in line {first} already')
        if faults:
            bad.append((number, '; '.join(faults)))
        elif row is not None:
            rows.append(row)
    rows.sort()
    return rows, bad


def _can_be_set(name: str) -> bool:
    """Return whether a column may have this name."""
    if name.startswith(_AVPS):
        return name != _AVPS
    return name in PREFIX and PREFIX[name].writable and name != 'avps'


def _key(text: str) -> bytes:
    return _quick_key(text) or _packed_key(parse_network(text).text)


def _quick_key(text: str) -> bytes | None:
    """Return the key of a network in the usual notation; None for other notations and for errors."""
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


@lru_cache(maxsize=65536)
def _reason(name: str, cell: str) -> str | None:
    """Return why an attribute cannot have a value, or None if it can."""
    return _complaint(PREFIX[name], cell)


def _reason_of_tags(attribute: Attribute, cell: str) -> str | None:
    return _complaint(attribute, _separators.split(cell))


def _complaint(attribute: Attribute, value: object) -> str | None:
    """Return why an attribute cannot have a value, naming the attribute, or None if it can."""
    try:
        read_value(attribute, value)
    except NipapError as exc:
        return str(exc) if attribute.name in str(exc) else f'{attribute.name}: {exc}'
    return None
