"""Long answers as compressed JSON, which takes a small part of the memory of the objects.

An answer stored in the database has the same bytes.
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

# The offset and length of the piece in the file, or items in memory.
_Piece = tuple[int, int] | list[Any]


class Packed(Chunks):
    """A list with only one piece in memory at a time. All pieces are in memory while small, else in a temporary file.

    An item that nests too deeply for JSON, or is packed itself, is stored unchanged as a piece of its own.
    """

    __slots__ = ('__weakref__', '_end', '_ends', '_file', '_held', '_last', '_pieces', 'size')

    def __init__(self, lists: Iterable[list[Any]] = ()) -> None:
        self.size = 0  # bytes, including packed items
        self._end = 0  # of the file
        self._file = SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 (lives as long as this)
        self._held = Held()
        weakref.finalize(self, _forget, self._file, self._held)
        self._pieces: list[_Piece] = []
        self._ends: list[int] = []  # the number of items up to the end of each piece
        self._last: tuple[int, list[Any]] = -1, []  # the piece that was read last
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
        return self._last[1][index - self._ends[number]]  # an offset from the end of the piece

    def add(self, items: list[Any]) -> None:
        """Append items.

        :raises NipapInputError: they nest too deeply.
        """
        self._add_bytes(encode(items), len(items))

    def add_as_it_is(self, item: object) -> None:
        """Append an item without packing it."""
        self._note([item], 1)
        self.size += size_of(item)

    def take(self, other: Packed) -> None:
        """Append all items of another list."""
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
        """Return the pieces as JSON values, for `read`: each is an item, or a number of items and packed bytes."""
        return [
            piece if isinstance(piece, list) else [count, _base64(self._bytes(piece))]
            for piece, count in self._counted()
        ]

    @classmethod
    def read(cls, written: list[list[Any]]) -> Packed:
        """Restore a list from the result of `written`."""
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
    """Return the part of an answer that is too long for a list: the answer or its member ``result``; else None."""
    part = answer.get('result') if isinstance(answer, dict) else answer
    return part if isinstance(part, Chunks) else None


def with_part(answer: Any, part: object) -> Any:
    """Return the answer with another value in place of its long part."""
    return {**answer, 'result': part} if isinstance(answer, dict) else part


def whole(answer: Any) -> Any:
    """Return an answer with lists in place of all long parts."""
    part = long_part(answer)
    if part is None:
        return answer
    return with_part(answer, [whole(item) for some in part for item in some])


def size_of(answer: object) -> int:
    """Return the number of packed bytes of an answer."""
    part = long_part(answer)
    return part.size if isinstance(part, Packed) else 0


# ---------------------------------------------------------------- values

# A value without a JSON form is a struct with this name. Clients cannot send it and PostgreSQL cannot store it.
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
    """Return any answer as compressed bytes for `decode`.

    :raises NipapInputError: it nests too deeply.
    """
    return _aside(partial(zlib.compress, plain := encoded(value), 1), len(plain))


def decode(packed: bytes) -> Any:
    """Return an answer equal to the encoded one, with lists in place of tuples."""
    return json.loads(_aside(partial(zlib.decompress, packed), len(packed)), object_hook=_unmarked)


def _aside(work: Callable[[], bytes], size: int) -> bytes:
    return waiting.aside(work) if size > _WORTH_ASIDE else work()


def encoded(value: object, *, sort_keys: bool = False) -> bytes:
    """Return any answer as JSON.

    :raises NipapInputError: it nests too deeply.
    """
    check_depth(value)
    return json.dumps(value, default=_marked, sort_keys=sort_keys, separators=(',', ':')).encode()


def check_depth(value: object) -> None:
    """Refuse a value that nests too deeply: JSON code recurses, and might write a value that it cannot read.

    :raises NipapInputError: it nests too deeply.
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
