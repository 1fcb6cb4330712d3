"""Who changes something. Entries themselves are written by one SQL function, in the transaction of the change."""

from __future__ import annotations

from typing import NamedTuple


class Who(NamedTuple):
    """The SQL type ``actor``: on whose behalf, proved by whom, from which system; by which call, and why.

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
