"""The command `nipapd`: puts everything in place, then supervises the handlers.

The order is: configuration, background, log, certificate, sockets, pid file, PostgreSQL, schema, accounts,
privileges, handlers. What was started is undone in the opposite order, however the daemon ends.

Exit codes:

    0   it was asked to stop and every request was finished; with --background, it serves
    1   it could not start, or not go on; a line on stderr says why
    2   the command line or the configuration cannot be used; nothing was started
    3   it was asked to stop, and requests were cut off by the deadline or by a second signal

With `user` or `group`, and started by root, nothing that reads from the network runs as root. With a configured
database the whole daemon drops its privileges once the sockets are bound. With a database of its own the handlers
drop theirs, and the parent, which serves nothing, stays able to restart PostgreSQL and to stop it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import fcntl
import logging
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from nipap import __version__
from nipap.access.local_users import UserFileError
from nipap.access.login_limits import LoginCounts
from nipap.errors import NipapError, NipapUnavailableError
from nipap.history import events
from nipap.postgres import schema
from nipap.postgres.database import Database
from nipapd import admin, logs, senders, systemd, tls
from nipapd.accounts import create_first_user
from nipapd.config import Config, ConfigError, DaemonSettings, TracingSettings, load
from nipapd.embedded import EmbeddedPostgres, EmbeddedPostgresError
from nipapd.identity import Identity, find_user
from nipapd.launch import Launch, StartError, in_background, say
from nipapd.listening import ListenError, Listening
from nipapd.locks import open_lock
from nipapd.metrics import Board
from nipapd.pidfile import PidFileError, pid_file
from nipapd.prefork import EXIT_FAILED, EXIT_OK, SHOW_STACK, Generation, HandlerMain, Pulse, Supervisor
from nipapd.server import Shares
from nipapd.worker import Listeners, Service

log = logging.getLogger('nipapd')

EXIT_USAGE = 2
SUPERVISOR_GRACE_S = 1.0
OTHERS_INSTALL_S = 10.0
RESTART_TIMEOUT_S = 10.0
SHARED_CHECK_S = 2.0
LONGEST_PAUSE_S = 30.0


EXPECTED = (
    *(StartError, ListenError, systemd.ActivationError),
    *(EmbeddedPostgresError, PidFileError, UserFileError, logs.LogError),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; returns the exit code."""
    given = sys.argv[1:] if argv is None else argv
    try:
        config = load(given)
    except ConfigError as error:
        say(str(error))
        return EXIT_USAGE
    if config.version:
        print(f'nipapd {__version__}')
        return EXIT_OK
    if config.db_version:
        return reporting_errors(lambda: print_db_version(config))
    if config.nipapd.foreground:
        return reporting_errors(lambda: run(config, Launch(), lambda: load(given)))
    reread = from_directory(os.getcwd(), lambda: load(given))
    return in_background(lambda launch: reporting_errors(lambda: run(config, launch, reread)))


def from_directory(directory: str, read: Callable[[], Config]) -> Callable[[], Config]:
    """The same reading in the background, where the directory is another: relative names mean what they meant."""

    def reread() -> Config:
        try:
            with contextlib.chdir(directory):
                return read()
        except OSError as error:
            raise ConfigError(f'{directory}: {error.strerror}') from error

    return reread


def reporting_errors(work: Callable[[], int]) -> int:
    try:
        return work()
    except EXPECTED as error:
        say(str(error))
        return EXIT_FAILED


def run(config: Config, launch: Launch, reread: Callable[[], Config]) -> int:
    """Be the daemon until it is told to stop; returns the exit code."""
    settings = config.nipapd
    handle_stop_signals(leave)
    faulthandler.register(SHOW_STACK)  # to the parent it means the same as to a handler
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something that can be replaced
    with contextlib.ExitStack() as stack:
        configure_log(settings)
        for warning in config.warnings:
            log.warning('%s', warning)
        prepare_tracing(config.tracing)
        listening = stack.enter_context(Listening(systemd.take_sockets(os.environ)))
        listeners = listening.open(settings, tls_context(settings))
        identity = Identity.configured(settings)
        make_data_dir(config)
        stack.enter_context(serving(config))
        if settings.pid_file is not None:
            launch.keep_private(stack.enter_context(pid_file(Path(settings.pid_file))))
        postgres = stack.enter_context(Keeper(config, identity)) if config.embedded else None
        dsn = postgres.dsn() if postgres else config.dsn
        prepare_schema(dsn, install=bool(postgres) or config.auto_install_db, config=config)
        create_first_user(config, identity)
        detach(launch, config, None if postgres else identity)
        if identity and not postgres:
            identity.assume()
        board = None if settings.forks < 0 else Board()
        service = service_of(config, dsn, listeners, LoginCounts(shared=True), board)
        stack.callback(handle_stop_signals, signal.SIG_IGN)
        renewal = Renewal(config, service, reread, listening, launch)
        return serve(service, settings, launch, postgres, identity if postgres else None, renewal)


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


