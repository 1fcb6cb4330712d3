"""The features of the XML-RPC face alone: paths, authentication, the one struct, introspection, bad requests."""

from __future__ import annotations

import base64
import gzip
import re
import xmlrpc.client
from typing import Any

import pytest
from contract_faces import SOURCE, USERS, Fault, XmlRpcFace, basic

import nipap
from nipap.calls import CALLS

AUTH = {'authoritative_source': SOURCE}
OPEN = "<?xml version='1.0'?><methodCall><methodName>{}</methodName><params>"
CLOSE = '</params></methodCall>'


@pytest.fixture
def face(xmlrpc_face: XmlRpcFace) -> XmlRpcFace:
    return xmlrpc_face


def sent(face: XmlRpcFace, *args: Any, **more: Any) -> Fault:
    with pytest.raises(Fault) as caught:
        face.send(*args, **more)
    return caught.value


def body_sent(face: XmlRpcFace, body: str | bytes) -> Fault:
    with pytest.raises(Fault) as caught:
        face.send_body(body if isinstance(body, bytes) else body.encode())
    return caught.value


@pytest.mark.parametrize('path', ['/XMLRPC', '/RPC2'])
def test_both_paths_serve(face: XmlRpcFace, path: str) -> None:
    assert face.send('version', {'auth': AUTH}, path=path) == nipap.__version__


def test_echo(face: XmlRpcFace) -> None:
    for value in ('hello', '', None, 7, True, 'å\n<&>', ['a', {'b': None}], 1.5):
        assert face.call('echo', message=value) == value
    assert face.call('echo') is None
    assert face.call('echo', message='late', sleep=0.01) == 'late'


def test_db_version_is_an_integer(face: XmlRpcFace) -> None:
    assert type(face.call('db_version')) is int


def test_unknown_members_are_ignored(face: XmlRpcFace) -> None:
    assert face.call('echo', message='x', bogus=1, attr={}) == 'x'
    assert len(face.call('list_vrf', vrf={}, query='?')) == 1
    assert face.send('echo', {'auth': {**AUTH, 'bogus': [1]}, 'message': 'x'}) == 'x'


@pytest.mark.parametrize('auth', [None, 'x', [], 7])
def test_auth_must_be_a_struct(face: XmlRpcFace, auth: Any) -> None:
    fault = sent(face, 'echo', {'auth': auth, 'message': 'x'})
    assert (fault.code, fault.text) == (1000, 'Missing/invalid authentication options in request.')


@pytest.mark.parametrize('auth', [{}, {'authoritative_source': None}, {'authoritative_source': 7}, {'username': 'x'}])
def test_authoritative_source_is_mandatory(face: XmlRpcFace, auth: dict[str, Any]) -> None:
    fault = sent(face, 'echo', {'auth': auth, 'message': 'x'})
    assert (fault.code, fault.text) == (1000, 'Missing authoritative source in auth options.')


def test_exactly_one_struct(face: XmlRpcFace) -> None:
    one = {'auth': AUTH}
    for count in (0, 2, 3):
        fault = sent(face, 'version', *[one] * count)
        assert (fault.code, fault.text) == (1000, f'NIPAP API functions take exactly 1 argument ({count} given)')
    assert sent(face, 'version', 'x').code in (1000, 1100)


@pytest.mark.parametrize(
    ('authorization', 'code', 'text'),
    [
        ('', 1500, 'Missing authentication method'),
        (basic('alice', 'wrong'), 1510, 'Incorrect username or password.'),
        (basic('nobody', 'x'), 1510, 'Incorrect username or password.'),
        (basic('alice', ''), 1510, 'Incorrect username or password.'),
        (basic('alice@nosuch', USERS['alice'][0]), 1510, None),
        ('Bearer junk', 1510, None),
        ('Basic ???', 1510, None),
        ('Basic ' + base64.b64encode(b'\xff\xfe').decode(), 1510, None),
        ('Digest x', 1500, None),
    ],
)
def test_authentication(face: XmlRpcFace, authorization: str, code: int, text: str | None) -> None:
    fault = sent(XmlRpcFace(face.post, authorization), 'version', {'auth': AUTH})
    assert fault.code == code
    if text is not None:
        assert fault.text == text
    assert not re.search(r'<class|Traceback|Error:|nipap\.', fault.text)


def test_the_backend_may_be_named(face: XmlRpcFace) -> None:
    named = XmlRpcFace(face.post, basic('alice@local', USERS['alice'][0]))
    assert named.call('version') == nipap.__version__


def test_list_methods(face: XmlRpcFace) -> None:
    names = face.send('system.listMethods')
    assert set(CALLS) | {'system.listMethods', 'system.methodHelp'} <= set(names)
    assert names == sorted(names)
    documented = {f'{verb}_{kind}' for kind in ('vrf', 'pool', 'prefix', 'asn') for verb in VERBS}
    documented |= {'version', 'db_version', 'echo', 'find_free_prefix', 'search_tag'}
    assert documented <= set(names)


