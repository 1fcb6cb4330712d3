"""TLS from the side of clients: protocols, cipher suites, certificates of clients, and headers."""

from __future__ import annotations

import datetime
import ipaddress
import re
import socket
import ssl
import warnings
import xmlrpc.client
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from daemon_process import Daemon, free_port
from support import DaemonFactory

from nipap import __version__
from nipapd import tls

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
HSTS = 'Strict-Transport-Security: max-age=31536000'


@dataclass(frozen=True)
class Pair:
    """A certificate with its key, and the file with both."""

    certificate: x509.Certificate
    key: Key
    path: Path


def make_pair(path: Path, name: str, issuer: Pair | None = None, key: Key | None = None, days: int = 2) -> Pair:
    """Return a certificate for 127.0.0.1, by an issuer or by itself, that ends in `days` days."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=10))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address('127.0.0.1'))]), critical=False)
        .sign(issuer.key if issuer else key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(certificate.public_bytes(pem) + private)
    path.chmod(0o600)
    return Pair(certificate, key, path)


@dataclass(frozen=True)
class Certificates:
    """The certificate of the server, the authority that it trusts for clients, and clients of every kind."""

    server: Path
    authority: Path
    client: Path
    stranger: Path
    expired: Path


@pytest.fixture(scope='module')
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    home = tmp_path_factory.mktemp('tls')
    authority = make_pair(home / 'authority.pem', 'authority')
    return Certificates(
        make_pair(home / 'server.pem', 'server').path,
        authority.path,
        make_pair(home / 'client.pem', 'client', authority).path,
        make_pair(home / 'stranger.pem', 'client', make_pair(home / 'other.pem', 'authority')).path,
        make_pair(home / 'expired.pem', 'client', authority, days=-1).path,
    )


Make = Callable[..., Daemon]


@pytest.fixture(scope='module')
def make(shared_daemon: Make, certificates: Certificates) -> Make:
    """Return a function that returns the daemon with TLS and plain HTTP and with these settings of [nipapd]."""

    def made(**settings: str) -> Daemon:
        return shared_daemon(**{'forks': '1', 'ssl_port': '0', 'ssl_cert_file': str(certificates.server), **settings})

    return made


def secure_address(daemon: Daemon) -> tuple[str, int]:
    found = re.search(r'serving on https://127\.0\.0\.1:(\d+)', daemon.log())
    assert found, daemon.log()
    return '127.0.0.1', int(found[1])


def trusting(certificates: Certificates, own: Path | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certificates.server)
    if own is not None:
        context.load_cert_chain(own)
    return context


def secured(daemon: Daemon, context: ssl.SSLContext) -> ssl.SSLSocket:
    return context.wrap_socket(
        socket.create_connection(secure_address(daemon), timeout=30), server_hostname='127.0.0.1'
    )


def version(daemon: Daemon, context: ssl.SSLContext) -> str:
    """Return the answer to a call over TLS with the credentials of the first user."""
    user, password = daemon.admin()
    port = secure_address(daemon)[1]
    url = f'https://{user}:{password}@127.0.0.1:{port}/XMLRPC'
    with xmlrpc.client.ServerProxy(url, context=context) as proxy:
        return str(proxy.version({'auth': {'authoritative_source': 'test'}}))


def said(client: socket.socket, *requests: bytes) -> bytes:
    """Return all answers to these requests, until the server closes the connection."""
    answer = b''
    with client:
        for request in requests:
            client.sendall(request)
        while part := client.recv(65536):
            answer += part
    return answer


# ---- protocols and suites


def test_old_protocols_are_refused(make: Make, certificates: Certificates) -> None:
    running = make()
    context = trusting(certificates)
    context.set_ciphers('ALL:@SECLEVEL=0')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match=r'(?i)protocol.version'):
        secured(running, context)
    assert version(running, trusting(certificates)) == __version__


@pytest.mark.parametrize('ciphers', ['AES256-GCM-SHA384', 'AES128-SHA', 'ECDHE-ECDSA-AES128-SHA', 'aNULL'])
def test_suites_without_forward_secrecy_or_authentication_are_refused(
    make: Make, certificates: Certificates, ciphers: str
) -> None:
    running = make()
    context = trusting(certificates)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(f'{ciphers}:@SECLEVEL=0')
    with pytest.raises(ssl.SSLError, match=r'(?i)handshake.failure'):
        secured(running, context)


@pytest.mark.parametrize('newest', [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_connections_have_keys_of_their_own(make: Make, certificates: Certificates, newest: ssl.TLSVersion) -> None:
    running = make()
    context = trusting(certificates)
    context.maximum_version = newest
    with secured(running, context) as client:
        suite, protocol, bits = client.cipher() or ('', '', 0)
        assert suite.startswith('ECDHE' if newest == ssl.TLSVersion.TLSv1_2 else 'TLS_')
        assert protocol == newest.name.replace('_', '.')
        assert bits >= 128
        assert client.compression() is None
        assert client.session is None or not client.session.has_ticket
    assert version(running, context) == __version__


def test_an_rsa_certificate_serves_as_well(tmp_path: Path, make: Make) -> None:
    pair = make_pair(tmp_path / 'rsa.pem', 'server', key=rsa.generate_private_key(65537, 2048))
    running = make(ssl_cert_file=str(pair.path))
    context = ssl.create_default_context(cafile=pair.path)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert version(running, context) == __version__


def test_options_that_cannot_be_seen_from_outside(certificates: Certificates) -> None:
    context = tls.server_context(str(certificates.server), None)
    assert context.options & tls.OPTIONS == tls.OPTIONS
    assert context.num_tickets == 0
    assert {cipher['name'].partition('-')[0].partition('_')[0] for cipher in context.get_ciphers()} == {'ECDHE', 'TLS'}
    assert context.verify_mode == ssl.CERT_NONE


# ---- certificates of clients


def refused(daemon: Daemon, context: ssl.SSLContext) -> bool:
    """Return whether TLS ends before any answer. With TLS 1.3 a client notices the end when it reads."""
    try:
        version(daemon, context)
    except (ssl.SSLError, ConnectionResetError, BrokenPipeError):
        return True
    return False


def test_a_certificate_may_be_required(make: Make, certificates: Certificates) -> None:
    running = make(ssl_client_ca_file=str(certificates.authority), ssl_verify_client='required')
    assert version(running, trusting(certificates, certificates.client)) == __version__
    assert refused(running, trusting(certificates))
    assert refused(running, trusting(certificates, certificates.stranger))
    assert refused(running, trusting(certificates, certificates.expired))
    old = trusting(certificates)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        secured(running, old)
    assert version(running, trusting(certificates, certificates.client)) == __version__


def test_a_certificate_may_be_optional_and_must_be_valid_then(make: Make, certificates: Certificates) -> None:
    running = make(ssl_client_ca_file=str(certificates.authority), ssl_verify_client='optional')
    assert version(running, trusting(certificates)) == __version__
    assert version(running, trusting(certificates, certificates.client)) == __version__
    assert refused(running, trusting(certificates, certificates.stranger))


def test_a_certificate_is_no_password(make: Make, certificates: Certificates) -> None:
    running = make(ssl_client_ca_file=str(certificates.authority), ssl_verify_client='required')
    url = f'https://127.0.0.1:{secure_address(running)[1]}/XMLRPC'
    context = trusting(certificates, certificates.client)
    with xmlrpc.client.ServerProxy(url, context=context) as proxy, pytest.raises(xmlrpc.client.Fault) as fault:
        proxy.version({'auth': {'authoritative_source': 'test'}})
    assert fault.value.faultCode == 1500


@pytest.mark.parametrize(
    ('settings', 'problem'),
    [
        ({'ssl_verify_client': 'sometimes'}, 'not one of off, optional, required'),
        ({'ssl_verify_client': 'required'}, 'needs ssl_client_ca_file'),
        ({'ssl_verify_client': 'required', 'ssl_client_ca_file': '/nowhere'}, 'No such file or directory'),
        ({'ssl_verify_client': 'required', 'ssl_client_ca_file': __file__}, 'no certificates in PEM format'),
    ],
)
def test_settings_without_usable_authorities_are_one_line(
    daemon: DaemonFactory, certificates: Certificates, settings: dict[str, str], problem: str
) -> None:
    config = {'nipapd': {'ssl_cert_file': str(certificates.server), **settings}}
    refused = daemon('-s', str(free_port()), config=config, start=False).spawn()
    assert refused.wait() == 2
    assert refused.log().endswith(f'{problem}\n')
    assert refused.log().count('\n') == 1


def test_authorities_that_nobody_asks_for_are_pointed_out(make: Make, certificates: Certificates) -> None:
    running = make(ssl_client_ca_file=str(certificates.authority))
    assert '[nipapd] ssl_client_ca_file: is not used, because ssl_verify_client is off' in running.log()


# ---- headers

GOOD = b'GET /XMLRPC HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'
NOT_FOUND = b'GET /elsewhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'
POST = b'POST /XMLRPC HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n'
BAD = b'GET / HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n'


def test_browsers_are_told_to_stay_with_tls(make: Make, certificates: Certificates) -> None:
    running = make()
    for request in (GOOD, NOT_FOUND, POST % 0, POST % 10**9, BAD, b'GET /\r\n\r\n'):
        assert said(secured(running, trusting(certificates)), request).decode().count(f'\r\n{HSTS}\r\n') == 1
        plain = said(socket.create_connection(plain_address(running)), request)
        assert b'Strict-Transport' not in plain


def test_the_header_can_be_turned_off(make: Make, certificates: Certificates) -> None:
    running = make(ssl_hsts='false')
    answer = said(secured(running, trusting(certificates)), POST % 0)
    assert answer.startswith(b'HTTP/1.1 200')
    assert b'Strict-Transport' not in answer


def plain_address(daemon: Daemon) -> tuple[str, int]:
    parts = urlsplit(daemon.address)
    return str(parts.hostname), int(parts.port or 0)


@pytest.mark.parametrize(
    ('request_bytes', 'status'), [(POST % 0, 200), (NOT_FOUND, 404), (GOOD, 405), (BAD, 400), (POST % 10**9, 413)]
)
def test_no_answer_names_a_program_or_its_version(make: Make, request_bytes: bytes, status: int) -> None:
    running = make()
    answer = said(socket.create_connection(plain_address(running)), request_bytes)
    head = answer.partition(b'\r\n\r\n')[0].lower()
    assert head.startswith(b'http/1.1 %d' % status)
    for word in (b'server:', b'x-powered', b'tornado', b'werkzeug', b'flask', b'python', __version__.encode()):
        assert word not in head
    for word in (b'tornado', b'werkzeug', b'flask', b'python'):
        assert word not in answer.lower()
