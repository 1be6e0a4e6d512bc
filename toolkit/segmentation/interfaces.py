"""Types shared by detectors, trackers and `castmix segment`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.captions.cast import Cast, Character
from toolkit.footage.clips import Clip


@dataclass(frozen=True)
class Prompt:
    """The position of a character in one frame: a box, points, or both, in pixels of the clip.

    Attributes:
        frame: Index of the frame.
        box: Left, top, right, bottom; right and bottom are exclusive.
        points: x, y, and whether the point is positive (on the character) or negative (not on it).
        score: Confidence of the detector, higher is better; 1 for manual prompts.
    """

    frame: int
    box: tuple[float, float, float, float] | None = None
    points: tuple[tuple[float, float, bool], ...] = ()
    score: float = 1.0

    def as_row(self) -> dict[str, Any]:
        """The prompt as in a clip's json and in a file of prompts (see `manual_prompts`)."""
        row: dict[str, Any] = {"frame": self.frame, "score": round(self.score, 4)}
        if self.box is not None:
            row["box"] = [round(edge, 2) for edge in self.box]
        if self.points:
            row["points"] = [
                [round(x, 2), round(y, 2), float(is_positive)] for x, y, is_positive in self.points
            ]
        return row


StoreMask = Callable[[int, str, NDArray[np.uint8]], None]
"""Takes a frame index, a character's name and its mask in that frame: (H, W) of the clip, 0 to 255."""

Propagate = Callable[[Clip, Mapping[str, Prompt], StoreMask], None]
"""Tracks all prompted characters through a clip.

It stores exactly one mask per frame and character, in any order of frames.
"""

Detect = Callable[[Clip, Sequence[Character]], dict[str, Prompt]]
"""Finds characters in a clip, each in the frame where it is found best.

No box is assigned to two characters. Characters that are not found are left out.
"""


@dataclass(frozen=True)
class Options:
    """Options of detectors and trackers. Each uses only some of them.

    Attributes:
        checkpoint: The SAM 2 model: a folder, the hub id of a downloaded model, or "sandbox".
        detector: The open-vocabulary model: a folder or a hub id. Default: the detector's own model.
        device: Device of the models: cpu, cuda, cuda:1. Default: a GPU if there is one.
        cast: The characters that captions and prompts may name.
        prompts: A file of prompts, for the detector "given".
    """

    checkpoint: str
    detector: str | None
    device: str | None
    cast: Cast
    prompts: Path | None = None
