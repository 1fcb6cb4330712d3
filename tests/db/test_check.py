"""The check of the invariants finds and names every kind of corruption, and nothing else."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from nipap.access.authentication import Actor
from nipap.backend import Backend
from nipap.errors import NipapError
from nipap.integrity import check
from nipap.postgres import schema
from nipap.postgres.database import Database
from nipap.postgres.transaction import Transaction

PATIENCE_S = 30.0

# Networks of a VRF with their types. A pool has members of both families; one of its members has no children.
TREE = {
    '10.0.0.0/8': 'reservation',
    '10.0.0.0/16': 'reservation',
    '10.0.0.0/24': 'assignment',
    '10.0.0.1/32': 'host',
    '10.0.0.9/32': 'host',
    '10.0.5.0/24': 'assignment',
    '10.200.0.0/16': 'reservation',
    '255.255.255.0/24': 'assignment',
    '255.255.255.255/32': 'host',
    '2001:db8::/32': 'reservation',
    '2001:db8:1::/48': 'assignment',
    '2001:db8:1::1/128': 'host',
    'ffff::/16': 'reservation',
}
MEMBERS = ('10.0.0.0/16', '10.200.0.0/16', '2001:db8::/32')


def populate(backend: Backend, actor: Actor) -> None:
    """Add two VRFs with prefixes and a third without, two pools, and traces of changes."""
    for number in (1, 2):
        backend.add_vrf(actor, {'rt': f'65000:{number}', 'name': f'vrf {number}'})
    pool = {'description': 'd', 'default_type': 'assignment'}
    lengths = {'ipv4_default_prefix_length': 24, 'ipv6_default_prefix_length': 48}
    backend.add_pool(actor, {'name': 'members', **pool, **lengths})
    backend.add_pool(actor, {'name': 'no lengths', **pool})
    for text, kind in TREE.items():
        for vrf in (0, 1):
            attr = {'prefix': text, 'type': kind, 'vrf_id': vrf, 'description': 'd'}
            if vrf == 0 and text in MEMBERS:
                attr['pool_name'] = 'members'
            backend.add_prefix(actor, attr)
    for family in (4, 4, 6):
        backend.add_prefix(actor, {'description': 'd'}, {'from-pool': {'name': 'members'}, 'family': family})
    backend.remove_prefix(actor, {'prefix': '10.0.0.0/8', 'vrf_id': 1})
    backend.edit_prefix(actor, {'prefix': '10.0.5.0/24', 'vrf_id': 1}, {'prefix': '172.16.0.0/12'})


@pytest.fixture
def populated(db: Database, backend: Backend, actor: Actor) -> Database:
    """Return a database without problems."""
    populate(backend, actor)
    return db


def test_an_empty_database_has_no_problems(db: Database) -> None:
    assert check.problems(db) == []


def test_a_populated_database_has_no_problems(populated: Database) -> None:
    assert check.problems(populated) == []


# ---------------------------------------------------------------- corruption

P = "vrf_id = 0 AND prefix = '{}'"
OWNER = "(SELECT id FROM prefix WHERE vrf_id = 0 AND prefix = '{}')"


def changed(network: str, column: str, value: str) -> str:
    """Return a statement that changes one column of one prefix of VRF 0."""
    return f'UPDATE prefix SET {column} = {value} WHERE {P.format(network)}'


def range_of(network: str) -> str:
    """Return a condition that selects the last free range of a prefix of VRF 0."""
    owner = OWNER.format(network)
    return f'owner = {owner} AND last_address = (SELECT max(last_address) FROM free_range WHERE owner = {owner})'


# For each corruption its statement, and a pattern for each problem that the check must find, and no others.
CORRUPTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    'no parent': (
        changed('10.0.0.0/24', 'parent_id', 'NULL'),
        (r'10\.0\.0\.0/24 in VRF 0 \(id \d+\): parent_id is None, must be \d+',),
    ),
    'the parent of the parent': (
        changed('10.0.0.1/32', 'parent_id', OWNER.format('10.0.0.0/16')),
        (r'10\.0\.0\.1/32 in VRF 0 .*: parent_id is \d+, must be \d+',),
    ),
    'a parent of another VRF': (
        changed(
            '2001:db8:1::1/128', 'parent_id', "(SELECT id FROM prefix WHERE vrf_id = 1 AND prefix = '2001:db8:1::/48')"
        ),
        (r'2001:db8:1::1/128 in VRF 0 .*: parent_id is \d+, must be \d+',),
    ),
    'a parent that does not exist': (
        changed('10.0.5.0/24', 'parent_id', '123456789'),
        (r'10\.0\.5\.0/24 in VRF 0 .*: parent_id is 123456789, must be \d+',),
    ),
    'a parent at the top level': (
        changed('ffff::/16', 'parent_id', OWNER.format('2001:db8::/32')),
        (r'ffff::/16 in VRF 0 .*: parent_id is \d+, must be None',),
    ),
    'a child too many': (changed('10.0.0.0/24', 'children', '3'), (r'10\.0\.0\.0/24 .*: children is 3, must be 2',)),
    'a child too few': (changed('10.0.0.0/24', 'children', '1'), (r'10\.0\.0\.0/24 .*: children is 1, must be 2',)),
    'a child of a leaf': (changed('10.0.5.0/24', 'children', '1'), (r'10\.0\.5\.0/24 .*: children is 1, must be 0',)),
    'used addresses': (
        changed('10.0.0.0/24', 'used_addresses', 'used_addresses + 1'),
        (r'10\.0\.0\.0/24 .*: used_addresses is 3, must be 2',),
    ),
    'used addresses at the top level': (
        changed('2001:db8::/32', 'used_addresses', 'used_addresses - 1'),
        (r'2001:db8::/32 .*: used_addresses is \d+, must be \d+',),
    ),
    'used addresses of a leaf': (
        changed('10.0.5.0/24', 'used_addresses', '256'),
        (r'10\.0\.5\.0/24 .*: used_addresses is 256, must be 0',),
    ),
    'used addresses of a single address': (
        changed('10.0.0.1/32', 'used_addresses', '0'),
        (r'10\.0\.0\.1/32 .*: used_addresses is 0, must be 1',),
    ),
    'free blocks': (
        changed('10.0.0.0/16', 'free_blocks', 'free_blocks + 1'),
        (r'10\.0\.0\.0/16 .*: free_blocks is \d+, must be \d+',),
    ),
    'free blocks of a member without children': (
        changed('10.200.0.0/16', 'free_blocks', '255'),
        (r'10\.200\.0\.0/16 .*: free_blocks is 255, must be 256',),
    ),
    'free blocks in IPv6': (
        changed('2001:db8::/32', 'free_blocks', '65536'),
        (r'2001:db8::/32 .*: free_blocks is 65536, must be 65534',),
    ),
    'no free blocks of a member': (
        changed('10.0.0.0/16', 'free_blocks', 'NULL'),
        (r'10\.0\.0\.0/16 .*: free_blocks is None, must be \d+',),
    ),
    'free blocks without a pool': (
        changed('10.0.0.0/8', 'free_blocks', '0'),
        (r'10\.0\.0\.0/8 .*: free_blocks is 0, must be None',),
    ),
    'free blocks without a default length': (
        changed('10.200.0.0/16', 'pool_id', "(SELECT id FROM pool WHERE name = 'no lengths')"),
        (r'10\.200\.0\.0/16 .*: free_blocks is 256, must be None',),
    ),
    'a default length that was changed': (
        "UPDATE pool SET ipv4_default_prefix_length = 25 WHERE name = 'members'",
        (r'10\.0\.0\.0/16 .*: free_blocks', r'10\.200\.0\.0/16 .*: free_blocks is 256, must be 512'),
    ),
    'a free range missing': (
        f'DELETE FROM free_range WHERE {range_of("10.0.0.0/24")}',
        (r'10\.0\.0\.0/24 .*: its free ranges are \[.*\], must be \[.*\]',),
    ),
    'all free ranges missing': (
        f'DELETE FROM free_range WHERE owner = {OWNER.format("10.0.0.0/24")}',
        (r'10\.0\.0\.0/24 .*: its free ranges are \[\], must be \[.*\]',),
    ),
    'a free range of a leaf': (
        f"INSERT INTO free_range VALUES ({OWNER.format('10.0.5.0/24')}, '10.0.5.0', '10.0.5.255', 24)",
        ('free ranges of owner \\d+, which has no children or does not exist: 1',),
    ),
    'a free range where a child is': (
        f"INSERT INTO free_range VALUES ({OWNER.format('10.0.0.0/24')}, '10.0.0.9', '10.0.0.9', 32)",
        (r'10\.0\.0\.0/24 .*: its free ranges are',),
    ),
    'a free range outside of its owner': (
        f"INSERT INTO free_range VALUES ({OWNER.format('10.0.0.0/24')}, '10.9.0.0', '10.9.0.255', 24)",
        (r'10\.0\.0\.0/24 .*: its free ranges are',),
    ),
    'a free range of the other family': (
        f"INSERT INTO free_range VALUES ({OWNER.format('10.0.0.0/24')}, '::1', '::1', 128)",
        (r'10\.0\.0\.0/24 .*: its free ranges are',),
    ),
    'a free range in two parts': (
        f"""WITH whole AS (DELETE FROM free_range WHERE {range_of('10.0.0.0/24')} RETURNING *)
            INSERT INTO free_range
            SELECT owner, first_address, inet '10.0.0.127', range_fit(first_address, '10.0.0.127') FROM whole UNION ALL
            SELECT owner, inet '10.0.0.128', last_address, 25 FROM whole""",
        (r'10\.0\.0\.0/24 .*: its free ranges are',),
    ),
    'a fit too large': (
        f'UPDATE free_range SET fit = fit - 1 WHERE {range_of("10.0.0.0/24")}',
        (r'10\.0\.0\.0/24 .*: its free ranges are',),
    ),
    'a fit too small': (
        f'UPDATE free_range SET fit = fit + 1 WHERE {range_of("2001:db8:1::/48")}',
        (r'2001:db8:1::/48 .*: its free ranges are',),
    ),
    'a first address': (
        f'UPDATE free_range SET first_address = first_address + 1 WHERE {range_of("10.0.0.0/24")}',
        (r'10\.0\.0\.0/24 .*: its free ranges are',),
    ),
    'a last address': (
        f'UPDATE free_range SET last_address = last_address - 1 WHERE {range_of("2001:db8:1::/48")}',
        (r'2001:db8:1::/48 .*: its free ranges are',),
    ),
    'free ranges of nobody': (
        "INSERT INTO free_range VALUES (123456789, '10.0.0.0', '10.0.0.255', 24)",
        ('free ranges of owner 123456789, which has no children or does not exist: 1',),
    ),
    'free ranges of a VRF that does not exist': (
        "INSERT INTO free_range VALUES (-1999, '0.0.0.0', '255.255.255.255', 0)",
        ('free ranges of owner -1999, which has no children or does not exist: 1',),
    ),
    'a free range of a VRF missing': (
        "DELETE FROM free_range WHERE owner = -1 AND last_address = '9.255.255.255'",
        ('VRF 0 IPv4: its free ranges are',),
    ),
    'the free range of an empty VRF missing': (
        "DELETE FROM free_range WHERE owner = -2 - 2 * (SELECT id FROM vrf WHERE name = 'vrf 2')",
        (r'VRF \d+ IPv6: its free ranges are \[\], must be \[0-\d+ /0\]',),
    ),
    'a free range of a VRF too long': (
        "UPDATE free_range SET last_address = '255.255.255.0' WHERE owner = -1 AND last_address = '255.255.254.255'",
        ('VRF 0 IPv4: its free ranges are',),
    ),
    'the number of prefixes': (
        'UPDATE vrf_total SET num_prefixes = num_prefixes + 1 WHERE vrf_id = 0 AND family = 4',
        ('VRF 0 IPv4: totals are',),
    ),
    'the addresses of a VRF': (
        'UPDATE vrf_total SET total_addresses = total_addresses + 1 WHERE vrf_id = 0 AND family = 6',
        ('VRF 0 IPv6: totals are',),
    ),
    'the used addresses of a VRF': (
        'UPDATE vrf_total SET used_addresses = used_addresses - 1 WHERE vrf_id = 1 AND family = 6',
        (r'VRF 1 IPv6: totals are \(.*\), must be \(.*\)',),
    ),
    'totals missing': (
        'DELETE FROM vrf_total WHERE vrf_id = 1',
        (r'VRF 1 IPv4: totals are \(0, 0, 0\)', r'VRF 1 IPv6: totals are \(0, 0, 0\)'),
    ),
    'totals of an empty VRF': (
        "INSERT INTO vrf_total SELECT id, 6, 99, 1, 1, 1 FROM vrf WHERE name = 'vrf 2'",
        (r'VRF \d+ IPv6: totals are \(1, 1, 1\), must be \(0, 0, 0\)',),
    ),
    'the rank of a VRF': (
        "UPDATE vrf SET rt_rank = 7 WHERE rt = '65000:1'",
        (r'VRF \d+: rt_rank is 7, must be 279172874240001',),
    ),
    'the text of a prefix': (
        f"UPDATE prefix_words SET words = 'other' WHERE prefix_id = {OWNER.format('10.0.0.0/24')}",
        (r'prefix \d+: its text in prefix_words differs from its attributes',),
    ),
    'the text of a prefix missing': (
        f'DELETE FROM prefix_words WHERE prefix_id = {OWNER.format("10.0.0.0/24")}',
        (r'prefix \d+: its text in prefix_words differs from its attributes',),
    ),
    'a text of nobody': (
        "INSERT INTO prefix_words VALUES (123456789, 'd')",
        (r'prefix 123456789: its text in prefix_words differs from its attributes',),
    ),
    'a route target that is none': (
        "UPDATE vrf SET rt = 'x' WHERE rt = '65000:1'",
        (r"VRF \d+: 'x' is not a route t",),
    ),
    'an assignment in an assignment': (
        changed('10.0.0.0/16', 'type', "'assignment'"),
        (
            # two of the four were allocated
            r'10\.0\.0\.0/24 .*: a assignment inside assignment',
            r'10\.0\.1\.0/24 .*: a assignment inside assignment',
            r'10\.0\.2\.0/24 .*: a assignment inside assignment',
            r'10\.0\.5\.0/24 .*: a assignment inside assignment',
        ),
    ),
    'a reservation in an assignment': (
        changed('10.0.0.0/8', 'type', "'assignment'"),
        (
            r'10\.0\.0\.0/16 .*: a reservation inside assignment',
            r'10\.200\.0\.0/16 .*: a reservation inside assignment',
        ),
    ),
    'hosts in a reservation': (
        changed('10.0.0.0/24', 'type', "'reservation'"),
        (
            r'10\.0\.0\.1/32 .*: a host inside reservation',
            r'10\.0\.0\.9/32 .*: a host inside reservation',
        ),
    ),
    'a host without parent': (
        "INSERT INTO prefix (vrf_id, prefix, type, used_addresses) VALUES (0, '9.9.9.9', 'host', 1)",
        (
            r'9\.9\.9\.9/32 .*: a host inside no prefix',
            'VRF 0 IPv4: totals are',
            'VRF 0 IPv4: its free ranges are',
            r'prefix \d+: its text in prefix_words',
        ),
    ),
    'a prefix that came past the functions': (
        "INSERT INTO prefix (vrf_id, prefix, type) VALUES (0, '10.0.6.0/24', 'assignment')",
        (
            r'10\.0\.6\.0/24 .*: parent_id is None',
            r'10\.0\.0\.0/16 .*: children is',
            r'10\.0\.0\.0/16 .*: used_addresses is',
            r'10\.0\.0\.0/16 .*: free_blocks is',
            r'10\.0\.0\.0/16 .*: its free ranges are',
            'VRF 0 IPv4: totals are',
            r'prefix \d+: its text in prefix_words',
        ),
    ),
    'a prefix that went past the functions': (
        f'DELETE FROM prefix WHERE {P.format("10.0.0.9/32")}',
        (
            r'10\.0\.0\.0/24 .*: children is 2, must be 1',
            r'10\.0\.0\.0/24 .*: used_addresses is 2, must be 1',
            r'10\.0\.0\.0/24 .*: its free ranges are',
            'VRF 0 IPv4: totals are',
            r'prefix \d+: its text in prefix_words',
        ),
    ),
    'a pool in two VRFs': (
        "UPDATE prefix SET free_blocks = 65536, pool_id = (SELECT id FROM pool WHERE name = 'members') "
        "WHERE vrf_id = 1 AND prefix = 'ffff::/16'",
        (r'pool \d+ has members in 2 VRFs', r'ffff::/16 in VRF 1 .*: free_blocks is 65536, must be 4294967296'),
    ),
}


@pytest.mark.parametrize('corruption', CORRUPTIONS)
def test_corruption_is_found(populated: Database, corruption: str) -> None:
    statement, patterns = CORRUPTIONS[corruption]
    assert populated.run(lambda tx: tx.execute(statement)) > 0, 'nothing was changed'
    found = check.problems(populated)
    unseen = [pattern for pattern in patterns if not any(re.match(pattern, problem) for problem in found)]
    others = [problem for problem in found if not any(re.match(pattern, problem) for pattern in patterns)]
    assert (unseen, others) == ([], []), found


def test_a_missing_default_vrf_is_found(db: Database) -> None:
    db.run(lambda tx: tx.execute('DELETE FROM vrf WHERE id = 0'))
    assert check.problems(db)[0] == 'VRF 0 is missing'


@pytest.fixture
def lawless(empty_dsn: str, actor: Actor) -> Iterator[Database]:
    """Yield a populated database that has lost its check constraints."""
    schema.install(empty_dsn)
    database = Database(empty_dsn)
    populate(Backend(database), actor)
    database.run(
        lambda tx: tx.execute("""DO $$ DECLARE name name; BEGIN
            FOR name IN SELECT conname FROM pg_constraint WHERE conrelid = 'prefix'::regclass AND contype = 'c' LOOP
                EXECUTE format('ALTER TABLE prefix DROP CONSTRAINT %I', name);
            END LOOP; END $$""")
    )
    yield database
    database.close()


def test_values_that_only_a_lost_constraint_allows_are_found(lawless: Database) -> None:
    assert check.problems(lawless) == []
    for statement in (
        changed('255.255.255.255/32', 'type', "'assignment'"),
        changed('10.0.5.0/24', 'node', "'router'"),  # NIPAP stored these, and they may stay
        changed('ffff::/16', 'node', "'router'"),
        changed('10.0.1.0/24', 'type', "'host'"),
    ):
        lawless.run(partial(Transaction.execute, statement=statement))
    found = [re.sub(r' \(id \d+\)', '', problem) for problem in check.problems(lawless)]
    assert sorted(found) == [
        '10.0.1.0/24 in VRF 0: a host inside reservation',
        '10.0.1.0/24 in VRF 0: a host that is not full length',
        '255.255.255.255/32 in VRF 0: a assignment inside assignment',
    ]


# The addition of addresses of PostgreSQL, declared to return a cidr, makes values that the type does not accept.
SHIFTED = "CREATE FUNCTION pg_temp.shifted(inet, bigint) RETURNS cidr LANGUAGE internal IMMUTABLE STRICT AS 'inetpl'"
BITS_SET = (
    SHIFTED,
    "UPDATE prefix SET prefix = pg_temp.shifted(prefix, 7) WHERE vrf_id = 0 AND prefix = '10.200.0.0/16'",
    "INSERT INTO prefix (vrf_id, prefix, type) VALUES (0, pg_temp.shifted('2001:db8:1::/48', 1), 'assignment')",
)
WRONG_NETWORKS = [
    '10.200.0.7/16 in VRF 0: has bits set beyond its length',
    '2001:db8:1::1/48 in VRF 0: a assignment inside assignment',
    '2001:db8:1::1/48 in VRF 0: has bits set beyond its length',
    '2001:db8:1::1/48 in VRF 0: the same network as id N',
]


def test_invalid_networks_are_found(populated: Database) -> None:
    for statement in BITS_SET:
        populated.run(partial(Transaction.execute, statement=statement))
    found = {without_ids(problem) for problem in check.problems(populated)}
    assert found >= set(WRONG_NETWORKS)


def without_ids(problem: str) -> str:
    """Return a problem without the ids, which differ from run to run."""
    return re.sub(r'as id \d+', 'as id N', re.sub(r' \(id \d+\)', '', problem))


def test_prefixes_of_a_vrf_that_does_not_exist_are_found(lawless: Database) -> None:
    lawless.run(lambda tx: tx.execute("DELETE FROM vrf WHERE name = 'vrf 1'"))
    found = [without_ids(problem) for problem in check.problems(lawless)]
    assert len([problem for problem in found if problem.endswith(': its VRF does not exist')]) == len(TREE) - 1
    assert [problem for problem in found if not re.search('its VRF does not exist|free ranges of owner', problem)] == []


# ---------------------------------------------------------------- concurrent changes

NETWORKS = [f'10.0.{third}.{fourth}/{length}' for third in range(8) for fourth, length in ((0, 24), (1, 32), (128, 25))]


class Writer(threading.Thread):
    """Changes the tree without pause until it is stopped."""

    def __init__(self, dsn: str, actor: Actor, number: int) -> None:
        super().__init__()
        self.db = Database(dsn)
        self.backend, self.actor, self.random = Backend(self.db), actor, random.Random(number)
        self.enough = threading.Event()
        self.changes = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.enough.is_set():
                self._change()
        except BaseException as exc:
            self.failure = exc
        finally:
            self.db.close()

    def _change(self) -> None:
        network, kind = self.random.choice(NETWORKS), self.random.choice(('reservation', 'assignment', 'host'))
        spec: dict[str, Any] = {'prefix': network}
        try:
            match self.random.randrange(4):
                case 0:
                    self.backend.remove_prefix(self.actor, spec, recursive=self.random.random() < 0.3)
                case 1:
                    self.backend.edit_prefix(self.actor, spec, {'prefix': self.random.choice(NETWORKS)})
                case _:
                    self.backend.add_prefix(self.actor, {**spec, 'type': kind, 'description': 'd'})
            self.changes += 1
        except NipapError:
            pass  # refused by the rules of the tree


@contextmanager
def writing(dsn: str, actor: Actor) -> Iterator[None]:
    """Run two writers during the block; each of them must change something and must not fail."""
    writers = [Writer(dsn, actor, number) for number in range(2)]
    for writer in writers:
        writer.start()
    try:
        yield
    finally:
        for writer in writers:
            writer.enough.set()
        for writer in writers:
            writer.join(PATIENCE_S)
    assert [writer.failure for writer in writers if writer.failure] == []
    assert all(writer.changes for writer in writers)


def test_a_database_that_is_being_changed_has_no_problems(populated: Database, dsn: str, actor: Actor) -> None:
    with writing(dsn, actor):
        found = [problem for _ in range(8) for problem in check.problems(populated)]
    assert found == []
    assert check.problems(populated) == []


def test_checking_changes_nothing(populated: Database) -> None:
    def sizes() -> list[Any]:
        sql = 'SELECT pg_current_xact_id_if_assigned() IS NULL, count(*), sum(id), sum(xmin::text::bigint) FROM prefix'
        return populated.read(lambda tx: tx.all(sql))

    before = sizes()
    check.problems(populated)
    assert sizes() == before
