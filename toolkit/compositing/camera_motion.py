"""How the camera moves in a clip, seen from the picture outside the characters.

Every frame is laid on a key frame by a similarity: Gauss-Newton on the grey levels of a few thousand points
with strong gradients (Baker and Matthews, "Lucas-Kanade 20 Years On", IJCV 2004, inverse compositional), from
coarse to fine, with Tukey weights, so that what moves by itself does not count (Odobez and Bouthemy, JVCIR
1995). Flat cartoon scenes have too few corners for feature points; edges are enough for this.

Places are in continuous pixels: pixel i covers i to i + 1. A similarity is four numbers (a, b, x, y) and
takes the point (u, v) to (a·u - b·v + x, b·u + a·v + y).
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
_Small = tuple[NDArray[np.float32], NDArray[np.bool_]]

HEIGHTS = (30, 60, 120)
"""Heights of the pictures that are laid on each other, coarse to fine."""
POINTS = 3000
STEPS = 12
CLEAR = 0.03
"""How far a point must be from everybody, in picture heights."""
SURE = 0.045
"""Largest standard error of a corner's place that counts as told, in pixels of the finest picture, more where
many points do not agree. Neighbouring points share their noise: the true error is a few times larger."""
CORNERS = np.array([[0.0, 0, 1, 0], [0, 0, 0, 1], [1.5, -1, 1, 0], [1, 1.5, 0, 1]])
"""How the four numbers move the upper left and lower right corner of a picture 1.5 wide, across and down."""
NEW_KEY, SAME_VIEW = 0.7, 0.97
"""With a smaller share of its points in sight, a key frame is replaced; and earlier where near and far move
apart, which is when doubt grows as the view changes."""

TOLD = 0.9
"""Share of a moving camera's frames in which its movement must be known."""
DRIFT = 0.01
"""A camera that takes no corner of the picture further, in picture heights, stands still."""
ZOOM = 1.6
"""How much larger or smaller a moving camera may make things."""


@dataclass(frozen=True, eq=False)
class Movement:
    """How the camera of a clip moves.

    Attributes:
        speed: Median speed of the background's points over all steps, in picture heights a second.
        path: (F, 4), the similarity from each frame to the first, in pixels of the clip.
        told: Share of the frames whose similarity could be told. A background without any edge, a plain
            colour, has 1: nothing in it can be seen to move.
    """

    speed: float
    path: Floats
    told: float


@dataclass(frozen=True, eq=False)
class _Level:
    """Points of a key frame at one size: places (N, 2) in picture heights, their grey, what they answer to a
    change of the similarity (N, 4), and their median gradient in levels a pixel.
    """

    height: int
    places: Floats
    grey: Floats
    answers: Floats
    gradient: float


def matrices(path: Floats) -> Floats:
    """Similarities (..., 4) as matrices (..., 3, 3)."""
    a, b, x, y = np.moveaxis(np.asarray(path, np.float64), -1, 0)
    zero, one = np.zeros_like(a), np.ones_like(a)
    rows = [[a, -b, x], [b, a, y], [zero, zero, one]]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def follow(pictures: Iterable[tuple[Grey, Grey]], fps: float) -> Movement:
    """The camera's movement from pairs (grey picture, where somebody is: not 0), both (H, W), one a frame."""
    base, view = np.eye(3), np.eye(3)  # of the key frame to the first; of points of the key frame to this one
    path, speeds, told = [np.eye(3)], [], [True]
    key: list[_Level] = []
    height, plain = 1, True
    for number, (picture, hidden) in enumerate(pictures):
        height = len(picture)
        pyramid = [_small(picture, hidden, size) for size in HEIGHTS]
        share, doubt = 0.0, np.inf
        if number:
            found, share, doubt = _lay(key, pyramid, view) if key else (None, 0.0, np.inf)
            if found is not None:
                places = _homogeneous(key[-1].places)
                speeds.append(float(np.median(np.linalg.norm((places @ (found - view).T)[:, :2], axis=1))))
                view = found
            path.append(base @ np.linalg.inv(view) if doubt <= SURE else path[-1])
            told.append(doubt <= SURE)
        if share < NEW_KEY or (share < SAME_VIEW and SURE / 2 < doubt <= SURE):
            base, view = path[-1], np.eye(3)
            key = [_level(*small) for small in pyramid]
            key = key if all(len(level.places) >= 50 for level in key) else []
            plain &= not key
    steps = np.stack(path)
    rows = [steps[:, 0, 0], steps[:, 1, 0], steps[:, 0, 2] * height, steps[:, 1, 2] * height]
    speed = float(np.median(speeds)) * fps if speeds else 0.0
    return Movement(speed, np.stack(rows, 1), 1.0 if plain else float(np.mean(told)))


