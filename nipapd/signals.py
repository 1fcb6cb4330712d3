"""Signals at the end of an event loop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence


def ignore(numbers: Sequence[signal.Signals]) -> None:
    """Ignore signals from now on. To be called last on a loop that has handlers for them.

    asyncio closes the descriptor that wakes the loop before it removes the handlers. A signal in between raises an
    exception that Python can only print.
    """
    loop = asyncio.get_running_loop()
    # Blocked, because remove_signal_handler sets the default action, which no signal may meet.
    former = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        for number in numbers:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)
