"""The runtime of a process: how its code waits, and who follows its calls.

These are the only switches of a process. A server makes one `Runtime` and passes it to what it builds;
`nipap.postgres.connecting.use` puts it in force, for PostgreSQL's connections too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nipap.runtime import tracer, waiting
from nipap.runtime.tracer import Tracer
from nipap.runtime.waiting import Blocking, Waiter


@dataclass(frozen=True)
class Runtime:
    """How a process runs its code; without arguments: it blocks the thread that waits, and follows no calls.

    wait_for_postgresql: polls a connection until its statement has been answered, for so many seconds at most, and
    returns whether it was. None: psycopg2 blocks the thread.
    """

    waiter: Waiter = field(default_factory=Blocking)
    tracer: Tracer | None = None
    wait_for_postgresql: Callable[[Any, float | None], bool] | None = None

    def enter(self) -> None:
        """Use this runtime in the whole process from now on, but for connections."""
        waiting.use(self.waiter)
        tracer.use(self.tracer)
