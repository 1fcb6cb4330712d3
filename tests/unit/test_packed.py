"""Packed items are the same in memory and in a file."""

from __future__ import annotations

import gc
import os
import random
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nipap.errors import NipapUnavailableError
from nipap.runtime import packed, places
from nipap.runtime.packed import Packed, decode, encode, size_of, whole
from nipap.runtime.places import Room
from nipap.xmlrpc.codec import encode_response

ROWS = [{'id': n, 'tags': ['a'], 'added': datetime(2026, 1, 1, tzinfo=UTC), 'total': 2**70 + n} for n in range(50)]


def pieces(rows: list[Any], size: int) -> list[list[Any]]:
    return [rows[first : first + size] for first in range(0, len(rows), size)]


@given(st.integers(1, 60), st.integers(0, 50))
def test_items_are_unchanged(size: int, count: int) -> None:
    rows = ROWS[:count]
    made = Packed(pieces(rows, size))
    assert len(made) == count
    assert [made[n] for n in range(count)] == rows
    assert whole(made) == whole(made) == rows
    assert encode_response(made) == encode_response(rows)
    with pytest.raises(IndexError):
        made[count]


def test_packed_members_stay_packed() -> None:
    inner = Packed(pieces(ROWS, 7))
    made = Packed([[1, 2]])
    made.add_as_it_is({'search_options': {}, 'result': inner})
    made.add_as_it_is(inner)
    both = Packed([[0]])
    both.take(made)
    assert whole(both) == [0, 1, 2, {'search_options': {}, 'result': ROWS}, ROWS]
    assert encode_response(both) == encode_response(whole(both))
    assert size_of(both) > 2 * size_of(inner) > 0


def test_it_can_be_kept() -> None:
    made = Packed(pieces(ROWS, 7))
    outer = Packed([['x', 'y']])
    outer.add_as_it_is(made)
    for each in (made, outer, {'result': made, 'after': None}, Packed()):
        again = decode(encode(each))
        assert whole(again) == whole(each)
        assert size_of(again) == size_of(each)


def test_long_packed_items_are_in_a_file_of_the_same_lifetime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, '_IN_MEMORY', 100)
    gc.collect()
    before = len(os.listdir('/proc/self/fd'))
    made = Packed(pieces(ROWS, 7))
    assert len(os.listdir('/proc/self/fd')) == before + 1
    one, other = iter(made), iter(made)
    assert [next(one), next(other), next(one)] == [ROWS[:7], ROWS[:7], ROWS[7:14]]
    del made, one, other
    assert len(os.listdir('/proc/self/fd')) == before


def test_a_packed_list_holds_room_until_it_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room(10_000, 10_000)
    monkeypatch.setattr(places, '_answers', room)
    first = Packed([['x' * 1000]])
    second = Packed()
    second.take(first)
    assert room.held == first.size + second.size > 0
    with pytest.raises(NipapUnavailableError, match='Too many long answers'):
        second.add([random.Random(1).randbytes(20_000).hex()])
    assert room.held == first.size + second.size, 'what was refused is not counted'
    del first, second
    gc.collect()
    assert room.held == 0
