"""Signals and an event loop that ends."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence


def ignore(numbers: Sequence[signal.Signals]) -> None:
    """Ignore signals from now on; to be called on the loop that has handlers for them, as the last thing it does.

    asyncio closes the descriptor that wakes a loop up before it takes back the handlers. A signal that comes in between
    is an exception that Python can only print.
    """
    loop = asyncio.get_running_loop()
    former = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)  # none may meet the default, which remove_… sets
    try:
        for number in numbers:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)
