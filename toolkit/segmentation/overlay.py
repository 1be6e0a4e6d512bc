"""Writes a video of a clip with all masks drawn over it, for visual inspection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolkit.footage.clips import Clip
from toolkit.footage.decoding import Frames, VideoReader
from toolkit.footage.masks import iter_mask
from toolkit.footage.video import write_video
from toolkit.segmentation.mask_iou import as_bool

COLOURS = ((230, 25, 75), (60, 180, 255), (255, 200, 0), (60, 200, 90), (200, 80, 240), (255, 140, 40))
TINT = 0.45
MIN_HEIGHT = 240
"""Smaller clips are enlarged by a whole factor to about this height in pixels."""


def write_overlay(path: Path, clip: Clip, masks: Mapping[str, Path], *, crf: int = 20) -> None:
    """Write a video of the clip in which each character has a tint, an outline and its name.

    Args:
        path: The mp4 to write.
        clip: The clip.
        masks: Mask file of each character, by name.
        crf: x264's constant rate factor; lower is better quality.

    Raises:
        CastmixError: A mask cannot be read.
    """
    write_video(path, _painted(clip, masks), clip.fps, crf=crf)


def _painted(clip: Clip, masks: Mapping[str, Path]) -> Iterator[Frames]:
    times = max(1, round(MIN_HEIGHT / clip.height))
    with VideoReader(clip.path) as reader:
        streams = [iter_mask(file) for file in masks.values()]
        for frame, *now in zip(reader, *streams, strict=True):
            yield paint(frame.rgb(), dict(zip(masks, now, strict=True)), times)


def paint(picture: Frames, masks: Mapping[str, NDArray[np.uint8]], times: int = 1) -> Frames:
    """A picture (H, W, 3) with masks (H, W) drawn over it, enlarged by the factor `times`."""
    from PIL import Image, ImageDraw, ImageFont

    large = picture.repeat(times, 0).repeat(times, 1)
    own = [as_bool(mask).repeat(times, 0).repeat(times, 1) for mask in masks.values()]
    for number, mask in enumerate(own):
        colour = np.asarray(COLOURS[number % len(COLOURS)], np.float32)
        large[mask] = ((1 - TINT) * large[mask] + TINT * colour).astype(np.uint8)
        large[_edge(mask)] = colour.astype(np.uint8)
    image = Image.fromarray(large)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(max(11, large.shape[0] // 20))
    for number, (name, mask) in enumerate(zip(masks, own, strict=True)):
        if mask.any():
            ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            left, top, right, bottom = draw.textbbox((0, 0), name, font)
            x = float(np.clip((xs[0] + xs[-1] - right) / 2, 0, max(large.shape[1] - right, 0)))
            y = float(max(ys[0] - bottom - 2, 0))
            draw.rectangle((x + left - 2, y + top - 2, x + right + 2, y + bottom + 2), fill=(0, 0, 0))
            draw.text((x, y), name, COLOURS[number % len(COLOURS)], font)
    return np.asarray(image)


def _edge(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The outermost pixels of a mask."""
    inside = np.pad(mask, 1)
    return mask & ~(inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:])
