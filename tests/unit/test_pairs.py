"""The statistics of paired timings, on samples with a known ratio."""

from __future__ import annotations

import functools
import random
from bisect import bisect_right
from statistics import median

import pytest
from bench import pairs
from bench.pairs import LIMIT, Interval, Pairs, widths

pytestmark = pytest.mark.slow

FIRST_COSTS = 1.1  # times the cost of the second call of a pair
OUTLIERS, OUTLIER = 0.03, 10.0
COMPARISONS = 60


def sample(ratio: float, seed: int, number: int = 400, spread: float = 0.1) -> Pairs:
    """Return timings of two programs on a machine that slows down by half, jumps back, and has long pauses."""
    choose = random.Random(seed)

    def took() -> float:
        return choose.lognormvariate(0, spread) * (OUTLIER if choose.random() < OUTLIERS else 1)

    found = Pairs()
    for i in range(number):
        drift, base_first = 1 + 0.5 * (i % 100) / 100, i % 2 == 0
        base, ours = drift * took(), drift * ratio * took()
        if base_first:
            base *= FIRST_COSTS
        else:
            ours *= FIRST_COSTS
        found.add(base, ours, base_first=base_first)
    return found


@functools.cache
def intervals(ratio: float) -> list[Interval]:
    return [sample(ratio, seed).interval for seed in range(COMPARISONS)]


def test_equal_programs_are_not_slower_and_19_of_20_intervals_hold_1() -> None:
    found = intervals(1)
    assert not any(one.slower or one.quicker for one in found)
    assert 0.88 * COMPARISONS <= sum(one.holds_one for one in found) < COMPARISONS


@pytest.mark.parametrize('ratio', [1.0, LIMIT, 1.07])
def test_the_ratio_is_found_whichever_side_is_first(ratio: float) -> None:
    found = intervals(ratio)
    assert median(one.ratio for one in found) == pytest.approx(ratio, abs=0.005)
    assert sum(one.low <= ratio <= one.high for one in found) >= 0.88 * COMPARISONS


def test_a_row_is_slower_when_it_exceeds_the_limit_by_more_than_half_the_interval() -> None:
    half, most = widths(intervals(1))
    assert 0.01 < half < most < 0.025
    assert sum(one.slower for one in intervals(1.07)) >= 0.9 * COMPARISONS
    assert all(one.low > 1 for one in intervals(1.07))
    assert sum(one.slower for one in intervals(LIMIT)) <= 0.1 * COMPARISONS, 'one in 40'


@pytest.mark.parametrize('number', [1, 2, 5, 6, 199, 200])
def test_a_resampled_median_is_distributed_like_the_median_of_random_choices(number: int) -> None:
    choose = random.Random(number)
    ordered = sorted(choose.lognormvariate(0, 0.2) for _ in range(number))
    quick = sorted(pairs._resampled_median(ordered, choose) for _ in range(4000))
    plain = sorted(median(choose.choices(ordered, k=number)) for _ in range(4000))
    # The largest distance between the two distributions. By chance it exceeds 0.03 once in 20 times.
    assert all(abs(bisect_right(quick, one) - bisect_right(plain, one)) < 0.04 * 4000 for one in quick + plain)


def test_more_pairs_replace_the_interval() -> None:
    found = Pairs()
    for number, base_first in zip(range(4), [True, False, True, False], strict=True):
        found.add(1, 2, base_first=base_first)
        assert (len(found), found.interval) == (number + 1, Interval(2, 2, 2))
    for number in range(100):
        found.add(1, 3, base_first=number % 2 == 0)
    assert found.medians == (1, 3)
    assert found.interval.ratio == pytest.approx(3)
    assert str(found.interval) == '3.000 [3.000, 3.000]'


@pytest.mark.parametrize(
    ('low', 'high', 'slower', 'quicker', 'holds_one'),
    [
        (LIMIT, 1.1, True, False, False),
        (LIMIT - 0.001, 1.1, False, False, False),
        (0.99, 1.01, False, False, True),
        (0.9, 1 / LIMIT, False, True, False),
        (0.9, 0.98, False, False, False),
    ],
)
def test_verdicts(low: float, high: float, slower: bool, quicker: bool, holds_one: bool) -> None:
    one = Interval((low + high) / 2, low, high)
    assert (one.slower, one.quicker, one.holds_one) == (slower, quicker, holds_one)
