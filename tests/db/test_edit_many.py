"""One call edits as many prefixes as there are: each gets an audit entry, and derived values stay right."""

from __future__ import annotations

import os
from typing import Any

import pytest

from nipap.access.authentication import Actor
from nipap.backend import Backend
from nipap.errors import NipapValueError
from nipap.integrity import check
from nipap.postgres.database import Database

# The promise holds for 100,000 prefixes; the full size is tested when there is time, as with the property tests.
MANY = 100_000 if os.environ.get('HYPOTHESIS_PROFILE') == 'soak' else 20_000
AT_ONCE = 10_000
LOGGED = """SELECT count(*), count(DISTINCT object_id), count(*) FILTER (WHERE before <> after), min(username)
    FROM audit_log WHERE action = 'edit' AND object_type = 'prefix'"""


@pytest.fixture
def vrf_id(backend: Backend, actor: Actor) -> int:
    """Return a VRF with many prefixes: an assignment for every 249 hosts; add one more prefix outside the VRF."""
    vrf: int = backend.add_vrf(actor, {'rt': '1:1', 'name': 'v'})['id']
    fixed = {'vrf_id': vrf, 'description': 'd'}
    for start in range(0, MANY, AT_ONCE):
        attrs = [
            {'prefix': f'10.{n // 64000}.{n // 250 % 256}.0/24', 'type': 'assignment', **fixed}
            if n % 250 == 0
            else {'prefix': f'10.{n // 64000}.{n // 250 % 256}.{n % 250}/32', 'type': 'host', 'node': f'n{n}', **fixed}
            for n in range(start, min(start + AT_ONCE, MANY))
        ]
        backend.add_prefixes(actor, attrs, ids=True)
    backend.add_prefix(actor, {'prefix': '10.0.0.0/24', 'type': 'assignment', 'description': 'd'})
    return vrf


@pytest.mark.timeout(600)
def test_one_call_edits_all(db: Database, backend: Backend, actor: Actor, vrf_id: int) -> None:
    attr: dict[str, Any] = {'description': 'changed', 'tags': ['a', 'b'], 'avps': {'k': 'v'}}
    answer = backend.edit_prefix(actor, {'vrf_id': vrf_id}, attr)
    assert len(answer) == MANY
    assert all({name: row[name] for name in attr} == attr for row in answer)
    assert db.read(lambda tx: tx.one(LOGGED)) == (MANY, MANY, MANY, 'test')
    # One refused prefix rolls back all others: an assignment with more than one address cannot have a node.
    with pytest.raises(NipapValueError):
        backend.edit_prefix(actor, {'vrf_id': vrf_id}, {'description': 'refused', 'node': 'n'})
    assert db.read(lambda tx: tx.one(LOGGED)) == (MANY, MANY, MANY, 'test')
    assert count(db, "description = 'changed'") == MANY
    assert count(db, "description = 'd'") == 1
    assert check.problems(db) == []


def count(db: Database, condition: str) -> int:
    """Return the number of prefixes that meet the condition."""
    return int(db.read(lambda tx: tx.value(f'SELECT count(*) FROM prefix WHERE {condition}')))
