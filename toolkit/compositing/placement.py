"""Where in a picture who is pasted stands: one scale and one shift for the whole clip.

Character Mixing does not say how it places; here a newcomer is as large as those who are there, stands on
their line, and where it hides and is hidden least. All places are in pixels of the background's first frame,
its camera held still.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from toolkit.compositing.camera_motion import Floats
from toolkit.compositing.standing import Standing

ENLARGE = 1.5
"""A cut-out is not made larger than this: it would be blurred."""
SHRINK = (1.0, 0.93, 0.86, 0.8)
"""Who finds no room is made smaller in these steps."""
GROW = (1.0, 1.08, 1.16, 1.25)
"""And who must reach the top of the picture is made larger in these."""
LARGE = (0.9, 1.1)
"""How large a newcomer is, against who is there."""
LINE = (-0.04, 0.03)
"""How much higher or lower a newcomer stands than who is there, in picture heights."""
LOWEST = 0.98
"""The lowest line that anybody stands on, in picture heights."""
PLACES = 25


@dataclass(frozen=True)
class Place:
    """Where and how large somebody is pasted.

    Attributes:
        height: Shortest and tallest, as shares of the picture's height, where nobody who is there tells.
        foot: Highest and lowest line to stand on, likewise.
        overlap: The mean share of one character that another may hide.
        outside: The share of its width that may be out of the picture, at the left or right, in any frame.
            Who walks finds hardly any room otherwise.
        flip: Mirror every second character. Mind writing, and looks that have a left and a right.
    """

    height: tuple[float, float] = (0.35, 0.8)
    foot: tuple[float, float] = (0.72, 0.96)
    overlap: float = 0.2
    outside: float = 0.2
    flip: bool = False


@dataclass(frozen=True, eq=False)
class Newcomer:
    """Who is to be pasted, in pixels of its own clip of `width` x `height`.

    `cut`: it reaches the bottom of its picture, and must reach the new one's. `over`: likewise the top.
    """

    body: Standing
    width: int
    height: int
    cut: bool
    over: bool = False


@dataclass(frozen=True, eq=False)
class Stand:
    """Where it is pasted: (x, y) goes to (scale·x + dx, scale·y + dy), after mirroring if `flip`.

    `cost` is how far from a good place it is, 0 and more: the shares that are hidden and out of the picture,
    and |log scale|, since pixels that are resampled look unlike those around them, and who becomes small
    loses its looks.
    """

    scale: float
    dx: int
    dy: int
    flip: bool
    there: Standing
    cost: float


def find_place(
    who: Newcomer,
    others: Sequence[Standing],
    views: Floats,
    settings: Place,
    overlap: float,
    rng: np.random.Generator,
) -> Stand | None:
    """A place for a newcomer, or None if there is no room.

    Args:
        who: The newcomer.
        others: Everybody who is there and whose mask is known.
        views: (F, 4), the part of the first frame's picture that the camera shows in each frame.
        settings: What is allowed.
        overlap: The overlap to look for: 0 looks for the least. What is out of the picture counts, too.
        rng: Draws size, line and, among equally good places, the place.
    """
    height = float(views[0, 3] - views[0, 1])
    flip = bool(settings.flip and rng.random() < 0.5)
    body = who.body.mirrored(who.width) if flip else who.body
    tall, foot = rng.uniform(*settings.height) * height, rng.uniform(*settings.foot) * height
    size, line, among = rng.uniform(*LARGE), rng.uniform(*LINE), rng.random()
    wanted = tall / body.tall
    if body.whole and others:  # of one whose feet are hidden the size tells, and the line does not
        model = max(others, key=lambda other: (other.whole, other.foot))
        wanted = min(model.size * size / body.size, settings.height[1] * height / body.tall)
        if model.whole:
            foot = min(model.foot + line * height, LOWEST * height)
    for change in GROW if who.over else SHRINK:
        scale = round(min(min(wanted, ENLARGE) * change, ENLARGE), 4)
        dy = round(1.01 * height - scale * who.height) if who.cut else round(foot - scale * body.foot)
        if not who.cut:  # nobody sinks below the picture
            dy -= max(0, int(np.ceil((scale * body.boxes[:, 3] + dy - views[:, 3]).max())))
        spare = settings.outside * (body.boxes[:, 2] - body.boxes[:, 0])
        low = np.ceil((views[:, 0] - scale * (body.boxes[:, 0] + spare)).max())
        high = np.floor((views[:, 2] - scale * (body.boxes[:, 2] - spare)).min())
        top = views[:, 1] - 0.01 * height
        wrong = (dy > top).any() if who.over else (scale * body.boxes[:, 1] + dy < views[:, 1]).any()
        if low > high or wrong:
            continue
        shifts = np.unique(np.round(np.linspace(float(low), float(high), PLACES)))
        hidden = _overlaps(body.moved(scale, 0, dy).boxes, shifts, others)
        away = _outside(body.moved(scale, 0, dy).boxes, shifts, views)
        off = np.where(hidden <= settings.overlap, np.abs(hidden - overlap) + away, np.inf)
        best = np.flatnonzero(off <= off.min() + 0.01)
        if np.isinf(off.min()):
            continue
        one = best[int(among * len(best))]
        dx = int(shifts[one])
        cost = float(hidden[one] + away[one]) + abs(float(np.log(scale)))
        return Stand(scale, dx, dy, flip, body.moved(scale, dx, dy), cost)
    return None


def visible(camera: Floats | None, count: int, height: int, width: int) -> Floats:
    """What a camera shows in each frame (count, 4), seen from its first frame."""
    still = np.array([0.0, 0.0, width, height])
    if camera is None:
        return np.repeat(still[None], count, 0)
    a, b, x, y = camera.T
    left, top = np.maximum(x, x - b * height), np.maximum(y, y + b * width)
    right = np.minimum(a * width + x, a * width - b * height + x)
    bottom = np.minimum(a * height + y, b * width + a * height + y)
    return np.stack([left, top, right, bottom], 1)


def _overlaps(boxes: Floats, shifts: Floats, others: Sequence[Standing]) -> Floats:
    """For each shift to the right the mean over frames of what the newcomer shares with the one it shares
    most with, as a part of the smaller one's box.
    """
    worst = np.zeros((len(shifts), len(boxes)))
    for other in others:
        left, top, right, bottom = other.boxes.T
        shared = np.minimum(boxes[:, 3], bottom) - np.maximum(boxes[:, 1], top)
        across = np.minimum(boxes[None, :, 2] + shifts[:, None], right) - np.maximum(
            boxes[None, :, 0] + shifts[:, None], left
        )
        own, its = _area(boxes), _area(other.boxes)
        part = np.maximum(across, 0) * np.maximum(shared, 0) / np.minimum(own, its)
        worst = np.maximum(worst, np.nan_to_num(part))
    return np.asarray(worst.mean(1))


def _outside(boxes: Floats, shifts: Floats, views: Floats) -> Floats:
    """For each shift to the right the mean share of the newcomer's width that is out of the picture."""
    left, right = (boxes[None, :, side] + shifts[:, None] for side in (0, 2))
    out = np.maximum(views[:, 0] - left, 0) + np.maximum(right - views[:, 2], 0)
    return np.asarray((out / np.maximum(right - left, 1.0)).mean(1))


def _area(boxes: Floats) -> Floats:
    return np.maximum((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), 1.0)
