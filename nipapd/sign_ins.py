"""The writer of the log of sign-ins: one fiber in each handler, about once a second."""

from __future__ import annotations

import asyncio
import logging
import time

from nipap.access import sign_in_rows
from nipap.access.sign_ins import SignInLog
from nipap.errors import NipapError
from nipap.postgres.database import Database
from nipap.runtime import waiting
from nipapd.fibers import Fibers

log = logging.getLogger(__name__)

PAUSE_S = 1.0
TROUBLE_S = 5.0
PAUSE_SHARE = 5  # a pause is at least so many times as long as the statement before it
FINISH_S = 1.0  # the time for the last rows when the handler ends


class SignInWriter:
    """Writes the sign-ins that a handler has noted. No request waits for it."""

    def __init__(self, noted: SignInLog, db: Database, fibers: Fibers) -> None:
        self._noted = noted
        self._db = db
        self._fibers = fibers
        self._is_writing = False

    def begin(self) -> None:
        """Write on the running loop until the fibers are ended."""
        self._fibers.start(self._run)

    def _run(self) -> None:
        self._fibers.become_stream()
        while True:
            began = time.monotonic()
            pause_s = TROUBLE_S if not self._write() else PAUSE_SHARE * (time.monotonic() - began)
            waiting.sleep(max(PAUSE_S, min(pause_s, TROUBLE_S)))

    def _write(self, *, everything: bool = False) -> bool:
        """Write the rows that are due, or all rows; return False when PostgreSQL is away."""
        rows = self._noted.take(everything=everything)
        if not rows or self._is_writing:
            return True
        self._is_writing = True
        try:
            self._db.run(lambda tx: sign_in_rows.write(tx, rows))
        except NipapError as error:
            log.debug('sign-ins are not written: %s', error)
            return False
        except Exception:
            log.exception('sign-ins are not written')
            return False
        finally:
            self._is_writing = False
        self._noted.written(len(rows))
        return True

    async def finish(self) -> None:
        """Write all rows, for `FINISH_S` at most."""
        if not self._noted.pending:
            return
        done = asyncio.Event()

        def write() -> None:
            try:
                while self._is_writing:
                    waiting.sleep(0.01)
                self._write(everything=True)
            finally:
                done.set()

        if self._fibers.start(write):
            try:
                await asyncio.wait_for(done.wait(), FINISH_S)
            except TimeoutError:
                log.debug('PostgreSQL has not taken the last sign-ins in time')
