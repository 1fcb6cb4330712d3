"""The routes of the REST interface: method and path of each, and the call behind it.

The application and its description read this table. A route whose call is not in the table of calls is not served.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nipap.calls import CALLS
from nipap.rest.objects import RESOURCES, TAGS, Resource


def _looking(resource: Resource) -> Iterator[tuple[tuple[str, str], str]]:
    path, kind = f'/{resource.plural}', resource.kind
    yield ('GET', path), f'search_{kind}'
    yield ('POST', f'{path}/search'), f'search_{kind}'


def _collection(resource: Resource) -> Iterator[tuple[tuple[str, str], str]]:
    path, kind = f'/{resource.plural}', resource.kind
    yield from _looking(resource)
    yield ('POST', path), f'add_{kind}'
    yield ('GET', f'{path}/{{key}}'), f'list_{kind}'
    yield ('PATCH', f'{path}/{{key}}'), f'edit_{kind}'
    yield ('DELETE', f'{path}/{{key}}'), f'remove_{kind}'


def _source(resource: Resource) -> Iterator[tuple[tuple[str, str], str]]:
    path = f'/{resource.plural}/{{key}}'
    yield ('POST', f'{path}/allocations'), 'add_prefix'
    yield ('GET', f'{path}/free'), 'find_free_prefix'


# The call that a route makes; of several the first that it needs.
ROUTES: Mapping[tuple[str, str], str] = {
    **{route: call for resource in RESOURCES for route, call in _collection(resource)},
    **dict(_looking(TAGS)),
    **{
        route: call
        for resource in RESOURCES
        if resource.kind in ('pool', 'prefix')
        for route, call in _source(resource)
    },
    ('GET', '/version'): 'version',
    ('POST', '/batch'): 'batch',
    ('GET', '/webhooks'): 'list_webhook',
    ('POST', '/webhooks'): 'add_webhook',
    ('GET', '/webhooks/{key}'): 'list_webhook',
    ('PATCH', '/webhooks/{key}'): 'edit_webhook',
    ('DELETE', '/webhooks/{key}'): 'remove_webhook',
    ('GET', '/webhooks/{key}/dead-letters'): 'list_dead_letter',
    ('POST', '/webhooks/{key}/dead-letters/resend'): 'resend_dead_letter',
}
WITHOUT_CALL = frozenset({('GET', '/events')})  # a stream is no call


def served(method: str, path: str) -> bool:
    """Return whether a route is served: its call is in the table.

    :raises KeyError: the route is not in this table.
    """
    return (method, path) in WITHOUT_CALL or ROUTES[method, path] in CALLS
