"""The command line `nipap`: its configuration, commands and exit codes.

The address of the daemon and the login are read key by key: the command line takes precedence over the environment,
and the environment over ``~/.nipaprc``.
"""

from __future__ import annotations

import argparse
import getpass
import os
import re
import sys
from collections.abc import Mapping, Sequence
from configparser import Error, RawConfigParser
from contextlib import suppress
from pathlib import Path

from nipap.attributes import PREFIX_TYPES
from nipap.cli import importer
from nipap.cli.records import FileError, check_encoding
from nipap.client import Client, Fault, Server, TransportError

EXIT_OK, EXIT_REFUSED, EXIT_USAGE, EXIT_LOST, EXIT_DIFFERENT = 0, 1, 2, 3, 4
SOURCE = 'nipap'
DEFAULTS = {'hostname': '127.0.0.1', 'port': '1337'}
KEYS = {'hostname': 'NIPAP_HOST', 'port': 'NIPAP_PORT', 'username': 'NIPAP_USERNAME', 'password': 'NIPAP_PASSWORD'}

_EPILOG = """
exit codes:
  0  all prefixes are stored       1  some rows were refused, each reported with its line and the reason
  2  wrong usage, configuration, file or credentials
  3  the connection was lost or the import was interrupted; the same command resumes the import
  4  no row was refused, but some stored prefixes have other values, each reported with its line and the differences
"""


_EXITS = {
    importer.Outcome.COMPLETE: EXIT_OK,
    importer.Outcome.REFUSED: EXIT_REFUSED,
    importer.Outcome.DIFFERENT: EXIT_DIFFERENT,
}


