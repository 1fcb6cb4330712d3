"""The attributes of objects: one table for each kind of object, and the parsers of values.

Each fact about an attribute is stated here once: its kind, the SQL that reads it, whether clients may set it, and its
meaning. Validation, the query compiler and smart search all work from these tables. In SQL expressions ``v`` is the
VRF, ``o`` the pool, ``p`` the prefix, ``a`` the AS number of the row (see `nipap.search.query`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from nipap.addresses import parse_network, parse_route_target
from nipap.errors import (
    NipapExtraneousInputError,
    NipapInputError,
    NipapMissingInputError,
    NipapValueError,
)
from nipap.moments import read_moment
from nipap.text import forbidden_character

PREFIX_TYPES = ('reservation', 'assignment', 'host')
STATUSES = ('assigned', 'reserved', 'quarantine')
ALARM_PRIORITIES = ('warning', 'low', 'medium', 'high', 'critical')
MAX_ASN = 4294967295
LARGEST_NUMBER = 2**63 - 1  # of a column of PostgreSQL
# Most characters of an indexed text: 2,400 bytes at four bytes each. A B-tree accepts 2,704 bytes, and so does GIN.
LONGEST_KEY = 600

TRUE = frozenset({'true', 't', 'yes', 'y', 'on', '1'})
FALSE = frozenset({'false', 'f', 'no', 'n', 'off', '0'})


@dataclass(frozen=True)
class Attribute:
    """One attribute of an object.

    kind: text, integer, number (may pass 2^63), boolean, network, time, expires, enum, tags, avps, networks, rt or asn.
    sql: the expression that reads it. writable: clients may set it. choices: the accepted values of an enum.
    longest: most characters of a text or of each tag. never_nil: it always has a value. nil_is_text: text operators
    take nil for the empty text. example: a typical value, as in JSON. normal: returns the form in which a text is
    stored and searched for. refuse: raises NipapValueError for a text in this form that may not be stored.
    """

    name: str
    kind: str
    sql: str
    doc: str
    writable: bool = False
    choices: tuple[str, ...] = ()
    low: int | None = None
    high: int | None = None
    error: str | None = None
    longest: int | None = None
    never_nil: bool = False
    nil_is_text: bool = False
    example: object = None
    normal: Callable[[str], str] | None = None
    refuse: Callable[[str], None] | None = None


Table = Mapping[str, Attribute]


# Examples by the name of the attribute, for every table; a table may override them. The addresses, names and numbers
# are for documentation.
_EXAMPLES: Mapping[str, object] = {
    **{'id': 1, 'version': 1, 'vrf_id': 0, 'pool_id': 1, 'vrf_rt': '65000:123', 'vrf_name': 'customers'},
    **{'pool_name': 'links'},
    **{'rt': '65000:123', 'name': 'customers', 'asn': 64500, 'description': 'Office in Malmö', 'comment': 'Floor 3'},
    **{'tags': ['core'], 'inherited_tags': ['private'], 'avps': {'site': 'malmo1'}},
    **{'family': 4, 'prefix': '192.0.2.0/24', 'prefix_length': 24, 'display_prefix': '192.0.2.0/24', 'indent': 1},
    **{'type': 'assignment', 'default_type': 'assignment', 'status': 'assigned', 'node': 'r1.example.net'},
    **{'country': 'SE', 'order_id': '89460123', 'customer_id': 'C-1001', 'external_key': 'crm:4711', 'vlan': 42},
    **{'authoritative_source': 'nipap', 'alarm_priority': 'medium', 'monitor': True, 'children': 3},
    **{'added': '2026-01-31T12:00:00Z', 'last_modified': '2026-01-31T12:00:00Z', 'expires': '2031-12-31T00:00:00Z'},
    **{'total_addresses': '256', 'used_addresses': '3', 'free_addresses': '253', 'prefixes': ['192.0.2.0/24']},
    **{'ipv4_default_prefix_length': 30, 'ipv6_default_prefix_length': 64},
    **{'total_addresses_v4': '256', 'used_addresses_v4': '3', 'free_addresses_v4': '253', 'num_prefixes_v4': '4'},
    **{'member_prefixes_v4': '1', 'used_prefixes_v4': '2', 'free_prefixes_v4': '62', 'total_prefixes_v4': '64'},
    **{'total_addresses_v6': '0', 'used_addresses_v6': '0', 'free_addresses_v6': '0', 'num_prefixes_v6': '0'},
    **{'member_prefixes_v6': '0', 'used_prefixes_v6': '0', 'free_prefixes_v6': '0', 'total_prefixes_v6': '0'},
}


def _table(
    attributes: Iterable[Attribute], *, nil_is_text: bool = False, examples: Mapping[str, object] | None = None
) -> dict[str, Attribute]:
    known = {**_EXAMPLES, **(examples or {})}
    return {
        attribute.name: replace(attribute, nil_is_text=nil_is_text, example=known[attribute.name])
        for attribute in attributes
    }


def _families(name: str, sql: str, doc: str, *, never_nil: bool = True) -> list[Attribute]:
    """Return the IPv4 and the IPv6 attribute of a figure."""
    return [
        Attribute(f'{name}_v{family}', 'number', sql.format(f=family), f'{doc}, IPv{family}.', never_nil=never_nil)
        for family in (4, 6)
    ]


def _trimmed(text: str) -> str:
    return text.strip()


def _not_empty(text: str) -> None:
    if not text:
        raise NipapValueError("Invalid value '', must not be empty or blank")


def _upper(text: str) -> str:
    return text.upper() if text.isascii() else text


_COUNTRY_HELP = ' Please enter a two letter country code according to ISO 3166-1 alpha-2'


def _country_code(text: str) -> None:
    if len(text) != 2 or not text.isascii() or not text.isalpha():
        raise NipapValueError(_COUNTRY_HELP)


def _key_name(sql: str, doc: str, *, name: str = 'name') -> Attribute:
    """Return the attribute for the name of a VRF or of a pool."""
    doc = f'{doc} Blanks around it are dropped.'
    return Attribute(
        name, 'text', sql, doc, True, longest=LONGEST_KEY, never_nil=True, normal=_trimmed, refuse=_not_empty
    )


def _tags(sql: str) -> Attribute:
    return Attribute('tags', 'tags', sql, 'Tags, order and duplicates kept.', True, longest=LONGEST_KEY)


_AVPS = 'Attribute-value pairs, string to string.'


def _version(sql: str) -> Attribute:
    doc = 'Version: 1 for a new object, one more with each edit that changes a fact.'
    return Attribute('version', 'integer', sql, doc, never_nil=True)


VRF: Table = _table(
    [
        Attribute('id', 'integer', 'v.id', 'Identity; 0 is the default VRF.', never_nil=True),
        Attribute('rt', 'rt', 'v.rt', 'Route target, ASN:n or a.b.c.d:n (RFC 4364); VRF 0 has none.', True),
        _key_name('v.name', 'Name, unique without regard to case.'),
        Attribute('description', 'text', 'v.description', 'Free text.', True),
        *_families('num_prefixes', 't.num_prefixes_v{f}', 'Number of prefixes'),
        *_families('total_addresses', 't.total_addresses_v{f}', 'Addresses of prefixes without parent'),
        *_families('used_addresses', 't.used_addresses_v{f}', 'Used addresses of prefixes without parent'),
        *_families(
            'free_addresses',
            '(t.total_addresses_v{f} - t.used_addresses_v{f})',
            'Free addresses of prefixes without parent',
        ),
        _tags('v.tags'),
        Attribute('avps', 'avps', 'v.avps', _AVPS, True),
        _version('v.version'),
    ]
)

POOL: Table = _table(
    [
        Attribute('id', 'integer', 'o.id', 'Identity.', never_nil=True),
        _key_name('o.name', 'Name, unique without regard to case.'),
        Attribute('description', 'text', 'o.description', 'Free text.', True),
        Attribute(
            'default_type',
            'enum',
            'o.default_type',
            'Type of allocated prefixes; unset: each allocation must give a type.',
            True,
            PREFIX_TYPES,
        ),
        *(
            Attribute(
                f'ipv{family}_default_prefix_length',
                'integer',
                f'o.ipv{family}_default_prefix_length',
                f'Length of IPv{family} allocations that give none, 1 to {bits}.',
                True,
                low=1,
                high=bits,
                error=f'Default IPv{family} prefix length must be an integer between 1 and {bits}.',
            )
            for family, bits in ((4, 32), (6, 128))
        ),
        *_families('member_prefixes', 'm.member_prefixes_v{f}', 'Number of members'),
        *_families('used_prefixes', 'm.used_prefixes_v{f}', 'Number of direct children of members'),
        *_families(
            'free_prefixes', 'm.free_prefixes_v{f}', 'Free blocks of the default length in members', never_nil=False
        ),
        *_families(
            'total_prefixes', '(m.used_prefixes_v{f} + m.free_prefixes_v{f})', 'Used and free prefixes', never_nil=False
        ),
        *_families('total_addresses', 'm.total_addresses_v{f}', 'Addresses of members'),
        *_families('used_addresses', 'm.used_addresses_v{f}', 'Used addresses of members'),
        *_families('free_addresses', '(m.total_addresses_v{f} - m.used_addresses_v{f})', 'Free addresses of members'),
        _tags('o.tags'),
        Attribute('avps', 'avps', 'o.avps', _AVPS, True),
        Attribute('vrf_id', 'integer', 'v.id', 'The VRF of all members.'),
        Attribute('vrf_rt', 'rt', 'v.rt', 'Route target of that VRF.'),
        Attribute('vrf_name', 'text', 'v.name', 'Name of that VRF.', normal=_trimmed),
        Attribute('prefixes', 'networks', 'm.prefixes', 'The members, in order.'),
        _version('o.version'),
    ],
    examples={'name': 'links', 'description': 'Links to customers'},
)

_TOTAL = 'prefix_size(p.prefix)'
PREFIX: Table = _table(
    [
        Attribute('id', 'integer', 'p.id', 'Identity.', never_nil=True),
        Attribute(
            'vrf_id', 'integer', 'p.vrf_id', 'The VRF of the prefix; the default is VRF 0.', True, never_nil=True
        ),
        Attribute('vrf_rt', 'rt', 'v.rt', 'Route target of the VRF.', True),
        _key_name('v.name', 'Name of the VRF.', name='vrf_name'),
        Attribute('family', 'integer', 'family(p.prefix)', 'Address family, 4 or 6.', never_nil=True),
        Attribute('prefix', 'network', 'p.prefix', 'The network; unique in its VRF.', True, never_nil=True),
        Attribute('prefix_length', 'integer', 'masklen(p.prefix)', 'Prefix length.', never_nil=True),
        Attribute(
            'display_prefix',
            'text',
            "CASE WHEN p.type = 'host' THEN host(p.prefix) || '/' || "
            '(SELECT masklen(q.prefix) FROM prefix q WHERE q.id = p.parent_id) ELSE p.prefix::text END',
            'The prefix; a host has the length of the assignment around it.',
            never_nil=True,
        ),
        Attribute('description', 'text', 'p.description', 'Free text.', True),
        Attribute('comment', 'text', 'p.comment', 'Free text.', True),
        Attribute('inherited_tags', 'tags', 'inherited', 'Tags of all ancestors, each once, from the top down.'),
        _tags('p.tags'),
        Attribute('node', 'text', 'p.node', 'Name of the node; hosts and full-length assignments only.', True),
        Attribute('pool_id', 'integer', 'p.pool_id', 'The pool that the prefix is a member of.', True),
        replace(_key_name('o.name', 'Name of that pool.', name='pool_name'), never_nil=False),
        Attribute('type', 'enum', 'p.type', 'reservation, assignment or host.', True, PREFIX_TYPES, never_nil=True),
        Attribute('status', 'enum', 'p.status', 'assigned, reserved or quarantine.', True, STATUSES, never_nil=True),
        Attribute(
            'indent',
            'integer',
            '(SELECT count(*) FROM prefix q WHERE q.vrf_id = p.vrf_id AND q.prefix = ANY (supernets(p.prefix)))',
            'Number of ancestors.',
            never_nil=True,
        ),
        Attribute(
            'country',
            'text',
            'p.country',
            'Country code, ISO 3166-1 alpha-2; stored in capitals.',
            True,
            error=_COUNTRY_HELP,
            normal=_upper,
            refuse=_country_code,
        ),
        Attribute('order_id', 'text', 'p.order_id', 'Order identifier.', True),
        Attribute('customer_id', 'text', 'p.customer_id', 'Customer identifier.', True),
        Attribute('external_key', 'text', 'p.external_key', 'Key in some other system.', True, longest=LONGEST_KEY),
        Attribute(
            'authoritative_source',
            'text',
            'p.authoritative_source',
            'The system that the prefix comes from.',
            True,
            never_nil=True,
        ),
        Attribute('alarm_priority', 'enum', 'p.alarm_priority', 'Alarm priority.', True, ALARM_PRIORITIES),
        Attribute('monitor', 'boolean', 'p.monitor', 'Whether to monitor the prefix.', True),
        Attribute('vlan', 'integer', 'p.vlan', 'VLAN identifier, 0 to 4095.', True, low=0, high=4095),
        Attribute('added', 'time', 'p.added', 'When it was added.', never_nil=True),
        Attribute('last_modified', 'time', 'p.last_modified', 'When it was last edited.', never_nil=True),
        Attribute('children', 'integer', 'p.children', 'Number of direct children.', never_nil=True),
        Attribute('total_addresses', 'number', _TOTAL, 'Number of addresses.', never_nil=True),
        Attribute(
            'used_addresses', 'number', 'p.used_addresses', 'Sum of the sizes of direct children.', never_nil=True
        ),
        Attribute('free_addresses', 'number', f'({_TOTAL} - p.used_addresses)', 'Addresses not used.', never_nil=True),
        Attribute('avps', 'avps', 'p.avps', _AVPS, True),
        Attribute('expires', 'expires', 'p.expires', 'When the prefix expires; unset: never.', True),
        _version('p.version'),
    ],
    nil_is_text=True,
)

# An edit may repeat a stored VLAN outside 0 to 4095. SQL refuses a new one.
EDITED: Table = {**PREFIX, 'vlan': replace(PREFIX['vlan'], low=-(2**31), high=2**31 - 1)}

ASN: Table = _table(
    [
        Attribute('asn', 'asn', 'a.asn', 'AS number, 1 to 4294967295 (RFC 6793).', low=1, high=MAX_ASN, never_nil=True),
        Attribute('name', 'text', 'a.name', 'Name. Blanks around it are dropped.', True, normal=_trimmed),
        _version('a.version'),
    ],
    nil_is_text=True,
    examples={'name': 'Example AS'},
)

TAG: Table = _table([Attribute('name', 'text', 'g.name', 'A tag in use.', never_nil=True)], examples={'name': 'core'})

AUDIT_KINDS = ('vrf', 'pool', 'prefix', 'asn', 'webhook')
AUDIT_ACTIONS = ('add', 'edit', 'remove', 'resend')
_FACTS = 'coalesce(a.after, a.before)'
# The author of a change, in the terms of the audit log and of change sets.
_AUTHOR = {
    'username': 'The user for whom the change was made.',
    'authenticated_as': 'The account that logged in.',
    'full_name': 'Full name of the user, when known.',
    'authoritative_source': 'The system that the change came from.',
}
_CALL = {
    'method': 'Name of the call; unset: not recorded.',
    'request_id': 'Id of the request, as in the log of the daemon.',
    'reason': 'Reason, as given by the client.',
    'change_group': 'Name of the import or bulk action, as given by the client.',
}


def _author(alias: str) -> list[Attribute]:
    return [
        Attribute(name, 'text', f'{alias}.{name}', doc, never_nil=name != 'full_name') for name, doc in _AUTHOR.items()
    ]


def _call() -> list[Attribute]:
    return [Attribute(name, 'text', f's.{name}', doc) for name, doc in _CALL.items()]


_HISTORY_EXAMPLES = {
    **{'change_set': 4711, 'at': '2026-01-31T12:00:00Z', 'username': 'kim', 'authenticated_as': 'kim'},
    **{'full_name': 'Kim Larsson', 'method': 'edit_prefix', 'request_id': '0d3c9c1e', 'reason': 'Order 4711'},
    **{'change_group': 'import-2026-01', 'kind': 'prefix', 'object_id': 17, 'action': 'edit', 'name': '192.0.2.0/24'},
    **{'changed': ['description'], 'idempotency_key': 'order-4711'},
}
# One entry of the audit log: the change of one object. ``a`` is the entry, ``s`` its change set.
AUDIT: Table = _table(
    [
        Attribute('id', 'integer', 'a.id', 'Identity; a later change of an object has a larger one.', never_nil=True),
        Attribute('change_set', 'integer', 's.id', 'The change set: all changes of one call.', never_nil=True),
        Attribute('at', 'time', 'a.at', 'When the change was made.', never_nil=True),
        *_author('a'),
        *_call(),
        Attribute('kind', 'enum', 'a.object_type', 'Kind of the object.', choices=AUDIT_KINDS, never_nil=True),
        Attribute('object_id', 'integer', 'a.object_id', 'Id of the object; the AS number for asn.', never_nil=True),
        Attribute('action', 'enum', 'a.action', 'The change.', choices=AUDIT_ACTIONS, never_nil=True),
        Attribute(
            'name',
            'text',
            f"{_FACTS} ->> CASE a.object_type WHEN 'prefix' THEN 'prefix' WHEN 'webhook' THEN 'url' ELSE 'name' END",
            'Name of the object; the network of a prefix.',
        ),
        Attribute(
            'vrf_id',
            'integer',
            f"CASE a.object_type WHEN 'prefix' THEN ({_FACTS} ->> 'vrf_id')::int WHEN 'vrf' THEN a.object_id END",
            'The VRF of a prefix, or the VRF itself.',
        ),
        Attribute(
            'prefix',
            'network',
            f"(CASE a.object_type WHEN 'prefix' THEN {_FACTS} ->> 'prefix' END)::cidr",
            'The network of a prefix.',
        ),
        Attribute(
            'pool_id',
            'integer',
            f"CASE a.object_type WHEN 'prefix' THEN ({_FACTS} ->> 'pool_id')::int WHEN 'pool' THEN a.object_id END",
            'The pool of a prefix, or the pool itself.',
        ),
        Attribute('changed', 'names', 'changed_names(a.before, a.after)', 'Names of the attributes that differ.'),
    ],
    examples=_HISTORY_EXAMPLES,
)
# All changes of one call. ``s`` is the change set.
CHANGE_SET: Table = _table(
    [
        Attribute('id', 'integer', 's.id', 'Identity.', never_nil=True),
        Attribute('at', 'time', 's.at', 'When the changes were made.', never_nil=True),
        *_author('s'),
        *_call(),
        Attribute('idempotency_key', 'text', 's.idempotency_key', 'Idempotency key of the call.'),
    ],
    examples=_HISTORY_EXAMPLES,
)

# The old search grammar accepted only these names for the attributes, so scripts may still send them.
MISSPELT = {
    'authoratative_source': 'authoritative_source',
    'authorative_source': 'authoritative_source',
    'cutomer_id': 'customer_id',
    'free_addreses': 'free_addresses',
    'free_addreses_v4': 'free_addresses_v4',
    'free_addreses_v6': 'free_addresses_v6',
    'ipv4_default_prefix_lenght': 'ipv4_default_prefix_length',
    'ipv6_default_prefix_lenght': 'ipv6_default_prefix_length',
    'prefix_lenght': 'prefix_length',
    'total_addreses': 'total_addresses',
    'total_addreses_v4': 'total_addresses_v4',
    'total_addreses_v6': 'total_addresses_v6',
    'used_addreses': 'used_addresses',
    'used_addreses_v4': 'used_addresses_v4',
    'used_addreses_v6': 'used_addresses_v6',
}


# ---------------------------------------------------------------- reading values


def check_text(value: str) -> str:
    """Return a text unless it has a character that XML 1.0 cannot carry: a stored one would make answers unreadable.

    :raises NipapValueError: naming the character.
    """
    bad = forbidden_character(value)
    if bad is not None:
        raise NipapValueError(f'Invalid character U+{ord(bad):04X} in {value[:60]!r}, it cannot be sent in XML')
    return value


def normal_text(value: str) -> str:
    """Return a text in Unicode's normal form C, in which all texts are stored and searched for.

    :raises NipapValueError: the text has a character that XML 1.0 cannot carry.
    """
    check_text(value)
    return value if value.isascii() else unicodedata.normalize('NFC', value)


def read_text(value: object) -> str:
    """Return a string in normal form, or an integer as text.

    :raises NipapValueError: for any other value. A fraction is refused because its digits may not be the written ones.
    """
    if isinstance(value, str):
        return normal_text(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    what = 'must be a string: a number may lose digits' if isinstance(value, float) else 'must be a string'
    raise NipapValueError(f'Invalid value {shown(value)}, {what}')


def comparable_text(attribute: Attribute, value: object) -> str:
    """Return a text in the form in which the values of an attribute are stored, to compare it with them.

    :raises NipapValueError: the value is no text, or has a character that XML 1.0 cannot carry.
    """
    text = read_text(value)
    return attribute.normal(text) if attribute.normal else text


def _storable_text(attribute: Attribute, value: object) -> str:
    text = comparable_text(attribute, value)
    _check_length(attribute, text)
    if attribute.refuse is not None:
        attribute.refuse(text)
    return text


def _check_length(attribute: Attribute, text: str) -> None:
    if attribute.longest is not None and len(text) > attribute.longest:
        raise NipapValueError(
            f'Invalid value of {len(text)} characters ({text[:60]}…), at most {attribute.longest} are accepted'
        )


def read_integer(value: object) -> int:
    """Parse an integer, also as text of up to 60 digits.

    :raises NipapValueError: naming the value.
    """
    if isinstance(value, bool):
        value = shown(value)
    if isinstance(value, int):
        return value
    text = value.strip() if isinstance(value, str) else ''
    digits = text.removeprefix('-')
    if digits.isascii() and digits.isdigit() and len(digits) <= 60:
        return int(text)
    raise NipapValueError(f'Invalid syntax for integer ({value if isinstance(value, str) else shown(value)})')


def read_from(name: str, value: object, least: int, most: int | None = None) -> int:
    """Parse an integer of a range, also as text. Without `most`, the range ends at 2^63 - 1.

    :raises NipapValueError: naming the value and the accepted ones; it is about `name`.
    """
    try:
        number = read_integer(value)
    except NipapValueError:
        number = least - 1
    if not least <= number <= (LARGEST_NUMBER if most is None else most):
        accepted = f'an integer above {least - 1}' if most is None else f'{least} to {most}'
        raise NipapValueError(f'Invalid value {shown(value)} for {name}, must be {accepted}').about(name)
    return number


_ASN = re.compile(r'(?:as[n ]?)?\s*(?:([0-9]{1,10})|([0-9]{1,5})\.([0-9]{1,5}))', re.IGNORECASE | re.ASCII)


def read_asn(value: object) -> int:
    """Parse an AS number: an integer, also as text, ``AS64500`` or asdot (``1.10``, RFC 5396).

    The range of an integer is not checked.

    :raises NipapValueError: the value has none of these forms, or a part of asdot is above 65535.
    """
    found = _ASN.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        return read_integer(value)
    if found[1] is not None:
        return int(found[1])
    high, low = int(found[2]), int(found[3])
    if high > 0xFFFF or low > 0xFFFF:
        raise NipapValueError(f'Invalid value {shown(value)}, the parts of asdot must be 0 to 65535')
    return high << 16 | low


def read_boolean(value: object) -> bool:
    """Parse a boolean, also as text (true, yes, false, no, …) or as 0 and 1."""
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower() if isinstance(value, str | int) else ''
    if word in TRUE or word in FALSE:
        return word in TRUE
    raise NipapValueError(f'Invalid value {shown(value)}, must be true or false')


def read_tags(value: object) -> list[str]:
    """Parse a list of strings; nil is the empty list."""
    if value is None:
        return []
    if not isinstance(value, list | tuple) or not all(isinstance(tag, str) for tag in value):
        raise NipapValueError(f'Invalid value {shown(value)} for tags, must be a list of strings')
    return [normal_text(tag) for tag in value]


def read_avps(value: object) -> dict[str, str]:
    """Parse a struct of strings; nil is the empty struct."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise NipapValueError(f'Invalid value {shown(value)} for avps, must be a struct of strings')
    for name, text in value.items():
        if name == '':
            raise NipapValueError('AVP with empty name is not allowed')
        if not isinstance(text, str):
            raise NipapValueError(f'Invalid value {shown(text)} for AVP {name!r}, must be a string')
    normal = {normal_text(name): normal_text(text) for name, text in value.items()}
    if len(normal) < len(value):
        raise NipapValueError('Two AVPs with the same name, in different Unicode forms, are not allowed')
    return normal


