"""Names of new users: no name can be mistaken for another."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nipap.access.local_users import LocalUser, LocalUsers, UserInputError
from nipap.access.names import ACCEPTED, LONGEST_NAME, problem_of

ORDINARY = [
    *('admin', 'ann@example.com', 'space name', "o'brien", 'DOMAIN\\ann', 'a', 'x' * LONGEST_NAME, 'nipap-www_2.0'),
    *('Åsa', 'José', 'Müller', 'Đặng', 'ışık', 'əli', 'иван@example.com', 'müller-θ', 'αβγδ', 'שלום', 'שָׁלוֹם'),
    *('नमस्ते', 'ไทย', '田中さん', 'コーヒー', '김철수', 'дмин'),
]
REFUSED = {
    '': 'must not be empty',
    '  ': 'must not be empty',
    'x' * (LONGEST_NAME + 1): 'must not have more than 100 characters',
    'x' * 2**20: 'must not have more than 100 characters',
    'a:b': "must not contain ':'",
    'a\nb': "must not contain '\\n'",
    'a\x7fb': 'must not contain',
    'a\u2028b': 'must not contain',
    ' admin': 'must not have blanks at its ends',
    'admin ': 'must not have blanks at its ends',
    'an  n': 'must not have blanks at its ends, or two in a row',
    '\u0430dmin': 'must not mix alphabets in one word',  # Cyrillic
    '\u03b1dmin': 'must not mix alphabets in one word',  # Greek
    'dmin\u093c': 'must not mix alphabets in one word',  # a mark of Devanagari
    'x@\u0430dmin': 'must not mix alphabets in one word',
    '\u0441\u043e\u0441\u043e': 'must not look like ASCII',  # Cyrillic
    '\u03bf': 'must not look like ASCII',  # Greek
    'adm\u0131n': 'must not look like ASCII',
    'Jose\u0301': 'must be in the normal form C',
    '\uff41dmin': 'must be in the normal form C',  # a wide letter
    '\U0001d41admin': 'must be in the normal form C',  # a bold letter
    'ann\xa0b': 'must be in the normal form C',
    'admin\u200f': 'which is no letter',  # writes on from right to left
    '\u202enimda': "must not contain '\\u202e'",
    '\u2067nimda': "must not contain '\\u2067'",
    'ad\u200bmin': 'which is no letter',
    'ad\u200dmin': 'which is no letter',
    'admin\ufe0f': 'which is no letter',
    'ad\u034fmin': 'which is no letter',
    '\u1160admin': 'which is no letter',
    '\u1d00dmin': 'which is no letter',  # a small capital
    'ann\u0663': 'which is no letter',  # a digit
    'ann\u2024b': 'must be in the normal form C',
}


@pytest.mark.parametrize('name', ORDINARY)
def test_ordinary_names(name: str) -> None:
    assert problem_of(name) is None


@pytest.mark.parametrize('name', REFUSED, ids=lambda name: ascii(name[:20]))
def test_names_that_are_not_accepted(tmp_path: Path, name: str) -> None:
    users = LocalUsers(tmp_path / 'accounts.db')
    users.create()
    with pytest.raises(UserInputError) as refusal:
        users.add(LocalUser(name), 'a password')
    text = str(refusal.value)
    assert text.startswith('the name of a user must ')
    assert REFUSED[name] in text
    assert text.endswith(f'({ACCEPTED})')
    assert len(text) < 1000
    assert text.isascii()
    assert text.isprintable()
    assert users.users() == []


@given(st.text())
def test_whatever_is_accepted_can_be_seen(name: str) -> None:
    if problem_of(name) is None:
        assert name.isprintable()
        assert unicodedata.normalize('NFKC', name) == name == name.strip()
        assert {unicodedata.bidirectional(character) for character in name}.isdisjoint(
            {'RLE', 'RLO', 'RLI', 'LRO', 'BN'}
        )


@given(st.text(alphabet=st.characters(max_codepoint=0x2FF, categories=('Lu', 'Ll')), min_size=1, max_size=8))
def test_european_names_are_accepted_unless_they_look_like_ascii(name: str) -> None:
    problem = problem_of(name)
    if problem is not None:
        assert problem.startswith(('must not look like ASCII', 'must be in', 'must not contain', 'must not mix'))
    if name.isascii():
        assert problem is None
