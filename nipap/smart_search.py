"""What a smart search searches for: a text is read, held against the attributes, its regular expressions are tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nipap import patterns, smart_parsing, waiting
from nipap.db import Database
from nipap.pattern_trial import refused
from nipap.query import Condition
from nipap.smart_parsing import FAILED, FORBIDDEN_CHARACTER, Query, SmartQuery
from nipap.transaction import Inside
from nipap.wire import forbidden_character

# Of characters that are all different ten times as many take PostgreSQL more memory than it gives.
LONGEST_LITERAL = 1_000

Parse = Callable[[str, smart_parsing.AttributeCheck, smart_parsing.ValueCheck], SmartQuery]
Compare = Callable[[str, str, str], Condition | None]


@dataclass(frozen=True)
class Understood:
    """What clients see of a text, and the query struct that is run, unless there is an error.

    tried: the regular expressions in that, which need not be tried again.
    """

    shown: SmartQuery
    query: Query
    tried: frozenset[str] = frozenset()


def understand(
    db: Database | Inside, text: str, parse: Parse, knows: smart_parsing.AttributeCheck, compare: Compare
) -> Understood:
    """Read a text; there is none that cannot be read.

    knows: whether an attribute can be searched. compare: the condition of a comparison, None when it makes no sense.
    """
    if forbidden_character(text) is not None:
        return _not_run(smart_parsing.not_understood(text, FORBIDDEN_CHARACTER))
    turns = waiting.Turns()

    def accepts(name: str, operator: str, value: str) -> bool:
        turns.next()
        return compare(name, operator, value) is not None

    read = parse(text, knows, accepts)
    waiting.give_way()
    words = smart_parsing.words(read.query)
    given = words | smart_parsing.compared_patterns(read.query)
    no_patterns = refused(db, given, all_signs=True)
    # A word that is no regular expression, or no good one, is matched as it is written.
    literal = {word: patterns.literal(word) for word in words if word in no_patterns}
    too_long = {word for word in literal if len(word) > LONGEST_LITERAL}
    if smart_parsing.mark_invalid(read.query, no_patterns, too_long):
        read = SmartQuery(read.query, True, FAILED)
    if read.error:
        return _not_run(read)
    query = smart_parsing.replace_words(read.query, literal)
    return Understood(read, query, frozenset({*given, *literal.values()}))


def _not_run(read: SmartQuery) -> Understood:
    return Understood(read, read.query)
