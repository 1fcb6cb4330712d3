"""The full-size benchmark: the cost of every operation on the big data set, beside its limit and a small data set.

Usage: python tests/bench/full.py [options], see --help and docs/measuring.md.

Two daemons are started, each with a private PostgreSQL in a temporary directory. One holds all of the data, the other
1,000 real prefixes and the same blocks without siblings. Exit code 1: an operation was refused or answered wrongly, the
check found something, or a promise that does not depend on the machine is broken: a call costs more when more is
stored. Other missed limits are only reported, unless `--strict` is given.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import signal
import statistics
import sys
import time
import xmlrpc.client
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2

REPOSITORY = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / 'tests')]

from bench import beside_slow, codec_bench, dataset, report  # noqa: E402
from bench.operations import ADDRESS, ALLOCATE, BY_NAME, EXACT, FLOOR, OPERATIONS, Operation  # noqa: E402
from bench.report import MOST_FLAT, Measure, OperationRow  # noqa: E402
from bench.rpc_bench import Task, compared, load, measure  # noqa: E402
from bench.sites import SHARED_ROWS, Failed, Site  # noqa: E402
from bench.upkeep import command, settle, time_check, time_events, time_repair  # noqa: E402
from daemon_process import Daemon, descendants_of, free_port  # noqa: E402
from support import open_directories  # noqa: E402

from nipapd.embedded import EmbeddedPostgres  # noqa: E402

DOCUMENT = REPOSITORY / 'docs' / 'performance.md'
CLIENTS = 8
TURNS = 5
# Calls per second of many clients on the small data set: the least share of the rate of `version`.
SHARES = {FLOOR: None, EXACT: 0.60, ADDRESS: 0.45, ALLOCATE: None}
LEAST_ALLOCATIONS_PER_S = 700
LEAST_ROWS_PER_S = 790_509 / 180  # in an import: the real data in three minutes
MOST_RESIDENT_MB = 120
BIG_ANSWER = 10_000
STOP_TIMEOUT_S = 120


@dataclass(frozen=True)
class Home:
    """A daemon of the benchmark and its site."""

    site: Site
    data_dir: Path
    daemon: Daemon


# ------------------------------------------------------------------------------------------------ daemons


@contextlib.contextmanager
def started(name: str, siblings: int) -> Iterator[Home]:
    """Yield a daemon without configuration and data on a free port. Remove everything at the end."""
    with open_directories() as make, contextlib.ExitStack() as stack:
        data_dir = make() / 'data'
        place = ['--config', '/dev/null', '--data-dir', str(data_dir), '--listen', '127.0.0.1']
        daemon = Daemon([*place, '--port', str(free_port())])
        stack.callback(daemon.close)
        daemon.start()
        stack.callback(daemon.stop, STOP_TIMEOUT_S)
        say(f'{name}: {daemon.address}')
        commit = stack.enter_context(commits(data_dir))
        yield Home(Site(daemon.url(*daemon.admin()), siblings, commit), data_dir, daemon)


@contextlib.contextmanager
def commits(data_dir: Path) -> Iterator[Callable[[], object]]:
    """Yield an action that commits one row durably to a table of its own beside the daemon's database."""
    server = EmbeddedPostgres(data_dir).start()  # the same server as the daemon's
    connection = psycopg2.connect(server.dsn('postgres'))
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute('DROP TABLE IF EXISTS bench_commit; CREATE TABLE bench_commit (number integer)')
            yield lambda: cursor.execute('INSERT INTO bench_commit VALUES (1)')
            cursor.execute('DROP TABLE bench_commit')
    finally:
        connection.close()
        server.stop()


