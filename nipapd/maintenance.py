"""``nipap-admin``: maintain the database of the daemon, also while it runs.

Exit codes: 0 all is well, 1 problems were found or the work failed, 2 wrong command line or configuration.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

from nipap.access.local_users import UserFileError
from nipap.errors import NipapError
from nipap.history import export, partitions
from nipap.integrity import check, repair
from nipap.moments import read_moment
from nipap.postgres import schema
from nipap.postgres.database import Database
from nipapd import archive, backup, dump
from nipapd.commandline import Parser
from nipapd.config import Config, load
from nipapd.databases import KeptPostgres, await_database, database
from nipapd.embedded import EmbeddedPostgresError
from nipapd.identity import Identity
from nipapd.inifile import ConfigError
from nipapd.launch import StartError
from nipapd.values import forget_database_variables

Commands: TypeAlias = 'argparse._SubParsersAction[Parser]'

MOST_SHOWN = 100
AUDIT = 'Export the audit log, verify exports, and manage the partitions of the log.'
FROM_HELP = 'begin with the first entry of this moment or later (default: the first one)'
UNTIL_HELP = 'end before the first entry of this moment or later (default: the last one)'


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    options = _parser().parse_args(argv)
    forget_database_variables(os.environ)
    try:
        return int(options.command(_config(options), options))
    except ConfigError as error:
        print(f'nipap-admin: {error}', file=sys.stderr)
        return 2
    except (StartError, EmbeddedPostgresError, NipapError, UserFileError) as error:
        print(f'nipap-admin: {error}', file=sys.stderr)
        return 1
    except OSError as error:
        print(f'nipap-admin: {error.filename or "the file"}: {error.strerror}', file=sys.stderr)
        return 1


def has_database(config: Config) -> bool:
    """Return whether the data directory has a private database."""
    return (config.data_dir / 'data' / 'PG_VERSION').exists()


@contextlib.contextmanager
def served(config: Config) -> Iterator[str]:
    """Yield the connection string of the configured database.

    A private PostgreSQL is shared with a running daemon, else it is started for this command.
    """
    with contextlib.ExitStack() as stack:
        if config.embedded:
            if not has_database(config):
                raise StartError(f'there is no database in {config.data_dir} yet')
            identity = Identity.of(config) if os.geteuid() == 0 else None
            yield stack.enter_context(KeptPostgres(config, identity)).dsn()
        else:
            yield config.dsn


def on_database(config: Config, options: argparse.Namespace) -> int:
    """Run a command that works on an open database."""
    with served(config) as dsn, database(dsn) as db:
        require_schema(db)
        return int(options.work(db))


def require_schema(db: Database) -> None:
    """Raise StartError unless this program can work with the schema."""
    found = schema.state(db)
    if not found.version:
        schema.check_database(db)
        raise StartError('the database has no schema: create it with nipap-admin migrate')
    if found.problem:
        remedy = 'upgrade the program' if found.is_newer else 'nipap-admin migrate brings it up to date'
        raise StartError(f'{found.problem}: {remedy}')


def run_dump(config: Config, options: argparse.Namespace) -> int:
    """Write the database and the local accounts to one file, while the daemon runs."""
    with served(config) as dsn:
        return dump.dump(config, dsn, options.file)


def run_restore(config: Config, options: argparse.Namespace) -> int:
    """Restore database and accounts into an empty target, or over existing data with --replace; no daemon may run.

    Webhooks are disabled, unless --keep-webhooks restores them as they were.
    """
    return dump.restore_file(config, options.file, replace=options.replace, keep_webhooks=options.keep_webhooks)


def run_check(db: Database) -> int:
    """Recompute everything derived from the facts and report each difference; with --repair, repair it."""
    found = check.problems(db)
    _print_first(found, len(found))
    print(f'{len(found)} problems found' if found else 'no problems found')
    return 1 if found else 0


def run_repair(db: Database) -> int:
    """Recompute everything derived from the facts, repair each difference and report it."""
    outcome = repair.repair(db, most_found=MOST_SHOWN)
    _print_first(outcome.found, sum(outcome.repaired.values()))
    for kind, count in outcome.repaired.items():
        print(f'repaired {kind}: {count}')
    _print_first([f'not repaired, the facts are wrong: {text}' for text in outcome.left], len(outcome.left))
    print(f'{len(outcome.left)} problems left' if outcome.left else 'no problems left')
    return 1 if outcome.left else 0


def run_migrate(config: Config, _options: argparse.Namespace) -> int:
    """Install the schema, or bring it to the version of this program.

    A private database is written to before-NNNN.dump in the data directory first, unless --no-backup is given.
    """
    with served(config) as dsn:
        await_database(dsn, config.nipapd.database_wait)  # start scripts of containers run this before the daemon
        if file := backup.before_upgrade(config, dsn):
            print(f'{file}: the database before the upgrade')
        with database(dsn) as db:
            before = schema.version(db)
            applied = schema.migrate(db)
            print(f'the schema has version {schema.version(db)}' + (f', it had {before}' if applied else ''))
    return 0


def run_audit_export(config: Config, options: argparse.Namespace) -> int:
    """Write entries of the audit log to a file, with a chain of digests, while the daemon runs.

    Entries of transactions that are still running are left to the next export.
    """
    continues = None
    if options.after_file:
        if options.since is not None:
            raise ConfigError('--from and --after-file exclude each other')
        with open(options.after_file, 'rb') as file:
            continues = export.end_of(file)
    with served(config) as dsn, database(dsn) as db:
        require_schema(db)
        wanted = export.range_of(db, options.since, options.until, continues)
        with db.snapshot() as tx:
            export.require_tables(tx, wanted)
            entries = export.entries(tx, wanted.after, wanted.through)
            if options.file == dump.STANDARD:
                end = export.write(sys.stdout.buffer, entries, wanted, options.format)
                sys.stdout.buffer.flush()
                return 0
            with archive.replacing(Path(options.file).absolute()) as out:
                end = export.write(out, entries, wanted, options.format)
    print(f'{options.file}: {_export_text(end)}')
    return 0


def run_audit_verify(config: Config, options: argparse.Namespace) -> int:
    """Check the chain of digests of exports, and compare each entry with the database.

    Several files must continue each other in this order.
    """
    with contextlib.ExitStack() as stack:
        db = None
        if not options.chain_only:
            if config.embedded and not has_database(config):
                print(f'not compared with a database: there is none in {config.data_dir}')
            else:
                db = stack.enter_context(database(stack.enter_context(served(config))))
                require_schema(db)
        found = 0
        before = None
        for name in options.file:
            with open(name, 'rb') as file, contextlib.ExitStack() as reading:
                problems = _Problems(name)
                stored = None
                if db is not None:
                    stored = functools.partial(export.entries, reading.enter_context(db.snapshot()))
                before = export.verify(file, problems.note, stored, before)
            problems.end()
            found += problems.count
            print(f'{name}: {_export_text(before)}')
    print(f'{found} problems found' if found else 'no problems found')
    return 1 if found else 0


def run_audit_partitions(db: Database) -> int:
    """List the partitions of the audit log: name, state, ids, times of the entries, and size on the disk."""
    for each in db.read(partitions.listed):
        ids = f'{each.first} to {each.last}' if each.first is not None else 'without a partition'
        times = f'{each.oldest:{_TIME}} to {each.newest:{_TIME}}' if each.oldest and each.newest else '-'
        print(f'{each.name:<14} {each.state:<9} {ids:<24} {times:<37} {each.size / 2**20:10.1f} MB')
    return 0


def run_audit_detach(config: Config, options: argparse.Namespace) -> int:
    """Detach a partition of the audit log. The table keeps its entries, but no call finds them any more."""
    with served(config) as dsn, database(dsn) as db:
        require_schema(db)
        partitions.detach(db, options.name)
    print(f'{options.name} is detached')
    return 0


def run_audit_attach(config: Config, options: argparse.Namespace) -> int:
    """Attach a detached partition again. It stays attached until it is detached by this name, whatever its age."""
    with served(config) as dsn, database(dsn) as db:
        require_schema(db)
        partitions.attach(db, options.name)
    print(f'{options.name} is attached')
    return 0


_TIME = '%Y-%m-%dT%H:%MZ'  # sessions have the time zone UTC


def _export_text(end: export.End) -> str:
    return f'{end.count} entries, ids {end.after + 1} to {end.through}, digest {end.digest}'


class _Problems:
    """Prints the first MOST_SHOWN problems of a file."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.count = 0

    def note(self, text: str) -> None:
        self.count += 1
        if self.count <= MOST_SHOWN:
            print(f'{self._name}: {text}')

    def end(self) -> None:
        if self.count > MOST_SHOWN:
            print(f'{self._name}: … and {self.count - MOST_SHOWN} more')


