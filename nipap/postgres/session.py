"""A connection to PostgreSQL with the settings that all our connections have."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

import psycopg2
import psycopg2.extensions

from nipap.postgres import connecting
from nipap.runtime.places import OURSELVES

# Every numeric of the schema is a whole number: read it as int, not Decimal. Counts of IPv6 addresses exceed 2^63.
_INTEGRAL = psycopg2.extensions.new_type((1700,), 'INTEGRAL', lambda value, _: None if value is None else int(value))


class Session:
    """A connection to PostgreSQL, owned by the process that opened it."""

    def __init__(self, target: str, settings: str, read_timeout_s: float) -> None:
        self.target = target
        self.read_timeout_s = read_timeout_s
        self.connection = connecting.connect(target)
        self.prepared: dict[str, str] = {}
        self.is_ready = False  # whether it has the temporary tables of `Database.rehearse`
        self.party = OURSELVES  # the current user of the session, or the last one
        self._pid = os.getpid()
        try:
            self.connection.autocommit = True
            psycopg2.extensions.register_type(_INTEGRAL, self.connection)
            with self.connection.cursor() as cursor:
                cursor.execute(
                    f'{settings}SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()'
                )
                self.identity: tuple[Any, ...] = cursor.fetchone() or ()
        except BaseException:
            self.close()
            raise
        self.connection.opened()

    @property
    def is_ours(self) -> bool:
        """Return whether this process opened the session, not a process that it was forked from."""
        return self._pid == os.getpid()

    def is_gone(self) -> bool:
        """Return whether the connection is closed or has unexpected input, which usually announces its end.

        A caller finds out here, before it sends a change.
        """
        return bool(self.connection.closed) or self.connection.has_input()

    def close(self) -> None:
        """Close the connection, if it is open."""
        with suppress(psycopg2.Error):
            self.connection.close()
