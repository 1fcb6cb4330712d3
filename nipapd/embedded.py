"""A private PostgreSQL: found, initialised, started and stopped by the daemon that needs it.

Everything lives in one directory, `home`:

    data/             the PostgreSQL data directory, owned by the server's account
    run/              the UNIX socket (there is no TCP), open to that account and to the group of the handlers
    postgresql.conf   written once; administrators may edit it
    pg_hba.conf       the clients that may connect: written at each start
    pg_ident.conf     the roles that accounts of the host may use: written at each start
    postgresql.log    the log of the server
    lock              held during a start, so that only one process starts the server
    binaries-*        a copy of the binaries, when the server's account cannot reach the original

Configuration is kept outside of data/ because, as root, nothing may be written through a directory that
another account owns. The module knows nothing of the schema.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import locale
import logging
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

import psycopg2
import psycopg2.extensions
import psycopg2.sql

from nipapd.binaries import (
    ROOT_FALLBACK_ACCOUNTS,
    WHEEL_BINDIR,
    WHEELS,
    Account,
    EmbeddedPostgresError,
    Installation,
    account_named,
    account_of_uid,
    copy_wheel,
    find_installations,
    inspect,
    inspect_as,
)
from nipapd.locks import open_lock

__all__ = ['EmbeddedPostgres', 'EmbeddedPostgresError', 'Installation', 'find_installations', 'inspect']

log = logging.getLogger(__name__)

SUPERUSER = 'postgres'
OWNER = 'nipap_owner'  # owner of the database and its objects, for migrations and maintenance
SERVICE = 'nipap'  # the role of handlers
DATABASE = 'nipap'
PORT = 5432  # only part of the socket's name
SOCKET_NAME = f'.s.PGSQL.{PORT}'
SOCKET_LOCK = f'{SOCKET_NAME}.lock'
SOCKET_PATH_LIMIT = 107  # bytes in sockaddr_un.sun_path, without the final NUL
LOG_LIMIT = 10_000_000
POLL_S = 0.02
RETRY_S = 0.1
PATIENT_S = 5.0
STOP_STEPS = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 5.0))
PR_SET_PDEATHSIG = 1

# The error line of a PostgreSQL program. Further lines may follow, about the work that the program undoes.
CAUSE = re.compile(r'\b(?:FATAL|PANIC|ERROR|error): +(.*)')
NO_SPACE = 'No space left on device'

# Errors of a running server for an account that may not use a role.
REFUSALS = ('Peer authentication failed', 'no pg_hba.conf entry')

# Errors of PostgreSQL while its predecessor is still ending.
NOT_YET = ('pre-existing shared memory block', 'lock file "postmaster.pid" already exists')

PG_HBA = f"""\
local {DATABASE} {SERVICE},{OWNER} peer map=nipapd
local all {SUPERUSER} peer map=nipapd
"""

POSTGRESQL_CONF = """\
# nipapd writes this file once and never changes it. You may edit it; restart nipapd to apply changes.
# nipapd sets the directory of the socket and the access rules at each start.

# Memory: for a small host that runs the daemon as well. Raise all three values on a bigger host.
shared_buffers = 128MB
effective_cache_size = 1GB              # expected size of the kernel's cache: a hint for the planner, not an allocation
work_mem = 16MB                         # enough to sort a page of search results in memory

max_connections = 100                   # a few for each request handler, and room for administrators

# Durability: an answered change survives a power cut.
fsync = on
full_page_writes = on
synchronous_commit = on

# Write-ahead log: large loads should not force a checkpoint every few seconds.
max_wal_size = 4GB
checkpoint_timeout = 15min              # fewer full-page images; recovery still takes seconds to a minute
wal_compression = on                    # full-page images shrink to a fraction for little CPU

# Planner: queries are short and found by index.
random_page_cost = 1.1                  # solid-state disks and cached data: an index page costs no seek
jit = off                               # compiling takes longer than the queries it would speed up

