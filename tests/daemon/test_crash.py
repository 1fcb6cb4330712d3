"""Processes of PostgreSQL die while clients allocate: each change is made once, and no client gets a fault."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import threading
import time
import xmlrpc.client
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from daemon_process import Daemon
from support import DaemonFactory

from nipapd import maintenance

pytestmark = pytest.mark.slow

AUTH = {'authoritative_source': 'test'}
CLIENTS = 4
KILLS = 4
BETWEEN_S = 0.4


class Allocating(threading.Thread):
    """A client that allocates until it is stopped, and records the answers."""

    def __init__(self, url: str, name: str, stop: threading.Event) -> None:
        super().__init__(name=name)
        self.got: dict[str, int] = {}
        self.faults: Counter[str] = Counter()
        self._url, self._stop_event = url, stop

    def run(self) -> None:
        with xmlrpc.client.ServerProxy(self._url, allow_none=True) as server:
            self._allocate(server)

    def _allocate(self, server: xmlrpc.client.ServerProxy) -> None:
        for turn in itertools.count():
            if self._stop_event.is_set():
                return
            description = f'{self.name} {turn}'
            args = {'from-pool': {'name': 'p'}, 'family': 4}
            try:
                added: Any = server.add_prefix({'auth': AUTH, 'attr': {'description': description}, 'args': args})
            except xmlrpc.client.Fault as fault:
                self.faults[fault.faultString] += 1
            else:
                self.got[description] = added['id']


def sessions(data_dir: Path) -> list[int]:
    """Return the processes of PostgreSQL that serve our handlers."""
    postmaster = (data_dir / 'data' / 'postmaster.pid').read_text().splitlines()[0]
    listed = subprocess.run(['ps', '-o', 'pid=,args=', '--ppid', postmaster], capture_output=True, text=True).stdout
    return [int(line.split()[0]) for line in listed.splitlines() if ' nipap ' in line]


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL])
def test_whatever_dies_everything_is_done_once(
    daemon: DaemonFactory, new_data_dir: Path, number: signal.Signals
) -> None:
    """A killed session ends all others: PostgreSQL starts over."""
    data_dir = new_data_dir
    running: Daemon = daemon(data_dir=data_dir)
    with xmlrpc.client.ServerProxy(running.url(*running.admin()), allow_none=True) as server:
        pool = {'name': 'p', 'description': 'd', 'default_type': 'assignment', 'ipv4_default_prefix_length': 32}
        server.add_pool({'auth': AUTH, 'attr': pool})
        block = {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'd', 'pool_name': 'p'}
        server.add_prefix({'auth': AUTH, 'attr': block})
        clients = allocate_while_killing(running, data_dir, number)
        query = {'operator': 'equals', 'val1': 'type', 'val2': 'assignment'}
        call = {'auth': AUTH, 'query': query, 'search_options': {'max_result': 100_000}}
        rows: Any = server.search_prefix(call)['result']
    acknowledged = [item for client in clients for item in client.got.items()]
    assert sum((client.faults for client in clients), Counter()) == {}
    assert sorted((row['description'], row['id']) for row in rows) == sorted(acknowledged)
    assert len({row['prefix'] for row in rows}) == len(rows) > CLIENTS
    assert maintenance.main(['check', '--config', '/dev/null', '--data-dir', str(data_dir)]) == 0


def allocate_while_killing(running: Daemon, data_dir: Path, number: signal.Signals) -> list[Allocating]:
    """Let clients allocate for a while in which sessions die; return the clients."""
    stop = threading.Event()
    clients = [Allocating(running.url(*running.admin()), f'client {n}', stop) for n in range(CLIENTS)]
    for client in clients:
        client.start()
    killed = 0
    while killed < KILLS:
        # Let the clients work between one kill and the next.
        time.sleep(BETWEEN_S)
        if found := sessions(data_dir):
            os.kill(random.choice(found), number)
            killed += 1
    time.sleep(BETWEEN_S)
    stop.set()
    for client in clients:
        client.join()
    return clients
