"""The version of an object: it counts the edits that change a fact, and a change may ask for it."""

from __future__ import annotations

from typing import Any

import pytest
from contract_faces import Face, Fault

from nipap.access.authentication import Actor
from nipap.backend import Backend
from nipap.calls import Request
from nipap.integrity import check
from nipap.postgres.database import Database

ADDED: dict[str, dict[str, Any]] = {
    'vrf': {'rt': '1:1', 'name': 'v'},
    'pool': {'name': 'p', 'description': 'd', 'default_type': 'assignment', 'ipv4_default_prefix_length': 30},
    'asn': {'asn': 64500, 'name': 'a'},
    'prefix': {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'd'},
}
EDITS: dict[str, list[dict[str, Any]]] = {
    'vrf': [{'name': 'w'}, {'rt': '1:2'}, {'tags': ['x']}],
    'pool': [{'name': 'q'}, {'ipv4_default_prefix_length': 31}, {'avps': {'a': 'b'}}],
    'asn': [{'name': 'b'}, {'name': None}],
    'prefix': [{'description': 'e'}, {'prefix': '11.0.0.0/8'}, {'type': 'assignment'}, {'pool_name': 'p'}, {'vlan': 7}],
}
KINDS = pytest.mark.parametrize('kind', ADDED)


def add_all(api: Face) -> dict[str, dict[str, Any]]:
    """Add an object of each kind; return the spec of each."""
    specs = {}
    for kind, attr in ADDED.items():
        item = api.call(f'add_{kind}', attr=attr)
        assert item['version'] == 1, kind
        key = 'asn' if kind == 'asn' else 'id'
        specs[kind] = {key: item[key]}
    return specs


def version(api: Face, kind: str, spec: dict[str, Any]) -> int:
    (item,) = api.call(f'list_{kind}', **{kind: spec})
    number: int = item['version']
    return number


@KINDS
def test_each_edit_that_changes_a_fact_makes_a_version(api: Face, kind: str) -> None:
    spec = add_all(api)[kind]
    for number, attr in enumerate(EDITS[kind], 2):
        for _ in range(2):  # the second edit changes nothing
            (edited,) = api.call(f'edit_{kind}', **{kind: spec, 'attr': attr})
            assert (edited['version'], version(api, kind, spec)) == (number, number), attr
    (key,) = spec
    query = {'operator': 'and', 'val1': {'operator': 'equals', 'val1': key, 'val2': spec[key]}}
    for wanted, found in ((number, 1), (number + 1, 0)):
        query['val2'] = {'operator': 'equals', 'val1': 'version', 'val2': wanted}
        assert len(api.call(f'search_{kind}', query=query)['result']) == found


def test_an_edit_of_many_makes_a_version_of_each(api: Face) -> None:
    for n in range(3):
        api.add_prefix(f'10.{n}.0.0/16', description='same' if n else 'other')
    edited = api.call('edit_prefix', prefix={'type': 'reservation'}, attr={'description': 'same'})
    assert [row['version'] for row in edited] == [2, 1, 1]


def test_a_removed_pool_makes_a_version_of_its_members(api: Face) -> None:
    pool = api.add_pool('p')
    inside = api.add_prefix('10.0.0.0/8', pool_name='p')
    api.call('remove_pool', pool={'id': pool['id']})
    assert version(api, 'prefix', {'id': inside['id']}) == 2


def test_counters_and_moves_of_children_make_no_version(backend: Backend, actor: Actor, db: Database) -> None:
    """Allocations, removals and a prefix in between change the parent, the pool and the VRF, but no fact of them."""
    backend.add_pool(actor, {**ADDED['pool'], 'ipv4_default_prefix_length': 28})
    backend.add_vrf(actor, ADDED['vrf'])
    top = backend.add_prefix(actor, {**ADDED['prefix'], 'pool_name': 'p', 'vrf_name': 'v'})
    args = {'from-pool': {'name': 'p'}, 'family': 4}
    operations = [{'method': 'add_prefix', 'args': {'attr': {'description': 'x'}, 'args': args}}] * 300
    added = backend.batch(actor, operations)
    many = [
        {'prefix': f'10.1.{n >> 5}.{n % 32 << 3}/29', 'type': 'assignment', 'description': 'x', 'vrf_name': 'v'}
        for n in range(3000)
    ]
    backend.add_prefixes(actor, many, ids=True)
    backend.add_prefix(actor, {'prefix': '10.1.0.0/16', 'type': 'reservation', 'description': 'x', 'vrf_name': 'v'})
    backend.remove_prefix(actor, {'id': added[0]['id']})
    versions = 'SELECT DISTINCT version FROM (SELECT version FROM {} UNION ALL SELECT version FROM {}) v'
    for tables in (('prefix', 'pool'), ('vrf', 'asn')):
        assert db.read(lambda tx, tables=tables: tx.all(versions.format(*tables))) == [(1,)]
    assert backend.list_prefix(actor, {'id': top['id']})[0]['version'] == 1
    assert check.problems(db) == []


