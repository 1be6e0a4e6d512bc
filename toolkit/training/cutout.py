"""A picture of a character on white, cut out of a clip: it shows the appearance and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.core.errors import CastmixError
from toolkit.footage.clips import Clip
from toolkit.footage.masks import accepted_mask_names, mask_path, read_mask
from toolkit.footage.video import read_video

FILL = 0.7
"""Largest share of the picture's height and of its width that the character takes up."""


@dataclass(frozen=True)
class Cutout:
    """A character on white.

    Attributes:
        picture: (H, W, 3) uint8.
        mask: (H, W) in [0, 1].
        clip: Id of the clip that it was cut out of.
        frame: Number of the frame.
    """

    picture: NDArray[np.uint8]
    mask: NDArray[np.float32]
    clip: str
    frame: int


def cut_out(clips: Sequence[Clip], name: str) -> Cutout:
    """Cut a character out of the frame that shows most of it. The picture has the size of the clip.

    Frames in which it touches the left, right or upper edge are a last resort: a part may be missing.

    Raises:
        CastmixError: no clip has an accepted mask of that name that is not empty.
    """
    best: tuple[bool, float] = (False, 0.0)
    found: tuple[Clip, int, NDArray[np.uint8]] | None = None
    for clip in clips:
        if name not in accepted_mask_names(clip):
            continue
        for frame, mask in enumerate(read_mask(mask_path(clip, name))):
            seen = mask >= 128
            whole = not (seen[0].any() or seen[:, 0].any() or seen[:, -1].any())
            if seen.any() and (whole, float(seen.mean())) > best:
                best, found = (whole, float(seen.mean())), (clip, frame, mask)
    if found is None:
        have = sorted({one for clip in clips for one in accepted_mask_names(clip)})
        raise CastmixError(
            f"no clip has an accepted mask of {name!r} (masks: {', '.join(have) or 'none'}): make one "
            "with `castmix segment`"
        )
    clip, frame, mask = found
    return _on_white(read_video(clip.path)[0][frame], mask, clip, frame)


def _on_white(image: NDArray[np.uint8], mask: NDArray[np.uint8], clip: Clip, frame: int) -> Cutout:
    """The character at the centre of a white picture of the clip's size, scaled to FILL."""
    import cv2

    ys, xs = np.flatnonzero((mask >= 128).any(1)), np.flatnonzero((mask >= 128).any(0))
    box = slice(ys[0], ys[-1] + 1), slice(xs[0], xs[-1] + 1)
    part, alpha = image[box], mask[box].astype(np.float32) / 255
    height, width = image.shape[:2]
    scale = min(FILL * height / part.shape[0], FILL * width / part.shape[1])
    size = max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    colours = np.asarray(cv2.resize(part, size, interpolation=how), np.float32)
    cover = np.clip(np.asarray(cv2.resize(alpha, size, interpolation=how), np.float32), 0, 1)
    picture, whole = np.full_like(image, 255), np.zeros((height, width), np.float32)
    top, left = (height - size[1]) // 2, (width - size[0]) // 2
    place = slice(top, top + size[1]), slice(left, left + size[0])
    whole[place] = cover
    mixed = cover[..., None] * colours + (1 - cover[..., None]) * 255
    picture[place] = np.clip(np.round(mixed), 0, 255)
    return Cutout(picture, whole, clip.id, frame)
