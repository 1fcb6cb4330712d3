"""Draw mutants, find the tests that kill them, and verify later that they still die: `make mutants`."""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import psycopg2  # noqa: E402
from changes import Change, changes_of  # noqa: E402
from measure import measure  # noqa: E402
from places import Mutant, Place, describe, find, load, save  # noqa: E402
from selection import OF_TREE, Covering, Measured, cover, is_in_function  # noqa: E402
from sources import Source, read_all  # noqa: E402

ROOT = HERE.parents[1]
MUTANTS, RECORD, COVERING = HERE / 'mutants.json', HERE / 'record.jsonl', HERE / 'covering.json.xz'
# The outcomes of the last `--verify` of each mutant.
VERIFIED = HERE / 'verified.jsonl'
# The time of unchanged files. It keeps a compiled file of a mutant from being taken for theirs.
OLD = 1_000_000_000
UNSTEADY = ('tests/daemon/', 'tests/concurrency/', 'tests/properties/')
# Mutants of these modules get a PostgreSQL that the tests start themselves.
OWN_CLUSTER = ('embedded', 'schema')
# A test hangs that takes more CPU time than this, and twenty times its duration.
MOST_S, MOST_TIMES, LIMIT_S = 20.0, 20.0, 90.0
# So many killers below this duration run first for later mutants like theirs.
QUICK_S, MOST_LIKELY = 2.0, 15
# Look up functions and tables as the program does: the functions of its version may be in a schema of their own.
FIND_FUNCTIONS = """SELECT set_config('search_path', max(nspname) || ', public', false)
FROM pg_proc f JOIN pg_namespace n ON n.oid = f.pronamespace WHERE proname = %s"""
DEAD = ('killed', 'timeout')


# ---------------------------------------------------------------- workers


