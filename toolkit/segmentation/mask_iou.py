"""How well a mask agrees with the truth: region overlap J and boundary accuracy F.

Both are the measures of the DAVIS benchmark (Perazzi et al., "A Benchmark Dataset and Evaluation Methodology
for Video Object Segmentation", CVPR 2016, section 4), with one mean over all frames instead of statistics.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[Any]
"""(H, W): bool, or uint8 of which 128 and more is the character."""

TOLERANCE = 0.008
"""How far a contour may lie from the true one, in diagonals of the picture."""


def as_bool(mask: Mask) -> NDArray[np.bool_]:
    """Whether each pixel is the character."""
    return np.asarray(mask if mask.dtype == np.bool_ else mask >= 128, np.bool_)


def box_of(mask: NDArray[np.bool_]) -> tuple[float, float, float, float] | None:
    """Left, top, right, bottom of what a mask (H, W) covers; None if that is nothing."""
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (float(xs[0]), float(ys[0]), float(xs[-1] + 1), float(ys[-1] + 1)) if len(xs) else None


def region_iou(mask: Mask, truth: Mask) -> float:
    """J: intersection over union, 0 to 1; two empty masks agree."""
    a, b = as_bool(mask), as_bool(truth)
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0


def boundary_f(mask: Mask, truth: Mask, tolerance: float = TOLERANCE) -> float:
    """F: harmonic mean of precision and recall of the contour, 0 to 1.

    A contour pixel counts as right within ceil(tolerance * diagonal) pixels of the other contour. Two masks
    without a contour agree; one without disagrees with one that has one.
    """
    a, b = _contour(as_bool(mask)), _contour(as_bool(truth))
    if not a.any() or not b.any():
        return float(a.any() == b.any())
    reach = math.ceil(tolerance * math.hypot(*a.shape))
    precision = float(np.mean(_distance(b)[a] <= reach))
    recall = float(np.mean(_distance(a)[b] <= reach))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def agreement(masks: Iterable[Mask], truths: Iterable[Mask]) -> tuple[float, float]:
    """Mean J and mean F over the frames of a clip."""
    scores = [
        (region_iou(mask, truth), boundary_f(mask, truth)) for mask, truth in zip(masks, truths, strict=True)
    ]
    j, f = np.mean(scores, axis=0)
    return float(j), float(f)


def _contour(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of the mask with a neighbour (of four) that is not; the picture's edge is no contour."""
    inside = np.pad(mask, 1, mode="edge")
    inner = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    return mask & ~inner


def _distance(contour: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Of every pixel to the nearest one of the contour, in pixels."""
    import cv2

    distance = cv2.distanceTransform((~contour).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance, np.float32)
