"""Authentication: credentials are checked here and become the actor of a call.

Two kinds of backend check credentials. ``SqliteAuth`` keeps local accounts in a SQLite file that ``nipap-passwd``
may change at any moment; ``JwtAuth`` checks signed tokens. The result is a `Credentials`. A `Credentials` and the
``auth`` struct of a call make the `Actor` that every backend call takes as its first argument.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar, cast

import jwt

from nipap.access.hash_lane import HashLane
from nipap.access.known_logins import KnownLogins
from nipap.access.local_users import FileWatch, LocalUser, LocalUsers, UserFileError, hash_password
from nipap.access.login_limits import LoginCounts, LoginLimits
from nipap.access.names import control_characters
from nipap.access.sign_ins import EXPIRED, INVALID, UNKNOWN_USER, WRONG, SignInLog
from nipap.errors import (
    AuthenticationFailedError,
    AuthUnavailableError,
    NipapError,
    NipapInputError,
    NipapValueError,
)
from nipap.history.audit import Who
from nipap.runtime import waiting

T = TypeVar('T')

log = logging.getLogger(__name__)

__all__ = [
    'BACKEND_TYPES',
    'Actor',
    'AuthSettings',
    'Authenticator',
    'BackendSettings',
    'Credentials',
    'LocalUsers',
    'authoritative_source',
    'check_backend',
    'make_actor',
    'to_bool',
]

BACKEND_TYPES = ('SqliteAuth', 'JwtAuth')

FAILED_LOGINS = 20
FAILED_LOGINS_WINDOW_S = 60.0
LONGEST_OPTION = 255  # characters of a name that a token or a trusted user gives
TOKEN_HOURS = 8760  # a year
MOST_TOKEN_HOURS = 876_000
CLOCKS_DIFFER_S = 60
ALIKE_POLL_S = 0.02  # a login polls this often for a concurrent login with the same password

_TRUE = frozenset({'1', 'true', 'yes', 'on'})
_FALSE = frozenset({'', '0', 'false', 'no', 'off'})

_INCORRECT = 'Incorrect username or password.'
_INVALID = 'Invalid token.'
_EXPIRED = 'The token has expired.'
_NO_TOKENS = 'no auth backend of type JwtAuth is configured'


@dataclass(frozen=True)
class BackendSettings:
    """One section ``[auth.backends.NAME]``. The options may hold keys, so they are not shown.

    refusal: the reason why this backend refuses every login, if the configuration has one.
    """

    name: str
    type: str
    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    refusal: str | None = None


@dataclass(frozen=True)
class AuthSettings:
    """The section ``[auth]`` and its backends. A login without ``@backend`` goes to ``default_backend``.

    An address is allowed `failed_logins` within `failed_logins_window_s`; 0: any number.
    rehash: whether a login replaces a stored hash of the older form by a newer one. NIPAP's web client, with a library
    of its own, understands the older form only.
    """

    default_backend: str
    cache_timeout_s: int
    backends: Mapping[str, BackendSettings]
    failed_logins: int = FAILED_LOGINS
    failed_logins_window_s: float = FAILED_LOGINS_WINDOW_S
    rehash: bool = True


def _always() -> bool:
    return True


@dataclass(frozen=True)
class Credentials:
    """A user with a proved identity, as described by the backend that checked it.

    username: the name within that backend.
    identity: the name among the users of all backends, if it differs from `username`.
    predecessors: the number of earlier accounts of this name that were removed.
    are_valid: returns whether the same proof would give the same rights now; costs microseconds.
    backend: the name of that backend.
    """

    username: str
    full_name: str | None = None
    readonly: bool = False
    trusted: bool = False
    identity: str | None = None
    predecessors: int = 0
    are_valid: Callable[[], bool] = field(default=_always, compare=False, repr=False)
    backend: str | None = field(default=None, compare=False)

    @property
    def authenticated_as(self) -> str:
        """Return the name that is unique among the users of all backends."""
        return self.identity or self.username


@dataclass(frozen=True)
class Actor:
    """The author of a call: the user for whom it is made, the logged-in user, and the system from which it comes.

    authenticated_as: ``name`` for users of the default backend, ``name@backend`` for users of other backends.
    predecessors: the number of earlier accounts of that name that were removed. Their stored answers are not returned
    to this actor.
    is_valid: returns whether the credentials of this actor are still valid. Long calls check it from time to time.
    """

    username: str
    full_name: str | None
    authenticated_as: str
    authoritative_source: str
    readonly: bool
    trusted: bool = False
    predecessors: int = 0
    is_valid: Callable[[], bool] = field(default=_always, compare=False, repr=False)

    @property
    def who(self) -> Who:
        """The actor in the form of the audit log."""
        return Who(self.username, self.authenticated_as, self.full_name, self.authoritative_source)


def make_actor(credentials: Credentials, options: Mapping[str, object]) -> Actor:
    """Make the actor of a call from proved credentials and the call's ``auth`` struct.

    A trusted user may name a ``username`` and ``full_name`` to act for, and may give up the right to make changes with
    ``readonly``. No user gains the right that way. For other users the three members are ignored, valid or not.

    :raises NipapError: there is no ``authoritative_source``, or a member of a trusted user is not valid.
    """
    source = authoritative_source(options)
    own, readonly = credentials.username, credentials.readonly
    username, full_name = own, credentials.full_name
    if credentials.trusted:
        username = _text_option(options, 'username') or own
        full_name = _text_option(options, 'full_name') or (full_name if username == own else None)
        readonly = readonly or _bool_option(options, 'readonly')
    proved = credentials.authenticated_as
    trusted, predecessors, are_valid = credentials.trusted, credentials.predecessors, credentials.are_valid
    return Actor(username, full_name, proved, source, readonly, trusted, predecessors, are_valid)


def authoritative_source(options: Mapping[str, object]) -> str:
    """Return the mandatory member of the ``auth`` struct that names the system from which a change comes.

    :raises NipapError: it is missing or not valid.
    """
    source = options.get('authoritative_source')
    if not isinstance(source, str):
        raise NipapError('Missing authoritative source in auth options.')
    return _storable('authoritative_source', source)


def _text_option(options: Mapping[str, object], name: str) -> str | None:
    value = options.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise NipapInputError(f"'{name}' in auth options must be a string.")
    return _storable(name, value)


def _bool_option(options: Mapping[str, object], name: str) -> bool:
    value = to_bool(options.get(name))
    if value is None:
        raise NipapValueError(f"'{name}' in auth options must be a boolean: true or false.")
    return value


def _storable(name: str, value: str) -> str:
    if control_characters(value):
        raise NipapValueError(f"'{name}' in auth options has a control character.")
    if len(value) > LONGEST_OPTION:
        raise NipapValueError(f"'{name}' in auth options has more than {LONGEST_OPTION} characters.")
    return value


def to_bool(value: object) -> bool | None:
    """Parse a boolean as clients write it (``True``, 1, ``'yes'``, nil for false); return None for any other value."""
    text = '' if value is None else str(value).strip().lower()
    return True if text in _TRUE else False if text in _FALSE else None


class Authenticator:
    """The configured backends, which check credentials. One per process; it opens files only when first used.

    counts: the counts of failed logins. known: the logins that succeeded. By default both are in the memory of this
    process alone. lane: limits the hashing of passwords. An authenticator without a lane may be used by several
    threads at once. sign_ins: takes the sign-ins of requests; None: they are not logged.
    """

    def __init__(
        self,
        settings: AuthSettings,
        counts: LoginCounts | None = None,
        known: KnownLogins | None = None,
        lane: HashLane | None = None,
        sign_ins: SignInLog | None = None,
    ) -> None:
        self._settings = settings
        self.sign_ins = sign_ins
        known = known or KnownLogins()
        self._limits = LoginLimits(settings.failed_logins, settings.failed_logins_window_s, counts)
        self._local: dict[str, _LocalAccounts] = {}
        self._tokens: list[_Tokens] = []
        for name, backend in settings.backends.items():
            if backend.refusal is not None:
                continue
            if backend.type == 'SqliteAuth':
                self._local[name] = _LocalAccounts(settings, backend, known, lane)
            else:
                self._tokens.append(_Tokens(backend, settings))

    def login(self, username: str, password: str, address: str | None = None) -> Credentials:
        """Check the password of ``user`` or ``user@backend`` and return the credentials.

        A login that is not remembered costs the time of hashing a password, about 0.1 s. After many failed logins from
        the address, a login may be delayed, or refused without checking the password. Failed logins do not affect
        remembered logins, nor passwords that were right within a day.

        :raises AuthenticationFailedError: the user or the password is wrong, or the login is refused.
        """
        known = self.known_login(username, password)
        if known is not None:
            return known
        name, backend_name = self._split(username)
        accounts = self._accounts(backend_name)
        self._say_why_nobody(username)
        if _ask(accounts.was_right, backend_name, name, password):
            address = None
        credentials = self._limits.guarded(
            address, f'{name}@{backend_name}', lambda: _ask(accounts.login, backend_name, name, password)
        )
        if credentials is None:
            exists = _ask(lambda name, _: accounts.exists(name), backend_name, name, '')
            raise AuthenticationFailedError(_INCORRECT).logged_as(WRONG if exists else UNKNOWN_USER)
        return credentials

    def known_login(self, username: str, password: str) -> Credentials | None:
        """Return the remembered answer of `login` if it is still valid, else None. No password is hashed."""
        name, backend_name = self._split(username)
        return _ask(self._accounts(backend_name).remembered, backend_name, name, password)

    def login_token(self, token: str) -> Credentials:
        """Check a Bearer token with each token backend until one accepts it; return the credentials.

        :raises AuthenticationFailedError: no backend accepts the token.
        """
        if not self._tokens:
            reasons = [each.refusal for each in self._settings.backends.values() if each.type == 'JwtAuth']
            raise AuthenticationFailedError(f'Tokens are not accepted: {next(filter(None, reasons), _NO_TOKENS)}.')
        error = AuthenticationFailedError(_INVALID).logged_as(INVALID)
        for backend in self._tokens:
            try:
                return backend.login(token)
            except jwt.ExpiredSignatureError:
                error = AuthenticationFailedError(_EXPIRED).logged_as(EXPIRED, backend.user_of(token))
            except AuthenticationFailedError as exc:  # another backend may take it
                error = exc.logged_as(INVALID)
            except (jwt.PyJWTError, ValueError, OverflowError, RecursionError) as exc:
                log.debug('token refused: %s', exc)
        raise error

    def claimed(self, username: str) -> tuple[str, str | None]:
        """Return the name of a claimed user among the users of all backends, and the backend; None if unknown."""
        name, backend_name = self._split(username)
        if backend_name not in self._settings.backends:
            return username, None
        return identity_of(self._settings, backend_name, name) or name, backend_name

    def close(self) -> None:
        """Close the files; the next login opens them again."""
        for accounts in self._local.values():
            accounts.close()

    def _accounts(self, backend_name: str) -> _LocalAccounts | _NoAccounts:
        """Return the accounts of a backend.

        A backend that has no accounts, or is unknown, gets a stand-in that clients cannot tell from accounts.
        """
        others = self._local.get(self._settings.default_backend) or next(iter(self._local.values()), None)
        return self._local.get(backend_name) or _NoAccounts(others)

    def _say_why_nobody(self, username: str) -> None:
        """Refuse a login without the name of a backend if the configuration has the default backend refuse every login.

        For other backends the reason is only logged, since the answer would reveal the names of backends.

        :raises AuthenticationFailedError: with the reason.
        """
        _, backend_name = self._split(username)
        backend = self._settings.backends.get(backend_name)
        if backend is None or backend.refusal is None:
            return
        log.info('auth backend %s refuses every login: %s', backend_name, backend.refusal)
        if '@' not in username:
            raise AuthenticationFailedError(f'The default auth backend refuses every login: {backend.refusal}.')

    def _split(self, username: str) -> tuple[str, str]:
        name, at, backend_name = username.rpartition('@')
        return (name, backend_name) if at else (username, self._settings.default_backend)


def _ask(question: Callable[[str, str], T | None], backend_name: str, name: str, password: str) -> T | None:
    """Ask a file of accounts and return its answer. A fault of the file is logged and hidden from clients.

    :raises AuthUnavailableError: the file cannot be used.
    """
    try:
        return question(name, password)
    except UnicodeEncodeError:
        return None
    except UserFileError as exc:
        log.error('auth backend %s: %s', backend_name, exc)
        raise AuthUnavailableError('The auth backend is not available.', str(exc)) from exc


def check_backend(settings: BackendSettings) -> None:
    """Check the options of a backend.

    :raises ValueError: naming the missing or wrong option.
    """
    if settings.type == 'JwtAuth':
        _token_key(settings.options)
        _token_hours(settings.options)


def identity_of(settings: AuthSettings, backend_name: str, username: str) -> str | None:
    """Return the name of a user among the users of all backends; None when it is the plain name.

    A user of the default backend gets the long form too when the plain name ends with ``@`` and the name of a backend.
    """
    _, at, end = username.rpartition('@')
    is_plain = backend_name == settings.default_backend and not (at and end in settings.backends)
    return None if is_plain else f'{username}@{backend_name}'


# ------------------------------------------------------------------------------------------------------------ tokens


class _Tokens:
    """The tokens of one issuer: JSON Web Tokens, signed with a shared key, or with a private key of known public half.

    ``audience`` and ``issuer`` are compared when configured. A token for an audience is refused when no audience is
    configured.
    """

    def __init__(self, backend: BackendSettings, settings: AuthSettings) -> None:
        options = backend.options
        self._name, self._settings = backend.name, settings
        self._key, self._algorithm = _token_key(options)
        self._hours = _token_hours(options)
        self._audience, self._issuer = options.get('audience') or None, options.get('issuer') or None

    def login(self, token: str) -> Credentials:
        claims = jwt.decode(
            token,
            self._key,
            algorithms=[self._algorithm],
            audience=self._audience,
            issuer=self._issuer,
            options={'require': ['exp']},
        )
        claimed = _claimed(claims)
        self._check_lifetime(claims)
        identity = identity_of(self._settings, self._name, claimed.username)
        return replace(claimed, identity=identity, backend=self._name)

    def user_of(self, token: str) -> str | None:
        """Return the user of a token whose signature was verified; None for a token without a proper user."""
        try:
            claimed = _claimed(jwt.decode(token, options={'verify_signature': False}))
        except (jwt.PyJWTError, ValueError, OverflowError, RecursionError, KeyError):
            return None
        return identity_of(self._settings, self._name, claimed.username) or claimed.username

    def _check_lifetime(self, claims: Mapping[str, Any]) -> None:
        """Refuse a token that is valid for too long, counted from its issue or from now, the earlier of both.

        :raises AuthenticationFailedError: naming the limit.
        """
        now = time.time()
        begins = min(now, claims.get('iat') or now)
        if int(claims['exp']) - begins > self._hours * 3600 + CLOCKS_DIFFER_S:
            raise AuthenticationFailedError(
                f'The token is valid for too long: at most {self._hours} hours are accepted.'
            )


def _claimed(claims: Mapping[str, object]) -> Credentials:
    username, full_name = claims.get('username') or claims.get('sub'), claims.get('full_name') or None
    readonly, trusted = to_bool(claims.get('readonly')), to_bool(claims.get('trusted'))
    if not isinstance(username, str) or not username or not isinstance(full_name, str | None):
        raise ValueError('the name of the user is missing or has the wrong type')
    if readonly is None or trusted is None:
        raise ValueError('readonly or trusted is not a boolean')
    if control_characters(username + (full_name or '')) or max(len(username), len(full_name or '')) > LONGEST_OPTION:
        raise ValueError('a claim about the user has a control character, or is too long')
    ends = int(cast('float | str', claims['exp']))  # as `jwt.decode` has read it
    return Credentials(username, full_name, readonly, trusted, are_valid=lambda: time.time() < ends)


def _token_hours(options: Mapping[str, str]) -> int:
    """Return the most hours for which a token may be valid."""
    text = options.get('max_token_hours') or str(TOKEN_HOURS)
    if not re.fullmatch('[0-9]{1,7}', text) or not 1 <= int(text) <= MOST_TOKEN_HOURS:
        raise ValueError(f'max_token_hours = {text}: not a number of hours (1 to {MOST_TOKEN_HOURS})')
    return int(text)


def _token_key(options: Mapping[str, str]) -> tuple[str, str]:
    """Return the key with which tokens are checked, and the one algorithm of the key.

    :raises ValueError: naming the option that is missing or wrong.
    """
    secret, public = options.get('signing_key', ''), options.get('public_key', '')
    if bool(secret) == bool(public):
        raise ValueError('one of signing_key and public_key_file is needed, and not both')
    if secret:
        _prepare('HS256', 'signing_key', secret)
        return secret, 'HS256'
    if 'PRIVATE KEY' in public:
        raise ValueError('public_key_file: holds a private key, which belongs to the issuer alone')
    for algorithm in ('RS256', 'ES256'):
        try:
            _prepare(algorithm, 'public_key_file', public)
        except TypeError:
            continue
        return public, algorithm
    raise ValueError('public_key_file: holds no public key of type RSA or EC P-256')


def _prepare(algorithm: str, option: str, key: str) -> None:
    """Raise ValueError when the text is no key, TypeError when it is a key for another algorithm."""
    try:
        jwt.get_algorithm_by_name(algorithm).prepare_key(key)
    except NotImplementedError as exc:
        raise ValueError(f"{option}: needs the Python package 'cryptography', which is not installed") from exc
    except jwt.InvalidKeyError as exc:
        raise (ValueError(f'{option}: is a public key, not a secret') if algorithm == 'HS256' else TypeError) from exc
    except ValueError as exc:
        raise ValueError(f'{option}: holds no public key in PEM format') from exc


# ---------------------------------------------------------------------------------------------------- local accounts


class _LocalAccounts:
    """The accounts of one file as a login backend. Successful logins are remembered while the account is unchanged."""

    def __init__(
        self, settings: AuthSettings, backend: BackendSettings, known: KnownLogins, lane: HashLane | None
    ) -> None:
        path = backend.options['db_path']
        self._lane = lane
        self._name, self._settings = backend.name, settings
        self._users = LocalUsers(path)
        self._watch = FileWatch(path)
        self._known = known
        self._cache = _LoginCache()
        self._hashing: set[bytes] = set()
        self._rows: tuple[int, dict[str, LocalUser | None]] = 0, {}  # a revision of the file, and its users by name

    def login(self, username: str, password: str) -> Credentials | None:
        proof = self._known.digest(self._name, username, password)
        while proof in self._hashing:  # concurrent logins with one password cost one hash
            waiting.sleep(ALIKE_POLL_S)
        self._hashing.add(proof)
        try:
            return self._prove(proof, username, password)
        finally:
            self._hashing.discard(proof)

    def _prove(self, proof: bytes, username: str, password: str) -> Credentials | None:
        # Read the revision before the account, so that credentials are never cached under a newer revision of the file.
        revision = self._watch.revision()
        credentials = self._cache.get(proof, revision)
        if credentials is None and (user := self._authenticated(username, password)):
            credentials = self._credentials(user)
            self._cache.put(proof, revision, time.monotonic() + self._settings.cache_timeout_s, credentials)
            self._known.note(proof, user.state)
        return credentials

    def _authenticated(self, username: str, password: str) -> LocalUser | None:
        hashed = partial(self._users.authenticate, username, password, self._settings.rehash)
        if self._lane is None:
            return hashed()
        was_right = self.was_right(username, password)
        return self._lane.run(hashed, f'{username}@{self._name}' if was_right else None)

    def _credentials(self, user: LocalUser) -> Credentials:
        identity = identity_of(self._settings, self._name, user.username)
        return Credentials(
            *(user.username, user.full_name, user.readonly, user.trusted, identity, user.predecessors),
            are_valid=lambda: self._is_unchanged(user),
            backend=self._name,
        )

    def remembered(self, username: str, password: str) -> Credentials | None:
        """Return the answer of `login` if this or another process has remembered it, else None. Nothing is hashed."""
        proof = self._known.digest(self._name, username, password)
        revision = self._watch.revision()
        credentials = self._cache.get(proof, revision)
        if credentials is not None:
            return credentials
        known = self._known.find(proof)
        until = known.proved_at + self._settings.cache_timeout_s if known else 0.0
        if known is None or until <= time.monotonic():
            return None
        user = self._users.find(username)
        if user is None or user.state != known.state:
            return None
        credentials = self._credentials(user)
        self._cache.put(proof, revision, until, credentials)
        return credentials

    def was_right(self, username: str, password: str) -> bool:
        """Return whether the password was right within a day, and the account is unchanged since."""
        known = self._known.find(self._known.digest(self._name, username, password))
        if known is None:
            return False
        user = self._users.find(username)
        return user is not None and user.state == known.state

    def exists(self, username: str) -> bool:
        """Return whether there is an account of this name."""
        return self._users.find(username) is not None

    def _is_unchanged(self, user: LocalUser) -> bool:
        """Return whether the user exists with unchanged password and rights; False while the file cannot be read."""
        try:
            now = self._row(user.username)
        except UserFileError as exc:
            log.info('cannot check whether user %r is unchanged: %s', user.username, exc)
            return False
        return now is not None and (now.mark, now.trusted, now.readonly) == (user.mark, user.trusted, user.readonly)

    def _row(self, username: str) -> LocalUser | None:
        """Return a user or None, read once for each revision of the file."""
        revision = self._watch.revision()
        if self._rows[0] != revision:
            self._rows = revision, {}
        rows = self._rows[1]
        if username not in rows:
            rows[username] = self._users.find(username)
        return rows[username]

    def close(self) -> None:
        self._watch.close()


class _NoAccounts:
    """A stand-in for the accounts of a backend that has none. It refuses every login, in the usual time of a login."""

    def __init__(self, others: _LocalAccounts | None) -> None:
        self._others = others

    def login(self, username: str, password: str) -> None:
        if self._others is None:
            waiting.aside(lambda: hash_password(password.encode()))
        else:
            self._others.login(_nobody(username), password)

    def remembered(self, username: str, password: str) -> None:
        if self._others is not None:
            self._others.remembered(_nobody(username), password)

    def was_right(self, username: str, password: str) -> bool:
        if self._others is not None:
            self._others.was_right(_nobody(username), password)
        return False

    def exists(self, username: str) -> bool:
        if self._others is not None:
            self._others.exists(_nobody(username))
        return False


def _nobody(username: str) -> str:
    """Return a name that no user can have, since HTTP Basic cannot carry it."""
    return f'{username}:'


class _LoginCache:
    """The successful logins of this process, remembered while the file of accounts is unchanged."""

    def __init__(self) -> None:
        self._entries: dict[bytes, tuple[int, float, Credentials]] = {}

    def get(self, proof: bytes, revision: int) -> Credentials | None:
        entry = self._entries.get(proof)
        if entry is None or entry[0] != revision or entry[1] <= time.monotonic():
            return None
        return entry[2]

    def put(self, proof: bytes, revision: int, until: float, credentials: Credentials) -> None:
        now = time.monotonic()
        # Replace the dict instead of changing it: other threads may be reading it.
        kept = {key: entry for key, entry in self._entries.copy().items() if entry[0] == revision and entry[1] > now}
        self._entries = {**kept, proof: (revision, until, credentials)}
