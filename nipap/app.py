"""The application of a daemon: every transport over one backend."""

from __future__ import annotations

from typing import cast

from flask import Flask

from nipap import flask_xmlrpc
from nipap.access.authentication import Authenticator
from nipap.backend import Backend
from nipap.http.bodies import MAX_BODY
from nipap.postgres.database import Database
from nipap.rest import api, v1
from nipap.runtime.meter import SILENT, Meter
from nipap.www import front


def create(backend: Backend, authenticator: Authenticator, *, max_body: int = MAX_BODY, meter: Meter = SILENT) -> Flask:
    """Return the WSGI application that offers a backend over XML-RPC, REST and the older endpoint.

    max_body: the largest body of a request in bytes, also after decompression. meter: counts calls.
    """
    application = flask_xmlrpc.create_app(backend, authenticator, max_body=max_body, meter=meter)
    for transport in (api, v1):
        transport.add_to(application, backend, authenticator, max_body=max_body, meter=meter)
    # An application is never made inside a transaction, so the backend has a database.
    front.add_to(application, front.Health(cast(Database, backend.db)))
    return application
