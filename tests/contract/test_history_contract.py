"""The past over all faces: audit entries and change sets, with sentences."""

from __future__ import annotations

from typing import Any

import pytest

from nipap.access.authentication import Actor
from nipap.backend import Backend
from nipap.calls import Request


def call(backend: Backend, actor: Actor, name: str, **members: Any) -> Any:
    return backend.perform(actor, Request(name, members))


