"""The query compiler: translate the query struct of a search into SQL, for all kinds of objects.

A query is ``{operator, val1, val2}``: ``and`` and ``or`` join two queries, any other operator compares the attribute
``val1`` with the value ``val2``; ``{}`` matches everything. The SQL is composed only of constants of the attribute
tables and of this module. All values from clients are parameters.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from nipap import moments
from nipap.addresses import parse_network, read_mac
from nipap.attributes import (
    Attribute,
    Table,
    comparable_text,
    normal_text,
    read_asn,
    read_boolean,
    read_integer,
    read_value,
    shown,
)
from nipap.errors import (
    NipapInputError,
    NipapMissingInputError,
    NipapNoSuchOperatorError,
    NipapValueError,
)
from nipap.runtime import waiting
from nipap.search import entries, patterns
from nipap.search.condition import (
    ALWAYS,
    AND,
    EVERYTHING,
    LEAF,
    NOTHING,
    OR,
    PLAIN,
    ByKey,
    ByTag,
    ByText,
    Compared,
    Condition,
    Guard,
    InTreeOrder,
    Step,
    all_of,
    assemble,
    literally,
)

_NAMES = {
    'equals': '=',
    'not_equals': '<>',
    '!=': '<>',
    'less': '<',
    'less_or_equal': '<=',
    'greater': '>',
    'greater_or_equal': '>=',
    'regex_match': '~*',
    'regex_not_match': '!~*',
    'contains': '>>',
    'contains_equals': '>>=',
    'contained_within': '<<',
    'contained_within_equals': '<<=',
}
_COMPARISONS = frozenset({'=', '<>', '<', '<=', '>', '>='})
_EQUALITIES = frozenset({'=', '<>', 'is', 'is_not'})
_PATTERNS = frozenset({'~', '!~', '~*', '!~*', 'like'})
_NETWORKS = frozenset({'>>', '>>=', '<<', '<<='})
_OPERATORS = _COMPARISONS | _PATTERNS | _NETWORKS | {'is', 'is_not', 'equals_any'}
COMPARISONS = sorted({*_NAMES, *_OPERATORS})
# Each word of the longest smart search takes five. The rest is for other conditions.
MOST_CONDITIONS = 12_000


def compile_query(query: object, table: Table) -> Condition:
    """Compile a query struct into a condition on the objects of a table.

    :raises NipapInputError: the query is not a struct, a member is missing, or an attribute or operator is unknown.
    :raises NipapValueError: a value that its attribute cannot have, or too many conditions.
    """
    leaves: list[Condition] = []
    program: list[Step] = []
    deepest = 0
    turns = waiting.Turns()
    # Nodes with their depth, and steps that follow their operands.
    todo: list[tuple[object, int] | Step] = [(query, 1)]
    while todo:
        item = todo.pop()
        if isinstance(item, Step):
            program.append(item)
            continue
        node, depth = item
        deepest = max(deepest, depth)
        joined = _parts(node)
        if joined is None:
            if len(leaves) == MOST_CONDITIONS:
                raise NipapValueError(f'The query has too many conditions, {MOST_CONDITIONS} are accepted')
            program.append(Step(LEAF, len(leaves)))
            leaves.append(_leaf(node, table))
        else:
            operands = _operands(*joined)
            todo.append(Step(joined[0], len(operands)))
            todo += [(operand, depth + 1) for operand in reversed(operands)]
        turns.next()
    return assemble(leaves, program, deepest)


def _parts(node: object) -> tuple[int, object, object] | None:
    """Return operator and operands of a node that joins two queries; None for a comparison."""
    if not isinstance(node, Mapping):
        raise NipapInputError(f'Invalid query ({shown(node)}), must be a struct')
    if not node:
        return None
    for member in ('operator', 'val1', 'val2'):
        if member not in node and (member != 'val2' or not isinstance(node.get('val1'), str)):
            raise NipapMissingInputError(f"'{member}' must be specified")
    operator = node['operator']
    if operator not in ('and', 'or'):
        return None
    if 'val2' not in node:
        raise NipapMissingInputError("'val2' must be specified")
    return AND if operator == 'and' else OR, node['val1'], node['val2']


def _operands(operator: int, *pair: object) -> list[object]:
    """Return the operands of nested joins with the same operator: a long list of words is one join, not a deep tree."""
    found: list[object] = []
    todo = list(reversed(pair))
    while todo:
        node = todo.pop()
        inner = _parts(node)
        if inner is not None and inner[0] == operator:
            todo += [inner[2], inner[1]]
        elif len(found) > MOST_CONDITIONS:
            break  # too many, which the compiler refuses
        else:
            found.append(node)
    return found


def equals(attribute: Attribute, value: object) -> Condition:
    """Return the condition that an attribute has a value, with the meaning of a spec."""
    return _compare(attribute, '=', value)


def find_attribute(name: object, table: Table) -> Attribute:
    """Return an attribute of a query. ``avps.KEY`` is the value of one pair.

    In the audit log, ``before.KEY`` and ``after.KEY`` are the values of an attribute before and after the change.

    :raises NipapInputError: there is no such attribute.
    """
    if isinstance(name, str):
        if name in table:
            return table[name]
        if name.startswith('avps.') and 'avps' in table and len(name) > 5:
            avps = table['avps']
            return Attribute(normal_text(name), 'avp', avps.sql, '', nil_is_text=avps.nil_is_text)
        member = entries.member_of(normal_text(name)) if 'changed' in table else None
        if member is not None:
            return member
    text = name if isinstance(name, str) else shown(name)
    raise NipapInputError(f"Search variable '{text}' unknown").about(text)


def _leaf(node: Any, table: Table) -> Condition:
    if not node:
        return EVERYTHING
    operator = node['operator']
    if not isinstance(operator, str) or _NAMES.get(operator, operator) not in _OPERATORS:
        raise NipapNoSuchOperatorError(f'No such operator {operator if isinstance(operator, str) else shown(operator)}')
    attribute = find_attribute(node['val1'], table)
    name = attribute.name
    if 'val2' not in node:
        raise NipapMissingInputError(f"Value (val2 in API) for '{name}' must be specified").about(name)
    try:
        return _compare(attribute, _NAMES.get(operator, operator), node['val2'])
    except NipapValueError as exc:
        raise exc.about(name) from exc.__cause__


def _compare(attribute: Attribute, operator: str, value: object) -> Condition:
    special = entries.special(attribute, operator, value)
    if special is not None:
        return special
    sql = attribute.sql
    params: tuple[Any, ...] = ()
    if attribute.kind in ('avp', 'member'):
        sql, params = f'({sql} ->> %s)', (attribute.name.partition('.')[2],)
    if operator in _NETWORKS:
        return _network(attribute, operator, value)
    if value is None:
        return _null(attribute, sql, params, operator)
    if operator in _PATTERNS:
        return _pattern(attribute, sql, params, operator, value)
    if operator == 'is':
        operator = '='  # an index can serve this operator
    if attribute.name == 'pool_name' and operator == '=' and isinstance(value, str):
        # With a join, the planner would assume that every prefix is a member.
        name = comparable_text(attribute, value)
        return Condition(f'p.pool_id = (SELECT id FROM pool WHERE {_NAMED.format("name")})', (name, name))
    if operator == 'equals_any' or (attribute.kind in _ARRAYS and isinstance(value, str)):
        return _equals_any(attribute, sql, params, operator, value)
    return _scalar(attribute, sql, params, operator, value)


_ARRAYS = frozenset({'tags', 'networks', 'names'})


def _null(attribute: Attribute, sql: str, params: tuple[Any, ...], operator: str) -> Condition:
    if operator not in _EQUALITIES:
        raise NipapValueError(f"Operator '{operator}' for '{attribute.name}' needs a value, not nil")
    there = operator in ('<>', 'is_not')
    if attribute.kind == 'expires':
        return Condition(f"{sql} {'<>' if there else '='} 'infinity'", params)
    if attribute.sql == 'p.vrf_id':
        return Condition(f'{sql} {"<>" if there else "="} 0', params, hints=() if there else (InTreeOrder(ALWAYS),))
    if attribute.name == 'inherited_tags':
        return Condition(f'{"" if there else "NOT "}{_INHERITED % "cardinality(q.tags) > 0"}')
    if attribute.kind in ('tags', 'networks', 'names', 'avps'):
        return Condition(f"{sql} {'<>' if there else '='} '{{}}'", params)
    return Condition(f'{sql} IS {"NOT " if there else ""}NULL', params)


def _as_text(attribute: Attribute, sql: str, *, or_nil: bool = False) -> str:
    """Return SQL for the text of an attribute that clients see.

    or_nil: NULL need not become empty text, because the comparison has the same result.
    """
    if attribute.kind == 'expires':
        sql = f"nullif({sql}, 'infinity')"
    if attribute.name == 'inherited_tags':
        sql = f'(SELECT array_agg(DISTINCT u) FROM prefix q, unnest(q.tags) u WHERE {_ABOVE})'
    if attribute.kind in _ARRAYS:
        sql = f"array_to_string({sql}, ' ')"
    return f"coalesce({sql}::text, '')" if attribute.nil_is_text and not or_nil else f'{sql}::text'


def _as_sought(value: object) -> str:
    return normal_text(value) if isinstance(value, str) else shown(value)


def _pattern(attribute: Attribute, sql: str, params: tuple[Any, ...], operator: str, value: object) -> Condition:
    text = _as_sought(value)
    if operator == 'like':
        if (len(text) - len(text.rstrip('\\'))) % 2:
            raise NipapValueError(f"Invalid pattern ({text}), must not end in a single '\\'")
        like = _like_guard(attribute, f'%{text}%')
        compared = _as_text(attribute, sql, or_nil=bool(text.strip('%')))
        return Condition(f'{compared} LIKE %s', (*params, text), like)
    wanted = operator[0] != '!'
    if not text and wanted:
        there = attribute.nil_is_text or attribute.never_nil
        return EVERYTHING if there else Condition(f'{sql} IS NOT NULL', params)
    hint, signs, title_case = _read_pattern(operator, text)
    guard = () if hint is None or not _has_words(attribute) else (hint,)
    # Most attributes are NULL, and NULL never matches a plain word. Converting NULL to empty text and comparing it took
    # a third of a walk.
    compared = _as_text(attribute, sql, or_nil=wanted and not signs)
    found = f'{compared} {operator} %s'
    if title_case and not signs and operator == '~*':
        # PostgreSQL compares the small and the capital form of a letter. Title case is a third form.
        sought = f'%{literally(text)}%'
        return Condition(f'({found} OR {compared} LIKE %s)', (*params, text, *params, sought), (), (text,))
    if not wanted and not attribute.nil_is_text:
        found = f'coalesce({found}, true)'
    return Condition(found, (*params, text), guard, (text,))


# A word is searched in several attributes, so its result is cached.
@lru_cache(maxsize=32)
def _read_pattern(operator: str, text: str) -> tuple[ByText | None, bool, bool]:
    """Return the hint of an expression for texts, whether it has metacharacters, and whether it has title case letters.

    :raises NipapValueError: PostgreSQL would compile it for too long.
    """
    patterns.check(text)
    hint: ByText | None = None
    if operator[0] != '!' and patterns.is_simple(text):
        plain = operator == '~*' and patterns.is_plain(text)
        hint = ByText(Guard(((PLAIN, text) if plain else (operator, patterns.for_lines(text)),)))
    return hint, patterns.has_signs(text), patterns.has_title_case(text)


_WORDS = frozenset({'comment', 'description', 'node', 'order_id', 'customer_id'})


def _has_words(attribute: Attribute) -> bool:
    return attribute.name in _WORDS and attribute.sql.startswith('p.')


def _like_guard(attribute: Attribute, pattern: str) -> tuple[ByText, ...]:
    return (ByText(Guard((('LIKE', pattern),))),) if _has_words(attribute) else ()


# The tagged ancestors of p. Inherited tags are not stored anywhere.
_ABOVE = 'q.vrf_id = p.vrf_id AND q.prefix = ANY (supernets(p.prefix))'
_INHERITED = f'EXISTS (SELECT FROM prefix q WHERE {_ABOVE} AND %s)'


def _equals_any(attribute: Attribute, sql: str, params: tuple[Any, ...], operator: str, value: object) -> Condition:
    text = _as_sought(value)
    tag = text if attribute.sql == 'p.tags' or attribute.name == 'inherited_tags' else None
    if attribute.name == 'inherited_tags':
        found = _INHERITED % TAGGED.replace('p.', 'q.')
    elif attribute.sql == 'p.tags':
        found = TAGGED
    elif attribute.kind in _ARRAYS:
        found = f'lower_each({sql}) @> ARRAY[lower(%s)]'
    elif attribute.kind == 'avps':
        mac = read_mac(text)
        found = _WITH_MAC if mac else _WITH_VALUE
        found, text = found.format(sql), mac or text
    else:
        found = f'lower(%s) = lower({sql}::text)'
    if operator in ('<>', 'is_not'):
        found, tag = f'NOT {found}', None
    elif operator not in ('=', 'equals_any'):
        raise NipapValueError(f"Operator '{operator}' cannot compare '{attribute.name}'")
    return Condition(found, (text, *params), (ByTag(tag),) if tag is not None else ())


# The first form matches the partial index on MAC addresses. The second form finds any value of a pair.
_WITH_MAC = "({0} <> '{{}}' AND macs_of({0}) @> ARRAY[%s])"
_WITH_VALUE = '(EXISTS (SELECT FROM jsonb_each_text({0}) e WHERE lower(e.value) = lower(%s)))'
# This form matches the partial index on tags.
TAGGED = "(p.tags <> '{}' AND lower_each(p.tags) @> ARRAY[lower(%s)])"


def _scalar(attribute: Attribute, sql: str, params: tuple[Any, ...], operator: str, value: object) -> Condition:
    if attribute.name == 'inherited_tags':
        sql = f'ARRAY(SELECT DISTINCT u FROM prefix q, unnest(q.tags) u WHERE {_ABOVE} ORDER BY u)'
        value = sorted(set(_tags(attribute, value)))
    read, cast = _COMPARABLE.get(attribute.kind, (None, ''))
    if read is None:
        raise NipapValueError(f"Operator '{operator}' cannot compare '{attribute.name}' with {shown(value)}")
    parsed = read(attribute, value)
    mac = read_mac(parsed) if attribute.kind == 'avp' else None
    if mac is not None and operator in _EQUALITIES:
        return _mac_of_pair(attribute, mac, wanted=operator == '=')
    if operator in ('is_not', '<>'):  # including objects without a value
        return Condition(f'{sql} IS DISTINCT FROM %s{cast}', (*params, parsed))
    compared = (f'{sql} {operator} %s{cast}', (*params, parsed))
    if operator != '=':
        return Condition(*compared)
    if sql in _UNIQUE_NAMES:
        compared = (f'({_NAMED.format(sql)})', (parsed, parsed))
    if attribute.kind in ('avp', 'avps', 'tags'):
        return _contained(attribute, parsed, compared)
    if attribute.name == 'display_prefix':
        return _displayed(parsed, compared)
    by_key = (attribute.name, sql) in _KEYS
    if sql in _IN_ORDER:
        return Condition(*compared, (InTreeOrder(compared), ByKey(frozenset({sql}), by_key)))
    if by_key:
        return Condition(*compared, (ByKey(listed=True),))
    if sql in entries.BY_INDEX:
        return Condition(*compared, (ByKey(frozenset({sql})),))
    return Condition(*compared, _like_guard(attribute, _line(attribute, parsed)))


# Equality with one of these columns is a place in the order of the tree.
_IN_ORDER = frozenset({'p.id', 'p.prefix', 'p.vrf_id', 'v.rt', 'v.name'})


def _mac_of_pair(attribute: Attribute, mac: str, *, wanted: bool) -> Condition:
    """Return the condition that the value of a pair is a MAC address, in any notation."""
    digits = f"lower(regexp_replace({attribute.sql} ->> %s, '[-:.]', '', 'g'))"
    found = f'({_WITH_MAC.format(attribute.sql)} AND {digits} = %s)'
    return Condition(found if wanted else f'NOT coalesce({found}, false)', (mac, attribute.name[5:], mac))


def _contained(attribute: Attribute, value: Any, compared: Compared) -> Condition:
    """Return the equality of pairs or tags, after a containment condition that an index can serve."""
    sql, params = compared
    if attribute.kind == 'avp':
        value = json.dumps({attribute.name[5:]: value})
    if value in ([], '{}') or attribute.name == 'inherited_tags':
        return Condition(sql, params)
    part = 'lower_each({0}) @> lower_each(%s::text[])' if attribute.kind == 'tags' else '{0} @> %s::jsonb'
    there = f"{{0}} <> '{{{{}}}}' AND {part}".format(attribute.sql)  # the first part matches the partial indexes
    return Condition(f'({there} AND {sql})', (value, *params))


def _displayed(text: str, compared: Compared) -> Condition:
    """Return equality with a displayed prefix: a network, or a host's address with the length of its assignment."""
    sql, params = compared
    places = []
    for place in (text, text.partition('/')[0]):
        with contextlib.suppress(NipapValueError):
            places.append(parse_network(place).text)
    within = ('p.prefix = ANY (%s::cidr[])', (f'{{{",".join(places)}}}',))
    return Condition(f'({within[0]} AND {sql})', within[1] + params, (InTreeOrder(within),))


