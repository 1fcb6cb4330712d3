"""Sentences about changes: who did what to which object, with each attribute and its value before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nipap.attributes import ASN, POOL, PREFIX, VRF
from nipap.history import events

Facts = Mapping[str, Any]
# Returns the name that an object had; the kind is vrf or pool.
NameOf = Callable[[str, int], str | None]

LONGEST_VALUE = 200  # characters of a value in a sentence
NOTHING, NEVER = 'nothing', 'never'
_ORDER = {name: place for place, name in enumerate(dict.fromkeys((*PREFIX, *POOL, *VRF, *ASN)))}
# An edit always changes the first; the others name the object itself.
UNSAID = frozenset({'last_modified', 'added', 'id', 'vrf_id', 'prefix'})
# Attributes by which an added or removed object is named already.
NAMING = {'vrf': frozenset({'name', 'rt'}), 'pool': frozenset({'name'}), 'asn': frozenset({'name', 'asn'})}
_VERBS = {'add': 'added', 'edit': 'edited', 'remove': 'removed', 'resend': 'resent dead letters of'}


def differences(before: Facts | None, after: Facts | None) -> dict[str, dict[str, Any]]:
    """Return the attributes that differ, each with its value before and after. A missing value is None.

    ``last_modified`` is left out, because every edit changes it.
    """
    found = events.changes(before or {}, after or {})
    found.pop('last_modified', None)
    return found


def sentence(item: Mapping[str, Any], name_of: NameOf) -> str:
    """Return the sentence for an audit entry, a struct with the members of an answer.

    >>> entry = {'username': 'kim', 'authenticated_as': 'kim', 'action': 'edit', 'kind': 'asn', 'object_id': 64500,
    ...          'before': {'asn': 64500}, 'after': {'asn': 64500, 'name': 'Example'}}
    >>> sentence(entry, lambda kind, i: None)
    "kim edited AS64500: name from nothing to 'Example'"
    """
    who = item['username']
    if item['authenticated_as'] != who:
        who = f'{who} (signed in as {item["authenticated_as"]})'
    said = f'{who} {_VERBS.get(item["action"], item["action"])} {_object(item, name_of)}'
    details = _details(item, name_of)
    return f'{said}: {", ".join(details)}' if details else said


def _object(item: Mapping[str, Any], name_of: NameOf) -> str:
    """Return the object as it was before the change, or as it was added."""
    kind, key = item['kind'], item['object_id']
    facts: Facts = item['before'] or item['after'] or {}
    if kind == 'prefix':
        return f'prefix {facts.get("prefix")} in {_vrf(facts.get("vrf_id", 0), name_of)}'
    if kind == 'vrf':
        return _named_vrf(facts.get('name'), facts.get('rt'))
    if kind == 'pool':
        return f'pool {facts.get("name")}'
    if kind == 'asn':
        return f'AS{key}' + (f' ({facts["name"]})' if facts.get('name') else '')
    return f'{kind} {key}' + (f' ({facts["url"]})' if facts.get('url') else '')


def _vrf(key: int, name_of: NameOf) -> str:
    return f'VRF {name_of("vrf", key) or key}'


def _named_vrf(name: str | None, route_target: str | None) -> str:
    return f'VRF {name}' + (f' ({route_target})' if route_target else '')


def _rank(difference: tuple[str, object]) -> tuple[int, str]:
    """Return the place of an attribute in a sentence: that of the table of attributes."""
    name = difference[0]
    return _ORDER.get(name, len(_ORDER)), name


def _details(item: Mapping[str, Any], name_of: NameOf) -> list[str]:
    edited, after = item['action'] == 'edit', item['after']
    unsaid = UNSAID - {'prefix'} if edited else UNSAID | NAMING.get(item['kind'], frozenset())
    details = []
    changes = item['changes'] if 'changes' in item else differences(item['before'], after)
    for name, values in sorted(changes.items(), key=_rank):
        if name in unsaid:
            continue
        if name == 'avps':
            details += _pairs(values['before'] or {}, values['after'] or {}, edited=edited)
            continue
        old, new = (_value(name, value, name_of) for value in (values['before'], values['after']))
        shown_name = 'pool' if name == 'pool_id' else name
        if edited:
            details.append(f'{shown_name} from {old} to {new}')
        elif (new if after else old) not in (NOTHING, NEVER):
            details.append(f'{shown_name} {new if after else old}')
    return details


def _pairs(before: Facts, after: Facts, *, edited: bool) -> list[str]:
    said = []
    for name in dict.fromkeys((*before, *after)):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if edited:
            said.append(f'avps.{name} from {_plain(old)} to {_plain(new)}')
        else:
            said.append(f'avps.{name} {_plain(old if new is None else new)}')
    return said


def _value(name: str, value: Any, name_of: NameOf) -> str:
    if name == 'pool_id' and value is not None:
        found = name_of('pool', value)
        return _plain(found) if found is not None else f'number {value}'
    if name == 'expires' and value in (None, 'infinity'):
        return NEVER
    return _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return f"'{value}'" if len(value) <= LONGEST_VALUE else f"'{value[:LONGEST_VALUE]}…'"
    if value is None or value == [] or value == {}:
        return NOTHING
    if isinstance(value, bool):
        return 'true' if value else 'false'
    if isinstance(value, list):
        return ' + '.join(map(_plain, value))
    if isinstance(value, dict):
        return ' + '.join(f'{name} {_plain(inner)}' for name, inner in value.items())
    return str(value)
