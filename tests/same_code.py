"""Show that two revisions differ only in text for people.

    python tests/same_code.py A B

compares every Python and SQL file: syntax trees without docstrings, SQL without comments and white space. Names of
tests may differ, for they are sentences. With --messages, text constants may differ as well: log lines, error messages
and the expressions that tests look for in them. Prints the files that differ and ends with 1 if there are any.
"""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
SQL_COMMENT = re.compile(r"--[^\n]*|('(?:[^']|'')*')")
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def files(revision: str) -> dict[str, str]:
    """Return the names of the compared files in a revision, each with the id of its content."""
    command = ['git', '-C', str(REPOSITORY), 'ls-tree', '-r', revision]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = (line.partition('\t') for line in listed.splitlines())
    return {name: about.split()[2] for about, _, name in rows if name.endswith(('.py', '.sql'))}


def content(blob: str) -> str:
    command = ['git', '-C', str(REPOSITORY), 'cat-file', 'blob', blob]
    return subprocess.run(command, capture_output=True, check=True).stdout.decode('utf-8')


def python_code(source: str, is_test: bool, messages: bool) -> str:
    """Return the syntax tree of a module as text, without docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and node.body and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
        if is_test and isinstance(node, ast.FunctionDef) and node.name.startswith('test_'):
            node.name = 'test_'
        if messages and isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ''
    return ast.dump(tree)


def sql_code(source: str) -> str:
    """Return SQL in one line, without comments."""
    return ' '.join(SQL_COMMENT.sub(lambda found: found[1] or ' ', source).split())


def code(name: str, source: str, messages: bool) -> str:
    if name.endswith('.sql'):
        return sql_code(source)
    return python_code(source, name.startswith('tests/'), messages)


def main() -> int:
    parser = argparse.ArgumentParser(description='Show that two revisions differ in text for people only.')
    parser.add_argument('--messages', action='store_true', help='text constants may differ as well')
    parser.add_argument('before', metavar='A')
    parser.add_argument('after', metavar='B')
    args = parser.parse_args()
    before, after = files(args.before), files(args.after)
    changed = [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]
    different = [
        name
        for name in changed
        if name not in before
        or name not in after
        or code(name, content(before[name]), args.messages) != code(name, content(after[name]), args.messages)
    ]
    print(*(f'{name}: the code differs' for name in different), sep='\n', end='\n' if different else '')
    print(f'{len(changed)} files changed, the code of {len(different)} differs')
    return 1 if different else 0


if __name__ == '__main__':
    sys.exit(main())
