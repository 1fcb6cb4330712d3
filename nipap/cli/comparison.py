"""The comparison of a row of a file with the prefix that is stored in its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from nipap.attributes import PREFIX, Attribute, read_value, shown
from nipap.errors import NipapError
from nipap.moments import NEVER, is_relative

_PLACE = ('prefix', 'vrf_id', 'vrf_rt', 'vrf_name')


def differences(said: Mapping[str, object], stored: Mapping[str, Any]) -> list[str]:
    """Return a text for each attribute in which a stored prefix differs from a row.

    said: the ``attr`` of the row, which names the place of `stored`. Attributes that the row lacks are not compared,
    and an empty cell counts as lacking. A moment that depends on the time of the import is not compared either.
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
    """Return the normal form of a value. An older value that could not be stored today is returned unchanged."""
    try:
        value = read_value(attribute, value)
    except NipapError:
        return value
    if attribute.kind == 'tags':
        return sorted(set(value))
    if isinstance(value, datetime):
        return value.replace(microsecond=0) if value != NEVER else NEVER  # XML-RPC carries whole seconds only
    return value


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ', '.join(map(repr, value)) or 'nil'
    if isinstance(value, datetime):
        return 'nil' if value == NEVER else f'{value:%Y-%m-%d %H:%M:%S}'
    return shown(value)
