"""Regular expressions: patterns that are refused without a trial, and patterns that need no trial."""

from __future__ import annotations

import pytest

from nipap.errors import NipapValueError
from nipap.search import patterns


@pytest.mark.parametrize(
    'pattern',
    [
        'a' * 10_000,
        r'\.' * 5_000,
        r'\d' * 5_000,
        '(' * 10_000,
        '[' * 10_000,
        '|' * 10_000,
        '^a$|' * 500,
        '***=' + '*' * 9_000,
    ],
)
def test_what_may_be_tried(pattern: str) -> None:
    patterns.check(pattern)


@pytest.mark.parametrize(
    ('pattern', 'accepted'),
    [('a' * 10_001, '10000 are accepted')]
    + [
        (sign * 1_001, '1000 are accepted')
        for sign in (r'\m', r'\y', r'\1', '.*', 'a?', '(a+)+$', '^', '$', 'a{9}', '(?=a)', r'\A', r'\M')
    ],
)  # fmt: skip
def test_patterns_that_are_refused_without_a_trial(pattern: str, accepted: str) -> None:
    with pytest.raises(NipapValueError, match=accepted) as refused:
        patterns.check(pattern)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    ('pattern', 'weight'),
    [
        ('', 0),
        ('router', 0),
        (r'10\.1\.', 0),
        ('^core', 1),
        (r'\ysw[0-9]+$', 3),
        (r'\\m', 0),
        ('a{2}', 8),
        ('[*]', 1),
        ('***=**', 0),
    ],
)
def test_weights(pattern: str, weight: int) -> None:
    assert patterns.weight(pattern) == weight


def test_what_is_easy() -> None:
    for some in ([], ['router'], [r'^10\.1\.', '^(a|b)+.*$'], [f'word{n}' for n in range(2_000)], ['a+'] * 100):
        assert patterns.easy(some), some[:1]
    for some in (['^+*?.*+'], ['a{2}'], ['x' * 501], ['a+'] * 101, ['x' * 500] * 41):
        assert not patterns.easy(some), some[:1]
