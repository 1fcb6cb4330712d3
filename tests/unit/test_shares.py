"""The party of a request, and the log messages about limits that parties reach."""

from __future__ import annotations

import logging

import pytest

from nipap.runtime.places import Party
from nipapd.shares import MANY_USERS, NAMES, Parties, Reached


def test_credentials_that_were_proved_stand_for_their_user() -> None:
    parties = Parties()
    first = parties.turn('Basic YTpi', '192.0.2.1', is_urgent=False)
    assert (first.party.proved, first.party.member) == (False, '192.0.2.1')
    first.prove('ann')
    assert parties.turn('Basic YTpi', '192.0.2.2', is_urgent=False).party == Party('ann', '192.0.2.2')
    assert not parties.turn('Basic YTpj', '192.0.2.1', is_urgent=False).party.proved
    assert not parties.turn(None, '192.0.2.1', is_urgent=True).party.proved


def test_unknown_credentials_are_looked_up_when_places_are_scarce() -> None:
    asked: list[str] = []

    def look_up(authorization: str) -> str | None:
        asked.append(authorization)
        return 'ann' if authorization == 'right' else None

    parties = Parties(look_up)
    assert not parties.turn('right', '192.0.2.1', is_urgent=False).party.proved
    assert parties.turn('right', '192.0.2.1', is_urgent=True).party == Party('ann', '192.0.2.1')
    assert not parties.turn('wrong', '192.0.2.1', is_urgent=True).party.proved
    assert parties.turn('right', '192.0.2.1', is_urgent=True).party.group == 'ann'
    assert asked == ['right', 'wrong']


def test_strangers_are_told_apart_by_network() -> None:
    parties = Parties()
    same, other_64, other_48 = (
        parties.stranger(address) for address in ('2001:db8:1::1', '2001:db8:1:2::1', '2001:db8:2::1')
    )
    assert same.group == other_64.group != other_48.group
    assert same.member != other_64.member
    assert parties.stranger('::ffff:192.0.2.1') == parties.stranger('192.0.2.1')


def test_no_user_has_the_share_of_an_address() -> None:
    parties = Parties()
    assert Party('192.0.2.1').group != parties.stranger('192.0.2.1').group


def test_a_limit_is_counted_each_time_and_told_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    counted: list[str] = []
    reached = Reached(counted.append)
    with caplog.at_level(logging.WARNING, 'nipapd.shares'):
        for _ in range(3):
            reached.note('running', Party('ann', '192.0.2.1'))
        reached.note('sessions', Party('ann', '192.0.2.1'))
        reached.of('running')(Parties().stranger('192.0.2.1'))
    assert counted == ['running'] * 3 + ['sessions', 'running']
    assert [record.getMessage() for record in caplog.records] == [
        f"limit running reached ({NAMES['running']}): user='ann' address=192.0.2.1",
        f"limit sessions reached ({NAMES['sessions']}): user='ann' address=192.0.2.1",
        f'limit running reached ({NAMES["running"]}): user=- address=192.0.2.1',
    ]


def test_an_address_of_many_users_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    parties = Parties()
    with caplog.at_level(logging.WARNING, 'nipapd.shares'):
        for number in range(2 * MANY_USERS):
            parties.turn(f'Basic {number}', '192.0.2.1', is_urgent=False).prove(f'user-{number}')
            parties.turn(f'Basic {number}', '192.0.2.2', is_urgent=False).prove('one')
    (record,) = caplog.records
    assert f'{MANY_USERS} users log in from 192.0.2.1: ' in record.getMessage()
    assert 'trusted_proxies' in record.getMessage()