def shown(value: object) -> str:
    """Return a value for an error message, in the client's terms and cut after 100 characters."""
    if value is None:
        text = 'nil'
    elif isinstance(value, bool):
        text = 'true' if value else 'false'
    elif isinstance(value, Mapping):
        text = 'a struct'
    elif isinstance(value, list | tuple):
        text = 'an array'
    else:
        text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 100 else text[:100] + '…'


def read_value(attribute: Attribute, value: object) -> Any:
    """Parse a value that is to be stored in an attribute or compared with it.

    nil is an empty list of tags, an empty struct of AVPs, and `NEVER` for a date. For other kinds it is None.

    :raises NipapValueError: naming the value and the accepted ones.
    """
    try:
        return _read_value(attribute, value)
    except NipapValueError as exc:
        exc.attribute = attribute.name
        raise


def _read_value(attribute: Attribute, value: object) -> Any:
    if attribute.kind in _DATES:
        return _read_date(attribute, value)
    if attribute.kind in _READ_NIL:
        result = _READERS[attribute.kind](value)
        if attribute.kind == 'tags':
            for tag in result:
                _check_length(attribute, tag)
        return result
    if value is None:
        return None
    if attribute.kind == 'enum':
        if value not in attribute.choices:
            accepted = ', '.join(attribute.choices)
            raise NipapValueError(f'Invalid value {shown(value)} for {attribute.name}, must be one of: {accepted}')
        return value
    try:
        if attribute.kind == 'text':
            return _storable_text(attribute, value)
        result = _READERS[attribute.kind](value)
    except NipapValueError as exc:
        if attribute.error:
            raise NipapValueError(attribute.error) from None
        if attribute.kind == 'text':
            raise NipapValueError(f'{exc} for {attribute.name}') from None
        raise
    if (attribute.low is not None and result < attribute.low) or (
        attribute.high is not None and result > attribute.high
    ):
        raise NipapValueError(
            attribute.error
            or f'Invalid value {shown(value)} for {attribute.name}, '
            f'must be between {attribute.low} and {attribute.high}'
        )
    return result


