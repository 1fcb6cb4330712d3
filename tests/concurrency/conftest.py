"""Fixtures of the concurrency tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from nipap.access.authentication import Actor
    from nipap.backend import Backend
    from nipap.postgres.database import Database

    from .aftermath import Scene


@pytest.fixture
def scene(dsn: str, db: Database, backend: Backend, actor: Actor) -> Iterator[Scene]:
    """Yield a database for the clients, and check its state at the end."""
    from .aftermath import Scene

    made = Scene(dsn, db, backend, actor)
    yield made
    made.check()
