"""Estimates how the camera of a clip moves, from the background around the characters.

Each frame is aligned with a key frame by a similarity transform. The alignment is inverse compositional
Gauss-Newton on the grey levels of a few thousand points with strong gradients (Baker and Matthews,
"Lucas-Kanade 20 Years On", IJCV 2004), coarse to fine. Tukey weights reduce the influence of everything that
moves by itself (Odobez and Bouthemy, JVCIR 1995). Flat cartoon scenes have too few corners for feature
points; this method needs edges only.

Positions are in continuous pixels: pixel i covers i to i + 1. A similarity is four numbers (a, b, x, y). It
maps the point (u, v) to (a·u - b·v + x, b·u + a·v + y).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.core.errors import CastmixError

Floats = NDArray[np.float64]
Grey = NDArray[np.uint8]
_GreyAndBackground = tuple[NDArray[np.float32], NDArray[np.bool_]]

HEIGHTS = (30, 60, 120)
"""Heights of the image pyramid in pixels, coarse to fine."""
MAX_POINTS = 3000
MAX_STEPS = 12
"""Gauss-Newton steps per pyramid level."""
MARGIN = 0.03
"""Distance that a background point keeps from every character, in picture heights."""
MAX_ERROR = 0.045
"""An alignment is accepted up to this standard error of a picture corner, in pixels of the finest level.

The estimate grows when many points disagree. Neighbouring points share their noise, so the true error is a
few times larger.
"""
CORNERS = np.array([[0.0, 0, 1, 0], [0, 0, 0, 1], [1.5, -1, 1, 0], [1, 1.5, 0, 1]])
"""Derivatives of two corners by (a, b, x, y): upper left x and y, lower right x and y, in a 1.5:1 picture."""
NEW_KEY, SAME_VIEW = 0.7, 0.97
"""A key frame is replaced when less than `NEW_KEY` of its points are visible.

