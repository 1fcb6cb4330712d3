"""The long run: compare the speed and size of the database after hundreds of thousands of changes with the first ones.

Usage: python tests/bench/health.py [options], see --help and docs/measuring.md.

A private PostgreSQL with default settings runs in a temporary directory. Several processes allocate and remove, add
covering prefixes, edit, make VRFs and pools and drop them, through `Backend`. After each tenth the sizes of all tables
and indexes are read. Exit code 1: the last tenth is slower or bigger than the second (the first warms up), or the check
found something.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import random
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psycopg2

REPOSITORY = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / 'tests')]

from bench import dataset  # noqa: E402
from bench.report import table  # noqa: E402
from support import open_directories  # noqa: E402

from nipap.access.authentication import Actor  # noqa: E402
from nipap.backend import Backend  # noqa: E402
from nipap.integrity import check  # noqa: E402
from nipap.postgres import schema  # noqa: E402
from nipap.postgres.database import Database  # noqa: E402
from nipapd.embedded import EmbeddedPostgres  # noqa: E402

SLICES = 10
BEFORE = 1  # the slice to compare the last one with: the second, since the first warms up
MOST_SLOWER = 1.3
MOST_BIGGER = 1.5
# Rows that the next round of autovacuum will clean up come and go. In a small table they are many times its size.
ALLOWANCE = 250_000
GROWS_BY_DESIGN = ('audit_', 'change_set', 'change_order')
SNAPSHOT_SLICES = 5

ACTOR = Actor('health', 'health', 'health', 'health', readonly=False)
CONTEXT = multiprocessing.get_context('forkserver')
CONTEXT.set_forkserver_preload(['nipap.backend'])

# The places of allocations, in turn: the pool or the prefix, the length, and the family.
V4_POOL, V6_POOL = '172.16.0.0/14', '2001:db8:1::/48'
V4_BLOCK, V6_BLOCK = '172.24.0.0/14', '2001:db8:2::/48'
PLACES: tuple[dict[str, Any], ...] = (
    {'from-pool': {'name': 'churn'}, 'family': 4},
    {'from-pool': {'name': 'churn'}, 'family': 6},
    {'from-prefix': [V4_BLOCK], 'prefix_length': 30},
    {'from-prefix': [V6_BLOCK], 'prefix_length': 64},
)

SIZES = """SELECT relname, pg_relation_size(oid) FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i') AND relpersistence = 'p' ORDER BY 1"""
TURNOVER = """SELECT relname, n_tup_ins, n_tup_upd, n_tup_hot_upd, n_tup_del, n_dead_tup, autovacuum_count
    FROM pg_stat_user_tables WHERE n_tup_ins + n_tup_upd + n_tup_del > 0
    ORDER BY n_tup_ins + n_tup_upd + n_tup_del DESC"""


# ------------------------------------------------------------------------------------------------ one client


@dataclass
class Times:
    """Milliseconds of every allocation and removal, and of a query that reads no table."""

    allocate: list[float] = field(default_factory=list)
    remove: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)

    def add(self, other: Times) -> None:
        self.allocate += other.allocate
        self.remove += other.remove
        self.floor += other.floor


