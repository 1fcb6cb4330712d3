"""Handlers and PostgreSQL are killed while clients retry calls with keys until they are answered: each is done once."""

from __future__ import annotations

import http.client
import os
import random
import signal
import threading
import time
import xmlrpc.client
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from daemon_process import Daemon, poll
from support import DaemonFactory
from talking import handlers
from test_crash import AUTH, BETWEEN_S, CLIENTS, sessions

from nipapd import maintenance

pytestmark = pytest.mark.slow

ROUNDS = 3
ARGS = {'from-pool': {'name': 'p'}, 'family': 4}
PATIENCE_S = 30.0


class Plain(xmlrpc.client.Transport):
    """Sends a request once; the transport of the library would resend the request after a lost connection."""

    def request(self, host: Any, handler: str, request_body: Any, verbose: bool = False) -> Any:
        return self.single_request(host, handler, request_body, verbose)


# Faults to retry: an internal error; PostgreSQL away for longer than calls wait, on a busy machine; an unknown outcome.
TO_BE_SENT_AGAIN = (1000, 1010, 1020)


class Insisting(threading.Thread):
    """A client that makes one change after the other and retries each until it is answered."""

    def __init__(self, url: str, name: str, stop: threading.Event) -> None:
        super().__init__(name=name)
        self.got: dict[str, Any] = {}
        self.failed = 0
        self._url, self._stop_event = url, stop

    def run(self) -> None:
        turn = 0
        while not self._stop_event.is_set():
            key = f'{self.name} {turn}'
            self.got[key] = self.insist(key)
            turn += 1

    def insist(self, key: str) -> Any:
        """Return the answer to the call with this key."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                with xmlrpc.client.ServerProxy(self._url, Plain(), allow_none=True) as server:
                    return server.batch({'auth': AUTH, 'operations': operations(key), 'idempotency_key': key})
            except (OSError, http.client.HTTPException, xmlrpc.client.Fault) as error:
                if time.monotonic() > deadline or getattr(error, 'faultCode', 1000) not in TO_BE_SENT_AGAIN:
                    raise
                self.failed += 1
            time.sleep(0.02)  # without a daemon the call fails at once


def operations(key: str) -> list[dict[str, Any]]:
    """Return an allocation that is described by the key, and an edit of the allocated prefix."""
    return [
        {'method': 'add_prefix', 'args': {'attr': {'description': key}, 'args': ARGS}},
        {'method': 'edit_prefix', 'args': {'prefix': {'id': {'$result': [0, 'id']}}, 'attr': {'comment': key}}},
    ]


def postmaster(data_dir: Path) -> list[int]:
    try:
        return [int((data_dir / 'data' / 'postmaster.pid').read_text().splitlines()[0])]
    except FileNotFoundError:
        return []


def test_with_a_key_whatever_dies_everything_is_done_once(daemon: DaemonFactory, new_data_dir: Path) -> None:
    data_dir = new_data_dir
    running: Daemon = daemon(data_dir=data_dir)
    url = running.url(*running.admin())
    with xmlrpc.client.ServerProxy(url, allow_none=True) as server:
        pool = {'name': 'p', 'description': 'd', 'default_type': 'assignment', 'ipv4_default_prefix_length': 32}
        server.add_pool({'auth': AUTH, 'attr': pool})
        block = {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'd', 'pool_name': 'p'}
        server.add_prefix({'auth': AUTH, 'attr': block})
    clients = insist_while_killing(
        url, [lambda: [each.pid for each in handlers(running)], lambda: sessions(data_dir)], data_dir
    )
    answers = {key: answer for client in clients for key, answer in client.got.items()}
    assert sum(client.failed for client in clients) > 0
    with xmlrpc.client.ServerProxy(url, allow_none=True) as server:
        query = {'operator': 'equals', 'val1': 'type', 'val2': 'assignment'}
        call = {'auth': AUTH, 'query': query, 'search_options': {'max_result': 100_000}}
        found: Any = server.search_prefix(call)
        rows = found['result']
        for key in random.sample(sorted(answers), 20):
            assert server.batch({'auth': AUTH, 'operations': operations(key), 'idempotency_key': key}) == answers[key]
    told = [(added['description'], key, added['id'], added['prefix']) for key, (added, _) in answers.items()]
    assert sorted((row['description'], row['comment'], row['id'], row['prefix']) for row in rows) == sorted(told)
    assert len({row['prefix'] for row in rows}) == len(rows) > CLIENTS
    assert maintenance.main(['check', '--config', '/dev/null', '--data-dir', str(data_dir)]) == 0


def kill_one(find: Callable[[], list[int]]) -> bool:
    """Kill one of the processes that `find` returns; return False when there is none."""
    found = find()
    if not found:
        return False
    try:
        os.kill(random.choice(found), signal.SIGKILL)
    except ProcessLookupError:  # the process has ended meanwhile
        return False
    return True


def insist_while_killing(url: str, victims: list[Callable[[], list[int]]], data_dir: Path) -> list[Insisting]:
    """Let clients work while processes die; return the clients."""
    stop = threading.Event()
    clients = [Insisting(url, f'client {number}', stop) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    blows = [partial(kill_one, find) for find in (*victims * ROUNDS, lambda: postmaster(data_dir))]
    random.shuffle(blows)
    for blow in blows:
        # Let the clients work between one kill and the next.
        time.sleep(BETWEEN_S)
        poll(blow, PATIENCE_S, lambda: 'there is nothing to kill')
    time.sleep(BETWEEN_S)
    stop.set()
    for client in clients:
        client.join()
    return clients
