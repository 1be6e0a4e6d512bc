"""From a row of the plan to pictures: only the row and the files that it names decide how they look."""

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
    covered,
    cut_out,
    edge_pixels,
    steady,
)
from toolkit.compositing.camera_motion import matrices
from toolkit.compositing.clean_plates import image, plate
from toolkit.core.errors import CastmixError
from toolkit.core.files import fingerprint_file
from toolkit.footage.decoding import Frame, VideoReader
from toolkit.footage.masks import iter_mask

Row = Mapping[str, Any]
"""A row of plan.jsonl, as `plan` makes it."""
SLACK = 1e-4
"""Seconds by which a frame may come late and still be the one that is shown."""


@dataclass(frozen=True, eq=False)
class Composite:
    """One frame: the picture (H, W, 3), and by name what is seen of whom was pasted, (H, W) 0 to 255."""

    picture: Picture
    seen: Mapping[str, Picture]


def parents(row: Row) -> list[tuple[Path, str]]:
    """Every file that a row is made from, with the fingerprint that it had."""
    files = [row["background"], *row["background"]["masks"].values()]
    for one in row["pasted"]:
        files += [one, one["mask"]]
    return [(Path(file["path"]), file["fingerprint"]) for file in files]


def check_parents(row: Row, fingerprint: Callable[[Path], str] = fingerprint_file) -> None:
    """Refuse a row whose files are not what they were.

    Raises:
        CastmixError: The first file that is missing or has changed.
    """
    for path, known in parents(row):
        if not path.exists():
            raise CastmixError(f"{path} is missing: bring it back, or delete plan.jsonl to plan anew")
        if (now := fingerprint(path)) != known:
            raise CastmixError(
                f"{path} has changed since this was planned ({known}, now {now}): "
                "delete plan.jsonl to plan anew"
            )


def remembering(fingerprint: Callable[[Path], str]) -> Callable[[Path], str]:
    """The function, reading a file again only where its size or date has changed."""
    known: dict[tuple[Path, int, int], str] = {}

    def ask(path: Path) -> str:
        about = path.stat()
        key = (path, about.st_size, about.st_mtime_ns)
        if key not in known:
            known[key] = fingerprint(path)
        return known[key]

    return ask


def render(row: Row, *, masks: bool = False) -> Iterator[Composite]:
    """The frames of a composite, one by one; memory does not grow with its length.

    Args:
        row: What to make. `check_parents` tells whether it still can be made.
        masks: Tell what is seen of whom, too.
    """
    height, width = row["height"], row["width"]
    times = np.arange(row["num_frames"]) / row["fps"]
    edge = Edge(**row["edge"])
    layers = {one["name"]: one for one in row["pasted"]}
    with ExitStack() as stack:
        back = _background(row, times, stack)
        pasted = {name: _character(one, times, edge, stack) for name, one in layers.items()}
        views = {name: _views(row, one, times) for name, one in layers.items()}
        for number, (picture, there) in enumerate(back):
            picture = picture.copy()
            seen: dict[str, Picture] = {}
            for place, name in enumerate(row["order"]):
                if name not in layers:
                    continue
                frame, mask = next(pasted[name])
                view = views[name][number]
                cut = cut_out(frame, mask, view, height, width)
                alpha = np.zeros((height, width), np.uint8) if masks else None
                if cut is not None:
                    part = _lay(picture, cut, layers[name], view, edge)
                    for other in row["order"][place + 1 :]:
                        if other in there:
                            part = covered(part, there[other][cut.where])
                    blend(picture[cut.where], cut.rgb, part)
                    if alpha is not None:
                        alpha[cut.where] = part
                if alpha is not None:
                    seen = {other: covered(mask, alpha) for other, mask in seen.items()} | {name: alpha}
            yield Composite(picture, seen)