VERBS = ('add', 'list', 'edit', 'remove', 'search', 'smart_search')


def test_method_help(face: XmlRpcFace) -> None:
    for name in face.send('system.listMethods'):
        assert face.send('system.methodHelp', name).strip(), f'{name} has no docstring'
    assert sent(face, 'system.methodHelp', 'bogus').code == 1100


@pytest.mark.parametrize('name', ['bogus', '', '__init__', 'call', 'system.bogus', 'multicall', 'Version', 'x' * 10000])
def test_an_unknown_method(face: XmlRpcFace, name: str) -> None:
    fault = sent(face, name, {'auth': AUTH})
    assert fault.code == 1100
    assert len(fault.text) < 300


@pytest.mark.parametrize(
    'body',
    [
        '',
        'hello',
        '<',
        '<methodCall>',
        '<methodCall></methodCall>',
        '<html><body/></html>',
        '<methodResponse><params/></methodResponse>',
        OPEN.format('echo')
        + '<param><value><struct><member><name>auth</name></member></struct></value></param>'
        + CLOSE,
        OPEN.format('echo') + '<param><value><int>x</int></value></param>' + CLOSE,
        OPEN.format('echo') + '<param><value><bogus/></value></param>' + CLOSE,
        OPEN.format('echo') + '<param><value>&#1;</value></param>' + CLOSE,
        OPEN.format('echo') + '<param><value>\x01</value></param>' + CLOSE,
        OPEN.format('echo') + '<param><value>&undefined;</value></param>' + CLOSE,
        OPEN.format('echo') + '<param><value><boolean>2</boolean></value></param>' + CLOSE,
        OPEN.format('echo') + '<param><value><dateTime.iso8601>never</dateTime.iso8601></value></param>' + CLOSE,
        '<!DOCTYPE methodCall [<!ENTITY a "x">]>' + OPEN.format('echo').split('?>')[1] + CLOSE,
        b'\xff\xfe\x00',
        b"<?xml version='1.0' encoding='utf-8'?><methodCall><methodName>\xe5</methodName></methodCall>",
    ],
)
def test_malformed_requests(face: XmlRpcFace, body: str | bytes) -> None:
    assert body_sent(face, body).code == 1100


def test_big_numbers_are_decimal_strings(face: XmlRpcFace) -> None:
    """Every such number is a string, and nil stays nil."""
    face.add_pool('p', ipv6_default_prefix_length=64)
    face.add_prefix('2001:db8::/32', pool_name='p')
    (vrf,) = face.call('list_vrf', vrf={'id': 0})
    (pool,) = face.call('list_pool', pool={'name': 'p'})
    (row,) = face.call('search_prefix', query={})['result']
    for answer in (vrf, pool, row):
        for name, value in answer.items():
            if '_addresses' in name or '_prefixes_' in name:
                assert value is None or (isinstance(value, str) and value.isdecimal()), name
            elif name in ('id', 'family', 'children', 'indent', 'prefix_length'):
                assert type(value) is int, name
    assert pool['free_prefixes_v4'] is None


def test_timestamps_are_of_the_wire(face: XmlRpcFace) -> None:
    """A timestamp has whole seconds and no zone, which means UTC. The decoder of the test refuses any other form."""
    row = face.add_prefix('10.0.0.0/8', expires='2031-05-06T07:08:09.123456+02:00')
    assert row['expires'].isoformat() == '2031-05-06T05:08:09+00:00'
    assert row['added'].microsecond == 0


@pytest.mark.parametrize('accepted', ['gzip', 'gzip, deflate', 'identity', ''])
def test_gzip_when_asked_for(face: XmlRpcFace, accepted: str) -> None:
    for number in range(40):
        face.add_prefix(f'10.0.{number}.0/24')
    plain, body = answer_of(face, {}), answer_of(face, {'Accept-Encoding': accepted})
    if 'gzip' in accepted:
        assert len(body) < len(plain) / 2
        body = gzip.decompress(body)
    assert body == plain


def answer_of(face: XmlRpcFace, headers: dict[str, str]) -> bytes:
    call = xmlrpc.client.dumps(({'auth': AUTH, 'prefix': {}},), 'list_prefix').encode()
    status, body = face.post('/RPC2', call, {'Authorization': face.authorization, **headers})
    assert status == 200
    return body


def test_the_standard_client_library_reads_every_answer(daemon_face: XmlRpcFace) -> None:
    """Read answers over a real socket: a conversation on one connection, with faults."""
    for _ in range(3):
        assert daemon_face.call('version') == nipap.__version__
        assert daemon_face.fault('list_vrf', vrf={'bogus': 1}).code == 1120
        assert body_sent(daemon_face, '<').code == 1100
    for path in ('/XMLRPC', '/RPC2'):
        assert daemon_face.send('version', {'auth': AUTH}, path=path) == nipap.__version__
