"""The kinds of object: one interface to VRFs, pools, prefixes, AS numbers and tags, for the calls that they share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from nipap.attributes import ASN, AUDIT, CHANGE_SET, POOL, PREFIX, TAG, VRF, Attribute, Table
from nipap.errors import NipapError
from nipap.history import changes
from nipap.objects import asn as asns
from nipap.objects import pool as pools
from nipap.objects import prefix as prefixes
from nipap.objects import prefix_search as searches
from nipap.objects import tag as tags
from nipap.objects import vrf as vrfs
from nipap.search import paging, smart_parsing
from nipap.search.paging import Order, read_options, read_prefix_options
from nipap.search.query import Condition, compile_query, find_attribute

Object = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """One kind of object: its attributes, key and order, and the functions that find and read its objects.

    store: the module that reads drafts and changes objects; None for tags.
    find_all: the function that yields a long answer in parts.
    """

    name: str
    store: Any
    table: Table
    key: Attribute
    order: Order
    find: Callable[..., list[Object]]
    parse: Callable[..., smart_parsing.SmartQuery]
    options: Callable[[object, Order], tuple[Any, ...]] = read_options
    find_all: Callable[..., Iterator[list[Object]]] | None = None

    def knows(self, name: str) -> bool:
        """Return whether a smart search may name an attribute."""
        try:
            find_attribute(name, self.table)
        except NipapError:
            return False
        return True

    def accepts(self, name: str, operator: str, value: str) -> bool:
        """Return whether a smart search may compare an attribute with a value."""
        try:
            compile_query({'operator': operator, 'val1': name, 'val2': value}, self.table)
        except NipapError:
            return False
        return True

    def compile(self, query: object) -> Condition:
        """Return the condition that a query struct means.

        :raises NipapError: `compile_query` refuses the query.
        """
        return compile_query(query, self.table)


VRFS = Kind('vrf', vrfs, VRF, VRF['id'], paging.VRFS, vrfs.find, smart_parsing.parse_vrf_query)
POOLS = Kind('pool', pools, POOL, POOL['id'], paging.POOLS, pools.find, smart_parsing.parse_pool_query)
ASNS = Kind('asn', asns, ASN, ASN['asn'], paging.ASNS, asns.find, smart_parsing.parse_asn_query)
PREFIXES = Kind(
    'prefix',
    prefixes,
    PREFIX,
    PREFIX['id'],
    paging.PREFIXES,
    searches.search,
    smart_parsing.parse_prefix_query,
    read_prefix_options,
    searches.search_all,
)
AUDIT_ENTRIES = Kind(
    'audit',
    None,
    AUDIT,
    AUDIT['id'],
    paging.AUDIT,
    changes.find,
    smart_parsing.parse_audit_query,
    find_all=changes.find_all,
)
CHANGE_SETS = Kind(
    'change_set',
    None,
    CHANGE_SET,
    CHANGE_SET['id'],
    paging.CHANGE_SETS,
    changes.find_sets,
    smart_parsing.parse_change_set_query,
)
TAGS = Kind('tag', None, TAG, TAG['name'], paging.TAGS, tags.find, smart_parsing.parse_pool_query)
KINDS = {kind.name: kind for kind in (VRFS, POOLS, PREFIXES, ASNS)}
