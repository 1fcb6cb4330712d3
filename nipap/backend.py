"""All logic of VRFs, pools, prefixes and AS numbers, for any transport.

The words:

* A **VRF** is an address space. VRF 0, ``default``, always exists; others are told apart by their route target.
* A **prefix** is a network in a VRF. Prefixes nest: a *reservation* holds reservations and *assignments*, an
  assignment holds *hosts*. Parents, indent, inherited tags and used addresses follow from what is stored.
* A **pool** is a named set of prefixes to allocate from: `add_prefix` with ``args`` finds the lowest free block and
  adds it in the same transaction.
* A **spec** selects objects by equality: ``{'name': 'core'}``, ``{'prefix': '10.0.0.0/8', 'vrf_rt': '65000:1'}``.
* A **query** is ``{operator, val1, val2}``; ``and``/``or`` join two queries. Smart searches read text instead.

Each public method is one call of the API: it authorizes, checks its arguments, does everything in **one**
transaction (audit included) and returns plain values: dicts, lists, strings, integers and datetimes in UTC. Members
that a caller did not send are None. What goes wrong is a `nipap.errors.NipapError`. `Backend.once` makes a call that
has an idempotency key.

>>> backend.add_prefix(actor, {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'RFC 1918'})['indent']
0
"""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar

from nipap import __version__, allocate, attributes, idempotency, packed, paging, rows, schema, smart_parsing, waiting
from nipap import asn as asns
from nipap import batch as batches
from nipap import pool as pools
from nipap import prefix as prefixes
from nipap import prefix_search as searches
from nipap import tag as tags
from nipap import vrf as vrfs
from nipap.attributes import ASN, POOL, PREFIX, TAG, VRF, Table, parse_delta, read_boolean, shown
from nipap.authlib import Actor
from nipap.db import PATIENCE_S, Database
from nipap.errors import (
    AuthorizationFailedError,
    NipapChangedError,
    NipapError,
    NipapExtraneousInputError,
    NipapInputError,
    NipapMissingInputError,
    NipapNonExistentError,
    NipapOutcomeUnknownError,
    NipapValueError,
)
from nipap.paging import Order, Page, Surroundings, read_options, read_prefix_options
from nipap.pattern_trial import refused
from nipap.prefix_view import as_found, as_listed
from nipap.query import Condition, compile_query, equals, find_attribute
from nipap.smart_search import understand
from nipap.transaction import Inside, Transaction
from nipap.webhooks import Webhooks
from nipap.wire import Chunks

Object = dict[str, Any]
P = ParamSpec('P')
T = TypeVar('T')

# The members of each call beside ``auth``; '?' marks those that may be left out.
METHODS: dict[str, tuple[str, ...]] = {
    'version': (),
    'db_version': (),
    'echo': ('message?', 'sleep?'),
    **{
        name: members
        for kind in ('vrf', 'pool', 'asn')
        for name, members in {
            f'add_{kind}': ('attr',),
            f'list_{kind}': (f'{kind}?',),
            f'edit_{kind}': (kind, 'attr'),
            f'remove_{kind}': (kind,),
            f'search_{kind}': ('query', 'search_options?'),
            f'smart_search_{kind}': ('query_string', 'search_options?', 'extra_query?'),
        }.items()
    },
    'add_prefix': ('attr', 'args?'),
    'list_prefix': ('prefix?',),
    'edit_prefix': ('prefix', 'attr'),
    'remove_prefix': ('prefix', 'recursive?'),
    'search_prefix': ('query', 'search_options?'),
    'smart_search_prefix': ('query_string', 'search_options?', 'extra_query?'),
    'find_free_prefix': ('vrf', 'args'),
    'search_tag': ('query', 'search_options?'),
    'add_webhook': ('attr',),
    'list_webhook': ('webhook?',),
    'edit_webhook': ('webhook', 'attr'),
    'remove_webhook': ('webhook',),
    'list_dead_letter': ('webhook', 'after?'),
    'resend_dead_letter': ('webhook', 'ids?'),
    'batch': ('operations', 'return?'),
}
LONGEST_INSIDE = 1000  # of prefixes that are in memory at once
LONGEST_SLEEP_INSIDE_S = 10  # who waits for the locks of a batch should not wait for a clock
# What changes something, and so may be sent with an idempotency key.
TAKE_KEYS = frozenset(
    name for name in METHODS if name.partition('_')[0] in ('add', 'edit', 'remove', 'resend', 'batch')
)


