"""Texts of the reference that are in no table of the program: operators, search options, errors, readings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Operator:
    """The meaning of an operator, and an example that is played."""

    meaning: str
    val1: str
    val2: object


_EQUAL = (
    'The attribute equals the value. nil finds objects without one. For tags: one of them is the value, '
    'or all of them are the array.'
)
_UNEQUAL = 'The attribute differs from the value. Objects without a value are found too. nil finds objects with one.'
OPERATORS: Mapping[str, Operator] = {
    'equals': Operator(_EQUAL, 'vlan', 42),
    '=': Operator('`equals`.', 'status', 'quarantine'),
    'is': Operator('`equals`.', 'vlan', 42),
    'not_equals': Operator(_UNEQUAL, 'vlan', 42),
    '!=': Operator('`not_equals`.', 'type', 'assignment'),
    '<>': Operator('`not_equals`.', 'type', 'reservation'),
    'is_not': Operator('`not_equals`.', 'vlan', 42),
    'less': Operator('The attribute is less than the value.', 'vlan', 42),
    '<': Operator('`less`.', 'prefix_length', 30),
    'less_or_equal': Operator('The attribute is at most the value.', 'vlan', 42),
    '<=': Operator('`less_or_equal`.', 'prefix_length', 24),
    'greater': Operator('The attribute is more than the value.', 'vlan', 7),
    '>': Operator('`greater`.', 'prefix_length', 30),
    'greater_or_equal': Operator('The attribute is at least the value.', 'vlan', 7),
    '>=': Operator('`greater_or_equal`.', 'prefix_length', 30),
    'equals_any': Operator('One of the tags or networks equals the value.', 'tags', 'core'),
    'like': Operator('The text matches an SQL pattern: `%` is any text, `_` any character.', 'description', 'Link%'),
    'regex_match': Operator(
        'The text matches a regular expression. Upper and lower case are alike.', 'description', '^link'
    ),
    '~*': Operator('`regex_match`.', 'node', '^R1'),
    'regex_not_match': Operator('The text does not match. Upper and lower case are alike.', 'description', 'link'),
    '!~*': Operator('`regex_not_match`.', 'description', 'LINK'),
    '~': Operator('The text matches a regular expression. Upper and lower case differ.', 'description', '^Link'),
    '!~': Operator('The text does not match. Upper and lower case differ.', 'description', 'Link'),
    'contains': Operator('The network is larger than the value and contains it.', 'prefix', '192.0.2.0/30'),
    '>>': Operator('`contains`.', 'prefix', '192.0.2.1'),
    'contains_equals': Operator('The network contains the value or equals it.', 'prefix', '192.0.2.0/30'),
    '>>=': Operator('`contains_equals`.', 'prefix', '192.0.2.1'),
    'contained_within': Operator('The network is smaller than the value and inside it.', 'prefix', '192.0.2.0/24'),
    '<<': Operator('`contained_within`.', 'prefix', '192.0.2.0/30'),
    'contained_within_equals': Operator('The network is inside the value or equals it.', 'prefix', '192.0.2.0/24'),
    '<<=': Operator('`contained_within_equals`.', 'prefix', '192.0.2.0/30'),
}

OPTIONS: Mapping[str, str] = {
    'max_result': 'The most objects of a page. For prefixes nil or false asks for all.',
    'offset': 'The number of objects to skip. A large offset costs more than `after`.',
    'after': "The place behind which the page begins: `''` first, then the `after` of the answer before. "
    'nil in an answer says that there is no further page. `max_result` is at most 10,000 then.',
    'parents_depth': 'Prefixes only: this many parents of each match are added. -1: all.',
    'children_depth': 'Prefixes only: this many levels of children of each match are added. -1: all.',
    'include_all_parents': 'Prefixes only: the same as a `parents_depth` of -1.',
    'include_all_children': 'Prefixes only: the same as a `children_depth` of -1.',
    'include_neighbors': 'Prefixes only: the other hosts in the assignments of matching hosts are added.',
    'parent_prefix': 'Prefixes only: the id of one prefix. The answer is limited to this prefix and its children.',
}

READINGS = (
    '192.0.2.1',
    '192.0.2.0/30',
    '192.0.2.',
    '2001:db8::/32',
    'link',
    'link customer',
    '"Link to"',
    'malmö',
    '#core',
    '65000:7',
    '00-53-00-AA-BB-01',
    'vlan=42',
    'vlan > 7',
    'type=host',
    'country = SE',
    'node ~ ^r[0-9]',
    'avps.mac=00:53:00:aa:bb:01',
    'prefix << 192.0.2.0/24',
    'link or office',
    '(link or office) and status=quarantine',
    '*',
    'vlna=42',
    'vlan=many',
    '"link',
)


@dataclass(frozen=True)
class Error:
    """The cause of an error, and its cure."""

    title: str
    cause: str
    cure: str
    unplayed: str = ''


ERRORS: Mapping[int, Error] = {
    1000: Error(
        'General',
        'The struct `auth` or its `authoritative_source` is missing, or the daemon has a defect. The text of a defect '
        'has a request id only.',
        'Send `auth`. For a request id, look into the log of the daemon: the line with that id has the traceback.',
    ),
    1010: Error(
        'Database or accounts away',
        'PostgreSQL is stopped, full, read-only or out of connections, or the file of accounts cannot be read. Nothing '
        'was changed.',
        'Send the call again after a while. REST says when in `Retry-After`. For the operator: the log names '
        'the reason.',
    ),
    1020: Error(
        'Outcome unknown',
        'The connection to PostgreSQL was lost during the commit. The change was made or it was not.',
        'Send the call again with the same idempotency key. Without a key, look whether the change is there.',
        'No call raises it at will. `tests/daemon/test_postgresql_away.py` kills PostgreSQL during a commit.',
    ),
    1030: Error(
        'Locks held',
        'Another change holds a lock that a dry run needs, and did not end within two seconds.',
        'Send the dry run again.',
        'It takes another client that holds a lock. `tests/db/test_dry_run_tokens.py` has one.',
    ),
    1100: Error(
        'Input',
        'An argument has the wrong shape: a text in place of a struct, an empty `attr`, a method that does '
        'not exist, a '
        'body that is too large or no JSON.',
        'Correct the program. The text names the argument.',
    ),
    1110: Error(
        'Missing input', 'A member or an attribute that is needed was not sent.', 'Send it. The text names it.'
    ),
    1120: Error(
        'Extraneous input',
        'An attribute does not exist or cannot be set, or two members exclude each other.',
        'Leave it out. The [attributes](attributes.md) page says which can be set.',
    ),
    1130: Error(
        'No such operator', 'A query names an unknown operator.', 'Use one of the [operators](search.md#operators).'
    ),
    1200: Error(
        'Value',
        'A value is not acceptable, or the change would break a rule of the tree.',
        'Correct the value. The text has the value and says what is accepted.',
    ),
    1210: Error(
        'Search stopped',
        'A search took longer than 20 seconds and was stopped.',
        'Ask for less: a smaller network, a simpler regular expression, a smaller page.',
    ),
    1220: Error(
        'Invalid plan',
        'The `plan` of a dry run has expired, was altered, is older than a restore, or belongs to another user, call '
        'or members.',
        'Make the dry run again, and send the very same call with its `plan`.',
    ),
    1300: Error(
        'Non-existent',
        'The object does not exist, or a pool or prefix has no free block of that length.',
        'Check the spec. For a full pool, add a prefix to the pool or ask for a smaller block.',
    ),
    1310: Error(
        'Before the history',
        'The moment or the change set of `as_of` lies before the beginning of the history: no state of then is known.',
        'Ask for a later moment. The text says where the history begins, if that is known.',
    ),
    1400: Error(
        'Duplicate',
        'An object with the same unique value exists: the prefix in its VRF, the route target or name of a VRF, the '
        'name of a pool, the AS number.',
        'Edit the object that exists, or choose another value.',
    ),
    1410: Error(
        'Key of another call',
        'The idempotency key was used for a call with another method, other arguments or another `username`.',
        'Make a new key for each change, and repeat only the very same call with it.',
    ),
    1500: Error('Not authenticated', 'No credentials were sent.', 'Send `Authorization`, `Basic` or `Bearer`.'),
    1510: Error(
        'Wrong credentials',
        'The user does not exist, the password is wrong, a token is expired, or too many logins have failed.',
        '`nipap-passwd test-user` tries a password. After too many failures, wait: REST says how long in '
        '`Retry-After`.',
    ),
    1520: Error(
        'Not authorized', 'The user may not make this call.', 'Use another account. `nipap-passwd list` shows rights.'
    ),
    1600: Error(
        'Changed meanwhile',
        'Somebody has edited the object since its `version`, or its `ETag` over REST, was read. Nothing was changed.',
        'Read the object again and decide anew.',
    ),
    1610: Error(
        'Not as planned',
        'The change would not be as in its `plan`, since something was changed after the dry run. Nothing was changed.',
        'Read the differences in the text, over REST also in `differences`. Make the dry run again and decide anew.',
        'A plan is another one each time. [Plan a change](../planning.md) has an example.',
    ),
    1620: Error(
        'Conflicts of an undo',
        'Objects were changed after the change set, or the change set was undone already. Nothing was changed.',
        'Look at the list of conflicts, or undo the rest with `partial`.',
    ),
}
