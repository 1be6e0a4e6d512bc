"""Masks of characters, stored beside their clips: one lossless video a character.

Beside ``clips/<id>.mp4`` lies ``clips/<id>.<name>.mask.mkv`` (FFV1, 8-bit grey): 255 is the character, 0 is
not, and edges may lie between. The clip's json says under `masks`, by the character's name, how the mask was
made, how good it is, and whether it was `accepted`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolkit.core.errors import CastmixError
from toolkit.footage.clips import Clip
from toolkit.footage.decoding import VideoReader

SUFFIX = ".mask.mkv"


def mask_path(clip: Clip, name: str) -> Path:
    """Where the mask of a character lies: beside the clip."""
    plain = unicodedata.normalize("NFC", name).casefold()
    slug = re.sub(r"\W+", "-", plain).strip("-")
    return clip.path.with_name(f"{clip.id}.{slug}{SUFFIX}")


def accepted_mask_names(clip: Clip) -> list[str]:
    """The characters of a clip whose masks were accepted, in the order of the clip's json."""
    masks = clip.extra.get("masks", {})
    return [name for name, record in masks.items() if record.get("accepted") is True]


def write_mask(path: Path, masks: Iterable[NDArray[np.uint8]], fps: float) -> None:
    """Write a mask, frame by frame, lossless. The file appears complete or not at all.

    Args:
        path: The file to write; see `mask_path`.
        masks: Frames (H, W) uint8: 255 is the character, 0 is not.
        fps: Frames a second, those of the clip.

    Raises:
        CastmixError: No frames, or frames of a changing size or of another type.
    """
    import av

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    rate = Fraction(fps).limit_denominator(1001)
    # the coder that is smallest on masks; one thread and no file id: equal masks make equal bytes
    encoder = {"level": "3", "coder": "range_tab", "slices": "4", "threads": "1"}
    try:
        with av.open(f"file:{partial}", "w", format="matroska", options={"fflags": "+bitexact"}) as container:
            stream = container.add_stream("ffv1", rate=rate, options=encoder)
            stream.pix_fmt = "gray"
            number = -1
            for number, mask in enumerate(masks):
                if number == 0 and mask.ndim == 2:
                    stream.height, stream.width = mask.shape
                if mask.shape != (stream.height, stream.width) or mask.dtype != np.uint8:
                    raise CastmixError(
                        f"{path}: mask {number} is {mask.dtype} {mask.shape}, "
                        f"expected uint8 ({stream.height}, {stream.width})"
                    )
                image = av.VideoFrame.from_ndarray(np.ascontiguousarray(mask), "gray")
                image.pts, image.time_base = number, 1 / rate
                container.mux(stream.encode(image))
            if number < 0:
                raise CastmixError(f"{path}: there are no masks to write")
            container.mux(stream.encode())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def iter_mask(path: Path) -> Iterator[NDArray[np.uint8]]:
    """The frames (H, W) of a mask, one by one.

    Raises:
        CastmixError: It is not there, or cannot be read to its end.
    """
    if not Path(path).exists():
        raise CastmixError(f"{path} is missing: make it with `castmix segment`")
    with VideoReader(path) as reader:
        end = 0.0
        for frame in reader:
            yield np.asarray(frame.image.to_ndarray(format="gray"), np.uint8)
            end = frame.time + frame.duration
        missing = reader.missing_after(end) * reader.fps > 0.5
        if reader.lost or reader.failure or missing:
            why = reader.failure or (f"it ends after {end:g} s" if missing else "packets were lost")
            raise CastmixError(f"{path} is damaged ({why}): make it anew with `castmix segment --overwrite`")


def read_mask(path: Path) -> NDArray[np.uint8]:
    """A whole mask, (F, H, W).

    Raises:
        CastmixError: It is not there, or cannot be read to its end.
    """
    frames = list(iter_mask(path))
    if not frames:
        raise CastmixError(f"{path} has no frame: make it anew with `castmix segment --overwrite`")
    return np.stack(frames)
