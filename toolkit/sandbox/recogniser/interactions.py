"""Detects the interaction of a clip from the creatures' actions and positions.

An interaction needs two creatures with its two roles, in positions that fit it. A bump without contact or a
chase behind the chaser does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from toolkit.sandbox.world.actions import INTERACTIONS

if TYPE_CHECKING:
    from toolkit.sandbox.recogniser.verdict import Creature

Boxes = NDArray[np.floating]
"""Left, top, right, bottom in pixels, (F, 4); nan in frames where the creature is not seen."""

MAX_BUMP_GAP = 5.0
"""Largest gap between two boxes in a bump, in pixels. Outlines are blurred: true bumps have a gap of 0
pixels, others of 9 and more."""
MAX_RIDE_OFFSET = 12.0
"""Largest horizontal distance between the centres of rider and carrier, in pixels. True rides have 2."""


def detect_interaction(creatures: Sequence[Creature]) -> str:
    """Return the key of `actions.INTERACTIONS` that the creatures show, or ""."""
    for name, (first, second) in INTERACTIONS.items():
        for one in creatures:
            for other in creatures:
                if (one.action, other.action) == (first, second) and positions_fit(
                    name, one.boxes, other.boxes
                ):
                    return name
    return ""


def positions_fit(name: str, first: Boxes, second: Boxes) -> bool:
    """Return whether the boxes of the creatures with the first and second role fit this interaction."""
    both = np.isfinite(first).all(1) & np.isfinite(second).all(1)
    check = _POSITION_CHECKS.get(name)
    return check is None or (int(both.sum()) > 1 and check(first[both], second[both]))


def _chase(chaser: Boxes, runner: Boxes) -> bool:
    ahead = np.median(_centre_x(runner) - _centre_x(chaser))
    return bool(ahead * _displacement(runner) > 0)


def _bump(bumper: Boxes, faller: Boxes) -> bool:
    gap = np.maximum(bumper[:, 0], faller[:, 0]) - np.minimum(bumper[:, 2], faller[:, 2])
    toward = _centre_x(faller)[0] - _centre_x(bumper)[0]
    return bool(gap.min() <= MAX_BUMP_GAP and toward * _displacement(bumper) > 0)


def _ride(rider: Boxes, carrier: Boxes) -> bool:
    return bool(np.median(np.abs(_centre_x(rider) - _centre_x(carrier))) <= MAX_RIDE_OFFSET)


_POSITION_CHECKS: dict[str, Callable[[Boxes, Boxes], bool]] = {"chase": _chase, "bump": _bump, "ride": _ride}


def _centre_x(boxes: Boxes) -> NDArray[np.floating]:
    return np.asarray((boxes[:, 0] + boxes[:, 2]) / 2)


def _displacement(boxes: Boxes) -> float:
    """Return a creature's largest horizontal displacement from its start, in pixels (> 0: to the right)."""
    x = _centre_x(boxes)
    return float((x - x[0])[np.argmax(np.abs(x - x[0]))])
