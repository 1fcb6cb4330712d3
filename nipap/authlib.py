"""The login interface of NIPAP's web client. Only that client imports this module; the daemon does not.

The web client runs in the same Python environment and calls
``AuthFactory().get_auth(username, password, source).authenticate()``. `nipap.access` checks the login, with the
accounts of the configuration that `nipap.nipapconfig` has read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from nipap import errors
from nipap.access.authentication import Authenticator, AuthSettings, BackendSettings, make_actor
from nipap.nipapconfig import NipapConfig

PREFIX = 'auth.backends.'
ABSOLUTE = 'db_path must be an absolute path, since a relative one is in the data directory of the daemon'


class AuthError(Exception):
    """The login cannot be checked: an argument is wrong, or the back end cannot be used."""

    error_code = 1500


class AuthenticationFailed(AuthError):  # noqa: N818  (its name for 15 years)
    """The credentials are not valid."""

    error_code = 1510


class AuthorizationFailed(AuthError):  # noqa: N818  (as above)
    """The user may not do this."""

    error_code = 1520


class AuthFactory:
    """A factory of objects that check a login, with the back ends as last read from the configuration."""

    def __init__(self) -> None:
        self._config = NipapConfig()
        self.reload()

    def reload(self) -> None:
        """Read the back ends again from the configuration."""
        sections = [name for name in self._config.sections() if name.startswith(PREFIX)]
        self._backends = {name.removeprefix(PREFIX): self._backend(name) for name in sections}
        self._default = self._config.get('auth', 'default_backend', fallback='local')

    def _backend(self, section: str) -> BackendSettings:
        name, kind = section.removeprefix(PREFIX), self._config.get(section, 'type', fallback='')
        path = self._config.get(section, 'db_path', fallback='')
        if kind != 'SqliteAuth':
            return BackendSettings(name, kind, refusal=f'type = {kind} is not supported here')
        refusal = None if os.path.isabs(path) else ABSOLUTE
        return BackendSettings(name, kind, {'db_path': path}, refusal)

    def get_auth(
        self,
        username: str,
        password: str,
        authoritative_source: str,
        auth_options: Mapping[str, object] | None = None,
    ) -> BaseAuth:
        """Return an object that checks a login; ``username`` may end with ``@`` and the name of a back end.

        :raises AuthError: the back end does not exist, or the authoritative source is None.
        """
        if authoritative_source is None:
            raise AuthError('Missing authoritative_source.')
        _, at, named = username.rpartition('@')
        backend = named if at else self._default
        if backend not in self._backends:
            raise AuthError(f"Invalid auth backend '{backend}' specified")
        settings = AuthSettings(self._default, 0, self._backends, rehash=False)
        return BaseAuth(settings, backend, username, password, authoritative_source, auth_options or {})


class BaseAuth:
    """A login that `authenticate` checks. Afterwards the attributes describe the user.

    A trusted user may name another ``username``, a ``full_name`` and ``readonly`` in the options.
    """

    def __init__(
        self,
        settings: AuthSettings,
        backend: str,
        username: str,
        password: str,
        authoritative_source: str,
        options: Mapping[str, object],
    ) -> None:
        self.username = username
        self.password = password
        self.auth_backend = backend
        self.authoritative_source = authoritative_source
        self.authenticated_as: str | None = None
        self.full_name: str | None = None
        self.trusted: bool | None = None
        self.readonly: bool | None = None
        self._settings = settings
        self._options = options
        self._authenticated: bool | None = None

    def authenticate(self) -> bool:
        """Return whether the password is right. Only the first call checks the password.

        :raises AuthError: the accounts cannot be read, or the back end refuses every login.
        """
        if self._authenticated is None:
            self._authenticated = self._prove()
        return self._authenticated

    def _prove(self) -> bool:
        backend = self._settings.backends[self.auth_backend]
        if backend.refusal is not None:
            raise AuthError(f'{self.auth_backend}: {backend.refusal}')
        authenticator = Authenticator(self._settings)
        try:
            credentials = authenticator.login(self.username, self.password)
            actor = make_actor(credentials, {'authoritative_source': self.authoritative_source, **self._options})
        except errors.AuthenticationFailedError:
            return False
        except errors.NipapError as exc:
            raise AuthError(str(exc)) from exc
        finally:
            authenticator.close()
        self.username, self.full_name = actor.username, actor.full_name
        self.authenticated_as, self.authoritative_source = actor.authenticated_as, actor.authoritative_source
        self.trusted, self.readonly = actor.trusted, actor.readonly
        return True

    def authorize(self) -> bool:
        """Return whether the user has logged in and is not read-only."""
        return bool(self._authenticated) and not self.readonly