class Worker:
    """A copy of a tree, a PostgreSQL and a process that forks to run tests."""

    def __init__(self, root: Path) -> None:
        self._home = Path(tempfile.mkdtemp(prefix='nipap-mutants-'))
        self._home.chmod(0o755)
        self.copy = self._home / 'copy'
        self._copy_tree(root)
        path = f'{self.copy}{os.pathsep}{self.copy}/tests{os.pathsep}{HERE}'
        self._environment = {**os.environ, 'PYTHONPATH': path, 'PYTHONHASHSEED': '0'}
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._tests: set[str] = set()
        self._patch: dict[str, str] = {}
        self.is_sound = False
        self.cluster: dict[str, str] = json.loads(self._answer(self._start('hold_cluster.py', str(self._home))))

    def _start(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a process that answers a line for each line, unless it is already running."""
        key = ' '.join([program, *arguments])
        if key not in self._processes:
            command = [sys.executable, str(HERE / program), *arguments]
            pipe = subprocess.PIPE
            self._processes[key] = subprocess.Popen(
                command, cwd=self.copy, env=self._environment, stdin=pipe, stdout=pipe, text=True
            )
        return self._processes[key]

    def _forks(self, fresh: bool) -> subprocess.Popen[str]:
        process = self._start('fork_tests.py', str(self.copy), 'fresh' if fresh else 'collected')
        if not fresh and not self._tests:
            self._tests = set(json.loads(self._answer(process)))
        return process

    def _answer(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f'{process.args!r} has ended')
        return line

    def _copy_tree(self, root: Path) -> None:
        command = ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard']
        listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
        for name in filter(None, listed.split('\0')):
            if (root / name).is_file():
                target = self.copy / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(root / name, target)
                os.utime(target, (OLD, OLD))
        if not (self.copy / 'nipap/sql').exists():
            (self.copy / 'nipap/sql').symlink_to('../sql')
        subprocess.run(['git', 'init', '-q'], cwd=self.copy, check=True)

    def collect(self) -> set[str]:
        """Return the names of all tests."""
        self._forks(fresh=False)
        return self._tests

    def run(
        self,
        tests: list[str],
        mutant: Mutant | None = None,
        fresh: bool = False,
        failures: int = 3,
        most_s: float = LIMIT_S,
    ) -> dict[str, Any]:
        """Run tests on the tree in its present state.

        `fresh`: with modules that were imported after the change. most_s: the most CPU time of one test.
        """
        job: dict[str, Any] = {'tests': tests, 'most_s': most_s, 'run': uuid.uuid4().hex, 'failures': failures}
        job |= {'results': str(self._home / 'results'), 'log': str(self._home / 'log')}
        if mutant is None or Path(mutant.path).stem not in OWN_CLUSTER:
            job['cluster'] = self.cluster
        if self._patch and not fresh:
            job |= self._patch
        forks = self._forks(fresh)
        assert forks.stdin
        forks.stdin.write(json.dumps(job) + '\n')
        forks.stdin.flush()
        answer: dict[str, Any] = json.loads(self._answer(forks))
        return answer

    def require_sound(self, tests: list[str]) -> None:
        """Run a few tests without a mutant, once. Where they fail, tests would kill every mutant.

        :raises RuntimeError: none of the tests has passed.
        """
        if not self.is_sound:
            lines = self.run(tests, failures=0)['tests']
            failed = {line.get('failed') for line in lines}
            self.is_sound = any('ended' in line and line['ended'] not in failed for line in lines)
            if tests and not self.is_sound:
                raise RuntimeError(f'without a mutant, tests fail: {lines[-1:]}')

    @contextmanager
    def mutated(self, place: Place, mutant: Mutant) -> Iterator[None]:
        self._forks(fresh=False)  # the process has read the original
        path = self.copy / place.source.path
        path.write_text(place.mutated, encoding='utf-8')
        if mutant.is_sql:
            self._put_function(place, place.mutated)
        else:
            self._patch = {'patch': str(path), 'original': place.source.text}
        try:
            yield
        finally:
            self._patch = {}
            path.write_text(place.source.text, encoding='utf-8')
            os.utime(path, (OLD, OLD))
            if mutant.is_sql:
                self._put_function(place, place.source.text)

    def _put_function(self, place: Place, text: str) -> None:
        """Put the function of a place into the template database, with its definition in `text`."""
        name = place.source.function_at(place.start)
        source = Source(place.source.path, text)
        function = next(each for each in source.functions if each.name == name)
        connection = psycopg2.connect(self.cluster['dsn'])
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(FIND_FUNCTIONS, (name,))
                cursor.execute(replacing(text[function.start : function.end]))
        finally:
            connection.close()

    def close(self) -> None:
        for key, process in reversed(self._processes.items()):
            if key.startswith('fork_tests'):
                process.terminate()
            elif process.stdin:
                process.stdin.close()
            process.wait(60)
        shutil.rmtree(self._home, ignore_errors=True)


def replacing(definition: str) -> str:
    """Return the statement that creates a function, or replaces it."""
    return re.sub(r'^CREATE FUNCTION', 'CREATE OR REPLACE FUNCTION', definition)


def in_parallel(root: Path, workers: int, jobs: Iterable[Any], work: Callable[[Worker, Any], None]) -> None:
    """Distribute jobs over some workers."""
    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    errors: list[BaseException] = []
    made: list[Worker] = []

    def serve() -> None:
        try:
            worker = Worker(root)
            made.append(worker)
            while not errors:
                work(worker, waiting.get_nowait())
        except queue.Empty:
            pass
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=serve, daemon=True) for _ in range(workers)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        for worker in made:
            worker.close()
    if errors:
        raise errors[0]


# ---------------------------------------------------------------- draw


def draw(root: Path, count: int, seed: int) -> list[Mutant]:
    """Draw two mutants of each SQL function and fill up with Python, each from a line of its own if possible."""
    chance = random.Random(seed)
    sources = read_all(root)
    worker = Worker(root)
    try:
        drawn = list(_draw_sql(chance, [each for each in sources if each.is_sql], worker.cluster['dsn']))
    finally:
        worker.close()
    lines: dict[tuple[str, int], list[tuple[Source, Change]]] = defaultdict(list)
    for source in sources:
        for change in [] if source.is_sql else changes_of(source):
            lines[source.path, source.line_of(change.start)].append((source, change))
    chosen = chance.sample(sorted(lines), count - len(drawn))
    return drawn + [describe(*chance.choice(lines[line])) for line in sorted(chosen)]


def _draw_sql(chance: random.Random, sources: list[Source], dsn: str, each: int = 2) -> Iterator[Mutant]:
    connection = psycopg2.connect(dsn)
    with connection, connection.cursor() as cursor:
        cursor.execute(FIND_FUNCTIONS, ('full_length',))
    for source in sources:
        changes = changes_of(source)
        for function in source.functions:
            own = [change for change in changes if function.start <= change.start < function.end]
            chance.shuffle(own)
            lines: set[int] = set()
            chosen: list[Change] = []
            for change in sorted(own, key=lambda one: 0):
                if source.line_of(change.start) not in lines and _installs(
                    connection, source, function.start, function.end, change
                ):
                    lines.add(source.line_of(change.start))
                    chosen.append(change)
            chosen += [
                one
                for one in own
                if one not in chosen and _installs(connection, source, function.start, function.end, one)
            ]
            yield from (describe(source, one) for one in sorted(chosen[:each], key=lambda one: one.start))
    connection.close()


def _installs(connection: Any, source: Source, start: int, end: int, change: Change) -> bool:
    """Return whether PostgreSQL accepts a function with a change."""
    text = source.text[start : change.start] + change.replacement + source.text[change.end : end]
    try:
        with connection.cursor() as cursor:
            cursor.execute(text)
        return True
    except psycopg2.Error:
        return False
    finally:
        connection.rollback()


# ---------------------------------------------------------------- run


class Record:
    """The outcome of each mutant, kept in a file that a later run continues."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        lines = path.read_text(encoding='utf-8').splitlines() if path.exists() else []
        self.results: dict[str, dict[str, Any]] = {one['id']: one for one in map(json.loads, lines)}

    def add(self, result: dict[str, Any]) -> None:
        with self._lock:
            former = self.results.get(result['id'], {})
            self.results[result['id']] = result | ({'note': former['note']} if 'note' in former else {})
            lines = [json.dumps(one, ensure_ascii=False) for _, one in sorted(self.results.items())]
            self._path.write_text('\n'.join(lines) + '\n', encoding='utf-8')


class Hunt:
    """A search for tests that kill mutants, guided by the results of earlier mutants."""

    def __init__(
        self,
        sources: list[Source],
        covering: Covering,
        limit_s: float,
        tests: list[str] | None,
        past: Iterable[tuple[Mutant, dict[str, Any]]],
        killers: int = 3,
    ) -> None:
        """Begin a search.

        tests: run only the tests that match one of these, in place of the tests that execute a mutant. past: earlier
        outcomes. killers: stop when so many tests have failed.
        """
        self._sources, self._covering, self._limit_s, self._tests = sources, covering, limit_s, tests
        self._killers = killers
        self._past = [each for each in past if each[1]['status'] == 'killed']

    def _likely(self, mutant: Mutant) -> list[str]:
        """Return the quick tests that killed most mutants like this one.

        A test counts more if other tests that ran before it passed, and if the mutant was in the same function or file.
        """
        scores = Counter[str]()
        for other, result in self._past:
            if other.is_sql == mutant.is_sql:
                alike = 1 + 2 * (other.path == mutant.path) + 3 * (_where(other) == _where(mutant))
                for test in result['killers']:
                    scores[test] += alike * (3 if result['ran'] >= 10 else 1)
        quick = [
            test
            for test, _ in scores.most_common()
            if not test.startswith(UNSTEADY) and self._covering.seconds.get(test, QUICK_S) < QUICK_S
        ]
        return quick[:MOST_LIKELY]

    def hunt(
        self, worker: Worker, mutant: Mutant, first: Iterable[str] = (), present: set[str] | None = None
    ) -> dict[str, Any]:
        """Run the tests that execute a mutant until three fail or the time is over.

        Tests in `first` go before all others.
        """
        began = time.monotonic()
        place = find(mutant, self._sources)
        if place is None:
            return {'id': mutant.id, 'status': 'lost'}
        if self._tests is None:
            first = list(first)
            others = self._covering.of(mutant, self._likely(mutant))
        else:
            first, others = [], matching(self._tests, worker.collect())
        wanted = first + [test for test in others if test not in first]
        if present is not None:
            wanted = [test for test in wanted if test in present]
            if mutant.is_sql and self._tests is None:
                wanted += sorted(test for test in present.difference(wanted) if test.startswith(OF_TREE))
        fresh = not mutant.is_sql and not is_in_function(place.source, place.start)
        worker.require_sound(wanted[:5])
        with worker.mutated(place, mutant):
            result = self._stages(worker, mutant, wanted, len(first), fresh)
        if result['status'] == 'killed' and all(test.startswith(UNSTEADY) for test in result['killers']):
            result = self._controlled(worker, result)
        if result['status'] == 'killed':
            self._past.append((mutant, result))
        return {'id': mutant.id, **result, 'of': len(wanted), 'seconds': round(time.monotonic() - began, 1)}

    def _stages(self, worker: Worker, mutant: Mutant, wanted: list[str], first: int, fresh: bool) -> dict[str, Any]:
        ran = 0
        for stage in _stages(wanted, self._covering.seconds, first, self._limit_s):
            longest_s = max(self._covering.seconds.get(test, LIMIT_S) for test in stage)
            most_s = min(LIMIT_S, MOST_S + MOST_TIMES * longest_s)
            answer = worker.run(stage, mutant, fresh, self._killers, most_s)
            lines = answer['tests']
            ran += sum('ended' in line for line in lines)
            failed = {line['failed']: line['why'] for line in reversed(lines) if 'failed' in line}
            if failed:
                killers = [*reversed(failed)][:3]
                return {'status': 'killed', 'killers': killers, 'ran': ran, 'why': failed[killers[0]][:120]}
            last = [line['began'] for line in lines if 'began' in line][-1:]
            if answer['code'] is not None and not last:
                return {'status': 'not run', 'killers': [], 'ran': ran, 'why': f'exit {answer["code"]}'}
            if answer['code'] not in (0, None):
                why = f'exit {answer["code"]}'
                return {'status': 'killed', 'killers': last or ['pytest itself'], 'ran': ran, 'why': why}
            if answer['code'] is None:
                return {'status': 'timeout', 'killers': last, 'ran': ran}
        return {'status': 'survived', 'killers': [], 'ran': ran}

    def _controlled(self, worker: Worker, result: dict[str, Any]) -> dict[str, Any]:
        """Keep the killers that pass without the mutant: a slow machine may fail tests of the whole daemon."""
        answer = worker.run(result['killers'])
        failed = {line['failed'] for line in answer['tests'] if 'failed' in line}
        sound = [test for test in result['killers'] if test not in failed]
        return result | ({'killers': sound} if sound else {'status': 'survived', 'killers': []})


def _where(mutant: Mutant) -> tuple[str, str]:
    return mutant.path, mutant.function


def _stages(tests: list[str], seconds: dict[str, float], first: int, limit_s: float) -> Iterator[list[str]]:
    """Divide tests into a few runs, each longer than the run before, within a limit of time for all."""
    start, left = 0, limit_s
    for budget, files in ((2.5, 5), (12.0, 15), (limit_s, 10_000)):
        stage: dict[str, list[str]] = defaultdict(list)
        spent = 0.0
        while start < len(tests):
            test = tests[start]
            file = test.partition('::')[0]
            enough = start >= first and sum(map(len, stage.values())) >= 3
            if enough and (
                spent + seconds.get(test, 1.0) > min(budget, left) or (file not in stage and len(stage) >= files)
            ):
                break
            stage[file].append(test)
            spent += seconds.get(test, 1.0)
            start += 1
        left -= spent
        if stage:
            yield [test for own in stage.values() for test in own]
        if left <= 0:
            return


def past_of(mutants: list[Mutant], record: Record) -> list[tuple[Mutant, dict[str, Any]]]:
    """Return the outcome of each mutant that has one."""
    return [(each, record.results[each.id]) for each in mutants if each.id in record.results]


def run(args: argparse.Namespace) -> None:
    mutants, record = load(args.mutants), Record(RECORD)
    covering = Covering.load(args.covering)
    hunt = Hunt(read_all(args.root), covering, args.limit, args.tests, past_of(mutants, record))
    open_ones = [each for each in mutants if is_wanted(each, record, args)]
    open_ones.sort(key=lambda each: (not covering.tests.get(each.id), each.path))
    done = Counter[str]()

    def work(worker: Worker, mutant: Mutant) -> None:
        former = record.results.get(mutant.id, {}).get('killers', [])
        result = hunt.hunt(worker, mutant, [test for test in former if '::' in test])
        record.add(result)
        done[result['status']] += 1
        print(f'{sum(done.values())}/{len(open_ones)}', *_line(mutant, result), flush=True)

    in_parallel(args.root, args.workers, open_ones, work)
    report(mutants, record)


def is_wanted(mutant: Mutant, record: Record, args: argparse.Namespace) -> bool:
    """Return whether to run a mutant. Without arguments, run it if it has no outcome yet."""
    status = record.results.get(mutant.id, {}).get('status')
    if args.only:
        return mutant.id in args.only or status in args.only
    language = 'sql' if mutant.is_sql else 'python'
    return (args.again or status is None) and args.language in (None, language)


def _line(mutant: Mutant, result: dict[str, Any]) -> tuple[str, ...]:
    about = f'{result.get("ran", 0)} of {result.get("of", 0)} tests, {result.get("seconds", 0)} s'
    return result['status'], mutant.id, about, ' '.join(result.get('killers', []))[:150]


def verify(args: argparse.Namespace) -> int:
    """Check that every mutant that died still dies in the present tree, by its recorded killers or other tests."""
    mutants, record, verified = load(args.mutants), Record(RECORD), Record(VERIFIED)
    covering = Covering.load(args.covering)
    died = [each for each in mutants if record.results.get(each.id, {}).get('status') in DEAD]
    if args.only:
        chosen = {each.id: each for each in mutants if each.id in args.only}
        died = [chosen[name] for name in args.only if name in chosen]
    if args.rest:
        died = [each for each in died if verified.results.get(each.id, {}).get('status') not in DEAD]
    past = [*past_of(mutants, record), *past_of(mutants, verified)]
    hunt = Hunt(read_all(args.root), covering, args.limit, args.tests, past, killers=1)
    outcomes: dict[str, dict[str, Any]] = {}
    present: set[str] = set()
    collecting = threading.Lock()

    def work(worker: Worker, mutant: Mutant) -> None:
        with collecting:
            if not present:
                present.update(worker.collect())
        known = [each.results.get(mutant.id, {}).get('killers', []) for each in (verified, record)]
        former = dict.fromkeys(present_name(test, present) for each in known for test in each)
        result = hunt.hunt(worker, mutant, [test for test in former if test], present)
        outcomes[mutant.id] = result
        verified.add(result)
        if result['status'] not in DEAD or args.verbose:
            print(*_line(mutant, result), flush=True)

    in_parallel(args.root, args.workers, died, work)
    alive = [each for each in died if outcomes[each.id]['status'] not in DEAD]
    print(f'{len(died) - len(alive)} of {len(died)} mutants that died still die')
    for mutant in alive:
        print(f'  {outcomes[mutant.id]["status"]}: {describe_line(mutant)}')
    return 1 if alive else 0


def control(args: argparse.Namespace) -> int:
    """Check that all recorded killers pass on the unchanged tree."""
    record = Record(RECORD)
    killers = dict.fromkeys(test for one in record.results.values() for test in one['killers'] if '::' in test)
    failed: dict[str, str] = {}
    parts = [list(killers)[start : start + 50] for start in range(0, len(killers), 50)]

    def work(worker: Worker, tests: list[str]) -> None:
        present = worker.collect()
        answer = worker.run([test for test in tests if test in present], failures=0)
        failed.update({line['failed']: line['why'] for line in answer['tests'] if 'failed' in line})

    in_parallel(args.root, args.workers, parts, work)
    print(f'{len(failed)} of {len(killers)} killers fail without a mutant')
    for test, why in failed.items():
        print(f'  {test}: {why}')
    return 1 if failed else 0


def matching(patterns: list[str], present: set[str]) -> list[str]:
    """Return the tests that match a pattern of the shell, in the order of the patterns."""
    found = [test for pattern in patterns for test in sorted(present) if fnmatch.fnmatchcase(test, pattern)]
    return list(dict.fromkeys(found))


def present_name(test: str, present: set[str]) -> str | None:
    """Return the present name of a test, which may have moved to another file."""
    if test in present:
        return test
    _, _, name = test.partition('::')
    moved = [each for each in present if each.partition('::')[2] == name]
    return moved[0] if name and len(moved) == 1 else None


def describe_line(mutant: Mutant) -> str:
    change = f'{mutant.original!r} -> {mutant.replacement!r}'
    return f'{mutant.id} {mutant.path}:{mutant.line} {mutant.kind}: {change} in: {mutant.text}'


def report(mutants: list[Mutant], record: Record) -> None:
    table: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for mutant in mutants:
        status = record.results.get(mutant.id, {}).get('status', 'open')
        note = record.results.get(mutant.id, {}).get('note', '')
        status = 'equivalent' if note.startswith('equivalent') else status
        for kind in (mutant.kind, 'all'):
            table['SQL' if mutant.is_sql else 'Python', kind][status] += 1
    for (language, kind), counts in sorted(table.items()):
        print(f'{language:7}{kind:12}', ' '.join(f'{status} {count}' for status, count in sorted(counts.items())))


def list_places(args: argparse.Namespace) -> int:
    """Print the place of each mutant in the present tree. Return 1 if some have no place."""
    sources = read_all(args.root)
    lost = 0
    for mutant in load(args.mutants):
        place = find(mutant, sources)
        lost += place is None
        if place is None or place.how != 'in place' or args.verbose:
            print(f'{place.how}: {place.source.path}:{place.line}' if place else 'lost:', describe_line(mutant))
    print(f'{lost} lost')
    return 1 if lost else 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--root', type=Path, default=ROOT, help='the tree to work on (default: this one)')
    parser.add_argument('--workers', type=int, default=2)
    parser.add_argument('--limit', type=float, default=60, help='seconds of tests for one mutant')
    parser.add_argument('--mutants', type=Path, default=MUTANTS, help='a file of mutants in place of mutants.json')
    parser.add_argument('--tests', nargs='+', metavar='TEST', help='run only tests that match these patterns')
    parser.add_argument('--covering', type=Path, default=COVERING)
    parser.add_argument('--verbose', action='store_true')
    parser.add_argument('--only', nargs='+', metavar='ID', help='ids of mutants, or a status of mutants')
    parser.add_argument('--language', choices=('python', 'sql'), help='only mutants of this language')
    what = parser.add_mutually_exclusive_group()
    what.add_argument('--verify', action='store_true', help='check that killed mutants still die')
    what.add_argument('--control', action='store_true', help='check that the recorded killers pass without a mutant')
    what.add_argument('--places', action='store_true', help='list the places of the mutants in the present tree')
    what.add_argument('--report', action='store_true', help='count the mutants by kind and outcome')
    what.add_argument('--draw', type=int, metavar='COUNT', help='draw a new set of mutants')
    what.add_argument(
        '--measure',
        type=Path,
        metavar='DIR',
        help='run the suite under coverage, write the data into a directory, then do --cover',
    )
    what.add_argument(
        '--cover', type=Path, metavar='DIR', help='note the tests of each mutant from the data of --measure'
    )
    parser.add_argument('--rest', action='store_true', help='with --verify: only mutants that are not verified yet')
    parser.add_argument('--seed', type=int, default=13)
    parser.add_argument('--again', action='store_true', help='also run mutants that have an outcome')
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if args.verify:
        return verify(args)
    if args.control:
        return control(args)
    if args.places:
        return list_places(args)
    if args.draw:
        save(args.mutants, draw(args.root, args.draw, args.seed))
    elif args.measure or args.cover:
        if args.measure:
            measure(args.root, args.measure.resolve(), args.workers)
        measured = Measured((args.measure or args.cover).resolve(), args.root)
        cover(load(args.mutants), read_all(args.root), measured).save(args.covering)
    elif args.report:
        report(load(args.mutants), Record(RECORD))
    else:
        run(args)
    return 0


if __name__ == '__main__':
    sys.exit(main())
