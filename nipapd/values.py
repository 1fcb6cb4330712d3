"""Parsers for the values of a configuration: one for each kind. Their ValueErrors describe the accepted values."""

from __future__ import annotations

import configparser
import grp
import ipaddress
import os
import pwd
import re
from collections.abc import Callable, MutableMapping
from urllib.parse import urlsplit

from nipapd import tls

LOG_FORMATS = ('text', 'json')
LOG_LEVELS = ('debug', 'info', 'warning', 'error')
SSLMODES = ('disable', 'allow', 'prefer', 'require', 'verify-ca', 'verify-full')
PASSWORD_HASHES = ('scrypt', 'legacy')
DATABASE_VARIABLES = (
    *('PGHOST', 'PGHOSTADDR', 'PGPORT', 'PGDATABASE', 'PGUSER', 'PGSSLMODE', 'PGREQUIRESSL', 'PGSERVICE'),
    *('PGSERVICEFILE', 'PGTARGETSESSIONATTRS', 'PGLOADBALANCEHOSTS', 'PGOPTIONS', 'PGCLIENTENCODING', 'PGDATESTYLE'),
    *('PGTZ', 'PGGEQO', 'PGCONNECT_TIMEOUT'),
)
OFF = -1  # in place of a port
SECURITY_PROTOCOLS = ('plaintext', 'ssl', 'sasl_plaintext', 'sasl_ssl')


def boolean(text: str) -> bool:
    value = configparser.RawConfigParser.BOOLEAN_STATES.get(text.lower())
    if value is None:
        raise ValueError('not a boolean (true or false)')
    return value


def integer(text: str, least: int, most: int, what: str) -> int:
    if not re.fullmatch('-?[0-9]{1,18}', text) or not least <= int(text) <= most:
        raise ValueError(f'not {what} ({least} to {most})')
    return int(text)


def port(text: str) -> int:
    return integer(text, 0, 65535, 'a port')


def admin_port(text: str) -> int:
    return OFF if text.lower() == 'off' else port(text)


def ports(text: str) -> str:
    """Parse the ports of libpq: one port, or one for each of several hosts."""
    return ','.join(str(integer(port.strip(), 1, 65535, 'a port')) for port in text.split(','))


def forks(text: str) -> int:
    return integer(text, -1, 1000, 'a number of handlers; 0: one per core, -1: none')


def timeout(text: str) -> int:
    return integer(text, 0, 10**9, 'a number of seconds')


def failures(text: str) -> int:
    return integer(text, 0, 10**6, 'a number of failed logins; 0: no limit')


def hours(text: str) -> int:
    return integer(text, 1, 8760, 'a number of hours')


def days(text: str) -> int:
    return integer(text, 0, 36500, 'a number of days; 0: no limit')


def months(text: str) -> int:
    return integer(text, 0, 1200, 'a number of months; 0: no limit')


def size(text: str) -> int:
    found = re.fullmatch('([0-9]{1,12})([kKmM]?)', text)
    size = int(found[1]) * {'': 1, 'k': 2**10, 'm': 2**20}[found[2].lower()] if found else 0
    if not size:
        raise ValueError('not a size in bytes, k or M (such as 10M)')
    return size


def seconds(text: str) -> float:
    if not re.fullmatch(r'[0-9]{1,9}(\.[0-9]{1,9})?', text):
        raise ValueError('not a number of seconds')
    return float(text)


def some_seconds(text: str) -> float:
    if not seconds(text):
        raise ValueError('not a number of seconds above 0')
    return seconds(text)


_HOST_NAME = re.compile('[A-Za-z0-9]([A-Za-z0-9._-]{0,252}[A-Za-z0-9])?')


def addresses(text: str) -> tuple[str, ...]:
    """Parse IP addresses, with or without brackets, and host names; each is returned once."""
    addresses = [address for address in re.split(r'[,\s]+', text) if address]
    if not addresses:
        raise ValueError('no address')
    return tuple(dict.fromkeys(map(address, addresses)))


def address(text: str) -> str:
    bare = text[1:-1] if text.startswith('[') and text.endswith(']') else text
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        if not _HOST_NAME.fullmatch(bare) or re.fullmatch('[0-9.]+', bare):
            raise ValueError(f'{text!r} is no address (every interface: 0.0.0.0 by IPv4, :: by IPv6)') from None
    return bare


