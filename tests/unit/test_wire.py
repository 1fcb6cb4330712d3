"""The XML-RPC codec: every value is decoded as it was encoded, and no input does harm."""

from __future__ import annotations

import contextlib
import math
import re
import tracemalloc
import xmlrpc.client
from collections import OrderedDict
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import IntEnum
from typing import Any
from xml.parsers import expat

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nipap.errors import NipapInputError
from nipap.http.bodies import giving_way
from nipap.runtime import waiting
from nipap.runtime.chunks import Chunks
from nipap.runtime.runtime import Runtime
from nipap.text import forbidden_character
from nipap.xmlrpc import codec as wire

FORBIDDEN = re.compile('[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]')
INT_MIN, INT_MAX = -(2**31), 2**31 - 1

all_text = st.text(
    st.characters() | st.sampled_from('\x00\x01\t\n\r\x0b\x1f\x7f\x85\u2028\ud800\udfff\ufffe\uffff&<>]')
)
xml_text = all_text.map(lambda text: FORBIDDEN.sub('', text))
whole_seconds = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)).map(lambda d: d.replace(microsecond=0, fold=0))
moments = whole_seconds.map(lambda d: d.replace(tzinfo=UTC)) | whole_seconds
names = st.sampled_from(
    ['id', 'name', '%s', 'a&b', 'used_addresses', 'total_addresses_v4', 'member_prefixes_v6', 'prefix_length']
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([INT_MIN - 1, INT_MIN, INT_MAX, INT_MAX + 1, 0, 2**128])
    | st.floats(allow_nan=False)
    | all_text
    | st.binary()
    | moments
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(names | all_text, inner),
    max_leaves=20,
)
column_kinds = [
    st.booleans(),
    st.integers(),
    st.integers(INT_MIN, INT_MAX),
    st.sampled_from([0.0, -0.0, 1.5]),
    all_text,
    moments,
    st.binary(),
    st.lists(all_text),
    st.lists(st.integers()),
    st.dictionaries(all_text, all_text),
    st.dictionaries(all_text, st.lists(all_text)),
]
columns = st.one_of(st.none(), *column_kinds)


def arrived(value: Any, name: str = '') -> Any:
    """Return `value` as a client must receive it. `name` is the name of its member."""
    match value:
        case str():
            return FORBIDDEN.sub('\ufffd', value)
        case bool():
            return value
        case int() if re.search('_addresses|_prefixes_', name) or not INT_MIN <= value <= INT_MAX:
            return str(value)
        case datetime():
            return value.replace(tzinfo=None)
        case list() | tuple():
            return [arrived(item) for item in value]
        case dict():
            return {arrived(key): arrived(item, key) for key, item in value.items()}
    return value


def received(answer: bytes) -> Any:
    (value,), _ = xmlrpc.client.loads(answer, use_builtin_types=True)
    return value


def identical(one: Any, other: Any) -> bool:
    """Return whether two values are equal in type as well: 1, 1.0 and True differ, and so do 0.0 and -0.0."""
    return repr(one) == repr(other)


def call_of(answer: bytes) -> bytes:
    """Return an answer rewritten as a request with the same value."""
    answer = answer.replace(b'<methodResponse>', b'<methodCall><methodName>echo</methodName>', 1)
    return answer.replace(b'</methodResponse>', b'</methodCall>')


def request(content: str, head: str = '') -> bytes:
    return f'{head}<methodCall><methodName>echo</methodName><params>{content}</params></methodCall>'.encode()


def decode_value(content: str) -> Any:
    method, (value,) = wire.decode_request(request(f'<param><value>{content}</value></param>'))
    assert method == 'echo'
    return value


# ---- encoding


@given(values)
@example({'description': 'a\rb\r\nc'})
@example([{'a': ']]>'}, {'a': '&amp;'}])
def test_every_value_arrives(value: Any) -> None:
    assert identical(received(wire.encode_response(value)), arrived(value))


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(INT_MIN, INT_MAX)
        | st.floats()
        | xml_text
        | st.binary()
        | whole_seconds,
        lambda inner: st.lists(inner) | st.dictionaries(xml_text, inner),
        max_leaves=20,
    ).filter(lambda value: '\\r' not in repr(value))
)
def test_the_standard_encoder_says_the_same(value: Any) -> None:
    standard = xmlrpc.client.dumps((value,), methodresponse=True, allow_none=True)
    assert identical(received(wire.encode_response(value)), received(standard.encode()))


