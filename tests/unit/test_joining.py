"""Joining: concurrent calls of a kind are executed together after the call under way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import run_fibers as run
from support import waiting_in

from nipap.postgres import joining
from nipap.postgres.joining import Joining
from nipap.runtime import waiting
from nipapd.fibers import Fibers


@pytest.fixture
def fibers() -> Iterator[Fibers]:
    made = Fibers()
    with waiting_in(made):
        yield made


class Bench:
    """Calls that double their shares. It notes the shares of each execution; every execution takes a moment."""

    def __init__(self, together: Callable[[list[int]], Any] | None = None) -> None:
        self.done: list[list[int]] = []
        self.answers: dict[int, Any] = {}
        self._together = together or (lambda shares: [2 * share for share in shares])
        self._joining: Joining[int, int] = Joining(self._alone, self._at_once)

    def _alone(self, share: int) -> int:
        self.done.append([share])
        waiting.sleep(0.005)
        if share < 0:
            raise ValueError(share)
        return 2 * share

    def _at_once(self, shares: list[int]) -> Any:
        self.done.append(shares)
        waiting.sleep(0.005)
        return self._together(shares)

    def call(self, share: int, key: object = 'key') -> Callable[[], None]:
        def work() -> None:
            try:
                self.answers[share] = self._joining.run(key, share)
            except Exception as exc:
                self.answers[share] = exc

        return work


def test_one_call_needs_nobody_else() -> None:
    bench = Bench()
    bench.call(1)()
    bench.call(2)()
    assert bench.answers == {1: 2, 2: 4}
    assert bench.done == [[1], [2]]


def test_calls_that_wait_are_executed_together_next(fibers: Fibers) -> None:
    bench = Bench()
    run(fibers, *[bench.call(share) for share in range(1, 6)])
    assert bench.done == [[1], [2, 3, 4, 5]]
    assert bench.answers == {share: 2 * share for share in range(1, 6)}
    run(fibers, *[bench.call(share) for share in range(6, 8)])  # no state remains
    assert bench.done[2:] == [[6], [7]]


def test_other_keys_are_not_waited_for(fibers: Fibers) -> None:
    bench = Bench()
    run(fibers, *[bench.call(share, key=share % 2) for share in range(1, 7)])
    assert bench.done == [[1], [2], [3, 5], [4, 6]]


def test_too_many_are_several(fibers: Fibers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, 'MOST', 3)
    bench = Bench()
    run(fibers, *[bench.call(share) for share in range(1, 9)])
    assert bench.done == [[1], [2, 3, 4], [5, 6, 7], [8]]
    assert bench.answers == {share: 2 * share for share in range(1, 9)}


def test_calls_that_cannot_be_done_together_are_done_alone(fibers: Fibers) -> None:
    bench = Bench(together=lambda _: None)
    run(fibers, *[bench.call(share) for share in (1, 2, -3, 4)])
    assert bench.done[:2] == [[1], [2, -3, 4]]
    assert sorted(bench.done[2:]) == [[-3], [2], [4]]
    assert [bench.answers[share] for share in (1, 2, 4)] == [2, 4, 8]
    assert isinstance(bench.answers[-3], ValueError)


def test_a_call_that_fails_alone_fails_for_itself(fibers: Fibers) -> None:
    bench = Bench()
    run(fibers, *[bench.call(share) for share in (-1, 2, 3)])
    assert isinstance(bench.answers[-1], ValueError)
    assert (bench.answers[2], bench.answers[3]) == (4, 6)


def test_an_error_of_one_call_is_raised_for_it_alone(fibers: Fibers) -> None:
    bench = Bench(together=lambda shares: [ValueError(share) if share == 3 else 2 * share for share in shares])
    run(fibers, *[bench.call(share) for share in (1, 2, 3, 4)])
    assert bench.done == [[1], [2, 3, 4]]
    assert isinstance(bench.answers.pop(3), ValueError)
    assert bench.answers == {1: 2, 2: 4, 4: 8}


def test_an_error_of_joined_calls_is_raised_for_all(fibers: Fibers) -> None:
    def wrong(_: list[int]) -> list[int]:
        raise KeyError('wrong')

    bench = Bench(together=wrong)
    run(fibers, *[bench.call(share) for share in (1, 2, 3)])
    assert bench.answers[1] == 2
    assert all(isinstance(bench.answers[share], KeyError) for share in (2, 3))
    assert bench.done == [[1], [2, 3]]


def test_the_end_ends_waiting_calls(fibers: Fibers) -> None:
    bench = Bench()

    async def main() -> None:
        for share in (1, 2, 3):
            fibers.start(bench.call(share))
        fibers.end()
        await asyncio.sleep(0.02)
        assert not fibers.running

    asyncio.run(main())
    assert bench.answers == {}
