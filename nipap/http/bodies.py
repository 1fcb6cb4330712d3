"""The bodies of requests and answers in any format: limits, compression, and spooling of long answers."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain

from flask import Request, current_app
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

from nipap.errors import NipapInputError, NipapMediaTypeError, NipapTooLargeError
from nipap.runtime import waiting
from nipap.runtime.spool import GZIP, GZIP_LEVEL, Spool

MAX_BODY = 10 * 2**20
MOST_VALUES = 1_000_000
WORTH_COMPRESSING = 1400  # smaller answers fit into one packet anyway

_WORTH_A_TURN = 2**16  # a few milliseconds of encoding
_WORTH_SPOOLING = 4 * 2**20  # smaller answers stay in memory, uncompressed


def read_body(request: Request, max_body: int) -> bytes:
    """Return the body of a request, decompressed.

    :raises NipapInputError: the body is too large, cut off, not gzip as declared, or in another encoding.
    """
    if request.environ.get('HTTP_TRANSFER_ENCODING', '').lower() == 'chunked':
        # A chunked body has no Content-Length. Servers end the stream at its end, but few of them declare that.
        request.environ['wsgi.input_terminated'] = True
    try:
        body = request.get_data(cache=False, parse_form_data=False)
    except RequestEntityTooLarge:
        raise _too_large(max_body) from None
    except ClientDisconnected:
        raise NipapInputError('the body of the request is shorter than its Content-Length') from None
    if len(body) > max_body:
        raise _too_large(max_body)
    encoding = request.headers.get('Content-Encoding', '').strip().lower()
    if encoding in ('', 'identity'):
        return body
    if encoding in ('gzip', 'x-gzip'):
        return _decompress(body, max_body)
    raise NipapMediaTypeError(f"Content-Encoding '{encoding}' is not supported, gzip is")


def check_xml(body: bytes) -> bytes:
    """Return the body of an XML-RPC request, unless it has too many values.

    Values are limited because a few bytes of a body are much more in memory, and take long to parse.

    :raises NipapTooLargeError: the values are too many.
    """
    return _bounded(body, body.count(b'<value'))


def check_json(body: bytes) -> bytes:
    """Return a body in JSON, unless it has too many values.

    :raises NipapTooLargeError: the values are too many.
    """
    if len(body) > _most_values() and _values_of(body) > _most_values():
        return _bounded(body, _values_of(_TEXTS.sub(b'""', body)))
    return body


_TEXTS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)


def _values_of(json: bytes) -> int:
    """Return the most values that JSON can have: one, and one more for each comma, array and object."""
    return 1 + json.count(b',') + json.count(b'[') + json.count(b'{')


def _bounded(body: bytes, values: int) -> bytes:
    most = _most_values()
    if values > most:
        current_app.config.get('NOTE_LIMIT', lambda _: None)('values')
        raise NipapTooLargeError(f'the request has too many values, {most} are accepted')
    return body


def _most_values() -> int:
    return int(current_app.config.get('MOST_VALUES', MOST_VALUES))


def _decompress(body: bytes, max_body: int) -> bytes:
    stream = zlib.decompressobj(GZIP)
    try:
        plain = stream.decompress(body, max_body + 1)
    except zlib.error:
        raise NipapInputError('the body of the request is not gzip as its Content-Encoding says') from None
    if len(plain) > max_body:
        raise _too_large(max_body)
    if not stream.eof or stream.unused_data:
        raise NipapInputError('the body of the request must be exactly one gzip stream')
    return plain


def _too_large(max_body: int) -> NipapTooLargeError:
    return NipapTooLargeError(f'the request is too large, {max_body} bytes are accepted')


def kept(parts: Iterator[bytes]) -> list[bytes] | Spool:
    """Read all parts of an answer before the first is sent. Return a list, or a spool when the answer is large."""
    kept = []
    size = 0
    for part in parts:
        kept.append(part)
        size += len(part)
        if size > _WORTH_SPOOLING:
            return Spool(chain(kept, parts))
    return kept


def giving_way(parts: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the parts of an answer. After a long part, other requests can run."""
    for part in parts:
        yield part
        if len(part) > _WORTH_A_TURN:
            waiting.give_way()


def takes_gzip(request: Request) -> bool:
    """Return whether the client accepts answers in the gzip format."""
    # The plain text is checked first: most clients do not accept gzip, and the header takes long to parse.
    return 'gzip' in request.environ.get('HTTP_ACCEPT_ENCODING', '').lower() and request.accept_encodings['gzip'] > 0


def compressed(parts: Iterable[bytes]) -> list[bytes]:
    """Return the parts of a body compressed in the gzip format."""
    stream = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, GZIP)
    return [*map(stream.compress, parts), stream.flush()]
