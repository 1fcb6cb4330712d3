"""The REST interface agrees with its description: generated requests are answered as described."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from functools import partial
from ipaddress import ip_network
from typing import Any

import pytest
import schemathesis
from contract_faces import USERS, basic
from contract_rest import rest_application
from databases import Standing
from flask import Flask
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, CheckContext, GenerationMode, Response
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from nipap.access.authentication import Authenticator
from nipap.rest.openapi import describe

pytestmark = pytest.mark.slow

NUMBER = st.integers(0, 2**32 - 1)


@st.composite
def _networks(draw: st.DrawFn) -> str:
    address = draw(st.ip_addresses())
    length = draw(st.integers(0, address.max_prefixlen))
    return str(ip_network((address, length), strict=False))


KINDS = ('vrf', 'pool', 'prefix', 'asn', 'tag', 'audit', 'change_set')
schemathesis.openapi.format('cidr', st.ip_addresses().map(str) | _networks())
schemathesis.openapi.format('route-target', st.tuples(NUMBER, NUMBER).map(lambda two: f'{two[0]}:{two[1]}'))
schemathesis.openapi.format('moment', st.datetimes().map(lambda at: f'{at.isoformat()}Z') | st.just('tomorrow'))
schemathesis.openapi.format('cursor', st.just(''))
OPERATIONS: dict[tuple[str, str], Any] = {
    (method.upper(), path): operation
    for path, item in describe('/api/v1')['paths'].items()
    for method, operation in item.items()
    if operation['operationId'] != 'stream_events'  # an answer without an end, with tests of its own
}
# A request that agrees with the description may be refused only for these reasons: they depend on stored objects, or no
# schema can express them. The texts of the refusals are listed by operation. (401, 403, 404 and 409 are never about the
# shape of a request.)
TREE = (
    "Prefix of type '?(host|assignment)'? must|Parent prefix .* must be of type|Not allowed to set 'node'|"
    'Unknown prefix type|Changing (VRF|type|from type)|Change not allowed|must be the same as the pools implied VRF'
)
POOL = '[Nn]on-existing pool|No prefixes (of family . )?in pool|the pool has no default prefix length'
HOSTS = 'A pool of default type host cannot have'
SHORT = 'must be between 0 and 32 for ipv4'
VALUES = "Invalid |Operator '|Default IPv|incorrect|regular expression"
REFUSALS = {
    'add_prefix': f'{TREE}|{POOL}',
    'edit_prefix': f'{TREE}|{POOL}',
    'add_pool': HOSTS,
    'edit_pool': HOSTS,
    'allocate_from_pool': f'{TREE}|{POOL}|{SHORT}',
    'allocate_from_prefix': f'{TREE}|{POOL}|{SHORT}',
    'find_free_in_pool': f'{POOL}|{SHORT}',
    'find_free_in_prefix': SHORT,
    **{f'search_{kind}': VALUES for kind in KINDS},  # the values that an operator takes depend on the attribute
    'batch': r'operation \d+ \(',  # the members of a call are those of XML-RPC
    'edit_vrf': 'must be NULL for VRF id 0',
    'remove_vrf': 'Prohibited delete of default VRF',
    'remove_prefix': 'Prohibited delete, prefix .* contains hosts',
    'add_webhook': 'printable characters|Invalid url',
    'edit_webhook': 'printable characters|Invalid url',
}
# Reasons of any operation: a key that was sent before, a tag of another state, a violated format (generators do not
# always heed formats), a text that is not understood, a state of the past that does not exist.
ANYWHERE = (
    'The idempotency key .* was used for another call|is not as expected|'
    "Invalid syntax for prefix|Invalid date|for option 'after'|Invalid q .*with lenient=1|"
    'for as_of|There is no change set|[Tt]he history (begins|up to)'
)
quietly = settings(
    max_examples=5,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
# The client of these tests does not decompress.
# This user has all rights.
AUTH = {'Accept-Encoding': 'identity', 'Authorization': basic('gateway', USERS['gateway'][0])}


def accepted_or_refused_for_a_reason(ctx: CheckContext, response: Response, case: Case) -> bool | None:
    """Check like `positive_data_acceptance`, but allow the known refusals of the operation."""
    known = REFUSALS.get(case.operation.definition.raw['operationId'])
    if 400 <= response.status_code < 500 and response.headers['content-type'] == ['application/problem+json']:
        detail = response.json()['detail']
        if re.search(ANYWHERE, detail) or (known and re.search(known, detail)):
            return None
    return positive_data_acceptance(ctx, response, case)


def refused_if_it_was_sent(ctx: CheckContext, response: Response, case: Case) -> bool | None:
    """Check like `negative_data_rejection`, but skip values that are left out of the written parameters.

    A dry run has the errors of the request in its answer.
    """
    if any(value in ([], {}, None) for value in (case.query or {}).values()):
        return None
    if response.status_code == 200 and b'"dry_run":true' in response.content:
        return None
    return negative_data_rejection(ctx, response, case)


@pytest.fixture
def app(standing: Standing, sound: None, authenticator: Authenticator) -> Flask:
    """Return the interface over a database with a few objects of each kind."""
    made = rest_application(standing, authenticator, max_body=100_000)
    stock(made)
    return made


LINKS = {'name': 'links', 'description': 'd', 'default_type': 'assignment'}
STOCK: tuple[tuple[str, dict[str, Any]], ...] = (
    ('vrfs', {'rt': '65000:1', 'name': 'customer', 'tags': ['t']}),
    ('pools', {**LINKS, 'ipv4_default_prefix_length': 30, 'ipv6_default_prefix_length': 64}),
    *(
        ('prefixes', {'prefix': prefix, 'type': kind, 'description': 'd', **more})
        for prefix, kind, more in (
            ('10.0.0.0/8', 'reservation', {'pool_name': 'links'}),
            ('10.0.0.0/24', 'assignment', {}),
            ('10.0.0.1', 'host', {}),
            ('2001:db8::/32', 'reservation', {'pool_name': 'links'}),
        )
    ),
    ('asns', {'asn': 1, 'name': 'one'}),
    ('webhooks', {'url': 'http://127.0.0.1:9/', 'secret': 'x' * 40}),
)


def stock(app: Flask) -> None:
    """Add the objects of the stock that are missing."""
    client = app.test_client()
    for plural, attr in STOCK:
        client.post(f'/api/v1/{plural}', json=attr, headers=AUTH)
        if 'pool_name' in attr:  # the pool may be a new one
            (found,) = client.get(f'/api/v1/prefixes?prefix={attr["prefix"]}&vrf_id=0', headers=AUTH).json['result']
            client.patch(f'/api/v1/prefixes/{found["id"]}', json={'pool_name': 'links'}, headers=AUTH)


NAMED = {'vrfs': 'rt=65000:1', 'pools': 'name=links', 'prefixes': 'prefix=10.0.0.0/8&vrf_id=0', 'asns': 'asn=1'}


def number_of(app: Flask, plural: str) -> int | None:
    """Return the number of an object of the stock, or None if it was removed."""
    path = f'/api/v1/{plural}?{NAMED.get(plural, "")}'
    found = app.test_client().get(path, headers=AUTH).json['result']
    return next((item['asn' if plural == 'asns' else 'id'] for item in found), None)


# No schema can express sense. So half of the requests are about an existing object, with these values.
SENSE: dict[str, dict[str, Any]] = {
    'allocate_from_pool': {'family': 4, 'prefix_length': 30, 'type': 'assignment', 'description': 'd'},
    'allocate_from_prefix': {'prefix_length': 24, 'type': 'reservation', 'description': 'd'},
    'find_free_in_pool': {'family': 6, 'prefix_length': 64},
    'find_free_in_prefix': {'prefix_length': 24},
    **{f'edit_{kind}': {'description': 'd'} for kind in ('vrf', 'pool', 'prefix', 'webhook')},
    'add_vrf': {'rt': '65000:9', 'name': 'sense'},
    'add_pool': {'name': 'sense', 'description': 'd', 'default_type': 'assignment'},
    'add_prefix': {'prefix': '10.9.0.0/16', 'type': 'reservation', 'description': 'd'},
    'add_asn': {'asn': 9, 'name': 'sense'},
    'add_webhook': {'url': 'https://example.net/', 'secret': 'x' * 40},
    'resend_dead_letter': {'ids': []},
    'list_sign_in': {'user': 'ann', 'address': '192.0.2.0/24', 'outcome': 'ok', 'limit': 5},
}


@pytest.mark.parametrize('plural', sorted({operation['tags'][0] for operation in OPERATIONS.values()}))
def test_it_answers_as_described(app: Flask, plural: str) -> None:
    schema = schemathesis.openapi.from_wsgi('/api/v1/openapi.json', app)
    chosen = [place for place, operation in OPERATIONS.items() if operation['tags'] == [plural]]
    done: dict[str, set[int]] = {}
    for (method, path), mode in itertools.product(chosen, GenerationMode):
        name = OPERATIONS[method, path]['operationId']
        cases = schema[path][method].as_strategy(generation_mode=mode).map(_of_its_own)
        stock(app)
        done.setdefault(name, set()).update(_exchange(cases))
        if mode == GenerationMode.POSITIVE:
            done[name] |= _exchange(cases.map(partial(_with_sense, app, plural, name)))
    assert {name: statuses for name, statuses in done.items() if min(statuses) >= 400} == {}


NUMBERS = itertools.count()


def _of_its_own(case: Case) -> Case:
    """Return a case with a fresh key and an existing tag, since no schema can express these.

    The generator likes to repeat words, and a key may be used only once.
    """
    if 'If-Match' in case.headers:
        case.headers['If-Match'] = '*'
    if case.headers.get('NIPAP-Read-Only') == 'true':  # all requests would be refused alike
        case.headers['NIPAP-Read-Only'] = 'false'
    if 'Idempotency-Key' in case.headers:
        case.headers['Idempotency-Key'] = f'{case.headers["Idempotency-Key"][:240]}{next(NUMBERS)}'
    return case


def _with_sense(app: Flask, plural: str, name: str, case: Case) -> Case:
    if 'key' in case.path_parameters:
        case.path_parameters['key'] = number_of(app, plural) or case.path_parameters['key']
    if name in SENSE:
        setattr(case, 'query' if case.method == 'GET' else 'body', SENSE[name])
    return case


def _exchange(cases: st.SearchStrategy[Case]) -> set[int]:
    """Return the statuses of the answers."""
    statuses = set()

    @quietly
    @given(case=cases)
    def check(case: Case) -> None:
        case.body, case.query = _whole(case.body), _whole(case.query)
        answer = case.call_and_validate(
            headers=AUTH,
            excluded_checks=[positive_data_acceptance, negative_data_rejection],
            additional_checks=[accepted_or_refused_for_a_reason, refused_if_it_was_sent],
        )
        statuses.add(answer.status_code)

    check()
    return statuses


def _whole(value: Any) -> Any:
    """Return a body with 1.0 written as 1: JSON Schema sees no difference, but the reader of a VLAN does."""
    if isinstance(value, Mapping):
        return {name: _whole(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_whole(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
