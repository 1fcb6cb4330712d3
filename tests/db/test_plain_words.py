"""Plain words: in every language, the condition for the text index matches every text that the search matches."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nipap.postgres.database import Database
from nipap.search import patterns
from nipap.search.condition import PLAIN, PLAIN_LOOK, Guard

# Letters with no counterpart, another one or a longer one in some language; and the wildcards of LIKE.
LETTERS = 'aAiIkKsSzZ.%_-' + 'ıİſKßẞςσΣǅǆÅåÌìijIJ' + '\u0307\u0300\n'
TEXTS = st.lists(st.text(LETTERS, max_size=12), min_size=1, max_size=20)
COLLATIONS = (
    *('C', 'pg_c_utf8', 'pg_unicode_fast'),
    *(f'{language}-x-icu' for language in ('und', 'tr', 'az', 'lt', 'el', 'de')),
)


@st.composite
def words(draw: st.DrawFn) -> tuple[str, list[str]]:
    """Return a plain word and texts, some of which contain the word in other letters."""
    texts = draw(TEXTS)
    some = ''.join(letter for letter in draw(st.sampled_from(texts)) if letter.isascii() and letter != '\n')
    begin = draw(st.integers(0, max(0, len(some) - 1)))
    word = some[begin : begin + draw(st.integers(1, 4))] or 'i'
    return draw(st.sampled_from((word, word.upper(), word.lower()))), texts


@pytest.fixture
def collations(db: Database) -> list[str]:
    there = {row[0] for row in db.read(lambda tx: tx.all('SELECT collname FROM pg_collation'))}
    return [name for name in COLLATIONS if name in there]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words())
@example(('I', ['I', 'ı', 'i', 'İ']))
@example(('i.', ['İ\u0307', 'ISTANBUL']))
def test_nothing_that_matches_is_missed(db: Database, collations: list[str], some: tuple[str, list[str]]) -> None:
    word, texts = some
    assert patterns.is_plain(word)
    _, (like, same) = Guard(((PLAIN, word),)).around('true', ())
    assert same == word
    for collation in collations:
        in_it = PLAIN_LOOK.replace("'I'", f"""'I' COLLATE "{collation}\"""").replace('w.words', 'w')
        sql = f"""SELECT w FROM (SELECT unnest(%s::text[]) COLLATE "{collation}" AS w) w
            WHERE w ~* %s AND NOT coalesce({in_it}, false)"""
        missed = db.read(lambda tx, sql=sql: tx.all(sql, (texts, word, like, word)))
        assert not missed, collation


@pytest.mark.parametrize(
    ('word', 'plain'),
    [('host', True), ('r1.example_net-0', True), ('10%', True), ('é', False), ('a+', False), ('^a', False)],
)
def test_which_words_are_plain(word: str, plain: bool) -> None:
    assert patterns.is_plain(word) is plain
