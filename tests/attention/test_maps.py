"""Maps from attention: against plain softmaxes and finite differences."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from toolkit.attention.maps import mask_target, normalised, temporal_maps, token_maps
from toolkit.core.errors import CastmixError

GRID = (3, 2, 4)


def heads(columns: int | None = None, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Queries of two rows, three heads and a grid's 24 tokens, and keys of so many columns."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, 3, n, 8, generator=generator, dtype=dtype) for n in (24, columns or 24))
    return q, k


def test_token_maps_are_the_softmax_over_real_tokens() -> None:
    q, k = heads(columns=9)
    spans = [(1,), (2, 4), (0, 3, 5)]
    maps = token_maps(q, k, spans, real=6, grid=GRID)
    truth = (q @ k[:, :, :6].mT / 8**0.5).softmax(-1).mean(1)  # (2, 24, 6)
    for i, span in enumerate(spans):
        assert torch.allclose(maps[:, i].flatten(1), truth[..., list(span)].sum(-1))
    assert maps.shape == (2, 3, *GRID)
    assert torch.allclose(maps.sum(1), torch.ones(2, *GRID, dtype=torch.float64))  # the spans are all of them
    k[:, :, 6:] = 100.0  # pads
    assert torch.equal(token_maps(q, k, spans, real=6, grid=GRID), maps)


def test_half_precision_is_read_in_single_even_under_autocast() -> None:
    q, k = heads(columns=6, dtype=torch.float32)
    q, k = q.bfloat16(), k.bfloat16()
    exact = token_maps(q.float(), k.float(), [(1,)], 6, GRID)
    with torch.autocast("cpu", torch.bfloat16):
        again = token_maps(q, k, [(1,)], 6, GRID)
        temporal = temporal_maps(q, q, GRID)
    assert torch.equal(again, exact)
    assert again.dtype == temporal.dtype == torch.float32
    assert torch.equal(temporal, temporal_maps(q.float(), q.float(), GRID))


@pytest.mark.parametrize("window", [0, 1, 2])
def test_temporal_maps_are_the_full_attention_restricted_and_renormalised(window: int) -> None:
    q, k = heads()
    frames, rows, columns = GRID
    full = (q @ k.mT / 8**0.5).softmax(-1).view(2, 3, frames, rows, columns, frames, rows, columns)
    maps = temporal_maps(q, k, GRID, window=window)
    side = 2 * window + 1
    assert maps.shape == (2, 3, 8, 3, 3 * side**2)
    maps = maps.view(2, 3, rows, columns, frames, frames, side, side)
    steps = range(-window, window + 1)
    for i, j in itertools.product(range(rows), range(columns)):
        wanted = torch.zeros(2, 3, frames, frames, side, side, dtype=torch.float64)
        for a, b in itertools.product(steps, steps):
            if 0 <= i + a < rows and 0 <= j + b < columns:
                wanted[..., a + window, b + window] = full[:, :, :, i, j, :, i + a, j + b]
        wanted = wanted / wanted.sum((-3, -2, -1), keepdim=True)
        assert torch.allclose(maps[:, :, i, j], wanted)
    some = torch.tensor([5, 0])
    assert torch.allclose(
        temporal_maps(q, k, GRID, sites=some, window=window),
        temporal_maps(q, k, GRID, window=window)[:, :, some],
    )


def test_gradients_equal_finite_differences() -> None:
    q, k = (x[:1, :2, :8].clone().requires_grad_() for x in heads())
    grid = (2, 2, 2)
    sites = torch.tensor([3, 1])
    assert torch.autograd.gradcheck(lambda q, k: token_maps(q, k, [(0, 2), (1,)], 4, grid), (q, k))
    assert torch.autograd.gradcheck(lambda q, k: temporal_maps(q, k, grid, sites=sites, window=1), (q, k))


def test_only_inputs_are_saved_for_the_backward_pass() -> None:
    q, k = (x.requires_grad_() for x in heads())
    kept: list[tuple[int, ...]] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(tuple(x.shape))
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        token_maps(q, k, [(0, 2)], 4, GRID)
        temporal_maps(q, k, GRID, window=1)
    assert set(kept) == {(2, 24, 8), (2, 4, 8)}  # each head's queries and keys, no logits, no maps


def test_normalised_maps_have_maximum_one_without_a_gradient() -> None:
    maps = torch.rand(2, 3, *GRID, dtype=torch.float64, requires_grad=True)
    top = normalised(maps).amax((-3, -2, -1))
    assert torch.allclose(top, torch.ones_like(top), atol=1e-4)
    (gradient,) = torch.autograd.grad(normalised(maps).sum(), maps)
    expected = 1 / (maps.detach().amax((-3, -2, -1), keepdim=True) + 1e-6)
    assert torch.allclose(gradient, expected.expand_as(maps))


def test_mask_target_averages_what_a_token_covers() -> None:
    mask = torch.zeros(9, 32, 64, dtype=torch.uint8)
    mask[0, :16, :16] = 255
    mask[1:3, :16] = 255  # two of the four frames of latent frame 1
    mask[5:, 8:16, 48:] = 255
    target = mask_target(mask, (3, 2, 4))
    expected = torch.zeros(3, 2, 4)
    expected[0, 0, 0] = 1
    expected[1, 0] = 0.5
    expected[2, 0, 3] = 0.5
    assert torch.equal(target, expected)
    assert torch.equal(mask_target(mask[:1], (1, 2, 4)), expected[:1])
    with pytest.raises(CastmixError, match="mask of 8 frames does not fit 3 latent frames: expected 9"):
        mask_target(mask[:8], (3, 2, 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([(6,)], 6, GRID), "from 0 to 5"),
        (([()], 6, GRID), "a span holds"),
        (([], 6, GRID), "a span holds"),
        (([(0,)], 10, GRID), "real must be between 1 and the 9 tokens"),
        (([(0,)], 0, GRID), "real must be"),
        (([(0,)], 6, (3, 3, 3)), "got 24 tokens, expected 27 for the grid"),
    ],
)
def test_token_maps_refuse_wrong_arguments(arguments: Any, message: str) -> None:
    with pytest.raises(CastmixError, match=message):
        token_maps(*heads(columns=9), *arguments)


def test_temporal_maps_refuse_wrong_arguments() -> None:
    q, k = heads()
    with pytest.raises(CastmixError, match="sites must be between 0 and 7"):
        temporal_maps(q, k, GRID, sites=torch.tensor([8]))
    with pytest.raises(CastmixError, match="window must be 0 or more"):
        temporal_maps(q, k, GRID, window=-1)
