"""Searches of the audit log, by each of their ways, against a filter of all entries.

The partitions of the log are small here, and so are the numbers of entries at which a search takes another way.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg2.extras import execute_values

from nipap.access.authentication import Actor
from nipap.backend import Backend
from nipap.calls import Request
from nipap.history import changes
from nipap.objects.kinds import AUDIT_ENTRIES
from nipap.postgres.database import Database
from nipap.postgres.transaction import Transaction

PARTITION, PARTITIONS = 10, 12
SPAN = 4
SMALL = {
    'PARTITION': PARTITION,
    'WALKED': 2,
    'MOST_WALKED': 6,
    'SAMPLE': 2,
    'MOST_CANDIDATES': 4,
    'AT_ONCE': 3,
    'ROUNDS': 12,
}
BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
PLACES = (
    *('0.0.0.0/0', '10.0.0.0/8', '10.0.0.0/16', '10.0.1.0/24', '10.0.1.7/32', '10.1.0.0/16', '192.0.2.0/24'),
    *('::/0', '2001:db8::/32', '2001:db8::1/128'),
)
USERS, VRFS = ('ann', 'ben', 'kim'), (0, 1, 2)
FIRST_SET = 1000  # change sets of today's programs; those of older entries have the id of their first entry
ACTOR = Actor('test', None, 'test', 'test', readonly=True)

Query = dict[str, Any]
Network = IPv4Network | IPv6Network


# ---------------------------------------------------------------- a log


@dataclass(frozen=True)
class Entry:
    """An audit entry. network: the place after the change, or before a removal. former: the place before a move."""

    id: int
    change_set: int
    at: datetime
    username: str
    kind: str
    object_id: int
    action: str
    vrf: int
    network: str
    former: str
    text: str

    def side(self, network: str, text: str) -> dict[str, Any]:
        if self.kind != 'prefix':
            return {'id': self.object_id, 'name': f'{self.kind} {self.object_id}', 'description': text}
        return {'id': self.object_id, 'vrf_id': self.vrf, 'prefix': network, 'description': text}

    @property
    def before(self) -> dict[str, Any] | None:
        return (
            None if self.action == 'add' else self.side(self.former if self.action == 'edit' else self.network, 'old')
        )

    @property
    def after(self) -> dict[str, Any] | None:
        return None if self.action == 'remove' else self.side(self.network, self.text)

    @property
    def places(self) -> list[Network]:
        """Return the places of a prefix before and after the change."""
        sides = [side for side in (self.before, self.after) if side is not None] if self.kind == 'prefix' else []
        return [ip_network(side['prefix']) for side in sides]


@dataclass
class Log:
    """Entries with their change sets; only the times of entries up to `known` are known."""

    entries: list[Entry] = field(default_factory=list)
    older: int = 0  # entries up to this id are older than change sets
    known: int = 0

    def write(self, db: Database) -> None:
        """Replace the log of a database."""
        sets: dict[int, list[Entry]] = {}
        for entry in self.entries:
            sets.setdefault(entry.change_set, []).append(entry)
        spans: dict[int, list[Entry]] = {}
        for entry in self.entries:
            if entry.id <= self.known:
                spans.setdefault(entry.id // SPAN, []).append(entry)
        rows = [
            (
                *(one.id, one.at, one.username, one.username, 'x', one.kind, one.object_id, one.action),
                *(None if side is None else json.dumps(side) for side in (one.before, one.after)),
                None if one.id <= self.older else one.change_set,
            )
            for one in self.entries
        ]
        numbered = [
            (number, some[0].at, some[0].username, some[0].username, 'x', *bounds(number, some))
            for number, some in sets.items()
        ]
        times = [
            (min(n * SPAN + SPAN - 1, self.known), n * SPAN, min(e.at for e in some), max(e.at for e in some))
            for n, some in spans.items()
        ]

        def work(tx: Any) -> None:
            tx.execute('SET LOCAL session_replication_role = replica; TRUNCATE audit_log, change_set, audit_span')
            cursor = tx._cursor
            execute_values(cursor, f'INSERT INTO change_set ({SET_COLUMNS}) VALUES %s', numbered)
            execute_values(cursor, f'INSERT INTO audit_log ({COLUMNS}) VALUES %s', rows)
            if times:
                execute_values(cursor, 'INSERT INTO audit_span VALUES %s', times)
            last = self.entries[-1].id
            tx.execute("SELECT setval('audit_log_id_seq', %s), setval('vrf_id_seq', %s)", (last, max(VRFS)))

        db.run(work)


COLUMNS = (
    'id, at, username, authenticated_as, authoritative_source, object_type, object_id, action, before, after, '
    'change_set'
)
SET_COLUMNS = 'id, at, username, authenticated_as, authoritative_source, last_older_entry, entries_after'


def bounds(number: int, some: list[Entry]) -> tuple[int | None, int]:
    """Return the columns of a change set that say where its entries are."""
    return (None, some[0].id - 1) if number >= FIRST_SET else (some[-1].id, 0)


@st.composite
def logs(draw: Callable[[Any], Any]) -> Log:
    """Return a log of up to 50 entries in several partitions."""
    log, number, sets = Log(), 0, FIRST_SET
    count = draw(st.one_of(st.integers(1, 50), st.integers(30, 50)))
    older = draw(st.integers(0, 15))
    open_sets: list[Entry] = []  # the last entry of each change set that can go on
    for n in range(count):
        number += draw(st.integers(1, 3))
        user, at = draw(st.sampled_from(USERS)), BEGIN + timedelta(minutes=draw(st.integers(0, 40)))
        going_on = [each for each in open_sets if (each.change_set < FIRST_SET) == (n < older)][
            -1 if n < older else -2 :
        ]
        former_set = draw(st.sampled_from([None, *going_on]))
        if former_set is not None:
            change_set, user, at = former_set.change_set, former_set.username, former_set.at
            open_sets.remove(former_set)
        elif n < older:
            change_set = number
        else:
            change_set = sets = sets + 1
        network = draw(st.sampled_from(PLACES))
        log.entries.append(
            Entry(
                number,
                change_set,
                at,
                user,
                draw(st.sampled_from(('prefix', 'prefix', 'prefix', 'vrf', 'pool'))),
                draw(st.integers(0, 3)),
                draw(st.sampled_from(('add', 'edit', 'remove'))),
                draw(st.sampled_from(VRFS)),
                network,
                draw(st.sampled_from((network, *PLACES))),
                draw(st.sampled_from(('old', 'new'))),
            )
        )
        open_sets.append(log.entries[-1])
        if n < older:
            log.older = number
    log.known = draw(st.integers(0, number))
    return log


# ---------------------------------------------------------------- queries, and what they mean

INSIDE: dict[str, Callable[[Network, Network], bool]] = {
    '<<': lambda ours, theirs: ours != theirs and ours.subnet_of(theirs),  # type: ignore[arg-type]  # both have one family
    '<<=': lambda ours, theirs: ours.subnet_of(theirs),  # type: ignore[arg-type]  # both have one family
    '>>': lambda ours, theirs: ours != theirs and ours.supernet_of(theirs),  # type: ignore[arg-type]  # both have one family
    '>>=': lambda ours, theirs: ours.supernet_of(theirs),  # type: ignore[arg-type]  # both have one family
    '=': lambda ours, theirs: ours == theirs,
}
TIMES: dict[str, Callable[[datetime, datetime], bool]] = {
    '<': lambda ours, theirs: ours < theirs,
    '<=': lambda ours, theirs: ours <= theirs,
    '>': lambda ours, theirs: ours > theirs,
    '>=': lambda ours, theirs: ours >= theirs,
    '=': lambda ours, theirs: ours == theirs,
}


def leaf(name: str, values: st.SearchStrategy[Any], operators: tuple[str, ...] = ('=',)) -> st.SearchStrategy[Query]:
    return st.builds(
        lambda sign, value: {'operator': sign, 'val1': name, 'val2': value}, st.sampled_from(operators), values
    )


NETWORKS = leaf('prefix', st.sampled_from(PLACES), tuple(INSIDE))
IN_VRF = leaf('vrf_id', st.sampled_from(VRFS))
OF_SET = leaf('change_set', st.one_of(st.integers(1, 12), st.integers(FIRST_SET, FIRST_SET + 12)))
BY_INDEX = st.one_of(leaf('object_id', st.integers(0, 3)), leaf('username', st.sampled_from(USERS)))
NEW = leaf('after.description', st.just('new'))
LEAVES = st.one_of(
    NETWORKS,
    IN_VRF,
    leaf('at', st.integers(0, 40).map(lambda minutes: (BEGIN + timedelta(minutes=minutes)).isoformat()), tuple(TIMES)),
    leaf('kind', st.sampled_from(('prefix', 'vrf', 'pool'))),
    BY_INDEX,
    leaf('action', st.sampled_from(('add', 'edit', 'remove'))),
    OF_SET,
    NEW,
)


def joined(word: str, left: st.SearchStrategy[Query], right: st.SearchStrategy[Query]) -> st.SearchStrategy[Query]:
    return st.builds(lambda one, other: {'operator': word, 'val1': one, 'val2': other}, left, right)


IN_PLACE = joined('and', IN_VRF, NETWORKS)
QUERIES = st.one_of(
    st.just({}),
    LEAVES,
    IN_PLACE,
    joined('and', LEAVES, LEAVES),
    joined('and', IN_PLACE, LEAVES),
    joined('and', IN_VRF, joined('and', BY_INDEX, NEW)),
    joined('and', OF_SET, LEAVES),
    OF_SET,
    joined('or', LEAVES, LEAVES),
    joined('and', LEAVES, joined('and', LEAVES, LEAVES)),
)


def holds(query: Query, entry: Entry) -> bool:
    """Return whether a query is true for an entry."""
    if not query:
        return True
    sign, name, value = query['operator'], query['val1'], query['val2']
    if sign in ('and', 'or'):
        sides = (holds(name, entry), holds(value, entry))
        return all(sides) if sign == 'and' else any(sides)
    if name == 'prefix':
        wanted = ip_network(value)
        return any(ours.version == wanted.version and INSIDE[sign](ours, wanted) for ours in entry.places)
    if name == 'vrf_id':
        return value == {'prefix': entry.vrf, 'vrf': entry.object_id}.get(entry.kind)
    if name == 'at':
        return TIMES[sign](entry.at, datetime.fromisoformat(value))
    if name == 'after.description':
        return entry.after is not None and entry.after['description'] == value
    return bool(getattr(entry, name) == value)


# ---------------------------------------------------------------- the search


@pytest.fixture(scope='module')
def past(shared_dsn: str) -> Iterator[Database]:
    """Yield a database whose log has small partitions."""
    db = Database(shared_dsn)
    parts = [
        f'CREATE TABLE part_{n} PARTITION OF audit_log FOR VALUES FROM ({n * PARTITION}) TO ({(n + 1) * PARTITION})'
        for n in range(PARTITIONS)
    ]
    db.run(lambda tx: tx.execute('; '.join(['DROP TABLE audit_log_1, audit_log_2', *parts])))
    yield db
    db.close()


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALL.items():
        monkeypatch.setattr(changes, name, value)


def pages(db: Database, query: Query, size: int) -> list[dict[str, Any]]:
    """Return all entries of a search, read page by page."""
    found: list[dict[str, Any]] = []
    after = ''
    for _ in range(200):
        options = {'max_result': size, 'after': after}
        answer = Backend(db).perform(ACTOR, Request('search_audit', {'query': query, 'search_options': options}))
        assert len(answer['result']) <= size
        found += answer['result']
        after = answer.get('after', '')
        if not after:
            return found
    raise AssertionError('the pages do not end')


@pytest.mark.usefixtures('_small')
@pytest.mark.slow
@settings(max_examples=60)
@given(
    log=logs(),
    queries=st.lists(QUERIES, min_size=1, max_size=5),
    size=st.integers(1, 6),
    rounds=st.sampled_from((1, 12)),
)
def test_pages_have_exactly_the_matching_entries(
    past: Database, log: Log, queries: list[Query], size: int, rounds: int
) -> None:
    log.write(past)
    changes.ROUNDS = rounds
    for query in queries:
        expected = [entry for entry in reversed(log.entries) if holds(query, entry)]
        found = pages(past, query, size)
        assert [entry['id'] for entry in found] == [entry.id for entry in expected], query
        assert [entry['change_set'] for entry in found] == [entry.change_set for entry in expected]
        assert past.read(partial(listed, query)) == [entry.id for entry in expected]


def listed(query: Query, tx: Transaction) -> list[int]:
    """Return the ids of all entries of a search, read as a long list is."""
    parts = changes.find_all(tx, AUDIT_ENTRIES.compile(query))
    return [entry['id'] for entry in itertools.chain.from_iterable(parts)]
