"""A call of the API as data: its members, the right that it needs and its mode. A request for a call."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Any, Protocol

from nipap.access.authentication import Actor
from nipap.errors import Problems
from nipap.history import plan as plans
from nipap.history import undo as undoing
from nipap.history.audit import Who
from nipap.objects.kinds import Object
from nipap.objects.prefix_view import Shape
from nipap.postgres.transaction import Addition, Outcome, Transaction
from nipap.runtime import packed

Raw = Mapping[str, Any]  # the members of a call as they were sent


class Right(IntEnum):
    """The right that a call needs. Each right includes the rights before it."""

    READ = 1
    ALLOCATE = 2
    WRITE = 3
    ADMINISTER = 4


class Mode(Enum):
    """The mode in which a call runs."""

    COMPUTE = 'compute'  # without the database
    READ = 'read'  # statements that only read, each on its own
    TRANSACTION = 'transaction'


@dataclass(frozen=True)
class Message:
    """The mode of a call that runs as one pipeline, which is a transaction of its own.

    again: reads the object again after the answer to its change was lost, by the id of the object. when: whether the
    members allow a pipeline; otherwise the call takes a transaction. joined: returns the key and the addition of a
    call that is sent together with other calls of the same key; None for a call that is sent alone.
    """

    again: Callable[[Transaction, Caller, Any, int], Any]
    when: Callable[[Any], bool] = lambda _: True
    joined: Callable[[Caller, Any], tuple[Hashable, Addition[Any]] | None] = lambda _caller, _members: None


@dataclass(frozen=True)
class Steps:
    """The mode of a call that may take several transactions, one after the other.

    when: whether the members take several; otherwise the call is one transaction. work: does the work of several.
    """

    when: Callable[[Any], bool]
    work: Callable[[undoing.Runner, Caller, Any, Outcome | None], Any]


@dataclass(frozen=True)
class Member:
    """One member of a call.

    read: turns the sent value, None if none was sent, into a frozen value, or raises NipapError.
    """

    name: str
    read: Callable[[Any], Any]
    doc: str
    example: Any = None
    required: bool = False


@dataclass(frozen=True)
class Call:
    """One call of the API.

    make: turns the values of the members, in their order, into one frozen value. `work` gets this value, and a
    transaction. Without `make` the value is the only member, or the tuple of all members.
    parts: returns the names of the calls that this call makes, given the parsed members.
    """

    name: str
    doc: str
    members: tuple[Member, ...]
    right: Right
    mode: Mode | Message | Steps
    work: Callable[[Any, Caller, Any], Any]
    make: Callable[..., Any] | None = None
    parts: Callable[[Any], Sequence[str]] | None = None

    @property
    def changes(self) -> bool:
        """Return whether the call can change something, and so may be sent with an idempotency key."""
        return self.mode is Mode.TRANSACTION or isinstance(self.mode, Message | Steps)

    def known(self, members: Raw) -> dict[str, Any]:
        """Return every member of the call as it was sent, None for a member that was not sent."""
        return {member.name: members.get(member.name) for member in self.members}

    def read(self, members: Raw) -> Any:
        """Parse the members of a call.

        :raises NipapError: the first error; further errors are attached.
        """
        problems = Problems()
        values = [problems.read(member.read, members.get(member.name)) for member in self.members]
        problems.check()
        return self.made(values)

    def made(self, values: Sequence[Any]) -> Any:
        """Return the value that `work` gets for the parsed members."""
        if self.make is not None:
            return self.make(*values)
        return values[0] if len(values) == 1 else tuple(values)


@dataclass(frozen=True)
class Expectation:
    """The state in which an object must be for a change: `kind` is vrf, pool, asn or prefix; `key` is its number.

    holds: returns whether the object is in that state. members: makes the members of the call from the object as it is
    under the lock, or raises NipapError. Without `members` the call gets the members of the request.
    """

    kind: str
    key: int
    holds: Callable[[Object], bool]
    members: Callable[[Object], Raw] | None = None


@dataclass(frozen=True)
class Request:
    """One request: the name of a call, its members as they were sent, and the conditions under which it is made.

    key: an idempotency key, checked when it is used. expectation: the state that an object must have. reason, group:
    why a change is made, and the import or bulk action that it is a part of. dry_run: report the change and make none.
    plan: the token of a dry run, to which the change must still be equal.
    """

    call: str
    members: Raw = field(default_factory=dict)
    key: object = None
    expectation: Expectation | None = None
    request_id: str | None = None
    reason: str | None = None
    group: str | None = None
    dry_run: bool = False
    plan: str | None = None


class Door(Protocol):
    """The interface through which a batch makes calls inside its transaction."""

    def perform(self, actor: Actor, request: Request) -> Any: ...

    def add_prefixes(self, actor: Actor, attrs: list[Any], *, ids: bool = False) -> list[Any] | packed.Packed: ...

    def place_of(self, actor: Actor, attr: Any) -> Any: ...


@dataclass(frozen=True)
class Caller:
    """The caller of a call, and the form of the answer.

    change: the request with which a change is recorded. shape: the form of prefixes. longest_list: most prefixes in a
    list; an answer that is longer, or may be longer, is no list. enter: returns the `Door` to a transaction. sleep:
    sleeps for a number of seconds. errors: notes all errors of a dry run; None: the first error ends the call.
    """

    actor: Actor
    change: Request
    shape: Shape
    longest_list: int | None
    enter: Callable[[Transaction], Door]
    sleep: Callable[[float], None]
    errors: plans.Errors | None = None

    @property
    def who(self) -> Who:
        """The author of changes, in the form of the audit log."""
        change = self.change
        return self.actor.who._replace(
            method=change.call,
            request_id=change.request_id,
            key=change.key if isinstance(change.key, str) else None,
            reason=change.reason,
            change_group=change.group,
        )

    def is_long(self, ids: list[int]) -> bool:
        """Return whether the prefixes with these ids are too many for a list."""
        return self.longest_list is not None and len(ids) > self.longest_list
