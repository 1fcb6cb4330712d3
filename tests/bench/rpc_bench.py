"""Time calls over the wire, one by one and from many clients at once.

Answers are read and not parsed, since a client's parsing is not the daemon's time. The call `version` does nothing, so
its time is that of HTTP, the login and XML-RPC. Added prefixes are removed again, outside the timing.
"""

from __future__ import annotations

import http.client
import itertools
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.synchronize import Barrier
from typing import Any

from bench.operations import BY_NAME, FLOOR, Operation
from bench.report import Comparison
from bench.sites import Failed, Site, is_fault

LONGEST_S = 20.0  # an operation that takes longer is timed less often

Task = tuple[Operation, Site]


# ------------------------------------------------------------------------------------------------------ one client


@dataclass
class Times:
    """Milliseconds of one operation on one site, with those of the floor and of a commit between its runs."""

    call: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)
    commit: list[float] = field(default_factory=list)

    @property
    def medians(self) -> tuple[float, float, float | None]:
        return median(self.call), median(self.floor), median(self.commit) if self.commit else None


def compared(ours: Times, others: Times, name: str) -> Comparison:
    medians, quickest = (of(ours.call) / of(others.call) for of in (median, _quickest))
    return Comparison(name, medians, quickest)


def _quickest(values: Sequence[float]) -> float:
    """Return the 25th percentile."""
    return sorted(values)[(len(values) - 1) // 4]


def median(values: Sequence[float]) -> float:
    return float(statistics.median(values))


def measure(tasks: Sequence[Task], runs: int) -> list[Times]:
    """Time operations, each on a site, in turns, so that a noisy machine disturbs all of them alike.

    The first run of each operation only warms up, unless there is no time for a second run. Raises Failed.
    """
    times = [Times() for _ in tasks]
    deadline = time.monotonic() + LONGEST_S
    for i in range(runs + 1):
        if i and time.monotonic() > deadline:
            break
        for (operation, site), found in zip(tasks, times, strict=True):
            _measure_once(operation, site, i, found)
    for found in times:
        for values in (found.call, found.floor, found.commit):
            del values[: len(values) > 1]
    return times


def _measure_once(operation: Operation, site: Site, i: int, times: Times) -> None:
    members = operation.members(site, i)
    times.floor.append(_timed(lambda: site.ask(FLOOR, {}))[0])
    if operation.writes and site.commit:
        times.commit.append(_timed(site.commit)[0])
    took, answer = _timed(lambda: site.ask(operation.method, members))
    times.call.append(took)
    if operation.leaves and not is_fault(answer):
        site.remove(answer)
    if problem := operation.problem(site, i, answer):
        raise Failed(problem)


def _timed(action: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = action()
    return (time.perf_counter() - start) * 1e3, result


# ---------------------------------------------------------------------------------------------------- many clients

_start: Barrier


def load(site: Site, operation: Operation, clients: int, seconds: float) -> tuple[float, int]:
    """Return the calls per second of many clients, each on a connection of its own, and the number of failed calls."""
    context = multiprocessing.get_context('fork')
    barrier = context.Barrier(clients)
    with ProcessPoolExecutor(clients, context, _join, (barrier,)) as pool:
        each = [pool.submit(_client, site.url, site.siblings, operation.name, seconds, n) for n in range(clients)]
        done, failed = zip(*(future.result() for future in each), strict=True)
    return sum(done) / seconds, sum(failed)


def _join(barrier: Barrier) -> None:
    global _start
    _start = barrier


def _client(url: str, siblings: int, name: str, seconds: float, number: int) -> tuple[int, int]:
    """Call for `seconds` and return the numbers of good and failed calls. Remove added prefixes at the end."""
    site, operation = Site(url, siblings), BY_NAME[name]
    site.call(FLOOR)
    answers, failed = [], 0
    _start.wait(60)
    end = time.perf_counter() + seconds
    for i in itertools.count(number * 1009):
        try:
            answer = site.ask(operation.method, operation.members(site, i))
        except (OSError, http.client.HTTPException):
            site.http.close()
            answer = b'<fault>'
        if is_fault(answer):
            failed += 1
        else:
            answers.append(answer)
        if time.perf_counter() > end:
            break
    for answer in answers if operation.leaves else ():
        site.remove(answer)
    return len(answers), failed
