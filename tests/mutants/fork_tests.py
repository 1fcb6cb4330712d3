"""Run tests again and again in forks of one process.

A `fresh` process has loaded the libraries alone: each fork reads the program and its tests anew. A process that has
`collected` all tests takes a tenth of the time: each fork puts the mutated code into the functions of the program.

Jobs come from standard input and answers go to standard output, one a line, both as JSON. A job names tests and the
most CPU time of one test.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import IO, Any

LIBRARIES = """
_pytest.main pytest hypothesis.stateful hypothesis.strategies psycopg2.extras flask flask_xmlrpcre.xmlrpcre
tornado.httpserver tornado.wsgi tornado.simple_httpclient IPy orjson parsedatetime prometheus_client jwt jsonschema yaml
httpx cryptography.x509 promql_parser greenlet xmlrpc.client xml.etree.ElementTree sqlite3 werkzeug.test asyncio pynipap
openapi_spec_validator pytest_timeout concurrent.futures.process multiprocessing.forkserver"""
OPTIONS = [
    *('-q', '-s', '--continue-on-collection-errors', '--tb=line', '--timeout=3600', '--hypothesis-seed=0'),
    *('-p', 'no:randomly', '-p', 'no:cacheprovider', '-p', 'no:xdist'),
    *('-W', 'ignore::pytest.PytestAssertRewriteWarning'),
]
POLL_S = 0.02
SAMPLE_S, IDLE_S = 5.0, 180.0
IDLE_CPU_S = 0.1  # in a sample: an idle PostgreSQL takes some CPU time
TICKS = os.sysconf('SC_CLK_TCK')


def main(root: str, how: str) -> None:
    os.chdir(root)
    sys.path[:0] = [root, f'{root}/tests']
    answers = os.fdopen(os.dup(1), 'w')
    jobs = os.fdopen(os.dup(0))
    with open(os.devnull, 'r+b') as nothing:
        for descriptor in range(3):
            os.dup2(nothing.fileno(), descriptor)
    if how == 'fresh':
        for name in LIBRARIES.split():
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        serve(jobs, answers, _become_pytest)
    else:
        import pytest

        pytest.main([*OPTIONS, 'tests'], plugins=[Collected(jobs, answers)])


def serve(jobs: IO[str], answers: IO[str], become: Any) -> bool:
    """Fork for each job.

    Returns True in a fork that goes on to run the tests itself, and False in the parent at the end.
    """
    for line in jobs:
        job = json.loads(line)
        Path(job['results']).unlink(missing_ok=True)
        pid = os.fork()
        if pid == 0:
            _become_own(job)
            if become is None:
                job_of_fork.update(job)
                return True
            code = 70
            try:
                code = become(job)
            finally:
                os._exit(code)
        answers.write(json.dumps(_await(pid, job)) + '\n')
        answers.flush()
    return False


job_of_fork: dict[str, Any] = {}


def _await(pid: int, job: dict[str, Any]) -> dict[str, Any]:
    """Wait for a fork and return the results of its tests. End the fork when one of its tests hangs."""
    results = Path(job['results'])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    ended, status, used = 0, 0, None
    hanging = Hanging(pid, job)
    try:
        while not ended and not hanging.seen(results):
            time.sleep(POLL_S)
            ended, status, used = os.wait4(pid, os.WNOHANG)
    finally:
        if not ended:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            _, _, used = os.wait4(pid, 0)
        for stray in _of_run(pid, job['run']):
            with contextlib.suppress(OSError):
                os.kill(stray, signal.SIGKILL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    lines = results.read_text().splitlines() if results.exists() else []
    code = os.waitstatus_to_exitcode(status) if ended else None
    cpu = used.ru_utime + used.ru_stime if used else 0
    return {'code': code, 'cpu': round(cpu, 2), 'tests': [json.loads(each) for each in lines]}


class Hanging:
    """A detector of hung tests: a test takes far too much CPU, or nothing has run for long.

    A wall-clock limit would blame a mutant for other load on the machine.
    """

    def __init__(self, fork: int, job: dict[str, Any]) -> None:
        self._fork, self._run = fork, job['run']
        self._most_s = job['most_s']
        self._postmaster = job.get('cluster', {}).get('postmaster', 0)
        self._next = time.monotonic() + SAMPLE_S
        self._size, self._began_s, self._last_s, self._idle = -1, 0.0, -1.0, 0

    def seen(self, results: Path) -> bool:
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + SAMPLE_S
        used, runs = self._used()
        size = results.stat().st_size if results.exists() else 0
        self._idle = 0 if runs or used > self._last_s + IDLE_CPU_S or size != self._size else self._idle + 1
        if size != self._size:
            self._size, self._began_s = size, used
        self._last_s = used
        return used - self._began_s > self._most_s or self._idle * SAMPLE_S > IDLE_S

    def _used(self) -> tuple[float, bool]:
        """Return the CPU time of the run's processes and PostgreSQL sessions, and whether one of them is runnable."""
        used, runs = 0.0, False
        for pid in {*_of_run(self._fork, self._run), *_children(self._postmaster)}:
            fields = _stat(pid)
            if fields:
                used += sum(map(int, fields[11:15])) / TICKS
                runs |= fields[0] in 'RD'
        return used, runs


