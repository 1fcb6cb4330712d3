"""Mutants as data, and where they are in a tree whose lines and files have moved."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from changes import Change
from sources import Source

ALIKE = 0.8  # so much of a line must be as it was for the mutant to be placed in what it has become


@dataclass(frozen=True)
class Mutant:
    """A change, with everything that finds its place again.

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
    """Where a mutant is: `how` is the rule that found it."""

    source: Source
    start: int
    end: int
    how: str

    @property
    def line(self) -> int:
        return self.source.line_of(self.start)

    def mutated(self, mutant: Mutant) -> str:
        return self.source.text[: self.start] + mutant.replacement + self.source.text[self.end :]


def describe(source: Source, change: Change) -> Mutant:
    """Turn a change of a file into data."""
    line = source.line_of(change.start)
    function = source.function_at(change.start)
    text = source.line(line)
    same = [each for each in _lines(source, text.strip()) if source.function_at(source.starts[each - 1]) == function]
    # The first line of a function belongs to what is around it.
    occurrence = sum(each < line for each in same)
    original = source.text[change.start : change.end]
    column = change.start - source.starts[line - 1] - (len(text) - len(text.lstrip()))
    facts = (function, occurrence, text.strip(), column, original, change.replacement)
    digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:6]
    name = f'{Path(source.path).stem.lstrip("_0123456789")}.{function.rpartition(".")[2] or "module"}.{digest}'
    return Mutant(name, change.kind, source.path, function, line, column, occurrence, *facts[2:3], original, change.replacement)


def _lines(source: Source, text: str) -> list[int]:
    return [number for number in range(1, len(source.starts) + 1) if source.line(number).strip() == text]


def find(mutant: Mutant, sources: Iterable[Source]) -> Place | None:
    """Return where a mutant is now: by its line, in a file or function that may have another name; else by a line alike."""
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


def _exact(mutant: Mutant, source: Source, how: str, fits: object) -> list[Place]:
    """Return the places on lines with the mutant's text, in functions whose name fits."""
    found = []
    for number in _lines(source, mutant.text):
        text = source.line(number)
        start = source.starts[number - 1] + len(text) - len(text.lstrip()) + mutant.column
        end = _end(mutant.original, source.text, start)
        if end and fits(source.function_at(source.starts[number - 1])):  # type: ignore[operator]
            found.append(Place(source, start, end, how))
    return found


def _end(original: str, text: str, start: int) -> int | None:
    """Return where the original text ends that starts at a position, however it is indented; None when it is not there."""
    pattern = r'\s+'.join(map(re.escape, original.split())) if original.strip() else re.escape(original)
    if original[:1] == ' ' and original.strip():
        pattern = ' ' + pattern
    if original[-1:] == ' ' and original.strip():
        pattern += ' '
    found = re.compile(pattern).match(text, start)
    return found.end() if found else None


def _alike(mutant: Mutant, source: Source, fits: object) -> list[tuple[float, Place]]:
    """Return places on lines that are nearly the mutant's, where the same text stands between the same words."""
    found = []
    before, after = mutant.text[: mutant.column].split()[-1:], mutant.text[mutant.column + len(mutant.original) :].split()[:1]
    for number in range(1, len(source.starts) + 1):
        text = source.line(number)
        if not fits(source.function_at(source.starts[number - 1])):  # type: ignore[operator]
            continue
        likeness = difflib.SequenceMatcher(None, text.strip(), mutant.text).ratio()
        if likeness < ALIKE:
            continue
        for start in (each.start() for each in re.finditer(re.escape(mutant.original.split('\n')[0]), text)):
            begins = source.starts[number - 1] + start
            end = _end(mutant.original, source.text, begins)
            rest = text[start + len(mutant.original) :].split()[:1]
            if end and (text[:start].split()[-1:] == before or rest == after):
                found.append((likeness, Place(source, begins, end, 'alike')))
    return found


def load(path: Path) -> list[Mutant]:
    return [Mutant(**each) for each in json.loads(path.read_text(encoding='utf-8'))]


def save(path: Path, mutants: Iterable[Mutant]) -> None:
    """Write mutants, one a line."""
    lines = ',\n'.join(json.dumps(asdict(each), ensure_ascii=False) for each in mutants)
    path.write_text(f'[\n{lines}\n]\n', encoding='utf-8')