def prepare_tracing(settings: TracingSettings) -> None:
    """Have what traces need, if there are to be any: OpenTelemetry is not there unless it was asked for."""
    if not settings.is_on:
        return
    try:
        from nipapd import tracing

        tracing.prepare(settings)
    except ImportError as error:
        raise StartError(
            f"[tracing] is configured and OpenTelemetry is not installed ({error}): pip install 'nipapd[tracing]'"
        ) from error


def service_of(
    config: Config, dsn: str, listeners: Listeners, login_counts: LoginCounts, board: Board | None
) -> Service:
    settings = config.nipapd
    shares = Shares(handlers(settings))
    sending = senders.Sending(dsn, settings, config.kafka)
    alone = sending if settings.forks < 0 else None
    return Service(dsn, config.auth, settings, listeners, shares, login_counts, board, config.tracing, alone)


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


def serve(
    service: Service,
    settings: DaemonSettings,
    launch: Launch,
    postgres: Keeper | None,
    identity: Identity | None,
    renewal: Renewal,
) -> int:
    """Run the handlers, or with `forks = -1` be the only one."""

    def ready() -> None:
        launch.ready(serving_lines(service.listeners))
        systemd.notify('READY=1')

    def in_child() -> None:
        launch.in_child()
        if identity:
            identity.assume()

    watch = postgres.watch if postgres else None
    board = service.board
    if settings.forks < 0 or board is None:
        return service.run_alone(ready, refusing_hangups(watch, launch))

    def stopping() -> None:
        board.drain()
        systemd.notify('STOPPING=1')

    def look() -> None:
        board.beat()
        keeper.watch()
        sender.watch()
        if watch is not None:
            watch()

    keeper = admin.Keeper(in_child)
    sender = admin.Keeper(in_child, 'the process for events', senders.NAME)
    renewal.answering_with(keeper, sender)
    supervisor = Supervisor(
        handlers(settings),
        renewal.handler_of(service),
        drain_timeout_s=settings.drain_timeout + SUPERVISOR_GRACE_S,
        hang_timeout_s=settings.hang_timeout,
        renew=renewal.begin,
        on_settled=renewal.end,
        on_ready=ready,
        on_stop=stopping,
        watch=look,
        in_child=in_child,
        on_loss=board.note_loss,
    )
    try:
        return supervisor.run()
    finally:
        keeper.stop()
        sender.stop()


def serving_lines(listeners: Listeners) -> list[str]:
    urls = [url(listener, 'http') for listener in listeners.plain]
    urls += [url(listener, 'https') for listener in listeners.tls]
    watched = [f'health and metrics on {url(listener, "http")}' for listener in listeners.admin]
    return [f'serving on {address}' for address in urls] + watched


def refusing_hangups(watch: Callable[[], None] | None, launch: Launch) -> Callable[[], None]:
    """Return the same watch. A HUP has it open the log again; a daemon that is its only handler cannot replace it."""
    hangups: list[int] = []
    signal.signal(signal.SIGHUP, lambda number, _frame: hangups.append(number))

    def look() -> None:
        if hangups:
            hangups.clear()
            launch.reopen_log()
            log.info('SIGHUP is ignored: restart nipapd to apply a changed configuration')
        if watch is not None:
            watch()

    return look


def handlers(settings: DaemonSettings) -> int:
    """How many processes serve. One for each core that this process may use, unless configured."""
    if settings.forks:
        return abs(settings.forks)
    if sys.platform == 'linux':
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def url(listener: socket.socket, scheme: str) -> str:
    host, port = listener.getsockname()[:2]
    return f'{scheme}://[{host}]:{port}' if ':' in host else f'{scheme}://{host}:{port}'


# another configuration while it runs

FIXED = ('user', 'group', 'foreground', 'syslog', 'pid_file', 'postgres_bindir', 'postgres_user')


