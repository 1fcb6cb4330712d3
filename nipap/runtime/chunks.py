"""Answers that are too long to be in memory as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


class Chunks:
    """An array too long for memory: each iteration reads its items anew, a list of items at a time.

    The array is an answer, or a member of the struct that is the answer. An item with an array too long for memory is
    alone in its list.
    """

    __slots__ = ('_read',)

    def __init__(self, read: Callable[[], Iterator[list[Any]]]) -> None:
        self._read = read

    def __iter__(self) -> Iterator[list[Any]]:
        return self._read()
