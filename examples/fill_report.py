"""List pools by the part of their IPv4 blocks that is used, the fullest first."""

import os
import sys

from rest import ask


def main(url: str) -> int:
    pools, after = [], ''
    while after is not None:  # page by page
        page = ask(url, 'GET', '/pools', {'limit': 100, 'after': after})
        pools += page['result']
        after = page['after']
    rows = []
    for pool in pools:
        used, total = int(pool['used_prefixes_v4']), int(pool['total_prefixes_v4'] or 0)
        rows.append((used / total if total else 0.0, used, total, pool['name']))
    for part, used, total, name in sorted(rows, reverse=True):
        print(f'{part:6.1%} {used:6} of {total:6} {name}')
    return 0


if __name__ == '__main__':
    sys.exit(main(os.environ['NIPAP_URL']))