@given(all_text)
def test_every_string_arrives(text: str) -> None:
    assert received(wire.encode_response(text)) == FORBIDDEN.sub('\ufffd', text)


@given(st.lists(st.fixed_dictionaries({'a': columns, 'b': columns, '%d_addresses': columns}), min_size=2))
def test_rows_are_written_as_single_structs_are(rows: list[dict[str, Any]]) -> None:
    assert identical(received(wire.encode_response(rows)), [received(wire.encode_response(row)) for row in rows])


@given(
    st.sampled_from(column_kinds).flatmap(
        lambda kind: st.lists(kind, min_size=2) | st.lists(kind | st.none(), min_size=2)
    )
)
def test_columns_of_one_kind(column: list[Any]) -> None:
    rows = [{'a': item, 'n_prefixes_v4': item} for item in column]
    assert identical(received(wire.encode_response(rows)), arrived(rows))


@pytest.mark.parametrize('mixed', [[1, True], [1, 1.0], [0.0, -0.0], ['1', 1], [None, False], [[], ()], [{}, None]])
def test_columns_of_several_types_keep_them(mixed: list[Any]) -> None:
    rows = [{'a': item, 'b': 'x'} for item in mixed]
    assert identical(received(wire.encode_response(rows)), arrived(rows))


@pytest.mark.parametrize('count', [0, 1, 2, 499, 500, 501, 1000, 1777])
def test_long_lists_are_whole(count: int) -> None:
    rows = [{'id': i, 'description': 'å' * (i % 3), 'used_addresses': i} for i in range(count)]
    answer = {'result': rows, 'used_addresses': 7, 'prefixes': list(map(str, range(count)))}
    assert received(wire.encode_response(rows)) == arrived(rows)
    assert received(wire.encode_response(answer)) == arrived(answer)


def test_rows_that_differ() -> None:
    rows = [{'a': 1, 'b': 2}, {'b': 1, 'a': 2}, {'a': 1}, {}, None, {'a': {'b': {'c': 1}}}]
    for some in (rows, rows[:2], rows[1:3], rows[3:5], rows[:1] + rows[-1:], [{}, {}]):
        assert received(wire.encode_response(some)) == some


def test_counters_are_text_whatever_their_size() -> None:
    pool = {
        'total_addresses': 1,
        'used_addresses_v6': 0,
        'free_prefixes_v4': None,
        'member_prefixes_v4': 3,
        'num_prefixes_v6': 2**64,
        'ipv4_default_prefix_length': 24,
        'prefix_length': 24,
        'prefixes': ['10.0.0.0/8'],
    }
    expected = {
        'total_addresses': '1',
        'used_addresses_v6': '0',
        'free_prefixes_v4': None,
        'member_prefixes_v4': '3',
        'num_prefixes_v6': str(2**64),
        'ipv4_default_prefix_length': 24,
        'prefix_length': 24,
        'prefixes': ['10.0.0.0/8'],
    }
    assert received(wire.encode_response(pool)) == expected
    assert received(wire.encode_response([pool, pool])) == [expected, expected]


class Colour(IntEnum):
    RED = 1


@pytest.mark.parametrize(
    ('value', 'expected'),
    [
        (Decimal(2**100), str(2**100)),
        (Decimal('1E+3'), '1000'),
        (Decimal('256.000'), '256'),
        (Decimal('0.5'), '0.5'),
        (OrderedDict(a=1), {'a': 1}),
        (Colour.RED, 1),
        (bytearray(b'x'), b'x'),
        (datetime(2026, 11, 22, 21, 14, 49, 999999, timezone(timedelta(hours=2))), datetime(2026, 11, 22, 19, 14, 49)),
        (datetime(1, 2, 3, tzinfo=UTC), datetime(1, 2, 3)),
        (math.inf, math.inf),
    ],
)
def test_values_that_change_their_shape(value: Any, expected: Any) -> None:
    assert received(wire.encode_response(value)) == expected
    assert received(wire.encode_response([{'a': value}, {'a': value}])) == [{'a': expected}] * 2


def test_the_format_of_timestamps() -> None:
    answer = wire.encode_response(datetime(2026, 11, 22, 19, 14, 49, tzinfo=UTC))
    assert b'<dateTime.iso8601>20261122T19:14:49</dateTime.iso8601>' in answer


