"""The query parameters of URLs: their schemas and texts, and the check that a request has no others.

`nipap.rest.routes` assigns parameters to routes. The description of the interface is made from the same objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from werkzeug.datastructures import MultiDict

from nipap.access.sign_in_rows import DEFAULT as SIGN_INS
from nipap.access.sign_in_rows import MOST as MOST_SIGN_INS
from nipap.access.sign_ins import INTERFACES, OUTCOMES
from nipap.attributes import Attribute, read_boolean, shown
from nipap.controls import LONGEST_PLAN, OF_CHANGES
from nipap.errors import NipapExtraneousInputError, NipapInputError, NipapValueError
from nipap.history.events import KINDS as EVENT_KINDS
from nipap.history.undo import DAYS, MOST_DAYS, MOST_REMOVED, PAGE
from nipap.rest.objects import AUDIT_ENTRIES, TAGS, Resource
from nipap.rest.schemas import CURSOR, FREE, ID, INTEGER, KINDS, MOMENT, NETWORK, STORED, TEXT, Schema
from nipap.search.paging import MOST

Args = MultiDict[str, str]

DEFAULT_LIMIT = 50
LARGEST_LIMIT = 10_000
LISTS = ('tags', 'networks', 'names')  # kinds of attributes whose filters look for one value in a list
PAIR = 'avps.'  # the prefix of parameters that name the key of a pair
LARGEST_KEY = 10**18 - 1  # of an object in a path


@dataclass(frozen=True)
class Parameter:
    """One parameter.

    many: it may be repeated.
    part: its name among the parts of the description that routes share; None if routes do not share it.
    """

    name: str
    schema: Schema
    doc: str
    required: bool = False
    many: bool = False
    part: str | None = None

    def described(self) -> Schema:
        """Return the parameter in the form of OpenAPI."""
        return {
            'name': self.name,
            'in': 'query',
            'required': self.required,
            'schema': self.schema,
            'description': self.doc,
        }


Parameters = Mapping[str, Parameter]


def named(parameters: Iterable[Parameter]) -> Parameters:
    """Return parameters by their names."""
    return {parameter.name: parameter for parameter in parameters}


def check(args: Args, parameters: Parameters, *, pairs: bool = False) -> None:
    """Refuse parameters that a route does not take, and repetitions of a parameter that is not `many`.

    pairs: the route takes ``avps.KEY`` too.

    :raises NipapInputError: naming the parameter and the accepted ones.
    """
    for name, values in args.lists():
        if pairs and name.startswith(PAIR) and name != PAIR:
            continue
        if name not in parameters:
            accepted = ', '.join([*parameters, *(('avps.KEY',) if pairs else ())]) or 'none'
            kind = NipapExtraneousInputError if name in OF_CHANGES else NipapInputError
            raise kind(f'extraneous parameter {shown(name)}, accepted: {accepted}').about(name)
        if len(values) > 1 and not parameters[name].many:
            raise NipapInputError(f'parameter {name} must not be given more than once').about(name)


def read_flag(args: Args, name: str) -> bool:
    """Return whether a parameter is present and true.

    :raises NipapValueError: the value is neither true nor false.
    """
    try:
        return name in args and read_boolean(args[name])
    except NipapValueError as exc:
        raise exc.about(name) from None


def check_members(struct: Mapping[str, Any], accepted: Iterable[str]) -> None:
    """Refuse unknown members of an object in a body.

    :raises NipapInputError: naming the member and the accepted ones.
    """
    for name in struct:
        if name not in accepted:
            raise NipapInputError(f'extraneous member {shown(name)}, accepted: {", ".join(accepted)}').about(name)


# ---------------------------------------------------------------- the parameters


_DEPTH = {'type': 'integer', 'minimum': -1, 'maximum': MOST}
_ID = {'type': 'integer', 'minimum': 0, 'maximum': MOST}
_BOOLEAN = {'type': 'boolean'}


def _shared(name: str, schema: Schema, doc: str) -> Parameter:
    return Parameter(name, schema, doc, part=name)


Q = _shared('q', TEXT, 'Text to search for, as people type it.')
LENIENT = _shared(
    'lenient',
    _BOOLEAN,
    'Answer an invalid text with an empty list and `error` true, instead of 422.',
)
LIMIT = _shared(
    'limit', {**INTEGER, 'minimum': 1, 'maximum': LARGEST_LIMIT, 'default': DEFAULT_LIMIT}, 'Largest number of objects.'
)
AFTER = _shared('after', CURSOR, 'Start of the page: the `after` of the previous answer.')
RECURSIVE = _shared('recursive', _BOOLEAN, 'Also remove everything inside.')
DRY_RUN = _shared('dry_run', _BOOLEAN, 'Return the plan of the change (200), and change nothing.')
PLAN = _shared(
    'plan',
    {**TEXT, 'maxLength': LONGEST_PLAN, 'pattern': '^[A-Za-z0-9_-]+$'},
    'The `plan` of a dry run: make the change only if it is still as planned, else 409.',
)
CHANGES = (DRY_RUN, PLAN)
AS_OF = _shared(
    'as_of',
    {**TEXT, 'minLength': 1, 'maxLength': 100},
    'The moment, or the number of the change set, whose state is shown; the present without. The header `NIPAP-As-Of` '
    'of the answer names the state.',
)
PARTIAL = _shared('partial', _BOOLEAN, 'Undo what has no conflict, and list the conflicts.')
TREE = (
    _shared('parents_depth', _DEPTH, 'Number of levels to add above the matches; -1: all.'),
    _shared('children_depth', _DEPTH, 'Number of levels to add below the matches; -1: all.'),
    _shared('include_all_parents', _BOOLEAN, 'Add all levels above the matches.'),
    _shared('include_all_children', _BOOLEAN, 'Add all levels below the matches.'),
    _shared('include_neighbors', _BOOLEAN, 'Add the other hosts in the assignments of the matches.'),
    _shared('parent_prefix', _ID, 'Return the prefix with this id and its children instead.'),
)
EVENTS = (
    Parameter(
        'after',
        {'type': 'integer', 'minimum': 0, 'maximum': LARGEST_KEY},
        'The id of the last known event; without it, only new events are sent.',
    ),
    *(
        Parameter(name, {'type': 'array', 'items': TEXT}, f'Only events of one of these: {what}.', many=True)
        for name, what in (
            ('kind', ', '.join(EVENT_KINDS)),
            ('vrf_id', 'the id of the VRF'),
            ('pool_id', 'the id of the pool'),
            ('tag', 'a tag of the object'),
        )
    ),
)
SINCE = _shared('since', MOMENT, 'Only changes at or after this time.')
UNTIL = _shared('until', MOMENT, 'Only changes at or before this time.')
WITHIN = _shared('within', NETWORK, 'Only prefixes that are this network or inside it, before or after the change.')
COVERING = _shared('covering', NETWORK, 'Only prefixes that are this network or around it, before or after the change.')
BELOW = Parameter('below', _BOOLEAN, 'Whether the history of everything inside is included.')
REMOVED = (
    Parameter('kind', {'type': 'array', 'items': {**TEXT, 'enum': [*EVENT_KINDS]}}, 'Only these kinds.', many=True),
    Parameter('days', {**INTEGER, 'minimum': 1, 'maximum': MOST_DAYS, 'default': DAYS}, 'Days to look back.'),
    Parameter('limit', {**INTEGER, 'minimum': 1, 'maximum': MOST_REMOVED, 'default': PAGE}, 'Most objects.'),
    Parameter('after', {**TEXT, 'pattern': r'^([0-9]{1,18}[.][0-9]{1,18})?$'}, 'The `after` of the answer before.'),
)
DEAD_LETTERS = (Parameter('after', ID, 'Only dead letters with ids above this one.'),)
SIGN_INS_OF = (
    Parameter('user', STORED, 'Only sign-ins of this user, or with this name.'),
    Parameter('address', NETWORK, 'Only sign-ins from this address or network.'),
    Parameter('outcome', {'type': 'string', 'enum': list(OUTCOMES)}, 'Only sign-ins with this outcome.'),
    Parameter('interface', {'type': 'string', 'enum': list(INTERFACES)}, 'Only sign-ins over this interface.'),
    Parameter('since', MOMENT, 'Only sign-ins from this moment on.'),
    Parameter('until', MOMENT, 'Only sign-ins before this moment.'),
    Parameter('after', ID, 'Start of the page: the id of the last sign-in of the page before.'),
    Parameter(
        'limit',
        {**INTEGER, 'minimum': 1, 'maximum': MOST_SIGN_INS, 'default': SIGN_INS},
        'Largest number of sign-ins.',
    ),
)


def fields(resource: Resource) -> Parameter:
    """Return the parameter that cuts objects to some of their members."""
    # It is a text, because clients send arrays in many different ways.
    one = f'({"|".join(resource.fields)})'
    schema = {**TEXT, 'pattern': f'^({one}(,{one})*)?$'}
    return Parameter(
        'fields', schema, 'Return only these members, separated by commas.', part=f'fields_{resource.kind}'
    )


def options(resource: Resource) -> tuple[Parameter, ...]:
    """Return the options of a search that are parameters of its requests."""
    lenient = () if resource is TAGS else (LENIENT,)
    return (*lenient, LIMIT, AFTER, fields(resource), *(TREE if resource.kind == 'prefix' else ()))


def filters(resource: Resource) -> tuple[Parameter, ...]:
    """Return a filter for each attribute. Filters for pairs are not included, because their keys are not known."""
    more = {'audit': (SINCE, UNTIL, WITHIN, COVERING), 'change_set': (SINCE, UNTIL)}
    return (*map(_filter, resource.table.values()), *more.get(resource.kind, ()))


def _filter(attribute: Attribute) -> Parameter:
    if attribute.kind == 'avps':
        return Parameter(
            'avps',
            {**TEXT, 'maxLength': 0},
            'Must be empty: objects without pairs. `avps.KEY` is the value of one pair.',
        )
    more = 'to all values' if attribute.kind in LISTS else 'to one of the values'
    nothing = '' if attribute.never_nil else ' Empty: unset.'
    doc = f'Equal to this value; repeated: {more}.{nothing} {attribute.doc}'
    if attribute.kind in LISTS:
        # Each value is compared as text, so a text that is no network matches nothing.
        schema: Schema = {'type': 'array', 'items': STORED}
    elif attribute.choices:
        schema = {'type': 'string', 'enum': [*attribute.choices, *(() if attribute.never_nil else ('',))]}
    elif attribute.kind == 'text':
        schema = {**STORED, 'minLength': 1} if attribute.never_nil else STORED
    else:
        schema = INTEGER if attribute.kind == 'number' else KINDS[attribute.kind]
        schema = MOMENT if attribute.kind in ('time', 'expires') else schema
        if not attribute.never_nil or attribute.name == 'vrf_id':
            schema = {'anyOf': [schema, {'type': 'string', 'maxLength': 0}]}
    return Parameter(attribute.name, schema, doc, many=True)


def free(resource: Resource) -> tuple[Parameter, ...]:
    """Return the parameters of a look at free blocks. A pool has two families and a length; a prefix has neither."""
    of = {
        name: Parameter(
            name,
            {key: value for key, value in schema.items() if key != 'description'},
            schema['description'],
            part=f'free_{name}',
        )
        for name, schema in FREE.items()
    }
    if resource.kind == 'pool':
        return (replace(of['family'], required=True, part=None), of['prefix_length'], of['count'])
    return (replace(of['prefix_length'], required=True, part=None), of['count'])


def listing(resource: Resource) -> tuple[Parameter, ...]:
    """Return the parameters of a list."""
    return (*(() if resource is TAGS else (Q,)), *options(resource), *filters(resource))


def history(resource: Resource) -> tuple[Parameter, ...]:
    """Return the parameters of the history of an object."""
    own = listing(AUDIT_ENTRIES)
    return (*own, BELOW) if resource.kind in ('vrf', 'prefix') else own


def searching(resource: Resource) -> tuple[Parameter, ...]:
    """Return the parameters of a search with its query in the body."""
    return (*options(resource), *filters(resource))