def changing(
    method: Callable[Concatenate[Backend, Actor, P], T],
) -> Callable[Concatenate[Backend, Actor, P], T]:
    """Refuse a method to read-only users, before its arguments are looked at."""

    @functools.wraps(method)
    def authorized(self: Backend, actor: Actor, *args: P.args, **kwargs: P.kwargs) -> T:
        if actor.readonly:
            raise AuthorizationFailedError(
                f"read-only user '{actor.username}' is not authorized to run function '{method.__name__}'"
            )
        return method(self, actor, *args, **kwargs)

    return authorized  # type: ignore[return-value]  # functools.wraps names the parameters, Concatenate cannot


class Backend(Webhooks):
    """The calls of the API over one database.

    longest_list: of prefixes; what is longer, or may be, is no list but `Chunks`. Those of lists and searches read when
    they are iterated: errors come then. None: it is always a list.
    key_hours: how long an idempotency key is remembered.
    alike: every call shows a prefix as searches do, also those that add and list.
    """

    def __init__(
        self,
        db: Database | Inside,
        *,
        longest_list: int | None = None,
        key_hours: int = idempotency.HOURS,
        alike: bool = False,
    ) -> None:
        self.db = db
        self._slept_s = 0.0
        self._longest_list = longest_list
        self._key_hours = key_hours
        self._shape = as_found if alike else as_listed

    def showing_alike(self) -> Backend:
        """The same, and every call shows a prefix as searches do."""
        return Backend(self.db, longest_list=self._longest_list, key_hours=self._key_hours, alike=True)

    def _inside(self, tx: Transaction) -> Backend:
        """The same calls as parts of a transaction, in which nothing long is in memory."""
        longest_list = LONGEST_INSIDE if self._longest_list is None else self._longest_list
        return Backend(Inside(tx), longest_list=longest_list, alike=self._shape is as_found)

    def _given(self, answer: Any) -> Any:
        """What was answered inside, as it is given to whoever called."""
        return packed.whole(answer) if self._longest_list is None else answer

    # ------------------------------------------------------------ about the daemon

    def version(self, actor: Actor) -> str:
        """The version of the daemon."""
        return __version__

    def db_version(self, actor: Actor) -> int:
        """The version of the database's schema."""
        return schema.version(self.db)

    def echo(self, actor: Actor, message: object = None, sleep: object = None) -> object:
        """The message, after ``sleep`` seconds; to try out a connection. In a batch 10 at most, all together."""
        if sleep is not None:
            seconds = parse_delta(sleep).total_seconds()
            self._slept_s += seconds if isinstance(self.db, Inside) else 0
            if self._slept_s > LONGEST_SLEEP_INSIDE_S:
                allowed = f'a batch sleeps at most {LONGEST_SLEEP_INSIDE_S} seconds'
                raise NipapValueError(f'Invalid value {shown(sleep)} for sleep, {allowed}').about('sleep')
            waiting.sleep(seconds)
        return message

    # ------------------------------------------------------------ VRFs

    @changing
    def add_vrf(self, actor: Actor, attr: Any = None) -> Object:
        """Add a VRF with the attributes ``attr``, ``rt`` and ``name`` among them; returns it."""
        return self._add(_VRFS, actor, attr)

    def list_vrf(self, actor: Actor, vrf: Any = None) -> list[Object]:
        """The VRFs that the spec ``vrf`` selects, all without one."""
        return self._list(_VRFS, vrf)

    @changing
    def edit_vrf(self, actor: Actor, vrf: Any = None, attr: Any = None) -> list[Object]:
        """Set the attributes ``attr`` of the VRFs that the spec ``vrf`` selects; returns them as they are then."""
        return self._edit(_VRFS, actor, vrf, attr)

    @changing
    def remove_vrf(self, actor: Actor, vrf: Any = None) -> None:
        """Remove the VRFs that the spec ``vrf`` selects, with their prefixes."""
        self._remove(_VRFS, actor, vrf)

    def search_vrf(self, actor: Actor, query: Any = None, search_options: Any = None) -> Object:
        """The VRFs that a query matches, as ``result``, beside the ``search_options``."""
        return self._search(_VRFS, query, search_options)

    def smart_search_vrf(
        self, actor: Actor, query_string: Any = None, search_options: Any = None, extra_query: Any = None
    ) -> Object:
        """The VRFs that a text matches, and how the text was understood as ``interpretation``."""
        return self._smart_search(_VRFS, query_string, search_options, extra_query)

    # ------------------------------------------------------------ pools

    @changing
    def add_pool(self, actor: Actor, attr: Any = None) -> Object:
        """Add a pool with the attributes ``attr``; ``name``, ``description``, ``default_type`` needed; returns it."""
        return self._add(_POOLS, actor, attr)

    def list_pool(self, actor: Actor, pool: Any = None) -> list[Object]:
        """The pools that the spec ``pool`` selects, all without one."""
        return self._list(_POOLS, pool)

    @changing
    def edit_pool(self, actor: Actor, pool: Any = None, attr: Any = None) -> list[Object]:
        """Set the attributes ``attr`` of the pools that the spec ``pool`` selects; returns them as they are then."""
        return self._edit(_POOLS, actor, pool, attr)

    @changing
    def remove_pool(self, actor: Actor, pool: Any = None) -> None:
        """Remove the pools that the spec ``pool`` selects; their members stay."""
        self._remove(_POOLS, actor, pool)

    def search_pool(self, actor: Actor, query: Any = None, search_options: Any = None) -> Object:
        """The pools that a query matches, as ``result``, beside the ``search_options``."""
        return self._search(_POOLS, query, search_options)

    def smart_search_pool(
        self, actor: Actor, query_string: Any = None, search_options: Any = None, extra_query: Any = None
    ) -> Object:
        """The pools that a text matches, and how the text was understood as ``interpretation``."""
        return self._smart_search(_POOLS, query_string, search_options, extra_query)

    # ------------------------------------------------------------ AS numbers

    @changing
    def add_asn(self, actor: Actor, attr: Any = None) -> Object:
        """Add the AS number ``asn`` of ``attr``, with its ``name``; returns it."""
        return self._add(_ASNS, actor, attr)

    def list_asn(self, actor: Actor, asn: Any = None) -> list[Object]:
        """The AS numbers that the spec ``asn`` selects, all without one."""
        return self._list(_ASNS, asn)

    @changing
    def edit_asn(self, actor: Actor, asn: Any = None, attr: Any = None) -> list[Object]:
        """Set the ``name`` of the AS numbers that the spec ``asn`` selects; returns them as they are then."""
        return self._edit(_ASNS, actor, asn, attr)

    @changing
    def remove_asn(self, actor: Actor, asn: Any = None) -> None:
        """Remove the AS numbers that the spec ``asn`` selects."""
        self._remove(_ASNS, actor, asn)

    def search_asn(self, actor: Actor, query: Any = None, search_options: Any = None) -> Object:
        """The AS numbers that a query matches, as ``result``, beside the ``search_options``."""
        return self._search(_ASNS, query, search_options)

    def smart_search_asn(
        self, actor: Actor, query_string: Any = None, search_options: Any = None, extra_query: Any = None
    ) -> Object:
        """The AS numbers that a text matches, and how the text was understood as ``interpretation``."""
        return self._smart_search(_ASNS, query_string, search_options, extra_query)

    # ------------------------------------------------------------ prefixes

    @changing
    def add_prefix(self, actor: Actor, attr: Any = None, args: Any = None) -> Object:
        """Add a prefix with the attributes ``attr``: the ``prefix`` named there, or an allocated one; returns it.

        To allocate, ``args`` is ``{'from-pool': pool spec, 'family': 4 or 6, 'prefix_length': n}`` (the length may
        be left to the pool) or ``{'from-prefix': [network, …], 'prefix_length': n}``: the lowest free block of the
        first source that has one.
        """
        prefixes.check_attr(attr)
        request = _allocation(attr, args)

        if request:
            place = allocate.place(attr, request)
            return self.db.add_joined((place, self._shape), allocate.addition(attr, request, actor.who, self._shape))

        def work(tx: Transaction) -> Object:
            prefixes.add(tx, attr, actor.who)
            return prefixes.get_added(tx, self._shape)

        return self.db.run_at_once(work, lambda tx, i: prefixes.get_by_id(tx, i, self._shape))

    def list_prefix(self, actor: Actor, prefix: Any = None) -> list[Object] | Chunks:
        """The prefixes that the spec ``prefix`` selects, of every VRF unless it names one; all without a spec."""
        condition = prefixes.read_spec(prefix)
        most = self._longest_list
        if most is None:
            return self.db.read(lambda tx: searches.find(tx, condition, shape=self._shape))
        found = self.db.read(lambda tx: searches.find_at_most(tx, condition, most, self._shape))
        return self._chunks(lambda tx: searches.find_all(tx, condition, self._shape)) if found is None else found

    @changing
    def edit_prefix(self, actor: Actor, prefix: Any = None, attr: Any = None) -> list[Object] | Chunks:
        """Set the attributes ``attr`` of the prefixes that the spec ``prefix`` selects; returns them as they are then.

        A new ``prefix`` moves that row alone: its children go to its former parent, what the new place covers becomes
        its children.
        """
        condition = prefixes.require_spec(prefix)
        _check_changes(attr)
        prefixes.check_attr(attr)
        if condition.unique and prefixes.stays(attr):
            return self.db.run_at_once(
                lambda tx: prefixes.edit_one(tx, condition, attr, actor.who), lambda tx, i: prefixes.get_edited(tx, [i])
            )

        def edit(tx: Transaction) -> list[Object] | Chunks:
            ids = prefixes.edit(tx, condition, attr, actor.who)
            if self._is_long(ids):
                return packed.Packed(prefixes.get_edited_apart(tx, ids))
            return prefixes.get_edited(tx, ids)

        return self.db.run(edit)

    def _is_long(self, ids: list[int]) -> bool:
        return self._longest_list is not None and len(ids) > self._longest_list

    @changing
    def remove_prefix(self, actor: Actor, prefix: Any = None, recursive: Any = None) -> None:
        """Remove the prefix that the spec ``prefix`` names; its children move up, or go too when ``recursive``."""
        everything = recursive is not None and read_boolean(recursive)
        condition = prefixes.removal(prefix)
        i = prefixes.only_id(prefix)

        if i is not None:
            remove_one = partial(prefixes.remove_one, i=i, who=actor.who, recursive=everything)
            self.db.run_at_once(remove_one, lambda _tx, _i: None)
        else:
            self.db.run(lambda tx: prefixes.remove(tx, condition, actor.who, recursive=everything))

    def search_prefix(self, actor: Actor, query: Any = None, search_options: Any = None) -> Object:
        """The prefixes that a query matches, as ``result``, beside the ``search_options``.

        Options beside ``max_result`` and ``offset`` add what is around the matches: ``parents_depth``,
        ``children_depth`` (-1: all), ``include_all_parents``, ``include_all_children``, ``include_neighbors``;
        ``parent_prefix`` shows one prefix and its children instead. With ``after``, '' at first, the answer has an
        ``after`` to ask for the next page with, nil behind the last one.
        """
        return self._search(_PREFIXES, query, search_options)

    def smart_search_prefix(
        self, actor: Actor, query_string: Any = None, search_options: Any = None, extra_query: Any = None
    ) -> Object:
        """The prefixes that a text matches, and how the text was understood as ``interpretation``."""
        return self._smart_search(_PREFIXES, query_string, search_options, extra_query)

    def find_free_prefix(self, actor: Actor, vrf: Any = None, args: Any = None) -> list[str]:
        """What `add_prefix` with the same ``args`` would allocate: the ``count`` (1 to 1000) lowest free blocks."""
        request = allocate.read_args(args)
        names = _vrf_names(vrf)
        return self.db.read(lambda tx: allocate.find_free(tx, names, request))

    # ------------------------------------------------------------ many calls at once

    def batch(self, actor: Actor, operations: Any = None, **options: Any) -> list[Any] | Chunks:
        """Do many calls in one transaction; returns their answers in order, or one fault and nothing is changed.

        ``operations`` is ``[{'method': name, 'args': {…}}, …]``. ``{'$result': [0, 'id']}`` in args stands for the id
        that operation 0 answered. With ``return`` set to ``ids`` the answers are ids only. The text of a fault begins
        with the number of the operation. All answers together may have 100,000 objects, or a million ids.
        """
        wanted = options.get('return')
        if wanted not in (None, 'all', 'ids'):
            raise NipapValueError(f'Invalid value {shown(wanted)} for return, must be one of: all, ids')
        todo = batches.read_operations(operations, METHODS.keys() - {'batch'})
        ids = wanted == 'ids'

        def work(tx: Transaction) -> Any:
            inside = self._inside(tx)
            return batches.run(
                todo, ids=ids, one=partial(inside.answer, actor), many=partial(inside.add_prefixes, actor, ids=ids)
            )

        answers: list[Any] | Chunks = self._given(self.db.run(work))
        return answers

    @changing
    def add_prefixes(self, actor: Actor, attrs: list[Any], *, ids: bool = False) -> list[Any] | packed.Packed:
        """Add many prefixes in one transaction; returns them, or no more than their ids.

        An error has the ``position`` of the attr that it is about.
        """
        for position, attr in enumerate(attrs):
            try:
                prefixes.check_attr(attr)
            except NipapError as error:
                error.position = position
                raise

        def work(tx: Transaction) -> list[Any] | packed.Packed:
            added = prefixes.add_many(tx, attrs, actor.who)
            if ids:
                return [{'id': i} for i in added]
            if self._is_long(added):
                return packed.Packed(prefixes.get_many_apart(tx, added, self._shape))
            return prefixes.get_many(tx, added, self._shape)

        return self.db.run(work)

    def answer(self, actor: Actor, operation: batches.Operation, before: batches.References) -> Any:
        """The answer of one operation, whose references are answered by those before."""
        args = before.resolved(operation)
        members = [name.rstrip('?') for name in METHODS[operation.method]]
        return getattr(self, operation.method)(actor, **{name: args.get(name) for name in members})

    # ------------------------------------------------------------ calls that may be sent again

    def once(
        self, actor: Actor, method: str, members: Mapping[str, Any], key: object, expectation: Expectation | None = None
    ) -> Any:
        """The answer of a method to these members. A changing one is done once for each idempotency key.

        The same call with the same key, made again by the same user at any time while the key is remembered, changes
        nothing and gets the answer that the first one got; while that is on its way, it waits for it. A call that ends
        in a fault leaves no trace. Where nothing can be changed, the key is ignored.

        What is expected of the object that is changed is expected of it once, like the change.

        :raises NipapKeyReusedError: the key was used for another call.
        """
        if method not in TAKE_KEYS or actor.readonly:
            return getattr(self, method)(actor, **members)
        name, content = idempotency.read_key(key), idempotency.fingerprint(actor.username, method, members)
        call = idempotency.Call(actor.authenticated_as, name, content)

        def work(tx: Transaction) -> Any:
            kept = idempotency.find(tx, call, self._key_hours)
            if kept:
                return kept.value
            inside = self._inside(tx)
            if expectation is not None:
                inside.expect(expectation)
            answer = getattr(inside, method)(actor, **members)
            idempotency.keep(tx, call, answer, self._key_hours)
            return answer

        return self._given(self._known(work))

    def provided(self, actor: Actor, method: str, members: Mapping[str, Any], expectation: Expectation) -> Any:
        """The answer of a changing method to these members, provided that an object is as expected.

        Nobody else can change the object between the look at it and the change.

        :raises NipapNonExistentError: it is not there. NipapChangedError: it is, and not as expected.
        """
        if actor.readonly:
            return getattr(self, method)(actor, **members)

        def work(tx: Transaction) -> Any:
            inside = self._inside(tx)
            inside.expect(expectation)
            return getattr(inside, method)(actor, **members)

        return self._given(self.db.run(work))

    def expect(self, expectation: Expectation) -> None:
        """Lock an object until the transaction ends, and see whether it is as expected.

        :raises NipapNonExistentError: it is not there. NipapChangedError: it is, and not as expected.
        """
        kind = _KINDS[expectation.kind]
        condition = equals(kind.key, expectation.key)

        def look(tx: Transaction) -> list[Object]:
            # A statement of its own: what is read then is what nobody else can change any more.
            rows.lock(tx, expectation.kind, expectation.key)
            return kind.find(tx, condition, Page(1, 0), *(() if kind is not _PREFIXES else (Surroundings(),)))

        found = self.db.run(look)
        if not found:
            raise NipapNonExistentError(f'There is no {expectation.kind} {expectation.key}')
        if not expectation.holds(found[0]):
            raise NipapChangedError(f'The {expectation.kind} {expectation.key} is not as expected, it was changed')

    def _known(self, work: Callable[[Transaction], T]) -> T:
        """Run work that finds out itself whether it was committed, until its outcome is known."""
        began = time.monotonic()
        while True:
            try:
                return self.db.run(work)
            except NipapOutcomeUnknownError:
                if time.monotonic() - began > PATIENCE_S:
                    raise
            waiting.sleep(random.uniform(0, 0.2))

    # ------------------------------------------------------------ tags

    def search_tag(self, actor: Actor, query: Any = None, search_options: Any = None) -> Object:
        """The tags in use that a query matches, by name."""
        return self._search(_TAGS, query, search_options)

    # ------------------------------------------------------------ what they share

    def _add(self, kind: Kind, actor: Actor, attr: Any) -> Object:
        def work(tx: Transaction) -> Object:
            return kind.find(tx, equals(kind.key, kind.store.add(tx, attr, actor.who)), None)[0]

        return self.db.run(work)

    def _list(self, kind: Kind, spec: object) -> list[Object]:
        condition = kind.store.read_spec(spec)
        return self.db.read(lambda tx: kind.find(tx, condition, None))

    def _edit(self, kind: Kind, actor: Actor, spec: object, attr: Any) -> list[Object]:
        condition = kind.store.require_spec(spec)
        _check_changes(attr)

        def work(tx: Transaction) -> list[Object]:
            ids = kind.store.edit(tx, condition, attr, actor.who)
            return kind.find(tx, Condition(f'{kind.key.sql} = ANY (%s)', (ids,), by_key=True), None)

        return self.db.run(work)

    def _remove(self, kind: Kind, actor: Actor, spec: object) -> None:
        condition = kind.store.require_spec(spec)
        self.db.run(lambda tx: kind.store.remove(tx, condition, actor.who))

    def _search(self, kind: Kind, query: object, options: object) -> Object:
        if query is None:
            raise NipapMissingInputError("'query' must be specified")
        condition = compile_query(query, kind.table)
        echo, *page = kind.options(options, kind.order)
        result = self._found(kind, echo, condition, *page)
        return {'search_options': echo, 'result': result, **_next(kind, echo, result)}

    def _found(
        self,
        kind: Kind,
        echo: Mapping[str, Any],
        condition: Condition,
        page: Page,
        *around: Any,
        tried: frozenset[str] = frozenset(),
    ) -> list[Object] | Chunks:
        read_all = kind.find_all
        most = self._longest_list
        short = page.max_result is not None and (most is None or page.max_result <= most)
        at_once = read_all is None or most is None or short or 'after' in echo
        # What fails in the middle of a transaction spoils it: there nothing may be left to be found out.
        untried = [pattern for pattern in condition.patterns if pattern not in tried]
        for why in refused(self.db, untried, all_signs=not at_once or isinstance(self.db, Inside)).values():
            raise NipapValueError(why)
        if read_all is None or at_once:
            return self.db.read(lambda tx: kind.find(tx, condition, page, *around))
        return self._chunks(lambda tx: read_all(tx, condition, page, *around))

    def _chunks(self, read: Callable[[Transaction], Iterator[list[Object]]]) -> Chunks:
        """What is read in one transaction, from the first item to the last."""

        def chunks() -> Iterator[list[Object]]:
            with self.db.snapshot() as tx:
                yield from read(tx)

        return Chunks(chunks)

    def _smart_search(self, kind: Kind, text: object, options: object, extra_query: object) -> Object:
        if text is None:
            raise NipapMissingInputError("'query_string' must be specified")
        if not isinstance(text, str):
            raise NipapInputError(f'Invalid query_string ({shown(text)}), must be a string')
        understood = understand(self.db, text, kind.parse, kind.knows, kind.compare)
        shown_query, query = understood.shown.query, understood.query
        if understood.shown.error:
            if extra_query:
                compile_query(extra_query, kind.table)  # what is wrong with it is said, whatever the text
            kind.options(options, kind.order)  # likewise
            return {
                'search_options': {} if options is None else options,
                'result': [],
                'interpretation': shown_query,
                'error': True,
                'error_message': understood.shown.error_message,
            }
        if extra_query:
            shown_query, query = (
                {'operator': 'and', 'val1': ours, 'val2': extra_query} for ours in (shown_query, query)
            )
        echo, *page = kind.options(options, kind.order)
        result = self._found(kind, echo, compile_query(query, kind.table), *page, tried=understood.tried)
        return {
            'search_options': echo,
            'result': result,
            **_next(kind, echo, result),
            'interpretation': shown_query,
            'error': False,
        }


