"""Fixtures of the property tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from nipap.authlib import Actor
    from nipap.db import Database

    from .playground import Playground


@pytest.fixture
def playground(dsn: str, db: Database, actor: Actor) -> Iterator[Playground]:
    """A backend whose database can be emptied between examples."""
    from .playground import Playground

    made = Playground(dsn, db, actor)
    yield made
    made.close()
