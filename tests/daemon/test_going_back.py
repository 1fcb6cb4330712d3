"""The steps of docs/upgrading.md: upgrade the kept program, then go back to it with the dump before the upgrade."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import xmlrpc.client
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keep_today
import kept_facts
import pytest
from forked import Forking
from programs import unpack_kept
from support import open_directories
from upgrading import private_server, serve, stop

from nipap.postgres import schema

EXPECTED: dict[str, Any] = json.loads((keep_today.KEPT / 'expected.json').read_text())
ACCOUNT = 'nobody' if os.geteuid() == 0 else None
SCHEMA = EXPECTED['user']['schema']
NAME = f'before-{SCHEMA + 1:04}.dump'


@pytest.fixture
def kept_program() -> Iterator[Path]:
    """Yield the directory of the kept program."""
    with open_directories() as make:
        yield unpack_kept(make())


def facts_by(program: Path, dsn: str) -> Any:
    """Return the facts as that program reads them."""
    command = [sys.executable, str(Path(kept_facts.__file__)), dsn]
    env = {**os.environ, 'PYTHONPATH': str(program)}
    return json.loads(subprocess.run(command, env=env, cwd='/', check=True, stdout=subprocess.PIPE).stdout)


def check_files(found: dict[str, str]) -> None:
    """Check that the upgrade has added the dump, and opened no earlier file to others."""
    assert found.pop(NAME) == '-rw------- daemon'
    before = EXPECTED['user']['installation']['files in it']
    assert found.keys() == before.keys()
    for name, mode in before.items():
        allowed = {mode, mode.replace('r--r--', '------')}
        assert found[name] in allowed, name


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_ordinary_user_upgrades_and_goes_back(
    kept_program: Path, forking: Forking, make_dir: Callable[[], Path]
) -> None:
    home = make_dir()
    data_dir, where = home / 'nipap', ('-c', '/dev/null', '--data-dir', home / 'nipap')
    dump = shutil.copy(keep_today.KEPT / 'root' / 'nipap.dump', home)
    if ACCOUNT:
        shutil.chown(home, ACCOUNT)
    with Forking(make_dir(), kept_program) as kept:
        kept.run('nipap-admin', 'restore', *where, '--keep-webhooks', dump, account=ACCOUNT)
        stop(serve(kept, data_dir, account=ACCOUNT))

        said = stop(serve(forking, data_dir, account=ACCOUNT))
        assert f'applying migration {schema.latest()}' in said
        check_files(keep_today.installation(data_dir)['files in it'])

        refused = kept.start('nipapd', *where, '-p', 0, account=ACCOUNT)
        assert refused.wait() == 1
        newer = f'nipapd: The schema of the database has version {schema.latest()}, this program knows {SCHEMA}'
        assert newer in refused.said()
        aside = data_dir.rename(home / 'nipap.newer')
        back = kept.run('nipap-admin', 'restore', *where, '--keep-webhooks', aside / NAME, account=ACCOUNT)
        assert back.endswith('no problems found\n')
        with private_server(data_dir) as dsn:
            assert kept_facts.differing(facts_by(kept_program, dsn), EXPECTED['root']['facts']) == []
        serving = serve(kept, data_dir, account=ACCOUNT)
        found = re.search(r'serving on http://(\S+)', serving.said())
        assert found
        url = f'http://digits:salt%20of%20digits@{found[1]}/XMLRPC'
        with xmlrpc.client.ServerProxy(url, allow_none=True) as proxy:
            asns: Any = proxy.list_asn({'auth': {'authoritative_source': 'test'}, 'asn': {'asn': 65010}})
        assert asns == [{'asn': 65010, 'name': 'Site 10'}]
        stop(serving)
        assert kept.run('nipap-admin', 'check', *where, account=ACCOUNT) == 'no problems found\n'
