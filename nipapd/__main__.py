"""The command `nipapd`: puts everything in place, then supervises the handlers.

The order is: configuration, background, log, certificate, sockets, pid file, PostgreSQL, backup, schema,
accounts, privileges, handlers. Every step that was taken is undone in the opposite order, however the daemon ends.

Exit codes:

    0   the daemon was asked to stop and finished every request; with --background: the daemon serves
    1   the daemon could not start or could not go on; a line on stderr says why
    2   the command line or the configuration cannot be used; nothing was started
    3   the daemon was asked to stop, and the deadline or a second signal cut off requests

When root starts the daemon, no process that reads from the network runs as root, unless `user` says so or no other
account can do it (`nipapd.privileges`). With `user` and a configured database the whole daemon drops its privileges
once the sockets are bound. Else the handlers drop theirs. The parent, which serves nothing, keeps them: it has to
restart PostgreSQL, and to read at a HUP the files that only root can read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from nipap import __version__
from nipap.access.known_logins import KnownLogins
from nipap.access.local_users import LocalUsers
from nipap.access.login_limits import LoginCounts
from nipap.access.sign_ins import SignInMarks
from nipapd import accounts, admin, backup, privileges, restored, senders, systemd
from nipapd.config import Config, DaemonSettings, load
from nipapd.databases import KeptPostgres, await_database, database, prepare_schema, print_db_version
from nipapd.identity import Identity
from nipapd.inifile import ConfigError
from nipapd.launch import Launch, in_background, say
from nipapd.listening import Listening
from nipapd.metrics import Board
from nipapd.pidfile import pid_file
from nipapd.prefork import EXIT_FAILED, EXIT_OK, SHOW_STACK, Supervisor
from nipapd.preparation import configure_log, detach, make_data_dir, prepare_tracing, serving, tls_context
from nipapd.renewal import EXPECTED, Renewal
from nipapd.running import SUPERVISOR_GRACE_S, handlers, refusing_hangups, service_of, serving_lines
from nipapd.values import forget_database_variables
from nipapd.worker import Service

log = logging.getLogger('nipapd')

EXIT_USAGE = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon, or the single action that the command line asks for, and return the exit code."""
    given = sys.argv[1:] if argv is None else argv
    try:
        config = load(given)
    except ConfigError as error:
        say(str(error))
        return EXIT_USAGE
    if config.version:
        print(f'nipapd version: {__version__}')
        return EXIT_OK
    forget_database_variables(os.environ)
    if config.check_config:
        return check_config(config)
    if config.db_version:
        return reporting_errors(lambda: print_db_version(config))
    if config.nipapd.foreground:
        return reporting_errors(lambda: run(config, Launch(), lambda: load(given, former=config)))
    reread = from_directory(os.getcwd(), lambda: load(given, former=config))
    return in_background(lambda launch: reporting_errors(lambda: run(config, launch, reread)))


def check_config(config: Config) -> int:
    """Report whether a daemon could work with the configuration, without starting or creating anything."""
    configure_log(config.nipapd)
    for warning in config.warnings:
        say(warning)
    prepare_tracing(config.tracing)
    try:
        tls_context(config.nipapd)
        identity = Identity.of(config)
        accounts.check(config, None if identity and identity.by_default else identity)
    except (*EXPECTED, OSError) as error:
        say(str(error))
        return EXIT_USAGE
    print(f'{config.path or "no file"}: the configuration can be used')
    return EXIT_OK


def from_directory(directory: str, read: Callable[[], Config]) -> Callable[[], Config]:
    """Return `read`, run in `directory`: relative names keep their meaning after the daemon has changed directory."""

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
    """Run the daemon until it is asked to stop, and return the exit code."""
    settings = config.nipapd
    handle_stop_signals(leave)
    faulthandler.register(SHOW_STACK)  # handlers use the signal in the same way
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is a configuration to replace
    with contextlib.ExitStack() as stack:
        configure_log(settings)
        for warning in config.warnings:
            log.warning('%s', warning)
        config = dataclasses.replace(config, tracing=prepare_tracing(config.tracing))
        listening = stack.enter_context(Listening(systemd.take_sockets(os.environ)))
        listeners = listening.open(settings, tls_context(settings))
        identity = Identity.of(config)
        accounts.check(config, None if identity and identity.by_default else identity)
        make_data_dir(config)
        stack.enter_context(serving(config))
        if settings.pid_file is not None:
            launch.keep_private(stack.enter_context(pid_file(Path(settings.pid_file))))
        postgres = stack.enter_context(KeptPostgres(config, identity)) if config.embedded else None
        dsn = postgres.dsn() if postgres else config.dsn
        await_database(dsn, settings.database_wait)
        end_interrupted_restores(config, dsn)
        backup.before_upgrade(config, dsn)
        prepare_schema(dsn, install=bool(postgres) or config.auto_install_db, config=config)
        if postgres:
            postgres.grant()
            dsn = postgres.service_dsn()
        identity = privileges.settled(config, identity, dsn)
        accounts.create_first_user(config, identity)
        stays_root = privileges.parent_stays_root(config, identity)
        detach(launch, config, None if stays_root else identity)
        if identity and not stays_root:
            identity.assume()
        board = None if settings.forks < 0 else Board()
        logins = LoginCounts(shared=True), KnownLogins(shared=True), SignInMarks(shared=True)
        service = service_of(config, dsn, listeners, *logins, board)
        stack.callback(handle_stop_signals, signal.SIG_IGN)
        renewal = Renewal(config, service, reread, listening, launch, identity if stays_root else None)
        return serve(service, settings, launch, postgres, identity if stays_root else None, renewal)


def end_interrupted_restores(config: Config, dsn: str) -> None:
    """Settle restores that were killed, so that the local accounts fit the database."""
    for backend in config.auth.backends.values():
        users = LocalUsers(backend.options.get('db_path', ''))
        if backend.type == 'SqliteAuth' and users.of_restores():
            with database(dsn) as db:
                restored.settle(db, users, config.nipapd.user)


def serve(
    service: Service,
    settings: DaemonSettings,
    launch: Launch,
    postgres: KeptPostgres | None,
    identity: Identity | None,
    renewal: Renewal,
) -> int:
    """Run the handlers under a supervisor; with `forks = -1` serve in this process."""

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
        renewal.hand_over_accounts()
        keeper.watch()
        sender.watch()
        if watch is not None:
            watch()

    keeper = admin.HelperProcess(in_child)
    sender = admin.HelperProcess(in_child, 'the process for events', senders.NAME)
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


# signals before the supervisor handles them, and afterwards


def handle_stop_signals(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


def leave(_number: int, _frame: FrameType | None) -> None:
    """Exit at a stop signal during the start, and ignore further stop signals while cleaning up."""
    handle_stop_signals(signal.SIG_IGN)
    raise SystemExit(EXIT_OK)


if __name__ == '__main__':
    sys.exit(main())
