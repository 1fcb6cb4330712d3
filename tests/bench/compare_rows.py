"""The rows of a comparison of two revisions, and the timers of a row on one side.

A new operation of the benchmark is a row by itself. Anything else is a line in `ROWS`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from statistics import median

from bench import dataset
from bench.beside_slow import QUICK, slow_calls
from bench.codec_worker import PARTS
from bench.operations import ADDRESS, ALLOCATE, BY_NAME, EXACT, FLOOR, OPERATIONS, Limit, Operation
from bench.sides import Caller, Refused, Side, Worker, processor_ns
from bench.sites import Members, Site, is_fault
from bench.upkeep import DAMAGE, session

CLIENTS, SLICE_S = 8, 0.25
# Timings of a part of the code alone in one process, and the most processes.
TIMINGS, PROCESSES = 5, 100
ADDED = 1000  # prefixes in a batch and in an import
BLOCK = '10.5.0.0/16'  # no prefix is stored in this block
CONTEXT = multiprocessing.get_context('fork')


class Timer:
    """A timer of one row on one side. Only `run` is timed."""

    calls = 1  # the number of calls that the last run has made
    warms_up = True  # the first runs take longer

    def __init__(self, side: Side) -> None:
        self.side = side
        self._processes: list[int] = []

    def prepare(self, i: int) -> None:
        """Prepare run number `i`."""

    def run(self) -> float:
        """Run once and return the seconds for one call."""
        raise NotImplementedError

    def finish(self, i: int) -> None:
        """Judge the answer, raising Refused, and undo the change of the run."""

    def find_processes(self) -> None:
        """Find the processes whose processor time counts."""
        self._processes = self.side.processes()

    def processor_ns(self) -> dict[int, int]:
        """Return the processor time of each process so far. An empty result means that it is unknown."""
        return processor_ns(self._processes)

    def close(self) -> None:
        """Release the processes and connections of the timer."""


@dataclass(frozen=True)
class Row:
    """An action that is timed on both sides.

    `method` is the XML-RPC method that a side must have to know the row. `beside` is entered on both sides during the
    timing. `shapes` marks a row that asks for blocks that only `--shapes` stores. `pairs` is the most pairs that are
    taken.
    """

    name: str
    timer: Callable[[Side], Timer]
    method: str | None = None
    beside: Callable[[Site], contextlib.AbstractContextManager[None]] | None = None
    shapes: bool = False
    pairs: int | None = None


# ------------------------------------------------------------------------------------------------ calls


Undo = Callable[[Site, bytes], object]


class Call(Timer):
    """A call of XML-RPC on the kept connection of the side."""

    def __init__(self, operation: Operation, side: Side, undo: Undo | None = None) -> None:
        super().__init__(side)
        self._operation = operation
        self._undo = undo or (Site.remove if operation.leaves else None)
        self._request, self._answer = b'', b''

    def prepare(self, i: int) -> None:
        site = self.side.site
        self._request = site.request(self._operation.method, self._operation.members(site, i))

    def run(self) -> float:
        start = time.perf_counter()
        self._answer = self.side.site.exchange(self._request)[1]
        return time.perf_counter() - start

    def finish(self, i: int) -> None:
        if self._undo and not is_fault(self._answer):
            self._undo(self.side.site, self._answer)
        if problem := self._operation.problem(self.side.site, i, self._answer):
            raise Refused(problem)


class Beside(Call):
    """A quick call beside slow calls, whose processor time cannot be separated from that of the quick call."""

    def find_processes(self) -> None:
        self._processes = []


class Rest(Timer):
    """A REST call: a verb, a path and a body. An added object is removed."""

    def __init__(self, verb: str, path: Callable[[Site, int], str], body: Callable[[int], object], side: Side) -> None:
        super().__init__(side)
        self._verb, self._path, self._body = verb, path, body
        self._request, self._status, self._answer = b'', 0, b''

    def prepare(self, i: int) -> None:
        site = self.side.site
        self._request = site.rest_request(self._verb, self._path(site, i), self._body(i))

    def run(self) -> float:
        start = time.perf_counter()
        self._status, self._answer = self.side.site.exchange(self._request)
        return time.perf_counter() - start

    def finish(self, i: int) -> None:
        if self._status >= 400:
            raise Refused(f'status {self._status}: {self._answer[:500].decode(errors="replace")}')
        if self._verb == 'POST':
            answer = json.loads(self._answer)
            (added,) = answer.get('result', [answer])
            self.side.site.call('remove_prefix', prefix={'id': added['id']})


def _batch(_site: Site, _i: int) -> Members:
    """Return the members of a call that adds a block and its hosts."""
    rows = [(BLOCK, 'reservation', 'bench'), *((one[0], one[1], one[2]) for one in _hosts())]
    attrs = [dict(zip(('prefix', 'type', 'description'), row, strict=True)) for row in rows]
    return {'operations': [{'method': 'add_prefix', 'args': {'attr': attr}} for attr in attrs], 'return': 'ids'}


def _hosts() -> Iterator[tuple[str, ...]]:
    return dataset.addresses(BLOCK, ADDED - 1, 'assignment')


def _remove_block(site: Site, _answer: bytes = b'') -> None:
    site.call('remove_prefix', prefix={'prefix': BLOCK, 'vrf_id': 0}, recursive=True)


def _removal(site: Site, _i: int) -> Members:
    """Add a block with all its hosts, and return the members of the call that removes them."""
    site.call('batch', **_batch(site, 0))
    return {'prefix': {'prefix': BLOCK, 'vrf_id': 0}, 'recursive': True}


# ------------------------------------------------------------------------------------------------ many clients


class Crowd(Timer):
    """Clients that call at the same time, each on a connection of its own, for a fraction of a second."""

    def __init__(self, operation: Operation, side: Side) -> None:
        super().__init__(side)
        # Look up the ids and cursors of the operation once, for all clients.
        operation.members(side.site, 0)
        pipes = [CONTEXT.Pipe() for _ in range(CLIENTS)]
        self._clients = [ours for ours, _ in pipes]
        self._children = [
            CONTEXT.Process(target=_client, args=(theirs, side.site, operation, number), daemon=True)
            for number, (_, theirs) in enumerate(pipes)
        ]
        for child in self._children:
            child.start()
        self._told: list[Told] = []

    def run(self) -> float:
        self._told = self._tell('call')
        self.calls = max(sum(told.calls for told in self._told), 1)
        # Sum up rates, so that a client that was started late does not count as slow.
        return 1 / max(sum(told.calls / told.seconds for told in self._told), 1e-9)

    def finish(self, i: int) -> None:
        self._tell('undo')
        for told in self._told:
            if told.problem:
                raise Refused(told.problem)

    def close(self) -> None:
        self._tell('stop')
        for child in self._children:
            child.join()

    def _tell(self, command: str) -> list[Told]:
        for client in self._clients:
            client.send(command)
        return [client.recv() for client in self._clients]


@dataclass(frozen=True)
class Told:
    """The answer of a client to a command: the number of calls, the seconds, and the fault that ended them."""

    calls: int = 0
    seconds: float = 1
    problem: str = ''


def _client(commands: Connection, model: Caller, operation: Operation, number: int) -> None:
    """Execute the commands from the pipe until `stop`."""
    site, turns = model.another(), itertools.count(number * 1009)
    answers: list[bytes] = []
    while (command := commands.recv()) != 'stop':
        told = Told()
        if command == 'call':
            answers, told = _call_for(site, operation, turns)
        elif operation.leaves:
            for answer in answers:
                site.remove(answer)
        commands.send(told)
    commands.send(Told())


def _call_for(site: Caller, operation: Operation, turns: Iterator[int]) -> tuple[list[bytes], Told]:
    answers: list[bytes] = []
    start = now = time.perf_counter()
    while now < start + SLICE_S:
        answer = site.ask(operation.method, operation.members(site, next(turns)))
        now = time.perf_counter()
        if is_fault(answer):
            return answers, Told(len(answers), now - start, answer[:500].decode(errors='replace'))
        answers.append(answer)
    return answers, Told(len(answers), now - start)


# ------------------------------------------------------------------------------------------------ code and commands


class Part(Timer):
    """A part of the code alone, in a new process of the side for each run: the median of some timings.

    The place of the code and the objects in the memory of a process makes as much as 4 % for a part that takes
    microseconds.
    """

    warms_up = False

    def __init__(self, part: str, side: Side) -> None:
        super().__init__(side)
        self._part, self._used_ns = part, 0
        self._worker: Worker | None = None

    def prepare(self, i: int) -> None:
        self.close()
        self._worker = Worker(self.side.program)
        self._worker.time(self._part)

    def run(self) -> float:
        assert self._worker is not None
        timings = [self._worker.time(self._part) for _ in range(TIMINGS)]
        seconds, processor = map(median, zip(*timings, strict=True))
        self._used_ns += round(processor * 1e9)
        return seconds

    def find_processes(self) -> None:
        """Find no processes: the worker reports its own processor time."""

    def processor_ns(self) -> dict[int, int]:
        return {0: self._used_ns}

    def close(self) -> None:
        if self._worker:
            self._worker.close()
            self._worker = None


class Import(Timer):
    """The import command as a whole process. The processor time is the daemon's alone."""

    warms_up = False

    def __init__(self, side: Side) -> None:
        super().__init__(side)
        self._file = side.home / 'import.csv'
        lines = [','.join(dataset.COLUMNS), f'{BLOCK},reservation,bench,', *map(','.join, _hosts())]
        self._file.write_text('\n'.join(lines) + '\n')

    def run(self) -> float:
        start = time.perf_counter()
        self.side.command('nipap.cli.main', 'import', str(self._file))
        return time.perf_counter() - start

    def finish(self, i: int) -> None:
        _remove_block(self.side.site)


