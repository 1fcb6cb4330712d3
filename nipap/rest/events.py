"""Events over HTTP: ``/api/v1/events`` as server-sent events, ``/api/v1/webhooks`` to manage webhooks.

A stream waits for events by looking what there is, all streams of a process together. It has an empty part for each
look, so that whoever sends it comes to see that the client has gone or that it is time to end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from flask import Request, Response
from flask.globals import request_ctx

from nipap.access.authentication import Actor
from nipap.attributes import read_integer, shown
from nipap.errors import NipapInputError, NipapNonExistentError, NipapUnavailableError, NipapValueError
from nipap.history import events, webhook
from nipap.postgres.database import Database
from nipap.rest.objects import encode
from nipap.runtime import waiting

LOOK_S = 0.25
HEARTBEAT_S = 15.0
LONGEST_S = 3600.0  # then the client comes again, and proves again who it is
REMEMBERED = 2000

# Members of a filter, and the parameters that they are.
FILTERS = {'kinds': 'kind', 'vrf_ids': 'vrf_id', 'pool_ids': 'pool_id', 'tags': 'tag'}


class Api(Protocol):
    """What requests to a REST interface have in common, as far as it is used here."""

    def connect(self, app: Any, method: str, path: str, view: Callable[..., Response]) -> None: ...

    def body(self) -> Any: ...

    def struct(self) -> dict[str, Any]: ...

    def change(self, actor: Actor, method: str, members: Mapping[str, Any]) -> Any: ...

    def look(self, actor: Actor, method: str, members: Mapping[str, Any] | None = None) -> Any: ...


def add_to(app: Any, api: Api, db: Database) -> None:
    """Have an application offer events and webhooks."""
    api.connect(app, 'GET', '/events', _Stream(db).answer)
    hooks = _Hooks(api)
    api.connect(app, 'GET', '/webhooks', hooks.list)
    api.connect(app, 'POST', '/webhooks', hooks.add)
    api.connect(app, 'GET', '/webhooks/<number:key>', hooks.get)
    api.connect(app, 'PATCH', '/webhooks/<number:key>', hooks.edit)
    api.connect(app, 'DELETE', '/webhooks/<number:key>', hooks.remove)
    api.connect(app, 'GET', '/webhooks/<number:key>/dead-letters', hooks.dead_letters)
    api.connect(app, 'POST', '/webhooks/<number:key>/dead-letters/resend', hooks.resend)


# ---------------------------------------------------------------- server-sent events


class Feed:
    """The latest events, read once for all streams of this process."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._latest: list[events.Event] = []  # without a gap between the first and the last
        self._last: int | None = None
        self._due = 0.0

    def last(self) -> int:
        """The position of the last event that there is."""
        self._look()
        return self._last or 0

    def after(self, position: int) -> list[events.Event]:
        """Some of the events behind a position, in order."""
        self._look()
        if self._last is None or position >= self._last:
            return []
        if not self._latest or position < self._latest[0]['id'] - 1:
            return self._db.read(lambda tx: events.read(tx, position))
        return [event for event in self._latest if event['id'] > position][: events.AT_ONCE]

    def _look(self) -> None:
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + LOOK_S
        if self._last is None:
            self._last = self._db.read(events.last_position)
            return
        since = self._last
        found = self._db.read(lambda tx: events.read(tx, since, REMEMBERED))
        known = self._last  # somebody else may have looked meanwhile
        if new := [event for event in found if event['id'] > known]:
            self._latest = [*self._latest, *new][-REMEMBERED:]
            self._last = new[-1]['id']


