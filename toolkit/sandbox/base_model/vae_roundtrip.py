"""Clips as a base model's VAE draws them again, and how close they come."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    from toolkit.models.interfaces import Encoders


def to_frames(videos: Tensor) -> list[NDArray[np.uint8]]:
    """Videos (B, 3, F, H, W) in -1..1 as uint8 clips (F, H, W, 3)."""
    return list(((videos.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 4, 1).numpy())


def redraw(encoders: Encoders, clip: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A clip (F, H, W, 3) after encoding and decoding."""
    import torch

    video = torch.from_numpy(clip).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    with torch.no_grad():
        return to_frames(encoders.decode_video(encoders.encode_video(video)))[0]


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB of two clips."""
    error = np.square(a.astype(np.float64) - b).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))
