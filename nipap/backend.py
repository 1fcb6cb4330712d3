"""The interface of all transports to VRFs, pools, prefixes and AS numbers.

The terms:

* A **VRF** is an address space. VRF 0, ``default``, always exists; other VRFs are identified by their route target.
* A **prefix** is a network in a VRF. Prefixes nest: a *reservation* holds reservations and *assignments*, an
  assignment holds *hosts*. Parents, indent, inherited tags and used addresses follow from the stored prefixes.
* A **pool** is a named set of prefixes to allocate from: `add_prefix` with ``args`` finds the lowest free block and
  adds it in the same transaction.
* A **spec** selects objects by equality: ``{'name': 'core'}``, ``{'prefix': '10.0.0.0/8', 'vrf_rt': '65000:1'}``.
* A **query** is ``{operator, val1, val2}``; ``and``/``or`` join two queries. Smart searches read text instead.

`Backend.perform` makes any call of the table `nipap.calls.CALLS`: it finds the call, checks the right that the call
needs, parses the members once, does the work and returns plain values: dicts, lists, strings, integers and datetimes
in UTC. A changing call is **one** transaction, audit included. The other methods are typed versions of the same calls
for programs in Python. Errors are `nipap.errors.NipapError`.

>>> backend.add_prefix(actor, {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'RFC 1918'})['indent']
0
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from nipap import calls
from nipap.access.authentication import Actor
from nipap.addresses import first_address, parse_network
from nipap.answers import (
    Asn,
    AuditEntry,
    AuditPage,
    ChangeSet,
    DeadLetter,
    LongList,
    PackedList,
    Page,
    Pool,
    Prefix,
    PrefixPage,
    RemovedPage,
    SignIn,
    SmartAuditPage,
    SmartPage,
    SmartPrefixPage,
    Tag,
    Undone,
    UndoneGroup,
    Vrf,
    Webhook,
)
from nipap.calls import Call, Caller, Expectation, Message, Mode, Request, Right, Steps
from nipap.errors import (
    AuthorizationFailedError,
    NipapBusyError,
    NipapChangedError,
    NipapError,
    NipapExtraneousInputError,
    NipapInputError,
    NipapNonExistentError,
    NipapOutcomeUnknownError,
    NipapUnavailableError,
    NipapValueError,
    at_operation,
)
from nipap.history import idempotency
from nipap.history import plan as plans
from nipap.objects import prefix as prefixes
from nipap.objects import rows
from nipap.objects import vrf as vrfs
from nipap.objects.kinds import KINDS, Object
from nipap.objects.prefix_view import as_found, as_listed
from nipap.postgres.database import PATIENCE_S, Database
from nipap.postgres.transaction import Inside, Outcome, Transaction
from nipap.runtime import packed, places, waiting
from nipap.search.paging import Page as Part
from nipap.search.paging import Surroundings
from nipap.search.query import equals

T = TypeVar('T')

# Errors that say nothing about a change: the same call may succeed a moment later.
_NOT_OF_THE_CHANGE = (NipapUnavailableError, NipapOutcomeUnknownError, NipapBusyError)
LONGEST_INSIDE = 1000  # prefixes that are in memory at once
LONGEST_SLEEP_S = 10.0


class Backend:
    """The calls of the API over one database.

    longest_list: most prefixes in a list. An answer of prefixes that is longer, or may be longer, is a `Chunks`. The
    `Chunks` of lists and searches are read from the database when they are iterated, and raise errors then. None: an
    answer is always a list.
    key_hours: the time for which an idempotency key is remembered.
    alike: every call shows a prefix in the form of searches, additions and lists too.
    part_of: the request of the transaction in which this backend works. Its calls are parts of that change.
    owed: the time to sleep after that transaction, to which the calls in it add.
    """

    def __init__(
        self,
        db: Database | Inside,
        *,
        longest_list: int | None = None,
        key_hours: int = idempotency.HOURS,
        alike: bool = False,
        part_of: Request | None = None,
        owed: _Owed | None = None,
    ) -> None:
        self.db = db
        self._part_of = part_of
        self._owed = owed
        self._errors: plans.Errors | None = None  # notes all errors of a dry run
        self._slept_s = 0.0
        self._longest_list = longest_list
        self._key_hours = key_hours
        self._alike = alike

    def showing_alike(self) -> Backend:
        """Return a backend with calls that all show a prefix in the form of searches."""
        return Backend(self.db, longest_list=self._longest_list, key_hours=self._key_hours, alike=True)

    # ------------------------------------------------------------ making a call

    def perform(self, actor: Actor, request: Request, outcome: Outcome | None = None) -> Any:
        """Make a call for an actor and return its answer. The outcome receives the number of the change set.

        A changing call with an idempotency key is carried out once. The same request, made again by the same user
        while the key is remembered, changes nothing and gets the first answer. A request with the key of a request in
        progress waits for that request. A call that ends in an error leaves no trace. Other calls ignore a key. An
        expectation is checked under the lock of the object, so nobody can change the object before the work is done.

        A dry run of a changing call makes the change, reports it (`nipap.history.plan.answer`) and rolls it back. It
        ignores an idempotency key. A change with the plan of a dry run is made only if it is as it was planned. A dry
        run with a plan has an error if the change is not as planned.

        :raises AuthorizationFailedError: the actor may not make this call with any members.
        :raises NipapExtraneousInputError: the call changes nothing, but is a dry run or has a plan.
        :raises NipapKeyReusedError: the key was used for another call.
        :raises NipapNonExistentError, NipapChangedError: the object does not exist, or is not as expected.
        :raises NipapPlanError, NipapPlanChangedError: the plan belongs to another call, or does not hold any more.
        :raises NipapBusyError: another change holds a lock that the dry run needs.
        """
        call = calls.find(request.call)
        authorize(actor, call)
        _check_controls(call, request)
        if call.changes:
            places.turn().finishes = True
        if call.parts is not None and self._owed is None:
            return self._perform_parts(actor, request, outcome)
        if request.dry_run:
            return self._rehearse(actor, call, request)
        if request.key is not None and call.changes and not actor.readonly:
            return self._once(actor, call, request, outcome)
        if request.expectation is not None or request.plan is not None:
            return self._provided(actor, call, request, outcome)
        return self._run(actor, call, call.read(request.members), request, outcome)

    def _perform_parts(self, actor: Actor, request: Request, outcome: Outcome | None) -> Any:
        """Make a call that consists of calls. Sleep after its transaction, for others need its session and locks."""
        owed = _Owed()
        door = Backend(
            self.db,
            longest_list=self._longest_list,
            key_hours=self._key_hours,
            alike=self._alike,
            part_of=self._part_of,
            owed=owed,
        )
        answer = door.perform(actor, request, outcome)
        if owed.seconds and not request.dry_run:
            waiting.sleep(owed.seconds)
        return answer

    def _run(self, actor: Actor, call: Call, members: Any, request: Request, outcome: Outcome | None) -> Any:
        """Do the work of a call in its mode: without the database, with reads, in a pipeline or in a transaction."""
        caller = self._caller(actor, request)
        mode = call.mode
        if mode is Mode.COMPUTE:
            return call.work(None, caller, members)
        work: Callable[[Transaction], Any] = lambda tx: call.work(tx, caller, members)  # noqa: E731
        if mode is Mode.READ:
            return self.db.read(work)
        if isinstance(mode, Message):
            joined = mode.joined(caller, members)
            if joined is not None:
                return self.db.add_joined(*joined, outcome)
            if mode.when(members):
                again = mode.again
                return self.db.run_at_once(work, lambda tx, i: again(tx, caller, members, i), outcome)
        if isinstance(mode, Steps) and mode.when(members):
            if isinstance(self.db, Inside) and not request.dry_run:
                what = 'plan, as it' if request.plan is not None else 'idempotency key, as it'
                raise NipapInputError(f'{call.name} of a group takes no {what} has several transactions')
            return mode.work(self.db, caller, members, outcome)
        return self._given(self.db.run(work, outcome))

    def _once(self, actor: Actor, call: Call, request: Request, outcome: Outcome | None) -> Any:
        """Make a changing call once for its idempotency key.

        A stored answer is returned only when the actor may still make the call and all its parts.
        """
        name = idempotency.read_key(request.key)
        sent = call.known(request.members)
        content = idempotency.fingerprint(actor.username, call.name, sent)
        keyed = idempotency.KeyedCall(actor.authenticated_as, name, content, actor.predecessors)
        own = Outcome()

        def work(tx: Transaction) -> tuple[Any, idempotency.KeptAnswer | None]:
            kept = idempotency.find(tx, keyed, self._key_hours)
            if kept:
                _require_parts(actor, call, sent)
                return kept.value, kept
            answer, _ = self._run_expected(tx, actor, call, request, sent)
            idempotency.keep(tx, keyed, answer, self._key_hours)
            return answer, None

        answer, kept = self._until_known(work, own)
        if outcome is not None:
            outcome.change_set = kept.change_set if kept else own.change_set
        return self._given(answer)

    def _provided(self, actor: Actor, call: Call, request: Request, outcome: Outcome | None) -> Any:
        """Make a changing call if an object is as expected, and the change is as planned."""
        sent = call.known(request.members)
        early = _read_early(call, request, sent)
        answer, _ = self.db.run(lambda tx: self._run_expected(tx, actor, call, request, sent, early), outcome)
        return self._given(answer)

    def _run_expected(
        self,
        tx: Transaction,
        actor: Actor,
        call: Call,
        request: Request,
        sent: calls.Raw,
        early: Any = None,
        errors: plans.Errors | None = None,
    ) -> tuple[Any, plans.Consequences | None]:
        """Do the work of a changing call in a transaction, under its expectation and plan.

        Return the answer, and the consequences for a dry run or a plan. early: the parsed members, unless they are
        parsed here. errors: notes all errors of a dry run; a plan is not compared then.
        """
        plan = None
        if request.plan is not None and errors is None:
            plan = plans.opened(tx, request.plan, _signer(actor, call, request))
        reports = request.dry_run or plan is not None
        if reports:
            plans.begin(tx)
        inside = self._enter(tx, request)
        inside._errors = errors
        members = inside._expected(request, sent)
        answer = inside._run(actor, call, call.read(members) if early is None else early, request, None)
        found = plans.made(tx) if reports else None
        if plan is not None and found is not None:
            plans.compare(plan, found)
        return answer, found

    def _rehearse(self, actor: Actor, call: Call, request: Request) -> plans.Object:
        """Make a changing call, report it and roll it back.

        A batch is run in one piece, as it would be without a dry run. If an operation fails, the batch is run once
        more, with each operation in a savepoint, to find all errors.
        """
        errors = plans.Errors()
        found, answer = None, None
        try:
            answer, found = self._rehearsed(actor, call, request, None)
        except _NOT_OF_THE_CHANGE:
            raise
        except NipapError as error:
            if call.parts is not None and error.position is not None:
                found, errors = self._find_errors(actor, call, request)
            if not errors:
                cause = error.__cause__ if isinstance(error.__cause__, NipapError) else error
                errors.note(cause, error.position)
        right = max([call.right, *(calls.find(part).right for part in self._parts_of(call, request))])
        return _plan_of(actor, call, request, right, errors, found, self._given(answer))

    def refused(self, actor: Actor, name: str, error: NipapError) -> plans.Object:
        """Return the answer of a dry run of a call that a transport refuses before it is made.

        :raises AuthorizationFailedError: the actor may not make the call.
        """
        call = calls.find(name)
        authorize(actor, call)
        errors = plans.Errors()
        errors.note(error, error.position)
        return _plan_of(actor, call, Request(name), call.right, errors)

    def _parts_of(self, call: Call, request: Request) -> Sequence[str]:
        """Return the names of the calls of which a call consists."""
        if call.parts is None:
            return ()
        try:
            return call.parts(call.read(request.members))
        except NipapError:
            return ()

    def _find_errors(
        self, actor: Actor, call: Call, request: Request
    ) -> tuple[plans.Consequences | None, plans.Errors]:
        """Run the operations of a batch to the last, and return the consequences and all errors."""
        errors = plans.Errors()
        try:
            _, found = self._rehearsed(actor, call, request, errors)
        except _NOT_OF_THE_CHANGE:
            raise
        except NipapError:  # of the batch itself
            return None, plans.Errors()
        return found, errors

    def _rehearsed(
        self, actor: Actor, call: Call, request: Request, errors: plans.Errors | None
    ) -> tuple[Any, plans.Consequences | None]:
        """Make a changing call and roll it back; return its answer and consequences. errors: notes all errors."""
        db = self.db
        if isinstance(db, Inside):
            raise RuntimeError('a part of a transaction has no dry run of its own')
        sent = call.known(request.members)
        early = _read_early(call, request, sent)

        def work(tx: Transaction) -> tuple[Any, plans.Consequences | None]:
            if errors is not None:
                errors.clear()
            return self._run_expected(tx, actor, call, request, sent, early, errors)

        return db.rehearse(work, plans.READY)

    def _expected(self, request: Request, sent: calls.Raw) -> calls.Raw:
        """Lock and check the object of a request's expectation, if any; return the members of the call."""
        expectation = request.expectation
        if expectation is None:
            return sent
        item = self.expect(expectation)
        return sent if expectation.members is None else expectation.members(item)

    def expect(self, expectation: Expectation) -> Object:
        """Lock an object until the transaction ends, compare it with an expectation and return it.

        :raises NipapNonExistentError: the object does not exist. NipapChangedError: the object is not as expected.
        """
        kind = KINDS[expectation.kind]
        condition = equals(kind.key, expectation.key)
        around = (Surroundings(),) if expectation.kind == 'prefix' else ()

        def look(tx: Transaction) -> list[Object]:
            # The lock takes a statement of its own, so that the next one reads rows that nobody else can change.
            rows.lock(tx, expectation.kind, expectation.key)
            return kind.find(tx, condition, Part(1, 0), *around)

        found = self.db.run(look)
        if not found:
            raise NipapNonExistentError(f'There is no {expectation.kind} {expectation.key}')
        if not expectation.holds(found[0]):
            raise NipapChangedError(f'The {expectation.kind} {expectation.key} is not as expected, it was changed')
        return found[0]

    def _until_known(self, work: Callable[[Transaction], T], outcome: Outcome) -> T:
        """Run work again until its outcome is known, for `PATIENCE_S` at most.

        The work itself must find out whether an earlier run was committed.
        """
        began = time.monotonic()
        while True:
            try:
                return self.db.run(work, outcome)
            except NipapOutcomeUnknownError:
                if time.monotonic() - began > PATIENCE_S:
                    raise
            waiting.sleep(random.uniform(0, 0.2))

    def _enter(self, tx: Transaction, request: Request) -> Backend:
        """Return a backend for calls that are parts of a transaction and a request, without long lists in memory."""
        longest_list = LONGEST_INSIDE if self._longest_list is None else self._longest_list
        part_of = self._part_of or request
        return Backend(Inside(tx), longest_list=longest_list, alike=self._alike, part_of=part_of, owed=self._owed)

    def _caller(self, actor: Actor, request: Request) -> Caller:
        shape = as_found if self._alike else as_listed
        enter = partial(self._enter, request=request)
        return Caller(actor, self._part_of or request, shape, self._longest_list, enter, self._sleep, self._errors)

    def _sleep(self, seconds: float) -> None:
        if self._owed is None:
            waiting.sleep(min(seconds, LONGEST_SLEEP_S))
            return
        self._slept_s += seconds
        if self._slept_s > LONGEST_SLEEP_S:
            allowed = f'a batch sleeps at most {LONGEST_SLEEP_S:g} seconds'
            raise NipapValueError(f'Invalid value {seconds:g} for sleep, {allowed}').about('sleep')
        # Set, not added: the transaction may be run again.
        self._owed.seconds = self._slept_s

    def _given(self, answer: Any) -> Any:
        """Convert packed answers to plain lists, unless this backend may return long answers."""
        return packed.whole(answer) if self._longest_list is None else answer

    def add_prefixes(self, actor: Actor, attrs: list[Any], *, ids: bool = False) -> list[Any] | PackedList:
        """Add many prefixes in one transaction; return them, or with `ids` only a struct with the ``id`` of each.

        :raises NipapError: its ``position`` is the index of the faulty attr.
        """
        call = calls.find('add_prefix')
        authorize(actor, call)
        drafts = []
        for position, attr in enumerate(attrs):
            try:
                drafts.append(calls.read_addition(attr))
            except NipapError as error:
                error.position = position
                raise
        caller = self._caller(actor, Request(call.name))

        def work(tx: Transaction) -> list[Any] | PackedList:
            added = prefixes.add_many(tx, drafts, caller.who)
            if ids:
                return [{'id': i} for i in added]
            if caller.is_long(added):
                return packed.Packed(prefixes.get_many_apart(tx, added, caller.shape))
            return prefixes.get_many(tx, added, caller.shape)

        return self.db.run(work)

    def place_of(self, actor: Actor, attr: Any) -> tuple[int, int, int, int]:
        """Return the place of an addition in the order of the tree, given its ``attr``.

        :raises NipapError: the addition has no place.
        """
        authorize(actor, calls.find('add_prefix'))
        draft = calls.read_addition(attr)
        network = parse_network(draft.network)
        vrf_id = self.db.run(lambda tx: vrfs.resolve(tx, draft.vrf))
        return vrf_id, network.family, first_address(network.text), network.length

    # ------------------------------------------------------------ the calls for programs in Python

    def _call(self, actor: Actor, name: str, **members: Any) -> Any:
        return self.perform(actor, Request(name, members))

    def version(self, actor: Actor) -> str:
        answer: str = self._call(actor, 'version')
        return answer

    def db_version(self, actor: Actor) -> int:
        answer: int = self._call(actor, 'db_version')
        return answer

    def echo(self, actor: Actor, message: Any = None, sleep: Any = None) -> object:
        answer: object = self._call(actor, 'echo', message=message, sleep=sleep)
        return answer

    def add_vrf(self, actor: Actor, attr: Any = None) -> Vrf:
        answer: Vrf = self._call(actor, 'add_vrf', attr=attr)
        return answer

    def list_vrf(self, actor: Actor, vrf: Any = None) -> list[Vrf]:
        answer: list[Vrf] = self._call(actor, 'list_vrf', vrf=vrf)
        return answer

    def edit_vrf(self, actor: Actor, vrf: Any = None, attr: Any = None) -> list[Vrf]:
        answer: list[Vrf] = self._call(actor, 'edit_vrf', vrf=vrf, attr=attr)
        return answer

    def remove_vrf(self, actor: Actor, vrf: Any = None, recursive: Any = None) -> None:
        self._call(actor, 'remove_vrf', vrf=vrf, recursive=recursive)

    def search_vrf(self, actor: Actor, query: Any = None, search_options: Any = None) -> Page[Vrf]:
        answer: Page[Vrf] = self._call(actor, 'search_vrf', query=query, search_options=search_options)
        return answer

    def smart_search_vrf(
        self, actor: Actor, query_string: Any = None, search_options: Any = None, extra_query: Any = None
    ) -> SmartPage[Vrf]:
        members = {'query_string': query_string, 'search_options': search_options, 'extra_query': extra_query}
        answer: SmartPage[Vrf] = self._call(actor, 'smart_search_vrf', **members)
        return answer

    def add_pool(self, actor: Actor, attr: Any = None) -> Pool:
        answer: Pool = self._call(actor, 'add_pool', attr=attr)
        return answer

    def list_pool(self, actor: Actor, pool: Any = None) -> list[Pool]:
        answer: list[Pool] = self._call(actor, 'list_pool', pool=pool)
        return answer

    def edit_pool(self, actor: Actor, pool: Any = None, attr: Any = None) -> list[Pool]:
        answer: list[Pool] = self._call(actor, 'edit_pool', pool=pool, attr=attr)
        return answer

    def remove_pool(self, actor: Actor, pool: Any = None) -> None:
        self._call(actor, 'remove_pool', pool=pool)

    def search_pool(self, actor: Actor, query: Any = None, search_options: Any = None) -> Page[Pool]:
        answer: Page[Pool] = self._call(actor, 'search_pool', query=query, search_options=search_options)
        return answer

    def smart_search_pool(
        self, actor: Actor, query_string: Any = None, search_options: Any = None, extra_query: Any = None
    ) -> SmartPage[Pool]:
        members = {'query_string': query_string, 'search_options': search_options, 'extra_query': extra_query}
        answer: SmartPage[Pool] = self._call(actor, 'smart_search_pool', **members)
        return answer

    def add_asn(self, actor: Actor, attr: Any = None) -> Asn:
        answer: Asn = self._call(actor, 'add_asn', attr=attr)
        return answer

    def list_asn(self, actor: Actor, asn: Any = None) -> list[Asn]:
        answer: list[Asn] = self._call(actor, 'list_asn', asn=asn)
        return answer

    def edit_asn(self, actor: Actor, asn: Any = None, attr: Any = None) -> list[Asn]:
        answer: list[Asn] = self._call(actor, 'edit_asn', asn=asn, attr=attr)
        return answer

    def remove_asn(self, actor: Actor, asn: Any = None) -> None:
        self._call(actor, 'remove_asn', asn=asn)

    def search_asn(self, actor: Actor, query: Any = None, search_options: Any = None) -> Page[Asn]:
        answer: Page[Asn] = self._call(actor, 'search_asn', query=query, search_options=search_options)
        return answer

    def smart_search_asn(
        self, actor: Actor, query_string: Any = None, search_options: Any = None, extra_query: Any = None
    ) -> SmartPage[Asn]:
        members = {'query_string': query_string, 'search_options': search_options, 'extra_query': extra_query}
        answer: SmartPage[Asn] = self._call(actor, 'smart_search_asn', **members)
        return answer

    def add_prefix(self, actor: Actor, attr: Any = None, args: Any = None) -> Prefix:
        answer: Prefix = self._call(actor, 'add_prefix', attr=attr, args=args)
        return answer

    def list_prefix(self, actor: Actor, prefix: Any = None) -> list[Prefix] | LongList:
        answer: list[Prefix] | LongList = self._call(actor, 'list_prefix', prefix=prefix)
        return answer

    def edit_prefix(self, actor: Actor, prefix: Any = None, attr: Any = None) -> list[Prefix] | PackedList:
        answer: list[Prefix] | PackedList = self._call(actor, 'edit_prefix', prefix=prefix, attr=attr)
        return answer

    def remove_prefix(self, actor: Actor, prefix: Any = None, recursive: Any = None) -> None:
        self._call(actor, 'remove_prefix', prefix=prefix, recursive=recursive)

    def search_prefix(self, actor: Actor, query: Any = None, search_options: Any = None) -> PrefixPage:
        answer: PrefixPage = self._call(actor, 'search_prefix', query=query, search_options=search_options)
        return answer

    def smart_search_prefix(
        self, actor: Actor, query_string: Any = None, search_options: Any = None, extra_query: Any = None
    ) -> SmartPrefixPage:
        members = {'query_string': query_string, 'search_options': search_options, 'extra_query': extra_query}
        answer: SmartPrefixPage = self._call(actor, 'smart_search_prefix', **members)
        return answer

    def find_free_prefix(self, actor: Actor, vrf: Any = None, args: Any = None) -> list[str]:
        answer: list[str] = self._call(actor, 'find_free_prefix', vrf=vrf, args=args)
        return answer

    def search_tag(self, actor: Actor, query: Any = None, search_options: Any = None) -> Page[Tag]:
        answer: Page[Tag] = self._call(actor, 'search_tag', query=query, search_options=search_options)
        return answer

    def list_audit(self, actor: Actor, audit: Any = None) -> list[AuditEntry] | LongList:
        answer: list[AuditEntry] | LongList = self._call(actor, 'list_audit', audit=audit)
        return answer

    def search_audit(self, actor: Actor, query: Any = None, search_options: Any = None) -> AuditPage:
        answer: AuditPage = self._call(actor, 'search_audit', query=query, search_options=search_options)
        return answer

    def smart_search_audit(
        self, actor: Actor, query_string: Any = None, search_options: Any = None, extra_query: Any = None
    ) -> SmartAuditPage:
        members = {'query_string': query_string, 'search_options': search_options, 'extra_query': extra_query}
        answer: SmartAuditPage = self._call(actor, 'smart_search_audit', **members)
        return answer

    def list_change_set(self, actor: Actor, change_set: Any = None) -> list[ChangeSet]:
        answer: list[ChangeSet] = self._call(actor, 'list_change_set', change_set=change_set)
        return answer

    def search_change_set(self, actor: Actor, query: Any = None, search_options: Any = None) -> Page[ChangeSet]:
        answer: Page[ChangeSet] = self._call(actor, 'search_change_set', query=query, search_options=search_options)
        return answer

    def smart_search_change_set(
        self, actor: Actor, query_string: Any = None, search_options: Any = None, extra_query: Any = None
    ) -> SmartPage[ChangeSet]:
        members = {'query_string': query_string, 'search_options': search_options, 'extra_query': extra_query}
        answer: SmartPage[ChangeSet] = self._call(actor, 'smart_search_change_set', **members)
        return answer

    def add_webhook(self, actor: Actor, attr: Any = None) -> Webhook:
        answer: Webhook = self._call(actor, 'add_webhook', attr=attr)
        return answer

    def list_webhook(self, actor: Actor, webhook: Any = None) -> list[Webhook]:
        answer: list[Webhook] = self._call(actor, 'list_webhook', webhook=webhook)
        return answer

    def edit_webhook(self, actor: Actor, webhook: Any = None, attr: Any = None) -> list[Webhook]:
        answer: list[Webhook] = self._call(actor, 'edit_webhook', webhook=webhook, attr=attr)
        return answer

    def remove_webhook(self, actor: Actor, webhook: Any = None) -> None:
        self._call(actor, 'remove_webhook', webhook=webhook)

    def list_dead_letter(self, actor: Actor, webhook: Any = None, after: Any = None) -> list[DeadLetter]:
        answer: list[DeadLetter] = self._call(actor, 'list_dead_letter', webhook=webhook, after=after)
        return answer

    def resend_dead_letter(self, actor: Actor, webhook: Any = None, ids: Any = None) -> int:
        answer: int = self._call(actor, 'resend_dead_letter', webhook=webhook, ids=ids)
        return answer

    def list_sign_in(self, actor: Actor, sign_in: Any = None, **options: Any) -> list[SignIn]:
        answer: list[SignIn] = self._call(actor, 'list_sign_in', sign_in=sign_in, **options)
        return answer

    def undo(
        self, actor: Actor, change_set: Any = None, group: Any = None, partial: Any = None
    ) -> Undone | UndoneGroup:
        members = {'change_set': change_set, 'group': group, 'partial': partial}
        answer: Undone | UndoneGroup = self._call(actor, 'undo', **members)
        return answer

    def list_removed(self, actor: Actor, **options: Any) -> RemovedPage:
        answer: RemovedPage = self._call(actor, 'list_removed', **options)
        return answer

    def restore(self, actor: Actor, kind: Any = None, id: Any = None, partial: Any = None) -> Undone:
        answer: Undone = self._call(actor, 'restore', kind=kind, id=id, partial=partial)
        return answer

    def batch(self, actor: Actor, operations: Any = None, **options: Any) -> list[Any] | PackedList:
        answer: list[Any] | PackedList = self._call(actor, 'batch', operations=operations, **options)
        return answer


