"""The documentation names every changing call with its undo, or with the reason why there is none."""

from __future__ import annotations

import re
from pathlib import Path

from nipap.calls import CALLS

PAGE = Path(__file__).parent.parent.parent / 'docs' / 'undoing.md'
ROW = re.compile(r'^\| `(\w+)` \| (.+) \|$', re.MULTILINE)


def test_each_changing_call_has_its_undo_in_the_table() -> None:
    rows = ROW.findall(PAGE.read_text(encoding='utf-8'))
    assert sorted(name for name, _ in rows) == sorted(name for name, call in CALLS.items() if call.changes)


def test_a_call_without_an_undo_says_why() -> None:
    rows = dict(ROW.findall(PAGE.read_text(encoding='utf-8')))
    none = {name for name, text in rows.items() if text.startswith('none')}
    assert none == {name for name in rows if name.endswith(('_webhook', '_dead_letter'))}
    assert all(re.match('none[:,] .', rows[name]) for name in none)
