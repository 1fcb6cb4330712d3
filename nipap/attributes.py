"""What objects are made of: one table of attributes an object, and the reading of values.

Each fact about an attribute is stated here once: its kind, the SQL that reads it, whether clients may set it, what
it means. Validation, the query compiler and smart search all work from these tables. In SQL expressions ``v`` is the
VRF, ``o`` the pool, ``p`` the prefix, ``a`` the AS number of the row (see `nipap.search.query`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from typing import Any

import parsedatetime

from nipap.addresses import parse_network, parse_route_target
from nipap.errors import (
    NipapExtraneousInputError,
    NipapInputError,
    NipapMissingInputError,
    NipapValueError,
)
from nipap.text import forbidden_character

PREFIX_TYPES = ('reservation', 'assignment', 'host')
STATUSES = ('assigned', 'reserved', 'quarantine')
ALARM_PRIORITIES = ('warning', 'low', 'medium', 'high', 'critical')
MAX_ASN = 4294967295

TRUE = frozenset({'true', 't', 'yes', 'y', 'on', '1'})
FALSE = frozenset({'false', 'f', 'no', 'n', 'off', '0'})


@dataclass(frozen=True)
class Attribute:
    """One attribute of an object.

    kind: text, integer, number (may pass 2^63), boolean, network, time, expires, enum, tags, avps, networks or rt.
    sql: the expression that reads it. writable: clients may set it. choices: what an enum accepts.
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


Table = Mapping[str, Attribute]


def _table(attributes: Iterable[Attribute]) -> dict[str, Attribute]:
    return {attribute.name: attribute for attribute in attributes}


def _families(name: str, sql: str, doc: str, kind: str = 'number') -> list[Attribute]:
    """The IPv4 and the IPv6 version of a figure."""
    return [
        Attribute(f'{name}_v{family}', kind, sql.format(f=family), f'{doc}, IPv{family}.', writable=False)
        for family in (4, 6)
    ]


_TAGS = 'Tags, order and duplicates kept.'
_AVPS = 'Attribute-value pairs, string to string.'

VRF: Table = _table(
    [
        Attribute('id', 'integer', 'v.id', 'Identity; 0 is the default VRF.'),
        Attribute('rt', 'rt', 'v.rt', 'Route target, ASN:n or a.b.c.d:n (RFC 4364); VRF 0 has none.', True),
        Attribute('name', 'text', 'v.name', 'Name, unique without regard to case.', True),
        Attribute('description', 'text', 'v.description', 'Free text.', True),
        *_families('num_prefixes', 't.num_prefixes_v{f}', 'Number of prefixes'),
        *_families('total_addresses', 't.total_addresses_v{f}', 'Addresses of prefixes without parent'),
        *_families('used_addresses', 't.used_addresses_v{f}', 'Used addresses of prefixes without parent'),
        *_families('free_addresses', '(t.total_addresses_v{f} - t.used_addresses_v{f})', 'Free addresses of those'),
        Attribute('tags', 'tags', 'v.tags', _TAGS, True),
        Attribute('avps', 'avps', 'v.avps', _AVPS, True),
    ]
)

