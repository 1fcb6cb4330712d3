"""The REST interface keeps to its description: requests that a machine makes of it are answered as it says."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import partial
from ipaddress import ip_network
from typing import Any

import pytest
import schemathesis
from contract_faces import USERS, basic
from flask import Flask
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from nipap import flask_rest
from nipap.authlib import Authenticator
from nipap.backend import Backend
from nipap.rest_openapi import describe

NUMBER = st.integers(0, 2**32 - 1)


@st.composite
def _networks(draw: st.DrawFn) -> str:
    address = draw(st.ip_addresses())
    length = draw(st.integers(0, address.max_prefixlen))
    return str(ip_network((address, length), strict=False))


KINDS = ('vrf', 'pool', 'prefix', 'asn', 'tag')
schemathesis.openapi.format('cidr', st.ip_addresses().map(str) | _networks())
schemathesis.openapi.format('route-target', st.tuples(NUMBER, NUMBER).map(lambda two: f'{two[0]}:{two[1]}'))
schemathesis.openapi.format('moment', st.datetimes().map(lambda at: f'{at.isoformat()}Z') | st.just('tomorrow'))
schemathesis.openapi.format('cursor', st.just(''))
OPERATIONS: dict[tuple[str, str], Any] = {
    (method.upper(), path): operation
    for path, item in describe('/api/v1')['paths'].items()
    for method, operation in item.items()
    if operation['operationId'] != 'stream_events'  # an answer without an end; it has tests of its own
}
# What is sent as described may still be refused here, for what no schema can say.
RULES = {
    'list_prefix': 'moments are written in words too',
    'add_prefix': 'the rules of the tree: a host needs an assignment around it',
    'edit_prefix': 'the same, and a prefix stays in its VRF',
    'allocate_from_pool': 'family and length depend on the pool, its type on what is allocated',
    'allocate_from_prefix': 'the length depends on the prefix',
    'find_free_in_pool': 'the length depends on the family',
    'find_free_in_prefix': 'the length depends on the prefix',
    **{f'search_{kind}': 'which values an operator takes depends on the attribute' for kind in KINDS},
    'batch': 'the members of a call are those of XML-RPC',
    'remove_prefix': 'an assignment with hosts goes with them only',
    'edit_vrf': 'VRF 0 has no route target',
    'remove_vrf': 'VRF 0 stays, and so does one with prefixes',
    'add_webhook': 'which URLs and secrets are accepted',
    'edit_webhook': 'the same',
    'resend_dead_letter': 'numbers that no id can be',
}
quietly = settings(
    max_examples=5,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
# The client of these tests does not decompress.
IDENTITY = {'Accept-Encoding': 'identity'}


def headers_for(plural: str) -> dict[str, str]:
    """Those of somebody who may: webhooks are for trusted users."""
    user = 'gateway' if plural == 'webhooks' else 'alice'
    return IDENTITY | {'Authorization': basic(user, USERS[user][0])}


@pytest.fixture
def app(backend: Backend, sound: None, authenticator: Authenticator) -> Flask:
    """The interface over a database that holds a little of everything."""
    made = Flask('test', static_folder=None)
    flask_rest.add_to(made, backend, authenticator, max_body=100_000)
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
    """Add what is not there, or there no more."""
    client = app.test_client()
    for plural, attr in STOCK:
        client.post(f'/api/v1/{plural}', json=attr, headers=headers_for(plural))
        if 'pool_name' in attr:  # the pool may be another than that of before
            (found,) = client.get(
                f'/api/v1/prefixes?prefix={attr["prefix"]}&vrf_id=0', headers=headers_for(plural)
            ).json['result']
            client.patch(f'/api/v1/prefixes/{found["id"]}', json={'pool_name': 'links'}, headers=headers_for(plural))


NAMED = {'vrfs': 'rt=65000:1', 'pools': 'name=links', 'prefixes': 'prefix=10.0.0.0/8&vrf_id=0', 'asns': 'asn=1'}


def number_of(app: Flask, plural: str) -> int | None:
    """The number of an object of the stock, or None when it is there no more."""
    path = f'/api/v1/{plural}?{NAMED.get(plural, "")}'
    found = app.test_client().get(path, headers=headers_for(plural)).json['result']
    return next((item['asn' if plural == 'asns' else 'id'] for item in found), None)


# What makes sense, since no schema can say it: half of the requests are about something that is there, like this.
SENSE: dict[str, dict[str, Any]] = {
    'allocate_from_pool': {'family': 4, 'prefix_length': 30, 'type': 'assignment', 'description': 'd'},
    'allocate_from_prefix': {'prefix_length': 24, 'type': 'reservation', 'description': 'd'},
    'find_free_in_pool': {'family': 6, 'prefix_length': 64},
    'find_free_in_prefix': {'prefix_length': 24},
    **{f'edit_{kind}': {'description': 'd'} for kind in ('vrf', 'pool', 'prefix', 'webhook')},
    'add_webhook': {'url': 'https://example.net/', 'secret': 'x' * 40},
    'resend_dead_letter': {'ids': []},
}


@pytest.mark.parametrize('plural', sorted({operation['tags'][0] for operation in OPERATIONS.values()}))
def test_it_answers_as_described(app: Flask, plural: str) -> None:
    schema = schemathesis.openapi.from_wsgi('/api/v1/openapi.json', app)
    chosen = [place for place, operation in OPERATIONS.items() if operation['tags'] == [plural]]
    done: dict[str, set[int]] = {}
    for (method, path), mode in itertools.product(chosen, GenerationMode):
        name = OPERATIONS[method, path]['operationId']
        excluded = [positive_data_acceptance] if name in RULES else []
        if name.startswith('list_'):  # what is wrong may be left out when the parameters are written
            excluded.append(negative_data_rejection)
        cases = schema[path][method].as_strategy(generation_mode=mode)
        cases = cases.map(_of_its_own)
        stock(app)
        done.setdefault(name, set()).update(_exchange(cases, plural, excluded))
        if mode == GenerationMode.POSITIVE:
            done[name] |= _exchange(cases.map(partial(_with_sense, app, plural, name)), plural, excluded)
    assert {name: statuses for name, statuses in done.items() if min(statuses) >= 400} == {}


NUMBERS = itertools.count()


def _of_its_own(case: Case) -> Case:
    """No schema can say that a key was not used, as words are that the generator likes, nor which tag there is."""
    if 'If-Match' in case.headers:
        case.headers['If-Match'] = '*'
    if 'Idempotency-Key' in case.headers:
        case.headers['Idempotency-Key'] = f'{case.headers["Idempotency-Key"][:240]}{next(NUMBERS)}'
    return case


def _with_sense(app: Flask, plural: str, name: str, case: Case) -> Case:
    if 'key' in case.path_parameters:
        case.path_parameters['key'] = number_of(app, plural) or case.path_parameters['key']
    if name in SENSE:
        setattr(case, 'query' if case.method == 'GET' else 'body', SENSE[name])
    return case


def _exchange(cases: st.SearchStrategy[Case], plural: str, excluded: list[Any]) -> set[int]:
    """The statuses of the answers."""
    statuses = set()

    @quietly
    @given(case=cases)
    def check(case: Case) -> None:
        case.body, case.query = _whole(case.body), _whole(case.query)
        answer = case.call_and_validate(headers=headers_for(plural), excluded_checks=excluded)
        statuses.add(answer.status_code)

    check()
    return statuses


def _whole(value: Any) -> Any:
    """What is sent with 1.0 written as 1: JSON Schema sees no difference, those who read a VLAN do."""
    if isinstance(value, Mapping):
        return {name: _whole(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_whole(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
