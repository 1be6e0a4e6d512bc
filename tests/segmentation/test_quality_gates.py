"""Gates: what they measure, which limit each corruption breaks, and J and F themselves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from toolkit.segmentation.mask_iou import boundary_f, box_of, mean_j_and_f, region_iou
from toolkit.segmentation.quality_gates import Gates, failed_gates, measure_quality

H, W, F = 48, 72, 12
Bools = NDArray[np.bool_]


def disc(x: float, y: float = 24, radius: float = 9) -> Bools:
    rows, columns = np.mgrid[:H, :W]
    return np.asarray((rows + 0.5 - y) ** 2 + (columns + 0.5 - x) ** 2 < radius**2)


def walk() -> Bools:
    """A disc that walks from left to right without touching an edge."""
    return np.stack([disc(20 + 3 * t) for t in range(F)])


def quality_of(masks: Bools) -> dict[str, float]:
    return measure_quality({"Pixo": mask} for mask in masks)["Pixo"]


def test_a_clean_walk_passes_every_gate() -> None:
    quality = quality_of(walk())
    assert failed_gates(quality, Gates()) == []
    assert quality["iou"] == pytest.approx(1, abs=0.02)
    assert quality["flicker"] == quality["lost"] == quality["border"] == quality["shared"] == 0
    assert quality["jump"] == pytest.approx(3 / np.sqrt(disc(20).sum()), rel=0.02)
    assert quality["area_min"] == pytest.approx(np.pi * 81 / (H * W), rel=0.03)
    assert set(quality) >= {"area_max", "area_median", "bottom", "vanished", "reentries"}


def test_standing_still_is_perfect_and_soft_edges_count_from_a_half() -> None:
    still = np.repeat(disc(30)[None], F, 0)
    quality = quality_of(still)
    assert (quality["iou"], quality["flicker"], quality["jump"]) == (1, 0, 0)
    soft = np.where(still, 128, 127).astype(np.uint8)
    assert measure_quality({"Pixo": mask} for mask in soft)["Pixo"] == quality


def small(masks: Bools) -> Bools:
    return np.stack([disc(20 + 3 * t, radius=2) for t in range(F)])


def leak(masks: Bools) -> Bools:
    masks[8:] = True
    return masks


def blink(masks: Bools) -> Bools:
    masks[1::2, :24] = False
    return masks


def hop(masks: Bools) -> Bools:
    return np.stack([disc(15 if t < 6 else 55) for t in range(F)])


def hide(masks: Bools) -> Bools:
    masks[5:7] = False
    return masks


def leave(masks: Bools) -> Bools:
    return np.stack([disc(48 + 5 * t) for t in range(F)])


def come_and_go(masks: Bools) -> Bools:
    return np.stack([disc(x) for x in (60, 66, 72, 78, 90, 78, 72, 78, 90, 78, 72, 66)])


def scatter(masks: Bools) -> Bools:
    return np.asarray(masks & (np.random.default_rng(0).random(masks.shape) < 0.6))


def nobody(masks: Bools) -> Bools:
    return np.zeros_like(masks)


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        (small, {"area_median"}),
        (leak, {"area_max"}),
        (blink, {"flicker"}),
        (hop, {"jump"}),
        (hide, {"vanished"}),
        (leave, {"lost"}),
        (come_and_go, {"reentries"}),
        (scatter, {"iou", "flicker"}),
        (nobody, {"lost"}),
    ],
)
def test_each_corruption_breaks_its_gates(change: Callable[[Bools], Bools], broken: set[str]) -> None:
    reasons = failed_gates(quality_of(change(walk())), Gates())
    assert {reason.partition(" ")[0] for reason in reasons} >= broken, reasons


def test_a_reason_has_both_numbers_and_a_gate_can_be_opened() -> None:
    quality = quality_of(hop(walk()))
    assert failed_gates(quality, Gates()) == [f"jump {quality['jump']:g} is above 0.75"]
    assert failed_gates(quality, dataclasses.replace(Gates(), max_jump=quality["jump"])) == []


def test_leaving_through_an_edge_is_not_vanishing() -> None:
    assert quality_of(leave(walk()))["vanished"] == 0
    assert quality_of(hide(walk()))["vanished"] == 1
    assert quality_of(hide(walk()))["reentries"] == 1


def test_two_masks_on_one_creature_are_rejected() -> None:
    left, right = walk(), walk()[:, :, ::-1]
    apart = measure_quality({"Pixo": a, "Mimi": b} for a, b in zip(left, np.roll(left, 22, 1), strict=True))
    assert apart["Pixo"]["shared"] == apart["Mimi"]["shared"] == 0
    crossing = measure_quality({"Pixo": a, "Mimi": b} for a, b in zip(left, right, strict=True))
    assert 0 < crossing["Pixo"]["shared"] < 0.5
    stuck = np.concatenate([left[:7], right[7:]])
    both = measure_quality({"Pixo": a, "Mimi": b} for a, b in zip(stuck, right, strict=True))
    assert any(reason.startswith("shared") for reason in failed_gates(both["Pixo"], Gates()))


def test_region_and_boundary() -> None:
    square = np.zeros((H, W), bool)
    square[10:30, 20:40] = True
    half = np.zeros((H, W), bool)
    half[10:30, 30:50] = True
    assert region_iou(square, square) == boundary_f(square, square) == 1
    assert region_iou(square, half) == pytest.approx(1 / 3)
    assert region_iou(square, ~square) == 0
    empty = np.zeros_like(square)
    assert region_iou(empty, empty) == boundary_f(empty, empty) == 1
    assert region_iou(empty, square) == boundary_f(empty, square) == boundary_f(square, empty) == 0
    assert box_of(square) == (20, 10, 40, 30)
    assert box_of(empty) is None


def test_the_boundary_score_tolerates_one_percent_of_the_diagonal() -> None:
    """The tolerance is ceil(0.008 * hypot(48, 72)) = 1 pixel."""
    bar = np.zeros((H, W), bool)
    bar[:, :30] = True
    near, far = np.roll(bar, 1, 1), np.roll(bar, 2, 1)
    near[:, 0] = far[:, :2] = True
    assert boundary_f(bar, near) == 1
    assert boundary_f(bar, far) == 0
    assert boundary_f(bar, far, tolerance=0.02) == 1
    assert mean_j_and_f([bar, bar], [bar, near]) == (pytest.approx((1 + 30 / 31) / 2), 1)
