"""Clips as a base model's VAE draws them again, and how close they come."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from toolkit.models.interfaces import Encoders


def redraw(encoders: Encoders, clip: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A clip (F, H, W, 3) after encoding and decoding."""
    import torch

    from toolkit.models.pixels import frames_to_video, video_to_frames

    with torch.no_grad():
        latents = encoders.encode_video(frames_to_video(clip)[None])
        return video_to_frames(encoders.decode_video(latents)[0])


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB of two clips."""
    error = np.square(a.astype(np.float64) - b).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))