class _Owed:
    """The time to sleep after the transaction of a call."""

    def __init__(self) -> None:
        self.seconds = 0.0


def authorize(actor: Actor, call: Call) -> None:
    """Refuse a call that an actor has no right to make. The members of the call are not needed.

    :raises AuthorizationFailedError: naming the actor and the call.
    """
    if call.right is Right.ADMINISTER and (actor.readonly or not actor.trusted):
        what = 'see sign-ins' if call.name == 'list_sign_in' else 'manage webhooks'
        raise AuthorizationFailedError(
            f"user '{actor.username}' is not authorized to {what}: trusted users are, unless read-only"
        )
    if call.right > Right.READ and actor.readonly:
        raise AuthorizationFailedError(
            f"read-only user '{actor.username}' is not authorized to run function '{call.name}'"
        )


def _may(actor: Actor, call: Call) -> bool:
    try:
        authorize(actor, call)
    except AuthorizationFailedError:
        return False
    return True


def _check_controls(call: Call, request: Request) -> None:
    """Refuse a dry run or a plan of a call that changes nothing.

    :raises NipapExtraneousInputError: naming the member.
    """
    if call.changes:
        return
    for name, value in (('dry_run', request.dry_run), ('plan', request.plan)):
        if value:
            text = f'{name} is for calls that change something, {call.name} does not'
            raise NipapExtraneousInputError(text).about(name)


