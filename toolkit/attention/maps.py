"""Attention maps: where the words of a prompt appear in the video, and how places relate over time.

The maps are functions of the queries and keys that `Denoiser.capture_attention` captures. They are
differentiable and are computed in float32 (float64 stays float64), one head at a time. If gradients are
needed, each head is recomputed in the backward pass instead of stored.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, pad
from torch.utils.checkpoint import checkpoint

from toolkit.core.errors import CastmixError

Grid = tuple[int, int, int]
"""Number of tokens as (frames, rows, columns), (f, h, w)."""


def token_maps(q: Tensor, k: Tensor, spans: Sequence[Sequence[int]], real: int, grid: Grid) -> Tensor:
    """Cross-attention of each video token to each span of the prompt, in [0, 1]; (B, len(spans), f, h, w).

        A_a(p, k) = softmax over the real tokens k of <q_a(p), k_a(k)> / sqrt(d)
        M_i(p) = mean over heads a of the sum over k in span i of A_a(p, k)

    These are the cross-attention maps of VideoMage's eq. 7. Wan also attends to the padding after a prompt;
    in an untrained network the padding gets nine tenths of the attention. So it is left out of the softmax.

    Args:
        q: Queries of the video tokens, (B, heads, N, d).
        k: Keys of the prompt tokens, (B, heads, L, d).
        spans: Positions of the tokens of each subject, below `real`.
        real: Number of prompt tokens before the padding.
        grid: (f, h, w) with N = f h w.

    Raises:
        CastmixError: A span is empty or outside the real tokens, or N does not match the grid.
    """
    _check_grid(q, grid)
    if not 1 <= real <= k.shape[2]:
        raise CastmixError(f"real must be between 1 and the {k.shape[2]} tokens of the keys, got {real}")
    for span in spans or [()]:
        if not span or not all(0 <= position < real for position in span):
            raise CastmixError(f"a span holds positions from 0 to {real - 1} (real tokens), got {span}")
    columns = [torch.tensor(list(span), device=q.device) for span in spans]
    heads = [_checkpointed(_token_map, q[:, a], k[:, a, :real], columns) for a in range(q.shape[1])]
    maps: Tensor = torch.stack(heads).mean(0)
    return maps.reshape(*maps.shape[:2], *grid)


def normalised(maps: Tensor) -> Tensor:
    """Divide each subject's map by its maximum; (B, n, f, h, w), in [0, 1].

    Maps of different words and of prompts of different lengths become comparable. The maximum is a constant
    for the gradient.
    """
    return maps / (maps.detach().amax((-3, -2, -1), keepdim=True) + 1e-6)


def temporal_maps(
    q: Tensor, k: Tensor, grid: Grid, *, sites: Tensor | None = None, window: int = 0
) -> Tensor:
    """Self-attention of each site to the same site in all frames; (B, heads, S, f, f (2 window + 1)^2).

        M_a,s(f, f') = softmax over f' of <q_a(f, s), k_a(f', s)> / sqrt(d)

    This is the temporal self-attention of VideoMage (Alg. 1). Wan attends over space and time at once, so its
    full attention is restricted to one site (row and column) and renormalised.

    With a window, the keys are those of all sites at most `window` rows and columns away. The last axis then
    runs over frames, and within each frame over the window's rows and columns. Sites outside the picture have
    probability 0.

    Args:
        q: Queries, (B, heads, N, d), with rotary positions applied.
        k: Keys, likewise.
        grid: (f, h, w) with N = f h w.
        sites: (S,), sites as row * w + column. Default: all.
        window: Radius of the window in tokens.

    Raises:
        CastmixError: N does not match the grid, the window is negative, or a site is outside the grid.
    """
    _check_grid(q, grid)
    _, rows, columns = grid
    if window < 0:
        raise CastmixError(f"window must be 0 or more, got {window}")
    if sites is None:
        sites = torch.arange(rows * columns)
    elif sites.numel() and not 0 <= int(sites.min()) <= int(sites.max()) < rows * columns:
        raise CastmixError(
            f"sites must be between 0 and {rows * columns - 1} ({rows}x{columns} sites), "
            f"got {int(sites.min())} to {int(sites.max())}"
        )
    near, outside = _neighbours(sites, rows, columns, window)
    one_head = functools.partial(
        _temporal_map,
        sites=sites.to(q.device),
        near=near.to(q.device),
        outside=outside.to(q.device),
        grid=grid,
    )
    return torch.stack([_checkpointed(one_head, q[:, a], k[:, a]) for a in range(q.shape[1])], 1)


def mask_target(mask: Tensor, grid: Grid) -> Tensor:
    """Downsample a pixel mask to a token grid, as the target of a token map; float32 (f, h, w), in [0, 1].

    Each value is the mean over the pixels of a token's square and over the pixel frames of its latent frame.
    Latent frame 0 covers pixel frame 0 alone; latent frame f covers the four frames 4f-3 to 4f. (This is
    nominal: Wan's VAE is causal, so earlier frames have some influence.)

    mask: (F, H, W) uint8, 255 is the subject.

    Raises:
        CastmixError: F does not match the grid's number of frames.
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


def _checkpointed(function: Callable[..., Tensor], *inputs: object) -> Tensor:
    """Call a function of tensors without autocast; for the gradient only its inputs are stored."""

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
    """Token maps of one head: q (B, N, d), k (B, real, d) to (B, spans, N)."""
    logits = _at_least_float32(q) @ _at_least_float32(k).mT / q.shape[-1] ** 0.5
    total = logits.logsumexp(-1)
    return torch.stack([(logits[..., span].logsumexp(-1) - total).exp() for span in columns], 1)


def _temporal_map(q: Tensor, k: Tensor, sites: Tensor, near: Tensor, outside: Tensor, grid: Grid) -> Tensor:
    """Temporal maps of one head: q, k (B, N, d) to (B, S, f, f K); near, outside: (S, K)."""
    frames = grid[0]
    by_frame = (len(q), frames, -1, q.shape[-1])
    queries = _at_least_float32(q).reshape(by_frame)[:, :, sites]
    keys = _at_least_float32(k).reshape(by_frame)[:, :, near]
    logits = torch.einsum("bfsd,bgskd->bsfgk", queries, keys) / q.shape[-1] ** 0.5
    logits = logits.masked_fill(outside[:, None, None, :], -torch.inf)
    return torch.softmax(logits.flatten(-2), -1)


def _neighbours(sites: Tensor, rows: int, columns: int, window: int) -> tuple[Tensor, Tensor]:
    """Sites around each site, row by row, (S, K), and which of them are outside (their index is 0)."""
    numbers = torch.arange(rows * columns).view(rows, columns)
    numbers = pad(numbers, (window, window, window, window), value=-1)
    side = 2 * window + 1
    around = numbers.unfold(0, side, 1).unfold(1, side, 1).flatten(2).flatten(0, 1)[sites.cpu()]
    return around.clamp(min=0), around < 0


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _check_grid(q: Tensor, grid: Grid) -> None:
    frames, rows, columns = grid
    if q.shape[2] != frames * rows * columns:
        raise CastmixError(
            f"got {q.shape[2]} tokens, expected {frames * rows * columns} for the grid (f, h, w) of "
            f"{frames}x{rows}x{columns}"
        )
