"""Who is which box: boxes found in a few frames are given to characters, one to one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.core.errors import CastmixError
from toolkit.footage.clips import Clip
from toolkit.footage.decoding import Frames, VideoReader
from toolkit.segmentation.interfaces import Prompt

SAMPLES = 5  # frames of a clip that are looked at
SAME = 0.6  # from this IoU on, two boxes are one

Array = NDArray[Any]


@dataclass(frozen=True)
class Found:
    """What a detector found in a frame.

    `boxes` (N, 4) are left, top, right, bottom in pixels of the clip; `scores` (N, characters), how much each
    box looks like each character.
    """

    boxes: Array
    scores: Array


def sampled(clip: Clip, count: int = SAMPLES) -> Iterator[tuple[int, Frames]]:
    """`count` frames of a clip with their numbers, evenly spaced, the first and the last among them.

    Raises:
        CastmixError: The file ends before its json says so.
    """
    places = np.linspace(0, clip.num_frames - 1, min(count, clip.num_frames))
    wanted = set(places.round().astype(int).tolist())
    number = -1
    with VideoReader(clip.path) as reader:
        for number, frame in enumerate(reader):
            if number in wanted:
                yield number, frame.rgb()
    if number + 1 < clip.num_frames:
        raise CastmixError(
            f"{clip.path} has {number + 1} frames that can be read, its json says {clip.num_frames}: "
            "prepare it again"
        )


def best_prompts(names: Sequence[str], seen: Iterable[tuple[int, Found]], least: float) -> dict[str, Prompt]:
    """The box of each character in the frame where it scores most; who never reaches `least` is left out.

    In every frame, boxes and characters are matched one to one, so that the sum of scores is largest.
    """
    best: dict[str, Prompt] = {}
    for number, found in seen:
        merged = merge(found)
        for who, box in assign(merged.scores, least).items():
            score, name = float(merged.scores[box, who]), names[who]
            if name not in best or score > best[name].score:
                left, top, right, bottom = (float(edge) for edge in merged.boxes[box])
                best[name] = Prompt(number, (left, top, right, bottom), score=score)
    return best


def merge(found: Found) -> Found:
    """Boxes of the same thing become one: the surest stays, with the best scores of all."""
    boxes, scores = found.boxes, found.scores.copy()
    kept: list[int] = []
    for i in np.argsort(-scores.max(1, initial=-np.inf), kind="stable"):
        twin = next((k for k in kept if box_iou(boxes[i], boxes[k]) >= SAME), None)
        if twin is None:
            kept.append(int(i))
        else:
            scores[twin] = np.maximum(scores[twin], scores[i])
    return Found(boxes[kept], scores[kept])


def box_iou(a: Array, b: Array) -> float:
    """Intersection over union of two boxes (4,)."""
    width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    both = max(0.0, float(width)) * max(0.0, float(height))
    either = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - both
    return both / either if either > 0 else 0.0


def assign(scores: Array, least: float) -> dict[int, int]:
    """Columns to rows of `scores` (rows, columns), no row twice, so that the sum is largest; exact.

    Pairs below `least` do not count; a column without a row is left out.
    """
    columns = scores.shape[1]
    # of each column, the best rows, as many as there are columns: no better choice needs another
    choices = [
        [int(row) for row in np.argsort(-scores[:, k], kind="stable")[:columns] if scores[row, k] >= least]
        for k in range(columns)
    ]
    tops = [max((float(scores[row, k]) for row in rows), default=0.0) for k, rows in enumerate(choices)]
    best: tuple[float, dict[int, int]] = (0.0, {})

    def extend(k: int, total: float, taken: dict[int, int]) -> None:
        nonlocal best
        if total > best[0]:
            best = total, dict(taken)
        if k == columns or total + sum(max(0.0, top) for top in tops[k:]) <= best[0]:
            return
        for row in choices[k]:
            if row not in taken.values():
                extend(k + 1, total + float(scores[row, k]), taken | {k: row})
        extend(k + 1, total, taken)

    extend(0, 0.0, {})
    return best[1]
