from __future__ import annotations

import numpy as np
import pytest

from toolkit.core.errors import CastmixError
from toolkit.evaluation.bootstrap import Interval, mean_interval, paired_interval


def test_the_interval_is_that_of_theory() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 400).tolist()
    found = mean_interval(values)
    half = 1.96 * np.std(values) / 20
    assert found.mean == pytest.approx(np.mean(values))
    assert found.low == pytest.approx(found.mean - half, abs=0.02)
    assert found.high == pytest.approx(found.mean + half, abs=0.02)
    assert found.n == 400


def test_the_interval_covers_the_truth_as_often_as_stated() -> None:
    rng = np.random.default_rng(2)
    found = [mean_interval((rng.random(60) < 0.7).astype(float).tolist()) for _ in range(100)]
    assert 88 <= sum(one.low <= 0.7 <= one.high for one in found) <= 100


def test_the_interval_depends_on_the_seed_alone() -> None:
    values = np.random.default_rng(0).random(9).tolist()
    assert mean_interval(values, seed=4) == mean_interval(values, seed=4) != mean_interval(values, seed=5)


def test_equal_values_have_an_interval_of_width_zero() -> None:
    assert mean_interval([0.5]) == Interval(0.5, 0.5, 0.5, 1)
    assert mean_interval([1, 1, 1]) == Interval(1.0, 1.0, 1.0, 3)


def test_long_samples_are_resampled_in_parts() -> None:
    found = mean_interval(np.linspace(0, 1, 30_011).tolist())
    assert found.low < 0.5 < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.sqrt(1 / 12 / 30_011), rel=0.1)


def test_paired_intervals_cancel_common_variance() -> None:
    rng = np.random.default_rng(3)
    hardness = rng.normal(0, 1, 50)
    before = hardness.tolist()
    after = (hardness + 0.2 + 0.01 * rng.normal(0, 1, 50)).tolist()
    paired = paired_interval(after, before)
    assert paired.mean == pytest.approx(0.2, abs=0.01)
    assert paired.low > 0.19
    assert mean_interval(after).low < mean_interval(before).high
    assert paired_interval(before, after).mean == pytest.approx(-paired.mean)


@pytest.mark.parametrize("values", [[], [float("nan")], [1.0, float("inf")]])
def test_no_values_or_nan_are_an_error(values: list[float]) -> None:
    with pytest.raises(CastmixError, match="at least one"):
        mean_interval(values)


def test_pairs_of_unequal_length() -> None:
    with pytest.raises(CastmixError, match="got 2 and 1"):
        paired_interval([1, 2], [1])
