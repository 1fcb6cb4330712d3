"""Undo over HTTP: change sets, groups, and removed objects that come back."""

from __future__ import annotations

from functools import partial
from typing import Any

from flask import Response
from flask.globals import request_ctx

from nipap.access.authentication import Actor
from nipap.rest.interface import Api
from nipap.rest.objects import RESOURCES, encode
from nipap.rest.parameters import check_members, read_flag


def add_to(app: Any, api: Api) -> None:
    """Add the paths of undo to an application."""
    paths = _Paths(api)
    api.connect(app, 'POST', '/changes/<number:key>/undo', paths.undo)
    api.connect(app, 'POST', '/change-groups/undo', paths.undo_group)
    api.connect(app, 'GET', '/removed', paths.removed)
    for resource in RESOURCES:
        api.connect(app, 'POST', f'/{resource.plural}/<number:key>/restore', partial(paths.restore, resource.kind))


class _Paths:
    def __init__(self, api: Api) -> None:
        self._api = api

    def undo(self, actor: Actor, key: int) -> Response:
        self._api.refuse_body()
        members = {'change_set': key, 'partial': read_flag(request_ctx.request.args, 'partial')}
        return _json(self._api.change(actor, 'undo', members))

    def undo_group(self, actor: Actor) -> Response:
        asked = self._api.struct()
        check_members(asked, ('group', 'partial'))
        members = {'group': asked.get('group'), 'partial': asked.get('partial')}
        return _json(self._api.change(actor, 'undo', members))

    def removed(self, actor: Actor) -> Response:
        args = request_ctx.request.args
        members = {
            'kinds': args.getlist('kind') or None,
            'days': args.get('days'),
            'max_result': args.get('limit'),
            'after': args.get('after'),
        }
        return _json(self._api.look(actor, 'list_removed', members))

    def restore(self, kind: str, actor: Actor, key: int) -> Response:
        self._api.refuse_body()
        members = {'kind': kind, 'id': key, 'partial': read_flag(request_ctx.request.args, 'partial')}
        return _json(self._api.change(actor, 'restore', members))


def _json(value: object) -> Response:
    return Response(encode(value), content_type='application/json')
