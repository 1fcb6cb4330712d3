"""The long run: clients work while processes are killed. In the end nothing may be lost, doubled or wrong, or grow.

Usage: python tests/bench/soak.py [options], see --help and docs/measuring.md.

The daemon has a private PostgreSQL with default settings in a temporary directory. Client processes make all kinds of
calls and keep a book of acknowledged changes, while handlers, sessions, PostgreSQL and the daemon itself are killed.
The last part is quiet: nothing is killed, and memory and descriptors are compared. Then the books are compared with the
database, and `nipap.integrity.check` looks for drift. Exit code 1: something is lost, doubled, wrong or grows, or a
traceback is in the log. Ctrl-C ends the run early, with its report.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / 'tests')]

from bench.report import table  # noqa: E402
from bench.soak_book import Book, Findings, held_twice, overlapping, reconcile  # noqa: E402
from bench.soak_chaos import Chaos, Sample, Site, samples, stored, tracebacks  # noqa: E402
from bench.soak_clients import (  # noqa: E402
    CONTEXT,
    SHARED,
    SHARED_MEMBERS,
    Latencies,
    Tally,
    Task,
    Wire,
    running,
)
from bench.soak_hostile import attacking  # noqa: E402
from support import open_directories  # noqa: E402

from nipap.integrity import check  # noqa: E402
from nipap.postgres.database import Database  # noqa: E402

TICK_S = 0.2
SAMPLE_S = 2.0
TELL_S = 30.0
QUIET = 0.3  # of the whole time
MOST_GROWTH_MB = 25.0
MOST_MORE_DESCRIPTORS = 32
MOST_SHOWN = 30
PERCENTILES = (50, 99)


class Soak:
    """One run."""

    def __init__(self, options: argparse.Namespace, site: Site) -> None:
        self.options, self.site = options, site
        self.chaos = Chaos(site, options.seed)
        self.stop = CONTEXT.Event()
        self.asked = threading.Event()  # a request to end early
        self.answered = CONTEXT.Array('Q', options.clients, lock=False)
        self.last_blow = CONTEXT.Value('d', 0.0, lock=False)
        self.samples: list[Sample] = []
        self.problems: list[str] = []
        self.tally = Tally()
        self.findings = Findings()
        self.drift: list[str] = []
        self.prefixes = 0
        self.seconds = 0.0
        self.begin = self.quiet_since = 0.0
        self.blows: list[tuple[float, str]] = []

    # ------------------------------------------------------------------------------------------ the run

    def run(self) -> None:
        """Run everything: clients, blows, the quiet part, and the comparison of the books with the database."""
        ours = self.share()
        hostile = attacking(self.site.url, self.stop, self.options.seed, self.options.hostile)
        with hostile, running([self.task(number) for number in range(self.options.clients)]) as books:
            self.begin = begin = time.monotonic()
            self.watch(begin)
            self.stop.set()
            self.seconds = time.monotonic() - begin
            ended = [one for one in books() if one]
        if len(ended) < self.options.clients:
            self.problems.append('a client died: its book is missing, so its objects are reported as strange')
        for _, tally in ended:
            self.tally.merge(tally)
        self.compare([ours, *(book for book, _ in ended)])

    def share(self) -> Book:
        """Make the shared pool and return the book of it."""
        book, wire = Book(), Wire(self.site.url)
        lengths = {'ipv4_default_prefix_length': 30, 'ipv6_default_prefix_length': 64}
        attr = {'name': SHARED, 'description': 'of all', 'default_type': 'assignment', **lengths}
        book.add('pool', wire.call('add_pool', {'attr': attr}))
        for network in SHARED_MEMBERS:
            attr = {'prefix': network, 'type': 'reservation', 'description': f'member {network}', 'pool_name': SHARED}
            book.add('prefix', wire.call('add_prefix', {'attr': attr}))
        wire.close()
        return book

    def task(self, number: int) -> Task:
        options = self.options
        keyed = number < options.clients - options.without_key
        shared = {'stop': self.stop, 'answered': self.answered, 'last_blow': self.last_blow}
        return Task(self.site.url, number, options.seed, keyed, options.kept, options.think_ms / 1000, **shared)

    def watch(self, begin: float) -> None:
        """Strike, sample and report until the time is over."""
        options = self.options
        end = begin + options.minutes * 60
        self.quiet_since = begin + options.minutes * 60 * (1 - options.quiet)
        next_blow, next_sample, next_tell = begin + options.pause, begin, begin + TELL_S
        while (now := time.monotonic()) < end and not self.asked.wait(TICK_S):
            if self.chaos.wake(everybody=now >= self.quiet_since):
                self.last_blow.value = now
            if self.site.daemon.returncode is not None:
                self.problems.append(f'the daemon ended unexpectedly with {self.site.daemon.returncode}')
                self.site.start_again()
            if next_blow <= now < self.quiet_since:
                next_blow = now + self.strike()
            if now >= next_sample:
                self.samples += samples(self.site, sum(self.answered))
                next_sample = now + SAMPLE_S
            if now >= next_tell:
                self.tell(now - begin)
                next_tell += TELL_S
        self.chaos.wake(everybody=True)

    def strike(self) -> float:
        """Deal a blow and return the seconds until the next."""
        self.last_blow.value = at = time.monotonic()
        dealt = self.chaos.strike()
        self.last_blow.value = time.monotonic()
        if dealt:
            self.blows.append((round(at - self.begin, 2), dealt))
        return self.chaos.random.uniform(0.5, 1.5) * self.options.pause if dealt else TICK_S

    def tell(self, seconds: float) -> None:
        handlers = [one for one in self.samples[-2 * len(self.site.handlers()) - 2 :] if one.role == 'handler']
        most = max((one.resident_mb for one in handlers), default=0)
        quiet = ', quiet' if time.monotonic() >= self.quiet_since else ''
        dealt, calls = self.chaos.dealt.total(), sum(self.answered)
        say(f'{seconds:5.0f} s: {calls} calls, {dealt} blows, handlers up to {most:.0f} MB{quiet}')

    def compare(self, books: list[Book]) -> None:
        """Compare the books with the database, after the last call."""
        rows = stored(self.site.dsn())
        self.prefixes = sum(1 for kind, _ in rows if kind == 'prefix')
        self.findings = reconcile(books, rows)
        allocated = [facts['prefix'] for (kind, _), facts in rows.items() if kind == 'prefix' and facts['vrf_id'] == 0]
        overlaps = overlapping(set(allocated) - set(SHARED_MEMBERS))
        self.findings.overlaps = overlaps + held_twice(lease for book in books for lease in book.leases)
        database = Database(self.site.dsn())
        self.drift = [str(problem) for problem in check.problems(database)]
        database.close()

    # ------------------------------------------------------------------------------------------ figures

    def growth(self) -> list[dict[str, Any]]:
        """Compare the first and the last third of the quiet part, for each process that lived through it.

        The first fifth of the quiet part is left out.
        """
        since = self.quiet_since + (time_of(self.samples) - self.quiet_since) * 0.2
        quiet = [one for one in self.samples if one.at >= since]
        found = []
        for pid in sorted({one.pid for one in quiet}):
            some = [one for one in quiet if one.pid == pid]
            third = len(some) // 3
            if third and some[-1].at - some[0].at > 0.9 * (quiet[-1].at - quiet[0].at):
                found.append(grown(some, third, max(1, len(self.site.handlers()))))
        return found

    def failures(self) -> list[str]:
        """Return everything for which the exit code is 1."""
        found = [*self.findings.lines(), *(f'drift: {one}' for one in self.drift), *self.tally.wrong, *self.problems]
        for one in self.growth():
            if one['grown_mb'] > MOST_GROWTH_MB:
                found.append(f'the {one["role"]} {one["pid"]} has grown by {one["grown_mb"]:.1f} MB')
            if one['more_descriptors'] > MOST_MORE_DESCRIPTORS:
                found.append(f'the {one["role"]} {one["pid"]} has opened {one["more_descriptors"]} more descriptors')
        return found

    def figures(self) -> dict[str, Any]:
        """Return the whole report for programs."""
        tally = self.tally
        return {
            'seed': self.options.seed,
            'seconds': round(self.seconds, 1),
            'calls': dict(tally.calls),
            'faults': {str(code): count for code, count in tally.faults.items()},
            'connection_errors': dict(tally.errors),
            'cut_by_clients': dict(tally.cuts),
            'retries': tally.retries,
            'unknown_without_key': tally.unknown,
            'blows': dict(self.chaos.dealt),
            'prefixes': self.prefixes,
            **{name: len(some) for name, some in vars(self.findings).items()},
            'drift': len(self.drift),
            'tracebacks': len(tracebacks(self.site.log())),
            'latency_ms': {
                kind: {name: spread(latencies) for name, latencies in self.sides(kind)} for kind in sorted(tally.calls)
            },
            'slow_calls': sorted((round(at - self.begin, 2), round(ms), kind) for at, ms, kind in tally.slow),
            'blows_in_order': self.blows,
            'growth': self.growth(),
            'failures': self.failures(),
        }

    def sides(self, kind: str) -> list[tuple[str, Latencies]]:
        found = [(name, self.tally.latencies.get((kind, near))) for name, near in (('calm', False), ('near', True))]
        return [(name, latencies) for name, latencies in found if latencies]


def time_of(some: Sequence[Sample]) -> float:
    return some[-1].at if some else 0.0


def grown(some: Sequence[Sample], third: int, handlers: int) -> dict[str, Any]:
    """Return the medians of the first and the last samples of one process, and their growth."""
    first, last = some[:third], some[-third:]
    before, after = (statistics.median(one.resident_mb for one in part) for part in (first, last))
    files = [statistics.median(one.descriptors for one in part) for part in (first, last)]
    calls = (last[len(last) // 2].answered - first[len(first) // 2].answered) / handlers
    return {
        'role': some[0].role,
        'pid': some[0].pid,
        'first_mb': round(before, 1),
        'last_mb': round(after, 1),
        'grown_mb': round(after - before, 2),
        'mb_per_10000_calls': round((after - before) / calls * 10_000, 2) if calls else None,
        'descriptors': int(files[-1]),
        'more_descriptors': int(files[-1] - files[0]),
    }


def spread(latencies: Latencies) -> dict[str, float]:
    figures = {f'p{percent}': round(latencies.percentile(percent), 2) for percent in PERCENTILES}
    return {'calls': latencies.buckets.total(), **figures, 'max': round(latencies.most_ms, 2)}


def text(figures: dict[str, Any]) -> str:
    """Return the report in Markdown."""
    heads = ('calls', 'calm', 'p50 ms', 'p99', 'max', 'beside a blow', 'p50 ms', 'p99', 'max')
    lines = [
        (kind, *(cell for name in ('calm', 'near') for cell in cells(sides.get(name))))
        for kind, sides in figures['latency_ms'].items()
    ]
    parts = [table(heads, '-::::::::', lines)]
    memory = ('role', 'pid', 'first_mb', 'last_mb', 'grown_mb', 'mb_per_10000_calls', 'descriptors', 'more_descriptors')
    growth = [tuple(str(one[name]) for name in memory) for one in figures['growth']]
    parts.append(table(tuple(name.replace('_', ' ') for name in memory), '-:::::::', growth))
    for name in ('blows', 'faults', 'connection_errors', 'cut_by_clients'):
        told = ', '.join(f'{key}: {count}' for key, count in sorted(figures[name].items())) or 'none'
        parts.append(f'{name.replace("_", " ").capitalize()}: {told}.')
    calls, seconds = sum(figures['calls'].values()), figures['seconds']
    parts.append(
        f'{calls:,} calls in {seconds:.0f} s, {figures["retries"]} attempts again; without a key the outcome of'
        f' {figures["unknown_without_key"]} is unknown; {figures["prefixes"]} prefixes in the end;'
        f' {figures["tracebacks"]} tracebacks in the log; seed {figures["seed"]}.'
    )
    names = ('lost', 'doubled', 'back', 'strange', 'wrong', 'overlaps', 'drift')
    parts.append(', '.join(f'{name}: {figures[name]}' for name in names) + '.')
    failures = figures['failures']
    parts += [f'FAILED {line}' for line in failures[:MOST_SHOWN]]
    parts.append(f'{len(failures)} failures.' if failures else 'All is well.')
    return '\n\n'.join(parts) + '\n'


def cells(side: dict[str, float] | None) -> tuple[str, ...]:
    if side is None:
        return ('',) * 4
    return f'{side["calls"]:,}', *(f'{side[name]:.1f}' for name in ('p50', 'p99', 'max'))


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Run clients while processes are killed, and compare their books with the database.'
    )
    add = parser.add_argument
    add('--minutes', type=float, default=10, metavar='M', help='minutes that clients work (default %(default)s)')
    add(
        '--quiet',
        type=float,
        default=QUIET,
        metavar='PART',
        help='last part of that time, without blows (default %(default)s)',
    )
    add('--pause', type=float, default=6, metavar='S', help='average seconds between two blows (default %(default)s)')
    add('--clients', type=int, default=8, metavar='N', help='client processes (default %(default)s)')
    add(
        '--without-key', type=int, default=2, metavar='N', help='clients without idempotency keys (default %(default)s)'
    )
    add('--hostile', type=int, default=2, metavar='N', help='hostile clients without credentials (default %(default)s)')
    add('--forks', type=int, default=2, metavar='N', help='handlers of the daemon (default %(default)s)')
    add('--kept', type=int, default=400, metavar='N', help='allocations kept by each client (default %(default)s)')
    add('--think-ms', type=float, default=15, metavar='MS', help='average time between calls (default %(default)s)')
    add('--seed', type=int, default=None, metavar='N', help='seed of the random choices (default: random)')
    add('--json', type=Path, metavar='FILE', help='write the report to a file too')
    add('--log', type=Path, metavar='FILE', help='write the logs of the daemons and PostgreSQL to a file')
    options = parser.parse_args(argv)
    if options.minutes <= 0 or options.clients < 1 or not 0 <= options.without_key <= options.clients:
        parser.error('--minutes must be above 0, --clients at least 1, --without-key 0 to the number of clients')
    if not 0 <= options.quiet <= 1 or options.kept < 2 or options.pause < 0 or options.forks < 1:
        parser.error('--quiet must be 0 to 1, --kept at least 2, --pause at least 0, --forks at least 1')
    if options.seed is None:
        options.seed = int.from_bytes(os.urandom(3))
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run and print the report. Return the exit code."""
    options = parse(argv)
    with open_directories() as make:
        site = Site(make() / 'data', options.forks)
        try:
            soak = Soak(options, site)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: soak.asked.set())
            say(f'{site.url.rpartition("@")[2]}, seed {options.seed}')
            soak.run()
            figures = soak.figures()
        finally:
            if options.log:
                options.log.write_text(site.log())
            site.close()
            for line in site.problems:
                say(line)
        figures['failures'] += site.problems
    print(text(figures), end='')
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + '\n')
    return 1 if figures['failures'] else 0


if __name__ == '__main__':
    sys.exit(main())
