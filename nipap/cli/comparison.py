"""How a row of a file differs from the prefix that is stored in its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from nipap.attributes import PREFIX, Attribute, read_value, shown
from nipap.errors import NipapError
from nipap.moments import NEVER, is_relative

_PLACE = ('prefix', 'vrf_id', 'vrf_rt', 'vrf_name')


def differences(said: Mapping[str, object], stored: Mapping[str, Any]) -> list[str]:
    """Name each attribute that a stored prefix has with another value than a row says.

    said: the ``attr`` of the row, which names the place of `stored`. What the row does not say is not compared: an
    empty cell says nothing. Neither is a moment that depends on the time of the import.
    """
    values = {name: value for name, value in said.items() if name not in _PLACE and value is not None}
    return [text for name, value in values.items() for text in _of(name, value, stored.get(name))]


def _of(name: str, said: Any, stored: Any) -> Iterator[str]:
    if name == 'avps':
        theirs = _normal(PREFIX[name], stored)
        for key, value in _normal(PREFIX[name], said).items():
            if theirs.get(key) != value:
                yield f'avps.{key} is {_shown(theirs.get(key))}, not {_shown(value)}'
    elif said != stored and not (name == 'expires' and is_relative(said)):
        yield from _different(PREFIX[name], name, said, stored)


def _different(attribute: Attribute, name: str, said: object, stored: object) -> Iterator[str]:
    ours, theirs = _normal(attribute, said), _normal(attribute, stored)
    if ours != theirs:
        yield f'{name} is {_shown(theirs)}, not {_shown(ours)}'


def _normal(attribute: Attribute, value: Any) -> Any:
    """Return the one form of a value: an older one that cannot be stored any more stays as it is."""
    try:
        value = read_value(attribute, value)
    except NipapError:
        return value
    if attribute.kind == 'tags':
        return sorted(set(value))
    if isinstance(value, datetime):
        return value.replace(microsecond=0) if value != NEVER else NEVER  # the wire carries no fractions
    return value


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ', '.join(map(repr, value)) or 'nil'
    if isinstance(value, datetime):
        return 'nil' if value == NEVER else f'{value:%Y-%m-%d %H:%M:%S}'
    return shown(value)
