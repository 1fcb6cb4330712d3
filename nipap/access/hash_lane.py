"""The queue of password hashes. A hash takes a tenth of a second of a processor, and 32 MB."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from nipap.access.login_limits import refusal
from nipap.runtime import places, waiting
from nipap.runtime.places import Party, Places

T = TypeVar('T')

MOST_WAITING = 200


class HashLane:
    """A queue of hashes: at most `at_once` run at the same time, and at most `per_second`, over all addresses.

    Addresses take turns. A user with a password that was right within a day has a turn of his own and is exempt from
    the limit per second. note: called with a party that has to wait or is refused.
    """

    def __init__(self, at_once: int, per_second: float, note: Callable[[Party], None] = lambda _: None) -> None:
        self._places = Places(at_once, 1, 1, most_waiting=MOST_WAITING, refused=note)
        self._pause_s = 1 / per_second
        self._next = 0.0
        self._note = note

    def run(self, work: Callable[[], T], known_user: str | None = None) -> T:
        """Wait for a turn, run work that hashes a password, and return its result.

        known_user: the user, if the same password was right within a day.

        :raises TooManyLoginsError: too many hashes wait.
        """
        turn = places.turn()
        party = turn.party if known_user is None else Party(known_user, turn.party.member)
        left = turn.leave()  # a waiting login must not keep other requests from running
        try:
            if not self._places.take(party):
                self._note(party)
                if not self._places.await_place(party):
                    raise refusal(1.0)
            try:
                if known_user is None:
                    self._wait_for_rate(party)
                return work()
            finally:
                self._places.give_back(party)
        finally:
            if left is not None:
                turn.come_back(left)

    def _wait_for_rate(self, party: Party) -> None:
        now = time.monotonic()
        begins = max(now, self._next)
        self._next = begins + self._pause_s
        if begins > now:
            self._note(party)
            waiting.sleep(begins - now)
