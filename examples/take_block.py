"""Take the next free block of a pool, exactly once.

The key of the order is the idempotency key: the program may be run again until it prints a block, and takes only one.
"""

import os
import sys
import time
import urllib.error

from rest import ask

ATTEMPTS = 5


def main(url: str, pool: str, order: str) -> int:
    (found,) = ask(url, 'GET', '/pools', {'name': pool, 'fields': 'id'})['result']
    body = {'family': 4, 'description': f'Order {order}', 'order_id': order}
    for attempt in range(ATTEMPTS):
        try:
            answer = ask(url, 'POST', f'/pools/{found["id"]}/allocations', body=body, key=f'order-{order}')
        except urllib.error.HTTPError as error:
            if error.code not in (503, 504):  # 503: nothing was changed; 504: the outcome is unknown
                print(error.read().decode(), file=sys.stderr)
                return 1
            time.sleep(2**attempt)
        except urllib.error.URLError:
            time.sleep(2**attempt)
        else:
            print(answer['result'][0]['prefix'])
            return 0
    return 1


if __name__ == '__main__':
    sys.exit(main(os.environ['NIPAP_URL'], *sys.argv[1:3]))
