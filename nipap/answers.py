"""The types of answers: an object of each kind, pages, and lists that are read or packed piece by piece."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Generic, NotRequired, TypedDict, TypeVar

from nipap.runtime.chunks import Chunks
from nipap.runtime.packed import Packed

T = TypeVar('T')


class Vrf(TypedDict):
    """A VRF, with its totals per address family."""

    id: int
    rt: str | None
    name: str
    description: str | None
    num_prefixes_v4: int
    num_prefixes_v6: int
    total_addresses_v4: int
    total_addresses_v6: int
    used_addresses_v4: int
    used_addresses_v6: int
    free_addresses_v4: int
    free_addresses_v6: int
    tags: list[str]
    avps: dict[str, str]
    version: int


class Pool(TypedDict):
    """A pool, with its members and the sums over them."""

    id: int
    name: str
    description: str | None
    default_type: str | None
    ipv4_default_prefix_length: int | None
    ipv6_default_prefix_length: int | None
    member_prefixes_v4: int
    member_prefixes_v6: int
    used_prefixes_v4: int
    used_prefixes_v6: int
    free_prefixes_v4: int | None
    free_prefixes_v6: int | None
    total_prefixes_v4: int | None
    total_prefixes_v6: int | None
    total_addresses_v4: int
    total_addresses_v6: int
    used_addresses_v4: int
    used_addresses_v6: int
    free_addresses_v4: int
    free_addresses_v6: int
    tags: list[str]
    avps: dict[str, str]
    vrf_id: int | None
    vrf_rt: str | None
    vrf_name: str | None
    prefixes: list[str]
    version: int


class Prefix(TypedDict):
    """A prefix. The members that are not required belong to answers of searches and edits."""

    id: int
    vrf_id: int
    vrf_rt: str | None
    vrf_name: str
    family: int
    prefix: str
    display_prefix: str
    description: str | None
    comment: str | None
    inherited_tags: list[str]
    tags: list[str]
    node: str | None
    pool_id: int | None
    pool_name: str | None
    type: str
    status: str
    indent: int
    country: str | None
    order_id: str | None
    customer_id: str | None
    external_key: str | None
    authoritative_source: str
    alarm_priority: str | None
    monitor: bool | None
    vlan: int | None
    added: datetime
    last_modified: datetime
    total_addresses: int
    used_addresses: int
    free_addresses: int
    avps: dict[str, str]
    expires: datetime | None
    version: int
    prefix_length: NotRequired[int]
    children: NotRequired[int]
    match: NotRequired[bool]
    display: NotRequired[bool]


class Asn(TypedDict):
    """An AS number."""

    asn: int
    name: str | None
    version: int


class Tag(TypedDict):
    """A tag in use."""

    name: str


class AuditEntry(TypedDict):
    """The change of one object. `before` and `after` are its stored attributes; None for an addition or a removal."""

    id: int
    change_set: int
    at: datetime
    username: str
    authenticated_as: str
    full_name: str | None
    authoritative_source: str
    method: str | None
    request_id: str | None
    reason: str | None
    change_group: str | None
    kind: str
    object_id: int
    action: str
    name: str | None
    vrf_id: int | None
    prefix: str | None
    pool_id: int | None
    changed: list[str]
    before: Mapping[str, object] | None
    after: Mapping[str, object] | None
    changes: Mapping[str, object]
    sentence: str


class ChangeSet(TypedDict):
    """All changes of one call: its first entries, and whether it has more."""

    id: int
    at: datetime
    username: str
    authenticated_as: str
    full_name: str | None
    authoritative_source: str
    method: str | None
    request_id: str | None
    reason: str | None
    change_group: str | None
    idempotency_key: str | None
    entries: list[AuditEntry]
    more: bool


class Webhook(TypedDict):
    """A webhook and the progress of its deliveries."""

    id: int
    url: str
    description: str | None
    kinds: list[str]
    vrf_ids: list[int]
    pool_ids: list[int]
    tags: list[str]
    enabled: bool
    owner: str | None
    added: datetime
    cursor: int
    attempts: int
    failing_since: datetime | None
    next_attempt: datetime | None
    last_error: str | None
    delivered: int
    failed: int


class DeadLetter(TypedDict):
    """An event that could not be delivered to a webhook."""

    id: int
    event: Mapping[str, object]
    error: str
    added: datetime
    again: bool


class SignIn(TypedDict):
    """Sign-ins of a user, or of a name that was tried."""

    id: int
    at: datetime
    last: datetime
    count: int
    authenticated_as: str | None
    backend: str | None
    address: str | None
    interface: str
    outcome: str


LongList = Chunks  # read from a snapshot while it is encoded
PackedList = Packed  # complete, compressed, read piece by piece
Options = Mapping[str, object]  # the search options, echoed with defaults filled in


class Page(TypedDict, Generic[T]):
    """The answer of a search. `after` is the cursor of the next page, present when the request had one."""

    search_options: Options
    result: list[T]
    after: NotRequired[str | None]


class SmartPage(Page[T], Generic[T]):
    """The answer of a smart search, with its interpretation."""

    interpretation: Mapping[str, object]
    error: bool
    error_message: NotRequired[str | None]


class PrefixPage(TypedDict):
    """The answer of a search for prefixes, which may be long."""

    search_options: Options
    result: list[Prefix] | LongList
    after: NotRequired[str | None]


class AuditPage(TypedDict):
    """The answer of a search for audit entries, which may be long."""

    search_options: Options
    result: list[AuditEntry] | LongList
    after: NotRequired[str | None]


class SmartAuditPage(AuditPage):
    """The answer of a smart search for audit entries, with its interpretation."""

    interpretation: Mapping[str, object]
    error: bool
    error_message: NotRequired[str | None]


class SmartPrefixPage(PrefixPage):
    """The answer of a smart search for prefixes, with its interpretation."""

    interpretation: Mapping[str, object]
    error: bool
    error_message: NotRequired[str | None]


class Conflict(TypedDict):
    """An object that is not undone. position: of its last entry in the change set. object: its prefix or name."""

    position: int
    kind: str
    id: int
    object: str | None
    why: str


class Left(TypedDict):
    """An entry of a change set that an undo leaves alone."""

    position: int
    kind: str
    id: int
    action: str


class Undone(TypedDict):
    """The answer of an undo. change_set: the new change set. undone: the numbers of objects by kind."""

    change_set: int | None
    undone: dict[str, int]
    conflicts: list[Conflict]
    number_of_conflicts: int
    left: list[Left]


class UndoneOfGroup(Undone):
    """The undo of one change set of a group."""

    undoes: int


class UndoneGroup(TypedDict):
    """The answer of an undo of a group. skipped: change sets that were undone before."""

    group: str
    change_sets: list[UndoneOfGroup]
    skipped: list[int]


class RemovedObject(TypedDict):
    """A removed object. before: its facts. below: the number of prefixes that were removed inside it."""

    kind: str
    id: int
    object: str | None
    before: Mapping[str, object]
    below: int
    change_set: int
    at: datetime
    username: str
    authenticated_as: str
    method: str | None
    reason: str | None


class RemovedPage(TypedDict):
    """A page of removed objects. after: the cursor of the next page."""

    result: list[RemovedObject]
    after: str | None
