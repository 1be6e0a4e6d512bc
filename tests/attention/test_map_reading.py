"""Attention maps of a real network: which layers, by hand and by `read_maps`, and their gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from toolkit.attention.map_reading import LAYERS, MapLayers, map_layers, map_reducer, read_maps, token_grid
from toolkit.attention.maps import temporal_maps, token_maps
from toolkit.core.errors import CastmixError
from toolkit.models import registry as models


def test_map_layers_are_blocks_of_the_network() -> None:
    for blocks in (1, 2, 8, 30, 40):
        layers = map_layers(blocks)
        for kind in (layers.cross, layers.temporal):
            assert kind
            assert sorted(set(kind)) == list(kind)
            assert 0 <= kind[0] <= kind[-1] < blocks
    assert map_layers(8) is LAYERS[8]
    assert map_layers(30).cross == (6, 7, 9, 11, 13, 15)


def test_read_maps_sees_the_attention_of_a_network(tiny_wan: Path) -> None:
    denoiser: Any = models.load_denoiser(str(tiny_wan))
    torch.manual_seed(0)
    latents, embeds, sigma = torch.randn(2, 16, 3, 4, 6), torch.randn(2, 8, 24), torch.tensor(0.6)
    grid, spans, both = token_grid(denoiser, latents), [(0, 1), (3,)], MapLayers((0, 1), (1,))
    assert grid == (3, 2, 3)

    def read(latents: Tensor, kind: Any) -> Tensor:
        return read_maps(denoiser, latents, sigma, embeds, spans=spans, real=5, layers=both, kind=kind)

    with torch.no_grad(), denoiser.capture_attention(cross=(0, 1), temporal=(1,)) as captured:
        denoiser(latents, sigma, embeds)
        by_hand = torch.stack([token_maps(*captured.cross[i], spans, 5, grid) for i in (0, 1)]).mean(0)
    with torch.no_grad():
        assert torch.allclose(read(latents, "token"), by_hand, atol=1e-6)
        temporal = read(latents, "temporal")
        assert torch.allclose(temporal[0], temporal_maps(*captured.temporal[1], grid), atol=1e-6)
    assert temporal.shape == (1, 2, 2, 6, 3, 3)
    latents.requires_grad_()
    for kind in ("token", "temporal"):
        denoiser.module.disable_gradient_checkpointing()
        (plain,) = torch.autograd.grad(read(latents, kind).square().sum(), latents)
        denoiser.module.enable_gradient_checkpointing()
        (checkpointed,) = torch.autograd.grad(read(latents, kind).square().sum(), latents)
        assert plain.abs().max() > 1e-7
        assert torch.allclose(plain, checkpointed, rtol=1e-5, atol=1e-9)
    with pytest.raises(CastmixError, match=r"token maps need layers.cross and spans"):
        read_maps(denoiser, latents, sigma, embeds, layers=both, kind="token")


def test_gradients_with_respect_to_latents_equal_finite_differences(tiny_wan: Path) -> None:
    denoiser: Any = models.load_denoiser(str(tiny_wan), dtype=torch.float64)
    denoiser.module.enable_gradient_checkpointing()
    torch.manual_seed(0)
    latents = torch.randn(1, 16, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    embeds, direction = torch.randn(1, 8, 24, dtype=torch.float64), torch.randn_like(latents)
    reduce = map_reducer((3, 2, 3), spans=[(0, 1), (3,)], real=5, window=1)

    def loss(latents: Tensor) -> Tensor:
        with denoiser.capture_attention(cross=(1,), temporal=(0, 1), stop_after=1, reduce=reduce) as captured:
            denoiser(latents, torch.tensor(0.6), embeds)
        return torch.stack([maps.square().sum() for maps in captured.maps.values()]).sum()

    (gradient,) = torch.autograd.grad(loss(latents), latents)
    with torch.no_grad():
        step = 1e-3 * direction
        slope = float(loss(latents + step) - loss(latents - step)) / 2e-3
    # Wan's blocks norm in float32 whatever goes in, which bounds what a difference can show
    assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-3)
    assert abs(slope) > 0.1
