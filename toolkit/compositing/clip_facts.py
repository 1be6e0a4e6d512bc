"""Facts about a clip that planning needs: character masks, camera motion, frame times.

`measure_clips` measures them. `to_row` and `from_row` convert them to JSON and back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.compositing.camera_motion import CameraMotion, Floats


@dataclass(frozen=True, eq=False)
class MaskFacts:
    """Facts about the mask of one character in a clip.

    Attributes:
        path: The mask file.
        fingerprint: Of the file's content.
        boxes: (F, 4) left, top, right, bottom in pixels; NaN in frames without the character.
        area: (F,), the covered share of the picture.
        touches: Share of the frames in which the mask touches the left, top, right and bottom edge of the
            picture.
        feet_cut: Share of the frames in which the bottom edge cuts through the body and hides the feet.
        ground: Ground line in the first frame, in pixels from the top, if ground truth beside the source
            gives it. A floating character is above it.
    """

    path: Path
    fingerprint: str
    boxes: Floats
    area: Floats
    touches: tuple[float, float, float, float]
    feet_cut: float
    ground: float | None = None


@dataclass(frozen=True, eq=False)
class Facts:
    """Facts about a video.

    Attributes:
        fingerprint: Of the file's content.
        height: Of the upright picture with square pixels, in pixels.
        width: Likewise.
        times: (F,), the time of each frame, in seconds after the first.
        camera: How the camera moves.
        uncovered: Share of the pixels that no character covers in at least one frame.
        masks: The accepted masks, by character name.
    """

    fingerprint: str
    height: int
    width: int
    times: Floats
    camera: CameraMotion
    uncovered: float
    masks: Mapping[str, MaskFacts]

    @property
    def seconds(self) -> float:
        """Duration in seconds, to the end of the last frame."""
        count = len(self.times)
        return float(self.times[-1] * count / (count - 1)) if count > 1 else 0.0

    def frames_at(self, times: Floats) -> NDArray[np.intp]:
        """Indices of the frames shown at these times (seconds after the first frame)."""
        return np.maximum(np.searchsorted(self.times, np.asarray(times) + 1e-4, side="right") - 1, 0)


def to_row(facts: Facts) -> dict[str, Any]:
    """Facts as JSON, without the paths of the masks."""
    figures = {
        name: {
            "fingerprint": mask.fingerprint,
            "boxes": [None if np.isnan(box[0]) else [int(side) for side in box] for box in mask.boxes],
            "area": [round(float(area), 5) for area in mask.area],
            "touches": [round(share, 4) for share in mask.touches],
            "stump": round(mask.feet_cut, 4),
            "ground": mask.ground,
        }
        for name, mask in facts.masks.items()
    }
    camera = facts.camera
    path = [[round(a, 6), round(b, 6), round(x, 3), round(y, 3)] for a, b, x, y in camera.trajectory.tolist()]
    return {
        "fingerprint": facts.fingerprint,
        "height": facts.height,
        "width": facts.width,
        "times": [round(float(time), 6) for time in facts.times],
        "camera": {"speed": round(camera.speed, 5), "told": round(camera.tracked, 4), "path": path},
        "bare": round(facts.uncovered, 5),
        "figures": figures,
    }


def from_row(row: Mapping[str, Any], paths: Mapping[str, Path]) -> Facts:
    """The inverse of `to_row`; `paths` are the mask files by character name."""
    masks = {}
    for name, path in paths.items():
        one = row["figures"][name]
        boxes = np.asarray([box or [np.nan] * 4 for box in one["boxes"]], float)
        left, top, right, bottom = one["touches"]
        masks[name] = MaskFacts(
            path,
            one["fingerprint"],
            boxes,
            np.asarray(one["area"]),
            (left, top, right, bottom),
            one["stump"],
            one["ground"],
        )
    camera = row["camera"]
    motion = CameraMotion(camera["speed"], np.asarray(camera["path"], float), camera["told"])
    times = np.asarray(row["times"], float)
    return Facts(row["fingerprint"], row["height"], row["width"], times, motion, row["bare"], masks)
