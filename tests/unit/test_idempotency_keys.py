"""Idempotency keys without a database: the form of keys, the fingerprint of a call, and the encoding of answers."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nipap.access.authentication import Actor
from nipap.backend import Backend
from nipap.calls import CALLS
from nipap.errors import AuthorizationFailedError, NipapError, NipapInputError, NipapValueError
from nipap.history import idempotency
from nipap.history.idempotency import encode, fingerprint, read_key
from nipap.postgres.database import Database
from nipap.runtime import packed
from nipap.runtime.packed import decode

CALL = ('ann', 'add_prefix', {'attr': {'prefix': '10.0.0.0/8', 'vlan': 1}, 'args': None})

TEXTS = st.text(st.characters(exclude_characters='\0'))
ZONES = st.sampled_from([None, UTC, timezone(timedelta(hours=5, minutes=30))])
MOMENTS = st.datetimes(timezones=ZONES).map(lambda moment: moment.replace(fold=0))
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**255), 2**255)
    | st.floats(allow_nan=False)
    | st.decimals(allow_nan=False)
    | TEXTS
    | st.binary()
    | MOMENTS
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner))


def exact(value: Any) -> Any:
    """Return a value in a form that is equal only for the same types, order and digits."""
    if isinstance(value, dict):
        return [(name, exact(item)) for name, item in value.items()]
    if isinstance(value, list):
        return [exact(item) for item in value]
    return type(value), repr(value)


@given(VALUES)
def test_an_answer_is_read_as_it_was_kept(value: Any) -> None:
    assert exact(decode(encode(value))) == exact(value)


def test_names_of_ours_are_names_like_others() -> None:
    value = {'datetime': 'x', '$result': [1], '__class__': {'': None}}
    assert decode(encode(value)) == value


def test_a_value_that_cannot_be_kept_is_refused() -> None:
    with pytest.raises(TypeError, match='set cannot be kept'):
        encode([{1}])


def test_an_answer_may_be_large_but_not_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{'id': number, 'description': 'd' * 500} for number in range(100_000)]
    kept = encode(rows)
    assert len(kept) < idempotency.LARGEST_ANSWER / 4
    assert decode(kept) == rows
    monkeypatch.setattr(idempotency, 'LARGEST_ANSWER', 2**17)
    with pytest.raises(NipapValueError, match=r'too large to be stored for an idempotency key .*, at most 131072'):
        encode(os.urandom(2**17))


def nested(depth: int) -> Any:
    value: Any = 'x'
    for turn in range(depth):
        value = [value] if turn % 2 else {'inner': value}
    return value


def test_nesting_has_an_end() -> None:
    deepest = nested(packed.DEEPEST - 2)
    assert decode(encode(deepest)) == deepest
    assert fingerprint('ann', 'batch', {'operations': deepest})
    for depth in (packed.DEEPEST + 1, 50_000):
        with pytest.raises(NipapInputError, match='may nest 200 deep'):
            encode(nested(depth))
        with pytest.raises(NipapInputError, match='may nest 200 deep'):
            fingerprint('ann', 'batch', {'operations': nested(depth)})


@pytest.mark.parametrize('key', ['k', 'k' * 255, 'a b/ä→😀"\\', '0'])
def test_keys(key: str) -> None:
    assert read_key(key) == key


@pytest.mark.parametrize('key', ['', 'k' * 256, 'a\nb', '\0', '\u200b', '\ud800', 1, True, [], {}, b'k'])
def test_invalid_keys(key: object) -> None:
    with pytest.raises(NipapValueError, match='must be a string of 1 to 255 printable characters') as refused:
        read_key(key)
    assert len(str(refused.value)) < 400


def test_the_same_call_has_the_same_fingerprint() -> None:
    first = fingerprint(*CALL)
    assert fingerprint('ann', 'add_prefix', {'args': None, 'attr': {'vlan': 1, 'prefix': '10.0.0.0/8'}}) == first
    assert fingerprint('ann', 'add_prefix', {'attr': {'vlan': 1, 'prefix': '10.0.0.0/8'}}) == first
    assert fingerprint('ann', 'edit_vrf', {'at': datetime(2026, 1, 1, tzinfo=UTC), 'x': b'x'})


@pytest.mark.parametrize(
    'other',
    [
        ('bob', *CALL[1:]),
        ('ann', 'add_vrf', CALL[2]),
        ('ann', 'add_prefix', {'attr': {'prefix': '10.0.0.0/8', 'vlan': '1'}}),
        ('ann', 'add_prefix', {'attr': {'prefix': '10.0.0.0/8', 'vlan': True}}),
        ('ann', 'add_prefix', {'attr': {'prefix': '10.0.0.0/8'}}),
        ('ann', 'add_prefix', {'attr': {'prefix': '10.0.0.0/8', 'vlan': 1}, 'args': {}}),
        ('ann', 'add_prefix', {'args': {'prefix': '10.0.0.0/8', 'vlan': 1}}),
    ],
)
def test_another_call_has_another(other: tuple[str, str, dict[str, Any]]) -> None:
    assert fingerprint(*other) != fingerprint(*CALL)


def test_exactly_the_changing_methods_take_keys() -> None:
    """The methods with keys refuse a read-only user before anything else.

    `batch` takes a key too, as it may hold such calls.
    """
    reader = Actor('r', None, 'r', 'test', readonly=True)
    backend = Backend(Database('host=/nowhere'))

    def refused(method: str) -> bool:
        try:
            getattr(backend, method)(reader)
        except AuthorizationFailedError:
            return True
        except NipapError:
            pass  # arguments are missing
        return False

    takes_keys = {name for name, call in CALLS.items() if call.changes}
    asked = {method for method in CALLS if method != 'db_version' and not method.startswith('list_')}
    assert {method for method in asked if refused(method)} == takes_keys - {'batch'}
