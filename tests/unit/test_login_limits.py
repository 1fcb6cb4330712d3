"""Failed logins: their price for the failing address or name, and no price for others."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from nipap.access import login_limits
from nipap.access.login_limits import LoginCounts, LoginLimits, network
from nipap.errors import AuthenticationFailedError
from nipap.runtime import waiting
from nipap.runtime.runtime import Runtime

HERE, THERE = '192.0.2.1', '198.51.100.7'
REFUSED = r'^Incorrect username or password: too many failed logins, try again in (\d+) seconds?\.$'


class Patience(waiting.Blocking):
    """A wait that notes its durations and moves the clock on by them without waiting."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waits: list[float] = []
        self._past_s = 0.0
        real = time.monotonic
        monkeypatch.setattr(time, 'monotonic', lambda: real() + self._past_s)

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.pass_by(seconds)

    def pass_by(self, seconds: float) -> None:
        self._past_s += seconds


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> Iterator[Patience]:
    patience = Patience(monkeypatch)
    Runtime(patience).enter()
    yield patience
    Runtime().enter()


@pytest.fixture
def shared() -> Iterator[LoginCounts]:
    counts = LoginCounts(shared=True)
    yield counts
    counts.close()


def fail(limits: LoginLimits, times: int = 1, address: str = HERE, user: str = 'joe') -> None:
    for _ in range(times):
        assert limits.guarded(address, user, lambda: None) is None


def is_heard(limits: LoginLimits, address: str = HERE, user: str = 'joe') -> bool:
    """Return whether a right password is checked."""
    try:
        return limits.guarded(address, user, lambda: True) is True
    except AuthenticationFailedError:
        return False


def test_the_first_failures_cost_nothing_then_the_wait_doubles(patience: Patience) -> None:
    limits = LoginLimits(20, 60)
    fail(limits, 5)
    assert patience.waits == []
    for user in range(15):
        fail(limits, user=f'user {user}')
    assert patience.waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, *[4.0] * 9]


def test_an_address_is_refused_until_the_time_passes(patience: Patience) -> None:
    limits = LoginLimits(20, 1000)
    for user in range(20):
        fail(limits, user=f'user {user}')
    waited = len(patience.waits)
    for _ in range(3):
        with pytest.raises(AuthenticationFailedError, match=REFUSED) as refusal:
            limits.guarded(HERE, 'ann', lambda: pytest.fail('a password was looked at'))
    assert len(patience.waits) == waited
    assert refusal.value.code == 1510
    assert is_heard(limits, THERE, 'ann')
    patience.pass_by(1000 - sum(patience.waits) - 5)
    assert not is_heard(limits, user='ann')
    patience.pass_by(6)
    assert is_heard(limits, user='ann')


def test_it_says_when_to_come_back(patience: Patience) -> None:
    limits = LoginLimits(2, 90)
    fail(limits)
    patience.pass_by(29.5)
    with pytest.raises(AuthenticationFailedError, match=r'try again in 61 seconds\.$'):
        limits.guarded(HERE, 'joe', lambda: None)


def test_a_program_with_a_wrong_password_does_not_lock_out_its_host(patience: Patience) -> None:
    limits = LoginLimits(20, 1000)
    fail(limits, 10, user='backup')
    assert not is_heard(limits, user='backup')
    assert is_heard(limits, user='ann')
    fail(limits, 9, user='ann')
    assert is_heard(limits, user='ann')


def test_nobody_is_locked_out_by_others_who_try_their_name(patience: Patience) -> None:
    limits = LoginLimits(20, 1000)
    for number in range(200):
        fail(limits, address=f'203.0.113.{number}')
    patience.waits.clear()
    assert is_heard(limits, THERE)
    assert patience.waits == [login_limits.MOST_DELAY_S]


