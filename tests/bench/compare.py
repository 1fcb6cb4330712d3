"""Compare two revisions side by side: time every row of the benchmark with BASE and with the working tree.

Usage: python tests/bench/compare.py BASE [options], see --help and docs/measuring.md.

Each revision is installed into a directory of its own and serves the same data from a PostgreSQL of its own. The
revisions take turns call by call, so that other load on the machine disturbs both alike. Exit code 1: a row is slower,
a call was refused, or the two databases differ at the end. 2: a revision cannot be installed or does not run.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import signal
import sys
import time
import xmlrpc.client
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psycopg2

REPOSITORY = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / 'tests')]

from bench import dataset, revisions  # noqa: E402
from bench.compare_rows import ROWS, Row, Timer  # noqa: E402
from bench.pairs import LIMIT, Interval, Pairs, widths  # noqa: E402
from bench.report import table  # noqa: E402
from bench.revisions import Program, RevisionError  # noqa: E402
from bench.sides import Refused, Side, running, used_s  # noqa: E402
from bench.sites import Failed  # noqa: E402
from daemon_process import DaemonError  # noqa: E402
from support import open_directories  # noqa: E402

REAL_ROWS, SIBLINGS = 20_000, 2000
# Pairs, and the most of a row's time, for warming up: PostgreSQL plans a statement five times.
WARM_UP, WARM_UP_SHARE = 10, 0.1
AGAIN = 2  # repetitions of a row that seems slower
TRIES = 2  # attempts at a call that a side may not know, since a machine that is too busy refuses once
JUDGED_FROM = 8  # pairs; the interval of fewer pairs means nothing
LOOK_EVERY = 10  # pairs between two looks at the processes, since sessions of PostgreSQL come and go
TAIL_S = 0.0003  # time for the work that a daemon still does after an answer
BIG_ANSWER = 10_000
REFUSALS = (Refused, Failed, RevisionError, xmlrpc.client.Fault, psycopg2.Error, OSError)


@dataclass
class Result:
    """The pairs of one row.

    `only`: the one side that knows the row. `problem`: the reason why there are no pairs. `refusals`: the errors that
    ended a round early. A machine that is too busy causes one refusal, not one in each round.
    """

    row: Row
    times: Pairs = field(default_factory=Pairs)
    processor: Pairs = field(default_factory=Pairs)
    only: str = ''
    problem: str = ''
    refusals: list[str] = field(default_factory=list)
    timed: int = 1

    @property
    def slower(self) -> bool:
        return any(one.slower for one in self.judged)

    @property
    def judged(self) -> list[Interval]:
        """Return the intervals of times and processor times with at least JUDGED_FROM pairs."""
        return [pairs.interval for pairs in (self.times, self.processor) if len(pairs) >= JUDGED_FROM]

    @property
    def failed(self) -> bool:
        return bool(self.problem or not len(self.times)) and not self.only

    @property
    def verdict(self) -> str:
        """Return the verdict on the row in words."""
        if self.problem:
            return f'only {self.only}: {self.problem}' if self.only else self.problem
        word = 'slower' if self.slower else 'quicker' if any(one.quicker for one in self.judged) else ''
        again = f'(timed {self.timed} times)' if self.timed > 1 else ''
        refused = f'(refused {len(self.refusals)} times: {self.refusals[0]})' if self.refusals else ''
        return ' '.join(filter(None, (word, again, refused)))

    def cells(self) -> list[str]:
        """Return the cells of the row in the report."""
        if not len(self.times):
            return [self.row.name, '', '', '', '', '', self.verdict]
        base, ours = (f'{seconds * 1e3:.3f}' for seconds in self.times.medians)
        both = [str(pairs.interval) if len(pairs) else '' for pairs in (self.times, self.processor)]
        return [self.row.name, base, ours, *both, str(len(self.times)), self.verdict]

    def figures(self) -> dict[str, object]:
        """Return the figures for programs."""
        both = {'time': self.times, 'processor': self.processor}
        shown = {
            name: {'base_s': pairs.medians[0], 'ours_s': pairs.medians[1], **vars(pairs.interval)}
            for name, pairs in both.items()
            if len(pairs)
        }
        return {'name': self.row.name, 'pairs': len(self.times), 'verdict': self.verdict, **shown}


# ------------------------------------------------------------------------------------------------ one row


class Turns:
    """The runs of one row on both sides, in turns."""

    def __init__(self, base: Timer, ours: Timer, result: Result) -> None:
        self._both = (base, ours)
        self._result = result

    def take(self, first: int, pairs: int, seconds: float) -> None:
        """Warm up, then add pairs until there are enough or the time is over.

        At least one pair of each order is added. `first` is the number of the first run; it decides which object the
        call is about.
        """
        for timer in self._both:
            timer.find_processes()
        start = time.monotonic()
        for done in range(WARM_UP if self._both[0].warms_up else 0):
            self._pair(first + done, kept=False)
            if time.monotonic() > start + seconds * WARM_UP_SHARE:
                break
        start, number = time.monotonic(), first + WARM_UP
        for done in range(0, max(pairs, 2), 2):
            if done and time.monotonic() > start + seconds:
                break
            self._pair(number + done, kept=True)
            self._pair(number + done + 1, kept=True)

    def _pair(self, number: int, kept: bool) -> None:
        """Run both sides once. An even number runs BASE first, an odd number runs ours first."""
        order = self._both if number % 2 == 0 else self._both[::-1]
        for timer in order:
            timer.prepare(number)
            if number % LOOK_EVERY == 0:
                timer.find_processes()
        took: dict[Timer, tuple[float, dict[int, int]]] = {}
        for timer in order:
            before = timer.processor_ns()
            took[timer] = timer.run(), before
        time.sleep(TAIL_S)
        used = {timer: used_s(took[timer][1], timer.processor_ns()) / timer.calls for timer in order}
        # The stack undoes the run of the second side although undoing the first was refused.
        with contextlib.ExitStack() as stack:
            for timer in order[::-1]:
                stack.callback(timer.finish, number)
        if kept:
            base, ours = self._both
            self._result.times.add(took[base][0], took[ours][0], base_first=order[0] is base)
            if used[base] > 0 and used[ours] > 0:
                self._result.processor.add(used[base], used[ours], base_first=order[0] is base)


def refusal(row: Row, side: Side) -> str:
    """Return the reason why a side cannot run a row, or an empty text if it can.

    Errors of the calls are returned, not raised.
    """
    if row.method and row.method not in side.methods:
        return f'there is no method {row.method}'
    said = ''
    for _ in range(TRIES):
        try:
            with contextlib.closing(row.timer(side)) as timer:
                timer.prepare(0)
                timer.run()
                timer.finish(0)
        except REFUSALS as error:
            said = explained(error)
            side.site.close()
        else:
            return ''
    return said


def explained(error: Exception) -> str:
    """Return the text of an error in one line of at most 300 characters."""
    return ' '.join(str(error).split())[:300] or repr(error)


# ------------------------------------------------------------------------------------------------ all rows


class Comparison:
    """One run of the comparison: the two sides, the rows and their results."""

    def __init__(self, options: argparse.Namespace, base: Side, ours: Side) -> None:
        self.options, self.base, self.ours = options, base, ours
        self.sides = (base, ours)
        self.results: dict[str, Result] = {}
        self.differences: list[str] = []
        self.notes: list[str] = []

    def run(self) -> None:
        """Fill both sides, time all rows, and time rows again that seem slower.

        Both sides must be running.
        """
        self._fill()
        stored = self.base.counts()
        self._find_unknown([row for row in ROWS if self._wanted(row)])
        self._time([result.row for result in self.results.values() if not result.problem], restart=False)
        for again in range(AGAIN):
            rows = [result.row for result in self.results.values() if not result.problem and result.slower]
            for row in rows:
                say(f'possibly slower, timing again: {" | ".join(self.results[row.name].cells())}')
                self.results[row.name] = Result(row, timed=again + 2)
            self._time(rows, restart=True)
        self._judge_data(stored)

    def _wanted(self, row: Row) -> bool:
        words = self.options.only
        named = not words or any(word in row.name.lower() for word in words)
        return named and (self.options.shapes or not row.shapes)

    def _fill(self) -> None:
        file = self.base.home / 'prefixes.csv'
        with open(file, 'w', encoding='utf-8', newline='') as out:
            count = dataset.write(out, self.options.rows, self.options.siblings, self.options.shapes)
        for side in self.sides:
            side.fill(file)
            say(f'{side.name}: {count:,} prefixes in {side.import_s:.1f} s')
        self.notes.append(f'{count:,} prefixes, imported in {self.base.import_s:.1f} and {self.ours.import_s:.1f} s')

    def _find_unknown(self, rows: Sequence[Row]) -> None:
        """Try each row on each side, and note the rows that a side cannot run."""
        for row in rows:
            base, ours = (refusal(row, side) for side in self.sides)
            unknown = row.method and row.method not in self.ours.methods
            result = self.results[row.name] = Result(row)
            if base and not ours:
                result.only, result.problem = 'ours', base
            elif ours and not base:
                # If BASE answers a call and ours refuses it, ours is at fault, unless the method is gone.
                result.only, result.problem = 'BASE' if unknown else '', ours
            elif base and ours:
                result.problem = ours
            if result.problem:
                say(f'{row.name}: {result.verdict}')

    def _time(self, rows: Sequence[Row], restart: bool) -> None:
        """Time rows, a part of the pairs in each round, and restart both daemons between rounds.

        Two processes of the same program differ by a per cent or two for as long as they live.
        """
        rounds = self.options.rounds
        for number in range(rounds if rows else 0):
            for side in self.sides if restart or number else ():
                side.stop()
                side.start()
            for row in rows:
                pairs = min(self.options.pairs, row.pairs or self.options.pairs)
                self._time_row(row, number, round(pairs / rounds), self.options.seconds / rounds)

    def _time_row(self, row: Row, number: int, pairs: int, seconds: float) -> None:
        result = self.results[row.name]
        try:
            with contextlib.ExitStack() as stack:
                for side in self.sides if row.beside else ():
                    stack.enter_context(row.beside(side.site))
                base, ours = (stack.enter_context(contextlib.closing(row.timer(side))) for side in self.sides)
                Turns(base, ours, result).take(number * (pairs + WARM_UP + 2), pairs, seconds)
        except REFUSALS as error:
            result.refusals.append(explained(error))
            for side in self.sides:
                side.site.close()
        say(f'{number + 1}/{self.options.rounds} {row.name}: {len(result.times)} pairs {"".join(result.refusals)}')

    def _judge_data(self, stored: tuple[str, str]) -> None:
        """Note a database whose counts of prefixes have changed or whose check fails."""
        for side in self.sides:
            if side.counts() != stored:
                self.differences.append(
                    f'{side.name}: {side.counts()} prefixes are stored, {stored} were stored before'
                )
            try:
                side.maintain('check')
            except RevisionError as error:
                self.differences.append(f'{side.name}: {error}')
            query = {'operator': 'contained_within_equals', 'val1': 'prefix', 'val2': '0.0.0.0/0'}
            side.site.ask('search_prefix', {'query': query, 'search_options': {'max_result': BIG_ANSWER}})
        base, ours = (side.handler_mb() for side in self.sides)
        self.notes.append(
            f'a handler that has answered with {BIG_ANSWER:,} prefixes holds {base:.0f} and {ours:.0f} MB'
        )

    # -------------------------------------------------------------------------------------------- the report

    def report(self) -> str:
        """Return the table of all rows and a summary, in Markdown."""
        heads = ('row', 'BASE ms', 'ours ms', 'time, ours : BASE', 'processor time, ours : BASE', 'pairs', '')
        rows = table(heads, '-:::::-', (result.cells() for result in self.results.values()))
        return '\n\n'.join(['; '.join(self._about()) + '.', rows, *self._summary()]) + '\n'

    def _about(self) -> Iterator[str]:
        load = '/'.join(f'{one:.1f}' for one in os.getloadavg())
        yield f'{datetime.date.today()}, {len(os.sched_getaffinity(0))} cores, load {load}'
        yield f'Python {platform.python_version()}'
        yield ' : '.join(f'{name} is {side.program.name}' for name, side in (('BASE', self.base), ('ours', self.ours)))
        yield from self.notes

    def _summary(self) -> Iterator[str]:
        results = self.results.values()
        for name, of in (('time', 'times'), ('processor time', 'processor')):
            intervals = [getattr(result, of).interval for result in results if len(getattr(result, of)) >= JUDGED_FROM]
            if intervals:
                half, most = widths(intervals)
                without = sum(not one.holds_one for one in intervals)
                yield (
                    f'{name}: half of the intervals are ±{half:.1%} or narrower, nine tenths ±{most:.1%}; '
                    f'{without} of {len(intervals)} leave out 1'
                )
        yield from (f'the databases differ: {text}' for text in self.differences)

    @property
    def failures(self) -> list[str]:
        """Return the names of failed and slower rows, and the differences of the databases."""
        rows = [result.row.name for result in self.results.values() if result.failed or result.slower]
        return [*rows, *self.differences]


# ------------------------------------------------------------------------------------------------ the program


def install(options: argparse.Namespace) -> tuple[Program, Program]:
    """Install both revisions, and report libraries that differ."""
    trees = (
        revisions.tree_of(options.base),
        revisions.tree_of(options.ours) if options.ours else revisions.working_tree(),
    )
    names = options.base, options.ours or 'the working tree'
    base, ours = (
        revisions.install(f'{name} (tree {tree[:10]})', tree) for name, tree in zip(names, trees, strict=True)
    )
    others, versions = base.versions(), ours.versions()
    for name in sorted(others.keys() & versions.keys()):
        if others[name] != versions[name]:
            say(f'{name} has version {others[name]} in BASE and {versions[name]} in ours')
    return base, ours


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Compare the times of two revisions, row by row of the benchmark.')
    add = parser.add_argument
    add('base', metavar='BASE', help='a revision of this repository')
    add('--ours', metavar='REV', help='the other revision (default: the working tree)')
    add('--rows', default=str(REAL_ROWS), metavar='N', help='number of real prefixes, or "all" (default %(default)s)')
    help_ = f'prefixes in each generated block (default {SIBLINGS}; {dataset.SIBLINGS} with --rows all)'
    add('--siblings', type=int, metavar='N', help=help_)
    add('--no-shapes', dest='shapes', action='store_false', help='leave out the seven generated blocks and their rows')
    add('--only', default='', metavar='WORDS', help='only rows with one of these words, separated by commas')
    add('--pairs', type=int, default=400, metavar='N', help='calls of each side per row (default %(default)s)')
    add(
        '--seconds',
        type=float,
        default=60,
        metavar='S',
        help='most seconds per row; a slower row gets fewer pairs (default %(default)s)',
    )
    add('--rounds', type=int, default=8, metavar='N', help='starts of both daemons (default %(default)s)')
    add('--json', type=Path, metavar='FILE', help='write the figures to a file too')
    options = parser.parse_args(argv)
    everything = options.rows == 'all'
    options.rows = None if everything else int(options.rows)
    if options.siblings is None:
        options.siblings = dataset.SIBLINGS if everything else SIBLINGS
    options.only = [word for word in options.only.lower().split(',') if word]
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Compare and print the report. Return the exit code."""
    options = parse(argv)
    # SIGTERM ends the program by an exception, so that processes and directories are cleaned up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        programs = install(options)
    except RevisionError as error:
        say(str(error))
        return 2
    with open_directories() as make:
        base, ours = (Side(program, make(), options.siblings) for program in programs)
        comparison = Comparison(options, base, ours)
        try:
            with running((base, ours)):
                comparison.run()
        except (Failed, DaemonError) as error:
            say(str(error))
            return 2
    print(comparison.report(), end='')
    if options.json:
        options.json.write_text(json.dumps([one.figures() for one in comparison.results.values()], indent=1) + '\n')
    for name in comparison.failures:
        say(f'slower by {LIMIT - 1:.0%} or refused: {name}')
    return 1 if comparison.failures else 0


if __name__ == '__main__':
    sys.exit(main())
