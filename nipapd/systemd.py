"""The interface to a service manager: sockets that it passes, and notifications about the state of the daemon.

The protocols are sd_listen_fds(3) and sd_notify(3): environment variables, and datagrams.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping, MutableMapping

log = logging.getLogger(__name__)

FIRST = 3  # the descriptor of the first passed socket
TLS_NAME = 'https'
SENT_WITHIN_S = 5.0


class ActivationError(Exception):
    """The passed descriptors cannot be served; the message is one line."""


def take_sockets(environ: MutableMapping[str, str]) -> list[tuple[str, socket.socket]]:
    """Return the sockets that were passed to this process, with their names, and hide them from children."""
    pid, count, names = (environ.pop(name, '') for name in ('LISTEN_PID', 'LISTEN_FDS', 'LISTEN_FDNAMES'))
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    given = names.split(':') + [''] * int(count)
    return [(given[number], _take(FIRST + number)) for number in range(int(count))]


def _take(descriptor: int) -> socket.socket:
    os.set_inheritable(descriptor, False)
    try:
        found = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ActivationError(f'descriptor {descriptor} was passed, which is no socket: {error.strerror}') from error
    tcp = found.family in (socket.AF_INET, socket.AF_INET6) and found.type == socket.SOCK_STREAM
    if not tcp or not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ActivationError(f'descriptor {descriptor} was passed, which is no listening TCP socket')
    found.setblocking(False)
    return found


def notify(state: str, environ: Mapping[str, str] | None = None) -> None:
    """Send a state to the service manager, if there is one that wants notifications."""
    address = (os.environ if environ is None else environ).get('NOTIFY_SOCKET', '')
    if not address.startswith(('/', '@')):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.settimeout(SENT_WITHIN_S)
        try:
            sender.connect(address.replace('@', '\0', 1) if address[0] == '@' else address)
            sender.send(state.encode())
        except OSError as error:
            log.warning('cannot send %s to the service manager: %s', state.split('\n')[0], error)


def notify_reloading() -> None:
    """Notify that the configuration is being applied; READY=1 ends this state."""
    notify(f'RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}')
