"""Hostile clients of the long run. Without credentials, they hold on to every resource of the daemon.

They use a source address of their own, so that their failed logins are not counted for the working clients. Any answer
to them is right. The books of the run show that the working clients lose nothing and are answered.
"""

from __future__ import annotations

import contextlib
import gzip
import random
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Event
from urllib.parse import urlsplit

from bench.soak_clients import CONTEXT

ADDRESS = '127.0.0.66'
HOLD_S = (0.1, 3.0)
AT_ONCE = 8  # connections of one attack
WRONG = 'Authorization: Basic bm9ib2R5Ondyb25n'  # nobody:wrong


def head(target: str, *lines: str) -> bytes:
    return '\r\n'.join([f'{target} HTTP/1.1', 'Host: soak', *lines, '', '']).encode()


def compressed() -> bytes:
    body = gzip.compress(b'<value/>' * 500_000)
    described = WRONG, 'Content-Type: text/xml', 'Content-Encoding: gzip', f'Content-Length: {len(body)}'
    return head('POST /XMLRPC', *described) + body


ATTACKS: dict[str, Callable[[], bytes]] = {
    'half a request': lambda: b'POST /XMLRPC HTTP/1.1\r\nX: ',
    'a body that does not end': lambda: head('POST /XMLRPC', WRONG, 'Content-Length: 9000000') + b' ' * 100_000,
    'an answer that nobody reads': lambda: head('GET /api/docs/swagger-ui-bundle.js') * 5,
    'a wrong login': lambda: head('POST /XMLRPC', WRONG, 'Content-Type: text/xml', 'Content-Length: 0'),
    'many values': compressed,
    'no HTTP': lambda: b'\0' * 1000,
}


def attack(where: tuple[str, int], stop: Event, seed: int) -> None:
    """Attack until `stop` is set. A refused or cut connection is expected."""
    chosen = random.Random(seed)
    while not stop.wait(chosen.uniform(0, 0.5)):
        sent = ATTACKS[chosen.choice(sorted(ATTACKS))]()
        with contextlib.ExitStack() as stack:
            for _ in range(AT_ONCE):
                with contextlib.suppress(OSError):
                    client = stack.enter_context(socket.socket())
                    client.settimeout(5)
                    client.bind((ADDRESS, 0))
                    client.connect(where)
                    client.sendall(sent)
            stop.wait(chosen.uniform(*HOLD_S))


def serve(where: tuple[str, int], stop: Event, seed: int, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    running = [threading.Thread(target=attack, args=(where, stop, seed + number)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


@contextlib.contextmanager
def attacking(url: str, stop: Event, seed: int, threads: int) -> Iterator[None]:
    """Run hostile clients in a process of their own, until `stop` is set."""
    parts = urlsplit(url)
    where = str(parts.hostname), int(parts.port or 0)
    process = CONTEXT.Process(target=serve, args=(where, stop, seed, threads), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.join(20)
        process.kill()
