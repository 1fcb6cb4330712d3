"""Measure the language of the project: free relatives per 1,000 words of docstrings and comments, room by room.

A free relative stands where a noun belongs: "what is answered" for "the answer". The expression also matches some
ordinary uses, for which the bound leaves room. A line that needs a free relative carries `language: REASON` in a
comment.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
FREE_RELATIVE = re.compile(r'\b(?:what|who|whoever|whose|those that|those who|one that|that of)\b', re.IGNORECASE)
OPENING = re.compile(r'(?:What|Who|Whose|Those|The same|As)\b')
MOST_PER_1000 = 3.0
EXCUSED = 'language:'
SQL_COMMENT = re.compile(r"--([^\n]*)|'(?:[^']|'')*'")
DESCRIPTION = re.compile(r"^COMMENT ON [^']*? IS '((?:[^']|'')*)'", re.MULTILINE)
SCHEMA = REPOSITORY / 'sql' / 'schema.sql'


@dataclass(frozen=True)
class Text:
    """A docstring or a block of comments, with its first line."""

    path: Path
    line: int
    text: str
    is_docstring: bool

    @property
    def place(self) -> str:
        return f'{self.path.relative_to(REPOSITORY)}:{self.line}'


@dataclass
class Room:
    """A directory of source files with their texts."""

    name: str
    texts: list[Text] = field(default_factory=list)

    @property
    def words(self) -> int:
        return sum(len(text.text.split()) for text in self.texts)

    @property
    def free_relatives(self) -> list[tuple[str, str]]:
        """The place of each free relative and its line."""
        return [
            (f'{text.path.relative_to(REPOSITORY)}:{text.line + number}', line.strip())
            for text in self.texts
            for number, line in enumerate(text.text.splitlines())
            for _ in FREE_RELATIVE.findall(line)
        ]

    @property
    def per_1000(self) -> float:
        return 1000 * len(self.free_relatives) / max(1, self.words)


def docstrings(path: Path, source: str) -> Iterator[Text]:
    """Yield the docstrings of a module, its classes and its functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                value = first.value.value
                if isinstance(value, str):
                    yield Text(path, first.lineno, value, True)


def comments(path: Path, source: str) -> Iterator[Text]:
    """Yield the comments of a module, directives to tools left out."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            text = token.string.lstrip('#').strip()
            if not text.startswith(('noqa', 'type:', 'pragma', '!')):
                yield Text(path, token.start[0], text, False)


def sql_comments(path: Path, source: str) -> Iterator[Text]:
    """Yield the comments of a file, or the descriptions of all objects from the schema, which is generated."""
    for found in (DESCRIPTION if path == SCHEMA else SQL_COMMENT).finditer(source):
        if found[1]:
            yield Text(path, source.count('\n', 0, found.start()) + 1, found[1].strip(), path == SCHEMA)


def texts(path: Path) -> list[Text]:
    """Return the texts of a file, without the lines that carry a reason."""
    source = path.read_text(encoding='utf-8')
    found = (
        sql_comments(path, source) if path.suffix == '.sql' else (*docstrings(path, source), *comments(path, source))
    )
    return [text for text in found if EXCUSED not in text.text]


def rooms() -> list[Room]:
    """Return the rooms of the programs, the SQL, the tests and the examples."""
    found: dict[str, Room] = {}
    for top in ('nipap', 'nipapd', 'sql', 'tests', 'examples'):
        for path in sorted((REPOSITORY / top).rglob('*')):
            if path.suffix in ('.py', '.sql') and '__pycache__' not in path.parts:
                name = str(path.parent.relative_to(REPOSITORY))
                found.setdefault(name, Room(name)).texts.extend(texts(path))
    return sorted(found.values(), key=lambda room: room.name)


def main() -> int:
    """Print a line for each room; with names of rooms as arguments, also their free relatives."""
    for room in rooms():
        docs = [text for text in room.texts if text.is_docstring]
        opening = [text for text in docs if OPENING.match(text.text)]
        count = len(room.free_relatives)
        print(
            f'{room.per_1000:6.1f} per 1,000  {count:4} of {room.words:6} words  {len(opening):3} openings  {room.name}'
        )
        if room.name in sys.argv[1:]:
            for place, line in room.free_relatives:
                print(f'    {place}: {line}')
            for text in opening:
                print(f'    {text.place}: opens with {text.text.split(maxsplit=1)[0]}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
