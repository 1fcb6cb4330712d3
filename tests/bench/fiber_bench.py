"""Measure the price of fibers for quick calls: one handler runs requests in fibers, the other blocks.

Usage: python tests/bench/fiber_bench.py [--calls 100] [--turns 60] [--most 0.1]

Two processes with the same application and the same PostgreSQL take turns. The processor time of the handler counts,
since other load on the machine has little effect on it. Exit code 1: a quick call pays more than a tenth. A search,
which sends several statements to PostgreSQL, is shown beside the quick calls and not judged.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import socket
import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psycopg2.extensions

REPOSITORY = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / 'tests')]

from bench.sites import Failed, Members, Site, is_fault  # noqa: E402
from support import open_directories  # noqa: E402

from nipap.access.authentication import Actor, Authenticator, AuthSettings, BackendSettings  # noqa: E402
from nipap.access.local_users import LocalUser, LocalUsers  # noqa: E402
from nipap.backend import Backend  # noqa: E402
from nipap.flask_xmlrpc import create_app  # noqa: E402
from nipap.postgres import connecting, schema  # noqa: E402
from nipap.postgres.database import Database  # noqa: E402
from nipap.runtime.runtime import Runtime  # noqa: E402
from nipapd.embedded import EmbeddedPostgres  # noqa: E402
from nipapd.fibers import Fibers  # noqa: E402
from nipapd.server import Container, Server  # noqa: E402

MOST_SHARE = 0.10
NETWORK = '10.0.0.0/24'
QUICK: dict[str, tuple[str, Members]] = {
    'version': ('version', {}),
    'list_prefix, exact': ('list_prefix', {'prefix': {'prefix': NETWORK, 'vrf_id': 0}}),
    'smart_search, an address': ('smart_search_prefix', {'query_string': '10.0.0.1'}),
}
NOT_JUDGED = 'smart_search, an address'
CONTEXT = multiprocessing.get_context('fork')


class Directly(Fibers):
    """A scheduler that runs each request to its end at once and blocks the process at every wait."""

    def start(self, work: Callable[[], None]) -> bool:
        work()
        return True


def serve(listener: socket.socket, dsn: str, users: Path, fibers: Fibers) -> None:
    """Run one handler until it is terminated."""
    if isinstance(fibers, Directly):
        psycopg2.extensions.set_wait_callback(None)
    else:
        connecting.use(Runtime(fibers, wait_for_postgresql=fibers.wait_for_postgresql))
    settings = BackendSettings('local', 'SqliteAuth', {'db_path': str(users)})
    authenticator = Authenticator(AuthSettings('local', 3600, {'local': settings}))
    server = Server(Container(create_app(Backend(Database(dsn)), authenticator), fibers))

    async def forever() -> None:
        server.listen_on([listener])
        await asyncio.Event().wait()

    asyncio.run(forever())


@contextlib.contextmanager
def handler(dsn: str, users: Path, fibers: Fibers) -> Iterator[tuple[Site, int]]:
    """Yield the site of a handler in a new process, and its process id."""
    listener = socket.create_server(('127.0.0.1', 0))
    listener.setblocking(False)
    process = CONTEXT.Process(target=serve, args=(listener, dsn, users, fibers), daemon=True)
    process.start()
    assert process.pid is not None
    site = Site(f'http://bench:secret@127.0.0.1:{listener.getsockname()[1]}', 0)
    listener.close()
    try:
        yield site, process.pid
    finally:
        site.http.close()
        process.terminate()
        process.join()


def processor_ns(pid: int) -> int:
    """Return the processor time of a process so far, in nanoseconds."""
    return int(Path('/proc', str(pid), 'schedstat').read_text().split()[0])


def cost_us(site: Site, pid: int, name: str, calls: int) -> float:
    """Return the processor time of the handler for a call, in microseconds."""
    before = processor_ns(pid)
    for _ in range(calls):
        answer = site.ask(*QUICK[name])
        if is_fault(answer):
            raise Failed(f'{name}: {answer[:500].decode(errors="replace")}')
    return (processor_ns(pid) - before) / calls / 1000


@contextlib.contextmanager
def database(directory: Path) -> Iterator[tuple[str, Path]]:
    """Yield the DSN of a PostgreSQL with one prefix, and the path of the accounts."""
    accounts = LocalUsers(directory / 'users')
    accounts.create()
    accounts.add(LocalUser('bench', 'bench'), 'secret')
    postgres = EmbeddedPostgres(directory / 'postgres').start()
    try:
        schema.install(postgres.dsn('postgres'))
        db = Database(postgres.dsn('postgres'))
        actor = Actor('bench', None, 'bench', 'bench', False)
        Backend(db).add_prefix(actor, {'prefix': NETWORK, 'type': 'assignment', 'description': 'Office LAN'})
        db.close()
        yield postgres.dsn('postgres'), directory / 'users'
    finally:
        postgres.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description='Time the overhead of fibers for quick calls.')
    parser.add_argument('--calls', type=int, default=100, help='calls of each kind per turn (default %(default)s)')
    parser.add_argument('--turns', type=int, default=60, help='number of turns (default %(default)s)')
    parser.add_argument(
        '--most',
        type=float,
        default=MOST_SHARE,
        metavar='SHARE',
        help='largest accepted overhead, as a share of the time (default %(default)s)',
    )
    options = parser.parse_args()
    failed = False
    with open_directories() as make, database(make()) as (dsn, users), contextlib.ExitStack() as stack:
        start = partial(handler, dsn, users)
        both = [stack.enter_context(start(fibers)) for fibers in (Fibers(), Directly())]
        for name in QUICK:
            turns = [[cost_us(*one, name, options.calls) for one in both] for _ in range(options.turns + 1)][1:]
            ours, plain = (statistics.median(some) for some in zip(*turns, strict=True))
            # Noise of the machine raises one of the two figures at a time. A higher price raises both.
            share = min(statistics.median(one / other for one, other in turns), ours / plain) - 1
            failed |= share > options.most and name != NOT_JUDGED
            print(f'{name:26s} {ours:5.0f} µs in a fiber, {plain:5.0f} µs without: {share:+.1%}')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
