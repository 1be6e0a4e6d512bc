"""Where a prompt's words are in the picture, and how places move: maps from a network's attention.

Plain functions of the queries and keys that `Denoiser.tap` hands out. All are differentiable, computed in
float32 (float64 stays float64) and head by head: under gradients each head is computed again in the backward
pass instead of kept.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, pad
from torch.utils.checkpoint import checkpoint

from toolkit.core.errors import CastmixError
from toolkit.models.interfaces import Denoiser, Read

Grid = tuple[int, int, int]
"""Tokens in (frames, rows, columns)."""


@dataclass(frozen=True)
class MapLayers:
    """Blocks whose attention is read: cross for `token_maps`, temporal for `temporal_maps`."""

    cross: tuple[int, ...]
    temporal: tuple[int, ...]


LAYERS: dict[int, MapLayers] = {
    8: MapLayers(cross=(2, 3, 5), temporal=(2, 3, 5)),
}
"""By the number of blocks: the sandbox's. `castmix attention-maps --probe` ranks the blocks of a model."""


def map_layers(blocks: int) -> MapLayers:
    """The layers to read of a network of so many blocks: LAYERS', else up to six, even, below the middle.

    Guidance runs the network up to the last of them, so late ones cost more.
    """
    if blocks in LAYERS:
        return LAYERS[blocks]
    even = torch.linspace(0.2 * blocks, 0.5 * blocks, 6).long().tolist()
    layers = tuple(sorted({min(layer, blocks - 1) for layer in even}))
    return MapLayers(layers, layers)


def token_maps(q: Tensor, k: Tensor, spans: Sequence[Sequence[int]], real: int, grid: Grid) -> Tensor:
    """How much each place attends to each span of the prompt, in [0, 1]; (B, len(spans), f, h, w).

        A_a(p, k) = softmax over the real tokens k of <q_a(p), k_a(k)> / sqrt(d)
        M_i(p) = mean over heads a of the sum over k in span i of A_a(p, k)

    the cross-attention maps of VideoMage's eq. 7. Wan attends to the pads behind a prompt, too, and in an
    untrained network nine tenths of the attention are theirs; so they are left out of the softmax.

    q: (B, heads, N, d). k: (B, heads, L, d). real: tokens of the prompt, the first columns of L. spans:
    positions below real, of one or several tokens each. grid: N = f h w.

    Raises:
        CastmixError: an empty span, a position outside the real tokens, another number of tokens than the
        grid's.
    """
    _check_grid(q, grid)
    if not 1 <= real <= k.shape[2]:
        raise CastmixError(f"real must be between 1 and the {k.shape[2]} columns of the keys, got {real}")
    for span in spans or [()]:
        if not span or not all(0 <= position < real for position in span):
            raise CastmixError(f"a span must be positions between 0 and {real - 1} (real tokens), got {span}")
    columns = [torch.tensor(list(span), device=q.device) for span in spans]
    heads = [_lean(_token_map, q[:, a], k[:, a, :real], columns) for a in range(q.shape[1])]
    maps: Tensor = torch.stack(heads).mean(0)
    return maps.reshape(*maps.shape[:2], *grid)


def normalised(maps: Tensor) -> Tensor:
    """Each subject's map over its largest value, a constant to the gradient; (B, n, f, h, w), in [0, 1].

    So maps of prompts of different lengths, and of different words, can be compared.
    """
    return maps / (maps.detach().amax((-3, -2, -1), keepdim=True) + 1e-6)


def temporal_maps(
    q: Tensor, k: Tensor, grid: Grid, *, sites: Tensor | None = None, window: int = 0
) -> Tensor:
    """How one place of a frame attends to the same place of all frames; (B, heads, S, f, f (2 window + 1)^2).

        M_a,s(f, f') = softmax over f' of <q_a(f, s), k_a(f', s)> / sqrt(d)

    the temporal self-attention of VideoMage (Alg. 1) in a network whose attention is over space and time at
    once: its full attention, restricted to one place and renormalised. With a window the keys are those of
    the places at most so far away in rows and columns; the last axis then runs over frames, and in each over
    the window's rows and columns. What lies outside the picture has probability 0.

    q, k: (B, heads, N, d), with their rotary positions. sites: (S,) places, row * w + column; all if left
    out.

    Raises:
        CastmixError: another number of tokens than the grid's, a negative window, a site outside the grid.
    """
    _check_grid(q, grid)
    _, rows, columns = grid
    if window < 0:
        raise CastmixError(f"window must be 0 or more, got {window}")
    if sites is None:
        sites = torch.arange(rows * columns)
    elif sites.numel() and not 0 <= int(sites.min()) <= int(sites.max()) < rows * columns:
        raise CastmixError(
            f"sites must be between 0 and {rows * columns - 1} ({rows}x{columns} places), "
            f"got {int(sites.min())} to {int(sites.max())}"
        )
    near, outside = _neighbours(sites, rows, columns, window)
    place = functools.partial(
        _temporal_map,
        sites=sites.to(q.device),
        near=near.to(q.device),
        outside=outside.to(q.device),
        grid=grid,
    )
    return torch.stack([_lean(place, q[:, a], k[:, a]) for a in range(q.shape[1])], 1)


