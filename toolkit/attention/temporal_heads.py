"""Which heads of self-attention look along time, and which across the picture."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from toolkit.attention.maps import token_grid
from toolkit.core.seeds import generator_for
from toolkit.models.interfaces import Denoiser

RATIO = 1.25
QUERIES = 512
CHUNK = 64


def head_shares(
    denoiser: Denoiser,
    latents: Tensor,
    sigma: Tensor,
    prompt_embeds: Tensor,
    *,
    seed: int = 0,
    queries: int = QUERIES,
    reach: int = 1,
) -> Tensor:
    """How much of each head's attention stays near its token; float32 (blocks, heads, 2).

    The first number is the mean mass that falls within `reach` sites in the token's own frame, the second
    within as many sites in all other frames, over at most `queries` tokens drawn at random.
    (Follow-Your-Motion, 2025, compares attention with templates of both kinds.)

    latents: (B, C, f, h, w) at noise level sigma. prompt_embeds: (B, L, D).
    """
    module = denoiser.module
    layers = range(int(module.config.num_layers))  # type: ignore[union-attr, arg-type]
    grid = token_grid(denoiser, latents)
    order = torch.randperm(math.prod(grid), generator=generator_for(seed, 0, "heads/queries"))[:queries]
    frame, row, column = (index.flatten() for index in _grid(*grid))

    def read(kind: str, layer: int, q: Tensor, k: Tensor) -> Tensor:
        sums = torch.zeros(q.shape[1], 2, device=q.device)
        for start in range(0, len(order), CHUNK):
            rows = order[start : start + CHUNK]
            logits = q[:, :, rows].float() @ k.float().transpose(-1, -2) / q.shape[-1] ** 0.5
            mass = logits.softmax(-1)
            near = ((row[rows, None] - row).abs() <= reach) & ((column[rows, None] - column).abs() <= reach)
            same = frame[rows, None] == frame
            for which, where in enumerate((near & same, near & ~same)):
                sums[:, which] += (mass * where.to(mass)).sum((0, 2, 3))
        return sums / (len(order) * len(q))

    with torch.no_grad(), denoiser.tap(temporal=layers, read=read) as taps:
        denoiser(latents, sigma, prompt_embeds)
    return torch.stack([taps.maps["temporal", layer] for layer in layers]).cpu()


def temporal_heads(shares: Tensor, ratio: float = RATIO) -> dict[int, tuple[int, ...]]:
    """Heads by block whose mass across the picture is below `ratio` times that along time (ibid.: 1.25).

    shares: what `head_shares` returned, or a mean of several. Blocks without such a head have an empty tuple.
    """
    temporal = shares[..., 0] < ratio * shares[..., 1]
    return {block: tuple(row.nonzero()[:, 0].tolist()) for block, row in enumerate(temporal)}


def _grid(frames: int, height: int, width: int) -> tuple[Tensor, ...]:
    """Frame, row and column of every token in the network's order."""
    return torch.meshgrid(*map(torch.arange, (frames, height, width)), indexing="ij")
