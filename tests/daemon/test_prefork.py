"""The supervisor with real processes and real signals; the handlers are a few lines each.

This file is also the program under test: `python test_prefork.py SCENARIO` runs the supervisor of that scenario, which
writes one line per event.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from nipapd.prefork import EXIT_CUT_OFF, EXIT_FAILED, EXIT_OK, Backoff, Supervisor, how_it_ended

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]
DEADLINE_S = 20.0


# the handlers of the scenarios


def say(*words: object) -> None:
    os.write(1, (' '.join(map(str, words)) + '\n').encode())


def wait_for_term() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    signal.sigwait([signal.SIGTERM])


def serve(slot: int, ready: Callable[[], None]) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    ready()
    say('started', slot, os.getpid())
    wait_for_term()
    say('finished', slot)


def serve_slowly(slot: int, ready: Callable[[], None]) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    ready()
    say('started', slot, os.getpid())
    while True:
        wait_for_term()
        say('asked', slot)


def crash_after_ready(slot: int, ready: Callable[[], None]) -> None:
    ready()
    say('started', slot, time.monotonic())
    raise RuntimeError('crash')


def crash_before_ready(slot: int, ready: Callable[[], None]) -> None:
    say('started', slot)
    raise RuntimeError('crash')


def return_at_once(slot: int, ready: Callable[[], None]) -> None:
    ready()
    say('started', slot)


def live_a_little(slot: int, ready: Callable[[], None]) -> None:
    ready()
    say('started', slot)
    time.sleep(0.1)


def fail_while_stopping(slot: int, ready: Callable[[], None]) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    ready()
    say('started', slot, os.getpid())
    wait_for_term()
    sys.exit(4)


# the scenarios


def scenario_serve() -> Supervisor:
    return Supervisor(2, serve)


def scenario_announced() -> Supervisor:
    return Supervisor(2, serve, on_ready=lambda: say('ready'))


def scenario_slow() -> Supervisor:
    return Supervisor(2, serve_slowly, drain_timeout_s=60)


def scenario_short_deadline() -> Supervisor:
    return Supervisor(2, serve_slowly, drain_timeout_s=0.3)


def scenario_crash_loop() -> Supervisor:
    return Supervisor(1, crash_after_ready, backoff=Backoff(first_s=0.1, most_s=0.4))


def scenario_never_ready() -> Supervisor:
    return Supervisor(1, crash_before_ready, backoff=Backoff(first_s=0.01, start_attempts=4))


def scenario_return_at_once() -> Supervisor:
    return Supervisor(1, return_at_once, backoff=Backoff(first_s=0.01))


def scenario_stable() -> Supervisor:
    return Supervisor(1, live_a_little, backoff=Backoff(first_s=60, most_s=60, stable_s=0.05))


def scenario_fail_while_stopping() -> Supervisor:
    return Supervisor(1, fail_while_stopping)


def scenario_foreign_child() -> Supervisor:
    child = subprocess.Popen(['/bin/sh', '-c', 'read line; exit 7'], stdin=subprocess.PIPE, bufsize=0)
    assert child.stdin is not None
    stdin = child.stdin
    told: list[bool] = []

    def watch() -> None:
        if child.poll() is not None and not told:
            told.append(True)
            say('foreign', child.returncode)

    def end_foreign_child() -> None:
        stdin.write(b'\n')

    return Supervisor(1, serve, watch=watch, on_ready=end_foreign_child)


def scenario_watch() -> Supervisor:
    return Supervisor(1, serve, watch=lambda: say('watched'))


def scenario_no_fork() -> Supervisor:
    fork, failures = os.fork, [OSError(11, 'try again'), OSError(12, 'no memory')]

    def fail_twice() -> int:
        if failures:
            raise failures.pop()
        return fork()

    os.fork = fail_twice
    return Supervisor(1, serve, backoff=Backoff(first_s=0.05))


def run_scenario(name: str) -> int:
    supervisor: Supervisor = globals()[f'scenario_{name}']()
    code = supervisor.run()
    say('left', code)
    return code


# reading scenarios


class Running:
    """A scenario in a process group of its own, and the lines that it has written."""

    def __init__(self, scenario: str, program: str = __file__) -> None:
        self.process = subprocess.Popen(
            [sys.executable, program, scenario],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {'PYTHONPATH': f'{ROOT}:{ROOT / "tests"}'},
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self.out = self.process.stdout
        self.buffer = b''

    def line(self, timeout_s: float = DEADLINE_S) -> list[str]:
        """Return the next line as words; [] when no process holds the pipe any more."""
        end = time.monotonic() + timeout_s
        while b'\n' not in self.buffer:
            readable, _, _ = select.select([self.out], [], [], max(0, end - time.monotonic()))
            if not readable:
                raise TimeoutError(f'no line in {timeout_s} s, so far {self.buffer!r}')
            chunk = os.read(self.out.fileno(), 4096)
            if not chunk:
                return []
            self.buffer += chunk
        line, _, self.buffer = self.buffer.partition(b'\n')
        return line.decode().split()

    def until(self, word: str) -> list[str]:
        """Skip to the next line that begins with `word`; return that line."""
        while (line := self.line()) and line[0] != word:
            pass
        assert line, f'ended without {word!r}: {self.errors()}'
        return line

    def rest(self) -> list[list[str]]:
        """Return all lines until every process of the scenario has closed its output."""
        return list(iter(self.line, []))

    def starts(self, count: int) -> dict[int, int]:
        """Return the slots and process ids of the next `count` handlers that start."""
        lines = [self.until('started') for _ in range(count)]
        return {int(slot): int(pid) for _, slot, pid in lines}

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        return self.process.wait(DEADLINE_S)

    def errors(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(DEADLINE_S)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def run() -> Iterator[Callable[[str], Running]]:
    running: list[Running] = []

    def start(scenario: str) -> Running:
        running.append(Running(scenario))
        return running[-1]

    yield start
    for scenario in running:
        scenario.close()


Run = Callable[[str], Running]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# restarts


def test_a_killed_handler_is_replaced_at_once(run: Run) -> None:
    scenario = run('serve')
    before = scenario.starts(2)
    os.kill(before[1], signal.SIGKILL)
    after = scenario.starts(1)
    assert list(after) == [1]
    assert after[1] != before[1]
    assert alive(before[0])


def test_a_handler_that_returns_is_replaced_too(run: Run) -> None:
    scenario = run('return_at_once')
    for _ in range(4):
        scenario.until('started')


def test_a_crash_loop_slows_down(run: Run) -> None:
    scenario = run('crash_loop')
    times = [float(scenario.until('started')[2]) for _ in range(7)]
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    for pause, least in zip(pauses, (0.0, 0.1, 0.2, 0.4, 0.4, 0.4), strict=True):
        assert pause >= least
    scenario.send(signal.SIGTERM)
    assert scenario.wait() in (EXIT_OK, EXIT_CUT_OFF)  # the latter when a handler crashes just now
    assert 'RuntimeError: crash' in scenario.errors()


def test_a_handler_that_lived_a_while_is_no_crash_loop(run: Run) -> None:
    scenario = run('stable')
    for _ in range(4):
        scenario.until('started')


def test_handlers_that_never_start_end_the_daemon(run: Run) -> None:
    scenario = run('never_ready')
    assert scenario.wait() == EXIT_FAILED
    assert scenario.rest() == [['started', '0']] * 4 + [['left', '1']]
    assert 'no handler could start, giving up after 4 attempts' in scenario.errors()


def test_a_failing_fork_is_tried_again(run: Run) -> None:
    scenario = run('no_fork')
    scenario.starts(1)
    scenario.send(signal.SIGTERM)
    assert scenario.wait() == EXIT_OK
    assert scenario.errors().splitlines() == [
        'handler 0 cannot be forked: no memory',
        'handler 0 cannot be forked: try again',
    ]


@pytest.mark.parametrize(
    ('losses', 'pause_s'), [(0, 0), (1, 0), (2, 0.2), (3, 0.4), (4, 0.8), (7, 5.0), (1000, 5.0), (10**9, 5.0)]
)
def test_the_pause_doubles_up_to_a_limit(losses: int, pause_s: float) -> None:
    assert Backoff().pause_s(losses) == pytest.approx(pause_s)


# stopping


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_handlers_finish_before_the_daemon_ends(run: Run, number: int) -> None:
    scenario = run('serve')
    scenario.starts(2)
    scenario.send(number)
    assert scenario.wait() == EXIT_OK
    lines = scenario.rest()
    assert sorted(lines[:2]) == [['finished', '0'], ['finished', '1']]
    assert lines[2:] == [['left', '0']]


def test_ctrl_c_reaches_the_group_but_only_the_parent_decides(run: Run) -> None:
    scenario = run('serve')
    scenario.starts(2)
    os.killpg(scenario.process.pid, signal.SIGINT)
    assert scenario.wait() == EXIT_OK
    assert [line[0] for line in scenario.rest()] == ['finished', 'finished', 'left']


@pytest.mark.parametrize('numbers', [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGTERM)])
def test_a_second_signal_ends_at_once(run: Run, numbers: tuple[int, int]) -> None:
    scenario = run('slow')
    handlers = scenario.starts(2)
    scenario.send(numbers[0])
    for _ in handlers:
        scenario.until('asked')
    scenario.send(numbers[1])
    assert scenario.wait() == EXIT_CUT_OFF
    assert not any(map(alive, handlers.values()))


def test_the_deadline_ends_handlers_that_do_not(run: Run) -> None:
    scenario = run('short_deadline')
    handlers = scenario.starts(2)
    scenario.send(signal.SIGTERM)
    assert scenario.wait() == EXIT_CUT_OFF
    assert not any(map(alive, handlers.values()))


def test_a_handler_that_fails_while_stopping_is_reported(run: Run) -> None:
    scenario = run('fail_while_stopping')
    scenario.starts(1)
    scenario.send(signal.SIGTERM)
    assert scenario.wait() == EXIT_CUT_OFF
    assert 'handler 0 exited with status 4 before it was done' in scenario.errors()


def test_handlers_do_not_outlive_a_killed_parent(run: Run) -> None:
    scenario = run('serve')
    scenario.starts(2)
    scenario.send(signal.SIGKILL)
    scenario.wait()
    assert sorted(scenario.rest()) == [['finished', '0'], ['finished', '1']]


def test_term_at_any_moment_of_the_start_ends_it(run: Run) -> None:
    for delay_ms in range(0, 60, 6):
        scenario = run('announced')
        scenario.until('ready')
        time.sleep(delay_ms / 10_000)  # a different moment each time
        scenario.send(signal.SIGTERM)
        assert scenario.wait() == EXIT_OK


def test_hangups_are_ignored_and_drown_nothing(run: Run) -> None:
    scenario = run('serve')
    handlers = scenario.starts(2)
    for _ in range(300):
        scenario.send(signal.SIGHUP)
        os.kill(handlers[0], signal.SIGHUP)
    os.kill(handlers[0], signal.SIGKILL)
    scenario.starts(1)
    scenario.send(signal.SIGTERM)
    assert scenario.wait() == EXIT_OK


# other children of the same process


def test_the_status_of_other_children_is_left_to_their_owner(run: Run) -> None:
    scenario = run('foreign_child')
    assert scenario.until('foreign') == ['foreign', '7']


def test_the_watch_is_called_every_second(run: Run) -> None:
    scenario = run('watch')
    for _ in range(4):
        scenario.until('watched')


def test_no_handlers_is_a_mistake() -> None:
    with pytest.raises(ValueError, match='at least one handler, not 0'):
        Supervisor(0, serve)


def test_how_a_process_ended_in_words() -> None:
    assert how_it_ended(1) == 'exited with status 1'
    assert how_it_ended(-9) == 'was killed by SIGKILL'
    assert how_it_ended(-60) == 'was killed by signal 60'


if __name__ == '__main__':
    sys.exit(run_scenario(sys.argv[1]))
