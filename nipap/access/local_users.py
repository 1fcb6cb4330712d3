"""Local accounts: the SQLite file that nipap-passwd changes and that logins are checked against.

The file has a table ``user``, as in older daemons, so their files work unchanged. Older daemons stored passwords as
salted SHA-1, which is replaced by scrypt as users log in. A table ``former_user`` counts removed accounts.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import logging
import os
import pwd
import re
import secrets
import sqlite3
import string
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from nipap.access.known_logins import state_of
from nipap.access.names import ACCEPTED, LONGEST_FULL_NAME, LONGEST_NAME, control_characters, problem_of
from nipap.runtime import waiting

log = logging.getLogger(__name__)


# The accounts of a restore (nipapd/restored.py) are in a file beside the accounts. Its name has this text and three
# numbers at its end.
RESTORED = '.restored-'


class UserFileError(Exception):
    """The base of errors with the file of local accounts. The text is one line for the operator."""


class UserFileMissingError(UserFileError):
    """The file does not exist."""


class UserFileExistsError(UserFileError):
    """The file exists already, with a table of users."""


class UserFileUnusableError(UserFileError):
    """The file cannot be read or written, or is not a SQLite file."""


class UserFileLayoutError(UserFileError):
    """The file has no table of users, or an older table that must be upgraded before the change."""


class UserExistsError(UserFileError):
    """A user of that name exists already."""


class NoSuchUserError(UserFileError):
    """No user has that name."""


class UserInputError(UserFileError):
    """A name or password that is not acceptable."""


@dataclass(frozen=True)
class LocalUser:
    """One row of the file, without the password.

    predecessors: the number of earlier accounts of this name that were removed. They may be another person's.
    state: a digest that differs after each change of the account, the password included.
    mark: a digest that differs after each change of the password; empty for a user that was not read from a file.
    """

    username: str
    full_name: str | None = None
    trusted: bool = False
    readonly: bool = False
    predecessors: int = 0
    state: bytes = field(default=b'', compare=False, repr=False)
    mark: str = field(default='', compare=False, repr=False)


SHORTEST_PASSWORD = 8
LONGEST_PASSWORD = 1000

_CREATE = """
CREATE TABLE user (
    username NOT NULL PRIMARY KEY,
    pwd_salt NOT NULL,
    pwd_hash NOT NULL,
    full_name,
    trusted NOT NULL DEFAULT 0,
    readonly NOT NULL DEFAULT 0
)"""
# A trigger, since other programs write the file as well. It avoids newer SQL, for some programs have an old SQLite.
_REMEMBER_REMOVALS = (
    'CREATE TABLE IF NOT EXISTS former_user (username NOT NULL PRIMARY KEY, removals NOT NULL)',
    """CREATE TRIGGER IF NOT EXISTS user_removed AFTER DELETE ON user BEGIN
        INSERT OR REPLACE INTO former_user (username, removals) VALUES (OLD.username,
            1 + coalesce((SELECT removals FROM former_user WHERE username = OLD.username), 0));
    END""",
)
_OLDEST_COLUMNS = frozenset({'username', 'pwd_salt', 'pwd_hash'})
_NEWER_COLUMNS = {
    'full_name': 'ALTER TABLE user ADD COLUMN full_name',
    'trusted': 'ALTER TABLE user ADD COLUMN trusted NOT NULL DEFAULT 0',
    'readonly': 'ALTER TABLE user ADD COLUMN readonly NOT NULL DEFAULT 0',
}


class LocalUsers:
    """The SQLite file of local accounts.

    Every method opens the file, does one thing in one transaction and closes it, so that all other users of the file
    see changes at once. Passwords are hashed with scrypt; the salted SHA-1 of older files is still understood. All
    methods raise a `UserFileError` on failure.

    legacy: store new passwords as salted SHA-1, for programs that read the file themselves and understand nothing
    else. Such passwords can be guessed billions of times a second.
    """

    def __init__(self, path: str | os.PathLike[str], *, legacy: bool = False) -> None:
        self.path = os.fspath(path)
        self._hash_new = _hash_legacy if legacy else _hash_new

    def create(self, owner: str | None = None) -> None:
        """Create the file, accessible to its owner alone, or the table in a file that has none.

        When root creates the file, it belongs to the account `owner`, or by default to the owner of its directory.
        """
        self.create_file(owner)
        with self._change() as connection:
            if _columns(connection):
                raise UserFileExistsError(f'{self.path}: exists already')
            connection.execute(_CREATE)
            _remember_removals(connection)

    def create_file(self, owner: str | None = None) -> bool:
        """Create the file like `create`, without a table; return False when the file exists already."""
        try:
            uid, gid = _owner(owner) if owner else _owner_of(os.path.dirname(self.path) or '.')
            descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            try:
                if os.geteuid() == 0:
                    os.fchown(descriptor, uid, gid)
            finally:
                os.close(descriptor)
        except FileExistsError:
            return False
        except (OSError, LookupError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else exc
            raise UserFileUnusableError(f'{self.path}: cannot be created: {reason}') from exc
        return True

    def upgrade(self) -> bool:
        """Add the columns that an older file lacks; return False when no column was missing."""
        with self._change() as connection:
            missing = self._missing(connection)
            for column in missing:
                connection.execute(_NEWER_COLUMNS[column])
            _remember_removals(connection)
        return bool(missing)

    def is_latest(self) -> bool:
        """Return whether the file has every column of the newest layout."""
        with self._open() as connection:
            return not self._missing(connection)

    def copy_to(self, target: str | os.PathLike[str]) -> None:
        """Overwrite an existing file with a consistent copy of this file. Both files may be in use."""
        path = os.fspath(target)
        with self._open() as source, _sqlite_errors(path), contextlib.closing(_connect(path)) as copy:
            source.backup(copy)

    def copy_rows_to(self, target: LocalUsers) -> None:
        """Create another file, which must not exist yet, with the accounts of this file.

        Only the rows of accounts and the counts of removed accounts are copied, and nothing else that the file may
        contain. Passwords are copied as they are stored.

        :raises UserFileLayoutError: ``user`` is missing or is not a table.
        """
        with self._open() as source:
            source.execute('PRAGMA trusted_schema = OFF')
            self._missing(source)
            if not _is_table(source, 'user'):
                raise UserFileLayoutError(f'{self.path}: has no table of users')
            users = [dict(row) for row in source.execute('SELECT * FROM user')]
            removals = []
            if _is_table(source, 'former_user'):
                removals = [tuple(row) for row in source.execute('SELECT username, removals FROM former_user')]
        target.create()
        with target._change() as copy:
            for user in users:
                copy.execute(_INSERT, [user.get(name, default) for name, default in _COLUMNS.items()])
            copy.executemany('INSERT INTO former_user (username, removals) VALUES (?, ?)', removals)

    def of_restores(self) -> list[Path]:
        """Return the files of accounts left by interrupted restores, the earliest first."""
        found = Path(self.path).parent.glob(f'*{RESTORED}*-*-*')
        pattern = re.compile(re.escape(os.path.basename(self.path) + RESTORED) + r'[0-9]+-[0-9]+-([0-9]+)')
        numbers = {path: int(match[1]) for path in found if (match := pattern.fullmatch(path.name))}
        return sorted(numbers, key=lambda path: numbers[path])

    def users(self) -> list[LocalUser]:
        """Return all users, ordered by name."""
        with self._open() as connection:
            self._missing(connection)
            rows = connection.execute('SELECT * FROM user ORDER BY username').fetchall()
            return [_user(connection, row) for row in rows]

    def get(self, username: str) -> LocalUser:
        """Return the user of that name.

        :raises NoSuchUserError: there is no such user.
        """
        with self._open() as connection:
            return _user(connection, self._existing(connection, username))

    def find(self, username: str) -> LocalUser | None:
        """Return the user of that name, or None."""
        with self._open() as connection:
            self._missing(connection)
            row = self._row(connection, username)
            return None if row is None else _user(connection, row)

    def check_new(self, user: LocalUser) -> None:
        """Raise the error that `add` would raise for the user, with any valid password."""
        check_username(user.username)
        _checked_name(user.full_name)
        with self._open() as connection:
            self._check_new(connection, user)

    def add(self, user: LocalUser, password: str) -> None:
        """Store a new user.

        :raises UserExistsError: the name is taken. UserInputError: a name or the password is not acceptable.
        """
        check_username(user.username)
        values = (_checked_name(user.full_name), user.trusted, user.readonly, *self._hash_new(password))
        with self._change() as connection:
            self._check_new(connection, user)
            _remember_removals(connection)
            statement = (
                'INSERT INTO user (username, full_name, trusted, readonly, pwd_hash, pwd_salt)'
                ' VALUES (?, ?, ?, ?, ?, ?)'
            )
            connection.execute(statement, (user.username, *values))

    def modify(
        self,
        username: str,
        *,
        password: str | None = None,
        full_name: str | None = None,
        trusted: bool | None = None,
        readonly: bool | None = None,
    ) -> None:
        """Set the attributes that are not None. An empty full name removes the full name."""
        changes: dict[str, object] = {}
        if password is not None:
            changes['pwd_hash'], changes['pwd_salt'] = self._hash_new(password)
        if full_name is not None:
            changes['full_name'] = _checked_name(full_name)
        changes |= {name: int(on) for name, on in (('trusted', trusted), ('readonly', readonly)) if on is not None}
        with self._change() as connection:
            self._check_newest(connection)
            self._existing(connection, username)
            for column, value in changes.items():
                connection.execute(_UPDATES[column], (value, username))

    def delete(self, username: str) -> None:
        """Remove a user. The file keeps count of the removed users of a name."""
        with self._change() as connection:
            self._existing(connection, username)
            _remember_removals(connection)
            connection.execute('DELETE FROM user WHERE username = ?', (username,))

    def authenticate(self, username: str, password: str, rehash: bool = True) -> LocalUser | None:
        """Return the user if the password is right, else None. Both take the same time, also for an unknown user.

        rehash: store a password anew that is stored in an older way, if the file can be written.
        """
        with self._open() as connection:
            self._missing(connection)
            row = self._row(connection, username)
            user = None if row is None else _user(connection, row)
        stored, salt = (str(row['pwd_hash']), str(row['pwd_salt'])) if row else ('', '')
        given = password.encode()
        right, newer = waiting.aside(lambda: _check_password(given, stored, salt))
        if row is None or not right:
            return None
        if newer and rehash and user and self._replace_hash(username, stored, newer):
            return replace(user, mark=_mark(newer))
        return user

    def _replace_hash(self, username: str, stored: str, newer: str) -> bool:
        """Store a newer hash of the same password; return False if the password was changed meanwhile or on failure."""
        try:
            with self._change() as connection:
                statement = "UPDATE user SET pwd_hash = ?, pwd_salt = '' WHERE username = ? AND pwd_hash = ?"
                return connection.execute(statement, (newer, username, stored)).rowcount > 0
        except UserFileError as exc:
            log.warning('cannot store a newer hash of the password of %r: %s', username, exc)
            return False

    def _missing(self, connection: sqlite3.Connection) -> list[str]:
        columns = _columns(connection)
        if not columns >= _OLDEST_COLUMNS:
            raise UserFileLayoutError(f'{self.path}: has no table of users (create it with create-database)')
        return [column for column in _NEWER_COLUMNS if column not in columns]

    def _check_newest(self, connection: sqlite3.Connection) -> None:
        if self._missing(connection):
            raise UserFileLayoutError(f'{self.path}: has an older layout (bring it up to date: upgrade-database)')

    def _check_new(self, connection: sqlite3.Connection, user: LocalUser) -> None:
        self._check_newest(connection)
        if self._row(connection, user.username):
            raise UserExistsError(f'user {user.username!r} exists already')

    def _existing(self, connection: sqlite3.Connection, username: str) -> sqlite3.Row:
        self._missing(connection)
        row = self._row(connection, username)
        if row is None:
            raise NoSuchUserError(f'no user {username!r}')
        return row

    def _row(self, connection: sqlite3.Connection, username: str) -> sqlite3.Row | None:
        row: sqlite3.Row | None = connection.execute('SELECT * FROM user WHERE username = ?', (username,)).fetchone()
        return row

    @contextlib.contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """Open the file and yield a connection in a writing transaction."""
        with self._open() as connection:
            connection.execute('BEGIN IMMEDIATE')
            yield connection
            connection.execute('COMMIT')

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with _sqlite_errors(self.path), contextlib.closing(_connect(self.path)) as connection:
            connection.row_factory = sqlite3.Row
            yield connection


_COLUMNS = {'username': None, 'pwd_salt': None, 'pwd_hash': None, 'full_name': None, 'trusted': 0, 'readonly': 0}
_INSERT = f'INSERT INTO user ({", ".join(_COLUMNS)}) VALUES ({", ".join("?" * len(_COLUMNS))})'
_UPDATES = {
    column: f'UPDATE user SET {column} = ? WHERE username = ?'
    for column in ('pwd_hash', 'pwd_salt', 'full_name', 'trusted', 'readonly')
}


def _owner(account: str) -> tuple[int, int]:
    found = pwd.getpwuid(int(account)) if account.isdecimal() else pwd.getpwnam(account)
    return found.pw_uid, found.pw_gid


def _owner_of(directory: str) -> tuple[int, int]:
    status = os.stat(directory)
    return status.st_uid, status.st_gid


def check_username(username: str) -> None:
    """Refuse a name for a new user that is not acceptable. Existing users with such a name keep it.

    :raises UserInputError: naming the accepted names.
    """
    if problem := problem_of(username):
        shown = ascii(username if len(username) <= LONGEST_NAME else f'{username[:LONGEST_NAME]}…')
        raise UserInputError(f'the name of a user {problem}: {shown} ({ACCEPTED})')


def check_password(password: str, *, chosen: bool = True) -> None:
    """Refuse a new password that is too short or too long. Existing passwords of other lengths stay valid.

    chosen: whether a person chooses it now. A script of the former program may set a shorter password.

    :raises UserInputError: naming the accepted lengths.
    """
    if not password:
        raise UserInputError('the password must not be empty')
    if len(password) > LONGEST_PASSWORD or (chosen and len(password) < SHORTEST_PASSWORD):
        raise UserInputError(f'the password must have {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters')


def _checked_name(full_name: str | None) -> str | None:
    if full_name and control_characters(full_name):
        raise UserInputError(f'a full name must not contain control characters: {full_name!r}')
    if full_name and len(full_name) > LONGEST_FULL_NAME:
        raise UserInputError(f'a full name must not have more than {LONGEST_FULL_NAME} characters')
    return full_name or None


def _columns(connection: sqlite3.Connection) -> set[str]:
    return {row['name'] for row in connection.execute('PRAGMA table_info(user)')}


def _is_table(connection: sqlite3.Connection, name: str) -> bool:
    """Return whether this is the name of a table with its rows in the file, and not of a view or a virtual table."""
    statement = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND lower(name) = ? AND rootpage > 0"
    return bool(connection.execute(statement, (name,)).fetchone()[0])


def _remember_removals(connection: sqlite3.Connection) -> None:
    """Create the table and the trigger that count removed accounts by name, unless they exist."""
    for statement in _REMEMBER_REMOVALS:
        connection.execute(statement)


def _predecessors(connection: sqlite3.Connection, username: str) -> int:
    if not connection.execute('PRAGMA table_info(former_user)').fetchall():
        return 0
    row = connection.execute('SELECT removals FROM former_user WHERE username = ?', (username,)).fetchone()
    return 0 if row is None else int(row[0])


def _user(connection: sqlite3.Connection, row: sqlite3.Row) -> LocalUser:
    found = dict(zip(row.keys(), row, strict=True))
    full_name = found.get('full_name')
    predecessors = _predecessors(connection, str(found['username']))
    return LocalUser(
        username=str(found['username']),
        full_name=None if full_name is None else str(full_name),
        trusted=str(found.get('trusted')) == '1',
        readonly=str(found.get('readonly') or 0) != '0',
        predecessors=predecessors,
        state=state_of((*found.items(), predecessors)),
        mark=_mark(str(found['pwd_hash'])),
    )


def _mark(stored: str) -> str:
    """Return a digest of a stored password, which differs after each change because every hash has its own salt."""
    return hashlib.sha256(stored.encode(errors='surrogatepass')).hexdigest()


def _connect(path: str, check_same_thread: bool = True) -> sqlite3.Connection:
    # mode=rw never creates a file, and falls back to reading where writing is not allowed.
    uri = f'{Path(path).absolute().as_uri()}?mode=rw'
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=check_same_thread)


@contextlib.contextmanager
def _sqlite_errors(path: str) -> Iterator[None]:
    """Turn exceptions of SQLite into `UserFileError` with a readable reason. path: the file for the message."""
    try:
        yield
    except sqlite3.Error as exc:
        if not os.path.lexists(path):
            raise UserFileMissingError(f'{path}: no such file') from exc
        name = getattr(exc, 'sqlite_errorname', '')
        text = next((text for start, text in _SQLITE_ERRORS.items() if name.startswith(start)), str(exc))
        raise UserFileUnusableError(f'{path}: {text}') from exc
    except FileNotFoundError as exc:
        raise UserFileMissingError(f'{path}: no such file') from exc
    except OSError as exc:
        raise UserFileUnusableError(f'{path}: {exc.strerror}') from exc


_SQLITE_ERRORS = {
    'SQLITE_READONLY_DIRECTORY': 'cannot be written, because its directory cannot be written',
    'SQLITE_READONLY': 'cannot be written',
    'SQLITE_CANTOPEN': 'cannot be opened',
    'SQLITE_PERM': 'cannot be opened',
    'SQLITE_NOTADB': 'is not a SQLite file',
    'SQLITE_BUSY': 'is locked by another process',
}


# ------------------------------------------------------------------------------------------------------------ change


class FileWatch:
    """A watch for any change of a SQLite file by any program. A check takes a few microseconds.

    The identity and the times of the file reveal a file that was put in its place or copied over it. ``PRAGMA
    data_version``, on a connection that stays open, reveals every commit of other connections. Two changes within one
    tick of the file system's clock have the same time, so the pragma is skipped only once the file has not changed for
    `settled_s` seconds. In WAL mode the pragma is never skipped, since commits change another file.
    """

    def __init__(self, path: str, settled_s: float = 2.0) -> None:
        self._path = path
        self._settled_ns = round(settled_s * 1e9)
        self._revision = 0
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._seen: tuple[int, ...] = ()
        self._data_version = 0
        self._in_place = self._settled = False

    def revision(self) -> int:
        """Return a number that grows with every change of the file.

        :raises UserFileError: the file cannot be read.
        """
        if self._pid != os.getpid():
            # SQLite forbids even closing a parent's connection in a child process, so it stays open and unused.
            _inherited.append(self._connection)
            self._start()
        with self._lock, _sqlite_errors(self._path):
            self._look()
            return self._revision

    def _look(self) -> None:
        status = os.stat(self._path)
        seen = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
        connection = self._connection
        if connection is None or seen != self._seen:
            connection = self._open_again()
            self._seen = seen
        elif self._settled:
            return
        data_version = connection.execute('PRAGMA data_version').fetchone()[0]
        if data_version != self._data_version:
            self._data_version = data_version
            self._revision += 1
        # A commit after the check above would give the file a later time.
        self._settled = self._in_place and time.time_ns() - status.st_ctime_ns > self._settled_ns

    def _open_again(self) -> sqlite3.Connection:
        self._close_connection()
        self._revision += 1
        self._settled = False
        self._connection = connection = _connect(self._path, check_same_thread=False)
        self._in_place = connection.execute('PRAGMA journal_mode').fetchone()[0] != 'wal'
        return connection

    def close(self) -> None:
        """Close the file. The next call of `revision` opens it again."""
        if self._pid == os.getpid():
            with self._lock:
                self._close_connection()

    def _close_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


_inherited: list[sqlite3.Connection | None] = []


# --------------------------------------------------------------------------------------------------- password hashes

# A hash takes 32 MB and about 0.1 s.
_LOG2_N, _R, _P = 15, 8, 1
_SALT_BYTES, _HASH_BYTES = 16, 32
_SCRYPT = re.compile(r'\$scrypt\$ln=(\d{1,2}),r=(\d{1,3}),p=(\d{1,3})\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)')
_SHA1 = re.compile('[0-9a-fA-F]{40}')
_SALT_CHARACTERS = string.ascii_letters + string.digits
_MOST_MEMORY = 2**30


def hash_password(password: bytes) -> str:
    """Return a password as it is stored: ``$scrypt$ln=LOG2_N,r=R,p=P$SALT$HASH``, with unpadded base64 at the end."""
    salt = secrets.token_bytes(_SALT_BYTES)
    digest = _scrypt(password, salt, _LOG2_N, _R, _P, _HASH_BYTES)
    return f'$scrypt$ln={_LOG2_N},r={_R},p={_P}${_to_base64(salt)}${_to_base64(digest)}'


def _check_password(password: bytes, stored: str, salt: str) -> tuple[bool, str | None]:
    """Return whether a password is the stored one, and a newer hash if it is stored in an older way.

    The password is hashed with scrypt in every case, so that the time does not reveal whether a user exists or has an
    older hash.
    """
    found = _SCRYPT.fullmatch(stored)
    checked = _check_scrypt(password, found) if found else None
    if checked is not None:
        return checked
    newer = hash_password(password)
    if found:
        return False, None
    if not _SHA1.fullmatch(stored):
        if stored:
            log.warning('a stored password hash has an unknown format')
        return False, None
    return hmac.compare_digest(_sha1(password, salt), stored.lower()), newer


def _check_scrypt(password: bytes, found: re.Match[str]) -> tuple[bool, str | None] | None:
    """Check a password against a scrypt hash: return whether it is right, and a newer hash if the parameters are old.

    Return None without hashing when the stored hash cannot be used.
    """
    log2_n, r, p = (int(found[number]) for number in (1, 2, 3))
    if 128 * r * 2**log2_n > _MOST_MEMORY:
        log.warning('a stored password hash asks for too much memory')
        return None
    try:
        salt, expected = _from_base64(found[4]), _from_base64(found[5])
        digest = _scrypt(password, salt, log2_n, r, p, len(expected))
    except ValueError:
        log.warning('a stored password hash is damaged')
        return None
    right = hmac.compare_digest(digest, expected)
    outdated = (log2_n, r, p, len(expected)) != (_LOG2_N, _R, _P, _HASH_BYTES)
    return right, hash_password(password) if right and outdated else None


def _hash_new(password: str) -> tuple[str, str]:
    """Return the hash of a new password and an empty salt, because the hash contains its salt."""
    if not password:
        raise UserInputError('the password must not be empty')
    return hash_password(password.encode()), ''


def _hash_legacy(password: str) -> tuple[str, str]:
    """Return the hash and salt of a new password in the form of older files."""
    if not password:
        raise UserInputError('the password must not be empty')
    salt = ''.join(secrets.choice(_SALT_CHARACTERS) for _ in range(8))
    return _sha1(password.encode(), salt), salt


def _sha1(password: bytes, salt: str) -> str:
    return hashlib.sha1(salt.encode() + password, usedforsecurity=False).hexdigest()


def _scrypt(password: bytes, salt: bytes, log2_n: int, r: int, p: int, size: int) -> bytes:
    n = 2**log2_n
    needed = 128 * r * (n + p + 2) + 2**16
    return hashlib.scrypt(password, salt=salt, n=n, r=r, p=p, maxmem=needed, dklen=size)


def _to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip('=')


def _from_base64(text: str) -> bytes:
    return base64.b64decode(text + '=' * (-len(text) % 4), validate=True)
