"""Long answers of the whole daemon: a handler stays small, keeps answering others, and gives the same answers."""

from __future__ import annotations

import base64
import contextlib
import gzip
import http.client
import os
import re
import socket
import xmlrpc.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from daemon_process import HANDLER, Daemon, poll
from support import DaemonFactory

from nipap import __version__
from nipap.access.authentication import Actor
from nipap.backend import Backend
from nipap.postgres.database import Database
from nipap.xmlrpc.codec import encode_response

pytestmark = pytest.mark.slow

ALL = {'max_result': None}
SMALL_MB = 120
LONG = 3000  # several times the prefixes that are sent at once


@pytest.fixture
def running(daemon: DaemonFactory, database_options: dict[str, str]) -> Daemon:
    """Return a daemon with one handler."""
    return daemon(config={'nipapd': {'forks': '1', **database_options}})


def fill(backend: Backend, actor: Actor, hosts: int) -> None:
    """Add `hosts` hosts inside assignments inside a reservation."""
    common = {'description': 'one of many', 'customer_id': 'C-1', 'tags': ['tag']}
    top = [{**common, 'prefix': '10.0.0.0/8', 'type': 'reservation'}]
    top += [{**common, 'prefix': f'10.{i >> 8}.{i & 255}.0/24', 'type': 'assignment'} for i in range((hosts >> 8) + 1)]
    backend.add_prefixes(actor, top, ids=True)
    for first in range(0, hosts, 5000):
        some = range(first, min(hosts, first + 5000))
        attrs = [{**common, 'prefix': f'10.{i >> 16}.{i >> 8 & 255}.{i & 255}/32', 'type': 'host'} for i in some]
        backend.add_prefixes(actor, [{**attr, 'node': f'node {attr["prefix"]}'} for attr in attrs], ids=True)


def request(daemon: Daemon, method: str, *headers: str, version: str = '1.1', **members: object) -> bytes:
    """Return a call as bytes for the connection."""
    arguments = {'auth': {'authoritative_source': 'test'}, **members}
    body = xmlrpc.client.dumps((arguments,), method, allow_none=True).encode()
    credentials = base64.b64encode(':'.join(daemon.admin()).encode()).decode()
    lines = [f'POST /XMLRPC HTTP/{version}', 'Host: test', f'Authorization: Basic {credentials}', *headers]
    return '\r\n'.join([*lines, f'Content-Length: {len(body)}', '', '']).encode() + body


@contextlib.contextmanager
def connection(daemon: Daemon) -> Iterator[socket.socket]:
    """Yield a connection with a small receive buffer."""
    parts = urlsplit(daemon.address)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        client.settimeout(300)
        client.connect((parts.hostname, parts.port))
        yield client


def begun(client: socket.socket, call: bytes) -> http.client.HTTPResponse:
    """Return the answer to a call after reading its headers."""
    client.sendall(call)
    response = http.client.HTTPResponse(client)
    response.begin()
    assert response.status == 200
    return response


def answer(daemon: Daemon, *headers: str, method: str = 'list_prefix', **more: Any) -> tuple[Any, bytes]:
    """Return headers and body of an answer."""
    with connection(daemon) as client:
        response = begun(client, request(daemon, method, *headers, **more))
        return response.headers, response.read()


def call(daemon: Daemon, method: str, **members: object) -> Any:
    return xmlrpc.client.loads(answer(daemon, method=method, **members)[1])[0][0]


def handler(daemon: Daemon) -> int:
    (found,) = (process.pid for process in daemon.children() if process.command == HANDLER)
    return found


def memory_mb(pid: int) -> dict[str, int]:
    """Return the memory of a process, and its highest memory since the last call of this function."""
    status = Path(f'/proc/{pid}/status').read_text()
    Path(f'/proc/{pid}/clear_refs').write_text('5')
    return {name: int(kb) >> 10 for name, kb in re.findall(r'^(VmRSS|VmHWM):\s+(\d+) kB', status, re.MULTILINE)}


def open_files(pid: int) -> list[str]:
    return sorted(os.listdir(f'/proc/{pid}/fd'))