# The keys of VRFs, pools and AS numbers. Attributes of other objects read some of these columns too.
_KEYS = frozenset(
    {
        *(('id', 'v.id'), ('rt', 'v.rt'), ('name', 'v.name')),
        *(('id', 'o.id'), ('name', 'o.name')),
        *(('asn', 'a.asn'), ('name', 'a.name')),
    }
)
_UNIQUE_NAMES = frozenset({'v.name', 'o.name'})
# Names are unique without regard to case, so their index is on lower(name). They are selected with regard to case.
_NAMED = '{0} = %s AND lower({0}) = lower(%s)'


def _line(attribute: Attribute, value: object) -> str:
    """Return the LIKE pattern of texts with this value as the attribute's line. Line ends help to find short ones."""
    before = '' if attribute.name == 'comment' else '%\n'
    after = '' if attribute.name == 'customer_id' else '\n%'
    return f'{before}{literally(value)}{after}'


def _enum(attribute: Attribute, value: object) -> Any:
    return read_value(attribute, value)


def _moment(attribute: Attribute, value: object) -> Any:
    try:
        parsed = moments.read_moment(value, compared=True)
    except NipapValueError as exc:
        raise NipapValueError(f'{exc} for {attribute.name}') from None
    return {moments.NEVER: 'infinity', moments.ALWAYS: '-infinity'}.get(parsed, parsed)


