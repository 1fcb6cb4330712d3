"""Signals during the close of an event loop: a separate process gets a signal at the worst moment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

# The loop ends like the loops of the daemon. Once asyncio has closed its descriptor, the process signals itself: after
# that and before asyncio restores the handlers.
PROGRAM = """
import asyncio, os, signal, sys
from asyncio import selector_events
from nipapd import signals

close_pipe = selector_events.BaseSelectorEventLoop._close_self_pipe

def close_and_signal(loop):
    close_pipe(loop)
    for number in NUMBERS:
        os.kill(os.getpid(), number)

selector_events.BaseSelectorEventLoop._close_self_pipe = close_and_signal
NUMBERS = (signal.SIGTERM, signal.SIGINT)

async def main():
    stop = asyncio.Event()
    for number in NUMBERS:
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    os.kill(os.getpid(), signal.SIGTERM)
    await stop.wait()
    if sys.argv[1] == 'ignored':
        signals.ignore(NUMBERS)

asyncio.run(main())
print('ended')
"""


def run(how: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, 'PYTHONPATH': str(REPOSITORY)}
    command = [sys.executable, '-c', PROGRAM, how]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)


def test_a_signal_that_comes_while_the_loop_closes_is_ignored() -> None:
    done = run('ignored')
    assert (done.returncode, done.stdout, done.stderr) == (0, 'ended\n', '')


def test_python_prints_an_exception_otherwise() -> None:
    """Otherwise the test above would prove nothing."""
    assert 'signal wakeup fd' in run('as asyncio does').stderr


@pytest.mark.parametrize('module', ['worker', 'admin', 'senders'])
def test_every_loop_with_handlers_of_signals_ends_like_that(module: str) -> None:
    text = (REPOSITORY / 'nipapd' / f'{module}.py').read_text()
    assert text.count('.add_signal_handler(') == text.count('signals.ignore(') == 1
