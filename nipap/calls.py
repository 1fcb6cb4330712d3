"""The table of calls: the members of each call, the right that it needs, its mode and its work.

Transports, batches, descriptions of interfaces and the reference are made from `CALLS`. A call that is not in the
table exists nowhere. `nipap.backend.Backend.perform` is the only way to make a call.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from nipap import __version__
from nipap import batch as batches
from nipap.access import sign_in_rows as sign_ins
from nipap.attributes import read_boolean, read_seconds, shown
from nipap.call import Call, Caller, Expectation, Member, Message, Mode, Raw, Request, Right, Steps
from nipap.errors import (
    NipapExtraneousInputError,
    NipapInputError,
    NipapMissingInputError,
    NipapValueError,
)
from nipap.history import changes as history
from nipap.history import past
from nipap.history import undo as undoing
from nipap.history import webhook_calls as webhooks
from nipap.objects import allocate, searching, versions
from nipap.objects import prefix as prefixes
from nipap.objects import prefix_search as searches
from nipap.objects import vrf as vrfs
from nipap.objects.kinds import ASNS, AUDIT_ENTRIES, CHANGE_SETS, POOLS, PREFIXES, TAGS, VRFS, Kind, Object
from nipap.postgres import schema
from nipap.postgres.transaction import Addition, Outcome, Transaction
from nipap.runtime import packed
from nipap.runtime.chunks import Chunks
from nipap.search.condition import EVERYTHING, ByKey, Condition
from nipap.search.paging import Page
from nipap.search.query import all_of, equals
from nipap.search.smart_parsing import objections

# ---------------------------------------------------------------- the daemon


def _version(_: None, _caller: Caller, _members: object) -> str:
    return __version__


def _db_version(tx: Transaction, _caller: Caller, _members: object) -> int:
    return schema.version_in(tx)


def _echo(_: None, caller: Caller, members: tuple[object, float | None]) -> object:
    message, seconds = members
    if seconds is not None:
        caller.sleep(seconds)
    return message


def _seconds(value: object) -> float | None:
    return None if value is None else read_seconds(value)


# ---------------------------------------------------------------- objects of any kind


def _add(kind: Kind, tx: Transaction, caller: Caller, draft: Any) -> Object:
    return kind.find(tx, equals(kind.key, kind.store.add(tx, draft, caller.who)), None)[0]


def _list(kind: Kind, tx: Transaction, _caller: Caller, condition: Condition) -> list[Object]:
    return kind.find(tx, condition, None)


def _edit(kind: Kind, tx: Transaction, caller: Caller, members: tuple[Condition, Any]) -> list[Object]:
    condition, draft = members
    ids = kind.store.edit(tx, condition, draft, caller.who)
    return kind.find(tx, Condition(f'{kind.key.sql} = ANY (%s)', (ids,), (ByKey(listed=True),)), None)


def _remove(kind: Kind, tx: Transaction, caller: Caller, condition: Condition) -> None:
    kind.store.remove(tx, condition, caller.who)


def _remove_vrf(tx: Transaction, caller: Caller, members: tuple[Condition, bool]) -> None:
    condition, recursive = members
    vrfs.remove(tx, condition, caller.who, recursive=recursive)


def _search(kind: Kind, tx: Transaction, caller: Caller, members: tuple[Any, ...]) -> Object:
    condition, options = members
    return searching.search(tx, kind, condition, options, caller.longest_list)


def _smart_search(kind: Kind, tx: Transaction, caller: Caller, members: tuple[Any, ...]) -> Object:
    text, options, extra = members
    return searching.smart_search(tx, kind, text, options, extra, caller.longest_list)


def _read_changes(read: Callable[[Any], Any], attr: object) -> Any:
    """Parse the ``attr`` of an edit, which must not be empty."""
    if not isinstance(attr, Mapping):
        raise NipapInputError("'attr' must be a dict")
    if not attr:
        raise NipapInputError("'attr' must not be empty.")
    return read(attr)


# ---------------------------------------------------------------- changes of one version of an object


@dataclass(frozen=True)
class OfVersion:
    """The members of an edit or a removal. version: the version that its object must have; None for any."""

    condition: Condition
    members: Any
    version: int | None


def _of_version(kind: Kind, call: Call) -> Call:
    """Return an edit or a removal with one more member, ``if_version``."""
    member = Member(
        'if_version',
        versions.read_version,
        'The version that the object must have. The spec must then select one object.',
        1,
    )

    def make(*values: Any) -> OfVersion:
        *given, version = values
        condition = given[0] if isinstance(given[0], Condition) else given[0][0]
        return OfVersion(condition, call.made(given), version)

    def work(tx: Transaction, caller: Caller, asked: OfVersion) -> Any:
        if asked.version is not None:
            versions.require(tx, kind, asked.condition, asked.version)
        return call.work(tx, caller, asked.members)

    mode = call.mode
    if isinstance(mode, Message):
        again, when = mode.again, mode.when
        mode = Message(
            lambda tx, caller, asked, i: again(tx, caller, asked.members, i),
            when=lambda asked: asked.version is None and when(asked.members),
        )
    return replace(call, members=(*call.members, member), make=make, work=work, mode=mode)


# ---------------------------------------------------------------- the state of the past


@dataclass(frozen=True)
class AsOf:
    """The members of a call that reads. as_of: the state that it reads; None for the present."""

    members: Any
    as_of: past.AsOf | None


def _of_past(call: Call) -> Call:
    """Return a call that reads with one more member, ``as_of``."""
    member = Member(
        'as_of',
        past.read_as_of,
        'The moment, or the number of the change set, whose state is shown; the present without.',
        '2026-03-31T12:00:00Z',
    )

    def make(*values: Any) -> AsOf:
        *given, as_of = values
        return AsOf(call.made(given), as_of)

    def work(tx: Transaction, caller: Caller, asked: AsOf) -> Any:
        if asked.as_of is None:
            return call.work(tx, caller, asked.members)
        shows = past.find(tx, asked.as_of)
        with past.at(tx, shows.position) as inner:
            answer = call.work(inner, caller, asked.members)
        shows.note()
        return {**answer, 'as_of': shows.members} if isinstance(answer, dict) else answer

    return replace(call, members=(*call.members, member), make=make, work=work)


# ---------------------------------------------------------------- prefixes


@dataclass(frozen=True)
class AddPrefix:
    """The members of add_prefix. wanted: the allocation; None when the draft names its prefix."""

    draft: prefixes.PrefixDraft
    wanted: allocate.Allocation | None


def _read_prefix_attr(attr: object) -> Any:
    prefixes.check_attr(attr)
    return attr


def _read_args(args: object) -> Any:
    if args is not None and not isinstance(args, Mapping):
        raise NipapInputError('invalid input, please provide dict as args')
    return args


def _make_addition(attr: Raw, args: Raw | None) -> AddPrefix:
    asked = args is not None and any(args.get(name) is not None for name in ('from-pool', 'from-prefix'))
    if asked == (attr.get('prefix') is not None):
        raise NipapExtraneousInputError("specify 'prefix' or 'from-prefix' or 'from-pool'")
    wanted = allocate.read_args(args) if asked else None
    return AddPrefix(prefixes.read_new(attr, typed=wanted is None or wanted.pool is None), wanted)


def read_addition(attr: object) -> prefixes.PrefixDraft:
    """Parse the ``attr`` of an add_prefix that allocates nothing.

    :raises NipapError: the same errors as the call; further errors are attached.
    """
    return _make_addition(_read_prefix_attr(attr), None).draft


def _add_prefix(tx: Transaction, caller: Caller, members: AddPrefix) -> Object:
    prefixes.add(tx, members.draft, caller.who)
    return prefixes.get_added(tx, caller.shape)


def _allocation(caller: Caller, members: AddPrefix) -> tuple[Hashable, Addition[Object]] | None:
    if members.wanted is None:
        return None
    addition = allocate.addition(members.draft, members.wanted, caller.who, caller.shape)
    return (allocate.place(members.draft, members.wanted), caller.shape), addition


def _added(tx: Transaction, caller: Caller, _members: AddPrefix, i: int) -> Object:
    return prefixes.get_by_id(tx, i, caller.shape)


def _list_prefix(tx: Transaction, caller: Caller, condition: Condition) -> list[Object] | Chunks:
    most = caller.longest_list
    if most is None:
        return searches.find(tx, condition, shape=caller.shape)
    found = searches.find_at_most(tx, condition, most, caller.shape)
    if found is not None:
        return found
    return searching.chunks(tx, lambda inner: searches.find_all(inner, condition, caller.shape))


def _edits_one(members: tuple[Condition, prefixes.PrefixDraft]) -> bool:
    condition, draft = members
    return condition.unique and draft.in_place


def _edit_prefix(
    tx: Transaction, caller: Caller, members: tuple[Condition, prefixes.PrefixDraft]
) -> list[Object] | Chunks:
    condition, draft = members
    if _edits_one(members):
        return prefixes.edit_one(tx, condition, draft, caller.who)
    ids = prefixes.edit(tx, condition, draft, caller.who)
    if caller.is_long(ids):
        return packed.Packed(prefixes.get_edited_apart(tx, ids))
    return prefixes.get_edited(tx, ids)


def _edited(tx: Transaction, _caller: Caller, _members: object, i: int) -> list[Object]:
    return prefixes.get_edited(tx, [i])


def _read_prefix_changes(attr: Any) -> prefixes.PrefixDraft:
    prefixes.check_attr(attr)
    return prefixes.read_draft(attr)


@dataclass(frozen=True)
class RemovePrefix:
    """The members of remove_prefix. id: the id of the prefix; None when the spec names the prefix in another way."""

    condition: Condition
    id: int | None
    recursive: bool


def _read_removal(spec: object) -> tuple[Condition, int | None]:
    return prefixes.removal(spec), prefixes.only_id(spec)


def _make_removal(named: tuple[Condition, int | None], recursive: bool) -> RemovePrefix:
    return RemovePrefix(*named, recursive)


def _remove_prefix(tx: Transaction, caller: Caller, members: RemovePrefix) -> None:
    if members.id is not None:
        prefixes.remove_one(tx, members.id, caller.who, recursive=members.recursive)
    else:
        prefixes.remove(tx, members.condition, caller.who, recursive=members.recursive)


def _find_free(tx: Transaction, _caller: Caller, members: tuple[vrfs.VrfName, allocate.Allocation]) -> list[str]:
    return allocate.find_free(tx, *members)


# ---------------------------------------------------------------- the past


def _sees_webhooks(caller: Caller) -> bool:
    return caller.actor.trusted and not caller.actor.readonly


def _visible(kind: Kind, caller: Caller, condition: Condition) -> Condition:
    """Return a condition on the past that leaves out what the caller may not see."""
    if _sees_webhooks(caller):
        return condition
    return all_of([condition, history.NO_WEBHOOKS if kind is AUDIT_ENTRIES else history.NO_SETS_OF_WEBHOOKS])


def _list_past(kind: Kind, tx: Transaction, caller: Caller, condition: Condition) -> Any:
    condition = _visible(kind, caller, condition)
    if kind is CHANGE_SETS:
        sets = history.find_sets(tx, condition)
        most = history.MOST_ENTRIES if len(sets) == 1 else history.FIRST_ENTRIES
        history.add_entries(tx, sets, most, webhooks=_sees_webhooks(caller))
        return sets
    most_listed = caller.longest_list
    if most_listed is None:
        return history.find(tx, condition)
    found = history.find(tx, condition, Page(most_listed + 1, 0))
    if len(found) <= most_listed:
        return found
    return searching.chunks(tx, lambda inner: history.find_all(inner, condition))


def _search_past(kind: Kind, tx: Transaction, caller: Caller, members: tuple[Any, ...]) -> Object:
    condition, options = members
    answer = searching.search(tx, kind, _visible(kind, caller, condition), options, caller.longest_list)
    return _with_entries(kind, tx, caller, answer)


def _smart_search_past(kind: Kind, tx: Transaction, caller: Caller, members: tuple[Any, ...]) -> Object:
    text, options, extra = members
    visible = partial(_visible, kind, caller)
    answer = searching.smart_search(tx, kind, text, options, extra, caller.longest_list, visible)
    return _with_entries(kind, tx, caller, answer)


def _with_entries(kind: Kind, tx: Transaction, caller: Caller, answer: Object) -> Object:
    if kind is CHANGE_SETS:
        history.add_entries(tx, answer['result'], history.FIRST_ENTRIES, webhooks=_sees_webhooks(caller))
    return answer


# ---------------------------------------------------------------- undo


def _undo(tx: Transaction, caller: Caller, members: undoing.Undo) -> Any:
    return undoing.undo(tx, members.change_set or 0, caller.who, partial=members.partial)


def _restore(tx: Transaction, caller: Caller, members: undoing.Restore) -> Any:
    return undoing.restore(tx, members, caller.who)


def _list_removed(tx: Transaction, _caller: Caller, members: undoing.Removed) -> Any:
    return undoing.list_removed(tx, members)


def _undo_group(db: undoing.Runner, caller: Caller, members: undoing.Undo, outcome: Outcome | None) -> Any:
    return undoing.undo_group(db, members.group or '', caller.who, outcome, partial=members.partial)


# ---------------------------------------------------------------- many calls at once


def _read_return(value: object) -> bool:
    """Return whether the answers are ids only."""
    if value not in (None, 'all', 'ids'):
        raise NipapValueError(f'Invalid value {shown(value)} for return, must be one of: all, ids')
    return value == 'ids'


def _batch(tx: Transaction, caller: Caller, members: tuple[bool, list[batches.Operation]]) -> Any:
    ids, operations = members
    door = caller.enter(tx)

    def one(operation: batches.Operation, before: batches.References) -> Any:
        return door.perform(caller.actor, Request(operation.method, before.resolved(operation)))

    errors = caller.errors
    if errors is not None:
        many = partial(door.add_prefixes, caller.actor, ids=ids)
        place = partial(door.place_of, caller.actor)
        batches.rehearse(operations, one=one, many=many, place=place, part=tx.part, note=errors.note)
        return None
    return batches.run(operations, ids=ids, one=one, many=partial(door.add_prefixes, caller.actor, ids=ids))


# ---------------------------------------------------------------- the table


_EXAMPLES: dict[str, dict[str, Any]] = {
    'vrf': {'add': {'rt': '65000:123', 'name': 'customers'}, 'spec': {'rt': '65000:123'}, 'edit': {'name': 'guests'}},
    'pool': {
        'add': {
            'name': 'links',
            'description': 'Links to customers',
            'default_type': 'assignment',
            'ipv4_default_prefix_length': 30,
        },
        'spec': {'name': 'links'},
        'edit': {'ipv4_default_prefix_length': 31},
    },
    'asn': {'add': {'asn': 64500, 'name': 'Example'}, 'spec': {'asn': 64500}, 'edit': {'name': 'Example AS'}},
    'prefix': {
        'add': {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'RFC 1918'},
        'spec': {'prefix': '10.0.0.0/8'},
        'edit': {'description': 'Private use'},
    },
}
_QUERIES: dict[str, Any] = {
    'vrf': {'operator': 'equals', 'val1': 'name', 'val2': 'customers'},
    'pool': {'operator': 'equals', 'val1': 'name', 'val2': 'links'},
    'asn': {'operator': 'equals', 'val1': 'asn', 'val2': 64500},
    'prefix': {'operator': 'contained_within', 'val1': 'prefix', 'val2': '10.0.0.0/8'},
    'tag': {'operator': 'like', 'val1': 'name', 'val2': 'core%'},
    'audit': {'operator': 'contained_within_equals', 'val1': 'prefix', 'val2': '192.0.2.0/24'},
    'change_set': {'operator': 'equals', 'val1': 'username', 'val2': 'kim'},
}
_SEARCHED = {
    'vrf': 'customers',
    'pool': 'links',
    'asn': 'Example',
    'prefix': '10.0.0.1',
    'audit': '192.0.2.7 action=remove',
    'change_set': 'user=kim',
}
_NOUNS = {
    'vrf': 'VRFs',
    'pool': 'pools',
    'asn': 'AS numbers',
    'prefix': 'prefixes',
    'tag': 'tags in use',
    'audit': 'audit entries',
    'change_set': 'change sets',
}
_REQUIRED = {
    'vrf': '``rt`` and ``name`` are needed.',
    'pool': '``name``, ``description`` and ``default_type`` are needed.',
    'asn': '``asn`` is needed.',
}


def _text_of(kind: Kind) -> Member:
    doc = 'The text to search for.'
    return Member('query_string', partial(searching.read_text, kind), doc, _SEARCHED[kind.name], required=True)


def _options_of(kind: Kind) -> Member:
    doc = 'The part of the answer to return.'
    return Member('search_options', partial(searching.read_options, kind), doc, {'max_result': 10})


def _searches(kind: Kind, more: str = '') -> list[Call]:
    """Return the searches of one kind of object."""
    name, noun = kind.name, _NOUNS[kind.name]
    query = Member('query', partial(searching.read_query, kind), 'The query struct.', _QUERIES[name], required=True)
    doc = f'Return the {noun} that a query matches, as ``result``, beside the ``search_options``.{more}'
    found = [Call(f'search_{name}', doc, (query, _options_of(kind)), Right.READ, Mode.READ, partial(_search, kind))]
    if kind is not TAGS:
        extra = Member('extra_query', partial(searching.read_extra, kind), 'A query that must match too.', {})
        doc = f'Return the {noun} that a text matches; ``interpretation`` says how the text was understood.'
        members = (_text_of(kind), _options_of(kind), extra)
        work = partial(_smart_search, kind)
        found.append(Call(f'smart_search_{name}', doc, members, Right.READ, Mode.READ, work))
    return found


def _calls_of(kind: Kind, removal: str) -> list[Call]:
    """Return the calls that VRFs, pools and AS numbers share."""
    name, noun, store, example = kind.name, _NOUNS[kind.name], kind.store, _EXAMPLES[kind.name]
    new = Member('attr', partial(store.read_draft, new=True), 'The attributes to set.', example['add'], required=True)
    attr = Member(
        'attr', partial(_read_changes, store.read_draft), 'The attributes to set.', example['edit'], required=True
    )
    which = Member(name, store.read_spec, f'The spec that selects {noun}; all without one.', example['spec'])
    named = Member(name, store.require_spec, f'The spec that selects {noun}.', example['spec'], required=True)
    write, all_at_once = Right.WRITE, Mode.TRANSACTION
    one = {'vrf': 'a VRF', 'pool': 'a pool', 'asn': 'an AS number'}[name]
    return [
        Call(
            f'add_{name}',
            f'Add {one} with the attributes ``attr`` and return it. {_REQUIRED[name]}',
            (new,),
            write,
            all_at_once,
            partial(_add, kind),
        ),
        Call(
            f'list_{name}',
            f'Return the {noun} that the spec ``{name}`` selects, all without one.',
            (which,),
            Right.READ,
            Mode.READ,
            partial(_list, kind),
        ),
        Call(
            f'edit_{name}',
            f'Set the attributes ``attr`` of the {noun} that the spec ``{name}`` selects; return them as edited.',
            (named, attr),
            write,
            all_at_once,
            partial(_edit, kind),
        ),
        Call(
            f'remove_{name}',
            f'Remove the {noun} that the spec ``{name}`` selects{removal}.',
            (named,),
            write,
            all_at_once,
            partial(_remove, kind),
        ),
        *_searches(kind),
    ]


_ADD_PREFIX_DOC = """\
Add a prefix with the attributes ``attr``, the ``prefix`` named there or an allocated one; return it.

