"""A pytest plugin of `make mutants` that notes each test, its duration and the SQL functions that it calls.

`coverage_startup` starts coverage in every Python process. The plugin sets its context to the running test.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from coverage import Coverage

INTO = Path(os.environ['MUTANTS_INTO'])
CALLS = 'SELECT funcname, sum(calls)::bigint FROM pg_stat_user_functions GROUP BY funcname'


class Watcher:
    def __init__(self) -> None:
        self._context = INTO / f'context-{os.getpid()}'
        self._durations: dict[str, float] = {}
        self._calls: dict[str, dict[str, int]] = {}
        self._out = open(INTO / f'tests-{os.getpid()}.jsonl', 'w', encoding='utf-8')  # noqa: SIM115

    def pytest_sessionstart(self) -> None:
        import support

        support.FAST['track_functions'] = 'all'

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._enter(item.nodeid)
        result = yield
        self._enter('')
        line = {'test': item.nodeid, 'seconds': round(self._durations.pop(item.nodeid, 0.0), 4)}
        self._out.write(json.dumps({**line, 'sql': getattr(item, 'sql_functions', [])}) + '\n')
        self._out.flush()
        return result

    def _enter(self, test: str) -> None:
        self._context.write_text(test)
        self._context.chmod(0o644)
        if measuring := Coverage.current():
            measuring.switch_context(test)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._durations[report.nodeid] = self._durations.get(report.nodeid, 0.0) + report.duration

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: Any) -> Iterator[None]:
        dsn = item.funcargs.get('dsn') if hasattr(item, 'funcargs') else None
        result = yield
        if isinstance(dsn, str):
            item.sql_functions = self._called(dsn)
        return result

    def _called(self, dsn: str) -> list[str]:
        """Return the functions that were called in a database since the last look at it."""
        try:
            connection = psycopg2.connect(dsn)
        except psycopg2.Error:
            return []  # the database has been dropped
        try:
            with connection.cursor() as cursor:
                cursor.execute(CALLS)
                now = dict(cursor.fetchall())
        finally:
            connection.close()
        before = self._calls.get(dsn, {})
        self._calls[dsn] = now
        return sorted(name for name, calls in now.items() if calls > before.get(name, 0))


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, 'workerinput') and config.getoption('numprocesses', None):
        return  # the controller of pytest-xdist runs no test
    config.pluginmanager.register(Watcher())
