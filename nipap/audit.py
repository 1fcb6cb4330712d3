"""Who changes something. Entries themselves are written by the SQL functions, in the transaction of the change."""

from __future__ import annotations

from typing import NamedTuple


class Who(NamedTuple):
    """The SQL type ``actor``: on whose behalf, who proved their identity, from which system."""

    username: str
    authenticated_as: str
    full_name: str | None
    authoritative_source: str
