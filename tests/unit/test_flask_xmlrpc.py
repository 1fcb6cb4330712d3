"""The XML-RPC transport: rights, arguments, and an answer for every outcome that clients can read."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import io
import logging
import re
import xmlrpc.client
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from flask.testing import FlaskClient

from nipap import errors, flask_xmlrpc
from nipap.access.authentication import Actor, Credentials
from nipap.calls import CALLS, Request
from nipap.errors import AuthenticationFailedError, NipapError
from nipap.postgres.transaction import Outcome
from nipap.runtime.chunks import Chunks
from nipap.runtime.meter import Meter
from nipap.xmlrpc.codec import encode_response

AUTH = {'authoritative_source': 'nipap'}
PASSWORD = 'correct horse'
BASIC = {'Authorization': 'Basic ' + base64.b64encode(f'ann:{PASSWORD}'.encode()).decode()}
BEARER = {'Authorization': 'Bearer good.token'}
MAX_BODY = 200_000

# The permanent number of each error that a client can see.
CODES = {
    'NipapError': 1000,
    'NipapUnavailableError': 1010,
    'AuthUnavailableError': 1010,
    'NipapOutcomeUnknownError': 1020,
    'NipapBusyError': 1030,
    'NipapInputError': 1100,
    'NipapTooLargeError': 1100,
    'NipapMediaTypeError': 1100,
    'TooManyLoginsError': 1510,
    'NipapMissingInputError': 1110,
    'NipapExtraneousInputError': 1120,
    'NipapNoSuchOperatorError': 1130,
    'NipapValueError': 1200,
    'NipapPatternError': 1200,
    'NipapTimeoutError': 1210,
    'NipapPlanError': 1220,
    'NipapNonExistentError': 1300,
    'NipapNoPastError': 1310,
    'NipapDuplicateError': 1400,
    'NipapKeyReusedError': 1410,
    'NipapChangedError': 1600,
    'NipapPlanChangedError': 1610,
    'NipapConflictError': 1620,
    'AuthError': 1500,
    'AuthenticationMissingError': 1500,
    'AuthenticationFailedError': 1510,
    'AuthorizationFailedError': 1520,
}


class Knower:
    """A stand-in for the authenticator: ann is trusted, bob is not, and neither is the user of the token."""

    sign_ins = None

    def login(self, username: str, password: str, address: str | None = None) -> Credentials:
        if username not in ('ann', 'bob') or password != PASSWORD:
            raise AuthenticationFailedError('Incorrect username or password.')
        return Credentials(username, full_name=username.title(), trusted=username == 'ann')

    def login_token(self, token: str) -> Credentials:
        if token != 'good.token':
            raise AuthenticationFailedError('Invalid token.')
        return Credentials('token')


class Recorder:
    """A stand-in for the backend: it notes each call, and returns or raises the value of `answer`."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Actor, dict[str, Any]]] = []
        self.kept: list[tuple[Any, ...]] = []
        self.answer: Any = 'done'

    def perform(self, actor: Actor, request: Request, outcome: Outcome | None = None) -> Any:
        if outcome is not None:
            outcome.change_set = 7
        if request.key is not None:
            self.kept.append(('once', actor, request.call, request.members, request.key))
            return self.answer
        self.calls.append((request.call, actor, dict(request.members)))
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.fixture
def backend() -> Recorder:
    return Recorder()


@pytest.fixture
def client(backend: Recorder) -> FlaskClient:
    return flask_xmlrpc.create_app(backend, Knower(), max_body=MAX_BODY).test_client()


def body_of(method: str, *parameters: Any) -> bytes:
    return xmlrpc.client.dumps(parameters, method, allow_none=True).encode()


def post(client: FlaskClient, body: bytes, headers: dict[str, str] = BASIC, path: str = '/XMLRPC', **more: Any) -> Any:
    """Return the value of the answer, or raise its fault."""
    response = client.post(path, data=body, headers=headers, **more)
    assert response.status_code == 200
    assert response.headers['Content-Type'] == 'text/xml'
    assert int(response.headers['Content-Length']) == len(response.data)
    (value,), _ = xmlrpc.client.loads(response.data, use_builtin_types=True)
    return value


def call(client: FlaskClient, method: str, headers: dict[str, str] = BASIC, **members: Any) -> Any:
    return post(client, body_of(method, {'auth': AUTH, **members}), headers)


