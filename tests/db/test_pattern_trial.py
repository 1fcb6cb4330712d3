"""Trials of regular expressions: ordinary patterns pass, and no pattern keeps PostgreSQL busy."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import pytest
from support import connection_of

from nipap.errors import NipapValueError
from nipap.search import patterns
from nipap.search.pattern_trial import TRIAL_S, refused

if TYPE_CHECKING:
    from nipap.access.authentication import Actor
    from nipap.backend import Backend
    from nipap.postgres.database import Database

pytestmark = pytest.mark.slow

WRITTEN = [
    *('router', '^core', r'10\.1\.', r'^10\.(1|2)\.[0-9]+\.', r'\ysw[0-9]+\y', r'(^|,)office(,|$)', '.*', r'\d{1,3}'),
    r'^(25[0-5]|2[0-4][0-9]|1?[0-9]{1,2})(\.(25[0-5]|2[0-4][0-9]|1?[0-9]{1,2})){3}$',
    r'([0-9a-f]{2}:){5}[0-9a-f]{2}',
    r'^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$',
    r'\y(ae|xe|ge)-\d+/\d+/\d+(\.\d+)?\y.*\y(ae|xe|ge)-\d+/\d+/\d+(\.\d+)?\y',
    r'(?i)customer(?!.*(test|lab)).*(stockholm|göteborg)',
    r'^\s*(vlan|vl|v)[ _-]?(\d{1,4})\s*[-:]\s*(.+?)\s*$',
    '|'.join(rf'^sw{n}\.example\.net$' for n in range(300)),
    '^(' + '|'.join(f'host-{n}' for n in range(800)) + ')$',
    r'(\w+)[ -]\1',
    '[[:alpha:]]{2,}[[:space:]]+[[:digit:]]{1,5}',
]  # fmt: skip
HOSTILE = {
    **{f'{sign} 16 times': sign * 16 for sign in (r'\y', '(^|$)', r'(\y|a*)', r'(\y)*')},
    **{f'{sign} many times': sign * (900 // len(sign)) for sign in (r'\m', r'\y', '(^|$)', '.*', 'a?', '(a+|b*)?')},
    **{f'{sign} nested': '(' * 16 + 'ab' + f'c){sign}' * 16 for sign in ('+', '{1,}', '+?', '{2}')},
    'opening': '(' * 10_000,
    'deep': '(' * 4_999 + 'a' + ')' * 4_999,
    'counted': r'(a|b?){0,255}',
    'counted more': '(a?b?c?){0,255}' * 20,
    'counted twice': '((a{255}){255}){255}',
    'word boundaries': '(' + '|'.join(rf'\yh{n}\y' for n in range(400)) + ')+',
    'references': '(a*)(b*)(c*)' + r'\1\2\3' * 300,
    'all different': ''.join(chr(0x4E00 + n) for n in range(9_000)),
}  # fmt: skip


def tried(db: Database, given: list[str]) -> dict[str, str]:
    return db.read(lambda tx: refused(tx, given, all_signs=True))


def test_ordinary_patterns_are_accepted(db: Database) -> None:
    assert tried(db, WRITTEN) == {}
    for pattern in WRITTEN:
        assert tried(db, [pattern]) == {}


@pytest.mark.parametrize('pattern', HOSTILE.values(), ids=HOSTILE.keys())
def test_no_expression_keeps_postgresql_busy(db: Database, pattern: str) -> None:
    started = time.monotonic()
    found = tried(db, [pattern])
    if pattern not in found:
        db.read(lambda tx: tx.all("SELECT 'x' ~ %s, 'x' ~* %s", (pattern, pattern)))
    # A second on an idle machine. Without the trial some patterns keep PostgreSQL busy for half a minute.
    assert time.monotonic() - started < 8
    assert all('too long to parse' in why or 'POSIX' in why for why in found.values())


def test_a_refused_pattern_refuses_no_other(db: Database) -> None:
    slow = [pattern for pattern in HOSTILE.values() if tried(db, [pattern])]
    assert len(slow) > 5
    started = time.monotonic()
    found = tried(db, [*slow, *WRITTEN[:6], '[', *slow])
    assert time.monotonic() - started < 20 * TRIAL_S  # four trials on an idle machine
    # A pattern that takes about as long as a trial may be accepted this time.
    assert {'['} < set(found) <= {*slow, '['}
    assert 'POSIX' in found['[']


def test_inside_a_transaction_nothing_is_spoilt(db: Database) -> None:
    slow = r'\y' * 900

    def work(tx: object) -> tuple[object, object, object]:
        limit = tx.value('SHOW statement_timeout')  # type: ignore[attr-defined]  # a Transaction
        found = refused(tx, [slow, '['], all_signs=True)  # type: ignore[arg-type]
        return limit, found, tx.value('SHOW statement_timeout')  # type: ignore[attr-defined]

    before, found, after = db.run(work)
    assert before == after
    assert set(found) == {slow, '['}


def test_a_bad_pattern_is_refused_where_there_is_nothing_to_compare(
    db: Database, backend: Backend, actor: Actor
) -> None:
    """The plan for an empty table, which PostgreSQL keeps, does not read the pattern."""
    query = {'operator': 'regex_match', 'val1': 'description', 'val2': '('}
    for _ in range(3):
        with pytest.raises(NipapValueError, match='POSIX'):
            backend.search_prefix(actor, query)
        connection_of(db).cursor().execute('ANALYZE')


def test_patterns_without_a_trial_take_no_time(db: Database) -> None:
    """Patterns without a trial must be easy: try combinations of the worst parts, as heavy as is allowed."""
    chance = random.Random(1)
    worst = [
        r'\y',
        r'\Y',
        r'\m',
        '^',
        '$',
        '(?=a)',
        'a*',
        'a',
        '.',
        '|',
        '(',
        '(',
        '(',
        ')',
        ')+',
        ')*',
        '(^|$)',
        '(\\y|a)+',
    ]
    tried = 0
    for _ in range(20_000):
        pattern = ''.join(chance.choices(worst, k=chance.randrange(2, 12)))
        pattern += ')' * (pattern.count('(') - pattern.count(')'))
        if not 4 <= patterns.weight(pattern) <= 5 or not patterns.easy([pattern]):
            continue
        tried += 1
        started = time.monotonic()
        db.read(lambda tx, pattern=pattern: tx.value('SELECT is_pattern(%s)', (pattern,)))  # type: ignore[misc]
        assert time.monotonic() - started < 2, pattern
    assert tried > 500