def test_the_delay_of_a_name_ends_where_too_many_wait(patience: Patience, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = LoginLimits(20, 1000)
    for number in range(10):
        fail(limits, address=f'203.0.113.{number}')
    fail(limits, address=HERE)
    monkeypatch.setattr(login_limits, 'MOST_DELAYED', 0)
    patience.waits.clear()
    assert is_heard(limits, THERE)
    assert not is_heard(limits, HERE)
    assert patience.waits == []


def test_few_wait_for_one_address() -> None:
    limits = LoginLimits(100, 1000)
    fail(limits, 30)  # so many that the last one waits a moment and the next ones would wait for long
    inside = threading.Semaphore(0)
    release = threading.Event()

    class Holding(waiting.Blocking):
        def sleep(self, seconds: float) -> None:
            inside.release()
            assert release.wait(30)

    Runtime(Holding()).enter()
    try:
        with ThreadPoolExecutor() as pool:
            waiters = [pool.submit(is_heard, limits) for _ in range(login_limits.MOST_DELAYED_OF_ONE)]
            for _ in waiters:
                assert inside.acquire(timeout=30)
            assert not is_heard(limits)
            release.set()
            assert all(waiter.result() for waiter in waiters)
    finally:
        Runtime().enter()
    assert limits._delayed == {}


def test_right_passwords_leave_nothing_behind(patience: Patience) -> None:
    counts = LoginCounts()
    limits = LoginLimits(4, 60, counts)
    assert all(is_heard(limits) for _ in range(50))
    assert not any(counts._memory.bytes)


def test_an_unchecked_password_is_no_failure(patience: Patience) -> None:
    limits = LoginLimits(4, 60)

    def broken() -> None:
        raise OSError

    for _ in range(20):
        with pytest.raises(OSError):
            limits.guarded(HERE, 'joe', broken)
    assert is_heard(limits)


def test_without_an_address_or_with_no_limit_everything_is_heard(patience: Patience) -> None:
    limits, unlimited = LoginLimits(2, 60), LoginLimits(0, 60, LoginCounts())
    for _ in range(50):
        assert limits.guarded(None, 'joe', lambda: None) is None
        assert unlimited.guarded(HERE, 'joe', lambda: None) is None
    assert patience.waits == []


def test_many_at_once_are_limited_as_a_whole(shared: LoginCounts) -> None:
    heard = []

    def wrong(number: int) -> bool:
        def check() -> None:
            heard.append(number)
            time.sleep(0.01)  # as long as a password takes

        try:
            return LoginLimits(12, 60, shared).guarded(HERE, f'user {number}', check) is not None
        except AuthenticationFailedError:
            return False

    with ThreadPoolExecutor(50) as pool:
        assert not any(pool.map(wrong, range(200)))
    assert len(heard) == 12


def test_many_right_ones_at_once_are_all_heard(shared: LoginCounts) -> None:
    def right(_: int) -> bool:
        def check() -> bool:
            time.sleep(0.01)
            return True

        return LoginLimits(12, 60, shared).guarded(HERE, 'joe', check) is True

    with ThreadPoolExecutor(30) as pool:
        assert all(pool.map(right, range(60)))


def test_processes_count_together(shared: LoginCounts, patience: Patience) -> None:
    child = os.fork()
    if child == 0:
        try:
            fail(LoginLimits(20, 60, shared), 10)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert not is_heard(LoginLimits(20, 60, shared))
    assert is_heard(LoginLimits(20, 60, shared), THERE)


def test_a_process_that_dies_over_the_counts_holds_up_nobody(shared: LoginCounts, patience: Patience) -> None:
    child = os.fork()
    if child == 0:
        with shared.locked():
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    fail(LoginLimits(20, 60, shared))


def test_an_attempt_that_never_ends_is_forgotten_with_the_rest(patience: Patience) -> None:
    counts = LoginCounts()
    limits = LoginLimits(2, 60, counts)

    def cut_off() -> None:
        raise SystemExit

    with pytest.raises(SystemExit):
        limits.guarded(HERE, 'joe', cut_off)
    assert not is_heard(limits)
    patience.pass_by(60)
    assert is_heard(limits)


def test_the_memory_does_not_grow_and_keeps_the_most_frequent_failures() -> None:
    counts = LoginCounts()
    size = len(counts._memory.bytes)
    now = time.monotonic()
    for _ in range(10):
        counts.change('the worst', now, 60, +1, 0)
    for number in range(60_000):
        counts.change(f'somebody {number}', now, 60, +1, 0)
    assert len(counts._memory.bytes) == size
    assert counts.look('the worst', now).failed == 10
    assert counts.look('the worst', now + 61).failed == 0


def test_nothing_that_was_typed_is_kept() -> None:
    counts = LoginCounts()
    fail(LoginLimits(20, 60, counts), 3, user='a password typed as a name')
    assert any(counts._memory.bytes)
    assert b'password' not in counts._memory.bytes


@pytest.mark.parametrize(
    ('address', 'expected'),
    [
        ('192.0.2.1', '192.0.2.1'),
        ('::ffff:192.0.2.1', '192.0.2.1'),
        ('2001:db8:1:2:3:4:5:6', '2001:db8:1:2::/64'),
        ('2001:db8:1:2::', '2001:db8:1:2::/64'),
        ('fe80::1%eth0', 'fe80::/64'),
        ('a socket', 'a socket'),
    ],
)
def test_the_network_that_an_address_counts_for(address: str, expected: str) -> None:
    assert network(address) == expected


def test_any_text_may_be_a_name(patience: Patience) -> None:
    limits = LoginLimits(2, 60)
    fail(limits, user='\udcff\0 joe')
    assert not is_heard(limits, user='\udcff\0 joe')
