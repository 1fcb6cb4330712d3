"""Mutants as data, and their places in a tree whose lines and files have moved."""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from changes import Change, changes_of
from sources import Source

# The least likeness of a line, and of the replaced text within it, to place the mutant in that line.
ALIKE, ALIKE_WITHIN = 0.8, 0.6


@dataclass(frozen=True)
class Mutant:
    """A change, with all facts that find its place again.

    `text` is the first line of the place without indentation, `column` counts from there, and `occurrence` counts the
    lines with that text in the function from 0.
    """

    id: str
    kind: str
    path: str
    function: str
    line: int
    column: int
    occurrence: int
    text: str
    original: str
    replacement: str

    @property
    def is_sql(self) -> bool:
        return self.path.endswith('.sql')


class Place(NamedTuple):
    """The place of a mutant. `how` is the rule that found it."""

    source: Source
    start: int
    end: int
    replacement: str
    how: str

    @property
    def line(self) -> int:
        return self.source.line_of(self.start)

    @property
    def mutated(self) -> str:
        """Return the text of the file with the mutant in it."""
        return self.source.text[: self.start] + self.replacement + self.source.text[self.end :]


def describe(source: Source, change: Change) -> Mutant:
    """Turn a change of a file into data."""
    line = source.line_of(change.start)
    function = source.function_at(change.start)
    text = source.line(line)
    same = [each for each in _lines(source, text.strip()) if source.function_at(source.starts[each - 1]) == function]
    # The first line of a function belongs to the code around the function.
    occurrence = sum(each < line for each in same)
    original = source.text[change.start : change.end]
    column = change.start - source.starts[line - 1] - (len(text) - len(text.lstrip()))
    facts = (function, occurrence, text.strip(), column, original, change.replacement)
    digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:6]
    name = f'{Path(source.path).stem.lstrip("_0123456789")}.{function.rpartition(".")[2] or "module"}.{digest}'
    return Mutant(
        name, change.kind, source.path, function, line, column, occurrence, *facts[2:3], original, change.replacement
    )


def _lines(source: Source, text: str) -> list[int]:
    return [number for number in range(1, len(source.starts) + 1) if source.line(number).strip() == text]


def find(mutant: Mutant, sources: Iterable[Source]) -> Place | None:
    """Return the present place of a mutant, found by its line, in any file, or by a similar line."""
    language = [each for each in sources if each.is_sql == mutant.is_sql]
    here = [each for each in language if each.path == mutant.path]
    last = mutant.function.rpartition('.')[2]

    def is_same(name: str) -> bool:
        return name == mutant.function

    def is_named_so(name: str) -> bool:
        return name.rpartition('.')[2] == last

    for how, files, fits in (
        ('in place', here, is_same),
        ('moved', language, is_same),
        ('renamed', language, is_named_so),
        ('elsewhere', language, lambda _: True),
    ):
        found = [place for each in files for place in _exact(mutant, each, how, fits)]
        if how != 'elsewhere' and len(found) > mutant.occurrence and len({each.source.path for each in found}) == 1:
            return found[mutant.occurrence]
        if len(found) == 1:
            return found[0]
    for files in (here, language):
        alike = [place for each in files for place in _alike(mutant, each, is_named_so)]
        if alike:
            return max(alike, key=lambda each: each[0])[1]
    return None


def _exact(mutant: Mutant, source: Source, how: str, fits: Callable[[str], bool]) -> list[Place]:
    """Return the places on lines with the mutant's text, in functions with a fitting name."""
    found = []
    for number in _lines(source, mutant.text):
        text = source.line(number)
        start = source.starts[number - 1] + len(text) - len(text.lstrip()) + mutant.column
        end = _end(mutant.original, source.text, start)
        if end and fits(source.function_at(source.starts[number - 1])):
            found.append(Place(source, start, end, mutant.replacement, how))
    return found


def _end(original: str, text: str, start: int) -> int | None:
    """Return the end of the original text that starts at a position, with any indentation, or None."""
    pattern = r'\s+'.join(map(re.escape, original.split())) if original.strip() else re.escape(original)
    if original[:1] == ' ' and original.strip():
        pattern = ' ' + pattern
    if original[-1:] == ' ' and original.strip():
        pattern += ' '
    found = re.compile(pattern).match(text, start)
    return found.end() if found else None


def _alike(mutant: Mutant, source: Source, fits: Callable[[str], bool]) -> list[tuple[float, Place]]:
    """Return the changes of the same kind on lines similar to the mutant's, each with its likeness."""
    found = []
    for change in _changes(source):
        line = source.line(source.line_of(change.start)).strip()
        if change.kind != mutant.kind or not fits(source.function_at(change.start)):
            continue
        likeness = _likeness(line, mutant.text)
        if likeness < ALIKE:
            continue
        text = source.text[change.start : change.end]
        original = (
            1.0
            if (text, change.replacement) == (mutant.original, mutant.replacement)
            else _likeness(text, mutant.original)
        )
        if original == 1.0 or (original >= ALIKE_WITHIN and re.search(r'\w{2}', mutant.original)):
            # Of several equal texts on a line, prefer the one with the mutant's number among them.
            before = source.text[source.starts[source.line_of(change.start) - 1] : change.start].count(text)
            away = abs(before - mutant.text[: mutant.column].count(mutant.original))
            place = Place(source, change.start, change.end, change.replacement, 'alike')
            found.append((likeness + original - away / 1000, place))
    return found


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


@functools.cache
def _changes_of_text(path: str, text: str) -> list[Change]:
    return changes_of(Source(path, text))


def _changes(source: Source) -> list[Change]:
    return _changes_of_text(source.path, source.text)


def load(path: Path) -> list[Mutant]:
    return [Mutant(**each) for each in json.loads(path.read_text(encoding='utf-8'))]


def save(path: Path, mutants: Iterable[Mutant]) -> None:
    """Write mutants, one a line."""
    lines = ',\n'.join(json.dumps(asdict(each), ensure_ascii=False) for each in mutants)
    path.write_text(f'[\n{lines}\n]\n', encoding='utf-8')
