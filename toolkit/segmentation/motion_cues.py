"""What tells a character from what is behind it, without any weights: how it moves, and its colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
"""(H, W, 3), RGB."""

Array = NDArray[Any]

BINS = 16
"""Of each of the three axes of colour."""


def neighbours(number: int, count: int) -> list[int]:
    """The frames before and after one, of `count`; at either end of a clip the two nearest."""
    first = min(max(number - 1, 0), max(count - 3, 0))
    return [n for n in range(first, min(first + 3, count)) if n != number]


def flow(here: Picture, there: Picture) -> Array:
    """Optical flow (H, W, 2): how far each pixel of one picture has gone in the other, in pixels x and y."""
    import cv2

    dis: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (here, there)]
    return np.asarray(dis.calc(*grey, None))


def motion(flows: Sequence[Array], outside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """How differently from what is `outside` each pixel moves, (H, W), in pixels a frame.

    The movement outside, mostly the camera's, is an affine one. Flow smears over the edges of what moves, to
    another side for each of the `flows` to several frames: the least is taken.
    """
    if not flows:
        return np.zeros(outside.shape, np.float32)
    return np.asarray(np.min([_own_motion(one, outside) for one in flows], 0), np.float32)


def _own_motion(moved: Array, outside: NDArray[np.bool_]) -> Array:
    import cv2

    height, width = outside.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    sample = np.zeros_like(outside)
    sample[4::8, 4::8] = outside[4::8, 4::8]
    places = np.stack([x[sample], y[sample]], 1)
    affine = None
    if len(places) >= 8:
        cv2.setRNGSeed(0)
        affine, _ = cv2.estimateAffine2D(places, places + moved[sample], ransacReprojThreshold=1.5)
    if affine is None:
        affine = np.eye(2, 3)
    gone = np.stack([x, y, np.ones_like(x)], -1) @ affine.T - np.stack([x, y], -1)
    own: Array = np.hypot(*np.moveaxis(moved - gone, -1, 0))
    return own


def with_motion(picture: Picture, moves: NDArray[np.float32], where: NDArray[np.bool_]) -> Picture:
    """A picture for GrabCut, which takes three channels: the two main axes of colour, and movement.

    Axes and scale are those of what is `where`.
    """
    colours = picture[where].astype(np.float32)
    middle = colours.mean(0)
    axes = np.linalg.eigh(np.cov((colours - middle).T))[1][:, :0:-1]
    flat = np.clip(0.7 * (picture - middle) @ axes + 128, 0, 255)
    level = np.clip(moves / max(float(np.percentile(moves[where], 80)), 1.5), 0, 1) * 255
    return np.dstack([flat, level]).astype(np.uint8)


@dataclass(frozen=True)
class Looks:
    """The colours of a character, and how much of it is seen.

    `odds` is the share of the character among the pixels of each colour (equal numbers of pixels of it and of
    the rest), `colours` the share of each colour in the character, `area` its pixels, `fit` the mean odds
    of those.
    """

    odds: Array
    colours: Array
    area: float
    fit: float


def looks_of(picture: Picture, mask: NDArray[np.bool_]) -> Looks:
    """What the character in a mask, and the rest, look like."""
    own, rest = _histogram(picture, mask), _histogram(picture, ~mask)
    odds = own / (own + rest + 1e-9)
    fit = float(odds_at(picture, odds)[mask].mean()) if mask.any() else 0.0
    return Looks(odds, own, float(mask.sum()), fit)


def odds_at(picture: Picture, odds: Array) -> NDArray[np.float32]:
    """The odds of each pixel's colour, (H, W)."""
    return np.asarray(odds[tuple(np.moveaxis(_colour_bins(picture), -1, 0))], np.float32)


def likeness(picture: Picture, mask: NDArray[np.bool_], looks: Looks) -> float:
    """How alike the colours in a mask are to a character's, 0 to 1 (Bhattacharyya's coefficient)."""
    return float(np.sqrt(_histogram(picture, mask) * looks.colours).sum()) if mask.any() else 0.0


def _colour_bins(picture: Picture) -> Array:
    import cv2

    return cv2.cvtColor(picture, cv2.COLOR_RGB2LAB) // (256 // BINS)


def _histogram(picture: Picture, mask: NDArray[np.bool_]) -> Array:
    """Shares of colours, smoothed a little: (BINS, BINS, BINS)."""
    counts = np.zeros((BINS,) * 3)
    np.add.at(counts, tuple(_colour_bins(picture)[mask].T), 1)
    for axis in range(3):
        kernel = np.pad(counts, [(1, 1) if a == axis else (0, 0) for a in range(3)], mode="edge")
        before, after = np.delete(kernel, [-1, -2], axis), np.delete(kernel, [0, 1], axis)
        counts = 0.25 * before + 0.5 * counts + 0.25 * after
    shares: Array = counts / max(counts.sum(), 1e-9)
    return shares
