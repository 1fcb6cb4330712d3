"""The statistics of paired timings: the median ratio of two revisions and its 95 % interval."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

RESAMPLES = 2000
COVERAGE = 0.95
LIMIT = 1.03  # a row is slower when the lower end of its interval is not below this ratio


@dataclass(frozen=True)
class Interval:
    """A ratio, ours to BASE, with the ends of its 95 % interval."""

    ratio: float
    low: float
    high: float

    @property
    def slower(self) -> bool:
        return self.low >= LIMIT

    @property
    def quicker(self) -> bool:
        return self.high <= 1 / LIMIT

    @property
    def holds_one(self) -> bool:
        return self.low <= 1 <= self.high

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    def __str__(self) -> str:
        return f'{self.ratio:.3f} [{self.low:.3f}, {self.high:.3f}]'


@dataclass
class Pairs:
    """Figures of BASE and ours, taken in turns, separated by the side that was called first."""

    base_first: list[tuple[float, float]] = field(default_factory=list)
    ours_first: list[tuple[float, float]] = field(default_factory=list)
    _found: dict[int, Interval] = field(default_factory=dict)  # by the number of pairs

    def add(self, base: float, ours: float, *, base_first: bool) -> None:
        (self.base_first if base_first else self.ours_first).append((base, ours))

    def __len__(self) -> int:
        return len(self.base_first) + len(self.ours_first)

    @property
    def medians(self) -> tuple[float, float]:
        """Return the median figures of BASE and ours."""
        base, ours = zip(*self.base_first, *self.ours_first, strict=True)
        return median(base), median(ours)

    @property
    def interval(self) -> Interval:
        """Return the median of the ratios of the pairs, with a percentile bootstrap interval.

        The first call of a pair costs more, or less, than the second: caches are warm, a processor has been idle. One
        median over both orders would lie somewhere between two peaks. So each order has a median of its own, and the
        ratio is their geometric mean, in which the effect of the order cancels.
        """
        count = len(self)
        if count not in self._found:
            self._found[count] = self._bootstrap(random.Random(count))
        return self._found[count]

    def _bootstrap(self, choose: random.Random) -> Interval:
        orders = [sorted(ours / base for base, ours in some) for some in (self.base_first, self.ours_first) if some]
        means = sorted(_geometric_mean([_resampled_median(one, choose) for one in orders]) for _ in range(RESAMPLES))
        beyond = round(RESAMPLES * (1 - COVERAGE) / 2)
        return Interval(_geometric_mean([median(one) for one in orders]), means[beyond], means[-1 - beyond])


def _geometric_mean(values: Sequence[float]) -> float:
    return math.prod(values) ** (1 / len(values))


def _resampled_median(ordered: Sequence[float], choose: random.Random) -> float:
    """Return the median of as many random choices from a sorted sample, with replacement, without choosing them all.

    A choice is the value at `floor(n * u)` for a uniform `u`. So the median choice is the value at the median of n
    uniform numbers, which has a beta distribution. For an even n, the second of the two middle numbers is the minimum
    of the uniform numbers above the first.
    """
    n = len(ordered)
    rank = (n + 1) // 2
    lower = choose.betavariate(rank, n + 1 - rank)
    value = ordered[min(int(lower * n), n - 1)]
    if n % 2:
        return value
    upper = 1 - (1 - lower) * choose.random() ** (1 / (n - rank))
    return (value + ordered[min(int(upper * n), n - 1)]) / 2


def widths(intervals: Sequence[Interval]) -> Iterator[float]:
    """Yield the half widths that half and nine tenths of the intervals do not exceed."""
    ordered = sorted(one.half_width for one in intervals)
    for share in (0.5, 0.9):
        yield ordered[int(share * (len(ordered) - 1))]
