"""Positions in source files, and the functions around them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

FUNCTION = re.compile(r'^CREATE (?:OR REPLACE )?FUNCTION (\w+)\s*\(', re.MULTILINE)
# A function that a DO block makes.
MADE = re.compile(r'^DO \$do\$.*?FUNCTION (\w+).*?\$do\$;', re.MULTILINE | re.DOTALL)
# Text in quotes and comments decides nothing, so the operators see blanks there. Bodies in $$ stay.
UNSEEN = re.compile(r"--[^\n]*|'(?:[^']|'')*'")
PACKAGES = ('nipap', 'nipapd', 'sql')


@dataclass(frozen=True)
class Function:
    """A function, named with its class or module, and the range of its text."""

    name: str
    start: int
    end: int


@dataclass
class Source:
    """A file of Python or SQL, as text."""

    path: str
    text: str
    functions: list[Function] = field(init=False)
    starts: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.starts = [0, *(found.end() for found in re.finditer(r'\n', self.text))]
        self.functions = list(self._sql_functions() if self.is_sql else self._python_functions())

    @property
    def is_sql(self) -> bool:
        return self.path.endswith('.sql')

    @property
    def masked(self) -> str:
        """Return SQL with blanks in place of comments and quoted text, so that positions stay."""
        return UNSEEN.sub(lambda found: re.sub(r'[^\n]', ' ', found[0]), self.text)

    def line_of(self, position: int) -> int:
        """Return the number of a position's line; the first is 1."""
        low, high = 0, len(self.starts)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self.starts[middle] <= position else (low, middle)
        return low

    def line(self, number: int) -> str:
        end = self.starts[number] - 1 if number < len(self.starts) else len(self.text)
        return self.text[self.starts[number - 1] : end]

    def position(self, line: int, column: int) -> int:
        """Return the position of a line and an offset in bytes, as `ast` counts them."""
        text = self.line(line)
        return self.starts[line - 1] + (column if text.isascii() else len(text.encode()[:column].decode()))

    def function_at(self, position: int) -> str:
        """Return the name of the innermost function around a position, or an empty text at the top of a file."""
        around = [each for each in self.functions if each.start <= position < each.end]
        return min(around, key=lambda each: each.end - each.start).name if around else ''

    def _python_functions(self) -> Iterator[Function]:
        def visit(node: ast.AST, name: str) -> Iterator[Function]:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    inner = f'{name}.{child.name}'.lstrip('.')
                    begins = self.position(child.lineno, child.col_offset)
                    yield Function(inner, begins, self.position(child.end_lineno or 0, child.end_col_offset or 0))
                    yield from visit(child, inner)
                else:
                    yield from visit(child, name)

        yield from visit(ast.parse(self.text), '')

    def _sql_functions(self) -> Iterator[Function]:
        for block in MADE.finditer(self.text):
            yield Function(block[1], *block.span())
        for found in FUNCTION.finditer(self.text):
            rest = self.text[found.start() :]
            # A body in $$ ends with $$. Any other body is one RETURN and ends with the statement.
            ends = re.search(r'\$\$.*?\$\$;' if re.match(r'[^;]*\$\$', rest) else r';', rest, re.DOTALL)
            yield Function(found[1], found.start(), found.start() + (ends.end() if ends else len(rest)))


def read_all(root: Path) -> list[Source]:
    """Read the program's Python and the functions of its SQL, in all directories of the packages."""
    found = []
    for package in PACKAGES:
        for path in sorted((root / package).rglob('*')):
            relative = path.relative_to(root).as_posix()
            if path.suffix == '.py' or (path.suffix == '.sql' and '/functions/' in relative):
                found.append(Source(relative, path.read_text(encoding='utf-8')))
    return found
