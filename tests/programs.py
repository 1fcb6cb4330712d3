"""Two other programs: one with a schema that is one migration ahead of the code under test, and the kept program."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from keep_today import KEPT

from nipap.postgres import schema

REPOSITORY = Path(__file__).resolve().parent.parent

# Change every row, build an index, drop an index, and leave a table that former programs do not know.
MIGRATION = """
ALTER TABLE prefix ADD COLUMN next_text text;
UPDATE prefix SET next_text = md5(prefix::text);
ALTER TABLE prefix ALTER next_text SET NOT NULL, ALTER next_text SET DEFAULT '';
CREATE INDEX prefix_next_text_idx ON prefix (next_text);
CREATE TABLE next_thing (id bigint CONSTRAINT next_thing_pkey PRIMARY KEY REFERENCES prefix ON DELETE CASCADE);
INSERT INTO next_thing SELECT id FROM prefix;
"""
FUNCTION = "CREATE OR REPLACE FUNCTION next_function() RETURNS text LANGUAGE sql AS $$ SELECT 'next' $$;\n"


def next_version() -> int:
    """Return the schema version of the program of `make_next`."""
    return schema.latest() + 1


def make_next(directory: Path, *migrations: str) -> Path:
    """Make a program with these migrations and a function more; return its directory for the path of Python."""
    shutil.copytree(REPOSITORY / 'nipap', directory / 'nipap', ignore=shutil.ignore_patterns('sql'))
    shutil.copytree(REPOSITORY / 'nipapd', directory / 'nipapd')
    sql = directory / 'nipap' / 'sql'
    shutil.copytree(REPOSITORY / 'sql', sql)
    (sql / 'functions' / '999_next.sql').write_text(FUNCTION)
    for number, text in enumerate(migrations, next_version()):
        (sql / 'migrations' / f'{number:04}_next.sql').write_text(text)
    return directory


def unpack_kept(directory: Path) -> Path:
    """Unpack the kept wheel; return its directory for the path of Python."""
    (wheel,) = KEPT.glob('*.whl')
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory)
    return directory