def _route_target(attribute: Attribute, value: object) -> str:
    try:
        return str(read_value(attribute, value))
    except NipapValueError:
        return normal_text(str(value))  # matches no object, but is not an error


def _tags(attribute: Attribute, value: object) -> Any:
    if not isinstance(value, list | tuple):
        raise NipapValueError(f'Invalid value {shown(value)} for {attribute.name}, must be a list of strings')
    return [normal_text(str(item)) for item in value]


def bigint(value: int) -> int:
    """Return the nearest number that fits in 64 bits. No column has larger numbers: comparisons have the same result.

    The least number is left out: PostgreSQL reads its digits before the sign, and these digits do not fit.
    """
    return max(1 - 2**63, min(value, 2**63 - 1))


# The function that reads a value of a kind for comparison, and the cast for its parameter.
_COMPARABLE: dict[str, tuple[Callable[[Attribute, object], Any] | None, str]] = {
    'text': (comparable_text, ''),
    'asn': (lambda _, value: bigint(read_asn(value)), '::bigint'),
    'avp': (lambda _, value: _as_sought(value), ''),
    'member': (lambda _, value: _as_sought(value), ''),
    'rt': (_route_target, ''),
    'enum': (_enum, ''),
    'integer': (lambda _, value: bigint(read_integer(value)), '::bigint'),
    'number': (lambda _, value: read_integer(value), ''),
    'boolean': (lambda _, value: read_boolean(value), ''),
    'network': (lambda _, value: parse_network(value).text, '::cidr'),
    'time': (_moment, '::timestamptz'),
    'expires': (_moment, '::timestamptz'),
    'tags': (_tags, '::text[]'),
    'avps': (lambda a, value: json.dumps(read_value(a, value)), '::jsonb'),
}


