"""A character's position and size over time, with the camera motion removed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from toolkit.compositing.camera_motion import Floats, matrices
from toolkit.compositing.clip_facts import Facts, MaskFacts

MAX_FEET_CUT = 0.1
"""The feet count as visible if they are cut off in at most this share of the frames."""


@dataclass(frozen=True, eq=False)
class CharacterTrack:
    """A character in a clip, in pixels of the clip's first frame, as if the camera did not move.

    Attributes:
        boxes: (F, 4) left, top, right, bottom; NaN in frames without the character.
        foot: y of the line that the character stands on.
        height: Median height.
        size: Side of a square with the character's usual area. It depends less on the pose than the height.
        feet_visible: Whether the feet are inside the picture.
    """

    boxes: Floats
    foot: float
    height: float
    size: float
    feet_visible: bool

    def at(self, frames: NDArray[np.intp]) -> CharacterTrack:
        """The track with these frames only."""
        return replace(self, boxes=self.boxes[frames])

    def moved(self, scale: float, x: float, y: float) -> CharacterTrack:
        """The track after scaling and then shifting by (x, y)."""
        boxes = scale * self.boxes + np.array([x, y, x, y])
        return CharacterTrack(
            boxes, scale * self.foot + y, scale * self.height, scale * self.size, self.feet_visible
        )

    def mirrored(self, width: float) -> CharacterTrack:
        """The track in the mirror image of a picture of this width."""
        left, top, right, bottom = self.boxes.T
        return replace(self, boxes=np.stack([width - right, top, width - left, bottom], 1))


def character_track(mask: MaskFacts, facts: Facts, camera: Floats | None) -> CharacterTrack:
    """The track of a character from its mask; `camera` (F, 4) is the motion to remove, None if static."""
    boxes, sides = mask.boxes, np.sqrt(mask.area * facts.height * facts.width)
    if camera is not None:
        left, top, right, bottom = boxes.T
        corners = np.stack([[left, right, left, right], [top, top, bottom, bottom], np.ones((4, len(boxes)))])
        x, y, _ = np.einsum("fij,jcf->icf", matrices(camera), corners)
        boxes = np.stack([x.min(0), y.min(0), x.max(0), y.max(0)], 1)
        sides = sides * np.hypot(camera[:, 0], camera[:, 1])
    seen = np.isfinite(boxes[:, 0])
    foot = mask.ground if mask.ground is not None else float(np.percentile(boxes[seen, 3], 90))
    height = float(np.median(boxes[seen, 3] - boxes[seen, 1]))
    size = float(np.percentile(sides[seen], 75))
    return CharacterTrack(boxes, foot, height, size, mask.feet_cut <= MAX_FEET_CUT)