def _read_date(attribute: Attribute, value: object) -> datetime:
    try:
        return read_moment(value)
    except NipapValueError as exc:
        raise NipapValueError(f'{exc} for {attribute.name}') from None


_DATES = frozenset({'time', 'expires'})
_READ_NIL = frozenset({'tags', 'avps'})
_READERS: dict[str, Callable[[object], Any]] = {
    'asn': read_asn,
    'rt': lambda value: parse_route_target(value)[0],
    'integer': read_integer,
    'number': read_integer,
    'boolean': read_boolean,
    'network': lambda value: parse_network(value).text,
    'tags': read_tags,
    'avps': read_avps,
}


def check_names(attr: object, table: Table, *, required: Iterable[str] = (), extra: Iterable[str] = ()) -> None:
    """Refuse an ``attr`` that is no struct, lacks a required member or has a member that cannot be set.

    A bad value is refused before a missing member.

    :raises NipapInputError, NipapMissingInputError, NipapExtraneousInputError, NipapValueError:
    """
    if not isinstance(attr, Mapping):
        raise NipapInputError('invalid input type, must be dict')
    for name in attr:
        if name not in extra and (name not in table or not table[name].writable):
            raise NipapExtraneousInputError(f'extraneous attribute {name}').about(name)
    missing = next((name for name in required if name not in attr), None)
    if missing is not None:
        for name, value in attr.items():
            if value is not None:
                read_value(table[name], value)
        raise NipapMissingInputError(f'missing attribute {missing}').about(missing)


