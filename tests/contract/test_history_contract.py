"""The past: audit entries and change sets are found over every face, by whom they concern and what they changed."""

from __future__ import annotations

from typing import Any

import pytest
from contract_faces import Face

from nipap.postgres.database import Database

NET = {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'ours'}
MEMBERS = {
    *('id', 'change_set', 'at', 'username', 'authenticated_as', 'full_name', 'authoritative_source', 'method'),
    *('request_id', 'reason', 'change_group', 'kind', 'object_id', 'action', 'name', 'vrf_id', 'prefix', 'pool_id'),
    *('changed', 'before', 'after', 'changes', 'sentence'),
}
HOOK = {'url': 'https://example.com/nipap', 'secret': 'a-secret-of-16-or-more'}


def found(api: Face, operator: str, name: str, value: Any, **options: Any) -> list[dict[str, Any]]:
    query = {'operator': operator, 'val1': name, 'val2': value}
    answer = api.call('search_audit', query=query, search_options=options)
    return answer['result']


def sentences(entries: list[dict[str, Any]]) -> list[str]:
    return [entry['sentence'] for entry in entries]


def smart(api: Face, text: str) -> list[str]:
    answer = api.call('smart_search_audit', query_string=text, search_options={})
    assert answer['error'] is False, answer['interpretation']
    return sentences(answer['result'])


@pytest.fixture
def lived(api: Face) -> Face:
    """Return a face after some changes by two users."""
    blue = api.add_vrf('65000:1', 'blue')['id']
    pool = api.add_pool('links')['id']
    net = api.call('add_prefix', attr={**NET, 'vrf_id': blue})['id']
    api.call('edit_prefix', prefix={'id': net}, attr={'pool_id': pool, 'comment': 'x', 'avps': {'site': 'malmö'}})
    gateway = api.as_user('gateway', username='kim', full_name='Kim')
    gateway.call('edit_prefix', prefix={'id': net}, attr={'prefix': '11.0.0.0/8'})
    api.call('edit_pool', pool={'id': pool}, attr={'name': 'connections'})
    api.call('edit_vrf', vrf={'id': blue}, attr={'name': 'green', 'description': None})
    api.call('remove_prefix', prefix={'id': net})
    api.call('add_asn', attr={'asn': 64500, 'name': 'Example'})
    return api


def test_every_change_is_told_newest_first(lived: Face) -> None:
    entries = lived.call('list_audit', audit={})
    assert sentences(entries) == [
        'alice added AS64500 (Example)',
        "alice removed prefix 11.0.0.0/8 in VRF green: description 'ours', comment 'x', pool 'connections', "
        "type 'reservation', status 'assigned', authoritative_source 'nipap', avps.site 'malmö'",
        "alice edited VRF blue (65000:1): name from 'blue' to 'green'",
        "alice edited pool links: name from 'links' to 'connections'",
        "kim (signed in as gateway) edited prefix 10.0.0.0/8 in VRF blue: prefix from '10.0.0.0/8' to '11.0.0.0/8'",
        "alice edited prefix 10.0.0.0/8 in VRF blue: comment from nothing to 'x', pool from nothing to 'links', "
        "avps.site from nothing to 'malmö'",
        "alice added prefix 10.0.0.0/8 in VRF blue: description 'ours', type 'reservation', status 'assigned', "
        "authoritative_source 'nipap'",
        "alice added pool links: description 'pool links', default_type 'assignment'",
        'alice added VRF blue (65000:1)',
    ]
    assert [set(entry) for entry in entries] == [MEMBERS] * 9
    assert [entry['id'] for entry in entries] == sorted((entry['id'] for entry in entries), reverse=True)


def test_an_entry_has_its_values_before_and_after(lived: Face) -> None:
    (moved,) = found(lived, 'equals', 'username', 'kim')
    assert moved['changes'] == {'prefix': {'before': '10.0.0.0/8', 'after': '11.0.0.0/8'}}
    assert (moved['before']['prefix'], moved['after']['prefix']) == ('10.0.0.0/8', '11.0.0.0/8')
    assert moved['changed'] == ['prefix']
    assert (moved['kind'], moved['action'], moved['name'], moved['prefix']) == (
        *('prefix', 'edit', '11.0.0.0/8', '11.0.0.0/8'),
    )
    assert (moved['authenticated_as'], moved['full_name'], moved['method']) == ('gateway', 'Kim', 'edit_prefix')
    (added,) = found(lived, 'equals', 'kind', 'asn')
    assert (added['before'], added['after'], added['vrf_id']) == (None, {'asn': 64500, 'name': 'Example'}, None)


