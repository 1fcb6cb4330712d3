"""Batches: many calls in one transaction. All are carried out, or none, and the error names the failed operation.

An operation is ``{'method': name, 'args': {members}}``. Anywhere in its args, ``{'$result': [n, 'id']}`` stands for
a value in the answer of operation n. The names and numbers after n are the path to the value; without any, the value
is the whole answer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from nipap.attributes import read_integer, shown
from nipap.controls import OF_CHANGES, meant, refuse_misspelt
from nipap.errors import (
    NipapError,
    NipapExtraneousInputError,
    NipapInputError,
    NipapMissingInputError,
    NipapValueError,
    at_operation,
)
from nipap.runtime.chunks import Chunks
from nipap.runtime.packed import Packed, check_depth, long_part, with_part

MAX_OPERATIONS = 100_000
MOST_OBJECTS = 100_000  # in all answers: some minutes of work, and as many as operations can add
MOST_IDS = 1_000_000
MOST_REFERRED = 1_000_000  # values that references stand for; every 16 characters of text count as one more

REFERENCE = '$result'

Path = tuple[str | int, ...]  # the number of an operation, and the names and numbers of the steps in its answer

_AT_ONCE = 1000  # objects that are in memory before they are packed


@dataclass(frozen=True)
class Operation:
    """One call with its arguments as they were sent. paths: the references in the arguments."""

    method: str
    args: Mapping[str, Any]
    paths: Sequence[object] = field(default=(), compare=False)

    def is_plain_add(self) -> bool:
        """Return whether the operation adds a prefix that it names, so that many can be added together."""
        if self.method != 'add_prefix' or self.args.get('args') or self.paths:
            return False
        attr = self.args.get('attr')
        return isinstance(attr, Mapping) and attr.get('prefix') is not None


def read_operations(value: object, methods: Mapping[str, Collection[str]]) -> list[Operation]:
    """Parse the ``operations`` of a batch. methods: the accepted calls, each with the names of its members.

    :raises NipapInputError: naming the malformed operation.
    """
    if value is None:
        raise NipapMissingInputError("'operations' must be specified")
    if not isinstance(value, list | tuple):
        raise NipapInputError(f'Invalid operations ({shown(value)}), must be an array')
    if len(value) > MAX_OPERATIONS:
        raise NipapInputError(f'Too many operations ({len(value)}), at most {MAX_OPERATIONS} in one batch')
    return [_read(n, item, methods) for n, item in enumerate(value)]


def _read(n: int, item: object, methods: Mapping[str, Collection[str]]) -> Operation:
    if not isinstance(item, Mapping):
        raise _wrong(n, 'must be a struct of method and args')
    for name in item:
        if name not in ('method', 'args'):
            raise _wrong(n, f'extraneous member {shown(name)}, accepted: method, args').about(name)
    method, args = item.get('method'), item.get('args', {})
    if not isinstance(method, str) or method not in methods:
        raise _wrong(n, f'Unknown method {shown(method)}')
    if not isinstance(args, Mapping):
        raise _wrong(n, 'args must be a struct', f' ({method})')
    for name in args:
        control = meant(name, OF_CHANGES) if isinstance(name, str) else None
        if control is not None:
            raise at_operation(n, method, NipapExtraneousInputError(f"'{control}' belongs to the batch").about(name))
    try:
        refuse_misspelt((name for name in args if isinstance(name, str)), methods[method])
    except NipapError as error:
        raise at_operation(n, method, error) from error
    return Operation(method, args, _paths(args))


def _wrong(n: int, text: str, method: str = '') -> NipapInputError:
    error = NipapInputError(f'operation {n}{method}: {text}')
    error.position = n
    return error


def runs(operations: Sequence[Operation]) -> list[tuple[int, int]]:
    """Return runs of operations that are done together, as (first, number): plain additions, or one other operation."""
    found: list[tuple[int, int]] = []
    before = False
    for n, operation in enumerate(operations):
        plain = operation.is_plain_add()
        if plain and before:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((n, 1))
        before = plain
    return found


def run(
    operations: Sequence[Operation],
    *,
    ids: bool,
    one: Callable[[Operation, References], Any],
    many: Callable[[list[Any]], list[Any] | Packed],
) -> list[Any] | Packed:
    """Run operations and return their answers, or with `ids` only the ids in the answers.

    one: runs one operation. many: adds the prefixes of several operations, given their ``attr``.

    :raises NipapError: naming the operation.
    """
    answers = Answers(operations, ids=ids)
    for first, number in runs(operations):
        try:
            if number > 1:
                answers.extend(many([operation.args['attr'] for operation in operations[first : first + number]]))
            else:
                answers.append(one(operations[first], answers.references))
        except NipapError as error:
            position = first + (error.position or 0)
            raise at_operation(position, operations[position].method, error) from error
    return answers.all()


def rehearse(
    operations: Sequence[Operation],
    *,
    one: Callable[[Operation, References], Any],
    many: Callable[[list[Any]], list[Any] | Packed],
    place: Callable[[Any], Any],
    part: Callable[[], AbstractContextManager[None]],
    note: Callable[[NipapError, int, str, int | None], None],
) -> None:
    """Run operations and note the error of each operation that fails. The others are carried out.

    one, many: as in `run`. place: the place of an addition in the tree, given its ``attr``. part: a context that undoes
    its work if it raises an error. note: gets an error, the number of its operation, the method, and the number of the
    failed operation to which this one refers, if any.
    """
    _Rehearsal(operations, one, many, place, part, note).run()


class _Rehearsal:
    """One rehearsal of a batch. The arguments are those of `rehearse`."""

    def __init__(
        self,
        operations: Sequence[Operation],
        one: Callable[[Operation, References], Any],
        many: Callable[[list[Any]], list[Any] | Packed],
        place: Callable[[Any], Any],
        part: Callable[[], AbstractContextManager[None]],
        note: Callable[[NipapError, int, str, int | None], None],
    ) -> None:
        self._operations = operations
        self._one, self._many, self._place, self._part, self._note = one, many, place, part, note
        self._references = References(operations)
        self._failed: set[int] = set()
        self._is_trial = False  # whether the work is undone soon

    def run(self) -> None:
        """Run all operations."""
        for first, number in runs(self._operations):
            if number > 1:
                self._add(self._in_tree_order(range(first, first + number)))
            else:
                self._run_one(first)

    def _fail(self, position: int, error: NipapError, depends_on: int | None = None) -> None:
        self._failed.add(position)
        self._note(error, position, self._operations[position].method, depends_on)

    def _run_one(self, position: int) -> None:
        operation = self._operations[position]
        needed = (_number(path[0]) for path in operation.paths if _is_path(path))
        reason = next((number for number in needed if number in self._failed), None)
        if reason is not None:
            self._fail(position, NipapInputError(f'Refers to operation {reason}, which fails'), reason)
            return
        try:
            with self._part():
                answer = self._one(operation, self._references)
                part = long_part(answer)
                if part is not None and self._references.any_to(position):
                    with closing(iter(part)) as lists:  # type: ignore[type-var]  # a generator, or an iterator in memory
                        answer = with_part(answer, Packed(lists))
                if not self._is_trial:
                    self._references.note(position, answer)
        except NipapError as error:
            self._fail(position, error)

    def _in_tree_order(self, positions: Iterable[int]) -> list[int]:
        """Return the numbers of additions from the top of the tree down, without those that have no place.

        Additions that run together do not depend on their order, so in parts they must run in this one.
        """
        places: list[tuple[Any, int]] = []
        for position in positions:
            try:
                places.append((self._place(self._operations[position].args['attr']), position))
            except NipapError as error:
                self._fail(position, error)
        return [position for _, position in sorted(places)]

    def _add(self, positions: list[int]) -> None:
        """Add prefixes together. If some of them fail, find these first, and add the others together.

        positions: the numbers of the additions, in tree order.
        """
        while positions and not self._are_added(sorted(positions)):
            self._is_trial = True
            try:
                with self._part():
                    self._find_failing(positions)
                    raise _TrialError
            except _TrialError:
                self._is_trial = False
            left = [position for position in positions if position not in self._failed]
            if len(left) == len(positions):  # pragma: no cover - the parts and the whole have the same rules
                self._find_failing(positions)
                return
            positions = left

    def _are_added(self, positions: list[int]) -> bool:
        """Add prefixes together; return False and add none if one of them fails."""
        try:
            with self._part():
                answers = self._many([self._operations[position].args['attr'] for position in positions])
        except NipapError:
            return False
        if not self._is_trial:
            for n, position in enumerate(positions):
                if self._references.any_to(position):
                    self._references.note(position, answers[n])
        return True

    def _find_failing(self, positions: list[int]) -> None:
        """Add prefixes together, and if one of them fails, each half apart. Note the errors of single ones."""
        if len(positions) == 1:
            self._run_one(positions[0])
        elif positions and not self._are_added(positions):
            half = len(positions) // 2
            self._find_failing(positions[:half])
            self._find_failing(positions[half:])


class _TrialError(NipapError):
    """The end of a trial, which is undone."""


# ---------------------------------------------------------------- references


class References:
    """The values to which operations refer. Each is kept from the answer of its operation; other values are not."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._paths: dict[int, set[Path]] = {}
        self._found: dict[Path, Any] = {}
        self._room = MOST_REFERRED
        for operation in operations:
            for path in operation.paths:
                if _is_path(path):
                    self._paths.setdefault(_number(path[0]), set()).add(tuple(path))

    def any_to(self, first: int, number: int = 1) -> list[int]:
        """Return which of `number` operations, from `first` on, are referred to."""
        return sorted(self._paths.keys() & range(first, first + number)) if self._paths else []

    def note(self, position: int, answer: object) -> None:
        """Keep the values in the answer of an operation to which other operations refer."""
        for path in self._paths.pop(position, ()):
            try:
                self._found[path] = _look_up(path, answer)
            except NipapInputError as error:
                self._found[path] = error

    def resolved(self, operation: Operation) -> Any:
        """Return the arguments of an operation with values in place of references.

        :raises NipapInputError: a referred value does not exist. NipapValueError: the referred values are too many.
        """
        if not operation.paths:
            return operation.args
        check_depth(operation.args)
        return self._resolved(operation.args)

    def _resolved(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            if REFERENCE in value:
                if len(value) > 1:
                    raise NipapInputError("A struct with '$result' must not have other members")
                return self._value(value[REFERENCE])
            return {name: self._resolved(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._resolved(item) for item in value]
        return value

    def _value(self, path: object) -> Any:
        if not isinstance(path, list | tuple) or not path:
            raise NipapInputError(f"Invalid $result ({shown(path)}), must be an array like [0, 'id']")
        if not _is_path(path) or tuple(path) not in self._found:
            raise _missing(path, path[0])
        found = self._found[tuple(path)]
        if isinstance(found, NipapInputError):
            raise found
        # References to answers that consist of references could grow without end.
        self._room -= _size(found, self._room)
        if self._room < 0:
            raise NipapValueError(f'References copy too many values, at most {MOST_REFERRED} in one batch')
        return found


def _paths(args: Mapping[str, Any]) -> Sequence[object]:
    """Return the references in arguments, at any depth of nesting."""
    found: list[object] = []
    level: list[Any] = [args]
    while level:
        inner: list[Any] = []
        for container in level:
            if not isinstance(container, Mapping):
                items = container
            elif REFERENCE in container:
                found.append(container[REFERENCE])
                continue
            else:
                items = container.values()
            inner += [item for item in items if type(item) is not str and isinstance(item, Mapping | list | tuple)]
        level = inner
    return tuple(found)


def _is_path(path: object) -> TypeGuard[Sequence[str | int]]:
    return isinstance(path, list | tuple) and bool(path) and all(isinstance(step, str | int) for step in path)


def _number(step: object) -> int:
    """Return the number of an operation; -1 for any other value."""
    try:
        return read_integer(step)
    except NipapError:
        return -1


def _look_up(path: Path, answer: object) -> Any:
    """Return the value at the end of a path into an answer.

    :raises NipapInputError: there is no such value, or the value is too long a list.
    """
    found: Any = answer
    for step in path[1:]:
        try:
            found = found[step] if isinstance(found, Mapping) else found[_index(step, found)]
        except (KeyError, IndexError, TypeError):
            raise _missing(path, step) from None
    if long_part(found) is not None:
        raise NipapInputError(f'$result {list(path)}: the list is too long for a reference')
    return found


def _missing(path: Sequence[Any], step: object) -> NipapInputError:
    return NipapInputError(f'$result {_listed(path)}: there is no {shown(step)} in the answer')


def _listed(path: Sequence[Any]) -> object:
    return list(path) if _is_path(path) else shown(path)


def _index(step: object, found: object) -> int:
    number = read_integer(step)
    if not isinstance(found, list | Packed) or number < 0:
        raise IndexError
    return number


def _size(value: object, most: int) -> int:
    """Return the number of values in a value, as `MOST_REFERRED` counts them. Counting stops above `most`."""
    size = 0
    left = [value]
    while left and size <= most:
        item = left.pop()
        size += 1
        if isinstance(item, str | bytes):
            size += len(item) >> 4
        elif isinstance(item, Mapping | list | tuple):
            size += len(item)
            left += item.values() if isinstance(item, Mapping) else item
    return size


# ---------------------------------------------------------------- answers


class Answers:
    """The answers of the operations, in order: objects, or only the ids of objects.

    Most of the answers are packed to save memory. The number of objects, or of ids, is limited.
    """

    def __init__(self, operations: Sequence[Operation], *, ids: bool) -> None:
        self.references = References(operations)
        self._ids = ids
        self._most = MOST_IDS if ids else MOST_OBJECTS
        self._objects = 0
        self._packed = Packed()
        self._last: list[Any] = []  # answers that are not packed yet
        self._room = _AT_ONCE

    def __len__(self) -> int:
        return len(self._packed) + len(self._last)

    def append(self, answer: Any) -> None:
        """Add the answer of the next operation.

        :raises NipapValueError: all answers together are too long.
        """
        part = long_part(answer)
        if part is not None:
            self._append_long(answer, part)
            return
        objects = _objects(answer)
        self._count(objects)
        self.references.note(len(self), answer)
        self._last.append(only_ids(answer) if self._ids else answer)
        self._room -= max(objects, 1)
        if self._room < 0:
            self._pack()

    def _append_long(self, answer: Any, part: Chunks) -> None:
        position = len(self)
        cut = self._ids and not self.references.any_to(position)
        # Close the iterator at once: as soon as the transaction has failed, another caller may use the session.
        with closing(self._counted(part)) as lists:
            packed = Packed(map(only_ids, lists) if cut else lists)
        self.references.note(position, with_part(answer, packed))
        self._pack()
        self._packed.add_as_it_is(packed if cut else only_ids(packed) if self._ids else with_part(answer, packed))

    def extend(self, answers: list[Any] | Packed) -> None:
        """Add the answers of the next operations."""
        if isinstance(answers, list):
            for answer in answers:
                self.append(answer)
            return
        self._count(len(answers))
        first = len(self)
        for position in self.references.any_to(first, len(answers)):
            self.references.note(position, answers[position - first])
        self._pack()
        self._packed.take(answers)

    def all(self) -> list[Any] | Packed:
        """Return the answers of all operations."""
        if not self._packed:
            return self._last
        self._pack()
        return self._packed

    def _counted(self, part: Chunks) -> Generator[list[Any]]:
        for some in part:
            self._count(len(some))
            yield some

    def _count(self, objects: int) -> None:
        self._objects += objects
        if self._objects > self._most:
            what = 'ids' if self._ids else f"objects (of ids, with 'return': 'ids', {MOST_IDS})"
            raise NipapValueError(f'The answers are too long, at most {self._most} {what} in one batch: ask for pages')

    def _pack(self) -> None:
        if self._last:
            try:
                self._packed.add(self._last)
            except NipapInputError:  # an answer nests too deeply
                for answer in self._last:
                    self._packed.add_as_it_is(answer)
        self._last, self._room = [], _AT_ONCE


def _objects(answer: object) -> int:
    part = answer.get('result') if isinstance(answer, Mapping) else answer
    return len(part) if isinstance(part, list) else 1


def only_ids(answer: Any) -> Any:
    """Return the ids in an answer. An AS number is its own id, and the id of a tag is its name."""
    if isinstance(answer, Mapping):
        if 'result' in answer:
            return only_ids(answer['result'])
        return next((answer[key] for key in ('id', 'asn', 'name') if key in answer), None)
    if isinstance(answer, Packed):
        return Packed(map(only_ids, answer))
    return [only_ids(item) for item in answer] if isinstance(answer, list) else answer
