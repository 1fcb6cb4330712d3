"""Spools for long answers: parts are compressed as they arrive, kept until they are sent, and sent in pieces."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from tempfile import SpooledTemporaryFile

from nipap.runtime.places import Held

GZIP = 16 + zlib.MAX_WBITS  # zlib's name for the gzip format
GZIP_LEVEL = 3  # on our answers as fast as level 1, with a result a fifth smaller

_IN_MEMORY = 4 * 2**20
_PIECE = 128 * 2**10


class Spool:
    """A complete answer: any error occurs before its first byte is sent, and can still become a fault.

    The answer is compressed to a twentieth of its size. It is in memory while small, then in an unnamed temporary file.
    """

    def __init__(self, parts: Iterable[bytes]) -> None:
        """Take all parts in.

        :raises OSError: there is no space for the file.
        :raises NipapUnavailableError: the party has no room for more.
        """
        self.size = 0  # bytes of the answer, not compressed
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
        """Yield the answer in the gzip format, `packed_size` bytes."""
        self._file.seek(0)
        while piece := self._file.read(_PIECE):
            yield piece

    def plain(self) -> Iterator[bytes]:
        """Yield the answer without compression, `size` bytes."""
        stream = zlib.decompressobj(GZIP)
        for piece in self.packed():
            while piece:
                yield stream.decompress(piece, _PIECE)
                piece = stream.unconsumed_tail

    def close(self) -> None:
        """Discard the answer. Further calls do nothing."""
        self._file.close()
        self._held.release()

    def __del__(self) -> None:
        self.close()
