"""What is prepared before anything runs: log, tracing, certificate, data directory, and who may use that."""

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
    """Apply the configuration of the log. Calls are not logged to a terminal unless that is asked for."""
    at_terminal = settings.foreground and not settings.syslog and sys.stderr.isatty()
    logs.configure(
        debug=settings.debug,
        use_syslog=settings.syslog,
        as_json=settings.log_format == 'json',
        level=settings.log_level,
        access=False if settings.access_log is None and at_terminal else settings.access_log,
    )


def prepare_tracing(settings: TracingSettings) -> TracingSettings:
    """Import what traces need, and return the settings; without OpenTelemetry nothing is traced."""
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
    """The certificate and its key, read while this process still may; None when only HTTP is served."""
    if settings.ssl_port is None:
        return None
    files = str(settings.ssl_cert_file), settings.ssl_key_file, settings.ssl_client_ca_file
    try:
        return tls.server_context(*files, settings.ssl_verify_client)
    except (OSError, ValueError) as error:
        problem = error.strerror if isinstance(error, OSError) else error
        raise StartError(f'cannot use the certificate {settings.ssl_cert_file}: {problem}') from error


def make_data_dir(config: Config) -> None:
    """As root the accounts of PostgreSQL and of the handlers have to enter it, otherwise nobody else has."""
    try:
        config.data_dir.mkdir(mode=0o755 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f'cannot create the data directory {config.data_dir}: {error.strerror}') from error


@contextlib.contextmanager
def serving(config: Config, alone: bool = False) -> Iterator[None]:
    """Hold the file `serving` of the data directory: shared by all who serve, or by one who wants nobody to.

    A handler that outlives its parent holds it too.
    """
    path = config.data_dir / 'serving'
    try:
        descriptor = open_lock(path)
    except OSError as error:
        # Somebody else's directory, in which only accounts are read.
        log.debug('%s cannot be held: %s', path, error.strerror)
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
    """In the background what would go to stderr goes to a file, which is opened while this process still may.

    identity: the account that this process is about to become, and that has to be able to open the file again.
    """
    path = config.data_dir / 'nipapd.log'
    owner = (identity.uid, identity.gid) if identity else None
    try:
        launch.detach(None if config.nipapd.syslog else path, owner)
    except OSError as error:
        raise StartError(f'cannot write {path}: {error.strerror}') from error
