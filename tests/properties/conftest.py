"""Fixtures of the property tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from nipap.access.authentication import Actor
    from nipap.postgres.database import Database

    from .playground import Playground


# Hypothesis shortens a failing example for five minutes, but gains most in the first minute.
SHRINKING_S = 60


@pytest.fixture
def playground(dsn: str, db: Database, actor: Actor, monkeypatch: pytest.MonkeyPatch) -> Iterator[Playground]:
    """Yield a backend whose database can be emptied between examples."""
    from .playground import Playground

    limit = 'hypothesis.internal.conjecture.engine.MAX_SHRINKING_SECONDS'
    monkeypatch.setattr(limit, SHRINKING_S, raising=False)
    made = Playground(dsn, db, actor)
    yield made
    made.close()