class Maintenance(Timer):
    """A command of nipap-admin as a whole process. `before` is executed in the database first."""

    warms_up = False

    def __init__(self, args: tuple[str, ...], before: str, side: Side) -> None:
        super().__init__(side)
        self._args, self._before = args, before

    def prepare(self, i: int) -> None:
        if self._before:
            with session(self.side.data_dir) as cursor:
                cursor.execute(self._before)

    def run(self) -> float:
        start = time.perf_counter()
        self.side.maintain(*self._args)
        return time.perf_counter() - start

    def find_processes(self) -> None:
        """Find no processes: the PostgreSQL session that does the work ends with the command."""


# ------------------------------------------------------------------------------------------------ the table


def _of(operation: Operation, undo: Undo | None = None) -> Row:
    return Row(operation.name, partial(Call, operation, undo=undo), operation.method, shapes=operation.shapes)


def _rest(name: str, verb: str, path: Callable[[Site, int], str], body: Callable[[int], object]) -> Row:
    return Row(f'REST, {name}', partial(Rest, verb, path, body))


def _nothing(_i: int) -> None:
    return None


def _attr(i: int) -> Members:
    return {'prefix': f'10.4.{i % 240}.0/24', 'type': 'assignment', 'description': 'bench'}


NO_LIMIT = Limit()
ROWS: tuple[Row, ...] = (
    *map(_of, OPERATIONS),
    _of(Operation(f'batch, {ADDED:,} additions', NO_LIMIT, 'batch', _batch), _remove_block),
    _of(Operation(f'remove_prefix, recursive, {ADDED:,}', NO_LIMIT, 'remove_prefix', _removal)),
    _rest('one prefix', 'GET', lambda site, _i: f'/prefixes/{site.id_of(dataset.LAN)}', _nothing),
    _rest('an address', 'GET', lambda _site, i: f'/prefixes?q=8.8.{i % 200}.8', _nothing),
    _rest('1,000 prefixes', 'GET', lambda _site, _i: '/prefixes?limit=1000', _nothing),
    _rest('add a prefix', 'POST', lambda _site, _i: '/prefixes', _attr),
    *(Row(f'code alone: {part}', partial(Part, part), pairs=PROCESSES) for part in PARTS),
    *(Row(f'{name}, beside slow calls', partial(Beside, BY_NAME[name]), beside=slow_calls) for name in QUICK),
    *(
        Row(f'{CLIENTS} clients: {name}', partial(Crowd, BY_NAME[name]), BY_NAME[name].method)
        for name in (FLOOR, EXACT, ADDRESS, ALLOCATE)
    ),
    Row(f'nipap import, {ADDED:,} prefixes', Import),
    Row('nipap-admin check', partial(Maintenance, ('check',), '')),
    Row('nipap-admin check --repair', partial(Maintenance, ('check', '--repair'), DAMAGE)),
)