class Renewal:
    """Has handlers replaced by such as know the configuration as it is now."""

    def __init__(
        self, config: Config, service: Service, reread: Callable[[], Config], listening: Listening, launch: Launch
    ) -> None:
        self._launch = launch
        self._config = config
        self._service = service
        self._reread = reread
        self._listening = listening
        self._begun: dict[Generation, tuple[Config, Service]] = {}
        self._admin: admin.Keeper | None = None
        self._sender: admin.Keeper | None = None

    def answering_with(self, keeper: admin.Keeper, sender: admin.Keeper) -> None:
        """Have the admin port answered, and events delivered, by processes that know the configuration in use."""
        self._admin, self._sender = keeper, sender
        self._answer()

    def _answer(self) -> None:
        service = self._service
        if self._admin is None or self._sender is None or service.board is None:
            return

        def prepare() -> None:
            self._listening.close_passed()
            self._listening.close_all_but(Listeners(admin=service.listeners.admin))

        def prepare_sender() -> None:
            self._listening.close_passed()
            self._listening.close_all_but(Listeners())

        kafka = self._config.kafka
        number, sockets = handlers(service.settings), service.listeners.admin
        self._admin.use(admin.Admin(service.dsn, service.board, number, sockets, kafka.enabled), prepare)
        self._sender.use(senders.Sending(service.dsn, service.settings, kafka), prepare_sender)

    def begin(self) -> Generation | None:
        """Read the configuration; None, when it cannot be used, and then everything stays as it is.

        The log is opened again in every case. Handlers have the former file open, so they are replaced even if the
        configuration stays.
        """
        systemd.notify_reloading()
        reopened = self._launch.reopen_log()
        try:
            return self._prepare()
        except (ConfigError, *EXPECTED) as error:
            log.error('the configuration in use stays: %s', error)
        except Exception:
            log.exception('the configuration in use stays')
        if reopened:
            shares = Shares(handlers(self._config.nipapd))  # predecessors still count in theirs
            return self._generation(self._config, dataclasses.replace(self._service, shares=shares))
        systemd.notify('READY=1')
        return None

    def handler_of(self, service: Service) -> HandlerMain:
        """What a handler does. It lets go first of sockets of others, which would stay open as long as it lives."""

        def handle(slot: int, pulse: Pulse) -> int:
            self._listening.close_all_but(dataclasses.replace(service.listeners, admin=()))
            return service.run_supervised(slot, pulse)

        return handle

    def _prepare(self) -> Generation:
        read = self._reread()
        config, fixed = applicable(self._config, read)
        settings, context = config.nipapd, tls_context(config.nipapd)
        prepare_tracing(config.tracing)
        dsn = self._service.dsn if config.embedded else config.dsn
        if dsn != self._service.dsn:
            prepare_schema(dsn, install=config.auto_install_db, config=config)
        listeners = self._listening.open(settings, context)
        configure_log(settings)
        for warning in read.warnings:
            log.warning('%s', warning)
        for key in fixed:
            log.warning('%s: [nipapd] %s: a changed value takes a restart, ignored', read.path, key)
        service = service_of(config, dsn, listeners, self._service.login_counts, self._service.board)
        generation = self._generation(config, service)
        log.info('SIGHUP: %d handlers take over with the configuration as it is now', generation.count)
        return generation

    def _generation(self, config: Config, service: Service) -> Generation:
        settings = config.nipapd
        generation = Generation(
            handlers(settings),
            self.handler_of(service),
            settings.drain_timeout + SUPERVISOR_GRACE_S,
            settings.hang_timeout,
        )
        self._begun[generation] = config, service
        return generation

    def end(self, generation: Generation) -> None:
        """All handlers are of that generation; one that was not begun here is the first."""
        self._config, self._service = self._begun.get(generation, (self._config, self._service))
        self._begun = {generation: (self._config, self._service)}
        self._answer()
        self._listening.close_all_but(self._service.listeners)
        configure_log(self._config.nipapd)
        for line in serving_lines(self._service.listeners):
            log.info('%s', line)
        systemd.notify('READY=1')


def applicable(old: Config, new: Config) -> tuple[Config, list[str]]:
    """The new configuration with the old values of what a running daemon cannot change, and the keys of those."""
    fixed = [*FIXED]
    if old.embedded != new.embedded:
        fixed += [key.name for key in dataclasses.fields(DaemonSettings) if key.name.startswith('db_')]
    if (old.nipapd.forks < 0) != (new.nipapd.forks < 0):
        fixed.append('forks')
    changed = [name for name in fixed if getattr(old.nipapd, name) != getattr(new.nipapd, name)]
    kept = {name: getattr(old.nipapd, name) for name in changed}
    return dataclasses.replace(new, nipapd=dataclasses.replace(new.nipapd, **kept)), changed


# signals before and after the supervisor has them


