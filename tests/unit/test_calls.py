"""The table of calls: every face is made from it, and each description in it is true."""

from __future__ import annotations

import xmlrpc.client
from collections.abc import Iterator
from typing import Any, get_type_hints

import pytest
from flask import Flask
from flask.testing import FlaskClient

from nipap import answers, batch, calls
from nipap.access.authentication import Actor, Authenticator, AuthSettings
from nipap.backend import Backend
from nipap.calls import CALLS, Message, Mode, Request, Right, Steps
from nipap.errors import AuthorizationFailedError, NipapError, NipapInputError
from nipap.flask_xmlrpc import create_app
from nipap.objects.kinds import KINDS
from nipap.postgres.database import Database
from nipap.rest import api as flask_rest
from nipap.rest import openapi as rest_openapi
from nipap.rest import routes as rest_routes
from nipap.rest import schemas as rest_schemas

READER = Actor('r', None, 'r', 'test', readonly=True)
WRITER = Actor('w', None, 'w', 'test', readonly=False)
TRUSTED = Actor('t', None, 't', 'test', readonly=False, trusted=True)


@pytest.fixture
def nowhere() -> Backend:
    """Return a backend with an unreachable database."""
    return Backend(Database('host=/nowhere'))


@pytest.fixture
def without_asn() -> Iterator[str]:
    """Yield the name of a call that is taken out of the table. Restore the table in its order afterwards."""
    table = dict(CALLS)
    del CALLS['list_asn']
    yield 'list_asn'
    CALLS.clear()
    CALLS.update(table)


def test_a_call_that_is_taken_out_of_the_table_is_gone_from_every_face(nowhere: Backend, without_asn: str) -> None:
    with pytest.raises(NipapInputError, match="Unknown method 'list_asn'"):
        nowhere.perform(WRITER, Request(without_asn))
    with pytest.raises(NipapInputError, match="Unknown method 'list_asn'"):
        nowhere.list_asn(WRITER)
    operations = CALLS['batch'].members[1]
    with pytest.raises(NipapInputError, match="operation 0: Unknown method 'list_asn'"):
        operations.read([{'method': without_asn}])
    assert without_asn not in rest_schemas.schemas()['Operation']['properties']['method']['enum']
    paths = rest_openapi.describe('/api/v1')['paths']
    assert 'get' not in paths['/asns/{key}']
    assert 'patch' in paths['/asns/{key}']
    app = Flask('test')
    flask_rest.add_to(app, nowhere, Authenticator(AuthSettings('', 0, {})))
    rules = {(method, rule.rule) for rule in app.url_map.iter_rules() for method in rule.methods or ()}
    assert ('GET', '/api/v1/asns/<number:key>') not in rules
    assert ('PATCH', '/api/v1/asns/<number:key>') in rules


def test_every_route_has_its_call_and_is_described() -> None:
    described = rest_openapi.describe('/api/v1')['paths']
    routes = {(verb.upper(), path) for path, its in described.items() for verb in its}
    assert routes == set(rest_routes.ROUTES)
    assert {route.call for route in rest_routes.ROUTES.values()} <= {*CALLS, None}


def test_xmlrpc_lists_the_calls_of_the_table(without_asn: str) -> None:
    class Knower:
        sign_ins = None

        def login(self, name: str, *_: object) -> Any:
            from nipap.access.authentication import Credentials

            return Credentials(name)

    client: FlaskClient = create_app(Backend(Database('host=/nowhere')), Knower()).test_client()  # type: ignore[arg-type]
    headers = {'Authorization': 'Basic YW5uOng='}

    def call(method: str, *parameters: Any) -> Any:
        answer = client.post('/XMLRPC', data=xmlrpc.client.dumps(parameters, method), headers=headers)
        return xmlrpc.client.loads(answer.data)[0][0]

    listed = call('system.listMethods')
    assert without_asn not in listed
    assert set(CALLS) < set(listed)
    with pytest.raises(xmlrpc.client.Fault, match='Unknown method'):
        call('system.methodHelp', without_asn)
    with pytest.raises(xmlrpc.client.Fault, match='Unknown method'):
        call(without_asn, {'auth': {'authoritative_source': 'test'}})


@pytest.mark.parametrize('name', CALLS)
def test_the_right_is_asked_for_before_any_member_is_looked_at(nowhere: Backend, name: str) -> None:
    call = CALLS[name]

    def refused(actor: Actor) -> bool:
        try:
            nowhere.perform(actor, Request(name, dict.fromkeys((member.name for member in call.members), object())))
        except AuthorizationFailedError:
            return True
        except NipapError:
            pass
        return False

    assert refused(READER) == (call.right is not Right.READ)
    assert refused(WRITER) == (call.right is Right.ADMINISTER)
    assert not refused(TRUSTED)


@pytest.mark.parametrize('call', CALLS.values(), ids=CALLS)
def test_a_call_is_described(call: calls.Call) -> None:
    assert call.doc[0].isupper()
    assert call.doc.partition('.')[1]
    assert len({member.name for member in call.members}) == len(call.members)
    for member in call.members:
        assert member.doc.endswith('.'), member.name
        assert not member.required or member.example is not None, member.name


@pytest.mark.parametrize('call', CALLS.values(), ids=CALLS)
def test_the_examples_of_a_call_can_be_read(call: calls.Call) -> None:
    given = {member.name: member.example for member in call.members if member.required}
    given |= {'change_set': 1} if call.name == 'undo' else {}  # it needs one of two members
    members = call.read(given)
    hash(call.mode)  # a frozen mode is hashable
    assert call.changes == (call.mode not in (Mode.READ, Mode.COMPUTE))
    assert isinstance(call.mode, Mode | Message | Steps)
    if call.name == 'batch':
        assert isinstance(members[1][0], batch.Operation)


def test_every_error_of_the_members_is_collected() -> None:
    attr = {'prefix': '10.0.0.1/8', 'type': 'nothing', 'vlan': 'x', 'country': 'Sweden', 'description': ''}
    with pytest.raises(NipapError) as caught:
        CALLS['add_prefix'].read({'attr': attr})
    told = [caught.value, *caught.value.others]
    assert [error.attribute for error in told][1:] == ['type', 'vlan', 'country']
    assert 'bits set to right of mask' in str(told[0])


OBJECTS = {'vrf': answers.Vrf, 'pool': answers.Pool, 'prefix': answers.Prefix, 'asn': answers.Asn}


@pytest.mark.parametrize('name', OBJECTS)
def test_the_type_of_an_object_has_its_attributes_and_no_any(name: str) -> None:
    hints = get_type_hints(OBJECTS[name])
    assert Any not in hints.values()
    assert set(hints) - {'match', 'display'} == set(KINDS[name].table)
