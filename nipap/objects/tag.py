"""Tags: they have no rows of their own and exist while they are in use."""

from __future__ import annotations

from typing import Any

from nipap.attributes import TAG
from nipap.objects import rows
from nipap.postgres.transaction import Transaction
from nipap.search.paging import TAGS, Page
from nipap.search.query import Condition

_SOURCE = """(SELECT DISTINCT unnest(tags) AS name FROM (
    SELECT tags FROM prefix WHERE tags <> '{}' UNION ALL SELECT tags FROM pool UNION ALL SELECT tags FROM vrf) t) g"""


def find(tx: Transaction, condition: Condition, page: Page | None = None) -> list[dict[str, Any]]:
    """Return the tags of prefixes, pools and VRFs for which a condition holds, by name."""
    return rows.select(tx, TAG, _SOURCE, condition, TAGS, page)
