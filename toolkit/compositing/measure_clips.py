"""Measures the facts of clips once and caches them in ``facts/<id>.json`` in the folder of clips.

A clip is measured again when the content of its video or of one of its masks has changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.compositing.camera_motion import Grey, estimate_motion
from toolkit.compositing.clip_facts import Facts, MaskFacts, from_row, to_row
from toolkit.core.errors import CastmixError
from toolkit.core.files import fingerprint_file, write_atomic
from toolkit.footage.clips import Clip
from toolkit.footage.decoding import VideoReader
from toolkit.footage.masks import accepted_mask_names, iter_mask, mask_path

FOLDER = "facts"
VERSION = 3
FEET_WIDTH = 0.4
"""The bottom edge cuts through the body, not the feet, if it touches more of the mask's width than this."""
MAX_FRAMES = 400
"""Frames measured of a video without masks. Such a background is used from its beginning."""

GroundLine = Callable[[Clip, str], "float | None"]
"""Returns a character's ground line in a clip's first frame, in pixels from the top; None if unknown."""


def unknown_ground_line(clip: Clip, name: str) -> None:
    """The ground line of footage without ground truth: unknown."""


def facts_of_clip(folder: Path, clip: Clip, ground: GroundLine = unknown_ground_line) -> Facts:
    """The facts of a clip, from the cache in its folder or measured now.

    ground: Returns the ground line of footage that has ground truth.

    Raises:
        CastmixError: The clip or one of its accepted masks cannot be read, or a mask does not fit the clip.
    """
    masks = {name: mask_path(clip, name) for name in accepted_mask_names(clip)}
    return _cached(folder / FOLDER / f"{clip.id}.json", clip.path, masks, lambda name: ground(clip, name))


def facts_of_video(out: Path, video: Path) -> Facts:
    """The facts of a video without masks, cached in the folder `out`."""
    return _cached(out / FOLDER / f"{video.name}.json", video, {}, None)


def measure(video: Path, masks: Mapping[str, Path]) -> Facts:
    """Measure a video and its masks in one pass.

    Raises:
        CastmixError: A file cannot be read, or a mask is empty or has other frames than the video.
    """
    with VideoReader(video) as reader:
        one_pass = _OnePass(video, reader, masks)
        camera = estimate_motion(one_pass.pictures(), reader.fps)
    facts = {name: one_pass.mask_facts(name) for name in masks}
    height, width = one_pass.uncovered.shape
    uncovered = float(np.mean(one_pass.uncovered))
    times = np.asarray(one_pass.times)
    return Facts(fingerprint_file(video), height, width, times, camera, uncovered, facts)