def _audit_moment(text: str) -> datetime:
    """Return a moment of the command line. Raise ArgumentTypeError for other text."""
    try:
        return read_moment(text, compared=True)
    except NipapError as error:
        raise argparse.ArgumentTypeError(f'{text!r}: {error}') from None


def _print_first(texts: Sequence[str], count: int) -> None:
    """Print the first MOST_SHOWN texts, and the number of those left out."""
    for text in texts[:MOST_SHOWN]:
        print(text)
    if count > MOST_SHOWN:
        print(f'… and {count - MOST_SHOWN} more')


def _config(options: argparse.Namespace) -> Config:
    arguments = []
    if options.config is not None:
        arguments += ['--config', options.config]
    if options.data_dir is not None:
        arguments += ['--data-dir', options.data_dir]
    if options.no_backup:
        arguments.append('--no-backup')
    return load(arguments)


def _places(default: str | None) -> Parser:
    """Return the options that may stand before or after the command.

    default: SUPPRESS for the options after the command, so that values from before the command are kept.
    """
    places = Parser(add_help=False, argument_default=default)
    places.add_argument('-c', '--config', metavar='FILE', help='the configuration of the daemon')
    places.add_argument('--data-dir', metavar='DIR', help='the data directory of the daemon')
    return places


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog='nipap-admin',
        description='Maintain the database of nipapd.',
        parents=[_places(None)],
    )
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    repair_help = 'repair every difference, in one transaction that blocks changes of the tree'

    def add(
        name: str,
        text: str | None,
        group: Commands = commands,
        **defaults: object,
    ) -> Parser:
        text = (text or '').strip()
        command = group.add_parser(name, help=text, description=text, parents=[_places(argparse.SUPPRESS)])
        command.set_defaults(**{'no_backup': False, **defaults})
        return command

    check_parser = add('check', run_check.__doc__, command=on_database, work=run_check)
    check_parser.add_argument('--repair', dest='work', action='store_const', const=run_repair, help=repair_help)
    migrate_parser = add('migrate', run_migrate.__doc__, command=run_migrate)
    migrate_parser.add_argument('--no-backup', action='store_true', help='do not dump the database first')
    for name, run, where in (('dump', run_dump, 'output'), ('restore', run_restore, 'input')):
        command = add(name, run.__doc__, command=run)
        command.add_argument('file', metavar='FILE', help=f'the file; "-" is the standard {where}')
        if run is run_restore:
            command.add_argument('--replace', action='store_true', help='overwrite existing data and accounts')
            command.add_argument(
                '--keep-webhooks',
                action='store_true',
                help='restore webhooks as they were (default: all are disabled)',
            )
    audit = commands.add_parser('audit', help=AUDIT, description=AUDIT, parents=[_places(argparse.SUPPRESS)])
    _add_audit_commands(functools.partial(add, group=audit.add_subparsers(required=True, metavar='COMMAND')))
    return parser


