"""Preparations for the start: the log, tracing, the certificate, and the data directory with its lock."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import ssl
import sys
from collections.abc import Iterator

from nipapd import logs, tls
from nipapd.config import NOT_TRACED, Config, DaemonSettings, TracingSettings
from nipapd.identity import Identity
from nipapd.launch import Launch, StartError
from nipapd.locks import open_lock

log = logging.getLogger('nipapd')


def configure_log(settings: DaemonSettings) -> None:
    """Apply the configuration of the log. By default calls are not logged to a terminal."""
    at_terminal = settings.foreground and not settings.syslog and sys.stderr.isatty()
    logs.configure(
        debug=settings.debug,
        use_syslog=settings.syslog,
        as_json=settings.log_format == 'json',
        level=settings.log_level,
        access=False if settings.access_log is None and at_terminal else settings.access_log,
    )


def prepare_tracing(settings: TracingSettings) -> TracingSettings:
    """Import the modules for traces and return the settings; without OpenTelemetry, warn and return NOT_TRACED."""
    if not settings.is_on:
        return settings
    try:
        from nipapd import tracing

        tracing.prepare(settings)
    except ImportError as error:
        log.warning(
            '[tracing] is configured and OpenTelemetry is not installed (%s), so nothing is traced: '
            "pip install '.[tracing]' in the directory of nipapd's source",
            error,
        )
        return NOT_TRACED
    return settings


def tls_context(settings: DaemonSettings) -> ssl.SSLContext | None:
    """Return a context with the certificate and its key, read before privileges are dropped; None without HTTPS."""
    if settings.ssl_port is None:
        return None
    files = str(settings.ssl_cert_file), settings.ssl_key_file, settings.ssl_client_ca_file
    try:
        return tls.server_context(*files, settings.ssl_verify_client)
    except (OSError, ValueError) as error:
        problem = error.strerror if isinstance(error, OSError) else error
        raise StartError(f'cannot use the certificate {settings.ssl_cert_file}: {problem}') from error


def make_data_dir(config: Config) -> None:
    """Create the data directory. Only root opens it to others: to the accounts of PostgreSQL and of the handlers."""
    try:
        config.data_dir.mkdir(mode=0o755 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f'cannot create the data directory {config.data_dir}: {error.strerror}') from error


@contextlib.contextmanager
def serving(config: Config, alone: bool = False) -> Iterator[None]:
    """Lock the file `serving` of the data directory: shared for daemons, or exclusively with `alone` to keep them away.

    A handler that outlives its parent holds the shared lock as well.
    """
    path = config.data_dir / 'serving'
    try:
        descriptor = open_lock(path)
    except OSError as error:
        # The directory of another account, in which only the accounts are read.
        log.debug('cannot lock %s: %s', path, error.strerror)
        yield
        return
    try:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            problem = 'a daemon serves from it, stop it first' if alone else 'a dump is being restored there'
            raise StartError(f'{config.data_dir} is in use: {problem}') from None
        yield
    finally:
        os.close(descriptor)


def detach(launch: Launch, config: Config, identity: Identity | None) -> None:
    """Detach from the terminal. In the background stderr goes to a file, opened before privileges are dropped.

    identity: the account that this process is about to become. It has to be able to reopen the file.
    """
    path = config.data_dir / 'nipapd.log'
    owner = (identity.uid, identity.gid) if identity else None
    try:
        launch.detach(None if config.nipapd.syslog else path, owner)
    except OSError as error:
        raise StartError(f'cannot write {path}: {error.strerror}') from error
