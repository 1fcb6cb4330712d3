"""The author of a change. One SQL function writes the entries of the audit log, in the transaction of the change."""

from __future__ import annotations

from typing import NamedTuple


class Who(NamedTuple):
    """The SQL type ``actor``: the author of a change, the system that it comes from, the call and the reason.

    username: the user for whom the change is made. authenticated_as: the logged-in user.
    change_group: the import or bulk action that the call is a part of.
    """

    username: str
    authenticated_as: str
    full_name: str | None
    authoritative_source: str
    method: str | None = None
    request_id: str | None = None
    key: str | None = None
    reason: str | None = None
    change_group: str | None = None
