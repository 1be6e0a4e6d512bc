"""Somebody in a picture: where it is, where it stands, how large it is."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from toolkit.compositing.camera_motion import Floats, matrices
from toolkit.compositing.clip_facts import Facts, Figure

STUMP = 0.1
"""Who shows no feet in a larger share of the frames is a stump."""


@dataclass(frozen=True, eq=False)
class Standing:
    """Somebody in a clip, in pixels of its first frame, the camera held still.

    Attributes:
        boxes: (F, 4) left, top, right, bottom; NaN where unseen.
        foot: The line that it stands on.
        tall: Its usual height.
        size: The side of a square of its usual area, which changes less with its pose than its height.
        whole: Its feet are in the picture.
    """

    boxes: Floats
    foot: float
    tall: float
    size: float
    whole: bool

    def at(self, frames: NDArray[np.intp]) -> Standing:
        """The same one in other frames."""
        return replace(self, boxes=self.boxes[frames])

    def moved(self, scale: float, x: float, y: float) -> Standing:
        """The same one after a change of scale and a shift."""
        boxes = scale * self.boxes + np.array([x, y, x, y])
        return Standing(boxes, scale * self.foot + y, scale * self.tall, scale * self.size, self.whole)

    def mirrored(self, width: float) -> Standing:
        """The same one in a mirrored picture of this width."""
        left, top, right, bottom = self.boxes.T
        return replace(self, boxes=np.stack([width - right, top, width - left, bottom], 1))


def standing(figure: Figure, facts: Facts, camera: Floats | None) -> Standing:
    """A character by its mask, as the first frame's camera would see it; `camera` (F, 4) is to be undone."""
    boxes, sides = figure.boxes, np.sqrt(figure.area * facts.height * facts.width)
    if camera is not None:
        left, top, right, bottom = boxes.T
        corners = np.stack([[left, right, left, right], [top, top, bottom, bottom], np.ones((4, len(boxes)))])
        x, y, _ = np.einsum("fij,jcf->icf", matrices(camera), corners)
        boxes = np.stack([x.min(0), y.min(0), x.max(0), y.max(0)], 1)
        sides = sides * np.hypot(camera[:, 0], camera[:, 1])
    seen = np.isfinite(boxes[:, 0])
    foot = figure.ground if figure.ground is not None else float(np.percentile(boxes[seen, 3], 90))
    tall = float(np.median(boxes[seen, 3] - boxes[seen, 1]))
    return Standing(boxes, foot, tall, float(np.percentile(sides[seen], 75)), figure.stump <= STUMP)
