"""Check the credentials of a request with a large body before the rest of the body is read."""

from __future__ import annotations

import asyncio
import logging

from tornado.httputil import HTTPHeaders

from nipap.access.authentication import Authenticator
from nipap.errors import AuthError, NipapError, NipapUnavailableError, TooManyLoginsError
from nipap.flask_xmlrpc import PATHS
from nipap.http.credentials import prove
from nipap.rest.problems import CHALLENGES
from nipap.xmlrpc.codec import encode_fault
from nipapd.fibers import Fibers
from nipapd.server import RETRY_AFTER, refused
from nipapd.shares import Parties
from nipapd.streams import last_answer

log = logging.getLogger(__name__)


class Admission:
    """Checks the credentials of requests in fibers, which take turns with the fibers of other requests."""

    def __init__(self, fibers: Fibers, parties: Parties, authenticator: Authenticator) -> None:
        self._fibers = fibers
        self._parties = parties
        self._authenticator = authenticator

    async def __call__(self, path: str, headers: HTTPHeaders, address: str) -> bytes | None:
        """Return the response that refuses the request; None when its credentials are right."""
        authorization = headers.get('Authorization', '')
        turn = self._parties.turn(authorization, address, is_urgent=True)
        if turn.party.proved:
            return None
        done: asyncio.Future[NipapError | None] = asyncio.get_running_loop().create_future()

        def finish(error: NipapError | None) -> None:
            if not done.done():
                done.set_result(error)

        def look() -> None:
            error: NipapError | None = NipapError('Internal error')
            try:
                prove(authorization, address, self._authenticator, path)
                error = None
            except NipapError as exc:
                error = exc
            finally:
                finish(error)

        def drop() -> None:
            finish(NipapUnavailableError('Too many requests wait, ask again later'))

        if not self._fibers.start(look, turn, drop):
            drop()
        with self._fibers.calling_at_end(drop):
            error = await done
        return None if error is None else refusal(path, error)


def refusal(path: str, error: NipapError) -> bytes:
    """Return the last response of a connection: the error in the format of the path."""
    if path.partition('?')[0] in PATHS and not isinstance(error, NipapUnavailableError):
        return last_answer('200 OK', encode_fault(error.code, str(error)), 'text/xml')
    if isinstance(error, TooManyLoginsError):
        return refused(path, error, ('Retry-After', str(error.retry_after_s)))
    if isinstance(error, NipapUnavailableError):
        return refused(path, error, RETRY_AFTER)
    challenges = CHALLENGES if isinstance(error, AuthError) else ()
    return refused(path, error, *(('WWW-Authenticate', challenge) for challenge in challenges))
