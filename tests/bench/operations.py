"""The timed calls, with their limits and the operations to compare them with."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from bench import dataset
from bench.shapes import FRONT, SHAPES, Shape, lowest_free
from bench.sites import SHARED_ROWS, UNUSED_POOL, USED_POOL, Members, Site, is_fault

Maker = Callable[[Site, int], Members]
PAGE = 50
LATE = 999 * PAGE  # rows before page 1,000, if there are enough siblings


@dataclass(frozen=True)
class Limit:
    """The highest cost of an operation: multiples of the floor, plus commits, plus milliseconds."""

    floors: float = 0
    commits: float = 0
    ms: float = 0

    def allowed(self, floor_ms: float, commit_ms: float | None) -> float | None:
        """Return the limit in milliseconds, or None if it includes commits and the cost of a commit is unknown."""
        if self.commits and commit_ms is None:
            return None
        return self.floors * floor_ms + self.commits * (commit_ms or 0) + self.ms

    def __str__(self) -> str:
        terms = ((self.floors, '{:g} × floor'), (self.commits, '{:g} commits'), (self.ms, '{:g} ms'))
        return ' + '.join(text.format(count) for count, text in terms if count).replace('1 × floor', 'floor')


@dataclass(frozen=True)
class Operation:
    """A call to time. `members` makes the members of one run, outside the timing.

    `single`: it is about one object and finds the same on every site. `beside`: the same operation without siblings, or
    the first page of a later one. `expected`: a name that the answer must contain. `leaves`: the answer contains a
    prefix that is to be removed. `shapes`: it asks for blocks that only `dataset.py --shapes` writes.
    """

    name: str
    limit: Limit
    method: str
    members: Maker
    single: bool = False
    beside: str | None = None
    expected: Callable[[Site, int], str | None] | None = None
    leaves: bool = False
    shapes: bool = False

    @property
    def writes(self) -> bool:
        return self.method.startswith(('add_', 'edit_', 'remove_'))

    def problem(self, site: Site, i: int, answer: bytes) -> str | None:
        """Return the problem of the answer of a run, or None if the answer is right."""
        if is_fault(answer):
            return f'{self.name}: {answer[:500].decode(errors="replace")}'
        expected = self.expected(site, i) if self.expected else None
        if expected is None or f'<string>{expected}</string>'.encode() in answer:
            return None
        return f'{self.name}: {expected} is not in the answer {answer[:2000].decode(errors="replace")}'


# --------------------------------------------------------------------------------------------- the objects of calls


@functools.cache
def _known() -> list[str]:
    return [row[0] for row in itertools.islice(dataset.real(), 0, SHARED_ROWS * 4 // 5, 7)]


def _real(_: Site, i: int) -> str:
    """Return a real prefix. Every site holds it and all prefixes around it."""
    return _known()[i % len(_known())]


def _real_address(site: Site, i: int) -> str:
    return _real(site, i).partition('/')[0]


def _sibling(number: int) -> str:
    """Return the address of a host of the LAN, counted from 1, or the network address for 0."""
    return str(IPv4Address(dataset.LAN.partition('/')[0]) + number)


def _host(site: Site, i: int) -> str:
    return _sibling(1 + i * 293 % max(site.siblings, 1))


def _exact(prefix: Callable[[Site, int], str]) -> Maker:
    return lambda site, i: {'prefix': {'prefix': prefix(site, i), 'vrf_id': 0}}


def _smart(text: Callable[[Site, int], str] | str, **options: Any) -> Maker:
    find = text if callable(text) else lambda _site, _i: text
    return lambda site, i: {'query_string': find(site, i), 'search_options': options}


def _search(operator: str, prefix: Callable[[Site, int], str] | str, **options: Any) -> Maker:
    find = prefix if callable(prefix) else lambda _site, _i: prefix
    query = {'operator': operator, 'val1': 'prefix'}
    return lambda site, i: {'query': {**query, 'val2': find(site, i)}, 'search_options': options}


def _children_of(parent: str) -> Maker:
    """Make a search for a page of a prefix and its children, whether the query matches them or not."""
    query = {'operator': 'equals', 'val1': 'prefix', 'val2': parent}
    return lambda site, _i: {'query': query, 'search_options': {'parent_prefix': site.id_of(parent)}}


def _free(block: str, length: int = 32) -> Maker:
    return lambda _site, _i: {'vrf': {'id': 0}, 'args': {'from-prefix': [block], 'prefix_length': length}}


def _attr(prefix: str, type_: str) -> Members:
    return {'prefix': prefix, 'type': type_, 'description': 'bench'}


def _add(prefix: str, type_: str = 'assignment') -> Maker:
    return lambda _site, i: {'attr': _attr(prefix.format(i % 240), type_)}


def _allocate(**args: Any) -> Maker:
    return lambda _site, _i: {'attr': {'type': 'assignment', 'description': 'bench'}, 'args': args}


def _from_block(block: str, length: int) -> Maker:
    return _allocate(**{'from-prefix': [block], 'prefix_length': length})


def _from_pool(pool: str) -> Maker:
    return _allocate(**{'from-pool': {'name': pool}, 'family': 4})


def _edit(prefix: Callable[[Site, int], str], **attr: str) -> Maker:
    def members(site: Site, i: int) -> Members:
        changes = {name: text.format(i) for name, text in attr.items()}
        return {'prefix': {'id': site.id_of(prefix(site, i))}, 'attr': changes}

    return members


def _tag_root(site: Site, i: int) -> Members:
    return {'prefix': {'id': site.id_of(dataset.ROOT)}, 'attr': {'tags': [f'bench-{i}']}}


def _added(site: Site, prefix: str, type_: str) -> Members:
    """Add a prefix, outside the timing, and return its spec."""
    return {'id': site.call('add_prefix', attr=_attr(prefix, type_))['id']}


def _remove(prefix: str, type_: str = 'assignment') -> Maker:
    return lambda site, _i: {'prefix': _added(site, prefix, type_)}


def _move(prefix: str, to: str, type_: str = 'assignment') -> Maker:
    return lambda site, i: {'prefix': _added(site, prefix, type_), 'attr': {'prefix': to.format(i % 240)}}


FLOOR = 'version'
EXACT, ADDRESS = 'list_prefix, exact', 'smart_search, an address'
UNUSED, LEAF, ALLOCATE = 'find_free_prefix, nothing used', 'add_prefix, leaf', 'add_prefix, from an unused pool'
PARENTS, FROM_UNUSED = 'smart_search, with all parents', 'add_prefix, from an unused block'
DESCRIBE, MOVE, REMOVE = 'edit_prefix, description', 'edit_prefix, a move', 'remove_prefix, leaf'
_FIND, _ADDRESS, _WORD, _PAGE, _GAP = (Limit(floors=floors) for floors in (1.5, 3, 10, 5, 2))
_WRITE, _EDIT = Limit(floors=1, commits=5), Limit(floors=1, commits=4)
# An operation among siblings must cost no more than elsewhere. A move takes two places and their contents.
_AMONG, _EDIT_AMONG, _MOVE = Limit(floors=2), Limit(floors=1, commits=6), Limit(floors=1, commits=12)
_OVER_HALF, _OVER_ALL = Limit(ms=700), Limit(ms=1300)
_SMART, _SEARCH = 'smart_search_prefix', 'search_prefix'


_adding = functools.partial(Operation, method='add_prefix', leaves=True)


def _found() -> Iterator[Operation]:
    """Yield look-ups and searches."""
    yield Operation(FLOOR, Limit(ms=0.8), 'version', lambda _site, _i: {}, True)
    yield Operation(EXACT, _FIND, 'list_prefix', _exact(_real), True)
    yield Operation('list_prefix, exact, among siblings', _AMONG, 'list_prefix', _exact(_host), beside=EXACT)
    yield Operation(ADDRESS, _ADDRESS, _SMART, _smart(_real_address), True)
    yield Operation('smart_search, an address among siblings', _ADDRESS, _SMART, _smart(_host), beside=ADDRESS)
    yield Operation(PARENTS, _ADDRESS, _SMART, _smart(_real_address, parents_depth=-1), True)
    among = _smart(_host, parents_depth=-1)
    yield Operation('smart_search, with all parents, among siblings', _ADDRESS, _SMART, among, beside=PARENTS)
    somewhere = _smart(lambda _site, i: f'8.8.{i % 200}.8', parents_depth=-1)
    yield Operation('smart_search, all parents of an address that is no prefix', _ADDRESS, _SMART, somewhere)
    yield Operation('smart_search, a word that is nowhere', _WORD, _SMART, _smart('SpriteLink'))
    yield Operation('smart_search, a rare word', _WORD, _SMART, _smart('Netnod'))
    yield Operation('smart_search, a common word', _WORD, _SMART, _smart('telecom'))
    yield Operation('smart_search, a word that clusters late', Limit(ms=100), _SMART, _smart('USDA'))
    yield Operation('smart_search, everything, first 50', _PAGE, _SMART, _smart(''))
    thousand = _search('contained_within', dataset.LAN, max_result=1000)
    yield Operation('search, 1,000 rows', Limit(ms=45), _SEARCH, thousand)
    yield Operation('search, children, first 50', _PAGE, _SEARCH, _search('equals', '38.0.0.0/8', children_depth=1))
    yield Operation('search, contained_within, first 50', _PAGE, _SEARCH, _search('contained_within', '185.0.0.0/12'))
    yield Operation('list_vrf', _FIND, 'list_vrf', lambda _site, _i: {'vrf': {'id': 0}}, True)
    yield Operation('list_pool, used', _FIND, 'list_pool', lambda _site, _i: {'pool': {'name': USED_POOL}}, True)


def _pages() -> Iterator[Operation]:
    """Yield trees and long lists around a block with many siblings: their first page and a late page."""
    among = 'among siblings'
    parents = _search('equals', lambda site, i: _host(site, i) + '/32', include_all_parents=True)
    yield Operation(f'search, include_all_parents, {among}', _WORD, _SEARCH, parents, expected=_a_host)
    parent = _smart(lambda site, _i: f'host {site.siblings * 2 // 3}', parents_depth=1)
    yield Operation(f'smart_search, a rare word and its parent, {among}', _WORD, _SMART, parent, expected=_the_lan)
    equals, first = functools.partial(_search, 'equals', dataset.LAN), _sibling(1) + '/32'
    # Each listing has the number of the host that would come first without earlier rows. None: it is not known.
    listings: dict[str, tuple[str, Maker, int | None]] = {
        'contained_within': (_SEARCH, _search('contained_within', dataset.LAN), 1),
        'children_depth': (_SEARCH, equals(children_depth=1), 0),
        'include_all_children': (_SEARCH, equals(include_all_children=True), 0),
        'include_neighbors': (_SEARCH, _search('equals', first, include_neighbors=True), 1),
        'parent_prefix': (_SEARCH, _children_of(dataset.LAN), 0),
        'a common word': (_SMART, _smart('host'), None),
        'everything': (_SMART, _smart(''), None),
    }
    for what, (method, members, number) in listings.items():
        verb = 'smart_search' if method == _SMART else 'search'
        first_page = f'{verb}, {what}, {among}, first page'
        # All siblings have the word, and few earlier rows: up to 2 ms for each thousand rows with it.
        limit = Limit(ms=100) if what == 'a common word' else _WORD
        yield Operation(first_page, limit, method, _page(first_page, method, members, False))
        late = _page(first_page, method, members, True)
        expected = None if number is None else functools.partial(_late_host, number=number)
        yield Operation(f'{verb}, {what}, {among}, late page', _WORD, method, late, False, first_page, expected)


def _page(name: str, method: str, members: Maker, late: bool) -> Maker:
    """Return a maker of a page of a search, by `after`: the first page or a late one."""

    def paged(site: Site, i: int) -> Members:
        made = members(site, i)
        after = site.cursor(name, method, made, _rows_before(site)) if late else ''
        return {**made, 'search_options': {**made['search_options'], 'max_result': PAGE, 'after': after}}

    return paged


def _rows_before(site: Site) -> int:
    return min(LATE, site.siblings * 5 // 6)


def _late_host(site: Site, _i: int, number: int) -> str:
    return f'{_sibling(_rows_before(site) + number)}/32'


def _a_host(site: Site, i: int) -> str:
    return f'{_host(site, i)}/32'


def _the_lan(_site: Site, _i: int) -> str:
    return dataset.LAN


def _changed() -> Iterator[Operation]:
    """Yield allocation and changes."""
    yield Operation(UNUSED, _GAP, 'find_free_prefix', _free(dataset.FREE), True)
    yield Operation('find_free_prefix, used', _GAP, 'find_free_prefix', _free(dataset.USED), True, UNUSED)
    yield _adding(LEAF, _WRITE, members=_add('10.4.{}.0/24'), single=True)
    yield _adding('add_prefix, top level', _WRITE, members=_add('102.224.{}.0/24'), single=True)
    yield _adding(
        'add_prefix, host beside siblings', _WRITE, members=_add('10.1.250.{}/32', 'host'), single=True, beside=LEAF
    )
    yield _adding(ALLOCATE, _WRITE, members=_from_pool(UNUSED_POOL), single=True)
    yield _adding('add_prefix, from a used pool', _WRITE, members=_from_pool(USED_POOL), single=True, beside=ALLOCATE)
    yield _adding(FROM_UNUSED, _WRITE, members=_from_block(dataset.FREE, 32), single=True)
    describe = functools.partial(_edit, description='bench {}')
    yield Operation(DESCRIBE, _EDIT, 'edit_prefix', describe(lambda _site, _i: dataset.FREE), True)
    yield Operation('edit_prefix, one of many siblings', _EDIT_AMONG, 'edit_prefix', describe(_a_host), beside=DESCRIBE)
    yield Operation('edit_prefix, tags of the root', _WRITE, 'edit_prefix', _tag_root, True)
    move = _move('10.4.254.0/24', '10.4.{}.0/24')
    yield Operation(MOVE, _MOVE, 'edit_prefix', move, True, leaves=True)
    among = _move('10.1.251.1/32', '10.1.250.{}/32', 'host')
    yield Operation('edit_prefix, a move among siblings', _MOVE, 'edit_prefix', among, True, MOVE, leaves=True)
    yield Operation(REMOVE, _WRITE, 'remove_prefix', _remove('10.4.255.0/24'), True)
    one = _remove('10.1.251.1/32', 'host')
    yield Operation('remove_prefix, one of many siblings', _WRITE, 'remove_prefix', one, True, REMOVE)
    half = '10.2.0.0/17', 'reservation'
    yield _adding('add_prefix, over 32,000', _OVER_HALF, members=_add(*half))
    yield Operation('remove_prefix, above 32,000', _OVER_HALF, 'remove_prefix', _remove(*half))


def _shaped() -> Iterator[Operation]:
    """Yield allocations from blocks with other layouts, whose lowest free block is known."""
    for shape in SHAPES:
        for length in shape.asked:
            name = f'{shape.name}, a /{length}'
            free, taken = _free(shape.block, length), _from_block(shape.block, length)
            found = Operation(f'find_free_prefix, {name}', _GAP, 'find_free_prefix', free, True, UNUSED)
            added = _adding(f'add_prefix, {name}', _WRITE, members=taken, single=True, beside=FROM_UNUSED)
            for one, answer in ((found, _lowest_alone), (added, _lowest)):
                expected = functools.partial(answer, shape=shape, length=length)
                yield dataclasses.replace(one, expected=expected, shapes=True)
    every = FRONT.prefix(0, 16), 'reservation'
    yield _adding('add_prefix, over 60,000', _OVER_ALL, members=_add(*every), shapes=True)
    yield Operation('remove_prefix, above 60,000', _OVER_ALL, 'remove_prefix', _remove(*every), shapes=True)


def _lowest(site: Site, _i: int, shape: Shape, length: int) -> str | None:
    return lowest_free(shape, site.siblings, length)


def _lowest_alone(site: Site, _i: int, shape: Shape, length: int) -> str | None:
    """Return the lowest free prefix in the form of an answer: a single address has no length."""
    lowest = lowest_free(shape, site.siblings, length)
    return lowest and lowest.removesuffix(f'/{shape.family_bits}')


OPERATIONS = (*_found(), *_pages(), *_changed(), *_shaped())
BY_NAME = {operation.name: operation for operation in OPERATIONS}
