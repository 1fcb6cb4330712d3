"""Time questions about the past on an audit log of ten million entries, beside the floor.

Usage: python tests/bench/history.py [--entries N] [--partitions P] [--data-dir DIR] [--only WORDS]

A daemon with a private PostgreSQL runs in a temporary directory, or in DIR, which is kept and used again. Exit code 1:
a question takes longer than its limit.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import platform
import signal
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, timedelta
from pathlib import Path

import psycopg2

REPOSITORY = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / 'tests')]

from bench import past_log, report  # noqa: E402
from bench.operations import Limit, Operation  # noqa: E402
from bench.past_log import Size  # noqa: E402
from bench.report import OperationRow  # noqa: E402
from bench.rpc_bench import measure  # noqa: E402
from bench.sites import Members, Site  # noqa: E402
from daemon_process import Daemon, free_port  # noqa: E402
from support import open_directories  # noqa: E402

from nipapd.embedded import EmbeddedPostgres  # noqa: E402

PAGE = 50
LOADING = {
    'fsync': 'off',
    'full_page_writes': 'off',
    'synchronous_commit': 'off',
    'wal_level': 'minimal',
    'max_wal_senders': '0',
    'autovacuum': 'off',
    'shared_buffers': '1GB',
    'max_wal_size': '8GB',
}
STOP_TIMEOUT_S = 120
NEAR, FAR = Limit(floors=5), Limit(ms=100)
KEY = 'bench-login'


class Past(Site):
    """A daemon with a long log. Calls whose name begins with a slash are GETs of REST."""

    def ask(self, method: str, members: Members) -> bytes:
        if not method.startswith('/'):
            return super().ask(method, members)
        self.http.request('GET', f'/api/v1{method}', headers={'Authorization': self._headers['Authorization']})
        answer = self.http.getresponse()
        body = answer.read()
        return body if answer.status == 200 else b'<fault>' + body


@dataclass(frozen=True)
class Question:
    """A question: its call and members, and the highest cost of a page.

    `pages`: which pages are timed, counted from 1.
    """

    name: str
    limit: Limit
    query: Members
    method: str = 'search_audit'
    pages: tuple[int, ...] = (1, 2)

    def operations(self, site: Site) -> Iterator[Operation]:
        """Yield a call for each page."""
        after = ''
        for page in range(1, max(self.pages) + 1):
            members = {'query': self.query, 'search_options': {'max_result': PAGE, 'after': after}}
            if page in self.pages:
                name = f'{self.name}, page {page}' if len(self.pages) > 1 else self.name
                yield Operation(name, self.limit, self.method, lambda *_, members=members: members)
            after = site.call(self.method, **members).get('after', '') if page < max(self.pages) else ''
            if not after:
                return


def equal(name: str, wanted: object) -> Members:
    return {'operator': '=', 'val1': name, 'val2': wanted}


def both(left: Members, right: Members) -> Members:
    return {'operator': 'and', 'val1': left, 'val2': right}


def within(network: str, vrf: int = 0) -> Members:
    return both(equal('vrf_id', vrf), {'operator': '<<=', 'val1': 'prefix', 'val2': network})


def between(since: timedelta, until: timedelta) -> Members:
    now = datetime.datetime.now(UTC)
    first, last = (
        {'operator': sign, 'val1': 'at', 'val2': (now - ago).isoformat()}
        for sign, ago in (('>=', since), ('<=', until))
    )
    return both(first, last)


def questions() -> list[Question]:
    """Return all questions. The stricter limit is for parts of the tree with few entries, or with recent ones."""
    hour, year = timedelta(hours=1), timedelta(days=365)
    hot = both(equal('kind', 'prefix'), equal('object_id', past_log.HOT_OBJECT))
    cold = both(equal('kind', 'prefix'), equal('object_id', 4711))
    gone = equal('vrf_id', past_log.GONE_VRF)
    return [
        Question('newest entries', NEAR, {}),
        Question('an object with many changes', NEAR, hot),
        Question('an object with few changes', NEAR, cold),
        Question('a busy user', NEAR, equal('username', past_log.BUSY)),
        Question('a rare user', NEAR, equal('username', past_log.RARE)),
        Question('a former user', NEAR, equal('username', past_log.FORMER)),
        Question('nobody', NEAR, equal('username', 'nobody'), pages=(1,)),
        Question(
            'the last hour',
            NEAR,
            {'operator': '>=', 'val1': 'at', 'val2': (datetime.datetime.now(UTC) - hour).isoformat()},
        ),
        Question('an hour a year ago', NEAR, between(year + hour, year)),
        Question(
            'a day two years ago, and a user',
            NEAR,
            both(between(2 * year + 24 * hour, 2 * year), equal('username', past_log.BUSY)),
        ),
        Question('a change set of many entries', NEAR, equal('change_set', past_log.BULK_SET)),
        Question('a request', NEAR, equal('request_id', 'request-77777'), pages=(1,)),
        Question('inside, all entries old', FAR, within(past_log.BULK)),
        Question('inside, 2,000 spread entries', NEAR, within(past_log.SPREAD)),
        Question('inside, 300 recent entries', NEAR, within(past_log.RECENT)),
        Question('inside, 5,000 old entries', FAR, within(past_log.LEFT)),
        Question('inside, a hundredth of all entries', NEAR, within(past_log.DENSE)),
        Question('inside, a 300th of all entries', NEAR, within(past_log.LESS_DENSE)),
        Question('inside, no entry', NEAR, within('10.64.0.0/16'), pages=(1,)),
        Question('inside all of IPv4', NEAR, within('0.0.0.0/0')),
        Question('inside all of IPv6', FAR, within('::/0'), pages=(1,)),
        Question('above an address, in all VRFs', NEAR, {'operator': '>>=', 'val1': 'prefix', 'val2': '10.2.0.7/32'}),
        Question('inside, in all VRFs', NEAR, {'operator': '<<=', 'val1': 'prefix', 'val2': past_log.SPREAD}),
        Question('a former VRF', FAR, gone),
        Question('the usual VRF', NEAR, equal('vrf_id', 0)),
        Question('a VRF without entries', NEAR, equal('vrf_id', 9), pages=(1,)),
        Question('change sets of a busy user', FAR, equal('username', past_log.BUSY), 'search_change_set'),
        Question('change sets of a rare user', FAR, equal('username', past_log.RARE), 'search_change_set'),
    ]


REST = [
    Operation('GET /changes', FAR, f'/changes?limit={PAGE}', lambda *_: {}),
    Operation('GET /audit', NEAR, f'/audit?limit={PAGE}', lambda *_: {}),
]


def time_one(operation: Operation, site: Site, runs: int) -> OperationRow:
    """Return the medians of a call. A call that seems too slow is timed again, longer: other programs disturb it."""
    for enough in (runs, 2 * runs):
        ((ms, floor_ms, _),) = (times.medians for times in measure([(operation, site)], enough))
        allowed = operation.limit.allowed(floor_ms, None)
        row = OperationRow(operation.name, ms, floor_ms, None, str(operation.limit), allowed)
        if row.ok:
            break
    return row


def timed(site: Site, runs: int, only: Sequence[str]) -> list[OperationRow]:
    rows = []
    for question in questions():
        if not only or any(word in question.name for word in only):
            for operation in question.operations(site):
                rows.append(time_one(operation, site, runs))
                say(' | '.join(rows[-1].cells()))
    for operation in REST:
        if not only or any(word in operation.name for word in only):
            rows.append(time_one(operation, site, runs))
            say(' | '.join(rows[-1].cells()))
    return rows


@contextlib.contextmanager
def started(data_dir: Path, size: Size) -> Iterator[Past]:
    """Yield a daemon in a directory, after its log was made, unless the directory has one."""
    login = data_dir / KEY
    daemon = Daemon(
        [
            '--config',
            '/dev/null',
            '--data-dir',
            str(data_dir),
            '--listen',
            '127.0.0.1',
            '--no-backup',
            '--port',
            str(free_port()),
        ]
    )
    try:
        daemon.start(600)
        if not login.exists():
            name, password = daemon.admin()
            daemon.stop(STOP_TIMEOUT_S)
            server = EmbeddedPostgres(data_dir, settings=LOADING).start()
            try:
                with contextlib.closing(psycopg2.connect(server.dsn())) as connection:
                    past_log.make(connection, size, say)
            finally:
                server.stop()
            login.write_text(f'{name} {password}')
            daemon.start(600)
        yield Past(daemon.url(*login.read_text().split()), 0)
    finally:
        with contextlib.suppress(Exception):
            daemon.stop(STOP_TIMEOUT_S)
        daemon.close()


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its table. Return the exit code."""
    parser = argparse.ArgumentParser(description='Time questions about the past.')
    add = parser.add_argument
    add('--entries', type=int, default=past_log.SOME, metavar='N', help='entries of the log (default %(default)s)')
    add('--partitions', type=int, default=1, metavar='P', help='partitions of the log (default %(default)s)')
    add('--runs', type=int, default=15, metavar='N', help='runs of each question (default %(default)s)')
    add('--data-dir', type=Path, metavar='DIR', help='keep the data in this directory, or use those in it')
    add('--only', default='', metavar='WORDS', help='only questions with one of these words, separated by commas')
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    size = Size(options.entries, options.partitions)
    only = [word for word in options.only.split(',') if word]
    with open_directories() as make, started(options.data_dir or make() / 'data', size) as site:
        rows = timed(site, options.runs, only)
    floor = statistics.median(row.floor_ms for row in rows) if rows else 0
    about = (
        f'{datetime.date.today()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}; '
        f'{options.entries:,} entries in {options.partitions} partitions; medians of {options.runs} runs; '
        f'`version` takes {floor:.2f} ms.'
    )
    print(report.tables(about, rows, []), end='')
    late = [row.name for row in rows if row.ok is False]
    for name in late:
        say(f'limit missed: {name}')
    return 1 if late else 0


if __name__ == '__main__':
    sys.exit(main())
