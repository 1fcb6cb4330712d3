"""An installation has the manual pages and the files of etc/, by either command of the README."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from daemon_process import REPOSITORY

SHIPPED = {
    'share/man/man8': ['docs/man/nipapd.8'],
    'share/man/man1': ['docs/man/nipap.1', 'docs/man/nipap-admin.1', 'docs/man/nipap-passwd.1'],
    'share/doc/nipapd': [
        *('etc/nipap.conf.dist', 'etc/nipapd.service', 'etc/nipapd.socket', 'etc/nipapd.logrotate'),
        *('etc/nipap-backup.service', 'etc/nipap-backup.timer'),
        *('etc/nipapd.fail2ban', 'etc/prometheus-alerts.yml', 'etc/grafana-dashboard.json', 'docs/migrating.md'),
    ],
}


@pytest.fixture(scope='module')
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the sources of an installation: the build leaves files beside them."""
    copy = tmp_path_factory.mktemp('source')
    for name in ('nipap', 'nipapd', 'sql', 'etc', 'docs'):
        shutil.copytree(REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('setup.py', 'pyproject.toml', 'README.md', 'LICENSE'):
        shutil.copy(REPOSITORY / name, copy)
    return copy


@pytest.mark.slow
def test_manual_pages_and_units_are_installed_and_stay_with_an_editable_installation(
    copy: Path, tmp_path: Path
) -> None:
    subprocess.run([sys.executable, '-m', 'venv', tmp_path], check=True)
    for options in (['.'], ['-e', '.']):
        command = [str(tmp_path / 'bin/pip'), 'install', '--quiet', '--no-deps', *options]
        installed = subprocess.run(command, cwd=copy, capture_output=True, text=True)
        assert installed.returncode == 0, installed.stderr
        for directory, sources in SHIPPED.items():
            for source in sources:
                there = tmp_path / directory / Path(source).name
                assert there.read_bytes() == (copy / source).read_bytes(), options


def test_every_manual_page_and_file_of_etc_is_shipped() -> None:
    """Otherwise a file that is missing in the table above would go unnoticed."""
    there = {
        path.relative_to(REPOSITORY).as_posix()
        for name in ('docs/man', 'etc')
        for path in (REPOSITORY / name).iterdir()
    }
    assert there | {'docs/migrating.md'} == {source for sources in SHIPPED.values() for source in sources}
