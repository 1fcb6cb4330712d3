"""Password guesses against a running daemon, and the effect of changed accounts on its handlers."""

from __future__ import annotations

import base64
import http.client
import itertools
import json
import re
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from daemon_process import REPOSITORY, Daemon, poll
from support import DaemonFactory

from nipap import __version__

pytestmark = pytest.mark.slow

HANDLERS = 3
REFUSED = re.compile(r'too many failed logins, try again in (\d+) seconds?\.$')
Make = Callable[..., Daemon]


@pytest.fixture
def make(daemon: DaemonFactory, database_options: dict[str, str]) -> Make:
    """Return a factory of daemons with several handlers and the given settings of [auth]."""

    def made(data_dir: Path | None = None, **auth: str) -> Daemon:
        nipapd = {'forks': str(HANDLERS), **database_options}
        return daemon(config={'nipapd': nipapd, 'auth': auth}, data_dir=data_dir)

    return made


class Caller:
    """One connection from an address of this host."""

    def __init__(self, daemon: Daemon, address: str = '127.0.0.1') -> None:
        port = int(daemon.address.rpartition(':')[2])
        self._http = http.client.HTTPConnection('127.0.0.1', port, timeout=60, source_address=(address, 0))

    def ask(self, user: str, password: str, forwarded: str | None = None) -> str:
        """Return the answer to a call: the version of the daemon, or the text of a fault with code 1510."""
        arguments = {'auth': {'authoritative_source': 'test'}}
        credentials = base64.b64encode(f'{user}:{password}'.encode()).decode()
        headers = {'Authorization': f'Basic {credentials}', 'Content-Type': 'text/xml'}
        if forwarded is not None:
            headers['X-Forwarded-For'] = forwarded
        self._http.request('POST', '/XMLRPC', xmlrpc.client.dumps((arguments,), 'version'), headers)
        try:
            (answer,), _ = xmlrpc.client.loads(self._http.getresponse().read())
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != 1510:
                raise
            return str(fault.faultString)
        return str(answer)

    def close(self) -> None:
        self._http.close()


@pytest.fixture
def callers() -> Iterator[Callable[..., list[Caller]]]:
    """Yield a function that opens connections, shared out evenly among the handlers."""
    with ExitStack() as stack:

        def opened(daemon: Daemon, count: int, address: str = '127.0.0.1') -> list[Caller]:
            made = [Caller(daemon, address) for _ in range(count)]
            for caller in made:
                stack.callback(caller.close)
                # Connect one after the other: a handler with more connections leaves the next connection to a sibling.
                caller._http.connect()
            return made

        yield opened


def test_behind_a_trusted_proxy_clients_are_told_apart(daemon: DaemonFactory, database_options: dict[str, str]) -> None:
    """One connection of the proxy carries requests of many clients; the claims of other senders are ignored."""
    settings = {'forks': '1', 'log_format': 'json', 'trusted_proxies': '127.0.0.2', **database_options}
    running = daemon(config={'nipapd': settings, 'auth': {'failed_logins': '4', 'failed_logins_window': '1000'}})
    user, password = running.admin()
    with ExitStack() as stack:
        proxy, other = Caller(running, '127.0.0.2'), Caller(running, '127.0.0.3')
        for caller in (proxy, other):
            stack.callback(caller.close)
        for number in range(4):
            proxy.ask(f'joe-{number}', 'wrong', '192.0.2.66')
        assert REFUSED.search(proxy.ask(user, password, '203.0.113.9, 192.0.2.66'))
        assert proxy.ask(user, password, '192.0.2.7') == __version__
        assert proxy.ask(user, password) == __version__
        for number in range(4):
            other.ask(f'ann-{number}', 'wrong', '192.0.2.8')  # counts for 127.0.0.3
        assert proxy.ask(user, password, '192.0.2.8') == __version__
        assert REFUSED.search(other.ask('kim', 'wrong', '192.0.2.9'))
    peers = [json.loads(line)['peer'] for line in running.log().splitlines() if '"peer"' in line]
    assert peers == [*['192.0.2.66'] * 5, '192.0.2.7', '127.0.0.2', *['127.0.0.3'] * 4, '192.0.2.8', '127.0.0.3']


