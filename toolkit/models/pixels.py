"""Frames (uint8) and videos as models take them (float32 in [-1, 1])."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def from_bytes(pixels: Tensor) -> Tensor:
    """Convert uint8 to values in [-1, 1], float32."""
    return pixels.float() / 127.5 - 1


def to_bytes(values: Tensor) -> Tensor:
    """Convert values in [-1, 1] to uint8, rounded; values outside are clamped."""
    return ((values.clamp(-1, 1) + 1) * 127.5).round().byte()


def frames_to_video(frames: NDArray[np.uint8]) -> Tensor:
    """Convert frames (..., F, H, W, 3) uint8 to a video (..., 3, F, H, W) in [-1, 1], on the CPU."""
    return from_bytes(torch.from_numpy(frames).movedim(-1, -4))


def video_to_frames(video: Tensor) -> NDArray[np.uint8]:
    """Convert a video (..., 3, F, H, W) in [-1, 1] to frames (..., F, H, W, 3) uint8."""
    frames: NDArray[np.uint8] = to_bytes(video).movedim(-4, -1).cpu().numpy()
    return frames