@pytest.mark.parametrize(
    ('operator', 'name', 'value', 'actions'),
    [
        ('contained_within_equals', 'prefix', '10.0.0.0/8', ['move', 'edit', 'add']),
        ('contained_within', 'prefix', '10.0.0.0/7', ['remove', 'move', 'edit', 'add']),
        ('contained_within', 'prefix', '10.0.0.0/8', []),
        ('contains_equals', 'prefix', '11.0.0.0/8', ['remove', 'move']),
        ('contains', 'prefix', '11.0.0.0/8', []),
        ('contains', 'prefix', '10.1.2.3', ['move', 'edit', 'add']),
        ('equals', 'prefix', '10.0.0.0/8', ['move', 'edit', 'add']),
        ('equals', 'name', '11.0.0.0/8', ['remove', 'move']),
        ('equals', 'changed', 'comment', ['remove', 'edit']),
        ('equals', 'after.comment', 'x', ['move', 'edit']),
        ('equals', 'before.comment', None, ['add pool', 'add', 'edit', 'edit pool', 'edit vrf', 'add asn', 'add vrf']),
        ('like', 'before.prefix', '11.%', ['remove']),
        ('equals', 'authenticated_as', 'gateway', ['move']),
        ('equals', 'method', 'remove_prefix', ['remove']),
        ('equals', 'action', 'remove', ['remove']),
        ('regex_match', 'full_name', '^kim', ['move']),
        ('less', 'at', '2020-01-01', []),
    ],
)
def test_entries_are_found_by_every_attribute(
    lived: Face, operator: str, name: str, value: Any, actions: list[str]
) -> None:
    def label(entry: dict[str, Any]) -> str:
        if entry['kind'] != 'prefix':
            return f'{entry["action"]} {entry["kind"]}'
        return 'move' if 'prefix' in entry['changes'] and entry['action'] == 'edit' else entry['action']

    entries = found(lived, operator, name, value)
    assert sorted(map(label, entries)) == sorted(actions)
    assert [entry['id'] for entry in entries] == sorted((entry['id'] for entry in entries), reverse=True)


def test_a_version_in_the_entry_of_an_older_program_is_no_fact(api: Face, db: Database) -> None:
    older = """INSERT INTO audit_log (
            username, authenticated_as, authoritative_source, object_type, object_id, action, before, after)
        VALUES ('alice', 'alice', 'test', 'asn', 64500, 'edit', '{"asn": 64500, "version": 1}',
            '{"asn": 64500, "name": "Example", "version": 2}')"""
    db.run(lambda tx: tx.execute(older))
    (entry,) = api.call('list_audit', audit={'kind': 'asn'})
    assert entry['sentence'] == "alice edited AS64500: name from nothing to 'Example'"
    assert 'version' not in {*entry['before'], *entry['after'], *entry['changes'], *entry['changed']}


def test_entries_of_a_vrf_and_of_a_pool(lived: Face) -> None:
    (blue,) = lived.call('list_vrf', vrf={'name': 'green'})
    assert len(found(lived, 'equals', 'vrf_id', blue['id'])) == 6
    (pool,) = lived.call('list_pool', pool={'name': 'connections'})
    assert [entry['action'] for entry in found(lived, 'equals', 'pool_id', pool['id'])] == [
        *('remove', 'edit', 'edit', 'edit', 'add'),
    ]


def test_entries_since_a_time(lived: Face) -> None:
    assert len(found(lived, 'greater', 'at', '1 hour ago')) == 9
    assert found(lived, 'greater', 'at', 'tomorrow') == []
    last = found(lived, 'equals', 'kind', 'asn')[0]
    assert found(lived, 'less_or_equal', 'at', '2020-01-01') == []
    assert last in found(lived, 'less_or_equal', 'at', 'tomorrow')