def fault_of(client: FlaskClient, body: bytes, headers: dict[str, str] = BASIC, **more: Any) -> tuple[int, str]:
    with pytest.raises(xmlrpc.client.Fault) as caught:
        post(client, body, headers, **more)
    return caught.value.faultCode, caught.value.faultString


# ---- calls


@pytest.mark.parametrize('path', ['/XMLRPC', '/RPC2'])
def test_a_call_and_its_answer(client: FlaskClient, backend: Recorder, path: str) -> None:
    backend.answer = {'id': 1, 'used_addresses': 2, 'added': datetime(2026, 11, 22, tzinfo=UTC), 'node': None}
    value = post(client, body_of('add_prefix', {'auth': AUTH, 'attr': {'prefix': '10.0.0.0/8'}}), path=path)
    assert value == {'id': 1, 'used_addresses': '2', 'added': datetime(2026, 11, 22), 'node': None}
    ((name, actor, members),) = backend.calls
    assert (name, members) == ('add_prefix', {'attr': {'prefix': '10.0.0.0/8'}, 'args': None})
    assert actor == Actor('ann', 'Ann', 'ann', 'nipap', readonly=False, trusted=True)


@pytest.mark.parametrize('method', CALLS)
def test_every_method_gets_its_members_and_no_others(client: FlaskClient, backend: Recorder, method: str) -> None:
    members = [member.name for member in CALLS[method].members]
    call(client, method, **dict.fromkeys(members, 'x'), unknown=1)
    call(client, method)
    assert [(name, passed) for name, _, passed in backend.calls] == [
        (method, dict.fromkeys(members, 'x')),
        (method, dict.fromkeys(members)),
    ]


@pytest.mark.parametrize('content_type', ['text/xml', 'application/xml', 'text/xml; charset=utf-8', ''])
def test_content_types_of_clients(client: FlaskClient, content_type: str) -> None:
    headers = {**BASIC, 'Content-Type': content_type}
    assert post(client, body_of('version', {'auth': AUTH}), headers) == 'done'


@pytest.mark.parametrize('method', ['GET', 'HEAD', 'PUT', 'DELETE'])
def test_only_post_is_answered(client: FlaskClient, method: str) -> None:
    assert client.open('/XMLRPC', method=method, headers=BASIC).status_code == 405
    assert client.open('/elsewhere', method=method, headers=BASIC).status_code == 404


def test_nothing_is_kept_for_the_next_request(client: FlaskClient) -> None:
    response = client.post('/XMLRPC', data=body_of('version', {'auth': AUTH}), headers=BASIC)
    assert 'Set-Cookie' not in response.headers


# ---- rights


@pytest.mark.parametrize(
    ('headers', 'fault'),
    [
        ({}, (1500, 'Missing authentication method')),
        ({'Authorization': 'Digest username="ann"'}, (1500, 'Missing authentication method')),
        (
            {'Authorization': 'Basic ' + base64.b64encode(b'ann:wrong').decode()},
            (1510, 'Incorrect username or password.'),
        ),
        ({'Authorization': 'Bearer bad'}, (1510, 'Invalid token.')),
    ],
)
@pytest.mark.parametrize(
    'body',
    [body_of('version', {'auth': AUTH}), body_of('version'), body_of('nope'), body_of('system.listMethods'), b'<noise'],
)
def test_credentials_are_looked_at_first(
    client: FlaskClient, backend: Recorder, headers: dict[str, str], fault: tuple[int, str], body: bytes
) -> None:
    assert fault_of(client, body, headers) == fault
    assert not backend.calls


def test_a_bearer_token(client: FlaskClient, backend: Recorder) -> None:
    call(client, 'version', BEARER)
    assert backend.calls[0][1].username == 'token'


