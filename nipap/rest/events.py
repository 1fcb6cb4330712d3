"""Events over HTTP: ``/api/v1/events`` as server-sent events, ``/api/v1/webhooks`` to manage webhooks.

A stream polls for new events; all streams of a process share the polls. It yields an empty part for each poll, so that
its sender can notice a disconnected client or a shutdown.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any

from flask import Request, Response
from flask.globals import request_ctx

from nipap.access.authentication import Actor
from nipap.attributes import read_integer, shown
from nipap.errors import NipapNonExistentError, NipapUnavailableError, NipapValueError
from nipap.history import events, webhook
from nipap.postgres.database import Database
from nipap.rest.interface import Api
from nipap.rest.objects import encode, without_sent_back
from nipap.rest.parameters import check_members
from nipap.runtime import waiting

LOOK_S = 0.25
HEARTBEAT_S = 15.0
LONGEST_S = 3600.0  # then the client must connect and authenticate again
PROOF_S = 1.0  # the interval of checks that the credentials are still valid
REMEMBERED = 2000
UNUSED_S = 5.0  # without a poll for this long, no stream waits for the next events

_log = logging.getLogger(__name__)

# The members of a filter, with their names as parameters.
FILTERS = {'kinds': 'kind', 'vrf_ids': 'vrf_id', 'pool_ids': 'pool_id', 'tags': 'tag'}


def add_to(app: Any, api: Api, db: Database) -> None:
    """Add the paths of events and webhooks to an application."""
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


class PositionLostError(Exception):
    """Events after the position of a reader were removed, or the position does not exist in this database.

    position: the position from which the reader can continue.
    """

    def __init__(self, position: int) -> None:
        super().__init__(position)
        self.position = position


class Feed:
    """The latest events, read once for all streams of this process."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._latest: list[events.Event] = []  # without a gap
        self._last = 0  # the position up to which events were read
        self._newest = 0  # the newest position seen in the database
        self._looked = -math.inf  # the time of the last poll
        self._has_more = False  # whether the last poll left events unread

    def newest(self) -> int:
        """Return the newest position in the database."""
        known = self._newest
        newest = self._db.read(events.last_position)
        self._note(known, newest)
        return newest

    def check(self, position: int) -> None:
        """Raise `PositionLostError` unless every event after a position can be read."""
        known = self._newest
        bounds = self._db.read(events.bounds)
        self._note(known, bounds.newest)
        if position > bounds.newest:
            raise PositionLostError(bounds.newest)
        if position < bounds.removed:
            raise PositionLostError(max(position, bounds.oldest))

    def after(self, position: int) -> list[events.Event]:
        """Return some of the events after a position, in order.

        :raises PositionLostError: events after the position were removed, or the database was restored and no longer
            has this position.
        """
        if self._has_more or time.monotonic() >= self._looked + LOOK_S:
            self._look()
        newest = self._newest
        if position > newest:
            raise PositionLostError(newest)
        if position == newest:
            return []
        if self._latest and self._latest[0]['id'] - 1 <= position < self._last:
            return [event for event in self._latest if event['id'] > position][: events.AT_ONCE]
        found = self._db.read(lambda tx: events.read(tx, position))
        if not found or found[0]['id'] > position + 1:
            raise PositionLostError(found[0]['id'] - 1 if found else newest)
        self._newest = max(self._newest, found[-1]['id'])
        return found

    def _look(self) -> None:
        """Poll: read some of the new events, but none if no stream has polled for `UNUSED_S`."""
        known, silent_s = self._newest, time.monotonic() - self._looked
        self._looked, self._has_more = time.monotonic(), False
        self._note(known, self._db.read(events.last_position))
        since = self._last
        if silent_s > UNUSED_S:
            self._latest, self._last = [], self._newest
        elif self._newest > since:
            self._remember(since, self._db.read(lambda tx: events.read(tx, since, REMEMBERED)))

    def _note(self, known: int, newest: int) -> None:
        """Note the newest position. known: the newest position before it was read."""
        if newest >= known:
            self._newest = max(self._newest, newest)
        else:  # the database was restored: there is no other reason for a lower position
            self._latest, self._last, self._newest = [], newest, newest

    def _remember(self, since: int, found: list[events.Event]) -> None:
        if self._last != since:  # another fiber has polled meanwhile
            return
        if not found or found[0]['id'] > since + 1:  # events in between were removed
            self._latest = []
        self._latest = [*self._latest, *found][-REMEMBERED:]
        self._last = found[-1]['id'] if found else self._newest
        self._newest = max(self._newest, self._last)
        self._has_more = len(found) == REMEMBERED


