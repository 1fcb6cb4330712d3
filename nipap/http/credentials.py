"""The parts of an HTTP request beside the arguments of a call: credentials, idempotency key, reason and group.

Credentials are the Authorization header and the ``auth`` struct of a call. All transports share this module, so that
they treat a caller alike.
"""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Mapping

from flask import Request

from nipap.access.authentication import Authenticator, Credentials, authoritative_source
from nipap.access.sign_ins import MALFORMED, UNAVAILABLE
from nipap.attributes import shown
from nipap.controls import LONGEST_GROUP
from nipap.errors import (
    AuthenticationFailedError,
    AuthenticationMissingError,
    AuthUnavailableError,
    NipapError,
    NipapInputError,
    NipapValueError,
    TooManyLoginsError,
)
from nipap.runtime import places

_log = logging.getLogger('nipap.login')

# A String of RFC 8941 with its parameters, which are ignored.
_quoted = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"(?:\s*;.*)?').fullmatch


def auth_options(arguments: Mapping[str, object]) -> Mapping[str, object]:
    """Return the ``auth`` member of a call.

    :raises NipapError: ``auth`` is no struct, or has no authoritative source.
    """
    options = arguments.get('auth')
    if not isinstance(options, Mapping):
        raise NipapError('Missing/invalid authentication options in request.')
    authoritative_source(options)
    return options


def credentials_from_request(request: Request, authenticator: Authenticator) -> Credentials:
    """Check the credentials in the Authorization header of a request: ``Basic`` (in UTF-8) or ``Bearer``.

    Too many wrong passwords from one address delay or refuse further logins from it.

    :raises AuthenticationMissingError: there is no such header.
    :raises AuthenticationFailedError: the credentials are not valid, or the login is refused. This is logged.
    """
    return prove(request.headers.get('Authorization', ''), request.remote_addr, authenticator, request.path)


def prove(authorization: str, address: str | None, authenticator: Authenticator, path: str) -> Credentials:
    """Check the credentials in an Authorization header from an address, as `credentials_from_request` describes.

    path: the path of the request, for the log of sign-ins.
    """
    scheme, value = _authorization(authorization)
    claimed, name = 'token', None
    try:
        if scheme == 'bearer':
            credentials = authenticator.login_token(value)
        else:
            claimed = 'malformed'
            name, password = _name_and_password(value)
            claimed = f'user={shown(name)}'
            credentials = authenticator.login(name, password, address)
    except AuthenticationFailedError as error:
        # Programs that ban addresses read this line. The client controls nothing before the quotation mark.
        what = 'refused' if isinstance(error, TooManyLoginsError) else 'failed'
        _log.warning('%s login from %s %s', what, address or '-', claimed)
        _note_failure(name, address, authenticator, path, error.outcome, error.claimed)
        raise
    except AuthUnavailableError:
        _note_failure(name, address, authenticator, path, UNAVAILABLE)
        raise
    places.prove(credentials.authenticated_as)
    if authenticator.sign_ins is not None:
        authenticator.sign_ins.succeed(credentials.authenticated_as, credentials.backend, address, interface_of(path))
    return credentials


def _note_failure(
    name: str | None,
    address: str | None,
    authenticator: Authenticator,
    path: str,
    outcome: str,
    user: str | None = None,
) -> None:
    """Note a bad sign-in. name: the name tried; user: the user of an expired token."""
    if authenticator.sign_ins is not None:
        backend = None
        if name is not None:
            user, backend = authenticator.claimed(name)
        authenticator.sign_ins.fail(user, backend, address, interface_of(path), outcome)


def interface_of(path: str) -> str:
    """Return the interface to which a path belongs, one of `nipap.access.sign_ins.INTERFACES`."""
    first = path.lstrip('/').partition('/')[0]
    if first == 'api':
        return 'rest'
    if first == 'rest':
        return 'rest_v1'
    return 'traces' if first == 'v1' else 'xmlrpc'


