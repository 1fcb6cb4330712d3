"""Measure the price of counting: the CPU time of `version` calls in one handler, counted and not counted in turns.

Two daemons, or two minutes of one daemon, differ by more than that price. So one handler takes turns, and notes its own
CPU time for each block of calls. The result is the median over pairs of neighbours. The admin port of the handler is
scraped meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import statistics
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / 'tests')]

from bench.rpc_bench import Site  # noqa: E402
from daemon_process import Daemon, free_port, poll  # noqa: E402
from support import open_directories  # noqa: E402

BLOCK = 5  # calls
SCRAPE_S = 1.0
ADMIN = re.compile(r'health and metrics on (http://\S+)')

# Each Python of the daemon loads this code as it starts.
TAKING_TURNS = """
import time
from nipapd import metrics  # noqa: E402
count, calls, counted, began = metrics.Counter.call, 0, False, 0
def call(self, *about):
    global calls, counted, began
    calls += 1
    if calls % {block} == 0:
        with open({file!r}, 'a') as file:
            file.write(f'{{time.process_time_ns() - began}}\\n')
        counted, began = not counted, time.process_time_ns()
    if counted:
        count(self, *about)
metrics.Counter.call = call
"""


@contextlib.contextmanager
def started(home: Path, times: Path) -> Iterator[Daemon]:
    """Yield a daemon with one handler, which takes turns and writes the CPU time of each block of calls."""
    (home / 'sitecustomize.py').write_text(TAKING_TURNS.format(block=BLOCK, file=str(times)))
    (home / 'nipap.conf').write_text('[nipapd]\nforks = 1\n')
    arguments = ['-c', str(home / 'nipap.conf'), '--data-dir', str(home / 'data'), '-p', str(free_port())]
    daemon = Daemon([*arguments, '--admin-port', '0'], {'PYTHONPATH': f'{home}:{REPOSITORY}'})
    try:
        yield daemon.start()
    finally:
        daemon.close()


def scrape(address: str, stop: threading.Event) -> None:
    while not stop.wait(SCRAPE_S):
        with urllib.request.urlopen(f'{address}/metrics', timeout=10) as answer:
            answer.read()


def measured(calls: int) -> list[float]:
    """Return the CPU time of each block, in microseconds per call.

    Every other block is counted, beginning with the second.
    """
    with open_directories() as make:
        home = make()
        times = home / 'times'
        with started(home, times) as daemon:
            poll(lambda: ADMIN.search(daemon.log()), 30, daemon.log)
            stop = threading.Event()
            scraping = threading.Thread(target=scrape, args=(ADMIN.findall(daemon.log())[-1], stop))
            scraping.start()
            try:
                site = Site(daemon.url(*daemon.admin()), 0)
                for _ in range(calls):
                    site.ask('version', {})
            finally:
                stop.set()
                scraping.join()
        return [int(line) / BLOCK / 1000 for line in times.read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--calls', type=int, default=12_000)
    blocks = measured(parser.parse_args().calls)[10:]  # without the blocks that warm up
    blocks = blocks[: len(blocks) // 2 * 2]
    plain, counted = blocks[::2], blocks[1::2]
    share = statistics.median((b - a) / a for a, b in zip(plain, counted, strict=True))
    error = 1.25 * statistics.stdev((b - a) / a for a, b in zip(plain, counted, strict=True)) / len(plain) ** 0.5
    print(f'version: {statistics.median(plain):.1f} µs of CPU, {statistics.median(counted):.1f} µs when counted')
    print(f'counting: {100 * share:+.2f} % of a call (standard error {100 * error:.2f})')


if __name__ == '__main__':
    main()
