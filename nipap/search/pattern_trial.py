"""The trial of regular expressions: refuse invalid and slow expressions before they are used."""

from __future__ import annotations

import time
from collections.abc import Collection

from nipap.errors import NipapTimeoutError
from nipap.postgres.transaction import Transaction
from nipap.search import patterns

TRIAL_S = 0.5  # a thousand times as long as ordinary expressions take


def refused(tx: Transaction, given: Collection[str], *, all_signs: bool = False) -> dict[str, str]:
    """Return the texts that cannot be used as regular expressions, each with an error message.

    all_signs: also try easy expressions, if they contain metacharacters. Otherwise the search itself reports their
        errors.
    """
    found: dict[str, str] = {}
    readable: list[str] = []
    if not given:
        return found
    for pattern in dict.fromkeys(given):
        why = patterns.objection(pattern)
        if why is None:
            readable.append(pattern)
        else:
            found[pattern] = why
    if patterns.easy(readable):
        readable = [pattern for pattern in readable if patterns.has_signs(pattern)] if all_signs else []
    return found | _tried(tx, readable)


def _tried(tx: Transaction, given: list[str]) -> dict[str, str]:
    """Try expressions together. If that times out, try the heavy ones one by one. Return errors as `refused`."""
    if not given:
        return {}
    try:
        return {pattern: patterns.not_posix(pattern) for pattern in _bad(tx, given, TRIAL_S)}
    except NipapTimeoutError:
        if len(given) == 1:
            return {given[0]: patterns.too_slow(given[0])}
    easy = [pattern for pattern in given if patterns.easy([pattern])]
    if len(easy) in (0, len(given)):
        return _tried_singly(tx, given)
    return _tried(tx, easy) | _tried_singly(tx, [pattern for pattern in given if not patterns.easy([pattern])])


def _tried_singly(tx: Transaction, given: list[str]) -> dict[str, str]:
    """Try expressions one by one, the lighter ones first, within `TRIAL_S`. Return errors as `refused`."""
    found: dict[str, str] = {}
    ends = time.monotonic() + TRIAL_S
    for pattern in sorted(given, key=lambda pattern: (patterns.weight(pattern), len(pattern))):
        left_s = ends - time.monotonic()
        try:
            if left_s <= 0:
                found[pattern] = patterns.too_slow(pattern)
            elif _bad(tx, [pattern], left_s):
                found[pattern] = patterns.not_posix(pattern)
        except NipapTimeoutError:
            found[pattern] = patterns.too_slow(pattern)
    return found


def _bad(tx: Transaction, given: Collection[str], limit_s: float) -> list[str]:
    """Return the invalid expressions. Each is tried as it is and in the form for the index on text."""
    forms = {form: pattern for pattern in given for form in (pattern, patterns.for_lines(pattern))}
    bad = tx.briefly(lambda tx: bad_patterns(tx, list(forms)), limit_s)
    return list(dict.fromkeys(forms[form] for form in bad))


def bad_patterns(tx: Transaction, given: list[str]) -> list[str]:
    """Return the texts that PostgreSQL does not accept as regular expressions."""
    return [row[0] for row in tx.all('SELECT p FROM unnest(%s::text[]) p WHERE NOT is_pattern(p)', (given,))]
