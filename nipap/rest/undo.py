"""Undo over HTTP: change sets, groups, and removed objects that come back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from flask import Response
from flask.globals import request_ctx

from nipap.access.authentication import Actor
from nipap.rest.objects import encode
from nipap.rest.parameters import check_members, read_flag


class Api(Protocol):
    """The methods of a REST interface that this module uses."""

    def connect(self, app: Any, method: str, path: str, view: Callable[..., Response]) -> None: ...

    def struct(self) -> dict[str, Any]: ...

    def refuse_body(self) -> None: ...

    def change(self, actor: Actor, method: str, members: Mapping[str, Any]) -> Any: ...


def add_to(app: Any, api: Api) -> None:
    """Add the paths of undo to an application."""
    paths = _Paths(api)
    api.connect(app, 'POST', '/changes/<number:key>/undo', paths.undo)
    api.connect(app, 'POST', '/change-groups/undo', paths.undo_group)


class _Paths:
    def __init__(self, api: Api) -> None:
        self._api = api

    def undo(self, actor: Actor, key: int) -> Response:
        self._api.refuse_body()
        partial = read_flag(request_ctx.request.args, 'partial')
        return _json(self._api.change(actor, 'undo', {'change_set': key, 'partial': partial}))

    def undo_group(self, actor: Actor) -> Response:
        asked = self._api.struct()
        check_members(asked, ('group', 'partial'))
        members = {'group': asked.get('group'), 'partial': asked.get('partial')}
        return _json(self._api.change(actor, 'undo', members))


def _json(value: object) -> Response:
    return Response(encode(value), content_type='application/json')
