"""Objects as JSON: the resources, the form of their members, and entity tags.

Counters (attributes of kind ``number``) are decimal strings whatever their size, because counters of IPv6 exceed the
numbers that clients read exactly. Timestamps are RFC 3339 in UTC.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson

from nipap.attributes import ASN, AUDIT, CHANGE_SET, POOL, PREFIX, TAG, VRF, Table, normal_text, read_integer, shown
from nipap.errors import NipapExtraneousInputError, NipapInputError, NipapValueError
from nipap.moments import read_moment
from nipap.runtime.packed import long_part

Object = dict[str, Any]


@dataclass(frozen=True)
class Resource:
    """A collection of the API: its name in paths, the kind of its objects in methods, their key and attributes.

    more: members of answers that are no attributes.
    """

    plural: str
    kind: str
    key: str
    table: Table
    more: Collection[str] = ()

    @property
    def schema(self) -> str:
        """The name of its schema in the description of the interface."""
        return self.kind.title().replace('_', '')

    @cached_property
    def counters(self) -> Collection[str]:
        """The attributes that are decimal strings."""
        return tuple(name for name, attribute in self.table.items() if attribute.kind == 'number')

    @cached_property
    def writable(self) -> Collection[str]:
        """The attributes that clients can set."""
        return frozenset(name for name, attribute in self.table.items() if attribute.writable)

    @property
    def fields(self) -> Collection[str]:
        """The members that an answer can have."""
        return (*self.table, 'match') if self.kind == 'prefix' else (*self.table, *self.more)


RESOURCES = (
    Resource('vrfs', 'vrf', 'id', VRF),
    Resource('pools', 'pool', 'id', POOL),
    Resource('prefixes', 'prefix', 'id', PREFIX),
    Resource('asns', 'asn', 'asn', ASN),
)
TAGS = Resource('tags', 'tag', 'name', TAG)
AUDIT_ENTRIES = Resource('audit', 'audit', 'id', AUDIT, ('before', 'after', 'changes', 'sentence'))
CHANGE_SETS = Resource('changes', 'change_set', 'id', CHANGE_SET, ('entries', 'more'))
PAST = (AUDIT_ENTRIES, CHANGE_SETS)

_BETWEEN = '-'  # between the two parts of an entity tag

COUNTERS = frozenset(name for resource in RESOURCES for name in resource.counters)


def encode(value: Any) -> bytes:
    """Return a result of `plain` as JSON.

    :raises NipapError: it nests too deeply.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_UTC_Z)
    except orjson.JSONEncodeError as exc:
        raise NipapValueError('The answer nests too deeply for JSON') from exc


