"""Draws an attention map over a video as a heat map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from toolkit.footage.decoding import Frames

if TYPE_CHECKING:
    from torch import Tensor

MIN_HEIGHT = 160
"""Smaller videos are enlarged by a whole factor to about this height in pixels."""

COLOURS = np.array([[0, 0, 60], [120, 0, 140], [230, 60, 60], [255, 190, 40], [255, 255, 220]], np.float32)
"""Colour scale from 0 (cold) to 1 (hot), RGB."""


def upsampled(maps: Tensor, frames: int, height: int, width: int) -> NDArray[np.float32]:
    """A map (f, h, w) in tokens, upsampled to pixels: (frames, height, width).

    Rows and columns are interpolated. The map's first frame belongs to the video's first frame; the others
    are repeated evenly over the rest.
    """
    from torch.nn.functional import interpolate

    f = len(maps)
    large = interpolate(maps.float()[None], (height, width), mode="bilinear", align_corners=False)[0]
    rest = [1 + i * (f - 1) // (frames - 1) for i in range(frames - 1)] if f > 1 else [0] * (frames - 1)
    return np.asarray(large[[0, *rest]].cpu().numpy(), np.float32)


def overlay(video: Frames, heat: NDArray[np.float32], title: str) -> Frames:
    """The video (F, H, W, 3) in grey with heat (F, H, W) in [0, 1] over it, enlarged, with a title."""
    grey = video.astype(np.float32).mean(-1, keepdims=True)
    place = np.clip(heat, 0, 1) * (len(COLOURS) - 1)
    low = np.minimum(place.astype(int), len(COLOURS) - 2)
    part = (place - low)[..., None]
    colour = COLOURS[low] * (1 - part) + COLOURS[low + 1] * part
    mixed = 0.45 * grey + 0.55 * colour
    return with_title(mixed.astype(np.uint8), title)


def with_title(video: Frames, title: str) -> Frames:
    """The video (F, H, W, 3), enlarged to at least `MIN_HEIGHT`, with a line of text above it."""
    from PIL import Image, ImageDraw, ImageFont

    times = max(1, round(MIN_HEIGHT / video.shape[1]))
    large = video.repeat(times, 1).repeat(times, 2)
    size = max(11, large.shape[1] // 14)
    bar = Image.new("RGB", (large.shape[2], 2 * ((size + 7) // 2)), (20, 20, 20))
    ImageDraw.Draw(bar).text((4, 2), title, (255, 255, 255), ImageFont.load_default(size))
    above = np.broadcast_to(np.asarray(bar), (len(large), *np.asarray(bar).shape))
    return np.concatenate([above, large], 1)
