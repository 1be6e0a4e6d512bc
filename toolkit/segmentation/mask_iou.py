"""Compares masks with ground truth: region IoU J and boundary measure F of the DAVIS benchmark.

(Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016,
section 4.) Scores are averaged over all frames, without the benchmark's other statistics.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[Any]
"""(H, W), bool, or uint8 where 128 and more is the character."""

TOLERANCE = 0.008
"""Distance within which two contour pixels match, in diagonals of the picture."""


def as_bool(mask: Mask) -> NDArray[np.bool_]:
    """Whether each pixel is the character."""
    return np.asarray(mask if mask.dtype == np.bool_ else mask >= 128, np.bool_)


def box_of(mask: NDArray[np.bool_]) -> tuple[float, float, float, float] | None:
    """Bounding box (left, top, right, bottom) of a mask (H, W); None if it is empty."""
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (float(xs[0]), float(ys[0]), float(xs[-1] + 1), float(ys[-1] + 1)) if len(xs) else None


def region_iou(mask: Mask, truth: Mask) -> float:
    """J: intersection over union, 0 to 1; 1 for two empty masks."""
    a, b = as_bool(mask), as_bool(truth)
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0


def boundary_f(mask: Mask, truth: Mask, tolerance: float = TOLERANCE) -> float:
    """F: harmonic mean of precision and recall of the contour, 0 to 1.

    A contour pixel matches within ceil(tolerance * diagonal) pixels of the other contour. F is 1 if both
    masks have no contour, 0 if only one has none.
    """
    a, b = _contour(as_bool(mask)), _contour(as_bool(truth))
    if not a.any() or not b.any():
        return float(a.any() == b.any())
    radius = math.ceil(tolerance * math.hypot(*a.shape))
    precision = float(np.mean(_distance(b)[a] <= radius))
    recall = float(np.mean(_distance(a)[b] <= radius))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def mean_j_and_f(masks: Iterable[Mask], truths: Iterable[Mask]) -> tuple[float, float]:
    """Mean J and mean F over the frames of a clip."""
    scores = [
        (region_iou(mask, truth), boundary_f(mask, truth)) for mask, truth in zip(masks, truths, strict=True)
    ]
    j, f = np.mean(scores, axis=0)
    return float(j), float(f)


def _contour(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mask pixels with at least one of four neighbours outside the mask. Picture edges are not contours."""
    inside = np.pad(mask, 1, mode="edge")
    inner = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    return mask & ~inner


def _distance(contour: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Distance of every pixel to the nearest contour pixel, in pixels."""
    import cv2

    distance = cv2.distanceTransform((~contour).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance, np.float32)
