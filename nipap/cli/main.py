"""`nipap`: which daemon, which command, which exit code.

Where the daemon is and who calls is read key by key: the command line wins over the environment, that over
``~/.nipaprc``.
"""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from collections.abc import Mapping, Sequence
from configparser import Error, RawConfigParser
from pathlib import Path
from urllib.parse import urlsplit

from nipap.attributes import PREFIX_TYPES
from nipap.cli import importer
from nipap.cli.sheet import FileError
from nipap.client import Client, Fault, Server, TransportError

EXIT_OK, EXIT_REFUSED, EXIT_USAGE, EXIT_LOST = 0, 1, 2, 3
SOURCE = 'nipap'
DEFAULTS = {'hostname': '127.0.0.1', 'port': '1337'}
KEYS = {'hostname': 'NIPAP_HOST', 'port': 'NIPAP_PORT', 'username': 'NIPAP_USERNAME', 'password': 'NIPAP_PASSWORD'}

_EPILOG = """
exit codes:
  0  all prefixes are there        1  some were refused, each with its line and the reason
  2  wrong usage, configuration, file or credentials
  3  cut off: the connection was lost or the import interrupted; the same command goes on where it stopped
"""


class ConfigError(Exception):
    """What is configured cannot be used."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(argv)
    try:
        server = server_of(options, os.environ, Path('~/.nipaprc').expanduser())
        with Client(server, SOURCE) as client:
            complete = importer.run(client, _job(options))
        return EXIT_OK if complete else EXIT_REFUSED
    except (ConfigError, FileError) as exc:
        return _failed(EXIT_USAGE, str(exc))
    except Fault as exc:
        return _failed(EXIT_LOST if exc.code == 1000 else EXIT_USAGE, str(exc))
    except TransportError as exc:
        return _failed(EXIT_LOST, str(exc))
    except KeyboardInterrupt:
        return _failed(EXIT_LOST, 'interrupted')


def _failed(code: int, reason: str) -> int:
    print(f'nipap: {reason}', file=sys.stderr)
    return code


def server_of(options: argparse.Namespace, environ: Mapping[str, str], file: Path) -> Server:
    """The daemon that is meant.

    :raises ConfigError: naming what is missing or wrong.
    """
    written = read_file(file)
    settings = DEFAULTS | written | {key: environ[name] for key, name in KEYS.items() if environ.get(name)}
    if options.user is not None:
        if settings.get('username') != options.user and not environ.get('NIPAP_PASSWORD'):
            settings.pop('password', None)  # somebody else's
        settings['username'] = options.user
    settings |= {key: value for key, value in (('hostname', options.host), ('port', options.port)) if value}
    if not settings.get('username'):
        raise ConfigError(f'no username: it is --user, NIPAP_USERNAME, or username in {file}')
    host, tls = _host(settings['hostname'])
    password = settings.get('password') or _ask(settings['username'], file)
    return Server(host, _port(settings['port']), settings['username'], password, tls)


def read_file(path: Path) -> dict[str, str]:
    """The keys of the section [global] that are ours; none when there is no file."""
    parser = RawConfigParser()
    try:
        with open(path, encoding='utf-8') as file:
            parser.read_file(file)
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f'{path}: {exc}') from None
    except Error as exc:
        raise ConfigError(str(exc).replace('\n', ' ')) from None
    section = parser['global'] if parser.has_section('global') else {}
    return {key: section[key] for key in KEYS if section.get(key)}


def _host(text: str) -> tuple[str, bool]:
    """A name or an address, and whether TLS is spoken: ``https://`` before it says so."""
    parts = urlsplit(text if '://' in text else f'//{text}')
    if '://' not in text:
        return text.strip('[]'), False
    if parts.scheme not in ('http', 'https') or not parts.hostname:
        raise ConfigError(f'hostname {text!r}: a name or an address is accepted, with https:// before it for TLS')
    return parts.hostname, parts.scheme == 'https'


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= 65535):
        raise ConfigError(f'port {text!r}: a number from 1 to 65535 is accepted')
    return int(text)


def _ask(username: str, file: Path) -> str:
    if not sys.stdin.isatty():
        raise ConfigError(f'no password for {username}: it is NIPAP_PASSWORD, or password in {file}')
    return getpass.getpass(f'Password of {username}: ')


def _job(options: argparse.Namespace) -> importer.Job:
    vrf = {'vrf_rt': options.vrf} if options.vrf is not None else {}
    if options.vrf_name is not None:
        vrf = {'vrf_name': options.vrf_name}
    file = Path(options.file)
    return importer.Job(
        file=file,
        vrf=vrf,
        type=options.type,
        chunk=options.chunk,
        dry_run=options.dry_run,
        skip_bad=options.skip_bad,
        state=Path(options.state) if options.state else file.with_name(f'{file.name}.progress'),
    )


def _chunk(text: str) -> int:
    number = int(text) if text.isascii() and text.isdecimal() else 0
    if not 1 <= number <= 10_000:
        raise argparse.ArgumentTypeError(f'{text!r}: a number from 1 to 10000 is accepted')
    return number


def _parser() -> argparse.ArgumentParser:
    servers = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS, allow_abbrev=False)
    servers.add_argument('--host', metavar='HOST', help=f'where nipapd serves (default {DEFAULTS["hostname"]})')
    servers.add_argument('--port', metavar='PORT', help=f'its port (default {DEFAULTS["port"]})')
    servers.add_argument('--user', metavar='USER', help='who calls')
    parser = argparse.ArgumentParser(
        prog='nipap', description='Work with a running nipapd.', parents=[servers], allow_abbrev=False
    )
    parser.set_defaults(host=None, port=None, user=None)
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    _add_import(commands, servers)
    return parser


def _add_import(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], servers: argparse.ArgumentParser
) -> None:
    command = commands.add_parser(
        'import',
        help='add the prefixes of a CSV file',
        description='Add the prefixes of a CSV file, whose header names attributes.',
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[servers],
        allow_abbrev=False,
    )
    add = command.add_argument
    add('file', metavar='FILE', help='the file, in UTF-8')
    vrf = command.add_mutually_exclusive_group()
    vrf.add_argument('--vrf', metavar='RT', help='route target of the VRF of rows that name none')
    vrf.add_argument('--vrf-name', metavar='NAME', help='the same by name')
    add('--type', choices=PREFIX_TYPES, metavar='TYPE', help=f'type of rows without one: {", ".join(PREFIX_TYPES)}')
    add('--dry-run', action='store_true', help='check the file and the daemon, change nothing')
    add('--skip-bad', action='store_true', help='import the good lines of a file that has bad ones')
    add('--chunk', type=_chunk, default=2000, metavar='N', help='rows in one transaction (default 2000)')
    add('--state', metavar='FILE', help='where to note how far the import has come (default FILE.progress)')


if __name__ == '__main__':
    sys.exit(main())
