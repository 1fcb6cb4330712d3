"""Write the big data set as a CSV file: real prefixes of the Internet, and blocks with many siblings within 10.0.0.0/8.

Usage: python tests/bench/dataset.py [--rows N] [--siblings N [--shapes]] > prefixes.csv

Without `--siblings` there are only real prefixes, without `--rows` all of them. `--shapes` adds blocks that are used in
other ways than from the front, see shapes.py.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import lzma
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import TextIO

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import shapes

REAL = Path(__file__).resolve().parent.parent / 'data' / 'internet-prefixes.csv.xz'
COLUMNS = ('prefix', 'type', 'description', 'country')
SIBLINGS = 60_000
# The hosts of a LAN, a pool in use, an unused pool, and a block to add to by hand.
ROOT, LAN, USED, UNUSED, FREE = '10.0.0.0/8', '10.1.0.0/16', '10.2.0.0/16', '10.3.0.0/16', '10.4.0.0/16'

Row = tuple[str, ...]


def real(limit: int | None = None) -> Iterator[Row]:
    """Yield the first rows of the real data, in the order of the tree, without the prefixes in 10.0.0.0/8."""
    with lzma.open(REAL, 'rt', encoding='utf-8', newline='') as file:
        rows = csv.reader(file)
        if tuple(next(rows)) != COLUMNS:
            raise ValueError(f'{REAL} has other columns than {", ".join(COLUMNS)}')
        yield from itertools.islice((tuple(row) for row in rows if not row[0].startswith('10.')), limit)


def blocks(siblings: int) -> Iterator[Row]:
    """Yield the blocks, with `siblings` hosts in the LAN and `siblings` addresses taken from the used pool."""
    yield (ROOT, 'reservation', 'private', '')
    yield (LAN, 'assignment', 'LAN', '')
    yield from addresses(LAN, siblings, 'host')
    yield (USED, 'reservation', 'used pool', '')
    yield from addresses(USED, siblings, 'assignment')
    yield (UNUSED, 'reservation', 'unused pool', '')
    yield (FREE, 'reservation', 'nothing in it', '')


def addresses(block: str, count: int, type_: str) -> Iterator[Row]:
    """Return the first addresses of a block as rows, without its network address."""
    first = IPv4Address(block.partition('/')[0]) + 1
    return ((f'{first + number}/32', type_, f'{type_} {number}', '') for number in range(count))


def write(file: TextIO, rows: int | None, siblings: int | None, with_shapes: bool = False) -> int:
    """Write the file and return the number of its rows."""
    made = () if siblings is None else itertools.chain(blocks(siblings), shapes.rows(siblings) if with_shapes else ())
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow(COLUMNS)
    count = 0
    for row in itertools.chain(real(rows), made):
        writer.writerow(row)
        count += 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description='Write the big data set as CSV.')
    parser.add_argument('--rows', type=int, metavar='N', help='only the first N real prefixes')
    parser.add_argument('--siblings', type=int, metavar='N', help='add the blocks, with N siblings in two of them')
    parser.add_argument(
        '--shapes', action='store_true', help='add blocks with other patterns of use, N prefixes in each'
    )
    options = parser.parse_args()
    if options.shapes and options.siblings is None:
        parser.error('--shapes needs --siblings')
    write(sys.stdout, options.rows, options.siblings, options.shapes)


if __name__ == '__main__':
    main()
