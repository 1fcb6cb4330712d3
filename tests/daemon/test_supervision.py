"""The supervisor and handlers that hang or crash again and again, and the remains of a supervisor that is killed.

This file is also the program under test: `python test_supervision.py SCENARIO`, as in test_prefork.py.
"""

from __future__ import annotations

import mmap
import os
import resource
import signal
import sys
import time
import xmlrpc.client
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from callers import handlers
from daemon_process import Daemon, poll
from support import SAME_ACCOUNT, DaemonFactory
from test_prefork import Running, crash_after_ready, say, serve

from nipapd import prefork
from nipapd.prefork import EXIT_FAILED, EXIT_OK, Backoff, Generation, Pulse, Supervisor

pytestmark = pytest.mark.slow

QUICK = Backoff(first_s=0.01, most_s=0.02, hopeless_losses=6)


# the handlers of the scenarios


def beat_for(pulse: Pulse, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pulse.beat()
        time.sleep(0.02)


def hang_somewhere(slot: int, pulse: Pulse) -> None:
    pulse()
    say('started', slot, os.getpid())
    beat_for(pulse, 0.3)
    stand_still()


def stand_still() -> None:
    time.sleep(1000)


def take_time(slot: int, pulse: Pulse) -> None:
    """Take longer than the hang timeout before being ready, and again after the request to finish."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    time.sleep(0.8)
    pulse()
    say('started', slot, os.getpid())
    while signal.SIGTERM not in signal.sigpending():
        beat_for(pulse, 0.05)
    time.sleep(0.8)
    say('finished', slot)


def hang_at_start(slot: int, pulse: Pulse) -> None:
    say('begun', slot, os.getpid())
    stand_still()


def answer_and_crash(slot: int, pulse: Pulse) -> None:
    pulse()
    pulse.note_answer()
    say('started', slot)
    raise RuntimeError('crash')


# the scenarios


def scenario_hang() -> Supervisor:
    return Supervisor(1, hang_somewhere, hang_timeout_s=0.4)


def impatient() -> None:
    prefork.LEAST_START_S = 0.5


def scenario_stuck_once() -> Supervisor:
    impatient()
    starts = mmap.mmap(-1, 1)

    def main(slot: int, pulse: Pulse) -> None:
        starts[0] += 1
        (hang_at_start if starts[0] == 1 else serve)(slot, pulse)

    return Supervisor(1, main, hang_timeout_s=0.4)


def scenario_always_stuck() -> Supervisor:
    impatient()
    return Supervisor(1, hang_at_start, hang_timeout_s=0.4, backoff=Backoff(first_s=0.01, start_attempts=2))


def scenario_stuck_renewal() -> Supervisor:
    impatient()
    return Supervisor(
        2,
        serve,
        renew=lambda: Generation(2, hang_at_start, hang_timeout_s=0.4),
        on_settled=lambda generation: say('settled', generation.handler_main is serve),
        backoff=Backoff(first_s=0.01, most_s=0.02, start_attempts=2),
    )


def scenario_patience() -> Supervisor:
    return Supervisor(1, take_time, hang_timeout_s=0.4)


def scenario_never_hangs() -> Supervisor:
    return Supervisor(1, hang_somewhere, hang_timeout_s=0, watch=lambda: say('watched'))


def scenario_hopeless() -> Supervisor:
    return Supervisor(2, crash_after_ready, backoff=QUICK)


def scenario_of_some_use() -> Supervisor:
    return Supervisor(2, answer_and_crash, backoff=QUICK)


def scenario_bad_renewal() -> Supervisor:
    def crash(slot: int, pulse: Pulse) -> None:
        say('crashing', slot)
        raise RuntimeError('crash')

    return Supervisor(
        2,
        serve,
        renew=lambda: Generation(2, crash),
        on_settled=lambda generation: say('settled', generation.handler_main is serve),
        backoff=QUICK,
    )


def scenario_renewal() -> Supervisor:
    sizes = iter([3, 1])
    return Supervisor(
        2,
        serve,
        renew=lambda: Generation(next(sizes), serve),
        on_settled=lambda generation: say('settled', generation.count),
    )


@pytest.fixture
def run() -> Iterator[Callable[[str], Running]]:
    running: list[Running] = []

    def start(scenario: str) -> Running:
        running.append(Running(scenario, __file__))
        return running[-1]

    yield start
    for scenario in running:
        scenario.close()


Run = Callable[[str], Running]


# hung handlers


def test_a_handler_that_hangs_shows_where_and_is_replaced(run: Run) -> None:
    scenario = run('hang')
    (first,) = scenario.starts(1).values()
    (second,) = scenario.starts(1).values()
    assert first != second
    scenario.send(signal.SIGTERM)
    scenario.wait()
    said = scenario.errors()
    assert f'handler 0 (pid {first}) hangs, its last sign of life is 0.' in said
    assert 'in stand_still' in said
    assert 'handler 0 was killed by SIGKILL; the next starts in 0 s' in said


def test_a_handler_that_is_stuck_while_it_starts_shows_where_and_is_replaced(run: Run) -> None:
    scenario = run('stuck_once')
    first = int(scenario.until('begun')[2])
    (second,) = scenario.starts(1).values()
    assert first != second
    scenario.send(signal.SIGTERM)
    assert scenario.wait() == EXIT_OK
    said = scenario.errors()
    assert f'handler 0 (pid {first}) has not become ready in ' in said
    assert 'in stand_still' in said
    assert 'handler 0 was killed by SIGKILL; the next starts in 0 s' in said


def test_handlers_that_are_always_stuck_while_they_start_end_the_daemon(run: Run) -> None:
    scenario = run('always_stuck')
    assert scenario.wait() == EXIT_FAILED
    assert [line[0] for line in scenario.rest()] == ['begun', 'begun', 'left']
    assert 'no handler could start, giving up after 2 attempts; the last one was killed by SIGKILL' in scenario.errors()


def test_a_generation_that_is_stuck_while_it_starts_leaves_the_former_one(run: Run) -> None:
    scenario = run('stuck_renewal')
    before = scenario.starts(2)
    scenario.send(signal.SIGHUP)
    assert scenario.until('settled') == ['settled', 'True']
    assert all(Path(f'/proc/{pid}').exists() for pid in before.values())
    scenario.send(signal.SIGTERM)
    assert scenario.wait() == EXIT_OK


def test_a_starting_or_finishing_handler_is_not_taken_for_hung(run: Run) -> None:
    scenario = run('patience')
    scenario.starts(1)
    scenario.send(signal.SIGTERM)
    assert scenario.until('finished') == ['finished', '0']
    assert scenario.wait() == EXIT_OK
    assert scenario.errors() == ''


def test_without_a_limit_nobody_hangs(run: Run) -> None:
    scenario = run('never_hangs')
    scenario.starts(1)
    for _ in range(3):
        assert scenario.line() == ['watched']


def test_a_stopped_handler_of_the_daemon_is_replaced(daemon: DaemonFactory, database_options: Any) -> None:
    running = daemon(config={'nipapd': {'forks': '2', 'hang_timeout': '2.5', **database_options}})
    before = handlers(running)
    stopped = min(before, key=lambda process: process.pid)
    os.kill(stopped.pid, signal.SIGSTOP)
    poll(lambda: len(handlers(running)) == 2 and not stopped.alive(), 30, running.log)
    assert f'(pid {stopped.pid}) hangs' in running.log()
    assert len(handlers(running) & before) == 1


# crashing handlers


def test_handlers_that_are_never_of_use_end_the_daemon(run: Run) -> None:
    scenario = run('hopeless')
    assert scenario.wait() == EXIT_FAILED
    assert len([line for line in scenario.rest() if line[0] == 'started']) >= 12
    assert 'lives long enough to answer, giving up; the last one exited with status 1\n' in scenario.errors()


def test_handlers_that_answer_between_their_crashes_go_on(run: Run) -> None:
    scenario = run('of_some_use')
    for _ in range(40):
        scenario.until('started')
    scenario.send(signal.SIGTERM)
    scenario.wait()
    assert 'giving up' not in scenario.errors()


def test_a_request_that_takes_all_memory_is_a_fault_and_no_end(daemon: DaemonFactory, database_options: Any) -> None:
    config = {'nipapd': {'forks': '1', **SAME_ACCOUNT, **database_options}}
    running = daemon(config=config)
    (handler,) = handlers(running)
    with xmlrpc.client.ServerProxy(f'{running.url(*running.admin())}/XMLRPC') as server:
        server('transport').encode_threshold = 1000  # compressed, the call is small until it is unpacked
        assert server.echo({'auth': {'authoritative_source': 'test'}, 'message': 'before'}) == 'before'
        pages = int(Path(f'/proc/{handler.pid}/statm').read_text().split()[0])
        limit = pages * resource.getpagesize() + 16 * 2**20
        former = resource.prlimit(handler.pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        large = 'x' * (9 * 2**20)
        with pytest.raises((xmlrpc.client.Fault, xmlrpc.client.ProtocolError)) as refused:
            server.echo({'auth': {'authoritative_source': 'test'}, 'message': large})
        resource.prlimit(handler.pid, resource.RLIMIT_AS, former)
        assert 'MemoryError' in running.log(), refused.value
        assert server.echo({'auth': {'authoritative_source': 'test'}, 'message': 'after'}) == 'after'
    assert handlers(running) == {handler}


# another generation


def test_a_generation_that_cannot_start_leaves_the_former_one(run: Run) -> None:
    scenario = run('bad_renewal')
    before = scenario.starts(2)
    scenario.send(signal.SIGHUP)
    assert scenario.until('settled') == ['settled', 'True']
    assert all(Path(f'/proc/{pid}').exists() for pid in before.values())
    scenario.send(signal.SIGTERM)
    assert scenario.wait() == EXIT_OK
    assert 'no handler could start with the new configuration, the old one stays' in scenario.errors()


def test_generations_of_other_sizes(run: Run) -> None:
    scenario = run('renewal')
    scenario.starts(2)
    scenario.send(signal.SIGHUP)
    assert scenario.until('settled') == ['settled', '3']
    scenario.send(signal.SIGHUP)
    assert scenario.until('settled') == ['settled', '1']
    scenario.send(signal.SIGTERM)
    assert scenario.wait() == EXIT_OK
    lines = scenario.rest()
    assert lines[-1] == ['left', '0']


# a killed supervisor


def held_session(data_dir: Path) -> Any:
    return psycopg2.connect(host=str(data_dir / 'run'), user='postgres', dbname='nipap')


def status_of_postgres(data_dir: Path) -> str:
    return (data_dir / 'data' / 'postmaster.pid').read_text().splitlines()[7].strip()


def test_a_killed_daemon_finishes_running_calls(
    daemon: DaemonFactory, make_dir: Callable[[], Path], unbound: Callable[[Callable[[], Any]], Callable[[], Any]]
) -> None:
    data_dir = make_dir()
    running: Daemon = daemon(config={'nipapd': {'forks': '2'}}, data_dir=data_dir)
    user = running.admin()
    session = held_session(data_dir)
    with session.cursor() as cursor, xmlrpc.client.ServerProxy(f'{running.url(*user)}/XMLRPC') as server:
        cursor.execute('LOCK TABLE vrf IN EXCLUSIVE MODE')
        attributes = {'rt': '65000:1', 'name': 'begun'}
        result = unbound(lambda: server.add_vrf({'auth': {'authoritative_source': 'test'}, 'attr': attributes}))
        waiting = 'SELECT count(*) FROM pg_locks WHERE NOT granted'
        poll(lambda: cursor.execute(waiting) or cursor.fetchone()[0], 20, lambda: 'the call does not wait')
        running.kill()
        poll(lambda: status_of_postgres(data_dir) == 'stopping', 20, lambda: status_of_postgres(data_dir))
        session.close()
        assert result()['name'] == 'begun'
    running.await_no_children()
    again = daemon(config={'nipapd': {'forks': '1'}}, data_dir=data_dir)
    again_url = again.address.replace('://', '://{}:{}@'.format(*user))
    with xmlrpc.client.ServerProxy(f'{again_url}/XMLRPC', allow_none=True) as server:
        found: Any = server.list_vrf({'auth': {'authoritative_source': 'test'}, 'vrf': {'rt': '65000:1'}})
    assert [vrf['name'] for vrf in found] == ['begun']


def test_the_next_start_does_not_wait_for_open_sessions(daemon: DaemonFactory, make_dir: Callable[[], Path]) -> None:
    data_dir = make_dir()
    running: Daemon = daemon(config={'nipapd': {'forks': '1'}}, data_dir=data_dir)
    session = held_session(data_dir)
    try:
        running.kill()
        poll(lambda: status_of_postgres(data_dir) == 'stopping', 20, lambda: status_of_postgres(data_dir))
        daemon(config={'nipapd': {'forks': '1'}}, data_dir=data_dir)
    finally:
        session.close()


@pytest.fixture
def unbound() -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Return a function that begins a call in a thread and returns a function that waits for the result."""

    def begin(work: Callable[[], Any]) -> Callable[[], Any]:
        pool = ThreadPoolExecutor(1)
        future = pool.submit(work)
        pool.shutdown(wait=False)
        return lambda: future.result(40)

    return begin


if __name__ == '__main__':
    supervisor: Supervisor = globals()[f'scenario_{sys.argv[1]}']()
    code = supervisor.run()
    say('left', code)
    sys.exit(code)
