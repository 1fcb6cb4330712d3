"""Traces of the calls of a daemon, as a collector receives them."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import xmlrpc.client
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
from daemon_process import Daemon, poll
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from support import DaemonFactory

from nipap.postgres.database import Database

pytestmark = pytest.mark.slow

AUTH = {'authoritative_source': 'robot'}
TRACE = '0af7651916cd43dd8448eb211c80319c'
PARENT = 'b7ad6b7169203331'


class Collector:
    """A collector with its address and the requests received so far."""

    def __init__(self) -> None:
        self.endpoint = ''
        self.headers: list[dict[str, str]] = []
        self._told: queue.Queue[trace_service_pb2.ExportTraceServiceRequest] = queue.Queue()

    def hear(self, request: trace_service_pb2.ExportTraceServiceRequest) -> None:
        self._told.put(request)

    def spans(self) -> list[tuple[dict[str, Any], Span]]:
        """Return every span, with the attributes of its process."""
        found = []
        while not self._told.empty():
            for group in self._told.get().resource_spans:
                about = attributes(group.resource)
                found += [(about, span) for scope in group.scope_spans for span in scope.spans]
        return found


@contextlib.contextmanager
def http_collector() -> Iterator[Collector]:
    collector = Collector()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers['Content-Length']))
            collector.headers.append(dict(self.headers))
            right = self.path == '/v1/traces' and self.headers['Content-Type'] == 'application/x-protobuf'
            if right:
                collector.hear(trace_service_pb2.ExportTraceServiceRequest.FromString(body))
            self.send_response(200 if right else 404)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        collector.endpoint = f'http://127.0.0.1:{server.server_port}'
        yield collector
        server.shutdown()
        serving.join()


@contextlib.contextmanager
def grpc_collector() -> Iterator[Collector]:
    collector = Collector()

    class Servicer(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:
            collector.hear(request)
            return trace_service_pb2.ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Servicer(), server)
    collector.endpoint = f'http://127.0.0.1:{server.add_insecure_port("127.0.0.1:0")}'
    server.start()
    yield collector
    server.stop(None).wait()


def attributes(of: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof('value')) for each in of.attributes}


def traced(daemon: DaemonFactory, options: dict[str, str], **tracing: str) -> Daemon:
    settings = {'forks': '1', 'log_format': 'json', **options}
    return daemon(config={'nipapd': settings, 'tracing': tracing})


@dataclass(frozen=True)
class Answer:
    """An answer of the daemon."""

    status: int
    headers: http.client.HTTPMessage
    text: str


def post(running: Daemon, method: str, members: dict[str, object], **headers: str) -> Answer:
    parts = urlsplit(running.address)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port)
    with contextlib.closing(connection):
        body = xmlrpc.client.dumps(({'auth': AUTH, **members},), method, allow_none=True)
        login = b64encode(':'.join(running.admin()).encode()).decode()
        given = {name.replace('_', '-'): value for name, value in headers.items()}
        connection.request('POST', '/XMLRPC', body, {'Authorization': f'Basic {login}', **given})
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read().decode())


def get(running: Daemon, path: str, **headers: str) -> Answer:
    parts = urlsplit(running.address)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port)
    with contextlib.closing(connection):
        login = b64encode(':'.join(running.admin()).encode()).decode()
        given = {name.replace('_', '-'): value for name, value in headers.items()}
        connection.request('GET', path, headers={'Authorization': f'Basic {login}', **given})
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read().decode())


def stopped(running: Daemon) -> None:
    """End the daemon with TERM, after which it has sent all traces."""
    os.kill(running.pid, signal.SIGTERM)
    poll(lambda: running.returncode is not None, 30, lambda: 'the daemon does not stop')
    assert running.returncode == 0, running.log()


def requests_logged(running: Daemon) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in running.log().splitlines() if line.startswith('{')]
    return [line for line in lines if line['logger'] == 'nipap.request']


@pytest.mark.parametrize('kind', ['http', 'grpc'])
def test_a_call_and_its_statements(daemon: DaemonFactory, database_options: dict[str, str], kind: str) -> None:
    with {'http': http_collector, 'grpc': grpc_collector}[kind]() as collector:
        tracing = {f'otlp_{kind}_endpoint': collector.endpoint, 'trace_id_header': 'true'}
        running = traced(daemon, database_options, **tracing)
        answer = post(
            running,
            'add_prefix',
            {'attr': {'prefix': '10.77.0.0/16', 'type': 'reservation', 'description': 'SECRET'}},
            traceparent=f'00-{TRACE}-{PARENT}-01',
            X_Request_ID='mine',
        )
        assert (answer.headers['X-Trace-ID'], answer.headers['X-Request-ID']) == (TRACE, 'mine')
        (logged,) = requests_logged(running)
        assert (logged['trace_id'], logged['request_id'], logged['method']) == (TRACE, 'mine', 'add_prefix')
        stopped(running)
        told = collector.spans()
    (server,) = (span for _, span in told if span.kind == Span.SPAN_KIND_SERVER)
    statements = [span for _, span in told if span.kind == Span.SPAN_KIND_CLIENT]
    assert server.name == 'add_prefix'
    assert (server.trace_id.hex(), server.parent_span_id.hex()) == (TRACE, PARENT)
    known = {
        'enduser.id': 'admin',
        'nipap.authoritative_source': 'robot',
        'nipap.fault_code': 0,
        'nipap.request_id': 'mine',
        'http.request.method': 'POST',
        'http.response.status_code': 200,
        'url.path': '/XMLRPC',
        'client.address': '127.0.0.1',
        'rpc.method': 'add_prefix',
    }
    assert attributes(server).items() >= known.items()
    assert statements
    for span in statements:
        assert (span.trace_id, span.parent_span_id) == (server.trace_id, server.span_id)
        assert server.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert attributes(span)['db.system'] == 'postgresql'
    texts = [attributes(span)['db.query.text'] for span in statements]
    assert any('INSERT' in text or 'prefix_add' in text for text in texts), texts
    assert not any('SECRET' in text or '10.77' in text for text in texts)
    assert any(attributes(span)['db.response.returned_rows'] == 1 for span in statements)
    assert {about['service.name'] for about, _ in told} == {'nipapd'}
    assert all(about['process.pid'] != running.pid for about, _ in told)


def send_traces(running: Daemon, path: str, body: bytes, **headers: str) -> Answer:
    parts = urlsplit(running.address)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port)
    with contextlib.closing(connection):
        kind = {'Content-Type': 'application/x-protobuf'}
        connection.request('POST', path, body, kind | {name.replace('_', '-'): text for name, text in headers.items()})
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read().decode())


def test_traces_of_clients_are_passed_on(daemon: DaemonFactory, database_options: dict[str, str]) -> None:
    """nipap-cli sends its traces with its credentials, which are not passed on."""
    request = trace_service_pb2.ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.add().name = 'of a client'
    body = request.SerializeToString()
    with http_collector() as collector:
        endpoint = f'{collector.endpoint}/v1/traces'
        running = traced(daemon, database_options, otlp_http_endpoint=endpoint, otel_traces_sampler='always_off')
        login = 'Basic ' + b64encode(':'.join(running.admin()).encode()).decode()
        for path in ('/v1/traces', '/v1/traces/'):
            assert send_traces(running, path, body, Authorization=login).status == 200
        assert [span.name for _, span in collector.spans()] == ['of a client'] * 2
        assert not any('Authorization' in headers for headers in collector.headers)
        for headers in ({}, {'Authorization': 'Basic ' + b64encode(b'admin:wrong').decode()}):
            refused = send_traces(running, '/v1/traces/', body, **headers)
            assert (refused.status, refused.headers['WWW-Authenticate'].startswith('Basic ')) == (401, True)
        assert send_traces(running, '/v1/traces', body, Authorization=login, Content_Type='text/plain').status == 404
        elsewhere = {'Authorization': login, 'Sec_Fetch_Site': 'cross-site'}
        assert send_traces(running, '/v1/traces', body, **elsewhere).status == 403
        assert collector.spans() == []
        assert get(running, '/v1/traces').status == 405
    away = send_traces(running, '/v1/traces', body, Authorization=login)
    assert (away.status, away.text) == (502, 'The collector of traces does not answer.\n')
    assert 'cannot send the traces of a client to the collector' in running.log()


def test_traces_may_come_again_when_accounts_cannot_be_read(
    daemon: DaemonFactory, database_options: dict[str, str], make_dir: Callable[[], Path]
) -> None:
    home = make_dir()
    tracing = {'otlp_http_endpoint': 'http://127.0.0.1:9'}
    running = daemon(config={'nipapd': {'forks': '1', **database_options}, 'tracing': tracing}, data_dir=home)
    (home / 'local_auth.db').write_text('something else\n' * 100)
    refused = send_traces(running, '/v1/traces', b'', Authorization='Basic ' + b64encode(b'admin:x').decode())
    assert (refused.status, 'Retry-After' in refused.headers) == (503, True)


def test_there_is_nothing_to_pass_traces_on_to_without_a_collector_by_http(
    daemon: DaemonFactory, database_options: dict[str, str]
) -> None:
    running = daemon(config={'nipapd': {'forks': '1', **database_options}})
    login = 'Basic ' + b64encode(':'.join(running.admin()).encode()).decode()
    assert send_traces(running, '/v1/traces/', b'', Authorization=login).status == 404


def test_faults(daemon: DaemonFactory, database_options: dict[str, str]) -> None:
    with http_collector() as collector:
        running = traced(daemon, database_options, otlp_http_endpoint=collector.endpoint)
        answer = post(
            running,
            'add_prefix',
            {'attr': {'prefix': '10.0.0.0/8', 'type': 'assignment', 'description': 'x', 'vrf_id': 77}},
        )
        assert 'X-Trace-ID' not in answer.headers
        post(running, 'no_such_method', {})
        stopped(running)
        spans = [span for _, span in collector.spans() if span.kind == Span.SPAN_KIND_SERVER]
    assert [(span.name, attributes(span)['nipap.fault_code'], span.status.code) for span in spans] == [
        ('add_prefix', 1300, Status.STATUS_CODE_UNSET),
        ('unknown', 1100, Status.STATUS_CODE_UNSET),
    ]


def test_requests_of_the_rest_interface(daemon: DaemonFactory, database_options: dict[str, str]) -> None:
    with http_collector() as collector:
        running = traced(daemon, database_options, otlp_http_endpoint=collector.endpoint)
        for path in ('/api/v1/vrfs/0', '/api/v1/vrfs/77', '/rest/v1/prefixes', '/api/v1/nothing'):
            answer = get(running, path, NIPAP_Authoritative_Source='robot', X_Request_ID='mine')
            assert answer.headers['X-Request-ID'] == 'mine'
        logged = [(line['method'], line['user'], line['fault']) for line in requests_logged(running)]
        stopped(running)
        spans = [span for _, span in collector.spans()]
    servers = [span for span in spans if span.kind == Span.SPAN_KIND_SERVER]
    told = [(span.name, attributes(span)['enduser.id'], attributes(span)['nipap.fault_code']) for span in servers]
    one = 'GET /vrfs/<number:key>'
    assert told == logged == [(one, 'admin', 0), (one, 'admin', 1300), ('GET /rest/v1/prefixes', 'admin', 1110)]
    assert [attributes(span)['http.response.status_code'] for span in servers] == [200, 404, 500]
    assert {span.trace_id for span in spans} == {span.trace_id for span in servers}


def test_calls_that_wait_at_the_same_time_are_not_mixed(
    daemon: DaemonFactory, database_options: dict[str, str]
) -> None:
    """Sixteen calls run at once on one handler with two sessions: each waits for PostgreSQL and for other calls."""
    with http_collector() as collector, ThreadPoolExecutor(16) as pool:
        running = traced(daemon, {**database_options, 'db_connections': '2'}, otlp_http_endpoint=collector.endpoint)
        operations = [
            {'method': 'add_prefix', 'args': {'attr': {'prefix': f'10.0.{n}.0/24', 'type': 'assignment'}}}
            for n in range(20)
        ]
        calls = [('batch', {'operations': operations}), ('list_vrf', {'vrf': {}})] * 40
        list(pool.map(lambda each: post(running, *each), calls))
        stopped(running)
        spans = [span for _, span in collector.spans()]
    servers = {span.span_id: span for span in spans if span.kind == Span.SPAN_KIND_SERVER}
    statements = [span for span in spans if span.kind == Span.SPAN_KIND_CLIENT]
    assert len(servers) == len({span.trace_id for span in servers.values()}) == len(calls)
    assert overlap(list(servers.values()))
    by_call: dict[bytes, list[str]] = {}
    for span in statements:
        server = servers[span.parent_span_id]
        assert span.trace_id == server.trace_id
        assert server.start_time_unix_nano <= span.start_time_unix_nano
        assert span.end_time_unix_nano <= server.end_time_unix_nano
        by_call.setdefault(span.parent_span_id, []).append(attributes(span)['db.query.text'])
    lists = {tuple(by_call[number]) for number, span in servers.items() if span.name == 'list_vrf'}
    assert len(lists) == 1  # each list has the same statements, and none of a batch
    assert all('prefix_add' not in text for text in lists.pop())


def overlap(spans: list[Span]) -> bool:
    ordered = sorted(spans, key=lambda span: span.start_time_unix_nano)
    return any(a.end_time_unix_nano > b.start_time_unix_nano for a, b in itertools.pairwise(ordered))


@pytest.mark.parametrize(
    ('sampler', 'sampled', 'expected'),
    [
        ('always_off', '01', 0),
        ('always_on', '00', 1),
        ('parentbased_always_on', '00', 0),
        ('parentbased_always_off', '01', 1),
        ('traceidratio=0', '01', 0),
        ('parentbased_traceidratio=1.0', '01', 1),
    ],
)
def test_samplers(
    daemon: DaemonFactory, database_options: dict[str, str], sampler: str, sampled: str, expected: int
) -> None:
    with http_collector() as collector:
        tracing = {'otlp_http_endpoint': collector.endpoint, 'otel_traces_sampler': sampler}
        running = traced(daemon, database_options, **tracing)
        post(running, 'echo', {}, traceparent=f'00-{TRACE}-{PARENT}-{sampled}')
        stopped(running)
        assert len(collector.spans()) == expected


def test_a_collector_that_is_away_holds_up_nobody(daemon: DaemonFactory, database_options: dict[str, str]) -> None:
    running = traced(daemon, database_options, otlp_http_endpoint='http://127.0.0.1:9')
    assert post(running, 'list_vrf', {'vrf': {}}).status == 200
    stopped(running)


def test_a_start_without_opentelemetry_says_what_installs_it_and_goes_on(
    daemon: DaemonFactory, database_options: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / 'opentelemetry.py').write_text('raise ImportError("it is not here")\n')
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    endpoint = {'tracing': {'otlp_http_endpoint': 'http://127.0.0.1:9'}}
    running = daemon(config={'nipapd': {'forks': '1', **database_options}, **endpoint}, env={'PYTHONPATH': path})
    (told,) = [line for line in running.log().splitlines() if ' WARNING ' in line]
    assert '(it is not here), so nothing is traced: ' in told
    assert told.endswith("pip install '.[tracing]' in the directory of nipapd's source")


def test_opentelemetry_is_not_imported_unless_asked_for() -> None:
    look = 'import sys, nipapd.__main__; print([name for name in sys.modules if "opentelemetry" in name])'
    found = subprocess.run([sys.executable, '-c', look], capture_output=True, text=True, check=True)
    assert found.stdout == '[]\n'


def test_an_unexpected_error_is_told_and_logged_with_its_id_on_every_face(
    daemon: DaemonFactory, database_options: dict[str, str], db: Database
) -> None:
    """The program has no words for a missing table."""
    running = traced(daemon, database_options)
    db.run(lambda tx: tx.execute('ALTER TABLE prefix RENAME TO mislaid'))
    calls = {
        'rpc': lambda: post(running, 'list_prefix', {'prefix': {'id': 1}}, X_Request_ID='rpc'),
        'rest': lambda: get(running, '/api/v1/prefixes', X_Request_ID='rest'),
        'old': lambda: get(running, '/rest/v1/prefixes?id=1', NIPAP_Authoritative_Source='x', X_Request_ID='old'),
    }
    for name, call in calls.items():
        answer = call()
        assert answer.headers['X-Request-ID'] == name
        assert f'Internal error, request id {name}' in answer.text
    db.run(lambda tx: tx.execute('ALTER TABLE mislaid RENAME TO prefix'))
    lines = [json.loads(line) for line in running.log().splitlines() if line.startswith('{')]
    for name in calls:
        (error,) = [line for line in lines if line.get('request_id') == name and 'exception' in line]
        assert 'Traceback' in error['exception']
        (logged,) = [line for line in requests_logged(running) if line['request_id'] == name]
        assert logged['fault'] == 1000


def test_requests_that_are_refused_unread_have_an_id_too(
    daemon: DaemonFactory, database_options: dict[str, str]
) -> None:
    running = traced(daemon, {**database_options, 'max_body': '1000'})
    answer = post(running, 'echo', {'message': 'x' * 2000}, X_Request_ID='mine')
    assert (answer.status, answer.headers['X-Request-ID']) == (413, 'mine')
