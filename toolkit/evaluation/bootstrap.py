"""How sure a mean is: bootstrap intervals of scores, and of the difference between two runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from toolkit.core.errors import CastmixError

RESAMPLES = 10_000
COVERED = 95.0
"""Per cent."""


@dataclass(frozen=True)
class Interval:
    """A mean of `n` values and the ends of its 95 % interval.

    Of one value, or of equal ones, both ends are the mean: that says nothing of what others would be.
    """

    mean: float
    low: float
    high: float
    n: int


def mean_interval(values: Sequence[float], seed: int = 0) -> Interval:
    """The mean and its percentile bootstrap interval: what it becomes when the values are drawn again.

    Args:
        values: Finite, at least one, independent of each other.
        seed: Of the draws; the same seed gives the same interval.

    Raises:
        CastmixError: No values, or one that is not finite.
    """
    sample = np.asarray(values, np.float64)
    if sample.ndim != 1 or not len(sample) or not np.isfinite(sample).all():
        raise CastmixError(f"an interval needs finite values, at least one, got {values!r:.80}")
    rng = np.random.default_rng(seed)
    means = np.empty(RESAMPLES)
    step = max(1, 1_000_000 // len(sample))  # so that long samples need no more memory
    for start in range(0, RESAMPLES, step):
        part = means[start : start + step]
        part[:] = sample[rng.integers(len(sample), size=(len(part), len(sample)))].mean(1)
    rest = (100 - COVERED) / 2
    low, high = np.percentile(means, [rest, 100 - rest])
    return Interval(float(sample.mean()), float(low), float(high), len(sample))


def paired_interval(a: Sequence[float], b: Sequence[float], seed: int = 0) -> Interval:
    """The mean of a - b and its interval, where a[i] and b[i] are of the same prompt and seed.

    Pairs are drawn together: what makes a prompt hard in both runs cancels, and smaller differences show.

    Raises:
        CastmixError: The runs differ in length; see also `mean_interval`.
    """
    if len(a) != len(b):
        raise CastmixError(f"pairs need as many values on both sides, got {len(a)} and {len(b)}")
    return mean_interval([x - y for x, y in zip(a, b, strict=True)], seed)
