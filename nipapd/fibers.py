"""Fibers: requests that take turns in one thread, on the event loop.

A request runs in a greenlet, as plain code that calls and returns. Where it has to wait, for PostgreSQL, for time to
pass or for its client, it goes aside and the loop goes on with others; so a slow search holds up nobody. What
PostgreSQL answers within a moment, and that is nearly everything but changes, is waited for on the spot: going aside
costs more than the moment does.

Code between two waits is never interrupted, so nothing needs a lock that is looked at or changed there.
"""

from __future__ import annotations

import asyncio
import math
import select
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from greenlet import GreenletExit, getcurrent, greenlet

from nipap.runtime.waiting import Blocking

T = TypeVar('T')
Work = Callable[[], None]

MOST_RUNNING = 64
MOST_WAITING = 512
MOST_STREAMS = 1000
MOMENT_MS = 2
ASIDE_THREADS = 2

READY, READABLE = 0, 1  # numbers of psycopg2: done, or the socket has to become readable; else writable


class Asked(Protocol):
    """A connection that has been asked something, as psycopg2 has them."""

    def poll(self) -> int:
        """Go on as far as it goes; READY, or what is missing."""

    def fileno(self) -> int:
        """Its socket."""

    @property
    def takes_long(self) -> bool:
        """Whether the answer waits for a disk, and perhaps for others."""


class Fibers:
    """The requests of one handler; also how they wait (`nipap.runtime.runtime.waiting.Waiter`).

    `most_running` may have begun at once, as many as `most_waiting` more wait for their turn in the order in which they
    came.
    """

    def __init__(self, *, most_running: int = MOST_RUNNING, most_waiting: int = MOST_WAITING) -> None:
        self._free = most_running
        self._most_waiting = most_waiting
        self._queue: deque[Work] = deque()
        self._running: set[greenlet] = set()
        self._streams: set[greenlet] = set()
        self._blocking = Blocking()
        self._threads: ThreadPoolExecutor | None = None
        self._ended = False
        self.refused = 0  # so far

    @property
    def running(self) -> int:
        """How many have begun and not ended."""
        return len(self._running) - len(self._streams)

    @property
    def queued(self) -> int:
        """How many wait for their turn."""
        return len(self._queue)

    def start(self, work: Work) -> bool:
        """Run work in a fiber, now or when it is its turn; False when too many wait already.

        Called by a fiber, it runs once that one waits.
        """
        if self._free:
            self._free -= 1
            if getcurrent().parent is None:
                self._run(work)
            else:  # who makes a greenlet is its parent, to which it goes when it waits: that has to be the loop
                asyncio.get_running_loop().call_soon(self._run, work)
        elif len(self._queue) < self._most_waiting:
            self._queue.append(work)
        else:
            self.refused += 1
            return False
        return True

    def _run(self, work: Work) -> None:
        if getcurrent().parent is not None:  # else it would be a child of the fiber that starts it, and wake that one
            asyncio.get_running_loop().call_soon(self._run, work)
            return
        if self._ended:
            return
        fiber = greenlet(self._fiber)
        self._running.add(fiber)
        fiber.switch(work)

    def _fiber(self, work: Work) -> None:
        try:
            work()
        finally:
            fiber = getcurrent()
            self._running.discard(fiber)
            if fiber in self._streams:
                self._streams.discard(fiber)
            else:
                self._let_next()

    def _let_next(self) -> None:
        """One that had begun counts no more."""
        if self._queue:
            asyncio.get_running_loop().call_soon(self._run, self._queue.popleft())
        else:
            self._free += 1

    def become_stream(self) -> bool:
        """Have the fiber that runs not count as one that has begun: it will wait for the most part, and for long.

        False when there are too many of that kind.
        """
        if len(self._streams) >= MOST_STREAMS:
            self.refused += 1
            return False
        self._streams.add(getcurrent())
        self._let_next()
        return True

    def end(self) -> None:
        """End what still runs, by a `GreenletExit` where it waits; nothing is begun any more."""
        self._ended = True
        self._queue.clear()
        for fiber in list(self._running):
            fiber.throw(GreenletExit)
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    # waiting

    def until(self, register: Callable[[Callable[[], None]], None]) -> None:
        fiber = getcurrent()
        if fiber.parent is None:
            self._blocking.until(register)
            return
        loop = asyncio.get_running_loop()
        register(lambda: _go_on(loop, fiber))
        fiber.parent.switch()

    def sleep(self, seconds: float) -> None:
        if getcurrent().parent is None:
            self._blocking.sleep(seconds)
        else:
            loop = asyncio.get_running_loop()
            self.until(lambda go_on: _later(loop, seconds, go_on))

    def give_way(self) -> None:
        if getcurrent().parent is not None:
            self.until(lambda go_on: go_on())

    def aside(self, work: Callable[[], T]) -> T:
        if getcurrent().parent is None:
            return work()
        if self._threads is None:
            self._threads = ThreadPoolExecutor(ASIDE_THREADS, thread_name_prefix='aside')
        return self.result_of(asyncio.get_running_loop().run_in_executor(self._threads, work))

    def result_of(self, future: asyncio.Future[T]) -> T:
        """What a future of the loop holds once it is done."""
        if not future.done():
            self.until(lambda go_on: future.add_done_callback(lambda _: go_on()))
        return future.result()

    def wait_for_postgresql(self, connection: Asked, limit_s: float | None) -> bool:
        """Wait for the answer to a statement, as a `Runtime` does; return False when time is up."""
        in_fiber = getcurrent().parent is not None
        ends = None if limit_s is None or math.isinf(limit_s) else time.monotonic() + limit_s
        while (state := connection.poll()) != READY:
            left_s = None if ends is None else max(0.0, ends - time.monotonic())
            if not (in_fiber and connection.takes_long):
                poll = select.poll()
                poll.register(connection.fileno(), select.POLLIN if state == READABLE else select.POLLOUT)
                if poll.poll(MOMENT_MS if in_fiber else _milliseconds(left_s)):
                    continue
            if not in_fiber or not self._wait_on_loop(connection.fileno(), state, left_s):
                return False
        return True

    def _wait_on_loop(self, descriptor: int, state: int, limit_s: float | None) -> bool:
        loop = asyncio.get_running_loop()
        add, remove = (
            (loop.add_reader, loop.remove_reader) if state == READABLE else (loop.add_writer, loop.remove_writer)
        )
        fiber = getcurrent()
        assert fiber.parent is not None
        add(descriptor, fiber.switch, True)
        timer = None if limit_s is None else loop.call_later(limit_s, fiber.switch, False)
        try:
            return bool(fiber.parent.switch())
        finally:  # of the two that go on with the fiber only the first may
            remove(descriptor)
            if timer is not None:
                timer.cancel()


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


def _go_on(loop: asyncio.AbstractEventLoop, fiber: greenlet) -> None:
    loop.call_soon(fiber.switch)


def _later(loop: asyncio.AbstractEventLoop, seconds: float, go_on: Callable[[], None]) -> None:
    loop.call_later(seconds, go_on)