To allocate, ``args`` is ``{'from-pool': pool spec, 'family': 4 or 6, 'prefix_length': n}``, where the length may be
left to the pool, or ``{'from-prefix': [network, …], 'prefix_length': n}``. The lowest free block of the first source
with a free block is added.
"""
_EDIT_PREFIX_DOC = """\
Set the attributes ``attr`` of the prefixes that the spec ``prefix`` selects; return them as edited.

A new ``prefix`` moves that row alone: its children go to its former parent, and prefixes inside the new place become
its children.
"""
_SEARCH_PREFIX_DOC = """

Options beside ``max_result`` and ``offset`` add prefixes around the matches: ``parents_depth``, ``children_depth``
(-1: all), ``include_all_parents``, ``include_all_children``, ``include_neighbors``; ``parent_prefix`` shows one prefix
and its children instead. With ``after``, '' for the first page, the answer has the ``after`` of the next page, or
nil on the last page.
"""
_BATCH_DOC = """\
Do many calls in one transaction and return their answers in order; on an error nothing is changed.

``operations`` is ``[{'method': name, 'args': {…}}, …]``. ``{'$result': [0, 'id']}`` in args stands for the id in the
answer of operation 0. With ``return`` set to ``ids`` the answers are ids only. The text of a fault begins with the
number of the operation. All answers together may have 100,000 objects, or a million ids.
"""


def _vrf_calls() -> list[Call]:
    """Return the calls of VRFs. The removal of a VRF has one more member, ``recursive``."""
    recursive = Member(
        'recursive',
        lambda value: value is None or read_boolean(value),
        'Whether prefixes are removed too. The default is true; false refuses a VRF that has prefixes.',
        example=True,
    )
    return [
        replace(call, members=(*call.members, recursive), work=_remove_vrf) if call.name == 'remove_vrf' else call
        for call in _calls_of(VRFS, ', with their prefixes unless ``recursive`` is false')
    ]


def _prefix_calls() -> list[Call]:
    example = _EXAMPLES['prefix']
    new = Member('attr', _read_prefix_attr, 'The attributes to set.', example['add'], required=True)
    args = Member('args', _read_args, 'The source to allocate from.', {'from-pool': {'name': 'links'}, 'family': 4})
    attr = Member(
        'attr', partial(_read_changes, _read_prefix_changes), 'The attributes to set.', example['edit'], required=True
    )
    which = Member('prefix', prefixes.read_spec, 'The spec that selects prefixes; all without one.', example['spec'])
    named = Member('prefix', prefixes.require_spec, 'The spec that selects prefixes.', example['spec'], required=True)
    removed = Member(
        'prefix', _read_removal, 'The spec that names a prefix by id or prefix.', example['spec'], required=True
    )
    recursive = Member(
        'recursive',
        lambda value: value is not None and read_boolean(value),
        'Whether everything inside is removed too.',
        example=False,
    )
    vrf = Member('vrf', vrfs.read_spec_name, 'The spec of a VRF; nil or {}: VRF 0.', {'id': 0}, required=True)
    source = Member(
        'args',
        allocate.read_args,
        'The source of the free blocks.',
        {'from-pool': {'name': 'links'}, 'family': 4},
        required=True,
    )
    return [
        Call(
            'add_prefix',
            _ADD_PREFIX_DOC,
            (new, args),
            Right.ALLOCATE,
            Message(_added, joined=_allocation),
            _add_prefix,
            _make_addition,
        ),
        Call(
            'list_prefix',
            'Return the prefixes that the spec ``prefix`` selects, in all VRFs unless it names one; all without one.',
            (which,),
            Right.READ,
            Mode.READ,
            _list_prefix,
        ),
        Call(
            'edit_prefix',
            _EDIT_PREFIX_DOC,
            (named, attr),
            Right.WRITE,
            Message(_edited, when=_edits_one),
            _edit_prefix,
        ),
        Call(
            'remove_prefix',
            'Remove the prefix that the spec ``prefix`` names; its children move up; ``recursive`` removes them.',
            (removed, recursive),
            Right.ALLOCATE,
            Message(lambda _tx, _caller, _members, _i: None, when=lambda members: members.id is not None),
            _remove_prefix,
            _make_removal,
        ),
        *_searches(PREFIXES, _SEARCH_PREFIX_DOC),
        Call(
            'find_free_prefix',
            'Return the ``count`` (1 to 1000) lowest free blocks that `add_prefix` with the same ``args`` would take.',
            (vrf, source),
            Right.READ,
            Mode.READ,
            _find_free,
        ),
    ]


def _read_audit_spec(spec: object) -> Condition:
    return history.read_spec(AUDIT_ENTRIES.table, 'audit', spec)


def _read_set_spec(spec: object) -> Condition:
    condition = history.read_spec(CHANGE_SETS.table, 'change_set', spec)
    if condition is EVERYTHING:
        raise NipapMissingInputError('change_set spec must contain a key, such as id, request_id or change_group')
    return condition


_ENTRIES_DOC = """

