"""Fibers: requests that take turns in one thread, on the event loop.

A request runs in a greenlet, as plain code that calls and returns. When the request waits for PostgreSQL, for a timer
or for its client, the greenlet yields and the loop runs other requests, so a slow search blocks nobody. Nearly all
statements but changes are answered within 2 ms (MOMENT_MS). For these the greenlet blocks the thread, because yielding
costs more than waiting.

Code between two waits is never interrupted, so data that is read or changed there needs no lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import select
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol, TypeVar

from greenlet import GreenletExit, getcurrent, greenlet

from nipap.runtime import places
from nipap.runtime.places import OURSELVES, ClientGoneError, Party, Places, Turn
from nipap.runtime.waiting import Blocking

T = TypeVar('T')
Work = Callable[[], None]

MOST_RUNNING = 64
MOST_WAITING = 512
MOST_STREAMS = 1000
MOMENT_MS = 2
ASIDE_THREADS = 4

READY, READABLE = 0, 1  # results of psycopg2's poll: done, or wait until the socket is readable; else writable


class Asked(Protocol):
    """A connection of psycopg2 with a statement under way."""

    def poll(self) -> int:
        """Process input and output as far as possible; return READY, or the direction to wait for."""

    def fileno(self) -> int:
        """Return the descriptor of the socket."""

    def cancel(self) -> None:
        """Cancel the statement, which ends with an error. Blocks the thread for a moment."""

    @property
    def takes_long(self) -> bool:
        """Whether the answer waits for a disk, and perhaps for other transactions."""


class Fibers:
    """The requests of one handler, and the way in which they wait (`nipap.runtime.waiting.Waiter`).

    Up to `most_running` requests may run at once, and up to `most_waiting` more wait for a place. Parties take turns,
    each with `share` places while others wait. Work that sleeps, or waits for its client or for PostgreSQL, holds no
    place: its sessions of PostgreSQL and its connection are counted elsewhere. Each party may have `streams_of_one`
    streams.

    note: called with `running`, `waiting` or `streams` and the party that has reached this limit; with `cancelled` and
    the party whose client has left.
    """

    def __init__(
        self,
        *,
        most_running: int = MOST_RUNNING,
        most_waiting: int = MOST_WAITING,
        share: int | None = None,
        streams_of_one: int = MOST_STREAMS,
        note: Callable[[str, Party], None] = lambda *_: None,
    ) -> None:
        share, kept = (most_running, 0) if share is None else (share, share)
        self._places = Places(
            most_running,
            share,
            kept,
            most_waiting=most_waiting,
            reached=partial(note, 'running'),
            refused=partial(note, 'waiting'),
        )
        self._running: set[greenlet] = set()
        self._streams: dict[greenlet, str] = {}  # each with the group of its party
        self._streams_of_one = streams_of_one
        self._note = note
        # Work without proved credentials, which has a place and begins one by one.
        self._strangers: deque[tuple[Work, Turn]] = deque()
        self._blocking = Blocking()
        self._threads: ThreadPoolExecutor | None = None
        self._ended = False
        self._at_end: set[Work] = set()
        self.refused = 0  # count so far

    @property
    def running(self) -> int:
        """The number of fibers that have begun and not ended, without streams."""
        return len(self._running) - len(self._streams)

    @property
    def queued(self) -> int:
        """The number of requests that wait for a place."""
        return self._places.waiting

    @property
    def is_full(self) -> bool:
        """Whether only some parties' work can begin at once."""
        return self._places.is_full

    def start(self, work: Work, turn: Turn | None = None, drop: Work | None = None) -> bool:
        """Run work in a fiber, now or once it gets a place; return False when too many wait already.

        When a fiber calls this method, the work begins after that fiber yields. `drop` is called in place of waiting
        work that is removed to make room for a party with less waiting work.
        """
        turn = turn or Turn(OURSELVES)
        if self._places.take(turn.party):
            if not turn.party.proved:
                self._begin_later(work, turn)
            elif getcurrent().parent is None:
                self._run(work, turn)
            else:  # A greenlet yields to its parent, the greenlet that made it. The parent has to be the loop.
                asyncio.get_running_loop().call_soon(self._run, work, turn)
            return True
        grant = partial(asyncio.get_running_loop().call_soon, self._run, work, turn)
        waits = self._places.wait(turn.party, grant, None if drop is None else partial(self._drop, drop))
        if not waits:
            self.refused += 1
        return waits

    def _begin_later(self, work: Work, turn: Turn) -> None:
        """Begin work without proved credentials later, one per turn of the loop, so that users run in between."""
        self._strangers.append((work, turn))
        if len(self._strangers) == 1:
            asyncio.get_running_loop().call_soon(self._begin_next)

    def _begin_next(self) -> None:
        if self._strangers:
            work, turn = self._strangers.popleft()
            if self._strangers:
                asyncio.get_running_loop().call_soon(self._begin_next)
            self._run(work, turn)

    def _drop(self, drop: Work) -> None:
        self.refused += 1
        asyncio.get_running_loop().call_soon(drop)

    def _run(self, work: Work, turn: Turn) -> None:
        if getcurrent().parent is not None:  # else the new fiber would be a child of this one, and yield to it
            asyncio.get_running_loop().call_soon(self._run, work, turn)
            return
        if self._ended:
            return
        fiber = greenlet(self._fiber)
        self._running.add(fiber)
        fiber.switch(work, turn)

    def _fiber(self, work: Work, turn: Turn) -> None:
        turn.begin(self._places)
        try:
            work()
        finally:
            fiber = getcurrent()
            self._running.discard(fiber)
            self._streams.pop(fiber, None)
            turn.leave()

    def become_stream(self) -> bool:
        """Stop counting the current fiber as running: it waits most of the time, and for long.

        Return False when there are too many streams, or too many of the same party.
        """
        turn = places.turn()
        group = turn.party.group
        too_many = turn.party is not OURSELVES and sum(each == group for each in self._streams.values()) >= (
            self._streams_of_one
        )
        if too_many:
            self._note('streams', turn.party)
        if too_many or len(self._streams) >= MOST_STREAMS:
            self.refused += 1
            return False
        self._streams[getcurrent()] = group
        turn.leave()
        return True

    @contextlib.contextmanager
    def calling_at_end(self, call: Work) -> Iterator[None]:
        """Make `end` call a function during the block, for a coroutine that awaits work which may never begin."""
        self._at_end.add(call)
        try:
            yield
        finally:
            self._at_end.discard(call)

    def end(self) -> None:
        """End all fibers, by a `GreenletExit` where they wait, and begin no more work."""
        self._ended = True
        for call in list(self._at_end):
            call()
        self._places.clear()
        self._strangers.clear()
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
            self._sleep(asyncio.get_running_loop(), places.turn(), seconds)

    def _sleep(self, loop: asyncio.AbstractEventLoop, turn: Turn, seconds: float) -> None:
        """Sleep without holding a place. Raises ClientGoneError when the client leaves."""
        place = turn.leave()
        try:
            if not turn.is_abandoned:
                self.until(lambda go_on: _later(loop, seconds, go_on, turn))
        finally:
            turn.wake = None
            if place is not None:
                turn.come_back(place)
        if turn.is_abandoned:
            self._note('cancelled', turn.party)
            raise ClientGoneError

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
        """Return the result of a future of the loop, once it is done."""
        if not future.done():
            self.until(lambda go_on: future.add_done_callback(lambda _: go_on()))
        return future.result()

    def for_client(self, future: asyncio.Future[T]) -> T:
        """Return the result of a future that a client completes. The fiber waits without holding a place."""
        if future.done():
            return future.result()
        turn = places.turn()
        place = turn.leave()
        try:
            return self.result_of(future)
        finally:
            if place is not None:
                turn.come_back(place)

    def wait_for_postgresql(self, connection: Asked, limit_s: float | None) -> bool:
        """Wait for the answer to a statement, for a `Runtime`; return False when `limit_s` seconds have passed."""
        in_fiber = getcurrent().parent is not None
        ends = None if limit_s is None or math.isinf(limit_s) else time.monotonic() + limit_s
        while (state := connection.poll()) != READY:
            left_s = None if ends is None else max(0.0, ends - time.monotonic())
            if not (in_fiber and connection.takes_long):
                poll = select.poll()
                poll.register(connection.fileno(), select.POLLIN if state == READABLE else select.POLLOUT)
                if poll.poll(MOMENT_MS if in_fiber else _milliseconds(left_s)):
                    continue
            if not in_fiber or not self._wait_on_loop(connection, state, left_s):
                return False
        return True

    def _wait_on_loop(self, connection: Asked, state: int, limit_s: float | None) -> bool:
        """Wait without holding a place; cancel the statement if the client leaves and nobody else needs the result."""
        loop = asyncio.get_running_loop()
        descriptor = connection.fileno()
        add, remove = (
            (loop.add_reader, loop.remove_reader) if state == READABLE else (loop.add_writer, loop.remove_writer)
        )
        fiber = getcurrent()
        assert fiber.parent is not None
        add(descriptor, fiber.switch, True)
        timer = None if limit_s is None else loop.call_later(limit_s, fiber.switch, False)
        turn = places.turn()
        # Without a place, since PostgreSQL may wait for other transactions' locks. The number of sessions is limited.
        place = turn.leave()
        cancelling: list[asyncio.Future[None]] = []

        def cancel() -> None:
            turn.wake = None
            self._note('cancelled', turn.party)
            cancelling.append(loop.run_in_executor(None, connection.cancel))

        turn.wake = cancel
        if turn.is_abandoned:
            cancel()
        try:
            is_ready = bool(fiber.parent.switch())
        finally:  # Only the first of the two callbacks may switch to the fiber.
            turn.wake = None
            if place is not None:
                turn.come_back(place)
            remove(descriptor)
            if timer is not None:
                timer.cancel()
        for each in cancelling:  # else the cancellation could hit the next statement of the session
            with contextlib.suppress(Exception):
                self.result_of(each)
        return is_ready


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


def _go_on(loop: asyncio.AbstractEventLoop, fiber: greenlet) -> None:
    loop.call_soon(fiber.switch)


def _later(loop: asyncio.AbstractEventLoop, seconds: float, go_on: Callable[[], None], turn: Turn) -> None:
    """Call a function after `seconds`, or at once when the client of the turn leaves earlier."""

    def wake() -> None:
        timer.cancel()
        if turn.wake is wake:
            turn.wake = None
            go_on()

    timer = loop.call_later(seconds, wake)
    turn.wake = wake
