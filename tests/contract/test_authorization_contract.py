"""Rights: read-only users, and trusted users who act for others."""

from __future__ import annotations

from typing import Any

import psycopg2
import pytest
from contract_faces import Face

from nipap.calls import CALLS

CHANGING = [f'{verb}_{kind}' for verb in ('add', 'edit', 'remove') for kind in ('vrf', 'pool', 'prefix', 'asn')]


def last_audit(dsn: str) -> dict[str, Any]:
    """Return the names in the newest entry of the audit log."""
    columns = ('username', 'authenticated_as', 'full_name', 'authoritative_source')
    connection = psycopg2.connect(dsn)
    try:
        with connection.cursor() as cursor:
            cursor.execute(f'SELECT {", ".join(columns)} FROM audit_log ORDER BY id DESC LIMIT 1')
            return dict(zip(columns, cursor.fetchone(), strict=True))
    finally:
        connection.close()


@pytest.mark.parametrize('members', [{}, {'attr': 'junk', 'prefix': 7, 'vrf': [], 'pool': 'x', 'asn': None, 'args': 3}])
def test_a_read_only_user_changes_nothing(api: Face, members: dict[str, Any]) -> None:
    """The refusal comes before any look at the arguments."""
    for method in CHANGING:
        fault = api.as_user('readonly').fault(method, **members)
        text = f"read-only user 'readonly' is not authorized to run function '{method}'"
        assert (fault.code, fault.text) == (1520, text)


def test_a_read_only_user_reads_everything(api: Face) -> None:
    api.add_prefix('10.0.0.0/8')
    reader = api.as_user('readonly')
    assert reader.stored() == ['10.0.0.0/8']
    assert reader.found({}) == ['10.0.0.0/8']
    assert reader.smart('') == ['10.0.0.0/8']
    args = {'from-prefix': ['10.0.0.0/8'], 'prefix_length': 24}
    assert reader.call('find_free_prefix', vrf={}, args=args) == ['10.0.0.0/24']
    for kind in ('vrf', 'pool', 'asn'):
        assert isinstance(reader.call(f'list_{kind}', **{kind: {}}), list)
        assert reader.call(f'search_{kind}', query={})['search_options']
        assert reader.call(f'smart_search_{kind}', query_string='x')['error'] is False
    assert reader.call('search_tag', query={})['result'] == []
    assert reader.call('echo', message='x') == 'x'
    assert isinstance(reader.call('version'), str)
    assert isinstance(reader.call('db_version'), int)


@pytest.mark.parametrize('members', [{}, {'attr': 'junk', 'webhook': [], 'ids': 3}])
@pytest.mark.parametrize('who', ['readonly', 'alice', 'gateway as one who only reads'])
def test_users_without_the_right_to_manage_webhooks(api: Face, who: str, members: dict[str, Any]) -> None:
    """Reading webhooks is refused too. The refusal comes before any look at the arguments."""
    user = api.as_user('gateway', readonly=True) if who.startswith('gateway') else api.as_user(who)
    for method in (name for name in CALLS if name.endswith(('webhook', 'dead_letter'))):
        fault = user.fault(method, **members)
        text = (
            f"user '{who.partition(' ')[0]}' is not authorized to manage webhooks: trusted users are, unless read-only"
        )
        assert (fault.code, fault.text) == (1520, text)


def test_everybody_is_recorded_as_themselves(api: Face, dsn: str) -> None:
    api.as_user('alice', authoritative_source='here').add_prefix('10.0.0.0/8')
    assert last_audit(dsn) == {
        'username': 'alice',
        'authenticated_as': 'alice',
        'full_name': 'Alice Smith',
        'authoritative_source': 'here',
    }


def test_a_trusted_user_acts_for_others(api: Face, dsn: str) -> None:
    web = api.as_user('gateway', username='bob', full_name='Bob Brown', readonly=False, authoritative_source='web')
    row = web.add_prefix('10.0.0.0/8')
    assert row['authoritative_source'] == 'web'
    bob = {'username': 'bob', 'authenticated_as': 'gateway', 'full_name': 'Bob Brown', 'authoritative_source': 'web'}
    assert last_audit(dsn) == bob
    api.as_user('gateway', username='eve').add_prefix('11.0.0.0/8')
    assert last_audit(dsn) == {
        'username': 'eve',
        'authenticated_as': 'gateway',
        'full_name': None,
        'authoritative_source': 'nipap',
    }
    api.as_user('gateway').add_prefix('12.0.0.0/8')
    assert last_audit(dsn)['username'] == 'gateway'


@pytest.mark.parametrize('readonly', [True, 'true', 1])
def test_a_trusted_user_may_act_for_one_who_only_reads(api: Face, readonly: object) -> None:
    reader = api.as_user('gateway', username='bob', readonly=readonly)
    fault = reader.fault('add_vrf')
    assert (fault.code, fault.text) == (1520, "read-only user 'bob' is not authorized to run function 'add_vrf'")
    assert reader.stored() == []


@pytest.mark.parametrize(
    'junk', [{}, {'username': 'bob', 'full_name': 'Bob', 'readonly': True}, {'username': 7, 'readonly': 'x'}]
)
def test_acting_for_others_is_ignored_from_a_user_who_is_not_trusted(api: Face, dsn: str, junk: dict[str, Any]) -> None:
    """The command line always sends these members."""
    api.as_user('alice', **junk).add_prefix('10.0.0.0/8')
    audit = last_audit(dsn)
    assert (audit['username'], audit['full_name']) == ('alice', 'Alice Smith')
    assert api.as_user('readonly', readonly=False, username='alice').fault('add_vrf').code == 1520
