"""The schemas of the REST interface's description: objects and arguments, from the tables of attributes.

Schemas state the rules for accepted values as far as JSON Schema can. Rules that depend on stored data are missing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from nipap.access.sign_ins import INTERFACES, OUTCOMES
from nipap.attributes import PREFIX, Attribute
from nipap.batch import MAX_OPERATIONS
from nipap.calls import CALLS
from nipap.history.events import KINDS as EVENT_KINDS
from nipap.history.webhook import LONGEST_SECRET, LONGEST_URL, MOST_IN_A_FILTER, SHORTEST_SECRET
from nipap.rest.objects import CHANGE_SETS, PAST, RESOURCES, TAGS, Resource
from nipap.search.query import COMPARISONS

Schema = dict[str, Any]

INTEGER: Schema = {'type': 'integer'}
TEXT: Schema = {'type': 'string'}
# Text without control characters and invisible blanks and hyphens. Letters beyond ASCII are sent as UTF-8.
PRINTABLE: Schema = {
    'type': 'string',
    'pattern': r'^[^\u0000-\u001f\u007f-\u00a0\u00ad\u2000-\u200f\u2028-\u202f\u2060-\u206f\ufeff]*$',
}
# Text that XML 1.0 can carry, because XML-RPC must carry it.
STORED: Schema = {'type': 'string', 'pattern': r'^[^\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]*$'}
NOT_BLANK = '^{0}*{1}{0}*$'.format(STORED['pattern'][1:-2], STORED['pattern'][1:-3] + r'\s]')
VALUE_BEFORE_OR_AFTER = r'^(before|after)\.[^\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]+$'
AVP = r'^avps\.[^\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]+$'
ID: Schema = {'type': 'integer', 'minimum': 0, 'maximum': 2**63 - 1}
# The URL of a receiver: no password, a host, no blanks.
URL = r'^https?://([A-Za-z0-9_.-]+|\[[0-9a-f:]+\])(:[1-9][0-9]{0,3})?([/?#][!-~]*)?$'
# Formats of our own, where a pattern is not enough. Clients that do not know them read strings.
NETWORK: Schema = {'type': 'string', 'format': 'cidr'}  # an address, or a network without host bits
ROUTE_TARGET: Schema = {'type': 'string', 'format': 'route-target'}  # ASN:n or a.b.c.d:n, of 32 bits each
MOMENT: Schema = {'type': 'string', 'format': 'moment'}  # RFC 3339, or words
CURSOR: Schema = {'type': 'string', 'format': 'cursor'}  # nothing, or the `after` of an answer
KINDS: Mapping[str, Schema] = {
    'text': STORED,
    'rt': ROUTE_TARGET,
    'network': NETWORK,
    'integer': INTEGER,
    'asn': INTEGER,
    'number': {'type': 'string', 'pattern': '^[0-9]+$'},
    'boolean': {'type': 'boolean'},
    'time': {'type': 'string', 'format': 'date-time'},
    'expires': {'type': 'string', 'format': 'date-time'},
    'enum': TEXT,
    'tags': {'type': 'array', 'items': STORED},
    'networks': {'type': 'array', 'items': NETWORK},
    'names': {'type': 'array', 'items': STORED},
    'avps': {'type': 'object', 'propertyNames': {**STORED, 'minLength': 1}, 'additionalProperties': STORED},
}
_NEVER_NULL = frozenset({'id', 'asn', 'tags', 'avps', 'inherited_tags', 'prefixes', 'family'})
_REQUIRED = {
    'vrf': ['rt', 'name'],
    'pool': ['name', 'description', 'default_type'],
    'prefix': ['prefix', 'type'],
    'asn': ['asn'],
}


def schemas() -> dict[str, Schema]:
    """Return all named schemas."""
    found: dict[str, Schema] = {
        'Operation': {
            'type': 'object',
            'required': ['method'],
            'additionalProperties': False,
            'properties': {
                'method': {'type': 'string', 'enum': sorted(CALLS.keys() - {'batch'})},
                'args': {'type': 'object', 'description': 'The members of the call.'},
            },
        },
        'Problem': {
            'type': 'object',
            'description': 'RFC 9457.',
            'required': ['type', 'title', 'status', 'detail', 'code'],
            'properties': {
                'type': TEXT,
                'title': TEXT,
                'status': INTEGER,
                'detail': {'type': 'string', 'description': 'The fault, the value and the accepted values.'},
                'code': {'type': 'integer', 'description': 'The permanent number of the error.'},
                'attribute': {'type': 'string', 'description': 'The attribute or parameter of the error.'},
                'position': {'type': 'integer', 'description': 'The number of the failed operation, from 0.'},
                'interpretation': {
                    'type': 'object',
                    'description': 'The interpretation of the text `q`, with its errors.',
                },
                'differences': {
                    **listed(TEXT),
                    'description': 'The differences between a change and its plan (1610).',
                },
            },
        },
    }
    for resource in (*RESOURCES, TAGS, *PAST):
        name = resource.schema
        shown = {key: _shown(attribute) for key, attribute in resource.table.items()}
        more = {
            'match': {
                'type': 'boolean',
                'description': 'Whether the prefix matches; false: it was added around a match.',
            }
        }
        found[name] = {
            'type': 'object',
            'description': 'With the parameter `fields`, only the requested members.',
            'properties': shown | (more if resource.kind == 'prefix' else {}) | _of_past(resource),
        }
        found[f'{name}Query'] = _query(resource)
        found[f'{name}List'] = _list_of(name, smart=resource is not TAGS)
        if resource in RESOURCES:
            found[f'{name}Attr'] = _settable(resource)
            found[f'{name}New'] = _settable(resource, _REQUIRED[resource.kind])
            found[f'{name}Merge'] = _merge(found[f'{name}Attr'])
    attr = found['PrefixAttr']['properties']
    return found | {
        'PoolAllocation': _of_pool(attr),
        'PrefixAllocation': _of_prefix(attr),
        **webhooks(),
        'Undone': _undone(),
        'Removed': _removed(),
        'SignIn': _sign_in(),
        **plans(),
    }


def _of_past(resource: Resource) -> Schema:
    """Return the members of audit entries and change sets that are no attributes."""
    if resource is CHANGE_SETS:
        entries = {**listed(ref('schemas', 'Audit')), 'description': 'The first entries, in the order of the changes.'}
        return {'entries': entries, 'more': {'type': 'boolean', 'description': 'Whether there are further entries.'}}
    if resource not in PAST:
        return {}
    facts: Schema = {'type': ['object', 'null']}
    both = {'type': 'object', 'properties': {'before': {}, 'after': {}}}
    return {
        'before': {**facts, 'description': 'The stored attributes before the change; null for an addition.'},
        'after': {**facts, 'description': 'The stored attributes after the change; null for a removal.'},
        'changes': {
            'type': 'object',
            'description': 'The attributes that differ, with their values.',
            'additionalProperties': both,
        },
        'sentence': {'type': 'string', 'description': 'The change in words.'},
    }


_NO_NODE: Schema = {'if': {'not': {'required': ['node']}}, 'then': {'required': ['description']}}


def _of_pool(attr: Schema) -> Schema:
    """Return the schema of an allocation from a pool, of one family. The pool may provide length and type."""
    properties = {name: schema for name, schema in {**FREE, **attr}.items() if name != 'prefix'}
    ipv4 = {'properties': {'family': {'const': 4}}}
    short = {'properties': {'prefix_length': {'maximum': 32}}}
    return {
        'type': 'object',
        'additionalProperties': False,
        'required': ['family'],
        'properties': properties,
        'allOf': [_NO_NODE, {'if': ipv4, 'then': short}],
    }


def _of_prefix(attr: Schema) -> Schema:
    """Return the schema of an allocation from a prefix, which determines the family."""
    properties = {name: schema for name, schema in {**FREE, **attr}.items() if name not in ('prefix', 'family')}
    return {
        'type': 'object',
        'additionalProperties': False,
        'required': ['prefix_length', 'type'],
        'properties': {**properties, 'type': {**attr['type'], 'type': 'string', 'enum': list(PREFIX['type'].choices)}},
        **_NO_NODE,
    }


def _query(resource: Resource) -> Schema:
    own = ref('schemas', f'{resource.schema}Query')
    names: list[Schema] = [{'enum': sorted(resource.table)}]
    if resource.kind == 'audit':
        names.append({'type': 'string', 'pattern': VALUE_BEFORE_OR_AFTER})
    if 'avps' in resource.table:
        names.append({'type': 'string', 'pattern': AVP})
    members = ['operator', 'val1', 'val2']
    joined: Schema = {'required': members, 'properties': {'val1': own, 'val2': own}}
    compared: Schema = {
        'required': members,
        'properties': {'operator': {'enum': COMPARISONS}, 'val1': {'anyOf': names}},
    }
    # The schema has this form because generators of clients do not know unions of objects that hold each other.
    return {
        'description': 'A comparison of the attribute `val1` with the value `val2`, or `and` or `or` of two queries; '
        '`{}` matches everything. `avps.KEY` is the value of one pair.',
        'type': 'object',
        'additionalProperties': False,
        'properties': {'operator': TEXT, 'val1': {}, 'val2': {}},
        'if': {'required': ['operator'], 'properties': {'operator': {'enum': ['and', 'or']}}},
        'then': joined,
        'else': {'anyOf': [{'maxProperties': 0}, compared]},
    }


def _shown(attribute: Attribute) -> Schema:
    schema = dict(KINDS[attribute.kind])
    if attribute.choices:
        schema['enum'] = list(attribute.choices)
    if not attribute.never_nil and attribute.name not in _NEVER_NULL:
        schema['type'] = [schema['type'], 'null']
        if 'enum' in schema:
            schema['enum'] = [*schema['enum'], None]
    return {**schema, 'description': attribute.doc, 'examples': [attribute.example]}


def _settable(resource: Resource, required: Collection[str] = ()) -> Schema:
    """Return the schema of an object to send. Required attributes must not be null, except descriptions."""
    properties = {}
    for name, attribute in resource.table.items():
        if attribute.writable or name in required:
            schema = _shown(attribute)
            if name in required and name != 'description':
                schema |= {'type': KINDS[attribute.kind]['type']}
                schema |= {'enum': list(attribute.choices)} if attribute.choices else {}
            if attribute.kind in ('tags', 'avps'):
                schema |= {'type': [schema['type'], 'null']}
            if attribute.low is not None:
                schema |= {'minimum': attribute.low, 'maximum': attribute.high}
            if attribute.longest is not None and attribute.kind == 'text':
                schema['maxLength'] = attribute.longest
            if attribute.longest is not None and attribute.kind == 'tags':
                schema['items'] = {**STORED, 'maxLength': attribute.longest}
            if attribute.refuse is not None:
                schema['pattern'] = '^[A-Za-z]{2}$' if attribute.name == 'country' else NOT_BLANK
            if attribute.kind == 'expires':
                schema |= {'format': MOMENT['format']}
                schema['description'] += ' Also in words, such as `tomorrow`.'
            properties[name] = schema
    schema = {'type': 'object', 'additionalProperties': False, 'properties': properties}
    if required and resource.kind == 'prefix':
        schema |= _NO_NODE
    return schema | ({'required': list(required)} if required else {'minProperties': 1})


def _merge(attr: Schema) -> Schema:
    """Return the schema of a merge patch: a null pair is removed, and no member is required."""
    properties = dict(attr['properties'])
    if 'avps' in properties:
        pair = {**STORED, 'type': ['string', 'null']}
        properties['avps'] = {**properties['avps'], 'additionalProperties': pair}
    return {**{name: value for name, value in attr.items() if name != 'minProperties'}, 'properties': properties}


def merge_of(attr: Schema) -> Schema:
    """Return the reference to the merge patch of the attributes in a reference."""
    return {'$ref': attr['$ref'].removesuffix('Attr') + 'Merge'}


def _list_of(name: str, *, smart: bool) -> Schema:
    after = {'type': ['string', 'null'], 'description': 'The `after` of the next page; null on the last page.'}
    properties: Schema = {'result': {'type': 'array', 'items': ref('schemas', name)}, 'after': after}
    if smart:
        properties |= {
            'interpretation': {'type': 'object', 'description': 'The interpretation of the text `q`.'},
            'error': {'type': 'boolean', 'description': 'Whether the text was invalid; only with `lenient`.'},
            'error_message': TEXT,
        }
    return {'type': 'object', 'required': ['result', 'after'], 'properties': properties}


def ref(kind: str, name: str) -> Schema:
    return {'$ref': f'#/components/{kind}/{name}'}


FREE: Mapping[str, Schema] = {
    'prefix_length': {**INTEGER, 'minimum': 0, 'maximum': 128, 'description': 'The default is that of the pool.'},
    'family': {**INTEGER, 'enum': [4, 6], 'description': 'For pools only.'},
    'count': {
        **INTEGER,
        'minimum': 1,
        'maximum': 1000,
        'default': 1,
        'description': 'Number of blocks. An allocation adds all or none.',
    },
}


def listed(schema: Schema) -> Schema:
    return {'type': 'array', 'items': schema}


def webhooks() -> dict[str, Schema]:
    """Return the schemas of webhooks."""
    nothing = ['string', 'null']
    text: Schema = {**STORED, 'minLength': 1}
    filters: Schema = {
        'kinds': {**listed({'enum': list(EVENT_KINDS)}), 'maxItems': MOST_IN_A_FILTER},
        **{name: {**listed(ID), 'maxItems': MOST_IN_A_FILTER} for name in ('vrf_ids', 'pool_ids')},
        'tags': {**listed(text), 'maxItems': MOST_IN_A_FILTER},
    }
    own: Schema = {
        'url': {'type': 'string', 'pattern': URL, 'maxLength': LONGEST_URL},
        'description': {**text, 'type': nothing},
        'enabled': {'type': 'boolean'},
        **filters,
    }
    secret: Schema = {'type': 'string', 'minLength': SHORTEST_SECRET, 'maxLength': LONGEST_SECRET}
    counts = dict.fromkeys(('id', 'cursor', 'attempts', 'delivered', 'failed'), INTEGER)
    told = {name: {'type': nothing} for name in ('owner', 'added', 'failing_since', 'next_attempt', 'last_error')}
    attr: Schema = {'type': 'object', 'additionalProperties': False, 'properties': {**own, 'secret': secret}}
    again: Schema = {'ids': {'type': ['array', 'null'], 'items': ID}}
    return {
        'Webhook': {'type': 'object', 'properties': {**own, **counts, **told}},
        'WebhookAttr': attr,
        'WebhookNew': {**attr, 'required': ['url', 'secret']},
        'Resend': {'type': 'object', 'additionalProperties': False, 'properties': again},
    }


def _sign_in() -> Schema:
    nothing = ['string', 'null']
    names: Schema = {name: {'type': nothing} for name in ('authenticated_as', 'backend', 'address')}
    properties: Schema = {
        'id': INTEGER,
        **dict.fromkeys(('at', 'last'), KINDS['time']),
        'count': INTEGER,
        **names,
        'interface': {'type': 'string', 'enum': list(INTERFACES)},
        'outcome': {'type': 'string', 'enum': list(OUTCOMES)},
    }
    return {'type': 'object', 'required': list(properties), 'properties': properties}


def _removed() -> Schema:
    """Return the schema of a removed object."""
    nothing = ['string', 'null']
    return {
        'type': 'object',
        'properties': {
            **{'kind': TEXT, 'id': INTEGER, 'object': {'type': nothing}, 'before': {'type': 'object'}},
            **{'below': INTEGER, 'change_set': INTEGER, 'at': TEXT, 'username': TEXT, 'authenticated_as': TEXT},
            **{'method': {'type': nothing}, 'reason': {'type': nothing}},
        },
    }


def _undone() -> Schema:
    """Return the schema of the answer of an undo."""
    of_object: Schema = {'position': INTEGER, 'kind': TEXT, 'id': INTEGER}
    return {
        'type': 'object',
        'properties': {
            'undoes': {**INTEGER, 'description': 'The change set that was undone, in the undo of a group.'},
            'change_set': {
                'type': ['integer', 'null'],
                'description': 'The new change set; null if nothing was undone.',
            },
            'undone': {
                'type': 'object',
                'additionalProperties': INTEGER,
                'description': 'The numbers of objects by kind.',
            },
            'conflicts': listed(
                {'type': 'object', 'properties': {**of_object, 'object': {'type': ['string', 'null']}, 'why': TEXT}}
            ),
            'number_of_conflicts': INTEGER,
            'left': listed({'type': 'object', 'properties': {**of_object, 'action': TEXT}}),
        },
    }


def plans() -> dict[str, Schema]:
    """Return the schemas of the answer of a dry run."""
    state: Schema = {'type': ['object', 'null']}
    number: Schema = {**INTEGER, 'minimum': 0}
    parent: Schema = {'type': ['object', 'null'], 'properties': {'id': INTEGER, 'prefix': TEXT}}
    perhaps: Schema = {'type': ['string', 'null']}
    position: Schema = {'type': ['integer', 'null']}
    lists: dict[str, tuple[str, Schema]] = {
        'changes': (
            'The entries that the audit log would get, in order.',
            {
                'kind': TEXT,
                'id': INTEGER,
                'action': TEXT,
                'before': state,
                'after': state,
                'changes': {'type': 'object'},
            },
        ),
        'moved': (
            'The prefixes that would get another parent.',
            {'id': INTEGER, 'vrf_id': INTEGER, 'prefix': TEXT, 'parent_before': parent, 'parent_after': parent},
        ),
        'counters': (
            'The counters around that would differ.',
            {'kind': TEXT, 'id': INTEGER, 'name': TEXT, 'before': {'type': 'object'}, 'after': {'type': 'object'}},
        ),
        'errors': (
            'All errors of the request; it changes nothing if there are any.',
            {
                **{'code': INTEGER, 'message': TEXT, 'attribute': perhaps, 'position': position, 'method': perhaps},
                'depends_on': {**position, 'description': 'The failed operation that is the reason.'},
            },
        ),
    }
    properties: Schema = {
        'dry_run': {'const': True},
        'right': {
            'enum': ['read', 'allocate', 'write', 'administer'],
            'description': 'The right that the request needs.',
        },
        'answer': {'description': 'The answer of the request; null if it has errors, or no answer.'},
        'events': {'type': 'object', 'properties': {'number': number, 'kinds': {'type': 'object'}}},
        'webhooks': {
            'type': 'object',
            'description': 'The webhooks that would be called; `called` is for users who may manage webhooks.',
            'properties': {
                'number': number,
                'called': listed({'type': 'object', 'properties': {'id': INTEGER, 'url': TEXT}}),
            },
        },
        'plan': {**TEXT, 'description': 'The parameter `plan` of the request that makes this change.'},
    }
    for name, (text, members) in lists.items():
        items: Schema = {'type': 'object', 'required': list(members), 'properties': members}
        properties[name] = {**listed(items), 'maxItems': 1000, 'description': text}
        properties[f'{name}_not_shown'] = {**number, 'description': f'The number of further {name}.'}
    return {'Plan': {'type': 'object', 'required': [n for n in properties if n != 'plan'], 'properties': properties}}


def result(schema: Schema) -> Schema:
    return {'type': 'object', 'required': ['result'], 'properties': {'result': schema}}


VERSIONS: Schema = {'type': 'object', 'properties': {'version': TEXT, 'db_version': INTEGER}}
BATCH: Schema = {
    'type': 'object',
    'required': ['operations'],
    'additionalProperties': False,
    'properties': {
        'operations': {'type': 'array', 'maxItems': MAX_OPERATIONS, 'items': ref('schemas', 'Operation')},
        'return': {'type': 'string', 'enum': ['all', 'ids'], 'default': 'all'},
    },
}
