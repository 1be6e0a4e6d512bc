"""Finds where a pasted character stands: one scale and one shift for the whole clip.

Character Mixing (arXiv 2510.05093) does not describe its placement. Here a pasted character gets about the
size and the ground line of the characters in the background. Among the possible positions the one with the
least occlusion is chosen. Positions are in pixels of the background's first frame, as if its camera did not
move.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from toolkit.compositing.camera_motion import Floats
from toolkit.compositing.character_track import CharacterTrack

MAX_SCALE = 1.5
"""A cut-out is enlarged at most this much; more would blur it."""
SHRINK = (1.0, 0.93, 0.86, 0.8)
"""Factors on the scale that are tried in this order until the character fits."""
GROW = (1.0, 1.08, 1.16, 1.25)
"""The same for a character cropped at the top, which must reach the top of the new picture."""
RELATIVE_SIZE = (0.9, 1.1)
"""Range of the character's size relative to a character in the background."""
RELATIVE_FOOT = (-0.04, 0.03)
"""Range of the character's ground line relative to theirs, in picture heights; negative is higher."""
LOWEST_FOOT = 0.98
"""Lowest ground line, in picture heights."""
POSITIONS = 25
"""Horizontal positions that are compared."""


@dataclass(frozen=True)
class Place:
    """Where and how large a character is pasted.

    Attributes:
        height: Smallest and largest height of the character, as shares of the picture's height. Used if no
            character of the background gives the size.
        foot: Highest and lowest ground line, as shares of the picture's height. Used likewise.
        overlap: Largest share of a character that another may cover, on average over the frames.
        outside: Largest share of the character's width outside the left or right edge of the picture, in any
            frame. With 0, walking characters rarely fit.
        flip: Mirror about half of the characters. Do not use it with writing or asymmetric looks.
    """

    height: tuple[float, float] = (0.35, 0.8)
    foot: tuple[float, float] = (0.72, 0.96)
    overlap: float = 0.2
    outside: float = 0.2
    flip: bool = False


@dataclass(frozen=True, eq=False)
class CharacterToPlace:
    """A character to paste.

    Attributes:
        track: Its track in its own clip.
        width: Of its own clip, in pixels.
        height: Likewise.
        cropped_bottom: The bottom edge crops it in its own clip, so it must reach that of the new picture.
        cropped_top: Likewise for the top edge.
    """

    track: CharacterTrack
    width: int
    height: int
    cropped_bottom: bool
    cropped_top: bool = False


@dataclass(frozen=True, eq=False)
class Placement:
    """A position of a pasted character.

    The point (x, y) of its own clip, mirrored first if `flip`, goes to (scale·x + dx, scale·y + dy).

    Attributes:
        scale, dx, dy, flip: The transform.
        track: The track in the composite.
        cost: How bad the placement is, 0 or more: occluded share + share outside the picture + |log scale|.
            The last term is there because resampled pixels look different from those around them, and a
            small character loses detail.
    """

    scale: float
    dx: int
    dy: int
    flip: bool
    track: CharacterTrack
    cost: float


def find_placement(
    character: CharacterToPlace,
    others: Sequence[CharacterTrack],
    views: Floats,
    settings: Place,
    overlap: float,
    rng: np.random.Generator,
) -> Placement | None:
    """A placement of a character, or None if it does not fit.

    Args:
        character: The character to paste.
        others: Tracks of the characters already in the picture.
        views: (F, 4), the rectangle that the camera shows in each frame (see `visible_area`).
        settings: Allowed sizes and positions.
        overlap: Wanted overlap with others; 0 searches for the least. The share outside the picture is
            minimised in addition.
        rng: Samples the size, the ground line, and one of the equally good positions.
    """
    height = float(views[0, 3] - views[0, 1])
    flip = bool(settings.flip and rng.random() < 0.5)
    track = character.track.mirrored(character.width) if flip else character.track
    wanted, foot = _wanted_scale_and_foot(track, others, height, settings, rng)
    among = rng.random()
    for change in GROW if character.cropped_top else SHRINK:
        scale = round(min(min(wanted, MAX_SCALE) * change, MAX_SCALE), 4)
        dy = _vertical_shift(character, track, scale, foot, views)
        shifts = _horizontal_shifts(character.cropped_top, track, scale, dy, views, settings)
        if shifts is None:
            continue
        boxes = track.moved(scale, 0, dy).boxes
        occluded = _overlaps(boxes, shifts, others)
        outside = _outside(boxes, shifts, views)
        loss = np.where(occluded <= settings.overlap, np.abs(occluded - overlap) + outside, np.inf)
        best = np.flatnonzero(loss <= loss.min() + 0.01)
        if np.isinf(loss.min()):
            continue
        chosen = best[int(among * len(best))]
        dx = int(shifts[chosen])
        cost = float(occluded[chosen] + outside[chosen]) + abs(float(np.log(scale)))
        return Placement(scale, dx, dy, flip, track.moved(scale, dx, dy), cost)
    return None


