"""Pages of other sites cannot make a browser change anything with its stored credentials."""

from __future__ import annotations

import xmlrpc.client
from typing import Any

import pytest
from contract_faces import USERS, basic
from databases import Standing
from flask.testing import FlaskClient

from nipap import app
from nipap.access.authentication import Authenticator
from nipap.backend import Backend
from nipap.rest.routes import ROUTES

HEADERS = {'Authorization': basic('gateway', USERS['gateway'][0]), 'NIPAP-Authoritative-Source': 'test'}
FORM_TYPES = ('text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data; boundary=x')
CHANGES = sorted(route for route in ROUTES if route[0] != 'GET')
ADDITION = xmlrpc.client.dumps(
    ({'auth': {'authoritative_source': 'test'}, 'attr': {'asn': 1}},), 'add_asn', allow_none=True
)
LISTING = xmlrpc.client.dumps(({'auth': {'authoritative_source': 'test'}, 'asn': {}},), 'list_asn')


@pytest.fixture
def client(standing: Standing, authenticator: Authenticator) -> FlaskClient:
    if 'whole' not in standing.applications:
        standing.applications['whole'] = app.create(Backend(standing.db), authenticator)
    return standing.applications['whole'].test_client()


def sent(client: FlaskClient, body: str, **headers: str) -> Any:
    """Return the answer to a call, or its fault. Names of headers have underscores here."""
    given = {name.replace('_', '-'): value for name, value in headers.items()}
    answer = client.post('/XMLRPC', data=body, headers={**HEADERS, **given}, base_url='http://nipap.example.net:1337')
    assert answer.status_code == 200
    try:
        return xmlrpc.client.loads(answer.data)[0][0]
    except xmlrpc.client.Fault as fault:
        return fault


def stored(client: FlaskClient) -> list[Any]:
    found: list[Any] = sent(client, LISTING, Content_Type='text/xml')
    return found


@pytest.mark.parametrize('kind', [*FORM_TYPES, 'text/plain;charset=text/xml', 'text/plain, text/xml', 'x', ','])
def test_xml_rpc_takes_no_form(client: FlaskClient, kind: str) -> None:
    fault = sent(client, ADDITION, Content_Type=kind)
    assert fault.faultCode == 1100
    assert fault.faultString.endswith('is not supported, text/xml and application/xml are')
    assert stored(client) == []


@pytest.mark.parametrize(
    'headers',
    [
        {},  # very old programs
        {'Content_Type': 'text/xml'},  # xmlrpc.client, xmlrpclib of Python 2, pynipap, Apache XML-RPC
        {'Content_Type': 'text/xml; charset=utf-8'},
        {'Content_Type': 'Application/XML'},
        {'Content_Type': 'text/xml', 'Sec_Fetch_Site': 'same-origin', 'Origin': 'http://nipap.example.net:1337'},
        {'Content_Type': 'text/xml', 'Origin': 'https://name.before.the.proxy'},
        {'Sec_Fetch_Site': 'same-origin'},
        {'Origin': 'http://NIPAP.example.net:1337'},
    ],
)
def test_xml_rpc_takes_what_clients_send(client: FlaskClient, headers: dict[str, str]) -> None:
    assert sent(client, ADDITION, **headers) == {'asn': 1, 'name': None, 'version': 1}


@pytest.mark.parametrize(
    'headers',
    [
        {'Content_Type': 'text/xml', 'Sec_Fetch_Site': 'cross-site'},
        {'Content_Type': 'text/plain', 'Sec_Fetch_Site': 'cross-site'},
        {'Sec_Fetch_Site': 'Cross-Site'},
        {'Sec_Fetch_Site': 'same-site'},  # a body without a type
        {'Origin': 'https://evil.example'},
        {'Origin': 'http://nipap.example.net:8080'},
        {'Origin': 'null'},
    ],
)
def test_xml_rpc_takes_nothing_from_other_sites(client: FlaskClient, headers: dict[str, str]) -> None:
    assert sent(client, ADDITION, **headers).faultCode == 1520
    assert stored(client) == []
    # The refusal comes before any look at credentials: a page cannot try passwords, or use up the limit of an address.
    assert sent(client, ADDITION, **headers, Authorization=basic('alice', 'wrong')).faultCode == 1520


@pytest.mark.parametrize('route', CHANGES)
def test_rest_takes_nothing_from_other_sites(client: FlaskClient, route: tuple[str, str]) -> None:
    method, path = route[0], f'/api/v1{route[1].replace("{key}", "1")}'
    for authorization in (HEADERS['Authorization'], basic('alice', 'wrong')):
        headers = {**HEADERS, 'Sec-Fetch-Site': 'cross-site', 'Authorization': authorization}
        answer = client.open(path, method=method, json={}, headers=headers)
        assert (answer.status_code, answer.json['code']) == (403, 1520), answer.text


@pytest.mark.parametrize('path', sorted(path for method, path in CHANGES if method == 'POST'))
@pytest.mark.parametrize('kind', [*FORM_TYPES, None])
def test_rest_takes_no_form(client: FlaskClient, path: str, kind: str | None) -> None:
    """Browsers ask before all other methods and other types."""
    answer = client.post(f'/api/v1{path.replace("{key}", "1")}', data='{"asn": 1}', headers=HEADERS, content_type=kind)
    # A path without a body refuses every body. Forms of other sites name their site.
    assert answer.status_code == (400 if path.endswith(('/restore', '}/undo')) else 415), answer.text
    assert stored(client) == []


@pytest.mark.parametrize('method', ['POST', 'PUT', 'DELETE'])
def test_the_older_endpoint_takes_nothing_from_other_sites(client: FlaskClient, method: str) -> None:
    path, net = '/rest/v1/prefixes', {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'd'}
    answer = client.open(path, method=method, json=net, headers={**HEADERS, 'Sec-Fetch-Site': 'cross-site'})
    assert (answer.status_code, answer.json['error']['code']) == (500, 1520), answer.text
    # A form cannot send this header.
    headers = {name: value for name, value in HEADERS.items() if name != 'NIPAP-Authoritative-Source'}
    assert client.open(path, method=method, json=net, headers=headers).status_code == 401
