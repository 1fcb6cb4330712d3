"""The errors of PostgreSQL: which ones the client caused, which mean that PostgreSQL is away, which a retry may cure.

Errors are recognized by codes (SQLSTATE) and names of constraints, never by texts: the server may speak any language.
"""

from __future__ import annotations

import re

import psycopg2

from nipap import errors

UNAVAILABLE = 'The database cannot be used at the moment. Nothing was changed, the call can be made again.'
RETRY = ('40001', '40P01')  # serialization failure, deadlock
# Errors that last until PostgreSQL is back or another server takes its place: shut down, crashed, starting, idle for
# too long, too many connections, read-only, a transaction that was idle or took too long; and the errors of a proxy in
# between.
AWAY = ('57P01', '57P02', '57P03', '57P05', '53300', '25006', '25P03', '25P04')
AWAY_CLASS = '08'
# Classes: resources (a full disk) and errors of the system. Waiting does not help.
NO_ROOM = ('53', '58')

# Errors that our own SQL functions raise have one of these codes and a message for the client.
OWN_CODES: dict[str, type[errors.NipapError]] = {
    'NP100': errors.NipapInputError,
    'NP110': errors.NipapMissingInputError,
    'NP200': errors.NipapValueError,
    'NP300': errors.NipapNonExistentError,
    'NP400': errors.NipapDuplicateError,
}
# Unique constraints: the name of the value in the error about a duplicate, and the attribute.
UNIQUE = {
    'vrf_rt_key': ('VRF RT', 'rt'),
    'vrf_name_key': ('VRF name', 'name'),
    'pool_name_key': ('pool name', 'name'),
    'prefix_vrf_prefix_key': ('prefix', 'prefix'),
    'asn_pkey': (None, 'asn'),
}
VIOLATIONS: dict[str, tuple[type[errors.NipapError], str, str]] = {
    'vrf_default_check': (errors.NipapValueError, 'Invalid input for column rt, must be NULL for VRF id 0', 'rt'),
    'prefix_pool_id_fkey': (errors.NipapInputError, 'non-existing pool specified', 'pool_id'),
}


def translate(exc: psycopg2.Error) -> errors.NipapError | None:
    """Translate an error that the client caused into one of ours; return None for any other error."""
    code = exc.pgcode or ''
    if code in OWN_CODES:
        error = OWN_CODES[code](exc.diag.message_primary)
        # The column name carries the attribute. For a list of objects, it begins with the number of the refused one and
        # a blank.
        number, blank, attribute = (exc.diag.column_name or '').rpartition(' ')
        error.position = int(number) - 1 if blank else None
        error.attribute = attribute or None
        return error
    constraint = exc.diag.constraint_name or ''
    if code == '23505' and constraint in UNIQUE:
        # The detail names the key as (columns)=(values). Only its punctuation is relied on, because words are
        # translated.
        found = re.search(r'=\((.*)\)', exc.diag.message_detail or '', re.DOTALL)
        value = found[1] if found else ''
        name, attribute = UNIQUE[constraint]
        return errors.NipapDuplicateError(
            f"Duplicate value for '{name}', the value '{value}' is already in use."
        ).about(attribute)
    if constraint in VIOLATIONS:
        kind, text, attribute = VIOLATIONS[constraint]
        return kind(text).about(attribute)
    if code == '57014':
        return errors.NipapTimeoutError('The search took too long and was stopped, ask for less or more precisely')
    if code == '2201B':
        return errors.NipapPatternError('Invalid regular expression in the query')
    if code == '54001':
        return errors.NipapValueError('The query is nested too deeply')
    return None


def is_away(exc: psycopg2.Error) -> bool:
    """Return whether PostgreSQL did not run a statement because it is not there or about to shut down."""
    if exc.pgcode is None:
        return isinstance(exc, psycopg2.OperationalError | psycopg2.InterfaceError)
    return exc.pgcode in AWAY or exc.pgcode.startswith(AWAY_CLASS)


def is_without_room(exc: psycopg2.Error) -> bool:
    """Return whether PostgreSQL lacks a resource of its system, such as space on the disk."""
    return exc.pgcode is not None and exc.pgcode.startswith(NO_ROOM)


def unavailable(exc: psycopg2.Error) -> errors.NipapUnavailableError:
    """Return the error for the client, with the reason."""
    return errors.NipapUnavailableError(UNAVAILABLE, ' '.join(str(exc).split()))
