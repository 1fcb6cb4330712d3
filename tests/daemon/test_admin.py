"""The admin port of a running daemon: liveness, readiness and metrics."""

from __future__ import annotations

import base64
import configparser
import contextlib
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
import xmlrpc.client
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2
import psycopg2.extensions
import pytest
from callers import change, handlers
from daemon_process import Daemon, descendants_of, free_port, poll
from prometheus_client.parser import text_string_to_metric_families
from support import FAST, DaemonFactory, expressions, options_of, selectors
from test_events import Client

from nipap.postgres import schema
from nipapd.admin import Backups
from nipapd.embedded import EmbeddedPostgres

pytestmark = pytest.mark.slow

ADMIN = re.compile(r'health and metrics on (http://\S+)')


def page(daemon: Daemon, path: str) -> tuple[int, str]:
    """Return status and text of a page at the latest admin address in the log."""
    try:
        with urllib.request.urlopen(f'{ADMIN.findall(daemon.log())[-1]}/{path}', timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.read().decode()


def is_ready(daemon: Daemon) -> bool:
    return page(daemon, 'ready') == (200, 'ok\n')


def await_page(daemon: Daemon, path: str, wanted: Callable[[int, str], bool]) -> None:
    poll(lambda: wanted(*page(daemon, path)), 30, lambda: f'/{path} says {page(daemon, path)}\n{daemon.log()}')


def samples(daemon: Daemon) -> dict[str, float]:
    status, text = page(daemon, 'metrics')
    assert status == 200
    return {
        sample.name + ''.join(f' {key}={value}' for key, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def proxy(daemon: Daemon) -> xmlrpc.client.ServerProxy:
    return xmlrpc.client.ServerProxy(f'{daemon.url(*daemon.admin())}/XMLRPC', allow_none=True)


def call_often(daemon: Daemon, number: int) -> None:
    def calls(count: int) -> None:
        with proxy(daemon) as nipap:
            for _ in range(count):
                nipap.version({'auth': {'authoritative_source': 'test'}})

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(calls, [number // 4] * 4))


@pytest.fixture
def watched(daemon: DaemonFactory, database_options: dict[str, str]) -> Daemon:
    """Return a ready daemon with two handlers on the database of the test."""
    settings = {**database_options, 'forks': '2', 'metrics_names': 'true'}
    running = daemon('--admin-port', '0', config={'nipapd': settings})
    await_page(running, 'metrics', lambda _, text: 'nipap_handlers_ready 2.0' in text)
    return running


def hang_up(running: Daemon) -> None:
    """Send SIGHUP, and wait until the former process of the admin port has ended: it answers beside the new one."""
    former = [process for process in running.children() if process.command == 'nipapd-admin']
    running.send(signal.SIGHUP)
    poll(lambda: not any(process.alive() for process in former), 30, running.log)


def kill_handler(running: Daemon) -> int:
    """Kill the only handler; return the process id of its successor."""
    children = Path(f'/proc/{running.pid}/task/{running.pid}/children')
    known, new = set(children.read_text().split()), set[str]()
    poll(lambda: handlers(running), 30, running.log)
    (former,) = handlers(running)
    os.kill(former.pid, signal.SIGKILL)
    poll(lambda: new.update(set(children.read_text().split()) - known) or new, 30, running.log)
    return int(new.pop())


def stop_one_that_starts(running: Daemon) -> int:
    """Stop the only handler before it is ready; return its process id."""
    while True:
        pid = kill_handler(running)
        os.kill(pid, signal.SIGSTOP)
        if not is_ready(running):
            return pid
        os.kill(pid, signal.SIGCONT)  # the handler was faster


@pytest.fixture
def own_server(cluster: EmbeddedPostgres, make_dir: Callable[[], Path]) -> Iterator[EmbeddedPostgres]:
    """Yield a PostgreSQL that the test may stop."""
    server = EmbeddedPostgres(make_dir() / 'postgres', settings=FAST)
    server.start()
    yield server
    server.stop()


def test_calls_of_all_handlers_are_counted_together_and_never_less(watched: Daemon) -> None:
    assert page(watched, 'live') == (200, 'ok\n')
    assert is_ready(watched)
    call_often(watched, 100)
    version = 'nipap_calls_total code=0 method=version'
    assert samples(watched)[version] == 100
    with proxy(watched) as nipap:
        for method in ('no_such_method', 'nor_this'):
            with pytest.raises(xmlrpc.client.Fault):
                getattr(nipap, method)({})
    wrong = xmlrpc.client.ServerProxy(f'{watched.url("admin", "wrong")}/XMLRPC')
    with wrong, pytest.raises(xmlrpc.client.Fault):
        wrong.version({})

    for number, process in enumerate(handlers(watched), 1):
        os.kill(process.pid, signal.SIGKILL)
        lost = f'nipap_handler_restarts_total{{reason="signal"}} {number}.0'
        await_page(watched, 'metrics', lambda _, text, lost=lost: lost in text and 'nipap_handlers_ready 2.0' in text)
    call_often(watched, 40)
    found = samples(watched)
    assert found[version] == 140
    assert found['nipap_call_seconds_count method=version'] == 140
    assert found['nipap_calls_total code=1100 method=other'] == 2
    assert found['nipap_failed_logins_total'] == 1
    assert found['nipap_ready'] == found['nipap_database_up'] == 1
    assert found['nipap_database_sessions_limit'] == 16


def test_calls_over_rest_are_counted(watched: Daemon) -> None:
    """Calls are counted by method and path; numbers in a path are left out of the name."""
    base = watched.url(*watched.admin())
    login = base64.b64encode(':'.join(watched.admin()).encode()).decode()
    headers = {'Authorization': f'Basic {login}', 'NIPAP-Authoritative-Source': 'test'}
    netloc = urlsplit(base).netloc.rpartition('@')[2]
    for method, path in (
        ('GET', '/api/v1/vrfs'),
        ('HEAD', '/api/v1/vrfs'),
        ('GET', '/api/v1/vrfs/0'),
        ('GET', '/api/v1/vrfs/77'),
        ('GET', '/api/v1/vrfs/78'),
        ('GET', '/rest/v1/prefixes?id=1'),
        ('HEAD', '/rest/v1/prefixes?id=1'),
        ('GET', '/rest/v1/prefixes'),
        ('DELETE', '/rest/v1/prefixes?id=1'),
    ):
        connection = http.client.HTTPConnection(netloc, timeout=20)
        with contextlib.closing(connection):
            connection.request(method, path, headers=headers)
            connection.getresponse().read()
    found = {name: value for name, value in samples(watched).items() if name.startswith('nipap_calls_total')}
    assert found == {
        'nipap_calls_total code=0 method=GET /vrfs': 2,
        'nipap_calls_total code=0 method=GET /vrfs/<number:key>': 1,
        'nipap_calls_total code=1300 method=GET /vrfs/<number:key>': 2,
        'nipap_calls_total code=0 method=GET /rest/v1/prefixes': 2,
        'nipap_calls_total code=1110 method=GET /rest/v1/prefixes': 1,
        'nipap_calls_total code=1300 method=DELETE /rest/v1/prefixes': 1,
    }


def test_pools_and_vrfs_are_told_by_family(watched: Daemon) -> None:
    with proxy(watched) as nipap:
        auth = {'auth': {'authoritative_source': 'test'}}
        attr = {'name': 'customers', 'description': '', 'default_type': 'assignment', 'ipv4_default_prefix_length': 26}
        nipap.add_pool({**auth, 'attr': attr})
        member = {'prefix': '10.0.0.0/24', 'type': 'reservation', 'description': 'x', 'pool_name': 'customers'}
        nipap.add_prefix({**auth, 'attr': member})
        args = {'from-pool': {'name': 'customers'}, 'family': 4}
        nipap.add_prefix({**auth, 'attr': {'description': 'a customer', 'type': 'assignment'}, 'args': args})
    await_page(watched, 'metrics', lambda _, text: 'pool="customers"' in text)
    found = samples(watched)
    assert found['nipap_pool_free_prefixes family=4 pool=customers'] == 3
    assert found['nipap_pool_used_prefixes family=4 pool=customers'] == 1
    assert found['nipap_pool_addresses family=4 pool=customers'] == 256
    assert found['nipap_pool_used_addresses family=4 pool=customers'] == 64
    assert 'nipap_pool_free_prefixes family=6 pool=customers' not in found
    assert found['nipap_vrf_prefixes family=4 vrf=default'] == 2
    assert found['nipap_vrf_used_addresses family=4 vrf=default'] == 64


def test_waiting_and_retried_calls_are_counted(
    daemon: DaemonFactory, database_options: dict[str, str], dsn: str
) -> None:
    """Five calls run where two may work; a lock blocks them, and then their sessions are ended.

    Two calls wait for PostgreSQL, and do not count as working meanwhile; two wait for a session.
    """
    limits = {'forks': '1', 'most_running': '2', 'db_connections': '2'}
    running = daemon('--admin-port', '0', config={'nipapd': {**database_options, **limits}})
    names = ('running_requests', 'waiting_requests', 'database_sessions')

    def at_once() -> tuple[float, ...]:
        found = samples(running)
        return tuple(found[f'nipap_{name}'] for name in names)

    def count(_: int) -> int:
        with proxy(running) as nipap:
            answer = nipap.search_asn({'auth': {'authoritative_source': 'test'}, 'query': {}})
            assert isinstance(answer, dict)
            return len(answer['result'])

    call_often(running, 4)  # from now on the user is known
    poll(lambda: at_once() == (0, 0, 0), 30, running.log)
    connection = psycopg2.connect(dsn)
    try:
        with ThreadPoolExecutor(5) as threads, connection.cursor() as cursor:
            cursor.execute('LOCK TABLE asn')
            answers = threads.map(count, range(5))
            poll(lambda: at_once() == (4, 1, 2), 30, lambda: f'{names}: {at_once()}')
            before = samples(running)
            assert before['nipap_database_sessions_limit'] == 2
            waiting = "pg_locks WHERE relation = 'asn'::regclass AND NOT granted"
            cursor.execute(f'SELECT pg_terminate_backend(pid) FROM {waiting}')
            assert cursor.fetchall() == [(True,)] * 2

            def grown(name: str) -> bool:
                return samples(running)[name] >= before[name] + 2

            poll(lambda: grown('nipap_database_retries_total'), 30, running.log)
            poll(lambda: grown('nipap_database_connects_total'), 30, running.log)
            connection.rollback()
            assert list(answers) == [0] * 5
    finally:
        connection.close()
    poll(lambda: at_once() == (0, 0, 0), 30, lambda: f'{names}: {at_once()}')


@pytest.fixture
def secured(
    daemon: DaemonFactory, database_options: dict[str, str], certificate: tuple[str, str], make_dir: Callable[[], Path]
) -> Daemon:
    """Return a daemon with a certificate, and an empty directory for backups."""
    tls = {'ssl_port': str(free_port()), 'ssl_cert_file': certificate[0], 'ssl_key_file': certificate[1]}
    settings = {**database_options, **tls, 'forks': '1', 'metrics_names': 'true', 'backup_dir': str(make_dir())}
    running = daemon('--admin-port', '0', config={'nipapd': settings})
    await_page(running, 'metrics', lambda _, text: 'nipap_handlers_ready 1.0' in text)
    return running


def setting(daemon: Daemon, name: str) -> str:
    parser = configparser.RawConfigParser()
    parser.read(daemon.args[daemon.args.index('-c') + 1])
    return parser['nipapd'][name]


def make_certificate(directory: Path, days: int, *, first: str = '') -> str:
    """Return the path of a certificate with its key in one file, followed by another certificate."""
    command = ['openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', str(days), '-subj', '/CN=localhost']
    made = [directory / name for name in ('made.pem', 'made.key', 'all.pem')]
    subprocess.run([*command, '-out', made[0], '-keyout', made[1]], check=True, capture_output=True)
    made[2].write_text(made[1].read_text() + made[0].read_text() + first)
    made[2].chmod(0o600)
    return str(made[2])


def test_the_end_of_the_certificate_in_use_and_the_newest_backup(secured: Daemon, make_dir: Callable[[], Path]) -> None:
    end, backup = 'nipap_certificate_end_time_seconds', 'nipap_backup_time_seconds'
    now = time.time()
    assert samples(secured)[end] == pytest.approx(now + 2 * 86400, abs=3600)
    assert samples(secured)[backup] == 0
    directory = Path(setting(secured, 'backup_dir'))
    for name, age_s in (('old.dump', 5000), ('newer.dump', 1000), ('newest.dump.new', 0), ('else.txt', 0)):
        (directory / name).touch()
        os.utime(directory / name, (now - age_s, now - age_s))
    poll(lambda: samples(secured)[backup] == pytest.approx(now - 1000, abs=1), 30, secured.log)
    # Another certificate on the disk is in use after a HUP only; of a chain the earliest end counts.
    short = Path(setting(secured, 'ssl_cert_file')).read_text()
    change(secured, ssl_cert_file=make_certificate(make_dir(), 90, first=short), ssl_key_file='', backup_dir='')
    assert samples(secured)[end] == pytest.approx(now + 2 * 86400, abs=3600)
    hang_up(secured)
    poll(lambda: backup not in samples(secured), 30, secured.log)
    assert samples(secured)[end] == pytest.approx(now + 2 * 86400, abs=3600)
    change(secured, ssl_cert_file=make_certificate(make_dir(), 90), backup_dir='/nowhere/at/all')
    hang_up(secured)
    poll(lambda: samples(secured).get(backup) == 0, 30, secured.log)
    assert samples(secured)[end] == pytest.approx(now + 90 * 86400, abs=3600)
    assert '/nowhere/at/all: cannot list backups: No such file or directory' in secured.log()


def test_a_directory_of_backups_that_cannot_be_read_is_one_warning(
    make_dir: Callable[[], Path], caplog: pytest.LogCaptureFixture
) -> None:
    directory = make_dir() / 'backups'
    backups = Backups(str(directory))
    assert [backups.newest() for _ in range(3)] == [0.0] * 3
    assert len(caplog.records) == 1
    directory.mkdir()
    (directory / 'dangling.dump').symlink_to('nowhere')
    (directory / 'directory.dump').mkdir()
    assert backups.newest() == 0.0
    (directory / 'a.dump').touch()
    os.utime(directory / 'a.dump', (5000, 5000))
    assert backups.newest() == 5000.0
    shutil.rmtree(directory)
    assert [backups.newest() for _ in range(3)] == [0.0] * 3
    assert len(caplog.records) == 2


def test_rules_and_dashboard_use_metrics_of_the_daemon(secured: Daemon) -> None:
    watched = secured
    with proxy(watched) as nipap:
        auth = {'auth': {'authoritative_source': 'test'}}
        attr = {'name': 'customers', 'description': '', 'default_type': 'assignment', 'ipv4_default_prefix_length': 26}
        nipap.add_pool({**auth, 'attr': attr})
        member = {'prefix': '10.0.0.0/24', 'type': 'reservation', 'description': 'x', 'pool_name': 'customers'}
        nipap.add_prefix({**auth, 'attr': member})
    hook = {'url': 'http://127.0.0.1:9/', 'secret': 'a secret of a webhook'}
    Client(watched).ask('POST', '/webhooks', hook)
    await_page(watched, 'metrics', lambda _, text: 'receiver="webhook-1"' in text and 'pool="customers"' in text)
    status, text = page(watched, 'metrics')
    assert status == 200
    told = {'up': {'job', 'instance'}}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            told.setdefault(sample.name, {'job', 'instance'}).update(sample.labels)
    asked = [selector for expression in expressions() for selector in selectors(expression)]
    assert len(asked) > 40
    for name, labels in asked:
        assert labels <= told[name], name


def test_it_is_not_ready_while_the_database_is_away(daemon: DaemonFactory, own_server: EmbeddedPostgres) -> None:
    config = {'nipapd': {**options_of(own_server.dsn()), 'forks': '1'}}
    running = daemon('--auto-install-db', '--admin-port', '0', config=config)
    await_page(running, 'ready', lambda status, _: status == 200)

    own_server.stop()
    await_page(running, 'ready', lambda status, text: (status, text) == (503, 'the database does not answer\n'))
    found = samples(running)
    assert found['nipap_database_up'] == found['nipap_ready'] == 0
    assert not [name for name in found if name.startswith(('nipap_pool_', 'nipap_vrf_'))]
    assert page(running, 'live')[0] == 200
    own_server.start()
    await_page(running, 'ready', lambda status, _: status == 200)

    assert own_server.proc is not None
    processes = [own_server.proc.pid, *(process.pid for process in descendants_of(own_server.proc.pid))]
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    try:
        await_page(running, 'ready', lambda status, text: (status, text) == (503, 'the database does not answer\n'))
        assert page(running, 'live')[0] == 200
    finally:
        for pid in processes:
            os.kill(pid, signal.SIGCONT)
    await_page(running, 'ready', lambda status, _: status == 200)


def test_it_is_not_ready_while_its_handler_is_stuck_at_the_start(
    daemon: DaemonFactory, database_options: dict[str, str]
) -> None:
    config = {'nipapd': {**database_options, 'forks': '1', 'hang_timeout': '2', 'events': 'false'}}
    running = daemon('--admin-port', '0', config=config)
    await_page(running, 'ready', lambda status, _: status == 200)
    pid = stop_one_that_starts(running)
    assert page(running, 'ready') == (503, 'no handler is ready\n')
    assert 'nipap_handlers_ready 0.0' in page(running, 'metrics')[1]
    await_page(running, 'ready', lambda status, _: status == 200)
    assert f'(pid {pid}) has not become ready in ' in running.log()
    assert 'nipap_handler_restarts_total{reason="hang"} 1.0' in page(running, 'metrics')[1]
    assert page(running, 'live')[0] == 200


def test_it_is_not_ready_with_another_schema(watched: Daemon, dsn: str) -> None:
    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            note = 'INSERT INTO schema_migration (version, name, oldest_program) VALUES'
            cursor.execute(f"{note} (9998, 'of the future', 9998)")
            await_page(watched, 'ready', lambda status, text: status == 503 and 'of version 9998 or later' in text)
            cursor.execute(f"{note} (9999, 'of the future', 1)")
            await_page(watched, 'ready', lambda status, _: status == 200)
            cursor.execute(f'ALTER SCHEMA public_v{schema.latest()} RENAME TO elsewhere')
            await_page(watched, 'ready', lambda status, text: status == 503 and 'no functions for this' in text)
            cursor.execute('DELETE FROM schema_migration WHERE version > 9000')
            await_page(watched, 'ready', lambda status, text: status == 503 and 'functions in the data' in text)
            cursor.execute(f'ALTER SCHEMA elsewhere RENAME TO public_v{schema.latest()}')
            await_page(watched, 'ready', lambda status, _: status == 200)
    finally:
        connection.close()


def test_it_is_not_ready_while_it_stops(watched: Daemon) -> None:
    """A connection with an incomplete request keeps a handler from finishing."""
    host, _, port = watched.address.removeprefix('http://').partition(':')
    with socket.create_connection((host, int(port))) as client:
        client.sendall(b'POST /XMLRPC HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345')
        call_often(watched, 4)
        watched.send(signal.SIGTERM)
        await_page(watched, 'ready', lambda status, text: (status, text) == (503, 'the daemon stops\n'))
        assert page(watched, 'live')[0] == 200
        assert samples(watched)['nipap_draining'] == 1
    assert watched.wait() == 0


def test_it_is_not_ready_when_no_handler_answers(watched: Daemon) -> None:
    running = handlers(watched)
    for process in running:
        os.kill(process.pid, signal.SIGSTOP)
    try:
        await_page(watched, 'ready', lambda status, text: (status, text) == (503, 'no handler is ready\n'))
    finally:
        for process in running:
            os.kill(process.pid, signal.SIGCONT)
    await_page(watched, 'ready', lambda status, _: status == 200)


def test_a_hup_keeps_it_ready_and_its_counters(watched: Daemon) -> None:
    call_often(watched, 20)
    told = len(ADMIN.findall(watched.log()))
    watched.send(signal.SIGHUP)

    def settled() -> bool:
        assert is_ready(watched)
        return len(ADMIN.findall(watched.log())) > told

    poll(settled, 30, watched.log)
    assert is_ready(watched)
    assert samples(watched)['nipap_calls_total code=0 method=version'] == 20
    assert len(set(ADMIN.findall(watched.log()))) == 1


def test_the_process_that_answers_is_replaced(watched: Daemon) -> None:
    (answering,) = [process.pid for process in watched.children() if process.command == 'nipapd-admin']
    os.kill(answering, signal.SIGKILL)
    poll(lambda: 'health and metrics has ended' in watched.log(), 10, watched.log)
    assert is_ready(watched)  # requests wait meanwhile


def test_it_ends_with_a_daemon_that_is_killed(watched: Daemon) -> None:
    watched.kill()
    watched.await_no_children()


def test_an_admin_port_that_is_taken_ends_the_start_if_it_was_asked_for(daemon: DaemonFactory) -> None:
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        refused = daemon('--admin-port', str(port), start=False).spawn()
        assert refused.wait() == 1
        assert f'cannot listen on 127.0.0.1 port {port}: ' in refused.log()


def test_the_usual_admin_port_may_be_taken(make_dir: Callable[[], Path], database_options: dict[str, str]) -> None:
    file = make_dir() / 'nipap.conf'
    lines = ''.join(f'{key} = {value}\n' for key, value in database_options.items())
    file.write_text(f'[nipapd]\nforks = 1\n{lines}')
    try:
        taken = socket.create_server(('127.0.0.1', 1338))
    except OSError:
        taken = socket.socket()  # the port is taken by another process
    running = Daemon(['-c', str(file), '--data-dir', str(make_dir()), '-p', str(free_port())])
    try:
        running.start()
        assert 'health and metrics are not served: cannot listen on 127.0.0.1 port 1338: ' in running.log()
        assert not ADMIN.findall(running.log())
    finally:
        running.close()
        taken.close()


def test_other_pages_and_methods_are_refused(watched: Daemon) -> None:
    assert page(watched, '')[0] == page(watched, 'metrics/x')[0] == page(watched, 'XMLRPC')[0] == 404
    request = urllib.request.Request(f'{ADMIN.findall(watched.log())[-1]}/live', data=b'x')
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(request, timeout=10)
    with refusal.value:
        assert refusal.value.code == 405


def raw(daemon: Daemon, path: str, *headers: str) -> tuple[int, str]:
    """Return the status and the body of a request with exactly these headers."""
    parts = urlsplit(ADMIN.findall(daemon.log())[-1])
    with socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=20) as client:
        client.sendall('\r\n'.join([f'GET {path} HTTP/1.1', *headers, 'Connection: close', '', '']).encode())
        answer = http.client.HTTPResponse(client)
        answer.begin()
        return answer.status, answer.read().decode()


def test_only_names_of_this_host_are_answered(daemon: DaemonFactory, database_options: dict[str, str]) -> None:
    """A foreign page whose host name resolves to 127.0.0.1 cannot read anything."""
    settings = {**database_options, 'forks': '1', 'admin_hosts': 'ipam.example.net, Monitor'}
    running = daemon('--admin-port', '0', config={'nipapd': settings})
    for host in (
        '127.0.0.1',
        '127.0.0.1:1338',
        '[::1]:9',
        '192.0.2.1',
        'localhost',
        'LOCALHOST.:80',
        socket.gethostname(),
    ):
        assert raw(running, '/live', f'Host: {host}') == (200, 'ok\n'), host
    for host in ('ipam.example.net', 'IPAM.example.net:1338', 'monitor'):
        assert raw(running, '/live', f'Host: {host}')[0] == 200, host
    for host in (
        'evil.example.com',
        'evil.example.com:1338',
        '127.0.0.1.evil.example.com',
        'localhost.evil',
        'x',
        '::1',
    ):
        for path in ('/live', '/ready', '/metrics', '/nowhere'):
            status, text = raw(running, path, f'Host: {host}')
            assert (status, 'admin_hosts' in text, 'nipap_' in text) == (421, True, False), host


def test_metrics_have_no_names_unless_they_take_a_token(
    daemon: DaemonFactory, database_options: dict[str, str]
) -> None:
    settings = {**database_options, 'forks': '1'}
    running = daemon('--admin-port', '0', config={'nipapd': settings})
    with proxy(running) as nipap:
        auth = {'auth': {'authoritative_source': 'test'}}
        vrf = nipap.add_vrf({**auth, 'attr': {'rt': '65000:1', 'name': 'secret customer'}})
        attr = {
            'name': 'secret pool',
            'description': '',
            'default_type': 'assignment',
            'ipv4_default_prefix_length': 26,
        }
        pool = nipap.add_pool({**auth, 'attr': attr})
        member = {'prefix': '10.0.0.0/24', 'type': 'reservation', 'description': 'x', 'pool_name': 'secret pool'}
        nipap.add_prefix({**auth, 'attr': member})
    numbers = f'pool="{pool["id"]}"', f'vrf="{vrf["id"]}"'
    await_page(running, 'metrics', lambda _, text: all(number in text for number in numbers))
    assert 'secret' not in page(running, 'metrics')[1]
    change(running, metrics_token='a-token-of-this-test')
    hang_up(running)
    await_page(running, 'metrics', lambda status, _: status == 401)
    host = 'Host: 127.0.0.1'
    for wrong in ('', 'Bearer', 'Bearer a-token', 'Basic a-token-of-this-test', 'Bearer a-token-of-this-test2'):
        status, text = raw(running, '/metrics', host, f'Authorization: {wrong}')
        assert (status, 'nipap_' in text) == (401, False), wrong
    assert raw(running, '/ready', host)[0] == 200
    status, text = raw(running, '/metrics', host, 'Authorization: bearer a-token-of-this-test')
    assert (status, 'pool="secret pool"' in text, 'vrf="secret customer"' in text) == (200, True, True)


def test_without_handlers_there_is_no_admin_port(daemon: DaemonFactory, database_options: dict[str, str]) -> None:
    running = daemon('--admin-port', '0', config={'nipapd': {**database_options, 'forks': '-1'}})
    assert not ADMIN.findall(running.log())


def test_it_is_not_ready_while_no_handler_answers(daemon: DaemonFactory, database_options: dict[str, str]) -> None:
    """This is noticed seconds before the missing sign of life."""
    settings = {**database_options, 'forks': '1', 'hang_timeout': '0'}
    running = daemon('--admin-port', '0', config={'nipapd': settings})
    await_page(running, 'ready', lambda status, _: status == 200)
    (handler,) = handlers(running)
    os.kill(handler.pid, signal.SIGSTOP)
    said: list[str] = []
    try:
        poll(lambda: said.append(page(running, 'ready')[1]) or said[-1] != 'ok\n', 30, running.log)
    finally:
        os.kill(handler.pid, signal.SIGCONT)
    assert said[-1] == 'no handler answers within 2 s\n'
    await_page(running, 'ready', lambda status, _: status == 200)