An entry is the change of one object: ``before`` and ``after`` have its attributes as stored, ``changes`` those that
differ, and ``sentence`` says it in words. The newest entry comes first. ``prefix`` compares with the place before or
after the change, ``changed`` with the names of changed attributes, ``before.KEY`` and ``after.KEY`` with a value.
"""
_SETS_DOC = f"""

A change set has all changes of one call. The newest comes first, each with its first {history.FIRST_ENTRIES}
``entries``; ``more`` says whether it has others.
"""


def _past_calls() -> list[Call]:
    """Return the calls that read the past."""
    found = []
    for kind, doc in ((AUDIT_ENTRIES, _ENTRIES_DOC), (CHANGE_SETS, _SETS_DOC)):
        search, smart = _searches(kind, doc)
        found += [
            replace(search, work=partial(_search_past, kind)),
            replace(smart, work=partial(_smart_search_past, kind)),
        ]
    entries = Member(
        'audit',
        _read_audit_spec,
        'The spec that selects audit entries; all without one.',
        {'kind': 'vrf', 'object_id': 1},
    )
    sets = Member('change_set', _read_set_spec, 'The spec that selects change sets.', {'id': 1}, required=True)
    return [
        Call(
            'list_audit',
            'Return the audit entries that the spec ``audit`` selects, the newest first; all without one.',
            (entries,),
            Right.READ,
            Mode.READ,
            partial(_list_past, AUDIT_ENTRIES),
        ),
        Call(
            'list_change_set',
            'Return the change sets that the spec ``change_set`` selects, the newest first.\n\n'
            f'One has its first {history.MOST_ENTRIES} ``entries``; several have {history.FIRST_ENTRIES} each.',
            (sets,),
            Right.READ,
            Mode.READ,
            partial(_list_past, CHANGE_SETS),
        ),
        *found,
    ]


def _webhook_calls() -> list[Call]:
    new = Member(
        'attr',
        webhooks.read_new,
        'The attributes to set.',
        {'url': 'https://example.com/nipap', 'secret': 'a-secret-of-16-or-more'},
        required=True,
    )
    attr = Member('attr', webhooks.read_changes, 'The attributes to set.', {'enabled': False}, required=True)
    which = Member('webhook', webhooks.read_spec, 'The spec, by ``id``; all without one.', {'id': 1})
    named = Member('webhook', webhooks.require_spec, 'The spec, by ``id``.', {'id': 1}, required=True)
    after = Member('after', webhooks.read_after, 'The id after which the answer begins.', 0)
    ids = Member('ids', webhooks.read_ids, 'The ids of dead letters; all without ids.', [1, 2])
    administer, write = Right.ADMINISTER, Mode.TRANSACTION
    return [
        Call(
            'add_webhook',
            'Add a webhook for events from now on, with the attributes ``attr``, and return it.\n\n'
            '``url`` and ``secret`` are needed. ``kinds``, ``vrf_ids``, ``pool_ids`` and ``tags`` select events.',
            (new,),
            administer,
            write,
            webhooks.add,
        ),
        Call(
            'list_webhook',
            'Return the webhook that the spec ``webhook`` names by its ``id``, or all, with their deliveries.',
            (which,),
            administer,
            Mode.READ,
            webhooks.find,
        ),
        Call(
            'edit_webhook',
            'Set the attributes ``attr`` of the webhook that the spec ``webhook`` names; return the webhook.\n\n'
            'Failed deliveries are tried again at once, also when ``attr`` is empty.',
            (named, attr),
            administer,
            write,
            webhooks.edit,
        ),
        Call(
            'remove_webhook',
            'Remove the webhook that the spec ``webhook`` names, with its dead letters.',
            (named,),
            administer,
            write,
            webhooks.remove,
        ),
        Call(
            'list_dead_letter',
            'Return dead letters, events that a webhook did not accept: the first hundred with ids above ``after``.',
            (named, after),
            administer,
            Mode.READ,
            webhooks.dead_letters,
        ),
        Call(
            'resend_dead_letter',
            'Send dead letters of a webhook again, those with the given ``ids`` or all; return their number.',
            (named, ids),
            administer,
            write,
            webhooks.send_again,
        ),
    ]


def _sign_in_rows() -> list[Call]:
    which = Member(
        'sign_in',
        sign_ins.read_spec,
        'The spec, of ``user``, ``address`` (also a network), ``outcome`` and ``interface``; all without one.',
        {'outcome': 'wrong_password'},
    )
    since = Member('since', sign_ins.read_since, 'The moment from which sign-ins are listed.', 'yesterday')
    until = Member('until', sign_ins.read_until, 'The moment before which sign-ins are listed.', 'now')
    after = Member('after', sign_ins.read_after, 'The id of the last sign-in of the page before.', 2**31 - 1)
    most = Member('max_result', sign_ins.read_most, 'The largest number of sign-ins, 1 to 1000.', 50)
    doc = (
        'Return the sign-ins that the spec ``sign_in`` selects, newest first, 50 at a time.\n\n'
        'A good sign-in is logged once for each user, address, interface and hour. Bad sign-ins of a kind share a row '
        'with their ``count``.'
    )
    members = (which, since, until, after, most)
    return [Call('list_sign_in', doc, members, Right.ADMINISTER, Mode.READ, sign_ins.find)]


def _daemon_calls() -> list[Call]:
    message = Member('message', lambda value: value, 'Any value.', 'hello')
    sleep = Member('sleep', _seconds, 'Seconds to wait before the answer.', 0)
    doc = 'Return the message, after ``sleep`` seconds, 10 at most; to try out a connection.'
    return [
        Call('version', 'Return the version of the daemon.', (), Right.READ, Mode.COMPUTE, _version),
        Call('db_version', "Return the version of the database's schema.", (), Right.READ, Mode.READ, _db_version),
        Call('echo', doc, (message, sleep), Right.READ, Mode.COMPUTE, _echo),
    ]


_UNDO_DOC = """\
Undo a change set, or all change sets of a group, and return the numbers of objects that were set back.

