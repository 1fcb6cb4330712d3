"""The import of the prefixes of a file: many in each transaction, refused rows reported by line, and resumable.

A transaction is all or nothing, and its fault names the row. That row is reported and left out. The other rows are
sent again, fewer at a time while faults go on. Progress is noted after each chunk. After an interruption the outcome
of the last chunk is unknown. So a stored prefix with all the values of the row counts as imported, and running the
same import again never doubles anything. A stored prefix with other values counts as different and is not changed.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from enum import Enum
from itertools import cycle
from pathlib import Path
from typing import TextIO

from nipap.cli.comparison import differences
from nipap.cli.records import FileError
from nipap.cli.sheet import Columns, Row, Sheet, read
from nipap.cli.vrfs import Located, locate
from nipap.client import Client, Fault, TransportError, array
from nipap.xmlrpc.codec import Encoded, encode_struct, encode_value

DUPLICATE = 1400
IN_FLIGHT = 2
AUTH_FAULTS = range(1500, 1600)
_COUNTS = '{added} prefixes added, {there} were there already, {different} differ, {refused} refused'

_names_operation = re.compile(r'operation ([0-9]+)(?: \(\w+\))?: ').match
_BEFORE, _AFTER = encode_value({'method': 'add_prefix', 'args': {'attr': Encoded('|')}}).split('|')


@dataclass(frozen=True)
class Job:
    """The arguments of an import.

    vrf: names the VRF of rows that name none; empty: VRF 0. state: the file in which progress is noted; None: progress
    is not noted. encoding: the encoding of the file; None: detected from its first bytes, or UTF-8.
    """

    file: Path
    vrf: Mapping[str, str]
    type: str | None
    chunk: int
    dry_run: bool
    skip_bad: bool
    state: Path | None
    encoding: str | None = None


class Outcome(Enum):
    """The outcome of an import."""

    COMPLETE = 'all rows are there'
    REFUSED = 'some rows are bad or refused'
    DIFFERENT = 'some rows differ from their stored prefixes, and no row is refused'

    @classmethod
    def of(cls, bad: int, counts: Mapping[str, int]) -> Outcome:
        if bad or counts['refused']:
            return cls.REFUSED
        return cls.DIFFERENT if counts['different'] else cls.COMPLETE


def run(client: Client, job: Job) -> Outcome:
    """Import a file.

    :raises FileError, Fault, TransportError, KeyboardInterrupt: the import ended early.
    """
    sheet = read(job.file, job.vrf, job.type, job.encoding)
    _report(job, sheet.bad)
    located = locate(client, sheet)
    _report(job, located.bad)
    if job.dry_run:
        counts = _rehearse(client, job, located)
    else:
        state = State.load(job.state, f'{located.digest} {client.server}', len(located.sheet.rows))
        Import(client, job, located.sheet, state).run()
        counts = state.counts
    return Outcome.of(len(sheet.bad) + len(located.bad), counts)


def _report(job: Job, bad: Sequence[tuple[int, str]]) -> None:
    """Print bad lines with their reasons.

    :raises FileError: there are bad lines, and they are not to be skipped.
    """
    for line, reason in bad:
        print(f'{job.file}:{line}: {reason}', file=sys.stderr)
    if bad and not job.skip_bad:
        raise FileError(f'{job.file}: {len(bad)} bad lines, nothing is imported without --skip-bad')


def _rehearse(client: Client, job: Job, located: Located) -> Mapping[str, int]:
    """Print the effect that an import would have; return its counts."""
    print(f'nipapd {client.call("version")} at {client.server}')
    for vrf in located.vrfs:
        print(f'VRF {vrf["name"]} holds {vrf["num_prefixes_v4"]} IPv4 and {vrf["num_prefixes_v6"]} IPv6 prefixes')
    sys.stdout.flush()
    rehearsal = Rehearsal(client, job, located)
    rehearsal.run()
    print(f'{client.server}: {rehearsal.summary()}')
    return rehearsal.counts


# --------------------------------------------------------------------------------------------------------- progress


@dataclass
class State:
    """The progress of an import, kept in a file until the import is complete. path: the file; None for no file."""

    path: Path | None
    of: str
    done: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(('added', 'there', 'different', 'refused'), 0))

    @classmethod
    def load(cls, path: Path | None, of: str, total: int) -> State:
        """Return the noted progress of the same import, else the beginning. of: identifies the import.

        :raises FileError: the file was not written by an import, or cannot be read or written.
        """
        state = cls(path, of)
        if path is None:
            return state
        try:
            noted = json.loads(path.read_bytes())
            if noted['of'] == of and 0 <= noted['done'] <= total:
                state.done = int(noted['done'])
                state.counts.update({name: int(noted['counts'].get(name, 0)) for name in state.counts})
        except FileNotFoundError:
            pass
        except OSError as exc:
            raise FileError(f'{path}: {exc.strerror}') from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise FileError(f'{path}: not written by an import, name another file with --state') from None
        state.save()
        return state

    def save(self) -> None:
        """Write the progress to the file, so that a crash leaves either the old or the new progress."""
        if self.path is None:
            return
        new = self.path.with_name(f'{self.path.name}.new')
        try:
            new.write_text(json.dumps({'of': self.of, 'done': self.done, 'counts': self.counts}))
            os.replace(new, self.path)
        except OSError as exc:
            raise FileError(f'{self.path}: {exc.strerror}') from None

    def remove(self) -> None:
        """Remove the file."""
        if self.path is None:
            return
        with suppress(FileNotFoundError):
            self.path.unlink()


class Progress:
    """The display of progress: one line that is overwritten on a terminal, else a line every 10 %."""

    def __init__(self, total: int, done: int, stream: TextIO) -> None:
        self._total, self._first, self._shown = total, done, done * 10 // max(total, 1)
        self._stream, self._terminal = stream, stream.isatty()
        self._started = time.monotonic()

    def show(self, done: int) -> None:
        """Show that `done` of all rows are done."""
        rate = (done - self._first) / max(time.monotonic() - self._started, 1e-3)
        left_s = round((self._total - done) / max(rate, 1e-3))
        tenths = done * 10 // max(self._total, 1)
        text = f'{done}/{self._total} rows, {rate:.0f} rows/s, {left_s // 60}:{left_s % 60:02} left'
        if self._terminal:
            self.note(f'[{"#" * tenths * 2:.<20}] {text}', end='')
        elif tenths > self._shown:
            self.note(text)
        self._shown = tenths

    def note(self, text: str, end: str = '\n') -> None:
        """Write a line. On a terminal it replaces the line of progress."""
        print(f'\r{text}\x1b[K' if self._terminal else text, end=end, file=self._stream, flush=True)

    def wipe(self) -> None:
        """Remove the line of progress from a terminal."""
        if self._terminal:
            self.note('', end='')


# ---------------------------------------------------------------------------------------------------------- the work


class Import:
    """One import: the rows after the noted progress.

    Two chunks are in flight at once, so that the daemon reads one chunk while it stores the other. They may arrive in
    any order, so the refusal of a chunk counts only once all chunks before it are stored.
    """

    def __init__(self, client: Client, job: Job, sheet: Sheet, state: State) -> None:
        self._client = client  # a client without a call in flight
        self._job, self._state = job, state
        self._rows, self._columns = sheet.rows, sheet.columns
        self._size = job.chunk  # rows sent at once: fewer while rows are refused
        self._counts = dict(state.counts)
        self._progress = Progress(len(self._rows), state.done, sys.stderr)

    def run(self) -> None:
        """Import all remaining rows, and print the counts."""
        if self._state.done:
            self._progress.note(f'going on after {self._state.done} of {len(self._rows)} rows')
        with ThreadPoolExecutor(IN_FLIGHT) as pool, ExitStack() as stack:
            clients = [self._client, *(stack.enter_context(self._client.another()) for _ in range(1, IN_FLIGHT))]
            # The connections are closed before the pool waits for its calls, which would go on after an interrupt.
            stack.callback(self._client.close)
            self._run(pool, cycle(clients))
        self._state.remove()
        self._progress.note(f'{self._client.server}: {_COUNTS.format(**self._state.counts)}')

    def _run(self, pool: Executor, clients: Iterator[Client]) -> None:
        state, total = self._state, len(self._rows)
        sent: deque[tuple[Client, list[Row], Future[int] | None]] = deque()
        ahead = state.done
        while state.done < total:
            while ahead < total and len(sent) < IN_FLIGHT:
                chunk = self._rows[ahead : ahead + self._job.chunk]
                whole = self._size == self._job.chunk
                client = next(clients)
                sent.append((client, chunk, pool.submit(self._send, client, chunk) if whole else None))
                ahead += len(chunk)
            self._client, chunk, answer = sent.popleft()
            if not self._is_stored(answer):
                self._add(chunk)
            state.done += len(chunk)
            state.counts = dict(self._counts)
            state.save()
            self._progress.show(state.done)

    def _is_stored(self, answer: Future[int] | None) -> bool:
        try:
            self._counts['added'] += answer.result() if answer else 0
        except Fault:
            return False
        return answer is not None

    def _add(self, rows: list[Row]) -> None:
        """Add a chunk: each row is stored, exists already, or is reported as different or refused."""
        while rows:
            some = rows[: self._size]
            try:
                self._counts['added'] += self._send(self._client, some)
            except Fault as fault:
                rows = self._accepted(some, fault) + rows[self._size :]
                if fault.code != DUPLICATE:  # all duplicates of a chunk are found at once
                    self._size = max(1, self._size // 2)
            else:
                rows = rows[self._size :]
                self._size = min(self._job.chunk, self._size * 2)

    def _send(self, client: Client, rows: list[Row]) -> int:
        return len(array(client, {'operations': self._operations(rows), 'return': 'ids'}, len(rows)))

    def _operations(self, rows: list[Row]) -> list[object]:
        attr = self._columns.attr
        return [Encoded(f'{_BEFORE}{encode_struct(attr(row))}{_AFTER}') for row in rows]

    def _accepted(self, rows: list[Row], fault: Fault) -> list[Row]:
        """Return the rows that are worth sending again after a fault. At least one row is left out.

        :raises Fault: the fault names none of the rows, or concerns the credentials.
        """
        named = _names_operation(fault.text)
        position = int(named[1]) if named else len(rows)
        if fault.code in AUTH_FAULTS or position >= len(rows):
            raise fault
        left = self._not_there(rows) if fault.code == DUPLICATE else rows
        if len(left) == len(rows):
            self._leave_out('refused', rows[position], fault.text[named.end() :] if named else fault.text)
            left = rows[:position] + rows[position + 1 :]
        return left

    def _not_there(self, rows: list[Row]) -> list[Row]:
        """Return the rows with prefixes that are not stored. Count the others, as different if any value differs."""
        attrs = [self._columns.attr(row) for row in rows]
        stored = array(self._client, {'operations': [_look_up(self._columns, row) for row in rows]}, len(rows))
        left = []
        for row, attr, found in zip(rows, attrs, stored, strict=True):
            if not found:
                left.append(row)
            elif different := differences(attr, found[0]):
                self._leave_out('different', row, f'is there already, and differs: {"; ".join(different)}')
            else:
                self._counts['there'] += 1
        return left

    def _leave_out(self, why: str, row: Row, reason: str) -> None:
        """Count a row that is not imported, and print the reason."""
        self._counts[why] += 1
        prefix = row.cells[self._columns.prefix]
        self._progress.note(f'{self._job.file}:{row.line}: {prefix}: {reason}')


class Rehearsal(Import):
    """An import that changes nothing: each chunk is added in a transaction that is rolled back.

    The additions of a chunk are gone when the next chunk is sent. So the new prefixes around the rows of a chunk are
    added again before the chunk, and so is a member of each pool that the rows join, since all members of a pool are
    in one VRF.
    """

    def __init__(self, client: Client, job: Job, located: Located) -> None:
        super().__init__(client, job, located.sheet, State(None, ''))
        self._vrf_id = located.vrf_id
        self._around: dict[int, list[Row]] = defaultdict(list)  # by VRF, from the largest to the smallest
        self._members: dict[tuple[str, str], list[Row]] = {}  # by pool: a new member, and the prefixes around it
        self._v4 = 0

    @property
    def counts(self) -> Mapping[str, int]:
        return self._counts

    def run(self) -> None:
        """Try to add all rows."""
        total, chunk = len(self._rows), self._job.chunk
        for first in range(0, total, chunk):
            self._add(self._rows[first : first + chunk])
            self._progress.show(min(first + chunk, total))
        self._progress.wipe()

    def summary(self) -> str:
        """Return a text with the effect that an import would have."""
        added, chunks = self._counts['added'], -(-len(self._rows) // self._job.chunk)
        families = f'({self._v4} IPv4, {added - self._v4} IPv6)'
        others = '{there} are there already, {different} differ, {refused} would be refused'.format(**self._counts)
        return f'would add {added} prefixes {families} in {chunks} transactions, {others}'

    def _send(self, client: Client, rows: list[Row]) -> int:
        before = self._needed(rows)
        while not self._would_do(client, before, rows):
            pass
        for row in rows:
            self._note(row)
        return len(rows)

    def _would_do(self, client: Client, before: list[Row], rows: list[Row]) -> bool:
        """Return whether all rows can be added; False: another client has added a row of `before`, which is dropped.

        :raises Fault: naming the row that cannot be added.
        """
        operations = self._operations(before + rows)
        try:
            client.call('batch', {'operations': [*operations, _impossible(len(operations))], 'return': 'ids'})
        except Fault as fault:
            named = _names_operation(fault.text)
            position = int(named[1]) if named else 0
            if named is None or fault.code in AUTH_FAULTS:
                raise
            if position < len(before):
                del before[position]
                return False
            if position < len(operations):
                moved = f'operation {position - len(before)}: {fault.text[named.end() :]}'
                raise Fault(fault.code, moved) from None
            return True
        raise TransportError(
            f'{client.server}: it committed a batch with an impossible operation, check the stored prefixes'
        )

    def _needed(self, rows: list[Row]) -> list[Row]:
        """Return the rows that must exist before the given rows can be added, parents first."""
        needed: dict[int, Row] = {}
        for number, first in {self._vrf_id(row): row for row in reversed(rows)}.items():
            self._leave(number, first)
            needed |= {row.line: row for row in self._around[number]}
        for pool in {pool for row in rows for pool in self._columns.pools_of(row)}:
            needed |= {row.line: row for row in self._members.get(pool, ())}
        return sorted(needed.values())

    def _note(self, row: Row) -> None:
        """Note a row that can be added."""
        self._v4 += row.family == 4
        around = self._around[self._vrf_id(row)]
        self._leave(self._vrf_id(row), row)
        around.append(row)
        for pool in self._columns.pools_of(row):
            self._members.setdefault(pool, list(around))

    def _leave(self, vrf_id: int, row: Row) -> None:
        """Forget the prefixes of a VRF that contain neither a row nor any row after it."""
        around = self._around[vrf_id]
        while around and not _is_around(around[-1].key, row.key):
            around.pop()


def _impossible(position: int) -> dict[str, object]:
    """Return an operation that refers to its own answer, so that a batch fails there and is rolled back."""
    return {'method': 'echo', 'args': {'message': {'$result': [position]}}}


def _is_around(outer: bytes, inner: bytes) -> bool:
    """Return whether a network contains a network that comes after it, given the keys of both."""
    free = 8 * (len(outer) - 2) - outer[-1]
    return outer[0] == inner[0] and int.from_bytes(outer[1:-1]) >> free == int.from_bytes(inner[1:-1]) >> free


def _look_up(columns: Columns, row: Row) -> dict[str, object]:
    """Return the operation that lists the prefix stored in the place of a row."""
    place = {'prefix': row.cells[columns.prefix], **(columns.vrf_of(row) or {'vrf_id': '0'})}
    return {'method': 'list_prefix', 'args': {'prefix': place}}
