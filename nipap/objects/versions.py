"""Versions of objects: a change that is made only if its object has the version that the client has seen."""

from __future__ import annotations

from nipap.attributes import read_integer, shown
from nipap.errors import NipapChangedError, NipapNonExistentError, NipapValueError
from nipap.objects import rows
from nipap.objects.kinds import Kind, Object
from nipap.postgres.transaction import Transaction
from nipap.search.paging import Page, Surroundings
from nipap.search.query import Condition


def read_version(value: object) -> int | None:
    """Parse ``if_version``; None for nil.

    :raises NipapValueError: naming the value.
    """
    if value is None:
        return None
    try:
        number = read_integer(value)
    except NipapValueError:
        number = 0
    if number < 1:
        raise NipapValueError(f'Invalid value {shown(value)} for if_version, must be an integer above 0').about(
            'if_version'
        )
    return number


def require(tx: Transaction, kind: Kind, condition: Condition, version: int) -> None:
    """Lock the object that a condition selects until the transaction ends, and compare its version.

    :raises NipapNonExistentError: the condition selects no object. NipapValueError: it selects several objects.
    :raises NipapChangedError: the object has another version.
    """
    chosen = _only(tx, kind, condition)[kind.key.name]
    rows.lock(tx, kind.name, chosen)
    # The next statement reads the object as it is under the lock.
    item = _only(tx, kind, condition)
    if item[kind.key.name] != chosen or item['version'] != version:
        raise NipapChangedError(
            f'The {kind.name} {item[kind.key.name]} has version {item["version"]}, not {version} as if_version says: '
            'it was changed'
        ).about('if_version')


def _only(tx: Transaction, kind: Kind, condition: Condition) -> Object:
    around = (Surroundings(),) if kind.name == 'prefix' else ()
    found = kind.find(tx, condition, Page(2, 0), *around)
    if not found:
        raise NipapNonExistentError(f'if_version needs one object, the specification selects no {kind.name}')
    if len(found) > 1:
        raise NipapValueError(
            f'if_version needs one object, the specification selects more than one {kind.name}'
        ).about('if_version')
    return found[0]
