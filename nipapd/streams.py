"""Connections that add the common headers to responses that the server writes without the application."""

from __future__ import annotations

import asyncio
import logging

from tornado.iostream import IOStream, SSLIOStream, UnsatisfiableReadError

from nipap.runtime import tracer
from nipapd.tls import HSTS

log = logging.getLogger(__name__)

REQUEST_ID = 'X-Request-ID'
# Headers of such responses: browsers neither guess their type nor store them.
SAFE = (('X-Content-Type-Options', 'nosniff'), ('Cache-Control', 'no-store'))
MALFORMED = b'HTTP/1.1 400 Bad Request\r\n\r\n'  # Tornado's response to a request that is no HTTP


def last_answer(status: str, body: bytes, kind: str = 'text/plain', *headers: tuple[str, str]) -> bytes:
    """Return a response after which the connection ends."""
    named = (('Connection', 'close'), ('Content-Type', kind), ('Content-Length', str(len(body))), *SAFE, *headers)
    lines = (f'HTTP/1.1 {status}', *(f'{name}: {value}' for name, value in named), '', '')
    return '\r\n'.join(lines).encode() + body


NO_REQUEST = last_answer('400 Bad Request', b'That is no valid HTTP request.\n')


# Tornado reads this in place of headers that are longer than it accepts, so that the request can be refused.
TOO_LONG = b'GET / HTTP/1.0\r\n\r\n'


class _Speaking(IOStream):
    """A connection that adds the common headers to responses that the server writes without the application."""

    hsts = False
    network = ''  # of the peer, for its share of connections
    given_id: str | None = None  # the client's id for the present request
    has_long_headers = False  # whether the headers are longer than allowed

    def _find_read_pos(self) -> int | None:
        """Return the end of the pending read.

        Tornado closes a connection without a response when the headers of a request are too long. Give it a short
        request instead: `Server` refuses the request, because `has_long_headers` is set.
        """
        try:
            return super()._find_read_pos()
        except UnsatisfiableReadError:
            if self._read_regex is None:  # inside a body
                raise
            self.has_long_headers = True
            self._read_buffer[:] = TOO_LONG
            self._read_buffer_size = len(TOO_LONG)
            return self._read_buffer_size

    def refusal(self, answer: bytes) -> bytes:
        """Return a `last_answer` with the common headers, and log it."""
        request_id = tracer.request_id(self.given_id)
        log.info('request %s is refused: %s', request_id, answer.rpartition(b'\r\n')[2].decode().strip())
        headers = [(REQUEST_ID, request_id), *([HSTS] if self.hsts else [])]
        lines = ''.join(f'\r\n{name}: {value}' for name, value in headers)
        return answer.replace(b'\r\n', f'{lines}\r\n'.encode(), 1)


class Stream(_Speaking):
    """A connection."""

    def write(self, data: bytes | memoryview) -> asyncio.Future[None]:
        return super().write(self.refusal(NO_REQUEST) if data == MALFORMED else data)


class TlsStream(_Speaking, SSLIOStream):
    """An encrypted connection."""

    def write(self, data: bytes | memoryview) -> asyncio.Future[None]:
        return super().write(self.refusal(NO_REQUEST) if data == MALFORMED else data)
