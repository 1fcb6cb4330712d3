"""nipap-passwd: manage the local accounts from the command line, whether or not the daemon runs.

A running daemon sees a change at once. Every kind of failure has an exit code and a message of one line.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from nipap import __version__
from nipap.access import local_users
from nipap.access.local_users import LocalUser, LocalUsers
from nipapd import config
from nipapd.accounts import FIRST_USER, first_password_of
from nipapd.commandline import Parser
from nipapd.inifile import ConfigError

EXIT_OK = 0
EXIT_NO = 1
EXIT_WRONG = 2
EXIT_USAGE = 2
EXIT_CODES: dict[type[Exception], int] = {
    ConfigError: EXIT_USAGE,
    local_users.UserInputError: EXIT_USAGE,
    local_users.NoSuchUserError: 4,
    local_users.UserFileMissingError: 5,
    local_users.UserFileUnusableError: 6,
    local_users.UserFileLayoutError: 7,
}
EXIT_INTERRUPTED = 130
LEGACY_WARNING = (
    'the password is stored as salted SHA-1 for the web client of NIPAP: a thief of the file can try billions of '
    'passwords a second, so choose a long random one'
)

_EPILOG = """
exit codes:
  0  done, or nothing to do: the user to add exists already, or the user to delete does not exist
  1  an argument is missing: a user, a password, or a value to change
  2  test-user: wrong user name or password; latest-version: the layout is older; or wrong usage, configuration, name or
     password
  4  modify: there is no such user         5  there is no such file
  6  the file cannot be read or written    7  the file has an older layout or none