def passwd(directory: Path, *args: str) -> None:
    command = [sys.executable, '-m', 'nipapd.passwd', *args, '--file', str(directory / 'local_auth.db')]
    done = subprocess.run(command, env={'PYTHONPATH': str(REPOSITORY)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_guesses_are_limited_over_all_handlers(make: Make, callers: Any) -> None:
    running = make(failed_logins='8', failed_logins_window='1000')
    user, password = running.admin()
    guessing = callers(running, 24, '127.0.0.2')
    (elsewhere,) = callers(running, 1, '127.0.0.3')
    with ThreadPoolExecutor(len(guessing)) as pool:
        guesses = [
            pool.submit(caller.ask, f'user {number}', f'guess {number}') for number, caller in enumerate(guessing)
        ]
        assert elsewhere.ask(user, password) == __version__
        answers = [guess.result() for guess in guesses]
    refused = [answer for answer in answers if REFUSED.search(answer)]
    assert all(answer.startswith('Incorrect username or password') for answer in answers)
    assert 0 < len(answers) - len(refused) <= 8
    assert elsewhere.ask(user, password) == __version__


def test_a_refusal_passes_with_the_time(make: Make, callers: Any) -> None:
    running = make(failed_logins='4', failed_logins_window='3')
    user, password = running.admin()
    (here,) = callers(running, 1, '127.0.0.2')
    (there,) = callers(running, 1, '127.0.0.3')
    for _ in range(3):
        answer = here.ask(user, 'wrong')
    assert REFUSED.search(answer)
    assert REFUSED.search(here.ask(user, password))
    assert there.ask(user, password) == __version__
    poll(lambda: here.ask(user, password) == __version__, 30, lambda: 'it is still refused')


def test_known_users_are_never_held_up(make: Make, callers: Any) -> None:
    running = make(failed_logins='4', failed_logins_window='1000')
    user, password = running.admin()
    connections = callers(running, 2 * HANDLERS)
    assert {caller.ask(user, password) for caller in connections} == {__version__}
    (guessing,) = callers(running, 1)
    poll(lambda: REFUSED.search(guessing.ask(user, 'wrong')), 30, lambda: 'it is not refused')
    began = time.monotonic()
    for _ in range(20):
        assert {caller.ask(user, password) for caller in connections} == {__version__}
    assert time.monotonic() - began < 5


def test_users_known_to_one_handler_are_refused_by_none(make: Make, callers: Any, make_dir: Any) -> None:
    directory = make_dir()
    running = make(data_dir=directory, failed_logins='4', failed_logins_window='1000')
    user, password = running.admin()
    first, guessing, *others = callers(running, 2 + 2 * HANDLERS)
    assert first.ask(user, password) == __version__
    names = (f'nobody {number}' for number in itertools.count())
    poll(lambda: REFUSED.search(guessing.ask(next(names), 'wrong')), 30, lambda: 'it is not refused')
    assert {caller.ask(user, password) for caller in others} == {__version__}
    passwd(directory, 'add', '--user', 'ann', '--password', 'password of ann')
    assert {caller.ask(user, password) for caller in others} == {__version__}
    assert REFUSED.search(first.ask('ann', 'password of ann'))


def test_without_a_limit_every_guess_is_heard(make: Make, callers: Any) -> None:
    running = make(failed_logins='0')
    (caller,) = callers(running, 1)
    assert {caller.ask('joe', f'guess {number}') for number in range(25)} == {'Incorrect username or password.'}


def test_a_changed_account_is_forgotten_by_all_handlers_at_once(make: Make, callers: Any, make_dir: Any) -> None:
    directory = make_dir()
    running = make(data_dir=directory, failed_logins='100')
    passwd(directory, 'add', '--user', 'ann', '--password', 'the first')
    connections = callers(running, 2 * HANDLERS)
    assert {caller.ask('ann', 'the first') for caller in connections} == {__version__}
    passwd(directory, 'modify', '--user', 'ann', '--password', 'the second')
    assert {caller.ask('ann', 'the first') for caller in connections} == {'Incorrect username or password.'}
    assert {caller.ask('ann', 'the second') for caller in connections} == {__version__}
    passwd(directory, 'delete', '--user', 'ann')
    assert {caller.ask('ann', 'the second') for caller in connections} == {'Incorrect username or password.'}
