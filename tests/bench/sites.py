"""A daemon to time over the wire, and the objects in it that calls ask for."""

from __future__ import annotations

import base64
import http.client
import re
import xmlrpc.client
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

from bench import dataset

AUTH = {'authoritative_source': 'bench'}
SHARED_ROWS = 1000  # both daemons hold these: comparisons between them ask for nothing else
USED_POOL, UNUSED_POOL = 'bench-used', 'bench-unused'

Members = dict[str, Any]

_CURSOR = re.compile(r'<name>after</name>\s*<value><string>([\w+/=-]+)</string>')
_AT_ONCE = 5000  # rows of one call on the way to a late page


def value(answer: bytes) -> Any:
    (found,), _ = xmlrpc.client.loads(answer, use_builtin_types=True)
    return found


def is_fault(answer: bytes) -> bool:
    return b'<fault>' in answer[:300]


class Failed(Exception):
    """A daemon has refused a call."""


class Site:
    """A daemon that holds the first rows of the real data and the blocks, with `siblings` siblings.

    `commit` adds one row to a table of the same PostgreSQL; None if that PostgreSQL cannot be reached.
    """

    def __init__(self, url: str, siblings: int, commit: Callable[[], object] | None = None) -> None:
        self.url, self.siblings, self.commit = url, siblings, commit
        parts = urlsplit(url)
        self.username, self.password = unquote(parts.username or ''), unquote(parts.password or '')
        token = base64.b64encode(f'{self.username}:{self.password}'.encode()).decode()
        self._headers = {'Authorization': f'Basic {token}', 'Content-Type': 'text/xml'}
        self.http = http.client.HTTPConnection(parts.hostname or 'localhost', parts.port, timeout=600)
        self._ids: dict[str, int] = {}
        self._cursors: dict[str, str] = {}

    def ask(self, method: str, members: Members) -> bytes:
        """Return the raw answer to a call on the kept connection."""
        body = xmlrpc.client.dumps(({'auth': AUTH, **members},), method, allow_none=True)
        self.http.request('POST', '/XMLRPC', body.encode(), self._headers)
        return self.http.getresponse().read()

    def call(self, method: str, **members: Any) -> Any:
        """Return the value of an answer. Raises xmlrpc.client.Fault."""
        return value(self.ask(method, members))

    def id_of(self, prefix: str) -> int:
        if prefix not in self._ids:
            (found,) = self.call('list_prefix', prefix={'prefix': prefix, 'vrf_id': 0})
            self._ids[prefix] = found['id']
        return self._ids[prefix]

    def make_pools(self) -> None:
        """Make pools of the two blocks for pools, unless they exist."""
        for name, block in ((USED_POOL, dataset.USED), (UNUSED_POOL, dataset.UNUSED)):
            if not self.call('list_pool', pool={'name': name}):
                attr = {
                    'name': name,
                    'description': name,
                    'default_type': 'assignment',
                    'ipv4_default_prefix_length': 32,
                }
                pool = self.call('add_pool', attr=attr)
                self.call('edit_prefix', prefix={'id': self.id_of(block)}, attr={'pool_id': pool['id']})

    def remove(self, answer: bytes) -> None:
        """Remove the prefix of an answer."""
        found = value(answer)
        (prefix,) = found if isinstance(found, list) else [found]
        self.call('remove_prefix', prefix={'id': prefix['id']})

    def cursor(self, name: str, method: str, members: Members, rows: int) -> str:
        """Return the cursor of the page after so many rows of a search, walked to once for each name."""
        if name not in self._cursors:
            after, options = '', members['search_options']
            for done in range(0, rows, _AT_ONCE):
                page = min(_AT_ONCE, rows - done)
                paged = {**options, 'max_result': page, 'after': after}
                answer = self.ask(method, {**members, 'search_options': paged})
                # The cursor of the call comes first, then the cursor of the next page.
                found = _CURSOR.findall(answer.decode())
                if not found or found[-1] == after:
                    raise Failed(f'{name}: no page after {done + page} rows')
                after = found[-1]
            self._cursors[name] = after
        return self._cursors[name]