class Client:
    """The changes of one process. It keeps a fixed number of allocations in each place and removes only its own."""

    def __init__(self, dsn: str, number: int, kept: int) -> None:
        self.backend = Backend(Database(dsn))
        self.number, self.most_kept = number, kept
        self.random = random.Random(number)
        self.kept: list[deque[int]] = [deque() for _ in PLACES]
        self.cycles = 0

    def fill(self) -> None:
        """Allocate until each place holds `most_kept` allocations."""
        for place, kept in zip(PLACES, self.kept, strict=True):
            while len(kept) < self.most_kept:
                kept.append(self.allocate(place))

    def run(self, cycles: int) -> Times:
        """Allocate and remove `cycles` times, and make other changes now and then."""
        times = Times()
        for _ in range(cycles):
            self.cycles += 1
            self.cycle(times)
            for every, work in ((5, self.edit), (20, self.look), (100, self.cover), (500, self.make_vrf)):
                if self.cycles % every == 0:
                    times.floor += work()
        return times

    def cycle(self, times: Times) -> None:
        n = self.random.randrange(len(PLACES))
        kept = self.kept[n]
        start = time.perf_counter()
        kept.append(self.allocate(PLACES[n]))
        middle = time.perf_counter()
        kept.rotate(self.random.choice((0, 1, self.random.randrange(len(kept)))))  # the oldest, the newest, any
        victim = kept.popleft()
        between = time.perf_counter()
        self.backend.remove_prefix(ACTOR, {'id': victim})
        times.allocate.append((middle - start) * 1000)
        times.remove.append((time.perf_counter() - between) * 1000)

    def allocate(self, args: dict[str, Any]) -> int:
        attr: dict[str, Any] = {'description': f'customer {self.random.randrange(10**9):x}', 'type': 'assignment'}
        if self.random.random() < 0.2:
            attr |= {'tags': [f'tag{self.random.randrange(50)}'], 'vlan': self.random.randrange(4096)}
        return int(self.backend.add_prefix(ACTOR, attr, args)['id'])

    def edit(self) -> Sequence[float]:
        prefix = {'id': self.random.choice(self.random.choice(self.kept))}
        # Choose one of 500 values: an inverted index keeps every key that it ever held, see docs/performance.md.
        avps = {'rack': str(self.random.randrange(500))}
        attr = {'description': f'moved {self.random.randrange(10**9):x}', 'avps': avps}
        self.backend.edit_prefix(ACTOR, prefix, attr)
        return ()

    def look(self) -> Sequence[float]:
        start = time.perf_counter()
        self.backend.db.read(lambda tx: tx.value('SELECT count(*) FROM generate_series(1, 3000)'))
        return ((time.perf_counter() - start) * 1000,)

    def cover(self) -> Sequence[float]:
        """Add a reservation above some existing prefixes and remove it: the prefixes move down and up again."""
        network = f'172.24.{self.number * 16}.0/24'
        added = self.backend.add_prefix(ACTOR, {'prefix': network, 'type': 'reservation', 'description': 'above'})
        self.backend.remove_prefix(ACTOR, {'id': added['id']})
        return ()

    def make_vrf(self) -> Sequence[float]:
        """Make a VRF and a pool, and remove them."""
        name = f'{self.number}-{self.cycles}'
        vrf = self.backend.add_vrf(ACTOR, {'rt': f'{64512 + self.number}:{self.cycles}', 'name': name})
        length = {'default_type': 'assignment', 'ipv4_default_prefix_length': 28}
        pool = self.backend.add_pool(ACTOR, {'name': name, 'description': name, **length})
        place = {'vrf_id': vrf['id'], 'pool_id': pool['id']}
        member = {'prefix': '10.0.0.0/16', 'type': 'reservation', 'description': name, **place}
        self.backend.add_prefix(ACTOR, member)
        for _ in range(3):
            self.backend.add_prefix(ACTOR, {'description': name}, {'from-pool': {'id': pool['id']}, 'family': 4})
        self.backend.remove_pool(ACTOR, {'id': pool['id']})
        self.backend.remove_vrf(ACTOR, {'id': vrf['id']})
        return ()


def serve(pipe: Connection, dsn: str, number: int, kept: int) -> None:
    """Run a client in this process: run the received number of cycles, until that number is 0."""
    client = Client(dsn, number, kept)
    client.fill()
    pipe.send(Times())
    while cycles := pipe.recv():
        pipe.send(client.run(cycles))
    client.backend.db.close()