def to_undo(camera: Movement, height: int, width: int, still: float, fastest: float) -> Floats | None:
    """The movement (F, 4) of a camera that is to be compensated; None where it stands still.

    `still` and `fastest` are those of `Choice`.

    Raises:
        CastmixError: It moves too fast or too far, or how it moves cannot be told.
    """
    if camera.speed > fastest:
        raise CastmixError(
            f"its camera moves by {camera.speed:.2f} picture heights a second, more than {fastest:g}: "
            "see --choice.fastest"
        )
    if camera.told < TOLD:
        if camera.speed <= still:
            return None
        raise CastmixError(
            f"its camera moves, and how can be told in {camera.told:.0%} of the frames only, "
            f"less than {TOLD:.0%}"
        )
    corners = np.array([[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]])
    moved = matrices(camera.path) @ corners - corners
    if np.hypot(moved[:, 0], moved[:, 1]).max() <= DRIFT * height:
        return None
    scales = np.hypot(camera.path[:, 0], camera.path[:, 1])
    if scales.max() / scales.min() > ZOOM:
        raise CastmixError(f"its camera zooms {scales.max() / scales.min():.2f} times, more than {ZOOM:g}")
    return camera.path


def _small(picture: Grey, hidden: Grey, height: int) -> _Small:
    """The picture at a height, and where it shows background, well clear of everybody."""
    import cv2

    size = (max(8, round(picture.shape[1] * height / len(picture))), height)
    way = cv2.INTER_AREA if len(picture) > height else cv2.INTER_LINEAR
    grey = cv2.GaussianBlur(cv2.resize(picture, size, interpolation=way).astype(np.float32), (0, 0), 0.8)
    somebody = (cv2.resize(hidden, size, interpolation=cv2.INTER_AREA) > 0).astype(np.uint8)
    reach = 1 + round(CLEAR * height)
    near = cv2.dilate(somebody, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    return np.asarray(grey, np.float32), np.asarray(near == 0, np.bool_)


def _level(grey: NDArray[np.float32], free: NDArray[np.bool_]) -> _Level:
    """The background's points with the strongest gradients, of which there may be none."""
    height = len(grey)
    down, across = (np.asarray(part, np.float64) for part in np.gradient(grey))
    strength = np.where(free, np.hypot(across, down), 0.0)
    strength[[0, -1]] = strength[:, [0, -1]] = 0.0
    order = np.argsort(strength, axis=None)[::-1][: min(POINTS, strength.size // 4)]
    rows, columns = np.unravel_index(order[strength.flat[order] > 2.0], strength.shape)
    places = np.stack([columns + 0.5, rows + 0.5], 1) / height
    u, v = places.T
    gx, gy = across[rows, columns] * height, down[rows, columns] * height  # levels a picture height
    answers = np.stack([gx * u + gy * v, gy * u - gx * v, gx, gy], 1)
    gradient = float(np.median(strength[rows, columns])) if len(rows) else 0.0
    return _Level(height, places, np.asarray(grey[rows, columns], np.float64), answers, gradient)


def _lay(key: list[_Level], pyramid: list[_Small], view: Floats) -> tuple[Floats | None, float, float]:
    """The way (3, 3) from the key frame's places to this frame's; None where too little is seen.

    And the share of the key frame's points that are seen, and how far off the way may be (see `SURE`).
    """
    share, doubt = 0.0, np.inf
    for level, (grey, free) in zip(key, pyramid, strict=True):
        for _ in range(STEPS):
            change, share, doubt = _step(level, grey, free, view)
            if change is None:
                return None, share, np.inf
            view = view @ np.linalg.inv(change)
            if np.abs(change - np.eye(3)).max() * level.height < 0.02:
                break
    return view, share, doubt


def _step(
    level: _Level, grey: NDArray[np.float32], free: NDArray[np.bool_], view: Floats
) -> tuple[Floats | None, float, float]:
    """One step of Gauss and Newton: the change of the key frame's points that explains what differs.

    And the share of points that are seen, and how far off a corner may be (see `SURE`).
    """
    import cv2

    at = (_homogeneous(level.places) @ view.T)[:, :2] * level.height - 0.5
    column, row = np.rint(at).astype(int).T
    inside = (column >= 0) & (row >= 0) & (column < grey.shape[1]) & (row < len(grey))
    inside[inside] = free[row[inside], column[inside]]
    share = float(np.mean(inside))
    if inside.sum() < 30:
        return None, share, np.inf
    where: Any = at[inside].astype(np.float32)[:, None]
    none: Any = None
    now = cv2.remap(grey, where, none, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[:, 0]
    off = now - level.grey[inside]
    off = off - np.median(off)  # the light may change
    spread = 1.4826 * float(np.median(np.abs(off))) + 0.5
    weights = np.clip(1 - (off / (4.685 * spread)) ** 2, 0, None) ** 2
    answers = level.answers[inside]
    normal = (answers * weights[:, None]).T @ answers + 1e-3 * np.eye(4)
    a, b, x, y = np.linalg.solve(normal, (answers * weights[:, None]).T @ off)
    change = np.array([[1 + a, -b, x], [b, 1 + a, y], [0, 0, 1.0]])
    errors = np.einsum("ki,ij,kj->k", CORNERS, np.linalg.inv(normal), CORNERS)
    error = spread * np.sqrt(errors.max()) * level.height
    agree = float(np.mean(weights > 0))
    told = agree > 0.5 and spread < 0.8 * level.gradient
    return change, share, float(error / (2 * agree - 1)) if told else np.inf


def _homogeneous(places: Floats) -> Floats:
    return np.concatenate([places, np.ones((len(places), 1))], 1)
