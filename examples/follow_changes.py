"""Print changes as they happen, COUNT of them.

The number of the last event is kept in a file. After an interruption the program goes on after that event and misses
none.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from rest import request

LAST = Path('last-event')


def events(url: str, after: str) -> Iterator[tuple[str, dict]]:
    """Yield number and content of each event after `after`."""
    number = after
    with urllib.request.urlopen(request(url, '/events', {'after': after}), timeout=60) as stream:
        for raw in stream:
            name, _, value = raw.decode().rstrip('\n').partition(': ')
            if name == 'id':
                number = value
            elif name == 'data':
                yield number, json.loads(value)


def main(url: str, count: int) -> int:
    left = count
    while left:
        after = LAST.read_text() if LAST.exists() else '0'
        try:
            for number, event in events(url, after):
                print(json.dumps(event), flush=True)
                LAST.write_text(number)
                left -= 1
                if not left:
                    break
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    return 0


if __name__ == '__main__':
    sys.exit(main(os.environ['NIPAP_URL'], int(sys.argv[1])))