_SECONDS = re.compile('[0-9]{1,4}(?:[.][0-9]{1,9})?')


def read_seconds(seconds: object) -> float:
    """Parse a duration of 0 to 3600 seconds, a number or text.

    :raises NipapValueError: naming the value.
    """
    number = -1.0
    if isinstance(seconds, str):
        number = float(seconds) if _SECONDS.fullmatch(seconds.strip()) else number
    elif isinstance(seconds, int | float) and not isinstance(seconds, bool):
        number = float(seconds)
    if not 0 <= number <= 3600:
        raise NipapValueError(f'Invalid value {shown(seconds)} for sleep, must be 0 to 3600 seconds')
    return number


def given(spec: object, noun: str) -> object:
    """Return the spec of a change, which is required.

    :raises NipapInputError: the spec is nil.
    """
    if spec is None:
        raise NipapInputError(f'{noun} specification must be a dict')
    return spec


def named(spec: object, keys: Collection[str], noun: str, too_many: str) -> tuple[str, Any] | None:
    """Return the key and the value of a spec that selects by a single key; None for nil and ``{}``.

    :raises NipapInputError: the spec is no struct. NipapExtraneousInputError: it has an unknown key, or several keys.
    """
    if spec is None:
        return None
    if not isinstance(spec, Mapping):
        raise NipapInputError(f'{noun} specification must be a dict')
    for key in spec:
        if key not in keys:
            raise NipapExtraneousInputError(f'extraneous specification key {key}')
    if len(spec) > 1:
        raise NipapExtraneousInputError(too_many)
    return next(iter(spec.items()), None)
