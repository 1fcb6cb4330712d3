"""Searches: parse the members of a search call and compose its answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nipap.attributes import shown
from nipap.errors import NipapInputError, NipapMissingInputError, NipapValueError
from nipap.objects.kinds import Kind, Object
from nipap.postgres.transaction import Transaction
from nipap.runtime import waiting
from nipap.runtime.chunks import Chunks
from nipap.search import patterns, smart_parsing
from nipap.search.paging import Page
from nipap.search.pattern_trial import refused
from nipap.search.query import Condition
from nipap.search.smart_parsing import FAILED, FORBIDDEN_CHARACTER, Query, SmartQuery
from nipap.text import forbidden_character

# The longest word that is matched literally. PostgreSQL runs out of memory for a regular expression of ten times as
# many distinct characters.
LONGEST_LITERAL = 1_000


@dataclass(frozen=True)
class Options:
    """Search options: as they were sent, as they are echoed, and the part of the answer that they request."""

    given: object
    echo: Mapping[str, Any]
    page: Page
    around: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Extra:
    """The checked ``extra_query`` of a smart search, as it was sent."""

    query: Any


def read_query(kind: Kind, query: object) -> Condition:
    """Compile the ``query`` of a search.

    :raises NipapMissingInputError: there is no query.
    :raises NipapError: `compile_query` refuses the query.
    """
    if query is None:
        raise NipapMissingInputError("'query' must be specified")
    return kind.compile(query)


def read_options(kind: Kind, options: object) -> Options:
    """Read ``search_options``.

    :raises NipapValueError: naming the option.
    """
    echo, page, *around = kind.options(options, kind.order)
    return Options(options, echo, page, tuple(around))


def read_text(kind: Kind, text: object) -> SmartQuery:
    """Read the ``query_string`` of a smart search. Every string is accepted.

    :raises NipapInputError: the value is not a string.
    :raises NipapMissingInputError: the value is nil.
    """
    if text is None:
        raise NipapMissingInputError("'query_string' must be specified")
    if not isinstance(text, str):
        raise NipapInputError(f'Invalid query_string ({shown(text)}), must be a string')
    if forbidden_character(text) is not None:
        return smart_parsing.not_understood(text, FORBIDDEN_CHARACTER)
    turns = waiting.Turns()

    def accepts(name: str, operator: str, value: str) -> bool:
        turns.next()
        return kind.accepts(name, operator, value)

    read = kind.parse(text, kind.knows, accepts)
    waiting.give_way()
    return read


def read_extra(kind: Kind, query: object) -> Extra | None:
    """Check the ``extra_query`` of a smart search; return None for nil and ``{}``.

    :raises NipapError: `compile_query` refuses the query.
    """
    if not query:
        return None
    kind.compile(query)
    return Extra(query)


# ---------------------------------------------------------------- answers


def search(tx: Transaction, kind: Kind, condition: Condition, options: Options, longest: int | None) -> Object:
    """Return a page of a search. An answer of more than `longest` objects may be `Chunks` instead of a list."""
    result = _found(tx, kind, condition, options, longest)
    return {'search_options': options.echo, 'result': result, **_next(kind, options, result)}


def smart_search(
    tx: Transaction,
    kind: Kind,
    text: SmartQuery,
    options: Options,
    extra: Extra | None,
    longest: int | None,
    visible: Callable[[Condition], Condition] = lambda condition: condition,
) -> Object:
    """Return a page of a smart search, with its interpretation. `longest` is the bound of `search`.

    visible: restricts the condition to what the caller may see.
    """
    understood = _understand(tx, text)
    shown_query, query = understood.shown.query, understood.query
    if understood.shown.error:
        return {
            'search_options': {} if options.given is None else options.given,
            'result': [],
            'interpretation': shown_query,
            'error': True,
            'error_message': understood.shown.error_message,
        }
    if extra is not None:
        shown_query, query = ({'operator': 'and', 'val1': ours, 'val2': extra.query} for ours in (shown_query, query))
    result = _found(tx, kind, visible(kind.compile(query)), options, longest, tried=understood.tried)
    return {
        'search_options': options.echo,
        'result': result,
        **_next(kind, options, result),
        'interpretation': shown_query,
        'error': False,
    }


def _found(
    tx: Transaction,
    kind: Kind,
    condition: Condition,
    options: Options,
    longest: int | None,
    *,
    tried: frozenset[str] = frozenset(),
) -> list[Object] | Chunks:
    read_all, page = kind.find_all, options.page
    short = page.max_result is not None and (longest is None or page.max_result <= longest)
    at_once = read_all is None or longest is None or short or 'after' in options.echo
    # An error aborts an open transaction, so within one every pattern is tried before it is used.
    untried = [pattern for pattern in condition.patterns if pattern not in tried]
    try_all = not at_once or not tx.each_statement_alone
    _refuse_bad(tx, untried, all_signs=try_all)
    if read_all is None or at_once:
        found = kind.find(tx, condition, page, *options.around)
        # Without a row to compare, PostgreSQL may not have compiled the patterns.
        if not found and not try_all:
            _refuse_bad(tx, untried, all_signs=True)
        return found
    return chunks(tx, lambda inner: read_all(inner, condition, page, *options.around))


def _refuse_bad(tx: Transaction, given: list[str], *, all_signs: bool) -> None:
    for why in refused(tx, given, all_signs=all_signs).values():
        raise NipapValueError(why)


def chunks(tx: Transaction, read: Callable[[Transaction], Iterator[list[Object]]]) -> Chunks:
    """Return a long list. Each iteration calls `read` with a new snapshot."""

    def lists() -> Iterator[list[Object]]:
        with tx.snapshot() as inner:
            yield from read(inner)

    return Chunks(lists)


def _next(kind: Kind, options: Options, result: Any) -> Object:
    """Return the cursor of the next page for a request that pages by cursor; nil if there is no next page."""
    if 'after' not in options.echo:
        return {}
    full = bool(result) and len(result) == options.echo['max_result']
    return {'after': kind.order.cursor(result[-1]) if full else None}


# ---------------------------------------------------------------- texts


@dataclass(frozen=True)
class _Understood:
    """The interpretation that clients see, the query struct that is run, and the patterns in it that were tried."""

    shown: SmartQuery
    query: Query
    tried: frozenset[str] = frozenset()


def _understand(tx: Transaction, read: SmartQuery) -> _Understood:
    """Try the regular expressions of a text. A word is matched literally if it is no valid expression or too slow."""
    if read.error:
        return _Understood(read, read.query)
    words, compared = smart_parsing.patterns_of(read.query)
    given = words | compared
    no_patterns = refused(tx, given, all_signs=True)
    if not no_patterns:
        return _Understood(read, read.query, frozenset(given))
    literal = {word: patterns.literal(word) for word in words if word in no_patterns}
    too_long = {word for word in literal if len(word) > LONGEST_LITERAL}
    if smart_parsing.mark_invalid(read.query, no_patterns, too_long):
        return _Understood(SmartQuery(read.query, True, FAILED), read.query)
    query = smart_parsing.replace_words(read.query, literal)
    return _Understood(read, query, frozenset({*given, *literal.values()}))
