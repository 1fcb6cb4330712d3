"""The XML-RPC codec: it encodes answers so that every client can read them, and decodes requests safely.

Strict and lax XML-RPC clients must be able to read an answer, so the encoder writes only forms that every client
reads: whole-second UTC timestamps, 32-bit integers, decimal strings for larger integers, and no character that XML 1.0
forbids. Counters (members named ``*_addresses*`` or ``*_prefixes_*``) are decimal strings of any size, because the
type of a member must not change as a network grows.

The decoder accepts the specification and the Apache extensions, and refuses everything else with `NipapInputError`.
Neither direction recurses: a value may nest as deep as `MAX_DEPTH`.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import chain
from typing import Any, NamedTuple, TypeGuard
from xml.parsers import expat

from nipap.errors import NipapInputError
from nipap.runtime import waiting
from nipap.runtime.chunks import Chunks
from nipap.text import FORBIDDEN

# At this depth the open elements take 36 MB of the parser's memory.
MAX_DEPTH = 100_000

# ---------------------------------------------------------------------------------------------------------- encoding

_XML = "<?xml version='1.0' encoding='utf-8'?>\n"
_HEAD = f'{_XML}<methodResponse>'
_ARRAY, _ARRAY_END = '<value><array><data>', '</data></array></value>'
_STRUCT, _STRUCT_END = '<value><struct>', '</struct></value>'
_MEMBER_END = '</member>'
_STRING, _STRING_END = '<value><string>', '</string></value>'
_INT, _INT_END = '<value><int>', '</int></value>'
_DATETIME, _DATETIME_END = '<value><dateTime.iso8601>', '</dateTime.iso8601></value>'
_TWO = tuple(f'{number:02}' for number in range(60))
_NIL = '<value><nil/></value>'
_TRUE, _FALSE = '<value><boolean>1</boolean></value>', '<value><boolean>0</boolean></value>'

_INT_MIN, _INT_MAX = -(2**31), 2**31 - 1
_PIECES_AT_ONCE = 50_000  # of text: ten milliseconds
# Bounds the memory of a big answer beside its bytes, and the length of text that one wide character widens.
_ROWS_AT_ONCE = 500
_LONGEST_KEPT_NAME, _MOST_KEPT_NAMES = 64, 4096

# A bare carriage return would be read as a line feed: XML parsers normalise line ends, but not character references.
_ESCAPES = {'&': '&amp;', '<': '&lt;', '>': '&gt;', '\r': '&#13;'}
_special = re.compile(f'[&<>\r{FORBIDDEN}]')
_is_counter = re.compile(r'_addresses|_prefixes_').search


def encode_response(value: object) -> bytes:
    """Return the XML-RPC answer that carries `value`.

    `value` is built of dict with string keys, list, tuple, str, bytes, int, bool, float, None, datetime (UTC when it
    has no zone) and Decimal, and of `Chunks` where that class allows it.

    :raises TypeError: for any other type.
    """
    return b''.join(response_parts(value))


def response_parts(value: object) -> Iterator[bytes]:
    """Yield the answer of `encode_response` piece by piece. Long lists are encoded a few hundred items at a time."""
    yield f'{_HEAD}<params><param>'.encode()
    yield from _parts(value)
    yield b'</param></params></methodResponse>\n'


def encode_fault(code: int, text: str) -> bytes:
    """Return the XML-RPC answer of a fault."""
    return f'{_HEAD}<fault>{fault_value(code, text).decode()}</fault></methodResponse>\n'.encode()


def array_parts(items: Iterable[Iterable[bytes]]) -> Iterator[bytes]:
    """Yield the answer that carries an array, piece by piece. items: the parts of each encoded item."""
    yield f'{_HEAD}<params><param>{_ARRAY}'.encode()
    for parts in items:
        yield from parts
    yield f'{_ARRAY_END}</param></params></methodResponse>\n'.encode()


def only_item_parts(value: object) -> Iterator[bytes]:
    """Yield a value as the only item of an array, piece by piece."""
    yield _ARRAY.encode()
    yield from _parts(value)
    yield _ARRAY_END.encode()


def fault_value(code: int, text: str) -> bytes:
    """Return the struct of a fault as one <value> element."""
    return _text({'faultCode': code, 'faultString': text}).encode()


def encode_request(method: str, value: object) -> bytes:
    """Return the XML-RPC call of a method with one parameter, as nipapd takes it. value: see `encode_response`."""
    call = f'{_XML}<methodCall><methodName>{_escape(method)}</methodName><params><param>'
    return b''.join((call.encode(), *_parts(value), b'</param></params></methodCall>\n'))


class Encoded(str):
    """A value that is XML already, from `encode_value` or `encode_struct`. The encoder writes it unchanged."""

    __slots__ = ()


def encode_value(value: object) -> Encoded:
    """Return `value` as one <value> element."""
    return Encoded(_text(value))


def encode_struct(members: Mapping[str, object]) -> Encoded:
    """Return a struct as one <value> element, faster than `encode_value` when most of its members are strings."""
    texts = [
        f'{_MEMBERS[name][0]}{_string(item) if type(item) is str else _text(item)}{_MEMBER_END}'
        for name, item in members.items()
    ]
    return Encoded(f'{_STRUCT}{"".join(texts)}{_STRUCT_END}')


def _parts(value: object) -> Iterator[bytes]:
    """Yield a value piece by piece: a long list, and a long list directly inside a struct, in several pieces."""
    if isinstance(value, dict) and any(map(_is_long, value.values())):
        yield _STRUCT.encode()
        for name, item in value.items():
            if _is_long(item):
                yield _MEMBERS[name][0].encode()
                yield from _list_parts(item)
                yield _MEMBER_END.encode()
            else:
                yield _text({name: item})[len(_STRUCT) : -len(_STRUCT_END)].encode()
        yield _STRUCT_END.encode()
    elif _is_long(value):
        yield from _list_parts(value)
    else:
        yield _text(value).encode()


def _is_long(value: object) -> TypeGuard[list[object] | Chunks]:
    return isinstance(value, Chunks) or (isinstance(value, list) and len(value) > _ROWS_AT_ONCE)


def _list_parts(items: list[object] | Chunks) -> Iterator[bytes]:
    yield _ARRAY.encode()
    for some in items if isinstance(items, Chunks) else _slices(items):
        if len(some) == 1:
            yield from _parts(some[0])
            continue
        yield (_rows(some) or _text(some)[len(_ARRAY) : -len(_ARRAY_END)]).encode()
    yield _ARRAY_END.encode()


def _slices(items: list[object]) -> Iterator[list[object]]:
    for start in range(0, len(items), _ROWS_AT_ONCE):
        yield items[start : start + _ROWS_AT_ONCE]


def _escape(text: str) -> str:
    return _special.sub(_replacement, text) if _special.search(text) else text


def _replacement(found: re.Match[str]) -> str:
    return _ESCAPES.get(found.group(), '\ufffd')


def _string(value: str) -> str:
    return f'{_STRING}{_special.sub(_replacement, value) if _special.search(value) else value}{_STRING_END}'


def _int(value: int) -> str:
    return f'{_INT}{value}{_INT_END}' if _INT_MIN <= value <= _INT_MAX else _counter(value)


def _counter(value: object) -> str:
    return f'{_STRING}{value}{_STRING_END}'


def _bool(value: bool) -> str:
    return _TRUE if value else _FALSE


def _nil(_: None) -> str:
    return _NIL


def _double(value: float) -> str:
    return f'<value><double>{value!r}</double></value>'


def _decimal(value: Decimal) -> str:
    whole = value.is_finite() and value == value.to_integral_value()
    return f'{_STRING}{int(value) if whole else format(value, "f")}{_STRING_END}'


def _moment(value: datetime) -> str:
    if value.utcoffset():
        value = value.astimezone(UTC)
    date = f'{value.year:04}{_TWO[value.month]}{_TWO[value.day]}'
    return f'{date}T{_TWO[value.hour]}:{_TWO[value.minute]}:{_TWO[value.second]}'


def _datetime(value: datetime) -> str:
    return f'{_DATETIME}{_moment(value)}{_DATETIME_END}'


def _base64(value: bytes) -> str:
    return f'<value><base64>{binascii.b2a_base64(value, newline=False).decode()}</base64></value>'


_Leaf = Callable[..., str]
_LEAVES: dict[type, _Leaf] = {
    str: _string,
    int: _int,
    bool: _bool,
    type(None): _nil,
    float: _double,
    Decimal: _decimal,
    datetime: _datetime,
    bytes: _base64,
    bytearray: _base64,
    Encoded: str,
}

_COUNTER_LEAVES = {**_LEAVES, int: _counter}


class _Members(dict[str, tuple[str, dict[type, _Leaf]]]):
    """The beginning of a member and the writers of its scalars, by the name of the member; made at first use.

    Names can be the users' own (avps), so long names are not kept, and the number of kept names is limited.
    """

    def __missing__(self, name: str) -> tuple[str, dict[type, _Leaf]]:
        if not isinstance(name, str):
            raise TypeError(f'the name of a member must be text, not {type(name).__name__}')
        made = f'<member><name>{_escape(name)}</name>', _COUNTER_LEAVES if _is_counter(name) else _LEAVES
        if len(name) <= _LONGEST_KEPT_NAME:
            if len(self) >= _MOST_KEPT_NAMES:
                self.clear()
            self[name] = made
        return made


_MEMBERS = _Members()

# An open array or struct: the writer of its scalars, its remaining items, the text after each item, its closing text.
_Frame = tuple[Callable[[Any, list[str]], object], Iterator[Any], str, str]


def _text(value: object) -> str:
    """Return `value` as one <value> element. A stack of open containers replaces recursion, as queries nest deeply."""
    out: list[str] = []
    frames: list[_Frame] = [(_write_items, iter((value,)), '', '')]
    pause = _PIECES_AT_ONCE
    while frames:
        if len(out) > pause:
            pause = len(out) + _PIECES_AT_ONCE
            waiting.give_way()
        write, items, after, end = frames[-1]
        container = write(items, out)
        if container is None:
            frames.pop()
            out.append(end)
        elif (inner := _open(container, after, out)) is not None:
            frames.append(inner)
    return ''.join(out)


def _write_items(items: Iterator[object], out: list[str]) -> object:
    """Write scalars up to the next container and return the container; None at the end."""
    for item in items:
        leaf = _LEAVES.get(type(item))
        if leaf is None:
            return item
        out.append(leaf(item))
    return None


def _write_members(members: Iterator[tuple[str, object]], out: list[str]) -> object:
    """Write members up to the next container and the name of its member; return the container, None at the end."""
    for name, item in members:
        opening, leaves = _MEMBERS[name]
        leaf = leaves.get(type(item))
        if leaf is None:
            out.append(opening)
            return item
        out += (opening, leaf(item), _MEMBER_END)
    return None


def _open(item: object, after: str, out: list[str]) -> _Frame | None:
    """Begin a container and return its frame, or write it whole and return None. after: the text that follows it.

    :raises TypeError: the item cannot be encoded.
    """
    if isinstance(item, dict):
        out.append(_STRUCT)
        return _write_members, iter(item.items()), _MEMBER_END, _STRUCT_END + after
    if isinstance(item, (list, tuple)):
        rows = _rows(item)
        if rows is None:
            out.append(_ARRAY)
            return _write_items, iter(item), '', _ARRAY_END + after
        out += (_ARRAY, rows, _ARRAY_END + after)
        return None
    for base in type(item).__mro__:
        if base in _LEAVES:
            out += (_LEAVES[base](item), after)
            return None
    raise TypeError(f'{type(item).__name__} cannot be sent')


# Rows of a table: most of every big answer is a list of structs with the same members in the same order. Such structs
# are encoded by column, with one test for special characters per column instead of one per value.


class _Column(NamedTuple):
    """One member of all rows: the text of each row, between the texts that all rows have before and after it.

    texts: None when the member is the same in all rows.
    """

    before: str
    texts: Sequence[str] | None = None
    after: str = ''


_WRITTEN_ALIKE_WHEN_EQUAL = frozenset({str, int, bool, datetime, bytes})  # unlike float: 0.0 equals -0.0


def _rows(rows: Sequence[object]) -> str | None:
    """Return the encoded items of a list of structs with equal members; None for any other list."""
    first = rows[0] if len(rows) > 1 else None
    if type(first) is not dict or not first or set(map(type, rows)) != {dict}:
        return None
    structs: Sequence[dict[str, object]] = rows  # type: ignore[assignment]  # each is a dict, as checked above
    names = tuple(first)
    if not all(map(names.__eq__, map(tuple, structs))):
        return None
    columns = []
    for name, values in zip(names, zip(*[struct.values() for struct in structs], strict=True), strict=True):
        opening, leaves = _MEMBERS[name]
        column = _column(values, leaves)
        if column is None:
            return None
        columns.append((opening, column))
    return _weave(columns, len(rows))


def _weave(columns: list[tuple[str, _Column]], count: int) -> str:
    """Return the text of all rows. Between two columns with texts lies one text that is the same in every row."""
    strands: list[Sequence[str]] = []
    constant = _STRUCT
    for opening, column in columns:
        constant += opening + column.before
        if column.texts is not None:
            strands += ((constant,) * count, column.texts)
            constant = column.after
        constant += _MEMBER_END
    strands.append((constant + _STRUCT_END,) * count)
    woven = [''] * (len(strands) * count)
    for place, strand in enumerate(strands):
        woven[place :: len(strands)] = strand
    return ''.join(woven)


def _column(values: tuple[object, ...], leaves: dict[type, _Leaf]) -> _Column | None:
    """Encode one member of every row; return None when it holds more than scalars, lists and structs of text."""
    kinds = set(map(type, values))
    if len(kinds) == 1:
        kind = next(iter(kinds))
        if kind is int and leaves is _COUNTER_LEAVES:
            return _Column(_STRING, list(map(str, values)), _STRING_END)
        if kind in _COLUMNS:
            return _COLUMNS[kind](values)
    kinds.discard(type(None))
    if len(kinds) != 1 or not kinds <= _WRITTEN_ALIKE_WHEN_EQUAL:
        return None
    return _mixed_column(values, leaves[kinds.pop()])


def _mixed_column(values: tuple[Hashable, ...], leaf: _Leaf) -> _Column:
    """Encode values of one type and nils, each distinct value once."""
    encoded = {value: _NIL if value is None else leaf(value) for value in set(values)}
    if len(encoded) == 1:
        return _Column(encoded[values[0]])
    return _Column('', [encoded[value] for value in values])


def _nil_column(_: tuple[None, ...]) -> _Column:
    return _Column(_NIL)


def _str_column(values: tuple[str, ...]) -> _Column:
    if values[0] == values[-1] and len(set(values)) == 1:
        return _Column(_string(values[0]))
    texts = list(map(_escape, values)) if _special.search(''.join(values)) else values
    return _Column(_STRING, texts, _STRING_END)


def _int_column(values: tuple[int, ...]) -> _Column:
    least, most = min(values), max(values)
    if least == most:
        return _Column(_int(least))
    if least >= _INT_MIN and most <= _INT_MAX:
        return _Column(_INT, list(map(str, values)), _INT_END)
    return _Column('', list(map(_int, values)))


def _datetime_column(values: tuple[datetime, ...]) -> _Column:
    return _Column(_DATETIME, list(map(_moment, values)), _DATETIME_END)


def _list_column(values: tuple[list[str], ...]) -> _Column | None:
    """Encode lists of strings (tags), each distinct list once: neighbours often have equal tags."""
    if set(map(type, chain.from_iterable(values))) - {str}:
        return None
    keys = list(map(tuple, values))
    encoded = {key: f'{_ARRAY}{"".join(map(_string, key))}{_ARRAY_END}' for key in set(keys)}
    if len(encoded) == 1:
        return _Column(encoded[keys[0]])
    return _Column('', [encoded[key] for key in keys])


def _dict_column(values: tuple[dict[str, str], ...]) -> _Column | None:
    """Encode structs of strings (avps), which are mostly empty."""
    if set(map(type, chain.from_iterable(value.values() for value in values))) - {str}:
        return None
    empty = f'{_STRUCT}{_STRUCT_END}'
    return _Column('', [_text(value) if value else empty for value in values]) if any(values) else _Column(empty)


_COLUMNS: dict[type, Callable[..., _Column | None]] = {
    type(None): _nil_column,
    str: _str_column,
    int: _int_column,
    datetime: _datetime_column,
    list: _list_column,
    dict: _dict_column,
}

# ---------------------------------------------------------------------------------------------------------- decoding

_integer = re.compile(r'[+-]?[0-9]{1,100}').fullmatch
_decimal_number = re.compile(
    r'[+-]?(?:[0-9]{1,1100}(?:\.[0-9]{0,1100})?|\.[0-9]{1,1100})(?:[eE][+-]?[0-9]{1,5})?'
).fullmatch
_timestamp = re.compile(
    r'([0-9]{4})-?([0-9]{2})-?([0-9]{2})T([0-9]{2}):?([0-9]{2}):?([0-9]{2})(?:\.([0-9]{1,9}))?'
    r'(?:Z|([+-])([0-9]{2}):?([0-9]{2}))?'
).fullmatch


_AT_ONCE = 2**17  # bytes parsed before other requests can run: ten to twenty milliseconds

# The encodings that the parser reads by itself. For any other name the parser would make Python look for a codec.
_ENCODINGS = frozenset({'UTF-8', 'UTF-16', 'UTF-16LE', 'UTF-16BE', 'ISO-8859-1', 'US-ASCII'})


def decode_request(body: bytes) -> tuple[str, list[object]]:
    """Return the method and the parameters of a call.

    Values become dict, list, str, int, bool, None, float, bytes and timezone-aware UTC datetime.

    :raises NipapInputError: the body is no well-formed call, or has a document type declaration.
    """
    values, start, end, text = _builders()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    parser.XmlDeclHandler = _check_encoding
    # Without declarations there are no entities to expand and no external ones to fetch.
    parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        last = max(0, len(body) - 1) // _AT_ONCE * _AT_ONCE
        for begin in range(0, last, _AT_ONCE):
            parser.Parse(body[begin : begin + _AT_ONCE], False)
            waiting.give_way()
        parser.Parse(body[last:], True)
    except expat.ExpatError as exc:
        raise _malformed(str(exc)) from None
    method, *parameters = values
    return str(method), parameters


def _malformed(reason: str) -> NipapInputError:
    return NipapInputError(f'malformed XML-RPC request: {reason}')


def _check_encoding(_version: str, encoding: str | None, _standalone: int) -> None:
    if encoding is not None and encoding.upper() not in _ENCODINGS:
        raise _malformed(f"the encoding '{_shown(encoding)}' is not supported, send UTF-8")


def _refuse_doctype(*_: object) -> None:
    raise _malformed('a document type declaration is not accepted')


def _shown(text: str) -> str:
    return text if len(text) <= 40 else f'{text[:40]}…'


def _read_int(text: str, bits: int = 64) -> int:
    text = text.strip()
    if not _integer(text):
        raise _malformed(f"'{_shown(text)}' is not an integer")
    value = int(text)
    if not -(2 ** (bits - 1)) <= value < 2 ** (bits - 1):
        raise _malformed(f'the integer {_shown(text)} is out of range, {bits} bits are accepted')
    return value


def _read_big_int(text: str) -> int:
    return _read_int(text, 256)


def _read_bool(text: str) -> bool:
    text = text.strip()
    if text not in ('0', '1'):
        raise _malformed(f"'{_shown(text)}' is not a boolean, 0 or 1 is accepted")
    return text == '1'


def _read_double(text: str) -> float:
    text = text.strip()
    if not _decimal_number(text):
        raise _malformed(f"'{_shown(text)}' is not a number")
    value = float(text)
    if value - value != 0:
        raise _malformed(f'the number {_shown(text)} is out of range')
    return value


def _read_datetime(text: str) -> datetime:
    text = text.strip()
    found = _timestamp(text)
    if found is None:
        raise _malformed(f"'{_shown(text)}' is not a dateTime.iso8601, 20261122T19:14:49 is accepted")
    *fields, fraction, sign, hours, minutes = found.groups()
    year, month, day, hour, minute, second = map(int, fields)
    offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
    try:
        value = datetime(year, month, day, hour, minute, second, int(f'{fraction or 0:0<6}'[:6]), UTC)
        return value + offset if sign == '-' else value - offset
    except (ValueError, OverflowError):
        raise _malformed(f'the date and time {text} does not exist or is out of range') from None


def _read_base64(text: str) -> bytes:
    try:
        return binascii.a2b_base64(''.join(text.split()), strict_mode=True)
    except ValueError:
        raise _malformed(f"'{_shown(text.strip())}' is not base64") from None


def _read_nil(text: str) -> None:
    if text.strip():
        raise _malformed('nil has no content')


_SCALARS: dict[str, Callable[[str], object]] = {
    'string': str,
    'boolean': _read_bool,
    'double': _read_double,
    'dateTime.iso8601': _read_datetime,
    'base64': _read_base64,
    **dict.fromkeys(('int', 'i1', 'i2', 'i4', 'i8', 'ex:i1', 'ex:i2', 'ex:i8'), _read_int),
    **dict.fromkeys(('biginteger', 'ex:biginteger'), _read_big_int),
    **dict.fromkeys(('float', 'ex:float'), _read_double),
    **dict.fromkeys(('nil', 'ex:nil'), _read_nil),
}

# For each state of an open element: the elements that may come next inside it, and its state after each of them. A
# state is the name of the element, followed by a word once some of its content has been read.
_GRAMMAR: dict[str, dict[str, str]] = {
    'the document': {'methodCall': 'the document'},
    'methodCall': {'methodName': 'methodCall named'},
    'methodCall named': {'params': 'methodCall done'},
    'params': {'param': 'params'},
    'param': {'value': 'param done'},
    'value': dict.fromkeys((*_SCALARS, 'array', 'struct'), 'value done'),
    'array': {'data': 'array done'},
    'data': {'value': 'data'},
    'struct': {'member': 'struct'},
    'member': {'name': 'member named'},
    'member named': {'value': 'member done'},
}
_NOTHING: dict[str, str] = {}
_INCOMPLETE = frozenset({'methodCall', 'param', 'array', 'member', 'member named'})
_CONTAINERS = frozenset({'array', 'struct'})
# Elements that are read as text. A value without a type is a string.
_READERS: dict[str, Callable[[str], object]] = {**_SCALARS, 'value': str, 'name': str, 'methodName': str.strip}


_BLANK_LINE = ['\n']  # the text that most clients write between elements
Handlers = tuple[list[object], Callable[[str, object], None], Callable[[str], None], Callable[[str], None]]


def _builders() -> Handlers:
    """Return the list of a request's values, the method's name first, and three handlers of a parser that fill it.

    The handlers use an explicit stack. They are closures because they run for each element of each request, and local
    names are found faster than attributes.
    """
    values: list[object] = []
    text: list[str] = []
    states = ['the document']
    begins: list[int] = []  # the index in `values` at which each open array or struct begins

    def start(tag: str, _attributes: object) -> None:
        state = states[-1]
        after = _GRAMMAR.get(state, _NOTHING).get(tag)
        if after is None:
            raise _malformed(f'<{_shown(tag)}> is not expected in {_element(state)}')
        if text:
            if text != _BLANK_LINE:
                _check_blank(text, state)
            text.clear()
        states[-1] = after
        states.append(tag)
        if tag in _CONTAINERS:
            if len(begins) >= MAX_DEPTH:
                raise _malformed(f'values nest more than {MAX_DEPTH} deep')
            begins.append(len(values))

    def end(_tag: str) -> None:
        state = states.pop()
        read = _READERS.get(state)
        if read is not None:
            values.append(read(''.join(text)))
            text.clear()
            return
        if text:
            if text != _BLANK_LINE:
                _check_blank(text, state)
            text.clear()
        if state == 'struct':
            begin = begins.pop()
            members = dict(zip(values[begin::2], values[begin + 1 :: 2], strict=True))
            values[begin:] = [members]
        elif state == 'array done':
            begin = begins.pop()
            values[begin:] = [values[begin:]]
        elif state in _INCOMPLETE:
            raise _malformed(f'{_element(state)} lacks {" or ".join(map(_element, _GRAMMAR[state]))}')

    return values, start, end, text.append


def _check_blank(parts: list[str], state: str) -> None:
    text = ''.join(parts)
    if not text.isspace():
        raise _malformed(f"the text '{_shown(text.strip())}' is not expected in {_element(state)}")


def _element(state: str) -> str:
    return state if state == 'the document' else f'<{state.split()[0]}>'