def visible_area(camera: Floats | None, count: int, height: int, width: int) -> Floats:
    """The rectangle that the camera shows in each frame, in pixels of the first frame: (count, 4).

    Left, top, right, bottom. If the camera rotates, this is an upright rectangle inside the rotated one.
    """
    still = np.array([0.0, 0.0, width, height])
    if camera is None:
        return np.repeat(still[None], count, 0)
    a, b, x, y = camera.T
    left, top = np.maximum(x, x - b * height), np.maximum(y, y + b * width)
    right = np.minimum(a * width + x, a * width - b * height + x)
    bottom = np.minimum(a * height + y, b * width + a * height + y)
    return np.stack([left, top, right, bottom], 1)


def _wanted_scale_and_foot(
    track: CharacterTrack,
    others: Sequence[CharacterTrack],
    height: float,
    settings: Place,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """The scale and the ground line to aim for, from the others if possible, else from the settings."""
    tall, foot = rng.uniform(*settings.height) * height, rng.uniform(*settings.foot) * height
    size, offset = rng.uniform(*RELATIVE_SIZE), rng.uniform(*RELATIVE_FOOT)
    wanted = tall / track.height
    if track.feet_visible and others:
        model = max(others, key=lambda other: (other.feet_visible, other.foot))
        wanted = min(model.size * size / track.size, settings.height[1] * height / track.height)
        if model.feet_visible:  # a character with hidden feet gives the size only
            foot = min(model.foot + offset * height, LOWEST_FOOT * height)
    return wanted, foot


def _vertical_shift(
    character: CharacterToPlace, track: CharacterTrack, scale: float, foot: float, views: Floats
) -> int:
    if character.cropped_bottom:
        return round(1.01 * float(views[0, 3] - views[0, 1]) - scale * character.height)
    dy = round(foot - scale * track.foot)
    # the bottom edge of the picture crops no character that is whole in its own clip
    return dy - max(0, int(np.ceil((scale * track.boxes[:, 3] + dy - views[:, 3]).max())))


def _horizontal_shifts(
    cropped_top: bool, track: CharacterTrack, scale: float, dy: int, views: Floats, settings: Place
) -> Floats | None:
    """The horizontal shifts to compare, whole pixels; None if the character does not fit at this scale."""
    height = float(views[0, 3] - views[0, 1])
    spare = settings.outside * (track.boxes[:, 2] - track.boxes[:, 0])
    low = np.ceil((views[:, 0] - scale * (track.boxes[:, 0] + spare)).max())
    high = np.floor((views[:, 2] - scale * (track.boxes[:, 2] - spare)).min())
    if cropped_top:
        does_not_fit = (dy > views[:, 1] - 0.01 * height).any()
    else:
        does_not_fit = (scale * track.boxes[:, 1] + dy < views[:, 1]).any()
    if low > high or does_not_fit:
        return None
    return np.unique(np.round(np.linspace(float(low), float(high), POSITIONS)))


def _overlaps(boxes: Floats, shifts: Floats, others: Sequence[CharacterTrack]) -> Floats:
    """The overlap of the character with the others for each horizontal shift, (len(shifts),).

    The overlap with one other is the intersection as a share of the smaller box. In each frame the largest
    counts; the result is the mean over frames.
    """
    worst = np.zeros((len(shifts), len(boxes)))
    for other in others:
        left, top, right, bottom = other.boxes.T
        shared = np.minimum(boxes[:, 3], bottom) - np.maximum(boxes[:, 1], top)
        across = np.minimum(boxes[None, :, 2] + shifts[:, None], right) - np.maximum(
            boxes[None, :, 0] + shifts[:, None], left
        )
        smaller = np.minimum(_area(boxes), _area(other.boxes))
        overlap = np.maximum(across, 0) * np.maximum(shared, 0) / smaller
        worst = np.maximum(worst, np.nan_to_num(overlap))
    return np.asarray(worst.mean(1))


def _outside(boxes: Floats, shifts: Floats, views: Floats) -> Floats:
    """Mean share of the character's width outside the picture for each horizontal shift."""
    left, right = (boxes[None, :, side] + shifts[:, None] for side in (0, 2))
    out = np.maximum(views[:, 0] - left, 0) + np.maximum(right - views[:, 2], 0)
    return np.asarray((out / np.maximum(right - left, 1.0)).mean(1))


def _area(boxes: Floats) -> Floats:
    return np.maximum((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), 1.0)
