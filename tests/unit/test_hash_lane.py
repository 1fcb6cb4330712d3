"""The lane of passwords to hash: few at once, addresses in turns, known users first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
from support import waiting_in

from nipap.access import hash_lane
from nipap.access.hash_lane import HashLane
from nipap.errors import TooManyLoginsError
from nipap.runtime.places import Party, Turn
from nipapd.fibers import Fibers

HERE, THERE = Party('\0here', 'here', proved=False), Party('\0there', 'there', proved=False)


def run(fibers: Fibers, *works: tuple[Party, Callable[[], None]]) -> None:
    """Run works for parties until all have ended."""
    ended = []

    def ending(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            work()
            ended.append(work)

        return run

    async def main() -> None:
        for party, work in works:
            assert fibers.start(ending(work), Turn(party))
        async with asyncio.timeout(20):
            while len(ended) < len(works):
                await asyncio.sleep(0.001)

    with waiting_in(fibers):
        asyncio.run(main())


def test_addresses_take_turns_and_known_users_pass_first() -> None:
    fibers, done, reached = Fibers(most_running=1, share=1), list[str](), list[Party]()
    lane = HashLane(1, 1e6, reached.append)

    def login(name: str, known_user: str | None = None) -> Callable[[], None]:
        def hashed() -> None:
            fibers.sleep(0.01)
            done.append(name)

        return lambda: lane.run(hashed, known_user)

    strangers = [(HERE, login(f'here {number}')) for number in range(3)]
    run(fibers, *strangers, (THERE, login('there')), (HERE, login('known', 'ann')))
    assert done == ['here 0', 'known', 'here 1', 'there', 'here 2']
    assert sorted(reached) == [HERE, HERE, THERE]


def test_so_many_begin_in_a_second_but_for_known_users() -> None:
    fibers, began = Fibers(), dict[str, float]()
    lane = HashLane(4, 10)

    def login(name: str, known_user: str | None = None) -> Callable[[], None]:
        return lambda: lane.run(lambda: began.update({name: time.monotonic()}), known_user)

    run(fibers, (HERE, login('first')), (THERE, login('second')), (HERE, login('known', 'ann')))
    assert list(began) == ['first', 'known', 'second']
    assert began['second'] - began['first'] >= 0.09


def test_when_too_many_wait_the_address_with_most_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hash_lane, 'MOST_WAITING', 3)
    fibers, done, lane = Fibers(), list[str](), HashLane(1, 1e6)

    def login(name: str) -> Callable[[], None]:
        def work() -> None:
            try:
                lane.run(lambda: fibers.sleep(0.01))
            except TooManyLoginsError:
                done.append(f'{name} refused')
            else:
                done.append(name)

        return work

    run(fibers, *[(HERE, login(f'here {number}')) for number in range(5)], (THERE, login('there')))
    assert sorted(done) == ['here 0', 'here 1', 'here 2', 'here 3 refused', 'here 4 refused', 'there']
