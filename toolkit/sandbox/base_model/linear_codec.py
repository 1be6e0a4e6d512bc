"""Defines the latent space of the sandbox's VAE: principal components of space-time blocks of 4x8x8 pixels.

Training a latent space end to end stalls on a CPU. Here the latents are defined first, as principal
components. Then the VAE's encoder is trained to predict these latents, and its decoder to reconstruct the
video from them, better than the linear inverse.

A causal Wan VAE encodes the first frame alone. Its latents are those of a still: four equal frames. All
latent frames therefore share the same components, and what the DiT learns on one frame holds for all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toolkit.models.pixels import from_bytes

SPATIAL, TEMPORAL = 8, 4


def to_blocks(frames: Tensor) -> Tensor:
    """Split clips (N, F, H, W, 3) uint8 into blocks (N, f, h, w, 768) with values in [-1, 1].

    The blocks of the first latent frame hold the first frame four times.
    """
    video = from_bytes(frames)
    n, _, height, width, _ = video.shape
    video = torch.cat([video[:, :1].expand(-1, TEMPORAL - 1, -1, -1, -1), video], 1)
    split = video.reshape(n, -1, TEMPORAL, height // SPATIAL, SPATIAL, width // SPATIAL, SPATIAL, 3)
    return split.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4)


@dataclass(frozen=True)
class LinearCodec:
    """Mean (D,) of the blocks and basis (D, C). The basis includes the scale of each channel."""

    mean: Tensor
    basis: Tensor

    def encode(self, frames: Tensor) -> Tensor:
        """Encode clips (N, F, H, W, 3) uint8 to normalised latents (N, C, f, h, w)."""
        latents: Tensor = (to_blocks(frames) - self.mean) @ self.basis
        return latents.permute(0, 4, 1, 2, 3)

    def decode(self, latents: Tensor) -> Tensor:
        """Return the blocks (N, f, h, w, D) closest to what `encode` encoded to latents (N, C, f, h, w)."""
        blocks: Tensor = latents.permute(0, 2, 3, 4, 1) @ torch.linalg.pinv(self.basis) + self.mean
        return blocks


def fit_linear(frames: NDArray[np.uint8], channels: int) -> LinearCodec:
    """Fit the codec on clips (N, F, H, W, 3).

    Each channel is scaled so that its std is proportional to the square root of its original std, with a mean
    square of 1 over all channels. Strong channels stay above the noise for longer. Sampling therefore
    determines the coarse structure first and details last.
    """
    mean, covariance = _statistics(frames)
    variance, vectors = torch.linalg.eigh(covariance)
    std = variance[-channels:].flip(0).sqrt()
    basis = vectors[:, -channels:].flip(1)
    return LinearCodec(mean, basis / std * (std / std.mean()).sqrt())


def fit_to_latents(frames: NDArray[np.uint8], latents: Tensor) -> LinearCodec:
    """Return the codec that predicts a VAE's latents (N, C, f, h, w) of clips (N, F, H, W, 3) best.

    The basis lies in the span of the C strongest principal components. Only latents of moving frames count:
    in `sandbox-1` the first frame has components of its own.
    """
    mean, covariance = _statistics(frames)
    channels = latents.shape[1]
    components = torch.linalg.eigh(covariance).eigenvectors[:, -channels:]
    coordinates = torch.cat(
        [(to_blocks(part)[:, 1:] - mean) @ components for part in _parts(frames)]
    ).flatten(0, 3)
    target = latents[:, :, 1:].permute(0, 2, 3, 4, 1).flatten(0, 3)
    known = torch.cat([coordinates, torch.ones(len(coordinates), 1)], 1).double()
    solution = torch.linalg.solve(known.T @ known, known.T @ target.double()).float()
    basis = components @ solution[:-1]
    return LinearCodec(mean - solution[-1] @ torch.linalg.pinv(basis), basis)


def _parts(frames: NDArray[np.uint8]) -> Iterator[Tensor]:
    for start in range(0, len(frames), 100):
        yield torch.from_numpy(np.array(frames[start : start + 100]))


def _statistics(frames: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """Return the mean (D,) and the covariance (D, D) of the blocks of clips (N, F, H, W, 3)."""
    means, seconds = [], []
    for part in _parts(frames):
        x = to_blocks(part).flatten(0, 3)
        means.append(x.mean(0))
        seconds.append(x.T @ x / len(x))
    mean = torch.stack(means).mean(0)
    return mean, torch.stack(seconds).mean(0) - mean[:, None] * mean[None]