def _stat(pid: int) -> list[str]:
    try:
        return Path('/proc', str(pid), 'stat').read_text(errors='replace').rpartition(')')[2].split()
    except OSError:
        return []


def _processes() -> Iterator[int]:
    return (int(entry) for entry in os.listdir('/proc') if entry.isdecimal())


def _children(pid: int) -> list[int]:
    return [each for each in _processes() if pid and _stat(each)[1:2] == [str(pid)]]


def _of_run(fork: int, run: str) -> list[int]:
    """Return the processes of a fork: its session, and other processes with the run's number in their environment."""
    found = []
    for pid in _processes():
        with contextlib.suppress(OSError):
            in_session = _stat(pid)[3:4] == [str(fork)]
            if in_session or f'MUTANTS_RUN={run}\0'.encode() in Path('/proc', str(pid), 'environ').read_bytes():
                found.append(pid)
    return found


def _become_own(job: dict[str, Any]) -> None:
    os.setsid()
    os.environ['MUTANTS_RUN'] = job['run']
    sys.dont_write_bytecode = True
    os.environ['PYTHONDONTWRITEBYTECODE'] = '1'
    with open(job['log'], 'ab') as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)


# ---------------------------------------------------------------- fresh: each fork reads everything anew


def _become_pytest(job: dict[str, Any]) -> int:
    import pytest
    from watch_mutant import Watch

    files = list(dict.fromkeys(each.partition('::')[0] for each in job['tests']))
    return int(pytest.main([*OPTIONS, f'--maxfail={job["failures"]}', *files], plugins=[Watch(job)]))


# ---------------------------------------------------------------- collected: everything is loaded before the fork


class Collected:
    """A plugin that forks at the point where pytest would run the collected tests."""

    def __init__(self, jobs: IO[str], answers: IO[str]) -> None:
        self._jobs, self._answers = jobs, answers

    def pytest_sessionstart(self) -> None:
        from watch_mutant import do_not_shrink

        do_not_shrink()

    def pytest_runtestloop(self, session: Any) -> bool | None:
        """Serve jobs. In a fork, select the tests that pytest runs."""
        functions: dict[str, list[FunctionType]] = defaultdict(list)
        for each in gc.get_objects():
            if isinstance(each, FunctionType):
                functions[each.__code__.co_filename].append(each)
        tests = {each.nodeid: each for each in session.items}
        self._answers.write(json.dumps(list(tests)) + '\n')
        self._answers.flush()
        gc.collect()
        gc.freeze()
        if not serve(self._jobs, self._answers, None):
            os._exit(0)
        from watch_mutant import Watch

        session.config.pluginmanager.register(Watch(job_of_fork))
        session.config.option.maxfail = job_of_fork['failures']
        session.items[:] = [tests[each] for each in job_of_fork['tests'] if each in tests]
        session.testscollected, session.testsfailed = len(session.items), 0
        if path := job_of_fork.get('patch'):
            put_code(path, job_of_fork['original'], Path(path).read_text(encoding='utf-8'), functions[path])
        return None


def put_code(path: str, original: str, text: str, functions: list[FunctionType]) -> None:
    """Put the code of a changed file into the functions that were made from its original."""
    former = {(code.co_qualname, code.co_firstlineno): key for key, code in _codes(compile(original, path, 'exec'))}
    new = dict(_codes(compile(text, path, 'exec')))
    for function in functions:
        key = former.get((function.__code__.co_qualname, function.__code__.co_firstlineno))
        if key in new:
            function.__code__ = new[key]


def _codes(module: CodeType) -> Iterator[tuple[tuple[str, int], CodeType]]:
    """Yield the code of every function, keyed by its qualified name and its number among functions of that name."""
    seen = Counter[str]()
    waiting = [module]
    while waiting:
        code = waiting.pop(0)
        yield (code.co_qualname, seen[code.co_qualname]), code
        seen[code.co_qualname] += 1
        waiting += [each for each in code.co_consts if isinstance(each, CodeType)]


if __name__ == '__main__':
    main(*sys.argv[1:])
