"""Long answers, out of memory's way: compressed as they come, kept until they are sent, sent piece by piece."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from tempfile import SpooledTemporaryFile

from nipap.runtime.places import Held

GZIP = 16 + zlib.MAX_WBITS  # what zlib calls the gzip format
GZIP_LEVEL = 3  # on our answers as fast as 1, and a fifth smaller

_IN_MEMORY = 4 * 2**20
_PIECE = 128 * 2**10


class Spool:
    """An answer that was complete before its first byte is sent, so that whatever fails can still become a fault.

    It is compressed, a twentieth of its size: in memory while that is small, in a temporary file without a name beyond.
    """

    def __init__(self, parts: Iterable[bytes]) -> None:
        """Take all parts in.

        :raises OSError: there is no room for the file. NipapUnavailableError: the party has no room for more.
        """
        self.size = 0  # of the answer
        self._held = Held()
        self._file = SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 (lives until it is closed)
        try:
            self._take(parts)
        except BaseException:
            self.close()
            raise

    def _take(self, parts: Iterable[bytes]) -> None:
        stream = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, GZIP)
        for part in parts:
            self.size += len(part)
            self._write(stream.compress(part))
        self._write(stream.flush())
        self.packed_size = self._file.tell()

    def _write(self, piece: bytes) -> None:
        self._held.add(len(piece))
        self._file.write(piece)

    def packed(self) -> Iterator[bytes]:
        """The answer in the gzip format, which is `packed_size` bytes."""
        self._file.seek(0)
        while piece := self._file.read(_PIECE):
            yield piece

    def plain(self) -> Iterator[bytes]:
        """The answer as it was, which is `size` bytes."""
        stream = zlib.decompressobj(GZIP)
        for piece in self.packed():
            while piece:
                yield stream.decompress(piece, _PIECE)
                piece = stream.unconsumed_tail

    def close(self) -> None:
        """Forget it. Harmless when that was done before."""
        self._file.close()
        self._held.release()

    def __del__(self) -> None:
        self.close()
