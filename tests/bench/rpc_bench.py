"""What calls cost over the wire: operations with their limits, timed one by one and by many clients at once.

Answers are read and not parsed, since a client's parsing is not the daemon's time; `version`, which does nothing, shows
what remains: HTTP, the login, XML-RPC. What an operation adds is removed again, outside the timing.
"""

from __future__ import annotations

import base64
import functools
import http.client
import itertools
import multiprocessing
import statistics
import time
import xmlrpc.client
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from multiprocessing.synchronize import Barrier
from typing import Any
from urllib.parse import unquote, urlsplit

from bench import dataset

AUTH = {'authoritative_source': 'bench'}
SHARED_ROWS = 1000  # both daemons hold these: what is compared between them looks for nothing else
USED_POOL, UNUSED_POOL = 'bench-used', 'bench-unused'
LONGEST_S = 20.0  # an operation that takes longer is not timed as often

Members = dict[str, Any]
Maker = Callable[['Site', int], Members]


def value(answer: bytes) -> Any:
    (found,), _ = xmlrpc.client.loads(answer, use_builtin_types=True)
    return found


@dataclass(frozen=True)
class Limit:
    """What an operation may cost: so many times the floor, so many commits and milliseconds on top."""

    floors: float = 0
    commits: float = 0
    ms: float = 0

    def allowed(self, floor_ms: float, commit_ms: float | None) -> float | None:
        """In milliseconds; None when that takes the cost of a commit, which is unknown."""
        if self.commits and commit_ms is None:
            return None
        return self.floors * floor_ms + self.commits * (commit_ms or 0) + self.ms

    def __str__(self) -> str:
        terms = ((self.floors, '{:g} × floor'), (self.commits, '{:g} commits'), (self.ms, '{:g} ms'))
        return ' + '.join(text.format(count) for count, text in terms if count).replace('1 × floor', 'floor')


class Failed(Exception):
    """A daemon has refused a call."""


class Site:
    """A daemon that holds the first rows of the real data and the blocks, with so many siblings.

    `commit` adds one row to a table of the same PostgreSQL; None where that cannot be reached.
    """

    def __init__(self, url: str, siblings: int, commit: Callable[[], object] | None = None) -> None:
        self.url, self.siblings, self.commit = url, siblings, commit
        parts = urlsplit(url)
        self.username, self.password = unquote(parts.username or ''), unquote(parts.password or '')
        token = base64.b64encode(f'{self.username}:{self.password}'.encode()).decode()
        self._headers = {'Authorization': f'Basic {token}', 'Content-Type': 'text/xml'}
        self.http = http.client.HTTPConnection(parts.hostname or 'localhost', parts.port, timeout=600)
        self._ids: dict[str, int] = {}

    def ask(self, method: str, members: Members) -> bytes:
        """The answer as it comes, on a connection that is kept."""
        body = xmlrpc.client.dumps(({'auth': AUTH, **members},), method, allow_none=True)
        self.http.request('POST', '/XMLRPC', body.encode(), self._headers)
        return self.http.getresponse().read()

    def call(self, method: str, **members: Any) -> Any:
        """The value of an answer; raises xmlrpc.client.Fault."""
        return value(self.ask(method, members))

    def id_of(self, prefix: str) -> int:
        if prefix not in self._ids:
            (found,) = self.call('list_prefix', prefix={'prefix': prefix, 'vrf_id': 0})
            self._ids[prefix] = found['id']
        return self._ids[prefix]

    def make_pools(self) -> None:
        """Make pools of the two blocks that are meant for them, unless there are."""
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

    def undo(self, method: str, answer: bytes) -> None:
        """Remove what a call has added."""
        if method == 'add_prefix':
            self.call('remove_prefix', prefix={'id': value(answer)['id']})


# -------------------------------------------------------------------------------------------------- what is timed


@dataclass(frozen=True)
class Operation:
    """A call to time. `members` makes those of one run, outside the timing.

    `single`: it is about one object and finds the same on every site. `beside`: the operation that does the same
    where there are no siblings.
    """

    name: str
    limit: Limit
    method: str
    members: Maker
    single: bool = False
    beside: str | None = None


