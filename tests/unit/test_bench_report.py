"""The computations of the benchmark: free blocks, possible failures, and the place of its tables."""

from __future__ import annotations

from ipaddress import ip_network
from itertools import pairwise
from pathlib import Path

import pytest
from bench import health, report
from bench.operations import Limit
from bench.report import Comparison, Measure, OperationRow
from bench.shapes import SHAPES, Shape, lowest_free

SIBLINGS = 20
LATENCIES = ['median of an allocation, in floors', 'quickest allocations, in floors']


def flat(name: str, medians: float, quickest: float, ms: float = 1) -> OperationRow:
    return OperationRow(name, ms, 1, None, 'floor', 1, small=Comparison('small', medians, quickest))


def test_limits_that_depend_on_the_machine_fail_only_a_strict_run() -> None:
    rows = [flat('flat', 1.5, 1.5), flat('noise', 2, 1), flat('dear', 1, 1, ms=2), flat('not flat', 1.6, 1.6)]
    measures = [Measure('promised', 1, '1', '2', False), Measure('firm', 1, '1', '2', False, firm=True)]
    measures += [Measure('kept', 1, '1', '2', True, firm=True), Measure('nothing promised', 1, '1')]
    assert report.failures(rows, measures, strict=False) == ['not flat', 'firm']
    assert report.failures(rows, measures, strict=True) == ['dear', 'not flat', 'promised', 'firm']


@pytest.mark.parametrize('shape', SHAPES, ids=lambda shape: shape.name)
@pytest.mark.parametrize('count', [0, 1, SIBLINGS, 300])
def test_the_lowest_free_block_is_known(shape: Shape, count: int) -> None:
    """Compare with a search through all blocks, one by one."""
    block = ip_network(shape.block)
    used = [ip_network(shape.prefix(*one)) for one in shape.used(count)]
    taken = [(int(one.network_address), int(one.broadcast_address)) for one in used]
    assert all(a[1] < b[0] for a, b in pairwise(taken)), 'in order and apart'
    for length in shape.asked:
        single = length == shape.family_bits
        size = 1 << shape.family_bits - length
        firsts = range(int(block.network_address) + single, int(block.broadcast_address) + 1 - single, size)
        free = (first for first in firsts if not any(first <= z and a < first + size for a, z in taken))
        assert lowest_free(shape, count, length) == shape.prefix(next(free) - int(block.network_address), length)


@pytest.mark.parametrize(
    ('limit', 'text', 'allowed'),
    [
        (Limit(floors=1.5), '1.5 × floor', 1.5),
        (Limit(floors=1, commits=5), 'floor + 5 commits', 2.25),
        (Limit(ms=45), '45 ms', 45),
    ],
)
def test_limits(limit: Limit, text: str, allowed: float) -> None:
    assert (str(limit), limit.allowed(1, 0.25)) == (text, allowed)
    assert limit.allowed(1, None) == (None if limit.commits else allowed)


def test_the_tables_replace_the_former_ones(tmp_path: Path) -> None:
    document = tmp_path / 'document.md'
    document.write_text('before\n<!-- figures -->\n<!-- /figures -->\nafter\n')
    for ms in (1.0, 2.0):
        row = OperationRow('version', ms, 1.0, 0.5, '1.5 × floor', 1.5, Comparison('small', ms, ms))
        report.update(document, report.tables('About.', [row], []))
    text = document.read_text()
    assert text.startswith('before\n<!-- figures -->\n\nAbout.\n\n| operation |')
    assert text.endswith(
        '| version | 2.00 | 1.00 | 2.0 | 4.0 | 1.5 × floor | no | 2.00 (no) |\n\n<!-- /figures -->\nafter\n'
    )
    document.write_text('nothing')
    with pytest.raises(ValueError, match='no pair of marks'):
        report.update(document, 'tables')


@pytest.mark.parametrize(
    ('before', 'after', 'allowance', 'ok'),
    [(10, 13, 0, True), (10, 13.1, 0, False), (0, 1, 1, True), (0, 1.1, 1, False)],
)
def test_verdicts(before: float, after: float, allowance: float, ok: bool) -> None:
    assert health.Verdict('size', before, after, 1.3, allowance).ok is ok


def slices(*last: float) -> list[health.Slice]:
    """Return slices of which the last has the floors `last`, median and quickest, and the others have 4 and 3."""
    sizes = [{'prefix': n, 'audit_log': n, 'audit_log_pkey': n} for n in (1, 2, 3)]
    return [
        health.Slice(1, 2, 3, 2, 0.5, *floors, size) for floors, size in zip([(4, 3), (4, 3), last], sizes, strict=True)
    ]


def test_growth_by_design_is_not_judged() -> None:
    assert [one.name for one in health.verdicts(slices(4, 3))] == [*LATENCIES, 'prefix, MB']


def test_median_and_quickest_are_judged() -> None:
    for last, slower in (((5.3, 3), LATENCIES[:1]), ((4, 4), LATENCIES[1:]), ((5.2, 3.8), [])):
        assert [one.name for one in health.verdicts(slices(*last)) if not one.ok] == slower