@pytest.mark.parametrize('value', [{1, 2}, object(), {1: 'a'}, {None: 'a'}, [{1: 'a'}, {1: 'b'}], date(2026, 1, 1)])
def test_values_that_cannot_be_sent_are_errors(value: Any) -> None:
    with pytest.raises(TypeError):
        wire.encode_response(value)


@given(st.integers(INT_MIN, INT_MAX), all_text)
def test_faults_arrive(code: int, text: str) -> None:
    with pytest.raises(xmlrpc.client.Fault) as caught:
        xmlrpc.client.loads(wire.encode_fault(code, text))
    assert (caught.value.faultCode, caught.value.faultString) == (code, FORBIDDEN.sub('\ufffd', text))


def test_names_that_users_choose_do_not_pile_up() -> None:
    tracemalloc.start()
    for i in range(20_000):
        wire.encode_response({f'{i}': 'x', f'{i}' * 30: 'y'})
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used < 3 * 2**20


# ---- both directions


def aware(value: Any) -> Any:
    """Return `value` after encoding and decoding."""
    match value:
        case datetime():
            return value.replace(tzinfo=UTC)
        case list():
            return [aware(item) for item in value]
        case dict():
            return {key: aware(item) for key, item in value.items()}
    return value


@given(values.filter(lambda value: 'inf' not in repr(value)))
def test_the_decoder_reads_what_the_encoder_writes(value: Any) -> None:
    method, parameters = wire.decode_request(call_of(wire.encode_response(value)))
    assert method == 'echo'
    assert identical(parameters, [aware(arrived(value))])


@given(
    st.lists(
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(INT_MIN, INT_MAX)
            | st.floats(allow_nan=False, allow_infinity=False)
            | xml_text
            | st.binary()
            | whole_seconds,
            lambda inner: st.lists(inner) | st.dictionaries(xml_text, inner),
            max_leaves=20,
        ).filter(lambda value: '\\r' not in repr(value)),
        max_size=3,
    )
)
def test_the_decoder_reads_what_the_standard_client_writes(parameters: list[Any]) -> None:
    body = xmlrpc.client.dumps(tuple(parameters), 'add_prefix', allow_none=True).encode()
    method, decoded = wire.decode_request(body)
    assert method == 'add_prefix'
    assert identical(decoded, aware(parameters))


def test_nesting_without_recursion() -> None:
    depth = 20_000
    value: Any = 'innermost'
    for i in range(depth):
        value = [value, {'a': 1}] if i % 2 else [{'operator': 'and', 'val1': value}, {'operator': 'or', 'val1': 'x'}]
    _, (decoded,) = wire.decode_request(call_of(wire.encode_response({'interpretation': value})))
    decoded = decoded['interpretation']
    for i in reversed(range(depth)):
        decoded = decoded[0] if i % 2 else decoded[0]['val1']
    assert decoded == 'innermost'


def test_nesting_has_an_end() -> None:
    def nested(depth: int) -> str:
        return '<array><data><value>' * depth + '</value></data></array>' * depth

    assert decode_value(nested(wire.MAX_DEPTH))
    with pytest.raises(NipapInputError, match='nest more than 100000 deep'):
        decode_value(nested(wire.MAX_DEPTH + 1))


# ---- decoding