def fill(home: Home, rows: int | None, shapes: bool) -> list[Measure]:
    """Import the data, make the pools, and wait until the database is at rest."""
    file = home.data_dir.parent / 'prefixes.csv'
    with open(file, 'w', encoding='utf-8', newline='') as out:
        count = dataset.write(out, rows, home.site.siblings, shapes)
    address = urlsplit(home.site.url)
    login = {'NIPAP_USERNAME': home.site.username, 'NIPAP_PASSWORD': home.site.password}
    place = {'NIPAP_HOST': str(address.hostname), 'NIPAP_PORT': str(address.port), 'HOME': str(file.parent)}
    start = time.monotonic()
    code = command('nipap.cli.main', 'import', str(file), env=login | place)
    seconds = time.monotonic() - start
    if code:
        raise Failed(f'nipap import ended with {code}')
    events = time_events(home.data_dir)
    home.site.make_pools()
    settle(home.data_dir)
    rate = count / seconds
    shown = f'{count:,} rows in {seconds:.1f} s, {rate:,.0f} rows/s'
    return [Measure('nipap import', rate, shown, f'{LEAST_ROWS_PER_S:,.0f} rows/s', rate >= LEAST_ROWS_PER_S), events]


# ------------------------------------------------------------------------------------------------ figures


def time_operation(operation: Operation, big: Site, small: Site | None, runs: int) -> OperationRow:
    """Return the medians of one operation, also on the small data set if the answer is the same there.

    An operation that seems to cost more than on the small data set, or than its limit, is timed again, longer: a busy
    machine disturbs one timing, not all of them.
    """
    for enough in (runs, max(2 * runs, 15), max(4 * runs, 30)):
        row = _timed(operation, big, small, enough)
        if row.is_flat and row.ok is not False:
            break
    return row


def _timed(operation: Operation, big: Site, small: Site | None, runs: int) -> OperationRow:
    tasks: list[Task] = [(operation, big)]
    if small and operation.single:
        tasks.append((operation, small))
    if operation.beside:
        tasks.append((BY_NAME[operation.beside], big))
    ours, *others = measure(tasks, runs)
    ms, floor_ms, commit_ms = ours.medians
    allowed = operation.limit.allowed(floor_ms, commit_ms)
    beside = compared(ours, others.pop(), operation.beside) if operation.beside else None
    smaller = compared(ours, others.pop(), 'small') if others else None
    return OperationRow(operation.name, ms, floor_ms, commit_ms, str(operation.limit), allowed, smaller, beside)


def beside_siblings(rows: Sequence[OperationRow]) -> Iterator[Measure]:
    """Yield cost ratios of operations on the big data set: among siblings to elsewhere, or a late page to the first."""
    for row in rows:
        if one := row.beside:
            yield Measure(f'{row.name} : {one.other}', one.medians, str(one), f'{MOST_FLAT:g}', one.ok, firm=True)


def time_codec(runs: int) -> Measure:
    """Compare our encoder with the standard library's, on a page of 1,000 prefixes."""
    ours, theirs = codec_bench.page_ms(1000, runs)
    least = codec_bench.LEAST_TIMES
    shown = f'{theirs / ours:.1f} times as fast ({ours:.1f} ms : {theirs:.1f} ms)'
    name = 'encoding 1,000 prefixes, beside the standard library'
    return Measure(name, theirs / ours, shown, f'{least:g} times', theirs >= least * ours, firm=True)


def time_clients(site: Site, where: str, names: Sequence[str], seconds: float, judged: bool) -> Iterator[Measure]:
    """Yield the calls per second of many clients: the best of several turns.

    `judged`: compare the rates with their limits, as on the small data set only.
    """
    turns = [{name: load(site, BY_NAME[name], CLIENTS, seconds / TURNS) for name in names} for _ in range(TURNS)]
    for name in names:
        per_s = max(turn[name][0] for turn in turns)
        failed = sum(turn[name][1] for turn in turns)
        share = SHARES[name] if FLOOR in names else None
        shares = [turn[name][0] / turn[FLOOR][0] for turn in turns] if share else [0.0]
        shown = f'{per_s:,.0f}, {failed} failed' + (f', {statistics.median(shares):.0%} of version' if share else '')
        limit, ok = 'no failure', failed == 0
        if judged and share:
            limit, ok = f'{share:.0%} of version, no failure', ok and statistics.median(shares) >= share
        elif judged and name == ALLOCATE:
            limit, ok = f'{LEAST_ALLOCATIONS_PER_S}, no failure', ok and per_s >= LEAST_ALLOCATIONS_PER_S
        yield Measure(f'calls/s of {CLIENTS} clients, {where}: {name}', per_s, shown, limit, ok)


