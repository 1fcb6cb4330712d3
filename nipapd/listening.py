"""The sockets on which the daemon listens: bound here, or passed by a service manager."""

from __future__ import annotations

import dataclasses
import logging
import socket
import ssl
from collections.abc import Iterable

from tornado.netutil import bind_sockets

from nipapd import tls
from nipapd.config import ADMIN_PORT, DaemonSettings
from nipapd.systemd import TLS_NAME
from nipapd.values import OFF
from nipapd.worker import Listeners

log = logging.getLogger(__name__)

BACKLOG = 1024


class ListenError(Exception):
    """An address cannot be served; the message is one line."""


class Listening:
    """Every open listening socket. If a service manager passed sockets, the daemon serves calls on these alone."""

    def __init__(self, passed: Iterable[tuple[str, socket.socket]] = ()) -> None:
        self._passed = list(passed)
        self._bound: dict[tuple[str, int, str], list[socket.socket]] = {}

    def __enter__(self) -> Listening:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_all_but(None)
        self.close_passed()

    def open(self, settings: DaemonSettings, context: ssl.SSLContext | None) -> Listeners:
        """Return the sockets for the settings. Sockets that are open already are used again.

        :raises ListenError: a socket cannot be served; the sockets opened by this call are closed.
        """
        before = set(self._bound)
        try:
            end = tls.certificate_end(str(settings.ssl_cert_file)) if context else None
            return dataclasses.replace(self._main(settings, context), admin=self._admin(settings), certificate_end=end)
        except ListenError:
            for key in set(self._bound) - before:
                self._close(key)
            raise

    def _main(self, settings: DaemonSettings, context: ssl.SSLContext | None) -> Listeners:
        if self._passed:
            return self._activated(context)
        return Listeners(
            self._at(settings.listen, settings.port), self._at(settings.listen, settings.ssl_port), context
        )

    def _admin(self, settings: DaemonSettings) -> list[socket.socket]:
        """Return the sockets of the admin port; none if the default port is taken, as by a second daemon."""
        if settings.admin_port == OFF or settings.forks < 0:
            return []
        port = ADMIN_PORT if settings.admin_port is None else settings.admin_port
        try:
            return self._at(settings.admin_listen, port, 'admin')
        except ListenError as error:
            if settings.admin_port is not None or settings.admin_listen != DaemonSettings.admin_listen:
                raise
            log.warning('health and metrics are not served: %s', error)
            return []

    def close_passed(self) -> None:
        """Close the passed sockets, in a process that does not serve them."""
        for _name, each in self._passed:
            each.close()

    def close_all_but(self, wanted: Listeners | None) -> None:
        """Close the bound sockets that `wanted` does not have."""
        kept = {id(each) for each in (*wanted.plain, *wanted.tls, *wanted.admin)} if wanted else set()
        for key in [key for key, sockets in self._bound.items() if not kept.intersection(map(id, sockets))]:
            self._close(key)

    def _activated(self, context: ssl.SSLContext | None) -> Listeners:
        encrypted = [each for name, each in self._passed if name == TLS_NAME]
        if encrypted and context is None:
            raise ListenError(f'a socket named {TLS_NAME} was passed, for which ssl_port and ssl_cert_file are needed')
        return Listeners([each for name, each in self._passed if name != TLS_NAME], encrypted, context)

    def _at(self, addresses: Iterable[str], port: int | None, purpose: str = '') -> list[socket.socket]:
        if port is None:
            return []
        return [found for address in addresses for found in self._bind(address, port, purpose)]

    def _bind(self, address: str, port: int, purpose: str) -> list[socket.socket]:
        key = address, port, purpose
        if key not in self._bound:
            try:
                self._bound[key] = bind_sockets(port, address, backlog=BACKLOG)
            except OSError as error:
                raise ListenError(f'cannot listen on {address} port {port}: {error.strerror}') from error
        return self._bound[key]

    def _close(self, key: tuple[str, int, str]) -> None:
        for each in self._bound.pop(key):
            each.close()
