"""Time 1,000 prefixes over REST beside XML-RPC, in one process.

Three figures: the encoding alone, the whole request with PostgreSQL, and the request until a standard library has read
the answer. The exit code is 1 when the first or the last takes more than a third.

Usage: python tests/bench/rest_bench.py [--rows 1000] [--runs 15]
"""

from __future__ import annotations

import argparse
import base64
import copy
import json
import statistics
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from pages import prefix

from nipap.access.authentication import Actor, Authenticator, AuthSettings, BackendSettings
from nipap.access.local_users import LocalUser, LocalUsers
from nipap.backend import Backend
from nipap.flask_xmlrpc import create_app
from nipap.postgres import schema
from nipap.postgres.database import Database
from nipap.rest import api as flask_rest
from nipap.rest.objects import RESOURCES, Object, encode, plain_many
from nipap.xmlrpc import codec as wire
from nipapd.embedded import EmbeddedPostgres

PREFIXES = RESOURCES[2]
MOST = 1 / 3
# The rest of the request is PostgreSQL's, and takes the same time over both.
JUDGED = ('encoding', 'with client')
ACTOR = Actor('bench', None, 'bench', 'bench', False)


def median_ms(runs: int, work: Callable[[], object]) -> float:
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        times.append((time.perf_counter() - began) * 1e3)
    return statistics.median(times)


def as_json(items: list[Object]) -> bytes:
    """Encode the items of a page as REST does."""
    plain_many(items, PREFIXES.counters)
    return encode(items)


def encodings(rows: int, runs: int) -> tuple[float, float]:
    """Return the milliseconds of the two codecs alone."""
    items = [prefix(i) for i in range(rows)]
    copies = iter([copy.deepcopy(items) for _ in range(runs)])
    answer = {'result': items}
    return (
        median_ms(runs, lambda: wire.encode_response(answer)),
        median_ms(runs, lambda: as_json(next(copies))),
    )


def requests(directory: Path, rows: int, runs: int) -> dict[str, tuple[float, float]]:
    """Return the milliseconds of a whole request over each protocol, with PostgreSQL, and until its answer is read."""
    users = LocalUsers(directory / 'users')
    users.create()
    users.add(LocalUser('bench', 'bench'), 'secret')
    settings = BackendSettings('local', 'SqliteAuth', {'db_path': str(directory / 'users')})
    authenticator = Authenticator(AuthSettings('local', 3600, {'local': settings}))
    postgres = EmbeddedPostgres(directory / 'postgres')
    postgres.start()
    try:
        dsn = postgres.dsn('postgres')
        schema.install(dsn)
        backend = Backend(Database(dsn), longest_list=1000)
        attr = {'type': 'assignment', 'description': 'Office LAN', 'tags': ['office'], 'country': 'SE'}
        backend.add_prefixes(ACTOR, [{**attr, 'prefix': f'10.{i >> 8}.{i & 255}.0/24'} for i in range(rows)], ids=True)
        app = create_app(backend, authenticator)
        flask_rest.add_to(app, backend, authenticator)
        client = app.test_client()
        headers = {'Authorization': 'Basic ' + base64.b64encode(b'bench:secret').decode()}
        call = {'auth': {'authoritative_source': 'b'}, 'query': {}, 'search_options': {'max_result': rows}}
        body = xmlrpc.client.dumps((call,), 'search_prefix').encode()

        def call_xmlrpc() -> bytes:
            return client.post('/XMLRPC', data=body, headers=headers).data

        def call_rest() -> bytes:
            return client.get(f'/api/v1/prefixes?limit={rows}', headers=headers).data

        return {
            'request': (median_ms(runs, call_xmlrpc), median_ms(runs, call_rest)),
            'with client': (
                median_ms(runs, lambda: xmlrpc.client.loads(call_xmlrpc())),
                median_ms(runs, lambda: json.loads(call_rest())),
            ),
        }
    finally:
        authenticator.close()
        postgres.stop()


def main() -> int:
    """Run and print the report. Return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rows', type=int, default=1000)
    parser.add_argument('--runs', type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        figures = {
            'encoding': encodings(options.rows, options.runs),
            **requests(Path(directory), options.rows, options.runs),
        }
    for name, (xml, rest) in figures.items():
        print(f'{name:11} XML-RPC {xml:6.1f} ms, REST {rest:6.1f} ms: {rest / xml:.0%}')
    return int(any(figures[name][1] > figures[name][0] * MOST for name in JUDGED))


if __name__ == '__main__':
    sys.exit(main())
