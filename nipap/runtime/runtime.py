"""The runtime of a process: its way to wait, and the tracer of its calls.

These are the only switches of a process. A server makes one `Runtime` and passes it to the objects that it builds.
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
    """The way in which a process runs its code. By default it blocks the waiting thread and traces no calls.

    wait_for_postgresql: polls a connection for at most so many seconds, and returns whether its statement has been
        answered. None: psycopg2 blocks the thread.
    """

    waiter: Waiter = field(default_factory=Blocking)
    tracer: Tracer | None = None
    wait_for_postgresql: Callable[[Any, float | None], bool] | None = None

    def enter(self) -> None:
        """Use this runtime in the whole process from now on, except for connections."""
        waiting.use(self.waiter)
        tracer.use(self.tracer)