class _Stream:
    """The path of server-sent events."""

    def __init__(self, db: Database) -> None:
        self._feed = Feed(db)

    def answer(self, actor: Actor) -> Response:
        """Return a stream that continues at the position of the client."""
        request: Request = request_ctx.request
        given = request.args
        filters = {member: given.getlist(name) for member, name in FILTERS.items()}
        wanted = events.Filter.of(webhook.read_filter(filters, FILTERS))
        text = request.headers.get('Last-Event-ID') or given.get('after')
        parts = self._parts(actor, *self._start(text), wanted)
        response = Response(parts, content_type='text/event-stream; charset=utf-8')
        # Proxies, and our own server, must pass on each part at once.
        response.headers['X-Accel-Buffering'] = 'no'
        response.headers['Cache-Control'] = 'no-store'
        return response

    def _start(self, text: str | None) -> tuple[int, bytes]:
        """Return the position after which a stream begins, and its first part."""
        if text is None:
            return self._feed.newest(), b''
        position = _position(text)
        try:
            self._feed.check(position)
        except PositionLostError as error:
            return error.position, _gap(error.position)
        return position, b''

    def _parts(self, actor: Actor, position: int, first: bytes, wanted: events.Filter) -> Iterator[bytes]:
        may_go_on = _permission(actor)
        yield b'retry: 2000\n\n' + first
        silent_since = time.monotonic()
        while may_go_on():
            found: list[events.Event] = []
            parts: list[bytes] = []
            try:
                found = self._found(position)
            except PositionLostError as error:
                position = error.position
                parts = [_gap(position)]
            else:
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
            return []  # the database will be back, and no event is missed


def _permission(actor: Actor) -> Callable[[], bool]:
    """Return a function that returns whether the stream of an actor may continue."""
    began = asked = time.monotonic()

    def may_go_on() -> bool:
        nonlocal asked
        now = time.monotonic()
        if now - asked >= PROOF_S:
            asked = now
            if not actor.is_valid():
                _log.info('a stream of events ends: the credentials of %r are not valid any more', actor.username)
                return False
        return now - began < LONGEST_S

    return may_go_on


def _gap(position: int) -> bytes:
    """Return the message that a client may have missed events up to a position, from which the stream continues."""
    return b'id: %d\nevent: gap\ndata: {}\n\n' % position


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
        return _json(self._one(actor, key))

    def _one(self, actor: Actor, key: int) -> dict[str, Any]:
        found: list[dict[str, Any]] = self._api.look(actor, 'list_webhook', {'webhook': {'id': key}})
        if not found:
            raise NipapNonExistentError(f'There is no webhook {key}')
        return found[0]

    def edit(self, actor: Actor, key: int) -> Response:
        attr = self._api.body()
        if isinstance(attr, dict) and any(name not in webhook.WRITABLE for name in attr):
            attr = without_sent_back(attr, self._one(actor, key), webhook.WRITABLE)
        members = {'webhook': {'id': key}, 'attr': attr}
        return _json(self._api.change(actor, 'edit_webhook', members, planned=itemgetter(0))[0])

    def remove(self, actor: Actor, key: int) -> Response:
        self._api.change(actor, 'remove_webhook', {'webhook': {'id': key}})
        return Response(status=204)

    def dead_letters(self, actor: Actor, key: int) -> Response:
        after = request_ctx.request.args.get('after')
        members = {'webhook': {'id': key}, 'after': after}
        return _json({'result': self._api.look(actor, 'list_dead_letter', members)})

    def resend(self, actor: Actor, key: int) -> Response:
        asked = self._api.struct()
        check_members(asked, ('ids',))
        members = {'webhook': {'id': key}, 'ids': asked.get('ids')}
        resent = self._api.change(actor, 'resend_dead_letter', members, planned=lambda number: {'resent': number})
        return _json({'resent': resent}, 202)


def _json(value: Any, status: int = 200) -> Response:
    response = Response(encode(value), status, content_type='application/json')
    response.headers['Cache-Control'] = 'private, no-store'
    return response