It is replaced below `SAME_VIEW` already if the error grows, as it does when parallax distorts the picture.
"""

MIN_TRACKED = 0.9
"""Share of the frames whose alignment must be known if the camera moves."""
MAX_DRIFT = 0.01
"""A camera is static if no picture corner moves further than this, in picture heights."""
MAX_ZOOM = 1.6
"""Largest ratio between the largest and the smallest scale in a clip."""


@dataclass(frozen=True, eq=False)
class CameraMotion:
    """How the camera of a clip moves.

    Attributes:
        speed: Median speed of the background points over all frames, in picture heights per second.
        trajectory: (F, 4), the similarity from each frame to the first frame, in pixels of the clip.
        tracked: Share of the frames that could be aligned. A plain background without any edge has 1: no
            motion is visible in it.
    """

    speed: float
    trajectory: Floats
    tracked: float


@dataclass(frozen=True, eq=False)
class _Level:
    """The points of a key frame at one pyramid level.

    Attributes:
        height: Of the picture, in pixels.
        points: (N, 2), x and y in picture heights.
        grey: (N,), grey levels.
        jacobian: (N, 4), derivative of the grey level by the similarity.
        gradient: Median gradient of the points, in grey levels per pixel.
    """

    height: int
    points: Floats
    grey: Floats
    jacobian: Floats
    gradient: float


def matrices(similarities: Floats) -> Floats:
    """Similarities (..., 4) as matrices (..., 3, 3)."""
    a, b, x, y = np.moveaxis(np.asarray(similarities, np.float64), -1, 0)
    zero, one = np.zeros_like(a), np.ones_like(a)
    rows = [[a, -b, x], [b, a, y], [zero, zero, one]]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def estimate_motion(pictures: Iterable[tuple[Grey, Grey]], fps: float) -> CameraMotion:
    """Estimate the camera motion from one pair (grey picture, character mask) per frame.

    Both are (H, W). The mask is not 0 where a character is.
    """
    key_to_first, key_to_frame = np.eye(3), np.eye(3)
    trajectory, speeds, tracked = [np.eye(3)], [], [True]
    key: list[_Level] = []
    height, is_plain = 1, True
    for number, (picture, hidden) in enumerate(pictures):
        height = len(picture)
        pyramid = [_resized(picture, hidden, size) for size in HEIGHTS]
        visible, error = 0.0, np.inf
        if number:
            found, visible, error = _align(key, pyramid, key_to_frame) if key else (None, 0.0, np.inf)
            if found is not None:
                points = _homogeneous(key[-1].points)
                moved = (points @ (found - key_to_frame).T)[:, :2]
                speeds.append(float(np.median(np.linalg.norm(moved, axis=1))))
                key_to_frame = found
            is_accepted = error <= MAX_ERROR
            trajectory.append(key_to_first @ np.linalg.inv(key_to_frame) if is_accepted else trajectory[-1])
            tracked.append(is_accepted)
        if visible < NEW_KEY or (visible < SAME_VIEW and MAX_ERROR / 2 < error <= MAX_ERROR):
            key_to_first, key_to_frame = trajectory[-1], np.eye(3)
            key = [_level(*level) for level in pyramid]
            key = key if all(len(level.points) >= 50 for level in key) else []
            is_plain &= not key
    steps = np.stack(trajectory)
    rows = [steps[:, 0, 0], steps[:, 1, 0], steps[:, 0, 2] * height, steps[:, 1, 2] * height]
    speed = float(np.median(speeds)) * fps if speeds else 0.0
    return CameraMotion(speed, np.stack(rows, 1), 1.0 if is_plain else float(np.mean(tracked)))


def motion_to_compensate(
    camera: CameraMotion, height: int, width: int, still: float, fastest: float
) -> Floats | None:
    """The camera trajectory (F, 4) if it must be compensated; None if the camera is static.

    `still` and `fastest` are the settings of `Choice`.

    Raises:
        CastmixError: The camera moves too fast or zooms too far, or its motion could not be estimated.
    """
    if camera.speed > fastest:
        raise CastmixError(
            f"the camera moves by {camera.speed:.2f} picture heights per second, limit {fastest:g} "
            "(--choice.fastest)"
        )
    if camera.tracked < MIN_TRACKED:
        if camera.speed <= still:
            return None
        raise CastmixError(
            f"the camera moves, and its motion could be estimated in only {camera.tracked:.0%} of the "
            f"frames, expected at least {MIN_TRACKED:.0%}"
        )
    corners = np.array([[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]])
    moved = matrices(camera.trajectory) @ corners - corners
    if np.hypot(moved[:, 0], moved[:, 1]).max() <= MAX_DRIFT * height:
        return None
    scales = np.hypot(camera.trajectory[:, 0], camera.trajectory[:, 1])
    if scales.max() / scales.min() > MAX_ZOOM:
        raise CastmixError(
            f"the camera zooms by a factor of {scales.max() / scales.min():.2f}, limit {MAX_ZOOM:g}"
        )
    return camera.trajectory


def _resized(picture: Grey, hidden: Grey, height: int) -> _GreyAndBackground:
    """The picture at one height, and where it shows background at a safe distance from the characters."""
    import cv2

    size = (max(8, round(picture.shape[1] * height / len(picture))), height)
    kernel = cv2.INTER_AREA if len(picture) > height else cv2.INTER_LINEAR
    grey = cv2.GaussianBlur(cv2.resize(picture, size, interpolation=kernel).astype(np.float32), (0, 0), 0.8)
    occupied = (cv2.resize(hidden, size, interpolation=cv2.INTER_AREA) > 0).astype(np.uint8)
    radius = 1 + round(MARGIN * height)
    near = cv2.dilate(occupied, np.ones((2 * radius + 1, 2 * radius + 1), np.uint8))
    return np.asarray(grey, np.float32), np.asarray(near == 0, np.bool_)


def _level(grey: NDArray[np.float32], background: NDArray[np.bool_]) -> _Level:
    """The background points with the strongest gradients; a plain background has none."""
    height = len(grey)
    down, across = (np.asarray(part, np.float64) for part in np.gradient(grey))
    strength = np.where(background, np.hypot(across, down), 0.0)
    strength[[0, -1]] = strength[:, [0, -1]] = 0.0
    order = np.argsort(strength, axis=None)[::-1][: min(MAX_POINTS, strength.size // 4)]
    rows, columns = np.unravel_index(order[strength.flat[order] > 2.0], strength.shape)
    points = np.stack([columns + 0.5, rows + 0.5], 1) / height
    u, v = points.T
    gx, gy = across[rows, columns] * height, down[rows, columns] * height  # grey levels per picture height
    jacobian = np.stack([gx * u + gy * v, gy * u - gx * v, gx, gy], 1)
    gradient = float(np.median(strength[rows, columns])) if len(rows) else 0.0
    return _Level(height, points, np.asarray(grey[rows, columns], np.float64), jacobian, gradient)


def _align(
    key: list[_Level], pyramid: list[_GreyAndBackground], start: Floats
) -> tuple[Floats | None, float, float]:
    """Align a frame with the key frame, from the transform `start` (3, 3).

    Returns:
        The transform (3, 3) from the key frame to this frame in picture heights, None if too few points are
        visible; the share of the key frame's points that are visible; the corner error (see `MAX_ERROR`).
    """
    transform, visible, error = start, 0.0, np.inf
    for level, (grey, background) in zip(key, pyramid, strict=True):
        for _ in range(MAX_STEPS):
            change, visible, error = _gauss_newton_step(level, grey, background, transform)
            if change is None:
                return None, visible, np.inf
            transform = transform @ np.linalg.inv(change)
            if np.abs(change - np.eye(3)).max() * level.height < 0.02:
                break
    return transform, visible, error


def _gauss_newton_step(
    level: _Level, grey: NDArray[np.float32], background: NDArray[np.bool_], transform: Floats
) -> tuple[Floats | None, float, float]:
    """One step of Gauss-Newton.

    Returns:
        The change (3, 3) of the key frame's points that explains the residual, None if too few points are
        visible; the share of visible points; the corner error (see `MAX_ERROR`).
    """
    import cv2

    at = (_homogeneous(level.points) @ transform.T)[:, :2] * level.height - 0.5
    column, row = np.rint(at).astype(int).T
    inside = (column >= 0) & (row >= 0) & (column < grey.shape[1]) & (row < len(grey))
    inside[inside] = background[row[inside], column[inside]]
    visible = float(np.mean(inside))
    if inside.sum() < 30:
        return None, visible, np.inf
    where: Any = at[inside].astype(np.float32)[:, None]
    none: Any = None
    now = cv2.remap(grey, where, none, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[:, 0]
    residual = now - level.grey[inside]
    residual = residual - np.median(residual)  # the brightness may change
    spread = 1.4826 * float(np.median(np.abs(residual))) + 0.5
    weights = np.clip(1 - (residual / (4.685 * spread)) ** 2, 0, None) ** 2
    jacobian = level.jacobian[inside]
    hessian = (jacobian * weights[:, None]).T @ jacobian + 1e-3 * np.eye(4)
    a, b, x, y = np.linalg.solve(hessian, (jacobian * weights[:, None]).T @ residual)
    change = np.array([[1 + a, -b, x], [b, 1 + a, y], [0, 0, 1.0]])
    variances = np.einsum("ki,ij,kj->k", CORNERS, np.linalg.inv(hessian), CORNERS)
    error = spread * np.sqrt(variances.max()) * level.height
    agreeing = float(np.mean(weights > 0))
    is_reliable = agreeing > 0.5 and spread < 0.8 * level.gradient
    return change, visible, float(error / (2 * agreeing - 1)) if is_reliable else np.inf


def _homogeneous(points: Floats) -> Floats:
    return np.concatenate([points, np.ones((len(points), 1))], 1)
