"""A dump in another form than that of `nipap-admin dump` is refused before any use, with the reason."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nipap.postgres import schema
from nipapd import archive, dump

KNOWN = ('database', 'accounts')
FACTS = {'schema': 1, 'daemon': '1.0', 'time': 'now', 'postgresql': '18', 'namespace': 'public', 'extensions': []}


def written(directory: Path, facts: dict[str, Any], **files: bytes) -> bytes:
    """Return a file as `archive.write` makes it, from files with this content."""
    paths = []
    for name, content in files.items():
        paths.append(directory / name)
        paths[-1].write_bytes(content)
    out = io.BytesIO()
    archive.write(out, facts, paths)
    return out.getvalue()


def changed(whole: bytes, change: Callable[[list[tuple[str, bytes]]], None]) -> bytes:
    """Return the archive after `change` has edited its members, pairs of name and content in order."""
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        members = [(member.name, file.read()) for member in tar if (file := tar.extractfile(member))]
    change(members)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w') as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def with_manifest(**values: Any) -> Callable[[list[tuple[str, bytes]]], None]:
    def change(members: list[tuple[str, bytes]]) -> None:
        members[0] = archive.MANIFEST, json.dumps(json.loads(members[0][1]) | values).encode()

    return change


def replaced(place: int, name: str, content: bytes) -> Callable[[list[tuple[str, bytes]]], None]:
    def change(members: list[tuple[str, bytes]]) -> None:
        members[place] = name, content

    return change


NOT_OURS = 'it is not made by nipap-admin dump'
CHANGES = {
    'first member': (replaced(0, 'other.json', b'{}'), NOT_OURS),
    'long manifest': (replaced(0, archive.MANIFEST, b' ' * (archive.LONGEST_MANIFEST + 1)), NOT_OURS),
    'kind': (with_manifest(kind='something else'), NOT_OURS),
    'format': (with_manifest(format=99), 'it has format 99, this program reads 1: upgrade the program'),
    'no JSON': (replaced(0, archive.MANIFEST, b'{'), 'it is damaged, or not made by nipap-admin dump'),
    'no files': (with_manifest(files=None), 'it is damaged, or not made by nipap-admin dump'),
    'missing': (lambda members: members.pop(), 'it is cut off: accounts is missing'),
    'other order': (
        lambda members: members.reverse() or members.insert(0, members.pop()),
        'it is cut off: database is',
    ),
    'size': (replaced(1, 'database', b'longer than it was'), 'database in it is damaged'),
    'content': (replaced(2, 'accounts', b'BOB'), 'accounts in it is damaged'),
}


@pytest.mark.parametrize('name', CHANGES)
def test_an_archive_that_was_changed_is_refused(tmp_path: Path, name: str) -> None:
    change, reason = CHANGES[name]
    whole = written(tmp_path, {}, database=b'all', accounts=b'ann')
    with pytest.raises(archive.ArchiveError, match=reason):
        archive.read(io.BytesIO(changed(whole, change)), tmp_path, KNOWN)


def test_an_archive_that_was_not_changed_is_read(tmp_path: Path) -> None:
    whole = written(tmp_path, {'more': 1}, database=b'all', accounts=b'ann')
    target = tmp_path / 'read'
    target.mkdir()
    manifest = archive.read(io.BytesIO(changed(whole, lambda members: None)), target, KNOWN)
    assert (manifest['more'], list(manifest['files'])) == (1, ['database', 'accounts'])
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {'database': b'all', 'accounts': b'ann'}


def test_a_file_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    whole = written(tmp_path, {}, database=b'all', program=b'rm')
    with pytest.raises(archive.ArchiveError, match="it has 'program', which this program does not know"):
        archive.read(io.BytesIO(whole), tmp_path, KNOWN)


@pytest.mark.parametrize(
    ('facts', 'reason'),
    [
        ({'schema': schema.latest() + 1}, f'this program knows {schema.latest()}: upgrade the program'),
        ({'schema': 'one'}, 'it is damaged'),
        ({'extensions': None}, 'it is damaged'),
        ({}, r'there is no pg_restore: .* \(the dump is of PostgreSQL 18\)'),
    ],
)
def test_facts_of_a_dump_that_cannot_be_restored(tmp_path: Path, facts: dict[str, Any], reason: str) -> None:
    file = tmp_path / 'nipap.dump'
    file.write_bytes(written(tmp_path, FACTS | facts))
    with pytest.raises(dump.DumpError, match=f'nipap.dump.* cannot be restored: .*{reason}|^{reason}'):
        dump.Source.read(str(file), tmp_path, None)


def test_a_dump_without_a_database(tmp_path: Path) -> None:
    file = tmp_path / 'nipap.dump'
    file.write_bytes(written(tmp_path, FACTS, **{dump.USERS: b'ann'}))
    with pytest.raises(dump.DumpError, match=r'nipap\.dump cannot be restored: it has no database'):
        dump.Source.read(str(file), tmp_path, dump.Reader(Path('/bin/true'), None))
