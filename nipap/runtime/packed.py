"""Answers out of memory's way: what is long is compressed JSON, a small part of what it takes as objects.

The same bytes are stored of an answer that is kept in the database.
"""

from __future__ import annotations

import binascii
import bisect
import json
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from decimal import Decimal
from functools import partial
from tempfile import SpooledTemporaryFile
from typing import Any

from nipap.errors import NipapInputError
from nipap.runtime import waiting
from nipap.runtime.chunks import Chunks
from nipap.runtime.places import Held

DEEPEST = 200

_IN_MEMORY = 4 * 2**20
_WORTH_ASIDE = 2**16

_Piece = tuple[int, int] | list[Any]  # where it is in the file; or items that are in memory


class Packed(Chunks):
    """A list of which a piece is in memory at a time; where all of it is does not matter, a temporary file at last.

    An item that nests too deeply for JSON, or is packed itself, stays as it is and is a piece of its own.
    """

    __slots__ = ('__weakref__', '_end', '_ends', '_file', '_held', '_last', '_pieces', 'size')

    def __init__(self, lists: Iterable[list[Any]] = ()) -> None:
        self.size = 0  # bytes, those of packed items among them
        self._end = 0  # of the file
        self._file = SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 (lives as long as this)
        self._held = Held()
        weakref.finalize(self, _forget, self._file, self._held)
        self._pieces: list[_Piece] = []
        self._ends: list[int] = []  # how many items there are up to the end of each
        self._last: tuple[int, list[Any]] = -1, []  # the one that was looked into last
        for some in lists:
            self.add(some)

    def __iter__(self) -> Iterator[list[Any]]:
        return map(self._items, self._pieces)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError
        number = bisect.bisect_right(self._ends, index)
        if self._last[0] != number:
            self._last = number, self._items(self._pieces[number])
        return self._last[1][index - self._ends[number]]  # counted from its end

    def add(self, items: list[Any]) -> None:
        """Append items.

        :raises NipapInputError: they nest too deeply.
        """
        self._add_bytes(encode(items), len(items))

    def add_as_it_is(self, item: object) -> None:
        """Append an item that stays in memory."""
        self._note([item], 1)
        self.size += size_of(item)

    def take(self, other: Packed) -> None:
        """Append all that another has."""
        for piece, count in other._counted():
            if isinstance(piece, list):
                self.add_as_it_is(*piece)
            else:
                self._add_bytes(other._bytes(piece), count)

    def _add_bytes(self, packed: bytes, count: int) -> None:
        self._held.add(len(packed))
        self._file.seek(self._end)
        self._file.write(packed)
        self._note((self._end, len(packed)), count)
        self._end += len(packed)
        self.size += len(packed)

    def _note(self, piece: _Piece, count: int) -> None:
        self._pieces.append(piece)
        self._ends.append(len(self) + count)

    def _counted(self) -> Iterator[tuple[_Piece, int]]:
        before = 0
        for piece, end in zip(self._pieces, self._ends, strict=True):
            yield piece, end - before
            before = end

    def _items(self, piece: _Piece) -> list[Any]:
        return piece if isinstance(piece, list) else list(decode(self._bytes(piece)))

    def _bytes(self, piece: tuple[int, int]) -> bytes:
        self._file.seek(piece[0])
        return self._file.read(piece[1])

    def written(self) -> list[list[Any]]:
        """What `read` makes the same of, as JSON can say it: of each piece the item, or how many, and their bytes."""
        return [
            piece if isinstance(piece, list) else [count, _base64(self._bytes(piece))]
            for piece, count in self._counted()
        ]

    @classmethod
    def read(cls, written: list[list[Any]]) -> Packed:
        """The one that was written."""
        made = cls()
        for first, *text in written:
            if text:
                made._add_bytes(binascii.a2b_base64(text[0]), first)
            else:
                made.add_as_it_is(first)
        return made


def _forget(file: SpooledTemporaryFile[bytes], held: Held) -> None:
    """Release the memory, or the disk, that a list has taken."""
    file.close()
    held.release()


def long_part(answer: object) -> Chunks | None:
    """What is no list because it is long: an answer, or the result that is a member of one."""
    part = answer.get('result') if isinstance(answer, dict) else answer
    return part if isinstance(part, Chunks) else None


def with_part(answer: Any, part: object) -> Any:
    """The answer with something else in the place of its long part."""
    return {**answer, 'result': part} if isinstance(answer, dict) else part


def whole(answer: Any) -> Any:
    """An answer with lists in place of all that is long."""
    part = long_part(answer)
    if part is None:
        return answer
    return with_part(answer, [whole(item) for some in part for item in some])


def size_of(answer: object) -> int:
    """How many bytes of an answer are packed."""
    part = long_part(answer)
    return part.size if isinstance(part, Packed) else 0


# ---------------------------------------------------------------- values

# What JSON has not is a struct with this name, which no client can send and PostgreSQL cannot store.
_MARK = '\0'


def _base64(value: bytes) -> str:
    return binascii.b2a_base64(value, newline=False).decode()


_WRITTEN: dict[type, tuple[str, Callable[[Any], Any]]] = {
    datetime: ('datetime', datetime.isoformat),
    Decimal: ('decimal', str),
    bytes: ('bytes', _base64),
    Packed: ('packed', Packed.written),
}
_READ: dict[str, Callable[[Any], object]] = {
    'datetime': datetime.fromisoformat,
    'decimal': Decimal,
    'bytes': binascii.a2b_base64,
    'packed': Packed.read,
}


def encode(value: object) -> bytes:
    """Any answer as bytes that `decode` reads.

    :raises NipapInputError: it nests too deeply.
    """
    return _aside(partial(zlib.compress, plain := encoded(value), 1), len(plain))


def decode(packed: bytes) -> Any:
    """The answer, equal to the one that was encoded; a tuple has become a list."""
    return json.loads(_aside(partial(zlib.decompress, packed), len(packed)), object_hook=_unmarked)


def _aside(work: Callable[[], bytes], size: int) -> bytes:
    return waiting.aside(work) if size > _WORTH_ASIDE else work()


def encoded(value: object, *, sort_keys: bool = False) -> bytes:
    """Any answer as JSON.

    :raises NipapInputError: it nests too deeply.
    """
    check_depth(value)
    return json.dumps(value, default=_marked, sort_keys=sort_keys, separators=(',', ':')).encode()


def check_depth(value: object) -> None:
    """Refuse what JSON, which recurses, might write but not read again.

    :raises NipapInputError:
    """
    level = [value]
    for _ in range(DEEPEST):
        level = [item for container in level for item in _items(container) if isinstance(item, dict | list | tuple)]
        if not level:
            return
    raise NipapInputError(f'With an idempotency key or in a batch, arguments and answers may nest {DEEPEST} deep')


def _items(container: object) -> Iterable[object]:
    if isinstance(container, dict):
        return container.values()
    return container if isinstance(container, list | tuple) else ()


def _marked(value: object) -> dict[str, list[Any]]:
    for kind, (name, write) in _WRITTEN.items():
        if isinstance(value, kind):
            return {_MARK: [name, write(value)]}
    raise TypeError(f'{type(value).__name__} cannot be kept')


def _unmarked(struct: dict[str, Any]) -> Any:
    if _MARK not in struct:
        return struct
    name, value = struct[_MARK]
    return _READ[name](value)