class _OnePass:
    """Reads a video and its masks once, frame by frame, and collects what `measure` needs."""

    def __init__(self, video: Path, reader: VideoReader, masks: Mapping[str, Path]) -> None:
        self.video, self.reader, self.masks = video, reader, masks
        self.times: list[float] = []
        self.uncovered: NDArray[np.bool_] = np.zeros((1, 1), np.bool_)
        self.boxes: dict[str, list[tuple[float, ...]]] = {name: [] for name in masks}
        self.area: dict[str, list[float]] = {name: [] for name in masks}
        self.touches: dict[str, list[list[bool]]] = {name: [] for name in masks}

    def pictures(self) -> Iterator[tuple[Grey, Grey]]:
        """Yield the grey picture and the union of the masks of each frame."""
        import cv2

        streams = {name: iter_mask(path) for name, path in self.masks.items()}
        first = 0.0
        for frame in self.reader:
            if len(self.times) == MAX_FRAMES and not streams:
                return
            picture = np.asarray(cv2.cvtColor(frame.rgb(), cv2.COLOR_RGB2GRAY), np.uint8)
            hidden = np.zeros_like(picture)
            for name, stream in streams.items():
                mask = next(stream, None)
                if mask is None or mask.shape != picture.shape:
                    found = "fewer frames" if mask is None else f"frames of {mask.shape[1]}x{mask.shape[0]}"
                    raise self._does_not_fit(name, found)
                self._collect(name, mask)
                hidden |= mask
            if not self.times:
                first, self.uncovered = frame.time, np.zeros(picture.shape, np.bool_)
            self.times.append(frame.time - first)
            self.uncovered |= np.equal(hidden, 0)
            yield picture, hidden
        if self.reader.failure or self.reader.lost or not self.times:
            raise CastmixError(
                f"{self.video} is damaged: {self.reader.failure or 'frames cannot be decoded'}"
            )
        for name, stream in streams.items():
            if next(stream, None) is not None:
                raise self._does_not_fit(name, "more frames")

    def _does_not_fit(self, name: str, found: str) -> CastmixError:
        return CastmixError(
            f"{self.masks[name]} has {found} than {self.video}; expected one mask frame of the same size "
            "per video frame: make it again with `castmix segment --overwrite`"
        )

    def _collect(self, name: str, mask: Grey) -> None:
        import cv2

        solid = (mask >= 128).astype(np.uint8)
        left, top, width, height = cv2.boundingRect(solid)
        box = (left, top, left + width, top + height) if width else (np.nan,) * 4
        self.boxes[name].append(tuple(map(float, box)))
        self.area[name].append(float(np.count_nonzero(solid)) / solid.size)
        edges = (solid[:, 0], solid[0], solid[:, -1], solid[-1])
        contacts = [int(np.count_nonzero(line)) for line in edges]
        touches = [count > 0.01 * line.size for count, line in zip(contacts, edges, strict=True)]
        self.touches[name].append([*touches, contacts[3] > FEET_WIDTH * max(width, 1)])

    def mask_facts(self, name: str) -> MaskFacts:
        path, boxes = self.masks[name], np.asarray(self.boxes[name])
        if not np.isfinite(boxes).any():
            raise CastmixError(
                f"{path} is empty in every frame: make it again with `castmix segment --overwrite`"
            )
        shares = np.mean(np.asarray(self.touches[name], float), axis=0)
        left, top, right, bottom, feet_cut = map(float, shares)
        area = np.asarray(self.area[name])
        return MaskFacts(path, fingerprint_file(path), boxes, area, (left, top, right, bottom), feet_cut)


def _cached(
    file: Path, video: Path, masks: Mapping[str, Path], ground: Callable[[str], float | None] | None
) -> Facts:
    """The facts in `file` if they belong to this video and these masks; else measure and write them."""
    stamps = {name: _stamp(path) for name, path in {"": video, **masks}.items()}
    row = json.loads(file.read_bytes()) if file.exists() else {}
    if row.get("version") == VERSION and row["stamps"].keys() == stamps.keys():
        if row["stamps"] == stamps:
            return from_row(row, masks)
        cached = {"": row["fingerprint"]} | {name: row["figures"][name]["fingerprint"] for name in masks}
        if cached == {name: fingerprint_file(path) for name, path in {"": video, **masks}.items()}:
            _write(file, row | {"stamps": stamps})  # a new date, the same content
            return from_row(row, masks)
    facts = measure(video, masks)
    if ground is not None:
        facts = replace(facts, masks={n: replace(one, ground=ground(n)) for n, one in facts.masks.items()})
    row = {"version": VERSION, "stamps": stamps, **to_row(facts)}
    _write(file, row)
    return from_row(row, masks)  # rounded, so this run uses the same numbers as every later one


def _stamp(path: Path) -> list[int]:
    """Size in bytes and modification time in nanoseconds."""
    if not path.exists():
        raise CastmixError(f"{path} is missing: restore it, or delete the json entry that names it")
    known = path.stat()
    return [known.st_size, known.st_mtime_ns]


def _write(file: Path, row: Mapping[str, Any]) -> None:
    write_atomic(file, json.dumps(row, ensure_ascii=False) + "\n")
