"""Give back every prefix of an order, in one transaction: all or none."""

import os
import sys
import xmlrpc.client

AUTH = {'authoritative_source': 'examples'}


def main(url: str, order: str) -> int:
    nipap = xmlrpc.client.ServerProxy(f'{url}/XMLRPC', allow_none=True)
    query = {'operator': 'equals', 'val1': 'order_id', 'val2': order}
    found = nipap.search_prefix({'auth': AUTH, 'query': query, 'search_options': {'max_result': None}})['result']
    found.sort(key=lambda prefix: -prefix['indent'])  # inner prefixes first
    operations = [{'method': 'remove_prefix', 'args': {'prefix': {'id': prefix['id']}}} for prefix in found]
    try:
        nipap.batch({'auth': AUTH, 'operations': operations, 'reason': f'Order {order} was cancelled'})
    except xmlrpc.client.Fault as fault:
        print(f'nothing was changed: {fault.faultString}', file=sys.stderr)
        return 1
    for prefix in found:
        print(prefix['prefix'])
    return 0


if __name__ == '__main__':
    sys.exit(main(os.environ['NIPAP_URL'], sys.argv[1]))