@functools.cache
def _known() -> list[str]:
    return [row[0] for row in itertools.islice(dataset.real(), 0, SHARED_ROWS * 4 // 5, 7)]


def _real(_: Site, i: int) -> str:
    """A real prefix; every site holds it and all that lies around it."""
    return _known()[i % len(_known())]


def _real_address(site: Site, i: int) -> str:
    return _real(site, i).partition('/')[0]


def _host(site: Site, i: int) -> str:
    return str(IPv4Address(dataset.LAN.partition('/')[0]) + 1 + i * 293 % max(site.siblings, 1))


def _exact(prefix: Callable[[Site, int], str]) -> Maker:
    return lambda site, i: {'prefix': {'prefix': prefix(site, i), 'vrf_id': 0}}


def _smart(text: Callable[[Site, int], str] | str, **options: Any) -> Maker:
    find = text if callable(text) else lambda _site, _i: text
    return lambda site, i: {'query_string': find(site, i), 'search_options': options}


def _search(operator: str, prefix: str, **options: Any) -> Maker:
    query = {'operator': operator, 'val1': 'prefix', 'val2': prefix}
    return lambda _site, _i: {'query': query, 'search_options': options}


def _free(block: str) -> Maker:
    return lambda _site, _i: {'vrf': {'id': 0}, 'args': {'from-prefix': [block], 'prefix_length': 32}}


def _add(prefix: str, type_: str = 'assignment') -> Maker:
    return lambda _site, i: {'attr': {'prefix': prefix.format(i % 240), 'type': type_, 'description': 'bench'}}


def _allocate(pool: str) -> Maker:
    args = {'from-pool': {'name': pool}, 'family': 4}
    return lambda _site, _i: {'attr': {'type': 'assignment', 'description': 'bench'}, 'args': args}


def _describe(site: Site, i: int) -> Members:
    return {'prefix': {'id': site.id_of(dataset.FREE)}, 'attr': {'description': f'bench {i}'}}


def _tag_root(site: Site, i: int) -> Members:
    return {'prefix': {'id': site.id_of(dataset.ROOT)}, 'attr': {'tags': [f'bench-{i}']}}


def _remove(site: Site, i: int) -> Members:
    return {'prefix': {'id': site.call('add_prefix', **_add('10.4.255.0/24')(site, i))['id']}}


FLOOR = 'version'
EXACT, ADDRESS = 'list_prefix, exact', 'smart_search, an address'
UNUSED, LEAF, ALLOCATE = 'find_free_prefix, nothing used', 'add_prefix, leaf', 'add_prefix, from an unused pool'
_FIND, _ADDRESS, _WORD, _PAGE, _GAP = (Limit(floors=floors) for floors in (1.5, 3, 10, 5, 2))
_WRITE, _EDIT = Limit(floors=1, commits=5), Limit(floors=1, commits=4)
_SMART, _SEARCH = 'smart_search_prefix', 'search_prefix'

OPERATIONS = (
    Operation(FLOOR, Limit(ms=0.8), 'version', lambda _site, _i: {}, True),
    Operation(EXACT, _FIND, 'list_prefix', _exact(_real), True),
    Operation('list_prefix, exact, among siblings', _FIND, 'list_prefix', _exact(_host), beside=EXACT),
    Operation(ADDRESS, _ADDRESS, _SMART, _smart(_real_address), True),
    Operation('smart_search, an address among siblings', _ADDRESS, _SMART, _smart(_host)),
    Operation('smart_search, with all parents', _ADDRESS, _SMART, _smart(_real_address, parents_depth=-1), True),
    Operation('smart_search, a word that is nowhere', _WORD, _SMART, _smart('SpriteLink')),
    Operation('smart_search, a rare word', _WORD, _SMART, _smart('Netnod')),
    Operation('smart_search, a common word', _WORD, _SMART, _smart('telecom')),
    Operation('smart_search, a word that clusters late', Limit(ms=100), _SMART, _smart('USDA')),
    Operation('smart_search, everything, first 50', _PAGE, _SMART, _smart('')),
    Operation('search, 1,000 rows', Limit(ms=45), _SEARCH, _search('contained_within', dataset.LAN, max_result=1000)),
    Operation('search, children, first 50', _PAGE, _SEARCH, _search('equals', '38.0.0.0/8', children_depth=1)),
    Operation('search, contained_within, first 50', _PAGE, _SEARCH, _search('contained_within', '185.0.0.0/12')),
    Operation('list_vrf', _FIND, 'list_vrf', lambda _site, _i: {'vrf': {'id': 0}}, True),
    Operation('list_pool, used', _FIND, 'list_pool', lambda _site, _i: {'pool': {'name': USED_POOL}}, True),
    Operation(UNUSED, _GAP, 'find_free_prefix', _free(dataset.FREE), True),
    Operation('find_free_prefix, used', _GAP, 'find_free_prefix', _free(dataset.USED), True, UNUSED),
    Operation(LEAF, _WRITE, 'add_prefix', _add('10.4.{}.0/24'), True),
    Operation('add_prefix, top level', _WRITE, 'add_prefix', _add('102.224.{}.0/24'), True),
    Operation('add_prefix, host beside siblings', _WRITE, 'add_prefix', _add('10.1.250.{}/32', 'host'), True, LEAF),
    Operation(ALLOCATE, _WRITE, 'add_prefix', _allocate(UNUSED_POOL), True),
    Operation('add_prefix, from a used pool', _WRITE, 'add_prefix', _allocate(USED_POOL), True, ALLOCATE),
    Operation('edit_prefix, description', _EDIT, 'edit_prefix', _describe, True),
    Operation('edit_prefix, tags of the root', _WRITE, 'edit_prefix', _tag_root, True),
    Operation('remove_prefix, leaf', _WRITE, 'remove_prefix', _remove, True),
    Operation('add_prefix, over 32,000', Limit(ms=700), 'add_prefix', _add('10.2.0.0/17', 'reservation')),
)
BY_NAME = {operation.name: operation for operation in OPERATIONS}


# ------------------------------------------------------------------------------------------------------ one client


@dataclass
class Times:
    """Milliseconds of one operation on one site; between its runs those of the floor and of a commit."""

    call: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)
    commit: list[float] = field(default_factory=list)

    @property
    def medians(self) -> tuple[float, float, float | None]:
        return median(self.call), median(self.floor), median(self.commit) if self.commit else None


def median(values: Sequence[float]) -> float:
    return float(statistics.median(values))


def measure(operation: Operation, sites: Sequence[Site], runs: int) -> list[Times]:
    """Time an operation on all sites, which take turns so that a noisy machine disturbs all of them alike.

    The first run of each only warms up, unless there is no time for another. Raises Failed.
    """
    times = [Times() for _ in sites]
    deadline = time.monotonic() + LONGEST_S
    for i in range(runs + 1):
        if i and time.monotonic() > deadline:
            break
        for site, found in zip(sites, times, strict=True):
            _measure_once(operation, site, i, found)
    for found in times:
        for values in (found.call, found.floor, found.commit):
            del values[: len(values) > 1]
    return times


def _measure_once(operation: Operation, site: Site, i: int, times: Times) -> None:
    members = operation.members(site, i)
    times.floor.append(_timed(lambda: site.ask(FLOOR, {}))[0])
    if operation.limit.commits and site.commit:
        times.commit.append(_timed(site.commit)[0])
    took, answer = _timed(lambda: site.ask(operation.method, members))
    if is_fault(answer):
        raise Failed(f'{operation.name}: {answer[:500].decode(errors="replace")}')
    times.call.append(took)
    site.undo(operation.method, answer)


def _timed(action: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = action()
    return (time.perf_counter() - start) * 1e3, result


def is_fault(answer: bytes) -> bool:
    return b'<fault>' in answer[:300]


# ---------------------------------------------------------------------------------------------------- many clients

_start: Barrier


def load(site: Site, operation: Operation, clients: int, seconds: float) -> tuple[float, int]:
    """Calls in a second that many clients have answered, each on a connection of its own, and how many failed."""
    context = multiprocessing.get_context('fork')
    barrier = context.Barrier(clients)
    with ProcessPoolExecutor(clients, context, _join, (barrier,)) as pool:
        each = [pool.submit(_client, site.url, site.siblings, operation.name, seconds, n) for n in range(clients)]
        done, failed = zip(*(future.result() for future in each), strict=True)
    return sum(done) / seconds, sum(failed)


def _join(barrier: Barrier) -> None:
    global _start
    _start = barrier


def _client(url: str, siblings: int, name: str, seconds: float, number: int) -> tuple[int, int]:
    """Call for a while; returns how often that went well and how often not. What was added is removed at the end."""
    site, operation = Site(url, siblings), BY_NAME[name]
    site.call(FLOOR)
    answers, failed = [], 0
    _start.wait(60)
    end = time.perf_counter() + seconds
    for i in itertools.count(number * 1009):
        try:
            answer = site.ask(operation.method, operation.members(site, i))
        except (OSError, http.client.HTTPException):
            site.http.close()
            answer = b'<fault>'
        if is_fault(answer):
            failed += 1
        else:
            answers.append(answer)
        if time.perf_counter() > end:
            break
    for answer in answers:
        site.undo(operation.method, answer)
    return len(answers), failed
