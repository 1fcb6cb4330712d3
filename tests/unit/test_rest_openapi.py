"""The description of the REST interface is valid and complete, and agrees with the tables.

Its page needs no other host.
"""

from __future__ import annotations

import re
from typing import Any, cast

import pytest
from flask import Flask
from flask.testing import FlaskClient
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate

from nipap import errors
from nipap.access.authentication import Authenticator
from nipap.access.names import control_characters
from nipap.attributes import ASN, POOL, PREFIX, TAG, VRF, read_value
from nipap.backend import Backend
from nipap.rest import api as flask_rest
from nipap.rest import openapi as rest_openapi
from nipap.rest.problems import STATUSES
from nipap.rest.schemas import PRINTABLE

DESCRIPTION: dict[str, Any] = rest_openapi.describe('/api/v1')
METHODS = {'GET', 'POST', 'PUT', 'PATCH', 'DELETE'}
BESIDE = {'/openapi.json'}  # the description itself


@pytest.fixture
def app() -> Flask:
    made = Flask('test', static_folder=None)
    flask_rest.add_to(made, Backend(cast(Any, None)), cast(Authenticator, None))
    return made


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def test_it_is_valid() -> None:
    validate(DESCRIPTION)


def test_it_has_every_path_and_no_other(app: Flask) -> None:
    routed = {
        (method, re.sub('<(?:number:)?(.*?)>', r'{\1}', rule.rule.removeprefix('/api/v1')))
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith('/api/v1')
        for method in METHODS & (rule.methods or set())
    }
    described = {(method.upper(), path) for path, item in DESCRIPTION['paths'].items() for method in item}
    assert described == {(method, path) for method, path in routed if path not in BESIDE}


def test_names_of_operations_are_unique() -> None:
    names = [operation['operationId'] for item in DESCRIPTION['paths'].values() for operation in item.values()]
    assert len(names) == len(set(names))


def test_every_attribute_is_described_in_its_words() -> None:
    schemas = DESCRIPTION['components']['schemas']
    for name, table in (('Vrf', VRF), ('Pool', POOL), ('Prefix', PREFIX), ('Asn', ASN)):
        for attribute in table.values():
            assert schemas[name]['properties'][attribute.name]['description'] == attribute.doc
            if attribute.writable:
                assert attribute.doc in schemas[f'{name}Attr']['properties'][attribute.name]['description']
                assert attribute.name in schemas[f'{name}New']['properties']
            else:
                assert attribute.name not in schemas[f'{name}Attr']['properties']


def test_every_attribute_has_an_example_that_could_be_stored() -> None:
    for table in (VRF, POOL, PREFIX, ASN, TAG):
        for attribute in table.values():
            example = attribute.example
            if attribute.writable or attribute.kind in ('tags', 'avps', 'integer', 'asn', 'rt', 'enum'):
                read_value(attribute, example)
            elif attribute.kind == 'number':
                assert str(int(str(example))) == example
            else:
                assert example, attribute.name


def test_examples_are_as_the_schemas_say() -> None:
    schemas = DESCRIPTION['components']['schemas']
    examples = [
        (schema, example)
        for its in schemas.values()
        for schema in its.get('properties', {}).values()
        for example in schema.get('examples', ())
    ]
    bodies = [
        content
        for item in DESCRIPTION['paths'].values()
        for operation in item.values()
        for content in operation.get('requestBody', {'content': {}})['content'].values()
    ]
    assert len(bodies) > 15
    for schema, example in [*examples, *((content['schema'], content['example']) for content in bodies)]:
        OAS31Validator({**schema, 'components': DESCRIPTION['components']}).validate(example)


def test_operations_are_described_in_words_of_rest() -> None:
    """The descriptions for XML-RPC mention specs, members and nil."""
    for item in DESCRIPTION['paths'].values():
        for operation in item.values():
            text = operation['description']
            assert text.endswith('.'), text
            assert re.findall(r'``|\bspecs?\b|\bnil\b|`attr`|search_options|interpretation', text) == [], text
    for table in (VRF, POOL, PREFIX, ASN, TAG):
        assert [attribute.name for attribute in table.values() if re.search(r'\bnil\b', attribute.doc)] == []


def test_every_status_is_described_with_its_codes() -> None:
    for error, status in STATUSES.items():
        text = DESCRIPTION['components']['responses'][f'Problem{status}']['description']
        assert str(error.code) in text


def test_every_error_has_a_status() -> None:
    def known(base: type[errors.NipapError] = errors.NipapError) -> set[type[errors.NipapError]]:
        return {base}.union(*map(known, base.__subclasses__()))

    as_their_base = {errors.NipapPatternError, errors.AuthUnavailableError}
    assert set(STATUSES) == {error for error in known() if error.__module__ == 'nipap.errors'} - as_their_base
    assert all(400 <= status < 600 and status != 500 for status in STATUSES.values())


def test_the_description_is_served_to_anybody(client: FlaskClient) -> None:
    answer = client.get('/api/v1/openapi.json')
    assert (answer.status_code, answer.content_type, answer.json) == (200, 'application/json', DESCRIPTION)
    again = client.get('/api/v1/openapi.json', headers={'If-None-Match': answer.headers['ETag']})
    assert again.status_code == 304


def test_the_page_loads_nothing_from_elsewhere(client: FlaskClient) -> None:
    page = client.get('/api/docs')
    assert page.status_code == 200
    policy = dict(part.strip().split(' ', 1) for part in page.headers['Content-Security-Policy'].split(';'))
    assert policy['default-src'] == "'none'"
    assert policy['script-src'] == "'self'"
    assert 'http' not in page.headers['Content-Security-Policy']
    assert '//' not in page.text.replace('<!DOCTYPE', '')
    assert '<script>' not in page.text
    named = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    assert len(named) == 4
    for path in named:
        file = client.get(path)
        assert file.status_code == 200, path
        assert file.headers['X-Content-Type-Options'] == 'nosniff'
        assert len(file.data) > 50
    for path in ('/api/docs/x.js', '/api/docs/..%2fsetup.py', '/api/docs/index.html'):
        answer = client.get(path)
        assert (answer.status_code, answer.content_type) == (404, 'application/problem+json')


def test_no_character_is_described_as_printable_that_is_refused_in_names() -> None:
    refused = control_characters(''.join(map(chr, (*range(0xD800), *range(0xE000, 0xFFFE)))))
    assert not [character for character in refused if re.fullmatch(PRINTABLE['pattern'], character)]