class ConfigError(Exception):
    """The configuration cannot be used."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    options = _parser().parse_args(argv)
    try:
        server = server_of(options, os.environ, Path(os.path.expanduser('~/.nipaprc')))
        return _import(server, _job(options))
    except (ConfigError, FileError) as exc:
        return _failed(EXIT_USAGE, str(exc))
    except TransportError as exc:
        return _failed(EXIT_LOST, str(exc))
    except KeyboardInterrupt:
        return _failed(EXIT_LOST, 'interrupted')


def _import(server: Server, job: importer.Job) -> int:
    """Import a file into a daemon and return the exit code. A failure names the daemon.

    :raises FileError, TransportError:
    """
    try:
        with Client(server, SOURCE) as client:
            outcome = importer.run(client, job)
    except Fault as exc:
        return _failed(EXIT_LOST if exc.code == 1000 else EXIT_USAGE, f'{server}: {exc}')
    except KeyboardInterrupt:
        return _failed(EXIT_LOST, f'{server}: interrupted')
    return _EXITS[outcome]


def _failed(code: int, reason: str) -> int:
    print(f'nipap: {reason}', file=sys.stderr)
    return code


def server_of(options: argparse.Namespace, environ: Mapping[str, str], file: Path) -> Server:
    """Return the configured daemon and login. The port in a host such as ``http://h:1338`` has the host's precedence.

    :raises ConfigError: naming the missing or wrong setting.
    """
    written = _located(read_file(file), str(file))
    variables = _located({key: environ[name] for key, name in KEYS.items() if environ.get(name)}, 'the environment')
    given = {'hostname': options.host, 'port': options.port}
    ours = _located({key: value for key, value in given.items() if value is not None}, 'the command line')
    settings = DEFAULTS | written | variables
    if options.user is not None:
        if settings.get('username') != options.user and not environ.get('NIPAP_PASSWORD'):
            settings.pop('password', None)  # of another user
        settings['username'] = options.user
    settings |= ours
    if not settings.get('username'):
        raise ConfigError(f'no username: give --user, NIPAP_USERNAME, or username in {file}')
    host, tls = _host(settings['hostname'])
    port = _port(settings['port'])
    password = settings.get('password') or _ask(settings['username'], file)
    return Server(host, port, settings['username'], password, tls)


def read_file(path: Path) -> dict[str, str]:
    """Return the settings of `KEYS` in the section [global] of a file; none when there is no file.

    :raises ConfigError: the file cannot be read.
    """
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


def _located(settings: dict[str, str], where: str) -> dict[str, str]:
    """Return the settings of one source, with the port that the host name contains, if any.

    :raises ConfigError: the source names another port as well.
    """
    found = _LOCATION.fullmatch(settings.get('hostname', ''))
    port = found['port'] if found else None
    if port is None:
        return settings
    if settings.get('port', port) != port:
        raise ConfigError(f'hostname {settings["hostname"]!r}: {where} names another port too, {settings["port"]}')
    return {**settings, 'port': port}


# An IPv6 address stands in brackets when a port follows.
_LOCATION = re.compile(
    r'(?:(?P<scheme>https?)://)?(?:\[(?P<v6>[0-9a-f:.]+(?:%[\w.-]+)?)\]|(?P<host>[^\s/:@?#\[\]]+))(?::(?P<port>[0-9]+))?/?',
    re.IGNORECASE,
)
_BARE_V6 = re.compile(r'(?P<v6>[0-9a-f:.]*:[0-9a-f.]*:[0-9a-f:.]*(?:%[\w.-]+)?)', re.IGNORECASE)


def _host(text: str) -> tuple[str, bool]:
    """Return a host name or an address, and whether to use TLS: after ``https://``. A port may follow the host.

    :raises ConfigError: for any other text, since a path or credentials would be ignored.
    """
    bare = _BARE_V6.fullmatch(text)
    if bare:
        return text, False
    found = _LOCATION.fullmatch(text)
    host = (found['v6'] or found['host']) if found else ''
    if not found or not _can_be_looked_up(host):
        raise ConfigError(
            f'hostname {text!r}: a name or an address is accepted, with :PORT after it and https:// before it for TLS'
        )
    return host, (found['scheme'] or '').lower() == 'https'


def _can_be_looked_up(host: str) -> bool:
    with suppress(UnicodeError):  # a label that is empty or too long
        return bool(host.encode('idna'))
    return False


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and 1 <= int(text) <= 65535):
        raise ConfigError(f'port {text!r}: a number from 1 to 65535 is accepted')
    return int(text)


def _ask(username: str, file: Path) -> str:
    if not sys.stdin.isatty():
        raise ConfigError(f'no password for {username}: set NIPAP_PASSWORD, or password in {file}')
    return getpass.getpass(f'Password of {username}: ')


def _job(options: argparse.Namespace) -> importer.Job:
    vrf = {'vrf_rt': options.vrf} if options.vrf is not None else {}
    if options.vrf_name is not None:
        vrf = {'vrf_name': options.vrf_name}
    file = Path('/dev/stdin' if options.file == '-' else options.file)
    # A pipe or a device has no directory for a file of progress.
    note = f'{file}.progress' if file.is_file() and file.parts[:2] != ('/', 'dev') else None
    state = options.state or note
    return importer.Job(
        file=file,
        vrf=vrf,
        type=options.type,
        chunk=options.chunk,
        dry_run=options.dry_run,
        skip_bad=options.skip_bad,
        state=Path(state) if state else None,
        encoding=options.encoding,
    )


def _encoding(text: str) -> str:
    try:
        return check_encoding(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None


def _chunk(text: str) -> int:
    number = int(text) if text.isascii() and text.isdecimal() else 0
    if not 1 <= number <= 10_000:
        raise argparse.ArgumentTypeError(f'{text!r}: a number from 1 to 10000 is accepted')
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='nipap', description='Work with a running nipapd.', allow_abbrev=False)
    _add_server(parser, None)
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    _add_import(commands)
    return parser


def _add_server(parser: argparse.ArgumentParser, default: str | None) -> None:
    """Add the options of the daemon and the login. default: the value of an option that is not given."""
    add = parser.add_argument
    add(
        '--host',
        metavar='HOST',
        default=default,
        help=f'host name, address or URL of nipapd (default {DEFAULTS["hostname"]})',
    )
    add('--port', metavar='PORT', default=default, help=f'port of nipapd (default {DEFAULTS["port"]})')
    add('--user', metavar='USER', default=default, help='user name of the login')


def _add_import(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        'import',
        help='add the prefixes of a CSV file',
        description='Add the prefixes of a CSV file, whose header names attributes.',
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    # With a default here, these options would overwrite the same options before the command.
    _add_server(command, argparse.SUPPRESS)
    add = command.add_argument
    add('file', metavar='FILE', help='the file; -: the standard input')
    vrf = command.add_mutually_exclusive_group()
    vrf.add_argument('--vrf', metavar='RT', help='route target of the VRF for rows without a VRF')
    vrf.add_argument('--vrf-name', metavar='NAME', help='name of the VRF for rows without a VRF')
    add('--type', choices=PREFIX_TYPES, metavar='TYPE', help=f'type for rows without a type: {", ".join(PREFIX_TYPES)}')
    add('--dry-run', action='store_true', help='report rows that would be added, refused or different; change nothing')
    add('--skip-bad', action='store_true', help='import the good lines of a file that has bad ones')
    add(
        '--encoding',
        type=_encoding,
        metavar='NAME',
        help='encoding of the file (default: detected from its first bytes, or UTF-8)',
    )
    add('--chunk', type=_chunk, default=2000, metavar='N', help='rows in one transaction (default 2000)')
    add('--state', metavar='FILE', help='file for the progress of the import (default FILE.progress)')


if __name__ == '__main__':
    sys.exit(main())
