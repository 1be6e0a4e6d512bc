"""Is a mask good enough? Numbers that need no truth, and the limits that they must keep.

All numbers are of one character's mask through one clip. A frame counts as with the character where the mask
covers at least `SEEN` of the picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.segmentation.mask_iou import Mask, as_bool, region_iou

SEEN = 0.0005
"""The least share of the picture that is a character and not a speck."""

LEAVING = 0.02
"""A mask that touches the picture's edge with so much of the edge's length is leaving, not lost."""


@dataclass(frozen=True)
class Gates:
    """What a mask must keep to be accepted.

    Attributes:
        min_area: Least share of the picture, median over the frames with the character.
        max_area: Largest share of the picture in any frame.
        max_border: Largest share of frames in which the mask touches the left, right or upper edge.
        min_iou: Least overlap with the frame before once both masks are centred, mean over the clip.
        max_flicker: Pixels that come or go for a single frame, as a share of the mask; mean over the clip.
        max_jump: Longest way of the mask's centre between two frames, in widths of the mask (the root of the
            larger one's area).
        max_lost: Largest share of frames without the character.
        max_vanished: How often the mask may go away without leaving through an edge of the picture.
        max_reentries: How often the character may come back after frames without it.
        max_shared: Largest share of frames in which half of the smaller mask is also another character's.
    """

    min_area: float = 0.01
    max_area: float = 0.6
    max_border: float = 0.5
    min_iou: float = 0.6
    max_flicker: float = 0.15
    max_jump: float = 0.75
    max_lost: float = 0.2
    max_vanished: int = 0
    max_reentries: int = 1
    max_shared: float = 0.1


@dataclass
class _Track:
    """What is remembered of one character's mask while the frames go by."""

    before: list[NDArray[np.bool_]] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)
    ious: list[float] = field(default_factory=list)
    jumps: list[float] = field(default_factory=list)
    flicker: float = 0.0
    border: int = 0
    bottom: int = 0
    vanished: int = 0
    reentries: int = 0
    shared: int = 0


def measure_quality(frames: Iterable[Mapping[str, Mask]]) -> dict[str, dict[str, float]]:
    """Numbers of every character's mask, by name, from all masks of each frame, frame by frame.

    area_min, area_median and area_max are shares of the picture over the frames with the character, `bottom`
    is the share of those that touch the lower edge; the others are what `Gates` limits.
    """
    tracks: dict[str, _Track] = {}
    for masks in frames:
        now = {name: as_bool(mask) for name, mask in masks.items()}
        for name, mask in now.items():
            track = tracks.setdefault(name, _Track())
            _follow(track, mask)
            others = (other for whose, other in now.items() if whose != name)
            track.shared += any(_is_shared(mask, other) for other in others)
    return {name: _summary(track) for name, track in tracks.items()}


def judge(quality: Mapping[str, float], gates: Gates) -> list[str]:
    """Why a mask is not accepted, one reason for each limit that it breaks; [] is fine."""
    if quality["lost"] == 1:
        return ["lost 1: no frame has the character"]
    limits = (
        ("area_median", gates.min_area, 1),
        ("area_max", gates.max_area, -1),
        ("border", gates.max_border, -1),
        ("iou", gates.min_iou, 1),
        ("flicker", gates.max_flicker, -1),
        ("jump", gates.max_jump, -1),
        ("lost", gates.max_lost, -1),
        ("vanished", gates.max_vanished, -1),
        ("reentries", gates.max_reentries, -1),
        ("shared", gates.max_shared, -1),
    )
    return [
        f"{name} {quality[name]:g} is {'below' if sign > 0 else 'above'} {limit:g}"
        for name, limit, sign in limits
        if sign * quality[name] < sign * limit
    ]


def is_struck(record: Mapping[str, Any]) -> bool:
    """Whether a person has struck a mask out: its record says not accepted, and no reason."""
    return not record.get("accepted", True) and not record.get("reasons")


def with_verdict(record: dict[str, Any], gates: Gates) -> dict[str, Any]:
    """The record of a mask with the verdict of these gates.

    Unless a person has changed `accepted`, or the mask has no numbers: those of composites are known exactly.
    """
    if "quality" not in record or ("accepted" in record and record["accepted"] == bool(record["reasons"])):
        return record
    reasons = judge(record["quality"], gates)
    return record | {"accepted": not reasons, "reasons": reasons}


def _follow(track: _Track, mask: NDArray[np.bool_]) -> None:
    """Add one frame."""
    area = float(mask.mean())
    was = track.before[-1] if track.before else None
    if area < SEEN:
        gone = was is not None and track.areas[-1] >= SEEN
        track.vanished += gone and was is not None and not _is_leaving(was)
        mask = np.zeros_like(mask)
    else:
        track.border += max(mask[0].sum(), mask[:, 0].sum(), mask[:, -1].sum()) > 0
        track.bottom += bool(mask[-1].any())
        if track.areas and track.areas[-1] < SEEN:
            track.reentries += any(before >= SEEN for before in track.areas)
        elif was is not None:
            way = _centre(mask) - _centre(was)
            track.ious.append(region_iou(_moved(was, np.round(way).astype(int)), mask))
            track.jumps.append(float(np.hypot(*way)) / math.sqrt(max(mask.sum(), was.sum())))
    if len(track.before) == 2:
        blinks = (track.before[0] == mask) & (track.before[1] != mask)
        track.flicker += np.count_nonzero(blinks) / mask.size
    track.areas.append(area)
    track.before = [*track.before[-1:], mask]


def _summary(track: _Track) -> dict[str, float]:
    areas = np.asarray(track.areas)
    seen = areas[areas >= SEEN]
    count = max(len(seen), 1)
    numbers = {
        "area_min": seen.min() if len(seen) else 0,
        "area_median": np.median(seen) if len(seen) else 0,
        "area_max": seen.max() if len(seen) else 0,
        "border": track.border / count,
        "bottom": track.bottom / count,
        "iou": np.mean(track.ious) if track.ious else 1,
        "flicker": track.flicker / areas.sum() if areas.any() else 0,
        "jump": max(track.jumps, default=0),
        "lost": 1 - len(seen) / len(areas),
        "vanished": track.vanished,
        "reentries": track.reentries,
        "shared": track.shared / count,
    }
    return {name: round(float(number), 4) for name, number in numbers.items()}


def _is_shared(mask: NDArray[np.bool_], other: NDArray[np.bool_]) -> bool:
    smaller = min(int(mask.sum()), int(other.sum()))
    return smaller >= SEEN * mask.size and 2 * int((mask & other).sum()) > smaller


def _is_leaving(mask: NDArray[np.bool_]) -> bool:
    edges: Sequence[NDArray[np.bool_]] = (mask[0], mask[-1], mask[:, 0], mask[:, -1])
    return any(edge.mean() >= LEAVING for edge in edges)


def _centre(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean row and column of a mask that is not empty."""
    return np.asarray(
        [np.average(np.arange(mask.shape[axis]), weights=mask.sum(1 - axis)) for axis in (0, 1)]
    )


def _moved(mask: NDArray[np.bool_], shift: NDArray[np.int_]) -> NDArray[np.bool_]:
    """The mask moved down and right by `shift`; what comes in from outside is empty."""
    moved = np.zeros_like(mask)
    (down, right), (height, width) = (int(s) for s in shift), mask.shape
    moved[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = mask[
        max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)
    ]
    return moved