def token_grid(denoiser: Denoiser, latents: Tensor) -> Grid:
    """The (f, h, w) in tokens of latents (B, C, f, h, w)."""
    module: Any = denoiser.module
    patches = zip(latents.shape[2:], module.config.patch_size, strict=True)
    frames, rows, columns = (size // patch for size, patch in patches)
    return frames, rows, columns


def every_second(grid: Grid) -> Tensor:
    """Every second place of every second row, (S,): a quarter of the places."""
    _, rows, columns = grid
    return torch.arange(rows * columns).view(rows, columns)[::2, ::2].flatten()


def reader(
    grid: Grid,
    *,
    spans: Sequence[Sequence[int]] = (),
    real: int = 0,
    sites: Tensor | None = None,
    window: int = 0,
) -> Read:
    """What `Denoiser.tap(read=...)` takes to make maps inside the blocks, at no memory for queries and keys.

    Cross layers give `token_maps` of spans and real, temporal layers `temporal_maps` of sites and window.
    """

    def read(kind: str, layer: int, q: Tensor, k: Tensor) -> Tensor:
        if kind == "cross":
            return token_maps(q, k, spans, real, grid)
        return temporal_maps(q, k, grid, sites=sites, window=window)

    return read


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
    """Maps of latents (B, C, f, h, w) at noise level sigma, differentiable in all that made them.

    The network runs only up to the last layer that is read. "token": `token_maps`, mean over layers.cross;
    all rows of the batch have prompts with these spans and so many real tokens. "temporal": `temporal_maps`
    of layers.temporal, stacked in front: (layers, B, heads, S, f, f (2 window + 1)^2).

    Raises:
        CastmixError: no layers of the kind, or none of that number in the network; as `token_maps`.
    """
    tap = "cross" if kind == "token" else "temporal"
    wanted = layers.cross if kind == "token" else layers.temporal
    if not wanted or (kind == "token" and not spans):
        raise CastmixError(
            f"{kind} maps need layers.{tap}{' and spans' if kind == 'token' else ''}, got none"
        )
    read = reader(token_grid(denoiser, latents), spans=spans or (), real=real, sites=sites, window=window)
    with denoiser.tap(
        cross=wanted if tap == "cross" else (),
        temporal=wanted if tap == "temporal" else (),
        stop_after=max(wanted),
        read=read,
    ) as taps:
        denoiser(latents, sigma, prompt_embeds)
    maps = torch.stack([taps.maps[tap, layer] for layer in wanted])
    return maps.mean(0) if kind == "token" else maps


def mask_target(mask: Tensor, grid: Grid) -> Tensor:
    """A mask in pixels as the target of a token map; float32 (f, h, w), in [0, 1].

    A latent frame covers the pixel frames that Wan's VAE makes it of: the first one covers the first alone,
    frame f the four from 4f-3 to 4f (nominally: the VAE is causal, so earlier pixels matter, too). Within
    them, and within a token's square, it is the average.

    mask: (F, H, W) uint8, 255 is the subject.

    Raises:
        CastmixError: frames that the grid does not divide.
    """
    frames, rows, columns = grid
    count = len(mask)
    stride = (count - 1) // (frames - 1) if frames > 1 else 1
    if count != stride * (frames - 1) + 1 or stride < 1:
        raise CastmixError(
            f"a mask of {count} frames does not fit {frames} latent frames: expected {4 * (frames - 1) + 1}"
        )
    small = adaptive_avg_pool2d(mask.float().unsqueeze(1) / 255, (rows, columns)).squeeze(1)
    if frames == 1:
        return small
    return torch.cat([small[:1], small[1:].reshape(frames - 1, stride, rows, columns).mean(1)])


def _lean(function: Callable[..., Tensor], *inputs: object) -> Tensor:
    """Call a function of tensors, keeping nothing for its gradient but its inputs; never under autocast."""

    def exact(*inputs: object) -> Tensor:
        with torch.autocast(
            next(one for one in inputs if isinstance(one, Tensor)).device.type, enabled=False
        ):
            return function(*inputs)

    if not torch.is_grad_enabled():
        return exact(*inputs)
    result: Tensor = checkpoint(exact, *inputs, use_reentrant=False, preserve_rng_state=False)
    return result


def _token_map(q: Tensor, k: Tensor, columns: Sequence[Tensor]) -> Tensor:
    """One head: q (B, N, d), k (B, real, d) to (B, spans, N)."""
    logits = _wide(q) @ _wide(k).mT / q.shape[-1] ** 0.5
    whole = logits.logsumexp(-1)
    return torch.stack([(logits[..., span].logsumexp(-1) - whole).exp() for span in columns], 1)


def _temporal_map(q: Tensor, k: Tensor, sites: Tensor, near: Tensor, outside: Tensor, grid: Grid) -> Tensor:
    """One head: q, k (B, N, d) to (B, S, f, f K); near, outside: (S, K)."""
    frames = grid[0]
    by_frame = (len(q), frames, -1, q.shape[-1])
    queries, keys = _wide(q).reshape(by_frame)[:, :, sites], _wide(k).reshape(by_frame)[:, :, near]
    logits = torch.einsum("bfsd,bgskd->bsfgk", queries, keys) / q.shape[-1] ** 0.5
    logits = logits.masked_fill(outside[:, None, None, :], -torch.inf)
    return torch.softmax(logits.flatten(-2), -1)


def _neighbours(sites: Tensor, rows: int, columns: int, window: int) -> tuple[Tensor, Tensor]:
    """Places around each site, row by row, (S, K), and which of them lie outside; those stand for place 0."""
    numbers = torch.arange(rows * columns).view(rows, columns)
    numbers = pad(numbers, (window, window, window, window), value=-1)
    side = 2 * window + 1
    around = numbers.unfold(0, side, 1).unfold(1, side, 1).flatten(2).flatten(0, 1)[sites.cpu()]
    return around.clamp(min=0), around < 0


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _check_grid(q: Tensor, grid: Grid) -> None:
    frames, rows, columns = grid
    if q.shape[2] != frames * rows * columns:
        raise CastmixError(f"{q.shape[2]} tokens are no grid of {frames}x{rows}x{columns} (f, h, w)")
