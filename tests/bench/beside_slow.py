"""Time quick calls while the daemon is busy with slow calls: sixteen that sleep and a search that loads PostgreSQL.

A separate process makes the slow calls and begins the next one when one has been answered.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.synchronize import Event, Semaphore

from bench.operations import BY_NAME, EXACT, FLOOR
from bench.report import Measure
from bench.rpc_bench import Times, measure, median
from bench.sites import Failed, Members, Site, is_fault
from bench.soak_clients import CONTEXT as SOAK
from bench.soak_hostile import attacking

QUICK = (FLOOR, EXACT)
MOST_TIMES = 2.0  # times the median of the quick call alone
MOST_TIMES_ATTACKED, MORE_MS = 3.0, 50.0
HOSTILE = 2
SLEEPERS, SLEEP_S = 16, 1
START_S = 120
# PostgreSQL tries this pattern on this text for about a second, on one core.
PLACE, PATTERN = '102.225.0.0/24', r'^(.+)(.+)(.+)\3\2\1!$'
TEXT = ''.join(random.Random(1).choices('abcdefgh', k=250)) + '!'
_CONTEXT = multiprocessing.get_context('fork')


def time_quick(site: Site, runs: int) -> Iterator[Measure]:
    """Yield the median of each quick call beside slow calls, divided by its median alone.

    The median alone is of calls before and after the slow calls.
    """
    before = _measured(site, runs)
    with slow_calls(site):
        beside = _measured(site, runs)
    after = _measured(site, runs)
    for name, one, two, three in zip(QUICK, before, beside, after, strict=True):
        ms, alone = median(two.call), median(one.call + three.call)
        shown = f'{ms / alone:.2f} ({ms:.2f} ms : {alone:.2f} ms)'
        ok = ms <= MOST_TIMES * alone
        yield Measure(f'{name}, beside slow calls : alone', ms / alone, shown, f'{MOST_TIMES:g}', ok)


def _measured(site: Site, runs: int) -> Sequence[Times]:
    return measure([(BY_NAME[name], site) for name in QUICK], runs)


@contextlib.contextmanager
def slow_calls(site: Site) -> Iterator[None]:
    """Keep slow calls under way in the block. Raise Failed if one was refused."""
    attr = {'prefix': PLACE, 'type': 'assignment', 'description': TEXT}
    added = site.call('add_prefix', attr=attr)
    answered, stop = _CONTEXT.Semaphore(0), _CONTEXT.Event()
    process = _CONTEXT.Process(target=_call, args=(site.url, answered, stop))
    process.start()
    try:
        begun = all(answered.acquire(timeout=START_S) for _ in range(SLEEPERS + 1))
        if begun:
            yield
    finally:
        stop.set()
        process.join()
        site.call('remove_prefix', prefix={'id': added['id']})
    if not begun or process.exitcode:
        raise Failed('a slow call was refused')


def _call(url: str, answered: Semaphore, stop: Event) -> None:
    """Make all slow calls until `stop` is set. End with exit code 1 if a call was refused."""
    asked = {'operator': 'regex_match', 'val1': 'description', 'val2': PATTERN}
    place = {'operator': 'equals', 'val1': 'prefix', 'val2': PLACE}
    search = 'search_prefix', {'query': {'operator': 'and', 'val1': place, 'val2': asked}}
    sleep = 'echo', {'message': 'slept', 'sleep': SLEEP_S}
    refused: list[bytes] = []

    def repeat(method: str, members: Members) -> None:
        slow = Site(url, 0)
        while not stop.is_set() and not refused:
            answer = slow.ask(method, members)
            if is_fault(answer):
                refused.append(answer)
            answered.release()

    threads = [threading.Thread(target=repeat, args=one) for one in [sleep] * SLEEPERS + [search]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    raise SystemExit(1 if refused else 0)


def time_attacked(site: Site, runs: int) -> Iterator[Measure]:
    """Yield the 99th percentile of each quick call beside hostile clients, divided by its 99th percentile alone.

    The percentile alone is of calls before and after the attack.
    """
    before = _measured(site, runs)
    stop = SOAK.Event()
    with attacking(site.url, stop, 1, HOSTILE):
        try:
            beside = _measured(site, runs)
        finally:
            stop.set()
    after = _measured(site, runs)
    for name, one, two, three in zip(QUICK, before, beside, after, strict=True):
        ms, alone = _p99(two.call), _p99(one.call + three.call)
        shown = f'{ms / alone:.2f} ({ms:.2f} ms : {alone:.2f} ms)'
        limit_ms = MOST_TIMES_ATTACKED * alone + MORE_MS
        limit = f'{MOST_TIMES_ATTACKED:g} and {MORE_MS:g} ms'
        yield Measure(
            f'{name}, 99th percentile, beside hostile clients : alone', ms / alone, shown, limit, ms <= limit_ms
        )


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[(len(values) - 1) * 99 // 100]