def _network(attribute: Attribute, operator: str, value: object) -> Condition:
    """Return containment in a form that the index on (vrf_id, prefix) can serve.

    ``p << $1`` is a sequential scan under a generic plan. The descendants of a network are one range of the index, and
    a network that contains it is one of its at most 128 supernets.
    """
    if attribute.kind != 'network':
        raise NipapValueError(f"Operator '{operator}' works on 'prefix' only, not on '{attribute.name}'")
    network = parse_network(value)
    sql = attribute.sql
    if operator in ('<<', '<<='):
        sign = '>' if operator == '<<' else '>='
        sought = f'({sql} {sign} %s::cidr AND {sql} <= addr_last(%s::inet)::cidr)'
    else:
        lengths = 'masklen(%s::inet)' if operator == '>>=' else 'masklen(%s::inet) - 1'
        sought = f'({sql} = ANY (ARRAY(SELECT network(set_masklen(%s::inet, g)) FROM generate_series(0, {lengths}) g)))'
    params = (network.text, network.text)
    return Condition(sought, params, (InTreeOrder((sought, params)),))


__all__ = [
    'COMPARISONS',
    'EVERYTHING',
    'NOTHING',
    'TAGGED',
    'Condition',
    'all_of',
    'compile_query',
    'equals',
    'find_attribute',
]
