"""Reads attention maps from a network: which layers, how to reduce them to maps, and one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from toolkit.attention.maps import Grid, temporal_maps, token_maps
from toolkit.core.errors import CastmixError
from toolkit.models.interfaces import Denoiser, Reduce


@dataclass(frozen=True)
class MapLayers:
    """Indices of the blocks whose attention is read: `cross` for token maps, `temporal` for temporal maps."""

    cross: tuple[int, ...]
    temporal: tuple[int, ...]


LAYERS: dict[int, MapLayers] = {
    8: MapLayers(cross=(2, 3, 5), temporal=(2, 3, 5)),
}
"""Known good layers by number of blocks (8: the sandbox's model).

`castmix attention-maps --probe` ranks the blocks of a model.
"""


def map_layers(blocks: int) -> MapLayers:
    """The layers to read in a network with this many blocks.

    From `LAYERS` if known; else up to six, evenly spaced between 20 % and 50 % of the depth. Guidance runs
    the network up to the last of them, so late layers cost more.
    """
    if blocks in LAYERS:
        return LAYERS[blocks]
    even = torch.linspace(0.2 * blocks, 0.5 * blocks, 6).long().tolist()
    layers = tuple(sorted({min(layer, blocks - 1) for layer in even}))
    return MapLayers(layers, layers)


def token_grid(denoiser: Denoiser, latents: Tensor) -> Grid:
    """The token grid of latents (B, C, f, h, w)."""
    module: Any = denoiser.module
    patches = zip(latents.shape[2:], module.config.patch_size, strict=True)
    frames, rows, columns = (size // patch for size, patch in patches)
    return frames, rows, columns


def every_second_site(grid: Grid) -> Tensor:
    """Every second site of every second row, (S,): a quarter of all sites."""
    _, rows, columns = grid
    return torch.arange(rows * columns).view(rows, columns)[::2, ::2].flatten()


def map_reducer(
    grid: Grid,
    *,
    spans: Sequence[Sequence[int]] = (),
    real: int = 0,
    sites: Tensor | None = None,
    window: int = 0,
) -> Reduce:
    """A function for `Denoiser.capture_attention(reduce=...)` that computes maps inside the blocks.

    Queries and keys need not be stored then. Cross-attention layers yield `token_maps` of spans and real,
    self-attention layers `temporal_maps` of sites and window.
    """

    def reduce(kind: str, layer: int, q: Tensor, k: Tensor) -> Tensor:
        if kind == "cross":
            return token_maps(q, k, spans, real, grid)
        return temporal_maps(q, k, grid, sites=sites, window=window)

    return reduce


def read_maps(
    denoiser: Denoiser,
    latents: Tensor,
    sigma: Tensor,
    prompt_embeds: Tensor,
    *,
    spans: Sequence[Sequence[int]] | None = None,
    real: int = 0,
    layers: MapLayers,
    kind: Literal["token", "temporal"],
    sites: Tensor | None = None,
    window: int = 0,
) -> Tensor:
    """Run the network up to the last layer that is read, and return its attention maps (differentiable).

    Args:
        denoiser: The network.
        latents: (B, C, f, h, w), noisy.
        sigma: Noise level of the latents.
        prompt_embeds: (B, L, D); `spans` and `real` must hold for all prompts of the batch.
        spans: Token positions of each subject, for token maps.
        real: Number of prompt tokens before the padding, for token maps.
        layers: The layers to read.
        kind: "token": the mean of `token_maps` over layers.cross. "temporal": `temporal_maps` of
            layers.temporal, stacked: (layers, B, heads, S, f, f (2 window + 1)^2).
        sites: Sites of temporal maps. Default: all.
        window: Window of temporal maps.

    Raises:
        CastmixError: There are no layers of this kind, the network has no such layer, or as `token_maps`.
    """
    attention = "cross" if kind == "token" else "temporal"
    wanted = layers.cross if kind == "token" else layers.temporal
    if not wanted or (kind == "token" and not spans):
        raise CastmixError(
            f"{kind} maps need layers.{attention}{' and spans' if kind == 'token' else ''}, got none"
        )
    reduce = map_reducer(
        token_grid(denoiser, latents), spans=spans or (), real=real, sites=sites, window=window
    )
    with denoiser.capture_attention(
        cross=wanted if attention == "cross" else (),
        temporal=wanted if attention == "temporal" else (),
        stop_after=max(wanted),
        reduce=reduce,
    ) as captured:
        denoiser(latents, sigma, prompt_embeds)
    maps = torch.stack([captured.maps[attention, layer] for layer in wanted])
    return maps.mean(0) if kind == "token" else maps
