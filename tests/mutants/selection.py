"""Find the tests that execute a mutant's line, by the measurements of one run of the suite."""

from __future__ import annotations

import ast
import functools
import json
import lzma
import re
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from places import Mutant, find
from sources import Source

# Tests that compare the text of the program or its documentation find every change, and show nothing about behaviour.
OF_TEXT = ('tests/unit/test_docs.py', 'tests/unit/test_layering.py', 'tests/unit/test_mutants.py')
# Tests that call every function of the tree of prefixes, and were not measured.
OF_TREE = ('tests/properties/', 'tests/db/test_locks.py')
OF_SQL_TEXT = ('tests/db/test_schema.py', 'tests/db/test_upgrade.py')


@dataclass
class Covering:
    """The duration of each test, and the tests that execute each mutant."""

    seconds: dict[str, float]
    tests: dict[str, list[str]]

    @classmethod
    def load(cls, path: Path) -> Covering:
        stored = json.loads(lzma.decompress(path.read_bytes()))
        names = [name for name, _ in stored['tests']]
        return cls(
            dict(stored['tests']), {key: [names[each] for each in own] for key, own in stored['mutants'].items()}
        )

    def save(self, path: Path) -> None:
        number = {name: index for index, name in enumerate(self.seconds)}
        mutants = {key: [number[each] for each in own if each in number] for key, own in self.tests.items()}
        stored = {'tests': list(self.seconds.items()), 'mutants': mutants}
        path.write_bytes(lzma.compress(json.dumps(stored, separators=(',', ':')).encode(), preset=9))

    def of(self, mutant: Mutant, first: Iterable[str] = ()) -> list[str]:
        """Return the tests that execute a mutant.

        The order is `first`, then one test of each function by duration, then the rest.
        """
        unfit = OF_TEXT + (OF_SQL_TEXT if mutant.is_sql else ())
        own = [each for each in self.tests.get(mutant.id, []) if not each.startswith(unfit) and each in self.seconds]
        ranks: dict[str, int] = {}
        seen: dict[str, int] = defaultdict(int)
        for test in sorted(own, key=self.seconds.__getitem__):
            function = test.partition('[')[0]
            ranks[test] = seen[function]
            seen[function] += 1
        known = set(own)
        preferred = list(dict.fromkeys(each for each in first if each in known))
        rest = sorted(known.difference(preferred), key=lambda each: (ranks[each], self.seconds[each]))
        return preferred + rest


class Measured:
    """The files of a run of the suite under coverage, read from a directory."""

    def __init__(self, raw: Path, root: Path) -> None:
        self.seconds: dict[str, float] = {}
        self.sql: dict[str, set[str]] = defaultdict(set)
        self._lines: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        for path in sorted(raw.glob('tests-*.jsonl')):
            for line in path.read_text().splitlines():
                one = json.loads(line)
                self.seconds[one['test']] = one['seconds']
                for function in one['sql']:
                    self.sql[function].add(one['test'])
        for path in raw.glob('.coverage.*'):
            self._read(path, root)

    def _read(self, path: Path, root: Path) -> None:
        try:
            connection = sqlite3.connect(f'file:{path}?mode=ro', uri=True)
            files = dict(connection.execute('SELECT id, path FROM file').fetchall())
            contexts = dict(connection.execute('SELECT id, context FROM context').fetchall())
            rows = connection.execute('SELECT DISTINCT file_id, context_id, tono FROM arc WHERE tono > 0').fetchall()
            connection.close()
        except sqlite3.Error:
            return  # the process was killed, or is still running
        lines = {key: self._lines[Path(file).relative_to(root).as_posix()] for key, file in files.items()}
        for file, context, line in rows:
            lines[file][line].add(contexts[context])

    def executing(self, path: str, lines: Iterable[int]) -> set[str]:
        return {test for line in lines for test in self._lines[path].get(line, ()) if test in self.seconds}

    def in_file(self, path: str) -> set[str]:
        return self.executing(path, list(self._lines[path]))


def cover(mutants: Iterable[Mutant], sources: list[Source], measured: Measured) -> Covering:
    """Find the tests of every mutant in the tree that was measured."""
    callers = _callers(sources)
    found = {}
    for mutant in mutants:
        place = find(mutant, sources)
        if place is None:
            continue
        if mutant.is_sql:
            own = {test for each in _closure(mutant.function, callers) for test in measured.sql.get(each, ())}
        else:
            own = _of_python(place.source, place.start, sources, measured)
        found[mutant.id] = sorted(own, key=lambda each: measured.seconds[each])
    return Covering(measured.seconds, found)


def _callers(sources: list[Source]) -> dict[str, set[str]]:
    """Map each SQL function to the functions that name it in their text.

    PostgreSQL does not count an inlined function as called.
    """
    bodies = {
        each.name: source.masked[each.start : each.end]
        for source in sources
        if source.is_sql
        for each in source.functions
    }
    callers: dict[str, set[str]] = defaultdict(set)
    for name, body in bodies.items():
        for called in set(re.findall(r'\b(\w+)\(', body)) & bodies.keys() - {name}:
            callers[called].add(name)
    return callers


def _closure(function: str, callers: dict[str, set[str]]) -> Iterator[str]:
    yield function
    yield from callers[function]


def _of_python(source: Source, position: int, sources: list[Source], measured: Measured) -> set[str]:
    statement = _innermost(source, position)
    own = measured.executing(source.path, _header(statement))
    if is_in_function(source, position):
        return own or measured.in_file(source.path)
    # The statement runs when the module is imported, before any test. So the uses of its names decide.
    names = {each.id for each in ast.walk(statement) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
        return measured.executing(source.path, range(statement.body[0].lineno, (statement.end_lineno or 0) + 1))
    used = {test for each in sources if not each.is_sql for test in measured.executing(each.path, _uses(each, names))}
    return used or own or measured.in_file(source.path)


@functools.cache
def _nodes_of(text: str) -> list[ast.AST]:
    return list(ast.walk(ast.parse(text)))


def _nodes(source: Source) -> list[ast.AST]:
    return _nodes_of(source.text)


def _innermost(source: Source, position: int) -> ast.stmt:
    line = source.line_of(position)
    around = [
        node for node in _nodes(source) if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or 0)
    ]
    return max(around, key=lambda each: (each.lineno, each.col_offset))


def _header(statement: ast.stmt) -> range:
    """Return the lines of a statement without those of its inner statements."""
    body = getattr(statement, 'body', None)
    last = max(statement.lineno, body[0].lineno - 1) if body else statement.end_lineno or statement.lineno
    return range(statement.lineno, last + 1)


def is_in_function(source: Source, position: int) -> bool:
    line = source.line_of(position)
    return any(
        node.body[0].lineno <= line <= (node.end_lineno or 0)
        for node in _nodes(source)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def _uses(source: Source, names: set[str]) -> list[int]:
    if not names:
        return []
    return [
        line
        for node in _nodes(source)
        if isinstance(node, ast.Name | ast.Attribute)
        and (node.id if isinstance(node, ast.Name) else node.attr) in names
        and is_in_function(source, source.position(node.lineno, node.col_offset))
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    ]
