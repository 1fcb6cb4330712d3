"""A client of the daemon for other processes: XML-RPC over one persistent HTTP connection.

This module knows the protocol, not the objects that are managed with it.
"""

from __future__ import annotations

import base64
import http.client
import re
import socket
import xmlrpc.client
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from xml.parsers import expat

from nipap.xmlrpc.codec import encode_request

CONNECT_TIMEOUT_S = 10
ANSWER_TIMEOUT_S = 600

# An answer that is an array of integers, such as the ids that a batch returns.
_numbers_only = re.compile(
    rb'(?:<\?xml[^>]*\?>)?\s*<methodResponse><params><param><value><array><data>'
    rb'((?:<value><int>-?[0-9]+</int></value>)*)'
    rb'</data></array></value></param></params></methodResponse>\s*'
).fullmatch
_numbers = re.compile(rb'-?[0-9]+').findall


class Fault(Exception):  # noqa: N818 (XML-RPC calls it that)
    """The daemon refused a call: `code` is the permanent number, `text` the reason."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text

    def __str__(self) -> str:
        return f'{self.text} (fault {self.code})'


class TransportError(Exception):
    """No valid answer was received. Whether the call was carried out is unknown."""


@dataclass(frozen=True)
class Server:
    """The address of a daemon, and the login of the caller."""

    host: str
    port: int
    username: str
    password: str = field(repr=False)
    tls: bool = False

    def __str__(self) -> str:
        return f'[{self.host}]:{self.port}' if ':' in self.host else f'{self.host}:{self.port}'


class Client:
    """A connection to one daemon. The first call opens it; the first call after its loss opens it again."""

    def __init__(self, server: Server, source: str) -> None:
        self.server = server
        self._auth = {'authoritative_source': source}
        self._connection: http.client.HTTPConnection | None = None
        token = base64.b64encode(f'{server.username}:{server.password}'.encode()).decode()
        self._headers = {'Authorization': f'Basic {token}', 'Content-Type': 'text/xml'}

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def another(self) -> Client:
        """Return a second client of the same caller for the same daemon, with a connection of its own."""
        return Client(self.server, self._auth['authoritative_source'])

    def close(self) -> None:
        """Close the connection. A call that another thread has made on it ends in a TransportError."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if connection.sock is not None:  # None when the connection was closed after the last answer
            with suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()

    def call(self, method: str, members: Mapping[str, object] | None = None) -> object:
        """Call a method with a struct of these members and return its answer.

        :raises Fault: the daemon refuses the call. TransportError: the daemon cannot be reached, or gives no valid
            answer.
        """
        answer = self._post(encode_request(method, {'auth': self._auth, **(members or {})}))
        found = _numbers_only(answer)
        return list(map(int, _numbers(found[1]))) if found else self._decode(answer)

    def _post(self, body: bytes) -> bytes:
        try:
            connection = self._connect()
            connection.request('POST', '/XMLRPC', body, self._headers)
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as exc:
            self.close()
            raise TransportError(f'{self.server}: {exc or type(exc).__name__}') from None
        except BaseException:
            # Interrupted: a later call on this connection would read the answer to this one.
            self.close()
            raise
        if response.status != http.client.OK:
            raise TransportError(f'{self.server}: answered HTTP {response.status} {response.reason}')
        return answer

    def _connect(self) -> http.client.HTTPConnection:
        if self._connection is None:
            kind = http.client.HTTPSConnection if self.server.tls else http.client.HTTPConnection
            connection = kind(self.server.host, self.server.port, timeout=CONNECT_TIMEOUT_S)
            connection.connect()
            connection.sock.settimeout(ANSWER_TIMEOUT_S)
            self._connection = connection
        return self._connection

    def _decode(self, answer: bytes) -> object:
        try:
            (value,), _ = xmlrpc.client.loads(answer, use_builtin_types=True)
        except xmlrpc.client.Fault as exc:
            raise Fault(exc.faultCode, exc.faultString) from None
        except (xmlrpc.client.Error, expat.ExpatError, ValueError, TypeError) as exc:
            raise TransportError(f'{self.server}: the answer is not XML-RPC: {exc}') from None
        return value


def array(client: Client, members: Mapping[str, object], length: int) -> list[Any]:
    """Call ``batch`` and return its answers, one for each operation.

    :raises Fault: the daemon refuses the batch. TransportError: as `Client.call`, or not `length` answers came.
    """
    answers = client.call('batch', members)
    if not isinstance(answers, list) or len(answers) != length:
        raise TransportError(f'{client.server}: the answer to {length} operations has another shape')
    return answers