def memory(home: Home) -> Measure:
    """Return the resident memory of the largest handler after an answer with many rows."""
    query = {'operator': 'contained_within_equals', 'val1': 'prefix', 'val2': '0.0.0.0/0'}
    answer = home.site.ask('search_prefix', {'query': query, 'search_options': {'max_result': BIG_ANSWER}})
    found = answer.count(b'<name>display_prefix</name>')
    handlers = [process.pid for process in descendants_of(home.daemon.pid) if process.command != 'postgres']
    most = max(map(resident_mb, handlers))
    limit = f'{MOST_RESIDENT_MB} MB'
    return Measure(
        f'resident memory of a handler after {found:,} rows', most, f'{most:.0f} MB', limit, most <= MOST_RESIDENT_MB
    )


def resident_mb(pid: int) -> float:
    pages = int(Path('/proc', str(pid), 'statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE') / 1e6


# ------------------------------------------------------------------------------------------------ the program


class Bench:
    """One run: the selected figures and the results."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.rows: list[OperationRow] = []
        self.measures: list[Measure] = []

    def wanted(self, name: str) -> bool:
        words = self.options.only
        return not words or any(word in name.lower() for word in words)

    def wanted_operation(self, operation: Operation) -> bool:
        return self.wanted(operation.name) and (self.options.shapes or not operation.shapes)

    def run(self) -> None:
        """Time everything that is selected."""
        options = self.options
        with contextlib.ExitStack() as stack:
            if options.url:
                commit = stack.enter_context(commits(options.data_dir)) if options.data_dir else None
                site = Site(options.url, options.siblings, commit)
                site.make_pools()
                self.time_calls({'big': site}, [options.data_dir] if options.data_dir else [])
                return
            small = stack.enter_context(started('small', 0))
            shared = SHARED_ROWS if options.rows is None else min(SHARED_ROWS, options.rows)
            fill(small, shared, options.shapes)
            big = stack.enter_context(started('big', options.siblings))
            self.add(fill(big, options.rows, options.shapes))
            self.time_calls({'small': small.site, 'big': big.site}, [small.data_dir, big.data_dir])
            self.add([memory(big)])
            for where, home in (('small', small), ('big', big)):
                self.add([time_check(home.data_dir, where)])
                self.add([time_repair(home.data_dir, where)])

    def time_calls(self, sites: Mapping[str, Site], data_dirs: Iterable[Path]) -> None:
        """Time the operations, quick calls beside slow calls, many clients, and the codec."""
        self.time_operations(sites['big'], sites.get('small'))
        # Vacuum first, or autovacuum would clean up after the operations while clients are counted.
        for data_dir in data_dirs:
            settle(data_dir)
        for where, site in sites.items():
            self.time_clients(site, where)
        if self.options.beside_slow:
            self.add(beside_slow.time_quick(sites['big'], self.options.runs))
            self.add(beside_slow.time_attacked(sites['big'], self.options.runs))
        self.add([time_codec(self.options.runs)])

    def time_operations(self, big: Site, small: Site | None) -> None:
        """Time one operation after the other, on both sites if the operation is comparable."""
        for operation in filter(self.wanted_operation, OPERATIONS):
            try:
                row = time_operation(operation, big, small, self.options.runs)
            except (Failed, xmlrpc.client.Fault) as error:
                say(str(error))
                self.add([Measure(operation.name, 0, 'refused', str(operation.limit), False, firm=True)])
            else:
                self.rows.append(row)
                say(' | '.join(row.cells()))
        self.add(beside_siblings(self.rows))

    def time_clients(self, site: Site, where: str) -> None:
        if seconds := self.options.load_seconds:
            names = [name for name in SHARES if self.wanted(name)]
            self.add(time_clients(site, where, names, seconds, judged=where == 'small'))

    def add(self, measures: Iterable[Measure]) -> None:
        for one in measures:
            self.measures.append(one)
            say(' | '.join(one.cells()))

    def about(self) -> str:
        """Describe the place, the data and the references of the measurement."""
        options, commits_ms = self.options, [row.commit_ms for row in self.rows if row.commit_ms is not None]
        real = 'all' if options.rows is None else f'the first {options.rows:,}'
        if options.url:
            real = 'a daemon that ran already with its'
        parts = [
            f'{datetime.date.today()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}',
            f'{real} real prefixes and {9 if options.shapes else 2} times {options.siblings:,} siblings',
            f'medians of {options.runs} runs',
        ]
        if self.rows:
            parts.append(f'`version` takes {statistics.median(row.floor_ms for row in self.rows):.2f} ms')
        if commits_ms:
            parts.append(f'a commit {statistics.median(commits_ms):.2f} ms')
        return '; '.join(parts) + '.'


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Time every operation on the big data set.')
    add = parser.add_argument
    add('--rows', type=int, metavar='N', help='only the first N real prefixes (default: all)')
    add(
        '--siblings',
        type=int,
        default=dataset.SIBLINGS,
        metavar='N',
        help='prefixes in each block (default %(default)s)',
    )
    add(
        '--shapes',
        action=argparse.BooleanOptionalAction,
        default=True,
        help='add blocks with random use, with holes, of mixed lengths and of IPv6 (default: yes)',
    )
    add('--runs', type=int, default=15, metavar='N', help='runs of each operation (default %(default)s)')
    add(
        '--load-seconds',
        type=float,
        default=9,
        metavar='S',
        help='seconds of load by many clients, 0: no load (default %(default)g)',
    )
    add(
        '--beside-slow',
        action=argparse.BooleanOptionalAction,
        default=True,
        help='time quick calls beside slow calls too (default: yes)',
    )
    add('--strict', action='store_true', help='exit with 1 if any limit is missed')
    add(
        '--only',
        default='',
        metavar='WORDS',
        help='only operations with one of these words in their names, separated by commas',
    )
    add('--json', type=Path, metavar='FILE', help='write the figures to a file too')
    add('--url', help='time a running daemon that holds the data: http://USER:PASSWORD@HOST:PORT')
    add(
        '--data-dir',
        type=Path,
        metavar='DIR',
        help='data directory of the daemon at the URL, to time commits of its PostgreSQL',
    )
    add('--update-docs', action='store_true', help=f'put the tables into {DOCUMENT.relative_to(REPOSITORY)}')
    options = parser.parse_args(argv)
    if options.runs < 1 or (options.rows is not None and options.rows < 1) or not 0 <= options.siblings <= 60_000:
        parser.error('--runs and --rows must be at least 1, --siblings at most 60000')
    options.only = [word for word in options.only.lower().split(',') if word]
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its tables. Return the exit code."""
    bench = Bench(parse(argv))
    # SIGTERM ends the program by an exception, so that processes and directories are cleaned up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    bench.run()
    text = report.tables(bench.about(), bench.rows, bench.measures)
    print(text, end='')
    if bench.options.json:
        figures = {'about': bench.about(), 'operations': bench.rows, 'measures': bench.measures}
        bench.options.json.write_text(json.dumps(figures, default=asdict, indent=1) + '\n')
    if bench.options.update_docs:
        report.update(DOCUMENT, text)
    failures = report.failures(bench.rows, bench.measures, bench.options.strict)
    for name in failures:
        say(f'limit missed: {name}')
    return 1 if failures else 0


if __name__ == '__main__':
    sys.exit(main())
