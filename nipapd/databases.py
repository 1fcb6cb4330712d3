"""The database of a daemon: a private PostgreSQL, which is kept running, or a configured one; and its schema."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator

from nipap.access.local_users import UserFileError
from nipap.errors import NipapError, NipapUnavailableError
from nipap.history import events
from nipap.postgres import connecting, schema
from nipap.postgres.database import Database
from nipapd import roles
from nipapd.binaries import ROOT_FALLBACK_ACCOUNTS, Account
from nipapd.config import Config
from nipapd.embedded import OWNER, SERVICE, EmbeddedPostgres, EmbeddedPostgresError
from nipapd.identity import Identity, find_user
from nipapd.launch import StartError
from nipapd.prefork import EXIT_OK

log = logging.getLogger('nipapd')

OTHERS_INSTALL_S = 10.0
RESTART_TIMEOUT_S = 10.0
SHARED_CHECK_S = 2.0
DATABASE_POLL_S = 0.25
LONGEST_PAUSE_S = 30.0


class KeptPostgres:
    """A PostgreSQL in the data directory that is kept running while the daemon runs."""

    def __init__(self, config: Config, identity: Identity | None) -> None:
        settings = config.nipapd
        configured = find_user(settings.postgres_user).pw_name if settings.postgres_user else None
        client = Account(identity.name, identity.uid, identity.gid) if identity and identity.uid else None
        self._postgres = EmbeddedPostgres(
            config.data_dir,
            bindir=settings.postgres_bindir,
            user=configured,
            client=client,
            fallbacks=(identity.name,) if identity and client and not identity.by_default else ROOT_FALLBACK_ACCOUNTS,
        )
        self._next_look = 0.0
        self._failures = 0

    def __enter__(self) -> KeptPostgres:
        try:
            self._postgres.start()
            roles.prepare(self._postgres.dsn())
        except BaseException:
            self._postgres.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._postgres.stop()

    def dsn(self) -> str:
        """Return the connection string for migrations and maintenance: that of the role that owns the database."""
        return self._postgres.dsn(role=OWNER)

    def service_dsn(self) -> str:
        """Return the connection string of the role of handlers."""
        return self._postgres.dsn(role=SERVICE)

    def grant(self) -> None:
        """Grant the role of handlers the rights that it needs on the present schema."""
        roles.prepare(self._postgres.dsn())

    def account(self) -> Account:
        """Return the account that runs the programs of PostgreSQL."""
        return self._postgres.account()

    def watch(self) -> None:
        """Start PostgreSQL again if it has died. The pauses between failed starts grow up to LONGEST_PAUSE_S.

        A server that another daemon started on the same directory is checked every SHARED_CHECK_S.
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


def await_database(dsn: str, patience_s: float) -> None:
    """Return when PostgreSQL answers, when it refuses the connection, or after `patience_s` seconds."""
    deadline = time.monotonic() + patience_s
    told = False
    while (problem := database_problem(dsn)) is not None:
        if isinstance(problem, connecting.RefusedError) or time.monotonic() >= deadline:
            return  # the next user of the database reports the problem
        if not told:
            log.warning('waiting for the database, up to %g s: %s', patience_s, ' '.join(str(problem).split()))
        told = True
        time.sleep(DATABASE_POLL_S)


def database_problem(dsn: str) -> Exception | None:
    """Return why no server can be reached; None when a server answers."""
    problem: Exception | None = None
    try:
        for target in connecting.targets(dsn):
            try:
                connecting.connect(target).close()
                return None
            except Exception as error:
                problem = error
    except Exception as error:  # unknown host names
        problem = error
    return problem


def prepare_schema(dsn: str, install: bool, config: Config) -> None:
    """Create or upgrade the schema if that is allowed, else require one that this program can serve.

    :raises StartError: the schema is missing or too old, and must not be created or upgraded.
    """
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
    """Wait until this program can serve the schema, which another daemon may be installing.

    :raises StartError: the program cannot serve the schema within `patience_s` seconds.
    """
    deadline = time.monotonic() + patience_s
    while problem := schema.state(db).problem:
        if time.monotonic() >= deadline:
            raise StartError(f'{problem}: upgrade it with --auto-upgrade-db or with nipap-admin migrate')
        time.sleep(0.1)


@contextlib.contextmanager
def database(dsn: str) -> Iterator[Database]:
    """Yield a database for the start, closed before anything forks. Errors of the database become StartErrors."""
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
    """Print the version of the schema in the database; 0 when there is no schema."""
    with contextlib.ExitStack() as stack:
        if config.embedded:
            if not (config.data_dir / 'data' / 'PG_VERSION').exists():
                raise StartError(f'there is no database in {config.data_dir} yet')
            dsn = stack.enter_context(KeptPostgres(config, Identity.of(config))).dsn()
        else:
            dsn = config.dsn
        db = stack.enter_context(database(dsn))
        found = schema.version(db)
        if not found:
            schema.check_database(db)
        print(f'nipap db schema: {found}')
    return EXIT_OK
