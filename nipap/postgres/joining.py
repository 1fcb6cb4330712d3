"""Group commit: calls that would block one another are combined. Calls that arrive meanwhile form the next group.

All of it happens in one thread, in which other calls run only while a call waits (`nipap.runtime.waiting`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from nipap.runtime import waiting

S = TypeVar('S')
T = TypeVar('T')

MOST = 16  # calls in a group


@dataclass
class _Joiner(Generic[S, T]):
    share: S
    answers: list[T] = field(default_factory=list)  # at most one
    error: Exception | None = None
    group: list[_Joiner[S, T]] = field(default_factory=list)  # set on the leader of the group
    go_on: Callable[[], None] = lambda: None

    def wait(self, go_on: Callable[[], None]) -> None:
        self.go_on = go_on


class Joining(Generic[S, T]):
    """Combine concurrent calls that have the same key.

    alone: run one call with its share.
    together: run several calls at once. Returns an answer or an error for each share; None if the calls cannot be
        combined and nothing was done. An error that it raises is raised for all calls.
    """

    def __init__(self, alone: Callable[[S], T], together: Callable[[list[S]], list[T | Exception] | None]) -> None:
        self._alone = alone
        self._together = together
        self._queues: dict[Hashable, list[_Joiner[S, T]]] = {}

    def run(self, key: Hashable, share: S) -> T:
        """Run a call with its share, alone or in a group, and return its answer."""
        if key not in self._queues:
            self._queues[key] = []
            return self._first(key, share)
        call: _Joiner[S, T] = _Joiner(share)
        self._queues[key].append(call)
        waiting.until(call.wait)
        if len(call.group) == 1:
            return self._first(key, share)
        if call.group:
            self._lead(key, call.group)
        if call.error is not None:
            raise call.error
        return call.answers[0] if call.answers else self._alone(share)

    def _first(self, key: Hashable, share: S) -> T:
        try:
            return self._alone(share)
        finally:
            self._call_next(key)

    def _lead(self, key: Hashable, group: list[_Joiner[S, T]]) -> None:
        try:
            outcomes = self._together([each.share for each in group])
            for each, outcome in zip(group, outcomes or (), strict=bool(outcomes)):
                if isinstance(outcome, Exception):
                    each.error = outcome
                else:
                    each.answers = [outcome]
        except Exception as exc:
            for each in group:
                each.error = exc
        finally:
            self._call_next(key)
            for each in group[1:]:
                each.go_on()

    def _call_next(self, key: Hashable) -> None:
        queue = self._queues.pop(key)
        if queue:
            self._queues[key] = queue[MOST:]
            queue[0].group = queue[:MOST]
            queue[0].go_on()
