"""How hard the outlines of characters are: whether a model has learnt the cut-out's edge.

``python -m benchmarks.edges CLIPS...`` measures folders of captioned clips, to compare generated videos with.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from toolkit.sandbox.prompt_score import AskedContent, assign_creatures

if TYPE_CHECKING:
    from toolkit.sandbox.recogniser.verdict import Verdict

STEP = 24
"""Grey levels between two neighbours that count as part of an outline."""
FEWEST = 20
"""Steps that a character must have in all frames to be measured."""
RIM = 2
"""Pixels around a character's box that belong to it."""


def hardness(grey: NDArray[np.floating]) -> NDArray[np.float64]:
    """Of every outline's steepest step, how much of the way across it takes, 0 to 1, along both axes.

    `grey` is (H, W), 0 to 255. A step from one pixel to the next is compared with the way from one pixel
    before it to one after: 1 where all of the change is in one step, less on a soft edge.
    """
    found = []
    for picture in (grey, grey.T):
        steps = np.abs(np.diff(picture, axis=1))
        middle = steps[:, 1:-1]
        steepest = (middle >= STEP) & (middle >= steps[:, :-2]) & (middle >= steps[:, 2:])
        around = steps[:, :-2] + middle + steps[:, 2:]
        found.append(middle[steepest] / around[steepest])
    return np.concatenate(found)


def edges(frames: NDArray[np.uint8], verdict: Verdict, asked: AskedContent) -> dict[str, float | None]:
    """`native edge`, `foreign edge`: the mean hardness in the boxes of those asked for and seen.

    Foreign is who is not of the scene's style, and would have been pasted. None where nobody is measured.
    """
    grey = frames.mean(-1)
    found: dict[str, list[float]] = {"native edge": [], "foreign edge": []}
    for one, part in zip(assign_creatures(verdict.creatures, asked.creatures), asked.creatures, strict=True):
        if one is not None and part.style and asked.scene_style:
            values = _around(grey, one.boxes)
            if len(values) >= FEWEST:
                home = "native" if part.style == asked.scene_style else "foreign"
                found[f"{home} edge"].append(float(values.mean()))
    return {name: sum(values) / len(values) if values else None for name, values in found.items()}


def _around(grey: NDArray[np.floating], boxes: NDArray[np.floating]) -> NDArray[np.float64]:
    """Hardness of all outlines in boxes (F, 4) of frames (F, H, W); nan boxes are skipped."""
    parts = [np.empty(0)]
    for picture, box in zip(grey, boxes, strict=False):
        if np.isfinite(box).all():
            left, top, right, bottom = np.round(box).astype(int)
            parts.append(
                hardness(picture[max(0, top - RIM) : bottom + RIM, max(0, left - RIM) : right + RIM])
            )
    return np.concatenate(parts)


def main() -> None:
    """Print the mean hardness of each folder's characters, at home and pasted."""
    from toolkit.captions.cast import read_cast
    from toolkit.footage.clips import read_clips
    from toolkit.footage.video import read_video
    from toolkit.sandbox.prompt_score import parse_prompt
    from toolkit.sandbox.recogniser.recognise import load_recognisers, recognise_many

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", type=Path, nargs="+")
    cast = read_cast()
    for folder in parser.parse_args().clips:
        clips = read_clips(folder)
        frames = [read_video(clip.path)[0] for clip in clips]
        verdicts = recognise_many(load_recognisers(), frames)
        found = [
            edges(one, seen, parse_prompt(clip.text, cast))
            for clip, one, seen in zip(clips, frames, verdicts, strict=True)
        ]
        for name in ("native edge", "foreign edge"):
            values = [value for row in found if (value := row[name]) is not None]
            if values:
                print(f"{folder}: {name} {np.mean(values):.3f} ({len(values)} clips)")


if __name__ == "__main__":
    main()
