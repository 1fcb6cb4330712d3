"""Attacks by one client on the daemon: another user is answered in time and never refused, and a limit says why."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from attacks import PATIENCE_S, Site, body_of, holding
from daemon_process import poll
from talking import Configured
from test_admin import samples

pytestmark = pytest.mark.slow

SLOW = r'^(.+)(.+)(.+)\3\2\1!$'  # which keeps PostgreSQL busy until it is stopped
TEXT = ''.join(random.Random(1).choices('abcdefgh', k=2000)) + '!'

Make = Callable[..., Site]


@pytest.fixture
def site(configured: Configured, make_dir: Callable[[], Path]) -> Make:
    """Makes daemons of one handler with an account to attack from: `site(**settings of [nipapd])`."""

    def make(**settings: str) -> Site:
        data_dir = make_dir()
        settings = {'forks': '1', 'drain_timeout': '1', **settings}
        return Site(configured('--admin-port', '0', data_dir=data_dir, **settings), data_dir)

    return make


def test_calls_that_sleep_take_no_places(site: Make) -> None:
    """Their clients have left at once, too."""
    target = site(most_running='4')
    with holding(lambda _: target.connect(), 100) as clients:
        for client in clients:
            client.sendall(target.post(body_of('echo', message='m', sleep=9)))
        poll(lambda: samples(target.daemon)['nipap_running_requests'] >= 100, PATIENCE_S, target.daemon.log)
        target.work()
        for client in clients[::2]:
            client.close()
        target.work()


def test_patterns_that_keep_postgresql_busy_take_a_share_of_its_sessions(site: Make) -> None:
    target = site(db_connections='4', most_running='8')
    with target.connection() as connection:
        attr = {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': TEXT}
        target.call(connection, 'add_prefix', attr=attr)
    search = body_of('search_prefix', query={'operator': 'regex_match', 'val1': 'description', 'val2': SLOW})

    def ask(_: int) -> socket.socket:
        client = target.connect()
        client.sendall(target.post(search))
        return client

    with holding(ask, 40):
        poll(lambda: samples(target.daemon)['nipap_database_sessions'] >= 3, PATIENCE_S, target.daemon.log)
        target.work()
        target.await_reached('sessions')
        target.await_reached('running')
