#!/usr/bin/env python3
"""Report the lengths of functions and files, and the number of private functions named once; no limit applies."""

from __future__ import annotations

import ast
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LISTED = 10


def functions() -> Iterator[tuple[int, str, str]]:
    """Yield length, place and name of every function of the program."""
    for path in sorted((*ROOT.glob('nipap/**/*.py'), *ROOT.glob('nipapd/**/*.py'))):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                yield length, f'{path.relative_to(ROOT)}:{node.lineno}', node.name


def named_once() -> tuple[int, int]:
    """Return the number of private functions, and the number of those named only once beside the definition."""
    found = once = 0
    for path in (*ROOT.glob('nipap/**/*.py'), *ROOT.glob('nipapd/**/*.py')):
        text = path.read_text()
        words = re.findall(r'\b_\w+\b', text)
        names = set(re.findall(r'def (_[a-z]\w*)\(', text))
        found += len(names)
        once += sum(words.count(name) <= 2 for name in names)
    return found, once


def main() -> None:
    lengths = sorted(functions(), reverse=True)
    lines = [length for length, _, _ in lengths]
    print(f'{len(lines)} functions, median {statistics.median(lines):g} lines, 95 % at most {lines[len(lines) // 20]}')
    for length, place, name in lengths[:LISTED]:
        print(f'  {length:4} {place} {name}')
    found, once = named_once()
    print(f'{found} private functions, {once} of them named once ({once * 100 // found} %)')
    sizes = sorted(((len(path.read_text().splitlines()), path) for path in ROOT.glob('nipap*/**/*.py')), reverse=True)
    for size, path in sizes[:LISTED]:
        print(f'  {size:4} {path.relative_to(ROOT)}')


if __name__ == '__main__':
    main()