@pytest.mark.parametrize(
    ('content', 'expected'),
    [
        ('plain', 'plain'),
        ('', ''),
        (' kept \n', ' kept \n'),
        ('<string></string>', ''),
        ('<string/>', ''),
        ('<string>a<!-- no -->b<![CDATA[<&]]>&#x1F600;</string>', 'ab<&😀'),
        (' \n <int> 5 </int>\n', 5),
        ('<i1>-1</i1>', -1),
        ('<i2>+1</i2>', 1),
        ('<i4>007</i4>', 7),
        ('<i8>9223372036854775807</i8>', 2**63 - 1),
        ('<int>-9223372036854775808</int>', -(2**63)),
        ('<ex:i8>1</ex:i8>', 1),
        (f'<biginteger>{2**128}</biginteger>', 2**128),
        ('<boolean>0</boolean>', False),
        ('<boolean> 1 </boolean>', True),
        ('<double>-1.5e3</double>', -1500.0),
        ('<double>.5</double>', 0.5),
        ('<double>5.</double>', 5.0),
        ('<nil/>', None),
        ('<ex:nil/>', None),
        ('<base64>\nAAEC\n/w==\n</base64>', b'\x00\x01\x02\xff'),
        ('<base64/>', b''),
        ('<dateTime.iso8601>20261122T19:14:49</dateTime.iso8601>', datetime(2026, 11, 22, 19, 14, 49, tzinfo=UTC)),
        ('<dateTime.iso8601>2026-11-22T19:14:49Z</dateTime.iso8601>', datetime(2026, 11, 22, 19, 14, 49, tzinfo=UTC)),
        (
            '<dateTime.iso8601>20261122T191449.25+0230</dateTime.iso8601>',
            datetime(2026, 11, 22, 16, 44, 49, 250000, tzinfo=UTC),
        ),
        (
            '<dateTime.iso8601>20261122T22:14:49-02:00</dateTime.iso8601>',
            datetime(2026, 11, 23, 0, 14, 49, tzinfo=UTC),
        ),
        ('<array><data/></array>', []),
        ('<array>\n<data>\n<value>a</value>\n<value><nil/></value>\n</data>\n</array>', ['a', None]),
        ('<struct/>', {}),
        ('<struct><member><name> a </name><value/></member></struct>', {' a ': ''}),
        ('<struct><member><name>a</name><value>1</value></member>' * 1 + '</struct>', {'a': '1'}),
        (
            '<struct><member><name>a</name><value>1</value></member><member><name>a</name><value>2</value></member></struct>',
            {'a': '2'},
        ),
    ],
)
def test_accepted_values(content: str, expected: Any) -> None:
    assert identical(decode_value(content), expected)


@pytest.mark.parametrize(
    ('content', 'complaint'),
    [
        ('<int></int>', "'' is not an integer"),
        ('<int>1_000</int>', 'is not an integer'),
        ('<int>1.0</int>', 'is not an integer'),
        ('<int>٣</int>', 'is not an integer'),
        ('<int>0x10</int>', 'is not an integer'),
        ('<int>9223372036854775808</int>', 'out of range'),
        ('<int>-9223372036854775809</int>', 'out of range'),
        (f'<int>{"9" * 100}</int>', 'out of range'),
        (f'<biginteger>{"9" * 1_000_000}</biginteger>', "'9{40}…' is not an integer"),
        (f'<biginteger>{2**256}</biginteger>', 'out of range'),
        ('<boolean>true</boolean>', "'true' is not a boolean"),
        ('<boolean/>', "'' is not a boolean"),
        ('<double>nan</double>', "'nan' is not a number"),
        ('<double>inf</double>', 'is not a number'),
        ('<double>1e999</double>', 'out of range'),
        ('<double>.</double>', 'is not a number'),
        ('<double>.e5</double>', 'is not a number'),
        (f'<double>{"9" * 5000}</double>', 'is not a number'),
        ('<nil>x</nil>', 'nil has no content'),
        ('<base64>AAE</base64>', 'is not base64'),
        ('<base64>AA*E</base64>', 'is not base64'),
        ('<base64>å</base64>', 'is not base64'),
        ('<dateTime.iso8601>tomorrow</dateTime.iso8601>', "'tomorrow' is not a dateTime.iso8601"),
        ('<dateTime.iso8601>20260230T00:00:00</dateTime.iso8601>', 'does not exist'),
        ('<dateTime.iso8601>00000101T00:00:00</dateTime.iso8601>', 'does not exist'),
        ('<dateTime.iso8601>99991231T23:59:59-01:00</dateTime.iso8601>', 'out of range'),
        (
            '<dateTime.iso8601>20260101T00:00:00+99:99</dateTime.iso8601><int>1</int>',
            '<int> is not expected in <value>',
        ),
        ('<dateTime.iso8601>00010101T00:00:00+01:00</dateTime.iso8601>', 'out of range'),
        ('<uuid>x</uuid>', '<uuid> is not expected in <value>'),
        ('<Int>1</Int>', '<Int> is not expected in <value>'),
        ('<int>1</int><int>2</int>', '<int> is not expected in <value>'),
        ('<int>1<int>2</int></int>', '<int> is not expected in <int>'),
        ('text<int>1</int>', "the text 'text' is not expected in <value>"),
        ('<int>1</int>text', "the text 'text' is not expected in <value>"),
        ('<array/>', '<array> lacks <data>'),
        ('<array><value/></array>', '<value> is not expected in <array>'),
        ('<array><data/><data/></array>', '<data> is not expected in <array>'),
        ('<array><data>x</data></array>', "the text 'x' is not expected in <data>"),
        ('<struct><name>a</name></struct>', '<name> is not expected in <struct>'),
        ('<struct><member/></struct>', '<member> lacks <name>'),
        ('<struct><member><name>a</name></member></struct>', '<member> lacks <value>'),
        ('<struct><member><value/><name>a</name></member></struct>', '<value> is not expected in <member>'),
        (
            '<struct><member><name>a</name><value/><value/></member></struct>',
            '<value> is not expected in <member>',
        ),
        ('&e;', 'undefined entity'),
        ('&#1;', 'reference to invalid character number'),
        ('&#xFFFF;', 'reference to invalid character number'),
        ('\x01', 'not well-formed'),
        ('\uffff', 'not well-formed'),
        (f'<{"x" * 1000}/>', '<x{40}…> is not expected in <value>'),
    ],
)
def test_refused_values(content: str, complaint: str) -> None:
    with pytest.raises(NipapInputError, match=f'^malformed XML-RPC request: .*{complaint}') as caught:
        decode_value(content)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ('body', 'complaint'),
    [
        (b'', 'no element found'),
        (b'not XML', 'syntax error'),
        (b'{"jsonrpc": "2.0"}', 'not well-formed'),
        (b'<methodResponse/>', '<methodResponse> is not expected in the document'),
        (b'<methodCall/>', '<methodCall> lacks <methodName>'),
        (b'<methodCall><params/></methodCall>', '<params> is not expected in <methodCall>'),
        (b'<methodCall><methodName>a</methodName><methodName>b</methodName></methodCall>', '<methodName> is not'),
        (request('<param/>'), '<param> lacks <value>'),
        (request('<value/>'), '<value> is not expected in <params>'),
        (request('<param><value/><value/></param>'), '<value> is not expected in <param>'),
        (request('')[:-5], 'unclosed token'),
        (request('') + b'<methodCall/>', 'junk after document element'),
        (request('<param><value>\xff</value></param>').replace('\xff'.encode(), b'\xff'), 'not well-formed'),
        (request('<param><value>X</value></param>').replace(b'X', b'\xed\xa0\x80'), 'not well-formed'),
        (request('', '<?xml version="1.0" encoding="cp1252"?>'), "the encoding 'cp1252' is not supported, send UTF-8"),
        (request('', '<?xml version="1.0" encoding="rot13"?>'), "the encoding 'rot13' is not supported"),
    ],
)
def test_calls_that_are_refused(body: bytes, complaint: str) -> None:
    with pytest.raises(NipapInputError, match=f'^malformed XML-RPC request: .*{complaint}'):
        wire.decode_request(body)


