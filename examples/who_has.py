"""Name every prefix around an address, the largest first."""

import os
import sys

from rest import ask


def main(url: str, address: str) -> int:
    found = ask(url, 'GET', '/prefixes', {'q': address, 'fields': 'prefix,type,description,node,vrf_rt'})
    for prefix in found['result']:
        name = prefix['description'] or prefix['node'] or ''
        print(f'{prefix["prefix"]:20} {prefix["type"]:12} {name}')
    return 0 if found['result'] else 1


if __name__ == '__main__':
    sys.exit(main(os.environ['NIPAP_URL'], sys.argv[1]))
