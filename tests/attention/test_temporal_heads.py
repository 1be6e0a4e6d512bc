"""Which heads look along time: the numbers are those of the attention itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from toolkit.attention.temporal_heads import head_shares, temporal_heads
from toolkit.models import registry as models


def test_temporal_shares_equal_those_of_full_attention(tiny_wan: Path) -> None:
    denoiser = models.load_denoiser(str(tiny_wan))
    generator = torch.Generator().manual_seed(0)
    latents, embeds = (
        torch.randn(1, 16, 3, 8, 6, generator=generator),
        torch.randn(1, 8, 24, generator=generator),
    )
    sigma = torch.tensor(0.7)
    shares = head_shares(denoiser, latents, sigma, embeds)  # fewer tokens than queries: all of them
    assert shares.shape == (2, 2, 2)
    with torch.no_grad(), denoiser.capture_attention(temporal=[1]) as captured:
        denoiser(latents, sigma, embeds)
    q, k = captured.temporal[1]
    mass = (q @ k.transpose(-1, -2) / 16**0.5).softmax(-1)[0]
    tokens = [(f, i, j) for f in range(3) for i in range(4) for j in range(3)]
    spatial, temporal = torch.zeros(2), torch.zeros(2)
    for one, (f, i, j) in enumerate(tokens):
        for other, (g, y, x) in enumerate(tokens):
            if abs(i - y) <= 1 and abs(j - x) <= 1:
                (spatial if f == g else temporal).add_(mass[:, one, other] / len(tokens))
    assert torch.allclose(shares[1, :, 0], spatial, atol=1e-5)
    assert torch.allclose(shares[1, :, 1], temporal, atol=1e-5)
    some: Any = head_shares(denoiser, latents, sigma, embeds, queries=12, seed=3)
    assert torch.allclose(some, shares, atol=0.1)
    assert not torch.equal(some, shares)


def test_temporal_heads_exceed_the_ratio() -> None:
    shares = torch.tensor([[[0.1, 0.2], [0.3, 0.2]], [[0.24, 0.2], [0.26, 0.2]]])
    assert temporal_heads(shares) == {0: (0,), 1: (0,)}
    assert temporal_heads(shares, ratio=0.1) == {0: (), 1: ()}