def _read_early(call: Call, request: Request, sent: calls.Raw) -> Any:
    """Parse the members of a call before the database is used; None if they are completed from the stored object."""
    completed = request.expectation is not None and request.expectation.members is not None
    return None if completed else call.read(sent)


def _plan_of(
    actor: Actor,
    call: Call,
    request: Request,
    right: Right,
    errors: plans.Errors,
    found: plans.Consequences | None = None,
    answer: Any = None,
) -> plans.Object:
    """Return the answer of a dry run."""
    signer = _signer(actor, call, request)
    sees_webhooks = _may(actor, calls.find('list_webhook'))
    return plans.answer(found, errors, answer, right.name.lower(), signer, sees_webhooks=sees_webhooks)


def _signer(actor: Actor, call: Call, request: Request) -> plans.Signer:
    """Return the user and the call to which a plan belongs."""
    members = call.known(request.members)
    return plans.Signer(actor.authenticated_as, actor.predecessors, actor.username, call.name, members)


def _require_parts(actor: Actor, call: Call, members: Mapping[str, Any]) -> None:
    """Refuse a call that contains a call which the actor has no right to make.

    :raises AuthorizationFailedError: naming the contained call.
    """
    if call.parts is None:
        return
    for position, part in enumerate(call.parts(call.read(members))):
        try:
            authorize(actor, calls.find(part))
        except NipapError as error:
            raise at_operation(position, part, error) from error