class _Stream:
    """The path of server-sent events."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._feed = Feed(db)

    def answer(self, _actor: Actor) -> Response:
        """A stream that goes on from where the client was."""
        request: Request = request_ctx.request
        given = request.args
        for name in given.keys() - {'after', *FILTERS.values()}:
            raise NipapInputError(f'extraneous parameter {name}').about(name)
        filters = {member: [value for value in given.getlist(name) if value] for member, name in FILTERS.items()}
        wanted = events.Filter.of(webhook.read_filter(filters, FILTERS))
        text = request.headers.get('Last-Event-ID') or given.get('after')
        position = self._feed.last() if text is None else _position(text)
        gap = text is not None and position < self._db.read(events.removed)
        response = Response(self._parts(position, wanted, gap=gap), content_type='text/event-stream; charset=utf-8')
        # For whoever is between here and the client, our own server among them: pass on what there is.
        response.headers['X-Accel-Buffering'] = 'no'
        response.headers['Cache-Control'] = 'no-store'
        return response

    def _parts(self, position: int, wanted: events.Filter, *, gap: bool) -> Iterator[bytes]:
        ends = time.monotonic() + LONGEST_S
        yield b'retry: 2000\n\n'
        if gap:
            yield b'event: gap\ndata: {}\n\n'
        silent_since = time.monotonic()
        while time.monotonic() < ends:
            found = self._found(position)
            parts = [_written(event) for event in found if wanted.wants(event)]
            position = found[-1]['id'] if found else position
            if parts:
                yield b''.join(parts)
                silent_since = time.monotonic()
            elif time.monotonic() - silent_since >= HEARTBEAT_S:
                yield b':\n\n'
                silent_since = time.monotonic()
            if not found:
                yield b''
                waiting.sleep(LOOK_S)

    def _found(self, position: int) -> list[events.Event]:
        try:
            return self._feed.after(position)
        except NipapUnavailableError:
            return []  # it will be back; the client has missed nothing


def _written(event: events.Event) -> bytes:
    return b'id: %d\nevent: %s\ndata: %s\n\n' % (event['id'], event['action'].encode(), encode(event))


def _position(text: str) -> int:
    try:
        position = read_integer(text)
    except NipapValueError:
        position = -1
    if not 0 <= position < 2**63:
        raise NipapValueError(f'Invalid position {shown(text)}, must be the id of an event').about('after')
    return position


# ---------------------------------------------------------------- webhooks


class _Hooks:
    """The paths of webhooks."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def list(self, actor: Actor) -> Response:
        return _json({'result': self._api.look(actor, 'list_webhook')})

    def add(self, actor: Actor) -> Response:
        item = self._api.change(actor, 'add_webhook', {'attr': self._api.body()})
        response = _json(item, 201)
        response.headers['Location'] = f'{request_ctx.request.path}/{item["id"]}'
        return response

    def get(self, actor: Actor, key: int) -> Response:
        found = self._api.look(actor, 'list_webhook', {'webhook': {'id': key}})
        if not found:
            raise NipapNonExistentError(f'There is no webhook {key}')
        return _json(found[0])

    def edit(self, actor: Actor, key: int) -> Response:
        members = {'webhook': {'id': key}, 'attr': self._api.body()}
        return _json(self._api.change(actor, 'edit_webhook', members)[0])

    def remove(self, actor: Actor, key: int) -> Response:
        self._api.change(actor, 'remove_webhook', {'webhook': {'id': key}})
        return Response(status=204)

    def dead_letters(self, actor: Actor, key: int) -> Response:
        after = request_ctx.request.args.get('after')
        members = {'webhook': {'id': key}, 'after': after}
        return _json({'result': self._api.look(actor, 'list_dead_letter', members)})

    def resend(self, actor: Actor, key: int) -> Response:
        asked = self._api.struct()
        for name in asked.keys() - {'ids'}:
            raise NipapInputError(f'extraneous member {name}, known: ids').about(name)
        members = {'webhook': {'id': key}, 'ids': asked.get('ids')}
        return _json({'resent': self._api.change(actor, 'resend_dead_letter', members)}, 202)


def _json(value: Any, status: int = 200) -> Response:
    response = Response(encode(value), status, content_type='application/json')
    response.headers['Cache-Control'] = 'private, no-store'
    return response
