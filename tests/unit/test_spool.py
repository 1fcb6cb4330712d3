"""The spool: what went in comes out, in pieces, and nothing of it stays."""

from __future__ import annotations

import gzip
import random
from collections.abc import Iterator

import pytest

from nipap.runtime import spool
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
def test_what_went_in_comes_out(name: str, in_memory: bool) -> None:
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


def test_pieces_are_for_one_who_left() -> None:
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

    with pytest.raises(KeyError, match='no more'):  # a file left open is a warning, and that an error
        Spool(parts())