@pytest.mark.parametrize(
    ('parameters', 'text'),
    [
        ((), 'NIPAP API functions take exactly 1 argument (0 given)'),
        (({'auth': AUTH}, {}), 'NIPAP API functions take exactly 1 argument (2 given)'),
        (('x',), 'NIPAP API functions take a struct as their argument (string given)'),
        ((None,), 'NIPAP API functions take a struct as their argument (nil given)'),
        (([{'auth': AUTH}],), 'NIPAP API functions take a struct as their argument (array given)'),
        ((datetime(2026, 1, 1),), 'NIPAP API functions take a struct as their argument (dateTime.iso8601 given)'),
        (({},), 'Missing/invalid authentication options in request.'),
        (({'auth': None},), 'Missing/invalid authentication options in request.'),
        (({'auth': 'nipap'},), 'Missing/invalid authentication options in request.'),
        (({'auth': {}},), 'Missing authoritative source in auth options.'),
        (({'auth': {'username': 'ann'}},), 'Missing authoritative source in auth options.'),
    ],
)
def test_arguments_of_the_wrong_shape(
    client: FlaskClient, backend: Recorder, parameters: tuple[Any, ...], text: str
) -> None:
    assert fault_of(client, body_of('list_vrf', *parameters)) == (1000, text)
    assert not backend.calls


def test_a_trusted_user_acts_for_somebody_else(client: FlaskClient, backend: Recorder) -> None:
    auth = {**AUTH, 'username': 'carol', 'full_name': 'Carol', 'readonly': True}
    bob = {'Authorization': 'Basic ' + base64.b64encode(f'bob:{PASSWORD}'.encode()).decode()}
    for headers in (BASIC, bob):
        post(client, body_of('version', {'auth': auth}), headers)
    for_carol, for_bob = (actor for _, actor, _ in backend.calls)
    assert for_carol == Actor('carol', 'Carol', 'ann', 'nipap', readonly=True, trusted=True)
    assert (for_bob.username, for_bob.readonly) == ('bob', False)


# ---- idempotency keys


def keyed(client: FlaskClient, header: str | None, method: str = 'add_prefix', **members: Any) -> Any:
    headers = BASIC if header is None else {**BASIC, 'Idempotency-Key': header}
    return post(client, body_of(method, {'auth': AUTH, 'attr': {}, **members}), headers)


@pytest.mark.parametrize(
    ('header', 'member', 'key'),
    [
        (None, 'k', 'k'),
        ('k', None, 'k'),
        ('"k"', None, 'k'),
        ('"k"', 'k', 'k'),
        (r'"a \"b\" \\c"', None, r'a "b" \c'),
        ('"k";p=1', None, 'k'),
        ('', None, ''),  # the transport does not judge the form of a key
        (None, 5, 5),
    ],
)
def test_a_key_comes_as_a_member_or_a_header(
    client: FlaskClient, backend: Recorder, header: str | None, member: Any, key: Any
) -> None:
    assert keyed(client, header, idempotency_key=member) == 'done'
    ((name, actor, *arguments),) = backend.kept
    assert (name, actor.username) == ('once', 'ann')
    assert arguments == ['add_prefix', {'attr': {}, 'args': None}, key]


@pytest.mark.parametrize(
    ('header', 'member', 'text'),
    [
        (
            '"k"',
            'l',
            "idempotency_key ('l') and the header Idempotency-Key ('k') differ, one is enough",
        ),
        ('"k', None, "Invalid header Idempotency-Key ('\"k'), must be one key in ASCII, in quotes or without"),
        ('"k", "l"', None, 'Invalid header'),
        ('kä', None, 'Invalid header'),
        ('"kä"', None, 'Invalid header'),
    ],
)
def test_a_key_that_makes_no_sense(client: FlaskClient, backend: Recorder, header: str, member: Any, text: str) -> None:
    with pytest.raises(xmlrpc.client.Fault) as caught:
        keyed(client, header, idempotency_key=member)
    assert caught.value.faultCode == 1100
    assert caught.value.faultString.startswith(text)
    assert not backend.calls
    assert not backend.kept


@pytest.mark.parametrize('method', sorted(name for name, call in CALLS.items() if not call.changes))
def test_what_changes_nothing_takes_no_key(client: FlaskClient, backend: Recorder, method: str) -> None:
    keyed(client, '"broken', method, idempotency_key='\n')
    assert [name for name, _, _ in backend.calls] == [method]


# ---- faults


def known_errors(base: type[NipapError] = NipapError) -> set[type[NipapError]]:
    found = {base}.union(*map(known_errors, base.__subclasses__()))
    return {error for error in found if error.__module__.startswith('nipap')}


