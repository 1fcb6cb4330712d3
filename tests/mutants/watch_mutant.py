"""A pytest plugin for one mutant: runs the requested tests, in the requested order, on a running PostgreSQL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from hypothesis import Phase, settings

STRAY = (
    'SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity WHERE datname IS NOT NULL AND pid <> pg_backend_pid()'
)
LEFT = "SELECT datname FROM pg_database WHERE datname LIKE 'test\\_%'"


def do_not_shrink() -> None:
    """Turn off shrinking: a smaller example takes long to find and kills the mutant no better."""
    settings.register_profile('mutants', settings(), phases=(Phase.explicit, Phase.generate), database=None)
    settings.load_profile('mutants')


class Watch:
    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job
        self._wanted = {test: number for number, test in enumerate(job['tests'])}
        self._out = open(job['results'], 'a', encoding='utf-8')  # noqa: SIM115 (as long as the process)
        self._spent: dict[str, float] = {}

    def _write(self, **line: object) -> None:
        self._out.write(json.dumps(line) + '\n')
        self._out.flush()

    def pytest_sessionstart(self) -> None:
        do_not_shrink()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted(
            (each for each in items if each.nodeid in self._wanted), key=lambda each: self._wanted[each.nodeid]
        )

    @pytest.hookimpl(tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> object:
        cluster = self._job.get('cluster')
        if not cluster or fixturedef.argname not in ('cluster', 'template') or fixturedef.baseid != 'tests':
            return None
        if fixturedef.argname == 'cluster':
            value = self._attach(cluster, fixturedef.func.__globals__)
        else:
            value = 'nipap_template'
        fixturedef.cached_result = (value, fixturedef.cache_key(request), None)
        return value

    def _attach(self, cluster: dict[str, str], names: dict[str, Any]) -> object:
        """Return the running server as the fixture would, without the leftovers of an earlier mutant."""
        bindir = names['installation']('wheel').bindir
        server = names['EmbeddedPostgres'](Path(cluster['home']), bindir=str(bindir), settings=names['FAST'])
        server.installation, server._socket_dir = names['installation']('wheel'), Path(cluster['sockets'])
        connection = psycopg2.connect(server.dsn('postgres'))
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                cursor.execute(STRAY)
                cursor.execute(LEFT)
                for (name,) in cursor.fetchall():
                    cursor.execute(f'DROP DATABASE {name} WITH (FORCE)')
        finally:
            connection.close()
        return server

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._write(began=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._spent[report.nodeid] = self._spent.get(report.nodeid, 0.0) + report.duration
        if report.failed:
            crash = getattr(report.longrepr, 'reprcrash', None)
            why = str(crash.message if crash else report.longrepr).strip().partition('\n')[0]
            self._write(failed=report.nodeid, when=report.when, why=why[:200])
        elif report.when == 'teardown':
            self._write(ended=report.nodeid, seconds=round(self._spent[report.nodeid], 3))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._write(failed=report.nodeid or 'tests', when='collect', why=str(report.longrepr)[-200:])
