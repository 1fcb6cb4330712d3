"""Values made of the bytes that a fuzzer mutates. The same bytes give the same value in every replay."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

T = TypeVar('T')

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
TELLING = (
    *('', ' ', '0', '1', '-1', '7', 'true', 'nil', 'never', 'tomorrow', 'host', 'default', '%s', "'", '"', '\\', '('),
    *('10.0.0.0/8', '10.0.0.1', '10.0.0.1/8', '::/0', '::1/64', '1:1', '1.2.3.4:5', '9' * 80, '(a+)+$', 'x\x00'),
    *('\ud800', '\U0010ffff', '\ufffe', '\r\n', '2030-01-01', '0001-01-01T00:00:00+14:00', '{', '%', '_', '^a|b$'),
)  # fmt: skip
NUMBERS = (0, 1, -1, 4, 6, 32, 128, 2**31, -(2**31) - 1, 2**63, -(2**63) - 1, 2**64, 10**40, 10**400)
FLOATS = (0.0, -0.0, 1.5, 1e300, float('nan'), float('inf'), -float('inf'))


class Choices:
    """A reader of bytes from the front. When no bytes are left, every choice is the first."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def number(self, below: int) -> int:
        """Return a number from 0 to below `below`."""
        return self.take(1)[0] % below

    def one(self, of: Sequence[T]) -> T:
        return of[self.number(len(of))]

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes, padded with NUL bytes at the end."""
        taken = self._data[self._place : self._place + count]
        self._place += count
        return taken.ljust(count, b'\0')

    def rest(self) -> bytes:
        taken = self._data[self._place :]
        self._place = len(self._data)
        return taken

    def text(self) -> str:
        """Return an interesting text, or any text, possibly with lone surrogates."""
        if self.number(2):
            return self.one(TELLING)
        return self.take(self.number(24)).decode('utf-8', 'surrogateescape' if self.number(4) == 1 else 'replace')

    def scalar(self) -> Any:
        made: Sequence[Callable[[], Any]] = (
            lambda: None,
            self.text,
            self.text,
            lambda: self.one(NUMBERS),
            lambda: int.from_bytes(self.take(8), signed=True),
            lambda: self.one(FLOATS),
            lambda: struct.unpack('>d', self.take(8))[0],
            lambda: bool(self.number(2)),
            lambda: self.take(self.number(9)),
            lambda: EPOCH + timedelta(seconds=int.from_bytes(self.take(4), signed=True)),
            lambda: self.one((datetime.min, datetime.max, datetime.max.replace(tzinfo=UTC))),
        )
        return self.one(made)()

    def value(self, names: Sequence[str] = TELLING, depth: int = 4) -> Any:
        """Return a scalar, or a container with members of these or other names."""
        kind = self.number(6) if depth else 0
        if kind == 4:
            return [self.value(names, depth - 1) for _ in range(self.number(6))]
        if kind == 5:
            return {self.name(names): self.value(names, depth - 1) for _ in range(self.number(6))}
        return self.scalar()

    def name(self, names: Sequence[str]) -> str:
        return self.text() if self.number(8) == 7 else self.one(names)
