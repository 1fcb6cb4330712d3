"""The daemon's faces as fixtures. `api` plays a scenario over the Backend, over XML-RPC and over REST."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import databases
import pytest
from contract_faces import USERS, BackendFace, Face, Post, XmlRpcFace
from contract_rest import RestFace, rest_application
from databases import Standing
from support import cheap_hashes

from nipap.access.authentication import Authenticator, AuthSettings, BackendSettings
from nipap.access.local_users import LocalUser, LocalUsers
from nipap.backend import Backend
from nipap.flask_xmlrpc import create_app
from nipap.integrity import check
from nipap.postgres.database import Database
from nipapd.embedded import EmbeddedPostgres


@pytest.fixture(scope='session')
def users_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of the accounts of `USERS`. They are made once, since hashing passwords takes time."""
    path = tmp_path_factory.mktemp('accounts') / 'users.db'
    users = LocalUsers(path)
    users.create()
    with cheap_hashes():
        for name, (password, full_name, readonly, trusted) in USERS.items():
            users.add(LocalUser(name, full_name, trusted, readonly), password)
    return path


@pytest.fixture(autouse=True)
def _cheap_hashes() -> Iterator[None]:
    with cheap_hashes():
        yield


@pytest.fixture(scope='session')
def authenticator(users_file: Path) -> Iterator[Authenticator]:
    """Yield one authenticator for the run, with its cache of checked passwords."""
    local = BackendSettings('local', 'SqliteAuth', {'db_path': str(users_file)})
    made = Authenticator(AuthSettings('local', 3600, {'local': local}))
    yield made
    made.close()


@pytest.fixture(scope='session')
def _standing() -> Iterator[list[Standing]]:
    """Yield the databases that are not in use."""
    made: list[Standing] = []
    yield made
    for standing in made:
        standing.close()


@pytest.fixture
def standing(
    cluster: EmbeddedPostgres, template: str, _numbers: Iterator[int], _standing: list[Standing]
) -> Iterator[Standing]:
    """Yield an empty database with the schema for one test, with sessions that earlier tests have used."""
    yield from borrowed(cluster, template, _numbers, _standing)


def borrowed(
    cluster: EmbeddedPostgres, template: str, numbers: Iterator[int], idle: list[Standing]
) -> Iterator[Standing]:
    if idle:
        standing = idle.pop()
    else:
        name = f'test_{next(numbers)}'
        databases.create(cluster, name, template)
        standing = Standing(cluster, name)
    yield standing
    if standing.empty():
        idle.append(standing)
    else:
        standing.close()
        databases.drop(cluster, standing.name)


@pytest.fixture
def dsn(standing: Standing) -> str:
    return standing.dsn


@pytest.fixture
def db(standing: Standing) -> Database:
    return standing.db


@pytest.fixture
def sound(standing: Standing) -> Iterator[None]:
    """Check after the scenario that every counter, free range and rule of the tree agrees with the facts.

    The check takes as long as some calls. A database to which nothing was written is sound.
    """
    yield
    assert standing.is_untouched() or check.problems(standing.db) == []


@pytest.fixture
def backend_face(backend: Backend, sound: None) -> BackendFace:
    return BackendFace(backend)


@pytest.fixture
def xmlrpc_face(standing: Standing, sound: None, authenticator: Authenticator) -> XmlRpcFace:
    """Return the XML-RPC application in this process: everything but the sockets."""
    if 'XML-RPC' not in standing.applications:
        standing.applications['XML-RPC'] = create_app(Backend(standing.db), authenticator)
    client = standing.applications['XML-RPC'].test_client()

    def post(path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        with client.post(path, data=body, headers=dict(headers)) as response:
            return response.status_code, response.data

    return XmlRpcFace(post)


@pytest.fixture
def rest_face(standing: Standing, sound: None, authenticator: Authenticator) -> RestFace:
    """Return the REST application in this process."""
    client = rest_application(standing, authenticator).test_client()

    def exchange(method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> tuple[int, bytes]:
        with client.open(f'/api/v1{path}', method=method, data=body, headers=dict(headers)) as response:
            return response.status_code, response.data

    return RestFace(exchange)


@pytest.fixture
def daemon_face(daemon: Callable[..., Any], database_options: dict[str, str], users_file: Path) -> Iterator[XmlRpcFace]:
    """Yield a running daemon on a database of the test's own."""
    accounts = {'type': 'SqliteAuth', 'db_path': str(users_file)}
    running = daemon(config={'nipapd': {**database_options, 'forks': '2'}, 'auth.backends.local': accounts})
    connection = http.client.HTTPConnection(urlsplit(running.url()).netloc, timeout=60)
    yield XmlRpcFace(poster(connection))
    connection.close()


def poster(connection: http.client.HTTPConnection) -> Post:
    def post(path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        connection.request('POST', path, body, dict(headers))
        response = connection.getresponse()
        return response.status, response.read()

    return post


@pytest.fixture(
    params=[
        'backend_face',
        pytest.param('xmlrpc_face', marks=pytest.mark.slow),
        pytest.param('rest_face', marks=pytest.mark.slow),
    ]
)
def api(request: pytest.FixtureRequest) -> Face:
    """Return each face in turn, on a database with VRF 0 only. The faces over HTTP are slow."""
    return request.getfixturevalue(request.param)
