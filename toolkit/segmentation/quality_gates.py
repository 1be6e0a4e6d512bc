"""Measures the quality of masks without ground truth, and accepts or rejects them by limits ("gates").

All numbers are about the mask of one character in one clip. The character counts as present in a frame if
the mask covers at least `MIN_PRESENT` of the picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.segmentation.mask_iou import Mask, as_bool, region_iou

MIN_PRESENT = 0.0005
"""Share of the picture below which a mask is a speck, not a character."""

LEAVING = 0.02
"""A mask that covers this share of an edge of the picture is leaving through it, not vanishing."""


@dataclass(frozen=True)
class Gates:
    """Limits that a mask must keep to be accepted.

    Attributes:
        min_area: Smallest share of the picture, median over the frames with the character.
        max_area: Largest share of the picture in any frame.
        max_border: Largest share of the frames in which the mask touches the left, right or top edge.
        min_iou: Smallest IoU with the previous frame after centring both masks, mean over the clip.
        max_flicker: Largest share of mask pixels that change for a single frame, mean over the clip.
        max_jump: Largest movement of the mask's centre between two frames, in mask widths (square root of
            the larger mask's area).
        max_lost: Largest share of the frames without the character.
        max_vanished: How often the mask may disappear without leaving through an edge of the picture.
        max_reentries: How often the character may reappear after frames without it.
        max_shared: Largest share of the frames in which the mask and another character's overlap in more
            than half of the smaller one.
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
class _Statistics:
    """Running statistics of one character's mask."""

    last_two: list[NDArray[np.bool_]] = field(default_factory=list)
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
    """Measure the masks of all characters of a clip.

    Args:
        frames: The masks of each frame, by character name.

    Returns:
        Numbers by name, for each character. area_min, area_median and area_max are shares of the picture over
        the frames with the character. `bottom` is the share of these frames in which the mask touches the
        bottom edge. The other numbers are those that `Gates` limits.
    """
    all_stats: dict[str, _Statistics] = {}
    for masks in frames:
        now = {name: as_bool(mask) for name, mask in masks.items()}
        for name, mask in now.items():
            stats = all_stats.setdefault(name, _Statistics())
            _add_frame(stats, mask)
            others = (other for whose, other in now.items() if whose != name)
            stats.shared += any(_is_shared(mask, other) for other in others)
    return {name: _summary(stats) for name, stats in all_stats.items()}


def failed_gates(quality: Mapping[str, float], gates: Gates) -> list[str]:
    """Why a mask is rejected, one reason per exceeded limit; [] if it is accepted."""
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


def is_struck_out(record: Mapping[str, Any]) -> bool:
    """Whether a person has rejected a mask by hand: its record is not accepted and has no reasons."""
    return not record.get("accepted", True) and not record.get("reasons")


def with_acceptance(record: dict[str, Any], gates: Gates) -> dict[str, Any]:
    """The record of a mask with `accepted` and `reasons` according to these gates.

    The record is returned unchanged if a person has edited `accepted`, or if the mask has no quality numbers
    (masks of composites are exact).
    """
    if "quality" not in record or ("accepted" in record and record["accepted"] == bool(record["reasons"])):
        return record
    reasons = failed_gates(record["quality"], gates)
    return record | {"accepted": not reasons, "reasons": reasons}


def _add_frame(stats: _Statistics, mask: NDArray[np.bool_]) -> None:
    """Add the mask of one frame."""
    area = float(mask.mean())
    previous = stats.last_two[-1] if stats.last_two else None
    if area < MIN_PRESENT:
        has_gone = previous is not None and stats.areas[-1] >= MIN_PRESENT
        stats.vanished += has_gone and previous is not None and not _is_leaving(previous)
        mask = np.zeros_like(mask)
    else:
        stats.border += max(mask[0].sum(), mask[:, 0].sum(), mask[:, -1].sum()) > 0
        stats.bottom += bool(mask[-1].any())
        if stats.areas and stats.areas[-1] < MIN_PRESENT:
            stats.reentries += any(before >= MIN_PRESENT for before in stats.areas)
        elif previous is not None:
            shift = _centre(mask) - _centre(previous)
            stats.ious.append(region_iou(_moved(previous, np.round(shift).astype(int)), mask))
            stats.jumps.append(float(np.hypot(*shift)) / math.sqrt(max(mask.sum(), previous.sum())))
    if len(stats.last_two) == 2:
        blinks = (stats.last_two[0] == mask) & (stats.last_two[1] != mask)
        stats.flicker += np.count_nonzero(blinks) / mask.size
    stats.areas.append(area)
    stats.last_two = [*stats.last_two[-1:], mask]


def _summary(stats: _Statistics) -> dict[str, float]:
    areas = np.asarray(stats.areas)
    seen = areas[areas >= MIN_PRESENT]
    count = max(len(seen), 1)
    numbers = {
        "area_min": seen.min() if len(seen) else 0,
        "area_median": np.median(seen) if len(seen) else 0,
        "area_max": seen.max() if len(seen) else 0,
        "border": stats.border / count,
        "bottom": stats.bottom / count,
        "iou": np.mean(stats.ious) if stats.ious else 1,
        "flicker": stats.flicker / areas.sum() if areas.any() else 0,
        "jump": max(stats.jumps, default=0),
        "lost": 1 - len(seen) / len(areas),
        "vanished": stats.vanished,
        "reentries": stats.reentries,
        "shared": stats.shared / count,
    }
    return {name: round(float(number), 4) for name, number in numbers.items()}


def _is_shared(mask: NDArray[np.bool_], other: NDArray[np.bool_]) -> bool:
    smaller = min(int(mask.sum()), int(other.sum()))
    return smaller >= MIN_PRESENT * mask.size and 2 * int((mask & other).sum()) > smaller


def _is_leaving(mask: NDArray[np.bool_]) -> bool:
    edges: Sequence[NDArray[np.bool_]] = (mask[0], mask[-1], mask[:, 0], mask[:, -1])
    return any(edge.mean() >= LEAVING for edge in edges)


def _centre(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean row and column of a mask that is not empty."""
    return np.asarray(
        [np.average(np.arange(mask.shape[axis]), weights=mask.sum(1 - axis)) for axis in (0, 1)]
    )


def _moved(mask: NDArray[np.bool_], shift: NDArray[np.int_]) -> NDArray[np.bool_]:
    """The mask moved down and right by `shift` (rows, columns); pixels from outside are empty."""
    moved = np.zeros_like(mask)
    (down, right), (height, width) = (int(s) for s in shift), mask.shape
    moved[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = mask[
        max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)
    ]
    return moved