def _add_audit_commands(add: Callable[..., Parser]) -> None:
    exporting = add('export', run_audit_export.__doc__, command=run_audit_export)
    exporting.add_argument('--from', dest='since', metavar='MOMENT', type=_audit_moment, help=FROM_HELP)
    exporting.add_argument('--until', metavar='MOMENT', type=_audit_moment, help=UNTIL_HELP)
    exporting.add_argument('--after-file', metavar='PREVIOUS', help='continue this export')
    exporting.add_argument('--format', choices=export.FORMATS, default='jsonl', help='the format (default: jsonl)')
    exporting.add_argument('file', metavar='FILE', help='the file; "-" is the standard output')
    verifying = add('verify', run_audit_verify.__doc__, command=run_audit_verify)
    verifying.add_argument('--chain-only', action='store_true', help='do not compare with the database')
    verifying.add_argument('file', metavar='FILE', nargs='+', help='an export, or several in order')
    add('partitions', run_audit_partitions.__doc__, command=on_database, work=run_audit_partitions)
    for name, run in (('detach', run_audit_detach), ('attach', run_audit_attach)):
        command = add(name, run.__doc__, command=run)
        command.add_argument('name', metavar='NAME', help='the partition, as "audit partitions" lists it')


if __name__ == '__main__':
    sys.exit(main())
