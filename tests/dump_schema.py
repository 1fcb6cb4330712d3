"""Write sql/schema.sql: the result of all migrations and functions, as pg_dump prints it.

    python tests/dump_schema.py           write the file
    python tests/dump_schema.py --check   exit 1 when the file is out of date

Lines that differ from one version of PostgreSQL to the next (headers, settings, keys against injection) are left out,
so that every supported version writes the same file.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))

from nipap.postgres import schema  # noqa: E402
from nipap.postgres.database import Database  # noqa: E402
from nipapd.embedded import EmbeddedPostgres, Installation, find_installations  # noqa: E402

SCHEMA = REPOSITORY / 'sql' / 'schema.sql'
HEADER = """\
-- The schema that the migrations make, and a list of the functions, for readers: nothing is installed from this file,
-- and what the migrations put into the tables is not in it. Written by tests/dump_schema.py; do not edit.

SET check_function_bodies = false;

"""
# Comments that name the next object; settings; keys of psql against injection.
NOISE = re.compile(
    r'^(?:--\n-- (?:Name: .*|PostgreSQL database dump.*)\n--\n'
    r'|-- Dumped (?:from|by) .*\n'
    r'|\\(?:un)?restrict .*\n'
    r'|SET \w+ = .*;\n'
    r"|SELECT pg_catalog\.set_config\('search_path', .*\n)",
    re.MULTILINE,
)
# PostgreSQL 18 names these constraints, and a partition has those of its table.
NAMED_NOT_NULL = re.compile(r' CONSTRAINT \w+_not_null\d*(?= NOT NULL)')

# The functions of a versioned schema.
FUNCTIONS = """SELECT proname || '(' || pg_get_function_arguments(f.oid) || ')', pg_get_function_result(f.oid),
    obj_description(f.oid, 'pg_proc')
FROM pg_proc f JOIN pg_namespace n ON n.oid = pronamespace WHERE nspname = %s ORDER BY 1"""


def dump(bindir: Path, dsn: str) -> str:
    """Return the schema of a database as the text of sql/schema.sql."""
    return f'{dump_tables(bindir, dsn)}\n{list_functions(dsn)}'


def dump_tables(bindir: Path, dsn: str) -> str:
    """Return the executable part: everything but the functions that have versions."""
    command = [str(bindir / 'pg_dump'), '--schema-only', '--no-owner', '--no-privileges', '--exclude-schema=*_v[0-9]*']
    raw = subprocess.run([*command, '--dbname', dsn], check=True, capture_output=True, text=True).stdout
    raw = NAMED_NOT_NULL.sub('', NOISE.sub('', raw))
    return HEADER + re.sub(r'\n{3,}', '\n\n', raw).strip() + '\n'


def list_functions(dsn: str) -> str:
    """Return the functions of this version with their comments, as SQL comments."""
    name = f'public_v{schema.latest()}'
    lines = [f'-- The functions of this version, in the schema {name}; their text is in sql/functions.']
    db = Database(dsn)
    try:
        for signature, result, comment in db.read(lambda tx: tx.all(FUNCTIONS, (name,))):
            lines += ['', f'-- {signature} -> {result}', f'--     {comment}']
    finally:
        db.close()
    return '\n'.join(lines) + '\n'


def dump_fresh(installation: Installation) -> str:
    """Return the schema as a PostgreSQL started for this purpose installs it."""
    with tempfile.TemporaryDirectory(prefix='nipap-schema-', dir='/tmp') as directory:
        Path(directory).chmod(0o755)  # as root, the server runs under another account
        fast = {'fsync': 'off', 'full_page_writes': 'off'}
        server = EmbeddedPostgres(Path(directory) / 'postgres', bindir=str(installation.bindir), settings=fast)
        try:
            dsn = server.start().dsn()
            schema.install(dsn)
            return dump(installation.bindir, dsn)
        finally:
            server.stop()


def main(argv: Sequence[str] | None = None) -> int:
    """Write or check the file; return the exit code."""
    parser = argparse.ArgumentParser(description='Write sql/schema.sql from the migrations and functions.')
    parser.add_argument('--check', action='store_true', help='write nothing, exit 1 when the file is out of date')
    options = parser.parse_args(argv)
    found = find_installations()
    if not found:
        print('dump_schema: there is no PostgreSQL on this host', file=sys.stderr)
        return 2
    text = dump_fresh(found[0])
    if not options.check:
        SCHEMA.write_text(text, encoding='utf-8')
    elif not SCHEMA.exists() or SCHEMA.read_text(encoding='utf-8') != text:
        print(f'{SCHEMA} is out of date: run python tests/dump_schema.py', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