@contextlib.contextmanager
def clients(dsn: str, count: int, kept: int) -> Iterator[Callable[[int], Times]]:
    """Start client processes. Yield a function that runs a number of cycles in all of them together."""
    pipes: list[Connection] = []
    processes = []
    for number in range(count):
        ours, theirs = CONTEXT.Pipe()
        processes.append(CONTEXT.Process(target=serve, args=(theirs, dsn, number, kept), daemon=True))
        processes[-1].start()
        theirs.close()
        pipes.append(ours)

    def run(cycles: int) -> Times:
        for pipe in pipes:
            pipe.send(max(1, cycles // count))
        return answers()

    def answers() -> Times:
        times = Times()
        for pipe in pipes:
            times.add(pipe.recv())
        return times

    answers()
    yield run
    for pipe, process in zip(pipes, processes, strict=True):
        pipe.send(0)
        process.join()


# ------------------------------------------------------------------------------------------------ figures


@dataclass(frozen=True)
class Slice:
    """A tenth of the run: percentiles of an allocation, medians of removal and floor, and sizes at its end.

    `floors`: the median of an allocation, divided by the median of a query that reads no table. `quickest`: the ratio
    of the 10th percentiles. These ratios depend less on the load of the machine than times do. A dearer allocation
    raises `quickest` too.
    """

    seconds: float
    allocate_ms: float
    allocate_p99_ms: float
    remove_ms: float
    floor_ms: float
    floors: float
    quickest: float
    sizes: dict[str, int]

    def cells(self, number: int) -> tuple[str, ...]:
        total = sum(size for name, size in self.sizes.items() if not name.startswith(GROWS_BY_DESIGN))
        figures = (self.allocate_ms, self.allocate_p99_ms, self.remove_ms, self.floor_ms, self.floors, self.quickest)
        return str(number), f'{self.seconds:.0f}', *(f'{ms:.2f}' for ms in figures), f'{total / 1e6:.1f}'


def measured(times: Times, seconds: float, sizes: dict[str, int]) -> Slice:
    medians = [percentile(some, 50) for some in (times.allocate, times.remove, times.floor)]
    floors, quickest = (percentile(times.allocate, percent) / percentile(times.floor, percent) for percent in (50, 10))
    p99 = percentile(times.allocate, 99)
    return Slice(seconds, medians[0], p99, medians[1], medians[2], floors, quickest, sizes)


def percentile(some: Sequence[float], percent: int) -> float:
    """Return a percentile, or 1 for an empty sequence: so short a run means nothing."""
    return sorted(some)[len(some) * percent // 100] if some else 1.0


@dataclass(frozen=True)
class Verdict:
    """One figure of the last slice beside the figure of the second."""

    name: str
    before: float
    after: float
    most: float
    allowance: float = 0

    @property
    def ok(self) -> bool:
        return self.after <= self.before * self.most + self.allowance

    def cells(self) -> tuple[str, ...]:
        ratio = f'{self.after / self.before:.2f}' if self.before else ''
        return self.name, f'{self.before:,.2f}', f'{self.after:,.2f}', ratio, 'yes' if self.ok else 'no'


def verdicts(slices: Sequence[Slice]) -> list[Verdict]:
    """Compare the last slice with the second.

    Sizes come and go, so the largest of the last three slices is compared with the largest of the second to fourth.
    """
    before, last = slices[BEFORE], slices[-1]
    found = [
        Verdict('median of an allocation, in floors', before.floors, last.floors, MOST_SLOWER),
        Verdict('quickest allocations, in floors', before.quickest, last.quickest, MOST_SLOWER),
    ]
    for name in slices[-1].sizes:
        if not name.startswith(GROWS_BY_DESIGN):
            first, then = (
                max(one.sizes.get(name, 0) for one in some) / 1e6 for some in (slices[BEFORE : BEFORE + 3], slices[-3:])
            )
            found.append(Verdict(f'{name}, MB', first, then, MOST_BIGGER, ALLOWANCE / 1e6))
    return found


class Health:
    """One run."""

    def __init__(self, options: argparse.Namespace, server: EmbeddedPostgres) -> None:
        self.options = options
        self.dsn = server.dsn()
        self.watcher = psycopg2.connect(self.dsn)
        self.watcher.autocommit = True
        self.slices: list[Slice] = []
        self.snapshot: list[tuple[str, ...]] = []
        self.before: dict[str, tuple[Any, ...]] = {}
        self.problems: list[str] = []

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        with self.watcher.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall()

    def turnover(self) -> dict[str, tuple[Any, ...]]:
        return {row[0]: row[1:] for row in self.ask(TURNOVER)}

    def load(self) -> None:
        """Load the first real prefixes, and the blocks."""
        db = Database(self.dsn)
        backend = Backend(db)
        backend.add_pool(
            ACTOR,
            {
                'name': 'churn',
                'description': 'comes and goes',
                'default_type': 'assignment',
                'ipv4_default_prefix_length': 28,
                'ipv6_default_prefix_length': 64,
            },
        )
        for network in (V4_POOL, V6_POOL):
            member = {'prefix': network, 'type': 'reservation', 'description': 'member', 'pool_name': 'churn'}
            backend.add_prefix(ACTOR, member)
        for network in (V4_BLOCK, V6_BLOCK):
            backend.add_prefix(ACTOR, {'prefix': network, 'type': 'reservation', 'description': 'block'})
        rows = [dict(zip(dataset.COLUMNS, row, strict=True)) for row in dataset.real(self.options.rows)]
        for first in range(0, len(rows), 1000):
            backend.add_prefixes(ACTOR, [{k: v for k, v in row.items() if v} for row in rows[first : first + 1000]])
        db.close()

    def run(self) -> None:
        """Measure everything."""
        self.load()
        with clients(self.dsn, self.options.clients, self.options.kept) as run:
            self.before = self.turnover()
            for number in range(SLICES):
                start = time.monotonic()
                times = run(self.options.cycles // SLICES)
                sizes = dict(self.ask(SIZES))
                self.slices.append(measured(times, time.monotonic() - start, sizes))
                say(' | '.join(self.slices[-1].cells(number + 1)))
        if self.options.snapshot:
            self.beside_snapshot(self.options.snapshot)
        db = Database(self.dsn)
        self.problems = check.problems(db)
        db.close()

    def beside_snapshot(self, cycles: int) -> None:
        """Measure one client before, beside and after a transaction that holds an old snapshot of the database."""
        with clients(self.dsn, 1, self.options.kept) as run:
            self.note('before', run, cycles // SNAPSHOT_SLICES)
            holder = psycopg2.connect(self.dsn)
            with holder.cursor() as cursor:
                cursor.execute('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM vrf')
            for number in range(SNAPSHOT_SLICES):
                self.note(f'beside it, {number + 1}', run, cycles // SNAPSHOT_SLICES)
            holder.close()
            for number in range(2):
                self.note(f'after it, {number + 1}', run, cycles // SNAPSHOT_SLICES)

    def note(self, name: str, run: Callable[[int], Times], cycles: int) -> None:
        start = time.monotonic()
        times = run(cycles)
        cells = measured(times, time.monotonic() - start, dict(self.ask(SIZES))).cells(0)
        self.snapshot.append((name, *cells[1:]))
        say(' | '.join(self.snapshot[-1]))

    def text(self) -> str:
        """Return the results in Markdown."""
        heads = (
            'slice',
            'seconds',
            'allocate ms',
            'p99',
            'remove ms',
            'floor ms',
            'in floors',
            'quickest in floors',
            'MB without log',
        )
        sides = '-' + ':' * (len(heads) - 1)
        parts = [table(heads, sides, (one.cells(n) for n, one in enumerate(self.slices, 1)))]
        if self.snapshot:
            parts.append(table(('a snapshot', *heads[1:]), sides, self.snapshot))
        parts.append(table(('table', 'inserts', 'updates', 'HOT', 'deletes', 'dead', 'vacuums'), '-::::::', self.hot()))
        found = verdicts(self.slices)
        parts.append(table(('verdict', 'second', 'last', 'ratio', 'ok'), '-:::-', (one.cells() for one in found)))
        grown = {name: size for name, size in self.slices[-1].sizes.items() if name.startswith(GROWS_BY_DESIGN)}
        log = ', '.join(f'{name}: {size / 1e6:.1f} MB' for name, size in grown.items())
        parts.append(f'Grows by design: {log}. nipap-admin check: {len(self.problems)} problems.')
        return '\n\n'.join(parts) + '\n'

    def hot(self) -> Iterator[tuple[str, ...]]:
        for name, now in self.turnover().items():
            inserts, updates, hot, deletes, *_ = (
                a - b for a, b in zip(now, self.before.get(name, (0,) * 6), strict=True)
            )
            share = f'{hot / updates:.1%}' if updates else ''
            yield name, f'{inserts:,}', f'{updates:,}', share, f'{deletes:,}', f'{now[4]:,}', f'{now[5]:,}'

    @property
    def healthy(self) -> bool:
        return not self.problems and all(one.ok for one in verdicts(self.slices))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Allocate and remove for a long time, and measure the growth of tables and indexes.'
    )
    add = parser.add_argument
    add(
        '--cycles',
        type=int,
        default=200_000,
        metavar='N',
        help='number of allocations and of removals (default %(default)s)',
    )
    add('--clients', type=int, default=2, metavar='N', help='client processes (default %(default)s)')
    add(
        '--rows',
        type=int,
        default=5000,
        metavar='N',
        help='further, real prefixes in the database (default %(default)s)',
    )
    add(
        '--kept',
        type=int,
        default=500,
        metavar='N',
        help='allocations kept by each client in each place (default %(default)s)',
    )
    add(
        '--snapshot',
        type=int,
        default=0,
        metavar='N',
        help='afterwards N more cycles beside an open transaction (default: none)',
    )
    add('--setting', action='append', default=[], metavar='NAME=VALUE', help='setting of PostgreSQL; may be repeated')
    add('--json', type=Path, metavar='FILE', help='write the figures to a file too')
    options = parser.parse_args(argv)
    if options.cycles < 10 * SLICES or options.clients < 1 or options.kept < 2:
        parser.error(f'at least {10 * SLICES} cycles, 1 client and 2 kept allocations are needed')
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run and print the tables. Return the exit code."""
    options = parse(argv)
    # SIGTERM ends the program by an exception, so that processes and directories are cleaned up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with open_directories() as make:
        settings = dict(one.split('=', 1) for one in options.setting)
        server = EmbeddedPostgres(make() / 'postgres', settings=settings).start()
        try:
            schema.install(server.dsn())
            health = Health(options, server)
            health.run()
            print(health.text(), end='')
            if options.json:
                options.json.write_text(json.dumps([asdict(one) for one in health.slices], indent=1) + '\n')
        finally:
            server.stop()
    return 0 if health.healthy else 1


if __name__ == '__main__':
    sys.exit(main())
