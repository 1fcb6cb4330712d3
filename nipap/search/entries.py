"""Conditions on the audit log: what distinguishes them from conditions on objects.

An entry of a prefix has up to two places, before and after its change. It matches a network when either place does.
Times, places and change sets of a query become hints (`nipap.search.condition`), so that a search reads a part of the
log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nipap.addresses import parse_network
from nipap.attributes import AUDIT, CHANGE_SET, Attribute, comparable_text, read_integer
from nipap.errors import NipapValueError
from nipap.moments import ALWAYS, NEVER, read_moment
from nipap.search.condition import Condition, InTime, OfSet, Place

# The place after the change, or before a removal, and the former place of a prefix that was moved. These expressions
# are those of the indexes audit_log_place_idx and audit_log_moved_idx.
PLACE = "((coalesce(a.after, a.before) ->> '{}')::{})"
FORMER = "((a.before ->> '{}')::{})"
MOVED = "a.object_type = 'prefix' AND a.before ->> 'prefix' <> a.after ->> 'prefix'"

# Columns with an index of their own that has the order of time.
BY_INDEX = frozenset({'a.username', 'a.object_id'})

Special = Callable[[Attribute, str, object], Condition | None]


def _network(_: Attribute, operator: str, value: object) -> Condition | None:
    if operator == '=':
        operator = 'is'
    if value is None or operator not in ('<<', '<<=', '>>', '>>=', 'is'):
        return None
    text = parse_network(value).text
    now, then = (inside(which.format('prefix', 'cidr'), operator, text) for which in (PLACE, FORMER))
    sql = f"(a.object_type = 'prefix' AND ({now[0]} OR ({MOVED} AND {then[0]})))"
    return Condition(sql, (*now[1], *then[1]), (Place(network=(operator, text)),))


def inside(column: str, operator: str, network: str) -> tuple[str, tuple[str, ...]]:
    """Return the comparison of a column of networks with a network, in the form of one range or of a few values."""
    if operator == 'is':
        return f'{column} = %s::cidr', (network,)
    if operator in ('<<', '<<='):
        sign = '>' if operator == '<<' else '>='
        return f'({column} {sign} %s::cidr AND {column} <= addr_last(%s::inet)::cidr)', (network, network)
    above = 'supernets(%s::cidr)' if operator == '>>' else 'supernets(%s::cidr) || %s::cidr'
    return f'{column} = ANY ({above})', (network,) if operator == '>>' else (network, network)


def _in_vrf(_: Attribute, operator: str, value: object) -> Condition | None:
    if operator not in ('=', 'is') or value is None:
        return None
    number = read_integer(value)
    if not 0 <= number < 2**31:
        return None
    sql = f"""(a.object_type = 'prefix' AND {PLACE.format('vrf_id', 'int')} = %s
        OR a.object_type = 'vrf' AND a.object_id = %s)"""
    return Condition(sql, (number, number), (Place(vrf_id=number),))


def _time(attribute: Attribute, operator: str, value: object) -> Condition | None:
    if operator not in ('<', '<=', '>', '>=', '=', 'is') or value is None:
        return None
    try:
        moment = read_moment(value, compared=True)
    except NipapValueError as exc:
        raise NipapValueError(f'{exc} for {attribute.name}') from None
    if moment in (NEVER, ALWAYS):
        return None
    operator = '=' if operator == 'is' else operator
    since = moment if operator in ('>', '>=', '=') else None
    until = moment if operator in ('<', '<=', '=') else None
    return Condition(f'{attribute.sql} {operator} %s::timestamptz', (moment,), (InTime(since, until),))


def _of_set(_: Attribute, operator: str, value: object) -> Condition | None:
    if operator not in ('=', 'is') or value is None:
        return None
    number = read_integer(value)
    if not 0 <= number < 2**63:
        return None
    return Condition('s.id = %s', (number,), (OfSet(number),))


def _by_index_of_sets(attribute: Attribute, operator: str, value: object) -> Condition | None:
    """Return equality with an attribute of few change sets, which are looked up first."""
    if operator not in ('=', 'is') or not isinstance(value, str):
        return None
    column, text = attribute.sql.removeprefix('s.'), comparable_text(attribute, value)
    return Condition(f'a.change_set = ANY (ARRAY(SELECT z.id FROM change_set z WHERE z.{column} = %s))', (text,))


# Comparisons by the SQL of the attribute; None: the comparison of its kind.
SPECIAL: Mapping[str, Special] = {
    AUDIT['prefix'].sql: _network,
    AUDIT['vrf_id'].sql: _in_vrf,
    AUDIT['at'].sql: _time,
    CHANGE_SET['at'].sql: _time,
}
SPECIAL_OF_ENTRIES: Mapping[str, Special] = {
    AUDIT['change_set'].sql: _of_set,
    AUDIT['request_id'].sql: _by_index_of_sets,
    AUDIT['change_group'].sql: _by_index_of_sets,
}


def special(attribute: Attribute, operator: str, value: object) -> Condition | None:
    """Return the condition of a comparison with a meaning of its own in the log; None for any other comparison."""
    # Attributes of change sets are equal to these, but not the same: a search of change sets has no entries.
    of_entry = any(attribute is one for one in AUDIT.values())
    how = SPECIAL.get(attribute.sql) or (SPECIAL_OF_ENTRIES.get(attribute.sql) if of_entry else None)
    return how(attribute, operator, value) if how else None


def member_of(name: str) -> Attribute | None:
    """Return the attribute for a value before or after the change: ``before.KEY`` or ``after.KEY``; None for others."""
    side, _, key = name.partition('.')
    return Attribute(name, 'member', f'a.{side}', '') if side in ('before', 'after') and key else None
