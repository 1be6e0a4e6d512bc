"""Defines the latent space of the sandbox's VAE: principal components of small space-time blocks.

Training a latent space end to end stalls on a CPU. Here the latents are defined first, as principal
components of 1x8x8 blocks (the first frame, which a causal Wan VAE encodes alone) and of 4x8x8 blocks (all
other frames). Then the VAE's encoder is trained to predict these latents, and its decoder to reconstruct the
video from them, better than the linear inverse. The DiT can be trained at the same time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toolkit.models.pixels import from_bytes

SPATIAL, TEMPORAL = 8, 4


def to_blocks(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Split clips (N, F, H, W, 3) uint8 into blocks with values in [-1, 1].

    Returns the blocks of the first frame (N, 1, h, w, 192) and of the other frames (N, f-1, h, w, 768).
    """
    video = from_bytes(frames)
    n, f, h, w, _ = video.shape
    split = video.reshape(n, f, h // SPATIAL, SPATIAL, w // SPATIAL, SPATIAL, 3)
    first = split[:, :1].permute(0, 1, 2, 4, 3, 5, 6).flatten(4)
    rest = (
        split[:, 1:]
        .reshape(n, (f - 1) // TEMPORAL, TEMPORAL, *split.shape[2:])
        .permute(0, 1, 3, 5, 2, 4, 6, 7)
    )
    return first, rest.flatten(4)


@dataclass(frozen=True)
class LinearCodec:
    """Mean (D,) and basis (D, C) for the blocks of the first frame and of the other frames.

    The basis includes the scale of each channel.
    """

    first: tuple[Tensor, Tensor]
    rest: tuple[Tensor, Tensor]

    def encode(self, frames: Tensor) -> Tensor:
        """Encode clips (N, F, H, W, 3) uint8 to normalised latents (N, C, f, h, w)."""
        parts = [
            (blocks - mean) @ basis
            for blocks, (mean, basis) in zip(to_blocks(frames), (self.first, self.rest), strict=True)
        ]
        return torch.cat(parts, 1).permute(0, 4, 1, 2, 3)


def fit_linear(frames: NDArray[np.uint8], channels: int) -> LinearCodec:
    """Fit the codec on clips (N, F, H, W, 3).

    Each channel is scaled so that its std is proportional to the square root of its original std, with a mean
    square of 1 over all channels. Strong channels stay above the noise for longer. Sampling therefore
    determines the coarse structure first and details last.
    """
    sums: list[list[Tensor]] = [[], []]
    for start in range(0, len(frames), 100):
        for k, blocks in enumerate(to_blocks(torch.from_numpy(frames[start : start + 100]))):
            x = blocks.reshape(-1, blocks.shape[-1])
            sums[k].append(x.T @ x / len(x))
            sums[k].append(x.mean(0))
    fitted: list[tuple[Tensor, Tensor]] = []
    for parts in sums:
        mean = torch.stack(parts[1::2]).mean(0)
        second = torch.stack(parts[0::2]).mean(0)
        variance, vectors = torch.linalg.eigh(second - mean[:, None] * mean[None])
        std = variance[-channels:].flip(0).sqrt()
        basis = vectors[:, -channels:].flip(1)
        fitted.append((mean, basis / std * (std / std.mean()).sqrt()))
    return LinearCodec(fitted[0], fitted[1])
