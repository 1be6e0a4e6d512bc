"""Bootstrap confidence intervals of mean scores, and of the difference between two runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from toolkit.core.errors import CastmixError

RESAMPLES = 10_000
CONFIDENCE = 95.0
"""In per cent."""


@dataclass(frozen=True)
class Interval:
    """The mean of `n` values and its 95 % confidence interval from `low` to `high`.

    With one value, or with equal values, both ends are the mean. Such an interval says nothing about other
    values.
    """

    mean: float
    low: float
    high: float
    n: int


def mean_interval(values: Sequence[float], seed: int = 0) -> Interval:
    """The mean and its percentile bootstrap interval.

    Args:
        values: At least one finite value; the values must be independent.
        seed: Seed of the resampling; the same seed gives the same interval.

    Raises:
        CastmixError: There are no values, or one is not finite.
    """
    sample = np.asarray(values, np.float64)
    if sample.ndim != 1 or not len(sample) or not np.isfinite(sample).all():
        raise CastmixError(f"an interval needs finite values, at least one; got {values!r:.80}")
    rng = np.random.default_rng(seed)
    means = np.empty(RESAMPLES)
    step = max(1, 1_000_000 // len(sample))  # limits the memory for long samples
    for start in range(0, RESAMPLES, step):
        part = means[start : start + step]
        part[:] = sample[rng.integers(len(sample), size=(len(part), len(sample)))].mean(1)
    tail = (100 - CONFIDENCE) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return Interval(float(sample.mean()), float(low), float(high), len(sample))


def paired_interval(a: Sequence[float], b: Sequence[float], seed: int = 0) -> Interval:
    """The mean of a - b and its interval, where a[i] and b[i] belong to the same prompt and seed.

    Pairs are resampled together. The difficulty of a prompt cancels, so smaller differences become visible.

    Raises:
        CastmixError: a and b differ in length, or as in `mean_interval`.
    """
    if len(a) != len(b):
        raise CastmixError(f"paired values must have equal length, got {len(a)} and {len(b)}")
    return mean_interval([x - y for x, y in zip(a, b, strict=True)], seed)
