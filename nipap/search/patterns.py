"""Regular expressions: limits on the work that they give PostgreSQL.

PostgreSQL compiles an expression into an automaton before it reads a row. That takes microseconds for ordinary
expressions, and minutes for some expressions of a line. A repetition, word boundary or anchor inside a repetition costs
time of the second or third power, or doubles the time. Only a trial shows how long it takes: `pattern_trial` tries all
expressions that are not `easy`.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from nipap.errors import NipapValueError

# The limit of characters. Ten times as many take a minute to compile, and are rarely interrupted.
LONGEST = 10_000
# The limit of repetitions and constraints. Beyond it PostgreSQL may not respond to an interrupt for seconds.
MOST_SIGNS = 1_000
# The bounds of an easy expression. The worst expression within them takes some hundredths of a second.
_EASY_LENGTH, _EASY_WEIGHT = 500, 5
# The bounds of all expressions of a query together.
_EASY_TEXT, _EASY_WEIGHTS = 20_000, 100
_BOUND_WEIGHT = 8  # 'a{1,255}' compiles to 255 signs

_SPECIAL = re.compile(r'[\\\[\](){}*+?^$|]')
_HEAVY = re.compile(r'\\[mMyYAZ0-9]|\\.|[*+?{^$]', re.DOTALL)
_LITERALLY = '***='


def objection(pattern: str) -> str | None:
    """Return why an expression is refused without a trial, with the accepted limit; None if it may be tried."""
    if len(pattern) > LONGEST:
        return f'Invalid regular expression of {len(pattern)} characters, {LONGEST} are accepted'
    if len(pattern) > MOST_SIGNS and (signs := len(_signs(pattern))) > MOST_SIGNS:
        return (
            f'Invalid regular expression ({pattern[:200]}) with {signs} repetitions, anchors and word boundaries, '
            f'{MOST_SIGNS} are accepted'
        )
    return None


def not_posix(pattern: str) -> str:
    """Return the error message for an invalid regular expression."""
    return f'Invalid regular expression ({pattern[:200]}), see POSIX regular expressions'


def too_slow(pattern: str) -> str:
    """Return the error message for an expression whose trial timed out."""
    return (
        f'Invalid regular expression ({pattern[:200]}), it takes too long to parse: '
        'use fewer repetitions, anchors and word boundaries, or nest them less'
    )


def check(pattern: str) -> None:
    """Refuse a regular expression that PostgreSQL would compile for too long without an interrupt.

    :raises NipapValueError: with the accepted limit.
    """
    why = objection(pattern)
    if why is not None:
        raise NipapValueError(why)


def literal(word: str) -> str:
    """Return a regular expression that matches exactly these characters."""
    return _LITERALLY + word


def has_signs(pattern: str) -> bool:
    """Return whether the text contains a regular expression metacharacter."""
    return _SPECIAL.search(pattern) is not None


def has_title_case(pattern: str) -> bool:
    """Return whether there is a title case letter, neither small nor capital, such as U+01C5."""
    return not pattern.isascii() and any(sign in 'ǅǈǋǲ' for sign in pattern)


def looks_ascii(pattern: str) -> bool:
    """Return whether a letter beyond ASCII has an ASCII form in the other case. The index may confuse the two."""
    return not pattern.isascii() and any(sign in 'İıſK' for sign in pattern)


def is_plain(pattern: str) -> bool:
    """Return whether an expression is ASCII without metacharacters, except dots, which match any character."""
    return pattern.isascii() and not has_signs(pattern)


def weight(pattern: str) -> int:
    """Return a rough measure of an expression's complexity beyond plain characters."""
    return sum(_BOUND_WEIGHT if sign == '{' else 1 for sign in _signs(pattern))


def easy(patterns: Collection[str]) -> bool:
    """Return whether all expressions are within the bounds of easy expressions, each by itself and together."""
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
    """Return whether an expression that matches a line also matches every text with that line.

    An expression that can look beyond the line or sets options of its own is not simple.
    """
    return pattern.startswith(_LITERALLY) or not any(sign in pattern for sign in ('(?', '\\A', '\\Z', '***'))


def for_lines(pattern: str) -> str:
    """Return the expression for a text of several lines: ^ and $ match at the ends of each line."""
    anchored = '^' in pattern or '$' in pattern
    return f'(?w){pattern}' if anchored and not pattern.startswith('***') else pattern
