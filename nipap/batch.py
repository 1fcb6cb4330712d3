"""Many calls in one transaction: all of them, or none and the number of the one that failed.

An operation is ``{'method': name, 'args': {members}}``. Anywhere in its args, ``{'$result': [n, 'id']}`` stands for
what operation n answered, or for the member that the names and numbers after n lead to.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nipap.attributes import read_integer, shown
from nipap.errors import NipapError, NipapInputError, NipapMissingInputError

MAX_OPERATIONS = 100_000


@dataclass(frozen=True)
class Operation:
    """One call, its arguments as they were sent."""

    method: str
    args: Mapping[str, Any]

    def is_plain_add(self) -> bool:
        """Whether it adds a prefix that it names itself, so that it can be added together with others."""
        if self.method != 'add_prefix' or self.args.get('args'):
            return False
        attr = self.args.get('attr')
        return isinstance(attr, Mapping) and attr.get('prefix') is not None and not _refers(attr)


def read_operations(value: object, methods: Collection[str]) -> list[Operation]:
    """Check the ``operations`` of a batch.

    :raises NipapInputError: naming the operation that makes no sense.
    """
    if value is None:
        raise NipapMissingInputError("'operations' must be specified")
    if not isinstance(value, list | tuple):
        raise NipapInputError(f'Invalid operations ({shown(value)}), must be an array')
    if len(value) > MAX_OPERATIONS:
        raise NipapInputError(f'Too many operations ({len(value)}), at most {MAX_OPERATIONS} in one batch')
    return [_read(n, item, methods) for n, item in enumerate(value)]


def _read(n: int, item: object, methods: Collection[str]) -> Operation:
    if not isinstance(item, Mapping):
        raise NipapInputError(f'operation {n}: must be a struct of method and args')
    method, args = item.get('method'), item.get('args', {})
    if not isinstance(method, str) or method not in methods:
        raise NipapInputError(f'operation {n}: Unknown method {shown(method)}')
    if not isinstance(args, Mapping):
        raise NipapInputError(f'operation {n} ({method}): args must be a struct')
    return Operation(method, args)


def runs(operations: Sequence[Operation]) -> list[tuple[int, int]]:
    """Consecutive operations that are done together, as (first, number): plain additions, anything else alone."""
    found: list[tuple[int, int]] = []
    for n, operation in enumerate(operations):
        if found and operation.is_plain_add() and operations[found[-1][0]].is_plain_add():
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((n, 1))
    return found


def at(position: int, method: str, error: NipapError) -> NipapError:
    """The same error, naming the operation."""
    named = type(error)(f'operation {position} ({method}): {error}')
    named.position, named.attribute = position, error.attribute
    return named


def _refers(value: object) -> bool:
    if isinstance(value, Mapping):
        return '$result' in value or any(map(_refers, value.values()))
    return isinstance(value, list | tuple) and any(map(_refers, value))


def resolved(value: Any, answers: Sequence[Any]) -> Any:
    """Arguments with what earlier operations answered in place of references.

    :raises NipapInputError: a reference to what is not there.
    """
    if isinstance(value, Mapping):
        if '$result' in value:
            return _look_up(value['$result'], answers)
        return {name: resolved(item, answers) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [resolved(item, answers) for item in value]
    return value


def _look_up(path: object, answers: Sequence[Any]) -> Any:
    if not isinstance(path, list | tuple) or not path:
        raise NipapInputError(f"Invalid $result ({shown(path)}), must be an array like [0, 'id']")
    found: Any = list(answers)
    for step in path:
        try:
            found = found[step] if isinstance(found, Mapping) else found[_index(step, found)]
        except (KeyError, IndexError, TypeError):
            raise NipapInputError(f'$result {list(path)}: there is no {shown(step)} in what was answered') from None
    return found


def _index(step: object, found: object) -> int:
    number = read_integer(step)
    if not isinstance(found, list) or number < 0:
        raise IndexError
    return number


def only_ids(answer: Any) -> Any:
    """An answer cut down to the ids in it; AS numbers and tags are their own."""
    if isinstance(answer, Mapping):
        if 'result' in answer:
            return only_ids(answer['result'])
        return next((answer[key] for key in ('id', 'asn', 'name') if key in answer), None)
    return [only_ids(item) for item in answer] if isinstance(answer, list) else answer