POOL: Table = _table(
    [
        Attribute('id', 'integer', 'o.id', 'Identity.'),
        Attribute('name', 'text', 'o.name', 'Name, unique without regard to case.', True),
        Attribute('description', 'text', 'o.description', 'Free text.', True),
        Attribute('default_type', 'enum', 'o.default_type', 'Type of what is allocated.', True, PREFIX_TYPES),
        *(
            Attribute(
                f'ipv{family}_default_prefix_length',
                'integer',
                f'o.ipv{family}_default_prefix_length',
                f'Length of IPv{family} allocations that name none, 1 to {bits}.',
                True,
                low=1,
                high=bits,
                error=f'Default IPv{family} prefix length must be an integer between 1 and {bits}.',
            )
            for family, bits in ((4, 32), (6, 128))
        ),
        *_families('member_prefixes', 'm.member_prefixes_v{f}', 'Number of members'),
        *_families('used_prefixes', 'm.used_prefixes_v{f}', 'Number of direct children of members'),
        *_families('free_prefixes', 'm.free_prefixes_v{f}', 'Free blocks of the default length in members'),
        *_families('total_prefixes', '(m.used_prefixes_v{f} + m.free_prefixes_v{f})', 'Used and free prefixes'),
        *_families('total_addresses', 'm.total_addresses_v{f}', 'Addresses of members'),
        *_families('used_addresses', 'm.used_addresses_v{f}', 'Used addresses of members'),
        *_families('free_addresses', '(m.total_addresses_v{f} - m.used_addresses_v{f})', 'Free addresses of members'),
        Attribute('tags', 'tags', 'o.tags', _TAGS, True),
        Attribute('avps', 'avps', 'o.avps', _AVPS, True),
        Attribute('vrf_id', 'integer', 'v.id', 'The VRF that all members live in.'),
        Attribute('vrf_rt', 'rt', 'v.rt', 'Route target of that VRF.'),
        Attribute('vrf_name', 'text', 'v.name', 'Name of that VRF.'),
        Attribute('prefixes', 'networks', 'm.prefixes', 'The members, in order.'),
    ]
)

_TOTAL = 'prefix_size(p.prefix)'
PREFIX: Table = _table(
    [
        Attribute('id', 'integer', 'p.id', 'Identity.'),
        Attribute('vrf_id', 'integer', 'p.vrf_id', 'The VRF it lives in; VRF 0 when none is named.', True),
        Attribute('vrf_rt', 'rt', 'v.rt', 'Route target of its VRF.', True),
        Attribute('vrf_name', 'text', 'v.name', 'Name of its VRF.', True),
        Attribute('family', 'integer', 'family(p.prefix)', 'Address family, 4 or 6.'),
        Attribute('prefix', 'network', 'p.prefix', 'The network; unique in its VRF.', True),
        Attribute('prefix_length', 'integer', 'masklen(p.prefix)', 'Prefix length.'),
        Attribute(
            'display_prefix',
            'text',
            "CASE WHEN p.type = 'host' THEN host(p.prefix) || '/' || "
            '(SELECT masklen(q.prefix) FROM prefix q WHERE q.id = p.parent_id) ELSE p.prefix::text END',
            'A host with the length of the assignment around it; else the prefix.',
        ),
        Attribute('description', 'text', 'p.description', 'Free text.', True),
        Attribute('comment', 'text', 'p.comment', 'Free text.', True),
        Attribute('inherited_tags', 'tags', 'inherited', 'Tags of all ancestors, each once.'),
        Attribute('tags', 'tags', 'p.tags', _TAGS, True),
        Attribute('node', 'text', 'p.node', 'Name of the node; hosts and full-length assignments only.', True),
        Attribute('pool_id', 'integer', 'p.pool_id', 'The pool of which it is a member.', True),
        Attribute('pool_name', 'text', 'o.name', 'Name of that pool.', True),
        Attribute('type', 'enum', 'p.type', 'reservation, assignment or host.', True, PREFIX_TYPES),
        Attribute('status', 'enum', 'p.status', 'assigned, reserved or quarantine.', True, STATUSES),
        Attribute(
            'indent',
            'integer',
            '(SELECT count(*) FROM prefix q WHERE q.vrf_id = p.vrf_id AND q.prefix = ANY (supernets(p.prefix)))',
            'Number of ancestors.',
        ),
        Attribute('country', 'text', 'p.country', 'Country code, ISO 3166-1 alpha-2.', True),
        Attribute('order_id', 'text', 'p.order_id', 'Order identifier.', True),
        Attribute('customer_id', 'text', 'p.customer_id', 'Customer identifier.', True),
        Attribute('external_key', 'text', 'p.external_key', 'Key in some other system.', True),
        Attribute('authoritative_source', 'text', 'p.authoritative_source', 'The system it comes from.', True),
        Attribute('alarm_priority', 'enum', 'p.alarm_priority', 'Alarm priority.', True, ALARM_PRIORITIES),
        Attribute('monitor', 'boolean', 'p.monitor', 'Whether to monitor it.', True),
        Attribute('vlan', 'integer', 'p.vlan', 'VLAN identifier, 0 to 4095.', True, low=0, high=4095),
        Attribute('added', 'time', 'p.added', 'When it was added.'),
        Attribute('last_modified', 'time', 'p.last_modified', 'When it was last edited.'),
        Attribute('children', 'integer', 'p.children', 'Number of direct children.'),
        Attribute('total_addresses', 'number', _TOTAL, 'Number of addresses.'),
        Attribute('used_addresses', 'number', 'p.used_addresses', 'Sum of the sizes of direct children.'),
        Attribute('free_addresses', 'number', f'({_TOTAL} - p.used_addresses)', 'Addresses not used.'),
        Attribute('avps', 'avps', 'p.avps', _AVPS, True),
        Attribute('expires', 'expires', 'p.expires', 'When it expires; nil: never.', True),
    ]
)

