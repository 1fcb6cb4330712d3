"""Limited places and their queues. While parties wait, each party gets a share of the places.

A request for a place belongs to a `Party`. This module does not know the use of a place: a turn on a processor, a
session of the database, a hash of a password. `Room` counts bytes, and never waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from typing import NamedTuple

from nipap.errors import NipapUnavailableError
from nipap.runtime import waiting

Grant = Callable[[], object]


class Party(NamedTuple):
    """The origin of a request for a place.

    group: the holder of a share: a user with proved credentials, else the network of the request.
    member: an address. Members of a group take turns.
    proved: whether the credentials were proved.
    """

    group: str
    member: str = ''
    proved: bool = True


OURSELVES = Party('')  # the program itself, which has no share


class ClientGoneError(BaseException):
    """The client of a request has disconnected, and no work was begun that must be finished.

    This is not an Exception, because there is no client to report an error to.
    """


class Turn:
    """Work for a party, which holds a place most of the time.

    note_proof: called with the user when credentials are proved that were not known before.
    finishes: whether the work continues without its client, as a change that has begun does.
    wake: interrupts the current wait of this work, if it can be interrupted.
    """

    __slots__ = ('_has_vanished', '_note_proof', '_places', 'finishes', 'party', 'wake')

    def __init__(self, party: Party, note_proof: Callable[[str], None] = lambda _: None) -> None:
        self.party = party
        self._note_proof = note_proof
        self._places: Places | None = None  # set while this work holds a place
        self.finishes = self._has_vanished = False
        self.wake: Callable[[], None] | None = None

    def vanish(self) -> None:
        """Note that the client has disconnected."""
        self._has_vanished = True
        if self.wake is not None and self.is_abandoned:
            self.wake()

    @property
    def is_abandoned(self) -> bool:
        """Return whether the work is no longer needed."""
        return self._has_vanished and not self.finishes

    def begin(self, places: Places) -> None:
        """Note that the work holds a place and runs in this fiber or thread from now on."""
        self._places = places
        _current.set(self)

    def leave(self) -> Places | None:
        """Give the place back, and return where it was; None without a place."""
        places, self._places = self._places, None
        if places is not None:
            places.give_back(self.party)
        return places

    def come_back(self, places: Places) -> None:
        """Take a place again after `leave`, even if none is free: the rest of the work takes moments."""
        places.take_anyway(self.party)
        self._places = places

    def prove(self, user: str) -> None:
        """Count the work for a user from now on, after the credentials were proved."""
        former, self.party = self.party, Party(user, self.party.member)
        if self._places is not None:
            self._places.rename(former, self.party)
        self._note_proof(user)


_current: ContextVar[Turn] = ContextVar('turn', default=Turn(OURSELVES))  # noqa: B039  (which holds no place)


def turn() -> Turn:
    """Return the work of this fiber or thread."""
    return _current.get()


def current() -> Party:
    """Return the party for which this fiber or thread works."""
    return _current.get().party


def prove(user: str) -> None:
    """Note that the credentials of a user were proved. This fiber works for that user from now on."""
    now = _current.get()
    if now.party.group != user and now.party is not OURSELVES:
        now.prove(user)


class _Waiting:
    """A queued request for a place."""

    __slots__ = ('drop', 'grant', 'party')

    def __init__(self, party: Party, grant: Grant, drop: Grant | None) -> None:
        self.party = party
        self.grant = grant
        self.drop = drop


class Room:
    """The bytes that a process holds for all parties, at most `most`.

    share: the last quarter is for parties that hold less than this.
    note: called with a party that is refused.
    """

    def __init__(self, most: int, share: int, note: Callable[[Party], None] = lambda _: None) -> None:
        self._most = most
        self._lent = most - most // 4
        self._share = share
        self._note = note
        self._of_party: dict[str, int] = {}
        self.held = 0

    def hold(self, size: int, party: Party) -> bool:
        """Count bytes as held. Return False, and count nothing, if there is no room for this party."""
        own = self._of_party.get(party.group, 0) + size
        if self.held + size > (self._lent if own > self._share else self._most):
            self._note(party)
            return False
        self.held += size
        self._of_party[party.group] = own
        return True

    def release(self, size: int, party: Party) -> None:
        """Count bytes as released."""
        self.held -= size
        left = self._of_party.get(party.group, 0) - size
        if left > 0:
            self._of_party[party.group] = left
        else:
            self._of_party.pop(party.group, None)


_answers = Room(2**62, 2**62)


def use_for_answers(room: Room) -> None:
    """Count the bytes of all long answers of this process in a room from now on."""
    global _answers
    _answers = room


class Held:
    """The bytes of one long answer, counted for its party until they are released."""

    def __init__(self) -> None:
        self._room, self._party, self._size = _answers, current(), 0

    def add(self, size: int) -> None:
        """Count as many bytes more.

        :raises NipapUnavailableError: the party has no room for them.
        """
        if not self._room.hold(size, self._party):
            message = 'Too many long answers are being sent, try again later'
            raise NipapUnavailableError(message, 'no room for long answers')
        self._size += size

    def release(self) -> None:
        """Count the bytes as gone. Harmless when that was done before."""
        size, self._size = self._size, 0
        self._room.release(size, self._party)


Members = dict[str, deque[_Waiting]]


class Places:
    """A number of places, and a queue for each waiting party.

    most: the number of places that one party may hold while no other party waits.
    share: the number of places that a party gets while others wait.
    kept: the number of further places, for parties below their share that hold fewer places than are free. So a
        newcomer finds a place, even if many parties hold all they can. A party without proof leaves half of them.
    most_waiting: the number of requests that may wait; None for no limit.
    reached: called with a party that has to wait only because of its share.
    refused: called with the party of a request that is dropped or not queued, because too many wait.

    Groups take turns in the order of their arrival. The members of each group take turns, too.
    """

    def __init__(
        self,
        most: int,
        share: int,
        kept: int = 0,
        *,
        most_waiting: int | None = None,
        reached: Callable[[Party], None] = lambda _: None,
        refused: Callable[[Party], None] = lambda _: None,
    ) -> None:
        self.most = most
        self._share = max(1, share)
        self._kept = kept
        self._kept_from_strangers = (kept + 1) // 2
        self._free = most + kept
        self._held: dict[str, int] = {}  # by group
        self._groups: dict[str, Members] = {}  # waiting groups, in the order of their turns
        self._most_waiting = most_waiting
        self._reached, self._refused = reached, refused
        self.waiting = 0

    @property
    def taken(self) -> int:
        """Return the number of places in use."""
        return self.most + self._kept - self._free

    @property
    def is_full(self) -> bool:
        """Return whether it depends on the party if a place is free."""
        return self._free <= self._kept or self.waiting > 0

    def held_by(self, party: Party) -> int:
        """Return the number of places that the group of a party holds."""
        return self._held.get(party.group, 0)

    def take(self, party: Party) -> bool:
        """Take a place if one is free for this party now. Waiting requests of its group go first."""
        if self.is_full and (party.group in self._groups or not self._may(party, others_wait=bool(self.waiting))):
            return False
        self._hold(party)
        return True

    def wait(self, party: Party, grant: Grant, drop: Grant | None = None) -> bool:
        """Call `grant` when this party has a place. Return False if too many requests wait.

        The newest request with a `drop` in the largest waiting group makes room for a request of a smaller group.
        """
        if self._most_waiting is not None and self.waiting >= self._most_waiting and not self._make_room(party):
            self._refused(party)
            return False
        if self._free > 0:  # but not for this party
            self._reached(party)
        members = self._groups.setdefault(party.group, {})
        members.setdefault(party.member, deque()).append(_Waiting(party, grant, drop))
        self.waiting += 1
        return True

    def await_place(self, party: Party) -> bool:
        """Wait for a place and take it. Return False if the request was refused or dropped."""
        state = ''

        def begin(go_on: Grant) -> None:
            def grant() -> None:
                nonlocal state
                if state == 'left':
                    self.give_back(party)
                else:
                    state = 'granted'
                    go_on()

            def drop() -> None:
                if state != 'left':
                    go_on()

            if not self.wait(party, grant, drop):
                go_on()

        try:
            waiting.until(begin)
        except BaseException:
            if state == 'granted':
                self.give_back(party)
            state = 'left'
            raise
        return state == 'granted'

    def take_anyway(self, party: Party) -> None:
        """Take a place again that was given back for a while, even if none is free."""
        self._hold(party)

    def give_back(self, party: Party) -> None:
        """Give back a place, and grant it to the next request."""
        self._let_go(party)
        if self.waiting:
            self._give_next()

    def rename(self, party: Party, other: Party) -> None:
        """Transfer a place from one party to another."""
        self._let_go(party)
        self._hold(other)

    def clear(self) -> None:
        """Forget all waiting requests."""
        self._groups.clear()
        self.waiting = 0

    def drop_all(self) -> None:
        """Call `drop` for every waiting request."""
        requests = [one for members in self._groups.values() for queue in members.values() for one in queue]
        self.clear()
        for one in requests:
            if one.drop is not None:
                one.drop()

    def _let_go(self, party: Party) -> None:
        self._free += 1
        self._held[party.group] -= 1
        if not self._held[party.group]:
            del self._held[party.group]

    def _hold(self, party: Party) -> None:
        self._free -= 1
        self._held[party.group] = self._held.get(party.group, 0) + 1

    def _may(self, party: Party, *, others_wait: bool) -> bool:
        free, held = self._free, self._held.get(party.group, 0)
        if free <= 0:
            return False
        if party is OURSELVES:
            return True
        if held < self._share:
            if free > self._kept:
                return True
            return held < free and (party.proved or free > self._kept_from_strangers)
        return free > self._kept and not others_wait

    def _give_next(self) -> None:
        """Give a free place to the first group below its share, else to any group that may have it."""
        for lends in (False, True):
            for group, members in list(self._groups.items()):
                party = next(iter(members.values()))[0].party
                if self._may(party, others_wait=not lends):
                    self._grant(group)
                    return

    def _grant(self, group: str) -> None:
        """Give a place to the next request of a group. The group and the member then go to the end of the queue."""
        members = self._groups.pop(group)
        member = next(iter(members))
        queue = members.pop(member)
        request = queue.popleft()
        if queue:
            members[member] = queue
        if members:
            self._groups[group] = members
        self.waiting -= 1
        self._hold(request.party)
        request.grant()

    def _make_room(self, party: Party) -> bool:
        """Drop the newest request of the largest group, if the party's group would still be smaller with one more."""
        sizes = {group: sum(map(len, members.values())) for group, members in self._groups.items()}
        largest = max(sizes, key=sizes.__getitem__, default='')
        if sizes.get(largest, 0) <= sizes.get(party.group, 0) + 1:
            return False
        members = self._groups[largest]
        member = max(members, key=lambda name: len(members[name]))
        dropped = members[member].pop()
        if not members[member]:
            del members[member]
        if not members:  # pragma: no cover - the largest group has two at least
            del self._groups[largest]
        self.waiting -= 1
        self._refused(dropped.party)
        if dropped.drop is not None:
            dropped.drop()
        return True
