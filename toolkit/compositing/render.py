"""Renders the frames of a composite from its row of plan.jsonl.

The result depends only on the row and the files it names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.compositing.blending import (
    REFERENCE_HEIGHT,
    Cutout,
    Edge,
    Floats,
    Picture,
    alpha_of,
    blend,
    cast_shadow,
    cut_out,
    edge_pixels,
    occluded,
    stabilised,
)
from toolkit.compositing.camera_motion import matrices
from toolkit.compositing.clean_plates import clean_plate, read_image
from toolkit.core.errors import CastmixError
from toolkit.core.files import fingerprint_file
from toolkit.footage.decoding import Frame, VideoReader
from toolkit.footage.masks import iter_mask

Row = Mapping[str, Any]
"""A row of plan.jsonl, see `layout`."""
TIME_TOLERANCE = 1e-4
"""A frame that starts up to this many seconds late still counts as shown."""


@dataclass(frozen=True, eq=False)
class CompositeFrame:
    """One frame of a composite.

    Attributes:
        picture: (H, W, 3) RGB.
        alphas: The visible part of each pasted character by name, (H, W), 0 to 255. Empty unless requested.
    """

    picture: Picture
    alphas: Mapping[str, Picture]


def parent_files(row: Row) -> list[tuple[Path, str]]:
    """All files that a row is rendered from, with the fingerprints they had when it was planned."""
    files = [row["background"], *row["background"]["masks"].values()]
    for one in row["pasted"]:
        files += [one, one["mask"]]
    return [(Path(file["path"]), file["fingerprint"]) for file in files]


def check_parents(row: Row, fingerprint: Callable[[Path], str] = fingerprint_file) -> None:
    """Check that the files of a row have not changed since it was planned.

    Raises:
        CastmixError: A file is missing or has changed; the message names the first one.
    """
    for path, known in parent_files(row):
        if not path.exists():
            raise CastmixError(f"{path} is missing: restore it, or delete plan.jsonl to plan again")
        if (now := fingerprint(path)) != known:
            raise CastmixError(
                f"{path} has changed since this was planned (fingerprint {known}, now {now}): "
                "restore it, or delete plan.jsonl to plan again"
            )


def cached_fingerprint(fingerprint: Callable[[Path], str]) -> Callable[[Path], str]:
    """A cached version of `fingerprint`: it reads a file again only if its size or date has changed."""
    known: dict[tuple[Path, int, int], str] = {}

    def cached(path: Path) -> str:
        about = path.stat()
        key = (path, about.st_size, about.st_mtime_ns)
        if key not in known:
            known[key] = fingerprint(path)
        return known[key]

    return cached


def render(row: Row, *, masks: bool = False) -> Iterator[CompositeFrame]:
    """Render the frames of a composite one by one; memory use does not grow with its length.

    Args:
        row: The row to render. `check_parents` tells whether its files are unchanged.
        masks: Fill `CompositeFrame.alphas` as well.
    """
    height, width = row["height"], row["width"]
    times = np.arange(row["num_frames"]) / row["fps"]
    edge = Edge(**row["edge"])
    pasted = {one["name"]: one for one in row["pasted"]}
    with ExitStack() as stack:
        background = _background(row, times, stack)
        characters = {name: _character(one, times, edge, stack) for name, one in pasted.items()}
        transforms = {name: _transforms(row, one, times) for name, one in pasted.items()}
        for number, (picture, background_masks) in enumerate(background):
            picture = picture.copy()
            alphas: dict[str, Picture] = {}
            for place, name in enumerate(row["order"]):
                if name not in pasted:
                    continue
                frame, mask = next(characters[name])
                transform = transforms[name][number]
                cutout = cut_out(frame, mask, transform, height, width)
                alpha = np.zeros((height, width), np.uint8) if masks else None
                if cutout is not None:
                    visible = _alpha_with_shadow(picture, cutout, pasted[name], transform, edge)
                    for other in row["order"][place + 1 :]:
                        if other in background_masks:
                            visible = occluded(visible, background_masks[other][cutout.region])
                    blend(picture[cutout.region], cutout.rgb, visible)
                    if alpha is not None:
                        alpha[cutout.region] = visible
                if alpha is not None:
                    behind = {other: occluded(one, alpha) for other, one in alphas.items()}
                    alphas = behind | {name: alpha}
            yield CompositeFrame(picture, alphas)


def _alpha_with_shadow(picture: Picture, cutout: Cutout, one: Row, transform: Floats, edge: Edge) -> Picture:
    """The alpha of a cut-out; casts its shadow into `picture` first, in place."""
    if edge.shadow:
        ys, xs = np.flatnonzero(cutout.mask.max(1) >= 128), np.flatnonzero(cutout.mask.max(0) >= 128)
        if len(ys):
            left, top = cutout.left, cutout.top
            box = (left + xs[0], top + ys[0], left + xs[-1] + 1, top + ys[-1] + 1)
            ground = float((transform @ [0, one["foot"], 1])[1])
            cast_shadow(picture, tuple(map(float, box)), ground, edge.shadow)  # type: ignore[arg-type]
    return alpha_of(cutout.mask, *edge_pixels(edge, len(picture)))


def _transforms(row: Row, one: Row, times: Floats) -> Floats:
    """(F, 3, 3): from pixels of a pasted character's clip to pixels of the composite."""
    place = np.array([[one["scale"], 0, one["dx"]], [0, one["scale"], one["dy"]], [0, 0, 1]])
    if one["flip"]:
        place = place @ np.array([[-1.0, 0, one["width"]], [0, 1, 0], [0, 0, 1]])
    transforms = np.repeat(place[None], len(times), 0)
    if one["camera"] is not None:  # remove the motion of its own camera
        transforms = transforms @ matrices(np.asarray(one["camera"]))
    if row["background"]["camera"] is not None:  # add the motion of the background's camera
        transforms = np.linalg.inv(matrices(np.asarray(row["background"]["camera"]))) @ transforms
    return np.asarray(transforms)