ASN: Table = _table(
    [
        Attribute('asn', 'integer', 'a.asn', 'AS number, 1 to 4294967295 (RFC 6793).', low=1, high=MAX_ASN),
        Attribute('name', 'text', 'a.name', 'Name.', True),
    ]
)

TAG: Table = _table([Attribute('name', 'text', 'g.name', 'A tag in use.')])


# ---------------------------------------------------------------- reading values


def check_text(value: str) -> str:
    """Refuse characters that XML 1.0 cannot carry: no stored value may make an answer unreadable.

    :raises NipapValueError: naming the character.
    """
    bad = forbidden_character(value)
    if bad is not None:
        raise NipapValueError(f'Invalid character U+{ord(bad):04X} in {value[:60]!r}, it cannot be sent in XML')
    return value


def read_text(value: object) -> str:
    """A string; numbers are taken as written."""
    if isinstance(value, str):
        return check_text(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise NipapValueError(f'Invalid value {shown(value)}, must be a string')


def read_integer(value: object) -> int:
    """An integer, also as text.

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


def read_boolean(value: object) -> bool:
    """A boolean, also as text (true, yes, false, no, …) or 0 and 1."""
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower() if isinstance(value, str | int) else ''
    if word in TRUE or word in FALSE:
        return word in TRUE
    raise NipapValueError(f'Invalid value {shown(value)}, must be true or false')


def read_tags(value: object) -> list[str]:
    """A list of strings; nil means none."""
    if value is None:
        return []
    if not isinstance(value, list | tuple) or not all(isinstance(tag, str) for tag in value):
        raise NipapValueError(f'Invalid value {shown(value)} for tags, must be a list of strings')
    return [check_text(tag) for tag in value]


def read_avps(value: object) -> dict[str, str]:
    """A struct of strings; nil means none."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise NipapValueError(f'Invalid value {shown(value)} for avps, must be a struct of strings')
    for name, text in value.items():
        if name == '':
            raise NipapValueError('AVP with empty name is not allowed')
        if not isinstance(text, str):
            raise NipapValueError(f'Invalid value {shown(text)} for AVP {name!r}, must be a string')
        check_text(name)
        check_text(text)
    return dict(value)


NEVER = datetime.max.replace(tzinfo=UTC)  # stands for infinity; PostgreSQL's own is later than any date
_NEVER_WORDS = frozenset({'never', 'infinity'})


@cache
def _calendar() -> parsedatetime.Calendar:
    return parsedatetime.Calendar(version=parsedatetime.VERSION_CONTEXT_STYLE)


def read_moment(value: object) -> datetime:
    """A moment, UTC; NEVER for nil, ``never`` and ``infinity``.

    Text is ISO 8601 (without zone: UTC) or English as the parsedatetime library reads it, relative to now.

    :raises NipapValueError: when it cannot be read.
    """
    if value is None:
        return NEVER
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in _NEVER_WORDS:
            return NEVER
        value = _read_iso(text) or _read_english(text)
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else _to_utc(value)
    raise NipapValueError('Invalid date specification')


def _to_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise NipapValueError('Invalid date specification') from None


def _read_iso(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        pass
    try:
        return datetime.combine(datetime.now(UTC).date(), time.fromisoformat(text))
    except ValueError:
        return None


_DAY = re.compile(r'[+-]?([0-9]{4,})-([0-9]{1,2})-([0-9]{1,2})(?![0-9])')


def _names_no_day(text: str) -> bool:
    """Whether text begins like year, month and day, but there is no such day: English would make another of it."""
    found = _DAY.match(text)
    if found is None:
        return False
    try:
        date(*map(int, found.groups()))
    except (ValueError, OverflowError):
        return True
    return False


# Words by which the library cuts a text in two, to read both: each may double what it does.
_MODIFIERS = re.compile('from|before|after|ago|prior|prev|last|next|end of|this|eod|eom|eoy', re.IGNORECASE)
_MOST_MODIFIERS = 4


def _read_english(text: str) -> datetime | None:
    if len(text) > 100 or len(_MODIFIERS.findall(text)) > _MOST_MODIFIERS or _names_no_day(text):
        return None
    now = datetime.now(UTC).replace(tzinfo=None, microsecond=0)
    try:
        moment, context = _calendar().parseDT(text, sourceTime=now)
    except (ValueError, OverflowError, TypeError, AttributeError, IndexError, KeyError):
        return None  # the library trips over some odd inputs
    return moment if context.hasDateOrTime and isinstance(moment, datetime) else None


def shown(value: object) -> str:
    """A value of the client's for an error message: as they know it, cut when long."""
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
    """Read a value that is to be stored in an attribute or compared with it; nil stays nil where that means something.

    :raises NipapValueError: naming the value and what would be accepted.
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
        return _READERS[attribute.kind](value)
    if value is None:
        return None
    if attribute.kind == 'enum':
        if value not in attribute.choices:
            accepted = ', '.join(attribute.choices)
            raise NipapValueError(f'Invalid value {shown(value)} for {attribute.name}, must be one of: {accepted}')
        return value
    try:
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
    'text': read_text,
    'rt': lambda value: parse_route_target(value)[0],
    'integer': read_integer,
    'number': read_integer,
    'boolean': read_boolean,
    'network': lambda value: parse_network(value).text,
    'tags': read_tags,
    'avps': read_avps,
}


def check_names(attr: object, table: Table, *, required: Iterable[str] = (), extra: Iterable[str] = ()) -> None:
    """Refuse an ``attr`` that is no struct, lacks a required member or has one that cannot be set.

    :raises NipapInputError, NipapMissingInputError, NipapExtraneousInputError:
    """
    if not isinstance(attr, Mapping):
        raise NipapInputError('invalid input type, must be dict')
    for name in attr:
        if name not in extra and (name not in table or not table[name].writable):
            raise NipapExtraneousInputError(f'extraneous attribute {name}').about(name)
    for name in required:
        if name not in attr:
            raise NipapMissingInputError(f'missing attribute {name}').about(name)


def parse_delta(seconds: object) -> timedelta:
    """A duration in seconds, zero or more."""
    try:
        number = float(seconds) if isinstance(seconds, str | int | float) else -1.0
    except ValueError:
        number = -1.0
    if not 0 <= number <= 3600:
        raise NipapValueError(f'Invalid value {shown(seconds)} for sleep, must be 0 to 3600 seconds')
    return timedelta(seconds=number)


def named(spec: object, keys: Collection[str], noun: str, too_many: str) -> tuple[str, Any] | None:
    """The one key and value of a spec that selects by a single key; None for nil and ``{}``.

    :raises NipapInputError, NipapExtraneousInputError: no struct, an unknown key, or more than one.
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