def test_every_error_has_a_number() -> None:
    own = [error for error in known_errors() if error.__module__ == 'nipap.errors']
    assert {error.__name__: error.code for error in own} == CODES


@pytest.mark.parametrize('name', CODES)
def test_errors_arrive_as_faults(client: FlaskClient, backend: Recorder, name: str) -> None:
    backend.answer = getattr(errors, name)('no room <here>')
    assert fault_of(client, body_of('version', {'auth': AUTH})) == (CODES[name], 'no room <here>')


def test_an_unknown_method(client: FlaskClient) -> None:
    code, text = fault_of(client, body_of('drop_vrf', {'auth': AUTH}))
    assert code == 1100
    assert "'drop_vrf'" in text
    assert len(fault_of(client, body_of('x' * 10_000, {'auth': AUTH}))[1]) < 200


@pytest.mark.parametrize('name', ['__init__', 'answer', 'calls', 'system.nothing', '_call', 'funcs', ''])
def test_what_is_no_method_cannot_be_called(client: FlaskClient, name: str) -> None:
    assert fault_of(client, body_of(name, {'auth': AUTH}))[0] == 1100


@pytest.mark.parametrize('body', [b'', b'<noise', b'<!DOCTYPE m><methodCall/>', b'a=b&c=d'])
def test_malformed_requests(client: FlaskClient, body: bytes) -> None:
    code, text = fault_of(client, body)
    assert (code, text[:26]) == (1100, 'malformed XML-RPC request:')


@pytest.mark.parametrize(
    'exception', [KeyError('secret'), RecursionError('secret'), MemoryError('secret'), AssertionError('secret')]
)
def test_an_unexpected_exception_shows_nothing_but_a_number(
    client: FlaskClient, backend: Recorder, caplog: pytest.LogCaptureFixture, exception: Exception
) -> None:
    backend.answer = exception
    code, text = fault_of(client, body_of('version', {'auth': AUTH}))
    found = re.fullmatch('Internal error, request id ([0-9a-f]{10}-[0-9a-f]+)', text)
    assert code == 1000
    assert found is not None
    (logged,) = (record for record in caplog.records if record.levelno == logging.ERROR)
    assert found[1] in logged.getMessage()
    assert logged.exc_info is not None
    assert logged.exc_info[1] is exception
    assert PASSWORD not in caplog.text
    assert BASIC['Authorization'] not in caplog.text


def test_an_answer_that_cannot_be_encoded_is_an_internal_error(client: FlaskClient, backend: Recorder) -> None:
    backend.answer = {'a': object()}
    code, text = fault_of(client, body_of('version', {'auth': AUTH}))
    assert (code, text[:15]) == (1000, 'Internal error,')
    backend.answer = 'fine again'
    assert call(client, 'version') == 'fine again'


# ---- introspection


def test_list_methods(client: FlaskClient) -> None:
    names = post(client, body_of('system.listMethods'))
    assert names == sorted(names)
    assert set(names) == {*CALLS, *flask_xmlrpc.SYSTEM}
    assert 'system.multicall' in names


def test_method_help(client: FlaskClient) -> None:
    assert post(client, body_of('system.methodHelp', 'version')) == 'Return the version of the daemon.'
    assert post(client, body_of('system.methodHelp', 'system.listMethods')) == 'List the names of all methods.'
    assert post(client, body_of('system.methodHelp', 'system.multicall')).startswith('Make several calls, one after')
    for name in ('version', 'system.multicall'):
        assert post(client, body_of('system.methodSignature', name)) == 'signatures not supported'
    assert fault_of(client, body_of('system.methodHelp', 'nope'))[0] == 1100
    for parameters in ((), (1,), ({'auth': AUTH},), ('version', 'version')):
        assert fault_of(client, body_of('system.methodHelp', *parameters))[0] == 1100


# ---- several calls in a request


def several(client: FlaskClient, *calls: Any) -> list[Any]:
    answers: list[Any] = post(client, body_of('system.multicall', list(calls)), buffered=True)
    return answers


VERSION = {'methodName': 'version', 'params': [{'auth': AUTH}]}


