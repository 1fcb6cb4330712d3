"""AS numbers and their names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nipap.attributes import ASN, MAX_ASN, check_names, given, named, read_asn, shown
from nipap.errors import (
    NipapMissingInputError,
    NipapValueError,
    Problems,
)
from nipap.history.audit import Who
from nipap.objects import rows
from nipap.postgres.transaction import Transaction
from nipap.search.paging import ASNS, Page
from nipap.search.query import EVERYTHING, Condition, equals

_SPEC = ('asn', 'name')


def read_number(value: object) -> int:
    """Return an AS number, 1 to 4294967295: an integer, also as text, ``AS64500`` or asdot.

    :raises NipapValueError: naming the value.
    """
    try:
        number = read_asn(value)
    except NipapValueError:
        number = 0
    if not 1 <= number <= MAX_ASN:
        raise NipapValueError(f'Invalid AS number {shown(value)}, must be an integer between 1 and {MAX_ASN}').about(
            'asn'
        )
    return number


def read_spec(spec: object) -> Condition:
    """Return the condition of an AS number spec, ``asn`` or ``name``; EVERYTHING for nil and ``{}``.

    :raises NipapInputError, NipapExtraneousInputError, NipapValueError:
    """
    found = named(spec, _SPEC, 'asn', 'asn specification contains too many keys, specify asn or name.')
    if found is None:
        return EVERYTHING
    key, value = found
    if key == 'name' and not isinstance(value, str):
        raise NipapValueError(f"asn specification key 'name' must be a string, not {shown(value)}")
    return equals(ASN[key], read_number(value) if key == 'asn' else value)


def require_spec(spec: object) -> Condition:
    """Return the condition of a spec (`read_spec`) that must name an AS number.

    :raises NipapMissingInputError: when the spec is empty.
    """
    condition = read_spec(given(spec, 'asn'))
    if condition is EVERYTHING:
        raise NipapMissingInputError("asn spec must contain either 'asn' or 'name'")
    return condition


def find(tx: Transaction, condition: Condition, page: Page | None = None) -> list[dict[str, Any]]:
    """Return the AS numbers for which a condition holds, in order."""
    return rows.select(tx, ASN, 'asn a', condition, ASNS, page)


@dataclass(frozen=True)
class AsnDraft:
    """The attributes of an AS number that a call sets, as columns."""

    values: Mapping[str, Any]


def read_draft(attr: object, *, new: bool = False) -> AsnDraft:
    """Read the ``attr`` of a call. An addition sets the number, an edit cannot.

    :raises NipapError: naming the attribute; further errors are attached.
    """
    present: Any = rows.without_nil(attr, 'asn') if new else attr
    check_names(present, ASN, required=('asn',) if new else (), extra=('asn',) if new else ())
    problems = Problems()
    number = {'asn': problems.read(read_number, present['asn']), 'name': None} if new else {}
    values = problems.read(rows.read_values, {name: present[name] for name in present if name != 'asn'}, ASN)
    problems.check()
    return AsnDraft({**number, **values})


def add(tx: Transaction, draft: AsnDraft, who: Who) -> int:
    """Add an AS number and return it."""
    return int(tx.value('SELECT asn_add(%s, %s::actor)', (rows.facts(draft.values), who)))


def edit(tx: Transaction, condition: Condition, draft: AsnDraft, who: Who) -> list[int]:
    """Edit the AS numbers that satisfy a condition and return them."""
    changes = rows.facts(draft.values)
    return [i for i in _numbers(tx, condition) if tx.value('SELECT asn_edit(%s, %s, %s::actor)', (i, changes, who))]


def remove(tx: Transaction, condition: Condition, who: Who) -> None:
    """Remove the AS numbers for which a condition holds."""
    for i in _numbers(tx, condition):
        tx.execute('SELECT asn_remove(%s, %s::actor)', (i, who))


def _numbers(tx: Transaction, condition: Condition) -> list[int]:
    return rows.find_keys(tx, f'SELECT a.asn FROM asn a WHERE {condition.sql} ORDER BY a.asn', condition)
