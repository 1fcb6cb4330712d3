"""Undo of change sets, and removed objects that come back.

An undo is the inverse of the net effect of a change set, as a new change set: removed objects come back with their
ids, edited ones get their former values, added ones are removed. Where something was changed since, the undo is
refused with the list of conflicts, or the rest is undone. The SQL functions of sql/functions/080_undo.sql do the work.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from nipap.attributes import LARGEST_NUMBER, read_boolean, read_from, shown
from nipap.controls import LONGEST_GROUP
from nipap.errors import (
    NipapConflictError,
    NipapError,
    NipapInputError,
    NipapMissingInputError,
    NipapNonExistentError,
    NipapValueError,
)
from nipap.history.audit import Who
from nipap.postgres.transaction import Outcome, Transaction

Answer = dict[str, Any]

KINDS = ('vrf', 'pool', 'prefix', 'asn')
DAYS, MOST_DAYS = 30, 36_500
PAGE, MOST_REMOVED = 50, 1000

_CURSOR = re.compile('([0-9]{1,18})[.]([0-9]{1,18})')

_UNDO = 'SELECT undo_change_set(%s, %s, %s, %s, %s::actor)'
_UNDOING = 'SELECT id FROM change_set WHERE undoes = %s AND NOT is_undone(id) ORDER BY id DESC LIMIT 1'
# A change set that undoes another one of the same group is no part of what the group has done.
_GROUP = """SELECT s.id, is_undone(s.id) FROM change_set s WHERE s.change_group = %s AND NOT EXISTS (
    SELECT FROM change_set o WHERE o.id = s.undoes AND o.change_group = s.change_group) ORDER BY s.id DESC"""
_REMOVAL = """SELECT change_set_of(a) FROM audit_log a WHERE a.object_type = %s AND a.object_id = %s
    AND a.action = 'remove' ORDER BY a.id DESC LIMIT 1"""


_REMOVED = "SELECT list_removed(%s, now() - %s * interval '1 day', %s, %s, %s)"


class Runner(Protocol):
    """The part of `Database` that runs transactions."""

    def run(self, work: Any, outcome: Outcome | None = None) -> Any: ...


# ---------------------------------------------------------------- members


@dataclass(frozen=True)
class Undo:
    """The members of an undo: a change set or a group. partial: undo all objects that have no conflict."""

    change_set: int | None
    group: str | None
    partial: bool


def read_change_set(value: object) -> int | None:
    """Parse the number of a change set; None for nil.

    :raises NipapValueError: naming the value.
    """
    return None if value is None else read_from('change_set', value, 1)


def read_group(value: object) -> str | None:
    """Parse the name of a group; None for nil.

    :raises NipapValueError: naming the value.
    """
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_GROUP:
        raise NipapValueError(
            f'Invalid group ({shown(value)}), must be a text of 1 to {LONGEST_GROUP} characters'
        ).about('group')
    return value


def read_partial(value: object) -> bool:
    """Parse ``partial``; nil is false."""
    return value is not None and read_boolean(value)


def make_undo(change_set: int | None, group: str | None, partial: bool) -> Undo:
    """Return the members of an undo.

    :raises NipapMissingInputError: neither a change set nor a group is named. NipapInputError: both are.
    """
    if change_set is None and group is None:
        raise NipapMissingInputError("'change_set' or 'group' must be specified")
    if change_set is not None and group is not None:
        raise NipapInputError("specify 'change_set' or 'group'")
    return Undo(change_set, group, partial)


@dataclass(frozen=True)
class Restore:
    """The members of a restoration: a removed object. partial: restore all objects below that have no conflict."""

    kind: str
    key: int
    partial: bool


@dataclass(frozen=True)
class Removed:
    """The members of a list of removed objects. change_set, entry: the last ones of the page before."""

    kinds: tuple[str, ...]
    days: int
    limit: int
    change_set: int
    entry: int


def read_kind(value: object) -> str:
    """Parse the kind of an object.

    :raises NipapMissingInputError: there is no value. NipapValueError: naming the value.
    """
    if value is None:
        raise NipapMissingInputError("'kind' must be specified").about('kind')
    if not isinstance(value, str) or value not in KINDS:
        raise NipapValueError(f'Invalid value {shown(value)} for kind, must be one of: {", ".join(KINDS)}').about(
            'kind'
        )
    return value


def read_key(value: object) -> int:
    """Parse the id of an object, or an AS number.

    :raises NipapMissingInputError: there is no value. NipapValueError: naming the value.
    """
    if value is None:
        raise NipapMissingInputError("'id' must be specified").about('id')
    return read_from('id', value, 1)


def read_kinds(value: object) -> tuple[str, ...]:
    """Parse a list of kinds; nil and the empty list stand for all kinds.

    :raises NipapValueError: naming the value.
    """
    if value is None:
        return KINDS
    if not isinstance(value, list | tuple):
        raise NipapValueError(f'Invalid value {shown(value)} for kinds, must be a list of strings').about('kinds')
    return tuple(dict.fromkeys(read_kind(kind) for kind in value)) or KINDS


def read_days(value: object) -> int:
    """Parse a number of days; 30 for nil."""
    return DAYS if value is None else read_from('days', value, 1, MOST_DAYS)


def read_limit(value: object) -> int:
    """Parse the largest number of objects in an answer; 50 for nil."""
    return PAGE if value is None else read_from('max_result', value, 1, MOST_REMOVED)


def read_after(value: object) -> tuple[int, int]:
    """Parse the cursor of a page; nil and the empty text stand for the first page.

    :raises NipapValueError: naming the value.
    """
    if value is None or value == '':
        return LARGEST_NUMBER, LARGEST_NUMBER
    found = _CURSOR.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise NipapValueError(f'Invalid value {shown(value)} for after, must be that of an answer').about('after')
    return int(found[1]), int(found[2])


def make_removed(kinds: tuple[str, ...], days: int, limit: int, after: tuple[int, int]) -> Removed:
    """Return the members of a list of removed objects."""
    return Removed(kinds, days, limit, *after)


# ---------------------------------------------------------------- undo


def undo(tx: Transaction, number: int, who: Who, *, partial: bool) -> Answer:
    """Undo a change set in a transaction.

    :raises NipapNonExistentError: there is no such change set.
    :raises NipapConflictError: the change set was undone already; or, unless `partial`, objects were changed since.
    """
    if not tx.value('SELECT EXISTS (SELECT FROM change_set WHERE id = %s)', (number,)):
        raise NipapNonExistentError(f'There is no change set {number}').about('change_set')
    undone_by = tx.value(_UNDOING, (number,))
    if undone_by is not None and not partial:
        raise NipapConflictError(
            f'Change set {number} was undone by change set {undone_by}: undo that one to have the changes again'
        )
    answer = _done(tx, (number, None, None, partial, who))
    if answer['conflicts'] and not partial:
        raise _conflict(f'Change set {number} cannot be undone', answer)
    return answer


def undo_group(db: Runner, group: str, who: Who, outcome: Outcome | None, *, partial: bool) -> Answer:
    """Undo the change sets of a group, the newest first, each in a transaction of its own.

    Change sets that are undone already are skipped, so an undo that ended early can be called again.

    :raises NipapNonExistentError: there is no such group.
    :raises NipapConflictError: objects were changed since, unless `partial`. Newer change sets are undone.
    """
    found = db.run(lambda tx: tx.all(_GROUP, (group,)))
    if not found:
        raise NipapNonExistentError(f'There is no change set of the group {shown(group)}').about('group')
    answers: list[Answer] = []
    skipped = [number for number, undone in found if undone]
    for number in (number for number, undone in found if not undone):
        try:
            answer = db.run(lambda tx, number=number: undo(tx, number, who, partial=partial), outcome)
        except NipapError as error:
            if answers:
                error.args = (f'{error.args[0]}; {len(answers)} newer change sets of the group are undone',)
            raise
        answers.append({'undoes': number, **answer})
    return {'group': group, 'change_sets': answers, 'skipped': skipped}


def _done(tx: Transaction, args: tuple[Any, ...]) -> Answer:
    answer: Answer = tx.value(_UNDO, args)
    return answer


def _conflict(text: str, answer: Answer) -> NipapConflictError:
    return NipapConflictError(text, answer['conflicts'], answer['number_of_conflicts'])


def restore(tx: Transaction, wanted: Restore, who: Who) -> Answer:
    """Restore a removed object with what was below it and was removed with it.

    :raises NipapNonExistentError: no such object was removed. NipapConflictError: its place is taken, unless `partial`.
    """
    kind, key = wanted.kind, wanted.key
    number = tx.value(_REMOVAL, (kind, key))
    if number is None:
        raise NipapNonExistentError(f'There is no removed {kind} {key}').about('id')
    answer = _done(tx, (number, kind, key, wanted.partial, who))
    if answer['conflicts'] and not wanted.partial:
        raise _conflict(f'The {kind} {key} cannot be restored', answer)
    return answer


def list_removed(tx: Transaction, wanted: Removed) -> Answer:
    """Return removed objects, the newest first, and the cursor of the next page."""
    args = (list(wanted.kinds), wanted.days, wanted.change_set, wanted.entry, wanted.limit)
    found = [row[0] for row in tx.all(_REMOVED, args)]
    after = f'{found[-1]["change_set"]}.{found[-1]["entry"]}' if len(found) == wanted.limit else None
    for item in found:
        del item['entry']
        item['at'] = datetime.fromisoformat(item['at'])
        if item['before'].get('expires') == 'infinity':
            item['before']['expires'] = None
    return {'result': found, 'after': after}
