"""The log of sign-ins, as trusted users read it."""

from __future__ import annotations

import time
from typing import Any

import pytest
from contract_faces import Face

from nipap.access import sign_in_rows
from nipap.access.sign_ins import LIMITED, OK, UNKNOWN_USER, WRONG, Key, Row
from nipap.postgres.database import Database

HOUR = 1_790_000_000.0 - 1_790_000_000 % 3600
ROWS = [
    Row(Key('ann', 'local', '192.0.2.1', 'xmlrpc', OK), HOUR, HOUR, 1),
    Row(Key('ann', 'local', '192.0.2.7', 'rest', WRONG), HOUR + 60, HOUR + 65, 3),
    Row(Key(r'nobody\n', None, '2001:db8::7', 'rest', UNKNOWN_USER), HOUR + 120, HOUR + 120, 1),
    Row(Key(None, None, '2001:db8::/64', 'rest', LIMITED), HOUR + 180, HOUR + 240, 2**31 - 1),
    Row(Key(None, None, None, 'traces', LIMITED), HOUR + 300, HOUR + 300, 7),
]


@pytest.fixture
def trusted(api: Face) -> Face:
    return api.as_user('gateway')


@pytest.fixture
def rows(db: Database) -> None:
    db.run(lambda tx: sign_in_rows.write(tx, ROWS))


def places(found: list[dict[str, Any]]) -> list[int]:
    """Return the places of the found sign-ins among `ROWS`."""
    return [item['id'] - found_first for item in found for found_first in (1,)]


@pytest.mark.usefixtures('rows')
def test_sign_ins_are_listed_newest_first(trusted: Face) -> None:
    found = trusted.call('list_sign_in')
    assert places(found) == [4, 3, 2, 1, 0]
    facts = ('authenticated_as', 'backend', 'address', 'interface', 'outcome')
    assert [tuple(item[name] for name in facts) for item in reversed(found)] == [tuple(row.key) for row in ROWS]
    assert [item['at'].timestamp() for item in reversed(found)] == [row.first for row in ROWS]
    assert [item['last'].timestamp() for item in reversed(found)] == [row.last for row in ROWS]
    assert [int(item['count']) for item in reversed(found)] == [row.times for row in ROWS]


@pytest.mark.usefixtures('rows')
@pytest.mark.parametrize(
    ('members', 'wanted'),
    [
        ({'sign_in': {}}, [4, 3, 2, 1, 0]),
        ({'sign_in': {'user': 'ann'}}, [1, 0]),
        ({'sign_in': {'user': 'Ann'}}, []),
        ({'sign_in': {'user': r'nobody\n'}}, [2]),
        ({'sign_in': {'user': "ann' OR true --"}}, []),
        ({'sign_in': {'address': '192.0.2.7'}}, [1]),
        ({'sign_in': {'address': '192.0.2.0/24'}}, [1, 0]),
        ({'sign_in': {'address': '2001:db8::/32'}}, [3, 2]),
        ({'sign_in': {'outcome': 'limited'}}, [4, 3]),
        ({'sign_in': {'interface': 'rest', 'user': 'ann', 'outcome': 'wrong_password'}}, [1]),
        ({'since': '2026-09-21T14:04:00Z'}, [4, 3]),
        ({'until': '2026-09-21T14:02:00Z'}, [1, 0]),
        ({'since': '2026-09-21T14:01:03Z', 'until': '2026-09-21T14:02:01Z'}, [2, 1]),
        ({'since': 'tomorrow'}, []),
        ({'max_result': 2}, [4, 3]),
        ({'max_result': 2, 'after': 4}, [2, 1]),
        ({'after': 1}, []),
        ({'sign_in': {'user': 'ann'}, 'after': '2'}, [0]),
    ],
)
def test_sign_ins_are_selected(trusted: Face, members: dict[str, Any], wanted: list[int]) -> None:
    assert places(trusted.call('list_sign_in', **members)) == wanted


@pytest.mark.parametrize(
    ('members', 'code', 'text'),
    [
        ({'sign_in': 'ann'}, 1100, 'must be a dict'),
        ({'sign_in': {'name': 'ann'}}, 1120, 'accepted: user, address, outcome, interface'),
        ({'sign_in': {'user': 7}}, 1200, 'must be a string'),
        ({'sign_in': {'address': 'here'}}, 1200, "'here' for address, must be an IP address or a network"),
        ({'sign_in': {'address': '192.0.2.1/24'}}, 1200, 'must be an IP address or a network'),
        ({'sign_in': {'address': 'fe80::1%eth0'}}, 1200, 'must be an IP address or a network'),
        ({'sign_in': {'outcome': 'good'}}, 1200, 'must be one of: ok, wrong_password, unknown_user, limited'),
        ({'sign_in': {'interface': 'XML'}}, 1200, 'must be one of: xmlrpc, rest, rest_v1, traces'),
        ({'since': 'now and then'}, 1200, "'now and then' for since"),
        ({'until': 7}, 1200, '7 for until'),
        ({'after': -1}, 1200, '-1 for after, must be 0 to'),
        ({'max_result': 0}, 1200, '0 for max_result, must be 1 to 1000'),
        ({'max_result': 1001}, 1200, 'must be 1 to 1000'),
        ({'max_result': True}, 1200, 'true for max_result'),
    ],
)
def test_members_that_are_not_understood(trusted: Face, members: dict[str, Any], code: int, text: str) -> None:
    fault = trusted.fault('list_sign_in', **members)
    assert fault.code == code
    assert text in fault.text


@pytest.mark.parametrize('who', ['readonly', 'alice', 'gateway'])
def test_only_trusted_users_see_sign_ins(api: Face, who: str) -> None:
    user = api.as_user('gateway', readonly=True) if who == 'gateway' else api.as_user(who)
    fault = user.fault('list_sign_in', sign_in='junk')
    text = f"user '{who}' is not authorized to see sign-ins: trusted users are, unless read-only"
    assert (fault.code, fault.text) == (1520, text)


def test_old_sign_ins_are_removed_whatever_their_number(db: Database, trusted: Face, monkeypatch: Any) -> None:
    monkeypatch.setattr(sign_in_rows, 'REMOVED_AT_ONCE', 10)
    key, now = Key('ann', 'local', '192.0.2.1', 'rest', OK), time.time()
    old = [Row(key, now - 11 * 86400, now - 11 * 86400, 1)] * 25
    kept = [Row(key, now - 11 * 86400, now - 9 * 86400, 1), Row(key, now - 9 * 86400, now - 9 * 86400, 1)]
    db.run(lambda tx: sign_in_rows.write(tx, [*old, *kept]))
    assert [db.run(lambda tx: sign_in_rows.remove_old(tx, 10)) for _ in range(4)] == [10, 10, 5, 0]
    assert places(trusted.call('list_sign_in')) == [26, 25]
