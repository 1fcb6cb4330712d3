"""The configuration: an INI file, the command line, and a default for everything.

`load` turns them into frozen values once, before anything starts. The command line wins over the file, the file over
the defaults. A value that cannot be used raises a `ConfigError` that names file, section, key and value. An unknown
key is a warning, so that a file written for an older daemon can be read unchanged.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import os
import pwd
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from nipap.access.authentication import (
    BACKEND_TYPES,
    FAILED_LOGINS,
    FAILED_LOGINS_WINDOW_S,
    AuthSettings,
    BackendSettings,
    check_backend,
)
from nipapd import tls, values
from nipapd.commandline import Parser
from nipapd.inifile import ConfigError, File, everybody_can_read, on_one_line, read_file

T = TypeVar('T')

DEFAULT_FILE = Path('/etc/nipap/nipap.conf')
ROOT_DATA_DIR = Path('/var/lib/nipap')
LOCAL_BACKEND = 'local'
LOCAL_FILE = 'local_auth.db'
BACKEND_PREFIX = 'auth.backends.'
SHORTEST_SIGNING_KEY = 32
ADMIN_PORT = 1338
WEB_CLIENT = 'www'  # the section of NIPAP's web client


# --------------------------------------------------------------------------------------------------------------- keys


def _key(default: object, read: Callable[[str], object] = str, secret: bool = False) -> Any:
    """Return a field for a key: its default, which also stands for an empty text, and the reader of its text."""
    return field(default=default, repr=not secret, metadata={'read': read})


@dataclass(frozen=True)
class DaemonSettings:
    """``[nipapd]``, a field for every key, in the order of etc/nipap.conf.dist.

    None means not given. Without `port`, only `ssl_port` is served. Without `admin_port` the admin port is ADMIN_PORT
    if that port is free. Without `access_log` calls are logged unless the log goes to a terminal. Without
    `metrics_names` the metrics contain the names of pools and VRFs only if a token protects the metrics.
    """

    user: str | None = _key(None, values.account)
    group: str | None = _key(None, values.group)
    listen: tuple[str, ...] = _key(('127.0.0.1',), values.addresses)
    port: int | None = _key(1337, values.port)
    ssl_port: int | None = _key(None, values.port)
    ssl_cert_file: str | None = _key(None, values.path)
    ssl_key_file: str | None = _key(None, values.path)
    ssl_client_ca_file: str | None = _key(None, values.path)
    ssl_verify_client: str = _key('off', values.verify_client)
    ssl_hsts: bool = _key(True, values.boolean)
    trusted_proxies: tuple[str, ...] = _key((), values.networks)
    admin_listen: tuple[str, ...] = _key(('127.0.0.1',), values.addresses)
    admin_port: int | None = _key(None, values.admin_port)
    admin_hosts: tuple[str, ...] = _key((), values.addresses)
    backup_dir: str | None = _key(None, values.path)
    metrics_token: str | None = _key(None, values.token, secret=True)
    metrics_names: bool | None = _key(None, values.boolean)
    foreground: bool = _key(True, values.boolean)
    debug: bool = _key(False, values.boolean)
    forks: int = _key(0, values.forks)
    syslog: bool = _key(False, values.boolean)
    log_format: str = _key('text', values.log_format)
    log_level: str = _key('info', values.log_level)
    access_log: bool | None = _key(None, values.boolean)
    pid_file: str | None = _key(None, values.path)
    max_body: int = _key(10 * 2**20, values.size)
    idempotency_hours: int = _key(24, values.hours)
    sign_in_days: int = _key(400, values.days)
    history_months: int = _key(0, values.months)
    events: bool = _key(True, values.boolean)
    event_retention_hours: int = _key(168, values.hours)
    webhook_give_up: float = _key(14400.0, values.seconds)
    webhook_allow: tuple[str, ...] = _key((), values.networks)
    webhook_deny: tuple[str, ...] = _key((), values.networks)
    request_timeout: float = _key(30.0, values.some_seconds)
    drain_timeout: float = _key(30.0, values.seconds)
    most_running: int = _key(64, values.count)
    most_waiting: int = _key(512, values.count)
    running_share: int = _key(25, values.percent)
    session_share: int = _key(50, values.percent)
    streams_per_user: int = _key(50, values.count)
    most_bodies: int = _key(128 * 2**20, values.size)
    body_share: int = _key(25, values.percent)
    connection_share: int = _key(50, values.percent)
    most_values: int = _key(1_000_000, values.many)
    most_spooled: int = _key(1024 * 2**20, values.size)
    spool_share: int = _key(25, values.percent)
    min_rate: int = _key(2**10, values.size)
    hashes_at_once: int = _key(2, values.count)
    hashes_per_second: int = _key(20, values.count)
    hang_timeout: float = _key(60.0, values.seconds)
    change_timeout: float = _key(1800.0, values.seconds)
    db_host: str | None = _key(None)
    db_port: str | None = _key(None, values.ports)
    db_name: str | None = _key(None)
    db_user: str | None = _key(None)
    db_pass: str | None = _key(None, secret=True)
    db_sslmode: str | None = _key(None, values.sslmode)
    db_connections: int = _key(8, values.count)
    database_wait: float = _key(60.0, values.seconds)
    postgres_bindir: str | None = _key(None, values.path)
    postgres_user: str | None = _key(None, values.account)


_KEYS = {key.name: key for key in dataclasses.fields(DaemonSettings)}


@dataclass(frozen=True)
class TracingSettings:
    """``[tracing]``, a field for every key. Without an endpoint nothing is traced."""

    otlp_grpc_endpoint: str | None = _key(None, values.endpoint)
    otlp_http_endpoint: str | None = _key(None, values.http_endpoint)
    otel_traces_sampler: str = _key('parentbased_always_on', values.sampler)
    trace_id_header: bool = _key(False, values.boolean)

    @property
    def is_on(self) -> bool:
        """Whether there is a collector."""
        return bool(self.otlp_grpc_endpoint or self.otlp_http_endpoint)


NOT_TRACED = TracingSettings()
_TRACING_KEYS = {key.name: key for key in dataclasses.fields(TracingSettings)}


@dataclass(frozen=True)
class KafkaSettings:
    """``[kafka]``: the brokers that events are delivered to, if `enabled`."""

    enabled: bool = _key(False, values.boolean)
    brokers: str | None = _key(None)
    topic_prefix: str = _key('nipap.', values.topic_prefix)
    security_protocol: str = _key('plaintext', values.security_protocol)
    sasl_mechanism: str | None = _key(None)
    sasl_username: str | None = _key(None)
    sasl_password: str | None = _key(None, secret=True)
    ssl_cafile: str | None = _key(None, values.path)


LATER_TYPES = ('LdapAuth',)
_AUTH_KEYS = ('default_backend', 'auth_cache_timeout', 'failed_logins', 'failed_logins_window', 'password_hash')
_BACKEND_KEYS = {
    'SqliteAuth': ('type', 'db_path'),
    'JwtAuth': ('type', 'signing_key', 'public_key_file', 'audience', 'issuer', 'max_token_hours'),
}


@dataclass(frozen=True)
class Config:
    """The configuration of a daemon: file, command line and defaults together."""

    nipapd: DaemonSettings
    auth: AuthSettings
    data_dir: Path
    path: Path | None = None
    warnings: tuple[str, ...] = ()
    tracing: TracingSettings = NOT_TRACED
    auto_install_db: bool = False
    auto_upgrade_db: bool = False
    no_backup: bool = False
    check_config: bool = False
    version: bool = False
    db_version: bool = False
    kafka: KafkaSettings = KafkaSettings()

    @property
    def embedded(self) -> bool:
        """Whether the daemon runs a PostgreSQL of its own, because no key names another one."""
        daemon = self.nipapd
        return not (daemon.db_host or daemon.db_port or daemon.db_name or daemon.db_user)

    @property
    def dsn(self) -> str:
        """The libpq connection string of the configured database, with the password.

        Without ``db_host`` libpq connects to the UNIX socket of the system's PostgreSQL. Of several hosts, libpq uses
        the one that takes writes. Raises ValueError when the database is the daemon's own.
        """
        if self.embedded:
            raise ValueError('the embedded database has a connection string only while it runs')
        daemon = self.nipapd
        parts = {
            'host': daemon.db_host,
            'port': daemon.db_port,
            'dbname': daemon.db_name or 'nipap',
            'user': daemon.db_user,
            'password': daemon.db_pass,
            'sslmode': daemon.db_sslmode,
            'target_session_attrs': 'read-write' if ',' in (daemon.db_host or '') else None,
        }
        return ' '.join(f'{name}={_quoted(value)}' for name, value in parts.items() if value)


def _quoted(value: str) -> str:
    """Quote a value for a libpq connection string."""
    return "'{}'".format(value.replace('\\', '\\\\').replace("'", "\\'"))


def load(argv: Sequence[str], environ: Mapping[str, str] | None = None, former: Config | None = None) -> Config:
    """Read the command line `argv` (without the program's name) and the file that it names.

    former: the configuration in use, to be replaced. Its file and its data directory are kept, because their defaults
    depend on the account, and the daemon may have changed its account since.

    Raises `ConfigError`. A command line with errors, and ``--help``, end the process as argparse does. With
    ``--version`` no file is read.
    """
    environ = os.environ if environ is None else environ
    options = vars(_parser().parse_args(argv))
    given, data_dir = options.pop('config'), options.pop('data_dir')
    if former:
        given = given or (str(former.path) if former.path else None)
        data_dir = str(former.data_dir)
    data_dir = data_directory(data_dir, environ)
    flags = {name: options.pop(name) for name in (flag[2:].replace('-', '_') for flag in _FLAGS)}
    file = File(None, None) if flags['version'] else _find(given)
    daemon = _daemon_settings(file, options)
    auth = _auth_settings(file, data_dir)
    tracing = _tracing_settings(file)
    kafka = _kafka_settings(file)
    file.warn_of_the_rest()
    file.warn_of_readers()
    return Config(daemon, auth, data_dir, file.path, tuple(file.warnings), tracing, kafka=kafka, **flags)


def load_accounts(
    path: str | None, data_dir: str | None, environ: Mapping[str, str] | None = None
) -> tuple[AuthSettings, str | None]:
    """Return the settings of the accounts and the daemon's user, without checking the rest of the file."""
    file = _find(path)
    auth = _auth_settings(file, data_directory(data_dir, os.environ if environ is None else environ))
    return auth, _read_key(file, 'user')


def data_directory(given: str | None, environ: Mapping[str, str]) -> Path:
    """Return the data directory, given the option ``--data-dir``."""
    if given is not None:
        return Path(given).absolute()
    if os.geteuid() == 0:
        return ROOT_DATA_DIR
    base = environ.get('XDG_DATA_HOME', '')
    if os.path.isabs(base):
        return Path(base, 'nipap')
    return Path(environ.get('HOME') or _home(), '.local', 'share', 'nipap').absolute()


def _home() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError as exc:
        raise ConfigError('HOME is not set: name the data directory with --data-dir') from exc


# ------------------------------------------------------------------------------------------------------- command line


def _argument(read: Callable[[str], object]) -> Callable[[str], object]:
    """Return `read` for argparse, which shows the text of an ArgumentTypeError but not of a ValueError."""

    def convert(text: str) -> object:
        try:
            return read(text)
        except ValueError as exc:
            raise argparse.ArgumentTypeError(f'{text!r}: {exc}') from None

    return convert


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog='nipapd',
        description='IP address management daemon. Without a configuration it keeps its data in a PostgreSQL of its '
        'own and serves this host only.',
        epilog='Options override the configuration file; etc/nipap.conf.dist explains every key of the file.',
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    add, defaults = parser.add_argument, DaemonSettings()
    add('-c', '--config', metavar='FILE', default=None, help=f'configuration (default: {DEFAULT_FILE} if it is there)')
    add(
        '-l',
        '--listen',
        metavar='ADDRESS',
        type=_argument(values.addresses),
        help=f'address to serve, or several with commas (default: {", ".join(defaults.listen)})',
    )
    add('-p', '--port', type=_argument(values.port), help=f'port for HTTP; 0: any (default: {defaults.port})')
    add('-s', '--ssl-port', metavar='PORT', type=_argument(values.port), help='port for HTTPS (default: no HTTPS)')
    add(
        '--admin-port',
        metavar='PORT',
        type=_argument(values.admin_port),
        help=f'port for health and metrics; 0: any, off: none (default: {ADMIN_PORT} if it is free)',
    )
    add('-d', '--debug', action='store_true', help='log more (default: off)')
    add('-f', '--foreground', action='store_true', help='stay in the foreground (default)')
    add('--background', action='store_false', dest='foreground', help='go to the background (default: foreground)')
    add(
        '-P',
        '--pid-file',
        metavar='FILE',
        type=_argument(values.path),
        help='write the process id to FILE (default: none)',
    )
    add(
        '--no-pid-file',
        action='store_const',
        const=None,
        dest='pid_file',
        help='write no process id, even if pid_file is configured',
    )
    add('--data-dir', metavar='DIR', default=None, help=f'data directory (default: {_default_data_dir()})')
    for flag, text in _FLAGS.items():
        add(flag, action='store_true', default=False, help=text)
    return parser


_FLAGS = {
    '--auto-install-db': 'create the schema when the configured database has none (default: off)',
    '--auto-upgrade-db': 'bring an older schema up to date (default: off)',
    '--no-backup': "upgrade the daemon's own database without writing before-NNNN.dump to the data directory first",
    '--check-config': 'check the configuration and exit; nothing is started',
    '--version': 'print the version and exit',
    '--db-version': 'print the version of the schema in the database and exit',
}


def _default_data_dir() -> str:
    return f'{ROOT_DATA_DIR} for root, else $XDG_DATA_HOME/nipap or ~/.local/share/nipap'


# --------------------------------------------------------------------------------------------------------------- file


def _find(given: str | None) -> File:
    """Return the given file, which must exist, or the default file if it exists."""
    if given is not None:
        return read_file(Path(os.path.abspath(given)))
    if os.access(DEFAULT_FILE, os.R_OK):
        return read_file(DEFAULT_FILE)
    file = File(None, None)
    if DEFAULT_FILE.exists():
        file.warnings.append(f'{DEFAULT_FILE}: cannot be read, so defaults are used')
    return file


# ----------------------------------------------------------------------------------------------------------- sections


def _daemon_settings(file: File, options: Mapping[str, object]) -> DaemonSettings:
    """Return [nipapd] with the command line on top. Values that the command line overrides are checked as well."""
    values: dict[str, Any] = {}
    for name in _KEYS:
        if (value := _read_key(file, name)) is not None:
            values[name] = value
    if file.has('nipapd', 'listen') and 'listen' not in values and 'listen' not in options:
        file.warn('nipapd', 'listen', 'is empty, which means 127.0.0.1; every interface is 0.0.0.0, ::')
    if file.has('nipapd', 'port') and 'port' not in values and ('ssl_port' in values or 'ssl_port' in options):
        values['port'] = None
    daemon = DaemonSettings(**{**values, **options})
    if daemon.ssl_port is not None:
        daemon = dataclasses.replace(daemon, ssl_key_file=daemon.ssl_key_file or daemon.ssl_cert_file)
        _check_certificate(file, daemon)
    return daemon


def _tracing_settings(file: File) -> TracingSettings:
    values = {name: _read_key(file, name, 'tracing', _TRACING_KEYS) for name in _TRACING_KEYS}
    settings = TracingSettings(**{name: value for name, value in values.items() if value is not None})
    if settings != NOT_TRACED and not settings.is_on:
        file.warnings.append(
            f'{file.path}: [tracing]: nothing is traced without otlp_grpc_endpoint or otlp_http_endpoint'
        )
    return settings


def _read_key(file: File, name: str, section: str = 'nipapd', keys: Mapping[str, Any] = _KEYS) -> Any:
    """Return the value of a key; None when the key is empty or missing."""
    text = file.text(section, name)
    try:
        return keys[name].metadata['read'](text) if text else None
    except ValueError as exc:
        raise file.error(section, name, str(exc)) from exc


def _check_certificate(file: File, daemon: DaemonSettings) -> None:
    """Refuse a certificate and key for ssl_port that are missing, cannot be read or do not fit together."""
    for name in ('ssl_cert_file', 'ssl_key_file'):
        path = getattr(daemon, name)
        if path is None:
            raise ConfigError(f'{file.path or "nipapd"}: [nipapd] {name}: is needed for ssl_port {daemon.ssl_port}')
        try:
            Path(path).read_bytes()
        except OSError as exc:
            raise file.error('nipapd', name, str(exc.strerror)) from exc
    try:
        tls.server_context(str(daemon.ssl_cert_file), daemon.ssl_key_file)
        if everybody_can_read(Path(str(daemon.ssl_key_file))):
            file.warnings.append(f'{daemon.ssl_key_file}: everybody can read the key of the certificate: chmod o-r')
    except (ValueError, OSError) as exc:
        problem = f'no certificate with its key ({daemon.ssl_key_file}) in PEM format, without password'
        raise file.error('nipapd', 'ssl_cert_file', problem) from exc
    _check_client_ca(file, daemon)


def _check_client_ca(file: File, daemon: DaemonSettings) -> None:
    """Refuse a configuration that asks clients for certificates without a way to verify them."""
    ca_file = daemon.ssl_client_ca_file
    if daemon.ssl_verify_client == 'off':
        if ca_file is not None:
            file.warn('nipapd', 'ssl_client_ca_file', 'is not used, because ssl_verify_client is off')
        return
    if ca_file is None:
        raise file.error('nipapd', 'ssl_verify_client', 'needs ssl_client_ca_file')
    try:
        tls.server_context(str(daemon.ssl_cert_file), daemon.ssl_key_file, ca_file, daemon.ssl_verify_client)
    except ssl.SSLError as exc:
        raise file.error('nipapd', 'ssl_client_ca_file', 'no certificates in PEM format') from exc
    except OSError as exc:
        raise file.error('nipapd', 'ssl_client_ca_file', str(exc.strerror)) from exc


def _auth_settings(file: File, data_dir: Path) -> AuthSettings:
    """Return [auth] and its backends; the default backend 'local' needs no section."""
    default = file.text('auth', 'default_backend') or LOCAL_BACKEND
    backends = {
        name: _backend(file, section, name, data_dir)
        for section in file.sections()
        if (name := section.removeprefix(BACKEND_PREFIX)) != section
    }
    if default == LOCAL_BACKEND and default not in backends:
        backends[default] = _backend(file, BACKEND_PREFIX + default, default, data_dir)
    if default not in backends:
        problem = f'there is no section [{BACKEND_PREFIX}{on_one_line(default)}]'
        raise file.error('auth', 'default_backend', problem)
    return AuthSettings(
        default,
        _read_auth_key(file, 'auth_cache_timeout', values.timeout, 3600),
        MappingProxyType(backends),
        _read_auth_key(file, 'failed_logins', values.failures, FAILED_LOGINS),
        _read_auth_key(file, 'failed_logins_window', values.some_seconds, FAILED_LOGINS_WINDOW_S),
        _rehashes(file),
    )


def _rehashes(file: File) -> bool:
    """Return whether logins replace password hashes of the older form.

    NIPAP's web client opens the accounts itself and may understand the older form only. So the mere presence of its
    section keeps stored hashes as they are.
    """
    chosen = _read_auth_key(file, 'password_hash', values.password_hash, '')
    if WEB_CLIENT not in file.sections():
        return chosen != 'legacy'
    file.know(WEB_CLIENT)
    if not chosen:
        file.warnings.append(
            f'{file.path}: [{WEB_CLIENT}]: this section belongs to the web client of NIPAP, so passwords stored as '
            'salted SHA-1 are not converted to scrypt, though they are easily guessed: set password_hash = legacy in '
            '[auth] if the web client still reads the accounts, else remove the section'
        )
    return chosen == 'scrypt'


def _kafka_settings(file: File) -> KafkaSettings:
    """Return [kafka]. A value that is missing or cannot be used is an error only when Kafka is enabled."""
    enabled = bool(_kafka_value(file, 'enabled'))
    values: dict[str, Any] = {}
    for key in dataclasses.fields(KafkaSettings):
        try:
            value = _kafka_value(file, key.name)
        except ConfigError as exc:
            if enabled:
                raise
            file.warnings.append(f'{exc} (not used, because enabled is false)')
            continue
        if value is not None:
            values[key.name] = value
    settings = KafkaSettings(**values)
    if settings.enabled and settings.brokers is None:
        raise file.error('kafka', 'brokers', 'is needed when Kafka is enabled')
    if settings.enabled and importlib.util.find_spec('confluent_kafka') is None:
        problem = "needs the package confluent-kafka: pip install '.[kafka]' in the directory of nipapd's source"
        raise file.error('kafka', 'enabled', problem)
    return settings


def _kafka_value(file: File, name: str) -> Any:
    keys = {key.name: key for key in dataclasses.fields(KafkaSettings)}
    return _read_key(file, name, 'kafka', keys)


def _read_auth_key(file: File, name: str, read: Callable[[str], T], default: T) -> T:
    text = file.text('auth', name)
    try:
        return read(text) if text else default
    except ValueError as exc:
        raise file.error('auth', name, str(exc)) from exc


def _backend(file: File, section: str, name: str, data_dir: Path) -> BackendSettings:
    kind = file.text(section, 'type') or ('SqliteAuth' if name == LOCAL_BACKEND else '')
    if kind in LATER_TYPES:
        return _later_backend(file, section, name, kind, f'type = {kind}')
    if kind == 'JwtAuth' and file.text(section, 'jwk_url'):
        if not file.text(section, 'signing_key') and not file.text(section, 'public_key_file'):
            return _later_backend(file, section, name, kind, 'jwk_url')
        file.warn(section, 'jwk_url', 'is not supported by this version, ignored')
    if kind not in BACKEND_TYPES:
        raise file.error(section, 'type', f'the types of backend are {" and ".join(BACKEND_TYPES)}')
    given = {key: text for key in _BACKEND_KEYS[kind] if (text := file.text(section, key)) and key != 'type'}
    if kind == 'SqliteAuth':
        # An absolute path stays as it is.
        given['db_path'] = str(data_dir / given.get('db_path', LOCAL_FILE))
    elif 'public_key_file' in given:
        given['public_key'] = _public_key(file, section, given.pop('public_key_file'))
    settings = BackendSettings(name, kind, MappingProxyType(given))
    try:
        check_backend(settings)
    except ValueError as exc:
        raise ConfigError(f'{file.path}: [{on_one_line(section)}] {exc}') from exc
    if 0 < len(given.get('signing_key', '').encode()) < SHORTEST_SIGNING_KEY:
        file.warn(section, 'signing_key', f'has fewer than {SHORTEST_SIGNING_KEY} bytes, which can be guessed')
    return settings


def _later_backend(file: File, section: str, name: str, kind: str, what: str) -> BackendSettings:
    """Return a backend of a type that NIPAP has and this version lacks: it refuses every login."""
    file.know(section)
    file.warnings.append(
        f'{file.path}: [{on_one_line(section)}] {what}: is not supported by this version, logins with it are refused'
    )
    return BackendSettings(name, kind, refusal=f'{what} is not supported by this version of nipapd')


def _public_key(file: File, section: str, path: str) -> str:
    """Return the key itself: the daemon may be unable to read the file once it runs as another user."""
    try:
        return Path(path).read_text('ascii')
    except OSError as exc:
        raise file.error(section, 'public_key_file', str(exc.strerror)) from exc
    except ValueError as exc:
        raise file.error(section, 'public_key_file', 'holds no public key in PEM format') from exc
