"""Harnesses for a fuzzer: functions that return for any bytes, or have found a bug.

Each harness is used twice. `fuzz.py` has a coverage-guided fuzzer call it. `test_corpus.py` replays interesting inputs.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import functools
import gzip
import ipaddress
import json
import os
import shutil
import tempfile
import xmlrpc.client
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest import mock

from choices_of_bytes import Choices
from flask import Request
from werkzeug.test import EnvironBuilder

from nipap.access import local_users
from nipap.access.authentication import Authenticator, AuthSettings, BackendSettings
from nipap.addresses import parse_network, parse_route_target
from nipap.attributes import ASN, POOL, PREFIX, TAG, VRF, Attribute, check_text, read_value
from nipap.cli import sheet
from nipap.cli.records import FileError
from nipap.errors import NipapError, NipapInputError
from nipap.history import idempotency
from nipap.http.bodies import read_body
from nipap.http.credentials import credentials_from_request, idempotency_key
from nipap.objects.kinds import KINDS
from nipap.runtime import packed
from nipap.search import patterns, smart_parsing
from nipap.search.paging import ASNS, POOLS, PREFIXES, TAGS, VRFS, read_options, read_prefix_options
from nipap.search.query import Condition, compile_query
from nipap.text import forbidden_character
from nipap.xmlrpc import codec as wire
from nipapd import config

TABLES = {'vrf': VRF, 'pool': POOL, 'prefix': PREFIX, 'asn': ASN, 'tag': TAG}
NAMES = sorted({name for table in TABLES.values() for name in table} | {'avps.k', 'avps.'})
ATTRIBUTES: list[Attribute] = [attribute for table in TABLES.values() for attribute in table.values()]
OPERATORS = (
    *('and', 'or', 'equals', '=', '!=', 'not_equals', '<', 'less', '>=', 'greater', 'like', '~', '!~*', 'regex_match'),
    *('contains', 'contains_equals', 'contained_within', '<<=', 'equals_any', 'is', 'is_not', ''),
)
OPTIONS = (
    *('max_result', 'offset', 'after', 'parents_depth', 'children_depth', 'parent_prefix', 'include_neighbors'),
    *('include_all_parents', 'include_all_children'),
)
MAX_BODY = 10_000


# ---------------------------------------------------------------------------------------------------- on the wire


def request(data: bytes) -> None:
    """Decode a request or refuse it. If the standard library decodes it too, both read it alike."""
    try:
        method, parameters = wire.decode_request(data)
    except NipapInputError as error:
        assert len(str(error)) < 1000  # noqa: PT017  (not raising is fine too)
        return
    wire.encode_response(parameters)
    try:
        theirs = xmlrpc.client.loads(data, use_builtin_types=True)
    except Exception:
        return  # The standard library accepts less, dates in particular.
    assert theirs[1] == method or str(theirs[1]).strip() == method
    assert _canonical(list(theirs[0])) == _canonical(parameters), (theirs, parameters)


def _canonical(value: Any) -> str:
    """Return a value as text in which a number has its type and a time no zone."""
    if isinstance(value, dict):
        return f'{{{[(name, _canonical(value[name])) for name in sorted(value, key=repr)]}}}'
    if isinstance(value, list | tuple):
        return f'[{list(map(_canonical, value))}]'
    if isinstance(value, datetime):
        return value.replace(tzinfo=None, microsecond=0).isoformat()
    return repr(value)


def round_trip(data: bytes) -> None:
    """Encode a value and decode it to the same value, also with the standard library."""
    choices = Choices(data)
    value = choices.value(('a', 'total_addresses', 'x' * 70, '&<>', 'prefix'))
    if choices.number(3) == 2:
        value = [value] * (1 + choices.number(200) * 8)  # Rows, and lists that are encoded in slices.
    body = wire.encode_request('m', value)
    expected = _canonical(_as_sent(value))
    if 'nan' not in expected and 'inf' not in expected:
        method, (read,) = wire.decode_request(body)
        assert method == 'm'
        assert _canonical(read) == expected, (read, value)
    (theirs,), _ = xmlrpc.client.loads(wire.encode_response(value), use_builtin_types=True)
    assert _canonical(theirs) == expected, (theirs, value)


def _as_sent(value: Any, name: str = '') -> Any:
    if isinstance(value, dict):
        return {_sendable(key): _as_sent(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_sent(item) for item in value]
    if isinstance(value, str):
        return _sendable(value)
    if type(value) is int and ('_addresses' in name or not -(2**31) <= value < 2**31):
        return str(value)
    return value


def _sendable(text: str) -> str:
    return ''.join('\ufffd' if forbidden_character(character) else character for character in text)


def _request(choices: Choices, body: bytes = b'') -> Request:
    builder = EnvironBuilder(path='/XMLRPC', method='POST', data=body)
    environ = builder.get_environ()
    builder.close()
    for name in ('HTTP_AUTHORIZATION', 'HTTP_IDEMPOTENCY_KEY', 'HTTP_CONTENT_ENCODING', 'HTTP_ACCEPT_ENCODING'):
        if choices.number(2):
            environ[name] = choices.take(choices.number(64)).decode('latin-1')
    return Request(environ)


@functools.cache
def _scratch() -> Path:
    path = tempfile.mkdtemp(prefix='nipap-fuzz-')
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return Path(path)


@functools.cache
def _authenticator() -> Authenticator:
    tokens = BackendSettings('tokens', 'JwtAuth', {'signing_key': 'k' * 32})
    return Authenticator(AuthSettings('tokens', 3600, {'tokens': tokens}))


def header(data: bytes) -> None:
    """Prove or refuse credentials and keys in headers."""
    choices = Choices(data)
    made = _request(choices)
    scheme = choices.one(('', 'Basic ', 'Bearer ', 'basic  ', 'BEARER\t'))
    made.environ['HTTP_AUTHORIZATION'] = scheme + choices.rest().decode('latin-1')
    # A cheap hash, since each input with a password hashes it.
    with contextlib.suppress(NipapError), mock.patch.object(local_users, '_LOG2_N', 4):
        credentials_from_request(made, _authenticator())
        raise AssertionError('nobody has the key')
    with contextlib.suppress(NipapError):
        key = idempotency_key(made, {})
        assert key is None or isinstance(key, str)
        idempotency.read_key(key)


def body(data: bytes) -> None:
    """Read a compressed body as gzip does, or refuse it."""
    choices = Choices(data)
    packed = bytearray(gzip.compress(choices.take(choices.number(64)) * (1 + choices.number(255)), mtime=0))
    for _ in range(choices.number(4)):
        packed[choices.number(len(packed))] = choices.number(256)
    sent = bytes(packed) + choices.rest() if choices.number(2) else choices.rest()
    made = _request(Choices(b''), sent)
    made.environ['HTTP_CONTENT_ENCODING'] = choices.one(('gzip', 'x-gzip', ' GZIP '))
    try:
        plain = read_body(made, MAX_BODY)
    except NipapInputError:
        return
    assert len(plain) <= MAX_BODY
    assert plain == gzip.decompress(sent)


# ---------------------------------------------------------------------------------------------------- searches


def smart_search(data: bytes) -> None:
    """Parse any text as a smart search, and compile the result."""
    text = data[1:].decode(
        'utf-8' if data[:1] < b'\x80' else 'utf-16-le', 'surrogatepass' if _pairs(data) else 'replace'
    )
    for kind in KINDS.values():
        understood = kind.parse(text, kind.knows, kind.accepts)
        assert understood.error == (understood.error_message is not None)
        wire.encode_response(understood.query)
        if understood.error:
            continue
        words = smart_parsing.words(understood.query)
        literal = {word: patterns.literal(word) for word in words}
        refused = {word: pattern for word, pattern in literal.items() if patterns.objection(word)}
        for replacements in (refused, literal):
            query = smart_parsing.replace_words(understood.query, replacements)
            try:
                check_text(text)
                _check(compile_query(query, kind.table))
            except NipapError:
                assert forbidden_character(text)


def _pairs(data: bytes) -> bool:
    """Return whether the bytes are text if lone surrogates are allowed."""
    try:
        data[1:].decode('utf-8' if data[:1] < b'\x80' else 'utf-16-le', 'surrogatepass')
    except UnicodeDecodeError:
        return False
    return True


def query(data: bytes) -> None:
    """Compile a query struct or refuse it. Every parameter has its place in the SQL."""
    choices = Choices(data)
    table = choices.one(tuple(TABLES.values()))
    made = _query(choices, tuple(table) if choices.number(4) else NAMES, 5)
    with contextlib.suppress(NipapError):
        _check(compile_query(made, table))
    options = {choices.name(OPTIONS): choices.value(depth=1) for _ in range(choices.number(4))}
    for read in (read_options, read_prefix_options):
        with contextlib.suppress(NipapError):
            read(options, choices.one((VRFS, POOLS, ASNS, TAGS, PREFIXES)))


def _query(choices: Choices, names: Any, depth: int) -> Any:
    if choices.number(12) == 11:
        return choices.value(NAMES, 2)
    operator = choices.name(OPERATORS)
    if depth and operator in ('and', 'or'):
        made = {
            'operator': operator,
            'val1': _query(choices, names, depth - 1),
            'val2': _query(choices, names, depth - 1),
        }
    else:
        made = {'operator': operator, 'val1': choices.name(names), 'val2': choices.value(depth=1)}
    if choices.number(16) == 15:
        del made[choices.one(('operator', 'val1', 'val2'))]
    return made


def _check(condition: Condition) -> None:
    for sql, params in ((condition.sql, condition.params), condition.within, condition.guarded()):
        assert sql.count('%s') == len(params), (sql, params)
        assert '%' not in sql.replace('%s', ''), sql
        for param in params:
            assert isinstance(param, str | int | bool | Decimal | datetime | list), param
            assert not isinstance(param, str) or forbidden_character(param) is None, param
    assert all(pattern in condition.params for pattern in condition.patterns)


def cursor(data: bytes) -> None:
    """Read a cursor as a place, and write the same place again."""
    text = data.decode('latin-1')
    inside = base64.urlsafe_b64encode(data).decode()
    for order in (VRFS, POOLS, ASNS, TAGS, PREFIXES):
        for after in (text, inside, order.written((len(data), 1, '10.0.0.0/8'))[:-4] + text):
            try:
                place = order.place(after)
            except NipapError:
                continue
            assert order.place(order.written(place)) == place
            if order in (VRFS, PREFIXES):
                assert -1 <= place[0] < 2**64
                assert 0 <= place[1] < 2**31, 'PostgreSQL has no such id'
            _check(order.behind(place))


# ---------------------------------------------------------------------------------------------------- values


def values(data: bytes) -> None:
    """Read a value of an attribute or refuse it. A network is valid for the standard library too."""
    choices = Choices(data)
    attribute = choices.one(ATTRIBUTES)
    value = choices.rest().decode('utf-8', 'replace') if choices.number(2) else choices.value()
    if attribute.kind != 'networks':
        with contextlib.suppress(NipapError):
            json.dumps(read_value(attribute, value), default=str)
    with contextlib.suppress(NipapError):
        rt, rank = parse_route_target(value)
        assert 0 <= rank < 2**64
        assert parse_route_target(rt) == (rt, rank)
    try:
        network = parse_network(value)
    except NipapError:
        return
    assert str(ipaddress.ip_network(network.text)) == _plain(network.text), value
    assert parse_network(network.text) == network


def _plain(network: str) -> str:
    """Return a network as the standard library writes it: other libraries compress a single group, too."""
    return str(ipaddress.ip_network(network))


def keys(data: bytes) -> None:
    """Encode and decode the stored answer of an idempotency key.

    The order of members does not change the fingerprint.
    """
    choices = Choices(data)
    value = _received(choices.value())
    with contextlib.suppress(NipapError):
        idempotency.read_key(choices.text())
    try:
        kept = packed.decode(idempotency.encode(value))
    except NipapError:
        return
    assert repr(kept) == repr(value), (kept, value)
    members = {'attr': value, 'args': None}
    print_ = idempotency.fingerprint('u', 'm', members)
    assert print_ == idempotency.fingerprint('u', 'm', _turned(members))
    assert print_ != idempotency.fingerprint('v', 'm', members)


def _received(value: Any) -> Any:
    """Return a value as received from a client: without characters that XML cannot carry."""
    if isinstance(value, dict):
        return {_sendable(name): _received(item) for name, item in value.items()}
    if isinstance(value, list):
        return list(map(_received, value))
    return _sendable(value) if isinstance(value, str) else value


def _turned(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _turned(item) for name, item in reversed(value.items())}
    return [_turned(item) for item in value] if isinstance(value, list) else value


# ---------------------------------------------------------------------------------------------------- files


def configuration(data: bytes) -> None:
    """Load a configuration or refuse it with one line. Each warning is one line, too."""
    path = _written('nipap.conf', data)
    try:
        loaded = config.load(['-c', str(path)], {'HOME': '/nonexistent'})
    except config.ConfigError as error:
        said = [str(error)]
    else:
        said = list(loaded.warnings)
        if not loaded.embedded:
            assert loaded.dsn
    with contextlib.suppress(config.ConfigError):
        config.load_accounts(str(path), None, {'HOME': '/nonexistent'})
    for line in said:
        assert line.isprintable(), line


def csv_file(data: bytes) -> None:
    """Read a file of prefixes or refuse it, and each of its lines."""
    choices = Choices(data)
    default_type = choices.one((None, 'host', 'assignment'))
    begin = choices.one(
        (b'', b'prefix,type,description\n', b'\xef\xbb\xbfprefix,node,vrf_rt,avps.k,expires,tags,type\n')
    )
    path = _written('prefixes.csv', begin + choices.rest())
    try:
        read = sheet.read(path, choices.one(({}, {'vrf_rt': '1:1'})), default_type)
    except FileError as error:
        assert str(error).startswith(str(path))  # noqa: PT017  (not raising is fine too)
        return
    assert [row.key for row in read.rows] == sorted(row.key for row in read.rows)
    for row in read.rows:
        attr = read.columns.attr(row)
        assert parse_network(attr['prefix'])
        wire.decode_request(wire.encode_request('add_prefix', attr))


def _written(name: str, data: bytes) -> Path:
    path = _scratch() / f'{os.getpid()}-{name}'
    path.write_bytes(data)
    return path


HARNESSES: dict[str, Callable[[bytes], None]] = {
    function.__name__: function
    for function in (
        *(request, round_trip, header, body),
        *(smart_search, query, cursor),
        *(values, keys),
        *(configuration, csv_file),
    )
}

# Words that a fuzzer would have to guess letter by letter.
WORDS: dict[str, tuple[str, ...]] = {
    'request': (
        *(f'<{tag}>' for tag in (*wire._SCALARS, 'methodCall', 'methodName', 'params', 'param', 'value', 'array', 'data')),  # noqa: E501
        *(f'</{tag}>' for tag in (*wire._SCALARS, 'methodCall', 'methodName', 'params', 'param', 'value', 'array')),
        *('<struct>', '</struct>', '<member>', '</member>', '<name>', '</name>', '</data>', '<nil/>', '<value/>'),
        *('<!DOCTYPE ', '<!ENTITY ', '&amp;', '&#13;', '&#x0;', '<![CDATA[', ']]>', '<!--', '-->', '<?xml ', '?>'),
        *('encoding="UTF-16"', 'encoding="latin1"', 'version="1.0"', '20301231T23:59:59Z', '+14:00', '1e999', 'nan'),
    ),
    'smart_search': (*NAMES, *OPERATORS, *smart_parsing.MISSPELT, '(', ')', '#', ' and ', ' or ', '10.0.0.0/8', '::/0'),
    'values': ('tomorrow', 'next month', '3 days ago', 'at 5pm', 'in 2 weeks', 'eod', '10.0.0.0/8', '::1.2.3.4'),
    'configuration': (*config._KEYS, '[nipapd]', '[auth]', '[auth.backends.x]', 'type=JwtAuth', 'type=SqliteAuth',
                      'signing_key=', 'public_key_file=', 'default_backend=x', 'audience=', 'db_path=', '\n', ' = '),
    'csv_file': (*PREFIX, 'avps.k', '10.0.0.0/8', '::/0', 'host', 'assignment', '\n', '"', ',', 'tomorrow'),
    'cursor': ('MSAyIDEwLjAuMC4wLzg=', 'MTAuMC4wLjAvOA==', 'OTk5OTk5OTk5OTk5OTk5OTk5OTk5'),
    'header': ('dXNlcjpwYXNz', 'eyJhbGciOiJIUzI1NiJ9.', 'eyJhbGciOiJub25lIn0.', 'e30', '.', '"', ';a=b', '=='),
}  # fmt: skip
