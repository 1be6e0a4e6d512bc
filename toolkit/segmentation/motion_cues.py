"""Cues that separate a character from its background without a trained model: relative motion and colour."""

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
"""Histogram bins per colour axis (CIELAB)."""


def neighbour_frames(number: int, count: int) -> list[int]:
    """The frames before and after a frame of `count`; at either end of a clip the two nearest frames."""
    first = min(max(number - 1, 0), max(count - 3, 0))
    return [n for n in range(first, min(first + 3, count)) if n != number]


def optical_flow(here: Picture, there: Picture) -> Array:
    """Dense optical flow (H, W, 2) from one picture to another: displacement in x and y, in pixels."""
    import cv2

    dis: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (here, there)]
    return np.asarray(dis.calc(*grey, None))


def relative_motion(flows: Sequence[Array], outside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """How much each pixel moves relative to the background, (H, W), in pixels per frame.

    The background motion (mostly the camera's) is an affine fit to the flow in `outside`. Flow smears over
    the edges of moving objects, to another side for each neighbouring frame; so the minimum over `flows`
    (flows to several frames, each (H, W, 2)) is taken.
    """
    if not flows:
        return np.zeros(outside.shape, np.float32)
    return np.asarray(np.min([_residual_motion(flow, outside) for flow in flows], 0), np.float32)


def _residual_motion(flow: Array, outside: NDArray[np.bool_]) -> Array:
    import cv2

    height, width = outside.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    sample = np.zeros_like(outside)
    sample[4::8, 4::8] = outside[4::8, 4::8]
    points = np.stack([x[sample], y[sample]], 1)
    affine = None
    if len(points) >= 8:
        cv2.setRNGSeed(0)
        affine, _ = cv2.estimateAffine2D(points, points + flow[sample], ransacReprojThreshold=1.5)
    if affine is None:
        affine = np.eye(2, 3)
    background = np.stack([x, y, np.ones_like(x)], -1) @ affine.T - np.stack([x, y], -1)
    residual: Array = np.hypot(*np.moveaxis(flow - background, -1, 0))
    return residual


def with_motion(picture: Picture, moves: NDArray[np.float32], where: NDArray[np.bool_]) -> Picture:
    """A picture for GrabCut, which takes three channels: two principal colour axes, and relative motion.

    Axes and scale are computed from the pixels in `where`.
    """
    colours = picture[where].astype(np.float32)
    mean = colours.mean(0)
    axes = np.linalg.eigh(np.cov((colours - mean).T))[1][:, :0:-1]
    flat = np.clip(0.7 * (picture - mean) @ axes + 128, 0, 255)
    level = np.clip(moves / max(float(np.percentile(moves[where], 80)), 1.5), 0, 1) * 255
    return np.dstack([flat, level]).astype(np.uint8)


@dataclass(frozen=True)
class ColourModel:
    """The colours and the size of a character in one frame.

    Attributes:
        odds: (BINS, BINS, BINS), probability that a pixel of each colour is the character, if the character
            and the rest had equally many pixels.
        colours: (BINS, BINS, BINS), colour histogram of the character.
        area: Pixels of the character.
        fit: Mean odds over the character's pixels.
    """

    odds: Array
    colours: Array
    area: float
    fit: float


def colour_model(picture: Picture, mask: NDArray[np.bool_]) -> ColourModel:
    """The colour model of the character that `mask` covers."""
    own, rest = _histogram(picture, mask), _histogram(picture, ~mask)
    odds = own / (own + rest + 1e-9)
    fit = float(pixel_odds(picture, odds)[mask].mean()) if mask.any() else 0.0
    return ColourModel(odds, own, float(mask.sum()), fit)


def pixel_odds(picture: Picture, odds: Array) -> NDArray[np.float32]:
    """The odds of each pixel's colour, (H, W)."""
    return np.asarray(odds[tuple(np.moveaxis(_colour_bins(picture), -1, 0))], np.float32)


def colour_similarity(picture: Picture, mask: NDArray[np.bool_], model: ColourModel) -> float:
    """Bhattacharyya coefficient of the colours in a mask and those of the model, 0 to 1."""
    return float(np.sqrt(_histogram(picture, mask) * model.colours).sum()) if mask.any() else 0.0


def _colour_bins(picture: Picture) -> Array:
    import cv2

    return cv2.cvtColor(picture, cv2.COLOR_RGB2LAB) // (256 // BINS)


def _histogram(picture: Picture, mask: NDArray[np.bool_]) -> Array:
    """Slightly smoothed colour histogram (BINS, BINS, BINS); its sum is 1."""
    counts = np.zeros((BINS,) * 3)
    np.add.at(counts, tuple(_colour_bins(picture)[mask].T), 1)
    for axis in range(3):
        padded = np.pad(counts, [(1, 1) if a == axis else (0, 0) for a in range(3)], mode="edge")
        before, after = np.delete(padded, [-1, -2], axis), np.delete(padded, [0, 1], axis)
        counts = 0.25 * before + 0.5 * counts + 0.25 * after
    shares: Array = counts / max(counts.sum(), 1e-9)
    return shares