def test_several_calls_go_through_the_door(client: FlaskClient, backend: Recorder) -> None:
    add = {'methodName': 'add_asn', 'params': [{'auth': AUTH, 'attr': {'asn': 1}, 'idempotency_key': 'a'}]}
    assert several(client, VERSION, add, VERSION) == [['done']] * 3
    assert [name for name, _, _ in backend.calls] == ['version', 'version']
    ((_, actor, name, members, key),) = backend.kept
    assert (actor.username, name, members, key) == ('ann', 'add_asn', {'attr': {'asn': 1}}, 'a')


def test_an_unexpected_exception_is_the_fault_of_its_call(
    client: FlaskClient, backend: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    backend.answer = KeyError('secret')
    (fault, names) = several(client, VERSION, {'methodName': 'system.listMethods', 'params': []})
    assert (fault['faultCode'], fault['faultString'][:15]) == (1000, 'Internal error,')
    assert 'version' in names[0]
    assert 'secret' not in str(fault)
    assert 'internal error in version' in caplog.text


def test_an_answer_that_fails_on_its_way_is_a_fault_and_nothing_of_it_is_sent(
    client: FlaskClient, backend: Recorder
) -> None:
    def read() -> Iterator[list[Any]]:
        yield [{'a': 'begun'}] * 10
        raise errors.NipapTimeoutError('too slow')

    backend.answer = Chunks(read)
    assert several(client, VERSION) == [{'faultCode': 1210, 'faultString': 'too slow'}]
    backend.answer = Chunks(lambda: iter([[{'a': 'x'}] * 2, [{'a': 'y'}]]))
    assert several(client, VERSION, VERSION) == [[[{'a': 'x'}, {'a': 'x'}, {'a': 'y'}]]] * 2


def test_answers_of_several_calls_are_bounded(
    client: FlaskClient, backend: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.answer = 'x' * 1000
    monkeypatch.setattr(flask_xmlrpc, 'MOST_ANSWERS', 1500)
    first, second, third, fourth = several(client, *[VERSION] * 4)
    assert first == second == [backend.answer]
    assert third['faultCode'] == fourth['faultCode'] == 1100
    assert len(backend.calls) == 2


def test_a_long_answer_of_several_calls_is_spooled(client: FlaskClient, backend: Recorder) -> None:
    backend.answer = ['x' * 1000] * 5000
    assert several(client, VERSION, VERSION) == [[backend.answer]] * 2


def test_several_calls_end_where_credentials_do(backend: Recorder) -> None:
    valid = iter([True, False])

    class Leaving(Knower):
        def login(self, username: str, password: str, address: str | None = None) -> Credentials:
            return dataclasses.replace(super().login(username, password, address), are_valid=lambda: next(valid))

    client = flask_xmlrpc.create_app(backend, Leaving(), max_body=MAX_BODY).test_client()
    first, second = several(client, VERSION, VERSION)
    assert first == ['done']
    assert second['faultCode'] == 1510
    assert len(backend.calls) == 1


def test_each_of_several_calls_is_counted_and_logged(backend: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    class Counting(Meter):
        def __init__(self) -> None:
            self.seen: list[tuple[str, int]] = []

        def call(self, method: str, code: int, seconds: float) -> None:
            assert seconds >= 0
            self.seen.append((method, code))

    meter = Counting()
    client = flask_xmlrpc.create_app(backend, Knower(), max_body=MAX_BODY, meter=meter).test_client()
    with caplog.at_level(logging.INFO, 'nipap.request'):
        several(client, VERSION, {'methodName': 'nope', 'params': []}, VERSION)
    assert meter.seen == [('version', 0), ('-', 1100), ('version', 0), ('system.multicall', 0)]
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split()[0] for line in lines] == ['version', '-', 'version', 'system.multicall']
    assert len({line.rpartition('request=')[2] for line in lines}) == 1


# ---- compression and size


def test_big_answers_are_compressed_when_asked_for(client: FlaskClient, backend: Recorder) -> None:
    backend.answer = [{'id': i, 'prefix': f'10.0.{i}.0/24'} for i in range(2000)]
    body = body_of('search_prefix', {'auth': AUTH})
    plain = client.post('/XMLRPC', data=body, headers={**BASIC, 'Accept-Encoding': 'gzip;q=0, identity'})
    packed = client.post('/XMLRPC', data=body, headers={**BASIC, 'Accept-Encoding': 'deflate, gzip'})
    assert 'Content-Encoding' not in plain.headers
    assert packed.headers['Content-Encoding'] == 'gzip'
    assert packed.headers['Vary'] == 'Accept-Encoding'
    assert gzip.decompress(packed.data) == plain.data
    assert len(packed.data) == int(packed.headers['Content-Length']) < len(plain.data) / 5
    assert xmlrpc.client.loads(plain.data)[0] == (backend.answer,)


def test_small_answers_are_not_compressed(client: FlaskClient) -> None:
    response = client.post(
        '/XMLRPC', data=body_of('version', {'auth': AUTH}), headers={**BASIC, 'Accept-Encoding': 'gzip'}
    )
    assert 'Content-Encoding' not in response.headers


LONG = [{'id': i, 'prefix': f'10.0.{i}.0/24', 'description': 'long ' * 160} for i in range(6000)]


@pytest.mark.parametrize('encoding', ['gzip', 'identity'])
def test_long_answers_are_the_same(client: FlaskClient, backend: Recorder, encoding: str) -> None:
    headers = {**BASIC, 'Accept-Encoding': encoding}
    for backend.answer in (Chunks(lambda: iter([LONG[:5000], LONG[5000:]])), LONG):
        with client.post('/XMLRPC', data=body_of('list_prefix', {'auth': AUTH}), headers=headers) as response:
            assert int(response.headers['Content-Length']) == len(response.data)
            assert ('Content-Encoding' in response.headers) == (encoding == 'gzip')
            plain = gzip.decompress(response.data) if encoding == 'gzip' else response.data
            assert plain == encode_response(LONG)


@pytest.mark.parametrize('rows_before', [0, 1, 6000])
@pytest.mark.parametrize(
    ('error', 'fault'),
    [(NipapError('no more'), (1000, 'no more')), (KeyError('no more'), (1000, 'Internal error, request id'))],
)
def test_an_error_in_the_middle_of_a_long_answer_is_a_fault(
    client: FlaskClient, backend: Recorder, rows_before: int, error: Exception, fault: tuple[int, str]
) -> None:
    ended = []

    def chunks() -> Iterator[list[Any]]:
        try:
            yield LONG[:rows_before]
            raise error
        finally:
            ended.append(True)

    backend.answer = Chunks(chunks)
    code, text = fault_of(client, body_of('list_prefix', {'auth': AUTH}))
    assert (code, text[: len(fault[1])]) == fault
    assert ended == [True]


def test_reading_ends_when_a_row_cannot_be_encoded(client: FlaskClient, backend: Recorder) -> None:
    ended = []

    def chunks() -> Iterator[list[Any]]:
        try:
            yield LONG
            yield [object()]
        finally:
            ended.append(True)

    backend.answer = Chunks(chunks)
    assert fault_of(client, body_of('list_prefix', {'auth': AUTH}))[0] == 1000
    assert ended == [True]


@pytest.mark.parametrize('encoding', ['gzip', 'x-gzip', 'GZIP'])
def test_compressed_requests(client: FlaskClient, encoding: str) -> None:
    body = gzip.compress(body_of('version', {'auth': AUTH}))
    assert post(client, body, {**BASIC, 'Content-Encoding': encoding}) == 'done'
    assert post(client, body_of('version', {'auth': AUTH}), {**BASIC, 'Content-Encoding': 'identity'}) == 'done'


@pytest.mark.parametrize(
    ('body', 'encoding', 'complaint'),
    [
        (b'plain', 'gzip', 'is not gzip'),
        (gzip.compress(b'<methodCall/>', mtime=0)[:-4], 'gzip', 'must be exactly one gzip stream'),
        (gzip.compress(b'<methodCall/>', mtime=0) + b'x', 'gzip', 'must be exactly one gzip stream'),
        (gzip.compress(b' ' * 100_000_000, mtime=0), 'gzip', f'too large, {MAX_BODY} bytes are accepted'),
        (b'x', 'br', "'br' is not supported"),
        (b' ' * (MAX_BODY + 1), 'identity', f'too large, {MAX_BODY} bytes are accepted'),
    ],
)
def test_bodies_that_are_not_read(client: FlaskClient, body: bytes, encoding: str, complaint: str) -> None:
    code, text = fault_of(client, body, {**BASIC, 'Content-Encoding': encoding})
    assert code == 1100
    assert complaint in text


def test_chunked_bodies(client: FlaskClient) -> None:
    headers = {**BASIC, 'Transfer-Encoding': 'chunked'}
    body = body_of('version', {'auth': AUTH})
    for size in (len(body), MAX_BODY + 1):
        stream = io.BytesIO(body.ljust(size))
        environ = {'wsgi.input': stream, 'wsgi.input_terminated': False, 'CONTENT_LENGTH': ''}
        response = client.post('/XMLRPC', headers=headers, environ_overrides=environ)
        assert (b'done' in response.data) == (size <= MAX_BODY)
        assert (b'too large' in response.data) == (size > MAX_BODY)


def test_a_body_that_ends_early(client: FlaskClient) -> None:
    environ = {'wsgi.input': io.BytesIO(b'<methodCall>'), 'CONTENT_LENGTH': '1000'}
    response = client.post('/XMLRPC', headers=BASIC, environ_overrides=environ)
    assert b'shorter than its Content-Length' in response.data


def test_a_body_of_the_largest_size(client: FlaskClient) -> None:
    body = body_of('version', {'auth': AUTH})
    assert post(client, body + b' ' * (MAX_BODY - len(body))) == 'done'


# ---- the log


def test_one_line_a_request(client: FlaskClient, backend: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, 'nipap.request')
    call(client, 'version')
    backend.answer = NipapError('no')
    fault_of(client, body_of('echo', {'auth': {**AUTH, 'username': "eve' fake"}}))
    fault_of(client, body_of('no\nsuch', {'auth': AUTH}))
    fault_of(client, body_of('version'), {})
    varying = r'[0-9]+\.[0-9](?= ms)|(?<=request=)\S+'
    lines = [re.sub(varying, 'N', r.getMessage()) for r in caplog.records if r.name == 'nipap.request']
    assert lines == [
        "version user='ann' N ms ok request=N",
        "echo user=\"eve' fake\" by='ann' N ms fault 1000 request=N",
        "- user='ann' N ms fault 1100 request=N",
        "- user='-' N ms fault 1500 request=N",
    ]
    assert PASSWORD not in caplog.text


# ---- ids of requests


def test_an_answer_has_the_id_of_its_request(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, 'nipap.request')
    given = {**BASIC, 'X-Request-ID': 'Az09._-' + 'x' * 121}
    answer = client.post('/XMLRPC', data=body_of('version', {'auth': AUTH}), headers=given)
    assert answer.headers.getlist('X-Request-ID') == [given['X-Request-ID']]
    assert caplog.messages[-1].endswith(f' request={given["X-Request-ID"]}')


@pytest.mark.parametrize('given', [None, '', 'x' * 129, 'a b', 'ä', 'a,b', 'a"'])
def test_an_id_is_made_when_none_can_be_used(client: FlaskClient, given: str | None) -> None:
    headers = BASIC if given is None else {**BASIC, 'X-Request-ID': given}
    ids = {
        client.post('/XMLRPC', data=body_of('version', {'auth': AUTH}), headers=headers).headers['X-Request-ID']
        for _ in range(3)
    }
    assert len(ids) == 3
    assert all(re.fullmatch('[0-9a-f]{10}-[0-9a-f]+', each) for each in ids)


@pytest.mark.parametrize(('verb', 'path', 'status'), [('GET', '/nothing', 404), ('DELETE', '/XMLRPC', 405)])
def test_a_request_without_a_call_has_an_id_too(client: FlaskClient, verb: str, path: str, status: int) -> None:
    client.post('/XMLRPC', data=body_of('version', {'auth': AUTH}), headers={**BASIC, 'X-Request-ID': 'former'})
    answer = client.open(path, method=verb, headers={'X-Request-ID': 'mine'})
    assert (answer.status_code, answer.headers['X-Request-ID']) == (status, 'mine')
    assert client.open(path, method=verb).headers['X-Request-ID'] not in ('mine', 'former')


def test_an_internal_error_is_told_with_the_id_that_the_client_gave(client: FlaskClient, backend: Recorder) -> None:
    backend.answer = KeyError('secret')
    code, text = fault_of(client, body_of('version', {'auth': AUTH}), {**BASIC, 'X-Request-ID': 'mine-7'})
    assert (code, text) == (1000, 'Internal error, request id mine-7')
