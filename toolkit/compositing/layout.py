"""The layout of a composite, and its row in plan.jsonl.

A row holds everything needed to render the composite again, bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.compositing.camera_motion import Floats
from toolkit.compositing.character_track import CharacterTrack
from toolkit.compositing.eligible_clips import Background, Foreground
from toolkit.compositing.merged_captions import merge_captions
from toolkit.compositing.placement import Placement
from toolkit.core.files import fingerprint_text
from toolkit.footage.source_records import path_text


@dataclass(frozen=True, eq=False)
class Layout:
    """The clips of a composite and where their characters stand.

    Attributes:
        foregrounds: The clips whose characters are pasted.
        background: The background.
        fps, height, width: Of the composite.
        times: (F,), time of each frame in seconds.
        starts: Seconds into each foreground clip at which it begins.
        placements: Where each foreground's character stands.
        background_tracks: Tracks of the background's characters that have masks, by name.
    """

    foregrounds: Sequence[Foreground]
    background: Background
    fps: float
    height: int
    width: int
    times: Floats
    starts: Sequence[float]
    placements: Sequence[Placement]
    background_tracks: Mapping[str, CharacterTrack]

    @property
    def cost(self) -> float:
        """The cost of its worst placement."""
        return max((placement.cost for placement in self.placements), default=0.0)


def background_camera(background: Background, times: Floats) -> Floats | None:
    """The camera motion to follow, (F, 4); None if the background's camera is static."""
    if background.camera is None or background.facts is None:
        return None
    return background.camera[background.facts.frames_at(times)]


def row_of(layout: Layout) -> dict[str, Any]:
    """The row of a layout, without `id`, `kind`, `seed`, `index` and `edge`."""
    foregrounds, background, times = layout.foregrounds, layout.background, layout.times
    placements = {one.name: place for one, place in zip(foregrounds, layout.placements, strict=True)}
    pasted_tracks = {name: placement.track for name, placement in placements.items()}
    tracks = {**layout.background_tracks, **pasted_tracks}
    # whoever stands lower is in front; whoever is cropped at the bottom is in front of all
    cropped = {one.name for one in foregrounds if one.cropped_bottom}
    depth = {name: np.inf if name in cropped else track.foot for name, track in tracks.items()}
    order = sorted(tracks, key=lambda name: (depth[name], name in placements))
    actions = {one.name: one.action for one in foregrounds}
    left_to_right = _left_to_right(background, tracks, layout.width)
    return {
        "text": merge_captions(background.style, background.caption, actions, left_to_right),
        "style": background.style,
        "fps": layout.fps,
        "num_frames": len(times),
        "height": layout.height,
        "width": layout.width,
        "background": _background_row(
            background, order, placements, _as_lists(background_camera(background, times))
        ),
        "pasted": [
            _pasted_row(one, placements[one.name], start, times)
            for one, start in zip(foregrounds, layout.starts, strict=True)
        ],
        "order": order,
    }


def row_id(row: Mapping[str, Any]) -> str:
    """The id of a complete row: kind, number and a short hash of its content without paths."""

    def without_paths(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: without_paths(inner) for key, inner in value.items() if key not in ("path", "source")
            }
        return [without_paths(inner) for inner in value] if isinstance(value, list) else value

    digest = fingerprint_text(json.dumps(without_paths(row), sort_keys=True))[:6]
    return f"{row['kind']}-{row['index']:05d}-{digest}"


def _pasted_row(one: Foreground, placement: Placement, start: float, times: Floats) -> dict[str, Any]:
    camera = None if one.camera is None else one.camera[one.facts.frames_at(times + start)]
    return {
        "name": one.name,
        "show": one.show,
        "clip": one.clip.id,
        "path": _absolute(one.clip.path),
        "fingerprint": one.facts.fingerprint,
        "mask": {"path": _absolute(one.mask.path), "fingerprint": one.mask.fingerprint},
        "height": one.facts.height,
        "width": one.facts.width,
        "start": start,
        "scale": placement.scale,
        "dx": placement.dx,
        "dy": placement.dy,
        "flip": placement.flip,
        "foot": round(one.track.foot, 2),
        "camera": _as_lists(camera),
    }


def _background_row(
    background: Background, order: Sequence[str], pasted: Iterable[str], camera: list[list[float]] | None
) -> dict[str, Any]:
    """The row of the background, with only those masks that rendering needs."""
    masks = background.facts.masks if background.facts else {}
    rearmost = min(order.index(name) for name in pasted)
    needed = [name for name in masks if background.form == "plate" or name in order[rearmost:]]
    clip = background.clip
    return {
        "form": background.form,
        "clip": clip.id if clip else None,
        "path": _absolute(background.path),
        "fingerprint": background.fingerprint,
        "names": list(background.names),
        "source": clip.source if clip else path_text(background.path),
        "start": clip.start if clip else 0.0,
        "shot": clip.shot if clip else 0,
        "masks": {
            name: {"path": _absolute(masks[name].path), "fingerprint": masks[name].fingerprint}
            for name in needed
        },
        "camera": camera,
    }


def _left_to_right(background: Background, tracks: dict[str, CharacterTrack], width: int) -> list[str]:
    """All names from left to right. Background characters without masks stay together, in caption order."""
    middle = {
        name: float(np.nanmean((track.boxes[:, 0] + track.boxes[:, 2]) / 2))
        if np.isfinite(track.boxes[:, 0]).any()
        else width / 2
        for name, track in tracks.items()
    }
    there = [clause.name for clause in background.caption.clauses] if background.caption else []
    new = sorted((name for name in middle if name not in background.names), key=lambda name: middle[name])
    if all(name in middle for name in there):
        return sorted([*there, *new], key=lambda name: middle[name])
    left = [name for name in new if middle[name] < width / 2]
    return [*left, *there, *(name for name in new if name not in left)]


def _as_lists(camera: Floats | None) -> list[list[float]] | None:
    return None if camera is None else [[float(value) for value in row] for row in camera]


def _absolute(path: Path) -> str:
    """An absolute path, so that the plan can be continued from any working directory."""
    return path_text(path.absolute())
