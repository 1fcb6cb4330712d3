"""Regular expressions: how much PostgreSQL is asked to read.

Before it looks at a row, PostgreSQL makes an automaton of an expression. That takes microseconds for what people write,
and minutes for some that are a line long: what repeats, bounds words or is anchored inside something that repeats costs
its square, its cube, or doubles. How long it takes is known when it has been tried only, which `pattern_trial` does
with all that are not `easy`.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from nipap.errors import NipapValueError

LONGEST = 10_000  # characters: reading ten times as many takes a minute, and is rarely interrupted
MOST_SIGNS = 1_000  # that repeat or are a constraint: from here on PostgreSQL may not be interrupted for seconds
_EASY_LENGTH, _EASY_WEIGHT = 500, 5  # of one; the worst there is takes some hundredths of a second
_EASY_TEXT, _EASY_WEIGHTS = 20_000, 100  # of all together
_BOUND_WEIGHT = 8  # 'a{1,255}' is 255 signs in a few characters

_SPECIAL = re.compile(r'[\\\[\](){}*+?^$|]')
_HEAVY = re.compile(r'\\[mMyYAZ0-9]|\\.|[*+?{^$]', re.DOTALL)
_LITERALLY = '***='


def objection(pattern: str) -> str | None:
    """Why a regular expression is not even tried, and what would be; None: nothing is against it."""
    if len(pattern) > LONGEST:
        return f'Invalid regular expression of {len(pattern)} characters, {LONGEST} are accepted'
    if len(pattern) > MOST_SIGNS and (signs := len(_signs(pattern))) > MOST_SIGNS:
        return (
            f'Invalid regular expression ({pattern[:200]}) with {signs} repetitions, anchors and word boundaries, '
            f'{MOST_SIGNS} are accepted'
        )
    return None


def not_posix(pattern: str) -> str:
    """What is said of a text that is no regular expression."""
    return f'Invalid regular expression ({pattern[:200]}), see POSIX regular expressions'


def too_slow(pattern: str) -> str:
    """What is said of one that was tried for too long."""
    return (
        f'Invalid regular expression ({pattern[:200]}), it takes too long to read: '
        'fewer repetitions, anchors and word boundaries are accepted, or less of them inside each other'
    )


def check(pattern: str) -> None:
    """Refuse a regular expression that PostgreSQL would read for too long without being interrupted.

    :raises NipapValueError: saying what would be accepted.
    """
    why = objection(pattern)
    if why is not None:
        raise NipapValueError(why)


def literal(word: str) -> str:
    """A regular expression that finds exactly these characters."""
    return _LITERALLY + word


def has_signs(pattern: str) -> bool:
    """Whether a text may be no regular expression: most words of searches are plain."""
    return _SPECIAL.search(pattern) is not None


def has_title_case(pattern: str) -> bool:
    """Return whether there is a letter with a form for titles, neither small nor capital, such as U+01C5."""
    return not pattern.isascii() and any(sign in 'ǅǈǋǲ' for sign in pattern)


def looks_ascii(pattern: str) -> bool:
    """Return whether there is a letter beyond ASCII whose other form is ASCII: the index may take one for the other."""
    return not pattern.isascii() and any(sign in 'İıſK' for sign in pattern)


def is_plain(pattern: str) -> bool:
    """Whether it stands for itself and is ASCII, but for dots, which stand for any character."""
    return pattern.isascii() and not has_signs(pattern)


def weight(pattern: str) -> int:
    """A rough measure of what there is to read beside plain characters."""
    return sum(_BOUND_WEIGHT if sign == '{' else 1 for sign in _signs(pattern))


def easy(patterns: Collection[str]) -> bool:
    """Whether reading them all is a matter of course."""
    if any(len(pattern) > _EASY_LENGTH for pattern in patterns):
        return False
    weights = list(map(weight, patterns))
    return (
        max(weights, default=0) <= _EASY_WEIGHT
        and sum(weights) <= _EASY_WEIGHTS
        and sum(map(len, patterns)) <= _EASY_TEXT
    )


def _signs(pattern: str) -> list[str]:
    if pattern.startswith(_LITERALLY):
        return []
    return [sign for sign in _HEAVY.findall(pattern) if sign[0] != '\\' or sign[1] in 'mMyYAZ0123456789']


def is_simple(pattern: str) -> bool:
    """Whether a pattern that matches a line also matches a text of several lines that has it.

    Not so when it can look beyond the line or sets options of its own.
    """
    return pattern.startswith(_LITERALLY) or not any(sign in pattern for sign in ('(?', '\\A', '\\Z', '***'))


def for_lines(pattern: str) -> str:
    """A pattern for text of several lines: ^ and $ mean those of a line."""
    anchored = '^' in pattern or '$' in pattern
    return f'(?w){pattern}' if anchored and not pattern.startswith('***') else pattern
