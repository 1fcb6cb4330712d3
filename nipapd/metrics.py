"""Metrics: handlers count in memory that all processes share, and the admin process exports it in Prometheus' format.

Each handler adds to a row of numbers that no other process writes to, so counting needs no lock and takes a
microsecond. The rows are allocated before the fork. A handler takes a free row and goes on counting from the numbers of
its last owner. So sums over all rows never decrease when a process dies.
"""

from __future__ import annotations

import bisect
import fcntl
import mmap
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from nipap import __version__
from nipap.calls import CALLS
from nipap.errors import AuthenticationFailedError, NipapError
from nipap.flask_xmlrpc import SYSTEM
from nipap.rest import api as flask_rest
from nipap.rest import v1 as flask_rest_v1
from nipap.runtime.meter import Meter
from nipapd.prefork import LOSSES
from nipapd.shares import NAMES as LIMITS

# Rows for all handlers, and as many again that finish while their successors run. Unwritten pages take no memory.
MOST_ROWS = 2500
BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0)
ALIVE_S = 10.0  # a handler without a heartbeat for so long does not count as ready
OTHER = 'other'  # an unknown method, or a request that was not understood


def _codes(base: type[NipapError] = NipapError) -> set[int]:
    return {base.code}.union(*map(_codes, base.__subclasses__()))


NAMES = (*CALLS, *SYSTEM, *flask_rest.names(), *flask_rest_v1.NAMES, OTHER)
CODES = (0, *sorted(_codes()))

# The layout of a row.
_HISTOGRAM = len(BOUNDS_S) + 2  # a bucket for each bound and one above, then the sum
_CALLS = len(CODES) + _HISTOGRAM  # of one method: calls by code, then their durations
_SINGLE = ('retries', 'sessions_opened', 'refused', *(f'limit {name}' for name in LIMITS))
_GAUGES = ('running', 'queued', 'sessions', 'most_sessions', 'ready', 'beat')
_FIRST_SINGLE = len(NAMES) * _CALLS
_PLACES = {name: _FIRST_SINGLE + number for number, name in enumerate((*_SINGLE, *_GAUGES))}
_ROW = _FIRST_SINGLE + len(_PLACES)
_METHOD_PLACES = {name: number * _CALLS for number, name in enumerate(NAMES)}
_CODE_PLACES = {code: number for number, code in enumerate(CODES)}

# The parent's numbers, before the rows.
_HEADER = ('draining', 'beat', 'started', *LOSSES)
_HEADER_PLACES = {name: number for number, name in enumerate(_HEADER)}


