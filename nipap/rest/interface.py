"""The part of the REST interface that its modules use: paths, bodies and calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from flask import Response

from nipap.access.authentication import Actor
from nipap.calls import Expectation


class Api(Protocol):
    """The common part of all requests. `nipap.rest.api` implements it."""

    def connect(self, app: Any, method: str, path: str, view: Callable[..., Response]) -> None: ...

    def body(self) -> Any: ...

    def struct(self) -> dict[str, Any]: ...

    def refuse_body(self) -> None: ...

    def change(
        self,
        actor: Actor,
        method: str,
        members: Mapping[str, Any],
        expectation: Expectation | None = None,
        planned: Callable[[Any], Any] = ...,
    ) -> Any: ...

    def look(self, actor: Actor, method: str, members: Mapping[str, Any] | None = None) -> Any: ...
