"""Time the XML-RPC codec beside the standard library's, on the answer of `search_prefix`.

Usage: python tests/bench/codec_bench.py [--rows 1000] [--runs 15]

Exit code 1: encoding takes more than half of the time of the standard library.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import xmlrpc.client
from collections.abc import Callable
from pathlib import Path

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.pages import for_standard_library, prefix

from nipap.xmlrpc import codec as wire

LEAST_TIMES = 2.0  # our encoder must be twice as fast as the standard library, for a page of prefixes


def median_ms(action: Callable[[], object], runs: int) -> float:
    times = []
    for _ in range(runs):
        start = time.process_time()
        action()
        times.append(time.process_time() - start)
    return statistics.median(times) * 1e3


def report(name: str, ours: float, theirs: float) -> None:
    print(f'{name:34s} {ours:9.3f} ms   standard library {theirs:9.3f} ms   {theirs / ours:5.1f} times as fast')


def standard_encode(value: object) -> bytes:
    return xmlrpc.client.dumps((value,), methodresponse=True, allow_none=True).encode()


def page_ms(count: int, runs: int) -> tuple[float, float]:
    """Return the milliseconds to encode `count` prefixes: with our encoder, and with the standard library, in turns."""
    rows = [prefix(i) for i in range(count)]
    plain = [for_standard_library(row) for row in rows]
    turns = [
        (median_ms(lambda: wire.encode_response(rows), 1), median_ms(lambda: standard_encode(plain), 1))
        for _ in range(runs)
    ]
    ours, theirs = zip(*turns, strict=True)
    return min(ours), min(theirs)  # The least time counts, because other processes on the machine can only add to it.


def main() -> int:
    parser = argparse.ArgumentParser(description='Time our XML-RPC codec beside the standard library.')
    parser.add_argument('--rows', type=int, default=1000)
    parser.add_argument('--runs', type=int, default=15)
    options = parser.parse_args()
    rows = [prefix(i) for i in range(options.rows)]
    plain = [for_standard_library(row) for row in rows]
    standard = standard_encode(plain)
    same = xmlrpc.client.loads(wire.encode_response(rows), use_builtin_types=True)
    if same != xmlrpc.client.loads(standard, use_builtin_types=True):
        raise SystemExit('the two encoders disagree')

    def compare(name: str, ours: Callable[[], object], theirs: Callable[[], object], runs: int) -> None:
        report(name, median_ms(ours, runs), median_ms(theirs, runs))

    ours, theirs = page_ms(options.rows, options.runs)
    report(f'encode {options.rows} prefixes', ours, theirs)
    compare(
        'the same in parts, unjoined',
        lambda: list(wire.response_parts(rows)),
        lambda: standard_encode(plain),
        options.runs,
    )
    many = options.runs * 100
    compare('encode 1 prefix', lambda: wire.encode_response(rows[1:2]), lambda: standard_encode(plain[1:2]), many)
    compare('encode a string', lambda: wire.encode_response('1.0.0'), lambda: standard_encode('1.0.0'), many)
    attr = {**plain[1], 'added': None, 'last_modified': None}
    call = {'auth': {'authoritative_source': 'nipap'}, 'prefix': {'id': 100_001}, 'attr': attr}
    request = xmlrpc.client.dumps((call,), 'edit_prefix', allow_none=True).encode()
    compare('decode an edit', lambda: wire.decode_request(request), lambda: xmlrpc.client.loads(request), many)
    return 0 if theirs >= LEAST_TIMES * ours else 1


if __name__ == '__main__':
    sys.exit(main())