@pytest.mark.parametrize(
    'doctype',
    [
        '<!DOCTYPE methodCall>',
        '<!DOCTYPE methodCall SYSTEM "file:///etc/passwd">',
        '<!DOCTYPE m [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;">]>',
        '<!DOCTYPE m [<!ENTITY c SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE m [<!ENTITY % p SYSTEM "http://127.0.0.1:1/"> %p;]>',
    ],
)
def test_document_type_declarations_are_refused(doctype: str) -> None:
    with pytest.raises(NipapInputError, match='a document type declaration is not accepted'):
        wire.decode_request(request('<param><value>&c;</value></param>', doctype))


def test_calls_without_parameters() -> None:
    assert wire.decode_request(b'<methodCall><methodName> version\n</methodName></methodCall>') == ('version', [])
    assert wire.decode_request(request('')) == ('echo', [])


@pytest.mark.parametrize('encoding', ['utf-8', 'UTF-16', 'iso-8859-1'])
def test_other_encodings_that_say_so(encoding: str) -> None:
    text = request('<param><value>å</value></param>', f'<?xml version="1.0" encoding="{encoding}"?>').decode()
    assert wire.decode_request(text.encode(encoding)) == ('echo', ['å'])


GOOD = xmlrpc.client.dumps(
    ({'auth': {'authoritative_source': 'å'}, 'attr': {'tags': ['a'], 'vlan': 5, 'expires': datetime(2026, 1, 1)}},), 'x'
).encode()


@given(st.binary() | st.binary().map(lambda tail: b'\xff\xfe' + tail))
def test_noise_is_refused(body: bytes) -> None:
    with pytest.raises(NipapInputError, match=r'^malformed XML-RPC request: '):
        wire.decode_request(body)


