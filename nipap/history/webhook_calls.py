"""The calls that manage webhooks: the parsers of their members, and their work. No answer contains a secret."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from nipap.attributes import named, read_integer, shown
from nipap.errors import NipapInputError, NipapMissingInputError, NipapValueError
from nipap.history import webhook as hooks
from nipap.history.audit import Who
from nipap.postgres.transaction import Transaction

Object = dict[str, Any]

LARGEST = 2**63 - 1


class Caller(Protocol):
    """The caller of a call."""

    @property
    def who(self) -> Who: ...


# ---------------------------------------------------------------- members


def read_new(attr: object) -> Object:
    """Parse the ``attr`` of an addition.

    :raises NipapError: naming the attribute.
    """
    values = read_changes(attr)
    for name in ('url', 'secret'):
        if name not in values:
            raise NipapMissingInputError(f'attribute {name} is missing').about(name)
    return values


def read_changes(attr: object) -> Object:
    """Parse the ``attr`` of an edit.

    :raises NipapError: naming the attribute.
    """
    if not isinstance(attr, Mapping):
        raise NipapInputError("'attr' must be a dict")
    return hooks.read(attr)


def read_spec(spec: object) -> int | None:
    """Parse a spec and return the id that it names; None stands for all webhooks.

    :raises NipapError: the spec is not valid.
    """
    found = named(spec, ('id',), 'webhook', '')
    return None if found is None else _number('id', found[1])


def require_spec(spec: object) -> int:
    """Parse a spec that must name a webhook, and return the id.

    :raises NipapMissingInputError: the spec names no webhook.
    """
    key = read_spec(spec)
    if key is None:
        raise NipapMissingInputError("webhook spec must contain 'id'")
    return key


def read_after(after: object) -> int:
    """Parse the id after which an answer begins; nil is 0."""
    return 0 if after is None else _number('after', after)


def read_ids(ids: object) -> list[int] | None:
    """Parse the ids of dead letters; None stands for all."""
    if ids is not None and not isinstance(ids, list):
        raise NipapInputError(f'Invalid ids ({shown(ids)}), must be a list').about('ids')
    return None if ids is None else [_number('ids', i) for i in ids]


def _number(name: str, value: object) -> int:
    try:
        number = read_integer(value)
    except NipapValueError:
        number = -1
    if not 0 <= number <= LARGEST:
        raise NipapValueError(f'Invalid value {shown(value)} for {name}, must be an id, 0 to 2^63-1').about(name)
    return number


# ---------------------------------------------------------------- work


def add(tx: Transaction, caller: Caller, values: Object) -> Object:
    """Add a webhook for events from now on and return it."""
    return hooks.one(tx, hooks.add(tx, values, caller.who))


def find(tx: Transaction, _caller: Caller, key: int | None) -> list[Object]:
    """Return one webhook, or all webhooks, in a list."""
    return hooks.find(tx, key)


def edit(tx: Transaction, caller: Caller, members: tuple[int, Object]) -> list[Object]:
    """Set attributes of a webhook and return it in a list."""
    key, values = members
    hooks.edit(tx, key, values, caller.who)
    return [hooks.one(tx, key)]


def remove(tx: Transaction, caller: Caller, key: int) -> None:
    hooks.remove(tx, key, caller.who)


def dead_letters(tx: Transaction, _caller: Caller, members: tuple[int, int]) -> list[Object]:
    """Return a page of the dead letters of a webhook."""
    key, after = members
    hooks.one(tx, key)
    return hooks.dead_letters(tx, key, after)


def send_again(tx: Transaction, caller: Caller, members: tuple[int, list[int] | None]) -> int:
    """Mark dead letters of a webhook to be sent once more and return their number."""
    return hooks.send_again(tx, *members, caller.who)