MANY = 100_000
# As many prefixes as are stored: assignments with hosts. Some of them can be selected by their order_id.
FILL = """
INSERT INTO prefix (id, vrf_id, prefix, type, parent_id, node, description, customer_id, order_id, tags, avps)
SELECT n, 0, CASE WHEN n % 250 = 0 THEN set_masklen(a, 24) ELSE set_masklen(a, 32) END::cidr,
    CASE WHEN n % 250 = 0 THEN 'assignment' ELSE 'host' END, nullif(n - n % 250, n),
    CASE WHEN n % 250 > 0 THEN 'node-' || n END, 'one of many ' || n, 'C-1', CASE WHEN n < {some} THEN 'some' END,
    '{{tag}}', jsonb_build_object('serial', 'S' || n)
FROM (SELECT n, '10.0.0.0'::inet + n / 250 * 256 + n % 250 AS a FROM generate_series(0, {many} - 1) n) s;
INSERT INTO prefix_words SELECT id, words_of(p) FROM prefix p;
ANALYZE
"""


def grown_mb(daemon: Daemon, *calls: dict[str, Any]) -> list[int]:
    """Return for each call the highest memory of the handler during it, minus its memory after the very first call."""
    pid = handler(daemon)
    assert call(daemon, 'version') == __version__
    before = memory_mb(pid)['VmRSS']
    most = []
    for each in calls:
        assert b'<fault>' not in answer(daemon, **each)[1][:200]
        most.append(memory_mb(pid)['VmHWM'])
    assert max(most) < SMALL_MB, (before, most)
    return [mb - before for mb in most]


def listing(**spec: object) -> dict[str, Any]:
    return {'method': 'list_prefix', 'prefix': spec}


def batch(*operations: dict[str, Any], **members: Any) -> dict[str, Any]:
    todo = [{'method': each['method'], 'args': {'prefix': each['prefix']}} for each in operations]
    return {'method': 'batch', 'operations': todo, **members}


