"""The descriptions of the REST operations, and an example body for each.

The descriptions in `nipap.calls` refer to specs and members of XML-RPC, which REST does not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nipap.calls import CALLS

_QUERY = 'The body is `{"query": …}` or `{"q": "text"}`; the parameters choose the page.'

TEXTS: Mapping[str, str] = {
    'add_vrf': 'Add a VRF and return it. `rt` and `name` are needed.',
    'edit_vrf': 'Set the attributes that the body has and return the VRF. `null` unsets an attribute.',
    'remove_vrf': 'Remove a VRF. A VRF with prefixes is refused, unless `recursive` removes them too.',
    'search_vrf': f'Return the VRFs that a query or a text matches. {_QUERY}',
    'add_pool': 'Add a pool and return it. `name`, `description` and `default_type` are needed.',
    'edit_pool': 'Set the attributes that the body has and return the pool. `null` unsets an attribute.',
    'remove_pool': 'Remove a pool. Its members stay, without a pool.',
    'search_pool': f'Return the pools that a query or a text matches. {_QUERY}',
    'add_asn': 'Add an AS number and return it. `asn` is needed.',
    'edit_asn': 'Set the name of an AS number and return it. `null` unsets the name.',
    'remove_asn': 'Remove an AS number.',
    'search_asn': f'Return the AS numbers that a query or a text matches. {_QUERY}',
    'add_prefix': (
        'Add a prefix and return it. `prefix`, `type` and either `description` or `node` are needed. To get the lowest '
        'free block, allocate from a pool or from a prefix instead.'
    ),
    'edit_prefix': (
        'Set the attributes that the body has and return the prefix. `null` unsets an attribute. A new `prefix` moves '
        'this prefix alone: its children go to its former parent, prefixes inside the new place become its children.'
    ),
    'remove_prefix': 'Remove a prefix. Its children move up to its parent, unless `recursive` removes them too.',
    'search_prefix': f'Return the prefixes that a query or a text matches. {_QUERY}',
    'search_tag': 'Return the tags that a query matches. The body is `{"query": …}`; the parameters choose the page.',
    'search_audit': (
        f'Return the audit entries that a query or a text matches, the newest first. {_QUERY} `prefix` compares with '
        'the place before or after the change, `changed` with the names of changed attributes, `before.KEY` and '
        '`after.KEY` with a value.'
    ),
    'search_change_set': (
        f'Return the change sets that a query or a text matches, the newest first, with their first entries. {_QUERY}'
    ),
    'list_change_set': 'Return a change set with up to 1,000 entries, in the order of the changes.',
    'find_free_prefix': (
        'Return the lowest free blocks, which an allocation at this moment would take. Nothing is reserved: allocate '
        'to have them.'
    ),
    'version': 'Return the version of the daemon, and that of the schema of its database.',
    'batch': (
        'Make many calls in one transaction and return their answers in order; on an error nothing is changed.\n\n'
        'The calls and their `args` are those of XML-RPC. `{"$result": [0, "id"]}` in `args` stands for the id in the '
        'answer of operation 0. With `return` set to `ids` the answers are ids only. An error has the number of the '
        'operation as `position`. All answers together may have 100,000 objects, or a million ids.'
    ),
    'undo': (
        'Undo a change set, as a new change set. Removed objects come back with their ids, edited ones get their '
        'former values, added ones are removed. Objects that were changed since are conflicts: the undo is refused '
        'with 409 and their list, or with `partial` everything else is undone.'
    ),
    'undo_group': (
        'Undo the change sets of a group, the newest first, each in a transaction of its own. Change sets that are '
        'undone already are skipped, so the request can be sent again.'
    ),
    'list_removed': (
        'Return removed objects, the newest first, each with the number of prefixes that were removed `below` it. '
        'Objects that were removed with an object around them are left out, and so are objects that exist again.'
    ),
    'restore': (
        'Restore a removed object, and what was below it and was removed with it, with their ids. A pool gets back its '
        'members. Objects whose place is taken are conflicts: 409 with their list, or with `partial` the rest is '
        'restored.'
    ),
    'list_webhook': 'Return all webhooks, with their deliveries.',
    'add_webhook': (
        'Add a webhook for events from now on and return it. `url` and `secret` are needed. `kinds`, `vrf_ids`, '
        '`pool_ids` and `tags` select events.'
    ),
    'edit_webhook': (
        'Set the attributes that the body has and return the webhook. Failed deliveries are tried again at '
        'once, even with an empty body.'
    ),
    'remove_webhook': 'Remove a webhook with its dead letters.',
    'list_dead_letter': 'Return dead letters, events that the webhook did not accept, in order, a hundred at most.',
    'list_sign_in': (
        'Return sign-ins, good and bad, newest first. A good sign-in is logged once for each user, address, interface '
        'and hour; bad ones of a kind share a row with their `count`.'
    ),
    'resend_dead_letter': 'Send dead letters again: those with the given `ids`, or all. Return their number.',
}


def _example(call: str, member: str) -> Any:
    """Return the example of a member of a call."""
    return next(each.example for each in CALLS[call].members if each.name == member)


# Example bodies by operation. Each works in a new database, once the object that it refers to has been added.
BODIES: Mapping[str, Any] = {
    **{
        f'{verb}_{kind}': _example(f'{verb}_{kind}', 'attr')
        for verb in ('add', 'edit')
        for kind in ('vrf', 'pool', 'asn', 'prefix', 'webhook')
    },
    **{
        f'search_{kind}': {'query': _example(f'search_{kind}', 'query')}
        for kind in ('vrf', 'pool', 'asn', 'prefix', 'tag', 'audit', 'change_set')
    },
    'allocate_from_pool': {'family': 4, 'description': 'Link to a customer'},
    'allocate_from_prefix': {'prefix_length': 24, 'type': 'assignment', 'description': 'LAN'},
    'batch': {'operations': _example('batch', 'operations')},
    'undo_group': {'group': 'import of May'},
    'resend_dead_letter': {},
}
