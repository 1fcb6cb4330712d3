"""Client processes that use one database at once, each with a Database of its own.

A script is a function that gets a `Client` and makes the calls of one client. `run_together` starts a process for each
job, lets the processes begin at the same moment and collects their results. An unexpected error in a script fails the
test with the last calls of every client.
"""

from __future__ import annotations

import dataclasses
import random
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from clean_processes import context

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier

PATIENCE_S = 60.0
SHOWN_CALLS = 6
# Refusals to expect when others change the tree meanwhile: a broken rule, a missing object, a taken place.
INPUT, MISSING, VALUE, NON_EXISTENT, DUPLICATE = 1100, 1110, 1200, 1300, 1400


@dataclasses.dataclass(frozen=True)
class Job:
    """A script and its arguments, for one process."""

    script: Callable[..., Any]
    arguments: tuple[Any, ...] = ()


@dataclasses.dataclass
class Client:
    """The access of one process to the daemon's logic, and a record of its calls."""

    number: int
    backend: Any
    actor: Any
    barrier: Barrier
    random: random.Random
    calls: list[str] = dataclasses.field(default_factory=list)

    def call(self, method: str, *members: Any, refusals: Sequence[int] = ()) -> Any:
        """Return the answer, or the code (an int) of a refusal in `refusals`."""
        from nipap.errors import NipapError

        self.calls.append(f'{method}{members}')
        try:
            answer = getattr(self.backend, method)(self.actor, *members)
        except NipapError as error:
            self.calls[-1] += f' -> fault {error.code}: {error}'
            if error.code not in refusals:
                raise
            return error.code
        self.calls[-1] += f' -> {brief(answer)}'
        return answer

    def meet(self) -> None:
        """Wait until all clients have reached this call."""
        self.barrier.wait(PATIENCE_S)

    def try_add(self, text: str, type_: str, *, refusals: Sequence[int] = (), **attributes: Any) -> Any:
        """Add a prefix and return the answer or the code of a refusal."""
        attr = {'prefix': text, 'type': type_, 'description': f'client {self.number}'} | attributes
        return self.call('add_prefix', attr, refusals=refusals)


def brief(answer: Any) -> str:
    """Return an answer in few words."""
    if isinstance(answer, dict) and 'id' in answer:
        return f'id {answer["id"]} {answer.get("prefix", answer.get("name"))}'
    return str(answer)[:120]


def run_together(dsn: str, jobs: Sequence[Job]) -> list[Any]:
    """Return the result of each job's script. Fail if a script raises or does not end in time."""
    barrier = context().Barrier(len(jobs))
    seed = random.randrange(1 << 32)  # pytest-randomly seeds this, so a run can be repeated
    workers = [_start(dsn, number, job, barrier, seed) for number, job in enumerate(jobs)]
    deadline = time.monotonic() + PATIENCE_S
    results, failures, abandoned = [], [], []
    for number, (process, connection) in enumerate(workers):
        failed, result, calls = _collect(connection, deadline)
        _finish(process)
        results.append(result)
        if failed:
            barrier.abort()
            job = jobs[number]
            trace = '\n    '.join([f'client {number}, {job.script.__name__}{job.arguments}:', *calls, str(result)])
            (abandoned if 'BrokenBarrierError' in str(result) else failures).append(trace)
    found = failures or abandoned
    assert not found, '\n'.join([f'{len(found)} clients failed, seed {seed}', *found])
    return results


def _start(dsn: str, number: int, job: Job, barrier: Barrier, seed: int) -> tuple[Any, Connection]:
    ours, theirs = context().Pipe(duplex=False)
    process = context().Process(target=_work, args=(theirs, dsn, number, job, barrier, seed), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def _collect(connection: Connection, deadline: float) -> tuple[bool, Any, list[str]]:
    try:
        if connection.poll(max(0.0, deadline - time.monotonic())):
            failed, result, calls = connection.recv()
            return failed, result, calls
        return True, f'no answer within {PATIENCE_S:.0f} s', []
    except EOFError:
        return True, 'died', []
    finally:
        connection.close()


def _finish(process: Any) -> None:
    process.join(1.0)
    if process.is_alive():
        process.kill()
        process.join()
    process.close()


def _work(connection: Connection, dsn: str, number: int, job: Job, barrier: Barrier, seed: int) -> None:
    """Run a script in the process of one client and send its result."""
    from nipap.access.authentication import Actor
    from nipap.backend import Backend
    from nipap.postgres.database import Database

    db = Database(dsn)
    actor = Actor(f'client{number}', None, f'client{number}', 'test', readonly=False)
    client = Client(number, Backend(db), actor, barrier, random.Random(seed + number))
    try:
        client.call('version')
        client.call('list_vrf', {})
        client.meet()
        connection.send((False, job.script(client, *job.arguments), []))
    except BaseException:
        barrier.abort()
        connection.send((True, traceback.format_exc(limit=-3), client.calls[-SHOWN_CALLS:]))
    finally:
        db.close()
        connection.close()
