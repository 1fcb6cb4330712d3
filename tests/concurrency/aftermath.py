"""The scene of the concurrency tests: a database for the clients, and checks of its state after they have finished.

The remaining facts (the prefixes, their types and pools) must be a tree that the rules allow. Everything derived
(children, totals, counters of pools and VRFs, free ranges) must be exact: the oracle of the property tests computes it
from the facts alone.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import psycopg2

# Import by this name in every import mode: pytest puts tests/ in the path.
from properties.oracle import FULL, Model, Pool, Prefix, Vrf, net, sound

from nipap.access.authentication import Actor
from nipap.backend import Backend
from nipap.integrity import check
from nipap.postgres.database import Database

from .clients import Job, run_together


@dataclasses.dataclass
class Scene:
    """A database and its daemon's logic, for the process of the test itself."""

    dsn: str
    db: Database
    backend: Backend
    actor: Actor

    def call(self, method: str, *members: Any) -> Any:
        """Call the backend."""
        return getattr(self.backend, method)(self.actor, *members)

    def add(self, text: str, type_: str = 'reservation', **attributes: Any) -> dict[str, Any]:
        """Add a prefix and return the answer."""
        answer: dict[str, Any] = self.call(
            'add_prefix', {'prefix': text, 'type': type_, 'description': 'd'} | attributes
        )
        return answer

    def add_pool(self, name: str, v4: int | None = None, v6: int | None = None) -> int:
        """Add a pool for assignments and return its id."""
        lengths = {'ipv4_default_prefix_length': v4, 'ipv6_default_prefix_length': v6}
        attr = {'name': name, 'description': 'd', 'default_type': 'assignment'}
        return int(self.call('add_pool', attr | lengths)['id'])

    def run(self, *jobs: Job) -> list[Any]:
        """Run clients at once and return the results of their scripts."""
        return run_together(self.dsn, jobs)

    def stored(self) -> dict[int, str]:
        """Return all prefixes by id."""
        return {row['id']: row['prefix'] for row in self.call('list_prefix', {})}

    def audit_log(self, object_type: str) -> list[tuple[int, int, str]]:
        """Return the number, object id and action of all entries about objects of a type, in order."""
        connection = psycopg2.connect(self.dsn)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(
                    'SELECT id, object_id, action FROM audit_log WHERE object_type = %s ORDER BY id', (object_type,)
                )
                return list(cursor.fetchall())
        finally:
            connection.close()

    def removed(self) -> set[int]:
        """Return the ids of all prefixes that were removed, by the audit log."""
        return {number for _, number, action in self.audit_log('prefix') if action == 'remove'}

    def check(self) -> None:
        """Assert that the daemon's own check finds nothing, and that the oracle derives the same values."""
        assert check.problems(self.db) == []
        model = self._model()
        assert sound(list(model.prefixes.values())), 'the rules forbid this tree'
        self._compare(model)

    def _model(self) -> Model:
        """Return the facts as the oracle's model, with the daemon's ids as handles."""
        model = Model()
        for row in self.call('list_vrf', {}):
            model.vrfs[row['id']] = Vrf(row['id'], row['rt'], row['name'])
        for row in self.call('list_pool', {}):
            lengths = {family: row[f'ipv{family}_default_prefix_length'] for family in FULL}
            model.pools[row['id']] = Pool(row['id'], row['name'], row['default_type'], lengths)
        for row in self.call('list_prefix', {}):
            model.prefixes[row['id']] = _as_prefix(row)
        return model

    def _compare(self, model: Model) -> None:
        answers, wrong = model.answers(), []
        for row in self.call('search_prefix', {}, {'max_result': False})['result']:
            wrong += _differences(answers.search_view(model.prefixes[row['id']]), row)
        for row in self.call('list_pool', {}):
            wrong += _differences(answers.pool_view(model.pools[row['id']]), row)
        for row in self.call('list_vrf', {}):
            wrong += _differences(answers.vrf_view(model.vrfs[row['id']]), row)
        assert not wrong, '\n'.join(wrong[:20])


def _as_prefix(row: dict[str, Any]) -> Prefix:
    return Prefix(
        handle=row['id'],
        vrf=row['vrf_id'],
        network=net(row['prefix']),
        type=row['type'],
        tags=tuple(row['tags']),
        description=row['description'],
        node=row['node'],
        pool=row['pool_id'],
    )


def _differences(expected: dict[str, Any], row: dict[str, Any]) -> list[str]:
    name = row.get('prefix', row.get('name'))
    pairs = [(key, value, row[key]) for key, value in expected.items()]
    unordered = ('inherited_tags', 'prefixes')
    return [
        f'{name} {key}: {got!r} instead of {value!r}'
        for key, value, got in pairs
        if (sorted(got) != sorted(value) if key in unordered else got != value)
    ]


def disjoint(texts: Iterable[str]) -> bool:
    """Return whether no two networks share an address."""
    networks = sorted((ipaddress.ip_network(text) for text in texts), key=lambda n: (n.version, n.network_address))
    return not any(
        one.version == other.version and one.overlaps(other)  # type: ignore[arg-type]
        for one, other in itertools.pairwise(networks)
    )


def assert_nothing_is_lost(scene: Scene, added: Sequence[tuple[int, str]], removed: Iterable[int]) -> None:
    """Assert that no acknowledged prefix is lost.

    Each is stored unless its removal was acknowledged, and nothing else was removed.
    """
    stored, gone = scene.stored(), set(removed)
    ids = [number for number, _ in added]
    assert len(set(ids)) == len(ids), 'an id was given twice'
    assert scene.removed() == gone, 'the removed prefixes differ from the acknowledged removals'
    missing = [(number, text) for number, text in added if number not in stored and number not in gone]
    assert not missing, f'acknowledged but not stored: {missing}'
    assert not gone & set(stored), f'removed but still stored: {gone & set(stored)}'
