"""Bodies of requests and answers, whatever is in them: limits, compression, and what is long out of memory's way."""

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
_WORTH_SPOOLING = 4 * 2**20  # plain answers below are not compressed only to be kept


def read_body(request: Request, max_body: int) -> bytes:
    """The body of a request, decompressed.

    :raises NipapInputError: it is too large, cut off, or no gzip as it says.
    """
    if request.environ.get('HTTP_TRANSFER_ENCODING', '').lower() == 'chunked':
        # No Content-Length says where such a body ends; servers give it out whole, but few declare that they do.
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
    """Return a body over XML-RPC, unless it has too many values.

    :raises NipapTooLargeError: a few bytes in a body are much more in memory, and take long to read.
    """
    return _bounded(body, body.count(b'<value'))


def check_json(body: bytes) -> bytes:
    """Return a body in JSON, unless it has too many values.

    :raises NipapTooLargeError: as `check_xml`.
    """
    if len(body) > _most_values() and _values_of(body) > _most_values():
        return _bounded(body, _values_of(_TEXTS.sub(b'""', body)))
    return body


_TEXTS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)


def _values_of(json: bytes) -> int:
    """Return how many values JSON without texts has at most: one more than commas, and those that hold others."""
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
        raise NipapInputError('the body of the request is more or less than one gzip stream')
    return plain


def _too_large(max_body: int) -> NipapTooLargeError:
    return NipapTooLargeError(f'the request is too large, {max_body} bytes are accepted')


def kept(parts: Iterator[bytes]) -> list[bytes] | Spool:
    """Read all parts of an answer before the first is sent. Return a list, or a spool when they are large."""
    kept = []
    size = 0
    for part in parts:
        kept.append(part)
        size += len(part)
        if size > _WORTH_SPOOLING:
            return Spool(chain(kept, parts))
    return kept


def giving_way(parts: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the parts of an answer. After a long part other requests have their turn."""
    for part in parts:
        yield part
        if len(part) > _WORTH_A_TURN:
            waiting.give_way()


def takes_gzip(request: Request) -> bool:
    """Whether the client accepts answers in the gzip format."""
    # Most clients do not, and the header takes long to read.
    return 'gzip' in request.environ.get('HTTP_ACCEPT_ENCODING', '').lower() and request.accept_encodings['gzip'] > 0


def compressed(parts: Iterable[bytes]) -> list[bytes]:
    """The same bytes in the gzip format."""
    stream = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, GZIP)
    return [*map(stream.compress, parts), stream.flush()]