# ---------------------------------------------------------------- kinds of object


@dataclass(frozen=True)
class Kind:
    """What the calls that all kinds of object share need to know of one."""

    store: Any
    table: Table
    key: attributes.Attribute
    order: Order
    find: Callable[..., list[Object]]
    parse: Callable[..., smart_parsing.SmartQuery]
    options: Callable[[object, Order], tuple[Any, ...]] = read_options
    find_all: Callable[..., Iterator[list[Object]]] | None = None

    def knows(self, name: str) -> bool:
        """Whether a smart search may name an attribute."""
        try:
            find_attribute(name, self.table)
        except NipapError:
            return False
        return True

    def compare(self, name: str, operator: str, value: str) -> Condition | None:
        """The condition of a comparison in a smart search; None when it makes no sense."""
        try:
            return compile_query({'operator': operator, 'val1': name, 'val2': value}, self.table)
        except NipapError:
            return None


@dataclass(frozen=True)
class Expectation:
    """What is expected of an object before it is changed: `kind` is vrf, pool, asn or prefix; `key` is its number."""

    kind: str
    key: int
    holds: Callable[[Object], bool]


_VRFS = Kind(vrfs, VRF, VRF['id'], paging.VRFS, vrfs.find, smart_parsing.parse_vrf_query)
_POOLS = Kind(pools, POOL, POOL['id'], paging.POOLS, pools.find, smart_parsing.parse_pool_query)
_ASNS = Kind(asns, ASN, ASN['asn'], paging.ASNS, asns.find, smart_parsing.parse_asn_query)
_PREFIXES = Kind(
    prefixes,
    PREFIX,
    PREFIX['id'],
    paging.PREFIXES,
    searches.search,
    smart_parsing.parse_prefix_query,
    read_prefix_options,
    searches.search_all,
)
_KINDS = {'vrf': _VRFS, 'pool': _POOLS, 'asn': _ASNS, 'prefix': _PREFIXES}
_TAGS = Kind(None, TAG, TAG['name'], paging.TAGS, tags.find, smart_parsing.parse_pool_query)


