"""The file that ``nipap-admin dump`` writes: a tar archive of ``manifest.json`` and the files that it names.

The manifest holds sizes and hashes, so a file that is cut off, damaged or foreign is detected before it is used.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

FORMAT = 1
KIND = 'nipap-admin dump'
MANIFEST = 'manifest.json'
LONGEST_MANIFEST = 2**16
PIECE = 2**20


class ArchiveError(Exception):
    """The file was not written by `write`, or is damaged."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Yield a new file for its owner alone, which replaces `path` once it is complete and on the disk."""
    partial = path.with_name(f'{path.name}.new')
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, 'wb') as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        partial.rename(path)
        _sync_directory(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(out: IO[bytes], facts: dict[str, Any], files: Sequence[Path]) -> None:
    """Write a manifest with the facts and the files' sizes and hashes, and then the files."""
    parts = {file.name: {'size': file.stat().st_size, 'sha256': _hash(file)} for file in files}
    manifest = json.dumps({'kind': KIND, 'format': FORMAT, **facts, 'files': parts}, indent=2).encode() + b'\n'
    with tarfile.open(fileobj=out, mode='w|', format=tarfile.USTAR_FORMAT) as tar:
        tar.addfile(_member(MANIFEST, len(manifest)), io.BytesIO(manifest))
        for file in files:
            with file.open('rb') as content:
                tar.addfile(_member(file.name, file.stat().st_size), content)


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    return member


def _hash(file: Path) -> str:
    with file.open('rb') as content:
        return hashlib.file_digest(content, 'sha256').hexdigest()


def read(source: IO[bytes], directory: Path | None, known: Sequence[str]) -> dict[str, Any]:
    """Extract the files into `directory` and return the manifest. Without a directory, check the archive only.

    known: the names that files of the archive may have.
    :raises ArchiveError: something is missing, damaged, or not as `write` writes it.
    """
    try:
        with tarfile.open(fileobj=source, mode='r|') as tar:
            manifest = _read_manifest(tar)
            files = manifest['files']
            for name in files:
                if name not in known:
                    raise ArchiveError(f'it has {name!r}, which this program does not know')
                _extract(tar, name, files[name], Path(os.devnull) if directory is None else directory / name)
            return manifest
    except tarfile.TarError as error:
        raise ArchiveError(f'it is no tar archive, or it is damaged or cut off ({error})') from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArchiveError('it is damaged, or not made by nipap-admin dump') from error


def _read_manifest(tar: tarfile.TarFile) -> dict[str, Any]:
    member = tar.next()
    content = tar.extractfile(member) if member and member.name == MANIFEST else None
    if member is None or content is None or member.size > LONGEST_MANIFEST:
        raise ArchiveError('it is not made by nipap-admin dump')
    manifest: dict[str, Any] = json.loads(content.read())
    if manifest['kind'] != KIND:
        raise ArchiveError('it is not made by nipap-admin dump')
    if manifest['format'] != FORMAT:
        raise ArchiveError(f'it has format {manifest["format"]}, this program reads {FORMAT}: upgrade the program')
    return manifest


def _extract(tar: tarfile.TarFile, name: str, expected: dict[str, Any], target: Path) -> None:
    member = tar.next()
    content = tar.extractfile(member) if member and member.name == name else None
    if member is None or content is None:
        raise ArchiveError(f'it is cut off: {name} is missing')
    if member.size != expected['size']:
        raise ArchiveError(f'{name} in it is damaged')
    hashed = hashlib.sha256()
    with target.open('wb') as file:
        while piece := content.read(PIECE):
            hashed.update(piece)
            file.write(piece)
    if hashed.hexdigest() != expected['sha256']:
        raise ArchiveError(f'{name} in it is damaged')