def networks(text: str) -> tuple[str, ...]:
    """Parse IP networks and addresses; each is returned once."""
    found = [part for part in re.split(r'[,\s]+', text) if part]
    try:
        return tuple(dict.fromkeys(str(ipaddress.ip_network(part)) for part in found))
    except ValueError as exc:
        raise ValueError(f'not a list of addresses and networks ({exc})') from None


def is_address(text: str) -> bool:
    """Return whether a text is an IP address."""
    try:
        ipaddress.ip_address(text.partition('%')[0])
    except ValueError:
        return False
    return True


def token(text: str) -> str:
    if not re.fullmatch('[A-Za-z0-9._~+/-]{16,}=*', text):
        raise ValueError('not a token (16 or more letters, digits and ._~+/-)')
    return text


def sslmode(text: str) -> str:
    if text not in SSLMODES:
        raise ValueError(f'not one of {", ".join(SSLMODES)}')
    return text


def log_format(text: str) -> str:
    if text not in LOG_FORMATS:
        raise ValueError(f'not one of {", ".join(LOG_FORMATS)}')
    return text


def log_level(text: str) -> str:
    if text.lower() not in LOG_LEVELS:
        raise ValueError(f'not one of {", ".join(LOG_LEVELS)}')
    return text.lower()


def endpoint(text: str) -> str:
    try:
        parts = urlsplit(text)
        is_url = parts.scheme in ('http', 'https') and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url or re.search(r'\s', text):
        raise ValueError('not a URL such as http://collector.example.net:4318')
    return text


def http_endpoint(text: str) -> str:
    """Parse the URL of a collector, and add the path for traces unless the URL has a path."""
    parts = urlsplit(endpoint(text))
    return text if parts.path not in ('', '/') else parts._replace(path='/v1/traces').geturl()


def sampler(text: str) -> str:
    name, equals, ratio = text.partition('=')
    kind = name.removeprefix('parentbased_')
    if kind == 'traceidratio' and (not equals or re.fullmatch(r'0(\.[0-9]{1,18})?|1(\.0{1,18})?', ratio)):
        return text
    if kind not in ('always_on', 'always_off') or equals:
        raise ValueError(
            'not a sampler (always_on, always_off or traceidratio=0.1 for a tenth, each also after parentbased_)'
        )
    return text


def count(text: str) -> int:
    return integer(text, 1, 100_000, 'a number')


def many(text: str) -> int:
    return integer(text, 1, 100_000_000, 'a number')


def percent(text: str) -> int:
    return integer(text, 1, 100, 'a percentage')


def verify_client(text: str) -> str:
    if text not in tls.VERIFY_CLIENT:
        raise ValueError(f'not one of {", ".join(tls.VERIFY_CLIENT)}')
    return text


def topic_prefix(text: str) -> str:
    if not re.fullmatch('[A-Za-z0-9._-]{1,200}', text):
        raise ValueError('not the beginning of the name of a topic (letters, digits, . _ -)')
    return text


def security_protocol(text: str) -> str:
    if text.lower() not in SECURITY_PROTOCOLS:
        raise ValueError(f'not one of {", ".join(SECURITY_PROTOCOLS)}')
    return text.lower()


def password_hash(text: str) -> str:
    if text not in PASSWORD_HASHES:
        raise ValueError(f'not one of {", ".join(PASSWORD_HASHES)}')
    return text


def account(text: str) -> str:
    return known(text, pwd.getpwnam, pwd.getpwuid, 'user')


def group(text: str) -> str:
    return known(text, grp.getgrnam, grp.getgrgid, 'group')


def known(text: str, by_name: Callable[[str], object], by_id: Callable[[int], object], what: str) -> str:
    try:
        if text.isdecimal():
            by_id(int(text))
        else:
            by_name(text)
    except (KeyError, ValueError, OverflowError):
        raise ValueError(f'there is no such {what}') from None
    return text


def forget_database_variables(environ: MutableMapping[str, str]) -> None:
    """Remove variables of libpq that would silently replace documented defaults of the configuration.

    Passwords (PGPASSWORD, PGPASSFILE) and certificate files are kept.
    """
    for name in DATABASE_VARIABLES:
        environ.pop(name, None)


def path(text: str) -> str:
    if not text:
        raise ValueError('not a file name')
    return os.path.abspath(text)
