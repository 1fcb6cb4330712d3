"""A new configuration at a HUP: handlers are replaced one by one."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable

from nipap.access.local_users import UserFileError
from nipapd import accounts, admin, logs, privileges, senders, systemd
from nipapd.config import Config, DaemonSettings
from nipapd.databases import prepare_schema
from nipapd.embedded import EmbeddedPostgresError
from nipapd.identity import Identity
from nipapd.inifile import ConfigError
from nipapd.launch import Launch, StartError
from nipapd.listening import ListenError, Listening
from nipapd.pidfile import PidFileError
from nipapd.prefork import Generation, HandlerMain, Pulse
from nipapd.preparation import configure_log, prepare_tracing, tls_context
from nipapd.running import SUPERVISOR_GRACE_S, handlers, service_of, serving_lines
from nipapd.server import Shares
from nipapd.worker import Listeners, Service

log = logging.getLogger('nipapd')

EXPECTED = (
    *(StartError, ListenError, systemd.ActivationError),
    *(EmbeddedPostgresError, PidFileError, UserFileError, logs.LogError),
)
FIXED = ('user', 'group', 'foreground', 'syslog', 'pid_file', 'postgres_bindir', 'postgres_user')


class Renewal:
    """Replaces the handlers by handlers that use the present configuration."""

    def __init__(
        self,
        config: Config,
        service: Service,
        reread: Callable[[], Config],
        listening: Listening,
        launch: Launch,
        identity: Identity | None,
    ) -> None:
        self._launch = launch
        self._identity = identity  # of handlers; None: that of this process
        self._config = config
        self._service = service
        self._reread = reread
        self._listening = listening
        self._begun: dict[Generation, tuple[Config, Service]] = {}
        self._admin: admin.HelperProcess | None = None
        self._sender: admin.HelperProcess | None = None

    def answering_with(self, keeper: admin.HelperProcess, sender: admin.HelperProcess) -> None:
        """Serve the admin port and deliver events by these processes, which get every new configuration."""
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
        number, listeners, settings = handlers(service.settings), service.listeners, service.settings
        end = listeners.certificate_end
        served = admin.Served.by(listeners.plain, listeners.tls)
        self._admin.use(
            admin.Admin(service.dsn, service.board, number, listeners.admin, kafka.enabled, settings, end, served),
            prepare,
        )
        self._sender.use(senders.Sending(service.dsn, service.settings, kafka), prepare_sender)

    def begin(self) -> Generation | None:
        """Read the configuration and return the next generation of handlers; None to keep the present one.

        When the configuration cannot be used, the former one stays. The log file is reopened in every case. Handlers
        have the former log file open, so they are replaced even if the configuration stays.
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
            shares = Shares(handlers(self._config.nipapd))  # the predecessors still use the former ones
            return self._generation(self._config, dataclasses.replace(self._service, shares=shares))
        systemd.notify('READY=1')
        return None

    def handler_of(self, service: Service) -> HandlerMain:
        """Return the main function of handlers for a service.

        It first closes the sockets that the service does not have. Else they would stay open as long as the handler
        lives.
        """

        def handle(slot: int, pulse: Pulse) -> int:
            self._listening.close_all_but(dataclasses.replace(service.listeners, admin=()))
            return service.run_supervised(slot, pulse)

        return handle

    def _prepare(self) -> Generation:
        read = self._reread()
        config, fixed = applicable(self._config, read)
        settings, context = config.nipapd, tls_context(config.nipapd)
        config = dataclasses.replace(config, tracing=prepare_tracing(config.tracing))
        self._hand_over(config)
        accounts.check(config, self._identity)
        if self._identity and self._identity.by_default and (problem := privileges.missing(config, self._identity)):
            raise StartError(problem)
        dsn = self._service.dsn if config.embedded else config.dsn
        if dsn != self._service.dsn:
            prepare_schema(dsn, install=config.auto_install_db, config=config)
            if self._identity and (problem := privileges.obstacle(config, self._identity, dsn)):
                raise StartError(problem)
        listeners = self._listening.open(settings, context)
        configure_log(settings)
        for warning in read.warnings:
            log.warning('%s', warning)
        for key in fixed:
            log.warning('%s: [nipapd] %s: the changed value is ignored until a restart', read.path, key)
        former = self._service
        logins = former.login_counts, former.known_logins, former.sign_in_marks
        service = service_of(config, dsn, listeners, *logins, former.board)
        generation = self._generation(config, service)
        log.info('SIGHUP: %d handlers take over with the configuration as it is now', generation.count)
        return generation

    def hand_over_accounts(self) -> None:
        """Give the account of handlers local accounts that root has replaced, as when handlers ran as root."""
        self._hand_over(self._config)

    def _hand_over(self, config: Config) -> None:
        if self._identity and self._identity.by_default:
            accounts.hand_over(config, self._identity)

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
        """Adopt the generation that all handlers have now. A generation that was not begun here is the first one."""
        self._config, self._service = self._begun.get(generation, (self._config, self._service))
        self._begun = {generation: (self._config, self._service)}
        self._answer()
        self._listening.close_all_but(self._service.listeners)
        configure_log(self._config.nipapd)
        for line in serving_lines(self._service.listeners):
            log.info('%s', line)
        systemd.notify('READY=1')


def applicable(old: Config, new: Config) -> tuple[Config, list[str]]:
    """Return the new configuration with the old values of all keys that need a restart, and these keys if changed."""
    fixed = [*FIXED]
    if old.embedded != new.embedded:
        fixed += [key.name for key in dataclasses.fields(DaemonSettings) if key.name.startswith('db_')]
    if (old.nipapd.forks < 0) != (new.nipapd.forks < 0):
        fixed.append('forks')
    changed = [name for name in fixed if getattr(old.nipapd, name) != getattr(new.nipapd, name)]
    kept = {name: getattr(old.nipapd, name) for name in changed}
    return dataclasses.replace(new, nipapd=dataclasses.replace(new.nipapd, **kept)), changed
