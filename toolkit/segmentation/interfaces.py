"""What detectors, backends and the verb `segment` hand to each other."""

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
    """Where a character is in one frame, in pixels of the clip: a box, points, or both.

    Attributes:
        frame: Index of the frame.
        box: Left, top, right, bottom; the right and bottom edges lie outside.
        points: x, y, and whether the character is there (or something that is not the character).
        score: How sure the detector is, higher is surer; 1 where somebody knows.
    """

    frame: int
    box: tuple[float, float, float, float] | None = None
    points: tuple[tuple[float, float, bool], ...] = ()
    score: float = 1.0

    def as_row(self) -> dict[str, Any]:
        """The prompt in numbers alone, as in a clip's json; a file of prompts may have it so."""
        row: dict[str, Any] = {"frame": self.frame, "score": round(self.score, 4)}
        if self.box is not None:
            row["box"] = [round(edge, 2) for edge in self.box]
        if self.points:
            row["points"] = [[round(x, 2), round(y, 2), float(is_it)] for x, y, is_it in self.points]
        return row


Put = Callable[[int, str, NDArray[np.uint8]], None]
"""Takes a frame's index, a character's name and its mask there: (H, W) of the clip, 0..255."""

Propagate = Callable[[Clip, Mapping[str, Prompt], Put], None]
"""Follows all prompted characters of a clip: every frame of each is put once, in any order of frames."""

Detect = Callable[[Clip, Sequence[Character]], dict[str, Prompt]]
"""Finds characters in a clip, each in its best frame. One box is never two of them; who is not found is left
out."""


@dataclass(frozen=True)
class Options:
    """What a backend or a detector may need; each takes what it uses.

    Attributes:
        checkpoint: The SAM 2 model: a folder, a hub id that was fetched before, or "sandbox".
        detector: The open-vocabulary model: a folder or a hub id; none takes the detector's own choice.
        device: Where models run: cpu, cuda, cuda:1; none takes a GPU if there is one.
        cast: Whom the clips' captions may name.
        prompts: A file of prompts, for the detector "given".
    """

    checkpoint: str
    detector: str | None
    device: str | None
    cast: Cast
    prompts: Path | None = None
