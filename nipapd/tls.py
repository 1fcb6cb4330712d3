"""TLS settings: encryption of the listening sockets, certificates of clients, and the HSTS header."""

from __future__ import annotations

import ssl
from pathlib import Path

from cryptography import x509

VERIFY_CLIENT = {'off': ssl.CERT_NONE, 'optional': ssl.CERT_OPTIONAL, 'required': ssl.CERT_REQUIRED}
# For TLS 1.2: ciphers with forward secrecy, as all of TLS 1.3. The certificate's key does not reveal session keys.
CIPHERS = 'ECDHE+AESGCM:ECDHE+CHACHA20'
OPTIONS = (
    ssl.OP_CIPHER_SERVER_PREFERENCE
    | ssl.OP_NO_COMPRESSION
    | ssl.OP_NO_RENEGOTIATION
    | ssl.OP_NO_TICKET  # the key of tickets would decrypt every connection that used a ticket
    | ssl.OP_SINGLE_ECDH_USE
)
HSTS = ('Strict-Transport-Security', 'max-age=31536000')


def server_context(
    cert_file: str, key_file: str | None, client_ca_file: str | None = None, verify_client: str = 'off'
) -> ssl.SSLContext:
    """Return a context for TLS 1.2 and later with this certificate and key.

    Clients may be asked for a certificate, signed by an authority in `client_ca_file`. Raises OSError (ssl.SSLError is
    a subclass) or ValueError when a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= OPTIONS
    context.num_tickets = 0
    context.set_ciphers(CIPHERS)
    context.load_cert_chain(cert_file, key_file, password=_no_password)
    context.verify_mode = VERIFY_CLIENT[verify_client]
    if verify_client != 'off' and client_ca_file:
        context.load_verify_locations(client_ca_file)
    return context


def certificate_end(cert_file: str) -> float | None:
    """Return the earliest expiry in a chain of certificates, in seconds since 1970; None when none can be read."""
    try:
        chain = x509.load_pem_x509_certificates(Path(cert_file).read_bytes())
    except (OSError, ValueError):
        return None
    return min((each.not_valid_after_utc.timestamp() for each in chain), default=None)


def _no_password() -> str:
    # Otherwise OpenSSL asks at the terminal.
    raise ValueError('the key has a password')
