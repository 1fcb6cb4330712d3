"""Times parts of the code that it finds in PYTHONPATH, without a daemon: a name on stdin, a line of JSON on stdout.

`sides.Worker` runs it with the code of each revision. A part that this revision does not have is answered with a
`problem`. New parts are added to `PARTS`, and to the table in compare_rows.py.
"""

from __future__ import annotations

import functools
import json
import sys
import time
import xmlrpc.client
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))

from bench import pages

Part = tuple[Callable[[], object], int]  # what is done, and how often for one timing


@functools.cache
def _page() -> list[dict[str, object]]:
    return [pages.prefix(i) for i in range(1000)]


def encode_page() -> Part:
    from nipap.xmlrpc import codec as wire

    return lambda: wire.encode_response(_page()), 1


def encode_page_in_parts() -> Part:
    from nipap.xmlrpc import codec as wire

    return lambda: list(wire.response_parts(_page())), 1


def encode_prefix() -> Part:
    from nipap.xmlrpc import codec as wire

    return lambda: wire.encode_response(_page()[1:2]), 100


def encode_string() -> Part:
    from nipap.xmlrpc import codec as wire

    return lambda: wire.encode_response('1.0.0'), 1000


def decode_edit() -> Part:
    from nipap.xmlrpc import codec as wire

    attr = {**pages.for_standard_library(_page()[1]), 'added': None, 'last_modified': None}
    call = {'auth': {'authoritative_source': 'nipap'}, 'prefix': {'id': 100_001}, 'attr': attr}
    request = xmlrpc.client.dumps((call,), 'edit_prefix', allow_none=True).encode()
    return lambda: wire.decode_request(request), 50


def encode_json_page() -> Part:
    from nipap.rest.objects import RESOURCES, encode, plain_many

    counters = next(one.counters for one in RESOURCES if one.kind == 'prefix')

    def work() -> bytes:
        items = [item.copy() for item in _page()]  # `plain_many` changes them
        plain_many(items, counters)
        return encode(items)

    return work, 2


PARTS: dict[str, Callable[[], Part]] = {
    'encode 1,000 prefixes': encode_page,
    'encode 1,000 prefixes, unjoined': encode_page_in_parts,
    'encode 1 prefix': encode_prefix,
    'encode a string': encode_string,
    'decode an edit': decode_edit,
    'encode 1,000 prefixes as JSON': encode_json_page,
}


@functools.cache
def _prepared(name: str) -> Part:
    return PARTS[name]()


def timed(name: str) -> dict[str, object]:
    """Do a part once, and return what it took: seconds, and seconds of processor time."""
    try:
        work, times = _prepared(name)
    except (ImportError, AttributeError, KeyError) as error:
        return {'problem': f'{type(error).__name__}: {error}'}
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(times):
        work()
    processor, wall = time.process_time() - processor, time.perf_counter() - wall
    return {'seconds': wall / times, 'processor_seconds': processor / times}


if __name__ == '__main__':
    for line in sys.stdin:
        print(json.dumps(timed(line.strip())), flush=True)