def test_smart_searches_of_the_past(lived: Face) -> None:
    assert len(smart(lived, '10.1.2.3')) == 3
    assert len(smart(lived, '10.0.0.0/8')) == 3
    assert smart(lived, 'user=kim') == smart(lived, 'kim') == smart(lived, 'kim attribute=prefix')
    assert len(smart(lived, 'action=remove kind=prefix')) == 1
    assert smart(lived, 'after.name=green') == ["alice edited VRF blue (65000:1): name from 'blue' to 'green'"]
    answer = lived.call('smart_search_audit', query_string='kind=nonsense', search_options={})
    assert answer['error'] is True


def test_pages_of_entries_continue_by_cursor(lived: Face) -> None:
    every = lived.call('list_audit', audit={})
    pages, after = [], ''
    while after is not None:
        answer = lived.call('search_audit', query={}, search_options={'max_result': 4, 'after': after})
        pages.append(answer['result'])
        after = answer['after']
    assert [len(page) for page in pages] == [4, 4, 1]
    assert [entry for page in pages for entry in page] == every


def test_a_list_of_entries_takes_a_spec_of_attributes(lived: Face) -> None:
    (entry,) = lived.call('list_audit', audit={'kind': 'asn', 'object_id': 64500})
    assert lived.call('list_audit', audit={'change_set': entry['change_set']}) == [entry]
    assert lived.call('list_audit', audit={'id': entry['id'] + 1000}) == []
    fault = lived.fault('list_audit', audit={'colour': 1})
    assert (fault.code, fault.text) == (1120, "extraneous specification key 'colour'")
    assert lived.fault('list_audit', audit=[1]).code == 1100
    assert lived.fault('list_audit', audit={'kind': 'colour'}).code == 1200


def test_change_sets_have_their_entries(lived: Face) -> None:
    first = lived.call('search_change_set', query={}, search_options={'max_result': 2})['result']
    assert [[entry['kind'] for entry in one['entries']] for one in first] == [['asn'], ['prefix']]
    assert all(one['more'] is False for one in first)
    (same,) = lived.call('list_change_set', change_set={'id': first[0]['id']})
    assert same == first[0]
    assert lived.call('list_change_set', change_set={'id': 10**6}) == []
    assert lived.fault('list_change_set', change_set={}).code == 1110


def test_a_batch_is_one_change_set(api: Face) -> None:
    operations = [{'method': 'add_asn', 'args': {'attr': {'asn': 64500 + n}}} for n in range(12)]
    api.call('batch', operations=operations)
    (listed,) = api.call('search_change_set', query={}, search_options={})['result']
    assert (listed['method'], len(listed['entries']), listed['more']) == ('batch', 10, True)
    (whole,) = api.call('list_change_set', change_set={'id': listed['id']})
    assert [entry['object_id'] for entry in whole['entries']] == [64500 + n for n in range(12)]
    assert whole['more'] is False


def test_webhooks_are_seen_by_those_who_manage_them(api: Face) -> None:
    gateway = api.as_user('gateway')
    gateway.call('add_webhook', attr=HOOK)
    api.call('add_asn', attr={'asn': 64500})
    query = {'operator': 'equals', 'val1': 'kind', 'val2': 'webhook'}
    (entry,) = gateway.call('search_audit', query=query, search_options={})['result']
    assert entry['sentence'].startswith('gateway added webhook ')
    assert HOOK['secret'] not in str(entry)
    for reader in (api, api.as_user('readonly')):
        assert reader.call('search_audit', query=query, search_options={})['result'] == []
        assert [one['method'] for one in reader.call('search_change_set', query={}, search_options={})['result']] == [
            'add_asn'
        ]
    assert len(gateway.call('search_change_set', query={}, search_options={})['result']) == 2


def test_the_past_is_read_by_read_only_users(lived: Face) -> None:
    reader = lived.as_user('readonly')
    assert reader.call('list_audit', audit={}) == lived.call('list_audit', audit={})
    assert len(reader.call('search_change_set', query={}, search_options={})['result']) == 9
