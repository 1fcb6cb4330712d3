"""The VRFs that the rows of a file name. They are looked up once, before any row is sent."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from nipap.cli.records import FileError
from nipap.cli.sheet import Columns, Row, Sheet
from nipap.client import Client, array

Names = tuple[tuple[str, str], ...]  # the names of a VRF in a row, such as (('vrf_rt', '65000:1'),)


@dataclass(frozen=True)
class Located:
    """A sheet with only the rows in existing VRFs. found: these VRFs, by their names in the rows.

    bad: the lines that are left out because of their VRF, with the reasons.
    """

    sheet: Sheet
    found: Mapping[Names, Mapping[str, Any]]
    bad: list[tuple[int, str]]

    @property
    def vrfs(self) -> list[Mapping[str, Any]]:
        """The VRFs of the rows, each once."""
        return list({vrf['id']: vrf for vrf in self.found.values()}.values())

    @property
    def digest(self) -> str:
        """The digest of the file and of the lines that are left out."""
        if not self.bad:
            return self.sheet.digest
        return f'{self.sheet.digest} {hashlib.sha256(repr(self.bad).encode()).hexdigest()}'

    def vrf_id(self, row: Row) -> int:
        return int(self.found[_names(self.sheet.columns, row)]['id'])


def locate(client: Client, sheet: Sheet) -> Located:
    """Look up the VRFs of all rows.

    :raises FileError: the VRF of rows that name none does not exist. Fault, TransportError: the look-up failed.
    """
    columns = sheet.columns
    named = dict.fromkeys(_names(columns, row) for row in sheet.rows)
    found = _find(client, named)
    default = tuple(columns.vrf.items())
    if default in named and default not in found:
        raise FileError(f'there is no VRF with {_shown(default)}, the VRF for rows without a VRF')
    bad: list[tuple[int, str]] = []
    rows: list[Row] = []
    seen: dict[tuple[int, bytes], int] = {}
    for row in sheet.rows:
        names = _names(columns, row)
        if names not in found:
            bad.append((row.line, f'there is no VRF with {_shown(names)}'))
            continue
        first = seen.setdefault((found[names]['id'], row.key), row.line)
        if first == row.line:
            rows.append(row)
        else:
            bad.append((row.line, f'{row.cells[columns.prefix]} is in line {first} already, in the same VRF'))
    return Located(replace(sheet, rows=rows), found, sorted(bad))


def _names(columns: Columns, row: Row) -> Names:
    return tuple(columns.vrf_of(row).items())


def _find(client: Client, named: Mapping[Names, None]) -> dict[Names, Mapping[str, Any]]:
    """Return the existing VRFs by their names. Several names in a row must name the same VRF."""
    asked = list(dict.fromkeys(name for names in named for name in names or [('vrf_id', '0')]))
    operations = [{'method': 'list_vrf', 'args': {'vrf': {key.removeprefix('vrf_'): value}}} for key, value in asked]
    answers = dict(zip(asked, array(client, {'operations': operations}, len(operations)), strict=True))
    found = {}
    for names in named:
        first, *others = [{vrf['id']: vrf for vrf in answers[name]} for name in names or [('vrf_id', '0')]]
        common = [vrf for number, vrf in first.items() if all(number in other for other in others)]
        if common:
            found[names] = common[0]
    return found


def _shown(names: Names) -> str:
    return ', '.join(f'{key.removeprefix("vrf_")} {value}' for key, value in names or [('vrf_id', '0')])
