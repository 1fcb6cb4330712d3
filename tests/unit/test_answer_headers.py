"""Headers of all answers: no browser guesses a type, and no cache stores an answer that must not be stored."""

from __future__ import annotations

import base64
import xmlrpc.client
from collections.abc import Iterator

import pytest
from flask import Flask
from werkzeug.routing import Rule

from nipap.access.authentication import Authenticator, AuthSettings, Credentials
from nipap.backend import Backend
from nipap.flask_xmlrpc import create_app
from nipap.postgres.database import Database
from nipap.rest import api as flask_rest
from nipap.rest import v1 as flask_rest_v1
from nipap.www import front

LOGIN = {'Authorization': 'Basic ' + base64.b64encode(b'ann:secret').decode()}
# These are public, the same for all clients, and requested again with an ETag.
STATIC = ('openapi', 'docs', 'docs file')


class Knowing(Authenticator):
    """An authenticator that accepts every login."""

    def login(self, username: str, password: str, address: str | None = None) -> Credentials:
        return Credentials(username)


@pytest.fixture
def app() -> Flask:
    backend, authenticator = Backend(Database('host=/nowhere')), Knowing(AuthSettings('', 0, {}))
    made = create_app(backend, authenticator)
    flask_rest.add_to(made, backend, authenticator)
    flask_rest_v1.add_to(made, backend, authenticator)
    front.add_to(made, lambda: '')
    return made


def requests(app: Flask) -> Iterator[tuple[Rule, str, str]]:
    """Yield every method of every path, with numbers filled in."""
    for rule in app.url_map.iter_rules():
        values = {name: 'start.js' if name == 'name' else 7 for name in rule.arguments}
        built = app.url_map.bind('localhost').build(rule.endpoint, values)
        for method in sorted((rule.methods or set()) | {'PROPFIND'}):
            yield rule, method, built


@pytest.mark.parametrize('login', [{}, LOGIN], ids=['nobody', 'ann'])
def test_every_answer_of_every_path(app: Flask, login: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('nipap.postgres.database.PATIENCE_S', 0.0)
    monkeypatch.setattr('nipap.postgres.database.LATER_PATIENCE_S', 0.0)
    client = app.test_client()
    asked = [
        (rule, method, path, client.open(path, method=method, headers=login)) for rule, method, path in requests(app)
    ]
    asked += [(None, 'GET', path, client.get(path)) for path in ('/nowhere', '/api/v1/nowhere', '/api/docs/nowhere')]
    assert len(asked) > 60
    for rule, method, path, answer in asked:
        seen = f'{method} {path}: {answer.status} {answer.headers}'
        assert answer.headers.getlist('X-Content-Type-Options') == ['nosniff'], seen
        static = rule is not None and rule.endpoint in STATIC and answer.status_code == 200
        assert ('no-store' in answer.headers['Cache-Control']) != (static and method != 'OPTIONS'), seen


def test_a_value_over_xml_rpc(app: Flask) -> None:
    body = xmlrpc.client.dumps(({'auth': {'authoritative_source': 'test'}},), 'version')
    answer = app.test_client().post('/XMLRPC', data=body, headers=LOGIN)
    assert xmlrpc.client.loads(answer.data)
    assert answer.headers['X-Content-Type-Options'] == 'nosniff'
    assert answer.headers['Cache-Control'] == 'no-store'