A new password has 8 to 1000 characters; --password accepts a shorter one with a warning. Without --password the
password is asked for at a terminal, or read from a line of the standard input.
The file is -f, else the configured one, else local_auth.db in the data directory.
"""


_INTERRUPTED = (
    'a restore was interrupted, and this file may replace the accounts: the next start of the daemon decides; '
    'remove the file if the restore was abandoned'
)


class _MissingError(Exception):
    """An argument is missing; the message is one line."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one action and return the exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.action is None:
        parser.print_help()
        return EXIT_OK
    try:
        users = _users(args)
        if args.action not in _READING and (left := users.of_restores()):
            raise local_users.UserFileUnusableError(f'{left[-1]}: {_INTERRUPTED}')
        return _ACTIONS[args.action](users, args)
    except _MissingError as exc:
        print(f'nipap-passwd: {exc}', file=sys.stderr)
        return EXIT_NO
    except tuple(EXIT_CODES) as exc:
        print(f'nipap-passwd: {exc}', file=sys.stderr)
        return EXIT_CODES[type(exc)]
    except UnicodeError:
        print('nipap-passwd: the arguments are not valid UTF-8', file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print('nipap-passwd: interrupted', file=sys.stderr)
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog='nipap-passwd',
        description='Manage the local accounts of nipapd, also while it runs. Changes take effect at once.',
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add, flag = parser.add_argument, argparse.BooleanOptionalAction
    add('action', nargs='?', choices=_ACTIONS, metavar='ACTION', help=', '.join(_ACTIONS))
    add('-u', '--user', '--username', metavar='USER', help='name of the user; list shows this user only')
    add(
        '-p', '--password', metavar='PASSWORD', help='password; other users of this host can see it in the process list'
    )
    add('-n', '--name', metavar='NAME', help='full name; empty: none')
    add('-t', '--trusted', action=flag, default=None, help='the user may act for others')
    add('-r', '--readonly', action=flag, default=None, help='the user may not change anything')
    add('--legacy-hash', action='store_true', help="store the password weakly, as NIPAP's web client reads it")
    add('-f', '--file', metavar='FILE', help='file with the accounts; overrides the configuration')
    add('-c', '--config', metavar='CONFIG', help=f'configuration (default: {config.DEFAULT_FILE} if any)')
    add('--data-dir', metavar='DIR', help="the daemon's data directory")
    add('--version', action='version', version=f'nipap-passwd version {__version__}')
    return parser


def _users(args: argparse.Namespace) -> LocalUsers:
    """Return the file that the arguments choose.

    The function sets further arguments. `args.owner` is the configured user of the daemon, to own a new file.
    `args.backends` are the auth backends that a user name may end with. `args.keeps` tells whether logins leave hashes
    of the older form. `owner` and `keeps` are None if no configuration was read.
    """
    args.owner, args.backends, args.keeps = None, frozenset({config.LOCAL_BACKEND}), None
    if args.file is not None and args.config is None:
        return LocalUsers(Path(args.file).absolute(), legacy=args.legacy_hash)
    settings, args.owner = config.load_accounts(args.config, args.data_dir)
    args.keeps = not settings.rehash
    files = {
        name: backend.options['db_path'] for name, backend in settings.backends.items() if 'db_path' in backend.options
    }
    if args.file is not None:
        files = {name: str(Path(args.file).absolute()) for name in files or args.backends}
    if not files:
        raise ConfigError(f'{args.config}: has no auth backend of type {_LOCAL}: say which file with -f')
    path = files.get(settings.default_backend) or next(iter(files.values()))
    args.backends = frozenset(name for name, file in files.items() if file == path)
    return LocalUsers(path, legacy=args.legacy_hash)


_LOCAL = 'SqliteAuth'


# ------------------------------------------------------------------------------------------------------------ actions


def _list(users: LocalUsers, args: argparse.Namespace) -> int:
    """Print a table in the format of NIPAP, which scripts parse."""
    found = [user for user in users.users() if args.user in (None, user.username)]
    header = f'{"username":<20} {"real name":<25} {"trusted":<7} {"read only":<7}'
    print(f'{header}\n{"-" * len(header)}')
    for user in found:
        print(f'{user.username:<20} {user.full_name or "":<25} {user.trusted:<7d} {user.readonly:<7d}')
    return EXIT_OK


def _add(users: LocalUsers, args: argparse.Namespace) -> int:
    username = _username(args)
    user = LocalUser(username, args.name, bool(args.trusted), bool(args.readonly))
    try:
        users.check_new(user)
        users.add(user, _new_password(args))
    except local_users.UserExistsError as exc:
        return _done(f'{exc} in database {users.path}, nothing was changed')
    _warn_of_legacy(args)
    return _done(f'Added user {username} to database {users.path}')


def _modify(users: LocalUsers, args: argparse.Namespace) -> int:
    username = _username(args)
    users.get(username)
    password = args.password
    if all(change is None for change in (password, args.name, args.trusted, args.readonly)):
        password = _new_password(args, 'Please specify value to change')
    elif password is not None:
        password = _given_password(password)
    users.modify(username, password=password, full_name=args.name, trusted=args.trusted, readonly=args.readonly)
    if password is not None:
        _warn_of_legacy(args)
        _forget_first_password(users, username)
    return EXIT_OK


def _warn_of_legacy(args: argparse.Namespace) -> None:
    if args.legacy_hash:
        print(f'nipap-passwd: {LEGACY_WARNING}', file=sys.stderr)
        if not args.keeps:
            hint = 'the next login converts it to scrypt, unless nipap.conf has password_hash = legacy in [auth]'
            print(f'nipap-passwd: {hint}', file=sys.stderr)
    elif args.keeps:
        hint = 'the password is stored with scrypt, which the web client of NIPAP cannot read; for it use --legacy-hash'
        print(f'nipap-passwd: {hint}', file=sys.stderr)


def _delete(users: LocalUsers, args: argparse.Namespace) -> int:
    username = _username(args)
    try:
        users.delete(username)
    except local_users.NoSuchUserError:
        return _done(f'User {username} is not in database {users.path}, nothing was changed')
    _forget_first_password(users, username)
    return _done(f'User {username} deleted from database {users.path}')


def _forget_first_password(users: LocalUsers, username: str) -> None:
    """Remove the file with the password from the first start, which no longer is anybody's password."""
    if username != FIRST_USER:
        return
    file = first_password_of(users.path)
    try:
        file.unlink(missing_ok=True)
    except OSError as exc:
        print(f'nipap-passwd: {file} holds a former password and cannot be removed: {exc.strerror}', file=sys.stderr)


def _test_user(users: LocalUsers, args: argparse.Namespace) -> int:
    username = _username(args)
    name, _, backend = username.rpartition('@')
    users.is_latest()
    password = args.password if args.password is not None else _ask('Password: ')
    if users.authenticate(name if backend in args.backends and name else username, password, rehash=False):
        return _done('Username and password seem to be correct')
    print('The username or password seems to be wrong')
    return EXIT_WRONG


def _create_database(users: LocalUsers, args: argparse.Namespace) -> int:
    """Create the file unless it exists."""
    with contextlib.suppress(local_users.UserFileExistsError):
        users.create(args.owner)
    return EXIT_OK


def _upgrade_database(users: LocalUsers, _args: argparse.Namespace) -> int:
    users.upgrade()
    return EXIT_OK


def _latest_version(users: LocalUsers, _args: argparse.Namespace) -> int:
    if users.is_latest():
        return _done('Sqlite database for local auth is of the latest version.')
    print(f'nipap-passwd: {users.path} has an older layout (bring it up to date: upgrade-database)', file=sys.stderr)
    return EXIT_WRONG


_ACTIONS: dict[str, Callable[[LocalUsers, argparse.Namespace], int]] = {
    'list': _list,
    'add': _add,
    'delete': _delete,
    'modify': _modify,
    'test-user': _test_user,
    'create-database': _create_database,
    'upgrade-database': _upgrade_database,
    'latest-version': _latest_version,
}


_READING = ('list', 'test-user', 'latest-version')


def _done(text: str) -> int:
    print(text)
    return EXIT_OK


def _username(args: argparse.Namespace) -> str:
    if args.user is None:
        raise _MissingError('Please specify user with --user')
    return str(args.user)


# ---------------------------------------------------------------------------------------------------------- passwords

MISSING = 'Please specify password with --password, or as a line of the standard input'


def _given_password(password: str) -> str:
    """Return a new password from the command line, with a warning if it is short: old scripts set short passwords."""
    local_users.check_password(password, chosen=False)
    if len(password) < local_users.SHORTEST_PASSWORD:
        warning = f'the password has fewer than {local_users.SHORTEST_PASSWORD} characters and is soon guessed'
        print(f'nipap-passwd: {warning}', file=sys.stderr)
    return password


def _new_password(args: argparse.Namespace, missing: str = MISSING) -> str:
    if args.password is not None:
        return _given_password(args.password)
    password = _ask('New password: ', missing=missing)
    local_users.check_password(password)
    # At the end of the input, a script need not repeat the password.
    if _ask('Repeat the password: ', at_end=password) != password:
        raise local_users.UserInputError('the two passwords differ')
    return password


def _ask(prompt: str, at_end: str | None = None, missing: str = MISSING) -> str:
    """Ask at the terminal without echo, or read a line of the standard input when it is no terminal.

    at_end: the answer at the end of the standard input.
    missing: the error message when there is neither an answer nor `at_end`.
    """
    if sys.stdin.isatty():
        try:
            return getpass.getpass(prompt)
        except EOFError:
            raise _MissingError(missing) from None
    line = sys.stdin.readline()
    if not line and at_end is None:
        raise _MissingError(missing)
    return line.removesuffix('\n') if line else str(at_end)


if __name__ == '__main__':
    sys.exit(main())
