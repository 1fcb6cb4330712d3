"""The routes of the REST interface: method and path of each, its call, and its parameters.

The application and its description read this table. A route is not served if its call is not in the table of calls. A
parameter that is not in this table is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from nipap.calls import CALLS
from nipap.rest import parameters
from nipap.rest.objects import CHANGE_SETS, PAST, RESOURCES, TAGS, Resource
from nipap.rest.parameters import Parameter, Parameters


@dataclass(frozen=True)
class Route:
    """One route.

    call: the call that the route makes, or the first of several calls; None for a stream, which makes no call.
    pairs: whether ``avps.KEY`` is a parameter too.
    merges: whether the body may be a merge patch.
    conditional: whether the header If-Match is obeyed. Other routes that make changes refuse it.
    """

    call: str | None
    parameters: Parameters = field(default_factory=dict)
    pairs: bool = False
    merges: bool = False
    conditional: bool = False

    @property
    def served(self) -> bool:
        """Return whether the call is in the table of calls."""
        return self.call is None or self.call in CALLS

    @property
    def changes(self) -> bool:
        """Return whether the call can change something."""
        return self.call is not None and CALLS[self.call].changes

    @property
    def shows_past(self) -> bool:
        """Return whether the call can show a state of the past."""
        return self.call is not None and any(member.name == 'as_of' for member in CALLS[self.call].members)


RECURSIVE = ('vrf', 'prefix')  # kinds of objects with a removal that may remove others too

MERGE = 'application/merge-patch+json'

_Entry = tuple[tuple[str, str], Route]


def _route(method: str, path: str, call: str | None, takes: Iterable[Parameter] = ()) -> _Entry:
    return (method, path), Route(call, parameters.named(takes))


def _looking(resource: Resource) -> Iterator[_Entry]:
    path, call = f'/{resource.plural}', f'search_{resource.kind}'
    pairs = 'avps' in resource.table
    yield ('GET', path), Route(call, parameters.named(parameters.listing(resource)), pairs)
    yield ('POST', f'{path}/search'), Route(call, parameters.named(parameters.searching(resource)), pairs)


def _collection(resource: Resource) -> Iterator[_Entry]:
    path, kind = f'/{resource.plural}', resource.kind
    fields = (parameters.fields(resource),)
    yield from _looking(resource)
    yield _route('POST', path, f'add_{kind}', fields)
    yield _route('GET', f'{path}/{{key}}', f'list_{kind}', fields)
    edit = Route(f'edit_{kind}', parameters.named(fields), merges=True, conditional=True)
    yield ('PATCH', f'{path}/{{key}}'), edit
    removal = parameters.named((parameters.RECURSIVE,) if kind in RECURSIVE else ())
    yield ('DELETE', f'{path}/{{key}}'), Route(f'remove_{kind}', removal, conditional=True)


def _history(resource: Resource) -> Iterator[_Entry]:
    yield _route('GET', f'/{resource.plural}/{{key}}/history', 'search_audit', parameters.history(resource))


def _source(resource: Resource) -> Iterator[_Entry]:
    path = f'/{resource.plural}/{{key}}'
    yield _route('POST', f'{path}/allocations', 'add_prefix')
    yield _route('GET', f'{path}/free', 'find_free_prefix', parameters.free(resource))


def _controlled(entry: _Entry) -> _Entry:
    """Add the parameters that all changes have, or that all reads of a state have."""
    name, route = entry
    if not route.served or route.call is None:
        return entry
    more = parameters.CHANGES if route.changes else (parameters.AS_OF,) if route.shows_past else ()
    return name, replace(route, parameters={**route.parameters, **parameters.named(more)})


ROUTES: Mapping[tuple[str, str], Route] = dict(
    _controlled(entry)
    for entry in (
        *(entry for resource in RESOURCES for entry in _collection(resource)),
        *_looking(TAGS),
        *(entry for resource in PAST for entry in _looking(resource)),
        _route('GET', '/changes/{key}', 'list_change_set', (parameters.fields(CHANGE_SETS),)),
        *(entry for resource in RESOURCES for entry in _history(resource)),
        *(entry for resource in RESOURCES if resource.kind in ('pool', 'prefix') for entry in _source(resource)),
        _route('GET', '/version', 'version'),
        _route('POST', '/batch', 'batch'),
        _route('GET', '/events', None, parameters.EVENTS),
        _route('POST', '/changes/{key}/undo', 'undo', (parameters.PARTIAL,)),
        _route('POST', '/change-groups/undo', 'undo'),
        _route('GET', '/removed', 'list_removed', parameters.REMOVED),
        *(
            _route('POST', f'/{resource.plural}/{{key}}/restore', 'restore', (parameters.PARTIAL,))
            for resource in RESOURCES
        ),
        _route('GET', '/webhooks', 'list_webhook'),
        _route('POST', '/webhooks', 'add_webhook'),
        _route('GET', '/webhooks/{key}', 'list_webhook'),
        _route('PATCH', '/webhooks/{key}', 'edit_webhook'),
        _route('DELETE', '/webhooks/{key}', 'remove_webhook'),
        _route('GET', '/webhooks/{key}/dead-letters', 'list_dead_letter', parameters.DEAD_LETTERS),
        _route('POST', '/webhooks/{key}/dead-letters/resend', 'resend_dead_letter'),
        _route('GET', '/sign-ins', 'list_sign_in', parameters.SIGN_INS_OF),
    )
)