def known_user(authorization: str, authenticator: Authenticator) -> str | None:
    """Return the user of an Authorization header if it can be checked without hashing a password, else None."""
    try:
        scheme, value = _authorization(authorization)
        if scheme == 'bearer':
            return authenticator.login_token(value).authenticated_as
        known = authenticator.known_login(*_name_and_password(value))
    except NipapError:
        return None
    return known.authenticated_as if known else None


def _authorization(header: str) -> tuple[str, str]:
    scheme, _, value = header.strip().partition(' ')
    if scheme.lower() not in ('basic', 'bearer'):
        raise AuthenticationMissingError('Missing authentication method')
    return scheme.lower(), value.strip()


def _name_and_password(value: str) -> tuple[str, str]:
    try:
        name, colon, password = base64.b64decode(value, validate=True).decode().partition(':')
    except ValueError:
        colon = ''
    if not colon:
        text = 'Malformed Authorization header: Basic takes base64 of user:password in UTF-8.'
        raise AuthenticationFailedError(text).logged_as(MALFORMED)
    return name, password


def header_text(request: Request, name: str) -> str | None:
    """Return the text of a header, in UTF-8 or else in ISO 8859-1; None without the header."""
    value: str | None = request.environ.get(f'HTTP_{name.upper().replace("-", "_")}')
    if value is None or value.isascii():
        return value
    try:
        return value.encode('latin-1').decode()
    except UnicodeError:
        return value


def header_options(request: Request, source: str) -> Mapping[str, object]:
    """Return an ``auth`` struct from the headers of a request. source: the authoritative source."""
    return {
        'authoritative_source': source,
        'username': header_text(request, 'NIPAP-Username'),
        'full_name': header_text(request, 'NIPAP-Full-Name'),
        'readonly': header_text(request, 'NIPAP-Read-Only'),
    }


LONGEST_REASON = 1000


def change_reason(request: Request, arguments: Mapping[str, object]) -> str | None:
    """Return the reason of a change: the member ``reason`` of a call, else the header ``NIPAP-Reason``.

    :raises NipapInputError: both are given and differ. NipapValueError: the reason is too long, or no printable text.
    """
    member, header = arguments.get('reason'), header_text(request, 'NIPAP-Reason')
    if member is not None and header is not None and member != header:
        raise NipapInputError('reason and the header NIPAP-Reason differ, one is enough').about('reason')
    return _short_text('reason', header if member is None else member, LONGEST_REASON)


def change_group(request: Request) -> str | None:
    """Return the import or bulk action that a change is a part of: the header ``NIPAP-Group``.

    :raises NipapValueError: the text is too long or not printable.
    """
    return _short_text('NIPAP-Group', header_text(request, 'NIPAP-Group'), LONGEST_GROUP)


def _short_text(name: str, value: object, longest: int) -> str | None:
    if value is None or value == '':
        return None
    if not isinstance(value, str) or len(value) > longest or not value.isprintable():
        raise NipapValueError(
            f'Invalid {name} ({shown(value)}), must be a text of at most {longest} printable characters'
        ).about(name)
    return value


def idempotency_key(request: Request, arguments: Mapping[str, object]) -> object:
    """Return the member ``idempotency_key`` of a call, else the header ``Idempotency-Key``; None without both.

    :raises NipapInputError: both are given and differ, or the header is malformed.
    """
    member = arguments.get('idempotency_key')
    header = request.environ.get('HTTP_IDEMPOTENCY_KEY')
    if header is None:
        return member
    key = _header_key(header.strip())
    if member is not None and member != key:
        raise NipapInputError(
            f'idempotency_key ({shown(member)}) and the header Idempotency-Key ({shown(key)}) differ, one is enough'
        )
    return key


def _header_key(text: str) -> str:
    """Return the key in a header: in quotes, as the draft of the header requires, or bare, as it is often sent."""
    if not text.startswith('"') and text.isascii():
        return text
    found = _quoted(text)
    if found is None:
        raise NipapInputError(
            f'Invalid header Idempotency-Key ({shown(text)}), must be one key in ASCII, in quotes or without'
        )
    return re.sub(r'\\(.)', r'\1', found[1])
