"""Classifies self-attention heads: temporal heads look along time, spatial heads within the frame."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from toolkit.attention.map_reading import token_grid
from toolkit.core.seeds import generator_for
from toolkit.models.interfaces import Denoiser

RATIO = 1.25
"""A head is temporal if its spatial attention is below this many times its temporal attention."""
QUERIES = 512
"""Query tokens that are sampled."""
CHUNK = 64
"""Query tokens per matrix product; limits memory."""


def head_shares(
    denoiser: Denoiser,
    latents: Tensor,
    sigma: Tensor,
    prompt_embeds: Tensor,
    *,
    seed: int = 0,
    queries: int = QUERIES,
    radius: int = 1,
) -> Tensor:
    """How much of each head's attention stays near the query token; float32 (blocks, heads, 2).

    [..., 0] is the spatial share: attention to tokens at most `radius` rows and columns away in the query's
    own frame. [..., 1] is the temporal share: the same in all other frames. Both are means over randomly
    sampled query tokens. (Follow-Your-Motion, 2025, compares attention with templates of both kinds.)

    Args:
        denoiser: The network.
        latents: (B, C, f, h, w) at noise level sigma.
        sigma: Noise level.
        prompt_embeds: (B, L, D).
        seed: Seed of the sampled query tokens.
        queries: Largest number of query tokens.
        radius: Distance in tokens.
    """
    module = denoiser.module
    layers = range(int(module.config.num_layers))  # type: ignore[union-attr, arg-type]
    grid = token_grid(denoiser, latents)
    order = torch.randperm(math.prod(grid), generator=generator_for(seed, 0, "heads/queries"))[:queries]
    frame, row, column = (index.flatten() for index in _grid(*grid))

    def reduce(kind: str, layer: int, q: Tensor, k: Tensor) -> Tensor:
        sums = torch.zeros(q.shape[1], 2, device=q.device)
        for start in range(0, len(order), CHUNK):
            rows = order[start : start + CHUNK]
            logits = q[:, :, rows].float() @ k.float().transpose(-1, -2) / q.shape[-1] ** 0.5
            mass = logits.softmax(-1)
            near = ((row[rows, None] - row).abs() <= radius) & ((column[rows, None] - column).abs() <= radius)
            same = frame[rows, None] == frame
            for which, where in enumerate((near & same, near & ~same)):
                sums[:, which] += (mass * where.to(mass)).sum((0, 2, 3))
        return sums / (len(order) * len(q))

    with torch.no_grad(), denoiser.capture_attention(temporal=layers, reduce=reduce) as captured:
        denoiser(latents, sigma, prompt_embeds)
    return torch.stack([captured.maps["temporal", layer] for layer in layers]).cpu()


def temporal_heads(shares: Tensor, ratio: float = RATIO) -> dict[int, tuple[int, ...]]:
    """Indices of the temporal heads of each block; an empty tuple for blocks without one.

    A head is temporal if its spatial share is below `ratio` times its temporal share (1.25 in
    Follow-Your-Motion). shares: the result of `head_shares`, or the mean of several.
    """
    temporal = shares[..., 0] < ratio * shares[..., 1]
    return {block: tuple(row.nonzero()[:, 0].tolist()) for block, row in enumerate(temporal)}


def _grid(frames: int, height: int, width: int) -> tuple[Tensor, ...]:
    """Frame, row and column of every token, in the network's order."""
    return torch.meshgrid(*map(torch.arange, (frames, height, width)), indexing="ij")