class Board:
    """The shared memory in which all processes of a daemon count. To be created before they are forked."""

    def __init__(self, most_rows: int = MOST_ROWS) -> None:
        self._most_rows = most_rows
        self._numbers = memoryview(mmap.mmap(-1, 8 * (len(_HEADER) + most_rows * (1 + _ROW)))).cast('d')
        # A number for each row, set by the row's owner: if several processes wrote one number, updates could be lost.
        self._used = self._numbers[len(_HEADER) : len(_HEADER) + most_rows]
        with (
            tempfile.TemporaryFile() as file
        ):  # a byte for each row, locked by its owner: the system releases the locks of dead processes
            self._file = os.dup(file.fileno())
        self._put('started', time.time())
        self.beat()

    # for the parent

    def beat(self) -> None:
        """Record that the parent supervises the handlers."""
        self._put('beat', time.monotonic())

    def drain(self) -> None:
        """Record that the daemon was asked to stop."""
        self._put('draining', 1.0)

    def note_loss(self, why: str) -> None:
        """Count a lost handler, under one of LOSSES."""
        self._numbers[_HEADER_PLACES[why]] += 1

    # for handlers

    def counter(self) -> Counter:
        """Return a row for the life of this process; when none is free, a row outside of the shared memory."""
        for number in range(self._most_rows):
            if self._lock(number):
                row = self._row(number)
                for name in _GAUGES:
                    row[_PLACES[name]] = 0.0
                self._used[number] = 1.0
                return Counter(row)
        return Counter(memoryview(bytearray(8 * _ROW)).cast('d'))

    # for the reader

    @property
    def draining(self) -> bool:
        return bool(self._get('draining'))

    @property
    def started(self) -> float:
        """The start of the daemon, in seconds since 1970."""
        return self._get('started')

    @property
    def parent_age_s(self) -> float:
        """The time since the parent's last heartbeat."""
        return time.monotonic() - self._get('beat')

    @property
    def losses(self) -> dict[str, int]:
        return {why: int(self._get(why)) for why in LOSSES}

    def totals(self) -> list[float]:
        """Return the sum of every column. Columns of _GAUGES are summed over living handlers only."""
        sums = [0.0] * _ROW
        for number in self._rows():
            row = self._row(number)
            columns = _ROW if self._is_owned(number) else _ROW - len(_GAUGES)
            for place in range(columns):
                sums[place] += row[place]
        return sums

    def ready_handlers(self) -> int:
        """Return the number of handlers that are ready and have beaten within ALIVE_S."""
        heard = time.monotonic() - ALIVE_S
        rows = [self._row(number) for number in self._rows() if self._is_owned(number)]
        return sum(bool(row[_PLACES['ready']]) and row[_PLACES['beat']] >= heard for row in rows)

    def _rows(self) -> list[int]:
        """Return the numbers of all rows that a handler has ever owned."""
        return [number for number, used in enumerate(self._used.tolist()) if used]

    def _row(self, number: int) -> memoryview[float]:
        first = len(_HEADER) + self._most_rows + number * _ROW
        return self._numbers[first : first + _ROW]

    def _is_owned(self, number: int) -> bool:
        """Return whether a living process owns the row. A handler that looks for a row meanwhile takes the next one."""
        if not self._lock(number):
            return True
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, number)
        return False

    def _lock(self, number: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except OSError:
            return False
        return True

    def _get(self, name: str) -> float:
        return self._numbers[_HEADER_PLACES[name]]

    def _put(self, name: str, value: float) -> None:
        self._numbers[_HEADER_PLACES[name]] = value


class Counter(Meter):
    """The numbers of one handler."""

    def __init__(self, row: memoryview[float]) -> None:
        self._row = row

    def call(self, method: str, code: int, seconds: float) -> None:
        row = self._row
        first = _METHOD_PLACES.get(method)
        if first is None:
            first = _METHOD_PLACES[OTHER]
        row[first + _CODE_PLACES.get(code, _CODE_PLACES[NipapError.code])] += 1
        first += len(CODES)
        row[first + bisect.bisect_left(BOUNDS_S, seconds)] += 1
        row[first + _HISTOGRAM - 1] += seconds

    def retry(self) -> None:
        self._row[_PLACES['retries']] += 1

    def session(self) -> None:
        self._row[_PLACES['sessions_opened']] += 1

    def refuse(self, number: int) -> None:
        """Count requests that were refused because too many wait."""
        self._row[_PLACES['refused']] += number

    def limit(self, name: str) -> None:
        """Count a limit of `nipapd.shares.NAMES` that was reached."""
        self._row[_PLACES[f'limit {name}']] += 1

    def look(self, *, running: int, queued: int, sessions: int, most_sessions: int) -> None:
        """Store the present numbers of the handler, and a heartbeat."""
        row = self._row
        row[_PLACES['running']], row[_PLACES['queued']] = running, queued
        row[_PLACES['sessions']], row[_PLACES['most_sessions']] = sessions, most_sessions
        row[_PLACES['beat']] = time.monotonic()

    def ready(self, answers: bool) -> None:
        """Store whether new connections are accepted, and a heartbeat."""
        self._row[_PLACES['beat']] = time.monotonic()
        self._row[_PLACES['ready']] = answers


# ---------------------------------------------------------------- export


@dataclass(frozen=True)
class State:
    """The facts that handlers cannot know: about the database, the certificate, backups and the whole daemon."""

    ready: bool
    database: bool
    handlers: int
    pools: Iterable[Mapping[str, Any]] = ()
    vrfs: Iterable[Mapping[str, Any]] = ()
    receivers: Iterable[Mapping[str, Any]] = ()
    certificate_end: float | None = None  # in seconds since 1970; None without TLS
    newest_backup: float | None = None  # likewise; 0: there is none, None: backups are not watched


def exposition(board: Board, state: State) -> bytes:
    """Return all metrics as text."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(lambda: metrics(board, state)))
    return generate_latest(registry)


class _Families(Collector):
    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Metric]:
        return self._collect()


def metrics(board: Board, state: State) -> Iterator[Metric]:
    """Yield every metric. docs/monitoring.md explains them."""
    totals = board.totals()
    yield from _calls(totals)
    yield from _handlers(board, state, totals)
    yield from _database(state, totals)
    yield from _pools(state.pools)
    yield from _vrfs(state.vrfs)
    yield from _receivers(state.receivers)


def _calls(totals: list[float]) -> Iterator[Metric]:
    calls = CounterMetricFamily('nipap_calls', 'Calls answered; code 0 is no fault.', labels=['method', 'code'])
    times = HistogramMetricFamily('nipap_call_seconds', 'Time from a request to its answer.', labels=['method'])
    for method, first in _METHOD_PLACES.items():
        by_code = totals[first : first + len(CODES)]
        counts = totals[first + len(CODES) : first + _CALLS - 1]
        if not sum(by_code):
            continue
        for code, number in zip(CODES, by_code, strict=True):
            if number:
                calls.add_metric([method, str(code)], number)
        buckets, below = [], 0.0
        for bound, number in zip((*map(str, BOUNDS_S), '+Inf'), counts, strict=True):
            below += number
            buckets.append((bound, below))
        times.add_metric([method], buckets, totals[first + _CALLS - 1])
    yield calls
    yield times
    refused = _CODE_PLACES[AuthenticationFailedError.code]
    failed = sum(totals[first + refused] for first in _METHOD_PLACES.values())
    yield _counter(
        'nipap_failed_logins', 'Calls with a wrong name or password, or refused after too many failed logins.', failed
    )
    yield _counter('nipap_refused_requests', 'Requests refused with HTTP 503.', totals[_PLACES['refused']])


def _handlers(board: Board, state: State, totals: list[float]) -> Iterator[Metric]:
    build = GaugeMetricFamily('nipap_build_info', 'The program.', labels=['version', 'python'])
    build.add_metric([__version__, platform.python_version()], 1)
    yield build
    yield _gauge('nipap_start_time_seconds', 'Start of the daemon, in seconds since 1970.', board.started)
    if state.certificate_end is not None:
        text = 'Expiry of the TLS certificate, in seconds since 1970.'
        yield _gauge('nipap_certificate_end_time_seconds', text, state.certificate_end)
    if state.newest_backup is not None:
        yield _gauge(
            'nipap_backup_time_seconds', 'Time of the newest backup, in seconds since 1970.', state.newest_backup
        )
    yield _gauge('nipap_ready', 'Whether /ready answers with HTTP 200.', state.ready)
    yield _gauge('nipap_draining', 'Whether the daemon is stopping.', board.draining)
    yield _gauge('nipap_handlers', 'Configured number of handlers.', state.handlers)
    yield _gauge('nipap_handlers_ready', 'Handlers that are ready.', board.ready_handlers())
    restarts = CounterMetricFamily('nipap_handler_restarts', 'Handlers lost and replaced.', labels=['reason'])
    for why, number in board.losses.items():
        restarts.add_metric([why], number)
    yield restarts
    limits = CounterMetricFamily('nipap_limits_reached', 'How often a limit was reached.', labels=['limit'])
    for name in LIMITS:
        limits.add_metric([name], totals[_PLACES[f'limit {name}']])
    yield limits
    yield _gauge('nipap_running_requests', 'Requests in progress.', totals[_PLACES['running']])
    yield _gauge('nipap_waiting_requests', 'Requests in the queue.', totals[_PLACES['queued']])


def _database(state: State, totals: list[float]) -> Iterator[Metric]:
    yield _gauge('nipap_database_up', 'Whether the database answers.', state.database)
    yield _gauge('nipap_database_sessions', 'Sessions in use.', totals[_PLACES['sessions']])
    yield _gauge('nipap_database_sessions_limit', 'Highest number of sessions.', totals[_PLACES['most_sessions']])
    opened = totals[_PLACES['sessions_opened']]
    yield _counter('nipap_database_connects', 'Sessions opened, at first and after a loss.', opened)
    yield _counter('nipap_database_retries', 'Transactions that were retried.', totals[_PLACES['retries']])


_POOL_FIGURES = {
    'member_prefixes': ('nipap_pool_member_prefixes', 'Members of a pool.'),
    'used_prefixes': ('nipap_pool_used_prefixes', 'Prefixes inside the members of a pool.'),
    'free_prefixes': ('nipap_pool_free_prefixes', 'Free blocks of the default length.'),
    'total_addresses': ('nipap_pool_addresses', 'Addresses of the members of a pool.'),
    'used_addresses': ('nipap_pool_used_addresses', 'Used addresses of the members of a pool.'),
}
_VRF_FIGURES = {
    'num_prefixes': ('nipap_vrf_prefixes', 'Prefixes of a VRF.'),
    'total_addresses': ('nipap_vrf_addresses', 'Addresses of the prefixes of a VRF that have no parent.'),
    'used_addresses': ('nipap_vrf_used_addresses', 'Used addresses of the prefixes of a VRF that have no parent.'),
}


def _pools(pools: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    found = [(pool, family) for pool in pools for family in ('4', '6') if pool[f'member_prefixes_v{family}']]
    return _objects('pool', _POOL_FIGURES, found)


def _vrfs(vrfs: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    return _objects('vrf', _VRF_FIGURES, [(vrf, family) for vrf in vrfs for family in ('4', '6')])


def _objects(
    kind: str, figures: Mapping[str, tuple[str, str]], found: Iterable[tuple[Mapping[str, Any], str]]
) -> Iterator[Metric]:
    for figure, (name, text) in figures.items():
        metric = GaugeMetricFamily(name, text, labels=[kind, 'family'])
        for each, family in found:
            value = each[f'{figure}_v{family}']
            if value is not None:
                metric.add_metric([each['name'], family], float(value))
        yield metric


def _receivers(receivers: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    pending = GaugeMetricFamily(
        'nipap_events_pending', 'Events that wait for delivery to a receiver.', labels=['receiver']
    )
    delivered = CounterMetricFamily('nipap_events_delivered', 'Events delivered to a receiver.', labels=['receiver'])
    failed = CounterMetricFamily(
        'nipap_events_failed', 'Failed attempts to deliver events to a receiver.', labels=['receiver']
    )
    for each in receivers:
        for metric, figure in ((pending, 'pending'), (delivered, 'delivered'), (failed, 'failed')):
            metric.add_metric([each['name']], float(each[figure]))
    yield from (pending, delivered, failed)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)
