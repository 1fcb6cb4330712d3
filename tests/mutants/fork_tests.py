"""Run tests again and again in forks of a process that has loaded the libraries already.

Reads jobs from standard input and writes an answer a line, both as JSON. A job names tests, and how long they may take
together. Each fork reads the program's files anew.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

LIBRARIES = """_pytest.main pytest hypothesis.stateful hypothesis.strategies psycopg2.extras flask flask_xmlrpcre.xmlrpcre
tornado.httpserver tornado.wsgi tornado.simple_httpclient IPy orjson parsedatetime prometheus_client jwt jsonschema yaml httpx
cryptography.x509 promql_parser greenlet xmlrpc.client xml.etree.ElementTree sqlite3 werkzeug.test asyncio pynipap
openapi_spec_validator xdist.plugin pytest_timeout concurrent.futures.process multiprocessing.forkserver"""
OPTIONS = '-q -p no:randomly -p no:cacheprovider -p no:xdist --tb=line --timeout 40 --hypothesis-seed 0'.split()
POLL_S = 0.02


def main(root: str) -> None:
    for name in LIBRARIES.split():
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    os.chdir(root)
    sys.path[:0] = [root, f'{root}/tests']
    answers = os.fdopen(os.dup(1), 'w')
    for line in sys.stdin:
        answers.write(json.dumps(_run(json.loads(line))) + '\n')
        answers.flush()


def _run(job: dict[str, Any]) -> dict[str, Any]:
    results = Path(job['results'])
    results.unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            code = _become_pytest(job)
        finally:
            os._exit(code)
    deadline = time.monotonic() + job['seconds']
    ended, status, used = 0, 0, None
    while not ended and time.monotonic() < deadline:
        time.sleep(POLL_S)
        ended, status, used = os.wait4(pid, os.WNOHANG)
    if not ended:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        _, _, used = os.wait4(pid, 0)
    _end_strays(job['run'])
    lines = results.read_text().splitlines() if results.exists() else []
    code = os.waitstatus_to_exitcode(status) if ended else None
    return {'code': code, 'cpu': used.ru_utime + used.ru_stime if used else 0, 'tests': [json.loads(each) for each in lines]}


def _become_pytest(job: dict[str, Any]) -> int:
    import pytest
    from watch_mutant import Watch

    os.setsid()
    os.environ['MUTANTS_RUN'] = job['run']
    if not job.get('warm'):
        sys.dont_write_bytecode = True
        os.environ['PYTHONDONTWRITEBYTECODE'] = '1'
    with open(job['log'], 'ab') as log, open(os.devnull, 'rb') as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    files = list(dict.fromkeys(each.partition('::')[0] for each in job['tests']))
    ignored = ['-W', 'ignore::pytest.PytestAssertRewriteWarning']
    options = [*OPTIONS, *ignored, f'--maxfail={job["failures"]}', *job.get('options', [])]
    return int(pytest.main([*options, *(files or ['tests'])], plugins=[Watch(job)]))


def _end_strays(run: str) -> None:
    """End what a fork has left behind: the processes that have its number in their environment."""
    for entry in os.listdir('/proc'):
        if entry.isdecimal() and int(entry) != os.getpid():
            with contextlib.suppress(OSError):
                if f'MUTANTS_RUN={run}\0'.encode() in Path('/proc', entry, 'environ').read_bytes():
                    os.kill(int(entry), signal.SIGKILL)


if __name__ == '__main__':
    main(sys.argv[1])
