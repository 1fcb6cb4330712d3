"""Members that would make the answer another one are refused by calls that do not have them."""

from __future__ import annotations

from typing import Any

import pytest
from contract_faces import Face


@pytest.mark.parametrize(
    ('method', 'name', 'value'),
    [
        ('list_audit', 'as_of', '2026-03-01'),
        ('add_vrf', 'as_of', 17),
        ('add_vrf', 'if_version', 1),
        ('list_pool', 'if_version', 1),
    ],
)
def test_a_member_that_changes_the_answer_is_not_ignored(xmlrpc_face: Face, method: str, name: str, value: Any) -> None:
    fault = xmlrpc_face.fault(method, query={}, attr={'rt': '65000:1', 'name': 'blue'}, **{name: value})
    assert (fault.code, fault.text) == (1120, f"extraneous member '{name}', this call does not have it")
    assert [vrf['id'] for vrf in xmlrpc_face.call('list_vrf')] == [0]


def test_other_unknown_members_are_ignored(xmlrpc_face: Face) -> None:
    assert xmlrpc_face.call('list_pool', colour='blue') == []
