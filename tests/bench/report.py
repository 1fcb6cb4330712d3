"""The figures as tables for people: in Markdown, and in the documentation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

MOST_FLAT = 1.5
_BLOCK = re.compile(r'(?<=<!-- figures -->\n).*?(?=<!-- /figures -->)', re.DOTALL)


@dataclass(frozen=True)
class OperationRow:
    """Medians of one operation in milliseconds: on the big data set, of `version` in between, and on the small one."""

    name: str
    ms: float
    floor_ms: float
    commit_ms: float | None
    limit: str
    allowed_ms: float | None
    small_ms: float | None

    @property
    def flat(self) -> float | None:
        return None if self.small_ms is None else self.ms / self.small_ms

    @property
    def ok(self) -> bool | None:
        return None if self.allowed_ms is None else self.ms <= self.allowed_ms

    def cells(self) -> tuple[str, ...]:
        floors = f'{self.ms / self.floor_ms:.1f}'
        flat = '' if self.flat is None else f'{self.flat:.2f}{"" if self.flat <= MOST_FLAT else " (no)"}'
        return self.name, f'{self.ms:.2f}', floors, self.limit, yes(self.ok), flat


@dataclass(frozen=True)
class Measure:
    """Any other figure; `ok` None: nothing is promised."""

    name: str
    figure: float
    shown: str
    limit: str = ''
    ok: bool | None = None

    def cells(self) -> tuple[str, ...]:
        return self.name, self.shown, self.limit, yes(self.ok)


def yes(ok: bool | None) -> str:
    return '' if ok is None else 'yes' if ok else 'no'


def tables(about: str, rows: Sequence[OperationRow], measures: Sequence[Measure]) -> str:
    """What was measured, in Markdown."""
    flat = f'big : small (at most {MOST_FLAT:g})'
    parts = [about]
    if rows:
        heads = ('operation', 'median ms', '× floor', 'limit', 'ok', flat)
        parts.append(table(heads, '-::--:', (row.cells() for row in rows)))
    if measures:
        parts.append(table(('beside that', 'figure', 'limit', 'ok'), '-:--', (one.cells() for one in measures)))
    return '\n\n'.join(parts) + '\n'


def table(heads: Sequence[str], sides: str, lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; `sides`: for each column - or, right-aligned, a colon."""
    rule = ['--:' if side == ':' else '---' for side in sides]
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in (heads, rule, *lines))


def update(document: Path, text: str) -> None:
    """Put the tables between the two marks of a document; raises ValueError when it has none."""
    changed, count = _BLOCK.subn(lambda _: f'\n{text}\n', document.read_text(encoding='utf-8'))
    if count != 1:
        raise ValueError(f'{document} has no place for the figures')
    document.write_text(changed, encoding='utf-8')
