"""Measures the facts of clips, once: they are kept in ``facts/<id>.json`` in the folder of clips.

They are measured anew when the video or a mask has another content.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.compositing.camera_motion import Grey, follow
from toolkit.compositing.clip_facts import Facts, Figure, from_row, to_row
from toolkit.core.errors import CastmixError
from toolkit.core.files import fingerprint_file, write_atomic
from toolkit.footage.clips import Clip
from toolkit.footage.decoding import VideoReader
from toolkit.footage.masks import accepted_mask_names, iter_mask, mask_path

FOLDER = "facts"
VERSION = 3
STUMP = 0.4
"""Who is cut by the lower border over more of its width than this shows no feet."""
LONGEST = 400
"""Frames of a video without masks that are looked at: a background is used from its beginning."""


Ground = Callable[[Clip, str], "float | None"]
"""Where a character stands in a clip's first frame, in pixels from the top; None where that is not known."""


def no_ground(clip: Clip, name: str) -> None:
    """Of ordinary footage: the ground line is not known."""


def clip_facts(folder: Path, clip: Clip, ground: Ground = no_ground) -> Facts:
    """The facts of a clip of a folder, measured if they are not known.

    ground: Tells the ground line of footage that comes with its truth.

    Raises:
        CastmixError: The clip or one of its accepted masks cannot be read, or they do not fit each other.
    """
    masks = {name: mask_path(clip, name) for name in accepted_mask_names(clip)}
    return _kept(folder / FOLDER / f"{clip.id}.json", clip.path, masks, lambda name: ground(clip, name))


def video_facts(out: Path, video: Path) -> Facts:
    """The facts of a video without masks, kept in the folder `out`."""
    return _kept(out / FOLDER / f"{video.name}.json", video, {}, None)


def measure(video: Path, masks: Mapping[str, Path]) -> Facts:
    """Look at a video and its masks, frame by frame, in one pass.

    Raises:
        CastmixError: One of them cannot be read, a mask has other frames than the video, or is empty.
    """
    with VideoReader(video) as reader:
        passing = _Passing(video, reader, masks)
        camera = follow(passing.pictures(), reader.fps)
    figures = {name: passing.figure(name) for name in masks}
    height, width = passing.bare.shape
    bare = float(np.mean(passing.bare))
    return Facts(fingerprint_file(video), height, width, np.asarray(passing.times), camera, bare, figures)


class _Passing:
    """A video and its masks as they pass by, frame by frame."""

    def __init__(self, video: Path, reader: VideoReader, masks: Mapping[str, Path]) -> None:
        self.video, self.reader, self.masks = video, reader, masks
        self.times: list[float] = []
        self.bare: NDArray[np.bool_] = np.zeros((1, 1), np.bool_)
        self.boxes: dict[str, list[tuple[float, ...]]] = {name: [] for name in masks}
        self.area: dict[str, list[float]] = {name: [] for name in masks}
        self.touches: dict[str, list[list[bool]]] = {name: [] for name in masks}

    def pictures(self) -> Iterator[tuple[Grey, Grey]]:
        """Grey pictures, and where somebody is; remembers what is to be known of each."""
        import cv2

        streams = {name: iter_mask(path) for name, path in self.masks.items()}
        first = 0.0
        for frame in self.reader:
            if len(self.times) == LONGEST and not streams:
                return
            picture = np.asarray(cv2.cvtColor(frame.rgb(), cv2.COLOR_RGB2GRAY), np.uint8)
            hidden = np.zeros_like(picture)
            for name, stream in streams.items():
                mask = next(stream, None)
                if mask is None or mask.shape != picture.shape:
                    found = "fewer frames" if mask is None else f"frames of {mask.shape[1]}x{mask.shape[0]}"
                    raise self._does_not_fit(name, found)
                self._see(name, mask)
                hidden |= mask
            if not self.times:
                first, self.bare = frame.time, np.zeros(picture.shape, np.bool_)
            self.times.append(frame.time - first)
            self.bare |= np.equal(hidden, 0)
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
            f"{self.masks[name]} has {found} than {self.video}, which it should cover frame by frame: "
            "make it anew with `castmix segment --overwrite`"
        )

    def _see(self, name: str, mask: Grey) -> None:
        import cv2

        solid = (mask >= 128).astype(np.uint8)
        left, top, width, height = cv2.boundingRect(solid)
        box = (left, top, left + width, top + height) if width else (np.nan,) * 4
        self.boxes[name].append(tuple(map(float, box)))
        self.area[name].append(float(np.count_nonzero(solid)) / solid.size)
        borders = (solid[:, 0], solid[0], solid[:, -1], solid[-1])
        contacts = [int(np.count_nonzero(line)) for line in borders]
        touches = [count > 0.01 * line.size for count, line in zip(contacts, borders, strict=True)]
        self.touches[name].append([*touches, contacts[3] > STUMP * max(width, 1)])

    def figure(self, name: str) -> Figure:
        path, boxes = self.masks[name], np.asarray(self.boxes[name])
        if not np.isfinite(boxes).any():
            raise CastmixError(f"{path} is empty: make it anew with `castmix segment --overwrite`")
        left, top, right, bottom, stump = map(float, np.mean(np.asarray(self.touches[name], float), axis=0))
        return Figure(
            path,
            fingerprint_file(path),
            boxes,
            np.asarray(self.area[name]),
            (left, top, right, bottom),
            stump,
        )


# What is kept of them


def _kept(
    file: Path, video: Path, masks: Mapping[str, Path], ground: Callable[[str], float | None] | None
) -> Facts:
    """The facts in a file if they are those of this video and these masks; else they are measured."""
    stamps = {name: _stamp(path) for name, path in {"": video, **masks}.items()}
    row = json.loads(file.read_bytes()) if file.exists() else {}
    if row.get("version") == VERSION and row["stamps"].keys() == stamps.keys():
        if row["stamps"] == stamps:
            return from_row(row, masks)
        kept = {"": row["fingerprint"]} | {name: row["figures"][name]["fingerprint"] for name in masks}
        if kept == {name: fingerprint_file(path) for name, path in {"": video, **masks}.items()}:
            _write(file, row | {"stamps": stamps})  # only touched, or copied
            return from_row(row, masks)
    facts = measure(video, masks)
    if ground is not None:
        figures = {name: replace(one, ground=ground(name)) for name, one in facts.figures.items()}
        facts = replace(facts, figures=figures)
    row = {"version": VERSION, "stamps": stamps, **to_row(facts)}
    _write(file, row)
    return from_row(row, masks)  # rounded, as every later run reads them


def _stamp(path: Path) -> list[int]:
    if not path.exists():
        raise CastmixError(f"{path} is missing: make it anew, or delete what speaks of it")
    known = path.stat()
    return [known.st_size, known.st_mtime_ns]


def _write(file: Path, row: Mapping[str, Any]) -> None:
    write_atomic(file, json.dumps(row, ensure_ascii=False) + "\n")
