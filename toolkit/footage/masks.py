"""Reads and writes the masks of characters: one lossless grey video per clip and character.

The mask of a character in ``clips/<id>.mp4`` is ``clips/<id>.<name>.mask.mkv`` (FFV1, 8-bit grey). 255 is the
character, 0 is the rest, values between are soft edges. The clip's json describes each mask under the key
`masks`, by character name: how the mask was made, its quality scores, and whether it was `accepted`.
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
from toolkit.core.files import partial_file
from toolkit.footage.clips import Clip
from toolkit.footage.decoding import VideoReader

SUFFIX = ".mask.mkv"


def mask_path(clip: Clip, name: str) -> Path:
    """Return the path of a character's mask, in the folder of the clip."""
    plain = unicodedata.normalize("NFC", name).casefold()
    slug = re.sub(r"\W+", "-", plain).strip("-")
    return clip.path.with_name(f"{clip.id}.{slug}{SUFFIX}")


def accepted_mask_names(clip: Clip) -> list[str]:
    """Return the names of a clip's characters with an accepted mask, in the order of the clip's json."""
    masks = clip.extra.get("masks", {})
    return [name for name, record in masks.items() if record.get("accepted") is True]


def write_mask(path: Path, masks: Iterable[NDArray[np.uint8]], fps: float) -> None:
    """Write a mask losslessly, frame by frame. The file is written completely or not at all.

    Args:
        path: The file to write; see `mask_path`.
        masks: Frames (H, W) uint8: 255 is the character, 0 is the rest.
        fps: Frames per second of the clip.

    Raises:
        CastmixError: There are no frames, their size changes, or they are not uint8.
    """
    import av

    path = Path(path)
    rate = Fraction(fps).limit_denominator(1001)
    # This coder gives the smallest files on masks. One thread and no file id: equal masks give equal bytes.
    encoder = {"level": "3", "coder": "range_tab", "slices": "4", "threads": "1"}
    with (
        partial_file(path) as partial,
        av.open(f"file:{partial}", "w", format="matroska", options={"fflags": "+bitexact"}) as container,
    ):
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
            raise CastmixError(f"{path}: there are no masks to write, expected at least one frame")
        container.mux(stream.encode())


def iter_mask(path: Path) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames of a mask, (H, W) uint8.

    Raises:
        CastmixError: The file is missing or damaged.
    """
    if not Path(path).exists():
        raise CastmixError(f"{path} is missing: create it with `castmix segment`")
    with VideoReader(path) as reader:
        end = 0.0
        for frame in reader:
            yield np.asarray(frame.image.to_ndarray(format="gray"), np.uint8)
            end = frame.time + frame.duration
        missing = reader.missing_after(end) * reader.fps > 0.5
        if reader.lost or reader.failure or missing:
            why = reader.failure or (f"it ends after {end:g} s" if missing else "packets were lost")
            raise CastmixError(f"{path} is damaged ({why}): recreate it with `castmix segment --overwrite`")


def read_mask(path: Path) -> NDArray[np.uint8]:
    """Read a whole mask, (F, H, W) uint8.

    Raises:
        CastmixError: The file is missing or damaged.
    """
    frames = list(iter_mask(path))
    if not frames:
        raise CastmixError(f"{path} has no frames: recreate it with `castmix segment --overwrite`")
    return np.stack(frames)
