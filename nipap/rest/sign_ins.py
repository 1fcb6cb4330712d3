"""The log of sign-ins over REST: ``/api/v1/sign-ins``."""

from __future__ import annotations

from typing import Any

from flask import Response
from flask.globals import request_ctx

from nipap.access.authentication import Actor
from nipap.access.sign_in_rows import FILTERS
from nipap.rest.interface import Api
from nipap.rest.objects import encode


def add_to(app: Any, api: Api) -> None:
    """Add the path to an application."""

    def listed(actor: Actor) -> Response:
        args = request_ctx.request.args
        members = {
            'sign_in': {name: args[name] for name in FILTERS if name in args},
            **{name: args.get(name) for name in ('since', 'until', 'after')},
            'max_result': args.get('limit'),
        }
        response = Response(encode({'result': api.look(actor, 'list_sign_in', members)}))
        response.content_type = 'application/json'
        response.headers['Cache-Control'] = 'private, no-store'
        return response

    api.connect(app, 'GET', '/sign-ins', listed)
