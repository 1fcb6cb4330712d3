"""Run searches: the part of an answer in SQL, and errors that name an invalid regular expression."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nipap.errors import NipapPatternError, NipapValueError
from nipap.postgres.transaction import Transaction
from nipap.search import patterns
from nipap.search.condition import Condition, all_of
from nipap.search.paging import Page


def behind(condition: Condition, page: Page) -> Condition:
    """Return a condition and, if a page has one, its start: a match must come after it."""
    return condition if page.behind is None else all_of([condition, page.behind])


def limit(page: Page | None) -> str:
    """Return the LIMIT and OFFSET of a page."""
    if page is None:
        return ''
    return (f' LIMIT {page.max_result:d}' if page.max_result is not None else '') + f' OFFSET {page.offset:d}'


def run_search(
    tx: Transaction, sql: str, condition: Condition, params: Iterable[Any], *, by_key: bool = False
) -> list[tuple[Any, ...]]:
    """Run a search and return its rows.

    by_key: the search is a look-up with the same plan for all parameters.

    :raises NipapValueError: naming the first invalid regular expression of the condition.
    """
    try:
        return tx.all_prepared(sql, tuple(params)) if by_key else tx.all(sql, tuple(params))
    except Exception as exc:
        from_us = pattern_error(tx, exc, condition)
        if from_us is None:
            raise
        raise from_us from exc


def pattern_error(tx: Transaction, exc: Exception, condition: Condition) -> NipapValueError | None:
    """Return an error that names the invalid regular expression; None if `exc` has another cause."""
    if not isinstance(exc, NipapPatternError):
        return None
    for pattern in condition.patterns:
        if not tx.value('SELECT is_pattern(%s)', (pattern,)):
            return NipapValueError(patterns.not_posix(pattern))
    return exc
