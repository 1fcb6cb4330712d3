"""The figures as tables for people: in Markdown, and in the documentation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

MOST_FLAT = 1.5
_BLOCK = re.compile(r'(?<=<!-- figures -->\n).*?(?=<!-- /figures -->)', re.DOTALL)


@dataclass(frozen=True)
class Comparison:
    """An operation beside what it must be no dearer than: the ratio of the medians, and of the quickest quarters.

    What costs more makes the quickest dearer too; a busy machine makes now one of the two larger, now the other.
    """

    other: str
    medians: float
    quickest: float

    @property
    def ok(self) -> bool:
        return min(self.medians, self.quickest) <= MOST_FLAT

    def __str__(self) -> str:
        return f'{self.medians:.2f}{"" if self.ok else " (no)"}'


@dataclass(frozen=True)
class OperationRow:
    """Medians of one operation in milliseconds, with those of `version` and of a commit in between.

    `small`: beside the same on the small data set; `beside`: beside the same where there are no siblings, or beside
    the first page.
    """

    name: str
    ms: float
    floor_ms: float
    commit_ms: float | None
    limit: str
    allowed_ms: float | None
    small: Comparison | None = None
    beside: Comparison | None = None

    @property
    def is_flat(self) -> bool:
        """Whether it costs what it costs where less is stored; that does not depend on the machine."""
        return all(one is None or one.ok for one in (self.small, self.beside))

    @property
    def ok(self) -> bool | None:
        return None if self.allowed_ms is None else self.ms <= self.allowed_ms

    def cells(self) -> tuple[str, ...]:
        figures = (self.ms, self.floor_ms, self.ms / self.floor_ms)
        commits = None if self.commit_ms is None else self.ms / self.commit_ms
        shown = (f'{figure:.{digits}f}' for figure, digits in zip(figures, (2, 2, 1), strict=True))
        dearer = '' if commits is None else f'{commits:.1f}'
        return self.name, *shown, dearer, self.limit, yes(self.ok), '' if self.small is None else str(self.small)


@dataclass(frozen=True)
class Measure:
    """Any other figure; `ok` None: nothing is promised. `firm`: whatever the machine, it must be ok."""

    name: str
    figure: float
    shown: str
    limit: str = ''
    ok: bool | None = None
    firm: bool = False

    def cells(self) -> tuple[str, ...]:
        return self.name, self.shown, self.limit, yes(self.ok)


def failures(rows: Sequence[OperationRow], measures: Sequence[Measure], strict: bool) -> list[str]:
    """Names of what must not be as it is: what is not flat, and figures that are firm; `strict`: every limit."""
    return [
        *(row.name for row in rows if not row.is_flat or (strict and row.ok is False)),
        *(one.name for one in measures if one.ok is False and (strict or one.firm)),
    ]


def yes(ok: bool | None) -> str:
    return '' if ok is None else 'yes' if ok else 'no'


def tables(about: str, rows: Sequence[OperationRow], measures: Sequence[Measure]) -> str:
    """What was measured, in Markdown."""
    flat = f'big : small (at most {MOST_FLAT:g})'
    parts = [about]
    if rows:
        heads = ('operation', 'median ms', 'floor ms', '× floor', '× commit', 'limit', 'ok', flat)
        parts.append(table(heads, '-::::--:', (row.cells() for row in rows)))
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
