"""Conditions: SQL expressions that select objects, and how to combine them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from operator import itemgetter
from typing import Any, ClassVar, NamedTuple, TypeVar

from nipap.search import patterns

Compared = tuple[str, tuple[Any, ...]]
H = TypeVar('H', 'InTreeOrder', 'ByText', 'ByTag', 'ByKey', 'InTime', 'OfSet', 'Place')


# The operator ~* with an expression that `patterns.is_plain`.
PLAIN = 'plain'
# If the character type of the database is C, the index knows only ASCII letters. It misses words with a letter beyond
# ASCII that has an ASCII form. In such a database all texts are compared. PostgreSQL drops one of the two branches when
# it plans.
UNSURE_LOOK = "CASE WHEN show_trgm('ж') <> '{{}}' THEN w.words {0} %s ELSE w.words || '' {0} %s END"
PLAIN_LOOK = "(w.words ILIKE %s OR lower('I') <> 'i' AND w.words ~* %s)"


@dataclass(frozen=True)
class Guard:
    """Operators and values that the text of a prefix must satisfy for a condition to hold.

    The index on text serves them.
    """

    TABLE: ClassVar = 'prefix_words'
    terms: tuple[tuple[str, str], ...]

    def around(self, sql: str, params: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
        """Return a condition with this guard before it. The ids are looked up once, before the rows are read."""
        looks = [_look(operator, value) for operator, value in self.terms]
        words = ' AND '.join(look for look, _ in looks)
        ids = f'SELECT w.prefix_id FROM {self.TABLE} w WHERE {words}'
        return f'(p.id = ANY (ARRAY({ids})) AND {sql})', (*(param for _, some in looks for param in some), *params)


def _look(operator: str, value: str) -> Compared:
    """Return a condition that holds for every text for which the operator holds. It may hold for more."""
    if operator in ('~', '~*') and patterns.looks_ascii(value):
        return UNSURE_LOOK.format(operator), (value, value)
    if operator != PLAIN:
        return f'w.words {operator} %s', (value,)
    # PostgreSQL compares all texts that the index finds, 60,000 for a common word. ILIKE takes half the time. It
    # converts to small letters first, which is safe for ASCII, except where the small form of I is not i. Elsewhere
    # PostgreSQL drops the OR when it plans.
    return PLAIN_LOOK, (f'%{literally(value).replace(".", "_")}%', value)


def literally(value: object) -> str:
    """Return a value escaped for LIKE."""
    return re.sub(r'([\\%_])', r'\\\1', str(value))


ALWAYS: Compared = ('true', ())


@dataclass(frozen=True)
class InTreeOrder:
    """The order of the tree serves a part of the condition, which is one range of its index.

    part: the served part.
    whole: the part is the whole condition.
    """

    part: Compared
    whole: bool = True


@dataclass(frozen=True)
class ByText:
    """The index on text serves the condition.

    guard: the text that every match must have.
    rewritten: the condition, with guards before those parts that have a guard; None if only the whole condition has a
        guard.
    """

    guard: Guard | None
    rewritten: Compared | None = None


@dataclass(frozen=True)
class ByTag:
    """Every match has this tag or lies below a prefix that has it."""

    tag: str


@dataclass(frozen=True)
class ByKey:
    """Columns must equal a value.

    columns: the columns, of prefixes.
    listed: the objects are VRFs, pools or AS numbers, and the condition names them. One plan serves all parameters.
    """

    columns: frozenset[str] = frozenset()
    listed: bool = False

    @property
    def unique(self) -> bool:
        """Return whether the columns are a key of prefixes, so that at most one prefix matches."""
        return 'p.id' in self.columns or ('p.prefix' in self.columns and not self.columns.isdisjoint(_VRF_KEYS))


@dataclass(frozen=True)
class InTime:
    """Every match of the audit log has a time in this range, its ends included. None: without an end."""

    since: datetime | None
    until: datetime | None


@dataclass(frozen=True)
class OfSet:
    """Every match of the audit log belongs to this change set."""

    number: int


@dataclass(frozen=True)
class Place:
    """Every match of the audit log is an entry of a prefix in this place, before or after the change.

    network: an operator and the network to compare with.
    """

    vrf_id: int | None = None
    network: tuple[str, str] | None = None


Hint = InTreeOrder | ByText | ByTag | ByKey | InTime | OfSet | Place


@dataclass(frozen=True)
class Condition:
    """A boolean SQL expression with its parameters, and hints about the index that finds its rows.

    hints: at most one of each type.
    patterns: the regular expressions among the parameters.
    """

    sql: str
    params: tuple[Any, ...] = ()
    hints: tuple[Hint, ...] = ()
    patterns: tuple[str, ...] = ()

    def hint(self, kind: type[H]) -> H | None:
        """Return the hint of a type, if there is one."""
        for hint in self.hints:
            if isinstance(hint, kind):
                return hint
        return None

    @property
    def best(self) -> Hint | None:
        """Return the hint for the look-up of prefixes; None if no index helps.

        The order of the tree is best if it serves the whole condition. A tag is second, text is third.
        """
        text: ByText | None = None
        tag: ByTag | None = None
        for hint in self.hints:
            match hint:
                case InTreeOrder(whole=True):
                    return hint
                case ByTag():
                    tag = hint
                case ByText():
                    text = hint
        return tag or text

    @property
    def unique(self) -> bool:
        """Return whether the condition names a key of prefixes, so that at most one prefix matches."""
        key = self.hint(ByKey)
        return key is not None and key.unique

    @property
    def listed(self) -> bool:
        """Return whether the condition names VRFs, pools or AS numbers by key."""
        key = self.hint(ByKey)
        return key is not None and key.listed

    @property
    def within(self) -> Compared:
        """Return the part of the condition that the order of the tree serves."""
        order = self.hint(InTreeOrder)
        return ALWAYS if order is None else order.part

    def candidates(self) -> Compared | None:
        """Return a condition that finds candidates by the index on text: nearly all match. None without a guard."""
        text = self.hint(ByText)
        if text is None or text.guard is None or (text.rewritten and Guard.TABLE in text.rewritten[0]):
            return None
        return text.guard.around(*self.within)

    def guarded(self) -> Compared:
        """Return the expression and its parameters with guards, in the form that the index on text serves best."""
        text = self.hint(ByText)
        behind = self.behind_guard()
        return behind if text is None or text.guard is None else text.guard.around(*behind)

    def behind_guard(self) -> Compared:
        """Return the expression and its parameters without the guard of the whole."""
        text = self.hint(ByText)
        return text.rewritten if text is not None and text.rewritten else (self.sql, self.params)


_VRF_KEYS = frozenset({'p.vrf_id', 'v.rt', 'v.name'})
EVERYTHING = Condition('true', hints=(InTreeOrder(ALWAYS),))
NOTHING = Condition('false', hints=(InTreeOrder(ALWAYS),))

# Deeper trees are passed as a program for a stack machine: PostgreSQL's parser has a limit.
_MAX_DEPTH = 100
# More look-ups in the index on text take longer to plan than they save.
_MOST_GUARDS = 1_000
# Only the longest words are looked up: they are mostly the rarest. Their matches are compared with the other words.
_MOST_TERMS = 8

LEAF, AND, OR = 0, -1, -2


class Step(NamedTuple):
    """A step of a query in postfix: a leaf and its number, or a join and the number of its operands."""

    what: int
    number: int


def assemble(leaves: list[Condition], program: list[Step], depth: int) -> Condition:
    """Assemble the condition of a query in postfix. depth: the depth of its tree."""
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
    text = whole.hint(ByText)
    if text is not None and text.rewritten and text.rewritten[0].count(Guard.TABLE) > _MOST_GUARDS:
        return replace(whole, hints=tuple(hint for hint in whole.hints if hint is not text))
    return whole


def _all(joined: Sequence[Condition]) -> Condition:
    if len(joined) == 1:
        return joined[0]
    sql, params = _joined(' AND ', [(each.sql, each.params) for each in joined])
    hints: list[Hint] = [_in_order(joined)]
    others = [hint for each in joined for hint in each.hints]
    keys = [hint.columns for hint in others if isinstance(hint, ByKey)]
    if keys:
        hints.append(ByKey(frozenset().union(*keys)))
    hints += [hint for hint in others if isinstance(hint, ByTag)][:1]
    if any(isinstance(hint, ByText) for hint in others):
        hints.append(ByText(_all_guards(joined), _joined(' AND ', [each.behind_guard() for each in joined])))
    hints += _in_history(others)
    return Condition(sql, params, tuple(hints), tuple(pattern for each in joined for pattern in each.patterns))


def _in_history(hints: Sequence[Hint]) -> Iterator[Hint]:
    """Yield the hints about the audit log that hold when all of the hints do."""
    times = [hint for hint in hints if isinstance(hint, InTime)]
    if times:
        since = max((hint.since for hint in times if hint.since is not None), default=None)
        until = min((hint.until for hint in times if hint.until is not None), default=None)
        yield InTime(since, until)
    yield from [hint for hint in hints if isinstance(hint, OfSet)][:1]
    places = [hint for hint in hints if isinstance(hint, Place)]
    if places:
        vrf_id = next((hint.vrf_id for hint in places if hint.vrf_id is not None), None)
        yield Place(vrf_id, next((hint.network for hint in places if hint.network is not None), None))


def _in_order(joined: Sequence[Condition]) -> InTreeOrder:
    orders = [each.hint(InTreeOrder) for each in joined]
    part = _joined(' AND ', [each.within for each in joined])
    return InTreeOrder(part, all(order is not None and order.whole for order in orders))


def _all_guards(joined: Sequence[Condition]) -> Guard | None:
    """Combine the words of all guards: separate look-ups would check every row for a common word beside a rare one."""
    guards = [text.guard for each in joined if (text := each.hint(ByText)) and text.guard]
    terms = dict.fromkeys(term for guard in guards for term in guard.terms)
    return Guard(tuple(sorted(terms, key=lambda term: -len(term[1]))[:_MOST_TERMS])) if terms else None


def _any(joined: Sequence[Condition]) -> Condition:
    if any(each is EVERYTHING for each in joined):
        return EVERYTHING
    sql, params = _joined(' OR ', [(each.sql, each.params) for each in joined])
    # A word is searched in five attributes: one look-up in the index serves them all.
    texts = [each.hint(ByText) for each in joined]
    guards = [None if text is None else text.guard for text in texts]
    runs = itertools.groupby(zip(guards, joined, strict=True), itemgetter(0))
    alike = [(guard, [condition for _, condition in run]) for guard, run in runs]
    by_text = any(text is not None for text in texts)
    guarded = [_any_guarded(guard, _by_id(some) if by_text else some) for guard, some in alike]
    same = alike[0][0] if len(alike) == 1 else None
    hints: list[Hint] = []
    if by_text:
        hints.append(ByText(same, None if same else _joined(' OR ', guarded)))
    tags = {each.hint(ByTag) for each in joined}
    hints += [tag for tag in tags if tag is not None and len(tags) == 1]
    return Condition(sql, params, tuple(hints), tuple(pattern for each in joined for pattern in each.patterns))


def _by_id(conditions: list[Condition]) -> list[Condition]:
    """Replace conditions on networks by conditions on ids: the order of the tree cannot serve an OR with text."""
    return [replace(each, sql=_IN_VRFS.format(each.sql)) if _is_network(each) else each for each in conditions]


def _is_network(condition: Condition) -> bool:
    order = condition.hint(InTreeOrder)
    return order is not None and order.whole and len(condition.hints) == 1 and 'p.prefix' in order.part[0]


# This reads VRF by VRF along the index on (vrf_id, prefix).
_IN_VRFS = """p.id = ANY (ARRAY(SELECT i.id FROM vrf z CROSS JOIN LATERAL (
    SELECT p.id FROM prefix p WHERE p.vrf_id = z.id AND {}) i))"""


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
    # A join of several operands is repeated joins of two.
    steps = ','.join(str(number) if what == LEAF else ','.join([str(what)] * (number - 1)) for what, number in program)
    return Condition(
        f"holds(ARRAY[{values}]::boolean[], '{{{steps}}}'::int[])",
        tuple(param for leaf in leaves for param in leaf.params),
        patterns=tuple(pattern for leaf in leaves for pattern in leaf.patterns),
    )


def all_of(conditions: Sequence[Condition]) -> Condition:
    """Return the condition that all of the given conditions hold."""
    return _all(conditions) if conditions else EVERYTHING