@given(st.integers(0, len(GOOD)), st.integers(0, 30), st.binary(max_size=8), st.sampled_from(['utf-8', 'utf-16']))
def test_damaged_requests_are_read_or_refused(at: int, length: int, patch: bytes, encoding: str) -> None:
    body = GOOD.decode().replace("<?xml version='1.0'?>", '').encode(encoding)
    body = body[:at] + patch + body[at + length :]
    with contextlib.suppress(NipapInputError):
        method, parameters = wire.decode_request(body)
        assert isinstance(method, str)
        assert isinstance(parameters, list)


# ---- characters


def refused_by_expat(character: str) -> bool:
    try:
        expat.ParserCreate().Parse(f'<a>{character}</a>'.encode('utf-8', 'surrogatepass'), True)
    except expat.ExpatError:
        return True
    return False


def test_parsers_refuse_exactly_the_forbidden_characters() -> None:
    assert forbidden_character('') is None
    assert forbidden_character('tab\tline\nreturn\råäö😀\x7f\x85') is None
    assert forbidden_character('a\x00b\x01') == '\x00'
    for point in (*range(0x100), *range(0xD7F0, 0xE010), *range(0xFFF0, 0x10010), 0x1FFFE, 0x10FFFF):
        if chr(point) not in '<&':
            assert (forbidden_character(chr(point)) is not None) == refused_by_expat(chr(point)), hex(point)


@given(all_text)
def test_allowed_characters_arrive_unchanged(text: str) -> None:
    if forbidden_character(text) is None:
        assert received(wire.encode_response(text)) == text
    else:
        assert received(wire.encode_response(text)) != text


# ---- chunks


@pytest.mark.parametrize('sizes', [(), (1,), (3, 1), (500, 500, 2), (1, 700)])
def test_chunks_are_written_as_the_list_they_are_parts_of(sizes: tuple[int, ...]) -> None:
    parts = [[{'id': i, 'tags': ['<a>'], 'node': None} for i in range(size)] for size in sizes]
    everything = [row for part in parts for row in part]
    chunks = Chunks(lambda: iter(parts))
    assert wire.encode_response(chunks) == wire.encode_response(everything)
    for _ in range(2):  # the chunks are read anew each time
        struct = {'search_options': {'offset': 0}, 'result': chunks, 'error': False}
        assert wire.encode_response(struct) == wire.encode_response({**struct, 'result': everything})


def test_chunks_are_read_as_they_are_written() -> None:
    read = []

    def chunks() -> Iterator[list[Any]]:
        for i in range(3):
            read.append(i)
            yield [i]

    parts = wire.response_parts(Chunks(chunks))
    while b'<int>0</int>' not in next(parts):
        pass
    assert read == [0]
    parts.close()


def test_chunks_inside_something_else_are_refused() -> None:
    with pytest.raises(TypeError, match='Chunks cannot be sent'):
        wire.encode_response([Chunks(lambda: iter(()))])


class Counting(waiting.Blocking):
    """A wait that counts the turns it gives to others."""

    turns = 0

    def give_way(self) -> None:
        self.turns += 1


@pytest.fixture
def turns() -> Iterator[Counting]:
    counting = Counting()
    Runtime(counting).enter()
    yield counting
    Runtime().enter()


def test_big_values_are_read_and_written_in_several_turns(turns: Counting) -> None:
    value = {'é': [{'operator': 'or', 'val1': {'n': number}, 'text': 'ü' * (number % 7)} for number in range(20_000)]}
    body = wire.encode_request('m', {'query': value})
    assert turns.turns > 2
    turns.turns = 0
    for encoding in ('utf-8', 'utf-16'):
        sent = body.decode().replace("encoding='utf-8'", f"encoding='{encoding}'").encode(encoding)
        assert wire.decode_request(sent) == ('m', [{'query': value}])
    assert turns.turns > 20
    turns.turns = 0
    small = wire.encode_request('m', {'query': {'operator': 'or'}})
    assert wire.decode_request(small) == ('m', [{'query': {'operator': 'or'}}])
    assert turns.turns == 0


def test_a_turn_follows_each_long_part_of_an_answer(turns: Counting) -> None:
    parts = [b'x' * 2**17, b'x', b'x' * 2**17]
    seen = [turns.turns for _ in giving_way(iter(parts))]
    assert (seen, turns.turns) == ([0, 1, 1], 2)
    assert list(giving_way(iter(parts))) == parts
