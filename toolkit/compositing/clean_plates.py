"""Still backgrounds: a picture file, or the clean plate of a clip (its background without the characters)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from toolkit.compositing.blending import Picture
from toolkit.core.errors import CastmixError
from toolkit.footage.decoding import VideoReader
from toolkit.footage.masks import iter_mask

MARGIN = 0.012
"""Distance of background pixels from every character, in picture heights: excludes soft edges and shadows."""
INPAINT_HEIGHT = 160
"""Pixels that are never uncovered are inpainted at this picture height."""


def read_image(path: Path, size: tuple[int, int] | None = None) -> Picture:
    """Read a picture (H, W, 3), resized to `size` (height, width) if given.

    Raises:
        CastmixError: The file cannot be read.
    """
    with VideoReader(path) as reader:
        for frame in reader:
            return frame.rgb(*size) if size else frame.rgb()
    raise CastmixError(f"{path} cannot be read as a picture: save it again, or remove it")


def clean_plate(video: Path, masks: Sequence[Path]) -> Picture:
    """The background of a clip with a static camera, (H, W, 3).

    Each pixel is the mean over the frames in which no character covers it. Pixels that are covered in all
    frames are inpainted (OpenCV, Telea's method) and may be wrong.

    Raises:
        CastmixError: No pixel is uncovered in any frame, or a file cannot be read.
    """
    import cv2

    streams = [iter_mask(path) for path in masks]
    total, count = np.zeros((1, 1, 1)), np.zeros((1, 1))
    with VideoReader(video) as reader:
        for frame in reader:
            picture = frame.rgb()
            if not count.any():
                total, count = np.zeros(picture.shape), np.zeros(picture.shape[:2])
            hidden = np.zeros(picture.shape[:2], np.uint8)
            for stream in streams:
                hidden |= next(stream)
            radius = max(1, round(MARGIN * len(picture)))
            uncovered = cv2.dilate(hidden, np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)) == 0
            total += picture * uncovered[..., None]
            count += uncovered
    never = (count == 0).astype(np.uint8)
    if never.all():
        raise CastmixError(f"{video}: masks cover every pixel in all frames, so there is no clean plate")
    mean = np.asarray(total / np.maximum(count, 1)[..., None] + 0.5, np.uint8)
    if not never.any():
        return mean
    scale = min(1.0, INPAINT_HEIGHT / len(mean))
    size = (max(2, round(mean.shape[1] * scale)), max(2, round(mean.shape[0] * scale)))
    hole = (cv2.resize(never * 255, size, interpolation=cv2.INTER_AREA) > 0).astype(np.uint8)
    small = cv2.inpaint(cv2.resize(mean, size, interpolation=cv2.INTER_AREA), hole, 3, cv2.INPAINT_TELEA)
    guess = cv2.resize(small, mean.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return np.where(never[..., None] > 0, guess, mean)
