"""Pass the traces of clients on to the collector of the daemon, without a thread and within seconds."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from urllib.parse import unquote

from tornado.httpclient import AsyncHTTPClient, HTTPRequest

from nipap.http.traces import Heard
from nipapd.fibers import Fibers

log = logging.getLogger(__name__)

MOST_AT_ONCE = 8
PATIENCE_S = 5.0
MOST_ANSWER = 2**16
PLAIN = 'text/plain'
BUSY = Heard(503, PLAIN, b'Too many traces are on their way.\n')
AWAY = Heard(502, PLAIN, b'The collector of traces does not answer.\n')


class Collector:
    """The collector at an address, for one handler. It has to be created in the handler."""

    def __init__(self, endpoint: str, fibers: Fibers) -> None:
        self._endpoint = endpoint
        self._fibers = fibers
        self._headers = configured_headers(os.environ)
        self._certificates = os.environ.get('OTEL_EXPORTER_OTLP_CERTIFICATE') or None
        self._client: AsyncHTTPClient | None = None
        self._busy = 0

    def send(self, body: bytes, headers: Mapping[str, str]) -> Heard:
        """Send a body and return the response of the collector, or an error in its place."""
        if self._busy >= MOST_AT_ONCE:
            return BUSY
        self._busy += 1
        try:
            return self._fibers.result_of(asyncio.get_running_loop().create_task(self._post(body, headers)))
        finally:
            self._busy -= 1

    async def _post(self, body: bytes, headers: Mapping[str, str]) -> Heard:
        if self._client is None:
            self._client = AsyncHTTPClient(
                force_instance=True,
                max_clients=MOST_AT_ONCE,
                max_body_size=MOST_ANSWER,
                max_buffer_size=2 * MOST_ANSWER,
            )
        request = HTTPRequest(
            self._endpoint,
            'POST',
            {**self._headers, **headers},
            body,
            connect_timeout=PATIENCE_S,
            request_timeout=PATIENCE_S,
            follow_redirects=False,
            ca_certs=self._certificates,
        )
        try:
            answer = await self._client.fetch(request, raise_error=False)  # raises when there is no answer
        except Exception as exc:
            log.warning('cannot send the traces of a client to the collector %s: %s', self._endpoint, exc)
            return AWAY
        return Heard(answer.code, answer.headers.get('Content-Type', PLAIN), answer.body or b'')


def configured_headers(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the headers, such as a password, that OpenTelemetry's own exporters would send."""
    text = environ.get('OTEL_EXPORTER_OTLP_TRACES_HEADERS') or environ.get('OTEL_EXPORTER_OTLP_HEADERS', '')
    pairs = (part.partition('=') for part in text.split(',') if '=' in part)
    return {unquote(name).strip(): unquote(value).strip() for name, _, value in pairs}
