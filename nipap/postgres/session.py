"""One connection to PostgreSQL, with the settings that all of ours have."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

import psycopg2
import psycopg2.extensions

from nipap.postgres import connecting
from nipap.runtime.places import OURSELVES

# Every numeric of the schema is a whole number (addresses of IPv6 pass 2^63): read as int, not Decimal.
_INTEGRAL = psycopg2.extensions.new_type((1700,), 'INTEGRAL', lambda value, _: None if value is None else int(value))


class Session:
    """One connection to PostgreSQL, of the process that opened it."""

    def __init__(self, target: str, settings: str, read_timeout_s: float) -> None:
        self.target = target
        self.read_timeout_s = read_timeout_s
        self.connection = connecting.connect(target)
        self.prepared: dict[str, str] = {}
        self.party = OURSELVES  # for whom it is in use, or was last
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
        """Whether this process opened it, not one that it was forked from."""
        return self._pid == os.getpid()

    def is_gone(self) -> bool:
        """Whether it is closed, or has something to say though nothing was asked: that it ends, as a rule.

        Better to know now than when a change is on its way.
        """
        return bool(self.connection.closed) or self.connection.has_input()

    def close(self) -> None:
        """End it, if it has not ended."""
        with suppress(psycopg2.Error):
            self.connection.close()
