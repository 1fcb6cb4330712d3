"""The shares of clients: every limit of a handler, and the parties that have reached one.

`Limits` turns the configuration into numbers. `Parties` assigns a request to a party. `Reached` counts and logs. The
rest of the daemon gets numbers and callbacks; docs/limits.md has the reasons.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from nipap.access.login_limits import network
from nipap.attributes import shown
from nipap.runtime.places import Party, Turn
from nipapd.config import DaemonSettings

log = logging.getLogger(__name__)

SILENT_S = 10.0  # the shortest time between two log lines about the same party and limit
MANY_USERS = 10  # users at one address, which may be a proxy's
REMEMBERED = 4096  # most addresses, credentials and log lines that are remembered

# The names of limits in metrics and in the log, with the limited resource.
NAMES = {
    'running': 'requests in progress',
    'waiting': 'requests in the queue',
    'sessions': 'sessions of the database',
    'streams': 'streams of events',
    'bodies': 'bytes of request bodies',
    'hashes': 'password hashes',
    'connections': 'connections',
    'cancelled': 'work for a disconnected client',
    'values': 'values of a request',
    'spooled': 'bytes of long answers not yet sent',
    'rate': 'bytes a second of a request or an answer',
}


@dataclass(frozen=True)
class Limits:
    """The limits of one handler: the total of each resource, and the share of a party while others wait."""

    running: int
    waiting: int
    running_of_one: int
    sessions: int
    sessions_of_one: int
    streams_of_one: int
    bodies: int
    bodies_of_one: int
    connection_share: float
    min_rate: int
    spooled: int
    spooled_of_one: int
    values: int
    hashes_at_once: int
    hashes_per_second: int

    @classmethod
    def of(cls, settings: DaemonSettings) -> Limits:
        """Return the limits of a configuration."""
        return cls(
            running=settings.most_running,
            waiting=settings.most_waiting,
            running_of_one=part(settings.running_share, settings.most_running),
            sessions=settings.db_connections,
            sessions_of_one=part(settings.session_share, settings.db_connections),
            streams_of_one=settings.streams_per_user,
            bodies=settings.most_bodies,
            bodies_of_one=part(settings.body_share, settings.most_bodies),
            connection_share=settings.connection_share / 100,
            min_rate=settings.min_rate,
            spooled=settings.most_spooled,
            spooled_of_one=part(settings.spool_share, settings.most_spooled),
            values=settings.most_values,
            hashes_at_once=settings.hashes_at_once,
            hashes_per_second=settings.hashes_per_second,
        )


def part(percent: float, whole: int) -> int:
    """Return a percentage of a whole, 1 at least."""
    return max(1, int(whole * percent / 100))


class Reached:
    """Counts each time that a party reaches a limit, and logs it from time to time."""

    def __init__(self, count: Callable[[str], None] = lambda _: None) -> None:
        self._count = count
        self._told: dict[tuple[str, str], float] = {}

    def note(self, limit: str, party: Party) -> None:
        """Count a limit of NAMES that a party has reached, and log it unless it was logged within SILENT_S."""
        self._count(limit)
        now, key = time.monotonic(), (limit, party.group)
        if now - self._told.get(key, -SILENT_S) < SILENT_S:
            return
        if len(self._told) >= REMEMBERED:
            self._told.clear()
        self._told[key] = now
        user = shown(party.group) if party.proved else '-'
        log.warning('limit %s reached (%s): user=%s address=%s', limit, NAMES[limit], user, party.member or '-')

    def of(self, limit: str) -> Callable[[Party], None]:
        """Return a function that notes the given limit of NAMES."""
        return partial(self.note, limit)


class Parties:
    """The parties of requests: the user whose credentials were proved, else the network of the client.

    Credentials that were proved before are recognized by a hash of their header, with a key that Python made for this
    process. Only shares depend on the hash: each call proves its credentials again.
    """

    def __init__(self, known_user: Callable[[str], str | None] = lambda _: None) -> None:
        self._known_user = known_user
        self._users: dict[int, str] = {}
        self._users_at: dict[str, set[str]] = {}  # an address, or a network of IPv6
        self._networks: dict[str, Party] = {}

    def turn(self, authorization: str | None, address: str | None, *, is_urgent: bool) -> Turn:
        """Return the turn of a request. If it is urgent, unknown credentials are looked up, without hashing."""
        stranger = self.stranger(address or '')
        if authorization is None:
            return Turn(stranger)
        proof = hash(authorization)
        user = self._users.get(proof)
        if user is None and is_urgent and (user := self._known_user(authorization)) is not None:
            self._note(proof, stranger.member, user)
        if user is None:
            return Turn(stranger, partial(self._note, proof, stranger.member))
        return Turn(Party(user, stranger.member))

    def _note(self, proof: int, address: str, user: str) -> None:
        """Remember the user of a proof, and warn of an address from which MANY_USERS log in."""
        if len(self._users_at) >= REMEMBERED:
            self._users_at.clear()
        users = self._users_at.setdefault(address, set())
        if len(users) < MANY_USERS:
            users.add(user)
            if len(users) == MANY_USERS:
                log.warning(
                    '%d users log in from %s: if that is a proxy, trusted_proxies must name it, else they share limits',
                    *(MANY_USERS, address or '-'),
                )
        if len(self._users) >= REMEMBERED:
            self._users.clear()
        self._users[proof] = user

    def stranger(self, address: str) -> Party:
        """Return the party of an address without proof: for IPv6 its /48, in which the /64 networks take turns."""
        return self._networks.get(address) or self._new_stranger(address)

    def _new_stranger(self, address: str) -> Party:
        if len(self._networks) >= REMEMBERED:
            self._networks.clear()
        made = Party(f'\0{network(address, 48)}', network(address), proved=False)  # a user name has no NUL
        self._networks[address] = made
        return made