def handle_stop_signals(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


def leave(_number: int, _frame: FrameType | None) -> None:
    """Told to stop while starting: undo what was done, undisturbed."""
    handle_stop_signals(signal.SIG_IGN)
    raise SystemExit(EXIT_OK)


# what is bound and written before anything runs


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


# the database


class Keeper:
    """Keeps a PostgreSQL in the data directory running while the daemon does."""

    def __init__(self, config: Config, identity: Identity | None) -> None:
        settings = config.nipapd
        self._postgres = EmbeddedPostgres(
            config.data_dir, bindir=settings.postgres_bindir, user=database_account(settings, identity)
        )
        self._next_look = 0.0
        self._failures = 0

    def __enter__(self) -> Keeper:
        try:
            self._postgres.start()
        except BaseException:
            self._postgres.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._postgres.stop()

    def dsn(self) -> str:
        return self._postgres.dsn()

    def watch(self) -> None:
        """Start PostgreSQL again if it has died, with pauses that grow while that fails.

        One that another daemon started on the same directory is looked at every few seconds.
        """
        process = self._postgres.proc
        if (process and process.poll() is None) or time.monotonic() < self._next_look:
            return
        if process:
            log.error('PostgreSQL has ended (status %d), starting it again', process.returncode)
        try:
            self._postgres.start(RESTART_TIMEOUT_S)
        except EmbeddedPostgresError as error:
            self._failures += 1
            pause_s = min(LONGEST_PAUSE_S, 2.0**self._failures)
            log.error('PostgreSQL cannot be started, trying again in %g s: %s', pause_s, error)
            self._next_look = time.monotonic() + pause_s
            return
        self._failures = 0
        self._next_look = time.monotonic() + SHARED_CHECK_S if self._postgres.proc is None else 0.0


def database_account(settings: DaemonSettings, identity: Identity | None) -> str | None:
    """The account that PostgreSQL runs as: that of the handlers, who alone may reach its socket."""
    configured = find_user(settings.postgres_user).pw_name if settings.postgres_user else None
    if identity is None or identity.uid == 0:
        return configured
    if configured not in (None, identity.name):
        raise StartError(
            f'handlers that run as {identity.name} cannot reach a PostgreSQL that runs as {configured}: '
            'give user and postgres_user the same name, or leave out postgres_user'
        )
    return identity.name


def prepare_schema(dsn: str, install: bool, config: Config) -> None:
    """Have a schema that this program can serve, creating or upgrading it where that is allowed."""
    upgrade = config.embedded or config.auto_upgrade_db
    with database(dsn) as db:
        schema.check_database(db)
        found = schema.version(db)
        if found and (tables := schema.predecessor(db)):
            log.warning('the database holds tables of NIPAP too, which are not served: %s', ', '.join(tables))
        if found == 0 and not install:
            raise StartError('the database has no schema: create it with --auto-install-db or with nipap-admin migrate')
        if found and not upgrade and found <= schema.latest():
            await_current_schema(db, OTHERS_INSTALL_S if install else 0.0)
        else:
            schema.migrate(db)
        if config.nipapd.events:
            events.begin(db)


def await_current_schema(db: Database, patience_s: float) -> None:
    """Raise unless this program can serve the schema, or soon will because somebody else is installing it."""
    deadline = time.monotonic() + patience_s
    while problem := schema.state(db).problem:
        if time.monotonic() >= deadline:
            raise StartError(f'{problem}: upgrade it with --auto-upgrade-db or with nipap-admin migrate')
        time.sleep(0.1)


@contextlib.contextmanager
def database(dsn: str) -> Iterator[Database]:
    """A connection for the start, closed before anything forks; what goes wrong is a StartError."""
    db = Database(dsn)
    try:
        yield db
    except (StartError, UserFileError):
        raise
    except NipapUnavailableError as error:
        raise StartError(f'the database cannot be used: {error.why}') from error
    except NipapError as error:
        raise StartError(str(error)) from error
    except Exception as error:
        log.debug('the database cannot be used', exc_info=True)
        raise StartError(f'the database cannot be used: {" ".join(str(error).split())}') from error
    finally:
        db.close()


def print_db_version(config: Config) -> int:
    """Print the version of the schema in the database, 0 when it has none."""
    with contextlib.ExitStack() as stack:
        if config.embedded:
            if not (config.data_dir / 'data' / 'PG_VERSION').exists():
                raise StartError(f'there is no database in {config.data_dir} yet')
            dsn = stack.enter_context(Keeper(config, Identity.configured(config.nipapd))).dsn()
        else:
            dsn = config.dsn
        db = stack.enter_context(database(dsn))
        found = schema.version(db)
        if not found:
            schema.check_database(db)
        print(found)
    return EXIT_OK


if __name__ == '__main__':
    sys.exit(main())
