"""The proxies of docs/production.md, as configured there, in front of a daemon: Debian's nginx and Apache."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import xmlrpc.client
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from daemon_process import REPOSITORY, Daemon, free_port, poll
from support import DaemonFactory

pytestmark = pytest.mark.slow

SBIN = os.pathsep.join([os.environ.get('PATH', ''), '/usr/sbin'])
PROGRAMS = {'nginx': shutil.which('nginx', path=SBIN), 'apache': shutil.which('apache2', path=SBIN)}
TEXT = (REPOSITORY / 'docs' / 'production.md').read_text()
AUTH = {'authoritative_source': 'test'}

NGINX = """
daemon off;
pid {directory}/pid;
error_log stderr;
{account}
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    {site}
}}
"""
APACHE = """
ServerRoot {directory}
PidFile {directory}/pid
DefaultRuntimeDir {directory}
ErrorLog /dev/stderr
Listen 127.0.0.1:{port}
{account}
{modules}
{site}
"""
MODULES = ('mpm_event', 'authz_core', 'ssl', 'proxy', 'proxy_http')


def example(kind: str, port: int, upstream: str, certificate: tuple[str, str]) -> str:
    """Return the configuration in the document, with other ports and another certificate."""
    found = re.search(rf'^```{kind}\n(.*?)\n```$', TEXT, re.MULTILINE | re.DOTALL)
    assert found
    text = found[1].replace('/etc/nipap/tls/cert.pem', certificate[0]).replace('/etc/nipap/tls/key.pem', certificate[1])
    text = text.replace('    listen [::]:443 ssl;\n', '').replace('listen 443 ', f'listen 127.0.0.1:{port} ')
    text = text.replace('*:443', f'127.0.0.1:{port}')
    assert 'http://127.0.0.1:1337' in text
    return text.replace('http://127.0.0.1:1337', upstream)


def command_of(kind: str, directory: Path, port: int, site: str) -> list[str]:
    """Write the whole configuration of a proxy; return the command that runs the proxy in the foreground."""
    root = os.geteuid() == 0
    program, file = str(PROGRAMS[kind]), directory / f'{kind}.conf'
    if kind == 'nginx':
        account = 'user root;' if root else ''
        file.write_text(NGINX.format(directory=directory, account=account, site=site))
        return [program, '-e', 'stderr', '-c', str(file)]
    modules = '\n'.join(f'LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so' for name in MODULES)
    account = 'User nobody\nGroup nogroup' if root else ''
    file.write_text(APACHE.format(directory=directory, port=port, account=account, modules=modules, site=site))
    return [program, '-DFOREGROUND', '-f', str(file)]


@pytest.fixture
def behind(daemon: DaemonFactory, database_options: dict[str, str]) -> Daemon:
    """Return a daemon that trusts proxies on this host, as the document says."""
    assert '\ntrusted_proxies = 127.0.0.1, ::1\n' in TEXT
    settings = {'forks': '1', 'log_format': 'json', 'trusted_proxies': '127.0.0.1, ::1', **database_options}
    return daemon(config={'nipapd': settings})


@pytest.fixture(params=PROGRAMS)
def proxy_port(
    request: pytest.FixtureRequest, behind: Daemon, certificate: tuple[str, str], make_dir: Callable[[], Path]
) -> Iterator[int]:
    """Yield the port of a proxy with TLS in front of the daemon."""
    if PROGRAMS[request.param] is None:
        pytest.skip(f'{request.param} is not installed')
    directory, port = make_dir(), free_port()
    site = example(request.param, port, behind.address, certificate)
    with open(directory / 'log', 'wb') as log:
        command = command_of(request.param, directory, port, site)
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        poll(lambda: answers(port) or process.poll() is not None, 30, lambda: (directory / 'log').read_text())
        assert process.poll() is None, (directory / 'log').read_text()
        yield port
    finally:
        # Apache would wait for the rest of a stream.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


def answers(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(('127.0.0.1', port)) == 0


@pytest.fixture
def client(proxy_port: int, certificate: tuple[str, str]) -> Callable[[str], http.client.HTTPSConnection]:
    """Return a function that connects to the proxy from an address of this host."""
    trusting = ssl.create_default_context(cafile=certificate[0])

    def make(address: str) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(
            '127.0.0.1', proxy_port, timeout=60, context=trusting, source_address=(address, 0)
        )

    return make


def headers_of(running: Daemon, **more: str) -> dict[str, str]:
    login = base64.b64encode(':'.join(running.admin()).encode()).decode()
    return {'Authorization': f'Basic {login}', **more}


def test_calls_have_the_address_of_their_client(
    behind: Daemon, client: Callable[[str], http.client.HTTPSConnection]
) -> None:
    """Claims of the client are ignored; large calls and answers pass as well."""
    claims = {'X-Forwarded-For': '203.0.113.9, 127.0.0.1'}
    for address in ('127.0.0.7', '127.0.0.8'):
        with closing(client(address)) as connection:
            connection.request('GET', '/api/v1/vrfs', headers=headers_of(behind, **claims))
            answer = connection.getresponse()
            assert (answer.status, b'default' in answer.read()) == (200, True)
            body = xmlrpc.client.dumps(({'auth': AUTH, 'message': 'x' * 4_000_000},), 'echo').encode()
            connection.request('POST', '/XMLRPC', body, headers_of(behind, **claims, **{'Content-Type': 'text/xml'}))
            (echoed,), _ = xmlrpc.client.loads(connection.getresponse().read())
            assert echoed == 'x' * 4_000_000
    calls: list[dict[str, Any]] = [json.loads(line) for line in behind.log().splitlines() if '"peer"' in line]
    assert [call['peer'] for call in calls] == ['127.0.0.7'] * 2 + ['127.0.0.8'] * 2


def test_events_pass_as_they_come(behind: Daemon, client: Callable[[str], http.client.HTTPSConnection]) -> None:
    lines: list[bytes] = []
    with closing(client('127.0.0.7')) as connection:
        connection.request('GET', '/api/v1/events', headers=headers_of(behind))
        answer = connection.getresponse()
        assert answer.status == 200

        def read() -> None:
            while not any(b'event: add' in line for line in lines):
                lines.append(answer.readline())

        reading = threading.Thread(target=read, daemon=True)
        reading.start()
        user, password = behind.admin()
        with xmlrpc.client.ServerProxy(f'{behind.url(user, password)}/XMLRPC', allow_none=True) as nipap:
            nipap.add_vrf({'auth': AUTH, 'attr': {'rt': '65000:1', 'name': 'customers'}})
        reading.join(60)
        assert any(b'event: add' in line for line in lines), lines
        answer.close()