@KINDS
def test_a_change_asks_for_a_version(api: Face, kind: str) -> None:
    spec = add_all(api)[kind]
    attr = EDITS[kind][0]
    for wrong in (2, 7):
        fault = api.fault(f'edit_{kind}', **{kind: spec, 'attr': attr, 'if_version': wrong})
        assert (fault.code, 'has version 1, not' in fault.text) == (1600, True), fault.text
        assert api.fault(f'remove_{kind}', **{kind: spec, 'if_version': wrong}).code == 1600
    (edited,) = api.call(f'edit_{kind}', **{kind: spec, 'attr': attr, 'if_version': '1'})
    assert edited['version'] == 2
    assert api.fault(f'edit_{kind}', **{kind: spec, 'attr': attr, 'if_version': 1}).code == 1600
    api.call(f'remove_{kind}', **{kind: spec, 'if_version': 2})
    assert api.call(f'list_{kind}', **{kind: spec}) == []
    fault = api.fault(f'edit_{kind}', **{kind: spec, 'attr': attr, 'if_version': 1})
    assert (fault.code, 'selects no' in fault.text) == (1300, True), fault.text


def test_a_version_is_of_one_object(api: Face) -> None:
    for n in range(2):
        api.add_prefix(f'10.{n}.0.0/16')
    fault = api.fault('edit_prefix', prefix={'type': 'reservation'}, attr={'description': 'x'}, if_version=1)
    assert (fault.code, 'more than one prefix' in fault.text) == (1200, True), fault.text
    for bad in (0, -1, 'x', True, [1]):
        assert api.fault('edit_prefix', prefix={'id': 1}, attr={'description': 'x'}, if_version=bad).code == 1200
    assert {row['description'] for row in api.call('list_prefix')} == {'net 10.0.0.0/16', 'net 10.1.0.0/16'}


def test_a_version_cannot_be_set(api: Face) -> None:
    specs = add_all(api)
    if api.name == 'rest':  # what an answer has may be sent back
        for kind, spec in specs.items():
            (edited,) = api.call(f'edit_{kind}', **{kind: spec, 'attr': {**EDITS[kind][0], 'version': 1}})
            assert edited['version'] == 2
    for kind, spec in specs.items():
        assert api.fault(f'edit_{kind}', **{kind: spec, 'attr': {**EDITS[kind][0], 'version': 7}}).code == 1120
        assert api.fault(f'add_{kind}', attr={**ADDED[kind], 'version': 7}).code == 1120


def test_operations_of_a_batch_ask_for_versions(api: Face) -> None:
    spec = add_all(api)['prefix']

    def edit(description: str, wanted: int) -> dict[str, Any]:
        return {
            'method': 'edit_prefix',
            'args': {'prefix': spec, 'attr': {'description': description}, 'if_version': wanted},
        }

    with pytest.raises(Fault) as caught:
        api.call('batch', operations=[edit('x', 1), edit('y', 1)])
    assert (caught.value.code, caught.value.text[:11]) == (1600, 'operation 1')
    assert version(api, 'prefix', spec) == 1
    answers = api.call('batch', operations=[edit('x', 1), edit('y', 2)])
    assert [answer[0]['version'] for answer in answers] == [2, 3]


def test_the_audit_log_has_no_versions(backend: Backend, actor: Actor, db: Database) -> None:
    for kind, attr in ADDED.items():
        item = backend.perform(actor, Request(f'add_{kind}', {'attr': attr}))
        key = 'asn' if kind == 'asn' else 'id'
        spec = {kind: {key: item[key]}}
        backend.perform(actor, Request(f'edit_{kind}', {**spec, 'attr': EDITS[kind][0]}))
        backend.perform(actor, Request(f'remove_{kind}', spec))
    sql = "SELECT count(*), count(*) FILTER (WHERE before ? 'version' OR after ? 'version') FROM audit_log"
    assert db.read(lambda tx: tx.one(sql)) == (12, 0)


def test_programs_before_versions_make_versions_too(backend: Backend, actor: Actor, db: Database) -> None:
    """Their functions insert a row without a version, and update the facts alone."""
    for kind, attr in ADDED.items():
        backend.perform(actor, Request(f'add_{kind}', {'attr': attr}))
    changes = {
        'vrf': ("(rt, rt_rank, name) VALUES ('9:9', 38654705673, 'old')", 'name = name'),
        'pool': ("(name, default_type) VALUES ('old', 'host')", 'name = name'),
        'asn': ('(asn) VALUES (9)', 'name = name'),
        'prefix': ("(vrf_id, prefix, type) VALUES (0, '9.0.0.0/8', 'reservation')", 'last_modified = now()'),
    }
    for table, (row, values) in changes.items():
        columns, _, others = row.partition(')')
        added = f'{columns}, version){others[:-1]}, NULL)'
        assert db.run(lambda tx, t=table, a=added: tx.value(f'INSERT INTO {t} {a} RETURNING version')) == 1
        edit = f'UPDATE {table} SET {values} RETURNING version'
        assert {row[0] for row in db.run(lambda tx, edit=edit: tx.all(edit))} == {2}
    assert db.run(lambda tx: tx.all('UPDATE prefix SET children = children RETURNING version'))[0] == (2,)
