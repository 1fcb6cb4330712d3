"""The log of sign-ins in memory: which sign-ins make a row, when the row is due, and how much attackers can cause."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from nipap.access import sign_ins
from nipap.access.sign_ins import LIMITED, OK, UNKNOWN_USER, WRONG, Key, Row, SignInLog, SignInMarks, printable

NOON = 1_800_000_000.0 - 1_800_000_000 % 3600


class Clock:
    """The clock of the log, which the test moves."""

    def __init__(self) -> None:
        self.now = NOON

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    moved = Clock()
    monkeypatch.setattr(sign_ins.time, 'time', moved.time)
    return moved


@pytest.fixture
def log() -> SignInLog:
    return SignInLog()


def written(log: SignInLog, *, everything: bool = False) -> list[Row]:
    """Take the rows that are due, as if they were written."""
    rows = log.take(everything=everything)
    log.written(len(rows))
    return rows


def fail(log: SignInLog, name: str | None = 'ann', address: str | None = '192.0.2.1', outcome: str = WRONG) -> None:
    log.fail(name, 'local', address, 'xmlrpc', outcome)


def test_a_good_sign_in_has_a_row_for_each_user_address_interface_and_hour(clock: Clock, log: SignInLog) -> None:
    for _ in range(100):
        log.succeed('ann', 'local', '192.0.2.1', 'xmlrpc')
    log.succeed('ann', 'local', '192.0.2.1', 'rest')
    log.succeed('ann', 'local', '2001:db8::1', 'rest')
    log.succeed('bob', 'local', '192.0.2.1', 'rest')
    rows = written(log)
    assert [(row.key.name, row.key.address, row.key.interface, row.times) for row in rows] == [
        ('ann', '192.0.2.1', 'xmlrpc', 1),
        ('ann', '192.0.2.1', 'rest', 1),
        ('ann', '2001:db8::1', 'rest', 1),
        ('bob', '192.0.2.1', 'rest', 1),
    ]
    clock.now += 3599
    log.succeed('ann', 'local', '192.0.2.1', 'xmlrpc')
    assert written(log) == []
    clock.now += 1
    log.succeed('ann', 'local', '192.0.2.1', 'xmlrpc')
    assert written(log) == [Row(Key('ann', 'local', '192.0.2.1', 'xmlrpc', OK), clock.now, clock.now, 1)]


def test_handlers_log_a_good_sign_in_once_together() -> None:
    marks = SignInMarks(shared=True)
    try:
        here = SignInLog(marks)
        here.succeed('ann', 'local', '192.0.2.1', 'rest')
        assert len(here.take()) == 1

        child = os.fork()
        if child == 0:
            try:
                there = SignInLog(marks)
                there.succeed('ann', 'local', '192.0.2.1', 'rest')
                there.succeed('bob', 'local', '192.0.2.1', 'rest')
                os._exit([row.key.name for row in there.take()] != ['bob'])
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        marks.close()


def test_a_user_from_very_many_addresses_has_a_limited_number_of_rows(log: SignInLog) -> None:
    rows = []
    for number in range(3 * sign_ins.MOST_ADDRESSES):
        log.succeed('ann', 'local', f'2001:db8::{number:x}', 'rest')
        rows += written(log)
    assert len(rows) <= sign_ins.MOST_ADDRESSES + 2  # an hour may end meanwhile
    assert rows[-1].key.address is None


def test_bad_sign_ins_are_counted_by_name_address_interface_and_outcome(clock: Clock, log: SignInLog) -> None:
    for _ in range(3):
        fail(log)
        clock.now += 0.25
    fail(log, 'bob', outcome=UNKNOWN_USER)
    fail(log, None, outcome=sign_ins.INVALID)
    assert written(log) == [
        Row(Key('ann', 'local', '192.0.2.1', 'xmlrpc', WRONG), NOON, NOON + 0.5, 3),
        Row(Key('bob', 'local', '192.0.2.1', 'xmlrpc', UNKNOWN_USER), NOON + 0.75, NOON + 0.75, 1),
        Row(Key(None, 'local', '192.0.2.1', 'xmlrpc', sign_ins.INVALID), NOON + 0.75, NOON + 0.75, 1),
    ]
    assert written(log) == []


def test_one_who_never_stops_makes_three_rows_an_hour_and_every_try_is_counted(clock: Clock, log: SignInLog) -> None:
    rows = []
    for _ in range(3600):
        fail(log)
        fail(log)
        rows += written(log)
        clock.now += 1
    clock.now += 1
    rows += written(log)
    assert [row.times for row in rows] == [2, 120, 2 * 3600 - 122]
    assert log.pending == 0
    fail(log)
    assert [row.times for row in written(log)] == [1]


def test_an_address_with_very_many_names_is_counted_without_names(clock: Clock, log: SignInLog) -> None:
    for number in range(5000):
        fail(log, f'name {number}', '192.0.2.1', LIMITED)
        fail(log, f'name {number}', f'2001:db8::{number:x}', LIMITED)
    fail(log, 'bob', '198.51.100.1')  # other clients keep their rows
    rows = written(log)
    assert len(rows) == 2 * (sign_ins.MOST_OF_NETWORK + 1) + 1
    assert sum(row.times for row in rows) == 10_001
    assert Row(Key(None, None, '2001:db8::/64', 'xmlrpc', LIMITED), NOON, NOON, 4900) in rows
    assert rows[-1].key.name == 'bob'


def test_however_many_addresses_fail_memory_and_rows_are_limited(clock: Clock, log: SignInLog) -> None:
    rows = []
    for second in range(60):
        for number in range(1000):
            fail(log, f'{second} {number}', f'198.{second}.{number // 250}.{number % 250}', WRONG)
            fail(log, f'{second} {number}', f'2001:db8:{second:x}:{number:x}::1', UNKNOWN_USER)
        rows += written(log)
        clock.now += 1
    assert len(log._bad) <= sign_ins.MOST_KEYS + 2
    clock.now += sign_ins.HOUR_S
    rows += written(log)
    assert len(rows) <= sign_ins.MOST_KEYS + 10
    assert sum(row.times for row in rows) == 120_000
    assert {row.key[:3] for row in rows if row.key.address is None} == {(None, None, None)}
    fail(log, 'later')  # the next hour has room again
    assert written(log)[-1].key.name == 'later'
    assert sum(log._of_network.values()) == len(log._bad) == 1


def test_sign_ins_stay_while_they_cannot_be_written(clock: Clock, log: SignInLog) -> None:
    fail(log)
    first = log.take()
    for number in range(3000):
        fail(log, f'name {number}', f'192.0.2.{number % 250}')
        log.succeed(f'user {number}', 'local', '192.0.2.1', 'rest')
    assert log.take() == first  # a retry writes the same rows
    log.written(1)
    rows = written(log)
    assert sum(row.times for row in rows) == 6000
    assert len(rows) <= 2 * sign_ins.MOST_KEYS + 10
    assert log.pending == 0


def test_everything_is_taken_at_the_end(clock: Clock, log: SignInLog) -> None:
    fail(log)
    written(log)
    fail(log)
    assert log.pending == 1
    assert written(log) == []  # not due for a minute
    assert [row.times for row in written(log, everything=True)] == [1]


def test_a_clock_that_is_set_back_keeps_no_sign_in_for_long(clock: Clock, log: SignInLog) -> None:
    fail(log)
    written(log)
    fail(log)
    clock.now -= 86400
    fail(log)
    (row,) = written(log)
    assert (row.times, row.last >= row.first) == (2, True)


@pytest.mark.parametrize(
    ('sent', 'logged'),
    [
        ('ann', 'ann'),
        ('Jürgen ☃', 'Jürgen ☃'),
        ('a\nb\0\x1b[2J', r'a\nb\x00\x1b[2J'),
        ('\u202etxt', r'\u202etxt'),
        ('\ufffe', r'\ufffe'),
        ('', ''),
        ('x' * 101, 'x' * 100),
        ('\n' * 100, r'\n' * 50),
    ],
)
def test_a_name_is_cut_and_has_no_control_characters(sent: str, logged: str) -> None:
    assert printable(sent) == logged


@pytest.mark.parametrize(
    ('sent', 'logged'),
    [
        ('192.0.2.1', '192.0.2.1'),
        ('::ffff:192.0.2.1', '192.0.2.1'),
        ('fe80::1%eth0', 'fe80::1'),
        ('2001:DB8:0::1', '2001:db8::1'),
        ('unix:', None),
        ('', None),
        (None, None),
    ],
)
def test_addresses(log: SignInLog, sent: str | None, logged: str | None) -> None:
    fail(log, address=sent)
    log.succeed('ann', None, sent, 'rest')
    assert [row.key.address for row in log.take()] == [logged, logged]


def test_what_a_sign_in_costs(log: SignInLog) -> None:
    """A good one that is known costs a look-up. A bad one costs microseconds, however many there are."""

    def each_us(count: int, noted: Iterator[None]) -> float:
        began = time.perf_counter()
        for _ in noted:
            pass
        return (time.perf_counter() - began) / count * 1e6

    good = min(each_us(2000, (log.succeed('ann', 'local', '192.0.2.1', 'rest') for _ in range(2000))) for _ in range(5))
    bad = each_us(20_000, (fail(log, f'{n}', f'10.{n % 250}.0.{n % 241}') for n in range(20_000)))
    assert good < 10
    assert bad < 200
