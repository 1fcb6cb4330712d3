"""nipap-passwd: the local accounts, from the command line, whether or not the daemon runs.

A change is seen by a running daemon at once. Each way to fail has its exit code and says why on one line.
"""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from nipap.access import local_users
from nipap.access.local_users import LocalUser, LocalUsers
from nipapd import config
from nipapd.inifile import ConfigError

EXIT_OK = 0
EXIT_NO = 1
EXIT_USAGE = 2
EXIT_CODES: dict[type[Exception], int] = {
    ConfigError: EXIT_USAGE,
    local_users.UserInputError: EXIT_USAGE,
    local_users.UserExistsError: 3,
    local_users.NoSuchUserError: 4,
    local_users.UserFileMissingError: 5,
    local_users.UserFileUnusableError: 6,
    local_users.UserFileLayoutError: 7,
    local_users.UserFileExistsError: 8,
}
EXIT_INTERRUPTED = 130

_EPILOG = """
exit codes:
  0  done; test-user: the password is right; latest-version: the layout is the newest
  1  test-user: wrong user name or password; latest-version: the layout is older
  2  wrong usage, configuration, name or password
  3  add: the user exists already          4  there is no such user
  5  there is no such file                 6  the file cannot be read or written
  7  the file has an older layout or none  8  create-database: the file exists already

A password that is not given is asked for; without a terminal it is a line of the standard input.
The file is -f, else what the configuration says, else local_auth.db in the data directory.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one action and return the exit code."""
    args = _parser().parse_args(argv)
    try:
        return _ACTIONS[args.action](_users(args), args)
    except tuple(EXIT_CODES) as exc:
        print(f'nipap-passwd: {exc}', file=sys.stderr)
        return EXIT_CODES[type(exc)]
    except UnicodeError:
        print('nipap-passwd: the arguments are not valid UTF-8', file=sys.stderr)
        return EXIT_USAGE
    except (KeyboardInterrupt, EOFError):
        print('nipap-passwd: interrupted', file=sys.stderr)
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='nipap-passwd',
        description='Local accounts of nipapd. Works while the daemon runs; a change holds at once.',
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add, flag = parser.add_argument, argparse.BooleanOptionalAction
    add('action', choices=_ACTIONS, metavar='ACTION', help=', '.join(_ACTIONS))
    add('-u', '--user', metavar='USER', help='name of the user (list: this one only)')
    add(
        '-p', '--password', metavar='PASSWORD', help='password; other users of this host can see it in the process list'
    )
    add('-n', '--name', metavar='NAME', help='full name; empty: none')
    add('-t', '--trusted', action=flag, default=None, help='the user may act for others')
    add('-r', '--readonly', action=flag, default=None, help='the user may not change anything')
    file = parser.add_mutually_exclusive_group()
    file.add_argument('-f', '--file', metavar='FILE', help='file with the accounts')
    file.add_argument('-c', '--config', metavar='CONFIG', help=f'configuration (default: {config.DEFAULT_FILE} if any)')
    add('--data-dir', metavar='DIR', help="the daemon's data directory")
    return parser


def _users(args: argparse.Namespace) -> LocalUsers:
    """The file that the arguments mean; `args.owner` becomes who is to own it if the configuration says so."""
    args.owner = None
    if args.file is not None:
        return LocalUsers(Path(args.file).absolute())
    settings, args.owner = config.load_accounts(args.config, args.data_dir)
    files = {name: backend.options['db_path'] for name, backend in settings.backends.items() if backend.type == _LOCAL}
    if not files:
        raise ConfigError(f'{args.config}: has no auth backend of type {_LOCAL}: say which file with -f')
    return LocalUsers(files.get(settings.default_backend) or next(iter(files.values())))


_LOCAL = 'SqliteAuth'


# ------------------------------------------------------------------------------------------------------------ actions


def _list(users: LocalUsers, args: argparse.Namespace) -> int:
    found = users.users() if args.user is None else [users.get(args.user)]
    rows = [(user.username, user.full_name or '', _yes(user.trusted), _yes(user.readonly)) for user in found]
    rows.insert(0, ('username', 'name', 'trusted', 'readonly'))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print('  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return EXIT_OK


def _add(users: LocalUsers, args: argparse.Namespace) -> int:
    username = _username(args)
    user = LocalUser(username, args.name, bool(args.trusted), bool(args.readonly))
    users.check_new(user)
    users.add(user, _new_password(args))
    return _done(f'user {username!r} added')


def _modify(users: LocalUsers, args: argparse.Namespace) -> int:
    username = _username(args)
    users.get(username)
    password = args.password
    if all(change is None for change in (password, args.name, args.trusted, args.readonly)):
        password = _new_password(args)
    users.modify(username, password=password, full_name=args.name, trusted=args.trusted, readonly=args.readonly)
    return _done(f'user {username!r} changed')


def _delete(users: LocalUsers, args: argparse.Namespace) -> int:
    users.delete(_username(args))
    return _done(f'user {args.user!r} deleted')


def _test_user(users: LocalUsers, args: argparse.Namespace) -> int:
    username = _username(args)
    users.is_latest()
    password = args.password if args.password is not None else _ask('Password: ')
    if users.authenticate(username, password, rehash=False):
        return _done('the password is right')
    print('nipap-passwd: wrong user name or password', file=sys.stderr)
    return EXIT_NO


def _create_database(users: LocalUsers, args: argparse.Namespace) -> int:
    users.create(args.owner)
    return _done(f'{users.path} created')


def _upgrade_database(users: LocalUsers, _args: argparse.Namespace) -> int:
    upgraded = users.upgrade()
    return _done(f'{users.path} upgraded' if upgraded else f'{users.path} has the newest layout')


def _latest_version(users: LocalUsers, _args: argparse.Namespace) -> int:
    if users.is_latest():
        return _done(f'{users.path} has the newest layout')
    print(f'nipap-passwd: {users.path} has an older layout (bring it up to date: upgrade-database)', file=sys.stderr)
    return EXIT_NO


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


def _yes(value: bool) -> str:
    return 'yes' if value else 'no'


def _done(text: str) -> int:
    print(text)
    return EXIT_OK


def _username(args: argparse.Namespace) -> str:
    if args.user is None:
        raise local_users.UserInputError(f'{args.action} needs a user: -u USER')
    return str(args.user)


# ---------------------------------------------------------------------------------------------------------- passwords


def _new_password(args: argparse.Namespace) -> str:
    if args.password is not None:
        return str(args.password)
    password = _ask('New password: ')
    # A script that pipes the password in need not write it twice.
    if _ask('The same again: ', at_end=password) != password:
        raise local_users.UserInputError('the two passwords differ')
    return password


def _ask(prompt: str, at_end: str | None = None) -> str:
    """Ask at the terminal, unseen, or read a line of the input when it is none; at its end the answer is `at_end`."""
    if sys.stdin.isatty():
        return getpass.getpass(prompt)
    line = sys.stdin.readline()
    if not line and at_end is None:
        raise EOFError
    return line.removesuffix('\n') if line else str(at_end)


if __name__ == '__main__':
    sys.exit(main())
