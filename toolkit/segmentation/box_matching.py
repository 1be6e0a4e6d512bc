"""Assigns boxes that a detector found in a few frames to characters, one to one."""

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

SAMPLES = 5
"""Frames of a clip that a detector searches."""
DUPLICATE_IOU = 0.6
"""Boxes with this IoU or more are duplicates."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Detections:
    """Boxes that a detector found in a frame.

    Attributes:
        boxes: (N, 4) left, top, right, bottom in pixels of the clip.
        scores: (N, characters), how well each box fits each character.
    """

    boxes: Array
    scores: Array


def sampled_frames(clip: Clip, count: int = SAMPLES) -> Iterator[tuple[int, Frames]]:
    """Yield the numbers and pictures of `count` evenly spaced frames, first and last included.

    Raises:
        CastmixError: The file has fewer frames than its json states.
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
            f"{clip.path} has {number + 1} readable frames, its json says {clip.num_frames}: "
            "prepare the clip again"
        )


def best_prompts(
    names: Sequence[str], found: Iterable[tuple[int, Detections]], min_score: float
) -> dict[str, Prompt]:
    """The highest-scoring box of each character over all frames, as a prompt by name.

    In each frame, boxes and characters are matched one to one so that the sum of scores is largest. A
    character that never reaches `min_score` is left out.

    Args:
        names: Names of the characters, in the order of `Detections.scores`.
        found: Frame numbers and the boxes found in those frames.
        min_score: Lowest score of a match.
    """
    best: dict[str, Prompt] = {}
    for number, detections in found:
        merged = merge_duplicates(detections)
        for column, box in assign(merged.scores, min_score).items():
            score, name = float(merged.scores[box, column]), names[column]
            if name not in best or score > best[name].score:
                left, top, right, bottom = (float(edge) for edge in merged.boxes[box])
                best[name] = Prompt(number, (left, top, right, bottom), score=score)
    return best


def merge_duplicates(found: Detections) -> Detections:
    """Merge boxes that overlap almost completely: the one with the highest score stays, with all maxima."""
    boxes, scores = found.boxes, found.scores.copy()
    kept: list[int] = []
    for i in np.argsort(-scores.max(1, initial=-np.inf), kind="stable"):
        duplicate_of = next((k for k in kept if box_iou(boxes[i], boxes[k]) >= DUPLICATE_IOU), None)
        if duplicate_of is None:
            kept.append(int(i))
        else:
            scores[duplicate_of] = np.maximum(scores[duplicate_of], scores[i])
    return Detections(boxes[kept], scores[kept])


def box_iou(a: Array, b: Array) -> float:
    """Intersection over union of two boxes (4,)."""
    width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    both = max(0.0, float(width)) * max(0.0, float(height))
    either = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - both
    return both / either if either > 0 else 0.0


def assign(scores: Array, min_score: float) -> dict[int, int]:
    """Match columns to rows of `scores` (rows, columns) one to one with the largest sum; exact.

    Returns:
        Row by column. Pairs below `min_score` are not matched; a column without a match is left out.
    """
    columns = scores.shape[1]
    # each column needs only its best rows, as many as there are columns
    choices = [
        [
            int(row)
            for row in np.argsort(-scores[:, k], kind="stable")[:columns]
            if scores[row, k] >= min_score
        ]
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
