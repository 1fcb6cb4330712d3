"""Waiting, as whoever runs the program does it.

A library, a command or a test waits in its thread. A server that answers many requests in one thread gives itself to
`use`: what waits then, lets others run. Nobody here knows how.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar('T')


class Waiter(Protocol):
    """A way to wait."""

    def sleep(self, seconds: float) -> None:
        """Return when so much time has passed."""

    def give_way(self) -> None:
        """Let others run who have been waiting, then return."""

    def aside(self, work: Callable[[], T]) -> T:
        """The result of work that keeps a processor busy and needs nothing that others may change meanwhile."""

    def until(self, register: Callable[[Callable[[], None]], None]) -> None:
        """Give `register` a function, and return some time after that was called by somebody else."""


class Blocking:
    """Waits in the thread that calls; nobody else runs in it meanwhile."""

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def give_way(self) -> None:
        pass

    def aside(self, work: Callable[[], T]) -> T:
        return work()

    def until(self, register: Callable[[Callable[[], None]], None]) -> None:  # noqa: ARG002  (it is never called)
        raise RuntimeError('nobody else runs in this thread who could end the wait')


TURN_S = 0.01


class Turns:
    """Work of many steps that lets others run now and then."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    def next(self) -> None:
        """A step is done: when some milliseconds have passed since the last time, it is somebody else's turn."""
        if time.monotonic() - self._since > TURN_S:
            give_way()
            self._since = time.monotonic()


_waiter: Waiter = Blocking()


def use(waiter: Waiter) -> None:
    """Have everything in this process wait that way from now on."""
    global _waiter
    _waiter = waiter


def sleep(seconds: float) -> None:
    """As `Waiter.sleep`."""
    _waiter.sleep(seconds)


def give_way() -> None:
    """As `Waiter.give_way`."""
    _waiter.give_way()


def aside(work: Callable[[], T]) -> T:
    """As `Waiter.aside`."""
    return _waiter.aside(work)


def until(register: Callable[[Callable[[], None]], None]) -> None:
    """As `Waiter.until`."""
    _waiter.until(register)
