"""Time parts of the code in PYTHONPATH, without a daemon: reads a name from stdin, writes a line of JSON to stdout.

`sides.Worker` runs this program with the code of each revision. The answer is a `problem` if the revision does not have
the part. A new part is one more entry of `PARTS`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import sys
import time
import xmlrpc.client
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))

from bench import pages

Part = tuple[Callable[[], object], int]  # the work, and its repetitions in one timing


@functools.cache
def _page() -> list[dict[str, object]]:
    return [pages.prefix(i) for i in range(1000)]


def _first(*names: str) -> Any:
    """Return the first of these modules that the revision has: modules move."""
    for name in names[:-1]:
        with contextlib.suppress(ModuleNotFoundError):
            return importlib.import_module(name)
    return importlib.import_module(names[-1])


def _wire() -> Any:
    return _first('nipap.xmlrpc.codec', 'nipap.wire')


def encode_page() -> Part:
    wire = _wire()

    return lambda: wire.encode_response(_page()), 1


def encode_page_in_parts() -> Part:
    wire = _wire()

    return lambda: list(wire.response_parts(_page())), 1


def encode_prefix() -> Part:
    wire = _wire()

    return lambda: wire.encode_response(_page()[1:2]), 100


def encode_string() -> Part:
    wire = _wire()

    return lambda: wire.encode_response('1.0.0'), 1000


def decode_edit() -> Part:
    wire = _wire()

    attr = {**pages.for_standard_library(_page()[1]), 'added': None, 'last_modified': None}
    call = {'auth': {'authoritative_source': 'nipap'}, 'prefix': {'id': 100_001}, 'attr': attr}
    request = xmlrpc.client.dumps((call,), 'edit_prefix', allow_none=True).encode()
    return lambda: wire.decode_request(request), 50


def encode_json_page() -> Part:
    rest = _first('nipap.rest.objects', 'nipap.rest_objects')
    counters = next(one.counters for one in rest.RESOURCES if one.kind == 'prefix')

    def work() -> bytes:
        items = [item.copy() for item in _page()]  # `plain_many` changes them
        rest.plain_many(items, counters)
        encoded: bytes = rest.encode(items)
        return encoded

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
    """Do a part once, and return its seconds and its seconds of processor time."""
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
