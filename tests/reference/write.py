"""Write docs/reference from the tables of the program, with examples that are played on a PostgreSQL of its own."""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(path) for path in (HERE, ROOT) if str(path) not in sys.path]

from pages import write  # noqa: E402
from played import play  # noqa: E402

from nipap.postgres import schema  # noqa: E402
from nipapd.embedded import EmbeddedPostgres  # noqa: E402

PAGES = ROOT / 'docs/reference'


def main() -> int:
    """Write the pages, remove pages that are not written any more, and return the exit code."""
    logging.disable(logging.CRITICAL)  # the daemon would log the played faults
    with tempfile.TemporaryDirectory(prefix='nipap-reference-', dir='/tmp') as name:
        directory = Path(name)
        directory.chmod(0o755)  # the server runs under another account when we are root
        server = EmbeddedPostgres(directory / 'postgres', settings={'fsync': 'off', 'full_page_writes': 'off'}).start()
        try:
            dsns = [server.dsn(), server.dsn('second')]
            _create(dsns[0])
            for dsn in dsns:
                schema.install(dsn)
            pages = write(play(*dsns, directory))
        finally:
            server.stop()
    PAGES.mkdir(exist_ok=True)
    for path in PAGES.glob('*.md'):
        if path.name not in pages:
            path.unlink()
    for name, text in pages.items():
        (PAGES / name).write_text(text, encoding='utf-8')
    return 0


def _create(dsn: str) -> None:
    import psycopg2

    connection = psycopg2.connect(dsn)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("CREATE DATABASE second ENCODING 'UTF8' TEMPLATE template0")
    finally:
        connection.close()


if __name__ == '__main__':
    sys.exit(main())
