"""Conditions: SQL that holds or not for an object, and how many of them become one."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

Compared = tuple[str, tuple[Any, ...]]


PLAIN = 'plain'  # the operator ~* with an expression that `patterns.is_plain`
PLAIN_LOOK = "(w.words ILIKE %s OR lower('I') <> 'i' AND w.words ~* %s)"


@dataclass(frozen=True)
class Guard:
    """What the text of a prefix must satisfy for a condition to hold: operators and values. Its index serves them."""

    TABLE: ClassVar = 'prefix_words'
    terms: tuple[tuple[str, str], ...]

    def around(self, sql: str, params: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
        """A condition with this before it. The ids are looked up once, before the rows are."""
        looks = [_look(operator, value) for operator, value in self.terms]
        words = ' AND '.join(look for look, _ in looks)
        ids = f'SELECT w.prefix_id FROM {self.TABLE} w WHERE {words}'
        return f'(p.id = ANY (ARRAY({ids})) AND {sql})', (*(param for _, some in looks for param in some), *params)


def _look(operator: str, value: str) -> Compared:
    """What finds at least the words for which an operator holds."""
    if operator != PLAIN:
        return f'w.words {operator} %s', (value,)
    # What the index finds is compared as well, 60,000 texts of a common word; by ILIKE in half the time. It writes all
    # in small letters first: no matter for ASCII, but where the small I is no i. Elsewhere PostgreSQL drops the OR when
    # it plans.
    return PLAIN_LOOK, (f'%{literally(value).replace(".", "_")}%', value)


def literally(value: object) -> str:
    """A value for LIKE that stands for itself."""
    return re.sub(r'([\\%_])', r'\\\1', str(value))


@dataclass(frozen=True)
class Condition:
    """A boolean SQL expression with its parameters, and what helps to find the rows for which it holds.

    patterns: the regular expressions among the parameters. within: a condition that the order of the tree serves and
    that is part of this one. ordered: there is nothing else to it. indexed: the same expression with guards before the
    parts that an index on text serves. tag: only prefixes tagged so, or inside one that is, can match. pinned: the
    columns that must equal a value. by_key: the objects are VRFs, pools or AS numbers, and it names those that are
    meant; one plan serves all parameters.
    """

    sql: str
    params: tuple[Any, ...] = ()
    patterns: tuple[str, ...] = ()
    within: tuple[str, tuple[Any, ...]] = ('true', ())
    ordered: bool = False
    indexed: tuple[str, tuple[Any, ...]] = ('', ())
    tag: str | None = None
    guard: Guard | None = None
    pinned: frozenset[str] = frozenset()
    by_key: bool = False

    @property
    def unique(self) -> bool:
        """Whether a key of prefixes is given, so that it holds for one at most."""
        return 'p.id' in self.pinned or ('p.prefix' in self.pinned and not self.pinned.isdisjoint(_VRF_KEYS))

    def candidates(self) -> Compared | None:
        """What an index on text tells alone of what matches, where that is nearly all there is to it."""
        if self.guard is None or Guard.TABLE in self.indexed[0]:
            return None
        return self.guard.around(*self.within)

    def guarded(self) -> tuple[str, tuple[Any, ...]]:
        """The expression and its parameters, as an index serves it best."""
        return self.guard.around(*self.behind_guard()) if self.guard else self.behind_guard()

    def behind_guard(self) -> Compared:
        """The same without what guards the whole."""
        return self.indexed if self.indexed[0] else (self.sql, self.params)


_VRF_KEYS = frozenset({'p.vrf_id', 'v.rt', 'v.name'})
EVERYTHING = Condition('true', ordered=True)
NOTHING = Condition('false', ordered=True)

# Trees deeper than this are handed over as a program for a stack: PostgreSQL's parser has its limit.
_MAX_DEPTH = 100
# More looks into the index on text take longer to plan than they save.
_MOST_GUARDS = 1_000
# The longest words are mostly the rarest. The others are compared with what these find.
_MOST_TERMS = 8

LEAF, AND, OR = 0, -1, -2


class Step(NamedTuple):
    """One of a query in postfix: a leaf and its number, or a join and how many of what came before it belongs to it."""

    what: int
    number: int


def assemble(leaves: list[Condition], program: list[Step], depth: int) -> Condition:
    """The condition that a query in postfix means; depth: of its tree."""
    return _assemble_expression(leaves, program) if depth <= _MAX_DEPTH else _assemble_program(leaves, program)


def _assemble_expression(leaves: list[Condition], program: list[Step]) -> Condition:
    stack: list[Condition] = []
    for what, number in program:
        if what == LEAF:
            stack.append(leaves[number])
        else:
            joined = stack[-number:]
            del stack[-number:]
            stack.append(_all(joined) if what == AND else _any(joined))
    whole = stack[0]
    if whole.indexed[0].count(Guard.TABLE) > _MOST_GUARDS:
        return replace(whole, indexed=('', ()), guard=None)
    return whole


def _all(joined: Sequence[Condition]) -> Condition:
    sql, params = _joined(' AND ', [(each.sql, each.params) for each in joined])
    return Condition(
        sql,
        params,
        tuple(pattern for each in joined for pattern in each.patterns),
        within=_joined(' AND ', [each.within for each in joined]),
        ordered=all(each.ordered for each in joined),
        indexed=_joined(' AND ', [each.behind_guard() for each in joined]),
        guard=_all_guards(joined),
        tag=next((each.tag for each in joined if each.tag), None),
        pinned=frozenset().union(*(each.pinned for each in joined)),
    )


def _all_guards(joined: Sequence[Condition]) -> Guard | None:
    """One look for all words: with one for each, a common word beside a rare one is looked for in every row."""
    terms = dict.fromkeys(term for each in joined if each.guard for term in each.guard.terms)
    return Guard(tuple(sorted(terms, key=lambda term: -len(term[1]))[:_MOST_TERMS])) if terms else None


def _any(joined: Sequence[Condition]) -> Condition:
    if any(each is EVERYTHING for each in joined):
        return EVERYTHING
    sql, params = _joined(' OR ', [(each.sql, each.params) for each in joined])
    # A word is looked for in five attributes: one look into the index serves them all.
    alike = [(guard, list(some)) for guard, some in itertools.groupby(joined, lambda each: each.guard)]
    guarded = [_any_guarded(guard, some) for guard, some in alike]
    same = alike[0][0] if len(alike) == 1 else None
    return Condition(
        sql,
        params,
        tuple(pattern for each in joined for pattern in each.patterns),
        indexed=('', ()) if same else _joined(' OR ', guarded),
        tag=joined[0].tag if len({each.tag for each in joined}) == 1 else None,
        guard=same,
    )


def _any_guarded(guard: Guard | None, alike: list[Condition]) -> Compared:
    if guard is None:
        return _joined(' OR ', [each.guarded() for each in alike])
    return guard.around(*_joined(' OR ', [(each.sql, each.params) for each in alike]))


def _joined(word: str, parts: Sequence[Compared]) -> Compared:
    if len(parts) == 1:
        return parts[0]
    return f'({word.join(sql for sql, _ in parts)})', tuple(param for _, params in parts for param in params)


def _assemble_program(leaves: list[Condition], program: list[Step]) -> Condition:
    values = ', '.join(leaf.sql for leaf in leaves)
    # To join more than two is to join two several times.
    steps = ','.join(str(number) if what == LEAF else ','.join([str(what)] * (number - 1)) for what, number in program)
    return Condition(
        f"holds(ARRAY[{values}]::boolean[], '{{{steps}}}'::int[])",
        tuple(param for leaf in leaves for param in leaf.params),
        tuple(pattern for leaf in leaves for pattern in leaf.patterns),
    )


def all_of(conditions: Sequence[Condition]) -> Condition:
    """The condition that all of them hold."""
    return _all(conditions) if conditions else EVERYTHING
