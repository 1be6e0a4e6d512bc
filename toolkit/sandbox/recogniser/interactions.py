"""Which interaction a clip shows: both roles are played, by creatures who are where the deed needs them.

A bump without touch, or a chase after somebody who runs behind, is none.
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
"""Left, top, right, bottom in pixels, (F, 4); nan where unseen."""

TOUCH = 5.0
"""Pixels between two boxes that still touch: outlines are blurred. True bumps have 0, others 9 and more."""
ABOVE = 12.0
"""Pixels that a rider's middle may be beside its carrier's. True rides have 2."""


def together(creatures: Sequence[Creature]) -> str:
    """Key of `actions.INTERACTIONS`, or ""."""
    for name, (first, second) in INTERACTIONS.items():
        for one in creatures:
            for other in creatures:
                if (one.action, other.action) == (first, second) and fits(name, one.boxes, other.boxes):
                    return name
    return ""


def fits(name: str, first: Boxes, second: Boxes) -> bool:
    """Whether two creatures are where this interaction needs the players of its two roles."""
    both = np.isfinite(first).all(1) & np.isfinite(second).all(1)
    check = _WHERE.get(name)
    return check is None or (int(both.sum()) > 1 and check(first[both], second[both]))


def _chase(chaser: Boxes, runner: Boxes) -> bool:
    ahead = np.median(_middle(runner) - _middle(chaser))
    return bool(ahead * _way(runner) > 0)


def _bump(bumper: Boxes, faller: Boxes) -> bool:
    gap = np.maximum(bumper[:, 0], faller[:, 0]) - np.minimum(bumper[:, 2], faller[:, 2])
    toward = _middle(faller)[0] - _middle(bumper)[0]
    return bool(gap.min() <= TOUCH and toward * _way(bumper) > 0)


def _ride(rider: Boxes, carrier: Boxes) -> bool:
    return bool(np.median(np.abs(_middle(rider) - _middle(carrier))) <= ABOVE)


_WHERE: dict[str, Callable[[Boxes, Boxes], bool]] = {"chase": _chase, "bump": _bump, "ride": _ride}


def _middle(boxes: Boxes) -> NDArray[np.floating]:
    return np.asarray((boxes[:, 0] + boxes[:, 2]) / 2)


def _way(boxes: Boxes) -> float:
    """How far a creature goes to the right (negative: to the left) at its farthest from where it began."""
    x = _middle(boxes)
    return float((x - x[0])[np.argmax(np.abs(x - x[0]))])
