"""What planning needs to know of a clip: where everybody is, how the camera moves, when frames are shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.compositing.camera_motion import Floats, Movement


@dataclass(frozen=True, eq=False)
class Figure:
    """A character's mask in a clip.

    Attributes:
        path: The mask's file.
        fingerprint: Of its content.
        boxes: (F, 4) left, top, right, bottom in pixels; NaN in frames without the character.
        area: (F,), the share of the picture that it covers.
        touches: Share of the frames in which it touches the left, top, right, bottom border.
        stump: Share of the frames in which the lower border cuts through it, not only its feet.
        ground: Where it stands in the first frame, in pixels from the top, if a truth beside the source
            tells: who floats is above it.
    """

    path: Path
    fingerprint: str
    boxes: Floats
    area: Floats
    touches: tuple[float, float, float, float]
    stump: float
    ground: float | None = None


@dataclass(frozen=True, eq=False)
class Facts:
    """What is known of a video.

    Attributes:
        fingerprint: Of its content.
        height: Of the upright picture with square pixels.
        width: Likewise.
        times: (F,), when each frame is shown, in seconds after the first.
        camera: How the camera moves.
        bare: Share of the picture that nobody hides in some frame.
        figures: Those with accepted masks, by name.
    """

    fingerprint: str
    height: int
    width: int
    times: Floats
    camera: Movement
    bare: float
    figures: Mapping[str, Figure]

    @property
    def seconds(self) -> float:
        """How long it is shown: to the end of its last frame."""
        count = len(self.times)
        return float(self.times[-1] * count / (count - 1)) if count > 1 else 0.0

    def at(self, times: Floats) -> NDArray[np.intp]:
        """The frames that are shown at these times (seconds after the first frame)."""
        return np.maximum(np.searchsorted(self.times, np.asarray(times) + 1e-4, side="right") - 1, 0)


def to_row(facts: Facts) -> dict[str, Any]:
    """Facts as JSON, but for the files of the masks."""
    figures = {
        name: {
            "fingerprint": one.fingerprint,
            "boxes": [None if np.isnan(box[0]) else [int(side) for side in box] for box in one.boxes],
            "area": [round(float(area), 5) for area in one.area],
            "touches": [round(share, 4) for share in one.touches],
            "stump": round(one.stump, 4),
            "ground": one.ground,
        }
        for name, one in facts.figures.items()
    }
    camera = facts.camera
    path = [[round(a, 6), round(b, 6), round(x, 3), round(y, 3)] for a, b, x, y in camera.path.tolist()]
    return {
        "fingerprint": facts.fingerprint,
        "height": facts.height,
        "width": facts.width,
        "times": [round(float(time), 6) for time in facts.times],
        "camera": {"speed": round(camera.speed, 5), "told": round(camera.told, 4), "path": path},
        "bare": round(facts.bare, 5),
        "figures": figures,
    }


def from_row(row: Mapping[str, Any], masks: Mapping[str, Path]) -> Facts:
    """The inverse of `to_row`; `masks` are the files by name."""
    figures = {}
    for name, path in masks.items():
        one = row["figures"][name]
        boxes = np.asarray([box or [np.nan] * 4 for box in one["boxes"]], float)
        left, top, right, bottom = one["touches"]
        figures[name] = Figure(
            path,
            one["fingerprint"],
            boxes,
            np.asarray(one["area"]),
            (left, top, right, bottom),
            one["stump"],
            one["ground"],
        )
    camera = row["camera"]
    movement = Movement(camera["speed"], np.asarray(camera["path"], float), camera["told"])
    times = np.asarray(row["times"], float)
    return Facts(row["fingerprint"], row["height"], row["width"], times, movement, row["bare"], figures)