Removed objects come back with their ids, edited ones get their former values, added ones are removed. The undo is a new
change set, which can be undone. Objects that were changed since are conflicts: the undo is refused, or with ``partial``
everything else is undone. Of a group the newest change set is undone first, each in a transaction of its own; change
sets that are undone already are skipped.
"""


def _undo_calls() -> list[Call]:
    partial_ = Member(
        'partial', undoing.read_partial, 'Whether to undo what has no conflict, and list the conflicts.', example=False
    )
    return [
        Call(
            'undo',
            _UNDO_DOC,
            (
                Member('change_set', undoing.read_change_set, 'The number of the change set to undo.', 1),
                Member('group', undoing.read_group, 'The group whose change sets to undo, in place of one change set.'),
                partial_,
            ),
            Right.WRITE,
            Steps(lambda members: members.group is not None, _undo_group),
            _undo,
            undoing.make_undo,
        ),
        Call(
            'list_removed',
            'Return removed objects, the newest first, with the number of prefixes removed ``below`` each.\n\n'
            'Objects that were removed with an object around them are left out, and so are objects that exist again.',
            (
                Member('kinds', undoing.read_kinds, 'The kinds of objects; all without kinds.', ['prefix']),
                Member('days', undoing.read_days, 'The days to look back; 30 without a number.', 7),
                Member('max_result', undoing.read_limit, 'Most objects in the answer, 1 to 1000; 50 without.', 10),
                Member('after', undoing.read_after, 'The ``after`` of the answer before; the first page without.'),
            ),
            Right.READ,
            Mode.READ,
            _list_removed,
            undoing.make_removed,
        ),
        Call(
            'restore',
            'Restore a removed object, and what was below it and was removed with it, with their ids.\n\n'
            'A pool gets back its members. Objects whose place is taken are conflicts, as in `undo`.',
            (
                Member('kind', undoing.read_kind, 'The kind of the object.', 'prefix', required=True),
                Member('id', undoing.read_key, 'The id of the object, or the AS number.', 1, required=True),
                partial_,
            ),
            Right.WRITE,
            Mode.TRANSACTION,
            _restore,
            undoing.Restore,
        ),
    ]


# Calls that a batch cannot have: it is one change set.
NOT_IN_BATCHES = frozenset({'batch', 'undo', 'restore'})


def _in_batches() -> dict[str, frozenset[str]]:
    """Return the calls that a batch can have, each with the names of its members."""
    return {
        name: frozenset(member.name for member in call.members)
        for name, call in CALLS.items()
        if name not in NOT_IN_BATCHES
    }


def _batch_call() -> Call:
    wanted = Member('return', _read_return, 'Whether the answers are objects (``all``) or ``ids``.', 'ids')
    operations = Member(
        'operations',
        lambda value: batches.read_operations(value, _in_batches()),
        'The calls to make, in order.',
        [{'method': 'add_asn', 'args': {'attr': {'asn': 64500}}}],
        required=True,
    )

    def parts(members: Any) -> list[str]:
        return [operation.method for operation in members[1]]

    # A batch needs no more than READ: the right of each operation is checked when it is made.
    return Call('batch', _BATCH_DOC, (wanted, operations), Right.READ, Mode.TRANSACTION, _batch, parts=parts)


_CHANGES = {f'{verb}_{kind.name}': kind for kind in (VRFS, POOLS, ASNS, PREFIXES) for verb in ('edit', 'remove')}

# The calls that can show the past, beside those about the log, which is the past.
_LOOKS = (
    f'{verb}_{kind.name}' for verb in ('list', 'search', 'smart_search') for kind in (VRFS, POOLS, ASNS, PREFIXES)
)
_PAST = frozenset({*_LOOKS, 'find_free_prefix', 'search_tag'})


def _completed(call: Call) -> Call:
    """Return a call of the table with the members that several calls share."""
    if call.name in _CHANGES:
        return _of_version(_CHANGES[call.name], call)
    return _of_past(call) if call.name in _PAST else call


CALLS: dict[str, Call] = {
    call.name: _completed(call)
    for call in (
        *_daemon_calls(),
        *_vrf_calls(),
        *_calls_of(POOLS, '; their members stay'),
        *_calls_of(ASNS, ''),
        *_prefix_calls(),
        *_searches(TAGS),
        *_past_calls(),
        *_webhook_calls(),
        *_sign_in_rows(),
        *_undo_calls(),
        _batch_call(),
    )
}


def find(name: str) -> Call:
    """Return a call by its name.

    :raises NipapInputError: there is no such call.
    """
    call = CALLS.get(name)
    if call is None:
        shortened = name if len(name) <= 100 else f'{name[:100]}…'
        raise NipapInputError(f"Unknown method '{shortened}', see system.listMethods")
    return call


__all__ = [
    'CALLS',
    'Call',
    'Caller',
    'Expectation',
    'Message',
    'Mode',
    'Raw',
    'Request',
    'Right',
    'Steps',
    'find',
    'objections',
    'read_addition',
]