# ---------------------------------------------------------------- arguments


def _check_changes(attr: object) -> None:
    if not isinstance(attr, Mapping):
        raise NipapInputError("'attr' must be a dict")
    if not attr:
        raise NipapInputError("'attr' must not be empty.")


def _allocation(attr: Mapping[str, Any], args: Any) -> allocate.Request | None:
    """The allocation that the arguments of add_prefix ask for; None when ``attr`` names a prefix."""
    if args is not None and not isinstance(args, Mapping):
        raise NipapInputError('invalid input, please provide dict as args')
    asked = args is not None and any(args.get(name) is not None for name in ('from-pool', 'from-prefix'))
    if asked == (attr.get('prefix') is not None):
        raise NipapExtraneousInputError("specify 'prefix' or 'from-prefix' or 'from-pool'")
    return allocate.read_args(args) if asked else None


def _next(kind: Kind, echo: Mapping[str, Any], result: Any) -> Object:
    """The cursor behind the last of a page, for those who page with one; nil when there is no more."""
    if 'after' not in echo:
        return {}
    full = bool(result) and len(result) == echo['max_result']
    return {'after': kind.order.cursor(result[-1]) if full else None}


def _vrf_names(spec: object) -> dict[str, object]:
    """The members of a VRF spec that are not nil; none of them: VRF 0."""
    vrfs.read_spec(spec)
    return {} if not isinstance(spec, Mapping) else {key: value for key, value in spec.items() if value is not None}