@pytest.mark.timeout(900)
def test_a_handler_stays_small(running: Daemon, db: Database) -> None:
    """Ten times as many prefixes take no more memory."""
    db.run(lambda tx: tx.execute(FILL.format(many=MANY, some=MANY // 10)))
    some, everything = listing(order_id='some'), listing()
    searched = {'method': 'search_prefix', 'query': {}}
    page = {**searched, 'search_options': {'max_result': 10_000}}
    packed = answer(running, 'Accept-Encoding: gzip', **some)[1]
    assert gzip.decompress(packed).count(b'<name>prefix</name>') == MANY // 10
    # The first calls with few rows may run before any garbage is collected; of ten such calls, compare the highest.
    *each, _, many, _ = grown_mb(running, *[some] * 10, page, everything, {**searched, 'search_options': ALL})
    few = max(each)
    assert few < 30
    assert many - few <= 5


@pytest.mark.timeout(900)
def test_a_handler_stays_small_in_a_batch(running: Daemon, db: Database) -> None:
    db.run(lambda tx: tx.execute(FILL.format(many=MANY // 3, some=MANY // 30)))
    some, everything = listing(order_id='some'), listing()
    few, *more = grown_mb(
        running,
        batch(some),
        batch(everything),
        batch(*[some] * 10),
        batch(everything, everything, **{'return': 'ids'}),
        *[batch(everything, idempotency_key='key')] * 2,
    )
    assert max(more) - few <= 15
    with pytest.raises(xmlrpc.client.Fault) as caught:
        call(running, **batch(*[everything] * 3, some))
    assert caught.value.faultCode == 1200
    assert caught.value.faultString.startswith('operation 3 (list_prefix): The answers are too long, at most 100000')
    assert memory_mb(handler(running))['VmHWM'] < SMALL_MB


@pytest.mark.timeout(900)
def test_a_handler_stays_small_after_an_edit(running: Daemon, db: Database) -> None:
    db.run(lambda tx: tx.execute(FILL.format(many=MANY // 3, some=MANY // 30)))

    def edit(text: str, **spec: object) -> dict[str, Any]:
        return {'method': 'edit_prefix', 'prefix': spec, 'attr': {'comment': text}}

    few, many, keyed = grown_mb(
        running,
        edit('x', order_id='some'),
        edit('y', customer_id='C-1'),
        {**edit('z', customer_id='C-1'), 'idempotency_key': 'key'},
    )
    assert max(many, keyed) - few <= 15
    assert db.read(lambda tx: tx.value("SELECT count(*) FROM prefix WHERE comment = 'z'")) == MANY // 3


@pytest.mark.parametrize('version', ['1.0', '1.1'])
@pytest.mark.parametrize('encoding', ['gzip', 'identity'])
def test_answers_equal_those_of_the_backend(
    running: Daemon, backend: Backend, actor: Actor, version: str, encoding: str
) -> None:
    fill(backend, actor, LONG)
    expected = encode_response(backend.list_prefix(actor))
    headers, body = answer(running, f'Accept-Encoding: {encoding}', version=version)
    assert int(headers['Content-Length']) == len(body)
    assert (headers['Content-Encoding'] == 'gzip') == (encoding == 'gzip')
    assert (gzip.decompress(body) if encoding == 'gzip' else body) == expected
    options = {'max_result': 2000, 'offset': 500, 'include_all_parents': True}
    found = backend.search_prefix(actor, {}, options)
    members = {'query': {}, 'search_options': options}
    assert answer(running, method='search_prefix', **members)[1] == encode_response(found)


def test_a_slow_reader_holds_up_nobody(running: Daemon, backend: Backend, actor: Actor) -> None:
    fill(backend, actor, LONG)
    expected = encode_response(backend.list_prefix(actor))
    with contextlib.ExitStack() as stack:
        slow = []
        for _ in range(5):
            client = stack.enter_context(connection(running))
            slow.append(begun(client, request(running, 'list_prefix')))
            slow[-1].fp.read(100)
        assert call(running, 'version') == __version__
        # Slow readers neither keep the connection to the database nor lock the rows that they read.
        added = call(running, 'add_prefix', attr={'prefix': '192.0.2.0/24', 'type': 'assignment', 'description': 'x'})
        call(running, 'remove_prefix', prefix={'id': added['id']})
        for response in slow:
            response.length -= 100
            assert response.read() == expected[100:]


def test_a_client_that_leaves_early_leaves_nothing_behind(running: Daemon, backend: Backend, actor: Actor) -> None:
    fill(backend, actor, LONG)
    pid = handler(running)
    assert len(call(running, 'list_prefix')) > LONG
    poll(lambda: not leaving(running), 20, lambda: 'a connection stays')
    before = open_files(pid)
    for _ in range(10):
        with connection(running) as client:
            begun(client, request(running, 'list_prefix')).read(1000)
    poll(lambda: open_files(pid) == before, 20, lambda: f'{open_files(pid)} are open, before it was {before}')
    assert call(running, 'list_prefix', prefix={'id': 1})[0]['prefix'] == '10.0.0.0/8'
    assert ' ERROR ' not in running.log()


def leaving(daemon: Daemon) -> list[str]:
    """Return the connections of clients to the daemon."""
    port = f':{urlsplit(daemon.address).port:04X}'
    rows = [line.split() for line in Path('/proc/net/tcp').read_text().splitlines()[1:]]
    return [row[2] for row in rows if row[1].endswith(port) and row[3] in ('01', '08')]


def test_a_long_answer_is_finished_when_the_daemon_stops(running: Daemon, backend: Backend, actor: Actor) -> None:
    fill(backend, actor, LONG)
    expected = encode_response(backend.list_prefix(actor))
    with connection(running) as client:
        response = begun(client, request(running, 'list_prefix'))
        head = response.read(100)
        running.send(15)
        assert head + response.read() == expected
    assert running.wait() == 0


def test_a_search_that_fails_is_a_fault(running: Daemon, backend: Backend, actor: Actor) -> None:
    fill(backend, actor, LONG)
    query = {'operator': 'regex_match', 'val1': 'description', 'val2': '('}
    with pytest.raises(xmlrpc.client.Fault) as caught:
        call(running, 'search_prefix', query=query, search_options=ALL)
    assert caught.value.faultCode == 1200
    assert 'Invalid regular expression (()' in caught.value.faultString
    assert len(call(running, 'search_prefix', query={}, search_options=ALL)['result']) > LONG
