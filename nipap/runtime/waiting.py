"""The way in which code waits, set by the program that runs it.

A library, a command or a test blocks its thread. A server that answers many requests in one thread passes a waiter to
`use`: other requests then run while one waits. This module does not know how.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar('T')


class Waiter(Protocol):
    """A way to wait."""

    def sleep(self, seconds: float) -> None:
        """Return after this time."""

    def give_way(self) -> None:
        """Let waiting fibers run, then return."""

    def aside(self, work: Callable[[], T]) -> T:
        """Return the result of work that keeps a processor busy, and uses no data that may change meanwhile."""

    def until(self, register: Callable[[Callable[[], None]], None]) -> None:
        """Pass a function to `register`, and return some time after another fiber has called this function."""


class Blocking:
    """A waiter that blocks the calling thread. No other code runs in the thread meanwhile."""

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def give_way(self) -> None:
        pass

    def aside(self, work: Callable[[], T]) -> T:
        return work()

    def until(self, register: Callable[[Callable[[], None]], None]) -> None:  # noqa: ARG002  (it is never called)
        raise RuntimeError('the wait would never end: no other fiber runs in this thread')


TURN_S = 0.01


class Turns:
    """Work of many steps that yields to other fibers now and then."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    def next(self) -> None:
        """Note the end of a step. Yield to other fibers if `TURN_S` has passed since the last time."""
        if time.monotonic() - self._since > TURN_S:
            give_way()
            self._since = time.monotonic()


_waiter: Waiter = Blocking()


def use(waiter: Waiter) -> None:
    """Set the waiter of this process."""
    global _waiter
    _waiter = waiter


def sleep(seconds: float) -> None:
    """Return after this time. Other fibers may run meanwhile."""
    _waiter.sleep(seconds)


def give_way() -> None:
    """Let waiting fibers run, then return."""
    _waiter.give_way()


def aside(work: Callable[[], T]) -> T:
    """Return the result of work that keeps a processor busy, and uses no data that may change meanwhile."""
    return _waiter.aside(work)


def until(register: Callable[[Callable[[], None]], None]) -> None:
    """Pass a function to `register`, and return some time after another fiber has called this function."""
    _waiter.until(register)
