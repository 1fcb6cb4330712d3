"""The past over all faces: audit entries and change sets, with sentences."""

from __future__ import annotations

from typing import Any

import pytest

from nipap.access.authentication import Actor
from nipap.backend import Backend
from nipap.calls import Request


def call(backend: Backend, actor: Actor, name: str, **members: Any) -> Any:
    return backend.perform(actor, Request(name, members))


def test_try(backend: Backend, actor: Actor) -> None:
    v = backend.add_vrf(actor, {'rt': '65000:1', 'name': 'blue'})
    pool = backend.add_pool(actor, {'name': 'links', 'description': 'd', 'default_type': 'assignment'})
    p = backend.add_prefix(actor, {'prefix': '10.0.0.0/8', 'type': 'reservation', 'description': 'd', 'vrf_rt': '65000:1'})
    backend.edit_prefix(actor, {'id': p['id']}, {'pool_name': 'links', 'comment': 'x', 'avps': {'a': 'b'}})
    backend.edit_prefix(actor, {'id': p['id']}, {'prefix': '11.0.0.0/8'})
    backend.edit_pool(actor, {'id': pool['id']}, {'name': 'connections'})
    backend.edit_vrf(actor, {'id': v['id']}, {'name': 'green'})
    backend.remove_prefix(actor, {'id': p['id']})
    for entry in call(backend, actor, 'list_audit'):
        print(entry['id'], entry['at'], entry['sentence'])
    for query in (
        {'operator': 'contained_within', 'val1': 'prefix', 'val2': '10.0.0.0/7'},
        {'operator': 'contained_within_equals', 'val1': 'prefix', 'val2': '10.0.0.0/8'},
        {'operator': 'contains', 'val1': 'prefix', 'val2': '10.1.0.0'},
        {'operator': 'equals', 'val1': 'prefix', 'val2': '11.0.0.0/8'},
        {'operator': 'equals', 'val1': 'vrf_id', 'val2': v['id']},
        {'operator': 'equals', 'val1': 'username', 'val2': 'test'},
        {'operator': 'equals', 'val1': 'changed', 'val2': 'pool_id'},
        {'operator': 'equals', 'val1': 'after.name', 'val2': 'green'},
        {'operator': 'greater', 'val1': 'at', 'val2': '1 hour ago'},
        {'operator': 'less', 'val1': 'at', 'val2': '1 hour ago'},
        {'operator': 'equals', 'val1': 'change_set', 'val2': 3},
        {'operator': 'equals', 'val1': 'method', 'val2': 'edit_vrf'},
    ):
        found = call(backend, actor, 'search_audit', query=query)
        print(query, [item['id'] for item in found['result']])
    for text in ('10.1.2.3', 'links', 'user=test action=remove', 'attribute=comment', '10.0.0.0/8 kind=prefix'):
        found = call(backend, actor, 'smart_search_audit', query_string=text)
        print(text, [item['id'] for item in found['result']])
    print(call(backend, actor, 'search_change_set', query={})['result'][0])
    print(call(backend, actor, 'list_change_set', change_set={'id': 2}))
    raise AssertionError
