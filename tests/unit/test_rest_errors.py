"""Errors over REST: the statuses, permanent like the codes, and the answer to an unexpected error."""

from __future__ import annotations

import logging
import re
from typing import Any, cast

import pytest
from flask import Flask
from flask.testing import FlaskClient

from nipap import errors
from nipap.access.authentication import Authenticator, Credentials
from nipap.backend import Backend
from nipap.rest import api as flask_rest
from nipap.rest import v1 as flask_rest_v1
from nipap.rest.problems import CHALLENGES

#: The status and the code of each error.
STATUSES = {
    'NipapError': (400, 1000),
    'NipapUnavailableError': (503, 1010),
    'AuthUnavailableError': (503, 1010),
    'NipapOutcomeUnknownError': (504, 1020),
    'NipapBusyError': (503, 1030),
    'NipapInputError': (400, 1100),
    'NipapMissingInputError': (400, 1110),
    'NipapExtraneousInputError': (400, 1120),
    'NipapNoSuchOperatorError': (400, 1130),
    'NipapTooLargeError': (413, 1100),
    'NipapMediaTypeError': (415, 1100),
    'NipapValueError': (422, 1200),
    'NipapPatternError': (422, 1200),
    'NipapTimeoutError': (422, 1210),
    'NipapPlanError': (409, 1220),
    'NipapNonExistentError': (404, 1300),
    'NipapNoPastError': (410, 1310),
    'NipapDuplicateError': (409, 1400),
    'NipapKeyReusedError': (422, 1410),
    'NipapChangedError': (412, 1600),
    'NipapPlanChangedError': (409, 1610),
    'NipapConflictError': (409, 1620),
    'AuthError': (401, 1500),
    'AuthenticationMissingError': (401, 1500),
    'AuthenticationFailedError': (401, 1510),
    'TooManyLoginsError': (429, 1510),
    'AuthorizationFailedError': (403, 1520),
}
RETRY_AFTER = {503: '5', 504: '5', 429: '7'}
PASSWORD = 'a-secret-password'
HEADERS = {'Authorization': 'Basic YW5uOmEtc2VjcmV0LXBhc3N3b3Jk', 'NIPAP-Authoritative-Source': 'test'}
UNEXPECTED = [KeyError('secret'), RecursionError('secret'), MemoryError('secret'), AssertionError('secret')]


class Raiser:
    """A stand-in for the backend: every call raises the error in `error`."""

    error: Exception
    db = None

    def showing_alike(self) -> Raiser:
        return self

    def perform(self, *_: Any, **__: Any) -> Any:
        raise self.error

    def add_prefix(self, *_: Any) -> Any:
        raise self.error


class Knower:
    """A stand-in for the authenticator that accepts every login."""

    sign_ins = None

    def login(self, name: str, *_: object) -> Credentials:
        return Credentials(name, None, readonly=False, trusted=False)


@pytest.fixture
def backend() -> Raiser:
    return Raiser()


@pytest.fixture
def client(backend: Raiser) -> FlaskClient:
    app = Flask('test', static_folder=None)
    served, authenticator = cast(Backend, backend), cast(Authenticator, Knower())
    flask_rest.add_to(app, served, authenticator)
    flask_rest_v1.add_to(app, served, authenticator)
    return app.test_client()


def error_of(name: str) -> errors.NipapError:
    kind = getattr(errors, name)
    error = kind('no room <here>', 7) if kind is errors.TooManyLoginsError else kind('no room <here>')
    return cast(errors.NipapError, error)


def test_the_table_has_every_error() -> None:
    def known(base: type[errors.NipapError] = errors.NipapError) -> set[type[errors.NipapError]]:
        return {base}.union(*map(known, base.__subclasses__()))

    assert STATUSES.keys() == {error.__name__ for error in known() if error.__module__ == 'nipap.errors'}


@pytest.mark.parametrize('name', STATUSES)
def test_errors_arrive_as_problems(client: FlaskClient, backend: Raiser, name: str) -> None:
    backend.error = error_of(name).about('vlan')
    answer = client.post('/api/v1/prefixes', json={}, headers=HEADERS)
    status, code = STATUSES[name]
    assert (answer.status_code, answer.content_type) == (status, 'application/problem+json')
    title = answer.json.pop('title')
    assert title
    assert {key: value for key, value in answer.json.items() if key != 'title'} == {
        'type': 'about:blank',
        'status': status,
        'detail': 'no room <here>',
        'code': code,
        'attribute': 'vlan',
    }
    assert answer.headers.get('Retry-After') == RETRY_AFTER.get(status)
    assert answer.headers.getlist('WWW-Authenticate') == (list(CHALLENGES) if status == 401 else [])


@pytest.mark.parametrize('name', sorted(STATUSES.keys() - {'AuthenticationMissingError'}))
def test_errors_arrive_at_the_older_endpoint_as_they_did(client: FlaskClient, backend: Raiser, name: str) -> None:
    backend.error = error_of(name)
    answer = client.post('/rest/v1/prefixes', json={}, headers=HEADERS)
    assert (answer.status_code, answer.content_type) == (500, 'application/json')
    assert answer.json == {'error': {'code': STATUSES[name][1], 'message': 'no room <here>'}}


@pytest.mark.parametrize('exception', UNEXPECTED)
@pytest.mark.parametrize('path', ['/api/v1/prefixes', '/rest/v1/prefixes'])
def test_an_unexpected_exception_shows_nothing_but_a_number(
    client: FlaskClient, backend: Raiser, caplog: pytest.LogCaptureFixture, path: str, exception: Exception
) -> None:
    backend.error = exception
    answer = client.post(path, json={}, headers=HEADERS)
    assert answer.status_code == 500
    told = answer.json if path.startswith('/api') else answer.json['error']
    assert told['code'] == 1000
    found = re.fullmatch('Internal error, request id ([0-9a-f]{10}-[0-9a-f]+)', told.get('detail', told.get('message')))
    assert found is not None
    assert 'secret' not in answer.text
    (logged,) = (record for record in caplog.records if record.levelno == logging.ERROR)
    assert found[1] in logged.getMessage()
    assert logged.exc_info is not None
    assert logged.exc_info[1] is exception
    assert PASSWORD not in caplog.text
    assert HEADERS['Authorization'] not in caplog.text


@pytest.mark.parametrize(
    ('method', 'path', 'body', 'about'),
    [
        ('POST', '/batch', {'operations': [], 'bogus': 1}, 'bogus'),
        ('GET', '/prefixes/1/free?bogus=1', None, 'bogus'),
        ('GET', '/tags?q=x', None, 'q'),
    ],
)
def test_unknown_members_are_named_before_anything_is_called(
    client: FlaskClient, backend: Raiser, method: str, path: str, body: object, about: str
) -> None:
    backend.error = AssertionError('called')
    answer = client.open(f'/api/v1{path}', method=method, json=body, headers=HEADERS)
    assert (answer.status_code, answer.json['code'], answer.json['attribute']) == (400, 1100, about)