def decode(body: bytes) -> Any:
    """Return the value of a body.

    :raises NipapInputError: the body is not JSON.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise NipapInputError(f'The body is not JSON: {exc}') from None


def settable(attr: Any, resource: Resource, *, new: bool = False) -> Any:
    """Return the attributes of a body. Refuse null, which XML-RPC ignores, for an attribute that always has a value.

    A prefix without a route target is in VRF 0. A client that sends back an answer sends its route target as null.

    :raises NipapValueError: an attribute that cannot be unset is null.
    """
    if not isinstance(attr, dict):
        return attr
    for name, value in attr.items():
        meant = new and name.startswith('vrf_')  # null stands for VRF 0
        if value is None and name in resource.writable and resource.table[name].never_nil and not meant:
            raise NipapValueError(f'Invalid value null for {name}, which cannot be unset').about(name)
    if not new and resource.kind == 'prefix' and attr.get('vrf_rt', '') is None and 'vrf_id' not in attr:
        return {**attr, 'vrf_id': 0}
    return attr


def sent_back(attr: Object, resource: Resource) -> bool:
    """Return whether a body has attributes of answers that clients cannot set."""
    return any(name not in resource.writable and name in resource.fields for name in attr)


def without_sent_back(attr: Object, item: Object, writable: Collection[str]) -> Object:
    """Return the attributes of a body without read-only ones, which must have the values of the answer.

    item: the answer. Members that it does not have are kept: they are unknown, or describe the match of a search.

    :raises NipapExtraneousInputError: naming each attribute with another value.
    """
    stored = decode(encode(item))
    names = [name for name in attr if name not in writable and name in stored]
    changed = [name for name in names if not _same(attr[name], stored[name])]
    if changed:
        told = ', '.join(f'{name} ({shown(attr[name])}, stored: {shown(stored[name])})' for name in changed)
        raise NipapExtraneousInputError(f'read-only attributes differ from the stored ones: {told}').about(changed[0])
    return {name: value for name, value in attr.items() if name not in names}


def _same(sent: Any, stored: Any) -> bool:
    """Return whether two values are the same, possibly as numbers or moments in different notations."""
    if sent == stored or sent is None or stored is None:
        return bool(sent == stored)
    for read in (read_integer, read_moment):
        with suppress(NipapValueError):
            return bool(read(sent) == read(stored))
    return False


def merged(attr: Object, item: Object) -> Object:
    """Return the attributes of a merge patch (RFC 7396) for an object as it is stored: pairs are merged one by one.

    :raises NipapValueError: a key that cannot be stored.
    """
    patch = attr.get('avps')
    if not isinstance(patch, dict):
        return attr
    pairs = dict(item['avps'])
    for name, value in patch.items():
        name = normal_text(name)
        if value is None:
            pairs.pop(name, None)
        else:
            pairs[name] = value
    return {**attr, 'avps': pairs}


def marked(attr: Any) -> Any:
    """Mark a merge patch, so that for an idempotency key it differs from a body that sets all pairs."""
    return {**attr, 'avps': {'$merge': attr['avps']}} if isinstance(attr, dict) and 'avps' in attr else attr


def refuse_unknown(attr: Object, accepted: Collection[str]) -> None:
    """Refuse unknown attributes, all at once.

    :raises NipapExtraneousInputError: naming them.
    """
    unknown = [name for name in attr if name not in accepted]
    if unknown:
        words = 'attribute' if len(unknown) == 1 else 'attributes'
        raise NipapExtraneousInputError(f'extraneous {words} {", ".join(map(_name, unknown))}').about(unknown[0])


def _name(name: str) -> str:
    return name if len(name) <= 100 else name[:100] + '…'


def tag_of(item: Object, resource: Resource) -> str:
    """Return the entity tag of an object, which changes with anything that is shown of the object.

    Its first part depends on the attributes that clients can set: see `edition`.
    """
    values = alone(item)
    facts = {name: value for name, value in values.items() if name in resource.writable}
    derived = {name: value for name, value in values.items() if name not in facts}
    return f'{_digest_of(facts)}{_BETWEEN}{_digest_of(derived)}'


def edition(tag: str) -> str:
    """Return the part of an entity tag for the settable attributes: an edit need not depend on counters."""
    return tag.partition(_BETWEEN)[0]


def _digest_of(item: Object) -> str:
    return digest(orjson.dumps(item, option=orjson.OPT_SORT_KEYS | orjson.OPT_UTC_Z))


def digest(content: bytes) -> str:
    """Return the entity tag of content."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def alone(item: Object) -> Object:
    """Return an object in its form outside searches."""
    plain_one(item)
    item.pop('match', None)
    return item


def plain_one(item: Object) -> None:
    """Convert an object to JSON values, in place."""
    plain_many((item,), [name for name in COUNTERS if name in item])


def plain_many(items: Iterable[Object], counters: Collection[str]) -> None:
    """Convert objects with these counters to JSON values, in place."""
    for item in items:
        item.pop('display', None)
        for name in counters:
            value = item[name]
            if value is not None:
                item[name] = str(value)


def plain(value: Any) -> Any:
    """Return the answer of any call as JSON values. Objects are changed in place."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        item = dict(value)
        plain_one(item)
        if isinstance(item.get('result'), list):
            item['result'] = plain(item['result'])
        return item
    return value


def parts_of(answer: Any) -> Iterator[bytes]:
    """Yield the answer of any call as JSON, a long answer in parts. Objects are changed in place."""
    part = long_part(answer)
    if part is None:
        yield encode(plain(answer))
    elif isinstance(answer, Mapping):
        others = {name: item for name, item in answer.items() if name != 'result'}
        yield encode(plain(others))[:-1] + (b',"result":' if others else b'"result":')
        yield from parts_of(part)
        yield b'}'
    else:
        before = b'['
        for some in part:
            yield before
            if len(some) == 1:
                yield from parts_of(some[0])
            else:
                yield encode(plain(some))[1:-1]
            before = b','
        yield b']' if before == b',' else b'[]'


def read_fields(text: str | None, resource: Resource) -> list[str] | None:
    """Return the members to which an answer is cut; None to keep all.

    :raises NipapInputError: naming the first unknown member.
    """
    if not text:
        return None
    names = [name.strip() for name in text.split(',')]
    for name in names:
        if name not in resource.fields:
            raise NipapInputError(f'Unknown member {shown(name)} in fields, known: {known(resource)}').about(name)
    return names


def known(resource: Resource) -> str:
    """Return the names of the members, for error texts."""
    return ', '.join(resource.fields)


def cut(items: list[Object], fields: list[str] | None) -> list[Object]:
    """Return the objects with only these members."""
    if fields is None:
        return items
    return [{name: item[name] for name in fields if name in item} for item in items]