def _character(one: Row, times: Floats, edge: Edge, stack: ExitStack) -> Iterator[tuple[Picture, Picture]]:
    """Frames and stabilised masks of a pasted character at the composite's times."""
    reach = round(edge.steady * one["height"] / REFERENCE_HEIGHT)
    masks = enumerate(stabilised(iter_mask(Path(one["mask"]["path"])), reach))
    at, mask = -1, np.zeros((1, 1), np.uint8)
    for index, picture in _frames_at(Path(one["path"]), times + one["start"], stack):
        while at < index:
            at, mask = next(masks)
        yield picture, mask


def _background(row: Row, times: Floats, stack: ExitStack) -> Iterator[tuple[Picture, dict[str, Picture]]]:
    """Background frames, and the masks of the characters who may occlude a pasted one."""
    background = row["background"]
    path, size = Path(background["path"]), (row["height"], row["width"])
    if background["form"] != "video":
        masks = [Path(mask["path"]) for mask in background["masks"].values()]
        still = clean_plate(path, masks) if background["form"] == "plate" else read_image(path, size)
        for _ in times:
            yield still, {}
        return
    streams = {name: enumerate(iter_mask(Path(mask["path"]))) for name, mask in background["masks"].items()}
    current: dict[str, Picture] = {}
    at = -1
    for index, picture in _frames_at(path, times, stack, size):
        for _ in range(index - at):
            current = {name: next(stream)[1] for name, stream in streams.items()}
        at = index
        yield picture, current


def _frames_at(
    path: Path, times: Floats, stack: ExitStack, size: tuple[int, int] | None = None
) -> Iterator[tuple[int, Picture]]:
    """Index and picture of the frame shown at each time (ascending seconds after the first frame).

    Raises:
        CastmixError: The video ends before the last time.
    """
    frames = iter(stack.enter_context(VideoReader(path)))
    now: Frame | None = next(frames, None)
    first = now.time if now else 0.0
    after = next(frames, None)
    decoded, picture = -1, np.zeros((1, 1, 3), np.uint8)
    for time in times:
        while after is not None and after.time - first <= time + TIME_TOLERANCE:
            now, after = after, next(frames, None)
        if now is None or (after is None and time > now.time - first + now.duration + TIME_TOLERANCE):
            raise CastmixError(
                f"{path} ends before {time:.2f} s: it was changed or is damaged; prepare the clip again"
            )
        if now.index != decoded:
            decoded, picture = now.index, now.rgb(*size) if size else now.rgb()
        yield now.index, picture