deadlock_timeout = 100ms                # transactions last milliseconds; deadlocks are retried, so detect them early
autovacuum = on                         # needed: updates of counters and free ranges leave dead rows
autovacuum_naptime = 15s                # the dead rows of a minute of allocations take as much space as the live rows

# Encoding and time zone do not depend on the host.
timezone = 'UTC'
log_timezone = 'UTC'
client_encoding = 'utf8'

# Log: messages for administrators only.
logging_collector = off                 # nipapd writes the log file
log_checkpoints = off
log_min_error_statement = panic         # refused changes are frequent, and their statements contain users' values
cluster_name = 'nipapd'                 # shown by ps in the names of the processes
"""


class EmbeddedPostgres:
    """One PostgreSQL server in `home`, shared by all daemons that name the same directory.

    bindir: binaries to use instead of the ones found.
    user: the account that runs the server when root starts it.
    settings: override postgresql.conf for as long as this server runs.
    client: the account of handlers, if it is not the account of this process. It may use the role SERVICE alone.
    fallbacks: accounts for new data when root starts the server without `user`; the first one that exists is used.
    """

    def __init__(
        self,
        home: Path,
        bindir: str | None = None,
        user: str | None = None,
        settings: Mapping[str, str] | None = None,
        client: Account | None = None,
        fallbacks: Sequence[str] = ROOT_FALLBACK_ACCOUNTS,
    ) -> None:
        self.home = Path(home).resolve()
        self.data = self.home / 'data'
        self.log_path = self.home / 'postgresql.log'
        self.proc: subprocess.Popen[bytes] | None = None
        self.installation: Installation | None = None
        self._bindir = Path(bindir) if bindir else None
        self._user = user
        self._settings = dict(settings or {})
        self._client = client
        self._fallbacks = tuple(fallbacks)
        self._socket_dir: Path | None = None
        self._owner_pid = 0

    def start(self, timeout_s: float = 60) -> Self:
        """Start the server and create the database `nipap`, as far as they are missing. Restart a server that died.

        A server that another process runs on the same directory is shared. A server started here dies with the
        *thread* that calls this method, so call it from the main thread, and before forking. Crash recovery is not
        subject to the timeout, because interrupting recovery would only start it over. Raises EmbeddedPostgresError.
        """
        try:
            account = self.account()
            self._make_home()
            with self._locked(timeout_s):
                self._check_reachable(account)
                self._socket_dir = self._make_socket_dir(account)
                self._start_or_share(account, timeout_s)
                self._create_database()
        except psycopg2.Error as exc:
            self.stop()
            raise EmbeddedPostgresError(f'cannot create the database {DATABASE}: {str(exc).strip()}') from exc
        except OSError as exc:
            raise EmbeddedPostgresError(f'cannot run PostgreSQL in {self.home}: {exc}') from exc
        return self

    def stop(self) -> None:
        """Stop the server if this process started it: with SIGINT, then by force if the server takes too long."""
        proc, self.proc = self.proc, None
        if proc is None or self._owner_pid != os.getpid():  # not ours, or a fork's copy of ours
            return
        _stop(proc)
        self._remove_socket_dir()

    def dsn(self, dbname: str = DATABASE, role: str = SUPERUSER) -> str:
        """Return the libpq connection string of a database on the server; only after `start`.

        The sessions do not log errors: PostgreSQL counts a refused change as an error, whose text has values of the
        client. The caller logs failed statements. The server logs errors of its own work, such as autovacuum, as usual.
        A superuser can set this per session; the other roles have the setting permanently (`nipapd.roles`).
        """
        if self._socket_dir is None:
            raise EmbeddedPostgresError('PostgreSQL has not been started')
        host = str(self._socket_dir)
        options = '-c log_min_messages=log' if role == SUPERUSER else None
        return psycopg2.extensions.make_dsn(host=host, port=PORT, user=role, dbname=dbname, options=options)

    # -- accounts and directories

    def account(self) -> Account:
        """Return the server's account: this process's; for root the data's owner, the configured one, or a fallback."""
        if os.geteuid() != 0:
            return account_of_uid(os.geteuid())
        owner = self._data_owner()
        if owner and self._user and owner.name != self._user:
            message = f'{self.data} belongs to {owner.name}, not to the configured account {self._user}'
            raise EmbeddedPostgresError(message)
        names = (self._user,) if self._user else self._fallbacks
        account = owner or next(filter(None, map(account_named, names)), None)
        if account is None or account.uid == 0:
            raise EmbeddedPostgresError(
                f'PostgreSQL refuses to run as root and needs another account; tried {" and ".join(names)}'
            )
        return account

    def _data_owner(self) -> Account | None:
        try:
            uid = os.stat(self.data / 'PG_VERSION').st_uid
        except OSError:
            return None
        return account_of_uid(uid)

    def _make_home(self) -> None:
        missing = [path for path in (self.home, *self.home.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir(mode=0o755, exist_ok=True)
            if os.geteuid() == 0:
                path.chmod(0o755)  # despite the umask: another account has to pass

    @contextlib.contextmanager
    def _locked(self, timeout_s: float) -> Iterator[None]:
        lock = open_lock(self.home / 'lock')
        try:
            _flock(lock, timeout_s, self.home)
            yield
        finally:
            os.close(lock)

    def _check_reachable(self, account: Account) -> None:
        """Raise unless `account` can enter every directory down to home. Modes are never changed."""
        if account.uid == os.geteuid():
            return
        script = 'for d; do [ -x "$d" ] || { printf %s "$d"; exit 1; }; done'
        path = [str(p) for p in (*reversed(self.home.parents), self.home)]
        check = subprocess.run(['/bin/sh', '-c', script, 'sh', *path], capture_output=True, **account.run_options())
        if check.returncode:
            closed = os.fsdecode(check.stdout) or '/'
            raise EmbeddedPostgresError(
                f'PostgreSQL runs as {account.name}, which may not enter {closed}: '
                f'choose a data directory outside of it (--data-dir), or open it with chmod o+x'
            )

    def _make_socket_dir(self, account: Account) -> Path:
        """Return home/run, or a short directory noted in home/run.path if home/run is too long for a socket's name."""
        run, note = self.home / 'run', self.home / 'run.path'
        if _fits_socket(run):
            if not run.exists():
                _make_private(run, account)
            return run
        with contextlib.suppress(OSError):
            noted = Path(note.read_text())
            if _is_private(noted, account) and not self._is_foreign(noted):
                return noted
        short = Path(tempfile.mkdtemp(prefix='nipapd-', dir='/tmp'))
        log.info('%s cannot name a UNIX socket (limit %d bytes): using %s', run, SOCKET_PATH_LIMIT, short)
        _make_private(short, account)
        _write_file(note, str(short))
        return short

    def _is_shared_with_client(self, account: Account) -> bool:
        """Return whether the handlers reach the socket with another account than the server's."""
        return os.geteuid() == 0 and self._client is not None and self._client.uid not in (0, account.uid)

    def _open_socket_dir(self, account: Account) -> None:
        """Let the group of the handlers enter the directory of the socket, if their account is not the server's."""
        if self._socket_dir is None or os.geteuid() != 0:
            return
        descriptor = os.open(self._socket_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            shared = self._client if self._is_shared_with_client(account) else None
            os.fchown(descriptor, account.uid, shared.gid if shared else account.gid)
            os.fchmod(descriptor, 0o710 if shared else 0o700)
        finally:
            os.close(descriptor)

    def _remove_socket_dir(self) -> None:
        if self._socket_dir and self._socket_dir.parent != self.home:
            shutil.rmtree(self._socket_dir, ignore_errors=True)
            (self.home / 'run.path').unlink(missing_ok=True)

    # -- binaries

    def _choose(self, account: Account) -> Installation:
        """Return binaries that `account` can run and that fit the data: configured, else wheel, else system."""
        candidates = self._configured(account) if self._bindir else find_installations(account)
        major = self._data_major()
        fitting = [c for c in candidates if major in (None, c.major)]
        for candidate in fitting:
            if usable := self._usable(candidate, account):
                return usable
        raise EmbeddedPostgresError(_why_none(candidates, fitting, major, account))

    def _configured(self, account: Account) -> list[Installation]:
        installation = inspect_as(account, self._bindir) if self._bindir else None
        if installation is None:
            problem = f'there is no working PostgreSQL in the configured {self._bindir}, run as {account.name}'
            raise EmbeddedPostgresError(problem)
        return [installation]

    def _data_major(self) -> int | None:
        try:
            text = (self.data / 'PG_VERSION').read_text().strip()
        except FileNotFoundError:
            return None
        if not text.isdecimal():
            raise EmbeddedPostgresError(f'{self.data}/PG_VERSION says {text!r}, which is no PostgreSQL version')
        return int(text)

    def _usable(self, installation: Installation, account: Account) -> Installation | None:
        if inspect(installation.bindir, account):
            return installation
        if account.uid == os.geteuid() or installation.wheel is None:
            return None
        return inspect(self._copy(installation.wheel, installation), account)

    def _copy(self, package: Path, installation: Installation) -> Path:
        """Copy a wheel's binaries into home, once for each build of them; return the copy's bindir."""
        build = (installation.bindir / 'postgres').stat()
        target = self.home / f'binaries-{installation.version}-{build.st_size:x}-{int(build.st_mtime):x}'
        bindir = target / package.name / WHEEL_BINDIR
        if target.exists():
            return bindir
        partial = self.home / 'binaries.new'
        _remove_tree(partial)
        copy_wheel(package, partial)
        for old in self.home.glob('binaries-*'):
            _remove_tree(old)
        partial.rename(target)
        return bindir

    # -- the server

    def _start_or_share(self, account: Account, timeout_s: float) -> None:
        self._refuse_copy()
        self._remove_copied_socket()
        problem = self._problem()
        if problem is None:
            self._admit(account)
            return
        if any(refusal in problem for refusal in REFUSALS):
            raise EmbeddedPostgresError(
                f'the PostgreSQL in {self.home} is running and refuses the account '
                f'{account_of_uid(os.geteuid()).name}: run the command as root, or as the account that started nipapd'
            )
        if self.proc:  # the server died, or no longer answers
            _stop(self.proc)
            self.proc = None
        self.installation = self._choose(account)
        if not (self.data / 'PG_VERSION').exists():
            self._initialise(self.installation, account)
        self._open_socket_dir(account)
        self._write_configuration(account)
        self._run(self.installation, account, timeout_s)

    def _refuse_copy(self) -> None:
        """Raise when the files were copied from a running server, whose directory is named in their lock file.

        PostgreSQL would wait in vain for that server to end.
        """
        pid, original = _locked_by(self.data / 'postmaster.pid')
        if original and not _is_same(original, self.data) and _runs(pid):
            raise EmbeddedPostgresError(
                f'{self.data} is a copy of {original}, made while PostgreSQL ran there as process {pid}, which is '
                'still running: such a copy may be inconsistent, use nipap-admin dump and restore; if the copy is an '
                f'atomic snapshot, remove {self.data}/postmaster.pid'
            )

    def _remove_copied_socket(self) -> None:
        """Remove a socket, and its lock file, that were copied from another server."""
        if self._socket_dir and self._is_foreign(self._socket_dir):
            for name in (SOCKET_NAME, SOCKET_LOCK):
                (self._socket_dir / name).unlink(missing_ok=True)

    def _is_foreign(self, socket_dir: Path) -> bool:
        """Return whether the socket in a directory belongs to a server with another data directory."""
        _, original = _locked_by(socket_dir / SOCKET_LOCK)
        return bool(original) and not _is_same(original, self.data)

    def _initialise(self, installation: Installation, account: Account) -> None:
        """Create the data directory, under another name until it is complete, so that no incomplete one is used."""
        partial = self.home / 'data.new'
        _remove_tree(partial)
        _make_private(partial, account)
        # Locale C would fold the case of ASCII letters only.
        if installation.major >= 17:
            # The character type tells the index on text which characters are letters. Without a character type for
            # Unicode, words beyond ASCII are found without the index.
            character_type = _unicode_character_type() or 'C'
            options = ['--locale=C', '--locale-provider=builtin', '--builtin-locale=C.UTF-8']
            options.append(f'--lc-ctype={character_type}')
        else:
            options = ['--locale=C.UTF-8']
        command = [str(installation.bindir / 'initdb'), '--pgdata', str(partial), '--username', SUPERUSER]
        command += ['--auth=peer', '--encoding=UTF8', '--data-checksums', *options]
        if self._settings.get('fsync') == 'off':
            command.append('--no-sync')
        made = subprocess.run(command, capture_output=True, text=True, errors='replace', **account.run_options())
        if made.returncode:
            raise EmbeddedPostgresError(_with_tail(f'initdb failed in {self.home}', made.stdout + made.stderr))
        partial.rename(self.data)

    def _write_configuration(self, account: Account) -> None:
        if not (self.home / 'postgresql.conf').exists():
            _write_file(self.home / 'postgresql.conf', POSTGRESQL_CONF)
        _write_file(self.home / 'pg_ident.conf', ''.join(sorted(self._access(account))))
        _write_file(self.home / 'pg_hba.conf', PG_HBA)

    def _access(self, account: Account) -> set[str]:
        """Return the lines that allow accounts of the host the use of roles.

        Root and this process's account may use all roles, and so may the account of the server, which can read and
        write its files anyway. Handlers that share the account of the server may use the role SERVICE only.
        """
        masters = {account_of_uid(uid).name for uid in (0, os.geteuid())}
        if self._client is None or self._client.uid != account.uid:
            masters.add(account.name)
        allowed = {(name, role) for name in masters for role in (SUPERUSER, OWNER, SERVICE)}
        if self._client is not None:
            allowed.add((self._client.name, SERVICE))
        return {f'nipapd "{name}" {role}\n' for name, role in allowed}

    def _admit(self, account: Account) -> None:
        """Give our accounts access to a running server. A server started by an older program knows no roles."""
        path = self.home / 'pg_ident.conf'
        try:
            present = set(path.read_text(encoding='utf-8').splitlines(keepends=True))
        except OSError:
            present = set()
        if self._access(account) <= present:
            return
        _write_file(path, ''.join(sorted(present | self._access(account))))
        with contextlib.closing(psycopg2.connect(self.dsn('postgres'))) as connection, connection.cursor() as cursor:
            cursor.execute('SELECT pg_reload_conf()')

    def _run(self, installation: Installation, account: Account, timeout_s: float) -> None:
        """Start the server until it answers. Wait for a predecessor that is still ending."""
        began = time.monotonic()
        deadline = began + timeout_s
        while True:
            begin = self._spawn(installation, account)
            if self._await_answer(deadline):
                return
            said = self._log_since(begin)
            if not any(reason in said for reason in NOT_YET) or time.monotonic() > deadline:
                raise EmbeddedPostgresError(_with_tail(f'PostgreSQL {installation.version} did not start', said))
            self._hasten_predecessor(signal.SIGINT if time.monotonic() < began + PATIENT_S else signal.SIGQUIT)
            time.sleep(RETRY_S)
            if self._problem() is None:  # the predecessor is not ending after all
                return

    def _hasten_predecessor(self, number: signal.Signals) -> None:
        """Signal a predecessor that is stopping, because it waits for its clients although new ones cannot connect.

        A server stops in this way when its daemon was killed. INT makes it end in order. If that does not help, QUIT
        ends it at once, and its log is replayed as after a crash.
        """
        pid, status = self._postmaster()
        if pid is not None and status == 'stopping':
            with contextlib.suppress(OSError):
                os.kill(pid, number)

    def _spawn(self, installation: Installation, account: Account) -> int:
        """Start the process; return the size of the log before its first line."""
        command = [str(installation.bindir / 'postgres'), '-D', str(self.data)]
        for name, value in self._command_line_settings(account).items():
            command += ['-c', f'{name}={value}']
        output = self._open_log(account)
        try:
            begin = os.fstat(output).st_size
            self.proc = subprocess.Popen(
                command,
                stdout=output,
                stderr=output,
                preexec_fn=_die_with_parent(),
                **account.run_options(),
            )
        finally:
            os.close(output)
        self._owner_pid = os.getpid()
        return begin

    def _command_line_settings(self, account: Account) -> dict[str, str]:
        directory = str(self._socket_dir).replace('"', '""')
        shared = self._is_shared_with_client(account)
        return {
            **self._settings,
            'config_file': str(self.home / 'postgresql.conf'),
            'hba_file': str(self.home / 'pg_hba.conf'),
            'ident_file': str(self.home / 'pg_ident.conf'),
            'listen_addresses': '',
            'port': str(PORT),
            'unix_socket_directories': f'"{directory}"',
            'unix_socket_permissions': '0777' if shared else '0700',  # the mode of the directory restricts access
        }

    def _await_answer(self, deadline: float) -> bool:
        """Return True when the server answers, ours or an earlier one; False when ours has ended without an answer.

        Raises EmbeddedPostgresError, after stopping a server that runs but does not answer in time.
        """
        while self.proc and self.proc.poll() is None:
            problem = self._problem()
            pid, status = self._postmaster()
            if problem is None:
                if pid == self.proc.pid:
                    return True
            elif time.monotonic() > deadline and status != 'starting':
                begin = max(0, self.log_path.stat().st_size - 4096)
                self.stop()
                raise EmbeddedPostgresError(
                    _with_tail(f'PostgreSQL does not answer: {problem}', self._log_since(begin))
                )
            time.sleep(POLL_S)
        self.proc = None
        return self._problem() is None

    def _postmaster(self) -> tuple[int | None, str]:
        """Return process id and status of the server that holds the data directory, from its pid file."""
        try:
            lines = (self.data / 'postmaster.pid').read_text().splitlines()
            return int(lines[0]), lines[7].strip() if len(lines) > 7 else ''
        except (OSError, ValueError, IndexError):
            return None, ''

    def _problem(self) -> str | None:
        """Return None when the server answers, else the error of a connection attempt."""
        try:
            psycopg2.connect(self.dsn('postgres'), connect_timeout=5).close()
        except psycopg2.OperationalError as exc:
            return str(exc).strip()
        return None

    def _create_database(self) -> None:
        connection = psycopg2.connect(self.dsn('postgres'))
        connection.autocommit = True  # CREATE DATABASE refuses to run in a transaction
        try:
            with connection.cursor() as cursor:
                cursor.execute('SELECT 1 FROM pg_catalog.pg_database WHERE datname = %s', (DATABASE,))
                if cursor.fetchone() is None:
                    statement = psycopg2.sql.SQL('CREATE DATABASE {}').format(psycopg2.sql.Identifier(DATABASE))
                    cursor.execute(statement)
        finally:
            connection.close()

    # -- the log of the server

    def _open_log(self, account: Account) -> int:
        if self.log_path.exists() and self.log_path.stat().st_size > LOG_LIMIT:
            self.log_path.rename(self.log_path.with_suffix('.log.1'))
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        output = os.open(self.log_path, flags, 0o640)
        if os.geteuid() == 0:
            os.fchown(output, account.uid, account.gid)
        return output

    def _log_since(self, begin: int) -> str:
        with open(self.log_path, encoding='utf-8', errors='replace') as file:
            file.seek(begin)
            return file.read()


def _flock(descriptor: int, timeout_s: float, home: Path) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                message = f'another process has been starting PostgreSQL in {home} for over {timeout_s:g} s'
                raise EmbeddedPostgresError(message) from None
        time.sleep(POLL_S)


def _locked_by(lock: Path) -> tuple[int, str]:
    """Return process id and data directory of the server that made a lock file; 0 and an empty text without a file."""
    try:
        pid, directory = lock.read_text().splitlines()[:2]
        return int(pid), directory
    except (OSError, ValueError):
        return 0, ''


def _is_same(original: str, directory: Path) -> bool:
    """Return whether both are the same directory, even under different names."""
    return Path(original) == directory or (os.path.exists(original) and os.path.samefile(original, directory))


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid > 0


def _fits_socket(directory: Path) -> bool:
    """Return whether the kernel and libpq accept the name of a socket in `directory`."""
    name = os.fsencode(directory / SOCKET_NAME)
    return len(name) <= SOCKET_PATH_LIMIT and b',' not in name  # libpq reads a comma as a list of hosts


def _make_private(directory: Path, account: Account) -> None:
    directory.mkdir(mode=0o700, exist_ok=True)
    if os.geteuid() == 0:
        os.chown(directory, account.uid, account.gid, follow_symlinks=False)


def _is_private(directory: Path, account: Account) -> bool:
    found = os.lstat(directory)
    is_closed = stat.S_IMODE(found.st_mode) in (0o700, 0o710)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == account.uid and is_closed


def _write_file(path: Path, text: str) -> None:
    """Replace a file in one step: readers see either the old text or the new one."""
    partial = path.with_name(f'{path.name}.new')
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    with open(descriptor, 'w', encoding='utf-8') as file:
        os.fchmod(descriptor, 0o644)  # despite the umask: the server's account reads the file
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    partial.rename(path)


def _remove_tree(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)


def _why_none(candidates: list[Installation], fitting: list[Installation], major: int | None, account: Account) -> str:
    if not candidates:
        return f'no PostgreSQL binaries found: install {WHEELS[0]} with pip, or configure a server'
    found = ', '.join(f'{c.version} in {c.bindir}' for c in fitting or candidates)
    if fitting:
        return f'the account {account.name} cannot run any PostgreSQL that was found: {found}'
    return (
        f'the data needs PostgreSQL {major}, but found only {found}; '
        'docs/production.md describes how to change the major version'
    )


def _with_tail(line: str, text: str) -> str:
    """Return `line` with the cause, if the text names one, followed by the last lines of the text."""
    lines = [part for part in text.splitlines() if part.strip()]
    cause = NO_SPACE if NO_SPACE in text else next((found[1] for part in lines if (found := CAUSE.search(part))), '')
    return '\n'.join([f'{line}: {cause}' if cause else line, *(f'  {part}' for part in lines[-5:])])


def _die_with_parent() -> Callable[[], None] | None:
    """Return a function for the child before it becomes the server: request a smart shutdown when the parent dies.

    A smart shutdown lets the parent's other children finish their work. The function runs after the change of user,
    which would undo the request. None: not Linux.
    """
    if sys.platform != 'linux':
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:  # the parent died before the request
            os._exit(1)

    return ask


def _stop(proc: subprocess.Popen[bytes]) -> None:
    for number, patience_s in STOP_STEPS:
        if proc.poll() is not None:
            return
        proc.send_signal(number)
        try:
            proc.wait(patience_s)
        except subprocess.TimeoutExpired:
            log.warning('PostgreSQL ignored %s for %g s', number.name, patience_s)


def _unicode_character_type() -> str | None:
    """Return a character type of this system with the letters of Unicode and no country's rules; None without one."""
    before = locale.setlocale(locale.LC_CTYPE)
    try:
        for name in ('C.UTF-8', 'C.utf8'):
            with contextlib.suppress(locale.Error):
                locale.setlocale(locale.LC_CTYPE, name)
                return name
        return None
    finally:
        locale.setlocale(locale.LC_CTYPE, before)