def _lay(picture: Picture, cut: Cutout, one: Row, view: Floats, edge: Edge) -> Picture:
    """The alpha of a cut-out, after its shadow was cast."""
    if edge.shadow:
        ys, xs = np.flatnonzero(cut.mask.max(1) >= 128), np.flatnonzero(cut.mask.max(0) >= 128)
        if len(ys):
            box = (cut.left + xs[0], cut.top + ys[0], cut.left + xs[-1] + 1, cut.top + ys[-1] + 1)
            ground = float((view @ [0, one["foot"], 1])[1])
            cast_shadow(picture, tuple(map(float, box)), ground, edge.shadow)  # type: ignore[arg-type]
    return alpha_of(cut.mask, *edge_pixels(edge, len(picture)))


def _views(row: Row, one: Row, times: Floats) -> Floats:
    """For each frame the way (3, 3) from the pixels of who is pasted to those of the picture."""
    place = np.array([[one["scale"], 0, one["dx"]], [0, one["scale"], one["dy"]], [0, 0, 1]])
    if one["flip"]:
        place = place @ np.array([[-1.0, 0, one["width"]], [0, 1, 0], [0, 0, 1]])
    views = np.repeat(place[None], len(times), 0)
    if one["camera"] is not None:  # its own camera is held still
        views = views @ matrices(np.asarray(one["camera"]))
    if row["background"]["camera"] is not None:  # and goes along with the background's
        views = np.linalg.inv(matrices(np.asarray(row["background"]["camera"]))) @ views
    return np.asarray(views)


def _character(one: Row, times: Floats, edge: Edge, stack: ExitStack) -> Iterator[tuple[Picture, Picture]]:
    """Frames and steadied masks of who is pasted, at the composite's times."""
    reach = round(edge.steady * one["height"] / REFERENCE_HEIGHT)
    masks = enumerate(steady(iter_mask(Path(one["mask"]["path"])), reach))
    at, mask = -1, np.zeros((1, 1), np.uint8)
    for index, picture in _shown(Path(one["path"]), times + one["start"], stack):
        while at < index:
            at, mask = next(masks)
        yield picture, mask


def _background(row: Row, times: Floats, stack: ExitStack) -> Iterator[tuple[Picture, dict[str, Picture]]]:
    """Pictures of the background, and the masks of those in it whom somebody may stand behind."""
    back = row["background"]
    path, size = Path(back["path"]), (row["height"], row["width"])
    if back["form"] != "video":
        masks = [Path(mask["path"]) for mask in back["masks"].values()]
        still = plate(path, masks) if back["form"] == "plate" else image(path, size)
        for _ in times:
            yield still, {}
        return
    streams = {name: enumerate(iter_mask(Path(mask["path"]))) for name, mask in back["masks"].items()}
    there: dict[str, Picture] = {}
    at = -1
    for index, picture in _shown(path, times, stack, size):
        for _ in range(index - at):
            there = {name: next(stream)[1] for name, stream in streams.items()}
        at = index
        yield picture, there


def _shown(
    path: Path, times: Floats, stack: ExitStack, size: tuple[int, int] | None = None
) -> Iterator[tuple[int, Picture]]:
    """Number and picture of the frame that is shown at each of the ascending times after the first frame.

    Raises:
        CastmixError: The video ends before.
    """
    frames = iter(stack.enter_context(VideoReader(path)))
    now: Frame | None = next(frames, None)
    first = now.time if now else 0.0
    after = next(frames, None)
    taken, picture = -1, np.zeros((1, 1, 3), np.uint8)
    for time in times:
        while after is not None and after.time - first <= time + SLACK:
            now, after = after, next(frames, None)
        if now is None or (after is None and time > now.time - first + now.duration + SLACK):
            raise CastmixError(f"{path} ends before {time:.2f} s: it has changed, or is damaged")
        if now.index != taken:
            taken, picture = now.index, now.rgb(*size) if size else now.rgb()
        yield now.index, picture
