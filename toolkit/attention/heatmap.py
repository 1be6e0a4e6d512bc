"""A map drawn over a video as heat, for a person to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from toolkit.footage.decoding import Frames

if TYPE_CHECKING:
    from torch import Tensor

READABLE = 160
"""Smaller videos are enlarged by a whole number to about so many rows."""

COLOURS = np.array([[0, 0, 60], [120, 0, 140], [230, 60, 60], [255, 190, 40], [255, 255, 220]], np.float32)
"""From cold to hot."""


def spread(maps: Tensor, frames: int, height: int, width: int) -> NDArray[np.float32]:
    """A map in tokens as one in pixels; (frames, height, width).

    maps: (f, h, w). The first of its frames is the first of the video, each other one stands for as many
    of the rest. Rows and columns are interpolated.
    """
    from torch.nn.functional import interpolate

    f = len(maps)
    large = interpolate(maps.float()[None], (height, width), mode="bilinear", align_corners=False)[0]
    rest = [1 + i * (f - 1) // (frames - 1) for i in range(frames - 1)] if f > 1 else [0] * (frames - 1)
    return np.asarray(large[[0, *rest]].cpu().numpy(), np.float32)


def overlay(video: Frames, heat: NDArray[np.float32], title: str) -> Frames:
    """The video (F, H, W, 3) in grey, with heat (F, H, W) in [0, 1] over it and a title, enlarged."""
    grey = video.astype(np.float32).mean(-1, keepdims=True)
    place = np.clip(heat, 0, 1) * (len(COLOURS) - 1)
    low = np.minimum(place.astype(int), len(COLOURS) - 2)
    part = (place - low)[..., None]
    colour = COLOURS[low] * (1 - part) + COLOURS[low + 1] * part
    mixed = 0.45 * grey + 0.55 * colour
    return titled(mixed.astype(np.uint8), title)


def titled(video: Frames, title: str) -> Frames:
    """The video, enlarged to be read, with a line of text above it."""
    from PIL import Image, ImageDraw, ImageFont

    times = max(1, round(READABLE / video.shape[1]))
    large = video.repeat(times, 1).repeat(times, 2)
    size = max(11, large.shape[1] // 14)
    bar = Image.new("RGB", (large.shape[2], 2 * ((size + 7) // 2)), (20, 20, 20))
    ImageDraw.Draw(bar).text((4, 2), title, (255, 255, 255), ImageFont.load_default(size))
    above = np.broadcast_to(np.asarray(bar), (len(large), *np.asarray(bar).shape))
    return np.concatenate([above, large], 1)
