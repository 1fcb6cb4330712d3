"""Fibers: work that takes turns on one event loop, and its waits."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from support import run_fibers as run

from nipap.runtime.places import Party, Turn
from nipap.runtime.waiting import Blocking
from nipapd.fibers import Fibers

Go = Callable[[], None]


def wait_for_others(fibers: Fibers, seconds: float = 0.005) -> None:
    """Wait in a place as for another fiber. The loop wakes this fiber."""
    fibers.until(lambda go_on: asyncio.get_running_loop().call_later(seconds, go_on) and None)


def test_work_runs_at_once_and_to_its_end() -> None:
    fibers, done = Fibers(), []
    assert run(fibers, lambda: done.append(1), lambda: done.append(2)) == [True, True]
    assert done == [1, 2]


def test_a_fiber_that_starts_another_is_not_woken_by_it() -> None:
    fibers, told = Fibers(), list[str]()

    def second() -> None:
        for _ in range(3):
            fibers.sleep(0.01)
            told.append('second')

    def first() -> None:
        began = time.monotonic()
        assert fibers.start(second)
        fibers.sleep(0.2)
        assert time.monotonic() - began >= 0.2
        told.append('first')

    run(fibers, first)
    assert sorted(told) == ['first', 'second', 'second', 'second']  # in any order on a slow machine


def test_a_sleeping_fiber_lets_others_run() -> None:
    fibers, done = Fibers(), []

    def sleeper() -> None:
        fibers.sleep(0.02)
        done.append('sleeper')

    run(fibers, sleeper, lambda: done.append('other'))
    assert done == ['other', 'sleeper']


def test_giving_way_is_taking_turns() -> None:
    fibers, said = Fibers(), []

    def talker(name: str) -> Go:
        def talk() -> None:
            for number in range(3):
                said.append(f'{name}{number}')
                fibers.give_way()

        return talk

    run(fibers, talker('a'), talker('b'))
    assert said == ['a0', 'b0', 'a1', 'b1', 'a2', 'b2']


def test_a_child_fiber_does_not_wake_its_parent() -> None:
    fibers, said = Fibers(), []

    def child() -> None:
        said.append('child')
        fibers.sleep(0.001)
        said.append('child again')

    def parent() -> None:
        assert fibers.start(child)
        said.append('parent')
        began = time.monotonic()
        fibers.sleep(0.05)
        assert time.monotonic() - began >= 0.05
        said.append('parent again')

    run(fibers, parent)
    assert said == ['parent', 'child', 'child again', 'parent again']


def test_work_aside_keeps_its_own_thread_busy() -> None:
    fibers, seen = Fibers(), []
    other_ran = threading.Event()

    def asking() -> None:
        seen.append(fibers.aside(lambda: (other_ran.wait(10), threading.current_thread().name.startswith('aside'))))

    run(fibers, asking, other_ran.set)
    assert seen == [(True, True)]
    fibers.end()


def test_an_error_aside_is_raised() -> None:
    fibers, caught = Fibers(), []

    def asking() -> None:
        with pytest.raises(ZeroDivisionError) as raised:
            fibers.aside(lambda: 1 / 0)
        caught.append(raised.value)

    run(fibers, asking)
    assert len(caught) == 1
    fibers.end()


def test_one_waits_until_another_says_so() -> None:
    fibers, order, waiting = Fibers(), [], []

    def first() -> None:
        fibers.until(waiting.append)
        order.append('first')

    def second() -> None:
        order.append('second')
        waiting.pop()()

    run(fibers, first, second)
    assert order == ['second', 'first']


def test_more_than_may_run_wait_in_order_and_too_many_are_not_taken() -> None:
    fibers, order = Fibers(most_running=1, most_waiting=2), []

    def work(number: int) -> Go:
        def work() -> None:
            order.append(number)
            wait_for_others(fibers)

        return work

    assert run(fibers, *map(work, range(4)), settled=lambda: len(order) == 3) == [True, True, True, False]
    assert order == [0, 1, 2]
    # The fibers that ended have made room.
    assert run(fibers, work(4), work(5), settled=lambda: len(order) == 5) == [True, True]
    assert order == [0, 1, 2, 4, 5]


def test_a_failed_fiber_makes_room() -> None:
    fibers, done = Fibers(most_running=1), []

    async def main() -> None:
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                fibers.start(lambda: 1 / 0)  # type: ignore[func-returns-value]  # it returns nothing at all
        fibers.start(lambda: done.append(1))

    asyncio.run(main())
    assert (done, fibers.running) == ([1], 0)


def test_the_end_ends_waiting_fibers() -> None:
    fibers, ended = Fibers(most_running=1), []

    def work() -> None:
        try:
            wait_for_others(fibers, 60)
        finally:
            ended.append('waiting')

    async def main() -> None:
        fibers.start(work)
        fibers.start(lambda: ended.append('never'))
        fibers.end()

    asyncio.run(main())
    assert (ended, fibers.running) == (['waiting'], 0)


def test_outside_a_fiber_everything_blocks() -> None:
    fibers = Fibers()
    before = time.monotonic()
    fibers.sleep(0.01)
    assert time.monotonic() - before >= 0.01
    fibers.give_way()
    assert fibers.aside(threading.current_thread) is threading.current_thread()
    for waiter in (fibers, Blocking()):
        with pytest.raises(RuntimeError, match='no other fiber runs'):
            waiter.until(lambda go_on: None)


class Asked:
    """A connection with a slow answer: it becomes readable when the test writes to the other end."""

    def __init__(self, ours: Any, states: list[int], *, takes_long: bool = False) -> None:
        self._ours = ours
        self._states = states
        self.takes_long = takes_long

    def cancel(self) -> None:
        raise AssertionError('nobody has left')

    def poll(self) -> int:
        return self._states.pop(0)

    def fileno(self) -> int:
        return int(self._ours.fileno())


def test_a_fiber_that_waits_for_a_slow_answer_lets_others_run() -> None:
    fibers, order = Fibers(), []
    ours, theirs = socket.socketpair()

    def asking() -> None:
        fibers.wait_for_postgresql(Asked(ours, [2, 1, 1, 0]), None)  # one poll to write, then two to read
        order.append('answered')

    def other() -> None:
        order.append('other')
        theirs.send(b'answer')

    with ours, theirs:
        run(fibers, asking, other)
    assert order == ['other', 'answered']


@pytest.mark.parametrize('takes_long', [True, False])
def test_an_answer_that_comes_at_once_is_waited_for_on_the_spot_unless_it_takes_long(takes_long: bool) -> None:
    fibers, order = Fibers(), []
    ours, theirs = socket.socketpair()

    def asking() -> None:
        theirs.send(b'answer')
        fibers.wait_for_postgresql(Asked(ours, [1, 0], takes_long=takes_long), None)
        order.append('answered')

    with ours, theirs:
        run(fibers, asking, lambda: order.append('other'))
    assert order == (['other', 'answered'] if takes_long else ['answered', 'other'])


@pytest.mark.parametrize('in_fiber', [True, False])
def test_a_late_answer_is_given_up(in_fiber: bool) -> None:
    fibers, answered = Fibers(), []
    ours, theirs = socket.socketpair()

    def asking() -> None:
        answered.append(fibers.wait_for_postgresql(Asked(ours, [1] * 100), 0.02))

    with ours, theirs:
        if in_fiber:
            run(fibers, asking)
        else:
            asking()
    assert answered == [False]


def test_outside_a_fiber_an_answer_is_waited_for_on_the_spot() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b'answer')
        assert Fibers().wait_for_postgresql(Asked(ours, [1, 0]), None)


def test_a_stream_counts_no_more_as_running_and_gives_nothing_back_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('nipapd.fibers.MOST_STREAMS', 2)
    fibers, said, over = Fibers(most_running=1, most_waiting=10), [], threading.Event()

    def stream() -> None:
        said.append(fibers.become_stream())
        while not over.is_set():
            fibers.sleep(0.001)

    def last() -> None:
        said.append(fibers.running)
        over.set()

    assert run(fibers, stream, stream, last, settled=lambda: not fibers._running) == [True] * 3
    assert said == [True, True, 1]
    said.clear()
    assert run(fibers, lambda: wait_for_others(fibers), lambda: said.append(fibers.running)) == [True, True]
    assert said == [1]


def test_a_fiber_that_sleeps_or_waits_holds_no_place() -> None:
    fibers, said = Fibers(most_running=1, most_waiting=0), []
    ours, theirs = socket.socketpair()

    def asleep() -> None:
        fibers.sleep(0.05)
        said.append('slept')

    def sending() -> None:
        loop = asyncio.get_running_loop()
        fibers.for_client(loop.create_task(asyncio.sleep(0.1)))
        said.append('sent')

    def asking() -> None:
        fibers.wait_for_postgresql(Asked(ours, [1, 0], takes_long=True), None)
        said.append('answered')

    def answering() -> None:
        said.append('ran')
        theirs.send(b'answer')

    with ours, theirs:
        assert run(fibers, sending, asleep, asking, answering) == [True] * 4
    assert said == ['ran', 'answered', 'slept', 'sent']


def test_each_party_may_have_so_many_streams() -> None:
    reached: list[tuple[str, Party]] = []
    fibers, said = Fibers(streams_of_one=2, note=lambda *noted: reached.append(noted)), []
    ann, bob = Party('ann'), Party('bob')

    def stream() -> None:
        said.append(fibers.become_stream())
        fibers.sleep(0.01)

    async def main() -> None:
        for party in (ann, ann, ann, bob):
            assert fibers.start(stream, Turn(party))
        while fibers._running:
            await asyncio.sleep(0.001)

    asyncio.run(main())
    assert said == [True, True, False, True]
    assert reached == [('streams', ann)]
