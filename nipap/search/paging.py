"""Pages of an answer: ``search_options``, and cursors that name a place in the order of a kind of object.

A cursor holds the sort key of the last object, not the number of objects before it. Additions and removals between two
pages do not shift the next page, and the thousandth page is found as fast as the first.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nipap.addresses import parse_network, parse_route_target
from nipap.attributes import check_text, read_boolean, read_integer, shown
from nipap.errors import NipapInputError, NipapValueError
from nipap.search.condition import Condition, InTreeOrder

Place = tuple[Any, ...]


@dataclass(frozen=True)
class Order:
    """The order of the objects of a kind.

    by: the SQL of the sort key.
    of: returns the place of an object in the shape of an answer.
    read: checks the values of a cursor and returns their place.
    behind: returns the condition that an object comes after a place.
    """

    kind: str
    by: str
    of: Callable[[Mapping[str, Any]], Place]
    read: Callable[..., Place]
    behind: Callable[[Place], Condition]

    def cursor(self, item: Mapping[str, Any]) -> str:
        """Return the cursor of an object, for clients."""
        return self.written(self.of(item))

    def written(self, place: Place) -> str:
        """Return the cursor of a place. Its content is opaque to clients."""
        return base64.urlsafe_b64encode(json.dumps([self.kind, *place]).encode()).decode()

    def place(self, text: object) -> Place:
        """Return the place of a cursor.

        :raises NipapValueError: the cursor is invalid, or of another kind of object.
        """
        try:
            kind, *values = json.loads(base64.urlsafe_b64decode(text if isinstance(text, str) else ''))
            if kind != self.kind:
                raise ValueError('the cursor is of another kind of object')
            return self.read(*values)
        except (ValueError, TypeError, RecursionError, NipapValueError):
            error = NipapValueError(
                f"Invalid value {shown(text)} for option 'after', must be the 'after' of the previous answer, or '' "
                'for the first page'
            )
            error.attribute = 'after'
            raise error from None


def _rank(route_target: str | None) -> int:
    return -1 if route_target is None else parse_route_target(route_target)[1]


def _number(value: object, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError('no such number')
    return value


def _read_vrf(rank: object, i: object) -> Place:
    return _number(rank, -1, 2**64 - 1), _number(i, 0, 2**31 - 1)


def _read_prefix(rank: object, i: object, prefix: object) -> Place:
    return *_read_vrf(rank, i), parse_network(prefix).text


def _read_name(name: object) -> Place:
    if not isinstance(name, str):
        raise TypeError('no name')
    return (check_text(name),)


def _behind_prefix(place: Place) -> Condition:
    """Return the condition that a prefix comes after a place, in a form that starts at this place in the index."""
    rank, i, prefix = place
    sql = """((v.rt_rank, v.id) >= (%s, %s) AND (v.id <> %s OR p.prefix <> %s::cidr)
        AND p.prefix >= CASE WHEN v.id = %s THEN %s::cidr ELSE '0.0.0.0/0' END)"""
    params = (rank, i, i, prefix, i, prefix)
    return Condition(sql, params, (InTreeOrder((sql, params)),))


VRFS = Order(
    'vrf',
    'v.rt_rank, v.id',
    lambda item: (_rank(item['rt']), item['id']),
    _read_vrf,
    lambda place: Condition('(v.rt_rank, v.id) > (%s, %s)', place),
)
# Names of pools are unique without regard to case, so no two pools have the same place.
POOLS = Order(
    'pool',
    'lower(o.name)',
    lambda item: (item['name'],),
    _read_name,
    lambda place: Condition('lower(o.name) > lower(%s)', place),
)
ASNS = Order(
    'asn',
    'a.asn',
    lambda item: (item['asn'],),
    lambda number: (_number(number, 0, 2**63 - 1),),
    lambda place: Condition('a.asn > %s', place),
)
TAGS = Order(
    'tag',
    'g.name',
    lambda item: (item['name'],),
    _read_name,
    lambda place: Condition('g.name > %s', place),
)
PREFIXES = Order(
    'prefix',
    'v.rt_rank, v.id, p.prefix',
    lambda item: (_rank(item['vrf_rt']), item['vrf_id'], item['prefix']),
    _read_prefix,
    _behind_prefix,
)


def _newest_first(kind: str, column: str) -> Order:
    return Order(
        kind,
        f'{column} DESC',
        lambda item: (item['id'],),
        lambda number: (_number(number, 0, 2**63 - 1),),
        lambda place: Condition(f'{column} < %s', place),
    )


AUDIT = _newest_first('audit', 'a.id')
CHANGE_SETS = _newest_first('change_set', 's.id')

# ---------------------------------------------------------------- search options

DEFAULT_MAX_RESULT = 50
MOST_BEHIND = 10_000
MOST = 10**15
_OPTIONS_HELP = "Invalid value for option '{}'. Only integer values{} allowed."


@dataclass(frozen=True)
class Page:
    """The requested part of an answer.

    max_result: the limit; None for all objects.
    after: a place.
    behind: the condition that an object comes after that place.
    """

    max_result: int | None
    offset: int
    after: Place | None = None
    behind: Condition | None = None


def read_options(options: object, order: Order, *, unlimited: bool = False) -> tuple[dict[str, Any], Page]:
    """Return ``search_options`` with defaults, to be echoed, and their page.

    Unknown options are echoed as they were sent: a client that numbers its searches finds the number in the answer.

    unlimited: accept nil or false as ``max_result`` for all objects, echoed as nil.

    :raises NipapValueError: naming the option.
    """
    given = _options_struct(options)
    echo: dict[str, Any] = {**given, 'max_result': DEFAULT_MAX_RESULT, 'offset': 0}
    max_result: int | None = DEFAULT_MAX_RESULT
    if 'max_result' in given:
        value = given['max_result']
        if unlimited and (value is None or value is False):
            echo['max_result'] = max_result = None
        else:
            echo['max_result'] = max_result = _count('max_result', value)
    if 'offset' in given:
        echo['offset'] = _count('offset', given['offset'])
    page = Page(max_result, echo['offset'])
    if 'after' in given:
        echo['after'] = given['after']
        page = _page_behind(given['after'], page, order)
    return echo, page


def _page_behind(after: object, page: Page, order: Order) -> Page:
    if page.max_result is None or page.max_result > MOST_BEHIND:
        raise NipapValueError(f"Option 'after' needs a 'max_result' of at most {MOST_BEHIND}")
    if after in ('', None):
        return page
    place = order.place(after)
    return Page(page.max_result, page.offset, place, order.behind(place))


def _options_struct(options: object) -> Mapping[str, Any]:
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise NipapInputError(f'Invalid search_options ({shown(options)}), must be a struct')
    return options


def _count(name: str, value: object, low: int = 0, help_text: str = '') -> int:
    try:
        number = read_integer(value) if not isinstance(value, bool) else -2
    except NipapValueError:
        raise NipapValueError(_OPTIONS_HELP.format(name, help_text)) from None
    if number < low or number > MOST:
        raise NipapValueError(_OPTIONS_HELP.format(name, help_text))
    return number


@dataclass(frozen=True)
class Surroundings:
    """The requested rows around the matches. A depth of -1 means all levels."""

    parents_depth: int = 0
    children_depth: int = 0
    neighbors: bool = False
    parent_prefix: int | None = None

    @property
    def wanted(self) -> bool:
        """Return whether any rows around the matches are requested."""
        return bool(self.parents_depth or self.children_depth or self.neighbors)


def read_prefix_options(options: object, order: Order) -> tuple[dict[str, Any], Page, Surroundings]:
    """Return ``search_options`` of a search for prefixes with defaults, to be echoed, their page and the surroundings.

    :raises NipapValueError: naming the option.
    """
    echo, page = read_options(options, order, unlimited=True)
    given = _options_struct(options)
    for name in ('include_all_parents', 'include_all_children', 'include_neighbors'):
        echo[name] = _flag(name, given.get(name, False))
    for name in ('parents_depth', 'children_depth'):
        echo[name] = _count(name, given.get(name, 0), -1, ' > -1')
    parent = given.get('parent_prefix')
    echo['parent_prefix'] = None if parent is None else _count('parent_prefix', parent)
    return (
        echo,
        page,
        Surroundings(
            -1 if echo['include_all_parents'] else echo['parents_depth'],
            -1 if echo['include_all_children'] else echo['children_depth'],
            echo['include_neighbors'],
            echo['parent_prefix'],
        ),
    )


def _flag(name: str, value: object) -> bool:
    try:
        return read_boolean(value)
    except NipapValueError:
        raise NipapValueError(
            f"Invalid value for option '{name}'. Only true and false valid. Supplied value :'{shown_plain(value)}'"
        ) from None


def shown_plain(value: object) -> str:
    """Return a value for an error text with its own quotes."""
    return value[:100] if isinstance(value, str) else shown(value)
