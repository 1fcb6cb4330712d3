"""The SQL that ships with this program: numbered migrations, and the functions of its version.

The version of a program is the number of its latest migration. Its functions have a schema of PostgreSQL of their own,
named by the schema with the tables and by that number (``public_v11``), so that the functions of several versions exist
side by side. Sessions look up the functions of this program first (`search_path`).
"""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import re
from typing import NamedTuple

_OLDEST = re.compile(r'^-- Oldest program: (\d+)$', re.MULTILINE)


class Migration(NamedTuple):
    """One numbered step of the schema."""

    version: int
    name: str
    text: str

    @property
    def oldest_program(self) -> int | None:
        """Return the oldest version that may serve a database after this step; None if the step does not change it.

        A step that removes objects used by older programs has a line ``-- Oldest program: N``.
        """
        found = _OLDEST.search(self.text)
        return int(found[1]) if found else None


@functools.cache
def steps() -> tuple[Migration, ...]:
    """Return all migrations that this program knows, in order."""
    found = []
    for entry in importlib.resources.files('nipap.sql.migrations').iterdir():
        if entry.name.endswith('.sql'):
            number, _, name = entry.name.removesuffix('.sql').partition('_')
            found.append(Migration(int(number), name, entry.read_text(encoding='utf-8')))
    return tuple(sorted(found))


def latest() -> int:
    """Return the version of this program and of the schema that it creates."""
    return steps()[-1].version


@functools.cache
def functions() -> str:
    """Return the text of all SQL functions, in the order in which they must be created."""
    directory = importlib.resources.files('nipap.sql.functions')
    names = sorted(entry.name for entry in directory.iterdir() if entry.name.endswith('.sql'))
    return '\n'.join((directory / name).read_text(encoding='utf-8') for name in names)


def fingerprint() -> str:
    """Return the hash of the text of the functions."""
    return hashlib.sha256(functions().encode()).hexdigest()


# ---------------------------------------------------------------- the search path


def search_path() -> str:
    """Return the statements that make a session look up names among the functions of this version first.

    The session keeps the schema with the tables as ``nipap.home``, and the former search path as ``nipap.path``. A
    session that a pooler reuses has both settings already.
    """
    functions = f"quote_ident(current_setting('nipap.home') || '_v{latest()}')"
    return (
        "SELECT set_config('nipap.path', current_setting('search_path'), false), "
        "set_config('nipap.home', coalesce(current_schema(), ''), false) "
        "WHERE coalesce(current_setting('nipap.path', true), '') = ''; "
        f"SELECT set_config('search_path', {functions} || ', ' || current_setting('nipap.path'), false); "
    )
