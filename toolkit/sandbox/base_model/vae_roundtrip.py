"""Encodes and decodes clips with a base model's VAE, and measures the reconstruction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from toolkit.models.interfaces import Encoders


def redraw(encoders: Encoders, clip: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Encode and decode a clip (F, H, W, 3) uint8 with the VAE."""
    import torch

    from toolkit.models.pixels import frames_to_video, video_to_frames

    with torch.no_grad():
        latents = encoders.encode_video(frames_to_video(clip)[None])
        return video_to_frames(encoders.decode_video(latents)[0])


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Return the peak signal-to-noise ratio of two uint8 clips in dB."""
    error = np.square(a.astype(np.float64) - b).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))
