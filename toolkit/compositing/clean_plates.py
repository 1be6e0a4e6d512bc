"""Backgrounds that are one picture: a picture's file, or a clip's clean plate, without the people in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from toolkit.compositing.blending import Picture
from toolkit.core.errors import CastmixError
from toolkit.footage.decoding import VideoReader
from toolkit.footage.masks import iter_mask

CLEAR = 0.012
"""How far from everybody a pixel must be to be background, in picture heights: edges and shadows."""
FILLED_AT = 160
"""What nobody ever uncovers is filled in on a picture of this height."""


def image(path: Path, size: tuple[int, int] | None = None) -> Picture:
    """A picture (H, W, 3), of this height and width or as it is.

    Raises:
        CastmixError: It cannot be read.
    """
    with VideoReader(path) as reader:
        for frame in reader:
            return frame.rgb(*size) if size else frame.rgb()
    raise CastmixError(f"{path} cannot be read as a picture: save it anew, or take it away")


def plate(video: Path, masks: Sequence[Path]) -> Picture:
    """The background of a clip whose camera stands still, (H, W, 3).

    Each pixel is the mean of the frames in which nobody is there; what is hidden in all of them is filled in
    from around it (OpenCV's inpainting after Telea), which is a guess.
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
            reach = max(1, round(CLEAR * len(picture)))
            free = cv2.dilate(hidden, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)) == 0
            total += picture * free[..., None]
            count += free
    never = (count == 0).astype(np.uint8)
    if never.all():
        raise CastmixError(f"{video} shows no background in any frame: it has no clean plate")
    mean = np.asarray(total / np.maximum(count, 1)[..., None] + 0.5, np.uint8)
    if not never.any():
        return mean
    scale = min(1.0, FILLED_AT / len(mean))
    size = (max(2, round(mean.shape[1] * scale)), max(2, round(mean.shape[0] * scale)))
    hole = (cv2.resize(never * 255, size, interpolation=cv2.INTER_AREA) > 0).astype(np.uint8)
    small = cv2.inpaint(cv2.resize(mean, size, interpolation=cv2.INTER_AREA), hole, 3, cv2.INPAINT_TELEA)
    guess = cv2.resize(small, mean.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return np.where(never[..., None] > 0, guess, mean)
