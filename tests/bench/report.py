"""Tables of the figures for people, in Markdown and in the documentation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

MOST_FLAT = 1.5
_BLOCK = re.compile(r'(?<=<!-- figures -->\n).*?(?=<!-- /figures -->)', re.DOTALL)


@dataclass(frozen=True)
class Comparison:
    """The ratio of an operation to its reference: of the medians, and of the quickest quarters.

    A dearer operation raises both ratios. A busy machine raises one of the two at a time.
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
    """Medians of one operation in milliseconds, with interleaved medians of `version` and of a commit.

    `small`: the ratio to the same operation on the small data set. `beside`: the ratio to the same operation without
    siblings, or to the first page.
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
        """Return whether the cost does not grow with the data. That does not depend on the machine."""
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
    """Any other figure.

    `ok` None: nothing is promised. `firm`: the figure must be ok on every machine.
    """

    name: str
    figure: float
    shown: str
    limit: str = ''
    ok: bool | None = None
    firm: bool = False

    def cells(self) -> tuple[str, ...]:
        return self.name, self.shown, self.limit, yes(self.ok)


def failures(rows: Sequence[OperationRow], measures: Sequence[Measure], strict: bool) -> list[str]:
    """Return the names of broken promises: operations that are not flat, and firm figures.

    `strict`: every missed limit counts.
    """
    return [
        *(row.name for row in rows if not row.is_flat or (strict and row.ok is False)),
        *(one.name for one in measures if one.ok is False and (strict or one.firm)),
    ]


def yes(ok: bool | None) -> str:
    return '' if ok is None else 'yes' if ok else 'no'


def tables(about: str, rows: Sequence[OperationRow], measures: Sequence[Measure]) -> str:
    """Return the measurements in Markdown."""
    flat = f'big : small (at most {MOST_FLAT:g})'
    parts = [about]
    if rows:
        heads = ('operation', 'median ms', 'floor ms', '× floor', '× commit', 'limit', 'ok', flat)
        parts.append(table(heads, '-::::--:', (row.cells() for row in rows)))
    if measures:
        parts.append(table(('beside that', 'figure', 'limit', 'ok'), '-:--', (one.cells() for one in measures)))
    return '\n\n'.join(parts) + '\n'


def table(heads: Sequence[str], sides: str, lines: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown. `sides`: for each column `-`, or `:` to align it to the right."""
    rule = ['--:' if side == ':' else '---' for side in sides]
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in (heads, rule, *lines))


def update(document: Path, text: str) -> None:
    """Put the tables between the two marks of a document. Raise ValueError if it has no marks."""
    changed, count = _BLOCK.subn(lambda _: f'\n{text}\n', document.read_text(encoding='utf-8'))
    if count != 1:
        raise ValueError(f'{document} has no pair of marks for the figures')
    document.write_text(changed, encoding='utf-8')
