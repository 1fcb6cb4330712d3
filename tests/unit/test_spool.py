"""The spool: the written data is read back, in pieces, and leaves nothing behind."""

from __future__ import annotations

import gzip
import os
import random
from collections.abc import Iterator

import pytest

from nipap.errors import NipapUnavailableError
from nipap.runtime import places, spool
from nipap.runtime.places import Party, Room
from nipap.runtime.spool import Spool

NOISE = random.Random(1).randbytes(300_000)
ANSWERS = {
    'empty': [],
    'short': [b'<a/>'],
    'parts': [b'<a>', b'', b'x' * 5, b'</a>'],
    'regular': [b'<value><string>10.0.0.0/8</string></value>' * 1000] * 300,
    'noise': [NOISE[i : i + 1000] for i in range(0, len(NOISE), 1000)],
}


@pytest.fixture(params=[True, False], ids=['in memory', 'in a file'])
def in_memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if not request.param:
        monkeypatch.setattr(spool, '_IN_MEMORY', 10)
    return bool(request.param)


@pytest.mark.parametrize('name', ANSWERS)
def test_data_is_read_as_it_was_written(name: str, in_memory: bool) -> None:
    answer = b''.join(ANSWERS[name])
    made = Spool(ANSWERS[name])
    for _ in range(2):
        pieces = list(made.plain())
        packed = list(made.packed())
        assert b''.join(pieces) == answer
        assert gzip.decompress(b''.join(packed)) == answer
        assert max(map(len, pieces + packed), default=0) <= 128 * 1024
    assert (made.size, made.packed_size) == (len(answer), sum(map(len, packed)))
    made.close()
    made.close()


def test_a_closed_spool_gives_no_pieces() -> None:
    made = Spool(ANSWERS['regular'])
    pieces = made.plain()
    assert next(pieces)
    made.close()
    with pytest.raises(ValueError, match='closed file'):
        list(pieces)


def test_a_part_that_fails_leaves_nothing(in_memory: bool) -> None:
    def parts() -> Iterator[bytes]:
        yield NOISE
        raise KeyError('no more')

    with pytest.raises(KeyError, match='no more'):  # a file left open causes a warning, which is an error here
        Spool(parts())


def test_spools_share_a_room_and_leave_it() -> None:
    ann, reached = Party('ann'), list[Party]()
    room = Room(1000, 300, reached.append)
    assert room.hold(700, ann)  # no other party is there
    assert not room.hold(100, ann)
    assert room.hold(250, Party('bob'))
    room.release(700, ann)
    room.release(250, Party('bob'))
    assert (room.held, reached) == (0, [ann])


def test_a_spool_holds_room_until_it_is_closed_or_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room(200, 200)
    monkeypatch.setattr(places, '_answers', room)
    made = Spool([b'x' * 1000])
    assert room.held == made.packed_size
    made.close()
    made.close()
    assert room.held == 0
    with pytest.raises(NipapUnavailableError):
        Spool([os.urandom(1000)])
    assert room.held == 0
