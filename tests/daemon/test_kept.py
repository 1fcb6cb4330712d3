"""Installations filled by an earlier program (tests/data/kept) are migrated and restored, through kills.

`keep_today.py` has made the installations. The expected facts were read by the earlier program and are in
expected.json.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import re
import shutil
import sqlite3
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import keep_today
import kept_facts
import pytest
import upgrade_data
from forked import Forking
from upgrading import KEEPER, Kills, Site

from nipap.access.local_users import LocalUser, LocalUsers
from nipap.backend import Backend
from nipap.calls import Request
from nipap.integrity import check
from nipap.postgres import schema
from nipapd import restored

KEPT = keep_today.KEPT
SCHEMAS = KEPT.parent / 'schemas'
EXPECTED: dict[str, Any] = json.loads((KEPT / 'expected.json').read_text())
# Kills for the databases of former schemas, and as many for the kept installation: half of them migrate it, half
# restore it.
KILLS = 20
# On a slow machine every kill waits as long as its share of the whole command takes there.
patient = pytest.mark.timeout(1800)


def kept_schemas() -> list[int]:
    """Return the schemas of which a small database is kept."""
    return sorted(int(path.name.split('.')[0]) for path in SCHEMAS.glob('*.sql.xz'))


# ---------------------------------------------------------------- kept files


def test_all_that_is_kept_is_small_and_as_it_was_made() -> None:
    files = {str(path.relative_to(KEPT)): path for path in KEPT.rglob('*') if path.is_file()}
    assert sum(path.stat().st_size for path in files.values()) <= keep_today.MOST_BYTES
    hashes = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    assert hashes.pop('expected.json')
    assert hashes == EXPECTED['files']


def test_the_wheel_is_that_of_nipapd() -> None:
    (wheel,) = KEPT.glob('*.whl')
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        (metadata,) = (name for name in archive.namelist() if name.endswith('.dist-info/METADATA'))
        assert f'\nName: nipapd\nVersion: {EXPECTED["version"]}\n' in archive.read(metadata).decode()
        migrations = [name for name in archive.namelist() if name.startswith('nipap/sql/migrations/0')]
    assert len(migrations) == EXPECTED['user']['schema']


@pytest.mark.parametrize('variant', ['root', 'user'])
def test_everything_is_in_it(variant: str) -> None:
    """The audit log has every action, and the database some of everything that it can hold."""
    facts = EXPECTED[variant]['facts']
    actions = {(kind, action) for kind, action, _, _ in facts['audit_log']}
    kinds = ('vrf', 'pool', 'prefix', 'asn', 'webhook')
    assert actions == {*itertools.product(kinds, ('add', 'edit', 'remove')), ('webhook', 'resend')}
    assert facts['prefix']['count'] >= 20_000
    figures = facts['prefixes']
    assert min(figures['by_family'].values()) > 5000
    assert figures['by_type'].keys() == {'reservation', 'assignment', 'host'}
    assert figures['by_status'].keys() == {'assigned', 'reserved', 'quarantine'}
    assert min(figures['expired'], figures['with_tags'], figures['with_avps']) > 10
    assert min(facts[kind]['count'] for kind in ('vrf', 'pool', 'asn', 'webhook', 'dead_letter')) > 3
    assert facts['events'][0][0] > 20_000
    assert len(facts['idempotency']) == len(EXPECTED[variant]['answers']) == 8


@pytest.mark.parametrize('variant', ['root', 'user'])
def test_accounts_with_hashes_of_every_age_log_in(variant: str, tmp_path: Path) -> None:
    file = shutil.copyfile(KEPT / variant / 'local_auth.db', tmp_path / 'local_auth.db')
    before = hashes_in(file)
    assert before.keys() == keep_today.ACCOUNTS.keys()
    assert sorted(stored[:13] for stored in before.values() if stored.startswith('$')) == [
        '$scrypt$ln=14',
        *['$scrypt$ln=15'] * 4,
    ]
    check_accounts(LocalUsers(file))


def check_accounts(users: LocalUsers) -> None:
    """Check that every account has its password, and that all are then hashed as today."""
    for name, (password, _) in keep_today.ACCOUNTS.items():
        assert users.authenticate(name, password), name
    assert not users.authenticate('oldie', 'another')
    assert all(stored.startswith('$scrypt$ln=15,') for stored in hashes_in(Path(users.path)).values())


def hashes_in(file: Path) -> dict[str, str]:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        return dict(connection.execute('SELECT username, pwd_hash FROM user'))


# ---------------------------------------------------------------- kills


OLD = [version for version in kept_schemas() if version < EXPECTED['user']['schema']]


def migrate_through_kills(forking: Forking, loaded: Site, target: Site, wanted: int) -> None:
    """Migrate copies of a database: one undisturbed, others with `wanted` kills in total."""
    loaded.copy_to(target)
    _, whole_s = forking.timed('nipap-admin', 'migrate', *target.where)
    kills = Kills(forking, wanted, whole_s)
    loaded.copy_to(target)
    while kills.left:
        if not kills.kill('migrate', *target.where):
            loaded.copy_to(target)
        target.rows()
    forking.run('nipap-admin', 'migrate', *target.where)
    assert forking.run('nipap-admin', 'check', *target.where) == 'no problems found\n'


@pytest.mark.slow
@patient
@pytest.mark.parametrize('version', OLD)
def test_databases_of_former_schemas_are_migrated_through_kills(
    version: int, site: Site, other_site: Site, forking: Forking
) -> None:
    site.load(SCHEMAS / f'{version}.sql.xz')
    migrate_through_kills(forking, site, other_site, -(-KILLS // len(OLD)))
    with other_site.database() as database:
        assert not schema.due(database)
        upgrade_data.check(Backend(database), KEEPER)


@pytest.mark.slow
@patient
def test_the_kept_database_is_migrated_through_kills(site: Site, other_site: Site, forking: Forking) -> None:
    version = EXPECTED['user']['schema']
    site.load(KEPT / 'user' / f'{version}.sql.xz')
    migrate_through_kills(forking, site, other_site, KILLS // 2)
    assert kept_facts.differing(other_site.facts(), EXPECTED['user']['facts']) == []
    check_use(other_site, 'user')


@pytest.mark.slow
@patient
def test_the_kept_dump_is_restored_through_kills(site: Site, forking: Forking) -> None:
    """A kill leaves the data of an undisturbed restore alone; in an empty database it leaves nothing or everything."""
    restore = ('restore', *site.where, '--keep-webhooks', KEPT / 'root' / 'nipap.dump')
    said, whole_s = forking.timed('nipap-admin', *restore)
    assert said.endswith('no problems found\n')
    there = site.rows()
    kills = Kills(forking, KILLS // 2, whole_s)
    users = LocalUsers(site.directory / 'local_auth.db')
    while kills.left:
        if emptied := kills.left <= KILLS // 4:
            site.make_empty()
            replace_accounts(users, 'somebody')
        killed = kills.kill(*restore, '--replace')
        found = site.rows()
        assert found in ([there, {}] if killed and emptied else [there])
        with site.database() as database:
            restored.settle(database, users)
        names = {user.username for user in users.users()}
        assert names == ({*keep_today.ACCOUNTS} if found else {'somebody'}), 'accounts and database are of one time'
    said = forking.run('nipap-admin', *restore, '--replace')
    assert said.endswith('no problems found\n')
    assert kept_facts.differing(site.facts(), EXPECTED['root']['facts']) == []
    check_use(site, 'root')
    check_accounts(LocalUsers(site.directory / 'local_auth.db'))


def replace_accounts(users: LocalUsers, name: str) -> None:
    """Replace the file of accounts by a file with this account alone."""
    Path(users.path).unlink()
    users.create()
    users.add(LocalUser(name), 'a password')


def check_use(site: Site, variant: str) -> None:
    """Check that former calls with keys get their former answers, and that other calls work."""
    with site.database() as database:
        backend = Backend(database, key_hours=24 * 365 * 100)
        actor = replace(KEEPER, username='ann', authenticated_as='admin')
        for key, kept in EXPECTED[variant]['answers'].items():
            answer = kept_facts.plain(backend.perform(actor, Request(kept['method'], kept['members'], key)))
            assert comparable(answer) == comparable(kept['answer']), key
        args = {'from-pool': {'name': 'core-links'}, 'family': 4}
        assert backend.add_prefix(KEEPER, {'description': 'again'}, args)['prefix'] == '10.1.0.10/31'
        backend.remove_vrf(KEEPER, {'rt': '65000:20'})
        assert check.problems(database) == []


def comparable(answer: Any) -> Any:
    """Return an answer as XML-RPC shows it: moments in whole seconds, and some integers as text."""
    if isinstance(answer, dict):
        return {name: comparable(value) for name, value in answer.items()}
    if isinstance(answer, list):
        return [comparable(value) for value in answer]
    if isinstance(answer, bool) or answer is None:
        return answer
    return re.sub(r'(T\d\d:\d\d:\d\d)\.\d+$', r'\1', str(answer))
