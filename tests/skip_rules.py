"""A pytest plugin that keeps skipped tests from hiding failures.

With CI=true in the environment, a skip that is not listed in skips.toml is a failure, and so is a run without a passed
test. Tests whose marker needs a missing package are deselected; the report names them and the command that runs them.
Selecting such a marker (`-m kafka`) without the package is an error.
"""

from __future__ import annotations

import importlib.util
import os
import re
import tomllib
from collections.abc import Generator
from pathlib import Path
from typing import TypeVar

import pytest

Report = TypeVar('Report', pytest.TestReport, pytest.CollectReport)

LISTED = tomllib.loads((Path(__file__).parent / 'skips.toml').read_text())
ALLOWED = {entry['test'] for entry in LISTED['skip']}
DESELECTED = {entry['marker']: entry for entry in LISTED['deselect']}
NOT_LISTED = 'With CI=true this skip is a failure, tests/skips.toml does not allow it: '


def in_ci() -> bool:
    return os.environ.get('CI') == 'true'


def missing() -> list[str]:
    """Return the markers whose package is not installed."""
    return [marker for marker, entry in DESELECTED.items() if importlib.util.find_spec(entry['package']) is None]


def pytest_configure(config: pytest.Config) -> None:
    for marker, entry in DESELECTED.items():
        config.addinivalue_line('markers', f'{marker}: needs a package of its own, `{entry["command"]}` runs them')
        if marker in missing() and config.option.markexpr.strip() == marker:
            raise pytest.UsageError(f'{entry["package"]} is not installed: {entry["command"]} installs it')


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    absent = missing()
    left_out = [item for item in items if any(item.get_closest_marker(marker) for marker in absent)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _refuse(item.nodeid, (yield))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _refuse(collector.nodeid, (yield))


def _refuse(name: str, report: Report) -> Report:
    """Turn a skip that is not allowed into a failure."""
    expected_to_fail = hasattr(report, 'wasxfail')
    if in_ci() and report.outcome == 'skipped' and not expected_to_fail and name.partition('[')[0] not in ALLOWED:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = 'failed'
        report.longrepr = NOT_LISTED + re.sub('^Skipped: ', '', reason)
    return report


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run in CI without a passed test, such as a run in which all tests were skipped."""
    reporter = session.config.pluginmanager.get_plugin('terminalreporter')
    is_worker = hasattr(session.config, 'workerinput')
    if not in_ci() or is_worker or reporter is None or session.config.option.collectonly:
        return
    if session.exitstatus == pytest.ExitCode.OK and not reporter.stats.get('passed'):
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for marker in missing():
        entry = DESELECTED[marker]
        command, package = entry['command'], entry['package']
        line = (
            f'tests marked {marker} were deselected, {package} is not installed; {command} runs them. {entry["reason"]}'
        )
        terminalreporter.write_line(line, yellow=True)
